"""The parts of image CPC: patches, an encoder without batch statistics, the context network, and InfoNCE over patches.

The sources are van den Oord et al. 2018 ("Representation Learning with Contrastive Predictive Coding", section 3.2,
here v1) and Hénaff et al. 2019 ("Data-Efficient Image Recognition with Contrastive Predictive Coding", here v2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import nn
from torch.utils.checkpoint import checkpoint

NORMS = ("layer", "group", "none", "keep")
NEGATIVES = ("all", "other_images", "same_image")
DIRECTIONS = ("down", "up", "right", "left")  # the first 1, 2 or 4 are used


def extract_patches(images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Cuts images (B, C, H, W) into overlapping squares (B, rows, columns, C, size, size).

    What is over at the right and at the bottom is left out.

    Raises:
        ValueError: a patch is larger than the image.
    """
    if min(images.shape[-2:]) < size:
        raise ValueError(f"an image of {images.shape[-2]} x {images.shape[-1]} pixels holds no patch of {size}")
    return images.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)


def keep_one_channel(patches: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """v2's colour dropping: sets all but one channel of a patch to 0, the mean of normalised pixels.

    Args:
        patches: (..., C, size, size).
        channels: integers (...), the channel that is kept; a negative one keeps all.
    """
    kept = F.one_hot(channels.clamp(min=0), patches.shape[-3]).bool() | (channels < 0)[..., None]  # (..., C)
    return patches * kept[..., None, None]


def replace_batchnorm(module: nn.Module, norm: str) -> None:
    """Replaces each BatchNorm2d in place, with its weight and bias, since the statistics of a batch tell each patch of
    the others, the one to be predicted among them (v2, section 4.1).

    Args:
        norm: "layer" normalises all channels and pixels of a patch together (v2), "group" groups of at least 8
            channels, at most 32 groups; "none" leaves only the activation, if the layer has one; "keep" does nothing.
    """
    if norm == "keep":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _replacement(child, norm))
        else:
            replace_batchnorm(child, norm)


def _replacement(old: nn.BatchNorm2d, norm: str) -> nn.Module:
    has_act = isinstance(old, BatchNormAct2d)  # timm's layer with an activation behind it
    if norm == "none":
        return nn.Sequential(old.drop, old.act) if has_act else nn.Identity()
    channels, groups = old.num_features, 1
    if norm == "group":  # of single channels nothing would be left where a map has one pixel
        groups = math.gcd(channels, 32)
        while groups > max(1, channels // 8):
            groups //= 2
    if has_act:
        new = GroupNormAct(channels, groups, eps=old.eps, affine=old.affine)
        new.drop, new.act = old.drop, old.act
    else:
        new = nn.GroupNorm(groups, channels, eps=old.eps, affine=old.affine)
    if old.affine:
        new.weight, new.bias = old.weight, old.bias  # the zeros with which timm ends a residual branch, too
    return new


def turn(grid: torch.Tensor, direction: str) -> torch.Tensor:
    """Turns a grid (..., rows, columns) so that what lies in `direction` lies below; a second time it turns back."""
    if direction == "down":
        return grid
    if direction == "up":
        return grid.flip(-2)
    if direction == "right":
        return grid.transpose(-1, -2)
    return grid.flip(-2, -1).transpose(-1, -2)  # "left", along the other diagonal


class MaskedContext(nn.Module):
    """The PixelCNN-like context network of v2's appendix A: residual blocks of masked convolutions.

    After L blocks the context at (u, v) is a function of the features at rows u - L ... u and columns v - L ... v + L:
    of its own row, on both sides, and of the rows above, never of a row below.

    Args:
        features: D of the grid, and of the context.
        hidden: width inside a block (256 in the paper).
        layers: L (5 in the paper).
    """

    def __init__(self, features: int, hidden: int, layers: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),  # the row itself, to both sides
                nn.ZeroPad2d((0, 0, 1, 0)),  # above, so that the next convolution ends at its own row
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(),
                nn.Conv2d(hidden, features, 1),
            )
            for _ in range(layers)
        )

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """(B, D, rows, columns) to the same."""
        for block in self.blocks:
            grid = grid + block(grid)
        return F.relu(grid)


