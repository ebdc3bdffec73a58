"""What the compiled loops of word vectors work on: the model's arrays, tables of draws, options, a thread's memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hfssl.data.word_contexts import keep_probabilities, noise_probabilities
from hfssl.data.word_corpus import LONGEST_SENTENCE, WordCorpus
from hfssl.training.word_kernels import LINE

EVERY = slice(None)
_UINT32 = 2**32 - 1


class Weights(NamedTuple):
    """What is trained, all float32: copies of the model's arrays whose rows are whole lines of the caches.

    D is the width of the model, d, rounded up to lines. What is more than d is 0 and stays 0: in a score it adds
    nothing, and its gradient is a multiple of another such 0. `positions` has no rows without position weights.
    """

    inputs: np.ndarray  # (rows, D), e'
    outputs: np.ndarray  # (V, D), e
    positions: np.ndarray  # (2 window, D) or (0, D)


class Tables(NamedTuple):
    """What the draws and the rows of a word are read from.

    Word w is kept if 32 random bits are at most `keep[w]`. A negative is i, uniform, if 32 random bits are at most
    `noise[i]`, else `alias[i]` (Walker 1977). The rows of w are `rows[offsets[w] : offsets[w + 1]]`; with no offsets
    its one row is w.
    """

    keep: np.ndarray  # (V,) uint32
    noise: np.ndarray  # (V,) uint32
    alias: np.ndarray  # (V,) uint32
    rows: np.ndarray  # uint32
    offsets: np.ndarray  # (V + 1,) uint64 or (0,)


class Settings(NamedTuple):
    """The model's and the engine's options as the loops read them."""

    lines: tuple[int, ...]  # as many as a row has; a tuple's length is known when compiling, and the loops' with it
    window: np.uint64
    negatives: np.uint64
    block: np.uint64  # targets whose contexts are read before any of them is updated
    skipgram: bool
    softmax: bool
    exact: bool  # the gradient's 1/|c|
    mean_of_words: bool


class Scratch(NamedTuple):
    """The memory of one thread: no array shares a line of the caches with another one."""

    words: np.ndarray  # (longest sentence,) uint32, those kept
    centres: np.ndarray  # (samples,) uint32, which word of the sentence
    lows: np.ndarray  # (samples,) uint32, where its context begins
    highs: np.ndarray  # (samples,) uint32, and ends
    ids: np.ndarray  # (samples, 1 + negatives) uint32, the target and the negatives
    errors: np.ndarray  # (1 + negatives,) or (V,) float32
    hidden: np.ndarray  # (D,) float32
    error: np.ndarray  # (D,) float32
    vectors: np.ndarray  # (block + 2 window, D) float32
    gradients: np.ndarray  # the same
    weight_gradients: np.ndarray  # (2 window, D) float32


def weights_of(model, used: np.ndarray | slice = EVERY) -> Weights:
    """Copies of what is trained in a model; of e' the rows `used`, in their order."""
    counts = [len(part) if rows is EVERY else len(rows) for part, rows in _parts(model, used)]
    weights = Weights(*(_zeros((count, LINE * _lines(model.config.hidden_size))) for count in counts))
    read_weights(weights, model, used)
    return weights


def read_weights(weights: Weights, model, used: np.ndarray | slice = EVERY) -> None:
    """Copies the model's arrays into those of `weights_of`."""
    for mine, (part, rows) in zip(weights, _parts(model, used), strict=True):
        mine[:, : part.shape[1]] = part[rows]


def write_weights(weights: Weights, model, used: np.ndarray | slice = EVERY) -> None:
    """Copies the arrays of `weights_of` into the model's."""
    for mine, (part, rows) in zip(weights, _parts(model, used), strict=True):
        part[rows] = mine[:, : part.shape[1]]


def _parts(model, used) -> list[tuple[np.ndarray, np.ndarray | slice]]:
    """Of each of `Weights` the model's own array, and which of its rows are trained."""
    positions = model.cbow.position_weights
    return [
        (model.cbow.input_embeddings.weight.detach().numpy(), used),
        (model.output_embeddings.weight.detach().numpy(), EVERY),
        (
            np.empty((0, model.config.hidden_size), np.float32) if positions is None else positions.detach().numpy(),
            EVERY,
        ),
    ]


