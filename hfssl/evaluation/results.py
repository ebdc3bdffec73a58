"""What a model scored on GLUE or SuperGLUE, as one JSON file that leaderboards, cards and comparisons read.

    {"format": "hfssl-nlu-result", "format_version": 1,
     "model": "out/bert", "suite": "glue", "part": "dev", "kind": "single", "synthetic": false,
     "protocol": "...", "tasks": {"mnli": {"scores": {"accuracy_m": [84.1, 83.9], "accuracy_mm": [...]}, ...}},
     "averages": {"official-9": {"value": null, "missing": ["wnli"]}, ...}, ...}

Scores are in points of 100, one a seed. The averages are of the medians over seeds; they are written for readers and
are computed anew when the file is read. dev and test results are two files: nothing puts them into one row.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hfssl.errors import InputError, nearest
from hfssl.evaluation.averages import AverageScore, suite_averages
from hfssl.evaluation.scoring import task_score
from hfssl.evaluation.tasks import SUITES, Task, suite_tasks
from hfssl.files import write_whole

FORMAT, FORMAT_VERSION = "hfssl-nlu-result", 1
PARTS = ("dev", "test")
KINDS = ("single", "ensemble", "baseline")
TRICKS = {
    "majority": "the majority class of train, not predictions of the model",
    "ranked": "the rows of one text ranked against each other, the best one entailed; trained and selected row by row",
}


@dataclass
class TaskResult:
    """One task of a `ModelResult`.

    Attributes:
        scores: by each of `Task.score_names`, one value for each seed, in points of 100.
        seeds: of the runs, in the order of the scores.
        rows: how many rows were scored, by split.
        task_version: of the row in `TASKS`.
        intervals: by score name and for ``"score"`` (the task's mean), the low and high end of the 95 % bootstrap
            interval over items and seeds.
        part: why a split is not whole (`SplitData.note`), or empty.
        flags: what else must be said beside the scores: constant predictions, truncated texts.
        started_from: the task whose fine-tuned model this one started from, such as ``"mnli"``.
        trick: for WNLI one of `TRICKS`, where the predictions are not those of the model as trained.
        data: fingerprint of each split, of train too.
        settings: learning rate, batch size, epochs, ...; with ``--max_steps`` also ``max_steps`` and
            ``whole_updates``, which the epochs would have been; with ``--search`` ``trials``, the grid with its scores;
            where it is not plain fine-tuning ``strategy`` and ``strategy_options``.
    """

    scores: dict[str, list[float]]
    seeds: list[int]
    rows: dict[str, int]
    task_version: int = 1
    intervals: dict[str, list[float]] = field(default_factory=dict)
    part: str = ""
    flags: list[str] = field(default_factory=list)
    started_from: str | None = None
    trick: str | None = None
    data: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def median(self) -> dict[str, float]:
        """Each score's median over seeds."""
        return {name: statistics.median(values) for name, values in self.scores.items()}

    def spread(self) -> dict[str, float]:
        """Each score's standard deviation over seeds; of one seed 0."""
        return {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in self.scores.items()}

    def cut_short(self) -> str:
        """Says so if ``--max_steps`` allowed fewer updates than the epochs of the settings have; else empty."""
        done, whole = self.settings.get("max_steps"), self.settings.get("whole_updates")
        if not (isinstance(done, int) and isinstance(whole, int) and done < whole):
            return ""
        return f"cut short by --max_steps: {done:,} of {whole:,} updates"

    def search(self) -> str:
        """How many points of a grid were tried and what won, if any were; else empty."""
        trials, names = self.settings.get("trials"), ("trial", "score")
        if not isinstance(trials, list) or not all(isinstance(one, dict) and {*names} <= {*one} for one in trials):
            return ""
        best = next((one for one in trials if one["trial"] == self.settings.get("trial")), {})
        won = ", ".join(f"{name} {value}" for name, value in best.items() if name not in names)
        return f"search: {len(trials)} trials; best on dev: {won or 'the settings given'}"


@dataclass
class ModelResult:
    """A model on a suite.

    Attributes:
        model: what to call it: a folder, a Hub id, a name.
        part: which labels: ``"dev"``, or ``"test"`` as a server gave them back.
        kind: ``"single"``, ``"ensemble"`` or ``"baseline"``.
        protocol: how the model was tuned, chosen and scored, in a few sentences.
        synthetic: on ``builtin:toyglue``; never shown beside real results.
        versions: of hfssl, torch, transformers, ...
        cost: seconds, device, tokens, ...
    """

    model: str
    suite: str
    part: str
    tasks: dict[str, TaskResult]
    protocol: str
    kind: str = "single"
    synthetic: bool = False
    weights: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What to call it in a table: the model, and its strategy where that is not plain fine-tuning."""
        strategies = [task.settings["strategy"] for task in self.tasks.values() if "strategy" in task.settings]
        return ", ".join([self.model, *dict.fromkeys(strategies)])

    def scores(self) -> dict[str, dict[str, float]]:
        """By task, each score's median over seeds."""
        return {name: task.median() for name, task in self.tasks.items()}

    def task_scores(self) -> dict[str, float]:
        """By task, the one number that goes into the official average."""
        tasks = suite_tasks(self.suite)
        return {name: task_score(tasks[name], values) for name, values in self.scores().items()}

    def averages(self) -> dict[str, AverageScore]:
        """Every average of the suite, or what is missing for it."""
        return suite_averages(self.suite, self.scores())


def write_result(result: ModelResult, path: str | Path) -> Path:
    """Writes the file, whole or not at all.

    Raises:
        InputError: the result is not consistent (see `read_result`).
    """
    _check(result, str(path))
    averages = {name: {"value": a.value, "missing": list(a.missing)} for name, a in result.averages().items()}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(result), "averages": averages}
    return write_whole(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_result(path: str | Path) -> ModelResult:
    """The result in a file.

    Raises:
        InputError: no such file, no JSON, another format, an unknown key, task or score, another number of values than
            seeds, or a value that is no score.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no result of hfssl glue or hfssl superglue (no 'format': {FORMAT!r})")
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {content.get('format_version')}; this hfssl reads {FORMAT_VERSION}"
        )
    content = {key: value for key, value in content.items() if key not in ("format", "format_version", "averages")}
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise InputError(f"{path}: 'tasks' holds no task")
    content["tasks"] = {name: _made(TaskResult, task, f"{path}: {name}") for name, task in tasks.items()}
    result = _made(ModelResult, content, str(path))
    _check(result, str(path))
    return result


def find_results(places: list[str | Path]) -> list[ModelResult]:
    """The results in files and folders, in the order given; a folder's by name.

    Raises:
        InputError: a place that does not exist, a folder without a result, or a damaged one.
    """
    found = []
    for place in map(Path, places):
        if place.is_dir():
            files = [path for path in sorted(place.glob("*.json")) if FORMAT in path.read_text(errors="replace")[:200]]
            if not files:
                there = ", ".join(sorted(path.name for path in place.iterdir())[:8]) or "nothing"
                raise InputError(
                    f"no result in {str(place)!r}: a JSON file with 'format': {FORMAT!r}; it holds {there}"
                )
            found += [read_result(path) for path in files]
        else:
            found.append(read_result(place))
    return found


def read_json(path: str | Path) -> Any:
    """A JSON file's content.

    Raises:
        InputError: it is not there, cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such file or folder: {str(path)!r}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file: {error}") from error


def _made(kind: type, values: Any, place: str):
    """A dataclass from a JSON object, with unknown and missing keys named."""
    if not isinstance(values, dict):
        raise InputError(f"{place}: a JSON {type(values).__name__}, not an object")
    known = [item.name for item in fields(kind)]
    for key in values:
        if key not in known:
            raise InputError(f"{place}: unknown key {key!r}{nearest(key, known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{place}: {str(error).partition('() ')[2] or error}") from error


def _check(result: ModelResult, place: str) -> None:
    if result.suite not in SUITES:
        raise InputError(f"{place}: unknown suite {result.suite!r}; one of {', '.join(SUITES)}")
    for name, value, choices in (("part", result.part, PARTS), ("kind", result.kind, KINDS)):
        if value not in choices:
            raise InputError(f"{place}: {name} is {value!r}; one of {', '.join(choices)}")
    if not isinstance(result.model, str) or not result.model or not isinstance(result.synthetic, bool):
        raise InputError(f"{place}: 'model' must be a name and 'synthetic' true or false")
    tasks = suite_tasks(result.suite)
    for name, task in result.tasks.items():
        if name not in tasks:
            raise InputError(f"{place}: {result.suite} has no task {name!r}{nearest(name, tasks)}")
        _check_task(tasks[name], task, f"{place}: {name}")


def _check_task(task: Task, result: TaskResult, place: str) -> None:
    if not isinstance(result.scores, Mapping) or set(result.scores) != set(task.score_names):
        raise InputError(f"{place}: the scores must be {', '.join(task.score_names)}, not {', '.join(result.scores)}")
    if not isinstance(result.seeds, list) or not result.seeds:
        raise InputError(f"{place}: no seeds")
    if result.trick is not None and (task.name != "wnli" or result.trick not in TRICKS):
        raise InputError(f"{place}: trick is {result.trick!r}; WNLI has {', '.join(TRICKS)}, no other task has one")
    for score, values in result.scores.items():
        if not isinstance(values, list) or len(values) != len(result.seeds):
            raise InputError(f"{place}: {score} needs one value for each of {len(result.seeds)} seeds")
        if not all(_is_score(value) for value in values):
            raise InputError(f"{place}: {score} holds {values}; scores are numbers from -100 to 100, in points")
        if score.startswith("accuracy") and 0 < max(values) <= 1:
            raise InputError(f"{place}: {score} holds {values}: a fraction of 1? Scores are in points of 100")
    kinds = {"intervals": dict, "rows": dict, "data": dict, "settings": dict, "flags": list, "part": str}
    for name, kind in kinds.items():
        if not isinstance(getattr(result, name), kind):
            raise InputError(f"{place}: {name!r} must be a JSON {'object' if kind is dict else kind.__name__}")
    for score, ends in result.intervals.items():
        two = isinstance(ends, list) and len(ends) == 2 and all(map(_is_score, ends))
        if score not in (*task.score_names, "score") or not two:
            raise InputError(f"{place}: the interval of {score!r} is not the low and high end of a score")


def _is_score(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= 100
    )
