"""Whole words and spans: where words begin, and the fast choice of units against the obvious one."""

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfssl.data.builtin import builtin_texts
from hfssl.data.masking import (
    IGNORED,
    LECTURE_SCHEME,
    LONGEST_SPAN,
    SPAN_STOP,
    MaskingCollator,
    choose_units,
    span_words,
    word_edges,
    word_starts,
)
from hfssl.errors import InputError
from hfssl.tokenization import train_bpe

WORD = re.compile(r" ?(?:[A-Za-z]+|[0-9]+|[^A-Za-z0-9 ]+)| +")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(builtin_texts("prose")[:60], 900, "bert", show_progress=False)


@pytest.fixture(scope="module")
def blocks(tokenizer):
    text = re.sub(r"\s+", " ", " ".join(text for text in builtin_texts("prose")[:40] if text.isascii()))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    body = np.array(ids[: len(ids) // 62 * 62]).reshape(-1, 62)[:200]
    around = np.full((len(body), 1), tokenizer.cls_token_id), np.full((len(body), 1), tokenizer.sep_token_id)
    return np.concatenate([around[0], body, around[1]], 1)


def starts_by_text(tokenizer, ids):
    """A word starts where the text has one: the strings of the tokens are put together and cut by a pattern."""
    strings = [tokenizer.decode([token]) for token in ids]
    begins = {match.start() for match in WORD.finditer("".join(strings))}
    position, found = 0, []
    for string in strings:
        found.append(position in begins)
        position += len(string)
    return np.array(found)


def test_words_of_a_byte_level_bpe_are_those_of_the_text(tokenizer, blocks):
    maskable = np.ones((len(blocks), 62), bool)
    starts = word_starts(word_edges(tokenizer), blocks[:, 1:-1], maskable)
    expected = np.stack([starts_by_text(tokenizer, row[1:-1]) for row in blocks])
    expected[:, 0] = True
    assert 0.2 < expected.mean() < 0.9 and (starts == expected).mean() > 0.999
    # What is left: a space that was not merged with the letters after it, where the pattern sees one word as well.
    assert (starts != expected).sum() <= (starts | expected).sum() / 1000


@pytest.mark.parametrize(
    ("words", "ids", "expected"),
    [
        (["[MASK]", "play", "##ing", "##s", "no", "."], [1, 2, 3, 4, 5], [1, 0, 0, 1, 1]),
        (["[MASK]", "▁play", "ing", "s", "▁no", "."], [1, 2, 3, 4, 5], [1, 0, 0, 1, 1]),
        (["[MASK]", "▁a", "▁", "b", "▁12", "3"], [1, 2, 3, 4, 5], [1, 1, 0, 1, 0]),
    ],
)
def test_words_of_wordpiece_and_sentencepiece(words, ids, expected):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[MASK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]")
    starts = word_starts(word_edges(tokenizer), np.array([ids]), np.ones((1, len(ids)), bool))
    assert starts[0].tolist() == [bool(start) for start in expected]


def test_a_vocabulary_without_marks_is_refused():
    backend = Tokenizer(models.WordLevel({"[MASK]": 0, "a": 1}, unk_token="[MASK]"))
    with pytest.raises(InputError, match="marks no words"):
        MaskingCollator(PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]"), unit="word")


def test_an_unknown_unit_is_refused(tokenizer):
    with pytest.raises(
        InputError, match=r"unknown mask_unit 'wrod': one of token, word, span, phrase, entity; did you mean 'word'"
    ):
        MaskingCollator(tokenizer, unit="wrod")


def slow_choice(starts, maskable, words, choose, budget):
    """One row, one unit after the other."""
    length, begins = len(starts), np.flatnonzero(starts)

    def end_of(begin, count):
        position, seen = begin, 0
        while position < length and maskable[position]:
            seen += starts[position]
            if seen > count:
                break
            position += 1
        return position

    ends = {begin: end_of(begin, words[begin]) for begin in begins}
    if not any(end - begin <= budget for begin, end in ends.items()):
        ends = {begin: min(end, end_of(begin, 1)) for begin, end in ends.items()}
    if not any(end - begin <= budget for begin, end in ends.items()):
        ends = {begin: min(end, begin + budget) for begin, end in ends.items()}
    taken, first = np.zeros(length, bool), np.zeros(length, int)
    for begin in sorted(begins, key=lambda begin: choose[begin]):
        unit = slice(begin, ends[begin])
        if taken[unit].any() or taken.sum() + ends[begin] - begin > budget:
            continue
        taken[unit], first[unit] = True, begin
    return taken, first


@pytest.mark.parametrize("unit", ["word", "span"])
def test_the_fast_choice_is_the_obvious_one(unit):
    generator = np.random.default_rng(0)
    for _ in range(60):
        rows, length = generator.integers(1, 9), generator.integers(1, 50)
        maskable = generator.random((rows, length)) < generator.choice([0.0, 0.7, 0.97, 1.0])
        starts = maskable & (generator.random((rows, length)) < generator.choice([0.1, 0.5, 1.0]))
        starts[:, 0] = maskable[:, 0]
        starts[:, 1:] |= maskable[:, 1:] & ~maskable[:, :-1]
        words = span_words(generator.random((rows, length))) if unit == "span" else np.ones((rows, length), int)
        choose = generator.random((rows, length))
        count = maskable.sum(1)
        budget = np.where(count > 0, np.maximum(1, np.rint(0.15 * count)), 0).astype(int)
        taken, first = choose_units(starts, maskable, words, choose, budget)
        for row in range(rows):
            slow, begin = slow_choice(starts[row], maskable[row], words[row], choose[row], budget[row])
            assert (taken[row] == slow).all() and (first[row] == begin).all()
        assert (taken.sum(1) <= budget).all() and not (taken & ~maskable).any()
        assert ((taken.sum(1) > 0) == (budget > 0)).all(), "where something may be hidden, something is"


def test_span_lengths_have_their_law():
    draws = np.random.default_rng(0).random(200_000)
    counts = np.bincount(span_words(draws), minlength=LONGEST_SPAN + 1)[1:]
    law = SPAN_STOP * (1 - SPAN_STOP) ** np.arange(LONGEST_SPAN)
    expected = law / law.sum() * len(draws)
    assert len(counts) == LONGEST_SPAN and ((counts - expected) ** 2 / expected).sum() < 27.9  # 9 df, p = .001
    assert span_words(np.array([0.0, np.nextafter(1, 0)])).tolist() == [1, LONGEST_SPAN]


def items(blocks, epoch=0):
    return [{"input_ids": row, "index": index, "epoch": epoch} for index, row in enumerate(blocks)]


@pytest.mark.parametrize("unit", ["word", "span"])
def test_whole_words_one_treatment_and_a_budget(tokenizer, blocks, unit):
    batch = MaskingCollator(tokenizer, unit=unit)(items(blocks))
    corrupted, chosen = batch["input_ids"].numpy(), batch["labels"].numpy() != IGNORED
    special = np.isin(blocks, tokenizer.all_special_ids)
    assert not (chosen & special).any()
    assert (chosen.sum(1) <= np.rint(0.15 * (~special).sum(1))).all() and chosen.sum() > 0.13 * (~special).sum()
    words = np.cumsum(word_starts(word_edges(tokenizer), blocks, ~special), 1)
    treated = {"mask": 0, "random": 0, "same": 0}
    for row in range(len(blocks)):
        for word in np.unique(words[row][chosen[row]]):
            inside = (words[row] == word) & ~special[row]
            assert chosen[row][inside].all(), "a word is hidden whole"
            masks = corrupted[row][inside] == tokenizer.mask_token_id
            assert masks.all() or not masks.any(), "and treated as one"
            same = (corrupted[row][inside] == blocks[row][inside]).all()
            treated["mask" if masks.all() else "same" if same else "random"] += 1
    total = sum(treated.values())
    assert treated["mask"] / total == pytest.approx(0.8, abs=0.05) and treated["random"] > 0 and treated["same"] > 0


@pytest.mark.parametrize("unit", ["word", "span"])
def test_a_mask_does_not_depend_on_the_batch_and_changes_with_the_epoch(tokenizer, blocks, unit):
    collator = MaskingCollator(tokenizer, unit=unit, scheme=LECTURE_SCHEME, positions=True)
    together, alone = collator(items(blocks)), [collator([item]) for item in items(blocks)]
    for name, value in together.items():
        assert torch.equal(value, torch.cat([batch[name] for batch in alone]))
    assert not torch.equal(collator(items(blocks, epoch=1))["labels"], together["labels"])
    assert (together["input_ids"][together["labels"] != IGNORED] == tokenizer.mask_token_id).all()
