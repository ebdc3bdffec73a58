"""`push_to_hub: true` in a run: each strategy, what is sent and what is not, and a resume from the Hub elsewhere."""

import hashlib
import json
import shutil
import sys

import pytest
import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import load, load_file

from hfssl.errors import InputError
from hfssl.training import run
from hfssl.training.checkpoint import MANIFEST, checkpoints
from tests.conftest import TINY_RESNET
from tests.training.test_run import KillAt, assert_equal_runs, trainer_for

MODEL = {"config.json", "generation_config.json", "model.safetensors"}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "position.json", MANIFEST}


def pushing(out, strategy, **arguments):
    """12 steps, a checkpoint each 4; `hub_always_push`: no push is left out because the one before it still runs."""
    settings = {"push_to_hub": True, "hub_model_id": "me/run", "hub_strategy": strategy, "hub_always_push": True}
    return trainer_for(out, **(settings | arguments))


@pytest.mark.parametrize(
    ("strategy", "commits", "folders"),
    [
        ("end", 1, set()),
        ("every_save", 4, set()),
        ("checkpoint", 4, {"last-checkpoint"}),
        ("all_checkpoints", 4, {"checkpoint-4", "checkpoint-8", "checkpoint-12"}),
    ],
)
def test_each_strategy_sends_what_it_says(hub_here, tmp_path, strategy, commits, folders):
    run(pushing(tmp_path / "out", strategy))
    files = hub_here.files("me/run")
    titles = [commit.title for commit in HfApi().list_repo_commits("me/run")]
    assert titles[0] == "hfssl push: model" and len(titles) == commits + 1
    assert {path.split("/")[0] for path in files if "/" in path} == folders
    top = {path for path in files if "/" not in path}
    assert top == MODEL | {"README.md", "run.json", "log_history.json", "training_curve.png", ".gitattributes"}
    for folder in folders:
        assert {path.split("/")[1] for path in files if path.startswith(folder)} == MODEL | STATE
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    for step, title in ((4, titles[-2]), (8, titles[-3])) if commits > 1 else ():
        assert title == f"Training in progress, step {step}"
    if strategy == "all_checkpoints":  # each is the model of its step
        weights = [files[f"checkpoint-{step}/model.safetensors"] for step in (4, 8, 12)]
        assert len(set(weights)) == 3 and weights[2] == files["model.safetensors"]


def test_a_commit_in_mid_training_holds_the_model_of_its_step_whole(hub_here, tmp_path):
    run(pushing(tmp_path / "out", "checkpoint", save_total_limit=1))
    commits = HfApi().list_repo_commits("me/run")[1:-1]
    for commit, step in zip(commits, (12, 8, 4), strict=True):
        files = hub_here.files("me/run", commit.commit_id)
        assert files["model.safetensors"] == files["last-checkpoint/model.safetensors"]
        assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == step
        assert json.loads(files["run.json"])["finished"] is False
        assert all(weight.isfinite().all() for weight in load(files["model.safetensors"]).values())


