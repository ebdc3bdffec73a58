"""The lecture's vision objectives in one table: the same net, the same images, as many images seen, the same probe.

Each arm is a recipe with its YAML, trained once a seed in a process of its own, and what it saved goes through `hfssl
probe`. Beside them: a random init of the net (also as CPC has it, on patches, and as colorization has it, on the
lightness alone), raw pixels, and the net that learned from the labels. CPC's net has the layers of the others but sees
patches, and has its own norm. A job is an arm with a seed; the jobs are on a ledger, so a study that was stopped goes
on where it was.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import torch

from hfssl.config import read_yaml
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError, nearest
from hfssl.evaluation.encoders import CODES
from hfssl.evaluation.reconstruction import evaluate_painter, whole_views
from hfssl.files import write_whole
from hfssl.models import METHODS
from hfssl.pictures import load_painter
from hfssl.programs import program
from hfssl.studies.objectives_report import rows_of, write_report
from hfssl.studies.processes import leave_on_sigterm, run_logged
from hfssl.training.ledger import Ledger

logger = logging.getLogger(__name__)

# An arm: the recipe, and what its command says beside the YAML.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "cpc": ("cpc", {}),
    "colorization, l2_ab": ("colorization", {"model.color_loss": "l2_ab"}),
    "colorization, hist_hc": ("colorization", {"model.color_loss": "hist_hc"}),
    "colorization, ce313": ("colorization", {"model.color_loss": "ce313"}),
    "inpainting": ("context_encoder", {"model.adversarial_weight": 0}),
    "inpainting, adversary": ("context_encoder", {}),
    "co-training": ("cotraining", {}),
}
# What is not pretrained: the recipe whose net it has.
ARCHITECTURES = {
    "random init": "simclr",
    "random init, patches": "cpc",
    "random init, lightness": "colorization",
    "supervised": "simclr",
}
BASELINES = ("random init", "random init, patches", "random init, lightness", "raw pixels", "supervised")
IDLE_FLAGS = ("logging_", "save_", "report_to")  # change nothing of the result
OWN_FLAGS = ("model.", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "seed", "image_path")
PAINTED = 1000  # test images that colorization and inpainting are measured on


@dataclass
class ObjectiveArguments:
    """Which arms, on which images, for how long."""

    simclr_config: str | None = field(default=None, metadata={"help": "The YAML of SimCLR's recipe."})
    cpc_config: str | None = field(default=None, metadata={"help": "Of CPC's."})
    colorization_config: str | None = field(default=None, metadata={"help": "Of colorization's."})
    context_encoder_config: str | None = field(default=None, metadata={"help": "Of inpainting's."})
    cotraining_config: str | None = field(default=None, metadata={"help": "Of co-training's."})
    dataset: str | None = field(default=None, metadata={"help": "builtin:photos, or a folder with train and test."})
    train_file: str | None = field(default=None, metadata={"help": "Instead: the training images, such as parquet."})
    test_file: str | None = field(default=None, metadata={"help": "Instead: the test images."})
    arms: list[str] = field(
        default_factory=lambda: [*ARMS, *BASELINES], metadata={"help": f"Some of {', '.join((*ARMS, *BASELINES))}."}
    )
    images_seen: int = field(default=256_000, metadata={"help": "Images that each training sees, repeats included."})
    seeds: int = field(default=3, metadata={"help": "Trainings of each arm."})
    flags: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More flags of every recipe, such as --logging_steps=5; the net and the batch are the YAML's."
        },
    )
    label_fractions: list[float] = field(
        default_factory=lambda: [0.01], metadata={"help": "Probes with a share of each class's labels."}
    )
    parallel: int = field(default=2, metadata={"help": "Jobs at once, each on one thread."})
    out: str = field(default="out/objectives", metadata={"help": "The folder for all of it."})

    def __post_init__(self):
        known = (*ARMS, *BASELINES)
        for arm in self.arms:
            if arm not in known:
                raise InputError(f"unknown arm {arm!r}: one of {', '.join(known)}{nearest(arm, known)}")
        if (self.dataset is None) == (self.train_file is None or self.test_file is None):
            raise InputError("give either --dataset, or --train_file and --test_file")
        if min(self.images_seen, self.seeds, self.parallel) < 1:
            raise InputError("images_seen, seeds and parallel must be at least 1")
        needed = dict.fromkeys(ARMS[arm][0] for arm in self.arms if arm in ARMS)
        needed |= {recipe: None for arm, recipe in ARCHITECTURES.items() if arm in self.arms}
        for recipe in needed:
            path = self.config(recipe)
            if path is None or not Path(path).is_file():
                raise InputError(f"--{recipe}_config must name the YAML of that recipe, not {path!r}")

        for flag in self.flags:
            if any(flag.removeprefix("--").startswith(name) for name in OWN_FLAGS):
                raise InputError(f"the flag {flag} would make the arms unequal: {', '.join(OWN_FLAGS)} are the YAML's")
        self._check_nets(list(needed))

    def _check_nets(self, recipes: Sequence[str]) -> None:
        """All arms must have the same net and image size."""
        nets = {}
        for recipe in recipes:
            settings = read_yaml(self.config(recipe))
            if "per_device_train_batch_size" not in settings or "model" not in settings:
                raise InputError(f"{self.config(recipe)} names no model or no per_device_train_batch_size")
            model = settings["model"]
            nets[recipe] = {name: model.get(name) for name in ("backbone", "backbone_kwargs", "stem", "image_size")}
        first = next(iter(nets), None)
        for recipe, net in nets.items():
            if net != nets[first]:
                raise InputError(f"{recipe} and {first} have other nets: {net} and {nets[first]}")

    def config(self, recipe: str) -> str | None:
        """The YAML of a recipe."""
        return getattr(self, f"{recipe}_config")


def run_objectives(args: ObjectiveArguments) -> list[dict[str, Any]]:
    """Does what is missing of the study and writes objectives.json, .csv and .png into its folder.

    Returns:
        A row an arm, see `rows_of`.

    Raises:
        InputError: bad settings or data, another study in the folder, or a job that failed (with its log).
    """
    out = Path(args.out)
    helpers = []
    leave_on_sigterm()
    if args.parallel > 1:
        settings = json.dumps(asdict(args) | {"parallel": 1})
        code = "import sys; from hfssl.studies import objectives; objectives.work(objectives.parsed(sys.argv[1]))"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        helpers = [
            subprocess.Popen([sys.executable, "-c", code, settings], env=environment, stdout=DEVNULL, stderr=DEVNULL)
            for _ in range(args.parallel - 1)
        ]
    try:
        results = work(args)
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()
    rows = rows_of(args.arms, results)
    write_report(out, asdict(args), rows)
    return rows


def parsed(settings: str) -> ObjectiveArguments:
    """The arguments from JSON, for a process that helps."""
    leave_on_sigterm()
    return ObjectiveArguments(**json.loads(settings))


def work(args: ObjectiveArguments) -> dict[str, dict[str, Any]]:
    """Takes jobs until none is left; the results of all, by the jobs' names."""
    study = _Study(args)
    runs = [(arm, seed) for seed in range(args.seeds) for arm in args.arms if seed == 0 or arm != "raw pixels"]
    jobs = {f"{arm}/seed {seed}/{study.digest(arm)}": (arm, seed) for arm, seed in runs}
    return Ledger(Path(args.out) / "ledger.jsonl", {"study": "objectives"}).run(jobs, study.execute)


