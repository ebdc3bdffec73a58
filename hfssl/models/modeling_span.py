"""A classifier of two spans in their context, on any encoder: WiC (a word in two sentences), WSC (a name, a pronoun).

SuperGLUE's baseline (Wang et al. 2019, section 4): the states of each span's tokens, averaged, are concatenated with
the sentence's own state, the first token's or, left to right, the last one's, and a linear layer reads them. Without
spans it is a linear layer on the sentence's state, for any task and encoder: the choice of that state is the pooling.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .classification import classified
from .encoder_head import EncoderHead, EncoderHeadConfig

SENTENCE_STATES = ("first", "last", "mean")


class SpanConfig(EncoderHeadConfig):
    """
    Args:
        encoder: the encoder's config, as a config or as its dictionary.
        num_spans: spans of a row; 0 for a classifier of the sentence alone.
        sentence_state: "first" token's, "last" token's, or the "mean" over tokens, the special ones included.
        classifier_dropout: on what the linear layer reads.

    Raises:
        ValueError: an encoder of no known kind, or an unknown `sentence_state`.
    """

    model_type = "hfssl_span"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_span.SpanConfig",
        "AutoModelForSequenceClassification": "modeling_span.SpanForSequenceClassification",
    }
    sentence_states: ClassVar[tuple[str, ...]] = SENTENCE_STATES

    num_spans: int = 2


class SpanForSequenceClassification(EncoderHead):
    """An encoder and a linear layer on [sentence; span 1; span 2; ...]."""

    config_class = SpanConfig

    def __init__(self, config: SpanConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder)
        width = config.encoder.hidden_size * (config.num_spans + 1)
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
            labels: (B,) classes, or scores if there is one label.

        Returns:
            `logits` (B, num_labels), and with labels the mean `loss`.
        """
        outputs = self._encoded(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        states = outputs.last_hidden_state  # (B, T, D)
        pooled = self._sentence(states, attention_mask)  # (B, D)
        if self.config.num_spans:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            inside = (places >= spans[..., :1]) & (places < spans[..., 1:])  # (B, S, T)
            pooled = torch.cat([pooled, (_shares(inside, states) @ states).flatten(1)], dim=-1)
        return classified(self.classifier(self.dropout(pooled)), labels)

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
