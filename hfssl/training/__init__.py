"""The one path on which every model trains: `loss = model(**batch).loss` in a `PretrainingTrainer`, then `run`."""

from hfssl.training.arguments import PretrainingArguments
from hfssl.training.run import run
from hfssl.training.trainer import PretrainingTrainer

__all__ = ["PretrainingArguments", "PretrainingTrainer", "run"]
