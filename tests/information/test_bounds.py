"""The estimators on score matrices: slow references in float64, identities, the optimal critic's rows, what is free."""

import math

import pytest
import torch

from hfssl.errors import InputError
from hfssl.information import doe, doe_logistic, dv, infonce, interpolated, lecture, mine, nwj, nwj_js, tuba
from hfssl.information.bounds import js_loss
from hfssl.information.truth import (
    gaussian_information,
    gaussian_pairs,
    gaussian_reverse_kl,
    gaussian_scores,
    lecture_bound,
)
from hfssl.models.contrastive import cpc_loss_in_batch


def scores_of(count=7, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, count, dtype=torch.float64, generator=generator)


def baseline_of(count=7):
    return torch.linspace(-1, 1.5, count, dtype=torch.float64)


def pairs_and_others(scores):
    rows = scores.tolist()
    count = len(rows)
    return [rows[i][i] for i in range(count)], [rows[i][j] for i in range(count) for j in range(count) if i != j]


def average(values):
    return sum(values) / len(values)


def slow_infonce(scores, baseline):
    terms = [row[i] - math.log(sum(math.exp(value) for value in row)) for i, row in enumerate(scores.tolist())]
    return math.log(len(terms)) + average(terms)


def slow_lecture(scores, baseline):
    pairs, others = pairs_and_others(scores)
    count = len(pairs)
    return math.log(count) - (count - 1) / count * (average(pairs) - average(others))


def slow_dv(scores, baseline):
    pairs, others = pairs_and_others(scores)
    return average(pairs) - math.log(average([math.exp(value) for value in others]))


def slow_nwj(scores, baseline):
    pairs, others = pairs_and_others(scores)
    return average(pairs) - average([math.exp(value - 1) for value in others])


def slow_js(scores, baseline):
    pairs, others = pairs_and_others(scores)
    return average([math.log1p(math.exp(-s)) for s in pairs]) + average([math.log1p(math.exp(s)) for s in others])


def slow_tuba(scores, baseline):
    rows, a = scores.tolist(), [math.exp(value) for value in baseline.tolist()]
    count = len(rows)
    pairs = [rows[i][i] - math.log(a[i]) for i in range(count)]
    return (
        1
        + average(pairs)
        - average([math.exp(rows[i][j]) / a[i] for i in range(count) for j in range(count) if i != j])
    )


def slow_interpolated(scores, baseline, alpha):
    e, a = scores.exp().tolist(), baseline.exp().tolist()
    count, pairs, others = len(e), [], []
    for i in range(count):
        pairs.append(math.log(e[i][i] / (alpha * average(e[i]) + (1 - alpha) * a[i])))
        rest = [e[i][j] for j in range(count) if j != i]
        others += [value / (alpha * average(rest) + (1 - alpha) * a[i]) for value in rest]
    return 1 + average(pairs) - average(others)


CASES = {
    "infonce": (lambda s, b: infonce(s), slow_infonce),
    "lecture": (lambda s, b: lecture(s), slow_lecture),
    "dv": (lambda s, b: dv(s), slow_dv),
    "mine": (lambda s, b: mine(s)[0], slow_dv),
    "nwj": (lambda s, b: nwj(s), slow_nwj),
    "js_loss": (lambda s, b: js_loss(s), slow_js),
    "nwj_js": (lambda s, b: nwj_js(s), lambda s, b: slow_nwj(s + 1, b)),
    "tuba": (tuba, slow_tuba),
    "interpolated 0.3": (lambda s, b: interpolated(s, b, 0.3), lambda s, b: slow_interpolated(s, b, 0.3)),
    "interpolated 0.01": (lambda s, b: interpolated(s, b, 0.01), lambda s, b: slow_interpolated(s, b, 0.01)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_slow_reference(name):
    fast, slow = CASES[name]
    for count, seed in ((2, 1), (7, 0), (12, 2)):
        scores, baseline = scores_of(count, seed=seed), baseline_of(count)
        assert float(fast(scores, baseline)) == pytest.approx(slow(scores, baseline), abs=1e-10)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("mine", "nwj_js")])  # whose loss is another
def test_gradients(name):
    scores, baseline = scores_of(5).requires_grad_(), baseline_of(5).requires_grad_()
    inputs = (scores, baseline) if "tuba" in name or "interpolated" in name else (scores,)
    assert torch.autograd.gradcheck(lambda s, b=baseline: CASES[name][0](s, b), inputs)


def gradient(function, scores):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(function(scores), scores)[0]


def test_a_critic_of_jensen_and_shannon_learns_by_the_logistic_loss():
    torch.testing.assert_close(gradient(nwj_js, scores_of()), -gradient(js_loss, scores_of()))


