"""One flag, `--strategy`: what it takes, what it is refused with, and that it reaches jobs, results and reports."""

import json
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BartConfig, BartModel

from hfssl.config import parse_config
from hfssl.errors import InputError
from hfssl.evaluation.leaderboard import result_row
from hfssl.evaluation.results import read_result
from hfssl.evaluation.tasks import TASKS
from hfssl.files import umask
from hfssl.finetuning import loop
from hfssl.finetuning import suite as suite_module
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments, as_command
from hfssl.finetuning.command import run_suite
from hfssl.finetuning.heads import choose_head, load_model, save_task_model
from hfssl.finetuning.plan import make_job
from hfssl.finetuning.recipes import RECIPES
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.strategies import STRATEGIES, parse_strategy
from hfssl.finetuning.strategies.freelb import FreeLB
from hfssl.finetuning.strategies.hire import Hire
from hfssl.finetuning.strategies.smart import Smart
from hfssl.finetuning.strategies.strategy import options_of
from hfssl.models import HireForSequenceClassification
from hfssl.programs import program
from hfssl.training.ledger import Ledger

TOY = "builtin:toyglue"


@pytest.fixture
def go(bert_folder, tmp_path, monkeypatch):
    """`go("cola,rte", strategy="smart")`: runs GLUE into tmp_path / "out"; `go.trained` names what was fine-tuned."""
    real = suite_module.fine_tune

    def fine_tune(source, task, *given):
        run.trained.append(task.name)
        return real(source, task, *given)

    def run(tasks, model=None, out="out", suite="glue", mnli_model=None, **loop):
        args = SuiteArguments(str(model or bert_folder), str(tmp_path / out), tasks, TOY, mnli_model=mnli_model)
        return run_suite(suite, args, LoopArguments(**{"max_steps": 2, "recipe": "scratch"} | loop))

    run.trained = []
    monkeypatch.setattr(suite_module, "fine_tune", fine_tune)
    return run


def test_each_line_of_the_table_is_a_strategy_with_options_that_are_said():
    for name, kind in STRATEGIES.items():
        strategy = parse_strategy(name)
        assert type(strategy) is kind and strategy.name == name and strategy.parts == (strategy,)
        assert strategy.is_plain == (name == "plain") and (strategy.source or name == "plain")
        assert all(item.metadata["help"] for item in options_of(kind))


def test_options_go_to_the_strategy_that_has_them():
    assert parse_strategy("smart", ["weight=3", "smart.sigma=1e-4", "dropout=same"]) == Smart(
        weight=3.0, sigma=1e-4, dropout="same"
    )
    assert parse_strategy("freelb", ["steps=2"]) == FreeLB(steps=2)
    both = parse_strategy("hire+smart", ["gru_size=5", "proximal=0"])
    assert both.parts == (Hire(gru_size=5), Smart(proximal=0.0)) and both.name == "hire+smart"
    assert both.part("hire").gru_size == 5 and both.part("alice") is None and both.perturbs
    assert both.options["hire"] == {"gru_size": 5} and both.options["smart"]["proximal"] == 0.0
    assert parse_strategy("roberta+freelb").for_task(TASKS["glue/qqp"]).passes == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smrat", [], r"no strategy 'smrat': plain, roberta.*did you mean 'smart'"),
        ("smart+", [], "no strategy ''"),
        ("smart+freelb", [], "smart and freelb both change the loss; give one of them"),
        ("smart+hire+alice", [], "smart and alice both change the loss"),
        ("plain+smart", [], "--strategy plain is fine-tuning without any other"),
        ("smart+smart", [], r"--strategy smart\+smart names smart twice"),
        ("smart", ["wieght=3"], r"--strategy smart has no option 'wieght': .*did you mean 'weight'"),
        ("smart+hire", ["hire.gru=3"], r"no option 'hire.gru': .*did you mean 'hire.gru_size'"),
        ("smart", ["freelb.steps=3"], r"no option 'freelb.steps': .*smart.steps"),
        ("plain", ["weight=3"], "--strategy plain has no options; --strategy_options gives 'weight'"),
        ("smart", ["weight"], "--strategy_options 'weight' is no NAME=VALUE"),
        ("smart", ["weight=3", "smart.weight=4"], "--strategy_options gives smart.weight twice"),
        ("smart", ["weight=much"], "smart.weight must be a number, not 'much'"),
        ("smart", ["steps=1.5"], "smart.steps must be a whole number, not '1.5'"),
        ("smart", ["weight=-1"], "smart.weight must be at least 0, not -1.0"),
        ("smart", ["epsilon=nan"], "smart.epsilon must be at least 0, not nan"),
        ("smart", ["dropout=none"], "smart.dropout 'none' is not one of new, same"),
        ("freelb", ["steps=0"], "freelb.steps must be at least 1, not 0"),
    ],
)
def test_what_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        LoopArguments(strategy=name, strategy_options=options)


