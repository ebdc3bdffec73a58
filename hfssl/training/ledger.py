"""A ledger of jobs: many processes and machines share one append-only file, and nothing that is done is done again.

A long study is a list of jobs with names. The ledger is a JSONL file with one line for each job that is done. A process
claims a job by a lock on one byte of a file beside it, which the system holds for as long as the process lives: no job
is done twice at a time, and when a process is killed its job is free at once, without leases or clocks. The locks are
POSIX's; they also work between machines on a file system that all of them mount and that knows locks, as NFS 4 does.

    ledger = Ledger("out/ledger.jsonl", settings={"steps": 100})
    results = ledger.run({"cola/seed0": ("cola", 0), "rte/seed0": ("rte", 0)}, execute=lambda name, job: train(*job))

Start the same program several times, each with a GPU of its own, and they share the work.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hfssl.errors import InputError, one_line

logger = logging.getLogger(__name__)

Job = TypeVar("Job")


class Ledger:
    """The results of jobs in a JSONL file that only grows.

    The first line holds the settings. Each other line is `{"job", "seconds", "result"}`, or `{"job", "error"}` for a
    failure, which does not count as done. A line that a killed process left unfinished is skipped: its job is done
    again.

    Args:
        path: of the file; it is made if there is none. Its locks lie in `<path>.lock`.
        settings: what the results depend on besides the jobs' names, as JSON; under "study", if there, whose they are.
            A file with other settings is refused.
        wait: seconds between two looks at what other processes are doing.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None = None, wait: float = 1.0):
        self.path, self.wait = Path(path), wait
        self.settings = json.loads(json.dumps(settings or {}))
        self._locks = -1  # the open file of the locks, while jobs run

    def results(self) -> dict[str, Any]:
        """What is done, by the jobs' names, in the order in which it was done."""
        return {entry["job"]: entry["result"] for entry in self._entries() if "result" in entry}

    def is_of_others(self) -> bool:
        """Whether the file is there and holds results of other settings."""
        found = self._found_settings() if self.path.exists() else None
        return found is not None and found != self.settings

    def check(self) -> None:
        """Raises InputError if the file is there and `run` would refuse it; makes nothing."""
        if self.path.exists():
            self._check_settings()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While inside, no other process is, and none notes a job: for what is to be tidied up when jobs are done.

        Raises:
            InputError: as `run`, whose jobs must not call it.
        """
        try:
            self._open()
            with self._writing():
                yield
        finally:
            self._close()

    def run(self, jobs: Mapping[str, Job], execute: Callable[[str, Job], Any]) -> dict[str, Any]:
        """Does what is missing of the jobs, together with whatever other processes run on the same file.

        In one process one run at a time.

        Args:
            jobs: by name, in the order in which they are taken: give the longest first.
            execute: from a name and its job to its result, which must be JSON. If it raises, the failure is noted, the
                other jobs are done, and this run ends with the first error; the next run tries the job again.

        Returns:
            The results of all the jobs, in their order: it waits for those that other processes are doing.

        Raises:
            InputError: jobs failed (the message has the first one's error); the file holds other settings, is no
                ledger, or cannot be written or locked; this is one of several processes that train one model.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("each job is done by one process: start the program several times, not several processes")
        try:
            self._open()
            return self._run(jobs, execute)
        finally:
            self._close()

    def _run(self, jobs: Mapping[str, Job], execute: Callable[[str, Job], Any]) -> dict[str, Any]:
        began, seconds, waiting = len(self._entries()), [], False
        while missing := self._missing(jobs, began):
            name = next(filter(self._claim, missing), None)
            if name is None:  # others have them; one that is killed leaves its job to us
                if not waiting:
                    logger.info("Waiting for %d jobs of other processes", len(missing))
                waiting = True
                time.sleep(self.wait)
                continue
            try:
                if name not in self._missing(jobs, began):  # it was done between the look and the claim
                    continue
                seconds.append(self._execute(name, jobs[name], execute))
            finally:
                self._release(name)
            left = len(missing) - 1
            logger.info(
                "%s: %.1f s; %d of %d jobs left, %.0f s for one process",
                name, seconds[-1], left, len(jobs), left * sum(seconds) / len(seconds),
            )  # fmt: skip
        done, failed = self.results(), self._failed(began)
        failed = [name for name in jobs if name in failed and name not in done]
        if failed:
            raise InputError(
                f"{len(failed)} of {len(jobs)} jobs failed, the first {failed[0]}: {self._failed(began)[failed[0]]}; "
                "the same command tries them again"
            )
        return {name: done[name] for name in jobs}

    def _missing(self, jobs: Mapping[str, Job], began: int) -> list[str]:
        """The jobs that are neither done nor have failed since the entry `began`."""
        done, failed = self.results(), self._failed(began)
        return [name for name in jobs if name not in done and name not in failed]

    def _failed(self, began: int) -> dict[str, str]:
        return {entry["job"]: entry["error"] for entry in self._entries()[began:] if "error" in entry}

    def _execute(self, name: str, job: Job, execute: Callable[[str, Job], Any]) -> float:
        """Does one job and notes it; its seconds."""
        began = time.perf_counter()
        try:
            entry = {"result": execute(name, job)}
            json.dumps(entry)
        except Exception as error:
            logger.warning("%s failed: %s", name, one_line(error), exc_info=not isinstance(error, InputError))
            entry = {"error": one_line(error) or type(error).__name__}
        seconds = time.perf_counter() - began
        with self._writing():
            self._append({"job": name, "seconds": round(seconds, 3)} | entry)
        return seconds

    # The file. Each look opens it anew: on a network only that shows what others have written.

    def _open(self) -> None:
        """Opens the locks, and begins the ledger or checks its settings."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._locks = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
            with self._writing():
                if not self.path.exists() or b"\n" not in self.path.read_bytes():
                    self._append({"settings": self.settings})
        except OSError as error:
            raise InputError(f"cannot use the ledger {self.path}: {error.strerror}") from None
        self._check_settings()

    def _check_settings(self) -> None:
        found = self._found_settings()
        if found is None:
            raise InputError(f"{self.path} is no ledger: its settings are missing; give another file")
        if found.get("study") != self.settings.get("study"):
            raise InputError(f"{self.path} is of {found.get('study', 'another program')}; give another folder")
        for name in sorted(found.keys() | self.settings.keys()):
            if found.get(name) != self.settings.get(name):
                raise InputError(
                    f"{self.path} holds results of other settings ({name}: {found.get(name)}, now "
                    f"{self.settings.get(name)}); delete it or give another folder"
                )

    def _found_settings(self) -> dict[str, Any] | None:
        return next((entry["settings"] for entry in self._entries() if "settings" in entry), None)

    def _close(self) -> None:
        if self._locks >= 0:
            os.close(self._locks)
        self._locks = -1

    def _entries(self) -> list[dict[str, Any]]:
        entries = []
        for line in self.path.read_bytes().split(b"\n") if self.path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # cut off when its process was killed, or not yet finished
                continue
            if isinstance(entry, dict) and ("settings" in entry or "job" in entry):
                entries.append(entry)
        return entries

    def _append(self, entry: dict[str, Any]) -> None:
        """Writes one line to the disk, after the end of a line that a killed process left unfinished."""
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            start = b"" if file.read(1) in (b"", b"\n") else b"\n"
            file.write(start + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    # The locks. A process loses all its locks on a file when it closes any handle of it: there is one, `_locks`.

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)

    def _claim(self, name: str) -> bool:
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(name))
        except (BlockingIOError, PermissionError):  # another process has it
            return False
        return True

    def _release(self, name: str) -> None:
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _byte_of(name))


def _byte_of(name: str) -> int:
    """Which byte of the lock file stands for a job; byte 0 is for writing."""
    return 1 + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
