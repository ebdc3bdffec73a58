"""`estimate`: right on what is known, selected on held-out loss, repeatable, and clear about what it cannot use."""

import math

import pytest
import torch
import torch.nn.functional as F

from hfssl.errors import InputError
from hfssl.information import METHODS, Setting, estimate
from hfssl.information import estimation as module
from hfssl.information.truth import gaussian_information, gaussian_pairs, lecture_bound, symmetric_channel

BRIEF = {"steps": 120, "candidates": 50, "search": (Setting(16, 2e-2),)}
TRAINED = [name for name in METHODS if name not in ("ksg", "binned")]


def independent(count=3000):
    x, y = torch.randn(2, count, 2, generator=torch.Generator().manual_seed(1))
    return x, y


def test_a_setting_that_diverges_does_not_end_the_search():
    x, y = gaussian_pairs(3000, 1, 0.9)
    search = (Setting(64, 1.0), Setting(64, 3e-3))
    for method in ("nwj", "tuba"):
        found = estimate(x, y, method, candidates=50, steps=100, search=search)
        assert math.isfinite(found.value) and 0 < found.value < 2 and found.standard_error > 0


@pytest.mark.parametrize("method", METHODS)
def test_independent_samples_have_no_information(method):
    x, y = independent()
    columns = 1 if method == "binned" else 2
    found = estimate(x[:, :columns], y[:, :columns], method, **BRIEF)
    expected = math.log(50) if method == "lecture" else 0.0
    assert abs(found.value - expected) < 3 * found.standard_error
    assert 0 < found.standard_error < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_little_information_is_found(method):
    dimensions = 1 if method == "binned" else 2
    x, y = gaussian_pairs(1500 if method == "ksg" else 6000, dimensions, 0.7, seed=3)
    truth = gaussian_information(dimensions, 0.7)
    found = estimate(3 * x + 5, y / 7, method, **BRIEF)  # standardised inside
    if method == "lecture":
        truth = lecture_bound(truth, dimensions * 0.49 / 0.51 - truth, 50)
        assert found.value >= truth - 3 * found.standard_error  # the critic's own difference is the smaller one
    assert found.value == pytest.approx(truth, abs=0.35 if method == "lecture" else 0.15)


def test_a_critic_on_a_channel_is_the_lectures_optimum_up_to_a_function_of_x():
    channel = symmetric_channel(3, 0.4)
    x, y = (F.one_hot(symbols, 3) for symbols in channel.sample(100_000, seed=1))
    found = estimate(x, y, "infonce", steps=250, candidates=256, search=(Setting(32, 1e-2),))
    difference = found.scores(torch.eye(3), torch.eye(3)).detach() - channel.scores
    assert float((difference - difference.mean(1, keepdim=True)).abs().max()) < 0.05
    reached = math.log(256) - channel.cpc_loss(256)
    assert found.value == pytest.approx(reached, abs=3 * found.standard_error)


def test_where_infonce_saturates_the_difference_of_entropies_goes_on():
    x, y = gaussian_pairs(6000, 4, 0.95, seed=3)
    truth = gaussian_information(4, 0.95)  # 4.66
    few = {"steps": 250, "candidates": 20, "search": (Setting(32, 1e-2),)}
    infonce, doe = (estimate(x, y, method, **few) for method in ("infonce", "doe"))
    assert infonce.ceiling - 0.3 < infonce.value <= infonce.ceiling == pytest.approx(math.log(20))
    assert doe.value == pytest.approx(truth, rel=0.05) and doe.value > infonce.ceiling + 1


def test_the_joint_critic_and_rotations_find_the_same():
    x, y = gaussian_pairs(6000, 2, 0.8, seed=3)
    turns = [torch.linalg.qr(torch.randn(2, 2)).Q for _ in range(2)]
    plain = estimate(x, y, **BRIEF)
    turned = estimate(x @ turns[0], y @ turns[1], **BRIEF)
    joint = estimate(x, y, critic="joint", **BRIEF)
    assert turned.value == pytest.approx(plain.value, abs=3 * plain.standard_error)
    assert joint.value == pytest.approx(plain.value, abs=3 * plain.standard_error)
    part = estimate(x[:, :1], y, **BRIEF)  # data processing
    assert part.value < plain.value - 3 * plain.standard_error


@pytest.mark.parametrize("method", ["dv", "doe"])
def test_setting_and_step_are_those_of_the_least_held_out_loss(method):
    x, y = gaussian_pairs(120, 5, 0.6, seed=3)
    few = {"steps": 60, "candidates": 10}
    search = (Setting(64, 1e-7), Setting(64, 3e-2), Setting(64, 1e-3))
    each = [estimate(x, y, method, search=(one,), **few) for one in search]
    best = min(each, key=lambda one: one.held_out_loss)
    found = estimate(x, y, method, search=search, **few)
    least = min(loss for _, loss in found.curve)
    assert found.held_out_loss == least == dict(found.curve)[found.selected["step"]]
    assert found.selected["learning_rate"] == best.selected["learning_rate"] > 1e-7
    assert found.curve[0][0] == 0 and found.curve[-1][0] == 60


