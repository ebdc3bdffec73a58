"""The state of every generator that a training step may draw from."""

from __future__ import annotations

import random

import numpy as np
import torch


def random_state() -> tuple:
    """Python's, NumPy's and torch's, on the CPU and every GPU."""
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    )


def set_random_state(state: tuple) -> None:
    """Goes back to what `random_state` gave."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state_all(state[3])
