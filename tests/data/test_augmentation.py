"""Views by name: what the draws become, and on what they depend."""

import pytest
import torch
from pictures import pictures
from torchvision.transforms import v2

from hfssl.data.augmentation import (
    CROP_DRAWS,
    OPERATIONS,
    Augmentation,
    AugmentationArguments,
    eval_view,
    fit,
    random_boxes,
)
from hfssl.errors import InputError

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def test_crop_boxes_have_torchvision_s_distribution():
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, CROP_DRAWS, generator=generator, dtype=torch.float64)
    height, width = 40, 64
    ours = random_boxes(draws, torch.full((4000,), height), torch.full((4000,), width)).double()
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(32)
    picture = torch.zeros(3, height, width)
    theirs = [crop.make_params([picture]) for _ in range(4000)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).double()
    assert (ours[:, 0] + ours[:, 2]).max() <= height and (ours[:, 1] + ours[:, 3]).max() <= width
    assert ours.min(0).values.tolist()[:2] == [0, 0] and ours[:, 2:].min() >= 1
    error = (ours.var(0) / 4000 + theirs.var(0) / 4000).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.06, atol=0)


def test_a_crop_that_never_fits_takes_the_centre():
    draws = torch.full((2, CROP_DRAWS), 0.999, dtype=torch.float64)  # the whole area in a wide shape fits nowhere here
    boxes = random_boxes(draws, torch.tensor([100, 10]), torch.tensor([10, 100]), min_area=1.0)
    assert boxes.tolist() == [[43, 0, 13, 10], [0, 43, 10, 13]]


