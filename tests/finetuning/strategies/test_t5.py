import json

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hfssl.errors import InputError
from hfssl.evaluation.task_data import load_task
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.loop import decode, fine_tune, unanswered
from hfssl.finetuning.recipes import Settings
from hfssl.finetuning.runs import read_logits
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.strategies import parse_strategy
from hfssl.finetuning.strategies.text_to_text import input_texts, label_words

TOY = "builtin:toyglue"


def test_tasks_are_learned_as_texts_and_the_saved_model_writes_the_predictions(go, t5_folder, tmp_path):
    """The folder's own generate, by stock transformers, gives the predictions of dev."""
    result = go("glue", "sst2", model=t5_folder, strategy="t5", max_steps=60, learning_rate=1e-2)
    assert result.tasks["sst2"].settings["strategy_options"] == {"t5": {"prediction": "greedy"}}
    folder = tmp_path / "out" / "models" / "sst2"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    data = load_task(TASKS["glue/sst2"], TOY)["validation"]
    inputs = tokenizer(input_texts(data), padding=True, truncation=True, max_length=64, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    ids = model.generate(**inputs, max_new_tokens=12, num_beams=1, do_sample=False)
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    found = json.loads((tmp_path / "out" / "predictions" / "sst2.json").read_text())["predictions"]["validation"][0]
    known = [row for row, text in enumerate(texts) if text in label_words(TASKS["glue/sst2"])]
    assert len(known) > 50 and [found[row] for row in known] == [texts[row] for row in known]
    assert all(found[row] != data.labels[row] for row in set(range(len(texts))) - set(known))


def test_what_is_no_word_is_wrong_and_flagged(go, t5_folder, tmp_path):
    """A model that has learned nothing writes no label's word."""
    result = go("superglue", "copa,wic", model=t5_folder, strategy="t5", learning_rate=1e-30)
    for name in ("copa", "wic"):
        assert result.tasks[name].scores["accuracy"] == [0.0]
        rows = result.tasks[name].rows["validation"]
        said = f"{rows} answers of validation are no label's word, and count as wrong"
        assert said in result.tasks[name].flags
    job = result.tasks["copa"].settings["jobs"][0]
    data = load_task(TASKS["superglue/copa"], TOY)["validation"]
    logits = read_logits(tmp_path / "out", job)["validation"]
    assert logits.shape == (2 * len(data), 1) and unanswered(data, logits).all()
    logits[:2] = [[0.0], [1.0]]
    assert decode(data, logits, data.task.labels)[0] == "choice2"


def test_by_likelihood_there_is_always_an_answer(go, t5_folder):
    given = {"model": t5_folder, "strategy": "t5", "strategy_options": ["prediction=likelihood"], "max_steps": 1}
    result = go("superglue", "copa,cb", **given)
    assert not any("no label's word" in flag for task in result.tasks.values() for flag in task.flags)


@pytest.mark.parametrize("key", ["glue/mnli", "superglue/copa"])
def test_an_update_in_parts_is_the_same(toy, t5_folder, tmp_path, key):
    """Labels have different lengths: the mean over items is what counts, however they fall into parts."""
    task, splits = toy(key)
    source, found = open_source(str(t5_folder)), []
    for parts in (1, 4):
        args = LoopArguments(strategy="t5", strategy_options=["prediction=likelihood"], max_steps=3, recipe="scratch",
                             gradient_accumulation_steps=parts)  # fmt: skip
        strategy = args.make_strategy()
        encoder, head = strategy.encoder(source.tokenizer, 64, False), strategy.choose_head(source, task)
        settings = Settings(1e-3, 16, 1, 0.0, 0.0)
        made = fine_tune(source, task, splits, encoder, head, settings, args, 0, tmp_path)
        found.append(made.model.get_input_embeddings().weight.detach())
    before = strategy.load(source, task, head, 0).get_input_embeddings().weight
    assert torch.allclose(found[0], found[1], atol=1e-5) and not torch.allclose(found[0], before, atol=1e-4)


def test_it_is_refused_where_it_does_not_fit(go, bert_folder, t5_folder, tmp_path):
    for arguments, message in (
        (
            {"model": bert_folder},
            "--strategy t5 takes an encoder with a decoder, such as T5 or BART; .* is a bert model",
        ),
        ({"name": "superglue", "tasks": "wsc,cb"}, "WSC has no label words"),
        ({"freeze_encoder": True}, "--freeze_encoder does not go with --strategy t5"),
        ({"strategy": "t5+hire"}, "t5 and hire both change the head"),
        ({"strategy": "t5+multitask"}, "multitask trains a head for each task, and t5 has none; give one of them"),
        ({"strategy": "smart+t5"}, "smart and t5 both change the loss"),
        (
            {"strategy_options": ["prediction=likely"]},
            "t5.prediction 'likely' is not one of greedy, likelihood; did you mean 'likelihood'",
        ),
    ):
        given = {"name": "glue", "tasks": "rte", "model": t5_folder, "strategy": "t5"} | arguments
        with pytest.raises(InputError, match=message):
            go(given.pop("name"), given.pop("tasks"), **given)
    assert not (tmp_path / "out").exists()
    assert parse_strategy("t5+ensemble").training.name == "t5"
    assert LoopArguments(strategy="ensemble").make_strategy().training.is_plain
