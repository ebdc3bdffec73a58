"""The report and `hfssl compare`, on results that are put together without training."""

import functools
import json
import re

import numpy as np
import pytest

from hfssl.errors import InputError
from hfssl.evaluation.contamination import Overlap
from hfssl.evaluation.results import ModelResult, write_result
from hfssl.evaluation.task_data import load_split, load_task
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import outcome
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.comparison import _differences, compare_folders, comparison_table
from hfssl.finetuning.loop import confidence, decode
from hfssl.finetuning.outcome import TaskRuns, collect, make_result, write_outcome
from hfssl.finetuning.report import row_errors, rows_by_length, write_report
from hfssl.finetuning.runs import read_logits
from hfssl.finetuning.suite import Suite

TOY = "builtin:toyglue"


@pytest.fixture(scope="module")
def made(tmp_path_factory, bert_folder):
    """Two models' results on the same tasks: the second answers at random more often."""
    found = {}
    for name, noise, seeds in (("good", 0.1, 2), ("bad", 0.5, 3)):
        out = tmp_path_factory.mktemp("results") / name
        args = SuiteArguments(str(bert_folder), str(out), "cola,rte,stsb,mnli,wnli", TOY, seeds=seeds, wnli="majority")
        suite = Suite("glue", args, LoopArguments(recipe="scratch"))
        suite.ledger.run = functools.partial(without_training, suite, noise)
        runs = {}
        for task in suite.trained:
            jobs = [suite._job(task, seed, 0, suite.recipe.settings(task), ("", "", "")) for seed in range(seeds)]
            records = suite._execute_all(jobs)
            runs[task.name] = [(job, records[job.name]) for job in jobs]
        tasks = collect(suite, runs)
        result = make_result(suite, tasks)
        write_outcome(suite, tasks, result)
        found[name] = (out, suite, tasks, result)
    return found


def without_training(suite, noise, jobs, execute):
    return {name: planted(job, suite, noise, suite.out) for name, job in jobs.items()}


def planted(job, suite, noise, out):
    """Logits of the truth with some rows at random, written as a job would."""
    from hfssl.finetuning.runs import write_logits

    task, generator = job.task, np.random.default_rng(job.seed)
    logits = {}
    for split, data in suite.data[task.name].items():
        if split == "train":
            continue
        if task.kind == "regression":
            truth = np.array(data.labels or [2.5] * len(data))
            logits[split] = (truth + generator.normal(0, 5 * noise, len(data)))[:, None]
            continue
        truth = np.array([task.labels.index(label) for label in data.labels or [task.labels[0]] * len(data)])
        said = np.where(
            generator.random(len(data)) < noise, generator.integers(len(task.labels), size=len(data)), truth
        )
        logits[split] = 3 * np.eye(len(task.labels))[said] + generator.normal(0, 0.1, (len(data), len(task.labels)))
    if task.name == "mnli":
        logits["ax.test"] = generator.normal(size=(len(suite.data["ax"]["test"]), 3))
    write_logits(out / "jobs" / job.name, {name: part.astype(np.float32) for name, part in logits.items()})
    return {
        "score": 1 - noise + 0.01 * job.seed, "last_score": 0.5, "head": list(task.labels or ("score",)), "flags": [],
        "settings": {"learning_rate": 1e-3}, "updates": 7, "selection": "best epoch on dev", "tokens": 100,
        "diagnostics": {"ax": suite.data["ax"]["test"].fingerprint()} if task.name == "mnli" else {},
        "train_seconds": 1.0, "seconds": 2.0, "padding_ratio": 1.01, "device": "CPU", "batch_size": 32,
    }  # fmt: skip


