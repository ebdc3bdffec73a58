import pytest
import torch

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.patch_colors import PatchArguments, PatchColorCollator
from hfssl.errors import InputError


def batch(indices, probability=0.8, seed=0, epoch=0, views=1):
    images = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = TwoViewCollator(Augmentation(8, augmentations=["flip"]), views=views)
    collate = PatchColorCollator(views, 7, probability, seed)
    return collate([{"image": images[i], "index": i, "epoch": epoch} for i in indices])


def test_the_share_and_the_three_channels():
    made = batch(range(300))
    assert made["pixel_values"].shape == (300, 1, 3, 8, 8)
    channels = made["patch_channels"]
    assert channels.shape == (300, 1, 7, 7)
    counts = torch.bincount(channels.flatten() + 1, minlength=4) / channels.numel()
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.8 / 3, 0.8 / 3, 0.8 / 3]), rtol=0, atol=0.015)
    assert (batch(range(9), 0.0)["patch_channels"] == -1).all() and (batch(range(9), 1.0)["patch_channels"] >= 0).all()
    patches = channels[:, 0].flatten(1).double()
    assert (torch.corrcoef(patches.T) - torch.eye(49)).abs().max() < 0.3  # each patch by itself


def test_they_follow_from_seed_epoch_sample_and_view_alone():
    channels = batch([3, 4], views=2)["patch_channels"]
    assert torch.equal(channels, batch([9, 4, 3], views=2)["patch_channels"][[2, 1]])
    assert not torch.equal(channels[:, 0], channels[:, 1])
    for other in (batch([3, 4], seed=1), batch([3, 4], epoch=1)):
        assert not torch.equal(channels[:, :1], other["patch_channels"])


def test_the_setting_belongs_to_the_run_and_is_a_share():
    views = TwoViewCollator(Augmentation(8))
    assert PatchColorCollator(views, 7, 0.5).identity == views.identity | {"patch_color_drop": 0.5}
    with pytest.raises(InputError, match="patch_color_drop must lie in"):
        PatchArguments(patch_color_drop=1.5)


def test_resident_images_give_the_same_batch():
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = []
    for resident in (None, images):
        views = TwoViewCollator(Augmentation(8, augmentations=["flip"]), views=2, resident=resident)
        collate = PatchColorCollator(views, 7, 0.8)
        items = [{"index": i, "epoch": 1} | ({"image": images[i]} if resident is None else {}) for i in (3, 7)]
        batch = collate(items)
        made.append(batch if resident is None else collate.on_device(batch))
    assert made[0].keys() == made[1].keys() == {"pixel_values", "patch_channels"}
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
