"""What the compiled loops of word vectors work on: the model's arrays, tables of draws, options, a thread's memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hfssl.data.word_contexts import keep_probabilities, noise_probabilities
from hfssl.data.word_corpus import LONGEST_SENTENCE, WordCorpus

SKIPPED = np.uint32(0xFFFFFFFF)  # in the place of a negative that is the target itself
_UINT32 = 2**32 - 1


class Weights(NamedTuple):
    """What is trained, all float32, in place. `positions` has no rows where there are no position weights."""

    inputs: np.ndarray  # (rows, d), e'
    outputs: np.ndarray  # (V, d), e
    positions: np.ndarray  # (2 window, d) or (0, d)


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

    window: np.uint64
    negatives: np.uint64
    block: np.uint64  # targets whose contexts are read before any of them is updated
    skipgram: bool
    softmax: bool
    exact: bool  # the gradient's 1/|c|
    mean_of_words: bool


class Scratch(NamedTuple):
    """The memory of one thread."""

    words: np.ndarray  # (longest sentence,) uint32, those kept
    centres: np.ndarray  # (samples,) uint32, which word of the sentence
    lows: np.ndarray  # (samples,) uint32, where its context begins
    highs: np.ndarray  # (samples,) uint32, and ends
    ids: np.ndarray  # (samples, 1 + negatives) uint32, the target and the negatives
    errors: np.ndarray  # (1 + negatives,) or (V,) float32
    hidden: np.ndarray  # (d,) float32
    error: np.ndarray  # (d,) float32
    vectors: np.ndarray  # (block + 2 window, d) float32
    gradients: np.ndarray  # the same
    weight_gradients: np.ndarray  # (2 window, d) float32


def weights_of(model) -> Weights:
    """The model's own memory: what is trained there is trained in the model."""
    width, positions = model.config.hidden_size, model.cbow.position_weights
    return Weights(
        model.cbow.input_embeddings.weight.detach().numpy(),
        model.output_embeddings.weight.detach().numpy(),
        np.empty((0, width), np.float32) if positions is None else positions.detach().numpy(),
    )


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
        words=np.zeros(LONGEST_SENTENCE, np.uint32),
        centres=np.zeros(samples, np.uint32),
        lows=np.zeros(samples, np.uint32),
        highs=np.zeros(samples, np.uint32),
        ids=np.zeros((samples, tried), np.uint32),
        errors=np.zeros(scores, np.float32),
        hidden=np.zeros(width, np.float32),
        error=np.zeros(width, np.float32),
        vectors=np.zeros((reach, width), np.float32),
        gradients=np.zeros((reach, width), np.float32),
        weight_gradients=np.zeros((2 * window, width), np.float32),
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
