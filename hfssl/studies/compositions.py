"""Which augmentations teach what: SimCLR with each alone and each pair (Chen et al. 2020, section 3.1 and figure 5).

As in the paper only one of the two branches is augmented: both views of an image begin with the same random crop, then
one transformation or two are applied to the second view, and the first stays as it is. A cell of the matrix is one
training and the probes of its frozen encoder; the diagonal has the single transformations. Cells are jobs of a
`hfssl.training.ledger`, so the study goes on where it was stopped and several processes share it.

What the paper leaves open is set here: each transformation has the strength and the share of views that
`AugmentationArguments` gives it, colour is the jitter and the dropping together, and a rotation is by quarters of a
turn, as in figure 4.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from transformers import PreTrainedConfig, set_seed

from hfssl.config import build_model
from hfssl.data.augmentation import Augmentation, AugmentationArguments
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageArguments, ImageDataset, load_images
from hfssl.errors import InputError, nearest
from hfssl.evaluation.encoders import pixel_encoder
from hfssl.evaluation.probes import probe
from hfssl.models import SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

TRANSFORMATIONS = {  # of figure 5, in its order
    "crop": ["crop"],
    "cutout": ["cutout"],
    "color": ["color_jitter", "grayscale"],
    "sobel": ["edges"],
    "noise": ["noise"],
    "blur": ["blur"],
    "rotate": ["quarter_turns"],
}
PROTOCOLS = ("linear", "kNN")
ANCHORS = ("random init", "raw pixels")


@dataclass
class CompositionArguments:
    """Which cells, and how their encoders are probed."""

    transformations: list[str] = field(
        default_factory=lambda: list(TRANSFORMATIONS),
        metadata={"help": f"Rows and columns of the matrix, of {', '.join(TRANSFORMATIONS)}."},
    )
    seeds: int = field(
        default=1, metadata={"help": "Trainings of each cell, from --seed on; the matrix has their mean."}
    )
    color_strength: float = field(default=0.5, metadata={"help": "s of the colour jitter (CIFAR 0.5, ImageNet 1)."})
    first_crop: bool = field(
        default=True, metadata={"help": "Both views begin with the same random crop, as in the paper; or are whole."}
    )
    min_crop: float = field(default=0.08, metadata={"help": "Smallest area of a crop, as a share of the image."})
    test_path: str | None = field(
        default=None, metadata={"help": "Labelled images to test the probes on; by default image_path's test split."}
    )
    test_split: str = field(default="test", metadata={"help": "Of image_path, if there is no test_path."})
    probe_images: int = field(default=0, metadata={"help": "Training images for the probes; 0: all."})

    def __post_init__(self):
        for name in self.transformations:
            if name not in TRANSFORMATIONS:
                choices = f"one of {', '.join(TRANSFORMATIONS)}{nearest(name, TRANSFORMATIONS)}"
                raise InputError(f"unknown transformation {name!r}: {choices}")
        if len({*self.transformations}) < len(self.transformations) or not self.transformations:
            raise InputError("transformations must name at least one, and none twice")
        AugmentationArguments(color_strength=self.color_strength, min_crop=self.min_crop)  # checks them
        if self.seeds < 1 or self.probe_images < 0:
            raise InputError("seeds must be at least 1, probe_images at least 0")


@dataclass
class Study:
    """All that the cells have in common.

    Attributes:
        config: of the model.
        train, test: images; both labelled, for the probes alone.
        args: of each training; output_dir is the study's folder.
        settings: the study's own.
    """

    config: PreTrainedConfig
    train: ImageDataset
    test: ImageDataset
    args: PretrainingArguments
    settings: CompositionArguments

    @property
    def seeds(self) -> range:
        return range(self.args.seed, self.args.seed + self.settings.seeds)

    def jobs(self) -> dict[str, tuple[Any, int]]:
        """name -> (the second view's transformations or an anchor, the seed). All take the same time."""
        names = self.settings.transformations
        jobs = {f"{anchor}/seed {seed}": (anchor, seed) for seed in self.seeds for anchor in ANCHORS}
        for seed in self.seeds:
            for first in names:
                for second in names:
                    cell = (first,) if first == second else (first, second)
                    jobs[f"{' + '.join(cell)}/seed {seed}"] = (cell, seed)
        return jobs

    def execute(self, name: str, job: tuple[Any, int]) -> dict[str, float]:
        """Trains and probes one cell, or probes an anchor: the accuracy by each protocol, as a fraction."""
        cell, seed = job
        if cell == "raw pixels":
            return self._probe(pixel_encoder(self.train))
        set_seed(seed)
        model = build_model(SimCLRForPreTraining, copy.deepcopy(self.config))
        if cell == "random init":
            return self._probe(model)
        args = copy.copy(self.args)
        folder = Path(self.args.output_dir) / "cells" / name.replace("/", "-").replace(" ", "")
        args.seed, args.output_dir = seed, str(folder)
        run(PretrainingTrainer(model, args, self.train, data_collator=self.collator(cell, seed)))
        # From the folder: a process that was killed while it probed may have trained it.
        model = SimCLRForPreTraining.from_pretrained(folder)
        loss = json.loads((folder / "log_history.json").read_text())[-1].get("train_loss", float("nan"))
        found = self._probe(model) | {"loss": loss}
        shutil.rmtree(folder)
        return found

    def collator(self, cell: Sequence[str], seed: int) -> TwoViewCollator:
        """Two views with the same first crop; the second is transformed."""
        transformed = [operation for name in cell for operation in TRANSFORMATIONS[name]]
        shared = ["crop"] * self.settings.first_crop
        config = self.config
        views = [
            Augmentation(
                config.image_size, config.image_mean, config.image_std, augmentations=shared + operations,
                color_strength=self.settings.color_strength, min_crop=self.settings.min_crop,
            )
            for operations in ([], transformed)
        ]  # fmt: skip
        return TwoViewCollator(views, seed=seed, shared_draws=True)

    def _probe(self, model) -> dict[str, float]:
        count = min(self.settings.probe_images or len(self.train), len(self.train))
        found = probe(
            model, self.train.subset(range(count)), self.test, seeds=1, labels_per_class=(), anchors=(),
            device=self.args.device,
        )  # fmt: skip
        return {row.protocol: row.accuracy for row in found.rows}

    def identity(self) -> dict[str, Any]:
        """What the results depend on besides the names of the jobs."""
        settings = {
            name: value for name, value in asdict(self.settings).items() if name not in ("transformations", "seeds")
        }
        model, training = self.config.to_diff_dict(), self.args.identity()
        training.pop("seed")
        data = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        return json.loads(json.dumps({**settings, **training, "model": model, **data}, default=str))


def compare_compositions(
    config: PreTrainedConfig, images: ImageArguments, settings: CompositionArguments, args: PretrainingArguments
) -> dict[str, Any]:
    """Trains and probes what is missing of the matrix, and writes it into `args.output_dir`: compositions.json, a
    CSV file and a heat map a protocol.

    Returns:
        What compositions.json holds: for each protocol the matrix in percent (rows: the first transformation), the
        averages of its rows, and the anchors.

    Raises:
        InputError: bad settings or data, or another study in the folder.
    """
    train, test = _load(images, settings)
    study, folder = Study(config, train, test, args, settings), Path(args.output_dir)
    results = Ledger(folder / "ledger.jsonl", study.identity()).run(study.jobs(), study.execute)
    names = settings.transformations

    def percent(cell: str, protocol: str) -> list[float]:
        return [100 * results[f"{cell}/seed {seed}"][protocol] for seed in study.seeds]

    record: dict[str, Any] = {"settings": study.identity(), "seeds": [*study.seeds], "test images": len(test)}
    for protocol in PROTOCOLS:
        cells = [[percent(a if a == b else f"{a} + {b}", protocol) for b in names] for a in names]
        record[protocol] = {
            "transformations": names,
            "matrix": [[mean(cell) for cell in row] for row in cells],
            "spread": [[stdev(cell) if len(cell) > 1 else 0.0 for cell in row] for row in cells],
            "averages": [mean(mean(cell) for cell in row) for row in cells],
            "anchors": {anchor: mean(percent(anchor, protocol)) for anchor in ANCHORS},
        }
        _write_csv(folder / f"compositions_{protocol.lower()}.csv", record[protocol])
        heat_map(record[protocol], protocol).savefig(folder / f"compositions_{protocol.lower()}.png", dpi=130)
    (folder / "compositions.json").write_text(json.dumps(record, indent=1) + "\n")
    logger.info("The matrix is in %s: compositions.json, .csv and .png", folder)
    return record


def _load(images: ImageArguments, settings: CompositionArguments) -> tuple[ImageDataset, ImageDataset]:
    common = {
        "config": images.image_config, "image_column": images.image_column, "label_column": images.label_column,
        "skip_corrupt": images.skip_corrupt_images,
    }  # fmt: skip
    train = load_images(images.image_path, split=images.image_split, **common)
    if settings.test_path:
        return train, load_images(settings.test_path, **common)
    return train, load_images(images.image_path, split=settings.test_split, **common)


def _write_csv(path: Path, found: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["first \\ second", *found["transformations"], "average"])
        for name, row, average in zip(found["transformations"], found["matrix"], found["averages"], strict=True):
            writer.writerow([name, *(f"{value:.2f}" for value in [*row, average])])


def heat_map(found: dict[str, Any], protocol: str):
    """The matrix as figure 5 shows it: a matplotlib figure."""
    from matplotlib.figure import Figure

    names = found["transformations"]
    values = [[*row, average] for row, average in zip(found["matrix"], found["averages"], strict=True)]
    figure = Figure(figsize=(2.4 + 0.75 * len(values[0]), 1.8 + 0.6 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    low, high = image.get_clim()
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "black" if value > (low + high) / 2 else "white"
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.axvline(len(names) - 0.5, color="white", linewidth=3)
    axes.set_xticks(range(len(names) + 1), [*names, "average"], fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xlabel("second transformation")
    axes.set_ylabel("first transformation")
    anchors = ", ".join(f"{name} {value:.1f}" for name, value in found["anchors"].items())
    axes.set_title(f"{protocol} accuracy in % ({anchors})", fontsize=10)
    figure.colorbar(image)
    return figure
