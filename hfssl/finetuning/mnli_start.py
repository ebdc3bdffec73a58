"""The saved MNLI model that ``--mnli_model`` names: what it must be for other tasks to start from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hfssl.errors import InputError
from hfssl.evaluation.tasks import TASKS, Task
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.builtin_models import BASELINES
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import choose_head
from hfssl.finetuning.sources import Source, open_source
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.models import EncoderHeadConfig, HireConfig


def open_mnli(args: SuiteArguments, loop: LoopArguments, strategy: Strategy) -> Source | None:
    """``--mnli_model``, if it is given.

    Raises:
        InputError: nothing would start from it; it does not tell MNLI's three classes.
    """
    if args.mnli_model is None:
        return None
    if not args.mnli_start or loop.freeze_encoder or args.model in BASELINES:
        raise InputError("--mnli_model has no use with --mnli_start false, --freeze_encoder or a builtin baseline")
    if strategy.part("multitask"):
        raise InputError("--mnli_model has no use with --strategy multitask, whose tasks start from all of them")
    given = open_source(args.mnli_model, loop.trust_remote_code)
    if not choose_head(given, TASKS["glue/mnli"]).kept:
        raise InputError(f"{args.mnli_model} is no model of MNLI: it has no classifier")
    return given


def check_mnli(
    given: Source, own: Source, make_encoder: Callable[[Source], TaskEncoder], strategy: Strategy, tasks: Sequence[Task]
) -> None:  # fmt: skip
    """Raises InputError unless the MNLI model is the same net as the model, with a head that the strategy takes.

    Args:
        own: the model.
        make_encoder: makes tokens as a source's tokenizer does.
        tasks: those that start from it.
    """
    needs = "hire" if isinstance(given.config, HireConfig) else "pooled"
    if isinstance(given.config, EncoderHeadConfig) and not strategy.part(needs):
        raise InputError(f"{given.name} is a model of --strategy {needs}, not of {strategy.name}: give {needs}")
    if make_encoder(given).identity != make_encoder(own).identity:
        raise InputError(f"{given.name} has another tokenizer than {own.name}")
    for name in ("model_type", "hidden_size", "num_hidden_layers"):
        theirs, ours = (getattr(source.encoder_config, name, None) for source in (given, own))
        if theirs != ours:
            raise InputError(f"{given.name} has {name} {theirs}, {own.name} has {ours}")
    for task in tasks:
        strategy.choose_head(given, task, True)
