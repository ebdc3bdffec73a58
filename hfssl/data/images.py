"""The entry for images: a Hub dataset id, an image folder, parquet with image bytes, or ``builtin:NAME``.

Every image comes out as a uint8 RGB tensor (3, H, W) in the size it is stored in; resizing and augmentation come later and on
whole batches.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data import readers
from hfssl.data.builtin import BUILTIN_IMAGES, builtin_images
from hfssl.data.sources import load_hub_dataset, resolve
from hfssl.errors import InputError, one_line

logger = logging.getLogger(__name__)

MAX_DECODED_BYTES = 256 * 2**20  # up to here all images are decoded once and kept
MAX_ENCODED_BYTES = 2**30  # parquet up to here is read into memory, more is mapped from the cache of `datasets`
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")
# Each split and the other names that folders and files use for it.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass
class ImageArguments:
    """Which images."""

    image_path: str = field(
        default="builtin:digits",
        metadata={"help": "A Hub dataset id, a folder of images (subfolder = class), parquet, or builtin:NAME."},
    )
    image_config: str | None = field(default=None, metadata={"help": "The configuration of a Hub dataset."})
    image_split: str = field(default="train", metadata={"help": "The split to train on."})
    image_column: str | None = field(default=None, metadata={"help": "The column with the images; found if not given."})
    label_column: str | None = field(default=None, metadata={"help": "The column with the labels; found if not given."})
    image_size: int = field(default=32, metadata={"help": "Height and width of the model's input in pixels."})
    skip_corrupt_images: bool = field(
        default=False, metadata={"help": "Count damaged images and go on, instead of stopping at the first."}
    )

    def __post_init__(self):
        if self.image_size < 1:
            raise InputError(f"image_size must be at least 1, not {self.image_size}")


class ImageDataset(Dataset):
    """Images with or without labels. ``ds[i]`` is ``{"image": uint8 (3, H, W), "label": int, "index": i}``.

    ``"label"`` is absent if there are no labels. Images are either decoded once and kept, or decoded when asked for; both
    kinds can be pickled for the workers of a DataLoader.

    Attributes:
        labels: int64 (N,), or None.
        class_names: names in the order of the labels, or None.
        source: one line that says where the images come from.
    """

    def __init__(
        self,
        images: Any,
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: list[str] | None = None,
        source: str = "memory",
    ):
        """``images[i]`` gives a uint8 tensor (3, H, W): a tensor (N, 3, H, W), a list, or anything else with a length."""
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        if self.labels is not None and len(self.labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(self.labels)} labels")
        self.class_names = class_names
        self.source = source
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
        part._rows = self._rows[indices]
        part.labels = None if self.labels is None else self.labels[indices]
        return part

    def stack(self) -> torch.Tensor:
        """All images as one uint8 tensor (N, 3, H, W).

        Raises:
            InputError: they differ in size.
        """
        images = [self[i]["image"] for i in range(len(self))]
        sizes = sorted({tuple(image.shape[1:]) for image in images})
        if len(sizes) > 1:
            raise InputError(
                f"the images of {self.source} differ in size ({sizes[0]} ... {sizes[-1]}): resize them first"
            )
        return torch.stack(images)

    def __repr__(self) -> str:
        return f"ImageDataset({self.source!r}, {len(self):,} images, {len(self.class_names or [])} classes)"


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
        path: a Hub dataset id; a folder of images, where a subfolder is a class, or with a subfolder a split; parquet, a
            file or a folder of files that carry the split in their names; an image file; ``builtin:NAME``.
        split: of the source. A parquet file or a folder without splits is all "train": name another for other images.
        config: of a Hub dataset.
        image_column, label_column: of parquet or a Hub dataset; found if not given.
        skip_corrupt: leave damaged images out and log their number instead of stopping at the first.

    Raises:
        InputError: no such source, split or column; no usable image; a damaged image (with its path or row).
    """
    kind, name = resolve(path, BUILTIN_IMAGES)
    if kind == "builtin":
        images, labels, class_names = builtin_images(name, split)
        return ImageDataset(torch.from_numpy(images), labels, class_names, f"builtin:{name} ({split})")
    if kind == "hub":
        dataset = load_hub_dataset(name, config, split)
        entries, labels, class_names = _from_hub(dataset, name, image_column, label_column)
        return _decode(entries, labels, class_names, f"{name} (Hub, {split})", skip_corrupt)
    root = Path(name)
    if _is_parquet(root) or (root.is_dir() and readers.visible_files(root, _is_parquet)):
        entries, labels, class_names = _from_parquet(root, split, image_column, label_column)
    else:
        entries, labels, class_names = _from_folder(root, split)
    return _decode(entries, labels, class_names, str(path) if split == "train" else f"{path} ({split})", skip_corrupt)


