"""Closed forms and exact enumeration: the constants of reference/methods.md d, slow enumeration, degenerate cases."""

import itertools
import math

import pytest
import torch

from hfssl.errors import InputError
from hfssl.information.truth import (
    Channel,
    gaussian_correlation,
    gaussian_information,
    gaussian_pairs,
    gaussian_reverse_kl,
    gaussian_scores,
    lecture_bound,
    symmetric_channel,
)


def test_ten_symbols_where_the_lectures_bound_is_the_tighter_one():
    channel = symmetric_channel(10, 0.5)
    information, reverse_kl = channel.information, channel.reverse_kl
    assert channel.cpc_loss(2) == pytest.approx(0.5091, abs=5e-5)
    assert lecture_bound(information, reverse_kl, 2) == pytest.approx(0.2537, abs=5e-5)
    assert math.log(2) - information == pytest.approx(0.1823, abs=5e-5)
    assert information == pytest.approx(0.511, abs=5e-4) and reverse_kl == pytest.approx(0.368, abs=5e-4)


def test_two_symbols_and_sixteen_candidates():
    channel = symmetric_channel(2, 0.2)
    assert channel.cpc_loss(16) == pytest.approx(2.5912, abs=5e-5)
    assert math.log(16) - channel.information == pytest.approx(2.5798, abs=5e-5)
    assert lecture_bound(channel.information, channel.reverse_kl, 16) == pytest.approx(2.3827, abs=5e-5)


@pytest.mark.parametrize(("symbols", "error", "candidates"), [(10, 0.5, 2), (10, 0.5, 64), (2, 0.2, 16), (3, 0.6, 5)])
def test_the_least_loss_lies_over_both_bounds_and_under_ln_n(symbols, error, candidates):
    channel = symmetric_channel(symbols, error)
    loss = channel.cpc_loss(candidates)
    assert lecture_bound(channel.information, channel.reverse_kl, candidates) <= loss <= math.log(candidates)
    assert math.log(candidates) - channel.information <= loss


