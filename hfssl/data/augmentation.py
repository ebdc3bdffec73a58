"""SimCLR's augmentations (Chen et al. 2020, appendix A), and the lecture's, on batches of tensors.

Each operation takes uniform draws in [0, 1), a fixed number for each image, and turns them into parameters. So the
draws may come from a seeded `torch.Generator` or be a hash of (seed, epoch, sample), and a batch needs no loop over
its images. Unlike torchvision on PIL images nothing is rounded to 8 bits between operations.

The images may lie on any device and are augmented there. The draws lie on the CPU: which images get which operation is
known without waiting for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from hfssl.data import image_ops, resampling
from hfssl.errors import InputError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BRIGHTNESS = ("multiply", "add")
PLAIN = ("crop", "flip", "rotation", "quarter_turns", "translation")
_ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it takes the central crop
_ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4)
_AT_ONCE = {"cpu": 100_000, "cuda": 2**25}  # pixels of results: what a core's cache holds, what a GPU can spare


@dataclass
class AugmentationArguments:
    """Which augmentations make a view, and how strong. The defaults are the paper's for CIFAR-10 (appendix B.9)."""

    augmentations: list[str] = field(
        default_factory=lambda: ["crop", "flip", "color_jitter", "grayscale"],
        metadata={
            "help": "What is done, in this order: crop, flip, color_jitter, grayscale, blur, solarize, noise, "
            "rotation, quarter_turns, translation, cutout, edges. The paper's for ImageNet: crop flip color_jitter "
            "grayscale blur. Without a crop in front the whole image is resized and its central square taken."
        },
    )
    min_crop: float = field(default=0.08, metadata={"help": "Smallest area of a crop, as a share of the image."})
    max_crop: float = field(default=1.0, metadata={"help": "Largest area of a crop, as a share of the image."})
    flip_probability: float = field(default=0.5, metadata={"help": "Share of views that are flipped left to right."})
    color_strength: float = field(default=0.5, metadata={"help": "s of the colour jitter (CIFAR 0.5, ImageNet 1)."})
    color_probability: float = field(default=0.8, metadata={"help": "Share of views with jittered colours."})
    brightness: str = field(
        default="multiply",
        metadata={
            "help": "How the jitter changes brightness: multiply by 1 - 0.8 s to 1 + 0.8 s (torchvision, and the "
            "authors' code since SimCLR v2), or add -0.8 s to 0.8 s (their SimCLR v1).",
            "choices": BRIGHTNESS,
        },
    )
    grayscale_probability: float = field(default=0.2, metadata={"help": "Share of views without colour."})
    blur_probability: float = field(default=0.5, metadata={"help": "Share of views that are blurred."})
    solarize_probability: float = field(default=0.2, metadata={"help": "Share of views that are solarized (BYOL)."})
    solarize_threshold: float = field(default=0.5, metadata={"help": "Value from which solarizing inverts."})
    noise_deviation: float = field(default=0.1, metadata={"help": "Largest standard deviation of Gaussian noise."})
    rotation_degrees: float = field(default=25.0, metadata={"help": "Rotation is uniform from - to + this."})
    translation_fraction: float = field(default=0.125, metadata={"help": "Largest move, as a share of the side."})
    cutout_fraction: float = field(default=0.5, metadata={"help": "Side of the masked square, as a share of the side."})
    edges_probability: float = field(default=0.5, metadata={"help": "Share of views that become edge images (Sobel)."})

    def __post_init__(self):
        for name in self.augmentations:
            if name not in OPERATIONS:
                raise InputError(f"unknown augmentation {name!r}{nearest(name, OPERATIONS)} ({', '.join(OPERATIONS)})")
        for name, value in vars(self).items():
            shares = ("probability", "threshold", "fraction", "deviation")
            if name.endswith(shares) and not 0 <= value <= 1:
                raise InputError(f"{name} must lie in [0, 1], not {value}")
        if not 0 < self.min_crop <= self.max_crop <= 1:
            raise InputError(
                f"min_crop and max_crop must lie in (0, 1], the first not above the second: not {self.min_crop} and "
                f"{self.max_crop}"
            )
        if not 0 <= self.color_strength <= 2.5:
            raise InputError(f"color_strength must lie in [0, 2.5], not {self.color_strength}")  # hue 0.2 s <= 0.5
        if self.brightness not in BRIGHTNESS:
            raise InputError(f"brightness must be one of {', '.join(BRIGHTNESS)}, not {self.brightness!r}")


