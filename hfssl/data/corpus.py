"""From documents to training blocks: tokenised once into a memory-mapped file, cut into blocks of one size.

A corpus folder holds `tokens.bin` (uint16, or uint32 for a vocabulary over 65,536), `documents.npy` (where each
document ends) and `manifest.json`, which is written last and says what the folder was made from. The folder appears
whole or not at all, and is used again as long as its manifest matches.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError
from hfssl.tokenization import load_tokenizer, train_bpe

logger = logging.getLogger(__name__)

VERSION = 1
_BATCH_CHARACTERS = 4_000_000  # text handed to the tokenizer's threads at once


@dataclass
class CorpusArguments:
    """How text becomes blocks of tokens."""

    tokenizer: str | None = field(
        default=None, metadata={"help": "A tokenizer's folder or Hub id; without it a BPE is trained on the text."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Entries of the BPE trained when no tokenizer is given."})
    block_size: int = field(default=256, metadata={"help": "Tokens in a training block."})
    corpus_dir: str | None = field(
        default=None, metadata={"help": "Where tokenised text is kept; by default hfssl's cache (HFSSL_CACHE)."}
    )

    def __post_init__(self):
        if self.block_size < 2:
            raise InputError(f"block_size must be at least 2, not {self.block_size}")


class Corpus:
    """A tokenised text, memory-mapped.

    Attributes:
        tokens: (N,) uint16 or uint32, documents one after another, each followed by the end-of-document token.
        ends: (documents,) int64, the position after each document's last token.
        manifest: counts and hashes; "bytes" is the UTF-8 length of the text.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        dtype = np.dtype(self.manifest["dtype"])
        size = (folder / "tokens.bin").stat().st_size
        if size != self.manifest["tokens"] * dtype.itemsize:
            raise InputError(
                f"{folder / 'tokens.bin'} has {size:,} bytes where its manifest says "
                f"{self.manifest['tokens'] * dtype.itemsize:,}; delete the folder and run again"
            )
        self.tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
        self.ends = np.load(folder / "documents.npy", mmap_mode="r")

    @property
    def tokens_per_byte(self) -> float:
        """Turns a loss a token into a loss a byte, which does not depend on the tokenizer."""
        return self.manifest["tokens"] / self.manifest["bytes"]


class Blocks(Dataset):
    """A corpus in blocks of one size; the tail that fills no block is left out.

    Args:
        block_size: tokens in a block, the special tokens included.
        prefix, suffix: special token ids put around each block (BERT's [CLS] and [SEP]).

    Items: {"input_ids": (block_size,) int64}.
    """

    def __init__(self, corpus: Corpus, block_size: int, prefix: Iterable[int] = (), suffix: Iterable[int] = ()):
        self.corpus, self.block_size = corpus, block_size
        self.prefix, self.suffix = np.array(list(prefix), np.int64), np.array(list(suffix), np.int64)
        self.stride = block_size - len(self.prefix) - len(self.suffix)
        if len(self) < 1:
            raise InputError(
                f"the text has {len(corpus.tokens):,} tokens, less than one block of {block_size}; "
                "give more text or a smaller --block_size"
            )

    @property
    def source(self) -> str:
        """What the blocks were made from: equal for equal blocks."""
        manifest = self.corpus.manifest
        return f"{manifest['source']}, tokenizer {manifest['tokenizer']}, blocks of {self.block_size}"

    def __len__(self) -> int:
        return len(self.corpus.tokens) // self.stride

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        body = self.corpus.tokens[index * self.stride : (index + 1) * self.stride].astype(np.int64)
        return {"input_ids": np.concatenate([self.prefix, body, self.suffix]), "index": index}


class CausalCollator:
    """Batches blocks for left-to-right modelling: {"input_ids", "labels"}, both (B, T); the model shifts the labels."""

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        return {"input_ids": input_ids, "labels": input_ids.clone()}


