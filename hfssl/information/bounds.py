"""Estimators of mutual information I(x; y) from the scores that a critic gives to pairs, in nats.

A critic f is any function of x and y. Its scores on N pairs are a matrix (N, N), scores[i, j] = f(x_i, y_j): the pairs
that belong together are on the diagonal, and off it x and y are independent. The best critic is ln r up to what each
estimator leaves free, r = p(y|x) / p(y).

`infonce` and, with one pair of samples for each expectation, `nwj` and `tuba` are lower bounds of I; `dv` and `mine`
would be if the mean under the logarithm were not of few samples, which makes them too large. `infonce` is never above
ln N. McAllester and Stratos 2020 ("Formal limitations on the measurement of mutual information", theorem 1.1) show
that no bound that holds with confidence for every distribution is much above ln N, where N counts all samples; the
others of this file pay for what they give above it with variance. `doe` is no bound.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hfssl.errors import InputError


def infonce(scores: torch.Tensor) -> torch.Tensor:
    """ln N less the CPC loss, a lower bound of I, never above ln N (van den Oord et al. 2018, section 2.3).

    The candidates of x_i are all N of the y. With the lecture's scores z_y . z_x the loss is `cpc_loss_in_batch`; the
    best critic is ln r up to a function of x.

    Args:
        scores: (N, N).

    Returns:
        A scalar, in nats.

    Raises:
        InputError: as every estimator here, if the scores are no (N, N) with N of 2 or more, or one is NaN.
    """
    count = _check(scores)
    return math.log(count) - F.cross_entropy(scores, torch.arange(count, device=scores.device))


def lecture(scores: torch.Tensor) -> torch.Tensor:
    """The lecture's bound ln N - (N-1)/N (I + KL(p(x)p(y), p(x, y))): of the CPC loss, and not of I, from below.

    The mean score of the pairs less that of independent x and y is, for the best critic ln r + c(x), the sum of the two
    divergences (Jeffreys'), whatever c. For any critic, best or not, the bound lies under that critic's own loss on the
    same scores, since by Jensen's inequality the mean over candidates of exp(s_j - s_i) has a logarithm no less than
    the mean of s_j - s_i. For Gaussians ln N - I is always the tighter bound of the loss; not so on some channels
    (`hfssl.information.truth`).

    Args:
        scores: (N, N).

    Returns:
        A scalar, in nats; -inf if a score off the diagonal is -inf (the supports are not the same).
    """
    count = _check(scores)
    jeffreys = _joint(scores) - _without_diagonal(scores).mean()
    return math.log(count) - (count - 1) / count * jeffreys


def dv(scores: torch.Tensor) -> torch.Tensor:
    """Donsker and Varadhan's: E f - ln E' exp f, E over pairs, E' over independent x and y (MINE, equation 2).

    The best critic is ln r up to a constant. Of few samples it is too large: the logarithm of their mean is, in the
    mean, less than that of the expectation.

    Args:
        scores: (N, N).

    Returns:
        A scalar, in nats.
    """
    _check(scores)
    return _joint(scores) - _log_mean_product(scores)


def mine(
    scores: torch.Tensor, running: torch.Tensor | None = None, carry: float = 0.99
) -> tuple[torch.Tensor, torch.Tensor]:
    """`dv` with a moving average of E' exp f, whose gradient is less biased (MINE, Belghazi et al. 2018, section 3.2).

    Args:
        scores: (N, N).
        running: ln of the average so far, what the last call returned; None at first.
        carry: what is kept of it; with 0 value and gradient are `dv`'s.

    Returns:
        The value with the average in the place of the batch's mean, a scalar in nats, with the gradient of
        E f - E' exp f / average; and the new `running`.

    Raises:
        InputError: also if carry is not in [0, 1).
    """
    _check(scores)
    if not 0 <= carry < 1:
        raise InputError(f"carry {carry} must be at least 0 and less than 1")
    here = _log_mean_product(scores)
    fresh = here.detach()
    if running is not None and carry:
        fresh = torch.logaddexp(running + math.log(carry), fresh + math.log1p(-carry))
    share = torch.where(here > -math.inf, here - fresh, -math.inf).exp()  # apart in all: nothing is shared
    return _joint(scores) - fresh - (share - share.detach()), fresh


def nwj(scores: torch.Tensor) -> torch.Tensor:
    """Nguyen, Wainwright and Jordan's lower bound of I: E f - E' exp(f - 1). The best critic is 1 + ln r.

    Args:
        scores: (N, N).

    Returns:
        A scalar, in nats.
    """
    return tuba(scores, torch.ones_like(scores[:, 0]))


def js_loss(scores: torch.Tensor) -> torch.Tensor:
    """The logistic loss of telling pairs from independent x and y, a scalar in nats; the best critic is ln r."""
    _check(scores)
    return F.softplus(-scores.diagonal()).mean() + F.softplus(_without_diagonal(scores)).mean()


def nwj_js(scores: torch.Tensor) -> torch.Tensor:
    """`nwj` of a critic that learns by `js_loss`, which is stable (Poole et al. 2019, section 2.3, I_JS).

    Args:
        scores: (N, N), near ln r.

    Returns:
        The value of nwj(scores + 1), a scalar in nats, with the gradient of -`js_loss`.
    """
    loss = js_loss(scores)
    return (nwj(scores + 1) + loss).detach() - loss


def tuba(scores: torch.Tensor, log_baseline: torch.Tensor) -> torch.Tensor:
    """Barber and Agakov's lower bound of I without a normaliser (Poole et al. 2019, section 2.2, I_TUBA).

        1 + E[f - ln a(x)] - E'[exp(f) / a(x)]

    Args:
        scores: (N, N).
        log_baseline: (N,), ln a(x_i). The best is ln E_y exp f(x, y); with 1 for all it is `nwj`.

    Returns:
        A scalar, in nats.
    """
    _check(scores, log_baseline)
    scores = scores - log_baseline[:, None]
    return 1 + _joint(scores) - _log_mean_product(scores).exp()


def interpolated(scores: torch.Tensor, log_baseline: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    """Between `infonce` and `tuba`: the baseline is alpha m(x) + (1 - alpha) a(x) (Poole et al. 2019, equation 17).

    m(x) is the mean of exp f over the candidates: over all N of them beside a pair, and over the N - 1 that do not
    belong to x beside independent ones, as in McAllester and Stratos' code. With alpha 1 it is `infonce`, with 0
    `tuba`; it is never above 1 + ln(N / alpha).

    Args:
        scores: (N, N).
        log_baseline: (N,), ln a(x_i).
        alpha: in [0, 1].

    Returns:
        A scalar, in nats.
    """
    count = _check(scores, log_baseline)
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha} must lie in [0, 1]")
    if alpha == 1:
        return infonce(scores)
    rest = math.log1p(-alpha) + log_baseline
    with_pair, without = scores.logsumexp(1) - math.log(count), _without_diagonal(scores).logsumexp(1)
    without = without - math.log(count - 1)
    if alpha:
        with_pair = torch.logaddexp(math.log(alpha) + with_pair, rest)
        without = torch.logaddexp(math.log(alpha) + without, rest)
    else:
        with_pair = without = rest
    product = _log_mean_product(scores - without[:, None]).exp()
    return 1 + (scores.diagonal() - with_pair).mean() - product


def gaussian_cross_entropy(y: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """-ln of a diagonal Gaussian's density.

    Args:
        y: (N, D). mean, log_scale: (N, D) or (D,), log_scale ln of the standard deviation.

    Returns:
        (N,), in nats.
    """
    return (0.5 * ((y - mean) / log_scale.exp()) ** 2 + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)


def logistic_cross_entropy(y: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """-ln of a product of logistic densities; as `gaussian_cross_entropy`, log_scale ln of the logistic's scale."""
    whitened = (y - mean) / log_scale.exp()
    return (whitened + 2 * F.softplus(-whitened) + log_scale).sum(-1)


def doe(
    y: torch.Tensor,
    marginal: tuple[torch.Tensor, torch.Tensor],
    conditional: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The difference of entropies H(y) - H(y|x), each a cross-entropy to a Gaussian (McAllester and Stratos 2020).

    It is no bound: each cross-entropy is too large, by an unknown amount. Both are trained by their sum
    (`hfssl.information.estimation`), and the difference is reported.

    Args:
        y: (N, D).
        marginal: mean and log_scale, (D,) each, of the model of y.
        conditional: mean and log_scale, (N, D) each, of the model of y given x.

    Returns:
        A scalar, in nats.
    """
    return (gaussian_cross_entropy(y, *marginal) - gaussian_cross_entropy(y, *conditional)).mean()


def doe_logistic(
    y: torch.Tensor,
    marginal: tuple[torch.Tensor, torch.Tensor],
    conditional: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """`doe` with logistic densities, whose tails are heavier."""
    return (logistic_cross_entropy(y, *marginal) - logistic_cross_entropy(y, *conditional)).mean()


def _check(scores: torch.Tensor, log_baseline: torch.Tensor | None = None) -> int:
    """N."""
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise InputError(f"scores must be (N, N), those of each x with each y, not {tuple(scores.shape)}")
    if len(scores) < 2:
        raise InputError("N of 1: a single pair has no other candidate to be told from; give at least two")
    if scores.isnan().any():
        raise InputError("a score is NaN: look at the samples and at the critic's learning rate")
    if log_baseline is not None and log_baseline.shape != scores.shape[:1]:
        raise InputError(f"log_baseline must be ({len(scores)},), one value an x, not {tuple(log_baseline.shape)}")
    return len(scores)


def _joint(scores: torch.Tensor) -> torch.Tensor:
    return scores.diagonal().mean()


def _without_diagonal(scores: torch.Tensor) -> torch.Tensor:
    """(N, N - 1), each row without the pair's own score."""
    count = len(scores)
    return scores.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def _log_mean_product(scores: torch.Tensor) -> torch.Tensor:
    """ln of the mean of exp over the scores off the diagonal."""
    count = len(scores)
    return _without_diagonal(scores).flatten().logsumexp(0) - math.log(count * (count - 1))
