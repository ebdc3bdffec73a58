"""NT-Xent, the loss of SimCLR (Chen et al. 2020, equation 1), and two of its kin, over the batch of all processes.

With 2B embeddings, two views of each of B images, s the cosine similarity and t the temperature,

    loss_i = -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t),    j the other view of i,

and the loss is the mean over the 2B rows, in nats. google-research/simclr reports the sum of both directions, twice
this. No more than some rows of the (2B, 2B) similarities are ever held.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# Similarities held at once where `chunk_size` is not given, and the fewest rows, for a matrix product worth its call.
# 4 MiB in float32 stay in a processor's cache; a GPU needs more to be busy.
_SIMILARITIES = {"cpu": 2**20, "cuda": 2**25}
_FEWEST_ROWS = 64


def nt_xent(
    z_1: torch.Tensor,
    z_2: torch.Tensor,
    temperature: float = 0.5,
    chunk_size: int | None = None,
    gather: bool = True,
    *,
    decoupled: bool = False,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """The normalised temperature-scaled cross-entropy of two views.

    With several processes each one scores its own rows against the embeddings of all. Its value is weighted such
    that the mean over the processes, of values and (as DistributedDataParallel takes it) of gradients, is exactly
    that of one process with the whole batch, for any split of the batch.

    Args:
        z_1, z_2: (B, D) embeddings of the two views, row i of both from the same image; they need not be normalised.
            Half precision is accumulated in float32.
        temperature: t; the paper's best is 0.1 on ImageNet and 0.5 on CIFAR-10.
        chunk_size: rows of similarities held at once, by default as many as are fast. The loss and its gradients, for
            which nothing is computed twice, do not depend on it. Second derivatives there are none.
        gather: use the embeddings of every process as negatives.
        decoupled: leave the positive out of the denominator (DCL, Yeh et al. 2022, equation 6), which keeps the
            gradient large in small batches.
        labels: (B,) integers; every embedding of the same class is then a positive, and the loss of a row is the mean
            over its positives (SupCon, Khosla et al. 2020, equation 2, L_out; the authors' code multiplies it by
            t / 0.07). With a class for each image it is NT-Xent.

    Returns:
        A scalar.

    Raises:
        ValueError: if the shapes differ, a parameter is out of range, or `decoupled` has one image alone.
    """
    _check(z_1, z_2, temperature, chunk_size, decoupled, labels)
    precision = torch.float64 if z_1.dtype == torch.float64 else torch.float32
    with torch.autocast(z_1.device.type, enabled=False):
        z = F.normalize(torch.stack([z_1, z_2]).to(precision), dim=-1)  # (2, B, D)
        keys, start, world_size = gather_batch(z) if gather else (z, 0, 1)  # (2, N, D): N images on all processes
        local, total = z.shape[1], keys.shape[1]
        if decoupled and total < 2:
            raise ValueError("decoupled: without its positive a single image has nothing to be compared with")
        rows = torch.arange(start, start + local, device=z.device)
        itself, positive = torch.cat([rows, rows + total]), torch.cat([rows + total, rows])  # (2B,) columns
        excluded = torch.stack([itself, positive], 1) if decoupled else itself[:, None]  # (2B, 1 or 2)
        keys = keys.flatten(0, 1)  # (2N, D)
        keys = keys if torch.is_grad_enabled() else keys.detach()  # then no gradient is prepared
        chunk_size = chunk_size or _rows_at_once(keys)
        if labels is None:
            summed = _SummedContrast.apply(keys, itself, excluded, positive, temperature, chunk_size)
        else:
            labels = gather_batch(labels.long()[None, :, None])[0].flatten() if gather else labels  # (N,)
            summed = _SummedContrast.apply(keys, itself, excluded, None, temperature, chunk_size)
            # The mean of the scores of the positives is the score of their mean.
            summed = summed - (keys[itself] * _mean_of_class(keys, itself, labels)).sum() / temperature
        return summed * (world_size / (2 * total))


class NTXentLoss(nn.Module):
    """`nt_xent` as a module with lightly's argument names. Other than lightly's it gathers by default.

    Args:
        temperature, chunk_size, decoupled: as `nt_xent`'s.
        memory_bank_size: 0. A memory bank is MoCo's, and embeddings of older weights are not SimCLR's negatives.
        gather_distributed: `nt_xent`'s `gather`.

    Raises:
        ValueError: if a memory bank is asked for.

    Example:
        >>> loss = NTXentLoss(temperature=0.5)(z_1, z_2)
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int = 0,
        gather_distributed: bool = True,
        chunk_size: int | None = None,
        decoupled: bool = False,
    ):
        super().__init__()
        if memory_bank_size:
            raise ValueError(
                f"memory_bank_size must be 0, not {memory_bank_size}: there is no memory bank; "
                "a larger batch gives more negatives, and this loss takes little memory for them"
            )
        self.temperature, self.gather_distributed = temperature, gather_distributed
        self.chunk_size, self.decoupled = chunk_size, decoupled

    def forward(self, out0: torch.Tensor, out1: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """out0, out1: (B, D) embeddings of the two views; labels: (B,), for the supervised loss."""
        return nt_xent(
            out0, out1, self.temperature, self.chunk_size, self.gather_distributed,
            decoupled=self.decoupled, labels=labels,
        )  # fmt: skip


def _check(z_1, z_2, temperature: float, chunk_size: int | None, decoupled: bool, labels) -> None:
    if z_1.ndim != 2 or z_1.shape != z_2.shape:
        raise ValueError(
            f"nt_xent needs two (B, D) tensors of one shape, not {tuple(z_1.shape)} and {tuple(z_2.shape)}"
        )
    if temperature <= 0 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"temperature {temperature} and chunk_size {chunk_size} must be positive")
    if labels is None:
        return
    if labels.shape != z_1.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be {len(z_1)} integers, one an image, not {labels.dtype} {tuple(labels.shape)}")
    if decoupled:
        raise ValueError("decoupled leaves out one positive and labels give many: take one of the two")


