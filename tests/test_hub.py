"""Cards: read back by huggingface_hub, and their loading code runs."""

import re

import pytest
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from hfssl.hub import write_model_card
from hfssl.models import (
    CBOWConfig,
    CBOWForPreTraining,
    ColorizationConfig,
    ColorizationForPreTraining,
    ContextEncoderConfig,
    ContextEncoderForPreTraining,
    SimCLRConfig,
    SimCLRForPreTraining,
)
from hfssl.tokenization import train_bpe
from tests.conftest import TINY_RESNET

RUN = {"dataset": "builtin:prose (train)", "arguments": {"learning_rate": 1e-3, "weight_decay": 0.0}, "seconds": 12.2,
       "hardware": "1 x 2 CPU cores", "metrics": {"eval_loss": 2.5, "eval_runtime": 3.0}}  # fmt: skip


def save_gpt(folder):
    tokenizer = train_bpe(["some text " * 50], 300, show_progress=False)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_simclr(folder):
    kwargs = {"stem_width": 8, "channels": [8, 8, 8, 8]}
    config = SimCLRConfig(backbone="resnet10t", backbone_kwargs=kwargs, image_size=16)
    SimCLRForPreTraining(config).save_pretrained(folder)


def save_colorization(folder):
    ColorizationForPreTraining(ColorizationConfig(**TINY_RESNET)).save_pretrained(folder)


def save_context_encoder(folder):
    ContextEncoderForPreTraining(ContextEncoderConfig(**TINY_RESNET, overlap=2)).save_pretrained(folder)


def save_cbow(folder):
    CBOWForPreTraining(CBOWConfig(vocab_size=3, hidden_size=4)).save_pretrained(folder)


def save_bert(folder):
    config = BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(folder)
    train_bpe(["some text " * 50], 300, "bert", show_progress=False).save_pretrained(folder)


def test_a_card_says_whether_labels_were_used(tmp_path):
    save_simclr(tmp_path)
    for collator, says in (({}, "without labels"), ({"labels": True}, "with labels")):
        write_model_card(tmp_path, RUN | {"collator": collator})
        assert f"Pretrained from scratch, {says}, with hfssl" in (tmp_path / "README.md").read_text()


def test_a_language_models_card_is_of_the_way_it_reads(tmp_path):
    """BERT's net fills in blanks or, trained left to right, writes."""
    save_bert(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for model, tag, paper in (
        (None, "fill-mask", "Deep Bidirectional Transformers"),
        (
            BertLMHeadModel(BertConfig(vocab_size=300, is_decoder=True, **size)),
            "text-generation",
            "Unsupervised Multitask",
        ),
    ):
        if model is not None:
            model.save_pretrained(tmp_path)
        write_model_card(tmp_path, RUN)
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.pipeline_tag == tag and paper in card.content


@pytest.mark.parametrize("save", [save_gpt, save_bert, save_cbow, save_simclr, save_colorization, save_context_encoder])
def test_a_card_says_what_was_done_and_how_to_load_it(tmp_path, save, monkeypatch):
    folder = tmp_path / "model"
    save(folder)
    write_model_card(folder, RUN, [("bits a byte (anchors: byte entropy 4.5)", "2.1")], ["Only a test."])
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and "hfssl" in card.data.tags
    text = card.content
    assert "builtin:prose (train)" in text and "learning_rate: 0.001" in text and "weight_decay" not in text
    assert (
        "12 s on 1 x 2 CPU cores" in text
        and "| loss on held-out data, nats a token, one seed | 2.5000 |" in text
        and "eval_runtime" not in text
    )
    assert "| bits a byte (anchors: byte entropy 4.5) | 2.1 |" in text and "Only a test." in text
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert sum(weight.numel() for weight in names["model"].parameters()) > 0
