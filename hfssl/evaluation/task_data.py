"""A task's data in one form, from the Hub, a local folder or ``builtin:toyglue``.

    train, dev = (load_split(task, split, "data/glue") for split in ("train", "validation"))
    dev.texts[0][3], dev.labels[3], dev.is_whole

A split that is not whole says so in `SplitData.part`, which every table carries on; synthetic data says so in
`SplitData.synthetic` and is never averaged with real. Labels of test splits are not read.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfssl.data.sources import load_hub_dataset
from hfssl.data.tables import Table
from hfssl.data.toyglue import TOYGLUE, toy_counts, toy_table
from hfssl.errors import InputError, nearest
from hfssl.evaluation.layouts import find_split, folder_files, read_split, wanted_columns
from hfssl.evaluation.tasks import SUITES, Task, suite_tasks

COPA_ASKS = ("cause", "effect")
Span = tuple[int, int]  # of characters, the end exclusive


@dataclass
class SplitData:
    """One split of a task, as columns; row i is `texts[j][i]`, `labels[i]`, `idx[i]`, ...

    Attributes:
        texts: a list for each text column of the task (COPA: premise and ``cause`` or ``effect``; MultiRC: paragraph,
            question, answer; ReCoRD: passage with joined highlights, query with ``@placeholder``).
        labels: label strings, or floats (STS-B), or None where there are none to read (test; ReCoRD has `answers`).
        idx: what a submission calls each row: a number; MultiRC's (paragraph, question, answer); ReCoRD's query.
        groups: rows that are judged together: MultiRC's (paragraph, question), ReCoRD's passage.
        spans: WiC: of the word in each sentence; WSC: of the name and of the pronoun, both in the one text.
        words: WiC's word in its base form.
        candidates: COPA's two choices, ReCoRD's entities.
        answers: ReCoRD's right entities.
        count: official number of rows (of the toy task, if it is one).
        part: why the split is not whole, or empty.
    """

    task: Task
    split: str
    texts: tuple[list[str], ...]
    labels: list[str] | list[float] | None
    idx: list[int] | list[tuple[int, ...]]
    source: str
    count: int
    groups: list[tuple[int, ...]] | None = None
    spans: list[tuple[Span, Span]] | None = None
    words: list[str] | None = None
    candidates: list[tuple[str, ...]] | None = None
    answers: list[tuple[str, ...]] | None = None
    part: str = ""
    synthetic: bool = False
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def is_whole(self) -> bool:
        return not self.part

    @property
    def note(self) -> str:
        """What a table must say beside a score on it, or empty."""
        notes = ["synthetic"] if self.synthetic else []
        if self.part:
            notes.append(f"{len(self):,} rows of {self.count:,}: {self.part}")
        return "; ".join(notes)

    def select(self, rows: Sequence[int], why: str) -> SplitData:
        """Some of the rows, marked as a part."""
        per_row = {}
        for name in ("labels", "idx", "groups", "spans", "words", "candidates", "answers"):
            column = getattr(self, name)
            per_row[name] = None if column is None else [column[row] for row in rows]
        texts = tuple([column[row] for row in rows] for column in self.texts)
        return dataclasses.replace(self, texts=texts, part="; ".join(filter(None, (self.part, why))), **per_row)

    def fingerprint(self) -> str:
        """A hash of the rows: texts, labels, numbers, spans and candidates, and of the task's version."""
        digest = hashlib.blake2b(f"{self.task.key} {self.task.version} {self.split}".encode(), digest_size=16)
        columns = (self.labels, self.idx, self.spans, self.words, self.candidates, self.answers)
        for column in (*self.texts, *columns):
            for value in column or ():
                data = (value if isinstance(value, str) else repr(value)).encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "big") + data)
            digest.update(b"\0next column")
        return digest.hexdigest()


def load_task(task: Task, source: str = "hub", splits: Sequence[str] | None = None) -> dict[str, SplitData]:
    """The splits of a task by name.

    Args:
        source: ``"hub"`` (the task's own data set), a local folder, another Hub id with the same columns, or
            ``"builtin:toyglue"``.
        splits: which; without it all, of which a missing test split is left out and any other is an error.

    Raises:
        InputError: a missing split (with what was found), a wrong number of rows, an unknown label, damaged files.
    """
    loaded = {}
    for split in task.counts if splits is None else splits:
        data = load_split(task, split, source, required=splits is not None or not split.startswith("test"))
        if data is not None:
            loaded[split] = data
    return loaded


