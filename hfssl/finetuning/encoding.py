"""A task's texts as token ids: once for all seeds and trials of a tokenizer, in memory and in hfssl's cache.

What stands where is `evaluation/rendering.py`'s business; WiC and WSC have two spans besides. COPA's and ReCoRD's items
are several rows, one for each candidate.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from hfssl.data.blocks import cache_folder
from hfssl.errors import InputError
from hfssl.evaluation.rendering import SCORED_KINDS, candidate_rows, pair_texts
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import SPAN_KINDS

logger = logging.getLogger(__name__)

VERSION = 1  # of what the cache holds


@dataclass
class Encoded:
    """One split. Item i (an example of the task) is rows items[i]:items[i + 1], row r is ids[starts[r]:starts[r + 1]].

    Attributes:
        ids: int32, all rows after one another, special tokens included.
        types: uint8, the token types, or None for a tokenizer without.
        spans: int32 (rows, 2, 2), first token and the one after the last of each span, or None.
        truncated: rows that were too long and lost their end.
        lost: spans that lay in the part lost; the row's last token stands for them.
    """

    ids: np.ndarray
    starts: np.ndarray
    types: np.ndarray | None
    items: np.ndarray
    spans: np.ndarray | None
    truncated: int
    lost: int = 0

    def __len__(self) -> int:
        return len(self.items) - 1

    @property
    def row_lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def item_lengths(self) -> np.ndarray:
        """Of each item its longest row, which is what a batch pads to."""
        return np.maximum.reduceat(self.row_lengths, self.items[:-1])

    @property
    def item_rows(self) -> np.ndarray:
        return np.diff(self.items)


class TaskEncoder:
    """Encodes splits with one tokenizer and keeps them.

    Args:
        max_length: tokens of a row, special tokens included; longer ones lose the end of their longer text.
        with_types: the model takes token types.

    Raises:
        InputError: while encoding WiC or WSC, a tokenizer without offsets.

    Attributes:
        identity: equal for two encoders that give the same tokens.
    """

    def __init__(self, tokenizer, max_length: int, with_types: bool = True):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.with_types = with_types and "token_type_ids" in tokenizer.model_input_names
        self._kept: dict[str, Encoded] = {}
        self.identity = self._describe()

    def _describe(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            settings = sorted(map(repr, self.tokenizer.init_kwargs.items()))
            text = f"{type(self.tokenizer).__name__} {settings} {sorted(self.tokenizer.get_vocab().items())}"
        else:  # what it truncates and pads by itself depends on its last call
            backend = Tokenizer.from_str(backend.to_str())
            backend.no_truncation()
            backend.no_padding()
            text = backend.to_str()
        return f"{VERSION} {self.max_length} {self.with_types} {text}"

    def encode(self, data: SplitData) -> Encoded:
        key = hashlib.blake2b(f"{data.fingerprint()} {self.identity}".encode(), digest_size=16).hexdigest()
        if key not in self._kept:
            path = cache_folder() / "encoded" / f"{key}.npz"
            found = _read(path)
            if found is None:
                found = self._encode(data)
                _write(path, found)
            self._kept[key] = found
        return self._kept[key]

    def _encode(self, data: SplitData) -> Encoded:
        first, second, per_item = self._rows(data)
        spans_of = self._spans(data)
        if spans_of is not None and not self.tokenizer.is_fast:
            raise InputError(f"{data.task.title} needs a tokenizer that says where its tokens are: a fast one")
        options = {
            "add_special_tokens": True, "padding": False, "return_attention_mask": False, "verbose": False,
            "return_token_type_ids": self.with_types, "return_offsets_mapping": spans_of is not None,
        }  # fmt: skip
        found = self.tokenizer(first, second, truncation=False, **options)
        ids = found["input_ids"]
        types = found["token_type_ids"] if self.with_types else None
        long = [row for row, tokens in enumerate(ids) if len(tokens) > self.max_length]
        sources = [(found, row) for row in range(len(ids))]
        if long:
            others = None if second is None else [second[row] for row in long]
            cut = self.tokenizer(
                [first[row] for row in long], others, truncation="longest_first", max_length=self.max_length, **options
            )
            for place, row in enumerate(long):
                ids[row], sources[row] = cut["input_ids"][place], (cut, place)
                if types is not None:
                    types[row] = cut["token_type_ids"][place]
        spans, lost = (None, 0) if spans_of is None else _token_spans(spans_of, sources, second is not None)
        return Encoded(
            np.fromiter((token for row in ids for token in row), np.int32),
            _bounds([len(row) for row in ids]),
            None if types is None else np.fromiter((kind for row in types for kind in row), np.uint8),
            _bounds(per_item),
            spans,
            len(long),
            lost,
        )

    def _rows(self, data: SplitData) -> tuple[list[str], list[str] | None, list[int]]:
        """First texts, second texts, and the rows of each item."""
        if data.task.kind in SCORED_KINDS:
            candidates = candidate_rows(data)
            return candidates.first, candidates.second, np.bincount(candidates.row, minlength=len(data)).tolist()
        first, second = pair_texts(data)
        # The spans of WSC are seen where they stand.
        return first, None if data.task.kind == "coreference" else second, [1] * len(data)

    def _spans(self, data: SplitData):
        """Of each row the characters of its two spans, or None."""
        return data.spans if data.task.kind in SPAN_KINDS else None


def _bounds(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _token_spans(spans, sources, paired: bool) -> tuple[np.ndarray, int]:
    """Character spans as token spans (rows, 2, 2): every token that shares a character with the span."""
    made, lost = np.zeros((len(spans), 2, 2), np.int32), 0
    for row, (pair, (encodings, place)) in enumerate(zip(spans, sources, strict=True)):
        offsets, parts = encodings["offset_mapping"][place], encodings.sequence_ids(place)
        for number, (begin, end) in enumerate(pair):
            part = number if paired else 0
            inside = [
                token
                for token, (start, stop) in enumerate(offsets)
                if parts[token] == part and start < end and stop > begin and stop > start
            ]
            if not inside:
                lost += 1
                inside = [len(offsets) - 1]
            made[row, number] = inside[0], inside[-1] + 1
    return made, lost


def _read(path) -> Encoded | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        truncated, lost = (int(count) for count in arrays.pop("counts"))
        return Encoded(
            **{name: arrays.get(name) for name in ("ids", "starts", "types", "items", "spans")},
            truncated=truncated,
            lost=lost,
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s) and made anew", path, error)
        return None


def _write(path, encoded: Encoded) -> None:
    """The file appears whole or not at all; a cache that cannot be written is done without."""
    arrays = {"ids": encoded.ids, "starts": encoded.starts, "types": encoded.types, "items": encoded.items}
    arrays |= {"spans": encoded.spans, "counts": np.array([encoded.truncated, encoded.lost])}
    staging = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(staging, **{name: array for name, array in arrays.items() if array is not None})
        staging.replace(path)
    except OSError as error:
        logger.warning("cannot keep %s: %s", path, error.strerror or error)
    finally:
        staging.unlink(missing_ok=True)
