"""What happens beside the steps: a signal saves and stops."""

from __future__ import annotations

import signal
import threading

import torch
import torch.distributed as dist
from transformers import TrainerCallback

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopOnSignal(TrainerCallback):
    """SIGTERM, SIGINT and SIGUSR1 let the step finish, save a checkpoint and stop; a second signal leaves at once.

    With several processes a signal to any of them stops all, after the same step.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._group = None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if args.world_size > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")  # a CPU group: asking costs the accelerator no stop

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self._agreed():
            control.should_training_stop = True
            control.should_save = True
        return control

    def _note(self, number, frame):
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = number

    def _agreed(self) -> bool:
        if self._group is None:
            return self.received is not None
        flag = torch.tensor([self.received or 0])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        self.received = int(flag) or None
        return self.received is not None
