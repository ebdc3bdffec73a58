"""Which function carries out which request, and for whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode

from tests.hub_server import discussions, repositories, transfer
from tests.hub_server.access import as_json
from tests.hub_server.messages import Request, Response
from tests.hub_server.storage import HubError

if TYPE_CHECKING:
    from tests.hub_server.server import HubServer

PLURAL = {"models": "model", "datasets": "dataset", "spaces": "space"}
_ID = r"(?P<id>(?:[^/]+/)?[^/]+)"
_API = rf"/api/(?P<kinds>models|datasets|spaces)/{_ID}"
_FILES = rf"/(?:(?P<kinds>datasets|spaces)/)?{_ID}"

ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", "/api/whoami-v2", repositories.whoami),
    ("POST", "/api/validate-yaml", repositories.validate_yaml),
    ("POST", "/api/repos/create", repositories.create),
    ("DELETE", "/api/repos/delete", repositories.delete),
    ("POST", "/api/repos/move", repositories.move),
    ("PUT", f"{_API}/settings", repositories.settings),
    ("GET", "/api/(?P<kinds>models|datasets|spaces)", repositories.lists),
    ("GET", f"{_API}/revision/(?P<revision>[^/]+)", repositories.info),
    ("GET", f"{_API}/refs", repositories.refs),
    ("POST DELETE", f"{_API}/branch/(?P<name>[^/]+)", repositories.branch),
    ("POST DELETE", f"{_API}/tag/(?P<name>[^/]+)", repositories.tag),
    ("GET", f"{_API}/commits/(?P<revision>[^/]+)", repositories.commits),
    ("GET POST", f"{_API}/discussions", discussions.discussions),
    ("GET", rf"{_API}/discussions/(?P<num>\d+)", discussions.discussion),
    ("POST", rf"{_API}/discussions/(?P<num>\d+)/(?P<action>comment|title|status|merge)", discussions.discuss),
    ("GET", f"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", transfer.tree),
    ("POST", f"{_API}/paths-info/(?P<revision>[^/]+)", transfer.paths_info),
    ("POST", f"{_API}/preupload/(?P<revision>[^/]+)", transfer.preupload),
    ("POST", f"{_API}/commit/(?P<revision>[^/]+)", transfer.commit),
    ("GET", _API, repositories.info),
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", transfer.lfs_batch),
    ("PUT", "/lfs/(?P<kinds>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", transfer.lfs_upload),
    ("POST", "/lfs/(?P<kinds>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)/verify", transfer.lfs_verify),
    ("GET HEAD", rf"{_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", transfer.resolve),
]


def answer(hub: HubServer, request: Request) -> Response:
    """Carries a request out. Names are unquoted after the path is taken apart: a branch's name may hold a slash."""
    request.user = _user(hub, request)
    for methods, pattern, action in ROUTES:
        match = re.fullmatch(pattern, request.raw_path)
        if match and request.method in methods.split():
            names = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
            if "kinds" in match.re.groupindex:
                names["kind"] = PLURAL[names.pop("kinds", "models")]
            target = _moved(hub, request, names)
            result = target or action(hub, request, **names)
            return result if isinstance(result, Response) else as_json(result)
    raise HubError(404, f"no such page: {request.path}")


def _user(hub: HubServer, request: Request):
    given = request.headers.get("authorization")
    if given is None:
        return None
    user = hub.users.get(given.removeprefix("Bearer "))
    if user is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return user


def _moved(hub: HubServer, request: Request, names: dict[str, str]) -> Response | None:
    target = hub.moved.get((names.get("kind", ""), names.get("id", "")))
    if target is None or (names["kind"], names["id"]) in hub.repositories:
        return None
    path = request.raw_path.replace(names["id"], target, 1)
    query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
    return Response(b"", 307, {"Location": f"{path}{query}"})
