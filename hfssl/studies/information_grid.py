"""Every estimator of mutual information beside the truth: Gaussians, a staircase of information, discrete channels.

A cell is a distribution whose information is known; a job is a cell with a method of `hfssl.information.estimate`,
which never sees the truth. Jobs are on a `hfssl.training.ledger`, so a grid goes on where it was stopped and several
processes share it.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hfssl.errors import InputError, nearest
from hfssl.information import METHODS, Setting, estimate
from hfssl.information.estimation import CRITIC_METHODS
from hfssl.information.truth import (
    Channel,
    gaussian_correlation,
    gaussian_information,
    gaussian_pairs,
    gaussian_reverse_kl,
    lecture_bound,
    symmetric_channel,
)
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

KSG_SAMPLES = 4000  # it compares all with all
STAIRCASE_DIMENSIONS = 20  # as Poole et al. 2019, section 3
COLUMNS = (
    "cell", "kind", "size", "parameter", "method", "value", "standard_error", "truth", "ln_n", "held_out_loss",
    "selected", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A distribution.

    Args:
        kind: "gaussian", "staircase" or "channel".
        size: dimensions of x and of y, or symbols.
        parameter: correlation, nats, or the share of errors.
    """

    kind: str
    size: int
    parameter: float

    @property
    def name(self) -> str:
        words = {"gaussian": "d={} rho={:g}", "staircase": "d={} {:g} nats", "channel": "K={} error={:g}"}
        return words[self.kind].format(self.size, self.parameter)

    @property
    def channel(self) -> Channel:
        return symmetric_channel(self.size, self.parameter)

    @property
    def rho(self) -> float:
        return self.parameter if self.kind == "gaussian" else gaussian_correlation(self.size, self.parameter)

    def truth(self, method: str, candidates: int) -> float:
        """The information, or what the lecture's bound is, in nats."""
        if self.kind == "channel":
            information, reverse_kl = self.channel.information, self.channel.reverse_kl
        else:
            information, reverse_kl = (
                each(self.size, self.rho) for each in (gaussian_information, gaussian_reverse_kl)
            )
        return lecture_bound(information, reverse_kl, candidates) if method == "lecture" else information

    def methods(self, chosen: Sequence[str]) -> list[str]:
        """Those that suit it: no density has symbols, and no table of bins has many columns."""
        if self.kind == "channel":
            return [name for name in chosen if name in (*CRITIC_METHODS, "binned")]
        return [name for name in chosen if name != "binned" or self.size == 1]

    def samples(self, count: int, method: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs as a method takes them: symbols are one-hot for a critic."""
        if self.kind != "channel":
            return gaussian_pairs(min(count, KSG_SAMPLES) if method == "ksg" else count, self.size, self.rho, seed)
        x, y = self.channel.sample(count, seed)
        return (x, y) if method == "binned" else (F.one_hot(x, self.size), F.one_hot(y, self.size))


@dataclass(frozen=True)
class Grid:
    """Cells, and what is spent on each job."""

    cells: tuple[Cell, ...]
    samples: int
    candidates: int
    steps: int
    search: tuple[Setting, ...]


def _gaussians(correlations: Sequence[float]) -> tuple[Cell, ...]:
    return tuple(Cell("gaussian", size, rho) for size in (1, 4, 20, 128) for rho in correlations)


def _staircase(nats: Sequence[float]) -> tuple[Cell, ...]:
    return tuple(Cell("staircase", STAIRCASE_DIMENSIONS, each) for each in nats)


CHANNELS = (Cell("channel", 10, 0.5), Cell("channel", 2, 0.2))
WIDE = (Setting(256, 3e-3), Setting(256, 1e-3))
GRIDS = {
    "small": Grid((*_gaussians((0.5, 0.9)), *_staircase((2, 6, 10)), CHANNELS[0]), 8000, 64, 300, (Setting(64, 3e-3),)),
    "full": Grid(
        (*_gaussians((0.1, 0.3, 0.5, 0.7, 0.9)), *_staircase((2, 4, 6, 8, 10)), *CHANNELS),
        100_000, 128, 2000, (*WIDE, Setting(64, 3e-3)),
    ),
    "staircase": Grid(_staircase((2, 4, 6, 8, 10)), 50_000, 128, 1000, WIDE),
    "channel": Grid(CHANNELS, 50_000, 16, 500, (Setting(64, 3e-3),)),
    "gaussian128": Grid((Cell("gaussian", 128, 0.5),), 100_000, 128, 1000, WIDE),
}  # fmt: skip


@dataclass
class InformationGridArguments:
    """Which grid, and what is spent on it."""

    grid: str = field(default="small", metadata={"help": f"One of {', '.join(GRIDS)}."})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": f"Of {', '.join(METHODS)}."})
    samples: int | None = field(default=None, metadata={"help": "Pairs of each cell; by default the grid's own."})
    candidates: int | None = field(default=None, metadata={"help": "N; by default the grid's own."})
    steps: int | None = field(default=None, metadata={"help": "Steps of each training; by default the grid's own."})
    seed: int = field(default=0, metadata={"help": "Of the samples and the trainings."})
    out: str = field(default="out/information", metadata={"help": "The folder for all of it."})

    def __post_init__(self):
        for name, values, known in (("grid", [self.grid], GRIDS), ("method", self.methods, METHODS)):
            for value in values:
                if value not in known:
                    raise InputError(f"unknown {name} {value!r}: one of {', '.join(known)}{nearest(value, known)}")
        if len({*self.methods}) < len(self.methods) or not self.methods:
            raise InputError("methods must name at least one, and none twice")
        grid = GRIDS[self.grid]
        self.samples, self.steps = self.samples or grid.samples, self.steps or grid.steps
        self.candidates = grid.candidates if self.candidates is None else self.candidates
        if self.candidates < 2:
            raise InputError(f"--candidates {self.candidates}: x has no other candidate to be told from; at least 2")
        if min(self.samples, self.steps) < 1 or self.samples < 10 * self.candidates:
            raise InputError(
                f"--steps must be at least 1 and --samples at least 10 times the candidates, {10 * self.candidates:,}"
            )


def run_information_grid(args: InformationGridArguments) -> list[dict[str, Any]]:
    """Does what is missing of the grid and writes information.json, .csv and .png into its folder.

    Returns:
        A row a job, see `COLUMNS`: value and truth in nats. For "lecture" both are lower bounds of the CPC loss.

    Raises:
        InputError: another grid in the folder, or a job that failed.
    """
    out, grid = Path(args.out), GRIDS[args.grid]
    jobs = {f"{cell.name}/{method}": (cell, method) for cell in grid.cells for method in cell.methods(args.methods)}
    if not jobs:
        raise InputError(f"{', '.join(args.methods)}: no cell of the grid {args.grid} suits them; give other --methods")

    def execute(name: str, job: tuple[Cell, str]) -> dict[str, Any]:
        cell, method = job
        began = time.perf_counter()
        found = estimate(
            *cell.samples(args.samples, method, args.seed), method, candidates=args.candidates, steps=args.steps,
            search=grid.search, seed=args.seed,
        )  # fmt: skip
        seconds = round(time.perf_counter() - began, 2)
        kept = ("value", "standard_error", "held_out_loss", "selected", "curve")
        return {key: getattr(found, key) for key in kept} | {"seconds": seconds}

    settings = {name: value for name, value in asdict(args).items() if name not in ("methods", "out")}
    results = Ledger(out / "ledger.jsonl", settings).run(jobs, execute)
    rows = [
        asdict(cell) | {"cell": cell.name, "method": method, "truth": cell.truth(method, args.candidates)}
        | {"ln_n": math.log(args.candidates)} | results[name]
        for name, (cell, method) in jobs.items()
    ]  # fmt: skip
    exact = {
        cell.name: math.log(args.candidates) - cell.channel.cpc_loss(args.candidates)
        for cell in grid.cells if cell.kind == "channel"
    }  # fmt: skip
    record = {"settings": settings, "best infonce of a channel": exact, "rows": rows}
    (out / "information.json").write_text(json.dumps(record, indent=1) + "\n")
    with (out / "information.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    information_figure(rows).savefig(out / "information.png", dpi=130)
    logger.info("The grid is in %s: information.json, .csv and .png", out)
    return rows


def information_figure(rows: Sequence[dict[str, Any]]):
    """A matplotlib figure: a panel a kind, each method's estimate at each cell, the truth, and ln N.

    The lecture's bound is drawn as what it says of `infonce`: ln N less the bound, which that is never above. What lies
    outside a panel is at its edge, as a triangle.
    """
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = {kind: list(dict.fromkeys(row["cell"] for row in rows if row["kind"] == kind)) for kind in kinds}
    widths = [len(cells[kind]) + 1 for kind in kinds]
    figure = Figure(figsize=(0.8 * sum(widths) + 2.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, width_ratios=widths)[0]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axes, kind in zip(panels, kinds, strict=True):
        own = [row for row in rows if row["kind"] == kind]
        ceiling, informations = own[0]["ln_n"], {r["cell"]: r["truth"] for r in own if r["method"] != "lecture"}
        low, high = -0.5, 1.15 * max(ceiling, *informations.values())
        axes.axhline(ceiling, color="#8b949e", linestyle="--", linewidth=1, label="ln N")
        for place, cell in enumerate(cells[kind]):
            if cell in informations:
                axes.hlines(informations[cell], place - 0.45, place + 0.45, color="black", label="truth")
        for number, method in enumerate(methods):
            for row in (row for row in own if row["method"] == method):
                value = ceiling - row["value"] if method == "lecture" else row["value"]
                place = cells[kind].index(row["cell"]) + 0.8 * ((number + 0.5) / len(methods) - 0.5)
                marker = "^" if value > high else "v" if value < low else "_" if method == "lecture" else "o"
                axes.errorbar(
                    place, min(max(value, low), high), row["standard_error"] if marker in "o_" else None, fmt=marker,
                    color=f"C{number % 10}", markerfacecolor="none" if number > 9 else None, markersize=4, linewidth=1,
                    label="ln N - lecture" if method == "lecture" else method,
                )  # fmt: skip
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        if high > 30:  # the small ones are to be seen, too
            axes.set_yscale("symlog", linthresh=1)
        axes.set_xticks(range(len(cells[kind])), cells[kind], rotation=45, ha="right", fontsize=8)
        axes.set_title(kind, fontsize=10)
        axes.tick_params(axis="y", labelsize=8)
    panels[0].set_ylabel("nats", fontsize=9)
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def information_tables(rows: Sequence[dict[str, Any]]):
    """A rich table a kind: the methods' values, the truth and ln N, in nats; of "lecture" a truth of its own."""
    from rich.box import SIMPLE
    from rich.table import Table

    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        cells = list(dict.fromkeys(row["cell"] for row in own))
        table = Table("", title=f"{kind}, nats", title_justify="left", box=SIMPLE, padding=0)
        table.columns[0].no_wrap = True
        for cell in cells:
            table.add_column(cell.replace(" ", "\n", 1), justify="right", no_wrap=True)
        informations = {row["cell"]: row["truth"] for row in own if row["method"] != "lecture"}
        table.add_row("truth", *(f"{informations[cell]:.3g}" if cell in informations else "" for cell in cells))
        table.add_row("ln N", *[f"{own[0]['ln_n']:.3g}"] * len(cells), end_section=True)
        for method in dict.fromkeys(row["method"] for row in own):
            values = {row["cell"]: f"{row['value']:.3g}" for row in own if row["method"] == method}
            table.add_row(method, *(values.get(cell, "") for cell in cells))
            if method == "lecture":
                truths = {row["cell"]: f"{row['truth']:.3g}" for row in own if row["method"] == method}
                table.add_row("its truth", *(truths[cell] for cell in cells))
        yield table
