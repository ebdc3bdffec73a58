"""Tables of positions in closed form, and in GPT-2's wpe: fixed through training, a resume and saving."""

import cmath
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hfssl.errors import InputError
from hfssl.models.modeling_lm import GPT2ForTraining, language_model
from hfssl.models.positions import TABLES, dyadic_positions, position_table, sinusoidal_positions
from hfssl.training import run
from recipes.pretrain_gpt import main
from tests.training.test_run import KillAt, assert_equal_runs, tiny_gpt, trainer_for


def test_sinusoids_by_hand():
    table = sinusoidal_positions(50, 8)
    for t in (0, 1, 49):
        for j in range(4):
            angle = t / 10000 ** (2 * j / 8)
            assert table[t, 2 * j] == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[t, 2 * j + 1] == pytest.approx(math.cos(angle), abs=1e-12)


@pytest.mark.parametrize(("positions", "columns"), [(2, 2), (8, 6), (512, 18), (500, 18), (1, 2)])
def test_dyadic_octaves(positions, columns):
    table = dyadic_positions(positions)
    assert table.shape == (positions, columns)
    waves = torch.view_as_complex(table.view(positions, -1, 2))
    t = positions - 1
    for k in range(columns // 2):
        assert abs(complex(waves[t, k]) - cmath.exp(2j * math.pi * 2**k * t / 2 ** (columns // 2))) < 1e-9


def test_all_dyadic_positions_differ_and_a_shift_is_a_rotation():
    table = dyadic_positions(512)
    distances = torch.cdist(table, table).square().fill_diagonal_(math.inf)
    assert distances.min() == pytest.approx(4.0)
    waves = torch.view_as_complex(table.view(512, -1, 2))
    turns = waves[7:] / waves[:-7]
    torch.testing.assert_close(turns, turns[:1].expand_as(turns))


def test_a_table_is_padded_with_zeros_or_refused():
    table = position_table("dyadic", 8, 10)
    assert torch.equal(table[:, :6], dyadic_positions(8)) and not table[:, 6:].any()
    with pytest.raises(ValueError, match="fill 6 columns, the width is 4"):
        position_table("dyadic", 8, 4)
    with pytest.raises(ValueError, match="even width"):
        position_table("sinusoidal", 8, 5)
    with pytest.raises(ValueError, match="not 'cosine'"):
        position_table("cosine", 8, 4)
    with pytest.raises(ValueError, match="at least one"):
        dyadic_positions(0)


def with_table(kind):
    config = tiny_gpt().config
    config.position_table = kind
    torch.manual_seed(0)
    return language_model(config)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_stays_through_training_and_a_stock_model_has_it(tmp_path, kind):
    expected = (position_table(kind, 16, 16) * 0.02).float()
    trainer = trainer_for(tmp_path / "out", with_table(kind), weight_decay=0.5)
    run(trainer)
    learned = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    assert id(trainer.model.transformer.wpe.weight) not in learned
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(saved) is GPT2ForTraining.stock and torch.equal(saved.transformer.wpe.weight, expected)
    assert not torch.equal(saved.transformer.wte.weight, with_table(kind).transformer.wte.weight)
    again = GPT2ForTraining.from_pretrained(tmp_path / "out")
    assert torch.equal(again.transformer.wpe.weight, expected) and not again.transformer.wpe.weight.requires_grad


def test_a_run_with_a_table_resumes_and_is_another_run_than_one_without(tmp_path):
    run(trainer_for(tmp_path / "whole", with_table("dyadic")))
    with pytest.raises(SystemExit):
        run(trainer_for(tmp_path / "parts", with_table("dyadic"), [KillAt(5)]))
    with pytest.raises(InputError, match="position_table: dyadic, now sinusoidal"):
        run(trainer_for(tmp_path / "parts", with_table("sinusoidal")))
    run(trainer_for(tmp_path / "parts", with_table("dyadic")))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_the_recipe_s_flag(tmp_path, capsys):
    small = ["--model.n_layer", "1", "--model.n_embd", "32", "--model.n_head", "2", "--max_steps", "1"]
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 200)
    text = ["--text_path", str(tmp_path / "text.txt"), "--eval_fraction", "0.2", "--vocab_size", "260"]
    flags = ["--config", "recipes/smoke/gpt.yaml", "--output_dir", str(tmp_path / "out"), *text, *small]
    main([*flags, "--positions", "dyadic"])
    wpe = AutoModelForCausalLM.from_pretrained(tmp_path / "out").transformer.wpe.weight
    assert torch.equal(wpe, (position_table("dyadic", 128, 32) * 0.02).float())
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--positions", "cosine", "--overwrite"])
    assert stopped.value.code == 2
    assert "positions are learned, sinusoidal or dyadic, not 'cosine'" in capsys.readouterr().err


def test_llama_takes_no_table():
    config = LlamaConfig(vocab_size=24, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.position_table = "dyadic"
    with pytest.raises(ValueError, match="llama has its own positions"):
        language_model(config)
