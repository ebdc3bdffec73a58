"""The loss of each item of a batch, and how far two sets of predictions lie apart, for every kind of task."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def item_losses(logits: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of each item (B,), nats: cross-entropy for classes (B,), squared error for scores (B,), and for
    candidates minus the logarithm of the right ones' share in the softmax over an item's candidates.

    Args:
        logits: (R, C); R may exceed B by rows that fill up a static shape.
        labels: (B,) int64 or float, or (B, K) bool.
        groups: (B, K), the rows of each item's candidates or -1.
    """
    logits = _in_full(logits)
    if groups is not None:
        scores = _by_candidate(logits, groups)
        return scores.logsumexp(1) - scores.masked_fill(~labels, -math.inf).logsumexp(1)
    logits = logits[: len(labels)]
    if labels.is_floating_point():
        return (logits[:, 0] - labels.to(logits.dtype)) ** 2
    return F.cross_entropy(logits, labels, reduction="none")


def item_divergences(
    logits: torch.Tensor, others: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor | None = None,
    symmetric: bool = True,
) -> torch.Tensor:  # fmt: skip
    """How far two predictions of each item lie apart (B,), nats: KL(p ‖ q) between classes, or between the softmax over
    an item's candidates, and of scores the squared difference.

    Args:
        logits, others: (R, C), those of p and of q.
        labels, groups: as `item_losses` takes them; of the labels only the kind is read.
        symmetric: KL(p ‖ q) + KL(q ‖ p).
    """
    logits, others = _in_full(logits), _in_full(others)
    if groups is None and labels.is_floating_point():
        return (logits[: len(labels), 0] - others[: len(labels), 0]) ** 2
    if groups is None:
        p, q = logits[: len(labels)].log_softmax(1), others[: len(labels)].log_softmax(1)  # (B, C)
        gap = p - q
    else:
        p, q = _by_candidate(logits, groups).log_softmax(1), _by_candidate(others, groups).log_softmax(1)  # (B, K)
        gap = p.masked_fill(groups < 0, 0.0) - q.masked_fill(groups < 0, 0.0)  # -inf - -inf is no number
    return ((p.exp() - q.exp() if symmetric else p.exp()) * gap).sum(1)


def _in_full(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _by_candidate(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The scores of each item's candidates (B, K), minus infinity where there is none."""
    return logits[groups.clamp(min=0), 0].masked_fill(groups < 0, -math.inf)
