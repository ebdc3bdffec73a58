"""The lecture's CPC loss: a slow loop, its closed forms, NT-Xent as a special case, and the tuple never made."""

import math

import pytest
import torch
import torch.nn.functional as F

from hfssl.models.contrastive import cpc_loss, cpc_loss_in_batch, nt_xent


def tuples(batch=5, candidates=4, dim=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    z_x = torch.randn(batch, dim, generator=generator, dtype=dtype)
    z_y = torch.randn(batch, candidates, dim, generator=generator, dtype=dtype)
    return z_x, z_y, torch.randint(candidates, (batch,), generator=generator)


def slow(z_x, z_y, index):
    total = 0.0
    for x, ys, i in zip(z_x.tolist(), z_y.tolist(), index.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(x, y, strict=True)) for y in ys]
        total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
    return total / len(z_x)


def test_equals_the_slow_loop():
    assert cpc_loss(*tuples()).item() == pytest.approx(slow(*tuples()), abs=1e-12)


def test_closed_forms():
    z_x, z_y, index = tuples(candidates=6)
    assert cpc_loss(z_x, torch.ones_like(z_y), index).item() == pytest.approx(math.log(6), abs=1e-12)
    assert cpc_loss(0 * z_x, z_y, index).item() == pytest.approx(math.log(6), abs=1e-12)
    apart = F.one_hot(index, 6).double()[..., None] * z_x[:, None]  # the partner is x, the distractors are 0
    apart = 1000 * apart / z_x.square().sum(1)[:, None, None]
    assert cpc_loss(z_x, apart, index).item() == pytest.approx(0, abs=1e-12)
    assert cpc_loss(z_x, z_y[:, :1], 0 * index).item() == 0  # nothing to tell it from


def test_the_order_of_the_slots_does_not_matter():
    z_x, z_y, index = tuples()
    order = torch.tensor([2, 0, 3, 1])
    moved = torch.stack([(order == i).nonzero()[0, 0] for i in index])
    assert cpc_loss(z_x, z_y[:, order], moved).item() == pytest.approx(cpc_loss(z_x, z_y, index).item(), abs=1e-14)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_loss_of_cosines_with_2b_minus_1_candidates(temperature):
    h = torch.randn(2, 4, 6, dtype=torch.float64)
    z = (h / (h.norm(dim=-1, keepdim=True) * math.sqrt(temperature))).flatten(0, 1)  # (2B, D)
    rows = torch.arange(8)
    candidates = torch.stack([z[rows != i] for i in range(8)])  # (2B, 2B - 1, D): all but itself
    partner = (rows + 4) % 8
    index = partner - (partner > rows).long()
    assert cpc_loss(z, candidates, index).item() == pytest.approx(nt_xent(*h, temperature).item(), abs=1e-12)


def test_gradients_are_right_numerically():
    z_x, z_y, index = tuples()
    assert torch.autograd.gradcheck(lambda x, y: cpc_loss(x, y, index), (z_x.requires_grad_(), z_y.requires_grad_()))
    x, y = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True).unbind(0)
    assert torch.autograd.gradcheck(cpc_loss_in_batch, (x, y))


def test_in_the_batch_it_is_the_loss_of_the_explicit_tuples():
    """The lecture's process: the partner goes to a random slot among the distractors, the other y of the batch."""
    pairs = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    z_x, z_y = pairs
    candidates, index = [], []
    for b in range(6):
        others = [z_y[j] for j in torch.randperm(6) if j != b]
        slot = int(torch.randint(6, ()))
        candidates.append(torch.stack([*others[:slot], z_y[b], *others[slot:]]))
        index.append(slot)
    explicit = cpc_loss(z_x, torch.stack(candidates), torch.tensor(index))
    implicit = cpc_loss_in_batch(z_x, z_y)
    assert implicit.item() == pytest.approx(explicit.item(), abs=1e-12)
    for got, expected in zip(*(torch.autograd.grad(loss, pairs) for loss in (implicit, explicit)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_half_precision_is_accumulated_in_float32():
    z_x, z_y, index = tuples(candidates=300, dim=64, dtype=torch.bfloat16)
    loss = cpc_loss(z_x, z_y, index)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cpc_loss(z_x.float(), z_y.float(), index))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cpc_loss_in_batch(z_x, z_y[:, 0]), cpc_loss_in_batch(z_x.float(), z_y[:, 0].float()))


def test_bad_input():
    z_x, z_y, index = tuples()
    with pytest.raises(ValueError, match=r"needs \(B, D\), \(B, N, D\) and \(B,\), not \(5, 3\), \(5, 3\), \(5,\)"):
        cpc_loss(z_x, z_y[:, 0], index)
    with pytest.raises(ValueError, match="the B or D of z_x, z_y and index differ"):
        cpc_loss(z_x, z_y, index[:3])
    with pytest.raises(RuntimeError, match="out of bounds"):
        cpc_loss(z_x, z_y, index - 100)
    with pytest.raises(ValueError, match="one shape"):
        cpc_loss_in_batch(z_x, z_x[:3])
    with pytest.raises(ValueError, match="no distractor"):
        cpc_loss_in_batch(z_x[:1], z_x[:1])
