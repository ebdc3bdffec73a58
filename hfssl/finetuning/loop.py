"""One model on one task with one seed: train, choose the epoch on dev, predict every split."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import is_torch_tf32_available

from hfssl.errors import InputError
from hfssl.evaluation.metrics import problems
from hfssl.evaluation.rendering import SCORED_KINDS, best_candidates, candidate_rows
from hfssl.evaluation.scoring import Predictions, score_task, task_score
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.batches import CANDIDATES, LengthBatches, TaskCollator, TaskLoader
from hfssl.finetuning.encoding import Encoded, TaskEncoder
from hfssl.finetuning.heads import Head
from hfssl.finetuning.recipes import Settings
from hfssl.finetuning.sources import Source
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.finetuning.strategies.text_to_text import unknown_rows
from hfssl.finetuning.trainer import TaskTrainer, predict

logger = logging.getLogger(__name__)


@dataclass
class FineTuned:
    """What came of it.

    Attributes:
        model: with the chosen epoch's weights, on the CPU.
        logits: by split, of every row (R, C); a split of a diagnostic set is named ``ax.test``.
        record: what a result says of the run, plain values for JSON.
    """

    model: PreTrainedModel
    logits: dict[str, np.ndarray]
    record: dict[str, Any]


def decode(data: SplitData, logits: np.ndarray, order: tuple[str, ...]) -> Predictions:
    """Logits of rows (R, C) as predictions: label strings, floats, or the best candidate.

    A row of -inf has no answer (text to text): where the labels are known it counts as wrong, by another label.

    Args:
        order: the label of each class.
    """
    kind = data.task.kind
    if kind == "regression":
        return [float(score) for score in logits[:, 0]]
    if kind in SCORED_KINDS:
        found = best_candidates(data, candidate_rows(data), logits[:, 0].tolist())
    else:
        found = [order[number] for number in logits.argmax(axis=1)]
    if data.labels is not None:
        for row in np.flatnonzero(unanswered(data, logits)):
            labels = data.task.labels
            found[row] = labels[(labels.index(data.labels[row]) + 1) % len(labels)]
    return found


def unanswered(data: SplitData, logits: np.ndarray) -> np.ndarray:
    """Which of a split's items got no answer from a model that writes text (N,): see `LabelWords.predict`."""
    if data.task.kind == "entities":
        return np.zeros(len(data), bool)
    return unknown_rows(logits.reshape(len(data), -1), data.task)


def confidence(data: SplitData, logits: np.ndarray) -> np.ndarray:
    """Of each item, the share of its prediction in the softmax over classes or candidates; NaN for scores (STS-B)."""
    if data.task.kind == "regression":
        return np.full(len(data), np.nan)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where there is no answer
        if data.task.kind not in SCORED_KINDS:
            return np.exp(logits - logits.max(1, keepdims=True)).sum(1) ** -1.0
        counts = np.bincount(candidate_rows(data).row, minlength=len(data))
        parts = np.split(logits[:, 0], np.cumsum(counts)[:-1])
        return np.array([1 / np.exp(part - part.max()).sum() for part in parts])


