"""Batches of several tasks for one encoder: each update sees one task's batch (Liu et al. 2019, algorithm 1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from hfssl.data.sampling import hash_key
from hfssl.errors import InputError
from hfssl.finetuning.batches import Keys, LengthBatches, TaskCollator

SAMPLINGS = ("proportional", "temperature")


def task_turns(
    batches: Sequence[int], sampling: str, temperature: float, seed: int, epoch: int
) -> np.ndarray:  # fmt: skip
    """Which task each update of an epoch is of: as many updates as the tasks have batches.

    ``"proportional"``: every batch of every task once, shuffled (MT-DNN's). ``"temperature"``: each update draws its
    task with probabilities proportional to ``batches ** (1 / temperature)`` (Raffel et al. 2020, section 3.5.2); 1 is
    proportional on average, large ones are near to uniform.

    Args:
        batches: of each task.

    Returns:
        Numbers of tasks, int64.
    """
    generator = np.random.default_rng(int(hash_key(seed, epoch)))
    if sampling == "proportional":
        return generator.permutation(np.repeat(np.arange(len(batches)), batches))
    shares = np.asarray(batches, float) ** (1 / temperature)
    return generator.choice(len(batches), size=sum(batches), p=shares / shares.sum())


class MixedBatches(Sampler[list[tuple[int, int]]]):
    """The keys ``(task, key)`` of each batch of an epoch, or of its parts.

    A task that is asked for more batches than an epoch of its own has goes on with the next of its epochs; what it has
    left when the epoch of all ends comes first in the next.

    Args:
        tasks: by name the task's own batches, whole ones (`LengthBatches` with one part).
        parts: of a batch, for gradient accumulation. A task's last batch is left out if it has fewer items.
        sampling, temperature: of `task_turns`.

    Raises:
        InputError: a task has fewer items than a batch has parts, and so no batch at all.
    """

    def __init__(
        self, tasks: Mapping[str, LengthBatches], parts: int, sampling: str, temperature: float, seed: int
    ):  # fmt: skip
        self.tasks, self.parts, self.sampling = list(tasks.values()), parts, sampling
        self.temperature, self.seed, self.epoch = temperature, seed, 0
        self.counts = [len(task) - (0 < len(task.lengths) % task.batch_size < parts) for task in self.tasks]
        for name, task, count in zip(tasks, self.tasks, self.counts, strict=True):
            if not count:
                raise InputError(
                    f"--gradient_accumulation_steps {parts} are more than the {len(task.lengths)} training rows of "
                    f"{name}: leave it out of --tasks, or take fewer"
                )

    def __len__(self) -> int:
        return sum(self.counts) * self.parts

    def turns(self, epoch: int) -> np.ndarray:
        return task_turns(self.counts, self.sampling, self.temperature, self.seed, epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        done = np.zeros(len(self.tasks), int)
        for epoch in range(self.epoch):
            done += np.bincount(self.turns(epoch), minlength=len(done))
        streams = [_from(*of) for of in zip(self.tasks, self.counts, done.tolist(), strict=True)]
        for turn in self.turns(self.epoch):
            keys = next(streams[turn])
            for part in np.array_split(np.asarray(keys), self.parts):
                yield [(int(turn), int(key)) for key in part]


def _from(batches: LengthBatches, count: int, done: int) -> Iterator[list[int]]:
    """A task's batches, so many of each epoch, without the first ones that are done."""
    first, skipped = divmod(done, count)
    for epoch in itertools.count(first):
        batches.epoch = epoch
        yield from itertools.islice(list(batches), skipped if epoch == first else 0, count)


class MixedCollator:
    """One task's items as tensors, with the task's name under ``"task"``."""

    def __init__(self, collators: Mapping[str, TaskCollator]):
        self.names, self.collators = list(collators), list(collators.values())

    def __call__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor | str]:
        task = keys[0][0]
        return self.collators[task]([key for _, key in keys]) | {"task": self.names[task]}


class MixedLoader(DataLoader):
    """Training batches of several tasks; the Trainer sends it to each epoch."""

    def __init__(self, batches: MixedBatches, collator: MixedCollator):
        super().__init__(Keys(len(batches)), batch_sampler=batches, collate_fn=collator, generator=torch.Generator())

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch


class SharedEncoder(nn.Module):
    """Several tasks' models around one encoder: that of the first; the others keep their heads alone.

    Args:
        models: by task; all from one checkpoint.
    """

    def __init__(self, models: Mapping[str, nn.Module]):
        super().__init__()
        first = next(iter(models.values()))
        for model in models.values():
            setattr(model, model.base_model_prefix, first.base_model)
        self.models = nn.ModuleDict(models)
        self.config = first.config

    @property
    def base_model(self) -> nn.Module:
        return next(iter(self.models.values())).base_model

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.get_input_embeddings()

    def get_encoder(self) -> nn.Module:
        return self.base_model.get_encoder()

    def forward(self, task: str, **inputs):
        """The outputs of one task's model."""
        return self.models[task](**inputs)

    def head_weights(self, task: str) -> dict[str, torch.Tensor]:
        """What a task's model has beside the encoder, by its names there."""
        model = self.models[task]
        prefix = f"{model.base_model_prefix}."
        return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
