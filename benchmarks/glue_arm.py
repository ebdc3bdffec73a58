"""One arm of glue.py and gpu_glue.py, in a process of its own: fine-tunes one model on one task and prints JSON.

    python benchmarks/glue_arm.py --task rte --arm plain --model out/benchmarks/glue/bert --data_dir builtin:toyglue

plain: as run_glue.py, every text padded to 128 by `datasets.map`, in transformers' Trainer. hfssl: `fine_tune`. The
weights, settings and batch size are the same; the clock runs from the texts to the dev score.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass, field

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import select_tasks
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import choose_head
from hfssl.finetuning.loop import fine_tune, training_arguments
from hfssl.finetuning.recipes import find_recipe
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.stock import stock_fine_tune

KEPT = ("updates", "score", "train_seconds", "padding_ratio")


@dataclass
class ArmArguments:
    model: str = field(metadata={"help": "A folder."})
    task: str = field(metadata={"help": "A task of GLUE."})
    arm: str = field(metadata={"help": "Whose way.", "choices": ["plain", "hfssl"]})
    data_dir: str = field(default="builtin:toyglue", metadata={"help": "Where the tasks are."})
    rows: int = field(default=0, metadata={"help": "Of train at most; 0: all."})


@exits_on_bad_input
def main(argv=None):
    args, loop = parse_config(ArmArguments, LoopArguments, argv=argv)
    (task,), source = select_tasks("glue", args.task), open_source(args.model)
    splits = {split: load_split(task, split, args.data_dir) for split in ("train", *task.dev_splits)}
    if args.rows:
        splits["train"] = splits["train"].select(range(min(args.rows, len(splits["train"]))), "a benchmark's part")
    settings = find_recipe(loop.recipe, "bert")[1].settings(task, **loop.changes)
    head = choose_head(source, task)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HFSSL_CACHE"] = folder  # nothing is tokenised before
        began = time.perf_counter()
        if args.arm == "plain":
            training = training_arguments(settings, loop, 0, folder)
            record = stock_fine_tune(source, task, splits, head, training)
        else:
            encoder = TaskEncoder(source.tokenizer, 128, source.takes_types)
            record = fine_tune(source, task, splits, encoder, head, settings, loop, 0, folder).record
        found = {"seconds": time.perf_counter() - began}
    print(json.dumps(found | {name: record.get(name) for name in KEPT}))


if __name__ == "__main__":
    main()
