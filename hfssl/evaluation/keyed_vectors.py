"""gensim's saved KeyedVectors, read without gensim and without running anything that lies in the file.

gensim pickles the object and writes arrays of over 10 MB beside it, as ``NAME.vectors.npy``. A pickle may name any
function to be called; this reader knows the few names that such a file has and refuses every other.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hfssl.errors import InputError, one_line

PICKLE = b"\x80"  # the first byte of one, protocol 2 and later


class _Keyed:
    """Takes the attributes of a KeyedVectors."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "gensim.models.keyedvectors" and name in ("KeyedVectors", "Word2VecKeyedVectors"):
            return _Keyed
        numpy_itself = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if numpy_itself and name in ("ndarray", "dtype", "_reconstruct", "scalar"):
            return super().find_class(module, name)
        if (module, name) in (("builtins", "set"), ("builtins", "frozenset"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no KeyedVectors has; save_word2vec_format of what wrote it can be read"
        )


def read_keyed_vectors(path: Path) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Words, vectors (N, d), and counts (N,) if they were saved, of a file that gensim's `KeyedVectors.save` wrote.

    Raises:
        InputError: it is none, is damaged, or names other code.
    """
    try:
        with path.open("rb") as stream:
            saved = _Unpickler(stream).load()
        held = vars(saved) if isinstance(saved, _Keyed) else {}
        words, vectors, counts = held.get("index_to_key"), held.get("vectors"), held.get("expandos", {}).get("count")
        if words is not None and vectors is None:
            beside = path.with_name(f"{path.name}.vectors.npy")
            vectors = np.array(np.load(beside, mmap_mode="r", allow_pickle=False))  # mapped: its header may lie
    except (OSError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, ImportError, MemoryError,
            OverflowError, pickle.UnpicklingError) as error:  # fmt: skip  # what a damaged pickle raises
        raise InputError(
            f"cannot read {path} as gensim's KeyedVectors: {one_line(error)[:300] or type(error).__name__}"
        ) from None
    named = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if not named or not isinstance(vectors, np.ndarray) or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(f"{path} is a pickle, but no KeyedVectors of gensim 4; of a Word2Vec model save its .wv")
    counts = counts if isinstance(counts, np.ndarray) else None
    for name, array, axes in (("vectors", vectors, 2), ("counts", counts, 1)):
        if array is not None and (array.ndim != axes or len(array) < len(words)):
            raise InputError(f"{path} is damaged: {len(words)} words with {name} of the shape {array.shape}")
    return words, vectors[: len(words)], None if counts is None else counts[: len(words)]
