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

NORMS = {"batchnorm": nn.BatchNorm1d, "layernorm": nn.LayerNorm, "none": None}


class SimCLRConfig(BackboneConfig):
    """The config of SimCLR: the fields of `BackboneConfig`, and

    Args:
        projection_layers: linear layers of the head: 2, as in the paper (section 4.2), 3 as in SimCLR v2 (Chen et al.
            2020b, section 2), 1 for the paper's linear head, 0 for none.
        projection_hidden_dim: width of the head's hidden layers; by default the width of the representation, as in
            the paper.
        projection_dim: D of the embeddings that the loss compares (128, section 2.1).
        projection_norm: "batchnorm" after each hidden layer of the head, "layernorm", or "none". The last two leave a
            model without batch statistics if the backbone has none.
        projection_last_norm: also normalise what the head gives, with a scale and no shift, as the authors' code does
            (google-research/simclr, `model_util.py`) and the paper does not say.
        logit_temperature: of NT-Xent; the paper's best is 0.1 on ImageNet (the default) and 0.5 on CIFAR-10
            (appendix B.9). transformers refuses a config field named `temperature`.
        decoupled: leave the positive out of the denominator (DCL), see `nt_xent`.
        supervised: images of one class attract each other (SupCon), see `nt_xent`; the model then takes labels.
        loss_chunk_size: rows of similarities to hold at once, see `nt_xent`, which finds a good number by itself.
        freeze_patch_embed: keep the random patch embedding of a ViT as it was drawn while the model is pretrained,
            which makes contrastive learning of ViTs stable (MoCo v3, Chen et al. 2021, section 4.2).
    """

    model_type = "hfssl_simclr"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_simclr.SimCLRConfig",
        "AutoModel": "modeling_simclr.SimCLRModel",
        "AutoModelForPreTraining": "modeling_simclr.SimCLRForPreTraining",
        "AutoModelForImageClassification": "modeling_simclr.SimCLRForImageClassification",
    }

    projection_layers: int = 2
    projection_hidden_dim: int | None = None
    projection_dim: int = 128
    projection_norm: str = "batchnorm"
    projection_last_norm: bool = False
    logit_temperature: float = 0.1
    decoupled: bool = False
    supervised: bool = False
    loss_chunk_size: int | None = None
    freeze_patch_embed: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.logit_temperature <= 0:
            raise BackboneError(f"logit_temperature must be positive, not {self.logit_temperature}")
        for name in ("projection_hidden_dim", "projection_dim", "loss_chunk_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise BackboneError(f"{name} must be a positive integer, not {value!r}")
        if self.projection_layers < 0:
            raise BackboneError(f"projection_layers must be 0 or more, not {self.projection_layers}")
        if self.projection_norm not in NORMS:
            raise BackboneError(f"unknown projection_norm {self.projection_norm!r}; one of {', '.join(NORMS)}")
        if self.decoupled and self.supervised:
            raise BackboneError("decoupled leaves out one positive and supervised has many: take one of the two")


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
    """Linear, norm, ReLU for each hidden layer, and a last Linear (section 4.2).

    The BatchNorm, which the paper does not mention, is in the authors' code (`model_util.py`).

    Args:
        layers, norm, last_norm: as `SimCLRConfig`'s fields.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        layers: int = 2,
        norm: str = "batchnorm",
        last_norm: bool = False,
    ):
        modules: list[nn.Module] = []
        for number in range(1, layers + 1):
            hidden = number < layers
            width = hidden_features if hidden else out_features
            normed = norm != "none" and (hidden or last_norm)
            modules.append(nn.Linear(in_features, width, bias=not normed))  # the norm has the bias
            if normed:
                modules.append(NORMS[norm](width))
            if hidden:
                modules.append(nn.ReLU(inplace=True))
            elif normed:
                modules[-1].register_parameter("bias", None)
            in_features = width
        super().__init__(*modules)


class SimCLRForPreTraining(BackbonePreTrainedModel):
    """Encoder, projection head and NT-Xent."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    model_tags = SimCLRModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]
    min_batch_size = 2  # images of all processes: one has nothing to be told from

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.simclr = SimCLRModel(config)
        if config.freeze_patch_embed and not hasattr(self.simclr.timm_model, "patch_embed"):
            raise BackboneError(f"freeze_patch_embed: {config.backbone!r} has no patch embedding; it is for ViTs")
        width = self.simclr.hidden_size
        self.projection_head = ProjectionHead(
            width,
            config.projection_hidden_dim or width,
            config.projection_dim,
            config.projection_layers,
            config.projection_norm,
            config.projection_last_norm,
        )
        self.post_init()

    def initialize_weights(self):
        super().initialize_weights()
        if self.config.freeze_patch_embed:  # here, since transformers makes every weight trainable when it loads it
            self.simclr.timm_model.patch_embed.requires_grad_(False)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> SimCLROutput | tuple:
        """
        Args:
            pixel_values: (B, 2, C, H, W), two views of each image, normalised; or (B, C, H, W), which gives no loss.
            labels: (B,) class indices, which the supervised loss needs.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: if a loss is asked for and there are not two views, or labels are missing or not wanted.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        has_views = pixel_values.ndim == 5
        if has_views and return_loss and pixel_values.shape[1] != 2:
            raise ValueError(f"SimCLR compares two views, not {pixel_values.shape[1]}: pixel_values is (B, 2, C, H, W)")
        # All views in one pass, so that BatchNorm's statistics are those of 2B images, as in the authors' code.
        images = pixel_values.flatten(0, 1) if has_views else pixel_values  # (B * V, C, H, W)
        embeddings, projections = self.embed(images)  # (B * V, D), (B * V, P)
        loss = None
        if has_views:
            embeddings, projections = (x.unflatten(0, pixel_values.shape[:2]) for x in (embeddings, projections))
            if return_loss:
                loss = self._loss(projections, labels)
        output = SimCLROutput(loss=loss, projections=projections, embeddings=embeddings)
        return output if return_dict else output.to_tuple()

    def embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (N, D) and projections (N, P) of images (N, C, H, W), each by itself but for batch statistics.

        A trainer may put something in its place that gives the same in less memory (hfssl's `large_batch`).
        """
        embeddings = self.simclr(pixel_values, return_dict=True).pooler_output
        return embeddings, self.projection_head(embeddings)

    def _loss(self, projections: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        if config.supervised != (labels is not None):
            wanted = "needed" if labels is None else "not used"
            raise ValueError(f"the model's config says supervised: {config.supervised}, so labels are {wanted}")
        z_1, z_2 = projections.unbind(1)  # (B, P) each
        return nt_xent(
            z_1, z_2, config.logit_temperature, config.loss_chunk_size, decoupled=config.decoupled, labels=labels
        )


class SimCLRForImageClassification(BackboneForImageClassification):
    """SimCLR's encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    model_tags = SimCLRModel.model_tags
    encoder_class = SimCLRModel
