"""How likely given targets are under a model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy

from hfssl.errors import InputError
from hfssl.generation.loading import count_positions
from hfssl.generation.prompt_cache import pad_rows, shared_prompts
from hfssl.progress import Progress

_LOGITS = 2**25  # floats of logits at one time
_SHARED = 256  # tokens that are not read again: from so many on a group of rows is worth a batch of its own


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """The model without dropout, as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def sequence_scores(
    model, ids: Sequence[list[int]], starts: Sequence[int], batch_size: int = 64, label: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of targets, each given what stands before it.

    Rows with the same source, such as candidates for a reply, read it once where that saves much.

    Args:
        ids: tokens, source and target in one; an encoder-decoder's encoder reads the source.
        starts: where each target begins, at least 1.
        batch_size: rows at a time; fewer where their logits would be large.
        label: of the progress that is shown, by default none.

    Returns:
        For each row the sum of log p of its target, nats, (N,) float64, and the target's number of tokens, (N,) int64.

    Raises:
        InputError: a row is longer than the model's positions.
    """
    if len(ids) != len(starts) or any(not 1 <= start <= len(row) for row, start in zip(ids, starts, strict=False)):
        raise ValueError("each row needs a start from 1 to its length")
    limit = count_positions(model)
    seq2seq = model.config.is_encoder_decoder
    for number, (row, start) in enumerate(zip(ids, starts, strict=True)):
        longest = max(start, len(row) - start) if seq2seq else len(row)
        if limit is not None and longest > limit:
            raise InputError(f"row {number} has {longest} tokens, the model has {limit} positions")
    counts = torch.tensor([len(row) - start for row, start in zip(ids, starts, strict=True)], dtype=torch.long)
    totals = torch.zeros(len(ids), dtype=torch.float64)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]), reverse=True)
    with evaluating(model), Progress(label, len(ids), "row") as progress:
        if not seq2seq:
            order = _shared_sources(model, ids, starts, order, batch_size, totals, progress)
        while order:
            chosen, order = _cut(model, order, batch_size, len(ids[order[0]]))
            score = _encoder_decoder_batch if seq2seq else _causal_batch
            totals[chosen] = score(model, [ids[index] for index in chosen], [starts[index] for index in chosen])
            progress.update(len(chosen))
    return totals, counts


def _cut(model, order: list[int], batch_size: int, length: int) -> tuple[list[int], list[int]]:
    """The next rows of this length at most, such that their logits are not too many, and the others."""
    size = max(1, min(batch_size, _LOGITS // (length * model.config.get_text_config().vocab_size)))
    return order[:size], order[size:]


def _shared_sources(
    model, ids, starts, order: list[int], batch_size: int, totals: torch.Tensor, progress: Progress
) -> list[int]:
    """Scores the rows whose source is that of some others; returns the rows that are left."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in order:
        groups.setdefault(tuple(ids[index][: starts[index]]), []).append(index)
    left = []
    for source, group in groups.items():
        while (len(group) - 1) * len(source) >= _SHARED:
            chosen, rest = _cut(model, group, batch_size, len(ids[group[0]]) - len(source) + 1)
            found = _shared_batch(model, list(source), [ids[index][len(source) :] for index in chosen])
            if found is None:
                break
            totals[chosen], group = found, rest
            progress.update(len(chosen))
        left += group
    return sorted(left, key=lambda index: len(ids[index]), reverse=True)


def _shared_batch(model, source: list[int], targets: list[list[int]]) -> torch.Tensor | None:
    """Targets (C,) of one source; None if the model cannot be told what it has read."""
    before = torch.tensor([source], device=model.device)
    cache = shared_prompts(model, before, torch.ones_like(before), len(targets))
    target, wanted = pad_rows(targets, 0, model.device)  # (C, L)
    if not cache or not target.shape[1]:
        return None
    rows, mask = pad_rows([[source[-1], *row[:-1]] for row in targets], 0, model.device)
    mask = torch.cat([mask.new_ones(len(targets), len(source) - 1), mask], 1)
    logits = model(input_ids=rows, attention_mask=mask, use_cache=True, **cache).logits
    return _sum_log_p(logits, target, wanted == 1)


def _causal_batch(model, rows: list[list[int]], starts: list[int]) -> torch.Tensor:
    """Padded on the right: a causal model never sees the padding, and positions need no correction."""
    ids, mask = pad_rows(rows, 0, model.device)  # (B, T)
    first = min(starts) - 1  # the earliest position that predicts a target
    kept = ids.shape[1] - first
    options = {"logits_to_keep": kept} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits[:, -kept:][:, :-1]
    columns = torch.arange(first + 1, ids.shape[1], device=ids.device)
    wanted = (mask[:, first + 1 :] == 1) & (columns >= torch.tensor(starts, device=ids.device)[:, None])
    return _sum_log_p(logits, ids[:, first + 1 :], wanted)


def _encoder_decoder_batch(model, rows: list[list[int]], starts: list[int]) -> torch.Tensor:
    begin = model.generation_config.decoder_start_token_id
    begin = begin if begin is not None else model.generation_config.bos_token_id
    ids, mask = pad_rows([row[:start] for row, start in zip(rows, starts, strict=True)], 0, model.device)
    target, wanted = pad_rows([row[start:] for row, start in zip(rows, starts, strict=True)], 0, model.device)
    given = torch.cat([torch.full_like(target[:, :1], begin), target[:, :-1]], 1)
    if not target.shape[1]:
        return torch.zeros(len(rows), dtype=torch.float64)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=given, use_cache=False).logits
    return _sum_log_p(logits, target, wanted == 1)


def _sum_log_p(logits: torch.Tensor, target: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B, T, V), (B, T), (B, T) bool to (B,)."""
    losses = cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1), target.flatten(), reduction="none"
    ).view(target.shape)
    return -(losses.double() * wanted).sum(1).cpu()
