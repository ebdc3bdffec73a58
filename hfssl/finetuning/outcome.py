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
from hfssl.evaluation.scoring import Predictions, score_task, task_score
from hfssl.evaluation.significance import bootstrap_task, interval
from hfssl.evaluation.submission import Submission, write_submission
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task, suite_tasks
from hfssl.files import write_whole
from hfssl.finetuning.arguments import as_command
from hfssl.finetuning.builtin_models import BASELINES
from hfssl.finetuning.loop import confidence, decode
from hfssl.finetuning.plan import whole_updates
from hfssl.finetuning.runs import Run, best_run, read_logits
from hfssl.finetuning.strategies.combination import combine, in_order
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.finetuning.suite import Suite
from hfssl.finetuning.word_vectors import SAID

FORMAT = "hfssl-nlu-predictions"


@dataclass
class TaskRuns:
    """One task with its predictions.

    Attributes:
        runs: one a seed or member; none where nothing is trained (WNLI as majority).
        predictions: by split, of each seed; of an ensemble one, its own.
        best: which of the seeds is best on dev: its test predictions are handed in.
        confidences: of that seed, by split, the share that the prediction of each row had; NaN for scores.
        singles: of an ensemble, by split, the predictions of each member.
    """

    task: Task
    splits: dict[str, SplitData]
    runs: list[Run]
    predictions: dict[str, list[Predictions]]
    best: int = 0
    confidences: dict[str, np.ndarray] = field(default_factory=dict)
    singles: dict[str, list[Predictions]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Of the predictions."""
        return [0] if self.singles or not self.runs else [job.seed for job, _ in self.runs]

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
        logits = _logits(suite, task, predicted, runs[owner])
        found[name] = _predictions(suite, task, splits, logits, runs[owner])
    return found


def _logits(suite: Suite, task: Task, splits: dict[str, SplitData], runs: list[Run]) -> dict[str, list[np.ndarray]]:
    """By split, those of each run.

    Raises:
        InputError: they are gone, or of other rows.
    """
    found: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    for job, record in runs:
        folder = suite.folder_of(job)
        logits = read_logits(folder, job.name)
        for split, data in splits.items():
            key = f"{task.name}.test" if task.is_diagnostic else split
            same = not task.is_diagnostic or record["diagnostics"].get(task.name) == data.fingerprint()
            if key not in logits or not same:
                raise InputError(f"job {job.name} has no predictions of these rows of {task.title} {split}; delete "
                                 f"its line in {folder / 'ledger.jsonl'} to do it again")  # fmt: skip
            found[split].append(logits[key])
    return found


def _predictions(
    suite: Suite, task: Task, splits: dict[str, SplitData], logits: dict[str, list[np.ndarray]], runs: list[Run]
) -> TaskRuns:  # fmt: skip
    """What the runs' logits say, or what their ensemble says."""
    trick, ensemble = suite.trick(task), suite.strategy.part("ensemble")
    orders = [tuple(record["head"]) for _, record in runs]

    def say(data: SplitData, logits: np.ndarray, order: tuple[str, ...]) -> Predictions:
        return _ranked(data, logits, order) if trick else decode(data, logits, order)

    each = {
        split: [say(splits[split], one, order) for one, order in zip(members, orders, strict=True)]
        for split, members in logits.items()
    }
    best, singles = runs.index(best_run(runs)), {}
    if ensemble:
        aligned = {
            split: [in_order(one, order, orders[0]) for one, order in zip(members, orders, strict=True)]
            for split, members in logits.items()
        }
        logits = {split: [combine(splits[split], members, ensemble.average)] for split, members in aligned.items()}
        singles, best = each, 0
        each = {split: [say(splits[split], joined, orders[0])] for split, (joined,) in logits.items()}
    sure = {
        split: np.full(len(splits[split]), np.nan) if trick else confidence(splits[split], members[best])
        for split, members in logits.items()
    }
    return TaskRuns(task, splits, runs, each, best, sure, singles)


def _ranked(data: SplitData, logits: np.ndarray, order: tuple[str, ...]) -> Predictions:
    """WNLI's rows of one text against each other."""
    yes, no = order.index("entailment"), order.index("not_entailment")
    return ranked_hypotheses(data, (logits[:, yes] - logits[:, no]).tolist())


def make_result(suite: Suite, tasks: dict[str, TaskRuns]) -> ModelResult:
    """The result of the suite on dev, with intervals over items and seeds."""
    scored = {name: one for name, one in tasks.items() if one.is_scored}
    runs = [*(one.runs for one in tasks.values()), *suite.trials.values()]
    jobs = {job.name: record for found in runs for job, record in found}
    records = [*jobs.values(), *suite.shared]
    real = sum(record["tokens"] for record in records)
    padded = sum(record["tokens"] * record["padding_ratio"] for record in records)
    results = {name: _task_result(suite, one) for name, one in scored.items()}
    return ModelResult(
        model=suite.args.model,
        suite=suite.suite,
        part="dev",
        tasks=results,
        protocol=_protocol(suite),
        kind=_kind(suite),
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
        notes=[*_notes(suite, tasks), *_members_notes(tasks, results)],
    )  # fmt: skip


def _kind(suite: Suite) -> str:
    if suite.strategy.part("ensemble"):
        return "ensemble"
    return "baseline" if suite.args.model in BASELINES or suite.has_word_vectors else "single"


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
    settings = {"data_dir": suite.args.data_dir} | (_settings(suite, one) if one.runs else {})
    if suite.strategy.part("ensemble") and one.runs:
        settings |= {"member_scores": _member_scores(one, dev)}
    return TaskResult(
        scores={name: [100 * scores.values[name] for scores in each] for name in task.score_names},
        seeds=one.seeds,
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


def _settings(suite: Suite, one: TaskRuns) -> dict[str, Any]:
    """What the runs of a task were trained with, and what became of them; of other folders' runs each has its own."""
    ensemble, (job, record) = suite.strategy.part("ensemble"), one.runs[0]
    if suite.members is not None:
        said = ("strategy", "strategy_options", "settings")
        members = [
            {"folder": str(suite.members.folders[job.name])} | {key: record[key] for key in said if key in record}
            for job, record in one.runs
        ]
        return {
            "strategy": suite.strategy.name, "strategy_options": suite.strategy.options, "average": ensemble.average,
            "jobs": [job.name for job, _ in one.runs], "members": members,
        }  # fmt: skip
    settings = record["settings"] | {"recipe": suite.recipe_name, "updates": record["updates"]}
    if suite.loop.max_steps > 0:
        rows = len(suite.data[job.task.name]["train"])
        settings |= {"max_steps": suite.loop.max_steps, "whole_updates": whole_updates(job.settings, rows)}
    settings |= {"selection": record["selection"], "head": record["head"], "trial": job.trial}
    settings |= {"jobs": [job.name for job, _ in one.runs], "frozen_encoder": suite.loop.freeze_encoder}
    if not (training := suite.strategy.training.for_task(job.task)).is_plain:  # the record may be another command's
        settings |= {"strategy": training.name, "strategy_options": training.options}
    if suite.args.search:
        settings |= {"trials": _trials(suite.trials[job.task.name])}
    if ensemble:
        settings |= {"strategy": suite.strategy.name, "average": ensemble.average}
    return settings | {"last_epoch_score": statistics.median(100 * record["last_score"] for _, record in one.runs)}


def _member_scores(one: TaskRuns, dev: dict[str, SplitData]) -> list[float]:
    """The task's score of each member, in points."""
    members = range(len(one.runs))
    each = [score_task(one.task, dev, {split: one.singles[split][number] for split in dev}) for number in members]
    return [100 * task_score(one.task, scores.values) for scores in each]


def _members_notes(tasks: dict[str, TaskRuns], results: dict[str, TaskResult]) -> list[str]:
    """Of each task the ensemble's score beside its members'."""
    notes = []
    for name, found in results.items():
        if tasks[name].singles:
            task, members = tasks[name].task, ", ".join(f"{score:.1f}" for score in found.settings["member_scores"])
            notes.append(f"{task.title}: the ensemble {task_score(task, found.median()):.1f}, its members {members}")
    return notes


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
    if one.singles:
        return [
            *per_seed[0],
            *dict.fromkeys(f"of a member: {flag}" for _, record in one.runs for flag in record["flags"]),
        ]
    if not (one.task.is_diagnostic or trick):
        per_seed = [record["flags"] for _, record in one.runs] or [[]]
    elif trick and one.runs:
        kept = [[flag for flag in record["flags"] if "constant" not in flag] for _, record in one.runs]
        per_seed = [scored + flags for scored, flags in zip(per_seed, kept, strict=True)]
    seeds = one.seeds
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
    loop, several, ensemble = suite.loop, suite.seeds > 1, suite.strategy.part("ensemble")
    if suite.args.ensemble_of:
        return f"Nothing is trained: the members are the runs of {suite.args.ensemble_of}. {_averaged(ensemble)}"
    reported = (
        "test predictions are those of the seed that is best on dev; intervals are the 95 % bootstrap over "
        f"items{' and seeds' * several}." if ensemble is None else _averaged(ensemble)
    )  # fmt: skip
    parts = [
        f"Fine-tuned for each task with the recipe {suite.recipe_name} ({suite.recipe.source}) and what "
        "`settings` says; linear warm-up and decay.",
        "The epoch with the best dev score is reported: dev scores are optimistic by that choice; the last epoch's "
        "stand in `settings`." if loop.selection == "best" else "The last epoch is reported.",
        f"{suite.seeds} seed{'s' * several} (head, dropout, order of the data); {reported}",
    ]  # fmt: skip
    training = suite.strategy.training
    if not training.is_plain:
        papers = ", ".join(part.source for part in training.parts if part.source)
        parts.append(f"The strategy is {training.name} ({papers}) with the `strategy_options` in `settings`.")
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


def _averaged(ensemble: Strategy) -> str:
    how = "probabilities (of scores: the scores)" if ensemble.average == "mean" else "ranks"
    return (
        f"The result is that of an ensemble, the mean of its members' {how}, each at its best epoch on dev; the "
        "members' own scores stand in `settings` as member_scores; intervals are the 95 % bootstrap over items."
    )


def _notes(suite: Suite, tasks: dict[str, TaskRuns]) -> list[str]:
    notes = []
    if suite.source.separator:
        notes.append(f"a pair's texts are joined with {suite.source.separator}")
    if suite.source.tokenizer.pad_token == suite.source.tokenizer.eos_token:
        notes.append("the model has no padding token: its end token is used, under the attention mask")
    if "wnli" in tasks and (trick := suite.trick(tasks["wnli"].task)):
        notes.append(f"WNLI: {TRICKS[trick]}")
    notes += suite.members.notes if suite.members else []
    notes += [f"shared stage, seed {one['seed']}: {flag}" for one in suite.shared for flag in one["flags"]]
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
        "seeds": one.seeds,
        "predictions": {split: [list(seed) for seed in one.predictions[split]] for split in one.task.scored_splits},
    }
    write_whole(path, json.dumps(content, ensure_ascii=False) + "\n")
