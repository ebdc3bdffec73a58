"""Where a local folder keeps a task's splits, and how each layout's rows become the Hub's columns.

Three layouts, in any mixture: parquet with the Hub's columns (``cola-train.parquet`` or
``cola/train-00000-of-00001.parquet``), the official GLUE download (``CoLA/train.tsv``, ``MNLI/dev_matched.tsv``), and
SuperGLUE's official JSON lines (``BoolQ/val.jsonl`` or ``BoolQ-val.jsonl.gz``). A file whose name says that it is a
part (``_subset``, ``_sample``, ``heldout_subset``, ``fewglue``) is taken where the whole is missing, and the split is
marked as a part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfssl.data.readers import visible_files
from hfssl.data.tables import Table, read_json_lines, read_parquet, read_tsv
from hfssl.errors import InputError
from hfssl.evaluation.tasks import Task

# The columns of the official TSV files, by the Hub's names; a number is a place in a file without a header.
_TSV: dict[str, dict[str, str | int]] = {
    "cola": {"sentence": 3, "label": 1},
    "sst2": {"sentence": "sentence", "label": "label"},
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    "stsb": {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"},
    "qqp": {"question1": "question1", "question2": "question2", "label": "is_duplicate"},
    "mnli": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    "qnli": {"question": "question", "sentence": "sentence", "label": "label"},
    "rte": {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"},
    "wnli": {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"},
    "ax": {"premise": "sentence1", "hypothesis": "sentence2"},
    "snli": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
}
_TSV_INDEX = {"qqp": "id"}  # the column that numbers the rows of a test file, if it is not `index`

_PARTS = ("", "_subset", "_sample")  # after a split's name in a file's name
_SUFFIXES = {"glue": (".parquet", ".tsv"), "other": (".parquet", ".tsv"), "superglue": (".parquet", ".jsonl")}


@dataclass(frozen=True)
class Found:
    """The files of a split.

    Attributes:
        paths: one, or the shards of one data set in order.
        part: why these are not the whole split, or empty.
    """

    paths: tuple[Path, ...]
    part: str = ""


def folder_files(folder: Path) -> dict[str, Path]:
    """Every data file below a folder by its path in lower case, without ``.gz``."""
    endings = (".parquet", ".tsv", ".jsonl", ".txt")
    files = visible_files(folder, lambda path: path.name.lower().removesuffix(".gz").endswith(endings))
    return {path.relative_to(folder).as_posix().lower().removesuffix(".gz"): path for path in files}


def find_split(files: dict[str, Path], task: Task, split: str) -> Found | None:
    """The files of one split, or None.

    Args:
        files: of `folder_files`.
    """
    for part in _PARTS:
        for stem in _stems(task, split):
            if paths := _with_suffix(files, task, stem + part):
                return Found(paths, f"a part of the split ({paths[0].name})" if part else "")
    if split == "train":
        for stem in (f"{task.title}-fewglue-train", f"{task.title}/fewglue-train"):
            if paths := _with_suffix(files, task, stem):
                return Found(paths, f"a part of the split ({paths[0].name})")
    if split in task.dev_splits[:1]:
        for stem in (f"{task.name}-heldout_subset", f"{task.title}-fewglue-dev32"):
            if paths := _with_suffix(files, task, stem):
                return Found(paths, f"held out of train, not the official dev set ({paths[0].name})")
    return None


def _stems(task: Task, split: str) -> list[str]:
    """File names without suffix that may hold a split, best first."""
    first, _, second = split.partition("_")
    dev = {"validation": ("val",) if task.suite == "superglue" else ("dev",)}.get(first, ())
    stems = []
    for word in (first, *dev):
        name = word + (f"_{second}" if second else "")
        stems += [f"{task.name}-{name}", f"{task.name}/{name}", f"{task.title}-{name}", f"{task.title}/{name}"]
        stems.append(f"{task.hub_config or task.name}/{name}/0000")  # the Hub's conversion to parquet
    if task.is_diagnostic:  # the download has one file each: AX/AX.tsv, diagnostic/diagnostic.tsv, AX-b/AX-b.jsonl
        stems += [f"{task.title}/{task.title}", "diagnostic/diagnostic" if task.name == "ax" else task.title]
    return [stem.lower() for stem in stems]


def _with_suffix(files: dict[str, Path], task: Task, stem: str) -> tuple[Path, ...]:
    stem = stem.lower()
    for suffix in _SUFFIXES[task.suite]:
        if stem + suffix in files:
            return (files[stem + suffix],)
    shard = re.compile(re.escape(stem) + r"-\d+-of-(\d+)\.parquet")
    shards = sorted(name for name in files if shard.fullmatch(name))
    if shards and len(shards) != int(shard.fullmatch(shards[0])[1]):
        raise InputError(f"{len(shards)} of {int(shard.fullmatch(shards[0])[1])} shards are there: {', '.join(shards)}")
    return tuple(files[name] for name in shards)


def read_split(found: Found, task: Task, split: str) -> Table:
    """The rows of a split in the Hub's columns. Labels of a test split are not read (but AX-b's and AX-g's).

    Raises:
        InputError: damaged files, or another task's.
    """
    labelled = not split.startswith("test") or task.labelled_test
    path = found.paths[0]
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return read_parquet(found.paths, *wanted_columns(task, labelled))
    if name.endswith(".tsv"):
        return _read_tsv(path, task, split, labelled)
    rows, lines = read_json_lines(path)
    flat, numbers = _flattened(rows, lines, task, str(path))
    required, optional = wanted_columns(task, labelled)
    columns = {}
    for column in (*required, *optional):
        missing = next((number for number, row in zip(numbers, flat, strict=True) if column not in row), None)
        if missing is None:
            columns[column] = [row[column] for row in flat]
        elif column in required:
            raise InputError(f"{path}:{missing}: no {column!r}: is it another task's file, or unlabelled?")
    return Table(columns, str(path), numbers)


# What a task needs beside its texts, by its kind.
_MORE_COLUMNS = {
    "choice": ("choice1", "choice2"),
    "words": ("word", "start1", "end1", "start2", "end2"),
    "coreference": ("span1_index", "span1_text", "span2_index", "span2_text"),
    "entities": ("entities",),
}


def wanted_columns(task: Task, labelled: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The Hub's columns that are read and those that are read where they are."""
    label = ("answers" if task.kind == "entities" else "label",) if labelled else ()
    columns = (*task.columns, *_MORE_COLUMNS.get(task.kind, ()), *label)
    # What belongs together stands in the idx of MultiRC and ReCoRD.
    return ((*columns, "idx"), ()) if task.kind in ("answers", "entities") else (columns, ("idx",))


