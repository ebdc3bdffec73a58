"""The study of co-training: its jobs, its toy, its interval, what it writes, and a real one."""

import json
import math
import runpy

import pytest
from scipy import stats

from hfssl.errors import InputError
from hfssl.programs import program
from hfssl.studies import cotraining
from hfssl.studies.cotraining import CoTrainingStudyArguments, difference, toy_sweep

SMALL = [
    "--config", "recipes/smoke/cotraining.yaml", "--max_steps", "2", "--per_device_train_batch_size", "16",
    "--save_strategy", "no", "--model.image_size", "16", "--use_cpu",
]  # fmt: skip


def study(*flags):
    return runpy.run_path(str(program("eval/cotraining_digits.py")))["main"].__wrapped__([*SMALL, *flags])


def test_a_study_writes_its_table_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    executed = []

    def made_up(study, name, job):
        beta, seed = job
        executed.append((name.partition(" ")[0], *job))
        left = beta < 1
        scores = {"hungarian": 0.9 + 0.01 * seed, "codes used": 10}
        return {"scores": scores, "entropy": 2.0 * left, "information": 1.5 * left, "codes used": 10}

    for kind in ("begin", "go_on"):

        def execute(study, name, job):
            return made_up(study, name, job)

        execute.__name__ = kind
        monkeypatch.setattr(cotraining._Study, kind, execute)
    monkeypatch.setattr(cotraining, "toy_sweep", lambda noise: {"threshold": 0.25, "betas": [0.0], "entropy": [1.0]})
    flags = ["--output_dir", str(tmp_path), "--seeds", "2", "--seed", "3", "--betas", "0.5", "1.5", "0.0"]
    record = study(*flags)
    assert executed == [("begin", 0.0, 3), ("begin", 0.0, 4), ("go_on", 0.5, 3), ("go_on", 1.5, 3)]
    assert [round(each["hungarian"], 2) for each in record["seeds"]] == [0.93, 0.94] and len(record["k-means"]) == 2
    assert list(record["betas"]) == ["0.0", "0.5", "1.5"] and record["betas"]["0.0"]["scores"] == record["seeds"][0]
    printed = capsys.readouterr().out
    assert "0.750" in printed and "co-training 93.5 ± 0.7" in " ".join(printed.split())
    assert (tmp_path / "cotraining.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "cotraining.json").read_text())["toy"]["threshold"] == 0.25
    study(*flags, "2.0")
    assert executed[4:] == [("go_on", 2.0, 3)], "the rest was done"
    for other in (["--learning_rate", "1.0"], ["--model.beta", "0.5"]):
        with pytest.raises(InputError, match="other settings"):
            study(*flags, *other)


def test_a_real_study(tmp_path):
    record = study("--output_dir", str(tmp_path), "--seeds", "1", "--betas", "1.5")
    assert 0.1 <= record["seeds"][0]["hungarian"] <= 1 and 0.7 < record["k-means"][0]["hungarian"] < 0.85
    for found in record["betas"].values():
        assert 0 <= found["information"] <= found["entropy"] + 1e-9 <= math.log(10) + 1e-6
    assert (tmp_path / "seed-42" / "model.safetensors").exists() and not (tmp_path / "beta-1.5").exists()


def test_the_toy_collapses_at_its_threshold():
    toy = toy_sweep(0.3, count=8)  # beta -0.2, 0, 0.2, 0.4 ...
    assert toy["threshold"] == pytest.approx(0.2547, abs=5e-5)
    spare, tied, blocks, *gone = toy["entropy"]
    assert spare == pytest.approx(math.log(3) + math.log(2) / 3, abs=1e-3)  # one block is split
    assert tied >= math.log(3) - 1e-3
    assert blocks == pytest.approx(math.log(3), abs=5e-3)
    assert max(gone) < 0.01
    assert toy_sweep(0.0, count=1)["threshold"] == 1


def test_the_difference_has_welch_s_interval():
    ours, theirs = [0.8, 0.85, 0.9], [0.7, 0.71, 0.72, 0.71]
    mean, low, high = difference(ours, theirs)
    assert mean == pytest.approx(0.14)
    squares = (0.0025 / 3, 0.0002 / 3 / 4)
    degrees = sum(squares) ** 2 / (squares[0] ** 2 / 2 + squares[1] ** 2 / 3)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(sum(squares))
    assert (low, high) == pytest.approx((0.14 - half, 0.14 + half))
    assert difference([0.8], theirs) == [pytest.approx(0.8 - sum(theirs) / len(theirs))], "of one there is no interval"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        ({"betas": [float("nan")]}, "betas must be finite numbers"),
        ({"toy_noise": 0.7}, "toy_noise must be at least 0 and below 0.67, not 0.7"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        CoTrainingStudyArguments(**settings)
