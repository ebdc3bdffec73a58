"""FreeLB: the mean loss over several steps of an adversary on the word embeddings (Zhu et al. 2020, arXiv 1909.11764).

    d_0 = uniform in (-1, 1) * magnitude / sqrt(tokens * width)
    of K passes each gives 1 / K of the gradient of the weights, and d <- P(d + step_size * g / |g|)

|.| is the Frobenius norm of a text's perturbation, P the projection onto |d| <= epsilon. All passes have one dropout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from hfssl.evaluation.tasks import Task
from hfssl.finetuning.strategies.perturbation import Noise, RandomState, perturbed
from hfssl.finetuning.strategies.strategy import Strategy, check_options

# The authors' launch scripts, of RoBERTa-large; other tasks take RTE's row.
SETTINGS = {
    "cola": {"steps": 3, "step_size": 2.5e-2, "magnitude": 0.4, "epsilon": 0.3},
    "sst2": {"steps": 2, "step_size": 1e-1, "magnitude": 1.0, "epsilon": 0.6},
    "mrpc": {"steps": 3, "step_size": 4e-2, "magnitude": 0.64, "epsilon": 0.4},
    "stsb": {"steps": 3, "step_size": 1e-1, "magnitude": 0.16, "epsilon": 0.28},
    "mnli": {"steps": 2, "step_size": 1e-1, "magnitude": 0.1, "epsilon": 0.3},
    "qnli": {"steps": 2, "step_size": 7.5e-2, "magnitude": 0.15, "epsilon": 0.15},
    "qqp": {"steps": 2, "step_size": 2e-1, "magnitude": 0.32, "epsilon": 0.7},
    "rte": {"steps": 3, "step_size": 3e-2, "magnitude": 0.16, "epsilon": 0.14},
}


@dataclass(frozen=True)
class FreeLB(Strategy):
    """K passes of an update, each under a perturbation that is worse than the one before. What is not given is the
    task's of `SETTINGS`."""

    name: ClassVar[str] = "freelb"
    source: ClassVar[str] = "Zhu et al. 2020"
    changes: ClassVar[tuple[str, ...]] = ("loss",)
    perturbs: ClassVar[bool] = True

    steps: int | None = field(default=None, metadata={"help": "Passes of an update, K."})
    step_size: float | None = field(default=None, metadata={"help": "Of a step of ascent, alpha."})
    magnitude: float | None = field(default=None, metadata={"help": "Of the perturbation that begins."})
    epsilon: float | None = field(default=None, metadata={"help": "Radius of the ball; inf: no ball."})

    def __post_init__(self):
        check_options(self, steps=1, step_size=0, magnitude=0)
        check_options(self, most=math.inf, epsilon=0)

    @property
    def passes(self) -> int:
        return self.steps

    def for_task(self, task: Task) -> FreeLB:
        row = SETTINGS.get(task.name, SETTINGS["rte"])
        return dataclasses.replace(self, **{name: row[name] for name in row if getattr(self, name) is None})

    def bind(self, model: PreTrainedModel, task: Task | None, seed: int, updates: int) -> None:
        self._keep(noise=Noise(model, seed), delta=None, done=0)

    def after_update(self, model: PreTrainedModel) -> None:
        self.noise.after_update()

    def flags(self) -> list[str]:
        return self.noise.flags(self.name)

    def losses(self, model, inputs, labels, groups=None):
        """One of the passes; between two of them the loss was propagated back to the perturbation."""
        mask, first = inputs["attention_mask"], self.done == 0
        if first:
            self._keep(state=RandomState(self.noise.device))
        delta = (self.beginning(mask) if first else self.step(self.delta, mask)).requires_grad_()
        with perturbed(model, delta), contextlib.nullcontext() if first else self.state.replayed():
            found = super().losses(model, inputs, labels, groups)
        self._keep(delta=delta, done=(self.done + 1) % self.steps)
        return found

    def beginning(self, mask: torch.Tensor) -> torch.Tensor:
        """(R, T, D) of mean norm magnitude / sqrt(3), 0 at padding.

        Args:
            mask: (R, T), 1 for a token.
        """
        delta = self.noise.draw(mask, lambda row, generator: row.uniform_(-1, 1, generator=generator))
        sizes = (mask.sum(1) * self.noise.width).to(delta.dtype).sqrt()
        return self._inside(delta * (self.magnitude / sizes)[:, None, None])

    def step(self, delta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The next perturbation (R, T, D), from one that the loss was propagated back to."""
        gradient, delta = self.noise.finite(delta.grad * mask[..., None], delta.detach())
        tiny = torch.finfo(delta.dtype).tiny
        return self._inside(delta + self.step_size * gradient / _norms(gradient).clamp(min=tiny))

    def _inside(self, delta: torch.Tensor) -> torch.Tensor:
        """Those that lie outside of the ball on its surface."""
        return delta * (self.epsilon / _norms(delta).clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1)


def _norms(rows: torch.Tensor) -> torch.Tensor:
    return rows.flatten(1).norm(dim=1)[:, None, None]
