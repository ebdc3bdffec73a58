"""Image files given colour, or their hidden part, by a trained model: `hfssl colorize` and `hfssl inpaint`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hfssl.data.image_sources import Files
from hfssl.data.images import read_image
from hfssl.data.readers import IMAGE_SUFFIXES
from hfssl.errors import InputError, one_line
from hfssl.evaluation.reconstruction import paints
from hfssl.files import is_missing_folder
from hfssl.models.modeling_context_encoder import check_mask
from hfssl.remote_code import pinned_model

logger = logging.getLogger(__name__)

LARGEST = 2**24  # pixels of an image


class Pictures(Files):
    """Image files; a damaged one is not left out."""

    if_damaged = ""


def load_painter(source: str, verb: str, trust_remote_code: bool = False) -> nn.Module:
    """A model with the method `verb`, "colorize" or "inpaint", from a folder or the Hub.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoConfig, AutoModelForPreTraining
    from transformers.utils.logging import disable_progress_bar

    import hfssl.models  # noqa: F401  registers our classes, so that they need no remote code

    if is_missing_folder(source):
        raise InputError(f"no model directory {source!r}")
    if not Path(source).is_dir() and source.count("/") != 1:
        raise InputError(f"no model directory {source!r}, and no Hub id, which would be ORG/NAME")
    disable_progress_bar()  # of loading: errors are one line
    place = pinned_model(source, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a model from {source!r}: {one_line(error)}") from None
    if not paints(config.to_dict()):
        raise InputError(f"{source} is a {config.model_type} model: it cannot {verb}")
    try:
        model, report = AutoModelForPreTraining.from_pretrained(
            place, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a model from {source!r}: {one_line(error)}") from None
    if report["missing_keys"]:
        raise InputError(
            f"{source} holds an encoder without what paints: {', '.join(sorted(report['missing_keys'])[:3])}"
        )
    if not hasattr(model, verb):
        raise InputError(f"{source} is a {config.model_type} model: it cannot {verb}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def colorize_files(source: str, files: Sequence[str], out: str, trust_remote_code: bool = False) -> list[Path]:
    """Gives colour to image files; each result is `out/NAME.png`, of the size of its input.

    Raises:
        InputError: no such model or file, or the folder cannot be written.
    """
    paths = _image_files(files, out)
    model = load_painter(source, "colorize", trust_remote_code)
    return _each(paths, out, lambda image: model.colorize(image.to(model.device)).rgb)


def inpaint_files(
    source: str, files: Sequence[str], mask: str, out: str, trust_remote_code: bool = False
) -> list[Path]:
    """Fills the hidden part of image files; each result is `out/NAME.png`, of the size of its input.

    Args:
        mask: an image file of the same size, white where the image is hidden; or "center", of which half of
            each side is hidden, in the middle.

    Raises:
        InputError: no such model or file; a mask of another size, or one that hides all or nothing.
    """
    paths, hidden = _image_files(files, out), None
    if mask != "center":
        if not Path(mask).is_file():
            raise InputError(f"no such file: {mask!r}, the mask (center hides half of each side, in the middle)")
        hidden = read_image(Pictures([Path(mask)]), 0).float().mean(0) >= 128
    model = load_painter(source, "inpaint", trust_remote_code)

    def check(image: torch.Tensor) -> None:
        where = _middle(image.shape[-2:]) if hidden is None else hidden
        if where.shape != image.shape[-2:]:
            sizes = [f"{width} x {height}" for height, width in (where.shape, image.shape[-2:])]
            raise ValueError(f"the mask {mask} has {sizes[0]} pixels and the image {sizes[1]} (width x height)")
        if hidden is None and not where.any():
            raise ValueError("the image is too small for --mask center, half of each side: give it a mask")
        check_mask(image, where[None, None])

    def paint(image: torch.Tensor) -> torch.Tensor:
        where = _middle(image.shape[-2:]) if hidden is None else hidden
        return model.inpaint(image.to(model.device), where[None, None].to(model.device))

    return _each(paths, out, paint, check)


def _middle(size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = True
    return mask


def _image_files(files: Sequence[str], out: str) -> list[Path]:
    if Path(out).is_file():
        raise InputError(f"--out {out} is a file; give a folder")
    paths = [Path(file) for file in files]
    for path in paths:
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a folder: give image files, such as {path}/*.png")
        if not path.is_file():
            raise InputError(f"no such file: {str(path)!r}")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{str(path)!r} is no image: {', '.join(IMAGE_SUFFIXES)}")
        if (Path(out) / f"{path.stem}.png").resolve() == path.resolve():
            raise InputError(f"{path} would be overwritten by its result: give another --out")
    stems = [path.stem for path in paths]
    if doubled := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(f"two of the files are called {doubled!r}: their results would overwrite each other")
    return paths


def _each(
    paths: list[Path],
    out: str,
    paint: Callable[[torch.Tensor], torch.Tensor],
    check: Callable[[torch.Tensor], None] = lambda image: None,
) -> list[Path]:
    """Paints each image (1, 3, H, W), once all could be read and have passed the check, or its ValueError."""
    from PIL import Image

    files, written = Pictures(paths), []
    for number, path in enumerate(paths):
        image = read_image(files, number)
        if image[0].numel() > LARGEST:
            raise InputError(f"{path} has {image[0].numel():,} pixels; at most {LARGEST:,} are painted at once")
        try:
            check(image.float().div(255)[None])
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
    for number, path in enumerate(paths):
        made = paint(read_image(files, number).float().div(255)[None])[0]
        pixels = (255 * made.cpu()).round().byte().permute(1, 2, 0).numpy()
        target = Path(out) / f"{path.stem}.png"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(target)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from None
        written.append(target)
        logger.info("Wrote %s", target)
    return written
