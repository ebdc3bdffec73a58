"""`hfssl colorize` and `hfssl inpaint`: files in, files of the same size out, one line for what cannot be painted."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hfssl.cli import app
from hfssl.models import (
    ColorizationConfig,
    ColorizationForPreTraining,
    ColorizationModel,
    ContextEncoderConfig,
    ContextEncoderForPreTraining,
)
from hfssl.models.color import rgb_to_lab
from tests.conftest import TINY_RESNET


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and some pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    settings = TINY_RESNET | {"hypercolumn_dim": 8, "color_loss": "l2_ab"}
    ColorizationForPreTraining(ColorizationConfig(**settings)).save_pretrained(folder / "color")
    ColorizationModel(ColorizationConfig(**settings)).save_pretrained(folder / "encoder")
    settings = TINY_RESNET | {"overlap": 2, "decoder_dim": 8, "discriminator_dim": 8}
    ContextEncoderForPreTraining(ContextEncoderConfig(**settings)).save_pretrained(folder / "paint")
    random = np.random.default_rng(0)
    for name, size in (("wide.png", (40, 64, 3)), ("tall.jpg", (50, 36, 3))):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    Image.fromarray(random.integers(0, 256, (33, 47), dtype=np.uint8)).save(folder / "grey.png")
    mask = np.zeros((40, 64), np.uint8)
    mask[10:20, 5:30] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask * 0).save(folder / "nothing.png")
    Image.new("RGB", (1, 1)).save(folder / "point.png")
    (folder / "notes.txt").write_text("x")
    (folder / "damaged.png").write_bytes((folder / "wide.png").read_bytes()[:500])
    return folder


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def test_colorize(folder, tmp_path):
    done = command(
        "colorize", folder / "color", folder / "wide.png", folder / "tall.jpg", folder / "grey.png", "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grey.png", "tall.png", "wide.png"]
    for name, source in (("wide.png", "wide.png"), ("grey.png", "grey.png")):
        before, after = (pixels(path).float() / 255 for path in (folder / source, tmp_path / name))
        assert before.shape == after.shape
        assert (rgb_to_lab(before)[0] - rgb_to_lab(after)[0]).abs().max() < 1, "the lightness, but for 8 bits"


def test_inpaint_leaves_what_is_seen(folder, tmp_path):
    (tmp_path / "masks").mkdir()
    shutil.copy(folder / "mask.png", tmp_path / "masks" / "wide.png")  # a mask may be called as its image is
    paint = ("inpaint", folder / "paint", folder / "wide.png")
    done = command(*paint, "--mask", tmp_path / "masks" / "wide.png", "--out", tmp_path / "own")
    assert done.exit_code == 0, done.output
    hidden = pixels(folder / "mask.png")[0] > 0
    before, after = pixels(folder / "wide.png"), pixels(tmp_path / "own" / "wide.png")
    assert torch.equal(before[:, ~hidden], after[:, ~hidden]) and not torch.equal(before[:, hidden], after[:, hidden])
    done = command(*paint, folder / "tall.jpg", "--out", tmp_path / "middle")
    assert done.exit_code == 0, done.output
    changed = (pixels(tmp_path / "middle" / "wide.png") != before).any(0)
    rows, columns = changed.nonzero().unbind(1)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (10, 30, 16, 48)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("colorize {in}/paint {in}/wide.png", "a hfssl_context_encoder model: it cannot colorize"),
        ("colorize {in}/no {in}/wide.png", "no model directory '{in}/no'"),
        ("colorize {in}/color {in}/no.png", "no such file: '{in}/no.png'"),
        ("colorize {in}/color {in}", "is a folder: give image files, such as {in}/*.png"),
        ("inpaint {in}/paint {in}", "is a folder: give image files, such as {in}/*.png"),
        ("inpaint {in}/paint {in}/point.png", "point.png: the image is too small for --mask center"),
        ("colorize {in}/color {in}/notes.txt", "notes.txt' is no image"),
        ("colorize {in}/color {in}/wide.png {in}/wide.png", "two of the files are called 'wide'"),
        ("colorize {in}/color {in}/wide.png --out {in}/notes.txt", "is a file; give a folder"),
        ("colorize {in}/color {in}/wide.png --out {in}", "would be overwritten by its result: give another --out"),
        ("colorize {in}/encoder {in}/wide.png", "holds an encoder without what paints: color_head"),
        ("inpaint {in}/color {in}/wide.png", "a hfssl_colorization model: it cannot inpaint"),
        (
            "inpaint {in}/paint {in}/wide.png --mask {in}/grey.png",
            "grey.png has 47 x 33 pixels and the image 64 x 40 (width x height)",
        ),
        ("inpaint {in}/paint {in}/wide.png --mask {in}/nothing.png", "the mask hides nothing"),
        (
            "inpaint {in}/paint {in}/wide.png {in}/tall.jpg --mask {in}/mask.png",
            "tall.jpg: the mask {in}/mask.png",
        ),
        ("colorize {in}/color {in}/wide.png {in}/damaged.png", "damaged.png"),
        ("inpaint {in}/paint {in}/wide.png --mask {in}/nomask.png", "no such file"),
        ("inpaint {in}/paint {in}/wide.png --mask middle", "(center hides half of each side, in the middle)"),
    ],
)
def test_bad_input(folder, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments.replace("{in}", str(folder)).split())
    assert done.exit_code == 2 and says.replace("{in}", str(folder)) in done.stderr, done.output
    assert not list(tmp_path.rglob("*.png"))
