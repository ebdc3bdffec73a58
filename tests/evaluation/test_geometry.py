"""Closed forms of RankMe, feature deviation, alignment and uniformity."""

import math

import pytest
import torch

from hfssl.evaluation.geometry import alignment, feature_std, rankme, uniformity

ONE = torch.ones(20, 6)


def test_rankme_counts_directions():
    assert rankme(ONE) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.eye(6)) == pytest.approx(6, abs=1e-4)
    assert rankme(torch.eye(6)[:3].repeat(5, 1)) == pytest.approx(3, abs=1e-4)
    singular = torch.tensor([3.0, 1.0])  # shares 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(torch.diag(singular)) == pytest.approx(math.exp(entropy), abs=1e-4)
    random = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    share = torch.linalg.svdvals(random.double()) / torch.linalg.svdvals(random.double()).sum()
    expected = float((-share * share.log()).sum().exp())
    assert rankme(random) == pytest.approx(expected, rel=1e-4) and rankme(random.T) == pytest.approx(expected, rel=1e-4)


def test_the_deviation_is_none_for_one_point_and_one_for_even_directions():
    assert feature_std(ONE) == pytest.approx(0, abs=1e-9)
    assert feature_std(5 * ONE) == pytest.approx(0, abs=1e-9)
    random = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_std(random) == pytest.approx(1, abs=0.01)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert feature_std(signs) == pytest.approx(1, abs=1e-9)


def test_alignment_is_the_distance_of_the_views():
    assert alignment(ONE, 3 * ONE) == pytest.approx(0, abs=1e-12)
    assert alignment(torch.eye(4), -torch.eye(4)) == pytest.approx(4)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0)) == pytest.approx(2)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0), alpha=1) == pytest.approx(math.sqrt(2))


def test_uniformity_of_one_point_of_axes_and_of_two_poles():
    assert uniformity(ONE) == pytest.approx(0, abs=1e-12)
    assert uniformity(7 * torch.eye(5)) == pytest.approx(-4)  # all squared distances are 2
    assert uniformity(torch.tensor([[0.0, 1.0], [0.0, -1.0]])) == pytest.approx(-8)
    assert uniformity(torch.eye(5), t=1) == pytest.approx(-2)
