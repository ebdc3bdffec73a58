"""COMET's scores (Bosselut et al. 2019): BLEU-2, novelty, true from false; and the nearest neighbour's answers.

BLEU-2 is NLTK's sentence BLEU with the weights (.5, .5) and its smoothing method 1, as in COMET's bleu_atomic.py. Of
one word it is never over .316, the root of the smoothed .1 for the pair of words that is not there. Words are what
stands between blanks; COMET's texts had gone through GPT's tokenizer before, in lower case and "'s" a word of its own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfssl.evaluation.significance import Interval, bootstrap_sums, interval
from hfssl.progress import Progress

Query = tuple[str, str]  # a head and a relation
EPSILON = 0.1  # NLTK's, for n-grams of which none is right (Chen and Cherry 2014, method 1)
MOST_NONE = 1 / 3
_DROPPED = ("<unk>", "<END>")  # words that bleu_atomic.py takes out


def bleu2(hypothesis: str, references: Sequence[str]) -> float:
    """BLEU of words and pairs of words against several references, 0 to 1, as COMET's evaluation computes it."""
    words, truths = _words(hypothesis), [_words(reference) for reference in references]
    precisions = []
    for n in (1, 2):
        grams, most = _grams(words, n), Counter()
        for truth in truths:
            most |= _grams(truth, n)
        right = sum((grams & most).values())
        if n == 1 and not right:
            return 0.0
        precisions.append((right or EPSILON) / max(1, sum(grams.values())))
    nearest = min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
    brevity = 1.0 if len(words) > nearest else math.exp(1 - nearest / len(words))
    return brevity * math.exp(0.5 * sum(map(math.log, precisions)))


def _words(text: str) -> list[str]:
    return [word for word in text.split() if word not in _DROPPED]


def _grams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


@dataclass(frozen=True)
class Bleu2:
    """BLEU-2 of many completions, of 0 to 100.

    Attributes:
        score: the mean over relations of the mean over their completions, all beams counted alike.
        interval: 95 %, events drawn anew.
        relations: the mean of each relation.
        scored, skipped: (head, relation) pairs that count, and those of whose references over a third are "none".
    """

    score: float
    interval: Interval
    relations: dict[str, float]
    scored: int
    skipped: int


def comet_bleu2(
    generated: Mapping[Query, Sequence[str]],
    references: Mapping[Query, Sequence[str]],
    draws: int = 1000,
    seed: int = 0,
) -> Bleu2 | None:
    """The BLEU-2 of COMET's table 1; None if every pair is skipped.

    Args:
        generated: the beams of each (head, relation).
        references: all objects of each in the test set.
    """
    relations = sorted({relation for _, relation in generated})
    heads = {head: number for number, head in enumerate(dict.fromkeys(head for head, _ in generated))}
    sums = np.zeros((len(heads), len(relations), 2))  # the summed BLEU and the number of beams
    skipped = 0
    for (head, relation), beams in generated.items():
        truths = references[head, relation]
        if sum(_words(truth) == ["none"] for truth in truths) / len(truths) > MOST_NONE:
            skipped += 1
            continue
        total = sum(bleu2(beam, truths) for beam in beams)
        sums[heads[head], relations.index(relation)] += total, len(beams)
    if not sums[..., 1].any():
        return None
    means = _mean_of_means(sums.sum(0))
    drawn = bootstrap_sums(sums.reshape(len(heads), -1), draws, seed).reshape(draws, -1, 2)
    limits = interval(np.array([100 * np.nanmean(_mean_of_means(one)) for one in drawn]))
    named = {name: 100 * float(mean) for name, mean in zip(relations, means, strict=True) if not np.isnan(mean)}
    return Bleu2(100 * float(np.nanmean(means)), limits, named, len(generated) - skipped, skipped)


def _mean_of_means(sums: np.ndarray) -> np.ndarray:
    """The mean of each relation (R,) from sums (R, 2); NaN where nothing of it is scored."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


@dataclass(frozen=True)
class Novelty:
    """How much of what was generated does not stand in the training set, in % (COMET, table 1).

    Attributes:
        sro: of the generated tuples, those that are not in it (N/T sro).
        o: of the generated tuples, those whose object is no object in it (N/T o).
        unique_o: of the different generated objects, those that are no object in it (N/U o).
    """

    sro: float
    o: float
    unique_o: float


def novelty(generated: Mapping[Query, Sequence[str]], train: Sequence[tuple[str, str, str]]) -> Novelty:
    """Novelty of the completions of (head, relation) against training tuples (head, relation, object).

    White space at the ends counts for nothing, everything else does, as in COMET's compute_conceptnet_novelty.py.
    """
    known = {tuple(part.strip() for part in row) for row in train}
    objects = {row[2] for row in known}
    tuples = [
        (head.strip(), relation.strip(), beam.strip())
        for (head, relation), beams in generated.items()
        for beam in beams
    ]
    new, unique = [row for row in tuples if row[2] not in objects], {row[2] for row in tuples}
    return Novelty(
        100 * sum(row not in known for row in tuples) / len(tuples),
        100 * len(new) / len(tuples),
        100 * len(unique - objects) / len(unique),
    )


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold for which "true if the score is over it" is right most often; midway between two scores.

    Args:
        scores: (N,).
        labels: (N,), true or false.
    """
    order = np.argsort(scores, kind="stable")
    ordered, true = scores[order], labels[order].astype(bool)
    # right[i]: the first i are called false.
    right = np.concatenate([[0], np.cumsum(~true)]) + np.concatenate([np.cumsum(true[::-1])[::-1], [0]])
    places = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # not between two equal scores
    edges = np.concatenate([[ordered[0] - 1], (ordered[1:] + ordered[:-1]) / 2, [ordered[-1] + 1]])
    return float(edges[np.argmax(np.where(places, right, -1))])


def nearest_objects(
    train: Sequence[tuple[str, str, str]], queries: Sequence[Query], beams: int
) -> dict[Query, list[str]]:
    """For each (head, relation) the objects of the training heads nearest to it, by the cosine of TF-IDF vectors.

    Heads of the same relation alone; the next nearest follow until there are `beams` different objects.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    objects: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for head, relation, tail in train:
        objects[relation][head].append(tail)
    found: dict[Query, list[str]] = {}
    progress = Progress("nearest neighbours", len(queries), "head")
    for relation in dict.fromkeys(relation for _, relation in queries):
        heads = list(objects[relation])
        asked = [head for head, one in queries if one == relation]
        if not heads:
            continue
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(heads)
        bank = vectorizer.transform(heads).T
        for first in range(0, len(asked), 256):
            part = asked[first : first + 256]
            similarities = (vectorizer.transform(part) @ bank).toarray()
            for head, row in zip(part, similarities, strict=True):
                found[head, relation] = _first_objects(heads, objects[relation], row, beams)
            progress.update(len(part))
    progress.close()
    return found


def _first_objects(heads: list[str], objects: Mapping[str, list[str]], similarities: np.ndarray, beams: int):
    chosen: dict[str, None] = {}
    for index in np.argsort(-similarities, kind="stable"):
        chosen |= dict.fromkeys(objects[heads[index]])
        if len(chosen) >= beams:
            break
    return list(chosen)[:beams]