def load_split(task: Task, split: str, source: str = "hub", required: bool = True) -> SplitData | None:
    """One split of a task, or None if it is not there and not required. Errors as `load_task`."""
    if split not in task.counts:
        raise InputError(f"{task.title} has no split {split!r}: {', '.join(task.counts)}{nearest(split, task.counts)}")
    if source.startswith("builtin:"):
        return _toy(task, split, source)
    folder = Path(os.path.expanduser(source))
    if not folder.exists():
        if source != "hub" and (source.startswith((".", "/", "~")) or source.count("/") != 1):
            raise InputError(f"no such folder: {source!r}")
        return _from_hub(task, split, None if source == "hub" else source)
    if not folder.is_dir():
        raise InputError(f"{source!r} is a file: name the folder that holds the tasks")
    files = folder_files(folder)
    found = find_split(files, task, split)
    if found is None:
        if not required:
            return None
        raise InputError(_missing(task, split, folder, files))
    data = to_split(read_split(found, task, split), task, split, str(folder))
    return _counted(data, found.part, found.paths[0].name)


def _missing(task: Task, split: str, folder: Path, files: dict[str, Path]) -> str:
    own = [name for name in files if re.match(rf"({task.name}|{re.escape(task.title.lower())})[-/._]", name)]
    there = own or [*files]
    more = f" and {len(there) - 6:,} more" if len(there) > 6 else ""
    hint = "" if own else _elsewhere(task, split, folder, files)
    if task.name == "mrpc" and own:
        hint = "; download_glue_data.py writes no MRPC dev.tsv when its dev_ids.tsv cannot be fetched"
    found = ", ".join(there[:6]) or "nothing"
    return f"no {split} split of {task.title} in {str(folder)!r}; found {found}{more}{hint}"


def _elsewhere(task: Task, split: str, folder: Path, files: dict[str, Path]) -> str:
    """Whether the split lies in a folder further down, or the data is the other suite's, as the end of a message."""
    inside = {parent for path in files.values() for parent in path.relative_to(folder).parents[:-1]}
    for parent in sorted(inside, key=lambda parent: (parent.name.lower() != task.suite, parent)):
        start = parent.as_posix().lower() + "/"
        below = {name.removeprefix(start): path for name, path in files.items() if name.startswith(start)}
        if find_split(below, task, split):
            return f"; it lies in {str(folder / parent)!r}: name that folder"
    for suite in SUITES:
        others = [other for name, other in suite_tasks(suite).items() if "train" in other.counts and name != "rte"]
        if suite != task.suite and any(find_split(files, other, "train") for other in others):
            return f"; this is the data of {suite}: hfssl {suite}"
    return ""


def _counted(data: SplitData, part: str, file: str = "") -> SplitData:
    """Refuses another number of rows than the official one, except in a file whose name says that it is a part."""
    if part:
        return dataclasses.replace(data, part=part)
    if len(data) != data.count:
        hint = {("qnli", 5732): " (this is QNLI v1)"}.get((data.task.name, len(data)), "")
        raise InputError(
            f"{data.task.title} {data.split} has {len(data):,} rows, expected {data.count:,}{hint}: {data.source}; "
            f"a part of it must say so in its file's name, such as {_part_name(data, file)}"
        )
    whole = range(data.count)
    if data.split.startswith("test") and data.task.kind not in ("answers", "entities") and set(data.idx) != {*whole}:
        strange = sorted(set(data.idx) - {*whole}, key=str)
        raise InputError(f"{data.source}: the idx of {data.task.title} {data.split} are not 0 to {data.count - 1}: "
                         f"{', '.join(map(repr, strange[:3]))}; the server goes by them")  # fmt: skip
    return data


def _part_name(data: SplitData, file: str) -> str:
    """What the file would be called as a part; of shards, and of the Hub's, what a parquet file would be called."""
    stem, dot, suffix = file.partition(".")
    return (
        f"{data.task.name}-{data.split}_subset.parquet" if suffix in ("", "parquet") else f"{stem}_subset{dot}{suffix}"
    )


def _toy(task: Task, split: str, source: str) -> SplitData:
    if source != TOYGLUE or not toy_counts(task.key):
        raise InputError(f"no such builtin task data: {source!r} for {task.title}; there is {TOYGLUE} for both suites")
    data = to_split(toy_table(task.key, split), task, split, TOYGLUE)
    return dataclasses.replace(data, synthetic=True, count=len(data))


