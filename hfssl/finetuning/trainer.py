"""The one loop of fine-tuning: transformers' Trainer on batches of equal length, with the loss of the task's kind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback

from hfssl.evaluation.tasks import Task
from hfssl.finetuning.batches import STATIC_WIDTHS, TaskCollator, TaskLoader, sorted_rows
from hfssl.finetuning.encoding import Encoded
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.progress import Progress

CPU_TOKENS, GPU_TOKENS = 4096, 32768  # of a batch in evaluation, padding included


class TaskTrainer(Trainer):
    """Fine-tunes one model on one task.

    The loss of an update is the mean over its items, in however many parts they come: stock heads are wrong there
    (transformers issue 47688), so their logits alone are used.

    Args:
        batches: the loader of the training data.
        frozen: the encoder does not learn; it then runs without dropout.
        label: of the progress that is shown; without one none is.
        at_epoch_end: called with the epoch's number from 1 on, outside of the clock that `train_seconds` reads.
        strategy: whose hooks are called: its loss in each pass, its step after each update.
        task: what the strategy is bound to.

    Attributes:
        real_tokens, processed_tokens: seen in training, without and with padding.
        train_seconds: of training alone.
        losses: the mean loss of each epoch.
        diverged: the update after which the loss was found not to be finite, or None; training ends there.
    """

    def __init__(
        self, model, args: TrainingArguments, batches: TaskLoader, frozen: bool = False,
        at_epoch_end: Callable[[int], None] | None = None, label: str = "", strategy: Strategy | None = None,
        task: Task | None = None,
    ):  # fmt: skip
        if args.torch_compile:  # one graph for each of the few widths, none for widths in general
            torch._dynamo.config.automatic_dynamic_shapes = False
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(STATIC_WIDTHS))
        super().__init__(model=model, args=args)
        self.loss_is_scaled_for_ga = True
        self._batches, self._frozen = batches, frozen
        self.strategy, self.task = strategy or Strategy(), task
        for callback in list(self.callback_handler.callbacks):  # no printer, no bar of its own
            if not isinstance(callback, DefaultFlowCallback):
                self.remove_callback(callback)
        self.add_callback(_EpochEnd(self, at_epoch_end))
        self.add_callback(_Updates(self, label))
        self.real_tokens = self.processed_tokens = 0
        self.train_seconds = 0.0
        self.losses: list[float] = []
        self.diverged: int | None = None
        self._sum, self._summed = torch.zeros((), device=args.device), 0  # of the epoch's losses, on the device

    def get_train_dataloader(self) -> TaskLoader:
        return self._batches

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        return torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        self.processed_tokens += inputs["input_ids"].numel()
        self.real_tokens += inputs["attention_mask"].sum()  # stays on the device: nothing waits for it
        loss = sum(super(TaskTrainer, self).training_step(model, inputs, num_items_in_batch)
                   for _ in range(self.strategy.passes))  # fmt: skip
        self._sum += loss
        return loss

    def end_epoch(self) -> None:
        """Reads the epoch's mean loss; one that is not finite ends the training."""
        self.losses.append(float(self._sum) / max(self.state.global_step - self._summed, 1))
        self._sum.zero_()
        self._summed = self.state.global_step
        if not math.isfinite(self.losses[-1]):
            self.diverged = self.state.global_step

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self._frozen:
            self.model.base_model.eval()
        labels, groups = inputs.pop("labels"), inputs.pop("groups", None)
        losses, outputs = self.strategy.losses(model, inputs, labels, groups)
        items = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / (items * self.strategy.passes)
        return (loss, outputs) if return_outputs else loss

    @property
    def padding_ratio(self) -> float:
        """Processed over real tokens; 1 is no padding."""
        return self.processed_tokens / max(int(self.real_tokens), 1)


class _EpochEnd(TrainerCallback):
    """Stops the clock while an epoch is evaluated; a run that ends within an epoch ends that, too."""

    def __init__(self, trainer: TaskTrainer, action: Callable[[int], None] | None):
        self.trainer, self.action = trainer, action
        self._since = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._since = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.train_seconds += time.perf_counter() - self._since
        self.trainer.end_epoch()
        if self.action is not None:
            self.action(math.ceil(round(state.epoch, 6)))
        if self.trainer.diverged is not None:
            control.should_training_stop = True
        self._since = time.perf_counter()


class _Updates(TrainerCallback):
    """Shows the updates as they are done, and has the strategy's hooks called: once before them, and after each."""

    def __init__(self, trainer: TaskTrainer, label: str):
        self.trainer, self.label = trainer, label

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.strategy.bind(self.trainer.model, self.trainer.task, args.seed, state.max_steps)
        self._progress = Progress(self.label, state.max_steps, "update")

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.strategy.after_update(self.trainer.model)
        self._progress.update()

    def on_train_end(self, args, state, control, **kwargs):
        self._progress.close()


@torch.inference_mode()
def predict(
    model, encoded: Encoded, pad_id: int, bf16: bool = False, multiple: int = 1, label: str = "",
    strategy: Strategy | None = None,
) -> np.ndarray:  # fmt: skip
    """The logits of every row (R, C), float32, in the rows' own order; `label` is that of the progress shown."""
    strategy = strategy or Strategy()
    device = next(model.parameters()).device
    collator = TaskCollator(encoded, None, pad_id, multiple=multiple)
    was_training = model.training
    model.eval()
    found, order = [], []
    progress = Progress(label, len(encoded.row_lengths), "row")
    for rows in sorted_rows(encoded, CPU_TOKENS if device.type == "cpu" else GPU_TOKENS):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in collator.pad(rows).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found.append(strategy.predict(model, batch).float())
        order.append(rows)
        progress.update(len(rows))
    progress.close()
    model.train(was_training)
    together = torch.cat(found).cpu().numpy()  # one wait for the device
    logits = np.empty_like(together)
    logits[np.concatenate(order)] = together
    return logits
