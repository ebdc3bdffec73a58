"""``builtin:toypairs/NAME``: small synthetic translations, events with what follows from them, and dialogues.

Everything is made by rules from a fixed seed, the same on every machine: it shows that a conditional model runs and
learns, and no score on it says anything about real data. Each sentence, event or conversation is in one split alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from random import Random
from typing import Any

from hfssl.data.builtin import hash_fraction
from hfssl.data.toy_language import THINGS, VERBS, other, sentence
from hfssl.errors import InputError, nearest

BUILTIN_PAIRS = {
    "translation": "English scenes in German: gender, case, and a verb that stays second; 2,000 / 200 / 200 rows",
    "commonsense": "events with what somebody needed, meant, felt and wants then, several answers each",
    "dialogue": "questions about a scene that was told before: the answer stands in the context",
}
PREFIX = "toypairs/"
SPLITS = ("train", "validation", "test")
SEED = 0
_SIZES = {"train": 2000, "validation": 200, "test": 200}

# Noun and gender. In the accusative only the masculine article and adjective change: der rote Ball, den roten Ball.
_NOUNS = {
    "dog": "Hund m", "cat": "Katze f", "horse": "Pferd n", "fox": "Fuchs m", "goat": "Ziege f", "monkey": "Affe m",
    "farmer": "Bauer m", "teacher": "Lehrer m", "doctor": "Arzt m", "baker": "Bäcker m", "girl": "Mädchen n",
    "ball": "Ball m", "doll": "Puppe f", "kite": "Drachen m", "letter": "Brief m", "cup": "Tasse f",
    "chair": "Stuhl m", "lamp": "Lampe f", "coat": "Mantel m", "hat": "Hut m", "apple": "Apfel m", "pear": "Birne f",
}  # fmt: skip
_BEINGS = tuple(list(_NOUNS)[:11])
_THINGS = tuple(list(_NOUNS)[11:])
_VERBS = {"carried": "trug", "found": "fand", "painted": "malte", "bought": "kaufte", "watched": "sah",
          "cleaned": "putzte", "stole": "stahl"}  # fmt: skip
_ADJECTIVES = {"red": "rot", "blue": "blau", "green": "grün", "old": "alt", "new": "neu", "small": "klein",
               "large": "groß"}  # fmt: skip
_PLACES = {"in the garden": "im Garten", "in the kitchen": "in der Küche", "at the station": "am Bahnhof",
           "at the market": "auf dem Markt", "near the river": "am Fluss"}  # fmt: skip
_TIMES = {"in the morning": "am Morgen", "at noon": "am Mittag", "in the evening": "am Abend",
          "on Sunday": "am Sonntag"}  # fmt: skip
_NOMINATIVE, _ACCUSATIVE = {"m": "der", "f": "die", "n": "das"}, {"m": "den", "f": "die", "n": "das"}


def _german(noun: str, adjective: str, articles: dict[str, str]) -> str:
    word, gender = _NOUNS[noun].split()
    ending = "en" if articles[gender] == "den" else "e"
    return f"{articles[gender]} {_ADJECTIVES[adjective]}{ending} {word}"


def _translation(rng: Random) -> dict[str, str]:
    who, what, verb = rng.choice(_BEINGS), rng.choice(_THINGS), rng.choice(list(_VERBS))
    who_is, what_is = rng.sample(list(_ADJECTIVES), 2)
    where, when = rng.choice(list(_PLACES)), rng.choice(list(_TIMES))
    subject, object_ = f"the {who_is} {who}", f"the {what_is} {what}"
    subjekt, objekt = _german(who, who_is, _NOMINATIVE), _german(what, what_is, _ACCUSATIVE)
    if rng.random() < 0.5:  # the time first: German then has its verb before the subject
        source = sentence(when + ",", subject, verb, object_, where)
        return {"source": source, "target": sentence(_TIMES[when], _VERBS[verb], subjekt, objekt, _PLACES[where])}
    return {
        "source": sentence(subject, verb, object_, where),
        "target": sentence(subjekt, _VERBS[verb], objekt, _PLACES[where]),
    }


# Of each verb: what was needed before, what was meant, how it feels, what comes then; {} is the thing or its kind.
_FOLLOWS = {
    "buy": (("to go to the shop", "to have money"), ("to have a {}",), ("happy", "poorer"), ("to use the {}",)),
    "hide": (("to find a place",), ("to keep the {}", "to play a trick"), ("nervous",), ("to get the {} back",)),
    "drop": (("to hold the {}",), ("none",), ("sorry", "clumsy"), ("to pick up the {}",)),
    "paint": (("to get a brush",), ("to make the {} pretty",), ("creative", "proud"), ("to show the {}",)),
    "clean": (("to get some water",), ("to have a clean {}",), ("tired", "proud"), ("to rest",)),
    "steal": (("to see the {}",), ("to have a {}",), ("guilty", "nervous"), ("to run away",)),
    "repair": (("to get some tools",), ("to use the {} again",), ("useful", "proud"), ("to try the {}",)),
}
_OTHERS_FEEL = {"steal": ("angry", "sad"), "repair": ("grateful",), "hide": ("confused",), "drop": ("annoyed",)}
_RELATIONS = ("xNeed", "xIntent", "xReact", "xWant")


def _commonsense(rng: Random) -> list[dict[str, str]]:
    verb, what = rng.choice(list(_FOLLOWS)), rng.choice(list(THINGS))
    owner = rng.choice(("the", "PersonY's", "a"))
    adjective, place = rng.choice(["", *_ADJECTIVES]), rng.choice(["", *_PLACES])
    head = " ".join(filter(None, ["PersonX", VERBS[verb][0], owner, adjective, what, place]))
    answers = dict(zip(_RELATIONS, _FOLLOWS[verb], strict=True)) | {"oReact": _OTHERS_FEEL.get(verb, ("none",))}
    return [
        {"head": head, "relation": relation, "tail": tail.format(what)}
        for relation, tails in answers.items()
        for tail in tails
    ]


_GREETINGS = ("Hello!", "Hi there.", "Good morning.", "Hey.")


def _dialogue(rng: Random) -> list[dict[str, Any]]:
    """A conversation, as one row for each answer: its context and the response."""
    who, what, verb = rng.choice(_BEINGS), rng.choice(_THINGS), rng.choice(list(_VERBS))
    who_is, what_is = rng.sample(list(_ADJECTIVES), 2)
    where, when = rng.choice(list(_PLACES)), rng.choice(list(_TIMES))
    story = sentence(f"the {who_is} {who}", verb, f"the {what_is} {what}", where, when)
    questions = [
        (f"Who {verb} the {what}?", sentence(f"the {who}")),
        (f"Where was the {what}?", sentence(where)),
        ("When was that?", sentence(when)),
        (f"Which {what} was it?", sentence(f"the {what_is} one")),
        (f"Was the {who} {other(rng, _ADJECTIVES, who_is)}?", f"No, it was {who_is}."),
    ]
    turns = [rng.choice(_GREETINGS), "Hello, what happened?", story]
    for question, answer in rng.sample(questions, 3):
        turns += [question, answer]
    return [{"context": turns[:at], "response": turns[at]} for at in range(1, len(turns))]


@functools.cache
def _all(name: str, split: str) -> tuple[dict[str, Any], ...]:
    make: Callable = {"translation": _translation, "commonsense": _commonsense, "dialogue": _dialogue}[name]
    source = {"translation": "source", "commonsense": "head", "dialogue": "context"}[name]
    low = {"train": 0.0, "validation": 0.8, "test": 0.9}[split]
    high = {"train": 0.8, "validation": 0.9, "test": 1.0}[split]
    rng, rows, seen = Random(f"{SEED}{name}{split}"), [], set()
    while len(rows) < _SIZES[split]:
        made = make(rng)
        made = made if isinstance(made, list) else [made]
        key = str(made[-1][source])  # of a dialogue the longest context, so all of it
        if low <= hash_fraction(key) < high and key not in seen:
            seen.add(key)
            rows += made
    return tuple(rows)


def toy_pairs(name: str, split: str = "train") -> list[dict[str, Any]]:
    """The rows of builtin:toypairs/NAME.

    Args:
        name: a key of `BUILTIN_PAIRS`.
        split: "train", "validation" or "test".

    Returns:
        translation: {"source", "target"}; commonsense: {"head", "relation", "tail"}; dialogue: {"context": list of
        turns, "response"}.

    Raises:
        InputError: an unknown name or split.
    """
    if name not in BUILTIN_PAIRS:
        known = ", ".join(f"builtin:{PREFIX}{each}" for each in BUILTIN_PAIRS)
        raise InputError(f"no such builtin pairs: {name!r}{nearest(name, BUILTIN_PAIRS)}; there is {known}")
    if split not in SPLITS:
        raise InputError(f"builtin:{PREFIX}{name} has no split {split!r}; its splits are {', '.join(SPLITS)}")
    return [dict(row) for row in _all(name, split)]
