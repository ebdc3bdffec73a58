"""Colorization on any timm backbone: from the lightness of an image, what is the colour of a pixel?

The encoder sees lightness alone. A pixel's hypercolumn (the features of all stages at its place, and its lightness)
goes through a small head (Larsson et al. 2016, "Learning Representations for Automatic Colorization", section 3), which
is trained on a few pixels of each image and used on all. There are three losses, `ColorizationConfig.color_loss`:

* "hist_hc" (the default): histograms of hue and chroma around the pixel, by Kullback-Leibler divergence (Larsson).
* "l2_ab": the squared distance in the plane (a, b) of Lab; the lecture's, and what both papers improve upon.
* "ce313": the cell of the plane (a, b), rare colours counting more (Zhang et al. 2016, "Colorful Image Colorization").

What is used afterwards is the encoder's `pooler_output`. `colorize` gives colour to any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import timm
import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .backbone import (
    BackboneConfig,
    BackboneError,
    BackboneForImageClassification,
    BackboneModel,
    BackbonePreTrainedModel,
    at_least_float32,
    check_name,
    check_pixels,
)
from .color import (
    NUM_CELLS,
    annealed_mean,
    chroma_bins,
    chroma_of,
    from_vector,
    hcl_to_rgb,
    hue_bins,
    hue_of,
    into_gamut,
    lab_to_rgb,
    rebalancing,
    rgb_to_hcl,
    rgb_to_lab,
    soft_cells,
    to_vector,
    window_histogram,
)

LOSSES = ("hist_hc", "l2_ab", "ce313")
STATISTICS = ("median", "expectation")
AB_SCALE = 110.0  # a and b are learned in units of it, about the largest that a screen reaches


class ColorizationConfig(BackboneConfig):
    """The config of colorization: the fields of `BackboneConfig`, and

    Args:
        color_loss: "hist_hc", "l2_ab" or "ce313".
        hypercolumn_dim: width of the head's hidden layer (Larsson's fc1: 1024).
        hypercolumn_dropout: share of the hidden layer that is dropped in training (theirs: .5).
        hypercolumn_levels: which of the backbone's feature maps are read, by number; by default all.
        color_bins: K, of each of the two histograms (theirs: 32).
        color_window: side of the window of the target's histograms in pixels (theirs: 7).
        hue_weight: lambda_H, of the hue's term beside the chroma's (theirs: 5).
        chroma_statistic: what is taken of a chroma histogram: "median" or "expectation".
        chromatic_fading: the hue's certainty below which the chroma fades to 0; 0 never fades it.
        rebalancing_mix: lambda of "ce313", see `rebalancing`; 1 counts all colours alike.
        annealing_temperature: T of "ce313", see `annealed_mean`.

    Raises:
        BackboneError: the model also for a backbone without feature maps (some that have them are named) and an image
            that is too small for its strides.
    """

    model_type = "hfssl_colorization"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_colorization.ColorizationConfig",
        "AutoModel": "modeling_colorization.ColorizationModel",
        "AutoModelForPreTraining": "modeling_colorization.ColorizationForPreTraining",
        "AutoModelForImageClassification": "modeling_colorization.ColorizationForImageClassification",
    }

    color_loss: str = "hist_hc"
    hypercolumn_dim: int = 1024
    hypercolumn_dropout: float = 0.5
    hypercolumn_levels: list[int] | None = None
    color_bins: int = 32
    color_window: int = 7
    hue_weight: float = 5.0
    chroma_statistic: str = "median"
    chromatic_fading: float = 0.03
    rebalancing_mix: float = 0.5
    annealing_temperature: float = 0.38

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name, known in (("color_loss", LOSSES), ("chroma_statistic", STATISTICS)):
            check_name(name, getattr(self, name), known)
        if self.num_channels != 3:
            raise BackboneError(f"num_channels {self.num_channels}: colour has three, of which the encoder sees one")
        for name in ("hypercolumn_dim", "color_bins"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 2:
                raise BackboneError(f"{name} must be at least 2, not {value!r}")
        if self.color_window < 1 or self.color_window % 2 == 0:
            raise BackboneError(f"color_window must be odd, not {self.color_window}")
        for name, high in (("hypercolumn_dropout", 1), ("rebalancing_mix", 1), ("chromatic_fading", 1)):
            if not 0 <= getattr(self, name) <= high:
                raise BackboneError(f"{name} must lie in [0, {high}], not {getattr(self, name)}")
        if self.annealing_temperature <= 0:
            raise BackboneError(f"annealing_temperature must be positive, not {self.annealing_temperature}")
        if self.hue_weight < 0:
            raise BackboneError(f"hue_weight must not be negative, not {self.hue_weight}")

    @property
    def backbone_channels(self) -> int:
        return 1  # lightness

    @property
    def color_outputs(self) -> int:
        """What the head says of a pixel: (a, b), two histograms, or a distribution over cells."""
        return {"l2_ab": 2, "hist_hc": 2 * self.color_bins, "ce313": NUM_CELLS}[self.color_loss]


def lightness_of(rgb: torch.Tensor, color_loss: str) -> torch.Tensor:
    """The lightness of RGB in [0, 1] (B, 3, H, W) or of grey (B, 1, H, W): (B, 1, H, W), in [0, 1].

    That of HCL for "hist_hc" and L / 100 of Lab for the other losses.
    """
    if rgb.shape[1] == 1:
        rgb = rgb.expand(-1, 3, -1, -1)
    return rgb_to_hcl(rgb)[:, 2:] if color_loss == "hist_hc" else rgb_to_lab(rgb)[:, :1] / 100


class ColorizationModel(BackboneModel):
    """The encoder. It takes normalised RGB, as any image model does, and sees its lightness alone; `pooler_output` is
    the mean of the last feature map."""

    config_class = ColorizationConfig
    base_model_prefix = "colorization"
    pools_maps = True
    model_tags: ClassVar[list[str]] = ["hfssl", "colorization", "timm", "self-supervised"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^color_head\.", r"^cell_weights$", r"^classifier\."]

    def forward(self, pixel_values: torch.Tensor, output_hidden_states=None, return_dict=None):
        """
        Args:
            pixel_values: (B, 3, H, W), normalised RGB.
            output_hidden_states: also return the features after each stage or block.

        Returns:
            As `BackboneModel`'s.
        """
        return self.encode_lightness(
            lightness_of(self.to_rgb(pixel_values), self.config.color_loss), output_hidden_states, return_dict
        )

    def encode_lightness(self, lightness: torch.Tensor, output_hidden_states=None, return_dict=None):
        """The same from lightness (B, 1, H, W) in [0, 1]."""
        dtype = next(self.timm_model.parameters()).dtype
        return super().forward((4 * lightness - 2).to(dtype), output_hidden_states, return_dict)  # as others: -2 to 2

    def to_rgb(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised RGB as RGB in [0, 1], in float32."""
        mean, std = (
            torch.tensor(values, device=pixel_values.device)[:, None, None]
            for values in (self.config.image_mean, self.config.image_std)
        )
        return (at_least_float32(pixel_values) * std + mean).clamp(0, 1)


