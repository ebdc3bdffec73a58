import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from hfssl.errors import InputError
from hfssl.evaluation.scoring import task_score
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import suite as suite_module
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.heads import choose_head, load_model
from hfssl.finetuning.loop import load_head
from hfssl.finetuning.shared_stage import SharedTask, head_of, train_shared
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.strategies import parse_strategy
from hfssl.training.ledger import Ledger

QUICK = {"strategy": "multitask", "max_steps": 4}


def test_tasks_start_from_what_they_learned_together(go, tmp_path, monkeypatch):
    """Without any learning of its own a task's model is the shared encoder with that task's head."""
    starts = []
    real = suite_module.fine_tune

    def fine_tune(source, *given):
        starts.append(source.path)
        return real(source, *given)

    monkeypatch.setattr(suite_module, "fine_tune", fine_tune)
    options = ["learning_rate=3e-3"]
    result = go("glue", "cola,stsb,mnli", seeds=2, learning_rate=1e-30, strategy_options=options, **QUICK)
    shared = sorted((tmp_path / "out" / "multitask").iterdir())
    assert [path.name.rpartition("-")[0] for path in shared] == ["multitask-seed0", "multitask-seed1"]
    assert sorted(starts) == sorted(str(path) for path in shared * 3)
    assert result.tasks["mnli"].started_from == "all 3 tasks together (seed 0); all 3 tasks together (seed 1)"
    name = json.loads((tmp_path / "out" / "models" / "mnli" / "hfssl_task.json").read_text())["job"]
    folder = shared[int(name.split("-")[1].removeprefix("seed"))]
    encoder = AutoModel.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "models" / "mnli")
    own = model.base_model.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in encoder.state_dict().items())
    head = load_file(folder / "mnli.safetensors")
    assert set(head) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.classifier.weight, head["classifier.weight"])
    before = AutoModel.from_pretrained(result.model)
    assert not torch.equal(before.get_input_embeddings().weight, encoder.get_input_embeddings().weight)
    records = Ledger(tmp_path / "out" / "ledger.jsonl").results()
    stages = [record for record in records.values() if record["task"] == "multitask"]
    assert len(stages) == 2 and stages[0]["updates"] == 4 and set(stages[0]["dev_scores"]) == set(result.tasks)
    assert result.cost["jobs"] == 8
    for stage in stages:  # its scores are those of the encoder and the heads that it saved
        for name, found in result.tasks.items():
            values = {score: each[stage["seed"]] for score, each in found.scores.items()}
            wanted = task_score(TASKS[f"glue/{name}"], values)
            assert 100 * stage["dev_scores"][name] == pytest.approx(wanted, abs=1e-3), name


def test_a_rerun_does_what_is_missing_of_both_stages(go, tmp_path, monkeypatch):
    tasks, done = "cola,rte", []
    real_shared, real = suite_module.train_shared, suite_module.fine_tune
    monkeypatch.setattr(suite_module, "train_shared", lambda *given: done.append("shared") or real_shared(*given))
    monkeypatch.setattr(suite_module, "fine_tune", lambda *given: done.append(given[1].name) or real(*given))
    first = go("glue", tasks, **QUICK)
    assert done == ["shared", *done[1:]] and sorted(done[1:]) == ["cola", "rte"]
    done.clear()
    assert go("glue", tasks, **QUICK) == first and not done
    path = tmp_path / "out" / "ledger.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(line for line in whole if '"task": "glue/rte"' not in line) + "\n")
    again = go("glue", tasks, **QUICK)
    assert done == ["rte"] and again.tasks["rte"].scores == first.tasks["rte"].scores
    done.clear()
    shutil.rmtree(tmp_path / "out" / "multitask")
    path.write_text("\n".join(line for line in whole if '"task": "glue/rte"' not in line) + "\n")
    with pytest.raises(InputError, match=r"the shared stage .*multitask-seed0-\w+ is gone; delete its line in "):
        go("glue", tasks, **QUICK)
    assert not done
    path.write_text(whole[0] + "\n")  # the shared stage is done anew, to the same bits
    again = go("glue", tasks, **QUICK)
    assert len(done) == 3 and {name: one.scores for name, one in again.tasks.items()} == {
        name: one.scores for name, one in first.tasks.items()
    }
    done.clear()
    go("glue", tasks, strategy_options=["sampling=temperature"], **QUICK)
    assert sorted(done) == ["cola", "rte", "shared"]


