"""HIRE: a head that reads all layers, which it weighs anew for each text (Xu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hfssl.errors import InputError
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.sources import MakeModel, Source
from hfssl.finetuning.strategies.strategy import Strategy, check_options
from hfssl.models import HireConfig, HireForSequenceClassification, SpanConfig


@dataclass(frozen=True)
class Hire(Strategy):
    """`HireForSequenceClassification` in place of the model's own head."""

    name: ClassVar[str] = "hire"
    source: ClassVar[str] = "Xu et al. 2019"
    changes: ClassVar[tuple[str, ...]] = ("head",)

    gru_size: int = field(default=64, metadata={"help": "Units of the layers' GRU in each direction; ours."})

    def __post_init__(self):
        check_options(self, gru_size=1)

    def check(self, source: Source) -> None:
        config = source.encoder_config
        if getattr(config, "is_encoder_decoder", False) or not getattr(config, "num_hidden_layers", 0):
            raise InputError(f"--strategy hire reads the layers of one encoder, which {source.name} is not")
        if isinstance(source.config, SpanConfig):
            raise InputError(
                f"--strategy hire stands on an encoder alone, and {source.name} has a head of another kind"
            )

    def head(self, source: Source, task: Task) -> MakeModel | None:
        if task.kind in ("words", "coreference"):
            raise InputError(f"--strategy hire reads whole texts, and {task.title} has a head on spans: leave it out")
        if isinstance(source.config, HireConfig):
            if source.config.gru_size != self.gru_size:
                units = source.config.gru_size
                raise InputError(f"--strategy hire: {source.name} has a gru_size of {units}, not {self.gru_size}")
            return None

        def make(encoder: PreTrainedModel, names: dict[str, Any]) -> PreTrainedModel:
            config = HireConfig(
                encoder=encoder.config, sentence_state=source.sentence_state, gru_size=self.gru_size, **names
            )
            return HireForSequenceClassification(config, encoder)

        return make
