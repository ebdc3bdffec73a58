"""Weights in parts (FSDP2): the evaluation sees them whole."""

import json
import sys

import pytest

PROGRAM = """
import json, os, sys
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hfssl.models.modeling_lm import language_model
from tests.training.test_run import Counting, tiny_gpt, trainer_for

torch.set_num_threads(1)
trainer = trainer_for(sys.argv[1], model=language_model(tiny_gpt().config), per_device_eval_batch_size=1)
trainer.eval_dataset = Counting(9)  # the first process has five batches, the other four
assert trainer.args.world_size == 2
whole = trainer.evaluate()
mesh = init_device_mesh("cpu", (2,))
for block in trainer.model.transformer.h:
    fully_shard(block, mesh=mesh)
fully_shard(trainer.model, mesh=mesh)
parts = trainer.evaluate()
if trainer.args.process_index == 0:
    print(json.dumps([whole, parts]), flush=True)
torch.distributed.barrier()
os._exit(0)  # torch's FSDP on gloo now and then aborts when the interpreter is gone: a thread of its own still stands
"""


@pytest.mark.distributed
def test_an_evaluation_of_sharded_weights(run_command, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_command(
        *torchrun, tmp_path / "program.py", tmp_path / "out", env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, parts = json.loads(done.stdout.splitlines()[-1])
    for name in ("eval_loss", "eval_accuracy"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-6) and 0 <= whole[name] < 10
