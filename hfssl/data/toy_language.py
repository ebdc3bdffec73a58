"""A small English for synthetic tasks: words with synonyms and kinds, and scenes that can be told in several ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

# Singular, plural, what it is a kind of.
BEINGS = {
    "dog": ("dogs", "animal"), "cat": ("cats", "animal"), "horse": ("horses", "animal"), "fox": ("foxes", "animal"),
    "goat": ("goats", "animal"), "monkey": ("monkeys", "animal"), "farmer": ("farmers", "person"),
    "teacher": ("teachers", "person"), "doctor": ("doctors", "person"), "sailor": ("sailors", "person"),
    "baker": ("bakers", "person"), "girl": ("girls", "person"), "boy": ("boys", "person"),
    "soldier": ("soldiers", "person"),
}  # fmt: skip
OFFICE_BEINGS = {"clerk": "person", "lawyer": "person", "engineer": "person", "pilot": "person", "nurse": "person",
                 "robot": "machine", "parrot": "animal", "rabbit": "animal"}  # fmt: skip
THINGS = {"ball": "toy", "doll": "toy", "kite": "toy", "letter": "thing", "cup": "thing", "chair": "thing",
          "lamp": "thing", "coat": "garment", "hat": "garment", "scarf": "garment", "apple": "fruit",
          "pear": "fruit"}  # fmt: skip
OFFICE_THINGS = {"report": "thing", "printer": "machine", "desk": "thing", "camera": "machine", "ticket": "thing",
                 "uniform": "garment"}  # fmt: skip
PLACES = ("in the garden", "in the kitchen", "at the station", "at the market", "near the river", "behind the school")
OFFICE_PLACES = ("in the office", "at the airport", "in the hospital", "near the elevator")
TIMES = ("in the morning", "at noon", "in the evening", "on Sunday")
# Base, third person, past.
VERBS = {
    "carry": ("carries", "carried"), "find": ("finds", "found"), "hide": ("hides", "hid"), "drop": ("drops", "dropped"),
    "paint": ("paints", "painted"), "buy": ("buys", "bought"), "watch": ("watches", "watched"),
    "clean": ("cleans", "cleaned"), "steal": ("steals", "stole"), "repair": ("repairs", "repaired"),
}  # fmt: skip
ADJECTIVES = ("red", "blue", "green", "old", "new", "small", "large", "heavy", "broken", "clean")
PARTICIPLES = {"found": "found", "hid": "hidden", "bought": "bought", "stole": "stolen"}
SYNONYMS = {
    "small": "little", "large": "big", "boy": "lad", "doctor": "physician", "teacher": "instructor",
    "carried": "transported", "found": "discovered", "hid": "concealed", "bought": "purchased", "watched": "observed",
    "repaired": "fixed", "letter": "note", "coat": "jacket", "in the garden": "in the yard", "on Sunday": "this Sunday",
    "at noon": "at midday", "soldier": "trooper", "lawyer": "attorney",
}  # fmt: skip
NAMES = ("Anna", "Bruno", "Carla", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leo",
         "Maria", "Nils", "Olga", "Paul")  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Who did what to what, where and when. An empty string leaves a part out.

    Attributes:
        who: a noun, or a name with a capital.
        verb: in the past tense.
    """

    who: str
    verb: str
    what: str
    who_is: str = ""
    what_is: str = ""
    where: str = ""
    when: str = ""

    def subject(self) -> str:
        named = self.who[0].isupper() or self.who[0] == "@"  # ReCoRD's @placeholder stands for a name
        return self.who if named else _join("the", self.who_is, self.who)

    def object(self) -> str:
        return _join("the", self.what_is, self.what)

    def text(self) -> str:
        return sentence(self.subject(), self.verb, self.object(), self.where, self.when)

    def passive(self) -> str:
        participle = PARTICIPLES.get(self.verb, self.verb)
        return sentence(self.object(), "was", participle, "by", self.subject(), self.where, self.when)

    def fronted(self) -> str:
        """The time or else the place first."""
        first, rest = (self.when, self.where) if self.when else (self.where, "")
        if not first:
            return self.text()
        return sentence(first + ",", self.subject(), self.verb, self.object(), rest)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def sentence(*parts: str, end: str = ".") -> str:
    """Words joined, with a capital and an end."""
    text = _join(*parts)
    return text[0].upper() + text[1:] + end


def scene(rng: Random, office: bool = False) -> Scene:
    """A random scene; `office` draws from words that the others do not use."""
    beings = tuple(OFFICE_BEINGS if office else BEINGS)
    things = tuple(OFFICE_THINGS if office else THINGS)
    verb = rng.choice([past for _, past in VERBS.values()])
    who_is, what_is = rng.sample(ADJECTIVES[:7], 2)
    return Scene(
        rng.choice(beings), verb, rng.choice(things), who_is, what_is,
        rng.choice(OFFICE_PLACES if office else PLACES), rng.choice(TIMES),
    )  # fmt: skip


def base_of(past: str) -> str:
    """The base form of a verb in the past tense."""
    return next(base for base, forms in VERBS.items() if forms[1] == past)


def kind_of(noun: str) -> str:
    """The more general word: animal, person, toy, ..."""
    if noun in BEINGS:
        return BEINGS[noun][1]
    return {**OFFICE_BEINGS, **THINGS, **OFFICE_THINGS}.get(noun, noun)


def other(rng: Random, choices, *not_these: str) -> str:
    return rng.choice([choice for choice in choices if choice not in not_these])


def changed(rng: Random, given: Scene, part: str) -> Scene:
    """The scene with one part replaced by another of its sort."""
    office = given.who in OFFICE_BEINGS
    choices = {
        "who": OFFICE_BEINGS if office else BEINGS,
        "what": OFFICE_THINGS if office else THINGS,
        "verb": [past for _, past in VERBS.values()],
        "who_is": ADJECTIVES[:7],
        "what_is": ADJECTIVES[:7],
        "where": OFFICE_PLACES if office else PLACES,
        "when": TIMES,
    }[part]
    old = getattr(given, part)
    return replace(given, **{part: other(rng, choices, old, given.who_is, given.what_is)})


def with_synonyms(rng: Random, given: Scene, rate: float = 0.7) -> Scene:
    """The scene with words replaced by synonyms, each with probability `rate`."""
    parts = ("who", "verb", "what", "who_is", "what_is", "where", "when")
    values = {part: getattr(given, part) for part in parts}
    swapped = {part: SYNONYMS[value] for part, value in values.items() if value in SYNONYMS and rng.random() < rate}
    return replace(given, **swapped)


def retold(rng: Random, given: Scene) -> str:
    """The same scene in other words: synonyms, the passive, or another order."""
    other_words = with_synonyms(rng, given)
    return rng.choice((other_words.text, other_words.passive, other_words.fronted))()
