"""Training the encoder itself with labels: on few of them from what it learned without, on all of them from nothing."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import LabelledCollator, TwoViewCollator
from hfssl.errors import InputError, one_line
from hfssl.evaluation.encoders import Encoder, as_encoder
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.labels import check_labels, label_amount, select_labels
from hfssl.evaluation.probes import ProbeRow, accuracies
from hfssl.training import PretrainingArguments, PretrainingTrainer

FEW, FEW_EPOCHS, MORE_EPOCHS = 0.01, 60, 30  # Chen et al. 2020, appendix B.5: 60 passes over 1 %, 30 over 10 %


@dataclass
class FinetuningArguments:
    """Training with labels, beside the frozen probes."""

    finetune: bool = field(default=False, metadata={"help": "Also fine-tune the whole encoder on few labels."})
    finetune_fractions: list[float] = field(
        default_factory=lambda: [0.01, 0.1], metadata={"help": "Shares of each class's labels to fine-tune on."}
    )
    finetune_epochs: int | None = field(
        default=None, metadata={"help": "Passes over them; by default SimCLR's, 60 up to 1 % and 30 above."}
    )
    finetune_batch_size: int = field(default=64, metadata={"help": "Images at a time, fewer where there are fewer."})
    finetune_learning_rate: float = field(default=0.05, metadata={"help": "For a batch of 256; it falls as a cosine."})
    finetune_augmentations: list[str] = field(
        default_factory=lambda: ["crop", "flip"], metadata={"help": "Of the training images, as in pretraining."}
    )
    supervised_steps: int = field(
        default=0, metadata={"help": "Also train the architecture on all labels for so many steps, as an anchor."}
    )
    supervised_seed: int = field(default=0, metadata={"help": "Of its weights and the order of the images."})
    supervised_learning_rate: float = field(default=1e-3, metadata={"help": "Of AdamW, for a batch of 256."})

    def __post_init__(self):
        Augmentation(1, augmentations=self.finetune_augmentations)
        if self.finetune_batch_size < 2:
            raise InputError("finetune_batch_size must be at least 2: BatchNorm needs more than one image")
        if min(self.finetune_epochs or 1, self.supervised_steps + 1) < 1:
            raise InputError("finetune_epochs must be at least 1, supervised_steps at least 0")
        if any(not 0 < fraction < 1 for fraction in self.finetune_fractions):
            raise InputError(f"finetune_fractions must lie between 0 and 1, not {self.finetune_fractions}")


class _OneView(LabelledCollator):
    """One augmented view of each image and its label: {"pixel_values": (B, 3, S, S), "labels": (B,)}."""

    def __call__(self, items):
        batch = super().__call__(items)
        return batch | {"pixel_values": batch["pixel_values"][:, 0]}


def fine_tuned_rows(
    encoder: Encoder, train, tests: Mapping, seeds: int, args: FinetuningArguments, device: str = "cpu"
) -> list[ProbeRow]:
    """Fine-tunes all weights and a new classifier on a share of the labels; the last epoch counts.

    SimCLR's protocol (Chen et al. 2020, appendix B.5): Nesterov momentum 0.9, no weight decay, no warm-up, random crops
    and flips. The learning rate falls as a cosine, as in the authors' code. The encoder itself stays as it is.

    Raises:
        InputError: labels that cannot be used, or a model that transformers cannot give a classifier.
    """
    num_classes = check_labels(train, tests)
    rows = []
    for fraction in args.finetune_fractions:
        hits = {name: [] for name in tests}
        for seed in range(seeds):
            part = train.subset(select_labels(train.labels, fraction, seed))
            epochs = args.finetune_epochs or (FEW_EPOCHS if fraction <= FEW else MORE_EPOCHS)
            model = classification_model(encoder, num_classes, seed)
            options = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True", "num_train_epochs": epochs}
            _train(model, encoder, part, args, seed, device, learning_rate=args.finetune_learning_rate, **options)
            for name, test in tests.items():
                hits[name].append(_predictions(model, encoder, test, device) == test.labels)
        rows += [
            ProbeRow(encoder.name, name, "fine-tuned", label_amount(fraction), **accuracies(np.stack(found)))
            for name, found in hits.items()
        ]
    return rows


def supervised_encoder(
    encoder: Encoder, train, args: FinetuningArguments, device: str = "cpu", seed: int = 0
) -> Encoder:
    """The encoder's architecture, trained from random weights on all labels for `supervised_steps`: an anchor.

    AdamW with weight decay 0.05 on the augmented images of `finetune_augmentations`, warm-up over a twentieth of the
    steps, then a cosine.
    """
    model = classification_model(encoder, check_labels(train, {}), seed, fresh=True)
    options = {"weight_decay": 0.05, "max_steps": args.supervised_steps, "warmup_steps": 0.05}
    began = time.perf_counter()
    _train(model, encoder, train, args, seed, device, learning_rate=args.supervised_learning_rate, **options)
    inner = getattr(model, "timm_model", None)
    trained = as_encoder(model if inner is None else inner, encoder.image_size)
    trained.name, trained.fresh = f"supervised, {args.supervised_steps} steps", None
    trained.train_seconds = time.perf_counter() - began
    trained.mean, trained.std, trained.crop_ratio = encoder.mean, encoder.std, encoder.crop_ratio
    return trained


def classification_model(encoder: Encoder, num_classes: int, seed: int = 0, fresh: bool = False) -> nn.Module:
    """The ForImageClassification class of an encoder's model, with its weights or fresh ones and a new classifier.

    Raises:
        InputError: there is no such class.
    """
    from transformers import AutoModelForImageClassification

    config, inner = _classifier_config(encoder, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = encoder.fresh() if fresh and encoder.fresh else encoder.module
        try:
            model = AutoModelForImageClassification.from_config(config)
        except ValueError as error:
            raise InputError(f"{encoder.name} cannot be given a classifier: {one_line(error)}") from None
    state = (source if inner else source.base_model).state_dict()
    state = {name.removeprefix("timm_model."): tensor for name, tensor in state.items()} if inner else state
    target = model.timm_model if inner else model.base_model
    try:
        missing = target.load_state_dict(state, strict=False).missing_keys  # what is over is a pooler, often
        fits = set(missing) <= _classifier_names(target if inner else None)
    except RuntimeError:  # of another shape
        fits = False
    if not fits:
        raise InputError(f"{encoder.name} cannot be given a classifier: its weights do not fit {type(model).__name__}")
    return model


def _classifier_config(encoder: Encoder, num_classes: int):
    """The config of a classification model, and whether it wraps a timm model."""
    from transformers import TimmWrapperConfig

    module = encoder.module
    if module is None or encoder.fresh is None:
        raise InputError(f"{encoder.name} has no weights to train")
    if hasattr(module, "config"):
        config = copy.deepcopy(module.config)
        config.num_labels = num_classes
        return config, config.model_type == "timm_wrapper"
    size = {"img_size": encoder.image_size} if module.pretrained_cfg.get("fixed_input_size") else {}
    architecture = module.pretrained_cfg["architecture"]
    return TimmWrapperConfig(architecture=architecture, model_args=size, num_labels=num_classes), True


def _classifier_names(model: nn.Module | None) -> set[str]:
    """Names of the classifier's weights in a timm model; none of no model."""
    if model is None:
        return set()
    classifier = model.get_classifier()
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if module is classifier
        for name, _ in module.named_parameters()
    }


