"""The strategies of fine-tuning in one table: the same model, tasks and seeds, each beside plain fine-tuning.

    OUT/STRATEGY/         what hfssl glue writes, with its ledger
    OUT/ledger.jsonl      whose folder it is, and the settings of all strategies
    OUT/strategies.json   rows, notes, settings, versions; OUT/strategies.csv the rows as a table

Every job is on the ledger of its strategy, so a study that was stopped goes on where it was. An ensemble trains
nothing: its members are the runs of the strategy that it is of. The difference to plain has a paired permutation test
over items, with Holm's correction over all strategies and tasks, which takes the runs as they are; what other seeds
would have done, Student's interval over the pairs of seeds says.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from hfssl.benchmarking import environment
from hfssl.errors import InputError
from hfssl.evaluation.paired import paired_t
from hfssl.evaluation.scoring import task_score
from hfssl.evaluation.significance import LEVEL, PERMUTATIONS, holm, paired_permutation
from hfssl.evaluation.tasks import suite_tasks
from hfssl.files import write_whole
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.builtin_models import dropped_if_refused
from hfssl.finetuning.command import complete_suite
from hfssl.finetuning.loop import check_parts
from hfssl.finetuning.outcome import TaskRuns
from hfssl.finetuning.recipes import find_recipe
from hfssl.finetuning.strategies import parse_strategy
from hfssl.finetuning.suite import Suite
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

PLAIN, ALL, MEAN = "plain", "ensemble of all", "mean"
STRATEGIES = ("plain", "roberta", "smart", "freelb", "alice", "hire", "multitask", "multitask+smart", "ensemble")


@dataclass
class StrategyStudyArguments:
    """Which strategies, on which model and tasks."""

    model: str = field(metadata={"help": "What hfssl glue takes."})
    strategies: list[str] = field(
        default_factory=lambda: list(STRATEGIES),
        metadata={"help": "As --strategy of hfssl glue; plain is always there."},
    )
    options: list[str] = field(
        default_factory=list, metadata={"help": "Of the strategies: smart.weight=3 freelb.steps=2."}
    )
    suite: str = field(default="glue", metadata={"help": "glue or superglue."})
    tasks: str = field(default="rte,mrpc", metadata={"help": "Names with commas."})
    data_dir: str = field(default="hub", metadata={"help": "As hfssl glue takes it."})
    seeds: int = field(default=3, metadata={"help": "Of each strategy."})
    save_models: str = field(default="none", metadata={"help": "Of each strategy and task: best, all, none."})
    out: str = field(default="out/strategies", metadata={"help": "The folder for all of it."})

    def __post_init__(self):
        if len({*self.strategies}) < len(self.strategies):
            raise InputError(f"--strategies names one twice: {', '.join(self.strategies)}")


@dataclass(frozen=True)
class Arm:
    """A strategy with its runs.

    Attributes:
        tasks: scored ones, by name.
        by_seed: of each task the scores, in points; of an ensemble its own.
        intervals: 95 %, of their mean.
        seconds: of training a model of each task; of an ensemble that of all its members.
    """

    tasks: dict[str, TaskRuns]
    by_seed: dict[str, list[float]]
    intervals: dict[str, list[float]]
    seconds: float

    @property
    def scores(self) -> dict[str, float]:
        """The means over seeds."""
        return {name: mean(scores) for name, scores in self.by_seed.items()}


def compare_strategies(args: StrategyStudyArguments, loop: LoopArguments) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs what is missing and writes strategies.json and strategies.csv.

    Args:
        loop: of every strategy; a setting that it gives holds for all of them.

    Returns:
        A row for each strategy and task, and one for the mean over tasks: "strategy", "task", "seeds", "score" (mean
        over seeds), "low", "high", "by_seed"; beside plain "difference", "p", "corrected_p" and, of several seeds,
        "seeds_low" and "seeds_high", Student's interval of the difference over pairs of seeds; "time" in multiples of
        plain's. And what must be said of them.

    Raises:
        InputError: a strategy that the model or the tasks cannot take, or a folder of something else, before anything
            is trained; as `Suite`.
    """
    loops = loops_of(args, loop)
    own = ("strategies", "tasks", "seeds", "save_models", "out", "data_dir")  # more of them may come, or from elsewhere
    kept = {name: value for name, value in asdict(args).items() if name not in own}
    ledger = Ledger(Path(args.out) / "ledger.jsonl", {"study": "compare_strategies"} | kept | asdict(loop))
    ledger.check()
    with dropped_if_refused(Path(args.out)):
        plain = _checked(args, loops)
    ledger.run({}, lambda name, job: None)  # the jobs are on the strategies' own ledgers
    arms: dict[str, Arm] = {}
    for number, (name, one) in enumerate(loops.items(), start=1):
        logger.info("%s: strategy %d of %d", name, number, len(loops))
        arms[name] = _run(plain if name == PLAIN else _suite(args, name, one, _members(args, name, arms)))
    rows = rows_of(args.suite, arms)
    out, settings, notes = Path(args.out), asdict(args) | {"loop": asdict(loop)}, notes_of(arms)
    found = {"settings": settings, "notes": notes, "rows": rows, "environment": environment()}
    write_whole(out / "strategies.json", json.dumps(found, indent=1) + "\n")
    write_whole(out / "strategies.csv", _csv(rows))
    logger.info("The table is in %s: strategies.json and .csv", out)
    return rows, notes


