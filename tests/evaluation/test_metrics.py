"""The metrics against scikit-learn, scipy, hand-computed values, and `evaluate` modules loaded by path."""

import ast
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from hfssl.data.toyglue import TOYGLUE
from hfssl.errors import InputError
from hfssl.evaluation import metrics
from hfssl.evaluation.metric_space import METRIC_MODULES, write_metric_space
from hfssl.evaluation.scoring import score_split, score_task, task_score
from hfssl.evaluation.task_data import load_split, load_task
from hfssl.evaluation.tasks import TASKS

FOLDER = Path(metrics.__file__).parent


@pytest.fixture(scope="module")
def three():
    rng = random.Random(1)
    references = [rng.choice("abc") for _ in range(200)]
    return [r if rng.random() < 0.6 else rng.choice("abc") for r in references], references


def test_against_scikit_learn_and_scipy(three):
    predictions, references = three
    assert metrics.accuracy(predictions, references) == sklearn_metrics.accuracy_score(references, predictions)
    assert metrics.matthews_correlation(predictions, references) == sklearn_metrics.matthews_corrcoef(
        references, predictions
    )
    binary = [p == "a" for p in predictions], [r == "a" for r in references]
    assert metrics.f1(predictions, references, "a") == sklearn_metrics.f1_score(binary[1], binary[0])
    assert metrics.macro_f1(predictions, references, "abc") == sklearn_metrics.f1_score(
        references, predictions, average="macro"
    )
    x = np.random.default_rng(0).normal(size=50)
    y = x**3 + 0.1
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
    assert metrics.spearmanr(x, y) == pytest.approx(1.0)


def test_r3_by_its_definition(three):
    """R_K of Gorodkin 2004 from the confusion matrix: covariance of the indicator matrices over their deviations."""
    predictions, references = three
    x, y = (np.array([[label == c for c in "abc"] for label in labels], float) for labels in (predictions, references))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    assert metrics.matthews_correlation(predictions, references) == pytest.approx(expected)


def test_by_hand():
    # 2 true positives, 1 false positive, 1 false negative
    assert metrics.f1(list("ppppn"), list("ppnpp"), "p") == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    # a class that occurs in neither counts as 0 in CB's mean over three
    assert metrics.macro_f1(["e", "c"], ["e", "c"], ("e", "c", "n")) == pytest.approx(2 / 3)


def test_multirc_groups_by_paragraph_and_question_in_any_order():
    """Pitfall 15: the question's number alone is not enough, and the order of the rows does not matter."""
    rows = [  # (paragraph, question), prediction, reference
        ((0, 0), 1, 1), ((0, 0), 0, 0),
        ((0, 1), 1, 1), ((0, 1), 1, 0),
        ((1, 0), 0, 1), ((1, 0), 1, 1), ((1, 0), 0, 0),
        ((1, 1), 0, 0),
    ]  # fmt: skip
    for _ in range(5):
        random.Random(3).shuffle(rows)
        groups, predictions, references = zip(*rows, strict=True)
        assert metrics.question_em(predictions, references, groups) == 2 / 4
        assert metrics.f1_a(predictions, references, 1) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))


def test_record_normalises_and_takes_the_best_answer():
    """Pitfall 16: lower case, no punctuation, no articles; the best of the answers, for EM and F1 alike."""
    assert metrics.normalized("The U.S.  of an America!") == "us of america"
    predictions = ["the Blues", "Diego Costa", "John"]
    answers = [["Blues."], ["Costa", "Diego da Costa"], ["Mary Ann"]]
    assert metrics.token_em(predictions, answers) == pytest.approx(1 / 3)
    assert metrics.token_f1(predictions, answers) == pytest.approx((1 + 2 * 2 / (2 + 3) + 0) / 3)
    assert metrics.token_f1(["", "a"], [["x"], ["the"]]) == 0 and metrics.token_em(["a"], [["the"]]) == 1


