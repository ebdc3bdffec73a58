"""The `hfssl` command. Each verb is one call; what is heavy is imported inside it, so that `hfssl --help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hfssl import __version__
from hfssl.cli_generation import app as generation_app
from hfssl.errors import InputError, exits_on_bad_input, one_line

app = typer.Typer(
    help="Self-supervised pretraining and its evaluation in the Hugging Face ecosystem.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
tokenizer_app = typer.Typer(help="Train and compare BPE tokenizers.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(generation_app)  # its verbs beside ours

# These verbs hand their arguments to a program as they are; the program's own --help describes them.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """Runs the command line; a fault of usage is one line on standard error and exit code 2."""
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # as under `| head`: nobody reads what is left, and the interpreter would try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if isinstance(error, InputError):
            message = one_line(error)
        elif type(error).__name__ == "Abort":  # typer's word for Ctrl-C
            sys.stderr.write("stopped\n")
            raise SystemExit(130) from None
        elif hasattr(error, "format_message"):  # click's and typer's own usage errors
            message = error.format_message()
            if not message:  # the help was shown because no verb was given
                raise SystemExit(getattr(error, "exit_code", 2)) from None
        else:
            raise
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2) from None
    raise SystemExit(code or 0)


def _version(value: bool) -> None:
    if value:
        print(f"hfssl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "--output_dir", "--output-dir", help="The folder to write.")] = "demo",
) -> None:
    """Train a tokenizer, a GPT, a BERT and a SimCLR encoder on what every machine has, and show what they learned."""
    from hfssl.studies.demo import run_demo

    exits_on_bad_input(run_demo)(out)


@app.command(context_settings=PASSES_ON)
def pretrain(context: typer.Context) -> None:
    """Run a recipe: hfssl pretrain [accelerate launch flags] gpt --config recipes/gpt_small.yaml [recipe flags]."""
    from hfssl.launch import launch

    raise SystemExit(launch(context.args))


@tokenizer_app.command("train", context_settings=PASSES_ON)
def tokenizer_train(context: typer.Context) -> None:
    """Train a byte-level BPE: hfssl tokenizer train --text_path TEXT --vocab_size 8192 --output_dir OUT."""
    _run_program("tokenizers_train/train_bpe.py", context.args)


@tokenizer_app.command("compare", context_settings=PASSES_ON)
def tokenizer_compare(context: typer.Context) -> None:
    """Compare tokenizers on a text: bytes a token, tokens a word, speed."""
    _run_program("tokenizers_train/compare.py", context.args)


@app.command(context_settings=PASSES_ON)
def probe(context: typer.Context) -> None:
    """What an encoder learned, frozen: hfssl probe MODEL --dataset builtin:digits (kNN and linear, with anchors)."""
    _run_on_model("eval/run_probe.py", context.args)


@app.command(context_settings=PASSES_ON)
def information(context: typer.Context) -> None:
    """Estimators of mutual information beside the truth and ln N: hfssl information --grid small --out OUT."""
    _run_program("eval/run_information.py", context.args)


@app.command(context_settings=PASSES_ON)
def codes(context: typer.Context) -> None:
    """Are a co-training model's codes classes? hfssl codes MODEL --dataset builtin:digits (beside k-means)."""
    _run_on_model("eval/run_codes.py", context.args)


@app.command(context_settings=PASSES_ON)
def hashes(context: typer.Context) -> None:
    """Are a hashing model's bits good for search? hfssl hashes MODEL --labelled_path TEXTS.parquet: P@100."""
    _run_on_model("eval/run_hashes.py", context.args)


@app.command(context_settings=PASSES_ON)
def tags(context: typer.Context) -> None:
    """Are a tagger's codes parts of speech? hfssl tags MODEL --tagged_path TEXT (CoNLL-U, or word/tag)."""
    _run_on_model("eval/run_tags.py", context.args)


@app.command("words", context_settings=PASSES_ON)
def word_vectors(context: typer.Context) -> None:
    """What word vectors know: hfssl words MODEL --analogies FILE --similarity FOLDER (beside random vectors)."""
    _run_on_model("eval/run_words.py", context.args)


