"""The model that is fine-tuned: a folder, a Hub id, or one of ours that is made on the spot and never pretrained."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from hfssl.errors import InputError, nearest
from hfssl.files import is_missing_folder
from hfssl.finetuning.builtin_models import BUILTIN, quiet_transformers
from hfssl.models import EncoderHeadConfig, SentenceConfig
from hfssl.remote_code import pinned_model
from hfssl.tokenization import load_tokenizer

# A classifier made of an encoder and of what its config says of the classes: "id2label", "label2id".
MakeModel = Callable[[PreTrainedModel, dict[str, Any]], PreTrainedModel]


@dataclass
class Source:
    """A model to start from.

    Attributes:
        name: as the user wrote it.
        path: what from_pretrained takes.
        config: the model's; of our classifiers on an encoder their own, with the encoder's inside.
        positions: tokens that it takes at most.
        takes_types: its forward takes token types of two kinds.
        fingerprint: of config, weights and tokenizer.
        pretrained: False for what is made on the spot, for which no paper has a recipe.
        separator: whether a pair's texts were joined by our own template, and with which token.
    """

    name: str
    path: str
    config: PreTrainedConfig
    tokenizer: Any
    positions: int
    takes_types: bool
    fingerprint: str
    pretrained: bool = True
    trust_remote_code: bool = False
    separator: str = ""

    @property
    def encoder_config(self) -> PreTrainedConfig:
        return self.config.encoder if isinstance(self.config, EncoderHeadConfig) else self.config

    @property
    def sentence_state(self) -> str:
        """Whose state stands for the sentence: the "first" token's or, left to right, the "last" one's."""
        return "first" if self.tokenizer.cls_token is not None else "last"

    @property
    def architecture(self) -> str:
        return (getattr(self.config, "architectures", None) or [""])[0]


def open_source(name: str, trust_remote_code: bool = False, made: Path | None = None) -> Source:
    """Reads a model's config and tokenizer and checks that it can be fine-tuned on text.

    Args:
        made: the folder of a builtin model, from `make_builtin`.

    Raises:
        InputError: there is no such model, it is none for text, or it has neither a padding nor an end token.
    """
    path = str(made) if made else name
    if not made:
        folder = Path(name).expanduser()
        if folder.is_dir():
            path = str(folder)
        elif is_missing_folder(name) or folder.exists():
            raise InputError(f"{name!r} is no model: {'a file' if folder.exists() else 'no such folder'}")
        elif name.startswith("builtin"):
            raise InputError(f"{name!r} is no builtin model: {', '.join(BUILTIN)}{nearest(name, BUILTIN)}")
        path = pinned_model(path, trust_remote_code)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for what is no model
        raise InputError(f"{name!r} is no model that from_pretrained takes: {_first_line(error)}") from None
    tokenizer = load_tokenizer(path)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one where there is no file
        raise InputError(f"{name!r} has no tokenizer; save one there, beside the weights, with save_pretrained")
    encoder_config = config.encoder if isinstance(config, EncoderHeadConfig) else config
    positions, takes_types = _look_at(encoder_config, name, trust_remote_code)
    limit = min(positions, tokenizer.model_max_length)
    size = getattr(encoder_config, "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise InputError(f"the tokenizer of {name} has {len(tokenizer):,} entries, its model only {size:,}")
    _ensure_padding(tokenizer, name)
    return Source(
        name, path, config, tokenizer, limit, takes_types, _fingerprint(path, config), made is None, trust_remote_code,
        _ensure_separator(tokenizer),
    )  # fmt: skip


def _look_at(config: PreTrainedConfig, name: str, trust_remote_code: bool) -> tuple[int, bool]:
    """Positions, and whether there are token types, from the encoder built without memory for its weights."""
    known = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    remote = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
    if not known and not (remote and trust_remote_code):
        hint = "; --trust_remote_code runs the code beside it" if remote else ""
        raise InputError(f"{name!r} is a {config.model_type} model: transformers has no text classifier of it{hint}")
    if config.model_type == "xlnet":
        raise InputError(f"{name!r} is an xlnet model, whose classifier reads the last place of a row: padding, here")
    with quiet_transformers(), torch.device("meta"):
        encoder = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    if "input_ids" not in (parameters := inspect.signature(encoder.forward).parameters):
        raise InputError(f"{name!r} is a {config.model_type} model, which takes no text")
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
    for part_name, module in encoder.named_modules():
        if part_name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from its padding on
    # GPT-2 and its kin take token types, too, and look them up among the words.
    two_types = getattr(config, "type_vocab_size", 0) >= 2 or config.model_type == SentenceConfig.model_type
    return positions, two_types and "token_type_ids" in parameters


def _ensure_padding(tokenizer, name: str) -> None:
    """A left-to-right model without a padding token is padded with its end token; the attention mask tells them apart.

    Raises:
        InputError: there is neither.
    """
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise InputError(
            f"the tokenizer of {name} has no padding token and no end token to pad with; set its pad_token and save it"
        )
    tokenizer.pad_token = tokenizer.eos_token


def _ensure_separator(tokenizer) -> str:
    """GPT-2's tokenizer runs a pair's texts together: its end token goes between (Radford et al. 2018, section 3.3)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    between = tokenizer.num_special_tokens_to_add(pair=True) - tokenizer.num_special_tokens_to_add(pair=False)
    if backend is None or between or tokenizer.eos_token is None:
        return ""
    token = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single="$A:0", pair=f"$A:0 {token}:0 $B:0", special_tokens=[(token, tokenizer.eos_token_id)]
    )
    return token


def _fingerprint(path: str, config: PreTrainedConfig) -> str:
    """Of a folder the hash of its weights, config and tokenizer; of a Hub model its commit."""
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.glob("*")):
        if file.suffix in (".safetensors", ".json", ".txt", ".model", ".py"):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(2**22):
                    digest.update(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
