"""What is looked up equals what the tokenizer makes of the whole text, whatever stands in it."""

import random
import unicodedata

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfssl.data import encoding
from hfssl.data.encoding import Encoder
from hfssl.tokenization import train_bpe

PARTS = [*"ab1!'.-é中😀́\x1c\x1f\0", *" \n\t\r\x0b\x85\xa0\u2028\u3000\u180e\u200b", "  ", "\n\n", "'s", "'ll", " the"]
CONTROLS = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Cc", "Cf", "Zs", "Zl", "Zp")]


def texts(count=300, seed=0):
    choose = random.Random(seed)
    return ["".join(choose.choices(PARTS, k=choose.randrange(60))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    """It has merged white space with white space, and with what stands beside it."""
    return train_bpe([*texts(), *(f"  {c}" * 3 for c in CONTROLS)], 800, show_progress=False)


def changed(tokenizer, change):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    change(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tokenizer.eos_token)


def whole(tokenizer, texts):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def looked_up(encoder, texts):
    return [np.frombuffer(ids, encoder.dtype).tolist() for ids in encoder(texts)]


@pytest.mark.parametrize("documents", [texts(seed=1), [f"a{c}b! {c}'s{c}{c}x {c}" for c in CONTROLS]])
def test_any_characters_have_the_tokens_of_the_whole(tokenizer, documents):
    encoder, expected = Encoder(tokenizer), whole(tokenizer, documents)
    assert looked_up(encoder, documents * 4) == expected * 4
    assert encoder._known, "looked up, not tokenised as they are"
    assert looked_up(encoder, documents) == expected


def test_a_long_document_comes_in_pieces(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "_PIECE", 20)
    document = "".join(texts())
    pieces, last = zip(*Encoder(tokenizer).pieces(document), strict=True)
    assert "".join(pieces) == document and len(pieces) > 300 and [*last] == [False] * (len(pieces) - 1) + [True]
    found = [token for ids in looked_up(Encoder(tokenizer), pieces) for token in ids]
    assert found == whole(tokenizer, [document])[0]


def test_what_is_remembered_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "_REMEMBERED", 5000)
    encoder, seen = Encoder(tokenizer), []
    for seed in range(20):
        documents = texts(2, seed) * 4
        assert looked_up(encoder, documents) == whole(tokenizer, documents)
        seen.append(len(encoder._known))
    assert max(seen) < 100 < sum(seen) and sorted(seen) != seen


def test_a_text_that_repeats_nothing_is_not_remembered(tokenizer):
    encoder, documents = Encoder(tokenizer), [" ".join(map(str, range(1000)))]
    assert looked_up(encoder, documents) == whole(tokenizer, documents)
    assert not encoder._known


def _add(**settings):
    return lambda backend: backend.add_tokens([AddedToken(**settings)])


def _prefix(backend):
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _no_words(backend):
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _other_words(backend):
    split = pre_tokenizers.Split(Regex(r"[^\s]+[\r\n]*|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


def _strip(backend):
    backend.normalizer = normalizers.Strip()


WHERE_A_CUT_WOULD_BE_WRONG = {
    "a token with a space": _add(content="a b"),
    "a token that takes the space before it": _add(content="ab", lstrip=True),
    "a token that takes the space behind it": _add(content="ab", rstrip=True),
    "a space put before a text": _prefix,
    "no words": _no_words,
    "other words": _other_words,
    "another text": _strip,
}


@pytest.mark.parametrize("change", WHERE_A_CUT_WOULD_BE_WRONG.values(), ids=WHERE_A_CUT_WOULD_BE_WRONG)
def test_other_tokenizers_get_their_text_whole(tokenizer, change, monkeypatch):
    tokenizer = changed(tokenizer, change)
    documents = [f"{text} a b  ab  \n a b" for text in texts(50, seed=2)] * 4
    expected, encoder = whole(tokenizer, documents), Encoder(tokenizer)
    assert looked_up(encoder, documents) == expected
    encoder._cut = True
    assert looked_up(encoder, documents) != expected, "a cut changes nothing here"


def test_a_token_in_a_text_stays_itself(tokenizer):
    tokenizer = changed(tokenizer, _add(content="<user>", single_word=True))
    documents = ["a <user> b<user>c", "<user>\n\n<user>x", "<|endoftext|>"] * 4
    assert looked_up(Encoder(tokenizer), documents) == whole(tokenizer, documents)


def test_tokens_drawn_at_random_are_drawn_each_time(tokenizer):
    def drop(backend):
        backend.model.dropout = 0.5

    encoder = Encoder(changed(tokenizer, drop))
    first, second = looked_up(encoder, texts(20)), looked_up(encoder, texts(20))
    assert first != second
