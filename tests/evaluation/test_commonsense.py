"""COMET's scores against NLTK's own numbers, counts on five rows, and thresholds found by trying all."""

import numpy as np
import pytest

from hfssl.evaluation.commonsense import best_threshold, bleu2, comet_bleu2, nearest_objects, novelty


@pytest.mark.parametrize(
    ("hypothesis", "references", "nltk"),
    [  # nltk 3.10.4: sentence_bleu(references, hypothesis, weights=(.5, .5), smoothing_function=method1)
        ("to go to the shop", ["to go to a shop", "to have money"], 0.6324555320336759),
        ("happy", ["happy", "sad"], 0.316227766016838),
        ("happy", ["sad"], 0),
        ("to be happy", ["happy"], 0.12909944487358058),
        ("", ["none"], 0),
        ("a b c d", ["a b", "c d", "x y z w v"], 0.6358881766016378),
        ("the the the", ["the cat"], 0.12909944487358058),
        ("the the cat", ["the cat", "the dog"], 0.5773502691896257),  # of the two references the most "the", not all
        ("to eat food", ["to eat food"], 1.0),
        ("to eat", ["to eat a big lunch"], 0.22313016014842982),
    ],
)
def test_bleu2_is_nltk_s(hypothesis, references, nltk):
    assert bleu2(hypothesis, references) == pytest.approx(nltk, abs=1e-12)


def test_words_that_comet_takes_out():
    assert bleu2("to <unk> eat food <END>", ["to eat food"]) == 1


GENERATED = {
    ("x runs", "xReact"): ["tired", "to eat food"],
    ("x runs", "xWant"): ["to eat food", "to rest"],
    ("x eats", "xReact"): ["full", "none"],
}
REFERENCES = {
    ("x runs", "xReact"): ["tired", "none", "none", "sad"],  # half are none: skipped
    ("x runs", "xWant"): ["to eat food", "none", "to rest now"],  # a third is not more than a third
    ("x eats", "xReact"): ["full"],
}


def test_mean_over_beams_and_relations_and_the_rule_on_none():
    found = comet_bleu2(GENERATED, REFERENCES, draws=50)
    want = (1 + bleu2("to rest", REFERENCES["x runs", "xWant"])) / 2
    react = (0.1**0.5 + 0) / 2
    assert found.relations == pytest.approx({"xWant": 100 * want, "xReact": 100 * react})
    assert found.score == pytest.approx(50 * (want + react))
    assert (found.scored, found.skipped) == (2, 1)
    assert found.interval.low <= found.score <= found.interval.high
    assert comet_bleu2({("x", "r"): ["none"]}, {("x", "r"): ["none"]}) is None


def test_novelty_counts_by_hand():
    train = [
        ("x runs", "xReact", "tired"),
        ("x runs", "xWant", "to rest"),
        ("x eats", "xReact", " full "),
        ("x eats", "xWant", "to pay"),
        ("x sits", "xWant", "none"),
    ]
    found = novelty(GENERATED, train)
    # Known tuples: runs/tired, runs/to rest, eats/full. Objects: "to eat food" is new, twice of six, one of five kinds.
    assert found.sro == pytest.approx(100 * 3 / 6)
    assert found.o == pytest.approx(100 * 2 / 6)
    assert found.unique_o == pytest.approx(100 * 1 / 5)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.5
    best = max(((scores > at) == labels).mean() for at in np.arange(-1, 7) + 0.5)
    assert ((scores > best_threshold(scores, labels)) == labels).mean() == best


def test_the_nearest_head_answers():
    train = [
        ("PersonX eats a pear", "xWant", "to rest"),
        ("PersonX eats a pear", "xWant", "to pay"),
        ("PersonX rides a horse", "xWant", "to get down"),
        ("PersonX eats an apple", "xReact", "full"),
    ]
    queries = [("PersonY rides a horse home", "xWant"), ("PersonX eats an apple", "xWant"), ("x", "xNeed")]
    found = nearest_objects(train, queries, beams=2)
    assert found["PersonY rides a horse home", "xWant"] == ["to get down", "to rest"]
    assert found["PersonX eats an apple", "xWant"] == ["to rest", "to pay"], "of the same relation alone"
    assert ("x", "xNeed") not in found
