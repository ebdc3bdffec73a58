"""T5's text to text (Raffel et al. 2020): the task as a text, the answer as a word, no head but the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM, PreTrainedModel, set_seed

from hfssl.errors import InputError
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.batches import make_targets
from hfssl.finetuning.builtin_models import quiet_transformers
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import Head
from hfssl.finetuning.sources import Source
from hfssl.finetuning.strategies.strategy import Strategy, check_choice
from hfssl.finetuning.strategies.text_to_text import LabelWords, TextToTextEncoder, check_task

PREDICTIONS = ("greedy", "likelihood")


@dataclass(frozen=True)
class TextToText(Strategy):
    """An encoder-decoder learns to write the label's word; the loss is minus the logarithm of its probability.

    The loss of an item is the sum over the word's tokens, where T5 takes the mean over a batch's: a constant factor
    for words of equal length, which Adam does not see.
    """

    name: ClassVar[str] = "t5"
    source: ClassVar[str] = "Raffel et al. 2020, section 2.4 and appendix D"
    takes: ClassVar[str] = "encoder-decoder"
    changes: ClassVar[tuple[str, ...]] = ("texts", "loss", "head")
    by_candidate: ClassVar[bool] = False
    takes_flags: ClassVar[bool] = False

    prediction: str = field(
        default="greedy",
        metadata={"help": "greedy: what the model writes, and no label's word is wrong; likelihood: the likeliest."},
    )

    def __post_init__(self):
        check_choice(self, "prediction", PREDICTIONS)

    def check(self, source: Source) -> None:
        super().check(source)
        if type(source.config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise InputError(f"--strategy t5: transformers generates no text with {source.name}")
        if source.tokenizer.eos_token_id is None or source.config.decoder_start_token_id is None:
            raise InputError(
                f"--strategy t5: {source.name} has no end token, or no decoder_start_token_id in its config"
            )

    def choose_head(self, source: Source, task: Task, new_head: bool = False) -> Head:
        check_task(task)
        LabelWords(task, source.tokenizer)
        return Head(task.labels or ("score",), True)

    def encoder(self, tokenizer, max_length: int, with_types: bool) -> TaskEncoder:
        return TextToTextEncoder(tokenizer, max_length, with_types)

    def targets(self, data: SplitData, order: Sequence[str]) -> np.ndarray:
        if data.task.kind != "choice":
            return make_targets(data, order)
        return np.array([data.task.labels.index(label) for label in data.labels], np.int64)

    def load(
        self, source: Source, task: Task, head: Head, seed: int, freeze_encoder: bool = False
    ) -> PreTrainedModel:  # fmt: skip
        """The model that writes, float32.

        Raises:
            InputError: the weights cannot be read.
        """
        self._keep(_words=LabelWords(task, source.tokenizer))
        set_seed(seed)
        try:
            with quiet_transformers():
                model = AutoModelForSeq2SeqLM.from_pretrained(
                    source.path, dtype=torch.float32, use_safetensors=True,
                    trust_remote_code=source.trust_remote_code,
                )  # fmt: skip
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"cannot load {source.name}: {str(error).splitlines()[0]}") from error
        return model

    def losses(self, model, inputs, labels, groups=None):
        return self._words.losses(model, inputs, labels)

    def predict(self, model, inputs) -> torch.Tensor:
        return self._words.predict(model, inputs, self.prediction == "greedy")