@app.command(context_settings=PASSES_ON)
def perplexity(context: typer.Context) -> None:
    """How well a GPT or BERT knows a text: hfssl perplexity MODEL --eval_text_path TEXT (bits a byte, accuracy)."""
    _run_on_model("eval/run_perplexity.py", context.args)


@app.command(context_settings=PASSES_ON)
def glue(context: typer.Context) -> None:
    """Fine-tune on GLUE: hfssl glue MODEL --tasks all --data_dir DATA --out OUT (scores, intervals, a submission)."""
    _run_on_model("eval/run_glue.py", context.args)


@app.command(context_settings=PASSES_ON)
def superglue(context: typer.Context) -> None:
    """Fine-tune on SuperGLUE: hfssl superglue MODEL --tasks all --data_dir DATA --out OUT."""
    _run_on_model("eval/run_superglue.py", context.args)


@app.command("verify-claim", context_settings=PASSES_ON)
def verify_claim(context: typer.Context) -> None:
    """Does blank language modelling beat left-to-right? hfssl verify-claim --config eval/verify_claim_smoke.yaml."""
    _run_program("eval/verify_claim.py", context.args)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder or a Hub id of a model that hfssl trained; a vectors file.")],
    out: Annotated[
        str,
        typer.Option("--out", "--output_dir", "--output-dir", help="The folder to write, of word vectors the file."),
    ],
    format: Annotated[
        str, typer.Option(help="timm, for an encoder of images; word2vec, word2vec-bin, fasttext (.vec), for words.")
    ] = "timm",
) -> None:
    """Write a model in another form: hfssl export out/simclr --format timm --out out/simclr-timm."""
    from hfssl.export import export_model

    exits_on_bad_input(export_model)(model, format, out)


@app.command("validate-submission")
def validate_submission(
    file: Annotated[str, typer.Argument(help="A zip for gluebenchmark.com or super.gluebenchmark.com.")],
    data_dir: Annotated[
        str | None,
        typer.Option("--data_dir", "--data-dir", help="The tasks' data to check by: a folder, builtin:toyglue."),
    ] = None,
) -> None:
    """Check a GLUE or SuperGLUE submission, whoever wrote it, before the server does."""
    from rich.console import Console

    from hfssl.evaluation.submission_check import report_table, validate_submission

    report = validate_submission(file, data_dir)
    Console().print(report_table(report))
    for kind, lines in (("warning", report.warnings), ("error", report.errors)):
        for line in lines:
            print(f"{kind}: {line}")
    if not report.is_valid:
        count = f"{len(report.errors)} error{'s' * (len(report.errors) > 1)}"
        raise InputError(f"{file} has {count}: the server would refuse it or score it wrongly")
    said = ", but of synthetic data: no server takes it" if report.synthetic else ""
    print(f"{file} is a valid {report.suite} submission{said}")


@app.command()
def colorize(
    model: Annotated[str, typer.Argument(help="A folder or a Hub id of a colorization model.")],
    images: Annotated[list[str], typer.Argument(help="Image files; of coloured ones the colours are not looked at.")],
    out: Annotated[str, typer.Option(help="The folder to write NAME.png to.")] = "out/colorized",
) -> None:
    """Give colour to images: hfssl colorize out/colorization photo.jpg."""
    from hfssl.pictures import colorize_files

    exits_on_bad_input(colorize_files)(model, images, out)


@app.command()
def inpaint(
    model: Annotated[str, typer.Argument(help="A folder or a Hub id of a context encoder.")],
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    mask: Annotated[
        str, typer.Option(help="An image, white where the others are hidden; or center: half of each side.")
    ] = "center",
    out: Annotated[str, typer.Option(help="The folder to write NAME.png to.")] = "out/inpainted",
) -> None:
    """Fill the hidden part of images: hfssl inpaint out/context-encoder photo.jpg --mask mask.png."""
    from hfssl.pictures import inpaint_files

    exits_on_bad_input(inpaint_files)(model, images, mask, out)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A folder that hfssl glue or superglue wrote.")],
    second: Annotated[str, typer.Argument(help="Another one of the same suite.")],
    data_dir: Annotated[
        str | None, typer.Option("--data_dir", "--data-dir", help="The tasks' data; by default where the first had it.")
    ] = None,
) -> None:
    """Do two models differ? A paired permutation test on each task of two results, with Holm's correction."""
    from rich.console import Console

    from hfssl.finetuning.comparison import compare_folders, comparison_table

    names, found, notes = compare_folders(first, second, data_dir)
    Console().print(comparison_table(names, found, notes))
    for one in found:
        print(one.sentence(*names))


