"""fastText's n-grams: ids beside fastText's own and gensim's, and the n-grams by hand."""

import json
from pathlib import Path

import pytest
from gensim.models.fasttext import ft_ngram_hashes

from hfssl.models.subwords import ngram_rows

IDS = json.loads(Path(__file__).with_name("fasttext_ids.json").read_text(encoding="utf-8"))["ids"]


def test_the_ids_are_fasttext_s():
    """Made by the package, see the file; most of the words are not ASCII."""
    assert len(IDS) > 200 and sum(not word.isascii() for word in IDS) > 100
    assert {word: ngram_rows(word, 3, 6, 2_000_000) for word in IDS} == IDS


@pytest.mark.parametrize("setting", [(3, 6, 2_000_000), (1, 3, 50_000), (2, 4, 7), (5, 5, 100)])
def test_the_ids_are_gensim_s(setting):
    for word in ["", "a", *IDS]:
        assert ngram_rows(word, *setting) == ft_ngram_hashes(word, *setting)


def test_which_ngrams_a_word_has():
    """By the hash of the whole text: its only n-gram when n is its length with < and >."""

    def rows(ngrams):
        return [ngram_rows(ngram, 1, 1, 2**32)[0] for ngram in ngrams]  # single characters

    assert ngram_rows("ab", 1, 1, 2**32) == rows("ab"), "< and > alone are none"
    assert ngram_rows("яб", 1, 1, 2**32) == rows("яб") and len(ngram_rows("яб", 2, 9, 2**32)) == 6
    assert ngram_rows("a", 4, 6, 10) == []
    fnv = 2166136261  # FNV-1a of "<a>" by its definition
    for byte in b"<a>":
        fnv = (fnv ^ byte) * 16777619 % 2**32
    assert ngram_rows("a", 3, 6, 2**32) == [fnv] and ngram_rows("a", 3, 6, 1000) == [fnv % 1000]
