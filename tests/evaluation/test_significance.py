"""Bootstrap and permutation against closed forms, slow loops and simulated data."""

import dataclasses
import random

import numpy as np
import pytest
from scipy import stats

from hfssl.data.toyglue import TOYGLUE
from hfssl.errors import InputError
from hfssl.evaluation import significance
from hfssl.evaluation.scoring import score_split, score_task, task_score
from hfssl.evaluation.significance import bootstrap_task, compare, holm, interval, paired_permutation
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import TASKS

KEYS = [key for key in TASKS if key not in ("glue/ax", "other/snli")]


def splits_of(key):
    return {split: load_split(TASKS[key], split, TOYGLUE) for split in TASKS[key].scored_splits}


def noisy(data, seed, right=0.7):
    """Predictions of which about `right` are right."""
    rng = random.Random(seed)
    if data.task.kind == "regression":
        return [label + rng.gauss(0, 1) for label in data.labels]
    if data.task.kind == "entities":
        pairs = zip(data.answers, data.candidates, strict=True)
        return [golds[0] if rng.random() < right else rng.choice(names) for golds, names in pairs]
    return [label if rng.random() < right else rng.choice(data.task.labels) for label in data.labels]


def runs_of(splits, seeds, right=0.7):
    return {split: [noisy(data, seed, right) for seed in seeds] for split, data in splits.items()}


