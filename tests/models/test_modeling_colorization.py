"""Colorization: hypercolumns, the three losses beside loops, and pictures whose lightness stays."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hfssl.models import BackboneError, ColorizationConfig, ColorizationForPreTraining, ColorizationModel
from hfssl.models.color import ab_cells, annealed_mean, hue_bins, rgb_to_hcl, rgb_to_lab, soft_cells
from hfssl.models.modeling_colorization import (
    AB_SCALE,
    LOSSES,
    HypercolumnHead,
    cell_loss,
    divergence,
    hue_chroma_loss,
    lightness_of,
    read_points,
)
from tests.conftest import TINY_RESNET

SMALL = TINY_RESNET | {
    "hypercolumn_dim": 16, "color_bins": 8,
}  # fmt: skip


def make(loss="hist_hc", **settings):
    torch.manual_seed(0)
    return ColorizationForPreTraining(ColorizationConfig(**SMALL | {"color_loss": loss} | settings)).eval()


def images(count=2, size=32, seed=1):
    """Smooth colours, as photographs have."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def normalised(model, rgb):
    config = model.config
    return (rgb - torch.tensor(config.image_mean)[:, None, None]) / torch.tensor(config.image_std)[:, None, None]


def test_points_of_a_map_of_the_image_s_size_are_its_values():
    features = torch.randn(2, 5, 6, 7)
    points = torch.randint(0, 42, (2, 9))
    expected = features.flatten(2).gather(2, points[:, None].expand(-1, 5, -1))
    assert torch.equal(read_points(features, points, (6, 7)), expected)


def test_points_of_16_bit_maps_are_read_where_they_are():
    features = torch.randn(1, 2, 224, 224).bfloat16()
    points = torch.randint(0, 224**2, (1, 500))
    expected = features.flatten(2).gather(2, points[:, None].expand(-1, 2, -1))
    assert torch.equal(read_points(features, points, (224, 224)), expected)
    small = torch.randn(1, 2, 112, 112).bfloat16()
    whole = F.interpolate(small.float(), (224, 224), mode="bilinear", align_corners=False).flatten(2)
    torch.testing.assert_close(
        read_points(small, points, (224, 224)).float(),
        whole.gather(2, points[:, None].expand(-1, 2, -1)),
        atol=0.02,
        rtol=0.01,
    )


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (6, 7), (12, 21)])
def test_points_of_any_map_are_those_of_the_enlarged_map(size):
    features = torch.randn(2, 5, *size, dtype=torch.float64)
    whole = F.interpolate(features, (12, 21), mode="bilinear", align_corners=False).flatten(2)
    points = torch.arange(12 * 21).expand(2, -1)
    torch.testing.assert_close(read_points(features, points, (12, 21)), whole)


def test_the_head_on_points_is_the_head_on_all_pixels():
    torch.manual_seed(0)
    head = HypercolumnHead([1, 4, 6], 8, 3, dropout=0.0).double()
    features = [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((1, 16), (4, 8), (6, 2))]
    dense = head(features, (16, 16))
    points = torch.randint(0, 256, (2, 20))
    torch.testing.assert_close(head(features, (16, 16), points), dense.gather(1, points[..., None].expand(-1, -1, 3)))
    column = torch.cat([F.interpolate(part, (16, 16), mode="bilinear") for part in features], 1).flatten(2)
    weight = torch.cat([level.weight[:, :, 0, 0] for level in head.levels], 1)  # one matrix over the hypercolumn
    hidden = F.relu(weight @ column + head.levels[0].bias[:, None])
    torch.testing.assert_close(head.output(hidden.mT), dense)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_some_pixels_is_that_of_all_masked_to_them(loss):
    model, rgb = make(loss), images()
    pixels = normalised(model, rgb)
    points = torch.randint(0, 1024, (2, 40))
    with torch.no_grad():
        logits = model(pixels, return_loss=False).logits
        chosen = logits.gather(1, points[..., None].expand(-1, -1, logits.shape[-1]))
        sparse = model(pixels, points)
        torch.testing.assert_close(sparse.logits, chosen, rtol=1e-4, atol=1e-5)
        each = [model.color_loss(logits[b : b + 1, p : p + 1], model.colorization.to_rgb(pixels)[b : b + 1],
                                 torch.tensor([[p]])) for b in range(2) for p in points[b].tolist()]  # fmt: skip
        torch.testing.assert_close(sparse.loss, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)
        everything = torch.arange(1024).expand(2, -1)
        torch.testing.assert_close(model(pixels).loss, model(pixels, everything).loss, rtol=1e-4, atol=1e-5)


