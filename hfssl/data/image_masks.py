"""What is hidden of an image for inpainting: its middle, some squares, or a region of any form (Pathak et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hfssl.data.collators import TwoViewCollator
from hfssl.data.masking import uniform
from hfssl.errors import InputError
from hfssl.models.modeling_context_encoder import MASKS, central_mask

_STREAM = 5000
SHARE = 0.25  # of the image that is hidden (section 3.3)
_SQUARES = 10  # at most, of "block"
_CELLS = 8  # a side of the noise that "free" is made of: spots of about an eighth of the image


def mask_draws(kind: str) -> int:
    """How many uniform draws a mask takes."""
    return {"center": 0, "block": 3 * _SQUARES, "free": _CELLS**2}[kind]


def make_masks(kind: str, size: int, draws: torch.Tensor, overlap: int = 0) -> torch.Tensor:
    """One mask a row of draws, bool (B, 1, size, size), True is hidden.

    * "center": a square of half the side, less the overlap at each edge.
    * "block": squares of a sixth to a third of the side, which may overlap and be cut off at the border, as many
      as bring the hidden part nearest to a quarter of the image.
    * "free": the quarter of the image in which smooth noise is lowest. (The authors take a part of one large noise
      whose hidden part is between a fifth and three tenths, the same for all images of a batch.)

    Args:
        draws: (B, `mask_draws(kind)`) uniform in [0, 1).
    """
    if kind == "center":
        return central_mask(size, overlap).expand(len(draws), 1, -1, -1).clone()
    if kind == "block":
        side, top, left = draws.float().view(len(draws), 3, _SQUARES).unbind(1)
        side = (size / 6 + side * size / 6).round().clamp(min=1)
        # Their middles are anywhere in the image: what lies outside is cut off, and no place is hidden more often.
        top, left = ((place * size - side / 2).round() for place in (top, left))
        line = torch.arange(size)
        rows, columns = (
            (line >= start[..., None]) & (line < (start + side)[..., None]) for start in (top, left)
        )  # (B, K, size)
        covered = (rows[..., :, None] & columns[..., None, :]).cummax(1).values  # by the first k squares
        excess = (covered.float().mean((2, 3)) - SHARE).abs()
        return covered[torch.arange(len(draws)), excess.argmin(1)][:, None]
    noise = draws.float().view(-1, 1, _CELLS, _CELLS)
    smooth = F.interpolate(noise, (size, size), mode="bicubic", align_corners=False).flatten(1)
    hidden = round(SHARE * size * size)
    places = smooth.topk(hidden, dim=1, largest=False).indices
    mask = torch.zeros_like(smooth, dtype=torch.bool).scatter_(1, places, True)
    return mask.view(-1, 1, size, size)


class MaskCollator:
    """Adds to a batch of one view each "mask", (B, 1, S, S) bool: what is hidden of it.

    The draws are a hash of (seed, epoch, sample), as those of the views.

    Args:
        views: makes the views.
        kind: "center", "block" or "free".
        image_size: side of a view in pixels.
        overlap: of "center".
    """

    def __init__(self, views: TwoViewCollator, kind: str, image_size: int, overlap: int = 0, seed: int = 0):
        if kind not in MASKS:
            raise InputError(f"unknown mask {kind!r}: one of {', '.join(MASKS)}")
        self.views, self.kind, self.size, self.overlap, self.seed = views, kind, image_size, overlap, seed

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the batch, as plain values."""
        return self.views.identity | {"mask": self.kind}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        draws = torch.from_numpy(uniform(self.seed, epochs, indices, mask_draws(self.kind), _STREAM))
        return self.views(items) | {"mask": make_masks(self.kind, self.size, draws, self.overlap)}

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Makes the views of resident images (`TwoViewCollator.on_device`)."""
        return self.views.on_device(batch) | {"mask": batch["mask"]}
