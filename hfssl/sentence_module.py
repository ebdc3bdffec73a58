"""Word vectors as a sentence encoder of sentence-transformers: the mean of a sentence's words (Arora et al. 2017's
baseline), in that library's own StaticEmbedding, so that it loads without code of ours.

    SentenceTransformer(folder).encode(["a sentence"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from hfssl.errors import InputError
from hfssl.files import write_whole

WORD_PATTERN = r"\w+(?:['’]\w+)*"
# The same for the tokenizers library, whose \w has combining marks, too.
TOKENIZERS_PATTERN = WORD_PATTERN.replace(r"\w", r"[\p{L}\p{N}_]")
_FOLDER = "0_StaticEmbedding"
_MARK = "▁"  # before each entry, so that none is a single character


def sentence_tokenizer(words: Sequence[str], tokenized: bool = False, lowercase: bool = True) -> Tokenizer:
    """Cuts text as a corpus of word vectors is cut, into ids from 0 on; other words are left out.

    A word-level model must have an id for what it does not know, and its vector would count in the mean. Here the words
    are the entries of a BPE without merges or unknown token: what is none of them falls apart into characters, which
    are no entries.

    Args:
        words: V of them.
        tokenized: words are parted by white space; else they are what `WORD_PATTERN` finds.
        lowercase: lower-case the text first; not if it is tokenized.
    """
    tokenizer = Tokenizer(
        models.BPE({_MARK + word: number for number, word in enumerate(words)}, merges=[], ignore_merges=True)
    )
    cut = pre_tokenizers.WhitespaceSplit()
    if not tokenized:
        cut = pre_tokenizers.Split(Regex(TOKENIZERS_PATTERN), "removed", invert=True)
        if lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
    mark = pre_tokenizers.Metaspace(_MARK, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, mark])
    return tokenizer


def save_sentence_module(
    folder: str | Path,
    words: Sequence[str],
    vectors: torch.Tensor,
    tokenized: bool = False,
    lowercase: bool = True,
) -> None:
    """Writes modules.json and a folder of vectors and tokenizer, which sentence-transformers 3.2 and later load.

    Args:
        folder: may hold a model, whose files stay as they are.
        words, vectors: V, and (V, d). A sentence without any of the words is the vector 0.
        tokenized, lowercase: see `sentence_tokenizer`.

    Raises:
        InputError: there are not as many vectors as words.
        OSError: the folder cannot be written.
    """
    if len(words) != len(vectors):
        raise InputError(f"{len(words)} words and {len(vectors)} vectors")
    folder = Path(folder)
    tokenizer = sentence_tokenizer(words, tokenized, lowercase)
    weights = safetensors.torch.save({"embedding.weight": vectors.detach().float().cpu().contiguous()})
    write_whole(folder / _FOLDER / "model.safetensors", weights)
    write_whole(folder / _FOLDER / "tokenizer.json", tokenizer.to_str())
    module = {"idx": 0, "name": "0", "path": _FOLDER, "type": "sentence_transformers.models.StaticEmbedding"}
    write_whole(folder / "modules.json", json.dumps([module], indent=2) + "\n")
