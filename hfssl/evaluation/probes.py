"""Probes: how well simple classifiers on frozen features do, beside what random weights and raw pixels reach.

The protocol, which every result carries: features are extracted once, without augmentation; kNN is weighted by
cosine similarity (temperature 0.07, as DINO); the linear probe is multinomial logistic regression on standardised
features, its C chosen on a held-out tenth of the training images; the test images choose nothing. Few-label probes
take the same number of labelled images a class, drawn anew for each seed. An interval is the 95 % bootstrap over the
test images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from hfssl.errors import InputError
from hfssl.evaluation.classifiers import knn_predict, linear_predict, select_labels
from hfssl.evaluation.features import (
    Encoder,
    as_encoder,
    extract_features,
    load_encoder,
    pixel_encoder,
    random_encoder,
    weights_hash,
)

BOOTSTRAP = 1000  # resamples


@dataclass(frozen=True)
class ProbeRow:
    """One result.

    Attributes:
        encoder, test: whose features, and on which test images.
        protocol: "kNN (k=...)" or "linear".
        labels: "all", or how many a class.
        accuracy, spread: mean and standard deviation over the seeds (0 for one seed), as fractions.
        low, high: 95 % bootstrap interval of the accuracy over the test images.
        n: number of test images. seeds: number of seeds.
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


