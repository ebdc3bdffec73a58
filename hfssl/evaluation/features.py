"""Features: what an encoder makes of each image, once.

An encoder is one of our models, timm's or transformers', a function, or no model at all but the raw pixels.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfssl.data.augmentation import IMAGENET_MEAN, IMAGENET_STD, eval_view
from hfssl.data.collators import stack_images
from hfssl.errors import InputError, one_line

PIXEL_SIZE = 32  # raw pixels of larger images are those of a copy of this side


@dataclass
class Encoder:
    """A function from pixels to features, and the pixels that it wants.

    Attributes:
        name: for tables.
        encode: normalised pixels, float32 (B, 3, S, S), to features (B, D).
        module: what holds the weights, if there are any; it is moved to the device and put into evaluation mode.
        image_size, mean, std, crop_ratio: of `eval_view`.
    """

    name: str
    encode: Callable[[torch.Tensor], torch.Tensor]
    module: nn.Module | None = None
    image_size: int = 224
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    crop_ratio: float = 1.0


def as_encoder(
    model: Encoder | nn.Module | Callable, image_size: int | None = None, name: str | None = None
) -> Encoder:
    """Makes an encoder of a model of transformers with `pooler_output`, of a timm model, or of a function.

    Args:
        model: its own preprocessing is used where it is known: our config's or a timm model's `pretrained_cfg`.
        image_size: side of the input in pixels; by default the model's own.
        name: for tables; by default the class's.

    Raises:
        InputError: the model has no pooled output (on the first batch), or its input size is unknown.
    """
    if isinstance(model, Encoder):
        return model
    name = name or type(model).__name__
    config = getattr(model, "config", None)
    if config is not None and hasattr(model, "base_model"):  # transformers
        size = image_size or _config_size(config)
        return Encoder(
            name=name,
            encode=lambda pixels: _pooled(model.base_model(pixel_values=pixels), name),
            module=model,
            image_size=size,
            mean=getattr(config, "image_mean", None) or IMAGENET_MEAN,
            std=getattr(config, "image_std", None) or IMAGENET_STD,
            crop_ratio=getattr(config, "eval_crop_ratio", 1.0),
        )
    declared = getattr(model, "pretrained_cfg", None)
    if declared and hasattr(model, "forward_head"):  # timm
        return Encoder(
            name=name,
            encode=lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True),
            module=model,
            image_size=image_size or declared["input_size"][-1],
            mean=declared.get("mean", IMAGENET_MEAN),
            std=declared.get("std", IMAGENET_STD),
            crop_ratio=declared.get("crop_pct", 1.0) if (image_size or 224) > 32 else 1.0,
        )
    if image_size is None:
        raise InputError(f"which image_size does {name} want? It does not say")
    return Encoder(name, model, model if isinstance(model, nn.Module) else None, image_size)


def _config_size(config: Any) -> int:
    size = getattr(config, "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[-1]
    return int(size) if size else 224


def _pooled(output: Any, name: str) -> torch.Tensor:
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        has = ", ".join(output.keys()) if hasattr(output, "keys") else type(output).__name__
        raise InputError(f"{name} has no pooled output to probe; its outputs are {has}")
    return pooled.flatten(1)  # some of transformers' ResNets leave (B, D, 1, 1)


def load_encoder(path: str | Path, trust_remote_code: bool = False, image_size: int | None = None) -> Encoder:
    """Loads the encoder of a saved directory or a Hub id by `AutoModel`.

    Raises:
        InputError: no model there, one that needs --trust_remote_code, or weights that are missing (they are listed).
    """
    from transformers import AutoModel

    import hfssl.models  # noqa: F401  registers our classes, so that they need no remote code

    path = str(path)
    if ("/" in path or path.startswith(".")) and path.count("/") != 1 and not Path(path).is_dir():
        raise InputError(f"no model directory {path!r}")
    try:
        model, report = AutoModel.from_pretrained(
            path, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"cannot load a model from {path!r}: {one_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(f"the weights in {path!r} leave parts of the encoder without values: {shown}")
    return as_encoder(model, image_size, name=Path(path).name or path)


def random_encoder(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same architecture with fresh random weights: what a representation is worth before any learning.

    Raises:
        InputError: the encoder has no config from which to build another.
    """
    model = encoder.module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if getattr(model, "config", None) is not None and hasattr(model, "base_model"):
            fresh = type(model)(copy.deepcopy(model.config))
        elif getattr(model, "pretrained_cfg", None):
            import timm

            fresh = timm.create_model(model.pretrained_cfg["architecture"], num_classes=model.num_classes)
        else:
            raise InputError(f"cannot build a random copy of {encoder.name}: it has no config")
    copied = as_encoder(fresh, encoder.image_size, name="random init")
    copied.mean, copied.std, copied.crop_ratio = encoder.mean, encoder.std, encoder.crop_ratio
    return copied


def pixel_encoder(images: Sequence[dict[str, Any]]) -> Encoder:
    """Raw pixels in [0, 1], at the size of the first image but at most `PIXEL_SIZE`."""
    size = min(PIXEL_SIZE, *images[0]["image"].shape[-2:])
    return Encoder("raw pixels", lambda pixels: pixels.flatten(1), None, size, (0.0,) * 3, (1.0,) * 3)


def extract_features(
    encoder: Encoder | nn.Module | Callable,
    images: Sequence[Any],
    image_size: int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """The features of each image, once and in order, in evaluation mode and without gradients.

    Args:
        encoder: an `Encoder`, or anything that `as_encoder` takes.
        images: items {"image": uint8 (3, H, W)}, or a tensor uint8 (N, 3, H, W).
        image_size: side of the input; by default the model's own.
        device: by default that of the weights.

    Returns:
        float32 (N, D) on the CPU.

    Raises:
        InputError: no images, or features that are not finite.
    """
    from tqdm.auto import tqdm

    encoder = as_encoder(encoder, image_size)
    if not len(images):
        raise InputError("there are no images to extract features from")
    module = encoder.module
    weight = next(module.parameters(), None) if module is not None else None
    target = torch.device(device) if device is not None else (weight.device if weight is not None else "cpu")
    was_training = module.training if module is not None else False
    if module is not None:
        module.eval().to(target)
    features = []
    try:
        with torch.inference_mode():
            starts = range(0, len(images), batch_size)
            for start in tqdm(
                starts, desc=f"Features of {encoder.name}", disable=None if progress else True, leave=False
            ):
                batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
                batch = stack_images([item["image"] if isinstance(item, dict) else item for item in batch])
                pixels = eval_view(batch, encoder.image_size, encoder.mean, encoder.std, encoder.crop_ratio)
                pixels = pixels.to(target, weight.dtype if weight is not None else torch.float32)
                features.append(encoder.encode(pixels).float().cpu())
    finally:
        if module is not None:
            module.train(was_training)
    features = torch.cat(features)  # (N, D)
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(1)).sum())
        raise InputError(f"{encoder.name} gives features that are not finite for {bad} of {len(features)} images")
    return features


def weights_hash(module: nn.Module | None) -> str:
    """SHA-256 of all parameters and buffers, to show that an evaluation left them alone."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items() if module is not None else ():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
