"""A separator language model beside a stock encoder-decoder: as many weights, the same pairs, batches and time.

The two differ in the architecture alone: GPT-2 reads `source <sep> target`, Marian (Vaswani et al. 2017's net, as
transformers has it) has an encoder for the source and attention across. One loop trains both, with one optimizer and
one schedule, which follows the clock, so that each ends its warm-up and its decay within its time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, MarianConfig, MarianMTModel, PreTrainedModel, set_seed

from hfssl.data.masking import IGNORED
from hfssl.data.pairs import PairCollator, Pairs
from hfssl.errors import InputError
from hfssl.models.modeling_lm import language_model
from hfssl.training.optim import decayed

ARMS = ("separator", "encoder-decoder")


@dataclass(frozen=True)
class Shape:
    """The size of both models, given by the separator model's; and its special tokens."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    positions: int
    end: int
    separator: int
    dropout: float = 0.1


def separator_model(shape: Shape) -> PreTrainedModel:
    return language_model(
        GPT2Config(
            vocab_size=shape.vocab_size, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads,
            n_positions=shape.positions, bos_token_id=shape.end, eos_token_id=shape.end, embd_pdrop=shape.dropout,
            resid_pdrop=shape.dropout, attn_pdrop=0.0,
        )
    )  # fmt: skip


def encoder_decoder(shape: Shape, weights: int) -> MarianMTModel:
    """A stock Marian with half of the layers on each side, whose feed-forward layers are so wide that it has as many
    trained weights as are given, to 0.5 %. The separator, which its sources do not need, pads and begins a target.

    Raises:
        InputError: an odd number of layers, or too few weights for the width.
    """

    def config(wide: int) -> MarianConfig:
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("layers", shape.layers // 2), ("attention_heads", shape.heads), ("ffn_dim", wide))
        }
        return MarianConfig(
            vocab_size=shape.vocab_size, d_model=shape.width, max_position_embeddings=shape.positions,
            pad_token_id=shape.separator, decoder_start_token_id=shape.separator, bos_token_id=shape.end,
            eos_token_id=shape.end, forced_eos_token_id=None, dropout=shape.dropout, scale_embedding=True, **sides,
        )  # fmt: skip

    if shape.layers % 2:
        raise InputError(f"--layers must be even, so that each side of the encoder-decoder has half: {shape.layers}")
    with torch.device("meta"):
        few, more = (trained_weights(MarianMTModel(config(wide))) for wide in (8, 16))
    wide = 8 + round((weights - few) / (more - few) * 8)
    if wide < 8:
        raise InputError("the separator model is too small for an encoder-decoder of its width and layers")
    return MarianMTModel(config(wide))


def trained_weights(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


class Seq2SeqCollator:
    """The same items of `Pairs` for an encoder-decoder: {"input_ids", "attention_mask", "labels"}; no separator."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sources = [item["input_ids"][: item["source_length"] - 1] for item in items]
        targets = [item["input_ids"][item["source_length"] :] for item in items]

        def padded(rows, value):
            size = max(map(len, rows))
            return torch.as_tensor(np.stack([np.pad(row, (0, size - len(row)), constant_values=value) for row in rows]))

        mask = padded([np.ones(len(row), np.int64) for row in sources], 0)
        labels = padded(targets, IGNORED)
        return {"input_ids": padded(sources, self.pad_token_id), "attention_mask": mask, "labels": labels}


def batches(pairs: Pairs, collator: Callable, size: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end, in the order of a recipe's run; whole ones alone."""
    for epoch in itertools.count():
        order = pairs.order(np.arange(len(pairs)), seed, epoch)
        for first in range(0, len(order) - size + 1, size):
            yield collator([pairs[int(index)] for index in order[first : first + size]])


def seconds_of(device: torch.device) -> Callable[[], float]:
    """A clock: on a CPU that of the main thread's work, so that other programs take nothing from an arm's time."""
    return time.thread_time if device.type == "cpu" else time.perf_counter


def train_for(
    model: PreTrainedModel, data: Iterator[dict[str, torch.Tensor]], seconds: float, learning_rate: float, warmup=0.05
) -> dict[str, float]:
    """Trains for a time: AdamW (betas .9, .98), decay .1, gradients clipped at 1, warm-up and a cosine by the clock.

    Returns:
        {"steps", "pairs", "seconds", "loss" (the mean of the last tenth of the time)}.
    """
    names = decayed(model, [name for name, weight in model.named_parameters() if weight.requires_grad])
    weights = dict(model.named_parameters())
    rest = [weight for name, weight in weights.items() if weight.requires_grad and name not in names]
    groups = [{"params": [weights[name] for name in names]}, {"params": rest, "weight_decay": 0.0}]
    device = next(model.parameters()).device
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.1, **fused)
    half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    clock, steps, seen, late = seconds_of(device), 0, 0, []
    model.train()
    began = clock()
    while (share := (clock() - began) / seconds) < 1:
        rate = min(share / warmup, 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * max(rate, 1e-3)
        batch = {name: part.to(device, non_blocking=True) for name, part in next(data).items()}
        with half:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, seen = steps + 1, seen + len(batch["input_ids"])
        if share > 0.9 or not late:
            late = [*late, loss.detach()] if share > 0.9 else []
        if device.type == "cuda" and steps % 20 == 0:
            torch.cuda.synchronize()
    used = clock() - began
    model.eval()
    return {
        "steps": steps,
        "pairs": seen,
        "seconds": used,
        "loss": float(torch.stack(late).mean()) if late else math.nan,
    }


def train_arm(arm: str, shape: Shape, pairs: Pairs, seconds: float, batch_size: int, learning_rate: float, seed: int):
    """The trained model of an arm, and what `train_for` says with "weights" beside it.

    Raises:
        InputError: fewer pairs than a batch, or a shape that does not fit.
    """
    if len(pairs) < batch_size:
        raise InputError(f"{len(pairs):,} pairs are less than one batch of {batch_size}")
    set_seed(seed)
    model, collator = separator_model(shape), PairCollator(shape.end)
    if arm == "encoder-decoder":
        weights = trained_weights(model)
        set_seed(seed)
        model, collator = encoder_decoder(shape, weights), Seq2SeqCollator(shape.separator)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    told = train_for(model, batches(pairs, collator, batch_size, seed), seconds, learning_rate)
    return model, told | {"weights": trained_weights(model)}
