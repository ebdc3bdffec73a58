"""What the classifiers share: the encoder made of its config, what is copied beside the weights, and the loss."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel

from hfssl.models import (
    HireConfig,
    HireForSequenceClassification,
    SentenceConfig,
    SentenceForSequenceClassification,
    SentenceModel,
    SpanConfig,
    SpanForSequenceClassification,
)

BERT = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
                  max_position_embeddings=16)  # fmt: skip
WORDS = SentenceConfig(vocab_size=20, embedding_dim=8, hidden_size=8)
IDS = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 6], [4, 4, 8, 1]])


def hire(**more):
    return HireForSequenceClassification(HireConfig(encoder=BERT, gru_size=5, **more))


def pooled(**more):
    return SpanForSequenceClassification(SpanConfig(encoder=BERT, num_spans=0, **more))


def sentence(**more):
    config = SentenceConfig(vocab_size=20, embedding_dim=8, hidden_size=8, classifier_dim=7, **more)
    return SentenceForSequenceClassification(config)


@pytest.mark.parametrize("make", [hire, pooled, sentence])
def test_the_loss_is_the_mean_over_texts_and_of_one_label_the_squared_error(make):
    torch.manual_seed(0)
    model = make(num_labels=3).eval()
    logits, labels = model(IDS).logits, torch.tensor([2, 0, 0])
    wanted = -sum(row.log_softmax(0)[label] for row, label in zip(logits, labels, strict=True)) / 3
    assert torch.allclose(model(IDS, labels=labels).loss, wanted)
    model = make(num_labels=1).eval()
    logits, scores = model(IDS).logits, torch.tensor([0.5, 4.0, 2.5])
    wanted = sum((row[0] - score) ** 2 for row, score in zip(logits, scores, strict=True)) / 3
    assert torch.allclose(model(IDS, labels=scores).loss, wanted)
    assert model(IDS).loss is None and model.config.problem_type is None, (
        "the loss is not told by a guess that is saved"
    )


@pytest.mark.parametrize("make", [hire, pooled])
def test_an_encoder_is_made_of_its_config_and_another_is_taken_as_it_is(make):
    model = make()
    assert type(model.encoder) is BertModel and model.encoder.config.num_hidden_layers == 2
    given = BertModel(BERT)
    assert type(model)(model.config, given).encoder is given


@pytest.mark.parametrize("kind", [BERT, WORDS])
def test_an_encoder_s_dictionary_is_its_config(kind):
    config = SpanConfig(encoder=kind.to_dict(), num_spans=0)
    assert type(config.encoder) is type(kind) and config.get_text_config() is config.encoder
    model = SpanForSequenceClassification(config)
    assert type(model.encoder) is (SentenceModel if kind is WORDS else BertModel)


@pytest.mark.parametrize(("make", "module"), [(hire, "modeling_hire"), (pooled, "modeling_span")])
def test_the_shared_code_travels_with_the_weights(make, module, tmp_path):
    make().save_pretrained(tmp_path)
    code = {path.name for path in tmp_path.glob("*.py")}
    assert code == {f"{module}.py", "encoder_head.py", "classification.py", "modeling_sentence.py"}
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {name.partition(".")[0] for name in auto_map.values()} == {module}
    assert set(auto_map) == {"AutoConfig", "AutoModelForSequenceClassification"}
