"""Logistic regression for many heads at once against scikit-learn's optimum, one head at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Sklearn

from hfssl.evaluation import logistic
from hfssl.evaluation.logistic import fit_logistic

GRID = (1e-3, 1.0, 100.0)


def clusters(count=120, dim=6, classes=3, seed=0, noise=2.0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 1.5
    features = centres[labels] + noise * random.normal(size=(count, dim))
    return torch.from_numpy(features), torch.from_numpy(labels)


def optimum(features, labels, c):
    return Sklearn(C=c, tol=1e-12, max_iter=10_000).fit(features.numpy(), labels.numpy())


def test_all_heads_reach_the_optimum_of_scikit_learn():
    features, labels = clusters()
    ours = fit_logistic(features, labels, 3, GRID, tolerance=1e-9)
    assert ours.weight.dtype == torch.float64
    for head, c in enumerate(GRID):
        theirs = optimum(features, labels, c)
        np.testing.assert_allclose(ours.weight[head].numpy(), theirs.coef_, atol=1e-5 * np.abs(theirs.coef_).max())
        expected = theirs.predict_log_proba(features.numpy())
        np.testing.assert_allclose(ours.logits(features, head).log_softmax(1).numpy(), expected, atol=1e-4)
        assert np.array_equal(ours.predict(features, head).numpy(), theirs.predict(features.numpy()))


def test_each_head_may_have_rows_of_its_own():
    features, labels = clusters()
    rows = torch.rand(3, len(features), generator=torch.Generator().manual_seed(0)) < 0.6
    ours = fit_logistic(features, labels, 3, (0.1, 1.0, 0.1), rows=rows, tolerance=1e-9)
    for head, c in enumerate((0.1, 1.0, 0.1)):
        theirs = optimum(features[rows[head]], labels[rows[head]], c)
        np.testing.assert_allclose(ours.weight[head].numpy(), theirs.coef_, atol=1e-5 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize(("name", "value"), [("CHUNK", 100), ("TOGETHER", 30)])
def test_memory_bounds_change_nothing(monkeypatch, name, value):
    features, labels = clusters()
    rows = torch.rand(3, len(features), generator=torch.Generator().manual_seed(0)) < 0.6
    whole = fit_logistic(features, labels, 3, GRID, rows=rows, tolerance=1e-8)
    monkeypatch.setattr(logistic, name, value)
    parts = fit_logistic(features, labels, 3, GRID, rows=rows, tolerance=1e-8)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-5, atol=1e-6)


def test_a_start_at_the_solution_takes_no_step():
    features, labels = clusters()
    first = fit_logistic(features, labels, 3, GRID, tolerance=1e-6)
    again = fit_logistic(features, labels, 3, GRID, start=first, tolerance=1.01e-6)
    assert not again.iterations.any() and first.iterations.all()
    torch.testing.assert_close(again.weight, first.weight)


def test_large_features_are_multiplied_in_float32_and_come_as_near(monkeypatch):
    features, labels = clusters(600, dim=20)
    features[:, 1] = features[:, 0] + 1e-3 * features[:, 1]  # nearly the same feature twice
    exact = fit_logistic(features, labels, 3, GRID, tolerance=1e-7)
    monkeypatch.setattr(logistic, "LARGE", 0)
    ours = fit_logistic(features, labels, 3, GRID)
    assert ours.weight.dtype == torch.float32
    for head, c in enumerate(GRID):
        loss, best = (_loss(fit, features, labels, head, c) for fit in (ours, exact))
        assert best <= loss * (1 + 1e-7) and loss <= best * (1 + 1e-3)


def _loss(fit, features, labels, head, c):
    logits = features @ fit.weight[head].double().T + fit.bias[head].double()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return float(loss + fit.weight[head].double().square().sum() / (2 * c * len(labels)))


def test_classes_that_lie_apart_end_too():
    """The weights grow as C does, and probabilities become too small for float32."""
    features, labels = clusters(noise=0.01)
    fit = fit_logistic(100 * features, labels, 3, (1e6,), tolerance=1e-8)
    assert fit.weight.isfinite().all() and (fit.predict(100 * features) == labels).all()
