"""What the vision benchmarks share: pictures, our way of SimCLR, lightly's and kornia's, and accuracy by the clock."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, set_seed

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageDataset, ResidentImages
from hfssl.data.sampling import single_threaded_worker
from hfssl.errors import InputError
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer

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
    """SimCLR as its recipe builds it, on the images' device.

    Args:
        model: of `SimCLRConfig`. strength: of the colour jitter.
        arguments: of `PretrainingArguments`.
    """
    config = SimCLRConfig(**model)
    args = PretrainingArguments(
        output_dir=str(folder), save_strategy="no", report_to=[], disable_tqdm=True, **arguments
    )
    train = ResidentImages(images, args.device) if resident else images
    set_seed(0)
    views = Augmentation(
        config.image_size, config.image_mean, config.image_std, augmentations=list(augmentations),
        color_strength=strength,
    )  # fmt: skip
    collator = TwoViewCollator(views, resident=getattr(train, "pixels", None))
    network = SimCLRForPreTraining(config).to(memory_format=torch.channels_last)
    return PretrainingTrainer(network, args, train, data_collator=collator)


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
        from datasets import Dataset as Table
        from datasets import Image

        table = Table.from_parquet(str(path), keep_in_memory=True)
        self.images, self.transform = table.cast_column("image", Image()), lightly_transform(size, strength, blur)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(self.images[index]["image"].convert("RGB"))


def lightly_step_seconds(
    views: Dataset, model: dict[str, Any], batch_size: int, steps: int, warmup: int, workers: int, lr: float
) -> list[float]:
    """The seconds a step of lightly's loss and head on the same encoder in a plain loop with AdamW.

    The clock runs from one update to the next, as in `benchmarking.step_seconds`.

    Args:
        warmup: steps that do not count, at least one.
    """
    set_seed(0)
    config, parts = SimCLRConfig(**model), _lightly()
    encoder = SimCLRForPreTraining(config).simclr
    width = encoder.hidden_size
    head = parts.models.modules.SimCLRProjectionHead(width, width, config.projection_dim)
    criterion = parts.loss.NTXentLoss(temperature=config.logit_temperature)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr)
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
    """The accuracy by nearest neighbours every so many steps, beside the seconds of training alone.

    Args:
        accuracy: of the model as it is, a fraction.
        every: steps between two looks.
        goal: the accuracy at which training stops.
        seconds: of training and looking together after which it stops.

    Attributes:
        points: (step, seconds of training, accuracy).
    """

    def __init__(self, accuracy: Callable[[nn.Module], float], every: int, goal: float, seconds: float):
        self.accuracy, self.every, self.goal, self.limit = accuracy, every, goal, seconds
        self.points: list[tuple[int, float, float]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self._began, self._looking = time.perf_counter(), 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        looked = time.perf_counter()
        found = self.accuracy(model)
        self.points.append((state.global_step, looked - self._began - self._looking, found))
        self._looking += time.perf_counter() - looked
        control.should_training_stop = found >= self.goal or time.perf_counter() - self._began > self.limit
