"""Contrastive predictive coding on any timm backbone, with one of two objectives (`CPCConfig.objective`).

* "image" (the default): the image CPC of van den Oord et al. 2018 ("Representation Learning with Contrastive Predictive
  Coding", section 3.2), with the options of Hénaff et al. 2019 ("Data-Efficient Image Recognition with Contrastive
  Predictive Coding", v2). An image is cut into a grid of overlapping patches, each is encoded by itself, and from the
  patches above a row the ones below it are predicted: which of all patches of the batch is it?
* "pairs": the lecture's CPC (McAllester, TTIC 31230). A pair (x, y) is any two views of an image or two frames of a
  video; which of the y in the batch belongs to x is told by the inner product of the two encodings alone.

What is used afterwards is the encoder's `pooler_output`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .backbone import (
    BackboneConfig,
    BackboneError,
    BackboneForImageClassification,
    BackboneModel,
    BackbonePreTrainedModel,
    check_name,
    create_backbone,
)
from .contrastive import cpc_loss_in_batch, gather_batch
from .patch_prediction import (
    DIRECTIONS,
    NEGATIVES,
    NORMS,
    MaskedContext,
    count_negatives,
    extract_patches,
    keep_one_channel,
    patch_info_nce,
    replace_batchnorm,
    turn,
)

OBJECTIVES = ("image", "pairs")
REPRESENTATIONS = ("patches", "context", "both")


class CPCConfig(BackboneConfig):
    """The config of CPC: the fields of `BackboneConfig`, and, of both objectives,

    Args:
        objective: "image" or "pairs", see the module.
        norm: what becomes of the backbone's BatchNorm2d, see `replace_batchnorm`: "layer" as in v2, "group", "none" as
            in the paper of 2018, or "keep". In image CPC a BatchNorm that is kept leaks and is warned of.
        normalize: score by cosines and not by inner products, which both papers and the lecture take.
        logit_temperature: scores are divided by it (1 in the lecture and the paper; v2's embedding scale of .1 is 10).

    of image CPC,

    Args:
        patch_size, patch_stride: in pixels; by default a quarter of the image and half a patch, so that 256, 64 and 32
            pixels all give 7 x 7 patches.
        prediction_steps: K, how many rows are predicted, each by a linear map of its own (5 in the paper).
        skip_step: rows between the context and the first that is predicted. With the usual stride the next row shares
            half its pixels with the context; 1 leaves it out.
        directions: 1 predicts downwards, 2 up as well, 4 from left and right, too (v2), each with its own weights.
        context_layers, context_dim: of the context network, see `MaskedContext`.
        projection_dim: what is predicted is a linear map of a patch's features to so many (v2: 64); by default the
            features themselves (2018).
        negatives, num_negatives: see `patch_info_nce`; by default all other patches of all images.
        representation: what is pooled over the grid: the features of the "patches" (both papers), the "context" of all
            directions, or "both", one after the other.
        loss_chunk_size: images whose scores are held at a time; by default all of the batch.

    Raises:
        BackboneError: also for a grid that has too few rows for the predictions.
    """

    model_type = "hfssl_cpc"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_cpc.CPCConfig",
        "AutoModel": "modeling_cpc.CPCModel",
        "AutoModelForPreTraining": "modeling_cpc.CPCForPreTraining",
        "AutoModelForImageClassification": "modeling_cpc.CPCForImageClassification",
    }

    image_size: int = 256
    objective: str = "image"
    norm: str = "layer"
    normalize: bool = False
    logit_temperature: float = 1.0
    patch_size: int | None = None
    patch_stride: int | None = None
    prediction_steps: int = 5
    skip_step: int = 0
    directions: int = 1
    context_layers: int = 5
    context_dim: int = 256
    projection_dim: int | None = None
    negatives: str = "all"
    num_negatives: int | None = None
    representation: str = "patches"
    loss_chunk_size: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name, known in (
            ("objective", OBJECTIVES),
            ("norm", NORMS),
            ("negatives", NEGATIVES),
            ("representation", REPRESENTATIONS),
        ):
            check_name(name, getattr(self, name), known)
        if self.logit_temperature <= 0:
            raise BackboneError(f"logit_temperature must be positive, not {self.logit_temperature}")
        if self.patch_size is None:
            self.patch_size = max(1, self.image_size // 4)
        if self.patch_stride is None:
            self.patch_stride = max(1, self.patch_size // 2)
        for name in (
            "patch_size", "patch_stride", "prediction_steps", "context_layers", "context_dim", "projection_dim",
            "num_negatives", "loss_chunk_size",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise BackboneError(f"{name} must be a positive integer, not {value!r}")
        if self.skip_step < 0 or self.directions not in (1, 2, 4):
            raise BackboneError(
                f"skip_step must be 0 or more and directions 1, 2 or 4, not {self.skip_step} and {self.directions}"
            )
        if self.objective == "image":
            self._check_grid()

    def _check_grid(self) -> None:
        if self.patch_size > self.image_size:
            raise BackboneError(f"patch_size {self.patch_size} is larger than the image, image_size {self.image_size}")
        needed = self.skip_step + self.prediction_steps + 1
        if self.grid_size < needed:
            raise BackboneError(
                f"prediction_steps {self.prediction_steps} and skip_step {self.skip_step} need a grid of {needed} rows,"
                f" and there are {self.grid_size} x {self.grid_size} patches (image_size {self.image_size}, patch_size "
                f"{self.patch_size}, patch_stride {self.patch_stride}): predict fewer or cut smaller patches"
            )

    @property
    def grid_size(self) -> int:
        """Patches in a row and in a column of the grid."""
        return (self.image_size - self.patch_size) // self.patch_stride + 1

    @property
    def backbone_size(self) -> int:
        return self.patch_size if self.objective == "image" else self.image_size


class CPCModel(BackboneModel):
    """CPC's encoder. Of image CPC it holds the context networks, too, so that every checkpoint has the same names.

    Attributes:
        contexts: one `MaskedContext` a direction; none with the objective "pairs".
        hidden_size: D, the width of `pooler_output`.
    """

    config_class = CPCConfig
    base_model_prefix = "cpc"
    model_tags: ClassVar[list[str]] = ["hfssl", "cpc", "timm", "self-supervised"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^predictors\.", r"^target_map\.", r"^classifier\."]

    def __init__(self, config: CPCConfig):
        super().__init__(config)
        self.patch_features = self.hidden_size  # D'
        self.contexts = nn.ModuleList()
        if config.objective == "image":
            self.contexts.extend(
                MaskedContext(self.patch_features, config.context_dim, config.context_layers)
                for _ in range(config.directions)
            )
            parts = {"patches": 1, "context": config.directions, "both": 1 + config.directions}
            self.hidden_size = self.patch_features * parts[config.representation]
        self.post_init()

    def build_backbone(self) -> nn.Module:
        backbone = create_backbone(self.config)
        replace_batchnorm(backbone, self.config.norm)
        batch_norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if batch_norms and self.config.objective == "image":
            warnings.warn(
                f"the patch encoder {self.config.backbone} has {len(batch_norms)} BatchNorm layers, whose statistics "
                "tell each patch of those that are to be predicted (v2, section 4.1): norm 'layer' replaces those of "
                "convolutional nets",
                stacklevel=2,
            )
        return backbone

    def forward(
        self,
        pixel_values: torch.Tensor,
        patch_channels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """
        Args:
            pixel_values: (B, C, H, W), normalised.
            patch_channels: (B, rows, columns), image CPC's colour dropping, see `keep_one_channel`.
            output_hidden_states: also return the features after each stage or block of the backbone.

        Returns:
            Of image CPC `last_hidden_state`, (B, D', rows, columns), the features of each patch, and `pooler_output`,
            (B, D), the mean over the grid of what `config.representation` names; hidden states are averaged over each
            patch, (B, D'', rows, columns). Of the objective "pairs" what `BackboneModel` gives.
        """
        if self.config.objective == "pairs":
            return super().forward(pixel_values, output_hidden_states, return_dict)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        patches = extract_patches(pixel_values, self.config.patch_size, self.config.patch_stride)
        if patch_channels is not None:
            patches = keep_one_channel(patches, patch_channels)
        shape = patches.shape[:3]
        output = super().forward(patches.flatten(0, 2), output_hidden_states, return_dict=True)
        grid = _as_grid(output.pooler_output, shape)  # (B, D', rows, columns)
        parts = [grid] if self.config.representation != "context" else []
        if self.config.representation != "patches":
            parts += self.context_grids(grid)
        hidden_states = output.hidden_states
        if hidden_states is not None:
            hidden_states = tuple(_as_grid(state.mean((2, 3)), shape) for state in hidden_states)
        output = BaseModelOutputWithPooling(
            last_hidden_state=grid,
            pooler_output=torch.cat(parts, 1).mean((2, 3)),
            hidden_states=hidden_states,
        )
        return output if return_dict else output.to_tuple()

    def context_grids(self, grid: torch.Tensor) -> list[torch.Tensor]:
        """The context (B, D', rows, columns) of each direction, in the place of the patches.

        In the direction "down" it depends on the rows up to its own, in the others on what lies up to its own row or
        column on the side where that direction begins.
        """
        return [
            turn(context(turn(grid, direction)), direction)
            for direction, context in zip(DIRECTIONS, self.contexts, strict=False)
        ]


def _as_grid(features: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return features.unflatten(0, shape).permute(0, 3, 1, 2)


@dataclass
class CPCOutput(ModelOutput):
    """
    loss: in nats, a scalar. `CPCForPreTraining.uniform_loss` is what it would be if all scores were equal.
    embeddings: (B, V, D), or (B, D) without a view axis: the encoder's `pooler_output`, what is used afterwards.
    """

    loss: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class CPCForPreTraining(BackbonePreTrainedModel):
    """The encoder, and for image CPC the predictions of the rows to come.

    Attributes:
        predictors: for each direction and each step k the matrix W_k from context to prediction.
        target_map: the linear map of patches that is predicted, with `projection_dim`.
        min_batch_size: images of all processes that a batch must have, or there is nothing to tell a pair from.
        contrastive: the images of a batch are compared with each other.
        embeds_images: `embed` is what the loss sees of an image, so that a large batch may be encoded in pieces.
    """

    config_class = CPCConfig
    base_model_prefix = "cpc"
    model_tags = CPCModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: CPCConfig):
        super().__init__(config)
        self.cpc = CPCModel(config)
        self.predictors = nn.ModuleList()
        self.target_map = nn.Identity()
        self.embeds_images = config.objective == "pairs"
        self.contrastive = config.objective == "pairs" or config.negatives != "same_image"
        self.min_batch_size = 2 if config.objective == "pairs" or config.negatives == "other_images" else 1
        if config.objective == "image":
            features, width = self.cpc.patch_features, config.projection_dim or self.cpc.patch_features
            if config.projection_dim:
                self.target_map = nn.Linear(features, width, bias=False)
            for _ in range(config.directions):
                steps = (nn.Linear(features, width, bias=False) for _ in range(config.prediction_steps))
                self.predictors.append(nn.ModuleList(steps))
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        patch_channels: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> CPCOutput | tuple:
        """
        Args:
            pixel_values: (B, C, H, W), normalised, or (B, V, C, H, W). To image CPC V views are V images; "pairs" takes
                two, and (B, C, H, W) gives no loss.
            patch_channels: (B, rows, columns) or (B, V, rows, columns), image CPC's colour dropping, see
                `keep_one_channel`.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: for "pairs", if a loss is asked for and there are not two views; if there are no negatives.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        pairs, has_views = self.config.objective == "pairs", pixel_values.ndim == 5
        if pairs and has_views and return_loss and pixel_values.shape[1] != 2:
            raise ValueError(f"a pair has two views, not {pixel_values.shape[1]}: pixel_values is (B, 2, C, H, W)")
        images = pixel_values.flatten(0, 1) if has_views else pixel_values  # (B * V, C, H, W)
        if patch_channels is not None and has_views:
            patch_channels = patch_channels.flatten(0, 1)
        if pairs:
            (embeddings,) = self.embed(images)  # (B * V, D)
        else:
            encoded = self.cpc(images, patch_channels=patch_channels, return_dict=True)
            embeddings = encoded.pooler_output
        if has_views:
            embeddings = embeddings.unflatten(0, pixel_values.shape[:2])
        loss = None
        if return_loss and not pairs:
            loss = self._image_loss(encoded.last_hidden_state)
        elif return_loss and has_views:
            loss = cpc_loss_in_batch(*self._scaled(embeddings).unbind(1))
        output = CPCOutput(loss=loss, embeddings=embeddings)
        return output if return_dict else output.to_tuple()

    def embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        """The embeddings (N, D) of images (N, C, H, W), of the objective "pairs"."""
        return (self.cpc(pixel_values, return_dict=True).pooler_output,)

    def uniform_loss(self, batch_size: int) -> float:
        """The loss in nats if all scores were equal, ln(1 + negatives): what a model that learns must get below.

        Args:
            batch_size: images, or pairs, of all processes.
        """
        config = self.config
        if config.objective == "pairs":
            return math.log(batch_size)
        return math.log(1 + count_negatives(batch_size, config.grid_size**2, config.negatives, config.num_negatives))

    def _scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Inner products of these are the scores: those of z, or cosines, over the temperature."""
        z = F.normalize(z.float() if z.dtype != torch.float64 else z, dim=-1) if self.config.normalize else z
        return z / math.sqrt(self.config.logit_temperature)

    def _image_loss(self, grid: torch.Tensor) -> torch.Tensor:
        """The mean over directions and steps of the mean InfoNCE over the batch of all processes.

        Several processes give what one gives, for any split of the batch, if every negative is used.

        Args:
            grid: (B, D', rows, columns), the features of each patch.
        """
        config, (rows, columns) = self.config, grid.shape[2:]
        if min(rows, columns) <= config.skip_step + config.prediction_steps:
            raise ValueError(
                f"{rows} x {columns} patches are too few for prediction_steps {config.prediction_steps} with skip_step "
                f"{config.skip_step}: the images are smaller than image_size {config.image_size}"
            )
        own = self._scaled(self.target_map(grid.flatten(2).mT))  # (B, P, D)
        patches, first, world_size = gather_batch(own.transpose(0, 1))
        patches = patches.transpose(0, 1)  # (N, P, D)
        place = torch.arange(rows * columns, device=grid.device).view(rows, columns)
        generator = None
        if config.num_negatives and not self.training:  # an evaluation draws the same negatives each time
            generator = torch.Generator(grid.device).manual_seed(0)
        total = 0.0
        for direction, context, steps in zip(DIRECTIONS, self.cpc.contexts, self.predictors, strict=False):
            context = context(turn(grid, direction)).permute(0, 2, 3, 1)  # (B, rows, columns, D'), turned
            for k, predict in enumerate(steps, 1):
                ahead = config.skip_step + k
                predictions = self._scaled(predict(context[:, :-ahead]).flatten(1, 2))  # (B, Q, D)
                targets = turn(place, direction)[ahead:].flatten()  # (Q,): nothing beyond the grid is predicted
                summed = patch_info_nce(
                    predictions, patches, targets, first, config.negatives, config.num_negatives,
                    config.loss_chunk_size, generator,
                )  # fmt: skip
                total = total + summed / len(targets)
        return total * (world_size / (len(patches) * config.directions * config.prediction_steps))


class CPCForImageClassification(BackboneForImageClassification):
    """CPC's encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = CPCConfig
    base_model_prefix = "cpc"
    model_tags = CPCModel.model_tags
    encoder_class = CPCModel
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^predictors\.", r"^target_map\."]
