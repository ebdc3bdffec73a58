"""Co-training on labelled images and on a toy: do its codes become classes, and do they collapse where theory says?

The price beta of a code's entropy is worth paying while beta < I(z_x; z_y) / H(z_x); beyond it the best code is a
constant. On the toy both sides are known; on images I and H are those of the code that was learned with the recipe's
beta, from which the trainings with other prices go on. A job is one training; the jobs are on a ledger, so a study that
was stopped goes on where it was.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import PreTrainedConfig, set_seed

from hfssl.config import build_model
from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageArguments, ImageDataset, load_images
from hfssl.errors import InputError
from hfssl.evaluation.clustering import clustering_scores
from hfssl.evaluation.code_report import kmeans_scores
from hfssl.evaluation.encoders import CODES, load_encoder, pixel_encoder
from hfssl.evaluation.features import extract_features
from hfssl.models import CoTrainingForPreTraining, cotraining_loss
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

BLOCKS, WITHIN = 3, 2  # of the toy: x and y have 6 values
TOY_CODES, TOY_STEPS, TOY_STARTS = 4, 300, 20


@dataclass
class CoTrainingStudyArguments:
    """How many trainings, and which prices of memory."""

    seeds: int = field(default=5, metadata={"help": "Trainings with the recipe's beta, from --seed on."})
    betas: list[float] = field(
        default_factory=lambda: [0.4, 0.7, 0.8, 0.9, 1.0, 1.1],
        metadata={"help": "With which the first seed's model goes on."},
    )
    toy_noise: float = field(default=0.3, metadata={"help": "Share of the toy's pairs that lie in two blocks."})

    def __post_init__(self):
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, not {self.seeds}")
        if not all(map(math.isfinite, self.betas)):
            raise InputError(f"betas must be finite numbers, not {self.betas}")
        if not 0 <= self.toy_noise < 1 - 1 / BLOCKS:
            raise InputError(f"toy_noise must be at least 0 and below {1 - 1 / BLOCKS:.2f}, not {self.toy_noise}")


def run_cotraining_study(
    config: PreTrainedConfig,
    images: ImageArguments,
    views: Augmentation,
    settings: CoTrainingStudyArguments,
    args: PretrainingArguments,
) -> dict[str, Any]:
    """Does what is missing of the study and writes cotraining.json and .png into `args.output_dir`.

    Returns:
        "seeds": the scores of each seed's codes on the test images (`clustering_scores`); "k-means": of as many fits on
        raw pixels; "gain": the mean difference of their Hungarian accuracies and the ends of its 95 % interval
        (Student's, of two samples); "betas": for each beta what the codes of two views have (`measure`); "toy".

    Raises:
        InputError: bad settings or data, or another study in the folder.
    """
    train, test = load_images(images.image_path), load_images(images.image_path, split="test")
    if len(train) < config.num_codes:
        raise InputError(f"{len(train)} training images are fewer than the {config.num_codes} codes")
    if test.labels is None:
        raise InputError(f"the study compares codes with labels, and {test.source} has none")
    folder = Path(args.output_dir)
    study = _Study(config, train, test, views, args)
    seeds = [(config.beta, seed) for seed in range(args.seed, args.seed + settings.seeds)]
    sweep = [(beta, args.seed) for beta in settings.betas if beta != config.beta]
    results: dict[tuple[float, int], dict[str, Any]] = {}
    # One after the other: the sweep goes on from what the first seed has learned.
    for jobs, execute in ((seeds, study.begin), (sweep, study.go_on)):
        names = {f"{execute.__name__} with beta {beta:g}, seed {seed}": (beta, seed) for beta, seed in jobs}
        done = Ledger(folder / "ledger.jsonl", study.identity()).run(names, execute)
        results |= {job: done[name] for name, job in names.items()}
    scores = [results[job]["scores"] for job in seeds]
    pixels = [extract_features(pixel_encoder(train), part) for part in (train, test)]
    kmeans = [kmeans_scores(*pixels, test.labels, config.num_codes, seed) for seed in range(settings.seeds)]
    record = {
        "settings": asdict(settings),
        "beta": config.beta,
        "seeds": scores,
        "k-means": kmeans,
        "gain": difference([each["hungarian"] for each in scores], [each["hungarian"] for each in kmeans]),
        "betas": {str(job[0]): results[job] for job in sorted([seeds[0], *sweep])},
        "toy": toy_sweep(settings.toy_noise),
    }
    (folder / "cotraining.json").write_text(json.dumps(record, indent=1) + "\n")
    collapse_figure(record).savefig(folder / "cotraining.png", dpi=130)
    logger.info("The study is in %s: cotraining.json and .png", folder)
    return record


@dataclass
class _Study:
    """The trainings. The first seed's model is kept, since the sweep goes on from it."""

    config: PreTrainedConfig
    train: ImageDataset
    test: ImageDataset
    views: Augmentation
    args: PretrainingArguments

    def identity(self) -> dict[str, Any]:
        """What the results depend on besides the names of the jobs."""
        model, training = self.config.to_diff_dict(), self.args.identity()
        training.pop("seed")
        data = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        found = {"model": model, "training": training, "views": vars(self.views.settings), "data": data}
        return json.loads(json.dumps(found, default=str))

    def begin(self, name: str, job: tuple[float, int]) -> dict[str, Any]:
        """Trains from random weights."""
        seed = job[1]
        set_seed(seed)
        model = build_model(CoTrainingForPreTraining, copy.deepcopy(self.config))
        return self._train(model, seed, f"seed-{seed}", keep=seed == self.args.seed)

    def go_on(self, name: str, job: tuple[float, int]) -> dict[str, Any]:
        """Trains the first seed's model with another beta: from random weights the price of a code would have to be
        paid before it tells anything."""
        beta, seed = job
        folder = Path(self.args.output_dir) / f"seed-{seed}"
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}, from which the sweep goes on, is gone; begin in another --output_dir")
        model = CoTrainingForPreTraining.from_pretrained(folder, beta=beta)
        return self._train(model, seed, f"beta-{beta:g}")

    def _train(self, model: CoTrainingForPreTraining, seed: int, name: str, keep: bool = False) -> dict[str, Any]:
        """The scores of the codes of the test images, and what the codes of two training views have."""
        args, folder = copy.copy(self.args), Path(self.args.output_dir) / name
        args.seed, args.output_dir = seed, str(folder)
        collator = TwoViewCollator(self.views, seed=seed)
        run(PretrainingTrainer(model, args, self.train, data_collator=collator))
        codes = extract_features(load_encoder(f"{CODES}{folder}"), self.test).argmax(1).numpy()
        found = measure(CoTrainingForPreTraining.from_pretrained(folder), self.train, collator)
        if not keep:
            shutil.rmtree(folder)
        return {"scores": clustering_scores(codes, self.test.labels)} | found


