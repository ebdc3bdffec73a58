import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hfssl.errors import InputError
from hfssl.finetuning.batches import LengthBatches
from hfssl.finetuning.strategies.mixing import MixedBatches, SharedEncoder, task_turns


def mixed(parts=1, sampling="proportional", temperature=2.0, seed=0, rows=(40, 20, 9), batch=8):
    lengths = {str(number): np.arange(count) for number, count in enumerate(rows)}
    tasks = {name: LengthBatches(each, batch, seed) for name, each in lengths.items()}
    return MixedBatches(tasks, parts, sampling, temperature, seed)


def epoch(batches, number=0):
    batches.epoch = number
    return list(batches)


def test_proportional_is_every_batch_of_every_task_once():
    turns = task_turns([50, 30, 2], "proportional", 1.0, seed=0, epoch=0)
    assert np.bincount(turns).tolist() == [50, 30, 2]
    assert (turns != np.sort(turns)).any()
    assert (turns == task_turns([50, 30, 2], "proportional", 1.0, 0, 0)).all()
    assert (turns != task_turns([50, 30, 2], "proportional", 1.0, 0, 1)).any()
    assert (turns != task_turns([50, 30, 2], "proportional", 1.0, 1, 0)).any()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e6])
def test_temperature_draws_by_the_root_of_the_sizes(temperature):
    sizes = [9000, 900, 100]
    turns = task_turns(sizes, "temperature", temperature, seed=0, epoch=0)
    shares = np.array(sizes, float) ** (1 / temperature)
    expected = 10_000 * shares / shares.sum()
    assert len(turns) == 10_000
    assert ((np.bincount(turns) - expected) ** 2 / expected).sum() < 13.8  # chi square, 2 degrees: p = 0.001


def test_an_epoch_sees_every_item_once_and_a_batch_has_one_task():
    batches = mixed()
    found = epoch(batches)
    assert len(found) == len(batches) == 5 + 3 + 2
    assert all(len({task for task, _ in batch}) == 1 for batch in found)
    assert sorted(key for batch in found for key in batch) == [
        (task, key) for task, count in enumerate((40, 20, 9)) for key in range(count)
    ]
    assert epoch(batches, 1) != found and epoch(batches) == found


def test_what_a_task_has_left_comes_in_the_next_epoch():
    """Drawn by temperature the small task is asked for more than it has; its items come as often as each other."""
    batches = mixed(sampling="temperature", temperature=1e6, rows=(80, 16))
    keys = [key for number in range(6) for batch in epoch(batches, number) for task, key in batch if task == 1]
    counts = np.bincount(np.array(keys) % 16, minlength=16)
    assert counts.min() > 10 and np.ptp(counts) <= 1
    assert np.unique(np.array(keys) // 16).tolist() == list(range(-(-len(keys) // 16)))


def test_parts_of_a_batch_follow_one_another():
    whole, parts = epoch(mixed()), epoch(mixed(parts=4))
    # The 9th item of the last task is a batch of one, which has no four parts: it is left out.
    joined = [[key for part in parts[start : start + 4] for key in part] for start in range(0, len(parts), 4)]
    assert len(joined) == len(whole) - 1 and all(parts)
    assert {tuple(batch) for batch in joined} < {tuple(batch) for batch in whole}


def test_a_task_without_a_batch_is_refused():
    assert mixed(parts=4, rows=(40, 4)).counts == [5, 1]
    with pytest.raises(
        InputError, match="--gradient_accumulation_steps 4 are more than the 3 training rows of 1: leave"
    ):
        mixed(parts=4, rows=(40, 3))


def test_one_encoder_learns_from_all_tasks_and_each_head_from_its_own(bert_folder):
    def model(classes, seed):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=classes)

    shared = SharedEncoder({"mnli": model(3, 0), "rte": model(2, 1)})
    assert shared.models["mnli"].base_model is shared.models["rte"].base_model is shared.base_model
    names = [name for name, _ in shared.named_parameters()]
    assert sum("word_embeddings" in name for name in names) == 1
    inputs = {"input_ids": torch.arange(6, 12).view(2, 3), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    assert shared(task="mnli", **inputs).logits.shape == (2, 3)
    shared(task="rte", **inputs).logits.sum().backward()
    weight = shared.get_input_embeddings().weight
    assert weight.grad.abs().sum() > 0
    assert shared.models["mnli"].classifier.weight.grad is None
    assert shared.models["rte"].classifier.weight.grad.abs().sum() > 0
    assert set(shared.head_weights("rte")) == {"classifier.weight", "classifier.bias"}