def test_histogram_loss_by_a_loop():
    torch.manual_seed(2)
    hcl = rgb_to_hcl(images(1, 9).double())
    logits = torch.randn(1, 81, 8, dtype=torch.float64, requires_grad=True)
    loss = hue_chroma_loss(logits, hcl, 4, window=3)
    hues, chromas = hue_bins(hcl[0, 0], 4), (hcl[0, 1] * 4).long().clamp(max=3)
    total = 0.0
    for y in range(9):
        for x in range(9):
            window = [(i, j) for i in range(y - 1, y + 2) for j in range(x - 1, x + 2) if 0 <= i < 9 and 0 <= j < 9]
            parts = []
            for bins, given in ((hues, logits[0, 9 * y + x, :4]), (chromas, logits[0, 9 * y + x, 4:])):
                target = [sum(int(bins[place]) == k for place in window) / len(window) for k in range(4)]
                log = given.log_softmax(0)
                parts.append(sum(t * (math.log(t) - float(log[k])) for k, t in enumerate(target) if t))
            light, chroma = float(hcl[0, 2, y, x]), float(hcl[0, 1, y, x])
            total += min(3 * light, 1, 3 * (1 - light)) * parts[1] + 5 * chroma * parts[0]
    assert float(loss) == pytest.approx(total / 81, abs=1e-6)
    assert torch.autograd.gradcheck(lambda given: hue_chroma_loss(given, hcl, 4, 3), logits[:, :81])


def test_equal_distributions_have_no_divergence():
    shares = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
    assert divergence(shares, shares.clamp(min=1e-30).log()).abs().max() < 1e-6
    assert float(divergence(torch.eye(4)[:1], torch.full((1, 4), -math.log(4)))) == pytest.approx(math.log(4))


def test_the_papers_settings():
    """Larsson et al. 2016 and their solver; Zhang et al. 2016, section 2."""
    config = ColorizationConfig()
    assert (config.color_bins, config.color_window, config.hue_weight) == (32, 7, 5.0)
    assert (config.rebalancing_mix, config.annealing_temperature) == (0.5, 0.38)
    model, rgb = make(hue_weight=2.0, color_window=3), images()
    logits = torch.randn(2, 32 * 32, 16)
    torch.testing.assert_close(model.color_loss(logits, rgb), hue_chroma_loss(logits, rgb_to_hcl(rgb), 8, 3, 2.0))


def test_l2_and_cell_losses_by_their_formulas():
    model, rgb = make("l2_ab"), images()
    ab = rgb_to_lab(rgb)[:, 1:].flatten(2).mT
    logits = torch.randn(2, 1024, 2)
    expected = ((logits - ab / AB_SCALE) ** 2).sum(-1).mean()
    torch.testing.assert_close(model.color_loss(logits, rgb), expected)
    torch.testing.assert_close(model.color_loss(ab / AB_SCALE, rgb), torch.tensor(0.0))
    exact = logits.double().requires_grad_()
    total = sum(float((exact[b, p] - ab[b, p] / AB_SCALE).square().sum()) for b in range(2) for p in range(1024))
    assert float(model.color_loss(exact, rgb.double())) == pytest.approx(total / 2048, rel=1e-4)
    assert torch.autograd.gradcheck(lambda given: model.color_loss(given, rgb.double()), exact, fast_mode=True)
    logits, colours, weights = torch.randn(5, 313).double(), torch.randn(5, 2).double() * 30, torch.rand(313).double()
    total = 0.0
    for row in range(5):
        distances = (ab_cells() - colours[row]).norm(dim=1)
        near = distances.argsort()[:5]
        q = torch.exp(-(distances[near] ** 2) / 50)
        q = q / q.sum()
        total -= float(weights[near[0]] * (q * logits[row].log_softmax(0)[near]).sum())
    assert float(cell_loss(logits, colours, weights)) == pytest.approx(total / 5, rel=1e-9)
    assert torch.autograd.gradcheck(lambda given: cell_loss(given, colours, weights), logits.requires_grad_())
    uniform = cell_loss(torch.zeros(5, 313), colours, torch.ones(313))
    assert float(uniform) == pytest.approx(math.log(313), rel=1e-5)


