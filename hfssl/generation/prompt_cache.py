"""Prompts as a batch, and what a model remembers of them, computed once for all that follows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def pad_rows(rows: Sequence[list[int]], pad: int, device, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different length as ids and mask, both (B, T); the mask is 0 on what was added."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        here = slice(longest - len(row), None) if left else slice(len(row))
        ids[number, here] = torch.tensor(row, dtype=torch.long)
        mask[number, here] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def shared_prompts(model, ids: torch.Tensor, mask: torch.Tensor, count: int) -> dict[str, Cache]:
    """The keys and values of all but the last token of the prompts (B, T), each `count` times, as a model takes them.

    Empty for a model that remembers in another way, and has to read each prompt `count` times.
    """
    if ids.shape[1] == 1:
        return {}
    options = {"logits_to_keep": 1, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, :-1]}
    names = inspect.signature(model.forward).parameters
    options = {name: value for name, value in options.items() if name in names}
    outputs = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **options)
    for name, cache in outputs.items():  # "past_key_values" or, from transformers 5.24 on, "cache"
        if isinstance(cache, Cache):
            if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
                return {}
            cache.batch_repeat_interleave(count)
            return {name: cache}
    return {}
