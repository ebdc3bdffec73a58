"""A training step: hfssl's model in its PretrainingTrainer beside the stock model in transformers' Trainer.

    python benchmarks/text_step.py
    python benchmarks/text_step.py --models gpt --repeats 5 --out out/gpt_step.json

BERT: width 256, 4 layers, 30,522 entries, 32 blocks of 128. GPT: the same, 50,257 entries, 8 blocks of 256. The arms
are processes of text_arm.py, which take turns. The losses of one batch must agree to 1e-4. Goals on 2 cores: at most
1/1.45 = 0.69 of stock's seconds a step for both, and for GPT at most half of its peak memory. Either arm has the same
imports, near a gigabyte; the memory without them is shown too.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hfssl.benchmarking import compare, run_arms, show, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input


@dataclass
class BenchmarkArguments:
    models: list[str] = field(default_factory=lambda: ["bert", "gpt"], metadata={"help": "Of those of text_arm.py."})
    steps: int = field(default=6, metadata={"help": "Steps of a run that count, after three that do not."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/text_step.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    rows, losses = [], {}
    for model in args.models:
        program = [Path(__file__).with_name("text_arm.py"), "--model", model, "--steps", args.steps]
        results = run_arms({arm: [*program, "--arm", arm] for arm in ("hfssl", "stock")}, args.repeats)
        rows += compare(results, ["seconds/step", "memory MB", "without imports MB"], f"{model}: ")
        losses[model] = [run["loss"] for runs in results.values() for run in runs]
        assert max(losses[model]) - min(losses[model]) < 1e-4, f"{model}: the losses of one batch differ"
    show(rows, "A training step")
    write_json(args.out, rows, steps=args.steps, losses=losses)


if __name__ == "__main__":
    main()
