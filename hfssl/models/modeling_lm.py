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

import functools
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
from transformers.activations import NewGELUActivation
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

from .positions import fix_positions

IGNORED = -100
# Floats of logits at one time: small enough for a CPU's caches, large enough that a GPU's matrix units stay busy.
_CPU_LOGITS, _GPU_LOGITS = 2**24, 2**28
_TILE = 4096  # of the vocabulary at one time, on a CPU


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
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk_size, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    """A chunk of tokens holds the whole vocabulary, so its gradient is known as soon as its logits are: the forward
    pass keeps the gradients of `hidden`, `weight` and `bias`, and the logits are never computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, chunk_size: int, learns: bool) -> torch.Tensor:
        wanted = [learns and wanted for wanted in ctx.needs_input_grad[:3]]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grads = (
            torch.zeros_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=exact) if wanted[1] else None,
            torch.zeros_like(bias, dtype=exact) if bias is not None and wanted[2] else None,
        )
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(hidden.dtype)  # (V, D)
            added = None if bias is None else bias.to(hidden.dtype)
            one_chunk = _chunk
            if hidden.device.type == "cpu" and hidden.dtype == exact:
                # Every chunk works in the same memory: a CPU takes longer to get new memory than to compute in it.
                logits = hidden.new_empty(min(chunk_size, len(hidden)) * len(matrix))
                one_chunk = functools.partial(_chunk_in_tiles, logits)
            for first in range(0, len(hidden), chunk_size):
                here = slice(first, first + chunk_size)
                grad_rows = None if grads[0] is None else grads[0][here]
                total += one_chunk(hidden[here], matrix, added, targets[here], grad_rows, *grads[1:])
        ctx.save_for_backward(*grads)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor):
        grads = [
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None


def _chunk(rows, matrix, added, target, grad_rows, grad_weight, grad_bias) -> torch.Tensor:
    """The summed loss of some tokens (c, D); writes `grad_rows` and adds to the other gradients that are not None."""
    exact = torch.float32 if rows.dtype != torch.float64 else torch.float64
    used = (target != IGNORED).to(exact)[:, None]
    index = target.clamp(min=0)[:, None]
    logits = (rows @ matrix.T if added is None else torch.addmm(added, rows, matrix.T)).to(exact)  # (c, V)
    log_sum = logits.logsumexp(1, keepdim=True)
    total = ((log_sum - logits.gather(1, index)) * used).sum()
    if grad_rows is None and grad_weight is None and grad_bias is None:
        return total
    grad = logits.sub_(log_sum).exp_().scatter_add_(1, index, -torch.ones_like(log_sum)).mul_(used)
    if grad_bias is not None:
        grad_bias += grad.sum(0)
    grad = grad.to(rows.dtype)
    if grad_rows is not None:
        torch.mm(grad, matrix, out=grad_rows)
    if grad_weight is not None and grad_weight.dtype == rows.dtype:
        grad_weight.addmm_(grad.T, rows)
    elif grad_weight is not None:
        grad_weight += grad.T @ rows
    return total


def _chunk_in_tiles(logits, rows, matrix, added, target, grad_rows, grad_weight, grad_bias) -> torch.Tensor:
    """As `_chunk`, on a CPU: the vocabulary in tiles, so that what is not a matrix product stays in the cache.

    `logits` is memory for c * V numbers. A tile keeps exp(logits - its maximum). Its share of the softmax is that times
    one factor a token, known after the last tile, which scales the small matrices (c, D), never the tile.
    """
    used = (target != IGNORED).to(rows.dtype)[:, None]
    own = matrix[target.clamp(min=0)]  # (c, D)
    hit = (rows * own).sum(1, keepdim=True)
    if added is not None:
        hit = hit + added[target.clamp(min=0)][:, None]
    tiles, maxima, sums = [], [], []
    for first in range(0, len(matrix), _TILE):
        here = matrix[first : first + _TILE]
        tile = logits[len(rows) * first :][: len(rows) * len(here)].view(len(rows), len(here))  # (c, t)
        if added is None:
            torch.mm(rows, here.T, out=tile)
        else:
            torch.addmm(added[first : first + _TILE], rows, here.T, out=tile)
        maximum = tile.amax(1, keepdim=True)
        tile.sub_(maximum).exp_()
        tiles.append(tile)
        maxima.append(maximum)
        sums.append(tile.sum(1, keepdim=True))
    maxima = torch.cat(maxima, 1)  # (c, tiles)
    log_sum = (maxima + torch.cat(sums, 1).log()).logsumexp(1, keepdim=True)
    total = ((log_sum - hit) * used).sum()
    scales = (maxima - log_sum).exp() * used
    for number, tile in enumerate(tiles):
        here, scale = slice(number * _TILE, (number + 1) * _TILE), scales[:, number : number + 1]
        if grad_rows is not None:
            grad_rows.addcmul_(tile @ matrix[here], scale)
        if grad_weight is not None:
            grad_weight[here].addmm_(tile.T, rows * scale)
        if grad_bias is not None:
            grad_bias[here].addmv_(tile.T, scale[:, 0])
    if grad_rows is not None:
        grad_rows.addcmul_(own, used, value=-1)
    if grad_weight is not None:
        grad_weight.index_add_(0, target.clamp(min=0), rows * used, alpha=-1)
    if grad_bias is not None:
        grad_bias.index_add_(0, target.clamp(min=0), used[:, 0], alpha=-1)
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
        hidden, head = self._hidden(input_ids, document_ids, **kwargs), self.lm_head
        rows, targets = self._read(hidden, labels, document_ids, positions)
        total = linear_cross_entropy(rows, head.weight, head.bias, targets)
        if source_labels is not None:
            more, tokens = self._read(hidden, source_labels, document_ids)
            total = total + source_weight * linear_cross_entropy(more, head.weight, head.bias, tokens)
        return CausalLMOutput(loss=self._mean(total, (targets != IGNORED).sum(), num_items_in_batch))

    def _predicted(self, input_ids, labels, document_ids=None, target_positions=None, **kwargs):
        inputs = {name: value for name, value in kwargs.items() if not name.startswith("source_")}  # `labels` alone
        hidden = self._hidden(input_ids, document_ids, **inputs)
        rows, targets = self._read(hidden, labels, document_ids, target_positions)
        return rows, self.lm_head, targets

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


class ModernBertForTraining(_MaskedTraining, ModernBertForMaskedLM):
    stock = ModernBertForMaskedLM

    def _head(self, hidden):
        return self.head(hidden), self.decoder

    def _document_mask(self, document_ids):
        raise NotImplementedError("stock ModernBERT has no mask that keeps its sliding windows inside a document")


TRAINING_CLASSES = (GPT2ForTraining, LlamaForTraining, BertForTraining, ModernBertForTraining)


def language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of this config, from scratch, in its training class; ValueError if there is none for it."""
    if getattr(config, "position_table", None) and not isinstance(config, GPT2ForTraining.config_class):
        raise ValueError(f"a table of positions needs GPT-2's wpe; {config.model_type} has its own positions")
    for training_class in TRAINING_CLASSES:
        if isinstance(config, training_class.config_class):
            return training_class(config)
    known = ", ".join(training_class.config_class.model_type for training_class in TRAINING_CLASSES)
    raise ValueError(f"no training class for {config.model_type!r}; there are {known}")
