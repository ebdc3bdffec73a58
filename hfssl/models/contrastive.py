"""NT-Xent, the loss of SimCLR (Chen et al. 2020, equation 1), over the batch of all processes.

With 2B embeddings, two views of each of B images, s the cosine similarity and t the temperature,

    loss_i = -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t),    j the other view of i,

and the loss is the mean over the 2B rows, in nats. google-research/simclr reports the sum of both directions, twice
this.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def nt_xent(
    z_1: torch.Tensor,
    z_2: torch.Tensor,
    temperature: float = 0.5,
    gather: bool = True,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """The normalised temperature-scaled cross-entropy of two views.

    With several processes each one scores its own rows against the embeddings of all. Its value is weighted such
    that the mean over the processes, of values and (as DistributedDataParallel takes it) of gradients, is exactly
    that of one process with the whole batch, for any split of the batch.

    Args:
        z_1, z_2: (B, D) embeddings of the two views, row i of both from the same image; they need not be normalised.
            Half precision is accumulated in float32.
        temperature: t; the paper's best is 0.1 on ImageNet and 0.5 on CIFAR-10.
        gather: use the embeddings of every process as negatives.
        chunk_size: score this many rows at a time and never hold the whole (2B, 2B) matrix: the same loss and
            gradients in O(chunk_size * B) memory. No second derivatives.

    Returns:
        A scalar.

    Raises:
        ValueError: if the shapes differ or a parameter is out of range.
    """
    if z_1.ndim != 2 or z_1.shape != z_2.shape:
        raise ValueError(
            f"nt_xent needs two (B, D) tensors of one shape, not {tuple(z_1.shape)} and {tuple(z_2.shape)}"
        )
    if temperature <= 0 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"temperature {temperature} and chunk_size {chunk_size} must be positive")
    precision = torch.float64 if z_1.dtype == torch.float64 else torch.float32
    with torch.autocast(z_1.device.type, enabled=False):
        z = F.normalize(torch.stack([z_1, z_2]).to(precision), dim=-1)  # (2, B, D)
        keys, start, world_size = gather_batch(z) if gather else (z, 0, 1)  # (2, N, D): N images on all processes
        local, total = z.shape[1], keys.shape[1]
        rows = torch.arange(start, start + local, device=z.device)
        itself, positive = torch.cat([rows, rows + total]), torch.cat([rows + total, rows])  # (2B,) columns
        queries, keys = z.flatten(0, 1), keys.flatten(0, 1)  # (2B, D), (2N, D)
        if chunk_size is None:
            logits = queries @ keys.T / temperature  # (2B, 2N)
            logits = logits.scatter(1, itself[:, None], float("-inf"))
            summed = F.cross_entropy(logits, positive, reduction="sum")
        else:
            summed = _ChunkedCrossEntropy.apply(queries, keys, itself, positive, temperature, chunk_size)
        return summed * (world_size / (2 * total))


class NTXentLoss(nn.Module):
    """`nt_xent` as a module with lightly's argument names. Other than lightly's it gathers by default.

    Example:
        >>> loss = NTXentLoss(temperature=0.5)(z_1, z_2)
    """

    def __init__(self, temperature: float = 0.5, gather_distributed: bool = True, chunk_size: int | None = None):
        super().__init__()
        self.temperature, self.gather_distributed, self.chunk_size = temperature, gather_distributed, chunk_size

    def forward(self, out0: torch.Tensor, out1: torch.Tensor) -> torch.Tensor:
        """out0, out1: (B, D) embeddings of the two views."""
        return nt_xent(out0, out1, self.temperature, self.gather_distributed, self.chunk_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum over rows of logsumexp(logits) - logits[positive], some rows at a time.

    A chunk holds all columns of its rows, so its softmax, and with it its share of the gradient, is complete as soon as
    it is computed: the forward pass keeps the gradients, (2B, D) and (2N, D), and no logits.
    """

    @staticmethod
    def forward(ctx: Any, queries, keys, itself, positive, temperature: float, chunk_size: int) -> torch.Tensor:
        need_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = queries.new_zeros(())
        grad_queries, grad_keys = (torch.zeros_like(queries), torch.zeros_like(keys)) if need_grad else (None, None)
        for first in range(0, len(queries), chunk_size):
            here = slice(first, first + chunk_size)
            logits = (queries[here] @ keys.T).div_(temperature)  # (c, 2N)
            logits.scatter_(1, itself[here, None], float("-inf"))
            log_sum = logits.logsumexp(1, keepdim=True)  # (c, 1)
            total += (log_sum - logits.gather(1, positive[here, None])).sum()
            if need_grad:
                softmax = logits.sub_(log_sum).exp_()
                softmax.scatter_add_(1, positive[here, None], -torch.ones_like(log_sum))
                torch.mm(softmax, keys, out=grad_queries[here])
                grad_keys.addmm_(softmax.T, queries[here])
        if need_grad:
            ctx.save_for_backward(grad_queries.div_(temperature), grad_keys.div_(temperature))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor):
        grad_queries, grad_keys = ctx.saved_tensors
        return grad_queries * grad_output, grad_keys * grad_output, None, None, None, None


