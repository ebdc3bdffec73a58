"""Words in their contexts as batches, for the Trainer: subsampled targets, windows and negatives, all from hashes.

What is drawn follows from (seed, pass, sample): the same seed gives the same batches with any number of processes and
after a resume. The laws are those of the CPU engine (`hfssl.training.words`), the draws are others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hfssl.data.masking import uniform
from hfssl.data.word_corpus import WordCorpus

_KEEP, _DRAWS = 2000, 2001  # streams of draws
_AT_ONCE = 2**20  # words whose draws are made at a time


def keep_probabilities(counts: np.ndarray, subsample: float) -> np.ndarray:
    """min(1, sqrt(t/f) + t/f) of each word, f its share of the text (word2vec.c and fastText's code); 0 keeps all.

    The paper's formula is another (Mikolov et al. 2013b, eq. 5): no tool has it.
    """
    if subsample == 0:
        return np.ones(len(counts))
    ratio = subsample * counts.sum() / counts
    return np.minimum(1, np.sqrt(ratio) + ratio)


def noise_probabilities(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Of each word as a negative: proportional to its count to a power (Mikolov et al. 2013b, section 2.2)."""
    weights = counts.astype(np.float64) ** exponent
    return weights / weights.sum()


class WordContexts(Dataset):
    """As many samples as targets stay in a pass, on average; an item is {} and `ContextCollator` makes the batch.

    Args:
        corpus: the text.
        config: a `CBOWConfig`.
        subsample, negatives, noise_exponent: see `hfssl.training.words.WordArguments`.
        seed: of the draws.

    Raises:
        InputError: the text has no more words than the window.
    """

    def __init__(
        self,
        corpus: WordCorpus,
        config,
        subsample: float = 1e-3,
        negatives: int = 5,
        noise_exponent: float = 0.75,
        seed: int = 0,
    ):
        corpus.check_window(config.window)
        self.words, self.config, self.seed = corpus, config, seed
        self.source, self.fingerprint = corpus.source, corpus.fingerprint
        self.negatives = 0 if config.objective == "softmax" else negatives
        self._keep = keep_probabilities(corpus.counts, subsample)
        self._noise = np.cumsum(noise_probabilities(corpus.counts, noise_exponent))
        self._noise[-1] = 1.0
        # Skip-gram visits a centre once for each of the neighbours that it has on average.
        self._visits = config.window + 1 if config.architecture == "skipgram" else 1
        self._size = self._visits * max(1, round(float(self._keep @ corpus.counts)))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}

    def samples(self, indices: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Contexts, targets and negatives of samples of one pass, as `CBOWForPreTraining` takes them."""
        places, sentences = self._kept(self.seed, epoch)
        window, skipgram = self.config.window, self.config.architecture == "skipgram"
        draws = uniform(self.seed, np.full(len(indices), epoch), indices, 2 + self.negatives, _DRAWS)
        centres = (indices // self._visits) * len(places) // (self._size // self._visits)
        if skipgram:  # of w (w + 1) / 2 pairs a side, w - k + 1 are k words apart
            shares = np.cumsum(np.arange(window, 0, -1)) / (window * (window + 1) / 2)
            apart = 1 + np.searchsorted(shares, draws[:, :1], side="right").clip(max=window - 1)
            around = np.where(draws[:, 1:2] < 0.5, -apart, apart)
        else:
            steps = np.arange(1, window + 1)
            around = np.concatenate([-steps[::-1], steps])[None]
            reach = 1 + np.floor(draws[:, :1] * window)
            around = np.where(np.abs(around) <= reach, around, 0)
        neighbours = centres[:, None] + around  # (B, 2 window) or (B, 1), of the words that stay
        inside = (around != 0) & (neighbours >= 0) & (neighbours < len(places))
        neighbours = np.where(inside, neighbours, centres[:, None])
        inside &= sentences[neighbours] == sentences[centres][:, None]
        context, target = self.words.ids[places[neighbours]].astype(np.int64), self.words.ids[places[centres]]
        context[~inside] = -1
        if skipgram:  # the centre tells its neighbour
            context, target = np.where(inside, target[:, None], -1), np.where(inside, context, 0)[:, 0]
        target = target.astype(np.int64)
        found = {"context_ids": context, "target_ids": target}
        if self.negatives:
            negatives = np.searchsorted(self._noise, draws[:, 2:], side="right")
            found["negative_ids"] = np.where(negatives == target[:, None], -1, negatives)
        return found

    @functools.lru_cache(maxsize=2)  # noqa: B019  # a batch may straddle two passes; the data set lives as long as training
    def _kept(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of the words that stay in a pass, and the sentence of each."""
        found = []
        for first in range(0, len(self.words), _AT_ONCE):
            places = np.arange(first, min(first + _AT_ONCE, len(self.words)))
            draws = uniform(seed, np.full(len(places), epoch), places, 1, _KEEP)[:, 0]
            found.append(places[draws < self._keep[self.words.ids[places]]])
        places = np.concatenate(found)
        return places, np.searchsorted(self.words.ends, places, side="right")


class ContextCollator:
    """Items of `WordContexts` become {"context_ids", "target_ids", "negative_ids"}; each says its "index" and "epoch".

    Args:
        contexts: the data set. identity: the settings that decide the batches, as plain values.
    """

    def __init__(self, contexts: WordContexts, identity: dict[str, Any]):
        self.contexts, self.identity = contexts, identity

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        indices = np.array([item["index"] for item in items])
        epochs = np.array([item.get("epoch", 0) for item in items])
        batch: dict[str, np.ndarray] = {}
        for epoch in np.unique(epochs):  # a batch may straddle two passes
            here = epochs == epoch
            for name, part in self.contexts.samples(indices[here], int(epoch)).items():
                whole = batch.setdefault(name, np.empty((len(items), *part.shape[1:]), np.int64))
                whole[here] = part
        return {name: torch.from_numpy(part) for name, part in batch.items()}
