"""The order of the samples: a seeded permutation by index arithmetic, so that a position in training is only a number.

Nothing is stored and nothing is skipped: the samples of step t follow from (seed, t) alone, on any number of
processes. So a resumed run finds its place at once, however far it had come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hfssl.errors import InputError

_ROUNDS = 6  # of the Feistel network; four suffice for a pseudorandom permutation (Luby and Rackoff 1988)


def mix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): hashes uint64 values, elementwise."""
    with np.errstate(over="ignore"):
        values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def hash_key(*parts: int) -> np.uint64:
    """One uint64 out of several integers; the order matters."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = mix64(key ^ np.asarray([part % 2**64], np.uint64))
    return key[0]


def permute(positions: np.ndarray, size: int, seed: int, epoch: int = 0) -> np.ndarray:
    """Maps positions to samples by a pseudorandom permutation of range(size), chosen by (seed, epoch).

    A Feistel network on the smallest even number of bits that holds `size`; values that fall outside walk on along
    their cycle until they fall inside (Black and Rogaway 2002), at most three extra rounds on average.

    Args:
        positions: integers in [0, size), any shape.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = [hash_key(seed, epoch, round_) for round_ in range(_ROUNDS)]

    def shuffle(values: np.ndarray) -> np.ndarray:
        left, right = values >> half, values & low
        for key in keys:
            left, right = right, left ^ (mix64(right ^ key) & low)
        return (left << half) | right

    values = shuffle(np.asarray(positions, np.uint64))
    while (outside := values >= size).any():
        values[outside] = shuffle(values[outside])
    return values.astype(np.int64)


class LengthBuckets:
    """A permutation of each pass that has samples of similar length side by side, so that batches need little padding.

    The pass is permuted, cut into windows, a window sorted by length and cut into buckets; the buckets, and the samples
    in each, come in an order of chance. Each sample comes once a pass, and a position needs its window alone.

    Args:
        lengths: of the samples, (N,).
        bucket: samples in one, about; a few batches.
    """

    WINDOW = 64  # buckets

    def __init__(self, lengths: np.ndarray, bucket: int):
        self.lengths, self.bucket = lengths, bucket
        windows = max(1, round(len(lengths) / (self.WINDOW * bucket)))
        self._bounds = np.linspace(0, len(lengths), windows + 1).astype(np.int64)
        self._held: tuple[Any, np.ndarray] = (None, np.empty(0, np.int64))

    def order(self, positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The samples at these positions of a pass; as `permute`."""
        windows = np.searchsorted(self._bounds, positions, side="right") - 1
        samples = np.empty_like(positions)
        for window in np.unique(windows):
            here = windows == window
            samples[here] = self._window(seed, epoch, int(window))[positions[here] - self._bounds[window]]
        return samples

    def _window(self, seed: int, epoch: int, window: int) -> np.ndarray:
        if self._held[0] != (seed, epoch, window):
            first, end = self._bounds[window : window + 2]
            samples = permute(np.arange(first, end), len(self.lengths), seed, epoch)
            samples = samples[np.argsort(self.lengths[samples], kind="stable")]
            buckets = np.array_split(samples, max(1, round(len(samples) / self.bucket)))

            def shuffled(size: int, which: int) -> np.ndarray:
                return permute(np.arange(size), size, int(hash_key(seed, epoch, window, which)))

            order = shuffled(len(buckets), -1)
            mixed = [buckets[number][shuffled(len(buckets[number]), number)] for number in order.tolist()]
            self._held = (seed, epoch, window), np.concatenate(mixed)
        return self._held[1]


class OrderedBatches(Sampler[list[int]]):
    """The batches of one process: batch t of the global order is positions [t * G, (t + 1) * G), G the global batch.

    Training is one endless stream of positions; position p is the p % size-th sample of pass p // size. A key says
    which sample and which pass: `pass * size + sample`; `EpochIndexed` takes it apart again.

    Args:
        size: number of samples in the dataset.
        batch_size: samples in a batch of this process.
        seed: of the permutation; None keeps the dataset's order.
        rank, world_size: which share of each global batch is this process's.
        offset: of all positions; a run that goes on with another global batch has one, so that it goes on where it
            was and neither repeats nor leaves out a sample.
        order: the permutation as a function of (positions, seed, pass); by default `permute`.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None = 0,
        rank: int = 0,
        world_size: int = 1,
        offset: int = 0,
        order: Callable[[np.ndarray, int, int], np.ndarray] | None = None,
    ):
        self._order = order or (lambda positions, seed, epoch: permute(positions, size, seed, epoch))
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.global_batch = rank, batch_size * world_size
        if self.global_batch > size:
            raise InputError(
                f"a batch of {self.global_batch:,} is larger than the data, {size:,} samples; "
                "give a smaller --per_device_train_batch_size"
            )
        self.offset = offset
        self.epoch = 0
        self.start = 0  # the batch of this epoch to begin with, used once

    def __len__(self) -> int:
        return self.size // self.global_batch

    def batch(self, step: int) -> list[int]:
        """The keys of this process's share of the global batch `step`."""
        first = step * self.global_batch + self.offset + self.rank * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        keys = positions.copy()
        if self.seed is not None:
            for epoch in np.unique(positions // self.size):  # a batch may straddle two passes
                here = positions // self.size == epoch
                keys[here] = epoch * self.size + self._order(positions[here] % self.size, self.seed, int(epoch))
        return keys.tolist()

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for index in range(start, len(self)):
            yield self.batch(self.epoch * len(self) + index)


class EpochIndexed(Dataset):
    """A dataset read by the keys of `OrderedBatches`: each item, a dict, also says its "index" and its "epoch"."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> dict[str, Any]:
        epoch, index = divmod(int(key), len(self.dataset))
        return {**self.dataset[index], "index": index, "epoch": epoch}


class OrderedDataLoader(DataLoader):
    """A DataLoader over `OrderedBatches` that can be sent to any epoch and batch at no cost."""

    def __init__(self, dataset: Dataset, batches: OrderedBatches, **kwargs):
        # A generator of its own: the loader draws a seed at each pass, by default from the generator that dropout uses.
        super().__init__(EpochIndexed(dataset), batch_sampler=batches, generator=torch.Generator(), **kwargs)

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch

    def skip_batches(self, count: int) -> OrderedDataLoader:
        """Begins the next pass `count` batches in."""
        self.batch_sampler.start = count
        return self

    def close(self) -> None:
        """Ends the workers. Left to the garbage collector, each of them is waited for five seconds."""
        if getattr(self._iterator, "_workers", None):
            self._iterator._shutdown_workers()
        self._iterator = None


def single_threaded_worker(worker_id: int) -> None:
    """A worker's arithmetic stays on one thread: with more, small tensors cost five times (workers share the cores)."""
    torch.set_num_threads(1)
