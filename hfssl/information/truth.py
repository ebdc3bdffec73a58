"""Distributions whose mutual information is known: correlated Gaussians and discrete channels. In nats."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from hfssl.errors import InputError

MOST_TERMS = 2_000_000  # of an exact expectation


def lecture_bound(information: float, reverse_kl: float, candidates: int) -> float:
    """The lecture's lower bound of the CPC loss with N candidates: ln N - (N-1)/N (I + KL(p(x)p(y), p(x, y))).

    -inf if the supports are not the same, where `reverse_kl` is infinite.
    """
    if candidates < 2:
        raise InputError(f"N of {candidates}: x has no other candidate to be told from; give at least two")
    return math.log(candidates) - (candidates - 1) / candidates * (information + reverse_kl)


def gaussian_information(dimensions: int, rho: float) -> float:
    """I = -(d/2) ln(1 - rho^2) of d independent pairs of standard normals with correlation rho; inf for rho of 1."""
    _check_rho(rho)
    return math.inf if abs(rho) == 1 else -dimensions / 2 * math.log1p(-(rho**2))


def gaussian_reverse_kl(dimensions: int, rho: float) -> float:
    """KL(p(x)p(y), p(x, y)) = (d/2) ln(1 - rho^2) + d rho^2 / (1 - rho^2), which is always more than I."""
    _check_rho(rho)
    return math.inf if abs(rho) == 1 else dimensions * (math.log1p(-(rho**2)) / 2 + rho**2 / (1 - rho**2))


def gaussian_correlation(dimensions: int, information: float) -> float:
    """The correlation that gives d dimensions so much information."""
    return math.sqrt(-math.expm1(-2 * information / dimensions))


def gaussian_pairs(count: int, dimensions: int, rho: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples x and y, float32 (count, d) each."""
    _check_rho(rho)
    noise = torch.randn(count, 2, dimensions, generator=torch.Generator().manual_seed(seed))
    x, other = noise.unbind(1)
    return x.contiguous(), rho * x + math.sqrt(1 - rho**2) * other


def gaussian_scores(x: torch.Tensor, y: torch.Tensor, rho: float) -> torch.Tensor:
    """The best critic, ln p(y|x) / p(y), for each x with each y: (N, M) from (N, d) and (M, d)."""
    rest = 1 - rho**2
    own = -(rho**2) / (2 * rest) * ((x**2).sum(1)[:, None] + (y**2).sum(1)[None])
    return own + rho / rest * (x @ y.T) - x.shape[1] / 2 * math.log(rest)


@dataclass(frozen=True)
class Channel:
    """A discrete joint distribution.

    Args:
        joint: float64 (K, L), p(x, y), which sums to 1 and has no empty row or column.
    """

    joint: torch.Tensor

    def __post_init__(self):
        if self.joint.ndim != 2 or (self.joint < 0).any() or abs(float(self.joint.sum()) - 1) > 1e-9:
            raise InputError("a channel's joint distribution must be a table of probabilities that sum to 1")
        if (self.joint.sum(0) == 0).any() or (self.joint.sum(1) == 0).any():
            raise InputError("a channel's symbols must all have a probability: leave out empty rows and columns")

    @property
    def product(self) -> torch.Tensor:
        """(K, L), p(x) p(y)."""
        return self.joint.sum(1)[:, None] * self.joint.sum(0)

    @property
    def scores(self) -> torch.Tensor:
        """(K, L), the best critic ln p(y|x) / p(y); -inf where a pair never occurs."""
        return (self.joint / self.product).log()

    @property
    def information(self) -> float:
        return float(torch.where(self.joint > 0, self.joint * self.scores, 0).sum())

    @property
    def reverse_kl(self) -> float:
        """KL(p(x)p(y), p(x, y)), inf if a pair never occurs."""
        return -float((self.product * self.scores).sum())

    def cpc_loss(self, candidates: int) -> float:
        """The least expected CPC loss with N candidates, the best critic's, exactly.

        For each x the y with the same p(y|x) / p(y) are alike, so the distractors are counted in such groups and the
        expectation runs over all counts with their multinomial probabilities.

        Raises:
            InputError: N is less than 2, or there are too many counts.
        """
        if candidates < 2:
            raise InputError(f"N of {candidates}: x has no other candidate to be told from; give at least two")
        total, of_y = 0.0, self.joint.sum(0)
        for together, ratios in zip(self.joint, self.scores.exp(), strict=True):  # one x: (L,) and (L,)
            values, group = (ratios * 1e12).round().unique(return_inverse=True)
            values = values / 1e12
            drawn = torch.zeros_like(values).index_add(0, group, of_y)  # how likely a distractor is of each group
            belongs = torch.zeros_like(values).index_add(0, group, together)
            counts = _compositions(candidates - 1, len(values))  # (C, groups)
            weights = _multinomial(counts, drawn)
            sums = counts @ values
            for value, probability in zip(values, belongs, strict=True):
                if probability > 0:
                    total += float(probability * (weights * ((value + sums) / value).log()).sum())
        return total

    def sample(self, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Symbols x and y, int64 (count,) each."""
        generator = torch.Generator().manual_seed(seed)
        cells = torch.multinomial(self.joint.flatten(), count, replacement=True, generator=generator)
        return cells // self.joint.shape[1], cells % self.joint.shape[1]


def symmetric_channel(symbols: int, error: float) -> Channel:
    """x is one of K symbols, all as likely; y is x, but with probability `error` one of the K - 1 others."""
    if symbols < 2 or not 0 <= error <= 1:
        raise InputError(f"a symmetric channel needs 2 symbols or more and an error in [0, 1], not {symbols}, {error}")
    joint = torch.full((symbols, symbols), error / (symbols - 1), dtype=torch.float64)
    return Channel(joint.fill_diagonal_(1 - error) / symbols)


def _check_rho(rho: float) -> None:
    if not -1 <= rho <= 1:
        raise InputError(f"a correlation must lie in [-1, 1], not {rho}")


def _compositions(total: int, parts: int) -> torch.Tensor:
    """All ways to write `total` as a sum of so many counts, float64 (C, parts)."""
    if math.comb(total + parts - 1, parts - 1) > MOST_TERMS:
        raise InputError(f"{total + 1} candidates of {parts} kinds are too many to enumerate; give fewer candidates")
    bars = itertools.combinations(range(total + parts - 1), parts - 1)
    ends = torch.tensor([(-1, *each, total + parts - 1) for each in bars], dtype=torch.float64)
    return ends.diff(dim=1) - 1


def _multinomial(counts: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The probability of each row of counts, (C,)."""
    ways = torch.lgamma(counts.sum(1) + 1) - torch.lgamma(counts + 1).sum(1)
    return (ways + torch.special.xlogy(counts, probabilities).sum(1)).exp()
