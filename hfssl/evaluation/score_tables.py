"""Tables of scores as data, for the leaderboard page: columns, rows, intervals, remarks, footnotes and sources.

A new kind of table is one function that makes `ScoreTable`s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hfssl.evaluation.leaderboard import FOOTNOTES, METRIC_LABELS, Board, board_remarks, boards
from hfssl.evaluation.results import ModelResult
from hfssl.files import is_missing_folder

HUB = "https://huggingface.co/"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
OUTPUTS = ("out", "demo")  # where hfssl's own commands write: these are folders on whatever machine the page is made


@dataclass(frozen=True)
class Figure:
    """A number of a table.

    Attributes:
        interval: the ends of its 95 % interval.
        spread: standard deviation over seeds, where the interval does not hold it already; 0 for one seed.
    """

    value: float
    interval: tuple[float, float] | None = None
    spread: float = 0.0


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        group: the heading above it, which neighbours share.
        form: the format of its numbers.
        low_first: sorting begins with the lowest.
    """

    group: str
    name: str
    form: str = ".1f"
    low_first: bool = False


@dataclass(frozen=True)
class Line:
    """A row: a figure or None in each column.

    Attributes:
        footnotes: texts, each also in the table's.
        source: of a published row.
        link: an http or https URL of the model.
        own: computed with hfssl, not published by others.
    """

    name: str
    figures: tuple[Figure | None, ...]
    footnotes: tuple[str, ...] = ()
    source: str = ""
    link: str = ""
    own: bool = True


@dataclass(frozen=True)
class ScoreTable:
    """A table.

    Attributes:
        key: its place on the page, unique there.
        menu: its name in the page's menu.
        lines: in order of the column `ranked`, best first, or as they came.
        remarks: what must be said beside it, a sentence each.
        footnotes: those that its rows have, in order.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    menu: str = ""
    ranked: int | None = 0


def ranked_lines(lines: Sequence[Line], column: int) -> tuple[Line, ...]:
    """Best first by a column; those without a figure there last; equal ones stay in their order."""

    def place(line: Line) -> float:
        figure = line.figures[column]
        return float("inf") if figure is None else -figure.value

    return tuple(sorted(lines, key=place))


def model_link(name: str) -> str:
    """Where a model can be seen, if its name says so: an http or https URL, or a Hub id that is no folder here."""
    if HUB_ID.fullmatch(name):
        is_folder = Path(name).exists() or is_missing_folder(name) or name.partition("/")[0] in OUTPUTS
        return "" if is_folder or ".." in name else HUB + name
    return name if is_web_address(name) else ""


def is_web_address(text: str) -> bool:
    """Whether it is an http or https URL with a host, without a password, spaces or control characters."""
    try:
        parts = urlsplit(text)
        plain = text.isascii() and text.isprintable() and not set(text) & set(" \\\"'<>`")
        return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def board_tables(results: Sequence[ModelResult] = ()) -> list[ScoreTable]:
    """GLUE and SuperGLUE: published rows and ours, dev, test and synthetic data apart, as `boards` has them."""
    return [_board_table(board) for board in boards(results)]


def _board_table(board: Board) -> ScoreTable:
    scores = [
        (task, score)
        for task in board.tasks
        for score in task.score_names
        if any(score in row.scores.get(task.name, {}) for row in board.rows)
    ]
    columns = [Column("average", name) for name in board.averages]
    columns += [Column(task.title, METRIC_LABELS[score]) for task, score in scores]
    lines = []
    for row in board.rows:
        figures = [Figure(row.averages[name]) if name in row.averages else None for name in board.averages]
        for task, score in scores:
            ends = row.intervals.get(task.name, {}).get(score)
            value = row.scores.get(task.name, {}).get(score)
            figures.append(None if value is None else Figure(value, tuple(ends) if ends else None))
        footnotes = tuple(FOOTNOTES[key] for key in board.footnotes() if key in row.footnotes)
        link = model_link(row.name) if row.own else ""
        lines.append(Line(row.name, tuple(figures), footnotes, row.source, link, row.own))
    remarks = board_remarks(board)
    if any(figure and figure.interval for line in lines for figure in line.figures):
        remarks.append("of ours: medians over seeds; below each the 95 % bootstrap interval of the mean, over rows and "
                       "seeds, drawn from the lowest to the highest figure of the column")  # fmt: skip
    part = "synthetic" if board.synthetic else board.part
    return ScoreTable(
        key=f"{board.suite}-{part}",
        menu=f"{board.title.partition(',')[0]} {part}",
        title=board.title,
        columns=tuple(columns),
        lines=tuple(lines),
        remarks=tuple(remarks),
        footnotes=tuple(FOOTNOTES[key] for key in board.footnotes()),
    )
