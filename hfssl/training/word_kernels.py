"""The inner loops of the word-vector engine, compiled by numba: draws and updates.

What made them fast, and what did not, stands in benchmarks/README.md. Indices are unsigned: with signed ones numba
allows for negative indices in every access. The rows that the next sample will touch are prefetched: waiting for them
is what a word costs otherwise. The inner functions become part of the outer ones, since handing over so many arrays at
each call costs time. The functions let go of Python's lock: threads share the arrays without locks (Recht et al.
2011, Hogwild!).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir
from numba import float32, njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

# What the loops have compiled in stands here: numba compiles anew when this file changes, and no other.
LINE = 16  # float32 in a line of the caches
SKIPPED = np.uint32(0xFFFFFFFF)  # in the place of a negative that is the target itself
_ONE, _HALF = np.uint64(1), np.uint64(32)
_MULTIPLIER, _INCREMENT = np.uint64(6364136223846793005), np.uint64(1442695040888963407)  # Knuth's MMIX
_LINE = np.uint64(LINE)


def compiled(function=None, **options):
    """numba's njit; the machine code is kept for the next process, where numba finds a folder that it may write to."""
    if function is None:
        return partial(compiled, **options)
    options |= {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # as of a user without a home where the installation is read-only
        return njit(function, **options)


@intrinsic
def _prefetch(typing_context, array, row, column):
    """Asks for the line of a cache that holds `array[row, column]`, and does not wait for it."""

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        found = context.make_array(kind)(context, builder, arguments[0])
        shape, strides = (cgutils.unpack_tuple(builder, part, kind.ndim) for part in (found.shape, found.strides))
        place = cgutils.get_item_pointer2(
            context, builder, found.data, shape, strides, kind.layout, arguments[1:], wraparound=False
        )
        byte, number = builder.bitcast(place, ir.IntType(8).as_pointer()), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte.type], ir.FunctionType(ir.VoidType(), [byte.type, number, number, number])
        )
        builder.call(function, [byte, number(0), number(3), number(1)])  # to read, in all levels, data
        return context.get_dummy_value()

    return types.void(array, row, column), generate


@compiled(forceinline=True)
def _width(settings):
    """Of a row, whole lines; a constant when compiling, so that loops over a row have no rest."""
    return _LINE * uint64(len(settings.lines))


@compiled(forceinline=True)
def _prefetch_row(array, row, settings):
    for k in range(uint64(0), _width(settings), _LINE):
        _prefetch(array, row, k)


@compiled
def keep_words(ids, first, last, keep, words, state):
    """Copies the words of a sentence that subsampling leaves (Mikolov et al. 2013b, section 2.3).

    Returns:
        How many there are, and the generator's next state.
    """
    count = uint64(0)
    for i in range(uint64(first), uint64(last)):
        word = uint64(ids[i])
        state = state * _MULTIPLIER + _INCREMENT
        if (state >> _HALF) <= keep[word]:
            words[count] = word
            count += _ONE
    return count, state


@compiled
def draw_samples(count, first, last, tables, settings, scratch, state):
    """Windows and negatives of the targets first to last of a sentence of `count` words.

    A window reaches U{1..window} words to each side (word2vec.c). CBOW has one sample a target, its context its
    neighbours; skip-gram one a neighbour, which the centre word predicts.

    Returns:
        How many samples there are, and the generator's next state.
    """
    noise, alias = tables.noise, tables.alias
    words, centres, lows, highs, ids = scratch.words, scratch.centres, scratch.lows, scratch.highs, scratch.ids
    size, window, samples = uint64(len(noise)), settings.window, uint64(0)
    for t in range(first, last):
        state = state * _MULTIPLIER + _INCREMENT
        reach = _ONE + ((state >> _HALF) * window >> _HALF)
        low = t - reach if t > reach else uint64(0)
        high = min(count, t + reach + _ONE)
        if high - low < uint64(2):
            continue
        for p in range(low, high if settings.skipgram else low + _ONE):
            if settings.skipgram and p == t:
                continue
            target = words[p if settings.skipgram else t]
            centres[samples] = t
            lows[samples], highs[samples] = (t, t + _ONE) if settings.skipgram else (low, high)
            ids[samples, uint64(0)] = target
            for j in range(_ONE, settings.negatives + _ONE):
                state = state * _MULTIPLIER + _INCREMENT
                i = (state >> _HALF) * size >> _HALF
                # The lower bits of such a generator are weak: the upper ones are folded into them.
                bits = (state ^ (state >> uint64(29))) & uint64(0xFFFFFFFF)
                word = i if bits <= noise[i] else uint64(alias[i])
                ids[samples, j] = word if word != uint64(target) else SKIPPED
            samples += _ONE
    return samples, state


