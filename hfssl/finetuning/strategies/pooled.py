"""A linear layer on one state of a row, in place of the model's own kind of head: the first, the last or the mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hfssl.errors import InputError
from hfssl.finetuning.sources import Source
from hfssl.finetuning.strategies.strategy import check_choice
from hfssl.finetuning.strategies.whole_text_head import WholeTextHead
from hfssl.models import SENTENCE_STATES, EncoderHeadConfig, SpanConfig, SpanForSequenceClassification


@dataclass(frozen=True)
class Pooled(WholeTextHead):
    """`SpanForSequenceClassification` without spans, so that encoders of any kind have the same head."""

    name: ClassVar[str] = "pooled"
    source: ClassVar[str] = "Reimers and Gurevych 2019, section 3, for sentence embeddings"
    config_class: ClassVar[type[EncoderHeadConfig]] = SpanConfig

    state: str = field(default="mean", metadata={"help": f"{', '.join(SENTENCE_STATES)}: over a row's tokens."})

    def __post_init__(self):
        check_choice(self, "state", SENTENCE_STATES)

    def check_own(self, source: Source) -> None:
        if source.config.num_spans or source.config.sentence_state != self.state:
            raise InputError(f"--strategy pooled: the head of {source.name} does not read its {self.state} state")

    def make(self, source: Source, encoder: PreTrainedModel, names: dict[str, Any]) -> PreTrainedModel:
        config = SpanConfig(encoder=encoder.config, num_spans=0, sentence_state=self.state, **names)
        return SpanForSequenceClassification(config, encoder)