def _lines(width: int) -> int:
    return -(-width // LINE)


def _zeros(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """Zeros that begin a line of the caches and share none with another array: a core that writes to a line takes it
    from the others."""
    line, size = 4 * LINE, math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(line * (_lines(-(-size // 4)) + 1), np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size].view(dtype).reshape(shape)


def gather_rows(tables: Tables, counts: np.ndarray) -> tuple[Tables, np.ndarray | slice]:
    """Numbers the rows that words have by how often they are used, the most used first.

    Of two million buckets most are empty, and rows that lie together stay in the caches.

    Args:
        counts: (V,) of the words.

    Returns:
        Tables of the new numbers, and the old ones, as `weights_of` takes them.
    """
    if not len(tables.offsets):
        return tables, EVERY
    used, places = np.unique(tables.rows, return_inverse=True)
    sizes = np.diff(tables.offsets.astype(np.int64))
    order = np.argsort(-np.bincount(places, np.repeat(counts, sizes)), kind="stable")
    rank = np.empty(len(used), np.uint32)
    rank[order] = np.arange(len(used), dtype=np.uint32)
    return tables._replace(rows=rank[places]), used[order]


def tables_of(corpus: WordCorpus, model, arguments) -> Tables:
    """What the draws need, and the rows of each word."""
    keep = keep_probabilities(corpus.counts, arguments.subsample)
    noise, alias = alias_table(noise_probabilities(corpus.counts, arguments.noise_exponent))
    rows, offsets = np.empty(0, np.uint32), np.empty(0, np.uint64)
    if model.config.subwords != "none":
        rows = model.cbow.subword_rows.numpy().astype(np.uint32)
        offsets = model.cbow.subword_offsets.numpy().astype(np.uint64)
    return Tables((keep * _UINT32).astype(np.uint32), noise, alias, rows, offsets)


def settings_of(config, arguments) -> Settings:
    """The options of a model's config and of the engine's `WordArguments`."""
    softmax = config.objective == "softmax"
    return Settings(
        lines=(0,) * _lines(config.hidden_size),
        window=np.uint64(config.window),
        negatives=np.uint64(0 if softmax else arguments.negatives),
        block=np.uint64(min(arguments.target_block, LONGEST_SENTENCE)),  # of one sentence
        skipgram=config.architecture == "skipgram",
        softmax=softmax,
        exact=config.gradient == "exact",
        mean_of_words=config.subword_average == "words",
    )


def scratch_for(settings: Settings, weights: Weights) -> Scratch:
    """The memory that a thread works in."""
    window, width = int(settings.window), weights.inputs.shape[1]
    samples = int(settings.block) * (2 * window if settings.skipgram else 1)
    reach, tried = int(settings.block) + 2 * window, 1 + int(settings.negatives)
    scores = weights.outputs.shape[0] if settings.softmax else tried
    return Scratch(
        words=_zeros((LONGEST_SENTENCE,), np.uint32),
        centres=_zeros((samples,), np.uint32),
        lows=_zeros((samples,), np.uint32),
        highs=_zeros((samples,), np.uint32),
        ids=_zeros((samples, tried), np.uint32),
        errors=_zeros((scores,)),
        hidden=_zeros((width,)),
        error=_zeros((width,)),
        vectors=_zeros((reach, width)),
        gradients=_zeros((reach, width)),
        weight_gradients=_zeros((2 * window, width)),
    )


def alias_table(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws from V probabilities in constant time (Walker 1977; built as by Vose 1991).

    Returns:
        (V,) uint32 each: i, uniform, is the draw if 32 random bits are at most the first at i, else the second at i is.
    """
    size = len(probabilities)
    scaled = (probabilities * size).tolist()
    bounds, alias = np.full(size, _UINT32, np.uint32), np.arange(size, dtype=np.uint32)
    small = [i for i, share in enumerate(scaled) if share < 1]
    large = [i for i, share in enumerate(scaled) if share >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        bounds[low], alias[low] = int(scaled[low] * _UINT32), high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return bounds, alias