@compiled(forceinline=True)
def _read_vectors(begin, end, weights, tables, settings, scratch):
    """The sum of the rows of each word, or their mean, and gradients of 0."""
    inputs, offsets, rows = weights.inputs, tables.offsets, tables.rows
    words, gradients, vectors = scratch.words, scratch.gradients, scratch.vectors
    width = _width(settings)
    for p in range(begin, end):
        word, place = uint64(words[p]), p - begin
        for k in range(width):
            gradients[place, k] = float32(0)
        if len(offsets) == 0:
            for k in range(width):
                vectors[place, k] = inputs[word, k]
            continue
        first, last = offsets[word], offsets[word + _ONE]
        for k in range(width):
            vectors[place, k] = float32(0)
        for i in range(first, last):
            row = uint64(rows[i])
            if i + uint64(2) < last:
                _prefetch_row(inputs, uint64(rows[i + uint64(2)]), settings)
            for k in range(width):
                vectors[place, k] += inputs[row, k]
        if settings.mean_of_words and last > first:
            share = float32(1) / float32(last - first)
            for k in range(width):
                vectors[place, k] *= share


@compiled(forceinline=True)
def _write_gradients(begin, end, weights, tables, settings, scratch):
    """Adds each word's gradient to its rows."""
    inputs, positions, offsets, rows = weights.inputs, weights.positions, tables.offsets, tables.rows
    words, gradients, weight_gradients = scratch.words, scratch.gradients, scratch.weight_gradients
    width = _width(settings)
    for p in range(begin, end):
        word, place = uint64(words[p]), p - begin
        if len(offsets) == 0:
            for k in range(width):
                inputs[word, k] += gradients[place, k]
            continue
        first, last = offsets[word], offsets[word + _ONE]
        share = float32(1)
        if settings.mean_of_words and last > first:
            share /= float32(last - first)
        for i in range(first, last):
            row = uint64(rows[i])
            if i + uint64(2) < last:
                _prefetch_row(inputs, uint64(rows[i + uint64(2)]), settings)
            for k in range(width):
                inputs[row, k] += share * gradients[place, k]
    if len(positions):
        for p in range(uint64(len(positions))):
            for k in range(width):
                positions[p, k] += weight_gradients[p, k]


@compiled(forceinline=True)
def _add_context(sample, begin, weights, tables, settings, scratch):
    """The mean of a sample's context goes to `hidden`; returns 1 / the number that the sum was divided by."""
    positions, offsets, hidden, vectors = weights.positions, tables.offsets, scratch.hidden, scratch.vectors
    centres, lows, highs, words = scratch.centres, scratch.lows, scratch.highs, scratch.words
    width, weighted, centre = _width(settings), len(positions) > 0, uint64(centres[sample])
    low, high = uint64(lows[sample]), uint64(highs[sample])
    number = uint64(0)
    for k in range(width):
        hidden[k] = float32(0)
    for p in range(low, high):
        if p == centre and not settings.skipgram:
            continue
        if len(offsets) == 0 or settings.mean_of_words:
            number += _ONE
        else:
            word = uint64(words[p])
            number += offsets[word + _ONE] - offsets[word]
        place = p - begin
        if weighted:
            position = p + settings.window - centre - (_ONE if p > centre else uint64(0))
            for k in range(width):
                hidden[k] += positions[position, k] * vectors[place, k]
        else:
            for k in range(width):
                hidden[k] += vectors[place, k]
    share = float32(1) / float32(max(number, _ONE))
    for k in range(width):
        hidden[k] *= share
    return share


@compiled(forceinline=True)
def _add_gradients(sample, begin, share, weights, settings, scratch):
    """Passes a sample's error on to the words of its context, and to the weights of their positions."""
    positions, error, vectors = weights.positions, scratch.error, scratch.vectors
    gradients, weight_gradients = scratch.gradients, scratch.weight_gradients
    centres, lows, highs = scratch.centres, scratch.lows, scratch.highs
    width, weighted, centre = _width(settings), len(positions) > 0, uint64(centres[sample])
    low, high = uint64(lows[sample]), uint64(highs[sample])
    factor = share if settings.exact else float32(1)
    for p in range(low, high):
        if p == centre and not settings.skipgram:
            continue
        place = p - begin
        if weighted:
            position = p + settings.window - centre - (_ONE if p > centre else uint64(0))
            for k in range(width):
                gradients[place, k] += factor * positions[position, k] * error[k]
                weight_gradients[position, k] += share * vectors[place, k] * error[k]
        else:
            for k in range(width):
                gradients[place, k] += factor * error[k]


