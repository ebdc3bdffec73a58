"""HIRE: a head that reads all layers, which it weighs anew for each text (Xu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedModel

from hfssl.errors import InputError
from hfssl.finetuning.sources import Source
from hfssl.finetuning.strategies.strategy import check_options
from hfssl.finetuning.strategies.whole_text_head import WholeTextHead
from hfssl.models import EncoderHeadConfig, HireConfig, HireForSequenceClassification


@dataclass(frozen=True)
class Hire(WholeTextHead):
    """`HireForSequenceClassification` in place of the model's own head."""

    name: ClassVar[str] = "hire"
    source: ClassVar[str] = "Xu et al. 2019"
    reads: ClassVar[str] = "layers"
    config_class: ClassVar[type[EncoderHeadConfig]] = HireConfig

    gru_size: int = field(default=64, metadata={"help": "Units of the layers' GRU in each direction; ours."})

    def __post_init__(self):
        check_options(self, gru_size=1)

    def can_read(self, encoder_config: PreTrainedConfig) -> bool:
        return super().can_read(encoder_config) and bool(getattr(encoder_config, "num_hidden_layers", 0))

    def check_own(self, source: Source) -> None:
        if (units := source.config.gru_size) != self.gru_size:
            raise InputError(f"--strategy hire: {source.name} has a gru_size of {units}, not {self.gru_size}")

    def make(self, source: Source, encoder: PreTrainedModel, names: dict[str, Any]) -> PreTrainedModel:
        config = HireConfig(
            encoder=encoder.config, sentence_state=source.sentence_state, gru_size=self.gru_size, **names
        )
        return HireForSequenceClassification(config, encoder)
