"""Simple classifiers on frozen features: weighted nearest neighbours and logistic regression."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
import torch.nn.functional as F

from hfssl.errors import InputError

C_GRID = tuple(10.0**power for power in range(-4, 3))
HELD_OUT = 0.1  # of each class's training images, at least one, to choose C
SMALL_WORK = 20_000_000  # multiplications
LARGE = 20_000_000  # numbers in the features
ENOUGH = 50  # held-out images to tell one C from another


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

    The bias is not penalised. Solved by SciPy's L-BFGS, so no learning rate has a say; the products are in float64, or
    in float32 for more than `LARGE` numbers.

    Attributes:
        weight, bias: (K, D) and (K,), float64.
    """

    def __init__(self, c: float = 1.0, max_iter: int = 200):
        self.c, self.max_iter = c, max_iter
        self.weight = self.bias = None

    def fit(self, features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> LogisticRegression:
        """features (N, D), labels int64 (N,). A second fit starts from the first one's solution."""
        from scipy.optimize import minimize

        features, count = features.to(_precision(features)), len(features)
        shape = (num_classes, features.shape[1] + 1)  # the last column is the bias
        if self.weight is None:
            self.weight, self.bias = torch.zeros(num_classes, shape[1] - 1).double(), torch.zeros(num_classes).double()
        design = torch.cat([features, features.new_ones(count, 1)], 1)  # (N, D + 1)
        penalised = torch.ones(shape[1], dtype=torch.float64)
        penalised[-1] = 0
        rows = torch.arange(count)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight = torch.from_numpy(flat).view(shape)
            log_probability = (design @ weight.to(design.dtype).T).log_softmax(1)  # (N, K)
            shrink = weight * penalised / (self.c * count)
            loss = (weight * shrink).sum() / 2 - log_probability[rows, labels].double().mean()
            residual = log_probability.exp_()
            residual[rows, labels] -= 1
            return loss.item(), ((residual.T @ design).double() / count + shrink).flatten().numpy()

        start = torch.cat([self.weight, self.bias[:, None]], 1).flatten().numpy()
        options = {"maxiter": self.max_iter, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-6}
        with _threads_for(design.numel() * num_classes):
            found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        weight = torch.from_numpy(found.x).view(shape)
        self.weight, self.bias = weight[:, :-1].contiguous(), weight[:, -1].contiguous()
        return self

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(N, K)."""
        precision = _precision(features)
        return features.to(precision) @ self.weight.to(precision).T + self.bias.to(precision)

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """int64 (N,)."""
        return self.logits(features).argmax(1)


def _precision(features: torch.Tensor) -> torch.dtype:
    return torch.float64 if features.numel() <= LARGE else torch.float32


@contextlib.contextmanager
def _threads_for(work: int):
    """One thread, in torch and in SciPy, for small products: on shared cores more of them wait for each other."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    if work >= SMALL_WORK:
        yield
        return
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def linear_predict(
    features: torch.Tensor, bank: torch.Tensor, bank_labels: torch.Tensor, num_classes: int, seed: int = 0
) -> tuple[torch.Tensor, float]:
    """Predicts by a linear probe trained on the bank, with C chosen on a held-out tenth of the bank.

    Features are standardised with the bank's mean and deviation. Where a tenth is under `ENOUGH` images, several tenths
    are held out in turn and their results pooled. Of values of C that classify equally well the one with the lower
    cross-entropy wins. With one image a class nothing can be held out, and C is 1.

    Returns:
        int64 (M,) and the C that was chosen.
    """
    bank = bank.to(_precision(bank))
    mean, deviation = bank.mean(0), bank.std(0, correction=0)
    deviation = torch.where(deviation < 1e-8, 1.0, deviation)
    features, bank = (features.to(bank.dtype) - mean) / deviation, (bank - mean) / deviation
    if len(bank) < bank.shape[1]:  # the best weights lie in the span of the bank: the same problem in fewer dimensions
        basis = torch.linalg.qr(bank.T)[0]  # (D, N)
        features, bank = features @ basis, bank @ basis
    best = choose_c(bank, bank_labels, num_classes, seed)
    return LogisticRegression(best).fit(bank, bank_labels, num_classes).predict(features), best


def choose_c(features: torch.Tensor, labels: torch.Tensor, num_classes: int, seed: int) -> float:
    """The C of `C_GRID` that does best on held-out images. The grid is left once two values in turn did worse."""
    masks = [_held_out(labels.numpy(), seed, 0)]
    if not masks[0].any():
        return 1.0
    masks += [_held_out(labels.numpy(), seed, i) for i in range(1, min(5, -(-ENOUGH // int(masks[0].sum()))))]
    masks = [torch.from_numpy(mask) for mask in masks]
    models = [LogisticRegression() for _ in masks]
    best, best_score, worse = 1.0, (-1.0, 0.0), 0
    for c in C_GRID:  # from strong to weak regularisation, each from the solution before
        right = loss = 0.0
        for model, held_out in zip(models, masks, strict=True):
            model.c = c
            model.fit(features[~held_out], labels[~held_out], num_classes)
            logits = model.logits(features[held_out])
            right += (logits.argmax(1) == labels[held_out]).sum().item()
            loss += F.cross_entropy(logits, labels[held_out], reduction="sum").item()
        if (right, -loss) > best_score:
            best, best_score, worse = c, (right, -loss), 0
        elif (worse := worse + 1) == 2:
            break
    return best


def _held_out(labels: np.ndarray, seed: int, repeat: int) -> np.ndarray:
    """Marks a tenth of each class, at least one image, none of a class with a single image."""
    random = np.random.default_rng((seed, 1, repeat))
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
