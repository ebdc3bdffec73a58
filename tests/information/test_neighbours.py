"""Neighbours and bins: scikit-learn's own, the truth where it is near, what must change nothing."""

import math

import pytest
import torch
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

from hfssl.errors import InputError
from hfssl.information import binned, ksg
from hfssl.information import neighbours as module
from hfssl.information.neighbours import neighbour_information
from hfssl.information.truth import gaussian_information, gaussian_pairs, symmetric_channel


@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_one_dimension_is_scikit_learns_and_the_general_one_agrees(neighbours, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 700)  # a few rows at a time
    x, y = gaussian_pairs(500, 1, 0.8, seed=2)
    x, y = x / x.std(), y / y.std()
    expected = mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=neighbours, random_state=0)[0]
    assert ksg(x, y, neighbours) == ksg(x[:, 0], y[:, 0], neighbours) == expected
    assert neighbour_information(x.double(), y.double(), neighbours) == pytest.approx(expected, abs=1e-5)


def test_vectors_equal_a_slow_loop():
    from scipy.special import digamma

    x, y = (part.double() for part in gaussian_pairs(40, 3, 0.8, seed=2))
    total = 0.0
    for i in range(40):
        apart = [(float((x[i] - x[j]).norm()), float((y[i] - y[j]).norm())) for j in range(40) if j != i]
        radius = sorted(max(pair) for pair in apart)[2]
        total += sum(digamma(sum(pair[part] < radius for pair in apart) + 1) for part in (0, 1))
    assert ksg(x, y) == pytest.approx(float(digamma(3) + digamma(40) - total / 40), abs=1e-12)


def test_near_the_truth_in_few_dimensions_and_unmoved_by_rotations():
    x, y = (part.double() for part in gaussian_pairs(1500, 2, 0.7, seed=1))
    found = ksg(x, y)
    assert found == pytest.approx(gaussian_information(2, 0.7), abs=0.06)
    turns = [torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q for _ in range(2)]
    assert ksg(x @ turns[0], y @ turns[1]) == pytest.approx(found, abs=1e-9)
    assert ksg(x[:, :1], y) < found  # data processing


def test_bins_of_a_channel_are_its_symbols():
    channel = symmetric_channel(4, 0.4)
    x, y = channel.sample(20_000, seed=1)
    plain, bias = mutual_info_score(x, y), (16 - 4 - 4 + 1) / 40_000
    assert binned(x, y) == pytest.approx(plain - bias, abs=1e-12)
    assert binned(x, y) == pytest.approx(channel.information, abs=0.02)


def test_bins_of_a_density_lose_a_little():
    x, y = gaussian_pairs(20_000, 1, 0.7, seed=1)
    assert gaussian_information(1, 0.7) - 0.04 < binned(x, y) < gaussian_information(1, 0.7)
    assert binned(x, y, bins=2) < binned(x, y, bins=8) < binned(x, y)
    signs = 2 / math.pi * math.asin(0.7)  # two bins: the signs agree with probability (1 + this) / 2
    agree = (1 + signs) / 2
    expected = math.log(2) + agree * math.log(agree) + (1 - agree) * math.log(1 - agree)
    assert binned(x, y, bins=2) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ksg(x, x, 20), "k = 20 neighbours of 20"),
        (lambda x: ksg(x.round(), x.round()), "most of these are ties: use binned"),
        (lambda x: ksg(x.round().repeat(1, 2), x.round().repeat(1, 2)), "most of these are ties: use binned"),
        (lambda x: binned(x.repeat(1, 2), x), "use ksg"),
        (lambda x: binned(x, x, 1), "1 bins"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.linspace(0, 3, 20)[:, None])
