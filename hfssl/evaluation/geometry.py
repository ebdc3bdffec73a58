"""How features lie in their space, without labels: how many directions they use, how evenly, how near two views are."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rankme(features: torch.Tensor, epsilon: float = 1e-7) -> float:
    """The effective number of dimensions of features (N, D): the exponential of the entropy of the singular values.

    Garrido et al. 2023, "RankMe", equation 1. From 1, where all features are multiples of one, to min(N, D).
    """
    features = features.double()
    gram = features.T @ features if features.shape[0] > features.shape[1] else features @ features.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + epsilon
    return float((-share * share.log()).sum().exp())


def feature_std(features: torch.Tensor) -> float:
    """The standard deviation of each dimension of the features on the unit sphere, averaged, times sqrt(D).

    Chen and He 2021 (SimSiam, section 4.1): 1 where directions are even, 0 where all features are one.
    """
    unit = F.normalize(features.double(), dim=1)
    return float(unit.std(0, correction=0).mean()) * features.shape[1] ** 0.5


def alignment(features: torch.Tensor, others: torch.Tensor, alpha: float = 2) -> float:
    """The mean distance of two views' features on the unit sphere, to the power alpha; 0 is best.

    Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity", section
    4.1. features, others: (N, D), row by row views of one image.
    """
    distance = (F.normalize(features.double(), dim=1) - F.normalize(others.double(), dim=1)).norm(dim=1)
    return float(distance.pow(alpha).mean())


def uniformity(features: torch.Tensor, t: float = 2) -> float:
    """The logarithm of the mean of exp(-t |x - y|^2) over all pairs on the unit sphere; lower is more even.

    Wang and Isola 2020, section 4.1. From 0, where all features are one.
    """
    distance = torch.pdist(F.normalize(features.double(), dim=1))
    return float((-t * distance.square()).exp().mean().log())
