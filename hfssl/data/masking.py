"""Blank language modelling (BERT, Devlin et al. 2019, section 3.1): which tokens are hidden, and by what.

The draws are a hash of (seed, epoch, sample, position). There is no generator whose state could be lost: any worker,
process or resumed run draws the same mask for the same sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hfssl.data.sampling import hash_key, mix64
from hfssl.errors import InputError

IGNORED = -100  # the label that torch's cross-entropy skips
BERT_SCHEME = (0.8, 0.1, 0.1)  # of the chosen tokens: [MASK], a random token, unchanged
LECTURE_SCHEME = (1.0, 0.0, 0.0)  # "replaced by a blank token"


def uniform(seed: int, epochs: np.ndarray, indices: np.ndarray, length: int, stream: int) -> np.ndarray:
    """Uniform draws in [0, 1), shape (B, length), a function of the arguments alone.

    Args:
        epochs, indices: integers (B,), which pass and which sample each row is.
        stream: keeps the draws for one purpose apart from those for another.
    """
    with np.errstate(over="ignore"):
        rows = mix64(mix64(indices.astype(np.uint64) ^ hash_key(seed, stream)) ^ epochs.astype(np.uint64))
        bits = mix64(rows[:, None] + np.arange(length, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mask_tokens(
    input_ids: np.ndarray,
    maskable: np.ndarray,
    draws: Sequence[np.ndarray],
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    scheme: Sequence[float] = BERT_SCHEME,
    never: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Hides a fixed share of each row's maskable tokens.

    As in BERT's own code the number is fixed, max(1, round(probability * maskable tokens)), not binomial.

    Args:
        input_ids: (B, T) token ids.
        maskable: (B, T) bool, False on special tokens and padding.
        draws: three arrays (B, T) of uniform draws: which positions, which treatment, which random token.
        never: ids that a random token must not be (the special tokens).

    Returns:
        The corrupted ids and the labels, both (B, T) int64; labels are -100 where nothing is to be predicted.
    """
    choose, treat, replace = draws
    count = maskable.sum(1)
    wanted = np.where(count > 0, np.maximum(1, np.rint(probability * count)), 0)
    rank = np.argsort(np.argsort(np.where(maskable, choose, 2.0), axis=1, kind="stable"), axis=1, kind="stable")
    chosen = (rank < wanted[:, None]) & maskable  # (B, T)
    labels = np.where(chosen, input_ids, IGNORED).astype(np.int64)
    words = np.setdiff1d(np.arange(vocab_size), np.asarray(never, dtype=np.int64))
    random_ids = words[(replace * len(words)).astype(np.int64)]
    corrupted = np.where(chosen & (treat < scheme[0]), mask_token_id, input_ids)
    randomised = chosen & (treat >= scheme[0]) & (treat < scheme[0] + scheme[1])
    return np.where(randomised, random_ids, corrupted).astype(np.int64), labels


class MaskingCollator:
    """Batches blocks for blank language modelling: {"input_ids", "labels"}, both (B, T) int64.

    Args:
        tokenizer: its mask token, its special tokens (never hidden) and its size are used.
        probability: share of the tokens to predict.
        scheme: of those, how many become the blank, a random token, stay as they are; `BERT_SCHEME` or
            `LECTURE_SCHEME`.
        seed: of the masks; together with each item's "epoch" and "index" it fixes them.
        positions: also give "masked_positions", (B, M) int64: where the labels of each row are. M is the same for all
            batches; rows with fewer labels are filled up with positions that have none.
    """

    def __init__(
        self,
        tokenizer,
        probability: float = 0.15,
        scheme: Sequence[float] = BERT_SCHEME,
        seed: int = 0,
        positions: bool = False,
    ):
        if tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token; train one with style 'bert'")
        if not 0 < probability <= 1:
            raise InputError(f"mlm_probability must lie in (0, 1], not {probability}")
        if len(scheme) != 3 or min(scheme) < 0 or abs(sum(scheme) - 1) > 1e-6:
            raise InputError(f"mask_scheme must be three shares that sum to 1, not {tuple(scheme)}")
        self.mask_token_id, self.vocab_size = tokenizer.mask_token_id, len(tokenizer)
        self.special_ids = sorted(tokenizer.all_special_ids)
        self.probability, self.scheme, self.seed, self.positions = probability, tuple(scheme), seed, positions

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the masks, as plain values."""
        return {"mlm_probability": self.probability, "mask_scheme": list(self.scheme), "seed": self.seed}

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids = np.stack([item["input_ids"] for item in items]).astype(np.int64)  # (B, T)
        epochs = np.array([item.get("epoch", 0) for item in items])
        indices = np.array([item["index"] for item in items])
        draws = [uniform(self.seed, epochs, indices, input_ids.shape[1], stream) for stream in range(3)]
        maskable = ~np.isin(input_ids, self.special_ids)
        corrupted, labels = mask_tokens(
            input_ids,
            maskable,
            draws,
            self.mask_token_id,
            self.vocab_size,
            self.probability,
            self.scheme,
            self.special_ids,
        )
        batch = {"input_ids": corrupted, "labels": labels}
        if self.positions:
            most = max(1, round(self.probability * input_ids.shape[1]))
            batch["masked_positions"] = np.argsort(labels == IGNORED, axis=1, kind="stable")[:, :most]
        if "document_ids" in items[0]:
            batch["document_ids"] = np.stack([item["document_ids"] for item in items])
        return {name: torch.from_numpy(value) for name, value in batch.items()}
