"""What word vectors know: analogies by 3CosAdd, similarity beside human judgement, nearest neighbours.

Analogies (Mikolov et al. 2013, section 4): of "a is to b as c is to d" the answer is the word, none of the three, whose
vector has the greatest cosine with b - a + c, all three of length 1. Words are those of the first `restrict` rows, as
large as they are or upper-cased; of words that differ only in case the first row counts. A question with a word that
has no vector is left out, or, if asked, counted as wrong. Similarity: Spearman's correlation of the cosines of pairs
with the scores that people gave, over the pairs whose words both have vectors. The rules are those of gensim's
evaluate_word_analogies and evaluate_word_pairs, to the digit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfssl.errors import InputError, one_line
from hfssl.evaluation.vector_files import WordVectors

RESTRICT = 30000
SUMS = ("semantic", "syntactic", "total")
CANDIDATES = 5  # of the nearest: where all are one of the three in another case, the last one is the answer (gensim)
_FLOATS = 2**26  # of similarities held at a time
_PAIR_FILES = (".txt", ".tsv", ".csv")


@dataclass(frozen=True)
class Section:
    """Questions of one kind; a row of `questions` is the four words."""

    name: str
    questions: list[tuple[str, str, str, str]]

    @property
    def is_syntactic(self) -> bool:
        return self.name.startswith("gram")  # as Mikolov's file names them


@dataclass(frozen=True)
class Answers:
    """How a section, or several together, were answered.

    Attributes:
        right, asked: counts; `asked` are those whose four words have vectors, or all, where unknown ones are wrong.
        known: questions whose four words have vectors.
        total: questions of the file.
    """

    name: str
    right: int
    asked: int
    known: int
    total: int

    @property
    def accuracy(self) -> float:
        """A fraction; NaN where nothing was asked."""
        return self.right / self.asked if self.asked else float("nan")


@dataclass(frozen=True)
class Pairs:
    """Pairs of words with a score each, (N,)."""

    name: str
    words: list[tuple[str, str]]
    scores: np.ndarray


@dataclass(frozen=True)
class Similarity:
    """Cosines (M,) beside people's scores (M,) for the pairs that count; `known` of `total` pairs have vectors."""

    cosines: np.ndarray
    scores: np.ndarray
    known: int
    total: int

    @property
    def spearman(self) -> float:
        """NaN for fewer than two pairs, or where all cosines or all scores are one."""
        from scipy.stats import rankdata

        if len(self.scores) < 2:
            return float("nan")
        ranks = [rankdata(values) for values in (self.cosines, self.scores)]
        if min(np.ptp(values) for values in ranks) == 0:
            return float("nan")
        return float(np.corrcoef(*ranks)[0, 1])


def read_analogies(path: str | Path) -> list[Section]:
    """The sections of a file in the form of questions-words.txt: ``: NAME``, then four words a line.

    Raises:
        InputError: no such file, a question before the first section, a line without four words, or no question.
    """
    sections: list[Section] = []
    for number, line in enumerate(_lines(path), start=1):
        if line.startswith(":"):
            sections.append(Section(line.lstrip(": ").strip(), []))
            continue
        words = line.split()
        if not words:
            continue
        if not sections:
            raise InputError(f"{path}:{number}: a question before the first section, a line ': NAME'")
        if len(words) != 4:
            raise InputError(f"{path}:{number}: an analogy has four words, this line {len(words)}")
        sections[-1].questions.append(tuple(words))
    if not any(section.questions for section in sections):
        raise InputError(f"{path} holds no analogies: a line ': NAME' begins a section, four words a line follow")
    return sections


