"""What makes a batch out of images: two augmented views, or the one view of evaluation.

The draws of a view are a hash of (seed, epoch, sample, view). There is no generator whose state could be lost, so
the same seed gives the same views with any number of workers or processes, in any batch, and after a resume. The
training data loader (`hfssl.data.sampling`) puts the sample's "index" and "epoch" into each item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hfssl.data.augmentation import IMAGENET_MEAN, IMAGENET_STD, Augmentation, eval_view
from hfssl.data.masking import uniform

_STREAM = 1000  # the draws of view v come from stream _STREAM + v: apart from those of masking


class TwoViewCollator:
    """Items {"image", "index", "epoch"} become {"pixel_values": (B, views, 3, S, S)}.

    Args:
        augmentation: makes one view of each image.
        seed: of the draws.
        views: how many views of each image; SimCLR takes two.

    An item's "index" says which sample it is, its "epoch" (0 if absent, as in evaluation) which pass over the data:
    without it every pass would show the same two views.
    """

    def __init__(self, augmentation: Augmentation, seed: int = 0, views: int = 2):
        self.augmentation, self.seed, self.views = augmentation, seed, views

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the views, as plain values."""
        return vars(self.augmentation.settings) | {"seed": self.seed, "views": self.views}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = stack_images([item["image"] for item in items])
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        size = self.augmentation.image_size
        pixels = torch.empty(len(images), self.views, 3, size, size)
        for view in range(self.views):
            draws = uniform(self.seed, epochs, indices, self.augmentation.draws, _STREAM + view)
            self.augmentation(images, draws=torch.from_numpy(draws), out=pixels[:, view])
        return {"pixel_values": pixels}


class EvalCollator:
    """Items {"image", "label"?} become {"pixel_values": (B, 3, S, S), "labels": (B,)?}, without chance.

    Args: as `eval_view`'s.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop_ratio: float = 1.0,
    ):
        self.image_size, self.mean, self.std, self.crop_ratio = image_size, tuple(mean), tuple(std), crop_ratio

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = stack_images([item["image"] for item in items])
        batch = {"pixel_values": eval_view(images, self.image_size, self.mean, self.std, self.crop_ratio)}
        if all("label" in item for item in items):
            batch["labels"] = torch.tensor([int(item["label"]) for item in items])
        return batch


def stack_images(images: Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """One tensor (B, 3, H, W) if the images are of one size, else the list."""
    return torch.stack(list(images)) if len({image.shape for image in images}) == 1 else list(images)
