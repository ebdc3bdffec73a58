import pytest
import torch

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageDataset
from hfssl.data.pixel_points import PointArguments, PointCollator, look_at_colors
from hfssl.errors import InputError
from hfssl.models.color import ab_cells


def items(count=4, epoch=0):
    return [{"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "index": i, "epoch": epoch} for i in range(count)]


def collator(resident=None, **settings):
    views = TwoViewCollator(Augmentation(32, augmentations=["crop"]), seed=1, views=1, resident=resident)
    return PointCollator(views, 32, PointArguments(**settings), seed=1)


def test_points_are_those_of_the_sample_and_inside_of_the_margin():
    batch = collator(color_points=500, color_margin=5)(items())
    rows, columns = batch["points"] // 32, batch["points"] % 32
    for places in (rows, columns):
        assert places.min() == 5 and places.max() == 26
    again = collator(color_points=500, color_margin=5)
    assert torch.equal(again(items()[1:3])["points"], batch["points"][1:3])
    assert not torch.equal(again(items(epoch=1))["points"], batch["points"])
    resident = collator(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), color_points=500, color_margin=5)
    on_device = resident.on_device(resident(items()))
    assert set(on_device) == {"pixel_values", "points"} and torch.equal(on_device["points"], batch["points"])
    assert "points" not in collator(color_points=0)(items())


def test_a_margin_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="leaves nothing of 32 pixels"):
        collator(color_margin=16)
    with pytest.raises(InputError, match="must not be negative"):
        PointArguments(color_points=-1)


def test_grey_images_are_counted_and_refused_if_all_are(caplog):
    coloured = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    coloured[:, 0] = 200
    grey = torch.full((6, 3, 8, 8), 90, dtype=torch.uint8)
    caplog.set_level("WARNING", "hfssl")
    colors = look_at_colors(ImageDataset(torch.cat([coloured, grey[:2]])))
    assert (colors.grey, colors.looked_at) == (2, 8) and "2 of the 8 images" in caplog.text
    assert colors.frequencies.sum().item() == pytest.approx(1)
    most = ab_cells()[colors.frequencies.argmax()]
    assert most[0] > 50 and most[1] > 30, "red"
    with pytest.raises(InputError, match=r"all of the 6 images looked at .* are grey"):
        look_at_colors(ImageDataset(grey))