@pytest.mark.parametrize("other", ["smart", pytest.param("freelb", marks=pytest.mark.slow)])
def test_it_composes_with_what_changes_the_loss_in_both_stages(go, other):
    result = go("glue", "cola,rte", strategy=f"multitask+{other}", max_steps=2)
    assert set(result.tasks["rte"].settings["strategy_options"]) == {"multitask", other}
    assert "MT-DNN" in result.protocol


@pytest.mark.slow
def test_spans_and_candidates_share_the_encoder_too(go):
    result = go("superglue", "wic,copa,cb", **QUICK)
    assert set(result.tasks) == {"wic", "copa", "cb"}


def test_bad_input(go, tmp_path):
    for arguments, message in (
        ({"tasks": "rte"}, "--tasks must name two at least"),
        ({"freeze_encoder": True}, "--freeze_encoder does not go with --strategy multitask"),
        ({"mnli_model": "x"}, "--mnli_model has no use with --strategy multitask"),
        ({"strategy_options": ["sampling=random"]}, "multitask.sampling 'random' is not one of proportional"),
        ({"strategy_options": ["temperature=0"]}, "multitask.temperature must be at least"),
        ({"gradient_accumulation_steps": 5, "batch_size": 10}, "does not divide the batch of 32 of CoLA"),
    ):
        given = {"tasks": "cola,rte"} | arguments
        with pytest.raises(InputError, match=message):
            go("glue", given.pop("tasks"), **QUICK | given)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="names multitask twice"):
        parse_strategy("multitask+multitask")


def test_a_head_is_loaded_whole_or_not_at_all(bert_folder, tmp_path):
    source, task, path = open_source(str(bert_folder)), TASKS["glue/cola"], tmp_path / "cola.safetensors"
    model = load_model(source, task, choose_head(source, task), 0)
    weight, bias = torch.full_like(model.classifier.weight, 0.5), torch.ones_like(model.classifier.bias)
    whole = {"classifier.weight": weight, "classifier.bias": bias}
    save_file(whole, path)
    load_head(model, path)
    assert torch.equal(model.classifier.weight, weight) and torch.equal(model.classifier.bias, bias)
    for weights, message in (
        ({"classifier.weight": weight}, "cola.safetensors is not the head of this model: without classifier.bias"),
        (whole | {"score.weight": weight.clone()}, "is not the head of this model: with score.weight"),
        (whole | {"classifier.bias": torch.ones(5)}, "cannot load the head .*size mismatch for classifier.bias"),
    ):
        save_file(weights, path)
        with pytest.raises(InputError, match=message):
            load_head(model, path)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot load the head"):
        load_head(model, path)


def test_an_update_of_the_shared_stage_is_the_same_in_parts(toy, t5_folder, tmp_path):
    """On an encoder with a decoder, without dropout: each update is one task's batch, whatever its parts."""
    source, found = open_source(str(t5_folder)), []
    for parts in (1, 4):
        args = LoopArguments(strategy="multitask", max_steps=4, gradient_accumulation_steps=parts)
        strategy = args.make_strategy()
        encoder = strategy.encoder(source.tokenizer, 64, False)
        tasks = {
            name: SharedTask(*toy(f"glue/{name}"), strategy.choose_head(source, TASKS[f"glue/{name}"]))
            for name in ("cola", "sst2")
        }
        record = train_shared(source, tasks, encoder, args, 0, tmp_path / str(parts))
        assert record["updates"] == 4 and record["strategy_options"]["multitask"]["sampling"] == "proportional"
        found.append(load_file(tmp_path / str(parts) / "model.safetensors"))
    before = load_file(t5_folder / "model.safetensors")
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
    assert (found[0]["shared.weight"] - before["shared.weight"]).abs().max() > 2e-5
    head, path = head_of(tmp_path / "1", TASKS["glue/sst2"])
    assert head.order == TASKS["glue/sst2"].labels and "classification_head.out_proj.weight" in load_file(path)
