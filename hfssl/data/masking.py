"""Blank language modelling (BERT, Devlin et al. 2019, section 3.1): which tokens are hidden, and by what.

Hidden are single tokens, whole words (as in BERT's later checkpoints), spans of words (SpanBERT, Joshi et al. 2020), or
phrases and entities (ERNIE, Sun et al. 2019).

The draws are a hash of (seed, epoch, sample, position). There is no generator whose state could be lost: any worker,
process or resumed run draws the same mask for the same sample.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import decoders

from hfssl.data.phrases import Capitals, Gazetteer
from hfssl.data.sampling import hash_key, mix64
from hfssl.errors import InputError, nearest

IGNORED = -100  # the label that torch's cross-entropy skips
BERT_SCHEME = (0.8, 0.1, 0.1)  # of the chosen tokens: [MASK], a random token, unchanged
LECTURE_SCHEME = (1.0, 0.0, 0.0)  # "replaced by a blank token"
UNITS = ("token", "word", "span", "phrase", "entity")
SPAN_STOP, LONGEST_SPAN = 0.2, 10  # words; SpanBERT, section 3.1

# What a token begins and ends with, as far as words go. The last four are kinds of characters.
_JOINS, _STARTS, _SPACE, _LETTER, _NUMBER, _OTHER = range(6)


def check_unit(unit: str, has_gazetteer: bool = False) -> str:
    """Returns the unit; InputError if there is none of this name, or a gazetteer is missing or of no use to it."""
    if unit not in UNITS:
        raise InputError(f"unknown mask_unit {unit!r}: one of {', '.join(UNITS)}{nearest(unit, UNITS)}")
    if unit == "phrase" and not has_gazetteer:
        raise InputError("mask_unit phrase needs --gazetteer FILE, one phrase a line")
    if has_gazetteer and unit not in ("phrase", "entity"):
        raise InputError(f"--gazetteer has no use with mask_unit {unit}: it names phrases or entities")
    return unit


def uniform(seed: int, epochs: np.ndarray, indices: np.ndarray, length: int, stream: int) -> np.ndarray:
    """Uniform draws in [0, 1), shape (B, length), a function of the arguments alone.

    Args:
        epochs, indices: integers (B,), which pass and which sample each row is.
        stream: keeps the draws for one purpose apart from those for another.
    """
    with np.errstate(over="ignore"):
        rows = mix64(mix64(indices.astype(np.uint64) ^ hash_key(seed, stream)) ^ epochs.astype(np.uint64))
        bits = mix64(rows[:, None] + np.arange(length, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def span_words(draws: np.ndarray) -> np.ndarray:
    """The words of a span from uniform draws, any shape: geometric, of which only 1 to 10 are kept.

    The law is cut and scaled up, as in SpanBERT's code: the mean is 3.8 as the paper has it. If longer spans were cut
    to 10 words it would be 4.5.
    """
    kept = 1 - (1 - SPAN_STOP) ** LONGEST_SPAN
    words = 1 + np.floor(np.log1p(-draws * kept) / np.log1p(-SPAN_STOP)).astype(np.int64)
    return np.minimum(words, LONGEST_SPAN)  # a draw just below 1 may round up


def word_edges(tokenizer) -> np.ndarray:
    """What each token begins and ends with, from its string, (2, V) int8; `word_starts` makes words of it.

    Byte-level BPE marks a space by "Ġ", SentencePiece by "▁", WordPiece the parts of a word but the first by "##". In
    the first two a word also ends where the kind of character changes (letters, numbers, others), as GPT-2's pattern
    has it: punctuation is no part of a word. A part of a character belongs to what stands before and after it.

    Raises:
        InputError: no token has one of these marks.
    """
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    marked = {mark: sum(token.startswith(mark) for token in tokens) for mark in ("Ġ", "▁", "##")}
    mark = max(marked, key=marked.get)  # not the first one seen: "##" and "Ġ" are also text
    if not marked[mark]:
        raise InputError("the tokenizer's vocabulary marks no words ('Ġ', '▁' or '##'); use --mask_unit token")
    if mark == "##":
        return np.array([[_JOINS if token.startswith(mark) else _STARTS, _JOINS] for token in tokens], np.int8).T
    decode = decoders.ByteLevel().decode if mark == "Ġ" else lambda parts: parts[0].replace(mark, " ")
    return np.array([_edges(decode([token])) for token in tokens], np.int8).T


def _edges(text: str) -> tuple[int, int]:
    if text == " ":
        return _STARTS, _JOINS  # the space of a word whose first letters were not merged with it
    first, last = (_kind(character) for character in (text[:1], text[-1:]))
    return _STARTS if first == _SPACE else first, last


def _kind(character: str) -> int:
    if character == "\ufffd":  # how decoders show a part of a character
        return _JOINS
    if not character or character.isspace():
        return _SPACE
    return {"L": _LETTER, "M": _LETTER, "N": _NUMBER}.get(unicodedata.category(character)[0], _OTHER)


def word_starts(edges: np.ndarray, input_ids: np.ndarray, maskable: np.ndarray) -> np.ndarray:
    """Where words start, (B, T) bool: at marks, where the kind of character changes, and after what is not maskable."""
    first, last = edges[0][input_ids], edges[1][input_ids[:, :-1]]
    starts = maskable.copy()
    here = first[:, 1:]
    changes = (here == _STARTS) | ((here != last) & (here != _JOINS) & (last != _JOINS))
    starts[:, 1:] &= changes | ~maskable[:, :-1]
    return starts


def _ends(starts: np.ndarray, maskable: np.ndarray, words: np.ndarray | int) -> np.ndarray:
    """The position after the unit of `words` words that begins at each start, (B, T) int32; 0 where none begins.

    What is not maskable ends a unit early.
    """
    length = starts.shape[1]
    begins = np.flatnonzero(starts)  # (N,) all words of the batch, in order
    seen = np.cumsum(maskable)
    word_ends = begins + np.diff(seen[begins], append=seen[-1] + 1)
    stretch = maskable.copy()  # where a stretch of maskable tokens begins; a unit does not leave it
    stretch[:, 1:] &= ~maskable[:, :-1]
    firsts = np.flatnonzero(stretch.ravel()[begins])
    beyond = np.append(firsts[1:], len(begins))[np.cumsum(stretch.ravel()[begins]) - 1]
    lasts = np.minimum(np.arange(len(begins)) + np.broadcast_to(words, starts.shape).ravel()[begins], beyond) - 1
    ends = np.zeros(starts.shape, np.int32)
    ends.ravel()[begins] = word_ends[lasts] - begins // max(length, 1) * length
    return ends


def choose_units(
    starts: np.ndarray, maskable: np.ndarray, words: np.ndarray | int, choose: np.ndarray, budget: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Takes units of whole words in the order of their draws, and skips what overlaps or would exceed the budget.

    If no unit of a row is short enough, its units are cut to their first words; if no word is, to the budget.

    Args:
        starts: (B, T) bool, where words start; at each a unit of `words` words could begin.
        words: (B, T) or one number.
        choose: (B, T) uniform draws.
        budget: (B,) tokens to hide at most.

    Returns:
        Which tokens are taken, (B, T) bool, and the first position of each one's unit, (B, T) (elsewhere 0).
    """
    positions = np.arange(starts.shape[1], dtype=np.int32)
    rows, left = np.arange(len(starts)), budget.astype(np.int32)
    ends = _ends(starts, maskable, words)
    for shorter in (_ends(starts, maskable, 1), positions + left[:, None]):
        fits = (starts & (ends - positions <= left[:, None])).any(1)
        ends = np.where(fits[:, None], ends, np.minimum(ends, shorter))
    sizes = ends - positions
    order = np.where(starts, choose, 2.0)
    taken = np.zeros_like(starts)
    while True:  # each round takes one unit in each row that still has one
        np.putmask(order, sizes > left[:, None], 2.0)
        begin = order.argmin(1).astype(np.int32)
        alive = order[rows, begin] < 2.0
        if not alive.any():
            break
        end = ends[rows, begin]
        taken[rows, begin] |= alive
        left -= np.where(alive, end - begin, 0)
        np.putmask(order, (ends > begin[:, None]) & (positions < end[:, None]), 2.0)
    first = np.maximum.accumulate(np.where(taken, positions, 0), axis=1)
    inside = np.take_along_axis(taken, first, 1) & (positions < np.take_along_axis(ends, first, 1))
    return inside, np.where(inside, first, 0)


