"""A SimCLR step with `large_batch` chunk or checkpoint beside the plain one: memory and seconds.

    python benchmarks/large_batch.py
    python benchmarks/large_batch.py --images 256 --repeats 5 --out out/large_batch.json

A small ResNet-18 on views of 24 pixels, with GroupNorm for BatchNorm, since chunk takes no batch statistics. Each run
of an arm is a process of its own, and the arms take turns; the losses of the first two steps must agree to 1e-4. The
memory is the process's peak over that of its imports. Expected: less than half of it with chunk, which hardly grows
with the images, for one more forward pass, a third more seconds. 5 minutes on 2 cores.
"""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfssl.benchmarking import compare, median, peak_rss, run_arms, show, step_seconds, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer

BACKBONE = {"stem_width": 16, "channels": [32, 64, 128, 256], "layers": [2, 2, 2, 2], "norm_layer": "groupnorm1"}


@dataclass
class BenchmarkArguments:
    images: int = field(default=128, metadata={"help": "In a batch; each has two views."})
    chunk: int = field(default=64, metadata={"help": "Views that the arm chunk encodes at a time."})
    steps: int = field(default=3, metadata={"help": "Timed steps of a run, after one that is not."})
    repeats: int = field(default=3, metadata={"help": "Rounds; the median counts."})
    arm: str | None = field(default=None, metadata={"help": "Run this arm here: none, chunk or checkpoint."})
    out: str = field(default="out/benchmarks/large_batch.json", metadata={"help": "The JSON file to write."})


def collate(items):
    return {"pixel_values": torch.stack([item["pixel_values"] for item in items])}


def measure(args: BenchmarkArguments) -> dict:
    """One arm in this process."""
    base = peak_rss()
    torch.manual_seed(0)
    data = [{"pixel_values": torch.randn(2, 3, 24, 24)} for _ in range(args.images)]
    config = SimCLRConfig(
        backbone="resnet10t", stem="cifar", backbone_kwargs=BACKBONE, image_size=24, projection_norm="layernorm"
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = PretrainingArguments(
            output_dir=folder, max_steps=args.steps + 1, per_device_train_batch_size=args.images, save_strategy="no",
            logging_steps=1, use_cpu=True, large_batch=args.arm, large_batch_chunk=args.chunk,
        )  # fmt: skip
        trainer = PretrainingTrainer(SimCLRForPreTraining(config), settings, data, data_collator=collate)
        seconds = step_seconds(trainer, warmup=1)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"memory MB": (peak_rss() - base) / 1e6, "seconds/step": median(seconds), "losses": losses[:2]}


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if args.arm:
        return print(json.dumps(measure(args)))
    flags = [part for name in ("images", "chunk", "steps") for part in (f"--{name}", getattr(args, name))]
    found = run_arms(
        {arm: [Path(__file__), *flags, "--arm", arm] for arm in ("none", "chunk", "checkpoint")}, args.repeats
    )
    losses = torch.tensor([run["losses"] for runs in found.values() for run in runs])
    assert torch.allclose(losses, losses[:1], rtol=0, atol=1e-4), f"the losses differ: {losses}"
    rows = []
    for arm in ("chunk", "checkpoint"):
        rows += compare({name: found[name] for name in (arm, "none")}, ["memory MB", "seconds/step"])
        show(rows[-2:], f"A SimCLR step, large_batch {arm}")
    write_json(args.out, rows, images=args.images, chunk=args.chunk)


if __name__ == "__main__":
    main()
