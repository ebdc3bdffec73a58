"""A classifier of two spans in their context, on any encoder: WiC (a word in two sentences), WSC (a name, a pronoun).

SuperGLUE's baseline (Wang et al. 2019, section 4): the states of each span's tokens, averaged, are concatenated with
the sentence's own state, the first token's or, left to right, the last one's, and a linear layer reads them. Without
spans it is a linear layer on the sentence's state, for any task and encoder: the choice of that state is the pooling.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .modeling_sentence import SentenceConfig, SentenceModel

SENTENCE_STATES = ("first", "last", "mean")


class SpanConfig(PreTrainedConfig):
    """
    Args:
        encoder: the encoder's config, as a config or as its dictionary.
        num_spans: spans of a row; 0 for a classifier of the sentence alone.
        sentence_state: "first" token's, "last" token's, or the "mean" over tokens, the special ones included.
        classifier_dropout: on what the linear layer reads.

    Raises:
        ValueError: no encoder, or an unknown `sentence_state`.
    """

    model_type = "hfssl_span"
    _auto_class: ClassVar[str | None] = "AutoConfig"

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    num_spans: int = 2
    sentence_state: str = "first"
    classifier_dropout: float = 0.1

    def __post_init__(self, **kwargs):
        if isinstance(self.encoder, dict):
            values = dict(self.encoder)
            kind = values.pop("model_type", None)
            own = kind == SentenceConfig.model_type  # not known to AutoConfig where hfssl is not installed
            self.encoder = SentenceConfig(**values) if own else AutoConfig.for_model(kind, **values)
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "modeling_span.SpanConfig",
            "AutoModelForSequenceClassification": "modeling_span.SpanForSequenceClassification",
        }
        if self.sentence_state not in SENTENCE_STATES:
            raise ValueError(f"sentence_state must be one of {', '.join(SENTENCE_STATES)}, not {self.sentence_state!r}")

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self.encoder if self.encoder is not None else self


class SpanForSequenceClassification(PreTrainedModel):
    """An encoder and a linear layer on [sentence; span 1; span 2; ...]."""

    config_class = SpanConfig
    base_model_prefix = "encoder"
    _auto_class = "AutoModelForSequenceClassification"
    model_tags: ClassVar[list[str]] = ["hfssl"]
    _supports_sdpa = True

    def __init__(self, config: SpanConfig, encoder: PreTrainedModel | None = None):
        """`encoder` is used as it is, with its weights; without it one is made from the config."""
        super().__init__(config)
        if config.encoder is None:
            raise ValueError("SpanConfig needs the config of an encoder")
        self.num_labels = config.num_labels
        if encoder is not None:
            self.encoder = encoder
        elif isinstance(config.encoder, SentenceConfig):
            self.encoder = SentenceModel(config.encoder)
        else:
            self.encoder = AutoModel.from_config(config.encoder)
        width = config.encoder.hidden_size * (config.num_spans + 1)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        spans: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids: (B, T), padded on the right.
            spans: (B, num_spans, 2), the first token and the one after the last; not looked at where num_spans is 0.
            labels: (B,) classes.

        Returns:
            `logits` (B, num_labels), and with labels the mean `loss`.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        states = self.encoder(**given).last_hidden_state  # (B, T, D)
        pooled = self._sentence(states, attention_mask)  # (B, D)
        if self.config.num_spans:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            inside = (places >= spans[..., :1]) & (places < spans[..., 1:])  # (B, S, T)
            pooled = torch.cat([pooled, (_shares(inside, states) @ states).flatten(1)], dim=-1)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _sentence(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if self.config.sentence_state == "first":
            return states[:, 0]
        if attention_mask is None:
            attention_mask = states.new_ones(states.shape[:2], dtype=torch.int64)
        if self.config.sentence_state == "mean":
            return (_shares(attention_mask, states)[:, None] @ states)[:, 0]
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]


def _shares(chosen: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """What each token counts in the mean of those chosen (..., T), in the states' precision."""
    return chosen.to(states.dtype) / chosen.sum(-1, keepdim=True).clamp(min=1)
