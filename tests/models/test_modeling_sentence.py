import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from hfssl.models import SentenceConfig, SentenceForSequenceClassification, SentenceModel

SMALL = {"vocab_size": 30, "classifier_dim": 7, "num_labels": 3}
CONFIGS = {
    "cbow": SentenceConfig(embedding_dim=8, hidden_size=8, **SMALL),
    "bilstm": SentenceConfig(encoder="bilstm", embedding_dim=8, hidden_size=10, **SMALL),
}
IDS = torch.tensor([[2, 7, 9, 3, 11, 3], [2, 5, 3, 6, 0, 0]])
TYPES = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return SentenceForSequenceClassification(CONFIGS[request.param]).eval().double()


def reference(model, ids, types):
    """One row without padding, by the definition: [u; v; |u - v|; u * v] under the classifier."""
    vectors = model.sentence.embeddings.weight[ids]  # (T, D)
    if model.sentence.lstm is not None:
        vectors = model.sentence.lstm(vectors[None])[0][0]

    def pooled(kind):
        chosen = vectors[types == kind]
        if not len(chosen):
            return torch.zeros(vectors.shape[1], dtype=vectors.dtype)
        return chosen.mean(0) if model.config.encoder == "cbow" else chosen.max(0).values

    u, v = pooled(0), pooled(1)
    return model.classifier(torch.cat([u, v, (u - v).abs(), u * v]))


def test_logits_are_those_of_the_definition_whatever_the_padding(model):
    with torch.no_grad():
        found = model(IDS, MASK, TYPES).logits
        for row, length in enumerate(MASK.sum(1)):
            assert torch.allclose(found[row], reference(model, IDS[row, :length], TYPES[row, :length]), atol=1e-12)
        single = model(IDS, MASK).logits  # one sentence: v is 0
        assert torch.allclose(single[0], reference(model, IDS[0], torch.zeros(6)), atol=1e-12)


def test_a_linear_classifier_on_counted_tokens():
    config = SentenceConfig(embedding_dim=8, hidden_size=8, uncounted_tokens=4, **SMALL | {"classifier_dim": 0})
    model = SentenceForSequenceClassification(config).eval().double()
    assert [type(part) for part in model.classifier] == [torch.nn.Dropout, torch.nn.Linear]
    vectors = model.sentence.embeddings.weight
    u, v = vectors[[7, 9]].mean(0), vectors[11]  # ids below 4 are special
    with torch.no_grad():
        expected = model.classifier(torch.cat([u, v, (u - v).abs(), u * v]))
        assert torch.allclose(model(IDS, MASK, TYPES).logits[0], expected, atol=1e-12)


def test_loss_and_what_learns(model):
    labels = torch.tensor([2, 0])
    loss = model(IDS, MASK, TYPES, labels=labels).loss
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(model(IDS, MASK, TYPES).logits, labels))
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    assert model.sentence.embeddings.weight.grad[0].abs().sum() == 0  # padding


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is SentenceForSequenceClassification
    assert torch.equal(model(IDS, MASK, TYPES).logits, again(IDS, MASK, TYPES).logits)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is SentenceModel
    assert torch.equal(encoder.embeddings.weight, model.sentence.embeddings.weight)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="unknown encoder 'gru'"):
        SentenceConfig(encoder="gru")
    with pytest.raises(ValueError, match="for cbow hidden_size is embedding_dim"):
        SentenceConfig(hidden_size=4)
    with pytest.raises(ValueError, match="an even number"):
        SentenceConfig(encoder="bilstm", hidden_size=5)
