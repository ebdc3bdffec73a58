"""The ways to fine-tune behind one flag, ``--strategy``: each is one file and one line in the table.

A strategy changes the loss, the head, the recipe or what is trained first; `strategy.py` says where it hooks in. What
changes different things composes: ``multitask+smart``.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from hfssl.errors import InputError, nearest
from hfssl.finetuning.strategies.alice import Alice
from hfssl.finetuning.strategies.ensemble import Ensemble
from hfssl.finetuning.strategies.freelb import FreeLB
from hfssl.finetuning.strategies.hire import Hire
from hfssl.finetuning.strategies.multitask import Multitask
from hfssl.finetuning.strategies.pooled import Pooled
from hfssl.finetuning.strategies.smart import Smart
from hfssl.finetuning.strategies.strategy import Composition, Roberta, Strategy, options_of
from hfssl.finetuning.strategies.t5 import TextToText

STRATEGIES: dict[str, type[Strategy]] = {
    "plain": Strategy,
    "roberta": Roberta,
    "smart": Smart,
    "freelb": FreeLB,
    "alice": Alice,
    "hire": Hire,
    "multitask": Multitask,
    "t5": TextToText,
    "ensemble": Ensemble,
    "pooled": Pooled,
}


def parse_strategy(name: str, options: Sequence[str] = ()) -> Strategy:
    """A strategy, or several composed, from what the command line says.

    Args:
        name: one of `STRATEGIES`, or several: ``"multitask+smart"``.
        options: each ``"weight=3"``, or ``"smart.weight=3"`` where several have that option.

    Raises:
        InputError: no such strategy or option (with the nearest), a value of another type, strategies that contradict
            each other.
    """
    names = [part.strip() for part in name.split("+")]
    for part in names:
        if part not in STRATEGIES:
            raise InputError(f"no strategy {part!r}: {', '.join(STRATEGIES)}{nearest(part, STRATEGIES)}")
    kinds = [STRATEGIES[part] for part in names]
    if len(kinds) > 1:
        Composition(tuple(kind() for kind in kinds))  # contradictions are said before their options
    given: dict[str, dict[str, Any]] = {part: {} for part in names}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"--strategy_options {option!r} is no NAME=VALUE")
        kind, key = _owner(kinds, key.strip())
        if key in given[kind.name]:
            raise InputError(f"--strategy_options gives {kind.name}.{key} twice")
        given[kind.name][key] = _value(kind, key, text.strip())
    made = tuple(kind(**given[kind.name]) for kind in kinds)
    return made[0] if len(made) == 1 else Composition(made)


def _owner(kinds: Sequence[type[Strategy]], key: str) -> tuple[type[Strategy], str]:
    """Whose option it is, and its name."""
    known = {f"{kind.name}.{item.name}": (kind, item.name) for kind in kinds for item in options_of(kind)}
    if key in known:
        return known[key]
    owners = [found for found in known.values() if found[1] == key]
    if len(owners) == 1:
        return owners[0]
    if owners:
        names = " and ".join(kind.name for kind, _ in owners)
        raise InputError(f"{names} have an option {key}: say {owners[0][0].name}.{key}=VALUE")
    chosen = "+".join(kind.name for kind in kinds)
    if not known:
        raise InputError(f"--strategy {chosen} has no options; --strategy_options gives {key!r}")
    names = [name if "." in key else name.partition(".")[2] for name in known]
    raise InputError(
        f"--strategy {chosen} has no option {key!r}: {', '.join(dict.fromkeys(names))}{nearest(key, names)}"
    )


def _value(kind: type[Strategy], key: str, text: str) -> Any:
    hint = get_type_hints(kind)[key]
    hint = next(part for part in get_args(hint) or (hint,) if part is not types.NoneType)
    try:
        return hint(text)
    except ValueError:
        named = {int: "a whole number", float: "a number"}[hint]
        raise InputError(f"{kind.name}.{key} must be {named}, not {text!r}") from None
