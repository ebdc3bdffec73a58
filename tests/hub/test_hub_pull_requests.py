"""Discussions and pull requests of the Hub server, as huggingface_hub's own client sees them."""

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from tests.hub_server.client import LARGE, add, download


def test_a_pull_request_of_a_stranger_is_merged_by_the_owner(hub, api):
    api.create_repo("me/x")
    add(api, {"a.txt": b"a", "old.txt": b"o"})
    operations = [CommitOperationAdd("b.safetensors", LARGE), CommitOperationDelete("old.txt")]
    commit = api.create_commit(
        "me/x", operations, commit_message="Add b", create_pr=True, token=hub.other_token
    )  # fmt: skip
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert "b.safetensors" not in api.list_repo_files("me/x")
    assert download("me/x", "b.safetensors", revision="refs/pr/1") == LARGE
    add(api, {"c.txt": b"c"}, revision="refs/pr/1", token=hub.other_token)
    add(api, {"d.txt": b"d"})  # main goes on meanwhile
    (row,) = api.get_repo_discussions("me/x", discussion_type="pull_request", discussion_status="open")
    assert (row.num, row.title, row.status, row.author) == (1, "Add b", "open", "someone")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.merge_pull_request("me/x", 1, token=hub.other_token)
    api.merge_pull_request("me/x", 1, comment="Thank you")
    details = api.get_discussion_details("me/x", 1)
    assert details.status == "merged" and details.merge_commit_oid == api.model_info("me/x").sha
    assert [event.summary for event in details.events if event.type == "commit"] == ["Add b", "add"]
    assert {"a.txt", "b.safetensors", "c.txt", "d.txt"} <= {*api.list_repo_files("me/x")}
    assert "old.txt" not in api.list_repo_files("me/x")
    assert list(api.get_repo_discussions("me/x", discussion_status="open")) == []
    with pytest.raises(BadRequestError, match="cannot be merged"):
        api.merge_pull_request("me/x", 1)


def test_a_pull_request_that_conflicts_is_not_merged(hub, api):
    api.create_repo("me/x")
    request = api.create_pull_request("me/x", "A draft", description="what it is for")
    assert (request.status, request.git_reference, request.conflicting_files) == ("draft", "refs/pr/1", [])
    assert request.events[0].content == "what it is for"
    add(api, {"a.txt": b"theirs"}, revision="refs/pr/1")
    add(api, {"a.txt": b"ours"})
    assert api.get_discussion_details("me/x", 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"409[\s\S]*a\.txt"):
        api.merge_pull_request("me/x", 1)
    assert download("me/x", "a.txt") == b"ours"
    assert api.comment_discussion("me/x", 1, "later").content == "later"
    assert api.rename_discussion("me/x", 1, "Another title").new_title == "Another title"
    assert api.change_discussion_status("me/x", 1, "closed").new_status == "closed"
    assert [row.name for row in api.list_repo_refs("me/x", include_pull_requests=True).pull_requests] == ["refs/pr/1"]
    discussion = api.create_discussion("me/x", "A question")
    assert (discussion.num, discussion.is_pull_request) == (2, False)
    assert [row.num for row in api.get_repo_discussions("me/x", author="me")] == [2, 1]
