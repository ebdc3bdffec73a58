"""Image operations on batches, each image with parameters of its own.

Images are float, (B, 3, H, W), in [0, 1]; parameters are tensors (B,). Each operation gives what torchvision's
functional of the same name gives for one float image with the same parameter (tests/data/test_image_ops.py states the
tolerances). Resizing and blur are in `hfssl.data.resampling`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_TINY = 1e-30  # in place of a chroma of zero


def normalize(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], out: torch.Tensor | None = None
) -> torch.Tensor:
    """(images - mean) / std, one mean and one standard deviation a channel; images (B, 3, H, W)."""
    out = torch.empty_like(images) if out is None else out
    for channel, (centre, width) in enumerate(zip(mean, std, strict=True)):
        shift = torch.full((), -centre / width, dtype=images.dtype, device=images.device)
        torch.add(shift, images[:, channel], alpha=1 / width, out=out[:, channel])
    return out


def rgb_to_grayscale(images: torch.Tensor, channels: int = 1) -> torch.Tensor:
    """(B, 3, H, W) -> (B, channels, H, W), all of them the luma of ITU-R BT.601."""
    weights = images.new_tensor(LUMA).expand(len(images), channels, 3)
    return torch.bmm(weights, images.flatten(2)).unflatten(2, images.shape[2:])


def adjust_hue(images: torch.Tensor, turns: torch.Tensor) -> None:
    """Turns the hue of the images themselves by -0.5 to 0.5 turns of the colour circle.

    It writes into the images, and into as few other tensors as it can: on a CPU the time is that of the memory.

    With chroma c = max - min, the hue in turns, from -1/2 to 1/2, has the size (1 + (g + b - r - min) / c) / 6 and the
    sign of g - b. At the hue h the channels are min + c * (2 - clamp(|6 h|, 1, 2)) for red, and
    min + c * (clamp(|6 h +- 1|, 1, 2) - 1) for green and blue.
    """
    red, green, blue = images.unbind(1)  # each (B, H, W)
    low = torch.minimum(red, green)
    torch.minimum(low, blue, out=low)
    chroma = torch.maximum(red, green)
    torch.maximum(chroma, blue, out=chroma)
    chroma.sub_(low)
    side = green - blue
    low.sub_(chroma)
    hue = torch.add(green, blue, out=green).sub_(red).sub_(low)
    chroma.mul_(6)
    hue.div_(torch.clamp_min(chroma, _TINY, out=red)).copysign_(side)
    hue.add_(turns.to(images)[:, None, None])
    hue.sub_(torch.round(hue, out=side))
    torch.sub(0.5, torch.abs(hue, out=red).clamp_(1 / 6, 1 / 3), out=red)
    torch.sub(hue, 1 / 6, out=blue).abs_().clamp_(1 / 6, 1 / 3)
    hue.add_(1 / 6).abs_().clamp_(1 / 6, 1 / 3)  # it lies where green was
    images.mul_(chroma[:, None]).add_(low[:, None])


class JitterPlan(NamedTuple):
    """What `jitter` does to each image: three linear maps of the colours, and a turn of the hue before, between or
    after them. Contrast, brightness and saturation are linear in the colours, so that each is one product.

    matrices: (B, 3, 3, 3), the three maps. offsets: (B, 3), what each adds. pulls: (B, 3), how much of the mean of
    the grayscale each adds. turns: (B,), of the hue. places: int64 (B,), before which of the maps the hue is turned, 3
    for after the last. All on the CPU.
    """

    matrices: torch.Tensor
    offsets: torch.Tensor
    pulls: torch.Tensor
    turns: torch.Tensor
    places: torch.Tensor


def plan_jitter(factors: torch.Tensor, orders: torch.Tensor, additive: bool = False) -> JitterPlan:
    """The jitter of given parameters.

    Args:
        factors: (B, 4) of brightness, contrast, saturation (1 is none) and hue (0 is none).
        orders: (B, 4): which of the four comes first, second, third, last.
        additive: the first factor is added to the image (0 is none) instead of multiplied with it.
    """
    kinds = orders[orders != _HUE].view(-1, 3)
    factor = factors.gather(1, kinds)  # (B, 3)
    added = (kinds == _BRIGHTNESS) & additive
    gain = torch.where(added, 1.0, factor)
    colourless = torch.tensor(LUMA, dtype=factors.dtype).expand(3, 3)
    saturation = torch.where(kinds == _SATURATION, 1 - factor, 0.0)[..., None, None]
    return JitterPlan(
        matrices=gain[..., None, None] * torch.eye(3, dtype=factors.dtype) + saturation * colourless,
        offsets=torch.where(added, factor, 0.0),
        pulls=torch.where(kinds == _CONTRAST, 1 - factor, 0.0),
        turns=factors[:, _HUE],
        places=(orders == _HUE).int().argmax(1),
    )


def jitter(images: torch.Tensor, plan: JitterPlan) -> torch.Tensor:
    """torchvision's ColorJitter with given parameters, as `plan_jitter` prepares them.

    Args:
        images: (B, 3, H, W), in the order of their `places`; written to.
    """
    places, matrices = plan.places.tolist(), plan.matrices.to(images)
    offsets, pulls = plan.offsets.to(images), plan.pulls.to(images)
    moved, pulled, first = plan.offsets.any(0).tolist(), plan.pulls.any(0).tolist(), 0
    other = torch.empty_like(images)  # the products go to and fro: what is written lies in the cache
    for number in range(4):
        last = bisect.bisect_right(places, number)
        if first < last:
            adjust_hue(images[first:last], plan.turns[first:last])
        if number == 3:
            return images
        first, offset, matrix = last, offsets[:, number, None, None], matrices[:, number]
        pixels, result = images.flatten(2), other.flatten(2)  # (B, 3, H W)
        if pulled[number]:
            grey = rgb_to_grayscale(pixels.mean(-1, keepdim=True))  # (B, 1, 1)
            offset = torch.addcmul(offset, pulls[:, number, None, None], grey)
        if pulled[number] or moved[number]:
            torch.baddbmm(offset, matrix, pixels, out=result)
        else:
            torch.bmm(matrix, pixels, out=result)
        result.clamp_(0, 1)
        images, other = other, images


def solarize(images: torch.Tensor, threshold: float) -> torch.Tensor:
    """Inverts the values from the threshold on."""
    return torch.lerp(images, 1 - images, (images >= threshold).to(images.dtype))


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Turns square images about their centre, counterclockwise, bilinearly; what comes in is black."""
    angle = torch.deg2rad(degrees.double())
    zero = torch.zeros_like(angle)
    matrix = torch.stack(
        [torch.stack([angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), angle.cos(), zero], 1)], 1
    )
    return _affine(images, matrix)


