"""What can be probed: a function from pixels to features, made of any vision model or of none.

out/simclr, ORG/NAME     a saved directory or a Hub id, ours or transformers', by AutoModel
timm:NAME                timm's model with timm's pretrained weights, as timm names them (resnet18.a1_in1k)
local-dir:DIR, hf-hub:ID a directory or Hub repository in timm's format
codes:DIR                the discrete codes of a co-training model, one-hot, in place of its features
random:NAME, random:DIR  fresh random weights in an architecture of timm, of a saved directory or of a Hub id
pixels                   no model, the raw pixels
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfssl.data.augmentation import IMAGENET_MEAN, IMAGENET_STD
from hfssl.errors import InputError, nearest, one_line
from hfssl.files import is_missing_folder
from hfssl.remote_code import pinned_model

logger = logging.getLogger(__name__)

PIXEL_SIZE = 32  # raw pixels of larger images are those of a copy of this side
PIXELS, RANDOM, CODES, TIMM, TIMM_FILES = "pixels", "random:", "codes:", "timm:", ("local-dir:", "hf-hub:")
SHOWN = 8  # names in a message


@dataclass
class Encoder:
    """A function from pixels to features, and the pixels that it wants.

    Attributes:
        name: for tables.
        encode: normalised pixels, float32 (B, 3, S, S), to features (B, D).
        module: what holds the weights, if there are any; it is moved to the device and put into evaluation mode.
        image_size, mean, std, crop_ratio: of `eval_view`.
        encode_layers: pixels to the pooled features after each stage or block, by name and in order, and last "pooled",
            what `encode` gives; None if the model does not show its layers.
        fresh: builds the same architecture with random weights; None if that is not known.
        train_seconds: how long it was trained, where that was a part of the probe.
        codes: loads the encoder that gives the model's discrete codes instead; None if it has none.
    """

    name: str
    encode: Callable[[torch.Tensor], torch.Tensor]
    module: nn.Module | None = None
    image_size: int = 224
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    crop_ratio: float = 1.0
    encode_layers: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = None
    fresh: Callable[[], nn.Module] | None = None
    train_seconds: float = 0.0
    codes: Callable[[], Encoder] | None = None


def as_encoder(
    model: Encoder | nn.Module | Callable, image_size: int | None = None, name: str | None = None
) -> Encoder:
    """Makes an encoder of a model of transformers with `pooler_output`, of a timm model, or of a function.

    Args:
        model: its own preprocessing is used where it is known: our config's or a timm model's `pretrained_cfg`. Of it
            the size, the central crop, the mean and the deviation; images are always resized bilinearly.
        image_size: side of the input in pixels; by default the model's own.
        name: for tables; by default the class's.

    Raises:
        InputError: the model takes no images, has no pooled output (on the first batch), or its input size is unknown.
    """
    if isinstance(model, Encoder):
        return model
    name = name or type(model).__name__
    if getattr(model, "config", None) is not None and hasattr(model, "base_model"):
        return _of_transformers(model, image_size, name)
    if getattr(model, "pretrained_cfg", None) and hasattr(model, "forward_head"):
        return _of_timm(model, image_size, name)
    if image_size is None:
        raise InputError(f"which image_size does {name} want? It does not say")
    return Encoder(name, model, model if isinstance(model, nn.Module) else None, image_size)


def _of_transformers(model, image_size: int | None, name: str) -> Encoder:
    from transformers import PreTrainedModel

    # A TimmWrapperModel calls the timm model inside it its base model.
    base = model.base_model if isinstance(model.base_model, PreTrainedModel) else model
    config = model.config
    if base.main_input_name != "pixel_values":
        raise InputError(f"{name} is no encoder of images: it takes {base.main_input_name}")

    def layers(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        output = base(pixel_values=pixels, output_hidden_states=True)
        return _by_layer(getattr(output, "hidden_states", None), name) | {"pooled": _pooled(output, name)}

    def fresh() -> nn.Module:
        if config.model_type == "timm_wrapper":  # constructed by itself it would lose timm's initialisation
            import timm

            return timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        return type(model)(copy.deepcopy(config))

    wanted = _wanted_by(config)
    return Encoder(
        name=name,
        encode=lambda pixels: _pooled(base(pixel_values=pixels), name),
        module=model,
        image_size=image_size or wanted["image_size"],
        mean=wanted["mean"],
        std=wanted["std"],
        crop_ratio=wanted["crop_ratio"] if (image_size or 224) > 32 else 1.0,
        encode_layers=layers,
        fresh=fresh,
    )


def _wanted_by(config) -> dict[str, Any]:
    """The preprocessing that a config of transformers or timm's `pretrained_cfg` names, ImageNet's for the rest."""
    declared = config if isinstance(config, dict) else getattr(config, "pretrained_cfg", None)
    if declared:
        size, crop_ratio = declared.get("input_size", (3, 224, 224))[-1], declared.get("crop_pct")
        mean, std = declared.get("mean"), declared.get("std")
    else:
        size, crop_ratio = getattr(config, "image_size", None), getattr(config, "eval_crop_ratio", None)
        mean, std = getattr(config, "image_mean", None), getattr(config, "image_std", None)
    size = size[-1] if isinstance(size, (list, tuple)) else size
    return {
        "image_size": int(size or 224),
        "mean": mean or IMAGENET_MEAN,
        "std": std or IMAGENET_STD,
        "crop_ratio": crop_ratio or 1.0,
    }


def _pooled(output: Any, name: str) -> torch.Tensor:
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        has = ", ".join(output.keys()) if hasattr(output, "keys") else type(output).__name__
        raise InputError(f"{name} has no pooled output to probe; its outputs are {has}")
    return pooled.flatten(1)  # some of transformers' ResNets leave (B, D, 1, 1)


def _by_layer(states: Sequence[torch.Tensor] | None, name: str) -> dict[str, torch.Tensor]:
    """Averages over places (B, D, h, w) or tokens (B, T, D)."""
    if not states:
        raise InputError(f"{name} does not give the features after each layer: leave --layers out")
    means = [state.mean((2, 3)) if state.ndim == 4 else state.mean(1) for state in states]
    return {f"layer {number}": mean for number, mean in enumerate(means)}


def _of_timm(model, image_size: int | None, name: str) -> Encoder:
    def layers(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features, states = model.forward_intermediates(pixels)
        return _by_layer(states, name) | {"pooled": model.forward_head(features, pre_logits=True)}

    def fresh() -> nn.Module:
        import timm

        made = timm.create_model(model.pretrained_cfg["architecture"], num_classes=model.num_classes)
        if [tensor.shape for tensor in made.state_dict().values()] != [t.shape for t in model.state_dict().values()]:
            raise InputError(f"cannot build a random copy of {name}: its settings are not known")
        return made

    wanted = _wanted_by(model.pretrained_cfg)
    return Encoder(
        name=name,
        encode=lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True),
        module=model,
        image_size=image_size or wanted["image_size"],
        mean=wanted["mean"],
        std=wanted["std"],
        crop_ratio=wanted["crop_ratio"] if (image_size or 224) > 32 else 1.0,
        encode_layers=layers if hasattr(model, "forward_intermediates") else None,
        fresh=fresh,
    )


def load_encoder(
    source: str | Path,
    trust_remote_code: bool = False,
    image_size: int | None = None,
    allow_partial: bool = False,
    seed: int = 0,
) -> Encoder:
    """Loads an encoder by one of the names in this module's docstring, all but "pixels".

    Args:
        image_size: side of the input; by default the model's own.
        allow_partial: go on although weights and model do not match; what is missing stays random.
        seed: of random weights.

    Raises:
        InputError: no model there, one that needs --trust_remote_code, or weights that do not match (they are listed).
    """
    source = str(source)
    if source.startswith(RANDOM):
        return _random_of(source.removeprefix(RANDOM), trust_remote_code, image_size, seed)
    if source.startswith((TIMM, *TIMM_FILES)):
        return _of_timm_name(source.removeprefix(TIMM), image_size, pretrained=True)
    if source.startswith(CODES):
        return _codes_of(source.removeprefix(CODES), trust_remote_code, image_size)
    place = pinned_model(_checked(source), trust_remote_code)
    model = _auto_model(place, trust_remote_code, allow_partial)
    encoder = as_encoder(model, image_size, name=Path(source).name or source)
    if hasattr(model.config, "num_codes"):
        encoder.codes = lambda: _codes_of(source, trust_remote_code, image_size)
    return _as_its_processor(encoder, place, image_size)


def _codes_of(source: str, trust_remote_code: bool, image_size: int | None) -> Encoder:
    """The likeliest code of each image, one-hot, by a saved co-training model."""
    place = pinned_model(_checked(source), trust_remote_code)
    model = _auto_model(place, trust_remote_code, kind="AutoModelForPreTraining")
    if not hasattr(model.config, "num_codes"):
        raise InputError(f"{source!r} has no codes: it is {type(model).__name__}, and no co-training model")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        codes = model(pixels, return_loss=False).codes  # (B, m)
        return torch.nn.functional.one_hot(codes.argmax(1), codes.shape[1]).to(codes.dtype)

    encoder = as_encoder(model, image_size, name=f"codes of {Path(source).name or source}")
    return replace(encoder, encode=encode, encode_layers=None)


def _checked(source: str) -> str:
    """A directory that is there, or what can be a Hub id: nothing is asked of the network for any other name."""
    if is_missing_folder(source):
        raise InputError(f"no model directory {source!r}")
    if Path(source).is_dir() or source.count("/") == 1:
        return source
    import timm

    known = f"; timm's model is {TIMM}{source}, its architecture {RANDOM}{source}" if timm.is_model(source) else ""
    raise InputError(f"no model directory {source!r}, and no Hub id, which would be ORG/NAME{known}")


def _auto_model(
    source: str, trust_remote_code: bool, allow_partial: bool = False, kind: str = "AutoModel"
) -> nn.Module:
    import transformers
    from transformers.utils.logging import disable_progress_bar

    import hfssl.models  # noqa: F401  registers our classes, so that they need no remote code

    disable_progress_bar()  # of loading: errors are one line
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise InputError(f"cannot load a model from {source!r}: {one_line(error)}") from None
    unmatched = {
        "the model's weights that are missing there": report["missing_keys"],
        "weights there that the model has no place for": report["unexpected_keys"],
        "weights of another shape": [key[0] for key in report["mismatched_keys"]],
    }
    listed = "; ".join(f"{what}: {_shown(sorted(keys))}" for what, keys in unmatched.items() if keys)
    if listed and not allow_partial:
        raise InputError(f"the weights in {source!r} do not match ({listed}); --allow_partial goes on without them")
    if listed:
        logger.warning("The weights in %s match in part: %s", source, listed)
    return model


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _as_its_processor(encoder: Encoder, source: str, image_size: int | None) -> Encoder:
    """The preprocessing that a stock model's preprocessor_config.json names; our models and timm's carry their own."""
    from transformers.image_processing_base import ImageProcessingMixin

    config = encoder.module.config
    if hasattr(config, "eval_crop_ratio") or getattr(config, "pretrained_cfg", None):
        return encoder
    try:
        settings = ImageProcessingMixin.get_image_processor_dict(source)[0]
    except OSError:
        return encoder  # it has none
    resized, cropped = settings.get("size") or {}, settings.get("crop_size") or {}
    if isinstance(resized, dict) and isinstance(cropped, dict):
        short = resized.get("shortest_edge") or resized.get("height")
        size = cropped.get("height") if settings.get("do_center_crop") else None
        if short:
            encoder = replace(encoder, image_size=image_size or size or short, crop_ratio=(size or short) / short)
    if settings.get("do_normalize", True) and settings.get("image_mean"):
        encoder = replace(encoder, mean=settings["image_mean"], std=settings["image_std"])
    elif not settings.get("do_normalize", True):
        encoder = replace(encoder, mean=(0.0,) * 3, std=(1.0,) * 3)
    return encoder


def _of_timm_name(name: str, image_size: int | None, pretrained: bool) -> Encoder:
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and not list(folder.glob("*.safetensors")):
        raise InputError(f"{str(folder)!r} holds no weights in safetensors; no other form is read")
    shown = folder.name if pretrained else f"random {name}"
    encoder = as_encoder(_timm_model(name, image_size, pretrained), image_size, shown)
    return replace(encoder, fresh=lambda: _timm_model(name, image_size, pretrained=False))


def _timm_model(name: str, image_size: int | None, pretrained: bool) -> nn.Module:
    import timm

    options = {}
    if not name.startswith(TIMM_FILES):
        if not timm.is_model(name):
            raise InputError(f"timm {timm.__version__} has no model {name!r}{nearest(name, timm.list_models())}")
        declared = timm.get_pretrained_cfg(name)
        if image_size and declared is not None and declared.fixed_input_size:
            options["img_size"] = image_size
    if not pretrained:
        options["num_classes"] = 0  # with weights timm would then no longer say what does not match
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # of the network, the Hub, the disk or the model, each in its own class
        hint = f"; {RANDOM}{name} is the architecture with random weights" if pretrained and ":" not in name else ""
        raise InputError(f"cannot load {name!r} by timm: {one_line(error)}{hint}") from None


def _random_of(name: str, trust_remote_code: bool, image_size: int | None, seed: int) -> Encoder:
    """An encoder of an architecture alone."""
    import timm
    from transformers import AutoConfig, AutoModel

    import hfssl.models  # noqa: F401

    with _seeded(seed):
        if not Path(name).is_dir() and timm.is_model(name):
            return _of_timm_name(name, image_size, pretrained=False)
        if "/" not in name and not Path(name).is_dir():
            raise InputError(f"{name!r} is no directory and no model of timm{nearest(name, timm.list_models())}")
        try:
            place = pinned_model(_checked(name), trust_remote_code)
            config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
            model = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise InputError(f"cannot read the architecture of {name!r}: {one_line(error)}") from None
        encoder = as_encoder(model, image_size)
        return replace(as_encoder(encoder.fresh(), image_size), name=f"random {Path(name).name}")


@contextlib.contextmanager
def _seeded(seed: int):
    """Random numbers from this seed; those outside go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_encoder(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same architecture with fresh random weights: what a representation is worth before any learning.

    Raises:
        InputError: how to build another is not known.
    """
    if encoder.fresh is None:
        raise InputError(f"cannot build a random copy of {encoder.name}: it has no config")
    with _seeded(seed):
        fresh = encoder.fresh()
    made = as_encoder(fresh, encoder.image_size)
    return replace(made, name="random init", mean=encoder.mean, std=encoder.std, crop_ratio=encoder.crop_ratio)


def pixel_encoder(images: Sequence[dict[str, Any]]) -> Encoder:
    """Raw pixels in [0, 1], at the size of the first image but at most `PIXEL_SIZE`."""
    size = min(PIXEL_SIZE, *images[0]["image"].shape[-2:])
    return Encoder("raw pixels", lambda pixels: pixels.flatten(1), None, size, (0.0,) * 3, (1.0,) * 3)
