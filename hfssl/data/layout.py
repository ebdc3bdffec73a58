"""The layout of a conditional language model: how the fields of a row become `source separator target end`.

Translation, commonsense (COMET, Bosselut et al. 2019) and dialogue (Meena, Adiwardana et al. 2020) differ in it alone.
It is saved beside the model as conditional.json, and the model stays a stock causal language model.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken
from transformers.utils import cached_file

from hfssl.data.encoding import Encoder
from hfssl.errors import InputError, nearest
from hfssl.files import is_missing_folder, write_whole

LAYOUT = "conditional.json"
TASKS = ("translation", "commonsense", "dialogue", "pairs")
_FIELD = re.compile(r"\{(\w+)\}")

# A row's text and where it stands: (text, False), or (special token, True).
Piece = tuple[str, bool]


@dataclass(frozen=True)
class Layout:
    """How a row becomes a prompt and a target.

    A template holds fields in braces. What fills a field is text, also where it spells a special token; only the
    template itself, `tags`, `turn` and `replaced` make special tokens. A space before a field gives its first word the
    token that it has amid a text.

    Attributes:
        task: one of TASKS.
        source, target: templates over the fields of a row.
        separator: the special token after the source; "" where the source's last token tells it from the target, as
            COMET's relation does.
        tags: of a field that holds a special token, all that it may hold: {"relation": ["<xIntent>", ...]}.
        turns: of a field that holds a list of turns, how many of the last ones count (Meena: 7).
        turn: the special token between two turns.
        replaced: strings of a text that become special tokens: COMET's blank, {" ___": "<blank>"}.
    """

    task: str = "pairs"
    source: str = "{source}"
    target: str = "{target}"
    separator: str = "<sep>"
    tags: dict[str, list[str]] = field(default_factory=dict)
    turns: int = 0
    turn: str = "<turn>"
    replaced: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.task not in TASKS:
            raise InputError(f"unknown task {self.task!r}: one of {', '.join(TASKS)}{nearest(self.task, TASKS)}")
        if not self.fields(self.source) or not self.fields(self.target):
            raise InputError(f"the templates {self.source!r} and {self.target!r} must each name a field, as {{source}}")
        ends_with_tag = any(self.source.endswith(f"{{{name}}}") for name in self.tags)
        if not self.separator and not ends_with_tag:
            raise InputError(
                f"nothing tells where the source {self.source!r} ends: give a separator, or end it with a tag"
            )

    @staticmethod
    def fields(template: str) -> list[str]:
        """The names in a template."""
        return _FIELD.findall(template)

    @property
    def special_tokens(self) -> list[str]:
        """All of the layout, in a fixed order; the end of the target is the tokenizer's own."""
        tokens = [self.separator, self.turn if self.turns else "", *self.replaced.values()]
        tokens += [tag for tags in self.tags.values() for tag in tags]
        return list(dict.fromkeys(filter(None, tokens)))

    def add_tokens(self, tokenizer) -> None:
        """Gives a tokenizer the special tokens that it lacks."""
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in self.special_tokens])

    def tag(self, field: str, value: str) -> str:
        """The special token of a tag, given with or without its brackets.

        Raises:
            InputError: the model knows no such tag; lists those that it knows.
        """
        token = self._tag_of.get((field, value.strip()))
        if token is None:
            names = [token.strip("<>") for token in self.tags.get(field, [])]
            hint = nearest(value.strip(" <>"), names)
            raise InputError(f"unknown {field} {value!r}: one of {', '.join(names)}{hint}")
        return token

    def known(self, field: str) -> list[str]:
        """All that a tag may be.

        Raises:
            InputError: the field holds no special token.
        """
        if field not in self.tags:
            raise InputError(f"this model has no list of what a {field} may be: its source is {self.source!r}")
        return self.tags[field]

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """The source and the separator as one string, special tokens spelled out."""
        return "".join(text for text, _ in self.source_pieces(fields))

    def prompt_ids(self, tokenizer, fields: Mapping[str, Any], room: int | None = None) -> list[int]:
        """Everything up to and including the separator.

        Args:
            room: tokens at most; the oldest turns are left out until it fits.

        Raises:
            InputError: a field is missing, a tag unknown, or the prompt over the room with its last turn alone.
        """
        lists = [fields[name] for name in self.fields(self.source) if isinstance(fields.get(name), (list, tuple))]
        ids: list[int] = []
        for turns in range(max(1, *map(len, lists)) if lists else 1, 0, -1):
            ids = self._ids(tokenizer, self.source_pieces(fields, turns))
            if room is None or len(ids) <= room:
                return ids
        raise InputError(f"the source has {len(ids)} tokens, and there is room for {room}; shorten it")

    def target_ids(self, tokenizer, fields: Mapping[str, Any]) -> list[int]:
        """The target and the end-of-text token."""
        return [*self._ids(tokenizer, self.target_pieces(fields)), end_of_text(tokenizer)]

    def decode(self, tokenizer, ids: Sequence[int]) -> str:
        """The text of a target: up to the end-of-text token, without other special tokens, what was `replaced` again
        as it was."""
        back = {token: text for text, token in self.replaced.items()}
        words, parts, special = [], [], set(tokenizer.all_special_ids) | set(self._special_ids(tokenizer))
        for token in ids:
            if token == tokenizer.eos_token_id:
                break
            if token not in special:
                words.append(token)
            elif (name := tokenizer.convert_ids_to_tokens(token)) in back:
                parts += [tokenizer.decode(words), back[name]]
                words = []
        return "".join([*parts, tokenizer.decode(words)]).strip()

    def source_pieces(self, fields: Mapping[str, Any], turns: int | None = None) -> list[Piece]:
        """The source and the separator, of at most so many turns."""
        pieces = self._fill(self.source, fields, self.turns if turns is None else min(turns, self.turns or turns))
        return [*pieces, (self.separator, True)] if self.separator else pieces

    def target_pieces(self, fields: Mapping[str, Any]) -> list[Piece]:
        return self._fill(self.target, fields, self.turns)

    @functools.cached_property
    def _parts(self) -> dict[str, list[Piece | str]]:
        """Each template as its own texts and special tokens, which are pieces, and its fields, which are names."""
        found: dict[str, list[Piece | str]] = {}
        own = {token: token for token in self.special_tokens}
        for template in (self.source, self.target):
            parts = _FIELD.split(template)
            found[template] = [
                part for at, each in enumerate(parts) for part in ([each] if at % 2 else _cut(each, own))
            ]
        return found

    @functools.cached_property
    def _tag_of(self) -> dict[tuple[str, str], str]:
        return {
            (name, spelled): token
            for name, tokens in self.tags.items()
            for token in tokens
            for spelled in (token, token.strip("<>"))
        }

    def _fill(self, template: str, fields: Mapping[str, Any], turns: int) -> list[Piece]:
        pieces: list[Piece] = []
        for part in self._parts[template]:
            if not isinstance(part, str):
                pieces.append(part)
                continue
            value = fields.get(part)
            if value is None:
                raise InputError(f"a row of this layout needs the field {part!r}; it has {', '.join(fields)}")
            if part in self.tags:
                pieces.append((self.tag(part, value), True))
            elif isinstance(value, str):
                pieces.append((value.strip(), False))
            else:
                for place, each in enumerate(value[-turns:] if turns else value):
                    pieces += [(self.turn, True), (each.strip(), False)] if place else [(each.strip(), False)]
        pieces = _joined(pieces)
        if any(string in text for string in self.replaced for text, special in pieces if not special):
            return [new for piece in pieces for new in ([piece] if piece[1] else _cut(piece[0], self.replaced))]
        return pieces

    def _ids(self, tokenizer, pieces: Iterable[Piece]) -> list[int]:
        ids = []
        for text, special in pieces:
            if special:
                ids.append(special_id(tokenizer, text))
            else:
                ids += tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _special_ids(self, tokenizer) -> list[int]:
        return [special_id(tokenizer, token) for token in self.special_tokens]

    def _check_kinds(self) -> None:
        """That a file's values are what the attributes say; TypeError if not."""
        for each in dataclasses.fields(self):
            kind = type(each.default_factory() if each.default is dataclasses.MISSING else each.default)
            if not isinstance(getattr(self, each.name), kind):
                raise TypeError(f"{each.name} is no {kind.__name__}")
        for name, tags in self.tags.items():
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise TypeError(f"the tags of {name} are no list of texts")
        if not all(isinstance(token, str) for token in self.replaced.values()):
            raise TypeError("replaced names something that is no token")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def save(self, folder: str | Path) -> None:
        write_whole(Path(folder) / LAYOUT, self.to_json())

    @classmethod
    def load(cls, name: str | Path) -> Layout:
        """The layout of a model, from its folder or Hub id.

        Raises:
            InputError: there is none, or it is damaged.
        """
        folder = Path(name).expanduser()
        if is_missing_folder(str(name)):
            raise InputError(f"no such folder: {name}")
        try:
            path = folder / LAYOUT if folder.is_dir() else Path(cached_file(str(name), LAYOUT))
            layout = cls(**json.loads(path.read_text(encoding="utf-8")))
            layout._check_kinds()
            return layout
        except OSError:
            raise InputError(
                f"{name} has no {LAYOUT}: it is no conditional model; hfssl pretrain conditional makes one"
            ) from None
        except InputError as error:
            raise InputError(f"{name}/{LAYOUT} is damaged: {error}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{name}/{LAYOUT} is damaged or of another version: {error}") from None


