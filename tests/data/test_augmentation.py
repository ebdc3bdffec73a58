"""Each operation against torchvision's on the same parameters, and the properties of the draws."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from hfssl.data import image_ops
from hfssl.data.augmentation import (
    CROP_DRAWS,
    OPERATIONS,
    Augmentation,
    AugmentationArguments,
    eval_view,
    fit,
    jitter,
    random_boxes,
)
from hfssl.errors import InputError

BILINEAR = v2.InterpolationMode.BILINEAR


def pictures(count=6, size=33):
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0] = 0.5  # grey: no hue
    images[1, 1:] = images[1, :1]
    images[2, 1, :9] = images[2, 0, :9]  # two channels tie
    return images


def assert_each(ours, operation, images, *parameters, tolerance):
    expected = [operation(image, *(p.tolist() for p in ps)) for image, *ps in zip(images, *parameters, strict=True)]
    assert (ours - torch.stack(expected)).abs().max().item() <= tolerance


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_color_adjustments(kind):
    images, factors = pictures(), torch.tensor([0.0, 0.3, 0.7, 1.0, 1.4, 2.0])
    ours = getattr(image_ops, f"adjust_{kind}")(images, factors)
    assert_each(ours, getattr(tv, f"adjust_{kind}"), images, factors, tolerance=1e-6)


def test_hue():
    images, factors = pictures(), torch.tensor([0.3, -0.2, 0.0, 0.1, -0.5, 0.5])
    assert_each(image_ops.adjust_hue(images, factors), tv.adjust_hue, images, factors, tolerance=3e-6)


def test_grayscale():
    images = pictures()
    assert_each(image_ops.rgb_to_grayscale(images), tv.rgb_to_grayscale, images, tolerance=1e-6)


@pytest.mark.parametrize("kernel", [3, 7, 23])
def test_blur(kernel):
    images, sigma = pictures(), torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])

    def theirs(image, sigma):
        return tv.gaussian_blur(image, [kernel, kernel], [sigma, sigma])

    assert_each(image_ops.gaussian_blur(images, sigma, kernel), theirs, images, sigma, tolerance=3e-6)


def test_rotation():
    images, degrees = pictures(), torch.tensor([-90.0, -25.0, 0.0, 10.0, 45.0, 180.0])

    def theirs(image, degrees):
        return tv.rotate(image, degrees, interpolation=BILINEAR)

    assert_each(image_ops.rotate(images, degrees), theirs, images, degrees, tolerance=2e-5)


def test_translation():
    images = pictures()
    right, down = torch.tensor([-5, 0, 3, 1, 2, 33]), torch.tensor([1, 0, -3, 4, -6, 0])

    def theirs(image, right, down):
        return tv.affine(image, 0.0, [right, down], 1.0, [0.0, 0.0], interpolation=BILINEAR)

    assert_each(image_ops.translate(images, right, down), theirs, images, right, down, tolerance=2e-5)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("size", [8, 32, 40])
def test_crop(size, stacked):
    images = (pictures() * 255).byte()
    boxes = torch.tensor([[0, 0, 33, 33], [3, 4, 10, 20], [0, 0, 1, 1], [30, 30, 3, 3], [5, 0, 28, 33], [2, 2, 7, 7]])
    ours = image_ops.crop_and_resize(images if stacked else list(images), boxes, size)

    def theirs(image, box):
        return tv.resized_crop(image.float() / 255, *box, [size, size], antialias=True)

    assert_each(ours, theirs, images, boxes, tolerance=5e-6)


def test_cutout():
    images, fill = pictures(), torch.tensor([0.1, 0.2, 0.3])
    boxes = torch.tensor([[0, 0, 5, 5], [3, 4, 8, 8], [30, 30, 3, 3], [1, 1, 3, 4], [2, 2, 2, 2], [0, 0, 33, 33]])

    def theirs(image, box):
        return tv.erase(image, *box, fill[:, None, None])

    assert_each(image_ops.cutout(images, boxes, fill), theirs, images, boxes, tolerance=0)
    outside = image_ops.cutout(images[:1], torch.tensor([[-4, 30, 8, 8]]), fill)
    assert torch.equal(outside[0, :, :4, 30:], fill[:, None, None].expand(3, 4, 3))
    assert torch.equal(outside[0, :, 4:], images[0, :, 4:])


def test_edges():
    images = pictures()
    grey = image_ops.rgb_to_grayscale(images)[:, 0].numpy()
    expected = [np.hypot(ndimage.sobel(g, 0, mode="nearest"), ndimage.sobel(g, 1, mode="nearest")) / 4 for g in grey]
    ours = image_ops.sobel(images)
    assert ours.shape == images.shape
    np.testing.assert_allclose(ours[:, 1].numpy(), np.clip(expected, 0, 1), atol=2e-6)


def test_jitter_in_any_order():
    images, factors = pictures(4), torch.tensor([[1.3, 0.6, 1.4, 0.1]]).repeat(4, 1)
    orders = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]])
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)

    def theirs(image, order):
        for kind in order:
            image = operations[kind](image, factors[0, kind].item())
        return image

    ours = jitter(images.clone(), factors, orders)
    assert_each(ours, theirs, images, orders, tolerance=5e-6)


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


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_by_name(name):
    augmentation = Augmentation(24, augmentations=[name], mean=(0, 0, 0), std=(1, 1, 1))
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


def test_a_sample_s_view_does_not_depend_on_its_batch():
    augmentation = Augmentation(24, augmentations=list(OPERATIONS))
    images = (pictures(12) * 255).byte()
    draws = torch.rand(12, augmentation.draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = augmentation(images, draws=draws)
    parts = [augmentation(images[i : i + 5], draws=draws[i : i + 5]) for i in range(0, 12, 5)]
    assert torch.equal(whole, torch.cat(parts))


def test_images_of_various_sizes():
    sizes = [(20, 31), (64, 48), (7, 90), (33, 33)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    assert Augmentation(24)(images, torch.Generator().manual_seed(0)).shape == (4, 3, 24, 24)
    assert Augmentation(24, augmentations=["flip"])(images).shape == (4, 3, 24, 24)
    assert eval_view(images, 24).shape == (4, 3, 24, 24)


def test_probabilities_and_strength():
    images = (pictures(4) * 255).byte().repeat(100, 1, 1, 1)
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    grey = Augmentation(33, augmentations=["grayscale"], **plain)(images, torch.Generator().manual_seed(0))
    share = (grey[:, 0] == grey[:, 1]).flatten(1).all(1)[3::4].float().mean()
    assert 0.1 < share < 0.3  # 0.2 of the pictures that have colour
    still = Augmentation(33, augmentations=["color_jitter"], color_strength=0.0, **plain)(images)
    torch.testing.assert_close(still, images / 255, atol=2e-6, rtol=0)
    strong = Augmentation(33, augmentations=["color_jitter"], color_strength=1.0, **plain)(images)
    weak = Augmentation(33, augmentations=["color_jitter"], color_strength=0.1, **plain)(images)
    assert (strong - images / 255).abs().mean() > 3 * (weak - images / 255).abs().mean()


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
        ({"augmentations": ["flip", "crop"]}, "'crop' must be the first"),
        ({"min_crop": 0.0}, "min_crop"),
        ({"blur_probability": 1.5}, "blur_probability"),
        ({"color_strength": 3.0}, "color_strength"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        AugmentationArguments(**settings)
