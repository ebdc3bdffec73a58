"""Language models that train fast and save stock.

Subclasses of transformers' GPT2LMHeadModel, LlamaForCausalLM, BertForMaskedLM, ModernBertForMaskedLM and, of a BERT
that reads left to right, BertLMHeadModel with the same weights. While there are labels, they differ in three things:

* The head and its cross-entropy are computed together, some tokens at a time (`linear_cross_entropy`): no tensor of
  tokens times vocabulary ever exists, and none is kept for the backward pass.
* A masked language model's head sees the predicted tokens alone, 15 % of them.
* The loss is the mean over all predicted tokens of the optimizer's step, whatever the number of accumulation steps and
  processes, when it is given their number (transformers issue 47688: stock BERT multiplies its loss by the steps).

Without labels they are the stock models. What they save is the stock model: same keys, same `architectures`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import NewGELUActivation
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

from .linear_cross_entropy import IGNORED, linear_cross_entropy, linear_scores
from .positions import fix_positions


class _Training:
    """What the five classes share; each has `stock`, the class that it trains and saves as."""

    stock: type[PreTrainedModel]
    accepts_loss_kwargs = True  # Trainer then gives the number of predicted tokens of the whole step

    def save_pretrained(self, *args, **kwargs):
        """Saves the stock model: `architectures` in config.json names it, and plain Auto classes load it."""
        training, self.__class__ = type(self), self.stock
        try:
            return self.save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = training

    @classmethod
    def count_targets(cls, labels: torch.Tensor) -> torch.Tensor:
        """How many tokens a batch's labels (B, T) have the model predict."""
        return (labels != IGNORED).sum()

    def _predicted(self, input_ids, labels, **kwargs) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
        """The hidden states (N, D) that the head is to read, the head, and the targets (N,)."""
        raise NotImplementedError

    @torch.no_grad()
    def score(self, input_ids, labels, **kwargs) -> tuple[float, int, int]:
        """Of a batch: the summed loss (nats), how many targets are the likeliest token, and the number of targets."""
        hidden, head, targets = self._predicted(input_ids, labels, **kwargs)
        total, right = linear_scores(hidden, head.weight, head.bias, targets)
        return float(total), int(right), int((targets != IGNORED).sum())

    def _mean(self, total: torch.Tensor, count: torch.Tensor | int, num_items_in_batch) -> torch.Tensor:
        if num_items_in_batch is None:
            num_items_in_batch = count
        if isinstance(num_items_in_batch, torch.Tensor):
            return total / num_items_in_batch.clamp(min=1).to(total.device)
        return total / max(1, num_items_in_batch)


