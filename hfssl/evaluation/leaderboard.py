"""Results among published ones: a table for the console and one in Markdown. dev and test are always two tables.

The published rows lie in ``published/*.json`` beside this file, each with its source. Figures that were recalled and
not read again are marked; each such test row's average equals the score that was published for it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfssl.evaluation.averages import AverageScore, suite_average
from hfssl.evaluation.results import TRICKS, ModelResult, TaskResult
from hfssl.evaluation.tasks import SUITES, Task, suite_tasks

WIDE = 150  # columns of a console that a table with every task needs
PUBLISHED = Path(__file__).resolve().parent / "published"

FOOTNOTES = {
    "lecture": "on the lecture's board of 27 February 2020",
    "human": "human annotators",
    "ensemble": "an ensemble of models",
    "baseline": "a baseline",
    "recalled": "scores of single tasks recalled, not read again in the source (of test rows the average is the "
    "published score; where it stands alone it is recalled)",
    "qnli-ranking": "QNLI by ranking a question's sentences against each other, which version 1 of its data allowed",
    "qnli-rescored": "after QNLI was scored anew without ranking; the paper's own average is about 0.4 higher",
    "wnli-trick": "WNLI recast as choosing a referent, with other Winograd data; as trained, systems stay at or below "
    "the majority class (65.1)",
    **{f"wnli-{trick}": f"WNLI: {said}" for trick, said in TRICKS.items()},
    "mnli-start": "RTE, MRPC or STS-B (CB) fine-tuned from the model that was fine-tuned on MNLI",
    "subset": "part of a task's data: not comparable with the whole (which part: in the result file)",
    "cut-short": "training cut short by --max_steps (how far it went: in the result file)",
    "flagged": "constant predictions or another fault of a run: see the result file",
    "truncated": "texts longer than the model takes were cut: see the result file",
    "synthetic": "synthetic data, made by rules: says nothing about the real tasks",
}
METRIC_LABELS = {
    "accuracy": "acc", "f1": "F1", "macro_f1": "F1", "matthews_correlation": "MCC", "pearson": "P", "spearmanr": "S",
    "f1_a": "F1a", "question_em": "EM", "token_f1": "F1", "token_em": "EM", "gender_parity": "parity",
    "accuracy_m": "m", "accuracy_mm": "mm",
}  # fmt: skip
# The average that ranks a table, and those shown beside it.
RANKED_BY = {
    ("glue", "test"): ("official-9",),
    ("glue", "dev"): ("dev-8-roberta", "dev-8-official", "official-9"),
    ("superglue", "test"): ("superglue-8",),
    ("superglue", "dev"): ("superglue-8",),
}


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        averages: by name, in points; without those that cannot be computed.
        scores: by task and score name, in points.
        footnotes: keys of `FOOTNOTES`.
        own: a result of the user's.
        intervals: by task and score name, the ends of the 95 % interval where a result has one.
    """

    name: str
    averages: dict[str, float]
    scores: dict[str, dict[str, float]]
    footnotes: tuple[str, ...] = ()
    source: str = ""
    own: bool = False
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Board:
    """One table: a suite's dev or test results, best first."""

    suite: str
    part: str
    rows: tuple[Row, ...]
    synthetic: bool = False

    @property
    def title(self) -> str:
        names = {"glue": "GLUE", "superglue": "SuperGLUE"}
        data = "builtin:toyglue, synthetic" if self.synthetic else f"{self.part} set"
        return f"{names[self.suite]}, {data}"

    @property
    def averages(self) -> tuple[str, ...]:
        return RANKED_BY[self.suite, self.part]

    @property
    def tasks(self) -> list[Task]:
        """The tasks that any row has scores of."""
        known = {name for row in self.rows for name, scores in row.scores.items() if scores}
        return [task for task in suite_tasks(self.suite).values() if task.name in known]

    def footnotes(self) -> list[str]:
        """The keys of the footnotes that its rows have, in order."""
        used = {key for row in self.rows for key in row.footnotes}
        return [key for key in FOOTNOTES if key in used]


