"""What is said of predicted pixels, by closed forms; galleries of models that paint."""

import math

import pytest
import torch

from hfssl.data.images import ImageDataset
from hfssl.evaluation.probe_report import _painted
from hfssl.evaluation.reconstruction import (
    biharmonic_fill,
    evaluate_painter,
    grey_of,
    mean_chroma,
    mean_fill,
    psnr,
    reconstructions,
    rmse_ab,
    sharpness,
    whole_views,
)
from hfssl.models import (
    ColorizationConfig,
    ColorizationForPreTraining,
    ColorizationModel,
    ContextEncoderConfig,
    ContextEncoderForPreTraining,
)
from hfssl.models.color import lab_to_rgb, rgb_to_lab
from tests.conftest import TINY_RESNET


def colourful(count=3, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def square(size=8):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., 2:6, 2:6] = True
    return mask


def test_psnr_of_all_pixels_and_of_hidden_ones():
    truth = torch.zeros(2, 3, 8, 8)
    found = truth.clone()
    found[..., 2:6, 2:6] = 0.1
    assert psnr(found, truth).tolist() == pytest.approx([-10 * math.log10(0.01 / 4)] * 2)
    assert psnr(found, truth, square()).tolist() == pytest.approx([20.0] * 2)


def test_colour_is_measured_in_the_plane_of_lab():
    lab = torch.tensor([50.0, 3.0, 4.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    shown = lab_to_rgb(lab)
    assert mean_chroma(shown).item() == pytest.approx(5, abs=0.01)
    assert rmse_ab(shown, grey_of(shown)).item() == pytest.approx(5, abs=0.01)
    grey = grey_of(colourful())
    assert mean_chroma(grey).max() < 0.05
    torch.testing.assert_close(rgb_to_lab(grey)[:, 0], rgb_to_lab(colourful())[:, 0], atol=0.02, rtol=0)


def test_sharpness_is_of_hidden_neighbours_alone():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 10
    assert sharpness(ramp, square()).item() == pytest.approx(0.05)  # 0.1 to the right, 0 downwards
    noisy = torch.where(square(), ramp, torch.rand(1, 3, 8, 8))
    assert sharpness(noisy, square()).item() == pytest.approx(0.05)


def test_fillings_leave_what_is_seen():
    images, mask = colourful(2, 8), square().expand(2, -1, -1, -1)
    for fill in (mean_fill, biharmonic_fill):
        filled = fill(images, mask)
        assert torch.allclose(filled[(~mask).expand_as(images)], images[(~mask).expand_as(images)], atol=1e-6)
    seen = images[0, 0][~mask[0, 0]].mean()
    assert mean_fill(images, mask)[0, 0, 3, 3].item() == pytest.approx(seen.item(), rel=1e-5)
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(biharmonic_fill(flat, square()), flat, atol=1e-4)


def test_models_beside_their_baselines(tmp_path):
    torch.manual_seed(0)
    color = ColorizationForPreTraining(ColorizationConfig(**TINY_RESNET, hypercolumn_dim=8, color_loss="l2_ab")).eval()
    images = colourful()
    found = evaluate_painter(color, images)
    assert found["psnr"] == pytest.approx(psnr(color.colorize(images).rgb, images).mean().item())
    assert found["grey_rmse_ab"] == pytest.approx(rmse_ab(grey_of(images), images).mean().item())
    assert set(found) == {"rmse_ab", "psnr", "grey_rmse_ab", "grey_psnr", "mean_chroma", "true_mean_chroma"}
    settings = TINY_RESNET | {"overlap": 2, "decoder_dim": 8, "discriminator_dim": 8}
    paint = ContextEncoderForPreTraining(ContextEncoderConfig(**settings)).eval()
    found = evaluate_painter(paint, images, biharmonic=True)
    assert {"psnr", "mean_fill_psnr", "biharmonic_psnr", "sharpness", "true_sharpness"} <= set(found)
    columns, titles = reconstructions(paint, images)
    assert titles[0] == "input" and torch.equal(columns[2], images) and (columns[0][..., 10:22, 10:22] == 1).all()
    dataset = ImageDataset((255 * images).byte())
    for model, title in ((color, "colorized"), (paint, "inpainted")):
        model.save_pretrained(tmp_path / title)
        columns, titles = _painted({"model": str(tmp_path / title)}, dataset)
        assert titles == ["input", title, "truth"] and columns[1].shape == (3, 3, 32, 32)
    ColorizationModel(color.config).save_pretrained(tmp_path / "encoder")
    assert _painted({"model": str(tmp_path / "encoder")}, dataset) is None, "nothing random is shown as its work"
    assert _painted({"model": "pixels"}, dataset) is None


def test_views_are_whole_squares_in_0_to_1():
    items = [{"image": torch.full((3, 40, 60), 255, dtype=torch.uint8)}] * 2
    views = whole_views(items, 16)
    assert views.shape == (2, 3, 16, 16) and torch.allclose(views, torch.ones(()))
