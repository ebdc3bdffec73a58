"""Several models' predictions of the same rows as one model's: the mean of their probabilities, or of their ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, logsumexp
from scipy.stats import rankdata

from hfssl.errors import InputError
from hfssl.evaluation.rendering import SCORED_KINDS, candidate_rows
from hfssl.evaluation.task_data import SplitData

AVERAGES = ("mean", "ranks")


def in_order(logits: np.ndarray, order: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Logits (R, C) of classes in one order in another.

    Raises:
        InputError: other classes.
    """
    if sorted(order) != sorted(wanted):
        raise InputError(f"classes {', '.join(order)} cannot be averaged with {', '.join(wanted)}")
    return logits if tuple(order) == tuple(wanted) else logits[:, [list(order).index(name) for name in wanted]]


def combine(data: SplitData, members: Sequence[np.ndarray], average: str = "mean") -> np.ndarray:
    """What an ensemble says of a split, in the form of one model's logits.

    ``"mean"``: the logarithm of the mean of the members' probabilities, of a row's classes or of an item's candidates;
    of scores their mean. ``"ranks"``: of a row's classes or an item's candidates the mean of their ranks, which for
    two classes is the majority's vote; equal ones are told apart by the mean probability. Of scores each member ranks
    the rows; the mean rank is read as a score on the mean of the members' sorted scores, so that the scale stays.

    Args:
        members: the logits of each, (R, C), of the same rows and classes.

    Returns:
        (R, C); of one member its own.

    Raises:
        InputError: the members have different shapes.
    """
    shapes = {member.shape for member in members}
    if len(shapes) != 1:
        raise InputError(f"{data.task.title} {data.split}: predictions of shapes {shapes} cannot be averaged")
    if len(members) == 1:
        return members[0]
    stacked = np.stack(members).astype(np.float64)  # (M, R, C)
    if data.task.kind == "regression":
        return _scores(stacked[..., 0], average)[:, None]
    if data.task.kind not in SCORED_KINDS:
        return _choices(stacked, average)
    counts = np.bincount(candidate_rows(data).row, minlength=len(data))
    items = np.split(stacked[..., 0], np.cumsum(counts)[:-1], axis=1)  # of each item (M, K)
    return np.concatenate([_choices(item[:, None], average)[0] for item in items])[:, None]


def _choices(logits: np.ndarray, average: str) -> np.ndarray:
    """(M, R, C) to (R, C)."""
    with np.errstate(invalid="ignore"):  # a row of -inf, which has no answer, gives no class any probability
        each = np.nan_to_num(log_softmax(logits, axis=-1), nan=-np.inf, neginf=-np.inf)
    mean = logsumexp(each, axis=0) - np.log(len(logits))
    if average == "mean":
        return mean
    silent = np.isneginf(each).all(axis=-1, keepdims=True)  # (M, R, 1): it has no vote
    votes = np.where(silent, 0, rankdata(each, axis=-1)).sum(axis=0)  # (R, C)
    breaks_ties = rankdata(mean, axis=-1) / (4 * mean.shape[-1])  # ranks differ by a half at least
    return np.where(silent.all(axis=0), -np.inf, votes + breaks_ties)


def _scores(scores: np.ndarray, average: str) -> np.ndarray:
    """(M, R) to (R,)."""
    if average == "mean":
        return scores.mean(axis=0)
    ranks = rankdata(scores, axis=1).mean(axis=0)
    return np.interp(ranks, np.arange(1, scores.shape[1] + 1), np.sort(scores, axis=1).mean(axis=0))
