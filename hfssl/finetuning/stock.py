"""The plain way of transformers' run_glue.py, for benchmarks to put beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import Trainer, TrainingArguments, default_data_collator

from hfssl.evaluation.scoring import score_task, task_score
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.batches import make_targets
from hfssl.finetuning.heads import Head, load_model
from hfssl.finetuning.loop import decode
from hfssl.finetuning.sources import Source


def stock_fine_tune(
    source: Source,
    task: Task,
    splits: Mapping[str, SplitData],
    head: Head,
    args: TrainingArguments,
    length: int = 128,
) -> dict[str, Any]:
    """Every text padded to `length` by `datasets.map`, in transformers' Trainer, in random order; scored on dev.

    Args:
        task: one whose rows are one or two texts.

    Returns:
        "updates", "score" (the task's, of 1) and "train_seconds", as in the record of `fine_tune`.
    """

    def prepared(data: SplitData) -> Dataset:
        def pad(rows):
            texts = [rows[name] for name in task.columns]
            return source.tokenizer(*texts, padding="max_length", max_length=length, truncation=True)

        columns = dict(zip(task.columns, data.texts, strict=True))
        table = Dataset.from_dict({**columns, "labels": make_targets(data, head.order)})
        return table.map(pad, batched=True, remove_columns=list(columns))

    model, train = load_model(source, task, head, args.seed), prepared(splits["train"])
    trainer = Trainer(model, args, train_dataset=train, data_collator=default_data_collator)
    seconds = trainer.train().metrics["train_runtime"]
    said = {split: trainer.predict(prepared(splits[split])).predictions for split in task.dev_splits}
    scores = score_task(task, splits, {split: decode(splits[split], said[split], head.order) for split in said})
    score = task_score(task, scores.values)
    return {"updates": trainer.state.global_step, "score": score, "train_seconds": seconds}
