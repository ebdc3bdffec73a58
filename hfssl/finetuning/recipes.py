"""Published ways to fine-tune, as rows of data: learning rate, batch size, epochs and their grid for each task.

Sources: `roberta` is fairseq's examples/roberta/README.glue.md (Liu et al. 2019, table 10 and section 5.1); `bert` is
Devlin et al. 2019, appendix A.3, and transformers' run_glue README; SuperGLUE's rows are jiant's superglue_bert.conf
(Wang et al. 2019). `scratch` is our own, for models that were never pretrained: no paper has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hfssl.errors import InputError, nearest
from hfssl.evaluation.tasks import Task


@dataclass(frozen=True)
class Settings:
    """How one model is fine-tuned on one task.

    Attributes:
        batch_size: examples of one update; a question with its candidates is one.
        epochs: passes over the training data.
        warmup: share of the updates in which the learning rate rises; after that it falls linearly to 0.
        max_grad_norm: 0 does not clip.
    """

    learning_rate: float
    batch_size: int
    epochs: float
    warmup: float
    weight_decay: float
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "epochs", float(self.epochs))  # 3 and 3.0 name one job


@dataclass(frozen=True)
class Recipe:
    """Settings for each task and the grid that `--search` tries.

    Attributes:
        default: for a task without a row.
        rows: what differs, by the task's key.
        grid: values of the settings that the paper searched.
        from_mnli: names of tasks that start from MNLI's model (Liu et al. 2019, section 5.1; CB: Wang et al. 2019).
    """

    source: str
    default: Settings
    rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    from_mnli: tuple[str, ...] = ("rte", "mrpc", "stsb", "cb")

    def settings(self, task: Task, **changes: float | None) -> Settings:
        """The task's settings, with those of `changes` that are not None in their place."""
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self.default, **{**self.rows.get(task.key, {}), **given})

    def trials(self, task: Task, **changes: float | None) -> list[Settings]:
        """Every point of the grid, the recipe's own settings first; what `changes` fixes is not searched."""
        own = self.settings(task, **changes)
        axes = {name: values for name, values in self.grid.items() if changes.get(name) is None}
        points = [replace(own, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
        return [own, *(point for point in points if point != own)]


_ADAM_ROBERTA = {"adam_beta2": 0.98, "adam_epsilon": 1e-6, "max_grad_norm": 0.0}
_SUPERGLUE_SMALL = ("cb", "copa", "rte", "wic", "wsc", "boolq", "multirc", "record")

RECIPES = {
    "roberta": Recipe(
        "fairseq README.glue.md and examples/roberta/wsc (Liu et al. 2019)",
        Settings(1e-5, 16, 10, 0.06, 0.1, **_ADAM_ROBERTA),
        {
            "glue/mnli": {"batch_size": 32},
            "glue/qnli": {"batch_size": 32},
            "glue/qqp": {"batch_size": 32, "warmup": 0.25},  # 28,318 of 113,272 updates
            "glue/sst2": {"batch_size": 32},
            "glue/rte": {"learning_rate": 2e-5},
            "glue/stsb": {"learning_rate": 2e-5},
            "superglue/rte": {"learning_rate": 2e-5},
            "superglue/wsc": {"learning_rate": 2e-5},
        },
        {"learning_rate": (1e-5, 2e-5, 3e-5), "batch_size": (16, 32)},
    ),
    "bert": Recipe(
        "Devlin et al. 2019, appendix A.3, and transformers' run_glue; SuperGLUE: jiant superglue_bert.conf",
        Settings(2e-5, 32, 3, 0.1, 0.01),
        # jiant: learning rate 1e-5, batches of 4, up to 10 epochs, the best on dev. Its batches are of one GPU's size;
        # 16 is the smaller one of BERT's grid.
        {f"superglue/{name}": {"batch_size": 16, "epochs": 10, "learning_rate": 1e-5} for name in _SUPERGLUE_SMALL},
        {"learning_rate": (2e-5, 3e-5, 4e-5, 5e-5), "batch_size": (16, 32), "epochs": (2, 3, 4)},
    ),
    "scratch": Recipe(
        "hfssl's own, for a model that was never pretrained",
        Settings(5e-4, 32, 15, 0.1, 0.01),
        {},
        {"learning_rate": (2e-4, 5e-4, 1e-3, 3e-3)},
    ),
}
_FAMILIES = {"roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}


def find_recipe(name: str, model_type: str, pretrained: bool = True) -> tuple[str, Recipe]:
    """A recipe by name; ``auto`` is the one of the model's family, BERT's for any other.

    Raises:
        InputError: no such recipe, with the nearest names.
    """
    if name == "auto":
        name = _FAMILIES.get(model_type, "bert") if pretrained else "scratch"
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}: auto, {', '.join(RECIPES)}{nearest(name, RECIPES)}")
    return name, RECIPES[name]