def published_rows(suite: str, part: str) -> list[Row]:
    """The published rows of a suite's dev or test set."""
    content = json.loads((PUBLISHED / f"{suite}_{part}.json").read_text(encoding="utf-8"))
    rows = []
    for entry in content["rows"]:
        footnotes = [key for key in ("lecture",) if entry.get(key)]
        footnotes += [entry["kind"]] if entry["kind"] in FOOTNOTES else []
        footnotes += ["recalled"] if entry.get("recalled") else []
        footnotes += entry.get("footnotes", [])
        scores = entry.get("scores", {})
        averages = {name: suite_average(name, scores).value for name in RANKED_BY[suite, part]}
        if "score" in entry:  # as published, not as its rounded cells average
            averages[content["average"]] = entry["score"]
        sources = dict.fromkeys([entry["source"], entry.get("scores_source", entry["source"])])
        known = {name: value for name, value in averages.items() if value is not None}
        rows.append(Row(entry["name"], known, scores, tuple(footnotes), "; scores: ".join(sources)))
    return rows


def result_row(result: ModelResult) -> Row:
    """A result as a row: medians over seeds, and footnotes for what it declares."""
    footnotes = [result.kind] if result.kind in FOOTNOTES else []
    tasks = result.tasks.values()
    footnotes += ["mnli-start"] if any(task.started_from for task in tasks) else []
    footnotes += dict.fromkeys(f"wnli-{task.trick}" for task in tasks if task.trick)
    footnotes += ["subset"] if any(task.part for task in tasks) else []
    footnotes += ["cut-short"] if any(task.cut_short() for task in tasks) else []
    said = [flag for task in tasks for flag in task.flags] if result.kind != "baseline" else []
    cut = [flag for flag in said if "truncated" in flag]
    footnotes += ["flagged"] if len(cut) < len(said) else []
    footnotes += ["truncated"] if cut else []
    footnotes += ["synthetic"] if result.synthetic else []
    averages = {name: average.value for name, average in result.averages().items() if average.value is not None}
    intervals = {name: task.intervals for name, task in result.tasks.items()}
    return Row(result.title, averages, result.scores(), tuple(footnotes), own=True, intervals=intervals)


def boards(results: Sequence[ModelResult] = (), suites: Sequence[str] = SUITES) -> list[Board]:
    """The tables of each suite: dev, test, and synthetic results apart."""
    made = []
    for suite in suites:
        own = [result for result in results if result.suite == suite]
        for part in ("dev", "test"):
            rows = [result_row(result) for result in own if result.part == part and not result.synthetic]
            made.append(Board(suite, part, _ranked(suite, part, [*published_rows(suite, part), *rows])))
        toys = [result_row(result) for result in own if result.synthetic]
        if toys:
            made.append(Board(suite, "dev", _ranked(suite, "dev", toys), synthetic=True))
    return made


def _ranked(suite: str, part: str, rows: list[Row]) -> tuple[Row, ...]:
    """By the first average, those without one last; rows that are equal stay in their order."""
    key = RANKED_BY[suite, part][0]
    return tuple(sorted(rows, key=lambda row: -row.averages.get(key, float("-inf"))))


def _cells(board: Board) -> tuple[list[str], list[list[str]]]:
    """The header and the rows as text."""
    header = ["", *board.averages, *(_task_header(task) for task in board.tasks)]
    numbers = {key: str(number) for number, key in enumerate(board.footnotes(), start=1)}
    body = []
    for row in board.rows:
        marks = ",".join(numbers[key] for key in numbers if key in row.footnotes)
        averages = [f"{row.averages[name]:.1f}" if name in row.averages else "" for name in board.averages]
        name = f"{row.name} [{marks}]" if marks else row.name
        body.append([name, *averages, *(_task_cell(task, row.scores.get(task.name, {})) for task in board.tasks)])
    return header, body


def _task_header(task: Task) -> str:
    return f"{task.title} ({'/'.join(METRIC_LABELS[name] for name in task.score_names)})"


def _task_cell(task: Task, scores: dict[str, float]) -> str:
    """The task's scores in its order, a dash for one that is not known."""
    if not scores:
        return ""
    return "/".join(f"{scores[name]:.1f}" if name in scores else "-" for name in task.score_names)


