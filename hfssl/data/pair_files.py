"""Rows of (source, target) pairs from files: parquet, JSON lines, csv, tsv, two aligned text files, or builtin ones.

What the columns of known data sets mean stands in FORMS; any other table gives pairs by the names of its columns.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfssl.data.readers import open_parquet, suffix, text_lines, visible_files
from hfssl.data.sources import load_hub_dataset, resolve
from hfssl.data.tables import Table, read_json_lines, read_parquet
from hfssl.data.toy_pairs import BUILTIN_PAIRS, PREFIX, toy_pairs
from hfssl.errors import InputError, nearest

TABLES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
SPLITS = {"train": ("train", "trn"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "tst")}

Row = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """What the columns of a known kind of table mean.

    Attributes:
        columns: all that must be there for a table to be of this kind.
        optional: also read where they are there.
        head: the column of the event.
        relations: columns that hold JSON lists of tails, with the relation that each is.
        turns: the column of a conversation's turns: each but the first is a response to those before it.
        split: the column that says a row's split.
    """

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    head: str = ""
    relations: Mapping[str, str] = field(default_factory=dict)
    turns: str = ""
    split: str = ""


_ATOMIC = ("oEffect", "oReact", "oWant", "xAttr", "xEffect", "xIntent", "xNeed", "xReact", "xWant")
# Event2Mind's three columns under the names that ATOMIC gave them.
_EVENT2MIND = {"Xintent": "xIntent", "Xemotion": "xReact", "Otheremotion": "oReact"}
FORMS = {
    "ATOMIC (v4)": Form(("event", *_ATOMIC), ("split",), "event", dict(zip(_ATOMIC, _ATOMIC, strict=True)),
                        split="split"),
    "Event2Mind": Form(("Event", *_EVENT2MIND), (), "Event", _EVENT2MIND),
    "triples": Form(("head", "relation", "tail"), ("weight",)),
    "replies": Form(("context", "response")),
    "conversations": Form(("turns",), turns="turns"),
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Which columns of a table that is of no known form are read.

    Attributes:
        source, target: the columns of the fields of these names.
        directions: "en-de" for a pair out of the columns en and de; with the field "language", here "de".
        others: more columns that a template names.
    """

    source: str = "source"
    target: str = "target"
    directions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __post_init__(self):
        for direction in self.directions:
            if len(direction.split("-")) != 2 or not all(direction.split("-")):
                raise InputError(f"a direction is named SOURCE-TARGET, as en-de; not {direction!r}")

    @property
    def wanted(self) -> list[str]:
        if self.others:
            return list(dict.fromkeys(self.others))
        if self.directions:
            return list(dict.fromkeys(name for direction in self.directions for name in direction.split("-")))
        return [self.source, self.target]


def read_pairs(
    path: str | Sequence[str], split: str = "train", columns: Columns | None = None, tables_only: str = "",
    needed: Sequence[str] = (),
) -> list[Row]:  # fmt: skip
    """All pairs of a source.

    Args:
        path: a table, several tables, a folder whose files are named by their split (train, valid, test, ...), two text
            files whose lines belong together, a Hub dataset id, or builtin:toypairs/NAME.
        split: "train", "validation" or "test": which file of a folder, which split of Hub or builtin data; a single
            file is read whole, unless a column says the split.
        columns: by default "source" and "target".
        tables_only: of a folder with several data sets, the one whose files' names hold this.
        needed: fields that all rows must have.

    Returns:
        Rows with the fields of the kind: {"source", "target"} and in several directions "language"; {"head",
        "relation", "tail"} and in ConceptNet "weight" (0 for a false statement); {"context": list of turns,
        "response"}; else the columns that a template names.

    Raises:
        InputError: no such file, a folder without this split, a column that is not there, aligned files of different
            length, a cell that is no text, or rows of another kind.
    """
    rows = [row for _, row in grouped_pairs(path, split, columns, tables_only)]
    check_fields(rows, needed, "this", str(path))
    return rows


def check_fields(rows: Iterable[Row], needed: Sequence[str], who: str, path: str) -> None:
    """That rows have these fields; InputError, which says who needs them, if they are of another kind."""
    for row in rows:
        if missing := set(needed) - row.keys():
            raise InputError(
                f"{who} needs the fields {', '.join(sorted(missing))}, and {path} has {', '.join(row)}: "
                "is it of another task?"
            )


