"""Word vectors as a sentence encoder: text is cut as by Python, unknown words are left out, nothing becomes NaN."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from hfssl.errors import InputError
from hfssl.sentence_module import WORD_PATTERN, save_sentence_module, sentence_tokenizer
from hfssl.tokenization import word_tokenizer

WORDS = ["the", "cat", "sat", "don't", "a", "naïve", "नमस", "кот", "東京", "x²", "new_york"]
TEXTS = [
    "The cat, sat -- don't! ‘a’ cat-like x",
    "zzz qqq",
    "",
    "…",
    "Naïve नमस्ते “кот” 東京 x² A NEW_YORK the’ catthe t",
]


def vectors():
    return torch.randn(len(WORDS), 5, generator=torch.Generator().manual_seed(0))


def found(text):
    """The known words of a text, by Python's regular expressions."""
    return [WORDS.index(word) for word in re.findall(WORD_PATTERN, text.lower()) if word in WORDS]


def mean(text):
    return vectors()[found(text)].mean(0) if found(text) else torch.zeros(5)


def test_text_is_cut_as_by_python_and_unknown_words_are_left_out():
    tokenizer = sentence_tokenizer(WORDS)
    assert [len(found(text)) for text in TEXTS] == [6, 0, 0, 0, 8]
    assert [tokenizer.encode(text).ids for text in TEXTS] == [found(text) for text in TEXTS]
    assert sentence_tokenizer(WORDS, tokenized=True).encode("the Cat cat sat, a").ids == [0, 1, 4]
    assert sentence_tokenizer(WORDS, lowercase=False).encode("The cat, a").ids == [1, 4]


def test_the_files_are_a_static_embedding_of_the_words(tmp_path):
    """What the library does with them: EmbeddingBag's mean of the tokenizer's ids."""
    save_sentence_module(tmp_path, WORDS, vectors())
    (module,) = json.loads((tmp_path / "modules.json").read_text())
    assert module["type"] == "sentence_transformers.models.StaticEmbedding"
    folder = tmp_path / module["path"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "tokenizer.json"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bag = torch.nn.EmbeddingBag.from_pretrained(load_file(folder / "model.safetensors")["embedding.weight"])
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)[:-1]
    sentences = bag(torch.tensor([number for own in ids for number in own]), offsets)
    torch.testing.assert_close(sentences, torch.stack([mean(text) for text in TEXTS]))
    with pytest.raises(InputError, match="10 words and 11 vectors"):
        save_sentence_module(tmp_path, WORDS[1:], vectors())


def test_sentence_transformers_loads_it(tmp_path):
    import sentence_transformers as library  # seconds to load, and only here

    save_sentence_module(tmp_path, WORDS, vectors())
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    got = model.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(got, torch.stack([mean(text) for text in TEXTS]))
    assert not model.encode(["qqq"]).any(), "alone, too"


def test_the_vocabulary_s_tokenizer_has_the_words_ids(tmp_path):
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json"} == {path.name for path in tmp_path.iterdir()}
    stock = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert stock.encode("the cat The new_york").ids == [0, 1, len(WORDS), 10]
    for words, message in (
        ([], "0 words, 0 different"),
        (["a", "a"], "2 words, 1 different"),
        (["new york"], "'new york' cannot be a word"),
        (["[UNK]"], r"'\[UNK\]' cannot be a word"),
    ):
        with pytest.raises(InputError, match=message):
            word_tokenizer(words)
