import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForPreTraining

from hfssl.models import TaggerConfig, TaggerForPreTraining, cotraining_loss
from tests.without_hfssl import REFUSE_HFSSL

SMALL = {"vocab_size": 20, "num_codes": 5, "word_dim": 6, "char_dim": 4}


def small(**changes):
    torch.manual_seed(0)
    return TaggerForPreTraining(TaggerConfig(**SMALL | changes))


def batch(size=7):
    generator = torch.Generator().manual_seed(1)
    windows = torch.randint(2, 20, (size, 5), generator=generator)
    characters = torch.randint(1, 257, (size, 4), generator=generator)
    characters[0, 2:] = characters[1, 1:] = 0
    return {"windows": windows, "characters": characters}


def test_the_loss_is_that_of_a_slow_reading_of_the_paper():
    """Word by word: its embedding and the LSTM's last states over its letters; its neighbours one after another."""
    model, given = small(beta=0.2), batch()
    words, contexts = [], []
    for window, letters in zip(given["windows"], given["characters"], strict=True):
        embedded = model.words(window)
        states = model.lstm(model.characters(letters[letters > 0])[None])[0][0]  # (L, 2 char_dim)
        spelling = torch.cat([states[-1, :4], states[0, 4:]])
        words.append(model.word_head(torch.cat([embedded[2], spelling])))
        contexts.append(model.context_head(torch.cat([embedded[0], embedded[1], embedded[3], embedded[4]])))
    output = model(**given)
    words, contexts = torch.stack(words), torch.stack(contexts)
    torch.testing.assert_close(output.codes, words.softmax(1))
    terms = cotraining_loss(words, contexts, 0.2, "posterior")
    torch.testing.assert_close(output.loss, terms.loss)
    torch.testing.assert_close(output.information, terms.information)
    assert output.entropy_correction.item() == pytest.approx(4 / 14)
    assert model(**given, return_loss=False).loss is None
    output.loss.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())
    assert model(**given, return_dict=False)[0] == output.loss


def test_the_code_is_of_the_word_alone():
    model, given = small(), batch()
    codes = model(**given).codes
    other = given["windows"].clone()
    other[:, [0, 1, 3, 4]] = 2
    assert torch.equal(model(windows=other, characters=given["characters"]).codes, codes)
    other[:, 2] = 2
    assert not torch.allclose(model(windows=other, characters=given["characters"]).codes, codes)


def test_it_finds_two_kinds_of_words():
    """Words of two kinds take turns: the kinds are what neighbours tell of each other."""
    torch.manual_seed(0)
    kinds = torch.arange(400) % 2
    words = 2 + kinds + 2 * torch.randint(8, (400,))
    model = small(num_codes=2, word_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    given = {"windows": words.unfold(0, 5, 1), "characters": words.unfold(0, 5, 1)[:, 2:3]}
    for _ in range(80):
        optimizer.zero_grad()
        output = model(**given)
        output.loss.backward()
        optimizer.step()
    assert output.information > 0.9 * torch.tensor(2.0).log()
    right = (output.codes.argmax(1) == kinds[2:-2]).float().mean().item()
    assert right in (0, 1)


ALONE = (
    REFUSE_HFSSL
    + """
import sys, torch
from transformers import AutoModelForPreTraining
given, loss = torch.load(sys.argv[2])
model = AutoModelForPreTraining.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
assert torch.equal(model(**given).loss, loss)
"""
)


@pytest.mark.parametrize("inner", ["exact", "adam:1"])
def test_it_is_saved_and_loaded_also_without_hfssl(tmp_path, inner):
    model, given = small(inner=inner), batch()
    model(**given)
    model.eval().save_pretrained(tmp_path / "model")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "model").eval()
    assert type(loaded) is TaggerForPreTraining
    assert torch.equal(loaded(**given).loss, model(**given).loss)
    if inner == "exact":
        torch.save((given, model(**given).loss), tmp_path / "given.pt")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", ALONE, str(tmp_path / "model"), str(tmp_path / "given.pt")]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]


def test_bad_settings_and_windows_are_refused():
    with pytest.raises(ValueError, match="beta must be a finite number, not nan"):
        TaggerConfig(beta=float("nan"))
    with pytest.raises(ValueError, match="num_codes must be at least 2, not 1"):
        TaggerConfig(num_codes=1)
    with pytest.raises(ValueError, match=r"windows must be \(B, 5\)"):
        small()(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 1, dtype=torch.long))
