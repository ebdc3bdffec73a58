"""What all routes share: who may do what, answers in JSON, pages of a list, a card's metadata."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.hub_server.messages import Request, Response
from tests.hub_server.storage import HubError, Repository

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def as_json(value: Any, status: int = 200, **headers: str) -> Response:
    headers = {"Content-Type": "application/json; charset=utf-8", **headers}
    return Response(json.dumps(value).encode(), status, headers)


def page(hub: HubServer, request: Request, rows: list) -> Response:
    """The rows from the query's cursor on, at most a page or `limit`, with a link to the next page."""
    start = int(request.query.get("cursor", ["0"])[0])
    size = min(hub.page_size, int(request.query.get("limit", [hub.page_size])[0]))
    headers = {}
    if start + size < len(rows):
        query = urlencode({**request.query, "cursor": [start + size]}, doseq=True)
        headers["Link"] = f'<{hub.endpoint}{request.raw_path}?{query}>; rel="next"'
    return as_json(rows[start : start + size], **headers)


def find(hub: HubServer, request: Request, kind: str, id: str, write: str | None = None) -> Repository:
    """The repository, if the request's user may see it and do `write` in it.

    Args:
        write: None; "own" for changes by those it belongs to; "propose" for what any user may do who may write.
    """
    repository = hub.repositories.get((kind, id))
    user = request.user
    if repository is None or (repository.private and not (user and user.owns(id))):
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    if write is None:
        return repository
    if user is None:
        raise HubError(401, "Invalid username or password.")
    if user.role != "write":
        raise HubError(403, "you have read access but not the required permissions for this operation")
    if write == "own" and not user.owns(id):
        raise HubError(403, "pass `create_pr=1` as a query parameter to create a Pull Request")
    return repository


def check_owner(request: Request, kind: str, id: str) -> None:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    if request.user.role != "write" or not request.user.owns(id):
        raise HubError(403, f"You don't have the rights to create a {kind} under the namespace {id.split('/')[0]!r}")


def front_matter(text: str) -> str | None:
    match = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.S | re.M)
    return match and match[1]


def card(hub: HubServer, text: str) -> tuple[dict, list[str]]:
    """A README's metadata, and what is wrong with them."""
    front = front_matter(text)
    if front is None or hub.read_yaml is None:
        return {}, []
    try:
        data = hub.read_yaml(front)
    except Exception as error:  # each YAML library has its own
        return {}, [f"YAML: {' '.join(str(error).split())}"]
    return (data, []) if isinstance(data, dict) else ({}, ["the metadata must be a mapping"])