def _from_hub(task: Task, split: str, name: str | None) -> SplitData:
    """By `datasets`, with the class names of the data set itself."""
    labelled = not split.startswith("test") or task.labelled_test
    required, optional = wanted_columns(task, labelled)
    instead = f"give --data_dir FOLDER or --data_dir {TOYGLUE}"
    if name is None and task.hub_revision:
        # The conversion has a folder for each configuration and no metadata that names them.
        where = {"data_dir": task.hub_config, "revision": task.hub_revision}
        dataset = load_hub_dataset(task.hub, None, split, instead=instead, **where)
    else:
        dataset = load_hub_dataset(name or task.hub, task.hub_config, split, instead=instead)
    source = f"{name or task.hub} (Hub, {task.hub_config or 'default'}, {split})"
    for column in required:
        if column not in dataset.column_names:
            raise InputError(f"{source} has no column {column!r} but {', '.join(dataset.column_names)}")
    present = [*required, *(column for column in optional if column in dataset.column_names)]
    feature = dataset.features.get("label")
    names = tuple(getattr(feature, "names", None) or ()) or None
    columns = {column: dataset[column][:] for column in present}
    data = to_split(Table(columns, source, label_names=names), task, split, source)
    return _counted(data, "")


def to_split(table: Table, task: Task, split: str, source: str) -> SplitData:
    """Rows in the Hub's columns as the common form.

    Raises:
        InputError: an unknown label (row and value), a text or span that is none.
    """
    if task.suite == "other" and "label" in table.columns:
        table = _with_gold(table)
    texts = tuple(table.columns[name] for name in task.columns)
    for name, column in zip(task.columns, texts, strict=True):
        bad = next((row for row, text in enumerate(column) if not isinstance(text, str)), None)
        if bad is not None:
            raise InputError(f"{table.place(bad)}: {name!r} is {type(column[bad]).__name__}, not text")
    labels = _labels(table, task) if "label" in table.columns else None
    numbers = table.columns.get("idx") or list(range(len(table)))
    data = SplitData(task, split, texts, labels, numbers, source, task.counts[split], left_out=table.left_out)
    _ADD.get(task.kind, lambda data, table: None)(data, table)
    if task.name == "axg":
        _check_pairs(data, table)
    if split.startswith("test") and len(set(data.idx)) != len(data.idx):
        raise InputError(f"{table.path}: two rows have the same idx; a submission could not tell them apart")
    return data


def _check_pairs(data: SplitData, table: Table) -> None:
    """AX-g's rows come in pairs with one hypothesis, which gender parity compares."""
    hypotheses = data.texts[1]
    for row in range(0, len(hypotheses), 2):
        if row + 1 == len(hypotheses) or hypotheses[row] != hypotheses[row + 1]:
            raise InputError(
                f"{table.place(row)}: no pair with the row after it; AX-g's rows come two by two, with one hypothesis"
            )


def _with_gold(table: Table) -> Table:
    """SNLI without the rows that have no gold label."""
    kept = [row for row, label in enumerate(table.columns["label"]) if label not in (-1, "-", None)]
    columns = {name: [column[row] for row in kept] for name, column in table.columns.items()}
    lines = [table.lines[row] for row in kept] if table.lines else []
    return dataclasses.replace(table, columns=columns, lines=lines, left_out=len(table) - len(kept))


def _labels(table: Table, task: Task) -> list[str] | list[float]:
    """Labels as strings: integers by the file's class names or else the Hub's order; strings, booleans as written."""
    if task.kind == "regression":
        return [_score(table, row, value) for row, value in enumerate(table.columns["label"])]
    names = table.label_names or task.labels
    if set(names) != set(task.labels):
        known = ", ".join(task.labels)
        raise InputError(f"{table.path}: its classes are {', '.join(names)}, those of {task.title} are {known}")
    meanings: dict[object, str] = {label: label for label in task.labels}
    meanings |= {text: label for text, label in zip(task.written, task.labels, strict=True) if isinstance(text, str)}
    by_type = {str: meanings, int: dict(enumerate(names)), bool: {value: str(value) for value in (False, True)}}
    labels = []
    for row, value in enumerate(table.columns["label"]):
        label = by_type.get(type(value), {}).get(value)
        if label not in task.labels:
            raise InputError(f"{table.place(row)}: {value!r} is no label of {task.title} ({', '.join(task.labels)})")
        labels.append(label)
    return labels


def _score(table: Table, row: int, value: object) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = -1.0
    if not 0 <= score <= 5:
        raise InputError(f"{table.place(row)}: the similarity is {value!r}, not a number from 0 to 5")
    return score


