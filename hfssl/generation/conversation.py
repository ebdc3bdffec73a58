"""A conversation with a model, in the terminal or line by line through a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hfssl.errors import InputError, one_line, shown
from hfssl.files import write_whole
from hfssl.generation.decoding import Decoding, decode
from hfssl.generation.loading import count_positions
from hfssl.generation.ranking import Ranked, find_scorer, rank

COMMANDS = "/reset forgets what was said, /save FILE writes it, /quit ends"


class Conversation:
    """What was said so far, and the model's replies by sample-and-rank.

    A prompt is made of the turns by the layout, else by the tokenizer's chat template, else with a line for each turn.
    The oldest exchanges are left out where the model's positions are too few.

    Attributes:
        turns: the user's and the model's, in turn.
    """

    def __init__(
        self,
        model,
        tokenizer,
        layout=None,
        n: int = 20,
        temperature: float = 0.88,
        top_k: int = 0,
        max_new_tokens: int = 60,
        scorer="mean",
        filter_repeats: bool = False,
        seed: int = 0,
    ):
        """filter_repeats: do not say what was said in an earlier turn, as Meena's cross-turn filter. Else as
        `sample_and_rank`."""
        find_scorer(scorer)
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self.settings = {
            "n": n, "temperature": temperature, "top_k": top_k, "max_new_tokens": max_new_tokens, "seed": seed,
            "filter_repeats": filter_repeats,
        }  # fmt: skip
        self.scorer = scorer
        self.turns: list[str] = []
        self._ranked: list[Ranked] = []
        self._written: set[Path] = set()

    def reply(self, text: str) -> str:
        """The model's answer; both become part of the conversation.

        Raises:
            InputError: the text alone is over the model's positions.
        """
        given, turns = self.settings, [*self.turns, text]
        # Every turn has random numbers of its own, so that the same question may get another answer.
        how = Decoding(
            given["max_new_tokens"], given["temperature"], given["top_k"], seed=given["seed"] + len(self.turns),
            end_tokens=self._line_ends(),
        )  # fmt: skip
        tries = decode(self.model, self.tokenizer, [self._prompt(turns)], how, given["n"])[0]
        ranked = rank(tries, self.scorer, turns if given["filter_repeats"] else ())
        said = ranked.best.text.strip()
        if self.layout is not None:
            said = self.layout.decode(self.tokenizer, ranked.best.ids)
        elif not self._has_a_form:
            said = said.partition("\n")[0]
        self.turns = [*turns, said]
        self._ranked.append(ranked)
        return said

    @property
    def _has_a_form(self) -> bool:
        return self.layout is not None or self.tokenizer.chat_template is not None

    def _line_ends(self) -> tuple[int, ...]:
        ids = () if self._has_a_form else self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return tuple(ids) if len(ids) == 1 else ()

    def _prompt(self, turns: list[str]) -> list[int]:
        positions = limit = count_positions(self.model)
        if positions is not None and not self.model.config.is_encoder_decoder:
            positions -= min(self.settings["max_new_tokens"], positions // 2)  # for the reply
        for first in range(0, len(turns), 2):  # whole exchanges go, so that the user always begins
            ids = self._encode(turns[first:])
            if positions is None or len(ids) <= positions:
                break
        if limit is not None and len(ids) > limit - (not self.model.config.is_encoder_decoder):
            raise InputError(
                f"the prompt has {len(ids)} tokens, the model has {limit} positions; say it in fewer words"
            )
        return ids

    def _encode(self, turns: list[str]) -> list[int]:
        if self.layout is not None:
            return self.layout.prompt_ids(self.tokenizer, {"context": turns})
        if self.tokenizer.chat_template is None:
            end = "" if self.model.config.is_encoder_decoder else "\n"
            return self.tokenizer("\n".join(turns) + end)["input_ids"]
        messages = [
            {"role": "assistant" if number % 2 else "user", "content": turn} for number, turn in enumerate(turns)
        ]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def reset(self) -> None:
        """Forgets the turns."""
        self.turns, self._ranked = [], []

    def save(self, path: str | Path) -> Path:
        """Writes the turns, the tries of each reply and the settings as JSON; whole or not at all.

        Raises:
            InputError: the file is there and was not written by this conversation, or cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists() and path.resolve() not in self._written:
            raise InputError(f"{path} is there already; give another name")
        turns = []
        for number, text in enumerate(self.turns):
            turn = {"speaker": "model" if number % 2 else "user", "text": text}
            if number % 2:
                ranked = self._ranked[number // 2]
                turn |= {"chosen": ranked.chosen, "scorer": ranked.scorer, "removed": list(ranked.removed)}
                turn["tries"] = [{"text": one.text, "score": one.score, "log_p": one.log_p} for one in ranked.tries]
            turns.append(turn)
        content = {"model": self.model.name_or_path, "settings": self.settings, "turns": turns}
        try:
            write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from None
        self._written.add(path.resolve())
        return path


def chat(model, tokenizer, layout=None, source: TextIO | None = None, out: TextIO | None = None, **settings) -> None:
    """Talks until the input ends.

    In a terminal it asks for each line; otherwise it reads lines and writes a line for each. A line that begins with /
    is a command (`COMMANDS`). What is no reply goes to standard error; a message that cannot be answered ends nothing.

    Args:
        source, out: by default standard input and output.
        settings: of `Conversation`.
    """
    source, out = source or sys.stdin, out or sys.stdout
    conversation, interactive = Conversation(model, tokenizer, layout, **settings), source.isatty()
    if interactive:
        sys.stderr.write(f"{COMMANDS}\n")
    for line in _typed(out) if interactive else source:
        text = line.strip()
        if text == "/quit":
            break
        try:
            if text.startswith("/"):
                sys.stderr.write(f"{_obey(conversation, text)}\n")
            elif text:
                out.write(shown(" ".join(conversation.reply(text).split())) + "\n")
                out.flush()
        except InputError as error:
            sys.stderr.write(f"error: {one_line(error)}\n")


def _typed(out: TextIO) -> Iterator[str]:
    import readline  # noqa: F401  # editing, and the lines before with the arrow keys

    while True:
        try:
            yield input("> ")
        except EOFError:
            out.write("\n")
            return


def _obey(conversation: Conversation, text: str) -> str:
    name, _, rest = text.partition(" ")
    if name == "/reset":
        count = len(conversation.turns)
        conversation.reset()
        return f"forgot {count} turns"
    if name == "/save" and rest.strip():
        return f"wrote {conversation.save(rest.strip())}"
    raise InputError(
        f"{'/save needs the name of a file' if name == '/save' else f'unknown command {name}'}: {COMMANDS}"
    )
