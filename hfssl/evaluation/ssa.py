"""Sensibleness and specificity (Meena, Adiwardana et al. 2020, section 2.3): sheets for raters, and what they say.

A sheet does not say which system wrote a reply, and its rows are in an order of chance; key.json beside it does. Each
rater fills in a copy: 1 or 0 under "sensible" and, where that is 1, under "specific".
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.errors import InputError
from hfssl.files import write_whole

COLUMNS = ("item", "context", "reply", "sensible", "specific")
SHEET, KEY = "sheet.csv", "key.json"


def write_sheet(
    folder: str | Path, contexts: Sequence[Sequence[str]], replies: Mapping[str, Sequence[str]], seed: int = 0
) -> Path:
    """Writes sheet.csv and key.json.

    Args:
        contexts: the turns before each reply.
        replies: by the name of a system, its reply to each context.

    Raises:
        InputError: there is a sheet already, or the folder cannot be written.
    """
    folder = check_no_sheet(folder)
    rows, key = [], {}
    for system, said in replies.items():
        for number, (context, reply) in enumerate(zip(contexts, said, strict=True)):
            digest = hashlib.sha256(f"{seed} {system} {number} {reply}".encode()).hexdigest()
            item = f"r{digest[:10]}"  # a spreadsheet would save 0012345678 or 12345e6789 as another number
            key[item] = system
            rows.append({"item": item, "context": "\n".join(context), "reply": reply, "sensible": "", "specific": ""})
    random.Random(seed).shuffle(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)
    try:
        write_whole(folder / KEY, json.dumps(key, indent=1) + "\n")
        return write_whole(folder / SHEET, text.getvalue())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from None


def check_no_sheet(folder: str | Path) -> Path:
    """The folder; InputError if it has a sheet already."""
    folder = Path(folder).expanduser()
    if (folder / SHEET).exists():
        raise InputError(f"{folder / SHEET} is there already, and may be filled in; give another folder")
    return folder


def _as_text(value: str) -> str:
    """A spreadsheet runs a cell that begins so, blanks aside, as a formula; a quote before it makes it text. Control
    characters become blanks: a carriage return alone would end the row."""
    value = re.sub(r"[^\S\n]*[\x00-\x09\x0b-\x1f\x7f-\x9f]+", " ", value)
    return f"'{value}" if value.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else value


def read_sheets(paths: Sequence[str | Path]) -> list[dict[str, tuple[bool | None, bool | None]]]:
    """The ratings of each rater, one sheet each: by item (sensible, specific); None where a cell is empty.

    Raises:
        InputError: a file is no such sheet, or a cell is neither 1, 0 nor empty.
    """
    return [_read_sheet(Path(path).expanduser()) for path in paths]


def _read_sheet(path: Path) -> dict[str, tuple[bool | None, bool | None]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not rows or not {"item", "sensible", "specific"} <= rows[0].keys():
        raise InputError(f"{path} is no sheet: it needs rows and the columns {', '.join(COLUMNS)}, commas between them")
    values = {"1": True, "0": False, "": None}
    found = {}
    for number, row in enumerate(rows, start=1):
        if row["item"] in found:
            raise InputError(f"{path}: row {number}: item {row['item']} stands in the sheet twice")
        cells = [(row[name] or "").strip() for name in ("sensible", "specific")]
        wrong = next((cell for cell in cells if cell not in values), None)
        if wrong is not None:
            raise InputError(f"{path}: row {number} (item {row['item']}): {wrong!r} is neither 1, 0 nor empty")
        found[row["item"]] = (values[cells[0]], values[cells[1]])
    return found


def score_ssa(key: Mapping[str, str], raters: Sequence[Mapping[str, tuple]]) -> dict[str, Any]:
    """Sensibleness, specificity and their average for each system, and how far the raters agree.

    A reply is sensible if most of its raters say so; it is specific if most say so, and never if it is not sensible,
    whatever stands in the cell. Half is not most.

    Returns:
        {"systems": {name: {"sensibleness", "specificity", "SSA" (in %), "replies"}}, "sensible": {"agreement" (the
        share of pairs of raters of one reply that say the same), "alpha" (Krippendorff's)}, "specific": likewise}.

    Raises:
        InputError: a sheet has an item that the key does not name, or nothing is rated.
    """
    strange = next((item for rater in raters for item in rater if item not in key), None)
    if strange is not None:
        raise InputError(f"item {strange} is not of this key.json: the sheet is of another one")
    ratings = np.full((2, len(raters), len(key)), np.nan)  # label, rater, item
    for number, rater in enumerate(raters):
        for place, item in enumerate(key):
            sensible, specific = rater.get(item, (None, None))
            if sensible is not None:
                ratings[0, number, place] = sensible
                ratings[1, number, place] = bool(specific) and sensible
    counts = (~np.isnan(ratings[0])).sum(0)
    if not counts.any():
        raise InputError("nothing is rated: the column sensible is empty in every sheet")
    most = np.nansum(ratings, 1) > counts / 2  # (2, items)
    systems: dict[str, list[int]] = defaultdict(list)
    for place, system in enumerate(key.values()):
        if counts[place]:
            systems[system].append(place)
    found: dict[str, Any] = {"systems": {}}
    for system, places in systems.items():
        sensible, specific = 100 * most[0, places].mean(), 100 * (most[0] & most[1])[places].mean()
        found["systems"][system] = {
            "sensibleness": float(sensible), "specificity": float(specific), "SSA": float((sensible + specific) / 2),
            "replies": len(places),
        }  # fmt: skip
    for name, values in zip(("sensible", "specific"), ratings, strict=True):
        found[name] = {"agreement": agreement(values), "alpha": krippendorff_alpha(values)}
    return found


def _pair_counts(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of items that at least two raters judged: how many said each value, (items, values), and how many, (items,)."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[..., None] == values).sum(0)  # (items, values)
    kept = counts.sum(1) > 1
    return counts[kept], counts[kept].sum(1)


def agreement(ratings: np.ndarray) -> float:
    """The share of pairs of raters of an item that say the same; NaN if no item has two.

    Args:
        ratings: (raters, items), NaN where a rater did not judge.
    """
    counts, sizes = _pair_counts(ratings)
    if not len(counts):
        return float("nan")
    return float((counts * (counts - 1)).sum() / (sizes * (sizes - 1)).sum())


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for nominal values: 1 - observed over expected disagreement (Krippendorff 2011).

    1 is full agreement, 0 what chance gives. NaN if no item has two ratings, or all ratings are the same value.

    Args:
        ratings: (raters, items), NaN where a rater did not judge.
    """
    counts, sizes = _pair_counts(ratings)
    totals = counts.sum(0)  # of each value
    n = totals.sum()
    expected = 1 - (totals * (totals - 1)).sum() / (n * (n - 1)) if n > 1 else 0.0
    if not expected:
        return float("nan")
    observed = 1 - ((counts * (counts - 1)).sum(1) / (sizes - 1)).sum() / n
    return float(1 - observed / expected)
