"""Which task model stays, in whatever order the jobs end."""

import itertools
import json

import pytest

from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import saved_models
from hfssl.finetuning.saved_models import SavedModels

PLANNED = ["rte-seed0", "rte-seed1", "rte-seed2"]


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    def save(model, tokenizer, folder):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(model)

    monkeypatch.setattr(saved_models, "save_task_model", save)


def save_all(folder, scores, order, keep="best"):
    models, done = SavedModels(folder, keep), []
    for name in order:
        record = dict.fromkeys(("task", "seed", "trial", "scores", "settings", "started_from", "head"))
        models.save(name, None, name, TASKS["glue/rte"], record | {"score": scores[name]}, done, PLANNED)
        done.append((name, scores[name]))
    return models


@pytest.mark.parametrize("values", [(0.5, 0.5, 0.5), (0.1, 0.9, 0.9), (0.9, 0.1, 0.9), (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("order", itertools.permutations(PLANNED))
def test_of_equals_the_first_that_was_planned_stays(tmp_path, values, order):
    scores = dict(zip(PLANNED, values, strict=True))
    models = save_all(tmp_path, scores, order)
    best = max(PLANNED, key=lambda name: scores[name])
    models.finish({"rte": best}, {"rte": PLANNED})
    assert [path.name for path in tmp_path.iterdir()] == ["rte"]
    assert (tmp_path / "rte" / "weights").read_text() == best
    assert json.loads((tmp_path / "rte" / "hfssl_task.json").read_text())["job"] == best
    models.finish({"rte": best}, {"rte": PLANNED})
    assert models.find(best) == tmp_path / "rte", "a second process finds it in its place"


def test_where_the_best_is_gone_what_is_there_stays_and_it_is_said(tmp_path, caplog):
    models = save_all(tmp_path, {"rte-seed1": 0.5}, ["rte-seed1"])
    models.finish({"rte": "rte-seed0"}, {"rte": PLANNED})
    assert [path.name for path in tmp_path.iterdir()] == ["rte-seed1"]
    assert "the model of its best job rte-seed0 is not in" in caplog.text
