"""Two ways to train compared over seeds: Student's t on the differences of pairs, a bootstrap over items beside it.

A pair is what two arms made of one pretraining seed. The t test asks whether other seeds would say the same, the
bootstrap whether other items would. A difference counts where both do: scores of few items are coarse, and a few seeds
may agree by that alone, which no t test of theirs can see.

Student 1908; Holm 1979; Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hfssl.evaluation.significance import CONFIDENCE, DRAWS, LEVEL, Runs, distinct_items, holm, interval, task_items
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
_NO_SPREAD = 1e-9  # of differences in points that are the same but for the last bits


@dataclass(frozen=True)
class PairedComparison:
    """One arm less another, in points of 100.

    Attributes:
        differences: one for each pair.
        low, high: Student's 95 % interval of their mean.
        p, corrected_p: of the two-sided t test, before and after Holm's correction for the family of comparisons.
        items_low, items_high: the 95 % bootstrap interval of the mean over items, the seeds as they are.
    """

    differences: tuple[float, ...]
    low: float
    high: float
    p: float
    corrected_p: float
    items_low: float
    items_high: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    @property
    def verdict(self) -> str:
        """Whether the first arm is better: `SUPPORTED`; worse: `NOT_SUPPORTED`; or not known: `INCONCLUSIVE`."""
        if self.corrected_p < LEVEL and self.mean > 0 and self.items_low > 0:
            return SUPPORTED
        if self.corrected_p < LEVEL and self.mean < 0 and self.items_high < 0:
            return NOT_SUPPORTED
        return INCONCLUSIVE


def paired_t(differences: Sequence[float]) -> tuple[float, float, float]:
    """The two-sided p of Student's t test that their mean is 0, and the ends of the mean's 95 % interval.

    Differences without any spread have p = 0, or 1 if they are 0.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(differences) < 2:
        raise ValueError(f"a t test needs two differences at least, not {len(differences)}")
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread < _NO_SPREAD:
        return float(abs(mean) < _NO_SPREAD), mean, mean
    error, freedom = spread / math.sqrt(len(differences)), len(differences) - 1
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return float(2 * stats.t.sf(abs(mean) / error, freedom)), mean - half, mean + half


def bootstrap_difference(
    task: Task, splits: Mapping[str, SplitData], first: Mapping[str, Runs], second: Mapping[str, Runs],
    draws: int = DRAWS, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Bootstrap draws (draws,) of the first arm's task score less the second's, each the mean over its runs.

    Both arms are scored on the same drawn items; their runs stay as they are.

    Args:
        splits: the task's scored splits.
        first, second: by split, the predictions of each run.

    Raises:
        InputError: predictions that do not fit.
    """
    rng = np.random.default_rng(seed)
    difference = np.zeros(draws)
    for split in task.scored_splits:
        count = len(first[split])
        items = task_items(splits[split], [*first[split], *second[split]])
        patterns, occurrences = distinct_items(items.sums)
        total = int(occurrences.sum())
        weights = rng.multinomial(total, occurrences / total, size=draws)  # (B, P)
        for values in items.scores(patterns, weights).values():  # (B, runs of both)
            difference += (values[:, :count].mean(1) - values[:, count:].mean(1)) / len(task.score_names)
    return difference


def compare_pairs(pairs: Mapping[str, tuple[Sequence[float], np.ndarray]]) -> dict[str, PairedComparison]:
    """A family of comparisons, corrected for their number.

    Args:
        pairs: by name, the difference of each pair, and bootstrap draws over items of their mean; both in points.
    """
    tests = [paired_t(differences) for differences, _ in pairs.values()]
    corrected = holm([p for p, _, _ in tests])
    found = {}
    for (name, (differences, draws)), (p, low, high), adjusted in zip(pairs.items(), tests, corrected, strict=True):
        items = interval(draws)
        found[name] = PairedComparison(tuple(differences), low, high, p, adjusted, items.low, items.high)
    return found


def joint_verdict(verdicts: Iterable[str]) -> str:
    """Of a family: what those say that say something, if all of them say the same; else `INCONCLUSIVE`."""
    said = set(verdicts) - {INCONCLUSIVE}
    return said.pop() if len(said) == 1 else INCONCLUSIVE
