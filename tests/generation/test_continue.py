"""Continuing a prompt, and loading what continues it."""

import pytest
from transformers import BertConfig, BertForMaskedLM

from hfssl.data.layout import Layout
from hfssl.errors import InputError
from hfssl.generation import continue_text, encode_prompt, load_generator, load_layout
from tests.generation.tiny import make_model, make_tokenizer, slow_greedy


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("prompt", ["the cat", "dog", "and the mat sat"])
def test_top_1_is_greedy_without_a_cache(tokenizer, prompt):
    model = make_model()
    found = continue_text(model, tokenizer, prompt, max_new_tokens=8, top_k=1)
    assert len(found.tries) == 10 and len({one.text for one in found.tries}) == 1
    assert found.best.ids == slow_greedy(model, tokenizer(prompt)["input_ids"], 8)


def test_ten_tries_differ_and_the_prompt_is_not_in_them(tokenizer):
    found = continue_text(make_model(), tokenizer, "the cat", max_new_tokens=8)
    assert len({one.text for one in found.tries}) > 5
    assert not any(one.text.startswith("the cat") for one in found.tries)
    assert found.best.score == max(one.score for one in found.tries)


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_loading(kind, tmp_path, tokenizer):
    with pytest.raises(InputError, match="no such folder"):
        load_generator(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot load a language model that generates"):
        load_generator(str(tmp_path))
    model = make_model(kind)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    loaded, its_tokenizer = load_generator(str(tmp_path / "model"), "cpu")
    assert type(loaded) is type(model) and encode_prompt(loaded, its_tokenizer, "the") == tokenizer("the")["input_ids"]
    assert continue_text(loaded, its_tokenizer, "the", 3) == continue_text(model, tokenizer, "the", 3)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot load a language model that generates"):
        load_generator(str(tmp_path / "model"))


def test_a_masked_model_is_refused(tmp_path, tokenizer):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a masked language model, BertForMaskedLM"):
        load_generator(str(tmp_path))


def test_layouts_are_of_the_task(tmp_path):
    assert load_layout(str(tmp_path), ("translation",)) is None
    with pytest.raises(InputError, match="has no conditional"):
        load_layout(str(tmp_path), ("commonsense",), needed=True)
    with pytest.raises(InputError, match="no such folder"):
        load_layout(str(tmp_path / "nothing"), ("translation",))
    layout = Layout("translation")
    layout.save(tmp_path)
    assert load_layout(str(tmp_path), ("pairs", "translation")) == layout
    with pytest.raises(InputError, match="is a model of translation, not of dialogue"):
        load_layout(str(tmp_path), ("dialogue",))