def test_the_area_of_a_crop_lies_between_its_bounds():
    draws = torch.rand(2000, CROP_DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    side = torch.full((2000,), 1000)
    area = random_boxes(draws, side, side, 0.05, 0.14)[:, 2:].prod(1) / 1e6
    assert 0.0495 < area.min() < 0.052 and 0.138 < area.max() < 0.1405


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_by_name(name):
    augmentation = Augmentation(24, augmentations=[name], **PLAIN)
    images = (pictures(16) * 255).byte()
    before = images.clone()
    one = augmentation(images, torch.Generator().manual_seed(3))
    same = augmentation(images, torch.Generator().manual_seed(3))
    other = augmentation(images, torch.Generator().manual_seed(4))
    assert one.shape == (16, 3, 24, 24) and one.dtype == torch.float32
    assert one.min() >= -1e-6 and one.max() <= 1 + 1e-5
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(images, before)
    assert not torch.allclose(one, fit(images, 24))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_augmentation_is_what_its_operations_read(name):
    """Each setting changes the views of the operations that list it, and of no other."""
    others = {field: 0.3 for field in vars(AugmentationArguments()) if field not in ("augmentations", "brightness")}
    others |= {"min_crop": 0.5, "max_crop": 0.6, "brightness": "add", "color_strength": 1.0, "rotation_degrees": 90.0}
    images = (pictures(64, 30) * 255).to(torch.uint8)
    draws = torch.rand(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def views(**settings):
        augmentation = Augmentation(24, augmentations=[name], **settings)
        return augmentation(images, draws=draws[:, : augmentation.draws]), augmentation.identity

    plain, identity = views()
    for setting, value in others.items():
        changed, other = views(**{setting: value})
        assert changed.equal(plain) == (setting not in OPERATIONS[name].settings), setting
        assert (other == identity) == (setting not in OPERATIONS[name].settings), setting


@pytest.mark.parametrize("size", [24, 33, 70])
def test_a_sample_s_view_does_not_depend_on_its_batch(size):
    augmentation = Augmentation(size, augmentations=list(OPERATIONS))
    images = (pictures(12, size + 5) * 255).byte()
    draws = torch.rand(12, augmentation.draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = augmentation(images, draws=draws)
    parts = [augmentation(images[i : i + 5], draws=draws[i : i + 5]) for i in range(0, 12, 5)]
    assert torch.equal(whole, torch.cat(parts))
    alone = [augmentation(images[i : i + 1], draws=draws[i : i + 1]) for i in range(12)]
    assert torch.equal(whole, torch.cat(alone))
    if size > 64:  # by bands a list is the same as a batch
        assert torch.equal(whole, augmentation(list(images), draws=draws))


def test_compositions_in_any_order():
    images = (pictures(8) * 255).byte()
    still = {"flip_probability": 0.0, **PLAIN}
    cropped = Augmentation(24, augmentations=["crop"], **still)
    draws = torch.rand(8, cropped.draws + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    later = Augmentation(24, augmentations=["flip", "crop"], **still)(images, draws=draws)
    expected = cropped((fit(images, 24) * 255).round().byte(), draws=draws[:, 1:])
    torch.testing.assert_close(later, expected, atol=0.5 / 255 + 1e-5, rtol=0)
    # an operation may come twice, and of a common beginning the draws are the same
    twice = Augmentation(24, augmentations=["crop", "flip", "grayscale", "flip"], flip_probability=1.0, **PLAIN)
    draws = torch.rand(8, twice.draws, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grey = Augmentation(24, augmentations=["crop", "flip", "grayscale"], flip_probability=1.0, **PLAIN)
    first = grey(images, draws=draws[:, : grey.draws])
    assert torch.equal(twice(images, draws=draws), first.flip(-1))


def test_a_flip_behind_a_crop_is_a_flip():
    images = (pictures(8) * 255).byte()
    draws = torch.rand(8, CROP_DRAWS + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (24, 70):
        both = Augmentation(size, augmentations=["crop", "flip"], **PLAIN)(images, draws=draws)
        crop = Augmentation(size, augmentations=["crop"], **PLAIN)(images, draws=draws[:, :CROP_DRAWS])
        flipped = (draws[:, CROP_DRAWS] < 0.5)[:, None, None, None]
        assert 0 < flipped.sum() < 8
        torch.testing.assert_close(both, torch.where(flipped, crop.flip(-1), crop), atol=1e-6, rtol=0)


def test_views_are_written_where_they_are_wanted():
    images, augmentation = (pictures(5) * 255).byte(), Augmentation(24)
    both = torch.full((5, 2, 3, 24, 24), -9.0)
    returned = augmentation(images, torch.Generator().manual_seed(0), out=both[:, 1])
    assert torch.equal(both[:, 1], augmentation(images, torch.Generator().manual_seed(0)))
    assert torch.equal(returned, both[:, 1]) and (both[:, 0] == -9).all()


def test_the_layout_of_the_images_does_not_matter():
    images = (pictures(6, 24) * 255).byte()
    last = images.contiguous(memory_format=torch.channels_last)
    for size in (24, 70):
        for names in (["color_jitter"], list(OPERATIONS)):
            augmentation = Augmentation(size, augmentations=names, color_probability=1.0)
            for count in (1, 6):
                one, other = (augmentation(x[:count], torch.Generator().manual_seed(0)) for x in (images, last))
                torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_images_of_various_sizes():
    sizes = [(20, 31), (64, 48), (7, 90), (33, 33)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    assert Augmentation(24)(images, torch.Generator().manual_seed(0)).shape == (4, 3, 24, 24)
    assert Augmentation(24, augmentations=["flip"])(images).shape == (4, 3, 24, 24)
    assert eval_view(images, 24).shape == (4, 3, 24, 24)


def test_probabilities_and_strength():
    images = (pictures(4) * 255).byte().repeat(100, 1, 1, 1)
    grey = Augmentation(33, augmentations=["grayscale"], **PLAIN)(images, torch.Generator().manual_seed(0))
    share = (grey[:, 0] == grey[:, 1]).flatten(1).all(1)[3::4].float().mean()
    assert 0.1 < share < 0.3  # 0.2 of the pictures that have colour
    still = Augmentation(33, augmentations=["color_jitter"], color_strength=0.0, **PLAIN)(images)
    torch.testing.assert_close(still, images / 255, atol=2e-6, rtol=0)
    strong = Augmentation(33, augmentations=["color_jitter"], color_strength=1.0, **PLAIN)(images)
    weak = Augmentation(33, augmentations=["color_jitter"], color_strength=0.1, **PLAIN)(images)
    assert (strong - images / 255).abs().mean() > 3 * (weak - images / 255).abs().mean()
    inverted = Augmentation(33, augmentations=["solarize"], **PLAIN)(images, torch.Generator().manual_seed(0))
    share = ((inverted - images / 255).abs().flatten(1).amax(1) > 0.1).float()[1::2].mean()
    assert 0.1 < share < 0.3


def test_two_ways_to_change_the_brightness():
    """The light of a dark image grows by an addition only."""
    dark = torch.full((400, 3, 8, 8), 10, dtype=torch.uint8)
    settings = {"augmentations": ["color_jitter"], "color_strength": 1.0, **PLAIN}
    added, multiplied = (
        Augmentation(8, brightness=way, **settings)(dark, torch.Generator().manual_seed(0)).amax((1, 2, 3))
        for way in ("add", "multiply")
    )
    assert added.max() > 0.7 and multiplied.max() < 0.15
    # uniform in [-0.8, 0.8], cut off at 0, in the four of five images that are jittered
    assert abs((added > 0.4).float().mean() - 0.8 * 0.25) < 0.05


def test_images_smaller_than_the_view_are_enlarged_as_torchvision_does():
    image = torch.randint(0, 256, (3, 2, 3), dtype=torch.uint8)
    resize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize(16, antialias=True), v2.CenterCrop(16)])
    torch.testing.assert_close(eval_view([image], 16, **PLAIN)[0], resize(image), atol=1e-5, rtol=0)
    views = Augmentation(16, **PLAIN)([image, image[:, :1, :1]], torch.Generator().manual_seed(0))
    assert views.shape == (2, 3, 16, 16) and (views[1] == views[1, :, :1, :1]).all()


def test_the_evaluation_view_is_torchvision_s():
    image = torch.randint(0, 256, (3, 60, 91), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Resize(46, antialias=True), v2.CenterCrop(40)]
    expected = v2.Compose([*steps, v2.Normalize(mean, std)])(image)
    torch.testing.assert_close(eval_view([image], 40, mean, std, 40 / 46)[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augmentations": ["crop", "colour_jitter"]},
            "unknown augmentation 'colour_jitter'; did you mean 'color_jitter'",
        ),
        ({"min_crop": 0.0}, "min_crop"),
        ({"min_crop": 0.5, "max_crop": 0.4}, "min_crop and max_crop .* not 0.5 and 0.4"),
        ({"brightness": "v2"}, "brightness must be one of multiply, add, not 'v2'"),
        ({"solarize_threshold": 128}, "solarize_threshold must lie in"),
        ({"noise_deviation": -1.0}, "noise_deviation"),
        ({"blur_probability": 1.5}, "blur_probability"),
        ({"color_strength": 3.0}, "color_strength"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        AugmentationArguments(**settings)
