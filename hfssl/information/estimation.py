"""`estimate`: mutual information from paired samples, by any method, with what was selected on held-out loss.

The samples are cut into three parts. Critics are trained on the first with several settings; the setting and the step
with the least loss on the second are taken; the value is of the third, which nothing was selected on. The loss is the
method's own and never the distance to a truth: McAllester and Stratos' published table took the run of a hundred that
came nearest to the truth (karlstratos/doe, main.py), which nobody can do who does not know it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

from hfssl.errors import InputError, nearest
from hfssl.information.bounds import (
    dv,
    gaussian_cross_entropy,
    infonce,
    interpolated,
    js_loss,
    lecture,
    logistic_cross_entropy,
    mine,
    nwj,
    nwj_js,
    tuba,
)
from hfssl.information.critics import CRITICS, Entropies, perceptron
from hfssl.information.neighbours import binned, ksg

CRITIC_METHODS = ("infonce", "lecture", "dv", "mine", "nwj", "nwj_js", "tuba", "interpolated")
ENTROPY_METHODS = {"doe": gaussian_cross_entropy, "doe_logistic": logistic_cross_entropy}
UNTRAINED = ("ksg", "binned")
METHODS = (*CRITIC_METHODS, *ENTROPY_METHODS, *UNTRAINED)

CANDIDATES = 128  # as in McAllester and Stratos' experiments
PARTS = 10  # of the samples, for the standard error of what trains nothing
SHARES = (0.6, 0.2)  # of the samples, to train and to select; the rest is for the value
MOST_BATCHES = 32  # of the held-out part, for one look at the loss
LOOKS = 10


@dataclass(frozen=True)
class Setting:
    """What is searched: the width of the nets, Adam's highest learning rate, the largest norm of a gradient."""

    hidden: int = 256
    learning_rate: float = 3e-3
    clip: float = 1.0


SEARCH = (Setting(256, 3e-3), Setting(256, 1e-3), Setting(64, 3e-3))  # of McAllester and Stratos' grid


@dataclass
class Estimate:
    """What `estimate` found.

    Attributes:
        method: its name.
        value: in nats; with "lecture" a lower bound of the CPC loss, else an estimate of the information.
        standard_error: of the value, over batches of candidates (over parts of the samples, where nothing is trained).
        candidates: N. ceiling: ln N, which "infonce" is never above.
        held_out_loss: the least, by which setting and step were selected.
        selected: the setting and the step; empty where nothing is trained.
        curve: (step, held-out loss) of the selected setting.
        scores: the selected critic: samples (N, D) and (M, E) to scores (N, M); None without a critic.
    """

    method: str
    value: float
    standard_error: float
    candidates: int
    held_out_loss: float | None = None
    selected: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    scores: Any = field(default=None, repr=False)

    @property
    def ceiling(self) -> float:
        return math.log(self.candidates)


