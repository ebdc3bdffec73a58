"""Byte-level BPE (Sennrich et al. 2016; on bytes, Radford et al. 2019), trained by the `tokenizers` library.

Start from the 256 bytes and merge the most frequent adjacent pair until the vocabulary is full. Any text is encoded
without loss: no character is unknown.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from hfssl.errors import InputError, one_line
from hfssl.files import is_missing_folder, umask

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
STYLES = ("gpt2", "bert")
UNKNOWN_WORD = "[UNK]"
_BYTES = 256
_PIECE = 2**16  # characters handed to the trainer's threads at once
# GPT-2's pattern never makes one word of what stands before and after a single line end between visible characters.
_SAFE_CUT = re.compile(r"\S\n(?=\S)")


@dataclass
class TokenizerArguments:
    """The tokenizer to train and the folder to save it in."""

    output_dir: str = field(metadata={"help": "The folder to save the tokenizer in."})
    vocab_size: int = field(default=8192, metadata={"help": "Entries, the 256 bytes and special tokens included."})
    style: str = field(default="gpt2", metadata={"help": "gpt2 (<|endoftext|>) or bert ([CLS], [SEP], [MASK], ...)."})
    special_tokens: list[str] | None = field(
        default=None, metadata={"help": "More special tokens than the style's own."}
    )
    min_frequency: int = field(default=2, metadata={"help": "A pair seen less often is not merged."})
    model_max_length: int | None = field(
        default=None, metadata={"help": "The length users of the tokenizer truncate at."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what is in output_dir."})


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    style: str = "gpt2",
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 2,
    model_max_length: int | None = None,
    show_progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer.

    Args:
        texts: documents, read once; they need not fit into memory.
        vocab_size: entries, the 256 bytes and the special tokens included. A short text may yield fewer.
        style: "gpt2" (one special token, <|endoftext|>, and like GPT-2's own none for padding) or "bert" ([PAD] [UNK]
            [CLS] [SEP] [MASK], and `[CLS] A [SEP] B [SEP]` with token types 0 and 1).
        special_tokens: more of them, after the style's own.
        min_frequency: a pair seen less often is not merged.
        model_max_length: the length at which users of the tokenizer truncate; none by default.

    While training, a special token's string in a text is text like any other. While encoding it becomes that token, as
    in every Hugging Face tokenizer; `tokenizer(text, split_special_tokens=True)` reads it as text.

    Of equally frequent pairs the one with the smaller ids is merged first, the left id before the right one. Single
    bytes have the order of the characters that stand for them (`ByteLevel.alphabet`), merged tokens that of their
    merging. Equal texts so give equal tokenizers, in any order and on any machine.

    Raises:
        InputError: an unknown style, a vocabulary smaller than the bytes and special tokens, or no text.
    """
    if style not in STYLES:
        raise InputError(f"unknown tokenizer style {style!r}: one of {', '.join(STYLES)}")
    specials = [*([END_OF_TEXT] if style == "gpt2" else BERT_TOKENS.values()), *(special_tokens or [])]
    if vocab_size < _BYTES + len(specials):
        raise InputError(
            f"vocab_size {vocab_size} is smaller than the {_BYTES} bytes and {len(specials)} special tokens; "
            f"give at least {_BYTES + len(specials)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(_pieces(_at_least_one(texts)), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        found = tokenizer.get_vocab_size()
        logger.warning("The text yields only %s entries of %s: no more pairs occur often enough", found, vocab_size)
    tokenizer.post_processor = _template(tokenizer, style)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,  # cleaning would lose the spaces before punctuation
        model_max_length=model_max_length or int(1e30),
        additional_special_tokens=list(special_tokens or []),
        model_input_names=["input_ids", *(["token_type_ids"] if style == "bert" else []), "attention_mask"],
        **(names if style == "gpt2" else BERT_TOKENS),
    )


def _template(tokenizer: Tokenizer, style: str):
    if style == "gpt2":
        return processors.ByteLevel(trim_offsets=False)
    ids = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=list(ids.items()),
    )


