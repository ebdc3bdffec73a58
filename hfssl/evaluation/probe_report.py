"""A probe's results as tables, JSON, figures, a page and a table of embeddings."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hfssl.errors import InputError, one_line
from hfssl.evaluation import probes
from hfssl.evaluation.embeddings import write_embeddings
from hfssl.evaluation.probes import ProbeResult, ProbeRow
from hfssl.evaluation.reconstruction import SHOWN, paints, reconstructions, whole_views

logger = logging.getLogger(__name__)

GEOMETRY = {
    "rankme": "RankMe",
    "feature_std": "feature deviation",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
GEOMETRY_NOTE = (
    f"Geometry: the features of up to {probes.GEOMETRY_IMAGES:,} test images. RankMe is the effective number of "
    "dimensions; the deviation is 1 where directions are even and 0 where all features are one; alignment is the "
    "squared distance of two augmented views, uniformity the log mean of exp(-2 |x - y|^2): lower is better for both."
)


def probe_table(rows: Sequence[ProbeRow], title: str = "Frozen features"):
    """The rows as tables of rich, one for each test set, in percent, one column an encoder; without hidden layers."""
    from rich.console import Group
    from rich.table import Table

    headings, lines = _cells(rows)
    tables = []
    for test in dict.fromkeys(line[0] for line in lines):
        tables.append(Table(title=f"{title}, {test} test images"))
        for number, heading in enumerate(headings[1:]):
            tables[-1].add_column(heading, justify="right" if number > 1 else "left")
        own = [line[1:] for line in lines if line[0] == test]
        for before, line in zip([None, *own], own, strict=False):
            tables[-1].add_row("" if before and before[0] == line[0] else line[0], *line[1:])
    tables[-1].caption = _caption(rows)
    return Group(*tables)


def layer_table(rows: Sequence[ProbeRow]):
    """The linear probe after each layer as a table of rich."""
    from rich.table import Table

    curves = layer_curves(rows)
    table = Table("layer", *curves, title="The linear probe after each layer, all labels, accuracy in %")
    points = {name: {layer: f"{100 * accuracy:.1f}" for layer, accuracy, *_ in curve} for name, curve in curves.items()}
    for layer in dict.fromkeys(layer for curve in points.values() for layer in curve):
        table.add_row(layer, *(curve.get(layer, "") for curve in points.values()))
    return table


def geometry_table(geometry: Mapping[str, Mapping[str, float]]):
    """One line an encoder, as a table of rich."""
    from rich.table import Table

    table = Table("features", *GEOMETRY.values(), title="Geometry")
    for name, values in geometry.items():
        table.add_row(name, *(f"{values[key]:.3g}" for key in GEOMETRY))
    return table


def _caption(rows: Sequence[ProbeRow]) -> str:
    return (
        f"Accuracy in %, mean ± standard deviation over seeds (up to {max(row.seeds for row in rows)}), "
        f"95 % bootstrap interval over {rows[0].n:,} test images"
    )


def _cells(rows: Sequence[ProbeRow], between: str = "\n") -> tuple[list[str], list[list[str]]]:
    """Headings, and lines of test images, labels, protocol and one result an encoder."""
    rows = [row for row in rows if row.layer == "pooled"]
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    tests = list(dict.fromkeys(row.test for row in rows))
    keys = dict.fromkeys((row.test, row.labels, row.protocol) for row in rows)
    labels = list(dict.fromkeys(row.labels for row in rows))
    found = {(row.test, row.labels, row.protocol, row.encoder): row for row in rows}
    lines = []
    for key in sorted(keys, key=lambda key: (tests.index(key[0]), labels.index(key[1]))):
        shown = [found.get((*key, encoder)) for encoder in encoders]
        lines.append([*key, *("" if row is None else _cell(row, between) for row in shown)])
    return ["test images", "labels", "protocol", *encoders], lines


def _cell(row: ProbeRow, between: str) -> str:
    accuracy = f"{100 * row.accuracy:.1f}" + (f" ± {100 * row.spread:.1f}" if row.seeds > 1 else "")
    return f"{accuracy}{between}{100 * row.low:.1f}–{100 * row.high:.1f}"


def layer_curves(rows: Sequence[ProbeRow]) -> dict[str, list[tuple[str, float, float, float]]]:
    """For each encoder with hidden layers (layer, accuracy, low, high) of the linear probe on the first test set."""
    chosen = [
        row for row in rows if row.labels == "all" and row.protocol.startswith("linear") and row.test == rows[0].test
    ]
    deep = dict.fromkeys(row.encoder for row in chosen if row.layer != "pooled")
    return {
        name: [(row.layer, row.accuracy, row.low, row.high) for row in chosen if row.encoder == name] for name in deep
    }


def write_results(folder: str | Path, result: ProbeResult, settings: Mapping[str, Any], train, tests: Mapping) -> None:
    """Writes results.json, report.html, the figures as PNGs and, if `settings` asks, embeddings.parquet.

    Each file appears whole; what else lies in the folder stays.

    Args:
        settings: the program's flags; "model" and "export_embeddings" are looked at.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        _write_json(staging / "results.json", result, settings, train, tests)
        _write_figures(staging, result, settings, train, tests)
        if settings["export_embeddings"]:
            write_embeddings(staging / "embeddings.parquet", result.features, {"train": train, **tests})
        folder.mkdir(exist_ok=True)
        for path in sorted(staging.iterdir()):
            path.replace(folder / path.name)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_json(path: Path, result: ProbeResult, settings: Mapping[str, Any], train, tests: Mapping) -> None:
    """All that is needed to read the results: protocol, seeds, anchors, data, versions, the weights' hash."""
    import timm
    import transformers

    from hfssl import __version__

    encoders = list(dict.fromkeys(row.encoder for row in result.rows))
    record = {
        "model": settings["model"],
        "weights_sha256": result.weights,
        "data": {
            name: {"source": images.source, "images": len(images), "fingerprint": images.fingerprint}
            for name, images in {"train": train, **tests}.items()
        },
        "protocol": " ".join(probes.__doc__.partition("\n\n")[2].split()),
        "settings": dict(settings),
        "seeds": [settings.get("first_seed", 0) + number for number in range(settings["seeds"])],
        "anchors": encoders[1:],
        "versions": {
            "hfssl": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "transformers": transformers.__version__,
        },
        "geometry": result.geometry,
        "train_seconds": result.train_seconds,
        "rows": [asdict(row) for row in result.rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def _write_figures(folder: Path, result: ProbeResult, settings: Mapping[str, Any], train, tests: Mapping) -> None:
    from hfssl.evaluation.figures import confusion_figure, embedding_map, gallery, layer_figure, neighbour_sheet
    from hfssl.evaluation.report import Page

    name, test = next(iter(tests.items()))
    class_names = test.class_names or [str(label) for label in range(int(train.labels.max()) + 1)]
    bank, queries = result.features["train"], result.features[name]
    figures = {
        "confusion": (
            confusion_figure(test.labels, result.predictions[name], class_names),
            f"The linear probe with all labels on the {name} test images, in % of each class",
        ),
        "neighbours": (
            neighbour_sheet(queries, bank, test, train),
            "Test images (left) and their nearest training images; green is the same class, red another",
        ),
    }
    if len(test) > 3:  # of fewer t-SNE makes no map
        figures["map"] = (
            embedding_map(queries.numpy(), test.labels, class_names),
            "Test images, t-SNE of the features; the colours are the labels, which the map does not see",
        )
    if painted := _painted(settings, test):
        figures["gallery"] = (gallery(*painted), "What the model makes of the first test images")
    if curves := layer_curves(result.rows):
        figures["layers"] = (layer_figure(curves), "The linear probe after each layer, with 95 % intervals")
    page = Page(f"Frozen features of {settings['model']}", _caption(result.rows))
    page.table(*_cells(result.rows, "  "))
    page.text(GEOMETRY_NOTE)
    values = [[encoder, *(f"{found[key]:.3g}" for key in GEOMETRY)] for encoder, found in result.geometry.items()]
    page.table(["features", *GEOMETRY.values()], values)
    for file, (figure, caption) in figures.items():
        figure.savefig(folder / f"{file}.png", dpi=130, bbox_inches="tight")
        page.figure(figure, caption)
    page.heading("Protocol")
    page.text(" ".join(probes.__doc__.partition("\n\n")[2].split()))
    page.write(folder / "report.html")


def _painted(settings: Mapping[str, Any], images):
    """Of a model that predicts pixels the columns of a gallery and their titles, else None."""
    folder = Path(settings["model"])
    if not (folder / "config.json").is_file() or not paints(json.loads((folder / "config.json").read_text())):
        return None
    from transformers import AutoModelForPreTraining

    try:  # what it paints is an extra: nothing of it may cost the probe's results
        model, report = AutoModelForPreTraining.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        if report["missing_keys"]:  # an encoder without the part that paints
            return None
        views = whole_views([images[i] for i in range(min(SHOWN, len(images)))], model.config.image_size)
        return reconstructions(model.eval(), views)
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning("No gallery of %s: %s", folder, one_line(error))
        return None
