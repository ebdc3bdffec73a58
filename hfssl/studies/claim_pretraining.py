"""The arms of `hfssl verify-claim`: one net that learns to read left to right, to fill in blanks, or both in turn.

Every arm has BERT's net, of the same size and from the same first weights, the same tokenizer and the same blocks of
text in the same order. Left to right it is a BertLMHeadModel, whose attention is causal; for blanks a BertForMaskedLM.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import BertConfig, PreTrainedModel, set_seed

from hfssl.benchmarking import step_seconds
from hfssl.config import build_model
from hfssl.data.blocks import CausalCollator, TextData
from hfssl.data.corpus import tokenizer_hash
from hfssl.data.masking import MaskingCollator
from hfssl.errors import InputError
from hfssl.finetuning.builtin_models import quiet_transformers, save_whole
from hfssl.models.modeling_lm import BertForTraining, language_model
from hfssl.tokenization import load_tokenizer
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.checkpoint import weights_digest
from hfssl.training.run import RUN
from hfssl.training.throughput import training_flops_per_token

logger = logging.getLogger(__name__)

LM, BLANK_LM, LM_THEN_BLANK = "LM", "blank LM", "LM then blank LM"
ARMS = (LM, BLANK_LM, LM_THEN_BLANK)
BUDGETS = ("tokens", "flops", "seconds")
NULL_SEED = 1000  # what the null control's second blank LM adds to each seed
_SPEED_STEPS, _SPEED_WARMUP, _SPEED_ROUNDS = 8, 2, 3
_EMBEDDINGS = tuple(f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))


@dataclass(frozen=True)
class Stage:
    """A part of an arm's pretraining: with which objective, how many steps, from which sample on."""

    objective: str
    steps: int
    first_sample: int = 0


@dataclass(frozen=True)
class Settings:
    """How every arm is pretrained.

    Attributes:
        then_share: of the budget, what "LM then blank LM" spends on blanks.
        control: "null" makes the LM arm a second blank LM from other seeds; any other value changes nothing here.
    """

    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    mlm_probability: float
    checkpoint_steps: int
    then_share: float
    bf16: bool
    control: str


def budget_text(budget: float, separator: str = "") -> str:
    """A budget in all its digits, so that two of them never read alike; `separator` stands between thousands."""
    return f"{int(budget) if budget == int(budget) else budget:{separator}}"