def grouped_pairs(
    path: str | Sequence[str], split: str = "train", columns: Columns | None = None, tables_only: str = ""
) -> Iterator[tuple[str, Row]]:
    """As `read_pairs`, each row with what it must share a split with: rows of one source, event or conversation."""
    columns = columns or Columns()
    paths = [path] if isinstance(path, str | Path) else list(path)
    if len(paths) == 1 and str(paths[0]).startswith("builtin:"):
        name = str(paths[0]).removeprefix("builtin:")
        if not name.startswith(PREFIX):
            known = [f"{PREFIX}{each}" for each in BUILTIN_PAIRS]
            raise InputError(
                f"builtin:{name} holds no pairs{nearest(name, known)}; there is "
                + ", ".join(f"builtin:{each}" for each in known)
            )
        yield from ((_group(row), row) for row in toy_pairs(name.removeprefix(PREFIX), split))
        return
    found = [resolve(str(each), {}) for each in paths]
    if any(kind == "hub" for kind, _ in found):
        if len(found) > 1:
            missing = next(name for kind, name in found if kind == "hub")
            raise InputError(f"no such file: {missing!r} (of several paths, all must be files)")
        data = load_hub_dataset(found[0][1], None, split)
        form, wanted = _form(data.column_names, columns, str(paths[0]))
        yield from _rows(Table({name: data[name][:] for name in wanted}, str(paths[0])), form, columns, split)
        return
    files = [Path(name) for _, name in found]
    if len(files) == 1 and files[0].is_dir():
        files = _of_split(files[0], split, tables_only)
    texts = [file for file in files if suffix(file) not in TABLES]
    if texts:
        yield from _aligned(files)
        return
    for file in files:
        names = _column_names(file)
        form, wanted = _form(names, columns, str(file))
        yield from _rows(_read(file, [name for name in wanted if name in names]), form, columns, split)


def has_split(path: Sequence[str], split: str) -> bool:
    """Whether builtin data or a folder has a part of its own for a split; a Hub dataset is not asked."""
    if len(path) != 1 or path[0].startswith("builtin:"):
        return len(path) == 1
    folder = Path(path[0]).expanduser()
    files = visible_files(folder, lambda file: suffix(file) in TABLES) if folder.is_dir() else []
    return any(_is_of(file, split) for file in files)


def _is_of(file: Path, split: str) -> bool:
    return bool(set(SPLITS[split]) & set(re.findall("[a-z]+", file.stem.lower())))


def _of_split(folder: Path, split: str, named: str) -> list[Path]:
    """The tables of a folder whose names say that they are of a split."""
    files = visible_files(folder, lambda file: suffix(file) in TABLES and named in file.name)
    if not files:
        of = f" named {named!r}" if named else ""
        raise InputError(f"no table{of} in folder {str(folder)!r}; usable are {', '.join(TABLES)} and .gz of these")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: one of {', '.join(SPLITS)}{nearest(split, SPLITS)}")
    chosen = [file for file in files if _is_of(file, split)]
    if not chosen:
        raise InputError(
            f"no file of {str(folder)!r} is named as its {split} part ({', '.join(SPLITS[split])}); "
            "name the file itself"
        )
    if len({tuple(_column_names(file)) for file in chosen}) > 1:
        names = ", ".join(file.name for file in chosen)
        raise InputError(f"{str(folder)!r} holds several data sets ({names}); name the file itself")
    return chosen


def _form(names: Iterable[str], columns: Columns, path: str) -> tuple[Form | None, list[str]]:
    """The form of a table, None for columns by their names, and the columns to read."""
    names = list(names)
    if columns == Columns():
        for form in FORMS.values():
            if set(form.columns) <= set(names):
                return form, [*form.columns, *form.optional]
    missing = next((name for name in columns.wanted if name not in names), None)
    if missing is not None:
        raise InputError(
            f"{path!r} has no column {missing!r}{nearest(missing, names)}; its columns are {', '.join(names)} "
            "(--source_column, --target_column)"
        )
    return None, columns.wanted


def _rows(table: Table, form: Form | None, columns: Columns, split: str) -> Iterator[tuple[str, Row]]:
    cells = table.columns
    for number in range(len(table)):
        row = {name: column[number] for name, column in cells.items()}
        if form is not None and form.split and row.get(form.split) not in (None, "", *SPLITS.get(split, ())):
            continue
        for made in _pairs_of(row, form, columns, table, number):
            yield _group(row if form is not None and form.turns else made), made


def _group(row: Row) -> str:
    """What a row shares with all of the same source: the event, the first turn, the source."""
    turns = row.get("turns") or row.get("context")
    return str(turns[0] if turns else row.get("head", row.get("source", row)))


