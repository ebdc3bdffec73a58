"""NT-Xent and its kin against a slow loop, closed forms, other libraries, and several processes against one."""

import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode

from hfssl.models.contrastive import NTXentLoss, nt_xent
from tests.models.contrastive_processes import CASES, OPTIONS, SPLITS, process, views


def reference(z_1, z_2, temperature, decoupled=False, labels=None):
    """Row by row: Chen et al. 2020, equation 1; Yeh et al. 2022, equation 6; Khosla et al. 2020, equation 2."""
    z = [vector / vector.norm() for vector in torch.cat([z_1, z_2]).double()]
    batch, total = len(z_1), 0.0
    classes = list(range(batch)) * 2 if labels is None else labels.tolist() * 2
    for i in range(2 * batch):
        positives = [p for p in range(2 * batch) if p != i and classes[p] == classes[i]]
        denominator = sum(
            torch.exp(z[i] @ z[k] / temperature)
            for k in range(2 * batch)
            if k != i and not (decoupled and k in positives)
        )
        for p in positives:
            total = total - torch.log(torch.exp(z[i] @ z[p] / temperature) / denominator) / len(positives)
    return total / (2 * batch)


LABELS = torch.tensor([3, 0, 3, 1, 3, 0, 9])
KINDS = {"plain": {}, "decoupled": {"decoupled": True}, "supervised": {"labels": LABELS}}


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 14])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_slow_loop(kind, temperature, chunk_size):
    z_1, z_2 = (z.requires_grad_() for z in views())
    ours = nt_xent(z_1, z_2, temperature, chunk_size, **KINDS[kind])
    slow = reference(z_1, z_2, temperature, **KINDS[kind])
    assert ours.item() == pytest.approx(slow.item(), abs=1e-12)
    for got, expected in zip(
        torch.autograd.grad(3 * ours, (z_1, z_2)), torch.autograd.grad(3 * slow, (z_1, z_2)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_numerically(kind):
    z_1, z_2 = (z.requires_grad_() for z in views(7, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3, 5, **KINDS[kind]), (z_1, z_2))


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_closed_forms(chunk_size):
    same = torch.ones(6, 4, dtype=torch.float64)
    assert nt_xent(same, same, 0.1, chunk_size).item() == pytest.approx(math.log(11), abs=1e-12)
    z_1, z_2 = views(1)
    assert nt_xent(z_1, z_2, chunk_size=chunk_size).item() == 0  # nothing to tell the pair from
    z_1, z_2 = views()
    forwards, backwards = nt_xent(z_1, z_2, 0.2, chunk_size), nt_xent(z_2, z_1, 0.2, chunk_size)
    assert forwards.item() == pytest.approx(backwards.item(), abs=1e-13)
    assert nt_xent(5 * z_1, z_2 / 7, 0.2, chunk_size).item() == pytest.approx(forwards.item(), abs=1e-12)
    axes = torch.eye(3, dtype=torch.float64)  # each pair equal, all others at right angles
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    assert nt_xent(axes, axes, 0.5, chunk_size).item() == pytest.approx(expected, abs=1e-12)


def test_closed_forms_of_the_kin():
    same = torch.ones(6, 4, dtype=torch.float64)
    assert nt_xent(same, same, 0.1, decoupled=True).item() == pytest.approx(math.log(10), abs=1e-12)
    axes = torch.eye(3, dtype=torch.float64)
    assert nt_xent(axes, axes, 0.5, decoupled=True).item() == pytest.approx(math.log(4) - 2, abs=1e-12)
    one_class = torch.zeros(6, dtype=torch.int64)
    assert nt_xent(same, same, 0.1, labels=one_class).item() == pytest.approx(math.log(11), abs=1e-12)
    z_1, z_2 = views()
    own_classes = nt_xent(z_1, z_2, 0.2, labels=torch.arange(7).flip(0))
    assert own_classes.item() == pytest.approx(nt_xent(z_1, z_2, 0.2).item(), abs=1e-12)


def test_a_single_pair_gives_no_gradient_and_well_kept_pairs_no_negative_loss():
    z_1, z_2 = (z.requires_grad_() for z in views(1, dtype=torch.float32))
    nt_xent(z_1, z_2, 0.1).backward()
    assert not z_1.grad.any() and not z_2.grad.any()
    axes = torch.eye(8)
    assert 0 <= nt_xent(axes, axes, 0.05).item() < 1e-7


def numpy_port(hidden, temperature):
    """`add_contrastive_loss` of google-research/simclr, objective.py: large negative logits for oneself, two sums."""
    hidden = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
    a, b = np.split(hidden, 2)
    oneself = np.eye(len(a)) * 1e9

    def cross_entropy(logits):
        return (np.log(np.exp(logits).sum(1)) - np.diagonal(logits)).mean()

    aa, bb, ab = a @ a.T / temperature - oneself, b @ b.T / temperature - oneself, a @ b.T / temperature
    return cross_entropy(np.concatenate([ab, aa], 1)) + cross_entropy(np.concatenate([ab.T, bb], 1))


def test_twice_the_mean_is_the_sum_of_the_authors_code():
    z_1, z_2 = views(9)
    expected = numpy_port(torch.cat([z_1, z_2]).numpy(), 0.3)
    assert 2 * nt_xent(z_1, z_2, 0.3).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "options"), [("NTXentLoss", {}), ("DCLLoss", {"decoupled": True})])
