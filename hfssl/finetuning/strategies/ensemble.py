"""An ensemble: the predictions of several seeds, strategies or models as one model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hfssl.finetuning.strategies.combination import AVERAGES
from hfssl.finetuning.strategies.strategy import Strategy, check_choice


@dataclass(frozen=True)
class Ensemble(Strategy):
    """Of a run's own seeds, or of what other folders hold (``--ensemble_of``); nothing is trained differently."""

    name: ClassVar[str] = "ensemble"
    source: ClassVar[str] = "the boards' ensembles, such as Liu et al. 2019 (RoBERTa), section 5.1"
    changes: ClassVar[tuple[str, ...]] = ("predictions",)

    average: str = field(
        default="mean",
        metadata={"help": "mean: of probabilities, and of scores; ranks: of ranks (of two classes: the majority)."},
    )

    def __post_init__(self):
        check_choice(self, "average", AVERAGES)

    @property
    def training(self) -> Strategy:
        return Strategy()
