"""Checkpoints that are whole or not there.

A checkpoint is written into a hidden folder beside its place, every file is hashed into `checkpoint.json` and flushed
to the disk, and the folder is renamed. A resume takes the newest one whose files match their hashes; a damaged one is
moved aside. One whose optimizer, schedule or random state was taken away is refused, since a run that went on without
would look like a resume and be none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import torch

from hfssl.errors import InputError

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
# What a resume needs beside the model: one file or folder for each, also as FSDP and DeepSpeed name them.
STATE = {
    "optimizer": ("optimizer*", "global_step*"),
    "scheduler": ("scheduler.pt", "global_step*"),
    "random state": ("rng_state*.pth",),
}
POSITION_ONLY = "engine.json"  # of a checkpoint of `training/words.py`: all its state besides the weights is a position
LAST = "last-checkpoint"  # the newest checkpoint's name on the Hub, with transformers' hub_strategy "checkpoint"
_NAME = re.compile(r"checkpoint-(\d+)$")
_DAMAGED = "damaged-"


def publish(staging: str | Path, final: str | Path) -> None:
    """Makes a staged folder the checkpoint `final`: manifest, flush, rename. Both must be on one file system."""
    staging, final = Path(staging), Path(final)
    files = {str(path.relative_to(staging)): _digest(path) for path in _files(staging)}
    (staging / MANIFEST).write_text(json.dumps({"version": 1, "files": files}, indent=1))
    for path in [*_files(staging), *(path for path in staging.rglob("*") if path.is_dir()), staging]:
        _flush(path)
    aside = final.with_name(f".old-{final.name}")
    if final.exists():  # the same step saved again, by a run that was resumed from an older checkpoint
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    os.replace(staging, final)
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def fault(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest must be there with its size and hash.

    A missing part of the training state is no damage; `missing_state` names it.
    """
    checkpoint = Path(checkpoint)
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except OSError:
        return f"no {MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in files.items():
        path = checkpoint / name
        if not path.exists() and any(_is_of(name, forms) for forms in STATE.values()):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, not {size:,}"
        if _digest(path)[1] != digest:
            return f"{name} does not match its hash"
    return None


def missing_state(checkpoint: str | Path) -> list[str]:
    """Which parts of the training state a checkpoint lacks: of "optimizer", "scheduler", "random state".

    A part lacks if it was never written, or if one of its files is gone: each process has a random state of its own.
    """
    checkpoint = Path(checkpoint)
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    if POSITION_ONLY in files:
        return []
    gone = [name for name in files if not (checkpoint / name).exists()]
    return [
        part
        for part, forms in STATE.items()
        if not any(path for form in forms for path in checkpoint.glob(form))
        or any(_is_of(name, forms) for name in gone)
    ]


def _is_of(name: str, forms: tuple[str, ...]) -> bool:
    """Whether a file of the manifest, or the folder that it is in, has one of the names."""
    return any(Path(Path(name).parts[0]).match(form) for form in forms)


def check_writable(output_dir: str | Path, flag: str = "--output_dir") -> None:
    """Raises an InputError if nothing can be written there; makes nothing."""
    folder = Path(output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {output_dir}: {folder} is read-only or no folder; give another {flag}")


def why_not_written(error: BaseException, folder: str | Path) -> str:
    """What the system said, which safetensors and torch hide behind errors of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < 2**26:
            return f"No space left on device ({free / 2**20:.0f} MiB free): {error}"
    return str(error)


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first (by step, never by time: a copied folder keeps its place)."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step after which a checkpoint was taken."""
    return int(_NAME.fullmatch(Path(checkpoint).name)[1])


def newest(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are moved to `damaged-checkpoint-N` and said so."""
    for aside in Path(output_dir).glob(".old-checkpoint-*"):  # its step was being saved again when the process died
        final = aside.with_name(aside.name.removeprefix(".old-"))
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)
    for checkpoint in reversed(checkpoints(output_dir)):
        problem = fault(checkpoint)
        if problem is None:
            return checkpoint
        aside = checkpoint.with_name(f"{_DAMAGED}{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        logger.warning("%s is damaged (%s): moved to %s", checkpoint, problem, aside.name)
    return None


def resumable(output_dir: str | Path, allow_partial: bool = False) -> Path | None:
    """The checkpoint to resume from; None if the run had not come to its first.

    Args:
        allow_partial: go on from a checkpoint that lacks its optimizer, schedule or random state.

    Raises:
        InputError: if all checkpoints are damaged (a silent start anew would lose the run), or the newest lacks a part
            of the training state.

    A folder that was downloaded from the Hub may have it as `last-checkpoint`, which gets its usual name here.
    """
    _take_from_hub(Path(output_dir))
    checkpoint = newest(output_dir)
    if checkpoint is None:
        damaged = sorted(path.name for path in Path(output_dir).glob(f"{_DAMAGED}checkpoint-*"))
        if damaged:
            raise InputError(
                f"no checkpoint in {output_dir} is whole ({', '.join(damaged)}); --overwrite starts the run anew"
            )
        return None
    missing = missing_state(checkpoint)
    if missing and not allow_partial:
        raise InputError(
            f"{checkpoint} has no {', '.join(missing)}, so going on from it would not be the same run; "
            "--allow_partial_resume goes on all the same"
        )
    if missing:
        logger.warning("%s has no %s: going on without", checkpoint, ", ".join(missing))
    return checkpoint


def _take_from_hub(output_dir: Path) -> None:
    last = output_dir / LAST
    if not last.is_dir():
        return
    try:
        step = int(json.loads((last / "trainer_state.json").read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{last} is damaged (its trainer_state.json); download it again or delete it") from error
    final = output_dir / f"checkpoint-{step}"
    if not final.exists():
        last.rename(final)


def weights_digest(model: torch.nn.Module) -> str:
    """A hash of a model's state dict (names, shapes, bytes): equal for a model and the one loaded from its folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def rotate(output_dir: str | Path, limit: int | None, *keep: str | Path | None) -> None:
    """Deletes the oldest checkpoints beyond `limit`, but never the newest and never those of `keep`."""
    if not limit or limit < 1:
        return
    found = checkpoints(output_dir)
    kept = {found[-1].resolve()} if found else set()
    kept |= {Path(path).resolve() for path in keep if path is not None}
    excess = len(found) - limit
    for checkpoint in found:
        if excess <= 0:
            break
        if checkpoint.resolve() not in kept:
            shutil.rmtree(checkpoint, ignore_errors=True)
            excess -= 1


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
