"""Continuing a prompt, against a loop that runs the whole model for each token."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hfssl.errors import InputError
from hfssl.generation import continue_text, load_generator
from hfssl.tokenization import train_bpe


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["the cat sat on the mat and the dog sat on the cat " * 20], 300, show_progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=24, initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def greedy(model, tokenizer, prompt, count):
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        following = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if following == tokenizer.eos_token_id:
            break
        ids.append(following)
    return tokenizer.decode(ids[start:])


@pytest.mark.parametrize("prompt", ["the cat", "dog", "and the mat sat"])
def test_top_1_is_greedy_without_a_cache(model, tokenizer, prompt):
    assert continue_text(model, tokenizer, prompt, max_new_tokens=8, top_k=1) == [greedy(model, tokenizer, prompt, 8)]


def test_tries_differ_seeds_repeat_and_the_random_state_stays(model, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    tries = continue_text(model, tokenizer, "the", tries=4, seed=1, max_new_tokens=10)
    assert torch.equal(torch.rand(2), expected)
    assert len(tries) == 4 and len(set(tries)) > 1
    assert tries == continue_text(model, tokenizer, "the", tries=4, seed=1, max_new_tokens=10)
    assert tries != continue_text(model, tokenizer, "the", tries=4, seed=2, max_new_tokens=10)


def test_it_ends_where_the_positions_end(model, tokenizer):
    ids = tokenizer(continue_text(model, tokenizer, "the cat", max_new_tokens=1000)[0])["input_ids"]
    assert len(ids) <= 24


def test_prompts_that_cannot_be_continued(model, tokenizer):
    with pytest.raises(InputError, match="the prompt is empty"):
        continue_text(model, tokenizer, "")
    with pytest.raises(InputError, match="has 24 positions; shorten it"):
        continue_text(model, tokenizer, "x" * 50)


def test_loading(tmp_path, model, tokenizer):
    with pytest.raises(InputError, match="no such folder"):
        load_generator(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot load a causal language model"):
        load_generator(str(tmp_path))
    model.save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    loaded, its_tokenizer = load_generator(str(tmp_path / "gpt"), "cpu")
    assert continue_text(loaded, its_tokenizer, "the", top_k=1) == continue_text(model, tokenizer, "the", top_k=1)
