"""MT-DNN (Liu et al. 2019): one encoder learns all tasks, each with its own head; then each task goes on alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hfssl.errors import InputError
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.recipes import Settings
from hfssl.finetuning.strategies.mixing import SAMPLINGS
from hfssl.finetuning.strategies.strategy import Strategy, check_choice, check_options


@dataclass(frozen=True)
class Multitask(Strategy):
    """The shared stage before the tasks' own, with Adamax; the defaults are the paper's (section 4.2).

    The published code clips the gradient at 1, warms up over a tenth of the updates and knows no weight decay.
    """

    name: ClassVar[str] = "multitask"
    source: ClassVar[str] = "Liu et al. 2019 (MT-DNN), algorithm 1"
    changes: ClassVar[tuple[str, ...]] = ("start",)
    takes_flags: ClassVar[bool] = False

    sampling: str = field(
        default="proportional",
        metadata={"help": "proportional: each batch of each task once an epoch; temperature: drawn."},
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Of sampling=temperature: shares are batches ** (1 / temperature)."}
    )
    epochs: float = field(default=5.0, metadata={"help": "Passes over all tasks in the shared stage."})
    learning_rate: float = field(default=5e-5, metadata={"help": "The highest one of the shared stage."})
    batch_size: int = field(default=32, metadata={"help": "Examples of an update of the shared stage."})

    def __post_init__(self):
        check_choice(self, "sampling", SAMPLINGS)
        check_options(self, temperature=1e-3, epochs=1e-3, learning_rate=1e-12, batch_size=1)

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        if len(tasks) < 2:
            raise InputError("--strategy multitask trains several tasks together: --tasks must name two at least")

    @property
    def settings(self) -> Settings:
        """Of the shared stage."""
        return Settings(self.learning_rate, self.batch_size, self.epochs, warmup=0.1, weight_decay=0.0)