def test_the_encoder_sees_lightness_alone():
    model = make()
    grey = images(2)[:, :1].expand(-1, 3, -1, -1)
    hcl = rgb_to_hcl(grey.contiguous())
    coloured = grey.clone()
    shift = 0.5 * torch.minimum(grey[:, 0], 1 - grey[:, 0])
    coloured[:, 0] += shift  # red up and blue down by as much: the lightness of HCL stays
    coloured[:, 2] -= shift
    torch.testing.assert_close(rgb_to_hcl(coloured)[:, 2], hcl[:, 2])
    with torch.no_grad():
        for one, other in ((grey, coloured),):
            first, second = (model.base_model(normalised(model, each)).pooler_output for each in (one, other))
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert next(model.colorization.timm_model.parameters()).shape[1] == 1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(32, 32), (40, 56)])
def test_colorize_keeps_the_lightness_and_stays_on_the_screen(loss, size):
    model = make(loss)
    generator = torch.Generator().manual_seed(3)
    rgb = torch.rand(2, 3, *size, generator=generator)
    found = model.train().colorize(rgb)
    assert model.training
    lightness = rgb_to_hcl(rgb)[:, 2:] if loss == "hist_hc" else rgb_to_lab(rgb)[:, :1]
    scale = 1 if loss == "hist_hc" else 100
    assert torch.equal(found.lightness, lightness), "bit for bit"
    assert found.rgb.shape == rgb.shape and found.rgb.min() >= 0 and found.rgb.max() <= 1
    shown = rgb_to_hcl(found.rgb)[:, 2:] if loss == "hist_hc" else rgb_to_lab(found.rgb)[:, :1]
    assert (shown - lightness).abs().max() < 1e-3 * scale
    grey = lightness_of(rgb, loss)
    again = model.colorize(rgb.mean(1, keepdim=True))
    assert again.rgb.shape == rgb.shape and grey.shape == (2, 1, *size)
    with torch.no_grad():
        model.color_head.output.bias.fill_(0.0)
        model.color_head.output.weight.fill_(0.0)
    if loss == "l2_ab":  # no colour predicted: grey
        assert (model.colorize(rgb).color).abs().max() == 0


def test_colorize_decodes_what_was_learned():
    """A head that always says one colour paints with it."""
    model = make("ce313")
    target = (ab_cells() == torch.tensor([20.0, 30.0])).all(1)
    with torch.no_grad():
        model.color_head.output.weight.zero_()
        model.color_head.output.bias.copy_(20.0 * target)
    found = model.colorize(torch.full((1, 3, 32, 32), 0.5))
    torch.testing.assert_close(
        found.color, torch.tensor([20.0, 30.0])[None, :, None, None].expand(1, 2, 32, 32), atol=0.1, rtol=0
    )
    model = make("hist_hc")
    with torch.no_grad():
        model.color_head.output.weight.zero_()
        bias = torch.full((16,), -20.0)
        bias[3], bias[8 + 2] = 20.0, 20.0  # hue 3.5 / 8, chroma 2.5 / 8
        model.color_head.output.bias.copy_(bias)
    hue, chroma = model.colorize(torch.full((1, 3, 32, 32), 0.5)).color[0]
    torch.testing.assert_close(hue, torch.full((32, 32), 3.5 / 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(chroma, torch.full((32, 32), 2.5 / 8), atol=1e-3, rtol=0)
    with torch.no_grad():
        model.color_head.output.bias[:8] = 0.0  # no hue more likely than another: the chroma fades
    assert model.colorize(torch.full((1, 3, 32, 32), 0.5)).color[0, 1].abs().max() < 1e-3
    model.config.chromatic_fading = 0.0
    assert model.colorize(torch.full((1, 3, 32, 32), 0.5)).color[0, 1].min() > 0.2


def test_mixed_precision_sees_the_same_colours():
    """Targets, lightness and decoding stay in 32 bits under autocast; weights of 16 bits work."""
    model, rgb = make("ce313"), images()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rgb_to_lab(rgb), rgb_to_lab_outside(rgb))
        assert torch.equal(lightness_of(rgb, "l2_ab"), rgb_to_lab_outside(rgb)[:, :1] / 100)
        loss = model(normalised(model, rgb), torch.randint(0, 1024, (2, 9))).loss
        assert loss.dtype == torch.float32 and loss.isfinite()
        logits = torch.randn(5, 313)
        assert annealed_mean(logits).dtype == torch.float32
    half = make("hist_hc").bfloat16()
    assert half(normalised(half, rgb).bfloat16()).loss.isfinite()
    assert half.colorize(rgb).rgb.shape == rgb.shape


def rgb_to_lab_outside(rgb):
    with torch.autocast("cpu", enabled=False):
        return rgb_to_lab(rgb)


def test_weights_of_rare_colours_are_saved(tmp_path):
    model = make("ce313")
    frequencies = torch.zeros(313).double()
    cells, _ = soft_cells(torch.zeros(1, 2))
    frequencies[cells[0]] = 0.2
    model.set_color_frequencies(frequencies)
    assert float((frequencies * model.cell_weights).sum()) == pytest.approx(1, rel=1e-5)
    model.save_pretrained(tmp_path)
    again = ColorizationForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again.cell_weights, model.cell_weights) and again.cell_weights.max() > 1
    assert ColorizationModel.from_pretrained(tmp_path).config.color_loss == "ce313"


