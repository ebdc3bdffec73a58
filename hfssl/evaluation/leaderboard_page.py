"""The leaderboard as a static site: one HTML file that needs no server and loads nothing, and a README for a Space.

The tables are in the HTML; a small script adds sorting and filtering. Style and script are allowed by their hashes
alone, so that nothing in a result could run even if it were not escaped. Templates lie in ``page/`` beside this file.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from hfssl import __version__
from hfssl.errors import InputError
from hfssl.evaluation.results import FORMAT, read_json, read_result
from hfssl.evaluation.score_tables import Column, Figure, Line, ScoreTable, board_tables, is_web_address
from hfssl.evaluation.vision_tables import (
    is_objectives,
    is_probe,
    objective_tables,
    probe_tables,
    read_objectives,
    read_probe,
)
from hfssl.evaluation.word_tables import is_words, read_words, word_tables
from hfssl.files import write_whole
from hfssl.programs import program

TEMPLATES = Path(__file__).resolve().parent / "page"
GENERATOR = "hfssl leaderboard"  # by this a folder is known as a site of ours
TITLE = "hfssl leaderboard"
LEAD = (
    "What self-supervised models score on GLUE, SuperGLUE, vision probes, analogies and word similarity. Rows marked "
    "ours were computed with hfssl; all others are published figures with their sources. Development and test sets are "
    "separate tables."
)
SPACE = f"""---
title: {TITLE}
emoji: 📊
colorFrom: blue
colorTo: gray
sdk: static
app_file: index.html
pinned: false
---

{LEAD}

Written by `hfssl leaderboard --html`. index.html needs no server: open it in any browser.
"""
# Invisible characters that reorder or cut a text: shown as the replacement character.
UNSHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
HYPHEN, NO_BREAK = re.compile(r"-(?=\d)"), "\N{NON-BREAKING HYPHEN}"  # official-9 stays on one line of a heading
URL = re.compile(r"https?://[^\s,;()<>\"']+")


@dataclass(frozen=True)
class Kind:
    """A kind of result: what writes it, how its JSON is known, how a file is read, and what tables all of them make."""

    program: str
    matches: Callable[[Any], bool]
    read: Callable[[Path], Any]
    tables: Callable[[list], list[ScoreTable]]


KINDS = (
    Kind("hfssl glue or superglue", lambda c: isinstance(c, dict) and c.get("format") == FORMAT, read_result,
         board_tables),
    Kind("hfssl probe", is_probe, read_probe, probe_tables),
    Kind("eval/compare_objectives.py", is_objectives, read_objectives, objective_tables),
    Kind("hfssl words", is_words, read_words, word_tables),
)  # fmt: skip


def find_tables(places: Sequence[str | Path]) -> list[ScoreTable]:
    """The tables of all results in files and folders, among the published rows.

    Raises:
        InputError: a place that does not exist, a folder without a result, or a file that is none or is damaged.
    """
    found: dict[str, list] = {kind.program: [] for kind in KINDS}
    for place in map(Path, places):
        read = [*_results_in(place)]
        if not read:
            there = ", ".join(sorted(path.name for path in place.iterdir())[:8]) or "nothing"
            raise InputError(f"no result in {str(place)!r}: a JSON file of {_programs()}; it holds {there}")
        for kind, result in read:
            found[kind.program].append(result)
    return [table for kind in KINDS for table in kind.tables(found[kind.program])]


def _results_in(place: Path) -> Iterable[tuple[Kind, Any]]:
    """The results in a file or a folder with their kinds; other JSON files of a folder are passed over."""
    for path in sorted(place.glob("*.json")) if place.is_dir() else [place]:
        content = read_json(path)
        kind = next((kind for kind in KINDS if kind.matches(content)), None)
        if kind is not None:
            yield kind, kind.read(path)
        elif path == place:
            raise InputError(f"{path} is no result of {_programs()}")


def _programs() -> str:
    return ", ".join(kind.program for kind in KINDS)


def write_site(places: Sequence[str | Path], folder: str | Path) -> str:
    """Writes index.html and README.md. A site of ours that is there is replaced; other files beside it, such as a
    Space's .git, stay.

    Args:
        places: files and folders of results; of none, the repository's own in eval/results.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: see `find_tables`; the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    _check_folder(folder)
    repository = program("eval/results")
    tables = find_tables(places or ([repository] if repository.is_dir() else []))
    files = {"README.md": SPACE, "index.html": site_page(tables)}
    try:
        if folder.is_dir() and any(folder.iterdir()):
            for name, content in files.items():
                write_whole(folder / name, content)
        else:
            _write_folder(folder, files)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    own = sum(line.own for table in tables for line in table.lines)
    return f"wrote {folder / 'index.html'}: {len(tables)} tables, {own} rows of our own"


