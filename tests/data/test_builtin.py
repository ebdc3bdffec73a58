"""Builtin data: no network, the same every time, nothing shared between train and test."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hfssl.data import builtin
from hfssl.data.builtin import BUILTIN_IMAGES, BUILTIN_TEXTS, builtin_images, builtin_texts, shift_and_rotate
from hfssl.errors import InputError


@pytest.fixture(scope="module")
def prose():
    return builtin_texts()


def test_prose_is_a_megabyte_and_more_of_english(prose):
    text = "".join(prose)
    assert 1.2e6 < len(text.encode()) < 3e6
    words = text.lower().split()
    assert words.count("the") / len(words) > 0.04
    assert ">>>" not in {line[:3] for line in text.splitlines()}
    assert sum(character.isalpha() or character.isspace() for character in text) / len(text) > 0.88


def test_prose_documents_are_distinct_and_no_paragraph_comes_twice(prose):
    paragraphs = [part for text in prose for part in text.strip().split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    assert all(text.endswith("\n") and len(text) >= 200 for text in prose)


def test_prose_is_divided_by_a_hash_of_each_document(prose):
    train, validation = builtin_texts(split="train"), builtin_texts(split="validation")
    assert sorted(train + validation) == sorted(prose)
    assert not set(train) & set(validation)
    assert 0.02 < len(validation) / len(prose) < 0.10


def test_prose_is_the_same_in_another_process_and_imports_no_module_it_reads(prose):
    code = (
        "import sys, hashlib; from hfssl.data.builtin import builtin_texts; t = builtin_texts();"
        "assert not {'antigravity', 'this', 'turtle', 'telnetlib', 'xmlrpc.server'} & set(sys.modules);"
        "print(hashlib.sha256(''.join(t).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    import hashlib

    assert result.stdout.strip() == hashlib.sha256("".join(prose).encode()).hexdigest()


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("  Some   prose\n  over two lines.", "Some prose\nover two lines."),
        (">>> 1 + 1\n2", ""),
        ("    x = f(1)\n    y = 2", ""),
        ("---------\n", ""),
        ("For example, this adds two numbers together:\n>>> 1 + 1\n2", "For example, this adds two numbers together:"),
    ],
)
def test_cleaning_keeps_prose_and_drops_code(paragraph, expected):
    assert builtin._clean_paragraph(paragraph) == expected


def test_digits_are_scikit_learns_divided_by_class():
    train, train_labels, names = builtin_images("digits", "train")
    test, test_labels, _ = builtin_images("digits", "test")
    assert train.shape == (1297, 3, 8, 8) and test.shape == (500, 3, 8, 8) and train.dtype == np.uint8
    assert names == [str(digit) for digit in range(10)]
    assert train.max() == 255 and train.min() == 0
    assert (train[:, 0] == train[:, 2]).all()
    shares = np.bincount(train_labels) / 1297 - np.bincount(test_labels) / 500
    assert abs(shares).max() < 0.005
    assert (builtin_images("digits", "train")[0] == train).all()


def test_photos_share_no_pixel_between_train_and_test(monkeypatch):
    """Each pixel gets its own colour, so the crops themselves say where they were cut."""
    import sklearn.datasets

    def numbered(name):
        place = np.arange(427 * 640).reshape(427, 640) + (0 if name == "china.jpg" else 427 * 640)
        return np.stack([place >> 16, place >> 8 & 255, place & 255], -1).astype(np.uint8)

    monkeypatch.setattr(sklearn.datasets, "load_sample_image", numbered)

    def places(split):
        images = builtin_images("photos", split)[0].astype(np.int64)
        return set((images[:, 0] << 16 | images[:, 1] << 8 | images[:, 2]).ravel().tolist())

    train, test = places("train"), places("test")
    assert train and test and not train & test


def test_photos_have_eight_balanced_classes():
    for split, count in (("train", 2000), ("test", 504)):
        images, labels, names = builtin_images("photos", split)
        assert images.shape == (count, 3, 32, 32) and images.dtype == np.uint8
        assert len(names) == 8 and (np.bincount(labels) == count // 8).all()


def test_shift_and_rotate_is_deterministic_and_leaves_the_image_alone_at_zero():
    images = builtin_images("digits", "test")[0][:50]
    first = shift_and_rotate(images, seed=3)
    assert first.shape == images.shape and first.dtype == np.uint8
    assert (first == shift_and_rotate(images, seed=3)).all()
    assert (first != shift_and_rotate(images, seed=4)).any()
    assert (shift_and_rotate(images, seed=3, max_shift=0, max_degrees=0) == images).all()


def test_a_shift_of_one_pixel_moves_by_one_eighth_of_the_width_at_any_resolution(monkeypatch):
    class Ends:  # both shifts at their limit, no turn
        def uniform(self, low, high, size):
            return np.full(size, float(high))

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Ends())
    for side in (8, 32):
        image = np.random.RandomState(0).randint(0, 256, (1, 3, side, side)).astype(np.uint8)
        moved = shift_and_rotate(image, seed=0, max_shift=1, max_degrees=0)
        step = side // 8
        assert (moved[..., :-step, :-step] == image[..., step:, step:]).all()
        assert (moved[..., -step:, :] == 0).all()


def test_unknown_names_and_splits_are_bad_input():
    for call in (lambda: builtin_texts("pros"), lambda: builtin_images("digit")):
        with pytest.raises(InputError, match=r"did you mean '(prose|digits)'"):
            call()
    with pytest.raises(InputError, match="no split 'dev'"):
        builtin_texts(split="dev")
    with pytest.raises(InputError, match="no split 'validation'"):
        builtin_images("digits", "validation")
    assert set(BUILTIN_TEXTS) == {"prose"} and set(BUILTIN_IMAGES) == {"digits", "photos"}
