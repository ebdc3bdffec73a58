"""Tables of positions that are not learned: the lecture's dyadic frequencies, and the Transformer's sinusoids.

A table has one row a position. The lecture sets it beside the word's embedding (h[0, t, J] = e[w[t], I]; e^{i w t};
e^{i 2 w t}; ...), Vaswani et al. 2017 add it. GPT-2 adds whatever its `wpe` holds, so that either can stand there.
"""

from __future__ import annotations

import math

import torch

TABLES = ("sinusoidal", "dyadic")


def dyadic_positions(positions: int) -> torch.Tensor:
    """cos and sin of w t, 2 w t, 4 w t, ..., 2^k w t, (T, 2 (k + 1)): the real and imaginary parts of the lecture.

    w is 2 pi over the least power of two that has room for all positions, and 2^(k + 1) is that power: the last pair
    tells even from odd, the first turns round once, and any two positions differ by at least 4 in squared distance.
    A shift of all positions turns each pair by one angle.
    """
    if positions < 1:
        raise ValueError(f"a table of positions needs at least one, not {positions}")
    octaves = max(1, math.ceil(math.log2(positions)))
    angles = 2 * math.pi / 2**octaves * 2.0 ** torch.arange(octaves, dtype=torch.float64)
    return _waves(positions, angles)


def sinusoidal_positions(positions: int, width: int) -> torch.Tensor:
    """sin and cos of t / 10000^(2 j / D) in columns 2 j and 2 j + 1, (T, D) (Vaswani et al. 2017, section 3.5)."""
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {width}")
    angles = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return _waves(positions, angles).view(positions, -1, 2).flip(-1).flatten(1)


def _waves(positions: int, angles: torch.Tensor) -> torch.Tensor:
    phases = torch.arange(positions, dtype=torch.float64)[:, None] * angles  # (T, frequencies)
    return torch.stack([phases.cos(), phases.sin()], -1).flatten(1)


def position_table(kind: str, positions: int, width: int) -> torch.Tensor:
    """A table of one of `TABLES` that can be added to embeddings of a width, (T, D) float64.

    The dyadic one has zeros in the columns that it does not need.

    Raises:
        ValueError: an unknown kind, or a width that the table does not fit.
    """
    if kind not in TABLES:
        raise ValueError(f"positions are learned, {' or '.join(TABLES)}, not {kind!r}")
    table = sinusoidal_positions(positions, width) if kind == "sinusoidal" else dyadic_positions(positions)
    if table.shape[1] > width:
        raise ValueError(f"dyadic positions of {positions} tokens fill {table.shape[1]} columns, the width is {width}")
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))


@torch.no_grad()
def fix_positions(model) -> None:
    """Where a GPT-2's config names a `position_table`, puts that table into wpe, which then does not learn.

    Its amplitude is the words' initial spread, `initializer_range`; in Vaswani et al. 2017, section 3.4, both are 1.
    The first norm sees the sum: of words at .02 beside waves at 1 hardly anything would be left.
    """
    if kind := getattr(model.config, "position_table", None):
        table = position_table(kind, model.config.n_positions, model.config.n_embd)
        model.transformer.wpe.weight.requires_grad_(False).copy_(table * model.config.initializer_range)
