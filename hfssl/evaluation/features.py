"""Features: what an encoder makes of each image, once, by all processes together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hfssl.data.augmentation import Augmentation, eval_view
from hfssl.data.collators import TwoViewCollator, stack_images
from hfssl.errors import InputError, one_line
from hfssl.evaluation.encoders import Encoder, as_encoder


def join_processes(device: str | None = None) -> str:
    """Joins the other processes that a launcher started, and says this one's device; alone it only says the device.

    Args:
        device: by default a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", backend="gloo" if device == "cpu" else None)
        return str(state.device)
    return device


def is_first_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def extract_features(
    encoder: Encoder | nn.Module | Callable,
    images: Sequence[Any],
    image_size: int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """The features of each image, once and in order, in evaluation mode and without gradients.

    Several processes share the batches, the same batches as one process has, and all get all features. All must call.

    Args:
        encoder: an `Encoder`, or anything that `as_encoder` takes.
        images: items {"image": uint8 (3, H, W)}, or a tensor uint8 (N, 3, H, W).
        image_size: side of the input; by default the model's own.
        device: by default that of the weights.

    Returns:
        float32 (N, D) on the CPU.

    Raises:
        InputError: no images, or features that are not finite; it names the layer in which they first are not.
    """
    encoder = as_encoder(encoder, image_size)
    return _extract(encoder, encoder.encode, images, batch_size, device, progress)["pooled"]


def extract_layers(
    encoder: Encoder | nn.Module,
    images: Sequence[Any],
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> dict[str, torch.Tensor]:
    """As `extract_features`, after each stage or block by its name and in order, in one pass; last "pooled".

    Raises:
        InputError: as `extract_features`, or the model does not show its layers.
    """
    encoder = as_encoder(encoder)
    if encoder.encode_layers is None:
        raise InputError(f"{encoder.name} does not give the features after each layer: leave --layers out")
    return _extract(encoder, encoder.encode_layers, images, batch_size, device, progress)


def extract_view(
    encoder: Encoder,
    images: Sequence[Any],
    augmentation: Augmentation,
    seed: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """As `extract_features`, of an augmented view of each image; the seed decides which."""
    collator = TwoViewCollator(augmentation, seed, views=1)

    def view(start: int, batch: list[torch.Tensor]) -> torch.Tensor:
        items = [{"image": image, "index": start + place} for place, image in enumerate(batch)]
        return collator(items)["pixel_values"][:, 0]

    return _extract(encoder, encoder.encode, images, batch_size, device, False, view)["pooled"]


def _extract(
    encoder: Encoder, encode, images, batch_size: int, device, progress: bool, view=None
) -> dict[str, torch.Tensor]:
    if not len(images):
        raise InputError("there are no images to extract features from")
    module = encoder.module
    weight = next(module.parameters(), None) if module is not None else None
    target = torch.device(device) if device is not None else (weight.device if weight is not None else "cpu")
    modes = [(part, part.training) for part in module.modules()] if module is not None else []
    if module is not None:
        module.eval().to(target)
    features: dict[str, torch.Tensor] = {}
    problem = None
    try:
        with torch.inference_mode():
            for start, batch in _batches(encoder, images, batch_size, progress):
                pixels = view(start, batch) if view else _eval_view(encoder, batch, target)
                pixels = pixels.to(target, weight.dtype if weight is not None else torch.float32)
                try:
                    found = encode(pixels)
                except (TypeError, ValueError, RuntimeError, AssertionError) as error:  # each library has its own
                    size = "x".join(map(str, pixels.shape[1:]))
                    raise InputError(f"{encoder.name} cannot encode images of {size}: {one_line(error)}") from error
                for name, part in (found if isinstance(found, dict) else {"pooled": found}).items():
                    if not part.isfinite().all():
                        raise InputError(_not_finite(encoder, encode, pixels, part))
                    if name not in features:
                        features[name] = torch.zeros(len(images), part.shape[1])
                    features[name][start : start + len(part)] = part.float().cpu()
    except InputError as error:
        problem = error
    finally:
        for part, training in modes:
            part.training = training
    return _together(features, problem, len(images))


def _eval_view(encoder: Encoder, images: list[torch.Tensor], device) -> torch.Tensor:
    images = stack_images(images)
    images = images.to(device) if isinstance(images, torch.Tensor) else [image.to(device) for image in images]
    return eval_view(images, encoder.image_size, encoder.mean, encoder.std, encoder.crop_ratio)


def _batches(encoder: Encoder, images, batch_size: int, progress: bool) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """This process's batches: every W-th, where it starts, and the images."""
    from tqdm.auto import tqdm

    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    starts = range(0, len(images), batch_size)[rank::world_size]
    hide = None if progress and rank == 0 else True
    for start in tqdm(starts, desc=f"Features of {encoder.name}", disable=hide, leave=False):
        batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
        yield start, [item["image"] if isinstance(item, dict) else item for item in batch]


def _together(features: dict[str, torch.Tensor], problem: InputError | None, count: int) -> dict[str, torch.Tensor]:
    """What all processes found, in all of them; rows of other processes are zero, so that the sum is the whole.

    If one of them met a problem, all raise it: none is left waiting.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        group = dist.new_group(backend="gloo")  # the features are on the CPU
        reports = [None] * dist.get_world_size()
        widths = {name: part.shape[1] for name, part in features.items()}
        dist.all_gather_object(reports, (widths, problem and str(problem)), group=group)
        message = next((message for _, message in reports if message), None)
        problem = InputError(message) if message else None
        if problem is None:
            widths = next(widths for widths, _ in reports if widths)
            features = {name: features.get(name, torch.zeros(count, width)) for name, width in widths.items()}
            for part in features.values():
                dist.all_reduce(part, group=group)
        dist.destroy_process_group(group)
    if problem is not None:
        raise problem
    return features


def _not_finite(encoder: Encoder, encode, pixels: torch.Tensor, features: torch.Tensor) -> str:
    """Says how many images of a batch it is, and the first layer, in the order of computing, with such an output."""
    first: list[str] = []

    def look(name: str, output: Any) -> None:
        parts = output if isinstance(output, (list, tuple)) else (output,)
        tensors = [part for part in parts if isinstance(part, torch.Tensor) and part.is_floating_point()]
        if not first and any(not tensor.isfinite().all() for tensor in tensors):
            first.append(name)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: look(name, output))
        for name, module in (encoder.module.named_modules() if encoder.module is not None else ())
        if name
    ]
    try:
        encode(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    bad = int((~features.isfinite().all(1)).sum())
    where = f"; the first layer whose output is not finite is {first[0]!r}" if first else ""
    return f"{encoder.name} gives features that are not finite for {bad} of {len(features)} images of a batch{where}"


def weights_hash(module: nn.Module | None) -> str:
    """SHA-256 of all parameters and buffers, to show that an evaluation left them alone."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items() if module is not None else ():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