class _CausalTraining(_Training):
    """A left-to-right model: token t is predicted from the hidden state at t - 1."""

    @classmethod
    def count_targets(cls, labels: torch.Tensor) -> torch.Tensor:
        return (labels[:, 1:] != IGNORED).sum()

    def forward(
        self, input_ids=None, labels=None, num_items_in_batch=None, document_ids=None, source_labels=None,
        source_weight=None, **kwargs,
    ):  # fmt: skip
        """As the stock model; with labels the output has a `loss` and no logits.

        Args:
            input_ids, labels: (B, T); the shift happens here.
            num_items_in_batch: predicted tokens of the whole step; by default those of this batch.
            document_ids: (B, T), which document each token is of. Attention then stays inside a document and positions
                count from its beginning. transformers derives the mask from positions that begin again.
            source_labels, source_weight: (B, T) and a scalar: more labels, whose summed loss, so weighted, is added to
                that of `labels` before it is divided by the number of these.
            target_positions: (B, M), the positions whose next token is in `labels`; where a row has fewer than M, its
                last position. The head then reads these alone.
        """
        _check_masks(document_ids, kwargs)
        if labels is None:
            return super().forward(input_ids, **self._apart(document_ids), **kwargs)
        positions = kwargs.pop("target_positions", None)
        hidden = self._hidden(input_ids, document_ids, **kwargs)
        rows, targets = self._read(hidden, labels, document_ids, positions)
        rows, head = self._head(rows)
        total = linear_cross_entropy(rows, head.weight, head.bias, targets)
        if source_labels is not None:
            more, tokens = self._read(hidden, source_labels, document_ids)
            more, head = self._head(more)
            total = total + source_weight * linear_cross_entropy(more, head.weight, head.bias, tokens)
        return CausalLMOutput(loss=self._mean(total, (targets != IGNORED).sum(), num_items_in_batch))

    def _predicted(self, input_ids, labels, document_ids=None, target_positions=None, **kwargs):
        inputs = {name: value for name, value in kwargs.items() if not name.startswith("source_")}  # `labels` alone
        hidden = self._hidden(input_ids, document_ids, **inputs)
        rows, targets = self._read(hidden, labels, document_ids, target_positions)
        return *self._head(rows), targets

    def _head(self, hidden: torch.Tensor) -> tuple[torch.Tensor, nn.Linear]:
        return hidden, self.lm_head

    def _hidden(self, input_ids, document_ids, **kwargs) -> torch.Tensor:
        return self.base_model(input_ids, **kwargs | {**self._apart(document_ids), "use_cache": False})[0]  # (B, T, D)

    def _read(self, hidden, labels, document_ids, positions=None) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden states (N, D) that predict labels, and these (N,)."""
        if document_ids is not None:  # the first token of a document is predicted from nothing
            starts = nn.functional.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0))
            labels = labels.masked_fill(starts, IGNORED)
        if positions is None:
            return hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).gather(1, positions).flatten()
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1), targets

    def _apart(self, document_ids) -> dict[str, Any]:
        if document_ids is None:
            return {}
        if self.config._attn_implementation not in ("sdpa", "eager", "flex_attention"):
            raise ValueError("attn_implementation must be sdpa, eager or flex_attention to keep documents apart")
        # With a cache transformers does not look at the positions.
        return {"position_ids": positions_within(document_ids), "use_cache": False}


class _MaskedTraining(_Training):
    """A blank language model: the head runs on the predicted positions alone."""

    def _head(self, hidden: torch.Tensor) -> tuple[torch.Tensor, nn.Linear]:
        raise NotImplementedError

    def forward(
        self, input_ids=None, labels=None, num_items_in_batch=None, document_ids=None, masked_positions=None, **kwargs
    ):
        """As the stock model; with labels the output has a `loss` and no logits.

        Args:
            input_ids: (B, T).
            labels: (B, T), -100 where nothing is predicted.
            num_items_in_batch: predicted tokens of the whole step; by default those of this batch.
            document_ids: (B, T), which document each token is of. Attention then stays inside a document and positions
                count from its beginning.
            masked_positions: (B, M), where the predicted tokens are, as `MaskingCollator` gives them; where a row has
                fewer than M, any other position. They spare a wait for the device, which would have to count.
        """
        _check_masks(document_ids, kwargs)
        if labels is None:
            return super().forward(input_ids, **self._apart(document_ids), **kwargs)
        hidden, head, targets = self._predicted(input_ids, labels, document_ids, masked_positions, **kwargs)
        total = linear_cross_entropy(hidden, head.weight, head.bias, targets)
        return MaskedLMOutput(loss=self._mean(total, self.count_targets(labels), num_items_in_batch))

    def _predicted(self, input_ids, labels, document_ids=None, masked_positions=None, **kwargs):
        hidden = self.base_model(input_ids, **self._apart(document_ids), **kwargs)[0]  # (B, T, D)
        if masked_positions is None:
            chosen = (labels != IGNORED).flatten().nonzero()[:, 0]
            hidden, targets = hidden.flatten(0, 1)[chosen], labels.flatten()[chosen]
        else:
            hidden = hidden.gather(1, masked_positions[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
            targets = labels.gather(1, masked_positions).flatten()
        return *self._head(hidden), targets

    def _apart(self, document_ids) -> dict[str, Any]:
        if document_ids is None:
            return {}
        return {"position_ids": positions_within(document_ids), "attention_mask": self._document_mask(document_ids)}

    def _document_mask(self, document_ids: torch.Tensor) -> torch.Tensor:
        same = document_ids[:, None, :, None] == document_ids[:, None, None, :]  # (B, 1, T, T)
        if self.config._attn_implementation == "sdpa":
            return same
        if self.config._attn_implementation == "eager":
            lowest = torch.finfo(self.dtype).min
            return torch.zeros(same.shape, dtype=self.dtype, device=same.device).masked_fill(~same, lowest)
        raise ValueError("attn_implementation must be sdpa or eager to keep documents apart in an encoder")


def _check_masks(document_ids: torch.Tensor | None, arguments: dict[str, Any]) -> None:
    if document_ids is not None and arguments.get("attention_mask") is not None:
        raise ValueError("give document_ids or attention_mask: packed blocks are full, and have no padding to mask")


def positions_within(document_ids: torch.Tensor) -> torch.Tensor:
    """The position of each token in its document, counted from 0; documents lie one after another in (B, T)."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = nn.functional.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(1).values