def board_table(board: Board, width: int = WIDE):
    """A rich table, own rows in bold. On a console narrower than `WIDE` it is without the tasks' columns."""
    from rich.markup import escape
    from rich.table import Table

    header, body = _cells(board)
    shown = len(header) if width >= WIDE else 1 + len(board.averages)
    notes = _notes(board) + ([] if width >= WIDE else [f"a console of {WIDE} columns shows the tasks too"])
    table = Table(title=board.title, title_justify="left", caption=escape("\n".join(notes)), caption_justify="left")
    for place, name in enumerate(header[:shown]):
        table.add_column(name.replace(" (", "\n("), justify="left" if place == 0 else "right", no_wrap=place > 0)
    for row, cells in zip(board.rows, body, strict=True):
        table.add_row(*map(escape, cells[:shown]), style="bold" if row.own else "")
    return table


def board_remarks(board: Board) -> list[str]:
    """What must be said beside a table: what its averages are, and what it cannot be compared with."""
    meanings = {
        "official-9": "official-9: the mean over nine tasks, as the server computes it",
        "dev-8-official": "dev-8-official: the same without WNLI",
        "dev-8-roberta": "dev-8-roberta: eight tasks, one score each, as in most papers",
        "superglue-8": "superglue-8: the mean over eight tasks, as the server computes it",
    }
    remarks = [meanings[name] for name in board.averages]
    if board.part == "dev":
        remarks += ["dev scores are higher than test scores: do not compare with a test table"]
        if board.suite == "glue":
            remarks += [
                "QQP's test set has another balance of labels: a dev score says little about the one on test",
                "WNLI's dev set repeats sentences of train with the other label: most models end below half",
            ]
        if board.suite == "superglue":
            remarks += ["WSC's test set is of another domain than train and dev"]
    return remarks


def _notes(board: Board) -> list[str]:
    """What a table says below itself: its remarks and its footnotes."""
    footnotes = [f"[{number}] {FOOTNOTES[key]}" for number, key in enumerate(board.footnotes(), start=1)]
    return board_remarks(board) + footnotes


def board_markdown(board: Board, sources: bool = True) -> str:
    """The table in Markdown, with its notes and the source of each published row."""
    header, body = _cells(board)
    lines = [f"## {board.title}", "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row, cells in zip(board.rows, body, strict=True):
        cells = [cell.replace("|", "\\|") for cell in cells]
        lines.append("| " + " | ".join([f"**{cells[0]}**" if row.own else cells[0], *cells[1:]]) + " |")
    lines += ["", *(f"* {note}" for note in _notes(board))]
    if sources and any(row.source for row in board.rows):
        lines += ["", "Sources:", "", *(f"* {row.name}: {row.source}" for row in board.rows if row.source)]
    return "\n".join(lines) + "\n"


def result_table(result: ModelResult):
    """A rich table of one result: each score with spread and interval, and below it the averages and all notes."""
    from rich.markup import escape
    from rich.table import Table

    notes = [_average_note(average) for average in result.averages().values()]
    title = f"{result.title}: {result.suite}, {result.part}{', synthetic' if result.synthetic else ''}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("task", "score", "rows", "seeds", "median", "mean", "spread", "95 % interval of the mean"):
        table.add_column(name, justify="left" if name in ("task", "score") else "right")
    for name, task in suite_tasks(result.suite).items():
        if name not in result.tasks:
            continue
        found = result.tasks[name]
        notes += [f"{task.title}: {note}" for note in _task_notes(found)]
        split_of = {task.score_name(metric, split): split for metric in task.metrics for split in task.scored_splits}
        for number, score in enumerate(task.score_names):
            ends = " to ".join(f"{end:.1f}" for end in found.intervals.get(score, ()))
            middle = (found.median()[score], statistics.mean(found.scores[score]))
            spread = f"{found.spread()[score]:.1f}" if len(found.seeds) > 1 else ""
            numbers = (*(f"{value:.1f}" for value in middle), spread, ends)
            rows = f"{found.rows.get(split_of[score], 0):,}"
            first = task.title if number == 0 else ""
            table.add_row(first, METRIC_LABELS[score], rows, str(len(found.seeds)), *numbers)
    table.caption = escape("\n".join(notes))
    return table


def _average_note(average: AverageScore) -> str:
    if average.value is None:
        return f"{average.name}: cannot be computed without {', '.join(average.missing)}"
    return f"{average.name}: {average.value:.1f}"


def _task_notes(task: TaskResult) -> list[str]:
    started = [f"started from {task.started_from}"] if task.started_from else []
    trick = [f"trick: {task.trick}"] if task.trick else []
    return [note for note in (task.part, task.cut_short(), task.search(), *started, *trick, *task.flags) if note]
