"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Writes a file, text as UTF-8, with its folder; several processes may write the same one, the last one's stays.

    Raises:
        OSError: it cannot be written; nothing half-written is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    return path
