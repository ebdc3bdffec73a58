import numpy as np
import pytest
from scipy.special import softmax

from hfssl.errors import InputError
from hfssl.finetuning.loop import decode
from hfssl.finetuning.strategies.combination import combine, in_order


@pytest.fixture
def dev(toy):
    return lambda key: toy(key)[1][toy(key)[0].dev_splits[0]]


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_the_mean_of_probabilities_against_a_loop(dev):
    data = dev("glue/mnli")
    members = draws(3, len(data), 3)
    found = combine(data, members)
    for row in range(len(data)):
        mean = sum(softmax(member[row].astype(float)) for member in members) / 3
        assert np.exp(found[row]) == pytest.approx(mean, rel=1e-12)
    # Not the mean of the logits: one sure member outweighs two that are not.
    sure = np.array([[[9.0, 0, 0]], [[0, 1.0, 0]], [[0, 1.0, 0]]])
    assert combine(data.select([0], ""), sure).argmax() == 0


def test_candidates_share_their_items_softmax(dev):
    data = dev("superglue/record")
    counts = [len(names) for names in data.candidates]
    members = draws(2, sum(counts), 1)
    found, at = combine(data, members)[:, 0], 0
    for count in counts:
        mean = np.mean([softmax(member[at : at + count, 0].astype(float)) for member in members], axis=0)
        assert np.exp(found[at : at + count]) == pytest.approx(mean, rel=1e-12)
        at += count


@pytest.mark.parametrize("average", ["mean", "ranks"])
@pytest.mark.parametrize("key", ["glue/mnli", "glue/stsb", "superglue/copa"])
def test_an_ensemble_of_one_is_the_model_bit_for_bit(dev, key, average):
    data = dev(key)
    rows = 2 * len(data) if key == "superglue/copa" else len(data)
    logits = draws(rows, 3 if key == "glue/mnli" else 1)
    assert combine(data, [logits], average) is logits
    twice = decode(data, combine(data, [logits, logits], average), data.task.labels)
    wanted = decode(data, logits, data.task.labels)
    assert twice == (pytest.approx(wanted, rel=1e-6) if key == "glue/stsb" else wanted)


def test_ranks_of_two_classes_are_the_majoritys_vote(dev):
    data = dev("glue/rte").select([0, 1], "")
    yes, no, sure = [1.0, 0.0], [0.0, 1.0], [0.0, 99.0]
    members = np.array([[yes, yes], [yes, no], [sure, sure]])
    assert combine(data, members, "ranks").argmax(1).tolist() == [0, 1]
    assert combine(data, members).argmax(1).tolist() == [1, 1]
    assert combine(data, members[1:2].repeat(2, 0), "ranks").argmax(1).tolist() == [0, 1]
    tie = np.array([[yes, yes], [sure, [0.0, 0.1]]])
    assert combine(data, tie, "ranks").argmax(1).tolist() == [1, 0], "equal votes: by the mean probability"


def test_ranks_of_scores_do_not_ask_for_the_members_scale(dev):
    data = dev("glue/stsb")
    one = np.sort(np.random.default_rng(1).uniform(0, 5, len(data)))[:, None]
    other = one**3  # the same order
    found = combine(data, [one, other], "ranks")
    assert found[:, 0] == pytest.approx(((one + other) / 2)[:, 0], rel=1e-12)
    backwards = combine(data, [one, other[::-1]], "ranks")
    assert np.ptp(backwards) < 1e-9, "opposite orders leave nothing to tell the rows apart"
    assert combine(data, [one, other])[:, 0] == pytest.approx(((one + other) / 2)[:, 0])


@pytest.mark.parametrize("average", ["mean", "ranks"])
def test_a_member_without_an_answer_has_no_vote(dev, average):
    data = dev("glue/rte").select([0, 1], "")
    silent, said = np.full((2, 2), -np.inf), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert combine(data, [silent, said], average).argmax(1).tolist() == [0, 1]
    assert np.isneginf(combine(data, [silent, silent], average)).all()


def test_classes_are_put_in_order_by_their_names(dev):
    logits = draws(4, 2)
    assert (in_order(logits, ("a", "b"), ("b", "a")) == logits[:, ::-1]).all()
    with pytest.raises(InputError, match="classes a, c cannot be averaged with a, b"):
        in_order(logits, ("a", "c"), ("a", "b"))
    with pytest.raises(InputError, match="predictions of shapes"):
        combine(dev("glue/rte"), [logits, logits[:3]])
