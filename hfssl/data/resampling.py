"""Crops, resizing and blur on batches: each is a linear map of an image's rows and another of its columns.

Small images, and all images on an accelerator, are multiplied by whole matrices, the batch at a time. Large images on
the CPU are taken one by one: the matrices are bands, so each block of 32 rows or columns is one small product, which is
faster than torch's own interpolation (twice) and convolution (four times). What lost on the way, at 224 x 224 on one
core: `F.interpolate` on float images; `grid_sample`; whole matrices (twice the time); one shifted copy a tap for the
blur (half again the time); `conv2d` with a kernel a channel (seven times). torch's interpolation of uint8 images was no
faster either, and rounds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

_WHOLE = 64  # up to this side whole matrices are faster on the CPU
_BLOCK = 32
_NEGLIGIBLE = 1e-9  # a tap of the blur


class Band(NamedTuple):
    """How a block of at most `_BLOCK` results is made: pixel `first` and the following, with their weights.

    rows: (3, block, pixels), the weights for the three channels, to multiply from the left. columns: (pixels, block).
    """

    first: int
    rows: torch.Tensor
    columns: torch.Tensor


def crop_and_resize(
    images: torch.Tensor | Sequence[torch.Tensor], boxes: torch.Tensor, size: int, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """Cuts a box out of each image and resizes it to a square, bilinearly with antialiasing (torchvision's
    resized_crop).

    Args:
        images: uint8 or float in [0, 1], (B, 3, H, W), or B tensors (3, H, W) of any sizes.
        boxes: (B, 4) integers on the CPU: top, left, height, width. A box smaller than the result is enlarged.
        size: side of the result in pixels.
        mirrored: bool (B,) on the CPU: which results are flipped from left to right.

    Returns:
        float32 (B, 3, size, size) in [0, 1].
    """
    if isinstance(images, torch.Tensor) and _whole(images):
        boxes = boxes.to(images.device, non_blocking=True)
        mirrored = None if mirrored is None else mirrored.to(images.device, non_blocking=True)
        rows = _resize_matrix(boxes[:, 0], boxes[:, 2], images.shape[-2], size)  # (B, S, H)
        columns = _resize_matrix(boxes[:, 1], boxes[:, 3], images.shape[-1], size, mirrored)  # (B, S, W)
        if images.dtype == torch.uint8:
            rows = rows / 255
        return multiply(images, rows, columns)
    views = images[0].new_empty((len(images), 3, size, size), dtype=torch.float32)
    flipped = [False] * len(images) if mirrored is None else mirrored.tolist()
    for view, image, (top, left, height, width), flip in zip(views, images, boxes.tolist(), flipped, strict=True):
        pixels = image[:, top : top + height, left : left + width].float()
        rows = _resize_bands(height, size, 255 if image.dtype == torch.uint8 else 1, False, image.device)
        _multiply_bands(pixels, rows, _resize_bands(width, size, 1, flip, image.device), view)
    return views


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (..., 3, H, W) -> float32 (..., 3, *size) in [0, 1], bilinear with antialiasing."""
    batch = image[None] if image.ndim == 3 else image
    pixels = batch.float().div_(255)
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return pixels[0] if image.ndim == 3 else pixels


