"""What `hfssl glue` and `hfssl superglue` are told: which model on which tasks, and how it is fine-tuned."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field, fields

from hfssl.errors import InputError, one_of
from hfssl.evaluation.results import TRICKS
from hfssl.finetuning.recipes import find_recipe
from hfssl.finetuning.strategies import STRATEGIES, Strategy, parse_strategy

SELECTIONS, PRECISIONS, SAVED = ("best", "last"), ("auto", "bf16", "fp32"), ("best", "all", "none")
WNLI = ("trained", *TRICKS)
FROZEN_RATE = 1e-3  # of a linear layer alone; published rates are for whole models


@dataclass
class SuiteArguments:
    """Which model, tasks and data; how often; what is written."""

    model: str = field(
        metadata={
            "help": "What from_pretrained takes (a folder, a Hub id); word vectors; builtin-demo, -cbow, -bilstm."
        }
    )
    out: str | None = field(
        default=None,
        metadata={"help": "The folder for results, models, report and submission; by default out/SUITE-MODEL."},
    )
    tasks: str = field(default="all", metadata={"help": "all, or names with commas: cola,rte."})
    data_dir: str = field(
        default="hub",
        metadata={
            "help": "A folder with the tasks, builtin:toyglue, a Hub id; by default hub: the official data sets."
        },
    )
    seeds: int | None = field(default=None, metadata={"help": "How many seeds: by default 5 on a GPU, 1 on a CPU."})
    search: bool = field(default=False, metadata={"help": "Try the recipe's published grid on the first seed."})
    mnli_start: bool = field(
        default=True,
        metadata={"help": "Whether RTE, MRPC, STS-B and CB start from the MNLI model, where there is one."},
    )
    mnli_model: str | None = field(
        default=None, metadata={"help": "A saved MNLI task folder to start those tasks from (for SuperGLUE)."}
    )
    wnli: str = field(
        default="trained",
        metadata={"help": "WNLI's predictions: trained; majority of train; ranked: one row of each text is entailed."},
    )
    save_models: str = field(
        default="best", metadata={"help": "Keep of each task the best model on dev, all of them, or none."}
    )
    contamination: str | None = field(
        default=None, metadata={"help": "The pretraining text: count the dev rows whose word 13-grams are in it."}
    )
    diagnostic: str | None = field(
        default=None, metadata={"help": "A diagnostic-full.tsv with labels and tags, for AX by phenomenon."}
    )
    ensemble_of: str | None = field(
        default=None,
        metadata={"help": "Folders with commas: --strategy ensemble averages their runs and trains nothing."},
    )

    def __post_init__(self):
        one_of("--save_models", self.save_models, SAVED)
        one_of("--wnli", self.wnli, WNLI)
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"--seeds must be at least 1, not {self.seeds}")


@dataclass
class LoopArguments:
    """How a model is fine-tuned. What is not given is the recipe's, task by task (hfssl/finetuning/recipes.py)."""

    strategy: str = field(default="plain", metadata={"help": f"{', '.join(STRATEGIES)}; several with +: hire+smart."})
    strategy_options: list[str] = field(
        default_factory=list, metadata={"help": "Of the strategy: weight=3, or smart.weight=3 of several."}
    )
    recipe: str = field(default="auto", metadata={"help": "auto, roberta, bert or scratch."})
    epochs: float | None = field(default=None, metadata={"help": "Passes over the training data."})
    max_steps: int = field(default=-1, metadata={"help": "Updates, instead of epochs; -1: by epochs."})
    batch_size: int | None = field(default=None, metadata={"help": "Examples of an update."})
    learning_rate: float | None = field(default=None, metadata={"help": "The highest one."})
    warmup: float | None = field(default=None, metadata={"help": "Share of the updates in which it rises."})
    weight_decay: float | None = field(default=None, metadata={"help": "Not of biases and norms."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Parts of a batch, for little memory."})
    max_length: int = field(default=512, metadata={"help": "Tokens of a row; the model's positions if fewer."})
    freeze_encoder: bool = field(default=False, metadata={"help": "Train the head alone."})
    new_head: bool = field(
        default=False, metadata={"help": "Put a new head where the checkpoint's own does not fit the task."}
    )
    selection: str = field(default="best", metadata={"help": "The epoch that is reported: best (on dev) or last."})
    precision: str = field(
        default="auto",
        metadata={
            "help": "bf16, fp32, or auto: bf16 on a GPU that has it, but for SMART's and ALICE's tiny steps fp32."
        },
    )
    torch_compile: bool = field(default=False, metadata={"help": "Compile the model, for batches of few shapes (GPU)."})
    torch_compile_mode: str = field(
        default="default", metadata={"help": "Of torch.compile: default, reduce-overhead (CUDA graphs), max-autotune."}
    )
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Widths are multiples of it; by default 8 on a GPU and 1 on a CPU."}
    )
    bucket_batches: int = field(
        default=64, metadata={"help": "Batches whose rows are sorted by length together; 0: none are."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code beside a model on the Hub."})

    def __post_init__(self):
        find_recipe(self.recipe, "")  # refuses a name that is none
        self._check_strategy()
        one_of("--selection", self.selection, SELECTIONS)
        one_of("--precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "learning_rate", "gradient_accumulation_steps", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name} must be positive, not {value}")
        if self.max_steps != -1 and self.max_steps < 1:
            raise InputError(f"--max_steps must be at least 1, or -1 for none, not {self.max_steps}")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise InputError(f"--warmup is a share of the updates, at least 0 and below 1, not {self.warmup}")
        if self.bucket_batches < 0:
            raise InputError(f"--bucket_batches must be at least 0, not {self.bucket_batches}")
        if self.max_length < 8:
            raise InputError(f"--max_length must be at least 8 tokens, not {self.max_length}")
        if self.batch_size is not None and self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                f"--gradient_accumulation_steps {self.gradient_accumulation_steps} does not divide the batch of "
                f"{self.batch_size}"
            )

    def _check_strategy(self) -> None:
        strategy = self.make_strategy()
        if strategy.recipe and self.recipe not in ("auto", strategy.recipe):
            raise InputError(f"--strategy {self.strategy} is the recipe {strategy.recipe}: leave --recipe out")
        self.recipe = strategy.recipe or self.recipe
        if self.precision == "auto" and strategy.needs_fp32:
            self.precision = "fp32"
        if strategy.perturbs and self.torch_compile:
            raise InputError(
                f"--torch_compile does not go with --strategy {self.strategy}, which hooks into the embeddings"
            )
        for flag in ("torch_compile", "freeze_encoder"):
            if getattr(self, flag) and not strategy.takes_flags:
                raise InputError(f"--{flag} does not go with --strategy {self.strategy}")

    def make_strategy(self) -> Strategy:
        """The strategy with its options, for one run."""
        return parse_strategy(self.strategy, self.strategy_options)

    @property
    def changes(self) -> dict[str, float | None]:
        """What was given of a recipe's settings. A head on a frozen encoder learns at `FROZEN_RATE` unless told."""
        names = ("epochs", "batch_size", "learning_rate", "warmup", "weight_decay")
        given = {name: getattr(self, name) for name in names}
        if self.freeze_encoder and self.learning_rate is None:
            given["learning_rate"] = FROZEN_RATE
        return given


def as_command(suite: str, args: SuiteArguments, loop: LoopArguments) -> str:
    """The command that says the same: what is not as it is by default."""
    words = ["hfssl", suite, args.model]
    for given in (args, loop):
        for item in fields(given):
            value = getattr(given, item.name)
            if item.name == "model" or value == item.default or value == []:
                continue
            values = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else value]
            words += [f"--{item.name}", *map(str, values)]
    return shlex.join(words)