def test_compare_finds_what_was_planted_and_says_what_it_cannot_tell(made):
    names, found, notes = compare_folders(made["good"][0], made["bad"][0], permutations=500)
    by_task = {one.task: one for one in found}
    assert set(by_task) == {"CoLA", "RTE", "STS-B", "MNLI", "WNLI"}
    for title in ("CoLA", "MNLI", "STS-B"):
        assert by_task[title].distinguishable and by_task[title].difference > 5
    assert by_task["WNLI"].difference == 0 and not by_task["WNLI"].distinguishable
    assert names == (str(made["good"][0]), str(made["bad"][0]))  # the same model twice: told apart by the folder
    assert "not distinguishable" in by_task["WNLI"].sentence(*names)
    from rich.console import Console

    console = Console(record=True, width=200)
    console.print(comparison_table(("good", "bad"), found, notes))
    shown = console.export_text()
    assert "good is better" in shown and "Holm" in shown and "CoLA: synthetic" in shown
    assert "CoLA: by the first 2 of the seeds, since" in shown and "good minus bad" in shown


def test_compare_says_which_settings_differ():
    one, other = {"updates": 7, "epochs": 3, "jobs": ["a"]}, {"updates": 9, "epochs": 3, "jobs": ["b"]}
    assert _differences(one, other) == "updates 7 and 9" and _differences(one, one) == ""
    one, other = ({"strategy_options": {"smart": {"weight": weight, "steps": 1}}} for weight in (1.0, 3.0))
    apart = "strategy_options smart.weight=1.0 smart.steps=1 and smart.weight=3.0 smart.steps=1"
    assert _differences(one, other) == apart


def test_rows_of_one_length_are_not_parted():
    data = load_split(TASKS["glue/cola"], "validation", TOY)
    wrong = [next(label for label in data.task.labels if label != said) for said in data.labels]
    names, rows = rows_by_length(data, [data.labels, wrong])
    lengths = [len(text.split()) for (text,) in zip(*data.texts, strict=True)]
    assert names == ("words", "rows", "right, %") and sum(count for _, count, _ in rows) == len(data)
    assert [shown for *_, shown in rows] == ["50.0"] * len(rows)
    ends = [int(end) for words, *_ in rows for end in words.split(" to ")]
    assert ends == sorted(ends) and len({words for words, *_ in rows}) == len(rows) == len({*lengths})


def test_compare_refuses_what_does_not_compare(made, tmp_path):
    good = made["good"][0]
    with pytest.raises(InputError, match="no such folder"):
        compare_folders(good, tmp_path / "nowhere")
    with pytest.raises(InputError, match="are one folder"):
        compare_folders(good, f"{good}/.")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no result in"):
        compare_folders(good, tmp_path / "empty")
    other = tmp_path / "other"
    write_result(made["bad"][3], other / "glue_dev.json")
    with pytest.raises(InputError, match="cannot read the dev predictions"):
        compare_folders(good, other)
    for path in (made["bad"][0] / "predictions").glob("*.json"):
        (other / "predictions").mkdir(exist_ok=True)
        (other / "predictions" / path.name).write_text(
            re.sub(r'("validation[^"]*": )"\w+"', r'\1"0"', path.read_text())
        )
    with pytest.raises(InputError, match="was scored on other rows"):
        compare_folders(good, other)
    path = other / "predictions" / "cola.json"
    whole = json.loads(path.read_text())
    for damage in ({"data": None}, {"predictions": {"validation": []}}, {"predictions": {"validation": [3]}}):
        path.write_text(json.dumps(whole | damage))
        with pytest.raises(InputError, match=r"cola.json is damaged: it must hold the predictions of each split"):
            compare_folders(good, other)


def test_labels_that_look_exchanged_on_dev_are_said(toy):
    """Pitfall 3: a head read in another order is plain against the gold labels."""
    task = TASKS["glue/mnli"]
    dev = {split: load_split(task, split, "builtin:toyglue") for split in task.scored_splits}
    turned = dict(zip(task.labels, (*task.labels[1:], task.labels[0]), strict=True))
    for names, said in ((turned, True), ({name: name for name in turned}, False)):
        predictions = {split: [[names[label] for label in data.labels]] for split, data in dev.items()}
        flags = outcome._relabelled(TaskRuns(task, dev, [], predictions))
        assert bool(flags) == said and all("the gold labels agree with 0% of the predictions" in flag for flag in flags)


