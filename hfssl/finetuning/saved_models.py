"""The task models that stay: of each task the best on dev, all, or none, as directories that from_pretrained loads."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hfssl.evaluation.tasks import Task
from hfssl.finetuning.heads import save_task_model

logger = logging.getLogger(__name__)

ABOUT = "hfssl_task.json"  # which task, seed and score; beside the weights
_KEPT = (
    "task", "seed", "trial", "score", "scores", "settings", "started_from", "head", "strategy", "strategy_options",
)  # fmt: skip


class SavedModels:
    """The folder ``models``: while jobs run, one folder a job; at the end, of the best, one a task.

    Args:
        keep: ``"best"``, ``"all"`` or ``"none"``.

    MNLI's best model is kept in any case, since other tasks start from it.
    """

    def __init__(self, folder: Path, keep: str):
        self.folder, self.keep = folder, keep

    def wanted(self, task: str) -> bool:
        return self.keep != "none" or task == "mnli"

    def save(
        self, model: PreTrainedModel, tokenizer, name: str, task: Task, record: Mapping[str, Any],
        earlier: Sequence[tuple[str, float]], planned: Sequence[str],
    ) -> None:  # fmt: skip
        """Saves a job's model, unless one of the task is better; drops those that no longer are the best.

        Args:
            earlier: names and scores of the task's jobs that are done.
            planned: names of all its jobs; of equally good ones the first of them is the best.
        """

        def rank(job: str, score: float) -> tuple[float, int]:
            return score, -planned.index(job)

        kept = [(other, score) for other, score in earlier if self.find(other) is not None]
        if self.keep != "all" and any(rank(*other) > rank(name, record["score"]) for other in kept):
            return
        staging = self.folder / f".{name}"
        shutil.rmtree(staging, ignore_errors=True)
        save_task_model(model, tokenizer, staging)
        about = {"job": name, **{key: record[key] for key in _KEPT if key in record}}
        (staging / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
        if self.keep != "all":
            for other, _ in kept:
                shutil.rmtree(self.find(other) or staging, ignore_errors=True)

    def find(self, name: str) -> Path | None:
        """The folder of a job's model, if it is there."""
        task = name.partition("-")[0]
        for folder in (self.folder / name, self.folder / task):
            if _job_of(folder) == name:
                return folder
        return None

    def finish(self, best: Mapping[str, str], planned: Mapping[str, Sequence[str]]) -> None:
        """Names the best job's folder after its task, and drops what two processes kept at the same time.

        Args:
            best: by task, the job's name.
            planned: by task, the names of all its jobs.
        """
        if self.keep == "all":
            return
        for task, name in best.items():
            if self.find(name) is None:  # gone, or made with --save_models none: what is there stays
                if self.keep != "none":
                    logger.warning("%s: the model of its best job %s is not in %s", task, name, self.folder)
                continue
            if _job_of(self.folder / name) == name:
                shutil.rmtree(self.folder / task, ignore_errors=True)
                (self.folder / name).rename(self.folder / task)
            for other in planned[task]:
                shutil.rmtree(self.folder / other, ignore_errors=True)


def _job_of(folder: Path) -> str | None:
    try:
        return json.loads((folder / ABOUT).read_text())["job"]
    except (OSError, ValueError, KeyError):
        return None
