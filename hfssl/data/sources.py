"""Where data comes from: a Hub dataset id, a local file or folder, or ``builtin:NAME``; and the entry for text.

`load_texts` gives documents one after another in bounded memory, always in the same order. The entry for images is
`hfssl.data.images.load_images`, which shares the rules for paths. Nothing is downloaded unless a Hub id is named.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hfssl.data import readers
from hfssl.data.builtin import BUILTIN_FRAMES, BUILTIN_IMAGES, BUILTIN_TEXTS, builtin_texts, hash_fraction
from hfssl.errors import InputError, nearest, one_line

INSTEAD = "name a local file or folder, or builtin:NAME"

logger = logging.getLogger(__name__)


@dataclass
class TextArguments:
    """Which text, and which part of it is held out."""

    text_path: str = field(
        default="builtin:prose",
        metadata={
            "help": "A Hub dataset id; a local .txt, .jsonl or .parquet (or .gz of these) or folder; builtin:NAME."
        },
    )
    text_config: str | None = field(default=None, metadata={"help": "The configuration of a Hub dataset."})
    text_split: str = field(default="train", metadata={"help": "The split of a Hub dataset to train on."})
    text_column: str = field(
        default="text", metadata={"help": "The column of jsonl, parquet or Hub data with the text."}
    )
    encoding: str = field(default="utf-8", metadata={"help": "The encoding of .txt and .jsonl files."})
    streaming: bool = field(default=False, metadata={"help": "Read a Hub dataset while it downloads, without a copy."})
    eval_text_path: str | None = field(
        default=None,
        metadata={"help": "Held-out text, in any of the forms of text_path; without it a part is held out."},
    )
    eval_fraction: float = field(
        default=0.02,
        metadata={
            "help": "The part of the documents that is held out, chosen by a hash of each; builtin data has its own."
        },
    )


class Texts:
    """Documents to iterate over as often as wanted, in the same order each time, without holding them all in memory.

    Attributes:
        source: one line that says where they come from.
    """

    def __init__(self, source: str, documents: Callable[[], Iterable[str]], fingerprint: Callable[[], str]):
        self.source = source
        self._documents = documents
        self._fingerprint = functools.cache(fingerprint)

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents())

    def fingerprint(self) -> str:
        """A hash that changes when the documents do (names, sizes and content; a Hub dataset's own)."""
        return self._fingerprint()

    def __repr__(self) -> str:
        return f"Texts({self.source!r})"


def load_texts(args: TextArguments, split: str = "train") -> Texts:
    """The documents to train on or the held-out ones.

    Held out is ``eval_text_path`` if it is given; of builtin data its validation documents; of a corpus that is one
    document its end, from a line end on; else each document with probability ``eval_fraction`` by a hash of its text,
    so that neither order nor file names matter. Each part has at least one document.

    Args:
        args: the source.
        split: ``"train"`` or ``"eval"``.

    Raises:
        InputError: there is no such source, it has no text, or it cannot be divided; while iterating, bad content.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval', not {split!r}")
    if not 0 <= args.eval_fraction < 1:
        raise InputError(f"eval_fraction must be at least 0 and less than 1, not {args.eval_fraction}")
    readers.check_encoding(args.encoding)
    if args.eval_text_path is not None:
        return _whole(args, args.text_path if split == "train" else args.eval_text_path, is_eval=split == "eval")
    kind, _ = resolve(args.text_path, BUILTIN_TEXTS)
    if kind == "builtin" or args.eval_fraction > 0:
        return _part(args, kind, split)
    if split == "eval":
        raise InputError("eval_fraction is 0 and no eval_text_path is given: nothing is held out to evaluate on")
    return _whole(args, args.text_path)


def resolve(path: str, builtin: dict[str, str]) -> tuple[str, str]:
    """Whether a source is ``"builtin"``, ``"local"`` or ``"hub"``, and its name or path.

    What exists on disk is local; what looks like a path but does not exist is a mistake, not a Hub id.

    Raises:
        InputError: no such builtin data or no such file.
    """
    path = str(path)
    if path.startswith("builtin:"):
        name = path.removeprefix("builtin:")
        if name not in builtin:
            kinds = {
                " (it is text)": BUILTIN_TEXTS,
                " (it holds images)": BUILTIN_IMAGES,
                " (it holds frames)": BUILTIN_FRAMES,
            }
            other = next((kind for kind, table in kinds.items() if name in table), "")
            known = ", ".join(f"builtin:{name}" for name in builtin)
            raise InputError(f"no such builtin data: {path!r}{other}{nearest(name, builtin)}; there is {known}")
        return "builtin", name
    expanded = os.path.expanduser(path)
    if os.path.exists(expanded):
        return "local", expanded
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path or not path.strip()
    if looks_local or path.lower().endswith(readers.KNOWN_SUFFIXES):
        raise InputError(f"no such file or folder: {path!r}")
    return "hub", path


def load_hub_dataset(
    name: str, config: str | None, split: str, streaming: bool = False, instead: str = INSTEAD, **where
):
    """`datasets.load_dataset` with its many errors made one line.

    Args:
        instead: what to do where the Hub cannot be reached.
        where: ``revision`` and ``data_dir``, if not the usual ones.

    Raises:
        InputError: offline, no such dataset, configuration or split, or a dataset that is a program.
    """
    import datasets

    try:
        with _cache_alone_if_offline():
            return datasets.load_dataset(name, config, split=split, streaming=streaming, **where)
    except Exception as error:  # huggingface_hub, datasets, httpx and the socket each have errors of their own
        raise InputError(_hub_message(name, error, instead)) from error


@contextlib.contextmanager
def _cache_alone_if_offline() -> Iterator[None]:
    """Where one request finds no way to the Hub, its libraries read their cache alone: they would retry for 30 s."""
    import datasets
    import huggingface_hub

    switches = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in switches]
    try:
        if not any(before) and _has_no_way():
            for module in switches:
                module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _has_no_way() -> bool:
    """No name server, no route or a refusal; one that is slow to answer is left to the retries."""
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except Exception as error:  # of httpx or httpx2, by the version of huggingface_hub
        return type(error).__name__ == "ConnectError"
    return False


def _hub_message(name: str, error: BaseException, instead: str) -> str:
    if is_unreachable(error):
        return f"cannot reach the Hub for dataset {name!r} (offline?): {instead}"
    return f"cannot load the Hub dataset {name!r}: {type(error).__name__}: {one_line(error)[:300]}"


def is_unreachable(error: BaseException) -> bool:
    """Whether the Hub was not reached: its client, the HTTP library and the socket each have errors of their own."""
    chain, link = [], error
    while link is not None and len(chain) < 10:
        chain.append(type(link).__name__)
        link = link.__cause__ or link.__context__
    signs = ("Offline", "Connect", "Timeout", "gaierror", "ProxyError", "ProtocolError", "ReadError", "WriteError")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    return offline or any(sign in name for sign in signs for name in chain)


def _whole(args: TextArguments, path: str, is_eval: bool = False) -> Texts:
    """Every document of one source."""
    kind, name = resolve(path, BUILTIN_TEXTS)
    if kind == "builtin":
        texts = builtin_texts(name)
        return Texts(f"builtin:{name}", lambda: texts, lambda: _hash(texts))
    if kind == "hub":
        return _hub(args, name, is_eval)
    if not is_eval and (args.text_config is not None or args.text_split != "train"):
        raise InputError(f"text_config and text_split are for Hub datasets; {path!r} is local: name the file itself")
    files = readers.text_files(Path(name))
    read = functools.partial(_read_all, files, args)
    return Texts(str(path), lambda: _not_empty(read(), path), lambda: _files_fingerprint(files, args))


def _read_all(files: list[Path], args: TextArguments) -> Iterator[str]:
    for path in files:
        if len(files) > 1 and path.stat().st_size == 0:
            logger.warning("%s is empty: left out", path)
            continue
        yield from readers.read_documents(path, args.text_column, args.encoding)


def _not_empty(documents: Iterable[str], source: str) -> Iterator[str]:
    """The documents that hold more than white space; at least one must."""
    empty = True
    for text in documents:
        if text and not text.isspace():
            empty = False
            yield text
    if empty:
        raise InputError(f"{source!r} holds no text: every document is empty")


def _hub(args: TextArguments, name: str, is_eval: bool) -> Texts:
    dataset = load_hub_dataset(name, args.text_config, args.text_split, args.streaming)
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if args.text_column not in columns:
        known = ", ".join(columns)
        raise InputError(f"the Hub dataset {name!r} has no column {args.text_column!r}; its columns are {known}")

    def documents() -> Iterator[str]:
        for row, example in enumerate(_rows(dataset.select_columns(args.text_column), name)):
            text = example[args.text_column]
            if text is not None and not isinstance(text, str):
                kind = type(text).__name__
                raise InputError(f"column {args.text_column!r} of {name!r} (Hub) is {kind} in row {row}, not text")
            yield text or ""

    def fingerprint() -> str:
        identity = [name, str(args.text_config), args.text_split, args.text_column]
        # A stream's content is not known before it is read: its first documents stand for it.
        content = itertools.islice(documents(), 64) if args.streaming else [dataset._fingerprint]
        return _hash([*identity, *content])

    return Texts(f"{name} (Hub, {args.text_split})", lambda: _not_empty(documents(), name), fingerprint)


def _rows(dataset: Iterable[dict], name: str) -> Iterator[dict]:
    """The rows of a Hub dataset; a stream may break off, with whatever its transport raises."""
    try:
        yield from dataset
    except Exception as error:
        raise InputError(f"reading the Hub dataset {name!r} broke off: {one_line(error)}; run again") from error


def _part(args: TextArguments, kind: str, split: str) -> Texts:
    """The train or the eval part of one source."""
    if kind == "builtin":
        part = "validation" if split == "eval" else "train"
        texts = builtin_texts(args.text_path.removeprefix("builtin:"), part)
        return Texts(f"{args.text_path} ({part})", lambda: texts, lambda: _hash(texts))
    whole = _whole(args, args.text_path)
    fraction = args.eval_fraction
    # The rule is found once: it needs to read only until both parts have a document.
    divide = functools.cache(lambda: _division(whole, args))

    def documents() -> Iterator[str]:
        threshold = divide()
        if threshold is None:
            return _tail_split(whole, fraction, split)
        return (text for text in whole if (hash_fraction(text) < threshold) == (split == "eval"))

    return Texts(f"{whole.source} ({split})", documents, lambda: _hash([whole.fingerprint(), str(fraction), split]))


def _division(texts: Texts, args: TextArguments) -> float | None:
    """The hash below which a document is held out, so that each part has one; None if there is only one document."""
    kind, name = resolve(args.text_path, BUILTIN_TEXTS)
    if kind == "local":
        files = readers.text_files(Path(name))
        if len(files) == 1 and readers.suffix(files[0]) == ".txt":
            return None  # one document, even if it comes in pieces
    lowest, highest, count = 1.0, 0.0, 0
    for text in texts:
        value, count = hash_fraction(text), count + 1
        lowest, highest = min(lowest, value), max(highest, value)
        if lowest < args.eval_fraction <= highest:
            return args.eval_fraction
    if count == 1:
        return None
    if lowest == highest:
        same = f"all {count} documents of {args.text_path!r} are the same"
        raise InputError(f"{same}: nothing can be held out; name held-out text by --eval_text_path")
    # Few documents: chance left one part empty, so the one document nearest to it goes there.
    return math.nextafter(lowest, 1.0) if lowest >= args.eval_fraction else highest


def _tail_split(texts: Texts, fraction: float, split: str) -> Iterator[str]:
    """One document that comes in pieces, cut at a line end so that its last ``fraction`` is the eval part."""
    total = sum(map(len, texts))
    if total < 2:
        raise InputError(f"{texts.source!r} is too short to hold a part of it out")
    cut, start = min(max(1, int(total * (1 - fraction))), total - 1), 0
    for piece in texts:
        if start <= cut < start + len(piece):
            # After the last line end before the cut, else after the last space, else in the middle of a word. A piece
            # begins after a line end, so of a later piece the beginning serves.
            before = piece[: cut - start]
            here = before.rfind("\n") + 1 or (0 if start else before.rfind(" ") + 1 or len(before))
            train, held_out = piece[:here], piece[here:]
            yield from filter(None, [train if split == "train" else held_out])
        elif (start < cut) == (split == "train"):
            yield piece
        start += len(piece)


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _files_fingerprint(files: list[Path], args: TextArguments) -> str:
    root = files[0].parent if len(files) == 1 else Path(os.path.commonpath(files))
    contents = (readers.content_hash(path) for path in files)
    names = (f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in files)
    return _hash(itertools.chain([args.text_column, args.encoding], *zip(names, contents, strict=True)))
