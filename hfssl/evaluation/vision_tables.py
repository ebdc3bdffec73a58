"""Tables of vision results for the leaderboard page: of `hfssl probe` and of eval/compare_objectives.py.

Probes of the same training and test images are one table, whatever folder they come from; of other images another one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from hfssl.errors import InputError
from hfssl.evaluation.results import read_json
from hfssl.evaluation.score_tables import Column, Figure, Line, ScoreTable, model_link, ranked_lines

ANCHOR = "an anchor: what needs no pretraining"
DRAWN = "drawn from the lowest to the highest figure of the column"
TEXTS = ("encoder", "test", "protocol", "labels", "layer")
FRACTIONS = ("accuracy", "spread", "low", "high")


def is_probe(content: Any) -> bool:
    """Whether a JSON file's content is a results.json of `hfssl probe`."""
    return isinstance(content, dict) and {"weights_sha256", "anchors", "rows"} <= content.keys()


def is_objectives(content: Any) -> bool:
    """Whether it is an objectives.json of eval/compare_objectives.py."""
    settings = content.get("settings") if isinstance(content, dict) else None
    return isinstance(settings, dict) and {"arms", "images_seen"} <= settings.keys()


def read_probe(path) -> dict[str, Any]:
    """A results.json of `hfssl probe`.

    Raises:
        InputError: a part is missing or is not what it must be.
    """
    content = read_json(path)
    need(isinstance(content.get("model"), str), path, "'model' is no name")
    need(are_objects(content["rows"]), path, "'rows' is no list of results")
    need(isinstance(content["anchors"], list), path, "'anchors' is no list")
    data = content.get("data")
    need(isinstance(data, dict) and "train" in data and are_objects([*data.values()]), path, "'data' names no images")
    for part, images in data.items():
        said = [images.get("source"), images.get("fingerprint")]
        need(all(isinstance(value, str) for value in said), path, f"the {part} images have no source or fingerprint")
    for number, row in enumerate(content["rows"], start=1):
        place = f"row {number}"
        need(all(isinstance(row.get(name), str) for name in TEXTS), path, f"{place} lacks one of {', '.join(TEXTS)}")
        need(row["test"] in data, path, f"{place}: no images {row['test']!r} in 'data'")
        fractions = all(is_number(row.get(name)) and 0 <= row[name] <= 1 for name in FRACTIONS)
        need(fractions, path, f"{place}: {', '.join(FRACTIONS)} must be fractions of 1")
        need(type(row.get("n")) is int and type(row.get("seeds")) is int, path, f"{place} lacks n or seeds")
    need(any(row["layer"] == "pooled" for row in content["rows"]), path, "no row is of the pooled features")
    return content


def read_objectives(path) -> dict[str, Any]:
    """An objectives.json of eval/compare_objectives.py.

    Raises:
        InputError: a part is missing or is not what it must be.
    """
    content = read_json(path)
    need(type(content["settings"]["images_seen"]) is int, path, "'images_seen' is no number")
    need(are_objects(content.get("rows")), path, "'rows' is no list of arms")
    for row in content["rows"]:
        arm, painting = row.get("arm"), row.get("painting", {})
        need(isinstance(arm, str) and type(row.get("seeds")) is int, path, "an arm has no name or no seeds")
        need(isinstance(painting, dict), path, f"{arm}: 'painting' is no object")
        for name, value in row.items():
            numbers = value if _is_list(value, 4) else [value]
            if name not in ("arm", "painting"):
                fault = f"{arm}: {name!r} is neither a number nor mean, low, high and deviation"
                need(all(map(is_number, numbers)), path, fault)
        need(any(isinstance(value, list) for value in row.values()), path, f"{arm} has no score")
        measured = all(_is_list(value, 2) and all(map(is_number, value)) for value in painting.values())
        need(measured, path, f"{arm}: 'painting' holds what is not mean and deviation")
    return content


def probe_tables(records: Sequence[Mapping[str, Any]]) -> list[ScoreTable]:
    """Frozen features: a table for each set of training and test images, without hidden layers."""
    found: dict[tuple[str, ...], list[tuple[Mapping, list[Mapping]]]] = {}
    for record in records:
        rows = [row for row in record["rows"] if row["layer"] == "pooled"]
        for test in dict.fromkeys(row["test"] for row in rows):
            key = (record["data"]["train"]["fingerprint"], test, record["data"][test]["fingerprint"])
            found.setdefault(key, []).append((record, [row for row in rows if row["test"] == test]))
    return [_probe_table(number, test, group) for number, ((_, test, _), group) in enumerate(found.items(), start=1)]