def _add_choices(data: SplitData, table: Table) -> None:
    _check_each(table, "question", lambda value: value in COPA_ASKS, f"none of {', '.join(COPA_ASKS)}")
    for name in ("choice1", "choice2"):
        _check_each(table, name, lambda value: isinstance(value, str), "no text")
    data.candidates = list(zip(table.columns["choice1"], table.columns["choice2"], strict=True))


def _check_each(table: Table, name: str, is_good: Callable[[Any], bool], what: str) -> None:
    """Raises an InputError that names the first row whose value in a column is not good."""
    for row, value in enumerate(table.columns[name]):
        if not is_good(value):
            raise InputError(f"{table.place(row)}: {name!r} is {value!r}, {what}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _add_word_spans(data: SplitData, table: Table) -> None:
    columns = table.columns
    for name in ("start1", "end1", "start2", "end2"):
        _check_each(table, name, _is_count, "no place in a text")
    data.words, data.spans = columns["word"], []
    for row, numbers in enumerate(zip(*(columns[name] for name in ("start1", "end1", "start2", "end2")), strict=True)):
        first, second = numbers[:2], numbers[2:]
        for (start, end), text in zip((first, second), (data.texts[0][row], data.texts[1][row]), strict=True):
            if not 0 <= start < end <= len(text):
                raise InputError(f"{table.place(row)}: the word at {start}:{end} lies outside its sentence")
        data.spans.append((first, second))


def _add_coreference_spans(data: SplitData, table: Table) -> None:
    names = ("span1_index", "span1_text", "span2_index", "span2_text")
    _check_each(table, "text", lambda value: bool(value.strip()), "without a word")
    for place, words in zip(names[::2], names[1::2], strict=True):
        _check_each(table, place, _is_count, "no number of a word")
        _check_each(table, words, lambda value: isinstance(value, str), "no text")
    data.spans = []
    for text, *given in zip(data.texts[0], *(table.columns[name] for name in names), strict=True):
        data.spans.append((word_span(text, given[0], given[1]), word_span(text, given[2], given[3])))


def word_span(text: str, index: int, words: str) -> Span:
    """The characters of a span that is given by its first word's number and its text.

    The text is not always a part of the sentence as it stands: capitals, line ends, a full stop and a wrong number
    occur in WSC. The nearest place with the same words in any case is taken; else as many words from the number on.
    """
    places = [match.span() for match in re.finditer(r"\S+", text)]
    start = places[min(max(index, 0), len(places) - 1)][0]
    wanted = r"\s+".join(re.escape(word) for word in words.rstrip(" .").split())
    found = [match.span() for match in re.finditer(rf"(?<!\w){wanted}(?!\w)", text, re.IGNORECASE)]
    if found:
        return min(found, key=lambda span: abs(span[0] - start))
    last = places[min(index + max(len(words.split()), 1), len(places)) - 1]
    return start, max(start + len(text[start : last[1]].rstrip(" .,;:!?")), start + 1)


def _add_answer_groups(data: SplitData, table: Table) -> None:
    parts = ("paragraph", "question", "answer")
    _check_each(table, "idx", functools.partial(_numbers, parts=parts), f"not the numbers {', '.join(parts)}")
    rows = [tuple(idx[part] for part in parts) for idx in table.columns["idx"]]
    data.idx, data.groups = rows, [row[:2] for row in rows]


def _numbers(value: Any, parts: Sequence[str]) -> bool:
    return isinstance(value, Mapping) and all(_is_count(value.get(part)) for part in parts)


def _add_entities(data: SplitData, table: Table) -> None:
    columns, parts = table.columns, ("passage", "query")
    _check_each(table, "idx", functools.partial(_numbers, parts=parts), f"not the numbers {', '.join(parts)}")
    passages, queries = data.texts
    data.texts = ([joined_highlights(text) for text in passages], queries)
    data.idx, data.groups = [idx["query"] for idx in columns["idx"]], [(idx["passage"],) for idx in columns["idx"]]
    data.candidates = [tuple(dict.fromkeys(names)) for names in columns["entities"]]
    if "answers" in columns:
        data.answers = [tuple(dict.fromkeys(names)) for names in columns["answers"]]


def joined_highlights(passage: str) -> str:
    """ReCoRD's passage as running text: its ``@highlight`` lines become sentences."""
    return re.sub(r"(\S)?\s*\n@highlight\n\s*", lambda match: _ended(match[1] or ""), passage)


def _ended(last: str) -> str:
    return f"{last} " if last in ".?!\"'" else f"{last}. "


_ADD = {
    "choice": _add_choices,
    "words": _add_word_spans,
    "coreference": _add_coreference_spans,
    "answers": _add_answer_groups,
    "entities": _add_entities,
}
