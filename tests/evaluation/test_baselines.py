"""Rows as texts, and the two baselines that need no pretraining."""

import dataclasses

import pytest

from hfssl.data.toyglue import TOYGLUE
from hfssl.errors import InputError
from hfssl.evaluation.baselines import most_frequent, tfidf
from hfssl.evaluation.rendering import best_candidates, candidate_rows, pair_texts
from hfssl.evaluation.scoring import score_split
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import TASKS


def toy(key, split="train"):
    return load_split(TASKS[key], split, TOYGLUE)


def test_copas_choices_are_scored_behind_the_premise_and_its_question():
    data = toy("superglue/copa")
    rows = candidate_rows(data)
    assert len(rows.first) == 2 * len(data) and rows.row[:4] == [0, 0, 1, 1] and sum(rows.right) == len(data)
    assert rows.first[0] == f"{data.texts[0][0]} What was the cause of this?" and data.texts[1][0] == "cause"
    assert tuple(rows.second[:2]) == data.candidates[0]
    assert best_candidates(data, rows, rows.right) == data.labels
    assert best_candidates(data, rows, [0.0] * len(rows.row)) == ["choice1"] * len(data), "of equals the first"


def test_records_names_are_scored_in_the_place_of_the_gap():
    data = toy("superglue/record")
    rows = candidate_rows(data)
    assert (
        rows.second[0] == data.texts[1][0].replace("@placeholder", data.candidates[0][0]) and "@" not in rows.second[0]
    )
    assert score_split(data, best_candidates(data, rows, rows.right)).values == {"token_f1": 1.0, "token_em": 1.0}
    assert candidate_rows(toy("superglue/record", "test")).right is None
    with pytest.raises(InputError, match="ReCoRD is scored candidate by candidate"):
        pair_texts(data)


def test_other_rows_are_one_text_or_two():
    assert pair_texts(toy("glue/cola"))[1] is None
    data = toy("superglue/multirc")
    first, second = pair_texts(data)
    assert first[0] == data.texts[0][0] and second[0] == f"{data.texts[1][0]} {data.texts[2][0]}"
    first, second = pair_texts(toy("superglue/wsc"))
    assert second[0].endswith(" he") and second[0].removesuffix(" he") in first[0]


def test_the_most_frequent_class_of_train():
    data = toy("glue/cola", "validation")
    assert most_frequent(toy("glue/cola"))(data) == ["acceptable"] * len(data)
    mean = sum(toy("glue/stsb").labels) / 400
    assert most_frequent(toy("glue/stsb"))(toy("glue/stsb", "test"))[:2] == pytest.approx([mean, mean])
    data = dataclasses.replace(toy("superglue/record", "test"))
    data.texts[0][0] = "Leo saw Anna. Leo left."
    data.candidates[0] = ("Anna", "Leo")
    assert most_frequent(toy("superglue/record"))(data)[0] == "Leo"


@pytest.mark.parametrize("key", ["glue/cola", "glue/sst2", "glue/stsb", "superglue/multirc", "superglue/copa"])
def test_a_bag_of_words_is_better_than_the_most_frequent_class_and_not_perfect(key):
    """The toy tasks can be learned but are not given away."""
    data = toy(key, "validation")
    floor = score_split(data, most_frequent(toy(key))(data)).values
    found = score_split(data, tfidf(toy(key))(data)).values
    name = TASKS[key].headline
    assert floor[name] + 0.04 < found[name] < 0.97


def test_it_is_the_same_with_the_same_seed_and_takes_a_part_of_a_large_train():
    train, data = toy("glue/mnli"), toy("glue/mnli", "test_matched")
    assert tfidf(train, seed=3)(data) == tfidf(train, seed=3)(data)
    assert tfidf(train, max_rows=50)(data) != tfidf(train)(data)


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(InputError, match="CoLA test has no labels: a baseline learns from the training split"):
        tfidf(toy("glue/cola", "test"))
    train = toy("glue/cola")
    same = train.select([row for row, label in enumerate(train.labels) if label == "acceptable"], "one class")
    with pytest.raises(InputError, match="every training row has the same label"):
        tfidf(same)
    with pytest.raises(InputError, match="has 1 rows: too few"):
        most_frequent(train.select([0], "one"))
