"""What the vision benchmarks share: pictures, our way of SimCLR, lightly's and kornia's, and accuracy by the clock."""

from __future__ import annotations

import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, set_seed

from hfssl.benchmarking import figure, spread, step_seconds, write_json
from hfssl.config import read_yaml
from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageDataset, ResidentImages
from hfssl.data.sampling import single_threaded_worker
from hfssl.errors import InputError, one_line
from hfssl.evaluation.classifiers import linear_probe
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.knn import knn_predict
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer

logger = logging.getLogger(__name__)

PAPER = ("crop", "flip", "color_jitter", "grayscale", "blur")  # on ImageNet; on CIFAR-10 without the blur


def photographs(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Square windows of scikit-learn's two photographs (427 x 640), shrunk to the size by at most 8.

    Returns:
        uint8 (count, 3, size, size).
    """
    from sklearn.datasets import load_sample_images
    from torch.nn.functional import interpolate

    random, pictures = np.random.default_rng(seed), [picture.copy() for picture in load_sample_images().images]
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        side = int(random.integers(size, max(size, min(8 * size, 427)) + 1))
        top, left = random.integers(0, 427 - side + 1), random.integers(0, 640 - side + 1)
        window = torch.from_numpy(picture[top : top + side, left : left + side]).permute(2, 0, 1)[None].float()
        images[i] = interpolate(window, (size, size), mode="bilinear", antialias=True)[0].round().byte()
    return images


def write_jpeg(path: str | Path, images: torch.Tensor, quality: int = 90) -> None:
    """Parquet with a column "image" of JPEG files, as image sets lie on the Hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for image in as_pil(images):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        rows.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(pa.table({"image": rows}), path)


def as_pil(images: torch.Tensor) -> list:
    """uint8 (N, 3, H, W) -> N PIL images."""
    from PIL import Image

    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def simclr_trainer(
    folder: str | Path,
    images: ImageDataset,
    model: dict[str, Any],
    strength: float = 0.5,
    augmentations: Sequence[str] = PAPER[:-1],
    resident: bool = False,
    **arguments,
) -> PretrainingTrainer:
    """SimCLR as its recipe builds it, channels last; it saves nothing.

    Args:
        model: of `SimCLRConfig`. strength: of the colour jitter.
        resident: keep the images on the device.
        arguments: of `PretrainingArguments`.
    """
    config = SimCLRConfig(**model)
    arguments = {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "channels_last": True} | arguments
    args = PretrainingArguments(output_dir=str(folder), **arguments)
    train = ResidentImages(images, args.device) if resident else images
    set_seed(0)
    views = Augmentation(
        config.image_size, config.image_mean, config.image_std, augmentations=list(augmentations),
        color_strength=strength,
    )  # fmt: skip
    collator = TwoViewCollator(views, resident=getattr(train, "pixels", None))
    return PretrainingTrainer(SimCLRForPreTraining(config), args, train, data_collator=collator)


def view_milliseconds(make: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, repeats: int) -> dict:
    """What two views of each image take."""
    times = []
    for _ in range(repeats + 2):
        _wait()
        began = time.perf_counter()
        make(images)
        make(images)
        _wait()
        times.append(1e3 * (time.perf_counter() - began))
    return {"ms": spread(times[2:])}


def within_budget(arms: Iterable[tuple], left: Callable[[], float], out: str | Path, **about) -> list[dict[str, Any]]:
    """Measures each arm for which there is time; the others, and those that fail, say so in their rows.

    Args:
        arms: the name, the seconds that it needs, and a function whose result are the figures.
        left: the seconds of the budget that are left.
        out: the JSON file, written after each arm, with what is said `about` it.
    """
    rows = []
    for name, needed, measure in arms:
        row = {"arm": name, "missing": f"left out, {max(left(), 0):.0f} s of the budget were left"}
        if left() > needed:
            try:
                row = {"arm": name, **measure()}
            except Exception as error:  # it is named in the row, and the other arms go on
                row["missing"] = f"{type(error).__name__}: {one_line(error)[:200]}"
        rows.append(row)
        write_json(out, rows, **about)
        logger.info("%s: %s", name, in_words(row))
    return rows


def in_words(row: dict[str, Any]) -> str:
    """The figures of an arm on one line."""
    parts = []
    for name, value in row.items():
        if isinstance(value, dict):
            parts.append(f"{name} {figure(value)}")
        elif name not in ("arm", "points"):
            parts.append(value if name == "missing" else f"{name} {value:.4g}")
    return ", ".join(parts)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def step_rate(images: ImageDataset, model: dict[str, Any], batch_size: int, steps: int, **how) -> dict:
    """Images/s of SimCLR steps on resident images, each figure over an eighth of the steps, and seconds for 50,000.

    Args:
        how: of `simclr_trainer`.
    """
    warmup = 8
    with tempfile.TemporaryDirectory() as folder:
        trainer = simclr_trainer(
            folder, images, model, resident=True, per_device_train_batch_size=batch_size, max_steps=warmup + steps,
            **how,
        )  # fmt: skip
        seconds = step_seconds(trainer, warmup, max(1, steps // 8))
    rates = [batch_size / each for each in seconds]
    return {"images/s": spread(rates), "s for 50,000": spread([50000 / rate for rate in rates])}


# lightly


def _lightly():
    try:
        import lightly
        import lightly.loss
        import lightly.models.modules
        import lightly.transforms
    except ImportError:
        raise InputError("this arm needs lightly; run: pip install lightly") from None
    return lightly


def lightly_transform(size: int, strength: float, blur: bool) -> Callable:
    """lightly's SimCLRTransform of the paper's strength: a PIL image becomes a list of two views."""
    return _lightly().transforms.SimCLRTransform(
        input_size=size, cj_strength=strength, gaussian_blur=0.5 if blur else 0.0
    )


class LightlyViews(Dataset):
    """Images of a parquet file, decoded and transformed one by one, as in lightly's examples."""

    def __init__(self, path: str | Path, size: int, strength: float, blur: bool):
        import pyarrow.parquet as pq

        self.files = [row["bytes"] for row in pq.read_table(path).column("image").to_pylist()]
        self.transform = lightly_transform(size, strength, blur)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB"))


def lightly_step_seconds(
    views: Dataset, model: dict[str, Any], batch_size: int, steps: int, warmup: int, workers: int, lr: float,
    tuned: bool = False,
) -> list[float]:  # fmt: skip
    """The seconds a step of lightly's loss and head on the same encoder in a plain loop with AdamW.

    The clock runs from one update to the next, as in `benchmarking.step_seconds`.

    Args:
        warmup: steps that do not count, at least one.
        tuned: with weights channels last and a fused AdamW, as the PretrainingTrainer has them.
    """
    set_seed(0)
    config, parts = SimCLRConfig(**model), _lightly()
    encoder = SimCLRForPreTraining(config).simclr
    width = encoder.hidden_size
    head = parts.models.modules.SimCLRProjectionHead(width, width, config.projection_dim)
    criterion = parts.loss.NTXentLoss(temperature=config.logit_temperature)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr, fused=tuned)
    if tuned:
        encoder.to(memory_format=torch.channels_last)
    loader = DataLoader(
        views, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        worker_init_fn=single_threaded_worker,
    )  # fmt: skip
    times = []
    for view_1, view_2 in _endless(loader):
        z_1, z_2 = (head(encoder(view).pooler_output) for view in (view_1, view_2))
        optimizer.zero_grad()
        criterion(z_1, z_2).backward()
        optimizer.step()
        times.append(time.perf_counter())
        if len(times) == steps + warmup:
            return np.diff(times[warmup - 1 :]).tolist()
    raise AssertionError("the loader is endless")


def _endless(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


# kornia


def kornia_views(size: int, strength: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """SimCLR's augmentations of uint8 batches by kornia, with the paper's settings."""
    import kornia.augmentation as K

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    kernel = size // 10 // 2 * 2 + 1
    chain = nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
        K.Normalize(mean, std),
    )
    return lambda images: chain(images.float() / 255)


# Time to accuracy


class ByTheClock(TrainerCallback):
    """Accuracies every so many steps beside the seconds of training alone: kNN, and from its goal on a linear probe.

    Args:
        train, test: labelled images.
        device: where the classifiers run.
        every: steps between two looks.
        goals: the accuracies of kNN and of the linear probe; at the second one training stops.
        seconds: of training and looking together after which it stops.

    Attributes:
        points: (step, seconds of training, kNN's accuracy, the linear probe's or None).
        reached: seconds of training at which each goal was reached, "kNN s" and "linear s".
    """

    def __init__(
        self, train: ImageDataset, test: ImageDataset, device, every: int, goals: tuple[float, float], seconds: float
    ):
        self.data, self.device, self.every, self.goals, self.limit = (train, test), device, every, goals, seconds
        self.classes = int(train.labels.max()) + 1
        self.points: list[tuple[int, float, float, float | None]] = []
        self.reached: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._began, self._looking = time.perf_counter(), 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        last = state.global_step >= state.max_steps
        if state.global_step % self.every and not last:
            return
        _wait()
        looked = time.perf_counter()
        trained = looked - self._began - self._looking
        knn, linear = self._accuracy(model, lambda *data: knn_predict(*data, self.classes)), None
        over = last or looked - self._began > self.limit
        if knn >= self.goals[0] or over:
            linear = self._accuracy(model, lambda *data: linear_probe(*data, self.classes, (0,))[0][0])
        for name, value, goal in zip(("kNN s", "linear s"), (knn, linear), self.goals, strict=True):
            if value is not None and value >= goal:
                self.reached.setdefault(name, trained)
        self.points.append((state.global_step, trained, knn, linear))
        self._looking += time.perf_counter() - looked
        if over or "linear s" in self.reached:
            control.should_training_stop = True

    def _accuracy(self, model: nn.Module, predict: Callable) -> float:
        bank, queries = (extract_features(model, images, batch_size=1024).to(self.device) for images in self.data)
        labels, truth = (torch.from_numpy(images.labels).to(self.device) for images in self.data)
        return float((predict(queries, bank, labels) == truth).double().mean())


def time_to_accuracy(
    train: ImageDataset, test: ImageDataset, epochs: int, goals: tuple[float, float], seconds: float, **how
) -> dict:
    """CIFAR-10 as recipes/simclr_cifar10.yaml trains it, but in fewer epochs; a look every five.

    Args:
        goals, seconds: of kNN and the linear probe, and where it stops, as in `ByTheClock`.
        how: of `simclr_trainer`.
    """
    recipe = read_yaml("recipes/simclr_cifar10.yaml")
    names = ("optim", "learning_rate", "learning_rate_scaling", "weight_decay", "max_grad_norm", "lr_scheduler_type")
    batch_size = min(recipe["per_device_train_batch_size"], len(train) // 4)
    settings = {name: recipe[name] for name in names} | {"num_train_epochs": epochs, "warmup_steps": 0.1}
    with tempfile.TemporaryDirectory() as folder:
        trainer = simclr_trainer(
            folder, train, recipe["model"], resident=True, per_device_train_batch_size=batch_size, **settings, **how
        )
        clock = ByTheClock(train, test, trainer.args.device, 5 * (len(train) // batch_size), goals, seconds)
        trainer.add_callback(clock)
        trainer.train()
    step, trained, knn, linear = clock.points[-1]
    found = {"steps": step, "training s": trained, "kNN": knn, "linear": linear}
    return found | clock.reached | {"points": clock.points}
