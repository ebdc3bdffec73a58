import hashlib
import json
import os
import subprocess
import sys

import pytest

from hfssl.data import toyglue
from hfssl.data.toyglue import toy_counts, toy_table, toy_texts
from hfssl.errors import InputError
from hfssl.evaluation.tasks import SUITES, suite_tasks

KEYS = [task.key for suite in SUITES for task in suite_tasks(suite).values()]


def digest():
    """A hash of every row of every task."""
    everything = {key: {split: toy_table(key, split).columns for split in toy_counts(key)} for key in KEYS}
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def test_another_process_makes_the_same_rows():
    code = f"""
import hashlib, json
from hfssl.data.toyglue import toy_counts, toy_table
everything = {{key: {{split: toy_table(key, split).columns for split in toy_counts(key)}} for key in {KEYS!r}}}
print(hashlib.sha256(json.dumps(everything).encode()).hexdigest())
"""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == digest(), done.stderr


@pytest.mark.parametrize("key", KEYS)
def test_the_hubs_columns_and_labels_of_each_task(key):
    suite, name = key.split("/")
    task = suite_tasks(suite)[name]
    for split, count in toy_counts(key).items():
        columns = toy_table(key, split).columns
        assert all(len(column) == count for column in columns.values()) and set(task.columns) <= set(columns)
        if split.startswith("test") and not task.labelled_test:
            assert "label" not in columns and "answers" not in columns
        elif task.labels:
            shares = [columns["label"].count(label) / count for label in task.labels]
            assert set(columns["label"]) == set(task.labels) and min(shares) > 0.08 and max(shares) < 0.75
    if task.name == "stsb":
        scores = toy_table(key, "train").columns["label"]
        assert min(scores) >= 0 and max(scores) == 5 and len(set(scores)) > 15


@pytest.mark.parametrize("key", KEYS)
def test_no_row_is_in_two_splits(key):
    first = toy_table(key, next(iter(toy_counts(key))))
    task_columns = [name for name in first.columns if name not in ("label", "idx", "answers")]
    seen = set()
    for split in toy_counts(key):
        columns = toy_table(key, split).columns
        rows = {str([columns[name][row] for name in task_columns]) for row in range(toy_counts(key)[split])}
        assert not rows & seen
        seen |= rows


def test_gender_pairs_differ_in_the_pronoun_alone():
    columns = toy_table("superglue/axg", "test").columns
    for row in range(0, len(columns["premise"]), 2):
        first, second = columns["premise"][row : row + 2]
        assert first != second and first.replace(" he ", " she ") == second
        assert columns["hypothesis"][row] == columns["hypothesis"][row + 1]
        assert columns["label"][row] == columns["label"][row + 1]


def test_texts_for_a_tokenizer_come_from_training_splits_only():
    texts = list(toy_texts())
    train = sum(toy_counts(key).get("train", 0) for key in KEYS)
    assert len(texts) == train and any("@placeholder" in text for text in texts)
    held_out = set(toy_table("glue/cola", "validation").columns["sentence"])
    assert not held_out & set(texts)


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="no 'validation' of 'glue/ax'"):
        toy_table("glue/ax", "validation")
    with pytest.raises(InputError, match="no 'train' of 'glue/snli'"):
        toy_table("glue/snli", "train")
    assert toyglue.toy_counts("other/snli") == {}