class Pretraining:
    """Plans and trains the arms.

    Args:
        config: BERT's, with the vocabulary of the data's tokenizer.
        data: in BERT's style, for all arms.
        budget: what budgets count, one of `BUDGETS`.
    """

    def __init__(self, config: BertConfig, data: TextData, settings: Settings, budget: str):
        self.config, self.data, self.settings, self.budget = config, data, settings, budget
        self.block_size = data.train.block_size
        predicted = max(1, round(settings.mlm_probability * self.block_size))
        shares = {LM: 1.0, BLANK_LM: predicted / self.block_size}  # of the tokens that the output layer reads
        self.flops = {  # of a token's training step, by objective
            objective: training_flops_per_token(self.fresh(objective, 0), self.block_size, share)
            for objective, share in shares.items()
        }

    @property
    def step_tokens(self) -> int:
        return self.settings.batch_size * self.block_size

    def fresh(self, objective: str, seed: int) -> PreTrainedModel:
        """The net before any training: for one seed the same weights whatever the objective."""
        set_seed(seed)
        return build_model(language_model, self._config(objective))

    def plan(self, arm: str, budget: float, step_seconds: Mapping[str, float] | None = None) -> list[Stage]:
        """What an arm does with a budget.

        Args:
            step_seconds: measured, by objective; needed where the budget is of seconds.

        Raises:
            InputError: a part of the budget is less than one step.
        """
        if arm == LM_THEN_BLANK:
            parts = [(LM, 1 - self.settings.then_share), (BLANK_LM, self.settings.then_share)]
        else:
            parts = [(BLANK_LM if self.settings.control == "null" else arm, 1.0)]
        stages, sample = [], 0
        for objective, share in parts:
            cost = {
                "tokens": self.step_tokens,
                "flops": self.flops[objective] * self.step_tokens,
                "seconds": (step_seconds or {}).get(objective, math.inf),
            }[self.budget]
            steps = int(share * budget / cost * (1 + 1e-12))  # 0.3 * 10 is 3 steps, not 2.9999999999999996
            if steps < 1:
                part = "" if share == 1 else f", whose {objective} has {share * budget:g} of it"
                raise InputError(
                    f"a budget of {budget_text(budget)} {self.budget} is smaller than one step of {arm}{part}: a step "
                    f"is {cost:g}"
                )
            stages.append(Stage(objective, steps, sample))
            sample += steps * self.settings.batch_size
        return stages

    def train(self, arm: str, seed: int, stages: list[Stage], folder: Path) -> dict[str, Any]:
        """Trains one arm, or goes on where it was stopped; the model is in `folder`, as from_pretrained takes it.

        Returns:
            "steps" of each stage, "tokens", "flops", "seconds" and the last stage's "loss" on held-out text (nats a
            predicted token: of other tokens for an LM than for a blank LM).
        """
        if arm == LM and self.settings.control == "null":
            seed += NULL_SEED
        earlier, seconds, metrics = None, 0.0, {}
        for number, stage in enumerate(stages, 1):
            here = folder if number == len(stages) else folder.with_name(f"{folder.name}-{stage.objective}")
            trainer = self._trainer(stage, seed, here, earlier)
            metrics = run(trainer)
            seconds += json.loads((here / RUN).read_text())["seconds"]  # of all parts of a run that was stopped
            for checkpoint in here.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            earlier = here
        return {
            "steps": [stage.steps for stage in stages],
            "tokens": sum(stage.steps for stage in stages) * self.step_tokens,
            "flops": sum(stage.steps * self.flops[stage.objective] for stage in stages) * self.step_tokens,
            "seconds": round(seconds, 1),
            "loss": metrics["eval_loss"],
        }

    def save_untrained(self, seed: int, folder: Path) -> Path:
        """The random init of the blank LM, as from_pretrained takes it."""
        return save_whole(self.fresh(BLANK_LM, seed), self.data.tokenizer, folder)

    def measure(self, folder: Path) -> dict[str, float]:
        """The seconds of a step of each objective here: medians of short trainings in turns, which leave nothing."""
        found: dict[str, list[float]] = {LM: [], BLANK_LM: []}
        for number in range(_SPEED_ROUNDS):
            for objective, seconds in found.items():
                where = folder / f"{objective}-{number}"
                trainer = self._trainer(Stage(objective, _SPEED_STEPS), 0, where)
                seconds += step_seconds(trainer, _SPEED_WARMUP)
        shutil.rmtree(folder, ignore_errors=True)
        return {objective: statistics.median(seconds) for objective, seconds in found.items()}

    def _config(self, objective: str) -> BertConfig:
        config = copy.deepcopy(self.config)
        config.is_decoder = objective == LM
        return config

    def _trainer(self, stage: Stage, seed: int, folder: Path, earlier: Path | None = None) -> PretrainingTrainer:
        settings, on_gpu = self.settings, torch.cuda.is_available()
        args = PretrainingArguments(
            output_dir=str(folder), max_steps=stage.steps, per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size, learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup, weight_decay=settings.weight_decay, lr_scheduler_type="linear", seed=seed,
            bf16=settings.bf16, save_steps=settings.checkpoint_steps, save_total_limit=1,
            logging_steps=max(1, stage.steps // 4), report_to="none", disable_tqdm=True, use_cpu=not on_gpu,
        )  # fmt: skip
        args._n_gpu = min(args.n_gpu, 1)  # one job, one GPU: others take other jobs
        collator = CausalCollator()
        if stage.objective == BLANK_LM:
            collator = MaskingCollator(self.data.tokenizer, settings.mlm_probability, seed=seed, positions=True)
        model = self.fresh(stage.objective, seed) if earlier is None else self._go_on(earlier, stage.objective)
        set_seed(seed)  # dropout's draws
        return PretrainingTrainer(
            model, args, self.data.train, eval_dataset=self.data.eval, data_collator=collator,
            processing_class=self.data.tokenizer, first_sample=stage.first_sample,
        )  # fmt: skip

    def _go_on(self, earlier: Path, objective: str) -> PreTrainedModel:
        """The weights of an LM under the attention of a blank LM."""
        with quiet_transformers():
            model = BertForTraining.from_pretrained(earlier, config=self._config(objective), dtype=torch.float32)
        model.begun_from = f"{LM}, weights {weights_digest(model)[:16]}"  # it makes the run another one
        return model


def same_network(folders: Mapping[str, Path]) -> dict[str, Any]:
    """What the saved models of all arms have in common.

    Args:
        folders: by what to call each.

    Returns:
        "non-embedding parameters", how many; "vocabulary", its size; "tokenizer", a hash of it.

    Raises:
        InputError: two of them have other vocabularies, or nets of other shapes.
    """
    first, found = "", {}
    for name, folder in folders.items():
        tokenizer = load_tokenizer(str(folder))
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            keys = file.keys()
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
        net = {
            "tokenizer": tokenizer_hash(tokenizer),
            "vocabulary": len(tokenizer),
            "non-embedding parameters": sum(
                math.prod(shape) for key, shape in shapes.items() if key not in _EMBEDDINGS
            ),
            "shapes": shapes,
        }
        first = first or name
        found = found or net
        if (net["tokenizer"], shapes[_EMBEDDINGS[0]]) != (found["tokenizer"], found["shapes"][_EMBEDDINGS[0]]):
            raise InputError(f"{name} has another vocabulary than {first}: arms are compared on one tokenizer")
        if net["shapes"] != found["shapes"]:
            raise InputError(f"{name} has another net than {first}: arms are compared on one")
    return {key: value for key, value in found.items() if key != "shapes"}
