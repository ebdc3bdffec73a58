"""`hfssl compare A B`: two results on the same dev rows, task by task, with a paired test and Holm's correction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from hfssl.errors import InputError
from hfssl.evaluation.results import ModelResult, find_results
from hfssl.evaluation.significance import LEVEL, PERMUTATIONS, Comparison, compare
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import Task, suite_tasks
from hfssl.finetuning.outcome import FORMAT


def compare_folders(
    first: str | Path, second: str | Path, data_dir: str | None = None, permutations: int = PERMUTATIONS
) -> tuple[tuple[str, str], list[Comparison], list[str]]:
    """Compares what `hfssl glue` or `hfssl superglue` wrote into two folders, on every task that both have.

    Args:
        data_dir: where the data is, by default where the first run had it.

    Returns:
        What to call the two, a comparison for each task, and what must be said of the data.

    Raises:
        InputError: no result, no task in common, or other dev rows in one than in the other.
    """
    folders = (Path(first), Path(second))
    if folders[0].resolve() == folders[1].resolve():
        raise InputError(f"{first} and {second} are one folder; hfssl compare takes two")
    results = [_only_result(folder) for folder in folders]
    if results[0].suite != results[1].suite:
        raise InputError(f"{first} is {results[0].suite}, {second} is {results[1].suite}")
    known = suite_tasks(results[0].suite)
    shared = [name for name in known if name in results[0].tasks and name in results[1].tasks]
    tasks = {}
    for name in shared:
        one, other = (_read_predictions(folder, known[name]) for folder in folders)
        source = data_dir or results[0].tasks[name].settings.get("data_dir", "hub")
        splits = {split: load_split(known[name], split, source) for split in known[name].scored_splits}
        if any(data.labels is None and data.answers is None for data in splits.values()):
            continue  # AX, labelled by a file that the run was given
        _check_same(known[name], splits, {str(folders[0]): one, str(folders[1]): other})
        tasks[known[name].title] = (known[name], splits, one["predictions"], other["predictions"])
    if not tasks:
        raise InputError(f"{first} and {second} have no scored task in common")
    names = tuple(result.title for result in results)
    if names[0] == names[1]:
        names = (str(first), str(second))
    said = dict.fromkeys(f"{title}: {note}" for title, (_, splits, *_) in tasks.items() for note in _notes(splits))
    for title, (task, _, *runs) in tasks.items():
        counts = [len(each[task.scored_splits[0]]) for each in runs]
        if counts[0] != counts[1]:
            have = f"{first} has {counts[0]}, {second} has {counts[1]}"
            said[f"{title}: by the first {min(counts)} of the seeds, since {have}"] = None
        starts = [result.tasks[task.name].started_from or "the model itself" for result in results]
        if starts[0] != starts[1]:
            said[f"{title}: started from {starts[0]} and from {starts[1]}"] = None
        if differ := _differences(*(result.tasks[task.name].settings for result in results)):
            said[f"{title}: other settings: {differ}"] = None
    return names, compare(tasks, permutations), list(said)


def _notes(splits: dict[str, SplitData]) -> list[str]:
    return [data.note for data in splits.values() if data.note]


def _differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What the two were fine-tuned with where it is not the same."""
    own = {"data_dir", "jobs", "trial", "head", "last_epoch_score"}  # of a run, or no setting of the training
    keys = [key for key in one if key in other and key not in own and one[key] != other[key]]
    return ", ".join(f"{key} {_shown(one[key])} and {_shown(other[key])}" for key in keys)


def _shown(value: Any) -> str:
    """A setting; of strategies' options each as it is given on the command line."""
    if not isinstance(value, dict):
        return str(value)
    given = [f"{name}.{key}={each}" for name, options in value.items() for key, each in options.items()]
    return " ".join(given) or "none"


def _only_result(folder: Path) -> ModelResult:
    if not folder.is_dir():
        raise InputError(f"no such folder: {str(folder)!r}; hfssl compare takes what hfssl glue wrote with --out")
    found = [result for result in find_results([folder]) if result.part == "dev"]
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} dev results, not one")
    return found[0]


def _read_predictions(folder: Path, task: Task) -> dict[str, Any]:
    path = folder / "predictions" / f"{task.name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the dev predictions {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("task") != task.key:
        raise InputError(f"{path} holds no dev predictions of {task.title}")
    found = content.get("predictions")
    whole = isinstance(content.get("data"), dict) and isinstance(found, dict) and set(found) == set(task.scored_splits)
    if not whole or not all(isinstance(seeds, list) and seeds and all(isinstance(one, list) for one in seeds)
                            for seeds in found.values()):  # fmt: skip
        raise InputError(f"{path} is damaged: it must hold the predictions of each split, of one seed at least")
    return content


def _check_same(task: Task, splits: dict[str, SplitData], given: dict[str, dict[str, Any]]) -> None:
    for split, data in splits.items():
        for folder, content in given.items():
            if content["data"].get(split) != data.fingerprint():
                raise InputError(f"{folder} was scored on other rows of {task.title} {split} than {data.source} has")


def comparison_table(names: tuple[str, str], found: list[Comparison], notes: Sequence[str] = ()) -> Table:
    """The comparisons as a table of rich, and each in words below it, with what must be said of the data."""
    table = Table(title=f"{escape(names[0])} minus {escape(names[1])}", title_justify="left", caption_justify="left")
    for name in ("task", "difference", "p", "p (Holm)", "verdict"):
        table.add_column(name, justify="left" if name in ("task", "verdict") else "right")
    for one in found:
        better = "not distinguishable"
        if one.distinguishable:
            better = f"{escape(names[0] if one.difference > 0 else names[1])} is better"
        table.add_row(one.task, f"{one.difference:+.1f}", f"{one.p:.4f}", f"{one.corrected_p:.4f}", better)
    table.caption = (
        "Points of 100, means over the seeds that both have; paired permutation test over rows; "
        f"{LEVEL:g} after Holm's correction for {len(found)} task{'s' * (len(found) > 1)}"
    )
    table.caption += escape("".join(f"\n{note}" for note in notes))
    return table
