import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hfssl.finetuning.batches import LengthBatches, TaskCollator, TaskLoader, make_targets, sorted_rows
from hfssl.finetuning.encoding import Encoded, TaskEncoder


def encoded(lengths, items=None, seed=0):
    """Rows of random tokens of these lengths; each row an item unless told otherwise."""
    generator = np.random.default_rng(seed)
    total = int(np.sum(lengths))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(
        generator.integers(5, 99, total).astype(np.int32), starts, generator.integers(0, 2, total).astype(np.uint8),
        np.arange(len(lengths) + 1) if items is None else np.asarray(items), None, 0,
    )  # fmt: skip


def epoch_of(batches, epoch):
    batches.epoch = epoch
    return [np.asarray(batch) for batch in batches]


@pytest.mark.parametrize(("size", "batch"), [(100, 8), (96, 8), (7, 8), (2490, 16)])
def test_bucketed_batches_are_as_many_and_as_large_as_plain_ones(size, batch):
    """Against torch's own loader with shuffling: the same sizes, and each item once an epoch."""
    lengths = np.random.default_rng(0).integers(5, 120, size)
    batches = LengthBatches(lengths, batch, seed=3, pool=4)
    plain = [len(part) for part in DataLoader(list(range(size)), batch, shuffle=True)]
    for epoch in (0, 1):
        found = epoch_of(batches, epoch)
        assert [len(part) for part in found] == plain and len(batches) == len(plain)
        keys = np.concatenate(found)
        assert sorted(keys - epoch * size) == list(range(size))


