"""``builtin:toyglue``: small synthetic tasks with the columns and labels of GLUE's and SuperGLUE's, for a try offline.

Everything is made by rules from a fixed seed, the same on every machine. No score on it says anything about the real
tasks, so whatever is computed from it is marked synthetic. The test splits have no labels, as the real ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from hfssl.data import toy_superglue
from hfssl.data.tables import Table
from hfssl.data.toy_language import (
    ADJECTIVES,
    BEINGS,
    THINGS,
    VERBS,
    base_of,
    changed,
    kind_of,
    other,
    retold,
    scene,
    sentence,
    with_synonyms,
)
from hfssl.errors import InputError

TOYGLUE = "builtin:toyglue"
BUILTIN_TASKS = {"toyglue": "small synthetic tasks in the form of GLUE's and SuperGLUE's, 60 to 600 rows a split"}
SEED = 0
_PAIR, _NLI = ("sentence1", "sentence2"), ("premise", "hypothesis")


def _cola(rng: Random, split: str) -> dict:
    """Agreement across a phrase between, and the order of words."""
    plural = rng.random() < 0.5
    noun, near = rng.choice(list(BEINGS)), rng.choice(list(BEINGS))
    near = BEINGS[near][0] if rng.random() < 0.7 else near  # an attractor of either number
    verb = rng.choice(list(VERBS))
    adjective, thing = rng.choice(ADJECTIVES[:7]), rng.choice(list(THINGS))
    words = ["the", adjective, BEINGS[noun][0] if plural else noun]
    if rng.random() < 0.5:
        words += ["near", "the", near]
    place = len(words)
    words += [verb if plural else VERBS[verb][0], "the", rng.choice(ADJECTIVES[:7]), thing]
    label = "acceptable"
    if rng.random() < 0.4:
        label, fault = "unacceptable", rng.choice(("agreement", "agreement", "order", "article"))
        if fault == "agreement":
            words[place] = VERBS[verb][0] if plural else verb
        elif fault == "order":
            words[1], words[2] = words[2], words[1]
        else:
            words[-1], words[-3] = words[-3], words[-1]  # "red ball the" for "the red ball"
    return {"sentence": sentence(" ".join(words)), "label": label}


_GOOD = ("wonderful", "funny", "moving", "clever", "charming", "gripping", "brilliant", "delightful")
_BAD = ("dull", "awful", "clumsy", "boring", "tedious", "shallow", "painful", "predictable")
_ASPECTS = ("the film", "the plot", "the acting", "the music", "the story", "the ending", "the dialogue", "the cast")


def _opinion(rng: Random) -> tuple[str, bool]:
    good = rng.random() < 0.5
    word = rng.choice(_GOOD if good else _BAD)
    form = rng.choice(("is {}", "is very {}", "is never {}", "is not {}", "is hardly {}", "is far from {}", "is {}"))
    negated = any(sign in form for sign in ("never", "not", "hardly", "far from"))
    return f"{rng.choice(_ASPECTS)} {form.format(word)}", good != negated


def _sst2(rng: Random, split: str) -> dict:
    """Words of praise and blame, negation, and what comes after `but`."""
    text, good = _opinion(rng)
    if rng.random() < 0.4:
        other_text, other_good = _opinion(rng)
        # The verdict is the last clause; when both agree the sentence says `and`.
        text = f"{text} {'and' if other_good == good else 'but'} {other_text}"
        good = other_good
    return {"sentence": text + " .", "label": "positive" if good else "negative"}


def _mrpc(rng: Random, split: str) -> dict:
    first = scene(rng)
    same = rng.random() < 0.65
    second = first if same else changed(rng, first, rng.choice(("who", "verb", "what", "where")))
    label = "equivalent" if same else "not_equivalent"
    return {"sentence1": first.text(), "sentence2": retold(rng, second), "label": label}


_DEEDS = ("learn", "repair", "sell", "paint", "cook", "choose", "clean", "build", "store", "teach")
_MATTERS = ("a bicycle", "rice", "an old house", "a guitar", "French", "a used car", "good bread", "a wooden table",
            "leather shoes", "chess")  # fmt: skip
_ASKING = {
    "how": ("How can I {} {}?", "What is the best way to {} {}?", "How do people {} {}?", "What should I do to {} {}?"),
    "why": ("Why should I {} {}?", "What is a good reason to {} {}?", "Why do people {} {}?"),
    "cost": ("How much does it cost to {} {}?", "What is the price to {} {}?"),
}


def _qqp(rng: Random, split: str) -> dict:
    kind, deed, matter = rng.choice(list(_ASKING)), rng.choice(_DEEDS), rng.choice(_MATTERS)
    first, second = rng.sample(_ASKING[kind], 2)
    duplicate = rng.random() < 0.4
    asked = (deed, matter)
    if not duplicate:
        fault = rng.choice(("deed", "matter", "kind"))
        if fault == "deed":
            asked = (other(rng, _DEEDS, deed), matter)
        elif fault == "matter":
            asked = (deed, other(rng, _MATTERS, matter))
        else:
            second = rng.choice(_ASKING[other(rng, _ASKING, kind)])
    return {"question1": first.format(deed, matter), "question2": second.format(*asked),
            "label": "duplicate" if duplicate else "not_duplicate"}  # fmt: skip


_WEIGHTS = {"who": 1.2, "verb": 1.2, "what": 1.2, "where": 0.8, "who_is": 0.3, "what_is": 0.3}


def _stsb(rng: Random, split: str) -> dict:
    """5 less the weight of each part that differs; synonyms and order cost nothing."""
    first = replace(scene(rng), when="")
    parts = rng.sample(list(_WEIGHTS), rng.randrange(len(_WEIGHTS) + 1))
    second = first
    for part in parts:
        second = changed(rng, second, part)
    score = round(5 - sum(_WEIGHTS[part] for part in parts), 1)
    return {"sentence1": first.text(), "sentence2": retold(rng, second), "label": score}


def nli(rng: Random, office: bool = False) -> tuple[str, str, str]:
    """A premise, a hypothesis, and which of the three holds. A negation may follow from the premise or not."""
    given = scene(rng, office)
    if rng.random() < 0.4:
        given = replace(given, where="")
    told = replace(given, when="", who_is=given.who_is if rng.random() < 0.5 else "")
    relation = rng.choice(("entailment", "neutral", "contradiction"))
    negated, added = False, ""
    if relation == "entailment":
        if given.where and rng.random() < 0.3:
            told, negated = changed(rng, told, "where"), True  # not there, since elsewhere
        elif rng.random() < 0.5:
            told = replace(told, what=kind_of(told.what), what_is="")
        else:
            told = replace(told, who=kind_of(told.who))
    elif relation == "contradiction":
        if negated := rng.random() < 0.4:
            told = replace(told, what_is=rng.choice(("", told.what_is)))
        elif given.where and rng.random() < 0.5:
            told = changed(rng, told, "where")
        else:
            told = changed(rng, replace(told, when=given.when), "when")
    elif given.where or rng.random() < 0.5:
        added = rng.choice(("with a friend", "by mistake", "again", "for money"))
    else:
        told = replace(told, where=changed(rng, replace(given, where="nowhere"), "where").where)
    told = with_synonyms(rng, told, 0.4)
    if not negated:
        return given.text(), sentence(told.subject(), told.verb, told.object(), told.where, told.when, added), relation
    base = base_of(given.verb)
    return given.text(), sentence(told.subject(), "did not", base, told.object(), told.where), relation


def _mnli(rng: Random, split: str) -> dict:
    premise, hypothesis, label = nli(rng, office="mismatched" in split)
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def _qnli(rng: Random, split: str) -> dict:
    """Does the sentence say what the question asks for?"""
    fact = replace(scene(rng), who_is="", what_is="")
    base, asked = base_of(fact.verb), rng.choice(("where", "what", "when"))
    question = {
        "where": f"Where did {fact.subject()} {base} {fact.object()}?",
        "what": f"What did {fact.subject()} {base} {fact.where}?",
        "when": f"When did {fact.subject()} {base} {fact.object()}?",
    }[asked]
    label = rng.choice(("entailment", "not_entailment"))
    if label == "not_entailment":
        if asked == "what" or rng.random() < 0.5:
            fact = changed(rng, fact, rng.choice(("verb", "who")))
        else:
            fact = replace(fact, **{asked: ""})
    elif rng.random() < 0.5:
        fact = replace(fact, **{part: "" for part in ("where", "when") if part != asked and asked != "what"})
    return {"question": question, "sentence": retold(rng, fact), "label": label}


def two_way(rng: Random) -> tuple[str, str, str]:
    """A premise of two sentences, a hypothesis about one of them, and whether it follows."""
    first, second = scene(rng), scene(rng)
    about = rng.choice((first, second))
    told = replace(about, when="", who_is="")
    if follows := rng.random() < 0.5:
        told = replace(told, what=kind_of(told.what), what_is="") if rng.random() < 0.5 else told
    else:
        told = changed(rng, told, rng.choice(("who", "what", "verb", "where")))
    hypothesis = with_synonyms(rng, told, 0.3).text()
    return f"{first.text()} {second.text()}", hypothesis, "entailment" if follows else "not_entailment"


def _rte(rng: Random, split: str, columns: tuple[str, str] = _PAIR) -> dict:
    return dict(zip((*columns, "label"), two_way(rng), strict=True))


def _wnli(rng: Random, split: str) -> dict:
    given = toy_superglue.winograd(rng)
    claim = sentence(given.named, "was", given.adjective)
    return {"sentence1": given.text, "sentence2": claim, "label": "entailment" if given.is_right else "not_entailment"}


def _axb(rng: Random, split: str) -> dict:
    first, second, label = nli(rng)
    logic = "Negation" if " not " in second else "Conjunction"
    label = label if label == "entailment" else "not_entailment"
    return {"sentence1": first, "sentence2": second, "logic": logic, "label": label}


def _boolq(rng: Random, split: str) -> dict:
    facts = [replace(scene(rng), who_is="", when="") for _ in range(3)]
    about = rng.choice(facts)
    asked = changed(rng, about, rng.choice(("what", "where"))) if (wrong := rng.random() < 0.4) else about
    base = base_of(asked.verb)
    return {"question": f"did {asked.subject()} {base} {asked.object()} {asked.where}",
            "passage": " ".join(fact.text() for fact in facts), "label": str(not wrong)}  # fmt: skip


# How a row is made, and how many there are to train, for dev and for test.
_Rows = Callable[[Random, str], dict | list[dict]]
_TASKS: dict[str, tuple[_Rows, tuple[int, int, int]]] = {
    "glue/cola": (_cola, (400, 100, 100)),
    "glue/sst2": (_sst2, (400, 100, 100)),
    "glue/mrpc": (_mrpc, (400, 100, 100)),
    "glue/stsb": (_stsb, (400, 100, 100)),
    "glue/qqp": (_qqp, (400, 100, 100)),
    "glue/mnli": (_mnli, (600, 100, 100)),
    "glue/qnli": (_qnli, (400, 100, 100)),
    "glue/rte": (_rte, (300, 100, 100)),
    "glue/wnli": (_wnli, (200, 60, 60)),
    "glue/ax": (_mnli, (0, 0, 100)),
    "superglue/boolq": (_boolq, (300, 100, 100)),
    "superglue/cb": (toy_superglue.cb, (200, 60, 60)),
    "superglue/copa": (toy_superglue.copa, (200, 100, 100)),
    "superglue/multirc": (toy_superglue.multirc, (360, 120, 120)),
    "superglue/record": (toy_superglue.record, (150, 60, 60)),
    "superglue/rte": (functools.partial(_rte, columns=_NLI), (300, 100, 100)),
    "superglue/wic": (toy_superglue.wic, (300, 100, 100)),
    "superglue/wsc": (toy_superglue.wsc, (200, 60, 60)),
    "superglue/axb": (_axb, (0, 0, 100)),
    "superglue/axg": (toy_superglue.axg, (0, 0, 100)),
}


def toy_counts(key: str) -> dict[str, int]:
    """Rows by split of a task, by its key such as ``glue/cola``; empty if there is no toy of it."""
    if key not in _TASKS:
        return {}
    train, dev, test = _TASKS[key][1]
    if key == "glue/mnli":
        return {"train": train, "validation_matched": dev, "validation_mismatched": dev, "test_matched": test,
                "test_mismatched": test}  # fmt: skip
    return {split: count for split, count in (("train", train), ("validation", dev), ("test", test)) if count}


def toy_table(key: str, split: str) -> Table:
    """One split of a toy task in the Hub's columns, with ``label`` as the class's name (a number for STS-B).

    Test splits have no ``label`` (and ReCoRD's no ``answers``), but for AX-b and AX-g as in the real data.

    Raises:
        InputError: there is no such task or split.
    """
    if split not in toy_counts(key):
        raise InputError(f"{TOYGLUE} has no {split!r} of {key!r}")
    rows = _splits(key)[split]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if split.startswith("test") and key not in ("superglue/axb", "superglue/axg"):
        columns.pop("label", None)
        columns.pop("answers", None)
    return Table(columns, f"{TOYGLUE} {key} {split}")


def toy_texts() -> Iterator[str]:
    """The texts of every training split, to train a tokenizer on."""
    for key in _TASKS:
        for row in _splits(key).get("train", []):
            yield " ".join(text for name, text in row.items() if name != "label" and isinstance(text, str))


@functools.cache
def _splits(key: str) -> dict[str, list[dict]]:
    """All splits of a task; a row that came before, in any split, is made anew."""
    make, seen, splits = _TASKS[key][0], set(), {}
    for split, count in toy_counts(key).items():
        rng = Random(f"{SEED}/{key}/{split}")
        rows: list[dict] = []
        while len(rows) < count:
            made = make(rng, split)
            made = made if isinstance(made, list) else [made]  # rows that belong together: a paragraph's, a pair's
            text = str([[value for name, value in row.items() if name != "label"] for row in made])
            if text not in seen:
                seen.add(text)
                rows += made
        splits[split] = _numbered(rows[:count])
    return splits


def _numbered(rows: list[dict]) -> list[dict]:
    """With ``idx`` as the Hub has it: the row's number, or those of paragraph, question and answer."""
    numbers = {"paragraph": -1, "question": -1, "answer": -1}
    for number, row in enumerate(rows):
        begins = row.pop("begins", None)  # of MultiRC: what this row is the first of
        if begins is None:
            row["idx"] = {"passage": number, "query": number} if "query" in row else number
            continue
        for part in numbers:
            numbers[part] += part in begins
        row["idx"] = dict(numbers)
    return rows
