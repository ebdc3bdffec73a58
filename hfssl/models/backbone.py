"""Any timm backbone inside transformers 5: a config, a base class, the encoder and the classifier that methods share.

transformers 5 has three traps for a wrapped timm model, and this module is the one place that knows them:

* `post_init` draws every linear and convolution anew from N(0, 0.02), whatever timm had chosen. Here timm's modules
  keep timm's own initialisation, bit for bit under the same seed; only our heads are initialised here.
* `from_pretrained` builds the model on the meta device, so buffers that are not in the checkpoint (relative
  positions of Swin and BEiT, rotary embeddings of EVA-02 and DINOv3) hold garbage unless somebody makes them again
  (timm #2661, transformers #48892, #43957). `BackbonePreTrainedModel.initialize_weights` does.
* A saved directory names in `auto_map` only the class that was saved. Here the config carries the full map, so that
  each directory loads with AutoModel, AutoModelForPreTraining and AutoModelForImageClassification, whichever class
  wrote it.

This file travels to the Hub beside the method's own: torch, timm, transformers and the standard library only.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import timm
import torch
import transformers.initialization as hf_init
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

STEMS = ("imagenet", "cifar")


class BackboneError(ValueError):
    """The config asks for a backbone that timm cannot build. The message is one line and says what to do."""


class BackboneConfig(PreTrainedConfig):
    """What every vision method's config shares: the backbone and how its pixels are prepared.

    Args:
        backbone: a name of `timm.list_models()`.
        backbone_kwargs: more arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`.
        image_size: side of the square input in pixels. Models of a fixed input size (ViT, Swin) are built for it.
        num_channels: of the input, timm's `in_chans`.
        image_mean, image_std: one a channel, of pixels in [0, 1]; by default ImageNet's.
        crop_ratio: side of the central crop in evaluation over the shorter side of the image. By default .875, and 1
            for images of at most 32 pixels, as SimCLR evaluates (google-research/simclr, `run.py` and `data_util.py`).
        stem: "imagenet" keeps timm's stem; "cifar" gives a ResNet a 3x3 convolution of stride 1 and no max-pool, for
            images of about 32 pixels (SimCLR, appendix B.9).

    Raises:
        BackboneError: (a ValueError) on construction, for an unknown backbone (with the nearest names of timm) or a
            value that cannot be used.
    """

    model_type = "hfssl_backbone"
    _auto_class: ClassVar[str | None] = "AutoConfig"
    # Auto class -> "module.Class", filled in by each method; the module is the file that travels with the weights.
    auto_classes: ClassVar[dict[str, str]] = {}

    backbone: str = "resnet18"
    backbone_kwargs: dict[str, Any] | None = None
    image_size: int = 224
    num_channels: int = 3
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    crop_ratio: float | None = None
    stem: str = "imagenet"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.auto_classes:  # also over a map read from a Hub config: the code is saved beside the weights again
            self.auto_map = dict(self.auto_classes)
        self.backbone_kwargs = dict(self.backbone_kwargs or {})
        if isinstance(self.image_size, bool) or not isinstance(self.image_size, int) or self.image_size < 1:
            raise BackboneError(f"image_size must be a positive number of pixels, not {self.image_size!r}")
        _check_backbone(self.backbone, self.stem)
        self.image_mean = _per_channel("image_mean", self.image_mean, IMAGENET_DEFAULT_MEAN, self.num_channels)
        self.image_std = _per_channel("image_std", self.image_std, IMAGENET_DEFAULT_STD, self.num_channels)

    @property
    def eval_crop_ratio(self) -> float:
        """`crop_ratio`, or its default for the image size."""
        return self.crop_ratio or (0.875 if self.image_size > 32 else 1.0)

    @property
    def backbone_channels(self) -> int:
        """Channels of what the backbone itself sees: the image's, if a method does not take some away."""
        return self.num_channels

    @property
    def backbone_size(self) -> int:
        """Side in pixels of what the backbone itself sees: the image, if a method does not cut it up."""
        return self.image_size


def check_pixels(images: torch.Tensor, channels: Sequence[int], verb: str) -> None:
    """Raises a TypeError or ValueError, one line, unless images are floats (B, C, H, W) in [0, 1], C one of these."""
    named = " or ".join(map(str, channels))
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{verb} takes a tensor of images (B, {named}, H, W) in [0, 1], not {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] not in channels or not images.numel():
        raise ValueError(f"{verb} takes images (B, {named}, H, W), not {tuple(images.shape)}")
    if not images.is_floating_point() or not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError(f"{verb} takes floating-point images in [0, 1]")


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """16-bit floats as float32, in which losses are computed; wider ones as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_name(name: str, value, known: tuple[str, ...]) -> None:
    """Refuses a setting that is none of the known names, with the nearest of them.

    Raises:
        BackboneError: it is none.
    """
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BackboneError(f"unknown {name} {value!r}: one of {', '.join(known)}{hint}")


def _check_backbone(name: str, stem: str) -> None:
    check_name("stem", stem, STEMS)
    if not isinstance(name, str) or ":" in name or not timm.is_model(name):
        close = difflib.get_close_matches(str(name), timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else "; timm.list_models() lists the names"
        raise BackboneError(f"unknown backbone {name!r} (timm {timm.__version__}){hint}")
    if stem == "cifar" and timm.model_entrypoint(name.split(".")[0]).__module__ != "timm.models.resnet":
        raise BackboneError(f"stem 'cifar' changes a ResNet's stem, and {name!r} is none; use stem 'imagenet'")


def _per_channel(name: str, values, default: tuple[float, ...], channels: int) -> list[float]:
    if values is None:
        values = default if channels == len(default) else [sum(default) / len(default)] * channels
    if len(values) != channels:
        raise BackboneError(f"{name} has {len(values)} values for num_channels {channels}")
    return [float(value) for value in values]


def create_backbone(config: BackboneConfig) -> nn.Module:
    """Builds the timm model of a config, without its classifier, with timm's own random initialisation.

    The same random state gives the same weights as
    ``timm.create_model(config.backbone, num_classes=0, in_chans=config.backbone_channels, **config.backbone_kwargs)``
    (with `img_size` where the architecture's input size is fixed and differs from `config.backbone_size`).
    """
    kwargs = backbone_arguments(config)
    try:
        model = timm.create_model(config.backbone, pretrained=False, num_classes=0, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BackboneError(f"timm cannot build {config.backbone!r} with {kwargs}: {reason}") from error
    if config.stem == "cifar":
        _use_cifar_stem(model)
    return model


def backbone_arguments(config: BackboneConfig) -> dict[str, Any]:
    """The arguments with which `timm.create_model` builds a config's backbone, without `num_classes`."""
    kwargs = {"in_chans": config.backbone_channels, **config.backbone_kwargs}
    declared = timm.get_pretrained_cfg(config.backbone)
    if declared is not None and declared.fixed_input_size and declared.input_size[-1] != config.backbone_size:
        kwargs.setdefault("img_size", config.backbone_size)
    return kwargs


def backbones_with_maps() -> list[str]:
    """One architecture of each of timm's families that gives its feature maps out."""
    found: dict[str, str] = {}
    for name in timm.list_models():
        module = sys.modules[timm.model_entrypoint(name).__module__]
        if module.__name__ not in found and any(
            hasattr(value, "forward_intermediates") and getattr(value, "__module__", "") == module.__name__
            for value in vars(module).values()
        ):
            found[module.__name__] = name
    return sorted(found.values())


def _use_cifar_stem(model: nn.Module) -> None:
    """Stride 1 and no max-pool, in place. A 7x7 stem becomes 3x3; the three 3x3 of timm's deep stem stay."""
    if isinstance(model.conv1, nn.Sequential):
        model.conv1[0].stride = (1, 1)
    else:
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNet
    model.maxpool = nn.Identity()
    for stage in model.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)


class BackbonePreTrainedModel(PreTrainedModel):
    """Base of every model with a timm backbone: initialisation, loading, checkpointing, saving."""

    config_class = BackboneConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    model_tags: ClassVar[list[str]] = ["hfssl", "timm", "self-supervised"]
    accepts_loss_kwargs = False  # the Trainer must not scale our loss by a count of labels
    _supports_sdpa = True  # timm's attention calls F.scaled_dot_product_attention by itself

    def post_init(self):
        backbones = self._backbones()
        self.supports_gradient_checkpointing = all(map(_can_checkpoint, backbones))
        self._no_split_modules = [type(backbone).__name__ for backbone in backbones]  # one timm model, one device
        super().post_init()

    def _backbones(self) -> list[nn.Module]:
        return [module.timm_model for module in self.modules() if isinstance(module, BackboneModel)]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises our heads as torch does; timm's modules keep what timm drew."""
        if getattr(module, "_keeps_timm_init", False):
            return
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()  # within `initialize_weights` this leaves loaded tensors alone
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            _reset_norm(module)

    def initialize_weights(self):
        """Called by transformers after construction, and after loading for what the checkpoint did not hold.

        transformers skips modules whose own tensors were all loaded, among them some that own the hook for a child's
        buffers, so the backbones are visited here and not in `_init_weights`.
        """
        super().initialize_weights()
        for module in self.modules():
            if isinstance(module, BackboneModel):
                module.restore_backbone()
                module.freeze_unused()  # here, since transformers makes every weight trainable when it loads it

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        for module in self.modules():
            if isinstance(module, BackboneModel):
                module.timm_model.set_grad_checkpointing(enable)
                module.gradient_checkpointing = enable

    def save_pretrained(self, save_directory, is_main_process: bool = True, **kwargs):
        """As transformers', and a `preprocessor_config.json`, so that pipelines prepare images as in evaluation."""
        if is_main_process and not os.path.isfile(save_directory) and self.config.num_channels == 3:
            image_processor(self.config).save_pretrained(save_directory)  # first: a push takes what lies there
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)


def _can_checkpoint(backbone: nn.Module) -> bool:
    try:  # some timm models have the method and refuse
        backbone.set_grad_checkpointing(True)
        backbone.set_grad_checkpointing(False)
    except (AttributeError, AssertionError, NotImplementedError):
        return False
    return True


def _reset_norm(module: nn.Module) -> None:
    if module.weight is not None:
        hf_init.ones_(module.weight)
    if module.bias is not None:
        hf_init.zeros_(module.bias)
    if getattr(module, "running_mean", None) is not None:
        hf_init.zeros_(module.running_mean)
        hf_init.ones_(module.running_var)
        hf_init.zeros_(module.num_batches_tracked)


def image_processor(config: BackboneConfig):
    """The stock transformers image processor that prepares pixels as `hfssl.data.augmentation.eval_view` does."""
    from transformers import BitImageProcessor  # needs torchvision or PIL, which loading weights does not

    return BitImageProcessor(
        size={"shortest_edge": round(config.image_size / config.eval_crop_ratio)},
        crop_size={"height": config.image_size, "width": config.image_size},
        resample=2,  # bilinear, with antialiasing
        do_convert_rgb=True,
        image_mean=config.image_mean,
        image_std=config.image_std,
    )


class BackboneModel(BackbonePreTrainedModel):
    """The encoder: a timm model without its classifier.

    Attributes:
        timm_model: the timm model, as `build_backbone` built it.
        hidden_size: D, the width of `pooler_output`.
    """

    _auto_class = "AutoModel"
    # Methods that learn from feature maps: the pooled features are the mean of the last map, with nothing behind it
    # that their loss would not reach.
    pools_maps: ClassVar[bool] = False
    # A checkpoint of a whole method also holds heads, which the encoder does not need.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^projection_head\.", r"^classifier\."]

    def __init__(self, config: BackboneConfig):
        super().__init__(config)
        self.timm_model = self.build_backbone()
        for module in self.timm_model.modules():
            module._keeps_timm_init = True
        self.hidden_size = getattr(self.timm_model, "head_hidden_size", None) or self.timm_model.num_features
        self.map_shapes: list[torch.Size] = []  # (C, h, w) of each feature map, with `pools_maps`
        self._unused: set[str] = set()
        if self.pools_maps:
            self.map_shapes, self._unused = self._look_at_maps()
            self.hidden_size = self.map_shapes[-1][0]
        self.gradient_checkpointing = False
        self._built_on_meta = any(parameter.is_meta for parameter in self.timm_model.parameters())
        self.post_init()

    def _look_at_maps(self) -> tuple[list[torch.Size], set[str]]:
        """The shapes of the feature maps, and the names of the weights that none of them depends on, by a forward pass
        of a copy without memory.

        Raises:
            BackboneError: the backbone gives no maps, or the image is smaller than its strides.
        """
        config = self.config
        if not hasattr(self.timm_model, "forward_intermediates"):
            raise BackboneError(
                f"{config.backbone} gives no feature maps, which this method needs; these do: "
                f"{', '.join(backbones_with_maps())}"
            )
        called: set[str] = set()
        with torch.device("meta"), torch.no_grad():
            copy = self.build_backbone().eval()
            for name, module in copy.named_modules():
                module.register_forward_hook(lambda *_, name=name: called.add(name))
            images = torch.empty(1, config.backbone_channels, config.backbone_size, config.backbone_size)
            try:
                maps = copy.forward_intermediates(images, intermediates_only=True)
            except (RuntimeError, ValueError, AssertionError, TypeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise BackboneError(
                    f"{config.backbone} cannot make feature maps of {config.backbone_size} pixels: {reason}"
                ) from error
        declared = getattr(copy, "feature_info", None)
        stride = declared[-1].get("reduction", 1) if isinstance(declared, list) and declared else 1
        if config.backbone_size < stride:  # timm's convolutions would pad their way to a map of padding
            raise BackboneError(
                f"an image of {config.backbone_size} pixels is too small for the strides of {config.backbone}, "
                f"{stride} in all"
            )
        owners = {name: name.rpartition(".")[0] for name, _ in copy.named_parameters()}
        return [each.shape[1:] for each in maps], {
            name for name, owner in owners.items() if owner and owner not in called
        }

    def freeze_unused(self) -> None:
        """Weights that nothing depends on do not learn: several processes would wait for their gradients."""
        for name in self._unused:
            self.timm_model.get_parameter(name).requires_grad_(False)

    def build_backbone(self) -> nn.Module:
        """The timm model with fresh weights. A method that changes it does so here, since loading builds it, too."""
        return create_backbone(self.config)

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple:
        """
        Args:
            pixel_values: (B, C, H, W), normalised.
            output_hidden_states: also return the features after each stage or block.

        Returns:
            `last_hidden_state`, (B, D', h, w) for convolutional nets and (B, T, D) for transformers, and
            `pooler_output`, (B, D): timm's features before the classifier.
        """
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        hidden_states = None
        if self.pools_maps:
            hidden_states = self.timm_model.forward_intermediates(pixel_values, intermediates_only=True)
            features, pooled = hidden_states[-1], hidden_states[-1].mean((2, 3))
            hidden_states = hidden_states if output_hidden_states else None
        elif output_hidden_states:
            if not hasattr(self.timm_model, "forward_intermediates"):
                raise ValueError(f"timm's {self.config.backbone} has no forward_intermediates, so no hidden states")
            features, hidden_states = self.timm_model.forward_intermediates(pixel_values)
        else:
            features = self.timm_model.forward_features(pixel_values)
        if not self.pools_maps:
            pooled = self.timm_model.forward_head(features)  # (B, D); there is no classifier, so this pools
        output = BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=pooled,
            hidden_states=tuple(hidden_states) if hidden_states is not None else None,
        )
        return output if return_dict else output.to_tuple()

    def restore_backbone(self) -> None:
        """Makes again what loading leaves undefined: buffers outside the state dict, and weights that were missing.

        Buffers come from timm's own hook. Where a module has none, and for missing weights, a second model is built as
        `build_backbone` builds it and its tensors are copied.
        """
        if not self._built_on_meta:
            return
        for module in self.timm_model.modules():
            if hasattr(module, "init_non_persistent_buffers"):
                module.init_non_persistent_buffers()
        missing, orphans = self._unloaded()
        if missing or orphans:
            self._copy_from_fresh(missing, orphans)

    def _unloaded(self) -> tuple[list[str], list[str]]:
        """Names in the state dict that the checkpoint lacked, and of buffers that no hook of timm makes again."""
        state = self.timm_model.state_dict(keep_vars=True)
        missing = [name for name, tensor in state.items() if not getattr(tensor, "_is_hf_initialized", False)]
        hooked = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.timm_model.named_modules()
            if hasattr(module, "init_non_persistent_buffers")
            for name, _ in module.named_buffers()
        }
        orphans = [name for name, _ in self.timm_model.named_buffers() if name not in state and name not in hooked]
        return missing, orphans

    @torch.no_grad()
    def _copy_from_fresh(self, missing: list[str], orphans: list[str]) -> None:
        # Buffers are no random numbers: making them must leave the caller's random state as it was.
        keep_rng = contextlib.nullcontext() if missing else torch.random.fork_rng(devices=[])
        with keep_rng, torch.device("cpu"):
            fresh = self.build_backbone()
        tensors = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        for name in missing + orphans:
            owner, _, leaf = name.rpartition(".")
            target = getattr(self.timm_model.get_submodule(owner), leaf)
            target.copy_(tensors[name])


class BackboneForImageClassification(BackbonePreTrainedModel):
    """An encoder and one linear layer. Methods subclass it and name their encoder."""

    _auto_class = "AutoModelForImageClassification"
    encoder_class: ClassVar[type[BackboneModel]] = BackboneModel
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^projection_head\."]

    def __init__(self, config: BackboneConfig):
        super().__init__(config)
        encoder = self.encoder_class(config)
        setattr(self, self.base_model_prefix, encoder)  # the same name in every class: one checkpoint loads in all
        self.classifier = nn.Linear(encoder.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple:
        """
        Args:
            pixel_values: (B, C, H, W), normalised.
            labels: (B,) class indices; with them the output has the mean cross-entropy as `loss`, in nats.

        Returns:
            `logits`, (B, num_labels).
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        pooled = self.base_model(pixel_values, return_dict=True).pooler_output  # (B, D)
        logits = self.classifier(pooled)
        loss = self.loss_function(labels, logits, self.config) if labels is not None else None
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output if return_dict else output.to_tuple()
