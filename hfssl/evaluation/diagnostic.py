"""AX by phenomenon: GLUE's diagnostic set with labels and tags, from a ``diagnostic-full.tsv`` that the user supplies.

The Hub's AX has no labels; the file with them is on the benchmark's page. Its columns: Lexical Semantics,
Predicate-Argument Structure, Logic, Knowledge, Domain, Premise, Hypothesis, Label. R3 for each tag as in Wang et al.
2018, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hfssl.data.tables import Table, read_tsv
from hfssl.errors import InputError
from hfssl.evaluation.metrics import matthews_correlation
from hfssl.evaluation.task_data import SplitData, to_split
from hfssl.evaluation.tasks import TASKS

CATEGORIES = ("Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge")


def load_diagnostic(path: str | Path) -> tuple[SplitData, list[dict[str, tuple[str, ...]]]]:
    """AX with labels, and for each row its tags by category.

    Raises:
        InputError: no such file, a missing column, an unknown label, or another number of rows than 1,104.
    """
    task, path = TASKS["glue/ax"], Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {str(path)!r}; the tagged diagnostic set is diagnostic-full.tsv")
    wanted = {"premise": "Premise", "hypothesis": "Hypothesis", "label": "Label", **{name: name for name in CATEGORIES}}
    table = read_tsv(path, wanted)  # type: ignore[arg-type]
    columns = {name: table.columns[name] for name in ("premise", "hypothesis", "label")}
    data = to_split(Table(columns, table.path, table.lines), task, "test", str(path))
    if len(data) != data.count:
        raise InputError(f"{str(path)!r} has {len(data):,} rows, expected {data.count:,}")
    rows = zip(*(table.columns[name] for name in CATEGORIES), strict=True)
    return data, [dict(zip(CATEGORIES, map(_tags, cells), strict=True)) for cells in rows]


def _tags(cell: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in cell.split(";") if tag.strip())


def scores_by_tag(
    data: SplitData, tags: Sequence[dict[str, tuple[str, ...]]], predictions: Sequence[str]
) -> list[dict[str, str | int | float]]:
    """R3 for each category and tag, with its number of rows: ``{"category", "tag", "rows", "score"}``.

    Args:
        predictions: label strings of the MNLI model, in the order of `data`.
    """
    table = []
    for category in CATEGORIES:
        present = sorted({tag for row in tags for tag in row[category]})
        for tag in ("any", *present) if present else ():
            chosen = [i for i, row in enumerate(tags) if (row[category] if tag == "any" else tag in row[category])]
            score = matthews_correlation([predictions[i] for i in chosen], [data.labels[i] for i in chosen])
            table.append({"category": category, "tag": tag, "rows": len(chosen), "score": score})
    return table
