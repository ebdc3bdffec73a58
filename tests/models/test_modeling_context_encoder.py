"""The context encoder: what is hidden stays unseen, each player has its own gradient, what is seen is never touched."""

import math

import pytest
import torch

from hfssl.data.image_masks import make_masks, mask_draws
from hfssl.models import BackboneError, ContextEncoderConfig, ContextEncoderForPreTraining
from hfssl.models.modeling_context_encoder import (
    ChannelwiseLinear,
    central_mask,
    error_weights,
    make_discriminator,
    verdict,
    widened,
)
from tests.conftest import TINY_RESNET

SMALL = TINY_RESNET | {
    "overlap": 2, "decoder_dim": 16, "discriminator_dim": 8, "bottleneck_dim": 12,
}  # fmt: skip


def make(**settings):
    torch.manual_seed(0)
    return ContextEncoderForPreTraining(ContextEncoderConfig(**SMALL | settings))


def pixels(count=3, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_the_central_mask_and_the_weights_of_its_band():
    """The authors' sizes: 64 of 128 pixels are predicted, 4 at each edge of them are seen and count ten times."""
    mask = central_mask(128, 4)[None, None]
    assert mask.sum() == 56**2 and widened(mask, 4).sum() == 64**2 == 128**2 / 4
    weights = error_weights(mask, 4, 10.0)
    assert weights.sum() == 56**2 + 10 * (64**2 - 56**2)
    assert weights[0, 0, 64, 64] == 1 and weights[0, 0, 33, 64] == 10 and weights[0, 0, 31, 64] == 0
    assert torch.equal(error_weights(mask, 0, 10.0), mask.float())


def test_the_authors_settings():
    """Pathak et al. 2016 and `train.lua`: weights .999 and .001, ten times the weight on 4 pixels of overlap."""
    config = ContextEncoderConfig()
    assert (config.reconstruction_weight, config.adversarial_weight) == (0.999, 0.001)
    assert (config.overlap, config.overlap_weight, config.discriminator_learning_rate_factor) == (4, 10.0, 0.1)
    assert (config.conditional, config.mask) == (False, "center")


@pytest.mark.parametrize("kind", ["center", "block", "free"])
def test_what_is_hidden_is_not_seen(kind):
    """Other pixels under the mask change nothing of the result."""
    model = make(mask=kind).eval()
    mask = central_mask(32, 2).expand(3, 1, -1, -1)
    if kind != "center":
        mask = make_masks(kind, 32, torch.rand(3, mask_draws(kind), dtype=torch.float64))
    one, other = pixels(), torch.where(mask, pixels(seed=2), pixels())
    with torch.no_grad():
        first, second = (model(each, mask).reconstruction for each in (one, other))
    assert torch.equal(first, second)
    assert not torch.equal(model(pixels(seed=2), mask).reconstruction, first)


def test_only_predicted_pixels_have_a_gradient():
    model = make(adversarial_weight=0.0, overlap=2).eval()
    made = torch.randn(3, 3, 32, 32, requires_grad=True)
    mask = central_mask(32, 2).expand(3, 1, -1, -1)
    model._losses(made, model._signed(pixels()), mask)["loss"].backward()
    touched = made.grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(touched, widened(mask, 2))


@pytest.mark.parametrize("kind", ["center", "free"])
def test_what_the_discriminator_judges(kind):
    """The part alone; conditional, the truth with the part in its place."""
    image, truth = pixels(seed=3), pixels(seed=4)
    mask = central_mask(32, 2).expand(3, 1, -1, -1)
    predicted = widened(mask, 2)
    judged = make(mask=kind, conditional=True)._judged(image, truth, predicted)
    assert torch.equal(judged, torch.where(predicted, image, truth))
    alone = make(mask=kind)._judged(image, truth, predicted)
    assert torch.equal(alone, image[:, :, 8:24, 8:24] if kind == "center" else image * predicted)


def test_without_an_adversary_the_loss_is_the_squared_error():
    model = make(adversarial_weight=0.0)
    assert not hasattr(model, "discriminator") and model.learning_rate_factors == {}
    model.eval()
    output = model(pixels())
    truth = (
        pixels() * torch.tensor(model.config.image_std)[:, None, None]
        + torch.tensor(model.config.image_mean)[:, None, None]
    )
    truth = 2 * truth.clamp(0, 1) - 1
    total = count = 0.0
    for y in range(8, 24):
        for x in range(8, 24):
            weight = 1.0 if 10 <= y < 22 and 10 <= x < 22 else 10.0
            error = (output.reconstruction[:, :, y, x] - truth[:, :, y, x]) ** 2
            total, count = total + weight * error.sum().item(), count + error.numel()
    assert float(output.loss) == pytest.approx(total / count, rel=1e-4)
    made = output.reconstruction.detach().double().requires_grad_()
    mask = central_mask(32, model.config.overlap).expand(len(made), 1, -1, -1)

    def error(made):
        return model._losses(made, truth.double(), mask)["loss"]

    assert float(error(made)) == pytest.approx(total / count, rel=1e-6)
    assert torch.autograd.gradcheck(error, made, fast_mode=True)
    assert output.loss is output.reconstruction_loss or torch.equal(output.loss, output.reconstruction_loss)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("kind", ["center", "free"])
def test_each_player_learns_from_its_own_loss_alone(kind, conditional):
    model = make(mask=kind, conditional=conditional)
    output = model(pixels())
    both = gradients(model, output.loss)
    config = model.config
    painter = (
        config.reconstruction_weight * output.reconstruction_loss + config.adversarial_weight * output.generator_loss
    )
    of_painter = gradients(model, painter)
    assert not any(name.startswith("discriminator") for name in of_painter), "the generator's step leaves it alone"
    of_critic = gradients(model, output.discriminator_loss)
    assert {name.split(".")[0] for name in of_critic} == {"discriminator"}, "and the discriminator's step the generator"
    for name, gradient in (of_painter | of_critic).items():
        torch.testing.assert_close(both[name], gradient, rtol=1e-4, atol=1e-7)
    assert set(both) == {name for name, _ in model.named_parameters()}
    adversarial = gradients(model, output.generator_loss)
    assert any(gradient.abs().sum() > 0 for name, gradient in adversarial.items() if name.startswith("decoder"))


def test_the_cut_off_discriminator_is_the_discriminator():
    model = make()
    images = torch.randn(4, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in model.discriminator.named_buffers()}
    cut = model._judge_cut_off(images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.discriminator.named_buffers())
    torch.testing.assert_close(cut, model.discriminator(images))
    assert any(not torch.equal(buffer, before[name]) for name, buffer in model.discriminator.named_buffers())


def test_the_adversarial_losses_in_float64():
    model = make().double().eval()
    truth, mask = pixels().double().tanh(), central_mask(32, 2).expand(3, 1, -1, -1)
    made = pixels(seed=5).double().tanh().requires_grad_()
    for name in ("loss", "generator_loss"):
        assert torch.autograd.gradcheck(lambda x, name=name: model._losses(x, truth, mask)[name], made, fast_mode=True)
    losses = model._losses(made, truth, mask)
    real, false = (model.discriminator(each[:, :, 8:24, 8:24]) for each in (truth, made))
    told_apart = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(false)).log().mean())
    believed = -torch.sigmoid(false).log().mean()
    torch.testing.assert_close(losses["discriminator_loss"], told_apart)
    torch.testing.assert_close(losses["generator_loss"], believed)
    expected = 0.999 * losses["reconstruction_loss"] + 0.001 * believed + told_apart
    torch.testing.assert_close(losses["loss"], expected)