@dataclass
class ColorizationOutput(ModelOutput):
    """
    loss: a scalar: nats for "hist_hc" and "ce313"; for "l2_ab" the squared distance in units of `AB_SCALE`.
    logits: (B, P, C), what the head says of each pixel that was looked at, see `ColorizationConfig.color_outputs`.
    embeddings: (B, D), the encoder's `pooler_output`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


@dataclass
class ColorizedImages(ModelOutput):
    """
    rgb: (B, 3, H, W) in [0, 1].
    lightness: (B, 1, H, W), the input's, bit for bit: L of Lab in [0, 100], or that of HCL in [0, 1] for "hist_hc".
    color: (B, 2, H, W), (a, b) or hue and chroma, shrunk to what a screen shows at this lightness.
    """

    rgb: torch.Tensor | None = None
    lightness: torch.Tensor | None = None
    color: torch.Tensor | None = None


def read_points(features: torch.Tensor, points: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Feature maps (B, C, h, w) at pixels of an image of `size` (H, W), bilinearly, as `interpolate` enlarges them.

    Args:
        points: (B, P) numbers of pixels, row by row.

    Returns:
        (B, C, P).
    """
    h, w = features.shape[-2:]
    exact = torch.promote_types(features.dtype, torch.float32)  # 16 bits would not tell one pixel from the next
    y = (((points // size[1]).to(exact) + 0.5) * (h / size[0]) - 0.5).clamp(0, h - 1)
    x = (((points % size[1]).to(exact) + 0.5) * (w / size[1]) - 0.5).clamp(0, w - 1)
    top, left = y.floor(), x.floor()
    down, right = (y - top)[:, None], (x - left)[:, None]  # (B, 1, P), the weights of the lower and the right one
    flat = features.flatten(2)

    def at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        places = rows.long().clamp(max=h - 1) * w + columns.long().clamp(max=w - 1)
        return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return (upper * (1 - down) + lower * down).to(features.dtype)


class HypercolumnHead(nn.Module):
    """A hidden layer over the features of all levels at a pixel, and an output (Larsson et al. 2016, section 3).

    The hidden layer is a sum of one linear map a level. On all pixels each map is taken at the level's own size and its
    result enlarged, which is the same and needs no hypercolumn of all levels at full size.

    Args:
        channels: of the levels.
        hidden, outputs: widths.
    """

    def __init__(self, channels: list[int], hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Conv2d(width, hidden, 1, bias=number == 0) for number, width in enumerate(channels)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, outputs)

    def forward(
        self, features: list[torch.Tensor], size: tuple[int, int], points: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            features: (B, C_l, h_l, w_l) of each level l.
            size: H and W of the image.
            points: (B, P) numbers of pixels, row by row; by default all H W.

        Returns:
            (B, P, outputs).
        """
        hidden = 0
        for level, found in zip(self.levels, features, strict=True):
            if points is None:
                hidden = hidden + F.interpolate(level(found), size, mode="bilinear", align_corners=False).flatten(2)
            else:
                hidden = hidden + level(read_points(found, points, size)[..., None]).squeeze(-1)
        return self.output(self.dropout(F.relu(hidden.transpose(1, 2))))


class ColorizationForPreTraining(BackbonePreTrainedModel):
    """Encoder, hypercolumns and one of the three losses.

    Attributes:
        cell_weights: (313,), how much each colour counts in "ce313"; all alike until `set_color_frequencies`.
    """

    config_class = ColorizationConfig
    base_model_prefix = "colorization"
    model_tags = ColorizationModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: ColorizationConfig):
        super().__init__(config)
        self.colorization = ColorizationModel(config)
        levels = feature_levels(self.colorization)
        self.color_head = HypercolumnHead(
            [1, *levels], config.hypercolumn_dim, config.color_outputs, config.hypercolumn_dropout
        )
        if config.color_loss == "ce313":
            self.register_buffer("cell_weights", torch.ones(NUM_CELLS))
        self.post_init()

    def set_color_frequencies(self, frequencies: torch.Tensor) -> None:
        """Sets the weights of "ce313" from how often each cell comes in the training images (`cell_shares`)."""
        self.cell_weights.copy_(rebalancing(frequencies, self.config.rebalancing_mix))

    def forward(
        self,
        pixel_values: torch.Tensor,
        points: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> ColorizationOutput | tuple:
        """
        Args:
            pixel_values: (B, 3, H, W) or (B, 1, 3, H, W), one view, normalised RGB.
            points: (B, P), the numbers of the pixels to look at, row by row; by default all.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        rgb = self.colorization.to_rgb(pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values)
        lightness = lightness_of(rgb, self.config.color_loss)
        logits, embeddings = self._look(lightness, points)
        loss = self.color_loss(logits, rgb, points) if return_loss else None
        output = ColorizationOutput(loss=loss, logits=logits, embeddings=embeddings)
        return output if return_dict else output.to_tuple()

    def _look(self, lightness: torch.Tensor, points: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head says (B, P, C), and the embeddings (B, D), of lightness (B, 1, H, W)."""
        output = self.colorization.encode_lightness(lightness, output_hidden_states=True, return_dict=True)
        chosen = self.config.hypercolumn_levels
        states = output.hidden_states if chosen is None else [output.hidden_states[level] for level in chosen]
        features = [(4 * lightness - 2).to(states[0].dtype), *states]
        return self.color_head(features, lightness.shape[-2:], points), output.pooler_output

    def color_loss(self, logits: torch.Tensor, rgb: torch.Tensor, points: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of what the head says of pixels: the mean over them.

        Args:
            logits: (B, P, C).
            rgb: (B, 3, H, W) in [0, 1].
            points: (B, P) numbers of the pixels; by default all, P = H W.
        """
        config, logits = self.config, at_least_float32(logits)
        if config.color_loss == "hist_hc":
            return hue_chroma_loss(
                logits, rgb_to_hcl(rgb), config.color_bins, config.color_window, config.hue_weight, points
            )
        ab = at_points(rgb_to_lab(rgb)[:, 1:], points)  # (B, P, 2)
        if config.color_loss == "l2_ab":
            return (logits - ab / AB_SCALE).square().sum(-1).mean()
        return cell_loss(logits.flatten(0, 1), ab.flatten(0, 1), self.cell_weights)

    @torch.inference_mode()
    def colorize(self, images: torch.Tensor) -> ColorizedImages:
        """Gives colour to images of any size.

        The network sees a copy with the shorter side of `image_size` (the whole square, if the backbone takes one size
        alone); its colours are enlarged, and the lightness stays the input's.

        Args:
            images: (B, 1, H, W) grey or (B, 3, H, W) RGB, in [0, 1]; of RGB the colours are not looked at.

        Raises:
            TypeError: no tensor.
            ValueError: another number of channels, or values outside of [0, 1].
        """
        check_pixels(images, (1, 3), "colorize")
        was_training = self.training
        self.eval()
        try:
            made = [
                self._colorize_one(image) for image in images.split(1)
            ]  # all pixels of one image are enough at once
        finally:
            self.train(was_training)
        return ColorizedImages(*(torch.cat(parts) for parts in zip(*(one.to_tuple() for one in made), strict=True)))

    def _colorize_one(self, image: torch.Tensor) -> ColorizedImages:
        """(1, 1 or 3, H, W)."""
        kept = image.expand(-1, 3, -1, -1).float()
        own = rgb_to_hcl(kept)[:, 2:] if self.config.color_loss == "hist_hc" else rgb_to_lab(kept)[:, :1]
        small, full = lightness_of(kept, self.config.color_loss), tuple(image.shape[-2:])
        size = self._working_size(full)
        if size != full:
            small = F.interpolate(small, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        vector = self.decode(self._look(small, None)[0]).transpose(1, 2).unflatten(2, size)  # (1, 2, h, w)
        if size != full:
            vector = F.interpolate(vector, full, mode="bilinear", align_corners=False)
        return join_color(own, vector, self.config.color_loss)

    def _working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The shorter side as in training, the longer one at most four times that."""
        declared, side = timm.get_pretrained_cfg(self.config.backbone), self.config.image_size
        if declared is not None and declared.fixed_input_size:
            return side, side
        scale = side / min(size)
        return tuple(min(4 * side, max(side, round(scale * length))) for length in size)

    def decode(self, logits: torch.Tensor) -> torch.Tensor:
        """The colour (B, P, 2) of what the head says of pixels: (a, b), or hue and chroma as a point (`to_vector`)."""
        config, logits = self.config, at_least_float32(logits)
        if config.color_loss == "l2_ab":
            return AB_SCALE * logits
        if config.color_loss == "ce313":
            return annealed_mean(logits, config.annealing_temperature)
        hue_logits, chroma_logits = logits.split(config.color_bins, dim=-1)
        hue, certainty = hue_of(hue_logits.softmax(-1))
        chroma = chroma_of(chroma_logits.softmax(-1), config.chroma_statistic)
        if config.chromatic_fading:
            chroma = chroma * (certainty / config.chromatic_fading).clamp(max=1)
        return to_vector(hue[:, None], chroma[:, None])[:, :, 0].transpose(1, 2)  # the points as one row of an image


def join_color(lightness: torch.Tensor, vector: torch.Tensor, color_loss: str) -> ColorizedImages:
    """Lightness (B, 1, H, W), of HCL or L of Lab, and `decode`'s colour (B, 2, H, W) as images."""
    if color_loss == "hist_hc":
        hue, chroma = from_vector(vector)
        chroma = torch.minimum(chroma, 1 - (2 * lightness[:, 0] - 1).abs())
        color = torch.stack([hue, chroma], 1)
        return ColorizedImages(hcl_to_rgb(torch.cat([color, lightness], 1)), lightness, color)
    lab = into_gamut(torch.cat([lightness, vector], 1))
    # What is clamped is the rounding that `into_gamut` allows, a fortieth of a step of 8 bits.
    return ColorizedImages(lab_to_rgb(lab).clamp(0, 1), lab[:, :1], lab[:, 1:])


def at_points(maps: torch.Tensor, points: torch.Tensor | None) -> torch.Tensor:
    """Maps (B, C, H, W) at pixels (B, P), by default all: (B, P, C)."""
    flat = maps.flatten(2)
    if points is not None:
        flat = flat.gather(2, points[:, None].expand(-1, flat.shape[1], -1))
    return flat.transpose(1, 2)


def hue_chroma_loss(
    logits: torch.Tensor,
    hcl: torch.Tensor,
    num_bins: int,
    window: int = 7,
    hue_weight: float = 5.0,
    points: torch.Tensor | None = None,
) -> torch.Tensor:
    """Larsson et al. 2016, equation 5, with the weights of their code (`train_vgg16.prototxt`).

    KL(chroma) w(l) + hue_weight c KL(hue), a mean over pixels: the hue counts by the pixel's chroma c, and the chroma
    less where the lightness l is near black or white, w(l) = min(3 l, 1, 3 (1 - l)).

    Args:
        logits: (B, P, 2 K), of the hue's and of the chroma's histogram.
        hcl: (B, 3, H, W), the true colours.
        points: (B, P) numbers of the pixels; by default all.
    """
    hue, chroma, lightness = hcl.unbind(1)
    targets = [
        window_histogram(hue_bins(hue, num_bins), num_bins, window, points),
        window_histogram(chroma_bins(chroma, num_bins), num_bins, window, points),
    ]
    found = [part.log_softmax(-1) for part in logits.split(num_bins, dim=-1)]
    hue_kl, chroma_kl = (divergence(target, log) for target, log in zip(targets, found, strict=True))  # (B, P)
    c, light = at_points(torch.stack([chroma, lightness], 1), points).unbind(-1)
    trapezium = torch.minimum(3 * light, 3 * (1 - light)).clamp(0, 1)
    return (trapezium * chroma_kl + hue_weight * c * hue_kl).mean()


def divergence(target: torch.Tensor, log_shares: torch.Tensor) -> torch.Tensor:
    """KL(target || shares) over the last axis, in nats."""
    return (torch.xlogy(target, target) - target * log_shares).sum(-1)


def cell_loss(logits: torch.Tensor, ab: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of softly encoded colours, each pixel weighted by its cell's (Zhang et al. 2016, equations 2, 3).

    Args:
        logits: (N, 313). ab: (N, 2). weights: (313,).
    """
    cells, shares = soft_cells(ab)
    cross_entropy = -(shares * logits.log_softmax(-1).gather(1, cells)).sum(-1)
    return (weights[cells[:, 0]] * cross_entropy).mean()


def feature_levels(encoder: ColorizationModel) -> list[int]:
    """The channels of the feature maps that hypercolumns are read from.

    Raises:
        BackboneError: there is no map of such a number.
    """
    channels = [shape[0] for shape in encoder.map_shapes]
    chosen = encoder.config.hypercolumn_levels
    chosen = range(len(channels)) if chosen is None else chosen
    last = len(channels) - 1
    if last not in chosen or any(not 0 <= level <= last for level in chosen):
        raise BackboneError(
            f"hypercolumn_levels {list(chosen)}: {encoder.config.backbone} has 0 to {last}, and the last must be among "
            "them, since it is what is used afterwards"
        )
    return [channels[level] for level in chosen]


class ColorizationForImageClassification(BackboneForImageClassification):
    """The encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = ColorizationConfig
    base_model_prefix = "colorization"
    model_tags = ColorizationModel.model_tags
    encoder_class = ColorizationModel
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^color_head\.", r"^cell_weights$"]
