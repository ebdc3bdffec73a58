"""What the Hub keeps: repositories of commits. Blobs and commits are named by hashes of their content, as in git."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

LARGE = 10 * 2**20  # bytes; a larger file must be an LFS file
# The first commit of a repository: which files are LFS files, shortened to what tests push.
GIT_ATTRIBUTES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n"
    for ending in ("arrow", "bin", "gz", "npy", "npz", "parquet", "pt", "pth", "safetensors", "tar", "zip")
)


class HubError(Exception):
    """An answer that is an error. `code` is what the client tells errors apart by."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts):
        raise HubError(400, f"invalid path: {path!r}")


@dataclass(frozen=True)
class Blob:
    """A file's content. An LFS file lies in git as a pointer, so its git id is the pointer's."""

    data: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        content = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


Tree = dict[str, Blob]


def tree_oid(tree: Tree) -> str:
    listing = sorted((path, blob.oid) for path, blob in tree.items())
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def below(tree: Tree, folder: str) -> Tree:
    """The files in a folder, at any depth, under their whole paths."""
    return {path: blob for path, blob in tree.items() if path.startswith(f"{folder}/")} if folder else dict(tree)


def changed(old: Tree, new: Tree) -> dict[str, Blob | None]:
    """What became of each path that is not the same in both: the new blob, None where it was deleted."""
    return {
        path: new.get(path)
        for path in old.keys() | new.keys()
        if (path in old) != (path in new) or old[path].oid != new[path].oid
    }


@dataclass(frozen=True)
class Commit:
    tree: Tree
    parents: tuple[str, ...]
    title: str
    message: str
    author: str
    date: str = field(default_factory=now)

    @cached_property
    def oid(self) -> str:
        said = [tree_oid(self.tree), self.parents, self.title, self.message, self.author, self.date]
        return hashlib.sha1(json.dumps(said).encode()).hexdigest()


@dataclass
class Discussion:
    """A discussion, or a pull request, whose commits are the branch refs/pr/NUM."""

    num: int
    title: str
    author: str
    is_pull_request: bool
    status: str
    base: str | None = None  # the commit that a pull request started from
    created: str = field(default_factory=now)
    merge_commit: str | None = None
    events: list[dict] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"

    def add_event(self, kind: str, author: str, data: dict) -> dict:
        number = f"{self.num:08x}{len(self.events):08x}"
        event = {"id": number, "type": kind, "createdAt": now(), "author": {"name": author}, "data": data}
        self.events.append(event)
        return event

    def comment(self, author: str, text: str) -> dict:
        latest = {"raw": text, "html": text, "updatedAt": now(), "author": {"name": author}}
        return self.add_event("comment", author, {"edited": False, "hidden": False, "latest": latest, "history": []})

    def set_status(self, author: str, status: str) -> dict:
        self.status = status
        return self.add_event("status-change", author, {"status": status})


class Repository:
    """One model, data set or space: its commits, the names that point to them, its LFS files and discussions.

    `refs` holds branches by their name and pull requests as refs/pr/NUM; a commit is made first and shown by moving
    one entry of it, so that a reader sees all of a commit or nothing.
    """

    def __init__(self, kind: str, id: str, author: str, private: bool = False, sdk: str | None = None):
        self.kind, self.id, self.private, self.gated, self.sdk = kind, id, private, False, sdk
        self.created = now()
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.discussions: list[Discussion] = []
        self.add("main", {".gitattributes": Blob(GIT_ATTRIBUTES.encode())}, (), "initial commit", "", author)

    def add(self, ref: str, tree: Tree, parents: tuple[str, ...], title: str, message: str, author: str) -> Commit:
        commit = Commit(tree, parents, title, message, author)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    @property
    def head(self) -> Commit:
        return self.commits[self.refs["main"]]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or (the beginning of) a commit's id names."""
        name = revision.removeprefix("refs/heads/")
        found = self.refs.get(name) or self.tags.get(revision.removeprefix("refs/tags/"))
        if found is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            found = next((oid for oid in self.commits if oid.startswith(revision)), None)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found]

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and its first parents, newest first."""
        found = [commit]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit that gave a file, or anything in a folder, its content."""

        def content(one: Commit) -> list[tuple[str, str]]:
            return sorted((p, b.oid) for p, b in one.tree.items() if p == path or p.startswith(f"{path}/"))

        for each in self.history(commit):
            if not each.parents or content(each) != content(self.commits[each.parents[0]]):
                return each
        return commit

    def apply(self, tree: Tree, operations: list[dict]) -> Tree:
        """The tree after a commit's operations, each {"key": kind, "value": {...}}."""
        tree = dict(tree)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value["path"].rstrip("/")
            check_path(path)
            if key == "file":
                if len(value["content"]) > LARGE:
                    raise HubError(400, f"{path} has more than 10 MiB and must be an LFS file")
                tree[path] = Blob(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.large:
                    raise HubError(400, f"an LFS pointer pointed to a file that does not exist: {path}")
                tree[path] = Blob(self.large[value["oid"]], is_lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = {path} & tree.keys() if key == "deletedFile" else below(tree, path).keys()
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                tree = {name: blob for name, blob in tree.items() if name not in gone}
            else:
                raise HubError(400, f"unknown operation {key!r}")
        for path in tree:
            if below(tree, path):
                raise HubError(400, f"{path} is a file and a folder")
        return tree

    def open_discussion(self, title: str, author: str, is_pull_request: bool, status: str) -> Discussion:
        discussion = Discussion(len(self.discussions) + 1, title, author, is_pull_request, status)
        if is_pull_request:
            discussion.base = self.refs["main"]
            self.refs[discussion.ref] = discussion.base
        self.discussions.append(discussion)
        return discussion

    def conflicts(self, discussion: Discussion) -> list[str]:
        """Files that both the pull request and main changed since it was opened, to different contents."""
        base = self.commits[discussion.base].tree
        ours, theirs = changed(base, self.head.tree), changed(base, self.at(discussion.ref).tree)
        both = ours.keys() & theirs.keys()
        return sorted(path for path in both if (ours[path] and ours[path].oid) != (theirs[path] and theirs[path].oid))

    def merge(self, discussion: Discussion, author: str) -> Commit:
        tree = dict(self.head.tree)
        for path, blob in changed(self.commits[discussion.base].tree, self.at(discussion.ref).tree).items():
            if blob is None:
                tree.pop(path, None)
            else:
                tree[path] = blob
        parents = (self.refs["main"], self.refs[discussion.ref])
        commit = self.add("main", tree, parents, f"{discussion.title} (#{discussion.num})", "", author)
        discussion.merge_commit = commit.oid
        return commit
