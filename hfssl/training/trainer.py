"""The Trainer of every recipe: transformers' own with another order of the data and checkpoints that survive."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers.trainer
from accelerate import skip_first_batches as accelerate_skip_first_batches
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.utils import ModelOutput

from hfssl.data.masking import IGNORED
from hfssl.data.sampling import OrderedBatches, OrderedDataLoader, single_threaded_worker
from hfssl.errors import InputError
from hfssl.evaluation.language import score_language, together, unigram_loss
from hfssl.training.callbacks import Progress, Samples, StopOnSignal, Stopped, UnigramDiagnosis
from hfssl.training.checkpoint import check_writable, missing_state, step_of
from hfssl.training.large_batch import hold_statistics_in_backward, is_contrastive, prepare_batch
from hfssl.training.optim import (
    TIMM,
    build_optimizer,
    decayed,
    scale_learning_rates,
    scaled_learning_rate,
    schedule_options,
)
from hfssl.training.random_state import random_state, set_random_state
from hfssl.training.saving import POSITION, SavingTrainer
from hfssl.training.throughput import Meter, matmul_peak, training_flops_per_token

logger = logging.getLogger(__name__)

MASKED = ("bert", "modernbert")  # their loss is of the hidden tokens alone, so no bits a byte


def _skip_first_batches(dataloader, num_batches: int = 0):
    """Trainer draws and drops every batch before the resumed step (transformers issue 21934); ours go there at once."""
    if isinstance(dataloader, OrderedDataLoader):
        return dataloader.skip_batches(num_batches)
    return accelerate_skip_first_batches(dataloader, num_batches)


transformers.trainer.skip_first_batches = _skip_first_batches


class PretrainingTrainer(SavingTrainer):
    """`transformers.Trainer` for pretraining.

    * The order of the samples is a function of (seed, step) (`data/sampling.py`), the same on any number of processes.
    * Checkpoints appear whole or not at all (`training/checkpoint.py`).
    * Signals save and stop (`training/callbacks.py`).
    * Each log line says how many tokens or images a second were processed, over all processes.
    """

    def __init__(
        self, model, args, train_dataset=None, files: dict[str, str] | None = None, first_sample: int = 0, **kwargs
    ):
        """As transformers', with more.

        Args:
            files: texts that belong beside the saved model, by their names.
            first_sample: the position in the data to begin at, for a run that takes over from another with its seed.
        """
        check_writable(args.output_dir)
        if train_dataset is not None:  # Trainer makes the output folder: a batch over the data is refused before
            OrderedBatches(len(train_dataset), args.train_batch_size, world_size=args.world_size)
        prepare_batch(model, args)
        self.files = files or {}
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        hold_statistics_in_backward(self.accelerator, self.model)
        if args.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if is_contrastive(self.model):
            self.label_names = []  # its loss needs none, also in evaluation
        # Most stock heads take the count of labels and ignore it, so that their loss grows with the number of
        # accumulation steps (transformers issue 47688). None of them gets it: `compute_loss` weighs their means.
        self._weighs_means = not hasattr(self.model, "count_targets")
        self.model_accepts_loss_kwargs &= not self._weighs_means
        self._first_label = int(type(self.model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
        self.stop = StopOnSignal()
        self.add_callback(self.stop)
        for printer in (ProgressCallback, PrinterCallback):
            self.remove_callback(printer)
        self.add_callback(Progress())
        if hasattr(train_dataset, "corpus") and args.diagnosis_steps:
            self.add_callback(UnigramDiagnosis(train_dataset, args.diagnosis_steps))
        if args.sample_prompts:
            self.add_callback(Samples(model, self.processing_class, args.sample_prompts, args.sample_steps))
        self._loaders: list[OrderedDataLoader] = []
        self._meter = Meter()
        self._began: float | None = None  # when training began, less the seconds of the parts before a resume
        self.first_sample = self._offset = first_sample  # the second, of the positions in the data, a resume may move
        self._carried: dict | None = None  # the position.json of the checkpoint resumed from, until the first step
        self._loss_parts: dict[str, torch.Tensor] = {}  # of the last batch: the single numbers beside its loss
        self._evaluating = False  # still True in a checkpoint that a signal in the evaluation made
        self._step_begun, self._at_step_begin = -1, None  # the step in hand; the random state and loss before it

    def run_settings(self) -> dict:
        """The training arguments that decide the result, by name."""
        return self.args.identity()

    def get_train_dataloader(self) -> OrderedDataLoader:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = OrderedBatches(
            len(self.train_dataset), self._train_batch_size, seed, args.process_index, args.world_size, self._offset,
            order=getattr(self.train_dataset, "order", None),
        )  # fmt: skip
        workers = args.dataloader_num_workers
        loader = OrderedDataLoader(
            self.train_dataset,
            batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            worker_init_fn=single_threaded_worker if workers else None,
        )
        self._loaders.append(loader)
        return loader

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As transformers', but it goes on at the sample where the checkpoint was taken, whatever the number of
        processes, and a checkpoint of the last step is only loaded: Trainer would train one step more.

        A signal ends it with a checkpoint of the last whole step; `self.stop.received` then says which.
        """
        if resume_from_checkpoint:
            step, folder = step_of(resume_from_checkpoint), Path(resume_from_checkpoint)
            self._carried = json.loads((folder / POSITION).read_text())
            planned = self._plan_rest(step)
            if step >= planned:
                self._carried = None
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
                return None
            self._offset += self._carried["samples"] - self._samples_before(step)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except Stopped:
            return self._stop_after_whole_step()
        except InputError as error:
            error.own = True
            raise
        finally:
            while self._loaders:
                self._loaders.pop().close()

    def get_decay_parameter_names(self, model) -> list[str]:
        return decayed(model, super().get_decay_parameter_names(model))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        with scaled_learning_rate(self.args):
            if self.args.optim in TIMM:
                model = self.model if model is None else model
                self.optimizer = build_optimizer(model, self.get_decay_parameter_names(model), self.args)
            super().create_optimizer(model)
        scale_learning_rates(self.optimizer, self.model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        args = self.args
        warmup = args.get_warmup_steps(num_training_steps)
        args.lr_scheduler_kwargs = schedule_options(
            args.lr_scheduler_type, args.lr_scheduler_kwargs, warmup, num_training_steps
        )
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As transformers', which loads both or none: of a checkpoint that lacks one of them the other one counts, and
        a schedule that is gone goes on at the checkpoint's step."""
        super()._load_optimizer_and_scheduler(checkpoint)
        gone = set(missing_state(checkpoint)) & {"optimizer", "scheduler"} if checkpoint else set()
        if not gone:
            return
        optimizer = Path(checkpoint, "optimizer.pt")
        if optimizer.is_file():
            self.optimizer.load_state_dict(torch.load(optimizer, map_location=self.args.device, weights_only=True))
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)  # inside accelerate's
        if "scheduler" not in gone:
            schedule.load_state_dict(torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True))
        else:
            schedule.last_epoch = step_of(checkpoint) - 1
            with warnings.catch_warnings():  # torch's: that no update came before
                warnings.simplefilter("ignore", UserWarning)
                schedule.step()
        for group, rate in zip(self.optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate

    def _plan_rest(self, step: int) -> int:
        """The last step of the run, from the samples that are seen; with another global batch the steps are others.

        `max_steps` counts steps whatever their size; a number of passes is a number of samples.
        """
        now, before = self.args.global_batch, self._carried["global_batch"]
        if now == before and self._carried["samples"] == self._samples_before(step):
            return self.planned_steps()
        if now != before:
            logger.warning("The global batch was %d samples and is now %d, with the same learning rate", before, now)
        if self.args.max_steps <= 0:
            left = self._samples_before(self.planned_steps()) - self._carried["samples"]
            self.args.max_steps = step + max(0, math.ceil(left / now))
        return self.planned_steps()

    def _samples_before(self, step: int) -> int:
        """Samples of all processes before an optimizer step, counted from the offset's place."""
        loader = self.get_train_dataloader()
        updates = self.set_initial_training_values(self.args, loader)[1]
        epoch, step = divmod(step, updates)
        batches = epoch * len(loader) + step * self.args.gradient_accumulation_steps
        return batches * loader.batch_sampler.global_batch + self._offset

    def _stop_after_whole_step(self) -> None:
        """Between two micro-batches or in an evaluation: forgets the step in hand, saves the one before."""
        if self._step_begun == self.state.global_step and self._at_step_begin is not None:
            state, loss, buffers = self._at_step_begin
            set_random_state(state)
            self._tr_loss.copy_(loss)
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        self.save_if_missing()
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    def get_batch_samples(self, *args, **kwargs):
        began = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self._meter.waited(time.perf_counter() - began)
        return samples

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """The predicted tokens of the whole step, over its parts and over all processes; our models know how to count.

        transformers' own count depends on the name of the model's class.
        """
        if hasattr(self.model, "count_targets"):
            count = sum(self.model.count_targets(batch["labels"]) for batch in batch_samples)
        elif self._weighs_means and batch_samples and "labels" in batch_samples[0]:
            count = sum(self._count_labels(batch["labels"]) for batch in batch_samples)
        else:
            return super()._get_num_items_in_batch(batch_samples, device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            count = self.accelerator.gather(count.to(device)).sum()
        return count.to(device, non_blocking=True)

    def _count_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Of a stock model: nothing predicts the first label of a left-to-right one."""
        return (labels[..., self._first_label :] != IGNORED).sum() if labels.ndim > 1 else (labels != IGNORED).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As transformers'; a head that gives the mean of its own batch counts by its share of the step's labels."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if isinstance(outputs, ModelOutput) and model.training:
            parts = {name: part for name, part in outputs.items() if name != "loss" and isinstance(part, torch.Tensor)}
            self._loss_parts = {name: part.detach() for name, part in parts.items() if part.ndim == 0}
        weighs = self._weighs_means and num_items_in_batch is not None
        if weighs:
            processes = self.args.world_size if self.args.average_tokens_across_devices else 1
            loss = loss * (self._count_labels(inputs["labels"]) * processes / num_items_in_batch)
        self.loss_is_scaled_for_ga = True if weighs else None
        return (loss, outputs) if return_outputs else loss

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    @property
    def seconds(self) -> float:
        """Of training up to the last log line, summed over all parts of an interrupted run."""
        return next((entry["seconds"] for entry in reversed(self.state.log_history) if "seconds" in entry), 0.0)

    def _prepare_input(self, data):
        """Pinned memory goes to the device while that is busy; transformers waits for each tensor."""
        if isinstance(data, torch.Tensor) and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _prepare_inputs(self, inputs):
        """A collator may make a part of the batch, or all of it, where the model is (`data/collators.py`)."""
        on_device = getattr(self.data_collator, "on_device", None)
        return super()._prepare_inputs(on_device(inputs) if on_device else inputs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self._began is None:
            self._begin(inputs)
        if self._step_begun != self.state.global_step:
            self._step_begun = self.state.global_step
            if self.args.gradient_accumulation_steps > 1:  # only then can a signal come in the middle of a step
                buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}  # BatchNorm's
                self._at_step_begin = random_state(), self._tr_loss.clone(), buffers
        if "input_ids" in inputs:
            self._meter.count("tokens", inputs["input_ids"].numel())
        else:
            unit = "words" if {"windows", "target_ids"} & set(inputs) else "images"
            self._meter.count(unit, len(next(iter(inputs.values()))))
        return super().training_step(model, inputs, num_items_in_batch)

    def _begin(self, inputs) -> None:
        """Before the first micro-batch: what the log line in hand had gathered before a resume; the clock."""
        if self._carried is not None:
            losses = self._carried["losses"]
            same = len(losses) == self.args.world_size
            self._tr_loss.fill_(losses[self.args.process_index] if same else float(np.mean(losses)))
            self._globalstep_last_logged = self._carried["last_logged"]
            if self._carried["evaluate"]:
                self.evaluate()
            self._carried = None
        flops = None
        if "input_ids" in inputs:
            read = inputs.get("masked_positions", inputs.get("target_positions", inputs["input_ids"]))  # by the head
            share = read.numel() / inputs["input_ids"].numel()
            flops = training_flops_per_token(self.model, inputs["input_ids"].shape[1], share)
        precision = self.accelerator.mixed_precision  # which --bf16 sets, and accelerate's own config file too
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        self._meter = Meter(flops, lambda: matmul_peak(str(self.args.device), dtype))
        self._began = self._meter.start() - self.seconds

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise InputError(self._not_finite("the loss"))
            logs |= self._meter.read(self.args.world_size)
            logs |= {name: round(part.item(), 4) for name, part in self._loss_parts.items()}
            if self._began is not None:
                logs["seconds"] = round(time.perf_counter() - self._began, 2)
        super().log(logs, start_time)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        began, self._evaluating = time.perf_counter(), True
        state = random_state()  # a loader draws from it when it begins, which would move training's dropout
        try:
            # `score` is no sign of a language model: GPT-2's classifier has a head of that name.
            evaluate = super().evaluate if self._weighs_means else self._evaluate_language
            metrics = evaluate(*args, **kwargs)
        finally:
            set_random_state(state)
        self._evaluating = False
        self._meter.pause(time.perf_counter() - began)
        return metrics

    def prediction_step(self, *args, **kwargs):
        self.stop.check()
        return super().prediction_step(*args, **kwargs)

    def _evaluate_language(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Loss, perplexity, bits a byte (left-to-right models) and accuracy; no logits are kept, whatever the size."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        rank, world_size = self.args.process_index, self.args.world_size
        if isinstance(self.model, FSDPModule):  # it gathers the weights for `forward` alone, unless told
            register_fsdp_forward_method(self.model, "score")
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            score = score_language(
                self.model, dataset, self.data_collator, self.args.eval_batch_size, rank=rank, world_size=world_size,
                between=self.stop.check,
            )  # fmt: skip
        if world_size > 1:
            parts = [None] * world_size
            dist.all_gather_object(parts, (score.loss * score.tokens, score.accuracy * score.tokens, score.tokens))
            score = together(parts)
        metrics = {"loss": score.loss, "perplexity": score.perplexity, "accuracy": score.accuracy}
        corpus = getattr(dataset, "corpus", None)
        if corpus is not None and self.model.config.model_type not in MASKED:
            metrics["bits_per_byte"] = score.bits_per_byte(corpus.tokens_per_byte)
        counted = [getattr(each, "corpus", each) for each in (self.train_dataset, dataset)]
        if all(hasattr(each, "frequencies") for each in counted):
            train, held_out = (each.frequencies(self.model.config.vocab_size) for each in counted)
            metrics["unigram_loss"] = unigram_loss(train, held_out)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
