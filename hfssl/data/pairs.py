"""Tokenised (source, target) pairs: one flat array, and the batches made of it, padded or packed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data.masking import IGNORED
from hfssl.data.sampling import LengthBuckets, permute


class Pairs(Dataset):
    """Pairs in memory: 2 or 4 bytes a token and 20 a pair.

    Args:
        tokens: all pairs one after another, each `source separator target end`.
        ends: (N,) int64, where each pair ends.
        source_lengths: (N,) int32, tokens of each source with its separator.
        source: one line that says where they come from.
        bucket: the training order puts pairs of similar length side by side, in buckets of so many; 0: any order.

    Items: {"input_ids": (T,) int64, "source_length": int}.
    """

    def __init__(
        self, tokens: np.ndarray, ends: np.ndarray, source_lengths: np.ndarray, source: str = "memory", bucket: int = 0
    ):
        self.tokens, self.ends, self.source_lengths = tokens, ends, source_lengths
        self.source, self.bucket = source, bucket
        self.lengths = np.diff(ends, prepend=0)
        self._buckets = LengthBuckets(self.lengths, bucket) if bucket else None

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        end = self.ends[index]
        tokens = self.tokens[end - self.lengths[index] : end].astype(np.int64)
        return {"input_ids": tokens, "source_length": int(self.source_lengths[index])}

    @property
    def fingerprint(self) -> str:
        """Equal for equal pairs in equal order."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.tokens, self.ends, self.source_lengths):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest() + (f", buckets of {self.bucket}" if self.bucket else "")

    def order(self, positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Which pairs stand at these positions of a pass (`hfssl.data.sampling.OrderedBatches`)."""
        if self._buckets is None:
            return permute(positions, len(self), seed, epoch)
        return self._buckets.order(positions, seed, epoch)

    def frequencies(self, vocab_size: int) -> np.ndarray:
        """How often each token id is to be predicted, (vocab_size,): in the targets with their ends."""
        place = np.arange(len(self.tokens)) - np.repeat(self.ends - self.lengths, self.lengths)
        return np.bincount(self.tokens[place >= np.repeat(self.source_lengths, self.lengths)], minlength=vocab_size)

    def by_length(self) -> Pairs:
        """The same pairs, the short ones first: for evaluation, where the order is free."""
        order = np.argsort(self.lengths, kind="stable")
        tokens = np.concatenate([self.tokens[self.ends[i] - self.lengths[i] : self.ends[i]] for i in order])
        return Pairs(tokens, np.cumsum(self.lengths[order]), self.source_lengths[order], self.source)


class PackedPairs(Dataset):
    """Pairs packed into blocks; none is cut, and attention stays inside each. The blocks are the same in each pass.

    Items: {"input_ids": (T,) int64, "source_lengths", "pair_lengths": of each pair in it}, T at most `block_size`.
    """

    def __init__(self, pairs: Pairs, block_size: int):
        self.pairs, self.block_size = pairs, block_size
        self.blocks = pack(pairs.lengths, block_size)
        self.source = f"{pairs.source}; packed into {len(self.blocks):,} blocks of {block_size}"

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        items = [self.pairs[number] for number in self.blocks[index]]
        return {
            "input_ids": np.concatenate([item["input_ids"] for item in items]),
            "source_lengths": [item["source_length"] for item in items],
            "pair_lengths": [len(item["input_ids"]) for item in items],
        }

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs.fingerprint}, packed into {self.block_size}"

    def frequencies(self, vocab_size: int) -> np.ndarray:
        return self.pairs.frequencies(vocab_size)


def pack(lengths: np.ndarray, block_size: int, seed: int = 0) -> list[list[int]]:
    """Blocks of items whose lengths sum to at most `block_size`: best fit, the long ones first (Johnson 1973).

    Items of one length come in an order of chance, so that neighbours in the data are not neighbours in a block.
    """
    order = permute(np.arange(len(lengths)), len(lengths), seed)
    order = order[np.argsort(-lengths[order], kind="stable")]
    blocks: list[list[int]] = []
    open_: list[list[int]] = [[] for _ in range(block_size + 1)]  # block numbers, by the room that is left
    for number, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        room = next((room for room in range(length, block_size + 1) if open_[room]), None)
        if room is None:
            block, room = len(blocks), block_size
            blocks.append([])
        else:
            block = open_[room].pop()
        blocks[block].append(number)
        open_[room - length].append(block)
    return blocks


class PairCollator:
    """Batches of `Pairs` or `PackedPairs` for left-to-right modelling; the model shifts the labels.

    Gives {"input_ids", "labels": (B, T), "target_positions": (B, M)}: labels are the targets with their ends and -100
    elsewhere, the positions those from which they are predicted. Packed pairs also have "document_ids" (B, T). Padding
    is on the right, where no token sees it, so there is no attention mask.

    Args:
        pad_token_id: any token.
        source_weight: also learn to predict the source, its tokens weighted so ("source_labels", "source_weight").
    """

    def __init__(self, pad_token_id: int, source_weight: float = 0.0):
        self.pad_token_id, self.source_weight = pad_token_id, source_weight

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the loss, as plain values."""
        return {"source_weight": self.source_weight} if self.source_weight else {}

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        size = max(len(item["input_ids"]) for item in items)
        input_ids = np.full((len(items), size), self.pad_token_id, np.int64)
        is_target, is_source = np.zeros((2, len(items), size), bool)
        documents = np.zeros((len(items), size), np.int64)
        for row, item in enumerate(items):
            input_ids[row, : len(item["input_ids"])] = item["input_ids"]
            sources = item.get("source_lengths", [item.get("source_length")])
            first = 0
            for number, (source, length) in enumerate(
                zip(sources, item.get("pair_lengths", [len(item["input_ids"])]), strict=True)
            ):
                is_source[row, first : first + source] = True
                is_target[row, first + source : first + length] = True
                documents[row, first : first + length] = number
                first += length
            documents[row, first:] = len(sources)
        batch = {"input_ids": input_ids, "labels": np.where(is_target, input_ids, IGNORED)}
        batch["target_positions"] = _positions(is_target)
        if "pair_lengths" in items[0]:
            batch["document_ids"] = documents
        if self.source_weight:
            batch["source_labels"] = np.where(is_source, input_ids, IGNORED)
            batch["source_weight"] = np.float32(self.source_weight)
        return {name: torch.as_tensor(array) for name, array in batch.items()}


def _positions(is_target: np.ndarray) -> np.ndarray:
    """(B, M), the positions before those of the targets (B, T); a row with fewer is filled with its last position, from
    which nothing is predicted."""
    before = np.pad(is_target[:, 1:], ((0, 0), (0, 1)))
    counts = before.sum(1)
    positions = np.full((len(before), max(1, counts.max())), before.shape[1] - 1, np.int64)
    positions[np.arange(positions.shape[1]) < counts[:, None]] = before.nonzero()[1]
    return positions
