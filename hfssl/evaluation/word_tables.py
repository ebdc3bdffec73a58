"""Tables of `hfssl words` for the leaderboard page: results on the same questions by the same rules are one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfssl.evaluation.results import read_json
from hfssl.evaluation.score_tables import Column, Figure, Line, ScoreTable, model_link, ranked_lines
from hfssl.evaluation.vision_tables import ANCHOR, DRAWN, are_objects, is_number, need
from hfssl.evaluation.word_report import ANALOGIES, FORMAT, RANDOM, SIMILARITY
from hfssl.evaluation.words import SUMS

RULES = ("restrict", "match_case", "count_unknown")
TEXTS = ("vectors", "kind", "test", "part")
SCORES, COUNTS = ("score", "low", "high"), ("asked", "known", "total")


def is_words(content: Any) -> bool:
    """Whether a JSON file's content is a results.json of `hfssl words`."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_words(path) -> dict[str, Any]:
    """A results.json of `hfssl words`.

    Raises:
        InputError: a part is missing or is not what it must be.
    """
    content = read_json(path)
    need(isinstance(content.get("model"), str), path, "'model' is no name")
    need(are_objects(content.get("rows")), path, "'rows' is no list of results")
    need(isinstance(content.get("data"), dict), path, "'data' names no files")
    need(isinstance(content.get("settings"), dict) and content["settings"].keys() >= set(RULES), path,
         f"'settings' lacks one of {', '.join(RULES)}")  # fmt: skip
    for number, row in enumerate(content["rows"], start=1):
        place = f"row {number}"
        need(all(isinstance(row.get(name), str) for name in TEXTS), path, f"{place} lacks one of {', '.join(TEXTS)}")
        need(row["kind"] in (ANALOGIES, SIMILARITY), path, f"{place}: no kind {row['kind']!r}")
        need(isinstance(content["data"].get(row["test"]), str), path, f"{place}: no file {row['test']!r} in 'data'")
        scores = [row.get(name) for name in SCORES]
        there = scores == [None] * 3 or all(is_number(value) and -1 <= value <= 1 for value in scores)
        need(there, path, f"{place}: {', '.join(SCORES)} must be numbers from -1 to 1, or null")
        need(all(type(row.get(name)) is int for name in COUNTS), path, f"{place} lacks one of {', '.join(COUNTS)}")
    return content


def word_tables(records: Sequence[Mapping[str, Any]]) -> list[ScoreTable]:
    """Sums of analogies, not their sections, and similarity: a table for each set of rules."""
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for record in records:
        if any(_is_shown(row) for row in record["rows"]):
            found.setdefault(tuple(record["settings"][name] for name in RULES), []).append(record)
    return [_table(number, group) for number, group in enumerate(found.values(), start=1)]


def _is_shown(row: Mapping[str, Any]) -> bool:
    return row["kind"] == SIMILARITY or row["part"] in SUMS


def _table(number: int, records: Sequence[Mapping[str, Any]]) -> ScoreTable:
    keys: dict[tuple[str, str, str, str], None] = {}
    lines: dict[Line, None] = {}  # of several results with the same anchor one row
    shown = [(record, _scores(record)) for record in records]
    for _, rows in shown:
        keys |= dict.fromkeys(key for cells in rows.values() for key in cells)
    ordered = sorted(keys, key=lambda key: (key[0] != ANALOGIES, [*keys].index(key)))
    for record, rows in shown:
        for vectors, cells in rows.items():
            figures = tuple(_figure(cells[key]) if key in cells else None for key in ordered)
            known = [_known(cells, kind) for kind in (ANALOGIES, SIMILARITY)]
            anchor = vectors == RANDOM
            name, link = (RANDOM, "") if anchor else (record["model"], model_link(record["model"]))
            lines[Line(name, (*figures, *known), (ANCHOR,) if anchor else (), link=link)] = None
    columns = [Column(test, "Spearman" if kind == SIMILARITY else part) for kind, test, _, part in ordered]
    columns += [Column("known, %", kind) for kind in (ANALOGIES, SIMILARITY)]
    ranked = next((place for place, key in enumerate(ordered) if key[3] == "total"), 0)
    settings = records[0]["settings"]
    return ScoreTable(
        key=f"words-{number}",
        menu="Word vectors",
        title=f"Word vectors: analogies among {settings['restrict']:,} words, similarity",
        columns=tuple(columns),
        lines=ranked_lines([*lines], ranked),
        ranked=ranked,
        remarks=(
            "analogies: accuracy of 3CosAdd in %; similarity: Spearman's correlation with people's scores, in %",
            f"case {'counts' if settings['match_case'] else 'does not count'}; what has an unknown word "
            + ("is wrong" if settings["count_unknown"] else "is left out, so look at what is known"),
            f"below each the 95 % bootstrap interval over questions or pairs, {DRAWN}",
        ),
        footnotes=(ANCHOR,) if any(line.footnotes for line in lines) else (),
    )  # fmt: skip


def _scores(record: Mapping[str, Any]) -> dict[str, dict[tuple[str, str, str, str], Mapping[str, Any]]]:
    """By vectors, the shown rows by kind, file, the file's content, and part."""
    found: dict[str, dict] = {}
    for row in filter(_is_shown, record["rows"]):
        key = (row["kind"], row["test"], record["data"][row["test"]], row["part"])
        found.setdefault(row["vectors"], {})[key] = row
    return found


def _figure(row: Mapping[str, Any]) -> Figure | None:
    return None if row["score"] is None else Figure(100 * row["score"], (100 * row["low"], 100 * row["high"]))


def _known(cells: Mapping[tuple, Mapping[str, Any]], kind: str) -> Figure | None:
    """The share of all questions or pairs whose words have vectors."""
    rows = [row for key, row in cells.items() if key[0] == kind and key[3] == "total"]
    total = sum(row["total"] for row in rows)
    return Figure(100 * sum(row["known"] for row in rows) / total) if total else None