@dataclass
class PlainAugmentationArguments(AugmentationArguments):
    """For methods that predict pixels: what changes where things are, and not how they look."""

    augmentations: list[str] = field(
        default_factory=lambda: ["crop", "flip"],
        metadata={"help": "What is done, in this order: crop, flip, rotation, quarter_turns, translation."},
    )
    min_crop: float = field(default=0.3, metadata={"help": "Smallest area of a crop, as a share of the image."})

    def __post_init__(self):
        super().__post_init__()
        for name in self.augmentations:
            if name not in PLAIN:
                raise InputError(
                    f"the augmentation {name!r} changes the pixels that are to be predicted: {', '.join(PLAIN)}"
                )


class Augmentation:
    """Makes one view of each image of a batch.

    Args:
        image_size: side S of a view in pixels. Smaller images and crops are enlarged, as torchvision does.
        mean, std: of the final normalisation, one a channel.
        settings: fields of `AugmentationArguments`. An operation may come twice.

    Attributes:
        draws: how many draws an image takes. Of two augmentations that begin with the same operations the first draws
            mean the same.

    Example:
        >>> augmentation = Augmentation(32, augmentations=["crop", "flip"])
        >>> views = augmentation(images, torch.Generator().manual_seed(0))  # (B, 3, 32, 32)

    Raises:
        InputError: an unknown operation or a setting out of range.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **settings,
    ):
        self.image_size, self.mean, self.std = image_size, tuple(mean), tuple(std)
        _check_channels(mean)
        self.settings = AugmentationArguments(**settings)
        names = self.settings.augmentations
        # A crop in front is taken from the images as they are, and a flip behind it is the same product of matrices.
        self._crops = names[:1] == ["crop"]
        self._flips = names[:2] == ["crop", "flip"]
        self._operations = [OPERATIONS[name] for name in names[self._crops + self._flips :]]
        self.draws = sum(OPERATIONS[name].draws for name in names)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the views, by name: those that one of the operations reads."""
        read = [name for operation in self.settings.augmentations for name in OPERATIONS[operation].settings]
        return {name: getattr(self.settings, name) for name in dict.fromkeys(["augmentations", *read])}

    def __call__(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        generator: torch.Generator | None = None,
        draws: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            images: uint8 (B, 3, H, W), or B tensors uint8 (3, H, W) of various sizes, on any device.
            generator: source of the draws, on its own device.
            draws: instead of a generator, (B, self.draws) uniform in [0, 1), float64.
            out: where the views are to be written.

        Returns:
            float32 (B, 3, S, S), normalised, on the images' device.
        """
        count, device, size = len(images), images[0].device, self.image_size
        if draws is None:
            source = generator.device if generator is not None else "cpu"
            draws = torch.rand(count, self.draws, generator=generator, dtype=torch.float64, device=source)
        if out is None:
            out = torch.empty(count, 3, size, size, device=device)
        draws, used, boxes, mirrored = draws.cpu(), 0, None, None
        if self._crops:
            boxes, used = random_boxes(draws[:, :CROP_DRAWS], *image_sizes(images).unbind(1), *self._areas), CROP_DRAWS
        if self._flips:
            mirrored, used = draws[:, used] < self.settings.flip_probability, used + 1
        steps = []
        for operation in self._operations:
            steps.append((operation.apply, operation.parameters(draws[:, used : used + operation.draws], self)))
            used += operation.draws
        at_once = max(1, _AT_ONCE.get(device.type, count * size**2) // size**2)
        for first in range(0, count, at_once):
            part = slice(first, first + at_once)
            if self._crops:
                flip = None if mirrored is None else mirrored[part]
                views = resampling.crop_and_resize(images[part], boxes[part], size, flip)
            else:
                views = fit(images[part], size)
            for apply, parameters in steps:
                views = apply(views, *(parameter[part] for parameter in parameters))
            image_ops.normalize(views, self.mean, self.std, out=out[part])
        return out

    @property
    def _areas(self) -> tuple[float, float]:
        return self.settings.min_crop, self.settings.max_crop


def image_sizes(images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, 2) heights and widths."""
    if isinstance(images, torch.Tensor):
        return torch.tensor(images.shape[-2:]).expand(len(images), 2)
    return torch.tensor([image.shape[-2:] for image in images])


def fit(images: torch.Tensor | Sequence[torch.Tensor], size: int, crop_ratio: float = 1.0) -> torch.Tensor:
    """Resizes the shorter side to size / crop_ratio, takes the central square: float32 (B, 3, size, size) in [0, 1]."""
    if not isinstance(images, torch.Tensor):
        return torch.cat([fit(image[None], size, crop_ratio) for image in images])
    short = round(size / crop_ratio)
    height, width = images.shape[-2:]
    scale = short / min(height, width)
    height, width = (short, int(scale * width)) if height <= width else (int(scale * height), short)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resampling.resize(images, (height, width))[..., top : top + size, left : left + size]


def eval_view(
    images: torch.Tensor | Sequence[torch.Tensor],
    image_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    crop_ratio: float = 1.0,
) -> torch.Tensor:
    """The view for evaluation, without chance: resize, central crop, normalise.

    Args:
        images: uint8 (B, 3, H, W), or B tensors uint8 (3, H, W) of various sizes.
        crop_ratio: side of the crop over the shorter side of the image (.875 on ImageNet, 1 on small images).

    Returns:
        float32 (B, 3, image_size, image_size).
    """
    _check_channels(mean)
    return image_ops.normalize(fit(images, image_size, crop_ratio), mean, std)


def _check_channels(mean: Sequence[float]) -> None:
    if len(mean) != 3:
        raise InputError(f"images have three channels here, and the model's mean has {len(mean)}: model.num_channels 3")


CROP_DRAWS = 2 * _ATTEMPTS + 2


def random_boxes(
    draws: torch.Tensor,
    heights: torch.Tensor,
    widths: torch.Tensor,
    min_area: float = 0.08,
    max_area: float = 1.0,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> torch.Tensor:
    """torchvision's RandomResizedCrop.get_params for a batch: the first of ten tries that fits, else the centre.

    Args:
        draws: (B, CROP_DRAWS) uniform in [0, 1).
        heights, widths: (B,) in pixels.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    height, width = heights.double()[:, None], widths.double()[:, None]
    area = height * width * (min_area + (max_area - min_area) * draws[:, :_ATTEMPTS])
    low, high = torch.tensor(ratio, dtype=torch.float64).log().tolist()
    aspect = torch.exp(low + (high - low) * draws[:, _ATTEMPTS : 2 * _ATTEMPTS])
    box_width, box_height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (B, 10)
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first = fits.byte().argmax(1, keepdim=True)
    box_width, box_height = box_width.gather(1, first), box_height.gather(1, first)  # (B, 1)
    none = ~fits.any(1, keepdim=True)
    box_width = torch.where(none, torch.minimum(width, (height * ratio[1]).round()), box_width)
    box_height = torch.where(none, torch.minimum(height, (width / ratio[0]).round()), box_height)
    top = torch.where(none, ((height - box_height) / 2).floor(), (draws[:, -2:-1] * (height - box_height + 1)).floor())
    left = torch.where(none, ((width - box_width) / 2).floor(), (draws[:, -1:] * (width - box_width + 1)).floor())
    return torch.cat([top, left, box_height, box_width], 1).long()


class Operation(NamedTuple):
    """An augmentation by name: how many draws an image takes, what parameters they become, and what is done with them.

    draws: a number.
    parameters: draws (B, draws) on the CPU and the `Augmentation` -> tensors (B, ...) on the CPU.
    apply: float views (B, 3, S, S) in [0, 1], ours to write to, and the parameters -> views.
    settings: the fields of `AugmentationArguments` that it reads.
    """

    draws: int
    parameters: Callable[[torch.Tensor, Augmentation], tuple]
    apply: Callable[..., torch.Tensor]
    settings: tuple[str, ...] = ()


def _where(
    views: torch.Tensor,
    chosen: torch.Tensor,
    operation: Callable[..., torch.Tensor],
    *parameters: torch.Tensor,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Applies an operation, which also takes the parameters, where bool `chosen` (B,) says so, if need be in order."""
    if len(views) == 1:
        return operation(views, *parameters) if chosen else views
    index = chosen.nonzero().flatten()
    if not len(index):
        return views
    if order is not None:
        index = index[order[index].argsort(stable=True)]
    there = index.to(views.device, non_blocking=True)
    some = operation(views.index_select(0, there), *(parameter[index] for parameter in parameters))
    return views.index_copy_(0, there, some)


def _share(draws: torch.Tensor, probability: float) -> torch.Tensor:
    return draws[:, 0] < probability


def _spread(draws: torch.Tensor, limit: float) -> torch.Tensor:
    """Draws in [0, 1) become uniform in [-limit, limit)."""
    return limit * (2 * draws - 1)


def _crop_parameters(draws, augmentation):
    side = torch.full((len(draws),), augmentation.image_size)
    return (random_boxes(draws, side, side, *augmentation._areas),)


def _crop_again(views, boxes):
    return resampling.crop_and_resize(views, boxes, views.shape[-1])


def _flip(views, chosen):
    return _where(views, chosen, lambda some: some.flip(-1))


def _jitter_parameters(draws, augmentation):
    """Brightness, contrast and saturation by 0.8 s, hue by 0.2 s, in an order drawn for each image."""
    settings = augmentation.settings
    strength, additive = settings.color_strength, settings.brightness == "add"
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    factors = torch.cat([low + (high - low) * draws[:, 2:5], _spread(draws[:, 5:], 0.2 * strength)], 1).float()
    if additive:
        factors[:, 0] = _spread(draws[:, 2], 0.8 * strength)
    orders = _ORDERS[(draws[:, 1] * len(_ORDERS)).long()]
    return _share(draws, settings.color_probability), *image_ops.plan_jitter(factors, orders, additive)


def _jitter(views, chosen, *plan):
    def jitter(some, *plan):
        return image_ops.jitter(some, image_ops.JitterPlan(*plan))

    return _where(views, chosen, jitter, *plan, order=image_ops.JitterPlan(*plan).places)


def _grayscale(views, chosen):
    return _where(views, chosen, lambda some: image_ops.rgb_to_grayscale(some, 3))


def _blur_parameters(draws, augmentation):
    """Sigma uniform in [0.1, 2], the kernel a tenth of the side (appendix A), odd and at least 3."""
    taps = resampling.gaussian_taps(0.1 + 1.9 * draws[:, 1], max(3, augmentation.image_size // 10 // 2 * 2 + 1))
    return _share(draws, augmentation.settings.blur_probability), taps


def _blur(views, chosen, taps):
    return _where(views, chosen, resampling.blur, taps)


def _solarize_parameters(draws, augmentation):
    threshold = torch.full((len(draws),), augmentation.settings.solarize_threshold)
    return _share(draws, augmentation.settings.solarize_probability), threshold


def _solarize(views, chosen, threshold):
    return _where(views, chosen, lambda some: image_ops.solarize(some, float(threshold[0])))


def _noise_parameters(draws, augmentation):
    return (draws[:, 0] * 2**53).long(), augmentation.settings.noise_deviation * draws[:, 1]


def _translation_parameters(draws, augmentation):
    limit = augmentation.settings.translation_fraction * augmentation.image_size
    return _spread(draws[:, 0], limit), _spread(draws[:, 1], limit)


def _cutout_parameters(draws, augmentation):
    """A square about any point of the image (DeVries and Taylor 2017), in the mean colour: 0 after normalising."""
    side = round(augmentation.settings.cutout_fraction * augmentation.image_size)
    corner = (draws * augmentation.image_size).floor().long() - side // 2  # (B, 2)
    boxes = torch.cat([corner, torch.full_like(corner, side)], 1)
    return boxes, torch.tensor(augmentation.mean).expand(len(draws), 3)


def _cutout(views, boxes, fill):
    return image_ops.cutout(views, boxes, fill[0])


def _edges(views, chosen):
    return _where(views, chosen, image_ops.sobel)


OPERATIONS: dict[str, Operation] = {
    # The first crop is taken from the images themselves.
    "crop": Operation(CROP_DRAWS, _crop_parameters, _crop_again, ("min_crop", "max_crop")),
    "flip": Operation(1, lambda draws, a: (_share(draws, a.settings.flip_probability),), _flip, ("flip_probability",)),
    "color_jitter": Operation(6, _jitter_parameters, _jitter, ("color_strength", "color_probability", "brightness")),
    "grayscale": Operation(
        1, lambda draws, a: (_share(draws, a.settings.grayscale_probability),), _grayscale, ("grayscale_probability",)
    ),
    "blur": Operation(2, _blur_parameters, _blur, ("blur_probability",)),
    "solarize": Operation(1, _solarize_parameters, _solarize, ("solarize_probability", "solarize_threshold")),
    "noise": Operation(2, _noise_parameters, image_ops.noise, ("noise_deviation",)),
    "rotation": Operation(
        1,
        lambda draws, a: (_spread(draws[:, 0], a.settings.rotation_degrees),),
        image_ops.rotate,
        ("rotation_degrees",),
    ),
    "quarter_turns": Operation(1, lambda draws, a: ((draws[:, 0] * 4).long(),), image_ops.quarter_turns),
    "translation": Operation(2, _translation_parameters, image_ops.translate, ("translation_fraction",)),
    "cutout": Operation(2, _cutout_parameters, _cutout, ("cutout_fraction",)),
    "edges": Operation(
        1, lambda draws, a: (_share(draws, a.settings.edges_probability),), _edges, ("edges_probability",)
    ),
}
