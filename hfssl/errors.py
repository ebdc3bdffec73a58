"""Bad input: one clear line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what is wrong, where, and what to do.

    Attributes:
        own: of several processes this one alone may have met it.
    """

    own = False


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """The valid names closest to a misspelt one, as the end of a message: ``; did you mean 'a', 'b'?``."""
    close = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=count, cutoff=0.5)
    return f"; did you mean {', '.join(repr(choice) for choice in close)}?" if close else ""


def one_of(name: str, value: str, choices: Collection[str]) -> None:
    """Raises InputError, with the nearest, unless the value is one of the choices; `name` is what the user wrote."""
    if value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}{nearest(value, choices)}")


def shown(text: str) -> str:
    """A model's or a file's words for a terminal, which they may not steer: control characters are spelled out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(error: BaseException) -> str:
    """The message of an error on one line; an error that a DataLoader worker re-raised loses its worker's traceback."""
    text = str(error)
    if text.startswith("Caught "):  # torch.utils.data puts the worker's whole traceback into the message
        text = text.rsplit("InputError: ", 1)[-1]
    return shown(" ".join(text.split()))


def log_to_stderr() -> None:
    """Shows hfssl's own messages on standard error; of several processes only the first speaks."""
    logger = logging.getLogger("hfssl")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


def exits_on_bad_input(main: Callable) -> Callable:
    """Decorates a program's ``main``: an `InputError` becomes one line on standard error and exit code 2.

    Ctrl-C becomes one line, its own if it has one, and 130. Of several processes only the first prints, since all read
    the same input; once they train, each has its own part of the data, and each says what it met there.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        log_to_stderr()
        try:
            return main(*args, **kwargs)
        except InputError as error:
            rank = os.environ.get("RANK", "0")
            if rank == "0":
                sys.stderr.write(f"error: {one_line(error)}\n")
            elif getattr(error, "own", False):
                sys.stderr.write(f"error: process {rank}: {one_line(error)}\n")
            raise SystemExit(2) from None
        except KeyboardInterrupt as stop:
            if os.environ.get("RANK", "0") == "0":
                next_time = str(stop) or "the same command begins again, with what is already built"
                sys.stderr.write(f"stopped; {next_time}\n")
            raise SystemExit(130) from None

    return wrapper
