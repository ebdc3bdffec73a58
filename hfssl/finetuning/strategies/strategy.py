"""What a strategy is: plain fine-tuning, and the places where others differ from it."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from hfssl.errors import InputError, one_of
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.batches import make_targets
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import Head, choose_head, load_model
from hfssl.finetuning.losses import item_losses
from hfssl.finetuning.sources import MakeModel, Source


@dataclass(frozen=True)
class Strategy:
    """Plain fine-tuning. Its kin overrides what it changes; the fields of such a dataclass are its options.

    A strategy serves one run at a time: `bind` begins one, and `_keep` sets what it needs meanwhile.

    Attributes:
        name: as ``--strategy`` has it.
        source: the paper.
        takes: ``"any"`` model, or an ``"encoder-decoder"``.
        changes: what of fine-tuning it changes, of "loss", "head", "recipe", ...; two that change the same thing
            contradict each other.
        recipe: the recipe that it is, if it is one.
        perturbs: it hooks into the embeddings, which a compiled model does not notice.
        by_candidate: COPA's and ReCoRD's candidates are rows of their own, to be scored.
        takes_flags: it goes with ``--torch_compile`` and ``--freeze_encoder``.
    """

    name: ClassVar[str] = "plain"
    source: ClassVar[str] = ""
    takes: ClassVar[str] = "any"
    changes: ClassVar[tuple[str, ...]] = ()
    recipe: ClassVar[str | None] = None
    perturbs: ClassVar[bool] = False
    by_candidate: ClassVar[bool] = True
    takes_flags: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[Strategy, ...]:
        """Itself, or those that it is composed of."""
        return (self,)

    @property
    def is_plain(self) -> bool:
        return type(self) is Strategy

    @property
    def training(self) -> Strategy:
        """What of it changes the training; the rest is of the predictions."""
        return self

    @property
    def passes(self) -> int:
        """Forward and backward passes of a batch, each with `losses` anew; an update has their gradients' mean."""
        return 1

    @property
    def needs_fp32(self) -> bool:
        """bf16 would round away what it does."""
        return False

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """By the part's name its options, plain values for JSON: these decide a result.

        Of a part that is a recipe and nothing else there are none: its settings say all.
        """
        return {
            part.name: {item.name: _plain(getattr(part, item.name)) for item in options_of(part)}
            for part in self.parts
            if set(part.changes) - {"recipe"}
        }

    def part(self, name: str) -> Strategy | None:
        """The part of that name, if there is one."""
        return next((part for part in self.parts if part.name == name), None)

    def check(self, source: Source) -> None:
        """Raises InputError for a model that it cannot take."""
        is_both = getattr(source.encoder_config, "is_encoder_decoder", False)
        if self.takes == "encoder-decoder" and not is_both:
            raise InputError(
                f"--strategy {self.name} takes an encoder with a decoder, such as T5 or BART; {source.name} is a "
                f"{source.encoder_config.model_type} model"
            )

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Raises InputError for tasks that it cannot take together."""

    def head(self, source: Source, task: Task) -> MakeModel | None:
        """What makes the model of an encoder; None: its own head, or transformers'.

        Raises:
            InputError: there is none for such a model or task.
        """
        return None

    def choose_head(self, source: Source, task: Task, new_head: bool = False) -> Head:
        """The head of a task, as `heads.choose_head`.

        Raises:
            InputError: as there; the task is none for the strategy.
        """
        return choose_head(source, task, new_head, self.head(source, task))

    def load(
        self, source: Source, task: Task, head: Head, seed: int, freeze_encoder: bool = False
    ) -> PreTrainedModel:  # fmt: skip
        """The model to train, as `heads.load_model`."""
        return load_model(source, task, head, seed, freeze_encoder, self.head(source, task))

    def encoder(self, tokenizer, max_length: int, with_types: bool) -> TaskEncoder:
        """What makes tokens of the tasks' texts."""
        return TaskEncoder(tokenizer, max_length, with_types)

    def targets(self, data: SplitData, order: Sequence[str]) -> np.ndarray:
        """What the losses get as labels, as `make_targets`."""
        return make_targets(data, order)

    def predict(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits of a batch (R, C), from which predictions are decoded."""
        return model(**inputs).logits

    def for_task(self, task: Task) -> Strategy:
        """With the paper's settings for this task in place of options that were not given."""
        return self

    def bind(self, model: PreTrainedModel, task: Task | None, seed: int, updates: int) -> None:
        """Once, before training: generators, copies of weights.

        Args:
            model: on its device.
            updates: of the whole training.
        """

    def _keep(self, **state: Any) -> None:
        """Sets attributes beside the options, which are frozen."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def losses(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], labels: torch.Tensor,
        groups: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        """The hook on the loss.

        Args:
            inputs: what the model takes.
            labels, groups: as `item_losses` takes them.

        Returns:
            The loss of each item (B,), and the outputs of the plain forward pass.
        """
        outputs = model(**inputs)
        return item_losses(outputs.logits, labels, groups), outputs

    def after_update(self, model: PreTrainedModel) -> None:
        """The hook on the step: once after each."""

    def flags(self) -> list[str]:
        """What must be said beside the score, once the training is over."""
        return []


@dataclass(frozen=True)
class Composition(Strategy):
    """Several strategies, none of which changes what another does: MT-DNN-SMART is multitask and smart."""

    given: tuple[Strategy, ...] = ()

    def __post_init__(self):
        for number, part in enumerate(self.given):
            for other in self.given[:number]:
                self._refuse(other, part)

    def _refuse(self, one: Strategy, other: Strategy) -> None:
        if one.name == other.name:
            raise InputError(f"--strategy {self.name} names {one.name} twice")
        if one.is_plain or other.is_plain:
            raise InputError("--strategy plain is fine-tuning without any other: leave 'plain' out, or the others")
        trains, writes = (one, other) if "start" in one.changes else (other, one)
        if "start" in trains.changes and "texts" in writes.changes:
            raise InputError(
                f"--strategy {self.name}: {trains.name} trains a head for each task, and {writes.name} has none; give "
                "one of them"
            )
        both = [what for what in one.changes if what in other.changes]
        if both:
            raise InputError(
                f"--strategy {self.name}: {one.name} and {other.name} both change the {both[0]}; give one of them"
            )

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.given)

    @property
    def parts(self) -> tuple[Strategy, ...]:
        return self.given

    @property
    def recipe(self) -> str | None:
        return next((part.recipe for part in self.given if part.recipe), None)

    @property
    def perturbs(self) -> bool:
        return any(part.perturbs for part in self.given)

    @property
    def needs_fp32(self) -> bool:
        return any(part.needs_fp32 for part in self.given)

    @property
    def passes(self) -> int:
        return math.prod(part.passes for part in self.given)

    def check(self, source: Source) -> None:
        for part in self.given:
            part.check(source)

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        for part in self.given:
            part.check_tasks(tasks)

    @property
    def training(self) -> Strategy:
        kept = tuple(part for part in self.given if part.training is part)
        return Composition(kept) if len(kept) > 1 else kept[0]

    def _owner(self, what: str) -> Strategy:
        """Whose part that is: of what none changes, a plain strategy's."""
        return next((part for part in self.given if what in part.changes), Strategy())

    @property
    def by_candidate(self) -> bool:
        return all(part.by_candidate for part in self.given)

    @property
    def takes_flags(self) -> bool:
        return all(part.takes_flags for part in self.given)

    def choose_head(self, source, task, new_head=False):
        return self._owner("head").choose_head(source, task, new_head)

    def load(self, source, task, head, seed, freeze_encoder=False):
        return self._owner("head").load(source, task, head, seed, freeze_encoder)

    def encoder(self, tokenizer, max_length, with_types):
        return self._owner("texts").encoder(tokenizer, max_length, with_types)

    def targets(self, data, order):
        return self._owner("texts").targets(data, order)

    def predict(self, model, inputs):
        return self._owner("texts").predict(model, inputs)

    def head(self, source: Source, task: Task) -> MakeModel | None:
        made = [part.head(source, task) for part in self.given]
        return next((make for make in made if make), None)

    def for_task(self, task: Task) -> Strategy:
        return Composition(tuple(part.for_task(task) for part in self.given))

    def bind(self, model: PreTrainedModel, task: Task | None, seed: int, updates: int) -> None:
        for part in self.given:
            part.bind(model, task, seed, updates)

    def losses(self, model, inputs, labels, groups=None):
        return self._owner("loss").losses(model, inputs, labels, groups)

    def after_update(self, model: PreTrainedModel) -> None:
        for part in self.given:
            part.after_update(model)

    def flags(self) -> list[str]:
        return [flag for part in self.given for flag in part.flags()]


@dataclass(frozen=True)
class Roberta(Strategy):
    """The recipe of that name, whatever the model: 10 epochs, 6 % warm-up, Adam of beta 0.98, no clipping."""

    name: ClassVar[str] = "roberta"
    source: ClassVar[str] = "Liu et al. 2019, table 10"
    changes: ClassVar[tuple[str, ...]] = ("recipe",)
    recipe: ClassVar[str | None] = "roberta"


def options_of(strategy: Strategy | type[Strategy]) -> Sequence[dataclasses.Field]:
    """The fields that are options."""
    return [item for item in dataclasses.fields(strategy) if item.init]


def _plain(value: Any) -> Any:
    return str(value) if value == math.inf else value


def check_choice(strategy: Strategy, name: str, choices: Sequence[str]) -> None:
    """Raises InputError, with the nearest, unless this option is one of the choices."""
    one_of(f"{strategy.name}.{name}", getattr(strategy, name), choices)


def check_options(strategy: Strategy, most: float = sys.float_info.max, **least: float) -> None:
    """Raises InputError unless each of these options is None or a number not below its least, nor above the most."""
    for name, bound in least.items():
        value = getattr(strategy, name)
        if value is not None and not bound <= value <= most:
            raise InputError(f"{strategy.name}.{name} must be at least {bound:g}, not {value}")
