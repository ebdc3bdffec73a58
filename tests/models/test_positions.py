"""Tables of positions in closed form, and in GPT-2's wpe: fixed through training, a resume and saving."""

import cmath
import math

import pytest
import torch

from hfssl.models.positions import dyadic_positions, position_table, sinusoidal_positions


def test_sinusoids_by_hand():
    table = sinusoidal_positions(50, 8)
    for t in (0, 1, 49):
        for j in range(4):
            angle = t / 10000 ** (2 * j / 8)
            assert table[t, 2 * j] == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[t, 2 * j + 1] == pytest.approx(math.cos(angle), abs=1e-12)


@pytest.mark.parametrize(("positions", "columns"), [(2, 2), (8, 6), (512, 18), (500, 18), (1, 2)])
def test_dyadic_octaves(positions, columns):
    table = dyadic_positions(positions)
    assert table.shape == (positions, columns)
    waves = torch.view_as_complex(table.view(positions, -1, 2))
    t = positions - 1
    for k in range(columns // 2):
        assert abs(complex(waves[t, k]) - cmath.exp(2j * math.pi * 2**k * t / 2 ** (columns // 2))) < 1e-9


def test_all_dyadic_positions_differ_and_a_shift_is_a_rotation():
    table = dyadic_positions(512)
    distances = torch.cdist(table, table).square().fill_diagonal_(math.inf)
    assert distances.min() == pytest.approx(4.0)
    waves = torch.view_as_complex(table.view(512, -1, 2))
    turns = waves[7:] / waves[:-7]
    torch.testing.assert_close(turns, turns[:1].expand_as(turns))


def test_a_table_is_padded_with_zeros_or_refused():
    table = position_table("dyadic", 8, 10)
    assert torch.equal(table[:, :6], dyadic_positions(8)) and not table[:, 6:].any()
    with pytest.raises(ValueError, match="fill 6 columns, the width is 4"):
        position_table("dyadic", 8, 4)
    with pytest.raises(ValueError, match="even width"):
        position_table("sinusoidal", 8, 5)
    with pytest.raises(ValueError, match="not 'cosine'"):
        position_table("cosine", 8, 4)
    with pytest.raises(ValueError, match="at least one"):
        dyadic_positions(0)
