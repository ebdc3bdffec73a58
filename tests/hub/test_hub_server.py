"""The Hub server of the tests, route by route, as huggingface_hub's own client sees it."""

import json
import os
import warnings

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfFileSystem,
    ModelCard,
    hf_hub_download,
    list_models,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import HubServer
from tests.hub_server.client import LARGE, add, download, sha256

CARD = "---\nlibrary_name: transformers\ntags: [hfssl]\npipeline_tag: fill-mask\n---\n# A card\n"


# Repositories.


def test_who_a_token_belongs_to(hub, api):
    assert api.whoami()["name"] == "me" and api.whoami()["orgs"] == [{"name": "my-org"}]
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"
    assert api.whoami(token=hub.other_token)["name"] == "someone"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_unknown")


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_is_made_once_moved_and_deleted(hub, api, kind):
    arguments = {"repo_type": kind} | ({"space_sdk": "static"} if kind == "space" else {})
    url = api.create_repo("x", **arguments)
    assert (url.repo_id, url.repo_type) == ("me/x", kind)
    assert api.create_repo("me/x", exist_ok=True, **arguments).repo_id == "me/x"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/x", **arguments)
    api.create_commit("me/x", [CommitOperationAdd("a.txt", b"a")], commit_message="a", repo_type=kind)
    api.move_repo("me/x", "my-org/y", repo_type=kind)
    assert download("my-org/y", "a.txt", repo_type=kind) == b"a"
    assert api.repo_info("me/x", repo_type=kind).id == "my-org/y"  # the old name leads to the new one
    assert download("me/x", "a.txt", repo_type=kind, force_download=True) == b"a"
    assert api.repo_exists("my-org/y", repo_type=kind)
    others = {"model", "dataset", "space"} - {kind}
    assert not any(api.repo_exists("my-org/y", repo_type=other) for other in others)
    api.delete_repo("my-org/y", repo_type=kind)
    assert not api.repo_exists("my-org/y", repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("my-org/y", repo_type=kind)
    api.delete_repo("my-org/y", repo_type=kind, missing_ok=True)


def test_a_name_that_is_no_name(hub):
    headers = {"Authorization": f"Bearer {hub.token}"}
    for name in ("a b", "..", "a/b", "a--b"):
        answer = httpx2.post(f"{hub.endpoint}/api/repos/create", json={"name": name}, headers=headers, trust_env=False)
        assert answer.status_code == 400 and "invalid repository name" in answer.json()["error"]
    assert not hub.repositories


def test_a_private_repository(hub, api, tmp_path):
    api.create_repo("me/x", private=True)
    add(api, {"a.txt": b"a"})
    assert api.model_info("me/x").private
    assert download("me/x", "a.txt", token=hub.read_token) == b"a"
    for token, status in ((False, "401"), (hub.other_token, "404")):
        with pytest.raises(RepositoryNotFoundError, match=status):
            api.model_info("me/x", token=token)
        with pytest.raises(RepositoryNotFoundError, match=status):
            hf_hub_download("me/x", "a.txt", token=token, cache_dir=tmp_path)
        assert list(api.list_models(author="me", token=token)) == []
    assert [row.id for row in api.list_models(author="me")] == ["me/x"]
    api.update_repo_settings("me/x", private=False)
    assert not api.model_info("me/x", token=False).private


def test_a_token_without_write_right(hub, api):
    with pytest.raises(HfHubHTTPError, match=r"403[\s\S]*rights to create a model"):
        api.create_repo("me/x", token=hub.read_token)
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_repo("me/x", token=False)
    api.create_repo("me/x")
    assert api.create_repo("me/x", exist_ok=True, token=hub.read_token).repo_id == "me/x"
    for token in (hub.read_token, hub.other_token):
        with pytest.raises(HfHubHTTPError, match="403"):
            add(api, {"a.safetensors": b"a"}, token=token)
        with pytest.raises(HfHubHTTPError, match="403"):
            api.delete_repo("me/x", token=token)
        with pytest.raises(HfHubHTTPError, match="403"):
            api.create_tag("me/x", tag="v1", token=token)
    assert hub.uploads() == [] and api.list_repo_files("me/x") == [".gitattributes"]


def test_lists(hub, api):
    for id in ("me/bert-small", "me/gpt-small", "my-org/bert-large"):
        api.create_repo(id)
        add(
            api,
            {"README.md": CARD.replace("fill-mask", "text-generation").encode() if "gpt" in id else CARD.encode()},
            id,
        )
    api.create_repo("me/words", repo_type="dataset")
    hub.page_size = 2
    assert [row.id for row in list_models()] == ["my-org/bert-large", "me/gpt-small", "me/bert-small"]
    assert len(hub.requests("GET", "^/api/models$")) == 2
    assert {row.id for row in list_models(author="me")} == {"me/bert-small", "me/gpt-small"}
    assert {row.id for row in list_models(search="BERT")} == {"me/bert-small", "my-org/bert-large"}
    assert [row.id for row in list_models(filter=["hfssl", "text-generation"])] == ["me/gpt-small"]
    assert [row.id for row in list_models(pipeline_tag="text-generation")] == ["me/gpt-small"]
    assert [row.id for row in list_models(limit=1)] == ["my-org/bert-large"]
    assert [row.id for row in api.list_datasets(author="me")] == ["me/words"]


# Files.


def test_regular_and_lfs_files_come_back_byte_for_byte(hub, api):
    api.create_repo("me/x")
    files = {
        "config.json": b'{"a": 1}', "empty.txt": b"", "model.safetensors": LARGE, "zeros.dat": bytes(100),
        "deep/er/ünï cödé #1.txt": b"\xff\r\n",
    }  # fmt: skip
    commit = add(api, files, message="five files")
    assert hub.files("me/x") == files | {".gitattributes": hub.files("me/x")[".gitattributes"]}
    for path, content in files.items():
        assert download("me/x", path) == content
    infos = {info.path: info for info in api.get_paths_info("me/x", [*files, "deep", "absent"], expand=True)}
    assert infos.keys() == {*files, "deep"}
    lfs = infos["model.safetensors"].lfs
    assert (lfs.sha256, lfs.size) == (sha256(LARGE), len(LARGE))
    assert infos["zeros.dat"].lfs and not infos["empty.txt"].lfs
    # as `git hash-object` names it
    assert infos["empty.txt"].blob_id == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert all(info.last_commit.oid == commit.oid for info in infos.values())
    assert len(commit.oid) == 40 and api.model_info("me/x").sha == commit.oid
    info = api.model_info("me/x", files_metadata=True)
    assert {row.rfilename: row.size for row in info.siblings if row.rfilename in files} == {
        path: len(content) for path, content in files.items()
    }


def test_what_is_there_is_not_sent_again(hub, api):
    api.create_repo("me/x")
    add(api, {"a.txt": b"a", "b.safetensors": LARGE})
    hub.log.clear()
    commit = add(api, {"a.txt": b"a", "b.safetensors": LARGE})
    assert hub.uploads() == [] and not hub.requests("POST", "/commit/") and commit.oid == api.model_info("me/x").sha
    add(api, {"a.txt": b"new", "b.safetensors": LARGE, "c.safetensors": LARGE[:-1]})
    uploaded, committed = hub.uploads()
    assert uploaded.files == [sha256(LARGE[:-1])] and uploaded.received == len(LARGE) - 1
    assert sorted(committed.files) == ["a.txt", "c.safetensors"]


def test_a_folder_of_thirty_files(hub, api, tmp_path):
    folder = tmp_path / "folder"
    content = {}
    for number in range(30):
        path = folder / f"part-{number % 4}" / f"{number}.{'txt' if number % 3 else 'bin'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 + number))
        content[str(path.relative_to(folder))] = path.read_bytes()
    api.create_repo("me/x", repo_type="dataset")
    api.upload_folder(repo_id="me/x", folder_path=folder, repo_type="dataset", path_in_repo="data")
    copy = tmp_path / "copy"
    snapshot_download("me/x", repo_type="dataset", local_dir=copy, allow_patterns="data/*")
    copied = {str(path.relative_to(copy / "data")): path for path in (copy / "data").rglob("*") if path.is_file()}
    assert {path: file.read_bytes() for path, file in copied.items()} == content
    commits = api.list_repo_commits("me/x", repo_type="dataset")
    assert len(commits) == 2 and commits[0].authors == ["me"]


@pytest.mark.parametrize("page_size", [1000, 3])
def test_a_tree_in_pages(hub, api, page_size):
    api.create_repo("me/x")
    first = add(api, {f"a/{number}/x.txt": b"%d" % number for number in range(5)} | {"b.txt": b"b"})
    second = add(api, {"a/3/x.txt": b"new"})
    hub.page_size = page_size
    top = list(api.list_repo_tree("me/x"))
    assert [row.path for row in top] == [".gitattributes", "a", "b.txt"]
    everything = {row.path: row for row in api.list_repo_tree("me/x", recursive=True, expand=True)}
    assert everything.keys() == {
        ".gitattributes", "a", "b.txt", *(f"a/{n}" for n in range(5)), *(f"a/{n}/x.txt" for n in range(5))
    }  # fmt: skip
    assert {everything[path].last_commit.oid for path in ("a", "a/3", "a/3/x.txt")} == {second.oid}
    assert {everything[path].last_commit.oid for path in ("a/2", "b.txt")} == {first.oid}
    assert [row.path for row in api.list_repo_tree("me/x", "a/3")] == ["a/3/x.txt"]
    assert len(list(api.list_repo_commits("me/x"))) == 3
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/x", "c"))


def test_deletions_and_copies(hub, api):
    api.create_repo("me/x")
    add(api, {"a.txt": b"a", "f/b.txt": b"b", "f/g/c.bin": b"c", "fx.txt": b"d"})
    operations = [
        CommitOperationCopy("a.txt", "copy.txt"), CommitOperationCopy("f/g/c.bin", "copy.bin"),
        CommitOperationDelete("f/"), CommitOperationDelete("a.txt"),
    ]  # fmt: skip
    api.create_commit("me/x", operations, commit_message="move")
    assert sorted(api.list_repo_files("me/x")) == [".gitattributes", "copy.bin", "copy.txt", "fx.txt"]
    assert download("me/x", "copy.bin") == b"c" and download("me/x", "copy.txt") == b"a"
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("a.txt", "me/x")
    with pytest.raises(EntryNotFoundError):
        api.delete_folder("f", "me/x")


def test_a_commit_is_all_or_nothing(hub, api):
    api.create_repo("me/x")
    before = api.model_info("me/x").sha
    good = CommitOperationAdd("a.txt", b"a")
    with pytest.raises(EntryNotFoundError):
        api.create_commit("me/x", [good, CommitOperationDelete("absent.txt")], commit_message="half")
    missing = {"key": "lfsFile", "value": {"path": "m.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1}}
    outside = {"key": "file", "value": {"path": "../a", "content": "", "encoding": "base64"}}
    for line in (missing, outside, {"key": "other", "value": {"path": "a"}}):
        lines = [{"key": "header", "value": {"summary": "s"}}, line]
        body = "\n".join(json.dumps(each) for each in lines)
        answer = httpx2.post(
            f"{hub.endpoint}/api/models/me/x/commit/main", content=body,
            headers={"Authorization": f"Bearer {hub.token}"}, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 400, line
    assert api.model_info("me/x").sha == before


def test_a_commit_onto_another_parent(hub, api):
    api.create_repo("me/x")
    parent = api.model_info("me/x").sha
    add(api, {"a.txt": b"a"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match=r"412[\s\S]*A commit has happened since"):
        add(api, {"b.txt": b"b"}, parent_commit=parent)
    assert "b.txt" not in api.list_repo_files("me/x")


def test_revisions_branches_and_tags(hub, api):
    api.create_repo("me/x")
    first = add(api, {"a.txt": b"1"})
    api.create_tag("me/x", tag="v1", tag_message="first")
    api.create_branch("me/x", branch="side/line", revision="v1")
    add(api, {"a.txt": b"2"}, revision="side/line")
    add(api, {"a.txt": b"3"})
    wanted = {"v1": b"1", first.oid: b"1", first.oid[:8]: b"1", "side/line": b"2", "main": b"3", None: b"3"}
    for revision, content in wanted.items():
        assert download("me/x", "a.txt", revision=revision) == content
    refs = api.list_repo_refs("me/x")
    assert {row.name for row in refs.branches} == {"main", "side/line"}
    assert [(row.name, row.ref, row.target_commit) for row in refs.tags] == [("v1", "refs/tags/v1", first.oid)]
    assert api.model_info("me/x", revision="v1").sha == first.oid
    assert [row.title for row in api.list_repo_commits("me/x", revision="v1")] == ["add", "initial commit"]
    for make in (api.create_tag, api.create_branch):
        name = {"tag": "v1"} if make == api.create_tag else {"branch": "side/line"}
        with pytest.raises(HfHubHTTPError, match="409"):
            make("me/x", **name)
        make("me/x", exist_ok=True, **name)
    api.delete_branch("me/x", branch="side/line")
    api.delete_tag("me/x", tag="v1")
    for revision in ("v1", "side/line", "0" * 40, "名前"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("me/x", revision=revision)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/x", "a.txt", revision="nowhere")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/x", "nowhere.txt")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("me/nowhere", "a.txt")


def test_ranges_and_headers_of_a_download(hub, api):
    api.create_repo("me/x")
    commit = add(api, {"a.txt": b"0123456789", "b.bin": LARGE})

    def ask(range=None, path="a.txt", method="GET"):
        headers = {"Range": range} if range else {}
        return httpx2.request(method, f"{hub.endpoint}/me/x/resolve/main/{path}", headers=headers, trust_env=False)

    whole = ask()
    assert (whole.status_code, whole.content, whole.headers["X-Repo-Commit"]) == (200, b"0123456789", commit.oid)
    assert whole.headers["ETag"] == f'"{api.get_paths_info("me/x", "a.txt")[0].blob_id}"'
    for asked, content in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")):
        part = ask(asked)
        assert (part.status_code, part.content) == (206, content)
        assert part.headers["Content-Range"].endswith("/10")
    assert ask("bytes=10-").status_code == 416
    head = ask(path="b.bin", method="HEAD")
    assert head.headers["X-Linked-Etag"] == f'"{sha256(LARGE)}"' and head.content == b""
    assert head.headers["X-Linked-Size"] == head.headers["Content-Length"] == str(len(LARGE))


def test_the_file_system(hub, api):
    api.create_repo("me/x", repo_type="dataset")
    system = HfFileSystem()
    system.write_text("datasets/me/x/f/a.txt", "hello")
    with system.open("datasets/me/x/f/b.bin", "wb") as file:
        file.write(LARGE)
    assert sorted(system.ls("datasets/me/x/f", detail=False)) == ["datasets/me/x/f/a.txt", "datasets/me/x/f/b.bin"]
    assert system.read_text("datasets/me/x/f/a.txt") == "hello"
    with system.open("datasets/me/x/f/b.bin", block_size=1000) as file:
        file.seek(5000)
        assert file.read(10) == LARGE[5000:5010]
    assert any(request.status == 206 for request in hub.requests("GET", "/resolve/"))
    assert system.glob("datasets/me/x/**/*.txt") == ["datasets/me/x/f/a.txt"]
    system.rm("datasets/me/x/f/a.txt")
    assert not system.exists("datasets/me/x/f/a.txt")


def test_cards(hub, api):
    api.create_repo("me/x")
    ModelCard(CARD).validate()
    ModelCard(CARD).push_to_hub("me/x")
    assert ModelCard.load("me/x").data.tags == ["hfssl"]
    results = b"- dataset: {id: nyu-mll/glue, task_id: rte}\n  value: 66.4\n"
    add(api, {".eval_results/glue.yaml": results, ".eval_results/broken.yaml": b"a: [1"})
    info = api.model_info("me/x")
    assert info.pipeline_tag == "fill-mask" and info.library_name == "transformers" and "hfssl" in info.tags
    assert [(row.dataset_id, row.task_id, row.value) for row in info.eval_results] == [("nyu-mll/glue", "rte", 66.4)]
    before = info.sha
    for broken in ("---\ntags: [a\n---\n", "---\n- a\n---\n"):
        with pytest.raises(ValueError, match=r"Invalid metadata|errors"):
            add(api, {"README.md": broken.encode(), "a.txt": b"a"})
    assert api.model_info("me/x").sha == before
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        add(api, {"README.md": b"no metadata"})
    assert any("empty or missing yaml metadata" in str(each.message) for each in caught)


# The fixture.


def test_nothing_stays_between_tests_and_the_process_is_itself_again(hub):
    from huggingface_hub import constants, hf_api

    assert hub.repositories == {} and hub.log == []
    assert constants.ENDPOINT == hf_api.api.endpoint == "https://huggingface.co" and constants.HF_HUB_OFFLINE


def test_two_servers_stand_side_by_side(hub):
    with HubServer() as other:
        assert other.endpoint != hub.endpoint
        assert httpx2.get(f"{other.endpoint}/api/models", trust_env=False).json() == []


def test_a_subprocess_uses_the_hub_and_reaches_nothing_else(hub, run_command, tmp_path):
    import sys

    program = (
        "from huggingface_hub import HfApi, get_session\n"
        "print(HfApi().whoami()['name'])\n"
        "try:\n    get_session().get('https://huggingface.co/api/models')\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
    )
    done = run_command(sys.executable, "-c", program, env=hub.environment(tmp_path))
    assert done.stdout.split() == ["me", "ConnectError"], done.stderr