def patch_info_nce(
    predictions: torch.Tensor,
    patches: torch.Tensor,
    targets: torch.Tensor,
    first_image: int = 0,
    negatives: str = "all",
    num_negatives: int | None = None,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """InfoNCE, summed over all predictions, in nats: which patch was predicted? Scores are inner products.

    The patch that was predicted is never among the negatives.

    Args:
        predictions: (B, Q, D), of each of B images Q predictions.
        patches: (N, P, D), what all patches of N images (those of the other processes among them) are.
        targets: (Q,), which of the P patches of its own image each prediction is of.
        first_image: where this process's B images begin among the N.
        negatives: "all" other patches of all images, those of the "other_images", or those of the "same_image".
        num_negatives: draw so many of them for each prediction, with replacement; by default all are used.
        chunk_size: images whose scores are held at a time; they are computed again in the backward pass.
        generator: of the draws.
    """
    count = len(predictions)
    count_negatives(*patches.shape[:2], negatives)  # refuses a batch that has none
    precision = torch.float64 if predictions.dtype == torch.float64 else torch.float32
    with torch.autocast(predictions.device.type, enabled=False):
        predictions, patches = predictions.to(precision), patches.to(precision)
        own = first_image + torch.arange(count, device=predictions.device)  # (B,)
        if num_negatives is not None:
            drawn = _draw(own, targets, patches.shape[:2], negatives, num_negatives, generator)  # (B, Q, M)
            return _sampled(predictions, patches.flatten(0, 1), own[:, None] * patches.shape[1] + targets, drawn)
        if chunk_size is None or chunk_size >= count:
            return _complete(predictions, patches, targets, own, negatives)
        parts = zip(predictions.split(chunk_size), own.split(chunk_size), strict=True)
        sums = [
            checkpoint(_complete, part, patches, targets, here, negatives, use_reentrant=False) for part, here in parts
        ]
        return torch.stack(sums).sum()


def _complete(predictions, patches, targets, own, negatives: str) -> torch.Tensor:
    """With every negative: one product of matrices, (b * Q, D) by (D, N * P), or one an image."""
    count, (images, each) = len(predictions), patches.shape[:2]
    if negatives == "same_image":
        scores = predictions @ patches[own].mT  # (b, Q, P)
        return F.cross_entropy(scores.flatten(0, 1), targets.repeat(count), reduction="sum")
    scores = predictions @ patches.flatten(0, 1).T  # (b, Q, N * P)
    if negatives == "other_images":
        place = torch.arange(images * each, device=own.device)
        same = place // each == own[:, None]  # (b, N * P)
        other = place % each != targets[:, None]  # (Q, N * P)
        scores = scores.masked_fill(same[:, None] & other, float("-inf"))
    return F.cross_entropy(scores.flatten(0, 1), (own[:, None] * each + targets).flatten(), reduction="sum")


def _draw(own, targets, shape, negatives: str, num_negatives: int, generator) -> torch.Tensor:
    """(B, Q, M) indices of patches, uniform over those that `negatives` names, by leaving out what is not meant."""
    images, each = shape
    begin, target = own[:, None, None] * each, targets[None, :, None]  # of the own image; in it
    eligible = count_negatives(images, each, negatives)
    size = (len(own), len(targets), num_negatives)
    drawn = torch.randint(eligible, size, generator=generator, device=own.device)
    if negatives == "other_images":
        return drawn + each * (drawn >= begin)
    if negatives == "same_image":
        return begin + drawn + (drawn >= target)
    return drawn + (drawn >= begin + target)


def _sampled(predictions, patches, positives, drawn) -> torch.Tensor:
    chosen = F.embedding(torch.cat([positives[..., None], drawn], -1), patches)  # (B, Q, 1 + M, D)
    scores = torch.einsum("bqd,bqmd->bqm", predictions, chosen)
    return (scores.logsumexp(-1) - scores[..., 0]).sum()


def count_negatives(images: int, patches: int, negatives: str, num_negatives: int | None = None) -> int:
    """How many negatives one prediction has among `images` of `patches` each.

    Raises:
        ValueError: there are none.
    """
    eligible = {
        "all": images * patches - 1,
        "other_images": (images - 1) * patches,
        "same_image": patches - 1,
    }[negatives]
    if eligible < 1:
        raise ValueError(f"no negatives: {images} image(s) of {patches} patch(es), negatives '{negatives}'")
    return num_negatives or eligible
