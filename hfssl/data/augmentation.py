"""SimCLR's augmentations (Chen et al. 2020, appendix A), and the lecture's, on batches of tensors.

Each operation takes uniform draws in [0, 1), a fixed number for each image, and turns them into parameters. So the
draws may come from a seeded `torch.Generator` or be a hash of (seed, epoch, sample), and a batch needs no loop over
its images. Unlike torchvision on PIL images nothing is rounded to 8 bits between operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from hfssl.data import image_ops
from hfssl.errors import InputError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it takes the central crop
_ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4)


@dataclass
class AugmentationArguments:
    """Which augmentations make a view, and how strong. The defaults are the paper's for CIFAR-10 (appendix B.9)."""

    augmentations: list[str] = field(
        default_factory=lambda: ["crop", "flip", "color_jitter", "grayscale"],
        metadata={
            "help": "What is done, in this order: crop (first if at all), flip, color_jitter, grayscale, blur, "
            "rotation, translation, cutout, edges. The paper's for ImageNet: crop flip color_jitter grayscale blur."
        },
    )
    color_strength: float = field(default=0.5, metadata={"help": "s of the colour jitter (CIFAR 0.5, ImageNet 1)."})
    color_probability: float = field(default=0.8, metadata={"help": "Share of views with jittered colours."})
    grayscale_probability: float = field(default=0.2, metadata={"help": "Share of views without colour."})
    blur_probability: float = field(default=0.5, metadata={"help": "Share of views that are blurred."})
    min_crop: float = field(default=0.08, metadata={"help": "Smallest area of a crop, as a share of the image."})
    rotation_degrees: float = field(default=25.0, metadata={"help": "Rotation is uniform from - to + this."})
    translation_fraction: float = field(default=0.125, metadata={"help": "Largest move, as a share of the side."})
    cutout_fraction: float = field(default=0.5, metadata={"help": "Side of the masked square, as a share of the side."})
    edges_probability: float = field(default=0.5, metadata={"help": "Share of views that become edge images (Sobel)."})

    def __post_init__(self):
        for name in self.augmentations:
            if name not in OPERATIONS:
                raise InputError(f"unknown augmentation {name!r}{nearest(name, OPERATIONS)} ({', '.join(OPERATIONS)})")
        if "crop" in self.augmentations[1:]:
            raise InputError("'crop' must be the first of the augmentations: it brings the images to one size")
        for name in ("color_probability", "grayscale_probability", "blur_probability", "edges_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if not 0 < self.min_crop <= 1:
            raise InputError(f"min_crop must lie in (0, 1], not {self.min_crop}")
        if not 0 <= self.color_strength <= 2.5:
            raise InputError(f"color_strength must lie in [0, 2.5], not {self.color_strength}")  # hue 0.2 s <= 0.5


class Augmentation:
    """Makes one view of each image of a batch.

    Args:
        image_size: side S of a view in pixels.
        mean, std: of the final normalisation, one a channel.
        settings: fields of `AugmentationArguments`.

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
        self.settings = AugmentationArguments(**settings)
        self._operations = [OPERATIONS[name] for name in self.settings.augmentations if name != "crop"]
        self._crops = "crop" in self.settings.augmentations
        self.draws = (CROP_DRAWS if self._crops else 0) + sum(draws for draws, _ in self._operations)

    def __call__(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        generator: torch.Generator | None = None,
        draws: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            images: uint8 (B, 3, H, W), or B tensors uint8 (3, H, W) of various sizes, on any device.
            generator: source of the draws, on its own device.
            draws: instead of a generator, (B, self.draws) uniform in [0, 1), float64.

        Returns:
            float32 (B, 3, S, S), normalised.
        """
        if draws is None:
            device = generator.device if generator is not None else "cpu"
            draws = torch.rand(len(images), self.draws, generator=generator, dtype=torch.float64, device=device)
        draws = draws.to(images[0].device)
        if self._crops:
            heights, widths = image_sizes(images).to(draws.device).unbind(1)
            boxes = random_boxes(draws[:, :CROP_DRAWS], heights, widths, self.settings.min_crop)
            views = image_ops.crop_and_resize(images, boxes, self.image_size)
        else:
            views = fit(images, self.image_size)
        used = CROP_DRAWS if self._crops else 0
        for count, operation in self._operations:
            views = operation(views, draws[:, used : used + count], self)
            used += count
        return image_ops.normalize(views, self.mean, self.std)


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
    return image_ops.resize(images, (height, width))[..., top : top + size, left : left + size]


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
    return image_ops.normalize(fit(images, image_size, crop_ratio), mean, std)


CROP_DRAWS = 2 * _ATTEMPTS + 2


def random_boxes(
    draws: torch.Tensor,
    heights: torch.Tensor,
    widths: torch.Tensor,
    min_area: float = 0.08,
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
    area = height * width * (min_area + (1 - min_area) * draws[:, :_ATTEMPTS])
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


def _where(images: torch.Tensor, chosen: torch.Tensor, operation: Callable, *parameters: torch.Tensor) -> torch.Tensor:
    """Applies an operation to the chosen images only. `images` is ours to write to."""
    index = chosen.nonzero().flatten()
    if len(index):
        images[index] = operation(images[index], *(parameter[index] for parameter in parameters))
    return images


def _spread(draws: torch.Tensor, limit: float, centre: float = 0.0) -> torch.Tensor:
    """Draws in [0, 1) become uniform in [centre - limit, centre + limit)."""
    return centre + limit * (2 * draws - 1)


def _flip(images: torch.Tensor, draws: torch.Tensor, _: Augmentation) -> torch.Tensor:
    return torch.where(draws[:, 0, None, None, None] < 0.5, images.flip(-1), images)


def _color_jitter(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Brightness, contrast and saturation by 0.8 s, hue by 0.2 s, in an order drawn for each image."""
    settings = augmentation.settings
    return _where(
        images,
        draws[:, 0] < settings.color_probability,
        lambda chosen, d: jitter(chosen, *_jitter_parameters(d, settings.color_strength)),
        draws[:, 1:],
    )


def _jitter_parameters(draws: torch.Tensor, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 5) draws -> factors (B, 4) of brightness, contrast, saturation and hue, and their orders (B, 4)."""
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    factors = torch.cat([low + (high - low) * draws[:, 1:4], _spread(draws[:, 4:], 0.2 * strength)], 1)
    return factors, _ORDERS.to(draws.device)[(draws[:, 0] * len(_ORDERS)).long()]


_ADJUSTMENTS = (
    image_ops.adjust_brightness,
    image_ops.adjust_contrast,
    image_ops.adjust_saturation,
    image_ops.adjust_hue,
)


def jitter(images: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """torchvision's ColorJitter with given parameters.

    Args:
        images: float (B, 3, H, W), written to.
        factors: (B, 4) of brightness, contrast, saturation (1 is none) and hue (0 is none).
        orders: (B, 4): which of the four comes first, second, third, last.
    """
    for place in range(4):
        for kind, adjust in enumerate(_ADJUSTMENTS):
            images = _where(images, orders[:, place] == kind, adjust, factors[:, kind])
    return images


def _grayscale(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    return _where(images, draws[:, 0] < augmentation.settings.grayscale_probability, image_ops.rgb_to_grayscale)


def _blur(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Sigma uniform in [0.1, 2], the kernel a tenth of the side (appendix A)."""
    kernel_size = max(3, augmentation.image_size // 10 // 2 * 2 + 1)  # odd, at least 3
    return _where(
        images,
        draws[:, 0] < augmentation.settings.blur_probability,
        lambda chosen, sigma: image_ops.gaussian_blur(chosen, sigma, kernel_size),
        0.1 + 1.9 * draws[:, 1],
    )


def _rotation(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    return image_ops.rotate(images, _spread(draws[:, 0], augmentation.settings.rotation_degrees))


def _translation(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    limit = augmentation.settings.translation_fraction * augmentation.image_size
    return image_ops.translate(images, _spread(draws[:, 0], limit), _spread(draws[:, 1], limit))


def _cutout(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """A square about any point of the image (DeVries and Taylor 2017), in the mean colour: 0 after normalising."""
    side = round(augmentation.settings.cutout_fraction * augmentation.image_size)
    corner = (draws * augmentation.image_size).floor().long() - side // 2  # (B, 2)
    boxes = torch.cat([corner, torch.full_like(corner, side)], 1)
    return image_ops.cutout(images, boxes, torch.tensor(augmentation.mean))


def _edges(images: torch.Tensor, draws: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    return _where(images, draws[:, 0] < augmentation.settings.edges_probability, image_ops.sobel)


# Name -> (draws for an image, operation on float images in [0, 1]). `crop` comes first, where images still differ in
# size.
OPERATIONS: dict[str, tuple[int, Callable | None]] = {
    "crop": (CROP_DRAWS, None),
    "flip": (1, _flip),
    "color_jitter": (6, _color_jitter),
    "grayscale": (1, _grayscale),
    "blur": (2, _blur),
    "rotation": (1, _rotation),
    "translation": (2, _translation),
    "cutout": (2, _cutout),
    "edges": (1, _edges),
}
