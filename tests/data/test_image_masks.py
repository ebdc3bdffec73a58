import numpy as np
import pytest
import torch

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.image_masks import MaskCollator, make_masks, mask_draws
from hfssl.errors import InputError


@pytest.mark.parametrize("kind", ["center", "block", "free"])
@pytest.mark.parametrize("size", [32, 128])
def test_a_quarter_of_the_image_is_hidden(kind, size):
    draws = torch.rand(200, mask_draws(kind), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = make_masks(kind, size, draws)
    assert masks.shape == (200, 1, size, size) and masks.dtype == torch.bool
    shares = masks.float().mean((1, 2, 3))
    assert abs(float(shares.mean()) - 0.25) < 0.02 and shares.min() > 0.15 and shares.max() < 0.35
    if kind != "center":
        assert len({mask.numpy().tobytes() for mask in masks}) == 200
        per_pixel = masks.float().mean((0, 1))
        assert per_pixel.max() < 0.5, "no place is always hidden"
    assert torch.equal(make_masks(kind, size, draws[:3]), masks[:3]), "a mask depends on its own draws alone"


def test_blocks_are_unions_of_squares():
    draws = torch.rand(50, mask_draws("block"), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mask in make_masks("block", 48, draws)[:, 0]:
        steps = np.abs(np.diff(np.pad(mask.numpy().astype(int), 1), axis=1)).sum()
        assert steps <= 2 * 10 * 16  # at most ten squares of a third of the side have so many ends of rows


def test_masks_are_those_of_the_sample_in_any_batch_and_epoch():
    views = TwoViewCollator(Augmentation(32, augmentations=["crop"]), seed=3, views=1)
    collator = MaskCollator(views, "free", 32, seed=3)
    items = [{"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "index": i, "epoch": 1} for i in range(5)]
    batch = collator(items)
    assert batch["pixel_values"].shape == (5, 1, 3, 32, 32) and batch["mask"].shape == (5, 1, 32, 32)
    assert torch.equal(collator(items[2:4])["mask"], batch["mask"][2:4])
    other = collator([item | {"epoch": 2} for item in items])["mask"]
    assert not torch.equal(other, batch["mask"])
    pixels = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    resident = MaskCollator(TwoViewCollator(views.augmentations[0], 3, 1, resident=pixels), "free", 32, seed=3)
    on_device = resident.on_device(resident(items))
    assert set(on_device) == {"pixel_values", "mask"}
    assert all(torch.equal(on_device[name], batch[name]) for name in on_device)
    assert collator.identity["mask"] == "free"
    with pytest.raises(InputError, match="unknown mask 'round'"):
        MaskCollator(views, "round", 32)
