"""The result file: what is written comes back, and what is not consistent is refused with its place."""

import json
import statistics

import pytest

from hfssl.errors import InputError
from hfssl.evaluation.results import ModelResult, TaskResult, find_results, read_result, write_result
from hfssl.evaluation.tasks import suite_tasks


def task_result(task, base=80.0, seeds=(0, 1, 2), **more):
    values = {name: [base + seed + place for seed in seeds] for place, name in enumerate(task.score_names)}
    rows = {split: task.counts[split] for split in task.scored_splits}
    return TaskResult(scores=values, seeds=list(seeds), rows=rows, **more)


def model_result(suite="glue", names=None, **more):
    tasks = {name: task for name, task in suite_tasks(suite).items() if names is None or name in names}
    settings = {"model": "out/bert", "suite": suite, "part": "dev", "protocol": "as in the test"} | more
    return ModelResult(tasks={name: task_result(task) for name, task in tasks.items()}, **settings)


def test_what_is_written_comes_back(tmp_path):
    result = model_result(versions={"hfssl": "0"}, cost={"seconds": 3.5})
    result.tasks["rte"].started_from = "mnli"
    result.tasks["cola"].intervals = {"score": [70.0, 90.0]}
    path = write_result(result, tmp_path / "deep" / "result.json")
    assert read_result(path) == result and [file.name for file in path.parent.iterdir()] == ["result.json"]
    assert find_results([path, path.parent]) == [result, result]


def test_the_averages_are_written_under_their_names(tmp_path):
    """Which average it is always stands beside its value; a part of the suite has none but says what is missing."""
    whole = json.loads(write_result(model_result(), tmp_path / "a.json").read_text())
    assert set(whole["averages"]) == {"official-9", "dev-8-official", "dev-8-roberta"}
    median = statistics.median([80, 81, 82])
    assert whole["averages"]["official-9"]["value"] == pytest.approx(median + 4 * 0.5 / 9)  # four tasks have two scores
    part = json.loads(write_result(model_result(names=("cola", "mnli")), tmp_path / "b.json").read_text())
    assert part["averages"]["official-9"] == {
        "value": None, "missing": ["sst2", "mrpc", "stsb", "qqp", "qnli", "rte", "wnli"],
    }  # fmt: skip


def test_median_and_spread_over_seeds():
    task = suite_tasks("glue")["cola"]
    result = TaskResult({"matthews_correlation": [50.0, 60.0, 10.0]}, [1, 2, 3], {"validation": 1043})
    assert result.median() == {"matthews_correlation": 50.0}
    assert result.spread()["matthews_correlation"] == pytest.approx(statistics.stdev([50, 60, 10]))
    assert task_result(task, seeds=(0,)).spread() == {"matthews_correlation": 0.0}
    assert model_result("superglue").task_scores()["cb"] == pytest.approx(81.5)


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def of_task(name, **values):
    """Puts values into a task of the file."""
    return lambda content: content["tasks"][name].update(values)


FAULTS = {
    "another format": (lambda c: c.update(format="x"), "no result of hfssl glue"),
    "a later format": (lambda c: c.update(format_version=2), "format version 2; this hfssl reads 1"),
    "an unknown key": (lambda c: c.update(modle="x"), "unknown key 'modle'; did you mean 'model'?"),
    "a missing key": (lambda c: c.pop("protocol"), "'protocol'"),
    "no tasks": (lambda c: c.update(tasks={}), "'tasks' holds no task"),
    "an unknown suite": (lambda c: c.update(suite="clue"), "unknown suite 'clue'"),
    "an unknown task": (lambda c: c["tasks"].update(coal=c["tasks"].pop("cola")), "no task 'coal'; did you mean"),
    "neither dev nor test": (lambda c: c.update(part="validation"), "part is 'validation'; one of dev, test"),
    "one of MNLI's sets": (of_task("mnli", scores={"accuracy_m": [80.0]}), "mnli: the scores must be accuracy_m, acc"),
    "another metric": (of_task("mrpc", scores={"accuracy": [1.0]}), "mrpc: the scores must be f1, accuracy, not"),
    "a seed without a score": (of_task("rte", seeds=[1, 2, 3, 4]), "rte: accuracy needs one value for each of 4 seeds"),
    "no seeds": (of_task("rte", seeds=[]), "rte: no seeds"),
    "not a number": (of_task("rte", scores={"accuracy": ["a", 1, 2]}), "scores are numbers from -100 to 100"),
    "over 100": (of_task("rte", scores={"accuracy": [101, 80, 80]}), "scores are numbers from -100 to 100"),
    "a fraction": (of_task("rte", scores={"accuracy": [0.8, 0.8, 0.8]}), "a fraction of 1?"),
    "an interval": (of_task("rte", intervals={"score": [1]}), "the interval of 'score' is not"),
    "an interval that is a number": (of_task("rte", intervals={"score": 1}), "the interval of 'score' is not"),
    "intervals that are a list": (of_task("rte", intervals=[1]), "rte: 'intervals' must be a JSON object"),
    "flags that are a number": (of_task("rte", flags=5), "rte: 'flags' must be a JSON list"),
    "an unknown key of a task": (of_task("rte", seedz=[]), "rte: unknown key 'seedz'"),
    "a task that is a list": (lambda c: c["tasks"].update(rte=[]), "rte: a JSON list, not an object"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_inconsistent_file_is_refused(case, tmp_path):
    change, says = FAULTS[case]
    path = write_result(model_result(), tmp_path / "r.json")
    changed(path, change)
    with pytest.raises(InputError) as refused:
        read_result(path)
    assert says in str(refused.value) and "r.json" in str(refused.value)


def test_an_inconsistent_result_is_not_written(tmp_path):
    """Pitfall 14: of MNLI both sets are kept; run_glue_no_trainer keeps the second only."""
    result = model_result()
    del result.tasks["mnli"].scores["accuracy_m"]
    with pytest.raises(InputError, match="mnli: the scores must be accuracy_m, accuracy_mm, not accuracy_mm"):
        write_result(result, tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_results_says_what_it_holds(tmp_path):
    (tmp_path / "log.json").write_text("{}")
    with pytest.raises(InputError, match=r"no result in .*; it holds log.json"):
        find_results([tmp_path])
    with pytest.raises(InputError, match=r"no such file or folder"):
        find_results([tmp_path / "no"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad.json is no JSON file"):
        find_results([tmp_path / "bad.json"])
