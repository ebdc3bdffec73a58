"""Samples and the diagnosis of a run that learns nothing, on a GPT trained by its recipe."""

import json
import runpy

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from hfssl.data.corpus import build_corpus
from hfssl.errors import InputError
from hfssl.generation import continue_text
from hfssl.programs import program
from hfssl.tokenization import train_bpe
from hfssl.training.callbacks import Samples, duplicate_lines
from tests.data.test_corpus import Documents
from tests.training.test_run import tiny_gpt


def train(tmp_path, *flags):
    main = runpy.run_path(str(program("recipes/pretrain_gpt.py")))["main"]
    flags = ["--max_steps", "12", "--eval_fraction", "0.01", "--use_cpu", *flags]
    main(["--config", str(program("recipes/smoke/gpt.yaml")), "--output_dir", str(tmp_path / "out"), *flags])
    return json.loads((tmp_path / "out" / "log_history.json").read_text())


def test_samples_every_so_often_and_the_training_is_the_same(tmp_path, capsys):
    without = train(tmp_path / "without")
    prompts = ["The function", "A"]
    history = train(tmp_path / "with", "--sample_prompts", *prompts, "--sample_steps", "5")
    samples = [entry for entry in history if "samples" in entry]
    assert [entry["step"] for entry in samples] == [5, 10, 12]
    assert all(list(entry["samples"]) == prompts for entry in samples)
    folder = tmp_path / "with" / "out"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    said = capsys.readouterr().err
    for prompt, text in samples[-1]["samples"].items():
        assert text == continue_text(model, tokenizer, prompt, 1, max_new_tokens=40, seed=42).best.text
        assert f"step 12: {prompt}|{text}" in said

    card = (folder / "README.md").read_text()
    for prompt, text in samples[-1]["samples"].items():
        assert f"    {prompt}|{text}".replace("\n", "\n    ") in card
    assert (
        card.count("## Samples") == 1 and "## Samples" not in (tmp_path / "without" / "out" / "README.md").read_text()
    )

    def losses(entries):
        return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]

    assert losses(history) == losses(without)


@pytest.mark.parametrize(("prompt", "message"), [("", "the prompt is empty"), ("word " * 200, "positions; shorten it")])
def test_a_prompt_that_cannot_be_continued_is_refused_before_training(tmp_path, capsys, prompt, message):
    with pytest.raises(SystemExit) as left:
        train(tmp_path, "--sample_prompts", prompt)
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_a_bert_continues_nothing():
    model = BertForMaskedLM(BertConfig(vocab_size=24, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(InputError, match="BertForMaskedLM does not"):
        Samples(model, None, ["a"])
    Samples(tiny_gpt(), None, [])


def test_a_run_that_learns_nothing_says_what_may_be_wrong(tmp_path, capsys):
    train(tmp_path, "--learning_rate", "1e-9", "--diagnosis_steps", "4", "--logging_steps", "2", "--warmup_steps", "0")
    said = [line for line in capsys.readouterr().err.splitlines() if "is still that of the unigram" in line]
    assert len(said) == 1 and said[0].startswith("After 4 steps the loss, 7.")
    assert "The batch is 8 blocks, 1,024 tokens; the learning rate" in said[0] and "at most 1e-09" in said[0]
    assert "duplicate documents " in said[0] and "%, lines " in said[0]


def test_duplicate_lines(tmp_path):
    """Of the lines a, b, a, c, a two say what an earlier one said; blank ones do not count."""
    tokenizer = train_bpe(["a b c"], 300, show_progress=False)
    texts = Documents(["a\n\n b\na", "c\na "])
    corpus = build_corpus(texts, tokenizer, tmp_path / "corpus", tokenizer.eos_token_id)
    assert duplicate_lines(corpus, tokenizer) == pytest.approx(2 / 5)
    assert duplicate_lines(corpus, tokenizer, limit=3) == 0


def test_a_run_that_learns_says_nothing(tmp_path, capsys):
    train(tmp_path, "--max_steps", "80", "--learning_rate", "3e-3", "--diagnosis_steps", "60", "--logging_steps", "2")
    assert "unigram" not in capsys.readouterr().err.replace("unigram loss", "")