def mask_tokens(
    input_ids: np.ndarray,
    maskable: np.ndarray,
    draws: Sequence[np.ndarray],
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    scheme: Sequence[float] = BERT_SCHEME,
    never: Sequence[int] = (),
    starts: np.ndarray | None = None,
    words: np.ndarray | int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Hides a fixed share of each row's maskable tokens.

    As in BERT's own code the number is fixed, max(1, round(probability * maskable tokens)), not binomial. Of words and
    spans as many are hidden as go into this number; one draw says the treatment of all tokens of one.

    Args:
        input_ids: (B, T) token ids.
        maskable: (B, T) bool, False on special tokens and padding.
        draws: three arrays (B, T) of uniform draws: which positions, which treatment, which random token.
        never: ids that a random token must not be (the special tokens).
        starts, words: of `choose_units`; without them each token is chosen by itself.

    Returns:
        The corrupted ids and the labels, both (B, T) int64; labels are -100 where nothing is to be predicted.
    """
    choose, treat, replace = draws
    count = maskable.sum(1)
    wanted = np.where(count > 0, np.maximum(1, np.rint(probability * count)), 0)
    if starts is None:
        rank = np.argsort(np.argsort(np.where(maskable, choose, 2.0), axis=1, kind="stable"), axis=1, kind="stable")
        chosen = (rank < wanted[:, None]) & maskable  # (B, T)
    else:
        chosen, first = choose_units(starts, maskable, words, choose, wanted)
        treat = np.take_along_axis(treat, first, 1)
    labels = np.where(chosen, input_ids, IGNORED).astype(np.int64)
    allowed = np.setdiff1d(np.arange(vocab_size), np.asarray(never, dtype=np.int64))
    random_ids = allowed[(replace * len(allowed)).astype(np.int64)]
    corrupted = np.where(chosen & (treat < scheme[0]), mask_token_id, input_ids)
    randomised = chosen & (treat >= scheme[0]) & (treat < scheme[0] + scheme[1])
    return np.where(randomised, random_ids, corrupted).astype(np.int64), labels


class MaskingCollator:
    """Batches blocks for blank language modelling: {"input_ids", "labels"}, both (B, T) int64.

    Args:
        tokenizer: its mask token, its special tokens (never hidden) and its size are used.
        probability: share of the tokens to predict.
        scheme: of those, how many become the blank, a random token, stay as they are; `BERT_SCHEME` or
            `LECTURE_SCHEME`.
        seed: of the masks; together with each item's "epoch" and "index" it fixes them.
        positions: also give "masked_positions", (B, M) int64: where the labels of each row are. M is the same for all
            batches; rows with fewer labels are filled up with positions that have none.
        unit: what is hidden as one: a "token", a "word", a "span" of up to 10 words, a "phrase" or an "entity".
            Special tokens and padding are never hidden and end all of these. In text without spaces a word is all up to
            the next punctuation. Words of no phrase or entity are hidden as words.
        gazetteer: the phrases or entities; without it an entity is a run of capitalised words.
    """

    def __init__(
        self,
        tokenizer,
        probability: float = 0.15,
        scheme: Sequence[float] = BERT_SCHEME,
        seed: int = 0,
        positions: bool = False,
        unit: str = "token",
        gazetteer: Sequence[str] | None = None,
    ):
        if tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token; train one with style 'bert'")
        if not 0 < probability <= 1:
            raise InputError(f"mlm_probability must lie in (0, 1], not {probability}")
        if len(scheme) != 3 or min(scheme) < 0 or abs(sum(scheme) - 1) > 1e-6:
            raise InputError(f"mask_scheme must be three shares that sum to 1, not {tuple(scheme)}")
        self.unit = check_unit(unit, gazetteer is not None)
        self.edges = None if unit == "token" else word_edges(tokenizer)
        self.phrases: Gazetteer | Capitals | None = None
        if unit in ("phrase", "entity"):
            self.phrases = Capitals(tokenizer) if gazetteer is None else Gazetteer(tokenizer, gazetteer)
        self.mask_token_id, self.vocab_size = tokenizer.mask_token_id, len(tokenizer)
        self.special_ids = sorted(tokenizer.all_special_ids)
        self.probability, self.scheme, self.seed, self.positions = probability, tuple(scheme), seed, positions

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the masks, as plain values."""
        shares = {"mlm_probability": self.probability, "mask_scheme": list(self.scheme)}
        phrases = {} if self.phrases is None else {"phrases": self.phrases.identity}
        return shares | {"mask_unit": self.unit, "seed": self.seed} | phrases

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids = np.stack([item["input_ids"] for item in items]).astype(np.int64)  # (B, T)
        epochs = np.array([item.get("epoch", 0) for item in items])
        indices = np.array([item["index"] for item in items])
        streams = 4 if self.unit == "span" else 3
        draws = [uniform(self.seed, epochs, indices, input_ids.shape[1], stream) for stream in range(streams)]
        maskable = ~np.isin(input_ids, self.special_ids)
        starts = None if self.edges is None else word_starts(self.edges, input_ids, maskable)
        if self.phrases is not None:
            starts = self.phrases.join(starts, input_ids, maskable)
        corrupted, labels = mask_tokens(
            input_ids,
            maskable,
            draws[:3],
            self.mask_token_id,
            self.vocab_size,
            self.probability,
            self.scheme,
            self.special_ids,
            starts=starts,
            words=span_words(draws[3]) if self.unit == "span" else 1,
        )
        batch = {"input_ids": corrupted, "labels": labels}
        if self.positions:
            most = max(1, round(self.probability * input_ids.shape[1]))
            batch["masked_positions"] = np.argsort(labels == IGNORED, axis=1, kind="stable")[:, :most]
        if "document_ids" in items[0]:
            batch["document_ids"] = np.stack([item["document_ids"] for item in items])
        return {name: torch.from_numpy(value) for name, value in batch.items()}
