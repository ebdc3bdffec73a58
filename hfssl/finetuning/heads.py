"""A head for each kind of task, on any model; labels by their names, whatever a checkpoint calls its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel, set_seed

from hfssl.errors import InputError
from hfssl.evaluation.tasks import SPAN_KINDS, Task, label_order
from hfssl.files import usual_permissions
from hfssl.finetuning.builtin_models import quiet_transformers
from hfssl.finetuning.sources import MakeModel, Source
from hfssl.models import EncoderHeadConfig, SpanConfig, SpanForSequenceClassification

SCORES = ("regression", "choice", "entities")  # kinds whose head has one number


@dataclass(frozen=True)
class Head:
    """What stands on the encoder.

    Attributes:
        order: the task's label of each class; one name for a head that scores.
        kept: the checkpoint's own head goes on.
    """

    order: tuple[str, ...]
    kept: bool


def choose_head(source: Source, task: Task, new_head: bool = False, make: MakeModel | None = None) -> Head:
    """The checkpoint's own head where it has one of this task, else a new one.

    Args:
        new_head: put a new one also where the checkpoint's does not fit.
        make: what makes the model of an encoder, in any case with a new head.

    Raises:
        InputError: the checkpoint has a head of another label count, of other names, or of another kind.
    """
    if task.kind in SPAN_KINDS and getattr(source.encoder_config, "is_encoder_decoder", False):
        raise InputError(f"{source.name} is an encoder with a decoder, of which {task.title} has no head")
    new = Head(task.labels if task.kind not in SCORES else ("score",), False)
    if make is not None or not source.architecture.endswith("ForSequenceClassification"):
        return new
    try:
        return Head(_own_order(source, task), True)
    except InputError as error:
        if new_head:
            return new
        raise InputError(
            f"{source.name}: {error}; --new_head puts new ones where its own does not fit the task"
        ) from None


def _own_order(source: Source, task: Task) -> tuple[str, ...]:
    if bool(getattr(source.config, "num_spans", 0)) != (task.kind in SPAN_KINDS):
        raise InputError(f"its head is of another kind than {task.title}'s")
    if task.kind in SCORES:
        if source.config.num_labels != 1:
            raise InputError(f"the head has {source.config.num_labels} classes, {task.title} has one score")
        return ("score",)
    return label_order(task, source.config.id2label)


def load_model(
    source: Source, task: Task, head: Head, seed: int, freeze_encoder: bool = False, make: MakeModel | None = None
) -> PreTrainedModel:
    """The model with its head, float32, new weights drawn by the seed.

    With a frozen encoder, what the checkpoint holds of it does not learn; a pooler that it lacks does.

    Args:
        make: makes the model of an encoder; by default transformers' classifier, or of span tasks ours.

    Raises:
        InputError: the weights cannot be read.
    """
    names = {"id2label": dict(enumerate(head.order)), "label2id": {name: i for i, name in enumerate(head.order)}}
    set_seed(seed)
    try:
        with quiet_transformers():
            if make is None and task.kind in SPAN_KINDS and not head.kept:
                make = _span_model(source)
            if make is not None:
                model, missing = _made_model(source, names, make)
            else:
                model, missing = _sequence_model(source, task, names)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load {source.name}: {str(error).splitlines()[0]}") from error
    if not head.kept:
        _draw_head(model, seed)
    encoder_config = model.config.encoder if isinstance(model.config, EncoderHeadConfig) else model.config
    encoder_config.pad_token_id = source.tokenizer.pad_token_id  # by which left-to-right heads find the last token
    if freeze_encoder:
        prefix = f"{model.base_model_prefix}."
        for name, weight in model.named_parameters():
            weight.requires_grad_(not name.startswith(prefix) or name in missing)
    return model


def _sequence_model(source: Source, task: Task, names: dict) -> tuple[PreTrainedModel, set[str]]:
    if task.kind == "regression":
        names = names | {"problem_type": "regression"}
    model, report = AutoModelForSequenceClassification.from_pretrained(
        source.path, num_labels=len(names["id2label"]), ignore_mismatched_sizes=True, output_loading_info=True,
        dtype=torch.float32, use_safetensors=True, trust_remote_code=source.trust_remote_code, **names,
    )  # fmt: skip
    return model, set(report["missing_keys"])


def _made_model(source: Source, names: dict, make: MakeModel) -> tuple[PreTrainedModel, set[str]]:
    encoder, report = AutoModel.from_pretrained(
        source.path, output_loading_info=True, dtype=torch.float32, use_safetensors=True,
        trust_remote_code=source.trust_remote_code,
    )  # fmt: skip
    model = make(encoder, names)
    return model, {f"{model.base_model_prefix}.{name}" for name in report["missing_keys"]}


def _span_model(source: Source) -> MakeModel:
    def make(encoder: PreTrainedModel, names: dict) -> PreTrainedModel:
        config = SpanConfig(encoder=encoder.config, sentence_state=source.sentence_state, **names)
        return SpanForSequenceClassification(config, encoder)

    return make


def _draw_head(model: PreTrainedModel, seed: int) -> None:
    """Draws everything outside of the encoder anew, also what the checkpoint held under the same name and shape."""
    encoder = {id(weight) for weight in model.base_model.parameters()}
    set_seed(seed)
    for module in model.modules():
        own = [weight for weight in module.parameters(recurse=False) if id(weight) not in encoder]
        for weight in own:
            weight._is_hf_initialized = False  # else transformers leaves it as it was loaded
        if own:
            with torch.no_grad():
                model._init_weights(module)


def save_task_model(model: PreTrainedModel, tokenizer, folder: Path) -> None:
    """A directory that from_pretrained loads, with the tokenizer that pads and joins pairs as in training."""
    for name in ("add_bos_token", "add_eos_token"):  # with them some tokenizers make their template anew when loaded
        tokenizer.init_kwargs.pop(name, None)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    usual_permissions(folder)
