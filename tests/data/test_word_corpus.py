"""The vocabulary, phrases and the cache of word vectors' text, beside slow references."""

import json
import random
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

from hfssl.data.blocks import CorpusArguments, load_text_data
from hfssl.data.sources import TextArguments, load_texts
from hfssl.data.word_corpus import (
    LONGEST_SENTENCE,
    WordCorpus,
    WordCorpusArguments,
    build_word_corpus,
    join_phrases,
    load_word_corpus,
    train_pieces,
    words_of,
)
from hfssl.errors import InputError

SENTENCES = [["b", "a", "b", "c"], [], ["a", "d", "b"], ["c", "a"], ["e"]]


def test_words_by_frequency_then_code_point_and_without_the_rare():
    corpus = build_word_corpus([*SENTENCES, ["ä", "ä", "Z", "Z"]], min_count=2)
    assert corpus.words == ["a", "b", "Z", "c", "ä"]
    assert corpus.counts.tolist() == [3, 3, 2, 2, 2]
    assert list(corpus.sentences()) == [["b", "a", "b", "c"], ["a", "b"], ["c", "a"], ["ä", "ä", "Z", "Z"]]
    assert corpus.ids.dtype == np.int32 and corpus.counts.dtype == np.int64
    assert np.bincount(corpus.ids).tolist() == corpus.counts.tolist()


def test_long_sentences_are_cut_and_none_is_lost():
    words = [f"w{number % 7}" for number in range(2 * LONGEST_SENTENCE + 5)]
    corpus = build_word_corpus([words, words[:3], words[:LONGEST_SENTENCE]], min_count=1)
    assert [len(sentence) for sentence in corpus.sentences()] == [LONGEST_SENTENCE] * 2 + [5, 3, LONGEST_SENTENCE]
    assert list(chain(*corpus.sentences())) == [*words, *words[:3], *words[:LONGEST_SENTENCE]]


def slow_phrases(sentences, min_count, threshold):
    """word2phrase.c, a word at a time."""
    words = Counter(word for sentence in sentences for word in sentence)
    pairs = Counter(pair for sentence in sentences for pair in pairwise(sentence))
    total, joined = sum(words.values()), []
    for sentence in sentences:
        out, place = [], 0
        while place < len(sentence):
            pair = tuple(sentence[place : place + 2])
            known = len(pair) == 2 and min(words[pair[0]], words[pair[1]]) >= min_count
            if known and (pairs[pair] - min_count) / words[pair[0]] / words[pair[1]] * total > threshold:
                out.append("_".join(pair))
                place += 2
            else:
                out.append(sentence[place])
                place += 1
        joined.append(out)
    return joined


@pytest.mark.parametrize("passes", [1, 2])
def test_phrases_are_word2phrase_s(passes):
    draw = random.Random(0)
    phrases = ["new york city", "a a", "of the", "so to say", "x_y z"]
    sentences = [
        " ".join(draw.choice(phrases if draw.random() < 0.4 else ["new", "a", "of", "say", "x", "y"]) for _ in range(9))
        for _ in range(60)
    ]
    sentences = [sentence.split()[: draw.randrange(12)] for sentence in sentences]
    expected = sentences
    for turn in range(passes):
        expected = slow_phrases(expected, 5, 8 / 2**turn)
    corpus = build_word_corpus(sentences, 1, passes, 8.0)
    # The corpus counts with its own min_count, so the passes are called with the reference's.
    numbers = {word: number for number, word in enumerate(dict.fromkeys(chain(*sentences)))}
    ids = np.array([numbers[word] for sentence in sentences for word in sentence], np.int32)
    ends, words = np.cumsum([0, *map(len, sentences)]), list(numbers)
    for turn in range(passes):
        ids, ends, words = join_phrases(ids, ends, words, 5, 8 / 2**turn)
    found = [[words[i] for i in ids[a:b]] for a, b in pairwise(ends)]
    assert found == expected
    assert any("_" in word for word in chain(*found)) and any("_" in word for word in corpus.words)
    if passes == 2:
        assert any(word.count("_") == 2 for word in chain(*found))


