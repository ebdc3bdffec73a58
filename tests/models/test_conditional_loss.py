"""The loss of a conditional model: of the target alone, weighted on the source, packed or not, in parts or whole."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, LlamaConfig

from hfssl.data.pairs import PackedPairs, PairCollator
from hfssl.models.modeling_lm import GPT2ForTraining, language_model
from tests.data.test_pairs import random_pairs

CONFIGS = {
    "gpt2": GPT2Config(vocab_size=24, n_positions=48, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0, embd_pdrop=0,
                       resid_pdrop=0, bos_token_id=0, eos_token_id=0),
    "llama": LlamaConfig(vocab_size=24, max_position_embeddings=48, hidden_size=16, intermediate_size=32,
                         num_hidden_layers=2, num_attention_heads=2, bos_token_id=0, eos_token_id=0),
}  # fmt: skip


def model_of(kind="gpt2"):
    torch.manual_seed(0)
    return language_model(CONFIGS[kind]).double()


def slow_loss(model, pairs, source_weight=0.0):
    """Token by token, each pair alone, through the stock model's logits."""
    total, count = 0.0, 0
    for index in range(len(pairs)):
        ids, source = pairs[index]["input_ids"], pairs[index]["source_length"]
        logits = model(torch.from_numpy(ids)[None]).logits[0]
        for place in range(1, len(ids)):
            loss = -logits[place - 1].log_softmax(-1)[ids[place]]
            total = total + (loss if place >= source else source_weight * loss)
            count += place >= source
    return total / count


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("source_weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_equals_a_slow_one_of_each_pair_alone(kind, source_weight, packed):
    """Also packed: no pair sees another, and each begins at position 0."""
    model, pairs = model_of(kind), random_pairs(9)
    data = PackedPairs(pairs, 48) if packed else pairs
    batch = PairCollator(0, source_weight)([data[index] for index in range(len(data))])
    assert len(batch["input_ids"]) == (len(data.blocks) if packed else 9)
    expected = slow_loss(model, pairs, source_weight)
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each, model.parameters()) for each in (loss, expected)]
    for ours, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-14)


def test_no_gradient_reaches_the_logits_of_source_tokens():
    """The label mask: of the logits that the stock head would give, those that predict the source have gradient 0."""
    model, pairs = model_of(), random_pairs(6)
    batch = PairCollator(0)([pairs[index] for index in range(6)])
    logits = model(batch["input_ids"]).logits
    logits.retain_grad()
    cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
    learns = logits.grad.abs().sum(-1) > 0
    for row in range(6):
        source, length = pairs[row]["source_length"], len(pairs[row]["input_ids"])
        assert learns[row].tolist() == [source - 1 <= place < length - 1 for place in range(learns.shape[1])]
    torch.testing.assert_close(model(**batch).loss, cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    ), rtol=1e-12, atol=0)  # fmt: skip


def test_the_head_reads_the_targets_alone(monkeypatch):
    rows = []
    whole = GPT2ForTraining._read

    def read(self, *args):
        found = whole(self, *args)
        rows.append(len(found[0]))
        return found

    monkeypatch.setattr(GPT2ForTraining, "_read", read)
    pairs = random_pairs(8)
    batch = PairCollator(0)([pairs[index] for index in range(8)])
    longest = int((pairs.lengths - pairs.source_lengths).max())
    model_of()(**batch)
    assert rows == [8 * longest] and 8 * longest < batch["input_ids"].numel()


def test_positions_change_no_bit_of_what_is_evaluated():
    """`score`, which evaluation uses, sees the targets alone, whatever is learned of the source."""
    model, pairs = model_of(), random_pairs(7)
    items = [pairs[index] for index in range(7)]
    plain, weighted = PairCollator(0)(items), PairCollator(0, 2.0)(items)
    bare = {name: value for name, value in plain.items() if name != "target_positions"}
    loss, right, count = model.score(**plain)
    assert count == int((pairs.lengths - pairs.source_lengths).sum())
    assert model.score(**weighted) == (loss, right, count)
    assert model.score(**bare) == (pytest.approx(loss, rel=1e-12), right, count)
    assert loss / count == pytest.approx(slow_loss(model, pairs).item(), rel=1e-6)  # its logits are float32


@pytest.mark.parametrize("source_weight", [0.0, 0.5])
def test_parts_of_a_step_add_up_to_the_whole(source_weight):
    """Accumulation: the parts have different numbers of targets, and share that of the step."""
    model, pairs = model_of(), random_pairs(12)
    collate = PairCollator(0, source_weight)
    items = [pairs[index] for index in range(12)]
    whole = collate(items)
    count = model.count_targets(whole["labels"])
    parts = [collate(items[:2]), collate(items[2:3]), collate(items[3:])]
    total = sum(model(**part, num_items_in_batch=count).loss for part in parts)
    torch.testing.assert_close(total, model(**whole).loss, rtol=1e-12, atol=0)
    assert int(count) == int(np.sum(pairs.lengths - pairs.source_lengths))