def test_an_option_that_several_have_must_say_whose(monkeypatch):
    class Other(Hire):
        name = "other"
        changes = ("start",)

    monkeypatch.setitem(STRATEGIES, "other", Other)
    with pytest.raises(InputError, match=r"hire and other have an option gru_size: say hire.gru_size=VALUE"):
        parse_strategy("hire+other", ["gru_size=3"])
    found = parse_strategy("hire+other", ["other.gru_size=3"])
    assert [part.gru_size for part in found.parts] == [64, 3]


def test_flags_that_contradict_a_strategy():
    assert LoopArguments(strategy="roberta").recipe == "roberta"
    assert LoopArguments(strategy="roberta+smart", recipe="roberta").recipe == "roberta"
    with pytest.raises(InputError, match=r"--strategy roberta is the recipe roberta: leave --recipe out"):
        LoopArguments(strategy="roberta", recipe="bert")
    with pytest.raises(InputError, match=r"--torch_compile does not go with --strategy hire\+freelb"):
        LoopArguments(strategy="hire+freelb", torch_compile=True)


def test_what_bf16_would_round_away_is_trained_in_fp32(monkeypatch, tmp_path):
    """On a GPU that has bf16; what it is given is done all the same, and said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(loop, "TrainingArguments", lambda **given: SimpleNamespace(**given, n_gpu=1))
    monkeypatch.setattr(loop, "is_torch_tf32_available", lambda: True)
    settings = RECIPES["scratch"].settings(TASKS["glue/rte"])
    for name, options, given, bf16 in (
        ("plain", [], "auto", True),
        ("smart", [], "auto", False),
        ("hire+alice", [], "auto", False),
        ("smart", ["epsilon=0.1"], "auto", True),
        ("freelb", [], "auto", True),
        ("smart", [], "bf16", True),
    ):
        arguments = LoopArguments(strategy=name, strategy_options=options, precision=given)
        assert loop.training_arguments(settings, arguments, 0, tmp_path).bf16 == bf16
        assert arguments.precision == (given if bf16 else "fp32")  # as the job's name has it


def test_a_command_says_the_strategy_and_its_options():
    given = LoopArguments(strategy="hire+smart", strategy_options=["weight=3", "gru_size=5"], epochs=2.0)
    words = shlex.split(as_command("glue", SuiteArguments("MODEL"), given))
    assert words[3:8] == ["--strategy", "hire+smart", "--strategy_options", "weight=3", "gru_size=5"]
    assert parse_config(SuiteArguments, LoopArguments, argv=["--model", *words[2:]])[1] == given
    assert "strategy" not in as_command("glue", SuiteArguments("MODEL"), LoopArguments())


def test_a_strategy_and_its_options_name_a_job(bert_folder, toy):
    source = open_source(str(bert_folder))
    task, splits = toy("glue/rte")

    def name(strategy, *options):
        loop = LoopArguments(strategy=strategy, strategy_options=list(options))
        return make_job(task, 0, 0, RECIPES["scratch"].settings(task), source, splits, loop).name

    assert name("smart") == name("smart", "weight=1") == name("smart", "smart.weight=1.0")
    assert name("freelb") == name("freelb", "steps=3")  # RTE's own
    assert name("roberta") == name("plain") and name("roberta+smart") == name("smart")  # the settings have the recipe
    different = [name("plain"), name("smart"), name("smart", "weight=2"), name("alice"),
                 name("freelb"), name("freelb", "steps=2"), name("hire"), name("hire+smart")]  # fmt: skip
    assert len(set(different)) == len(different)


def test_a_result_says_its_strategy_wherever_it_is_shown(go, tmp_path, capsys):
    options = ["weight=2", "gru_size=5"]
    result = go("rte", strategy="hire+smart", strategy_options=options)
    settings = result.tasks["rte"].settings
    assert settings["strategy"] == "hire+smart" and settings["strategy_options"]["hire"] == {"gru_size": 5}
    assert settings["strategy_options"]["smart"]["weight"] == 2.0
    said = "The strategy is hire+smart (Xu et al. 2019, Jiang et al. 2020) with the `strategy_options` in `settings`."
    assert said in result.protocol and result_row(result).name.endswith("bert, hire+smart")
    assert "bert, hire+smart: glue, dev" in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "hire+smart" in page and "hire.gru_size=5 " in page and "smart.weight=2 " in page
    assert read_result(tmp_path / "out" / "glue_dev.json") == result
    # Its model is HIRE's; the same command again trains nothing, another option does.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "models" / "rte")
    assert type(model) is HireForSequenceClassification and model.config.gru_size == 5
    assert go("rte", strategy="hire+smart", strategy_options=options) == result and go.trained == ["rte"]
    go("rte", strategy="hire+smart", strategy_options=["weight=3", "gru_size=5"])
    plain = go("rte")
    assert go.trained == ["rte"] * 3
    assert "strategy" not in plain.tasks["rte"].settings and "strategy" not in plain.protocol


def test_the_recipe_of_roberta_on_any_model(go):
    settings = go("mnli", strategy="roberta", recipe="auto").tasks["mnli"].settings
    wanted = {"recipe": "roberta", "epochs": 10, "batch_size": 32, "warmup": 0.06, "adam_beta2": 0.98}
    assert settings | wanted == settings and settings["strategy"] == "roberta"
    result = go("mnli", recipe="roberta")
    settings = result.tasks["mnli"].settings
    assert go.trained == ["mnli"] and settings | wanted == settings and "strategy" not in settings  # the same job
    assert "The strategy" not in result.protocol


def test_hire_starts_from_its_mnli_model_with_a_new_head(go, tmp_path, monkeypatch):
    monkeypatch.setattr(Hire, "flags", lambda self: ["hire: what must be said"])
    result = go("mnli,rte", strategy="hire", strategy_options=["gru_size=5"], learning_rate=1e-30)
    assert result.tasks["rte"].started_from.startswith("mnli (seed 0")
    assert "hire: what must be said" in result.tasks["rte"].flags
    mnli, rte = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "models" / name)
        for name in ("mnli", "rte")
    )
    assert rte.classifier.weight.shape == (2, 32) and rte.layer_weights.gru.hidden_size == 5
    for name, weight in mnli.encoder.state_dict().items():
        assert torch.allclose(weight, rte.encoder.state_dict()[name], rtol=0, atol=1e-25)


def test_an_earlier_mnli_model_is_started_from_by_its_own_strategy(go, tmp_path):
    """One left by hire has another net than plain fine-tuning, and other training than any."""
    go("mnli", strategy="hire", max_steps=1)
    mnli = tmp_path / "out" / "models" / "mnli"
    assert json.loads((mnli / "hfssl_task.json").read_text())["strategy_options"] == {"hire": {"gru_size": 64}}
    assert go("rte", max_steps=1).tasks["rte"].started_from is None
    assert go("rte", max_steps=1, strategy="hire", strategy_options=["gru_size=5"]).tasks["rte"].started_from is None
    assert go("rte", max_steps=1, strategy="hire").tasks["rte"].started_from.startswith("mnli (seed 0")
    assert go.trained == ["mnli", "rte", "rte", "rte"]
    with pytest.raises(InputError, match=r"mnli is a model of --strategy hire, not of plain: give hire"):
        go("rte", out="other", mnli_model=str(mnli))
    five = {"strategy": "hire", "strategy_options": ["gru_size=5"]}
    for given in ({"mnli_model": str(mnli)}, {"model": mnli}):
        with pytest.raises(InputError, match="mnli has a gru_size of 64, not 5"):
            go("rte", out="other", new_head=True, **five, **given)
    assert not (tmp_path / "other").exists()
    other = go("rte", out="other", mnli_model=str(mnli), strategy="hire", max_steps=1)
    assert other.tasks["rte"].started_from == f"mnli ({mnli})"


def test_a_pooled_mnli_model_is_started_from_by_pooled_of_its_state_alone(go, tmp_path):
    go("mnli", strategy="pooled", max_steps=1)
    mnli = str(tmp_path / "out" / "models" / "mnli")
    first = {"strategy": "pooled", "strategy_options": ["state=first"]}
    for given, message in (
        ({"mnli_model": mnli, "strategy": "hire"}, "is a model of --strategy pooled, not of hire: give pooled"),
        ({"mnli_model": mnli}, "is a model of --strategy pooled, not of plain: give pooled"),
        ({"mnli_model": mnli} | first, "pooled: the head of .*mnli does not read its first state"),
        ({"model": mnli, "strategy": "hire"}, "hire stands on an encoder alone, and .*mnli has a head of another kind"),
    ):
        with pytest.raises(InputError, match=message):
            go("rte", out="other", **given)
    assert not (tmp_path / "other").exists()
    started = go("rte", out="other", mnli_model=mnli, strategy="pooled", max_steps=1)
    assert started.tasks["rte"].started_from == f"mnli ({mnli})"


def test_hire_s_head_is_drawn_by_the_seed_and_learns_on_a_frozen_encoder(bert_folder, gpt_folder, tmp_path):
    source, task = open_source(str(bert_folder)), TASKS["glue/rte"]
    make = Hire().head(source, task)
    head = choose_head(source, task, make=make)
    assert not head.kept
    one, again, other = (load_model(source, task, head, seed, True, make) for seed in (1, 1, 2))
    for name in ("layer_weights.gru.weight_hh_l0_reverse", "fusion.weight", "classifier.weight"):
        first = one.get_parameter(name)
        assert torch.equal(first, again.get_parameter(name)) and not torch.equal(first, other.get_parameter(name))
    trained = {name for name, weight in one.named_parameters() if weight.requires_grad}
    assert trained and not [name for name in trained if name.startswith("encoder.")]
    # A saved one's head goes on, or is drawn anew with all its parts; HIRE's stands in place of a head of another kind.
    save_task_model(one, source.tokenizer, tmp_path / "hire")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "hire").iterdir()} == {0o666 & ~umask()}
    saved = open_source(str(tmp_path / "hire"))
    assert Hire().head(saved, task) is None and choose_head(saved, task).kept
    new = load_model(saved, TASKS["glue/mnli"], choose_head(saved, TASKS["glue/mnli"], new_head=True), 2)
    for name in ("layer_weights.gru.weight_hh_l0_reverse", "fusion.weight"):
        assert not torch.equal(new.get_parameter(name), one.get_parameter(name))
    save_task_model(load_model(source, task, choose_head(source, task), 0), source.tokenizer, tmp_path / "stock")
    stock = open_source(str(tmp_path / "stock"))
    assert choose_head(stock, task).kept and not choose_head(stock, task, make=make).kept
    gpt = open_source(str(gpt_folder))
    model = load_model(gpt, task, head, 0, make=Hire().head(gpt, task))
    assert model.config.sentence_state == "last" and model.config.encoder.pad_token_id == gpt.tokenizer.pad_token_id


def test_what_hire_cannot_read(go, tmp_path, bert_tokenizer):
    with pytest.raises(InputError, match="hire reads whole texts, and WiC has a head on spans: leave it out"):
        go("wic", suite="superglue", strategy="hire")
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
    BartModel(BartConfig(vocab_size=400, max_position_embeddings=64, **size)).save_pretrained(tmp_path / "bart")
    bert_tokenizer.save_pretrained(tmp_path / "bart")
    with pytest.raises(InputError, match=r"hire reads the layers of one encoder, which .*bart is not"):
        go("rte", model=tmp_path / "bart", strategy="hire")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="hire reads the layers of one encoder, which builtin-cbow is not"):
        go("rte", model="builtin-cbow", strategy="hire")
    assert not (tmp_path / "out").exists(), "nor the model that was made for it"


def test_the_documentation_lists_every_option_with_its_default():
    text = program("docs/evaluation/strategies.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \|", text, re.MULTILINE))
    options = {f"{name}.{option.name}": option for name, kind in STRATEGIES.items() for option in options_of(kind)}
    assert listed.keys() == options.keys()
    for name, option in options.items():
        default = format(option.default, "g") if isinstance(option.default, float) else str(option.default)
        assert listed[name] == ("the task's" if option.default is None else default), name


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("strategy", "option", "tasks", "count"),
    [("hire+freelb", "freelb.steps=2", "rte", 2), ("multitask", "batch_size=16", "cola,rte", 6)],
)
def test_two_commands_share_the_jobs_of_a_strategy(tmp_path, bert_folder, strategy, option, tasks, count):
    """Each job is done by one of them, the shared stage of a seed, too, with the scores of one command alone."""
    command = [sys.executable, "eval/run_glue.py", "--model", bert_folder, "--out", tmp_path / "two", "--data_dir", TOY,
               "--tasks", tasks, "--recipe", "scratch", "--max_steps", "6", "--seeds", "2", "--strategy", strategy,
               "--strategy_options", option]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.wait(timeout=600) == 0, process.stderr.read().decode()
    lines = [json.loads(line) for line in (tmp_path / "two" / "ledger.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == len({line["job"] for line in lines}) == count
    args = SuiteArguments(str(bert_folder), str(tmp_path / "one"), tasks, TOY, seeds=2)
    run_suite("glue", args, LoopArguments(
        max_steps=6, recipe="scratch", strategy=strategy, strategy_options=[option]))  # fmt: skip
    one, two = (Ledger(tmp_path / name / "ledger.jsonl").results() for name in ("one", "two"))
    assert set(one) == set(two)
    assert all(one[name].get(key) == two[name].get(key) for name in one for key in ("scores", "dev_scores"))
