"""The grid of estimators: its truths, what it writes, and that a stopped one goes on."""

import csv
import json
import math
import runpy

import pytest

from hfssl.errors import InputError
from hfssl.information import METHODS
from hfssl.programs import program
from hfssl.studies import information_grid
from hfssl.studies.information_grid import GRIDS, Cell, InformationGridArguments, information_figure


def test_each_cell_knows_its_truth_and_the_lectures():
    gaussian, stair, channel = Cell("gaussian", 128, 0.5), Cell("staircase", 20, 6), Cell("channel", 10, 0.5)
    assert gaussian.truth("doe", 128) == pytest.approx(18.41, abs=5e-3)
    assert stair.truth("infonce", 128) == pytest.approx(6)
    assert channel.truth("lecture", 2) == pytest.approx(0.2537, abs=5e-5)
    assert gaussian.truth("lecture", 128) == pytest.approx(math.log(128) - 127 / 128 * 128 / 3)
    assert [cell.name for cell in (gaussian, stair, channel)] == ["d=128 rho=0.5", "d=20 6 nats", "K=10 error=0.5"]
    x, y = stair.samples(5000, "ksg", 0)
    assert x.shape == y.shape == (4000, 20)


def test_the_grids_are_those_of_the_protocol():
    assert {cell.size for cell in GRIDS["small"].cells if cell.kind == "gaussian"} == {1, 4, 20, 128}
    assert [cell.parameter for cell in GRIDS["staircase"].cells] == [2, 4, 6, 8, 10]
    (table,) = GRIDS["gaussian128"].cells
    assert (table.size, table.parameter, GRIDS["gaussian128"].candidates) == (128, 0.5, 128)
    assert "binned" not in table.methods(METHODS) and "binned" in Cell("gaussian", 1, 0.5).methods(METHODS)
    assert {"doe", "doe_logistic", "ksg"}.isdisjoint(Cell("channel", 10, 0.5).methods(METHODS))


def test_a_grid_writes_every_estimate_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    executed = []
    estimate = information_grid.estimate
    monkeypatch.setattr(
        information_grid, "estimate", lambda x, y, name, **rest: executed.append(name) or estimate(x, y, name, **rest)
    )
    main = runpy.run_path(str(program("eval/run_information.py")))["main"].__wrapped__
    flags = ["--grid", "channel", "--methods", "infonce", "lecture", "binned", "--steps", "10", "--samples", "400"]
    rows = main([*flags, "--candidates", "8", "--out", str(tmp_path)])
    assert executed == ["infonce", "lecture", "binned"] * 2
    assert [row["cell"] for row in rows] == ["K=10 error=0.5"] * 3 + ["K=2 error=0.2"] * 3
    table = list(csv.DictReader((tmp_path / "information.csv").open()))
    assert [row["method"] for row in table] == executed
    assert all(float(row["ln_n"]) == pytest.approx(math.log(8)) for row in table)
    assert float(table[5]["truth"]) == pytest.approx(0.1927, abs=1e-4)
    record = json.loads((tmp_path / "information.json").read_text())
    best = record["best infonce of a channel"]["K=2 error=0.2"]
    assert 0.15 < best < float(table[5]["truth"])
    assert record["rows"][0]["curve"][-1][0] == 10 and record["rows"][0]["selected"]["hidden"] == 64
    assert (tmp_path / "information.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "its truth" in printed and "ln N" in printed and "0.511" in printed
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    assert [row["value"] for row in main([*flags, "--candidates", "8", "--out", str(tmp_path)])] == [
        row["value"] for row in rows
    ]
    assert executed[6:] == ["binned"]
    with pytest.raises(InputError, match=r"other settings \(candidates: 8, now 16\)"):
        main([*flags, "--candidates", "16", "--out", str(tmp_path)])


def test_the_figure_has_the_truth_the_ceiling_and_marks_what_lies_outside():
    def row(method, value, cell="d=1 rho=0.5", truth=2.0):
        return {"kind": "gaussian", "cell": cell, "method": method, "value": value, "standard_error": 0.1,
                "truth": truth, "ln_n": 4.0}  # fmt: skip

    rows = [row("infonce", 1.8), row("dv", 1e4), row("nwj", -1e4), row("lecture", 1.0, truth=0.5)]
    (axes,) = information_figure(rows).axes
    markers = {line.get_marker(): line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 1}
    top = 1.15 * 4.0
    assert markers == {"o": 1.8, "^": pytest.approx(top), "v": -0.5, "_": 3.0}  # ln N less the lecture's bound
    assert any(list(line.get_ydata()) == [4.0, 4.0] for line in axes.lines)
    assert next(segment[0][1] for collection in axes.collections for segment in collection.get_segments()) == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "smal"}, "unknown grid 'smal': one of .*; did you mean 'small'"),
        ({"methods": ["infonce", "do"]}, "unknown method 'do'"),
        ({"methods": ["dv", "dv"]}, "none twice"),
        ({"methods": []}, "at least one"),
        ({"candidates": 1}, "--candidates 1"),
        ({"samples": 639}, "at least 10 times the candidates, 640"),
        ({"steps": -1}, "--steps must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        InformationGridArguments(**settings)


def test_a_grid_that_no_method_suits(tmp_path):
    with pytest.raises(InputError, match="ksg: no cell of the grid channel suits them"):
        information_grid.run_information_grid(
            InformationGridArguments(grid="channel", methods=["ksg"], out=str(tmp_path / "none"))
        )
    assert not (tmp_path / "none").exists()
