import json

import numpy as np
import pytest

from hfssl.errors import InputError
from hfssl.evaluation.task_data import load_task
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import suite as suite_module
from hfssl.finetuning.loop import decode
from hfssl.finetuning.runs import read_logits
from hfssl.finetuning.strategies.combination import combine
from hfssl.training.ledger import Ledger

TOY = "builtin:toyglue"
QUICK = {"max_steps": 12, "learning_rate": 3e-3}


def said(folder, task, split="validation"):
    return json.loads((folder / "predictions" / f"{task}.json").read_text())["predictions"][split]


def test_an_ensemble_of_its_seeds_trains_what_plain_trains(go, tmp_path, monkeypatch):
    plain = go("glue", "rte,stsb", seeds=2, **QUICK)
    jobs = Ledger(tmp_path / "out" / "ledger.jsonl").results()
    monkeypatch.setattr(suite_module, "fine_tune", None)  # nothing is trained again
    result = go("glue", "rte,stsb", seeds=2, strategy="ensemble", report=True, **QUICK)
    assert result.kind == "ensemble" and "ensemble" in result.protocol and "member_scores" in result.protocol
    for name in ("rte", "stsb"):
        splits = load_task(TASKS[f"glue/{name}"], TOY)
        names = plain.tasks[name].settings["jobs"]
        members = [read_logits(tmp_path / "out", job)["validation"] for job in names]
        wanted = decode(splits["validation"], combine(splits["validation"], members), TASKS[f"glue/{name}"].labels)
        assert said(tmp_path / "out", name) == [wanted]
        found = result.tasks[name]
        assert found.seeds == [0] and found.settings["average"] == "mean"
        assert found.settings["member_scores"] == pytest.approx([100 * jobs[job]["score"] for job in names])
    assert any("RTE: the ensemble" in note for note in result.notes)
    assert "2 members disagree" in (tmp_path / "out" / "report.html").read_text()


def test_of_other_folders_and_of_one_alone_bit_for_bit(go, tmp_path):
    one = go("glue", "cola,stsb", out="one", **QUICK)
    hire = {"strategy": "hire", "strategy_options": ["gru_size=5"]}
    other = go("glue", "cola,stsb", out="other", max_steps=12, learning_rate=1e-3, **hire)
    alone = go("glue", "cola,stsb", out="alone", strategy="ensemble", ensemble_of=str(tmp_path / "one"))
    for name in ("cola", "stsb"):
        assert alone.tasks[name].scores == one.tasks[name].scores
        assert said(tmp_path / "alone", name) == said(tmp_path / "one", name)
    folders = f"{tmp_path / 'one'},{tmp_path / 'other'}"
    both = go("glue", "cola,stsb", out="both", strategy="ensemble", ensemble_of=folders)
    each = [result.tasks["stsb"].settings["jobs"][0] for result in (one, other)]
    members = [read_logits(tmp_path / name, job) for name, job in zip(("one", "other"), each, strict=True)]
    mean = np.mean([member["validation"].astype(float) for member in members], axis=0)[:, 0]
    assert said(tmp_path / "both", "stsb") == [mean.tolist()]
    assert both.tasks["stsb"].settings["jobs"] == each and folders in both.protocol
    settings = both.tasks["stsb"].settings  # nothing of one member alone
    assert set(settings) == {"data_dir", "strategy", "strategy_options", "average", "jobs", "members", "member_scores"}
    assert (settings["strategy"], settings["strategy_options"]) == ("ensemble", {"ensemble": {"average": "mean"}})
    first, second = settings["members"]
    assert (first["folder"], second["folder"]) == (str(tmp_path / "one"), str(tmp_path / "other"))
    assert (first["settings"]["learning_rate"], second["settings"]["learning_rate"]) == (3e-3, 1e-3)
    assert (second["strategy"], second["strategy_options"]["hire"]) == ("hire", {"gru_size": 5})
    assert "strategy" not in first
    ranks = {"strategy": "ensemble", "strategy_options": ["average=ranks"], "ensemble_of": folders}
    assert go("glue", "stsb", out="both", **ranks).tasks["stsb"].settings["average"] == "ranks"
    assert said(tmp_path / "both", "stsb") != [mean.tolist()]
    for change, message in (
        ({"ensemble_of": f"{tmp_path / 'one'},{tmp_path / 'one'}"}, "hold the same run stsb-seed0-"),
        ({"ensemble_of": str(tmp_path / "both")}, "holds an ensemble; name the folders of its members"),
        ({"ensemble_of": str(tmp_path / "none")}, "no such folder"),
        ({"ensemble_of": folders, "tasks": "rte"}, "one has no result of RTE"),
        ({"ensemble_of": folders, "strategy": "plain", "strategy_options": []}, "add --strategy ensemble"),
        ({"ensemble_of": folders, "strategy": "ensemble+roberta"}, "trains nothing: give --strategy ensemble"),
    ):
        with pytest.raises(InputError, match=message):
            go("glue", **{"tasks": "stsb", "out": "bad"} | ranks | {"recipe": "auto"} | change)
        assert not (tmp_path / "bad").exists()


def test_members_on_other_rows_are_refused(go, tmp_path, monkeypatch):
    go("glue", "cola", out="one")
    real = suite_module.load_task

    def fewer(task, source):
        return {split: data.select(range(40), "a part") for split, data in real(task, source).items()}

    monkeypatch.setattr(suite_module, "load_task", fewer)
    with pytest.raises(InputError, match="one is of other rows of CoLA train than"):
        go("glue", "cola", out="two", strategy="ensemble", ensemble_of=str(tmp_path / "one"))


def test_a_folder_that_trained_nothing_for_a_task_has_no_member(go, tmp_path):
    """Neither alone nor beside another; nor a baseline, which has no ledger."""
    go("glue", "wnli", out="one")
    go("glue", "wnli", out="majority", wnli="majority")
    (tmp_path / "baseline").mkdir()
    result = json.loads((tmp_path / "majority" / "glue_dev.json").read_text()) | {"kind": "baseline"}
    (tmp_path / "baseline" / "glue_dev.json").write_text(json.dumps(result))
    for name, folders in (("majority", ["majority"]), ("majority", ["one", "majority"]), ("baseline", ["baseline"])):
        given = ",".join(str(tmp_path / folder) for folder in folders)
        with pytest.raises(InputError, match=rf"{name} trained nothing for WNLI: it has no member to average"):
            go("glue", "wnli", out="bad", strategy="ensemble", ensemble_of=given)
        assert not (tmp_path / "bad").exists()


def test_the_shared_stages_of_members_cost_what_they_did_once_each(go, tmp_path):
    one = go("glue", "cola,rte", out="one", strategy="multitask", seeds=2)
    go("glue", "cola,rte", out="other")
    assert one.cost["jobs"] == 6  # two tasks and a shared stage, of two seeds
    names = {"out": "both", "strategy": "ensemble", "ensemble_of": f"{tmp_path / 'one'},{tmp_path / 'other'}"}
    cost, records = go("glue", "cola,rte", **names).cost, []
    for name in ("one", "other"):
        records += Ledger(tmp_path / name / "ledger.jsonl").results().values()
    assert cost["jobs"] == len(records) == 8
    assert cost["train_seconds"] == pytest.approx(sum(record["train_seconds"] for record in records), abs=0.1)
    assert go("glue", "rte", **names | {"out": "rte", "ensemble_of": str(tmp_path / "one")}).cost["jobs"] == 4
