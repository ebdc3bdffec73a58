"""Checks a submission for GLUE or SuperGLUE, whoever wrote it, before the server does: it takes few a month.

    report = validate_submission("submission.zip", data_dir="data/glue")
    report.errors, report.warnings

Names, header, line ends, counts, the set of indices, the label vocabulary, ranges, MultiRC's tree, ReCoRD's answers
among the entities; constant predictions, and predictions whose labels look exchanged, are flagged. Indices come from
the test data in `data_dir`, else from the official counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfssl.data.toyglue import TOYGLUE, toy_counts
from hfssl.errors import InputError, nearest
from hfssl.evaluation.archives import read_archive
from hfssl.evaluation.baselines import Predict
from hfssl.evaluation.prediction_files import Found, printable, read_jsonl, read_multirc, read_tsv
from hfssl.evaluation.relabelling import can_be_judged, looks_relabelled, witness
from hfssl.evaluation.submission import NOTE, SYNTHETIC, files_of
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import SUITES, TASKS, Task

# MultiRC's test set: paragraphs, questions, answers, each numbered from 0 (version 1.1).
MULTIRC_TEST = (166, 1820, 9693)


@dataclass
class Report:
    """What was found in a submission.

    Attributes:
        suite: by its files' names.
        rows: predictions by file.
        against: by file, where its indices were checked: the data's folder, or the official count.
        errors: what a server refuses or scores wrongly, each with file and line where there is one.
        warnings: what it takes but you should look at.
        synthetic: checked against synthetic data, so that no server takes it.
    """

    path: str
    suite: str
    rows: dict[str, int] = field(default_factory=dict)
    against: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    synthetic: bool = False

    @property
    def is_valid(self) -> bool:
        return not self.errors


def validate_submission(path: str | Path, data_dir: str | None = None) -> Report:
    """Checks a zip.

    Args:
        data_dir: a folder, or ``builtin:toyglue``, with the test data: its rows are what must be predicted. With
            training data beside it, predictions whose labels look exchanged are found too.

    Raises:
        InputError: the zip cannot be read safely, is of synthetic data (`data_dir` is not), or holds no predictions.
    """
    members, comment = read_archive(path)
    suite = _suite(members, Path(path).name)
    report = Report(str(path), suite, synthetic=data_dir is not None and data_dir.startswith("builtin:"))
    expected = files_of(suite)
    if not report.synthetic:
        _refuse_synthetic(members, comment, suite, Path(path).name)
    _check_names(members, expected, report)
    witnesses = _Witnesses(data_dir)
    for name, (task, split) in expected.items():
        if name not in members:
            continue
        test = _test_data(task, split, data_dir)
        report.against[name] = "official count" if test is None else str(data_dir)
        found = _read_file(name, members[name], task, test, task.counts[split])
        report.rows[name] = len(found.values)
        report.errors += [f"{name}{problem}" for problem in found.errors]
        report.warnings += [f"{name}{problem}" for problem in found.warnings]
        _flag_constant(name, found, task, report)
        witnesses.flag(name, found, task, test, report)
    if data_dir is not None and "official count" in report.against.values():
        unchecked = [name for name, against in report.against.items() if against == "official count"]
        report.warnings.append(f"{data_dir} has no whole test data for {', '.join(unchecked)}: official counts alone")
    return report


def _suite(members: Iterable[str], name: str) -> str:
    """By the names of the files, wherever in the zip they lie."""
    bases = {member.rsplit("/", 1)[-1].lower() for member in members}
    matches = {suite: sum(file.lower() in bases for file in files_of(suite)) for suite in SUITES}
    suite = max(matches, key=lambda suite: matches[suite])
    if not matches[suite]:
        there = ", ".join(map(printable, sorted(members)[:8])) or "nothing"
        raise InputError(f"{name} holds {there}: no prediction file of GLUE (CoLA.tsv) or SuperGLUE (BoolQ.jsonl)")
    return suite


def _refuse_synthetic(members: dict, comment: str, suite: str, name: str) -> None:
    """A toy submission is only good against the toy data: by its comment, or since every file has the toy's length."""
    lengths = {}
    for file, (task, split) in files_of(suite).items():
        if file in members and task.kind != "answers":
            lengths[file] = members[file].count(b"\n") - (suite == "glue") == toy_counts(task.key)[split]
    if SYNTHETIC in comment or (len(lengths) > 3 and all(lengths.values())):
        raise InputError(f"{name} is of synthetic data, which no server takes; to check it: --data_dir {TOYGLUE}")


