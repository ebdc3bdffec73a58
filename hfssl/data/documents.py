"""Documents as bags of tokens, cut into halves, for hashing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.errors import InputError

LONGEST = 512  # tokens of a half


class Documents(Dataset):
    """The tokens of each document that has two or more: ``ds[i]`` is ``{"tokens": (T,)}``.

    Args:
        texts: in their order.
        tokenizer: without special tokens.
        source, fingerprint: of the texts.

    Raises:
        InputError: no document has two tokens.
    """

    def __init__(self, texts: Iterable[str], tokenizer, source: str = "memory", fingerprint: str = ""):
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        self.tokens = [np.array(ids, np.int64) for ids in encoded if len(ids) > 1]
        self.source, self.fingerprint = source, fingerprint or source
        if not self.tokens:
            raise InputError(f"{source} has no document of two tokens or more")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": self.tokens[index]}

    def frequencies(self, vocab_size: int) -> torch.Tensor:
        """In how many documents each token occurs, (vocab_size,) int64."""
        counts = np.zeros(vocab_size, np.int64)
        for tokens in self.tokens:
            counts[np.unique(tokens)] += 1
        return torch.from_numpy(counts)


def collate_halves(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The first and the second half of each document: {"input_ids", "attention_mask"}, (B, 2, T) int64."""
    halves = []
    for item in items:
        tokens = item["tokens"]
        middle = len(tokens) // 2
        halves += [tokens[:middle][-LONGEST:], tokens[middle:][:LONGEST]]
    return {name: part.unflatten(0, (-1, 2)) for name, part in pad_tokens(halves).items()}


def pad_tokens(rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """{"input_ids", "attention_mask"}, (B, T) int64, 0 beyond the end of each."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
