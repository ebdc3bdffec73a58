"""What each of the two processes of test_codes.py does. They read the two files of hfssl they need, without timm."""

import importlib
import sys
import types
from pathlib import Path

import torch
import torch.distributed as dist

_FOLDER = Path(__file__).parents[2] / "hfssl" / "models"
sys.modules["models_alone"] = types.ModuleType("models_alone")
sys.modules["models_alone"].__path__ = [str(_FOLDER)]
CodeHeads = importlib.import_module("models_alone.codes").CodeHeads

OPTIONS = ((0.0, "joint"), (0.3, "joint"), (-0.5, "posterior"))
INNER = ("exact", "ema", "adam:2")
CASES = [([4, 4], OPTIONS[0], "exact"), *(([5, 3], options, inner) for options in OPTIONS for inner in INNER)]


def two_steps(inner, options, here=slice(None), wrap=lambda heads: heads):
    """The loss, the gradients and the buffers of two heads after two steps on some of eight pairs."""
    torch.manual_seed(0)
    heads = CodeHeads(6, [4, 7], inner, 0.9, 0.05).double()
    pairs = torch.randn(2, 8, 6, dtype=torch.float64)[:, here]
    wrapped = wrap(heads)
    for _ in range(2):
        heads.zero_grad()
        logits_x, logits_y = wrapped(pairs.flatten(0, 1)).chunk(2)
        loss = torch.stack([each.loss for each in heads.terms(logits_x, logits_y, *options)]).mean()
        loss.backward()
    return loss.detach(), [weight.grad for weight in heads.parameters()], dict(heads.named_buffers())


def process(rank, folder):
    """Joins the group and saves what comes out of each case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert dist.get_world_size() == 2
    parallel = torch.nn.parallel.DistributedDataParallel
    found = [
        two_steps(inner, options, slice(sum(split[:rank]), sum(split[: rank + 1])), parallel)
        for split, options, inner in CASES
    ]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
