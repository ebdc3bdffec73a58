import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Sklearn

from hfssl.errors import InputError
from hfssl.evaluation import probes
from hfssl.evaluation.classifiers import (
    C_GRID,
    LogisticRegression,
    choose_c,
    knn_predict,
    linear_predict,
    select_labels,
)
from hfssl.evaluation.features import Encoder
from hfssl.evaluation.probes import ProbeArguments, bootstrap_interval, probe, probe_table, run_probe
from hfssl.models import SimCLRConfig, SimCLRForPreTraining

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 8,
    "stem": "cifar",
}


def clusters(count=120, dim=6, classes=3, seed=0, noise=1.0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 1.5
    features = centres[labels] + noise * random.normal(size=(count, dim))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


class Squares:
    """Class c has its bright square in corner c."""

    def __init__(self, count, seed, classes=3):
        random = np.random.default_rng(seed)
        self.labels, self.class_names = np.arange(count) % classes, [str(c) for c in range(classes)]
        self.images = torch.from_numpy(random.integers(0, 120, (count, 3, 8, 8))).byte()
        self.source = "squares"
        for image, label in zip(self.images, self.labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[:, row : row + 4, column : column + 4] += 100

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index]), "index": index}


def test_knn_equals_brute_force():
    bank, labels = clusters()
    queries, _ = clusters(50, seed=1, noise=2.0)
    a, b = queries.double().numpy(), bank.double().numpy()
    similarity = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    for k in (1, 7, 120):
        expected = []
        for row in similarity:
            votes = np.zeros(3)
            for neighbour in np.argsort(-row)[:k]:
                votes[labels[neighbour]] += np.exp(row[neighbour] / 0.07)
            expected.append(votes.argmax())
        for chunk_size in (1024, 13):
            got = knn_predict(queries, bank, labels, 3, knn_k=k, chunk_size=chunk_size)
            assert got.tolist() == expected
    assert knn_predict(queries, bank, labels, 3, knn_k=7, knn_t=1e-4).shape == (50,)  # no overflow
    with pytest.raises(InputError, match="k = 121 neighbours of a bank of 120"):
        knn_predict(queries, bank, labels, 3, knn_k=121)


@pytest.mark.parametrize("c", [0.001, 1.0, 100.0])
def test_logistic_regression_equals_scikit_learn(c):
    features, labels = clusters(noise=2.0)
    ours = LogisticRegression(c).fit(features, labels, 3)
    theirs = Sklearn(C=c, tol=1e-10, max_iter=5000).fit(features.double().numpy(), labels.numpy())
    np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    expected = theirs.predict_log_proba(features.double().numpy())
    np.testing.assert_allclose(ours.logits(features).log_softmax(1).numpy(), expected, atol=5e-3)


def test_fewer_images_than_features_is_the_same_problem():
    features, labels = clusters(30, dim=80)
    queries, _ = clusters(40, dim=80, seed=5)
    predicted, c = linear_predict(queries, features, labels, 3)
    mean, deviation = features.double().mean(0), features.double().std(0, correction=0)
    direct = LogisticRegression(c, max_iter=2000).fit((features - mean) / deviation, labels, 3)
    assert torch.equal(predicted, direct.predict((queries - mean) / deviation))


def test_c_follows_the_noise():
    easy, labels = clusters(600, noise=0.3)
    random = np.random.default_rng(0)
    noisy = torch.from_numpy(random.normal(size=(120, 300))).float()  # nothing but noise in 300 dimensions
    noisy[:, :6] = clusters(120)[0]
    assert choose_c(easy, labels, 3, 0) in C_GRID
    assert choose_c(noisy, clusters(120)[1], 3, 0) <= 0.1
    one_each = (torch.eye(3), torch.arange(3))
    assert choose_c(*one_each, 3, 0) == 1.0


def test_few_labels_are_the_same_number_a_class_and_follow_the_seed():
    labels = np.array([0] * 50 + [1] * 20 + [2] * 5)
    chosen = select_labels(labels, 5, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 5, 5] and len(set(chosen)) == 15
    assert np.array_equal(chosen, select_labels(labels, 5, seed=0))
    assert not np.array_equal(chosen, select_labels(labels, 5, seed=1))
    with pytest.raises(InputError, match="class 2 has 5 training images, fewer than 6"):
        select_labels(labels, 6, seed=0)


