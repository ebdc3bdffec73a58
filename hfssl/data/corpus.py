"""A tokenised text on disk: made once, memory-mapped, used again as long as it is made from the same.

A corpus folder holds shards, `shard-00000.bin` (token ids, uint16, or uint32 for a vocabulary over 65,536) with
`shard-00000.npy` (int64, where each document ends), and `manifest.json`, which is written last and says what the folder
was made from. A shard is a fixed stretch of the text, whoever makes it: several processes or machines each make some
of them, and the last one joins them. Finished shards wait in a hidden folder beside the corpus, so that an interrupted
build goes on where it was, and the corpus appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hfssl.data.encoding import Encoder, id_type
from hfssl.errors import InputError
from hfssl.files import write_whole

logger = logging.getLogger(__name__)

VERSION = 3
SHARD_CHARACTERS = 2**26  # of text in a shard: some 30 MB of tokens
_BATCH_CHARACTERS = 2**20  # tokenised at once; the results take up to some 50 bytes a character


class Corpus:
    """A tokenised text, memory-mapped.

    Attributes:
        manifest: counts and hashes; "tokens", "documents", and "bytes", the UTF-8 length of the text; its "name".

    Raises:
        InputError: no corpus, of another version, or a shard shorter than its manifest says.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
            shards, dtype = self.manifest["shards"], np.dtype(self.manifest["dtype"])
            numbers = [self.manifest[name] for name in ("tokens", "bytes", "largest")]
            numbers += [shard[name] for shard in shards for name in ("tokens", "documents")]
            if self.manifest["version"] != VERSION or min(numbers) < 0:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{folder} holds no corpus of this version; make it again") from None
        self._tokens, self._ends = [], []
        for number, shard in enumerate(shards):
            path = self.folder / f"{_name(number)}.bin"
            expected = shard["tokens"] * dtype.itemsize
            _check_size(path, expected)
            try:
                ends = np.load(path.with_suffix(".npy"), mmap_mode="r")
            except (OSError, ValueError):
                ends = ()
            if len(ends) != shard["documents"]:
                raise InputError(f"{path.with_suffix('.npy')} is damaged or missing; delete the folder and run again")
            self._tokens.append(np.memmap(path, dtype=dtype, mode="r") if expected else np.empty(0, dtype))
            self._ends.append(ends)
        self._starts = np.cumsum([0] + [shard["tokens"] for shard in shards])  # the first token of each shard
        self._counts = np.zeros(0, np.int64)
        self._first_document = np.cumsum([0] + [shard["documents"] for shard in shards])

    def __reduce__(self):
        return Corpus, (self.folder,)  # a worker maps the files itself

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start to stop, int64, also across shards.

        Raises:
            InputError: one is larger than the manifest knows: the shard was damaged since.
        """
        parts = [self._tokens[shard][a:b] for shard, a, b in self._stretches(start, stop)]
        tokens = np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
        if len(tokens) and tokens.max() > self.manifest["largest"]:
            raise InputError(
                f"{self.folder} is damaged: it holds the token id {tokens.max():,}, over the largest of its manifest, "
                f"{self.manifest['largest']:,}; delete the folder and run again"
            )
        return tokens

    def document_ids(self, start: int, stop: int) -> np.ndarray:
        """Which document each of the tokens start to stop belongs to, int64."""
        parts = [
            np.searchsorted(self._ends[shard], np.arange(a, b), side="right") + self._first_document[shard]
            for shard, a, b in self._stretches(start, stop)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def frequencies(self, vocab_size: int) -> np.ndarray:
        """How often each token id occurs, (vocab_size,) int64; read once, some of it at a time.

        Raises:
            InputError: an id lies over the vocabulary.
        """
        if len(self._counts) != vocab_size:
            counts = np.zeros(vocab_size, np.int64)
            for shard in self._tokens:
                for first in range(0, len(shard), 2**22):
                    found = np.bincount(shard[first : first + 2**22], minlength=vocab_size)
                    if len(found) > vocab_size:
                        raise InputError(self._over(len(found) - 1, vocab_size))
                    counts += found
            self._counts = counts
        return self._counts

    def duplicate_share(self, limit: int = 10_000) -> float:
        """The share of the first documents of each shard, `limit` at most, that are the same as an earlier one."""
        seen, count = set(), 0
        for tokens, ends in zip(self._tokens, self._ends, strict=True):
            ends = ends[:limit]
            for first, end in zip([0, *ends[:-1]], ends, strict=True):
                seen.add(hashlib.blake2b(tokens[first:end].tobytes(), digest_size=16).digest())
            count += len(ends)
        return 1 - len(seen) / max(1, count)

    def shards(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each shard's tokens and where its documents end, memory-mapped."""
        return zip(self._tokens, self._ends, strict=True)

    @property
    def tokens_per_byte(self) -> float:
        """Turns a loss a token into a loss a byte, which does not depend on the tokenizer."""
        return self.manifest["tokens"] / self.manifest["bytes"]

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises InputError if a token id lies over the vocabulary."""
        if self.manifest["largest"] >= vocab_size:
            raise InputError(self._over(self.manifest["largest"], vocab_size))

    def _over(self, token: int, vocab_size: int) -> str:
        return (
            f"{self.folder} holds the token id {token:,}, but the vocabulary has {vocab_size:,} entries; "
            "make the corpus again with this tokenizer"
        )

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The shards that hold tokens start to stop, with the range inside each."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop and shard < len(self._tokens):
            first = int(self._starts[shard])
            end = min(stop, int(self._starts[shard + 1]))
            yield shard, start - first, end - first
            start, shard = end, shard + 1


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.exists() else 0
    if size != expected:
        raise InputError(
            f"{path} has {size:,} bytes where its manifest says {expected:,}; delete the folder and run again"
        )


def tokenizer_hash(tokenizer) -> str:
    """A hash of all that decides which ids a text gets."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def build_corpus(
    texts,
    tokenizer,
    folder: str | Path,
    end_token_id: int,
    part: int | None = None,
    parts: int = 1,
    shard_characters: int = SHARD_CHARACTERS,
) -> Corpus | None:
    """Tokenises documents into a corpus folder, or opens the one that is there if it was made from the same.

    Memory is bounded by a few batches of text, however long the text is.

    Args:
        texts: an iterable of documents with a `fingerprint()`.
        tokenizer: its Rust threads do the work; no special tokens are added but `end_token_id` after each document, and
            a special token's string in a text is text.
        folder: appears whole or not at all.
        part, parts: make only every `parts`-th shard, from the `part`-th on. The calls for the other parts may run at
            the same time, in other processes or on other machines that share the file system.

    Returns:
        The corpus, or None if the shards of other parts are still to be made.

    Raises:
        InputError: there is no document, or the text is bad; nothing stays then.
    """
    folder = Path(folder)
    identity = {
        "version": VERSION,
        "tokenizer": tokenizer_hash(tokenizer),
        "source": texts.fingerprint(),
        "end_token_id": int(end_token_id),
        "shard_characters": shard_characters,
    }
    if (folder / "manifest.json").exists():
        if _is_made_from(folder, identity):
            return Corpus(folder)
        logger.warning("%s is not of this text, tokenizer and version: building it again", folder)
    elif _is_foreign(folder):
        raise InputError(f"{folder} is there and is no corpus; give another folder")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    staging = folder.with_name(f".{folder.name}.{digest}.building")  # shared by those alone who build the same
    try:
        staging.mkdir(parents=True, exist_ok=True)
        count = _make_shards(texts, tokenizer, staging, end_token_id, part, parts, shard_characters)
        if count == 0:
            raise InputError("the text holds no document")
        with _alone(folder, identity, digest):
            if not _is_made_from(folder, identity):
                return _join(staging, folder, identity, getattr(texts, "source", "text"), len(tokenizer), count)
    except InputError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    except OSError as error:
        with contextlib.suppress(OSError), _alone(folder, identity, digest):
            pass  # another process that joins these shards takes them away a moment before the corpus is there
        if not _is_made_from(folder, identity):
            raise InputError(f"cannot write the corpus {folder}: {error.strerror or error}") from error
    shutil.rmtree(staging, ignore_errors=True)
    return Corpus(folder)  # another process built the same at the same time and was first


