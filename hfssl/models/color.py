"""Colour spaces of tensors, histograms of colours, and how both are turned back into colour.

Lab is CIE's of 1976 with the white point D65, L in [0, 100]; HCL is Larsson et al. 2016 ("Learning Representations for
Automatic Colorization", section 4): lightness is the mean of the largest and the smallest channel, chroma their
difference, both in [0, 1], and the hue in [0, 1) goes once around. Images are (..., 3, H, W), RGB in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# Linear sRGB to XYZ (IEC 61966-2-1), each row over the white point's coordinate.
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_TO_XYZ = [[value / white for value in row] for row, white in zip(_XYZ, _WHITE, strict=True)]
_FROM_XYZ = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64, device="cpu")).tolist()
_BEND = 6 / 29  # of the cube root, where it becomes a line
_HALVINGS = 18  # of the chroma's scale in `into_gamut`: to 4e-6

# Zhang et al. 2016 ("Colorful Image Colorization", section 2.1): the 313 cells of side 10 of the plane (a, b) that the
# colours of a screen reach: for a = -90, -80, ..., 100 the first and the last b, as their code has them.
_CELLS = (
    (50, 90), (20, 90), (0, 90), (-20, 90), (-30, 100), (-40, 100), (-50, 100), (-50, 100), (-60, 100), (-70, 100),
    (-80, 90), (-80, 90), (-90, 90), (-100, 90), (-100, 80), (-110, 80), (-110, 80), (-110, 70), (-110, 70), (-90, 0),
)  # fmt: skip
CELL = 10.0
NUM_CELLS = 313


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB (..., 3, H, W) in [0, 1] as L in [0, 100], a and b."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    x, y, z = _bent(_mixed(_TO_XYZ, linear)).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def _mixed(matrix: list[list[float]], channels: torch.Tensor) -> torch.Tensor:
    """A matrix times the channels (..., 3, H, W). Not by a product of matrices, which autocast would do in 16 bits."""
    first, second, third = channels.unbind(-3)
    return torch.stack([a * first + b * second + c * third for a, b, c in matrix], -3)


def _bent(t: torch.Tensor) -> torch.Tensor:
    line = t / (3 * _BEND**2) + 4 / 29
    return torch.where(t > _BEND**3, t.clamp(min=_BEND**3) ** (1 / 3), line)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Lab (..., 3, H, W) as sRGB; outside of [0, 1] where a screen has no such colour (`into_gamut`)."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    bent = torch.stack([y + a / 500, y, y - b / 200], -3)
    xyz = torch.where(bent > _BEND, bent**3, 3 * _BEND**2 * (bent - 4 / 29))
    linear = _mixed(_FROM_XYZ, xyz)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def into_gamut(lab: torch.Tensor) -> torch.Tensor:
    """Lab (..., 3, H, W) with (a, b) of each pixel shrunk, in their direction, as little as a screen needs.

    L stays as it is, bit for bit.
    """
    lightness, ab = lab[..., :1, :, :], lab[..., 1:, :, :]

    def fits(scale: torch.Tensor) -> torch.Tensor:
        rgb = lab_to_rgb(torch.cat([lightness, scale * ab], -3))
        return ((rgb >= -1e-4) & (rgb <= 1 + 1e-4)).all(-3, keepdim=True)

    low, high = torch.zeros_like(lightness), torch.ones_like(lightness)
    whole = fits(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = fits(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.cat([lightness, torch.where(whole, 1.0, low) * ab], -3)


def rgb_to_hcl(rgb: torch.Tensor) -> torch.Tensor:
    """RGB (..., 3, H, W) as hue, chroma and lightness; the hue of grey is 0."""
    red, green, blue = rgb.unbind(-3)
    most, least = rgb.amax(-3), rgb.amin(-3)
    chroma = most - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    from_green, from_blue = (blue - red) / safe + 2, (red - green) / safe + 4
    sixth = torch.where(most == red, ((green - blue) / safe) % 6, torch.where(most == green, from_green, from_blue))
    return torch.stack([(sixth / 6) % 1, chroma, (most + least) / 2], -3)


def hcl_to_rgb(hcl: torch.Tensor) -> torch.Tensor:
    """Hue (any turn), chroma and lightness (..., 3, H, W) as RGB; more chroma than the lightness allows is left out."""
    hue, chroma, lightness = hcl.unbind(-3)
    chroma = torch.minimum(chroma.clamp(min=0), 1 - (2 * lightness - 1).abs())
    # Each channel is a trapezium of the hue, a third of a turn from the next one.
    turns = torch.stack([hue, hue - 1 / 3, hue + 1 / 3], -3) % 1
    height = ((6 * turns - 3).abs() - 1).clamp(0, 1)  # red is full from -1/6 to 1/6
    return ((lightness - chroma / 2).unsqueeze(-3) + chroma.unsqueeze(-3) * height).clamp(0, 1)


def to_vector(hue: torch.Tensor, chroma: torch.Tensor) -> torch.Tensor:
    """Hue and chroma (..., H, W) as a point of the plane (..., 2, H, W), in which colours may be averaged."""
    angle = 2 * math.pi * hue
    return torch.stack([chroma * angle.cos(), chroma * angle.sin()], -3)


def from_vector(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hue in [0, 1) and chroma of `to_vector`'s points."""
    x, y = vector.unbind(-3)
    return (torch.atan2(y, x) / (2 * math.pi)) % 1, torch.hypot(x, y)


