"""Which jobs a suite is made of: one for each task, seed and trial, each named by all that decides its result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hfssl.errors import InputError
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task, suite_tasks
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.encoding import VERSION
from hfssl.finetuning.recipes import Settings
from hfssl.finetuning.sources import Source

SHARED = "multitask"  # the first word of the names of shared stages

# What of the loop's arguments decides a result, beside the settings that stand in the job.
_DECIDES = (
    "max_steps", "gradient_accumulation_steps", "max_length", "freeze_encoder", "new_head", "selection", "precision",
    "torch_compile", "bucket_batches",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One fine-tuning.

    Attributes:
        trial: 0 is the recipe's own settings; others are points of the grid.
        start: the folder, or the job, of the model that it starts from; empty for the model itself.
        started_from: what that model was fine-tuned on, with which seed.
        name: of its line in the ledger and its folder.
        cost: about proportional to its time.
        updates: how many its training has (of ReCoRD at most: it leaves out rows without anything right).
    """

    task: Task
    seed: int
    trial: int
    settings: Settings
    start: str
    started_from: str
    name: str
    cost: float
    updates: int

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.task.title}, seed {self.seed}" + (f", trial {self.trial}" if self.trial else "")


def make_job(
    task: Task, seed: int, trial: int, settings: Settings, source: Source, splits: Mapping[str, SplitData],
    loop: LoopArguments, start: tuple[str, str, str] = ("", "", ""),
) -> Job:  # fmt: skip
    """A job with its name.

    Args:
        start: the folder, or the job, of the model to start from, what that was fine-tuned on, and what it is
            identified by.
    """
    decides = {
        "task": task.key, "version": task.version, "encoding": VERSION, "seed": seed, "settings": asdict(settings),
        "model": source.fingerprint, "start": start[2],
        "data": {name: split.fingerprint() for name, split in sorted(splits.items())},
        "loop": {name: getattr(loop, name) for name in _DECIDES},
    }  # fmt: skip
    if options := loop.make_strategy().training.for_task(task).options:
        decides["strategy"] = options
    shown = f"-trial{trial}" if trial else ""
    train = splits["train"]
    characters = sum(len(text) for column in train.texts for text in column)
    steps = loop.max_steps * settings.batch_size / max(len(train), 1) if loop.max_steps > 0 else settings.epochs
    name = f"{task.name}-seed{seed}{shown}-{_digest(decides)}"
    updates = loop.max_steps if loop.max_steps > 0 else whole_updates(settings, len(train))
    return Job(task, seed, trial, settings, start[0], start[1], name, characters * steps, updates)


def shared_job(
    seed: int, settings: Settings, source: Source, data: Mapping[str, Mapping[str, SplitData]], loop: LoopArguments
) -> str:  # fmt: skip
    """The name of the shared stage of several tasks with one seed.

    Args:
        data: by task, its splits.
    """
    decides = {
        "encoding": VERSION, "seed": seed, "settings": asdict(settings), "model": source.fingerprint,
        "data": {name: [splits["train"].task.version, splits["train"].fingerprint()] for name, splits in data.items()},
        "loop": {name: getattr(loop, name) for name in _DECIDES}, "strategy": loop.make_strategy().training.options,
    }  # fmt: skip
    return f"{SHARED}-seed{seed}-{_digest(decides)}"


def _digest(decides: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=4).hexdigest()


def whole_updates(settings: Settings, rows: int) -> int:
    """How many updates the settings' epochs over so many rows are."""
    return math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))


def trained_tasks(suite: str, tasks: list[Task], wnli: str) -> list[Task]:
    """The tasks that have a model of their own.

    Raises:
        InputError: a diagnostic set is asked for without the task whose model predicts it.
    """
    names = {task.name for task in tasks}
    for task in tasks:
        if task.is_diagnostic and task.model_of not in names:
            title = suite_tasks(suite)[task.model_of].title
            raise InputError(f"{task.title} is predicted by {title}'s model: add {task.model_of} to --tasks")
    return [task for task in tasks if not task.is_diagnostic and not (task.name == "wnli" and wnli == "majority")]
