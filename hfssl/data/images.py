"""The entry for images: builtin sets, files in folders, parquet with image bytes, or a Hub dataset.

Images are decoded to uint8 RGB. Small sets are decoded once and kept; of large ones each is decoded when it is asked for.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data import readers
from hfssl.data.builtin import BUILTIN_IMAGES, builtin_images
from hfssl.data.sources import load_hub_dataset, resolve
from hfssl.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_KEPT_BYTES = 256 * 2**20  # decoded sets up to this size stay in memory
_SPLITS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}


@dataclass
class ImageArguments:
    """Which images. Labels are used by evaluation alone, never by pretraining."""

    image_path: str = field(
        default="builtin:digits",
        metadata={"help": "A Hub dataset id; a folder of images; a .parquet with image bytes; builtin:NAME."},
    )
    image_config: str | None = field(default=None, metadata={"help": "The configuration of a Hub dataset."})
    image_split: str = field(default="train", metadata={"help": "The split to train on."})
    image_column: str | None = field(default=None, metadata={"help": "The column with the images; found if not given."})
    label_column: str | None = field(default=None, metadata={"help": "The column with the labels; found if not given."})
    skip_corrupt_images: bool = field(default=False, metadata={"help": "Leave out images that cannot be decoded."})


class ImageDataset(Dataset):
    """Images by index: {"image": uint8 (3, H, W), "label": int (absent without labels), "index": int}.

    Attributes:
        labels: int64 (N,), or None.
        class_names: names of the labels, empty without labels.
        source: one line that says where they come from.
    """

    def __init__(
        self,
        read: Callable[[int], torch.Tensor],
        size: int,
        source: str,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ):
        self._read, self._size = read, size
        self.source, self.labels, self.class_names = source, labels, list(class_names)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._size:
            raise IndexError(index)
        item = {"image": self._read(int(index)), "index": int(index)}
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item

    def subset(self, indices: Sequence[int]) -> ImageDataset:
        """The images at `indices`, numbered anew from 0."""
        indices = np.asarray(indices)
        labels = None if self.labels is None else self.labels[indices]
        return ImageDataset(_Picked(self._read, indices), len(indices), self.source, labels, self.class_names)


class _Picked:
    """Reads through a list of indices; a class and not a closure, so that DataLoader workers can take it along."""

    def __init__(self, read: Callable[[int], torch.Tensor], indices: np.ndarray):
        self.read, self.indices = read, indices

    def __call__(self, index: int) -> torch.Tensor:
        return self.read(int(self.indices[index]))


class _Kept:
    def __init__(self, images: Sequence[torch.Tensor]):
        self.images = images

    def __call__(self, index: int) -> torch.Tensor:
        return self.images[index]


class _Decoder:
    """Decodes record `index` of a list of files or byte strings."""

    def __init__(self, records: Sequence[Any], names: Callable[[int], str] | Sequence[str]):
        self.records, self.names = records, names

    def __call__(self, index: int) -> torch.Tensor:
        return decode(self.records[index], self.names[index])


def from_arrays(images: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str], source: str) -> ImageDataset:
    """A dataset of decoded images, uint8 (N, 3, H, W)."""
    return ImageDataset(_Kept(torch.from_numpy(np.ascontiguousarray(images))), len(images), source, labels, class_names)


_converted_modes: set[str] = set()


def decode(record: Any, name: str) -> torch.Tensor:
    """A file's path, its bytes, a {"bytes", "path"} mapping or a PIL image, as uint8 (3, H, W).

    Grey, palette, transparent, CMYK and 16-bit images become RGB (said once each); the EXIF orientation is applied.

    Raises:
        InputError: it cannot be decoded; names the image.
    """
    from PIL import Image, ImageOps

    if isinstance(record, dict):
        record = record["bytes"] if record.get("bytes") is not None else record.get("path")
    try:
        if isinstance(record, Image.Image):
            image = record
        else:
            image = Image.open(io.BytesIO(record) if isinstance(record, bytes) else record)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion clips at 255
            image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            _say_converted("16-bit")
        if image.mode != "RGB":
            _say_converted(image.mode)
            image = image.convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be decoded as an image ({error}); --skip_corrupt_images leaves it out") from None


def _say_converted(mode: str) -> None:
    if mode not in _converted_modes:
        _converted_modes.add(mode)
        logger.warning("Images of mode %s are converted to RGB", mode)


def load_images(
    path: str,
    *,
    split: str = "train",
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_corrupt: bool = False,
) -> ImageDataset:
    """Opens images.

    Args:
        path: builtin:NAME; a folder (a subfolder is a class; `train/` and `test/` inside it are splits); a .parquet file or a
            folder of them; or a Hub dataset id.
        split: of builtin, Hub and split folders.
        image_column, label_column: of parquet and Hub data; found by their types and names if not given.
        skip_corrupt: leave out images that cannot be decoded, and say how many; otherwise the first one is an error.

    Raises:
        InputError: there is no such source, it has no image, or an image is corrupt.
    """
    kind, name = resolve(path, BUILTIN_IMAGES)
    if kind == "builtin":
        images, labels, class_names = builtin_images(name, split)
        return from_arrays(images, labels, class_names, f"{path} ({split})")
    if kind == "hub":
        records, labels, class_names = _from_hub(name, config, split, image_column, label_column)
        names = _Numbered(f"image {{}} of {name}")
    elif (tables := _parquet_files(Path(name))) is not None:
        records, labels, class_names = _from_parquet(tables, image_column, label_column)
        names = _Numbered(f"row {{}} of {name}")
    else:
        records, labels, class_names = _from_folder(Path(name), split)
        names = [str(record) for record in records]
    return _opened(records, names, labels, class_names, f"{path} ({split})", skip_corrupt)


class _Numbered:
    def __init__(self, template: str):
        self.template = template

    def __getitem__(self, index: int) -> str:
        return self.template.format(index)


def _opened(records, names, labels, class_names, source: str, skip_corrupt: bool) -> ImageDataset:
    """Keeps the decoded images if they are small; looks through all of them if corrupt ones are to be left out."""
    decoder, count = _Decoder(records, names), len(records)
    good, images = [], []
    keep = count > 0 and _estimate(decoder, count) <= _KEPT_BYTES
    if keep or skip_corrupt:
        for index in range(count):
            try:
                image = decoder(index)
            except InputError:
                if not skip_corrupt:
                    raise
                continue
            good.append(index)
            if keep:
                images.append(image)
        if len(good) < count:
            logger.warning("%d of %d images of %s cannot be decoded: left out", count - len(good), count, source)
        if not good:
            raise InputError(f"{source}: none of the {count} images can be decoded")
        labels = None if labels is None else labels[good]
        read = _Kept(images) if keep else _Picked(decoder, np.array(good))
        return ImageDataset(read, len(good), source, labels, class_names)
    return ImageDataset(decoder, count, source, labels, class_names)


def _estimate(decoder: _Decoder, count: int) -> float:
    """Bytes of the decoded set, from a few images spread over it."""
    sizes = []
    for index in np.linspace(0, count - 1, min(count, 8)).astype(int):
        try:
            sizes.append(decoder(index).numel())
        except InputError:
            continue
    return count * float(np.mean(sizes)) if sizes else 0.0


def _from_folder(folder: Path, split: str):
    if folder.is_file():
        if folder.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{folder} is no image; usable are {', '.join(IMAGE_SUFFIXES)}, .parquet, or a folder")
        return [folder], None, []
    for name in _SPLITS.get(split, (split,)):
        if (folder / name).is_dir():
            folder = folder / name
            break
    files = readers.visible_files(folder, lambda path: path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no usable file; usable are {', '.join(IMAGE_SUFFIXES)} and .parquet")
    classes = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in files]
    class_names = sorted(set(classes))
    if class_names == [""] or "" in class_names:  # files beside the subfolders belong to no class
        return files, None, []
    return files, np.array([class_names.index(name) for name in classes], np.int64), class_names


def _parquet_files(path: Path) -> list[Path] | None:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else None
    return readers.visible_files(path, lambda file: file.suffix.lower() == ".parquet") or None


def _from_parquet(files: list[Path], image_column: str | None, label_column: str | None):
    import pyarrow as pa

    tables = [readers.open_parquet(path).read() for path in files]
    table = pa.concat_tables(tables)
    image_column = _choose(table.column_names, image_column, "image", files[0]) or _first_binary(table, files[0])
    label_column = _choose(table.column_names, label_column, "label", files[0])
    records = table.column(image_column).to_pylist()
    if not records:
        raise InputError(f"{files[0]} has no rows")
    if not isinstance(records[0], (bytes, dict)):
        raise InputError(f"column {image_column!r} of {files[0]} holds no image bytes; columns: {', '.join(table.column_names)}")
    labels, class_names = _encode_labels(table.column(label_column).to_pylist() if label_column else None)
    return records, labels, class_names


def _choose(columns: Sequence[str], asked: str | None, default: str, where) -> str | None:
    if asked is not None and asked not in columns:
        raise InputError(f"{where} has no column {asked!r}; its columns are {', '.join(columns)}")
    return asked or next((name for name in (default, "img", "fine_label", "labels") if name in columns
                          and (default == "label") == ("label" in name)), None)  # fmt: skip


def _first_binary(table, where: Path) -> str:
    import pyarrow as pa

    for item in table.schema:
        kind = item.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return item.name
        if pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
            return item.name
    raise InputError(f"{where} has no column with image bytes; its columns are {', '.join(table.column_names)}")


def _encode_labels(values: list | None) -> tuple[np.ndarray | None, list[str]]:
    if values is None or any(value is None for value in values):
        return None, []
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64), [str(number) for number in range(max(values) + 1)]
    class_names = sorted({str(value) for value in values})
    order = {name: number for number, name in enumerate(class_names)}
    return np.array([order[str(value)] for value in values], np.int64), class_names


def _from_hub(name: str, config: str | None, split: str, image_column: str | None, label_column: str | None):
    import datasets

    dataset = load_hub_dataset(name, config, split)
    found = [key for key, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
    image_column = _choose(dataset.column_names, image_column, "image", name) or next(iter(found), None)
    if image_column is None:
        raise InputError(f"the Hub dataset {name!r} has no image column; its columns are {', '.join(dataset.column_names)}")
    label_column = _choose(dataset.column_names, label_column, "label", name)
    labels, class_names = _encode_labels(list(dataset[label_column]) if label_column else None)
    if label_column and isinstance(dataset.features[label_column], datasets.ClassLabel):
        class_names = dataset.features[label_column].names
    return dataset.cast_column(image_column, datasets.Image(decode=False))[image_column], labels, class_names
