"""`hfssl verify-claim`: does a blank language model beat a left-to-right one on GLUE, at a given budget?

    OUT/ledger.jsonl   a line for each job that is done: each pretraining and each fine-tuning is one
    OUT/pretrained/    the pretrained models, as from_pretrained takes them
    OUT/predictions/   dev predictions of each fine-tuning, with the name of its job
    OUT/claim.json     the verdict with all behind it; claim.csv, claim_differences.csv, claim.png

Budgets and seeds may be added later: the same command with more of them does what is missing. Devlin et al. 2019
(table 5) is the evidence of old; that it depends on the budget, Gisserot-Boukhlef et al. 2025 (arXiv 2507.00994).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from hfssl.data.blocks import CorpusArguments, fit_vocabulary, load_text_data
from hfssl.data.sources import TextArguments
from hfssl.errors import InputError, one_of
from hfssl.evaluation.baseline_results import baseline_results
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import Task, select_tasks
from hfssl.files import write_whole
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.builtin_models import make_builtin
from hfssl.finetuning.encoding import VERSION, TaskEncoder
from hfssl.finetuning.heads import choose_head
from hfssl.finetuning.loop import check_parts, decode, fine_tune, training_arguments
from hfssl.finetuning.recipes import find_recipe
from hfssl.finetuning.sources import Source, open_source
from hfssl.studies.claim_pretraining import (
    ARMS,
    BUDGETS,
    LM,
    LM_THEN_BLANK,
    Pretraining,
    Settings,
    budget_text,
    same_network,
)
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

POOLINGS = ("mean", "last", "first")  # of equally good ones the first is taken
CONTROLS = ("none", "null", "planted")
LEAST_SEEDS = 3
CHOOSING_SEED = 1000  # of the fine-tunings that choose the pooling, whose scores count for nothing else
RANDOM, TF_IDF, CBOW = "random init", "TF-IDF", "CBOW"


@dataclass
class ClaimArguments:
    """Which budgets, tasks and seeds; how every arm is pretrained. How it is fine-tuned `hfssl glue`'s flags say."""

    out: str = field(default="out/claim", metadata={"help": "The folder for all of it."})
    data_dir: str = field(default="hub", metadata={"help": "GLUE's data: a folder, builtin:toyglue, or hub."})
    tasks: str = field(default="all", metadata={"help": "all, or names with commas: cola,rte."})
    budget: str = field(default="tokens", metadata={"help": "What every arm has as much of: tokens, flops or seconds."})
    budgets: list[float] = field(default_factory=list, metadata={"help": "How much of it: one or more, for a curve."})
    then_share: float = field(
        default=0.5, metadata={"help": "Of the budget, the blanks' part in LM then blank LM; 0 leaves that arm out."}
    )
    pretraining_seeds: int = field(default=LEAST_SEEDS, metadata={"help": "Pretrainings of each arm, at least 3."})
    fine_tuning_seeds: int = field(default=LEAST_SEEDS, metadata={"help": "Fine-tunings of each, at least 3."})
    few_seeds: bool = field(default=False, metadata={"help": "Allow fewer seeds, for a try: the verdict then says so."})
    pretraining_batch_size: int = field(default=32, metadata={"help": "Blocks of a pretraining step."})
    pretraining_learning_rate: float = field(default=5e-4, metadata={"help": "The highest one, of each arm."})
    pretraining_warmup: float = field(default=0.06, metadata={"help": "Share of the steps in which it rises."})
    pretraining_weight_decay: float = field(default=0.01, metadata={"help": "Not of biases and norms."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that a blank LM predicts."})
    checkpoint_steps: int = field(default=500, metadata={"help": "Steps between two checkpoints of a pretraining."})
    control: str = field(
        default="none",
        metadata={"help": "Check the procedure: null (LM is a second blank LM), planted (LM learns wrong labels)."},
    )

    def __post_init__(self):
        for name, value, choices in (("budget", self.budget, BUDGETS), ("control", self.control, CONTROLS)):
            one_of(f"--{name}", value, choices)
        if not self.budgets or not all(0 < value < math.inf for value in self.budgets):
            raise InputError(f"--budgets takes positive numbers, of {self.budget}; not {self.budgets or 'none'}")
        if not 0 <= self.then_share < 1:
            raise InputError(f"--then_share must be at least 0 and below 1, not {self.then_share}")
        for name, least in (("pretraining_seeds", 2), ("fine_tuning_seeds", 1)):  # of one pretraining no t test is
            value = getattr(self, name)
            if value < (least if self.few_seeds else LEAST_SEEDS):
                more = f"at least {least} with --few_seeds" if self.few_seeds else "--few_seeds allows fewer, for a try"
                raise InputError(f"--{name} {value} are too few for a verdict, which takes {LEAST_SEEDS}; {more}")
        for name in ("pretraining_batch_size", "pretraining_learning_rate", "checkpoint_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"--{name} must be positive, not {getattr(self, name)}")
        if not 0 < self.mlm_probability < 1:
            raise InputError(f"--mlm_probability is a share, above 0 and below 1, not {self.mlm_probability}")
        if not 0 <= self.pretraining_warmup < 1:
            raise InputError(f"--pretraining_warmup is a share, at least 0 and below 1, not {self.pretraining_warmup}")
        if not 0 <= self.pretraining_weight_decay < math.inf:
            raise InputError(f"--pretraining_weight_decay must be 0 or positive, not {self.pretraining_weight_decay}")
        self.budgets = sorted(set(self.budgets))

    @property
    def has_few_seeds(self) -> bool:
        return min(self.pretraining_seeds, self.fine_tuning_seeds) < LEAST_SEEDS


@dataclass(frozen=True)
class Tuning:
    """A job: one fine-tuning of the model in a folder.

    Attributes:
        pooling: of CBoW what its words are.
        anchor: `CBOW` for GLUE's baseline, `TF_IDF` for what has no folder; empty for a net of the arms'.
        misled: the training rows have wrong labels.
    """

    folder: Path
    task: Task
    pooling: str
    seed: int
    anchor: str = ""
    misled: bool = False


Fitted = dict[tuple[str, str], list[dict[str, Any]]]  # by model and task, the records of the fine-tuning seeds


class ClaimStudy:
    """All that is compared, once it is known to be sound.

    Raises:
        InputError: an unknown task, missing data, a budget of less than one step (of tokens or flops), settings that do
            not go together, or another study in the folder.

    Attributes:
        arms: their names; `tasks`: those with labels on dev.
        data: by task, "train" and the dev splits.
    """

    def __init__(
        self, config: BertConfig, text: TextArguments, corpus: CorpusArguments, args: ClaimArguments,
        loop: LoopArguments,
    ):  # fmt: skip
        if corpus.document_mask:
            raise InputError("--document_mask has no use here: stock BERT cannot keep documents apart left to right")
        for part in loop.make_strategy().parts:
            if part.takes != "any" or {"head", "start", "predictions"} & {*part.changes}:
                raise InputError(
                    f"--strategy {part.name} has no use here: every arm is one encoder, fine-tuned task by task, under "
                    "a head whose pooling is chosen on dev"
                )
        self.args, self.loop, self.out = args, loop, Path(args.out).expanduser()
        asked = select_tasks("glue", args.tasks)
        if args.tasks.strip() != "all" and any(task.is_diagnostic for task in asked):
            raise InputError("AX has no labels to score on: leave it out of --tasks")
        self.tasks = [task for task in asked if not task.is_diagnostic]
        for task in self.tasks:
            for model in ("", CBOW):
                check_parts(task, self._settings(task, model).batch_size, loop.gradient_accumulation_steps)
        self.data = {
            task.name: {split: load_split(task, split, args.data_dir) for split in ("train", *task.dev_splits)}
            for task in self.tasks
        }
        data = load_text_data(text, corpus, style="bert")
        fit_vocabulary(config, data.tokenizer, corpus.block_size)
        bf16 = training_arguments(self._settings(self.tasks[0]), loop, 0, self.out).bf16
        settings = Settings(
            args.pretraining_batch_size, args.pretraining_learning_rate, args.pretraining_warmup,
            args.pretraining_weight_decay, args.mlm_probability, args.checkpoint_steps, args.then_share, bf16,
            args.control,
        )  # fmt: skip
        self.pretraining = Pretraining(config, data, settings, args.budget)
        self.arms = [arm for arm in ARMS if arm != LM_THEN_BLANK or args.then_share]
        if args.budget != "seconds":  # else its steps are measured first
            for arm in self.arms:
                self.pretraining.plan(arm, args.budgets[0])
        self.seeds = range(args.pretraining_seeds)
        self.ledger = Ledger(self.out / "ledger.jsonl", self.identity())
        self.ledger.check()
        self._encoders: dict[str, TaskEncoder] = {}

    def identity(self) -> dict[str, Any]:
        """What the results depend on besides the names of the jobs."""
        pretraining = asdict(self.pretraining.settings)
        del pretraining["checkpoint_steps"]
        found = {"study": "verify-claim", "budget": self.args.budget, "text": self.pretraining.data.train.fingerprint}
        found |= pretraining | {f"fine-tuning {name}": value for name, value in asdict(self.loop).items()}
        found |= {f"model.{name}": value for name, value in self.pretraining.config.to_diff_dict().items()}
        found.pop("model.transformers_version", None)
        return json.loads(json.dumps(found, default=str))

    def inputs(self) -> dict[str, Any]:
        """Where the text and the tasks are from, and a hash of the rows of each."""
        rows = {f"{name} {split}": rows.fingerprint() for name, splits in self.data.items()
                for split, rows in splits.items()}  # fmt: skip
        return {"text": self.pretraining.data.train.source, "data_dir": self.args.data_dir, "rows": rows}

    def run(self) -> tuple[dict[str, dict[str, Any]], Fitted, dict[str, str], dict[str, Any]]:
        """Does what is missing.

        Returns:
            By model, what its pretraining came to ({} without any); by model and task the fine-tunings; by model its
            pooling; what all nets have in common, of `same_network`.
        """
        pretrained = self._pretrain()
        folders = {name: self._folder(name) for name in pretrained}
        for seed in self.seeds:
            name = f"{RANDOM}/seed {seed}"
            folders[name] = self.pretraining.save_untrained(seed, self._folder(name))
        net = same_network(folders)
        logger.info(
            "Every arm, as saved: %s non-embedding parameters of the same shapes, %s tokens of the tokenizer %s",
            f"{net['non-embedding parameters']:,}", f"{net['vocabulary']:,}", net["tokenizer"],
        )  # fmt: skip
        poolings = self._choose(folders)
        jobs = {
            self._name(name, task, poolings[name], seed): self._tuning(name, task, poolings[name], seed)
            for name in folders for task in self.tasks for seed in range(self.args.fine_tuning_seeds)
        }  # fmt: skip
        jobs |= self._anchors()
        done = self.ledger.run(jobs, self._tune)
        fitted: Fitted = {}
        for job, record in done.items():
            name, _, rest = job.partition(" | ")
            fitted.setdefault((name, rest.partition("-")[0]), []).append(record | {"job": job})
        return {name: pretrained.get(name, {}) for name in folders}, fitted, poolings, net

    def _pretrain(self) -> dict[str, dict[str, Any]]:
        speeds = None
        if self.args.budget == "seconds":
            measured = {"speed": self.out / "speed"}
            speeds = self.ledger.run(measured, lambda name, folder: self.pretraining.measure(folder))["speed"]
        jobs = {}
        for budget in reversed(self.args.budgets):  # the longest first
            for seed in self.seeds:
                for arm in self.arms:
                    stages = self.pretraining.plan(arm, budget, speeds)
                    jobs[self.model_name(arm, budget, seed)] = (arm, seed, stages)

        def execute(name: str, job: tuple) -> dict[str, Any]:
            arm, seed, stages = job
            steps = ", ".join(f"{stage.steps:,} of {stage.objective}" for stage in stages)
            logger.info("%s: pretraining, %s steps", name, steps)
            return self.pretraining.train(arm, seed, stages, self._folder(name))

        return self.ledger.run(jobs, execute)

    def _choose(self, folders: Mapping[str, Path]) -> dict[str, str]:
        """The pooling of each model that is best on dev over all tasks, by fine-tunings of their own.

        It is chosen for each model by itself: one choice for all seeds of an arm would make their scores depend on each
        other, which the t test takes to be independent.
        """
        jobs, kept = {}, {}
        for name in folders:
            for pooling in POOLINGS:
                for task in self.tasks:
                    job = self._name(name, task, pooling, CHOOSING_SEED)
                    jobs[job] = self._tuning(name, task, pooling, CHOOSING_SEED)
                    kept.setdefault(name, {}).setdefault(pooling, []).append(job)
        done = self.ledger.run(jobs, self._tune)
        chosen = {}
        for name, found in kept.items():
            means = {pooling: np.mean([done[job]["score"] for job in found[pooling]]) for pooling in POOLINGS}
            chosen[name] = max(means, key=means.get)
        return chosen

    def _anchors(self) -> dict[str, Tuning]:
        """TF-IDF once, and CBoW (GLUE's baseline, which a task trains) with each fine-tuning seed."""
        jobs = {self._name(TF_IDF, task, "auto", 0): Tuning(Path(), task, "auto", 0, TF_IDF) for task in self.tasks}
        texts = (text for splits in self.data.values() for column in splits["train"].texts for text in column)
        words = _digest([self.data[task.name]["train"].fingerprint() for task in self.tasks])  # of all tasks chosen
        folder = make_builtin("builtin-cbow", texts, self.out / f"builtin-cbow-{words}")
        for task in self.tasks:
            for seed in range(self.args.fine_tuning_seeds):
                job = Tuning(folder, task, f"words {words}", seed, CBOW)
                jobs[self._name(CBOW, task, job.pooling, seed)] = job
        return jobs

    def model_name(self, arm: str, budget: float, seed: int) -> str:
        """What a pretrained model is called."""
        return f"{arm}/{budget_text(budget)} {self.args.budget}/seed {seed}"

    def _folder(self, name: str) -> Path:
        return self.out / "pretrained" / name.replace("/", "-").replace(" ", "-")

    def _name(self, model: str, task: Task, pooling: str, seed: int) -> str:
        """Of a fine-tuning's job, by all that decides it besides the settings of the ledger."""
        data = {split: rows.fingerprint() for split, rows in self.data[task.name].items()}
        digest = _digest([task.version, VERSION, asdict(self._settings(task, model)), data])
        return f"{model} | {task.name}-{digest}, {pooling}, seed {seed}"

    def _tuning(self, name: str, task: Task, pooling: str, seed: int) -> Tuning:
        misled = self.args.control == "planted" and name.startswith(f"{LM}/")
        return Tuning(self._folder(name), task, pooling, seed, misled=misled)

    def _settings(self, task: Task, model: str = ""):
        """Of the arms those of the flags; CBoW has GLUE's own, whatever they say."""
        if model == CBOW:
            return find_recipe("scratch", "")[1].settings(task)
        return find_recipe(self.loop.recipe, "bert")[1].settings(task, **self.loop.changes)

    def _tune(self, name: str, job: Tuning) -> dict[str, Any]:
        """One fine-tuning: its score on dev (of 1), its flags; the predictions go to a file."""
        splits = self.data[job.task.name]
        if job.anchor == TF_IDF:
            (result,) = baseline_results("glue", self.args.data_dir, [job.task], [TF_IDF])
            scores = result.tasks[job.task.name].scores
            return {"score": float(np.mean([scores[key][0] for key in job.task.score_names])) / 100, "flags": []}
        made = job.anchor == CBOW
        source = open_source("builtin-cbow" if made else str(job.folder), made=job.folder if made else None)
        if job.misled:
            splits = {**splits, "train": _mislabelled(splits["train"])}
        plain = dataclasses.replace(self.loop, strategy="plain", strategy_options=[])
        loop = plain if made else _pooled(self.loop, job.pooling)
        settings = self._settings(job.task, job.anchor)
        head = choose_head(source, job.task, make=loop.make_strategy().head(source, job.task))
        tuned = fine_tune(source, job.task, splits, self._encoder(source), head, settings, loop, job.seed, self.out)
        predictions = {
            split: list(decode(splits[split], tuned.logits[split], head.order)) for split in job.task.dev_splits
        }
        write_whole(self._predictions(name), json.dumps({"job": name, "predictions": predictions}))
        return {key: tuned.record[key] for key in ("score", "scores", "seconds", "flags")}

    def _encoder(self, source: Source) -> TaskEncoder:
        """One for all arms: they have one tokenizer."""
        encoder = TaskEncoder(source.tokenizer, min(self.loop.max_length, source.positions), source.takes_types)
        return self._encoders.setdefault(encoder.identity, encoder)

    def _predictions(self, job: str) -> Path:
        digest = hashlib.blake2b(job.encode(), digest_size=8).hexdigest()  # a name of 100 letters is none for a file
        return self.out / "predictions" / f"{digest}.json"

    def predictions(self, job: str) -> dict[str, list]:
        """The dev predictions of a fine-tuning, by split.

        Raises:
            InputError: they are gone.
        """
        try:
            return json.loads(self._predictions(job).read_text())["predictions"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"cannot read {self._predictions(job)}: {error}; delete the line of {job!r} in {self.ledger.path} to "
                "do that job again"
            ) from None


def _digest(decides: list) -> str:
    return hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=4).hexdigest()


def _pooled(loop: LoopArguments, state: str) -> LoopArguments:
    """The same with the head of a pooling."""
    strategy = "pooled" if loop.strategy == "plain" else f"{loop.strategy}+pooled"
    return dataclasses.replace(
        loop, strategy=strategy, strategy_options=[*loop.strategy_options, f"pooled.state={state}"]
    )


def _mislabelled(train: SplitData) -> SplitData:
    """The rows with wrong labels: each class is the next one, of scores the high ones are low."""
    if train.task.kind == "regression":
        return dataclasses.replace(train, labels=[max(train.labels) - label for label in train.labels])
    names = train.task.labels
    return dataclasses.replace(train, labels=[names[(names.index(label) + 1) % len(names)] for label in train.labels])
