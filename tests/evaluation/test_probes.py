"""A whole probe on made-up images: every row, the anchors, the interval, and what it refuses."""

import numpy as np
import pytest
import torch

from hfssl.data.images import ImageDataset
from hfssl.errors import InputError
from hfssl.evaluation import probes
from hfssl.evaluation.encoders import Encoder, as_encoder, pixel_encoder
from hfssl.evaluation.features import weights_hash
from hfssl.evaluation.geometry import rankme
from hfssl.evaluation.probes import bootstrap_interval, default_anchors, probe
from hfssl.models import SimCLRConfig, SimCLRForPreTraining

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 8,
    "stem": "cifar",
}


def squares(count, seed, classes=3, **changes):
    """Class c has its bright square in corner c."""
    labels = np.arange(count) % classes
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 120, (count, 3, 8, 8))).byte()
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[:, row : row + 4, column : column + 4] += 100
    settings = {"labels": labels, "class_names": [str(c) for c in range(classes)], "source": "squares"}
    return ImageDataset(images, **settings | changes)


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(**SMALL))
    tests = {"plain": squares(60, 1), "other": squares(30, 2)}
    found = probe(model, squares(90, 0), tests, seeds=2, labels_per_class=(4,), label_fractions=(0.1,), layers=True)
    assert found.weights == weights_hash(model)
    return found


def test_every_encoder_test_set_protocol_and_number_of_labels_has_a_row(result):
    rows = [row for row in result.rows if row.layer == "pooled"]
    keys = {(row.encoder, row.test, row.protocol, row.labels) for row in rows}
    assert len(keys) == len(rows) == 3 * 2 * 2 * 3
    assert {row.encoder for row in rows} == {"SimCLRForPreTraining", "random init", "raw pixels"}
    assert {row.protocol for row in rows} == {"kNN", "linear"}
    assert {row.labels for row in rows} == {"all", "4 a class", "10 %"}
    assert all(row.low <= row.accuracy <= row.high and row.seeds == 2 and len(row.chosen) == 2 for row in rows)
    assert {row.n for row in rows if row.test == "plain"} == {60}
    raw = [row for row in rows if row.encoder == "raw pixels" and row.labels == "all"]
    assert all(row.accuracy > 0.9 for row in raw)


def test_each_layer_is_probed_with_all_labels_where_there_are_layers(result):
    hidden = [row for row in result.rows if row.layer != "pooled"]
    assert {row.encoder for row in hidden} == {"SimCLRForPreTraining", "random init"}
    assert {row.layer for row in hidden} == {f"layer {number}" for number in range(5)}
    assert {row.labels for row in hidden} == {"all"}


def test_features_predictions_and_geometry_are_kept(result):
    assert {name: tuple(part.shape) for name, part in result.features.items()} == {
        "train": (90, 16), "plain": (60, 16), "other": (30, 16),
    }  # fmt: skip
    linear = next(row for row in result.rows if row.protocol == "linear" and row.layer == "pooled")
    hits = result.predictions["plain"] == squares(60, 1).labels
    assert hits.mean() == pytest.approx(linear.accuracy, abs=linear.spread + 1e-9)
    assert list(result.geometry) == ["SimCLRForPreTraining", "random init", "raw pixels"]
    assert result.geometry["SimCLRForPreTraining"]["rankme"] == pytest.approx(rankme(result.features["plain"]))
    assert result.geometry["SimCLRForPreTraining"]["alignment"] > 0


def test_the_seeds_choose_the_labels():
    pixels = pixel_encoder(squares(90, 0))
    options = {"labels_per_class": (2,), "anchors": []}
    train = squares(90, 0, labels=np.random.default_rng(0).integers(0, 3, 90))  # so that each choice learns its own
    rows = probe(pixels, train, squares(60, 1), seeds=3, **options).rows
    assert all(row.spread > 0 for row in rows if row.labels == "2 a class")
    assert probe(pixels, train, squares(60, 1), seeds=3, **options).rows == rows


def test_the_bootstrap_covers_the_mean():
    hits = np.random.default_rng(0).random(500) < 0.8
    low, high = bootstrap_interval(hits)
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / 500)
    assert low < hits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    thirds = np.random.default_rng(1).integers(0, 4, 500) / 3  # means over three seeds
    low, high = bootstrap_interval(thirds, resamples=10_000)
    assert high - low == pytest.approx(2 * 1.96 * thirds.std() / np.sqrt(500), rel=0.05)


