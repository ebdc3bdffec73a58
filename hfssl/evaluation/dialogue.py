"""How varied, how generic and how right replies are: distinct-n, generic replies, hits@1 among distractors."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Replies that fit anything, in lower case without punctuation. A reply is generic if it is one of them, or says one of
# the phrases with at most WORDS_BESIDE words beside it.
GENERIC_REPLIES = (
    "yes", "no", "ok", "okay", "oh", "yeah", "yep", "nope", "sure", "thanks", "thank you", "hi", "hello", "hey", "wow",
    "cool", "nice", "good", "great", "right", "really", "me too", "i see", "of course", "oh ok", "oh wow", "oh really",
)  # fmt: skip
GENERIC_PHRASES = (
    "i don't know", "i do not know", "i dont know", "i'm not sure", "i am not sure", "im not sure", "i have no idea",
    "i don't think so", "i think so", "that's true", "that is true", "that's right", "that's good", "that's great",
    "that's cool", "that's interesting", "that is interesting", "i agree", "me neither", "what do you mean",
    "i don't understand", "what are you talking about",
)  # fmt: skip
WORDS_BESIDE = 2


def words(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes kept, other punctuation left out."""
    return re.findall(r"[\w']+", text.lower().replace("’", "'"))


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words among all n-grams of the texts together (Li et al. 2016, distinct-n); None of none."""
    counts: Counter = Counter()
    for text in texts:
        said = words(text)
        counts.update(tuple(said[at : at + n]) for at in range(len(said) - n + 1))
    return len(counts) / counts.total() if counts else None


def is_generic(reply: str) -> bool:
    """Whether a reply fits almost any message: nothing, one of GENERIC_REPLIES, or little beside GENERIC_PHRASES."""
    said = words(reply)
    text = " ".join(said)
    if not said or text in GENERIC_REPLIES:
        return True
    return any(
        f" {phrase} " in f" {text} " and len(said) - len(phrase.split()) <= WORDS_BESIDE for phrase in GENERIC_PHRASES
    )


def variety(replies: Sequence[str]) -> dict[str, float | None]:
    """Of some replies, {"distinct-1", "distinct-2", "generic", "top reply" (the share of the reply that is given most
    often), "words" (a reply)}.

    distinct-n falls with the number of words, so compare it between equally many replies of similar length.
    """
    tokens = [tuple(words(reply)) for reply in replies]
    return {
        "distinct-1": distinct(replies, 1),
        "distinct-2": distinct(replies, 2),
        "generic": float(np.mean([is_generic(reply) for reply in replies])),
        "top reply": max(Counter(tokens).values()) / len(tokens),
        "words": float(np.mean([len(said) for said in tokens])),
    }


def conversations(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Of rows in the order of their conversations, the number of each one's: it goes on where a context is the one
    before with its response."""
    found, before = [], None
    for row in rows:
        goes_on = before is not None and list(row["context"]) == [*before["context"], before["response"]]
        found.append((found[-1] if found else -1) + (not goes_on))
        before = row
    return found


def draw_candidates(
    rows: Sequence[Mapping[str, Any]], pool: Sequence[Mapping[str, Any]], count: int = 20, seed: int = 0
) -> list[list[str]]:
    """For each row the true response, then count - 1 others that are drawn from other conversations.

    No two candidates of a row are the same text.

    Args:
        rows: with "response" and "conversation", any mark of it.
        pool: rows to draw from.

    Raises:
        ValueError: too few other responses.
    """
    rng, found = random.Random(seed), []
    for row in rows:
        chosen, tries = {row["response"].strip(): None}, 0
        while len(chosen) < count:
            other = pool[rng.randrange(len(pool))]
            if other["conversation"] != row["conversation"] and other["response"].strip():
                chosen.setdefault(other["response"].strip())
            tries += 1
            if tries > 1000 * count:
                raise ValueError(f"the data has no {count - 1} different responses of other conversations")
        found.append(list(chosen))
    return found


def hits_at_1(scores: np.ndarray) -> np.ndarray:
    """Of scores (N, C) whose first column is of the true response: whether that is the highest, (N,).

    Where it shares the highest score with m others it counts 1 / (m + 1).
    """
    best = scores.max(1, keepdims=True)
    return (scores[:, 0] == best[:, 0]) / (scores == best).sum(1)


def tfidf_scores(rows: Sequence[Mapping[str, Any]], candidates: Sequence[Sequence[str]]) -> np.ndarray:
    """Cosines (N, C) of TF-IDF vectors of the last turn and each candidate: what retrieval by words alone reaches."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    flat = [text for texts in candidates for text in texts]
    asked = [row["context"][-1] for row in rows]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"[\w']+").fit([*asked, *flat])
    questions, answers = vectorizer.transform(asked), vectorizer.transform(flat)
    count = len(candidates[0])
    repeated = questions[np.repeat(np.arange(len(rows)), count)]
    return np.asarray(repeated.multiply(answers).sum(1)).reshape(len(rows), count)
