"""Batches of equal length without another batch size or number of updates, and evaluation sorted by length.

Short texts beside short ones need no padding; the order of the batches and what is drawn into a pool stay random, the
same for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hfssl.data.sampling import hash_key, permute
from hfssl.evaluation.rendering import SCORED_KINDS, candidate_rows
from hfssl.evaluation.task_data import SplitData
from hfssl.finetuning.encoding import Encoded

POOL = 64  # batches whose items are sorted together
# Widths of a batch where each is compiled for itself.
STATIC_WIDTHS = (32, 64, 96, 128, 192, 256, 384, 512)
CANDIDATES = 10  # of a question that training sees at once: the right ones and others, drawn anew in each epoch


class LengthBatches(Sampler[list[int]]):
    """The batches of each epoch: the items in random order, sorted by length within pools, the batches in random order.

    An epoch has ceil(N / B) updates and sees each item once; the batch that is not full comes last. A batch may be
    given in parts, for gradient accumulation: its parts follow one another. Keys are ``epoch * N + item``.

    Args:
        lengths: of each item.
        batch_size: items of an update, B.
        parts: of a batch; they divide its size.
        pool: batches sorted together; 0 sorts nothing.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int = 0, parts: int = 1, pool: int = POOL):
        self.lengths, self.batch_size, self.seed, self.parts, self.pool = lengths, batch_size, seed, parts, pool
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full * self.parts + -(-rest // self._part)

    @property
    def _part(self) -> int:
        return -(-self.batch_size // self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        size, batch = len(self.lengths), self.batch_size
        order = permute(np.arange(size), size, self.seed, self.epoch)
        full = size // batch
        if self.pool:
            for start in range(0, full * batch, self.pool * batch):
                end = min(start + self.pool * batch, full * batch)
                order[start:end] = order[start:end][np.argsort(self.lengths[order[start:end]], kind="stable")]
        turns = permute(np.arange(full), full, int(hash_key(self.seed, 1)), self.epoch) if full and self.pool else []
        turns = [*turns, *range(len(turns), -(-size // batch))]
        for turn in turns:
            items = order[turn * batch : (turn + 1) * batch] + self.epoch * size
            for first in range(0, len(items), self._part):
                yield items[first : first + self._part].tolist()


class Keys(Dataset):
    """Hands the collator its keys."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int) -> int:
        return key


class TaskCollator:
    """Items of a split as tensors, padded to the longest row of the batch.

    A batch has "input_ids" and "attention_mask" (R, T), where the tokenizer has them "token_type_ids" (R, T), for span
    tasks "spans" (R, 2, 2), and "labels" (B,). Where candidates are scored it has "groups" (B, K), the rows of each
    item's candidates or -1, and "labels" (B, K), which of them are right.

    Args:
        targets: of `make_targets`, or None for no labels.
        multiple: the width is a multiple of it.
        candidates: of an item at most, drawn by (seed, epoch, item); None takes all.
        rows: fill up with copies of the first row to so many, for shapes that do not change; widths are then those of
            `STATIC_WIDTHS`.
        items: which of the split's items the keys number; by default all.
        limit: no width is above it: the model's positions.
    """

    def __init__(
        self, encoded: Encoded, targets: np.ndarray | None, pad_id: int, scored: bool = False, multiple: int = 1,
        candidates: int | None = None, seed: int = 0, rows: int | None = None, items: np.ndarray | None = None,
        limit: int | None = None,
    ):  # fmt: skip
        self.encoded, self.targets, self.pad_id, self.scored = encoded, targets, pad_id, scored
        self.multiple, self.candidates, self.seed, self.rows, self.limit = multiple, candidates, seed, rows, limit
        self.items = np.arange(len(encoded)) if items is None else items

    def __call__(self, keys: Sequence[int]) -> dict[str, torch.Tensor]:
        epochs, places = np.divmod(np.asarray(keys), len(self.items))
        items = self.items[places]
        if not self.scored:
            batch = self.pad(self.encoded.items[items])
            if self.targets is not None:
                batch["labels"] = torch.from_numpy(self.targets[items])
            return batch
        rows = [self._candidates(int(item), int(epoch)) for item, epoch in zip(items, epochs, strict=True)]
        groups = np.full((len(rows), max(map(len, rows))), -1)
        groups[np.arange(groups.shape[1]) < np.array([len(row) for row in rows])[:, None]] = np.arange(
            sum(map(len, rows))
        )
        flat = np.concatenate(rows)
        batch = self.pad(flat) | {"groups": torch.from_numpy(groups)}
        if self.targets is not None:
            batch["labels"] = torch.from_numpy(self.targets[flat][groups] & (groups >= 0))
        return batch

    def _candidates(self, item: int, epoch: int) -> np.ndarray:
        rows = np.arange(self.encoded.items[item], self.encoded.items[item + 1])
        if self.candidates is None or len(rows) <= self.candidates or self.targets is None:
            return rows
        generator = np.random.default_rng(int(hash_key(self.seed, epoch, item)))
        right = self.targets[rows]
        others = generator.permutation(rows[~right])[: max(self.candidates - int(right.sum()), 1)]
        return np.sort(np.concatenate([rows[right], others]))

    def pad(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Some rows as one batch."""
        encoded = self.encoded
        if self.rows is not None and len(rows) < self.rows:
            rows = np.concatenate([rows, np.repeat(rows[:1], self.rows - len(rows))])
        lengths = encoded.row_lengths[rows]
        width = -(-int(lengths.max()) // self.multiple) * self.multiple
        if self.rows is not None:
            width = next((static for static in STATIC_WIDTHS if static >= width), width)
        width = min(width, self.limit or width)
        columns = np.arange(width)
        real = columns < lengths[:, None]
        places = np.where(real, encoded.starts[rows][:, None] + columns, 0)
        batch = {
            "input_ids": torch.from_numpy(np.where(real, encoded.ids[places], self.pad_id).astype(np.int64)),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }
        if encoded.types is not None:
            batch["token_type_ids"] = torch.from_numpy(np.where(real, encoded.types[places], 0).astype(np.int64))
        if encoded.spans is not None:
            batch["spans"] = torch.from_numpy(encoded.spans[rows].astype(np.int64))
        return batch


def make_targets(data: SplitData, order: Sequence[str]) -> np.ndarray:
    """What a head is to say about a split.

    Args:
        order: the label of each of the head's classes.

    Returns:
        Classes (N,) int64; scores (N,) float32; or of each candidate's row whether it is right, bool.
    """
    kind = data.task.kind
    if kind == "regression":
        return np.asarray(data.labels, np.float32)
    if kind in SCORED_KINDS:
        return np.array(candidate_rows(data).right)
    number = {label: place for place, label in enumerate(order)}
    return np.array([number[label] for label in data.labels], np.int64)


class TaskLoader(DataLoader):
    """Training batches; the Trainer sends it to each epoch."""

    def __init__(self, batches: LengthBatches, collator: TaskCollator):
        # A generator of its own: the loader draws a seed at each pass, by default from the generator that dropout uses.
        super().__init__(
            Keys(len(collator.items)), batch_sampler=batches, collate_fn=collator, generator=torch.Generator()
        )

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch


def sorted_rows(encoded: Encoded, tokens: int) -> Iterator[np.ndarray]:
    """All rows in batches of so many padded tokens at most; the longest first: memory fails at once or never."""
    lengths = encoded.row_lengths
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count
