"""How sure a score is, and whether two models differ: bootstrap over items and seeds, paired permutation, Holm.

Every metric but Spearman's is a function of sums over items (MultiRC: questions; AX-g: pairs), so drawing items anew is
drawing how often each distinct item occurs, from a multinomial law, and exchanging two models' predictions is a
binomial one. Both are exact and need no loop over items. Spearman's ranks are computed anew in each draw.

Efron & Tibshirani 1993, chapters 13 and 15; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfssl.errors import InputError
from hfssl.evaluation.metrics import normalized, token_em, token_f1
from hfssl.evaluation.scoring import Predictions, check_predictions
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task

Runs = Sequence[Predictions]  # one sequence of predictions for each seed
Finish = Callable[[np.ndarray], np.ndarray]  # sums (..., d) -> scores (...)

DRAWS, PERMUTATIONS = 2000, 5000
CONFIDENCE = 0.95
LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """A score's mean over seeds and the middle `CONFIDENCE` of its bootstrap distribution, in the score's unit."""

    low: float
    high: float


def bootstrap_task(
    task: Task, splits: Mapping[str, SplitData], runs: Mapping[str, Runs], draws: int = DRAWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Bootstrap draws of each of the task's scores, and of their mean under ``"score"``; each array is (draws,).

    Each draw takes items and seeds with replacement; a score of several seeds is their mean. All scores of a split come
    from the same items, all splits from the same seeds.

    Args:
        splits: the task's scored splits.
        runs: by split, the predictions of each seed.

    Raises:
        InputError: predictions that do not fit, or another number of seeds on one split than on another.
    """
    rng = np.random.default_rng(seed)
    counts = {split: len(runs[split]) for split in task.scored_splits}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise InputError(f"{task.title}: as many seeds are needed on each split, there are {counts}")
    seeds = next(iter(counts.values()))
    picked = rng.integers(seeds, size=(draws, seeds))  # (B, S)
    scores = {}
    for split in task.scored_splits:
        items = task_items(splits[split], runs[split])
        patterns, occurrences = distinct_items(items.sums)
        total = int(occurrences.sum())
        weights = rng.multinomial(total, occurrences / total, size=draws)  # (B, P)
        for metric, values in items.scores(patterns, weights).items():  # (B, S)
            scores[task.score_name(metric, split)] = np.take_along_axis(values, picked, axis=1).mean(axis=1)
    scores = {name: scores[name] for name in task.score_names}
    return scores | {"score": np.mean(list(scores.values()), axis=0)}


