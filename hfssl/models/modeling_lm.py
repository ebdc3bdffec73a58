"""Language models that train fast and save stock.

Subclasses of transformers' GPT2LMHeadModel, LlamaForCausalLM, BertForMaskedLM and ModernBertForMaskedLM with the same
weights. While there are labels, they differ in three things:

* The head and its cross-entropy are computed together, some tokens at a time (`linear_cross_entropy`): no tensor of
  tokens times vocabulary ever exists, and none is kept for the backward pass.
* A masked language model's head sees the predicted tokens alone, 15 % of them.
* The loss is the mean over all predicted tokens of the optimizer's step, whatever the number of accumulation steps and
  processes, when it is given their number (transformers issue 47688: stock BERT multiplies its loss by the steps).

Without labels they are the stock models. What they save is the stock model: same keys, same `architectures`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

IGNORED = -100
# Floats of logits at one time: small enough for a CPU's caches, large enough that a GPU's matrix units stay busy.
_CPU_LOGITS, _GPU_LOGITS = 2**23, 2**28
_CACHED = 2**18  # floats that a CPU's core keeps at hand


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """The sum of the cross-entropies of `hidden @ weight.T + bias`, without ever holding all logits.

    Args:
        hidden: (N, D).
        weight, bias: (V, D) and (V,) or None.
        targets: (N,) ids; -100 is left out.
        chunk_size: tokens at a time; by default as many as the device likes.

    Returns:
        A float32 scalar (float64 for float64), nats; 0 if every target is left out.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if chunk_size is None:
        logits = _CPU_LOGITS if hidden.device.type == "cpu" else _GPU_LOGITS
        chunk_size = max(16, logits // weight.shape[0])
        chunk_size = math.ceil(len(hidden) / max(1, math.ceil(len(hidden) / chunk_size))) or 1  # of equal size
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """A chunk of tokens holds the whole vocabulary, so its gradient is known as soon as its logits are: the forward
    pass keeps the gradients of `hidden`, `weight` and `bias`, and the logits are never computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, chunk_size: int) -> torch.Tensor:
        wanted = ctx.needs_input_grad[:3]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if wanted[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wanted[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(hidden.dtype)  # (V, D)
            added = None if bias is None else bias.to(hidden.dtype)
            # Used by every chunk: a CPU needs longer to get new memory than to compute in it.
            products = hidden.new_empty(min(chunk_size, len(hidden)), len(weight))
            for first in range(0, len(hidden), chunk_size):
                rows = hidden[first : first + chunk_size]  # (c, D)
                logits = products[: len(rows)]  # (c, V)
                if added is None:
                    torch.mm(rows, matrix.T, out=logits)
                else:
                    torch.addmm(added, rows, matrix.T, out=logits)
                logits = logits.to(exact)
                total += _cross_entropy_(logits, targets[first : first + chunk_size])
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
                grad = logits.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(grad, matrix, out=grad_hidden[first : first + chunk_size])
                if grad_weight is not None and exact == hidden.dtype:
                    grad_weight.addmm_(grad.T, rows)
                elif grad_weight is not None:
                    grad_weight += grad.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor):
        grads = [
            None if grad is None else grad.mul_(grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None


def _cross_entropy_(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of logits (N, V), which become its gradient: softmax - 1 at the target."""
    total = logits.new_zeros(())
    used = (targets != IGNORED).to(logits.dtype)[:, None]
    index = targets.clamp(min=0)[:, None]
    at_once = _CACHED // logits.shape[1] if logits.device.type == "cpu" else len(logits)
    for rows, here, weight in zip(*(part.split(max(1, at_once)) for part in (logits, index, used)), strict=True):
        highest = rows.amax(1, keepdim=True)
        target_logits = rows.gather(1, here)
        sums = rows.sub_(highest).exp_().sum(1, keepdim=True)
        total += ((sums.log() + highest - target_logits) * weight).sum()
        rows.mul_(weight / sums).scatter_add_(1, here, -weight)
    return total


@torch.no_grad()
def linear_scores(hidden, weight, bias, targets, chunk_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """As `linear_cross_entropy`, without gradients: the summed cross-entropy and how many targets are the likeliest."""
    chunk_size = chunk_size or max(16, _CPU_LOGITS // weight.shape[0])
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    right = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for first in range(0, len(hidden), chunk_size):
        target = targets[first : first + chunk_size]
        logits = nn.functional.linear(hidden[first : first + chunk_size], weight, bias).float()  # (c, V)
        total += nn.functional.cross_entropy(logits, target, reduction="sum", ignore_index=IGNORED)
        right += (logits.argmax(-1) == target).sum()  # -100 is never the likeliest
    return total, right


class _Training:
    """What the four classes share; each has `stock`, the class that it trains and saves as."""

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

    def forward(self, input_ids=None, labels=None, num_items_in_batch=None, document_ids=None, **kwargs):
        """As the stock model; with labels the output has a `loss` and no logits.

        Args:
            input_ids, labels: (B, T); the shift happens here.
            num_items_in_batch: predicted tokens of the whole step; by default those of this batch.
            document_ids: (B, T), which document each token is of. Attention then stays inside a document and positions
                count from its beginning. transformers derives the mask from positions that begin again.
        """
        if labels is None:
            return super().forward(input_ids, **self._apart(document_ids), **kwargs)
        hidden, head, targets = self._predicted(input_ids, labels, document_ids, **kwargs)
        total = linear_cross_entropy(hidden, head.weight, head.bias, targets)
        return CausalLMOutput(loss=self._mean(total, (targets != IGNORED).sum(), num_items_in_batch))

    def _predicted(self, input_ids, labels, document_ids=None, **kwargs):
        kwargs |= {**self._apart(document_ids), "use_cache": False}
        hidden = self.base_model(input_ids, **kwargs)[0]  # (B, T, D)
        if document_ids is not None:  # the first token of a document is predicted from nothing
            starts = nn.functional.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0))
            labels = labels.masked_fill(starts, IGNORED)
        return hidden[:, :-1].flatten(0, 1), self.lm_head, labels[:, 1:].flatten()

    def _apart(self, document_ids) -> dict[str, Any]:
        if document_ids is None:
            return {}
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
        raise NotImplementedError("document masks of encoders need attn_implementation sdpa or eager")


def positions_within(document_ids: torch.Tensor) -> torch.Tensor:
    """The position of each token in its document, counted from 0; documents lie one after another in (B, T)."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = nn.functional.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(1).values


class GPT2ForTraining(_CausalTraining, GPT2LMHeadModel):
    stock = GPT2LMHeadModel


class LlamaForTraining(_CausalTraining, LlamaForCausalLM):
    stock = LlamaForCausalLM


class BertForTraining(_MaskedTraining, BertForMaskedLM):
    stock = BertForMaskedLM

    def _head(self, hidden):
        return self.cls.predictions.transform(hidden), self.cls.predictions.decoder


class ModernBertForTraining(_MaskedTraining, ModernBertForMaskedLM):
    stock = ModernBertForMaskedLM

    def _head(self, hidden):
        return self.head(hidden), self.decoder

    def _document_mask(self, document_ids):
        raise NotImplementedError("stock ModernBERT has no mask that keeps its sliding windows inside a document")


TRAINING_CLASSES = (GPT2ForTraining, LlamaForTraining, BertForTraining, ModernBertForTraining)


def language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of this config, from scratch, in its training class."""
    for training_class in TRAINING_CLASSES:
        if isinstance(config, training_class.config_class):
            return training_class(config)
    known = ", ".join(training_class.config_class.model_type for training_class in TRAINING_CLASSES)
    raise ValueError(f"no training class for {config.model_type!r}; there are {known}")
