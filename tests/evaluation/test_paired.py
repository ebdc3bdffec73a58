"""Two arms over seeds: the t test and the bootstrap against slow ones, and how often the verdict is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hfssl.evaluation.paired import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    bootstrap_difference,
    compare_pairs,
    joint_verdict,
    paired_t,
)
from hfssl.evaluation.scoring import score_task, task_score
from hfssl.evaluation.task_data import load_task
from hfssl.evaluation.tasks import TASKS

SEEDS, RUNS, ITEMS = 3, 3, 100
RTE = TASKS["glue/rte"]


@pytest.fixture(scope="module")
def toy():
    return {key: load_task(TASKS[key], "builtin:toyglue") for key in ("glue/rte", "glue/mrpc", "glue/stsb")}


@pytest.mark.parametrize("values", [(1.0, 2.0, 4.0), (-0.3, 0.1, 0.2, 0.5, -0.1)])
def test_the_t_test_is_scipy_s(values):
    p, low, high = paired_t(values)
    wanted = stats.ttest_1samp(values, 0)
    assert p == pytest.approx(wanted.pvalue)
    assert (low, high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))


def test_differences_without_spread():
    assert paired_t([0.0, 0.0, 0.0]) == (1.0, 0.0, 0.0)
    assert paired_t([0.1 + 0.2, 0.3, 0.3])[0] == 0.0
    with pytest.raises(ValueError, match="two differences at least, not 1"):
        paired_t([1.0])


def predicted(task, data, rng, share):
    """Predictions that are right with this probability; of scores, noisy."""
    if task.kind == "regression":
        return [float(label) + rng.normal() / share for label in data.labels]
    wrong = {label: next(other for other in task.labels if other != label) for label in task.labels}
    return [label if rng.random() < share else wrong[label] for label in data.labels]


@pytest.mark.parametrize("key", ["glue/rte", "glue/mrpc", "glue/stsb"])
def test_both_arms_are_scored_on_the_same_drawn_items(toy, key):
    """The draws have the mean and the spread of a loop that draws rows, scores both arms and subtracts."""
    task, splits = TASKS[key], toy[key]
    data, rng = splits["validation"], np.random.default_rng(0)
    arms = [[predicted(task, data, rng, share) for _ in range(2)] for share in (0.9, 0.7)]
    draws = bootstrap_difference(task, splits, *({"validation": arm} for arm in arms), draws=4000)
    slow = []
    for _ in range(80):
        rows = rng.integers(len(data), size=len(data))
        drawn = {"validation": _rows(data, rows)}
        scores = [
            np.mean([task_score(task, score_task(task, drawn, {"validation": [run[i] for i in rows]}).values)
                     for run in arm])
            for arm in arms
        ]  # fmt: skip
        slow.append(scores[0] - scores[1])
    assert draws.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 80**0.5)
    assert draws.std() == pytest.approx(np.std(slow), rel=0.25)  # of 80 draws it is known to 8 %
    same = bootstrap_difference(task, splits, {"validation": arms[0]}, {"validation": arms[0]})
    assert np.abs(same).max() < 1e-12, "an arm does not differ from itself on any items"


def _rows(data, rows):
    texts = tuple([column[i] for i in rows] for column in data.texts)
    return replace(data, texts=texts, labels=[data.labels[i] for i in rows])


def simulated(rng, data, gap, budgets=1):
    """A family of comparisons: items of different difficulty, seeds of different quality, an arm that is better by a
    share `gap` of the items."""
    task, truth = data.task, data.labels
    pairs = {}
    for budget in range(budgets):
        easy = rng.normal(0.8, 0.8, ITEMS)
        arms, scores = [], []
        for shift in (gap, 0.0):
            runs = []
            for _ in range(SEEDS):
                quality = rng.normal(0, 0.15)
                runs += [easy + shift + quality + rng.logistic(0, 0.5, ITEMS) > 0 for _ in range(RUNS)]
            arms.append([[t if right else _other(t) for t, right in zip(truth, run, strict=True)] for run in runs])
            scores.append(np.mean(np.reshape(runs, (SEEDS, -1)), axis=1))
        draws = bootstrap_difference(
            task, {"validation": data}, *({"validation": arm} for arm in arms), draws=400, seed=budget
        )
        pairs[str(budget)] = (tuple(100 * (scores[0] - scores[1])), 100 * draws)
    return compare_pairs(pairs)


def _other(label):
    return RTE.labels[1 - RTE.labels.index(label)]


@pytest.fixture(scope="module")
def rows(toy):
    data = toy["glue/rte"]["validation"]
    return _rows(data, np.arange(ITEMS) % len(data))


def test_identical_arms_are_inconclusive_in_184_of_200_nulls(rows):
    rng = np.random.default_rng(0)
    found = [simulated(rng, rows, 0.0)["0"].verdict for _ in range(200)]
    assert found.count(INCONCLUSIVE) >= 184


def test_the_t_test_alone_is_calibrated_too():
    rng = np.random.default_rng(1)
    small = [paired_t(rng.normal(size=SEEDS))[0] < 0.05 for _ in range(4000)]
    assert np.mean(small) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)


def test_a_family_of_nulls_is_wrong_no_more_often(rows):
    rng = np.random.default_rng(2)
    found = [joint_verdict(one.verdict for one in simulated(rng, rows, 0.0, 3).values()) for _ in range(30)]
    assert found.count(INCONCLUSIVE) >= 27


@pytest.mark.parametrize(("gap", "verdict"), [(3.0, SUPPORTED), (-3.0, NOT_SUPPORTED)])
def test_a_planted_difference_has_its_direction(rows, gap, verdict):
    rng = np.random.default_rng(3)
    families = [simulated(rng, rows, gap, 3) for _ in range(20)]
    found = [joint_verdict(one.verdict for one in family.values()) for family in families]
    assert set(found) <= {verdict, INCONCLUSIVE} and found.count(verdict) >= 18
    for one in families[0].values():
        assert one.low < one.mean < one.high and np.sign(one.mean) == np.sign(gap)


def test_holm_corrects_the_family_and_the_items_must_agree():
    draws = np.linspace(0.5, 1.5, 101)
    family = compare_pairs(
        {"a": ((1.0, 1.1, 0.9), draws), "b": ((1.0, 1.4, 0.6), draws), "c": ((1.0, 2.0, -1.0), draws)}
    )
    assert [one.corrected_p for one in family.values()] == pytest.approx(
        [3 * family["a"].p, 2 * family["b"].p, family["c"].p]
    )
    assert [one.verdict for one in family.values()] == [SUPPORTED, INCONCLUSIVE, INCONCLUSIVE]
    doubtful = compare_pairs({"a": ((1.0, 1.1, 0.9), np.linspace(-0.2, 2.2, 101))})["a"]
    assert doubtful.corrected_p < 0.05 and doubtful.verdict == INCONCLUSIVE, "other items would say otherwise"


def test_the_joint_verdict():
    assert joint_verdict([INCONCLUSIVE, SUPPORTED]) == SUPPORTED
    assert joint_verdict([NOT_SUPPORTED, NOT_SUPPORTED]) == NOT_SUPPORTED
    assert joint_verdict([SUPPORTED, NOT_SUPPORTED]) == joint_verdict([INCONCLUSIVE]) == INCONCLUSIVE
