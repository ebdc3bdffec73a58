"""A Hub for tests: what huggingface_hub's client needs, over real HTTP, in memory, of the standard library only.

server.py        the sockets: `HubServer`, which a test asks for its endpoint, its log and its faults
routes.py        which function carries out which request
repositories.py  repositories, lists, branches, tags
discussions.py   discussions and pull requests
transfer.py      files: preupload, LFS, commits, trees, downloads
access.py        what all routes share: rights, JSON, pages, cards
storage.py       what is kept: blobs, commits, repositories
in_process.py    points the libraries of this process to it, which read their endpoint at import
"""

from tests.hub_server.messages import Request
from tests.hub_server.server import HubServer

__all__ = ["HubServer", "Request"]
