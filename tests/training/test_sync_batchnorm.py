"""Synchronised BatchNorm in one process: it is BatchNorm, and what is saved is that of BatchNorm. For two processes see
test_contrastive_processes.py."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hfssl.models import SimCLRForPreTraining
from hfssl.training.sync_batchnorm import SyncedBatchNorm, synchronise_batchnorm
from tests.training.test_large_batch import Views, collate, simclr

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["batchnorm", "mobilenet"])
def test_one_process_computes_what_it_did(kind):
    views = collate([Views()[index] for index in range(4)])["pixel_values"]
    plain, synced = simclr(kind), simclr(kind)
    kinds = [type(module) for module in plain.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    synchronise_batchnorm(synced, CPU)
    assert sum(isinstance(module, SyncedBatchNorm) for module in synced.modules()) == len(kinds)
    assert list(synced.state_dict()) == list(plain.state_dict())
    for model in (plain, synced):
        model.train()(views).loss.backward()
    for (name, weight), other in zip(plain.named_parameters(), synced.parameters(), strict=True):
        assert torch.equal(weight.grad, other.grad), name
    for name, value in synced.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert torch.equal(synced.eval()(views).loss, plain.eval()(views).loss)


def test_the_weights_are_the_same_tensors():
    norm = nn.BatchNorm1d(3, eps=1e-3, momentum=None).eval()
    norm.register_parameter("bias", None)
    synced = SyncedBatchNorm.like(norm)
    assert synced.weight is norm.weight and synced.bias is None and synced.running_var is norm.running_var
    assert (synced.eps, synced.momentum, synced.training) == (1e-3, None, False)
    unscaled = SyncedBatchNorm.like(nn.BatchNorm2d(3, affine=False, track_running_stats=False))
    assert unscaled.weight is None and unscaled.running_mean is None


def test_what_is_saved_is_that_of_batchnorm(tmp_path):
    plain, synced = simclr(), simclr()
    synchronise_batchnorm(synced, CPU)
    for name, model in (("plain", plain), ("synced", synced)):
        model.save_pretrained(tmp_path / name)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "synced")]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith((".json", ".py")):
            assert (tmp_path / "plain" / name).read_text() == (tmp_path / "synced" / name).read_text()
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "synced"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    loaded = SimCLRForPreTraining.from_pretrained(tmp_path / "synced")
    assert not any(isinstance(module, SyncedBatchNorm) for module in loaded.modules())


def test_on_a_gpu_the_modules_are_torch_s():
    model = simclr("mobilenet")
    state = model.state_dict()
    synchronise_batchnorm(model, torch.device("cuda"))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    assert isinstance(model.projection_head[1], nn.SyncBatchNorm)
    assert list(model.state_dict()) == list(state)
