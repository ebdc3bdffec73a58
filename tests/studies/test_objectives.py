"""The table of objectives: its jobs, its intervals, what it writes, and that a stopped study goes on."""

import csv
import json
import math
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hfssl.errors import InputError
from hfssl.programs import program
from hfssl.studies import objectives
from hfssl.studies.objectives import ARMS, BASELINES, ObjectiveArguments
from hfssl.studies.objectives_report import interval_of, objectives_table, painting_table, rows_of
from hfssl.studies.processes import run_logged

SMOKE = ["--config", "eval/compare_objectives_smoke.yaml"]
CONFIGS = {
    f"{name}_config": f"recipes/smoke/{name}.yaml"
    for name in ("simclr", "cpc", "colorization", "context_encoder", "cotraining")
}


def made_up(self, name, job):
    """What a job would find: better by arm, a little different by seed."""
    arm, seed = job
    base = 0.3 + 0.05 * [*ARMS, *BASELINES].index(arm) + 0.01 * seed
    found = {"scores": {f"{p}, all": [base, base - 0.01, base + 0.01] for p in ("kNN", "linear")}, "probe seconds": 1.0}
    if arm in ARMS:
        found |= {"train seconds": 10.0 + seed, "memory MB": 500, "images": 640, "steps": 10}
    if arm.startswith("colorization"):
        found["painting"] = {"psnr": 20.0 + seed, "mean_chroma": 5.0}
    return found


