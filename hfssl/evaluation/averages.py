"""Averages over a suite, each under the name that says which it is.

official-9: GLUE's own. The mean over nine tasks of the mean of each one's scores; MNLI's two sets are one task, WNLI
counts, AX does not. Reproduced from published rows: tests/evaluation/test_averages.py.
dev-8-official: the same without WNLI, as T5's dev average groups it.
dev-8-roberta: eight tasks with one score each (MNLI matched, accuracy of MRPC and QQP, Pearson of STS-B), as RoBERTa's
and most later papers' tables.
superglue-8: SuperGLUE's own; AX-b and AX-g do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hfssl.evaluation.scoring import task_score
from hfssl.evaluation.tasks import Task, suite_tasks


@dataclass(frozen=True)
class Average:
    """One way to average: which tasks of which suite, and whether each counts with all its scores or its headline."""

    name: str
    suite: str
    without: tuple[str, ...] = ()
    headline_only: bool = False

    def tasks(self) -> list[Task]:
        return [
            task
            for task in suite_tasks(self.suite).values()
            if not task.is_diagnostic and task.name not in self.without
        ]


AVERAGES = {
    average.name: average
    for average in (
        Average("official-9", "glue"),
        Average("dev-8-official", "glue", ("wnli",)),
        Average("dev-8-roberta", "glue", ("wnli",), headline_only=True),
        Average("superglue-8", "superglue"),
    )
}


@dataclass(frozen=True)
class AverageScore:
    """An average, or the tasks that are missing for it: a part of a suite has no average under the suite's name."""

    name: str
    value: float | None
    missing: tuple[str, ...] = ()


def suite_average(name: str, scores: Mapping[str, Mapping[str, float]]) -> AverageScore:
    """One of `AVERAGES`.

    Args:
        scores: for each task by name, its scores by `Task.score_names`, all in one unit.
    """
    average = AVERAGES[name]
    values, missing = [], []
    for task in average.tasks():
        given = scores.get(task.name, {})
        wanted = (task.headline,) if average.headline_only else task.score_names
        if any(score not in given for score in wanted):
            missing.append(task.name)
        else:
            values.append(given[task.headline] if average.headline_only else task_score(task, given))
    value = None if missing else sum(values) / len(values)
    return AverageScore(name, value, tuple(missing))


def suite_averages(suite: str, scores: Mapping[str, Mapping[str, float]]) -> dict[str, AverageScore]:
    """Every average of a suite by name."""
    return {name: suite_average(name, scores) for name, average in AVERAGES.items() if average.suite == suite}
