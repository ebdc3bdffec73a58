"""BLEU and chrF are sacrebleu's; the bootstrap's sums give the same BLEU."""

import random

import numpy as np
import pytest
import sacrebleu

from hfssl.errors import InputError
from hfssl.evaluation.significance import bootstrap_sums
from hfssl.evaluation.translation import bleu_difference, bleu_of_sums, bleu_sums, score_translations

REFERENCES = [
    f"{article} {noun} sah, {adverb}, einen {thing} im Garten."
    for article, noun in (("Der", "Hund"), ("Die", "Katze"), ("Das", "Kind"))
    for adverb in ("heute", "am Morgen", "dann und wann")
    for thing in ("Ball", "Baum", "roten Drachen")
]


def worse(texts, share, seed=0):
    """Each word replaced with a probability."""
    rng = random.Random(seed)
    return [" ".join("etwas" if rng.random() < share else word for word in text.split()) for text in texts]


def test_the_same_is_100_and_nothing_is_0():
    found = score_translations(REFERENCES, REFERENCES, draws=20)
    assert found["BLEU"] == pytest.approx(100) == found["chrF"] and found["length ratio"] == 1
    assert found["low"] == pytest.approx(100) == found["high"]
    assert score_translations(["x"] * 27, REFERENCES, draws=20)["BLEU"] < 1
    assert score_translations([""] * 27, REFERENCES, draws=20)["BLEU"] == 0


def test_the_scores_are_sacrebleu_s_and_the_signature_says_how():
    hypotheses = worse(REFERENCES, 0.2)
    found = score_translations(hypotheses, REFERENCES, draws=200)
    assert found["BLEU"] == sacrebleu.corpus_bleu(hypotheses, [REFERENCES]).score
    assert found["chrF"] == sacrebleu.corpus_chrf(hypotheses, [REFERENCES]).score
    assert found["low"] < found["BLEU"] < found["high"]
    assert "tok:13a" in found["signatures"]["BLEU"] and "case:lc" in found["signatures"]["BLEU, lower case"]
    lowered = score_translations([text.lower() for text in REFERENCES], REFERENCES, draws=20)
    assert lowered["BLEU, lower case"] == pytest.approx(100) and lowered["BLEU"] < 90


def test_sums_over_sentences_give_the_corpus_s_bleu():
    hypotheses = worse(REFERENCES, 0.3)
    rows = bleu_sums(hypotheses, REFERENCES)
    weights = np.random.default_rng(0).multinomial(27, [1 / 27] * 27)
    drawn = [text for text, times in zip(hypotheses, weights, strict=True) for _ in range(times)]
    truth = [text for text, times in zip(REFERENCES, weights, strict=True) for _ in range(times)]
    expected = sacrebleu.corpus_bleu(drawn, [truth]).score
    assert bleu_of_sums((weights @ rows)[None])[0] == pytest.approx(expected, abs=1e-9)


def test_without_a_right_4_gram_it_is_smoothed_as_sacrebleu_s():
    hypotheses = [" ".join(reversed(text.split())) for text in REFERENCES]
    expected = sacrebleu.corpus_bleu(hypotheses, [REFERENCES])
    assert expected.counts[-1] == 0 < expected.score
    assert bleu_of_sums(bleu_sums(hypotheses, REFERENCES).sum(0, keepdims=True))[0] == pytest.approx(expected.score)


def test_a_paired_difference_is_surer_than_two_intervals():
    first, second = worse(REFERENCES, 0.2), worse(REFERENCES, 0.2, seed=1)
    same = bleu_difference(first, first, REFERENCES, draws=50)
    assert same == (0, 0, 0)
    difference, low, high = bleu_difference(REFERENCES, second, REFERENCES, draws=200)
    assert 0 < low < difference < high
    assert difference == pytest.approx(100 - sacrebleu.corpus_bleu(second, [REFERENCES]).score)


def test_bootstrap_sums_have_the_law_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    draws = bootstrap_sums(np.stack([values, np.ones(400)], 1), draws=2000, seed=1)
    means = draws[:, 0] / draws[:, 1]
    assert (draws[:, 1] == 400).all() and means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_numbers_that_do_not_fit():
    with pytest.raises(InputError, match="26 translations for 27 references"):
        score_translations(REFERENCES[1:], REFERENCES)
