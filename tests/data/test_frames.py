"""Pairs of frames: which frames, how far apart, in what order, and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from hfssl.data.augmentation import Augmentation
from hfssl.data.builtin import builtin_frames, drift_paths
from hfssl.data.frames import FrameArguments, FrameDataset, FramePairCollator, load_frames, natural_key
from hfssl.data.images import ImageDataset
from hfssl.data.sampling import OrderedBatches, OrderedDataLoader, single_threaded_worker
from hfssl.errors import InputError


class Plain(Augmentation):
    """Leaves the pixels as they are."""

    def __init__(self):
        super().__init__(8, (0.0,) * 3, (1.0,) * 3, augmentations=["flip"])
        self.draws, self._operations = 0, []


def clips(lengths, max_gap):
    """Frame t of clip c is of colour (c, t, 0)."""
    frames = [torch.tensor([c, t, 0], dtype=torch.uint8) for c, length in enumerate(lengths) for t in range(length)]
    frames = torch.stack(frames)[:, :, None, None].expand(-1, 3, 8, 8).contiguous()
    return FrameDataset(ImageDataset(frames), lengths, max_gap)


def colours(batch):
    """(B, 2, 3): the colours of both frames of each pair."""
    return (batch["pixel_values"][..., 0, 0] * 255).round().long()


def write(folder, names, size=(8, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (i, 0, 0)).save(folder / name)


def test_a_pair_is_of_one_clip_and_a_gap_apart_and_every_pair_occurs():
    dataset = clips([5, 4, 9], max_gap=3)
    assert len(dataset) == 2 + 1 + 6
    collate = FramePairCollator(dataset, Plain(), min_gap=2, max_gap=3)
    seen = set()
    for epoch in range(12):
        items = [dataset[i] | {"epoch": epoch} for i in range(len(dataset))]
        x, y = colours(collate(items)).unbind(1)
        assert torch.equal(x[:, 0], y[:, 0])  # the clip
        gaps = (y - x)[:, 1]
        assert torch.equal(gaps, torch.from_numpy(collate.gaps(np.arange(9), np.full(9, epoch))))
        seen |= {(int(clip), int(frame), int(gap)) for (clip, frame, _), gap in zip(x, gaps, strict=True)}
    assert seen == {(c, t, gap) for c, length in enumerate([5, 4, 9]) for t in range(length - 3) for gap in (2, 3)}


def test_all_gaps_are_equally_likely():
    collate = FramePairCollator(clips([9], 5), Plain(), seed=3, min_gap=2, max_gap=5)
    counts = np.bincount(collate.gaps(np.arange(8000), np.zeros(8000, int)), minlength=6)
    assert counts[:2].sum() == 0 and np.abs(counts[2:] / 2000 - 1).max() < 0.1
    one = FramePairCollator(clips([9], 5), Plain(), min_gap=4, max_gap=4)
    assert (one.gaps(np.arange(99), np.zeros(99, int)) == 4).all()


def test_a_pair_follows_from_seed_epoch_and_sample_alone():
    dataset = clips([20, 20], 6)

    def epoch(workers, seed=0, number=1):
        views = Augmentation(8, augmentations=["crop", "flip"])
        loader = OrderedDataLoader(
            dataset,
            OrderedBatches(len(dataset), 7, seed=1),
            collate_fn=FramePairCollator(dataset, views, seed, 1, 6),
            num_workers=workers,
            worker_init_fn=single_threaded_worker,
        )
        loader.set_epoch(number)
        return torch.cat([batch["pixel_values"] for batch in loader])

    assert torch.equal(epoch(0), epoch(2))
    assert not torch.equal(epoch(0), epoch(0, seed=1)) and not torch.equal(epoch(0), epoch(0, number=2))
    collate = FramePairCollator(dataset, Augmentation(8, augmentations=["crop"]), 0, 1, 6)
    few, more = (collate([dataset[i] for i in indices])["pixel_values"] for indices in ([5, 9], [1, 9, 3, 5]))
    assert torch.equal(few, more[[3, 1]])


def test_the_two_frames_have_draws_of_their_own():
    frames = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(4, 3, 8, 8)
    dataset = FrameDataset(ImageDataset(frames), [4], 1)
    batch = FramePairCollator(dataset, Augmentation(8, augmentations=["crop"]))([dataset[0]])["pixel_values"]
    assert not torch.allclose(batch[:, 0], batch[:, 1])


def test_folders_of_frames_in_natural_order(tmp_path):
    for clip in ("clip 10", "clip 9", "deep/clip 1"):
        write(tmp_path / clip, [f"frame{i}.png" for i in range(12)])
    write(tmp_path / ".hidden", ["a.png"])
    dataset = load_frames(str(tmp_path), max_gap=10)
    assert len(dataset) == 6 and dataset.source == str(tmp_path)
    order = [int(dataset.frames[i]["image"][0, 0, 0]) for i in range(36)]
    assert order == list(range(12)) * 3  # not 0, 1, 10, 11, 2
    assert sorted(["b10", "a", "b9", "10", "9"], key=natural_key) == ["9", "10", "a", "b9", "b10"]
    assert len(load_frames(str(tmp_path / "clip 9"), max_gap=4)) == 8  # a folder of frames is one clip
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3]["image"], dataset[3]["image"])


def test_frames_of_various_sizes_come_to_one(tmp_path):
    write(tmp_path / "a", ["0.png", "1.png"], (20, 12))
    write(tmp_path / "b", ["0.png", "1.png"], (9, 30))
    dataset = load_frames(str(tmp_path))
    for names in (["crop"], ["flip"]):
        batch = FramePairCollator(dataset, Augmentation(8, augmentations=names))([dataset[0], dataset[1]])
        assert batch["pixel_values"].shape == (2, 2, 3, 8, 8)


def test_other_clips_or_gaps_have_another_fingerprint():
    prints = {clips(lengths, gap).fingerprint for lengths, gap in (([5, 5], 2), ([4, 6], 2), ([5, 5], 3))}
    assert len(prints) == 3 and clips([5, 5], 2).fingerprint in prints
    settings = [FramePairCollator(clips([9], 5), Plain(), 0, low, 5).identity for low in (1, 2)]
    assert settings[0] != settings[1]


def test_the_builtin_window_drifts():
    frames, lengths = builtin_frames()
    assert frames.shape == (1500, 3, 32, 32) and frames.dtype == np.uint8 and lengths == [25] * 60
    again, _ = builtin_frames()
    assert np.array_equal(frames, again)
    paths = drift_paths()
    assert paths.shape == (60, 25, 2) and paths.min() >= 0
    assert paths[..., 0].max() <= 427 - 32 and paths[..., 1].max() <= 640 - 32
    moves = np.diff(paths, axis=1)  # (60, 24, 2)
    assert (np.linalg.norm(moves, axis=2) < 6 + 2).all() and (np.abs(moves).max(axis=(1, 2)) > 0).all()
    for clip in range(0, 60, 7):  # a frame is the one before, moved
        (down, right), before, after = moves[clip, 3], frames[25 * clip + 3], frames[25 * clip + 4]
        ys, xs = slice(max(0, down), 32 + min(0, down)), slice(max(0, right), 32 + min(0, right))
        to_y, to_x = slice(max(0, -down), 32 + min(0, -down)), slice(max(0, -right), 32 + min(0, -right))
        assert np.array_equal(before[:, ys, xs], after[:, to_y, to_x])
    assert len(load_frames("builtin:drift", max_gap=5)) == 60 * 20


def test_bad_input(tmp_path):
    write(tmp_path / "clips" / "long", [f"{i}.png" for i in range(9)])
    write(tmp_path / "clips" / "short", ["0.png", "1.png"])
    (tmp_path / "none").mkdir()
    write(tmp_path / "damaged", ["0.png", "1.png"])
    (tmp_path / "damaged" / "2.png").write_bytes(b"\x89PNG no more")
    for path, gap, words in (
        (
            "clips",
            2,
            "short has 2 frame(s), too few for a gap of 2 frames (1 of 2 clips are); give a smaller --max_gap",
        ),
        ("none", 1, "no clip in"),
        ("missing", 1, "no such file or folder"),
        ("clips/long/0.png", 1, "is no folder"),
        ("damaged", 1, "2.png"),
    ):
        with pytest.raises(InputError) as caught:
            load_frames(str(tmp_path / path), gap)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert "skip_corrupt" not in str(caught.value)  # a clip with a gap would be another clip
    for path, words in (
        ("builtin:photos", "it holds images"),
        ("builtin:drif", "did you mean 'drift'"),
        ("someone/clips", "is no folder"),
    ):
        with pytest.raises(InputError, match=words):
            load_frames(path)
    for gaps in ({"min_gap": 0}, {"min_gap": 3, "max_gap": 2}):
        with pytest.raises(InputError, match="min_gap <= max_gap"):
            FrameArguments(**gaps)
    assert FrameArguments(min_gap=4).max_gap == 4
