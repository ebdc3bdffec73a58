"""A tiny encoder-decoder that writes text."""

import copy

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import complete_suite
from hfssl.finetuning.outcome import collect, make_result, write_outcome
from hfssl.finetuning.suite import Suite


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

    def run(name, tasks, model=None, out="out", report=False, **arguments):
        ours = {key: arguments.pop(key) for key in list(arguments) if key in SuiteArguments.__dataclass_fields__}
        args = SuiteArguments(
            str(model or bert_folder), str(tmp_path / out), tasks, **{"data_dir": "builtin:toyglue"} | ours
        )
        suite = Suite(name, args, LoopArguments(**{"max_steps": 2, "recipe": "scratch"} | arguments))
        if report:
            return complete_suite(suite)[1]
        tasks = collect(suite, suite.run())  # without its report, whose figures take longer than the training
        result = make_result(suite, tasks)
        write_outcome(suite, tasks, result)
        return result

    return run