def test_mine_with_a_carry_of_0_is_dv_also_in_its_gradient():
    earlier = mine(scores_of(seed=3))[1]
    value, running = mine(scores_of(), earlier, carry=0)
    assert float(value) == pytest.approx(float(dv(scores_of())), abs=1e-12)
    assert float(running) == pytest.approx(float(mine(scores_of())[1]), abs=1e-12)
    torch.testing.assert_close(gradient(lambda s: mine(s, earlier, 0)[0], scores_of()), gradient(dv, scores_of()))


def test_mine_divides_by_the_moving_average():
    """Its gradient is that of E f - E' exp f / average, its value E f - ln average (slow, over three batches)."""
    average_so_far, running = None, None
    for seed in range(3):
        scores = scores_of(seed=seed)
        pairs, others = pairs_and_others(scores)
        here = average([math.exp(value) for value in others])
        average_so_far = here if average_so_far is None else 0.8 * average_so_far + 0.2 * here
        value, fresh = mine(scores, running, carry=0.8)
        assert float(value) == pytest.approx(average(pairs) - math.log(average_so_far), abs=1e-10)

        def surrogate(s, divisor=average_so_far):
            off = ~torch.eye(len(s), dtype=bool)
            return s.diagonal().mean() - s[off].exp().mean() / divisor

        before = running
        torch.testing.assert_close(
            gradient(lambda s, before=before: mine(s, before, 0.8)[0], scores), gradient(surrogate, scores)
        )
        running = fresh


def test_the_ends_of_the_interpolation_and_a_constant_baseline():
    scores, baseline, e = scores_of(), baseline_of(), torch.ones(7, dtype=torch.float64)
    assert float(interpolated(scores, baseline, 1)) == pytest.approx(float(infonce(scores)), abs=1e-12)
    assert float(interpolated(scores, baseline, 1 - 1e-13)) == pytest.approx(float(infonce(scores)), abs=1e-9)
    assert float(interpolated(scores, e, 0)) == pytest.approx(float(nwj(scores)), abs=1e-12)
    assert float(interpolated(scores, baseline, 0)) == pytest.approx(float(tuba(scores, baseline)), abs=1e-12)
    assert float(tuba(scores, e)) == pytest.approx(float(nwj(scores)), abs=1e-12)


@pytest.mark.parametrize("count", [2, 5, 64])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_infonce_is_and_the_interpolated_bound_have_ceilings(count, scale):
    for seed in range(5):
        scores = scores_of(count, scale, seed) + scale * 5 * torch.eye(count)
        assert float(infonce(scores)) <= math.log(count) + 1e-6
        for alpha in (0.01, 0.5):
            ceiling = 1 + math.log(count / alpha) + 1e-6
            assert float(interpolated(scores, torch.ones(count, dtype=torch.float64), alpha)) <= ceiling
        # on the same scores the lecture's bound is under the loss, whatever the critic
        assert float(lecture(scores)) <= math.log(count) - float(infonce(scores)) + 1e-9


def test_infonce_is_ln_n_less_the_lectures_cpc_loss():
    z_x, z_y = torch.randn(9, 4), torch.randn(9, 4)
    expected = math.log(9) - cpc_loss_in_batch(z_x, z_y)
    assert float(infonce(z_x @ z_y.T)) == pytest.approx(float(expected), abs=1e-6)


def test_what_a_critic_is_free_to_add():
    """A function of x changes neither infonce nor the lecture's bound; a constant changes no dv; both change nwj."""
    scores, of_x = scores_of(), baseline_of()[:, None]
    assert float(infonce(scores + of_x)) == pytest.approx(float(infonce(scores)), abs=1e-12)
    assert float(lecture(scores + of_x)) == pytest.approx(float(lecture(scores)), abs=1e-12)
    assert float(tuba(scores + of_x, of_x[:, 0])) == pytest.approx(float(tuba(scores, 0 * of_x[:, 0])), abs=1e-12)
    assert float(dv(scores + 3)) == pytest.approx(float(dv(scores)), abs=1e-12)
    assert abs(float(nwj(scores + 3)) - float(nwj(scores))) > 0.1


def batches(dimensions, rho, candidates, count):
    """Score matrices of the best critic on fresh Gaussian pairs."""
    x, y = (part.double() for part in gaussian_pairs(candidates * count, dimensions, rho, seed=7))
    return [gaussian_scores(a, b, rho) for a, b in zip(x.split(candidates), y.split(candidates), strict=True)]


@pytest.mark.parametrize(
    ("dimensions", "rho", "candidates", "expected"),  # reference/methods.md d: ln N - L of the best critic
    [(1, 0.9, 64, 4.1589 - 3.352), (20, 0.5, 512, 2.72), (20, 0.9, 512, 6.235), (128, 0.5, 512, 6.233)],
)
def test_the_best_critic_on_gaussians(dimensions, rho, candidates, expected):
    found = torch.stack([infonce(scores) for scores in batches(dimensions, rho, candidates, 40)])
    error = float(found.std() / len(found) ** 0.5)
    assert float(found.mean()) == pytest.approx(expected, abs=3 * error + 0.016)
    assert float(found.max()) <= math.log(candidates) + 1e-6
    truth = gaussian_information(dimensions, rho)
    assert float(found.mean()) <= truth + 3 * error
    # the loss lies over the lecture's bound, which is itself under ln N - I
    bound = lecture_bound(truth, gaussian_reverse_kl(dimensions, rho), candidates)
    assert math.log(candidates) - float(found.mean()) >= bound
    assert bound < math.log(candidates) - truth