def _cut(text: str, tokens: Mapping[str, str]) -> Iterator[Piece]:
    """A text cut at the strings that stand for special tokens."""
    if not tokens:
        yield text, False
        return
    found = re.split(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})", text)
    for number, part in enumerate(found):
        if part:
            yield (tokens[part], True) if number % 2 else (part, False)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Texts that stand side by side become one, and of white space alone none."""
    joined: list[Piece] = []
    for text, special in pieces:
        if joined and not special and not joined[-1][1]:
            joined[-1] = (joined[-1][0] + text, False)
        else:
            joined.append((text, special))
    return [(text, special) for text, special in joined if special or text.strip()]


def special_id(tokenizer, token: str) -> int:
    """The id of a special token.

    Raises:
        InputError: the tokenizer has none: it is another model's.
    """
    number = tokenizer.get_added_vocab().get(token)
    if number is None:
        raise InputError(f"the tokenizer lacks the special token {token!r} of the layout: it is another model's")
    return number


def end_of_text(tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text token (eos_token), which ends a target")
    return tokenizer.eos_token_id


class PairEncoder:
    """Tokenises many rows: each different text once, by the tokenizer's threads.

    Args:
        max_length: tokens of a pair with its end. The oldest turns of a source are left out until it fits.
    """

    def __init__(self, layout: Layout, tokenizer, max_length: int):
        self.layout, self.max_length = layout, max_length
        self._encoder = Encoder(tokenizer)
        self.dtype = self._encoder.dtype
        self._special = {token: self._bytes([special_id(tokenizer, token)]) for token in layout.special_tokens}
        self._end = self._bytes([end_of_text(tokenizer)])
        self._known: dict[str, bytes] = {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[bytes, bytes]]:
        """Of each row the source with its separator and the target with its end, in memory as an array of `dtype` has
        them; the target is empty if nothing is in it."""
        pieces = [(self.layout.source_pieces(row), self.layout.target_pieces(row)) for row in rows]
        texts = {text for pair in pieces for part in pair for text, special in part if not special}
        new = sorted(texts - self._known.keys())
        self._known = {text: self._known[text] for text in texts & self._known.keys()}
        self._known.update(zip(new, self._encoder(new), strict=True))
        room = self.max_length * self.dtype.itemsize
        for row, (source, target) in zip(rows, pieces, strict=True):
            end = self._join(target)
            end += self._end if end else b""
            start = self._join(source)
            turns = sum(piece == (self.layout.turn, True) for piece in source)
            while len(start) + len(end) > room and turns > 0:
                start = self._join(self.layout.source_pieces(row, turns))
                turns -= 1
            yield start, end

    def _join(self, pieces: list[Piece]) -> bytes:
        # What stands beside a turn in the template becomes another text with the next turn.
        new = [text for text, special in pieces if not special and text not in self._known]
        self._known.update(zip(new, self._encoder(new) if new else (), strict=True))
        return b"".join([self._special[text] if special else self._known[text] for text, special in pieces])

    def _bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()