def test_the_bootstrap_covers_the_mean():
    hits = np.random.default_rng(0).random(500) < 0.8
    low, high = bootstrap_interval(hits)
    error = np.sqrt(0.8 * 0.2 / 500)
    assert low < hits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(**SMALL))
    tests = {"plain": Squares(60, 1), "other": Squares(30, 2)}
    return probe(model, Squares(90, 0), tests, seeds=2, labels_per_class=(4,))


def test_the_anchors_are_there_by_default(rows):
    assert {row.encoder for row in rows} == {"SimCLRForPreTraining", "random init", "raw pixels"}
    assert len(rows) == 3 * 2 * 2 * 2  # encoders, tests, protocols, numbers of labels
    assert {row.protocol for row in rows} == {"kNN (k=20)", "kNN (k=12)", "linear"}
    raw = [row for row in rows if row.encoder == "raw pixels" and row.labels == "all"]
    assert all(row.accuracy > 0.9 for row in raw)
    assert all(row.low <= row.accuracy <= row.high for row in rows)
    assert {row.n for row in rows if row.test == "plain"} == {60}
    assert {row.seeds for row in rows if row.labels == "4 a class"} == {2}


def test_the_table_shows_every_result(rows):
    from rich.console import Console

    console = Console(width=120, record=True)
    console.print(probe_table(rows))
    text = console.export_text()
    assert all(f"{100 * row.accuracy:.1f}" in text for row in rows)
    assert "random init" in text and "raw pixels" in text


def test_a_probe_that_trains_the_encoder_is_found_out():
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(**SMALL))

    def encode(pixels):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return model.simclr(pixels).pooler_output

    cheat = Encoder("cheat", encode, model, 8)
    with pytest.raises(RuntimeError, match="weights of cheat changed"):
        probe(cheat, Squares(30, 0), Squares(12, 1), seeds=1, labels_per_class=(), anchors=False)


def test_labels_that_cannot_be_probed():
    model = Encoder("pixels", lambda pixels: pixels.flatten(1), None, 8)
    settings = {"seeds": 1, "labels_per_class": (), "anchors": False}
    with pytest.raises(InputError, match="all of one class"):
        probe(model, Squares(9, 0, classes=1), Squares(9, 1), **settings)
    with pytest.raises(InputError, match=r"classes that no training image has: \[2\]"):
        probe(model, Squares(8, 0, classes=2), Squares(9, 1), **settings)
    unlabelled = Squares(9, 0)
    unlabelled.labels = None
    with pytest.raises(InputError, match="needs labels"):
        probe(model, unlabelled, Squares(9, 1), **settings)
    renamed = Squares(9, 1)
    renamed.class_names = ["a", "b", "c"]
    with pytest.raises(InputError, match="other classes than the training images"):
        probe(model, Squares(9, 0), renamed, **settings)


def test_arguments():
    with pytest.raises(InputError, match="either --dataset, or --train_file and --test_file"):
        ProbeArguments("model")
    with pytest.raises(InputError, match="either --dataset, or --train_file and --test_file"):
        ProbeArguments("model", train_file="a")
    with pytest.raises(InputError, match="at least 1"):
        ProbeArguments("model", dataset="builtin:digits", seeds=0)


def test_the_program_on_digits(tmp_path, monkeypatch):
    torch.manual_seed(0)
    SimCLRForPreTraining(SimCLRConfig(**SMALL)).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(probes, "BOOTSTRAP", 50)
    out = tmp_path / "results" / "probe.json"
    rows = run_probe(ProbeArguments(str(tmp_path / "model"), dataset="builtin:digits", seeds=1, out=str(out)))
    plain = {(row.encoder, row.protocol): row for row in rows if row.test == "plain" and row.labels == "all"}
    moved = {(row.encoder, row.protocol): row for row in rows if row.test != "plain" and row.labels == "all"}
    assert plain["raw pixels", "kNN (k=20)"].accuracy > 0.95
    assert moved["raw pixels", "kNN (k=20)"].accuracy < 0.8  # where learning can show
    written = json.loads(out.read_text())
    assert written["anchors"] == ["random init", "raw pixels"]
    assert written["seeds"] == [0] and "logistic regression" in written["protocol"]
    assert len(written["rows"]) == len(rows) and len(written["weights_sha256"]) == 64
