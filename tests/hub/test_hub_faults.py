"""Faults that a test asks the Hub server for, as huggingface_hub's own client sees them."""

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.hub_server.client import LARGE, add, download


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_request_that_fails_once_is_sent_again(hub, api, no_waits, status):
    api.create_repo("me/x")
    hub.fail("PUT", "^/lfs/", status, retry_after=7 if status == 429 else None)
    add(api, {"a.safetensors": LARGE})
    assert [request.status for request in hub.requests("PUT")] == [status, 200]
    assert no_waits == [8.0 if status == 429 else 1]
    assert download("me/x", "a.safetensors") == LARGE


def test_a_request_that_goes_on_failing(hub, api, no_waits):
    api.create_repo("me/x")
    hub.fail("PUT", "^/lfs/", 503, times=100)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'a\.safetensors'") as caught:
        add(api, {"a.safetensors": LARGE})
    assert "503" in str(caught.value.__cause__)
    assert hub.files("me/x").keys() == {".gitattributes"} and hub.uploads() == []


def test_the_nth_request_fails(hub, api):
    api.create_repo("me/x")
    hub.fail("POST", "/commit/main", 409, first=2)
    add(api, {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="409"):
        add(api, {"b.txt": b"b"})
    add(api, {"c.txt": b"c"})
    assert api.list_repo_files("me/x") == [".gitattributes", "a.txt", "c.txt"]


def test_an_upload_that_is_cut_is_sent_again(hub, api, no_waits):
    api.create_repo("me/x")
    hub.cut("PUT", "^/lfs/")
    add(api, {"a.safetensors": LARGE})
    first, second = hub.requests("PUT", "^/lfs/")
    assert first.status is None and first.received == len(LARGE) // 2 and second.status == 200
    assert download("me/x", "a.safetensors") == LARGE


def test_a_commit_that_is_cut_leaves_nothing_and_a_rerun_sends_what_is_missing(hub, api):
    api.create_repo("me/x")
    hub.cut("POST", "/commit/main")
    with pytest.raises(httpx2.TransportError):
        add(api, {"a.safetensors": LARGE, "b.txt": b"b" * 10**6})
    assert hub.files("me/x").keys() == {".gitattributes"}
    hub.log.clear()
    add(api, {"a.safetensors": LARGE, "b.txt": b"b" * 10**6})
    (sent,) = hub.uploads()
    assert "/commit/" in sent.path and sorted(sent.files) == ["a.safetensors", "b.txt"]
    assert download("me/x", "a.safetensors") == LARGE


def test_a_commit_whose_answer_is_lost_has_happened(hub, api):
    api.create_repo("me/x")
    hub.cut("POST", "/commit/main", "answer")
    with pytest.raises(httpx2.TransportError):
        add(api, {"a.txt": b"a"})
    assert hub.files("me/x")["a.txt"] == b"a"
    hub.log.clear()
    add(api, {"a.txt": b"a"})
    assert hub.uploads() == []


def test_a_download_that_is_cut_goes_on_where_it_was(hub, api, no_waits, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**14)
    api.create_repo("me/x")
    add(api, {"a.safetensors": LARGE})
    hub.cut("GET", "/resolve/", "answer")
    assert download("me/x", "a.safetensors") == LARGE
    assert [request.status for request in hub.requests("GET", "/resolve/")] == [None, 206]


def test_a_slow_answer(hub, api):
    hub.slow("GET", "/whoami", 0.3)
    url, headers = f"{hub.endpoint}/api/whoami-v2", {"Authorization": f"Bearer {hub.token}"}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(url, headers=headers, timeout=0.1, trust_env=False)
    assert httpx2.get(url, headers=headers, timeout=10, trust_env=False).json()["name"] == "me"


def test_a_corrupted_upload_is_refused(hub, api):
    api.create_repo("me/x")
    url = f"{hub.endpoint}/lfs/models/me/x/{'0' * 64}"
    assert httpx2.put(url, content=b"other", trust_env=False).status_code == 400
    assert hub.repository("me/x").large == {}


def test_a_request_without_what_it_must_have(hub, api):
    headers = {"Authorization": f"Bearer {hub.token}"}
    answer = httpx2.post(f"{hub.endpoint}/api/repos/create", json={}, headers=headers, trust_env=False)
    assert answer.status_code == 500 and "KeyError('name')" in answer.json()["error"]
