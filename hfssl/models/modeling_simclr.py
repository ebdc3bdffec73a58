"""SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations") on any timm
backbone.

Two views of each image are encoded, a small head projects them, and NT-Xent asks each view to find its partner among
all views of the batch. The head is thrown away afterwards: the representation is the encoder's `pooler_output`
(section 4.2).
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
from .contrastive import nt_xent


class SimCLRConfig(BackboneConfig):
    """The config of SimCLR: the fields of `BackboneConfig`, and

    Args:
        projection_hidden_dim: width of the head's hidden layer; by default the width of the representation, as in
            the paper.
        projection_dim: D of the embeddings that the loss compares (128, section 2.1).
        logit_temperature: of NT-Xent; the paper's best is 0.1 on ImageNet (the default) and 0.5 on CIFAR-10
            (appendix B.9). transformers refuses a config field named `temperature`.
        loss_chunk_size: rows of similarities to hold at once, see `nt_xent`; by default all of them.
    """

    model_type = "hfssl_simclr"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_simclr.SimCLRConfig",
        "AutoModel": "modeling_simclr.SimCLRModel",
        "AutoModelForPreTraining": "modeling_simclr.SimCLRForPreTraining",
        "AutoModelForImageClassification": "modeling_simclr.SimCLRForImageClassification",
    }

    projection_hidden_dim: int | None = None
    projection_dim: int = 128
    logit_temperature: float = 0.1
    loss_chunk_size: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.logit_temperature <= 0:
            raise BackboneError(f"logit_temperature must be positive, not {self.logit_temperature}")
        for name in ("projection_hidden_dim", "projection_dim", "loss_chunk_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise BackboneError(f"{name} must be a positive integer, not {value!r}")


class SimCLRModel(BackboneModel):
    """SimCLR's encoder."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    model_tags: ClassVar[list[str]] = ["hfssl", "simclr", "timm", "self-supervised"]


@dataclass
class SimCLROutput(ModelOutput):
    """
    loss: NT-Xent in nats, a scalar, with two views.
    projections: (B, V, P), what the loss compares; (B, P) for one view without a view axis.
    embeddings: (B, V, D) or (B, D), the encoder's `pooler_output`, what is used afterwards.
    """

    loss: torch.Tensor | None = None
    projections: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class ProjectionHead(nn.Sequential):
    """Linear, BatchNorm, ReLU, Linear (section 4.2; the BatchNorm is in the authors' code, `model_util.py`)."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        super().__init__(
            nn.Linear(in_features, hidden_features, bias=False),  # the BatchNorm has the bias
            nn.BatchNorm1d(hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features),
        )


class SimCLRForPreTraining(BackbonePreTrainedModel):
    """Encoder, projection head and NT-Xent."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    model_tags = SimCLRModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.simclr = SimCLRModel(config)
        width = self.simclr.hidden_size
        self.projection_head = ProjectionHead(width, config.projection_hidden_dim or width, config.projection_dim)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, return_loss: bool = True, return_dict: bool | None = None
    ) -> SimCLROutput | tuple:
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
            raise ValueError(f"SimCLR compares two views, not {pixel_values.shape[1]}: pixel_values is (B, 2, C, H, W)")
        # All views in one pass, so that BatchNorm's statistics are those of 2B images, as in the authors' code.
        images = pixel_values.flatten(0, 1) if has_views else pixel_values  # (B * V, C, H, W)
        embeddings = self.simclr(images, return_dict=True).pooler_output  # (B * V, D)
        projections = self.projection_head(embeddings)  # (B * V, P)
        loss = None
        if has_views:
            embeddings, projections = (x.unflatten(0, pixel_values.shape[:2]) for x in (embeddings, projections))
            if return_loss:
                z_1, z_2 = projections.unbind(1)  # (B, P) each
                loss = nt_xent(z_1, z_2, self.config.logit_temperature, chunk_size=self.config.loss_chunk_size)
        output = SimCLROutput(loss=loss, projections=projections, embeddings=embeddings)
        return output if return_dict else output.to_tuple()


class SimCLRForImageClassification(BackboneForImageClassification):
    """SimCLR's encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    model_tags = SimCLRModel.model_tags
    encoder_class = SimCLRModel
