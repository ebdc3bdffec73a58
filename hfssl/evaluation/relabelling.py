"""Finds labels that were exchanged: predictions that agree with something much better under other names.

Three orders of MNLI's classes are in use; a checkpoint decoded in the wrong one scores 4 to 7 % (transformers pull
request 10401). Held against a dev set's gold labels this is plain. Of a test set, a bag-of-words model that learned
from train stands in for the gold labels: it is weak, but better than chance, and an exchange turns its agreement round.
Not of WNLI, whose dev and test sets contradict what a bag of words learns from train.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hfssl.evaluation.baselines import Predict, tfidf
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task

ROWS = 10_000  # of train are enough for a witness
MARGIN = 0.1  # of the rows: less is no reason to speak up
DEVIATIONS = 5.0


def exchanged_labels(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, str], float, float] | None:
    """The renaming under which predictions agree with the references far better than as they are, or None.

    Far better is by `MARGIN` of the rows and by `DEVIATIONS` standard deviations of that difference.

    Returns:
        The renaming, the agreement as it stands, and the agreement under the renaming.
    """
    pairs = list(zip(predictions, references, strict=True))
    plain = sum(p == r for p, r in pairs) / len(pairs)
    best, agreement = None, plain
    for order in itertools.permutations(labels):
        names = dict(zip(labels, order, strict=True))
        found = sum(names[p] == r for p, r in pairs) / len(pairs)
        if found > agreement:
            best, agreement = names, found
    gain = agreement - plain
    deviation = ((agreement + plain - gain**2) / len(pairs)) ** 0.5  # of the difference of two shares of the same rows
    return (best, plain, agreement) if best and gain > max(MARGIN, DEVIATIONS * deviation) else None


def witness(train: SplitData) -> Predict:
    """A bag-of-words model of the task whose model made the predictions."""
    return tfidf(train, max_rows=ROWS, strengths=(10.0,))


def can_be_judged(task: Task) -> bool:
    """Whether a task has labels that could be exchanged unseen; not WNLI (see above)."""
    return bool(task.labels) and task.kind in ("single", "pair") and task.name != "wnli"


def looks_relabelled(data: SplitData, predictions: Sequence[str], predict: Predict | None = None) -> str:
    """What to say about predictions whose labels look exchanged, or an empty string.

    Args:
        data: a dev set with its labels, or any set with a witness.
        predictions: labels in the order of the rows.
        predict: of `witness`, where there are no gold labels.
    """
    references = list(predict(data) if predict else data.labels)
    if not can_be_judged(data.task) or (found := exchanged_labels(predictions, references, data.task.labels)) is None:
        return ""
    names, plain, agreement = found
    renamed = ", ".join(f"{old} for {new}" for old, new in names.items() if old != new)
    judge = "a bag-of-words model of the training data agrees" if predict else "the gold labels agree"
    return (
        f"the labels look exchanged ({renamed}): {judge} with {plain:.0%} of the predictions as they are and with "
        f"{agreement:.0%} renamed"
    )
