"""Signals to `hfssl pretrain`, as a terminal, a container or a cluster's scheduler sends them."""

import signal
import subprocess
import time

import pytest

from hfssl.training import run
from hfssl.training.checkpoint import newest
from tests.conftest import ROOT
from tests.training.test_run import Counting, trainer_for

TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]


@pytest.mark.parametrize(
    ("flags", "number"), [([], signal.SIGTERM), pytest.param(TWO, signal.SIGUSR1, marks=pytest.mark.distributed)]
)
def test_a_signal_to_the_command_saves_and_leaves(hfssl_command, tmp_path, flags, number):
    command = [hfssl_command, "pretrain", *flags, "gpt", "--config", "recipes/smoke/gpt.yaml", "--use_cpu"]
    command += ["--max_steps", "100000", "--save_strategy", "no", "--logging_steps", "1"]
    command += ["--output_dir", tmp_path / "out"]
    with subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("step 2 "):
                process.send_signal(number)
                break
        said += process.stderr.readlines()
    assert process.returncode == 128 + number, "".join(said)
    stopped = [line for line in said if line.startswith(f"Stopped by {number.name} after step ")]
    assert len(stopped) == 1 and "Traceback" not in "".join(said), "".join(said)
    step = int(stopped[0].split("after step ")[1].split(";")[0])
    assert newest(tmp_path / "out").name == f"checkpoint-{step}"


class Twice(Counting):
    """Sends two signals when the third sample is read."""

    def __init__(self, number):
        super().__init__()
        self.left, self.number = 3, number

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            for _ in range(2):
                signal.raise_signal(self.number)
                time.sleep(0.01)
        return super().__getitem__(index)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_second_signal_leaves_at_once(tmp_path, number):
    trainer = trainer_for(tmp_path / "out")
    trainer.train_dataset = Twice(number)
    with pytest.raises(SystemExit) as left:
        run(trainer)
    assert left.value.code == 128 + number and trainer.state.global_step == 0 and newest(tmp_path / "out") is None
