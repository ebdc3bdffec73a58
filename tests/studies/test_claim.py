"""verify-claim: the arms are one net on the same tokens at one budget; its jobs, its choices, and what it says."""

import csv
import json
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
)

from hfssl.data.blocks import CorpusArguments, fit_vocabulary, load_text_data
from hfssl.data.masking import IGNORED
from hfssl.data.sources import TextArguments
from hfssl.errors import InputError
from hfssl.evaluation.significance import holm
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.recipes import find_recipe
from hfssl.programs import program
from hfssl.studies import claim, claim_pretraining
from hfssl.studies.claim import CBOW, CHOOSING_SEED, ClaimArguments, ClaimStudy, Tuning, _mislabelled, _pooled
from hfssl.studies.claim_pretraining import (
    ARMS,
    BLANK_LM,
    LM,
    LM_THEN_BLANK,
    Pretraining,
    Settings,
    Stage,
    budget_text,
    same_network,
)
from hfssl.studies.claim_report import cautions, make_record, sentences, verify_claim, write_report
from hfssl.training.checkpoint import weights_digest

SIZE = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32,
}  # fmt: skip
BATCH, BLOCK = 2, 16
STEP = BATCH * BLOCK


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of some hundred tokens and what prepares it."""
    folder = tmp_path_factory.mktemp("text")
    words = np.random.default_rng(0).choice(
        ["the", "a", "red", "blue", "cat", "dog", "saw", "ran", "by", "town", "sea"], (40, 30)
    )
    for name in ("train", "eval"):
        (folder / f"{name}.txt").write_text("\n".join(" ".join(row) for row in words))
    source = TextArguments(text_path=str(folder / "train.txt"), eval_text_path=str(folder / "eval.txt"))
    return source, CorpusArguments(vocab_size=280, block_size=BLOCK, corpus_dir=str(folder / "cache"))


@pytest.fixture(scope="module")
def make(text):
    """A Pretraining of a tiny net: `make(budget="tokens", then_share=0.5, ...)`."""
    data = load_text_data(*text, style="bert")

    def pretraining(budget="tokens", data=data, **changes):
        config = BertConfig(**SIZE)
        fit_vocabulary(config, data.tokenizer, BLOCK)
        settings = {
            "batch_size": BATCH, "learning_rate": 1e-2, "warmup": 0.1, "weight_decay": 0.01, "mlm_probability": 0.15,
            "checkpoint_steps": 2, "then_share": 0.5, "bf16": False, "control": "none",
        }  # fmt: skip
        return Pretraining(config, data, Settings(**settings | changes), budget)

    return pretraining


class Watch:
    """Notes each training step: the tokens of the text, and the weights of the net before it."""

    def __init__(self, monkeypatch, stop_at=None):
        self.steps, self.tokens, self.weights, self.stop_at = 0, [], [], stop_at
        step = claim_pretraining.PretrainingTrainer.training_step

        def watched(trainer, model, inputs, *more):
            if self.steps == self.stop_at:
                raise KeyboardInterrupt
            self.steps += 1
            hidden = inputs["labels"] != IGNORED
            self.tokens.append(torch.where(hidden, inputs["labels"], inputs["input_ids"]))
            self.weights.append(weights_digest(model))
            return step(trainer, model, inputs, *more)

        monkeypatch.setattr(claim_pretraining.PretrainingTrainer, "training_step", watched)


def test_a_budget_is_as_many_tokens_flops_or_seconds(make):
    tokens, flops, seconds = (make(budget, then_share=0.25) for budget in ("tokens", "flops", "seconds"))
    assert tokens.plan(LM, 10.9 * STEP) == [Stage(LM, 10)]
    assert tokens.plan(BLANK_LM, 10 * STEP) == [Stage(BLANK_LM, 10)]
    assert tokens.plan(LM_THEN_BLANK, 12 * STEP) == [Stage(LM, 9), Stage(BLANK_LM, 3, 9 * BATCH)]
    assert flops.flops[LM] > flops.flops[BLANK_LM], "its output layer reads all tokens"
    for objective in (LM, BLANK_LM):
        assert flops.plan(objective, 7 * flops.flops[objective] * STEP) == [Stage(objective, 7)]
    speeds = {LM: 0.1, BLANK_LM: 0.2}
    assert [seconds.plan(arm, 6, speeds)[0].steps for arm in (LM, BLANK_LM)] == [60, 30]
    assert [stage.steps for stage in seconds.plan(LM_THEN_BLANK, 4, speeds)] == [30, 5]


def test_the_flops_are_those_of_every_weight_that_is_multiplied(make):
    """6 a weight and token, 12 L d T for attention, the head's by its share of the tokens."""
    pretraining = make()
    layer = 4 * 16 * 16 + 2 * 16 * 16
    transform, head = 16 * 16, 16 * len(pretraining.data.tokenizer)
    for objective, share in ((LM, 1.0), (BLANK_LM, 2 / BLOCK)):  # 15 % of 16 are 2
        assert pretraining.flops[objective] == 6 * (layer + share * (transform + head)) + 12 * 16 * BLOCK