def _read_tsv(path: Path, task: Task, split: str, labelled: bool) -> Table:
    wanted = dict(_TSV[task.name])
    header = not (task.name == "cola" and labelled)
    if not labelled:
        wanted.pop("label", None)
        if task.name == "cola":
            wanted = {"sentence": "sentence"}
        wanted["idx"] = _TSV_INDEX.get(task.name, "index")
    if task.name == "snli" and not labelled:
        wanted.pop("idx")  # it has no submission
    table = read_tsv(path, wanted, header, skip_short=task.name == "qqp" and labelled)
    if "idx" in table.columns:
        table.columns["idx"] = [_integer(table, row, value) for row, value in enumerate(table.columns["idx"])]
    return table


def _integer(table: Table, row: int, value: str) -> int:
    if not value.isdecimal():
        raise InputError(f"{table.place(row)}: the index is {value!r}, no number")
    return int(value)


def _flattened(rows: Sequence[dict], lines: Sequence[int], task: Task, path: str) -> tuple[list[dict], list[int]]:
    """SuperGLUE's nested lines as flat rows, and the line of each."""
    flat, numbers = [], []
    for row, line in zip(rows, lines, strict=True):
        try:
            made = _rows_of_line(row, task)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise InputError(f"{path}:{line}: not a line of {task.title} ({type(error).__name__}: {error})") from error
        version = row.get("version")
        if task.name == "multirc" and version is not None and str(version) != task.data_version:
            raise InputError(f"{path}:{line}: MultiRC version {version}; the benchmark's is {task.data_version}")
        flat += made
        numbers += [line] * len(made)
    return flat, numbers


def _rows_of_line(row: dict, task: Task) -> list[dict]:
    if task.name == "multirc":
        return [
            {
                "paragraph": row["passage"]["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                **({"label": answer["label"]} if "label" in answer else {}),
            }
            for question in row["passage"]["questions"]
            for answer in question["answers"]
        ]
    if task.name == "record":
        text = row["passage"]["text"]
        # An entity's end is inclusive.
        names = sorted({text[entity["start"] : entity["end"] + 1] for entity in row["passage"]["entities"]})
        return [
            {
                "passage": text,
                "query": question["query"],
                "entities": names,
                "idx": {"passage": row["idx"], "query": question["idx"]},
                **({"answers": [answer["text"] for answer in question["answers"]]} if question.get("answers") else {}),
            }
            for question in row["qas"]
        ]
    if task.name == "wsc":
        return [{**row, **row["target"]}]
    if task.name == "axb":
        return [{**row, "idx": int(row["idx"])}]  # strings in the official file
    return [row]