def test_equals_lightly(name, options):
    peer = getattr(pytest.importorskip("lightly.loss"), name)(temperature=0.2)
    z_1, z_2 = (z.requires_grad_() for z in views(33, 16))
    ours, theirs = NTXentLoss(0.2, chunk_size=10, **options)(z_1, z_2), peer(z_1, z_2)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    pairs = zip(torch.autograd.grad(ours, (z_1, z_2)), torch.autograd.grad(theirs, (z_1, z_2)), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_accumulated_in_float32(kind):
    z_1, z_2 = views(70, 32, dtype=torch.float32)
    options = {"labels": LABELS.repeat(10)} if kind == "supervised" else KINDS[kind]
    full = nt_xent(z_1.bfloat16().float(), z_2.bfloat16().float(), 0.1, **options)
    half = nt_xent(z_1.bfloat16(), z_2.bfloat16(), 0.1, **options)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=1e-6, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nt_xent(z_1.bfloat16(), z_2.bfloat16(), 0.1, 16, **options), full)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation gives."""

    found = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            self.found = max(self.found, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_matrix_is_never_held(kind):
    z_1, z_2 = (z.requires_grad_() for z in views(1022, 4, dtype=torch.float32))
    options = {"labels": LABELS.repeat(146)} if kind == "supervised" else KINDS[kind]
    with LargestTensor() as largest:
        nt_xent(z_1, z_2, **options).backward()
    assert largest.found <= 2**20 < 2044**2 / 2
    with LargestTensor() as largest:
        nt_xent(z_1, z_2, chunk_size=10, **options).backward()
    assert largest.found == 10 * 2044


def test_it_works_without_gradients():
    z_1, z_2 = (z.requires_grad_() for z in views())
    with torch.no_grad():
        assert nt_xent(z_1, z_2, chunk_size=4).item() == pytest.approx(nt_xent(z_1, z_2).item(), abs=1e-12)


def test_the_module_and_bad_input():
    z_1, z_2 = views()
    assert NTXentLoss(0.2)(z_1, z_2) == nt_xent(z_1, z_2, 0.2)
    assert NTXentLoss(temperature=0.2, memory_bank_size=0, gather_distributed=False)(z_1, z_2) == nt_xent(z_1, z_2, 0.2)
    assert NTXentLoss(0.2)(z_1, z_2, LABELS) == nt_xent(z_1, z_2, 0.2, labels=LABELS)
    with pytest.raises(ValueError, match="memory_bank_size must be 0, not 4096"):
        NTXentLoss(memory_bank_size=4096)
    with pytest.raises(ValueError, match="two \\(B, D\\) tensors"):
        nt_xent(z_1, z_2[:3])
    with pytest.raises(ValueError, match="must be positive"):
        nt_xent(z_1, z_2, 0.0)
    for labels in (LABELS[:3], LABELS[:, None], LABELS.float()):
        with pytest.raises(ValueError, match="labels must be 7 integers, one an image, not torch"):
            nt_xent(z_1, z_2, labels=labels)
    with pytest.raises(ValueError, match="take one of the two"):
        nt_xent(z_1, z_2, labels=LABELS, decoupled=True)
    with pytest.raises(ValueError, match="single image has nothing"):
        nt_xent(z_1[:1], z_2[:1], decoupled=True)


@pytest.mark.distributed
def test_two_and_four_processes_equal_one_for_any_split(tmp_path):
    mp.spawn(process, args=(str(tmp_path),), nprocs=max(SPLITS))
    expected = {}
    for number, options in enumerate(OPTIONS):
        torch.manual_seed(0)
        encoder = torch.nn.Linear(6, 4).double()
        loss = nt_xent(*encoder(torch.stack(views(8, 6))), 0.3, **options)
        loss.backward()
        expected[number] = loss.item(), encoder.weight.grad, encoder.bias.grad
    for world_size in SPLITS:
        for rank in range(world_size):
            results = torch.load(tmp_path / f"{rank}of{world_size}.pt")
            assert len(results) == len(CASES[world_size])
            for number, (mean, weight, bias, alone) in enumerate(results):
                loss, weight_grad, bias_grad = expected[number % len(OPTIONS)]
                assert mean.item() == pytest.approx(loss, abs=1e-12)
                assert alone is None or abs(alone - loss) > 1e-3  # without the other processes it is another loss
                torch.testing.assert_close(weight, weight_grad, rtol=1e-10, atol=1e-12)
                torch.testing.assert_close(bias, bias_grad, rtol=1e-10, atol=1e-12)
