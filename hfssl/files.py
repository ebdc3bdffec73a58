"""Files that appear whole or not at all; names that are folders and no Hub ids."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """The name of a file to write, in the folder of `path`, made if need be; it takes its place when the block ends.

    Raises:
        OSError: the folder or the file cannot be written; nothing half-written is left, whatever the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Writes a file, text as UTF-8, with its folder; several processes may write the same one, the last one's stays.

    Raises:
        OSError: it cannot be written; nothing half-written is left.
    """
    with staged(path) as staging:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def umask() -> int:
    """The process's: the permissions that new files do not get."""
    mask = os.umask(0)  # the only way to read it
    os.umask(mask)
    return mask


def usual_permissions(folder: str | Path) -> None:
    """Gives the files in a folder those that new files have: safetensors leaves its own to their owner alone."""
    for path in Path(folder).iterdir():
        if path.is_file():
            path.chmod(0o666 & ~umask())


def is_missing_folder(name: str) -> bool:
    """Whether a name that no folder has must have been meant as one: by its form, or since its parent is a folder here.

    Any other name may be a Hub id, ORG/NAME.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return False
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (name.count("/") == 1 and path.parent.is_dir())
