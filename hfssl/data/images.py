"""The entry for images: a Hub dataset id, an image folder, parquet with image bytes, or ``builtin:NAME``.

Every image comes out as a uint8 RGB tensor (3, H, W) in the size it is stored in; resizing and augmentation come later
and on whole batches.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data.builtin import BUILTIN_IMAGES, builtin_images
from hfssl.data.image_sources import Files, from_folder, from_hub, from_parquet, is_parquet
from hfssl.data.readers import IMAGE_FORMATS, visible_files
from hfssl.data.sources import load_hub_dataset, resolve
from hfssl.errors import InputError, one_line

logger = logging.getLogger(__name__)

MAX_DECODED_BYTES = 256 * 2**20  # up to here all images are decoded once and kept


@dataclass
class ImageArguments:
    """Which images. The size they are brought to is the model's (`model.image_size`)."""

    image_path: str = field(
        default="builtin:digits",
        metadata={"help": "A Hub dataset id, a folder of images (subfolder = class), parquet, or builtin:NAME."},
    )
    image_config: str | None = field(default=None, metadata={"help": "The configuration of a Hub dataset."})
    image_split: str = field(default="train", metadata={"help": "The split to train on."})
    image_column: str | None = field(default=None, metadata={"help": "The column with the images; found if not given."})
    label_column: str | None = field(
        default=None, metadata={"help": "The column with the labels, or none; found if not given."}
    )
    skip_corrupt_images: bool = field(
        default=False, metadata={"help": "Count damaged images and go on, instead of stopping at the first."}
    )


@dataclass
class ResidentArguments:
    """Where the images are while a model trains on them."""

    resident: bool = field(
        default=False,
        metadata={"help": "Keep all images, which must be of one size, on the training device and augment them there."},
    )


class ImageDataset(Dataset):
    """Images with or without labels. ``ds[i]`` is ``{"image": uint8 (3, H, W), "label": int, "index": i}``.

    ``"label"`` is absent if there are no labels. Images are either decoded once and kept, or decoded when asked for;
    both kinds can be pickled for the workers of a DataLoader.

    Attributes:
        labels: int64 (N,), or None.
        class_names: names in the order of the labels, or None.
        source: one line that says where the images come from.
        fingerprint: equal for equal images; of loose files it knows the names and sizes alone.
    """

    def __init__(
        self,
        images: Any,
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: list[str] | None = None,
        source: str = "memory",
        fingerprint: str = "",
    ):
        """``images`` is a uint8 tensor (N, 3, H, W), a list of (3, H, W), or anything else with items and a length."""
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        if self.labels is not None and len(self.labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(self.labels)} labels")
        self.class_names = class_names
        self.source, self.fingerprint = source, fingerprint or source
        self._images = images
        self._rows = np.arange(len(images))  # of `images`; the labels are already in this order

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # an IndexError past the end, and negative ones count from there
        item: dict[str, Any] = {"image": self._images[int(self._rows[index])], "index": index}
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageDataset:
        """Some of the images in the order given, sharing the pixels; their ``"index"`` counts from 0 again."""
        indices = np.asarray(indices, dtype=np.int64)
        part = ImageDataset(self._images, None, self.class_names, self.source)
        part.fingerprint = f"{self.fingerprint}, {hashlib.blake2b(indices.tobytes(), digest_size=8).hexdigest()}"
        part._rows = self._rows[indices]
        part.labels = None if self.labels is None else self.labels[indices]
        return part

    def stack(self) -> torch.Tensor:
        """All images as one uint8 tensor (N, 3, H, W).

        Raises:
            InputError: they differ in size.
        """
        if isinstance(self._images, torch.Tensor):
            return self._images[torch.from_numpy(self._rows)]
        images = [self[i]["image"] for i in range(len(self))]
        sizes = sorted({tuple(image.shape[1:]) for image in images})
        if len(sizes) > 1:
            raise InputError(
                f"the images of {self.source} differ in size ({sizes[0]} ... {sizes[-1]}): resize them first"
            )
        return torch.stack(images)

    def __repr__(self) -> str:
        return f"ImageDataset({self.source!r}, {len(self):,} images, {len(self.class_names or [])} classes)"


