"""Word vectors beside gensim's: arms that train on the same token lists, their speed, memory and scores."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from hfssl.benchmarking import peak_rss, print_table
from hfssl.data.word_corpus import build_word_corpus, train_pieces
from hfssl.errors import InputError, nearest
from hfssl.evaluation.vector_files import WordVectors, write_vectors
from hfssl.evaluation.words import find_pairs, read_analogies, score_pairs, solve_analogies, totals
from hfssl.models import CBOWConfig, CBOWForPreTraining
from hfssl.training.ledger import Ledger
from hfssl.training.words import WordArguments, WordEngine, falling

RESTRICT = 30_000  # the most frequent words, among which analogies are answered
MODES = ("speed", "quality")
PAIRS = ("MEN", "WS-353-ALL")  # of the files of pairs those with such a name
# Ours by their settings of the model; `phrases` are passes of word2phrase.
OURS: dict[str, dict[str, Any]] = {
    "hfssl CBOW": {},
    "hfssl CBOW exact": {"gradient": "exact"},
    "hfssl + positions": {"position_weights": True},
    "hfssl exact + positions": {"gradient": "exact", "position_weights": True},
    "hfssl + phrases": {"phrases": 2},
    "hfssl + n-grams": {"subwords": "ngrams"},
    "hfssl exact + n-grams": {"gradient": "exact", "subwords": "ngrams"},
    "hfssl + BPE pieces": {"subwords": "bpe", "subword_vocab_size": 8192, "subword_average": "words"},
    "hfssl skip-gram": {"architecture": "skipgram"},
}
PEER = "gensim CBOW"
GENSIM = {PEER: ("Word2Vec", 0), "gensim skip-gram": ("Word2Vec", 1), "gensim FastText CBOW": ("FastText", 0)}
# The learning rates that are tried. The best ones of the exact gradient and of means of many rows are higher.
_RATES = dict.fromkeys((PEER, "hfssl CBOW", "hfssl + positions", "hfssl + phrases"), (0.025, 0.05, 0.1))
_RATES |= dict.fromkeys(("gensim skip-gram", "hfssl skip-gram"), (0.0125, 0.025, 0.05))
_RATES |= {"hfssl exact + n-grams": (0.1, 0.2, 0.3, 0.4)}
RATES = {arm: _RATES.get(arm, (0.05, 0.1, 0.2)) for arm in [*GENSIM, *OURS]}


@dataclass(frozen=True)
class Setting:
    """What all arms share; gensim calls the same `vector_size`, `window`, `negative`, `sample`, `workers`, `alpha`."""

    rate: float = 0.05
    seed: int = 1
    epochs: int = 5
    threads: int = 2
    width: int = 100
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    min_count: int = 5
    buckets: int = 2_000_000


@dataclass(frozen=True)
class Trained:
    """An arm's vectors, the words of the text without the rare ones, and the seconds of its parts."""

    vectors: WordVectors
    words: int
    reading: float
    training: float


def train_arm(arm: str, sentences: Sequence[Sequence[str]], setting: Setting) -> Trained:
    """Trains one arm of `OURS` or `GENSIM` from token lists; another name is an InputError."""
    check_choice([arm])
    return (_train_gensim if arm in GENSIM else _train_ours)(arm, sentences, setting)


def check_choice(arms: Sequence[str | None], mode: str = MODES[0]) -> None:
    """Raises InputError: there is no such arm or mode; None is none to check."""
    for what, name, known in [("mode", mode, MODES), *(("arm", arm, RATES) for arm in arms if arm is not None)]:
        if name not in known:
            raise InputError(f"no {what} {name!r}: one of {', '.join(known)}{nearest(name, known)}")


