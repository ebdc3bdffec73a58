"""What a classifier of texts returns: its logits and, with labels, its loss."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput


def classified(logits: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
    """The mean loss: cross-entropy (nats) between classes, squared error where there is one label, a score.

    transformers' own `loss_function` would guess the kind of problem and write its guess into the config.

    Args:
        logits: (B, C).
        labels: (B,) classes, or scores if C is 1.
    """
    loss = None
    if labels is not None and logits.shape[1] == 1:
        loss = nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
    elif labels is not None:
        loss = nn.functional.cross_entropy(logits, labels)
    return SequenceClassifierOutput(loss=loss, logits=logits)
