"""Probes: how well simple classifiers on frozen features do, beside what random weights and raw pixels reach.

The protocol, which every result carries: features are extracted once, without augmentation. kNN is weighted by cosine
similarity (temperature 0.07, as DINO), with k chosen from 10, 20, 100 and 200. The linear probe is multinomial logistic
regression on standardised features, with C chosen from 1e-4 to 100; or, as DINOv2's, linear heads trained by SGD with
13 learning rates and 3 weight decays, of which one is chosen. Whatever is chosen is chosen on a held-out tenth of the
labelled training images; the test images choose nothing. Few-label probes take the same number, or the same share, of
labelled images of each class, drawn anew for each seed. An interval is the 95 % bootstrap over the test images.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hfssl.data.augmentation import Augmentation
from hfssl.errors import InputError
from hfssl.evaluation.classifiers import Classifier, knn_probe, linear_probe, sgd_probe
from hfssl.evaluation.encoders import Encoder, as_encoder, pixel_encoder, random_encoder
from hfssl.evaluation.features import (
    extract_features,
    extract_layers,
    extract_view,
    is_first_process,
    weights_hash,
)
from hfssl.evaluation.geometry import alignment, feature_std, rankme, uniformity
from hfssl.evaluation.knn import K_GRID
from hfssl.evaluation.labels import check_labels, label_amount, select_labels

logger = logging.getLogger(__name__)

BOOTSTRAP = 1000  # resamples
GEOMETRY_IMAGES = 2048  # test images that the geometry is measured on, at most
LINEAR = {"lbfgs": ("linear", linear_probe), "sgd": ("linear (SGD)", sgd_probe)}


@dataclass(frozen=True)
class ProbeRow:
    """One result.

    Attributes:
        encoder, test: whose features, and on which test images.
        protocol: "kNN", "linear", "linear (SGD)" or "fine-tuned".
        labels: "all", how many a class, or which share.
        accuracy, spread: mean and standard deviation over the seeds (0 for one seed), as fractions.
        low, high: 95 % bootstrap interval of the accuracy over the test images.
        n: number of test images. seeds: number of seeds.
        chosen: for each seed what was chosen on held-out images.
        layer: after which the features were taken; "pooled" is the encoder's output.
    """

    encoder: str
    test: str
    protocol: str
    labels: str
    accuracy: float
    spread: float
    low: float
    high: float
    n: int
    seeds: int
    chosen: tuple[str, ...] = ()
    layer: str = "pooled"


@dataclass
class ProbeResult:
    """All results of a probe; in other processes than the first only the features.

    Attributes:
        rows: in the order of the encoders.
        geometry: for each encoder its RankMe, feature standard deviation, alignment and uniformity.
        features: of the model, "train" and each test set by its name, (N, D).
        predictions: of its linear probe with all labels and the first seed, by test set, int64 (n,).
        weights: hash of the model's weights, the same before and after.
        train_seconds: of the encoders that were trained for the probe, by name.
    """

    rows: list[ProbeRow] = field(default_factory=list)
    geometry: dict[str, dict[str, float]] = field(default_factory=dict)
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    weights: str = ""
    train_seconds: dict[str, float] = field(default_factory=dict)


def default_anchors(encoder: Encoder, train) -> list[Encoder]:
    """What a model must beat: the same architecture with random weights, and raw pixels; before them its own codes."""
    codes = [encoder.codes()] if encoder.codes else []
    random = [random_encoder(encoder, seed=1)] if encoder.fresh else []  # 0 is that of "random:NAME"
    return [*codes, *random, *([pixel_encoder(train)] if encoder.name != "raw pixels" else [])]


def probe(
    model,
    train,
    tests,
    seeds: int = 3,
    labels_per_class: Sequence[int] = (5,),
    label_fractions: Sequence[float] = (),
    knn_k: Sequence[int] | None = None,
    protocol: str = "lbfgs",
    anchors: Sequence[Encoder] | None = None,
    layers: bool = False,
    image_size: int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
    first_seed: int = 0,
) -> ProbeResult:
    """Probes a model and its anchors.

    With several processes all must call; they share the extraction, and the first one classifies.

    Args:
        model: an `Encoder`, or what `as_encoder` takes.
        train: labelled images (`ImageDataset`).
        tests: labelled images, or a mapping from names to them, such as {"plain": ..., "shifted and rotated": ...}.
        seeds: of the choice of labels and of the held-out tenth. The encoder and the random init are one each.
        labels_per_class, label_fractions: the few-label probes, besides the one with all labels.
        knn_k: from which k is chosen; by default `K_GRID`, as far as there are that many images.
        protocol: of the linear probe, "lbfgs" or "sgd".
        anchors: by default `default_anchors`.
        layers: also probe the features after each layer, with all labels.
        first_seed: the seeds are this one and those after it.

    Raises:
        InputError: labels are absent, of one class, or others in test than in train; k is above the bank.
        RuntimeError: the encoder's weights changed.
    """
    tests = tests if isinstance(tests, Mapping) else {"test": tests}
    encoder = as_encoder(model, image_size)
    num_classes = check_probe(encoder, train, tests, labels_per_class, knn_k, layers)
    _say_if_enlarged(encoder, train)
    before, result, tried = weights_hash(encoder.module), ProbeResult(), range(first_seed, first_seed + seeds)
    linear, classify = LINEAR[protocol]
    options = {"batch_size": batch_size, "device": device}
    extracted = []  # of all encoders before any is classified: no process waits for the first one in between
    for one in [encoder, *(default_anchors(encoder, train) if anchors is None else anchors)]:
        features = {
            name: _extract(one, images, layers, progress=progress, **options)
            for name, images in {"train": train, **tests}.items()
        }
        result.geometry[one.name] = _geometry(one, next(iter(tests.values())), features[next(iter(tests))], options)
        extracted.append((one, features))
        if one.train_seconds:
            result.train_seconds[one.name] = one.train_seconds
    result.features = {name: parts["pooled"] for name, parts in extracted[0][1].items()}
    for one, features in extracted if is_first_process() else ():
        for layer in features["train"]:
            told = one.name + ("" if layer == "pooled" else f", {layer}")
            if progress:
                logger.info("Probing %s", told)
            named = functools.partial(classify, label=f"{told}, {linear}" if progress else "")
            classifiers = {"kNN": functools.partial(knn_probe, ks=knn_k or K_GRID), linear: named}
            bank, views = features["train"][layer], {name: features[name][layer] for name in tests}
            amounts = ("all", *labels_per_class, *label_fractions) if layer == "pooled" else ("all",)
            for amount in amounts:
                rows, guesses = _probe_features(
                    bank, train.labels, views, tests, amount, tried, classifiers, num_classes, device
                )
                result.rows += [ProbeRow(encoder=one.name, layer=layer, **row) for row in rows]
                if one is encoder and layer == "pooled" and amount == "all":
                    result.predictions = guesses[linear]
    result.weights = weights_hash(encoder.module)
    if result.weights != before:
        raise RuntimeError(f"the weights of {encoder.name} changed while they were probed")
    return result


def _extract(encoder: Encoder, images, layers: bool, **options) -> dict[str, torch.Tensor]:
    """The pooled features (N, D) of all images or, where it has them, those after each layer."""
    if layers and encoder.encode_layers:
        return extract_layers(encoder, images, **options)
    return {"pooled": extract_features(encoder, images, **options)}


def check_probe(
    encoder: Encoder,
    train,
    tests: Mapping,
    labels_per_class: Sequence[int] = (),
    knn_k: Sequence[int] | None = None,
    layers: bool = False,
) -> int:
    """The number of classes, once it is known that the probe can be done: before anything takes time.

    Raises:
        InputError: as `probe`; a class has fewer images than `labels_per_class`.
    """
    num_classes = check_labels(train, tests)
    if knn_k and max(knn_k) > len(train):
        raise InputError(f"k = {max(knn_k)} neighbours of {len(train)} training images: give a smaller --knn_k")
    for amount in labels_per_class:
        select_labels(train.labels, amount, seed=0)
    if layers and encoder.encode_layers is None:
        raise InputError(f"{encoder.name} does not give the features after each layer: leave --layers out")
    return num_classes


def _say_if_enlarged(encoder: Encoder, images) -> None:
    height, width = images[0]["image"].shape[-2:]
    if min(height, width) < encoder.image_size:
        logger.info(
            "The images, the first of %s x %s pixels, are smaller than the input of %s, %s x %s: they are enlarged "
            "(--image_size asks for another input)",
            width, height, encoder.name, encoder.image_size, encoder.image_size,
        )  # fmt: skip


def _geometry(encoder: Encoder, images, features: dict[str, torch.Tensor], options: dict) -> dict[str, float]:
    """Of the first test images; for the alignment two augmented views of each (SimCLR's for CIFAR-10)."""
    count = min(GEOMETRY_IMAGES, len(images))
    augmentation = Augmentation(encoder.image_size, encoder.mean, encoder.std)
    part = [images[i] for i in range(count)]
    views = [extract_view(encoder, part, augmentation, seed, **options) for seed in (0, 1)]
    pooled = features["pooled"][:count]
    return {
        "rankme": rankme(pooled),
        "feature_std": feature_std(pooled),
        "alignment": alignment(*views),
        "uniformity": uniformity(pooled),
    }


def _probe_features(
    bank: torch.Tensor,
    bank_labels: np.ndarray,
    views: dict[str, torch.Tensor],
    tests: Mapping,
    amount: str | int | float,
    seeds: Sequence[int],
    classifiers: dict[str, Classifier],
    num_classes: int,
    device,
) -> tuple[list[dict], dict[str, dict[str, np.ndarray]]]:
    """All protocols on features with some of the labels, on every test set.

    Returns:
        The rows, without encoder and layer, and the predictions of the first seed, by protocol and test.
    """
    queries = torch.cat(list(views.values())).to(device)  # one fit serves all the test sets
    found = {protocol: ([], []) for protocol in classifiers}  # predictions, a tensor (s, M) each, and what was chosen
    if amount == "all":
        parts = [(np.arange(len(bank)), seeds)]
    else:
        parts = [(select_labels(bank_labels, amount, seed), [seed]) for seed in seeds]
    for rows, part in parts:
        features, labels = bank[rows].to(device), torch.from_numpy(bank_labels[rows]).to(device)
        for protocol, classify in classifiers.items():
            predicted, chosen = classify(queries, features, labels, num_classes, part)
            found[protocol][0].append(predicted.cpu())
            found[protocol][1].extend(chosen)
    rows, guesses = [], {}
    for protocol, (predicted, chosen) in found.items():
        split = torch.cat(predicted).split([len(views[test]) for test in tests], dim=1)
        guesses[protocol] = {test: part[0].numpy() for test, part in zip(tests, split, strict=True)}
        for test, part in zip(tests, split, strict=True):
            scores = accuracies(part.numpy() == tests[test].labels)
            rows.append({"test": test, "protocol": protocol, "labels": label_amount(amount), **scores})
            rows[-1]["chosen"] = tuple(chosen)
    return rows, guesses


def accuracies(hits: np.ndarray) -> dict[str, float | int]:
    """What a `ProbeRow` says of hits, bool (seeds, n)."""
    low, high = bootstrap_interval(hits.mean(0))
    by_seed = hits.mean(1)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
    return {
        "accuracy": float(by_seed.mean()),
        "spread": spread,
        "low": low,
        "high": high,
        "n": hits.shape[1],
        "seeds": len(hits),
    }


def bootstrap_interval(scores: np.ndarray, resamples: int = BOOTSTRAP, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of scores (n,), resampled with a fixed seed.

    The scores take few values, so a resample is a draw of how often each of them comes.
    """
    values, counts = np.unique(scores, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(scores), counts / len(scores), resamples)
    low, high = np.percentile(drawn @ values / len(scores), [2.5, 97.5])
    return float(low), float(high)
