"""Reads one prediction file of a submission strictly, and says of everything that is wrong where it is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hfssl.evaluation.submission import HEADER
from hfssl.evaluation.tasks import Task

SHOWN = 3  # places of the same fault
LONGEST_INDEX = 10  # digits
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Found:
    """What a file holds.

    Attributes:
        values: by index, the task's label (for STS-B the number, for ReCoRD the text); rows that cannot be used are not
            in it.
        errors, warnings: to be put behind the file's name: ``:17: ...`` or ``: ...``.
    """

    values: dict[Hashable, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def printable(text: str) -> str:
    """What a stranger's file holds may not steer the terminal that shows it."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class _Faults:
    """Faults of rows by kind: the first few lines of each and how many there are."""

    def __init__(self) -> None:
        self.lines: dict[str, list[int]] = {}
        self.text: dict[str, str] = {}

    def add(self, kind: str, line: int, text: str) -> None:
        self.lines.setdefault(kind, []).append(line)
        self.text.setdefault(kind, printable(text))

    def messages(self) -> list[str]:
        messages = []
        for kind, lines in self.lines.items():
            more = f" (and {len(lines) - 1:,} more lines: {_some(lines[1:])})" if len(lines) > 1 else ""
            messages.append(f":{lines[0]}: {self.text[kind]}{more}")
        return messages


def _some(values: Collection) -> str:
    shown = ", ".join(str(value) for value in list(values)[:SHOWN])
    return shown + (", ..." if len(values) > SHOWN else "")


def read_tsv(content: bytes, task: Task, expected: Collection[int]) -> Found:
    """A GLUE file: UTF-8 without a BOM, line feeds, the header, one row for each expected index."""
    found, faults = Found(), _Faults()
    lines = _lines(content, found)
    start = 0
    if lines and lines[0] == HEADER:
        start = 1
    elif lines and lines[0].split("\t")[0].isdecimal():
        found.errors.append(f":1: no header; the first line must be {HEADER!r}")
    else:
        start = 1
        found.errors.append(f":1: the header is {lines[0][:60] if lines else ''!r}, not {HEADER!r}")
    first_line: dict[Hashable, int] = {}
    parse = _number if task.kind == "regression" else _label_reader(task)
    for number, line in enumerate(lines[start:], start=start + 1):
        index, tab, text = line.partition("\t")
        if not tab or "\t" in text:
            what = "an empty line" if not line else f"{line[:60]!r} is not index<TAB>prediction"
            faults.add("fields", number, what)
        elif not (index.isascii() and index.isdecimal() and len(index) < LONGEST_INDEX):
            faults.add("index", number, f"the index {index[:20]!r} is no row number")
        else:
            value = parse(text)
            if isinstance(value, _Wrong):
                faults.add("value", number, value.text)
            _keep(found, faults, first_line, int(index), value, number)
    _finish(found, faults, expected, first_line)
    return found


def read_jsonl(
    content: bytes, task: Task, expected: Collection[int], entities: Mapping[int, Collection[str]] | None = None
) -> Found:
    """A SuperGLUE file: one ``{"idx": ..., "label": ...}`` a line.

    Args:
        entities: of each ReCoRD query, the names of its passage, if the data is at hand.
    """
    found, faults = Found(), _Faults()
    first_line: dict[Hashable, int] = {}
    parse = _text if task.kind == "entities" else _label_reader(task)
    for number, row in _objects(content, found, faults):
        index = row.get("idx")
        if set(row) != {"idx", "label"} or not isinstance(index, int) or isinstance(index, bool):
            faults.add("form", number, f'{json.dumps(row)[:60]} is not {{"idx": number, "label": prediction}}')
            continue
        value = parse(row["label"])
        if isinstance(value, _Wrong):
            faults.add("value", number, value.text)
        elif entities is not None and index in entities and value not in entities[index]:
            faults.add("entity", number, f"{value[:40]!r} is none of the entities of query {index}")
        _keep(found, faults, first_line, index, value, number)
    _finish(found, faults, expected, first_line)
    return found


