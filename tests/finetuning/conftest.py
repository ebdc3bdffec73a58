"""Tiny models on builtin:toyglue; hfssl's cache is the session's own (tests/conftest.py)."""

import gc

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from hfssl.data.toyglue import toy_texts
from hfssl.evaluation.task_data import load_task
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import choose_head
from hfssl.finetuning.loop import fine_tune
from hfssl.finetuning.recipes import find_recipe
from hfssl.finetuning.sources import open_source
from hfssl.tokenization import train_bpe

TOY = "builtin:toyglue"
# Weights large enough that rows get different outputs.
SIZE = {
    "initializer_range": 0.2,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(autouse=True, scope="session")
def little_garbage():
    """Trainer collects garbage at each beginning: not among what is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bert_tokenizer():
    return train_bpe(toy_texts(), 400, "bert", model_max_length=64, show_progress=False)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory, bert_tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "bert"
    config = BertConfig(
        vocab_size=len(bert_tokenizer), max_position_embeddings=64, pad_token_id=bert_tokenizer.pad_token_id, **SIZE
    )
    BertModel(config).save_pretrained(folder)
    bert_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "gpt"
    tokenizer = train_bpe(toy_texts(), 400, "gpt2", show_progress=False)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, initializer_range=0.2
    )
    GPT2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy():
    """A toy task and its splits, by its key."""
    return lambda key: (TASKS[key], load_task(TASKS[key], TOY))


@pytest.fixture
def tune(tmp_path, toy):
    """Fine-tunes a folder's model on a toy task: `tune(folder, "glue/rte", seed=0, epochs=1, ...)`."""

    def run(folder, key, seed=0, head=None, splits=None, diagnostics=None, **arguments):
        task, whole = toy(key)
        source = open_source(str(folder))
        args = LoopArguments(**{"epochs": 1, "recipe": "scratch"} | arguments)
        encoder = TaskEncoder(source.tokenizer, min(args.max_length, source.positions), source.takes_types)
        settings = find_recipe(args.recipe, source.config.model_type)[1].settings(task, **args.changes)
        head = head or choose_head(source, task, args.new_head)
        return fine_tune(
            source, task, splits or whole, encoder, head, settings, args, seed, tmp_path / "scratch", diagnostics
        )

    return run
