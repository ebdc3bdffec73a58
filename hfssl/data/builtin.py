"""Data inside every installation, so that everything runs without a network: prose, digits, photographs.

``builtin:prose`` is English from the Python installation itself, ``builtin:digits`` and ``builtin:photos`` come with
scikit-learn.
Nothing here downloads, and nothing depends on the machine: the same Python and scikit-learn give the same data.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hfssl.errors import InputError, nearest

if TYPE_CHECKING:
    import numpy as np

BUILTIN_TEXTS = {
    "prose": "English of the Python documentation: pydoc topics and the standard library's docstrings, about 1.5 MB"
}
BUILTIN_IMAGES = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, 10 classes; 1,297 train, 500 test",
    "photos": "32 x 32 crops of scikit-learn's two photographs, 8 classes (photo x quadrant); 2,000 train, 504 test",
}
BUILTIN_FRAMES = {
    "drift": "60 clips of 25 frames: a window of 32 x 32 pixels drifts over scikit-learn's two photographs",
}

VALIDATION_FRACTION = 0.05  # of builtin:prose's documents

# Not in every installation of the same Python (Debian packages these apart), test data, or made by the build.
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "distutils", "ensurepip", "site-packages"}
_LEFT_OUT |= {"dist-packages", "__pycache__", "_sysconfigdata", "sitecustomize", "usercustomize"}


def builtin_texts(name: str = "prose", split: str | None = None) -> list[str]:
    """The documents of a builtin corpus in a fixed order: the pydoc topics by name, then one document a module by name.

    Args:
        name: a key of `BUILTIN_TEXTS`.
        split: ``"train"``, ``"validation"`` (about 5 % of the documents, chosen by a hash of each one's text and so
            not by its place), or None for all of them.

    Raises:
        InputError: an unknown name or split.
    """
    _check_name(name, BUILTIN_TEXTS)
    if split not in (None, "train", "validation"):
        raise InputError(f"builtin:{name} has no split {split!r}; its splits are 'train' and 'validation'")
    documents = _prose()
    if split is None:
        return list(documents)
    return [text for text in documents if (hash_fraction(text) < VALIDATION_FRACTION) == (split == "validation")]


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same on every machine, in every process and order."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@functools.cache
def _prose() -> tuple[str, ...]:
    """Every document of builtin:prose; a paragraph that came before is left out (inherited and copied docstrings)."""
    seen: set[str] = set()
    documents = []
    for raw in (*_topics(), *_module_docstrings()):
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", raw):
            cleaned = _clean_paragraph(paragraph)
            if cleaned and cleaned not in seen:
                seen.add(cleaned)
                paragraphs.append(cleaned)
        if sum(map(len, paragraphs)) >= 200:  # a module with one line of documentation is no document
            documents.append("\n\n".join(paragraphs) + "\n")
    return tuple(documents)


def _topics() -> Iterator[str]:
    """The language reference as pydoc carries it: a module that is one dictionary, so importing it runs nothing."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _module_docstrings() -> Iterator[str]:
    """All docstrings of each standard-library module in source order, read from the source: no module is imported."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).with_suffix("").parts
        # What lies in the folder but is no standard module (a stray file, another package) differs between machines.
        if parts[0] not in sys.stdlib_module_names or _LEFT_OUT & set(parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning for an old escape sequence is not the user's business
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):
                continue
        yield "\n\n".join(_docstrings(tree))


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, from the top down (only statements are visited: fast)."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            # Python 3.13 strips indentation when it compiles, older ones do not: inspect.cleandoc makes them equal.
            yield inspect.cleandoc(first.value.value)
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, None) or ():
            yield from _docstrings(child)


_CODE_LINE = re.compile(
    r"""\s*(?:
        >>>|\.\.\.|\$\s|[#%@|]|-{3}|={3}|\*{3}|~{3}|\^{3}                 # a prompt, comment, decorator, rule or table
      | (?:def|class)\s+\w+\s*[(:]
      | (?:from\s+[\w.]+\s+)?import\s+[\w.]+(?:\s*,\s*\w+)*\s*$
      | (?:else|try|finally):
      | (?:if|elif|for|while|with|except)\b[^:]*[()=\[][^:]*:\s*$
      | (?:print|assert|raise\s+\w+|return\s+[\w.]+)\(
      | [\w.]+\s*(?:\[[^\]]*\]\s*)?(?:[-+*/|&]|::)?=\s*\S                 # an assignment, a rule of a grammar
      | [\w.]+\([^)]*\)\s*(?:->.*)?$                                      # a call or signature by itself
    )""",
    re.VERBOSE,
)


def _clean_paragraph(paragraph: str) -> str:
    """Prose lines of one paragraph with their white space normalised; "" if code or a table is most of it."""
    lines = [line.expandtabs().rstrip() for line in paragraph.splitlines() if line.strip()]
    # Output of a doctest has no marker of its own: from its prompt on, the paragraph is code.
    prompt = next((i for i, line in enumerate(lines) if line.lstrip().startswith(">>>")), len(lines))
    kept = [" ".join(line.split()) for line in lines[:prompt] if not _CODE_LINE.match(line)]
    text = "\n".join(kept)
    letters = sum(character.isalpha() or character == " " for character in text)
    return text if text and letters >= 0.75 * len(text) and len(kept) * 2 >= prompt else ""


def builtin_images(name: str, split: str = "train") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A builtin labelled image set, decoded.

    Args:
        name: a key of `BUILTIN_IMAGES`.
        split: ``"train"`` or ``"test"``; the two share no image (digits) and no pixel (photos).

    Returns:
        images uint8 (N, 3, H, W), labels int64 (N,), class names.

    Raises:
        InputError: an unknown name or split.
    """
    _check_name(name, BUILTIN_IMAGES)
    if split not in ("train", "test"):
        raise InputError(f"builtin:{name} has no split {split!r}; its splits are 'train' and 'test'")
    return _digits(split) if name == "digits" else _photos(split)


def _check_name(name: str, table: dict[str, str]) -> None:
    if name not in table:
        raise InputError(f"no builtin data 'builtin:{name}'{nearest(name, table)} (there are: {', '.join(table)})")


def _digits(split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=500, stratify=digits.target, random_state=0)
    chosen = np.sort(train if split == "train" else test)
    grey = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)  # (N, 8, 8), ink 0..16 becomes 0..255
    images = np.repeat(grey[:, None], 3, axis=1)  # (N, 3, 8, 8)
    return images, digits.target[chosen].astype(np.int64), [str(digit) for digit in range(10)]


_PHOTO_SIZE, _CROP = (427, 640), 32  # height and width of both photographs; side of a crop
# Within a quadrant (320 columns) the test crops lie in a strip of their own, between the two strips of the train crops.
_STRIPS = {"train": ((0, 112), (208, 320)), "test": ((112, 208),)}
_CROPS_PER_CLASS = {"train": 250, "test": 63}


def _photos(split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    import numpy as np
    from sklearn.datasets import load_sample_image

    random = np.random.default_rng(0 if split == "train" else 1)
    half_height, half_width = _PHOTO_SIZE[0] // 2, _PHOTO_SIZE[1] // 2
    crops, class_names = [], []
    for photo in ("china", "flower"):
        pixels = load_sample_image(f"{photo}.jpg")  # (427, 640, 3)
        for quadrant, (top, left) in enumerate(((0, 0), (0, half_width), (half_height, 0), (half_height, half_width))):
            class_names.append(f"{photo} {('top left', 'top right', 'bottom left', 'bottom right')[quadrant]}")
            for i in range(_CROPS_PER_CLASS[split]):
                low, high = _STRIPS[split][i % len(_STRIPS[split])]
                y = top + random.integers(0, half_height - _CROP + 1)
                x = left + random.integers(low, high - _CROP + 1)
                crops.append(pixels[y : y + _CROP, x : x + _CROP])
    images = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))  # (N, 3, 32, 32)
    labels = np.repeat(np.arange(len(class_names)), _CROPS_PER_CLASS[split])
    return images, labels.astype(np.int64), class_names


