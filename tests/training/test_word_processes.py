"""Word vectors on two processes equal those of one with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.word_processes import train

pytestmark = pytest.mark.distributed


def test_two_processes_equal_one(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, root / "tests/training/word_processes.py", tmp_path], capture_output=True, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    state, losses = torch.load(tmp_path / "found.pt")
    alone, alone_losses = train(tmp_path / "one", 1)
    assert losses == pytest.approx(alone_losses, rel=1e-6) and len(losses) == 12 and losses[-1] < losses[0]
    for name, weight in alone.items():
        torch.testing.assert_close(state[name], weight, msg=f"{name} differs")
