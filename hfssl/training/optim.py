"""Optimizers that transformers does not have by name, and which weights each of them treats in which way.

`--optim muon`, `lars` and `lamb` are timm's (`timm.optim`); all others are transformers' own, AdamW first (fused where
the device has that). `--optim_args momentum=0.9,...` reaches either.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.training_args import OptimizerNames

from hfssl.errors import InputError, nearest

logger = logging.getLogger(__name__)

TIMM = ("muon", "lars", "lamb")
DECAY_SHARE = 0.2  # of a warmup-stable-decay run, unless told (Hägele et al. 2024, section 4: 10 to 20 %)

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")

SCALINGS = {
    "none": "{rate:g}",
    "linear": "{rate:g} x {batch} / 256",
    "sqrt": "{rate:g} x sqrt({batch})",
    "sum": "{rate:g} x {batch}",
}


def scale_learning_rate(rate: float, scaling: str, batch: int) -> float:
    """The learning rate for a batch of so many samples (SimCLR, section 2.3 and appendix B.1).

    The paper's base rate is 0.3 with "linear", and 0.075 with "sqrt", which suits small batches better. With "sum" SGD
    on the mean loss of a batch makes the step that it would make on the sum: word2vec's.
    """
    return rate * {"none": 1.0, "linear": batch / 256, "sqrt": math.sqrt(batch), "sum": batch}[scaling]


@contextlib.contextmanager
def scaled_learning_rate(args) -> Iterator[None]:
    """Inside it `args.learning_rate` is the scaled one, for those who make an optimizer of it."""
    rate, scaling = args.learning_rate, args.learning_rate_scaling
    args.learning_rate = args.scaled_learning_rate
    if scaling != "none":
        formula = SCALINGS[scaling].format(rate=rate, batch=args.global_batch)
        logger.info("The learning rate is %g = %s, %s in the samples of a step", args.learning_rate, formula, scaling)
    try:
        yield
    finally:
        args.learning_rate = rate


def check_optimizer_name(name: str) -> None:
    """Raises an InputError with the nearest names."""
    names = [*TIMM, *(choice.value for choice in OptimizerNames)]
    if name not in names:
        raise InputError(f"--optim {name} is not known{nearest(name, names)}")


def decayed(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the names whose weights have at least two axes: no bias, no gain of any norm. One may name no weight."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    return [name for name in names if name in weights and weights[name].ndim >= 2]


def embeddings_and_heads(model: nn.Module) -> set[int]:
    """The ids of the weights that are looked up or give the scores of classes or tokens.

    Their rows are not the directions of one map, so that Muon leaves them to AdamW (Jordan et al. 2024, "Muon").
    """
    found = {
        id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()
    }
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        found |= {id(weight) for weight in head.parameters()}
    for name in ("classifier", "score", "qa_outputs"):  # transformers' names of the heads of fine-tuning
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            found |= {id(weight) for weight in head.parameters()}
    return found


def build_optimizer(model: nn.Module, decay: Iterable[str], args) -> torch.optim.Optimizer:
    """One of timm's optimizers over the trainable weights.

    * muon: momentum whose update is made orthogonal, for weights with two or more axes; AdamW for embeddings, heads
      and everything with one axis. Its updates are scaled to the size of AdamW's, so one learning rate serves both.
    * lars (You et al. 2017, equation 6) and lamb (You et al. 2020, algorithm 2): each weight's step is scaled by its
      norm; biases and norms, which are not decayed, are not scaled either. SimCLR's authors (google-research/simclr,
      `lars_optimizer.py`) divide by |g + d w| where equation 6 has |g| + d |w|, and multiply by the learning rate
      before the momentum and not after it, so that their warm-up and decay act a few steps later.

    Args:
        decay: the names of the weights that decay.
        args: `PretrainingArguments`; its learning rate, weight decay, Adam's betas and epsilon, and `optim_args`.

    Raises:
        InputError: on an option that the optimizer does not have, or a value that it refuses.
    """
    import timm.optim

    decay, aside = set(decay), embeddings_and_heads(model) if args.optim == "muon" else set()
    groups: dict[tuple, dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        key = name in decay, id(weight) in aside or weight.ndim < 2
        settings = {"params": [], "weight_decay": args.weight_decay if key[0] else 0.0}
        # Each optimizer has its own word for the weights that it treats in the plain way.
        settings |= {"use_fallback": key[1]} if args.optim == "muon" else {"always_adapt": key[0]}
        groups.setdefault(key, settings)["params"].append(weight)
    options: dict[str, Any] = {"lr": args.learning_rate}
    if args.optim == "lars":
        options["momentum"] = 0.9  # the paper's; timm's default is none
    else:
        options["betas"] = (args.adam_beta1, args.adam_beta2)
    if args.optim == "lamb":
        options |= {"eps": args.adam_epsilon, "max_grad_norm": None}  # the Trainer clips: --max_grad_norm
    options |= parse_options(args.optim_args)
    maker = {"muon": timm.optim.Muon, "lars": timm.optim.Lars, "lamb": timm.optim.Lamb}[args.optim]
    try:
        return maker(list(groups.values()), **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--optim {args.optim} with --optim_args {args.optim_args}: {error}") from None


def scale_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Splits an optimizer's groups, so that the weights that `model.learning_rate_factors` names learn by its factors.

    The attribute has, by the prefix of weights' names, what their learning rate is multiplied by; a schedule that is
    made afterwards goes from there. Models without it are left alone.

    Raises:
        InputError: no weight has such a name: a wrapper holds them flat.
    """
    factors = getattr(model, "learning_rate_factors", None) or {}
    names = {id(weight): _WRAPPERS.sub("", name) for name, weight in model.named_parameters()}
    for prefix in factors:
        if not any(name.startswith(prefix) for name in names.values()):
            raise InputError(f"the learning rate of {prefix}* cannot be set: no weight has such a name in this wrapper")
    for group in list(optimizer.param_groups):
        for prefix, factor in factors.items():
            chosen = [weight for weight in group["params"] if names.get(id(weight), "").startswith(prefix)]
            if chosen:
                taken = {id(weight) for weight in chosen}
                group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
                optimizer.add_param_group({**group, "params": chosen, "lr": group["lr"] * factor})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def parse_options(text: str | None) -> dict[str, Any]:
    """`momentum=0.9,nesterov=True` as a dict; a value that is no number, true or false stays a word."""
    options = {}
    for part in filter(None, (text or "").replace(" ", "").split(",")):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise InputError(f"--optim_args takes name=value,name=value; {part!r} is none")
        try:
            options[name] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def schedule_options(kind: str, options: dict[str, Any] | None, warmup: int, steps: int) -> dict[str, Any]:
    """The options of the learning rate's schedule; warmup-stable-decay decays over the last fifth unless told.

    Raises:
        InputError: if warm-up and decay together are longer than the run.
    """
    options = dict(options or {})
    if kind != "warmup_stable_decay":
        return options
    options.setdefault("num_decay_steps", round(DECAY_SHARE * steps))
    if warmup + options["num_decay_steps"] > steps:
        raise InputError(
            f"{warmup} steps of warm-up and {options['num_decay_steps']} of decay are more than the run's {steps}"
        )
    return options