_CLIPS, _CLIP_LENGTH, _SPEEDS = 60, 25, (2.0, 6.0)  # pixels a frame


def builtin_frames(name: str = "drift") -> tuple[np.ndarray, list[int]]:
    """Builtin clips. A window starts anywhere, drifts at a speed and in a direction of its own, turns at the border.

    Returns:
        frames uint8 (N, 3, 32, 32), clip after clip, and the number of frames of each clip.

    Raises:
        InputError: an unknown name.
    """
    import numpy as np
    from sklearn.datasets import load_sample_image

    _check_name(name, BUILTIN_FRAMES)
    photos = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]  # (427, 640, 3) each
    frames = [
        photos[clip % 2][y : y + _CROP, x : x + _CROP] for clip, path in enumerate(drift_paths()) for y, x in path
    ]
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2)), [_CLIP_LENGTH] * _CLIPS


def drift_paths(seed: int = 0) -> np.ndarray:
    """Top and left of the window in each frame of each clip, integers (clips, frames, 2)."""
    import numpy as np

    random = np.random.default_rng(seed)
    room = np.array(_PHOTO_SIZE) - _CROP  # the largest top and left
    start = random.uniform(0, room, (_CLIPS, 1, 2))
    angle, speed = random.uniform(0, 2 * np.pi, _CLIPS), random.uniform(*_SPEEDS, _CLIPS)
    velocity = (speed * np.stack([np.sin(angle), np.cos(angle)])).T[:, None]  # (clips, 1, 2)
    place = start + velocity * np.arange(_CLIP_LENGTH)[None, :, None]
    return np.rint(room - np.abs(place % (2 * room) - room)).astype(np.int64)  # there and back


def shift_and_rotate(images: np.ndarray, seed: int, max_shift: float = 1, max_degrees: float = 25) -> np.ndarray:
    """Distorted copies, the same for the same seed: what a representation of digits should not mind.

    Each image is turned about its centre by an angle uniform in [-max_degrees, max_degrees] and moved in x and y by
    amounts uniform in [-max_shift, max_shift], with bilinear interpolation; what comes in from outside is black.

    Args:
        images: uint8 (N, C, H, W).
        seed: of the angles and shifts.
        max_shift: in pixels of an image 8 pixels wide, that is in eighths of the width, whatever the resolution.
        max_degrees: in degrees.

    Returns:
        uint8 (N, C, H, W).
    """
    import numpy as np
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    random = np.random.default_rng(seed)
    angles = np.deg2rad(random.uniform(-max_degrees, max_degrees, len(images)))
    # grid_sample's coordinates run from -1 to 1, so one eighth of the width is 0.25
    shifts = random.uniform(-max_shift, max_shift, (len(images), 2)) * 0.25
    cos, sin = np.cos(angles), np.sin(angles)
    matrices = np.stack([np.stack([cos, -sin, shifts[:, 0]], 1), np.stack([sin, cos, shifts[:, 1]], 1)], 1)  # (N, 2, 3)
    pixels = torch.from_numpy(np.asarray(images)).double()
    grid = affine_grid(torch.from_numpy(matrices), list(pixels.shape), align_corners=False)  # (N, H, W, 2)
    moved = grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8).numpy()
