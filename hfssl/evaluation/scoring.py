"""From predictions to a task's official scores, by the task's row: which metrics, of which splits, and their mean."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hfssl.errors import InputError
from hfssl.evaluation.metrics import METRICS, problems
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task

# A prediction is a label string; for STS-B a float, for ReCoRD one of the entities.
Predictions = Sequence[str] | Sequence[float]


@dataclass(frozen=True)
class Scores:
    """Scores by name (fractions of 1) and what must be said beside them."""

    values: dict[str, float]
    flags: tuple[str, ...] = ()


def score_split(data: SplitData, predictions: Predictions) -> Scores:
    """The task's metrics on one split.

    Args:
        predictions: one for each row of `data`, in its order.

    Raises:
        InputError: another number of predictions, a prediction that is no label, or a split without labels.
    """
    task = data.task
    check_predictions(data, predictions)
    if (data.answers if task.kind == "entities" else data.labels) is None:
        raise InputError(f"{task.title} {data.split} has no labels: nothing to score")
    if task.kind == "regression":
        predictions = [float(value) for value in predictions]
    values = {name: _metric(name, data, predictions) for name in task.metrics}
    return Scores(values, tuple(problems(list(predictions), task.metrics)))


def _metric(name: str, data: SplitData, predictions: Predictions) -> float:
    function, task = METRICS[name], data.task
    if name in ("f1", "f1_a"):
        return function(predictions, data.labels, task.positive)
    if name == "macro_f1":
        return function(predictions, data.labels, task.labels)
    if name == "question_em":
        return function(predictions, data.labels, data.groups)
    if name in ("token_f1", "token_em"):
        return function(predictions, data.answers)
    if name == "gender_parity":
        return function(predictions, data.texts[1])
    return function(predictions, data.labels)


def check_predictions(data: SplitData, predictions: Predictions) -> None:
    """Raises InputError unless there is one prediction a row, each a label of the task (or a number, or a text)."""
    task = data.task
    if len(predictions) != len(data):
        raise InputError(f"{task.title} {data.split}: {len(predictions):,} predictions for {len(data):,} rows")
    kind = numbers.Real if task.kind == "regression" else str
    for row, value in enumerate(predictions):
        if not isinstance(value, kind) or isinstance(value, bool) or (task.labels and value not in task.labels):
            wanted = ", ".join(task.labels) or ("a number" if kind is numbers.Real else "a text")
            raise InputError(f"{task.title} {data.split}, row {row}: the prediction {value!r} is not one of: {wanted}")


def score_task(task: Task, splits: Mapping[str, SplitData], predictions: Mapping[str, Predictions]) -> Scores:
    """The task's scores by `Task.score_names`, of all its scored splits (both of MNLI's).

    Raises:
        InputError: as `score_split`, or a scored split is missing.
    """
    values: dict[str, float] = {}
    flags: list[str] = []
    for split in task.scored_splits:
        if split not in splits or split not in predictions:
            raise InputError(f"{task.title}: no predictions of {split}")
        scores = score_split(splits[split], predictions[split])
        values |= {task.score_name(name, split): value for name, value in scores.values.items()}
        flags += [f"{split}: {flag}" if len(task.scored_splits) > 1 else flag for flag in scores.flags]
    return Scores({name: values[name] for name in task.score_names}, tuple(flags))


def task_score(task: Task, values: Mapping[str, float]) -> float:
    """The one number that goes into the official average: the mean of the task's scores, MNLI's two sets included."""
    return sum(values[name] for name in task.score_names) / len(task.score_names)
