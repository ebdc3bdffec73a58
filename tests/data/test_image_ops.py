"""Each operation on colours and places against torchvision's on the same parameters."""

import itertools

import numpy as np
import pytest
import torch
from pictures import assert_each, pictures
from scipy import ndimage, stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from hfssl.data import image_ops

BILINEAR = v2.InterpolationMode.BILINEAR


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_each_change_of_the_jitter_alone(kind):
    place = ("brightness", "contrast", "saturation", "hue").index(kind)
    images, factors = pictures(), torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
    hue = torch.tensor([0.3, -0.2, 0.0, 0.1, -0.5, 0.5])
    factors[:, place] = hue if kind == "hue" else torch.tensor([0.0, 0.3, 0.7, 1.0, 1.4, 2.0])
    plan = image_ops.plan_jitter(factors, torch.arange(4).repeat(6, 1))
    ours = image_ops.jitter(images.clone(), plan)
    assert_each(ours, getattr(tv, f"adjust_{kind}"), images, factors[:, place], tolerance=2e-6)


def test_hue_of_every_corner_of_the_colour_cube():
    """Where channels tie or are 0 or 1 the hue jumps from one expression to another."""
    levels = torch.tensor([0.0, 1e-7, 0.25, 0.5, 1.0])
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 5, 25)
    for turn in np.linspace(-0.5, 0.5, 13):
        ours, factor = image.clone(), torch.tensor([turn])
        image_ops.adjust_hue(ours, factor)
        assert_each(ours, tv.adjust_hue, image, factor, tolerance=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale(channels):
    images = pictures()
    ours = image_ops.rgb_to_grayscale(images, channels)
    assert_each(ours, lambda image: tv.rgb_to_grayscale(image, channels), images, tolerance=1e-6)


def test_jitter_in_every_order():
    images = pictures(24)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    orders = orders[(orders == 3).int().argmax(1).argsort(stable=True)]  # by the place of the hue
    factors = torch.rand(24, 4, generator=torch.Generator().manual_seed(0)) * 2
    factors[:, 3] = factors[:, 3] / 2 - 0.5
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)

    def theirs(image, factor, order):
        for kind in order:
            image = operations[kind](image, factor[kind])
        return image

    ours = image_ops.jitter(images.clone(), image_ops.plan_jitter(factors, orders))
    assert_each(ours, theirs, images, factors, orders, tolerance=5e-6)
    one_by_one = [
        image_ops.jitter(images[i : i + 1].clone(), image_ops.plan_jitter(factors[i : i + 1], orders[i : i + 1]))
        for i in range(24)
    ]
    torch.testing.assert_close(ours, torch.cat(one_by_one), atol=1e-6, rtol=0)


def test_brightness_that_is_added():
    images, delta = pictures(2), torch.tensor([0.4, -0.4])
    orders = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 3]])
    factors = torch.tensor([[0.4, 1, 1, 0], [-0.4, 1, 1, 0]])
    ours = image_ops.jitter(images.clone(), image_ops.plan_jitter(factors, orders, additive=True))
    assert_each(ours, lambda image, delta: (image + delta).clamp(0, 1), images, delta, tolerance=1e-6)


def test_solarize():
    images = pictures()
    assert_each(image_ops.solarize(images, 0.5), lambda image: tv.solarize(image, 0.5), images, tolerance=0)


def test_normalize():
    images, mean, std = pictures(), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    out = torch.empty(6, 2, 3, 33, 33)
    ours = image_ops.normalize(images, mean, std, out=out[:, 1])
    assert_each(ours, lambda image: tv.normalize(image, mean, std), images, tolerance=2e-6)
    assert torch.equal(ours, out[:, 1]) and torch.equal(ours, image_ops.normalize(images, mean, std))


def test_rotation():
    images, degrees = pictures(), torch.tensor([-90.0, -25.0, 0.0, 10.0, 45.0, 180.0])

    def theirs(image, degrees):
        return tv.rotate(image, degrees, interpolation=BILINEAR)

    assert_each(image_ops.rotate(images, degrees), theirs, images, degrees, tolerance=2e-5)


def test_quarter_turns():
    images, turns = pictures(), torch.tensor([0, 1, 2, 3, 1, 0])
    ours = image_ops.quarter_turns(images, turns)
    assert_each(ours, lambda image, turns: tv.rotate(image, 90 * turns), images, turns, tolerance=0)


def test_translation():
    images = pictures()
    right, down = torch.tensor([-5, 0, 3, 1, 2, 33]), torch.tensor([1, 0, -3, 4, -6, 0])

    def theirs(image, right, down):
        return tv.affine(image, 0.0, [right, down], 1.0, [0.0, 0.0], interpolation=BILINEAR)

    assert_each(image_ops.translate(images, right, down), theirs, images, right, down, tolerance=2e-5)


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


def test_noise_is_gaussian_and_follows_from_the_seed_alone():
    images, seeds = torch.full((3, 3, 64, 64), 0.5), torch.tensor([5, 2**53 - 1, 0])
    noise = image_ops.noise(images, seeds, torch.tensor([0.1, 0.05, 0.1])) - 0.5
    for values, deviation in [
        (noise[0], 0.1),
        (noise[1], 0.05),
        (noise[2], 0.1),
        (noise[0] - noise[2], 0.1 * 2**0.5),  # independent of another seed's
        (noise[0, :, :, 1:] - noise[0, :, :, :-1], 0.1 * 2**0.5),  # and of its neighbours'
    ]:
        assert stats.kstest(values.flatten().numpy(), "norm", args=(0, deviation)).pvalue > 0.01
    alone = image_ops.noise(images[1:2], seeds[1:2], torch.tensor([0.05])) - 0.5
    assert torch.equal(noise[1:2], alone)
    bright = image_ops.noise(torch.ones(1, 3, 8, 8), seeds[:1], torch.tensor([0.1]))
    assert bright.max() == 1 and bright.min() < 1
