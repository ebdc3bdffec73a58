"""The measures of clustering against scikit-learn and against every naming of the codes."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from hfssl.errors import InputError
from hfssl.evaluation.clustering import clustering_scores, entropy_bits, hungarian_accuracy, many_to_one


def made(codes, labels, size=60, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(labels, size=size)
    return np.where(random.random(size) < 0.5, truth % codes, random.integers(codes, size=size)), truth


@pytest.mark.parametrize(("codes", "labels"), [(4, 4), (5, 3), (3, 5)])
def test_hungarian_is_the_best_of_all_namings(codes, labels):
    z, truth = made(codes, labels)
    size = max(codes, labels)
    best = max((np.array(names)[z] == truth).mean() for names in itertools.permutations(range(size)))
    assert hungarian_accuracy(z, truth) == pytest.approx(best)


def test_many_to_one_is_the_best_of_all_readings():
    z, truth = made(4, 3)
    best = max((np.array(names)[z] == truth).mean() for names in itertools.product(range(3), repeat=4))
    assert many_to_one(z, truth) == pytest.approx(best)
    assert many_to_one(np.arange(60), truth) == 1
    assert many_to_one(np.zeros(60, int), truth) == np.bincount(truth).max() / 60
    table = metrics.cluster.contingency_matrix(truth, z)
    assert many_to_one(z, truth) == pytest.approx(table.max(0).sum() / 60)  # purity


def test_the_others_are_scikit_learn_s_and_in_bits():
    z, truth = made(4, 3)
    scores = clustering_scores(z, truth)
    assert scores["V-measure"] == pytest.approx(metrics.v_measure_score(truth, z))
    assert scores["V-measure"] == pytest.approx(metrics.normalized_mutual_info_score(truth, z))
    both = entropy_bits(z) * entropy_bits(truth)
    assert scores["NMI"] == pytest.approx(scores["information"] / both**0.5)
    assert scores["codes used"] == 4
    even = np.repeat([7, 3, 5, 1], 5)
    assert entropy_bits(even) == pytest.approx(2)
    assert clustering_scores(even, even > 4)["information"] == pytest.approx(1)
    scores = clustering_scores(even, even // 2)
    assert scores["information"] == pytest.approx(2)  # each code has a label of its own
    assert scores["entropy"] == pytest.approx(2)


def test_names_do_not_matter():
    z, truth = made(4, 4)
    renamed = np.array([30, 10, 0, 20])[z]
    assert clustering_scores(renamed, truth) == pytest.approx(clustering_scores(z, truth))
    assert hungarian_accuracy(renamed, z) == 1


def test_no_codes_and_another_number_of_labels_are_refused():
    with pytest.raises(InputError, match="there are 3 codes and 2 labels"):
        clustering_scores(np.arange(3), np.arange(2))
    with pytest.raises(InputError, match="there are 0 codes and 0 labels"):
        hungarian_accuracy(np.array([]), np.array([]))
