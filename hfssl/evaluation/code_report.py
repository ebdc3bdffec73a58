"""What the codes of a co-training model are worth as clusters of a labelled image set, beside k-means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from sklearn.cluster import KMeans

from hfssl.data.images import load_images
from hfssl.errors import InputError
from hfssl.evaluation.clustering import clustering_scores
from hfssl.evaluation.encoders import CODES, load_encoder, pixel_encoder
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.labels import check_labels
from hfssl.files import write_whole

PERCENT, BITS = ("hungarian", "many-to-one", "V-measure", "NMI"), ("entropy", "information")


@dataclass
class CodeArguments:
    """Whose codes, and which labelled images."""

    model: str = field(metadata={"help": "A directory or a Hub id that pretrain_cotraining.py saved."})
    dataset: str | None = field(
        default=None, metadata={"help": "builtin:digits, builtin:photos, or a folder or Hub id with train and test."}
    )
    train_file: str | None = field(default=None, metadata={"help": "Instead: the images that k-means is fitted on."})
    test_file: str | None = field(default=None, metadata={"help": "Instead: the images whose codes are compared."})
    seeds: int = field(default=5, metadata={"help": "Fits of k-means, the best of ten starts each."})
    device: str | None = field(default=None, metadata={"help": "By default a GPU if there is one."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    out: str | None = field(default=None, metadata={"help": "Also write the numbers to this JSON file."})

    def __post_init__(self):
        if (self.dataset is None) == (self.train_file is None or self.test_file is None):
            raise InputError("give either --dataset, or --train_file and --test_file")
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, not {self.seeds}")


def score_codes(args: CodeArguments) -> dict[str, list[dict[str, float]]]:
    """The scores of the model's codes, and of k-means with as many clusters on its features and on raw pixels, on the
    test images: a list each, of one fit a seed for k-means (see `clustering_scores`).

    Raises:
        InputError: no co-training model, or images without labels.
    """
    if args.out:
        check_file(args.out)
    encoder = load_encoder(CODES + args.model, args.trust_remote_code)  # first: before any image is decoded
    if args.dataset:
        train, test = load_images(args.dataset), load_images(args.dataset, split="test")
    else:
        train, test = load_images(args.train_file), load_images(args.test_file)
    check_labels(train, {"test": test})
    codes = extract_features(encoder, test, device=args.device)
    found = {"co-training": [clustering_scores(codes.argmax(1).numpy(), test.labels)]}
    for one in (load_encoder(args.model, args.trust_remote_code), pixel_encoder(train)):
        bank, queries = (extract_features(one, images, device=args.device) for images in (train, test))
        name = "k-means on raw pixels" if one.name == "raw pixels" else "k-means on its features"
        found[name] = [kmeans_scores(bank, queries, test.labels, codes.shape[1], seed) for seed in range(args.seeds)]
    if args.out:
        write_whole(args.out, json.dumps({"settings": asdict(args), "scores": found}, indent=1) + "\n")
    return found


def check_file(path: str) -> None:
    """Raises an InputError if a file cannot be made there."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if Path(path).is_dir() or not folder.is_dir():
        raise InputError(
            f"cannot write --out {path}: {'a folder' if Path(path).is_dir() else f'{folder} is no folder'}"
        )


def kmeans_scores(
    bank: torch.Tensor, queries: torch.Tensor, labels: np.ndarray, clusters: int, seed: int
) -> dict[str, float]:
    """k-means (Lloyd's, the best of ten starts), fitted on a bank (N, D), on queries (M, D) with labels (M,).

    Raises:
        InputError: fewer images than clusters.
    """
    if len(bank) < clusters:
        raise InputError(f"k-means makes {clusters} clusters of at least as many training images, not of {len(bank)}")
    fitted = KMeans(clusters, n_init=10, random_state=seed).fit(bank.numpy())
    return clustering_scores(fitted.predict(queries.numpy()), labels)


def codes_table(found: Mapping[str, Sequence[Mapping[str, float]]], title: str):
    """A rich table: a column each, percent for shares, bits for entropies, mean ± standard deviation over several."""
    from rich.table import Table

    table = Table("", *found, title=title, title_justify="left")
    for name in next(iter(found.values()))[0]:
        unit = ", %" if name in PERCENT else ", bits" if name in BITS else ""
        table.add_row(name + unit, *(_cell(name, [score[name] for score in scores]) for scores in found.values()))
    return table


def _cell(name: str, values: Sequence[float]) -> str:
    values = [100 * value for value in values] if name in PERCENT else values
    digits = 1 if name in PERCENT else 2 if name in BITS else 0
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"
