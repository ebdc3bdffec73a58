"""The tables: own rows in their place, dev, test and synthetic apart, every footnote there."""

import json
import runpy

import pytest
from rich.console import Console

from hfssl.evaluation.averages import AVERAGES
from hfssl.evaluation.leaderboard import (
    FOOTNOTES,
    METRIC_LABELS,
    PUBLISHED,
    RANKED_BY,
    WIDE,
    board_markdown,
    board_table,
    boards,
    published_rows,
    result_table,
)
from hfssl.evaluation.results import ModelResult, TaskResult, write_result
from hfssl.evaluation.tasks import TASKS, suite_tasks
from hfssl.programs import program


def a_result(base=85.0, name="ours", suite="glue", **more):
    tasks = {}
    for task in suite_tasks(suite).values():
        if not task.is_diagnostic:
            scores = {score: [base, base + 1] for score in task.score_names}
            tasks[task.name] = TaskResult(
                scores, [0, 1], dict(task.counts), intervals={task.score_names[0]: [80.0, 90.0]}
            )
    return ModelResult(**{"model": name, "suite": suite, "part": "dev", "tasks": tasks, "protocol": "p"} | more)


def shown(table, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def names_of(board):
    return [row.name for row in board.rows]


def test_an_own_row_stands_in_its_place_and_only_in_its_part():
    dev, test = boards([a_result()], ["glue"])
    names = names_of(dev)
    assert names.index("RoBERTa-base") < names.index("ours") < names.index("BERT-large")  # 86.4, 85.5, 84.0
    assert (dev.part, test.part) == ("dev", "test") and "ours" not in names_of(test)
    dev, test = boards([a_result(part="test", kind="ensemble")], ["glue"])
    assert "ours" not in names_of(dev) and "ensemble" in next(row for row in test.rows if row.own).footnotes
    assert (
        names_of(test).index("GLUE Human Baselines") < names_of(test).index("ours") < names_of(test).index("BERT-Large")
    )


def test_the_lectures_entries_are_there_in_their_order():
    for suite, count in (("glue", 9), ("superglue", 5)):
        rows = [row for row in published_rows(suite, "test") if "lecture" in row.footnotes]
        scores = [row.averages[RANKED_BY[suite, "test"][0]] for row in rows]
        assert len(rows) == count and scores == sorted(scores, reverse=True)
    later = [row.name for row in published_rows("superglue", "test") if row.averages["superglue-8"] > 89.8]
    assert len(later) == 6


def test_published_rows_have_a_source_and_known_scores():
    """What was recalled and not read again is marked so, cell by cell or the whole row."""
    for path in sorted(PUBLISHED.glob("*.json")):
        content = json.loads(path.read_text())
        tasks = suite_tasks(content["suite"])
        for row in content["rows"]:
            assert row["source"] and ("scores" not in row or row["scores_source"]), row["name"]
            assert set(row.get("footnotes", [])) <= set(FOOTNOTES)
            for name, scores in row.get("scores", {}).items():
                assert set(scores) <= set(tasks[name].score_names) and all(0 <= v <= 100 for v in scores.values())
            said = row["source"] + row.get("scores_source", "")
            assert ("recalled" in said) == bool(row.get("recalled")), row["name"]


def test_published_footnotes():
    """Pitfalls 6 and 19: what stands above the majority class on WNLI, and QNLI by ranking, are footnotes."""
    rows = {row.name.split(" (")[0]: row for row in published_rows("glue", "test")}
    for row in rows.values():
        wnli = row.scores.get("wnli", {}).get("accuracy", 0)
        assert ("wnli-trick" in row.footnotes) == (wnli > 65.1 and "human" not in row.footnotes)
        qnli = row.scores.get("qnli", {}).get("accuracy", 0)
        assert ("qnli-ranking" in row.footnotes) == (qnli > 98)
    assert "ensemble" in rows["RoBERTa"].footnotes and "qnli-rescored" in rows["RoBERTa"].footnotes


def test_own_footnotes():
    result = a_result()
    result.tasks["rte"].started_from = "mnli"
    result.tasks["wnli"].trick = "majority"
    result.tasks["mnli"].part = "8,999 of 392,702"
    result.tasks["cola"].flags = ["constant", "1 rows of test were truncated"]
    result.tasks["qqp"].settings = {"max_steps": 10, "whole_updates": 2000}
    dev, _ = boards([result], ["glue"])
    row = next(row for row in dev.rows if row.own)
    assert row.footnotes == ("mnli-start", "wnli-majority", "subset", "cut-short", "flagged", "truncated")
    text = shown(board_table(dev, 220), 220)
    assert all(FOOTNOTES[key] in text for key in row.footnotes)
    text = shown(result_table(result))
    for said in ("RTE: started from mnli", "WNLI: trick: majority", "MNLI: 8,999 of 392,702", "CoLA: constant",
                 "QQP: cut short by --max_steps: 10 of 2,000 updates", "80.0 to 90.0", "official-9: 85.5"):  # fmt: skip
        assert said in text
    result = a_result()
    result.tasks["cola"].flags = ["1 rows of test were truncated"]  # which is no fault
    assert next(row for row in boards([result], ["glue"])[0].rows if row.own).footnotes == ("truncated",)


def test_one_seed_has_no_spread():
    result = a_result()
    assert "0.7" in shown(result_table(result))
    for task in result.tasks.values():
        task.scores, task.seeds = {name: values[:1] for name, values in task.scores.items()}, [0]
    text = shown(result_table(result))
    assert "85.0" in text and "0.0" not in text.replace("80.0", "").replace("90.0", "")


def test_qqp_on_dev_says_that_test_is_another_distribution():
    dev, test = boards([], ["glue"])
    assert any("QQP's test set has another balance" in line for line in board_markdown(dev).splitlines())
    assert "another balance" not in board_markdown(test)
    assert all("QQP" not in board_markdown(board) for board in boards([], ["superglue"]))


def test_synthetic_results_are_in_no_real_table():
    real = boards([], ["glue"])
    dev, test, synthetic = boards([a_result(99.0, "toy", synthetic=True)], ["glue"])
    assert (dev, test) == tuple(real) and names_of(synthetic) == ["toy"]
    assert "synthetic" in synthetic.title and "synthetic" in synthetic.rows[0].footnotes
    assert "published" not in board_markdown(synthetic) and "Sources" not in board_markdown(synthetic)


def test_a_part_of_the_suite_has_no_average_and_stands_last():
    result = a_result()
    del result.tasks["qqp"]
    dev, _ = boards([result], ["glue"])
    assert dev.rows[-1].name == "ours" and dev.rows[-1].averages == {}
    assert "official-9: cannot be computed without qqp" in shown(result_table(result))


def test_the_tables_say_which_average_and_which_part():
    dev, test = boards([a_result()], ["glue"])
    text = shown(board_table(dev, 220), 220)
    assert "GLUE, dev set" in text and "dev-8-roberta: eight tasks, one score each" in text
    assert "do not compare with a test table" in text and "do not compare" not in shown(board_table(test, 220), 220)
    assert "(F1/acc)" in text and "-/90.9" in text  # RoBERTa-large's MRPC: the accuracy alone is known
    narrow = shown(board_table(dev, 80), 80)
    assert "CoLA" not in narrow and f"a console of {WIDE} columns" in narrow and "ours" in narrow
    markdown = board_markdown(dev)
    assert "| **ours** | 85.5 |" in markdown and "* RoBERTa-large: fairseq" in markdown
    assert markdown.count("\n| ") == len(dev.rows) + 1


def test_every_score_has_a_label_and_every_table_an_average():
    assert {name for task in TASKS.values() for name in task.score_names} <= set(METRIC_LABELS)
    assert {name for names in RANKED_BY.values() for name in names} == set(AVERAGES)


def test_the_programs_write_and_show(tmp_path, capsys, monkeypatch):
    """Baselines of toy tasks, the Markdown of them, and the command."""
    from hfssl import cli

    baselines = runpy.run_path(str(program("eval/glue_baselines.py")))["main"]
    arguments = [
        "--suite",
        "superglue",
        "--data_dir",
        "builtin:toyglue",
        "--tasks",
        "cb,copa,axb",
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(SystemExit), monkeypatch.context() as patch:
        patch.setattr("sys.stderr", open("/dev/null", "w"))  # noqa: SIM115
        baselines([*arguments[:5], "cb,copy"])
    frequent, tfidf = baselines(arguments)
    assert frequent.synthetic and set(tfidf.tasks) == {"cb", "copa", "axb"} and tfidf.kind == "baseline"
    assert tfidf.task_scores()["cb"] > frequent.task_scores()["cb"] + 20
    low, high = tfidf.tasks["cb"].intervals["accuracy"]
    assert low < tfidf.tasks["cb"].median()["accuracy"] < high
    write_result(a_result(), tmp_path / "glue_dev_ours.json")
    build = runpy.run_path(str(program("eval/build_leaderboard.py")))["main"]
    build(["--results", str(tmp_path), "--out", str(tmp_path / "L.md")])
    written = (tmp_path / "L.md").read_text()
    assert written.count("\n## ") == 5 and "**ours** |" in written and "**TF-IDF [" in written
    assert "## SuperGLUE, builtin:toyglue, synthetic" in written
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["hfssl", "leaderboard", str(tmp_path / "superglue_dev_tf-idf.json")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().out
    assert (
        not left.value.code
        and "TF-IDF: superglue, dev, synthetic" in said
        and "GLUE Human" not in said.split("Super")[0]
    )


def test_the_committed_leaderboard_is_what_the_program_writes(tmp_path):
    build = runpy.run_path(str(program("eval/build_leaderboard.py")))["main"]
    build(["--out", str(tmp_path / "L.md")])
    assert (tmp_path / "L.md").read_text() == program("eval/LEADERBOARD.md").read_text()
