"""SMART: predictions that a small perturbation does not change, and steps that stay near where the model was (Jiang et
al. 2020, arXiv 1911.03437).

    loss = L(f(x), y) + weight * max_|d|<=epsilon D(f(x + d), f(x)) + proximal * D(f(x), f~(x))

D is the symmetric KL divergence, or of scores the squared difference; f~ has the exponential moving average of the
weights. Defaults are the paper's. With its epsilon of 1e-5 and its step of 1e-3 a perturbation lies on the surface of
the ball in most coordinates, and moves a prediction little. The authors' code draws new dropout for the perturbed
passes, so that its term also holds what two dropouts differ in; ``dropout=same`` leaves the perturbation alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from hfssl.evaluation.tasks import Task
from hfssl.finetuning.losses import item_divergences
from hfssl.finetuning.strategies.perturbation import Adversarial, RandomState
from hfssl.finetuning.strategies.strategy import check_options

EARLY, DECAYS = 0.1, (0.99, 0.999)  # the average's beta in the first tenth of the updates, and after it


@dataclass(frozen=True)
class Smart(Adversarial):
    """Smoothness under perturbation, and the Bregman proximal step."""

    name: ClassVar[str] = "smart"
    source: ClassVar[str] = "Jiang et al. 2020"

    weight: float = field(default=1.0, metadata={"help": "Of the smoothness, lambda; 0, and proximal 0, is plain."})
    proximal: float = field(default=1.0, metadata={"help": "Of the proximal term, mu; 0: none, whatever weight is."})

    def __post_init__(self):
        super().__post_init__()
        check_options(self, weight=0, proximal=0)

    def bind(self, model: PreTrainedModel, task: Task | None, seed: int, updates: int) -> None:
        super().bind(model, task, seed, updates)
        learned = model.named_parameters() if self.proximal else ()
        anchor = {name: weight.detach().clone() for name, weight in learned if weight.requires_grad}
        self._keep(updates=updates, anchor=anchor)

    def losses(self, model, inputs, labels, groups=None):
        before = RandomState(self.noise.device)
        losses, outputs = super().losses(model, inputs, labels, groups)
        if self.proximal:
            losses = losses + self.proximal * self.proximal_terms(model, inputs, outputs.logits, labels, groups, before)
        if self.weight:
            plain = outputs.logits.detach()
            logits = self.worst(
                model, inputs, self.state(before), lambda moved: item_divergences(moved, plain, labels, groups)
            )
            losses = losses + self.weight * item_divergences(logits, outputs.logits, labels, groups)
        return losses, outputs

    def proximal_terms(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], logits: torch.Tensor, labels: torch.Tensor,
        groups: torch.Tensor | None, state: RandomState,
    ) -> torch.Tensor:  # fmt: skip
        """D(f(x), f~(x)) of each item (B,), under the dropout of the pass that gave the logits (R, C)."""
        with torch.no_grad(), state.replayed():
            anchored = torch.func.functional_call(model, self.anchor, (), inputs).logits
        return item_divergences(logits, anchored, labels, groups)

    def after_update(self, model: PreTrainedModel) -> None:
        super().after_update(model)
        if not self.anchor:
            return
        beta = DECAYS[self.noise.update > EARLY * self.updates]
        weights = [weight.detach() for name, weight in model.named_parameters() if name in self.anchor]
        torch._foreach_lerp_(list(self.anchor.values()), weights, 1 - beta)