def test_a_net_that_overfits_is_taken_as_it_was_before():
    x, y = torch.randn(2, 120, 5, generator=torch.Generator().manual_seed(1))
    found = estimate(x, y, "doe", steps=60, candidates=10, search=(Setting(64, 3e-2),))
    assert found.selected["step"] == 0 and found.curve[-1][1] > found.held_out_loss + 1
    assert abs(found.value) < 0.5  # at the last step the difference was under -1


def test_the_value_is_of_samples_that_nothing_was_selected_on(monkeypatch):
    """The three parts are told by their values: each look at the held-out loss is at one part, the value at another."""
    x = torch.arange(1000.0)
    seen = []
    evaluate = module._evaluate
    monkeypatch.setattr(
        module, "_evaluate", lambda learner, x, *rest: seen.append({*x[:, 0].tolist()}) or evaluate(learner, x, *rest)
    )
    trained = set()
    train = module._train
    monkeypatch.setattr(module, "_train", lambda learner, part, *rest: trained.update(part[0][:, 0].tolist()) or train(
        learner, part, *rest))  # fmt: skip
    estimate(x, x.flip(0), steps=2, candidates=20, search=(Setting(8),))
    *held_out, test = seen
    assert all(part == held_out[0] for part in held_out)
    assert len(trained) == 600 and len(held_out[0]) == len(test) == 200
    assert not trained & test and not trained & held_out[0] and not test & held_out[0]


def test_a_function_of_samples_settings_and_seed_that_leaves_chance_alone():
    x, y = gaussian_pairs(1000, 2, 0.7)
    few = {"steps": 20, "candidates": 20, "search": (Setting(16),)}
    state = torch.get_rng_state()
    first = estimate(x, y, "mine", **few)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert estimate(x, y, "mine", **few).value == first.value
    assert estimate(x, y, "mine", seed=1, **few).value != first.value


def test_mine_learns_with_the_average_it_carries():
    x, y = gaussian_pairs(1000, 2, 0.7)
    few = {"steps": 20, "candidates": 20, "search": (Setting(16),)}
    values = [estimate(x, y, method, carry=carry, **few).value for method, carry in (("mine", 0), ("mine", 0.9))]
    dv = estimate(x, y, "dv", **few).value
    assert values[0] == pytest.approx(dv, abs=1e-5) and abs(values[1] - dv) > 1e-4


def test_without_a_number_of_candidates_the_samples_decide():
    x, y = gaussian_pairs(400, 2, 0.7)
    assert estimate(x, y, steps=1, search=(Setting(8),)).candidates == 40  # two batches of the 80 for the value
    assert estimate(*gaussian_pairs(2000, 2, 0.7), steps=1, search=(Setting(8),)).candidates == 128


SAMPLES = gaussian_pairs(100, 2, 0.7)


def altered(change):
    x = SAMPLES[0].clone()
    change(x)
    return x


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (SAMPLES[0][:99], {}, "x has 99 samples and y 100"),
        (SAMPLES[0][:1], {}, r"x must hold at least two samples, \(M, D\) or \(M,\), not \(1, 2\)"),
        (SAMPLES[0][None], {}, "at least two samples"),
        (altered(lambda x: x[:, 1].fill_(3)), {}, "column 1 of x is constant"),
        (altered(lambda x: x[7].fill_(math.nan)), {}, "x holds values that are not finite, first in row 7"),
        (altered(lambda x: x[7].fill_(math.inf)), {"method": "ksg"}, "not finite, first in row 7"),
        (SAMPLES[0], {"candidates": 1}, "N of 1"),
        (SAMPLES[0], {"candidates": 11}, "N of 11 with 100 samples, of which 20 are for the value"),
        (SAMPLES[0], {"method": "infonc"}, "unknown method 'infonc': one of .*; did you mean 'infonce'"),
        (SAMPLES[0], {"critic": "seperable"}, "did you mean 'separable'"),
        (SAMPLES[0], {"steps": 0}, "steps must be at least 1"),
        (SAMPLES[0], {"search": ()}, "search must name a setting"),
        (SAMPLES[0], {"method": "ksg", "neighbours": 10}, "too few for a standard error"),
        (SAMPLES[0], {"method": "binned"}, "use ksg"),
    ],
)
def test_bad_input(x, settings, message):
    with pytest.raises(InputError, match=message):
        estimate(x, SAMPLES[1], **settings)
