import numpy as np
import pytest

from hfssl.errors import InputError
from hfssl.evaluation.labels import held_out_masks, label_amount, select_labels

LABELS = np.array([0] * 50 + [1] * 20 + [2] * 5)


def test_few_labels_are_the_same_number_a_class_and_follow_the_seed():
    chosen = select_labels(LABELS, 5, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [5, 5, 5] and len(set(chosen)) == 15
    assert np.array_equal(chosen, select_labels(LABELS, 5, seed=0))
    assert not np.array_equal(chosen, select_labels(LABELS, 5, seed=1))
    with pytest.raises(InputError, match="class 2 has 5 training images, fewer than 6"):
        select_labels(LABELS, 6, seed=0)


def test_a_share_of_the_labels_is_a_share_of_each_class_and_at_least_one():
    assert np.bincount(LABELS[select_labels(LABELS, 0.1, seed=0)]).tolist() == [5, 2, 1]
    assert np.bincount(LABELS[select_labels(LABELS, 0.01, seed=0)]).tolist() == [1, 1, 1]
    assert [label_amount(amount) for amount in ("all", 5, 0.01, 0.125)] == ["all", "5 a class", "1 %", "12.5 %"]


def test_a_tenth_of_each_class_is_held_out_and_more_than_once_where_that_is_little():
    (mask,) = held_out_masks(np.arange(1000) % 10, seed=0)
    assert np.bincount((np.arange(1000) % 10)[mask]).tolist() == [10] * 10
    assert not np.array_equal(mask, held_out_masks(np.arange(1000) % 10, seed=1)[0])
    few = held_out_masks(LABELS, seed=0)  # 5 + 2 + 1 images, no 50
    assert len(few) == 5 and {mask.sum() for mask in few} == {8}
    assert len({mask.tobytes() for mask in few}) == 5
    assert held_out_masks(np.arange(4), seed=0) == []  # one image a class: none to spare
