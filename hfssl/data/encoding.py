"""Text to token ids, many documents at a time.

A text is long and its different words are few. Where a tokenizer's words are known to end at white space, the text is
cut there, each different piece is tokenised once, and its ids are looked up from then on. All ids are the tokenizer's.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import filterfalse

import numpy as np
from tokenizers import Tokenizer

_PIECE = 2**16  # characters; a longer document is cut, so that it is no batch of its own
_REMEMBERED = 2**26  # bytes, roughly, of looked-up pieces, some 300,000; then it begins anew
# White space as Unicode and the tokenizers library define it: Python also counts four control characters.
_SPACE, _VISIBLE = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
# In GPT-2's pattern a word is something visible, with the space before it, or white space, without its last character
# if something visible follows. So no word goes on from one of these pieces to the next.
_find_pieces = re.compile(f" ?{_VISIBLE}+|{_SPACE}+(?!{_VISIBLE})|{_SPACE}").findall
_SAFE_CUT = re.compile(f"{_SPACE}(?={_VISIBLE})")


class Encoder:
    """Tokenises documents or pieces of them; no special token is added, and a special token's string is text.

    Attributes:
        dtype: of the ids, uint16, or uint32 for a vocabulary over 65,536.
    """

    def __init__(self, tokenizer):
        # Truncation or padding set in tokenizer.json would cut or fill every document.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # a text that mentions <|endoftext|> does not end there
        self._cut = _ends_words_at_space(self._backend)
        self._known: dict[str, bytes] = {}
        self._held = 0
        self.dtype = id_type(len(tokenizer))

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """A document in pieces that have the tokens of the whole, and whether each is its last."""
        start = 0
        while self._cut and len(text) - start > _PIECE and (cut := _SAFE_CUT.search(text, start + _PIECE)):
            yield text[start : cut.start()], False
            start = cut.start()
        yield text[start:], True

    def __call__(self, texts: Sequence[str]) -> Iterator[bytes]:
        """The ids of each text, in memory as an array of `dtype` has them.

        The tokenizer's threads have done their work when it returns; the rest is done while the result is read.
        """
        if not self._cut:
            return self._encode(texts)
        if self._held > _REMEMBERED:
            self._known, self._held = {}, 0  # a new one: the result of the call before may still be read
        known, pieces = self._known, [_find_pieces(text) for text in texts]
        new = list(set().union(*(filterfalse(known.__contains__, found) for found in pieces)))
        if len(new) > sum(map(len, pieces)) / 3:  # numbers, say: a piece on its own costs more than in its text
            return self._encode(texts)
        known.update(zip(new, self._encode(new), strict=True))
        self._held += sum(map(len, new)) + 200 * len(new)
        return (b"".join(map(known.__getitem__, found)) for found in pieces)

    def _encode(self, texts: Sequence[str]) -> Iterator[bytes]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return (array(self.dtype.char, encoding.ids).tobytes() for encoding in encodings)


def id_type(vocabulary: int) -> np.dtype:
    """The smallest type of a corpus's tokens that holds every id."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)


def _ends_words_at_space(backend: Tokenizer) -> bool:
    """Whether a text cut at white space has the same tokens: known for the byte-level pattern of GPT-2 alone."""
    settings = json.loads(backend.to_str())
    before = settings["pre_tokenizer"] or {}
    return (
        settings["normalizer"] is None
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", False)
        and not before.get("add_prefix_space", True)
        and not settings["model"].get("dropout")  # then the same piece has other tokens each time
        and not any(_reaches_over_space(token) for token in settings["added_tokens"] if not token["special"])
    )


def _reaches_over_space(token: dict) -> bool:
    return token["lstrip"] or token["rstrip"] or any(character.isspace() for character in token["content"])
