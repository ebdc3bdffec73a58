"""How well codes agree with labels that were not seen: the measures of clustering and of part-of-speech induction.

Codes and labels are integers, one each for every sample, in any numbering: no measure depends on their names.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.metrics.cluster import contingency_matrix

from hfssl.errors import InputError


def many_to_one(codes: np.ndarray, labels: np.ndarray) -> float:
    """The share that is right if each code is read as its most frequent label, a fraction.

    It grows with the number of codes, up to 1 where each sample has its own. Clustering calls it purity.
    """
    table = _contingency(codes, labels)
    return float(table.max(1).sum() / table.sum())


def hungarian_accuracy(codes: np.ndarray, labels: np.ndarray) -> float:
    """The share that is right under the best one-to-one naming of the codes (Kuhn 1955), a fraction.

    With more codes than labels some have no name and are wrong.
    """
    table = _contingency(codes, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def clustering_scores(codes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All measures by name.

    Returns:
        "hungarian" and "many-to-one", fractions; "V-measure" (Rosenberg and Hirschberg 2007), which is the information
        over the arithmetic mean of both entropies, and "NMI", over the geometric mean (Strehl and Ghosh 2002), 0 to 1;
        "codes used"; "entropy" of the codes and "information" that they have of the labels, in bits, as counted.

    Raises:
        InputError: codes and labels are not as many, or none.
    """
    return {
        "hungarian": hungarian_accuracy(codes, labels),
        "many-to-one": many_to_one(codes, labels),
        "V-measure": float(metrics.v_measure_score(labels, codes)),
        "NMI": float(metrics.normalized_mutual_info_score(labels, codes, average_method="geometric")),
        "codes used": len(np.unique(codes)),
        "entropy": entropy_bits(codes),
        "information": float(metrics.mutual_info_score(labels, codes) / np.log(2)),
    }


def entropy_bits(codes: np.ndarray) -> float:
    """The entropy of the codes as counted, in bits."""
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log2(share)).sum())


def _contingency(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each code (rows) meets each label (columns)."""
    if len(codes) != len(labels) or not len(codes):
        raise InputError(f"each sample needs a code and a label: there are {len(codes)} codes and {len(labels)} labels")
    return contingency_matrix(codes, labels)
