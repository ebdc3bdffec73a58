"""Reading local text files document by document, in bounded memory, with an error that names the place."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hfssl.errors import InputError, nearest, one_line

TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # PIL's names; others may start programs
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, *IMAGE_SUFFIXES, ".gz", ".csv", ".zip", ".tar", ".yaml")

PIECE = 16 * 2**20  # characters; a longer text file comes in pieces of about this length
_BLOCK = 2**20  # bytes read at once


def suffix(path: Path) -> str:
    """The suffix that says the format: that of ``a.jsonl.gz`` is ``.jsonl``."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def text_files(path: Path) -> list[Path]:
    """The file itself, or every usable file below a folder, sorted; hidden files and folders are skipped.

    Raises:
        InputError: an empty file, a suffix that is not known, or a folder without a usable file.
    """
    usable = "usable are " + ", ".join(TEXT_SUFFIXES) + " and .gz of these"
    if path.is_dir():
        files = visible_files(path, lambda file: suffix(file) in TEXT_SUFFIXES)
        if not files:
            raise InputError(f"no usable text file in folder {str(path)!r}; {usable}")
        return files
    if suffix(path) not in TEXT_SUFFIXES:
        raise InputError(f"cannot tell the format of {str(path)!r} from its suffix; {usable}")
    if path.stat().st_size == 0:
        raise InputError(f"the file {str(path)!r} is empty")
    return [path]


def visible_files(folder: Path, wanted) -> list[Path]:
    """Every file below a folder that ``wanted(path)`` accepts, sorted by path, without hidden files and folders."""
    files = []
    for file in folder.rglob("*"):
        relative = file.relative_to(folder).parts
        if not any(part.startswith(".") for part in relative) and wanted(file) and file.is_file():
            files.append(file)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def check_encoding(encoding: str) -> None:
    try:
        text_codec = codecs.lookup(encoding)._is_text_encoding
    except LookupError:
        text_codec = False
    if not text_codec:
        common = ["utf-8", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030", "big5", "koi8-r"]
        raise InputError(f"unknown encoding {encoding!r}{nearest(encoding, common)}")


def read_documents(path: Path, column: str, encoding: str) -> Iterator[str]:
    """The documents of one file: the rows of jsonl and parquet, the whole of a .txt file (in pieces if it is long)."""
    kind = suffix(path)
    if kind == ".parquet":
        yield from _parquet_rows(path, column)
    elif kind == ".txt":
        yield from _pieces(_decoded(path, encoding))
    else:
        yield from _json_rows(path, _lines(_decoded(path, encoding)), column)


def _pieces(blocks: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= PIECE and "\n" in block:
            text = "".join(held)
            end = text.rfind("\n") + 1
            yield text[:end]
            held, length = [text[end:]], len(text) - end
    if length:
        yield "".join(held)


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file (or .gz of one) without their ends, whichever kind these are."""
    return _lines(_decoded(path, "utf-8", remedy=""))


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    """Lines that end at a line feed only: JSON strings may hold U+2028, which `str.splitlines` also splits at."""
    rest = ""
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        yield from lines
    if rest:
        yield rest


def _decoded(path: Path, encoding: str, remedy: str | None = None) -> Iterator[str]:
    """A file's text in blocks, unpacked and decoded; every kind of line end becomes a line feed.

    Raises:
        InputError: bytes that are not of this encoding (with their place), or a damaged .gz file.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0  # of the next block in the (unpacked) file
    with _opened(path) as file:
        while True:
            try:
                block = file.read(_BLOCK)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise InputError(f"{str(path)!r} is no whole .gz file (damaged or cut off): {error}") from error
            pending = len(decoder.getstate()[0])  # bytes of a character that the block before began
            try:
                text = newlines.decode(decoder.decode(block, final=not block), final=not block)
            except UnicodeError as error:
                byte = offset - pending + getattr(error, "start", 0)
                other = "latin-1" if encoding.lower().replace("_", "-") != "latin-1" else "utf-8"
                remedy = f"; name its encoding, for example --encoding {other}" if remedy is None else remedy
                raise InputError(f"{str(path)!r} is not {encoding}: byte {byte} cannot be decoded{remedy}") from error
            if text:
                yield text
            if not block:
                return
            offset += len(block)


def _opened(path: Path) -> BinaryIO:
    try:
        return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
    except OSError as error:
        raise InputError(f"cannot open {str(path)!r}: {error.strerror}") from error


def _json_rows(path: Path, lines: Iterator[str], column: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: no JSON ({error}); each line of the file must be one JSON object") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON {type(row).__name__}, not an object with a column {column!r}")
        if column not in row:
            raise InputError(f"{where}: no column {column!r}; this line has {', '.join(row) or 'none'} (--text_column)")
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: column {column!r} is {type(text).__name__}, not text")
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:  # JSON can write half of a pair of surrogates, "\\ud800"
            half = f"\\u{ord(text[error.start]):x}"
            raise InputError(f"{where}: {half} in column {column!r} is half of a character; take it out") from None
        yield text or ""


def open_parquet(path: Path):
    """A `pyarrow.parquet.ParquetFile`; one that is packed in .gz is unpacked to a temporary file first.

    Raises:
        InputError: no parquet file, or a damaged one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source: Path | BinaryIO = path
    if path.name.lower().endswith(".gz"):
        source = tempfile.TemporaryFile()  # noqa: SIM115  # the ParquetFile keeps it, and it vanishes with it
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, source)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{str(path)!r} is no whole .gz file (damaged or cut off): {error}") from error
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{str(path)!r} is no parquet file, or a damaged one: {one_line(error)}") from error


def _parquet_rows(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa

    file = open_parquet(path)
    schema = file.schema_arrow
    if column not in schema.names:
        known = ", ".join(schema.names)
        raise InputError(f"{str(path)!r} has no column {column!r}; its columns are {known} (--text_column)")
    kind = schema.field(column).type
    value_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if value_kind not in (pa.string(), pa.large_string(), pa.string_view()):
        raise InputError(f"column {column!r} of {str(path)!r} is {kind}, not text; choose another by --text_column")
    try:
        for batch in file.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0):
                yield value.as_py() or ""
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is a damaged parquet file: {one_line(error)}") from error


def content_hash(path: Path) -> str:
    """A hash of a file's bytes; of a file over 1 GiB, of 256 evenly spaced MiB and its time of change.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return _content_hash(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _content_hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    status = path.stat()
    with path.open("rb") as file:
        if status.st_size <= 2**30:
            while block := file.read(_BLOCK):
                digest.update(block)
        else:
            digest.update(str(status.st_mtime_ns).encode())
            for i in range(256):
                file.seek(i * (status.st_size - _BLOCK) // 255)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
