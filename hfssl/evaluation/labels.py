"""Which images carry labels: few or a share of each class, and the tenth that is held out to choose settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hfssl.errors import InputError

HELD_OUT = 0.1  # of each class's training images, at least one, to choose settings
ENOUGH = 50  # held-out images to tell one setting from another
REPEATS = 5  # times that a tenth is held out, at most, where one is under `ENOUGH`


def check_labels(train, tests: Mapping) -> int:
    """The number of classes of labelled training images and their test images.

    Raises:
        InputError: labels are absent, of one class, of other classes in test than in train.
    """
    for name, images in {"training": train, **tests}.items():
        if images.labels is None:
            raise InputError(f"a probe needs labels, and the {name} images ({images.source}) have none")
    known = set(np.unique(train.labels).tolist())
    if min(known) < 0:
        raise InputError(f"the training images ({train.source}) have the label {min(known)}: some are unlabelled")
    if len(known) < 2:
        raise InputError("the training images are all of one class: there is nothing to probe")
    for name, test in tests.items():
        if train.class_names and test.class_names and list(train.class_names) != list(test.class_names):
            if set(train.class_names) == set(test.class_names):
                raise InputError(
                    f"the {name} images number the classes in another order than the training images: "
                    f"{list(map(str, test.class_names))[:5]} and {list(map(str, train.class_names))[:5]}"
                )
            one, other = (
                sorted(map(str, set(a) - set(b)))[:5]
                for a, b in ((train.class_names, test.class_names), (test.class_names, train.class_names))
            )
            raise InputError(
                f"the {name} images have other classes than the training images, so the labels do not compare: only "
                f"in training {one}, only in {name} {other}"
            )
        if strangers := sorted(set(np.unique(test.labels).tolist()) - known):
            raise InputError(f"the {name} images have classes that no training image has: {strangers[:10]}")
    return max(known) + 1


def select_labels(labels: np.ndarray, per_class: int | float, seed: int) -> np.ndarray:
    """Indices of some images of each class, drawn without replacement, in rising order.

    Args:
        per_class: how many of each class, or, as a float in (0, 1), the share of each class, at least one image.

    Raises:
        InputError: a class has fewer.
    """
    random = np.random.default_rng((seed, 0))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(per_class * len(members))) if isinstance(per_class, float) else per_class
        if len(members) < count:
            raise InputError(
                f"class {label} has {len(members)} training images, fewer than {count} labels a class: give a smaller "
                "--labels_per_class"
            )
        chosen.append(random.choice(members, count, replace=False))
    return np.sort(np.concatenate(chosen))


def label_amount(amount: str | int | float) -> str:
    """In words: "all", "5 a class", "1 %"."""
    if isinstance(amount, float):
        return f"{100 * amount:g} %"
    return amount if isinstance(amount, str) else f"{amount} a class"


def held_out_masks(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Bool (N,) each: a tenth of each class, at least one image, none of a class with a single image.

    One mask if a tenth is `ENOUGH` images, else several draws, whose results are to be pooled; none if no class has two
    images.
    """
    masks: list[np.ndarray] = []
    while len(masks) < (min(REPEATS, -(-ENOUGH // int(masks[0].sum()))) if masks else 1):
        random = np.random.default_rng((seed, 1, len(masks)))
        marked = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            if len(members) > 1:
                marked[members[: max(1, round(HELD_OUT * len(members)))]] = True
        if not marked.any():
            return []
        masks.append(marked)
    return masks
