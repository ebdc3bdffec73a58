"""Points the libraries of this process to a Hub of a test. They read its address at import, in several places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets.config
import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
from huggingface_hub import HfFileSystem, constants, hf_api
from huggingface_hub.utils import close_session

from tests.hub_server.server import HubServer


@contextmanager
def using(hub: HubServer, home: Path, token: str | None = None) -> Iterator[None]:
    """Within the block: HfApi, from_pretrained, push_to_hub, Trainer, load_dataset.

    `home` takes the place of ~/.cache/huggingface; the token is the writing one by default, "" for none.
    """
    with pytest.MonkeyPatch.context() as patch:
        _point_to(hub, home, token, patch)
        close_session()  # one that was made before has other proxies
        yield
    HfFileSystem.clear_instance_cache()
    close_session()


def _point_to(hub: HubServer, home: Path, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in hub.environment(home, token).items():
        monkeypatch.setenv(name, value)
    cache = str(home / "hub")
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": cache,
        "HUGGINGFACE_HUB_CACHE": cache,
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    # The functions of huggingface_hub are methods of one object, made at import; transformers makes its own at need.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    for name, value in {
        "HF_ENDPOINT": hub.endpoint,
        "HUB_DATASETS_URL": hub.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_UPDATE_DOWNLOAD_COUNTS": False,
        "HF_DATASETS_CACHE": home / "datasets",
        "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
        "EXTRACTED_DATASETS_PATH": home / "datasets" / "downloads" / "extracted",
        "HF_MODULES_CACHE": home / "modules",
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    for module in (transformers.utils.hub, transformers.dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(home / "modules"))
