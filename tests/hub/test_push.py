"""`hfssl push` over HTTP: what is sent, that it comes back without hfssl, that a broken push is no half of one."""

import contextlib
import json
import re
import sys

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from hfssl.cli import app
from hfssl.data.corpus import Corpus, build_corpus
from hfssl.errors import InputError
from hfssl.evaluation.embeddings import write_embeddings
from hfssl.evaluation.results import write_result
from hfssl.evaluation.tasks import TASKS
from hfssl.hub.push import send
from hfssl.hub.scores import with_scores
from hfssl.hub.uploads import plan_push
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.tokenization import train_bpe
from tests.conftest import TINY_GPT, TINY_RESNET
from tests.evaluation.test_results import model_result

HISTORY = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


@pytest.fixture
def simclr(tmp_path):
    """A trained folder as a recipe leaves it, with a checkpoint and a pickle that stay at home."""
    folder = tmp_path / "simclr"
    SimCLRForPreTraining(SimCLRConfig(**TINY_RESNET)).save_pretrained(folder)
    (folder / "log_history.json").write_text(json.dumps(HISTORY))
    (folder / "recipe.yaml").write_text("max_steps: 2\n")
    (folder / "run.json").write_text("{}")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    (folder / "optimizer.pt").write_bytes(b"x")
    return folder


@pytest.fixture
def tokenizer():
    return train_bpe(["some text of words " * 50], 300, show_progress=False)


class Numbered(list):
    source = "/somewhere/private/texts.txt"

    def fingerprint(self):
        return "numbered"


def push(*arguments):
    return CliRunner().invoke(app, ["push", *map(str, arguments)])