def random_channel(rows, columns, seed=0):
    joint = torch.rand(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Channel(joint / joint.sum())


@pytest.mark.parametrize("channel", [random_channel(3, 4), symmetric_channel(3, 0.3), symmetric_channel(3, 0.0)])
def test_the_loss_equals_the_sum_over_all_tuples(channel):
    joint, of_x, of_y = channel.joint, channel.joint.sum(1), channel.joint.sum(0)
    ratio, total = channel.joint / (of_x[:, None] * of_y), 0.0
    for x, y in itertools.product(range(joint.shape[0]), range(joint.shape[1])):
        for others in itertools.product(range(joint.shape[1]), repeat=3):
            if joint[x, y] == 0:
                continue
            weight = joint[x, y] * math.prod(float(of_y[other]) for other in others)
            total += float(weight) * math.log(sum(float(ratio[x, j]) for j in (y, *others)) / float(ratio[x, y]))
    assert channel.cpc_loss(4) == pytest.approx(total, abs=1e-10)


def test_the_information_of_a_channel_is_the_sum_and_that_of_merged_symbols_is_less():
    channel = random_channel(4, 5)
    joint = channel.joint.tolist()
    of_x, of_y = channel.joint.sum(1).tolist(), channel.joint.sum(0).tolist()
    cells = [(x, y, p) for x, row in enumerate(joint) for y, p in enumerate(row)]
    assert channel.information == pytest.approx(sum(p * math.log(p / of_x[x] / of_y[y]) for x, y, p in cells))
    backwards = sum(of_x[x] * of_y[y] * math.log(of_x[x] * of_y[y] / p) for x, y, p in cells)
    assert channel.reverse_kl == pytest.approx(backwards)
    merged = Channel(torch.cat([channel.joint[:1] + channel.joint[1:2], channel.joint[2:]]))
    assert 0 < merged.information < channel.information


def test_supports_that_differ_give_minus_infinity_and_no_nan():
    channel = symmetric_channel(4, 0.0)
    assert channel.information == pytest.approx(math.log(4)) and channel.reverse_kl == math.inf
    assert lecture_bound(channel.information, channel.reverse_kl, 8) == -math.inf
    assert math.log(8) - math.log(4) <= channel.cpc_loss(8) < math.log(8)
    assert gaussian_information(3, 1.0) == gaussian_reverse_kl(3, -1.0) == math.inf
    assert lecture_bound(math.inf, math.inf, 8) == -math.inf
    independent = symmetric_channel(4, 0.75)
    assert independent.information == pytest.approx(0, abs=1e-12)
    assert independent.cpc_loss(8) == pytest.approx(math.log(8), abs=1e-9)


@pytest.mark.parametrize(
    ("dimensions", "rho", "information"), [(1, 0.9, 0.830), (20, 0.5, 2.877), (20, 0.9, 16.6), (128, 0.5, 18.41)]
)
def test_gaussians(dimensions, rho, information):
    assert gaussian_information(dimensions, rho) == pytest.approx(information, rel=1e-3)
    assert gaussian_correlation(dimensions, gaussian_information(dimensions, rho)) == pytest.approx(rho)
    sum_of_both = gaussian_information(dimensions, rho) + gaussian_reverse_kl(dimensions, rho)
    assert sum_of_both == pytest.approx(dimensions * rho**2 / (1 - rho**2))
    assert gaussian_reverse_kl(dimensions, rho) > gaussian_information(dimensions, rho)


def test_the_lectures_bound_of_gaussians():
    for dimensions, rho, candidates, expected in ((1, 0.9, 64, -0.038), (20, 0.5, 512, -0.415)):
        parts = gaussian_information(dimensions, rho), gaussian_reverse_kl(dimensions, rho)
        assert lecture_bound(*parts, candidates) == pytest.approx(expected, abs=5e-4)


def test_the_best_critic_of_gaussians_is_the_ratio_of_scipys_densities():
    from scipy.stats import multivariate_normal, norm

    x, y = (part.double() for part in gaussian_pairs(6, 2, -0.7, seed=3))
    both = multivariate_normal([0, 0], [[1, -0.7], [-0.7, 1]])
    for i, j in itertools.product(range(6), repeat=2):
        expected = sum(
            both.logpdf([a, b]) - norm.logpdf(a) - norm.logpdf(b)
            for a, b in zip(x[i].tolist(), y[j].tolist(), strict=True)
        )
        assert float(gaussian_scores(x, y, -0.7)[i, j]) == pytest.approx(expected, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    torch.testing.assert_close(gaussian_scores(x @ turn, y @ turn, -0.7), gaussian_scores(x, y, -0.7))


def test_samples_have_their_distribution():
    x, y = gaussian_pairs(50_000, 2, 0.6, seed=1)
    covariance = torch.cov(torch.cat([x, y], 1).T)
    expected = torch.eye(4) + 0.6 * torch.eye(4).roll(2, 0)
    torch.testing.assert_close(covariance, expected, atol=0.02, rtol=0)
    channel = random_channel(3, 4)
    a, b = channel.sample(100_000, seed=2)
    found = torch.zeros(3, 4, dtype=torch.float64).index_put((a, b), torch.tensor(1e-5).double(), accumulate=True)
    torch.testing.assert_close(found, channel.joint, atol=0.005, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_information(2, 1.5), r"a correlation must lie in \[-1, 1\], not 1.5"),
        (lambda: gaussian_pairs(9, 2, math.nan), "correlation"),
        (lambda: lecture_bound(1.0, 1.0, 1), "N of 1"),
        (lambda: symmetric_channel(3, 0.5).cpc_loss(1), "N of 1"),
        (lambda: symmetric_channel(1, 0.5), "2 symbols or more"),
        (lambda: Channel(torch.ones(2, 2)), "sum to 1"),
        (lambda: Channel(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), "empty rows"),
        (lambda: random_channel(9, 9).cpc_loss(64), "too many to enumerate"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
