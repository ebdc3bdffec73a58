"""Which pixels of an image colorization looks at while it is trained, and what is known of an image set's colours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageDataset
from hfssl.data.masking import uniform
from hfssl.errors import InputError
from hfssl.models.color import cell_shares, rgb_to_lab

logger = logging.getLogger(__name__)

_STREAM = 4000
LOOKED_AT = 1000  # images, of which the colours are known
GREY = 4  # of 255: the largest difference of an image's channels up to which it counts as grey


@dataclass
class PointArguments:
    """How many pixels of each image are looked at."""

    color_points: int = field(
        default=128, metadata={"help": "Pixels of an image in a step, drawn anew each time (Larsson: 128); 0: all."}
    )
    color_margin: int = field(
        default=0, metadata={"help": "None of them is so near to the border, in pixels (Larsson: 96 of 352)."}
    )

    def __post_init__(self):
        if self.color_points < 0 or self.color_margin < 0:
            raise InputError("color_points and color_margin must not be negative")


class PointCollator:
    """Adds to a batch of one view each "points", (B, P): the numbers of the pixels to look at, row by row.

    The draws are a hash of (seed, epoch, sample), as those of the views; the same pixel may come twice.

    Args:
        views: makes the views.
        image_size: side of a view in pixels.
        args: how many, and how far from the border; with 0 points there is no "points", and all count.

    Raises:
        InputError: the border leaves nothing.
    """

    def __init__(self, views: TwoViewCollator, image_size: int, args: PointArguments, seed: int = 0):
        self.views, self.size, self.args, self.seed = views, image_size, args, seed
        if 2 * args.color_margin >= image_size:
            raise InputError(f"--color_margin {args.color_margin} leaves nothing of {image_size} pixels")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the batch, as plain values."""
        return self.views.identity | vars(self.args)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.views(items)
        if not self.args.color_points:
            return batch
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        draws = uniform(self.seed, epochs, indices, 2 * self.args.color_points, _STREAM).reshape(len(items), 2, -1)
        margin = self.args.color_margin
        places = margin + np.floor(draws * (self.size - 2 * margin)).astype(np.int64)
        return batch | {"points": torch.from_numpy(places[:, 0] * self.size + places[:, 1])}

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Makes the views of resident images (`TwoViewCollator.on_device`)."""
        return self.views.on_device(batch) | {name: batch[name] for name in ("points",) if name in batch}


class Colors(NamedTuple):
    """grey: how many of the `looked_at` images are grey. frequencies: (313,), of the cells of (a, b): `cell_shares`."""

    grey: int
    looked_at: int
    frequencies: torch.Tensor


def look_at_colors(images: ImageDataset, pixels: int = 256) -> Colors:
    """The colours of up to `LOOKED_AT` images, evenly from all of them, by some pixels of each.

    Says how many of them are grey, which teach nothing.

    Raises:
        InputError: all of them are grey.
    """
    count = min(LOOKED_AT, len(images))
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    random = torch.Generator().manual_seed(0)
    grey, drawn = 0, []
    for index in chosen:
        image = images[int(index)]["image"].flatten(1)  # (3, H W)
        grey += int((image.amax(0) - image.amin(0)).max() <= GREY)
        drawn.append(image[:, torch.randint(image.shape[1], (pixels,), generator=random)])
    if grey == count:
        raise InputError(
            f"all of the {count:,} images looked at ({images.source}) are grey: they have no colour to learn"
        )
    if grey:
        logger.warning("%d of the %d images looked at are grey and teach no colour", grey, count)
    rgb = torch.stack(drawn).float().div(255).transpose(0, 1).flatten(1)[:, None]  # (3, 1, N)
    return Colors(grey, count, cell_shares(rgb_to_lab(rgb)[1:, 0].T))