def test_a_model_goes_in_one_commit_and_comes_back(simclr, hub_here, tmp_path, run_command):
    done = push(simclr, "me/simclr")
    assert done.exit_code == 0 and "me/simclr/commit/" in done.stdout, done.output
    files = hub_here.files("me/simclr")
    assert len(HfApi().list_repo_commits("me/simclr")) == 2, "the empty one, and ours"
    for name in ("config.json", "model.safetensors", "modeling_simclr.py", "backbone.py", "recipe.yaml"):
        assert files[name] == (simclr / name).read_bytes()
    assert {"recipe/pretrain_simclr.py", "training_curve.png", "run.json"} <= files.keys()
    assert not any("checkpoint" in name or name.endswith(".pt") for name in files)
    card = files["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    code += "\nprint(sum(weight.double().sum().item() for weight in model.parameters()))"
    script = tmp_path / "load.py"
    script.write_text("import sys\nsys.modules['hfssl'] = None\n" + code)
    loaded = run_command(sys.executable, script, env=hub_here.environment(tmp_path / "other-home"), cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    encoder = {k: v for k, v in load_file(simclr / "model.safetensors").items() if k.startswith("simclr.")}
    learned = sum(v.double().sum().item() for k, v in encoder.items() if "running" not in k and "num_batches" not in k)
    assert float(loaded.stdout.split()[-1]) == pytest.approx(learned, rel=1e-9)


def test_a_dry_run_sends_nothing(simclr, hub_here):
    done = push(simclr, "me/simclr", "--dry-run")
    assert done.exit_code == 0 and not hub_here.requests(), "not a single request"
    assert f"{(simclr / 'model.safetensors').stat().st_size:,}  model.safetensors" in done.stdout
    assert "left out: optimizer.pt: a pickle" in done.stdout and "AutoModel.from_pretrained" in done.stdout


def test_the_same_again_sends_nothing_and_a_change_only_itself(simclr, hub_here):
    push(simclr, "me/simclr")
    hub_here.log.clear()
    assert push(simclr, "me/simclr").exit_code == 0 and not hub_here.uploads()
    (simclr / "recipe.yaml").write_text("max_steps: 3\n")
    assert push(simclr, "me/simclr").exit_code == 0
    assert [path for request in hub_here.uploads() for path in request.files] == ["recipe.yaml"]


@pytest.mark.parametrize("where", ["/info/lfs/|/lfs/", "/commit/main"])
def test_a_push_that_breaks_off_shows_nothing_and_the_next_one_completes_it(simclr, hub_here, where, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub_here.cut("POST" if "commit" in where else "PUT", "/commit/main" if "commit" in where else "", times=99)
    done = push(simclr, "me/simclr")
    assert done.exit_code == 2 and "the same command sends what is missing" in done.stderr, done.output
    assert "files are there, none is visible yet" in done.stderr and "Traceback" not in done.stderr
    assert hub_here.files("me/simclr").keys() <= {".gitattributes"}, "no half of a commit"
    hub_here.faults.clear()
    hub_here.log.clear()
    assert push(simclr, "me/simclr").exit_code == 0
    assert hub_here.files("me/simclr")["model.safetensors"] == (simclr / "model.safetensors").read_bytes()
    if "commit" in where:
        assert not hub_here.requests("PUT"), "the weights were there already"


def test_a_language_model_and_its_tokenizer(hub_here, tmp_path, tokenizer):
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **TINY_GPT)).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    assert push(tmp_path / "gpt", "me/gpt", "--private").exit_code == 0
    names = {}
    exec(re.search(r"```python\n(.*?)```", hub_here.files("me/gpt")["README.md"].decode(), re.S)[1], names)
    assert names["tokenizer"]("some text")["input_ids"] == tokenizer("some text")["input_ids"]
    weights = names["model"].state_dict()
    assert all(weights[name].equal(value) for name, value in load_file(tmp_path / "gpt" / "model.safetensors").items())
    assert HfApi().model_info("me/gpt").private


def test_weights_in_parts_take_the_place_of_those_in_one_file(hub_here, tmp_path, tokenizer):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **TINY_GPT))
    model.save_pretrained(tmp_path / "one")
    assert push(tmp_path / "one", "me/gpt").exit_code == 0
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1.0)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert push(tmp_path / "parts", "me/gpt").exit_code == 0
    assert GPT2LMHeadModel.from_pretrained("me/gpt").transformer.ln_f.bias.eq(1).all(), "and not those of before"
    next((tmp_path / "parts").glob("model-00002*")).unlink()
    with pytest.raises(InputError, match=r"lacks model-00002-of.*, which its model.safetensors.index.json names"):
        plan_push(tmp_path / "parts", "me/gpt")


def test_a_card_names_the_repository_whatever_the_folder_was_called(simclr, hub_here, tmp_path):
    for first, second in (("me/one", "simclr"), ("me/two", "renamed")):
        (simclr / "README.md").write_text('---\ntags: [x]\n---\n```python\nm = A.from_pretrained("./old", b=1)\n```\n')
        push(simclr.rename(tmp_path / second), first)
        simclr = tmp_path / second
        assert f'm = A.from_pretrained("{first}", b=1)' in hub_here.files(first)["README.md"].decode()


def test_a_tokenizer_alone(hub_here, tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "bpe")
    assert push(tmp_path / "bpe", "me/bpe").exit_code == 0
    assert AutoTokenizer.from_pretrained("me/bpe")("some words").input_ids == tokenizer("some words").input_ids


