"""What the heads of our own that read whole texts share: the models and tasks that they fit, in place of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedModel

from hfssl.errors import InputError
from hfssl.evaluation.tasks import SPAN_KINDS, Task
from hfssl.finetuning.sources import MakeModel, Source
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.models import EncoderHeadConfig


@dataclass(frozen=True)
class WholeTextHead(Strategy, ABC):
    """A head that stands on an encoder alone. Its kin says what it reads and makes the model.

    Attributes:
        reads: what of the encoder it reads, as its messages say.
        config_class: of the models that have this head.
    """

    changes: ClassVar[tuple[str, ...]] = ("head",)
    reads: ClassVar[str] = "states"
    config_class: ClassVar[type[EncoderHeadConfig]] = EncoderHeadConfig

    def can_read(self, encoder_config: PreTrainedConfig) -> bool:
        """Whether such an encoder has what the head reads."""
        return not getattr(encoder_config, "is_encoder_decoder", False)

    @abstractmethod
    def check_own(self, source: Source) -> None:
        """Raises InputError for a model that has this head, with other options."""

    @abstractmethod
    def make(self, source: Source, encoder: PreTrainedModel, names: dict[str, Any]) -> PreTrainedModel:
        """The model of an encoder, as `MakeModel`."""

    def check(self, source: Source) -> None:
        if not self.can_read(source.encoder_config):
            raise InputError(
                f"--strategy {self.name} reads the {self.reads} of one encoder, which {source.name} is not"
            )
        if isinstance(source.config, EncoderHeadConfig) and not isinstance(source.config, self.config_class):
            raise InputError(
                f"--strategy {self.name} stands on an encoder alone, and {source.name} has a head of another kind"
            )

    def head(self, source: Source, task: Task) -> MakeModel | None:
        if task.kind in SPAN_KINDS:
            raise InputError(
                f"--strategy {self.name} reads whole texts, and {task.title} has a head on spans: leave it out"
            )
        if isinstance(source.config, self.config_class):  # a task's model that another task starts from
            self.check_own(source)
            return None
        return lambda encoder, names: self.make(source, encoder, names)