def read_multirc(
    content: bytes, task: Task, expected: Collection[tuple[int, int, int]] | tuple[int, int, int]
) -> Found:
    """MultiRC's file: a line a paragraph, with its questions, with their answers.

    Args:
        expected: the set of (paragraph, question, answer), or how many there are of each, numbered from 0 on.
    """
    found, faults = Found(), _Faults()
    first_line: dict[Hashable, int] = {}
    parse = _label_reader(task)
    for number, row in _objects(content, found, faults):
        try:
            leaves = [
                ((row["idx"], question["idx"], answer["idx"]), answer["label"])
                for question in row["passage"]["questions"]
                for answer in question["answers"]
            ]
        except (KeyError, TypeError) as error:
            faults.add("form", number, f"no tree of passage, questions, answers ({type(error).__name__}: {error})")
            continue
        if not all(type(part) is int for key, _ in leaves for part in key):
            faults.add("form", number, "an idx that is no number")
            continue
        for key, label in leaves:
            value = parse(label)
            if isinstance(value, _Wrong):
                faults.add("value", number, value.text)
            _keep(found, faults, first_line, key, value, number)
    if isinstance(expected, tuple):
        _check_numbers(first_line, expected, found)
        expected = set(first_line)
    _finish(found, faults, expected, first_line)
    return found


def _check_numbers(keys: Collection, counts: tuple[int, int, int], found: Found) -> None:
    for place, (what, count) in enumerate(zip(("paragraphs", "questions", "answers"), counts, strict=True)):
        numbers = {key[place] for key in keys}
        if numbers != set(range(count)):
            found.errors.append(f": {len(numbers):,} {what}, expected {count:,}, numbered from 0")


def _lines(content: bytes, found: Found) -> list[str]:
    """The file's lines without their ends; what is wrong with its bytes is noted."""
    if content.startswith(b"\xef\xbb\xbf"):
        found.errors.append(":1: a byte order mark before the first character; save as UTF-8 without BOM")
        content = content[3:]
    if b"\r" in content:
        number = content[: content.index(b"\r")].count(b"\n") + 1
        found.errors.append(f":{number}: {content.count(bytes([13])):,} lines end in CRLF; the server wants LF")
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        found.errors.append(f":{number}: not UTF-8")
        text = content.decode("utf-8", "replace")
    lines = text.split("\n")
    if lines[-1]:
        found.warnings.append(f":{len(lines)}: no line feed at the end of the file")
    else:
        lines.pop()
    return lines


def _objects(content: bytes, found: Found, faults: _Faults) -> list[tuple[int, dict]]:
    rows = []
    for number, line in enumerate(_lines(content, found), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            faults.add("json", number, "an empty line" if not line else f"{line[:60]!r} is no JSON object")
    return rows


@dataclass(frozen=True)
class _Wrong:
    """A prediction that the server would not take."""

    text: str


def _label_reader(task: Task) -> Callable[[Any], str | _Wrong]:
    """From what is in a file to the task's label: only the server's own spelling, in its own type."""
    labels = {(type(value), value): label for value, label in zip(task.written, task.labels, strict=True)}
    wanted = " or ".join(json.dumps(value) if task.suite == "superglue" else str(value) for value in task.written)

    def read(value: Any) -> str | _Wrong:
        label = labels.get((type(value), value)) if isinstance(value, (str, int)) else None
        shown = value if task.suite == "glue" else json.dumps(value)
        return label or _Wrong(f"the prediction {shown[:40]} is not {wanted}")

    return read


def _number(text: str) -> float | _Wrong:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= value <= 5:
        return _Wrong(f"the prediction {text[:20]} is no number from 0 to 5")
    return value


def _text(value: Any) -> str | _Wrong:
    if not isinstance(value, str) or not value.strip():
        return _Wrong(f"the prediction {json.dumps(value)[:40]} is no text")
    return value


def _keep(
    found: Found, faults: _Faults, first_line: dict[Hashable, int], index: Hashable, value: Any, line: int
) -> None:
    if index in first_line:
        faults.add("doubled", line, f"index {index} is doubled: it is in line {first_line[index]} already")
        return
    first_line[index] = line
    if not isinstance(value, _Wrong):
        found.values[index] = value


def _finish(found: Found, faults: _Faults, expected: Collection, first_line: dict[Hashable, int]) -> None:
    """Compares the indices with the expected ones."""
    found.errors += faults.messages()
    missing = sorted(set(expected) - set(first_line))
    if missing:
        before = [line for index, line in first_line.items() if index < missing[0]]
        place = f", the first after line {max(before)}" if before else ", the first before all others"
        found.errors.append(f": {len(missing):,} of {len(expected):,} rows are missing: index {_some(missing)}{place}")
    extra = sorted(set(first_line) - set(expected))
    if extra:
        place = first_line[extra[0]]
        found.errors.append(f":{place}: {len(extra):,} indices that the test set does not have: {_some(extra)}")
    lines = list(first_line)
    if not missing and not extra and lines != sorted(lines):
        found.warnings.append(": the rows are not in the order of the index")
