"""GLUE's and SuperGLUE's official metrics as pure functions on scikit-learn and scipy. Fractions of 1, not percent.

This file imports nothing of hfssl: the `evaluate` modules beside it take it along to the Hub. Labels are anything that
can be compared: strings here, integers in those modules.

Where a metric is not defined (constant predictions, NaN) it is 0, never an error, and `problems` says so in words.
"""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def accuracy(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> float:
    _check(predictions, references)
    return float(metrics.accuracy_score(references, predictions))


def f1(predictions: Sequence[Hashable], references: Sequence[Hashable], positive: Hashable) -> float:
    """F1 of the positive class; 0 if it is neither predicted nor true."""
    _check(predictions, references)
    # pos_label must occur for scikit-learn's binary average; as `labels` it need not.
    scores = metrics.f1_score(references, predictions, labels=[positive], average=None, zero_division=0)
    return float(scores[0])


def macro_f1(predictions: Sequence[Hashable], references: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """The unweighted mean of each class's F1 over all of `labels`, whether or not they occur (CB)."""
    _check(predictions, references)
    return float(metrics.f1_score(references, predictions, labels=list(labels), average="macro", zero_division=0))


def matthews_correlation(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> float:
    """Matthews's correlation; with more than two classes R_K (Gorodkin 2004), which is AX's R3."""
    _check(predictions, references)
    return float(metrics.matthews_corrcoef(references, predictions))


def pearson(predictions: Sequence[float], references: Sequence[float]) -> float:
    return _correlation(stats.pearsonr, predictions, references)


def spearmanr(predictions: Sequence[float], references: Sequence[float]) -> float:
    return _correlation(stats.spearmanr, predictions, references)


def _correlation(function, predictions: Sequence[float], references: Sequence[float]) -> float:
    _check(predictions, references)
    x, y = np.asarray(predictions, float), np.asarray(references, float)
    if len(x) < 2 or not np.isfinite(x).all():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input: `problems` says it
        value = float(function(x, y)[0])
    return 0.0 if math.isnan(value) else value


def f1_a(predictions: Sequence[Hashable], references: Sequence[Hashable], positive: Hashable) -> float:
    """MultiRC's F1a: F1 over all answers of all questions. (F1m, the mean over questions, is not on the board.)"""
    return f1(predictions, references, positive)


def question_em(predictions: Sequence[Hashable], references: Sequence[Hashable], groups: Sequence[Hashable]) -> float:
    """MultiRC's EM: the share of questions with every answer judged rightly, whatever the order of the rows.

    Args:
        groups: of each answer, its (paragraph, question): questions are numbered anew in some copies of the data.
    """
    _check(predictions, references)
    _check(groups, references)
    right: dict[Hashable, bool] = {}
    for prediction, reference, group in zip(predictions, references, groups, strict=True):
        right[group] = right.get(group, True) and prediction == reference
    return sum(right.values()) / len(right)


def token_f1(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """ReCoRD's F1: of the words that prediction and answer share, the best over a query's answers, then the mean."""
    _check(predictions, answers)
    return float(np.mean([_best(_word_overlap, text, golds) for text, golds in zip(predictions, answers, strict=True)]))


def token_em(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """ReCoRD's EM: the share of queries whose prediction is one of the answers after normalisation."""
    _check(predictions, answers)
    return float(np.mean([_best(_same, text, golds) for text, golds in zip(predictions, answers, strict=True)]))


def _best(function, prediction: str, golds: Sequence[str]) -> float:
    return max((function(normalized(prediction), normalized(gold)) for gold in golds), default=0.0)


def _same(prediction: str, gold: str) -> float:
    return float(prediction == gold)


def _word_overlap(prediction: str, gold: str) -> float:
    first, second = prediction.split(), gold.split()
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def normalized(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def gender_parity(predictions: Sequence[Hashable], hypotheses: Sequence[str] | None = None) -> float:
    """AX-g: the share of minimal pairs, rows 2k and 2k + 1, that are given the same prediction.

    Args:
        hypotheses: of each row; a pair has one in common.

    Raises:
        ValueError: an odd number of rows, or two rows that are no pair.
    """
    if not len(predictions) or len(predictions) % 2:
        raise ValueError(f"{len(predictions)} rows: AX-g is pairs")
    if hypotheses is not None:
        apart = [row for row in range(0, len(hypotheses), 2) if hypotheses[row] != hypotheses[row + 1]]
        if apart:
            raise ValueError(f"rows {apart[0]} and {apart[0] + 1} are no pair: their hypotheses differ")
    first, second = predictions[::2], predictions[1::2]
    return sum(one == other for one, other in zip(first, second, strict=True)) / len(first)


METRICS = {
    function.__name__: function
    for function in (
        accuracy, f1, macro_f1, matthews_correlation, pearson, spearmanr, f1_a, question_em, token_f1, token_em,
        gender_parity,
    )
}  # fmt: skip

CORRELATIONS = {"matthews_correlation", "pearson", "spearmanr"}


def problems(predictions: Sequence[Hashable], metrics: Collection[str] = ()) -> list[str]:
    """What a table must say beside a score: constant or undefined predictions, for which correlations count as 0.

    Args:
        metrics: names of the task's; that of correlations is said where one is among them.
    """
    zero = "; correlations count as 0" if CORRELATIONS & set(metrics) else ""
    numbers = [value for value in predictions if isinstance(value, float)]
    bad = sum(not math.isfinite(value) for value in numbers)
    if bad:
        return [f"{bad} of {len(predictions)} predictions are not finite{zero}"]
    if len(predictions) > 1 and len(set(predictions)) == 1:
        return [f"constant: every prediction is {predictions[0]!r}{zero}"]
    return []


def _check(predictions: Sequence, references: Sequence) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} rows")
    if not len(predictions):
        raise ValueError("no predictions: nothing to score")
