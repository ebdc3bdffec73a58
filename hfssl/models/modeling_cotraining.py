"""Deep co-training of images: discrete codes of two views that tell of each other, on any timm backbone.

The objective, Phi* = argmax I(z_x; z_y) - beta H(z_x), and its inner optimum are in `codes.py`. Here x and y are two
augmented views of an image, and a linear head with a softmax gives the posterior of a code of m values. With beta 0 and
the table of pairs as conditional it is IIC (Ji et al. 2019, "Invariant Information Clustering"), with its several heads
and its over-clustering heads, whose finer codes teach the encoder and are thrown away. Text has the same objective in
`modeling_tagger.py`.

The representation is the encoder's `pooler_output`; the codes are good for themselves, too, as clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from .backbone import (
    BackboneConfig,
    BackboneError,
    BackboneForImageClassification,
    BackboneModel,
    BackbonePreTrainedModel,
)
from .codes import CodeHeads, Prior, check_objective

_HEADS = [r"^code_heads\.", r"^classifier\."]


class CoTrainingConfig(BackboneConfig):
    """The config of co-training: the fields of `BackboneConfig`, and

    Args:
        num_codes: m, the values of a code.
        num_heads: heads of that size, all trained; the one with the lowest loss gives the codes. IIC has 5.
        overclustering_codes: m of as many finer heads beside them, 0 for none. IIC: 50 or 70 beside 10.
        beta: the price of memory, any real number; 0 is IIC's, and McAllester's and Stratos'. See `cotraining_loss`.
        conditional: "joint" (IIC) or "posterior" (Stratos), see `cotraining_loss`.
        inner: how P_Psi is found: "exact", "ema" or "adam:k", see `Prior`.
        prior_momentum, prior_learning_rate: of the last two.
    """

    model_type = "hfssl_cotraining"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_cotraining.CoTrainingConfig",
        "AutoModel": "modeling_cotraining.CoTrainingModel",
        "AutoModelForPreTraining": "modeling_cotraining.CoTrainingForPreTraining",
        "AutoModelForImageClassification": "modeling_cotraining.CoTrainingForImageClassification",
    }

    num_codes: int = 10
    num_heads: int = 1
    overclustering_codes: int = 0
    beta: float = 0.0
    conditional: str = "joint"
    inner: str = "exact"
    prior_momentum: float = 0.9
    prior_learning_rate: float = 0.05

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.num_codes < 2 or self.num_heads < 1:
            raise BackboneError(f"num_codes must be at least 2 and num_heads 1, not {self.num_codes}, {self.num_heads}")
        if self.overclustering_codes and self.overclustering_codes < 2:
            raise BackboneError(f"overclustering_codes must be 0, or at least 2, not {self.overclustering_codes}")
        try:
            check_objective(self.beta, self.inner, self.conditional)
        except ValueError as error:
            raise BackboneError(str(error)) from None

    @property
    def head_sizes(self) -> list[int]:
        """m of every head, the over-clustering ones last."""
        finer = [self.overclustering_codes] * self.num_heads if self.overclustering_codes else []
        return [self.num_codes] * self.num_heads + finer


class CoTrainingModel(BackboneModel):
    """Co-training's encoder."""

    config_class = CoTrainingConfig
    base_model_prefix = "cotraining"
    model_tags: ClassVar[list[str]] = ["hfssl", "cotraining", "timm", "self-supervised"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = _HEADS


@dataclass
class CoTrainingOutput(ModelOutput):
    """
    loss: the mean over the heads, a scalar, with two views; in nats, as what follows.
    entropy, information: H(z_x) and I(z_x; z_y) of the best head, of the batch of all processes.
    entropy_correction: what Miller and Madow would add to the entropy, see `CodeTerms`.
    codes: (B, V, m), the posterior by the best head; (B, m) for one view without a view axis.
    embeddings: (B, V, D) or (B, D), the encoder's `pooler_output`.
    """

    loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    information: torch.Tensor | None = None
    entropy_correction: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class CoTrainingForPreTraining(BackbonePreTrainedModel):
    """Encoder, code heads and the co-training loss."""

    config_class = CoTrainingConfig
    base_model_prefix = "cotraining"
    model_tags = CoTrainingModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]
    min_batch_size = 2  # images of all processes: the marginal of one is its own posterior

    def __init__(self, config: CoTrainingConfig):
        super().__init__(config)
        self.cotraining = CoTrainingModel(config)
        self.code_heads = CodeHeads(
            self.cotraining.hidden_size,
            config.head_sizes,
            config.inner,
            config.prior_momentum,
            config.prior_learning_rate,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (CodeHeads, Prior)):
            module.reset()

    def forward(
        self,
        pixel_values: torch.Tensor,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> CoTrainingOutput | tuple:
        """
        Args:
            pixel_values: (B, 2, C, H, W), two views of each image, normalised; or (B, C, H, W), which gives no loss.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: if a loss is asked for and there are not two views.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        has_views = pixel_values.ndim == 5
        if has_views and return_loss and pixel_values.shape[1] != 2:
            raise ValueError(f"co-training has two views, not {pixel_values.shape[1]}: pixel_values is (B, 2, C, H, W)")
        images = pixel_values.flatten(0, 1) if has_views else pixel_values  # (B * V, C, H, W)
        embeddings, logits = self.embed(images)  # (B * V, D), (B * V, sum of m)
        output = CoTrainingOutput()
        if has_views:
            embeddings, logits = (x.unflatten(0, pixel_values.shape[:2]) for x in (embeddings, logits))
        if has_views and return_loss:
            # Which view is x is a toss, so both orders of a pair are pairs of the population.
            x, y = logits.unbind(1)
            terms = self.code_heads.terms(
                torch.cat([x, y]), torch.cat([y, x]), self.config.beta, self.config.conditional
            )
            best = terms[self.code_heads.best(self.config.num_heads)]
            output.loss = torch.stack([each.loss for each in terms]).mean()
            output.entropy, output.information = best.entropy.detach(), best.information.detach()
            output.entropy_correction = 2 * best.entropy_correction  # by images: the views of one are no two samples
        posteriors = self.code_heads.split(logits)
        output.codes = posteriors[self.code_heads.best(self.config.num_heads)].softmax(-1)
        output.embeddings = embeddings
        return output if return_dict else output.to_tuple()

    def embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (N, D) and the logits of all heads (N, sum of m) of images (N, C, H, W).

        A trainer may put something in its place that gives the same in less memory (hfssl's `large_batch`).
        """
        embeddings = self.cotraining(pixel_values, return_dict=True).pooler_output
        return embeddings, self.code_heads(embeddings)


class CoTrainingForImageClassification(BackboneForImageClassification):
    """Co-training's encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = CoTrainingConfig
    base_model_prefix = "cotraining"
    model_tags = CoTrainingModel.model_tags
    encoder_class = CoTrainingModel
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^code_heads\."]