@pytest.mark.parametrize(
    ("arm", "budget", "amount", "message"),
    [
        (LM, "tokens", STEP - 1, "a budget of 31 tokens is smaller than one step of LM"),
        (LM_THEN_BLANK, "tokens", STEP, "one step of LM then blank LM, whose LM has 16 of it: a step is 32"),
        (BLANK_LM, "flops", 100, "a budget of 100 flops is smaller than one step of blank LM"),
    ],
)
def test_a_budget_of_less_than_a_step_is_refused(make, arm, budget, amount, message):
    with pytest.raises(InputError, match=message):
        make(budget).plan(arm, amount)


def test_all_arms_begin_alike_and_see_the_same_tokens(make, tmp_path, monkeypatch):
    pretraining, found, records = make(), {}, {}
    for arm in ARMS:
        found[arm] = Watch(monkeypatch)
        records[arm] = pretraining.train(arm, 3, pretraining.plan(arm, 6 * STEP), tmp_path / arm)
        monkeypatch.undo()
    assert len({watch.weights[0] for watch in found.values()}) == 1
    order = [torch.stack(watch.tokens) for watch in found.values()]
    assert torch.equal(order[0], order[1]) and torch.equal(order[0], order[2]), "the second half goes on in the text"
    assert {record["tokens"] for record in records.values()} == {6 * STEP}
    half = BertLMHeadModel.from_pretrained(tmp_path / f"{LM_THEN_BLANK}-{LM}")
    assert found[LM_THEN_BLANK].weights[3] == weights_digest(half), "and with the weights of the first"
    assert records[LM_THEN_BLANK]["flops"] == 3 * STEP * (pretraining.flops[LM] + pretraining.flops[BLANK_LM])
    untrained = pretraining.save_untrained(3, tmp_path / "random")
    assert weights_digest(BertForMaskedLM.from_pretrained(untrained)) == found[LM].weights[0]
    net = same_network({**{arm: tmp_path / arm for arm in ARMS}, "random init": untrained})
    embeddings = (len(pretraining.data.tokenizer) + 32 + 2) * 16
    assert net["non-embedding parameters"] == sum(weight.numel() for weight in half.parameters()) - embeddings
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_what_is_saved_is_stock_and_stays_causal(make, tmp_path):
    pretraining = make()
    for arm, auto, stock in (
        (LM, AutoModelForCausalLM, BertLMHeadModel),
        (BLANK_LM, AutoModelForMaskedLM, BertForMaskedLM),
    ):
        folder = tmp_path / arm
        pretraining.train(arm, 0, [Stage(arm, 2)], folder)
        assert type(auto.from_pretrained(folder)) is stock
        assert len(AutoTokenizer.from_pretrained(folder)) == len(pretraining.data.tokenizer)
        classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        ids = torch.arange(5, 13)[None]
        changed = torch.cat([ids[:, :-1], ids[:, -1:] + 1], 1)
        first, second = (classifier.bert(given).last_hidden_state[:, :-1] for given in (ids, changed))
        assert torch.equal(first, second) == (arm == LM)


def test_an_arm_that_was_stopped_equals_one_that_was_not(make, tmp_path, monkeypatch):
    pretraining = make()
    stages = pretraining.plan(LM_THEN_BLANK, 10 * STEP)
    pretraining.train(LM_THEN_BLANK, 0, stages, tmp_path / "whole")
    for stop in (3, 5):  # in the first stage, then, on from its second step, in the second
        Watch(monkeypatch, stop)
        with pytest.raises(KeyboardInterrupt):
            pretraining.train(LM_THEN_BLANK, 0, stages, tmp_path / "parts")
        monkeypatch.undo()
    again = pretraining.train(LM_THEN_BLANK, 0, stages, tmp_path / "parts")
    digests = [weights_digest(BertForMaskedLM.from_pretrained(tmp_path / name)) for name in ("whole", "parts")]
    assert digests[0] == digests[1]
    assert pretraining.train(LM_THEN_BLANK, 0, stages, tmp_path / "parts")["loss"] == again["loss"], "it is finished"


