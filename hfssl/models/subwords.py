"""Character n-grams of words (Bojanowski et al. 2017, section 3.2), by the hash of fastText's dictionary.cc."""

from __future__ import annotations

_FNV_BASIS, _FNV_PRIME, _UINT32 = 2166136261, 16777619, 0xFFFFFFFF


def ngram_rows(word: str, min_n: int, max_n: int, buckets: int) -> list[int]:
    """The buckets of the n-grams of ``<word>``, from `min_n` to `max_n` characters of UTF-8, in fastText's order.

    The hash is 32-bit FNV-1a of the n-gram's bytes. fastText widens each byte as a signed one, so that a byte from 128
    on also flips the upper 24 bits; models in its format depend on that. The ``<`` and ``>`` alone are no 1-grams.

    Returns:
        Buckets from 0 to buckets - 1, one for each occurrence.
    """
    text = f"<{word}>".encode()
    starts = [place for place, byte in enumerate(text) if byte & 0xC0 != 0x80]  # of characters
    ends = [*starts[1:], len(text)]
    rows = []
    for first, start in enumerate(starts):
        value, place = _FNV_BASIS, start
        for length, end in enumerate(ends[first : first + max_n], 1):
            for byte in text[place:end]:
                value = ((value ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * _FNV_PRIME) & _UINT32
            place = end
            if length >= min_n and not (length == 1 and first in (0, len(starts) - 1)):
                rows.append(value % buckets)
    return rows
