"""Several tries and the one that is chosen, with the name of what chose it.

GPT-2's samples are the best of some tries (Radford et al. 2019, top-k 40); Meena draws N replies at a temperature and
says the likeliest (Adiwardana et al. 2020, sample-and-rank).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hfssl.errors import InputError, nearest
from hfssl.generation.decoding import Decoding, Try, decode
from hfssl.generation.loading import encode_prompt, fit_prompt

REPEATED, REPEAT_PENALTY = 4, 5.0  # the length of an n-gram; nats a token for a text that is nothing but repeats
SHARED_WORDS = 5
Scorer = Callable[[Try], float]


def repeated_share(ids: Sequence[int], n: int = REPEATED) -> float:
    """The share of a text's n-grams that occurred in it before."""
    grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


SCORERS: dict[str, tuple[str, Scorer]] = {
    "mean": ("mean log p", lambda one: one.mean_log_p),
    "sum": ("sum log p", lambda one: one.log_p),
    "repeats": (
        f"mean log p - {REPEAT_PENALTY:g} x share of repeated {REPEATED}-grams",
        lambda one: one.mean_log_p - REPEAT_PENALTY * repeated_share(one.ids),
    ),
}


def find_scorer(scorer: str | Scorer) -> tuple[str, Scorer]:
    """A scorer, by name or one's own, and what it is called in a result.

    Raises:
        InputError: an unknown one.
    """
    if not isinstance(scorer, str):
        return getattr(scorer, "__name__", repr(scorer)), scorer
    if scorer not in SCORERS:
        raise InputError(f"unknown scorer {scorer!r}: one of {', '.join(SCORERS)}{nearest(scorer, SCORERS)}")
    return SCORERS[scorer]


@dataclass(frozen=True)
class Ranked:
    """All tries, and which one was chosen by what.

    Attributes:
        scorer: the name of what gave the scores.
        chosen: the number of the best try, from 0.
        removed: the numbers of the tries that say nothing or repeat an earlier turn; one is chosen only if all are.
    """

    tries: list[Try]
    scorer: str
    chosen: int
    removed: tuple[int, ...] = ()

    @property
    def best(self) -> Try:
        return self.tries[self.chosen]


def rank(tries: Sequence[Try], scorer: str | Scorer = "mean", earlier: Sequence[str] = ()) -> Ranked:
    """Scores tries and chooses the best of those that say something; of equals the first.

    Args:
        scorer: "mean" (log p a token), "sum" (log p), "repeats" (mean log p less a penalty on repeated 4-grams), or a
            function of a `Try`; the higher the better.
        earlier: turns that are not to be said again (Meena's cross-turn repetition filter).

    Raises:
        InputError: an unknown scorer.
    """
    name, function = find_scorer(scorer)
    scored = [replace(one, score=float(function(one))) for one in tries]
    removed = tuple(
        number for number, one in enumerate(scored) if not one.text.strip() or repeats_a_turn(one.text, earlier)
    )
    left = [number for number in range(len(scored)) if number not in removed] or range(len(scored))
    return Ranked(scored, name, max(left, key=lambda number: scored[number].score), removed)


def repeats_a_turn(text: str, earlier: Sequence[str], words: int = SHARED_WORDS) -> bool:
    """Whether a reply has this many words in a row in common with an earlier turn.

    Meena's rule finds long common sub-sequences of two turns; its paper gives no length.
    """

    def runs(turn):
        said = re.findall(r"\w+", turn.lower())
        return {tuple(said[at : at + words]) for at in range(len(said) - words + 1)}

    own = runs(text)
    return any(own & runs(turn) for turn in earlier)


def continue_text(
    model,
    tokenizer,
    prompt: str,
    tries: int = 10,
    max_new_tokens: int = 60,
    top_k: int = 40,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_p_rule: str = "gpt2",
    scorer: str | Scorer = "mean",
    seed: int = 0,
    truncate_left: bool = False,
) -> Ranked:
    """Continues a prompt several times and chooses the best. The random numbers are the caller's again afterwards.

    Args:
        top_k, temperature, top_p, top_p_rule, max_new_tokens: see `Decoding`; by default as GPT-2's samples were made.
        scorer: see `rank`.
        truncate_left: keep the end of a prompt that is longer than the model's positions allow.

    Returns:
        `tries` continuations without the prompt, their scores and the choice.

    Raises:
        InputError: an empty prompt, one that leaves no position, or a setting out of its range.
    """
    find_scorer(scorer)  # refused before the work, not after it
    how = Decoding(max_new_tokens, temperature, top_k, top_p, top_p_rule, seed=seed)
    ids = encode_prompt(model, tokenizer, prompt, truncate_left, max_new_tokens)
    return rank(decode(model, tokenizer, [ids], how, tries)[0], scorer)


def sample_and_rank(
    model,
    tokenizer,
    prompt_ids: list[int],
    n: int = 20,
    temperature: float = 0.88,
    top_k: int = 0,
    max_new_tokens: int = 60,
    scorer: str | Scorer = "mean",
    earlier: Sequence[str] = (),
    seed: int = 0,
    truncate_left: bool = False,
) -> Ranked:
    """Meena's sample-and-rank: n samples at a temperature, without top-k, and of them the likeliest a token.

    The full system of the paper had temperature 1, top-k 40 and the filter `earlier`.

    Args:
        prompt_ids: the prompt's tokens, as `encode_prompt` or a layout's `prompt_ids` gives them.
        scorer, earlier: see `rank`.

    Raises:
        InputError: an empty prompt, one that leaves no position, or a setting out of its range.
    """
    find_scorer(scorer)
    how = Decoding(max_new_tokens, temperature, top_k, seed=seed)
    ids = fit_prompt(model, prompt_ids, truncate_left, max_new_tokens)
    return rank(decode(model, tokenizer, [ids], how, n)[0], scorer, earlier)