def test_a_probe_that_trains_the_encoder_is_found_out():
    model = SimCLRForPreTraining(SimCLRConfig(**SMALL))

    def encode(pixels):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return model.simclr(pixels).pooler_output

    cheat = Encoder("cheat", encode, model, 8)
    with pytest.raises(RuntimeError, match="weights of cheat changed"):
        probe(cheat, squares(30, 0), squares(12, 1), seeds=1, labels_per_class=(), anchors=[])


def test_the_anchors_of_a_function_and_of_pixels():
    images = squares(9, 0)
    assert [one.name for one in default_anchors(Encoder("f", lambda pixels: pixels), images)] == ["raw pixels"]
    assert default_anchors(pixel_encoder(images), images) == []
    model = as_encoder(SimCLRForPreTraining(SimCLRConfig(**SMALL)))
    assert [one.name for one in default_anchors(model, images)] == ["random init", "raw pixels"]


def test_images_smaller_than_the_input_are_enlarged_and_that_is_said_once(caplog):
    enlarging = Encoder("big", lambda pixels: pixels.mean((2, 3)), None, 16)
    with caplog.at_level("INFO", "hfssl"):
        probe(enlarging, squares(30, 0), squares(12, 1), seeds=1, labels_per_class=(), anchors=[])
    said = [record.message for record in caplog.records if "enlarged" in record.message]
    assert len(said) == 1 and "8 x 8 pixels, are smaller than the input of big, 16 x 16" in said[0]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"classes": 1}, {}, "all of one class"),
        ({"classes": 2}, {"class_names": ["0", "1"]}, r"classes that no training image has: \[2\]"),
        ({"labels": None}, {}, r"the training images \(squares\) have none"),
        ({}, {"labels": None}, r"the test images \(squares\) have none"),
        ({"labels": np.array([0, 1, -1] * 3)}, {}, "label -1: some are unlabelled"),
        ({}, {"class_names": ["0", "1", "cat"]}, r"only in training \['2'\], only in test \['cat'\]"),
        ({}, {"class_names": ["1", "0", "2"]}, "number the classes in another order"),
    ],
)
def test_labels_that_cannot_be_probed(train, test, message):
    with pytest.raises(InputError, match=message):
        probe(pixel_encoder(squares(9, 0)), squares(9, 0, **train), squares(9, 1, **test), seeds=1, anchors=[])


def test_k_above_the_bank():
    with pytest.raises(InputError, match="k = 10 neighbours of 9 training images: give a smaller --knn_k"):
        probe(pixel_encoder(squares(9, 0)), squares(9, 0), squares(9, 1), knn_k=[5, 10], anchors=[])


def test_a_class_with_too_few_images_is_said_before_anything_is_extracted():
    def encode(pixels):
        raise AssertionError("nothing is to be encoded")

    with pytest.raises(InputError, match=r"class 0 has 3 training images, fewer than 5 .*smaller --labels_per_class"):
        probe(Encoder("never", encode, image_size=8), squares(9, 0), squares(9, 1), anchors=[])


@pytest.mark.parametrize(("protocol", "says"), [("lbfgs", "linear: fit"), ("sgd", "linear (SGD): step")])
def test_each_fit_shows_how_far_it_is(monkeypatch, caplog, protocol, says):
    monkeypatch.setattr("hfssl.progress.INTERVAL", 0)
    monkeypatch.setattr("hfssl.evaluation.classifiers.SGD_STEPS", 20)
    pixels = pixel_encoder(squares(30, 0))
    for shown in (False, True):
        with caplog.at_level("INFO"):
            probe(pixels, squares(30, 0), squares(30, 1), 1, (), protocol=protocol, anchors=[], progress=shown)
        assert (f"raw pixels, {says} " in caplog.text) == shown and (" 0 s left" in caplog.text) == shown


def test_dinov2_s_protocol_has_its_name(monkeypatch):
    monkeypatch.setattr(probes, "LINEAR", {"sgd": ("linear (SGD)", _first_class)})
    found = probe(
        pixel_encoder(squares(9, 0)),
        squares(30, 0),
        squares(9, 1),
        seeds=1,
        protocol="sgd",
        labels_per_class=(),
        anchors=[],
    )
    assert [row.protocol for row in found.rows] == ["kNN", "linear (SGD)"]
    assert found.rows[1].accuracy == pytest.approx(1 / 3) and found.rows[1].chosen == ("rate 0.1",)


def _first_class(queries, bank, labels, num_classes, seeds, label):
    return torch.zeros(len(seeds), len(queries), dtype=torch.int64), ["rate 0.1"] * len(seeds)