class _Study:
    """The commands of the jobs."""

    def __init__(self, args: ObjectiveArguments):
        self.args, self.out = args, Path(args.out)
        self.data = (
            [f"--dataset={args.dataset}"]
            if args.dataset
            else [f"--train_file={args.train_file}", f"--test_file={args.test_file}"]
        )

        self.fingerprints = [images.fingerprint for images in self.images()]

    def digest(self, arm: str) -> str:
        """Of all that decides an arm's results, contents and no names of files; a job's name ends with it."""
        recipe, flags = ARMS.get(arm, (ARCHITECTURES.get(arm), {}))
        decides = {
            "config": read_yaml(self.args.config(recipe)) if recipe else None,
            "flags": [flag for flag in self.args.flags if not flag.lstrip("-").startswith(IDLE_FLAGS)],
            "arm": flags,
            "images_seen": self.args.images_seen,
            "label_fractions": self.args.label_fractions,
            "data": self.fingerprints,
        }
        text = json.dumps(decides, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def images(self) -> tuple[ImageDataset, ImageDataset]:
        """The training and the test images."""
        if self.args.dataset:
            return load_images(self.args.dataset), load_images(self.args.dataset, split="test")
        return load_images(self.args.train_file), load_images(self.args.test_file)

    def execute(self, name: str, job: tuple[str, int]) -> dict[str, Any]:
        """Trains and probes one arm with one seed."""
        arm, seed = job
        folder = self.out / "runs" / name.replace("/", "-").replace(", ", "-").replace(" ", "-")
        log = folder.with_name(f"{folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {}
        if arm in ARMS:
            recipe, flags = ARMS[arm]
            found = self._train(recipe, flags, seed, folder, log)
            source = str(folder)
        elif arm == "raw pixels":
            source = "pixels"
        else:  # the architectures are those of the recipes, from runs of no steps
            source = f"random:{self._architecture(ARCHITECTURES[arm])}"
        found |= self._probe(arm, seed, source, folder.with_name(f"{folder.name}-probe"), log)
        if arm in ARMS and ARMS[arm][0] in ("colorization", "context_encoder"):
            found |= {"painting": self._painting(folder)}
        if arm in ARMS and ARMS[arm][0] == "cotraining":  # the codes by themselves, one-hot
            probe = folder.with_name(f"{folder.name}-codes-probe")
            found |= {"codes": self._probe(arm, seed, f"{CODES}{folder}", probe, log)}
        return found

    def _train(self, recipe: str, flags: Mapping[str, Any], seed: int, folder: Path, log: Path) -> dict[str, float]:
        config = self.args.config(recipe)
        settings = read_yaml(config)
        batch = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
        steps = math.ceil(self.args.images_seen / batch)
        train = self.args.train_file or self.args.dataset
        command = [program(f"recipes/pretrain_{recipe}.py"), "--config", config, f"--image_path={train}",
                   f"--seed={seed}", f"--max_steps={steps}", f"--output_dir={folder}"]  # fmt: skip
        command += [f"--{key}={value}" for key, value in flags.items()] + list(self.args.flags)
        _, memory = run_logged(command, log)
        seconds = json.loads((folder / "run.json").read_text())["seconds"]  # of all parts of a run that was stopped
        return {"train seconds": seconds, "memory MB": memory, "steps": steps, "images": steps * batch}

    def _architecture(self, recipe: str) -> Path:
        """A folder with the config of a recipe's net, for random inits."""
        folder = self.out / "architectures" / recipe
        config = METHODS[recipe].config(**read_yaml(self.args.config(recipe))["model"])
        write_whole(folder / "config.json", config.to_json_string())  # another job may be reading it
        return folder

    def _probe(self, arm: str, seed: int, source: str, folder: Path, log: Path) -> dict[str, Any]:
        command = [program("eval/run_probe.py"), f"--model={source}", *self.data, "--anchors=false", "--seeds=1",
                   f"--first_seed={seed}", f"--random_seed={seed}", f"--out={folder}", "--distorted=false"]  # fmt: skip
        if self.args.label_fractions:
            command += ["--label_fractions", *map(str, self.args.label_fractions)]
        if arm == "supervised":
            command += [f"--supervised_steps={math.ceil(self.args.images_seen / 256)}", f"--supervised_seed={seed}",
                        "--finetune_batch_size=256"]  # fmt: skip
        seconds, memory = run_logged(command, log)
        result = json.loads((folder / "results.json").read_text())
        rows = result["rows"]
        chosen = [row for row in rows if row["encoder"].startswith("supervised") == (arm == "supervised")]
        scores = {f"{row['protocol']}, {row['labels']}": row for row in chosen if row["layer"] == "pooled"}
        found = {"probe seconds": seconds, "probe memory MB": memory}
        if arm == "supervised":
            found |= {"train seconds": result["train_seconds"][chosen[0]["encoder"]], "images": self.args.images_seen}
        return found | {
            "scores": {name: [row["accuracy"], row["low"], row["high"]] for name, row in scores.items()},
        }

    def _painting(self, folder: Path) -> dict[str, float]:
        model = load_painter(str(folder), "colorize" if "colorization" in folder.name else "inpaint")
        biharmonic = hasattr(model, "inpaint") and importlib.util.find_spec("skimage") is not None
        if hasattr(model, "inpaint") and not biharmonic:
            logger.warning("Biharmonic inpainting is left out: it needs scikit-image")
        images = self.images()[1]
        count, totals = min(PAINTED, len(images)), Counter()
        for first in range(0, count, 100):
            part = whole_views([images[i] for i in range(first, min(first + 100, count))], model.config.image_size)
            for name, value in evaluate_painter(model, part, biharmonic).items():
                totals[name] += value * len(part) / count
        return dict(totals)


def main_threads() -> None:
    """One thread for what the study computes itself beside its processes."""
    torch.set_num_threads(1)