class ResidentImages(Dataset):
    """All images of a dataset as one uint8 tensor on a device. ``ds[i]`` is ``{"index": i, "label": int}``: no pixels.

    A collator that is given `pixels` makes the views where they lie, so no worker loads anything. Each process holds
    all images.

    Attributes:
        pixels: uint8 (N, 3, H, W) on the device.
        labels, class_names, source, fingerprint: the dataset's.

    Raises:
        InputError: the images differ in size, or the device has no room for them.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device | str = "cpu"):
        self.labels, self.class_names = dataset.labels, dataset.class_names
        self.source, self.fingerprint = dataset.source, dataset.fingerprint
        try:
            self.pixels = dataset.stack().to(device)
        except InputError as error:
            raise InputError(f"{error}, or leave out --resident") from None
        except torch.OutOfMemoryError:
            raise InputError(
                f"{device} has no room for the {len(dataset):,} images of {self.source}: leave out --resident"
            ) from None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"index": index} if self.labels is None else {"index": index, "label": int(self.labels[index])}


def load_images(
    path: str,
    *,
    split: str = "train",
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_corrupt: bool = False,
) -> ImageDataset:
    """Opens images from any source.

    Args:
        path: a Hub dataset id; a folder of images, where a subfolder is a class (or a split that holds classes);
            parquet, a file or a folder of files that carry the split in their names; an image file; ``builtin:NAME``.
        split: of the source. A parquet file or a folder without splits is all "train": name another for other images.
        config: of a Hub dataset.
        image_column, label_column: of parquet or a Hub dataset; found if not given. The label column "none" leaves
            labels out.
        skip_corrupt: leave damaged images out and log their number instead of stopping at the first.

    Raises:
        InputError: no such source, split or column; no usable image; a damaged image (with its path or row).
    """
    kind, name = resolve(path, BUILTIN_IMAGES)
    if kind == "builtin":
        images, labels, class_names = builtin_images(name, split)
        content = hashlib.blake2b(images.tobytes(), digest_size=8).hexdigest()
        return ImageDataset(torch.from_numpy(images), labels, class_names, f"builtin:{name} ({split})", content)
    if kind == "hub":
        dataset = load_hub_dataset(name, config, split)
        entries, labels, class_names = from_hub(dataset, name, image_column, label_column)
        return _decode(entries, labels, class_names, f"{name} (Hub, {split})", skip_corrupt)
    root = Path(name)
    if is_parquet(root) or (root.is_dir() and visible_files(root, is_parquet)):
        entries, labels, class_names = from_parquet(root, split, image_column, label_column)
    else:
        entries, labels, class_names = from_folder(root, split)
    return _decode(entries, labels, class_names, str(path) if split == "train" else f"{path} ({split})", skip_corrupt)


def open_images(args: ImageArguments) -> ImageDataset:
    """The images that a recipe's flags name, as `load_images` opens them."""
    return load_images(
        args.image_path, split=args.image_split, config=args.image_config, image_column=args.image_column,
        label_column=args.label_column, skip_corrupt=args.skip_corrupt_images,
    )  # fmt: skip


class _Lazy:
    """Decodes when asked. For a damaged image the next readable one of the same label stands in, always the same one.

    No pass over the data looks for damage beforehand: on a set this large it would read every file once for nothing.
    Each damaged image, and each mode that is converted, is logged when it is met first; what was met lies in memory
    that the workers of a loader share, so that not each of them says it.
    """

    def __init__(self, entries: Any, labels: np.ndarray | None, skip_corrupt: bool):
        self.entries, self.labels, self.skip_corrupt = entries, labels, skip_corrupt
        self.damaged = torch.zeros(len(entries), dtype=torch.bool).share_memory_()
        self.converted = torch.zeros(256, dtype=torch.bool).share_memory_()  # by a hash of the mode's name

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> torch.Tensor:
        for step in range(len(self)):
            j = (i + step) % len(self)
            if self.damaged[j] or (self.labels is not None and self.labels[j] != self.labels[i]):
                continue
            try:
                pixels, mode = _open_rgb(self.entries, j)
            except InputError as error:
                if not self.skip_corrupt:
                    raise
                self.damaged[j] = True
                logger.warning("%s; another image stands in (damaged so far: %s)", error, int(self.damaged.sum()))
                continue
            slot = zlib.crc32(mode.encode()) % len(self.converted)
            if mode != "RGB" and not self.converted[slot]:
                self.converted[slot] = True
                logger.info("Some images are of mode %s: converted to RGB", mode)
            return torch.from_numpy(pixels)
        raise InputError(f"no readable image that could stand in for {self.entries.name(i)}")


