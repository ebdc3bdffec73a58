"""Targets of a source: translation, and commonsense inferences of an event (COMET, Bosselut et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hfssl.errors import InputError, nearest
from hfssl.generation.decoding import Decoding, Try, decode
from hfssl.generation.loading import fit_prompt

MAX_TRANSLATION, MAX_OBJECT = 128, 35  # tokens; COMET's objects have at most 34 and the end


@dataclass(frozen=True)
class Completion:
    """An object of a head and a relation. score: log p / length ** length_penalty, by which beams are compared."""

    text: str
    score: float


def translate(
    model,
    tokenizer,
    layout,
    sources: Sequence[str],
    num_beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 32,
    max_new_tokens: int = MAX_TRANSLATION,
    truncate_left: bool = False,
    **fields: str,
) -> list[str]:
    """Translates texts, greedily or by beam search. Long ones are batched with long ones; the order is kept.

    Args:
        layout: how a source is written before the separator; None for an encoder-decoder, whose source is the text.
        fields: what else the layout's source names, such as a language. An encoder-decoder takes `language`, a token
            of its vocabulary that the translation begins with (mBART's de_DE, NLLB's deu_Latn).

    Returns:
        A translation of each; a blank source stays blank.

    Raises:
        InputError: a source is longer than the model's positions, a language is unknown, or a setting out of range.
    """
    first = None
    if layout is None:
        first = _first_token(model, tokenizer, **fields)
    else:
        _check_fields(layout, fields)
    how = Decoding(max_new_tokens, temperature=0, num_beams=num_beams, length_penalty=length_penalty, first_token=first)
    given = [number for number, text in enumerate(sources) if text.strip()]
    if layout is None:
        prompts = [tokenizer(sources[number])["input_ids"] for number in given]
    else:
        prompts = [layout.prompt_ids(tokenizer, {"source": sources[number], **fields}) for number in given]
    tags = {} if layout is None else layout.tags
    kept = int(any(layout.source.startswith(f"{{{name}}}") for name in tags))  # the language stands before the text
    for place, number in enumerate(given):
        try:
            prompts[place] = fit_prompt(model, prompts[place], truncate_left, max_new_tokens, kept)
        except InputError as error:
            raise InputError(f"text {number + 1}: {error}") from None
    found = decode(model, tokenizer, prompts, how, batch_size=batch_size, scored=False)
    said = {number: _text(layout, tokenizer, tries[0]) for number, tries in zip(given, found, strict=True)}
    return [said.get(number, "") for number in range(len(sources))]


def _text(layout, tokenizer, one: Try) -> str:
    return one.text.strip() if layout is None else layout.decode(tokenizer, one.ids)


def _check_fields(layout, fields: Mapping[str, str]) -> None:
    """All that the source names but the text itself is given, and nothing else."""
    wanted = [name for name in layout.fields(layout.source) if name != "source"]
    for name in fields:
        if name not in wanted:
            raise InputError(f"this model takes no {name}: its source is {layout.source!r}")
    for name in wanted:
        if name not in fields:
            known = ", ".join(tag.strip("<>") for tag in layout.tags.get(name, []))
            raise InputError(f"this model needs a {name}{f': one of {known}' if known else ''}")


def _first_token(model, tokenizer, language: str | None = None) -> int | None:
    if not model.config.is_encoder_decoder:
        raise InputError("a causal model translates only what its layout says, and its folder has no conditional.json")
    if language is None:
        return None
    known = [token for token in tokenizer.all_special_tokens if token != tokenizer.pad_token]
    if language not in known:
        raise InputError(f"unknown language {language!r}: one of {', '.join(known)}{nearest(language, known)}")
    return tokenizer.convert_tokens_to_ids(language)


def complete(
    model,
    tokenizer,
    layout,
    head: str,
    relation: str,
    num_beams: int = 5,
    length_penalty: float = 1.0,
    max_new_tokens: int = MAX_OBJECT,
    truncate_left: bool = False,
) -> list[Completion]:
    """What an event has to do with a relation: `num_beams` objects, the best first.

    Raises:
        InputError: an empty head, an unknown relation (the known ones are listed), or a prompt over the positions.
    """
    rows = [{"head": head, "relation": relation}]
    how = {"length_penalty": length_penalty, "max_new_tokens": max_new_tokens, "truncate_left": truncate_left}
    return complete_many(model, tokenizer, layout, rows, num_beams, **how)[0]


def complete_many(
    model,
    tokenizer,
    layout,
    rows: Sequence[Mapping[str, str]],
    num_beams: int = 5,
    length_penalty: float = 1.0,
    max_new_tokens: int = MAX_OBJECT,
    batch_size: int = 16,
    truncate_left: bool = False,
) -> list[list[Completion]]:
    """As `complete`, for many rows with a "head" and a "relation"."""
    how = Decoding(max_new_tokens, temperature=0, num_beams=num_beams, length_penalty=length_penalty)
    for row in rows:
        if not row["head"].strip():
            raise InputError("the head is empty")
    prompts = [fit_prompt(model, layout.prompt_ids(tokenizer, row), truncate_left, max_new_tokens) for row in rows]
    found = decode(model, tokenizer, prompts, how, num_beams, batch_size)
    return [
        [Completion(_text(layout, tokenizer, one), one.log_p / max(1, len(one.ids)) ** length_penalty) for one in tries]
        for tries in found
    ]
