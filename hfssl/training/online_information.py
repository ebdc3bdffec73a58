"""While SimCLR learns: how much the embeddings of two views are seen to say of each other, and the most one can see."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator, stack_images
from hfssl.errors import InputError
from hfssl.information import infonce
from hfssl.training.online_probe import default_interval

logger = logging.getLogger(__name__)

FIGURE = "information.png"


@dataclass
class OnlineInformationArguments:
    """Whether and how the information between views is looked at while an encoder learns."""

    information: bool = field(
        default=False,
        metadata={"help": "Log InfoNCE's estimate of the information between two views and its ceiling; draw both."},
    )
    information_steps: int = field(
        default=0, metadata={"help": "Every so many steps; by default as often as costs 2 % of the work."}
    )
    information_images: int = field(
        default=512, metadata={"help": "N, the training images whose views are told apart; the ceiling is ln N."}
    )

    def __post_init__(self):
        if self.information_steps < 0 or self.information_images < 2:
            raise InputError("information_images must be at least 2 and information_steps 0")


class OnlineInformation(TrainerCallback):
    """Before the first step and every `interval` steps: "information" and "information_ceiling", nats, in log_history.

    The critic is the loss's own, the cosine of the projections over the temperature, on two views of each of N images,
    the same all the time. So "information" is ln N less the CPC loss with N candidates: a lower bound of I(z_1; z_2) of
    the projections, therefore also of the embeddings they are functions of, in evaluation mode. It is never above ln N,
    so near this ceiling it says nothing of how much more there is; only more images do. At the end of the training
    both are drawn, `FIGURE` in the output folder. Nothing random is drawn and nothing of the model is touched.

    Args:
        images: the training images.
        views: makes a view of an image.
        args: how often, and on how many images.
        seed: of the choice of images and of their views.

    Raises:
        InputError: there are too few images.
    """

    def __init__(self, images, views: Augmentation, args: OnlineInformationArguments, seed: int = 0):
        count = args.information_images
        if count > len(images):
            raise InputError(
                f"--information takes {count:,} training images, and there are {len(images):,}: give a smaller "
                "--information_images"
            )
        self._images, self.interval = images, args.information_steps
        self._chosen = np.random.default_rng((seed, 3)).choice(len(images), count, replace=False)
        self._collator = TwoViewCollator(views, seed=seed)
        self._trainer = None

    def attach(self, trainer) -> None:
        """Looks at a trainer's SimCLR model from now on.

        Raises:
            InputError: the weights are sharded.
        """
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError("--information needs whole weights in each process: leave it out with FSDP and DeepSpeed")
        self._trainer = trainer
        self.interval = self.interval or default_interval(2 * len(self._chosen), trainer.args)
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._look(state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.interval == 0:
            self._look(state, control)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            information_curve(state.log_history).savefig(Path(args.output_dir) / FIGURE, dpi=130)

    def _look(self, state, control) -> None:
        ceiling = math.log(len(self._chosen))
        found = {"information": float(infonce(self.scores())), "information_ceiling": ceiling}
        due = control.should_log
        self._trainer.log(found)
        control.should_log = due  # a line in the log counts as the one of the step
        logger.info(
            "step %d: two views of training images are seen to share %.3g nats; at most ln %d = %.3g can be seen",
            state.global_step, found["information"], len(self._chosen), ceiling,
        )  # fmt: skip

    @torch.no_grad()
    def scores(self) -> torch.Tensor:
        """(N, N), the loss's scores of the first view of each image with the second view of each."""
        model, trainer = self._trainer.model, self._trainer
        training = model.training
        model.eval()
        parts = []
        for rows in np.array_split(self._chosen, math.ceil(len(self._chosen) / trainer.args.train_batch_size)):
            views = self._views(rows).to(trainer.args.device)  # (B, 2, 3, S, S)
            with trainer.accelerator.autocast():
                projections = model.embed(views.flatten(0, 1))[1]  # (2B, P)
            parts.append(F.normalize(projections.float(), dim=-1).unflatten(0, views.shape[:2]))
        model.train(training)
        z_1, z_2 = torch.cat(parts).unbind(1)  # (N, P) each
        return z_1 @ z_2.T / model.config.logit_temperature

    def _views(self, rows: np.ndarray) -> torch.Tensor:
        resident = getattr(self._images, "pixels", None)  # of ResidentImages, whose items have no image
        chosen = rows.tolist()
        images = resident[chosen] if resident is not None else stack_images([self._images[i]["image"] for i in chosen])
        return self._collator.views(images, rows, np.zeros_like(rows))["pixel_values"]


def information_curve(history) -> object:
    """A matplotlib figure of a log_history: the estimate at each look, and its ceiling."""
    from matplotlib.figure import Figure

    looks = [entry for entry in history if "information" in entry]
    steps = [entry["step"] for entry in looks]
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, [entry["information"] for entry in looks], marker="o", markersize=3, label="InfoNCE, at least")
    axes.plot(steps, [entry["information_ceiling"] for entry in looks], "--", color="#8b949e", label="ceiling, ln N")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("information between two views, nats", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    return figure
