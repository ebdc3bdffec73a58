"""What the figures show, read from matplotlib's objects."""

import numpy as np
import torch

from hfssl.evaluation import figures
from hfssl.evaluation.figures import RIGHT, WRONG, confusion_figure, embedding_map, layer_figure, neighbour_sheet


def test_the_confusions_are_shares_of_each_class():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 2])
    (axes,) = confusion_figure(labels, predicted, ["a", "b", "c"]).axes
    shown = np.asarray(axes.images[0].get_array())
    assert shown.tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert sorted(text.get_text() for text in axes.texts) == sorted(["75", "25", "50", "50", "100"])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]


def test_the_sheet_shows_the_nearest_first_and_whether_they_are_of_the_class():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    pictures = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)

    class Images(list):
        labels, class_names = np.array([0, 1, 0, 1]), ["x", "y"]

    train = Images({"image": picture} for picture in pictures)
    test = Images([{"image": pictures[0]}])
    test.labels = np.array([0])
    figure = neighbour_sheet(torch.tensor([[1.0, 0.01]]), bank, test, train, columns=3)
    shown = [int(np.asarray(axes.images[0].get_array()).flat[0]) for axes in figure.axes]
    assert shown == [0, 0, 1, 2]  # the image, then its neighbours in the order of their similarity
    assert [axes.title.get_text() for axes in figure.axes] == ["x", "x", "y", "x"]
    assert [axes.title.get_color() for axes in figure.axes] == ["black", RIGHT, WRONG, RIGHT]


def test_the_map_shows_every_image_under_its_class(monkeypatch):
    labels = np.arange(40) % 3
    features = np.eye(3)[labels] * 10 + np.random.default_rng(0).normal(size=(40, 3))
    (axes,) = embedding_map(features, labels, ["x", "y", "z"]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x", "y", "z"]
    assert [len(points.get_offsets()) for points in axes.collections] == [14, 13, 13]
    monkeypatch.setattr(figures, "MAPPED", 15)
    (axes,) = embedding_map(features, labels, ["x", "y", "z"]).axes
    assert sum(len(points.get_offsets()) for points in axes.collections) == 15


def test_a_curve_an_encoder():
    points = [("layer 0", 0.2, 0.1, 0.3), ("pooled", 0.5, 0.4, 0.6)]
    (axes,) = layer_figure({"ours": points, "random init": points[:1]}).axes
    assert [line.get_label() for line in axes.lines] == ["ours", "random init"]
    assert np.allclose(axes.lines[0].get_ydata(), [20, 50])