def _train_ours(arm: str, sentences: Sequence[Sequence[str]], setting: Setting) -> Trained:
    import torch

    settings = dict(OURS[arm])
    began = time.perf_counter()
    corpus = build_word_corpus(sentences, setting.min_count, settings.pop("phrases", 0))
    config = CBOWConfig(
        vocab_size=len(corpus.words),
        hidden_size=setting.width,
        window=setting.window,
        buckets=setting.buckets,
        **settings,
    )
    pieces = train_pieces(corpus, config.subword_vocab_size) if config.subwords == "bpe" else None
    if pieces is not None:
        config.subword_vocab_size = len(pieces)
    torch.manual_seed(setting.seed)
    model = CBOWForPreTraining(config)
    model.set_vocabulary(corpus.words, pieces)
    arguments = WordArguments(negatives=setting.negatives, subsample=setting.subsample, threads=setting.threads)
    engine = WordEngine(corpus, model, arguments, setting.seed)
    read = time.perf_counter()
    last = setting.epochs * engine.chunks
    engine.train(0, last, falling(engine, last, setting.rate))
    engine.write_model()
    trained = time.perf_counter()
    vectors = WordVectors(corpus.words, model.word_vectors().numpy(), corpus.counts)
    return Trained(vectors, len(corpus), read - began, trained - read)


def _train_gensim(arm: str, sentences: Sequence[Sequence[str]], setting: Setting) -> Trained:
    """gensim's words of one frequency come in any order: they are put into ours, which the 30,000 depend on."""
    import gensim.models

    kind, skipgram = GENSIM[arm]
    began = time.perf_counter()
    model = getattr(gensim.models, kind)(
        vector_size=setting.width, window=setting.window, negative=setting.negatives, sample=setting.subsample,
        min_count=setting.min_count, workers=setting.threads, epochs=setting.epochs, alpha=setting.rate,
        seed=setting.seed, sg=skipgram, **({"bucket": setting.buckets} if kind == "FastText" else {}),
    )  # fmt: skip
    model.build_vocab(sentences)
    read = time.perf_counter()
    model.train(sentences, total_examples=model.corpus_count, epochs=setting.epochs)
    trained = time.perf_counter()
    counts = {word: model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key}
    words = sorted(counts, key=lambda word: (-counts[word], word))
    rows = [model.wv.key_to_index[word] for word in words]
    vectors = WordVectors(words, model.wv.vectors[rows], np.array([counts[word] for word in words]))
    return Trained(vectors, sum(counts.values()), read - began, trained - read)


def measure_speed(arm: str, sentences: Sequence[Sequence[str]], setting: Setting, folder: Path) -> dict[str, float]:
    """One run of an arm in a process of its own: from token lists in memory to vectors in a file.

    Returns:
        "words/s" of the training alone, "seconds" and "CPU seconds" from end to end, "peak MB" of the process and
        "peak MB without lists", less what it held when the lists were there.
    """
    train_arm(arm, [["a", "b", "c"] * 10], Setting(epochs=1, buckets=10))  # compiles, loads
    held, began, used = _held(), time.perf_counter(), time.process_time()
    found = train_arm(arm, sentences, setting)
    write_vectors(found.vectors, folder / f"{arm.replace(' ', '-')}.vec")
    return {
        "words/s": found.words * setting.epochs / found.training,
        "seconds": time.perf_counter() - began,
        "CPU seconds": time.process_time() - used,
        "peak MB": peak_rss() / 1e6,
        "peak MB without lists": (peak_rss() - held) / 1e6,
    }


