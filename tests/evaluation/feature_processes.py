"""One of two gloo processes: what they extract together, and how they meet a problem that one of them has."""

import torch
import torch.distributed as dist

from hfssl.errors import InputError
from hfssl.evaluation.encoders import Encoder
from hfssl.evaluation.features import extract_features

IMAGES = torch.randint(0, 256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def encoder():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Flatten())
    return Encoder("conv", module, module, 8)


def extract(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert dist.get_world_size() == 2
    found = {f"batches of {size}": extract_features(encoder(), IMAGES, batch_size=size) for size in (2, 3, 11)}
    second_alone = Encoder("divides", lambda pixels: pixels.flatten(1) / float(dist.get_rank() == 0), None, 8)
    try:
        extract_features(second_alone, IMAGES[:6], batch_size=3)
    except InputError as error:
        found["problem"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
