"""A ledger of jobs: an append-only file of what is done, from which several processes and machines take what is not.

    ledger = Ledger("out/ledger.jsonl")
    results = ledger.run({"rte-seed0": job, ...}, execute)

A line is written when a job is done, with its result. While it runs, its process holds a lock on a file beside the
ledger; the system lets go of it when the process ends in whatever way, so that a job that was killed is free again and
at most that job is lost. (On a network file system the locks are as good as that system's `flock`.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hfssl.errors import InputError

_WAIT = 1.0  # seconds between two looks while others have all jobs that are left


class Ledger:
    """The jobs of one folder.

    Args:
        path: of the file; made when the first job is done.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def results(self) -> dict[str, Any]:
        """The results of the jobs that are done, by key; a last line that was cut off is no result.

        Raises:
            InputError: a damaged line in the middle, with its number.
        """
        if not self.path.exists():
            return {}
        found, lines = {}, self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                found[entry["job"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                if number < len(lines):  # the writer ended in the middle of the last one
                    raise InputError(
                        f"{self.path}:{number}: no line of a ledger; delete it to do that job again"
                    ) from None
        return found

    def run(self, jobs: Mapping[str, Any], execute: Callable[[Any], Any]) -> dict[str, Any]:
        """Executes the jobs that are not done, in their order, and waits for those that others have.

        Args:
            jobs: by key; the longest first, where several take from one ledger.
            execute: does one and returns its result, which JSON can hold.

        Returns:
            The results of all jobs.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while left := [key for key in jobs if key not in self.results()]:
            took = False
            for key in left:
                with self._claim(key) as mine:
                    if mine and key not in self.results():
                        self._append(key, execute(jobs[key]))
                    took |= mine
            if not took:
                time.sleep(_WAIT)
        done = self.results()
        return {key: done[key] for key in jobs}

    @contextlib.contextmanager
    def _claim(self, key: str) -> Iterator[bool]:
        folder = self.path.with_name(f".{self.path.stem}")
        folder.mkdir(exist_ok=True)
        with (folder / f"{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _append(self, key: str, result: Any) -> None:
        line = json.dumps({"job": key, "result": result}, allow_nan=False).encode() + b"\n"
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() and not _ends_line(self.path):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