def _rows_at_once(keys: torch.Tensor) -> int:
    return max(_FEWEST_ROWS, _SIMILARITIES.get(keys.device.type, _SIMILARITIES["cuda"]) // len(keys))


def _mean_of_class(keys: torch.Tensor, itself: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """For each row the mean of the other embeddings of its class, (2B, D); keys (2N, D), itself (2B,), labels (N,)."""
    names, classes = labels.unique(return_inverse=True)
    classes = classes.repeat(2)  # (2N,)
    sums = keys.new_zeros(len(names), keys.shape[1]).index_add(0, classes, keys)
    own = classes[itself]
    return (sums[own] - keys[itself]) / (classes.bincount()[own] - 1)[:, None]


class _SummedContrast(torch.autograd.Function):
    """The sum over rows of logsumexp(logits) - logits[positive], some rows at a time; without `positive` of the first.

    keys (2N, D); itself and positive (2B,) and excluded (2B, E) are rows of the keys. A chunk holds all columns of its
    rows, so its softmax, and with it its share of the gradient, is complete as soon as it is computed: the forward
    pass keeps the gradient, (2N, D), and no logits. The softmax is never divided by its sums: the narrow matrices
    beside it are.
    """

    @staticmethod
    def forward(ctx: Any, keys, itself, excluded, positive, temperature: float, chunk_size: int) -> torch.Tensor:
        total = keys.new_zeros(())
        grad = torch.zeros_like(keys) if ctx.needs_input_grad[0] else None
        for first in range(0, len(itself), chunk_size):
            here = slice(first, first + chunk_size)
            queries = keys[itself[here]]  # (c, D)
            logits = (queries / temperature) @ keys.T  # (c, 2N)
            partner = None if positive is None else logits.gather(1, positive[here, None])  # (c, 1)
            logits.scatter_(1, excluded[here], float("-inf"))
            largest = logits.amax(1, keepdim=True)  # (c, 1)
            sums = logits.sub_(largest).exp_().sum(1, keepdim=True)  # what was the logits is now the softmax times sums
            rest = largest if partner is None else largest - partner
            total += (sums.log() + rest).sum()
            if grad is None:
                continue
            expected = (logits @ keys).div_(sums)  # (c, D), the mean key under the softmax
            grad.addmm_(logits.T, queries / sums)
            if positive is not None:
                expected -= keys[positive[here]]
                grad.index_add_(0, positive[here], queries, alpha=-1)
            grad.index_add_(0, itself[here], expected)
        if grad is not None:
            ctx.save_for_backward(grad.div_(temperature))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None, None, None


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
