"""Image operations on batches, each image with parameters of its own.

Images are float, (B, 3, H, W), in [0, 1]; parameters are tensors (B,). Each operation gives what torchvision's
functional of the same name gives for one float image with the same parameter (tests/data/test_augmentation.py states
the tolerances).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_SMALL = 64  # up to this side a crop is two small matrix products; beyond it, one interpolation an image


def crop_and_resize(images: torch.Tensor | list[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts a box out of each image and resizes it to a square, bilinearly with antialiasing (torchvision's
    resized_crop).

    Args:
        images: uint8 (B, 3, H, W), or B tensors uint8 (3, H, W) of any sizes.
        boxes: (B, 4) integers: top, left, height, width.
        size: side of the result in pixels.

    Returns:
        float32 (B, 3, size, size) in [0, 1].
    """
    if isinstance(images, torch.Tensor) and max(images.shape[-2:]) <= _SMALL:
        boxes = boxes.to(images.device)
        rows = _resize_matrix(boxes[:, 0], boxes[:, 2], images.shape[-2], size)  # (B, S, H)
        columns = _resize_matrix(boxes[:, 1], boxes[:, 3], images.shape[-1], size)  # (B, S, W)
        pixels = images.float().div_(255)
        return rows[:, None] @ pixels @ columns.mT[:, None]  # (B, 3, S, S)
    return torch.stack(
        [
            resize(image[:, top : top + height, left : left + width], (size, size))
            for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
        ]
    )


def _resize_matrix(start: torch.Tensor, length: torch.Tensor, extent: int, size: int) -> torch.Tensor:
    """(B, size, extent): the weights by which the pixels of a row make the resized crop [start, start + length)."""
    start, length = start.double()[:, None, None], length.double()[:, None, None]
    scale = length / size
    support = scale.clamp(min=1)  # the triangle widens where the image shrinks: that is the antialiasing
    centre = start + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(extent, device=start.device)[None, None, :] + 0.5
    weights = (1 - (pixel - centre).abs() / support).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return (weights / weights.sum(-1, keepdim=True)).float()


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (..., 3, H, W) -> float32 (..., 3, *size) in [0, 1], bilinear with antialiasing."""
    batch = image[None] if image.ndim == 3 else image
    pixels = batch.float().div_(255)
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return pixels[0] if image.ndim == 3 else pixels


def normalize(images: torch.Tensor, mean, std) -> torch.Tensor:
    """(images - mean) / std, one mean and one standard deviation a channel."""
    mean = torch.as_tensor(mean, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.as_tensor(std, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - mean) / std


def _each(parameter: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1) in the images' precision."""
    return parameter.to(images)[:, None, None, None]


def rgb_to_grayscale(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), the luma of ITU-R BT.601."""
    red, green, blue = images.unbind(-3)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def _blend(images: torch.Tensor, other: torch.Tensor | float, factor: torch.Tensor) -> torch.Tensor:
    factor = _each(factor, images)
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiplies by factor >= 0, as torchvision and SimCLR v2; SimCLR v1 added."""
    return (images * _each(factor, images)).clamp_(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blends with the mean of the image's grayscale; factor 0 is that grey, 1 the image."""
    return _blend(images, rgb_to_grayscale(images).mean((-3, -2, -1), keepdim=True), factor)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blends with the image's grayscale; factor 0 is grayscale, 1 the image."""
    return _blend(images, rgb_to_grayscale(images), factor)


def adjust_hue(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Turns the hue by factor, in turns of the colour circle, from -0.5 to 0.5."""
    red, green, blue = images.unbind(-3)
    value, low = images.amax(-3), images.amin(-3)
    chroma = value - low
    safe = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(  # in sixths of a turn; where two channels tie, both expressions agree
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * factor.to(images)[:, None, None]
    # Channel n of HSV's inverse, value - chroma * max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6, n = 5, 3, 1.
    channels = []
    for offset in (5, 3, 1):
        k = (hue + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, -3)


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Blurs with standard deviation sigma in pixels, cut off at an odd kernel size; the border is mirrored."""
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.to(images)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # (B, K)
    padded = F.pad(images, (half,) * 4, mode="reflect")
    height, width = images.shape[-2:]
    # A sum of shifted copies, one a tap: on the CPU faster than a convolution with a kernel for each image.
    taps = [kernel[:, i, None, None, None] for i in range(kernel_size)]
    across = sum(tap * padded[..., i : i + width] for i, tap in enumerate(taps))
    return sum(tap * across[..., i : i + height, :] for i, tap in enumerate(taps))


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


def cutout(images: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Covers a box of each image with a colour.

    Args:
        boxes: (B, 4) integers: top, left, height, width; parts outside the image are cut off.
        fill: (3,) the colour.
    """
    top, left, height, width = boxes.to(images.device)[:, :, None, None].unbind(1)  # (B, 1, 1) each
    row = torch.arange(images.shape[-2], device=images.device)[None, :, None]
    column = torch.arange(images.shape[-1], device=images.device)[None, None, :]
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)  # (B, H, W)
    return torch.where(inside[:, None], fill.to(images)[:, None, None], images)


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
