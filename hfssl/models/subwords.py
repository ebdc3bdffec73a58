"""Character n-grams of words (Bojanowski et al. 2017, section 3.2), by the hash of fastText's dictionary.cc."""

from __future__ import annotations

_FNV_BASIS, _FNV_PRIME, _UINT32 = 2166136261, 16777619, 0xFFFFFFFF
_WIDENED = [byte if byte < 128 else byte | 0xFFFFFF00 for byte in range(256)]  # as signed bytes


def ngram_rows(word: str, min_n: int, max_n: int, buckets: int) -> list[int]:
    """The buckets of the n-grams of ``<word>``, from `min_n` to `max_n` characters, in fastText's order.

    The hash is 32-bit FNV-1a of the n-gram's UTF-8. fastText widens each byte as a signed one, so that a byte from 128
    on also flips the upper 24 bits; models in its format depend on that. The ``<`` and ``>`` alone are no 1-grams.

    Returns:
        Buckets from 0 to buckets - 1, one for each occurrence.
    """
    characters = [[_WIDENED[byte] for byte in character.encode()] for character in ("<", *word, ">")]
    rows, last = [], len(characters) - 1
    for first in range(last + 1):
        value = _FNV_BASIS
        for length, character in enumerate(characters[first : first + max_n], 1):
            for byte in character:
                value = (value ^ byte) * _FNV_PRIME & _UINT32
            if length >= min_n and (length > 1 or 0 < first < last):
                rows.append(value % buckets)
    return rows