def interval(draws: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of bootstrap draws (B,)."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def bootstrap_share(right: int, total: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Bootstrap draws (draws,) of the share of `right` ones among `total` items."""
    return np.random.default_rng(seed).binomial(total, right / total, size=draws) / total


def bootstrap_spearman(found: np.ndarray, truth: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Bootstrap draws (draws,) of Spearman's correlation of two arrays (N,), over their N pairs."""
    patterns, occurrences = distinct_items(np.stack([found, truth], axis=1)[:, None].astype(float))  # (P, 1, 2)
    total = len(found)
    weights = np.random.default_rng(seed).multinomial(total, occurrences / total, size=draws)  # (B, P)
    return _spearman(patterns, weights)[:, 0]


def bootstrap_sums(sums: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The sums over items that are drawn anew with replacement: draws of any score that is a function of sums.

    The same seed and number of items draw the same items, so that two models' draws can be subtracted.

    Args:
        sums: (N, d), what each item adds; items that depend on each other are added up before (`group_sums`).

    Returns:
        (draws, d).
    """
    rng, size = np.random.default_rng(seed), len(sums)
    found = np.empty((draws, sums.shape[1]))
    for draw in range(draws):  # one at a time: draws * N numbers need not be held
        found[draw] = np.bincount(rng.integers(size, size=size), minlength=size) @ sums
    return found


def group_sums(rows: np.ndarray, groups: Sequence) -> np.ndarray:
    """The sums of rows (N, d) over each group, (groups, d): what depends on each other is drawn as one."""
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def paired_permutation(
    task: Task,
    splits: Mapping[str, SplitData],
    first: Mapping[str, Runs],
    second: Mapping[str, Runs],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> tuple[float, float]:
    """The difference of two models' task scores (first less second, means over seeds) and its two-sided p-value.

    Under the null hypothesis the two models' predictions of an item can be exchanged; an item's seeds are exchanged
    together. With different numbers of seeds the first ones of both are used. Scores are exchanged as z-values of their
    run: correlations do not heed a run's scale, but a mixture of two scales would be of neither model.

    Raises:
        InputError: predictions that do not fit.
    """
    rng = np.random.default_rng(seed)
    observed, null = 0.0, np.zeros(permutations)
    for split in task.scored_splits:
        seeds = min(len(first[split]), len(second[split]))
        runs = ([_without_scale(task, run) for run in model[split][:seeds]] for model in (first, second))
        one, other = (task_items(splits[split], each) for each in runs)
        patterns, occurrences = distinct_items(np.stack([one.sums, other.sums], axis=1))  # (P, 2, S, d)
        swapped = rng.binomial(occurrences, 0.5, size=(permutations, len(occurrences)))  # (B, P)
        swapped = np.concatenate([np.zeros_like(swapped[:1]), swapped])  # the first is what was observed
        both = np.concatenate([patterns[:, 0], patterns[:, 1]])  # (2P, S, d)
        kept = occurrences - swapped
        ones = one.scores(both, np.concatenate([kept, swapped], axis=1))
        others = one.scores(both, np.concatenate([swapped, kept], axis=1))
        for metric in ones:
            difference = (ones[metric] - others[metric]).mean(axis=1) / len(task.score_names)
            observed += difference[0]
            null = null + difference[1:]
    extreme = np.sum(np.abs(null) >= abs(observed) - 1e-12)
    return float(observed), float((extreme + 1) / (permutations + 1))


def _without_scale(task: Task, predictions: Predictions) -> Predictions:
    """Scores less their mean in multiples of their deviation; of other tasks, and if there is none, as they are."""
    if task.kind != "regression":
        return predictions
    values = np.asarray(predictions, dtype=float)
    deviation = values.std()
    return ((values - values.mean()) / deviation).tolist() if deviation > 0 else predictions


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: step-down, monotone, at most 1 (Holm 1979)."""
    order = np.argsort(p_values)
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


@dataclass(frozen=True)
class Comparison:
    """Two models on one task. `difference` is the first's score less the second's, in points of 100."""

    task: str
    difference: float
    p: float
    corrected_p: float

    @property
    def distinguishable(self) -> bool:
        return self.corrected_p < LEVEL

    def sentence(self, first: str, second: str) -> str:
        """What the test says, plainly."""
        numbers = f"{self.difference:+.1f} points, p = {self.corrected_p:.3f} after Holm's correction"
        if not self.distinguishable:
            return f"{self.task}: {first} and {second} are not distinguishable ({numbers})"
        better, worse = (first, second) if self.difference > 0 else (second, first)
        return f"{self.task}: {better} is better than {worse} ({numbers})"


def compare(
    tasks: Mapping[str, tuple[Task, Mapping[str, SplitData], Mapping[str, Runs], Mapping[str, Runs]]],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Comparison]:
    """Two models on several tasks, corrected for their number.

    Args:
        tasks: by name, the task, its splits, and by split the first and the second model's predictions of each seed.
    """
    found = [paired_permutation(*task, permutations=permutations, seed=seed) for task in tasks.values()]
    corrected = holm([p for _, p in found])
    return [
        Comparison(name, 100 * difference, p, adjusted)
        for name, (difference, p), adjusted in zip(tasks, found, corrected, strict=True)
    ]


@dataclass(frozen=True)
class Items:
    """What the scores of one split are made of.

    Attributes:
        sums: (N, S, d) for N items and S seeds; a row's columns are those of each metric in turn.
        parts: by metric its columns and how their sums become a score; None for Spearman's ranks.
    """

    sums: np.ndarray
    parts: dict[str, tuple[slice, Finish | None]]

    def scores(self, patterns: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric's score (B, S) where pattern p (P, S, d) occurs weights[b, p] times."""
        totals = np.tensordot(weights.astype(float), patterns, axes=1)  # (B, S, d)
        found = {}
        for metric, (columns, finish) in self.parts.items():
            found[metric] = (
                _spearman(patterns[..., columns], weights) if finish is None else finish(totals[..., columns])
            )
        return found


def distinct_items(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items (P, S, d) of (N, S, d), and how often each occurs (P,)."""
    flat, counts = np.unique(sums.reshape(len(sums), -1), axis=0, return_counts=True)
    return flat.reshape(-1, *sums.shape[1:]), counts


def task_items(data: SplitData, runs: Runs) -> Items:
    """What each item of a split adds to the scores of each run.

    Raises:
        InputError: predictions that do not fit.
    """
    for predictions in runs:
        check_predictions(data, predictions)
    units = _units(data)
    columns: list[np.ndarray] = []
    parts: dict[str, tuple[slice, Finish | None]] = {}
    start = 0
    for metric in data.task.metrics:
        finish, per_seed = None, []
        for predictions in runs:
            rows, finish = _ROWS[metric](data, predictions)  # (rows, d)
            grouped = np.zeros((units.max() + 1, rows.shape[1]))
            np.add.at(grouped, units, rows)
            if metric in ("question_em", "gender_parity"):  # right only if all of the group is
                grouped = np.stack([grouped[:, 0] == grouped[:, 1], np.ones(len(grouped))], axis=1)
            per_seed.append(grouped)
        columns.append(np.stack(per_seed, axis=1))
        parts[metric] = (slice(start, start := start + columns[-1].shape[2]), finish)
    return Items(np.concatenate(columns, axis=2).astype(float), parts)


def _units(data: SplitData) -> np.ndarray:
    """Of each row, the number of what is drawn as one: a question, a pair, or the row itself."""
    if "gender_parity" in data.task.metrics:
        return np.arange(len(data)) // 2
    if data.task.kind == "answers":
        return np.unique(np.array(data.groups), axis=0, return_inverse=True)[1].reshape(-1)
    return np.arange(len(data))


def _share(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _accuracy(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    right = [p == r for p, r in zip(predictions, data.labels, strict=True)]
    return np.stack([right, np.ones(len(right))], axis=1), _share


def _f1(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    positive = data.task.positive
    p, r = (np.array([label == positive for label in labels]) for labels in (predictions, data.labels))
    return np.stack([p & r, p ^ r], axis=1), lambda sums: _ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1])


def _cells(data: SplitData, predictions: Predictions) -> np.ndarray:
    """(rows, K * K) with a one in the cell (truth, prediction)."""
    index = {label: number for number, label in enumerate(data.task.labels)}
    truth, found = (np.array([index[label] for label in labels]) for labels in (data.labels, predictions))
    return np.eye(len(index) ** 2)[truth * len(index) + found]


def _square(sums: np.ndarray) -> np.ndarray:
    size = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], size, size)


def _macro_f1(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    def finish(sums: np.ndarray) -> np.ndarray:
        table = _square(sums)
        right = np.diagonal(table, axis1=-2, axis2=-1)
        return _ratio(2 * right, table.sum(-1) + table.sum(-2)).mean(axis=-1)

    return _cells(data, predictions), finish


def _matthews(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    def finish(sums: np.ndarray) -> np.ndarray:
        table = _square(sums)
        truth, found, total = table.sum(-1), table.sum(-2), table.sum((-1, -2))
        covariance = np.trace(table, axis1=-2, axis2=-1) * total - (truth * found).sum(-1)
        spread = (total**2 - (truth**2).sum(-1)) * (total**2 - (found**2).sum(-1))
        return _ratio(covariance, np.sqrt(spread))

    return _cells(data, predictions), finish


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """0 where the score is not defined, as in metrics.py."""
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)


def _pearson(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    x, y = np.asarray(predictions, float), np.asarray(data.labels, float)
    x = np.where(np.isfinite(x), x, 0.0)

    def finish(sums: np.ndarray) -> np.ndarray:
        n, sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        spread = np.maximum(n * sxx - sx**2, 0) * np.maximum(n * syy - sy**2, 0)
        return np.where(spread > 1e-9 * n**4, _ratio(n * sxy - sx * sy, np.sqrt(spread)), 0.0)

    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1), finish


def _ranked(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, None]:
    x = np.asarray(predictions, float)
    return np.stack([np.where(np.isfinite(x), x, 0.0), np.asarray(data.labels, float)], axis=1), None


def _spearman(patterns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores (B, S) from patterns (P, S, 2) of prediction and truth, each `weights[b, p]` times."""
    scores = np.zeros((len(weights), patterns.shape[1]))
    for start in range(0, len(weights), 256):  # draws at a time: 256 * P numbers
        w = weights[start : start + 256].astype(float)
        middle = (w.sum(axis=1, keepdims=True) + 1) / 2
        truth = _ranks(patterns[:, 0, 1], w) - middle
        for run in range(patterns.shape[1]):
            found = _ranks(patterns[:, run, 0], w) - middle
            spread = np.sqrt((w * found**2).sum(1) * (w * truth**2).sum(1))
            scores[start : start + 256, run] = _ratio((w * found * truth).sum(1), spread)
    return scores


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mid-rank (B, P) of each value where value p occurs `weights[b, p]` times."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    times = np.add.reduceat(weights[:, order], starts, axis=1)  # (B, distinct)
    return (times.cumsum(axis=1) - times + (times + 1) / 2)[:, place]


def _question_em(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    rows, finish = _accuracy(data, predictions)
    return rows, finish  # of a group: answers judged rightly, answers


def _gender_parity(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
    same = np.repeat([a == b for a, b in zip(predictions[::2], predictions[1::2], strict=True)], 2)
    return np.stack([same, np.ones(len(same))], axis=1), _share


def _token(function) -> Callable[[SplitData, Predictions], tuple[np.ndarray, Finish]]:
    def rows(data: SplitData, predictions: Predictions) -> tuple[np.ndarray, Finish]:
        values = [function([normalized(p)], [golds]) for p, golds in zip(predictions, data.answers, strict=True)]
        return np.stack([values, np.ones(len(values))], axis=1), _share

    return rows


_ROWS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_a": _f1,
    "macro_f1": _macro_f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _ranked,
    "question_em": _question_em,
    "gender_parity": _gender_parity,
    "token_f1": _token(token_f1),
    "token_em": _token(token_em),
}
