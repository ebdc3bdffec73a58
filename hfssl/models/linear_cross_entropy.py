"""The head of a language model and its cross-entropy in one, some tokens at a time: no tensor of all logits.

No tensor of tokens times vocabulary ever exists, and none is kept for the backward pass.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn

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