def tokenizer_hash(tokenizer) -> str:
    """A hash of all that decides which ids a text gets."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where hfssl keeps what it can make again: HFSSL_CACHE, else the user's cache folder."""
    base = os.environ.get("HFSSL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hfssl"


def build_corpus(texts, tokenizer, folder: str | Path, end_token_id: int) -> Corpus:
    """Tokenises documents into a corpus folder, or opens the one that is there if it was made from the same.

    Args:
        texts: an iterable of documents with a `fingerprint()`.
        tokenizer: its Rust threads do the work; no special tokens are added but `end_token_id` after each document.
        folder: made whole or not at all.
    """
    folder = Path(folder)
    identity = {
        "version": VERSION,
        "tokenizer": tokenizer_hash(tokenizer),
        "source": texts.fingerprint(),
        "end_token_id": int(end_token_id),
    }
    if (folder / "manifest.json").exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        if all(manifest.get(key) == value for key, value in identity.items()):
            return Corpus(folder)
        logger.warning("%s was made from other text or with another tokenizer: building it again", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        counts = _write_tokens(texts, tokenizer, staging, end_token_id)
        (staging / "manifest.json").write_text(json.dumps(identity | counts, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Corpus(folder)


def _write_tokens(texts: Iterable[str], tokenizer, staging: Path, end_token_id: int) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    ends, total, size = [], 0, 0
    # A truncation or padding that is set in tokenizer.json would cut or fill every document.
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    with (
        open(staging / "tokens.bin", "wb") as file,
        tqdm(desc="Tokenising", unit="B", unit_scale=True, disable=None) as bar,
    ):
        for batch in _batches(texts):
            for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
                ids = np.array(encoding.ids, dtype=dtype)
                file.write(ids.tobytes())
                file.write(dtype.type(end_token_id).tobytes())
                total += len(ids) + 1
                ends.append(total)
            batch_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in batch)
            size += batch_bytes
            bar.update(batch_bytes)
        file.flush()
        os.fsync(file.fileno())
    if not ends:
        raise InputError("the text holds no document")
    np.save(staging / "documents.npy", np.array(ends, np.int64))
    return {"dtype": dtype.name, "tokens": total, "documents": len(ends), "bytes": size}


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def fit_vocabulary(config, tokenizer, block_size: int) -> None:
    """Writes a tokenizer's size and special tokens into a model config; checks that a block fits its positions."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is not None and block_size > positions:
        raise InputError(
            f"block_size {block_size} is over the model's {positions} positions; "
            "give a smaller --block_size or more positions in the model"
        )
    config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))


@dataclass
class TextData:
    """What a text recipe trains on. `train` and `eval` are `Blocks`."""

    tokenizer: Any
    train: Blocks
    eval: Blocks


def load_text_data(text: TextArguments, corpus: CorpusArguments, style: str) -> TextData:
    """Texts, tokenizer and blocks for a recipe; the first process builds what is missing, the others then open it.

    Args:
        style: "gpt2" (documents end with the end-of-text token) or "bert" (blocks stand between [CLS] and [SEP]).
    """
    with PartialState().main_process_first():
        train, held_out = load_texts(text, "train"), load_texts(text, "eval")
        root = Path(corpus.corpus_dir) if corpus.corpus_dir else cache_folder()
        tokenizer = _tokenizer(corpus, train, style, root / "tokenizers")
        end = tokenizer.eos_token_id if style == "gpt2" else tokenizer.sep_token_id
        if end is None:
            raise InputError(f"the tokenizer has no {'end-of-text' if style == 'gpt2' else '[SEP]'} token")
        parts = []
        for texts in (train, held_out):
            name = hashlib.sha256(f"{texts.fingerprint()}{tokenizer_hash(tokenizer)}".encode()).hexdigest()[:16]
            parts.append(build_corpus(texts, tokenizer, root / "corpora" / name, end))
    around = ([], []) if style == "gpt2" else ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    blocks = [Blocks(part, corpus.block_size, *around) for part in parts]
    return TextData(tokenizer, *blocks)


def _tokenizer(corpus: CorpusArguments, train, style: str, root: Path):
    if corpus.tokenizer is not None:
        return load_tokenizer(corpus.tokenizer)
    name = hashlib.sha256(f"{VERSION}{style}{corpus.vocab_size}{train.fingerprint()}".encode()).hexdigest()[:16]
    if not (root / name / "tokenizer.json").exists():
        logger.info("No tokenizer given: training a BPE of %s entries on the text", f"{corpus.vocab_size:,}")
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=_made(root)))
        train_bpe(train, corpus.vocab_size, style).save_pretrained(staging)
        shutil.rmtree(root / name, ignore_errors=True)
        staging.rename(root / name)
    return load_tokenizer(str(root / name))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