def read_pairs(path: str | Path) -> Pairs:
    """The pairs of a file: two words, then a score, the first number of the line, with tabs, commas or spaces between.

    So are WordSim-353, SimLex-999, MEN, RW and SimVerb written. Empty lines and those that begin with # are no pairs,
    nor is a first line without a number, the names of the columns.

    Raises:
        InputError: no such file, a line without two words and a score (with its number), or no pair.
    """
    words, scores = [], []
    started = False
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pair, score = _pair(line)
        if score is None and not started:
            started = True
            continue
        started = True
        if score is None or not all(pair):
            raise InputError(f"{path}:{number}: a pair is two words and a score, not {line.strip()[:60]!r}")
        words.append(pair)
        scores.append(score)
    if not words:
        raise InputError(f"{path} holds no pairs: two words and a score a line")
    return Pairs(Path(path).stem, words, np.array(scores))


def _pair(line: str) -> tuple[tuple[str, str], float | None]:
    """Two words and the first number after them."""
    mark = "\t" if "\t" in line else "," if "," in line else None
    parts = [part.strip() for part in line.split(mark)]
    for part in parts[2:]:
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", part):
            return (parts[0], parts[1]), float(part)
    return ("", ""), None


def find_pairs(places: Sequence[str | Path]) -> list[Pairs]:
    """The pairs of files, and of a folder's .txt, .tsv and .csv files, by name; analogies in a folder are passed over.

    Raises:
        InputError: see `read_pairs`; a folder without a file of pairs, or two files of one name.
    """
    found: list[Pairs] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append(read_pairs(place))
            continue
        files = [path for path in sorted(place.iterdir()) if path.suffix in _PAIR_FILES]
        pairs = [read_pairs(path) for path in files if not _is_analogies(path)]
        if not pairs:
            raise InputError(f"no file of pairs in {str(place)!r}: {', '.join(_PAIR_FILES)} with two words and a score")
        found += pairs
    names = [pairs.name for pairs in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two files of pairs are called {min(twice)!r}; give them different names")
    return found


def _is_analogies(path: Path) -> bool:
    return next((line for line in _lines(path) if line.strip()), "").startswith(":")


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"no such file: {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None


class Vocabulary:
    """The words that may be asked for and may be answers: the first rows, upper-cased unless case counts.

    Attributes:
        rows: the row of each; of several that are equal the first.
        same: (N,) of each row the first one with an equal word.
    """

    def __init__(self, vectors: WordVectors, restrict: int | None = None, match_case: bool = False):
        words = vectors.words[:restrict]
        self.match_case = match_case
        keys = words if match_case else [word.upper() for word in words]
        self.rows = {key: row for row, key in reversed([*enumerate(keys)])}
        self.same = np.array([self.rows[key] for key in keys])

    def find(self, words: Sequence[str]) -> list[int] | None:
        """The rows of words, or None if one has none."""
        rows = [self.rows.get(word if self.match_case else word.upper()) for word in words]
        return None if None in rows else rows


def solve_analogies(
    vectors: WordVectors,
    sections: Sequence[Section],
    restrict: int = RESTRICT,
    match_case: bool = False,
    count_unknown: bool = False,
) -> list[Answers]:
    """How each section was answered, in order; see `totals`.

    Args:
        restrict: words that count, from the first row on.
        match_case: words are equal only if their case is.
        count_unknown: a question with a word that has no vector is a wrong one, not left out.
    """
    vocabulary = Vocabulary(vectors, restrict, match_case)
    found = [[vocabulary.find(question) for question in section.questions] for section in sections]
    known = [[rows for rows in section if rows is not None] for section in found]
    questions = np.array([rows for section in known for rows in section], np.int64).reshape(-1, 4)
    right = answer(vectors.unit[:restrict], vocabulary.same, questions[:, :3]) == questions[:, 3]
    answers, place = [], 0
    for section, rows in zip(sections, known, strict=True):
        total = len(section.questions)
        count = int(right[place : place + len(rows)].sum())
        answers.append(Answers(section.name, count, total if count_unknown else len(rows), len(rows), total))
        place += len(rows)
    return answers


def answer(unit: np.ndarray, same: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The row (Q,) nearest to b - a + c that is no word of the question, as the first row with an equal word.

    A file asks few different words: the cosines of each with all rows are computed once in a block of questions, which
    for Google's file is a fiftieth of the products, and b - a + c is formed of cosines.

    Args:
        unit: (N, d), of length 1. same: see `Vocabulary`. questions: rows of a, b, c, (Q, 3).
    """
    count = len(unit)
    answers = np.full(len(questions), -1)
    block = max(16, _FLOATS // (3 * count))
    scores = np.empty(count, np.float32)
    for start in range(0, len(questions), block):
        asked, place = np.unique(questions[start : start + block], return_inverse=True)
        cosines = unit[asked] @ unit.T  # (A, N)
        for number, (a, b, c) in enumerate(place.reshape(-1, 3).tolist(), start):
            np.subtract(cosines[b], cosines[a], out=scores)
            np.add(scores, cosines[c], out=scores)
            given = questions[number]
            scores[given] = -np.inf
            for _ in range(min(CANDIDATES, count - len(set(given.tolist())))):
                best = scores.argmax()
                answers[number] = same[best]
                if same[best] not in given:
                    break
                scores[best] = -np.inf
    return answers


def totals(sections: Sequence[Section], answers: Sequence[Answers]) -> list[Answers]:
    """Semantic and syntactic questions, where the file has both, and all."""
    syntactic = [section.is_syntactic for section in sections]
    parts = dict(zip(SUMS, ([not one for one in syntactic], syntactic, [True] * len(sections)), strict=True))
    if all(syntactic) or not any(syntactic):
        parts = {"total": parts["total"]}
    return [_together(name, [one for one, kept in zip(answers, chosen, strict=True) if kept])
            for name, chosen in parts.items()]  # fmt: skip


def _together(name: str, answers: Sequence[Answers]) -> Answers:
    counts = [[one.right, one.asked, one.known, one.total] for one in answers]
    return Answers(name, *np.sum(counts, axis=0).tolist())


def score_pairs(
    vectors: WordVectors, pairs: Pairs, match_case: bool = False, count_unknown: bool = False
) -> Similarity:
    """Cosines beside the scores.

    Args:
        count_unknown: a pair with a word that has no vector has the cosine 0, and is not left out.
    """
    vocabulary = Vocabulary(vectors, None, match_case)
    rows = [vocabulary.find(pair) for pair in pairs.words]
    known = np.array([found is not None for found in rows])
    first, second = np.array([found for found in rows if found is not None], np.int64).reshape(-1, 2).T
    cosines = np.zeros(len(rows))
    cosines[known] = (vectors.unit[first].astype(float) * vectors.unit[second]).sum(axis=1)
    counted = np.ones_like(known) if count_unknown else known
    return Similarity(cosines[counted], pairs.scores[counted], int(known.sum()), len(rows))


def nearest_words(vectors: WordVectors, word: str, k: int = 10, match_case: bool = False) -> list[tuple[str, float]]:
    """The k words with the greatest cosine to a word's vector, without itself, and those cosines.

    Unless `match_case`, a word that has no vector as it is written is the first one that is equal but for case.

    Raises:
        InputError: it has no vector.
    """
    found = None if match_case or word in vectors.rows else Vocabulary(vectors).find([word])
    row = found[0] if found else vectors.row(word)
    cosines = vectors.unit @ vectors.unit[row]
    cosines[row] = -np.inf
    k = min(k, len(vectors) - 1)
    best = np.argsort(-cosines, kind="stable")[:k]
    return [(vectors.words[place], float(cosines[place])) for place in best]


def random_vectors(vectors: WordVectors, seed: int = 0) -> WordVectors:
    """The same words with vectors that know nothing: normal numbers by a seed. An anchor."""
    drawn = np.random.default_rng(seed).standard_normal(vectors.vectors.shape, dtype=np.float32)
    return WordVectors(vectors.words, drawn, vectors.counts)
