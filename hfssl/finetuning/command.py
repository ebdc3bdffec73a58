"""What the programs eval/run_glue.py and eval/run_superglue.py do, from arguments to the printed table."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.console import Console

from hfssl.data.sources import TextArguments, Texts, load_texts
from hfssl.data.toyglue import TOYGLUE
from hfssl.errors import InputError
from hfssl.evaluation.contamination import Overlap, find_overlap
from hfssl.evaluation.diagnostic import load_diagnostic, scores_by_tag
from hfssl.evaluation.leaderboard import board_table, boards, result_table
from hfssl.evaluation.results import ModelResult
from hfssl.evaluation.submission import LIMITS, Submission
from hfssl.evaluation.submission_check import validate_submission
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.outcome import TaskRuns, collect, make_result, write_outcome
from hfssl.finetuning.report import write_report
from hfssl.finetuning.suite import Suite

logger = logging.getLogger(__name__)

REPORT = "report.html"


def run_suite(name: str, args: SuiteArguments, loop: LoopArguments) -> ModelResult:
    """Runs a suite, writes everything into ``args.out`` and prints the table."""
    corpus = None  # opened before the work: a wrong path is said now
    if args.contamination is not None:
        corpus = load_texts(TextArguments(args.contamination, eval_fraction=0.0))
    logger.info("Reading the data and %s", args.model)
    suite = Suite(name, args, loop)
    _, result, submission = complete_suite(suite, corpus)
    console = Console()
    console.print(result_table(result))
    if not result.synthetic:
        for board in boards([result], [name]):
            if any(row.own for row in board.rows):
                console.print(board_table(board, console.width))
    for line in _said(suite, result, submission):
        logger.info("%s", line)
    return result


def complete_suite(suite: Suite, corpus: Texts | None = None) -> tuple[dict[str, TaskRuns], ModelResult, Submission]:
    """Runs what is missing of a suite and writes everything into its folder.

    Args:
        corpus: in which the dev rows are looked for.

    Returns:
        By task its runs, the result, the submission.
    """
    try:
        runs = suite.run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with the jobs that are not done") from None
    tasks = collect(suite, runs)
    overlaps = None if corpus is None else _overlaps(corpus, tasks)
    result = make_result(suite, tasks)
    result.notes += _overlap_notes(overlaps or {}, suite.args.contamination)
    submission = write_outcome(suite, tasks, result)
    write_report(suite.out / REPORT, result, tasks, _phenomena(suite, tasks), overlaps, suite.args.contamination or "")
    return tasks, result, submission


def _phenomena(suite: Suite, tasks: dict[str, TaskRuns]) -> list[dict[str, str | int | float]]:
    """AX by phenomenon, where the labelled file was given."""
    if suite.args.diagnostic is None or "ax" not in tasks:
        return []
    data, tags = load_diagnostic(suite.args.diagnostic)
    return scores_by_tag(data, tags, tasks["ax"].predictions["test"][tasks["ax"].best])


def _overlaps(corpus: Texts, tasks: dict[str, TaskRuns]) -> dict[str, Overlap]:
    """By ``task split``, the dev rows that stand in the pretraining text."""
    splits = {
        f"{name} {split}": one.splits[split]
        for name, one in tasks.items() if one.is_scored
        for split in one.task.scored_splits
    }  # fmt: skip
    return find_overlap(corpus, splits, progress=sys.stderr.isatty())


def _said(suite: Suite, result: ModelResult, submission: Submission) -> list[str]:
    lines = [f"Wrote {suite.out / f'{suite.suite}_dev.json'}, {suite.out / REPORT}, {submission.path}"]
    if submission.missing:
        names: dict[str, list[str]] = {}
        for name, _, why in (line.partition(": ") for line in submission.missing):
            names.setdefault(why, []).append(name)
        whys = "; ".join(f"{', '.join(files)}: {why}" for why, files in names.items())
        lines.append(f"the submission is incomplete (INCOMPLETE.txt): {whys}")
    if left := suite.left_out():
        lines.append(
            f"{suite.out} also holds {', '.join(left)}, which is not in this result: add it to --tasks for one row"
        )
    lines += result.notes if submission.is_complete else [*result.notes, *submission.notes]
    if not result.synthetic:
        lines.append(f"`hfssl leaderboard {suite.out}` shows it among all published results")
    if submission.is_complete:
        lines += _checked(suite, submission)
        lines += [] if result.synthetic else [LIMITS]
    return lines


def _checked(suite: Suite, submission: Submission) -> list[str]:
    """What the validator says of the zip, against the test data at hand (of the Hub's: the official counts).

    Raises:
        InputError: it is not valid.
    """
    source = suite.args.data_dir
    report = validate_submission(submission.path, source if source == TOYGLUE or Path(source).is_dir() else None)
    if report.errors:
        raise InputError(f"{submission.path} is not valid: {report.errors[0]}; hfssl validate-submission shows all")
    said = " of synthetic data: no server takes it" if report.synthetic else ""
    return [f"{submission.path.name} is valid: {sum(report.rows.values()):,} predictions{said}", *report.warnings]


def _overlap_notes(overlaps: dict[str, Overlap], corpus: str | None) -> list[str]:
    """How many dev rows of each task stand in the pretraining text."""
    return [
        f"{where}: {len(found.seen):,} of {found.judged:,} rows that can be judged stand in {corpus}"
        for where, found in overlaps.items()
    ]
