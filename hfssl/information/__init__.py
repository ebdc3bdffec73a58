"""Mutual information: estimators with their ceilings and biases, and distributions whose information is known."""

from hfssl.information.bounds import (
    doe,
    doe_logistic,
    dv,
    infonce,
    interpolated,
    lecture,
    mine,
    nwj,
    nwj_js,
    tuba,
)
from hfssl.information.estimation import METHODS, Estimate, Setting, estimate
from hfssl.information.neighbours import binned, ksg

__all__ = [
    "METHODS",
    "Estimate",
    "Setting",
    "binned",
    "doe",
    "doe_logistic",
    "dv",
    "estimate",
    "infonce",
    "interpolated",
    "ksg",
    "lecture",
    "mine",
    "nwj",
    "nwj_js",
    "tuba",
]
