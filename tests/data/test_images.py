"""Images from every kind of source as uint8 RGB; and one clear line for what cannot be read."""

import io
import json
import logging
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hfssl.data import image_sources, images
from hfssl.data.images import ImageDataset, load_images
from hfssl.errors import InputError

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 0), (9, 99, 199), (1, 2, 3)]


def png(colour, size=(6, 4), form="PNG", **options):
    """An image of one colour; size is (width, height)."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form, **options)
    return file.getvalue()


def write_folder(root, layout):
    """layout: path -> index of the colour, or bytes."""
    for name, content in layout.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(COLOURS[content]) if isinstance(content, int) else content)


def write_parquet(path, contents, labels=None, metadata=None, plain=False, **columns):
    """contents: indices of colours, or bytes."""
    data = [png(COLOURS[content]) if isinstance(content, int) else content for content in contents]
    column = pa.array(data, pa.binary()) if plain else pa.array([{"bytes": item, "path": None} for item in data])
    table = pa.table({**columns, "image": column} | ({} if labels is None else {"label": labels}))
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


def colours(dataset):
    return [tuple(item["image"][:, 0, 0].tolist()) for item in (dataset[i] for i in range(len(dataset)))]


@pytest.fixture(params=["kept", "lazy"])
def mode(request, monkeypatch, tmp_path_factory):
    """Both ways of holding images must give the same."""
    if request.param == "lazy":
        monkeypatch.setattr(images, "MAX_DECODED_BYTES", 0)
    return request.param


def test_subfolders_are_classes(tmp_path, mode):
    write_folder(
        tmp_path, {"dog/b.png": 1, "cat/x/a.png": 0, "dog/a.png": 2, ".hidden/a.png": 3, "cat/notes.txt": b"x"}
    )
    dataset = load_images(str(tmp_path))
    assert dataset.class_names == ["cat", "dog"] and dataset.labels.tolist() == [0, 1, 1]
    assert colours(dataset) == [COLOURS[0], COLOURS[2], COLOURS[1]]
    item = dataset[1]
    assert item["image"].shape == (3, 4, 6) and item["image"].dtype == torch.uint8
    assert item["label"] == 1 and item["index"] == 1 and dataset[-1]["index"] == 2
    with pytest.raises(IndexError):
        dataset[3]


def test_a_flat_folder_or_one_file_has_no_labels(tmp_path):
    write_folder(tmp_path, {"b.png": 1, "a.png": 0})
    for path, expected in ((tmp_path, COLOURS[:2]), (tmp_path / "b.png", COLOURS[1:2])):
        dataset = load_images(str(path))
        assert dataset.labels is None and dataset.class_names is None and "label" not in dataset[0]
        assert colours(dataset) == expected


def test_folders_of_splits_never_mix_and_number_classes_alike(tmp_path):
    write_folder(
        tmp_path, {"train/b/1.png": 0, "train/a/1.png": 1, "train/c/1.png": 4, "val/c/1.png": 2, "val/b/1.png": 3}
    )
    train, held_out = load_images(str(tmp_path)), load_images(str(tmp_path), split="validation")
    assert train.class_names == held_out.class_names == ["a", "b", "c"]
    assert held_out.labels.tolist() == [1, 2] and colours(held_out) == [COLOURS[3], COLOURS[2]]
    with pytest.raises(InputError, match="no split 'test'; its splits are train, validation"):
        load_images(str(tmp_path), split="test")


def test_a_source_without_splits_is_not_silently_its_own_test(tmp_path):
    write_folder(tmp_path, {"x/a/1.png": 0, "x/b/1.png": 1})
    write_parquet(tmp_path / "d.parquet", [0, 1])
    for path in (tmp_path / "x", tmp_path / "d.parquet"):
        with pytest.raises(InputError, match="not divided into splits"):
            load_images(str(path), split="test")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_parquet(tmp_path, mode, monkeypatch, plain, mapped):
    if mapped:  # large data is mapped from the cache of `datasets`
        import datasets

        monkeypatch.setattr(image_sources, "MAX_ENCODED_BYTES", 0)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_parquet(tmp_path / "d.parquet", [0, 1, 2, 3, 4], [3, 1, 0, 1, 2], plain=plain, key=list("abcde"))
    dataset = load_images(str(tmp_path / "d.parquet"))
    assert colours(dataset) == COLOURS[:5]
    assert dataset.labels.tolist() == [3, 1, 0, 1, 2] and dataset.class_names is None


def test_parquet_takes_class_names_from_hugging_face_metadata_or_strings(tmp_path):
    feature = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    write_parquet(tmp_path / "a.parquet", [0, 1], [1, 0], metadata)
    assert load_images(str(tmp_path / "a.parquet")).class_names == ["cat", "dog"]
    write_parquet(tmp_path / "b.parquet", [0, 1, 2], ["dog", "cat", "dog"])
    dataset = load_images(str(tmp_path / "b.parquet"))
    assert dataset.class_names == ["cat", "dog"] and dataset.labels.tolist() == [1, 0, 1]


def test_a_folder_of_parquet_files_is_divided_by_their_names(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1], [0, 1])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [2], [1])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [3], [0])
    assert colours(load_images(str(tmp_path))) == COLOURS[:3]
    assert colours(load_images(str(tmp_path), split="test")) == COLOURS[3:4]


@pytest.mark.parametrize("as_mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_every_mode_becomes_rgb_and_is_said_once(tmp_path, mode, as_mode, caplog):
    caplog.set_level("INFO")
    grey = (102, 102, 102) if as_mode != "1" else (255, 255, 255)
    form = "TIFF" if as_mode == "CMYK" else "PNG"
    for i in range(3):
        Image.new("RGB", (5, 7), grey).convert(as_mode).save(tmp_path / f"{i}.{form.lower()}")
    dataset = load_images(str(tmp_path))
    for i in range(3):
        image = dataset[i]["image"]
        assert image.shape == (3, 7, 5) and (image.int() - torch.tensor(grey)[:, None, None]).abs().max() <= 1
    assert sum(as_mode in record.getMessage() for record in caplog.records) == 1


def test_sixteen_bits_are_scaled_and_exif_is_honoured(tmp_path):
    Image.fromarray(np.array([[0, 256 * 100, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert load_images(str(tmp_path / "a.png"))[0]["image"][0].tolist() == [[0, 100, 255]]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "b.jpg", exif=exif)
    assert load_images(str(tmp_path / "b.jpg"))[0]["image"].shape == (3, 8, 4)


def test_sizes_may_differ_and_stack_wants_them_equal(tmp_path, mode):
    write_folder(tmp_path, {"a.png": 0, "b.png": png(COLOURS[1], (9, 9))})
    dataset = load_images(str(tmp_path))
    assert [tuple(dataset[i]["image"].shape) for i in range(2)] == [(3, 4, 6), (3, 9, 9)]
    with pytest.raises(InputError, match="differ in size"):
        dataset.stack()
    assert dataset.subset([0, 0]).stack().shape == (2, 3, 4, 6)


def test_subsets_keep_labels_beside_their_images(tmp_path, mode):
    write_parquet(tmp_path / "d.parquet", [0, 1, 2, 3], [10, 11, 12, 13])
    part = load_images(str(tmp_path / "d.parquet")).subset([3, 1, 2]).subset(np.array([2, 0]))
    assert colours(part) == [COLOURS[2], COLOURS[3]] and part.labels.tolist() == [12, 13]
    assert [part[i]["index"] for i in range(2)] == [0, 1] and part[1]["label"] == 13


def test_it_travels_to_the_workers_of_a_loader(tmp_path, mode):
    write_parquet(tmp_path / "d.parquet", [0, 1, 2, 3], [0, 1, 2, 3])
    dataset = load_images(str(tmp_path / "d.parquet"))
    assert colours(pickle.loads(pickle.dumps(dataset))) == colours(dataset)
    [batch] = DataLoader(dataset, batch_size=4, num_workers=1)
    assert batch["image"].shape == (4, 3, 4, 6) and batch["label"].tolist() == batch["index"].tolist() == [0, 1, 2, 3]


def test_builtin_images_are_datasets():
    dataset = load_images("builtin:digits", split="test")
    assert len(dataset) == 500 and dataset.stack().shape == (500, 3, 8, 8) and "digits" in dataset.source


def test_labels_must_match_the_images():
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        ImageDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1, 2])


def test_four_workers_say_it_once(tmp_path, monkeypatch, capfd):
    """What the workers of a loader have met lies in shared memory."""
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 0)
    for i in range(8):
        Image.new("L", (5, 7), 9).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_bytes(b"no image")
    dataset = load_images(str(tmp_path), skip_corrupt=True)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("hfssl").addHandler(handler)
    logging.getLogger("hfssl").setLevel(logging.INFO)
    loader = DataLoader(dataset, batch_size=1, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert len(list(loader)) == 8
    said = capfd.readouterr().err
    assert said.count("mode L: converted to RGB") == 1 and said.count("another image stands in") == 1


# Damage


def damaged():
    whole = png(COLOURS[0], (64, 64), "JPEG", quality=95)
    return {"noise": b"no image at all", "empty": b"", "cut off": whole[: len(whole) // 2]}


@pytest.mark.parametrize("kind", ["noise", "empty", "cut off"])
def test_a_damaged_image_is_named(tmp_path, mode, kind):
    write_folder(tmp_path / "f", {"a/1.png": 0, "a/2.jpg": damaged()[kind], "b/3.png": 1})
    write_parquet(tmp_path / "d.parquet", [0, damaged()[kind], 1], [0, 0, 1])
    for path, name in ((tmp_path / "f", "2.jpg"), (tmp_path / "d.parquet", "row 1 of")):
        with pytest.raises(InputError) as caught:
            colours(load_images(str(path)))
        message = str(caught.value)
        assert name in message and "--skip_corrupt_images" in message and "\n" not in message


@pytest.mark.parametrize("kind", ["noise", "empty", "cut off"])
def test_damaged_images_are_counted_and_left_out(tmp_path, mode, kind, caplog):
    write_folder(tmp_path, {"a/1.png": 0, "a/2.jpg": damaged()[kind], "a/3.png": 1, "b/4.png": 2})
    dataset = load_images(str(tmp_path), skip_corrupt=True)
    if mode == "kept":
        assert colours(dataset) == COLOURS[:3] and dataset.labels.tolist() == [0, 0, 1]
        assert "1 of 4 images left out" in caplog.text
    else:  # the next one of the same class stands in, so that labels stay right
        assert colours(dataset) == [COLOURS[0], COLOURS[1], COLOURS[1], COLOURS[2]] == colours(dataset)
        assert dataset.labels.tolist() == [0, 0, 0, 1] and "damaged so far: 1" in caplog.text


def test_what_stands_in_for_a_damaged_image_has_its_label(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 0)
    write_folder(tmp_path, {"a/1.png": 0, "a/2.jpg": b"x", "b/3.png": 2})
    assert colours(load_images(str(tmp_path), skip_corrupt=True)) == [COLOURS[0], COLOURS[0], COLOURS[2]]


def test_nothing_but_damage_is_bad_input(tmp_path, mode):
    write_folder(tmp_path, {"a.png": b"x", "b.png": b"y"})
    with pytest.raises(InputError, match=r"every image .* damaged|no readable image"):
        colours(load_images(str(tmp_path), skip_corrupt=True))


def test_bad_sources(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    write_parquet(tmp_path / "d.parquet", [0, 1], [0.5, 1.5], number=[1, 2])
    pq.write_table(pa.table({"number": [1]}), tmp_path / "n.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for path, options, words in (
        ("missing.png", {}, "no such file"),
        (tmp_path / "empty", {}, "no usable image in folder"),
        (tmp_path / "a.txt", {}, "usable are .jpg"),
        (tmp_path / "n.parquet", {}, "no column with images; its columns are number"),
        (tmp_path / "d.parquet", {}, "labels must all be integers or all be strings"),
        (
            tmp_path / "d.parquet",
            {"image_column": "pixels"},
            "no column 'pixels'; its columns are number, image, label",
        ),
        (tmp_path / "d.parquet", {"image_column": "number"}, "is int64, not images"),
        (tmp_path / "d.parquet", {"label_column": "class"}, "no column 'class'"),
        (tmp_path / "broken.parquet", {}, "no parquet file"),
        ("builtin:digit", {}, "did you mean 'digits'"),
        ("builtin:prose", {}, "it is text"),
        ("builtin:digits", {"split": "dev"}, "no split 'dev'"),
        ("nobody/nothing-of-this-name", {}, "cannot reach the Hub"),
    ):
        with pytest.raises(InputError) as caught:
            load_images(str(path), **options)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_dataset(monkeypatch, mode):
    import datasets

    features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"]), "img": datasets.Image()})
    rows = {"label": [1, 0], "img": [{"bytes": png(COLOURS[i]), "path": None} for i in range(2)]}
    made = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: made)
    dataset = load_images("user/name", split="validation")
    assert (
        colours(dataset) == COLOURS[:2] and dataset.labels.tolist() == [1, 0] and dataset.class_names == ["cat", "dog"]
    )


def test_a_row_opens_no_file_outside_the_folder_of_its_parquet(tmp_path):
    """Data from a stranger could otherwise read any file of the machine."""
    inside, outside = tmp_path / "data", tmp_path / "data-private"
    inside.mkdir(), outside.mkdir()
    for folder, value in ((inside, 10), (outside, 20)):
        Image.new("RGB", (8, 8), (value, value, value)).save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")

    def load(path):
        pq.write_table(pa.table({"image": [{"bytes": None, "path": path}]}), inside / "rows.parquet")
        return load_images(str(inside / "rows.parquet"))

    assert load("a.png")[0]["image"].unique().tolist() == [10]
    assert load(str(inside / "a.png"))[0]["image"].unique().tolist() == [10]
    for path in ("../data-private/a.png", str(outside / "a.png"), "link.png"):
        with pytest.raises(InputError, match="outside"):
            load(path)


def test_formats_that_start_a_program_are_no_images(tmp_path):
    """PIL hands PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(InputError, match=r"a\.png: not an image of a known format"):
        load_images(str(tmp_path / "a.png"))


def test_labels_can_be_left_out(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    rows = pa.table({"image": [{"bytes": buffer.getvalue(), "path": None}], "label": [0.5]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="label"):
        load_images(str(tmp_path / "rows.parquet"))
    assert load_images(str(tmp_path / "rows.parquet"), label_column="none").labels is None


@pytest.mark.parametrize("parquet", [False, True])
def test_other_images_have_another_fingerprint(tmp_path, parquet):
    def load(name, shades):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for number, shade in enumerate(shades):
            image = Image.effect_noise((8, 8), shade)
            image.save(folder / f"{number}.png")
            rows.append({"bytes": (folder / f"{number}.png").read_bytes(), "path": None})
        if not parquet:
            return load_images(str(folder))
        pq.write_table(pa.table({"image": rows}), tmp_path / f"{name}.parquet")
        return load_images(str(tmp_path / f"{name}.parquet"))

    one = load("one", [0, 0, 0])
    assert one.fingerprint == load("same", [0, 0, 0]).fingerprint  # the place does not matter
    assert one.fingerprint != load("other", [0, 0, 90]).fingerprint
    assert one.fingerprint != load("fewer", [0, 0]).fingerprint
    assert one.fingerprint != one.subset([0, 1]).fingerprint
