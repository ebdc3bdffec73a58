"""A whole SimCLR step from encoded images to the update: the PretrainingTrainer beside lightly's parts in a plain loop.

    python benchmarks/simclr_step.py
    python benchmarks/simclr_step.py --backbone resnet10t --batch_size 64 --steps 4

ResNet-18 with CIFAR's stem, 32 x 32, 256 images (512 views), AdamW, float32. Both read the same JPEG images of parquet
with as many workers: ours decodes them once and augments batches, theirs is lightly's SimCLRTransform image by image,
its head and its NTXentLoss on the same encoder. Ours has channels-last weights and a fused AdamW; a plain loop has
neither, the arm "lightly, tuned" both. Each run is a process of its own; a step is from one update to the next. Needs
lightly; 10 minutes on 2 cores. Goal: 1.3 times the plain loop. On a CPU most of a step is the encoder's.
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from hfssl.benchmarking import compare, median, run_arms, show, step_seconds, write_json
from hfssl.benchmarking_vision import LightlyViews, lightly_step_seconds, photographs, simclr_trainer, write_jpeg
from hfssl.config import parse_config
from hfssl.data.images import load_images
from hfssl.errors import exits_on_bad_input

PEERS = ("lightly", "lightly, tuned")


@dataclass
class BenchmarkArguments:
    backbone: str = field(default="resnet18", metadata={"help": "Of timm."})
    batch_size: int = field(default=256, metadata={"help": "Images of a batch; each has two views."})
    workers: int = field(default=2, metadata={"help": "Processes that load the images."})
    steps: int = field(default=3, metadata={"help": "Steps of a run that count, after two that do not."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    arm: str | None = field(default=None, metadata={"help": "Run this arm here."})
    data: str | None = field(default=None, metadata={"help": "Parquet with JPEG images, for an arm."})
    out: str = field(default="out/benchmarks/simclr_step.json", metadata={"help": "The JSON file to write."})


def measure(args, folder: str) -> dict[str, float]:
    """One arm in this process."""
    model = {"backbone": args.backbone, "stem": "cifar", "image_size": 32, "logit_temperature": 0.5}
    common, warmup = {"steps": args.steps, "workers": args.workers}, 2
    if args.arm != "hfssl":
        views, common["tuned"] = LightlyViews(args.data, 32, 0.5, blur=False), args.arm == PEERS[1]
        return {"s/step": median(lightly_step_seconds(views, model, args.batch_size, warmup=warmup, lr=1e-3, **common))}
    trainer = simclr_trainer(
        folder, load_images(args.data), model, per_device_train_batch_size=args.batch_size, learning_rate=1e-3,
        max_steps=args.steps + warmup, dataloader_num_workers=args.workers, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    seconds = median(step_seconds(trainer, warmup))
    views = torch.randn(args.batch_size, 2, 3, 32, 32, device=trainer.args.device)
    began = time.perf_counter()
    trainer.model(views).loss.backward()
    return {"s/step": seconds, "encoder s/step": time.perf_counter() - began}


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.arm:
            return print(json.dumps(measure(args, folder)))
        data = Path(folder) / "images.parquet"
        write_jpeg(data, photographs(max(2048, 2 * args.batch_size), 32))
        flags = [f"--{name}={value}" for name, value in asdict(args).items() if name not in ("arm", "data", "out")]
        program = [Path(__file__), *flags, "--data", data, "--arm"]
        results = run_arms({arm: [*program, arm] for arm in ("hfssl", *PEERS)}, args.repeats)
    rows = [row for peer in PEERS for row in compare({arm: results[arm] for arm in ("hfssl", peer)}, ["s/step"])]
    for row in rows:
        show([row], f"{args.backbone}, {args.batch_size} images: {1 / row['ratio']:.2f} times the speed")
    encoder = median([run["encoder s/step"] for run in results["hfssl"]])
    print(f"Of ours forward and backward alone take {encoder:.2f} s")
    write_json(args.out, rows, batch_size=args.batch_size, workers=args.workers, encoder=encoder)


if __name__ == "__main__":
    main()
