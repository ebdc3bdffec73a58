import itertools

import numpy as np
import pytest
from torch.utils.data import Dataset

from hfssl.data.sampling import EpochIndexed, OrderedBatches, OrderedDataLoader, permute
from hfssl.errors import InputError


class Squares(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"square": index**2}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 1000, 4097])
def test_permute_is_a_permutation(size):
    assert sorted(permute(np.arange(size), size, seed=3)) == list(range(size))


def test_permute_depends_on_seed_and_epoch_and_not_on_the_batch():
    positions = np.arange(500)
    whole = permute(positions, 500, seed=1, epoch=2)
    assert (whole == [permute(np.array([p]), 500, 1, 2)[0] for p in positions]).all()
    assert (whole != permute(positions, 500, 1, 3)).any()
    assert (whole != permute(positions, 500, 2, 2)).any()


def test_permute_looks_random():
    """The first samples of 4,000 seeds: each of 20 values is as frequent as chance says (chi-square, 19 df)."""
    first = np.array([permute(np.array([0]), 20, seed)[0] for seed in range(4000)])
    counts = np.bincount(first, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 45  # p = .0007
    steps = permute(np.arange(10_000), 10_000, seed=0)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 0.05


def keys(size, batch, epochs, **kwargs):
    batches = OrderedBatches(size, batch, **kwargs)
    out = []
    for epoch in range(epochs):
        batches.epoch = epoch
        out += list(batches)
    return out


def test_every_pass_sees_each_sample_once_though_batches_straddle_passes():
    flat = np.concatenate(keys(10, 4, epochs=5))  # 5 epochs of 2 batches: 40 positions, 4 whole passes
    for number in range(4):
        here = flat[number * 10 : (number + 1) * 10]
        assert (here // 10 == number).all()
        assert sorted(here % 10) == list(range(10))


@pytest.mark.parametrize("world", [2, 4])
def test_the_global_order_is_the_same_on_any_number_of_processes(world):
    alone = keys(103, 8, epochs=3, seed=5)
    shares = [keys(103, 8 // world, epochs=3, seed=5, rank=rank, world_size=world) for rank in range(world)]
    together = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == alone


def test_no_seed_keeps_the_order():
    assert keys(7, 2, epochs=1, seed=None) == [[0, 1], [2, 3], [4, 5]]


def test_a_far_position_is_reached_at_once_and_equals_the_walk():
    walked = list(OrderedBatches(1000, 10, seed=1))
    batches = OrderedBatches(1000, 10, seed=1)
    batches.start = 57
    assert list(batches) == walked[57:]
    assert list(batches) == walked, "the start is used once"
    far = OrderedBatches(10**9 + 7, 8, seed=1)
    assert len(set(far.batch(10**8))) == 8


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"a batch of 8 is larger than the data, 7 samples"):
        OrderedBatches(7, 4, world_size=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_says_which_sample_and_which_pass(workers):
    loader = OrderedDataLoader(
        Squares(6), OrderedBatches(6, 3, seed=2), num_workers=workers, collate_fn=lambda items: items
    )
    seen = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        seen += [item for batch in loader for item in batch]
    assert all(item["square"] == item["index"] ** 2 for item in seen)
    assert [item["epoch"] for item in seen] == [0] * 6 + [1] * 6
    loader.set_epoch(1)
    assert [item for batch in loader.skip_batches(1) for item in batch] == seen[9:]


def test_epoch_indexed_takes_keys_apart():
    item = EpochIndexed(Squares(10))[37]
    assert item == {"square": 49, "index": 7, "epoch": 3}
