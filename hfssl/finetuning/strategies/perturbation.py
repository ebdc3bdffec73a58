"""Perturbations of word embeddings, which the adversarial strategies share: where they are added, how they are drawn,
kept in a ball and made worse.

What is drawn for a row is a function of (seed, update, row of the update): the same in however many parts a batch comes
and however wide it is padded.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from hfssl.data.sampling import hash_key
from hfssl.errors import InputError
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.strategies.strategy import Strategy, check_choice, check_options

DROPOUTS = ("new", "same")
DROPOUT = -1  # the stream that new dropout is seeded by
BF16_STEP = 2**-8  # relative; below it bf16 does not tell two embeddings of size 1 apart


def word_embeddings(model: PreTrainedModel) -> nn.Module:
    """The module that looks words up; of an encoder with a decoder the encoder's."""
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return model.get_input_embeddings()


@contextlib.contextmanager
def perturbed(model: PreTrainedModel, delta: torch.Tensor) -> Iterator[None]:
    """Within it the first look-up of words gives what it gives plus `delta`: one forward pass.

    Args:
        delta: (R, T, D).

    Raises:
        InputError: the model did not look its words up there.
    """
    seen = []

    def add(module, given, output):
        if seen:  # a decoder that shares the module
            return output
        if output.shape != delta.shape:
            raise InputError(f"{type(model).__name__} does not look its words up row by row: it takes no perturbation")
        seen.append(True)
        return output + delta

    handle = word_embeddings(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if not seen:
        raise InputError(f"{type(model).__name__} does not read its input embeddings: it takes no perturbation")


class RandomState:
    """Torch's random state, at this moment or by a seed, to which forward passes can return.

    Args:
        device: the model's; the state of a GPU is its own.
    """

    def __init__(self, device: torch.device, seed: int | None = None):
        self.devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self.devices, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.cpu = torch.get_rng_state()
            self.gpu = [torch.cuda.get_rng_state(one) for one in self.devices]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Within it the same is drawn each time: the same dropout; after it the state is as it was before."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.gpu, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


class Noise:
    """Draws perturbations, from a generator of its own, and counts gradients that are not finite.

    Attributes:
        lost: gradients of rows that were not finite, on the device.
    """

    def __init__(self, model: PreTrainedModel, seed: int):
        self.device = next(model.parameters()).device
        self.dtype = word_embeddings(model).weight.dtype
        self.width = word_embeddings(model).weight.shape[1]
        self.generator = torch.Generator(self.device)
        self.seed, self.update = seed, 0
        self.rows: Counter[int] = Counter()  # drawn in this update, by stream
        self.lost = torch.zeros((), dtype=torch.int64, device=self.device)

    def after_update(self) -> None:
        self.update += 1
        self.rows.clear()

    def key(self, stream: int = 0) -> int:
        """A seed for the stream's next row."""
        self.rows[stream] += 1
        return int(hash_key(self.seed, self.update, stream, self.rows[stream]))

    def draw(self, mask: torch.Tensor, fill: Callable[..., Any], stream: int = 0) -> torch.Tensor:
        """(R, T, D), 0 at padding.

        Args:
            mask: (R, T), 1 for a token; padded on the right.
            fill: fills a tensor in place from ``generator=``.
            stream: what is drawn for one has nothing to do with what is drawn for another.
        """
        delta = torch.zeros(*mask.shape, self.width, dtype=self.dtype, device=self.device)
        for row, length in zip(delta, mask.sum(1).tolist(), strict=True):
            self.generator.manual_seed(self.key(stream))
            fill(row[:length], generator=self.generator)
        return delta

    def finite(self, gradient: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both (R, T, D) with 0 in the rows whose gradient is not finite, which are counted."""
        lost = ~gradient.flatten(1).isfinite().all(1)
        self.lost += lost.sum()
        lost = lost[:, None, None]
        return gradient.masked_fill(lost, 0.0), delta.masked_fill(lost, 0.0)

    def flags(self, name: str) -> list[str]:
        """Says how many there were, if any."""
        count = int(self.lost)
        said = f"{name}: perturbations left out since their gradient was not finite: {count:,}"
        return [said] if count else []


def ascend(delta: torch.Tensor, gradient: torch.Tensor, step_size: float, epsilon: float) -> torch.Tensor:
    """One step along the gradient, whose largest entry at each token becomes 1, back into the ball of the inf norm.

    Args:
        delta, gradient: (R, T, D).
    """
    largest = gradient.abs().amax(-1, keepdim=True)
    unit = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    return (delta + step_size * unit).clamp(-epsilon, epsilon)


@dataclass(frozen=True)
class Adversarial(Strategy):
    """What SMART and ALICE share: normal noise on the word embeddings, steps that make a loss worse, a ball."""

    changes: ClassVar[tuple[str, ...]] = ("loss",)
    perturbs: ClassVar[bool] = True

    sigma: float = field(default=1e-5, metadata={"help": "Deviation of the noise that a perturbation begins with."})
    step_size: float = field(default=1e-3, metadata={"help": "Of a step of ascent, eta."})
    steps: int = field(default=1, metadata={"help": "Steps of ascent."})
    epsilon: float = field(default=1e-5, metadata={"help": "Radius of the ball in the inf norm."})
    dropout: str = field(
        default="new",
        metadata={"help": "Of the perturbed passes: new, as in the authors' code, or the same as the plain pass's."},
    )

    def __post_init__(self):
        check_options(self, sigma=0, step_size=0, steps=0, epsilon=0)
        check_choice(self, "dropout", DROPOUTS)

    @property
    def needs_fp32(self) -> bool:
        return self.epsilon < BF16_STEP

    def bind(self, model: PreTrainedModel, task: Task | None, seed: int, updates: int) -> None:
        self._keep(noise=Noise(model, seed), rounded=False)

    def after_update(self, model: PreTrainedModel) -> None:
        self.noise.after_update()

    def flags(self) -> list[str]:
        said = f"{self.name}: the model ran in bf16, which rounds perturbations of {self.epsilon:g} away: use fp32"
        return self.noise.flags(self.name) + ([said] if self.rounded else [])

    def state(self, before: RandomState) -> RandomState:
        """What the perturbed passes of a batch begin with; `before` is what its plain pass began with."""
        return RandomState(self.noise.device, self.noise.key(DROPOUT)) if self.dropout == "new" else before

    def worst(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], state: RandomState,
        objective: Callable[[torch.Tensor], torch.Tensor], stream: int = 0,
    ) -> torch.Tensor:  # fmt: skip
        """The logits (R, C) under the perturbation that makes the objective large.

        Args:
            state: that each of these passes begins with: one dropout for all of them.
            objective: logits (R, C) to what rises, of each item (B,).
            stream: of the noise.
        """
        self._keep(rounded=torch.is_autocast_enabled(self.noise.device.type) and self.needs_fp32)
        mask = inputs["attention_mask"]
        delta = self.noise.draw(mask, lambda row, generator: row.normal_(generator=generator), stream)
        delta = (self.sigma * delta).clamp(-self.epsilon, self.epsilon)
        for _ in range(self.steps):
            delta.requires_grad_()
            with state.replayed(), perturbed(model, delta):
                risen = objective(model(**inputs).logits)
            (gradient,) = torch.autograd.grad(risen.sum(), delta)
            gradient, delta = self.noise.finite(gradient, delta.detach())
            delta = ascend(delta, gradient, self.step_size, self.epsilon) * mask[..., None]
        with state.replayed(), perturbed(model, delta):
            return model(**inputs).logits
