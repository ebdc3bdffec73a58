"""The matrix of compositions, two by two."""

import csv
import json
import runpy

import pytest
import torch

from hfssl.data.augmentation import fit
from hfssl.errors import InputError
from hfssl.evaluation.features import weights_hash
from hfssl.programs import program
from hfssl.studies import compositions
from hfssl.studies.compositions import TRANSFORMATIONS, CompositionArguments, Study

SMOKE = ["--config", "eval/compare_compositions_smoke.yaml", "--transformations", "crop", "color", "--max_steps", "2"]


def study_of(first_crop):
    from hfssl.data.images import load_images
    from hfssl.models import SimCLRConfig

    config = SimCLRConfig(image_size=16, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    images = load_images("builtin:photos").subset(range(12))
    return Study(config, images, images, None, CompositionArguments(first_crop=first_crop)), images


@pytest.mark.parametrize("first_crop", [True, False])
def test_one_branch_is_transformed_and_the_other_is_not(first_crop):
    study, images = study_of(first_crop)
    items = [images[i] for i in range(12)]
    plain = {}
    for name in TRANSFORMATIONS:
        views = study.collator([name], seed=3)(items)["pixel_values"]
        plain[name], transformed = views.unbind(1)
        changed = (plain[name] - transformed).flatten(1).abs().amax(1) > 0.002
        assert changed.sum() >= 3, name
        if name == "cutout":  # the same crop: what is not covered is the same
            covered = (transformed == 0).all(1, keepdim=True)
            assert covered.any() and torch.equal(
                torch.where(covered, 0, plain[name]), torch.where(covered, 0, transformed)
            )
    for name in TRANSFORMATIONS:
        torch.testing.assert_close(plain[name], plain["crop"], atol=1e-6, rtol=0)
    whole = fit(images.stack(), 16)
    assert torch.allclose(plain["crop"], whole, atol=1e-5) == (not first_crop)
    pair = study.collator(["cutout", "sobel"], seed=3).augmentations[1].settings.augmentations
    assert pair == ["crop"] * first_crop + ["cutout", "edges"]


def test_a_study_writes_its_matrix_and_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(program("eval/compare_compositions.py")))["main"].__wrapped__
    executed = []
    execute = Study.execute
    monkeypatch.setattr(Study, "execute", lambda self, name, job: executed.append(name) or execute(self, name, job))
    record = main([*SMOKE, "--output_dir", str(tmp_path)])
    cells = ["crop", "crop + color", "color + crop", "color"]
    assert executed == [f"{name}/seed 42" for name in ("random init", "raw pixels", *cells)]
    assert not any((tmp_path / "cells").iterdir())
    assert json.loads((tmp_path / "compositions.json").read_text()) == record
    results = {
        line["job"]: line["result"] for line in map(json.loads, (tmp_path / "ledger.jsonl").open()) if "job" in line
    }
    for protocol in ("linear", "kNN"):
        rows = list(csv.reader((tmp_path / f"compositions_{protocol.lower()}.csv").open()))
        assert rows[0] == ["first \\ second", "crop", "color", "average"]
        values = [100 * results[f"{name}/seed 42"][protocol] for name in cells]
        shown = [float(cell) for row in rows[1:] for cell in row[1:3]]
        assert shown == pytest.approx(values, abs=0.006) and min(values) > 5
        assert float(rows[1][3]) == pytest.approx(sum(values[:2]) / 2, abs=0.006)
        assert record[protocol]["anchors"]["raw pixels"] > 60
        assert (tmp_path / f"compositions_{protocol.lower()}.png").read_bytes().startswith(b"\x89PNG")
    # cut off as by a kill, and once more: one job is missing, then none
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    assert main([*SMOKE, "--output_dir", str(tmp_path)])["linear"]["matrix"] == record["linear"]["matrix"]
    assert executed[6:] == ["color/seed 42"]
    with pytest.raises(InputError, match=r"other settings \(max_steps: 2, now 3\)"):
        main([*SMOKE, "--max_steps", "3", "--output_dir", str(tmp_path)])


def test_a_cell_that_was_trained_and_not_probed_is_probed_by_the_next_run(tmp_path, monkeypatch):
    """A kill after the training: the model in the folder is probed, not a fresh one, and nothing is trained again."""
    main = runpy.run_path(str(program("eval/compare_compositions.py")))["main"].__wrapped__
    flags = [*SMOKE, "--transformations", "crop", "--output_dir", str(tmp_path)]
    real, probed = Study._probe, []

    def probe(self, model):
        if isinstance(model, compositions.SimCLRForPreTraining) and len(probed) == 2:
            raise KeyboardInterrupt
        probed.append(weights_hash(model) if isinstance(model, torch.nn.Module) else "pixels")
        return real(self, model)

    monkeypatch.setattr(Study, "_probe", probe)
    with pytest.raises(KeyboardInterrupt):  # the anchors are probed, the cell is not
        main(flags)
    (cell,) = (tmp_path / "cells").iterdir()
    trained = weights_hash(compositions.SimCLRForPreTraining.from_pretrained(cell))
    monkeypatch.setattr(Study, "_probe", lambda self, model: probed.append(_hash(model)) or real(self, model))
    record = main(flags)
    assert trained in probed and not any((tmp_path / "cells").iterdir())
    assert len(record["linear"]["matrix"]) == 1


def _hash(model):
    return weights_hash(model) if isinstance(model, torch.nn.Module) else "pixels"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformations": ["crop", "colour"]}, "unknown transformation 'colour': one of .*; did you mean 'color'"),
        ({"transformations": ["crop", "crop"]}, "none twice"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"min_crop": 0.0}, "min_crop"),
        ({"color_strength": 9.0}, "color_strength"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        CompositionArguments(**settings)


def test_the_mean_over_seeds_and_their_spread(monkeypatch, tmp_path):
    """One cell with two seeds, without training anything."""
    from types import SimpleNamespace

    from hfssl.data.images import ImageArguments
    from hfssl.models import SimCLRConfig

    def execute(self, name, job):
        return {"linear": 0.5 + job[1] / 10, "kNN": 0.5}

    monkeypatch.setattr(Study, "execute", execute)
    args = SimpleNamespace(output_dir=str(tmp_path), seed=1, identity=lambda: {"seed": 1})
    settings = CompositionArguments(transformations=["blur"], seeds=2)
    record = compositions.compare_compositions(SimCLRConfig(), ImageArguments(), settings, args)
    assert record["seeds"] == [1, 2]
    assert record["linear"]["matrix"][0][0] == pytest.approx(65.0)
    assert record["linear"]["spread"][0][0] == pytest.approx(7.0710678)