def _checked(args: StrategyStudyArguments, loops: Mapping[str, LoopArguments]) -> Suite:
    """Plain's suite, once it is known that the model and the tasks go with all strategies."""
    plain = _suite(args, PLAIN, loops[PLAIN])
    for one in loops.values():
        strategy = one.make_strategy()
        strategy.check(plain.source)
        strategy.check_tasks(plain.trained)
        recipe = find_recipe(one.recipe, plain.source.config.model_type, plain.source.pretrained)[1]
        shared = strategy.part("multitask")
        for task in plain.trained:
            strategy.choose_head(plain.source, task, one.new_head)
            for settings in (recipe.settings(task, **one.changes), *([shared.settings] if shared else [])):
                check_parts(task, settings.batch_size, one.gradient_accumulation_steps)
    return plain


def loops_of(args: StrategyStudyArguments, loop: LoopArguments) -> dict[str, LoopArguments]:
    """By strategy what its runs are told, plain first, ensembles last.

    Raises:
        InputError: strategies or options that do not go together.
    """
    if loop.strategy != PLAIN:
        raise InputError(f"compare_strategies takes --strategies, several; --strategy {loop.strategy} is hfssl glue's")
    names = sorted(dict.fromkeys([PLAIN, *args.strategies]), key=lambda name: (name != PLAIN, _is_ensemble(name)))
    trained = [name for name in names if not _is_ensemble(name)]
    loops, used = {}, set()
    for name in names:
        parts = ["ensemble"] if _is_ensemble(name) else name.split("+")
        own = [option for option in args.options if option.partition(".")[0] in parts]
        used |= {*own}
        recipe = "auto" if parse_strategy(name, own).recipe else loop.recipe
        loops[name] = dataclasses.replace(loop, strategy="+".join(parts), strategy_options=own, recipe=recipe)
        if _is_ensemble(name) and _members_of(name) not in trained:
            raise InputError(f"--strategies {name} averages the runs of {_members_of(name)}: name it, too")
        if _is_ensemble(name) and len(trained) > 1:
            loops[ALL] = loops[name]
    for option in args.options:
        if option not in used:
            raise InputError(f"--options {option!r} is of none of {', '.join(names)}: write STRATEGY.NAME=VALUE")
    if any(one.precision == "fp32" for one in loops.values()):  # those of tiny steps chose it: then it is for all
        loops = {name: dataclasses.replace(one, precision="fp32") for name, one in loops.items()}
    return loops


def _is_ensemble(name: str) -> bool:
    return name == ALL or "ensemble" in name.split("+")


def _members_of(name: str) -> str:
    """The strategy whose runs an ensemble is of."""
    return "+".join(part for part in name.split("+") if part != "ensemble") or PLAIN


def _members(args: StrategyStudyArguments, name: str, arms: Mapping[str, Arm]) -> str | None:
    """The folders of an ensemble's members; None for what is trained."""
    if name == ALL:
        return ",".join(str(_folder(args, other)) for other in arms if not _is_ensemble(other))
    return str(_folder(args, _members_of(name))) if _is_ensemble(name) else None


def _folder(args: StrategyStudyArguments, name: str) -> Path:
    return Path(args.out) / name.replace(" ", "-")


def _suite(args: StrategyStudyArguments, name: str, loop: LoopArguments, members: str | None = None) -> Suite:
    given = SuiteArguments(
        args.model, str(_folder(args, name)), args.tasks, args.data_dir, args.seeds, save_models=args.save_models,
        ensemble_of=members,
    )  # fmt: skip
    return Suite(args.suite, given, loop)


def _run(suite: Suite) -> Arm:
    tasks, result, _ = complete_suite(suite)
    known, by_seed = suite_tasks(suite.suite), {}
    for name, found in result.tasks.items():
        seeds = range(len(found.seeds))
        by_seed[name] = [
            task_score(known[name], {key: values[seed] for key, values in found.scores.items()}) for seed in seeds
        ]
    intervals = {name: found.intervals["score"] for name, found in result.tasks.items()}
    models = 1 if suite.members is not None else suite.seeds
    return Arm({name: tasks[name] for name in by_seed}, by_seed, intervals, result.cost["train_seconds"] / models)


