"""The commands and snippets of README.md and docs/, found and checked without being run. Used by tests/test_docs.py.

A shell line is a line of a fence without a language, of ```bash or ```sh. A program's own parser reads its flags, the
command line's own dispatch says which program a verb is, so that nothing is written down twice here.
"""

import ast
import contextlib
import functools
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import typer

import hfssl.cli
import hfssl.launch
from hfssl.errors import InputError
from hfssl.programs import recipe, recipes

ROOT = Path(__file__).resolve().parent.parent
SHELL, MARKS = ("", "bash", "sh"), ("needs a GPU", "needs the network", "needs a cluster", "takes minutes")
# Words of a shell line that are no program of ours and change nothing that a reader would miss.
PLAIN = [
    ".",
    "[",
    "cd",
    "cp",
    "export",
    "exit",
    "mkdir",
    "printf",
    "scontrol",
    "set",
    "wait",
    "python3",
    "pip",
    "git",
    "npm",
    "tar",
]
NEED_A_NETWORK = ("pip", "git", "hf", "npm")
SLURM = ("--nodes", "--gpus-per-node", "--array", "--wrap")
_RESERVED = {"if", "then", "else", "elif", "do", "while", "!", "{", "}", "fi", "done"}
_FENCE = re.compile(r"^(```+)([\w-]*)")
_INLINE = re.compile(
    r"(?<!`)`((?:hfssl|accelerate launch|python (?:benchmarks|eval|recipes|tokenizers_train)/)[^`\n]+)`"
)


class Misprint(Exception):
    """A documented command that its program would refuse."""


class _Parsed(Exception):
    """Stops a program once its arguments are read."""


@dataclass(frozen=True)
class Command:
    """A documented command. where: file and line. mark: one of MARKS, or None."""

    where: str
    words: tuple[str, ...]
    mark: str | None = None

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def is_to_be_filled_in(self) -> bool:
        """A word in capitals stands for something of the reader's: MODEL, OUT/x.zip, USER/name."""
        return any(re.search(r"(?<![\w.])[A-Z][A-Z_0-9]+(?![\w])", word) for word in self.words)


def pages() -> list[Path]:
    """README.md and the pages, for which every rule holds."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def included() -> list[Path]:
    """The Markdown files that pages include whole, but the changelog: their commands must parse."""
    names = {name for page in pages() for name in re.findall(r'--8<-- "(.+\.md)"', page.read_text())}
    return [ROOT / name for name in sorted(names - {"CHANGELOG.md"})]


def fences(path: Path, languages: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The fences of some languages: the number of the first line, and the content, with snippets filled in."""
    end, first, content, language = "", 0, [], ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = _FENCE.match(line.strip())
        if not end and found:
            end, language, first, content = found[1], found[2], number + 1, []
        elif end and line.strip() == end:
            if language in languages:
                yield first, "\n".join(content)
            end = ""
        elif end:
            snippet = re.match(r'\s*--8<-- "(.+)"', line)
            content.append((ROOT / snippet[1]).read_text() if snippet else line)


def commands(path: Path) -> list[Command]:
    """All commands in the shell fences of a Markdown file."""
    return [command for first, text in fences(path, SHELL) for command in split(text, _name(path), first)]


