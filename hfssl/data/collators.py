"""What makes a batch out of images: augmented views, or the one view of evaluation.

The draws of a view are a hash of (seed, epoch, sample, view). There is no generator whose state could be lost, so
the same seed gives the same views with any number of workers or processes, in any batch, and after a resume. The
training data loader (`hfssl.data.sampling`) puts the sample's "index" and "epoch" into each item.

Images that are resident on the device (`hfssl.data.images.ResidentImages`) are not loaded: their items are numbers, and
the trainer lets the collator make the views where the images lie (`on_device`), from the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hfssl.data.augmentation import IMAGENET_MEAN, IMAGENET_STD, Augmentation, eval_view
from hfssl.data.images import ImageDataset
from hfssl.data.masking import uniform
from hfssl.errors import InputError

_STREAM = 1000  # the draws of view v come from stream _STREAM + v: apart from those of masking


class TwoViewCollator:
    """Items {"image", "index", "epoch"} become {"pixel_values": (B, views, 3, S, S)}.

    Args:
        augmentation: makes one view of each image; or several, one a view, where the views differ in kind.
        seed: of the draws.
        views: how many views of each image; SimCLR takes two.
        resident: all images, uint8 (N, 3, H, W), where they lie; items then need no image.
        shared_draws: all views of an image have the same draws, so that two augmentations that begin alike make views
            that begin alike.

    An item's "index" says which sample it is, its "epoch" (0 if absent, as in evaluation) which pass over the data:
    without it every pass would show the same two views.
    """

    def __init__(
        self,
        augmentation: Augmentation | Sequence[Augmentation],
        seed: int = 0,
        views: int = 2,
        resident: torch.Tensor | None = None,
        shared_draws: bool = False,
    ):
        one = isinstance(augmentation, Augmentation)
        self.augmentations = [augmentation] * views if one else list(augmentation)
        self.seed, self.resident, self.shared_draws = seed, resident, shared_draws

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the views, as plain values."""
        settings = [augmentation.identity for augmentation in self.augmentations]
        if any(each != settings[0] for each in settings) or self.shared_draws:
            settings = {f"view {number}": each for number, each in enumerate(settings, 1)}
            return settings | {"seed": self.seed, "shared_draws": self.shared_draws}
        return settings[0] | {"seed": self.seed, "views": len(self.augmentations)}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        if self.resident is not None:
            return {"index": indices, "epoch": epochs}
        return self.views(stack_images([item["image"] for item in items]), indices, epochs)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Makes the views of resident images; any other batch stays as it is."""
        if self.resident is None:
            return batch
        index = torch.from_numpy(batch["index"]).to(self.resident.device, non_blocking=True)
        return self.views(self.resident[index], batch["index"], batch["epoch"])

    def views(self, images: Any, indices: np.ndarray, epochs: np.ndarray) -> dict[str, torch.Tensor]:
        """The batch, on the images' device."""
        streams = [0 if self.shared_draws else view for view in range(len(self.augmentations))]
        return {"pixel_values": self._make(self.augmentations, streams, images, indices, epochs)}

    def _make(self, augmentations, streams, images, indices, epochs) -> torch.Tensor:
        """(B, views, 3, S, S), one view an augmentation."""
        size = augmentations[0].image_size
        views = torch.empty(len(images), len(augmentations), 3, size, size, device=images[0].device)
        for view, (augmentation, stream) in enumerate(zip(augmentations, streams, strict=True)):
            draws = uniform(self.seed, epochs, indices, augmentation.draws, _STREAM + stream)
            augmentation(images, draws=torch.from_numpy(draws), out=views[:, view])
        return views


class MultiCropCollator(TwoViewCollator):
    """Few large and many small views of each image (SwAV, Caron et al. 2020, section 3.3).

    Items become {"pixel_values": (B, large, 3, S, S), "local_pixel_values": (B, small, 3, s, s)}. A model takes them as
    `forward(pixel_values, local_pixel_values)`: the views of one size are one batch (`flatten(0, 1)`), so that each
    size is one pass of the encoder, and features of both are joined along the axis of the views, large ones first. The
    large views are those of a `TwoViewCollator` with the same seed.

    Args:
        large, small: make one view each. SwAV's are 224 pixels with `min_crop=0.14`, and 96 pixels with
            `min_crop=0.05, max_crop=0.14`.
        seed: of the draws.
        large_views, small_views: how many of each; SwAV has 2 and 6.
        resident: as `TwoViewCollator`'s.

    Example:
        >>> large = Augmentation(224, min_crop=0.14)
        >>> collator = MultiCropCollator(large, Augmentation(96, min_crop=0.05, max_crop=0.14))
    """

    def __init__(
        self,
        large: Augmentation,
        small: Augmentation,
        seed: int = 0,
        large_views: int = 2,
        small_views: int = 6,
        resident: torch.Tensor | None = None,
    ):
        super().__init__(large, seed, large_views, resident)
        self.small = [small] * small_views

    @property
    def identity(self) -> dict[str, Any]:
        small = self.small[0].identity | {"views": len(self.small), "size": self.small[0].image_size}
        return super().identity | {"small": small}

    def views(self, images: Any, indices: np.ndarray, epochs: np.ndarray) -> dict[str, torch.Tensor]:
        streams = range(len(self.augmentations), len(self.augmentations) + len(self.small))
        small = self._make(self.small, streams, images, indices, epochs)
        return super().views(images, indices, epochs) | {"local_pixel_values": small}


class LabelledCollator:
    """What another collator makes of items that have a "label", and {"labels": (B,)}: for a supervised loss.

    Args:
        collator: the other, with an `identity`.
        dataset: whose items they will be; asked for its `labels`.

    Raises:
        InputError: the data has no labels.
    """

    def __init__(self, collator: TwoViewCollator, dataset: ImageDataset):
        if dataset.labels is None:
            raise InputError(
                f"a supervised loss needs labels, and {dataset.source} has none; --label_column names them"
            )
        if dataset.labels.min() < 0:
            raise InputError(f"{dataset.source} has the label {dataset.labels.min()}: some images are unlabelled")
        self.collator = collator

    @property
    def identity(self) -> dict[str, Any]:
        """The other's, and that there are labels."""
        return self.collator.identity | {"labels": True}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.collator(items) | {"labels": torch.tensor([int(item["label"]) for item in items])}

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.collator.on_device(batch) | {"labels": batch["labels"]}


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