def _is_foreign(folder: Path) -> bool:
    """Whether there is something that is no corpus. Looks for the manifest last: one may be made at this moment."""
    occupied = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    return occupied and not (folder / "manifest.json").exists()


@contextlib.contextmanager
def _alone(folder: Path, identity: dict[str, Any], digest: str) -> Iterator[None]:
    """One process at a time, on one machine or on several that share a file system with locks.

    The lock's file goes once the corpus is there: whoever still waits for it then finds the corpus.
    """
    path = folder.with_name(f".{folder.name}.{digest}.lock")
    with open(path, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: as well as it goes
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    if _is_made_from(folder, identity):
        path.unlink(missing_ok=True)


def _is_made_from(folder: Path, identity: dict[str, Any]) -> bool:
    manifest = _read_json(folder / "manifest.json")
    return all(manifest.get(key) == value for key, value in identity.items())


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _make_shards(texts, tokenizer, staging: Path, end: int, part: int | None, parts: int, shard_characters: int) -> int:
    """Makes those of this part's shards that are not there yet; returns the number of all shards."""
    encoder = Encoder(tokenizer)
    count = 0
    with tqdm(desc="Tokenising", unit="B", unit_scale=True, disable=None) as bar:
        for number, documents in groupby(_numbered(texts, shard_characters), key=lambda pair: pair[0]):
            count = number + 1
            mine = part is None or number % parts == part
            if mine and not (staging / f"{_name(number)}.json").exists():
                _write_shard((text for _, text in documents), encoder, staging, number, end, bar)
    return count


def _numbered(texts: Iterable[str], shard_characters: int) -> Iterator[tuple[int, str]]:
    """Each document with the number of its shard: a new one begins after `shard_characters`."""
    number = characters = 0
    for text in texts:
        if characters >= shard_characters:
            number, characters = number + 1, 0
        characters += len(text)
        yield number, text


def _write_shard(documents, encoder: Encoder, staging: Path, number: int, end: int, bar) -> None:
    """Writes one shard under other names and renames it when it is whole; its .json comes last."""
    target = staging / _name(number)
    scratch = staging / f".{target.name}.{uuid.uuid4().hex}"
    ends, total, size, largest = [], 0, 0, end
    ending = np.array([end], encoder.dtype).tobytes()
    try:
        # A second thread reads and tokenises the next batch while this one writes: the tokenizer lets go of the lock.
        with open(f"{scratch}.bin", "wb") as file, ThreadPoolExecutor(1) as pool:
            batches = _batches(documents, encoder)

            def tokenised():
                batch = next(batches, None)
                if batch is None:
                    return None
                pieces, last, length = batch
                return encoder(pieces), last, length

            following = pool.submit(tokenised)
            while (result := following.result()) is not None:
                following = pool.submit(tokenised)
                encoded, last, length = result
                for ids, is_last in zip(encoded, last, strict=True):
                    file.write(ids)
                    total += len(ids) // encoder.dtype.itemsize
                    largest = max(largest, int(np.frombuffer(ids, encoder.dtype).max(initial=0)))
                    if is_last:
                        file.write(ending)
                        total += 1
                        ends.append(total)
                size += length
                bar.update(length)
            file.flush()
            os.fsync(file.fileno())
        with open(f"{scratch}.npy", "wb") as file:
            np.save(file, np.array(ends, np.int64))
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{scratch}.bin", f"{target}.bin")
        os.replace(f"{scratch}.npy", f"{target}.npy")
        counts = {"tokens": total, "documents": len(ends), "bytes": size, "largest": largest}
        _write_json(target.with_suffix(".json"), counts)
    finally:
        for suffix in (".bin", ".npy"):
            Path(f"{scratch}{suffix}").unlink(missing_ok=True)


def _batches(documents: Iterable[str], encoder: Encoder) -> Iterator[tuple[list[str], list[bool], int]]:
    """Pieces of documents, for each whether it is its document's last, and their length in UTF-8 bytes."""
    pieces, last, characters, length = [], [], 0, 0
    for text in documents:
        for piece, is_last in encoder.pieces(text):
            pieces.append(piece)
            last.append(is_last)
            characters += len(piece)
            length += len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
            if characters >= _BATCH_CHARACTERS:
                yield pieces, last, length
                pieces, last, characters, length = [], [], 0, 0
    if pieces:
        yield pieces, last, length


def _join(
    staging: Path, folder: Path, identity: dict[str, Any], name: str, vocabulary: int, count: int
) -> Corpus | None:
    """Makes the staged shards the corpus, if all are there."""
    records = [staging / f"{_name(number)}.json" for number in range(count)]
    if not all(record.exists() for record in records):
        done = sum(record.exists() for record in records)
        logger.info("%d of %d shards of %s are made; the other parts are still to come", done, count, folder)
        return None
    shards = [_read_json(record) for record in records]
    manifest = identity | {"name": name, "dtype": id_type(vocabulary).name}
    manifest |= {key: sum(shard[key] for shard in shards) for key in ("tokens", "documents", "bytes")}
    manifest |= {"largest": max(shard["largest"] for shard in shards), "shards": shards}
    _write_json(staging / "manifest.json", manifest)
    if folder.exists():  # aside first: at no moment does another process see a part of a corpus
        aside = staging.with_suffix(".old")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(folder.rename(aside))
    staging.rename(folder)
    # Only now: until here a build that was killed finds its shards. Hidden ones are of a process that was killed.
    for path in [*(folder / record.name for record in records), *folder.glob(".*")]:
        path.unlink(missing_ok=True)
    return Corpus(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1))