def inline(path: Path) -> list[Command]:
    """Commands between single backticks, with flags."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for text in _INLINE.findall(line):
            is_whole = not re.search(r"[\[|<]", text) and " --" in text and (".py" in text or "accelerate" not in text)
            if is_whole:
                found.append(Command(f"{_name(path)}:{number}", tuple(_without_dots(shlex.split(text)))))
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _without_dots(words: list[str]) -> list[str]:
    """Three dots stand for what a reader adds: `--config ...` is left out, `--flag ...` gets a value, others go."""
    if "..." not in words:
        return words
    kept: list[str] = []
    for word in words:
        if word != "...":
            kept.append(word)
        elif kept[-1] == "--config":
            kept[-1:] = ["--output_dir", "X"]
        elif kept[-1].startswith("--"):
            kept.append("X")
    return kept


def split(text: str, name: str, first: int = 1) -> list[Command]:
    """The simple commands of some shell lines: of loops, pipes and lists each by itself, variables replaced by 1."""
    found, lines = [], iter(enumerate(text.splitlines(), first))
    for number, line in lines:
        while True:  # a line that goes on
            try:
                shlex.split(line.removesuffix("\\"), comments=True)
                if not line.endswith("\\"):
                    break
            except ValueError:
                pass
            line = line.removesuffix("\\") + ("\n" if not line.endswith("\\") else " ") + next(lines)[1]
        mark = next((mark for mark in MARKS if re.search(rf"#.*\b{mark}\b", line)), None)
        for words in _simple(line):
            found.append(Command(f"{name}:{number}", tuple(_without_dots(words)), mark))
    return found


def _simple(line: str) -> Iterator[list[str]]:
    line = re.sub(r'"\$@"', "", line)
    line = re.sub(r"\$\(\([^()]*\)\)|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|\$[\w?@]+", "1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*_without_comment(lexer), ";"]:
        if word.strip(";&|"):
            words.append(word)
            continue
        while words and (words[0] in _RESERVED or re.match(r"[A-Za-z_]\w*=", words[0])):
            words.pop(0)
        if words and words[0] != "for":
            yield words
        words = []


def _without_comment(words) -> Iterator[str]:
    for word in words:
        if word.startswith("#"):
            return
        yield word


def check(command: Command) -> None:
    """Parses a command with the parser of its program, as in the folder of the repository.

    Raises:
        Misprint: there is no such program, file, verb or flag, or a value is refused.
    """
    try:
        _check(list(command.words), command.mark)
    except (InputError, AssertionError, SyntaxError, OSError) as error:
        raise Misprint(f"{command.where}: {command}: {error}") from error
    except Exception as error:
        if not hasattr(error, "format_message"):  # the usage errors of typer and of what it is made of
            raise
        raise Misprint(f"{command.where}: {command}: {error.format_message()}") from error


def _check(words: list[str], mark: str | None) -> None:
    program, rest = words[0], words[1:]
    if program in NEED_A_NETWORK:
        assert mark == "needs the network", "it is not marked `# needs the network`"
    if program == "hfssl":
        _typer(typer.main.get_command(hfssl.cli.app), rest)
    elif program == "accelerate":
        assert rest[0] == "launch", "of accelerate only launch is known here"
        _accelerate(rest[1:])
    elif program == "python":
        _python(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(rest) <= set(targets), f"the Makefile has {', '.join(targets)}"
    elif program == "hf":
        from huggingface_hub.cli.hf import app

        _typer(app if hasattr(app, "make_context") else typer.main.get_command(app), rest)
    elif program == "sbatch":
        _sbatch(rest)
    elif program == "srun":
        assert rest[1:3] == ["bash", "-c"], "srun is known as `srun --FLAG bash -c '...'`"
        for inner in split(rest[3], "srun"):
            words = [word for word in inner.words if word != "exec"]
            _check([*words, "gpt", "--output_dir=X"], None)  # for what the script is given
    else:
        assert program in PLAIN, "no program of ours; if it is right, name it in PLAIN of tests/documented_commands.py"


def _typer(group, arguments: list[str]) -> None:
    """What the command line makes of the words; a verb that hands them on is asked for the program."""
    if arguments in (["--version"], ["--help"]):
        return
    context = group.make_context(group.name, list(arguments))
    while hasattr(group, "resolve_command"):
        name, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, rest, parent=context)
    if not group.context_settings.get("ignore_unknown_options"):
        return
    passed = []
    with (
        patch.object(hfssl.cli, "_run_program", lambda *given: passed.append(given)),
        patch.object(hfssl.launch, "launch", lambda given: passed.append((None, given))),
        contextlib.suppress(SystemExit),
    ):
        group.invoke(context)
    [(path, given)] = passed
    if path is None:
        _accelerate(given)
    else:
        _program(ROOT / path, given)


def _accelerate(arguments: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()

    def refuse(message):
        raise InputError(message)

    parser.error = refuse
    options = parser.parse_args(list(arguments))
    assert not options.config_file or (ROOT / options.config_file).is_file(), f"no file {options.config_file}"
    script = options.training_script
    script = recipe(script) if script in recipes() or not script.endswith(".py") else ROOT / script
    _program(script, options.training_script_args)


def _python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif arguments[0] != "-m":
        _program(ROOT / arguments[0], arguments[1:])


def _sbatch(arguments: list[str]) -> None:
    rest = list(arguments)
    while rest and rest[0].startswith("--"):
        flag, value = rest.pop(0), rest.pop(0)
        assert flag in SLURM, f"{flag} is not among {', '.join(SLURM)}"
        if flag == "--wrap":
            for inner in split(value, "sbatch"):
                _check(list(inner.words), None)
    if rest:
        script = ROOT / rest[0]
        assert script.is_file(), f"no file {rest[0]}"
        assert '"$@"' in script.read_text() and "hfssl pretrain" in script.read_text()
        _check(["hfssl", "pretrain", *rest[1:]], None)


@functools.cache
def _main(path: Path):
    assert path.is_file(), f"there is no program {path}"
    main = runpy.run_path(str(path))["main"]
    return main.__wrapped__


def _program(path: Path, arguments: list[str]) -> None:
    """Lets a program read its arguments, and no more."""
    main = _main(path)
    parse = main.__globals__["parse_config"]

    def stop(*args, **kwargs):
        parse(*args, **kwargs)
        raise _Parsed

    with patch.dict(main.__globals__, parse_config=stop):
        try:
            main(list(arguments))
        except _Parsed:
            return
    raise AssertionError(f"{path.name} did not read its arguments")


def snippets(path: Path) -> list[tuple[str, str]]:
    """The Python fences of a file, with where they stand."""
    return [(f"{_name(path)}:{first}", text) for first, text in fences(path, ("python",))]


def check_snippet(where: str, text: str) -> None:
    """It compiles, and what it imports is there.

    Raises:
        Misprint: if not.
    """
    try:
        tree = ast.parse(text)
        imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imported, []), where, "exec"), {})
    except (SyntaxError, ImportError) as error:
        raise Misprint(f"{where}: {error}") from error
