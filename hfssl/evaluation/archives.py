"""Reading a zip that somebody else made: bounded in size, ratio and number before anything is read, never unpacked."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hfssl.errors import InputError, one_line

MAX_FILE = 64 * 2**20  # bytes of the zip itself
MAX_MEMBER = 64 * 2**20  # bytes of one file in it, unpacked: QQP.tsv has 4 MB
MAX_TOTAL = 256 * 2**20
MAX_MEMBERS = 100
MAX_RATIO = 100  # unpacked over packed, of a file over 1 MiB: predictions pack 3 to 20 times
_END = b"PK\x05\x06"  # of the record that ends a zip; 22 bytes and a comment of at most 65,535


def read_archive(path: str | Path) -> tuple[Mapping[str, bytes], str]:
    """The files of a zip by name, and its comment.

    Raises:
        InputError: no zip or a damaged one, or one that is not safe to read: too large or too many files, packed too
            tightly, files that overlap, encrypted files, links, or names that lead elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: name the zip in it")
    if not path.is_file():
        raise InputError(f"no such file: {str(path)!r}")
    size = path.stat().st_size
    if size > MAX_FILE:
        raise InputError(f"{path.name} has {size:,} bytes; no submission has more than {MAX_FILE:,}")
    try:
        count = _member_count(path)
        if count is None:
            raise InputError(f"{path.name} is not a zip file")
        if count > MAX_MEMBERS:
            raise InputError(
                f"{path.name} says that it holds {count:,} files; no submission has more than {MAX_MEMBERS}"
            )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check(members, path.name)
            return {
                member.filename: _read(archive, member) for member in members if not member.is_dir()
            }, archive.comment.decode("utf-8", "replace")
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,  # a name that is no UTF-8
        struct.error,
    ) as error:
        raise InputError(f"{path.name} is not a zip file, or a damaged one: {one_line(error)}") from error


def _member_count(path: Path) -> int | None:
    """The number of files that the end of the zip states, before its list is read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 22 - 65535))
        tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) < place + 22:
        return None
    return struct.unpack_from("<H", tail, place + 10)[0]


def _check(members: list[zipfile.ZipInfo], name: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{name} holds {len(members):,} files; no submission has more than {MAX_MEMBERS}")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL:
        raise InputError(f"{name} unpacks to {total:,} bytes; no submission has more than {MAX_TOTAL:,}")
    end = float("-inf")
    for member in sorted(members, key=lambda member: member.header_offset):
        _check_member(member, name)
        if member.header_offset < end:
            raise InputError(f"{name}: {member.filename!r} overlaps another file: not unpacked")
        end = member.header_offset + 30 + len(member.filename) + member.compress_size  # 30: the file's own header
    names = [member.filename for member in members]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise InputError(f"{name} holds {doubled!r} twice: one of them would be lost")


def _check_member(member: zipfile.ZipInfo, name: str) -> None:
    inside = member.filename
    if member.file_size > MAX_MEMBER:
        raise InputError(f"{name}: {inside!r} unpacks to {member.file_size:,} bytes, over {MAX_MEMBER:,}")
    if member.file_size > 2**20 and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise InputError(f"{name}: {inside!r} is packed more than {MAX_RATIO} times: not unpacked")
    parts = PurePosixPath(inside).parts
    if inside.startswith("/") or "\\" in inside or ".." in parts or ":" in inside or "\0" in inside:
        raise InputError(f"{name}: the name {inside!r} leads out of the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{name}: {inside!r} is a link, not a file")
    if member.flag_bits & 1:
        raise InputError(f"{name}: {inside!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name}: {inside!r} is packed by method {member.compress_type}; servers read deflate")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:  # the stated size may be a lie
        data = file.read(MAX_MEMBER + 1)
    if len(data) > MAX_MEMBER:
        raise InputError(f"{member.filename!r} unpacks to more than it says: not read further")
    return data
