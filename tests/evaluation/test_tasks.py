import pytest

from hfssl.data.toyglue import toy_counts
from hfssl.errors import InputError
from hfssl.evaluation.metrics import METRICS
from hfssl.evaluation.tasks import KINDS, TASKS, label_order, select_tasks, suite_tasks

MNLI = TASKS["glue/mnli"]


def test_the_suites_are_whole_and_their_rows_consistent():
    glue, superglue = suite_tasks("glue"), suite_tasks("superglue")
    assert list(glue) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]
    assert list(superglue) == ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg"]
    for task in TASKS.values():
        assert task.kind in KINDS and len(task.written) == len(task.labels)
        assert set(task.metrics) <= set(METRICS) and task.headline in task.score_names
        assert set(task.files) == (set(task.test_splits) if task.suite != "other" else set())
        assert task.positive is None or task.positive in task.labels
        if task.model_of:
            assert suite_tasks(task.suite)[task.model_of].labels == task.labels
        if task.suite != "other":
            assert list(toy_counts(task.key)) == list(task.counts), "the toy has the same splits"
    names = [name for task in glue.values() for name in task.files.values()]
    assert len(set(names)) == 11 and {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "SST-2.tsv", "STS-B.tsv"} < set(names)


def test_glue_and_superglue_share_the_name_rte_but_not_the_row():
    """Pitfall 11: one name for two tasks broke jiant's run of the whole SuperGLUE."""
    first, second = TASKS["glue/rte"], TASKS["superglue/rte"]
    assert (first.name, first.counts) == (second.name, second.counts) and first.columns != second.columns
    assert first.files["test"] == "RTE.tsv" and second.files["test"] == "RTE.jsonl"
    assert [task.name for task in select_tasks("glue", "STS-B,sst-2")] == ["sst2", "stsb"]  # as the tables write them
    assert [task.key for task in select_tasks("superglue", "rte, AX-g,cb")] == [
        "superglue/cb", "superglue/rte", "superglue/axg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("suite", "names", "says"),
    [
        ("glue", "cola,mrcp", "no task 'mrcp' in glue.*'mrpc'"),
        ("superglue", "cola", "no task 'cola' in superglue"),
        ("glue", " , ", "names no task"),
        ("gleu", "all", "unknown suite 'gleu'.*'glue'"),
    ],
)
def test_a_task_that_does_not_exist_is_refused(suite, names, says):
    with pytest.raises(InputError, match=says):
        select_tasks(suite, names)


@pytest.mark.parametrize(
    "names",
    [
        ("entailment", "neutral", "contradiction"),  # the Hub
        ("contradiction", "entailment", "neutral"),  # transformers' old processors, jiant
        ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"),  # fairseq's RoBERTa and BART
    ],
)
def test_a_checkpoints_classes_are_matched_by_name(names):
    """Pitfalls 2, 3 and 4: three orders of MNLI's classes are in use."""
    assert label_order(MNLI, dict(enumerate(names))) == tuple(name.lower() for name in names)


def test_a_checkpoints_json_keys_and_dashes_are_understood():
    assert label_order(TASKS["glue/rte"], {"1": "entailment", "0": "Not-Entailment"}) == (
        "not_entailment",
        "entailment",
    )


@pytest.mark.parametrize(
    ("id2label", "says"),
    [
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, "order cannot be known"),
        ({0: "entailment", 1: "neutral"}, "head has 2 classes, MNLI has 3"),
        ({0: "entailment", 1: "neutral", 2: "neutral"}, "order cannot be known"),
    ],
)
def test_a_head_whose_classes_are_not_the_tasks_is_refused(id2label, says):
    with pytest.raises(InputError, match=says):
        label_order(MNLI, id2label)
