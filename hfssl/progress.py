"""How far a job is: a bar on a terminal, elsewhere a line now and then, with the time that is left."""

from __future__ import annotations

import logging
import sys
import time

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

INTERVAL = 20.0  # seconds between two lines


class Progress:
    """Counts up to a total; without a label it shows nothing.

    Args:
        label: what is going on.
        unit: of what is counted, such as ``"update"``.
    """

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit = label, total, unit
        self._done, self._bar = 0, None
        self._began = self._said = time.perf_counter()
        if label and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=unit, leave=False, dynamic_ncols=True)

    def update(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.perf_counter()
        if self.label and now - self._said >= INTERVAL:
            left = (now - self._began) / self._done * (self.total - self._done)
            logger.info("%s: %s %d of %d, %s left", self.label, self.unit, self._done, self.total, duration(left))
            self._said = now

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