def test_a_corpus_is_a_data_set_of_documents(hub_here, tmp_path, tokenizer):
    texts = Numbered(["some text", "words of text", "some words"])
    corpus = build_corpus(texts, tokenizer, tmp_path / "corpus", tokenizer.eos_token_id, shard_characters=12)
    assert push(tmp_path / "corpus", "me/corpus").exit_code == 0
    for streaming in (False, True):
        rows = [row["input_ids"] for row in load_dataset("me/corpus", split="train", streaming=streaming)]
        assert len(rows) == 3 and np.array_equal(np.concatenate(rows), corpus.read(0, len(corpus)))
        assert all(row[-1] == tokenizer.eos_token_id for row in rows)
    hub_here.log.clear()
    assert push(tmp_path / "corpus", "me/corpus").exit_code == 0 and not hub_here.uploads(), "the same bytes"
    assert Corpus(tmp_path / "corpus").manifest["documents"] == 3
    build_corpus(texts, tokenizer, tmp_path / "other", tokenizer.eos_token_id)  # in one shard
    assert push(tmp_path / "other", "me/corpus").exit_code == 0
    assert len(load_dataset("me/corpus", split="train", download_mode="force_redownload")) == 3, "no shard of before"
    card = hub_here.files("me/corpus", kind="dataset")["README.md"].decode()
    assert "* text: texts.txt, " in card and "/somewhere" not in card
    (tmp_path / "other" / "tokenizer_x.json").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="is a link; nothing was sent"):
        plan_push(tmp_path / "other", "me/corpus")


def test_embeddings_are_a_data_set(hub_here, tmp_path):
    features = {"train": torch.randn(4, 3), "test": torch.randn(2, 3)}
    labels = {name: type("Images", (), {"labels": np.arange(len(part))}) for name, part in features.items()}
    write_embeddings(tmp_path / "embeddings.parquet", features, labels)
    assert push(tmp_path / "embeddings.parquet", "me/features").exit_code == 0
    rows = load_dataset("me/features", split="train")
    assert np.array_equal(np.float32(rows["embedding"][:]), torch.cat(list(features.values())).numpy())


def test_a_metric_is_a_space_of_its_name(hub_here, tmp_path, run_command):
    assert push("metric:glue_official", "me/glue_official").exit_code == 0
    assert HfApi().space_info("me/glue_official").sdk == "gradio"
    assert {"glue_official.py", "metrics.py", "app.py"} <= hub_here.files("me/glue_official", kind="space").keys()
    code = (
        "import evaluate\nmetric = evaluate.load('me/glue_official', 'mrpc')\n"
        "print(metric.compute(predictions=[1, 0, 1], references=[1, 1, 1]))"
    )
    loaded = run_command(sys.executable, "-c", code, env=hub_here.environment(tmp_path / "home"), cwd=tmp_path)
    assert loaded.returncode == 0 and "'f1': 0.8" in loaded.stdout, loaded.stderr[-2000:]
    done = push("metric:glue_official", "me/other")
    assert done.exit_code == 2 and "push it to me/glue_official" in done.stderr