def test_stopped_here_and_resumed_there_equals_uninterrupted(hub_here, tmp_path, caplog):
    run(trainer_for(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        run(pushing(tmp_path / "here", "checkpoint", callbacks=[KillAt(6)]))
    last = int(json.loads(hub_here.files("me/run")["last-checkpoint/trainer_state.json"])["global_step"])
    assert last in (6, 7), "the checkpoint of the signal, not the regular one before it"
    shutil.rmtree(tmp_path / "here")
    torch.manual_seed(99)
    snapshot_download("me/run", local_dir=tmp_path / "there")
    caplog.clear()
    with caplog.at_level("INFO"):
        run(pushing(tmp_path / "there", "checkpoint"))
    assert f"Resuming from {tmp_path / 'there' / f'checkpoint-{last}'}" in caplog.text
    assert_equal_runs(tmp_path / "whole", tmp_path / "there")
    assert [path.name for path in checkpoints(tmp_path / "there")] == ["checkpoint-8", "checkpoint-12"]
    files = hub_here.files("me/run")
    assert files["model.safetensors"] == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not any(path.startswith((".cache", "checkpoint-")) for path in files)


def test_a_checkpoint_stays_while_it_is_sent(hub_here, tmp_path, caplog):
    """One checkpoint is kept, and the run makes the next ones while the first is on its way."""
    hub_here.slow("POST", "/preupload/", 1.5)
    run(pushing(tmp_path / "out", "checkpoint", save_total_limit=1, hub_always_push=False))
    assert "failed" not in caplog.text
    commits = HfApi().list_repo_commits("me/run")
    assert commits[-2].title == "Training in progress, step 4"
    files = hub_here.files("me/run", commits[-2].commit_id)
    for path, (size, digest) in json.loads(files[f"last-checkpoint/{MANIFEST}"])["files"].items():
        content = files[f"last-checkpoint/{path}"]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)
    assert [path.name for path in checkpoints(tmp_path / "out")][-1] == "checkpoint-12"


def test_what_is_pushed_has_our_card(hub_here, tmp_path):
    run(pushing(tmp_path / "out", "end"))
    card = hub_here.files("me/run")["README.md"].decode()
    assert 'from_pretrained("me/run")' in card and "counting" in card and "generated_from_trainer" not in card


def test_no_pickle_of_the_arguments_and_no_token_is_sent(hub_here, tmp_path):
    run(pushing(tmp_path / "out", "all_checkpoints", hub_token=hub_here.token))
    for commit in HfApi().list_repo_commits("me/run"):
        for path, content in hub_here.files("me/run", commit.commit_id).items():
            assert not path.endswith("training_args.bin")
            assert hub_here.token.encode() not in content, path
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or hub_here.token.encode() not in path.read_bytes(), path


def test_a_push_that_fails_in_mid_training_is_said_and_the_next_one_makes_it_good(hub_here, tmp_path, caplog):
    hub_here.fail("POST", "/commit/main", 403, first=2)
    run(pushing(tmp_path / "out", "checkpoint"))
    assert "the push of checkpoint-8 to me/run failed" in caplog.text and "403" in caplog.text
    titles = [commit.title for commit in HfApi().list_repo_commits("me/run")]
    assert [title.split()[-1] for title in titles[:3]] == ["model", "12", "4"]


def test_the_last_push_fails_in_one_line(hub_here, tmp_path):
    hub_here.fail("POST", "/commit/main", 500)
    with pytest.raises(InputError, match=r"cannot push to me/run: .*500") as caught:
        run(pushing(tmp_path / "out", "end"))
    assert "\n" not in str(caught.value) and str(tmp_path / "out") in str(caught.value)
    assert (tmp_path / "out" / "model.safetensors").exists()
    trainer = pushing(tmp_path / "out", "end")
    with torch.no_grad():
        trainer.model.transformer.wte.weight.zero_()  # a new model, not the trained one: what is pushed is the folder's
    run(trainer)
    files = hub_here.files("me/run")
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes(), (
        "the same command goes on"
    )


@pytest.mark.parametrize("problem", ["no token", "read only", "bad name", "offline"])
def test_what_cannot_be_pushed_is_one_line_before_training(hub_here, tmp_path, monkeypatch, problem):
    arguments = {}
    if problem == "bad name":
        arguments = {"hub_model_id": "me/a name"}
    elif problem == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setenv("HF_TOKEN", hub_here.read_token if problem == "read only" else "")
    says = {"no token": "401", "read only": "rights to create", "bad name": "a name", "offline": "offline"}[problem]
    with pytest.raises(InputError, match=rf"cannot push to me/\S*.*: .*{says}") as caught:
        pushing(tmp_path / "out", "end", **arguments)
    assert "\n" not in str(caught.value)
    assert hub_here.repositories == {}


def test_a_recipe_pushes_its_code_and_goes_on_on_another_machine(hub, run_command, tmp_path):
    """As a user runs it, by a YAML; and from the repository as it was at half of the way, in another folder."""
    small = {"backbone": "resnet10t", "backbone_kwargs": TINY_RESNET["backbone_kwargs"], "image_size": 32}
    settings = {
        "image_path": "builtin:digits", "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 16,
        "push_to_hub": True, "hub_model_id": "me/run", "hub_strategy": "checkpoint", "hub_always_push": True,
        "hub_private_repo": True, "use_cpu": True, "model": small,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(settings))  # which is YAML, too

    def train(folder):
        done = run_command(
            sys.executable, "recipes/pretrain_simclr.py", "--config", tmp_path / "run.yaml", "--output_dir", folder,
            env=hub.environment(tmp_path / "home"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.token not in done.stdout + done.stderr
        return done.stderr

    train(tmp_path / "here")
    files = hub.files("me/run")
    assert hub.repository("me/run").private
    history = hub.repository("me/run").history(hub.repository("me/run").head)
    half = next(commit for commit in history if commit.title == "Training in progress, step 2")
    code = {"modeling_simclr.py", "backbone.py", "contrastive.py"}
    for tree in (files, half.tree):  # so that each state of the repository loads where hfssl is not
        assert code | {"config.json", "model.safetensors", "run.json"} <= tree.keys()
        assert not [path for path in tree if path.endswith((".bin", ".pkl"))]
    assert 'from_pretrained("me/run", trust_remote_code=True)' in files["README.md"].decode()
    for path, blob in half.tree.items():
        target = tmp_path / "there" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(blob.data)
    assert f"Resuming from {tmp_path / 'there' / 'checkpoint-2'}" in train(tmp_path / "there")
    assert hub.files("me/run")["model.safetensors"] == files["model.safetensors"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "there"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
