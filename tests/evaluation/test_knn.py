"""Weighted nearest neighbours against a slow loop in float64 and against lightly's formula."""

import numpy as np
import pytest
import torch

from hfssl.errors import InputError
from hfssl.evaluation.embeddings import made_up_embeddings
from hfssl.evaluation.knn import knn_grid, knn_predict


def slow(queries, bank, labels, classes, k, temperature=0.07):
    a, b = queries.double().numpy(), bank.double().numpy()
    similarity = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    found = []
    for row in similarity:
        votes = np.zeros(classes)
        for neighbour in np.argsort(-row)[:k]:
            votes[labels[neighbour]] += np.exp(row[neighbour] / temperature)
        found.append(votes.argmax())
    return found


@pytest.mark.parametrize("count", [120, 1003])  # few enough to sort all; too many, and no whole number of groups
def test_equals_the_slow_loop_for_each_k(count):
    (bank, labels), (queries, _) = made_up_embeddings(count, 50, 12, classes=3, distance=0.2)
    ks = (20, 1, 7, count // 2)
    expected = [slow(queries, bank, labels, 3, k) for k in ks]
    for chunk_size in (512, 13):
        assert knn_grid(queries, bank, labels, 3, ks, chunk_size=chunk_size).tolist() == expected
    assert [knn_predict(queries, bank, labels, 3, k).tolist() for k in ks] == expected


def test_copies_in_the_bank_and_a_low_temperature():
    (bank, labels), _ = made_up_embeddings(40, 0, 8, classes=4)
    many, many_labels = bank.repeat(30, 1), labels.repeat(30)  # thirty times the same similarity
    assert torch.equal(knn_predict(bank, many, many_labels, 4, knn_k=20), labels)
    assert torch.equal(knn_predict(bank, many, many_labels, 4, knn_k=20, knn_t=1e-4), labels)  # no overflow


@pytest.mark.parametrize("k", [0, 121])
def test_k_lies_between_one_and_the_bank(k):
    (bank, labels), (queries, _) = made_up_embeddings(120, 5, 4)
    with pytest.raises(InputError, match=f"k = {k} neighbours of a bank of 120"):
        knn_grid(queries, bank, labels, 10, (5, k))
