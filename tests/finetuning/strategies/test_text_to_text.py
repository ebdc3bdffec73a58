import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from hfssl.errors import InputError
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.strategies.text_to_text import (
    UNREADABLE,
    LabelWords,
    TextToTextEncoder,
    check_task,
    input_texts,
    label_words,
    unknown_rows,
    word_of_score,
)


@pytest.fixture(scope="module")
def model(t5_folder):
    return AutoModelForSeq2SeqLM.from_pretrained(t5_folder).double().eval()


def batch(tokenizer, rows=5):
    torch.manual_seed(1)
    ids = torch.randint(6, len(tokenizer), (rows, 7))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    ("key", "names", "prefix"),
    [
        ("glue/cola", ["sentence"], "cola"),
        ("glue/mnli", ["hypothesis", "premise"], "mnli"),
        ("glue/ax", ["hypothesis", "premise"], "mnli"),
        ("glue/qnli", ["question", "sentence"], "qnli"),
        ("glue/qqp", ["question1", "question2"], "qqp"),
        ("glue/stsb", ["sentence1", "sentence2"], "stsb"),
        ("superglue/boolq", ["passage", "question"], "boolq"),
        ("superglue/multirc", ["question", "answer", "paragraph"], "multirc"),
        ("superglue/wic", ["sentence1", "sentence2", "word"], "wic"),
        ("superglue/copa", ["choice1", "choice2", "premise", "question"], "copa"),
        ("superglue/rte", ["hypothesis", "premise"], "rte"),
        ("superglue/axb", ["hypothesis", "premise"], "rte"),
    ],
)
def test_inputs_are_the_names_and_the_texts(toy, key, names, prefix):
    task, splits = toy(key)
    data = splits[task.scored_splits[0]]
    columns = dict(zip(task.columns, data.texts, strict=True))
    if task.name == "copa":
        columns["choice1"], columns["choice2"] = zip(*data.candidates, strict=True)
    if task.name == "wic":
        columns["word"] = data.words
    if task.name == "axb":
        columns = {"premise": columns["sentence1"], "hypothesis": columns["sentence2"]}
    wanted = prefix + "".join(f" {name}: {columns[name][3]}" for name in names)
    assert input_texts(data)[3] == wanted


def test_multirc_s_markup_is_left_out_and_no_other_task_s(toy):
    found = []
    for key in ("superglue/multirc", "superglue/boolq"):
        data = toy(key)[1]["validation"].select([0], "")
        marked = ["<b>Sent 1: </b>A man ran.<br><b>Sent 2: </b>He fell."], ["Who <b>fell</b>?"], ["He."]
        (text,) = input_texts(dataclasses.replace(data, texts=marked[: len(data.texts)]))
        found.append(text)
    assert found[0] == "multirc question: Who fell? answer: He. paragraph: Sent 1: A man ran. Sent 2: He fell."
    assert "<br>" in found[1] and "<b>fell</b>" in found[1]


def test_an_item_is_one_row_of_any_task(toy, t5_tokenizer):
    encoder = TextToTextEncoder(t5_tokenizer, 64, False)
    for key in ("superglue/copa", "superglue/wic"):
        data = toy(key)[1]["validation"]
        encoded = encoder.encode(data)
        assert encoded.spans is None and encoded.item_rows.tolist() == [1] * len(data)
        row = encoded.ids[encoded.starts[0] : encoded.starts[1]]
        assert row.tolist() == t5_tokenizer(input_texts(data)[0], truncation=True, max_length=64)["input_ids"]


def test_scores_are_written_in_steps_of_a_fifth():
    words = label_words(TASKS["glue/stsb"])
    assert len(words) == 26 and words[0] == "0.0" and words[19] == "3.8" and words[-1] == "5.0"
    scores = torch.tensor([3.25, 0.0, 5.0, 4.87, 0.1])
    assert [words[number] for number in word_of_score(scores)] == ["3.2", "0.0", "5.0", "4.8", "0.0"]
    assert label_words(TASKS["glue/mrpc"]) == ("not_equivalent", "equivalent")


