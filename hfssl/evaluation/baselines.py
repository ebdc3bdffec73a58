"""What needs no pretraining: the most frequent class, and TF-IDF with logistic regression.

Both learn from the training split alone. TF-IDF's one setting (C, or Ridge's alpha) is chosen on a tenth of train.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from hfssl.errors import InputError
from hfssl.evaluation.rendering import SCORED_KINDS, best_candidates, candidate_rows, pair_texts
from hfssl.evaluation.scoring import Predictions
from hfssl.evaluation.task_data import SplitData

Predict = Callable[[SplitData], Predictions]

MAX_ROWS = 100_000  # of train (or of its candidates) that TF-IDF learns from, chosen at random
STRENGTHS = (1.0, 10.0, 100.0)  # of C, and of 1 / alpha
HELD_OUT = 0.1


def most_frequent(train: SplitData) -> Predict:
    """Predicts train's most frequent label; for STS-B its mean; for ReCoRD the name that the passage has most often."""
    if train.task.kind == "entities":
        return lambda data: [
            max(names, key=passage.count) for passage, names in zip(data.texts[0], data.candidates, strict=True)
        ]
    _check(train)
    if train.task.kind == "regression":
        constant = float(np.mean(train.labels))
    else:
        counts = Counter(train.labels)
        constant = max(train.task.labels, key=lambda label: counts[label])
    return lambda data: [constant] * len(data)


def tfidf(train: SplitData, seed: int = 0, max_rows: int = MAX_ROWS, strengths: Sequence[float] = STRENGTHS) -> Predict:
    """Words and pairs of words, weighted by TF-IDF, under a linear model.

    A pair of texts is the second text, what only the first has, what only the second has, what both have, their cosine,
    and the share of common words. COPA and ReCoRD score each candidate so; STS-B is ridge regression, clipped to 0..5.

    Args:
        seed: of the held-out tenth, and of which rows are left out of a larger train.
        strengths: to choose from; a single one is taken as it is.

    Raises:
        InputError: train has no labels, or too few rows.
    """
    task = train.task
    rng = np.random.default_rng(seed)
    first, second, target = _texts(train)
    chosen = np.sort(rng.permutation(len(first))[:max_rows])
    features = _Features([first[i] for i in chosen], None if second is None else [second[i] for i in chosen])
    x, y = features.train, np.asarray(target, dtype=float if task.kind == "regression" else object)[chosen]
    y = y if task.kind == "regression" else y.astype(str)
    model = _fitted(x, y, task.kind == "regression", rng, strengths)

    def predict(data: SplitData) -> Predictions:
        if task.kind in SCORED_KINDS:
            candidates = candidate_rows(data)
            scores = model.decision_function(features(candidates.first, candidates.second))
            return best_candidates(data, candidates, scores)
        found = model.predict(features(*pair_texts(data)))
        if task.kind == "regression":
            return [float(value) for value in np.clip(found, 0, 5)]
        return [str(label) for label in found]

    return predict


def _check(train: SplitData) -> None:
    if train.labels is None and train.answers is None:
        raise InputError(f"{train.task.title} {train.split} has no labels: a baseline learns from the training split")
    if len(train) < 2:
        raise InputError(f"{train.task.title} {train.split} has {len(train)} rows: too few to learn from")


def _texts(train: SplitData) -> tuple[list[str], list[str] | None, Sequence]:
    _check(train)
    if train.task.kind in SCORED_KINDS:
        candidates = candidate_rows(train)
        # decision_function is of the class that sorts last: "1"
        return candidates.first, candidates.second, [str(int(right)) for right in candidates.right]
    return *pair_texts(train), train.labels


class _Features:
    """Turns one or two texts a row into a sparse matrix; learns the words from the training rows."""

    def __init__(self, first: list[str], second: list[str] | None):
        self.vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", min_df=2 if len(first) > 2000 else 1
        )
        self.vectorizer.fit(first if second is None else [*first, *second])
        self.train = self(first, second)

    def __call__(self, first: list[str], second: list[str] | None) -> sparse.csr_matrix:
        u = self.vectorizer.transform(first)
        if second is None:
            return u
        v = self.vectorizer.transform(second)
        words = [[set(text.lower().split()) for text in texts] for texts in (first, second)]
        shared = [len(a & b) / max(len(a | b), 1) for a, b in zip(*words, strict=True)]
        covered = [len(a & b) / max(len(b), 1) for a, b in zip(*words, strict=True)]
        product = u.multiply(v).tocsr()
        cosine = np.asarray(product.sum(axis=1)).ravel()
        dense = sparse.csr_matrix(np.stack([cosine, shared, covered], axis=1))
        return sparse.hstack([v, u - u.multiply(v > 0), v - v.multiply(u > 0), product, dense], format="csr")


def _fitted(
    x: sparse.csr_matrix, y: np.ndarray, regression: bool, rng: np.random.Generator, strengths: Sequence[float]
):
    """The model with the strength that is best on a held-out tenth, fitted on all rows."""

    def model(strength: float):
        if regression:
            return Ridge(alpha=1 / strength, solver="lsqr")
        return LogisticRegression(C=strength, max_iter=100, tol=1e-3)

    order = rng.permutation(x.shape[0])
    cut = max(1, int(len(order) * HELD_OUT))
    held, kept = order[:cut], order[cut:]
    if not regression and len(set(y)) < 2:
        raise InputError("every training row has the same label: TF-IDF has nothing to tell apart")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 100 steps the last digits are of no interest here
        if len(strengths) == 1 or (not regression and len(set(y[kept])) < 2):
            return model(strengths[0]).fit(x, y)
        scores = [model(strength).fit(x[kept], y[kept]).score(x[held], y[held]) for strength in strengths]
        return model(strengths[int(np.argmax(scores))]).fit(x, y)


BASELINES: dict[str, Callable[[SplitData], Predict]] = {"most frequent": most_frequent, "TF-IDF": tfidf}
