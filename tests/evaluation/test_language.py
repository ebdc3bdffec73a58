"""Scores of language models against sums that are written out."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from hfssl.data.blocks import CausalCollator
from hfssl.data.masking import IGNORED
from hfssl.evaluation.language import (
    LanguageScore,
    byte_entropy,
    most_frequent_accuracy,
    pseudo_perplexity,
    score_language,
    together,
    unigram_loss,
)
from hfssl.models.modeling_lm import language_model

VOCABULARY = 11


class Rows(Dataset):
    def __init__(self, size=7, length=8):
        self.ids = np.random.default_rng(0).integers(0, VOCABULARY, (size, length))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "index": index}


class EveryThird:
    def __call__(self, items):
        ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        labels = ids.clone()
        labels[:, torch.arange(ids.shape[1]) % 3 != 0] = IGNORED
        return {"input_ids": ids, "labels": labels}


def causal():
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0)
    return GPT2LMHeadModel(config).eval()


def masked():
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return BertForMaskedLM(config).eval()


@torch.no_grad()
def by_hand(model, rows, collator, shift):
    """One token after another."""
    losses, right = [], []
    for index in range(len(rows)):
        batch = collator([rows[index]])
        labels = batch.pop("labels")[0]
        logits = model(**batch).logits[0].double()
        for position in range(len(labels)):
            target = position + 1 if shift else position
            if target < len(labels) and labels[target] != IGNORED:
                losses.append(-logits[position].log_softmax(-1)[labels[target]].item())
                right.append(logits[position].argmax() == labels[target])
    return len(losses), sum(losses) / len(losses), float(np.mean(right))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_scores_equal_a_loop_over_tokens(kind, batch_size):
    model, collator = (causal(), CausalCollator()) if kind == "causal" else (masked(), EveryThird())
    rows = Rows()
    count, loss, accuracy = by_hand(model, rows, collator, shift=kind == "causal")
    score = score_language(model, rows, collator, batch_size=batch_size)
    assert score.tokens == count
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.accuracy == pytest.approx(accuracy)
    assert score.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_limit_and_the_mode_of_the_model():
    model, rows = causal().train(), Rows()
    limited = score_language(model, rows, CausalCollator(), limit=2)
    assert limited.tokens == 2 * 7 and model.training


def test_a_uniform_guess_costs_the_bits_of_the_bytes():
    """256 equally likely bytes, a token each: 8 bits a byte, whatever the anchor is called."""
    everything = bytes(range(256)) * 4
    assert byte_entropy(everything) == pytest.approx(8)
    assert byte_entropy(b"aaaa") == 0
    counts = np.bincount(np.frombuffer(everything, np.uint8))
    assert unigram_loss(counts, counts) == pytest.approx(math.log(256))


def test_bits_a_byte_by_hand():
    """A token of four bytes that costs ln 2 nats, one bit, is a quarter of a bit a byte, with any tokenizer."""
    assert LanguageScore(tokens=7, loss=math.log(2), accuracy=0.5).bits_per_byte(1 / 4) == pytest.approx(0.25)
    assert LanguageScore(tokens=7, loss=2 * math.log(2), accuracy=0.5).bits_per_byte(1 / 8) == pytest.approx(0.25)


def test_unigram_loss_by_hand():
    train, held_out = np.array([3, 1, 0]), np.array([1, 1, 1])
    expected = -(math.log(4 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3
    assert unigram_loss(train, held_out) == pytest.approx(expected)


def test_the_most_frequent_token_as_the_answer():
    rows, collator = Rows(), EveryThird()
    labels = rows.ids[:, ::3]
    train = np.array([0, 1, 30, 20, 1, 9, 0, 0, 0, 0, 0])
    assert most_frequent_accuracy(rows, collator, train, specials=[2]) == pytest.approx((labels == 3).mean())


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_training_classes_score_the_same_and_shares_add_up(kind):
    stock, collator = (causal(), CausalCollator()) if kind == "causal" else (masked(), EveryThird())
    ours = language_model(stock.config).eval()
    ours.load_state_dict(stock.state_dict())
    rows = Rows()
    expected, found = score_language(stock, rows, collator), score_language(ours, rows, collator, batch_size=2)
    assert found.tokens == expected.tokens and found.accuracy == expected.accuracy
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    shares = [score_language(ours, rows, collator, rank=rank, world_size=3) for rank in range(3)]
    whole = together([(share.loss * share.tokens, share.accuracy * share.tokens, share.tokens) for share in shares])
    assert whole.tokens == expected.tokens and whole.loss == pytest.approx(expected.loss, rel=1e-6)


@torch.no_grad()
def test_pseudo_perplexity_equals_one_token_at_a_time():
    model, rows, losses = masked(), Rows(3).ids, []
    for row in rows:
        for position, token in enumerate(row):
            if token != 4:
                hidden = row.copy()
                hidden[position] = 1
                losses.append(-model(torch.tensor(hidden)[None]).logits[0, position].log_softmax(-1)[token].item())
    found = pseudo_perplexity(model, list(rows), mask_token_id=1, specials=[4], batch_size=3)
    assert found == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