def _check_names(members: dict[str, bytes], expected: dict[str, Any], report: Report) -> None:
    note = members.get(NOTE, b"").decode("utf-8", "replace").splitlines()[1:]
    whys = {name: why for name, _, why in (line.partition(": ") for line in note) if name not in members}
    for name in members:
        if name in expected:
            continue
        base = name.rsplit("/", 1)[-1]
        if name == NOTE:
            others = [line for line in note if line.partition(": ")[0] not in expected.keys() & whys.keys()]
            report.errors.append("incomplete: " + ("; ".join(map(printable, others[:5])) or f"{NOTE} says so"))
        elif base in expected:
            report.errors.append(f"{printable(name)}: lies in a folder; zip the files themselves")
        else:
            spelt = [known for known in expected if known.lower() == base.lower()]
            hint = f"; it must be called {spelt[0]}" if spelt else nearest(base, expected, 1)
            report.errors.append(f"{printable(name)}: no file of {report.suite}{hint}")
    for name in expected:
        if name not in members:
            report.errors.append(f"{name}: missing" + (f" ({printable(whys[name])})" if name in whys else ""))


def _test_data(task: Task, split: str, data_dir: str | None) -> SplitData | None:
    """The test split in `data_dir`; a part of one is no measure of a submission."""
    data = None if data_dir is None else load_split(task, split, data_dir, required=False)
    return data if data is not None and data.is_whole else None


def _read_file(name: str, content: bytes, task: Task, test: SplitData | None, count: int) -> Found:
    if name.endswith(".tsv"):
        return read_tsv(content, task, set(range(count)) if test is None else set(test.idx))
    if task.kind == "answers":
        return read_multirc(content, task, MULTIRC_TEST if test is None else set(test.idx))
    entities = None
    if task.kind == "entities" and test is not None:
        entities = dict(zip(test.idx, test.candidates, strict=True))
    return read_jsonl(content, task, set(range(count)) if test is None else set(test.idx), entities)


def _flag_constant(name: str, found: Found, task: Task, report: Report) -> None:
    values = list(found.values.values())
    if len(values) > 1 and len(set(values)) == 1:
        allowed = "; WNLI's majority class is a usual choice" if task.name == "wnli" else ""
        report.warnings.append(f"{name}: constant: all {len(values):,} predictions are {values[0]!r}{allowed}")


class _Witnesses:
    """Looks for exchanged labels, with one bag-of-words model a training set."""

    def __init__(self, data_dir: str | None):
        self.data_dir = data_dir
        self.models: dict[str, Predict | None] = {}

    def flag(self, name: str, found: Found, task: Task, test: SplitData | None, report: Report) -> None:
        whole = test is not None and set(found.values) == set(test.idx)
        if (
            not whole or not can_be_judged(task) or len(set(found.values.values())) < 2
        ):  # a constant has its own warning
            return
        source = TASKS[f"{task.suite}/{task.model_of or task.name}"]
        if source.key not in self.models:
            train = load_split(source, "train", self.data_dir, required=False)
            self.models[source.key] = None if train is None else witness(train)
        predict = self.models[source.key]
        if predict and (message := looks_relabelled(test, [found.values[index] for index in test.idx], predict)):
            report.warnings.append(f"{name}: {message}")


def report_table(report: Report):
    """A rich table with a line for each file."""
    from rich.table import Table

    table = Table(title=f"{report.path} ({report.suite})", title_justify="left")
    for column in ("file", "rows", "checked against", "errors", "warnings"):
        table.add_column(column, justify="right" if column in ("rows", "errors", "warnings") else "left")
    for name in files_of(report.suite):
        errors, warnings = (
            sum(line.startswith(f"{name}:") for line in lines) for lines in (report.errors, report.warnings)
        )
        table.add_row(name, f"{report.rows.get(name, 0):,}", report.against.get(name, ""), str(errors), str(warnings))
    return table
