import dataclasses
import random

from hfssl.evaluation.contamination import FEWEST, WORDS, find_overlap
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import TASKS


def split_of(sentences, second=None):
    data = load_split(TASKS["glue/rte" if second else "glue/cola"], "validation", "builtin:toyglue")
    texts = (sentences, second) if second else (sentences,)
    return dataclasses.replace(data, texts=texts, labels=data.labels[: len(sentences)])


def words(count, prefix="w"):
    return " ".join(f"{prefix}{number}" for number in range(count))


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none():
    rows = [words(20, "a"), words(20, "b"), words(20, "c"), words(9, "d"), words(7, "e"), words(9, "f")]
    corpus = [
        "x " + " ".join(words(20, "a").split()[3:16]) + " y",  # 13 of them
        "x " + " ".join(words(20, "b").split()[3:15]) + " y",  # 12
        words(9, "d").upper().replace(" ", ", ") + "!",  # a whole short text, written otherwise
        words(7, "e"),  # too short to judge
        " ".join(words(9, "f").split()[:8]),  # a part of a short text
    ]
    found = find_overlap(corpus, {"dev": split_of(rows)})["dev"]
    assert found.seen == (0, 3) and (found.rows, found.judged) == (6, 5)


def test_any_text_of_a_row_counts_and_documents_are_not_joined():
    split = split_of([words(9, "a"), words(9, "b")], [words(20, "c"), words(20, "d")])
    half = words(20, "c").split()
    assert find_overlap([" ".join(half[:10]), " ".join(half[10:])], {"dev": split})["dev"].seen == ()
    assert find_overlap([" ".join(half)], {"dev": split})["dev"].seen == (0,)
    assert find_overlap([words(9, "b")], {"dev": split, "other": split})["other"].seen == (1,)


def test_against_a_search_for_substrings():
    """Random text of few words, in which short sequences often come twice."""
    generator = random.Random(0)

    def text(length):
        return " ".join(generator.choice("ab") for _ in range(length))

    rows = [text(generator.randrange(4, 18)) for _ in range(60)]
    corpus = [text(60) for _ in range(15)]

    def seen(row):
        parts = row.split()
        length = min(WORDS, len(parts))
        if length < FEWEST:
            return False
        wanted = [" ".join(parts[start : start + length]) for start in range(len(parts) - length + 1)]
        return any(f" {sequence} " in f" {document} " for document in corpus for sequence in wanted)

    found = find_overlap(corpus, {"dev": split_of(rows)})["dev"]
    assert found.seen == tuple(row for row, sentence in enumerate(rows) if seen(sentence)) and 5 < len(found.seen) < 55
