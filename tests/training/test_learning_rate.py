"""The learning rate scaled by the global batch: the formulas, every optimizer, the log, and the run's identity."""

import logging

import pytest

from hfssl.errors import InputError
from hfssl.training import PretrainingArguments, run
from hfssl.training.optim import scale_learning_rate
from tests.training.test_run import trainer_for


def arguments(out, **settings):
    return PretrainingArguments(output_dir=str(out), use_cpu=True, **settings)


def test_the_paper_s_rates_agree_at_its_batch():
    assert scale_learning_rate(0.3, "linear", 4096) == pytest.approx(4.8)
    assert scale_learning_rate(0.075, "sqrt", 4096) == pytest.approx(4.8)
    assert scale_learning_rate(0.3, "none", 4096) == 0.3
    assert scale_learning_rate(0.3, "linear", 256) == pytest.approx(0.3)


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "lars", "muon"])
def test_every_optimizer_gets_the_scaled_rate(tmp_path, optim, caplog):
    settings = {"optim": optim, "learning_rate": 0.01, "gradient_accumulation_steps": 4, "warmup_steps": 0}
    trainer = trainer_for(tmp_path / "out", learning_rate_scaling="linear", lr_scheduler_type="cosine", **settings)
    with caplog.at_level(logging.INFO, "hfssl"):
        trainer.create_optimizer_and_scheduler(10)
    expected = 0.01 * 4 * 4 / 256  # 4 samples, 4 parts
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [pytest.approx(expected)] * len(
        trainer.optimizer.param_groups
    )
    assert trainer.lr_scheduler.base_lrs[0] == trainer.optimizer.defaults["lr"] == pytest.approx(expected)
    assert trainer.args.learning_rate == 0.01
    assert caplog.messages == ["The learning rate is 0.000625 = 0.01 x 16 / 256, linear in the samples of a step"]


def test_without_scaling_nothing_changes_and_nothing_is_said(tmp_path, caplog):
    trainer = trainer_for(tmp_path / "out", learning_rate=0.01)
    with caplog.at_level(logging.INFO, "hfssl"):
        trainer.create_optimizer()
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.01} and caplog.messages == []


def test_a_run_logs_the_rate_it_has_and_says_so_in_its_record(tmp_path):
    settings = {"learning_rate_scaling": "sqrt", "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    trainer = trainer_for(tmp_path / "out", max_steps=2, **settings)
    run(trainer)
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] == [0.02, 0.02]
    assert "learning_rate_scaling: sqrt" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match=r"arguments\.learning_rate_scaling: sqrt, now linear"):
        run(trainer_for(tmp_path / "out", max_steps=2, **settings | {"learning_rate_scaling": "linear"}))


def test_another_number_of_processes_is_another_rate(tmp_path, monkeypatch):
    settings = {"learning_rate_scaling": "linear", "learning_rate": 0.3, "per_device_train_batch_size": 128}
    one = arguments(tmp_path, **settings).identity()
    monkeypatch.setattr(PretrainingArguments, "world_size", 4)
    four = arguments(tmp_path, **settings).identity()
    assert (one.pop("scaled_learning_rate"), four.pop("scaled_learning_rate")) == (0.15, 0.6) and one == four
    assert "scaled_learning_rate" not in arguments(tmp_path, learning_rate=0.3).identity()


def test_an_unknown_scaling_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--learning_rate_scaling square is not known: one of none, linear, sqrt"):
        arguments(tmp_path, learning_rate_scaling="square")