def fine_tune(
    source: Source,
    task: Task,
    splits: Mapping[str, SplitData],
    encoder: TaskEncoder,
    head: Head,
    settings: Settings,
    args: LoopArguments,
    seed: int,
    scratch: str | Path,
    diagnostics: Mapping[str, SplitData] | None = None,
    label: str = "",
    head_weights: Path | None = None,
) -> FineTuned:
    """Fine-tunes a model on one task.

    Args:
        splits: ``train``, the dev splits, and the test splits that there are.
        encoder: with the source's tokenizer; it keeps what it has encoded.
        diagnostics: by name, what else this model predicts (AX; AX-b and AX-g).
        label: of the progress that is shown; without one none is.
        scratch: a folder; nothing is written into it.
        head_weights: the head's, from the shared stage of several tasks.

    Raises:
        InputError: a training split without anything to learn from; a head that is not the model's.
    """
    began = time.perf_counter()
    strategy = args.make_strategy().training.for_task(task)
    model = strategy.load(source, task, head, seed, args.freeze_encoder)
    if head_weights is not None:
        load_head(model, head_weights)
    train, items = trainable(splits["train"], encoder)
    targets = strategy.targets(splits["train"], head.order)
    loader = _loader(train, items, targets, source, task, settings, args, seed, strategy)
    training = training_arguments(settings, args, seed, scratch)
    dev = {split: encoder.encode(splits[split]) for split in task.dev_splits}
    keeper = _BestEpoch(task, splits, dev, head, source.tokenizer.pad_token_id, args.selection, label, strategy)
    trainer = TaskTrainer(
        model, training, loader, args.freeze_encoder, lambda epoch: keeper.see(trainer, epoch), label, strategy, task
    )
    trainer.train()
    keeper.restore(model)
    others = {split: data for split, data in splits.items() if split in task.test_splits}
    others |= {f"{name}.test": data for name, data in (diagnostics or {}).items()}
    encoded = {name: encoder.encode(data) for name, data in others.items()}
    logits = dict(keeper.logits)
    for name in others:
        shown = label and f"{label}, {name}"
        if shown:
            logger.info("%s: predicting %s rows", shown, f"{len(others[name]):,}")
        logits[name] = predict_task(
            model, others[name].task, encoded[name], source.tokenizer.pad_token_id, training.bf16, shown, strategy
        )
    record = keeper.record() | {
        "head": list(head.order), "head_kept": head.kept, "seed": seed, "settings": asdict(settings),
        "updates": trainer.state.global_step, "batch_size": settings.batch_size,
        "train_seconds": round(trainer.train_seconds, 3), "seconds": round(time.perf_counter() - began, 3),
        "tokens": int(trainer.real_tokens), "padding_ratio": round(trainer.padding_ratio, 4),
        "truncated": {name: one.truncated for name, one in ({"train": train} | dev | encoded).items() if one.truncated},
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "device": device_name(training.device),
    }  # fmt: skip
    if not strategy.is_plain:
        record |= {"strategy": strategy.name, "strategy_options": strategy.options}
    record["flags"] = _flags(record, trainer.diverged, keeper, others, encoded, logits, head) + strategy.flags()
    for name, data in ({split: splits[split] for split in dev} | others).items() if strategy.part("t5") else ():
        if count := int(unanswered(data, logits[name]).sum()):
            record["flags"].append(f"{count:,} answers of {name} are no label's word, and count as wrong")
    return FineTuned(model.cpu(), logits, record)


