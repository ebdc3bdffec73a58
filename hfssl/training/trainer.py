"""The Trainer of every recipe: transformers' own with another order of the data and checkpoints that survive."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers.trainer
from accelerate import skip_first_batches as accelerate_skip_first_batches
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback, TrainerState

from hfssl.data.masking import IGNORED
from hfssl.data.sampling import OrderedBatches, OrderedDataLoader, hash_key, single_threaded_worker
from hfssl.errors import InputError
from hfssl.evaluation.language import score_language, together, unigram_loss
from hfssl.training.callbacks import Progress, Samples, StopOnSignal, Stopped, UnigramDiagnosis
from hfssl.training.checkpoint import newest, publish, rotate, step_of
from hfssl.training.optim import TIMM, build_optimizer, decayed, schedule_options
from hfssl.training.throughput import Meter, matmul_peak, training_flops_per_token

POSITION = "position.json"
MASKED = ("bert", "modernbert")  # their loss is of the hidden tokens alone, so no bits a byte


def _skip_first_batches(dataloader, num_batches: int = 0):
    """Trainer draws and drops every batch before the resumed step (transformers issue 21934); ours go there at once."""
    if isinstance(dataloader, OrderedDataLoader):
        return dataloader.skip_batches(num_batches)
    return accelerate_skip_first_batches(dataloader, num_batches)


transformers.trainer.skip_first_batches = _skip_first_batches


class PretrainingTrainer(Trainer):
    """`transformers.Trainer` for pretraining.

    * The order of the samples is a function of (seed, step) (`data/sampling.py`), the same on any number of processes.
    * Checkpoints appear whole or not at all (`training/checkpoint.py`).
    * Signals save and stop (`training/callbacks.py`).
    * Each log line says how many tokens or images a second were processed, over all processes.
    """

    def __init__(self, model, args, train_dataset=None, **kwargs):
        if train_dataset is not None:  # Trainer makes the output folder: a batch over the data is refused before
            OrderedBatches(len(train_dataset), args.train_batch_size, world_size=args.world_size)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        # Stock heads but the causal ones take the count of labels and ignore it, so that their loss grows with the
        # number of accumulation steps (transformers issue 47688). They do not get it: `compute_loss` weighs their mean.
        self._weighs_means = not (hasattr(self.model, "count_targets") or self._loss_shifts_labels)
        self.model_accepts_loss_kwargs &= not self._weighs_means
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
        self._offset = 0  # of the positions in the data: see OrderedBatches
        self._carried: dict | None = None  # the position.json of the checkpoint resumed from, until the first step
        self._evaluating = False  # still True in a checkpoint that a signal in the evaluation made
        self._step_begun, self._at_step_begin = -1, None  # the step in hand; the random state and loss before it

    def get_train_dataloader(self) -> OrderedDataLoader:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = OrderedBatches(
            len(self.train_dataset), self._train_batch_size, seed, args.process_index, args.world_size, self._offset
        )
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
            if step >= self.planned_steps():
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
                return None
            self._carried = json.loads((folder / POSITION).read_text())
            self._offset = self._carried["samples"] - self._samples_before(step)
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
        if self.optimizer is None and self.args.optim in TIMM:
            model = self.model if model is None else model
            self.optimizer = build_optimizer(model, self.get_decay_parameter_names(model), self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        args = self.args
        warmup = args.get_warmup_steps(num_training_steps)
        args.lr_scheduler_kwargs = schedule_options(
            args.lr_scheduler_type, args.lr_scheduler_kwargs, warmup, num_training_steps
        )
        return super().create_scheduler(num_training_steps, optimizer)

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
            random_state, loss = self._at_step_begin
            _set_random_state(random_state)
            self._tr_loss.copy_(loss)
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.state.global_step and not final.exists():
            self._save_checkpoint(self.model, trial=None)
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
            count = sum((batch["labels"] != IGNORED).sum() for batch in batch_samples)
        else:
            return super()._get_num_items_in_batch(batch_samples, device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            count = self.accelerator.gather(count.to(device)).sum()
        return count.to(device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As transformers'; a head that gives the mean of its own batch counts by its share of the step's labels."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        weighs = self._weighs_means and num_items_in_batch is not None
        if weighs:
            processes = self.args.world_size if self.args.average_tokens_across_devices else 1
            loss = loss * ((inputs["labels"] != IGNORED).sum() * processes / num_items_in_batch)
        self.loss_is_scaled_for_ga = True if weighs else None
        return (loss, outputs) if return_outputs else loss

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    @property
    def seconds(self) -> float:
        """Of training up to the last log line, summed over all parts of an interrupted run."""
        return next((entry["seconds"] for entry in reversed(self.state.log_history) if "seconds" in entry), 0.0)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self._began is None:
            self._begin(inputs)
        if self._step_begun != self.state.global_step:
            self._step_begun = self.state.global_step
            if self.args.gradient_accumulation_steps > 1:  # only then can a signal come in the middle of a step
                self._at_step_begin = _random_state(), self._tr_loss.clone()
        if "input_ids" in inputs:
            self._meter.count("tokens", inputs["input_ids"].numel())
        else:
            self._meter.count("images", len(next(iter(inputs.values()))))
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
            share = (
                inputs["masked_positions"].shape[1] / inputs["input_ids"].shape[1]
                if "masked_positions" in inputs
                else 1
            )
            flops = training_flops_per_token(self.model, inputs["input_ids"].shape[1], share)
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        self._meter = Meter(flops, lambda: matmul_peak(str(self.args.device), dtype))
        self._began = self._meter.start() - self.seconds

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise InputError(self._not_finite("the loss"))
            logs |= self._meter.read(self.args.world_size)
            if self._began is not None:
                logs["seconds"] = round(time.perf_counter() - self._began, 2)
        super().log(logs, start_time)

    def _not_finite(self, what: str) -> str:
        last = newest(self.args.output_dir)
        stays = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        return (
            f"{what} is not finite at step {self.state.global_step}; {stays}; "
            f"a lower --learning_rate than {self.args.learning_rate:g} may help (--resume goes on with it)"
        )

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        began, self._evaluating = time.perf_counter(), True
        random_state = _random_state()  # a loader draws from it when it begins, which would move training's dropout
        try:
            evaluate = self._evaluate_language if hasattr(self.model, "score") else super().evaluate
            metrics = evaluate(*args, **kwargs)
        finally:
            _set_random_state(random_state)
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
        if corpus is not None:
            if self.model.config.model_type not in MASKED:
                metrics["bits_per_byte"] = score.bits_per_byte(corpus.tokens_per_byte)
            if hasattr(self.train_dataset, "corpus"):
                size = self.model.config.vocab_size
                train, held_out = self.train_dataset.corpus.frequencies(size), corpus.frequencies(size)
                metrics["unigram_loss"] = unigram_loss(train, held_out)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle, which nothing reads; the settings stand in run.json
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _issue_warnings_after_load(self, load_result) -> None:
        """A tied weight is saved under one of its names: the others are not missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: `run` has written the card, which a push would otherwise overwrite with transformers' own."""

    def _save_checkpoint(self, model, trial) -> None:
        """Writes a checkpoint aside and publishes it; if that fails, nothing of it stays and the last good one does."""
        self.store_flos()
        broken = not all(bool(weight.isfinite().all()) for weight in model.parameters())
        if self.stop.most(int(broken)):
            raise InputError(self._not_finite("a weight"))
        output_dir = Path(self.args.output_dir)
        final = output_dir / f"checkpoint-{self.state.global_step}"
        staging = output_dir / f".{final.name}"
        began = time.perf_counter()
        try:
            self._main_process_does(lambda: shutil.rmtree(staging, ignore_errors=True))
            self._write_checkpoint(staging, final)
            self._main_process_does(lambda: publish(staging, final))
        except Exception as error:
            # safetensors and torch wrap the system's error each in their own class, so the class says little here.
            shutil.rmtree(staging, ignore_errors=True)
            last = newest(output_dir)
            stays = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
            raise InputError(f"cannot save {final}: {error}; {stays}") from error
        self._main_process_does(
            lambda: rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        )
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self._meter.pause(time.perf_counter() - began)

    def _write_checkpoint(self, staging: Path, final: Path) -> None:
        self.save_model(str(staging), _internal_call=True)
        if self.state.best_global_step:
            best = final.with_name(f"checkpoint-{self.state.best_global_step}")
            if best == final or best.exists():
                self.state.best_model_checkpoint = str(best)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
        losses = [self._tr_loss.item()]
        if self.args.world_size > 1:
            losses = [None] * self.args.world_size
            dist.all_gather_object(losses, self._tr_loss.item())
        if self.args.should_save:
            position = {
                "samples": self._samples_before(self.state.global_step),
                "last_logged": self._globalstep_last_logged,
                "losses": losses,
                "evaluate": self._evaluating,
            }
            (staging / POSITION).write_text(json.dumps(position))
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.save_to_json(str(staging / TRAINER_STATE_NAME))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """With another number of processes there is no random state for each: each gets a new one, told by the step."""
        if checkpoint is not None:
            position = json.loads((Path(checkpoint) / POSITION).read_text())
            if len(position["losses"]) != self.args.world_size:
                set_seed(int(hash_key(self.args.seed, self.state.global_step, self.args.process_index)) % 2**32)
                return
        super()._load_rng_state(checkpoint)

    def _main_process_does(self, action) -> None:
        """Runs `action` in the process that saves, between two barriers."""
        self._barrier()
        if self.args.should_save:
            action()
        self._barrier()

    def _barrier(self) -> None:
        if self.args.world_size > 1 and dist.is_initialized():
            dist.barrier()

    def save_final(self) -> None:
        """Writes the trained model into the output folder, each file whole or not at all."""
        output_dir = Path(self.args.output_dir)
        staging = output_dir / ".final"
        self._main_process_does(lambda: shutil.rmtree(staging, ignore_errors=True))
        try:
            self.save_model(str(staging), _internal_call=True)
        except Exception as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise InputError(f"cannot save the model in {output_dir}: {error}") from error
        if self.args.should_save:
            for path in sorted(staging.iterdir()):
                path.replace(output_dir / path.name)
            staging.rmdir()
            (output_dir / "log_history.json").write_text(json.dumps(self.state.log_history, indent=1))
        self._barrier()


def _random_state() -> tuple:
    """Of every generator that a step may draw from."""
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    )


def _set_random_state(state: tuple) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state_all(state[3])
