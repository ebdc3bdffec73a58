"""How good predicted pixels are, beside what needs no learning: of colorization and of inpainting.

Images are (B, 3, H, W), RGB in [0, 1]; every measure is one number for each image, (B,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hfssl.data.augmentation import fit
from hfssl.data.collators import stack_images
from hfssl.models.color import lab_to_rgb, rgb_to_lab
from hfssl.models.modeling_context_encoder import central_mask

SHOWN = 8  # images of a gallery


def psnr(images: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Peak signal over noise in dB, of all pixels or of those of a mask (B, 1, H, W)."""
    error = (images - truth).square().mean(1, keepdim=True)
    weights = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    mean = (error * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)
    return -10 * mean.clamp(min=1e-10).log10()


def rmse_ab(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Root of the mean squared error of (a, b) of Lab: of the colours alone."""
    return (rgb_to_lab(images) - rgb_to_lab(truth))[:, 1:].square().sum(1).mean((1, 2)).sqrt()


def mean_chroma(images: torch.Tensor) -> torch.Tensor:
    """The mean length of (a, b): 0 is grey."""
    return rgb_to_lab(images)[:, 1:].square().sum(1).sqrt().mean((1, 2))


def sharpness(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference of neighbouring pixels whose both members the mask (B, 1, H, W) hides."""
    total, count = 0.0, 0.0
    for axis in (2, 3):
        length = images.shape[axis] - 1
        steps = (images.narrow(axis, 1, length) - images.narrow(axis, 0, length)).abs().mean(1, keepdim=True)
        both = (mask.narrow(axis, 1, length) & mask.narrow(axis, 0, length)).to(steps.dtype)
        total = total + (steps * both).flatten(1).sum(1)
        count = count + both.flatten(1).sum(1)
    return total / count.clamp(min=1)


def grey_of(images: torch.Tensor) -> torch.Tensor:
    """The images without colour, of the same L: what colorization must beat."""
    lab = rgb_to_lab(images)
    return lab_to_rgb(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1)).clamp(0, 1)


def biharmonic_fill(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The hidden part as scikit-image, which must be installed, fills it biharmonically; slow for large holes."""
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(image.permute(1, 2, 0).cpu().numpy(), hidden[0].cpu().numpy(), channel_axis=-1)
        for image, hidden in zip(images, mask, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(images).clamp(0, 1)


def mean_fill(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The hidden part filled with the mean colour of what is seen: what inpainting must beat."""
    seen = (~mask).to(images.dtype)
    mean = (images * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True)
    return torch.where(mask, mean, images)


def whole_views(images: Sequence[Any], size: int) -> torch.Tensor:
    """Images of a dataset as squares (B, 3, size, size), RGB in [0, 1]."""
    return fit(stack_images([item["image"] for item in images]), size)


def reconstructions(model: nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], list[str]]:
    """What a colorization or inpainting model makes of images: columns of a gallery, and what to call them."""
    if hasattr(model, "colorize"):
        return [grey_of(images), model.colorize(images).rgb, images], ["input", "colorized", "truth"]
    mask = central_mask(images.shape[-1], model.config.overlap).to(images.device)[None, None]
    seen = torch.where(mask, 1.0, images)
    return [seen, model.inpaint(images, mask), images], ["input", "inpainted", "truth"]


def paints(config: Mapping[str, Any]) -> bool:
    """Whether models of a config, as its file has it, predict pixels."""
    return config.get("model_type") in ("hfssl_colorization", "hfssl_context_encoder")


def evaluate_painter(model: nn.Module, images: torch.Tensor, biharmonic: bool = False) -> dict[str, float]:
    """The figures of a model on test images, means over them, beside the baseline's.

    Args:
        biharmonic: of inpainting also "biharmonic_psnr", see `biharmonic_fill`.

    Returns:
        For colorization "rmse_ab", "psnr" and "mean_chroma", those of the grey baseline with "grey_", and
        "true_mean_chroma"; for inpainting of the middle "psnr" and "sharpness" of the hidden part, those of the mean
        fill with "mean_fill_", and "true_sharpness".
    """
    found: dict[str, torch.Tensor] = {}
    images = images.to(next(model.parameters()).device)
    (_, made, _), _ = reconstructions(model, images)
    if hasattr(model, "colorize"):
        for prefix, each in (("", made), ("grey_", grey_of(images))):
            found |= {f"{prefix}rmse_ab": rmse_ab(each, images), f"{prefix}psnr": psnr(each, images)}
        found |= {"mean_chroma": mean_chroma(made), "true_mean_chroma": mean_chroma(images)}
    else:
        mask = central_mask(images.shape[-1], model.config.overlap).to(images.device)
        mask = mask.expand(len(images), 1, -1, -1)
        for prefix, each in (("", made), ("mean_fill_", mean_fill(images, mask)), ("true_", images)):
            found[f"{prefix}sharpness"] = sharpness(each, mask)
            if prefix != "true_":
                found[f"{prefix}psnr"] = psnr(each, images, mask)
        if biharmonic:
            found["biharmonic_psnr"] = psnr(biharmonic_fill(images, mask), images, mask)
    return {name: float(values.double().mean()) for name, values in found.items()}
