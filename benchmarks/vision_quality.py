"""What SimCLR and CPC learn on two CPU cores, beside lightly's SimCLR, supervised training, a random init and pixels.

    python benchmarks/vision_quality.py --train_file TRAIN.parquet --test_file TEST.parquet --out out/vision_quality

Each method's command with recipes/*_tiny_cpu.yaml, once a seed, one thread each, two at a time; then `hfssl probe`. The
same command does what is missing. Supervised training and lightly have SimCLR's net, steps, batch. An hour on CIFAR-10.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from hfssl.benchmarking import print_table, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input

ROOT, ONE_THREAD = Path(__file__).resolve().parent.parent, os.environ | {"OMP_NUM_THREADS": "1"}
TRAINING = {
    "simclr": ("recipes/pretrain_simclr.py", "recipes/simclr_tiny_cpu.yaml"),
    "cpc": ("recipes/pretrain_cpc.py", "recipes/cpc_tiny_cpu.yaml"),
    "lightly": ("benchmarks/simclr_quality.py", "recipes/simclr_tiny_cpu.yaml"),
}


@dataclass
class QualityArguments:
    train_file: str = field(metadata={"help": "The training images, such as CIFAR-10's as parquet."})
    test_file: str = field(metadata={"help": "The test images."})
    seeds: int = field(default=3, metadata={"help": "Of the pretraining."})
    steps: int = field(default=1000, metadata={"help": "Of the supervised training; those of the SimCLR recipe."})
    out: str = field(default="out/vision_quality", metadata={"help": "The folder for all of it."})


def probed(method: str, seed: int, args: QualityArguments) -> list[dict]:
    """The probe's rows of one method and seed, made if they are not there."""
    out, name = Path(args.out), f"{method}-{seed}"
    probe, model = [ROOT / "eval/run_probe.py", "--anchors=false", "--seeds=1", f"--out={out}/probe-{name}"], out / name
    probe += [f"--train_file={args.train_file}", f"--test_file={args.test_file}"]
    commands = [[*probe, f"--model={model if method in TRAINING else 'pixels'}"]]
    if method in TRAINING and not (model / "model.safetensors").exists():
        flags = [f"--image_path={args.train_file}", f"--seed={seed}", f"--output_dir={model}"]
        commands.insert(0, [ROOT / TRAINING[method][0], "--config", ROOT / TRAINING[method][1], *flags])
    elif method == "supervised":
        flags = [f"--supervised_steps={args.steps}", f"--supervised_seed={seed}", f"--random_seed={seed}"]
        commands = [[*probe, f"--model=random:{out}/simclr-0", "--finetune_batch_size=256", *flags]]
    if not (out / f"probe-{name}" / "results.json").exists():
        with open(out / f"{name}.log", "a") as log:
            for command in commands:
                subprocess.run([sys.executable, *command], env=ONE_THREAD, stdout=log, stderr=log, check=True)
    return json.loads((out / f"probe-{name}" / "results.json").read_text())["rows"]


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(QualityArguments, argv=argv)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    seeds, found = range(args.seeds), defaultdict(list)
    first = [(method, seed) for seed in seeds for method in TRAINING]  # the others take the first one's architecture
    jobs = [*first, *(("supervised", seed) for seed in seeds), ("pixels", 0)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: probed(*job, args), first))
        results += pool.map(lambda job: probed(*job, args), jobs[len(first) :])
        for (method, _), rows in zip(jobs, results, strict=True):
            for row in rows:
                of = "random init" if row["encoder"].startswith("random") else method
                found[of, row["protocol"], row["labels"]].append(100 * row["accuracy"])
    lines = [[*key, f"{mean(each):.1f}", f"{stdev(each):.1f}" if len(each) > 1 else ""] for key, each in found.items()]
    print_table(["", "probe", "labels", "% right", "deviation"], lines, "Frozen features")
    rows = [{"of": of, "probe": probe, "labels": n, "accuracies": each} for (of, probe, n), each in found.items()]
    write_json(f"{args.out}/quality.json", rows, seeds=args.seeds)


if __name__ == "__main__":
    main()
