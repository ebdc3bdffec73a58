"""The tasks of ``builtin:toyglue`` that only SuperGLUE has, and coreference; one function makes one row of a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from hfssl.data.toy_language import BEINGS, NAMES, THINGS, Scene, base_of, changed, other, scene, sentence

_PEOPLE = tuple(noun for noun, (_, kind) in BEINGS.items() if kind == "person" and noun not in ("girl", "boy"))

# What was done, and for each adjective whom it says that of: the one who did it (0) or the other (1).
_BECAUSE = {
    "thanked": {"grateful": 0, "helpful": 1},
    "feared": {"timid": 0, "dangerous": 1},
    "envied": {"poor": 0, "rich": 1},
    "comforted": {"kind": 0, "sad": 1},
    "punished": {"strict": 0, "guilty": 1},
    "trusted": {"naive": 0, "honest": 1},
    "rescued": {"brave": 0, "trapped": 1},
    "fired": {"angry": 0, "lazy": 1},
}


@dataclass(frozen=True)
class Winograd:
    """A sentence with a pronoun, one of the two it may mean, and whether it means that one."""

    text: str
    named: str
    adjective: str
    is_right: bool


def winograd(rng: Random) -> Winograd:
    first, second = rng.sample(_PEOPLE, 2)
    verb = rng.choice(list(_BECAUSE))
    adjective, meant = rng.choice(list(_BECAUSE[verb].items()))
    claimed = rng.randrange(2)
    text = sentence(f"the {first} {verb} the {second} because he was {adjective}")
    return Winograd(text, f"the {(first, second)[claimed]}", adjective, claimed == meant)


def wsc(rng: Random, split: str) -> dict:
    given = winograd(rng)
    words = given.text.split()
    index = 0 if given.text.lower().startswith(given.named) else words.index("the")
    return {"text": given.text, "span1_index": index, "span1_text": " ".join(words[index : index + 2]),
            "span2_index": words.index("he"), "span2_text": "he", "label": str(given.is_right)}  # fmt: skip


def axg(rng: Random, split: str) -> list[dict]:
    """A pair of rows that differ in a pronoun only."""
    given = winograd(rng)
    hypothesis = sentence(given.named, "was", given.adjective)
    label = "entailment" if given.is_right else "not_entailment"
    texts = (given.text, given.text.replace(" he ", " she "))
    return [{"premise": text, "hypothesis": hypothesis, "label": label} for text in texts]


_THINKS = {
    "entailment": ("knows", "remembers", "has proved", "regrets"),
    "contradiction": ("pretends", "falsely claims", "wrongly believes"),
    "neutral": ("hopes", "thinks", "was told", "fears"),
}


def cb(rng: Random, split: str) -> dict:
    """What is said under a verb holds, does not hold, or is left open."""
    label = rng.choices(list(_THINKS), (0.45, 0.4, 0.15))[0]
    fact = replace(scene(rng), when="", who_is="")
    clause = fact.text().rstrip(".")
    clause = clause[0].lower() + clause[1:]
    before = replace(scene(rng), what_is="").text()
    premise = f"{before} {rng.choice(NAMES)} {rng.choice(_THINKS[label])} that {clause}."
    return {"premise": premise, "hypothesis": clause, "label": label}


_CAUSES = (
    ("{} forgot the umbrella", "{} got wet in the rain"),
    ("{} dropped the glass", "the glass broke"),
    ("{} missed the bus", "{} came late to work"),
    ("{} ate too much cake", "{} had a stomach ache"),
    ("{} studied every night", "{} passed the exam"),
    ("{} turned the key", "the engine started"),
    ("{} watered the flowers", "the flowers grew"),
    ("{} told a joke", "everyone laughed"),
    ("{} left the door open", "the cat ran away"),
    ("{} touched the hot stove", "{} burned a finger"),
    ("{} lost the ticket", "{} could not enter the theatre"),
    ("{} trained for a year", "{} won the race"),
    ("{} stayed in the sun", "{} got red skin"),
    ("{} lied to a friend", "the friend was angry"),
    ("{} heard a loud noise", "{} woke up at night"),
    ("{} saved money for years", "{} bought a house"),
)


def copa(rng: Random, split: str) -> dict:
    name = rng.choice(NAMES)
    (cause, effect), wrong = rng.sample(_CAUSES, 2)
    question = rng.choice(("cause", "effect"))
    premise, right, false = (effect, cause, wrong[0]) if question == "cause" else (cause, effect, wrong[1])
    choices = [sentence(text.format(name)) for text in (right, false)]
    label = rng.randrange(2)
    return {"premise": sentence(premise.format(name)), "choice1": choices[label], "choice2": choices[1 - label],
            "question": question, "label": ("choice1", "choice2")[label]}  # fmt: skip


def _facts(rng: Random, count: int) -> list[Scene]:
    """Scenes of different people with different things."""
    names, things = rng.sample(NAMES, count), rng.sample(list(THINGS), count)
    scenes = [replace(scene(rng), who_is="", what_is="", when="") for _ in range(count)]
    return [replace(s, who=name, what=thing) for s, name, thing in zip(scenes, names, things, strict=True)]


def multirc(rng: Random, split: str) -> list[dict]:
    """Three questions about a paragraph, each with four answers of which any number is right."""
    facts = _facts(rng, 4)
    paragraph = " ".join(fact.text() for fact in facts)
    rows = []
    for fact in rng.sample(facts, 3):
        place = fact.where.split(" the ")[1]
        if rng.random() < 0.5:
            question, right = f"Who {fact.verb} the {fact.what}?", [fact.who]
            wrong = [other_fact.who for other_fact in facts if other_fact is not fact]
        else:
            question, right = (
                f"Where did {fact.who} {base_of(fact.verb)} the {fact.what}?",
                [fact.where, f"the {place}"],
            )
            wrong = [changed(rng, fact, "where").where, f"the {other(rng, ('forest', 'castle', 'harbour'), place)}"]
        answers = [(text, "True") for text in right] + [(text, "False") for text in wrong]
        rng.shuffle(answers)
        for number, (answer, label) in enumerate(answers):
            begins = ("answer", *(("question",) if number == 0 else ()), *(("paragraph",) if not rows else ()))
            rows.append({"paragraph": paragraph, "question": question, "answer": answer, "label": label,
                         "begins": begins})  # fmt: skip
    return rows


def record(rng: Random, split: str) -> dict:
    """Which name of a passage stands where `@placeholder` is."""
    facts = _facts(rng, 4)
    about = rng.choice(facts)
    return {"passage": " ".join(fact.text() for fact in facts),
            "query": replace(about, who="@placeholder").passive(),
            "entities": sorted(fact.who for fact in facts), "answers": [about.who]}  # fmt: skip


_SENSES = {
    "bank": (("{} put the money in the bank.", "The bank gave {} a loan.", "{} opened an account at the bank."),
             ("{} sat on the bank of the river.", "The boat reached the bank near {}.", "{} fished from the bank.")),
    "bat": (("{} hit the ball with a bat.", "The wooden bat of {} broke.", "{} swung the bat in the game."),
            ("A bat flew over {} at night.", "{} saw a bat in the dark cave.", "The bat that {} saw ate insects.")),
    "spring": (("{} planted flowers in spring.", "Last spring {} moved away.", "{} waits for spring after winter."),
               ("{} repaired the spring of the clock.", "The metal spring hurt {}.", "{} bent the steel spring.")),
    "bark": (("The bark of the dog woke {}.", "{} heard a loud bark.", "One bark from the dog scared {}."),
             ("{} peeled the bark off the tree.", "The bark of the oak was rough for {}.", "{} burned dry bark.")),
    "match": (("{} lit the fire with a match.", "The match burned the hand of {}.", "{} struck a match in the dark."),
              ("{} won the tennis match.", "The match of {} lasted five sets.", "{} watched the football match.")),
    "ring": (("{} wore a gold ring.", "The ring of {} has a diamond.", "{} lost the wedding ring."),
             ("{} answered after one ring of the phone.", "The ring of the bell woke {}.", "{} heard a loud ring.")),
    "trunk": (("{} packed clothes in the trunk.", "The heavy trunk of {} was locked.", "{} opened the old trunk."),
              ("{} touched the trunk of the elephant.", "The trunk sprayed water on {}.", "{} drew a grey trunk.")),
}  # fmt: skip


def wic(rng: Random, split: str) -> dict:
    """Has the word the same sense in both sentences?"""
    word = rng.choice(list(_SENSES))
    same, sense = rng.random() < 0.5, rng.randrange(2)
    if same:
        templates = rng.sample(_SENSES[word][sense], 2)
    else:
        templates = [rng.choice(_SENSES[word][sense]), rng.choice(_SENSES[word][1 - sense])]
    row: dict = {"word": word}
    for number, (template, name) in enumerate(zip(templates, rng.sample(NAMES, 2), strict=True), start=1):
        text = template.format(name)
        start = text.lower().index(word)
        row |= {f"sentence{number}": text, f"start{number}": start, f"end{number}": start + len(word)}
    return row | {"label": str(same)}