def _at_least_one(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise InputError("the text is empty: there is nothing to train a tokenizer on")


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The same words in pieces: the trainer holds 256 texts at once and gives each thread a whole one, so that long
    documents would cost memory and leave threads idle."""
    for text in texts:
        start = 0
        while cut := _SAFE_CUT.search(text, start + _PIECE):
            yield text[start : cut.end()]
            start = cut.end()
        yield text[start:]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, output_dir: str, overwrite: bool = False) -> None:
    """Saves a tokenizer; the folder appears whole or not at all.

    Raises:
        InputError: the folder holds something and may not be overwritten, or cannot be written.
    """
    target = Path(output_dir).expanduser()
    check_output(output_dir, overwrite)
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        tokenizer.save_pretrained(staging)
        staging.chmod(0o777 & ~umask())  # mkdtemp makes folders that only their owner may read
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        raise InputError(f"cannot write to {output_dir!r}: {error.strerror or error}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)  # there only if something went wrong


def check_output(output_dir: str, overwrite: bool = False) -> None:
    """Refuses a folder that holds something; a program calls it before the work and not only after.

    Raises:
        InputError: it is a file, or is not empty and may not be overwritten.
    """
    target = Path(output_dir).expanduser()
    if target.exists() and not target.is_dir():
        raise InputError(f"{output_dir!r} is a file; give a folder as --output_dir")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{output_dir!r} is not empty; give another --output_dir, or --overwrite to replace it")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder (tokenizer.json, or GPT-2's vocab.json and merges.txt) or by its Hub id.

    Raises:
        InputError: there is none, or it cannot be had offline.
    """
    folder = Path(name).expanduser()
    if is_missing_folder(name):
        raise InputError(f"no such tokenizer folder: {name}")
    try:
        if folder.is_dir():
            for vocabulary, merges in (("vocab.json", "merges.txt"), ("gpt2-vocab.json", "gpt2-merges.txt")):
                if (folder / merges).exists() and not (folder / "tokenizer.json").exists():
                    return GPT2TokenizerFast(vocab=str(folder / vocabulary), merges=str(folder / merges))
            name = str(folder)
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for a folder without one
        raise InputError(f"cannot load a tokenizer from {name}: {one_line(error)}") from None


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A stock tokenizer whose ids are a vocabulary's: words from 0 on, parted by white space, as they are.

    Its `save_pretrained` puts the vocabulary beside the weights of a `CBOWModel`. Any other word, and padding, is
    [UNK], which has the id after the last word's and no vector.

    Raises:
        InputError: there is no word, one comes twice, holds white space, or is [UNK].
    """
    numbers = {word: number for number, word in enumerate(words)}
    if not words or len(numbers) < len(words):
        raise InputError(f"{len(words)} words, {len(numbers)} different: no vocabulary")
    for word in words:
        if word == UNKNOWN_WORD or word.split() != [word]:
            raise InputError(f"{word!r} cannot be a word: it is {UNKNOWN_WORD}, empty, or holds white space")
    numbers[UNKNOWN_WORD] = len(numbers)
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN_WORD,
        pad_token=UNKNOWN_WORD,
        model_input_names=["input_ids", "attention_mask"],
    )


def compare_tokenizers(tokenizers: dict[str, PreTrainedTokenizerFast], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Compares tokenizers on the same texts.

    Returns:
        For each: "name", "vocab_size", "bytes_per_token", "tokens_per_word" (words are split at white space), "seconds"
        of encoding all texts with the library's threads, "mb_per_second" (10^6 bytes), "unknown" (share of tokens that
        are the unknown token), "lossless" (share of texts that decode to themselves).

    Raises:
        InputError: there is no text.
    """
    texts = list(texts)
    if not any(texts):
        raise InputError("there is no text to compare tokenizers on")
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    words = sum(len(text.split()) for text in texts)
    rows = []
    for name, tokenizer in tokenizers.items():
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        began = time.perf_counter()
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        seconds = time.perf_counter() - began
        count = sum(len(encoding.ids) for encoding in encodings)
        # GPT-2 names <|endoftext|> as its unknown token, yet on bytes nothing is unknown.
        unknown = None if tokenizer.unk_token_id == tokenizer.eos_token_id else tokenizer.unk_token_id
        unknowns = 0 if unknown is None else sum(encoding.ids.count(unknown) for encoding in encodings)
        same = sum(
            backend.decode(encoding.ids, skip_special_tokens=False) == text
            for encoding, text in zip(encodings, texts, strict=True)
        )
        rows.append(
            {
                "name": name,
                "vocab_size": len(tokenizer),
                "bytes_per_token": round(size / max(count, 1), 4),
                "tokens_per_word": round(count / max(words, 1), 4),
                "seconds": round(seconds, 3),
                "mb_per_second": round(size / 1e6 / seconds, 2),
                "unknown": round(unknowns / max(count, 1), 4),
                "lossless": round(same / max(len(texts), 1), 4),
            }
        )
    return rows