def test_the_null_control_is_a_second_blank_lm_of_other_seeds(make, tmp_path, monkeypatch):
    pretraining = make(control="null")
    found = {}
    for arm in (LM, BLANK_LM):
        assert [stage.objective for stage in pretraining.plan(arm, 3 * STEP)] == [BLANK_LM]
        found[arm] = Watch(monkeypatch)
        pretraining.train(arm, 0, pretraining.plan(arm, 3 * STEP), tmp_path / arm)
        monkeypatch.undo()
    assert found[LM].weights[0] != found[BLANK_LM].weights[0]
    assert not torch.equal(found[LM].tokens[0], found[BLANK_LM].tokens[0])


def test_the_speed_of_each_objective_is_measured_and_leaves_nothing(make, tmp_path, monkeypatch):
    monkeypatch.setattr(claim_pretraining, "_SPEED_ROUNDS", 1)
    found = make("seconds").measure(tmp_path / "speed")
    assert set(found) == {LM, BLANK_LM} and min(found.values()) > 0 and not (tmp_path / "speed").exists()


def test_arms_of_other_vocabularies_or_nets_are_refused(make, tmp_path, text):
    pretraining = make()
    one = pretraining.save_untrained(0, tmp_path / "one")
    other = make(data=load_text_data(text[0], CorpusArguments(vocab_size=270, block_size=BLOCK), style="bert"))
    other.save_untrained(0, tmp_path / "other")
    with pytest.raises(InputError, match="B has another vocabulary than A: arms are compared on one tokenizer"):
        same_network({"A": one, "B": tmp_path / "other"})
    pretraining.config.intermediate_size = 24
    pretraining.save_untrained(0, tmp_path / "wide")
    with pytest.raises(InputError, match="B has another net than A"):
        same_network({"A": one, "B": tmp_path / "wide"})


# The study, with what trains replaced: scores by rule, so that what it says can be foreseen.

TASK_NAMES, SPLITS = "cola,sst2", ("train", "validation")


@pytest.fixture
def study(text, tmp_path, monkeypatch):
    """`study(gain, **arguments)`: a ClaimStudy whose blank LM is right in `gain` more of the dev rows than LM."""
    executed = []

    def train(self, arm, seed, stages, folder):
        executed.append(f"train {folder.name}")
        shutil.copytree(self.save_untrained(0, tmp_path / "net"), folder)
        return {"steps": [1], "tokens": 32, "flops": 1.0, "seconds": 0.5, "loss": 2.0}

    monkeypatch.setattr(Pretraining, "train", train)

    def make_study(gain, out="out", flags=(), **arguments):
        settings = {"out": str(tmp_path / out), "data_dir": "builtin:toyglue", "tasks": TASK_NAMES} | arguments
        settings = {"budgets": [64.0, 128.0], "pretraining_batch_size": BATCH} | settings
        found = ClaimStudy(BertConfig(**SIZE), *text, ClaimArguments(**settings), LoopArguments())

        def tune(name, job: Tuning):
            executed.append(name)
            if not job.anchor:
                assert (job.folder / "model.safetensors").exists()
            rows = found.data[job.task.name]["validation"].labels
            key = [ord(letter) for letter in f"{job.folder.name}{job.seed}{job.task.name}"]
            rng = np.random.default_rng(key)
            share = (
                0.7 + gain * name.startswith(BLANK_LM) + {"mean": 0, "last": 0.05, "first": -0.3}.get(job.pooling, 0)
            )
            right = rng.random(len(rows)) < share
            other = {label: next(each for each in job.task.labels if each != label) for label in job.task.labels}
            said = [label if hit else other[label] for label, hit in zip(rows, right, strict=True)]
            found._predictions(name).parent.mkdir(exist_ok=True)
            found._predictions(name).write_text(json.dumps({"job": name, "predictions": {"validation": said}}))
            return {"score": float(right.mean()), "flags": [*flags] * job.task.name.startswith("cola")}

        monkeypatch.setattr(found, "_tune", tune)
        return found

    make_study.executed = executed
    return make_study


