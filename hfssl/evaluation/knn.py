"""k nearest neighbours by cosine similarity, for several k in one search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hfssl.errors import InputError

K_GRID = (10, 20, 100, 200)  # as DINO
TEMPERATURE = 0.07
GROUP = 16  # columns that one maximum stands for


def knn_predict(
    features: torch.Tensor,
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    num_classes: int,
    knn_k: int = 20,
    knn_t: float = TEMPERATURE,
    chunk_size: int = 512,
) -> torch.Tensor:
    """The weighted vote of the nearest neighbours by cosine similarity (Wu et al. 2018, section 3.4).

    Args:
        features: (M, D) to classify. bank: (N, D). bank_labels: int64 (N,). All on one device.
        knn_k: neighbours that vote. knn_t: each with weight exp(similarity / knn_t).
        chunk_size: rows of `features` compared at a time: memory is chunk_size * N.

    Returns:
        int64 (M,), the class of the largest sum of weights.

    Raises:
        InputError: knn_k is larger than the bank.
    """
    return knn_grid(features, bank, bank_labels, num_classes, (knn_k,), knn_t, chunk_size)[0]


def knn_grid(
    features: torch.Tensor,
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    num_classes: int,
    ks: Sequence[int] = K_GRID,
    knn_t: float = TEMPERATURE,
    chunk_size: int = 512,
) -> torch.Tensor:
    """`knn_predict` for several k: int64 (len(ks), M). The search, which takes the time, is done once."""
    for k in ks:
        if not 1 <= k <= len(bank):
            raise InputError(f"k = {k} neighbours of a bank of {len(bank)}: k must lie between 1 and the bank's size")
    features, bank = F.normalize(features.float(), dim=1), F.normalize(bank.float(), dim=1)
    order = sorted(range(len(ks)), key=lambda i: ks[i])
    predictions = torch.empty(len(ks), len(features), dtype=torch.int64, device=features.device)
    room = _room(min(chunk_size, len(features)), bank)
    for first in range(0, len(features), chunk_size):
        chunk = features[first : first + chunk_size]
        similarity, index = _nearest(chunk, bank, max(ks), room)  # (m, k)
        weights = ((similarity - similarity[:, :1]) / knn_t).exp()  # of the nearest 1: no overflow at small knn_t
        labels, votes, counted = bank_labels[index], weights.new_zeros(len(chunk), num_classes), 0
        for i in order:
            votes.scatter_add_(1, labels[:, counted : ks[i]], weights[:, counted : ks[i]])
            counted = ks[i]
            predictions[i, first : first + len(chunk)] = votes.argmax(1)
    return predictions


def _room(rows: int, bank: torch.Tensor) -> torch.Tensor:
    """Memory for similarities, in whole groups; what lies past the bank stays below all of them."""
    return torch.full((rows, -(-len(bank) // GROUP) * GROUP), -torch.inf, device=bank.device)


def _nearest(
    queries: torch.Tensor, bank: torch.Tensor, k: int, room: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest products, in falling order, and their places: (m, k) each.

    They lie in the k groups with the largest maxima: each of these holds one product at least as large as all that
    other groups have. So only those groups are sorted.
    """
    room = room[: len(queries)]
    torch.mm(queries, bank.T, out=room[:, : len(bank)])
    groups = room.shape[1] // GROUP
    if k * GROUP >= len(bank):
        return room.topk(k, dim=1)
    # Strided groups: the maximum of GROUP long rows runs at the speed of memory.
    striped = room.view(-1, GROUP, groups)
    chosen = striped.amax(1).topk(k, dim=1, sorted=False).indices  # (m, k)
    candidates = striped.gather(2, chosen[:, None].expand(-1, GROUP, -1)).flatten(1)  # (m, GROUP * k)
    similarity, place = candidates.topk(k, dim=1)
    return similarity, place // k * groups + chosen.gather(1, place % k)
