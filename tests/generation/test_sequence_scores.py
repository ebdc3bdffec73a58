"""Log-probabilities of given targets, against one whole forward pass a token."""

import pytest
import torch

from hfssl.errors import InputError
from hfssl.generation import scoring, sequence_scores
from tests.generation.tiny import CAUSAL, POSITIONS, SEQ2SEQ, constant_model, make_model, slow_log_p

ROWS = [([7, 8, 9, 20, 21, 0], 3), ([30, 31], 1), ([40, 41, 42, 43, 44, 45, 46, 47, 48, 0], 9), ([50, 51, 52], 3)]
IDS, STARTS = [row for row, _ in ROWS], [start for _, start in ROWS]


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_those_of_each_row_alone_by_the_whole_model(kind, batch_size):
    model = make_model(kind)
    found, counts = sequence_scores(model, IDS, STARTS, batch_size)
    expected = [slow_log_p(model, row[:start], row[start:]) for row, start in ROWS]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-4, rtol=1e-5)
    assert found.dtype == torch.float64 and counts.tolist() == [3, 1, 1, 0] and found[3] == 0


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
@pytest.mark.parametrize("batch_size", [4, 5, 64])
def test_candidates_of_one_source_read_it_once(kind, batch_size, monkeypatch):
    model, source, read = make_model(kind), [7, 8, 9, 10], []
    targets = [[20, 21], [30], [], [40, 41, 42, 0], [50], [60, 61]]
    ids = [[1, 2, 3], *([*source, *target] for target in targets), [*source[:3], 5]]
    starts = [1, *[4] * 6, 3]
    shared = scoring.shared_prompts
    monkeypatch.setattr(scoring, "_SHARED", 12)
    monkeypatch.setattr(scoring, "shared_prompts", lambda m, *given: read.append(given[0]) or shared(m, *given))
    found, counts = sequence_scores(model, ids, starts, batch_size)
    expected = [slow_log_p(model, row[:start], row[start:]) for row, start in zip(ids, starts, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-4, rtol=1e-5)
    assert counts.tolist() == [2, 2, 1, 0, 4, 1, 2, 1]
    assert [row.tolist() for row in read] == ([] if kind in SEQ2SEQ else [[source]])


def test_a_model_that_prefers_nothing_gives_log_1_over_v():
    found, counts = sequence_scores(constant_model([0.0] * 5), [[1, 2, 3], [4, 4, 4, 4]], [1, 2])
    torch.testing.assert_close(found, -torch.tensor(5.0).double().log() * counts)


def test_float64_stays_and_dropout_is_off_and_on_again():
    model = make_model().double().train()
    found, _ = sequence_scores(model, IDS[:1], STARTS[:1])
    assert model.training
    expected = slow_log_p(model.eval(), IDS[0][:3], IDS[0][3:])
    assert float(found) == pytest.approx(expected, rel=1e-13)


def test_large_logits_are_cut_into_more_batches(monkeypatch):
    model, sizes = make_model(), []
    batch = scoring._causal_batch
    monkeypatch.setattr(
        scoring, "_causal_batch", lambda model, rows, starts: sizes.append(len(rows)) or batch(model, rows, starts)
    )
    expected = sequence_scores(model, IDS, STARTS)[0]
    monkeypatch.setattr(scoring, "_LOGITS", 12 * model.config.vocab_size)
    torch.testing.assert_close(sequence_scores(model, IDS, STARTS)[0], expected)
    assert sizes == [4, 1, 2, 1]


def test_rows_that_cannot_be_scored():
    model = make_model()
    with pytest.raises(InputError, match=f"row 1 has {POSITIONS + 1} tokens, the model has {POSITIONS} positions"):
        sequence_scores(model, [[1, 2], [3] * (POSITIONS + 1)], [1, 1])
    for starts in ([0, 1], [1, 3], [1]):
        with pytest.raises(ValueError, match="each row needs a start from 1 to its length"):
            sequence_scores(model, [[1, 2], [1, 2]], starts)
