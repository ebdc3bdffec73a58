"""SimCLR on two processes: with synchronised or no BatchNorm they equal one with the whole batch."""

import sys
from pathlib import Path

import pytest
import torch

from tests.training.contrastive_processes import BASE, RUNS, SPLITS, run
from tests.training.test_large_batch import Views, collate, simclr

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes got."""
    import os
    import subprocess

    folder = tmp_path_factory.mktemp("two")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, root / "tests/training/contrastive_processes.py", folder], capture_output=True, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize("name", [name for name in RUNS if name != "not synced"])
def test_two_processes_equal_one(found, tmp_path, name):
    """Weights, the head's too, running statistics, losses and the scaled learning rate after two steps."""
    state, losses, rates = found[name]
    alone, alone_losses, alone_rates = run(name, tmp_path, 1)
    assert losses == pytest.approx(alone_losses, rel=1e-6)  # Trainer adds them up in float32
    assert rates == alone_rates == pytest.approx([BASE["learning_rate"] * _images(name) ** 0.5] * 2)
    assert state.keys() == alone.keys()
    for key in state:
        torch.testing.assert_close(state[key], alone[key], rtol=1e-9, atol=1e-11, msg=f"{key} differs")


def _images(name):
    return 8 * RUNS[name][1].get("gradient_accumulation_steps", 1)


def test_without_synchronisation_they_do_not(found, tmp_path):
    state, losses, _ = found["not synced"]
    alone, alone_losses, _ = run("not synced", tmp_path, 1)
    assert abs(losses[0] - alone_losses[0]) > 1e-4
    assert not torch.allclose(state["projection_head.1.running_var"], alone["projection_head.1.running_var"], rtol=1e-3)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_uneven_parts_equal_the_whole(found, split):
    state, mean, gradients = found[split]
    model = simclr(split[0]).train()
    loss = model(collate([Views()[index] for index in range(8)])["pixel_values"]).loss
    loss.backward()
    assert mean.item() == pytest.approx(loss.item(), abs=1e-12)
    for got, weight in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(got, weight.grad, rtol=1e-7, atol=1e-10)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11)