@app.command()
def leaderboard(
    results: Annotated[list[str] | None, typer.Argument(help="Results: JSON files, or folders that hold them.")] = None,
    html: Annotated[
        str | None,
        typer.Option(help="A folder for a static site of them, of probes and of compared objectives; of eval/results."),
    ] = None,
) -> None:
    """Show results on GLUE and SuperGLUE among published ones, dev and test apart."""
    if html is not None:
        from hfssl.evaluation.leaderboard_page import write_site

        print(write_site(results or [], html))
        return
    from rich.console import Console

    from hfssl.evaluation.leaderboard import board_table, boards, result_table
    from hfssl.evaluation.results import find_results
    from hfssl.evaluation.tasks import SUITES

    own = find_results(results or [])
    console = Console()
    for result in own:
        console.print(result_table(result))
    suites = [suite for suite in SUITES if not own or suite in {result.suite for result in own}]
    for board in boards(own, suites):
        console.print(board_table(board, console.width))


@app.command()
def push(
    source: Annotated[str, typer.Argument(help="A model, tokenizer, corpus, results, page, parquet or metric:NAME.")],
    repo: Annotated[str, typer.Argument(help="The repository on the Hub, USER/NAME.")],
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--dry_run", help="Show what would be sent.")] = False,
    pr: Annotated[bool, typer.Option(help="Open a pull request instead of a commit on main.")] = False,
) -> None:
    """Push to the Hub in one commit: hfssl push out/simclr me/simclr."""
    from hfssl.hub.push import push_table, send
    from hfssl.hub.uploads import plan_push

    def run():
        upload = plan_push(source, repo)
        print(push_table(upload) if dry_run else send(upload, private, pr))

    exits_on_bad_input(run)()


@app.command("ls")
def list_all() -> None:
    """List the methods, recipes, tasks and builtin data."""
    from hfssl.data.builtin import BUILTIN_FRAMES, BUILTIN_IMAGES, BUILTIN_TEXTS
    from hfssl.data.toy_pairs import BUILTIN_PAIRS, PREFIX
    from hfssl.data.toyglue import BUILTIN_TASKS
    from hfssl.programs import evaluations, programs_root, recipe_configs, recipes, studies, summary

    print("methods (hfssl pretrain NAME --config RECIPE)")
    for name, path in recipes().items():
        print(f"  {name:18} {summary(path)}")
    print("recipes")
    for path in recipe_configs():
        print(f"  {path.relative_to(programs_root())}")
    print("tasks (hfssl NAME MODEL, or python eval/FILE --model MODEL)")
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    for name, path in evaluations().items():
        print(f"  {name if name in verbs else path.name:18} {summary(path)}")
    print("studies (python eval/FILE --config YAML)")
    for path in studies():
        print(f"  {path.name:24} {summary(path)}")
    print("builtin data")
    pairs = {PREFIX + name: text for name, text in BUILTIN_PAIRS.items()}
    for name, text in (BUILTIN_TEXTS | BUILTIN_IMAGES | BUILTIN_FRAMES | BUILTIN_TASKS | pairs).items():
        print(f"  builtin:{name:20} {text}")


@app.command()
def env() -> None:
    """Show versions, devices, and what is missing."""
    from hfssl.environment import describe_environment

    for name, value in describe_environment().items():
        print(f"{name:18} {value}")


def _run_on_model(path: str, arguments: list[str]) -> None:
    """A program whose first argument may be the model itself."""
    named = bool(arguments) and not arguments[0].startswith("-")
    _run_program(path, ["--model", *arguments] if named else list(arguments))


def _run_program(path: str, arguments: list[str]) -> None:
    """Runs a program file in this process, as `python PATH ARGUMENTS` would."""
    import runpy

    from hfssl.programs import program

    file = str(program(path))
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