def test_a_study_writes_a_row_an_arm_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    executed = []
    monkeypatch.setattr(
        objectives._Study, "execute", lambda self, name, job: executed.append(name) or made_up(self, name, job)
    )
    main = runpy.run_path(str(program("eval/compare_objectives.py")))["main"].__wrapped__
    flags = [*SMOKE, "--seeds", "2", "--parallel", "1", "--out", str(tmp_path)]
    rows = main(flags)
    assert len(executed) == 2 * (len(ARMS) + len(BASELINES)) - 1, "raw pixels have no seed"
    assert [row["arm"] for row in rows] == [*ARMS, *BASELINES]
    assert [row["seeds"] for row in rows] == [2] * len(ARMS) + [2, 2, 2, 1, 2]
    first = rows[0]
    assert first["linear, all"][0] == pytest.approx(30.5) and first["train seconds"] == 10.5
    assert rows[2]["painting"] == {"psnr": [20.5, pytest.approx(math.sqrt(0.5))], "mean_chroma": [5.0, 0.0]}
    table = list(csv.reader((tmp_path / "objectives.csv").open()))
    assert table[0][:4] == ["arm", "seeds", "kNN, all", "kNN, all low"] and len(table) == 1 + len(rows)
    painted = dict(zip(table[0], table[3], strict=False))
    assert painted["psnr"] == "20.5" and painted["psnr deviation"] == "0.7071" and painted["probe seconds"] == "1.0"
    assert json.loads((tmp_path / "objectives.json").read_text())["rows"][0]["arm"] == "simclr"
    assert (tmp_path / "objectives.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "adversary" in printed and "psnr" in printed
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    assert main(flags) == rows and executed[-1] == executed[-2]
    assert executed[-1].startswith("supervised/seed 1/")
    count = len(executed)
    assert main([*flags, "--flags=--logging_steps=9"]) == rows and len(executed) == count, "another log changes nothing"
    for change in ("--images_seen=1280", "--flags=--learning_rate=0.5"):
        main([*flags, change])
        assert len(executed) == 2 * count - 1, "all jobs are others"
        del executed[count:]


def test_the_interval_is_of_the_images_and_of_the_seeds():
    one = [[0.5, 0.48, 0.52]]
    assert interval_of(one) == pytest.approx((0.5, 0.48, 0.52))
    three = [[0.49, 0.47, 0.51], [0.5, 0.48, 0.52], [0.51, 0.49, 0.53]]
    mean, low, high = interval_of(three)
    half = math.hypot(0.02, 4.302653 * 0.01 / math.sqrt(3))  # Student's t with two degrees of freedom
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    results = {f"simclr/seed {seed}/x": {"scores": {"kNN, all": score}} for seed, score in enumerate(three)}
    (row,) = rows_of(["simclr"], results)
    assert row["kNN, all"] == pytest.approx([50, 100 * low, 100 * high, 1.0])


def test_codes_have_a_row_of_their_own():
    score = {"scores": {"linear, all": [0.5, 0.4, 0.6]}, "probe seconds": 2.0}
    codes = score | {"scores": {"linear, all": [0.3, 0.2, 0.4]}}
    rows = rows_of(
        ["co-training", "simclr"], {"co-training/seed 0/x": score | {"codes": codes}, "simclr/seed 0/x": score}
    )
    assert [(row["arm"], row["linear, all"][0]) for row in rows] == [
        ("co-training", 50.0), ("co-training, codes", 30.0), ("simclr", 50.0)
    ]  # fmt: skip


def printed(table):
    """The caption, the heads and the lines that a terminal of 80 columns shows."""
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(table)
    lines = shown.get().rstrip().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in shown.get()
    rule = next(number for number, line in enumerate(lines) if "──" in line)
    return lines[0].strip(), lines[2:rule], lines[rule + 1 :]


def folded(lines, first, after):
    """What stands in these places of the lines, folded, without its blanks."""
    return "".join("".join(line[first:after].split()) for line in lines)


def test_the_tables_are_whole_at_80_columns():
    """Of a study of all arms on all labels and on 1 % of them: no name, interval or head is cut."""
    names = [*ARMS, "co-training, codes", *BASELINES]
    costs = {"train seconds": 12345.4, "memory MB": 6789.0, "images": 64}
    scores = {"kNN, all": [41.26, 40.0, 42.46, 0.7], "linear, all": [100.0, 99.0, 100.5, 0.1],
              "kNN, 1 %": [9.04, 8.0, 10.14, 0.2], "linear, 1 %": [20.0, 7.5, 32.5, 3.0],
              "linear, 10 a class": [77.7, 77.0, 78.0, 0.3]}  # fmt: skip
    rows = [{"arm": name, "seeds": 3} | scores | (costs if name in ARMS else {}) for name in names]
    caption, heads, lines = printed(objectives_table(rows))
    assert caption == "Frozen features, % right: mean over seeds ± half of its 95 % interval"
    wanted = ["arm", "seeds", "kNN, all", "linear, all", "kNN, 1 %", "linear, 1 %", "seconds", "MB"]
    assert folded(heads, 0, 80) == "".join(wanted).replace(" ", ""), "labels by the class are the CSV's"
    arm = heads[0].index("seeds")  # the first column ends where the second, of that width, begins
    starts = [number for number, line in enumerate(lines) if line[arm:].strip()]
    assert len(starts) == len(names)
    for name, first, after in zip(names, starts, [*starts[1:], len(lines)], strict=True):
        assert folded(lines[first:after], 0, arm) == name.replace(" ", "")
        cells = "3 41.3 ± 1.2 100.0 ± 0.5 9.0 ± 1.1 20.0 ± 12.5" + " 12345 6789" * (name in ARMS)
        assert " ".join(lines[first][arm:].split()) == cells


def test_the_table_of_painted_images_is_whole_at_80_columns():
    painters = [name for name in ARMS if name.startswith(("colorization", "inpainting"))]
    rows = [{"arm": "simclr", "seeds": 3}]
    for number, name in enumerate(painters):
        painting = {"psnr": [21.24 + number, 0.7]} | ({"mean_chroma": [5.0, 0.02]} if number == 0 else {})
        rows.append({"arm": name, "seeds": 3, "painting": painting})
    caption, heads, (psnr, chroma) = printed(painting_table(rows))
    assert caption == "Painted test images: mean over seeds and standard deviation"
    cells = [f"{21.24 + number:.1f} ± 0.7" for number in range(len(painters))]
    assert " ".join(psnr.split()) == " ".join(["psnr", *cells])
    assert " ".join(chroma.split()) == "mean chroma 5 ± 0.02", "empty where it is not measured"
    ends = [psnr.index(cell) + len(cell) for cell in cells]
    for name, first, after in zip(painters, [0, *ends], ends, strict=False):
        assert folded(heads, first, after) == name.replace(" ", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": ["simclt"]}, "unknown arm 'simclt': .*did you mean 'simclr'"),
        ({"dataset": None}, "either --dataset, or --train_file and --test_file"),
        ({"seeds": 0}, "must be at least 1"),
        ({"cpc_config": None, "arms": ["cpc"]}, "--cpc_config must name the YAML of that recipe, not None"),
        ({"cpc_config": "nowhere.yaml", "arms": ["cpc"]}, "--cpc_config must name .* not 'nowhere.yaml'"),
        ({"simclr_config": None, "arms": ["supervised"]}, "--simclr_config must name"),
        ({"flags": ["--model.backbone=resnet18"]}, "would make the arms unequal"),
        ({"flags": ["--per_device_train_batch_size=8"]}, "would make the arms unequal"),
        ({"cpc_config": "recipes/cpc_tiny_cpu.yaml"}, "cpc and simclr have other nets"),
        ({"cpc_config": "recipes/gpt_small.yaml"}, "names no model|other nets"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        ObjectiveArguments(**CONFIGS | {"dataset": "builtin:photos"} | settings)


def test_a_command_that_fails_says_where_its_log_is(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("print('working'); raise SystemExit('error: no more')")
    with pytest.raises(InputError, match=r"exit code 1, see .*a.log: error: no more"):
        run_logged([script], tmp_path / "a.log")
    script.write_text("print('done')")
    seconds, memory = run_logged([script, "--flag=1"], tmp_path / "b.log")
    assert seconds >= 0 and memory >= 0 and "fails.py --flag=1" in (tmp_path / "b.log").read_text()


def test_real_jobs(tmp_path):
    """An arm that paints and its random init: trained, probed and measured by their own commands, two at a time."""
    arms = ["inpainting, adversary", "random init, lightness"]
    rows = objectives.run_objectives(
        ObjectiveArguments(
            **CONFIGS, dataset="builtin:photos", seeds=1, images_seen=64, parallel=2, arms=arms,
            flags=["--save_strategy=no"], out=str(tmp_path),
        )
    )  # fmt: skip
    first, second = rows
    assert all(0 <= row["linear, all"][0] <= 100 for row in rows) and "linear, 1 %" in first
    assert first["images"] == 64 and first["train seconds"] > 0 and first["memory MB"] > 100
    assert {"psnr", "mean_fill_psnr", "biharmonic_psnr", "sharpness", "true_sharpness"} <= set(first["painting"])
    assert "painting" not in second and "train seconds" not in second and second["probe seconds"] > 0


def test_a_job_is_of_the_content_of_its_files(tmp_path, monkeypatch):
    """An edited YAML under the same name makes other jobs of its arm, and of no other."""
    executed = []
    monkeypatch.setattr(
        objectives._Study, "execute", lambda self, name, job: executed.append(job[0]) or made_up(self, name, job)
    )
    configs = {key: str(shutil.copy(program(path), tmp_path / f"{key}.yaml")) for key, path in CONFIGS.items()}
    arms = ["simclr", "cpc", "random init"]
    args = ObjectiveArguments(**configs, dataset="builtin:photos", arms=arms, seeds=1, out=str(tmp_path / "out"))
    assert len(objectives.work(args)) == 3
    path = Path(configs["cpc_config"])
    path.write_text(path.read_text().replace("learning_rate: 1.0e-3", "learning_rate: 2.0e-3"))
    assert len(objectives.work(args)) == 3 and executed == [*arms, "cpc"]


def processes(*words):
    """The command lines that hold all the words, each once: a fork has its parent's until it is another program."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True).stdout.splitlines()
    return {line for line in listed if all(word in line for word in words)}


def comes(condition, seconds=120):
    """Whether the condition comes true in time."""
    last = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < last:
        time.sleep(0.05)
    return found


def test_a_study_that_is_stopped_leaves_no_process_behind(tmp_path):
    """SIGTERM to the study: its helper, both recipes and what they started end; the same command goes on."""
    flags = [*SMOKE, "--images_seen", "64000", "--parallel", "2", "--out", str(tmp_path)]
    command = [sys.executable, "eval/compare_objectives.py", *flags]
    process = subprocess.Popen(command, cwd=program(""), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert comes(lambda: len(processes(str(tmp_path), "pretrain_")) == 2)
        assert len(processes(str(tmp_path), "objectives.work")) == 1
    finally:
        process.terminate()
    assert process.wait(timeout=60) == 143
    assert comes(lambda: not processes(str(tmp_path)))
