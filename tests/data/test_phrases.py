"""ERNIE's masks: phrases of a gazetteer and runs of capitalised words are hidden whole or not at all."""

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfssl.data.masking import IGNORED, LECTURE_SCHEME, MaskingCollator, word_edges, word_starts
from hfssl.data.phrases import LONGEST, Capitals, Gazetteer, read_gazetteer
from hfssl.errors import InputError
from hfssl.tokenization import train_bpe

TEXTS = [
    "New York lies by the sea. The people of New York City go by train, not by car.",
    "They saw John Smith in new york; John ran. A New Yorker said no.",
    "In fact the train, in fact all of it, came by night from Salt Lake City Hall.",
]
PHRASES = ["New York", "New York City", "in fact", "by train", "by"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 300, "bert", show_progress=False)


def encoded(tokenizer, text):
    return np.array([tokenizer(text)["input_ids"]])


def units(tokenizer, joiner, text):
    """The units of a text as strings."""
    ids = encoded(tokenizer, text)
    maskable = ~np.isin(ids, tokenizer.all_special_ids)
    starts = joiner.join(word_starts(word_edges(tokenizer), ids, maskable), ids, maskable)
    groups = np.cumsum(starts[0]) * maskable[0]
    return [tokenizer.decode(ids[0][groups == unit]).strip() for unit in range(1, groups.max() + 1)]


def test_the_longest_phrase_that_begins_at_a_word_is_one_unit(tokenizer):
    gazetteer = Gazetteer(tokenizer, PHRASES)
    assert units(tokenizer, gazetteer, TEXTS[0]) == [
        "New York", "lies", "by", "the", "sea", ".", "The", "people", "of", "New York City", "go", "by train", ",",
        "not", "by", "car", ".",
    ]  # fmt: skip
    found = units(tokenizer, gazetteer, TEXTS[1])
    assert "new" in found and "york" in found, "capitals count"
    assert "New" in found and "Yorker" in found, "a phrase ends at a word's end"
    assert units(tokenizer, gazetteer, TEXTS[2]).count("in fact") == 1 and "In" in units(tokenizer, gazetteer, TEXTS[2])


def test_a_run_of_capitalised_words_is_one_unit(tokenizer):
    found = units(tokenizer, Capitals(tokenizer), TEXTS[1])
    assert found == ["They", "saw", "John Smith", "in", "new", "york", ";", "John", "ran", ".", "A New Yorker", "said",
                     "no", "."]  # fmt: skip
    assert "Salt Lake City Hall" in units(tokenizer, Capitals(tokenizer), TEXTS[2])
    heading = " ".join(["New"] * (LONGEST + 3))
    assert [len(unit.split()) for unit in units(tokenizer, Capitals(tokenizer), heading)] == [LONGEST, 3]


def test_a_phrase_cut_by_the_end_of_a_block_or_by_a_special_token_is_none(tokenizer):
    gazetteer = Gazetteer(tokenizer, ["New York"])
    ids = encoded(tokenizer, "by New York")[:, 1:-1]
    edges = word_edges(tokenizer)
    york = len(ids[0]) - len(tokenizer(" York", add_special_tokens=False)["input_ids"])
    for blocks in (
        ids[:, : york + 1 if york + 1 < len(ids[0]) else york],
        np.insert(ids, york, tokenizer.sep_token_id)[None],
    ):
        maskable = ~np.isin(blocks, tokenizer.all_special_ids)
        starts = word_starts(edges, blocks, maskable)
        assert np.array_equal(gazetteer.join(starts, blocks, maskable), starts)
    maskable = np.ones(ids.shape, bool)
    whole = gazetteer.join(word_starts(edges, ids, maskable), ids, maskable)
    assert whole.sum() == 2, "with both words in the block it is one, also at the very end"


@pytest.mark.parametrize(("unit", "gazetteer"), [("phrase", PHRASES), ("entity", PHRASES), ("entity", None)])
def test_units_are_hidden_whole_from_the_sample_s_own_draws(tokenizer, unit, gazetteer):
    width = max(len(encoded(tokenizer, text)[0]) for text in TEXTS)
    rows = [np.pad(encoded(tokenizer, text)[0], (0, width), constant_values=tokenizer.pad_token_id) for text in TEXTS]
    rows = [row[:width] for row in rows]
    items = [{"input_ids": row, "index": i, "epoch": epoch} for i, row in enumerate(rows) for epoch in range(80)]
    collator = MaskingCollator(tokenizer, 0.3, LECTURE_SCHEME, unit=unit, gazetteer=gazetteer)
    batch = collator(items)
    hidden = (batch["labels"] != IGNORED).numpy()
    maskable = ~np.isin(np.stack([item["input_ids"] for item in items]), tokenizer.all_special_ids)
    ids = np.stack([item["input_ids"] for item in items])
    starts = collator.phrases.join(word_starts(collator.edges, ids, maskable), ids, maskable)
    groups = np.cumsum(starts, 1) * maskable
    several = 0
    for row in range(len(items)):
        for group in range(1, groups[row].max() + 1):
            inside = hidden[row][groups[row] == group]
            assert inside.all() or not inside.any()
            text = tokenizer.decode(ids[row][groups[row] == group]).strip()
            several += bool(inside.all() and re.search(r"\w \w", text))
    assert several > 20, "units of several words are among them"
    assert (hidden.sum(1) <= np.rint(0.3 * maskable.sum(1))).all() and not (hidden & ~maskable).any()
    alone = [collator([item])["labels"] for item in items]
    assert torch.equal(torch.cat(alone), batch["labels"])
    assert not torch.equal(batch["labels"][0], batch["labels"][1]), "the next epoch has another mask"


def test_a_gazetteer_belongs_to_the_run(tokenizer):
    one, other = (MaskingCollator(tokenizer, unit="phrase", gazetteer=list(names)).identity for names in (["a"], ["b"]))
    assert one != other and MaskingCollator(tokenizer, unit="word").identity.keys() == one.keys() - {"phrases"}


def test_what_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="mask_unit phrase needs --gazetteer FILE"):
        MaskingCollator(tokenizer, unit="phrase")
    with pytest.raises(InputError, match="--gazetteer has no use with mask_unit span"):
        MaskingCollator(tokenizer, unit="span", gazetteer=["a"])
    backend = Tokenizer(models.WordLevel({"[MASK]": 0, "play": 1, "##ing": 2}, unk_token="[MASK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    uncased = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]")
    with pytest.raises(InputError, match="keeps no capital letters"):
        MaskingCollator(uncased, unit="entity")
    file = tmp_path / "names.txt"
    for content, message in ((b"\n \n", "holds no phrase"), (b"\xff", "is not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_gazetteer(file)
    with pytest.raises(InputError, match="cannot read the gazetteer"):
        read_gazetteer(tmp_path / "none.txt")
    file.write_text(" New   York \n\nin fact\nNew York\n")
    assert read_gazetteer(file) == ["New York", "in fact"]
