"""The baselines of GLUE (Wang et al. 2018, section 4): CBoW, the mean of word vectors, and BiLSTM with max-pooling.

A sentence is one vector; a pair u, v is [u; v; |u - v|; u * v] under a small network. A single sentence has v = 0. The
inputs are those of any sequence classifier, the second sentence by its token types, so both run wherever BERT does.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from .classification import classified

ENCODERS = ("cbow", "bilstm")


class SentenceConfig(PreTrainedConfig):
    """
    Args:
        encoder: "cbow" (the mean of the embeddings) or "bilstm".
        embedding_dim: width of the word vectors (300 in the paper, as GloVe's).
        hidden_size: width of a token's vector: `embedding_dim` for cbow, twice the LSTM's for bilstm.
        classifier_dim: of the hidden layer on the pair's features (512 in the paper); 0: a linear layer alone.
        dropout: on the word vectors and on the features (0.2 in the paper).
        initializer_range: standard deviation of new weights, near that of trained word vectors.
        uncounted_tokens: the first so many ids are left out of a sentence's vector: special tokens, unknown words.

    Raises:
        ValueError: an unknown encoder or a width that does not fit it.
    """

    model_type = "hfssl_sentence"
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = 20000
    encoder: str = "cbow"
    embedding_dim: int = 300
    hidden_size: int = 300
    classifier_dim: int = 512
    dropout: float = 0.2
    initializer_range: float = 0.1
    uncounted_tokens: int = 0
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "modeling_sentence.SentenceConfig",
            "AutoModel": "modeling_sentence.SentenceModel",
            "AutoModelForSequenceClassification": "modeling_sentence.SentenceForSequenceClassification",
        }
        if self.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {self.encoder!r}; one of {', '.join(ENCODERS)}")
        if self.encoder == "cbow" and self.hidden_size != self.embedding_dim:
            raise ValueError("for cbow hidden_size is embedding_dim")
        if self.encoder == "bilstm" and self.hidden_size % 2:
            raise ValueError("for bilstm hidden_size is twice the LSTM's width, an even number")


class SentencePreTrainedModel(PreTrainedModel):
    config_class = SentenceConfig
    base_model_prefix = "sentence"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            return  # torch's own
        super()._init_weights(module)


class SentenceModel(SentencePreTrainedModel):
    """A vector for each token: its embedding, or the states of a BiLSTM at it."""

    _auto_class = "AutoModel"
    model_tags: ClassVar[list[str]] = ["hfssl", "baseline"]

    def __init__(self, config: SentenceConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_dim, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = None
        if config.encoder == "bilstm":
            self.lstm = nn.LSTM(config.embedding_dim, config.hidden_size // 2, batch_first=True, bidirectional=True)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T), padded on the right.
            attention_mask: (B, T), 1 for a token.
            token_type_ids: not used here.

        Returns:
            `last_hidden_state` (B, T, hidden_size), 0 at padding.
        """
        states = self.dropout(self.embeddings(input_ids))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.lstm is not None:
            lengths = mask.sum(1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1]
            )
        return BaseModelOutput(last_hidden_state=states * mask[..., None])


class SentenceForSequenceClassification(SentencePreTrainedModel):
    """CBoW or BiLSTM under GLUE's classifier, or under a linear one."""

    _auto_class = "AutoModelForSequenceClassification"
    model_tags = SentenceModel.model_tags

    def __init__(self, config: SentenceConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.sentence = SentenceModel(config)
        hidden = [] if config.classifier_dim == 0 else [
            nn.Linear(4 * config.hidden_size, config.classifier_dim), nn.Tanh(), nn.Dropout(config.dropout),
        ]  # fmt: skip
        width = config.classifier_dim or 4 * config.hidden_size
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), *hidden, nn.Linear(width, config.num_labels))
        self.post_init()

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
            token_type_ids: (B, T), 1 in the second sentence.
            labels: (B,) classes, or scores if there is one label.

        Returns:
            `logits` (B, num_labels), and with labels the mean `loss`.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        states = self.sentence(input_ids, mask).last_hidden_state  # (B, T, D)
        counted = mask * (input_ids >= self.config.uncounted_tokens)
        u, v = (self._pooled(states, counted * (types == kind)) for kind in (0, 1))
        return classified(self.classifier(torch.cat([u, v, (u - v).abs(), u * v], dim=-1)), labels)

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, D): the mean for CBoW, the maximum for BiLSTM; 0 where there is no token."""
        mask = mask[..., None]
        if self.config.encoder == "cbow":
            return (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        most = states.masked_fill(mask == 0, torch.finfo(states.dtype).min).amax(1)
        return torch.where(mask.any(1), most, torch.zeros_like(most))
