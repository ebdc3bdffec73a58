"""`hfssl demo`: the main job on data that every machine has. Runs the recipes, then shows what was learned.

Every model is trained by the recipe that a user would run, with the YAML files in recipes/demo/. Beside each figure
stands what needs no training: its anchors.
"""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from hfssl.errors import InputError
from hfssl.hub import write_model_card
from hfssl.programs import program, recipe
from hfssl.training.run import RUN

logger = logging.getLogger(__name__)

MODELS = ("gpt", "bert", "simclr")
SCORES = "scores.json"
VOCABULARY = 4096


def run_demo(out: str = "demo") -> None:
    """Trains a BPE, a GPT, a BERT and a SimCLR encoder into `out`, and writes `out/report.html`.

    A second call resumes what was stopped and skips what is done.
    """
    began, folder = time.perf_counter(), Path(out)
    _own(folder)
    if (folder / SCORES).exists() and (folder / "report.html").exists():
        _show(json.loads((folder / SCORES).read_text()), folder)
        logger.info("The demo is done already; delete %s to run it again.", folder)
        return
    try:
        for name in ("bpe-gpt", "bpe-bert"):
            _train_tokenizer(folder, name)
        for number, name in enumerate(MODELS, 1):
            _train(folder, name, number)
        from hfssl.studies.demo_scores import score_all

        scores = score_all(folder)
    except KeyboardInterrupt:
        logger.warning("Stopped. What was finished is in %s; `hfssl demo --out %s` goes on from there.", folder, folder)
        raise SystemExit(130) from None
    features_and_labels = scores.pop("map")
    scores["seconds"] = round(time.perf_counter() - began)
    _write_cards(folder, scores)
    _write_report(folder, scores, *features_and_labels)
    (folder / SCORES).write_text(json.dumps(scores, indent=1))
    _show(scores, folder)


def _own(folder: Path) -> None:
    """Makes the folder; one that holds something else is left alone."""
    marker = folder / ".hfssl-demo"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give another --out")
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise InputError(f"{folder} is not empty and holds no demo; give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None


def _main_of(path: Path):
    return runpy.run_path(str(path))["main"]


def _train_tokenizer(folder: Path, name: str) -> None:
    target = folder / name
    if (target / "tokenizer.json").exists():
        return
    logger.info("Tokenizer: a byte-level BPE of %s entries on builtin:prose", f"{VOCABULARY:,}")
    style = "gpt2" if name == "bpe-gpt" else "bert"
    arguments = ["--text_path", "builtin:prose", "--vocab_size", str(VOCABULARY), "--style", style]
    _main_of(program("tokenizers_train/train_bpe.py"))([*arguments, "--output_dir", str(target)])


def _train(folder: Path, name: str, number: int) -> None:
    target = folder / name
    if (target / RUN).exists() and json.loads((target / RUN).read_text()).get("finished"):
        return
    logger.info("[%d/%d] %s", number, len(MODELS), name.upper())
    arguments = ["--config", str(program(f"recipes/demo/{name}.yaml")), "--output_dir", str(target)]
    if name != "simclr":
        arguments += ["--tokenizer", str(folder / f"bpe-{name}"), "--corpus_dir", str(folder / ".corpus")]
    _main_of(recipe(name))(arguments)
    for checkpoint in target.glob("checkpoint-*"):  # the model itself lies in the folder now
        shutil.rmtree(checkpoint, ignore_errors=True)


def _write_cards(folder: Path, scores: dict[str, Any]) -> None:
    for name in MODELS:
        figures = [
            (f"{row['figure']} (anchors: {row['anchors']})", row["ours"])
            for row in scores["rows"]
            if row["model"] == name
        ]
        run = json.loads((folder / name / RUN).read_text())
        write_model_card(
            folder / name, run, figures, notes=["Trained for minutes on a few megabytes: a demonstration."]
        )


def _write_report(folder: Path, scores: dict[str, Any], features, labels) -> None:
    from hfssl.evaluation.figures import embedding_map
    from hfssl.evaluation.report import Page, loss_curves

    page = Page(
        "What was learned",
        "A tokenizer, a GPT, a BERT and a SimCLR encoder, trained by `hfssl demo` from scratch and without labels.",
    )
    page.heading("Figures and their anchors")
    page.table(
        ("model", "figure", "ours", "anchors"),
        [(row["model"], row["figure"], row["ours"], row["anchors"]) for row in scores["rows"]],
    )
    page.text(
        "Anchors are what needs no training: a figure that does not beat its anchors shows nothing. "
        "On the plain digits raw pixels are hard to beat; with few labels and on moved digits learning shows."
    )
    page.heading("Loss while training")
    curves = {
        name.upper(): [
            (entry["step"], entry["loss"])
            for entry in json.loads((folder / name / "log_history.json").read_text())
            if "loss" in entry
        ]
        for name in MODELS
    }
    anchors = {name.upper(): tuple(value) for name, value in scores["loss_anchors"].items()}
    page.figure(loss_curves(curves, anchors), "Training loss; the dashed lines are the anchors")
    page.heading("The digits as the SimCLR encoder sees them")
    page.figure(
        embedding_map(features, labels, [str(digit) for digit in range(10)]),
        "Test digits, t-SNE of the embeddings; the colours are the labels, which training never saw",
    )
    page.heading("The GPT continues a prompt")
    for sample in scores["samples"]:
        page.code(sample)
    page.heading("One prompt while it learned")
    history = json.loads((folder / "gpt" / "log_history.json").read_text())
    samples = {entry["step"]: entry["samples"] for entry in history if "samples" in entry}
    rows = [(step, prompt + text) for step, texts in samples.items() for prompt, text in texts.items()]
    page.table(("step", "text"), rows)
    page.heading("Saved and loaded again")
    page.table(
        ("model", "weights as trained, outputs where hfssl is not installed, after from_pretrained"),
        list(scores["reloaded"].items()),
    )
    page.heading("Next")
    page.code(_next_steps(folder))
    page.write(folder / "report.html")


def _next_steps(folder: Path) -> str:
    activate = Path(sys.prefix) / "bin" / "activate"
    if activate.is_relative_to(Path.cwd()):
        activate = activate.relative_to(Path.cwd())
    return "\n".join(
        [
            *([] if shutil.which("hfssl") else [f". {activate}"]),
            f'hfssl generate {folder}/gpt --prompt "The function returns" --tries 3',
            f"hfssl probe {folder}/simclr --dataset builtin:digits",
            "hfssl pretrain gpt --config recipes/gpt_small.yaml --text_path YOUR_TEXT --output_dir out/gpt",
            "hfssl ls",
        ]
    )


def _show(scores: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What was learned", title_justify="left")
    for column in ("model", "figure", "ours", "anchors"):
        table.add_column(column, justify="right" if column == "ours" else "left")
    for row in scores["rows"]:
        table.add_row(row["model"], row["figure"], row["ours"], row["anchors"])
    console = Console()
    console.print(table)
    reloaded = "; ".join(f"{name}: {result}" for name, result in scores["reloaded"].items())
    console.print(f"\nSaved, loaded by from_pretrained, compared: {reloaded}.", markup=False, highlight=False)
    console.print(f"\nThe GPT continues:\n{scores['samples'][0]}\n", markup=False, highlight=False)
    console.print(f"Models, cards and report.html are in {folder}/ ({scores['seconds']} s). Next:", highlight=False)
    console.print(_next_steps(folder), markup=False, highlight=False)
