"""Images on the training device: the same training as with workers, and a resume to the bit."""

import json
import runpy

import pytest
import torch
from torch import nn

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import MultiCropCollator, TwoViewCollator
from hfssl.data.images import ImageDataset, ResidentImages
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.programs import recipe
from hfssl.training import PretrainingArguments, PretrainingTrainer, run


def pictures():
    random = torch.Generator().manual_seed(0)
    return ImageDataset(torch.randint(0, 256, (40, 3, 10, 10), dtype=torch.uint8, generator=random))


def simclr(out, resident, **settings):
    torch.manual_seed(0)
    channels = {"stem_width": 8, "channels": [8, 8, 8, 8]}
    config = SimCLRConfig(backbone="resnet10t", stem="cifar", backbone_kwargs=channels, image_size=8, projection_dim=8)
    dataset = ResidentImages(pictures()) if resident else pictures()
    defaults = {
        "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 1,
        "use_cpu": True, "disable_tqdm": True, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return PretrainingTrainer(
        model=SimCLRForPreTraining(config),
        args=PretrainingArguments(output_dir=str(out), **(defaults | settings)),
        train_dataset=dataset,
        data_collator=TwoViewCollator(Augmentation(8), seed=1, resident=getattr(dataset, "pixels", None)),
    )


def record(out):
    history = json.loads((out / "log_history.json").read_text())
    return [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


@pytest.mark.parametrize("channels_last", [False, True])
def test_resident_images_train_as_loaded_ones_do_and_resume_to_the_bit(tmp_path, channels_last):
    loaded = simclr(tmp_path / "loaded", resident=False, dataloader_num_workers=2, channels_last=channels_last)
    run(loaded)
    layouts = [w.is_contiguous(memory_format=torch.channels_last) for w in loaded.model.parameters() if w.ndim == 4]
    assert all(layouts) or not channels_last
    stopped = simclr(tmp_path / "resident", resident=True, channels_last=channels_last)
    stopped.stop.received = 15  # as if a signal had come in the first step
    with pytest.raises(SystemExit):
        run(stopped)
    resumed = simclr(tmp_path / "resident", resident=True, channels_last=channels_last)
    run(resumed)
    assert record(tmp_path / "resident") == record(tmp_path / "loaded") and len(record(tmp_path / "loaded")) == 4
    weights = loaded.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("method", ["simclr", "cpc"])
def test_the_recipe_with_resident_images_is_the_same_run(tmp_path, caplog, method):
    main = runpy.run_path(str(recipe(method)))["main"].__wrapped__
    flags = ["--config", f"recipes/smoke/{method}.yaml", "--max_steps", "2", "--save_strategy", "no"]
    flags += ["--output_dir", str(tmp_path), "--use_cpu", "true", "--per_device_train_batch_size", "8"]
    main([*flags, "--resident", "true", "--dataloader_num_workers", "2"])
    caplog.set_level("INFO")
    main(flags)
    assert "is finished already" in caplog.text


class Agreement(nn.Module):
    """Asks that the features of all views of an image agree, large and small: the contract of `MultiCropCollator`."""

    main_input_name = "pixel_values"

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.sizes = []

    def forward(self, pixel_values, local_pixel_values):
        features = []
        for views in (pixel_values, local_pixel_values):
            self.sizes.append(tuple(views.shape))
            features.append(self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
        features = torch.cat(features, 1)  # (B, large + small, 4)
        return {"loss": features.var(1).mean()}


def test_a_model_takes_large_and_small_views(tmp_path):
    model, dataset = Agreement(), ResidentImages(pictures())
    large, small = Augmentation(8), Augmentation(6, min_crop=0.05, max_crop=0.3)
    arguments = PretrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=5, use_cpu=True, disable_tqdm=True,
        save_strategy="no", learning_rate=1e-2, logging_steps=1,
    )  # fmt: skip
    collator = MultiCropCollator(large, small, small_views=4, resident=dataset.pixels)
    trainer = PretrainingTrainer(model, arguments, train_dataset=dataset, data_collator=collator)
    trainer.train()
    assert model.sizes == [(5, 2, 3, 8, 8), (5, 4, 3, 6, 6)] * 3
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]
