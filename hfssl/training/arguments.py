"""The training arguments: transformers' own, with pretraining's defaults and the ways to treat an earlier run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from hfssl.errors import InputError, nearest
from hfssl.training.optim import SCALINGS, TIMM, check_optimizer_name, scale_learning_rate

TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}  # as named here: as imported

LARGE_BATCHES = ("none", "chunk", "checkpoint")

# What decides the result of a run, besides the model and the data. A run with other values is another run.
IDENTITY = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
    "neftune_noise_alpha",
    "average_tokens_across_devices",
)


@dataclass
class PretrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with other defaults.

    The defaults differ in: no column is removed from the batch (`remove_unused_columns`), evaluation keeps the loss
    alone and never the logits (`prediction_loss_only`), a loss that is not finite is shown and not replaced by a mean
    (`logging_nan_inf_filter`), and two checkpoints are kept (`save_total_limit`).
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that the model does not take."})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Keep only the loss in evaluation."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Replace a loss that is not finite."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Look for weights without a gradient in each step; ours have none."}
    )
    optim: str = field(
        default="adamw_torch_fused",
        metadata={"help": "The optimizer: muon, lars, lamb or one of transformers' own."},
    )
    learning_rate_scaling: str = field(
        default="none",
        metadata={
            "help": "Multiply --learning_rate by the samples of a step, of all processes: linear (/ 256), sqrt or sum."
        },
    )
    large_batch: str = field(
        default="none",
        metadata={
            "help": "A contrastive batch larger than the memory: chunk (without BatchNorm) or checkpoint (any model)."
        },
    )
    large_batch_chunk: int = field(
        default=128, metadata={"help": "Views that are encoded at a time with --large_batch chunk."}
    )
    sync_batchnorm: bool = field(
        default=False, metadata={"help": "BatchNorm takes its statistics from the images of all processes."}
    )
    channels_last: bool = field(
        default=False,
        metadata={"help": "Lay out convolutions' weights channels last: faster for most nets, on a CPU and on a GPU."},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints are kept."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step."})
    resume: bool = field(
        default=False, metadata={"help": "Go on with the run in output_dir although some of its settings were others."}
    )
    allow_data_change: bool = field(
        default=False, metadata={"help": "Resume although the training data is other data."}
    )
    allow_partial_resume: bool = field(
        default=False, metadata={"help": "Resume from a checkpoint without its optimizer, schedule or random state."}
    )
    sample_prompts: list[str] | None = field(
        default=None, metadata={"help": "Prompts that a GPT continues at each evaluation, for the log."}
    )
    sample_steps: int = field(default=0, metadata={"help": "Continue the prompts every so many steps, too."})
    diagnosis_steps: int = field(
        default=300, metadata={"help": "Step from which a loss that stays at the unigram's is reported; 0: never."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the run in output_dir and start anew."})
    given: dict[str, Any] = field(default_factory=dict, init=False, repr=False)  # `parse_config` says what it is

    def __post_init__(self):
        if self.output_dir is None:
            raise InputError("where is the run to be written? Give --output_dir, or a --config that names it")
        if self.label_smoothing_factor:
            raise InputError("--label_smoothing_factor is not for pretraining: the losses here have none")
        _choose("learning_rate_scaling", self.learning_rate_scaling, SCALINGS)
        _choose("large_batch", self.large_batch, LARGE_BATCHES)
        if self.large_batch_chunk < 1:
            raise InputError(f"--large_batch_chunk must be at least 1, not {self.large_batch_chunk}")
        optim = _plain(self.optim)
        check_optimizer_name(optim)
        if optim in TIMM:  # transformers refuses a name that it does not know
            self.optim = "adamw_torch"
        super().__post_init__()
        if optim in TIMM:
            self.optim = optim
        for tracker in self.report_to:
            if tracker in TRACKERS and importlib.util.find_spec(TRACKERS[tracker]) is None:
                raise InputError(f"--report_to {tracker} needs a package that is missing; run: pip install {tracker}")
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, over all processes and accumulated parts."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    @property
    def scaled_learning_rate(self) -> float:
        """The highest learning rate: `learning_rate`, scaled by the global batch as `learning_rate_scaling` says."""
        return scale_learning_rate(self.learning_rate, self.learning_rate_scaling, self.global_batch)

    def identity(self) -> dict:
        """The settings that make this run what it is, as plain values; some only where they are used."""
        found = {name: _plain(getattr(self, name)) for name in IDENTITY}
        if self.max_steps > 0:
            del found["num_train_epochs"]
        if self.learning_rate_scaling != "none":
            found["learning_rate_scaling"] = self.learning_rate_scaling
            found["scaled_learning_rate"] = self.scaled_learning_rate  # which the number of processes decides, too
        if self.large_batch != "none":
            found["large_batch"] = self.large_batch
        if self.large_batch == "chunk":
            found["large_batch_chunk"] = self.large_batch_chunk
        for name in ("sync_batchnorm", "channels_last"):  # the second only in the order of sums
            if getattr(self, name):
                found[name] = True
        return found


def _choose(name: str, value: str, choices) -> None:
    if value not in choices:
        raise InputError(f"--{name} {value} is not known: one of {', '.join(choices)}{nearest(value, choices)}")


def _plain(value):
    return getattr(value, "value", value)
