"""Repositories, what is listed of them, and what points into them. A function a route, each under the server's lock."""

from __future__ import annotations

import json
import re

from tests.hub_server.access import PREFIX, as_json, card, check_owner, find, front_matter, page
from tests.hub_server.messages import Request
from tests.hub_server.storage import HubError, Repository, now


def whoami(hub, request):
    user = request.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "test", "role": user.role, "createdAt": now()}
    return {
        "type": "user", "id": user.name, "name": user.name, "fullname": user.name, "email": f"{user.name}@example.com",
        "orgs": [{"name": name} for name in user.organizations], "auth": {"type": "access_token", "accessToken": token},
    }  # fmt: skip


def validate_yaml(hub, request):
    content = request.json()["content"]
    _, errors = card(hub, content)
    warnings = [] if front_matter(content) else [{"message": "empty or missing yaml metadata in repo card"}]
    body = {"errors": [{"message": error} for error in errors], "warnings": warnings}
    return as_json(body, 400 if errors else 200)


def _named(request: Request) -> tuple[str, str]:
    given = request.json()
    owner = given.get("organization") or (request.user.name if request.user else "")
    id = f"{owner}/{given['name']}"
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", id) or ".." in id or "--" in id:
        raise HubError(400, f"invalid repository name: {id!r}")
    return given.get("type") or "model", id


def create(hub, request):
    kind, id = _named(request)
    check_owner(request, kind, id)
    url = f"{hub.endpoint}/{PREFIX[kind]}{id}"
    if (kind, id) in hub.repositories:
        raise HubError(409, f"You already created this {kind} repo: {id}", url=url)
    given = request.json()
    private = given.get("visibility") == "private"
    hub.repositories[kind, id] = Repository(kind, id, request.user.name, private, given.get("sdk"))
    return {"url": url, "name": id, "id": id}


def delete(hub, request):
    kind, id = _named(request)
    find(hub, request, kind, id, "own")
    del hub.repositories[kind, id]
    return {}


def move(hub, request):
    given = request.json()
    kind, old, new = given["type"], given["fromRepo"], given["toRepo"]
    repository = find(hub, request, kind, old, "own")
    check_owner(request, kind, new)
    if (kind, new) in hub.repositories:
        raise HubError(409, f"{new} exists already")
    repository.id = new
    hub.repositories[kind, new] = hub.repositories.pop((kind, old))
    hub.moved[kind, old] = new
    return {"url": f"{hub.endpoint}/{PREFIX[kind]}{new}"}


def settings(hub, request, kind, id):
    repository = find(hub, request, kind, id, "own")
    if "visibility" in request.json():
        repository.private = request.json()["visibility"] == "private"
    return {"private": repository.private}


def info(hub, request, kind, id, revision="main"):
    repository = find(hub, request, kind, id)
    return _describe(hub, repository, repository.at(revision), request.has("blobs"))


def _describe(hub, repository, commit, blobs: bool = False) -> dict:
    def text(path: str) -> str:
        return commit.tree[path].data.decode(errors="replace") if path in commit.tree else ""

    data, _ = card(hub, text("README.md"))
    tags = [*data.get("tags", []), *[data[name] for name in ("library_name", "pipeline_tag") if name in data]]
    siblings = []
    for path, blob in sorted(commit.tree.items()):
        siblings.append({"rfilename": path})
        if blobs:
            siblings[-1] |= {"size": len(blob.data), "blobId": blob.oid}
        if blobs and blob.is_lfs:
            siblings[-1]["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    found = {
        "_id": repository.id, "id": repository.id, "author": repository.id.split("/")[0], "sha": commit.oid,
        "private": repository.private, "gated": repository.gated, "disabled": False, "downloads": 0, "likes": 0,
        "lastModified": commit.date, "createdAt": repository.created, "tags": list(dict.fromkeys(tags)),
        "cardData": data or None, "siblings": siblings,
    }  # fmt: skip
    if repository.kind == "model":
        found |= {"modelId": repository.id, "config": json.loads(text("config.json") or "{}")}
        found |= {name: data[name] for name in ("library_name", "pipeline_tag", "model-index") if name in data}
        found["evalResults"] = _eval_results(hub, commit)
    if repository.kind == "space":
        found["sdk"] = data.get("sdk", repository.sdk)
    return found


def _eval_results(hub, commit) -> list[dict]:
    found = []
    for path, blob in sorted(commit.tree.items()):
        if hub.read_yaml and re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path):
            try:
                found += [{"filename": path, "data": each} for each in hub.read_yaml(blob.data.decode())]
            except Exception as error:
                found.append({"filename": path, "error": str(error)})
    return found


def lists(hub, request, kind):
    def asked(name: str) -> list[str]:
        return [value for value in request.query.get(name, []) if value]

    rows = []
    for repository in hub.repositories.values():
        if repository.kind != kind or (repository.private and not (request.user and request.user.owns(repository.id))):
            continue
        row = _describe(hub, repository, repository.head)
        about = [*row["tags"], *[f"{name}:{row[name]}" for name in ("library_name", "pipeline_tag") if name in row]]
        if (
            all(row["author"] == author for author in asked("author"))
            and all(search.lower() in row["id"].lower() for search in asked("search"))
            and all(wanted in about for wanted in asked("filter"))
            and all(row.get("pipeline_tag") == wanted for wanted in asked("pipeline_tag"))
        ):
            rows.append(row)
    return page(hub, request, sorted(rows, key=lambda row: row["lastModified"], reverse=True))


# Branches, tags, commits.


def refs(hub, request, kind, id):
    repository = find(hub, request, kind, id)

    def rows(kept: dict[str, str], prefix: str, pulls: bool = False) -> list[dict]:
        names = [name for name in kept if name.startswith("refs/pr/") == pulls]
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": kept[name]} for name in names]

    branches, tags = rows(repository.refs, "refs/heads/"), rows(repository.tags, "refs/tags/")
    found = {"branches": branches, "converts": [], "tags": tags}
    return found | {"pullRequests": rows(repository.refs, "", True)} if request.has("include_prs") else found


def branch(hub, request, kind, id, name):
    repository = find(hub, request, kind, id, "own")
    if request.method == "DELETE":
        if name not in repository.refs:
            raise HubError(404, f"no branch {name}", "RevisionNotFound")
        if name == "main":
            raise HubError(403, "cannot delete the branch main")
        del repository.refs[name]
        return {}
    if name in repository.refs:
        raise HubError(409, f"Reference already exists: {name}")
    repository.refs[name] = repository.at(request.json().get("startingPoint", "main")).oid
    return as_json({}, 201)


def tag(hub, request, kind, id, name):
    repository = find(hub, request, kind, id, "own")
    if request.method == "DELETE":
        if name not in repository.tags:
            raise HubError(404, f"no tag {name}", "RevisionNotFound")
        del repository.tags[name]
        return {}
    new = request.json()["tag"]
    if new in repository.tags:
        raise HubError(409, f"Tag reference exists already: {new}")
    repository.tags[new] = repository.at(name).oid
    return as_json({}, 201)


def commits(hub, request, kind, id, revision):
    repository = find(hub, request, kind, id)
    rows = [
        {"id": each.oid, "title": each.title, "message": each.message, "date": each.date,
         "authors": [{"user": each.author}]}
        for each in repository.history(repository.at(revision))
    ]  # fmt: skip
    return page(hub, request, rows)
