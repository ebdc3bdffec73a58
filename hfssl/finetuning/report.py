"""One self-contained HTML page about a model on a suite: how sure the scores are, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hfssl.evaluation.contamination import FEWEST, WORDS, Overlap
from hfssl.evaluation.leaderboard import METRIC_LABELS
from hfssl.evaluation.report import Page
from hfssl.evaluation.results import TRICKS, ModelResult, TaskResult
from hfssl.evaluation.scoring import score_split, task_score
from hfssl.evaluation.task_data import SplitData
from hfssl.finetuning.outcome import TaskRuns

BINS, ERRORS, SHOWN = 4, 8, 400  # lengths, worst errors of a split, characters of a text

SETTINGS = (
    "data_dir", "strategy", "strategy_options", "recipe", "learning_rate", "batch_size", "epochs", "max_steps",
    "updates", "warmup", "weight_decay", "selection", "last_epoch_score",
)  # fmt: skip


def write_report(
    path: Path,
    result: ModelResult,
    tasks: Mapping[str, TaskRuns],
    phenomena: Sequence[Mapping[str, str | int | float]] = (),
    overlaps: Mapping[str, Overlap] | None = None,
    corpus: str = "",
) -> None:
    """Writes the page.

    Args:
        phenomena: AX by phenomenon, of `scores_by_tag`.
        overlaps: by ``task split``, what of it stands in the pretraining corpus.
        corpus: its name.
    """
    synthetic = "; synthetic data, which says nothing about the real tasks" if result.synthetic else ""
    page = Page(f"{result.title} on {result.suite}", f"{result.part} set{synthetic}. {result.protocol}")
    _add_scores(page, result, tasks)
    for name, one in tasks.items():
        if name in result.tasks:
            _add_task(page, one, result.tasks[name])
    if phenomena:
        page.heading("AX by phenomenon")
        page.text("R3 (Matthews's correlation) of the MNLI model of the seed that is best on dev.")
        rows = [(row["category"], row["tag"], row["rows"], f"{100 * row['score']:.1f}") for row in phenomena]
        page.table(("category", "phenomenon", "rows", "R3"), rows)
    if overlaps is not None:
        _add_overlaps(page, tasks, overlaps, corpus)
    _add_settings(page, result, tasks)
    _add_cost(page, result, tasks)
    page.write(path)


def _add_scores(page: Page, result: ModelResult, tasks: Mapping[str, TaskRuns]) -> None:
    page.heading("Scores")
    rows = []
    for name, found in result.tasks.items():
        medians, spreads = found.median(), found.spread()
        for score in tasks[name].task.score_names:
            low, high = found.intervals[score]
            spread = f"{spreads[score]:.1f}" if len(found.seeds) > 1 else ""
            rows.append((
                tasks[name].task.title, METRIC_LABELS[score], len(found.seeds), f"{medians[score]:.1f}",
                f"{np.mean(found.scores[score]):.1f}", spread, f"{low:.1f} to {high:.1f}",
            ))  # fmt: skip
    page.table(("task", "score", "seeds", "median", "mean", "spread", "95 % interval"), rows)
    for average in result.averages().values():
        missing = f"cannot be computed without {', '.join(average.missing)}"
        page.text(f"{average.name}: {missing if average.value is None else f'{average.value:.1f}'}")
    for note in result.notes:
        page.text(note)
    page.figure(_interval_figure(result, tasks), "Each task's score (the mean of its metrics) with its interval")


def _interval_figure(result: ModelResult, tasks: Mapping[str, TaskRuns]):
    from matplotlib.figure import Figure

    names = list(result.tasks)[::-1]
    figure = Figure(figsize=(7, 0.35 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        found = result.tasks[name]
        score = task_score(tasks[name].task, found.median())
        low, high = found.intervals["score"]
        axes.plot([low, high], [place, place], color="#8b949e", linewidth=2)
        axes.plot([score], [place], "o", color="#1f6feb", markersize=5)
    axes.set_yticks(range(len(names)), [tasks[name].task.title for name in names], fontsize=8)
    axes.set_xlabel("score", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _add_task(page: Page, one: TaskRuns, found: TaskResult) -> None:
    page.heading(one.task.title)
    started = [f"Started from {found.started_from}."] if found.started_from else []
    trick = [f"WNLI: {TRICKS[found.trick]}."] if found.trick else []
    for line in [*started, *trick, found.part, found.cut_short(), *found.flags]:
        if line:
            page.text(line)
    if searched := found.search():
        page.text(f"{searched}. Each trial's score on dev, of the first seed:")
        trials = found.settings["trials"]
        page.table([name.replace("_", " ") for name in trials[0]], [[_setting(v) for v in t.values()] for t in trials])
    for split in one.task.scored_splits:
        data, runs = one.splits[split], one.predictions[split]
        title = f"{split}, " if len(one.task.scored_splits) > 1 else ""
        if one.task.labels and one.task.kind != "entities":
            page.text(f"{title}rows by truth (down) and prediction (across), mean over seeds:")
            page.table(("", *one.task.labels), _confusion(data, runs))
        page.text(f"{title}by length in words:")
        page.table(*rows_by_length(data, runs))
        members = one.singles.get(split, runs)
        if len(members) > 1:
            page.text(f"{title}{_disagreement(members, 'members' if one.singles else 'seeds')}")
        errors = _worst_errors(data, runs[one.best], one.confidences.get(split))
        if errors and one.runs:  # a majority has no worst error
            page.text(f"{title}worst errors of the {'ensemble' if one.singles else 'seed that is best on dev'}:")
            page.table(("row", "text", "truth", "prediction", "confidence"), errors)


def _confusion(data: SplitData, runs: Sequence[Sequence[str]]) -> list[tuple]:
    labels = data.task.labels
    counts = np.zeros((len(labels), len(labels)))
    for predictions in runs:
        for truth, prediction in zip(data.labels, predictions, strict=True):
            counts[labels.index(truth), labels.index(prediction)] += 1 / len(runs)
    return [(label, *(f"{count:g}" if count.is_integer() else f"{count:.1f}" for count in row))
            for label, row in zip(labels, counts, strict=True)]  # fmt: skip


def row_errors(data: SplitData, predictions: Sequence) -> np.ndarray:
    """Of each row 0 or 1, right or wrong; for STS-B how far off the score is."""
    if data.task.kind == "regression":
        return np.abs(np.asarray(predictions, float) - np.asarray(data.labels, float))
    if data.task.kind == "entities":
        return np.array([float(name not in right) for name, right in zip(predictions, data.answers, strict=True)])
    return np.array([float(p != r) for p, r in zip(predictions, data.labels, strict=True)])


def rows_by_length(data: SplitData, runs: Sequence[Sequence]) -> tuple[tuple[str, ...], list[tuple]]:
    """The rows in about quarters by their number of words; rows of one length stay together."""
    lengths = np.array([sum(len(text.split()) for text in texts) for texts in zip(*data.texts, strict=True)])
    errors = np.mean([row_errors(data, predictions) for predictions in runs], axis=0)
    rows, ends = [], np.unique(np.quantile(lengths, np.arange(1, BINS) / BINS, method="lower"))
    parts = np.searchsorted(ends, lengths)  # the first has the rows up to the first end
    for number in range(len(ends) + 1):
        part = np.flatnonzero(parts == number)
        if len(part):
            value = errors[part].mean()
            shown = f"{value:.2f}" if data.task.kind == "regression" else f"{100 * (1 - value):.1f}"
            rows.append((f"{lengths[part].min()} to {lengths[part].max()}", len(part), shown))
    return ("words", "rows", "mean error" if data.task.kind == "regression" else "right, %"), rows


def _disagreement(runs: Sequence[Sequence], what: str) -> str:
    if isinstance(runs[0][0], float):
        spread = np.std(np.asarray(runs, float), axis=0, ddof=1)
        return f"{what} differ by {spread.mean():.2f} (standard deviation of a row's score, mean over rows)"
    apart = [len(set(row)) > 1 for row in zip(*runs, strict=True)]
    return f"the {len(runs)} {what} disagree on {sum(apart):,} of {len(apart):,} rows ({100 * np.mean(apart):.1f} %)"


def _worst_errors(data: SplitData, predictions: Sequence, confidence: np.ndarray | None) -> list[tuple]:
    errors = row_errors(data, predictions)
    if not errors.any():
        return []
    rank = errors * (1 if confidence is None or data.task.kind == "regression" else confidence)
    rows = []
    for row in np.argsort(-rank, kind="stable")[:ERRORS]:
        if errors[row] == 0:
            break
        truth = " or ".join(data.answers[row]) if data.task.kind == "entities" else data.labels[row]
        sure = "" if confidence is None or math.isnan(confidence[row]) else f"{confidence[row]:.2f}"
        prediction = predictions[row]
        shown = f"{prediction:.2f}" if isinstance(prediction, float) else prediction
        rows.append((str(data.idx[row]), _shown_text(data, int(row)), str(truth), shown, sure))
    return rows


def _shown_text(data: SplitData, row: int) -> str:
    parts = [texts[row] for texts in data.texts]
    if data.spans is not None:
        owners = parts if len(parts) > 1 else [parts[0], parts[0]]
        parts += [f"[{text[a:b]}]" for text, (a, b) in zip(owners, data.spans[row], strict=True)]
    if data.candidates is not None:
        parts.append(" / ".join(data.candidates[row]))
    return " | ".join(part if len(part) <= SHOWN else part[:SHOWN] + " ..." for part in parts)


def _add_overlaps(page: Page, tasks: Mapping[str, TaskRuns], overlaps: Mapping[str, Overlap], corpus: str) -> None:
    page.heading("Dev rows in the pretraining text")
    page.text(
        f"Rows of which {WORDS} words in a row, or a whole text of {FEWEST} to {WORDS - 1} words, stand in {corpus}; "
        "shorter texts are not judged. The score without them is of the seed that is best on dev."
    )
    rows = []
    for key, overlap in overlaps.items():
        name, split = key.split(" ")
        one = tasks[name]
        data, predictions = one.splits[split], one.predictions[split][one.best]
        seen = set(overlap.seen)
        clean = [row for row in range(len(data)) if row not in seen]
        whole = np.mean(list(score_split(data, predictions).values.values()))
        left = ""
        if clean and "gender_parity" not in one.task.metrics:
            kept = data.select(clean, "without rows that stand in the pretraining text")
            values = score_split(kept, [predictions[row] for row in clean]).values.values()
            left = f"{100 * np.mean(list(values)):.1f}"
        rows.append((f"{one.task.title} {split}", overlap.rows, overlap.judged, len(seen), f"{100 * whole:.1f}", left))
    page.table(("split", "rows", "judged", "seen", "score", "without the seen"), rows)


def _add_settings(page: Page, result: ModelResult, tasks: Mapping[str, TaskRuns]) -> None:
    """What the protocol calls settings, of each task that was trained."""
    page.heading("Settings")
    page.text(f"Of each task in `settings` of {result.suite}_{result.part}.json, beside this page, are all of them.")
    page.code(result.command)
    trained = {name: found.settings for name, found in result.tasks.items() if tasks[name].runs}
    shown = [name for name in SETTINGS if any(name in settings for settings in trained.values())]
    rows = [
        (tasks[name].task.title, *(_setting(settings.get(key, "")) for key in shown))
        for name, settings in trained.items()
    ]
    if rows:
        page.table(("task", *(name.replace("_", " ") for name in shown)), rows)


def _setting(value) -> str:
    if isinstance(value, Mapping):  # of strategies, as the command line gives them
        return " ".join(f"{part}.{name}={_setting(one)}" for part, own in value.items() for name, one in own.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _add_cost(page: Page, result: ModelResult, tasks: Mapping[str, TaskRuns]) -> None:
    page.heading("Cost")
    rows = []
    for one in tasks.values():
        if one.runs and not one.task.is_diagnostic:
            records = [record for _, record in one.runs]
            rows.append((
                one.task.title, len(records), records[0]["updates"], records[0]["batch_size"],
                f"{np.mean([record['train_seconds'] for record in records]):.1f}",
                f"{np.mean([record['tokens'] for record in records]):,.0f}",
                f"{np.mean([record['padding_ratio'] for record in records]):.3f}",
            ))  # fmt: skip
    if rows:
        page.table(("task", "runs", "updates", "batch", "train s", "tokens", "processed / real"), rows)
    page.text("; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in result.cost.items()))
    page.text("; ".join(f"{name} {version}" for name, version in result.versions.items()))