# Encoded images: `entries[i]` is a path or bytes, `entries.name(i)` says where they are.


class _Files:
    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Path:
        return self.paths[i]

    def name(self, i: int) -> str:
        return str(self.paths[i])


class _Rows:
    """A column of encoded images: structs {bytes, path} or plain bytes, as pyarrow or a `datasets.Dataset` hold it."""

    def __init__(self, values: Any, source: str, starts: list[tuple[int, str]] | None = None):
        self.values = values
        self.starts = starts or [(0, source)]  # the first row of each file, and its name

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> bytes | Path | None:
        value = self.values[i]
        value = value.as_py() if hasattr(value, "as_py") else value
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path") and Path(value["path"])
        return value

    def name(self, i: int) -> str:
        first, file = next((first, file) for first, file in reversed(self.starts) if first <= i)
        return f"row {i - first} of {file}"


class _Lazy:
    """Decodes when asked. For a damaged image the next readable one of the same label stands in, the same one every time.

    No pass over the data checks for damage beforehand: on a set this large it would read every file once for nothing. Each
    damaged image is logged when it is met first.
    """

    def __init__(self, entries: Any, labels: np.ndarray | None, skip_corrupt: bool):
        self.entries, self.labels, self.skip_corrupt = entries, labels, skip_corrupt
        self.damaged: set[int] = set()
        self.modes: set[str] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> torch.Tensor:
        for step in range(len(self)):
            j = (i + step) % len(self)
            if j in self.damaged or (self.labels is not None and self.labels[j] != self.labels[i]):
                continue
            try:
                pixels, mode = _open_rgb(self.entries, j)
            except InputError as error:
                if not self.skip_corrupt:
                    raise
                self.damaged.add(j)
                logger.warning("%s; another image stands in (damaged so far: %s)", error, len(self.damaged))
                continue
            if mode != "RGB" and mode not in self.modes:
                self.modes.add(mode)
                logger.info("Some images are of mode %s: converted to RGB", mode)
            return torch.from_numpy(pixels)
        raise InputError(f"no readable image that could stand in for {self.entries.name(i)}")


def _decode(entries, labels, class_names, source: str, skip_corrupt: bool) -> ImageDataset:
    """Decodes everything if it is small, else leaves it to `_Lazy`."""
    labels = None if labels is None else np.asarray(labels, dtype=np.int64)
    if not len(entries):
        raise InputError(f"{source} holds no image")
    if _decoded_bytes(entries) > MAX_DECODED_BYTES:
        return ImageDataset(_Lazy(entries, labels, skip_corrupt), labels, class_names, source)
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
    return ImageDataset(images, None if labels is None else labels[kept], class_names, source)


def _decoded_bytes(entries) -> int:
    """An estimate from the headers of up to 64 images spread over the whole set."""
    from PIL import Image

    sizes = []
    for i in np.linspace(0, len(entries) - 1, min(64, len(entries))).astype(int):
        try:
            value = entries[int(i)]
            with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as image:
                sizes.append(image.width * image.height * 3)
        except Exception:
            continue  # a damaged image is dealt with where it is decoded
    return int(np.mean(sizes) * len(entries)) if sizes else 0


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
        with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as stored:
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
        raise InputError(
            f"cannot read the image {entries.name(i)}: {reason} (--skip_corrupt_images leaves damaged images out)"
        ) from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), mode


