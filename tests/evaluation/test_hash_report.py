"""P@k by Hamming distance, against an exhaustive count."""

import numpy as np
import pytest

from hfssl.evaluation.hash_report import precision_at


def test_precision_against_a_slow_count():
    random = np.random.default_rng(0)
    queries, bank = (random.integers(0, 2, (count, 6)).astype(np.uint8) for count in (5, 40))
    labels, bank_labels = random.integers(0, 3, 5), random.integers(0, 3, 40)
    for k in (1, 7, 40):
        shares = []
        for query, label in zip(queries, labels, strict=True):
            distances = [int(sum(a != b for a, b in zip(query, row, strict=True))) for row in bank]
            left, right = k, 0.0
            for distance in sorted(set(distances)):
                at = [i for i, d in enumerate(distances) if d == distance]
                taken = min(left, len(at))
                right += taken * np.mean([bank_labels[i] == label for i in at])
                left -= taken
            shares.append(right / k)
        found = precision_at(queries, labels, bank, bank_labels, k)
        assert found == pytest.approx(np.mean(shares))
        order = random.permutation(40)
        assert precision_at(queries, labels, bank[order], bank_labels[order], k) == pytest.approx(found)
