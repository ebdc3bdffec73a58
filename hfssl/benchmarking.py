"""What a benchmark needs: arms that take turns, medians, peak memory, and JSON that says where it was measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["environment", "interleave", "median", "peak_rss", "write_json"]

_PACKAGES = ("hfssl", "torch", "torchvision", "timm", "transformers", "tokenizers", "datasets", "accelerate", "numpy")


def interleave(arms: dict[str, Callable[[], Any]], repeats: int, warmup: int = 0) -> dict[str, list[float]]:
    """Times each arm `repeats` times, in turns: a load that comes and goes meets all of them.

    Every other round runs backwards, so that no arm is always the one after a certain other.

    Args:
        arms: what to call, by name.
        repeats: rounds that count.
        warmup: rounds before those, which do not.

    Returns:
        For each arm its seconds, in the order of the rounds.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(-warmup, repeats):
        for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
            began = time.perf_counter()
            arms[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_rss(children: bool = False) -> int:
    """The most memory, in bytes, that this process has held so far, or the largest of its finished child processes."""
    status = Path("/proc/self/status")
    if not children and status.exists():
        # getrusage would count what the parent held when it started this process.
        high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if high_water:
            return int(high_water.group(1)) * 1024
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # kibibytes everywhere but on macOS


def environment() -> dict[str, Any]:
    """Commit, versions and processor: what a number is worth nothing without. Holds no name of a user or machine."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"commit": _commit(), "cpus": usable, "machine": platform.machine(), "versions": versions}


def _commit() -> str:
    """The commit of the source tree, with "+" if files differ from it; "unknown" outside a clone."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # installed into some other repository's folder
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: str | Path, rows: Sequence[dict[str, Any]], **about: Any) -> None:
    """Writes {"environment", **about, "rows"}; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staging.write_text(json.dumps({"environment": environment(), **about, "rows": list(rows)}, indent=1) + "\n")
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
