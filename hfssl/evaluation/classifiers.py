"""Simple classifiers on frozen features: weighted nearest neighbours and logistic regression."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from hfssl.errors import InputError

C_GRID = tuple(10.0**power for power in range(-4, 3))
HELD_OUT = 0.1  # of each class's training images, at least one, to choose C


def knn_predict(
    features: torch.Tensor,
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    num_classes: int,
    knn_k: int = 20,
    knn_t: float = 0.07,
    chunk_size: int = 1024,
) -> torch.Tensor:
    """The weighted vote of the nearest neighbours by cosine similarity (Wu et al. 2018, section 3.4).

    Args:
        features: (M, D) to classify. bank: (N, D). bank_labels: int64 (N,).
        knn_k: neighbours that vote. knn_t: each with weight exp(similarity / knn_t).
        chunk_size: rows of `features` compared at a time: memory is chunk_size * N.

    Returns:
        int64 (M,), the class of the largest sum of weights.

    Raises:
        InputError: knn_k is larger than the bank.
    """
    if not 1 <= knn_k <= len(bank):
        raise InputError(f"k = {knn_k} neighbours of a bank of {len(bank)}: k must lie between 1 and the bank's size")
    features, bank = F.normalize(features.float(), dim=1), F.normalize(bank.float(), dim=1)
    predictions = []
    for chunk in features.split(chunk_size):
        similarity, index = (chunk @ bank.T).topk(knn_k, dim=1)  # (m, k)
        weights = ((similarity - similarity[:, :1]) / knn_t).exp()  # of the nearest 1: no overflow at small knn_t
        votes = weights.new_zeros(len(chunk), num_classes).scatter_add_(1, bank_labels[index], weights)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


class LogisticRegression:
    """Multinomial logistic regression: minimises C * (sum of cross-entropies) + |W|^2 / 2, as scikit-learn does.

    The bias is not penalised. Solved by L-BFGS in float64, so the result does not depend on a learning rate.

    Attributes:
        weight, bias: (K, D) and (K,), float64.
    """

    def __init__(self, c: float = 1.0, max_iter: int = 500):
        self.c, self.max_iter = c, max_iter
        self.weight = self.bias = None

    def fit(self, features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> LogisticRegression:
        """features (N, D), labels int64 (N,). A second fit starts from the first one's solution."""
        features = features.double()
        if self.weight is None:
            self.weight = features.new_zeros(num_classes, features.shape[1])
            self.bias = features.new_zeros(num_classes)
        weight, bias = self.weight.clone().requires_grad_(), self.bias.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=self.max_iter,
            history_size=20,
            tolerance_grad=1e-6,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(features @ weight.T + bias, labels)
            loss = loss + weight.square().sum() / (2 * self.c * len(features))
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        self.weight, self.bias = weight.detach(), bias.detach()
        return self

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """int64 (N,)."""
        return (features.double() @ self.weight.T + self.bias).argmax(1)


def linear_predict(
    features: torch.Tensor, bank: torch.Tensor, bank_labels: torch.Tensor, num_classes: int, seed: int = 0
) -> tuple[torch.Tensor, float]:
    """Predicts by a linear probe trained on the bank, with C chosen on a held-out tenth of the bank.

    Features are standardised with the bank's mean and deviation. Of values of C that do equally well the smallest
    wins. With one image a class nothing can be held out, and C is 1.

    Returns:
        int64 (M,) and the C that was chosen.
    """
    mean, deviation = bank.double().mean(0), bank.double().std(0, correction=0)
    deviation = torch.where(deviation < 1e-8, 1.0, deviation)
    features, bank = (features.double() - mean) / deviation, (bank.double() - mean) / deviation
    held_out = torch.from_numpy(_held_out(bank_labels.numpy(), seed))
    best, best_score = 1.0, -1.0
    if held_out.any():
        candidate = LogisticRegression()
        for c in C_GRID:  # from strong to weak regularisation, each from the solution before
            candidate.c = c
            candidate.fit(bank[~held_out], bank_labels[~held_out], num_classes)
            score = (candidate.predict(bank[held_out]) == bank_labels[held_out]).double().mean().item()
            if score > best_score:
                best, best_score = c, score
    return LogisticRegression(best).fit(bank, bank_labels, num_classes).predict(features), best


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Marks a tenth of each class, at least one image, none of a class with a single image."""
    random = np.random.default_rng((seed, 1))
    marked = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            marked[members[: max(1, round(HELD_OUT * len(members)))]] = True
    return marked


def select_labels(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of `per_class` images of each class, drawn without replacement, in rising order.

    Raises:
        InputError: a class has fewer.
    """
    random = np.random.default_rng((seed, 0))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise InputError(f"class {label} has {len(members)} training images, fewer than {per_class} labels a class")
        chosen.append(random.choice(members, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