def test_a_discriminator_that_cannot_tell_costs_twice_ln_2():
    assert float(verdict(torch.zeros(5), True) + verdict(torch.zeros(5), False)) == pytest.approx(2 * math.log(2))
    logits = torch.tensor([1.5, -0.3])
    probability = logits.sigmoid()
    torch.testing.assert_close(verdict(logits, True), -probability.log().mean())
    torch.testing.assert_close(verdict(logits, False), -(1 - probability).log().mean())


@pytest.mark.parametrize("side", [4, 8, 16, 20, 64])
def test_a_discriminator_gives_one_logit_an_image(side):
    assert make_discriminator(side, 8)(torch.randn(3, 3, side, side)).shape == (3,)


def test_a_channelwise_map_keeps_channels_apart():
    torch.manual_seed(0)
    layer = ChannelwiseLinear(3, 4)
    features = torch.randn(2, 3, 2, 2)
    out = layer(features)
    for channel in range(3):
        expected = features[:, channel].flatten(1) @ layer.weight[channel] + layer.bias[channel]
        torch.testing.assert_close(out[:, channel].flatten(1), expected)
    changed = features.clone()
    changed[:, 0] += 1
    assert torch.equal(layer(changed)[:, 1:], out[:, 1:])


@pytest.mark.parametrize("bottleneck", ["channelwise", "dense", "none"])
def test_bottlenecks(bottleneck, tmp_path):
    model = make(bottleneck=bottleneck)
    output = model(pixels())
    assert output.reconstruction.shape == (3, 3, 32, 32) and output.reconstruction.abs().max() <= 1
    output.loss.backward()
    model.eval().save_pretrained(tmp_path)
    again = ContextEncoderForPreTraining.from_pretrained(tmp_path).eval()
    assert torch.equal(again(pixels()).reconstruction, model(pixels()).reconstruction)


