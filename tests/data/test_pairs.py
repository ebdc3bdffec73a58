"""Pairs in flat arrays: their order, their packing and their batches."""

import numpy as np
import pytest
import torch

from hfssl.data.pairs import PackedPairs, PairCollator, Pairs, pack
from hfssl.data.sampling import OrderedBatches
from hfssl.models.modeling_lm import positions_within


def pairs_of(rows, **kwargs):
    """Pairs out of (source, target) lists of ids."""
    tokens = np.array([token for source, target in rows for token in (*source, *target)], np.uint16)
    ends = np.cumsum([len(source) + len(target) for source, target in rows])
    return Pairs(tokens, ends, np.array([len(source) for source, _ in rows], np.int32), **kwargs)


def random_pairs(count, seed=0, **kwargs):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, (count, 2))
    return pairs_of([(random.integers(2, 20, a), random.integers(2, 20, b)) for a, b in lengths], **kwargs)


def order_of(pairs, batch, passes=1, **kwargs):
    batches = OrderedBatches(len(pairs), batch, seed=5, order=pairs.order, **kwargs)
    steps = passes * len(pairs) // batch
    return np.array([batches.batch(step) for step in range(steps)])


@pytest.mark.parametrize("bucket", [0, 16, 100, 5000])
@pytest.mark.parametrize("size", [64, 1003])
def test_each_pair_comes_once_a_pass_and_each_pass_in_another_order(bucket, size):
    pairs = random_pairs(size, bucket=bucket)
    passes = np.array([pairs.order(np.arange(size), seed=5, epoch=epoch) for epoch in range(3)])
    assert (np.sort(passes, 1) == np.arange(size)).all()
    assert len({tuple(row) for row in passes}) == 3
    straddling = order_of(pairs, 50, passes=3).ravel()[: 2 * size]
    assert (np.sort(straddling.reshape(2, size), 1) == np.arange(2 * size).reshape(2, size)).all()


def test_windows_hold_other_pairs_in_each_pass():
    """2,000 pairs in 16 windows of 64 buckets of 2: a window is a sample of chance and no stretch of the data."""
    pairs = random_pairs(2000, bucket=2)
    first = [set(pairs.order(np.arange(125), seed=5, epoch=epoch).tolist()) for epoch in range(2)]
    assert len(first[0] & first[1]) < 30
    assert 800 < np.mean(list(first[0])) < 1200


def test_buckets_spare_padding_and_are_in_an_order_of_chance():
    pairs = random_pairs(4000, bucket=128)
    keys = order_of(pairs, 16)
    lengths = pairs.lengths[keys]
    assert lengths.sum() / (lengths.max(1) * 16).sum() > 0.93
    plain = pairs.lengths[order_of(random_pairs(4000), 16)]
    assert plain.sum() / (plain.max(1) * 16).sum() < 0.7
    means = lengths.mean(1)
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3, "short ones are not first"
    assert abs(np.diff(lengths[:, :], axis=1).mean()) < 0.05, "nor in a batch"


def test_a_place_in_the_order_needs_no_history():
    """As a resume reads it: any step from a new object, with any number of processes, at any offset."""
    whole = order_of(random_pairs(500, bucket=32), 8, passes=2)
    for step in (60, 3, 124, 61):
        batches = OrderedBatches(500, 8, seed=5, order=random_pairs(500, bucket=32).order)
        assert batches.batch(step) == whole[step].tolist()
    halves = [
        OrderedBatches(500, 4, seed=5, rank=rank, world_size=2, order=random_pairs(500, bucket=32).order)
        for rank in range(2)
    ]
    assert [key for each in halves for key in each.batch(7)] == whole[7].tolist()
    later = OrderedBatches(500, 8, seed=5, offset=3, order=random_pairs(500, bucket=32).order)
    assert later.batch(2) == whole.ravel()[19:27].tolist()


def test_packing_keeps_each_pair_whole_once_and_fills_blocks():
    lengths = np.random.default_rng(0).integers(2, 40, 3000)
    blocks = pack(lengths, 64)
    assert sorted(number for block in blocks for number in block) == list(range(3000))
    assert max(lengths[block].sum() for block in blocks) <= 64
    assert lengths.sum() / (64 * len(blocks)) > 0.98
    assert pack(lengths, 64) == blocks


def test_fingerprints_tell_data_and_order_apart():
    pairs = random_pairs(20)
    others = [random_pairs(20, seed=1), random_pairs(20, bucket=4), PackedPairs(pairs, 40), PackedPairs(pairs, 50)]
    assert len({each.fingerprint for each in (pairs, random_pairs(20), *others)}) == 5
    moved = Pairs(pairs.tokens, pairs.ends, pairs.source_lengths - (pairs.source_lengths > 1), "memory")
    assert moved.fingerprint != pairs.fingerprint


def test_a_batch_by_hand():
    pairs = pairs_of([([3, 4, 1], [5, 0]), ([6, 1], [0])])
    batch = PairCollator(0)([pairs[0], pairs[1]])
    assert batch["input_ids"].tolist() == [[3, 4, 1, 5, 0], [6, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 5, 0], [-100, -100, 0, -100, -100]]
    assert batch["target_positions"].tolist() == [[2, 3], [1, 4]]
    assert set(batch) == {"input_ids", "labels", "target_positions"}
    weighted = PairCollator(0, source_weight=0.5)([pairs[0], pairs[1]])
    assert weighted["source_labels"].tolist() == [[3, 4, 1, -100, -100], [6, 1, -100, -100, -100]]
    assert weighted["source_weight"] == 0.5
    assert PairCollator(0).identity == {} and PairCollator(0, 0.5).identity == {"source_weight": 0.5}


def test_a_packed_batch_by_hand():
    packed = PackedPairs(pairs_of([([3, 4, 1], [5, 0]), ([6, 1], [0]), ([7, 1], [8, 0])]), 8)
    assert sorted(map(sorted, packed.blocks)) in ([[0, 1], [2]], [[0], [1, 2]], [[0, 2], [1]])
    packed.blocks = [[0, 1], [2]]
    batch = PairCollator(9)([packed[0], packed[1]])
    assert batch["input_ids"].tolist() == [[3, 4, 1, 5, 0, 6, 1, 0], [7, 1, 8, 0, 9, 9, 9, 9]]
    assert batch["document_ids"].tolist() == [[0] * 5 + [1] * 3, [0] * 4 + [1] * 4]
    assert batch["labels"].tolist() == [[-100] * 3 + [5, 0, -100, -100, 0], [-100, -100, 8, 0] + [-100] * 4]
    assert batch["target_positions"].tolist() == [[2, 3, 6], [1, 2, 7]]
    assert positions_within(batch["document_ids"]).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3] * 2]


def test_frequencies_are_of_the_targets():
    pairs = pairs_of([([3, 4, 1], [5, 0]), ([6, 1], [0])])
    assert pairs.frequencies(8).tolist() == [2, 0, 0, 0, 0, 1, 0, 0]
    assert PackedPairs(pairs, 9).frequencies(8).tolist() == [2, 0, 0, 0, 0, 1, 0, 0]


def test_by_length_holds_the_same_pairs():
    pairs = random_pairs(30)
    ordered = pairs.by_length()
    assert (np.diff(ordered.lengths) >= 0).all()

    def each(part):
        return sorted((tuple(item["input_ids"]), item["source_length"]) for item in (part[i] for i in range(30)))

    assert each(ordered) == each(pairs)
    assert torch.is_tensor(PairCollator(0)([ordered[0]])["input_ids"])
