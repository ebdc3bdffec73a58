import csv
import json
import runpy

import numpy as np
import pytest
from scipy import stats

from hfssl.errors import InputError
from hfssl.evaluation.significance import holm, paired_permutation
from hfssl.evaluation.task_data import load_task
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import suite as suite_module
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.outcome import TaskRuns
from hfssl.programs import program
from hfssl.studies.strategies import ALL, Arm, StrategyStudyArguments, compare_strategies, loops_of, rows_of

RTE = TASKS["glue/rte"]
SMOKE = ["--config", "eval/compare_strategies_smoke.yaml", "--max_steps", "2", "--tasks", "cola,rte"]


@pytest.fixture(scope="module")
def dev():
    return load_task(RTE, "builtin:toyglue")["validation"]


def arm(dev, rights, seconds=1.0, ensemble=False):
    """Seeds of which so many first rows are right."""
    wrong = {label: RTE.labels[(number + 1) % 2] for number, label in enumerate(RTE.labels)}
    runs = [
        [label if row < right else wrong[label] for row, label in enumerate(dev.labels)] for right in rights
    ]  # fmt: skip
    one = TaskRuns(RTE, {"validation": dev}, [], {"validation": runs}, singles={"validation": runs} if ensemble else {})
    return Arm({"rte": one}, {"rte": rights}, {"rte": [0.0, 100.0]}, seconds)


def test_rows_have_the_difference_its_test_and_the_time(dev):
    arms = {
        "plain": arm(dev, [60, 62], 2.0),
        "better": arm(dev, [88, 94], 6.0),
        "same": arm(dev, [60, 62], 2.0),
        "ensemble": arm(dev, [75], 4.0, ensemble=True),
    }
    rows = rows_of("glue", arms)
    each = {row["strategy"]: row for row in rows if row["task"] == "RTE"}
    whole = {row["strategy"]: row for row in rows if row["task"] == "mean"}
    assert "p" not in each["plain"] and each["better"]["difference"] == pytest.approx(30)
    assert each["same"]["difference"] == 0 and each["same"]["p"] == 1
    assert each["ensemble"]["difference"] == pytest.approx(14), "75 beside each of 60 and 62"
    assert {name: row["time"] for name, row in whole.items()} == {
        "plain": 1.0, "better": 3.0, "same": 1.0, "ensemble": 2.0
    }  # fmt: skip
    half = stats.t.ppf(0.975, 1) * np.std([28, 32], ddof=1) / 2**0.5
    found = each["better"]["seeds_low"], each["better"]["seeds_high"]
    assert each["better"]["by_seed"] == [88, 94] and found == pytest.approx((30 - half, 30 + half))
    assert "seeds_low" not in each["ensemble"], "it is one"
    names = ("better", "same", "ensemble")
    assert [each[name]["corrected_p"] for name in names] == holm([each[name]["p"] for name in names])
    runs = [arms[name].tasks["rte"].predictions for name in ("better", "plain")]
    assert each["better"]["p"] == paired_permutation(RTE, {"validation": dev}, *runs)[1] < 0.01


def test_the_study_runs_every_strategy_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(program("eval/compare_strategies.py")))["main"].__wrapped__
    trained = []
    real = suite_module.fine_tune
    monkeypatch.setattr(
        suite_module, "fine_tune", lambda *given: trained.append((given[6].strategy, given[1].name)) or real(*given)
    )
    flags = [*SMOKE, "--seeds", "1", "--out", str(tmp_path), "--options", "smart.weight=2"]
    strategies = ["--strategies", "ensemble", "smart", "multitask"]
    rows = main([*flags, *strategies])
    notes = ["CoLA: synthetic", "CoLA: 3 of 3 models give every dev row the same answer", "RTE: synthetic",
             "RTE: 3 of 3 models give every dev row the same answer"]  # fmt: skip
    names = ["plain", "smart", "multitask", "ensemble", ALL]
    assert list(dict.fromkeys(row["strategy"] for row in rows)) == names
    assert [name for name, _ in trained] == ["plain"] * 2 + ["smart"] * 2 + ["multitask"] * 2
    result = json.loads((tmp_path / "smart" / "glue_dev.json").read_text())
    assert result["tasks"]["rte"]["settings"]["strategy_options"]["smart"]["weight"] == 2
    members = json.loads((tmp_path / "ensemble-of-all" / "glue_dev.json").read_text())
    assert len(members["tasks"]["rte"]["settings"]["jobs"]) == 3
    plain, ensemble = ({row["task"]: row for row in rows if row["strategy"] == name} for name in ("plain", "ensemble"))
    assert all(ensemble[task]["score"] == plain[task]["score"] for task in plain), "an ensemble of one is the model"
    assert ensemble["mean"]["time"] == 1
    written = json.loads((tmp_path / "strategies.json").read_text())
    assert written["rows"] == rows and written["notes"] == notes and written["environment"]["versions"]["torch"]
    table = list(csv.DictReader((tmp_path / "strategies.csv").open()))
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    printed = " ".join(capsys.readouterr().out.split())
    assert "Holm's correction for 8 tests" in printed and "RTE: synthetic." in printed and ", dev" in printed
    trained.clear()
    assert main([*flags, *strategies]) == rows and not trained
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds results of other settings \(max_steps: 2, now 1\)"):
        main([*flags, *strategies, "--max_steps", "1"])
    claim = ["--config", "eval/verify_claim_smoke.yaml", "--out", str(tmp_path)]
    with pytest.raises(InputError, match=r"ledger\.jsonl is of compare_strategies; give another folder"):
        runpy.run_path(str(program("eval/verify_claim.py")))["main"].__wrapped__(claim)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_all_strategies_have_the_precision_of_the_one_that_needs_most():
    """On a GPU that has bf16, SMART in fp32 beside plain in bf16 would be no comparison of strategies."""
    of = {}
    for names in (["hire", "freelb"], ["hire", "smart"]):
        loops = loops_of(StrategyStudyArguments("builtin-demo", names), LoopArguments())
        of[names[1]] = {loop.precision for loop in loops.values()}
    assert of == {"freelb": {"auto"}, "smart": {"fp32"}}


def test_bad_input_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(suite_module, "fine_tune", None)
    for given, loop, message in (
        ({"strategies": ["smrat"]}, {}, "no strategy 'smrat'.*did you mean 'smart'"),
        ({"strategies": ["smart", "smart"]}, {}, "names one twice"),
        ({"strategies": ["t5"]}, {}, "--strategy t5 takes an encoder with a decoder"),
        ({"strategies": ["multitask"], "tasks": "rte"}, {}, "--tasks must name two at least"),
        ({"strategies": ["smart+ensemble"]}, {}, "averages the runs of smart: name it, too"),
        ({"options": ["smart.weight=2"], "strategies": ["hire"]}, {}, "'smart.weight=2' is of none of plain, hire"),
        ({}, {"strategy": "smart"}, "takes --strategies, several"),
        (
            {"strategies": ["multitask"], "options": ["multitask.batch_size=9"]},
            {"gradient_accumulation_steps": 2},
            "does not divide the batch of 9 of (MRPC|RTE)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            fields = {"model": "builtin-demo", "data_dir": "builtin:toyglue", "out": str(tmp_path / "out")}
            compare_strategies(StrategyStudyArguments(**fields | given), LoopArguments(**loop))
    assert not (tmp_path / "out").exists()
