"""Phrases and entities that are hidden as one (ERNIE, Sun et al. 2019, section 3.2): which words belong together.

The paper's entities and phrases come from tools for Chinese; here a gazetteer names them, one a line, or an entity is
a run of capitalised words. Words that belong to none are hidden one by one, as whole words. The paper's three stages
(tokens, then phrases, then entities) are one run that goes on under another unit, with --resume and more --max_steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hfssl.errors import InputError

LONGEST = 10  # words of a run of capitalised ones: a heading all in capitals is no entity


def read_gazetteer(path: str | Path) -> list[str]:
    """The phrases of a file, one a line, each once, in the file's order.

    Raises:
        InputError: it cannot be read, is not UTF-8, or holds none.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the gazetteer {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the gazetteer {path} is not UTF-8 (byte {error.start})") from None
    phrases = list(dict.fromkeys(filter(None, (" ".join(line.split()) for line in lines))))
    if not phrases:
        raise InputError(f"the gazetteer {path} holds no phrase; it takes one a line")
    return phrases


class Gazetteer:
    """Joins the words of each phrase that a list names, the longest that begins at a word, from left to right.

    Compared are tokens, so capitals count where the tokenizer keeps them.

    Args:
        tokenizer: a phrase is looked for as it is written after a space, and at the beginning of a text.
        phrases: at least one.
    """

    def __init__(self, tokenizer, phrases: Sequence[str]):
        forms = [form for phrase in phrases for form in (f" {phrase}", phrase)]
        encoded = tokenizer(forms, add_special_tokens=False)["input_ids"]
        self._known: dict[int, list[np.ndarray]] = {}  # by first token, the longest first
        for tokens in sorted({tuple(ids) for ids in encoded if ids}, key=len, reverse=True):
            self._known.setdefault(tokens[0], []).append(np.array(tokens))
        self.identity = hashlib.blake2b("\n".join(phrases).encode(), digest_size=8).hexdigest()

    def join(self, starts: np.ndarray, input_ids: np.ndarray, maskable: np.ndarray) -> np.ndarray:
        """Where units start, (B, T) bool: as `starts`, without the words inside of phrases.

        Args:
            starts: (B, T) bool, where words start.
            input_ids: (B, T).
            maskable: (B, T) bool; a phrase ends at a word's end, and lies within a stretch of maskable tokens.
        """
        joined, length = starts.copy(), starts.shape[1]
        ends = starts | ~maskable  # a phrase may end before these, or at the end of the row
        candidates = starts & np.isin(input_ids, list(self._known))
        row, after = -1, 0
        for place in np.argwhere(candidates).tolist():
            if place[0] != row:
                row, after = place[0], 0
            first = place[1]
            if first < after:  # inside of the phrase before
                continue
            for tokens in self._known[int(input_ids[row, first])]:
                end = first + len(tokens)
                fits = end <= length and maskable[row, first:end].all() and (end == length or ends[row, end])
                if fits and np.array_equal(input_ids[row, first:end], tokens):
                    joined[row, first + 1 : end] = False
                    after = end
                    break
        return joined


class Capitals:
    """Joins runs of capitalised words, at most `LONGEST`; also the first word of a sentence is capitalised.

    Raises:
        InputError: no token of the vocabulary has a capital letter.
    """

    identity = "capitals"

    def __init__(self, tokenizer):
        special = set(tokenizer.all_special_ids)
        texts = [tokenizer.decode([number]).lstrip() for number in range(len(tokenizer))]
        self._capital = np.array([text[:1].isupper() and number not in special for number, text in enumerate(texts)])
        self._space = np.array([not text for text in texts])  # of a word whose first letters were not merged with it
        if not self._capital.any():
            raise InputError("the tokenizer keeps no capital letters, which entities begin with; give --gazetteer FILE")

    def join(self, starts: np.ndarray, input_ids: np.ndarray, maskable: np.ndarray) -> np.ndarray:
        """As `Gazetteer.join`."""
        joined = starts.copy()
        capital = self._capital[input_ids]
        capital[:, :-1] |= self._space[input_ids[:, :-1]] & capital[:, 1:]
        words = np.argwhere(starts)  # (N, 2), in order
        row, count = -1, 0
        for (here, place), is_capital in zip(words.tolist(), capital[starts].tolist(), strict=True):
            follows = here == row and count and maskable[here, place - 1]
            if is_capital and follows and count < LONGEST:
                joined[here, place] = False
                count += 1
            else:
                count = int(is_capital)
            row = here
        return joined