def _check_folder(folder: Path) -> None:
    page = folder / "index.html"
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give another --html")
        if folder.is_dir() and any(folder.iterdir()):
            head = page.read_text(encoding="utf-8", errors="replace")[:2000] if page.is_file() else ""
            if f'content="{GENERATOR}"' not in head:
                raise InputError(f"{folder} is not empty and holds no leaderboard; give another --html")
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None


def _write_folder(folder: Path, files: dict[str, str]) -> None:
    """A new folder (or one in place of an empty one), with all files in it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's folder is its owner's alone; a site is to be read
        for name, content in files.items():
            write_whole(staging / name, content)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def site_page(tables: Sequence[ScoreTable]) -> str:
    """The whole page."""
    page, style, script = (
        (TEMPLATES / f"page.{kind}").read_text(encoding="utf-8").strip() for kind in ("html", "css", "js")
    )
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    menu = "".join(f'<li><a href="#{table.key}">{_text(table.menu)}</a></li>' for table in tables)
    return Template(page).substitute(
        policy=policy,
        generator=GENERATOR,
        title=_text(TITLE),
        lead=_text(LEAD),
        style=style,
        script=script,
        menu=menu,
        tables="\n".join(map(_section, tables)),
        footer=_text(f"Written by hfssl leaderboard --html, hfssl {__version__}."),
    ) + "\n"  # fmt: skip


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _text(text: str) -> str:
    """As text of an element or of a quoted attribute."""
    return html.escape(UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text))


def _linked(text: str) -> str:
    """A text whose http and https addresses are links."""
    parts, end = [], 0
    for match in URL.finditer(text):
        if is_web_address(match.group().rstrip(".:")):
            address = match.group().rstrip(".:")
            parts += [_text(text[end : match.start()]), _anchor(address, address)]
            end = match.start() + len(address)
    return "".join([*parts, _text(text[end:])])


def _anchor(address: str, text: str) -> str:
    return f'<a href="{_text(address)}" rel="noopener noreferrer">{_text(text)}</a>'


def _section(table: ScoreTable) -> str:
    remarks = "".join(f"<li>{_text(remark)}</li>" for remark in table.remarks)
    notes = "".join(
        f'<li id="{table.key}-note-{number}">{_text(note)}</li>' for number, note in enumerate(table.footnotes, 1)
    )
    sourced = [line for line in table.lines if line.source]
    sources = "".join(f"<dt>{_bdi(line.name)}</dt><dd>{_linked(line.source)}</dd>" for line in sourced)
    return "\n".join([
        f'<section id="{table.key}" aria-labelledby="{table.key}-title">',
        f'<h2 id="{table.key}-title">{_text(table.title)}</h2>',
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{table.key}-title">',
        f'<table aria-labelledby="{table.key}-title"><thead>{_head(table)}</thead>',
        f"<tbody>{_body(table)}</tbody></table></div>",
        '<p class="none" hidden>No row of this table passes the filter.</p>',
        *([f'<ul class="remarks">{remarks}</ul>'] if remarks else []),
        *([f'<ol class="footnotes">{notes}</ol>'] if notes else []),
        *([f'<details class="sources"><summary>Sources of the {len(sourced)} published rows</summary>'
           f"<dl>{sources}</dl></details>"] if sourced else []),
        "</section>",
    ])  # fmt: skip


def _head(table: ScoreTable) -> str:
    """Two rows: the groups, and the columns that sort."""
    groups, columns = [], []
    for name, members in itertools.groupby(enumerate(table.columns, 1), key=lambda item: item[1].group):
        members = [*members]
        span = f'scope="colgroup" colspan="{len(members)}" class="first"'
        groups.append(f"<th {span}><span>{_text(name)}</span></th>")
        for number, column in members:
            first = ' class="first"' if _begins_group(table, number - 1) else ""
            order = ' aria-sort="descending"' if table.ranked == number - 1 else ""
            begins = "ascending" if column.low_first else "descending"
            label = _text(f"{column.group}, {column.name}")
            columns.append(
                f'<th scope="col"{first}{order} data-column="{number}" data-first="{begins}" data-label="{label}">'
                f"{_text(HYPHEN.sub(NO_BREAK, column.name))}</th>"
            )
    name = '<th scope="col" rowspan="2" data-column="0" data-first="ascending" data-label="Model">Model</th>'
    return f"<tr>{name}{''.join(groups)}</tr>\n<tr>{''.join(columns)}</tr>\n"


def _begins_group(table: ScoreTable, place: int) -> bool:
    return place == 0 or table.columns[place - 1].group != table.columns[place].group


def _body(table: ScoreTable) -> str:
    scales = [_scale(line.figures[place] for line in table.lines) for place in range(len(table.columns))]
    rows = []
    for line in table.lines:
        own = ' class="own"' if _stands_out(table, line) else ""
        kind = f'{own} data-kind="{"ours" if line.own else "published"}"'
        cells = []
        for place, (figure, column) in enumerate(zip(line.figures, table.columns, strict=True)):
            names = " ".join(["first"] * _begins_group(table, place) + ["ranked"] * (place == table.ranked))
            cells.append(_cell(figure, column, scales[place], f' class="{names}"' if names else ""))
        rows.append(f"<tr{kind}>{_name(table, line)}{''.join(cells)}</tr>\n")
    return "".join(rows)


def _name(table: ScoreTable, line: Line) -> str:
    name = f'<a href="{_text(line.link)}" rel="noopener noreferrer">{_bdi(line.name)}</a>' if line.link else ""
    marks = [
        f'<a href="#{table.key}-note-{number}" aria-label="note {number}">{number}</a>'
        for number, note in enumerate(table.footnotes, 1)
        if note in line.footnotes
    ]
    tag = ' <span class="tag">ours</span>' if _stands_out(table, line) else ""
    notes = f"<sup>{''.join(marks)}</sup>" if marks else ""
    return f'<th scope="row" data-value="{_text(line.name)}">{name or _bdi(line.name)}{tag}{notes}</th>'


def _stands_out(table: ScoreTable, line: Line) -> bool:
    """Our rows among published ones do; where all rows are ours, none."""
    return line.own and not all(other.own for other in table.lines)


def _bdi(name: str) -> str:
    """A name, whose direction of writing does not touch what stands around it."""
    return f"<bdi>{_text(name)}</bdi>"


def _cell(figure: Figure | None, column: Column, scale: tuple[float, float], names: str) -> str:
    if figure is None:
        return f"<td{names}></td>"
    below = ""
    if figure.interval:
        low, high = (format(end, column.form) for end in figure.interval)
        below = f"{_interval(figure, scale)}<small>{low}–{high}</small>"
    if figure.spread:
        below += f"<small>± {figure.spread:{column.form}}</small>"
    return f'<td{names} data-value="{figure.value!r}">{figure.value:{column.form}}{below}</td>'


def _scale(figures: Iterable[Figure | None]) -> tuple[float, float]:
    """The lowest and the highest figure or end of an interval in a column."""
    numbers = [number for figure in figures if figure for number in (figure.value, *(figure.interval or ()))]
    return (min(numbers), max(numbers)) if numbers else (0.0, 1.0)


def _interval(figure: Figure, scale: tuple[float, float]) -> str:
    """The interval on its column's scale; the numbers stand below it, so a screen reader passes it over."""
    low, high = scale
    width = high - low or 1.0
    start, end, middle = (3 + 50 * (value - low) / width for value in (*figure.interval, figure.value))
    return (
        '<svg class="interval" viewBox="0 0 56 8" aria-hidden="true"><path class="track" d="M3 4h50"/>'
        f'<path class="range" d="M{start:.1f} 4H{end:.1f}"/><path class="middle" d="M{middle:.1f} 1v6"/>'
        "</svg>"
    )
