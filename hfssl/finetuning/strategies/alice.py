"""ALICE: two adversaries on the word embeddings, one that knows the label and one that knows the prediction alone
(Pereira et al. 2020, arXiv 2005.08156).

    loss = L(f(x), y) + label_weight * max_d L(f(x + d), y) + prediction_weight * max_d KL(f(x + d) || f(x))

The size of the perturbations is SMART's by default, whose method the paper continues. The leaderboards' "ALICE v2" is
not this paper, which is younger than the entry: it is probably StructBERT (Wang et al. 2019), an inference.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import ClassVar

from hfssl.finetuning.losses import item_divergences, item_losses
from hfssl.finetuning.strategies.perturbation import Adversarial, RandomState
from hfssl.finetuning.strategies.strategy import check_options


@dataclass(frozen=True)
class Alice(Adversarial):
    """Virtual adversarial training with labels and without."""

    name: ClassVar[str] = "alice"
    source: ClassVar[str] = "Pereira et al. 2020"

    label_weight: float = field(default=1.0, metadata={"help": "Of the loss under the first perturbation."})
    prediction_weight: float = field(default=1.0, metadata={"help": "Of the divergence under the second one."})

    def __post_init__(self):
        super().__post_init__()
        check_options(self, label_weight=0, prediction_weight=0)

    def losses(self, model, inputs, labels, groups=None):
        before = RandomState(self.noise.device)
        losses, outputs = super().losses(model, inputs, labels, groups)
        state = self.state(before)
        if self.label_weight:
            logits = self.worst(model, inputs, state, lambda moved: item_losses(moved, labels, groups))
            losses = losses + self.label_weight * item_losses(logits, labels, groups)
        if self.prediction_weight:
            plain = outputs.logits.detach()
            far = functools.partial(item_divergences, labels=labels, groups=groups, symmetric=False)
            logits = self.worst(model, inputs, state, lambda moved: far(moved, plain), stream=1)
            losses = losses + self.prediction_weight * far(logits, outputs.logits)
        return losses, outputs