def test_the_loss_is_the_words_log_probability_token_by_token(model, t5_tokenizer):
    words = LabelWords(TASKS["glue/mnli"], t5_tokenizer)
    inputs, labels = batch(t5_tokenizer), torch.tensor([0, 1, 2, 1, 0])
    found, outputs = words.losses(model, inputs, labels)
    assert outputs.logits.ndim == 3
    for row, label in enumerate(labels):
        tokens = [*t5_tokenizer(words.words[label])["input_ids"]]
        assert tokens[-1] == t5_tokenizer.eos_token_id
        before, total = [model.config.decoder_start_token_id], 0.0
        for token in tokens:
            alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            logits = model(**alone, decoder_input_ids=torch.tensor([before])).logits[0, -1]
            total -= logits.log_softmax(0)[token].item()
            before.append(token)
        assert found[row].item() == pytest.approx(total, rel=1e-6)  # transformers' softmax of attention is float32
    states = model.get_encoder()(**inputs)
    likelihoods = words.log_likelihoods(model, inputs, states)
    assert torch.allclose(likelihoods[range(5), labels], -found, rtol=1e-6) and likelihoods.shape == (5, 3)
    found.sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_scores_are_words_too(model, t5_tokenizer):
    words = LabelWords(TASKS["glue/stsb"], t5_tokenizer)
    inputs = batch(t5_tokenizer)
    found, _ = words.losses(model, inputs, torch.tensor([3.25, 0.0, 5.0, 4.87, 0.1]))
    each = words.log_likelihoods(model, inputs, model.get_encoder()(**inputs))
    assert torch.allclose(found, -each[range(5), [16, 0, 25, 24, 0]], rtol=1e-6)
    likely = words.predict(model, inputs, greedy=False)
    assert likely[:, 0].tolist() == pytest.approx((0.2 * each.argmax(1)).tolist())


def test_what_is_written_is_what_transformers_generates(model, t5_tokenizer):
    words = LabelWords(TASKS["glue/mnli"], t5_tokenizer)
    inputs = batch(t5_tokenizer)
    found = words.written(model, inputs, model.get_encoder()(**inputs))
    length = words.ids.shape[1] + 1
    ids = model.generate(**inputs, max_new_tokens=length, num_beams=1, do_sample=False)
    assert found == [text.strip() for text in t5_tokenizer.batch_decode(ids, skip_special_tokens=True)]


def test_a_text_that_is_no_word_is_no_answer(model, t5_tokenizer, monkeypatch):
    words, inputs = LabelWords(TASKS["glue/mnli"], t5_tokenizer), batch(t5_tokenizer, 4)
    likely = words.predict(model, inputs, greedy=False)
    texts = ["neutral", "neutrality", "entailment", ""]
    monkeypatch.setattr(words, "written", lambda *given: texts)
    logits = words.predict(model, inputs, greedy=True)
    assert logits.argmax(1).tolist()[::2] == [1, 0]
    assert unknown_rows(logits.numpy(), words.task).tolist() == [False, True, False, True]
    assert torch.equal(logits[0].sort().values, likely[0].sort().values)
    scores = LabelWords(TASKS["glue/stsb"], t5_tokenizer)
    monkeypatch.setattr(scores, "written", lambda *given: ["3.8", "many", "5.2", "nan"])
    logits = scores.predict(model, inputs, greedy=True).numpy()
    assert logits[:, 0] == pytest.approx(np.array([3.8, UNREADABLE, UNREADABLE, UNREADABLE]))
    assert unknown_rows(logits, scores.task).tolist() == [False, True, True, True]


def test_tasks_without_words_and_tokenizers_that_cannot_write_them():
    with pytest.raises(InputError, match=r"WSC has no label words .*leave it out of --tasks"):
        check_task(TASKS["superglue/wsc"])
    with pytest.raises(InputError, match="ReCoRD has no label words"):
        check_task(TASKS["superglue/record"])
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "acceptable": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(InputError, match="cannot write CoLA's label words apart, such as 'unacceptable'"):
        LabelWords(TASKS["glue/cola"], tokenizer)
