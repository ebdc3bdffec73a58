"""Patches, norms, context and InfoNCE of image CPC, each against a slow loop or a closed form."""

import math

import pytest
import timm
import torch
from torch import nn

from hfssl.models.patch_prediction import (
    DIRECTIONS,
    NEGATIVES,
    MaskedContext,
    _draw,
    count_negatives,
    extract_patches,
    keep_one_channel,
    patch_info_nce,
    replace_batchnorm,
    turn,
)


@pytest.mark.parametrize(
    ("size", "patch", "stride", "grid"), [(32, 8, 4, 7), (64, 16, 8, 7), (256, 64, 32, 7), (17, 5, 3, 5)]
)
def test_patches_are_crops(size, patch, stride, grid):
    images = torch.randn(2, 3, size, size + stride)
    patches = extract_patches(images, patch, stride)
    assert patches.shape == (2, grid, grid + 1, 3, patch, patch)
    for u in range(grid):
        for v in range(grid + 1):
            crop = images[:, :, u * stride : u * stride + patch, v * stride : v * stride + patch]
            assert torch.equal(patches[:, u, v], crop)
    with pytest.raises(ValueError, match="holds no patch of 40"):
        extract_patches(images[..., :30, :], 40, 4)


def test_a_patch_keeps_one_channel_or_all():
    patches = torch.randn(2, 2, 3, 4, 4) + 10
    kept = keep_one_channel(patches, torch.tensor([[-1, 0], [1, 2]]))
    assert torch.equal(kept[0, 0], patches[0, 0])
    for patch, before, channel in ((kept[0, 1], patches[0, 1], 0), (kept[1, 0], patches[1, 0], 1)):
        assert torch.equal(patch[channel], before[channel])
        assert patch.abs().sum((1, 2)).count_nonzero() == 1


