"""One GPU: GPT-2 124M and BERT-base in bf16, hfssl beside the stock Trainer, compiled and not.

    python benchmarks/gpu_text.py --out out/gpu_text.json
    python benchmarks/gpu_text.py --smoke    # toy sizes on a CPU, not compiled

The peak of a large matrix product comes first; MFU is the share of it (the JSON has the peak). The arms are processes
of text_arm.py, the most telling first; ranges are over stretches of 10 steps. Within 8 minutes: what does not fit in
the budget is skipped, and said so; --models takes the rest in another call. The JSON is written after each arm. Goals
on an H200: GPT-2 >= 463,000 tokens/s (405,000 at least), BERT 550,000 at T = 128 and 450,000 at 512, all >= 2.5 times
stock's, which is not compiled.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfssl.benchmarking import figure, print_table, run_arm, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.training.throughput import matmul_peak


@dataclass
class BenchmarkArguments:
    models: list[str] | None = field(default=None, metadata={"help": "Of gpt2, bert-base-128, bert-base-512: all."})
    budget: float = field(default=450, metadata={"help": "Seconds for all arms."})
    repeats: int = field(default=5, metadata={"help": "Stretches of 10 steps; the median counts."})
    smoke: bool = field(default=False, metadata={"help": "Toy sizes on a CPU."})
    out: str = field(default="out/benchmarks/gpu_text.json", metadata={"help": "The JSON file to write."})


def measure(args, model, arm, compiled, left, peak):
    """One arm: its row, also if it failed or there was no time for it."""
    row = {"model": model, "arm": arm, "compiled": compiled}
    if left < 20:  # seconds: an arm takes as long only to start
        return row | {"missing": f"skipped, {max(left, 0):.0f} s of the budget were left"}
    flags = ["--model", model, "--arm", arm, "--steps", args.repeats * 10, "--every", 10]
    flags += ["--bf16", not args.smoke, "--torch_compile", compiled]
    try:
        run = run_arm([Path(__file__).with_name("text_arm.py"), *flags], limit=left)
    except RuntimeError as error:
        return row | {"missing": str(error)}
    rate = spread(run["tokens/s"])
    return row | {"tokens/s": rate, "mfu": rate["median"] * run["flops"] / peak, "memory GB": run["memory MB"] / 1e3}


@exits_on_bad_input
def main(argv=None):
    began = time.perf_counter()
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if not args.smoke and not torch.cuda.is_available():
        raise InputError("no GPU here; --smoke runs toy sizes on the CPU")
    device, dtype = ("cpu", torch.float32) if args.smoke else ("cuda", torch.bfloat16)
    peak, name = matmul_peak(device, dtype), "CPU" if args.smoke else torch.cuda.get_device_name()
    print(f"{name}: {peak / 1e12:.4g} TFLOP/s in a matrix product")
    models = args.models or (["toy-gpt", "toy-bert"] if args.smoke else ["gpt2", "bert-base-128", "bert-base-512"])
    ways = [("hfssl", True), ("stock", False), ("hfssl", False), ("stock", True)]  # the goals need the first two
    lines, rows = [], []
    for arm, compiled in [way for way in ways if not (args.smoke and way[1])]:
        for model in models:
            rows.append(measure(args, model, arm, compiled, args.budget - (time.perf_counter() - began), peak))
            write_json(args.out, rows, device=name, peak=peak)
            print(f"{time.perf_counter() - began:.0f} s: {model}, {arm}, {'compiled' if compiled else 'not compiled'}")
    stock = {row["model"]: row for row in rows if (row["arm"], row["compiled"]) == ("stock", False)}
    for row in sorted(rows, key=lambda row: models.index(row["model"])):
        lines.append([row["model"], row["arm"] + ", compiled" * row["compiled"], row.get("missing", "")])
        if "missing" not in row:
            base = stock[row["model"]].get("tokens/s")
            ratio = f"{row['tokens/s']['median'] / base['median']:.2f}" if base else ""
            lines[-1][2:] = [figure(row["tokens/s"]), ratio, f"{row['mfu']:.1%}", f"{row['memory GB']:.1f}"]
    print_table(["model", "arm", "tokens/s", "ratio", "MFU", "memory GB"], lines, name)


if __name__ == "__main__":
    main()