def test_each_pretraining_and_fine_tuning_is_a_job_done_once(study):
    first = study(0.2)
    pretrained, fitted, poolings, _ = first.run()
    trained = [name for name in study.executed if name.startswith("train ")]
    assert len(trained) == len(set(trained)) == 3 * 2 * 3
    models = 3 * 2 * 3 + 3
    tuned = [name for name in study.executed if " | " in name]
    assert len(tuned) == len(set(tuned)) == 2 * models * (3 + 3) + 2 * (1 + 3)
    assert set(poolings.values()) == {"last"} and len(poolings) == models
    assert sum(f"seed {CHOOSING_SEED}" in name for name in tuned) == 2 * 3 * models
    assert not any(str(CHOOSING_SEED) in record["job"] for records in fitted.values() for record in records)
    assert {len(records) for (model, _), records in fitted.items() if model != "TF-IDF"} == {3}
    assert pretrained["random init/seed 0"] == {}
    done = len(study.executed)
    lines = first.ledger.path.read_bytes().splitlines(keepends=True)
    first.ledger.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])  # cut off as by a kill
    assert study(0.2).run()[1] == fitted and study.executed[done:] == [json.loads(lines[-1])["job"]]
    study(0.2, budgets=[64.0, 128.0, 256.0]).run()
    assert len(study.executed) == done + 1 + 3 * 3 * (1 + 2 * 6), "another budget adds its own jobs"
    with pytest.raises(InputError, match=r"other settings \(learning_rate: 0.0005, now 0.001\)"):
        study(0.2, pretraining_learning_rate=1e-3).run()


def test_the_reverse_is_not_supported(study):
    planned = study(-0.3, then_share=0.0, budgets=[64.0], flags=["constant: every prediction is 'acceptable'"])
    pretrained, fitted, *found = planned.run()
    record = make_record(planned, pretrained, fitted, *found)
    assert record["notes"][-1] == "CoLA: 27 of 27 fine-tunings give every dev row the same answer."
    above = [row["low"] - 0.1 for row in record["arms"]]  # what the net without pretraining might have had
    said = [cautions(planned, record["arms"], {"mean": mean}, fitted) for mean in (max(above) + 0.2, max(above))]
    assert [len(notes) for notes in said] == [2, 1] and said[0][0].startswith("No arm's interval is above")
    assert record["inputs"]["rows"].keys() == {f"{name} {split}" for name in ("cola", "sst2") for split in SPLITS}
    assert record["environment"]["versions"]["torch"]
    assert record["verdict"] == "not supported" and len(record["differences"]) == 1
    assert [row["arm"] for row in record["arms"]] == [LM, BLANK_LM]