def _decode(entries, labels, class_names, source: str, skip_corrupt: bool) -> ImageDataset:
    """Decodes everything if it is small, else leaves it to `_Lazy`."""
    labels = None if labels is None else np.asarray(labels, dtype=np.int64)
    if not len(entries):
        raise InputError(f"{source} holds no image")
    if _decoded_bytes(entries) > MAX_DECODED_BYTES:
        return ImageDataset(_Lazy(entries, labels, skip_corrupt), labels, class_names, source, entries.fingerprint())
    from tqdm.auto import tqdm

    images, kept, modes, first_error = [], [], {}, None
    hide = None if len(entries) >= 5000 else True  # None hides the bar where there is no terminal
    for i in tqdm(range(len(entries)), desc=f"Decoding {source}", unit=" images", disable=hide):
        try:
            pixels, mode = _open_rgb(entries, i)
        except InputError as error:
            if not skip_corrupt:
                raise
            first_error = first_error or error
            continue
        modes[mode] = modes.get(mode, 0) + 1
        images.append(torch.from_numpy(pixels))
        kept.append(i)
    if not images:
        raise InputError(f"every image of {source} is damaged; the first: {first_error}")
    if first_error is not None:
        logger.warning(
            "%s of %s images left out: damaged; the first: %s", len(entries) - len(kept), len(entries), first_error
        )
    if other := {mode: count for mode, count in modes.items() if mode != "RGB"}:
        counts = ", ".join(f"{count} of mode {mode}" for mode, count in sorted(other.items()))
        logger.info("Converted to RGB: %s (of %s images)", counts, len(images))
    if len({image.shape for image in images}) == 1:
        images = torch.stack(images)
    return ImageDataset(images, None if labels is None else labels[kept], class_names, source, entries.fingerprint())


def _decoded_bytes(entries) -> int:
    """An estimate from the headers of up to 64 images spread over the whole set."""
    from PIL import Image

    sizes = []
    for i in np.linspace(0, len(entries) - 1, min(64, len(entries))).astype(int):
        try:
            value = entries[int(i)]
            with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value, formats=IMAGE_FORMATS) as image:
                sizes.append(image.width * image.height * 3)
        except Exception:
            continue  # a damaged image is dealt with where it is decoded
    return int(np.mean(sizes) * len(entries)) if sizes else 0


def read_image(entries, i: int) -> torch.Tensor:
    """One image of `entries`, uint8 (3, H, W), turned as its EXIF says.

    Raises:
        InputError: it cannot be decoded.
    """
    return torch.from_numpy(np.array(_open_rgb(entries, i)[0]))


def _open_rgb(entries, i: int) -> tuple[np.ndarray, str]:
    """Decodes one image.

    Returns:
        uint8 (3, H, W), turned as its EXIF says, and the mode it was stored in.

    Raises:
        InputError: it cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        value = entries[i]
        if value is None:
            raise ValueError("it is null")
        with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value, formats=IMAGE_FORMATS) as stored:
            mode = stored.mode
            image = ImageOps.exif_transpose(stored)
            if mode.startswith("I"):  # 16 bits a pixel; PIL's own conversion would cut off instead of scaling
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                image = Image.fromarray(grey)
            elif mode == "F":
                raise ValueError("floating-point pixels have no range of their own: save it with 8 or 16 bits")
            elif mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            pixels = np.asarray(image.convert("RGB"))  # (H, W, 3)
    except Exception as error:  # PIL raises OSError, ValueError, SyntaxError, struct.error, ... depending on the format
        reason = one_line(error).replace(str(entries.name(i)), "it")
        reason = "not an image of a known format" if "cannot identify" in reason else reason
        raise InputError(f"cannot read the image {entries.name(i)}: {reason}{entries.if_damaged}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode


def open_files(paths: Sequence[Path], source: str) -> ImageDataset:
    """Image files in the order given, without labels; none of them is left out.

    Raises:
        InputError: no file, or a damaged one.
    """
    files = Files(list(paths))
    files.if_damaged = ""
    return _decode(files, None, None, source, skip_corrupt=False)
