"""What `hfssl verify-claim` says: the verdict, the differences behind it, the curve over budgets."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np

from hfssl.benchmarking import environment
from hfssl.evaluation.paired import (
    INCONCLUSIVE,
    PairedComparison,
    bootstrap_difference,
    compare_pairs,
    joint_verdict,
    paired_t,
)
from hfssl.files import write_whole
from hfssl.studies.claim import CBOW, LEAST_SEEDS, RANDOM, TF_IDF, ClaimStudy, Fitted
from hfssl.studies.claim_pretraining import BLANK_LM, LM, LM_THEN_BLANK, budget_text

logger = logging.getLogger(__name__)

CLAIM = f"{BLANK_LM} beats {LM}"
MEANING = (
    f"supported: {BLANK_LM} scored higher than {LM}, and other seeds (Student's t test on the pairs, 0.05 after Holm's "
    "correction) and other dev rows (bootstrap) would say so, too; not supported: the same of the reverse; "
    "inconclusive: neither was shown, which is no proof that they are equal. It is said of this text, net and "
    "fine-tuning, of these tasks and budgets: which objective is better depends on the budget."
)
_COLOURS = {LM: "#cf222e", BLANK_LM: "#1f6feb", LM_THEN_BLANK: "#8250df"}


def make_record(
    study: ClaimStudy,
    pretrained: Mapping[str, Mapping[str, Any]],
    fitted: Fitted,
    poolings: Mapping[str, str],
    net: Mapping[str, Any],
) -> dict[str, Any]:
    """All that claim.json holds; scores and differences in points of 100.

    Args: what `ClaimStudy.run` returns.
    """
    rows = [
        _row(study, arm, [study.model_name(arm, budget, seed) for seed in study.seeds], fitted, poolings)
        | {"budget": budget} | _cost([pretrained[study.model_name(arm, budget, seed)] for seed in study.seeds])
        for budget in study.args.budgets for arm in study.arms
    ]  # fmt: skip
    anchors = [_row(study, RANDOM, [f"{RANDOM}/seed {seed}" for seed in study.seeds], fitted, poolings)]
    anchors += [_row(study, name, [name], fitted, {}) for name in (TF_IDF, CBOW)]
    claimed, others = (_compare(study, pairs, rows, fitted) for pairs in _families(study))
    verdicts = {budget_text(budget): found.verdict for (_, _, budget), found in claimed.items()}
    return {
        "claim": CLAIM,
        "verdict": joint_verdict(verdicts.values()),
        "verdicts": verdicts,
        "meaning": MEANING,
        "notes": _notes(study) + cautions(study, rows, anchors[0], fitted),
        "budget": study.args.budget,
        "tasks": [task.name for task in study.tasks],
        "seeds": {"pretraining": len(study.seeds), "fine-tuning": study.args.fine_tuning_seeds},
        "net": dict(net),
        "arms": rows,
        "anchors": anchors,
        "differences": [
            {"first": first, "second": second, "budget": budget, "mean": found.mean, "verdict": found.verdict}
            | asdict(found)
            for (first, second, budget), found in [*claimed.items(), *others.items()]
        ],
        "settings": study.identity(),
        "inputs": study.inputs(),
        "environment": environment(),
    }


def _families(study: ClaimStudy) -> list[list[tuple[str, str, float]]]:
    """The comparisons that Holm's correction takes together: those of the claim, and all others."""
    budgets = study.args.budgets
    others = [(LM_THEN_BLANK, arm) for arm in (LM, BLANK_LM)] if LM_THEN_BLANK in study.arms else []
    return [
        [(BLANK_LM, LM, budget) for budget in budgets],
        [(first, second, budget) for first, second in others for budget in budgets],
    ]


def _row(
    study: ClaimStudy, arm: str, models: Sequence[str], fitted: Fitted, poolings: Mapping[str, str]
) -> dict[str, Any]:
    """An arm at a budget, or an anchor: its score on each task and their mean by pretraining seed, and the interval."""
    tasks = {
        task.name: [100 * mean(record["score"] for record in fitted[model, task.name]) for model in models]
        for task in study.tasks
    }
    scores = [mean(values) for values in zip(*tasks.values(), strict=True)]
    low, high = paired_t(scores)[1:] if len(scores) > 1 else (None, None)
    records = [record for model in models for task in study.tasks for record in fitted[model, task.name]]
    return {
        "arm": arm, "mean": mean(scores), "low": low, "high": high, "scores": scores, "tasks": tasks,
        "poolings": [poolings[model] for model in models if model in poolings],
        "flags": dict(Counter(flag for record in records for flag in record["flags"])),
        "fine-tunings": len(records),
    }  # fmt: skip