@compiled(forceinline=True)
def _predict_sampled(sample, rate, weights, settings, scratch, measure):
    """Negative sampling: updates the rows of the target and the negatives; `error` gets what goes back to `hidden`.

    All scores are from before the updates. The row of a word that was drawn twice is read anew the second time, so that
    `error` has there what the first step left, as in neither autograd nor word2vec.c, which also scores it anew.
    """
    outputs, hidden, error = weights.outputs, scratch.hidden, scratch.error
    ids, errors = scratch.ids, scratch.errors
    width, count, loss = _width(settings), uint64(ids.shape[1]), 0.0
    for j in range(count):
        if ids[sample, j] == SKIPPED:
            continue
        row, score = uint64(ids[sample, j]), float32(0)
        for k in range(width):
            score += hidden[k] * outputs[row, k]
        errors[j] = score
    if measure:
        for j in range(count):
            if ids[sample, j] != SKIPPED:
                signed = -errors[j] if j == 0 else errors[j]
                loss += max(signed, float32(0)) + np.log1p(np.exp(-abs(signed)))
    for k in range(width):
        error[k] = float32(0)
    for j in range(count):
        if ids[sample, j] == SKIPPED:
            continue
        row = uint64(ids[sample, j])
        step = -rate / (float32(1) + np.exp(-errors[j]))
        if j == 0:
            step += rate
        for k in range(width):
            old = outputs[row, k]
            error[k] += step * old
            outputs[row, k] = old + step * hidden[k]
    return loss


@compiled(forceinline=True)
def _predict_exactly(sample, rate, weights, settings, scratch):
    """The softmax over all words, as `_predict_sampled`."""
    outputs, hidden, error, scores = weights.outputs, scratch.hidden, scratch.error, scratch.errors
    width, size, target = _width(settings), uint64(len(outputs)), uint64(scratch.ids[sample, 0])
    most, total = float32(-np.inf), float32(0)
    for row in range(size):
        score = float32(0)
        for k in range(width):
            score += hidden[k] * outputs[row, k]
        scores[row] = score
        most = max(most, score)
    told = scores[target] - most
    for row in range(size):
        scores[row] = np.exp(scores[row] - most)
        total += scores[row]
    for k in range(width):
        error[k] = float32(0)
    for row in range(size):
        step = -rate * scores[row] / total
        if row == target:
            step += rate
        for k in range(width):
            old = outputs[row, k]
            error[k] += step * old
            outputs[row, k] = old + step * hidden[k]
    return np.log(total) - told


@compiled
def update_samples(samples, begin, end, rate, weights, tables, settings, scratch, measure):
    """One step of SGD on the sum of the samples' losses, with these words' e' as they were before the first sample.

    e is updated sample by sample.

    Args:
        samples: how many, from the first of the scratch on; begin, end: the words of the sentence they reach.
        measure: also add up the loss.

    Returns:
        The sum of the losses in nats, 0 if it is not measured.
    """
    ids, loss = scratch.ids, 0.0
    _read_vectors(begin, end, weights, tables, settings, scratch)
    if len(weights.positions):
        scratch.weight_gradients[:] = 0
    for sample in range(samples):
        if sample + _ONE < samples and not settings.softmax:
            for j in range(uint64(ids.shape[1])):
                row = uint64(ids[sample + _ONE, j])
                if row != uint64(SKIPPED):
                    _prefetch_row(weights.outputs, row, settings)
        share = _add_context(sample, begin, weights, tables, settings, scratch)
        if settings.softmax:
            loss += _predict_exactly(sample, rate, weights, settings, scratch)
        else:
            loss += _predict_sampled(sample, rate, weights, settings, scratch, measure)
        _add_gradients(sample, begin, share, weights, settings, scratch)
    _write_gradients(begin, end, weights, tables, settings, scratch)
    return loss


@compiled
def train_sentences(ids, ends, first, last, rate, weights, tables, settings, scratch, state, measure):
    """Trains on the sentences first to last.

    Args:
        ids: the text, uint32; ends: (sentences + 1,) uint64, sentence s is `ids[ends[s] : ends[s + 1]]`.
        state: of the random generator, uint64: the draws follow from it alone.

    Returns:
        The sum of the losses (0 if `measure` is not set) and the number of samples.
    """
    loss, total = 0.0, uint64(0)
    for s in range(first, last):
        count, state = keep_words(ids, ends[s], ends[s + _ONE], tables.keep, scratch.words, state)
        for begin in range(uint64(0), count, settings.block):
            stop = min(count, begin + settings.block)
            samples, state = draw_samples(count, begin, stop, tables, settings, scratch, state)
            low = begin - settings.window if begin > settings.window else uint64(0)
            high = min(count, stop + settings.window)
            loss += update_samples(samples, low, high, rate, weights, tables, settings, scratch, measure)
            total += samples
    return loss, total
