"""`hfssl words`: analogies and similarity of word vectors beside random ones, as a table, as JSON, and a map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from hfssl import __version__
from hfssl.errors import InputError
from hfssl.evaluation import words
from hfssl.evaluation.significance import DRAWS, bootstrap_share, bootstrap_spearman, interval
from hfssl.evaluation.vector_files import WordVectors, read_vectors
from hfssl.evaluation.words import SUMS, Answers, Pairs, Section, Similarity, find_pairs, read_analogies
from hfssl.files import staged, write_whole

FORMAT = "hfssl-words"
ANALOGIES, SIMILARITY = "analogies", "similarity"
UNITS = {ANALOGIES: "accuracy, %", SIMILARITY: "Spearman's correlation with people's scores, %"}
RANDOM = "random vectors"
RESULTS = "results.json"
MAPPED = 150  # words on a map, where no neighbours are asked for


@dataclass
class WordReportArguments:
    """Whose vectors, and what they are asked."""

    model: str = field(
        metadata={
            "help": "A folder or a Hub id that pretrain_cbow.py saved; word2vec text or .bin, fastText .vec, .kv."
        }
    )
    analogies: str | None = field(default=None, metadata={"help": "Analogies in the form of questions-words.txt."})
    similarity: list[str] | None = field(
        default=None, metadata={"help": "Files of pairs with scores, or folders that hold them."}
    )
    restrict: int = field(default=words.RESTRICT, metadata={"help": "Analogies: the first so many words alone count."})
    match_case: bool = field(default=False, metadata={"help": "Words are equal only if their case is."})
    count_unknown: bool = field(
        default=False,
        metadata={"help": "Count questions with an unknown word as wrong, such pairs as 0, not leave out."},
    )
    neighbours: str | None = field(default=None, metadata={"help": "Words with commas: show the nearest to each."})
    num_neighbours: int = field(default=10, metadata={"help": "How many of them."})
    map: str | None = field(default=None, metadata={"help": "A PNG: words in two dimensions, by PCA."})
    seed: int = field(default=0, metadata={"help": "Of the random vectors and of the bootstrap."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    out: str | None = field(default=None, metadata={"help": f"A folder for {RESULTS}."})

    def __post_init__(self):
        if not (self.analogies or self.similarity or self.neighbours or self.map):
            raise InputError("nothing is asked: give --analogies, --similarity, --neighbours or --map")
        for name in ("restrict", "num_neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.map and Path(self.map).suffix.lower() != ".png":
            raise InputError(f"--map writes a PNG: a name that ends on .png, not {self.map!r}")

    @property
    def asked_words(self) -> list[str]:
        return [word.strip() for word in (self.neighbours or "").split(",") if word.strip()]


@dataclass(frozen=True)
class WordRow:
    """One score.

    Attributes:
        vectors: whose: "trained", or the anchor.
        kind: "analogies" (accuracy) or "similarity" (Spearman's correlation).
        test: the file's name without its ending; `part` a section, semantic, syntactic or total.
        score: NaN, in JSON null, where nothing is known; `low` and `high` its 95 % bootstrap interval.
        asked: what the score is over; `known` of `total` questions or pairs have vectors for all words.
    """

    vectors: str
    kind: str
    test: str
    part: str
    score: float
    low: float
    high: float
    asked: int
    known: int
    total: int


@dataclass
class WordResult:
    """What was found. `fingerprints` are of the files of questions, by test."""

    rows: list[WordRow]
    neighbours: dict[str, list[tuple[str, float]]]
    protocol: str
    fingerprints: dict[str, str]
    vectors: WordVectors


def evaluate_words(args: WordReportArguments) -> WordResult:
    """Asks the vectors, and random ones, and writes what `args` says.

    Raises:
        InputError: no such model or file, a damaged one, or an unknown word; nothing is written then.
    """
    sections = read_analogies(args.analogies) if args.analogies else []
    pairs = find_pairs(args.similarity or [])
    vectors = read_vectors(args.model, args.trust_remote_code)
    neighbours = {
        word: words.nearest_words(vectors, word, args.num_neighbours, args.match_case) for word in args.asked_words
    }
    rows = _rows(vectors, "trained", args, sections, pairs)
    rows += _rows(words.random_vectors(vectors, args.seed), RANDOM, args, sections, pairs)
    fingerprints = {one.name: _fingerprint([one.words, one.scores.tolist()]) for one in pairs}
    if args.analogies:
        fingerprints[Path(args.analogies).stem] = _fingerprint([[one.name, one.questions] for one in sections])
    result = WordResult(rows, neighbours, _protocol(args, vectors), fingerprints, vectors)
    try:
        if args.map:
            with staged(args.map) as staging:
                word_map(vectors, neighbours).savefig(staging, format="png", dpi=130)
        if args.out:
            write_whole(Path(args.out) / RESULTS, json.dumps(_record(args, result), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or args.out}: {error.strerror}") from None
    return result


def _rows(
    vectors: WordVectors, name: str, args: WordReportArguments, sections: Sequence[Section], pairs: Sequence[Pairs]
) -> list[WordRow]:
    rows = []
    if sections:
        answers = words.solve_analogies(vectors, sections, args.restrict, args.match_case, args.count_unknown)
        test = Path(args.analogies).stem
        rows += [_analogy_row(name, test, one, args.seed) for one in [*answers, *words.totals(sections, answers)]]
    for one in pairs:
        found = words.score_pairs(vectors, one, args.match_case, args.count_unknown)
        rows.append(_similarity_row(name, one.name, found, args.seed))
    return rows


def _analogy_row(name: str, test: str, answers: Answers, seed: int) -> WordRow:
    low = high = float("nan")
    if answers.asked:
        ends = interval(bootstrap_share(answers.right, answers.asked, seed=seed))
        low, high = ends.low, ends.high
    return WordRow(
        name, ANALOGIES, test, answers.name, answers.accuracy, low, high, answers.asked, answers.known, answers.total
    )


def _similarity_row(name: str, test: str, found: Similarity, seed: int) -> WordRow:
    low = high = float("nan")
    if np.isfinite(found.spearman):
        ends = interval(bootstrap_spearman(found.cosines, found.scores, seed=seed))
        low, high = ends.low, ends.high
    return WordRow(
        name, SIMILARITY, test, "total", found.spearman, low, high, len(found.scores), found.known, found.total
    )


def _protocol(args: WordReportArguments, vectors: WordVectors) -> str:
    said = f"{len(vectors):,} words of width {vectors.width}."
    case = "Case counts." if args.match_case else "Case does not count; of words equal without it the first one does."
    unknown = (
        "A question with an unknown word is wrong, the cosine of such a pair 0."
        if args.count_unknown
        else "Questions and pairs with an unknown word are left out."
    )
    if args.analogies:
        said += (
            f" Analogies: accuracy of 3CosAdd among the first {min(args.restrict, len(vectors)):,} words, without the "
            "three of the question."
        )
    if args.similarity:
        said += " Similarity: Spearman's correlation of cosines with people's scores, all words."
    return (
        f"{said} {case} {unknown} Intervals: 95 % bootstrap over questions or pairs, {DRAWS:,} draws. The anchor: the "
        f"same words with normal random vectors, seed {args.seed}."
    )


def _fingerprint(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _record(args: WordReportArguments, result: WordResult) -> dict:
    digest = hashlib.sha256("\n".join(result.vectors.words).encode())
    digest.update(result.vectors.vectors.tobytes())
    rows = [asdict(row) for row in result.rows]
    for row in rows:
        row |= {key: None for key in ("score", "low", "high") if not np.isfinite(row[key])}
    return {
        "format": FORMAT,
        "model": args.model,
        "vectors": {"words": len(result.vectors), "width": result.vectors.width, "sha256": digest.hexdigest()},
        "protocol": result.protocol,
        "settings": asdict(args),
        "anchors": [RANDOM],
        "data": result.fingerprints,
        "versions": {"hfssl": __version__, "numpy": np.__version__},
        "rows": rows,
        "neighbours": result.neighbours,
    }


def words_tables(result: WordResult, title: str):
    """What was found as tables of rich: one of each file of analogies, one of all pairs, and the nearest neighbours."""
    from rich.console import Group
    from rich.table import Table

    trained = [row for row in result.rows if row.vectors != RANDOM]
    anchors = {(row.test, row.part): row.score for row in result.rows if row.vectors == RANDOM}
    tables = []
    for kind, unit in UNITS.items():
        if not (rows := [row for row in trained if row.kind == kind]):
            continue
        heading = f"{rows[0].test}: {unit}" if kind == ANALOGIES else unit
        tables.append(Table("", title=heading if tables else f"{title}\n{heading}", title_justify="left"))
        for name in ("known", "of", "score", "95 %", "random"):
            tables[-1].add_column(name, justify="right")
        for row, following in zip_longest(rows, rows[1:]):
            name = row.part if kind == ANALOGIES else row.test
            between = f"{_percent(row.low)}–{_percent(row.high)}" if np.isfinite(row.score) else ""
            tables[-1].add_row(
                name, f"{row.known:,}", f"{row.total:,}", _percent(row.score), between,
                _percent(anchors[row.test, row.part]), end_section=row.part not in SUMS and following.part in SUMS,
            )  # fmt: skip
    if tables:
        tables[-1].caption, tables[-1].caption_justify = result.protocol, "left"
    if result.neighbours:
        tables.append(Table("word", "nearest, with cosines", title="Nearest neighbours", title_justify="left"))
        for word, found in result.neighbours.items():
            tables[-1].add_row(word, ", ".join(f"{other} {cosine:.2f}" for other, cosine in found))
    return Group(*tables)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "–"


def word_map(vectors: WordVectors, neighbours: Mapping[str, Sequence[tuple[str, float]]]):
    """A matplotlib figure: words by the first two principal components of their unit vectors.

    They are those of `neighbours` with their nearest, in a colour each, or the first `MAPPED` words.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    groups = {word: [word, *(other for other, _ in found)] for word, found in neighbours.items()}
    groups = groups or {"": vectors.words[:MAPPED]}
    named = list(dict.fromkeys(word for group in groups.values() for word in group))
    points, shares = principal_components(vectors.unit[[vectors.rows[word] for word in named]])
    owner = {word: number for number, group in reversed([*enumerate(groups.values())]) for word in group}
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10"]
    for word, (x, y) in zip(named, points, strict=True):
        ink = colours(owner[word] % colours.N)
        axes.plot(x, y, ".", color=ink, markersize=4)
        axes.annotate(word, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=8, color=ink, parse_math=False)
    axes.set_xlabel(f"first principal component, {100 * shares[0]:.0f} % of the variance", fontsize=9)
    axes.set_ylabel(f"second, {100 * shares[1]:.0f} %", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


def principal_components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, d) on their first two principal axes, (N, 2), and the share of the variance along each, (2,).

    An axis points where its largest weight is positive. What has no second axis gets zeros.
    """
    centred = rows.astype(float) - rows.mean(axis=0, dtype=float)
    left, spread, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points, shares = left * (spread * signs), spread**2 / max((spread**2).sum(), np.finfo(float).tiny)
    missing = max(0, 2 - points.shape[1])
    return np.pad(points, ((0, 0), (0, missing)))[:, :2], np.pad(shares, (0, missing))[:2]
