"""Colour dropping of image CPC (Hénaff et al. 2019): a patch keeps one colour channel, so that colour alone cannot tell
which patch follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hfssl.data.collators import TwoViewCollator
from hfssl.data.masking import uniform
from hfssl.errors import InputError

_STREAM = 3000  # the draws of view v come from stream _STREAM + v


@dataclass
class PatchArguments:
    """What is done to single patches."""

    patch_color_drop: float = field(
        default=0.0, metadata={"help": "Image CPC: share of the patches that keep one of their three colour channels."}
    )

    def __post_init__(self):
        if not 0 <= self.patch_color_drop <= 1:
            raise InputError(f"patch_color_drop must lie in [0, 1], not {self.patch_color_drop}")


class PatchColorCollator:
    """Adds to a batch of views "patch_channels", (B, V, rows, columns): which channel each patch keeps, -1 for all.

    Args:
        views: makes the views.
        grid_size: rows and columns of the patches.
        probability: share of the patches that keep one channel, each of the three as often.
        seed: of the draws.
    """

    def __init__(self, views: TwoViewCollator, grid_size: int, probability: float, seed: int = 0):
        self.views, self.grid_size, self.probability, self.seed = views, grid_size, probability, seed

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the views, as plain values."""
        return self.views.identity | {"patch_color_drop": self.probability}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.views(items)
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        side, channels = self.grid_size, []
        for view in range(len(self.views.augmentations)):
            draws = uniform(self.seed, epochs, indices, 2 * side * side, _STREAM + view).reshape(-1, 2, side, side)
            channels.append(np.where(draws[:, 0] < self.probability, (3 * draws[:, 1]).astype(np.int64), -1))
        return batch | {"patch_channels": torch.from_numpy(np.stack(channels, 1))}

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Makes the views of resident images (`TwoViewCollator.on_device`)."""
        return self.views.on_device(batch) | {"patch_channels": batch["patch_channels"]}