def _held() -> int:
    """The memory, in bytes, that this process holds now, or off Linux has held at most."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else peak_rss()


def measure_quality(
    arm: str, sentences: Sequence[Sequence[str]], setting: Setting, analogies: str, similarity: str
) -> dict[str, Any]:
    """One run's scores, in %: all analogies among the 30,000 most frequent words, and Spearman on `PAIRS`.

    Returns:
        The scores by name, "words/s", and under "known" of each score how many questions or pairs it is of.
    """
    found = train_arm(arm, sentences, setting)
    sections = read_analogies(analogies)
    answers = totals(sections, solve_analogies(found.vectors, sections, RESTRICT))[-1]
    scores, known = {"analogies": 100 * answers.accuracy}, {"analogies": answers.known}
    for pairs in find_pairs([similarity]):
        for name in PAIRS:
            if name in pairs.name:
                answered = score_pairs(found.vectors, pairs)
                scores[name], known[name] = 100 * answered.spearman, answered.known
    return scores | {"words/s": found.words * setting.epochs / found.training, "known": known}


def compare_quality(
    ledger: Ledger,
    sentences: Sequence[Sequence[str]],
    rates: Mapping[str, Sequence[float]],
    seeds: int,
    shared: Mapping[str, Any],
    analogies: str,
    similarity: str,
) -> list[dict[str, Any]]:
    """Every arm's scores at its best rate, printed and returned; jobs that the ledger has are not done again.

    Args:
        rates: of each arm. seeds: 1 to this. shared: other fields of `Setting`.
        analogies, similarity: the files, as of `measure_quality`.
    """

    def execute(name: str, job: tuple[str, float, int]) -> dict[str, Any]:
        arm, rate, seed = job
        return measure_quality(arm, sentences, Setting(rate=rate, seed=seed, **shared), analogies, similarity)

    for _ in range(2):  # the second time the best rates are known
        ledger.run(quality_jobs(rates, seeds, ledger.results()), execute)
    rows = quality_rows(rates, seeds, ledger.results())
    print_quality(rows)
    return rows


def print_quality(rows: Sequence[Mapping[str, Any]]) -> None:
    """Two tables of `quality_rows`: the scores, and what lies between each arm and `PEER` where that is known."""
    names = list(rows[0]["known"])
    seeds = len(rows[0]["scores"][names[0]])
    of = ", ".join(f"{count:,} of {name}" for name, count in rows[0]["known"].items())
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    lines = [
        [row["arm"], f"{row['rate']:g}"]
        + [
            f"{statistics.mean(row['scores'][name]):.1f}" + (f" ± {row['spread'][name]:.1f}" if seeds > 1 else "")
            for name in names
        ]
        for row in rows
    ]
    print_table(["", "rate", *names], lines, f"Word vectors, %: {over}; {rows[0]['arm']} knows {of}")
    lines = [
        [row["arm"], *(f"{middle:+.1f} ± {high - middle:.1f}" for middle, _, high in map(row["less"].get, names))]
        for row in rows
        if row["less"]
    ]
    if lines:
        print_table(["", *names], lines, f"The same less {PEER}'s, ± half of the 95 % interval (Welch)")


def difference(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """The difference of two means of independent seeds and its 95 % interval, by Welch's t (Welch 1947)."""
    found = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return [statistics.mean(first) - statistics.mean(second), float(found.low), float(found.high)]


def quality_jobs(rates: Mapping[str, Sequence[float]], seeds: int, done: Mapping[str, dict]) -> dict[str, tuple]:
    """Every rate with the first seed; then the other seeds at the rate that was best there, as far as that is known.

    Args:
        rates: of each arm. done: results by the jobs' names.

    Returns:
        (arm, rate, seed) by name.
    """
    jobs = {f"{arm}, {rate:g}, seed 1": (arm, rate, 1) for arm in rates for rate in rates[arm]}
    for arm in rates:
        best = best_rate(arm, rates[arm], done)
        if best is not None:
            jobs |= {f"{arm}, {best:g}, seed {seed}": (arm, best, seed) for seed in range(2, seeds + 1)}
    return jobs


def best_rate(arm: str, rates: Sequence[float], done: Mapping[str, dict]) -> float | None:
    """The rate with the most analogies right with the first seed; None until all are done."""
    scores = {rate: done.get(f"{arm}, {rate:g}, seed 1") for rate in rates}
    return None if None in scores.values() else max(rates, key=lambda rate: scores[rate]["analogies"])


def quality_rows(rates: Mapping[str, Sequence[float]], seeds: int, done: Mapping[str, dict]) -> list[dict[str, Any]]:
    """For each arm its best rate, and each score of the seeds.

    Returns:
        Rows {"arm", "rate", "known", "scores": {name: a value a seed}, "spread": {name: standard deviation}, "less":
        {name: `difference` to `PEER`}, empty where there is one seed or the peer is not among the arms}.
    """
    rows: list[dict[str, Any]] = []
    for arm in rates:
        best = best_rate(arm, rates[arm], done)
        runs = [done[f"{arm}, {best:g}, seed {seed}"] for seed in range(1, seeds + 1)]
        scores = {name: [run[name] for run in runs] for name in runs[0] if name != "known"}
        spread = {name: statistics.stdev(values) if seeds > 1 else 0.0 for name, values in scores.items()}
        rows.append({"arm": arm, "rate": best, "known": runs[0]["known"], "scores": scores, "spread": spread})
    peer = next((row["scores"] for row in rows if row["arm"] == PEER), None)
    for row in rows:
        compared = seeds > 1 and peer is not None and row["arm"] != PEER
        row["less"] = {n: difference(values, peer[n]) for n, values in row["scores"].items()} if compared else {}
    return rows