def blur(images: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """torchvision's gaussian_blur with a kernel of its own for each image; the border is mirrored.

    Args:
        images: float (B, 3, H, W).
        taps: (B, half + 1) on the CPU, the kernels from their middle outwards; half is less than the images' sides.
    """
    sides = images.shape[-2:]
    if _whole(images):
        return multiply(images, *(_blur_matrix(taps.to(images), side) for side in sides))
    blurred = torch.empty_like(images)
    for image, kernel, result in zip(images, taps, blurred, strict=True):
        used = int((kernel > _NEGLIGIBLE).sum())
        bands = {side: _blur_bands(kernel[:used].to(images), side) for side in {*sides}}
        _multiply_bands(image, bands[sides[0]], bands[sides[1]], result)
    return blurred


def gaussian_taps(sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """(B, kernel_size // 2 + 1) float32: Gaussian kernels of an odd size for `blur`; sigma (B,) in pixels."""
    taps = torch.exp(-0.5 * (torch.arange(kernel_size // 2 + 1) / sigma.double()[:, None]) ** 2)
    return (taps / (2 * taps.sum(1, keepdim=True) - taps[:, :1])).float()


def _whole(images: torch.Tensor) -> bool:
    return images.device.type != "cpu" or max(images.shape[-2:]) <= _WHOLE


def multiply(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows @ image @ columns^T for each channel of each image.

    Args:
        images: any type, (B, 3, H, W). rows: (B, S, H). columns: (B, T, W).

    Returns:
        (B, 3, S, T) in the precision of `rows`.
    """
    count, _, height, width = images.shape
    # With the channels between the rows and the columns both products are one for each image, not one a channel.
    pixels = torch.empty(count, height, 3, width, dtype=rows.dtype, device=images.device)
    pixels.copy_(images.transpose(1, 2))
    pixels = torch.bmm(rows, pixels.flatten(2))  # (B, S, 3 W)
    pixels = torch.bmm(pixels.view(count, -1, width), columns.mT)  # (B, S 3, T)
    return pixels.view(count, rows.shape[1], 3, columns.shape[1]).transpose(1, 2).contiguous()


def _multiply_bands(image: torch.Tensor, rows: list[Band], columns: list[Band], out: torch.Tensor) -> None:
    """rows @ image @ columns^T for each channel of one image (3, H, W), into `out` (3, S, T)."""
    _, height, width = image.shape
    wide = torch.empty(3, height, out.shape[2], dtype=out.dtype, device=out.device)
    flat = image.reshape(3 * height, width)
    for band, part in zip(columns, wide.view(3 * height, -1).split(_BLOCK, 1), strict=True):
        torch.mm(flat.narrow(1, band.first, len(band.columns)), band.columns, out=part)
    for band, part in zip(rows, out.split(_BLOCK, 1), strict=True):
        torch.bmm(band.rows, wide.narrow(1, band.first, len(band.columns)), out=part)


def _band(first: int, weights: torch.Tensor) -> Band:
    return Band(first, weights.expand(3, -1, -1), weights.T)


def _resize_matrix(
    start: torch.Tensor, length: torch.Tensor, extent: int, size: int, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, size, extent): the weights by which the pixels of a row make the resized crop [start, start + length)."""
    scale = length.float()[:, None] / size  # (B, 1)
    index = torch.arange(size, device=start.device) + 0.5  # (S,)
    if mirrored is not None:
        index = torch.where(mirrored[:, None], size - index, index)
    pixel = torch.arange(extent, device=start.device) + 0.5 - start[:, None]  # (B, extent), from the crop's edge on
    weights = _triangle(pixel[:, None], (index * scale)[..., None], scale[..., None])
    weights *= ((pixel > 0) & (pixel < length[:, None]))[:, None]
    return weights.div_(weights.sum(-1, keepdim=True))


def _triangle(pixel: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """The weight of a pixel: a triangle, as wide as two pixels of the image or of the result, whichever are larger.

    That it widens where the image shrinks is the antialiasing.
    """
    support = torch.as_tensor(scale).clamp(min=1)
    return (pixel - centre).abs_().div_(-support).add_(1).clamp_(min=0)


@functools.lru_cache(512)  # about 30 KB each
def _resize_bands(length: int, size: int, divisor: int, mirrored: bool, device: torch.device) -> list[Band]:
    """`_resize_matrix` of a whole row, divided, in bands."""
    scale, blocks = length / size, -(-size // _BLOCK)
    support = max(scale, 1.0)
    index = torch.arange(blocks * _BLOCK).clamp_(max=size - 1).view(blocks, _BLOCK)
    centre = ((size - 1 - index if mirrored else index) + 0.5) * scale
    pixels = min(length, int((_BLOCK - 1) * scale + 2 * support) + 2)
    first = (centre.amin(1) - support).long().clamp_(0, length - pixels)  # (blocks,)
    weights = _triangle((first[:, None] + torch.arange(pixels) + 0.5)[:, None], centre[..., None], scale)
    weights = (weights / weights.sum(-1, keepdim=True) / divisor).to(device)  # (blocks, _BLOCK, pixels)
    counts = [min(_BLOCK, size - start) for start in range(0, size, _BLOCK)]
    return [
        _band(*each) for each in zip(first.tolist(), (w[:n] for w, n in zip(weights, counts, strict=True)), strict=True)
    ]


def _blur_matrix(taps: torch.Tensor, side: int) -> torch.Tensor:
    """(B, side, side): the blur of a row whose ends are mirrored; taps (B, half + 1) from the centre outwards."""
    beyond = taps.shape[1]
    taps = F.pad(taps, (0, 1))
    column = torch.arange(side, device=taps.device)
    row = column[:, None]
    # the pixel itself, and what stands for it before the first and behind the last pixel
    distances = [(row - column).abs(), row + column, 2 * (side - 1) - row - column]
    distances[1][:, 0] = distances[2][:, -1] = beyond  # the pixels at the ends are not mirrored
    parts = [taps[:, distance.clamp(max=beyond).flatten()] for distance in distances]
    return sum(parts).view(-1, side, side)


def _blur_bands(taps: torch.Tensor, side: int) -> list[Band]:
    """`_blur_matrix` of one image, in bands; taps (half + 1,)."""
    half = len(taps) - 1
    shifted = taps.new_zeros(_BLOCK, _BLOCK + 2 * half + 1)
    shifted[:, : 2 * half + 1] = torch.cat([taps[1:].flip(0), taps])
    shifted = shifted.flatten()[: _BLOCK * (_BLOCK + 2 * half)].view(_BLOCK, -1)  # row i: the kernel from column i on
    inner, bands = _band(0, shifted), []
    for start in range(0, side, _BLOCK):
        stop = min(start + _BLOCK, side)
        before, behind = max(0, half - start), max(0, stop + half - side)  # taps outside the image
        if not before and not behind and stop == start + _BLOCK:
            bands.append(inner._replace(first=start - half))
            continue
        weights = shifted[: stop - start, : stop - start + 2 * half].clone()
        weights[:, before + 1 : 2 * before + 1] += weights[:, :before].flip(1)
        end = weights.shape[1] - behind
        weights[:, end - behind - 1 : end - 1] += weights[:, end:].flip(1)
        bands.append(_band(start - half + before, weights[:, before:end]))
    return bands
