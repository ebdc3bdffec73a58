import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hfssl.data.augmentation import OPERATIONS, Augmentation, eval_view
from hfssl.data.collators import EvalCollator, MultiCropCollator, TwoViewCollator
from hfssl.data.images import ImageDataset, ResidentImages
from hfssl.data.masking import uniform
from hfssl.data.sampling import OrderedBatches, OrderedDataLoader, single_threaded_worker
from hfssl.errors import InputError


class Pictures(Dataset):
    def __init__(self, various=False, count=24):
        random = torch.Generator().manual_seed(0)
        shapes = [(3, 12 + i % 5, 16) if various else (3, 16, 16) for i in range(count)]
        self.images = [torch.randint(0, 256, shape, generator=random, dtype=torch.uint8) for shape in shapes]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 3, "index": index}


def collator(seed=0, **settings):
    return TwoViewCollator(Augmentation(16, **settings), seed=seed)


def test_two_different_views():
    batch = collator()([Pictures()[i] for i in range(6)])
    assert list(batch) == ["pixel_values"]
    views = batch["pixel_values"]
    assert views.shape == (6, 2, 3, 16, 16) and views.dtype == torch.float32
    assert not torch.allclose(views[:, 0], views[:, 1])


def test_a_view_follows_from_seed_epoch_and_sample_alone():
    pictures = Pictures()
    one = collator()([pictures[i] for i in (3, 7, 9)])["pixel_values"]
    other_batch = collator()([pictures[i] for i in (9, 1, 2, 3, 4, 7)])["pixel_values"]
    assert torch.equal(one, other_batch[[3, 5, 0]])
    later = collator()([pictures[i] | {"epoch": 1} for i in (3, 7, 9)])["pixel_values"]
    reseeded = collator(seed=1)([pictures[i] for i in (3, 7, 9)])["pixel_values"]
    for changed in (later, reseeded):
        assert not any(torch.allclose(a, b) for a, b in zip(one.flatten(0, 1), changed.flatten(0, 1), strict=True))


@pytest.mark.parametrize(("various", "size"), [(False, 16), (True, 16), (False, 70)])
def test_workers_do_not_change_the_views(various, size):
    augmentation = Augmentation(size, augmentations=list(OPERATIONS))

    def epoch(workers):
        batches = OrderedBatches(24, 5, seed=1)
        loader = OrderedDataLoader(
            Pictures(various),
            batches,
            collate_fn=TwoViewCollator(augmentation),
            num_workers=workers,
            worker_init_fn=single_threaded_worker,
        )
        loader.set_epoch(2)
        return [batch["pixel_values"] for batch in loader]

    alone, shared = epoch(0), epoch(4)
    assert len(alone) == len(shared) == 4
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_each_pass_shows_new_views_and_a_resume_the_same():
    def batches(epoch, skip=0):
        loader = OrderedDataLoader(Pictures(), OrderedBatches(24, 6, seed=None), collate_fn=collator())
        loader.set_epoch(epoch)
        return [batch["pixel_values"] for batch in loader.skip_batches(skip)]

    first, second, resumed = batches(0), batches(1), batches(1, skip=2)
    assert not torch.allclose(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(second[2:], resumed, strict=True))


def test_resident_images_give_the_views_of_loaded_ones():
    pictures = Pictures()
    dataset = ImageDataset(torch.stack(pictures.images), [i % 3 for i in range(24)])
    resident = ResidentImages(dataset)
    assert resident[3] == {"index": 3, "label": 0} and len(resident) == 24
    large, small = Augmentation(16, min_crop=0.3), Augmentation(8, min_crop=0.05, max_crop=0.3)
    for make, settings in ((TwoViewCollator, [large]), (MultiCropCollator, [large, small])):
        loaded, numbers = (
            OrderedDataLoader(data, OrderedBatches(24, 5, seed=1), collate_fn=collate)
            for data, collate in (
                (dataset, make(*settings, seed=3)),
                (resident, make(*settings, seed=3, resident=resident.pixels)),
            )
        )
        for expected, batch in zip(loaded, numbers, strict=True):
            assert set(batch) == {"index", "epoch"}
            made = numbers.collate_fn.on_device(batch)
            assert made.keys() == expected.keys()
            assert all(torch.equal(made[name], expected[name]) for name in made)
            assert loaded.collate_fn.on_device(expected) is expected
        assert loaded.collate_fn.identity == numbers.collate_fn.identity  # the same run


def test_what_cannot_be_resident(monkeypatch):
    with pytest.raises(InputError, match=r"differ in size .* leave out --resident"):
        ResidentImages(ImageDataset(Pictures(various=True).images))

    class TooMany:
        def to(self, device):
            raise torch.OutOfMemoryError

    monkeypatch.setattr(ImageDataset, "stack", lambda self: TooMany())
    with pytest.raises(InputError, match=r"^cuda:1 has no room for the 24 images of memory: leave out --resident$"):
        ResidentImages(ImageDataset(Pictures().images), "cuda:1")


def test_large_and_small_views():
    pictures, large = Pictures(), Augmentation(16, min_crop=0.3)
    small = Augmentation(8, min_crop=0.05, max_crop=0.3)
    items = [pictures[i] for i in range(6)]
    batch = MultiCropCollator(large, small, seed=5, large_views=2, small_views=3)(items)
    assert batch["pixel_values"].shape == (6, 2, 3, 16, 16) and batch["local_pixel_values"].shape == (6, 3, 3, 8, 8)
    assert torch.equal(batch["pixel_values"], TwoViewCollator(large, seed=5)(items)["pixel_values"])
    local = batch["local_pixel_values"].flatten(0, 1)
    assert len(torch.unique(local.flatten(1), dim=0)) == 18, "each view has draws of its own"
    identity = MultiCropCollator(large, small).identity
    assert identity["views"] == 2 and identity["small"]["views"] == 6 and identity["small"]["max_crop"] == 0.3


def test_views_of_different_kinds_that_begin_alike():
    pictures = Pictures()
    items = [pictures[i] for i in range(6)]
    plain = Augmentation(16, augmentations=["crop"])
    mirrored = Augmentation(16, augmentations=["crop", "flip"], flip_probability=1.0)
    views = TwoViewCollator([plain, mirrored], shared_draws=True)(items)["pixel_values"]
    torch.testing.assert_close(views[:, 1], views[:, 0].flip(-1), atol=1e-5, rtol=0)
    apart = TwoViewCollator([plain, mirrored])(items)["pixel_values"]
    assert torch.equal(apart[:, 0], views[:, 0]) and not torch.allclose(apart[:, 1], views[:, 1])
    assert TwoViewCollator([plain, mirrored]).identity["view 2"]["augmentations"] == ["crop", "flip"]


def test_the_draws_are_uniform_and_the_views_independent():
    draws = [uniform(0, np.zeros(4000, int), np.arange(4000), 3, 1000 + view) for view in range(2)]
    together = np.concatenate(draws, axis=1)  # (4000, 6)
    assert abs(together.mean() - 0.5) < 0.01 and abs(together.var() - 1 / 12) < 0.003
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.07


def test_evaluation():
    pictures = Pictures(various=True)
    collate = EvalCollator(16, (0.5,) * 3, (0.25,) * 3)
    batch = next(iter(DataLoader(pictures, batch_size=4, collate_fn=collate)))
    assert batch["labels"].tolist() == [0, 1, 2, 0]
    expected = eval_view(pictures.images[:4], 16, (0.5,) * 3, (0.25,) * 3)
    assert torch.equal(batch["pixel_values"], expected)
    assert "labels" not in collate([{"image": pictures.images[0], "index": 0}])
