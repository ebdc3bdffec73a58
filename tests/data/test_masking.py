from types import SimpleNamespace

import numpy as np
import pytest

from hfssl.data.masking import BERT_SCHEME, IGNORED, LECTURE_SCHEME, MaskingCollator, uniform
from hfssl.errors import InputError

CLS, SEP, MASK, PAD = 0, 1, 2, 3
VOCAB = 1000


class FakeTokenizer(SimpleNamespace):
    def __len__(self):
        return VOCAB


TOKENIZER = FakeTokenizer(mask_token_id=MASK, all_special_ids=[CLS, SEP, MASK, PAD])


def items(count, length=130, epoch=0, seed=0):
    rng = np.random.default_rng(seed)
    body = rng.integers(4, VOCAB, (count, length - 2))
    blocks = np.concatenate([np.full((count, 1), CLS), body, np.full((count, 1), SEP)], 1)
    return [{"input_ids": block, "index": index, "epoch": epoch} for index, block in enumerate(blocks)]


def as_arrays(batch):
    return batch["input_ids"].numpy(), batch["labels"].numpy()


def test_the_number_is_fixed_and_labels_are_the_hidden_tokens():
    data = items(64)
    originals = np.stack([item["input_ids"] for item in data])
    corrupted, labels = as_arrays(MaskingCollator(TOKENIZER)(data))
    chosen = labels != IGNORED
    assert (chosen.sum(1) == round(0.15 * 128)).all()
    assert (labels[chosen] == originals[chosen]).all()
    assert (corrupted[~chosen] == originals[~chosen]).all()


def test_shares_80_10_10_over_a_million_tokens():
    corrupted, labels = as_arrays(MaskingCollator(TOKENIZER)(data := items(8000)))
    originals = np.stack([item["input_ids"] for item in data])
    chosen = labels != IGNORED
    total = chosen.sum()
    masked = (corrupted[chosen] == MASK).sum()
    kept = (corrupted[chosen] == originals[chosen]).sum()
    changed = total - masked - kept
    # A random token equals the original once in 996 draws. Chi-square with two degrees of freedom, p = .001 at 13.8.
    expected = total * np.array([0.8, 0.1 * 995 / 996, 0.1 + 0.1 / 996])
    assert ((np.array([masked, changed, kept]) - expected) ** 2 / expected).sum() < 13.8
    positions = chosen[:, 1:-1].sum(0)
    assert ((positions - positions.mean()) ** 2 / positions.mean()).sum() < 185, "every position is as likely (127 df)"


def test_the_lecture_replaces_every_chosen_token_by_the_blank():
    corrupted, labels = as_arrays(MaskingCollator(TOKENIZER, scheme=LECTURE_SCHEME)(items(50)))
    assert (corrupted[labels != IGNORED] == MASK).all()


def test_only_random_tokens_and_never_a_special_one():
    corrupted, labels = as_arrays(MaskingCollator(TOKENIZER, 1.0, (0.0, 1.0, 0.0))(items(500)))
    replaced = corrupted[labels != IGNORED]
    assert replaced.min() >= 4 and replaced.max() == VOCAB - 1
    counts = np.bincount(replaced, minlength=VOCAB)[4:]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 1140  # 995 df, p = .001


def test_specials_and_padding_are_never_touched():
    block = np.array([CLS, 5, 6, SEP, PAD, PAD, PAD])
    for seed in range(50):
        corrupted, labels = as_arrays(MaskingCollator(TOKENIZER, 0.9, seed=seed)([{"input_ids": block, "index": 0}]))
        assert (labels[0, [0, 3, 4, 5, 6]] == IGNORED).all()
        assert (corrupted[0, [0, 3, 4, 5, 6]] == block[[0, 3, 4, 5, 6]]).all()


def test_a_block_without_a_maskable_token_has_no_label():
    _, labels = as_arrays(MaskingCollator(TOKENIZER)([{"input_ids": np.array([CLS, SEP, PAD]), "index": 0}]))
    assert (labels == IGNORED).all()


def test_a_mask_depends_on_seed_epoch_and_sample_alone():
    data = items(6)
    whole = as_arrays(MaskingCollator(TOKENIZER, seed=7)(data))
    split = [as_arrays(MaskingCollator(TOKENIZER, seed=7)([item]))[0][0] for item in reversed(data)]
    assert (np.stack(split[::-1]) == whole[0]).all(), "neither the batch nor the order matters"
    other_epoch = as_arrays(MaskingCollator(TOKENIZER, seed=7)(items(6, epoch=1)))
    other_seed = as_arrays(MaskingCollator(TOKENIZER, seed=8)(data))
    assert (other_epoch[0] != whole[0]).any(1).all()
    assert (other_seed[0] != whole[0]).any(1).all()


def test_draws_are_uniform_and_streams_apart():
    first = uniform(0, np.zeros(400, int), np.arange(400), 250, stream=0)
    second = uniform(0, np.zeros(400, int), np.arange(400), 250, stream=1)
    assert abs(first.mean() - 0.5) < 0.005 and first.min() >= 0 and first.max() < 1
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.015


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"probability": 0}, "mlm_probability"),
        ({"scheme": (0.5, 0.5)}, "three shares"),
        ({"scheme": (0.9, 0.2, -0.1)}, "three shares"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises(InputError, match=message):
        MaskingCollator(TOKENIZER, **kwargs)
    assert BERT_SCHEME == (0.8, 0.1, 0.1)


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(InputError, match="no mask token"):
        MaskingCollator(FakeTokenizer(mask_token_id=None))


def test_positions_name_every_label():
    rows = items(2, length=42)
    rows[1]["input_ids"][1:31] = PAD  # fewer can be hidden here
    batch = MaskingCollator(TOKENIZER, seed=3, positions=True)(rows)
    assert batch["masked_positions"].shape == (2, 6)
    named = batch["labels"].gather(1, batch["masked_positions"])
    assert (named != IGNORED).sum(1).tolist() == (batch["labels"] != IGNORED).sum(1).tolist() == [6, 2]