def test_the_seed_decides_the_order_and_each_epoch_has_its_own():
    lengths = np.random.default_rng(0).integers(5, 120, 200)
    first = [epoch_of(LengthBatches(lengths, 8, seed=1), epoch) for epoch in (0, 1)]
    again = [epoch_of(LengthBatches(lengths, 8, seed=1), epoch) for epoch in (0, 1)]
    assert all(np.array_equal(a, b) for one, other in zip(first, again, strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip
    assert not np.array_equal(np.concatenate(first[0]), np.concatenate(first[1]) - 200)
    other = epoch_of(LengthBatches(lengths, 8, seed=2), 0)
    assert not np.array_equal(np.concatenate(first[0]), np.concatenate(other))
    # Long and short batches come in any order: no epoch ends with the longest texts.
    means = [lengths[part].mean() for part in first[0][:-1]]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6


def test_sorting_saves_the_padding_that_random_batches_have():
    lengths = np.random.default_rng(0).gamma(4, 16, 3000).astype(int) + 4

    def ratio(pool):
        parts = [lengths[part] for part in epoch_of(LengthBatches(lengths, 32, pool=pool), 0)]
        return sum(len(part) * part.max() for part in parts) / lengths.sum()

    assert ratio(0) > 1.6 and ratio(64) <= 1.08


def test_a_batch_in_parts_is_the_same_batch():
    lengths = np.random.default_rng(0).integers(5, 120, 45)
    whole = epoch_of(LengthBatches(lengths, 8, seed=1), 0)
    parts = epoch_of(LengthBatches(lengths, 8, seed=1, parts=4), 0)
    assert len(parts) == len(LengthBatches(lengths, 8, parts=4)) == 5 * 4 + 3
    assert np.array_equal(np.concatenate(whole), np.concatenate(parts))
    assert {len(part) for part in parts[:20]} == {2}


def test_a_batch_is_its_rows_padded_to_the_longest():
    data = encoded([3, 7, 5, 1])
    batch = TaskCollator(data, np.array([0, 1, 2, 0]), pad_id=0)([1, 3, 4 + 2])  # 4 + 2: item 2 of the second epoch
    assert batch["input_ids"].shape == (3, 7) and batch["labels"].tolist() == [1, 0, 2]
    for place, row in enumerate((1, 3, 2)):
        tokens = data.ids[data.starts[row] : data.starts[row + 1]]
        types = data.types[data.starts[row] : data.starts[row + 1]]
        length = len(tokens)
        assert batch["input_ids"][place].tolist() == [*tokens, *[0] * (7 - length)]
        assert batch["token_type_ids"][place].tolist() == [*types, *[0] * (7 - length)]
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (7 - length)
    wide = TaskCollator(data, None, 0, multiple=8)([0])
    assert wide["input_ids"].shape == (1, 8) and "labels" not in wide
    static = TaskCollator(data, np.array([0, 1, 2, 0]), 0, rows=6)([1, 3])
    assert static["input_ids"].shape == (6, 32) and len(static["labels"]) == 2
    assert torch.equal(static["input_ids"][2:], static["input_ids"][:1].expand(4, 32))


def test_candidates_keep_the_right_ones_and_are_drawn_anew_each_epoch():
    data = encoded([4] * 30, items=[0, 12, 14, 30])
    right = np.zeros(30, bool)
    right[[3, 7, 13, 20]] = True
    collator = TaskCollator(data, right, 0, scored=True, candidates=5, seed=1)
    chosen = [set(collator._candidates(0, epoch)) for epoch in range(6)]
    assert all({3, 7} <= rows and len(rows) == 5 for rows in chosen) and len(set(map(tuple, chosen))) > 1
    batch, again = collator([0, 1, 2]), collator([0, 1, 2])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert batch["groups"].shape == (3, 5) and batch["input_ids"].shape[0] == 5 + 2 + 5
    assert batch["groups"][1].tolist() == [5, 6, -1, -1, -1] and batch["labels"][1].tolist() == [0, 1, 0, 0, 0]
    assert batch["labels"].sum(1).tolist() == [2, 1, 1]
    for item, group in enumerate(batch["groups"]):
        rows = sorted(collator._candidates(item, 0))
        for place, row in zip(group[group >= 0], rows, strict=True):
            assert batch["input_ids"][place].tolist() == data.ids[4 * row : 4 * row + 4].tolist()
    whole = TaskCollator(data, right, 0, scored=True)([0])
    assert whole["groups"].shape == (1, 12)


def test_only_chosen_items_are_seen():
    data = encoded([2, 3, 4, 5])
    items = np.array([1, 3])
    collator = TaskCollator(data, np.arange(4), 0, items=items)
    loader = TaskLoader(LengthBatches(data.item_lengths[items], 2), collator)
    loader.set_epoch(5)
    assert [sorted(batch["labels"].tolist()) for batch in loader] == [[1, 3]]


def test_evaluation_goes_through_every_row_once_the_longest_first():
    data = encoded(np.random.default_rng(1).integers(1, 50, 200))
    batches = list(sorted_rows(data, tokens=100))
    assert sorted(np.concatenate(batches)) == list(range(200))
    sizes = [len(rows) * data.row_lengths[rows].max() for rows in batches]
    assert max(sizes) <= 100 and data.row_lengths[batches[0]].max() == data.row_lengths.max()


@pytest.mark.parametrize("key", ["superglue/copa", "superglue/record"])
def test_targets_say_which_candidate_is_right(toy, bert_tokenizer, key):
    task, splits = toy(key)
    data = splits["validation"]
    right, rows = make_targets(data, ("score",)), TaskEncoder(bert_tokenizer, 64).encode(data)
    names = [task.labels] * len(data) if task.kind == "choice" else data.candidates
    for item, choices in enumerate(names):
        part = right[rows.items[item] : rows.items[item + 1]]
        wanted = [data.labels[item]] if task.kind == "choice" else data.answers[item]
        assert [name in wanted for name in choices] == part.tolist()


def test_classes_are_numbered_by_the_head_and_not_by_the_data(toy):
    _, splits = toy("glue/mnli")
    order = ("contradiction", "entailment", "neutral")
    targets = make_targets(splits["train"], order)
    assert [order[number] for number in targets] == splits["train"].labels