def test_gender_parity_is_of_pairs():
    assert metrics.gender_parity(list("eenneenn"), list("aabbccdd")) == 1
    assert metrics.gender_parity(list("enee")) == 0.5
    with pytest.raises(ValueError, match="rows 2 and 3 are no pair"):
        metrics.gender_parity(list("eeee"), list("aabc"))
    with pytest.raises(ValueError, match="AX-g is pairs"):
        metrics.gender_parity(list("eee"))


def test_constant_predictions_are_0_and_said():
    """Pitfall 21."""
    assert metrics.matthews_correlation(["a"] * 4, list("abab")) == 0
    assert metrics.pearson([2.5] * 4, [1.0, 2, 3, 4]) == metrics.spearmanr([2.5] * 4, [1.0, 2, 3, 4]) == 0
    assert metrics.pearson([float("nan"), 1, 2], [1.0, 2, 3]) == 0 and metrics.pearson([1.0], [1.0]) == 0
    assert metrics.f1(["n"] * 3, ["n"] * 3, "p") == 0
    assert metrics.problems(["a"] * 3, ("accuracy",)) == ["constant: every prediction is 'a'"]
    assert metrics.problems(["a"] * 3, ("matthews_correlation",)) == [
        "constant: every prediction is 'a'; correlations count as 0"
    ]
    assert "1 of 2 predictions are not finite" in metrics.problems([float("inf"), 0.0])[0]
    assert metrics.problems(["a", "b"]) == []


def test_a_wrong_length_is_no_score():
    for function in (metrics.accuracy, metrics.pearson, metrics.matthews_correlation, metrics.token_f1):
        with pytest.raises(ValueError, match="1 predictions for 2 rows"):
            function([1], [1, 2])
        with pytest.raises(ValueError, match="nothing to score"):
            function([], [])


@pytest.mark.parametrize("key", [key for key in TASKS if key not in ("glue/ax", "other/snli")])
def test_right_answers_score_1_and_the_first_answer_less(key):
    task = TASKS[key]
    splits = {split: load_split(task, split, TOYGLUE) for split in task.scored_splits}
    if task.kind == "entities":
        right = {split: [golds[0] for golds in data.answers] for split, data in splits.items()}
        first = {split: [names[0] for names in data.candidates] for split, data in splits.items()}
    else:
        right = {split: data.labels for split, data in splits.items()}
        first = {split: [data.labels[0]] * len(data) for split, data in splits.items()}
    best, constant = score_task(task, splits, right), score_task(task, splits, first)
    assert best.values == {name: pytest.approx(1) for name in task.score_names} and not best.flags
    if "gender_parity" not in task.metrics:
        assert task_score(task, constant.values) < 0.8
    assert bool(constant.flags) == (task.kind != "entities")
    if key == "glue/mnli":
        assert task.score_names == ("accuracy_m", "accuracy_mm") and constant.flags[0].startswith(
            "validation_matched: "
        )
        assert task_score(task, {"accuracy_m": 0.5, "accuracy_mm": 0.7}) == pytest.approx(0.6)


