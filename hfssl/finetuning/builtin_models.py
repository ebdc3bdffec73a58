"""Models that are made on the spot and never pretrained: a small BERT for a first try, and GLUE's own baselines."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging

from hfssl.errors import InputError
from hfssl.files import usual_permissions
from hfssl.models import SentenceConfig, SentenceModel
from hfssl.tokenization import BERT_TOKENS, train_bpe

BUILTIN = {
    "builtin-demo": "a two-layer BERT with a BPE of the tasks' own text, seeded, never pretrained",
    "builtin-cbow": "GLUE's CBoW baseline: the mean of word vectors that the task trains",
    "builtin-bilstm": "GLUE's BiLSTM baseline, max-pooled, on word vectors that the task trains",
}
BASELINES = ("builtin-cbow", "builtin-bilstm")
_WORDS, _PIECES = 20000, 1024  # vocabulary of the baselines' words and of the demo's BPE


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the reports of loading and saving: that a head is new is said by who asked for it."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def make_builtin(name: str, texts: Iterable[str], folder: Path) -> Path:
    """Makes one of `BUILTIN` and saves it, its tokenizer trained on the texts; the folder appears whole.

    The same texts give the same model. A folder that is there already is used.
    """
    if (folder / "config.json").exists():
        return folder
    if name == "builtin-demo":
        return make_bert(texts, folder, _PIECES, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng(devices=[]):
        set_seed(0)
        tokenizer = _word_tokenizer(texts)
        encoder = name.removeprefix("builtin-")
        width = {"hidden_size": 512} if encoder == "bilstm" else {}
        model = SentenceModel(SentenceConfig(vocab_size=len(tokenizer), encoder=encoder, **width))
    return save_whole(model, tokenizer, folder)


def make_bert(texts: Iterable[str], folder: Path, vocab_size: int, hidden_size: int, **size: int) -> Path:
    """A BERT of 128 positions with random weights under a fixed seed and a BPE of the texts, saved as a folder."""
    tokenizer = train_bpe(texts, vocab_size, "bert", model_max_length=128, show_progress=False)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=4 * hidden_size,
        max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, **size,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        set_seed(0)
        model = BertModel(config)
    return save_whole(model, tokenizer, folder)


@contextlib.contextmanager
def dropped_if_refused(out: Path) -> Iterator[None]:
    """If a command is refused within it, the builtin models that it made in `out` or a folder of it are gone again."""

    def found() -> set[Path]:
        return {*out.glob("builtin-*"), *out.glob("*/builtin-*")}

    absent, before = [path for path in (out, *out.parents) if not path.exists()], found()
    try:
        yield
    except InputError:
        for path in found() - before:
            shutil.rmtree(path, ignore_errors=True)
            if path.parent != out:
                absent.insert(0, path.parent)
        for path in absent:
            with contextlib.suppress(OSError):  # it holds something else by now
                path.rmdir()
        raise


def save_whole(model, tokenizer, folder: Path) -> Path:
    """Saves both; the folder appears whole, whoever makes the same at the same time."""
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        with quiet_transformers():
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        usual_permissions(staging)
        try:
            staging.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process has just made the same, and may read it
                shutil.rmtree(folder, ignore_errors=True)
                staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Lower-cased words and marks, the most frequent ones, with BERT's special tokens and token types."""
    special = list(BERT_TOKENS.values())
    backend = Tokenizer(models.WordLevel(unk_token=BERT_TOKENS["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=_WORDS, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **BERT_TOKENS,
    )  # fmt: skip
