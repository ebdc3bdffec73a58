"""Writes what gluebenchmark.com and super.gluebenchmark.com take: one zip, its files at the root.

GLUE: eleven TSV files with the header ``index<TAB>prediction``, index the row of the test file, line feeds. SuperGLUE:
ten files of JSON lines. Label strings are the server's (``0``/``1`` for CoLA, ``entailment`` for RTE, integers for
COPA), whatever the classes are called elsewhere. Where test data or predictions are missing the zip is called
``submission-incomplete.zip`` and carries INCOMPLETE.txt with what is missing, so that no server takes it by accident.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hfssl import __version__
from hfssl.errors import InputError
from hfssl.evaluation.metrics import problems
from hfssl.evaluation.scoring import Predictions, check_predictions
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task, suite_tasks
from hfssl.files import write_whole

HEADER = "index\tprediction"
COMPLETE, INCOMPLETE = "submission.zip", "submission-incomplete.zip"
NOTE = "INCOMPLETE.txt"
SYNTHETIC = "synthetic data"  # in the zip's comment
LIMITS = "the server takes few submissions a day and a month: validate before you upload"


@dataclass(frozen=True)
class Submission:
    """What was written.

    Attributes:
        path: of the zip.
        rows: predictions by file name.
        missing: what the server would miss, in words; empty if the zip is complete.
        notes: what to look at: constant predictions, synthetic data.
    """

    path: Path
    rows: dict[str, int]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return not self.missing


def write_submission(
    suite: str,
    data: Mapping[str, Mapping[str, SplitData]],
    predictions: Mapping[str, Mapping[str, Predictions]],
    folder: str | Path,
) -> Submission:
    """Writes the zip for a suite's board into a folder, and removes one that an earlier run left there.

    Args:
        data: by task and split, the test splits (others are not looked at).
        predictions: by task and test split, label strings of the task (STS-B: numbers; ReCoRD: names) in the order of
            the split's rows. Those of AX come from the MNLI model, of AX-b and AX-g from the RTE model.

    Raises:
        InputError: predictions that are no labels of the task, of another number, or not finite.
    """
    files: dict[str, str] = {}
    rows: dict[str, int] = {}
    missing: list[str] = []
    notes: list[str] = []
    synthetic = False
    for task in suite_tasks(suite).values():
        for split, name in task.files.items():
            test, found = data.get(task.name, {}).get(split), predictions.get(task.name, {}).get(split)
            if test is None or found is None:
                why = "no test data" if test is None else "no predictions"
                missing.append(f"{name}: {why if (task.model_of or task.name) in data else 'not among the tasks'}")
                continue
            files[name] = render(test, found)
            rows[name] = len(test)
            synthetic |= test.synthetic
            if not test.is_whole:
                missing.append(f"{name}: {len(test):,} of {test.count:,} rows")
            notes += [f"{name}: {problem}" for problem in problems(list(found), task.metrics)]
    if synthetic:
        notes.append("of synthetic data: no server takes it")
    if missing:
        files[NOTE] = "This submission is incomplete.\n" + "".join(f"{line}\n" for line in missing)
    path = _write(Path(folder), files, INCOMPLETE if missing else COMPLETE, synthetic)
    return Submission(path, rows, tuple(missing), tuple(notes))


def render(data: SplitData, predictions: Predictions) -> str:
    """The text of one task's file."""
    check_predictions(data, predictions)
    if data.task.suite == "glue":
        values = [_cell(data, row, value) for row, value in enumerate(predictions)]
        lines = sorted(zip(data.idx, values, strict=True))
        return HEADER + "\n" + "".join(f"{index}\t{value}\n" for index, value in lines)
    if data.task.kind == "answers":
        objects = _multirc_tree(data, predictions)
    else:
        _check_entities(data, predictions)
        written = dict(zip(data.task.labels, data.task.written, strict=True))
        rows = sorted(zip(data.idx, predictions, strict=True))
        objects = [{"idx": idx, "label": written.get(label, label)} for idx, label in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in objects)


def _cell(data: SplitData, row: int, value: str | float) -> str:
    task = data.task
    if task.kind != "regression":
        return str(task.written[task.labels.index(value)])  # type: ignore[arg-type]
    if not math.isfinite(value):
        raise InputError(f"{task.title} {data.split}, row {row}: the prediction is {value}; the server wants 0 to 5")
    return f"{min(max(float(value), 0.0), 5.0) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0


def _check_entities(data: SplitData, predictions: Predictions) -> None:
    if data.task.kind == "entities":
        for row, (names, value) in enumerate(zip(data.candidates, predictions, strict=True)):
            if value not in names:
                raise InputError(
                    f"{data.task.title} {data.split}, row {row}: {value!r} is none of the passage's entities"
                )


def _multirc_tree(data: SplitData, predictions: Predictions) -> list[dict]:
    """One object a paragraph: its questions, each with its answers."""
    written = dict(zip(data.task.labels, data.task.written, strict=True))
    paragraphs: dict[int, dict[int, list[dict]]] = {}
    for (paragraph, question, answer), label in sorted(zip(data.idx, predictions, strict=True)):
        answers = paragraphs.setdefault(paragraph, {}).setdefault(question, [])
        answers.append({"idx": answer, "label": written[label]})
    trees = {
        paragraph: [{"idx": question, "answers": answers} for question, answers in questions.items()]
        for paragraph, questions in paragraphs.items()
    }
    return [{"idx": paragraph, "passage": {"questions": questions}} for paragraph, questions in trees.items()]


def _write(folder: Path, files: Mapping[str, str], name: str, synthetic: bool) -> Path:
    """The zip, complete or not at all; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in files.items():
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, text.encode())
        archive.comment = f"hfssl {__version__}{'; ' + SYNTHETIC if synthetic else ''}".encode()
    path = write_whole(folder / name, buffer.getvalue())
    for other in {COMPLETE, INCOMPLETE} - {name}:
        (folder / other).unlink(missing_ok=True)
    return path


def files_of(suite: str) -> dict[str, tuple[Task, str]]:
    """The files of a suite's submission by name, each with its task and test split."""
    return {name: (task, split) for task in suite_tasks(suite).values() for split, name in task.files.items()}
