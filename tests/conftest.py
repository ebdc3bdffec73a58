"""No test reaches a network, the user's cache, or another test's threads."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.hub_server import HubServer

# MKL may sum in another order where memory is aligned otherwise, as that of loaded weights is: "the same bits" are to
# be those of the model. It reads this when it is first called.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

ROOT = Path(__file__).resolve().parent.parent
# A backbone that is built and run in milliseconds.
TINY_RESNET = {
    "backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}, "image_size": 32,
}  # fmt: skip
TINY_GPT = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32}


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["HFSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def messages_reach_caplog():
    """`exits_on_bad_input` gives hfssl's logger a handler of its own; pytest listens at the root."""
    yield
    logger = logging.getLogger("hfssl")
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def hub_server():
    import yaml

    with HubServer(read_yaml=yaml.safe_load) as server:
        yield server


@pytest.fixture
def hub(hub_server):
    """An empty Hub over HTTP (tests/hub_server). A subprocess uses it with `env=hub.environment(home)`."""
    hub_server.reset()
    return hub_server


@pytest.fixture
def hub_here(hub, tmp_path):
    """The same, with the libraries of this process pointed to it."""
    from tests.hub_server.in_process import using

    with using(hub, tmp_path / "hub-home"):
        yield hub


@pytest.fixture
def run_command():
    """Runs a command in the repository as a user would; returns the finished process with its output as text."""

    def run(*command, timeout=300, **kwargs):
        environment = {**os.environ, **kwargs.pop("env", {})}
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, env=environment,
            cwd=kwargs.pop("cwd", ROOT), **kwargs,
        )  # fmt: skip

    return run


@pytest.fixture
def hfssl_command():
    """The installed console command beside this Python."""
    return Path(sys.executable).parent / "hfssl"


@pytest.fixture
def accelerate_command():
    return Path(sys.executable).parent / "accelerate"
