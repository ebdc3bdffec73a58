"""A linear layer on one state of a row, in place of the model's own kind of head: the first, the last or the mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hfssl.errors import InputError
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.sources import MakeModel, Source
from hfssl.finetuning.strategies.strategy import Strategy, check_choice
from hfssl.models import SENTENCE_STATES, HireConfig, SpanConfig, SpanForSequenceClassification


@dataclass(frozen=True)
class Pooled(Strategy):
    """`SpanForSequenceClassification` without spans, so that encoders of any kind have the same head."""

    name: ClassVar[str] = "pooled"
    source: ClassVar[str] = "Reimers and Gurevych 2019, section 3, for sentence embeddings"
    changes: ClassVar[tuple[str, ...]] = ("head",)

    state: str = field(default="mean", metadata={"help": f"{', '.join(SENTENCE_STATES)}: over a row's tokens."})

    def __post_init__(self):
        check_choice(self, "state", SENTENCE_STATES)

    def check(self, source: Source) -> None:
        if getattr(source.encoder_config, "is_encoder_decoder", False):
            raise InputError(f"--strategy pooled reads the states of one encoder, which {source.name} is not")
        if isinstance(source.config, HireConfig):
            raise InputError(
                f"--strategy pooled stands on an encoder alone, and {source.name} has a head of another kind"
            )

    def head(self, source: Source, task: Task) -> MakeModel | None:
        if task.kind in ("words", "coreference"):
            raise InputError(f"--strategy pooled reads whole texts, and {task.title} has a head on spans: leave it out")
        if isinstance(source.config, SpanConfig):  # a task's model that another task starts from
            if source.config.num_spans or source.config.sentence_state != self.state:
                raise InputError(f"--strategy pooled: the head of {source.name} does not read its {self.state} state")
            return None

        def make(encoder: PreTrainedModel, names: dict[str, Any]) -> PreTrainedModel:
            config = SpanConfig(encoder=encoder.config, num_spans=0, sentence_state=self.state, **names)
            return SpanForSequenceClassification(config, encoder)

        return make