def test_scores_come_as_a_pull_request_and_are_read_back(hub_here, tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    result = model_result()
    write_result(result, tmp_path / "glue" / "glue_dev.json")
    done = push(tmp_path / "glue", "me/bert")
    assert done.exit_code == 2 and "there is no model me/bert: push the model first" in done.stderr
    assert push(tmp_path / "bert", "me/bert").exit_code == 0
    before = hub_here.files("me/bert")
    done = push(tmp_path / "glue", "me/bert")
    assert done.exit_code == 0 and "/discussions/1" in done.stdout, done.output
    assert hub_here.files("me/bert") == before, "main waits for the merge"
    HfApi().merge_pull_request("me/bert", 1)
    files = hub_here.files("me/bert")
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/glue.yaml"]))
    tasks = {entry.task_id: entry for entry in entries}
    assert {entry.dataset_id for entry in entries} == {"nyu-mll/glue"} and tasks.keys() == result.tasks.keys()
    for name, task in result.tasks.items():
        assert tasks[name].value == round(task.median()[TASKS[f"glue/{name}"].headline], 2)
    card = ModelCard(files["README.md"].decode())
    shown = {(one.dataset_config, one.metric_type) for one in card.data.eval_results}
    assert ("mrpc", "f1") in shown and ("mrpc", "accuracy") in shown
    assert card.text.strip() == ModelCard(before["README.md"].decode()).text.strip()
    hub_here.log.clear()
    assert push(tmp_path / "bert", "me/bert").exit_code == 0 and not hub_here.uploads(), "the scores stay in the card"
    result.tasks = {"cola": result.tasks["cola"]}
    result.tasks["cola"].scores = {"matthews_correlation": [77.0] * len(result.tasks["cola"].seeds)}
    write_result(result, tmp_path / "cola" / "glue_dev.json")
    for _ in range(2):  # the same pull request, however often
        assert "/discussions/2" in push(tmp_path / "cola", "me/bert").stdout
    HfApi().merge_pull_request("me/bert", 2)
    entries = parse_eval_result_entries(yaml.safe_load(hub_here.files("me/bert")[".eval_results/glue.yaml"]))
    values = {entry.task_id: entry.value for entry in entries}
    assert values == {name: entry.value for name, entry in tasks.items()} | {"cola": 77.0}, "the others stay"
    with pytest.raises(InputError, match="the card of me/bert has a damaged head; mend it first"):
        with_scores("---\na: [\n---\n", "me/bert", card.data.eval_results)


def test_scores_of_a_probe(simclr, hub_here, tmp_path):
    assert push(simclr, "me/simclr").exit_code == 0
    row = {"encoder": "simclr", "test": "plain", "protocol": "kNN", "labels": "all", "accuracy": 0.5, "low": 0.4,
           "high": 0.6, "layer": "pooled"}  # fmt: skip
    rows = [row, row | {"encoder": "random init", "accuracy": 0.25}]
    data = {"plain": {"source": "me/pictures (Hub, test)", "images": 100}}
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "results.json").write_text(json.dumps({"rows": rows, "protocol": "x", "data": data}))
    assert push(tmp_path / "probe", "me/simclr").exit_code == 0
    HfApi().merge_pull_request("me/simclr", 1)
    files = hub_here.files("me/simclr")
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/probe.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/pictures", "kNN", 50.0)
    assert "95 % interval 40.0 to 60.0 over 100 images; anchors: random init 25.0" in entry.notes
    (score,) = ModelCard(files["README.md"].decode()).data.eval_results
    assert score.metric_value == 50.0 and score.dataset_type == "me/pictures"


def test_synthetic_scores_are_nobodys(tmp_path):
    result = model_result()
    result.synthetic = True
    write_result(result, tmp_path / "glue_dev.json")
    with pytest.raises(InputError, match="is of synthetic data"):
        plan_push(tmp_path, "me/bert")


@pytest.mark.parametrize(
    ("repo", "message"),
    [("me/a b", "no name of a repository"), ("simclr", "must be USER/NAME"), ("../x/y", "no name of a repository")],
)
def test_names_that_are_none(simclr, repo, message):
    with pytest.raises(InputError, match=message):
        plan_push(simclr, repo)