def _probe_table(number: int, test: str, group: Sequence[tuple[Mapping[str, Any], list[Mapping]]]) -> ScoreTable:
    every = [row for _, rows in group for row in rows]
    keys = _by_labels([(row["labels"], row["protocol"]) for row in every])
    found: dict[Line, str] = {}  # an anchor that several records have with the same figures is one row
    for record, rows in group:
        encoders = list(dict.fromkeys(row["encoder"] for row in rows))
        for encoder in encoders:
            cells = {(row["labels"], row["protocol"]): row for row in rows if row["encoder"] == encoder}
            figures = tuple(_probe_figure(cells[key]) if key in cells else None for key in keys)
            if encoder in record["anchors"]:
                found.setdefault(Line(encoder, figures, (ANCHOR,)), f"{encoder}, beside {record['model']}")
            else:
                found[Line(record["model"], figures, link=model_link(record["model"]))] = record["model"]
    known = Counter(line.name for line in found)
    lines = [replace(line, name=full) if known[line.name] > 1 else line for line, full in found.items()]
    source = PurePath(group[0][0]["data"][test]["source"]).name
    ranked = next((place for place, key in enumerate(keys) if key[1].startswith("linear")), 0)
    return ScoreTable(
        key=f"probe-{number}",
        menu=f"Probes, {source}",
        title=f"Probes: {source}, {test} test images",
        columns=tuple(Column(_labels(labels), protocol) for labels, protocol in keys),
        lines=ranked_lines(lines, ranked),
        ranked=ranked,
        remarks=(
            f"accuracy in %, mean ± standard deviation over seeds (up to {max(row['seeds'] for row in every)})",
            f"below each the 95 % bootstrap interval over {every[0]['n']:,} test images, {DRAWN}",
        ),
        footnotes=(ANCHOR,) if any(line.footnotes for line in lines) else (),
    )  # fmt: skip


def _probe_figure(row: Mapping[str, Any]) -> Figure:
    return Figure(100 * row["accuracy"], (100 * row["low"], 100 * row["high"]), 100 * row["spread"])


def objective_tables(records: Sequence[Mapping[str, Any]]) -> list[ScoreTable]:
    """Each study's frozen features, and what colorization and inpainting paint."""
    tables = []
    for number, record in enumerate(records, start=1):
        settings, rows = record["settings"], record["rows"]
        data = PurePath(str(settings.get("dataset") or settings.get("test_file"))).name
        said = f"{data}, {settings['images_seen']:,} images seen"
        tables.append(_objectives_table(f"objectives-{number}", said, rows))
        painting = [row for row in rows if row.get("painting")]
        if painting:
            names = list(dict.fromkeys(name for row in painting for name in row["painting"]))
            measured = [[row["painting"].get(name) for name in names] for row in painting]
            figures = [tuple(pair and Figure(pair[0], spread=pair[1]) for pair in pairs) for pairs in measured]
            lines = tuple(Line(row["arm"], numbers) for row, numbers in zip(painting, figures, strict=True))
            columns = tuple(Column("painted", name.replace("_", " "), ".3g") for name in names)
            table = ScoreTable(f"painting-{number}", f"Painted test images: {said}", columns, lines, ranked=None)
            remarks = ("mean ± standard deviation over trainings",)
            tables.append(replace(table, menu=f"Painting, {data}", remarks=remarks))
    return tables


def _objectives_table(key: str, said: str, rows: Sequence[Mapping[str, Any]]) -> ScoreTable:
    protocols = {(labels, protocol): name for row in rows for name, value in row.items() if isinstance(value, list)
                 for protocol, _, labels in [name.partition(", ")]}  # fmt: skip
    keys = _by_labels(protocols)
    costs = [name for name in ("train seconds", "memory MB") if any(name in row for row in rows)]
    columns = [Column(_labels(labels), protocol) for labels, protocol in keys]
    columns += [Column("training", name.removeprefix("train "), ",.0f", low_first=True) for name in costs]
    lines = []
    for row in rows:
        scores = [row.get(protocols[key]) for key in keys]
        figures = [None if score is None else Figure(score[0], (score[1], score[2])) for score in scores]
        figures += [Figure(row[name]) if name in row else None for name in costs]
        pretrained = "images" in row and row["arm"] != "supervised"
        lines.append(Line(row["arm"], tuple(figures), () if pretrained else (ANCHOR,)))
    ranked = next((place for place, key in enumerate(keys) if key[1].startswith("linear")), 0)
    return ScoreTable(
        key=key,
        menu=f"Objectives, {said.partition(',')[0]}",
        title=f"Vision objectives: {said}",
        columns=tuple(columns),
        lines=ranked_lines(lines, ranked),
        ranked=ranked,
        remarks=(
            "one net, the same images, as many of them seen, the same probe; accuracy in %, mean over "
            f"{max(row['seeds'] for row in rows):.0f} trainings",
            f"below each its 95 % interval over trainings and test images, {DRAWN}",
        ),
        footnotes=(ANCHOR,) if any(line.footnotes for line in lines) else (),
    )


def _by_labels(keys) -> list[tuple[str, str]]:
    """(labels, protocol) without repeats: those of one amount of labels side by side, in the order of appearance."""
    unique = list(dict.fromkeys(keys))
    amounts = list(dict.fromkeys(labels for labels, _ in unique))
    return sorted(unique, key=lambda key: amounts.index(key[0]))


def _labels(labels: str) -> str:
    return labels if labels.endswith("a class") else f"{labels} labels"


def are_objects(values: Any) -> bool:
    """Whether a JSON value is a list of objects, with at least one."""
    return isinstance(values, list) and bool(values) and all(isinstance(value, dict) for value in values)


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def need(holds: bool, path, fault: str) -> None:
    """Raises InputError: the fault of the file, unless it holds."""
    if not holds:
        raise InputError(f"{path}: {fault}")
