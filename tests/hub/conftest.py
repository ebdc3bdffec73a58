import types

import pytest
from huggingface_hub import HfApi


@pytest.fixture
def api(hub_here):
    return HfApi()


@pytest.fixture
def no_waits(monkeypatch):
    """The client's waits before it tries again, noted instead of waited."""
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", types.SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("huggingface_hub.file_download.time", types.SimpleNamespace(sleep=waits.append))
    return waits
