"""What a suite's runs come to: the result file, dev predictions for `hfssl compare`, and the submission."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from hfssl import __version__
from hfssl.errors import InputError
from hfssl.evaluation.baselines import most_frequent
from hfssl.evaluation.relabelling import looks_relabelled
from hfssl.evaluation.rendering import ranked_hypotheses
from hfssl.evaluation.results import TRICKS, ModelResult, TaskResult, write_result
from hfssl.evaluation.scoring import Predictions, score_task
from hfssl.evaluation.significance import bootstrap_task, interval
from hfssl.evaluation.submission import Submission, write_submission
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task, suite_tasks
from hfssl.files import write_whole
from hfssl.finetuning.arguments import as_command
from hfssl.finetuning.builtin_models import BASELINES
from hfssl.finetuning.loop import confidence, decode
from hfssl.finetuning.plan import whole_updates
from hfssl.finetuning.suite import Run, Suite, best_run, read_logits
from hfssl.finetuning.word_vectors import SAID

FORMAT = "hfssl-nlu-predictions"


@dataclass
class TaskRuns:
    """One task with its predictions.

    Attributes:
        runs: one a seed; none where nothing is trained (WNLI as majority).
        predictions: by split, of each seed.
        best: which of the seeds is best on dev: its test predictions are handed in.
        confidences: of that seed, by split, the share that the prediction of each row had; NaN for scores.
    """

    task: Task
    splits: dict[str, SplitData]
    runs: list[Run]
    predictions: dict[str, list[Predictions]]
    best: int = 0
    confidences: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_scored(self) -> bool:
        """Every scored split has labels (AX has none)."""
        return all(
            split in self.splits and (self.splits[split].labels or self.splits[split].answers) is not None
            for split in self.task.scored_splits
        )


def collect(suite: Suite, runs: dict[str, list[Run]]) -> dict[str, TaskRuns]:
    """Each task's predictions on all its splits, of every seed, from the jobs' files."""
    found = {}
    known = suite_tasks(suite.suite)
    for name, splits in suite.data.items():
        task = known[name]
        predicted = {split: data for split, data in splits.items() if split != "train"}
        owner = task.model_of or name
        if owner not in runs:  # WNLI as the majority of train
            predict = most_frequent(splits["train"])
            found[name] = TaskRuns(task, splits, [], {split: [predict(data)] for split, data in predicted.items()})
            continue
        by_split: dict[str, list[Predictions]] = {split: [] for split in predicted}
        sure: dict[str, list[np.ndarray]] = {split: [] for split in predicted}
        for job, record in runs[owner]:
            logits = read_logits(suite.out, job.name)
            for split, data in predicted.items():
                key = f"{name}.test" if task.is_diagnostic else split
                same = not task.is_diagnostic or record["diagnostics"].get(name) == data.fingerprint()
                if key not in logits or not same:
                    raise InputError(f"job {job.name} has no predictions of these rows of {task.title} {split}; delete "
                                     f"its line in {suite.ledger.path} to do it again")  # fmt: skip
                order, trick = tuple(record["head"]), suite.trick(task)
                decoded = _ranked(data, logits[key], order) if trick else decode(data, logits[key], order)
                by_split[split].append(decoded)
                sure[split].append(np.full(len(data), np.nan) if trick else confidence(data, logits[key]))
        best = runs[owner].index(best_run(runs[owner]))
        confidences = {split: seeds[best] for split, seeds in sure.items()}
        found[name] = TaskRuns(task, splits, runs[owner], by_split, best, confidences)
    return found


def _ranked(data: SplitData, logits: np.ndarray, order: tuple[str, ...]) -> Predictions:
    """WNLI's rows of one text against each other."""
    yes, no = order.index("entailment"), order.index("not_entailment")
    return ranked_hypotheses(data, (logits[:, yes] - logits[:, no]).tolist())


