"""What the programs eval/run_glue.py and eval/run_superglue.py do, from arguments to the printed table."""

from __future__ import annotations

import logging

from rich.console import Console

from hfssl.evaluation.leaderboard import result_table
from hfssl.evaluation.results import ModelResult
from hfssl.evaluation.submission import LIMITS, Submission
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.outcome import collect, make_result, write_outcome
from hfssl.finetuning.suite import Suite

logger = logging.getLogger(__name__)


def run_suite(name: str, args: SuiteArguments, loop: LoopArguments) -> ModelResult:
    """Runs a suite, writes everything into ``args.out`` and prints the table."""
    suite = Suite(name, args, loop)
    runs = suite.run()
    tasks = collect(suite, runs)
    result = make_result(suite, tasks)
    submission = write_outcome(suite, tasks, result)
    Console().print(result_table(result))
    for line in _said(suite, result, submission):
        logger.info("%s", line)
    return result


def _said(suite: Suite, result: ModelResult, submission: Submission) -> list[str]:
    lines = [f"Wrote {suite.out / f'{suite.suite}_dev.json'}, {submission.path}"]
    lines += [f"not in the submission: {missing}" for missing in submission.missing]
    lines += list(result.notes)
    if submission.is_complete and not result.synthetic:
        lines.append(LIMITS)
    return lines
