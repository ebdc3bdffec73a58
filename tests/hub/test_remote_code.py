"""Code beside weights runs only when asked for, at one commit, and is shown first."""

import hashlib
import json
import logging

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi

from hfssl.errors import InputError
from hfssl.evaluation.encoders import load_encoder
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.remote_code import pinned_model
from tests.conftest import TINY_RESNET

EVIL = b"raise SystemExit('evil')"
PIXELS = torch.zeros(1, 3, 32, 32)


@pytest.fixture
def first(hub_here, tmp_path):
    """The commit of a model that is then pushed over."""
    model = SimCLRForPreTraining(SimCLRConfig(**TINY_RESNET))
    model.save_pretrained(tmp_path / "one")
    api = HfApi()
    api.create_repo("me/simclr")
    commit = api.upload_folder(repo_id="me/simclr", folder_path=tmp_path / "one").oid
    operations = [
        CommitOperationAdd("modeling_simclr.py", b"raise SystemExit('evil')"),
        CommitOperationAdd("a.pkl", b"x"),
    ]
    api.create_commit("me/simclr", operations, commit_message="over")
    return commit, model.eval(), tmp_path / "one"


def test_the_files_and_their_hashes_are_shown_before_the_code_runs(first, caplog):
    commit, model, folder = first
    caplog.set_level(logging.INFO, "hfssl")
    encoder = load_encoder(f"me/simclr@{commit}", trust_remote_code=True)
    assert torch.equal(encoder.encode(PIXELS), model.simclr(PIXELS).pooler_output)
    assert f"lets this code of me/simclr run at commit {commit}:" in caplog.text
    for path in folder.glob("*.py"):
        assert f"{path.name}  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in caplog.text
    caplog.clear()
    pinned_model("me/simclr", trust_remote_code=True)
    assert commit not in caplog.text and hashlib.sha256(EVIL).hexdigest() in caplog.text, "what is on main now"


def test_code_of_another_repository_never_runs(hub_here, tmp_path):
    """transformers would take it from that one's main, whatever was pinned."""
    SimCLRConfig(**TINY_RESNET).save_pretrained(tmp_path / "one")
    path = tmp_path / "one" / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "my-org/code--modeling_simclr.SimCLRModel"}}
    path.write_text(json.dumps(config))
    HfApi().create_repo("me/x")
    HfApi().upload_folder(repo_id="me/x", folder_path=tmp_path / "one")
    for source in ("me/x", str(tmp_path / "one")):
        with pytest.raises(InputError, match="names code of another repository, which never runs"):
            load_encoder(source, trust_remote_code=True)
    assert not hub_here.requests(pattern="my-org/code")


def test_nothing_is_taken_that_was_not_asked_for(first, hub_here):
    folder = first[2]
    hub_here.log.clear()
    assert pinned_model("me/simclr") == "me/simclr" and not hub_here.requests()
    assert pinned_model(str(folder)) == str(folder)
    assert not [request for request in hub_here.requests() if "a.pkl" in request.path]
    pinned_model("me/simclr", trust_remote_code=True)
    assert not [request for request in hub_here.requests("GET") if "a.pkl" in request.path], "a pickle stays there"
    with pytest.raises(InputError, match="cannot load 'me/simclr' at nowhere from the Hub"):
        pinned_model("me/simclr@nowhere")
    with pytest.raises(InputError, match="cannot load 'me/none' at main from the Hub"):
        load_encoder("me/none", trust_remote_code=True)
