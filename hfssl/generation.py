"""Continuing a prompt with a causal language model (GPT-2, Radford et al. 2019)."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from hfssl.errors import InputError, one_line
from hfssl.files import is_missing_folder


def load_generator(name: str, device: str | torch.device | None = None):
    """A causal language model and its tokenizer, from a folder or a Hub id, ready for `continue_text`."""
    if is_missing_folder(name):
        raise InputError(f"no such folder: {name}")
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    disable_progress_bar()  # of loading: errors are one line
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a causal language model from {name}: {one_line(error)}") from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), tokenizer


def encode_prompt(model, tokenizer, prompt: str):
    """A prompt's "input_ids" and "attention_mask", (1, T); InputError if it is empty or leaves no position."""
    encoded = tokenizer(prompt, return_tensors="pt").to(model.device)
    length = encoded["input_ids"].shape[1]
    if length == 0:
        raise InputError("the prompt is empty")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and length >= positions:
        raise InputError(f"the prompt has {length} tokens, the model has {positions} positions; shorten it")
    return encoded


@torch.no_grad()
def continue_text(
    model,
    tokenizer,
    prompt: str,
    tries: int = 1,
    max_new_tokens: int = 60,
    top_k: int = 40,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Continues a prompt several times. The random numbers are the caller's again afterwards.

    Args:
        top_k: sample among the k likeliest tokens; 1 takes the likeliest.
        max_new_tokens: fewer are written where the model's positions end.

    Returns:
        `tries` continuations, without the prompt.

    Raises:
        InputError: on an empty prompt, or one that leaves no position.
    """
    encoded = encode_prompt(model, tokenizer, prompt)
    length, positions = encoded["input_ids"].shape[1], getattr(model.config, "max_position_embeddings", None)
    room = max_new_tokens if positions is None else min(max_new_tokens, positions - length)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        ids = model.generate(
            input_ids=encoded["input_ids"].repeat(tries, 1),
            attention_mask=encoded["attention_mask"].repeat(tries, 1),
            max_new_tokens=room,
            do_sample=top_k > 1,
            top_k=top_k if top_k > 1 else None,
            temperature=temperature if top_k > 1 else None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    return tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True)