@pytest.mark.parametrize("name", ["resnet10t", "resnetv2_18", "test_efficientnet"])
@pytest.mark.parametrize("norm", ["layer", "group", "none"])
def test_no_batch_norm_is_left_and_a_patch_knows_no_other(name, norm):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).train()
    old = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    weights, activations = [module.weight.clone() for module in old], sum(isinstance(m, nn.ReLU) for m in net.modules())
    replace_batchnorm(net, norm)
    assert old and not [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert sum(isinstance(module, nn.ReLU) for module in net.modules()) == activations
    new = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert len(new) == (0 if norm == "none" else len(old))
    assert all(torch.equal(module.weight, weight) for module, weight in zip(new, weights, strict=False))
    for module in new:
        per_group = module.num_channels // module.num_groups
        assert module.num_groups == 1 if norm == "layer" else per_group >= 8 or module.num_groups == 1
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(net(images)[:1], net(images[:1]), rtol=1e-4, atol=1e-5)


def test_kept_batch_norm_is_kept():
    net = timm.create_model("resnet10t", num_classes=0)
    before = [type(module) for module in net.modules()]
    replace_batchnorm(net, "keep")
    assert [type(module) for module in net.modules()] == before


def test_what_lies_in_a_direction_is_turned_below():
    grid = torch.arange(12).view(3, 4)
    step = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
    for direction in DIRECTIONS:
        turned = turn(grid, direction)
        assert torch.equal(turn(turned, direction), grid)
        down, right = step[direction]
        for above, below in zip(turned[:-1].flatten().tolist(), turned[1:].flatten().tolist(), strict=True):
            assert (below // 4, below % 4) == (above // 4 + down, above % 4 + right)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_context_sees_its_row_and_those_above_as_far_as_it_says(layers):
    torch.manual_seed(0)
    context = MaskedContext(3, 16, layers).double()
    grid = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    before = context(grid)
    for row in range(6):
        for column in range(7):
            changed = grid.clone()
            changed[0, :, row, column] += 1
            moved = (context(changed) != before)[0].any(0)  # (6, 7)
            may = torch.zeros(6, 7, dtype=torch.bool)
            may[row : row + layers + 1, max(0, column - layers) : column + layers + 1] = True
            assert not (moved & ~may).any()
            assert moved[row, column] and moved[row : row + layers + 1].any(1).all()
    assert context(grid).min() == 0  # the last ReLU


def problem(images=3, patches=4, queries=5, dim=3):
    torch.manual_seed(0)
    predictions = torch.randn(2, queries, dim, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(images, patches, dim, dtype=torch.float64, requires_grad=True)
    return predictions, keys, torch.randint(patches, (queries,))


def slow(predictions, keys, targets, first, negatives):
    total = 0.0
    for b in range(len(predictions)):
        for q, target in enumerate(targets.tolist()):
            scores = {(n, p): predictions[b, q] @ keys[n, p] for n in range(len(keys)) for p in range(keys.shape[1])}
            positive = scores.pop((first + b, target))
            kept = [
                score
                for (n, _), score in scores.items()
                if negatives == "all" or (n == first + b) == (negatives == "same_image")
            ]
            total = total - torch.log(positive.exp() / (positive.exp() + sum(score.exp() for score in kept)))
    return total


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_info_nce_equals_the_slow_loop(negatives, chunk_size):
    predictions, keys, targets = problem()
    ours = patch_info_nce(predictions, keys, targets, 1, negatives, chunk_size=chunk_size)
    expected = slow(predictions, keys, targets, 1, negatives)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-11)
    gradients = [torch.autograd.grad(loss, (predictions, keys)) for loss in (ours, expected)]
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_equal_scores_give_the_logarithm_of_the_candidates(negatives):
    _, keys, targets = problem()
    nothing = torch.zeros(2, 5, 3, dtype=torch.float64)
    for number in (None, 6):
        loss = patch_info_nce(nothing, keys, targets, 0, negatives, number)
        expected = {"all": 12, "other_images": 9, "same_image": 4}[negatives] if number is None else 7
        assert loss.item() / 10 == pytest.approx(math.log(expected), abs=1e-12)
        assert 1 + count_negatives(3, 4, negatives, number) == expected


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_drawn_negatives_are_uniform_over_the_right_patches_and_never_the_positive(negatives):
    own, targets = torch.tensor([1, 2]), torch.tensor([0, 3, 1])
    drawn = _draw(own, targets, (3, 4), negatives, 3000, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 3, 3000)
    for b, image in enumerate(own.tolist()):
        for q, target in enumerate(targets.tolist()):
            allowed = [
                4 * n + p
                for n in range(3)
                for p in range(4)
                if (n, p) != (image, target) and (negatives == "all" or (n == image) == (negatives == "same_image"))
            ]
            counts = torch.bincount(drawn[b, q], minlength=12)
            assert counts.nonzero()[:, 0].tolist() == allowed
            assert (counts[allowed] * len(allowed) / 3000 - 1).abs().max() < 0.15


def test_drawn_negatives_are_those_that_are_scored():
    predictions, keys, targets = problem()
    loss = patch_info_nce(predictions, keys, targets, 1, "all", 2, generator=torch.Generator().manual_seed(3))
    drawn = _draw(torch.tensor([1, 2]), targets, (3, 4), "all", 2, torch.Generator().manual_seed(3))
    flat, total = keys.flatten(0, 1), 0.0
    for b in range(2):
        for q, target in enumerate(targets.tolist()):
            scores = [predictions[b, q] @ flat[i] for i in [4 * (1 + b) + target, *drawn[b, q].tolist()]]
            total = total - torch.log(scores[0].exp() / sum(score.exp() for score in scores))
    assert loss.item() == pytest.approx(total.item(), abs=1e-12)


def test_half_precision_and_no_negatives():
    predictions, keys, targets = (x.detach() if x.is_floating_point() else x for x in problem())
    half, full = predictions.bfloat16(), predictions.bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = patch_info_nce(half, keys.bfloat16(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, patch_info_nce(full, keys.bfloat16().float(), targets))
    with pytest.raises(ValueError, match="no negatives: 1 image"):
        patch_info_nce(predictions[:1], keys[:1], targets, 0, "other_images")
