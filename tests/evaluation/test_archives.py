"""A zip that is not safe to read is refused in one line, before it is read and without a file written."""

import zipfile

import numpy as np
import pytest

from hfssl.errors import InputError
from hfssl.evaluation import archives
from hfssl.evaluation.archives import read_archive


def pack(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def bomb(path):
    return pack(path, {"CoLA.tsv": b"0" * (30 * 2**20)})


def many(path):
    return pack(path, {f"{number}.tsv": b"" for number in range(101)})


def many_by_its_end_only(path):
    """The end of the zip claims a list of 60,000 files: refused before the list is read."""
    content = pack(path, {"CoLA.tsv": b"x"}).read_bytes()
    end = content.rindex(b"PK\x05\x06")
    path.write_bytes(content[: end + 8] + (60000).to_bytes(2, "little") * 2 + content[end + 12 :])
    return path


def overlapping(path):
    """Two names for the same bytes, as in zip bombs that unpack to more than any ratio allows."""
    pack(path, {"CoLA.tsv": b"x" * 50, "RTE1.tsv": b"x" * 50})
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = (10).to_bytes(4, "little")  # its header inside the first file
    path.write_bytes(bytes(content))
    return path


def lying(path):
    """The list states one byte, the file has more than any member may: read no further than the limit."""
    content = bytearray(pack(path, {"CoLA.tsv": b"ab" * 5000}).read_bytes())
    listed = content.rindex(b"PK\x01\x02")
    content[listed + 24 : listed + 28] = (1).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


def link(path):
    info = zipfile.ZipInfo("CoLA.tsv")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


def encrypted(path):
    content = bytearray(pack(path, {"CoLA.tsv": b"x"}).read_bytes())
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + place] |= 1
    path.write_bytes(bytes(content))
    return path


def twice(path):
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("CoLA.tsv", "a")
        archive.writestr("CoLA.tsv", "b")
    return path


def packed_otherwise(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("CoLA.tsv", "a")
    return path


def cut(path):
    path.write_bytes(pack(path, {"CoLA.tsv": b"x" * 999}).read_bytes()[30:])
    return path


UNSAFE = {
    "no file": (lambda path: path, "no such file"),
    "no zip": (lambda path: path.write_text("index\tprediction\n") and path, "is not a zip file"),
    "a cut zip": (cut, "damaged"),
    "a bomb by its ratio": (bomb, "packed more than 100 times"),
    "too many files": (many, "101 files"),
    "too many files by its end": (many_by_its_end_only, "says that it holds 60,000 files"),
    "files that overlap": (overlapping, "overlaps another file"),
    "a size that lies": (lying, "damaged one|not unpacked|more than it says"),
    "a path up": (lambda path: pack(path, {"../CoLA.tsv": b"x"}), "leads out of the archive"),
    "an absolute path": (lambda path: pack(path, {"/tmp/CoLA.tsv": b"x"}), "leads out of the archive"),
    "a Windows path": (lambda path: pack(path, {"C:CoLA.tsv": b"x"}), "leads out of the archive"),
    "a link": (link, "is a link"),
    "an encrypted file": (encrypted, "is encrypted"),
    "a name twice": (twice, "'CoLA.tsv' twice"),
    "another packing": (packed_otherwise, "packed by method 14"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_a_zip_that_is_not_safe_is_not_read(case, tmp_path):
    make, says = UNSAFE[case]
    path = make(tmp_path / "s.zip")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=says) as refused:
        read_archive(path)
    assert "\n" not in str(refused.value) and sorted(tmp_path.iterdir()) == before, "nothing is unpacked"


def test_a_large_zip_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE", 100)
    with pytest.raises(InputError, match="no submission has more than 100"):
        read_archive(pack(tmp_path / "s.zip", {"CoLA.tsv": bytes(range(256))}))
    monkeypatch.setattr(archives, "MAX_FILE", 10**6)
    monkeypatch.setattr(archives, "MAX_TOTAL", 100)
    with pytest.raises(InputError, match="unpacks to 256 bytes"):
        read_archive(tmp_path / "s.zip")


def test_what_is_safe_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("CoLA.tsv", "index\tprediction\n")
        archive.mkdir("out")
        archive.comment = b"by hand"
    assert read_archive(tmp_path / "s.zip") == ({"CoLA.tsv": b"index\tprediction\n"}, "by hand")


def test_a_zip_with_any_byte_changed_is_read_or_refused_in_one_line(tmp_path):
    """Names that are no UTF-8, fields that lie: a few thousand damaged zips, and never another error."""
    whole = pack(
        tmp_path / "s.zip", {"CoLA.tsv": b"index\tprediction\n" * 9, "r\u00e9sum\u00e9.tsv": b"x"}
    ).read_bytes()
    random, refused = np.random.default_rng(0), 0
    for _ in range(3000):
        broken = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            broken[place] = random.integers(0, 256)
        (tmp_path / "broken.zip").write_bytes(broken)
        try:
            read_archive(tmp_path / "broken.zip")
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 500