def probe(
    model,
    train,
    tests,
    seeds: int = 3,
    labels_per_class: Sequence[int] = (5,),
    knn_k: int = 20,
    anchors: bool = True,
    image_size: int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> list[ProbeRow]:
    """Probes a model and its anchors: the same architecture with random weights, and raw pixels.

    Args:
        model: an `Encoder`, or what `as_encoder` takes.
        train: labelled images (`ImageDataset`).
        tests: labelled images, or a mapping from names to them, such as {"plain": ..., "shifted and rotated": ...}.
        seeds: of the choice of labels and of the held-out tenth. The encoder and the random init are one each.
        labels_per_class: the few-label probes, besides the one with all labels.
        knn_k: neighbours; fewer where there are fewer labelled images.

    Raises:
        InputError: labels are absent, of one class, or test classes are not among the training classes.
        RuntimeError: the encoder's weights changed.
    """
    tests = tests if isinstance(tests, Mapping) else {"test": tests}
    num_classes = _check_labels(train, tests)
    encoder = as_encoder(model, image_size)
    encoders = [encoder, random_encoder(encoder), pixel_encoder(train)] if anchors else [encoder]
    before = weights_hash(encoder.module)
    rows = []
    for one in encoders:
        bank = extract_features(one, train, batch_size=batch_size, device=device, progress=progress)
        views = {
            name: extract_features(one, test, batch_size=batch_size, device=device, progress=progress)
            for name, test in tests.items()
        }
        for labels in ("all", *labels_per_class):
            rows += _probe_features(one.name, bank, train.labels, views, tests, labels, seeds, knn_k, num_classes)
    if weights_hash(encoder.module) != before:
        raise RuntimeError(f"the weights of {encoder.name} changed while they were probed")
    return rows


def _check_labels(train, tests: Mapping) -> int:
    if train.labels is None or any(test.labels is None for test in tests.values()):
        raise InputError("a probe needs labels, in the training and in the test images")
    known = set(np.unique(train.labels).tolist())
    if len(known) < 2:
        raise InputError("the training images are all of one class: there is nothing to probe")
    for name, test in tests.items():
        if strangers := sorted(set(np.unique(test.labels).tolist()) - known):
            raise InputError(f"the {name} images have classes that no training image has: {strangers[:10]}")
        if train.class_names and test.class_names and list(train.class_names) != list(test.class_names):
            raise InputError(
                f"the {name} images have other classes than the training images: the labels do not compare"
            )
    return max(known) + 1


def _probe_features(
    name: str, bank, bank_labels, views, tests, labels: str | int, seeds: int, knn_k: int, num_classes: int
) -> list[ProbeRow]:
    """Both protocols of one encoder with one number of labels, on every test set."""
    order = list(views)
    together = torch.cat([views[test] for test in order])  # one fit serves all the test sets
    correct = {}  # (protocol, test) -> one bool array (n,) a seed
    k = min(knn_k, len(bank) if labels == "all" else int(labels) * len(np.unique(bank_labels)))
    for seed in range(seeds):
        chosen = np.arange(len(bank)) if labels == "all" else select_labels(bank_labels, int(labels), seed)
        features, targets = bank[chosen], torch.from_numpy(bank_labels[chosen])
        for protocol in (f"kNN (k={k})", "linear"):
            if protocol == "linear":
                predicted, _ = linear_predict(together, features, targets, num_classes, seed)
            elif labels == "all" and seed:
                continue  # nothing in it is random
            else:
                predicted = knn_predict(together, features, targets, num_classes, k)
            for test, part in zip(order, predicted.split([len(views[test]) for test in order]), strict=True):
                correct.setdefault((protocol, test), []).append(part.numpy() == tests[test].labels)
    return [
        _row(name, test, protocol, "all" if labels == "all" else f"{labels} a class", np.stack(hits))
        for (protocol, test), hits in correct.items()
    ]


def _row(encoder: str, test: str, protocol: str, labels: str, hits: np.ndarray) -> ProbeRow:
    """hits: bool (seeds, n)."""
    low, high = bootstrap_interval(hits.mean(0))
    by_seed = hits.mean(1)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
    return ProbeRow(encoder, test, protocol, labels, float(by_seed.mean()), spread, low, high, hits.shape[1], len(hits))


def bootstrap_interval(scores: np.ndarray, resamples: int = BOOTSTRAP, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of scores (n,), resampled with a fixed seed."""
    random = np.random.default_rng(seed)
    means = [scores[random.integers(0, len(scores), len(scores))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def probe_table(rows: Sequence[ProbeRow], title: str = "Frozen features"):
    """The rows as a table of rich, in percent, one column an encoder."""
    from rich.table import Table

    caption = f"Accuracy in %, mean ± standard deviation over seeds (up to {max(row.seeds for row in rows)}), "
    table = Table(title=title, caption=caption + f"95 % bootstrap interval over {rows[0].n:,} test images")
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    for heading in ("test images", "labels", "protocol"):
        table.add_column(heading)
    for encoder in encoders:
        table.add_column(encoder, justify="right")
    tests = list(dict.fromkeys(row.test for row in rows))
    keys = sorted(dict.fromkeys((row.test, row.labels, row.protocol) for row in rows), key=lambda k: tests.index(k[0]))
    cells = {(row.test, row.labels, row.protocol, row.encoder): row for row in rows}
    for before, key in zip([None, *keys], keys, strict=False):
        if before and before[0] != key[0]:
            table.add_section()
        shown = [cells.get((*key, encoder)) for encoder in encoders]
        names = ("" if before and before[0] == key[0] else key[0], *key[1:])
        table.add_row(*names, *("" if row is None else _cell(row) for row in shown))
    return table


def _cell(row: ProbeRow) -> str:
    accuracy = f"{100 * row.accuracy:.1f}" + (f" ± {100 * row.spread:.1f}" if row.seeds > 1 else "")
    return f"{accuracy}\n{100 * row.low:.1f}–{100 * row.high:.1f}"


@dataclass
class ProbeArguments:
    """What to probe, and on which images."""

    model: str = field(metadata={"help": "A saved directory or a Hub id."})
    dataset: str | None = field(
        default=None, metadata={"help": "builtin:digits, builtin:photos, or a folder or Hub id with train and test."}
    )
    train_file: str | None = field(default=None, metadata={"help": "Instead of a dataset: the training images."})
    test_file: str | None = field(default=None, metadata={"help": "Instead of a dataset: the test images."})
    seeds: int = field(default=3, metadata={"help": "Number of seeds."})
    labels_per_class: list[int] = field(
        default_factory=lambda: [5], metadata={"help": "Few-label probes, besides the one with all labels."}
    )
    knn_k: int = field(default=20, metadata={"help": "Neighbours that vote."})
    distorted: bool = field(default=True, metadata={"help": "Also test on shifted and rotated copies (builtin data)."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the input; by default the model's own."})
    probe_batch_size: int = field(default=256, metadata={"help": "Images at a time."})
    device: str | None = field(default=None, metadata={"help": "By default a GPU if there is one."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    out: str | None = field(default=None, metadata={"help": "Write the result to this JSON file."})

    def __post_init__(self):
        if (self.dataset is None) == (self.train_file is None or self.test_file is None):
            raise InputError("give either --dataset, or --train_file and --test_file")
        if self.seeds < 1 or self.knn_k < 1 or any(count < 1 for count in self.labels_per_class):
            raise InputError("seeds, knn_k and labels_per_class must be at least 1")


def run_probe(args: ProbeArguments) -> list[ProbeRow]:
    """Loads the model and the images, probes, and writes the JSON file if one is asked for."""
    from hfssl.data.images import load_images

    encoder = load_encoder(args.model, args.trust_remote_code, args.image_size)
    train = load_images(args.train_file or args.dataset, split="train")
    test = load_images(args.test_file or args.dataset, split="train" if args.test_file else "test")
    tests = {"plain": test}
    if args.distorted and args.dataset and args.dataset.startswith("builtin:"):
        tests["shifted and rotated"] = distorted_copy(test)
    rows = probe(
        encoder,
        train,
        tests,
        seeds=args.seeds,
        labels_per_class=args.labels_per_class,
        knn_k=args.knn_k,
        batch_size=args.probe_batch_size,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        progress=True,
    )
    if args.out:
        write_rows(args.out, rows, encoder, args)
    return rows


class _Decoded:
    """Labelled images in memory, with the interface of `ImageDataset` that probes use."""

    def __init__(self, images: torch.Tensor, like, source: str):
        self.images, self.source = images, source
        self.labels, self.class_names = like.labels, like.class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": int(self.labels[index]), "index": index}


def distorted_copy(images, seed: int = 0):
    """Shifted and rotated copies of images of one size: what a representation should not mind and raw pixels do."""
    from hfssl.data.builtin import shift_and_rotate

    pixels = torch.stack([images[i]["image"] for i in range(len(images))])
    moved = torch.from_numpy(shift_and_rotate(pixels.numpy(), seed))
    return _Decoded(moved, images, f"{images.source}, shifted and rotated")


def write_rows(path: str | Path, rows: Sequence[ProbeRow], encoder: Encoder, args: ProbeArguments) -> None:
    """Writes results with all that is needed to read them: protocol, seeds, anchors, versions, the weights' hash."""
    import timm
    import transformers

    from hfssl import __version__

    result = {
        "model": args.model,
        "weights_sha256": weights_hash(encoder.module),
        "data": {"train": args.train_file or args.dataset, "test": args.test_file or args.dataset},
        "protocol": " ".join(__doc__.partition("\n\n")[2].split()),
        "settings": asdict(args),
        "seeds": list(range(args.seeds)),
        "anchors": sorted({row.encoder for row in rows} - {encoder.name}),
        "versions": {
            "hfssl": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "transformers": transformers.__version__,
        },
        "rows": [asdict(row) for row in rows],
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
