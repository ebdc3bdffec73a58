"""Byte-level BPE (Sennrich et al. 2016; on bytes, Radford et al. 2019), trained by the `tokenizers` library.

Start from the 256 bytes and merge the most frequent adjacent pair until the vocabulary is full. Any text is encoded without
loss: no character is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from hfssl.errors import InputError

END_OF_TEXT = "<|endoftext|>"
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
STYLES = ("gpt2", "bert")
_BYTES = 256


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
        style: "gpt2" (one special token, <|endoftext|>, also for padding) or "bert" ([PAD] [UNK] [CLS] [SEP] [MASK], and
            `[CLS] A [SEP] B [SEP]` with token types 0 and 1).
        special_tokens: more of them, after the style's own.
        min_frequency: a pair seen less often is not merged.
        model_max_length: the length at which users of the tokenizer truncate; none by default.

    A special token's string in a text becomes that token, as in every Hugging Face tokenizer.
    Of equally frequent pairs the one with the smaller ids is merged first.

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
    tokenizer.train_from_iterator(_at_least_one(texts), trainer)
    tokenizer.post_processor = _template(tokenizer, style)
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
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


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder (tokenizer.json, or GPT-2's vocab.json and merges.txt) or by its Hub id.

    Raises:
        InputError: there is none, or it cannot be had offline.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise InputError(f"no such tokenizer folder: {name}")
    try:
        if folder.is_dir():
            for vocabulary, merges in (("vocab.json", "merges.txt"), ("gpt2-vocab.json", "gpt2-merges.txt")):
                if (folder / merges).exists() and not (folder / "tokenizer.json").exists():
                    return GPT2TokenizerFast(vocab=str(folder / vocabulary), merges=str(folder / merges))
            name = str(folder)
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for a folder without one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot load a tokenizer from {name}: {reason}") from None


def compare_tokenizers(tokenizers: dict[str, PreTrainedTokenizerFast], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Compares tokenizers on the same texts.

    Returns:
        For each: "name", "vocab_size", "bytes_per_token", "tokens_per_word" (words are split at white space), "seconds"
        of encoding all texts with the library's threads, "mb_per_second" (10^6 bytes), "lossless" (share of texts that
        decode to themselves).
    """
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    words = sum(len(text.split()) for text in texts)
    rows = []
    for name, tokenizer in tokenizers.items():
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        began = time.perf_counter()
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        seconds = time.perf_counter() - began
        count = sum(len(encoding.ids) for encoding in encodings)
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
                "lossless": round(same / max(len(texts), 1), 4),
            }
        )
    return rows
