"""The probes' classifiers: what they choose, and that the test images choose nothing."""

import numpy as np
import torch

from hfssl.evaluation import classifiers
from hfssl.evaluation.classifiers import C_GRID, knn_probe, linear_probe, sgd_probe, standardised
from hfssl.evaluation.embeddings import made_up_embeddings
from hfssl.evaluation.knn import knn_predict
from hfssl.evaluation.labels import held_out_masks
from hfssl.evaluation.logistic import fit_logistic

(BANK, LABELS), (QUERIES, QUERY_LABELS) = made_up_embeddings(600, 300, 16, classes=3, distance=0.4)


def accuracy(predicted, labels=QUERY_LABELS):
    return (predicted == labels).double().mean().item()


def test_knn_takes_the_k_that_does_best_on_held_out_images():
    ks = (1, 15, 150)
    predicted, chosen = knn_probe(QUERIES, BANK, LABELS, 3, range(2), ks)
    for seed in range(2):
        right = dict.fromkeys(ks, 0)
        for mask in map(torch.from_numpy, held_out_masks(LABELS.numpy(), seed)):
            for k in ks:
                guesses = knn_predict(BANK[mask], BANK[~mask], LABELS[~mask], 3, k)
                right[k] += int((guesses == LABELS[mask]).sum())
        best = max(ks, key=lambda k: right[k])
        assert chosen[seed] == f"k = {best}"
        assert torch.equal(predicted[seed], knn_predict(QUERIES, BANK, LABELS, 3, best))


def test_a_small_bank_leaves_large_k_out():
    assert knn_probe(QUERIES, BANK[:12], LABELS[:12], 3, [0], (5, 100))[1] == ["k = 5"]
    assert knn_probe(QUERIES, BANK[:4], LABELS[:4], 3, [0], (5, 100))[1] == ["k = 4"]


def test_k_may_be_given_in_any_order():
    """Of k that leave too little when a tenth is held out, none gets another's hits."""
    one = knn_probe(QUERIES, BANK[:20], LABELS[:20], 3, range(3), (3, 19))
    other = knn_probe(QUERIES, BANK[:20], LABELS[:20], 3, range(3), (19, 3, 3))
    assert one[1] == other[1] == ["k = 3"] * 3 and torch.equal(one[0], other[0])


def test_the_linear_probe_is_logistic_regression_at_the_c_that_does_best_on_held_out_images():
    predicted, chosen = linear_probe(QUERIES, BANK, LABELS, 3, range(2))
    queries, bank = standardised(QUERIES, BANK)
    for seed in range(2):
        (mask,) = map(torch.from_numpy, held_out_masks(LABELS.numpy(), seed))
        fits = fit_logistic(bank[~mask], LABELS[~mask], 3, C_GRID)
        right = [int((fits.predict(bank[mask], head) == LABELS[mask]).sum()) for head in range(len(C_GRID))]
        best = float(chosen[seed].removeprefix("C = "))
        assert right[C_GRID.index(best)] == max(right)
        direct = fit_logistic(bank, LABELS, 3, (best,)).predict(queries)
        assert (predicted[seed] == direct).double().mean() > 0.99  # within the tolerance of both
    assert accuracy(predicted[0]) > 0.75


def test_c_follows_the_noise():
    noise = torch.randn(600, 500, generator=torch.Generator().manual_seed(0))
    chosen = linear_probe(*[torch.cat([BANK, noise], 1)] * 2, LABELS, 3, range(3))[1]
    assert all(float(c.removeprefix("C = ")) <= 0.1 for c in chosen)
    one_each = torch.tensor([int((label == LABELS).nonzero()[0]) for label in range(3)])
    assert linear_probe(QUERIES, BANK[one_each], LABELS[one_each], 3, [0])[1] == ["C = 1"]


def test_fewer_images_than_features_is_the_same_problem():
    (bank, labels), (queries, _) = made_up_embeddings(30, 40, 80, classes=3)
    predicted, (chosen,) = linear_probe(queries, bank, labels, 3, [0])
    mean, deviation = bank.double().mean(0), bank.double().std(0, correction=0).clamp(min=1e-8)
    direct = fit_logistic((bank - mean) / deviation, labels, 3, (float(chosen.removeprefix("C = ")),), tolerance=1e-7)
    assert torch.equal(predicted[0], direct.predict((queries - mean) / deviation))


def test_the_sgd_grid_trains_each_head_as_torch_does(monkeypatch):
    monkeypatch.setattr(classifiers, "SGD_STEPS", 12)
    monkeypatch.setattr(classifiers, "SGD_BATCH", 64)
    features, labels, settings = BANK[:200], LABELS[:200], [(0.5, 0.0), (0.1, 1e-2)]
    weight, bias = classifiers._train_heads(features, labels, 3, settings, seed=3)
    steps = classifiers.SGD_EPOCHS * 200 // 64
    for head, (rate, decay) in enumerate(settings):
        generator = torch.Generator().manual_seed(3)
        layer = torch.nn.Linear(16, 3)
        layer.weight.data, layer.bias.data = 0.01 * torch.randn(1, 3, 16, generator=generator)[0], torch.zeros(3)
        groups = [{"params": layer.weight, "weight_decay": decay}, {"params": layer.bias}]
        optimizer = torch.optim.SGD(groups, rate * 64 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < 64:
                order = torch.randperm(200, generator=generator)
            rows, order = order[:64], order[64:]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(weight[head], layer.weight.data, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(bias[head], layer.bias.data, rtol=1e-4, atol=1e-6)


def test_the_sgd_grid_comes_near_logistic_regression_and_says_what_it_chose(monkeypatch):
    monkeypatch.setattr(classifiers, "SGD_STEPS", 200)
    predicted, chosen = sgd_probe(QUERIES, BANK, LABELS, 3, range(2))
    linear = accuracy(linear_probe(QUERIES, BANK, LABELS, 3, [0])[0][0])
    assert all(accuracy(one) > linear - 0.05 for one in predicted)
    assert len(chosen) == 2 and all(text.startswith("rate ") and ", decay " in text for text in chosen)
    assert np.array_equal(predicted, sgd_probe(QUERIES, BANK, LABELS, 3, range(2))[0])
