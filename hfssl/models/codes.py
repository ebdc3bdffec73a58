"""Deep co-training on discrete codes: the objective, its inner optimum, and the heads that give the codes.

The lecture's objective, for pairs <x, y> of a population and codes z of m values,

    Phi* = argmax I(z_x; z_y) - beta H(z_x) = argmax (1 - beta) H(z_x) - H(z_x | z_y):

what we remember of x should tell of y, at a low price of memory. Both entropies are cross-entropies, each with its own
optimum inside,

    H(z_x) = min_Psi E -ln P_Psi(z_x),    H(z_x | z_y) = min_Q E -ln Q(z_x | z_y),

and no distribution on x or y is ever modelled. For a categorical P_Psi the optimum is the mean of the posteriors p(z|x)
(McAllester 2018; Stratos 2019 takes the batch's). By the envelope theorem the gradient of a minimum is that at its
argmin held fixed, so Psi* gets no gradient here, however it was found.

Since z is discrete and has a posterior, E is a sum over codes and all of it is differentiable. Nats throughout.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import transformers.initialization as hf_init
from torch import nn

from .contrastive import gather_batch

CONDITIONALS = ("joint", "posterior")
INNER = re.compile(r"exact|ema|adam:[1-9]\d*")
_ADAM_BETAS, _ADAM_EPSILON = (0.9, 0.999), 1e-8


@dataclass
class CodeTerms:
    """
    loss: conditional_entropy - (1 - beta) entropy, a scalar in nats, as are the others.
    entropy: H(z_x), the cross-entropy to P_Psi.
    conditional_entropy: H(z_x | z_y).
    entropy_correction: what Miller and Madow (1955) would add to the entropy of one-hot codes in a batch of this size,
        (m - 1) / 2B; that of soft codes is less biased.
    """

    loss: torch.Tensor
    entropy: torch.Tensor
    conditional_entropy: torch.Tensor
    entropy_correction: torch.Tensor

    @property
    def information(self) -> torch.Tensor:
        """I(z_x; z_y), the difference of both entropies and so no bound."""
        return self.entropy - self.conditional_entropy


def check_objective(beta: float, inner: str, conditional: str) -> None:
    """
    Raises:
        ValueError: beta is no finite number, or a name is not known.
    """
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not math.isfinite(beta):
        raise ValueError(f"beta must be a finite number, not {beta!r}")
    if not isinstance(inner, str) or not INNER.fullmatch(inner):
        raise ValueError(f"unknown inner optimum {inner!r}: exact, ema or adam:STEPS, such as adam:2")
    if conditional not in CONDITIONALS:
        raise ValueError(f"unknown conditional {conditional!r}: one of {', '.join(CONDITIONALS)}")


def cotraining_loss(
    logits_x: torch.Tensor,
    logits_y: torch.Tensor,
    beta: float = 0.0,
    conditional: str = "joint",
    prior: nn.Module | None = None,
    gather: bool = True,
) -> CodeTerms:
    """The co-training loss of B pairs, -(1 - beta) H(z_x) + H(z_x | z_y).

    With several processes the statistics are those of the batch of all of them, in any split, and so are the value and
    (as DistributedDataParallel takes their mean) the gradients.

    Args:
        logits_x, logits_y: (B, m), row i of both from one pair; their softmax is the posterior of z_x and of z_y. Half
            precision is accumulated in float32.
        beta: the price of memory, any real number. At 0 codes that tell nothing more of y are free, above it they are
            not, and at the largest I/H of any code and beyond the best code is none (a constant); below 0 spare codes
            are used.
        conditional: what says z_x given y. "joint": the table of the batch's pairs of codes, Q(z_x | z_y), at its
            optimum, so that I is that of the codes themselves (Ji et al. 2019, IIC, equation 3, with beta 0);
            "posterior": y's own posterior, -sum_z p(z|x) ln q(z|y), a bound for any network q (Stratos 2019).
        prior: gives P_Psi for the mean posterior (`Prior`); by default the mean itself.
        gather: count the pairs of every process.

    Raises:
        ValueError: the shapes differ, beta is not finite or `conditional` is unknown.
    """
    check_objective(beta, "exact", conditional)
    if logits_x.ndim != 2 or logits_x.shape != logits_y.shape:
        raise ValueError(
            f"cotraining_loss needs two (B, m) tensors of one shape, not {tuple(logits_x.shape)} and "
            f"{tuple(logits_y.shape)}"
        )
    precision = torch.float64 if logits_x.dtype == torch.float64 else torch.float32
    with torch.autocast(logits_x.device.type, enabled=False):
        logits = torch.stack([logits_x, logits_y]).to(precision)
        log_p, log_q = (gather_batch(logits)[0] if gather else logits).log_softmax(-1)  # (B, m) of all processes
        p, (count, codes), least = log_p.exp(), log_p.shape, torch.finfo(precision).tiny
        mean = p.mean(0)  # (m,)
        best = prior(mean.detach()) if prior is not None else mean.detach()
        entropy = -(mean * best.clamp_min(least).log()).sum()
        if conditional == "joint":
            joint = p.T @ log_q.exp() / count  # (m, m), z_x by z_y
            table = (joint / joint.sum(0, keepdim=True).clamp_min(least)).detach()
            conditional_entropy = -(joint * table.clamp_min(least).log()).sum()
        else:
            conditional_entropy = -(p * log_q).sum(1).mean()
        loss = conditional_entropy - (1 - beta) * entropy
        # A prior that is not the batch's own mean is not fitted to it, and its cross-entropy not too small.
        fitted = prior is None or getattr(prior, "inner", "") == "exact"
        correction = (codes - 1) / (2 * count) if fitted else 0.0
        return CodeTerms(loss, entropy, conditional_entropy, entropy.new_tensor(correction))


class Prior(nn.Module):
    """P_Psi(z), (m,), for the mean posterior of a batch: exactly its optimum, or on the way there.

    Args:
        codes: m.
        inner: "exact", the mean itself; "ema", a moving average of the means, which sees more than one batch and so is
            less biased (Miller and Madow); "adam:k", the softmax of logits after k more steps of Adam on the
            cross-entropy (Stratos and Wiseman 2020, AMMI, whose P_Psi has no closed form).
        momentum: of the moving average.
        learning_rate: of Adam.

    Its state is in buffers: saved with the model, the same in all processes, and still in evaluation.
    """

    def __init__(self, codes: int, inner: str = "exact", momentum: float = 0.9, learning_rate: float = 0.05):
        super().__init__()
        self.inner, self.momentum, self.learning_rate = inner, momentum, learning_rate
        if inner == "ema":
            self.register_buffer("average", torch.full((codes,), 1 / codes))
        elif inner != "exact":
            self.register_buffer("state", torch.zeros(3, codes))  # the logits, and Adam's two moments
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def reset(self) -> None:
        """As before the first step; tensors that were loaded stay."""
        for name, buffer in self.named_buffers():
            hf_init.constant_(buffer, 1 / len(buffer) if name == "average" else 0)

    @torch.no_grad()
    def forward(self, mean: torch.Tensor) -> torch.Tensor:
        if self.inner == "exact":
            return mean
        if self.inner == "ema":
            if self.training:
                self.average.lerp_(mean.to(self.average.dtype), 1 - self.momentum)
            return self.average.to(mean.dtype)
        for _ in range(int(self.inner.partition(":")[2]) if self.training else 0):
            self._step(mean.to(self.state.dtype))
        return self.state[0].softmax(0).to(mean.dtype)

    def _step(self, mean: torch.Tensor) -> None:
        """torch.optim.Adam's step, whose own state would not be saved with the model."""
        logits, first, second = self.state
        gradient = logits.softmax(0) - mean  # of -sum mean ln softmax(logits)
        self.steps += 1
        first.lerp_(gradient, 1 - _ADAM_BETAS[0])
        second.lerp_(gradient.square(), 1 - _ADAM_BETAS[1])
        corrected = [moment / (1 - beta**self.steps) for moment, beta in zip((first, second), _ADAM_BETAS, strict=True)]
        logits -= self.learning_rate * corrected[0] / (corrected[1].sqrt() + _ADAM_EPSILON)