@pytest.mark.parametrize("key", KEYS)
def test_sums_give_the_scores_of_the_metrics_module(key):
    """With every item once, the sums over items give what scikit-learn and scipy give, for each metric and seed."""
    for data in splits_of(key).values():
        runs = [noisy(data, seed) for seed in (0, 1)]
        items = significance.task_items(data, runs)
        patterns, occurrences = significance.distinct_items(items.sums)
        found = items.scores(patterns, occurrences[None])
        for seed, predictions in enumerate(runs):
            expected = score_split(data, predictions).values
            assert {name: values[0, seed] for name, values in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("key", ["superglue/multirc", "glue/cola", "glue/stsb"])
def test_the_bootstrap_is_that_of_a_loop_over_items(key):
    """Mean and deviation against drawing rows (questions) one by one and scoring with the metrics module."""
    task, splits = TASKS[key], splits_of(key)
    data = splits["validation"]
    predictions = noisy(data, 0)
    fast = bootstrap_task(task, splits, {"validation": [predictions]}, draws=4000)["score"]
    rng = random.Random(1)
    groups = [[row] for row in range(len(data))]
    if data.groups:
        groups = [[row for row, group in enumerate(data.groups) if group == key] for key in sorted(set(data.groups))]
    slow = []
    for _ in range(200):
        drawn = [rng.choice(groups) for _ in groups]
        rows = [row for group in drawn for row in group]
        part = data.select(rows, "drawn")
        if data.groups:
            part.groups = [(number,) for number, group in enumerate(drawn) for _ in group]
        slow.append(task_score(task, score_split(part, [predictions[row] for row in rows]).values))
    error = np.std(slow) / len(slow) ** 0.5
    assert abs(np.mean(fast) - np.mean(slow)) < 4 * error
    assert 0.85 < np.std(fast) / np.std(slow) < 1.18


def test_the_interval_of_an_accuracy_is_binomial():
    splits = splits_of("superglue/boolq")
    data = splits["validation"]
    flip = {"True": "False", "False": "True"}
    predictions = [label if row < 80 else flip[label] for row, label in enumerate(data.labels)]
    draws = bootstrap_task(data.task, splits, {"validation": [predictions]}, draws=20000)["accuracy"]
    low, high = stats.binom.ppf([0.025, 0.975], 100, 0.8) / 100
    found = interval(draws)
    assert draws.mean() == pytest.approx(0.8, abs=0.002) and draws.std() == pytest.approx(0.04, abs=0.001)
    assert found.low == pytest.approx(low, abs=0.0101) and found.high == pytest.approx(high, abs=0.0101)


def test_seeds_that_differ_widen_the_interval():
    splits = splits_of("glue/mnli")
    one = {split: [noisy(data, 0)] * 4 for split, data in splits.items()}
    rights = (0.1, 0.9, 0.1, 0.9)
    four = {split: [noisy(data, seed, right) for seed, right in enumerate(rights)] for split, data in splits.items()}
    task = TASKS["glue/mnli"]
    alike, apart = (bootstrap_task(task, splits, runs)["score"] for runs in (one, four))
    assert apart.std() > 1.5 * alike.std()
    # Both sets are of the same seeds: their scores move together.
    draws = bootstrap_task(task, splits, four)
    assert np.corrcoef(draws["accuracy_m"], draws["accuracy_mm"])[0, 1] > 0.6
    assert draws["score"] == pytest.approx((draws["accuracy_m"] + draws["accuracy_mm"]) / 2)
    with pytest.raises(InputError, match="as many seeds"):
        bootstrap_task(task, splits, {**four, "validation_matched": four["validation_matched"][:1]})


def test_the_permutation_of_an_accuracy_is_the_sign_test():
    """With one seed and accuracy the exact p-value is binomial over the items on which just one model is right."""
    splits = splits_of("superglue/boolq")
    data = splits["validation"]
    flip = {"True": "False", "False": "True"}
    first = [flip[label] if row < 6 else label for row, label in enumerate(data.labels)]
    second = [flip[label] if 6 <= row < 24 or 40 < row < 50 else label for row, label in enumerate(data.labels)]
    difference, p = paired_permutation(data.task, splits, {"validation": [first]}, {"validation": [second]}, 40000)
    assert difference == pytest.approx(0.27 - 0.06)
    assert p == pytest.approx(stats.binomtest(6, 6 + 27).pvalue, abs=4 * (p / 40000) ** 0.5)
    assert paired_permutation(data.task, splits, {"validation": [first]}, {"validation": [first]})[1] == 1


def test_the_scale_of_a_models_scores_decides_nothing():
    """Correlations do not heed it: a model that says 3 + 0.1 times as much is as good, and as surely better."""
    splits = splits_of("glue/stsb")
    data = splits["validation"]
    rng = np.random.default_rng(0)
    better, worse = (np.clip(np.add(data.labels, rng.normal(0, noise, len(data))), 0, 5) for noise in (0.7, 1.1))
    found = [
        paired_permutation(data.task, splits, {"validation": [first.tolist()]}, {"validation": [worse.tolist()]}, 1000)
        for first in (better, 3 + 0.1 * better)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-9) and found[0][1] < 0.05
    constant = {"validation": [[2.5] * len(data)]}
    assert paired_permutation(data.task, splits, constant, constant, 100)[1] == 1


@pytest.mark.parametrize("key", ["glue/mrpc", "glue/stsb", "superglue/multirc"])
def test_under_the_null_hypothesis_p_is_uniform(key):
    """Two models that differ by chance alone: p is below 0.3 in about 30 % of the trials."""
    splits = splits_of(key)
    split, data = next(iter(splits.items()))
    splits = {split: data.select(range(40), "a part")}
    small = []
    for trial in range(60):
        models = [
            {split: [noisy(splits[split], (trial, model, seed).__hash__()) for seed in range(2)]} for model in (0, 1)
        ]
        small.append(paired_permutation(data.task, splits, *models, permutations=200, seed=trial)[1] < 0.3)
    assert 0.12 < np.mean(small) < 0.5


def test_a_clear_difference_is_found_and_a_small_one_is_not_said_to_be_one():
    tasks = {}
    for name, right in (("cola", (0.9, 0.3)), ("mnli", (0.8, 0.78)), ("stsb", (0.7, 0.7))):
        splits = splits_of(f"glue/{name}")
        tasks[name] = (
            TASKS[f"glue/{name}"],
            splits,
            runs_of(splits, (0, 1), right[0]),
            runs_of(splits, (5, 6), right[1]),
        )
    cola, mnli, stsb = compare(tasks, permutations=1000)
    assert cola.distinguishable and cola.difference > 20 and cola.corrected_p >= cola.p
    assert cola.sentence("A", "B").startswith("cola: A is better than B (+")
    assert not stsb.distinguishable and "mnli: A and B are not distinguishable (" in mnli.sentence("A", "B")
    turned = dataclasses.replace(cola, difference=-cola.difference)
    assert turned.sentence("A", "B").startswith("cola: B is better than A (-")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_the_score_of_a_task_is_inside_its_interval():
    for key in ("superglue/axg", "superglue/cb", "superglue/record"):
        splits = splits_of(key)
        runs = runs_of(splits, (0, 1, 2))
        draws = bootstrap_task(TASKS[key], splits, runs, draws=500)
        scores = [
            score_task(TASKS[key], splits, {name: r[seed] for name, r in runs.items()}).values for seed in range(3)
        ]
        for name in TASKS[key].score_names:
            found = interval(draws[name])
            assert found.low < np.mean([values[name] for values in scores]) < found.high
