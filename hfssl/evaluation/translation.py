"""Translations scored: BLEU and chrF by sacrebleu, with their signatures and a bootstrap interval (Koehn 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from hfssl.errors import InputError
from hfssl.evaluation.significance import bootstrap_sums, interval

DRAWS = 1000
_ORDER = 4  # of the n-grams of BLEU


def score_translations(
    hypotheses: Sequence[str], references: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002; Post 2018), with and without regard to case, and chrF (Popović 2015), of 0 to 100.

    The texts are compared as they are, not tokenised before: sacrebleu's own tokenisation stands in the signature.

    Args:
        references: one for each hypothesis.
        draws: of sentences, for the interval of BLEU.

    Returns:
        {"sentences", "BLEU", "low", "high" (its 95 % interval), "BLEU, lower case", "chrF", "length ratio",
        "signatures": {name: str}}.

    Raises:
        InputError: not as many hypotheses as references, or none.
    """
    if len(hypotheses) != len(references) or not references:
        raise InputError(f"{len(hypotheses):,} translations for {len(references):,} references")
    metrics = {"BLEU": BLEU(), "BLEU, lower case": BLEU(lowercase=True), "chrF": CHRF()}
    found: dict[str, Any] = {"sentences": len(references)}
    for name, metric in metrics.items():
        found[name] = metric.corpus_score(list(hypotheses), [list(references)]).score
    sums = bleu_sums(hypotheses, references)
    limits = interval(bleu_of_sums(bootstrap_sums(sums, draws, seed)))
    found |= {"low": limits.low, "high": limits.high, "length ratio": float(sums[:, -2].sum() / sums[:, -1].sum())}
    return found | {"signatures": {name: str(metric.get_signature()) for name, metric in metrics.items()}}


def bleu_sums(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What each sentence adds to BLEU: right n-grams, n-grams (n = 1 to 4), words, words of the reference; (N, 10)."""
    metric, rows = BLEU(effective_order=True), []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.sentence_score(hypothesis, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=float)


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """BLEU of sums (B, 10), as sacrebleu computes it of a corpus; (B,)."""
    scores = []
    for row in sums:
        counts, totals = row[:_ORDER].tolist(), row[_ORDER : 2 * _ORDER].tolist()
        scores.append(BLEU.compute_bleu(counts, totals, int(row[-2]), int(row[-1]), smooth_method="exp").score)
    return np.array(scores)


def bleu_difference(
    first: Sequence[str], second: Sequence[str], references: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """The first system's BLEU less the second's, and its 95 % interval by paired bootstrap (Koehn 2004)."""
    both = [bleu_sums(hypotheses, references) for hypotheses in (first, second)]
    one, other = (bleu_of_sums(bootstrap_sums(sums, draws, seed)) for sums in both)
    observed = [bleu_of_sums(sums.sum(0, keepdims=True))[0] for sums in both]
    limits = interval(one - other)
    return float(observed[0] - observed[1]), limits.low, limits.high