@pytest.mark.parametrize("size", [(32, 32), (45, 60)])
def test_inpaint_leaves_what_is_seen(size):
    model = make().train()
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(2, 1, *size, dtype=torch.bool)
    mask[0, :, 5:20, 7:30] = True
    mask[1, :, 0:3] = True
    found = model.inpaint(images, mask)
    assert model.training and found.shape == images.shape
    seen = ~mask.expand_as(images)
    assert torch.equal(found[seen], images[seen])
    assert not torch.equal(found[~seen], images[~seen]) and found.min() >= 0 and found.max() <= 1
    other = torch.where(mask, torch.rand(2, 3, *size), images)
    assert torch.equal(model.inpaint(other, mask), found), "what is hidden is not looked at"
    shared = model.inpaint(images, mask[:1])
    assert torch.equal(shared[0], model.inpaint(images[:1], mask[:1])[0])


@pytest.mark.parametrize(
    "backbone", ["vit_tiny_patch16_224", "efficientnet_b0", "vgg11_bn", "swin_tiny_patch4_window7_224"]
)
def test_other_backbones(backbone):
    """Maps of tokens, of other channels than the pooled features, and with a head behind them."""
    size = 224 if "swin" in backbone else 64
    model = make(backbone=backbone, backbone_kwargs={}, image_size=size, bottleneck="none")
    output = model(torch.randn(2, 3, size, size))
    assert output.reconstruction.shape == (2, 3, size, size)
    output.loss.backward()
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == learns


def test_each_image_counts_as_much_whatever_its_mask():
    """So a batch in parts has the loss of the whole."""
    model = make(mask="free", adversarial_weight=0.0).eval()
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[0, :, :4, :4] = True
    mask[1, :, 8:30, 3:20] = True
    whole = model(pixels(2), mask).loss
    parts = [model(pixels(2)[i : i + 1], mask[i : i + 1]).loss for i in range(2)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_a_mask_of_dots_leaves_something_to_go_by():
    model, seen = make(), []
    real = model.reconstruct
    model.reconstruct = lambda images, mask: seen.append(mask) or real(images, mask)
    mask = torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    mask[..., ::8, ::8] = True
    images = torch.rand(1, 3, 256, 256)
    found = model.inpaint(images, mask)
    assert not seen[0].all() and torch.equal(found[(~mask).expand_as(images)], images[(~mask).expand_as(images)])


def test_the_two_learning_rates():
    assert make().learning_rate_factors == {"discriminator.": 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "round"}, "unknown mask 'round': one of center, block, free"),
        ({"bottleneck": "tight"}, "unknown bottleneck"),
        ({"image_size": 40}, "image_size must be a multiple of the backbone's strides, 40 is none"),
        (
            {"image_size": 16, "overlap": 1, "backbone": "vgg11_bn", "backbone_kwargs": {}},
            "cannot make feature maps of 16",
        ),
        (
            {"image_size": 16, "overlap": 1},
            "16 pixels is too small for the strides of resnet10t, 32 in all",
        ),
        ({"overlap": 5}, r"overlap must be at most an eighth of the image \(4 pixels\)"),
        ({"adversarial_weight": -1}, "must not be negative"),
        ({"num_channels": 1}, "paints in three"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(BackboneError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        (torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 9, dtype=torch.bool), "a mask of .* for images of 8 x 8"),
        (torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool), "hides the whole image"),
        (torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool), "hides nothing"),
        (torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8), "a mask is bool"),
        (2 * torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool), r"in \[0, 1\]"),
        (torch.rand(1, 1, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool), "inpaint takes images"),
        (torch.rand(3, 3, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool), "2 masks for 3 images"),
    ],
)
def test_bad_images_and_masks(images, mask, message):
    with pytest.raises(ValueError, match=message):
        make().inpaint(images, mask)


def test_bad_masks_in_training():
    model, mask = make(), central_mask(32, 2).expand(3, 1, -1, -1)
    for bad in (mask.float(), mask[:2], mask[..., :16], mask[:, 0]):
        with pytest.raises(ValueError, match=r"the mask must be bool \(3, 1, 32, 32\), as the images are"):
            model(pixels(), bad)
    assert float(model(pixels(), torch.zeros_like(mask)).reconstruction_loss) == 0, "nothing hidden, no error"
