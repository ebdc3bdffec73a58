"""A run that is stopped twice and resumed equals one that was not, bit for bit: GPT and BERT, one and two processes."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import BertConfig

from hfssl.benchmarking import numbered_tokenizer
from hfssl.data.blocks import CausalCollator
from hfssl.data.masking import MaskingCollator
from hfssl.models.modeling_lm import language_model
from hfssl.training import run
from hfssl.training.checkpoint import checkpoints, newest, step_of
from tests.training.test_run import SMALL_BERT, Counting, KillAt, assert_equal_runs, losses, tiny_gpt, trainer_for

STEPS = 24  # of 4 samples out of 40: two passes and a half; with 4 micro-batches a step nearly ten passes


def make_trainer(kind, out, dropout=0.1, callbacks=(), **settings):
    """Our training class on blocks that count upwards; BERT with masks that differ in each pass."""
    torch.manual_seed(0)
    if kind == "gpt":
        model, collator = language_model(tiny_gpt(dropout).config), CausalCollator()
    else:
        config = BertConfig(**SMALL_BERT | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})
        model, collator = language_model(config), MaskingCollator(numbered_tokenizer(24), seed=3, positions=True)
    trainer = trainer_for(out, model, callbacks, **({"max_steps": STEPS, "save_steps": 100} | settings))
    trainer.data_collator, trainer.eval_dataset = collator, Counting(8)
    return trainer


def assert_stopped_twice_equals_whole(kind, folder, stops, signalled=True, **settings):
    """`stops` are the steps at which a signal comes; `signalled`: to this process."""
    run(make_trainer(kind, folder / "whole", **settings))
    for stop in stops:
        callbacks = [KillAt(stop)] if signalled else []
        torch.manual_seed(stop)  # a new process would not have the old one's random state
        with pytest.raises(SystemExit) as stopped:
            run(make_trainer(kind, folder / "parts", callbacks=callbacks, **settings))
        assert stopped.value.code == 128 + signal.SIGTERM
        assert not multiprocessing.active_children(), "workers that outlive the training"
        assert stop <= step_of(newest(folder / "parts")) <= stop + 1
    torch.manual_seed(99)
    run(make_trainer(kind, folder / "parts", **settings))
    if not dist.is_initialized() or dist.get_rank() == 0:
        assert_equal_runs(folder / "whole", folder / "parts")


FACTORS = (["gpt", "bert"], [0.0, 0.1], [0, 2], [1, 4])
# Half of the combinations, in which any three factors are crossed in full; the other half is slow.
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if sum(map(list.index, FACTORS, case)) % 2 else [])
    for case in itertools.product(*FACTORS)
]


@pytest.mark.parametrize(("kind", "dropout", "workers", "accumulation"), CASES)
def test_stopped_twice_equals_uninterrupted(tmp_path, kind, dropout, workers, accumulation):
    chance = random.Random(str((kind, dropout, workers, accumulation)))
    stops = chance.randint(1, 10), chance.randint(13, 17)  # a random step, and one in the midst of the second pass
    assert_stopped_twice_equals_whole(
        kind, tmp_path, stops, dropout=dropout, dataloader_num_workers=workers,
        gradient_accumulation_steps=accumulation, per_device_train_batch_size=4 // accumulation,
    )  # fmt: skip


TWO_PROCESSES = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from hfssl.training import run
from tests.training.test_resume import KillAt, assert_stopped_twice_equals_whole, make_trainer

torch.set_num_threads(1)
for kind in ("gpt", "bert"):
    for dropout, accumulation, workers in ((0.1, 1, 0), (0.1, 4, 2), (0.0, 4, 0)):
        # The signal reaches the second process alone; both save and leave.
        folder = Path(sys.argv[1], f"{kind}{dropout}{accumulation}")
        assert_stopped_twice_equals_whole(
            kind, folder, (5, 14), signalled=os.environ["RANK"] == "1", dropout=dropout,
            gradient_accumulation_steps=accumulation, dataloader_num_workers=workers,
            per_device_train_batch_size=2 if accumulation == 1 else 1,
        )
        assert dist.get_world_size() == 2
try:  # the next part of this one is for one process
    run(make_trainer("gpt", f"{sys.argv[1]}/changing", 0.0, [KillAt(7)], per_device_train_batch_size=2))
except SystemExit:
    pass
"""


def launch(program, *arguments):
    """Starts two processes that meet over gloo, in a session of their own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, program, *map(str, arguments)], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.distributed
def test_two_processes_stopped_twice_equal_uninterrupted(tmp_path):
    (tmp_path / "program.py").write_text(TWO_PROCESSES)
    process = launch(tmp_path / "program.py", tmp_path)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    for name in ("changing", "whole"):
        run(make_trainer("gpt", tmp_path / name, 0.0, per_device_train_batch_size=4, resume=True))
    whole, changing = losses(tmp_path / "whole"), losses(tmp_path / "changing")
    assert len(whole) == STEPS and np.allclose(changing, whole, rtol=1e-4), "the same samples in the same steps"


ONE_OF_TWO = """
import os, sys
from pathlib import Path
import torch
from hfssl.errors import log_to_stderr
from hfssl.training import run
from tests.training.test_resume import make_trainer

log_to_stderr()
torch.set_num_threads(1)
trainer = make_trainer("bert", sys.argv[1], save_steps=3, logging_steps=5, per_device_train_batch_size=2, max_steps=150)
assert trainer.args.world_size == 2
Path(sys.argv[1] + f".{trainer.args.process_index}").write_text(str(os.getpid()))
run(trainer)
"""


@pytest.mark.distributed
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_of_two_processes_killed(tmp_path, victim):
    """The other one must not save without it: what is there resumes to the run that was not killed."""
    (tmp_path / "program.py").write_text(ONE_OF_TWO)
    whole = launch(tmp_path / "program.py", tmp_path / "whole")
    said = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, said[-3000:]
    process = launch(tmp_path / "program.py", tmp_path / "killed")
    while process.poll() is None and not checkpoints(tmp_path / "killed"):
        time.sleep(0.01)
    time.sleep(random.Random(victim).random() * 0.2)
    os.kill(int((tmp_path / f"killed.{victim}").read_text()), signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode != 0, "killed after its end"
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    again = launch(tmp_path / "program.py", tmp_path / "killed")
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and "Resuming from" in said, said[-3000:]
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")
