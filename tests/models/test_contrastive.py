"""NT-Xent against a slow loop in float64, its closed forms, and several processes against one."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hfssl.models.contrastive import NTXentLoss, nt_xent


def reference(z_1, z_2, temperature):
    """Chen et al. 2020, equation 1, row by row."""
    z = [vector / vector.norm() for vector in torch.cat([z_1, z_2]).double()]
    batch, total = len(z_1), 0.0
    for i in range(2 * batch):
        j = (i + batch) % (2 * batch)
        others = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * batch) if k != i]
        total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / sum(others))
    return total / (2 * batch)


def views(batch=7, dim=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, dim, generator=generator, dtype=dtype).unbind(0)


CHUNKS = [None, 1, 3, 5, 14, 100]


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_equals_the_slow_loop(temperature, chunk_size):
    z_1, z_2 = (z.requires_grad_() for z in views())
    ours = nt_xent(z_1, z_2, temperature, chunk_size=chunk_size)
    slow = reference(z_1, z_2, temperature)
    assert ours.item() == pytest.approx(slow.item(), abs=1e-12)
    for got, expected in zip(
        torch.autograd.grad(3 * ours, (z_1, z_2)), torch.autograd.grad(3 * slow, (z_1, z_2)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_gradients_are_right_numerically(chunk_size):
    z_1, z_2 = (z.requires_grad_() for z in views(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3, chunk_size=chunk_size), (z_1, z_2))


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_closed_forms(chunk_size):
    same = torch.ones(6, 4, dtype=torch.float64)
    assert nt_xent(same, same, 0.1, chunk_size=chunk_size).item() == pytest.approx(math.log(11), abs=1e-12)
    z_1, z_2 = views(1)
    assert nt_xent(z_1, z_2, chunk_size=chunk_size).item() == 0  # nothing to tell the pair from
    z_1, z_2 = views()
    forwards, backwards = nt_xent(z_1, z_2, 0.2, chunk_size=chunk_size), nt_xent(z_2, z_1, 0.2, chunk_size=chunk_size)
    assert forwards.item() == pytest.approx(backwards.item(), abs=1e-13)
    assert nt_xent(5 * z_1, z_2 / 7, 0.2, chunk_size=chunk_size).item() == pytest.approx(forwards.item(), abs=1e-12)
    axes = torch.eye(3, dtype=torch.float64)  # each pair equal, all others at right angles
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    assert nt_xent(axes, axes, 0.5, chunk_size=chunk_size).item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_accumulated_in_float32():
    z_1, z_2 = views(64, 32, dtype=torch.float32)
    full = nt_xent(z_1.bfloat16().float(), z_2.bfloat16().float(), 0.1)
    for chunk_size in (None, 16):
        half = nt_xent(z_1.bfloat16(), z_2.bfloat16(), 0.1, chunk_size=chunk_size)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=1e-6, atol=0)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(nt_xent(z_1.bfloat16(), z_2.bfloat16(), 0.1, chunk_size=chunk_size), full)


def test_a_chunked_loss_works_without_gradients():
    z_1, z_2 = views()
    with torch.no_grad():
        assert nt_xent(z_1, z_2, chunk_size=4).item() == pytest.approx(nt_xent(z_1, z_2).item(), abs=1e-12)


def test_the_module_and_bad_input():
    z_1, z_2 = views()
    assert NTXentLoss(0.2)(z_1, z_2) == nt_xent(z_1, z_2, 0.2)
    assert NTXentLoss(temperature=0.2, gather_distributed=False)(z_1, z_2) == nt_xent(z_1, z_2, 0.2)
    with pytest.raises(ValueError, match="two \\(B, D\\) tensors"):
        nt_xent(z_1, z_2[:3])
    with pytest.raises(ValueError, match="must be positive"):
        nt_xent(z_1, z_2, 0.0)


CASES = [(split, chunk_size) for split in ([4, 4], [5, 3]) for chunk_size in (None, 3)]


def _process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert dist.get_world_size() == 2
    images_1, images_2 = views(8, 6)
    results = []
    for split, chunk_size in CASES:
        torch.manual_seed(0)
        encoder = torch.nn.Linear(6, 4).double()
        parallel = torch.nn.parallel.DistributedDataParallel(encoder)
        start = sum(split[:rank])
        here = slice(start, start + split[rank])
        z_1, z_2 = parallel(torch.stack([images_1[here], images_2[here]]))
        loss = nt_xent(z_1, z_2, 0.3, chunk_size=chunk_size)
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        local = nt_xent(z_1, z_2, 0.3, gather=False).item()
        results.append((mean / 2, encoder.weight.grad, encoder.bias.grad, local))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one_for_any_split(tmp_path):
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 4).double()
    loss = nt_xent(*encoder(torch.stack(views(8, 6))), 0.3)
    loss.backward()
    for rank in range(2):
        results = torch.load(tmp_path / f"rank{rank}.pt")
        assert len(results) == len(CASES)
        for mean, weight, bias, local in results:
            assert mean.item() == pytest.approx(loss.item(), abs=1e-12)
            assert abs(local - loss.item()) > 1e-3  # without the other process it is another loss
            torch.testing.assert_close(weight, encoder.weight.grad, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(bias, encoder.bias.grad, rtol=1e-10, atol=1e-12)