def test_what_a_word_is():
    assert words_of("Don't stop—the ’cause! It’s 3.5\n\nEND") == [
        ["don't", "stop", "the", "cause", "it’s", "3", "5", "end"]
    ]
    assert words_of("Don't stop !\n\n a b\n", tokenized=True) == [["Don't", "stop", "!"], ["a", "b"]]
    assert words_of(" ... ") == []


def test_a_folder_of_files_comes_from_the_cache_the_second_time(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("The cat sat. The mat!")
    (tmp_path / "text" / "b.jsonl").write_text(json.dumps({"text": "the CAT"}) + "\n" + json.dumps({"text": "a mat"}))
    text = TextArguments(text_path=str(tmp_path / "text"), eval_fraction=0)
    arguments = WordCorpusArguments(min_count=2, cache=str(tmp_path / "cache"))
    made = load_word_corpus(text, arguments)
    assert made.words == ["the", "cat", "mat"] and made.counts.tolist() == [3, 2, 2]
    assert list(made.sentences()) == [["the", "cat", "the", "mat"], ["the", "cat"], ["mat"]]
    monkeypatch.setattr("hfssl.data.word_corpus.words_of", None)
    again = load_word_corpus(text, arguments)
    assert isinstance(again.ids, np.memmap) and list(again.sentences()) == list(made.sentences())
    assert again.fingerprint == made.fingerprint and again.source == made.source
    with pytest.raises(TypeError):  # other settings are another corpus
        load_word_corpus(text, WordCorpusArguments(min_count=1, cache=arguments.cache))
    [folder] = (tmp_path / "cache" / "words").iterdir()
    (folder / "counts.npy").unlink()
    with pytest.raises(InputError, match=r"holds no words of this version, or damaged ones; delete it"):
        WordCorpus.open(folder)


def test_the_text_engine_s_corpus_gives_the_words_of_its_text(tmp_path):
    documents = [f"The cat’s {number} mats; naïve dogs\nsat on the cat's mat {number}." for number in range(40)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    text = TextArguments(text_path=str(tmp_path / "text.jsonl"))
    data = load_text_data(text, CorpusArguments(vocab_size=400, block_size=16, corpus_dir=str(tmp_path)), "gpt2")
    folder = tmp_path / "prepared"
    folder.mkdir()
    data.train.corpus.folder.rename(folder / "train")
    data.tokenizer.save_pretrained(folder / "tokenizer")
    found = load_word_corpus(text, WordCorpusArguments(corpus=str(folder), cache=str(tmp_path)))
    expected = build_word_corpus(words for document in load_texts(text) for words in words_of(document))
    assert found.words == expected.words and np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.ends, expected.ends)


def test_pieces_merge_by_the_words_counts():
    corpus = build_word_corpus([["low"] * 50, ["lower"] * 2, ["new"] * 3], 1)
    pieces = train_pieces(corpus, 258)
    tokens = [pieces.convert_ids_to_tokens(pieces(word)["input_ids"]) for word in ("low", "lower", "новый", "lo w")]
    assert len(pieces) == 258 and tokens[:2] == [["low"], ["low", "e", "r"]]
    assert "".join(tokens[2]) and None not in tokens[2]  # any word, from its bytes
    with pytest.raises(InputError, match="at least 256"):
        train_pieces(corpus, 100)


@pytest.mark.parametrize(
    ("sentences", "says"),
    [
        ([], r"no word comes 2 times \(--min_count\)"),
        ([["a", "b"], ["c"]], "no word comes 2 times"),
        ([["a", "b", "a"]], "only 'a' comes 2 times"),
    ],
)
def test_too_little_text(sentences, says):
    with pytest.raises(InputError, match=says):
        build_word_corpus(sentences, 2)


def test_fewer_words_than_the_window():
    corpus = build_word_corpus([["a", "b", "a"]], 1)
    with pytest.raises(InputError, match="has 3 words that come often enough, no more than the window, 5"):
        corpus.check_window(5)


@pytest.mark.parametrize("settings", [{"min_count": 0}, {"phrase_passes": -1}, {"phrase_threshold": 0.0}])
def test_bad_settings(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        WordCorpusArguments(**settings)
