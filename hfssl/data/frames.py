"""Pairs of frames of a video, the lecture's example of CPC: x and y are frames of one clip, some frames apart.

How far apart is a function of (seed, epoch, sample), like the views (`hfssl.data.collators`): the same on any worker,
process or after a resume.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data.augmentation import Augmentation
from hfssl.data.builtin import BUILTIN_FRAMES, builtin_frames
from hfssl.data.collators import stack_images
from hfssl.data.images import ImageDataset, open_files
from hfssl.data.masking import uniform
from hfssl.data.readers import IMAGE_SUFFIXES, visible_files
from hfssl.data.sources import resolve
from hfssl.errors import InputError

_STREAM = 2000  # the draws of frame v come from stream _STREAM + v, the gap from _STREAM + 2


@dataclass
class FrameArguments:
    """Pairs of frames instead of two views of an image."""

    frame_path: str | None = field(
        default=None,
        metadata={
            "help": "A folder with a folder of numbered frames for each clip, a folder of frames (one clip), or "
            "builtin:drift. Each frame is paired with a later one of its clip."
        },
    )
    min_gap: int = field(default=1, metadata={"help": "The fewest frames from the first of a pair to the second."})
    max_gap: int | None = field(
        default=None, metadata={"help": "The most; in between the gap is drawn anew in each epoch. By default min_gap."}
    )

    def __post_init__(self):
        self.max_gap = self.min_gap if self.max_gap is None else self.max_gap
        if not 1 <= self.min_gap <= self.max_gap:
            raise InputError(f"the gaps must be 1 <= min_gap <= max_gap, not {self.min_gap} and {self.max_gap}")


class FrameDataset(Dataset):
    """The frames that have another `max_gap` after them in their clip: all gaps up to it are then equally likely.

    ``ds[i]`` is ``{"image": uint8 (3, H, W), "index": i}``.

    Args:
        frames: of all clips, one clip after the other.
        lengths: how many frames each clip has.
        max_gap: in frames.
        clips: names, for messages.

    Raises:
        InputError: a clip is too short for the gap.
    """

    def __init__(self, frames: ImageDataset, lengths: Sequence[int], max_gap: int = 1, clips: Sequence[str] = ()):
        short = [i for i, length in enumerate(lengths) if length <= max_gap]
        if short:
            name = clips[short[0]] if clips else f"number {short[0]}"
            raise InputError(
                f"clip {name} has {lengths[short[0]]} frame(s), too few for a gap of {max_gap} frames"
                f" ({len(short)} of {len(lengths)} clips are); give a smaller --max_gap or leave them out"
            )
        ends = np.cumsum(lengths)
        self.starts = np.concatenate([np.arange(end - n, end - max_gap) for n, end in zip(lengths, ends, strict=True)])
        self.frames, self.source = frames, frames.source
        clip_lengths = hashlib.blake2b(repr([*map(int, lengths), max_gap]).encode(), digest_size=8).hexdigest()
        self.fingerprint = f"{frames.fingerprint}, {clip_lengths}"

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"image": self.later(index, 0), "index": index}

    def later(self, index: int, gap: int) -> torch.Tensor:
        """The frame `gap` after the one of sample `index`, uint8 (3, H, W)."""
        return self.frames[int(self.starts[index]) + gap]["image"]


def load_frames(path: str, max_gap: int = 1) -> FrameDataset:
    """Opens clips: every folder below `path`, or `path` itself, that holds images is one.

    Clips, and the frames of a clip, are in the natural order of their names: frame 10 follows frame 9.

    Raises:
        InputError: no such folder, no clip in it, a clip that is too short for the gap, or a damaged frame.
    """
    kind, name = resolve(path, BUILTIN_FRAMES)
    if kind == "builtin":
        frames, lengths = builtin_frames(name)
        content = hashlib.blake2b(frames.tobytes(), digest_size=8).hexdigest()
        images = ImageDataset(torch.from_numpy(frames), None, None, f"builtin:{name}", content)
        return FrameDataset(images, lengths, max_gap)
    root = Path(name)
    if kind == "hub" or not root.is_dir():
        raise InputError(f"frames come from a folder or builtin:drift, and {path!r} is no folder")
    clips: dict[Path, list[Path]] = {}
    for file in visible_files(root, lambda file: file.suffix.lower() in IMAGE_SUFFIXES):
        clips.setdefault(file.parent, []).append(file)
    if not clips:
        raise InputError(
            f"no clip in {path!r}: neither it nor a folder in it holds frames ({', '.join(IMAGE_SUFFIXES)})"
        )
    folders = sorted(clips, key=lambda folder: natural_key(str(folder.relative_to(root))))
    names = [str(folder) for folder in folders]
    lengths = [len(clips[folder]) for folder in folders]
    files = [file for folder in folders for file in sorted(clips[folder], key=lambda file: natural_key(file.name))]
    FrameDataset(
        ImageDataset([None] * len(files)), lengths, max_gap, names
    )  # refuses short clips before any is decoded
    return FrameDataset(open_files(files, str(path)), lengths, max_gap, names)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts names with the numbers in them as numbers."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


class FramePairCollator:
    """Items of a `FrameDataset` become {"pixel_values": (B, 2, 3, S, S)}: the frame, and one of its clip a gap later.

    Args:
        frames: the dataset, of a `max_gap` that is not smaller.
        augmentation: makes the view of each frame, with draws of its own.
        seed: of the draws.
        min_gap, max_gap: in frames; the gap is uniform over the integers from one to the other.
    """

    def __init__(
        self, frames: FrameDataset, augmentation: Augmentation, seed: int = 0, min_gap: int = 1, max_gap: int = 1
    ):
        self.frames, self.augmentation, self.seed = frames, augmentation, seed
        self.min_gap, self.max_gap = min_gap, max_gap

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the pairs, as plain values."""
        return self.augmentation.identity | {"seed": self.seed, "min_gap": self.min_gap, "max_gap": self.max_gap}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        pairs = ([item["image"] for item in items], self._partners(indices, epochs))
        views = []
        for view, images in enumerate(pairs):
            draws = uniform(self.seed, epochs, indices, self.augmentation.draws, _STREAM + view)
            views.append(self.augmentation(stack_images(images), draws=torch.from_numpy(draws)))
        return {"pixel_values": torch.stack(views, 1)}

    def gaps(self, indices: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """How far apart the frames of each pair are, integers (B,)."""
        draws = uniform(self.seed, epochs, indices, 1, _STREAM + 2)[:, 0]
        return self.min_gap + (draws * (self.max_gap - self.min_gap + 1)).astype(np.int64)

    def _partners(self, indices: np.ndarray, epochs: np.ndarray) -> list[torch.Tensor]:
        gaps = self.gaps(indices, epochs)
        return [self.frames.later(index, gap) for index, gap in zip(indices.tolist(), gaps.tolist(), strict=True)]
