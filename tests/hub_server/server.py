"""The sockets of the Hub for tests, its log of requests, and the faults that a test asks for."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server.messages import Request, Response, User
from tests.hub_server.routes import answer
from tests.hub_server.storage import HubError, Repository


@dataclass
class Fault:
    """What becomes of the requests that match, from the n-th on, `times` of them."""

    method: str
    pattern: str
    first: int = 1
    times: int = 1
    status: int | None = None  # answered with this, and not carried out
    headers: dict[str, str] = field(default_factory=dict)
    cut: str | None = None  # "request": hung up within the body; "answer": carried out, hung up within the answer
    seconds: float = 0.0  # waited before anything else
    seen: int = 0

    def matches(self, request: Request) -> bool:
        if request.method != self.method or not re.search(self.pattern, request.path):
            return False
        self.seen += 1
        return self.first <= self.seen < self.first + self.times


class HubServer:
    """A Hub on a free port of this machine. `with HubServer() as hub:` serves until the block ends.

    The user `me` has a token that writes (`token`) and one that reads (`read_token`), and belongs to `my-org`;
    `other_token` belongs to `someone`, who may propose changes to what is public.

    Args:
        read_yaml: reads the YAML of cards, which the standard library cannot; without it cards are not looked into.
    """

    token = "hf_write_token_of_me"
    read_token = "hf_read_token_of_me"
    other_token = "hf_write_token_of_someone"

    def __init__(self, read_yaml: Callable[[str], Any] | None = None):
        self.read_yaml = read_yaml
        self.users = {
            self.token: User("me", "write", ("my-org",)),
            self.read_token: User("me", "read", ("my-org",)),
            self.other_token: User("someone", "write"),
        }
        self.lock = threading.RLock()
        self.reset()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forgets repositories, log and faults; a page of a list has 1000 rows again."""
        with self.lock:
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.moved: dict[tuple[str, str], str] = {}
            self.log: list[Request] = []
            self.faults: list[Fault] = []
            self.page_size = 1000

    def environment(self, home: str | Path, token: str | None = None) -> dict[str, str]:
        """What a program's environment must have, beside its own, to use this Hub and nothing else.

        Args:
            home: a folder for caches.
            token: the writing one by default; "" for none.
        """
        nowhere = "http://127.0.0.1:9"  # what is not for this server is refused at once, not sent to the network
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token if token is None else token,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # hub 2 uploads by Xet without asking the server whether it can
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "ALL_PROXY": nowhere,
            "NO_PROXY": "127.0.0.1",
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "all_proxy": nowhere,
            "no_proxy": "127.0.0.1",
        }

    # Faults. `pattern` is searched in the unquoted path; the `first`-th request that matches is the first one hit.

    def fail(self, method: str, pattern: str, status: int = 500, *, first: int = 1, times: int = 1, retry_after=None):
        """Answers with an error, without carrying anything out."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults.append(Fault(method, pattern, first, times, status=status, headers=headers))

    def cut(self, method: str, pattern: str, what: str = "request", *, first: int = 1, times: int = 1):
        """Hangs up: in the middle of the "request"'s body, or of the "answer" to one that was carried out."""
        self.faults.append(Fault(method, pattern, first, times, cut=what))

    def slow(self, method: str, pattern: str, seconds: float, *, first: int = 1, times: int = 1):
        """Lets the client wait before the answer."""
        self.faults.append(Fault(method, pattern, first, times, seconds=seconds))

    # What happened.

    def requests(self, method: str | None = None, pattern: str = "") -> list[Request]:
        """The log's requests of a method, or of any, whose unquoted path has the pattern."""
        with self.lock:
            return [each for each in self.log if method in (None, each.method) and re.search(pattern, each.path)]

    def uploads(self) -> list[Request]:
        """Requests that sent content: LFS files, and commits that added files. `files` of each says which."""
        sent = self.requests("PUT", "^/lfs/") + self.requests("POST", "/commit/")
        return [each for each in sent if each.files]

    def repository(self, id: str, kind: str = "model") -> Repository:
        return self.repositories[kind, id]

    def files(self, id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """The content of a repository, by path."""
        with self.lock:
            return {path: blob.data for path, blob in self.repository(id, kind).at(revision).tree.items()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; waiting for the first's ACK costs 40 ms

    def _serve(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, unquote(url.path), query, headers, url.path)
        with self.hub.lock:
            self.hub.log.append(request)
            faults = [fault for fault in self.hub.faults if fault.matches(request)]
        for fault in faults:
            time.sleep(fault.seconds)
        cut = next((fault.cut for fault in faults if fault.cut), None)
        if cut == "request":
            request.received = len(self._read_body(half=True))
            # closing with unread data resets the connection, as a dying machine or a proxy does
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        request.body = self._read_body()
        request.received = len(request.body)
        failure = next((fault for fault in faults if fault.status), None)
        if failure:
            body = json.dumps({"error": "a fault that the test asked for"}).encode()
            response = Response(body, failure.status, {"Content-Type": "application/json", **failure.headers})
        else:
            response = self._answer(request)
        request.body = b""
        if cut == "answer":
            self._send(response, half=True)
            self.close_connection = True
            return
        request.status = response.status
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _answer(self, request: Request) -> Response:
        with self.hub.lock:
            try:
                return answer(self.hub, request)
            except HubError as error:
                problem = error
            except Exception as error:  # a request without what it must have, or a mistake of this server
                problem = HubError(500, f"the tests' Hub met {error!r}")
        said = " ".join(problem.message.split()).encode("latin-1", "replace").decode("latin-1")  # headers hold no more
        headers = {"Content-Type": "application/json", "X-Error-Message": said}
        if problem.code:
            headers["X-Error-Code"] = problem.code
        return Response(json.dumps({"error": problem.message, **problem.body}).encode(), problem.status, headers)

    def _read_body(self, half: bool = False) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if half:
                    return b"".join(parts)
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size // 2 if half else size)

    def _send(self, response: Response, half: bool = False) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: len(response.body) // 2] if half else response.body)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):  # the client, or a fault, hung up
            self.close_connection = True

    def log_message(self, format: str, *args) -> None:
        """Nothing: the log is `HubServer.log`."""
