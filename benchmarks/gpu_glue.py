"""One GPU: GLUE's tasks at hand with a BERT of base size in bf16, `hfssl glue`'s loop beside the plain way.

    python benchmarks/gpu_glue.py --data_dir ../shared/data/glue --out out/benchmarks/gpu_glue.json
    python benchmarks/gpu_glue.py --smoke    # a toy BERT on builtin:toyglue, few updates, on a CPU

One seed, one epoch of every task, random weights (or --model). The arms are processes of glue_arm.py: hfssl on whole
tasks; plain (padded to 128) and hfssl compiled for so many updates, the ratio is of seconds an update. Within 9
minutes: what does not fit into the budget is skipped, and said so. The JSON is written after each arm. No goal but
faster: at batches of 32 a GPU waits for its kernels' launches, so that less padding alone saves little.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfssl.benchmarking import print_table, run_arm, write_json
from hfssl.config import parse_config
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import select_tasks
from hfssl.finetuning.builtin_models import make_bert

WAYS = {"hfssl": ["--arm", "hfssl"], "plain": ["--arm", "plain"],
        "compiled": ["--arm", "hfssl", "--torch_compile", "True"]}  # fmt: skip


@dataclass
class BenchmarkArguments:
    """What is measured."""

    data_dir: str = field(default="builtin:toyglue", metadata={"help": "Where the tasks are."})
    tasks: str = field(default="rte,mrpc,cola,stsb,qnli,mnli,qqp,sst2", metadata={"help": "Tasks of GLUE."})
    model: str | None = field(default=None, metadata={"help": "A folder, instead of the random BERT."})
    updates: int = field(default=150, metadata={"help": "Of the arms that do not run a whole task."})
    budget: float = field(default=500, metadata={"help": "Seconds for all arms."})
    smoke: bool = field(default=False, metadata={"help": "Toy sizes on a CPU."})
    out: str = field(default="out/benchmarks/gpu_glue.json", metadata={"help": "The JSON file to write."})


def prepare(args, tasks):
    """The folder of a random BERT: base, or a toy."""
    texts = (text for task in tasks for column in load_split(task, "train", args.data_dir).texts for text in column)
    folder = Path(args.out).with_suffix("") / "bert"
    folder.parent.mkdir(parents=True, exist_ok=True)
    layers, width, heads, words = (1, 32, 2, 600) if args.smoke else (12, 768, 12, 30522)
    return make_bert(texts, folder, words, width, num_hidden_layers=layers, num_attention_heads=heads)


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if not args.smoke and not torch.cuda.is_available():
        raise InputError("no GPU here; --smoke runs toy sizes on the CPU")
    began, rows, tasks, lines = time.perf_counter(), [], select_tasks("glue", args.tasks), []
    model = args.model or prepare(args, tasks)
    for way, flags in list(WAYS.items())[: 2 if args.smoke else 3]:
        for task in tasks:
            common = ["--task", task.name, "--model", model, "--data_dir", args.data_dir, "--recipe", "bert"]
            steps = ["--max_steps", 3 if args.smoke else args.updates] if args.smoke or way != "hfssl" else []
            left = args.budget - (time.perf_counter() - began)
            row, arm = {"task": task.title, "arm": way}, Path(__file__).with_name("glue_arm.py")
            try:
                if left < 20:
                    raise RuntimeError(f"skipped, {max(left, 0):.0f} s of the budget were left")
                rows.append(row | run_arm([arm, *flags, *common, "--epochs", 1, *steps], limit=left))
            except RuntimeError as error:
                rows.append(row | {"missing": str(error)})
            write_json(args.out, rows, data=args.data_dir)
    for row in rows:
        lines.append([row["task"], row["arm"], row.get("missing", "")])
        if "missing" not in row:
            pace = 1e3 * row["train_seconds"] / row["updates"]
            lines[-1][2:] = [f"{row['seconds']:.1f}", str(row["updates"]), f"{pace:.1f}", f"{100 * row['score']:.1f}"]
    print_table(["task", "arm", "s", "updates", "ms an update", "score"], lines, args.data_dir)


if __name__ == "__main__":
    main()
