"""Batches of words in their contexts: what is drawn, by which law, and that the draws follow from the sample alone."""

import numpy as np
import pytest
from scipy.stats import chisquare

from hfssl.data.word_contexts import ContextCollator, WordContexts, keep_probabilities, noise_probabilities
from hfssl.data.word_corpus import build_word_corpus
from hfssl.errors import InputError
from hfssl.models import CBOWConfig


def corpus_of(sentences):
    return build_word_corpus([sentence.split() for sentence in sentences], 1)


def batch(contexts, indices, epoch=0):
    items = [{"index": index, "epoch": epoch} for index in indices]
    return {name: part.numpy() for name, part in ContextCollator(contexts, {})(items).items()}


def test_the_probabilities_of_staying_are_word2vec_s():
    counts = np.array([50_000, 900, 90, 10])
    total = 51_000
    expected = [min(1, (1e-3 / (n / total)) ** 0.5 + 1e-3 / (n / total)) for n in counts]
    assert np.allclose(keep_probabilities(counts, 1e-3), expected, rtol=1e-12)
    assert expected[0] < 0.04 and expected[-1] == 1
    assert (keep_probabilities(counts, 0) == 1).all()


def test_every_sample_of_a_pass_without_subsampling():
    """Each word once; its neighbours within a window of 1 to w words, in the order of the positions."""
    sentences = ["a b c d e", "f g", "h", "c c c", *["e d c b a f g h d a c"] * 3]
    corpus, config = corpus_of(sentences), CBOWConfig(window=3)
    contexts = WordContexts(corpus, config, subsample=0, negatives=2)
    found = batch(contexts, range(len(contexts)))
    number = {word: i for i, word in enumerate(corpus.words)}
    place, reaches = 0, []
    for sentence in sentences:
        ids = [number[word] for word in sentence.split()]
        for t, target in enumerate(ids):
            assert found["target_ids"][place] == target
            fitting = []
            for reach in (1, 2, 3):
                near = [ids[t + k] if 0 <= t + k < len(ids) and abs(k) <= reach else -1 for k in (-3, -2, -1, 1, 2, 3)]
                fitting += [reach] if near == found["context_ids"][place].tolist() else []
            assert fitting
            reaches += fitting[:1]
            place += 1
    assert place == len(contexts) and set(reaches) == {1, 2, 3}


def test_draws_follow_from_seed_pass_and_sample_alone():
    corpus = corpus_of(["a b c d e f g a b a c d a b"] * 20)
    contexts = WordContexts(corpus, CBOWConfig(window=2), subsample=0.05, seed=3)
    assert 0.5 * len(corpus) < len(contexts) < len(corpus)
    whole = batch(contexts, range(12), epoch=1)
    for name, part in batch(contexts, [7, 3], epoch=1).items():
        assert np.array_equal(part, whole[name][[7, 3]])
    mixed = ContextCollator(contexts, {})([{"index": 3, "epoch": 1}, {"index": 3, "epoch": 0}])
    assert np.array_equal(mixed["negative_ids"][0], whole["negative_ids"][3])
    assert not np.array_equal(mixed["negative_ids"][1], whole["negative_ids"][3])
    other = WordContexts(corpus, CBOWConfig(window=2), subsample=0.05, seed=4)
    assert not np.array_equal(batch(other, range(12), 1)["negative_ids"], whole["negative_ids"])


def test_negatives_have_the_noise_s_law_and_leave_the_target_out():
    corpus = corpus_of(
        [" ".join(word for word, n in zip("abcdef", (60, 30, 20, 10, 5, 2), strict=True) for _ in range(n))]
    )
    contexts = WordContexts(corpus, CBOWConfig(window=2), subsample=0, negatives=40, noise_exponent=0.75)
    found = batch(contexts, range(len(contexts)))
    hit = found["negative_ids"] < 0
    drawn = np.where(hit, found["target_ids"][:, None], found["negative_ids"])
    expected = noise_probabilities(corpus.counts, 0.75)
    weights = np.array([60, 30, 20, 10, 5, 2]) ** 0.75
    assert np.allclose(expected, weights / weights.sum(), rtol=1e-12)
    assert chisquare(np.bincount(drawn.ravel(), minlength=6), expected * drawn.size).pvalue > 0.01
    assert hit.any() and not (found["negative_ids"] == found["target_ids"][:, None]).any()


def test_subsampled_words_leave_by_their_probability():
    corpus = corpus_of(["a b a c a d a e"] * 400)
    contexts = WordContexts(corpus, CBOWConfig(window=2), subsample=0.1)
    targets = np.concatenate([batch(contexts, range(len(contexts)), epoch)["target_ids"] for epoch in range(5)])
    expected = keep_probabilities(corpus.counts, 0.1) * corpus.counts
    assert len(contexts) == round(expected.sum())
    assert chisquare(np.bincount(targets, minlength=5), expected / expected.sum() * len(targets)).pvalue > 0.01


def test_skip_gram_pairs_a_word_with_its_neighbours_by_word2vec_s_law():
    """A window of U{1..w} meets a neighbour k words away in w - k + 1 of w cases."""
    words = [f"w{number:04d}" for number in range(600)]
    corpus = corpus_of([" ".join(words)])  # all as frequent: the numbers are the places
    contexts = WordContexts(corpus, CBOWConfig(window=4, architecture="skipgram"), subsample=0, negatives=1)
    found = batch(contexts, range(len(contexts)))
    context = found["context_ids"][:, 0]
    assert len(contexts) == 5 * 600 and found["context_ids"].shape[1] == 1
    apart = (found["target_ids"] - context)[context >= 0]
    counts = np.bincount(apart + 4, minlength=9)
    assert counts[4] == 0
    law = np.array([1, 2, 3, 4, 4, 3, 2, 1]) / 20
    assert chisquare(np.delete(counts, 4), law * len(apart)).pvalue > 0.01
    assert np.isin(np.arange(600), context).all()


def test_no_more_words_than_the_window():
    with pytest.raises(InputError, match="has 4 words that come often enough, no more than the window, 5"):
        WordContexts(corpus_of(["a b a b"]), CBOWConfig())
