"""Two SimCLR views of each image on one core: hfssl's batches beside lightly's SimCLRTransform, image by image.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --sizes 224 --repeats 11 --out out/augmentation.json

The paper's settings: crop, flip and grayscale; colour strength 0.5 and no blur at 32 x 32 (CIFAR-10), 1 and blur at
224 x 224. The images are windows of scikit-learn's photographs, decoded and in memory in the form that each arm wants
(uint8 tensors, PIL images): decoding counts for neither, stacking the views into batches for both. One thread, the arms
in turns. Needs lightly (`pip install lightly`), 1 minute. Goals: 5 times at 32, 2 times at 224 (better 5).
"""

import itertools
from dataclasses import dataclass, field

import torch

from hfssl.benchmarking import compare, interleave, show, write_json
from hfssl.benchmarking_vision import PAPER, as_pil, lightly_transform, photographs
from hfssl.config import parse_config
from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.errors import exits_on_bad_input

IMAGES = {32: 512, 224: 16}  # of a batch


@dataclass
class BenchmarkArguments:
    sizes: list[int] = field(default_factory=lambda: [32, 224], metadata={"help": "Sides of images and views."})
    images: int | None = field(default=None, metadata={"help": "Images of a batch; by default 512 of 32, 16 of 224."})
    repeats: int = field(default=11, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/augmentation.json", metadata={"help": "The JSON file to write."})


def arms(size: int, count: int):
    """What each arm does with the same images; ours begins a new pass over the data at each call."""
    small = size <= 64
    strength, names = (0.5, PAPER[:-1]) if small else (1.0, PAPER)
    images, passes = photographs(count, size), itertools.count()
    pil, transform = as_pil(images), lightly_transform(size, strength, blur=not small)
    collator = TwoViewCollator(Augmentation(size, augmentations=list(names), color_strength=strength))

    def ours():
        epoch = next(passes)
        return collator([{"image": image, "index": i, "epoch": epoch} for i, image in enumerate(images)])

    def theirs():
        return [torch.stack(views) for views in zip(*map(transform, pil), strict=True)]

    return {"hfssl": ours, "lightly": theirs}


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes:
        count = args.images or IMAGES.get(size, 64)
        seconds = interleave(arms(size, count), args.repeats, warmup=3)
        results = {arm: [{"images/s": count / each} for each in times] for arm, times in seconds.items()}
        rows += compare(results, ["images/s"], f"{size} x {size}: ")
    show(rows, "Two views of each image, one core")
    write_json(args.out, rows, images={size: args.images or IMAGES.get(size, 64) for size in args.sizes})


if __name__ == "__main__":
    main()