def test_the_best_seed_on_dev_is_handed_in(made):
    _, suite, tasks, result = made["bad"]
    assert tasks["rte"].best == 2 and len(tasks["rte"].predictions["test"]) == 3
    job, record = tasks["rte"].runs[2]
    logits = read_logits(suite.out, job.name)
    assert tasks["rte"].predictions["test"][2] == decode(suite.data["rte"]["test"], logits["test"], record["head"])
    assert result.tasks["rte"].seeds == [0, 1, 2] and result.cost["jobs"] == 12


def test_the_report_has_every_part_and_escapes_what_comes_from_data(made, tmp_path):
    _, _, tasks, result = made["bad"]
    data = tasks["rte"].splits["validation"]
    row = int(np.flatnonzero(row_errors(data, tasks["rte"].predictions["validation"][2]))[0])
    before = data.texts[0][row]
    data.texts[0][row] = "<script>alert('x')</script>"
    tasks["rte"].confidences["validation"][row] = 1.0  # the worst error of all
    renamed = ModelResult(**{**vars(result), "model": "<b>model</b>"})
    phenomena = [{"category": "Logic", "tag": "Negation", "rows": 82, "score": 0.25}]
    try:
        write_report(tmp_path / "report.html", renamed, tasks, phenomena,
                     {"cola validation": Overlap(100, 40, (1, 5, 7))}, "corpus.txt")  # fmt: skip
    finally:
        data.texts[0][row] = before
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert" in page and "<script" not in page and "<b>" not in page
    assert "&lt;b&gt;model&lt;/b&gt;" in page and 'src="data:image/png;base64,' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for part in ("95 % interval", "AX by phenomenon", "Negation", "seeds disagree on", "worst errors", "by length",
                 "rows by truth", "Cost", "glue_dev.json", ">learning rate</th>", "0.001", "last epoch score",
                 "hfssl glue ", TOY, "corpus.txt", "synthetic", "majority", "official-9: cannot be"):  # fmt: skip
        assert part in page, part
    counts = [
        float(cell) for cell in re.findall(r">(\d+\.?\d*)</td>", page.split("<h2>CoLA</h2>")[1].split("</table>")[0])
    ]
    assert sum(counts) == pytest.approx(100, abs=0.2)  # the confusion matrix holds every row


def test_confidence_is_the_predictions_share(toy):
    copa = toy("superglue/copa")[1]["validation"]
    logits = np.random.default_rng(0).normal(size=(2 * len(copa), 1)).astype(np.float32)
    first, second = np.exp(logits[::2, 0]), np.exp(logits[1::2, 0])
    assert np.allclose(confidence(copa, logits), np.maximum(first, second) / (first + second), rtol=1e-5)
    rte = toy("glue/rte")[1]["validation"]
    logits = np.random.default_rng(0).normal(size=(len(rte), 2))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(confidence(rte, logits), shares.max(1))
    assert np.isnan(confidence(toy("glue/stsb")[1]["validation"], logits)).all()


def test_errors_of_each_kind():
    for key in ("glue/stsb", "superglue/record", "superglue/multirc"):
        data = load_task(TASKS[key], TOY, ("validation",))["validation"]
        if key == "glue/stsb":
            right, wrong = [float(label) for label in data.labels], [float(label) + 1 for label in data.labels]
        elif key == "superglue/record":
            right = [answers[0] for answers in data.answers]
            wrong = [next(name for name in names if name not in answers)
                     for names, answers in zip(data.candidates, data.answers, strict=True)]  # fmt: skip
        else:
            right, wrong = data.labels, ["False" if label == "True" else "True" for label in data.labels]
        assert row_errors(data, right).sum() == 0 and np.allclose(row_errors(data, wrong), 1)
