"""How likely a conditional model finds given targets: their log-probabilities, and perplexity with an interval."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfssl.data.conditional import encode_pairs
from hfssl.data.layout import Layout
from hfssl.errors import InputError
from hfssl.evaluation.language import unigram_loss
from hfssl.evaluation.significance import bootstrap_sums, group_sums, interval
from hfssl.generation import load_generator, load_layout, sequence_scores
from hfssl.generation.loading import count_positions

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


def load_conditional(name: str, task: str):
    """A conditional model of a task, its tokenizer and its layout; InputError if there is none."""
    layout = load_layout(name, (task,), needed=True)
    return *load_generator(name), layout


def some(rows: Sequence[Row], limit: int | None, seed: int = 0) -> list[Row]:
    """At most so many of the rows, chosen by a seed, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def target_scores(
    model, tokenizer, layout: Layout, rows: Sequence[Row], batch_size: int = 32, label: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """log p of each row's target with its end, given the source: nats (N,), and its number of tokens (N,).

    The oldest turns of a dialogue are left out until it fits the model's positions. A row that does not fit, or whose
    target is empty, has NaN and 0; their number is said. `label` says what the rows are for.
    """
    positions = count_positions(model) or math.inf
    ids, starts, kept, empty = [], [], [], 0
    for number, row in enumerate(rows):
        target = layout.target_ids(tokenizer, row)
        room = int(positions - len(target)) if positions < math.inf else None
        if len(target) < 2:
            empty += 1
            continue
        if room is not None and room < 1:
            continue
        try:
            prompt = layout.prompt_ids(tokenizer, row, room)
        except InputError:  # it is longer than the room
            if room is None:
                raise
            continue
        ids.append(prompt + target)
        starts.append(len(prompt))
        kept.append(number)
    log_p, counts = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.int64)
    if len(kept) < len(rows):
        long = len(rows) - len(kept) - empty
        causes = [f"{empty:,} for an empty target"] if empty else []
        causes += [f"{long:,} for more than the model's {positions} positions"] if long else []
        of = f"{label}: " if label else ""
        logger.warning("%s%s of %s rows left out, %s", of, f"{empty + long:,}", f"{len(rows):,}", " and ".join(causes))
    if kept:
        log_p[kept], counts[kept] = (part.numpy() for part in sequence_scores(model, ids, starts, batch_size, label))
    return log_p, counts


def perplexity(
    log_p: np.ndarray, counts: np.ndarray, groups: Sequence[Any], draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """exp of the mean negative log-likelihood of a token, over all tokens of all targets, ends counted.

    Args:
        log_p, counts: as `target_scores` gives them.
        groups: rows of one group (an event, a conversation) are drawn together in the bootstrap.

    Returns:
        {"perplexity", "low", "high" (its 95 % interval), "tokens", "rows", "groups"}; of one group it is no
        interval.

    Raises:
        InputError: no row is left.
    """
    kept = counts > 0
    if not kept.any():
        raise InputError("no target is left to score")
    sums = group_sums(np.stack([-log_p[kept], counts[kept]], 1), np.asarray(groups)[kept])
    drawn = bootstrap_sums(sums, draws, seed)
    limits = interval(drawn[:, 0] / drawn[:, 1])
    loss, low, high = sums[:, 0].sum() / sums[:, 1].sum(), limits.low, limits.high
    found = {name: math.exp(min(value, 700)) for name, value in (("perplexity", loss), ("low", low), ("high", high))}
    return found | {"tokens": int(counts.sum()), "rows": int(kept.sum()), "groups": len(sums)}


def unigram_perplexity(tokenizer, layout: Layout, train: Sequence[Row], held_out: Sequence[Row]) -> float:
    """That of a model that knows how frequent each token of the training targets is, and no more."""
    train, held_out = (
        encode_pairs(rows, layout, tokenizer, 2**30, name).frequencies(len(tokenizer))
        for rows, name in ((train, "the training rows"), (held_out, "the scored rows"))
    )
    return math.exp(unigram_loss(train, held_out))
