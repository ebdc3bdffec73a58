"""Word vectors and their files: word2vec's text and binary formats, fastText's text, gensim's KeyedVectors, our models.

word2vec's text has a line ``WORDS WIDTH`` and then a line for each word, the word and its numbers with a space between;
fastText's .vec is the same with a space at each line's end. The binary format has the same first line, then for each
word its bytes, a space, the numbers as float32 (little endian) and, of word2vec.c, a newline.
"""

from __future__ import annotations

import logging
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hfssl.errors import InputError, nearest, one_line
from hfssl.evaluation.keyed_vectors import PICKLE, read_keyed_vectors
from hfssl.files import is_missing_folder, staged

logger = logging.getLogger(__name__)

TEXT, BINARY, FASTTEXT = "word2vec", "word2vec-bin", "fasttext"
FORMATS = (TEXT, BINARY, FASTTEXT)
NEAR = 30000  # the most frequent words, among which a misspelt one is looked for
SPACE = re.compile(r"[ \t\r\n]")  # what ends a word in the files
_LINES = 4096  # of a text file, read or written at a time
_LONGEST = 4096  # bytes of a word in a binary file: more is no word
_FASTTEXT_BIN = (793712314).to_bytes(4, "little")  # fasttext.cc, FASTTEXT_FILEFORMAT_MAGIC_INT32


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words with a vector each, in the order of their file: of most, and of ours, the most frequent word first.

    Args:
        words: N different ones.
        vectors: (N, d), float32.
        counts: (N,) how often each occurs in the training text, where that is known.

    Raises:
        InputError: other shapes, no word, a word twice, or a number that is not finite.
    """

    words: list[str]
    vectors: np.ndarray
    counts: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "vectors", np.ascontiguousarray(self.vectors, dtype=np.float32))
        if self.vectors.ndim != 2 or self.vectors.shape[0] != len(self.words) or not self.vectors.size:
            raise InputError(f"{len(self.words)} words with vectors of the shape {self.vectors.shape}")
        if len(self.rows) < len(self.words):
            twice = next(word for row, word in enumerate(self.words) if self.rows[word] != row)
            raise InputError(f"the word {twice!r} has two vectors")
        if (bad := _first_bad(self.vectors)) is not None:
            raise InputError(f"the vector of {self.words[bad]!r} has a number that is not finite")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in reversed([*enumerate(self.words)])}

    @cached_property
    def unit(self) -> np.ndarray:
        """(N, d), each vector divided by its length; one without a length stays 0."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return self.vectors / np.where(lengths > 0, lengths, 1)

    def row(self, word: str) -> int:
        """The row of a word.

        Raises:
            InputError: it has no vector; the words nearest in spelling are named.
        """
        if word not in self.rows:
            raise InputError(f"the word {word!r} has no vector{nearest(word, self.words[:NEAR])}")
        return self.rows[word]

    @classmethod
    def from_keyed_vectors(cls, keyed) -> WordVectors:
        """Of a `gensim.models.KeyedVectors`, in its order, with its counts if it has them."""
        return cls([*keyed.index_to_key], keyed.vectors, keyed.expandos.get("count"))

    def to_keyed_vectors(self):
        """A `gensim.models.KeyedVectors`, in this order; needs gensim."""
        from gensim.models import KeyedVectors

        made = KeyedVectors(self.width, count=0)
        made.add_vectors(self.words, self.vectors)
        if self.counts is not None:  # gensim 4.4's own `extras=` of add_vectors raises
            made.expandos["count"] = np.array(self.counts)
        return made


