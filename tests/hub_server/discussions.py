"""Discussions and pull requests."""

from __future__ import annotations

from tests.hub_server.access import as_json, find
from tests.hub_server.storage import Discussion, HubError, Repository


def _row(repository: Repository, discussion: Discussion) -> dict:
    return {
        "num": discussion.num, "title": discussion.title, "status": discussion.status,
        "author": {"name": discussion.author}, "createdAt": discussion.created,
        "isPullRequest": discussion.is_pull_request, "repo": {"name": repository.id, "type": repository.kind},
    }  # fmt: skip


def discussions(hub, request, kind, id):
    if request.method == "POST":
        repository = find(hub, request, kind, id, "propose")
        given = request.json()
        pull = bool(given.get("pullRequest"))
        status = "draft" if pull else "open"
        discussion = repository.open_discussion(given["title"], request.user.name, pull, status)
        discussion.comment(request.user.name, given.get("description", ""))
        return as_json({"num": discussion.num, "pullRequest": pull}, 201)
    repository = find(hub, request, kind, id)
    wanted = {name: request.query.get(name, ["all"])[0] for name in ("type", "status", "author")}
    found = [
        each for each in reversed(repository.discussions)
        if wanted["type"] in ("all", "pull_request" if each.is_pull_request else "discussion")
        and wanted["status"] in ("all", "open" if each.status in ("open", "draft") else "closed")
        and wanted["author"] in ("all", each.author)
    ]  # fmt: skip
    start = int(request.query.get("p", ["0"])[0]) * hub.page_size
    rows = [_row(repository, each) for each in found[start : start + hub.page_size]]
    return {"discussions": rows, "count": len(found), "start": start}


def _numbered(repository: Repository, num: str) -> Discussion:
    if not 1 <= int(num) <= len(repository.discussions):
        raise HubError(404, f"no discussion {num}", "EntryNotFound")
    return repository.discussions[int(num) - 1]


def discussion(hub, request, kind, id, num):
    repository = find(hub, request, kind, id)
    found = _numbered(repository, num)
    body = _row(repository, found) | {"events": found.events}
    if found.is_pull_request:
        changes = {"base": "refs/heads/main"}
        if found.merge_commit:
            changes["mergeCommitId"] = found.merge_commit
        conflicts = repository.conflicts(found) if found.status in ("open", "draft") else []
        body |= {"changes": changes, "filesWithConflicts": conflicts}
    return body


def discuss(hub, request, kind, id, num, action):
    repository = find(hub, request, kind, id, "propose")
    found, given, name = _numbered(repository, num), request.json(), request.user.name
    if action == "comment":
        return {"newMessage": found.comment(name, given["comment"])}
    if not (request.user.owns(id) or (action != "merge" and found.author == name)):
        raise HubError(403, f"you may not change this discussion: {action}")
    if given.get("comment"):
        found.comment(name, given["comment"])
    if action == "title":
        event = found.add_event("title-change", name, {"from": found.title, "to": given["title"]})
        found.title = given["title"]
        return {"newTitle": event}
    if action == "status":
        return {"newStatus": found.set_status(name, given["status"])}
    if not found.is_pull_request or found.status not in ("open", "draft"):
        raise HubError(400, f"discussion {num} cannot be merged: {found.status}")
    if repository.conflicts(found):
        raise HubError(409, f"conflicts in {', '.join(repository.conflicts(found))}")
    commit = repository.merge(found, name)
    found.set_status(name, "merged")
    return {"merged": True, "commitOid": commit.oid}