def test_what_cannot_be_pushed(simclr, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "empty", "nothing that can be pushed.*it holds nothing"),
        ("metric:glu_official", "no metric 'glu_official'.*did you mean"),
    ):
        with pytest.raises(InputError, match=message):
            plan_push(source, "me/x")
    link = simclr / "secret.txt"
    link.symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="a link out of the folder"):
        plan_push(simclr, "me/x")
    link.unlink()
    (tmp_path / "x.parquet").write_text("none")
    with pytest.raises(InputError, match=r"x.parquet is no parquet file"):
        plan_push(tmp_path / "x.parquet", "me/x")
    (simclr / "a.json").mkdir()
    (simclr / "weights.PT").write_bytes(b"x")
    (simclr / "old").write_bytes(b"\x80\x04 a pickle")
    upload = plan_push(simclr, "me/x")
    assert {"weights.PT", "old", "optimizer.pt"} == upload.left_out.keys()
    config = (simclr / "config.json").read_text()
    for damage in (
        {"auto_map": [1]},
        {"auto_map": None, "model_type": 3},
        {"auto_map": {"AutoTokenizer": [None, "t.X"]}},
    ):
        (simclr / "config.json").write_text(json.dumps(json.loads(config) | damage))
        with contextlib.suppress(InputError):
            plan_push(simclr, "me/x")
    (simclr / "config.json").write_text(config)
    (simclr / "README.md").write_text("---\na: [\n---\ntext")
    with pytest.raises(InputError, match="has a damaged head"):
        plan_push(simclr, "me/x")
    (simclr / "README.md").unlink()
    (simclr / "modeling_simclr.py").unlink()
    with pytest.raises(InputError, match=r"lacks modeling_simclr.py, which its config.json names"):
        plan_push(simclr, "me/x")
    (simclr / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(InputError, match=r"no weights that can be pushed|is damaged"):
        plan_push(simclr, "me/x")
    (simclr / "model.safetensors").rename(simclr / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no weights that can be pushed: only .*, a pickle, which can run code"):
        plan_push(simclr, "me/x")


def test_a_token_is_never_sent_nor_shown(simclr, hub_here, monkeypatch):
    for secret in (hub_here.token, "hf_" + "a1B2" * 9):
        for name in ("run.json", "run.sh", "notes.ipynb", "LOG", "a.TXT"):
            (simclr / name).write_text(json.dumps({"hub_token": secret}))
            done = push(simclr, "me/simclr")
            assert done.exit_code == 2 and f"{name} holds an access token: nothing was sent" in done.stderr
            assert secret not in done.output and not hub_here.requests()
            (simclr / name).write_text("{}")
    hub_here.fail("POST", "/api/repos/create", 500, times=99)
    done = push(simclr, "me/simclr")
    assert done.exit_code == 2 and hub_here.token not in done.output


def test_rights_and_connections(simclr, hub_here, monkeypatch):
    for token, message in ((hub_here.read_token, "no right to write there"), ("hf_wrong", "the token is not valid")):
        monkeypatch.setenv("HF_TOKEN", token)
        done = push(simclr, "me/simclr")
        assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr, done.output
    monkeypatch.delenv("HF_TOKEN")
    done = push(simclr, "me/simclr")
    assert done.exit_code == 2 and "no token: run `hf auth login`, or set HF_TOKEN" in done.stderr
    monkeypatch.setenv("HF_TOKEN", hub_here.token)
    for status, message in ((429, "asks to wait"), (409, "changed at the same time")):
        hub_here.fail("POST", "/commit/main", status, times=99)
        done = push(simclr, "me/simclr")
        assert done.exit_code == 2 and message in done.stderr, done.output
        hub_here.faults.clear()


def test_offline_is_one_line(simclr, hub_here, run_command, hfssl_command, tmp_path):
    nowhere = hub_here.environment(tmp_path / "home") | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for environment in (nowhere, nowhere | {"HF_HUB_OFFLINE": "1"}):
        done = run_command(hfssl_command, "push", simclr, "me/simclr", env=environment)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(lines) == 1 and "the Hub was not reached" in lines[0], done.stderr
        assert "Traceback" not in done.stderr and hub_here.token not in done.stdout + done.stderr


def test_another_model_is_never_laid_over_one(simclr, hub_here, tmp_path, tokenizer):
    assert push(simclr, "me/x").exit_code == 0
    GPT2LMHeadModel(GPT2Config(vocab_size=300, **TINY_GPT)).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "bpe")
    for other, kind in ((tmp_path / "gpt", "gpt2"), (tmp_path / "bpe", "tokenizer")):
        done = push(other, "me/x")
        assert done.exit_code == 2 and f"holds a hfssl_simclr model and this is a {kind}" in done.stderr, done.output


def test_a_pull_request(simclr, hub_here):
    upload = plan_push(simclr, "me/simclr")
    send(upload)
    (simclr / "recipe.yaml").write_text("max_steps: 9\n")
    assert "/discussions/1" in send(plan_push(simclr, "me/simclr"), pr=True)
    assert hub_here.files("me/simclr")["recipe.yaml"] == b"max_steps: 2\n"