def read_vectors(source: str | Path, trust_remote_code: bool = False) -> WordVectors:
    """The word vectors of a model of ours (a folder or a Hub id) or of a file in one of the formats above.

    A file that ends on .bin is taken as binary; a pickle, as gensim's `KeyedVectors.save` writes, is known by its first
    byte and read without running anything in it; all else is text.

    Raises:
        InputError: there is none, or it is damaged; of a text with the number of the line.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return _read_model(str(source), trust_remote_code)
    try:
        with path.open("rb") as stream:
            begin = stream.read(4)
            if begin == _FASTTEXT_BIN:
                raise InputError(f"{path} is fastText's own .bin; the .vec that it writes beside it is read")
            if begin[:1] == PICKLE:
                return WordVectors(*_without_repeats(path, *read_keyed_vectors(path)))
            stream.seek(0)
            count, width = _header(stream, path)
            read = _binary_words if path.suffix == ".bin" else _text_words
            words, vectors = read(stream, path, count, width)
        return WordVectors(*_without_repeats(path, words, vectors, None))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or one_line(error)}") from None


def _header(stream: BinaryIO, path: Path) -> tuple[int, int]:
    line = stream.readline(_LONGEST)
    numbers = line.split()
    if len(numbers) != 2 or not all(number.isdigit() and int(number) > 0 for number in numbers):
        said = line[:40].decode(errors="replace").strip()
        raise InputError(
            f"{path}:1: the first line must be 'WORDS WIDTH', two whole numbers, not {said!r} (GloVe's files lack it; "
            "put it there)"
        )
    count, width = map(int, numbers)
    if count * (2 * width + 1) > path.stat().st_size:  # no format has fewer bytes: a letter, and two of each number
        raise InputError(f"{path}:1: {count:,} words of width {width:,} are more than the file has room for")
    return count, width


def _text_words(stream: BinaryIO, path: Path, count: int, width: int) -> tuple[list[str], np.ndarray]:
    words, vectors = [], np.empty((count, width), np.float32)
    while lines := [*islice(stream, _LINES)]:
        first = len(words)
        if first + len(lines) > count:  # blank lines at the end are no words
            lines = [line for line in lines if line.strip()]
        parts = [line.rstrip(b" \r\n").partition(b" ") for line in lines]
        if first + len(parts) > count:
            raise InputError(f"{path}:{count + 2}: a line more than the {count:,} words of the first line")
        vectors[first : first + len(parts)] = _numbers(parts, path, first + 2, width)
        for number, (word, _, _) in enumerate(parts, first + 2):
            try:
                words.append(word.decode())
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: {word!r} is not UTF-8") from None
    if len(words) < count:
        raise InputError(f"{path}:{len(words) + 2}: the file ends here, after {len(words):,} of {count:,} words")
    return words, vectors


def _numbers(parts: Sequence[tuple[bytes, bytes, bytes]], path: Path, line: int, width: int) -> np.ndarray:
    """The numbers of lines (word, space, numbers), the first of which is the file's `line`, (lines, width)."""
    found = None
    if all(numbers.count(b" ") == width - 1 for _, _, numbers in parts):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = np.fromstring(b" ".join(numbers for _, _, numbers in parts), np.float32, sep=" ")
            except (DeprecationWarning, ValueError):  # no number; which line has it is found below
                found = None
    if found is None or found.size != len(parts) * width:
        found = np.array([_line(part, path, number, width) for number, part in enumerate(parts, line)], np.float32)
    found = found.reshape(len(parts), width)
    if (bad := _first_bad(found)) is not None:
        raise InputError(f"{path}:{line + bad}: {parts[bad][0].decode(errors='replace')!r} has a number that is not "
                         "finite")  # fmt: skip
    return found


def _line(part: tuple[bytes, bytes, bytes], path: Path, number: int, width: int) -> list[float]:
    word, _, numbers = part
    named = repr(word.decode(errors="replace"))
    values = numbers.split()
    if len(values) != width:
        raise InputError(f"{path}:{number}: {named} has {len(values)} numbers, not {width}")
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise InputError(f"{path}:{number}: {named}: {one_line(error)}") from None


