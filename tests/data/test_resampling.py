"""Crops and blur against torchvision's: small images go by whole matrices, large ones by bands."""

import pytest
import torch
from pictures import assert_each, pictures
from torchvision.transforms.v2 import functional as tv

from hfssl.data import resampling

BOXES = [[0, 0, 33, 33], [3, 4, 10, 20], [0, 0, 1, 1], [30, 30, 3, 3], [5, 0, 28, 33], [2, 2, 7, 7]]


@pytest.fixture(params=["bands", "whole"])
def way(request, monkeypatch):
    """Large images by bands, or by whole matrices as on a GPU."""
    if request.param == "whole":
        monkeypatch.setattr(resampling, "_WHOLE", 10**6)


@pytest.mark.parametrize(("side", "stacked"), [(33, True), (33, False), (99, True)])
@pytest.mark.parametrize("size", [8, 32, 40, 100])
def test_crop(size, side, stacked, way):
    images, boxes = (pictures(size=side) * 255).byte(), torch.tensor(BOXES) * (side // 33)
    mirrored = torch.tensor([False, True, True, False, False, True])
    given = images if stacked else list(images)
    ours = resampling.crop_and_resize(given, boxes, size)

    def theirs(image, box):
        return tv.resized_crop(image.float() / 255, *box, [size, size], antialias=True)

    assert_each(ours, theirs, images, boxes, tolerance=5e-6)
    flipped = resampling.crop_and_resize(given, boxes, size, mirrored)
    expected = torch.where(mirrored[:, None, None, None], ours.flip(-1), ours)
    torch.testing.assert_close(flipped, expected, atol=1e-6, rtol=0)
    floats = resampling.crop_and_resize(images / 255, boxes, size)
    torch.testing.assert_close(floats, ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [33, 70, 161])
@pytest.mark.parametrize("kernel", [3, 7, 23])
def test_blur(kernel, side, way):
    images, sigma = pictures(size=side)[..., :-3, :], torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])

    def theirs(image, sigma):
        return tv.gaussian_blur(image, [kernel, kernel], [sigma, sigma])

    assert_each(resampling.blur(images, resampling.gaussian_taps(sigma, kernel)), theirs, images, sigma, tolerance=3e-6)


def test_a_blur_wider_than_half_the_image():
    images, sigma = pictures(size=66)[..., :12, :], torch.full((6,), 4.0)

    def theirs(image, sigma):
        return tv.gaussian_blur(image, [23, 23], [sigma, sigma])

    assert_each(resampling.blur(images, resampling.gaussian_taps(sigma, 23)), theirs, images, sigma, tolerance=3e-6)
    small = images[..., :12]
    assert_each(resampling.blur(small, resampling.gaussian_taps(sigma, 23)), theirs, small, sigma, tolerance=3e-6)
