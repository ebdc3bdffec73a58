"""NT-Xent, forward and backward: hfssl's beside lightly's NTXentLoss. The extra peak memory and the seconds.

    python benchmarks/nt_xent.py
    python benchmarks/nt_xent.py --pairs 1024 --repeats 3 --out out/nt_xent.json

B pairs of embeddings with D = 128, t = 0.1, float32; the losses must agree to 1e-5. Each run of an arm is a process of
its own, and the arms take turns. The extra memory is the most that is held in its calls over what was held before, the
gradients of the embeddings included; the seconds are the median of all calls but the first. Needs lightly
(`pip install lightly`), 4 minutes on 2 cores. Goal: at B = 4096 at most 80 MiB (lightly: 1,090), and not slower.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfssl.benchmarking import compare, median, peak_rss, run_arms, show, write_json
from hfssl.config import parse_config
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.models import NTXentLoss

RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass
class BenchmarkArguments:
    pairs: list[int] = field(default_factory=lambda: [1024, 2048, 4096], metadata={"help": "B, the pairs of a batch."})
    calls: int = field(default=3, metadata={"help": "Timed calls of a run."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    arm: str | None = field(default=None, metadata={"help": "Run this arm here: hfssl or lightly."})
    out: str = field(default="out/benchmarks/nt_xent.json", metadata={"help": "The JSON file to write."})


def measure(arm: str, pairs: int, calls: int) -> dict[str, float]:
    """One arm in this process."""
    if arm == "lightly":
        try:
            from lightly.loss import NTXentLoss as Loss
        except ImportError:
            raise InputError("this arm needs lightly; run: pip install lightly") from None
    loss = (NTXentLoss if arm == "hfssl" else Loss)(temperature=0.1)
    torch.manual_seed(0)
    z = [torch.randn(pairs, 128, requires_grad=True) for _ in range(2)]
    seconds = []

    def call() -> float:
        began, z[0].grad, z[1].grad = time.perf_counter(), None, None
        value = loss(*z)
        value.backward()
        seconds.append(time.perf_counter() - began)
        return value.item()

    loss(*(each[:8] for each in z)).backward()  # what the libraries set up once
    if RESET_PEAK.exists():  # on Linux
        RESET_PEAK.write_text("5")
    before = peak_rss()
    values = [call() for _ in range(1 + calls)]
    return {"extra MiB": (peak_rss() - before) / 2**20, "seconds": median(seconds[1:]), "loss": values[0]}


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if args.arm:
        return print(json.dumps(measure(args.arm, args.pairs[0], args.calls)))
    rows = []
    for pairs in args.pairs:
        program = [Path(__file__), "--pairs", pairs, "--calls", args.calls, "--arm"]
        results = run_arms({arm: [*program, arm] for arm in ("hfssl", "lightly")}, args.repeats)
        losses = [run["loss"] for runs in results.values() for run in runs]
        assert max(losses) - min(losses) < 1e-5 * max(losses), f"B = {pairs}: the losses differ: {losses}"
        rows += compare(results, ["extra MiB", "seconds"], f"B = {pairs}: ")
    show(rows, "NT-Xent, forward and backward")
    write_json(args.out, rows, calls=args.calls)


if __name__ == "__main__":
    main()
