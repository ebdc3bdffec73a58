"""What a probe is asked for: the flags, the encoder and the images they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfssl.data.builtin import shift_and_rotate
from hfssl.data.image_sources import splits_of
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError, nearest
from hfssl.evaluation.encoders import PIXELS, Encoder, load_encoder, pixel_encoder
from hfssl.evaluation.probes import LINEAR


@dataclass
class ProbeArguments:
    """What to probe, and on which images."""

    model: str = field(
        metadata={
            "help": "A saved directory or a Hub id; timm:NAME, local-dir:DIR or hf-hub:ID (timm's); random:NAME or "
            "random:DIR, an architecture with random weights; or pixels."
        }
    )
    dataset: str | None = field(
        default=None, metadata={"help": "builtin:digits, builtin:photos, or a folder or Hub id with train and test."}
    )
    train_file: str | None = field(default=None, metadata={"help": "Instead of a dataset: the training images."})
    test_file: str | None = field(default=None, metadata={"help": "Instead of a dataset: the test images."})
    seeds: int = field(default=3, metadata={"help": "Number of seeds."})
    first_seed: int = field(default=0, metadata={"help": "The first of them."})
    labels_per_class: list[int] = field(
        default_factory=lambda: [5], metadata={"help": "Few-label probes, besides the one with all labels."}
    )
    label_fractions: list[float] = field(
        default_factory=lambda: [0.01, 0.1], metadata={"help": "Probes with a share of each class's labels."}
    )
    knn_k: list[int] | None = field(
        default=None,
        metadata={"help": "Neighbours that vote, one or several to choose from; 10 20 100 200 by default."},
    )
    protocol: str = field(
        default="lbfgs",
        metadata={"help": "The linear probe: lbfgs, logistic regression; sgd, DINOv2's grid.", "choices": list(LINEAR)},
    )
    anchors: bool = field(default=True, metadata={"help": "Also probe a random init and raw pixels."})
    layers: bool = field(default=False, metadata={"help": "Also probe the features after each layer."})
    distorted: bool = field(default=True, metadata={"help": "Also test on shifted and rotated copies (builtin data)."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the input; by default the model's own."})
    probe_batch_size: int = field(default=256, metadata={"help": "Images at a time."})
    device: str | None = field(default=None, metadata={"help": "By default a GPU if there is one."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    random_seed: int = field(default=0, metadata={"help": "Of the weights of random:NAME."})
    allow_partial: bool = field(
        default=False, metadata={"help": "Probe although weights and model do not match; what is missing stays random."}
    )
    out: str | None = field(
        default=None, metadata={"help": "Write results.json, figures and report.html to this folder."}
    )
    export_embeddings: bool = field(default=False, metadata={"help": "Also write embeddings.parquet to --out."})

    def __post_init__(self):
        files = (self.train_file is not None) + (self.test_file is not None)
        if files != (2 if self.dataset is None else 0):
            raise InputError("give either --dataset, or --train_file and --test_file")
        if self.protocol not in LINEAR:
            raise InputError(
                f"unknown protocol {self.protocol!r}: one of {', '.join(LINEAR)}{nearest(self.protocol, LINEAR)}"
            )
        counts = [self.seeds, self.probe_batch_size, *self.labels_per_class, *(self.knn_k or [])]
        if min(counts) < 1 or (self.image_size or 1) < 1:
            raise InputError("seeds, knn_k, labels_per_class, image_size and probe_batch_size must be at least 1")
        if any(not 0 < fraction < 1 for fraction in self.label_fractions):
            raise InputError(f"label_fractions must lie between 0 and 1, not {self.label_fractions}")
        if self.export_embeddings and not self.out:
            raise InputError("--export_embeddings needs a folder to write to: give --out")
        if self.out and (Path(self.out).is_file() or self.out.endswith(".json")):
            raise InputError(f"--out names a folder, in which results.json is written, and {self.out!r} is none")


def open_probe(args: ProbeArguments) -> tuple[Encoder, ImageDataset, dict[str, ImageDataset]]:
    """The encoder, the training images, and the test images by name.

    Raises:
        InputError: one of them cannot be opened.
    """
    encoder = None
    if args.model != PIXELS:  # first: a wrong name is found before any image is decoded
        encoder = load_encoder(
            args.model, args.trust_remote_code, args.image_size, args.allow_partial, args.random_seed
        )
    train = load_images(args.train_file or args.dataset, split="train")
    test = load_images(args.test_file or args.dataset, split=_test_split(args))
    if args.test_file and train.fingerprint == test.fingerprint:
        raise InputError(f"{train.source} is both the training and the test images: nothing could be told by that")
    tests = {"plain": test}
    if args.distorted and args.dataset and args.dataset.startswith("builtin:"):
        tests["shifted and rotated"] = distorted_copy(test)
    return encoder or pixel_encoder(train), train, tests


def _test_split(args: ProbeArguments) -> str:
    """A folder that has a test split is tested on it; a file, or a folder without splits, is all "train"."""
    folder = args.test_file and Path(args.test_file)
    return "test" if not folder or (folder.is_dir() and "test" in splits_of(folder)) else "train"


def distorted_copy(images: ImageDataset, seed: int = 0) -> ImageDataset:
    """Shifted and rotated copies of images of one size: what a representation should not mind and raw pixels do."""
    moved = torch.from_numpy(shift_and_rotate(images.stack().numpy(), seed))
    return ImageDataset(moved, images.labels, images.class_names, f"{images.source}, shifted and rotated")