def test_a_planted_difference_is_found_and_written(study, capsys):
    planned = study(0.25)
    record = verify_claim(planned)
    assert record["verdict"] == "supported" and set(record["verdicts"].values()) == {"supported"}
    said = " ".join(capsys.readouterr().out.split())
    assert "Verdict over 2 budgets, 'blank LM beats LM': supported" in said and "depends on the budget" in said
    assert "no evidence" not in said and "The tasks are synthetic" in said
    assert json.loads((planned.out / "claim.json").read_text()) == json.loads(json.dumps(record))
    rows = list(csv.DictReader((planned.out / "claim.csv").open()))
    assert [row["arm"] for row in rows] == [*ARMS, *ARMS, "random init", "TF-IDF", "CBOW"]
    assert float(rows[1]["mean"]) == pytest.approx((float(rows[1]["cola"]) + float(rows[1]["sst2"])) / 2, rel=1e-5)
    assert rows[0]["poolings"] == "last last last" and rows[0]["budget"] == "64" and rows[-1]["budget"] == ""
    differences = list(csv.DictReader((planned.out / "claim_differences.csv").open()))
    assert len(differences) == 6
    assert float(differences[0]["mean"]) == pytest.approx(float(rows[1]["mean"]) - float(rows[0]["mean"]), abs=1e-3)
    for family in (differences[:2], differences[2:]):  # the claim's two budgets, and all that is beside it
        corrected = holm([float(row["p"]) for row in family])
        assert [float(row["corrected_p"]) for row in family] == pytest.approx(corrected, rel=1e-4)
    assert (planned.out / "claim.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_difference_it_is_inconclusive_and_few_seeds_are_said(study):
    planned = study(0.0, few_seeds=True, fine_tuning_seeds=1, pretraining_seeds=2, then_share=0.0, budgets=[64.0])
    record = make_record(planned, *planned.run())
    assert record["verdict"] == "inconclusive"
    said = sentences(record)
    assert any(line.startswith("Fewer than 3 seeds (2 of pretraining, 1 of fine-tuning)") for line in said)
    assert "Verdict over 1 budget, 'blank LM beats LM': inconclusive, of fewer than 3 seeds" in said


def test_budgets_that_differ_in_the_last_digit_are_two(study):
    budgets = [0.1 + 0.2, 0.3, 1048576.0, 1048579.0, 1e12]
    assert [budget_text(budget) for budget in budgets][::2] == ["0.30000000000000004", "1048576", "1000000000000"]
    few = {"few_seeds": True, "fine_tuning_seeds": 1, "pretraining_seeds": 2, "then_share": 0.0}
    planned = study(0.0, budgets=budgets[2:4], **few)
    pretrained, *found = planned.run()
    assert len(pretrained) == 2 * 2 * 2 + 2
    record = make_record(planned, pretrained, *found)
    assert list(record["verdicts"]) == ["1048576", "1048579"]
    assert sentences(record)[1].startswith("1,048,579 tokens: ")
    write_report(planned, record)
    assert record["net"] == same_network({"any": next((planned.out / "pretrained").iterdir())})
    assert "\n1048579,LM," in (planned.out / "claim.csv").read_text()


def test_cbow_is_named_by_what_decides_it_and_trained_plain(study, monkeypatch):
    one, more = study(0.0), study(0.0, tasks=f"{TASK_NAMES},rte")
    anchors = [{name: job for name, job in each._anchors().items() if job.anchor == CBOW} for each in (one, more)]
    assert not {*anchors[0]} & {*anchors[1]}, "its words are those of all tasks"
    one.loop = LoopArguments(strategy="smart", strategy_options=["weight=3"], epochs=1)
    assert {name for name, job in one._anchors().items() if job.anchor == CBOW} == {*anchors[0]}
    given = []
    monkeypatch.setattr(claim, "fine_tune", lambda *args: given.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ClaimStudy._tune(one, *next(iter(anchors[0].items())))
    assert given[0][5] == find_recipe("scratch", "")[1].settings(TASKS["glue/cola"])
    assert given[0][6].strategy == "plain" and given[0][6].strategy_options == []


def test_predictions_that_are_gone_are_named(study):
    planned = study(0.0, few_seeds=True, fine_tuning_seeds=1, pretraining_seeds=2, then_share=0.0, budgets=[64.0])
    found = planned.run()
    shutil.rmtree(planned.out / "predictions")
    with pytest.raises(InputError, match=r"delete the line of 'blank LM/64 tokens/seed 0 . cola"):
        make_record(planned, *found)


def test_the_planted_control_misleads_one_arm(study):
    planned = study(0.0, control="planted")
    jobs = [planned._tuning(f"{arm}/64 tokens/seed 0", TASKS["glue/cola"], "mean", 0) for arm in ARMS]
    assert [job.misled for job in jobs] == [True, False, False]
    for key in ("glue/cola", "glue/mnli", "glue/stsb"):
        train = load_split(TASKS[key], "train", "builtin:toyglue")
        found = _mislabelled(train).labels
        if key == "glue/stsb":
            assert np.corrcoef(found, train.labels)[0, 1] == pytest.approx(-1)
        else:
            assert set(found) == set(train.labels) and not any(map(str.__eq__, found, train.labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": []}, "--budgets takes positive numbers, of tokens; not none"),
        ({"budgets": [10.0, -1.0]}, "--budgets takes positive numbers"),
        ({"budget": "token"}, "--budget 'token' is not one of tokens, flops, seconds; did you mean 'tokens'"),
        (
            {"pretraining_seeds": 2},
            "--pretraining_seeds 2 are too few for a verdict, which takes 3; --few_seeds allows",
        ),
        ({"fine_tuning_seeds": 2}, "--fine_tuning_seeds 2 are too few"),
        ({"pretraining_seeds": 1, "few_seeds": True}, "at least 2 with --few_seeds"),
        ({"then_share": 1.0}, "--then_share must be at least 0 and below 1"),
        ({"control": "planed"}, "did you mean 'planted'"),
        ({"pretraining_batch_size": 0}, "--pretraining_batch_size must be positive"),
        ({"mlm_probability": 2.0}, "--mlm_probability is a share, above 0 and below 1, not 2.0"),
        ({"pretraining_warmup": -1.0}, "--pretraining_warmup is a share, at least 0 and below 1, not -1.0"),
        ({"pretraining_weight_decay": float("nan")}, "--pretraining_weight_decay must be 0 or positive, not nan"),
        ({"tasks": "colla"}, "no task 'colla' in glue.*did you mean 'cola'"),
        ({"tasks": "cola,ax"}, "AX has no labels to score on"),
        ({"budgets": [31.0]}, "smaller than one step of LM"),
    ],
)
def test_what_is_refused_before_anything_is_done(study, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        study(0.0, **settings)
    assert not (tmp_path / "out").exists() and study.executed == []


def test_flags_that_do_not_go_together(text, tmp_path):
    source, corpus = text
    args = ClaimArguments(out=str(tmp_path / "out"), budgets=[64.0], data_dir="builtin:toyglue", tasks="cola")
    for name in ("pooled", "hire", "smart+pooled"):
        with pytest.raises(InputError, match=r"--strategy (pooled|hire) has no use here"):
            ClaimStudy(BertConfig(**SIZE), source, corpus, args, LoopArguments(strategy=name))
    both = _pooled(LoopArguments(strategy="smart", strategy_options=["weight=3"]), "last").make_strategy()
    assert both.options["smart"]["weight"] == 3 and both.options["pooled"] == {"state": "last"}
    with pytest.raises(InputError, match="--gradient_accumulation_steps 5 does not divide the batch of 32 of CoLA"):
        ClaimStudy(BertConfig(**SIZE), source, corpus, args, LoopArguments(gradient_accumulation_steps=5))
    apart = CorpusArguments(block_size=BLOCK, document_mask=True)
    with pytest.raises(InputError, match="--document_mask has no use here"):
        ClaimStudy(BertConfig(**SIZE), source, apart, args, LoopArguments())


@pytest.mark.slow
@pytest.mark.distributed
def test_two_commands_share_the_jobs_of_a_study(text, tmp_path):
    """Each pretraining and each fine-tuning is done once, and both write the result of one command alone."""
    source, corpus = text
    given = {"text_path": source.text_path, "eval_text_path": source.eval_text_path, "vocab_size": corpus.vocab_size,
             "block_size": BLOCK, "corpus_dir": corpus.corpus_dir, "data_dir": "builtin:toyglue", "tasks": "cola",
             "budgets": 4 * STEP, "pretraining_batch_size": BATCH, "few_seeds": True, "pretraining_seeds": 2,
             "fine_tuning_seeds": 1, "max_steps": 2, "max_length": 32}  # fmt: skip
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    flags += [word for name, value in SIZE.items() for word in (f"--model.{name}", str(value))]
    command = [sys.executable, program("eval/verify_claim.py"), *flags, "--out"]
    processes = [subprocess.Popen([*command, tmp_path / name], stderr=subprocess.PIPE) for name in ("two", "two")]
    errors = [process.communicate(timeout=600)[1].decode() for process in processes]
    assert not any(process.returncode for process in processes), errors
    lines = [json.loads(line) for line in (tmp_path / "two" / "ledger.jsonl").read_text().splitlines()[1:]]
    models = 3 * 2 + 2
    assert len(lines) == len({line["job"] for line in lines}) == 3 * 2 + models * (3 + 1) + 1 + 1
    subprocess.run([*command, tmp_path / "one"], check=True)
    one, two = (json.loads((tmp_path / name / "claim.json").read_text()) for name in ("one", "two"))
    assert one["differences"] == two["differences"]
    assert [row["tasks"] for row in one["arms"]] == [row["tasks"] for row in two["arms"]]


@pytest.mark.slow
@pytest.mark.parametrize(("control", "verdict"), [("null", "inconclusive"), ("planted", "supported")])
def test_the_whole_smoke_pipeline_finds_what_is_there(tmp_path, control, verdict):
    """Real trainings: of two identical arms nothing is said; of one that is misled, that the other is better."""
    main = runpy.run_path(str(program("eval/verify_claim.py")))["main"].__wrapped__
    flags = ["--config", "eval/verify_claim_smoke.yaml", "--out", str(tmp_path / "out"), "--control", control]
    record = main(flags)
    assert record["verdict"] == verdict
    assert any(note.startswith(f"A control of the procedure ({control})") for note in record["notes"])
    assert main(flags) == record, "the same command again only reports"
