"""Files: asked about, sent, committed, listed, downloaded."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from fnmatch import fnmatchcase
from urllib.parse import parse_qs

from tests.hub_server.access import PREFIX, as_json, card, find, page
from tests.hub_server.messages import Response
from tests.hub_server.storage import LARGE, Blob, HubError, below, check_path, tree_oid

# Sending: preupload says how each file goes, large files go one by one, and a commit names them all at once.


def _lfs_patterns(tree: dict[str, Blob]) -> list[str]:
    lines = tree[".gitattributes"].data.decode().splitlines() if ".gitattributes" in tree else []
    return [line.split()[0] for line in lines if "filter=lfs" in line]


def preupload(hub, request, kind, id, revision):
    repository = find(hub, request, kind, id, _right(request, kind, id, revision, hub))
    commit = repository.at(revision)
    patterns = _lfs_patterns(commit.tree)
    rows = []
    for file in request.json()["files"]:
        path = file["path"]
        name = path.split("/")[-1]
        is_large = (
            file["size"] > LARGE
            or any(fnmatchcase(name, pattern) or fnmatchcase(path, pattern) for pattern in patterns)
            or b"\0" in base64.b64decode(file["sample"])
        )
        rows.append({"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False})
        if path in commit.tree:  # the client drops files that are there already
            there = commit.tree[path]
            rows[-1]["oid"] = there.sha256 if there.is_lfs else there.oid
    return {"files": rows}


def _right(request, kind, id, revision, hub) -> str:
    """Anybody who may write may propose, with create_pr or on a pull request of their own; the rest is the owners'."""
    if request.has("create_pr"):
        return "propose"
    repository = find(hub, request, kind, id)
    mine = [each.ref for each in repository.discussions if request.user and each.author == request.user.name]
    return "propose" if revision in mine else "own"


def lfs_batch(hub, request, kind, id):
    given = request.json()
    revision = given.get("ref", {}).get("name")
    repository = find(hub, request, kind, id, _right(request, kind, id, revision, hub) if revision else "propose")
    place = f"{hub.endpoint}/lfs/{kind}s/{id}"
    rows = []
    for file in given["objects"]:
        rows.append({"oid": file["oid"], "size": file["size"]})
        if file["oid"] not in repository.large:
            upload, verify = {"href": f"{place}/{file['oid']}", "header": {}}, {"href": f"{place}/verify"}
            rows[-1]["actions"] = {"upload": upload, "verify": verify}
    return as_json({"transfer": "basic", "objects": rows, "hash_algo": "sha256"})


def lfs_upload(hub, request, kind, id, oid):
    """No token is asked for: the address itself is the permission, as with a signed one."""
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, f"the content does not have the hash {oid}")
    hub.repository(id, kind).large[oid] = request.body
    request.files = [oid]
    return Response()


def lfs_verify(hub, request, kind, id):
    given = request.json()
    content = find(hub, request, kind, id).large.get(given["oid"])
    if content is None or len(content) != given["size"]:
        raise HubError(404, "the file has not arrived")
    return {}


def commit(hub, request, kind, id, revision):
    """All of it or nothing: the branch moves after the last line was read and carried out."""
    repository = find(hub, request, kind, id, _right(request, kind, id, revision, hub))
    header, operations = _read_commit(request.body)
    parent = repository.at(revision)
    if header.get("parentCommit") not in (None, parent.oid):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    tree = repository.apply(parent.tree, operations)
    _check_card(hub, operations)
    name, ref, discussion = request.user.name, revision.removeprefix("refs/heads/"), None
    if request.has("create_pr"):
        discussion = repository.open_discussion(header["summary"], name, True, "open")
        discussion.base, ref = parent.oid, discussion.ref
        discussion.comment(name, header.get("description", ""))
    elif ref not in repository.refs:
        raise HubError(400, f"{revision} is no branch")
    made = repository.add(ref, tree, (parent.oid,), header["summary"], header.get("description", ""), name)
    for each in repository.discussions:
        if each.ref == ref:
            each.add_event("commit", name, {"subject": made.title, "oid": made.oid})
    request.files = [each["value"]["path"] for each in operations if each["key"] in ("file", "lfsFile")]
    url = f"{hub.endpoint}/{PREFIX[kind]}{id}"
    answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}", "hookOutput": ""}
    return answer | {"pullRequestUrl": f"{url}/discussions/{discussion.num}"} if discussion else answer


def _read_commit(body: bytes) -> tuple[dict, list[dict]]:
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        if not lines or lines[0]["key"] != "header" or not lines[0]["value"]["summary"]:
            raise HubError(400, "a commit begins with a header and its summary")
        for line in lines[1:]:
            if line["key"] == "file":
                line["value"]["content"] = base64.b64decode(line["value"]["content"], validate=True)
        return lines[0]["value"], lines[1:]
    except (json.JSONDecodeError, binascii.Error, KeyError, TypeError) as error:
        raise HubError(400, f"not a commit: {error}") from None


def _check_card(hub, operations: list[dict]) -> None:
    for each in operations:
        if each["key"] == "file" and each["value"]["path"] == "README.md":
            _, errors = card(hub, each["value"]["content"].decode(errors="replace"))
            if errors:
                raise HubError(400, f"Invalid metadata in README.md: {errors[0]}")


# Looking.


def _entry(repository, commit, path: str, expand: bool) -> dict:
    """A row of a tree: a file, or a folder of what lies below it."""
    if path in commit.tree:
        blob = commit.tree[path]
        row = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
        if blob.is_lfs:
            row["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    else:
        row = {"type": "directory", "path": path, "size": 0, "oid": tree_oid(below(commit.tree, path))}
    if expand:
        last = repository.last_change(commit, path)
        row["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return row


def _folders(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def tree(hub, request, kind, id, revision, folder=""):
    repository = find(hub, request, kind, id)
    commit = repository.at(revision)
    folder = folder.strip("/")
    inside = below(commit.tree, folder)
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
    names = {
        name for path in inside for name in [path, *_folders(path)] if name.startswith(f"{folder}/" * bool(folder))
    }
    if not request.has("recursive"):
        depth = folder.count("/") + 1 if folder else 0
        names = {name for name in names if name.count("/") == depth}
    rows = [_entry(repository, commit, name, request.has("expand")) for name in sorted(names)]
    return page(hub, request, rows)


def paths_info(hub, request, kind, id, revision):
    repository = find(hub, request, kind, id)
    commit = repository.at(revision)
    if request.headers.get("content-type", "").startswith("application/json"):
        given = request.json()
        paths, expand = given["paths"], bool(given.get("expand"))
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    paths = [path.strip("/") for path in paths]
    return as_json(
        [
            _entry(repository, commit, path, expand)
            for path in paths
            if path in commit.tree or (path and below(commit.tree, path))
        ]
    )


def resolve(hub, request, kind, id, revision, path):
    repository = find(hub, request, kind, id)
    commit = repository.at(revision)
    check_path(path)
    blob = commit.tree.get(path)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound")
    headers |= {"ETag": f'"{blob.oid}"', "Content-Type": "application/octet-stream"}
    headers["Content-Disposition"] = f'inline; filename="{path.split("/")[-1]}"'
    if blob.is_lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    asked = request.headers.get("range")
    if asked is None:
        return Response(blob.data, 200, headers)
    size = len(blob.data)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if not match or not (match[1] or match[2]):
        raise HubError(416, f"cannot read the range {asked!r}")
    start = int(match[1]) if match[1] else max(0, size - int(match[2]))
    end = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
    if start >= size or end < start:
        return Response(b"", 416, headers | {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Response(blob.data[start : end + 1], 206, headers)
