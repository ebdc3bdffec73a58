"""Killed while it saves, wherever that is: the folder always resumes, and from a whole training state.

A child process is killed at a seeded place of a save. Python's audit hook sees every file that is opened, made,
renamed or removed, and kills there; a limit on the size of files kills in the middle of writing one, whoever writes it
(torch and safetensors write from C++ and Rust, past Python). `SIGXFSZ` is as final as SIGKILL: nothing of the process
runs after it.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from hfssl.errors import InputError
from hfssl.training import run
from hfssl.training.checkpoint import checkpoints, fault, missing_state, newest, resumable, weights_digest
from tests.training.test_run import assert_equal_runs, trainer_for

KILLS = 200
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def killed_while(action, place: int, limit: int) -> bool:
    """Runs `action` in a child that is killed at its `place`-th touch of the disk (limit < 0), or from there on when a
    file grows beyond `limit` bytes. Returns whether it was killed."""
    child = os.fork()
    if not child:
        seen = 0

        def hook(event, arguments):
            nonlocal seen
            if event not in EVENTS:
                return
            seen += 1
            if seen == place:
                if limit < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        torch.set_num_threads(1)
        sys.addaudithook(hook)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of one run: "whole", without interruption, and "killed", which ended after the checkpoint of step 2."""
    root = tmp_path_factory.mktemp("kills")
    settings = {"max_steps": 8, "save_steps": 2, "save_total_limit": 2, "eval_strategy": "no"}
    run(trainer_for(root / "whole", **settings))
    shutil.copytree(root / "whole", root / "killed")
    killed = root / "killed"
    trainer = trainer_for(root / "first", **(settings | {"save_steps": 1, "save_total_limit": 8}))
    run(trainer)
    for path in list(killed.iterdir()):
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(root / "first" / "checkpoint-2", killed / "checkpoint-2")
    record = json.loads((killed / "run.json").read_text()) | {"finished": False}
    (killed / "run.json").write_text(json.dumps(record))
    return root, settings


def test_a_save_that_is_killed_anywhere(runs, tmp_path):
    root, settings = runs
    trainer = trainer_for(tmp_path / "out", **settings)
    trainer.train()
    saves = [lambda: trainer._save_checkpoint(trainer.model, trial=None), trainer.save_final]
    largest = max(path.stat().st_size for path in (root / "first" / "checkpoint-2").iterdir())
    chance, died, outcomes = random.Random(0), 0, set()
    for seed in range(10 * KILLS):
        if died == KILLS:
            break
        out = tmp_path / "out"
        shutil.rmtree(out)
        shutil.copytree(root / "killed", out)
        place = chance.randrange(1, 40)
        limit = chance.choice([-1, int(largest * chance.random() ** 3)])
        died += killed_while(saves[seed % 4 == 3], place, limit)
        for checkpoint in checkpoints(out):
            assert fault(checkpoint) is None and not missing_state(checkpoint), (seed, checkpoint)
        found = resumable(out)
        assert found is not None, seed
        outcomes.add(found.name)
        if seed % 20 == 0:  # and a resume comes to the same end, with what the killed process left in its way
            resumed = trainer_for(out, **settings)
            run(resumed)
            assert weights_digest(resumed.model) == json.loads((root / "whole" / "run.json").read_text())["weights"]
            assert not list(out.glob(".checkpoint-*")) and not (out / ".final").exists()
    assert died == KILLS and outcomes == {"checkpoint-2", "checkpoint-8"}, (died, outcomes)


REAL_RUN = """
import sys
from tests.training.test_run import trainer_for
from hfssl.errors import InputError
from hfssl.training import run
import torch
torch.set_num_threads(1)
run(trainer_for(sys.argv[1], max_steps=300, save_steps=3, logging_steps=5, dataloader_num_workers=int(sys.argv[2])))
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_real_run_killed_again_and_again_equals_the_uninterrupted(run_command, tmp_path, workers):
    chance = random.Random(workers)
    whole = run_command(sys.executable, "-c", REAL_RUN, tmp_path / "whole", workers)
    assert whole.returncode == 0, whole.stderr
    killed, finished = 0, False
    while not finished:
        command = [sys.executable, "-c", REAL_RUN, str(tmp_path / "killed"), str(workers)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            before = newest(tmp_path / "killed")
            while killed < 3 and process.poll() is None and newest(tmp_path / "killed") == before:
                time.sleep(0.01)  # importing takes seconds: the time until the first save is no time to be killed at
            if killed < 3 and process.poll() is None:
                time.sleep(chance.random() * 0.3)
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
            finished = process.returncode == 0
            assert finished or process.returncode == -signal.SIGKILL
    assert killed == 3
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture
def full_from():
    """Sets the touch of the disk from which on no file may grow beyond 100 bytes: an error amid a write, as when full.

    An audit hook cannot be taken away again, so it does nothing between the uses.
    """
    left = [0]

    def hook(event, arguments):
        if left[0] and event in EVENTS:
            left[0] -= 1
            if not left[0]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    def set_place(place):
        left[0] = place
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    sys.addaudithook(hook)
    yield set_place
    set_place(0)


def test_a_disk_that_is_full(runs, tmp_path, full_from):
    root, settings = runs
    for place in range(5, 45, 4):
        out = tmp_path / f"out-{place}"
        shutil.copytree(root / "killed", out)
        trainer = trainer_for(out, **settings)
        full_from(place)
        with pytest.raises(InputError):
            run(trainer)
        full_from(0)
        assert resumable(out) is not None
        again = trainer_for(out, **settings)
        run(again)
        assert weights_digest(again.model) == json.loads((root / "whole" / "run.json").read_text())["weights"]
