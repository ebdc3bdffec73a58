import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, GPT2Config, GPT2Model

from hfssl.models import HireConfig, HireForSequenceClassification

IDS = torch.tensor([[2, 7, 9, 3, 11, 3], [2, 5, 3, 6, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def encoder(state):
    if state == "first":
        return BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
                                    intermediate_size=8, max_position_embeddings=16))  # fmt: skip
    return GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=3, n_head=2, n_positions=16))


@pytest.fixture(params=["first", "last"])
def model(request):
    torch.manual_seed(0)
    inner = encoder(request.param)
    config = HireConfig(encoder=inner.config, sentence_state=request.param, gru_size=5, num_labels=3)
    return HireForSequenceClassification(config, inner).double().eval()


def read_by_gru(gru, states, direction):
    """The last state (H,) of one direction over (T, D), gate by gate (torch's order: reset, update, new)."""
    given, own, given_bias, own_bias = (
        getattr(gru, f"{kind}_l0{direction}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state = torch.zeros(gru.hidden_size, dtype=states.dtype)
    for one in states.flip(0) if direction else states:
        from_input, from_state = (given @ one + given_bias).chunk(3), (own @ state + own_bias).chunk(3)
        reset, update = torch.sigmoid(from_input[0] + from_state[0]), torch.sigmoid(from_input[1] + from_state[1])
        new = torch.tanh(from_input[2] + reset * from_state[2])
        state = (1 - update) * new + update * state
    return state


def test_logits_against_one_text_at_a_time(model):
    """Without padding, layer by layer, the GRU step by step."""
    with torch.no_grad():
        found = model(IDS, attention_mask=MASK).logits
        for row, length in enumerate(MASK.sum(1)):
            outputs = model.encoder(IDS[row : row + 1, :length], output_hidden_states=True)
            layers = [states[0] for states in outputs.hidden_states[1:]]
            scores = torch.stack([
                model.layer_weights.score(torch.cat([read_by_gru(model.layer_weights.gru, states, direction)
                                                     for direction in ("", "_reverse")]))
                for states in layers
            ])  # fmt: skip
            weights = scores.exp() / scores.exp().sum()
            place = 0 if model.config.sentence_state == "first" else -1
            a = sum(weight * states[place] for weight, states in zip(weights, layers, strict=True))
            r = outputs.last_hidden_state[0, place]
            wanted = model.classifier(torch.tanh(model.fusion(torch.cat([r, a, r + a, r * a]))))
            assert torch.allclose(found[row], wanted, rtol=1e-9, atol=1e-12)


def test_the_weights_of_the_layers_are_each_text_s_own(model):
    layers = torch.randn(4, 2, 6, 8, dtype=torch.float64)
    lengths = torch.tensor([6, 3])
    weights = model.layer_weights(layers, lengths)
    assert weights.shape == (4, 2) and torch.allclose(weights.sum(0), torch.ones(2, dtype=torch.float64))
    assert (weights[:, 0] - weights[:, 1]).abs().min() > 1e-4
    padded = layers.clone()
    padded[:, 1, 3:] = 7.0
    assert torch.equal(model.layer_weights(padded, lengths), weights)
    same = layers[:1].expand(4, -1, -1, -1)
    assert torch.allclose(model.layer_weights(same, lengths), torch.full((4, 2), 0.25, dtype=torch.float64))


def test_every_part_learns(model):
    loss = model(IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss
    logits = model(IDS, attention_mask=MASK).logits
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])))
    loss.backward()
    for part in (model.layer_weights.gru, model.layer_weights.score, model.fusion, model.classifier):
        assert all(weight.grad.norm() > 0 for name, weight in part.named_parameters() if name != "bias")
    torch.manual_seed(0)
    fresh = encoder(model.config.sentence_state).double()
    assert all(torch.equal(weight, model.encoder.state_dict()[name]) for name, weight in fresh.state_dict().items())


def test_saved_and_loaded(model, tmp_path):
    model.float().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is HireForSequenceClassification
    assert type(again.config.encoder) is type(model.config.encoder)
    assert torch.equal(model(IDS, MASK).logits, again(IDS, MASK).logits)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="sentence_state must be one of first, last, not 'middle'"):
        HireConfig(encoder=BertConfig(), sentence_state="middle")
    with pytest.raises(ValueError, match="needs the config of an encoder"):
        HireForSequenceClassification(HireConfig())