class _FusedNewGELU(NewGELUActivation):
    """GPT-2's activation; in training one pass over the memory instead of eight, in evaluation the stock one's bits."""

    def forward(self, input):
        return nn.functional.gelu(input, approximate="tanh") if self.training else super().forward(input)


class GPT2ForTraining(_CausalTraining, GPT2LMHeadModel):
    stock = GPT2LMHeadModel

    def __init__(self, config):
        super().__init__(config)
        for block in self.transformer.h:
            if type(block.mlp.act) is NewGELUActivation:
                block.mlp.act = _FusedNewGELU()
        fix_positions(self)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        found = super().from_pretrained(*args, **kwargs)
        fix_positions(found[0] if isinstance(found, tuple) else found)  # loading made new weights
        return found


class LlamaForTraining(_CausalTraining, LlamaForCausalLM):
    stock = LlamaForCausalLM


class BertForTraining(_MaskedTraining, BertForMaskedLM):
    stock = BertForMaskedLM

    def _head(self, hidden):
        return self.cls.predictions.transform(hidden), self.cls.predictions.decoder


class BertDecoderForTraining(_CausalTraining, BertLMHeadModel):
    """A BERT whose config has `is_decoder`: the weights of BertForMaskedLM under a causal mask."""

    stock = BertLMHeadModel

    def _head(self, hidden):
        return self.cls.predictions.transform(hidden), self.cls.predictions.decoder

    def _apart(self, document_ids):
        if document_ids is not None:
            raise ValueError("stock BERT has no causal mask that keeps documents apart")
        return {}


class ModernBertForTraining(_MaskedTraining, ModernBertForMaskedLM):
    stock = ModernBertForMaskedLM

    def _head(self, hidden):
        return self.head(hidden), self.decoder

    def _document_mask(self, document_ids):
        raise NotImplementedError("stock ModernBERT has no mask that keeps its sliding windows inside a document")


TRAINING_CLASSES = (GPT2ForTraining, LlamaForTraining, BertForTraining, BertDecoderForTraining, ModernBertForTraining)


def language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of this config, from scratch, in its training class; ValueError if there is none for it."""
    if getattr(config, "position_table", None) and not isinstance(config, GPT2ForTraining.config_class):
        raise ValueError(f"a table of positions needs GPT-2's wpe; {config.model_type} has its own positions")
    if isinstance(config, BertDecoderForTraining.config_class) and config.is_decoder:
        return BertDecoderForTraining(config)
    for training_class in TRAINING_CLASSES:
        if isinstance(config, training_class.config_class):
            return training_class(config)
    known = ", ".join(dict.fromkeys(one.config_class.model_type for one in TRAINING_CLASSES))
    raise ValueError(f"no training class for {config.model_type!r}; there are {known}")
