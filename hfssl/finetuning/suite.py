"""`hfssl glue` and `hfssl superglue`: every job of a suite through the ledger, then the results.

    OUT/ledger.jsonl       a line for each job that is done
    OUT/jobs/NAME/         its predictions (logits by split)
    OUT/models/TASK/       the best model on dev, as from_pretrained takes it
    OUT/multitask/NAME/    the shared stages of --strategy multitask
    OUT/glue_dev.json      the result, which `hfssl leaderboard OUT` shows
    OUT/predictions/       dev predictions of each seed, which `hfssl compare` reads
    OUT/submission.zip     for the server; OUT/report.html

The same command again does what is missing; a job that was killed is done anew, and no other.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import torch

from hfssl.data.toyglue import TOYGLUE, toy_texts
from hfssl.errors import InputError
from hfssl.evaluation.diagnostic import load_diagnostic
from hfssl.evaluation.results import TRICKS, read_result
from hfssl.evaluation.task_data import SplitData, load_split, load_task
from hfssl.evaluation.tasks import SPAN_KINDS, TASKS, Task, select_tasks, suite_tasks
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.builtin_models import BASELINES, BUILTIN, dropped_if_refused, make_builtin
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.loop import check_parts, fine_tune
from hfssl.finetuning.mnli_start import check_mnli, open_mnli
from hfssl.finetuning.plan import SHARED, Job, make_job, shared_job, trained_tasks
from hfssl.finetuning.recipes import Recipe, Settings, find_recipe
from hfssl.finetuning.runs import Run, best_run, check_folder, read_members, write_logits
from hfssl.finetuning.saved_models import SavedModels
from hfssl.finetuning.shared_stage import SharedTask, head_of, train_shared
from hfssl.finetuning.sources import Source, open_source
from hfssl.finetuning.word_vectors import LEARNING_RATE, are_word_vectors, make_sentence_model
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

# What a run starts from: its folder or its job, what that was fine-tuned on, and what it is identified by.
Start = tuple[str, str, str]


class Suite:
    """What is run, once it is known to be sound: the model, the data of every task, the heads.

    Raises:
        InputError: on all that would fail later: an unknown task, missing data, no model, a head that does not fit.

    Attributes:
        has_word_vectors: the model is the mean of frozen word vectors under a linear layer.
        tasks: those asked for, diagnostic sets too; `trained` have a model of their own.
        data: by task, its splits by name.
        trials: by task, the runs of the grid, once they are done.
        shared: the records of the shared stages, once they are done; of members those that they started from.
        members: the runs of other folders, for an ensemble of them.
    """

    def __init__(self, suite: str, args: SuiteArguments, loop: LoopArguments):
        self.has_word_vectors = are_word_vectors(args.model)
        if self.has_word_vectors:
            loop = dataclasses.replace(loop, freeze_encoder=True, learning_rate=loop.learning_rate or LEARNING_RATE)
        self.suite, self.args, self.loop, self.strategy = suite, args, loop, loop.make_strategy()
        self.out = Path(args.out or f"out/{suite}-{Path(args.model).name}").expanduser()
        self.tasks = select_tasks(suite, args.tasks)
        self._refuse_unused()
        self.trained = trained_tasks(suite, self.tasks, args.wnli)
        self.strategy.check_tasks(self.trained)
        check_folder(self.out, suite)
        self.seeds = args.seeds or (5 if torch.cuda.is_available() else 1)
        self.data = self._load_data()
        given = open_mnli(args, loop, self.strategy)
        self._check_parts(None if args.model not in BUILTIN else find_recipe(loop.recipe, "", False)[1])
        folders = [name.strip() for name in (args.ensemble_of or "").split(",") if name.strip()]
        self.members = read_members(folders, suite, self.trained, self.data) if folders else None
        self.shared: list[dict[str, Any]] = self.members.shared if self.members else []
        with dropped_if_refused(self.out):
            self._open(given)

    def _open(self, given: Source | None) -> None:
        """The model, and what must hold of it."""
        self.source = self._open_model()
        args, loop = self.args, self.loop
        self.recipe_name, self.recipe = find_recipe(loop.recipe, self.source.config.model_type, self.source.pretrained)
        self._check_parts(self.recipe)
        self.encoder = self._encoder(self.source)
        self.strategy.check(self.source)
        for task in self.trained:
            self.strategy.choose_head(self.source, task, loop.new_head)
            if task.kind in SPAN_KINDS and not self.source.tokenizer.is_fast:
                raise InputError(f"{task.title} needs a tokenizer that says where its tokens are: a fast one")
        self.mnli = self._given_mnli(given)
        self._earlier = ("", "", "")  # of an MNLI model that an earlier command left here
        # Of a builtin model the name: its vocabulary is that of the tasks asked for.
        model = args.model if args.model in BUILTIN else self.source.fingerprint
        self.ledger = Ledger(self.out / "ledger.jsonl", {"suite": self.suite, "model": model})
        self._refuse_another_model(model)
        self.models = SavedModels(self.out / "models", args.save_models)
        self.trials: dict[str, list[Run]] = {}
        self._planned: dict[str, list[str]] = {}  # names of jobs by task

    def _refuse_unused(self) -> None:
        """Flags that say something of a task that is not there."""
        names = {task.name for task in self.tasks}
        if self.args.ensemble_of is not None and not self.strategy.part("ensemble"):
            raise InputError("--ensemble_of names the members of an ensemble: add --strategy ensemble")
        if self.args.ensemble_of is not None and len(self.strategy.parts) > 1:
            raise InputError(f"--ensemble_of trains nothing: give --strategy ensemble, not {self.strategy.name}")
        if self.args.wnli != "trained" and "wnli" not in names:
            raise InputError(f"--wnli {self.args.wnli} has no use without WNLI: add wnli to --tasks")
        if self.args.diagnostic and not (self.suite == "glue" and "mnli" in names):
            raise InputError("--diagnostic is for AX, which GLUE's MNLI model predicts: add mnli to --tasks")

    def _check_parts(self, recipe: Recipe | None) -> None:
        """The batches of all jobs can be accumulated; of a builtin model that is known before it is made."""
        shared = self.strategy.part("multitask")
        for task in self.trained if recipe else ():
            if shared:
                check_parts(task, shared.batch_size, self.loop.gradient_accumulation_steps)
            for settings in recipe.trials(task, **self.loop.changes)[: None if self.args.search else 1]:
                check_parts(task, settings.batch_size, self.loop.gradient_accumulation_steps)

    def _refuse_another_model(self, model: str) -> None:
        """One folder holds one model: its result has one name, and other tasks start from its MNLI model."""
        if self.ledger.is_of_others():
            path = self.out / f"{self.suite}_dev.json"
            other = f"{read_result(path).model}, or of other weights" if path.exists() else "another model"
            raise InputError(f"{self.out} holds results of {other}; give {self.args.model} another --out")

    def _load_data(self) -> dict[str, dict[str, SplitData]]:
        source, data = self.args.data_dir, {}
        everything = self.args.tasks.strip() == "all"
        for task in self.tasks:
            if not task.is_diagnostic:
                data[task.name] = load_task(task, source)
        for task in suite_tasks(self.suite).values():
            if not task.is_diagnostic or task.model_of not in data:
                continue
            if task.name == "ax" and self.args.diagnostic:
                data[task.name] = {"test": load_diagnostic(self.args.diagnostic)[0]}
                continue
            found = load_split(task, "test", source, required=task in self.tasks and not everything)
            if found is not None:
                data[task.name] = {"test": found}
        return data

    def _open_model(self) -> Source:
        name, made = self.args.model, None
        if name in BUILTIN:
            made = make_builtin(name, self._training_texts(), self.out / self._builtin_folder(name))
        elif self.has_word_vectors:
            made = make_sentence_model(name, self.out)
        return open_source(name, self.loop.trust_remote_code, made)

    def _builtin_folder(self, name: str) -> str:
        """Its vocabulary is that of the tasks' training data, so other tasks make another one."""
        if self.args.data_dir == TOYGLUE:  # one vocabulary for all
            return name
        trains = " ".join(splits["train"].fingerprint() for splits in self.data.values() if "train" in splits)
        return f"{name}-{hashlib.blake2b(trains.encode(), digest_size=4).hexdigest()}"

    def _training_texts(self):
        """What the tokenizer of a builtin model is trained on: never dev or test."""
        if self.args.data_dir == TOYGLUE:
            return toy_texts()
        trains = [splits["train"] for splits in self.data.values() if "train" in splits]
        return (text for train in trains for column in train.texts for text in column)

    def _encoder(self, source: Source) -> TaskEncoder:
        length = min(self.loop.max_length, source.positions)
        return self.strategy.encoder(source.tokenizer, length, source.takes_types)

    def _given_mnli(self, given: Source | None) -> Start | None:
        """Its folder, what it is, its fingerprint."""
        if given is None:
            return None
        tasks = [task for task in self.trained if self._starts_from_mnli(task)]
        check_mnli(given, self.source, self._encoder, self.strategy, tasks)
        return given.path, f"mnli ({given.name})", given.fingerprint

    def run(self) -> dict[str, list[Run]]:
        """Runs what is missing; returns for each trained task its runs, one a seed or member."""
        if self.members is not None:
            return self.members.runs
        gc.collect()
        gc.freeze()  # Trainer collects garbage at each beginning; what is loaded by now need not be looked through
        if self.strategy.part("multitask"):
            starts = self._run_shared()
            runs = self._run_tasks(self.trained, {task.name: starts for task in self.trained})
            return self._finished(runs)
        names = {task.name for task in self.trained}
        waits = "mnli" in names and self.mnli is None
        if not waits and self.mnli is None:
            self._earlier = self._earlier_mnli()
        later = [task for task in self.trained if self._starts_from_mnli(task) and waits]
        first = [task for task in self.trained if task not in later]
        runs = self._run_tasks(first, {task.name: [self._start(task)] * self.seeds for task in first})
        if later:
            job, record = best_run(runs["mnli"])
            start = (job.name, f"mnli (seed {job.seed}, score {100 * record['score']:.1f} on dev)", job.name)
            runs |= self._run_tasks(later, {task.name: [start] * self.seeds for task in later})
        return self._finished(runs)

    def _finished(self, runs: dict[str, list[Run]]) -> dict[str, list[Run]]:
        """Names the best models' folders; the runs in the order of the tasks."""
        with self.ledger.alone():
            self.models.finish({name: best_run(found)[0].name for name, found in runs.items()}, self._planned)
        return {task.name: runs[task.name] for task in self.trained}

    def _run_shared(self) -> list[Start]:
        """The shared stage with each seed, and what starts from it."""
        settings = self.strategy.part("multitask").settings
        data = {task.name: self.data[task.name] for task in self.trained}
        names = [shared_job(seed, settings, self.source, data, self.loop) for seed in range(self.seeds)]
        tasks = {
            task.name: SharedTask(
                task, data[task.name], self.strategy.choose_head(self.source, task, self.loop.new_head)
            )
            for task in self.trained
        }

        def execute(name: str, seed: int) -> dict[str, Any]:
            label = f"all {len(tasks)} tasks, seed {seed}"
            logger.info("%s: the shared stage", label)
            return train_shared(self.source, tasks, self.encoder, self.loop, seed, self.out / SHARED / name, label)

        found = self.ledger.run({name: seed for seed, name in enumerate(names)}, execute)
        self.shared = list(found.values())
        return [(name, f"all {len(tasks)} tasks together (seed {seed})", name) for seed, name in enumerate(names)]

    def folder_of(self, job: Job) -> Path:
        """Where a job's predictions are: of an ensemble's members in their own folders."""
        return self.out if self.members is None else self.members.folders[job.name]

    def left_out(self) -> list[str]:
        """Tasks that earlier commands did in this folder and this one was not asked for."""
        asked, done = {task.key for task in self.tasks}, {job["task"] for job in self.ledger.results().values()}
        return sorted(TASKS[key].name for key in done - asked if key in TASKS)

    def trick(self, task: Task) -> str | None:
        """Of WNLI: what its predictions are instead of the model's, one of `TRICKS`."""
        return self.args.wnli if task.name == "wnli" and self.args.wnli in TRICKS else None

    def _starts_from_mnli(self, task: Task) -> bool:
        """Not a frozen encoder, which MNLI would leave as it is, nor the baselines, which are of a single task."""
        takes = self.args.mnli_start and not self.loop.freeze_encoder and self.args.model not in BASELINES
        return takes and task.name in self.recipe.from_mnli

    def _start(self, task: Task) -> Start:
        return (self.mnli or self._earlier) if self._starts_from_mnli(task) else ("", "", "")

    def _earlier_mnli(self) -> Start:
        """The best MNLI model of the same model and strategy that an earlier command left here, if there is one."""
        options = self.strategy.training.for_task(TASKS["glue/mnli"]).options
        done = [
            (record["score"], name, record)
            for name, record in self.ledger.results().items()
            if record["task"] == "glue/mnli" and record.get("model") == self.source.fingerprint
            and record.get("strategy_options", {}) == options and self.models.find(name) is not None
        ]  # fmt: skip
        if not done:
            return "", "", ""
        score, name, record = max(done, key=lambda found: found[:1])
        return name, f"mnli (seed {record['seed']}, score {100 * score:.1f} on dev)", name

    def _start_folder(self, start: str) -> str:
        """Where the model is that a job starts from: looked up now, since another process may have renamed it.

        Raises:
            InputError: it is gone.
        """
        if self.mnli:
            return start
        if self.strategy.part("multitask"):
            if not (shared := self.out / SHARED / start).is_dir():
                ledger = self.out / "ledger.jsonl"
                raise InputError(f"the shared stage {shared} is gone; delete its line in {ledger} to do it again")
            return str(shared)
        for _ in range(20):  # while another process puts it in its place
            if folder := self.models.find(start):
                return str(folder)
            time.sleep(0.1)
        raise InputError(
            f"the model of {start} is gone from {self.out}, and other tasks start from it; give --mnli_start false or "
            "another --out"
        )

    def _run_tasks(self, tasks: list[Task], starts: dict[str, list[Start]]) -> dict[str, list[Run]]:
        """The grid on the first seed, if it is searched; then the other seeds with the best of it.

        Args:
            starts: by task, where each seed starts.
        """
        chosen: dict[str, tuple[int, Settings]] = {
            task.name: (0, self.recipe.settings(task, **self.loop.changes)) for task in tasks
        }
        if self.args.search:
            grids = {task.name: self.recipe.trials(task, **self.loop.changes) for task in tasks}
            jobs = [
                self._job(task, 0, trial, settings, starts[task.name][0])
                for task in tasks for trial, settings in enumerate(grids[task.name])
            ]  # fmt: skip
            for name, found in _by_task(jobs, self._execute_all(jobs)).items():
                self.trials[name] = found
                job, _ = best_run(found)
                chosen[name] = job.trial, job.settings
        jobs = [
            self._job(task, seed, *chosen[task.name], starts[task.name][seed])
            for task in tasks for seed in range(self.seeds)
        ]  # fmt: skip
        return _by_task(jobs, self._execute_all(jobs))

    def _job(self, task: Task, seed: int, trial: int, settings: Settings, start: Start) -> Job:
        return make_job(task, seed, trial, settings, self.source, self.data[task.name], self.loop, start)

    def _execute_all(self, jobs: list[Job]) -> dict[str, dict[str, Any]]:
        for job in jobs:
            self._planned.setdefault(job.task.name, []).append(job.name)
        ordered = sorted(jobs, key=lambda job: -job.cost)  # the longest first: no machine ends long after the others
        places = {job.name: place for place, job in enumerate(ordered, start=1)}

        def execute(name: str, job: Job) -> dict[str, Any]:
            logger.info("%s: %s updates; job %d of %d", job.label, f"{job.updates:,}", places[name], len(places))
            return self._execute(name, job)

        return self.ledger.run({job.name: job for job in ordered}, execute)

    def _execute(self, name: str, job: Job) -> dict[str, Any]:
        task, data = job.task, self.data[job.task.name]
        source, weights = self.source, None
        if job.start:
            opened = open_source(self._start_folder(job.start), self.loop.trust_remote_code)
            source = dataclasses.replace(opened, name=job.started_from)
        if self.strategy.part("multitask"):
            head, weights = head_of(Path(source.path), task)
        else:
            head = self.strategy.choose_head(source, task, self.loop.new_head or bool(job.start))
        diagnostics = {
            other: splits["test"]
            for other, splits in self.data.items()
            if suite_tasks(self.suite)[other].model_of == task.name
        }
        made = fine_tune(
            source,
            task,
            data,
            self.encoder,
            head,
            job.settings,
            self.loop,
            job.seed,
            self.out,
            diagnostics,
            job.label,
            weights,
        )
        record = made.record | {"trial": job.trial, "started_from": job.started_from, "task": task.key}
        record |= {"start": job.start, "model": self.source.fingerprint}
        record["diagnostics"] = {other: rows.fingerprint() for other, rows in diagnostics.items()}
        write_logits(self.out / "jobs" / name, made.logits)
        if self.models.wanted(task.name):
            earlier = [
                (other, found["score"])
                for other, found in self.ledger.results().items()
                if other in self._planned[task.name]
            ]
            self.models.save(made.model, source.tokenizer, name, task, record, earlier, self._planned[task.name])
        scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in record["scores"].items())
        logger.info("%s: %s on dev", job.label, scores)
        return record


def _by_task(jobs: list[Job], records: dict[str, dict[str, Any]]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for job in jobs:
        found.setdefault(job.task.name, []).append((job, records[job.name]))
    return found
