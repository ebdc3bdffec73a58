"""HIRE (Xu et al. 2019, arXiv 1911.01940): a classifier that reads all layers of an encoder, on any encoder.

A bidirectional GRU reads each layer's states H_l and gives the layer a score; the softmax over layers of the scores
weighs them into A = sum_l a_l H_l, which is different for each text. A and the last layer's R are fused from
[R; A; R + A; R * A] and classified. The GRU's size, and that the fusion is one tanh layer on the sentence's state, as
BERT's pooler is, are ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import transformers.initialization as hf_init
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .classification import classified
from .encoder_head import EncoderHead, EncoderHeadConfig


class HireConfig(EncoderHeadConfig):
    """
    Args:
        encoder: the encoder's config, as a config or as its dictionary.
        sentence_state: "first" token's or "last" token's.
        gru_size: units of the GRU in each direction.
        classifier_dropout: on what the fusion and the classifier read.

    Raises:
        ValueError: an encoder of no known kind, or an unknown `sentence_state`.
    """

    model_type = "hfssl_hire"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_hire.HireConfig",
        "AutoModelForSequenceClassification": "modeling_hire.HireForSequenceClassification",
    }
    sentence_states: ClassVar[tuple[str, ...]] = ("first", "last")

    gru_size: int = 64


class LayerWeights(nn.Module):
    """The weight of each layer for each text: a bidirectional GRU's last states, a linear layer, a softmax."""

    def __init__(self, hidden_size: int, gru_size: int):
        super().__init__()
        self.gru = nn.GRU(hidden_size, gru_size, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * gru_size, 1)

    def forward(self, layers: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """
        Args:
            layers: (L, B, T, D).
            lengths: (B,), tokens of each row.

        Returns:
            (L, B), of sum 1 over the layers.
        """
        packed = nn.utils.rnn.pack_padded_sequence(
            layers.flatten(0, 1), lengths.repeat(len(layers)).cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)  # (2, L * B, H)
        return self.score(torch.cat([last[0], last[1]], dim=-1)).view(layers.shape[:2]).softmax(0)


class HireForSequenceClassification(EncoderHead):
    """An encoder, the weights of its layers, the fusion and a linear layer."""

    config_class = HireConfig

    def __init__(self, config: HireConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config, encoder)
        width = config.encoder.hidden_size
        self.layer_weights = LayerWeights(width, config.gru_size)
        self.fusion = nn.Linear(4 * width, width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.GRU):
            bound = module.hidden_size**-0.5  # torch's own
            for weight in module.parameters():
                hf_init.uniform_(weight, -bound, bound)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids: (B, T), padded on the right.
            attention_mask: (B, T), 1 for a token.
            labels: (B,) classes, or scores if there is one label.

        Returns:
            `logits` (B, num_labels), and with labels the mean `loss`.
        """
        outputs = self._encoded(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=True,
        )
        layers = torch.stack(outputs.hidden_states[1:])  # (L, B, T, D), without the embeddings
        lengths = (torch.ones_like(input_ids) if attention_mask is None else attention_mask).sum(1)
        weights = self.layer_weights(layers, lengths)  # (L, B)
        place = torch.zeros_like(lengths) if self.config.sentence_state == "first" else lengths - 1
        rows = torch.arange(len(lengths), device=lengths.device)
        auxiliary = (weights[..., None] * layers[:, rows, place]).sum(0)  # A: (B, D)
        last = outputs.last_hidden_state[rows, place]  # R: (B, D)
        fused = torch.cat([last, auxiliary, last + auxiliary, last * auxiliary], dim=-1)
        return classified(self.classifier(self.dropout(torch.tanh(self.fusion(self.dropout(fused))))), labels)
