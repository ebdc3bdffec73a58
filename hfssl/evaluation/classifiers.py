"""The probes' classifiers on frozen features. What each of them has to choose is chosen on held-out training images.

Each takes queries (M, D), a bank (N, D) with labels int64 (N,), and S seeds, and returns the predictions int64 (S, M)
and, in words, what was chosen for each seed. The seeds decide what is held out; the test images choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from hfssl.evaluation.knn import K_GRID, knn_grid
from hfssl.evaluation.labels import held_out_masks
from hfssl.evaluation.logistic import LogisticRegression, fit_logistic, precision
from hfssl.progress import Progress

C_GRID = tuple(10.0**power for power in range(-4, 3))
# Oquab et al. 2024 (DINOv2, `eval/linear.py`): learning rates for a batch of 256, ten passes over 1.28 million images.
SGD_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
SGD_DECAYS = (0.0, 1e-3, 1e-2)
SGD_BATCH = 256
SGD_EPOCHS = 10
SGD_STEPS = 1000  # at least, for few images

Classifier = Callable[..., tuple[torch.Tensor, list[str]]]


def knn_probe(queries, bank, labels, num_classes: int, seeds: Sequence[int], ks: Sequence[int] = K_GRID):
    """Weighted nearest neighbours, k chosen from `ks`: those above the number of labelled images are left out."""
    ks = sorted({k for k in ks if k <= len(bank)}) or [len(bank)]
    predicted = knn_grid(queries, bank, labels, num_classes, ks)
    chosen = []
    for seed in seeds:
        right = np.zeros(len(ks))
        for mask in held_out_masks(labels.cpu().numpy(), seed) if len(ks) > 1 else ():
            held = torch.from_numpy(mask).to(bank.device)
            usable = [k for k in ks if k <= len(mask) - mask.sum()]
            guesses = knn_grid(bank[held], bank[~held], labels[~held], num_classes, usable)
            right[: len(usable)] += (guesses == labels[held]).sum(1).cpu().numpy()
        chosen.append(int(right.argmax()))  # of equals the smallest
    return predicted[chosen], [f"k = {ks[i]}" for i in chosen]


def linear_probe(
    queries, bank, labels, num_classes: int, seeds: Sequence[int], grid: Sequence[float] = C_GRID, label: str = ""
):
    """Multinomial logistic regression on standardised features, C chosen from `grid`.

    Of values of C that classify equally well the one with the lower cross-entropy wins. With one image a class nothing
    can be held out, and C is 1. `label` is that of the progress shown.
    """
    queries, bank = standardised(queries, bank)
    masks = [(s, mask) for s, seed in enumerate(seeds) for mask in held_out_masks(labels.cpu().numpy(), seed)]
    chosen, fits = [1.0] * len(seeds), None
    if masks:
        kept = torch.from_numpy(np.stack([~mask for _, mask in masks])).to(bank.device)
        rows, strengths = kept.repeat_interleave(len(grid), 0), list(grid) * len(masks)
        fits = fit_logistic(bank, labels, num_classes, strengths, rows, label=label)
        chosen = _best(fits, bank, labels, [s for s, _ in masks], ~kept, grid)
    used = sorted(set(chosen))
    start = None if fits is None else _starts(fits, [list(grid).index(c) for c in used])
    final = fit_logistic(bank, labels, num_classes, used, start=start, label=label)
    predicted = {c: final.predict(queries, head) for head, c in enumerate(used)}
    return torch.stack([predicted[c] for c in chosen]), [f"C = {c:g}" for c in chosen]


def _best(fits, bank, labels, seed_of, held_out, grid) -> list[float]:
    """For each seed the C that does best on its held-out images, those of all its masks together."""
    scores = np.zeros((max(seed_of) + 1, len(grid), 2))
    for number, (seed, held) in enumerate(zip(seed_of, held_out, strict=True)):
        for place in range(len(grid)):
            logits = fits.logits(bank[held], number * len(grid) + place)
            right = (logits.argmax(1) == labels[held]).sum().item()
            scores[seed, place] += right, -F.cross_entropy(logits, labels[held], reduction="sum").item()
    return [grid[max(range(len(grid)), key=lambda i: tuple(table[i]))] for table in scores]


def _starts(fits: LogisticRegression, heads: list[int]) -> LogisticRegression:
    return LogisticRegression(fits.weight[heads], fits.bias[heads], fits.iterations[heads])


def standardised(queries: torch.Tensor, bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with the bank's mean and deviation taken out, in at most as many dimensions as the bank has images.

    With fewer images than features the best weights lie in the span of the bank: the same problem, smaller.
    """
    dtype = precision(bank)
    queries, bank = queries.to(dtype, copy=True), bank.to(dtype, copy=True)
    mean, deviation = bank.mean(0, dtype=torch.float64).to(dtype), bank.std(0, correction=0)
    deviation = torch.where(deviation < 1e-8, 1.0, deviation)
    for part in (queries, bank):
        part.sub_(mean).div_(deviation)
    if len(bank) < bank.shape[1]:
        basis = torch.linalg.qr(bank.T)[0]  # (D, N)
        queries, bank = queries @ basis, bank @ basis
    return queries, bank