def gather_batch(z: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Concatenates every process's embeddings along the batch, in the order of the ranks, with gradients.

    Args:
        z: (V, B, D); B may differ between processes.

    Returns:
        The tensor (V, N, D), where this process's rows start, and the number of processes. Without a process group,
        or with one process, z itself.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return z, 0, 1
    world_size, rank = dist.get_world_size(), dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64, device=z.device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([z.shape[1]], device=z.device))
    sizes = torch.cat(sizes).tolist()
    padded = F.pad(z, (0, 0, 0, max(sizes) - z.shape[1]))  # (V, M, D): collectives want one shape
    parts = _AllGather.apply(padded.contiguous())  # (W, V, M, D)
    together = torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)
    return together, sum(sizes[:rank]), world_size


class _AllGather(torch.autograd.Function):
    """(...) on each of W processes -> (W, ...) on all; backwards each process gets the sum of its slice's gradients.

    `torch.distributed.nn.functional.all_gather` does the same and is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
        grad_output = grad_output.contiguous()
        own = torch.empty_like(grad_output[0])
        if dist.get_backend() != "gloo":  # gloo's reduce_scatter is not there on every version and device
            with contextlib.suppress(NotImplementedError):
                dist.reduce_scatter(own, list(grad_output.unbind(0)))
                return own
        dist.all_reduce(grad_output)
        return grad_output[dist.get_rank()].clone()


def cpc_loss(z_x: torch.Tensor, z_y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The lecture's CPC loss (McAllester, TTIC 31230): which of N candidates belongs to x?

        loss = -ln softmax_i (z_y[i] . z_x) [index],    the mean over B tuples, in nats.

    Scores are plain inner products. With z = h / (|h| sqrt(t)) they are SimCLR's cosines over a temperature, and with
    the 2B - 1 other embeddings of the batch as candidates the loss is `nt_xent`.

    Args:
        z_x: (B, D).
        z_y: (B, N, D), the candidates of each x: its partner and N - 1 distractors in any order.
        index: (B,) integers, where the partner is.

    Returns:
        A scalar. Half precision is accumulated in float32.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    if z_x.ndim != 2 or z_y.ndim != 3 or index.ndim != 1:
        raise ValueError(f"cpc_loss needs (B, D), (B, N, D) and (B,), not {_shapes(z_x, z_y, index)}")
    if not len(z_x) == len(z_y) == len(index) or z_x.shape[1] != z_y.shape[2]:
        raise ValueError(f"the B or D of z_x, z_y and index differ: {_shapes(z_x, z_y, index)}")
    precision = torch.float64 if z_x.dtype == torch.float64 else torch.float32
    with torch.autocast(z_x.device.type, enabled=False):
        scores = torch.einsum("bd,bnd->bn", z_x.to(precision), z_y.to(precision))  # (B, N)
        return (scores.logsumexp(1) - scores.gather(1, index[:, None])[:, 0]).mean()


def cpc_loss_in_batch(z_x: torch.Tensor, z_y: torch.Tensor, gather: bool = True) -> torch.Tensor:
    """`cpc_loss` where the distractors of each pair are the other y of the batch, so N is the size of the batch.

    The candidates are the same for every x, so the (B, N, D) of the tuples is never made. Several processes give what
    one gives with the whole batch, for any split of it, as in `nt_xent`.

    Args:
        z_x, z_y: (B, D), row i of both from one pair.
        gather: take the y of every process as distractors, with gradients.

    Raises:
        ValueError: if the shapes differ, or there is a single pair and so no distractor.
    """
    if z_x.ndim != 2 or z_x.shape != z_y.shape:
        raise ValueError(f"cpc_loss_in_batch needs two (B, D) tensors of one shape, not {_shapes(z_x, z_y)}")
    precision = torch.float64 if z_x.dtype == torch.float64 else torch.float32
    with torch.autocast(z_x.device.type, enabled=False):
        z_x, z_y = z_x.to(precision), z_y.to(precision)
        candidates, start, world_size = gather_batch(z_y[None]) if gather else (z_y[None], 0, 1)  # (1, N, D)
        total = candidates.shape[1]
        if total < 2:
            raise ValueError("a batch of one pair has no distractor")
        partner = torch.arange(start, start + len(z_x), device=z_x.device)
        summed = F.cross_entropy(z_x @ candidates[0].T, partner, reduction="sum")
        return summed * (world_size / total)


def _shapes(*tensors: torch.Tensor) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
