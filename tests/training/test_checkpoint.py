import errno
import json
import logging
import os
import shutil
from types import SimpleNamespace

import pytest

from hfssl.errors import InputError
from hfssl.training import checkpoint as module
from hfssl.training.checkpoint import (
    LAST,
    MANIFEST,
    checkpoints,
    fault,
    missing_state,
    newest,
    publish,
    resumable,
    rotate,
    why_not_written,
)


def stage(folder, step, files=None):
    staging = folder / f".checkpoint-{step}"
    (staging / "sub").mkdir(parents=True)
    for name, content in (files or {"model.safetensors": b"weights" * 50, "sub/rng.pth": b"state"}).items():
        (staging / name).write_bytes(content)
    return staging


@pytest.fixture
def three(tmp_path):
    for step in (5, 10, 100):
        publish(stage(tmp_path, step), tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_published_is_whole_and_verifies(three):
    assert [path.name for path in checkpoints(three)] == ["checkpoint-5", "checkpoint-10", "checkpoint-100"]
    assert not list(three.glob(".checkpoint-*"))
    assert all(fault(path) is None for path in checkpoints(three))
    files = json.loads((three / "checkpoint-5" / MANIFEST).read_text())["files"]
    assert set(files) == {"model.safetensors", "sub/rng.pth"}


def damage_truncated(path):
    (path / "model.safetensors").write_bytes(b"weights")


def damage_flipped(path):
    (path / "model.safetensors").write_bytes(b"Weights" + b"weights" * 49)


def damage_missing(path):
    (path / "sub" / "rng.pth").unlink()


def damage_no_manifest(path):
    (path / MANIFEST).unlink()


def damage_manifest(path):
    (path / MANIFEST).write_text('{"files": {"mod')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncated, "has 7 bytes, not 350"),
        (damage_flipped, "does not match its hash"),
        (damage_missing, "sub/rng.pth is missing"),
        (damage_no_manifest, "no checkpoint.json"),
        (damage_manifest, "checkpoint.json is damaged"),
    ],
)
def test_a_damaged_one_is_moved_aside_and_the_one_before_is_used(three, damage, reason, caplog):
    damage(three / "checkpoint-100")
    with caplog.at_level(logging.WARNING):
        assert newest(three) == three / "checkpoint-10"
    assert reason in caplog.text
    assert (three / "damaged-checkpoint-100").is_dir()
    assert newest(three) == three / "checkpoint-10"


def test_none_left(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None


def test_a_step_saved_again_replaces_the_first(three):
    publish(stage(three, 10, {"model.safetensors": b"new"}), three / "checkpoint-10")
    assert (three / "checkpoint-10" / "model.safetensors").read_bytes() == b"new"
    assert fault(three / "checkpoint-10") is None


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (1, None, [100]),
        (2, None, [10, 100]),
        (1, 5, [5, 100]),
        (2, 5, [5, 100]),
        (None, None, [5, 10, 100]),
        (0, None, [5, 10, 100]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(three, limit, keep, left):
    rotate(three, limit, three / f"checkpoint-{keep}" if keep else None)
    assert [module.step_of(path) for path in checkpoints(three)] == left


@pytest.mark.parametrize("call", range(6))
def test_a_publish_that_fails_anywhere_leaves_the_old_one(three, monkeypatch, call):
    """The disk is full at the n-th flush: the checkpoint that was there still verifies, the new one is not there."""
    staging, count = stage(three, 200), 0
    before = len(list(staging.rglob("*"))) + 2  # files and folders in it, the manifest, the folder itself

    def flush(path):
        nonlocal count
        if count == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        count += 1

    monkeypatch.setattr(module, "_flush", flush)
    try:
        publish(staging, three / "checkpoint-200")
    except OSError:
        # Up to the rename the new one must not be seen; the flush of the parent folder comes after it.
        assert newest(three).name == ("checkpoint-100" if call < before else "checkpoint-200")
    else:
        assert call > before and newest(three).name == "checkpoint-200"
    assert fault(newest(three)) is None


def test_a_part_of_the_state_is_missing_if_one_of_its_files_is(tmp_path):
    """Of two processes each has a random state; a model sharded by FSDP is no optimizer."""
    final = tmp_path / "checkpoint-1"
    (final / "optimizer_0").mkdir(parents=True)
    names = ["scheduler.pt", "rng_state_0.pth", "rng_state_1.pth", "optimizer_0/part.distcp", "pytorch_model_fsdp.bin"]
    for name in names:
        (final / name).write_text(name)
    final.rename(tmp_path / "staging")
    publish(tmp_path / "staging", final)
    assert missing_state(final) == [] and fault(final) is None
    (final / "rng_state_1.pth").unlink()
    assert missing_state(final) == ["random state"] and fault(final) is None
    (final / "optimizer_0" / "part.distcp").unlink()
    assert missing_state(final) == ["optimizer", "random state"]
    (final / "pytorch_model_fsdp.bin").unlink()
    assert fault(final) == "pytorch_model_fsdp.bin is missing"


def test_a_step_saved_again_is_there_at_any_moment(tmp_path, monkeypatch):
    """Killed before the last rename: the first checkpoint lies aside, whole; the next save or resume needs no more."""
    for text in ("first", "second"):
        (tmp_path / "staging").mkdir()
        (tmp_path / "staging" / "model").write_text(text)
        if text == "second":
            monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("killed")))
            with pytest.raises(OSError, match="killed"):
                publish(tmp_path / "staging", tmp_path / "checkpoint-1")
        else:
            publish(tmp_path / "staging", tmp_path / "checkpoint-1")
    assert newest(tmp_path).joinpath("model").read_text() == "first"


@pytest.mark.parametrize(("free", "said"), [(0, "No space left on device (0 MiB free): pos 3"), (2**40, "pos 3")])
def test_why_a_file_was_not_written(tmp_path, monkeypatch, free, said):
    """torch writes from C++ and says nothing of the disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert why_not_written(RuntimeError("pos 3"), tmp_path) == said
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("safetensors") from error
    except RuntimeError as error:
        assert why_not_written(error, tmp_path) == "No space left on device"


def test_the_hub_s_last_checkpoint_gets_its_name_and_is_resumed_from(three):
    state = {"trainer_state.json": b'{"global_step": 101}', "optimizer.pt": b"o", "scheduler.pt": b"s"}
    publish(stage(three, 101, state | {"rng_state.pth": b"r"}), three / LAST)
    assert resumable(three) == three / "checkpoint-101"
    assert not (three / LAST).exists()


def test_a_last_checkpoint_that_tells_no_step_is_no_start_anew(tmp_path):
    publish(stage(tmp_path, 7), tmp_path / LAST)
    with pytest.raises(InputError, match=r"last-checkpoint is damaged .*; download it again or delete it"):
        resumable(tmp_path)
    assert (tmp_path / LAST).exists()