def _binary_words(stream: BinaryIO, path: Path, count: int, width: int) -> tuple[list[str], np.ndarray]:
    words, vectors = [], np.empty((count, width), "<f4")
    place, size = stream.tell(), 4 * width
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number in range(count):
            space = content.find(b" ", place, place + _LONGEST)
            if space < 0 or space + 1 + size > len(content):
                raise InputError(f"{path}: damaged or no binary file: it ends or breaks off in word {number + 1:,} of "
                                 f"{count:,}")  # fmt: skip
            word = content[place:space].lstrip(b"\n")
            try:
                words.append(word.decode())
            except UnicodeDecodeError:
                raise InputError(
                    f"{path}: damaged or no binary file: word {number + 1:,}, {word!r}, is not UTF-8"
                ) from None
            place = space + 1 + size
            vectors[number] = np.frombuffer(content[space + 1 : place], "<f4")
    if (bad := _first_bad(vectors)) is not None:
        raise InputError(f"{path}: word {bad + 1:,}, {words[bad]!r}, has a number that is not finite")
    return words, vectors


def _first_bad(vectors: np.ndarray) -> int | None:
    """The first row with a number that is not finite."""
    bad = ~np.isfinite(vectors).all(axis=1)
    return int(bad.argmax()) if bad.any() else None


def _without_repeats(
    path: Path, words: list[str], vectors: np.ndarray, counts: np.ndarray | None
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """The first vector of each word, as gensim takes it."""
    seen: dict[str, int] = {}
    for row, word in enumerate(words):
        seen.setdefault(word, row)
    if len(seen) == len(words):
        return words, vectors, counts
    logger.warning("%s: %s words have several vectors; the first counts", path, f"{len(words) - len(seen):,}")
    kept = np.fromiter(seen.values(), np.int64)
    return [*seen], vectors[kept], None if counts is None else counts[kept]


def _read_model(source: str, trust_remote_code: bool) -> WordVectors:
    if is_missing_folder(source):
        raise InputError(f"no model or file {source!r}")
    from hfssl.evaluation.tag_report import load_with_tokenizer

    model, tokenizer = load_with_tokenizer(source, trust_remote_code)
    if not hasattr(model, "word_vectors"):
        raise InputError(f"{source!r} holds no word vectors: it is {type(model).__name__}")
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    if missing := [row for row in range(model.config.vocab_size) if row not in words]:
        raise InputError(f"the tokenizer of {source!r} has no word for {len(missing):,} of its vectors")
    counts = model.cbow.counts.numpy()
    return WordVectors(
        [words[row] for row in range(model.config.vocab_size)],
        model.word_vectors().numpy(),
        counts if counts.any() else None,
    )


def write_vectors(vectors: WordVectors, path: str | Path, format: str = TEXT) -> Path:
    """Writes a file, whole or not at all. Numbers in a text are the shortest that are read as the same float32.

    Args:
        format: one of `FORMATS`. "fasttext" is the .vec that fastText writes, word2vec's text with a space at each
            line's end, and not fastText's .bin.

    Raises:
        InputError: an unknown format, a word that is empty or has white space in it, or a place that cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}: one of {', '.join(FORMATS)}{nearest(format, FORMATS)}")
    for word in vectors.words:
        if not word or SPACE.search(word):
            raise InputError(f"the word {word!r} is empty or has white space in it, which no vectors file can hold")
    header = f"{len(vectors)} {vectors.width}\n".encode()
    blocks = (
        _binary_blocks(vectors) if format == BINARY else _text_blocks(vectors, " \n" if format == FASTTEXT else "\n")
    )
    try:
        with staged(path) as staging, staging.open("wb") as stream:
            stream.write(header)
            stream.writelines(blocks)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return Path(path)


def _text_blocks(vectors: WordVectors, end: str) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for first in range(0, len(vectors), _LINES):
        block, words = vectors.vectors[first : first + _LINES], vectors.words[first : first + _LINES]
        numbers = pa.array(block.ravel()).cast(pa.string())  # five times as fast as Python's repr
        bounds = np.arange(0, block.size + 1, vectors.width, dtype=np.int32)
        lines = pc.binary_join(pa.ListArray.from_arrays(bounds, numbers), " ").to_pylist()
        yield "".join(f"{word} {line}{end}" for word, line in zip(words, lines, strict=True)).encode()


def _binary_blocks(vectors: WordVectors) -> Iterator[bytes]:
    for word, vector in zip(vectors.words, vectors.vectors.astype("<f4", copy=False), strict=True):
        yield word.encode() + b" " + vector.tobytes() + b"\n"
