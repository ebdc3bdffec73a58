"""Training blocks: a tokenised text cut into pieces of one size, and the batches made of them."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset

from hfssl.data.corpus import VERSION, Corpus, build_corpus, tokenizer_hash
from hfssl.data.masking import IGNORED
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError
from hfssl.tokenization import load_tokenizer, train_bpe

logger = logging.getLogger(__name__)


@dataclass
class CorpusArguments:
    """How text becomes blocks of tokens."""

    tokenizer: str | None = field(
        default=None, metadata={"help": "A tokenizer's folder or Hub id; without it a BPE is trained on the text."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Entries of the BPE trained when no tokenizer is given."})
    block_size: int = field(default=256, metadata={"help": "Tokens in a training block."})
    document_mask: bool = field(
        default=False, metadata={"help": "Keep attention inside a document; off by default, as GPT-2 was trained."}
    )
    corpus: str | None = field(
        default=None, metadata={"help": "A folder made by tokenizers_train/tokenize_text.py, instead of --text_path."}
    )
    corpus_dir: str | None = field(
        default=None, metadata={"help": "Where tokenised text is kept; by default hfssl's cache (HFSSL_CACHE)."}
    )

    def __post_init__(self):
        if self.block_size < 2:
            raise InputError(f"block_size must be at least 2, not {self.block_size}")


class Blocks(Dataset):
    """A corpus in blocks of one size; the tail that fills no block is left out.

    Args:
        block_size: tokens in a block, the special tokens included.
        prefix, suffix: special token ids put around each block (BERT's [CLS] and [SEP]).
        documents: also give "document_ids". The prefix counts as of the first document, the suffix as of the last.

    Items: {"input_ids": (block_size,) int64, "index": int} and, if wanted, "document_ids" (block_size,) int64.
    """

    def __init__(
        self,
        corpus: Corpus,
        block_size: int,
        prefix: Iterable[int] = (),
        suffix: Iterable[int] = (),
        documents: bool = False,
    ):
        self.corpus, self.block_size, self.documents = corpus, block_size, documents
        self.prefix, self.suffix = np.array(list(prefix), np.int64), np.array(list(suffix), np.int64)
        self.stride = block_size - len(self.prefix) - len(self.suffix)
        if self.stride < 1:
            raise InputError(f"block_size {block_size} leaves no room beside the special tokens")
        if len(self) < 1:
            raise InputError(
                f"the text has {len(corpus):,} tokens, less than one block of {block_size}; "
                "give more text or a smaller --block_size"
            )

    @property
    def fingerprint(self) -> str:
        """What the blocks were made from: equal for equal blocks."""
        manifest = self.corpus.manifest
        apart = ", documents apart" if self.documents else ""
        return f"{manifest['source']}, tokenizer {manifest['tokenizer']}, blocks of {self.block_size}{apart}"

    @property
    def source(self) -> str:
        """One line that says where the text comes from and how much it is."""
        made = self.corpus.manifest
        return f"{made['name']}: {made['bytes']:,} bytes, {made['documents']:,} documents, {len(self.corpus):,} tokens"

    def __len__(self) -> int:
        return len(self.corpus) // self.stride

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, stop = index * self.stride, (index + 1) * self.stride
        item = {"input_ids": np.concatenate([self.prefix, self.corpus.read(start, stop), self.suffix]), "index": index}
        if self.documents:
            ids = self.corpus.document_ids(start, stop)
            item["document_ids"] = np.pad(ids, (len(self.prefix), len(self.suffix)), mode="edge")
        return item


class CausalCollator:
    """Batches blocks for left-to-right modelling: {"input_ids", "labels"}, both (B, T); the model shifts the labels.

    Blocks with "document_ids" keep them, and the first token of a document is no label: nothing before it predicts it.
    """

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        batch = {"input_ids": input_ids, "labels": input_ids.clone()}
        if "document_ids" in items[0]:
            batch["document_ids"] = documents = torch.from_numpy(np.stack([item["document_ids"] for item in items]))
            batch["labels"][:, 1:].masked_fill_(documents[:, 1:] != documents[:, :-1], IGNORED)
        return batch


def cache_folder() -> Path:
    """Where hfssl keeps what it can make again: HFSSL_CACHE, else the user's cache folder."""
    base = os.environ.get("HFSSL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hfssl"


def fit_vocabulary(config, tokenizer, length: int, flag: str = "block_size") -> None:
    """Writes a tokenizer's size and special tokens into a model config; checks that a row fits its positions.

    Args:
        length: tokens of a row. flag: what sets it, for the message.
    """
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is not None and length > positions:
        raise InputError(
            f"{flag} {length} is over the model's {positions} positions; "
            f"give a smaller --{flag} or more positions in the model"
        )
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    # Where padding is the end-of-text token: named in the config, it would get no gradient in Llama's embedding.
    config.pad_token_id = None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id


@dataclass
class TextData:
    """What a text recipe trains on. `train` and `eval` are `Blocks`."""

    tokenizer: Any
    train: Blocks
    eval: Blocks


def load_text_data(text: TextArguments, arguments: CorpusArguments, style: str) -> TextData:
    """Texts, tokenizer and blocks for a recipe; the first process builds what is missing, the others then open it.

    Args:
        style: "gpt2" (documents end with the end-of-text token) or "bert" (blocks stand between [CLS] and [SEP]).
    """
    if arguments.corpus is not None:
        tokenizer, parts = first_process_first(lambda: open_corpora(arguments))
    else:
        tokenizer, parts = first_process_first(lambda: _build_corpora(text, arguments, style))
    _end_token(tokenizer, style)
    around = ([], []) if style == "gpt2" else ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    blocks = [Blocks(part, arguments.block_size, *around, documents=arguments.document_mask) for part in parts]
    return TextData(tokenizer, *blocks)


def first_process_first(action: Callable[[], Any]) -> Any:
    """What `action` returns, in the first process and then in the others; what it refuses, all refuse."""
    state, result, error = PartialState(), None, None
    if state.is_main_process:
        try:
            result = action()
        except InputError as problem:
            error = str(problem)
    if state.num_processes > 1:
        error = broadcast_object_list([error])[0]
    if error is not None:
        raise InputError(error)
    return result if state.is_main_process else action()


def open_corpora(arguments: CorpusArguments) -> tuple[Any, list[Corpus]]:
    """The tokenizer and the two corpora of a folder made by `tokenize_text.py`.

    Raises:
        InputError: the folder is none, was made with another tokenizer, or has ids over its vocabulary.
    """
    folder = Path(arguments.corpus).expanduser()
    if not folder.is_dir():
        raise InputError(f"no such corpus folder: {folder}")
    tokenizer = load_tokenizer(arguments.tokenizer or str(folder / "tokenizer"))
    parts = [Corpus(folder / name) for name in ("train", "eval")]
    for part in parts:
        made, given = part.manifest["tokenizer"], tokenizer_hash(tokenizer)
        if made != given:
            raise InputError(f"{part.folder} was made with the tokenizer {made}, not with {given}, which was given")
        part.check_vocabulary(len(tokenizer))
    return tokenizer, parts


def _build_corpora(text: TextArguments, arguments: CorpusArguments, style: str) -> tuple[Any, list[Corpus]]:
    train, held_out = load_texts(text, "train"), load_texts(text, "eval")
    root = Path(arguments.corpus_dir) if arguments.corpus_dir else cache_folder()
    try:
        tokenizer = _tokenizer(arguments, train, style, root / "tokenizers")
    except OSError as error:
        raise InputError(f"cannot write to {root}: {error.strerror or error}; give another --corpus_dir") from error
    end = _end_token(tokenizer, style)
    parts = []
    for texts in (train, held_out):
        name = hashlib.sha256(f"{texts.fingerprint()}{tokenizer_hash(tokenizer)}{end}".encode()).hexdigest()[:16]
        parts.append(build_corpus(texts, tokenizer, root / "corpora" / name, end))
    return tokenizer, parts


def _end_token(tokenizer, style: str) -> int:
    end = tokenizer.eos_token_id if style == "gpt2" else tokenizer.sep_token_id
    if end is None:
        raise InputError(f"the tokenizer has no {'end-of-text' if style == 'gpt2' else '[SEP]'} token")
    return end


def _tokenizer(arguments: CorpusArguments, train, style: str, root: Path):
    if arguments.tokenizer is not None:
        return load_tokenizer(arguments.tokenizer)
    identity = f"{VERSION}{style}{arguments.vocab_size}{train.fingerprint()}"
    folder = root / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not (folder / "tokenizer.json").exists():
        logger.info("No tokenizer given: training a BPE of %s entries on the text", f"{arguments.vocab_size:,}")
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        try:
            train_bpe(train, arguments.vocab_size, style).save_pretrained(staging)
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return load_tokenizer(str(folder))
