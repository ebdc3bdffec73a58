"""Multinomial logistic regression for many strengths of regularisation and many parts of the data at once.

All heads share the products with the features, which is where the time goes: one pass over the features serves every
C, seed and fold. Each head takes its own L-BFGS steps (Nocedal and Wright 2006, algorithm 7.4) from the inverse of its
Hessian at zero weights, which is exact there: the first step is Newton's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hfssl.progress import Progress

SMALL_WORK = 20_000_000  # multiplications
LARGE = 2_000_000  # numbers in the features
CHUNK = 2**24  # numbers in a chunk of logits
TOGETHER = 2**24  # weights of the heads that are solved together
NEGLIGIBLE = (
    -60.0
)  # log-probabilities below: exp of much less is a subnormal number, which slows products several times
MEMORY = 10  # steps that L-BFGS remembers
HALVINGS = 12


@dataclass
class LogisticRegression:
    """H solutions.

    Attributes:
        weight: (H, K, D), in the precision of the features it was fitted to. bias: (H, K).
        iterations: int64 (H,), steps of each head.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    iterations: torch.Tensor

    def logits(self, features: torch.Tensor, head: int = 0) -> torch.Tensor:
        """Features (M, D) to (M, K)."""
        return torch.addmm(self.bias[head], features.to(self.weight.dtype), self.weight[head].T)

    def predict(self, features: torch.Tensor, head: int = 0) -> torch.Tensor:
        """int64 (M,)."""
        return self.logits(features, head).argmax(1)


