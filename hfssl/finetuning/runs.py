"""Runs that are done: a job with its record, the logits that it left, and those of other folders as an ensemble's."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.errors import InputError
from hfssl.evaluation.results import ModelResult, find_results
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.plan import SHARED, Job
from hfssl.finetuning.recipes import Settings
from hfssl.finetuning.word_vectors import FOLDER
from hfssl.training.ledger import Ledger

Run = tuple[Job, dict[str, Any]]  # a job and its record


def best_run(runs: list[Run]) -> Run:
    """The one with the best score on dev; of equals the first."""
    return max(runs, key=lambda run: run[1]["score"])


def write_logits(folder: Path, logits: dict[str, np.ndarray]) -> None:
    """The file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".predictions.{os.getpid()}.npz"
    np.savez_compressed(staging, **logits)
    staging.replace(folder / "predictions.npz")


def read_logits(out: Path, name: str) -> dict[str, np.ndarray]:
    """The logits of a job by split.

    Raises:
        InputError: they are gone.
    """
    path = out / "jobs" / name / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {split: file[split] for split in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"cannot read {path}: {error}; delete its line in {out / 'ledger.jsonl'} to do that job again"
        ) from error


def check_folder(out: Path, suite: str) -> None:
    """Raises InputError for a file, and for a folder of something else than this suite's results."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    others = [name for name in ("glue", "superglue") if name != suite and (out / f"{name}_dev.json").exists()]
    if others:
        raise InputError(f"{out} holds results of {others[0]}; give {suite} another --out")
    ours = ("ledger.jsonl", f"{suite}_dev.json", "builtin-", ".builtin-", FOLDER, f".{FOLDER}")
    if not any(path.name.startswith(ours) for path in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no results of hfssl {suite}; give another --out")


@dataclass(frozen=True)
class Members:
    """The runs that an ensemble is of.

    Attributes:
        runs: by task.
        folders: by the job's name, where `hfssl glue` wrote it.
        shared: the records of the shared stages that they started from, each once.
        notes: what must be said of them.
    """

    runs: dict[str, list[Run]]
    folders: dict[str, Path]
    shared: list[dict[str, Any]]
    notes: list[str]


def read_members(
    folders: Sequence[str], suite: str, tasks: Sequence[Task], data: Mapping[str, Mapping[str, SplitData]]
) -> Members:  # fmt: skip
    """All runs that the results in some folders are of.

    Args:
        tasks: which must be in each of them.
        data: by task its splits; the runs must have been trained and scored on them.

    Raises:
        InputError: no result, of another suite, of an ensemble, without a task or its runs, on other data; a run
            twice.
    """
    runs: dict[str, list[Run]] = {task.name: [] for task in tasks}
    places: dict[str, Path] = {}
    shared: dict[str, dict[str, Any]] = {}
    notes = []
    for folder in map(Path, folders):
        result, records = _result_of(folder, suite), Ledger(folder / "ledger.jsonl").results()
        for task in tasks:
            found = result.tasks.get(task.name)
            if found is None:
                raise InputError(f"{folder} has no result of {task.title}, which --tasks asks for")
            for split, rows in data[task.name].items():
                if not split.startswith("test") and found.data.get(split) != rows.fingerprint():
                    raise InputError(f"{folder} is of other rows of {task.title} {split} than {rows.source} has")
            if short := found.cut_short():
                notes.append(f"{folder}: {task.title}: {short}")
            if not (names := found.settings.get("jobs", [])):
                raise InputError(f"{folder} trained nothing for {task.title}: it has no member to average")
            for name in names:
                if name in places:
                    raise InputError(f"{places[name]} and {folder} hold the same run {name}: an ensemble has it once")
                if name not in records:
                    raise InputError(f"{folder / 'ledger.jsonl'} has no job {name}: it cannot be averaged")
                places[name] = folder
                runs[task.name].append((_job(task, name, records[name]), records[name]))
                start = records[name].get("start", "")
                if records.get(start, {}).get("task") == SHARED:
                    shared[start] = records[start]
    return Members(runs, places, list(shared.values()), notes)


def _result_of(folder: Path, suite: str) -> ModelResult:
    if not folder.is_dir():
        raise InputError(f"no such folder: {str(folder)!r}; --ensemble_of takes what hfssl {suite} wrote with --out")
    found = [result for result in find_results([folder]) if result.part == "dev"]
    if len(found) != 1 or found[0].suite != suite:
        raise InputError(f"{folder} holds no one dev result of {suite}")
    if found[0].kind == "ensemble":
        raise InputError(f"{folder} holds an ensemble; name the folders of its members")
    return found[0]


def _job(task: Task, name: str, record: Mapping[str, Any]) -> Job:
    settings = Settings(**record["settings"])
    return Job(
        task, record["seed"], record["trial"], settings, "", record["started_from"], name, 0.0, record["updates"]
    )