def rows_of(suite: str, arms: Mapping[str, Arm], permutations: int = PERMUTATIONS) -> list[dict[str, Any]]:
    """The rows of `compare_strategies`; the first arm is plain."""
    known, plain = suite_tasks(suite), arms[PLAIN]
    tests = {
        (name, task): paired_permutation(
            known[task], plain.tasks[task].splits, *_paired(arm.tasks[task], plain.tasks[task]), permutations
        )
        for name, arm in arms.items() if name != PLAIN
        for task in plain.tasks
    }  # fmt: skip
    corrected = dict(zip(tests, holm([p for _, p in tests.values()]), strict=True))
    rows = []
    for name, arm in arms.items():
        for task, one in arm.tasks.items():
            low, high = arm.intervals[task]
            row = {"strategy": name, "task": known[task].title, "seeds": len(one.seeds)}
            row |= {"score": arm.scores[task], "low": low, "high": high, "by_seed": arm.by_seed[task]}
            if name != PLAIN:
                difference, p = tests[name, task]
                row |= {"difference": 100 * difference, "p": p, "corrected_p": corrected[name, task]}
                if not one.singles and len(arm.by_seed[task]) > 1:
                    pairs = [
                        first - second for first, second in zip(arm.by_seed[task], plain.by_seed[task], strict=True)
                    ]
                    row |= dict(zip(("seeds_low", "seeds_high"), paired_t(pairs)[1:], strict=True))
            rows.append(row)
        whole = {"strategy": name, "task": MEAN, "score": mean(arm.scores.values())}
        if name != PLAIN:
            whole["difference"] = mean(100 * tests[name, task][0] for task in plain.tasks)
        rows.append(whole | {"time": arm.seconds / plain.seconds, "seconds": arm.seconds})
    return rows


def notes_of(arms: Mapping[str, Arm]) -> list[str]:
    """What must be said beside the rows: of the data, and of models that say the same of every row."""
    notes = []
    for name, plain in arms[PLAIN].tasks.items():
        said = {rows.note: None for rows in plain.splits.values() if rows.note}
        notes += [f"{plain.task.title}: {note}" for note in said]
        trained = [
            record for label, arm in arms.items() if not _is_ensemble(label) for _, record in arm.tasks[name].runs
        ]
        constant = sum(any(flag.startswith("constant") for flag in record["flags"]) for record in trained)
        if constant:
            notes.append(f"{plain.task.title}: {constant} of {len(trained)} models give every dev row the same answer")
    return notes


def _paired(one: TaskRuns, plain: TaskRuns) -> tuple[dict[str, list], dict[str, list]]:
    """By split, the predictions of each seed; an ensemble's only one stands beside each of plain's."""
    splits = one.task.scored_splits
    counts = {split: len(plain.predictions[split]) if one.singles else 1 for split in splits}
    return (
        {split: list(one.predictions[split]) * counts[split] for split in splits},
        {split: list(plain.predictions[split]) for split in splits},
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"by_seed": " ".join(f"{score:.4f}" for score in row.get("by_seed", ()))} for row in rows)
    return text.getvalue()


def strategies_table(rows: Sequence[Mapping[str, Any]], notes: Sequence[str], model: str) -> Table:
    """The rows as a table of rich, with what must be said of them below it."""
    table = Table(title=f"Strategies on {model}, dev", title_justify="left", caption_justify="left")
    for name in ("strategy", "task", "score", "95 % interval", "less plain", "p (Holm)", "time"):
        table.add_column(name, justify="left" if name in ("strategy", "task") else "right", no_wrap=name == "strategy")
    for row in rows:
        sure = row.get("corrected_p", 1.0) < LEVEL
        interval = f"{row['low']:.1f} to {row['high']:.1f}" if "low" in row else ""
        difference = f"{row['difference']:+.1f}" if "difference" in row else ""
        p = f"{row['corrected_p']:.3f}{' *' if sure else ''}" if "corrected_p" in row else ""
        time = f"{row['time']:.2f} x" if "time" in row else ""
        table.add_row(row["strategy"], row["task"], f"{row['score']:.1f}", interval, difference, p, time)
        if row["task"] == MEAN:
            table.add_section()
    tests = sum("p" in row for row in rows)
    table.caption = (
        "Points of 100 on dev, means over seeds; interval: bootstrap over items and seeds; p: paired permutation test "
        f"over items against plain, after Holm's correction for {tests} tests, * below {LEVEL:g}; it says nothing of "
        "other seeds (strategies.json has Student's interval); time: of training a model of each task, of an ensemble "
        "all its members, in multiples of plain's."
    )
    table.caption += "".join(f"\n{note}." for note in notes)
    return table