def _train(model, encoder: Encoder, images, args: FinetuningArguments, seed: int, device: str, **options) -> None:
    processes = dist.get_world_size() if dist.is_initialized() else 1
    batch = min(args.finetune_batch_size, len(images) // processes)
    if batch < 2:
        raise InputError(f"{len(images)} labelled images are too few to train on with {processes} process(es)")
    augmentation = Augmentation(
        encoder.image_size, encoder.mean, encoder.std, augmentations=args.finetune_augmentations
    )
    collator = _OneView(TwoViewCollator(augmentation, seed, views=1), images)
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one, and nothing is kept
        settings = PretrainingArguments(
            output_dir=str(Path(folder) / "run"),
            per_device_train_batch_size=batch,
            learning_rate_scaling="linear",
            max_grad_norm=0.0,  # SimCLR's protocol clips nothing
            lr_scheduler_type="cosine",
            save_strategy="no",
            logging_steps=0.25,
            report_to=[],
            seed=seed,
            use_cpu=torch.device(device).type == "cpu",
            **options,
        )
        PretrainingTrainer(model=model, args=settings, train_dataset=images, data_collator=collator).train()


def _predictions(model: nn.Module, encoder: Encoder, images, device: str) -> np.ndarray:
    classify = Encoder(
        encoder.name, lambda pixels: model(pixel_values=pixels).logits, model, encoder.image_size, encoder.mean,
        encoder.std, encoder.crop_ratio,
    )  # fmt: skip
    return extract_features(classify, images, device=device).argmax(1).numpy()
