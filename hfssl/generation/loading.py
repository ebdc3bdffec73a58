"""Models that generate text, causal or encoder-decoder, and prompts as their tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from hfssl.data.layout import LAYOUT, Layout
from hfssl.errors import InputError, one_line
from hfssl.files import is_missing_folder


def load_generator(name: str, device: str | torch.device | None = None):
    """A causal language model or an encoder-decoder, and its tokenizer, from a folder or a Hub id.

    Raises:
        InputError: there is none, or it generates no text.
    """
    if is_missing_folder(name):
        raise InputError(f"no such folder: {name}")
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    disable_progress_bar()  # of loading: errors are one line
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        architecture = (config.architectures or [""])[0]
        if architecture.endswith("ForMaskedLM"):  # transformers would load it as a decoder that nobody trained
            raise InputError(
                f"{name} is a masked language model, {architecture}: it fills blanks and continues nothing"
            )
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = loader.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # safetensors, tokenizers and torch have errors of their own for damaged files
        reason = one_line(error) or type(error).__name__
        raise InputError(f"cannot load a language model that generates from {name}: {reason}") from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), tokenizer


def count_positions(model) -> int | None:
    """How many tokens the model reads: a causal one of prompt and continuation, an encoder-decoder of either."""
    config = model.config.get_text_config(encoder=True) if model.config.is_encoder_decoder else model.config
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def encode_prompt(model, tokenizer, prompt: str, truncate_left: bool = False, room: int = 1) -> list[int]:
    """A prompt's tokens.

    Args:
        truncate_left: of a prompt that is too long keep the end, such that `room` tokens may follow, though not more
            than half of the positions.

    Raises:
        InputError: it is empty or leaves no position.
    """
    ids = tokenizer(prompt)["input_ids"] if prompt else []
    return fit_prompt(model, ids, truncate_left, room)


def fit_prompt(model, ids: list[int], truncate_left: bool = False, room: int = 1, kept: int = 0) -> list[int]:
    """As `encode_prompt`, for a prompt that is tokens already; of one that is too long the first `kept` stay, too."""
    if not ids:
        raise InputError("the prompt is empty")
    positions = count_positions(model)
    if positions is None:
        return ids
    # An encoder reads the prompt alone, a causal model needs a position for the first token that follows.
    most = positions if model.config.is_encoder_decoder else positions - 1
    if len(ids) <= most:
        return ids
    if not truncate_left:
        raise InputError(
            f"the prompt has {len(ids)} tokens, the model has {positions} positions; shorten it, or keep its end with "
            "--truncate_left"
        )
    keep = most if model.config.is_encoder_decoder else max(positions - room, (positions + 1) // 2)
    return ids[:kept] + ids[kept - min(keep, most) :]


def load_layout(name: str, tasks: tuple[str, ...], needed: bool = False) -> Layout | None:
    """The layout beside a conditional model, in a folder or on the Hub; None if it has none.

    Args:
        tasks: those of which it must be.

    Raises:
        InputError: it is of another task, or is needed and not there.
    """
    if is_missing_folder(name):
        raise InputError(f"no such folder: {name}")
    name = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    file = cached_file(
        name, LAYOUT, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    if file is None:
        if needed:
            raise InputError(f"{name} has no {LAYOUT}: it is no conditional model of ours")
        return None
    layout = Layout.load(Path(file).parent)
    if layout.task not in tasks:
        raise InputError(f"{name} is a model of {layout.task}, not of {' or '.join(tasks)}")
    return layout