@torch.inference_mode()
def measure(model: CoTrainingForPreTraining, images: ImageDataset, collator: TwoViewCollator) -> dict[str, float]:
    """H(z_x) and I(z_x; z_y) in nats, and "codes used", of the likeliest codes of two views of each image."""
    model.eval()
    items = [images[i] | {"epoch": -1} for i in range(len(images))]  # views of an epoch that training did not see
    batches = [collator(items[first : first + 256]) for first in range(0, len(items), 256)]
    x, y = torch.cat([model(**batch, return_loss=False).codes.argmax(-1) for batch in batches]).unbind(1)
    certain = [1e4 * torch.nn.functional.one_hot(z, model.config.num_codes).double() for z in (x, y)]
    terms = cotraining_loss(torch.cat(certain), torch.cat(certain[::-1]))
    entropy, information = terms.entropy.item(), max(0.0, terms.information.item())
    return {"entropy": entropy, "information": information, "codes used": len(torch.cat([x, y]).unique())}


def difference(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The difference of two means and the ends of its 95 % interval, by Welch's t; of one of each there is none."""
    if min(len(ours), len(theirs)) < 2:
        return [mean(ours) - mean(theirs)]
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return [mean(ours) - mean(theirs), float(interval.low), float(interval.high)]


def toy_sweep(noise: float, count: int = 25) -> dict[str, Any]:
    """The toy for beta from -0.2 to 1.2: "threshold" I/H of its blocks; for each beta the entropy of the best code that
    descent found from some random starts.

    x is even on three blocks of two values, y lies in x's block but for a share `noise` and is free within a block.
    """
    blocks = np.repeat(np.arange(BLOCKS), WITHIN)
    same = blocks[:, None] == blocks
    weights = torch.from_numpy(np.where(same, (1 - noise) / WITHIN, noise / (WITHIN * (BLOCKS - 1))))
    weights = weights / weights.sum()  # (6, 6), the probability of each pair
    other = (torch.log(torch.tensor([1 - noise, noise])) * torch.tensor([1 - noise, noise])).nan_to_num(0).sum()
    information = math.log(BLOCKS) + other.item() - noise * math.log(BLOCKS - 1)
    betas = np.linspace(-0.2, 1.2, count)
    entropies = [toy_code(weights, float(beta)) for beta in betas]
    return {"threshold": information / math.log(BLOCKS), "betas": betas.tolist(), "entropy": entropies}


def toy_code(weights: torch.Tensor, beta: float) -> float:
    """The entropy of the best code of the toy's values, by Adam on tables of logits; weights (6, 6) of the pairs."""
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(TOY_STARTS, len(weights), TOY_CODES, generator=generator, dtype=torch.float64)  # (S, 6, m)
    optimizer = torch.optim.Adam([tables.requires_grad_()], 0.1)
    for _ in range(TOY_STEPS):
        p = tables.softmax(-1)
        joint, marginal = p.mT @ weights @ p, weights.sum(1) @ p  # (S, m, m), (S, m)
        told = -(joint * (joint / joint.sum(1, keepdim=True)).log()).sum((1, 2))
        entropy = -(marginal * marginal.log()).sum(1)
        loss = told - (1 - beta) * entropy
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return entropy[loss.argmin()].item()


def collapse_figure(record: Mapping[str, Any]):
    """Entropy and information over beta, on the toy and on the images, with I/H of the code without a price."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    toy, betas = record["toy"], record["betas"]
    left.plot(toy["betas"], toy["entropy"], "o-", color="#1f6feb", markersize=3, label="H of the best code")
    left.axvline(toy["threshold"], color="#cf222e", linestyle="--", label=f"I/H = {toy['threshold']:.3f}")
    left.set_title(f"Toy: three blocks, noise {record['settings']['toy_noise']:g}", fontsize=10)
    for name, color in (("entropy", "#1f6feb"), ("information", "#57606a")):
        values = [found[name] for found in betas.values()]
        right.plot([*map(float, betas)], values, "o-", color=color, markersize=4, label=f"{name} of the codes")
    first = betas[str(record["beta"])]
    if first["entropy"] > 0:
        threshold = first["information"] / first["entropy"]
        label = f"I/H at beta {record['beta']:g} = {threshold:.3f}"
        right.axvline(threshold, color="#cf222e", linestyle="--", label=label)
    right.set_ylim(bottom=0)
    right.set_title("Images, one training a point", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("beta, the price of memory")
        axes.set_ylabel("nats")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def study_table(record: Mapping[str, Any]):
    """A rich table of the sweep, and a line on the seeds."""
    from rich.console import Group
    from rich.table import Table

    gain, *ends = (f"{100 * value:+.1f}" for value in record["gain"])
    interval = f" (95 % interval {' to '.join(ends)})" if ends else ""
    shares = {name: [100 * each["hungarian"] for each in record[name]] for name in ("seeds", "k-means")}
    means = {name: f"{mean(v):.1f} ± {stdev(v) if len(v) > 1 else 0:.1f}" for name, v in shares.items()}
    table = Table(title="The price of memory", title_justify="left")
    for name in ("beta", "H, nats", "I, nats", "I/H", "codes used", "Hungarian, %"):
        table.add_column(name, justify="right")
    for beta, found in record["betas"].items():
        share = f"{found['information'] / found['entropy']:.3f}" if found["entropy"] > 0 else ""
        cells = [f"{found['entropy']:.3f}", f"{found['information']:.3f}", share, str(found["codes used"])]
        table.add_row(beta, *cells, f"{100 * found['scores']['hungarian']:.1f}")
    line = (
        f"Hungarian accuracy over {len(shares['seeds'])} seeds: co-training {means['seeds']}, k-means on raw pixels "
        f"{means['k-means']}, difference {gain}{interval}"
    )
    return Group(table, line)
