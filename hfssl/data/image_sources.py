"""Finding encoded images and their labels in a folder, in parquet or on the Hub; `hfssl.data.images` decodes them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.data import readers
from hfssl.errors import InputError, one_line

logger = logging.getLogger(__name__)

MAX_ENCODED_BYTES = 2**30  # parquet up to here is read into memory, more is mapped from the cache of `datasets`
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")
# Each split and the other names that folders and files use for it.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}

IF_DAMAGED = " (--skip_corrupt_images leaves damaged images out)"

# Encoded images: `entries[i]` is a path or bytes, `entries.name(i)` says where they are, `if_damaged` what one can do.


class Files:
    if_damaged = IF_DAMAGED

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Path:
        return self.paths[i]

    def name(self, i: int) -> str:
        return str(self.paths[i])

    def fingerprint(self) -> str:
        """A hash of the names and sizes of all files: their content would have to be read once for nothing."""
        root = Path(os.path.commonpath(self.paths)) if len(self) > 1 else self.paths[0].parent
        lines = (f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in self.paths)
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


class Rows:
    """A column of encoded images: structs {bytes, path} or plain bytes, as pyarrow or a `datasets.Dataset` hold it.

    Args:
        roots: a path in a row is opened only if the file lies below one of these folders.
        files: what the rows were read from, or a hash that stands for it.
        starts: the first row of each file, and its name.
    """

    if_damaged = IF_DAMAGED

    def __init__(
        self,
        values: Any,
        source: str,
        roots: Sequence[Path],
        files: Sequence[Path] | str,
        starts: list[tuple[int, str]] | None = None,
    ):
        self.values, self.files, self.roots = values, files, [Path(root).resolve() for root in roots]
        self.starts = starts or [(0, source)]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> bytes | Path | None:
        value = self.values[i]
        value = value.as_py() if hasattr(value, "as_py") else value
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else self._file(value.get("path"))
        return value

    def _file(self, name: str | None) -> Path | None:
        """Data from somewhere else may name any file of this machine."""
        if not name:
            return None
        path = (self.roots[0] / name).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ValueError(f"it names the file {name!r} outside {str(self.roots[0])!r}")
        return path

    def name(self, i: int) -> str:
        first, file = next((first, file) for first, file in reversed(self.starts) if first <= i)
        return f"row {i - first} of {file}"

    def fingerprint(self) -> str:
        """A hash of the files' content; a Hub dataset's own."""
        if isinstance(self.files, str):
            return self.files
        contents = "".join(readers.content_hash(path) for path in self.files)
        return hashlib.blake2b(contents.encode(), digest_size=8).hexdigest()


# Folders


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in readers.IMAGE_SUFFIXES


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _split_of(name: str) -> str | None:
    """The split that a folder's or file's name carries, as in ``train``, ``test-00000-of-00002`` or ``cifar10-val``."""
    words = set(re.split(r"[-_. ]+", name.lower()))
    found = [split for split, names in SPLITS.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def splits_of(folder: Path) -> set[str]:
    """The splits that the folders and files in a folder name."""
    return {split for path in folder.iterdir() if (split := _split_of(path.name)) and not path.name.startswith(".")}


def _canonical(split: str) -> str:
    return next((name for name, names in SPLITS.items() if split.lower() in names), split)


def _no_split(root: Path, split: str, splits: list[str]) -> InputError:
    if splits:
        return InputError(f"{str(root)!r} has no split {split!r}; its splits are {', '.join(splits)}")
    return InputError(
        f"{str(root)!r} is not divided into splits: name the file or folder with the {split} images itself"
    )


def from_folder(root: Path, split: str) -> tuple[Files, list[int] | None, list[str] | None]:
    if root.is_file():
        if not _is_image(root):
            usable = ", ".join((*readers.IMAGE_SUFFIXES, ".parquet"))
            raise InputError(f"{str(root)!r} is no image and no parquet file by its suffix; usable are {usable}")
        return Files([root]), None, None
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
        return Files(files), None, None
    loose = [file for file in files if file.parent == root]
    if loose:
        logger.warning("%s images lie in %s itself and not in a folder of a class: left out", len(loose), root)
        files = [file for file in files if file.parent != root]
    number = {name: i for i, name in enumerate(class_names)}
    return Files(files), [number[file.relative_to(root).parts[0]] for file in files], class_names


# Parquet and the Hub


def from_parquet(root: Path, split: str, image_column: str | None, label_column: str | None):
    import pyarrow as pa

    files = [root] if root.is_file() else readers.visible_files(root, is_parquet)
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
        rows, labels, class_names = _hub_columns(dataset, image_column, label_column, class_names, str(root))
        return Rows(rows, str(root), [files[0].parent], files, starts), labels, class_names
    try:
        table = pa.concat_tables([file.read(columns=names) for file in opened], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {str(root)!r}, a damaged parquet file: {one_line(error)}") from error
    labels = None if label_column is None else table.column(label_column).to_pylist()
    labels, class_names = _as_numbers(labels, class_names, label_column, str(root))
    return Rows(table.column(image_column), str(root), [files[0].parent], files, starts), labels, class_names


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
    elif label_column == "none":
        label_column = None
    elif label_column not in kinds:
        raise InputError(f"{str(source)!r} has no column {label_column!r}; its columns are {known}")
    return image_column, label_column


def _as_numbers(labels: list | None, class_names: list[str] | None, column, source: str):
    """Labels as integers with their names: strings are numbered in sorted order, integers keep their value and have a
    name only if the source gives one."""
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
    return labels, class_names


def from_hub(dataset, name: str, image_column: str | None, label_column: str | None):
    from datasets import ClassLabel, Image, config
    from huggingface_hub.constants import HF_HUB_CACHE

    kinds = {key: "image" if isinstance(feature, Image) else str(feature) for key, feature in dataset.features.items()}
    kinds = {key: "bytes" if "'binary'" in kind or "'large_binary'" in kind else kind for key, kind in kinds.items()}
    image_column, label_column = _columns(kinds, image_column, label_column, name)
    feature = dataset.features.get(label_column) if label_column else None
    class_names = list(feature.names) if isinstance(feature, ClassLabel) else None
    rows, labels, class_names = _hub_columns(dataset, image_column, label_column, class_names, name)
    caches = [config.HF_DATASETS_CACHE, HF_HUB_CACHE]  # where a dataset of loose images has them
    return Rows(rows, name, caches, dataset._fingerprint), labels, class_names


def _hub_columns(dataset, image_column, label_column, class_names, source: str):
    from datasets import Image

    labels = None if label_column is None else list(dataset[label_column])
    labels, class_names = _as_numbers(labels, class_names, label_column, source)
    if isinstance(dataset.features[image_column], Image):
        dataset = dataset.cast_column(image_column, Image(decode=False))
    return dataset[image_column], labels, class_names