def fit_logistic(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    c: Sequence[float],
    rows: torch.Tensor | None = None,
    start: LogisticRegression | None = None,
    tolerance: float = 1e-4,
    max_iter: int = 1000,
    label: str = "",
) -> LogisticRegression:
    """Minimises C * (sum of cross-entropies) + |W|^2 / 2 for each head, as scikit-learn does; biases are free.

    The products are in float64, or in float32 for more than `LARGE` numbers; all else is in float64.

    Args:
        features: (N, D), on any device; best centred. labels: int64 (N,).
        c: C of each of the H heads.
        rows: bool (H, N), the rows that each head is fitted to; by default all.
        start: H solutions to begin with, by default zero.
        tolerance: a head is done when no entry of the gradient of its mean loss is larger (scikit-learn's `tol`, and
            its default), or when the precision allows no better.
        max_iter: steps.
        label: of the progress that is shown, by default none.
    """
    features = features.to(precision(features))
    count = max(1, TOGETHER // (num_classes * (features.shape[1] + 1)))
    gram = _gram(features)
    parts = []
    with threads_for(features.numel() * num_classes * len(c)), Progress(label, len(c), "fit") as progress:
        for first in range(0, len(c), count):
            heads = slice(first, first + count)
            problem = _Problem(features, labels, num_classes, c[heads], None if rows is None else rows[heads], gram)
            at = None
            if start is not None:
                at = torch.cat([start.weight[heads], start.bias[heads][..., None]], 2).double()
            parts.append(_minimise(problem, at, tolerance, max_iter, progress))
    solution = torch.cat([weights for weights, _ in parts])  # (H, K, D + 1)
    weight, bias = solution[..., :-1].to(features.dtype).contiguous(), solution[..., -1].to(features.dtype)
    return LogisticRegression(weight, bias, torch.cat([iterations for _, iterations in parts]))


def precision(features: torch.Tensor) -> torch.dtype:
    """What the products with these features are computed in."""
    return torch.float64 if features.numel() <= LARGE else torch.float32


@contextlib.contextmanager
def threads_for(work: int):
    """One thread for small products: on shared cores more of them wait for each other."""
    threads = torch.get_num_threads()
    try:
        if work < SMALL_WORK:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _gram(features: torch.Tensor) -> torch.Tensor:
    """The mean of x x^T, float64 (D + 1, D + 1), with a constant 1 as the last feature."""
    count, dim = features.shape
    gram = torch.ones(dim + 1, dim + 1, dtype=torch.float64, device=features.device)
    gram[:-1, :-1] = (features.T @ features).double() / count
    gram[-1, :-1] = gram[:-1, -1] = features.mean(0, dtype=torch.float64)
    return gram


class _Problem:
    """The mean losses of H heads, their gradients, and the inverse Hessians at zero weights.

    Parameters are float64 (h, K, D + 1) for any `heads`, int64 (h,) in range(H); the last column is the bias.
    """

    def __init__(self, features, labels, num_classes, c, rows, gram):
        self.features, self.labels, self.num_classes, self.rows = features, labels, num_classes, rows
        options = {"dtype": torch.float64, "device": features.device}
        self.counts = torch.full((len(c),), len(features), **options) if rows is None else rows.sum(1).double()
        self.decay = 1 / (torch.tensor(c, **options) * self.counts)  # (H,), of |W|^2 / 2 beside the mean loss
        # With zero weights all K classes are equally likely, and the Hessian is 1/K of the Gram matrix. In float32 its
        # factor is half as large, and near enough: it only shapes the steps.
        decays, self._factor_of = self.decay.unique(return_inverse=True)
        self._factors = [_factor(gram / num_classes, float(decay)).float() for decay in decays]

    def evaluate(self, parameters: torch.Tensor, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (h,) and gradients like the parameters."""
        count, classes, dtype = len(heads), self.num_classes, self.features.dtype
        flat = parameters.flatten(0, 1).to(dtype)  # (h * K, D + 1)
        weight, bias = flat[:, :-1], flat[:, -1:]
        loss, gradient = torch.zeros_like(self.decay[heads]), torch.zeros_like(parameters).flatten(0, 1)
        size = max(1, CHUNK // (count * classes))
        for first in range(0, len(self.features), size):
            features, labels = self.features[first : first + size], self.labels[first : first + size]
            # (h, K, n): the sums over few classes then run along many rows.
            logits = torch.addmm(bias, weight, features.T).view(count, classes, -1)
            residual = logits.log_softmax(1)
            chosen = labels.expand(count, 1, -1)
            losses = residual.gather(1, chosen)[:, 0]  # (h, n), negative
            residual.clamp_(min=NEGLIGIBLE).exp_()
            residual.scatter_add_(1, chosen, residual.new_full((1, 1, 1), -1).expand_as(chosen))
            if self.rows is not None:
                kept = self.rows[heads, first : first + size].to(dtype)
                losses, residual = losses * kept, residual.mul_(kept[:, None])
            residual = residual.flatten(0, 1)
            loss -= losses.sum(1, dtype=torch.float64)
            gradient[:, :-1] += residual @ features
            gradient[:, -1] += residual.sum(1, dtype=torch.float64)
        counts, decay = self.counts[heads], self.decay[heads]
        gradient = gradient.view_as(parameters) / counts[:, None, None]
        gradient[..., :-1] += decay[:, None, None] * parameters[..., :-1]
        return loss / counts + decay / 2 * parameters[..., :-1].square().sum((1, 2)), gradient

    def precondition(self, gradient: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """The inverse of the Hessian at zero weights times (h, K, D + 1)."""
        result = torch.empty_like(gradient)
        for kind in self._factor_of[heads].unique():
            members = self._factor_of[heads] == kind
            columns = gradient[members].flatten(0, 1).T
            factor = self._factors[kind]
            columns = torch.cholesky_solve(columns.to(factor.dtype), factor).double()
            result[members] = columns.T.view_as(gradient[members])
        return result


def _factor(hessian: torch.Tensor, decay: float) -> torch.Tensor:
    """The Cholesky factor of the Hessian plus the decay, and as little more as makes it definite."""
    diagonal = torch.full((len(hessian),), decay, dtype=hessian.dtype, device=hessian.device)
    diagonal[-1] = 0  # the bias
    more = 1e-12 * float(hessian.diagonal().mean())
    while True:
        factor, failed = torch.linalg.cholesky_ex(hessian + torch.diag(diagonal + more))
        if not failed:
            return factor
        more *= 10


def _minimise(
    problem: _Problem, start, tolerance: float, max_iter: int, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of all heads that are not done; returns the parameters (H, K, D + 1) and the steps of each head."""
    shape = (len(problem.decay), problem.num_classes, problem.features.shape[1] + 1)
    at = torch.zeros(shape, dtype=torch.float64, device=problem.features.device) if start is None else start
    found, iterations = at.clone(), torch.zeros(shape[0], dtype=torch.int64)
    heads = torch.arange(shape[0], device=at.device)
    loss, gradient = problem.evaluate(at, heads)
    history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # step, change of the gradient, 1 / product
    stuck = torch.zeros_like(loss, dtype=torch.bool)
    for _ in range(max_iter):
        going = (gradient.abs().amax((1, 2)) > tolerance) & ~stuck
        if not going.all():
            found[heads] = at
            progress.update(int((~going).sum()))
            heads, at, loss, gradient = heads[going], at[going], loss[going], gradient[going]
            history = [tuple(part[going] for part in entry) for entry in history]
        if not len(heads):
            break
        iterations[heads.cpu()] += 1
        direction = _direction(problem, gradient, heads, history)
        new, new_loss, new_gradient, stuck = _line_search(problem, at, loss, gradient, direction, heads)
        step, change = new - at, new_gradient - gradient
        product = _dot(step, change)
        history.append((step, change, torch.where(product > 0, 1 / product, 0)))  # 0: the pair has no say
        history = history[-MEMORY:]
        at, loss, gradient = new, new_loss, new_gradient
    found[heads] = at
    return found, iterations


def _direction(problem: _Problem, gradient, heads, history) -> torch.Tensor:
    """The two loops of L-BFGS, for all heads."""
    direction, shares = -gradient, []
    for step, change, inverse in reversed(history):
        share = inverse * _dot(step, direction)
        direction = direction - share[:, None, None] * change
        shares.append(share)
    direction = problem.precondition(direction, heads)
    if history:  # the more certain the heads, the smaller their Hessian
        step, change, _ = history[-1]
        scale = _dot(step, change) / _dot(change, problem.precondition(change, heads))
        direction = direction * torch.where(scale > 0, scale, 1)[:, None, None]
    for (step, change, inverse), share in zip(history, reversed(shares), strict=True):
        direction = direction + (share - inverse * _dot(change, direction))[:, None, None] * step
    return direction


def _line_search(problem: _Problem, at, loss, gradient, direction, heads):
    """Halves the steps that do not lower the loss enough. A head that nothing helps stays and is `stuck`."""
    slope = _dot(gradient, direction)
    slack = 4 * torch.finfo(problem.features.dtype).eps * loss.abs()
    new, new_loss, new_gradient = at + direction, loss.clone(), gradient.clone()
    todo, length = torch.arange(len(heads), device=at.device), 1.0
    for _ in range(HALVINGS):
        new[todo] = at[todo] + length * direction[todo]
        new_loss[todo], new_gradient[todo] = problem.evaluate(new[todo], heads[todo])
        good = new_loss[todo] <= loss[todo] + 1e-4 * length * slope[todo] + slack[todo]
        todo, length = todo[~good], length / 2
        if not len(todo):
            break
    new[todo], new_loss[todo], new_gradient[todo] = at[todo], loss[todo], gradient[todo]
    stuck = torch.zeros(len(heads), dtype=torch.bool, device=at.device)
    stuck[todo] = True
    return new, new_loss, new_gradient, stuck


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(h,)."""
    return (a * b).sum((1, 2))
