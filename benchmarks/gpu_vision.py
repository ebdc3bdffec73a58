"""One GPU: augmentation, SimCLR steps of ResNet-18 and ViT-S/16, and the time to an accuracy on CIFAR-10.

    python benchmarks/gpu_vision.py --image_path CIFAR10-TRAIN.parquet --test_path CIFAR10-TEST.parquet
    python benchmarks/gpu_vision.py --smoke    # toy sizes on a CPU

The images are resident on the device and augmented there, in bf16 steps; without CIFAR-10 they are windows of
photographs, and there is no accuracy. Within 9 minutes: an arm for which the budget has no time is left out and named.
The JSON is written after each arm. Goals on an H200: 512 views of 224 in 20 ms (kornia, by stable-pretraining: 234);
an epoch of ResNet-18 in 3 s; ViT-S/16 above 871 images/s (theirs); 83 % kNN and 85.6 % linear in few minutes.
"""

import tempfile
import time
from dataclasses import dataclass, field

import torch

from hfssl.benchmarking import figure, print_table, spread, step_seconds, write_json
from hfssl.benchmarking_vision import PAPER, ByTheClock, accuracies, kornia_views, photographs, simclr_trainer
from hfssl.config import parse_config
from hfssl.data.augmentation import Augmentation
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError, exits_on_bad_input


@dataclass
class BenchmarkArguments:
    image_path: str | None = field(default=None, metadata={"help": "CIFAR-10's training images, for the accuracy."})
    test_path: str | None = field(default=None, metadata={"help": "Its test images."})
    epochs: int = field(default=100, metadata={"help": "Of the training to an accuracy."})
    budget: float = field(default=480, metadata={"help": "Seconds for all arms."})
    smoke: bool = field(default=False, metadata={"help": "Toy sizes on a CPU."})
    out: str = field(default="out/benchmarks/gpu_vision.json", metadata={"help": "The JSON file to write."})


def views(make, images, repeats):
    """Milliseconds of two views of each image."""
    times = []
    for _ in range(repeats + 2):
        wait(), times.append(time.perf_counter()), make(images), make(images), wait()
        times[-1] = 1e3 * (time.perf_counter() - times[-1])
    return {"ms": spread(times[2:])}


def wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def steps(images, model, batch, count, smoke, **how):
    """Images/s of SimCLR steps, each measure over a quarter of them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"per_device_train_batch_size": batch, "max_steps": 8 + count, "bf16": not smoke, "use_cpu": smoke}
        trainer = simclr_trainer(folder, images, model, resident=True, **settings, **how)
        seconds = step_seconds(trainer, 8, max(1, count // 4))
    return {"images/s": spread([batch / each for each in seconds]), "s/epoch of 50,000": 50000 / batch * min(seconds)}
