import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, GPT2Config, GPT2Model

from hfssl.models import SpanConfig, SpanForSequenceClassification

IDS = torch.tensor([[2, 7, 9, 3, 11, 3], [2, 5, 3, 6, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
SPANS = torch.tensor([[[1, 3], [4, 5]], [[1, 2], [1, 4]]])


def encoder(state):
    if state == "first":
        return BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                    intermediate_size=8, max_position_embeddings=16))  # fmt: skip
    return GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16))


@pytest.fixture(params=["first", "last"])
def model(request):
    torch.manual_seed(0)
    inner = encoder(request.param)
    config = SpanConfig(encoder=inner.config, sentence_state=request.param, num_labels=2)
    return SpanForSequenceClassification(config, inner).eval()


def test_logits_are_a_linear_layer_on_the_sentence_and_the_means_of_the_spans(model):
    with torch.no_grad():
        found = model(IDS, SPANS, attention_mask=MASK).logits
        for row, length in enumerate(MASK.sum(1)):
            states = model.encoder(IDS[row : row + 1, :length]).last_hidden_state[0]
            sentence = states[0] if model.config.sentence_state == "first" else states[-1]
            spans = [states[first:after].mean(0) for first, after in SPANS[row]]
            wanted = model.classifier(torch.cat([sentence, *spans]))
            assert torch.allclose(found[row], wanted, atol=1e-5)


@pytest.mark.parametrize("state", ["first", "last", "mean"])
def test_without_spans_it_is_a_linear_layer_on_the_state_of_the_row(state, tmp_path):
    inner = encoder("first")
    model = SpanForSequenceClassification(SpanConfig(encoder=inner.config, num_spans=0, sentence_state=state), inner)
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found = model(IDS, attention_mask=MASK).logits
        for row, length in enumerate(MASK.sum(1)):
            states = inner(IDS[row : row + 1, :length]).last_hidden_state[0]
            pooled = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[state]
            assert torch.allclose(found[row], model.classifier(pooled), atol=1e-5)
        assert torch.allclose(model(IDS[:1]).logits[0], found[0], atol=1e-6), "without a mask no token is padding"
        assert torch.equal(again(IDS, attention_mask=MASK).logits, found)


def test_an_encoder_keeps_its_weights_and_learns(model):
    torch.manual_seed(0)
    fresh = encoder(model.config.sentence_state)
    assert all(torch.equal(weight, model.encoder.state_dict()[name]) for name, weight in fresh.state_dict().items())
    loss = model(IDS, SPANS, attention_mask=MASK, labels=torch.tensor([0, 1])).loss
    logits = model(IDS, SPANS, attention_mask=MASK).logits
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])))
    loss.backward()
    assert model.classifier.weight.grad.norm() > 0
    first_layer = next(
        weight for name, weight in model.encoder.named_parameters() if "query" in name or "c_attn" in name
    )
    assert first_layer.grad.norm() > 0


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is SpanForSequenceClassification
    assert type(again.config.encoder) is type(model.config.encoder)
    assert torch.equal(model(IDS, SPANS, MASK).logits, again(IDS, SPANS, MASK).logits)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="sentence_state must be one of first, last, mean, not 'middle'"):
        SpanConfig(encoder=BertConfig(), sentence_state="middle")
    with pytest.raises(ValueError, match="needs the config of an encoder"):
        SpanForSequenceClassification(SpanConfig())
