"""What is looked at while an encoder learns: the right figures, a training that does not notice, an alarm."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hfssl.data.augmentation import Augmentation, eval_view
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ResidentImages
from hfssl.errors import InputError
from hfssl.evaluation.geometry import feature_std, rankme
from hfssl.evaluation.knn import knn_predict
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.online_probe import OnlineArguments, OnlineProbe, default_interval
from tests.evaluation.test_probes import squares

SETTINGS = {"online_knn": True, "online_knn_steps": 2, "online_knn_bank": 30, "online_knn_queries": 12}


def trainer_for(out, images, online=SETTINGS, **settings):
    torch.manual_seed(0)
    knn = OnlineProbe(images, OnlineArguments(**online), seed=5) if online else None
    channels = {"stem_width": 8, "channels": [8, 8, 8, 8]}
    config = SimCLRConfig(backbone="resnet10t", stem="cifar", backbone_kwargs=channels, image_size=8, projection_dim=8)
    defaults = {
        "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_steps": 3, "logging_steps": 1,
        "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    trainer = PretrainingTrainer(
        model=SimCLRForPreTraining(config),
        args=PretrainingArguments(output_dir=str(out), **(defaults | settings)),
        train_dataset=images,
        data_collator=TwoViewCollator(Augmentation(8), seed=1, resident=getattr(images, "pixels", None)),
    )
    if knn:
        knn.attach(trainer)
    return trainer


def looks(out):
    """The lines of log_history but for the times they took."""
    history = json.loads((out / "log_history.json").read_text())
    found = [entry for entry in history if "online_rankme" in entry]
    assert all("online_share" in entry for entry in found[1:])
    return [{key: value for key, value in entry.items() if key != "online_share"} for entry in found]


def losses(out):
    history = json.loads((out / "log_history.json").read_text())
    return [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


def test_the_training_goes_on_as_without_and_a_resumed_one_says_the_same(tmp_path):
    run(trainer_for(tmp_path / "without", squares(60, 0), online=None))
    run(trainer_for(tmp_path / "with", squares(60, 0)))
    assert losses(tmp_path / "with") == losses(tmp_path / "without") and len(losses(tmp_path / "with")) == 6
    stopped = trainer_for(tmp_path / "parts", ResidentImages(squares(60, 0)))
    stopped.stop.received = 15  # as if a signal had come in the first step
    with pytest.raises(SystemExit):
        run(stopped)
    run(trainer_for(tmp_path / "parts", ResidentImages(squares(60, 0))))
    assert looks(tmp_path / "parts") == looks(tmp_path / "with")
    assert [entry["step"] for entry in looks(tmp_path / "with")] == [0, 2, 4, 6]


def test_the_figures_are_those_of_the_model_on_the_chosen_images(tmp_path):
    images = squares(60, 0)
    trainer = trainer_for(tmp_path, images)
    run(trainer)
    chosen = np.random.default_rng((5, 2)).choice(60, 42, replace=False)
    config = trainer.model.config
    pixels = eval_view(images.stack()[chosen], 8, config.image_mean, config.image_std, config.eval_crop_ratio)
    with torch.no_grad():
        features = trainer.model.eval().simclr(pixels).pooler_output
    labels = torch.from_numpy(images.labels[chosen])
    last = looks(tmp_path)[-1]
    assert last["online_feature_std"] == pytest.approx(feature_std(features), rel=1e-4)
    assert last["online_rankme"] == pytest.approx(rankme(features), rel=1e-4)
    guesses = knn_predict(features[30:], features[:30], labels[:30], 3, 20)
    assert last["online_knn"] == pytest.approx((guesses == labels[30:]).double().mean().item())


class Flatten(TrainerCallback):
    """From a step on all images have the same features."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step >= self.step:
            for block in model.simclr.timm_model.layer4:
                torch.nn.init.zeros_(block.bn2.weight)
                torch.nn.init.zeros_(block.downsample[2].weight)


def test_a_collapse_is_said_once(tmp_path, caplog):
    trainer = trainer_for(tmp_path, squares(60, 0, labels=None))
    trainer.callback_handler.callbacks.insert(0, Flatten(4))
    with caplog.at_level("WARNING", "hfssl"):
        run(trainer)
    assert [entry["online_collapsed"] for entry in looks(tmp_path)] == [False, False, True, True]
    said = [record.message for record in caplog.records if "the features collapse" in record.message]
    assert len(said) == 1 and said[0].startswith("Step 4: ")
    assert not any("online_knn" in entry for entry in looks(tmp_path))  # without labels


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "views"), [(256, 1, 1, 2), (8, 4, 2, 2), (4096, 1, 1, 2)]
)
def test_the_interval_keeps_the_share_of_the_work(batch, accumulation, processes, views):
    args = SimpleNamespace(train_batch_size=batch, gradient_accumulation_steps=accumulation, world_size=processes)
    interval = default_interval(1500, args, views)
    passes = 3 * views * batch * accumulation  # of a step: forward and twice as much backward
    assert 1500 / processes / (interval * passes) <= 0.02
    assert interval == 1 or 1500 / processes / ((interval - 1) * passes) > 0.02


def test_images_marked_as_unlabelled_have_no_knn(tmp_path):
    labels = np.full(60, -1)
    run(trainer_for(tmp_path, squares(60, 0, labels=labels, class_names=None)))
    assert looks(tmp_path) and not any("online_knn" in entry for entry in looks(tmp_path))


def test_a_look_that_takes_too_long_is_warned_of_once(tmp_path, caplog):
    with caplog.at_level("WARNING", "hfssl"):
        run(trainer_for(tmp_path, squares(60, 0)))  # each step of a tiny net
    history = json.loads((tmp_path / "log_history.json").read_text())
    shares = [entry["online_share"] for entry in history if "online_share" in entry]
    said = [message for message in caplog.messages if "of the time since it last looked" in message]
    assert max(shares) > 0.03 and len(said) == 1 and "--online_knn_steps" in said[0]


def test_too_few_images_and_bad_flags(tmp_path):
    with pytest.raises(InputError, match="takes 42 training images, and there are 40"):
        trainer_for(tmp_path, squares(40, 0))
    with pytest.raises(InputError, match="at least 1"):
        OnlineArguments(online_knn_bank=0)
