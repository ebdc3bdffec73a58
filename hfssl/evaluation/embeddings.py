"""Features with their labels as a parquet file: written, read, or made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from hfssl.errors import InputError, one_line

Labelled = tuple[torch.Tensor, torch.Tensor]  # features float32 (N, D), labels int64 (N,)


def write_embeddings(path: str | Path, features: Mapping[str, torch.Tensor], images: Mapping) -> None:
    """Writes "split", "index" (int64), "label" (int64) and "embedding" (float32, a list of fixed length).

    Args:
        features: (N, D) of each split. images: for each split what has its `labels`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for split, part in features.items():
        flat = pa.array(np.ascontiguousarray(part.numpy(), dtype=np.float32).reshape(-1))
        columns = {
            "split": pa.array([split] * len(part)),
            "index": pa.array(np.arange(len(part))),
            "label": pa.array(images[split].labels),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, part.shape[1]),
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path)


def read_embeddings(path: str | Path) -> dict[str, Labelled]:
    """What `write_embeddings` wrote, by split.

    Raises:
        InputError: the file cannot be read or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["split", "label", "embedding"])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read embeddings from {str(path)!r}: {one_line(error)}") from None
    splits, labels = np.array(table["split"].to_pylist()), torch.tensor(table["label"].to_numpy())
    width = table["embedding"].type.list_size
    features = torch.tensor(table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width))
    parts = {split: torch.from_numpy(splits == split) for split in dict.fromkeys(splits.tolist())}
    return {split: (features[rows], labels[rows]) for split, rows in parts.items()}


def made_up_embeddings(
    train: int, test: int, dim: int, classes: int = 10, distance: float = 0.3, seed: int = 0
) -> tuple[Labelled, Labelled]:
    """Classes about centres of their own, in directions of falling weight, mixed and rectified, as encoders have them.

    Args:
        distance: of the centres from the middle, in standard deviations of each direction.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (train + test,), generator=generator)
    centres = distance * torch.randn(classes, dim, generator=generator)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    weights = torch.arange(1, dim + 1) ** -0.5
    features = (centres[labels] + torch.randn(len(labels), dim, generator=generator)) * weights @ mixing
    features = features.relu()
    return (features[:train], labels[:train]), (features[train:], labels[train:])
