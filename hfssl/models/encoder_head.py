"""What classifiers on any encoder share: a config with the encoder's inside, and the encoder made of it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .modeling_sentence import SentenceConfig, SentenceModel


class EncoderHeadConfig(PreTrainedConfig):
    """
    Args:
        encoder: the encoder's config, as a config or as its dictionary.
        sentence_state: whose state stands for the sentence, one of the head's `sentence_states`.
        classifier_dropout: on what the head's linear layers read.

    Raises:
        ValueError: an encoder of no known kind, or an unknown `sentence_state`.
    """

    _auto_class: ClassVar[str | None] = "AutoConfig"
    # Auto class -> "module.Class", filled in by each head; the module is the file that travels with the weights.
    auto_classes: ClassVar[dict[str, str]] = {}
    sentence_states: ClassVar[tuple[str, ...]] = ()

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    sentence_state: str = "first"
    classifier_dropout: float = 0.1

    def __post_init__(self, **kwargs):
        if isinstance(self.encoder, dict):
            values = dict(self.encoder)
            kind = values.pop("model_type", None)
            own = kind == SentenceConfig.model_type  # not known to AutoConfig where hfssl is not installed
            self.encoder = SentenceConfig(**values) if own else AutoConfig.for_model(kind, **values)
        super().__post_init__(**kwargs)
        self.auto_map = dict(self.auto_classes)
        if self.sentence_state not in self.sentence_states:
            known = ", ".join(self.sentence_states)
            raise ValueError(f"sentence_state must be one of {known}, not {self.sentence_state!r}")

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self.encoder if self.encoder is not None else self


class EncoderHead(PreTrainedModel):
    """An encoder and a dropout. Heads subclass it, add their layers and call `post_init`."""

    config_class = EncoderHeadConfig
    base_model_prefix = "encoder"
    _auto_class = "AutoModelForSequenceClassification"
    model_tags: ClassVar[list[str]] = ["hfssl"]
    _supports_sdpa = True

    def __init__(self, config: EncoderHeadConfig, encoder: PreTrainedModel | None = None):
        """`encoder` is used as it is, with its weights; without it one is made from the config.

        Raises:
            ValueError: the config has none of an encoder.
        """
        super().__init__(config)
        if config.encoder is None:
            raise ValueError(f"{type(config).__name__} needs the config of an encoder")
        self.num_labels = config.num_labels
        if encoder is not None:
            self.encoder = encoder
        elif isinstance(config.encoder, SentenceConfig):
            self.encoder = SentenceModel(config.encoder)
        else:
            self.encoder = AutoModel.from_config(config.encoder)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def _encoded(self, **inputs: torch.Tensor | bool | None):
        """What the encoder returns; an input that is None is not handed to it, since not every encoder takes all."""
        return self.encoder(**{name: value for name, value in inputs.items() if value is not None})
