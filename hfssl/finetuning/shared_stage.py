"""The shared stage of several tasks (MT-DNN): one encoder, a head for each task, and the folder that they are kept in.

OUT/multitask/NAME/                  the encoder, as from_pretrained takes it
OUT/multitask/NAME/TASK.safetensors  the head of a task
OUT/multitask/NAME/heads.json        the labels of each head's classes
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hfssl.evaluation.rendering import SCORED_KINDS
from hfssl.evaluation.scoring import score_task, task_score
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import SPAN_KINDS, Task
from hfssl.files import usual_permissions
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.batches import LengthBatches
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import Head, save_task_model
from hfssl.finetuning.loop import check_parts, decode, device_name, make_collator, predict_task, trainable
from hfssl.finetuning.loop import training_arguments as make_arguments
from hfssl.finetuning.plan import SHARED
from hfssl.finetuning.sources import Source
from hfssl.finetuning.strategies.mixing import MixedBatches, MixedCollator, MixedLoader, SharedEncoder
from hfssl.finetuning.strategies.strategy import Strategy
from hfssl.finetuning.trainer import TaskTrainer

logger = logging.getLogger(__name__)

HEADS = "heads.json"


@dataclass(frozen=True)
class SharedTask:
    """One of the tasks: its splits by name and its head."""

    task: Task
    splits: Mapping[str, SplitData]
    head: Head


def train_shared(
    source: Source, tasks: Mapping[str, SharedTask], encoder: TaskEncoder, args: LoopArguments, seed: int,
    folder: Path, label: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Trains an encoder on all tasks, saves it with the heads, and returns the record of the job.

    Adamax, as in MT-DNN's code; the learning rate rises and falls linearly. The last epoch is kept: each task chooses
    its own in the stage that follows.

    Args:
        tasks: by name.
        folder: appears whole.
        label: of the progress that is shown.

    Raises:
        InputError: a training split without anything to learn from; a batch that cannot be accumulated.
    """
    began = time.perf_counter()
    strategy = args.make_strategy().training
    settings = strategy.part("multitask").settings
    largest = max(tasks.values(), key=lambda one: len(one.splits["train"]))
    strategy = strategy.for_task(largest.task)  # what is set task by task is here set by the largest
    models = {name: strategy.load(source, one.task, one.head, seed) for name, one in _spans_last(tasks).items()}
    model = SharedEncoder(models)
    training = make_arguments(settings, args, seed, folder)
    loader = _loader(source, tasks, encoder, strategy, args, seed)
    trainer = TaskTrainer(model, training, loader, label=label, strategy=strategy)
    trainer.optimizer_cls_and_kwargs = (torch.optim.Adamax, {"lr": settings.learning_rate})
    trainer.train()
    pad_id, dev = source.tokenizer.pad_token_id, {}
    for name, one in tasks.items():
        logits = {
            split: predict_task(
                model.models[name], one.task, encoder.encode(one.splits[split]), pad_id, training.bf16,
                label and f"{label}, {name} {split}", strategy,
            )
            for split in one.task.dev_splits
        }  # fmt: skip
        found = {split: decode(one.splits[split], logits[split], one.head.order) for split in logits}
        dev[name] = task_score(one.task, score_task(one.task, one.splits, found).values)
    model.cpu()
    _save(model, source.tokenizer, tasks, folder)
    diverged = trainer.diverged
    return {
        "task": SHARED, "seed": seed, "tasks": list(tasks), "dev_scores": dev, "settings": asdict(settings),
        "strategy_options": strategy.options, "updates": trainer.state.global_step, "model": source.fingerprint,
        "train_seconds": round(trainer.train_seconds, 3), "seconds": round(time.perf_counter() - began, 3),
        "tokens": int(trainer.real_tokens), "padding_ratio": round(trainer.padding_ratio, 4),
        "device": device_name(training.device),
        "flags": strategy.flags() + ([] if diverged is None else [f"diverged: not finite after update {diverged}"]),
    }  # fmt: skip


def head_of(folder: Path, task: Task) -> tuple[Head, Path]:
    """A task's head in the folder of a shared stage, and the file with its weights."""
    order = json.loads((folder / HEADS).read_text())[task.name]
    return Head(tuple(order), False), folder / f"{task.name}.safetensors"


def _spans_last(tasks: Mapping[str, SharedTask]) -> dict[str, SharedTask]:
    """The shared encoder is the first's, with the pooler that whole texts may need and spans do not."""
    return dict(sorted(tasks.items(), key=lambda item: item[1].task.kind in SPAN_KINDS))


def _loader(
    source: Source, tasks: Mapping[str, SharedTask], encoder: TaskEncoder, strategy: Strategy, args: LoopArguments,
    seed: int,
) -> MixedLoader:  # fmt: skip
    options, batches, collators = strategy.part("multitask"), {}, {}
    for name, one in tasks.items():
        check_parts(one.task, options.batch_size, args.gradient_accumulation_steps)
        encoded, items = trainable(one.splits["train"], encoder)
        targets = strategy.targets(one.splits["train"], one.head.order)
        batches[name] = LengthBatches(
            encoded.item_lengths[items], options.batch_size, seed, pool=args.bucket_batches
        )  # fmt: skip
        scored = one.task.kind in SCORED_KINDS
        collators[name] = make_collator(encoded, items, targets, source, scored, args, seed)
    mixed = MixedBatches(batches, args.gradient_accumulation_steps, options.sampling, options.temperature, seed)
    return MixedLoader(mixed, MixedCollator(collators))


def _save(model: SharedEncoder, tokenizer, tasks: Mapping[str, SharedTask], folder: Path) -> None:
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    save_task_model(model.base_model, tokenizer, staging)
    for name in tasks:
        weights = {key: tensor.contiguous() for key, tensor in model.head_weights(name).items()}
        save_file(weights, staging / f"{name}.safetensors")
    usual_permissions(staging)
    (staging / HEADS).write_text(json.dumps({name: list(one.head.order) for name, one in tasks.items()}) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
