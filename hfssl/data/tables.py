"""Small labelled data sets from files: named columns of TSV, JSON lines and parquet, with errors that name the row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfssl.data.readers import open_parquet, text_lines
from hfssl.errors import InputError, one_line


@dataclass
class Table:
    """Columns of equal length.

    Attributes:
        columns: by name.
        lines: of each row, its line in the file from 1, or empty where the file has no lines.
        label_names: of an integer column ``label``, the names that the file itself carries.
        left_out: rows that were corrupt and skipped.
        path: for messages.
    """

    columns: dict[str, list[Any]]
    path: str
    lines: list[int] = field(default_factory=list)
    label_names: tuple[str, ...] | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def place(self, row: int) -> str:
        """Where a row is, for a message: ``path:line`` or ``row N (from 0) of path``."""
        return f"{self.path}:{self.lines[row]}" if self.lines else f"row {row} (from 0) of {self.path}"


def read_tsv(
    path: Path,
    wanted: dict[str, str | int],
    header: bool = True,
    skip_short: bool = False,
) -> Table:
    """Columns of a tab-separated file without quoting: a `"` is a character like any other.

    Args:
        wanted: for each column to read, its name in the header or its place from 0.
        skip_short: leave out rows with too few fields instead of refusing them.

    Raises:
        InputError: a column is not in the header, or a row is too short.
    """
    names: list[str] | None = None
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    numbers: list[int] = []
    left_out, places = 0, [place for place in wanted.values() if isinstance(place, int)]
    for number, line in enumerate(text_lines(path), start=1):
        fields = line.split("\t")
        if header and names is None:
            names = [name.strip() for name in fields]
            places = [_place(path, name, names) for name in wanted.values()]
            continue
        if not line:
            continue
        if len(fields) <= max(places):
            if not skip_short:
                raise InputError(f"{path}:{number}: {len(fields)} fields, too few for column {max(places) + 1}")
            left_out += 1
            continue
        for name, place in zip(columns, places, strict=True):
            columns[name].append(fields[place])
        numbers.append(number)
    return Table(columns, str(path), numbers, left_out=left_out)


def _place(path: Path, name: str | int, names: list[str]) -> int:
    if isinstance(name, int):
        return name
    if name not in names:
        raise InputError(
            f"{str(path)!r} has no column {name!r} but {', '.join(names)[:200]}: is it another task's file?"
        )
    return names.index(name)


def read_json_lines(path: Path) -> tuple[list[dict], list[int]]:
    """One JSON object a line, and each one's line number.

    Raises:
        InputError: a line that is no JSON object.
    """
    rows, numbers = [], []
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: a JSON {type(row).__name__}, not an object")
        rows.append(row)
        numbers.append(number)
    return rows, numbers


def read_parquet(paths: Sequence[Path], wanted: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Columns of one data set in one or more parquet files; others are not read.

    Raises:
        InputError: a damaged file or a missing column.
    """
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    label_names = None
    for path in paths:
        file = open_parquet(path)
        schema = file.schema_arrow
        for name in wanted:
            if name not in schema.names:
                known = ", ".join(schema.names)
                raise InputError(f"{str(path)!r} has no column {name!r} but {known}: is it another task's file?")
        present = [*wanted, *(name for name in optional if name in schema.names)]
        label_names = label_names or _class_names(schema.metadata or {})
        try:
            table = file.read(columns=present)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} is a damaged parquet file: {one_line(error)}") from error
        for name in present:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return Table(columns, " and ".join(str(path) for path in paths), label_names=label_names)


def _class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """The class names of the column ``label``, which `datasets` writes into a parquet file's schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
