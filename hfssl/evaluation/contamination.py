"""How much of a dev set stands word for word in a pretraining text.

As in Brown et al. 2020, appendix C: a row counts as seen if 13 words in a row of one of its texts occur in the corpus,
in lower case and without punctuation; of a shorter text, all its words. Texts under 8 words are too common to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from hfssl.evaluation.task_data import SplitData

WORDS, FEWEST = 13, 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Of one split: the numbers of the rows that were seen, and how many rows could be judged."""

    rows: int
    judged: int
    seen: tuple[int, ...]


def find_overlap(corpus: Iterable[str], splits: Mapping[str, SplitData], progress: bool = False) -> dict[str, Overlap]:
    """For each split, which of its rows stand in the corpus; exact, with no hash taken for a word.

    The corpus is read once. Memory is that of the dev sets.
    """
    index = _Index()
    judged: dict[str, set[int]] = {}
    for name, data in splits.items():
        judged[name] = {
            row for texts in data.texts for row, text in enumerate(texts) if index.add(text, (name, row))
        }  # fmt: skip
    for text in tqdm(corpus, desc="Looking for dev rows in the corpus", unit=" documents", disable=not progress):
        index.look(text)
    seen: dict[str, set[int]] = {name: set() for name in splits}
    for name, row in index.found:
        seen[name].add(row)
    return {
        name: Overlap(len(data), len(judged[name]), tuple(sorted(seen[name]))) for name, data in splits.items()
    }  # fmt: skip


class _Index:
    """Sequences of words, found by their first `FEWEST` words."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # of the words of dev sets, from 1 on; any other word is 0
        self._by_key: dict[int, dict[tuple[int, ...], set[tuple[str, int]]]] = {}
        generator = np.random.default_rng(0)
        self._factors = generator.integers(1, 2**63, FEWEST, dtype=np.uint64) | np.uint64(1)
        self._keys: np.ndarray | None = None
        self.found: set[tuple[str, int]] = set()

    def add(self, text: str, owner: tuple[str, int]) -> bool:
        """Whether the text is long enough to be looked for."""
        words = [
            self._numbers.setdefault(word, len(self._numbers) + 1) for word in _WORD.findall(text.lower())
        ]  # fmt: skip
        length = min(WORDS, len(words))
        if length < FEWEST:
            return False
        keys = self._hash(np.array(words, np.uint64))
        for start in range(len(words) - length + 1):
            sequence = tuple(words[start : start + length])
            self._by_key.setdefault(int(keys[start]), {}).setdefault(sequence, set()).add(owner)
        return True

    def look(self, text: str) -> None:
        if self._keys is None:
            self._keys = np.array(sorted(self._by_key), np.uint64)
        words = np.fromiter((self._numbers.get(word, 0) for word in _WORD.findall(text.lower())), np.uint64)
        if len(words) < FEWEST or not len(self._keys):
            return
        keys = self._hash(words)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        for start in np.flatnonzero(self._keys[places] == keys):
            for sequence, owners in self._by_key[int(keys[start])].items():
                if tuple(words[start : start + len(sequence)].tolist()) == sequence:
                    self.found |= owners

    def _hash(self, words: np.ndarray) -> np.ndarray:
        """(N - 7,) uint64: of each place its next words."""
        windows = np.lib.stride_tricks.sliding_window_view(words, FEWEST)
        with np.errstate(over="ignore"):
            return (windows * self._factors).sum(axis=1, dtype=np.uint64)