BACKBONES = [
    "vgg11_bn",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_050",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_used_afterwards_is_what_learns(backbone):
    """Each weight that the pooled features depend on has a gradient; what nothing depends on is frozen."""
    model = make(backbone=backbone, backbone_kwargs={}, image_size=64 if "swin" not in backbone else 224).train()
    size = model.config.image_size
    rgb = images(2, size)
    model(normalised(model, rgb), torch.randint(0, size**2, (2, 5))).loss.backward()
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == learns
    model.zero_grad()
    model.base_model(normalised(model, rgb)).pooler_output.square().sum().backward()
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert used and used <= learns
    assert model.colorize(images(1, 48)).rgb.shape == (1, 3, 48, 48)


def test_what_is_frozen_stays_so_after_loading(tmp_path):
    model = make(backbone="vgg11_bn", backbone_kwargs={}, image_size=64)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert any("pre_logits" in name for name in frozen)
    model.save_pretrained(tmp_path)
    again = ColorizationForPreTraining.from_pretrained(tmp_path)
    assert {name for name, weight in again.named_parameters() if not weight.requires_grad} == frozen


def test_a_panorama_is_no_larger_than_four_images_in_a_row():
    model = make()
    assert model._working_size((64, 640)) == (32, 128) and model._working_size((48, 64)) == (32, 43)
    assert model.colorize(torch.rand(1, 3, 40, 400)).rgb.shape == (1, 3, 40, 400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"color_loss": "l1"}, "unknown color_loss 'l1': one of hist_hc, l2_ab, ce313"),
        ({"num_channels": 1}, "colour has three"),
        ({"color_window": 4}, "color_window must be odd"),
        ({"hypercolumn_levels": [9]}, r"hypercolumn_levels \[9\]: resnet10t has 0 to 4"),
        ({"hypercolumn_levels": [0, 1]}, "the last must be among them"),
        ({"backbone": "vgg11_bn", "backbone_kwargs": {}, "image_size": 16}, "cannot make feature maps of 16 pixels"),
        ({"annealing_temperature": 0}, "annealing_temperature must be positive"),
        ({"chromatic_fading": 2}, "chromatic_fading must lie in"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(BackboneError, match=message):
        ColorizationForPreTraining(ColorizationConfig(**SMALL | settings))


def test_an_image_smaller_than_the_strides_is_refused():
    for size in (8, 16):
        with pytest.raises(
            BackboneError, match=f"an image of {size} pixels is too small for the strides of resnet10t, 32"
        ):
            make(image_size=size)
    assert make(image_size=16, stem="cifar")


def test_a_backbone_without_feature_maps_is_refused_with_some_that_have_them(monkeypatch):
    import timm

    monkeypatch.delattr(timm.models.resnet.ResNet, "forward_intermediates")
    with pytest.raises(BackboneError, match=r"resnet10t gives no feature maps.*densenet121.*vgg11"):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.rand(1, 2, 8, 8), "colorize takes images"),
        (torch.rand(1, 3, 8, 8) * 2, r"in \[0, 1\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating-point"),
    ],
)
def test_bad_images(given, message):
    with pytest.raises(ValueError, match=message):
        make().colorize(given)
    with pytest.raises(
        TypeError, match=r"colorize takes a tensor of images \(B, 1 or 3, H, W\) in \[0, 1\], not Image"
    ):
        make().colorize(Image.new("RGB", (8, 8)))
