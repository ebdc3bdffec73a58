"""The averages against published rows: what a board printed comes out of the rule, and other rules do not give it."""

import json
from pathlib import Path

import pytest

import hfssl.evaluation.averages as averages
from hfssl.evaluation.averages import AVERAGES, suite_average, suite_averages
from hfssl.evaluation.tasks import suite_tasks

PUBLISHED = Path(averages.__file__).parent / "published"


def rows(name):
    data = json.loads((PUBLISHED / f"{name}.json").read_text())
    return [pytest.param(data["average"], row, id=row["name"]) for row in data["rows"] if "scores" in row]


def with_score(name):
    return [case for case in rows(name) if "score" in case.values[1]]


@pytest.mark.parametrize(("average", "row"), [*with_score("glue_test"), *with_score("superglue_test")])
def test_a_published_score_is_the_average_of_its_row(average, row):
    """Boards round each cell and the score to one decimal, so an average of cells may be 0.1 off (and once was)."""
    found = suite_average(average, row["scores"])
    assert found.missing == () and abs(found.value - row["score"]) <= 0.1001


def test_there_are_the_rows_of_the_reference():
    assert len(with_score("glue_test")) == 15 and len(with_score("superglue_test")) == 14
    lecture = [row["name"] for row in json.loads((PUBLISHED / "glue_test.json").read_text())["rows"] if row["lecture"]]
    assert len(lecture) == 9 and lecture[-1] == "GLUE Human Baselines"
    lecture = json.loads((PUBLISHED / "superglue_test.json").read_text())["rows"]
    assert len([row for row in lecture if row["lecture"]]) == 5


SMALL = {
    "BERT-Tiny": (64.2, 64.14, 64.76, 64.4),
    "BERT-Mini": (65.8, 65.76, 66.64, 66.2),
    "BERT-Small": (71.2, 71.17, 71.79, 72.3),
    "BERT-Medium": (73.5, 73.51, 74.12, 74.9),
}


@pytest.mark.parametrize("name", SMALL)
def test_only_the_official_rule_gives_the_small_berts_scores(name):
    """Pitfalls 12 and 13: counting diagnostics, counting each metric, or MNLI's sets apart gives another number."""
    row = next(case.values[1] for case in rows("glue_test") if case.values[1]["name"] == name)
    published, official, apart, without_wnli = SMALL[name]
    scores = row["scores"]
    value = suite_average("official-9", scores).value
    assert round(value, 2) == official and abs(value - published) < 0.07
    tasks = {task: sum(cells.values()) / len(cells) for task, cells in scores.items()}
    diagnostic = tasks.pop("ax")
    assert value == pytest.approx(sum(tasks.values()) / 9)
    rivals = {
        "with AX": (sum(tasks.values()) + diagnostic) / 10,
        "MNLI apart": (sum(tasks.values()) - tasks["mnli"] + sum(scores["mnli"].values())) / 10,
        "without WNLI": suite_average("dev-8-official", scores).value,
    }
    cells = [value for task, row in scores.items() if task != "ax" for value in row.values()]
    rivals["every metric"] = sum(cells) / len(cells)
    assert rivals["MNLI apart"] == pytest.approx(apart, abs=0.01)
    assert rivals["without WNLI"] == pytest.approx(without_wnli, abs=0.06)
    assert all(abs(rival - published) > 0.15 for rival in rivals.values())


# google-research/albert, fairseq and google-research/electra print no average; these are the eight cells' mean.
DEV = {
    "BERT-large": 84.05, "XLNet-large": 87.44, "RoBERTa-base": 86.35, "RoBERTa-large": 88.93,
    "ALBERT-xxlarge 1.5M": 89.96,
    "ELECTRA-small": 81.14, "ELECTRA-base": 87.46, "ELECTRA-large": 89.46, "DeBERTa-v3-large": 91.36,
}  # fmt: skip


@pytest.mark.parametrize("name", DEV)
def test_the_dev_average_of_papers(name):
    average, row = next(case.values for case in rows("glue_dev") if case.values[1]["name"] == name)
    found = suite_average(average, row["scores"])
    assert found.name == "dev-8-roberta" and found.value == pytest.approx(DEV[name], abs=0.006)
    assert suite_average("dev-8-official", row["scores"]).missing  # one number of a task with two is not enough


def test_the_three_averages_of_one_dev_row_differ():
    _, row = next(case.values for case in rows("glue_dev") if case.values[1]["name"].startswith("BERT-base-cased"))
    found = {name: average.value for name, average in suite_averages("glue", row["scores"]).items()}
    assert {name: round(value, 2) for name, value in found.items()} == {
        "official-9": 78.85, "dev-8-official": 81.67, "dev-8-roberta": 81.57,
    }  # fmt: skip


def test_superglues_average_of_t5x():
    row = next(case.values[1] for case in rows("superglue_dev") if "T5" in case.values[1]["name"])
    assert round(suite_average("superglue-8", row["scores"]).value, 2) == row["score"] == 69.47


def test_a_part_of_a_suite_has_no_average():
    found = suite_average("official-9", {"cola": {"matthews_correlation": 50.0}, "mnli": {"accuracy_m": 80.0}})
    assert found.value is None and "mnli" in found.missing and "cola" not in found.missing and len(found.missing) == 8


def test_diagnostics_are_in_no_average():
    for average in AVERAGES.values():
        names = [task.name for task in average.tasks()]
        assert len(names) == int("".join(filter(str.isdigit, average.name))) and not {"ax", "axb", "axg"} & set(names)
        assert set(names) <= set(suite_tasks(average.suite))
