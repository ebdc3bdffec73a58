"""What a log line says of the speed: closed forms on a clock that the test turns."""

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig

from hfssl.models.modeling_lm import language_model
from hfssl.training import throughput
from hfssl.training.throughput import Meter, matmul_peak, training_flops_per_token
from tests.training.test_run import SMALL_BERT, losses, run, tiny_gpt, trainer_for


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_rates_waiting_and_utilisation(clock):
    meter = Meter(flops_per_unit=30.0, peak=lambda: 6000.0)
    meter.start()
    meter.count("tokens", 500)
    meter.waited(2.0)
    clock.now += 15
    meter.pause(5.0)  # an evaluation
    assert meter.read(processes=4) == {"tokens_per_second": 200.0, "data_wait": 0.2, "mfu": 0.25}
    clock.now += 1
    assert meter.read() == {}, "nothing since"
    meter.count("images", 3)
    assert meter.read() == {"images_per_second": 3.0, "data_wait": 0.0}, "images have no count of operations"


def test_operations_of_a_token_by_hand():
    """6 for each weight that is multiplied, the head too, and 12 L d T for the attention; embeddings are looked up."""
    gpt = language_model(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    block = 8 * 24 + 8 * 8 + 8 * 32 + 32 * 8
    assert training_flops_per_token(gpt, 16) == 6 * (2 * block + 50 * 8) + 12 * 2 * 8 * 16
    llama = language_model(
        LlamaConfig(
            vocab_size=50, hidden_size=8, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )
    )  # fmt: skip
    assert training_flops_per_token(llama, 4) == 6 * (8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 20 + 50 * 8) + 12 * 8 * 4
    bert = language_model(BertConfig(**SMALL_BERT))
    layer = 4 * 16 * 16 + 2 * 16 * 32
    assert training_flops_per_token(bert, 8, 0.15) == pytest.approx(
        6 * (2 * layer + 0.15 * (16 * 16 + 24 * 16)) + 12 * 2 * 16 * 8
    )


def test_the_peak_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    assert matmul_peak("cpu", torch.float32, 64) > 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_run_is_measured_against_the_peak_of_its_precision(tmp_path, monkeypatch, precision):
    """accelerate's config file sets the precision past --bf16."""
    asked = []
    monkeypatch.setattr("hfssl.training.trainer.matmul_peak", lambda device, dtype: asked.append(dtype) or 1e15)
    monkeypatch.setattr("transformers.Trainer.floating_point_ops", lambda self, inputs: 0)
    trainer = trainer_for(tmp_path / "out", language_model(tiny_gpt().config), max_steps=2)
    if precision == torch.bfloat16:
        monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", property(lambda self: "bf16"))
    run(trainer)
    assert set(asked) == {precision} and len(losses(tmp_path / "out")) == 2
