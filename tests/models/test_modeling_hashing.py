"""Document hashing: both entropies beside sums over all codes, what the halves share, and what is saved."""

import itertools
import math

import pytest
import torch
from transformers import AutoModelForPreTraining

from hfssl.models import HashingConfig, HashingForPreTraining
from hfssl.models.modeling_hashing import hashing_conditional_entropy, markov_entropy


def make(**settings):
    torch.manual_seed(0)
    return HashingForPreTraining(HashingConfig(**{"vocab_size": 50, "num_bits": 5, "hidden_size": 8} | settings))


def all_codes(probabilities):
    """Every code of m bits with its probability in each row: (2^m, m) and (B, 2^m)."""
    codes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=probabilities.shape[1])), dtype=torch.float64)
    each = torch.where(codes[None] == 1, probabilities[:, None], 1 - probabilities[:, None])
    return codes, each.prod(-1)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 7])
def test_the_markov_entropy_is_that_of_the_best_chain(order):
    """By all codes: E -ln P(z) with P(z_i | the bits before) counted from the mean distribution."""
    probabilities = torch.rand(6, 4, dtype=torch.float64)
    codes, each = all_codes(probabilities)
    mean = each.mean(0)  # (16,)
    expected = 0.0
    for code, share in zip(codes, mean, strict=True):
        for bit in range(4):
            before = code[max(0, bit - order) : bit]
            same = (codes[:, max(0, bit - order) : bit] == before).all(1)
            told = mean[same & (codes[:, bit] == code[bit])].sum() / mean[same].sum()
            expected -= float(share * told.log())
    assert float(markov_entropy(probabilities, order)) == pytest.approx(expected, abs=1e-12)
    if order >= 3:
        assert expected == pytest.approx(float(-(mean * mean.log()).sum()), abs=1e-9), "any distribution"


def test_closed_forms():
    even = torch.full((3, 4), 0.5, dtype=torch.float64)
    assert float(markov_entropy(even, 3)) == pytest.approx(4 * math.log(2))
    bits = torch.tensor([[0.0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    assert float(markov_entropy(bits, 2)) == pytest.approx(math.log(2)), "one bit, told three times"
    assert float(markov_entropy(bits, 0)) == pytest.approx(3 * math.log(2)), "by itself each bit is even"
    logits = 50 * (2 * bits - 1)
    assert float(hashing_conditional_entropy(logits, logits)) == pytest.approx(0, abs=1e-9)
    x, y = torch.randn(2, 4, 3, dtype=torch.float64)
    p, q = x.sigmoid(), y.sigmoid()
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).sum(1).mean()
    torch.testing.assert_close(hashing_conditional_entropy(x, y), expected)


def test_gradients_are_those_of_the_minimum():
    """The envelope theorem: the tables get no gradient, and the value's gradient is right all the same."""
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: markov_entropy(x.sigmoid(), 2), logits)
    other = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hashing_conditional_entropy, (logits, other))


def test_the_loss_is_symmetric_and_padding_says_nothing():
    model = make(beta=-0.5).eval()
    ids = torch.randint(0, 50, (4, 2, 7))
    mask = (torch.rand(4, 2, 7) > 0.3).long()
    mask[..., 0] = 1
    output = model(ids, mask)
    turned = model(ids.flip(1), mask.flip(1))
    torch.testing.assert_close(output.loss, turned.loss)
    torch.testing.assert_close(output.loss, -output.information - 0.5 * output.entropy, rtol=1e-5, atol=1e-5)
    other = torch.where(mask == 1, ids, 49 - ids)
    torch.testing.assert_close(model(other, mask).codes, output.codes)
    assert model(ids[:, 0], mask[:, 0]).loss is None
    torch.testing.assert_close(model(ids[:, 0], mask[:, 0]).codes, output.codes[:, 0])
    order = torch.randperm(7)
    torch.testing.assert_close(model(ids[..., order], mask[..., order]).codes, output.codes)


def test_rare_tokens_weigh_more_and_the_weights_are_saved(tmp_path):
    model = make().eval()
    model.set_token_weights(torch.arange(50), 50)
    assert float(model.token_weights[0]) == pytest.approx(math.log(51) + 1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.token_weights, model.token_weights)
    ids = torch.randint(0, 50, (3, 6))
    assert torch.equal(loaded(ids).codes, model(ids).codes)


def test_halves_of_topics_share_their_bits():
    """Documents of four topics: a few steps, and the bits tell them apart."""
    torch.manual_seed(1)
    topics = torch.arange(64) % 4
    ids = 10 * topics[:, None, None] + torch.randint(0, 10, (64, 2, 12))
    model = make(num_bits=4, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        loss = model(ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = model.eval()(ids[:, 0]).codes > 0.5
    assert torch.equal(bits, model(ids[:, 1]).codes > 0.5)
    assert len({tuple(row.tolist()) for row in bits}) == 4
    assert all(len({tuple(row.tolist()) for row in bits[topics == topic]}) == 1 for topic in range(4))


@pytest.mark.parametrize(
    "settings", [{"num_bits": 0}, {"markov_order": 11}, {"beta": math.nan}, {"markov_order": -1}, {"hidden_size": 1.5}]
)
def test_bad_settings(settings):
    with pytest.raises(Exception, match=next(iter(settings))):
        make(**settings)


def test_three_parts_are_no_halves():
    with pytest.raises(ValueError, match="two halves, not 3"):
        make()(torch.zeros(2, 3, 4, dtype=torch.long))
