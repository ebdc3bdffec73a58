"""The baselines of baselines.py on a suite, as results like any model's: the floor that every table shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hfssl import __version__
from hfssl.evaluation.baselines import BASELINES, MAX_ROWS, Predict
from hfssl.evaluation.results import ModelResult, TaskResult
from hfssl.evaluation.scoring import score_task
from hfssl.evaluation.significance import bootstrap_task, interval
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import Task, suite_tasks

PROTOCOL = {
    "most frequent": "The most frequent label of train (STS-B: the mean; ReCoRD: the entity that the passage has most "
    "often); scored on dev. No seeds: one value.",
    "TF-IDF": f"TF-IDF of words and pairs of words with logistic regression (STS-B: ridge), on at most {MAX_ROWS:,} "
    "rows of train; C (of ridge: 1 / alpha) 1, 10 or 100 by a held-out tenth of train; scored on dev. AX, "
    "AX-b and AX-g by the model of MNLI or RTE.",
}


def baseline_results(
    suite: str,
    source: str,
    tasks: Sequence[Task],
    names: Sequence[str] = tuple(BASELINES),
    say: Callable[[str], None] = lambda line: None,
) -> list[ModelResult]:
    """Each baseline's result on the tasks' scored splits.

    Args:
        source: of the data, as `load_split` takes it.
        say: is told of each task when it is done.

    Raises:
        InputError: as `load_split`; a diagnostic set without labels is left out.
    """
    results = {name: ModelResult(name, suite, "dev", {}, PROTOCOL[name], kind="baseline") for name in names}
    for task in tasks:
        splits = _scored_splits(task, source)
        if not splits:
            continue
        trained = suite_tasks(suite)[task.model_of or task.name]
        train = load_split(trained, "train", source)
        for name, result in results.items():
            result.tasks[task.name] = _score(task, splits, train, BASELINES[name](train), name == "most frequent")
            result.synthetic = train.synthetic
            result.versions = {"hfssl": __version__}
            scores = ", ".join(f"{key} {value:.1f}" for key, value in result.tasks[task.name].median().items())
            say(f"{task.title}, {name}: {scores}")
    return [result for result in results.values() if result.tasks]


def _scored_splits(task: Task, source: str) -> dict[str, SplitData]:
    """What is scored, or nothing for a diagnostic set that is not there or has no labels (AX)."""
    splits = {split: load_split(task, split, source, required=not task.is_diagnostic) for split in task.scored_splits}
    labelled = all(data is not None and (data.labels or data.answers) for data in splits.values())
    return splits if labelled or not task.is_diagnostic else {}


def _score(task: Task, splits: dict[str, SplitData], train: SplitData, predict: Predict, constant: bool) -> TaskResult:
    predictions = {split: predict(data) for split, data in splits.items()}
    scores = score_task(task, splits, predictions)
    draws = bootstrap_task(task, splits, {split: [found] for split, found in predictions.items()})
    parts = [f"{data.split}: {data.part}, {len(data):,} rows" for data in (train, *splits.values()) if data.part]
    return TaskResult(
        scores={name: [100 * value] for name, value in scores.values.items()},
        seeds=[0],
        rows={split: len(data) for split, data in splits.items()},
        task_version=task.version,
        intervals={name: [100 * end for end in _ends(values)] for name, values in draws.items()},
        part="; ".join(parts),
        flags=[] if constant else list(scores.flags),
        data={"train": train.fingerprint(), **{split: data.fingerprint() for split, data in splits.items()}},
    )


def _ends(draws) -> tuple[float, float]:
    found = interval(draws)
    return found.low, found.high
