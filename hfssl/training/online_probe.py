"""While an encoder learns: kNN on a few labelled images, and an alarm when its features collapse."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import TrainerCallback

from hfssl.data.augmentation import eval_view
from hfssl.data.collators import stack_images
from hfssl.errors import InputError
from hfssl.evaluation.encoders import as_encoder
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.geometry import feature_std, rankme
from hfssl.evaluation.knn import knn_predict

logger = logging.getLogger(__name__)

SHARE = 0.02  # of the work of the steps, for the interval
MOST = 0.03  # of the time, measured; more is warned of once
NEIGHBOURS = 20
RANK_IMAGES = 512  # that RankMe is taken of
LOW_STD, LOW_RANK = 0.1, 0.25  # of the largest so far: less is a collapse
NO_STD = 1e-3  # so is less than this


@dataclass
class OnlineArguments:
    """What is looked at while an encoder learns."""

    online_knn: bool = field(
        default=False,
        metadata={"help": "Log kNN accuracy, feature deviation and RankMe now and then; warn of collapse."},
    )
    online_knn_steps: int = field(
        default=0, metadata={"help": "Every so many steps; by default as often as costs 2 % of the work."}
    )
    online_knn_bank: int = field(default=1000, metadata={"help": "Training images among which neighbours are sought."})
    online_knn_queries: int = field(default=500, metadata={"help": "Other training images that are classified."})

    def __post_init__(self):
        if self.online_knn_steps < 0 or self.online_knn_bank < 1 or self.online_knn_queries < 2:
            raise InputError("online_knn_bank must be at least 1, online_knn_queries 2 and online_knn_steps 0")


class OnlineProbe(TrainerCallback):
    """Before the first step and every `interval` steps: kNN accuracy, feature deviation and RankMe, in log_history.

    The images are some of the training set, the same all the time, without augmentation. Nothing random is drawn and
    nothing of the model is touched, so the training goes on as without. What was seen before is read from log_history,
    so a resumed run says the same as one that was not interrupted.

    The interval follows from the settings alone: encoding M images takes M forward passes, a step with V views of B
    images 3 V B (a backward pass is two), so every M / (3 V B * 0.02) steps are 2 % of the work. "online_share" is the
    share that was measured over the steps since the time before.

    Args:
        images: the training images; without labels there is no kNN.
        args: how often, and on how many images.
        seed: of the choice of images.

    Raises:
        InputError: there are too few images.
    """

    def __init__(self, images, args: OnlineArguments, seed: int = 0):
        count = args.online_knn_bank + args.online_knn_queries
        if count > len(images):
            raise InputError(
                f"--online_knn takes {count:,} training images, and there are {len(images):,}: give a smaller "
                "--online_knn_bank"
            )
        self._images, self._bank, self.interval = images, args.online_knn_bank, args.online_knn_steps
        self._chosen = np.random.default_rng((seed, 2)).choice(len(images), count, replace=False)
        labelled = images.labels is not None and images.labels.min() >= 0  # -1 says on the Hub that there is none
        self._labels = torch.from_numpy(images.labels[self._chosen]) if labelled else None
        self._trainer = self._encoder = self._pixels = None
        self._since = 0.0

    def attach(self, trainer, views: int = 2) -> None:
        """Looks at a trainer's model from now on; it makes so many views of each image in a step.

        Raises:
            InputError: the weights are sharded.
        """
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError("--online_knn needs whole weights in each process: leave it out with FSDP and DeepSpeed")
        self._trainer, self._encoder = trainer, as_encoder(trainer.model)
        self._pixels = _prepared(self._images, self._chosen, self._encoder)
        self._encoder.crop_ratio = 1.0
        self.interval = self.interval or default_interval(len(self._chosen), trainer.args, views)
        if self._labels is None:
            logger.info("The training images have no labels: --online_knn looks for collapse alone")
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        self._since = time.perf_counter()
        if state.global_step == 0:
            self._look(state, control, first=True)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.interval == 0:
            self._look(state, control)

    def _look(self, state, control, first: bool = False) -> None:
        began = time.perf_counter()
        with self._trainer.accelerator.autocast():
            features = extract_features(self._encoder, self._pixels, batch_size=2 * self._trainer.args.train_batch_size)
        found = {"online_feature_std": feature_std(features), "online_rankme": rankme(features[:RANK_IMAGES])}
        if self._labels is not None:
            bank, k = self._bank, min(NEIGHBOURS, self._bank)
            guesses = knn_predict(features[bank:], features[:bank], self._labels[:bank], int(self._labels.max()) + 1, k)
            found["online_knn"] = float((guesses == self._labels[bank:]).double().mean())
        found["online_collapsed"] = self._collapsed(state, found)
        now = time.perf_counter()
        if not first:
            found["online_share"] = round((now - began) / (now - self._since), 4)
            self._warn_if_slow(state, found["online_share"])
        self._since = now
        due = control.should_log
        self._trainer.log(found)
        control.should_log = due  # a line in the log counts as the one of the step
        accuracy = f"kNN {100 * found['online_knn']:.1f} %, " if "online_knn" in found else ""
        logger.info(
            "step %d: %sfeature deviation %.3g, RankMe %.3g",
            state.global_step, accuracy, found["online_feature_std"], found["online_rankme"],
        )  # fmt: skip

    def _warn_if_slow(self, state, share: float) -> None:
        if share > MOST and all(entry.get("online_share", 0) <= MOST for entry in state.log_history):
            logger.warning(
                "--online_knn took %.0f %% of the time since it last looked; a larger --online_knn_steps than %d helps",
                100 * share, self.interval,
            )  # fmt: skip

    def _collapsed(self, state, found: dict[str, float]) -> bool:
        """Whether the features are much narrower than they were; says so the first time."""
        earlier = [entry for entry in state.log_history if "online_rankme" in entry]
        most = {key: max(entry[key] for entry in [*earlier, found]) for key in ("online_feature_std", "online_rankme")}
        std, rank = found["online_feature_std"], found["online_rankme"]
        collapsed = std < max(NO_STD, LOW_STD * most["online_feature_std"]) or rank < LOW_RANK * most["online_rankme"]
        if collapsed and not any(entry["online_collapsed"] for entry in earlier):
            logger.warning(
                "Step %d: the features collapse: their deviation is %.3g and was up to %.3g (1 is even, 0 one point), "
                "their RankMe %.3g and was up to %.3g; a lower --learning_rate or a longer warm-up may help",
                state.global_step, std, most["online_feature_std"], rank, most["online_rankme"],
            )  # fmt: skip
        return collapsed


def default_interval(images: int, args, views: int = 2) -> int:
    """Steps between two looks at so many images, for `SHARE` of the work; `args` are `PretrainingArguments`."""
    step = 3 * views * args.train_batch_size * args.gradient_accumulation_steps
    return max(1, math.ceil(images / args.world_size / (step * SHARE)))


def _prepared(images, chosen: np.ndarray, encoder) -> torch.Tensor:
    """The chosen images as the encoder sees them, but uint8: (M, 3, S, S)."""
    resident = getattr(images, "pixels", None)  # of ResidentImages, whose items have no image
    parts = []
    for first in range(0, len(chosen), 256):
        rows = [int(i) for i in chosen[first : first + 256]]
        batch = resident[rows].cpu() if resident is not None else stack_images([images[i]["image"] for i in rows])
        view = eval_view(batch, encoder.image_size, (0.0,) * 3, (1.0,) * 3, encoder.crop_ratio)
        parts.append((255 * view).round().byte())
    return torch.cat(parts)