def _pairs_of(row: Row, form: Form | None, columns: Columns, table: Table, number: int) -> Iterator[Row]:
    def text(name: str) -> str:
        value = row[name]
        if value is not None and not isinstance(value, str):
            raise InputError(f"{table.place(number)}: column {name!r} is {type(value).__name__}, not text")
        return value or ""

    def texts(name: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(each, str | None) for each in value):
            raise InputError(f"{table.place(number)}: column {name!r} holds no list of texts")
        return [each or "" for each in value]

    if form is None and columns.directions and not columns.others:
        for direction in columns.directions:
            source, target = direction.split("-")
            yield {"source": text(source), "target": text(target), "language": target}
    elif form is None:
        names = {columns.source: "source", columns.target: "target"} if not columns.others else {}
        yield {names.get(name, name): text(name) for name in columns.wanted}
    elif form.relations:
        for column, relation in form.relations.items():
            try:
                tails = json.loads(text(column) or "[]")
            except ValueError as error:
                raise InputError(f"{table.place(number)}: column {column!r} is no JSON list ({error})") from error
            for tail in texts(column, tails):
                yield {"head": text(form.head), "relation": relation, "tail": tail}
    elif form.turns:
        turns = texts(form.turns, row[form.turns])
        for at in range(1, len(turns)):
            yield {"context": turns[:at], "response": turns[at]}
    elif "context" in row:
        context = row["context"] if isinstance(row["context"], list) else [text("context")]
        yield {"context": texts("context", context), "response": text("response")}
    else:
        made = {name: text(name) for name in form.columns}
        if row.get("weight") in (None, ""):
            yield made
            return
        try:
            yield made | {"weight": float(row["weight"])}
        except (ValueError, TypeError):
            raise InputError(f"{table.place(number)}: the weight {row['weight']!r} is no number") from None


def _aligned(files: list[Path]) -> Iterator[tuple[str, Row]]:
    """Pairs of the lines of two text files."""
    if len(files) != 2 or any(suffix(file) in TABLES for file in files):
        names = ", ".join(str(file) for file in files)
        raise InputError(
            f"pairs are read from tables ({', '.join(TABLES)}) or from two text files, source and target, whose lines "
            f"belong together; not from {names}"
        )
    missing = object()
    for number, (source, target) in enumerate(
        itertools.zip_longest(*map(text_lines, files), fillvalue=missing), start=1
    ):
        if source is missing or target is missing:
            counts = [sum(1 for _ in text_lines(file)) for file in files]
            raise InputError(
                f"{files[0]} has {counts[0]:,} lines and {files[1]} {counts[1]:,}: line {number:,} has no counterpart; "
                "each line of one must be the translation of the same line of the other"
            )
        yield source, {"source": source, "target": target}


def _column_names(file: Path) -> list[str]:
    kind = suffix(file)
    if kind == ".parquet":
        return list(open_parquet(file).schema_arrow.names)
    if kind in (".csv", ".tsv"):
        return next(_csv_rows(file), [])
    first = next((line for line in text_lines(file) if line.strip()), "{}")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: its first line is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f"{file}: its first line is a JSON {type(row).__name__}, not an object")
    return list(row)


def _read(file: Path, wanted: list[str]) -> Table:
    kind = suffix(file)
    if kind == ".parquet":
        return read_parquet([file], wanted)
    if kind in (".csv", ".tsv"):
        return _read_csv(file, wanted)
    rows, lines = read_json_lines(file)
    for row, line in zip(rows, lines, strict=True):
        missing = next((name for name in wanted if name not in row), None)
        if missing is not None:
            raise InputError(f"{file}:{line}: no column {missing!r}; this line has {', '.join(row) or 'none'}")
    return Table({name: [row[name] for row in rows] for name in wanted}, str(file), lines)


def _csv_rows(file: Path) -> Iterator[list[str]]:
    lines = (f"{line}\n" for line in text_lines(file))
    tabs = suffix(file) == ".tsv"
    csv.field_size_limit(2**24)
    options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    try:
        yield from (row for row in csv.reader(lines, **options) if row)
    except csv.Error as error:
        raise InputError(f"{file} is no csv file: {error}") from error


def _read_csv(file: Path, wanted: list[str]) -> Table:
    rows = _csv_rows(file)
    names = next(rows, [])
    places = [names.index(name) for name in wanted]
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise InputError(f"{file}: row {number} has {len(row)} fields, the header {len(names)}")
        for name, place in zip(wanted, places, strict=True):
            columns[name].append(row[place])
    return Table(columns, str(file))
