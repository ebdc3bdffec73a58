"""`hfssl perplexity`: a saved model scored on a text, against the stock model's own loss and a loop over tokens."""

import json
import math
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
)

from eval.run_perplexity import main
from hfssl.evaluation.language import load_language_model
from hfssl.models.modeling_lm import BertForTraining, GPT2ForTraining, language_model
from hfssl.tokenization import load_tokenizer, train_bpe

TEXT = "the cat sat on the mat and the dog sat on the log; " * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT and a BERT with tokenizers, and a text."""
    root = tmp_path_factory.mktemp("language")
    (root / "text.txt").write_text(TEXT)
    torch.manual_seed(0)
    for style in ("gpt2", "bert"):
        tokenizer = train_bpe([TEXT], 300, style, show_progress=False)
        tokenizer.save_pretrained(root / style)
        size = {"vocab_size": len(tokenizer)}
        if style == "gpt2":
            end = tokenizer.eos_token_id
            small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": end}
            config = GPT2Config(**size, **small, eos_token_id=end)
        else:
            small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
            config = BertConfig(**size, **small, max_position_embeddings=64)
        language_model(config).save_pretrained(root / style)
    return root


def run(folder, style, *arguments):
    out = folder / f"{style}.json"
    main(["--model", str(folder / style), "--eval_text_path", str(folder / "text.txt"), "--out", str(out), *arguments])
    return json.loads(out.read_text())["rows"][0]


def test_a_causal_model_has_the_stock_model_s_loss(folder):
    found = run(folder, "gpt2", "--block_size", "16", "--batch_size", "3")
    tokenizer, model = load_tokenizer(str(folder / "gpt2")), AutoModelForCausalLM.from_pretrained(folder / "gpt2")
    ids = torch.tensor(tokenizer(TEXT)["input_ids"] + [tokenizer.eos_token_id])
    blocks = ids[: len(ids) // 16 * 16].view(-1, 16)
    with torch.no_grad():
        loss = float(model.eval()(blocks, labels=blocks).loss)
    assert found["loss"] == pytest.approx(loss, rel=1e-5) and found["tokens"] == 15 * len(blocks)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) * len(ids) / len(TEXT), rel=1e-5)


def test_a_masked_model_and_its_pseudo_perplexity(folder):
    found = run(folder, "bert", "--block_size", "18", "--pseudo_blocks", "2")
    assert found["tokens"] > 0 and "bits_per_byte" not in found
    tokenizer, model = load_tokenizer(str(folder / "bert")), AutoModelForMaskedLM.from_pretrained(folder / "bert")
    ids, total = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"])[:32], 0.0
    with torch.no_grad():
        for block in ids.view(2, 16):
            whole = torch.cat([torch.tensor([tokenizer.cls_token_id]), block, torch.tensor([tokenizer.sep_token_id])])
            for place in range(1, 17):
                hidden = whole.clone()
                hidden[place] = tokenizer.mask_token_id
                total -= float(model.eval()(hidden[None]).logits[0, place].log_softmax(0)[whole[place]])
    assert found["pseudo_perplexity"] == pytest.approx(math.exp(total / 32), rel=1e-4)


def test_what_hfssl_trains_comes_as_its_training_class(folder):
    assert type(load_language_model(str(folder / "gpt2"))[0]) is GPT2ForTraining
    model, _, masked = load_language_model(str(folder / "bert"))
    assert type(model) is BertForTraining and masked and isinstance(model, BertForMaskedLM)


@pytest.mark.parametrize(
    ("style", "arguments", "message"),
    [
        ("gpt2", ["--pseudo_blocks", "1"], "--pseudo_blocks is for masked models"),
        ("gpt2", ["--block_size", "65"], "--block_size 65 is over the 64 positions"),
        ("gpt2", ["--batch_size", "0"], "must be at least 1"),
        ("nothing", [], "no such tokenizer folder"),
    ],
)
def test_bad_input(folder, capsys, style, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        run(folder, style, *arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_classifier_is_no_language_model(folder, tmp_path, capsys):
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bert" / file).write_bytes((folder / "bert" / file).read_bytes())
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(SystemExit):
        run(tmp_path, "bert")
    assert "is no language model but a BertForSequenceClassification" in capsys.readouterr().err


def test_damaged_weights_and_a_folder_that_cannot_be_written(folder, tmp_path, capsys):
    shutil.copytree(folder / "gpt2", tmp_path / "gpt2")
    (tmp_path / "text.txt").write_text(TEXT)
    weights = tmp_path / "gpt2" / "model.safetensors"
    flags = ["--model", str(tmp_path / "gpt2"), "--eval_text_path", str(tmp_path / "text.txt")]
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--out", "/proc/nope/scores.json"])
    assert stopped.value.code == 2 and "cannot write /proc/nope/scores.json" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2 and "cannot load a language model from" in capsys.readouterr().err
