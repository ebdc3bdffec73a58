"""The verbs of `hfssl` that write text: generate, translate, complete, chat. As in `hfssl.cli`, imports are late."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hfssl.errors import InputError, shown

app = typer.Typer(rich_markup_mode=None)


def _flag(name: str, help: str, **options):
    """An option that takes underscores and dashes."""
    return typer.Option(f"--{name}", f"--{name.replace('_', '-')}", help=help, **options)


def _text(given: str | list[str] | None):
    """What the shell gave as a text."""
    for text in [given] if isinstance(given, str) else given or []:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"the text {text!r} is no UTF-8")
    return given


Model = Annotated[str, typer.Argument(help="A folder or a Hub id of a causal language model or an encoder-decoder.")]
NewTokens = Annotated[int, _flag("max_new_tokens", "Tokens of each text, at most.", min=1)]
Temperature = Annotated[float, typer.Option(help="Of the sampling; 0 is greedy.", min=0)]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
Beams = Annotated[int, _flag("num_beams", "Beams; 1 is greedy.", min=1)]
LengthPenalty = Annotated[float, _flag("length_penalty", "Beams are compared by log p / length ** this.")]
BatchSize = Annotated[int, _flag("batch_size", "Texts at a time.", min=1)]
ScorerName = Annotated[str, typer.Option(help="What ranks: mean (log p a token), sum (log p), repeats (penalised).")]
Truncate = Annotated[bool, _flag("truncate_left", "Of a text over the model's positions keep the end.")]


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to continue.", callback=_text)],
    tries: Annotated[int, typer.Option(help="How many continuations; the best is named.", min=1)] = 1,
    max_new_tokens: NewTokens = 60,
    top_k: Annotated[int, _flag("top_k", "Sample among the k likeliest tokens; 1 is greedy, 0 all.", min=0)] = 40,
    top_p: Annotated[float, _flag("top_p", "Sample among the likeliest tokens of this probability.")] = 1.0,
    top_p_rule: Annotated[str, _flag("top_p_rule", "gpt2 leaves the crossing token out, transformers not.")] = "gpt2",
    temperature: Temperature = 1.0,
    scorer: ScorerName = "mean",
    seed: Seed = 0,
    truncate_left: Truncate = False,
) -> None:
    """Continue a prompt: hfssl generate out/gpt --prompt "The committee said" --tries 10."""
    from hfssl.generation import continue_text, load_generator

    language_model, tokenizer = load_generator(model)
    found = continue_text(
        language_model, tokenizer, prompt, tries, max_new_tokens, top_k, temperature, top_p, top_p_rule, scorer, seed,
        truncate_left,
    )  # fmt: skip
    before = "" if language_model.config.is_encoder_decoder else prompt  # its text is no continuation
    if tries == 1:
        return print(before + shown(found.best.text))
    for number, one in enumerate(found.tries):
        line = (before + shown(one.text)).replace("\n", "\\n")
        print(f"{'*' if number == found.chosen else ' '}[{number + 1}] {one.score:.4f} {line}")
    unit = "nats" if scorer == "sum" else "nats a token"
    print(f"chosen of {tries} tries by {found.scorer}: [{found.chosen + 1}], {found.best.score:.4f} {unit}")
    print(before + shown(found.best.text))


@app.command()
def translate(
    model: Model,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, the lines of --file or stdin.", callback=_text)
    ] = None,
    file: Annotated[str | None, typer.Option(help="A text file, one source a line.")] = None,
    out: Annotated[str | None, typer.Option(help="The file to write, a line for each; else standard output.")] = None,
    language: Annotated[str | None, typer.Option(help="The language tag, where the model has several.")] = None,
    num_beams: Beams = 5,
    length_penalty: LengthPenalty = 1.0,
    max_new_tokens: NewTokens = 128,
    batch_size: BatchSize = 32,
    truncate_left: Truncate = False,
) -> None:
    """Translate: hfssl translate out/mt "a man in a hat", or lines from a file or standard input."""
    from hfssl.generation import load_generator, load_layout
    from hfssl.generation import translate as translate_texts

    sources = _sources(texts, file)
    layout = load_layout(model, ("translation", "pairs"))
    fields = {} if language is None else {"language": language}
    found = translate_texts(
        *load_generator(model), layout, sources, num_beams, length_penalty, batch_size, max_new_tokens, truncate_left,
        **fields,
    )  # fmt: skip
    lines = "".join(" ".join(text.split()) + "\n" for text in found)
    if out is None:
        return print(shown(lines), end="")
    from hfssl.files import write_whole

    try:
        print(f"wrote {len(found)} translations to {write_whole(out, lines)}")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None


@app.command()
def complete(
    model: Model,
    head: Annotated[str, typer.Argument(help="An event or a concept.", callback=_text)],
    relation: Annotated[
        str | None, typer.Argument(help="Such as xIntent; without it all that the model knows.")
    ] = None,
    num_beams: Beams = 5,
    length_penalty: LengthPenalty = 1.0,
    max_new_tokens: NewTokens = 35,
    truncate_left: Truncate = False,
) -> None:
    """Complete commonsense: hfssl complete out/comet "PersonX drifts through life" xAttr."""
    from hfssl.generation import complete_many, load_generator, load_layout

    layout = load_layout(model, ("commonsense",), needed=True)
    relations = [relation] if relation is not None else layout.known("relation")
    rows = [{"head": head, "relation": one} for one in relations]
    found = complete_many(
        *load_generator(model), layout, rows, num_beams, length_penalty, max_new_tokens, truncate_left=truncate_left
    )
    for one, completions in zip(relations, found, strict=True):
        print(shown(one.strip("<>")))
        for completion in completions:
            print(f"  {completion.score:.4f} {shown(completion.text)}")
    each = "a token" if length_penalty == 1 else f"/ tokens ** {length_penalty:g}"
    print(f"(log p, nats {each})")


@app.command()
def chat(
    model: Model,
    n: Annotated[int, typer.Option(help="Replies that are drawn; the likeliest a token is said.", min=1)] = 20,
    temperature: Temperature = 0.88,
    top_k: Annotated[int, _flag("top_k", "Sample among the k likeliest tokens; 0 is all.", min=0)] = 0,
    max_new_tokens: NewTokens = 60,
    scorer: ScorerName = "mean",
    filter_repeats: Annotated[
        bool, _flag("filter_repeats", "Do not say five words in a row of an earlier turn again.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Talk with a model, in a terminal or line by line: printf 'hello\\n' | hfssl chat out/chat."""
    from hfssl.generation import chat as talk
    from hfssl.generation import load_generator, load_layout

    layout = load_layout(model, ("dialogue",))
    sys.stdin.reconfigure(errors="replace")
    talk(
        *load_generator(model), layout, n=n, temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens,
        scorer=scorer, filter_repeats=filter_repeats, seed=seed,
    )  # fmt: skip


def _sources(texts: list[str] | None, file: str | None) -> list[str]:
    if texts and file:
        raise InputError("give texts or --file, not both")
    if texts:
        return texts
    if file is None and sys.stdin.isatty():
        raise InputError("nothing to translate; give a text, --file, or lines on standard input")
    try:
        if file is None:
            content = sys.stdin.buffer.read()
        else:
            with open(file, "rb") as stream:
                content = stream.read()
        return content.decode().removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file or 'standard input'} is no UTF-8 text: {error}") from None
