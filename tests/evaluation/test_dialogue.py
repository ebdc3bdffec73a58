"""Counts of replies by hand, distractors, and hits at one."""

import numpy as np
import pytest

from hfssl.evaluation.dialogue import (
    conversations,
    distinct,
    draw_candidates,
    hits_at_1,
    is_generic,
    tfidf_scores,
    variety,
)


def test_distinct_by_hand():
    texts = ["I like the dog.", "I like the cat", "No"]
    assert distinct(texts, 1) == pytest.approx(6 / 9)  # i like the dog cat no, of 4 + 4 + 1
    assert distinct(texts, 2) == pytest.approx(4 / 6)  # no pair in the last
    assert distinct(["a"], 2) is None
    same = variety(["Yes!", "yes", "The dog ran home"])
    assert same["generic"] == pytest.approx(2 / 3) == same["top reply"] and same["words"] == 2


@pytest.mark.parametrize(
    ("reply", "generic"),
    [
        ("I don’t know.", True),
        ("Well, I do not know", True),
        ("I don't know who painted the red door in the garden", False),
        ("OK!", True),
        ("", True),
        ("The okay one", False),
        ("That's interesting!", True),
        ("At the station.", False),
    ],
)
def test_generic_replies(reply, generic):
    assert is_generic(reply) == generic


def rows():
    return [
        {"context": ["Hi", f"what about {word}?"], "response": f"{word} is {number}", "conversation": number}
        for number, word in enumerate(("dogs", "cats", "boats", "trees", "lamps"))
        for _ in range(3)
    ]


def test_a_conversation_goes_on_with_what_was_said():
    first, second = ["Hi", "Hello", "Bye", "So long"], ["Hi", "Go away"]
    parts = [
        {"context": turns[:at], "response": turns[at]}
        for turns in (first, second, second)
        for at in range(1, len(turns))
    ]
    assert conversations(parts) == [0, 0, 0, 1, 2] and conversations([]) == []


def test_distractors_are_other_texts_of_other_conversations():
    found = draw_candidates(rows(), rows(), count=5, seed=1)
    for row, texts in zip(rows(), found, strict=True):
        assert texts[0] == row["response"] and len(set(texts)) == 5
    assert found == draw_candidates(rows(), rows(), count=5, seed=1) != draw_candidates(rows(), rows(), count=5, seed=2)
    with pytest.raises(ValueError, match="no 5 different responses"):
        draw_candidates(rows(), rows(), count=6)


def test_hits_count_ties_by_their_share():
    scores = np.array([[3, 1, 2], [1, 2, 0], [2, 2, 1], [0, 0, 0]])
    assert hits_at_1(scores).tolist() == [1, 0, 1 / 2, 1 / 3]
    uniform = np.random.default_rng(0).random((4000, 20))
    assert hits_at_1(uniform).mean() == pytest.approx(0.05, abs=0.01)


def test_words_in_common_find_the_response():
    candidates = draw_candidates(rows(), rows(), count=4, seed=0)
    assert hits_at_1(tfidf_scores(rows(), candidates)).mean() == 1
