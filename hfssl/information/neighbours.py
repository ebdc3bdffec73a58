"""Estimates of mutual information that train nothing: from nearest neighbours, and from counts in bins. In nats."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

from hfssl.errors import InputError

CHUNK = 2**24  # distances held at once
MOST_TIES = 0.5  # share of samples whose neighbours lie on them, from which it is no density


def ksg(x: torch.Tensor, y: torch.Tensor, neighbours: int = 3) -> float:
    """Kraskov, Stögbauer and Grassberger 2004, equation 8 (their first estimator).

    Distances are Euclidean in x and in y, so that rotations of either change nothing, and the larger of the two
    between pairs. For one dimension each it is scikit-learn's `mutual_info_regression`, which is never below 0. It
    is far too small where the information or the dimensions are large.

    Args:
        x: (N, D) or (N,). y: (N, E) or (N,). Continuous.
        neighbours: k.

    Raises:
        InputError: k is not less than N, or most samples are ties.
    """
    x, y = _columns(x), _columns(y)
    if not 1 <= neighbours < len(x):
        raise InputError(f"k = {neighbours} neighbours of {len(x)} samples: k must lie between 1 and one less")
    if x.shape[1] == y.shape[1] == 1:
        _refuse_ties(len(np.unique(torch.cat([x, y], 1).numpy(), axis=0)), len(x))
        return float(mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=neighbours, random_state=0)[0])
    return neighbour_information(x, y, neighbours)


def neighbour_information(x: torch.Tensor, y: torch.Tensor, neighbours: int = 3) -> float:
    """`ksg` for any dimensions, by all distances, some rows at a time; x (N, D) and y (N, E) in float64."""
    count, terms, ties = len(x), 0.0, 0
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # the quick way loses small distances
    for rows in torch.arange(count).split(max(1, CHUNK // count)):
        apart_x, apart_y = torch.cdist(x[rows], x, **exact), torch.cdist(y[rows], y, **exact)  # (c, N)
        radius = torch.maximum(apart_x, apart_y).kthvalue(neighbours + 1, dim=1, keepdim=True).values  # with itself
        ties += int((radius == 0).sum())
        within = [(apart < radius).sum(1).clamp(min=1) for apart in (apart_x, apart_y)]  # with itself: n + 1
        terms += sum(digamma(found.numpy()).sum() for found in within)
    _refuse_ties(count - ties, count)
    return float(digamma(neighbours) + digamma(count) - terms / count)


def binned(x: torch.Tensor, y: torch.Tensor, bins: int | None = None) -> float:
    """The information of two variables' bins (scikit-learn's `mutual_info_score`), less its bias by Miller and Madow.

    Up to 64 different values are bins themselves; more are cut into bins of as many samples each. The bias, (cells of
    the table that are met - rows - columns + 1) / 2N, makes it nearly 0, and also below, for independent variables.
    Bins lose information, so it stays below that of a continuous distribution.

    Args:
        x, y: (N,) or (N, 1).
        bins: of each variable; by default the cube root of N, and at most 64.

    Raises:
        InputError: there are several columns, for which a table of bins is almost empty.
    """
    x, y = _columns(x), _columns(y)
    if x.shape[1] > 1 or y.shape[1] > 1:
        raise InputError(f"binned is for one column each, not {x.shape[1]} and {y.shape[1]}: use ksg")
    bins = bins or min(64, round(len(x) ** (1 / 3)))
    if bins < 2:
        raise InputError(f"{bins} bins tell nothing apart; give at least 2 bins")
    a, b = _bins(x[:, 0].numpy(), bins), _bins(y[:, 0].numpy(), bins)
    met = [len(np.unique(values, axis=0)) for values in (np.stack([a, b], 1), a, b)]
    return float(mutual_info_score(a, b)) - (met[0] - met[1] - met[2] + 1) / (2 * len(a))


def _bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each value."""
    different, which = np.unique(values, return_inverse=True)
    if len(different) <= 64:
        return which
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]), values)


def _columns(samples: torch.Tensor) -> torch.Tensor:
    samples = samples.detach().cpu().double()
    return samples[:, None] if samples.ndim == 1 else samples


def _refuse_ties(different: int, count: int) -> None:
    if different < (1 - MOST_TIES) * count:
        raise InputError("ksg is for continuous samples, and most of these are ties: use binned")