def load_head(model: PreTrainedModel, path: Path) -> None:
    """Sets all that the model has beside its encoder.

    Raises:
        InputError: the file holds less, more or something else.
    """
    try:
        found = model.load_state_dict(load_file(path), strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load the head {path}: {' '.join(str(error).split())}") from error
    lacking = [name for name in found.missing_keys if not name.startswith(f"{model.base_model_prefix}.")]
    if lacking or found.unexpected_keys:
        wrong = f"without {lacking[0]}" if lacking else f"with {found.unexpected_keys[0]}"
        raise InputError(f"{path} is not the head of this model: {wrong}; delete its folder and its line in the ledger")


def predict_task(
    model, task: Task, encoded: Encoded, pad_id: int, bf16: bool, label: str, strategy: Strategy
) -> np.ndarray:  # fmt: skip
    """The logits as `decode` takes them (R, C): of COPA one row a candidate, also where the two are classes."""
    logits = predict(model, encoded, pad_id, bf16, label=label, strategy=strategy)
    return logits.reshape(-1, 1) if task.kind == "choice" and not strategy.by_candidate else logits


def trainable(data: SplitData, encoder: TaskEncoder) -> tuple[Encoded, np.ndarray]:
    """The training split's items that have something right in them (all, but of ReCoRD)."""
    encoded = encoder.encode(data)
    items = np.arange(len(encoded))
    if data.task.kind == "entities":
        items = np.array([
            row for row, (names, right) in enumerate(zip(data.candidates, data.answers, strict=True))
            if set(names) & set(right)
        ], dtype=int)  # fmt: skip
    if not len(items):
        raise InputError(f"{data.task.title} {data.split}: nothing to learn from")
    return encoded, items


def check_parts(task: Task, batch: int, parts: int) -> None:
    """Raises InputError unless a batch can be given in so many equal parts."""
    if batch % parts:
        raise InputError(f"--gradient_accumulation_steps {parts} does not divide the batch of {batch} of {task.title}")


def _loader(
    encoded: Encoded, items: np.ndarray, targets: np.ndarray, source: Source, task: Task, settings: Settings,
    args: LoopArguments, seed: int, strategy: Strategy,
) -> TaskLoader:  # fmt: skip
    batch, parts = settings.batch_size, args.gradient_accumulation_steps
    check_parts(task, batch, parts)
    batches = LengthBatches(encoded.item_lengths[items], batch, seed, parts, args.bucket_batches)
    scored = task.kind in SCORED_KINDS and strategy.by_candidate
    rows = None
    if args.torch_compile:
        rows = batch // parts * (min(CANDIDATES, int(encoded.item_rows.max())) if scored else 1)
    return TaskLoader(batches, make_collator(encoded, items, targets, source, scored, args, seed, rows))


def make_collator(
    encoded: Encoded, items: np.ndarray, targets: np.ndarray, source: Source, scored: bool, args: LoopArguments,
    seed: int, rows: int | None = None,
) -> TaskCollator:  # fmt: skip
    """The collator of a task's training batches."""
    multiple = args.pad_to_multiple_of or (8 if torch.cuda.is_available() else 1)
    return TaskCollator(
        encoded,
        targets,
        source.tokenizer.pad_token_id,
        scored,
        multiple,
        CANDIDATES,
        seed,
        rows,
        items,
        source.positions,
    )


def training_arguments(settings: Settings, args: LoopArguments, seed: int, scratch: str | Path) -> TrainingArguments:
    """The Trainer's arguments for a recipe's settings: nothing saved, logged or evaluated by it."""
    on_gpu = torch.cuda.is_available()
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = args.precision == "bf16" or (args.precision == "auto" and has_bf16)
    training = TrainingArguments(
        output_dir=str(scratch), per_device_train_batch_size=settings.batch_size // args.gradient_accumulation_steps,
        gradient_accumulation_steps=args.gradient_accumulation_steps, learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs, max_steps=args.max_steps, lr_scheduler_type="linear",
        warmup_steps=settings.warmup, weight_decay=settings.weight_decay, adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2, adam_epsilon=settings.adam_epsilon, max_grad_norm=settings.max_grad_norm,
        bf16=bf16, tf32=True if is_torch_tf32_available() else None, torch_compile=args.torch_compile,
        torch_compile_mode=args.torch_compile_mode if args.torch_compile else None, seed=seed, save_strategy="no",
        logging_strategy="no", logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        remove_unused_columns=False, use_cpu=not on_gpu,
    )  # fmt: skip
    training._n_gpu = min(training.n_gpu, 1)  # one job, one GPU: others take other jobs
    return training


class _BestEpoch:
    """Scores each epoch on dev and keeps the weights of the one that is reported."""

    def __init__(
        self, task, splits, dev: dict[str, Encoded], head: Head, pad_id: int, selection: str, label: str,
        strategy: Strategy,
    ):  # fmt: skip
        self.task, self.splits, self.dev, self.head, self.strategy = task, splits, dev, head, strategy
        self.pad_id, self.selection, self.label = pad_id, selection, label
        self.epochs: list[dict[str, Any]] = []
        self.best: int | None = None
        self.logits: dict[str, np.ndarray] = {}
        self.flags: tuple[str, ...] = ()
        self._weights: dict[str, torch.Tensor] | None = None

    def see(self, trainer: TaskTrainer, epoch: int) -> None:
        bf16, label = trainer.args.bf16, self.label
        logits = {
            split: predict_task(
                trainer.model, self.task, one, self.pad_id, bf16, label and f"{label}, {split}", self.strategy
            )
            for split, one in self.dev.items()
        }
        predictions = {split: decode(self.splits[split], logits[split], self.head.order) for split in logits}
        scores = score_task(self.task, self.splits, predictions)
        score = task_score(self.task, scores.values)
        self.epochs.append({"epoch": epoch, "loss": trainer.losses[-1], "scores": scores.values, "score": score})
        if trainer.diverged is not None:
            self.epochs[-1]["loss"] = None  # JSON has no NaN
            if self.best is not None:
                return
        if self.best is None or self.selection == "last" or score > self.epochs[self.best]["score"]:
            self.best, self.logits, self.flags = len(self.epochs) - 1, logits, scores.flags
            if trainer.state.global_step < trainer.state.max_steps:  # of the last epoch the model itself has them
                self._weights = {
                    name: weight.detach().to("cpu", copy=True)
                    for name, weight in trainer.model.named_parameters()
                    if weight.requires_grad
                }
            else:
                self._weights = None

    def restore(self, model: PreTrainedModel) -> None:
        if self._weights is None:
            return
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self._weights:
                    weight.copy_(self._weights[name])

    def record(self) -> dict[str, Any]:
        chosen = self.epochs[self.best]
        return {
            "scores": chosen["scores"],
            "score": chosen["score"],
            "epoch": chosen["epoch"],
            "selection": f"{self.selection} epoch on dev" if self.selection == "best" else "last epoch",
            "last_score": self.epochs[-1]["score"],
            "epochs": copy.deepcopy(self.epochs),
        }


def _flags(record, diverged, keeper: _BestEpoch, others, encoded, logits, head: Head) -> list[str]:
    """What must be said beside the score."""
    flags = list(keeper.flags)
    if not flags:  # what is constant on dev is so elsewhere
        for name, data in others.items():
            flags += [f"{name}: {flag}" for flag in problems(decode(data, logits[name], head.order), data.task.metrics)]
    flags += [f"{count:,} rows of {name} were truncated" for name, count in record["truncated"].items()]
    if diverged is not None:
        flags.append(f"diverged: the loss was not finite after update {diverged}")
    lost = {name: one.lost for name, one in (keeper.dev | encoded).items() if one.lost}
    flags += [f"{count:,} spans of {name} lay in what was truncated" for name, count in lost.items()]
    return flags


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
