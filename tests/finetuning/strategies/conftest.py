"""A tiny encoder-decoder that writes text."""

import copy

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite


@pytest.fixture(scope="session")
def t5_tokenizer(bert_tokenizer):
    tokenizer = copy.deepcopy(bert_tokenizer)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory, t5_tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "t5"
    config = T5Config(
        vocab_size=len(t5_tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=t5_tokenizer.pad_token_id, eos_token_id=t5_tokenizer.eos_token_id,
        decoder_start_token_id=t5_tokenizer.pad_token_id,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    t5_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def go(bert_folder, tmp_path):
    """`go("glue", "cola,rte", strategy="ensemble", max_steps=2)`: runs into tmp_path / out and returns the result."""

    def run(name, tasks, model=None, out="out", **arguments):
        ours = {key: arguments.pop(key) for key in list(arguments) if key in SuiteArguments.__dataclass_fields__}
        args = SuiteArguments(
            str(model or bert_folder), str(tmp_path / out), tasks, **{"data_dir": "builtin:toyglue"} | ours
        )
        return run_suite(name, args, LoopArguments(**{"max_steps": 2, "recipe": "scratch"} | arguments))

    return run
