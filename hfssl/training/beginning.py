"""A language model that another recipe goes on with: COMET's ablation sets it beside the same net from scratch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hfssl.data.blocks import fit_vocabulary
from hfssl.errors import InputError
from hfssl.evaluation.language import load_language_model
from hfssl.models.modeling_lm import TRAINING_CLASSES
from hfssl.training.checkpoint import weights_digest


def pretrained_model(
    name: str, config: PreTrainedConfig, given: dict[str, Any], tokenizer, max_length: int
) -> PreTrainedModel:
    """A saved causal language model in its training class, as large as a tokenizer.

    Args:
        name: its folder or Hub id; special tokens that it lacks get embeddings drawn from the distribution of the rest.
        config, given: the recipe's model, and which of its fields were given. They must be those of the saved model, so
            that both arms of a comparison are of one size; dropout alone is the recipe's.
        max_length: tokens that must fit its positions.

    Raises:
        InputError: it is no causal language model that trains here, another one than is given, or too short.
    """
    saved, _, masked = load_language_model(name)
    if masked or not isinstance(saved, TRAINING_CLASSES):
        kinds = ", ".join(one.config_class.model_type for one in TRAINING_CLASSES[:2])
        raise InputError(f"{name} is a {type(saved).__name__}; --init_from takes a causal model of {kinds}")
    if given and config.model_type != saved.config.model_type:
        raise InputError(f"{name} is a {saved.config.model_type}, and the recipe's model a {config.model_type}")
    settings = copy.deepcopy(saved.config)
    for field in given.keys() - {"architecture"}:
        wanted, found = getattr(config, field), getattr(saved.config, field)
        if field.endswith(("pdrop", "dropout")):
            setattr(settings, field, wanted)
        elif wanted != found:
            raise InputError(f"model.{field} is {wanted} here and {found} in {name}: give the same, or leave it out")
    model = type(saved)(settings)
    model.load_state_dict(saved.state_dict())
    model.resize_token_embeddings(len(tokenizer))
    fit_vocabulary(model.config, tokenizer, max_length, "max_length")
    model.begun_from = f"{Path(name).name}, weights {weights_digest(saved)[:16]}"  # it makes the run another one
    return model