def _cost(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a seed: steps and tokens are the same for all, seconds and the loss are means."""
    same = {name: models[0][name] for name in ("steps", "tokens", "flops")}
    return same | {name: mean(model[name] for model in models) for name in ("seconds", "loss")}


def _compare(
    study: ClaimStudy, pairs: Sequence[tuple[str, str, float]], rows: Sequence[Mapping[str, Any]], fitted: Fitted
) -> dict[tuple[str, str, float], PairedComparison]:
    scores = {(row["arm"], row["budget"]): row["scores"] for row in rows}
    found = {}
    for first, second, budget in pairs:
        differences = np.subtract(scores[first, budget], scores[second, budget]).tolist()
        draws = [
            bootstrap_difference(
                task, study.data[task.name], *(_runs(study, arm, budget, task, fitted) for arm in (first, second)),
                seed=number,
            )
            for number, task in enumerate(study.tasks)
        ]  # fmt: skip
        found[first, second, budget] = differences, 100 * np.mean(draws, axis=0)
    return compare_pairs(found)


def _runs(study: ClaimStudy, arm: str, budget: float, task, fitted: Fitted) -> dict[str, list]:
    """By dev split the predictions of all fine-tunings of an arm."""
    models = [study.model_name(arm, budget, seed) for seed in study.seeds]
    kept = [study.predictions(record["job"]) for model in models for record in fitted[model, task.name]]
    return {split: [one[split] for one in kept] for split in task.scored_splits}


def _notes(study: ClaimStudy) -> list[str]:
    """What must be said beside the verdict."""
    args, notes = study.args, []
    if args.has_few_seeds:
        notes.append(
            f"Fewer than {LEAST_SEEDS} seeds ({args.pretraining_seeds} of pretraining, {args.fine_tuning_seeds} of "
            "fine-tuning): a try, and no evidence."
        )
    if any(rows.synthetic for splits in study.data.values() for rows in splits.values()):
        notes.append("The tasks are synthetic: nothing follows for real ones.")
    if args.control != "none":
        notes.append(f"A control of the procedure ({args.control}), and no test of the claim.")
    parts = [f"{task.title}: {rows.note}" for task in study.tasks for rows in study.data[task.name].values()
             if rows.note not in ("", "synthetic")]  # fmt: skip
    return notes + list(dict.fromkeys(parts))


def cautions(
    study: ClaimStudy, rows: Sequence[Mapping[str, Any]], untrained: Mapping[str, Any], fitted: Fitted
) -> list[str]:
    """What makes arms alike whatever they learned: pretraining without effect, tasks that no fine-tuning learns."""
    notes = []
    if all(row["low"] is None or row["low"] <= untrained["mean"] for row in rows):
        notes.append(
            f"No arm's interval is above the net without pretraining ({untrained['mean']:.1f}): arms may be alike "
            "because none learned what these tasks need."
        )
    for task in study.tasks:
        records = [record for (model, name), found in fitted.items() for record in found
                   if name == task.name and model not in (TF_IDF, CBOW)]  # fmt: skip
        constant = sum(any(flag.startswith("constant") for flag in record["flags"]) for record in records)
        if constant:
            notes.append(f"{task.title}: {constant} of {len(records)} fine-tunings give every dev row the same answer.")
    return notes


def sentences(record: Mapping[str, Any]) -> list[str]:
    """The record in words: each budget, the verdict over all, what it means, what must be said beside it."""
    said = []
    for one in record["differences"]:
        unit = record["budget"]
        claim = f"'{CLAIM}' is {one['verdict']}" if (one["first"], one["second"]) == (BLANK_LM, LM) else (
            f"{one['first']} beats {one['second']}: {one['verdict']}"
        )  # fmt: skip
        said.append(
            f"{budget_text(one['budget'], ',')} {unit}: {claim} ({one['mean']:+.1f} points; "
            f"over {len(one['differences'])} seeds "
            f"{one['low']:+.1f} to {one['high']:+.1f}, p = {one['p']:.3f}, {one['corrected_p']:.3f} after Holm's "
            f"correction; over dev rows {one['items_low']:+.1f} to {one['items_high']:+.1f})"
        )
    count = len(record["verdicts"])
    few = f", of fewer than {LEAST_SEEDS} seeds" * (min(record["seeds"].values()) < LEAST_SEEDS)
    said.append(f"Verdict over {count} budget{'s' * (count > 1)}, '{CLAIM}': {record['verdict']}{few}")
    if record["verdict"] == INCONCLUSIVE and len({*record["verdicts"].values()} - {INCONCLUSIVE}) > 1:
        said.append("One budget says the opposite of another, so the joint verdict is none.")
    return [*said, *record["notes"], record["meaning"]]


def write_report(study: ClaimStudy, record: Mapping[str, Any]) -> None:
    """Writes claim.json, claim.csv (arms and anchors), claim_differences.csv and claim.png into the study's folder."""
    out, picture = study.out, io.BytesIO()
    write_whole(out / "claim.json", json.dumps(record, indent=1) + "\n")
    tasks = record["tasks"]
    names = ("budget", "arm", "mean", "low", "high", "tokens", "flops", "seconds", "loss")
    rows = [
        [*(row.get(name) for name in names), *(mean(row["tasks"][task]) for task in tasks), " ".join(row["poolings"])]
        for row in [*record["arms"], *record["anchors"]]
    ]
    write_whole(out / "claim.csv", _csv([*names, *tasks, "poolings"], rows))
    names = (
        "budget",
        "first",
        "second",
        "mean",
        "low",
        "high",
        "p",
        "corrected_p",
        "items_low",
        "items_high",
        "verdict",
    )
    rows = [[one[name] for name in names] for one in record["differences"]]
    write_whole(out / "claim_differences.csv", _csv(names, rows))
    claim_figure(record).savefig(picture, format="png", dpi=130)
    write_whole(out / "claim.png", picture.getvalue())
    logger.info("The verdict is in %s: claim.json, claim.csv, claim_differences.csv and claim.png", out)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(_cell(value) if isinstance(value, float) else value for value in row)  # of None ""
    return file.getvalue()


def _cell(value: float) -> str:
    return budget_text(value) if value.is_integer() else f"{value:.6g}"


def claim_figure(record: Mapping[str, Any]):
    """A matplotlib figure: the score of each arm over the budgets among the anchors, and the claim's difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, arm in enumerate(dict.fromkeys(row["arm"] for row in record["arms"]), start=-1):
        beside = 1.03**place  # so that no arm hides another
        rows = [row | {"budget": beside * row["budget"]} for row in record["arms"] if row["arm"] == arm]
        _line(left, rows, "mean", ("low", "high"), _COLOURS[arm], arm)
    for anchor, style in zip(record["anchors"], (":", "--", "-."), strict=True):
        left.axhline(anchor["mean"], color="#57606a", linestyle=style, linewidth=1, label=anchor["arm"])
    claimed = [one for one in record["differences"] if (one["first"], one["second"]) == (BLANK_LM, LM)]
    _line(right, claimed, "mean", ("low", "high"), _COLOURS[BLANK_LM], "Student's interval, seeds")
    for one in claimed:
        right.plot(
            [one["budget"]] * 2,
            [one["items_low"], one["items_high"]],
            color="#d29922",
            linewidth=5,
            alpha=0.5,
            zorder=1,
        )
        right.annotate(
            one["verdict"], (one["budget"], one["mean"]), fontsize=8, xytext=(0, 6), textcoords="offset points",
            ha="center",
        )  # fmt: skip
    right.plot([], [], color="#d29922", linewidth=5, alpha=0.5, label="bootstrap, dev rows")
    right.axhline(0, color="black", linewidth=0.8)
    for axes, title in ((left, "mean score of the tasks"), (right, f"{BLANK_LM} less {LM}, points")):
        axes.set_xscale("log")
        axes.margins(x=0.15)  # for the verdicts of the first and last budget
        axes.set_xlabel(f"budget, {record['budget']}", fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def _line(axes, rows: Sequence[Mapping[str, Any]], value: str, ends: tuple[str, str], colour: str, label: str) -> None:
    budgets = [row["budget"] for row in rows]
    axes.plot(budgets, [row[value] for row in rows], "o-", color=colour, label=label, markersize=4)
    for row in rows:
        axes.plot([row["budget"]] * 2, [row[end] for end in ends], color=colour, linewidth=1, alpha=0.7)


def claim_table(record: Mapping[str, Any]):
    """A rich table of the arms and the anchors."""
    from rich.table import Table

    table = Table(title="Score on dev: mean over seeds and Student's 95 % interval", title_justify="left")
    for name in ("budget", "arm", "score", *record["tasks"], "tokens", "seconds", "pooling"):
        table.add_column(name, justify="left" if name in ("arm", "pooling") else "right")
    for row in [*record["arms"], *record["anchors"]]:
        interval = "" if row["low"] is None else f" ({row['low']:.1f} to {row['high']:.1f})"
        budget = [budget_text(row["budget"], ",") if "budget" in row else ""]
        cost = [f"{row['tokens']:,}", f"{row['seconds']:.1f}"] if "tokens" in row else ["", ""]
        tasks = [f"{mean(row['tasks'][task]):.1f}" for task in record["tasks"]]
        poolings = ", ".join(f"{name} {count}" for name, count in Counter(row["poolings"]).most_common())
        table.add_row(*budget, row["arm"], f"{row['mean']:.1f}{interval}", *tasks, *cost, poolings)
    return table


def verify_claim(study: ClaimStudy) -> dict[str, Any]:
    """Does what is missing of a study, writes its report, prints the table and the verdict; what claim.json holds."""
    from rich.console import Console

    try:
        record = make_record(study, *study.run())
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with the jobs that are not done") from None
    write_report(study, record)
    console = Console()
    console.print(claim_table(record))
    for line in sentences(record):
        console.print(line, markup=False, highlight=False)
    return record
