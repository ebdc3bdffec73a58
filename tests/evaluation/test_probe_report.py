"""The flags of a probe, its tables, and the folder it writes."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from hfssl.errors import InputError
from hfssl.evaluation.embeddings import made_up_embeddings, read_embeddings, write_embeddings
from hfssl.evaluation.encoders import pixel_encoder
from hfssl.evaluation.labels import check_labels
from hfssl.evaluation.probe_data import ProbeArguments, open_probe
from hfssl.evaluation.probe_report import geometry_table, layer_table, probe_table, write_results
from hfssl.evaluation.probes import ProbeRow, probe
from tests.evaluation.test_probes import squares


@pytest.fixture(scope="module")
def result():
    return probe(pixel_encoder(squares(9, 0)), squares(60, 0), squares(30, 1), seeds=2, anchors=[])


def printed(*tables):
    console = Console(width=120, record=True)
    console.print(*tables)
    return console.export_text()


def row(layer, accuracy, encoder="ours"):
    return ProbeRow(encoder, "test", "linear", "all", accuracy, 0.0, accuracy - 0.1, accuracy + 0.1, 50, 1, (), layer)


def test_the_tables_show_every_result(result):
    text = printed(probe_table(result.rows), geometry_table(result.geometry))
    assert all(f"{100 * row.accuracy:.1f} ± {100 * row.spread:.1f}" in text for row in result.rows)
    assert "raw pixels" in text and "5 a class" in text and "30 test images" in text
    assert all(f"{value:.3g}" in text for value in result.geometry["raw pixels"].values())


def test_layers_have_a_table_of_their_own():
    rows = [row("layer 0", 0.25), row("pooled", 0.75), row("pooled", 0.5, "raw pixels")]
    text = printed(layer_table(rows))
    assert "25.0" in text and "75.0" in text and "raw pixels" not in text
    assert "25.0" not in printed(probe_table(rows))


def test_the_folder_holds_results_figures_page_and_embeddings(result, tmp_path):
    args = {"model": "pixels", "seeds": 2, "export_embeddings": True}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_results(tmp_path / "out", result, args, squares(60, 0), {"test": squares(30, 1)})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "results.json", "report.html", "confusion.png", "neighbours.png", "map.png", "embeddings.parquet", "notes.txt",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["anchors"] == [] and record["seeds"] == [0, 1] and "held-out tenth" in record["protocol"]
    assert [ProbeRow(**entry | {"chosen": tuple(entry["chosen"])}) for entry in record["rows"]] == result.rows
    assert record["data"]["train"]["images"] == 60 and record["geometry"] == result.geometry
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 3 and f"{100 * result.rows[0].accuracy:.1f}" in page
    splits = read_embeddings(tmp_path / "out" / "embeddings.parquet")
    assert torch.equal(splits["test"][0], result.features["test"])
    assert splits["train"][1].tolist() == squares(60, 0).labels.tolist()


def test_nothing_is_left_where_nothing_can_be_written(result, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to"):
        write_results(tmp_path / "file" / "out", result, {"model": "m"}, squares(60, 0), {"test": squares(30, 1)})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_embeddings_are_a_table_that_others_read(tmp_path):
    (train, labels), _ = made_up_embeddings(6, 0, 4)
    images = squares(6, 0, labels=labels.numpy(), class_names=None)
    write_embeddings(tmp_path / "e.parquet", {"train": train}, {"train": images})
    table = pq.read_table(tmp_path / "e.parquet").to_pydict()
    assert np.allclose(table["embedding"], train.numpy()) and table["index"] == list(range(6))
    with pytest.raises(InputError, match="cannot read embeddings"):
        read_embeddings(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": None}, "either --dataset, or --train_file and --test_file"),
        ({"dataset": None, "train_file": "a"}, "either --dataset, or --train_file and --test_file"),
        ({"train_file": "a"}, "either --dataset, or --train_file and --test_file"),
        ({"train_file": "a", "test_file": "b"}, "either --dataset, or --train_file and --test_file"),
        ({"seeds": 0}, "at least 1"),
        ({"label_fractions": [0.1, 1.0]}, "between 0 and 1"),
        ({"protocol": "sdg"}, "did you mean 'sgd'"),
        ({"export_embeddings": True}, "give --out"),
        ({"out": "probe.json"}, "--out names a folder"),
    ],
)
def test_flags(flags, message):
    with pytest.raises(InputError, match=message):
        ProbeArguments("model", **{"dataset": "builtin:digits"} | flags)


def save_images(folder, count, seed):
    for number, image in enumerate(squares(count, seed).stack()):
        place = folder / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.png")


def test_a_folder_with_a_test_split_is_tested_on_it_and_never_on_its_training_images(tmp_path):
    save_images(tmp_path / "both" / "train", 30, 0)
    save_images(tmp_path / "both" / "test", 9, 1)
    save_images(tmp_path / "plain", 12, 2)

    def sizes(train, test):
        _, first, tests = open_probe(ProbeArguments("pixels", train_file=str(train), test_file=str(test)))
        return len(first), len(tests["plain"])

    assert sizes(tmp_path / "both", tmp_path / "both") == (30, 9)
    assert sizes(tmp_path / "both", tmp_path / "plain") == (30, 12)
    with pytest.raises(InputError, match="is both the training and the test images"):
        sizes(tmp_path / "plain", tmp_path / "plain")


def test_integer_labels_have_no_names_that_could_differ(tmp_path):
    """A test set without the last class is no other set of classes."""
    for name, labels in (("train", [0, 1, 2, 3] * 4), ("test", [0, 1, 2] * 3)):
        table = {"image": [], "label": labels}
        for number in range(len(labels)):
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
            table["image"].append({"bytes": stream.getvalue(), "path": None})
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    files = {"train_file": str(tmp_path / "train.parquet"), "test_file": str(tmp_path / "test.parquet")}
    _, train, tests = open_probe(ProbeArguments("pixels", **files))
    assert train.class_names is None and check_labels(train, tests) == 4


def test_builtin_data_is_also_seen_shifted_and_rotated():
    encoder, train, tests = open_probe(ProbeArguments("pixels", dataset="builtin:digits"))
    assert encoder.name == "raw pixels" and len(train) == 1297
    assert list(tests) == ["plain", "shifted and rotated"]
    assert np.array_equal(tests["plain"].labels, tests["shifted and rotated"].labels)
    moved = tests["plain"].stack() != tests["shifted and rotated"].stack()
    assert 0.1 < moved.double().mean() < 0.9
    assert list(open_probe(ProbeArguments("pixels", dataset="builtin:digits", distorted=False))[2]) == ["plain"]
