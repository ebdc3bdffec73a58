"""The jobs of a study as processes of their own: on one thread, with a log, and gone when the study is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfssl.benchmarking import held_memory
from hfssl.errors import InputError


def leave_on_sigterm() -> None:
    """A signal ends the study as Ctrl-C does: with its processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run_logged(command: Sequence[Any], log: Path) -> tuple[float, float]:
    """Runs `python COMMAND` on one thread with its output in a log; seconds and peak memory in MB.

    Raises:
        InputError: it failed; the last line of the log.
    """
    began, most = time.perf_counter(), 0
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        file.flush()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            while process.poll() is None:
                most = max(most, held_memory(process.pid))
                time.sleep(1.0)
        finally:
            if process.poll() is None:  # the study is stopped: the recipe saves and leaves, with all it started
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode:
        last = next((line.strip() for line in reversed(log.read_text().split("\n")) if line.strip()), "")
        raise InputError(f"exit code {process.returncode}, see {log}: {last[:300]}")
    return round(time.perf_counter() - began, 1), round(most / 1e6)