def test_the_best_critic_gives_each_bound_its_truth():
    scores = batches(1, 0.6, 64, 200)
    truth, jeffreys = gaussian_information(1, 0.6), 0.36 / 0.64
    for name, values in {
        "nwj": [nwj(each + 1) for each in scores],
        "nwj_js": [nwj_js(each) for each in scores],
        "tuba": [tuba(each + 5, torch.full((64,), 5.0, dtype=torch.float64)) for each in scores],
        "dv": [dv(each) for each in scores],
        "interpolated": [interpolated(each + 1, torch.ones(64, dtype=torch.float64), 0) for each in scores],
    }.items():
        values = torch.stack(values)
        error = float(values.std()) / len(values) ** 0.5
        assert float(values.mean()) == pytest.approx(truth, abs=3 * error), name
    bound = torch.stack([lecture(each) for each in scores])
    expected = math.log(64) - 63 / 64 * jeffreys
    assert float(bound.mean()) == pytest.approx(expected, abs=3 * float(bound.std()) / len(bound) ** 0.5)


def test_doe_is_the_difference_of_torchs_own_densities():
    y, mean, log_scale = torch.randn(50, 3), torch.randn(50, 3), 0.3 * torch.randn(50, 3)
    marginal = torch.tensor([0.1, -0.2, 0.0]), torch.tensor([0.2, 0.0, -0.1])
    normal = torch.distributions.Normal
    expected = normal(mean, log_scale.exp()).log_prob(y).sum(1) - normal(marginal[0], marginal[1].exp()).log_prob(
        y
    ).sum(1)
    assert float(doe(y, marginal, (mean, log_scale))) == pytest.approx(float(expected.mean()), abs=1e-5)

    def logistic(mean, log_scale):
        base = torch.distributions.Uniform(torch.zeros(3), torch.ones(3))
        steps = [
            torch.distributions.SigmoidTransform().inv,
            torch.distributions.AffineTransform(mean, log_scale.exp()),
        ]
        return torch.distributions.TransformedDistribution(base, steps).log_prob(y).sum(1)

    expected = logistic(mean, log_scale) - logistic(*marginal)
    assert float(doe_logistic(y, marginal, (mean, log_scale))) == pytest.approx(float(expected.mean()), abs=1e-4)


def test_the_difference_of_entropies_of_the_true_densities_is_the_information():
    x, y = gaussian_pairs(40_000, 3, 0.7, seed=1)
    conditional = 0.7 * x, torch.full_like(x, 0.5 * math.log(1 - 0.49))
    found = doe(y, (torch.zeros(3), torch.zeros(3)), conditional)
    assert float(found) == pytest.approx(gaussian_information(3, 0.7), abs=0.02)


def test_supports_that_differ_give_minus_infinity_and_no_nan():
    scores = scores_of(4)
    scores[0, 2] = -math.inf  # a pair that never occurs
    assert float(lecture(scores)) == -math.inf
    apart = torch.where(torch.eye(4, dtype=bool), 1.0, -math.inf)  # only their own
    assert float(lecture(apart)) == -math.inf
    assert float(infonce(apart)) == pytest.approx(math.log(4))
    one = torch.ones(4)
    for each in (infonce, lecture, dv, nwj, nwj_js, lambda s: mine(s)[0], lambda s: tuba(s, one),
                 lambda s: interpolated(s, one, 0.5)):  # fmt: skip
        assert not math.isnan(float(each(scores))) and not math.isnan(float(each(apart)))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(1, 1), "N of 1"),
        (torch.zeros(3, 4), r"must be \(N, N\)"),
        (torch.full((3, 3), math.nan), "a score is NaN"),
    ],
)
def test_bad_scores(scores, message):
    one = torch.ones(len(scores))
    for function in (
        infonce, lecture, dv, mine, nwj, nwj_js, lambda s: tuba(s, one), lambda s: interpolated(s, one, 0.5),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            function(scores)


def test_bad_settings():
    scores = torch.zeros(3, 3)
    for call, message in (
        (lambda: mine(scores, carry=1.0), "carry 1.0"),
        (lambda: interpolated(scores, torch.ones(3), 1.5), "alpha 1.5"),
        (lambda: interpolated(scores, torch.ones(3), math.nan), "alpha nan"),
        (lambda: interpolated(scores, torch.ones(2)), r"log_baseline must be \(3,\)"),
        (lambda: tuba(scores, torch.ones(2)), r"log_baseline must be \(3,\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()