def window_histogram(
    bins: torch.Tensor, num_bins: int, window: int = 7, points: torch.Tensor | None = None
) -> torch.Tensor:
    """What share of the window around a pixel lies in each bin (Larsson et al. 2016, section 4; 7 x 7 in their code).

    At the border the window is what lies inside of the image.

    Args:
        bins: integers (B, H, W) in [0, num_bins).
        points: (B, P) numbers of pixels, row by row; by default all.

    Returns:
        (B, P, num_bins), rows that sum to 1.
    """
    batch, height, width = bins.shape
    if points is None:
        points = torch.arange(height * width, device=bins.device).expand(batch, -1)
    reach = torch.arange(window, device=bins.device) - window // 2
    rows = (points // width)[..., None, None] + reach[:, None]  # (B, P, window, 1)
    columns = (points % width)[..., None, None] + reach
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    found = bins.flatten(1).gather(1, places.flatten(1)).view(*points.shape, -1)
    counts = torch.zeros(*points.shape, num_bins, device=bins.device)
    counts.scatter_add_(2, found, inside.flatten(2).to(counts.dtype))
    return counts / counts.sum(2, keepdim=True)


def hue_bins(hue: torch.Tensor, num_bins: int) -> torch.Tensor:
    """The bin of each hue, any turn: bin k is from k / num_bins on."""
    return (hue % 1 * num_bins).long() % num_bins


def chroma_bins(chroma: torch.Tensor, num_bins: int) -> torch.Tensor:
    """The bin of each chroma in [0, 1]; 1 itself is in the last."""
    return (chroma * num_bins).long().clamp(0, num_bins - 1)


def hue_of(shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean direction of hue histograms (..., K), and how sure it is.

    Returns:
        hue (...) in [0, 1), and the length of the mean of their directions, in [0, 1]: 0 if all hues are alike.
    """
    size = shares.shape[-1]
    angles = 2 * math.pi * (torch.arange(size, device=shares.device) + 0.5) / size
    x, y = (shares * angles.cos()).sum(-1), (shares * angles.sin()).sum(-1)
    return (torch.atan2(y, x) / (2 * math.pi)) % 1, torch.hypot(x, y)


def chroma_of(shares: torch.Tensor, statistic: str = "median") -> torch.Tensor:
    """The median or the mean ("expectation") of chroma histograms (..., K), in [0, 1]: bins count as spread evenly."""
    size = shares.shape[-1]
    if statistic == "expectation":
        return (shares * (torch.arange(size, device=shares.device) + 0.5)).sum(-1) / size
    upto = shares.cumsum(-1)
    place = (upto < 0.5).sum(-1, keepdim=True).clamp(max=size - 1)
    inside = shares.gather(-1, place)
    before = upto.gather(-1, place) - inside
    return ((place + ((0.5 - before) / inside.clamp(min=1e-12)).clamp(0, 1)) / size).squeeze(-1)


def ab_cells(device: torch.device | str = "cpu") -> torch.Tensor:
    """The 313 centres (a, b) of the cells of the plane that a screen's colours reach, (313, 2)."""
    columns = zip(range(-90, 101, 10), _CELLS, strict=True)
    centres = [(a, b) for a, (low, high) in columns for b in range(low, high + 1, 10)]
    return torch.tensor(centres, dtype=torch.float32, device=device)


def soft_cells(ab: torch.Tensor, neighbours: int = 5, sigma: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours as shares of their nearest cells, by a Gaussian of the distance (Zhang et al. 2016, section 2.1).

    Args:
        ab: (N, 2).

    Returns:
        cells (N, neighbours), the nearest first, and their shares, which sum to 1.
    """
    with torch.autocast(ab.device.type, enabled=False):
        near = torch.cdist(ab, ab_cells(ab.device).to(ab.dtype)).topk(neighbours, largest=False)
    return near.indices, F.softmax(-(near.values**2) / (2 * sigma**2), dim=-1)


def cell_shares(ab: torch.Tensor) -> torch.Tensor:
    """How often each cell comes among colours (N, 2), each counted by its shares of cells: (313,), sums to 1."""
    cells, shares = soft_cells(ab)
    counts = torch.zeros(NUM_CELLS, dtype=torch.float64, device=ab.device)
    return counts.scatter_add_(0, cells.flatten(), shares.flatten().double()) / max(len(ab), 1)


def rebalancing(frequencies: torch.Tensor, mix: float = 0.5) -> torch.Tensor:
    """Weights of the cells that make rare colours count more (Zhang et al. 2016, equation 4).

    Args:
        frequencies: of the cells in the training images (Q,), sums to 1 (`cell_shares`).
        mix: lambda, the share of the uniform distribution that is mixed in; 1 gives every cell the weight 1.

    Returns:
        (Q,), whose mean under the frequencies is 1.
    """
    weights = 1 / ((1 - mix) * frequencies + mix / len(frequencies))
    return weights / (frequencies * weights).sum()


def annealed_mean(logits: torch.Tensor, temperature: float = 0.38) -> torch.Tensor:
    """The colour of a distribution over cells (..., 313): its mean after sharpening (Zhang et al. 2016, equation 5).

    Args:
        temperature: 1 is the mean, which is dull; near 0 it is the most likely cell.

    Returns:
        (..., 2), (a, b).
    """
    with torch.autocast(logits.device.type, enabled=False):
        shares = F.softmax(logits.float() / temperature, dim=-1)
        return shares @ ab_cells(logits.device)