def translate(images: torch.Tensor, right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Moves images by a number of pixels, whole or not, bilinearly; what comes in is black."""
    height, width = images.shape[-2:]
    one, zero = torch.ones_like(right.double()), torch.zeros_like(right.double())
    # grid_sample's coordinates run from -1 to 1 and say where each output pixel comes from
    matrix = torch.stack(
        [torch.stack([one, zero, -2 * right / width], 1), torch.stack([zero, one, -2 * down / height], 1)], 1
    )
    return _affine(images, matrix)


def _affine(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def quarter_turns(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turns square images counterclockwise by `turns` quarters, int64 (B,) on the CPU, 0 to 3."""
    turned = images.clone()
    for quarters in (1, 2, 3):
        chosen = (turns == quarters).nonzero().flatten().to(images.device)
        if len(chosen):
            turned[chosen] = images[chosen].rot90(quarters, (-2, -1))
    return turned


def cutout(images: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Covers a box of each image with a colour.

    Args:
        boxes: (B, 4) integers: top, left, height, width; parts outside the image are cut off.
        fill: (3,) the colour.
    """
    top, left, height, width = boxes.to(images.device)[:, :, None].unbind(1)  # (B, 1) each
    row = torch.arange(images.shape[-2], device=images.device)
    column = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (row >= top) & (row < top + height), (column >= left) & (column < left + width)
    inside = (rows[:, :, None] & columns[:, None]).to(images.dtype)[:, None]  # (B, 1, H, W)
    return torch.lerp(images, fill.to(images)[:, None, None], inside)


def noise(images: torch.Tensor, seeds: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Adds Gaussian noise of its own to each value of each image.

    Args:
        seeds: int64 (B,): the noise is a hash of the seed and the position, the same on any device and in any batch.
        deviation: (B,), standard deviation of the noise.
    """
    position = torch.arange(images[0].numel(), device=images.device)
    bits = _mix(_mix(seeds.to(images.device))[:, None] + position)  # (B, 3 H W)
    uniform = ((bits >> 24) & 0x7FFFFF).to(images.dtype).add_(0.5).mul_(2.0**-22).sub_(1)  # inside (-1, 1)
    normal = torch.erfinv(uniform).mul_(2**0.5).view(images.shape)
    return normal.mul_(deviation.to(images)[:, None, None, None]).add_(images).clamp_(0, 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """A hash of int64 values, elementwise: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * factor  # >> keeps the sign, so it is cut off
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def sobel(images: torch.Tensor) -> torch.Tensor:
    """The edge image: the size of the Sobel gradient of the grayscale, on three equal channels.

    In units of the grey value's change over two pixels, cut off at 1; the border is repeated.
    """
    grey = F.pad(rgb_to_grayscale(images), (1, 1, 1, 1), mode="replicate")
    smooth_rows = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
    smooth_columns = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    across = smooth_rows[..., 2:] - smooth_rows[..., :-2]
    down = smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]
    return (torch.hypot(across, down) / 4).clamp_(max=1).expand(-1, 3, -1, -1)