def make_result(suite: Suite, tasks: dict[str, TaskRuns]) -> ModelResult:
    """The result of the suite on dev, with intervals over items and seeds."""
    scored = {name: one for name, one in tasks.items() if one.is_scored}
    runs = [*(one.runs for one in tasks.values()), *suite.trials.values()]
    jobs = {job.name: record for found in runs for job, record in found}
    records = list(jobs.values())
    real = sum(record["tokens"] for record in records)
    padded = sum(record["tokens"] * record["padding_ratio"] for record in records)
    return ModelResult(
        model=suite.args.model,
        suite=suite.suite,
        part="dev",
        tasks={name: _task_result(suite, one) for name, one in scored.items()},
        protocol=_protocol(suite),
        kind="baseline" if suite.args.model in BASELINES or suite.has_word_vectors else "single",
        synthetic=any(data.synthetic for one in tasks.values() for data in one.splits.values()),
        weights=suite.source.fingerprint,
        command=as_command(suite.suite, suite.args, suite.loop),
        versions={"hfssl": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        cost={
            "jobs": len(records),
            "device": ", ".join(sorted({record["device"] for record in records})),
            "train_seconds": round(sum(record["train_seconds"] for record in records), 1),
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "tokens": real,
            "padding_ratio": round(padded / max(real, 1), 4),
        },
        notes=_notes(suite, tasks),
    )  # fmt: skip


def _task_result(suite: Suite, one: TaskRuns) -> TaskResult:
    task = one.task
    dev = {split: one.splits[split] for split in task.scored_splits}
    runs = {split: one.predictions[split] for split in dev}
    each = [
        score_task(task, dev, {split: seeds[number] for split, seeds in runs.items()})
        for number in range(len(next(iter(runs.values()))))
    ]
    draws = bootstrap_task(task, dev, runs)
    parts = [f"{data.split}: {data.part}, {len(data):,} rows" for data in one.splits.values() if data.part]
    started = {job.started_from for job, _ in one.runs} - {""}
    settings: dict[str, Any] = {"data_dir": suite.args.data_dir}
    if one.runs:
        job, record = one.runs[0]
        settings |= record["settings"] | {"recipe": suite.recipe_name, "updates": record["updates"]}
        if suite.loop.max_steps > 0:
            rows = len(suite.data[job.task.name]["train"])
            settings |= {"max_steps": suite.loop.max_steps, "whole_updates": whole_updates(job.settings, rows)}
        settings |= {"selection": record["selection"], "head": record["head"], "trial": job.trial}
        settings |= {"jobs": [job.name for job, _ in one.runs], "frozen_encoder": suite.loop.freeze_encoder}
        settings |= {key: record[key] for key in ("strategy", "strategy_options") if key in record}
        if suite.args.search:
            settings |= {"trials": _trials(suite.trials[job.task.name])}
        settings |= {"last_epoch_score": statistics.median(100 * record["last_score"] for _, record in one.runs)}
    return TaskResult(
        scores={name: [100 * scores.values[name] for scores in each] for name in task.score_names},
        seeds=[job.seed for job, _ in one.runs] or [0],
        rows={split: len(data) for split, data in dev.items()},
        task_version=task.version,
        intervals={name: [100 * end for end in _ends(values)] for name, values in draws.items()},
        part="; ".join(parts),
        flags=[*_joined_flags(one, each, suite.trick(task)), *_relabelled(one)],
        started_from="; ".join(sorted(started)) or None,
        trick=suite.trick(task),
        data={split: data.fingerprint() for split, data in one.splits.items() if not split.startswith("test")},
        settings=settings,
    )


def _trials(runs: list[Run]) -> list[dict[str, float]]:
    """Of each point of the grid what it sets and its score on dev, in points; the first is the recipe's own."""
    settings = [record["settings"] for _, record in runs]
    searched = [name for name in settings[0] if len({one[name] for one in settings}) > 1]
    return [
        {"trial": job.trial} | {name: record["settings"][name] for name in searched} | {"score": 100 * record["score"]}
        for job, record in runs
    ]


def _relabelled(one: TaskRuns) -> list[str]:
    """Whether the best seed's labels look exchanged, on a dev set with gold labels."""
    said = [
        looks_relabelled(one.splits[split], one.predictions[split][one.best])
        for split in one.task.scored_splits
        if one.splits[split].labels is not None
    ]
    return [message for message in dict.fromkeys(said) if message]


def _joined_flags(one: TaskRuns, each: Sequence[Any], trick: str | None) -> list[str]:
    """Each flag once, with the seeds that have it unless all do.

    A diagnostic set has those of its own scores, and so have predictions that are not the runs' own; of these runs what
    does not speak of their predictions is said, too.
    """
    per_seed = [list(scores.flags) for scores in each]
    if not (one.task.is_diagnostic or trick):
        per_seed = [record["flags"] for _, record in one.runs] or [[]]
    elif trick and one.runs:
        kept = [[flag for flag in record["flags"] if "constant" not in flag] for _, record in one.runs]
        per_seed = [scored + flags for scored, flags in zip(per_seed, kept, strict=True)]
    seeds = [job.seed for job, _ in one.runs] or [0]
    joined = []
    for flag in dict.fromkeys(flag for flags in per_seed for flag in flags):
        having = [str(seed) for seed, flags in zip(seeds, per_seed, strict=True) if flag in flags]
        joined.append(flag if len(having) == len(seeds) else f"{flag} (seed {', '.join(having)})")
    return joined


def _ends(draws) -> tuple[float, float]:
    found = interval(draws)
    return found.low, found.high


def _protocol(suite: Suite) -> str:
    if not suite.trained:
        return "Nothing is trained: the predictions are the most frequent class of train."
    loop, several = suite.loop, suite.seeds > 1
    parts = [
        f"Fine-tuned for each task with the recipe {suite.recipe_name} ({suite.recipe.source}) and what "
        "`settings` says; linear warm-up and decay.",
        "The epoch with the best dev score is reported: dev scores are optimistic by that choice; the last epoch's "
        "stand in `settings`." if loop.selection == "best" else "The last epoch is reported.",
        f"{suite.seeds} seed{'s' * several} (head, dropout, order of the data); test predictions are those of the seed "
        f"that is best on dev; intervals are the 95 % bootstrap over items{' and seeds' * several}.",
    ]  # fmt: skip
    strategy = loop.make_strategy()
    if not strategy.is_plain:
        papers = ", ".join(part.source for part in strategy.parts if part.source)
        parts.append(f"The strategy is {strategy.name} ({papers}) with the `strategy_options` in `settings`.")
    if loop.max_steps > 0:
        parts.append(f"The updates are those of --max_steps {loop.max_steps}, not the epochs of the settings.")
    if suite.args.search:
        parts.append("The settings are the best on dev of the recipe's grid, tried on the first seed.")
    if suite.has_word_vectors:
        parts.append(SAID)
    elif loop.freeze_encoder:
        parts.append("The encoder is frozen; the head alone learns.")
    if not (suite.source.pretrained or suite.has_word_vectors):
        parts.append("The model was never pretrained.")
    return " ".join(parts)


def _notes(suite: Suite, tasks: dict[str, TaskRuns]) -> list[str]:
    notes = []
    if suite.source.separator:
        notes.append(f"a pair's texts are joined with {suite.source.separator}")
    if suite.source.tokenizer.pad_token == suite.source.tokenizer.eos_token:
        notes.append("the model has no padding token: its end token is used, under the attention mask")
    if "wnli" in tasks and (trick := suite.trick(tasks["wnli"].task)):
        notes.append(f"WNLI: {TRICKS[trick]}")
    return notes


def write_outcome(suite: Suite, tasks: dict[str, TaskRuns], result: ModelResult) -> Submission:
    """Writes the result, the dev predictions and the submission; returns the last."""
    write_result(result, suite.out / f"{suite.suite}_dev.json")
    for name, one in tasks.items():
        if one.is_scored:
            _write_predictions(suite.out / "predictions" / f"{name}.json", one)
    test = {
        name: {split: _finite(seeds[one.best]) for split, seeds in one.predictions.items() if split in one.task.files}
        for name, one in tasks.items()
    }
    return write_submission(suite.suite, {name: one.splits for name, one in tasks.items()}, test, suite.out)


def _finite(predictions: Predictions) -> Predictions:
    """Of a run that diverged the server takes no NaN; the result says what happened."""
    return [0.0 if isinstance(value, float) and not math.isfinite(value) else value for value in predictions]


def _write_predictions(path: Path, one: TaskRuns) -> None:
    content = {
        "format": FORMAT,
        "task": one.task.key,
        "data": {split: one.splits[split].fingerprint() for split in one.task.scored_splits},
        "seeds": [job.seed for job, _ in one.runs] or [0],
        "predictions": {split: [list(seed) for seed in one.predictions[split]] for split in one.task.scored_splits},
    }
    write_whole(path, json.dumps(content, ensure_ascii=False) + "\n")
