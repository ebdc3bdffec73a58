"""What goes in and out, and who sends it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class User:
    """Who a token belongs to and what it may do: role "write" or "read"."""

    name: str
    role: str
    organizations: tuple[str, ...] = ()

    def owns(self, repository_id: str) -> bool:
        return repository_id.split("/")[0] in (self.name, *self.organizations)


@dataclass
class Request:
    """One line of the log. `path` is without the query and unquoted; `status` is None if no answer was sent."""

    method: str
    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    raw_path: str = ""  # still quoted, so that a slash within a name is told from one between names
    body: bytes = field(default=b"", repr=False)  # emptied once it is answered
    received: int = 0  # bytes of the body
    user: User | None = None
    status: int | None = None
    files: list[str] = field(default_factory=list)  # what a commit added, by path; for an LFS upload, its sha256

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def has(self, flag: str) -> bool:
        return self.query.get(flag, [""])[0].lower() in ("1", "true")


@dataclass
class Response:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
