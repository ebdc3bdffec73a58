"""What each process of test_contrastive.py does. Four of them start, so it reads the one file of hfssl it needs."""

import importlib.util
from pathlib import Path

import torch
import torch.distributed as dist

_SOURCE = Path(__file__).parents[2] / "hfssl" / "models" / "contrastive.py"
_spec = importlib.util.spec_from_file_location("contrastive", _SOURCE)
contrastive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contrastive)

SPLITS = {2: ([4, 4], [5, 3]), 4: ([2, 2, 2, 2], [3, 0, 4, 1])}
LABELS = torch.tensor([2, 0, 2, 2, 0, 1, 1, 5])
OPTIONS = ({}, {"chunk_size": 3}, {"decoupled": True}, {"labels": LABELS, "chunk_size": 3})
CASES = {number: [(split, options) for split in splits for options in OPTIONS] for number, splits in SPLITS.items()}


def views(batch=7, dim=5, seed=0, dtype=torch.float64):
    """Two tensors (batch, dim) of normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, dim, generator=generator, dtype=dtype).unbind(0)


def process(rank, folder):
    """Joins each group that it has a place in and saves what comes out."""
    torch.set_num_threads(1)
    for world_size in SPLITS:
        if rank >= world_size:
            continue
        meet = f"file://{folder}/meet{world_size}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world_size)
        assert dist.get_world_size() == world_size
        torch.save(list(results(rank, world_size)), f"{folder}/{rank}of{world_size}.pt")
        dist.destroy_process_group()


def results(rank, world_size):
    """For each case the mean loss of all processes, the encoder's gradients, and the loss without the others."""
    images_1, images_2 = views(8, 6)
    for split, options in CASES[world_size]:
        torch.manual_seed(0)
        encoder = torch.nn.Linear(6, 4).double()
        parallel = torch.nn.parallel.DistributedDataParallel(encoder)
        here = slice(sum(split[:rank]), sum(split[: rank + 1]))
        z_1, z_2 = parallel(torch.stack([images_1[here], images_2[here]]))
        options = options | ({"labels": options["labels"][here]} if "labels" in options else {})
        loss = contrastive.nt_xent(z_1, z_2, 0.3, **options)
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        alone = contrastive.nt_xent(z_1, z_2, 0.3, gather=False, **options).item() if split[rank] > 1 else None
        yield mean / world_size, encoder.weight.grad, encoder.bias.grad, alone