def estimate(
    x: torch.Tensor,
    y: torch.Tensor,
    method: str = "infonce",
    *,
    candidates: int | None = None,
    steps: int = 1000,
    search: Sequence[Setting] = SEARCH,
    critic: str = "separable",
    alpha: float = 0.01,
    carry: float = 0.99,
    neighbours: int = 3,
    bins: int | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimates I(x; y) in nats; training is a function of the samples, the settings and the seed.

    Args:
        x: (M, D) or (M,). y: (M, E) or (M,). Row i of both is a pair. Columns are standardised, by all samples, which
            changes no information.
        method: one of `METHODS`, whose functions say what they are: a lower bound, none, or of another quantity.
        candidates: N, the pairs of a batch in training and in the value; by default 128, or as many as the samples
            give two batches of for the value.
        steps: of each training, with a learning rate that falls to 0 along a cosine.
        search: the settings that are tried.
        critic: "separable" or "joint", see `hfssl.information.critics`.
        alpha: `interpolated`'s; the baselines of it and of `nwj` are e, that of `tuba` is learned.
        carry: `mine`'s. neighbours: `ksg`'s. bins: `binned`'s.
        seed: of the parts, the batches and the weights.

    Raises:
        InputError: samples of different length, too few, not finite, or with a constant column; an unknown method.
    """
    x, y = _samples(x, "x"), _samples(y, "y")
    if len(x) != len(y):
        raise InputError(f"x has {len(x):,} samples and y {len(y):,}: row i of both must be one pair")
    for name, value, known in (("method", method, METHODS), ("critic", critic, CRITICS)):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}: one of {', '.join(known)}{nearest(value, known)}")
    if steps < 1 or not search:
        raise InputError("steps must be at least 1, and search must name a setting")
    centre = [(part.mean(0), part.std(0)) for part in (x, y)]
    x, y = _standardised(centre, x, y)
    if method in UNTRAINED:
        return _untrained(x, y, method, neighbours, bins)

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    first, second = round(SHARES[0] * len(x)), round(sum(SHARES) * len(x))
    candidates = min(CANDIDATES, (len(x) - second) // 2) if candidates is None else candidates
    if candidates < 2 or len(x) - second < 2 * candidates:
        raise InputError(
            f"N of {candidates} with {len(x):,} samples, of which {len(x) - second:,} are for the value: N must be at "
            "least 2, and two batches of it are needed; give more samples or fewer candidates"
        )
    x, y = x[order], y[order]
    train, held_out, test = ((x[part], y[part]) for part in (slice(first), slice(first, second), slice(second, None)))
    best: tuple[float, Setting, nn.Module, list] | None = None
    for setting in search:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = _learner(method, critic, x.shape[1], y.shape[1], setting.hidden, alpha, carry).to(x.device)
        curve = _train(learner, train, held_out, candidates, steps, setting, generator)
        least = min((loss for _, loss in curve), default=math.inf)
        if best is None or least < best[0]:
            best = least, setting, learner, curve
    least, setting, learner, curve = best
    if least == math.inf:
        raise InputError(f"{method}: no held-out loss was finite; give smaller learning rates")
    values = _evaluate(learner, *test, candidates)[1]
    selected = asdict(setting) | {"step": next(step for step, loss in curve if loss == least)}
    found = Estimate(method, mean(values), _standard_error(values), candidates, least, selected, curve)
    if method in CRITIC_METHODS:
        found.scores = lambda x, y: learner.critic(*_standardised(centre, x, y))
    return found


class _CriticLearner(nn.Module):
    """A critic and what else a method learns; of a batch it tells the loss that is trained on, and the value."""

    def __init__(self, method: str, critic: nn.Module, baseline: nn.Module | None, alpha: float, carry: float):
        super().__init__()
        self.method, self.critic, self.baseline = method, critic, baseline
        self.alpha, self.carry, self.running = alpha, carry, None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, D), y (N, E); two scalars in nats."""
        scores = self.critic(x, y)  # (N, N)
        if self.method == "lecture":  # its critic is that of the loss it bounds
            return -infonce(scores), lecture(scores)
        if self.method == "nwj_js":
            return js_loss(scores), nwj_js(scores)
        if self.method == "mine" and self.training:
            value, self.running = mine(scores, self.running, self.carry)
        elif self.method == "tuba":
            value = tuba(scores, self.baseline(x)[:, 0])
        elif self.method == "interpolated":
            value = interpolated(scores, torch.ones_like(scores[:, 0]), self.alpha)
        else:
            value = {"mine": dv, "dv": dv, "nwj": nwj, "infonce": infonce}[self.method](scores)
        return -value, value


class _EntropyLearner(nn.Module):
    """Two models of y: trained on the sum of their cross-entropies, valued by the difference."""

    def __init__(self, method: str, entropies: nn.Module):
        super().__init__()
        self.cross_entropy, self.entropies = ENTROPY_METHODS[method], entropies

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        marginal, conditional = (self.cross_entropy(y, *model).mean() for model in self.entropies(x))
        return marginal + conditional, marginal - conditional


def _learner(
    method: str, critic: str, x_features: int, y_features: int, hidden: int, alpha: float, carry: float
) -> nn.Module:
    if method in ENTROPY_METHODS:
        return _EntropyLearner(method, Entropies(x_features, y_features, hidden))
    baseline = perceptron(x_features, hidden, 1) if method == "tuba" else None
    return _CriticLearner(method, CRITICS[critic](x_features, y_features, hidden), baseline, alpha, carry)


def _train(learner, train, held_out, candidates: int, steps: int, setting: Setting, generator) -> list:
    """Trains a learner and leaves it as it was at the least held-out loss; (step, held-out loss) at each look, until a
    loss or a gradient is not finite."""
    optimizer = torch.optim.Adam(learner.parameters(), lr=setting.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, y = train
    curve, least, state, order = [], math.inf, None, torch.empty(0, dtype=torch.int64)
    for step in range(steps + 1):
        if step % max(1, steps // LOOKS) == 0 or step == steps:
            loss = mean(_evaluate(learner, *held_out, candidates, MOST_BATCHES)[0])
            if not math.isfinite(loss):  # this setting diverged: what it was before may still be the best
                break
            curve.append((step, loss))
            if loss < least:
                least, state = loss, copy.deepcopy(learner.state_dict())
        if step == steps:
            break
        if len(order) < candidates:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:candidates].to(x.device), order[candidates:]
        optimizer.zero_grad()
        learner(x[rows], y[rows])[0].backward()
        if not nn.utils.clip_grad_norm_(learner.parameters(), setting.clip).isfinite():
            break
        optimizer.step()
        schedule.step()
    if state is not None:
        learner.load_state_dict(state)
    return curve


@torch.no_grad()
def _evaluate(learner, x, y, candidates: int, most: int | None = None) -> tuple[list[float], list[float]]:
    """The losses and the values of whole batches, in evaluation mode."""
    learner.eval()
    count = min(len(x) // candidates, most or len(x))
    found = [learner(x[rows], y[rows]) for rows in torch.arange(count * candidates).split(candidates)]
    learner.train()
    return tuple(torch.stack(each).tolist() for each in zip(*found, strict=True))


def _untrained(x, y, method: str, neighbours: int, bins: int | None) -> Estimate:
    """By neighbours or bins. The standard error is that of the mean over parts of the samples."""

    def value(x, y) -> float:
        return ksg(x, y, neighbours) if method == "ksg" else binned(x, y, bins)

    size = len(x) // PARTS
    if size <= neighbours:
        raise InputError(f"{len(x):,} samples are too few for a standard error over {PARTS} parts: give more")
    parts = [value(x[rows], y[rows]) for rows in torch.arange(size * PARTS).split(size)]
    return Estimate(method, value(x, y), _standard_error(parts), len(x))


def _samples(samples: torch.Tensor, name: str) -> torch.Tensor:
    """float32 (M, D), checked."""
    samples = torch.as_tensor(samples)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or len(samples) < 2:
        raise InputError(f"{name} must hold at least two samples, (M, D) or (M,), not {tuple(samples.shape)}")
    samples = samples.detach().float()
    if not samples.isfinite().all():
        raise InputError(
            f"{name} holds values that are not finite, first in row {int((~samples.isfinite()).any(1).nonzero()[0])}"
        )
    constant = (samples == samples[0]).all(0)
    if constant.any():
        raise InputError(f"column {int(constant.nonzero()[0])} of {name} is constant and says nothing: leave it out")
    return samples


def _standardised(centre, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """x and y by the mean and deviation of each of their columns."""
    return [(part - mean) / deviation for part, (mean, deviation) in zip((x, y), centre, strict=True)]


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))  # which takes infinite values, too
