"""CoLA, RTE and MRPC for one epoch, `hfssl glue`'s loop beside the plain way of run_glue.py (Trainer, padded to 128).

    python benchmarks/glue.py --out out/benchmarks/glue.json
    python benchmarks/glue.py --data_dir builtin:toyglue --repeats 3

A 4-layer BERT of width 256 with random weights, so the scores say only that both learn alike: batch size, updates and
settings are the same. Each arm is a process of glue_arm.py, in turns. Uses ../shared/data/glue where that is. Eight
minutes on two cores, most of it the plain arm's. Goals: >= 2.5 times faster, processed over real tokens <= 1.08.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hfssl.benchmarking import compare, median, print_table, run_arms, show, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import select_tasks
from hfssl.finetuning.builtin_models import make_bert

REAL = Path("../shared/data/glue")


@dataclass
class BenchmarkArguments:
    """What is compared."""

    tasks: str = field(default="cola,rte,mrpc", metadata={"help": "Tasks of GLUE."})
    data_dir: str | None = field(default=None, metadata={"help": "Where they are."})
    model: str | None = field(default=None, metadata={"help": "A folder, instead of the random BERT."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Of both arms."})
    rows: int = field(default=0, metadata={"help": "Of each train at most; 0: all."})
    repeats: int = field(default=1, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/glue.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    data = args.data_dir or (str(REAL) if REAL.is_dir() else "builtin:toyglue")
    tasks, model = select_tasks("glue", args.tasks), args.model
    if model is None:
        texts = (text for task in tasks for column in load_split(task, "train", data).texts for text in column)
        folder = Path(args.out).with_suffix("") / "bert"
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        model = make_bert(texts, folder, 8192, 256, num_hidden_layers=4, num_attention_heads=4)
    found, rows = {}, []
    for task in tasks:
        flags = ["--task", task.name, "--model", model, "--data_dir", data, "--rows", args.rows, "--epochs", 1]
        flags += ["--learning_rate", args.learning_rate, "--batch_size", 32, "--recipe", "bert"]
        arms = {arm: [Path(__file__).with_name("glue_arm.py"), "--arm", arm, *flags] for arm in ("plain", "hfssl")}
        found[task.name] = run_arms(arms, args.repeats)
        rows += compare(found[task.name], ("seconds", "updates"), f"{task.title}, ")
        write_json(args.out, rows, data=data)
    whole = {
        arm: [{"seconds": sum(found[name][arm][turn]["seconds"] for name in found)} for turn in range(args.repeats)]
        for arm in ("plain", "hfssl")
    }
    rows += compare(whole, ("seconds",), "all, ")
    show(rows, f"One epoch on {data}: plain, hfssl, plain over hfssl")
    lines = []
    for name, arms in found.items():
        scores = [f"{100 * median([run['score'] for run in arms[arm]]):.1f}" for arm in ("plain", "hfssl")]
        lines.append([name, *scores, f"{median([run['padding_ratio'] for run in arms['hfssl']]):.3f}"])
    print_table(["", "plain, score", "hfssl, score", "hfssl, processed over real tokens"], lines, "On dev")
    write_json(args.out, rows, data=data, runs=found)


if __name__ == "__main__":
    main()