# Folders


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in readers.IMAGE_SUFFIXES


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _split_of(name: str) -> str | None:
    """The split that a folder's or file's name carries, as in ``train``, ``test-00000-of-00002`` or ``cifar10-val``."""
    words = set(re.split(r"[-_. ]+", name.lower()))
    found = [split for split, names in SPLITS.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def _canonical(split: str) -> str:
    return next((name for name, names in SPLITS.items() if split.lower() in names), split)


def _no_split(root: Path, split: str, splits: list[str]) -> InputError:
    if splits:
        return InputError(f"{str(root)!r} has no split {split!r}; its splits are {', '.join(splits)}")
    return InputError(
        f"{str(root)!r} is not divided into splits: name the file or folder with the {split} images itself"
    )


def _from_folder(root: Path, split: str) -> tuple[_Files, list[int] | None, list[str] | None]:
    if root.is_file():
        if not _is_image(root):
            usable = ", ".join((*readers.IMAGE_SUFFIXES, ".parquet"))
            raise InputError(f"{str(root)!r} is no image and no parquet file by its suffix; usable are {usable}")
        return _Files([root]), None, None
    files = readers.visible_files(root, _is_image)
    if not files:
        usable = ", ".join((*readers.IMAGE_SUFFIXES, ".parquet"))
        raise InputError(f"no usable image in folder {str(root)!r}; usable suffixes are {usable}")
    folders = sorted({file.relative_to(root).parts[0] for file in files if file.parent != root})
    splits = {_split_of(name): name for name in folders if name.lower() in sum(SPLITS.values(), ())}
    if splits and all(file.parent != root for file in files):
        if _canonical(split) not in splits:
            raise _no_split(root, split, sorted(splits))
        # Classes are those of all splits together, so that a label means the same in each.
        inner = [file.relative_to(root).parts for file in files]
        class_names = sorted({parts[1] for parts in inner if len(parts) > 2 and parts[0] in splits.values()})
        root = root / splits[_canonical(split)]
        files = [file for file in files if file.is_relative_to(root)]
    else:
        class_names = folders
        if _canonical(split) != "train":
            raise _no_split(root, split, [])
    if not class_names:
        return _Files(files), None, None
    loose = [file for file in files if file.parent == root]
    if loose:
        logger.warning("%s images lie in %s itself and not in a folder of a class: left out", len(loose), root)
        files = [file for file in files if file.parent != root]
    number = {name: i for i, name in enumerate(class_names)}
    return _Files(files), [number[file.relative_to(root).parts[0]] for file in files], class_names


# Parquet and the Hub


def _from_parquet(root: Path, split: str, image_column: str | None, label_column: str | None):
    import pyarrow as pa

    files = [root] if root.is_file() else readers.visible_files(root, _is_parquet)
    if root.is_dir():
        splits = {file: _split_of(file.stem) or _split_of(file.parent.name) for file in files}
        if any(splits.values()):
            if _canonical(split) not in splits.values():
                raise _no_split(root, split, sorted({name for name in splits.values() if name}))
            files = [file for file in files if splits[file] == _canonical(split)]
    if _canonical(split) != "train" and (root.is_file() or not any(splits.values())):
        raise _no_split(root, split, [])
    opened = [readers.open_parquet(file) for file in files]
    schema = opened[0].schema_arrow
    image_column, label_column = _columns(_arrow_columns(schema), image_column, label_column, files[0])
    names = [image_column, *filter(None, [label_column])]
    for file, other in zip(files, opened, strict=True):
        if missing := set(names) - set(other.schema_arrow.names):
            raise InputError(f"{str(file)!r} has no column {missing.pop()!r}, which {files[0].name!r} has")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    class_names = features.get(label_column, {}).get("names") if label_column else None
    firsts = np.cumsum([0, *(file.metadata.num_rows for file in opened)])
    starts = list(zip(firsts[:-1].tolist(), map(str, files), strict=True))
    if sum(file.stat().st_size for file in files) > MAX_ENCODED_BYTES:
        from datasets import Dataset as HubDataset

        dataset = HubDataset.from_parquet([str(file) for file in files], columns=names)
        return _hub_entries(dataset, image_column, label_column, class_names, str(root), starts)
    try:
        table = pa.concat_tables([file.read(columns=names) for file in opened], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {str(root)!r}, a damaged parquet file: {one_line(error)}") from error
    labels = None if label_column is None else table.column(label_column).to_pylist()
    labels, class_names = _as_numbers(labels, class_names, label_column, str(root))
    return _Rows(table.column(image_column), str(root), starts), labels, class_names


def _arrow_columns(schema) -> dict[str, str]:
    """For each column "image" (a struct with bytes), "bytes", or its type."""
    import pyarrow as pa

    kinds = {}
    for entry in schema:
        kind = entry.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kinds[entry.name] = "image"
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            kinds[entry.name] = "bytes"
        else:
            kinds[entry.name] = str(kind)
    return kinds


def _columns(kinds: dict[str, str], image_column, label_column, source) -> tuple[str, str | None]:
    """The columns with the images and the labels; a named one must be there, else the first that fits is taken."""
    known = ", ".join(kinds)
    if image_column is None:
        usable = [name for name, kind in kinds.items() if kind in ("image", "bytes")]
        image_column = next((name for name in usable if kinds[name] == "image"), usable[0] if usable else None)
        if image_column is None:
            raise InputError(f"{str(source)!r} has no column with images; its columns are {known}")
    elif image_column not in kinds:
        raise InputError(f"{str(source)!r} has no column {image_column!r}; its columns are {known}")
    elif kinds[image_column] not in ("image", "bytes"):
        raise InputError(f"column {image_column!r} of {str(source)!r} is {kinds[image_column]}, not images")
    if label_column is None:
        label_column = next((name for name in LABEL_COLUMNS if name in kinds and name != image_column), None)
    elif label_column not in kinds:
        raise InputError(f"{str(source)!r} has no column {label_column!r}; its columns are {known}")
    return image_column, label_column


def _as_numbers(labels: list | None, class_names: list[str] | None, column, source: str):
    """Labels as integers with their names: strings are numbered in sorted order, integers keep their value."""
    if labels is None:
        return None, None
    kinds = {type(label) for label in labels}
    if kinds == {str}:
        class_names = sorted(set(labels))
        number = {name: i for i, name in enumerate(class_names)}
        labels = [number[label] for label in labels]
    elif kinds <= {int, bool}:
        labels = [int(label) for label in labels]
    else:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(
            f"column {column!r} of {source!r} holds {found}: labels must all be integers or all be strings"
        )
    return labels, class_names or [str(i) for i in range(max(labels, default=-1) + 1)]


def _from_hub(dataset, name: str, image_column: str | None, label_column: str | None):
    from datasets import ClassLabel, Image

    kinds = {key: "image" if isinstance(feature, Image) else str(feature) for key, feature in dataset.features.items()}
    kinds = {key: "bytes" if "'binary'" in kind or "'large_binary'" in kind else kind for key, kind in kinds.items()}
    image_column, label_column = _columns(kinds, image_column, label_column, name)
    feature = dataset.features.get(label_column) if label_column else None
    class_names = list(feature.names) if isinstance(feature, ClassLabel) else None
    return _hub_entries(dataset, image_column, label_column, class_names, name)


def _hub_entries(dataset, image_column, label_column, class_names, source: str, starts=None):
    from datasets import Image

    labels = None if label_column is None else list(dataset[label_column])
    labels, class_names = _as_numbers(labels, class_names, label_column, source)
    if isinstance(dataset.features[image_column], Image):
        dataset = dataset.cast_column(image_column, Image(decode=False))
    return _Rows(dataset[image_column], source, starts), labels, class_names