class CodeHeads(nn.Module):
    """Linear heads whose softmax is the posterior of a code, and which of them is best.

    Args:
        in_features: D of the representation.
        sizes: m of each head.
        inner, momentum, learning_rate: as `Prior`'s, of which each head has one.

    Attributes:
        running_loss: (heads,), a moving average of each head's loss. IIC takes the head with the lowest.
    """

    def __init__(self, in_features: int, sizes: list[int], inner: str, momentum: float, learning_rate: float):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(in_features, size) for size in sizes)
        self.priors = nn.ModuleList(Prior(size, inner, momentum, learning_rate) for size in sizes)
        self.register_buffer("running_loss", torch.zeros(len(sizes)))

    def reset(self) -> None:
        """As before the first step, without the heads' own weights and priors."""
        hf_init.zeros_(self.running_loss)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) to the logits of all heads side by side, (N, sum of m)."""
        return torch.cat([head(features) for head in self.heads], 1)

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logits of each head, (..., m)."""
        return logits.split([head.out_features for head in self.heads], -1)

    def terms(self, logits_x: torch.Tensor, logits_y: torch.Tensor, beta: float, conditional: str) -> list[CodeTerms]:
        """The loss of each head, from logits (B, sum of m), of all processes' pairs."""
        logits = gather_batch(torch.stack([logits_x, logits_y]))[0]  # one exchange for all heads
        terms = [
            cotraining_loss(*pair, beta, conditional, prior, gather=False)
            for pair, prior in zip(self.split(logits), self.priors, strict=True)
        ]
        if self.training:
            losses = torch.stack([each.loss.detach() for each in terms]).to(self.running_loss.dtype)
            self.running_loss.lerp_(losses, 0.02)
        return terms

    def best(self, among: int) -> int:
        """Which of the first so many heads, which are of one size, has the lowest loss of late."""
        return int(self.running_loss[:among].argmin())
