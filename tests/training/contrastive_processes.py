"""One of two processes of test_contrastive_processes.py: runs each case and, if it is the first, saves what came out.

python -m torch.distributed.run --nproc_per_node 2 tests/training/contrastive_processes.py FOLDER
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hfssl.training.sync_batchnorm import synchronise_batchnorm
from tests.training.test_large_batch import Views, collate, simclr, view_trainer

BASE = {"learning_rate_scaling": "sqrt", "learning_rate": 0.02}
# Name: the model and the settings; with one process the batch is twice as large.
RUNS = {
    "synced": ("batchnorm", {"sync_batchnorm": True}),
    "not synced": ("batchnorm", {}),
    "synced, checkpoint": ("batchnorm", {"sync_batchnorm": True, "large_batch": "checkpoint"}),
    "chunk": ("without", {"large_batch": "chunk", "large_batch_chunk": 3}),
    "chunk, two parts": ("without", {"large_batch": "chunk", "large_batch_chunk": 3, "gradient_accumulation_steps": 2}),
}
SPLITS = [("batchnorm", (5, 3)), ("mobilenet", (2, 6))]


def run(name, folder, processes):
    """The state dict, the losses and the learning rates of two steps."""
    kind, settings = RUNS[name]
    model = simclr(kind)
    trainer = view_trainer(folder / name, model, per_device_train_batch_size=8 // processes, **BASE | settings)
    assert trainer.args.world_size == processes
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    rates = [entry["learning_rate"] for entry in history]
    return trainer.model.state_dict(), [entry["loss"] for entry in history], rates


def split_batch(kind, split, rank):
    """The state dict, the mean loss and the gradients of one step on a batch in uneven parts."""
    model = simclr(kind).train()
    synchronise_batchnorm(model, torch.device("cpu"))
    parallel = DistributedDataParallel(model)
    views = collate([Views()[index] for index in range(8)])["pixel_values"]
    loss = parallel(views.split(split)[rank]).loss
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return model.state_dict(), mean / 2, [weight.grad for weight in model.parameters()]


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {name: run(name, folder, 2) for name in RUNS}
    assert dist.get_world_size() == 2
    found |= {split: split_batch(*split, dist.get_rank()) for split in SPLITS}
    if dist.get_rank() == 0:
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main()
