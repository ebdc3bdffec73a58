"""One GPU: augmentation, SimCLR steps of ResNet-18 and ViT-S/16, and the time to an accuracy on CIFAR-10.

    python benchmarks/gpu_vision.py --image_path CIFAR10-TRAIN.parquet --test_path CIFAR10-TEST.parquet
    python benchmarks/gpu_vision.py --smoke    # toy sizes on a CPU

The images are resident on the device and augmented there, the steps are in bf16. The program makes its images of
photographs; CIFAR-10 is for the accuracies, by recipes/simclr_cifar10.yaml with fewer epochs. Within 9 minutes: what
does not fit in the budget is left out and named. The JSON is written after each arm. Goals on an H200: 512 views of 224
in 20 ms (kornia, by stable-pretraining: 234), an epoch of ResNet-18 in 3 s, ViT-S/16 above 871 images/s (theirs).
"""

import functools
import time
from dataclasses import dataclass, field

import torch

from hfssl import benchmarking_vision as vision
from hfssl.benchmarking import print_table
from hfssl.config import parse_config
from hfssl.data.augmentation import Augmentation
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError, exits_on_bad_input


@dataclass
class BenchmarkArguments:
    image_path: str | None = field(default=None, metadata={"help": "CIFAR-10's training images, for the accuracies."})
    test_path: str | None = field(default=None, metadata={"help": "Its test images."})
    epochs: int = field(default=100, metadata={"help": "Of that training, which stops at 85.6 percent."})
    budget: float = field(default=480, metadata={"help": "Seconds for all arms."})
    smoke: bool = field(default=False, metadata={"help": "Toy sizes on a CPU."})
    out: str = field(default="out/benchmarks/gpu_vision.json", metadata={"help": "The JSON file to write."})


def arms(args, left):
    """What is measured, the most telling first: its name, the seconds it needs, and how it is done."""
    size, count = (64, 8) if args.smoke else (224, 256)
    how = {"use_cpu": args.smoke, "bf16": not args.smoke}
    batch = vision.photographs(count, size).to("cpu" if args.smoke else "cuda")
    ours = Augmentation(size, augmentations=list(vision.PAPER), color_strength=1.0)
    yield f"{2 * count} views of {size}", 20, lambda: vision.view_milliseconds(ours, batch, 20)
    kornia = vision.kornia_views(size, 1.0)
    yield f"{2 * count} views of {size}, kornia", 20, lambda: vision.view_milliseconds(kornia, batch, 10)
    resnet, vit = ("resnet10t", "vit_tiny") if args.smoke else ("resnet18", "vit_small")
    small, large = (ImageDataset(vision.photographs(n, side)) for n, side in ((16 * count, 32), (2 * count, size)))
    steps = {
        resnet: (small, {"backbone": resnet, "stem": "cifar", "image_size": 32}, 2 * count, 8 if args.smoke else 160),
        vit: (large, {"backbone": f"{vit}_patch16_224", "image_size": size}, count, 8 if args.smoke else 64),
    }
    for name in () if args.smoke else steps:
        yield f"{name} step, compiled", 90, functools.partial(vision.step_rate, *steps[name], torch_compile=True, **how)
    if args.image_path:
        data = load_images(args.image_path), load_images(args.test_path)
        yield "CIFAR-10", 90, lambda: vision.time_to_accuracy(*data, args.epochs, (0.83, 0.856), left() - 60, **how)
    for name in steps:
        yield f"{name} step", 40, functools.partial(vision.step_rate, *steps[name], **how)


@exits_on_bad_input
def main(argv=None):
    began = time.perf_counter()
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    if not args.smoke and not torch.cuda.is_available():
        raise InputError("no GPU here; --smoke runs toy sizes on the CPU")
    if (args.image_path is None) != (args.test_path is None):
        raise InputError("give both --image_path and --test_path, or neither")

    def left():
        return args.budget - (time.perf_counter() - began)

    device = "CPU" if args.smoke else torch.cuda.get_device_name()
    rows = vision.within_budget(arms(args, left), left, args.out, device=device)
    print_table(["", ""], [[row["arm"], vision.in_words(row)] for row in rows], device)


if __name__ == "__main__":
    main()
