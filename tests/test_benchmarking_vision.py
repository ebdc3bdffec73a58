"""The parts of the vision benchmarks, and the programs at toy sizes. Nothing here asserts a time."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hfssl import benchmarking_vision as vision
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError

PROGRAMS = Path(__file__).resolve().parent.parent / "benchmarks"
TINY = {
    "backbone": "resnet10t", "stem": "cifar", "image_size": 16,
    "backbone_kwargs": {"stem_width": 8, "channels": [8, 8, 8, 8]},
}  # fmt: skip


def main_of(name):
    return runpy.run_path(str(PROGRAMS / name))["main"].__wrapped__


def test_photographs_are_made_of_real_ones_and_travel_as_jpeg(tmp_path):
    images = vision.photographs(6, 24)
    assert images.shape == (6, 3, 24, 24) and images.dtype == torch.uint8
    assert torch.equal(images, vision.photographs(6, 24)) and not torch.equal(images[0], images[2])
    assert images.float().std() > 20
    vision.write_jpeg(tmp_path / "images.parquet", images)
    read = load_images(str(tmp_path / "images.parquet")).stack()
    assert read.shape == images.shape and (read.float() - images.float()).abs().mean() < 8


def test_lightly_s_arm_trains_the_same_encoder_on_the_same_images(tmp_path):
    pytest.importorskip("lightly")
    vision.write_jpeg(tmp_path / "images.parquet", vision.photographs(12, 16))
    views = vision.LightlyViews(tmp_path / "images.parquet", 16, 0.5, blur=False)
    assert len(views) == 12 and [view.shape for view in views[3]] == [(3, 16, 16)] * 2
    seconds = vision.lightly_step_seconds(views, TINY, batch_size=4, steps=3, warmup=1, workers=0, lr=1e-3)
    assert len(seconds) == 3 and min(seconds) > 0


def test_without_lightly_its_arm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(InputError, match="pip install lightly"):
        vision.lightly_transform(32, 0.5, blur=False)


def test_kornia_makes_views():
    views = vision.kornia_views(32, 1.0)(vision.photographs(4, 48))
    assert views.shape == (4, 3, 32, 32) and views.dtype == torch.float32 and views.std() > 0.2


def test_arms_beyond_the_budget_and_those_that_fail_are_named(tmp_path):
    arms = [("a", 5, lambda: {"ms": 1.0}), ("b", 20, lambda: {"ms": 2.0}), ("c", 1, lambda: {}["x"])]
    rows = vision.within_budget(arms, lambda: 10.0, tmp_path / "found.json", device="d")
    assert rows[0] == {"arm": "a", "ms": 1.0}
    assert rows[1]["missing"] == "left out, 10 s of the budget were left" and rows[2]["missing"] == "KeyError: 'x'"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rows"] == rows and found["device"] == "d"
    assert vision.in_words(rows[0]) == "ms 1" and vision.in_words(rows[1]) == rows[1]["missing"]


def test_the_clock_notes_when_each_goal_is_reached_and_stops_at_the_second(tmp_path):
    """Two kinds of images that any encoder tells apart."""
    pixels = torch.cat([vision.photographs(30, 16) // 8, 255 - vision.photographs(30, 16) // 8])
    images = ImageDataset(pixels, np.repeat([0, 1], 30))
    settings = {"per_device_train_batch_size": 10, "max_steps": 9, "use_cpu": True, "logging_strategy": "no"}
    ends = {}
    for goals in ((0.9, 0.9), (0.9, 1.1), (1.1, 0.9)):
        trainer = vision.simclr_trainer(tmp_path / str(goals), images, TINY, resident=True, **settings)
        clock = vision.ByTheClock(images, images, "cpu", every=4, goals=goals, seconds=60)
        trainer.add_callback(clock)
        trainer.train()
        ends[goals] = [(step, linear is not None) for step, _, _, linear in clock.points], set(clock.reached)
        assert clock.points[-1][2] > 0.9 and clock.points[-1][3] > 0.9 and clock.points[0][1] > 0
    assert ends[0.9, 0.9] == ([(4, True)], {"kNN s", "linear s"})
    assert ends[0.9, 1.1] == ([(4, True), (8, True), (9, True)], {"kNN s"})
    assert ends[1.1, 0.9] == ([(4, False), (8, False), (9, True)], {"linear s"})  # at the end, in any case


def test_views_on_one_core(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lightly")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process
    output = tmp_path / "found.json"
    main_of("augmentation.py")(["--sizes", "16", "--images", "4", "--repeats", "1", "--out", str(output)])
    (row,) = json.loads(output.read_text())["rows"]
    assert row["measure"] == "16 x 16: images/s" and set(row["arms"]) == {"hfssl", "lightly"}
    assert "lightly" in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["hfssl", "lightly"])
def test_an_arm_of_the_step(tmp_path, capsys, arm):
    if arm == "lightly":
        pytest.importorskip("lightly")
    vision.write_jpeg(tmp_path / "images.parquet", vision.photographs(16, 32))
    flags = ["--backbone", "resnet10t", "--batch_size", "4", "--workers", "0", "--steps", "1", "--arm", arm]
    main_of("simclr_step.py")([*flags, "--data", str(tmp_path / "images.parquet")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["s/step"] > 0 and ("encoder s/step" in found) == (arm == "hfssl")


def test_without_time_the_gpu_benchmark_leaves_its_arms_out_and_says_so(tmp_path, capsys):
    output = tmp_path / "gpu.json"
    main_of("gpu_vision.py")(["--smoke", "--budget", "0", "--out", str(output)])
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 4 and all("left out" in row["missing"] for row in rows)
    assert "left out" in capsys.readouterr().out


def test_bad_input_of_the_gpu_benchmark(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="--smoke"):
        main_of("gpu_vision.py")([])
    with pytest.raises(InputError, match="both --image_path and --test_path"):
        main_of("gpu_vision.py")(["--smoke", "--image_path", "a.parquet"])


@pytest.mark.slow
def test_the_step_from_the_command_line(run_command, tmp_path):
    pytest.importorskip("lightly")
    flags = ["--repeats", "1", "--steps", "1", "--backbone", "resnet10t", "--batch_size", "8"]
    done = run_command(sys.executable, PROGRAMS / "simclr_step.py", *flags, "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [set(row["arms"]) for row in rows] == [{"hfssl", "lightly"}, {"hfssl", "lightly, tuned"}]
    assert "times the speed" in done.stdout


@pytest.mark.slow
def test_the_gpu_benchmark_at_toy_sizes(run_command, tmp_path):
    vision.write_jpeg(tmp_path / "images.parquet", vision.photographs(48, 32))
    table = pq.read_table(tmp_path / "images.parquet").append_column("label", [[i % 3 for i in range(48)]])
    pq.write_table(table, tmp_path / "images.parquet")
    flags = ["--smoke", "--epochs", "2", "--image_path", tmp_path / "images.parquet"]
    done = run_command(
        sys.executable, PROGRAMS / "gpu_vision.py", *flags, "--test_path", tmp_path / "images.parquet", "--out",
        tmp_path / "found.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["arm"]: row for row in json.loads((tmp_path / "found.json").read_text())["rows"]}
    assert not any("missing" in row for row in rows.values()) and len(rows) == 5
    assert rows["CIFAR-10"]["points"] and 0 <= rows["CIFAR-10"]["kNN"] <= 1