def sgd_probe(queries, bank, labels, num_classes: int, seeds: Sequence[int], label: str = ""):
    """Linear heads trained by SGD, one for each learning rate and weight decay, all at once; the best one is used.

    As DINOv2's linear evaluation, but on features that are extracted once, without augmentation, and standardised, and
    with weight decays beside its 0: momentum 0.9, a cosine to 0, ten passes. The head is chosen on the held-out tenth
    and not trained again. With one image a class nothing can be held out, and the largest rate without decay is used.
    `label` is that of the progress shown.
    """
    queries, bank = (part.float() for part in standardised(queries, bank))
    settings = [(rate, decay) for rate in SGD_RATES for decay in SGD_DECAYS]
    predicted, chosen = [], []
    for seed in seeds:
        masks = held_out_masks(labels.cpu().numpy(), seed)
        held = torch.from_numpy(masks[0] if masks else np.zeros(len(bank), bool)).to(bank.device)
        weight, bias = _train_heads(bank[~held], labels[~held], num_classes, settings, seed, label)
        best = len(settings) - len(SGD_DECAYS)
        if masks:
            logits = torch.einsum("nd,hkd->hnk", bank[held], weight) + bias[:, None]
            losses = torch.stack([F.cross_entropy(head, labels[held]) for head in logits])
            right = (logits.argmax(2) == labels[held]).sum(1)
            best = max(range(len(settings)), key=lambda h: (right[h].item(), -losses[h].item()))
        predicted.append((queries @ weight[best].T + bias[best]).argmax(1))
        chosen.append(f"rate {settings[best][0]:g}, decay {settings[best][1]:g}")
    return torch.stack(predicted), chosen


def _train_heads(
    features, labels, num_classes: int, settings, seed: int, label: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (H, K, D) and biases (H, K) after SGD with each head's learning rate and weight decay."""
    heads, dim, device = len(settings), features.shape[1], features.device
    rates, decays = torch.tensor(settings, device=device).unbind(1)  # (H,)
    batch = min(SGD_BATCH, len(features))
    steps = max(SGD_STEPS, SGD_EPOCHS * len(features) // batch)
    rates = rates * batch / 256
    generator = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(1, num_classes, dim, generator=generator)  # as DINOv2's heads begin
    weight = weight.to(device).repeat(heads, 1, 1).flatten(0, 1)  # (H * K, D)
    bias = torch.zeros(heads * num_classes, device=device)
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    order, progress = torch.empty(0, dtype=torch.int64), Progress(label, steps, "step")
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(features), generator=generator)
        rows, order = order[:batch].to(device), order[batch:]
        chosen, targets = features[rows], labels[rows]
        logits = torch.addmm(bias, chosen, weight.T).view(batch, heads, num_classes)
        residual = logits.softmax(2)
        residual -= F.one_hot(targets, num_classes)[:, None]
        residual = residual.flatten(1) / batch
        rate = (rates * (1 + np.cos(np.pi * step / steps)) / 2).repeat_interleave(num_classes)  # (H * K,)
        velocity.mul_(0.9).addmm_(residual.T, chosen).add_(decays.repeat_interleave(num_classes)[:, None] * weight)
        bias_velocity.mul_(0.9).add_(residual.sum(0))
        weight -= rate[:, None] * velocity
        bias -= rate * bias_velocity
        progress.update()
    progress.close()
    return weight.view(heads, num_classes, dim), bias.view(heads, num_classes)