def test_predictions_that_do_not_fit_are_refused():
    data = load_split(TASKS["glue/rte"], "validation", TOYGLUE)
    with pytest.raises(InputError, match="RTE validation: 3 predictions for 100 rows"):
        score_split(data, ["entailment"] * 3)
    with pytest.raises(InputError, match="row 1: the prediction '1' is not one of: entailment, not_entailment"):
        score_split(data, ["entailment", "1"] + ["entailment"] * 98)
    with pytest.raises(InputError, match="RTE test has no labels"):
        score_split(load_split(TASKS["glue/rte"], "test", TOYGLUE), ["entailment"] * 100)
    with pytest.raises(InputError, match="MNLI: no predictions of validation_mismatched"):
        task = TASKS["glue/mnli"]
        splits = load_task(task, TOYGLUE)
        score_task(task, splits, {"validation_matched": splits["validation_matched"].labels})


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` by path, with its module cache in a folder of the test's own."""
    import evaluate.loading

    cache = tmp_path_factory.mktemp("modules")
    folders = {name: write_metric_space(name, tmp_path_factory.mktemp("space") / name) for name in METRIC_MODULES}
    modules = evaluate.loading.init_dynamic_modules(hf_modules_cache=str(cache))

    def load(name, configuration):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evaluate.loading.init_dynamic_modules", lambda: modules)
            return evaluate.load(str(folders[name]), configuration, cache_dir=str(cache), keep_in_memory=True)

    return load


def test_as_evaluate_modules(load, three):
    predictions, references = ([ord(label) - 97 for label in labels] for labels in three)
    binary = [min(p, 1) for p in predictions], [min(r, 1) for r in references]
    mrpc = load("glue_official", "mrpc")
    assert type(mrpc).__module__.startswith("evaluate_modules")
    assert mrpc.compute(predictions=binary[0], references=binary[1]) == {
        "accuracy": metrics.accuracy(*binary), "f1": sklearn_metrics.f1_score(binary[1], binary[0]),
    }  # fmt: skip
    assert load("glue_official", "ax").compute(predictions=predictions, references=references) == {
        "matthews_correlation": metrics.matthews_correlation(predictions, references)
    }
    with pytest.warns(UserWarning, match="constant"):
        scores = load("glue_official", "stsb").compute(predictions=[1.0, 1.0, 1.0], references=[1.0, 2.0, 5.0])
    assert scores == {"pearson": 0, "spearmanr": 0}
    with pytest.raises(KeyError, match="no configuration 'mrcp'"):
        load("glue_official", "mrcp")


def test_superglue_as_evaluate_modules(load):
    """The examples of evaluate's own super_glue module give the scores it documents."""
    keys = [(0, 0, 0), (2, 3, 1)]
    rows = [{"idx": {"answer": a, "paragraph": p, "question": q}, "prediction": n} for n, (a, p, q) in enumerate(keys)]
    assert load("super_glue_official", "multirc").compute(predictions=rows, references=[0, 1]) == {
        "exact_match": 1.0, "f1_a": 1.0,
    }  # fmt: skip
    record = load("super_glue_official", "record")
    predictions = [{"idx": {"passage": 0, "query": 0}, "prediction_text": "the answer"}]
    references = [{"idx": {"passage": 0, "query": 0}, "answers": ["answer", "another_answer"]}]
    assert record.compute(predictions=predictions, references=references) == {"exact_match": 1.0, "f1": 1.0}
    assert load("super_glue_official", "cb").compute(predictions=[0, 1], references=[0, 1]) == {
        "accuracy": 1.0, "f1": pytest.approx(2 / 3),
    }  # fmt: skip
    assert load("super_glue_official", "axg").compute(predictions=[0, 0, 0, 1], references=[0, 0, 0, 0]) == {
        "accuracy": 0.75, "gender_parity": 0.5,
    }  # fmt: skip
    assert Counter(load("super_glue_official", "copa").compute(predictions=[0, 1], references=[0, 1])) == {
        "accuracy": 1
    }


def test_a_space_must_be_called_as_its_metric(tmp_path):
    with pytest.raises(InputError, match="no metric 'glue': glue_official, super_glue_official"):
        write_metric_space("glue", tmp_path / "glue")
    with pytest.raises(InputError, match="must be called 'glue_official', not 'mine'"):
        write_metric_space("glue_official", tmp_path / "mine")
    folder = write_metric_space("glue_official", tmp_path / "glue_official")
    assert {path.name for path in folder.iterdir()} == {
        "glue_official.py", "metrics.py", "README.md", "app.py", "requirements.txt",
    }  # fmt: skip


def test_what_goes_to_the_hub_needs_no_hfssl():
    for name in ("metrics.py", "glue_official.py", "super_glue_official.py"):
        for node in ast.walk(ast.parse((FOLDER / name).read_text())):
            module = getattr(node, "module", None) or ""
            names = [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]
            assert not any(part.split(".")[0] == "hfssl" for part in [module, *names])
