"""Figures of what an encoder sees, by matplotlib: confusions, nearest neighbours, a map, accuracy after each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure

MAPPED = 2000  # images in a map, at most: t-SNE's time grows faster than their number
NAMED = 30  # classes whose names a figure shows
RIGHT, WRONG = "#2da44e", "#cf222e"


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Of the images of each class (row), the share in percent that was taken for each class (column)."""
    from sklearn.metrics import confusion_matrix

    count = len(class_names)
    shares = confusion_matrix(labels, predicted, labels=range(count), normalize="true")
    side = 2.5 + 0.35 * min(count, NAMED)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    if count <= NAMED:
        axes.set_xticks(range(count), class_names, rotation=90, fontsize=8)
        axes.set_yticks(range(count), class_names, fontsize=8)
        for row, column in np.argwhere(shares >= 0.005):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=ink)
    return figure


def neighbour_sheet(
    queries: torch.Tensor, bank: torch.Tensor, test, train, rows: int = 10, columns: int = 8, seed: int = 0
) -> Figure:
    """Test images drawn at random, each with its nearest training images by cosine similarity, the nearest first.

    Args:
        queries, bank: features of the labelled images `test` and `train`, (M, D) and (N, D).
    """
    rows, columns = min(rows, len(queries)), min(columns, len(bank))
    drawn = np.sort(np.random.default_rng(seed).choice(len(queries), rows, replace=False))
    similarity = F.normalize(queries[drawn].float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    nearest = similarity.topk(columns, dim=1).indices
    figure = Figure(figsize=(columns + 1, 1.15 * rows))  # a layout engine would take seconds for as many axes
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.96, wspace=0.1, hspace=0.25)
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for line, query, neighbours in zip(grid, drawn, nearest.tolist(), strict=True):
        label = test.labels[query]
        _show(line[0], test, int(query), "black")
        for axes, neighbour in zip(line[1:], neighbours, strict=True):
            _show(axes, train, neighbour, RIGHT if train.labels[neighbour] == label else WRONG)
    return figure


def _show(axes, images, index: int, colour: str) -> None:
    axes.imshow(images[index]["image"].permute(1, 2, 0).numpy())
    label = int(images.labels[index])
    axes.set_title(images.class_names[label] if images.class_names else str(label), fontsize=6, color=colour, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2)


def gallery(columns: Sequence[torch.Tensor], titles: Sequence[str]) -> Figure:
    """Images side by side: columns of as many images (B, 3, H, W), RGB in [0, 1], each with its title."""
    rows = len(columns[0])
    height = 1.3 * rows + 0.3
    figure = Figure(figsize=(1.3 * len(columns), height))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / height, wspace=0.05, hspace=0.05)
    grid = figure.subplots(rows, len(columns), squeeze=False).T
    for place, (line, images) in enumerate(zip(grid, columns, strict=True)):
        line[0].set_title(titles[place], fontsize=8, pad=3)
        for axes, image in zip(line, images.cpu(), strict=True):
            axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()
    return figure


def embedding_map(features, labels: np.ndarray, class_names: Sequence[str], seed: int = 0) -> Figure:
    """Features (N, D) in two dimensions, by t-SNE on their first 30 principal components; at most `MAPPED` of them."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) > MAPPED:
        chosen = np.sort(np.random.default_rng(seed).choice(len(features), MAPPED, replace=False))
        features, labels = features[chosen], labels[chosen]
    reduced = PCA(min(30, *features.shape), random_state=seed).fit_transform(features)
    points = TSNE(2, init="pca", perplexity=min(30, (len(features) - 1) / 3), random_state=seed).fit_transform(reduced)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(class_names) <= 10 else "tab20"]
    for number, name in enumerate(class_names):
        chosen = labels == number
        axes.scatter(points[chosen, 0], points[chosen, 1], s=8, color=colours(number % colours.N), label=name)
    if len(class_names) <= NAMED:
        axes.legend(markerscale=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def layer_figure(curves: Mapping[str, Sequence[tuple[str, float, float, float]]]) -> Figure:
    """Accuracy after each layer: for each encoder (layer, accuracy, low, high), in order, as fractions."""
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        layers, accuracy, low, high = zip(*points, strict=True)
        (line,) = axes.plot(layers, 100 * np.array(accuracy), marker="o", label=name)
        axes.fill_between(layers, 100 * np.array(low), 100 * np.array(high), alpha=0.2, color=line.get_color())
    axes.set_ylabel("accuracy of the linear probe, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="x", rotation=45)
    axes.legend(fontsize=8, frameon=False)
    return figure
