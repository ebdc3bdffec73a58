"""The arms of the translation benchmark see the same pairs, have as many weights, and end with their time."""

import numpy as np
import pytest
import torch

from benchmarks.translation import main
from hfssl import benchmarking_translation
from hfssl.benchmarking_translation import (
    Seq2SeqCollator,
    Shape,
    batches,
    encoder_decoder,
    separator_model,
    train_arm,
    train_for,
    trained_weights,
)
from hfssl.data.masking import IGNORED
from hfssl.data.pairs import PairCollator, Pairs
from hfssl.errors import InputError

END, SEPARATOR = 0, 1
SHAPE = Shape(vocab_size=24, width=16, layers=2, heads=2, positions=32, end=END, separator=SEPARATOR)


@pytest.fixture
def pairs():
    """[a, b, <sep>, b, a, <end>] and the like: the target is the source backwards."""
    rng, rows = np.random.default_rng(0), []
    for size in rng.integers(1, 5, 40):
        source = rng.integers(2, 24, size)
        rows.append(np.concatenate([source, [SEPARATOR], source[::-1], [END]]))
    lengths = np.array([len(row) for row in rows])
    return Pairs(np.concatenate(rows).astype(np.uint16), lengths.cumsum(), (lengths // 2).astype(np.int32), bucket=16)


def test_both_arms_have_as_many_weights():
    ours = separator_model(SHAPE)
    peer = encoder_decoder(SHAPE, trained_weights(ours))
    assert trained_weights(peer) == pytest.approx(trained_weights(ours), rel=0.005)
    assert (peer.config.encoder_layers, peer.config.decoder_layers) == (1, 1)
    assert peer.model.encoder.embed_tokens.weight is peer.model.decoder.embed_tokens.weight is peer.lm_head.weight
    with pytest.raises(InputError, match="--layers must be even"):
        encoder_decoder(Shape(24, 16, 3, 2, 32, END, SEPARATOR), 1000)
    with pytest.raises(InputError, match="too small"):
        encoder_decoder(SHAPE, 100)


def test_the_same_sentences_in_the_same_steps(pairs):
    """One arm reads [source <sep> target <end>], the other the source, and predicts the target with its end."""
    ours, theirs = (batches(pairs, collator, 8, seed=3) for collator in (PairCollator(END), Seq2SeqCollator(SEPARATOR)))
    for _ in range(12):  # two passes and more
        one, other = next(ours), next(theirs)
        for row in range(8):
            target = one["labels"][row][one["labels"][row] != IGNORED]
            source = one["input_ids"][row][: one["input_ids"][row].tolist().index(SEPARATOR)]
            assert torch.equal(other["labels"][row][other["labels"][row] != IGNORED], target) and target[-1] == END
            assert torch.equal(other["input_ids"][row][other["attention_mask"][row] == 1], source)
            assert (other["input_ids"][row][other["attention_mask"][row] == 0] == SEPARATOR).all()


def test_the_schedule_follows_the_clock(pairs, monkeypatch):
    """A clock that moves 1 s a look: a look a step, so 100 steps; warm-up over 5 of them, then a cosine to 0."""
    ticks, rates = iter(range(1000)), []
    monkeypatch.setattr(benchmarking_translation, "seconds_of", lambda device: lambda: next(ticks))
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    told = train_for(separator_model(SHAPE), batches(pairs, PairCollator(END), 8, 0), 100, learning_rate=1.0)
    assert told["steps"] == len(rates) == 99 and told["pairs"] == 8 * 99
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.5 * (1 + np.cos(np.pi * 0.05))])
    assert rates[49] == pytest.approx(0.5) and rates[-1] < 0.002 and max(rates) < 1


def test_an_arm_learns_and_is_repeatable(pairs, monkeypatch):
    found = {}
    for arm in benchmarking_translation.ARMS:
        for turn in range(2):
            ticks = iter(range(1000))
            monkeypatch.setattr(benchmarking_translation, "seconds_of", lambda device, it=ticks: lambda: next(it))
            model, told = train_arm(arm, SHAPE, pairs, 60, 8, 3e-3, seed=1)
            found[arm, turn] = told
        assert found[arm, 0] == found[arm, 1] and found[arm, 0]["loss"] < np.log(24), "a uniform guess"
        assert not model.training
    with pytest.raises(InputError, match="less than one batch"):
        train_arm("separator", SHAPE, pairs, 60, 64, 3e-3, seed=1)


def test_the_program(tmp_path, capsys):
    small = ["--minutes", "0.003", "--width", "16", "--layers", "2", "--heads", "2", "--vocab_size", "400"]
    (tmp_path / "d").mkdir()
    for split in ("train", "test"):
        lines = [f'{{"source": "the {word}", "target": "der {word}"}}' for word in ("dog", "cat", "ball", "hat") * 5]
        (tmp_path / "d" / f"{split}.jsonl").write_text("\n".join(lines[: 20 if split == "train" else 3]))
    (tmp_path / "d" / "valid.jsonl").write_text('{"source": "the ball", "target": "der ball"}')
    out = tmp_path / "out.json"
    rows = main(["--data", str(tmp_path / "d"), *small, "--num_beams", "2", "--batch_size", "4", "--out", str(out)])
    assert [row["arm"] for row in rows] == ["separator", "encoder-decoder"] and out.exists()
    assert "separator less encoder-decoder" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--minutes", "0"])
    assert "--minutes and --batch_size must be over 0" in capsys.readouterr().err
