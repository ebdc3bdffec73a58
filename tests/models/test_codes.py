"""The co-training objective against a slow loop, its closed forms, the laws of its optimum, and two processes."""

import math

import pytest
import torch
import torch.multiprocessing as mp

from hfssl.models.codes import CodeHeads, Prior, cotraining_loss
from tests.models.cotraining_processes import CASES, process, two_steps

LN2, LN3 = math.log(2), math.log(3)


def logits(batch=6, codes=4, seed=0):
    return torch.randn(2, batch, codes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind(0)


def one_hot(codes, size):
    """Logits of certain codes, in float64."""
    return 1e4 * torch.nn.functional.one_hot(torch.as_tensor(codes), size).double()


def slow(logits_x, logits_y, beta, conditional):
    """The loss with loops over pairs and codes."""
    p, q = (each.softmax(1).tolist() for each in (logits_x, logits_y))
    count, codes = len(p), range(len(p[0]))
    marginal = [sum(row[z] for row in p) / count for z in codes]
    entropy = -sum(row[z] * math.log(marginal[z]) for row in p for z in codes) / count
    told = 0.0
    if conditional == "posterior":
        for x, y in zip(p, q, strict=True):
            told -= sum(x[z] * math.log(y[z]) for z in codes) / count
    else:
        for z in codes:
            for other in codes:
                joint = sum(x[z] * y[other] for x, y in zip(p, q, strict=True)) / count
                of_other = sum(y[other] for y in q) / count
                told -= joint * math.log(joint / of_other)
    return told - (1 - beta) * entropy, entropy, told


@pytest.mark.parametrize("conditional", ["joint", "posterior"])
@pytest.mark.parametrize("beta", [-2.5, 0.0, 0.3, 1.5])
def test_the_loss_is_that_of_a_slow_loop_and_so_is_its_gradient(beta, conditional):
    x, y = logits()
    terms = cotraining_loss(x, y, beta, conditional)
    loss, entropy, told = slow(x, y, beta, conditional)
    assert terms.loss.item() == pytest.approx(loss, abs=1e-12)
    assert (terms.entropy.item(), terms.conditional_entropy.item()) == pytest.approx((entropy, told), abs=1e-12)
    assert terms.information.item() == pytest.approx(entropy - told, abs=1e-12)
    # gradcheck's differences find the inner optimum anew each time; the gradient here holds it fixed.
    inputs = [each.clone().requires_grad_() for each in (x, y)]
    assert torch.autograd.gradcheck(lambda a, b: cotraining_loss(a, b, beta, conditional).loss, inputs)


def test_the_envelope_theorem():
    """The gradient with Psi* held fixed is the total derivative; at another Psi it is not."""
    x, _ = logits()
    x.requires_grad_()
    p = x.softmax(1)
    through = -(p.mean(0) * p.mean(0).log()).sum()  # Psi*(Phi) moves along
    (total,) = torch.autograd.grad(through, x, retain_graph=True)
    (held,) = torch.autograd.grad(cotraining_loss(x, x.detach(), 0.0).entropy, x)
    torch.testing.assert_close(held, total)

    def elsewhere(mean):
        return (mean + 0.3) / (mean + 0.3).sum()

    (other,) = torch.autograd.grad(cotraining_loss(x, x.detach(), prior=elsewhere).entropy, x)
    assert (other - total).abs().max() > 1e-2
    assert not torch.autograd.gradcheck(
        lambda a: cotraining_loss(a, x.detach(), prior=elsewhere).entropy, x, raise_exception=False
    )


@pytest.mark.parametrize("conditional", ["joint", "posterior"])
def test_certain_codes_that_agree_lose_the_price_of_their_entropy(conditional):
    codes = one_hot([0, 0, 1, 2, 2, 2], 5)
    entropy = -(2 * math.log(1 / 3) / 6 + math.log(1 / 6) / 6 + 3 * math.log(0.5) / 6)
    for beta in (-1.0, 0.0, 0.4, 1.1):
        terms = cotraining_loss(codes, codes, beta, conditional)
        assert terms.loss.item() == pytest.approx(-(1 - beta) * entropy, abs=1e-12)
        assert terms.information.item() == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("conditional", ["joint", "posterior"])
def test_uniform_posteriors_tell_nothing(conditional):
    even = torch.zeros(6, 5, dtype=torch.float64)
    terms = cotraining_loss(even, even, 0.7, conditional)
    assert terms.information.item() == pytest.approx(0, abs=1e-12)
    assert terms.entropy.item() == pytest.approx(math.log(5))
    x, y = logits()
    told = cotraining_loss(x, y, conditional=conditional).information
    shuffled = torch.cat([y] * len(x)), x.repeat_interleave(len(y), 0)  # every x with every y: independent
    if conditional == "joint":
        assert told > 1e-3
        assert cotraining_loss(*shuffled).information.item() == pytest.approx(0, abs=1e-12)


# The toy: x and y have six values in three blocks of two. y lies in x's block but for a share `noise`, and then in one
# of the others; within a block it is free.
def toy_pairs(noise):
    """Every pair as often as it is likely; of noise .3: 14 or 3 times."""
    same, other = {0.0: (1, 0), 0.3: (14, 3)}[noise]
    rows = [(x, y) for x in range(6) for y in range(6) for _ in range(same if x // 2 == y // 2 else other)]
    x, y = torch.tensor(rows).T
    return x, y


def partitions(values, codes):
    """All ways to give `values` things at most so many codes, each way once."""
    if not values:
        yield ()
        return
    for begun in partitions(values - 1, codes):
        for code in range(min(codes, max(begun, default=-1) + 2)):
            yield (*begun, code)


def optima(noise, beta, codes=4):
    """J* and the partitions that reach it, by trying all 187."""
    x, y = toy_pairs(noise)
    found = {}
    for partition in partitions(6, codes):
        z = torch.tensor(partition)
        found[partition] = -cotraining_loss(one_hot(z[x], codes), one_hot(z[y], codes), beta).loss.item()
    assert len(found) == 187
    best = max(found.values())
    return best, [partition for partition, value in found.items() if value > best - 1e-9], found


BLOCKS, CONSTANT = (0, 0, 1, 1, 2, 2), (0,) * 6


@pytest.mark.parametrize(("beta", "best"), [(0.2, 0.8789), (0.9, 0.1099), (1.1, 0.0)])
def test_without_noise_the_blocks_are_best_below_beta_1(beta, best):
    value, reached, _ = optima(0.0, beta)
    assert value == pytest.approx(best, abs=5e-5) and value == pytest.approx(max(0, (1 - beta) * LN3))
    assert reached == ([BLOCKS] if beta < 1 else [CONSTANT])


def test_the_code_collapses_at_information_over_entropy():
    x, y = toy_pairs(0.3)
    z = torch.tensor(BLOCKS)
    terms = cotraining_loss(one_hot(z[x], 4), one_hot(z[y], 4))
    assert terms.information.item() == pytest.approx(0.2798, abs=5e-5)
    threshold = terms.information.item() / terms.entropy.item()
    assert threshold == pytest.approx(0.2547, abs=5e-5)
    for beta in (0.2, threshold - 1e-4, threshold + 1e-4, 0.3):
        _, reached, found = optima(0.3, beta)
        assert (found[BLOCKS] > found[CONSTANT]) == (beta < threshold)
        assert reached == ([BLOCKS] if beta < threshold else [CONSTANT])


def test_beta_0_has_ties_which_a_price_breaks_and_a_reward_uses():
    value, reached, _ = optima(0.0, 0.0)
    assert value == pytest.approx(LN3) and len(reached) == 4 and BLOCKS in reached, "a block may be split for nothing"
    for beta in (1e-4, 0.1, 0.5):
        assert optima(0.0, beta)[1] == [BLOCKS]
    value, reached, _ = optima(0.0, -0.5)
    assert value == pytest.approx(1.7634, abs=5e-5) and value == pytest.approx(1.5 * LN3 + LN2 / 6)
    assert len(reached) == 3 and BLOCKS not in reached


@pytest.mark.parametrize(("codes", "batch", "bias"), [(45, 80, -0.319), (10, 256, -0.0177)])
def test_the_entropy_of_a_batch_is_biased(codes, batch, bias):
    """Uniform codes: what a batch has less than ln m, in the mean of many, beside the correction that is reported."""
    generator = torch.Generator().manual_seed(0)
    entropies = []
    for _ in range(1500):
        drawn = torch.randint(codes, (batch,), generator=generator)
        terms = cotraining_loss(one_hot(drawn, codes), one_hot(drawn, codes), conditional="posterior")
        entropies.append(terms.entropy.item())
    found = sum(entropies) / len(entropies) - math.log(codes)
    assert found == pytest.approx(bias, rel=0.02)
    assert terms.entropy_correction.item() == pytest.approx((codes - 1) / (2 * batch))
    assert abs(found + terms.entropy_correction.item()) < 0.15 * abs(bias)
    for inner in ("ema", "adam:2"):  # not fitted to the batch: there is nothing to correct
        assert cotraining_loss(*[torch.zeros(batch, codes)] * 2, prior=Prior(codes, inner)).entropy_correction == 0


def test_adam_is_torch_s():
    mean = torch.tensor([0.1, 0.2, 0.7])
    prior = Prior(3, "adam:4", learning_rate=0.05)
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight], 0.05)
    for step in range(3):
        for _ in range(4):
            optimizer.zero_grad()
            (mean * -weight.log_softmax(0)).sum().backward()
            optimizer.step()
        torch.testing.assert_close(prior(mean), weight.detach().softmax(0), msg=f"step {step}")
    state = prior.state.clone()
    prior.eval()(mean)
    assert torch.equal(prior.state, state), "in evaluation it stays"


def test_the_inner_optimum_is_approached():
    mean = torch.tensor([0.1, 0.2, 0.7])
    assert torch.equal(Prior(3)(mean), mean)
    for inner in ("ema", "adam:2"):
        prior = Prior(3, inner)
        first = prior(mean).clone()
        for _ in range(200):
            last = prior(mean)
        assert (first - mean).abs().max() > 0.1 and (last - mean).abs().max() < 1e-3
    average = Prior(3, "ema", momentum=0.75)
    torch.testing.assert_close(average(mean), 0.75 / 3 + 0.25 * mean)
    average.reset()
    torch.testing.assert_close(average.average, torch.full((3,), 1 / 3))


def test_the_best_head_is_that_of_the_lowest_loss_of_its_size():
    heads = CodeHeads(6, [4, 4, 16], "exact", 0.9, 0.05)
    x = torch.randn(64, 6)
    for number, scale in enumerate((0.0, 9.0, 90.0)):
        torch.nn.init.normal_(heads.heads[number].weight, 0, scale)
    terms = heads.terms(heads(x), heads(x), 0.0, "joint")
    losses = [each.loss.item() for each in terms]
    assert losses[2] < losses[1] < losses[0] and heads.best(2) == 1 and heads.best(3) == 2
    before = heads.running_loss.clone()
    heads.eval().terms(heads(x), heads(x), 0.5, "joint")
    assert torch.equal(heads.running_loss, before)


def test_half_precision_is_accumulated_in_float32():
    x, y = logits(64)
    expected = cotraining_loss(x, y, 0.2).loss
    found = cotraining_loss(x.bfloat16(), y.bfloat16(), 0.2).loss
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected.item(), abs=5e-3)


@pytest.mark.distributed
def test_two_processes_equal_one_for_any_split(tmp_path):
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        for (_, options, inner), (loss, gradients, buffers) in zip(CASES, results, strict=True):
            one_loss, one_gradients, one_buffers = two_steps(inner, options)
            torch.testing.assert_close(loss, one_loss, rtol=0, atol=1e-12)
            torch.testing.assert_close(gradients, one_gradients, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(buffers, one_buffers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [float("nan"), float("inf"), "much", True, None])
def test_a_beta_that_is_no_number_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be a finite number"):
        cotraining_loss(*logits(), beta)


def test_bad_shapes_and_names_are_refused():
    x, y = logits()
    with pytest.raises(ValueError, match=r"two \(B, m\) tensors of one shape, not \(6, 4\) and \(5, 4\)"):
        cotraining_loss(x, y[:5])
    with pytest.raises(ValueError, match="unknown conditional 'both': one of joint, posterior"):
        cotraining_loss(x, y, conditional="both")
