"""Inpainting by a context encoder (Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting").

A part of the image is hidden, and encoder, bottleneck and decoder say what stood there. The loss is the squared error
of the hidden pixels, heavier in a band around them that is seen, and, if `adversarial_weight` is not 0, what a
discriminator thinks of the result.

Both players stand in one model and learn in one backward pass. The generator's loss goes through the discriminator with
its weights cut off from the graph, and the discriminator's sees the generator's images cut off: each weight has the
gradient of its own player's loss alone. Adam treats each weight by itself, so one optimizer with two learning rates
(`learning_rate_factors`, which the trainer heeds) is the same as one optimizer a player, and a checkpoint holds both.
Unlike the authors' code, which lets the discriminator step first, both steps are taken from the same point. A gradient
norm that is clipped would tie the two together: train with `max_grad_norm` 0.

What is used afterwards is the encoder's `pooler_output` of the whole image. `inpaint` fills what is hidden of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
import transformers.initialization as hf_init
from torch import nn
from torch.func import functional_call
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

MASKS = ("center", "block", "free")
BOTTLENECKS = ("channelwise", "dense", "none")
INIT_DEVIATION = 0.02  # of every weight outside of the backbone, as in the authors' code


class ContextEncoderConfig(BackboneConfig):
    """The config of the context encoder: the fields of `BackboneConfig`, and

    Args:
        mask: what is hidden in training: "center", a square of half the side; "block", some squares anywhere; "free", a
            region of any form (the paper's random region). Each is a quarter of the image.
        overlap: pixels at the inner edge of the predicted part that are seen (the authors' overlapPred: 4 of 64).
        overlap_weight: how much more the squared error counts there (theirs: 10).
        bottleneck: between encoder and decoder: "channelwise", a full map of the places of each channel by itself and
            then one of the channels (section 3.1); "dense", to `bottleneck_dim` numbers and back, as in the authors'
            code; or "none".
        bottleneck_dim: of "dense" (their published command: 4000).
        decoder_dim: channels of the first layer of the decoder (512); each further one has half as many, at least 64.
        reconstruction_weight, adversarial_weight: of the two losses (.999 and .001); with 0 for the second there is no
            discriminator and the loss is the squared error.
        conditional: the discriminator sees the whole image with the part filled in, and not that part alone.
        discriminator_dim: channels of its first layer (64), doubled by each further one, at most 512.
        discriminator_learning_rate_factor: its learning rate over the generator's (theirs: 2e-4 over 2e-3).

    Raises:
        BackboneError: the model also for a backbone without feature maps (some that have them are named) and an image
            that is too small for its strides, or no multiple of them.
    """

    model_type = "hfssl_context_encoder"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "modeling_context_encoder.ContextEncoderConfig",
        "AutoModel": "modeling_context_encoder.ContextEncoderModel",
        "AutoModelForPreTraining": "modeling_context_encoder.ContextEncoderForPreTraining",
        "AutoModelForImageClassification": "modeling_context_encoder.ContextEncoderForImageClassification",
    }

    image_size: int = 128
    mask: str = "center"
    overlap: int = 4
    overlap_weight: float = 10.0
    bottleneck: str = "channelwise"
    bottleneck_dim: int = 4000
    decoder_dim: int = 512
    reconstruction_weight: float = 0.999
    adversarial_weight: float = 0.001
    conditional: bool = False
    discriminator_dim: int = 64
    discriminator_learning_rate_factor: float = 0.1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name, known in (("mask", MASKS), ("bottleneck", BOTTLENECKS)):
            check_name(name, getattr(self, name), known)
        if self.num_channels != 3:
            raise BackboneError(f"num_channels {self.num_channels}: the context encoder paints in three")
        for name in ("bottleneck_dim", "decoder_dim", "discriminator_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise BackboneError(f"{name} must be a positive integer, not {value!r}")
        for name in ("overlap_weight", "reconstruction_weight", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise BackboneError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.discriminator_learning_rate_factor <= 0:
            raise BackboneError("discriminator_learning_rate_factor must be positive")
        if not 0 <= self.overlap <= self.image_size // 8:
            raise BackboneError(
                f"overlap must be at most an eighth of the image ({self.image_size // 8} pixels), not {self.overlap}"
            )


def central_mask(size: int, overlap: int = 0) -> torch.Tensor:
    """What is hidden in the middle, bool (size, size): a square of half the side, less the overlap on each edge."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    first = size // 4
    last = first + size // 2
    mask[first + overlap : last - overlap, first + overlap : last - overlap] = True
    return mask


def widened(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """A mask (B, 1, H, W) and all within so many pixels of it, along both axes."""
    if not pixels:
        return mask
    return F.max_pool2d(mask.float(), 2 * pixels + 1, stride=1, padding=pixels) > 0


def error_weights(mask: torch.Tensor, overlap: int, overlap_weight: float) -> torch.Tensor:
    """How much the squared error of each pixel counts: 1 where it is hidden, `overlap_weight` in the band around that
    is seen but predicted, 0 elsewhere. (B, 1, H, W)."""
    band = widened(mask, overlap) & ~mask
    return mask.float() + overlap_weight * band


class ContextEncoderModel(BackboneModel):
    """The encoder. It takes whole images; what is hidden from it is 0, the mean of normalised pixels. `pooler_output`
    is the mean of the last feature map."""

    config_class = ContextEncoderConfig
    base_model_prefix = "context_encoder"
    pools_maps = True
    model_tags: ClassVar[list[str]] = ["hfssl", "inpainting", "timm", "self-supervised"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^bottleneck\.", r"^decoder\.", r"^discriminator\.", r"^classifier\.",
    ]  # fmt: skip


@dataclass
class ContextEncoderOutput(ModelOutput):
    """
    loss: what is minimised, a scalar: both players' losses together.
    reconstruction: (B, 3, H, W), the generator's image in [-1, 1], of all pixels.
    reconstruction_loss, generator_loss, discriminator_loss: the parts, without their weights: the mean squared error of
        the hidden pixels with pixels in [-1, 1], and cross-entropies in nats (None without a discriminator).
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    generator_loss: torch.Tensor | None = None
    discriminator_loss: torch.Tensor | None = None


class ChannelwiseLinear(nn.Module):
    """Each channel's places to all its places, no channel to another (Pathak et al. 2016, section 3.1)."""

    def __init__(self, channels: int, places: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, places, places))
        self.bias = nn.Parameter(torch.zeros(channels, places))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        hf_init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        hf_init.zeros_(self.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to the same shape."""
        flat = torch.einsum("bcn,cnm->bcm", features.flatten(2), self.weight) + self.bias
        return flat.view_as(features)


def make_bottleneck(kind: str, channels: int, side: int, width: int) -> nn.Module:
    """Maps (B, channels, side, side) to the same shape, see `ContextEncoderConfig.bottleneck`."""
    if kind == "channelwise":
        return nn.Sequential(
            ChannelwiseLinear(channels, side * side), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1)
        )
    if kind == "dense":
        return nn.Sequential(
            nn.Conv2d(channels, width, side, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(width, channels, side, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
        )  # fmt: skip
    return nn.Identity()


def make_decoder(channels: int, doublings: int, width: int) -> nn.Module:
    """Doubles the side so many times, to three channels in [-1, 1], as DCGAN does (Radford et al. 2016)."""
    layers: list[nn.Module] = []
    for number in range(doublings):
        out = max(64, width >> number)
        if number == doublings - 1:
            return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())
        layers += [nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        channels = out
    return nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.Tanh())


def make_discriminator(side: int, width: int) -> nn.Module:
    """Images (B, 3, side, side) to one logit each: is it real? Strided convolutions, as DCGAN's."""
    layers: list[nn.Module] = []
    channels = 3
    while side > 4:
        layers.append(nn.Conv2d(channels, width, 4, 2, 1, bias=not layers))
        if len(layers) > 1:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        channels, width, side = width, min(2 * width, 512), side // 2
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, side), nn.Flatten(0))


class ContextEncoderForPreTraining(BackbonePreTrainedModel):
    """Encoder, bottleneck, decoder and, for the adversarial loss, a discriminator.

    Attributes:
        learning_rate_factors: by the prefix of the weights' names, what their learning rate is multiplied by.
    """

    config_class = ContextEncoderConfig
    base_model_prefix = "context_encoder"
    model_tags = ContextEncoderModel.model_tags
    _auto_class = "AutoModelForPreTraining"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: ContextEncoderConfig):
        super().__init__(config)
        self.context_encoder = ContextEncoderModel(config)
        channels, side, doublings = last_map(self.context_encoder)
        self.bottleneck = make_bottleneck(config.bottleneck, channels, side, config.bottleneck_dim)
        self.decoder = make_decoder(channels, doublings, config.decoder_dim)
        self.learning_rate_factors: dict[str, float] = {}
        if config.adversarial_weight:
            # In the middle the discriminator sees the part by itself, as the authors' does.
            alone = config.mask == "center" and not config.conditional
            self.discriminator = make_discriminator(
                config.image_size // 2 if alone else config.image_size, config.discriminator_dim
            )
            self.learning_rate_factors = {"discriminator.": config.discriminator_learning_rate_factor}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if getattr(module, "_keeps_timm_init", False):
            return
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            hf_init.normal_(module.weight, std=INIT_DEVIATION)
            if module.bias is not None:
                hf_init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            super()._init_weights(module)
            hf_init.normal_(module.weight, mean=1.0, std=INIT_DEVIATION)
        elif isinstance(module, ChannelwiseLinear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: torch.Tensor,
        mask: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> ContextEncoderOutput | tuple:
        """
        Args:
            pixel_values: (B, 3, S, S) or (B, 1, 3, S, S), one view, normalised, S the config's `image_size`.
            mask: (B, 1, S, S) bool, True is hidden; by default the middle. An image of which nothing is hidden has no
                error.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: a mask of another size or kind.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        pixels = pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values
        if mask is None:
            mask = central_mask(self.config.image_size, self.config.overlap).to(pixels.device)
            mask = mask.expand(len(pixels), 1, -1, -1)
        shape = (len(pixels), 1, *pixels.shape[-2:])
        if mask.dtype != torch.bool or mask.shape != shape:
            raise ValueError(f"the mask must be bool {shape}, as the images are, not {mask.dtype} {tuple(mask.shape)}")
        reconstruction = self.reconstruct(pixels, mask)
        losses = self._losses(reconstruction, self._signed(pixels), mask) if return_loss else {}
        output = ContextEncoderOutput(reconstruction=reconstruction, **losses)
        return output if return_dict else output.to_tuple()

    def reconstruct(self, pixel_values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The whole image (B, 3, S, S) in [-1, 1], from what the mask (B, 1, S, S) lets see of normalised pixels."""
        seen = pixel_values.masked_fill(mask, 0).to(next(self.context_encoder.timm_model.parameters()).dtype)
        features = self.context_encoder(seen, return_dict=True).last_hidden_state
        return at_least_float32(self.decoder(self.bottleneck(features)))

    def _signed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised pixels as pixels in [-1, 1]."""
        mean, std = _scale(self.config, pixel_values.device)
        return 2 * (at_least_float32(pixel_values) * std + mean).clamp(0, 1) - 1

    def _losses(self, image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of a reconstructed image, by the names of `ContextEncoderOutput`."""
        config = self.config
        weights = error_weights(mask, config.overlap, config.overlap_weight)
        predicted = widened(mask, config.overlap)
        squared = (weights * (image - truth).square()).sum((1, 2, 3))
        count = 3 * predicted.sum((1, 2, 3)).clamp(min=1)
        error = (squared / count).mean()  # each image as much, whatever its mask
        if not config.adversarial_weight:
            return {"loss": error, "reconstruction_loss": error}
        real, made = (self._judged(each, truth, predicted) for each in (truth, image))
        told_apart = verdict(self.discriminator(real), True) + verdict(self.discriminator(made.detach()), False)
        believed = verdict(self._judge_cut_off(made), True)
        loss = config.reconstruction_weight * error + config.adversarial_weight * believed + told_apart
        return {
            "loss": loss, "reconstruction_loss": error, "generator_loss": believed, "discriminator_loss": told_apart,
        }  # fmt: skip

    def _judged(self, image: torch.Tensor, truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """What the discriminator sees of an image: the part alone, or the whole with the part filled in."""
        if self.config.conditional:
            return torch.where(predicted, image, truth)
        if self.config.mask == "center":
            first, side = self.config.image_size // 4, self.config.image_size // 2
            return image[:, :, first : first + side, first : first + side]
        return image * predicted

    def _judge_cut_off(self, images: torch.Tensor) -> torch.Tensor:
        """The discriminator's logits, through which gradients reach the images but no weight; nor do its statistics
        move."""
        weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        statistics = {name: buffer.clone() for name, buffer in self.discriminator.named_buffers()}
        return functional_call(self.discriminator, weights | statistics, (images,))

    @torch.inference_mode()
    def inpaint(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fills the hidden part of images of any size; what is seen stays, bit for bit.

        The network sees a square copy of side `image_size`; what it paints is enlarged.

        Args:
            images: (B, 3, H, W), RGB in [0, 1]; what the mask hides is not looked at.
            mask: (B, 1, H, W) or (1, 1, H, W) bool, True is hidden.

        Raises:
            ValueError: a mask of another size or kind, one that hides all or nothing, or values outside of [0, 1].
        """
        check_mask(images, mask)
        config, size = self.config, tuple(images.shape[-2:])
        mask = mask.expand(len(images), -1, -1, -1)
        mean, std = _scale(config, images.device)
        small, small_mask = torch.where(mask, mean, images), mask
        if size != (config.image_size, config.image_size):
            square = (config.image_size, config.image_size)
            small = F.interpolate(small, square, mode="bilinear", align_corners=False, antialias=True)
            small_mask = F.adaptive_max_pool2d(mask.float(), square) > 0
            full = small_mask.flatten(1).all(1)[:, None, None, None]
            # Of a mask as fine as dots that would be everything: then what is more hidden than seen.
            small_mask = torch.where(full, F.adaptive_avg_pool2d(mask.float(), square) > 0.5, small_mask)
        was_training = self.training
        self.eval()
        try:
            painted = (self.reconstruct((small - mean) / std, small_mask) + 1) / 2
        finally:
            self.train(was_training)
        if painted.shape[-2:] != size:
            painted = F.interpolate(painted, size, mode="bilinear", align_corners=False)
        return torch.where(mask, painted.clamp(0, 1).to(images.dtype), images)


def _scale(config: ContextEncoderConfig, device: torch.device) -> list[torch.Tensor]:
    """The mean and the standard deviation of the channels, (3, 1, 1) each."""
    return [torch.tensor(each, device=device)[:, None, None] for each in (config.image_mean, config.image_std)]


def verdict(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Cross-entropy of the discriminator's logits (B,) with what it should say, in nats."""
    logits = at_least_float32(logits)
    return F.softplus(-logits if real else logits).mean()


def check_mask(images: torch.Tensor, mask: torch.Tensor) -> None:
    """Raises a ValueError, one line, unless images (B, 3, H, W) in [0, 1] and a mask fit each other."""
    check_pixels(images, (3,), "inpaint")
    if mask.dtype != torch.bool:
        raise ValueError(f"a mask is bool, True where the image is hidden, not {mask.dtype}")
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-2:] != images.shape[-2:]:
        size = " x ".join(map(str, images.shape[-2:]))
        raise ValueError(f"a mask of {tuple(mask.shape)} for images of {size}: it must be (B, 1, H, W)")
    if mask.shape[0] not in (1, len(images)):
        raise ValueError(f"{mask.shape[0]} masks for {len(images)} images")
    shares = mask.flatten(1).float().mean(1)
    if bool((shares == 1).any()):
        raise ValueError("the mask hides the whole image: there is nothing to go by")
    if bool((shares == 0).any()):
        raise ValueError("the mask hides nothing: there is nothing to paint")


def last_map(encoder: ContextEncoderModel) -> tuple[int, int, int]:
    """The last feature map: its channels, its side, and how many doublings lead from there to the image.

    Raises:
        BackboneError: its side is not the image's over a power of two.
    """
    channels, side, width = encoder.map_shapes[-1]
    size = encoder.config.image_size
    reduction = size // side
    if side != width or side * reduction != size or reduction & (reduction - 1):
        raise BackboneError(
            f"{encoder.config.backbone} makes {side} x {width} of {size} x {size} pixels, and the decoder doubles the "
            f"side: image_size must be a multiple of the backbone's strides, {size} is none"
        )
    return channels, side, reduction.bit_length() - 1


class ContextEncoderForImageClassification(BackboneForImageClassification):
    """The encoder with a linear classifier, for fine-tuning and linear evaluation."""

    config_class = ContextEncoderConfig
    base_model_prefix = "context_encoder"
    model_tags = ContextEncoderModel.model_tags
    encoder_class = ContextEncoderModel
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^bottleneck\.", r"^decoder\.", r"^discriminator\."]
