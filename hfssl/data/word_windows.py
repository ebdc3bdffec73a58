"""Words in their context, one sample each, for part-of-speech induction; and tagged text to compare its codes with.

A line of a text is a sentence, and white space parts its words: text for this task comes tokenised.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from hfssl.data.readers import visible_files
from hfssl.errors import InputError

logger = logging.getLogger(__name__)

PAD, UNKNOWN = "<pad>", "<unk>"
MOST_BYTES = 32  # of a word's spelling; what is longer is cut
_TITLES = re.compile(r"^fw-|(-(tl|hl|nc))+$")  # the Brown corpus' marks of foreign words, titles, headlines, citations


@dataclass
class VocabularyArguments:
    """Which words have an embedding of their own."""

    min_count: int = field(
        default=5, metadata={"help": "A rarer word is known by its spelling and its context alone (the paper: 1)."}
    )

    def __post_init__(self):
        if self.min_count < 1:
            raise InputError(f"min_count must be at least 1, not {self.min_count}")


def sentences_of(documents: Iterable[str]) -> list[list[str]]:
    """The words of each line that has any."""
    return [words for text in documents for line in text.splitlines() if (words := line.split())]


def frequent_word_tokenizer(sentences: Iterable[Sequence[str]], min_count: int = 1) -> PreTrainedTokenizerFast:
    """Numbers words by frequency, from 2 on; 0 is padding and 1 any word that comes less than `min_count` times."""
    counts = Counter(word for words in sentences for word in words)
    kept = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    numbers = {word: number for number, word in enumerate(dict.fromkeys([PAD, UNKNOWN, *kept]))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN)


class WordWindows(Dataset):
    """Each word of a text with its neighbours: ``ds[i]`` is ``{"windows": (2 window + 1,), "characters": (L,)}``.

    Args:
        sentences: the words of each; beyond its ends the neighbours are padding.
        tokenizer: numbers the words, see `frequent_word_tokenizer`.
        window: neighbours on each side.
        source, fingerprint: of the text.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[str]],
        tokenizer: PreTrainedTokenizerFast,
        window: int,
        source: str = "memory",
        fingerprint: str = "",
    ):
        self.window, self.source, self.fingerprint = window, source, fingerprint or source
        numbers, kinds = tokenizer.get_vocab(), {}
        gap = [-1] * window
        places = [*gap, *(k for words in sentences for k in (*(kinds.setdefault(w, len(kinds)) for w in words), *gap))]
        places = np.array(places, dtype=np.int64)
        if not kinds:
            raise InputError(f"{source} has no words")
        spelled = [word.encode()[:MOST_BYTES] for word in kinds]
        table = np.zeros((len(kinds), max(map(len, spelled))), dtype=np.int64)
        for row, letters in zip(table, spelled, strict=True):
            row[: len(letters)] = np.frombuffer(letters, np.uint8).astype(np.int64) + 1
        own = np.array([*(numbers.get(word, numbers[UNKNOWN]) for word in kinds), numbers[PAD]])  # -1 is padding
        self._places, self._spelling = places, torch.from_numpy(table)
        self._numbers = torch.from_numpy(own[places])
        self._words = np.flatnonzero(places >= 0)

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self._words[index]
        return {
            "windows": self._numbers[place - self.window : place + self.window + 1],
            "characters": self._spelling[self._places[place]],
        }

    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """One sample of each different word, (K,), and for each sample which of them has its word, (N,)."""
        _, first, back = np.unique(self._places[self._words], return_index=True, return_inverse=True)
        return first, back


def collate_words(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch, its spellings as long as the longest word's."""
    batch = {name: torch.stack([item[name] for item in items]) for name in ("windows", "characters")}
    longest = int((batch["characters"] > 0).sum(1).max())
    return batch | {"characters": batch["characters"][:, :longest]}


def read_tagged(path: str | Path) -> list[list[tuple[str, str]]]:
    """Sentences of (word, tag) from a file or a folder of them: CoNLL-U (.conllu, the universal tags), or else the
    Brown corpus' form, a sentence a line of word/tag.

    Of Brown's tags the first part counts and not the marks of titles, headlines, citations and foreign words: "nn-tl"
    is nn and "ppss+ber" is ppss.

    Raises:
        InputError: no such file, or a word without a tag (with its place).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file or folder: {str(path)!r}")
    sentences = []
    for file in visible_files(path, lambda file: True) if path.is_dir() else [path]:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 (byte {error.start})") from None
        sentences += _conllu(text, file) if file.suffix == ".conllu" else _slashes(text, file)
    if not sentences:
        raise InputError(f"{path} has no tagged words")
    return sentences


def _conllu(text: str, file: Path) -> Iterable[list[tuple[str, str]]]:
    words: list[tuple[str, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        row = line.split("\t")
        if row[0].isdigit():  # no ranges (1-2), no empty nodes (1.1)
            if len(row) < 4:
                raise InputError(f"{file}:{number}: {len(row)} columns; CoNLL-U has the word in the second, its tag in "
                                 "the fourth")  # fmt: skip
            words.append((row[1], row[3]))
        elif not line.strip() and words:
            yield words
            words = []


def _slashes(text: str, file: Path) -> Iterable[list[tuple[str, str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        pairs = [token.rpartition("/") for token in line.split()]
        bare = next((word + slash + tag for word, slash, tag in pairs if not word or not tag), None)
        if bare is not None:
            raise InputError(f"{file}:{number}: {bare!r} is no word with its tag: words are written word/tag")
        if pairs:
            yield [(word, base_tag(tag)) for word, _, tag in pairs]


def base_tag(tag: str) -> str:
    """A tag of the Brown corpus without its additions, in lower case: "NN-TL" is nn, "ppss+ber" ppss, "do*" do."""
    tag = _TITLES.sub("", tag.lower()).split("+")[0]
    return tag.rstrip("*") or tag
