"""Large contrastive batches on small memory: what the backward pass needs is computed again instead of kept.

A contrastive loss compares the images of a batch, so its batch cannot be cut into pieces whose gradients are added up:
gradient accumulation gives several small batches, not a large one. Both ways here give the gradient of the whole batch.

* `chunk`: the two passes of GradCache (Gao et al. 2021, section 3). The images are encoded some at a time and only
  the embeddings are kept; the loss of the whole batch tells the gradient of each embedding; each chunk is then encoded
  again and sends it on. What is held at once is a chunk. Batch statistics would be those of a chunk, and fixing them
  would drop their gradient, so a model with BatchNorm is refused.
* `checkpoint`: the whole batch, encoded again stage by stage (Chen et al. 2016, "Training Deep Nets with Sublinear
  Memory Cost"). What is held at once is one stage and what goes in between them.

Both are `torch.utils.checkpoint`, along the batch or along the depth: it restores the random state for dropout, and
works under mixed precision and DistributedDataParallel, which reduces the gradients once.

A model takes part if it has `embed(pixel_values)`, (N, C, H, W) to a tuple of tensors with N rows each, and calls it
once in `forward`. Any model whose loss compares samples says how many of them it needs, its `min_batch_size`, or, if
one is enough, that it is `contrastive`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hfssl.errors import InputError
from hfssl.training.sync_batchnorm import synchronise_batchnorm

logger = logging.getLogger(__name__)


def is_contrastive(model: nn.Module) -> bool:
    """Whether the model's loss compares the samples of a batch with each other, which a model may say itself."""
    return getattr(model, "contrastive", getattr(model, "min_batch_size", 1) > 1)


def _embeds_images(model: nn.Module) -> bool:
    """Whether `embed` is all that the loss sees of an image; a model may have it for one of its objectives alone."""
    return hasattr(model, "embed") and getattr(model, "embeds_images", True)


def prepare_batch(model: nn.Module, args) -> None:
    """Makes a model compute its batch as `large_batch` and `sync_batchnorm` say, and warns of what is no large batch.

    Args:
        args: `PretrainingArguments`.

    Raises:
        InputError: a batch of one image; `chunk` with BatchNorm; a model that cannot be computed in this way.
    """
    if args.sync_batchnorm and args.world_size > 1:
        synchronise_batchnorm(model, args.device)
    together, least = args.train_batch_size * args.world_size, getattr(model, "min_batch_size", 1)
    if together < least:
        raise InputError(
            f"a batch of {together} has nothing to compare with; "
            f"give a --per_device_train_batch_size of {least} or more"
        )
    if is_contrastive(model):
        _warn(model, args, together)
    if args.large_batch != "none" and not _embeds_images(model):
        raise InputError(
            f"--large_batch {args.large_batch} is for models that compare the embeddings of whole images, such as "
            f"SimCLR's; {type(model).__name__} is not computed in this way"
        )
    if args.large_batch == "chunk":
        _refuse_batchnorm(model)
        model.embed = in_chunks(model, model.embed, args.large_batch_chunk)
    elif args.large_batch == "checkpoint":
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise InputError("--large_batch checkpoint: timm cannot compute the stages of this backbone again")
        for module in model.modules():
            if hasattr(module, "set_grad_checkpointing"):  # timm's models
                module.set_grad_checkpointing(True)


def _warn(model: nn.Module, args, together: int) -> None:
    parts = args.gradient_accumulation_steps
    if parts > 1:
        also = f", with --large_batch {args.large_batch}, too" if args.large_batch != "none" else ""
        instead = "" if also or not _embeds_images(model) else " with --large_batch chunk or checkpoint"
        logger.warning(
            "--gradient_accumulation_steps %d is no larger contrastive batch%s: each of the %d parts compares its own "
            "%d images. For more negatives give a larger --per_device_train_batch_size%s",
            parts, also, parts, together, instead,
        )  # fmt: skip
    if args.world_size > 1 and not args.sync_batchnorm and _batchnorms(model):
        logger.warning("Each process's BatchNorm sees its own images; with --sync_batchnorm it sees those of all")


def _batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def _refuse_batchnorm(model: nn.Module) -> None:
    found = _batchnorms(model)
    if found:
        raise InputError(
            f"--large_batch chunk is for models without BatchNorm; {next(iter(found))} and {len(found) - 1} more would "
            "see a chunk instead of the batch: use --large_batch checkpoint"
        )


def in_chunks(model: nn.Module, embed: Callable[..., tuple], size: int) -> Callable[..., tuple]:
    """`embed` on `size` images at a time, each chunk of which is encoded again in the backward pass.

    In evaluation and without gradients it is `embed` itself.
    """

    @functools.wraps(embed)
    def embed_in_chunks(pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not (model.training and torch.is_grad_enabled()):
            return embed(pixel_values)
        parts = [checkpoint(embed, part, use_reentrant=False) for part in pixel_values.split(size)]
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    return embed_in_chunks


@contextlib.contextmanager
def running_statistics_held(model: nn.Module) -> Iterator[None]:
    """Inside it BatchNorm normalises with the batch's statistics and leaves its running ones as they are."""
    norms = list(_batchnorms(model).values())
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def hold_statistics_in_backward(accelerator, model: nn.Module) -> None:
    """A forward pass within `accelerator.backward` is one made again: the batch counts once in running statistics."""
    backward = accelerator.backward

    @functools.wraps(backward)
    def held(loss: torch.Tensor, **kwargs) -> None:
        with running_statistics_held(model):
            backward(loss, **kwargs)

    accelerator.backward = held
