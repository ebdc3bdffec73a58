"""Colour spaces beside scikit-image and kornia; histograms, cells and decoding by their closed forms."""

import colorsys
import math

import kornia.color
import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from hfssl.models.color import (
    NUM_CELLS,
    ab_cells,
    annealed_mean,
    cell_shares,
    chroma_bins,
    chroma_of,
    from_vector,
    hcl_to_rgb,
    hue_bins,
    hue_of,
    into_gamut,
    lab_to_rgb,
    rebalancing,
    rgb_to_hcl,
    rgb_to_lab,
    soft_cells,
    to_vector,
    window_histogram,
)


def rgb(*shape, seed=0):
    return torch.rand(*shape, 3, 8, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lab_is_that_of_scikit_image_and_kornia():
    images = rgb(2)
    lab = rgb_to_lab(images)
    for image, ours in zip(images, lab, strict=True):
        np.testing.assert_allclose(ours.movedim(0, -1), rgb2lab(image.movedim(0, -1).numpy()), atol=1e-3)
        np.testing.assert_allclose(lab_to_rgb(ours).movedim(0, -1), lab2rgb(ours.movedim(0, -1).numpy()), atol=1e-4)
    torch.testing.assert_close(
        lab, kornia.color.rgb_to_lab(images), atol=0.05, rtol=0
    )  # another rounding of the matrix


def test_round_trips():
    images = torch.cat([rgb(3), torch.zeros(1, 3, 8, 9).double(), torch.ones(1, 3, 8, 9).double()])
    for there, back in ((rgb_to_lab, lab_to_rgb), (rgb_to_hcl, hcl_to_rgb)):
        assert (back(there(images)) - images).abs().max() < 1e-6
        single = images.float()
        assert (back(there(single)) - single).abs().max() < 1 / 255
    hcl = rgb_to_hcl(images)
    turned = torch.cat([hcl[:, :1] + 2, hcl[:, 1:]], 1)  # two more turns are the same hue
    torch.testing.assert_close(hcl_to_rgb(turned), hcl_to_rgb(hcl))


def test_hue_is_colorsys_and_chroma_and_lightness_their_definitions():
    image = rgb(1)
    hue, chroma, lightness = rgb_to_hcl(image)[0]
    for y in range(8):
        for x in range(9):
            r, g, b = image[0, :, y, x].tolist()
            h, light, _ = colorsys.rgb_to_hls(r, g, b)
            assert hue[y, x] == pytest.approx(h) and lightness[y, x] == pytest.approx(light)
            assert chroma[y, x] == pytest.approx(max(r, g, b) - min(r, g, b))


def test_colours_reach_the_gamut_by_their_chroma_alone():
    generator = torch.Generator().manual_seed(1)
    lab = torch.cat(
        [100 * torch.rand(2, 1, 8, 9, generator=generator), 200 * torch.rand(2, 2, 8, 9, generator=generator) - 100], 1
    )
    found = into_gamut(lab)
    assert torch.equal(found[:, 0], lab[:, 0])
    shown = lab_to_rgb(found)
    assert shown.min() > -1e-3 and shown.max() < 1 + 1e-3
    assert (rgb_to_lab(shown.clamp(0, 1))[:, 0] - lab[:, 0]).abs().max() < 0.05
    scale = found[:, 1:].norm(dim=1) / lab[:, 1:].norm(dim=1)
    cross = found[:, 1] * lab[:, 2] - found[:, 2] * lab[:, 1]
    assert cross.abs().max() < 1e-2 and scale.max() <= 1 + 1e-6
    slightly_more = torch.cat([lab[:, :1], found[:, 1:] * 1.01], 1)
    outside = ((lab_to_rgb(slightly_more) < -1e-4) | (lab_to_rgb(slightly_more) > 1 + 1e-4)).any(1)
    assert outside[scale < 0.99].all(), "no more than it needs"
    inside = rgb_to_lab(rgb(2).float())
    torch.testing.assert_close(into_gamut(inside), inside)
    too_much = torch.tensor([0.3, 5.0, 0.4]).view(1, 3, 1, 1)
    back = rgb_to_hcl(hcl_to_rgb(too_much))
    torch.testing.assert_close(back[:, 2], too_much[:, 2])
    torch.testing.assert_close(back[:, 1].item(), 0.8)  # 1 - |2 l - 1|


def slow_histogram(bins, num_bins, window):
    height, width = bins.shape
    found = np.zeros((height, width, num_bins))
    for y in range(height):
        for x in range(width):
            rows = range(max(0, y - window // 2), min(height, y + window // 2 + 1))
            columns = range(max(0, x - window // 2), min(width, x + window // 2 + 1))
            for i in rows:
                for j in columns:
                    found[y, x, bins[i, j]] += 1 / (len(rows) * len(columns))
    return found.reshape(-1, num_bins)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_window_histograms(window):
    bins = torch.randint(0, 5, (2, 8, 9), generator=torch.Generator().manual_seed(2))
    dense = window_histogram(bins, 5, window)
    for one, found in zip(bins, dense, strict=True):
        np.testing.assert_allclose(found, slow_histogram(one.numpy(), 5, window), atol=1e-6)
    points = torch.tensor([[0, 71, 35, 35], [8, 9, 40, 63]])
    torch.testing.assert_close(
        window_histogram(bins, 5, window, points), dense.gather(1, points[..., None].expand(-1, -1, 5))
    )
    constant = window_histogram(torch.full((1, 8, 9), 3), 5, window)
    assert torch.equal(constant, torch.eye(5)[3].expand(1, 72, 5)), "one colour is one bin"


def test_bins_and_what_is_read_from_them():
    assert hue_bins(torch.tensor([0.0, 0.999, 1.0, 1.26, -0.01]), 4).tolist() == [0, 3, 0, 1, 3]
    assert chroma_bins(torch.tensor([0.0, 0.25, 0.999, 1.0]), 4).tolist() == [0, 1, 3, 3]
    hue, certainty = hue_of(torch.eye(4)[None])
    torch.testing.assert_close(hue, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))
    torch.testing.assert_close(certainty, torch.ones(1, 4))
    around, unsure = hue_of(torch.tensor([[0.5, 0, 0, 0.5], [0.25] * 4]))
    assert min(around[0], 1 - around[0]) < 1e-6, "the mean of hues on both sides of 0 is 0, not a half"
    assert unsure[1] < 1e-6
    torch.testing.assert_close(chroma_of(torch.eye(4)), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    shares = torch.tensor([[0.2, 0.2, 0.6, 0.0]])
    torch.testing.assert_close(chroma_of(shares), torch.tensor([(2 + 0.1 / 0.6) / 4]))
    torch.testing.assert_close(
        chroma_of(shares, "expectation"), torch.tensor([0.2 * 0.125 + 0.2 * 0.375 + 0.6 * 0.625])
    )
    h, c = torch.tensor([[0.1, 0.7]]), torch.tensor([[0.3, 0.9]])
    again = from_vector(to_vector(h, c))
    torch.testing.assert_close(again[0], h)
    torch.testing.assert_close(again[1], c)


def test_the_cells_are_313_and_hold_every_colour():
    cells = ab_cells()
    assert cells.shape == (NUM_CELLS, 2) and len({tuple(cell) for cell in cells.tolist()}) == NUM_CELLS
    grid = torch.linspace(0, 1, 24)
    cube = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij")).flatten(1)[:, None]  # (3, 1, N)
    ab = rgb_to_lab(cube)[1:, 0].T
    assert torch.cdist(ab, cells).min(1).values.max() < 10 / math.sqrt(2) + 1, "a centre within half a diagonal"


def test_soft_cells_and_their_weights():
    cells, shares = soft_cells(torch.tensor([[0.0, 0.0], [23.0, -41.0]]))
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    assert ab_cells()[cells[0, 0]].tolist() == [0, 0] and ab_cells()[cells[1, 0]].tolist() == [20, -40]
    torch.testing.assert_close(shares[0, 1] / shares[0, 0], torch.tensor(math.exp(-100 / 50)))  # 10 away, sigma 5
    frequencies = cell_shares(torch.randn(500, 2, generator=torch.Generator().manual_seed(3)) * 20)
    assert frequencies.sum().item() == pytest.approx(1)
    weights = rebalancing(frequencies)
    assert (frequencies * weights).sum().item() == pytest.approx(1)
    assert weights[frequencies.argmax()] == weights.min() and weights[frequencies == 0].min() == weights.max()
    torch.testing.assert_close(rebalancing(frequencies, 1.0), torch.ones(NUM_CELLS).double())


def test_the_annealed_mean_goes_from_the_mean_to_the_mode():
    logits = torch.randn(4, NUM_CELLS, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(annealed_mean(logits, 1.0), logits.softmax(-1) @ ab_cells())
    torch.testing.assert_close(annealed_mean(logits, 1e-4), ab_cells()[logits.argmax(1)])
