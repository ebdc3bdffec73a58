"""BatchNorm whose statistics are those of the images of all processes.

With it several processes equal one with the whole batch. torch's SyncBatchNorm does this on GPUs and raises on the
CPU; the one here works wherever the processes can gather. Only the modules of a model in training are exchanged: the
state dict, and so what is saved, stays that of `nn.BatchNorm`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> None:
    """Exchanges every BatchNorm of a model, the projection head's too, in place. Weights and buffers stay the same.

    Args:
        device: where it will be trained; on "cuda" torch's own modules are taken.
    """
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # also knows timm's BatchNorm with an activation

        convert_sync_batchnorm(model)
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, SyncedBatchNorm.like(child))


class SyncedBatchNorm(_BatchNorm):
    """As `nn.BatchNorm1d` and so on, for inputs (N, C, ...) of any number of axes; N may differ between processes.

    `drop` and `act` are those of timm's BatchNormAct2d.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drop, self.act = nn.Identity(), nn.Identity()

    @classmethod
    def like(cls, module: _BatchNorm) -> SyncedBatchNorm:
        """With the same weights and buffers, not copies of them."""
        synced = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        synced.weight, synced.bias = module.weight, module.bias
        synced.running_mean, synced.running_var = module.running_mean, module.running_var
        synced.num_batches_tracked = module.num_batches_tracked
        synced.drop, synced.act = getattr(module, "drop", synced.drop), getattr(module, "act", synced.act)
        return synced.train(module.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of axes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        x = self._normalise(x) if self.training and several else super().forward(x)
        return self.act(self.drop(x))

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        y, mean, variance, count = _SyncedNormalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return y


class _SyncedNormalise(torch.autograd.Function):
    """Normalises by the mean and variance over all processes (Ioffe and Szegedy 2015, algorithm 1 and section 3).

    Forward the processes exchange mean, variance and count of their parts, each taken around its own mean, which keeps
    the digits that a difference of sums of squares loses; backward the two sums of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, eps: float):
        axes, channels = [0, *range(2, x.ndim)], x.shape[1]
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, axes, correction=0)  # (C,) each
        own = torch.cat([mean, variance, mean.new_tensor([x.numel() / channels])])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        means, variances, counts = torch.stack(parts).split([channels, channels, 1], dim=1)  # (W, C), (W, C), (W, 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: torch.Tensor, *unused):
        x, weight, mean, inverse, count = ctx.saved_tensors
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        grad = grad_y.to(mean.dtype)
        normed = (x - mean.view(shape)) * inverse.view(shape)
        sums = torch.stack([grad.sum(axes), (grad * normed).sum(axes)])  # (2, C)
        # DistributedDataParallel adds up the gradients of the weights, so theirs are those of this process alone.
        grad_bias, grad_weight = sums.clone().unbind(0)
        dist.all_reduce(sums)
        grad_mean, grad_scale = (part.view(shape) for part in sums / count)
        scale = inverse if weight is None else inverse * weight
        grad_x = (grad - grad_mean - normed * grad_scale) * scale.view(shape)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None
