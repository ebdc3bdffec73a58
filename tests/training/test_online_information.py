"""The information between two views while SimCLR learns: the loss's own figure, under its ceiling, and undisturbing."""

import math

import pytest
import torch
import torch.nn.functional as F

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ResidentImages
from hfssl.errors import InputError
from hfssl.training import run
from hfssl.training.online_information import OnlineInformation, OnlineInformationArguments
from tests.evaluation.test_probes import squares
from tests.training.test_online_probe import losses, trainer_for

SETTINGS = {"information": True, "information_steps": 2, "information_images": 30}


def looking(out, images, settings=SETTINGS, **rest):
    trainer = trainer_for(out, images, online=None, **rest)
    callback = OnlineInformation(images, Augmentation(8), OnlineInformationArguments(**settings), seed=5)
    callback.attach(trainer)
    return trainer, callback


def looks(trainer):
    return [entry for entry in trainer.state.log_history if "information" in entry]


def test_the_training_goes_on_as_without_and_a_resumed_one_says_the_same(tmp_path):
    run(trainer_for(tmp_path / "without", squares(60, 0), online=None))
    whole, callback = looking(tmp_path / "with", squares(60, 0))
    run(whole)
    assert losses(tmp_path / "with") == losses(tmp_path / "without") and len(losses(tmp_path / "with")) == 6
    assert [entry["step"] for entry in looks(whole)] == [0, 2, 4, 6]
    assert all(entry["information_ceiling"] == math.log(30) for entry in looks(whole))
    assert all(entry["information"] <= math.log(30) for entry in looks(whole))
    assert (tmp_path / "with" / "information.png").read_bytes().startswith(b"\x89PNG")
    # the last look is ln N less the lecture's loss of the projections of two views of 30 images
    model, chosen = whole.model.eval(), callback._chosen
    assert len({*chosen.tolist()}) == 30
    images = squares(60, 0)
    items = [{"index": int(i), "image": images[int(i)]["image"]} for i in chosen]
    views = TwoViewCollator(Augmentation(8), seed=5)(items)["pixel_values"]  # (30, 2, 3, 8, 8)
    with torch.no_grad():
        z_1, z_2 = (F.normalize(model.embed(view)[1], dim=1) for view in views.unbind(1))
    loss = F.cross_entropy(z_1 @ z_2.T / model.config.logit_temperature, torch.arange(30))
    assert looks(whole)[-1]["information"] == pytest.approx(math.log(30) - float(loss), abs=1e-5)
    parts, _ = looking(tmp_path / "parts", ResidentImages(squares(60, 0)))
    parts.stop.received = 15  # as if a signal had come in the first step
    with pytest.raises(SystemExit):
        run(parts)
    resumed, _ = looking(tmp_path / "parts", ResidentImages(squares(60, 0)))
    run(resumed)
    assert looks(resumed) == looks(whole)


def test_a_model_in_training_stays_in_training_and_the_interval_is_a_share_of_the_work(tmp_path):
    trainer, callback = looking(tmp_path, squares(60, 0), SETTINGS | {"information_steps": 0})
    trainer.model.train()
    callback.scores()
    assert trainer.model.training
    assert callback.interval == math.ceil(2 * 30 / (3 * 2 * 8 * 0.02))


def test_too_few_images_sharded_weights_and_bad_flags(tmp_path):
    with pytest.raises(InputError, match="takes 30 training images, and there are 20: give a smaller"):
        looking(tmp_path, squares(20, 0))
    trainer, callback = looking(tmp_path, squares(60, 0))
    trainer.is_fsdp_enabled = True
    with pytest.raises(InputError, match="whole weights"):
        callback.attach(trainer)
    with pytest.raises(InputError, match="information_images must be at least 2"):
        OnlineInformationArguments(information_images=1)
