"""The table of the vision objectives: rows with their intervals, a CSV, a figure, and what is printed."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from hfssl.files import write_whole

logger = logging.getLogger(__name__)

COSTS = ("train seconds", "memory MB", "probe seconds", "probe memory MB")  # means over seeds


def interval_of(scores: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean over seeds and the ends of its 95 % interval, of (accuracy, low, high) of each seed.

    The test images are the same for all seeds, so their bootstrap interval stays as wide as it is; to its square comes
    that of Student's interval over the seeds.
    """
    values = [score[0] for score in scores]
    images = mean((high - low) / 2 for _, low, high in scores)
    seeds = 0.0
    if len(values) > 1:
        seeds = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    half = math.hypot(images, seeds)
    return mean(values), mean(values) - half, mean(values) + half


def rows_of(arms: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm, and one for the codes of co-training by themselves.

    Each has "arm", "seeds", for each protocol [mean, low, high, deviation] in percent, the means of seconds and memory,
    and [mean, deviation] over seeds of what colorization and inpainting paint ("painting").

    Args:
        arms: in the order of the rows.
        results: of the jobs, by "ARM/seed N/DIGEST".
    """
    rows, found = [], {}
    for arm in arms:
        found[arm] = [result for name, result in results.items() if name.partition("/seed ")[0] == arm]
        if "codes" in found[arm][0]:
            found[f"{arm}, codes"] = [run["codes"] for run in found[arm]]
    for arm, runs in found.items():
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs)}
        for protocol in runs[0]["scores"]:
            scores = [run["scores"][protocol] for run in runs]
            _, spread = mean_and_spread([score[0] for score in scores])
            row[protocol] = [100 * value for value in (*interval_of(scores), spread)]
        for name in (*COSTS, "images"):
            if name in runs[0]:
                row[name] = mean(run[name] for run in runs)
        if "painting" in runs[0]:
            row["painting"] = {
                name: list(mean_and_spread([run["painting"][name] for run in runs])) for name in runs[0]["painting"]
            }
        rows.append(row)
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation over seeds; of one seed 0."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def write_report(out: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes objectives.json, .csv and .png into the study's folder."""
    write_whole(out / "objectives.json", json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    write_whole(out / "objectives.csv", _csv(rows))
    picture = io.BytesIO()
    objectives_figure(rows, protocols_of(rows)).savefig(picture, format="png", dpi=130)
    write_whole(out / "objectives.png", picture.getvalue())
    logger.info("The table is in %s: objectives.json, .csv and .png", out)


def protocols_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the probes, as the rows have them."""
    return [name for name in rows[0] if isinstance(rows[0][name], list)]


def paintings_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of what is measured of painted images, of any row."""
    return list(dict.fromkeys(name for row in rows for name in row.get("painting", ())))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a row. What an arm does not have is empty."""
    file, protocols, paintings = io.StringIO(), protocols_of(rows), paintings_of(rows)
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{name}{end}" for name in protocols for end in ("", " low", " high", " deviation")]
    heads += [*COSTS, *(f"{name}{end}" for name in paintings for end in ("", " deviation"))]
    writer.writerow(["arm", "seeds", *heads])
    for row in rows:
        values = [f"{value:.2f}" for name in protocols for value in row[name]]
        values += [f"{row[name]:.1f}" if name in row else "" for name in COSTS]
        painted = row.get("painting", {})
        values += [f"{value:.4g}" for name in paintings for value in painted.get(name, ())] if painted else []
        writer.writerow([row["arm"], row["seeds"], *values])
    return file.getvalue()


def objectives_figure(rows: Sequence[Mapping[str, Any]], protocols: Sequence[str]):
    """A matplotlib figure: each arm's accuracy with its interval, a panel a protocol."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(protocols) + 1.5, 0.35 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    places = range(len(rows))[::-1]
    for axes, protocol in zip(panels, protocols, strict=True):
        for place, row in zip(places, rows, strict=True):
            value, low, high, _ = row[protocol]
            ours = "images" in row and row["arm"] != "supervised"
            axes.plot([low, high], [place, place], color="#1f6feb" if ours else "#57606a", linewidth=2)
            axes.plot([value], [place], "o", color="#1f6feb" if ours else "#57606a", markersize=5)
        axes.set_title(protocol, fontsize=9)
        axes.set_xlabel("accuracy, %", fontsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(list(places), [row["arm"] for row in rows])
    return figure


def objectives_table(rows: Sequence[Mapping[str, Any]]):
    """A rich table of the rows."""
    from rich.box import SIMPLE
    from rich.table import Table

    protocols = [name for name in protocols_of(rows) if "a class" not in name]  # the CSV has those, too
    table = Table(title="Frozen features, % right: mean over seeds ± half of its 95 % interval", box=SIMPLE, padding=0)
    for name in ("arm", "seeds", *protocols, "seconds", "MB"):  # of training; the CSV has the probe's, too
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for row in rows:
        cells = [f"{row[name][0]:.1f} ± {row[name][2] - row[name][0]:.1f}" for name in protocols]
        cost = [f"{row[name]:.0f}" if name in row else "" for name in COSTS[:2]]
        table.add_row(row["arm"], str(row["seeds"]), *cells, *cost)
    return table


def painting_table(rows: Sequence[Mapping[str, Any]]):
    """A rich table of what colorization and inpainting paint, beside their baselines."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title="Painted test images: mean over seeds and standard deviation", box=SIMPLE, padding=0)
    painting = [row for row in rows if "painting" in row]
    for name in ("", *(row["arm"] for row in painting)):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for name in paintings_of(rows):
        cells = [row["painting"].get(name) for row in painting]
        said = (f"{cell[0]:.3g} ± {cell[1]:.1g}" if cell else "" for cell in cells)
        table.add_row(name.replace("_", " "), *said)
    return table
