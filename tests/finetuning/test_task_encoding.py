import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, RobertaConfig, RobertaModel

from hfssl.data.blocks import cache_folder
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.sources import open_source


def texts_of(encoder, encoded, row):
    """A row's tokens as text, special tokens shown."""
    return encoder.tokenizer.decode(encoded.ids[encoded.starts[row] : encoded.starts[row + 1]])


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("glue/cola", "[CLS]{0}[SEP]"),
        ("superglue/boolq", "[CLS]{0}[SEP]{1}[SEP]"),
        ("superglue/wsc", "[CLS]{0}[SEP]"),
        ("superglue/multirc", "[CLS]{0}[SEP]{1} {2}[SEP]"),
    ],
)
def test_each_kind_has_its_texts_in_their_places(toy, bert_tokenizer, key, shape):
    _, splits = toy(key)
    data = splits["validation"]
    encoder = TaskEncoder(bert_tokenizer, 200)
    found = encoder.encode(data)
    assert len(found) == len(data) and found.item_rows.tolist() == [1] * len(data)
    for row in (0, 7):
        assert texts_of(encoder, found, row) == shape.format(*(texts[row] for texts in data.texts))
        types = found.types[found.starts[row] : found.starts[row + 1]]
        assert types.max() == int("{1}" in shape) and (np.diff(types.astype(int)) >= 0).all()


def test_candidates_are_rows_of_one_item(toy, bert_tokenizer):
    encoder = TaskEncoder(bert_tokenizer, 200)
    copa = toy("superglue/copa")[1]["validation"]
    found = encoder.encode(copa)
    asked = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}[copa.texts[1][2]]
    for choice in (0, 1):
        wanted = f"[CLS]{copa.texts[0][2]} {asked}[SEP]{copa.candidates[2][choice]}[SEP]"
        assert texts_of(encoder, found, found.items[2] + choice) == wanted
    record = toy("superglue/record")[1]["validation"]
    found = encoder.encode(record)
    assert found.item_rows.tolist() == [len(names) for names in record.candidates]
    assert texts_of(encoder, found, found.items[3] + 1).endswith(
        record.texts[1][3].replace("@placeholder", record.candidates[3][1]) + "[SEP]"
    )


@pytest.mark.parametrize("key", ["superglue/wic", "superglue/wsc"])
def test_spans_are_those_tokens(toy, bert_tokenizer, key):
    _, splits = toy(key)
    data = splits["validation"]
    found = TaskEncoder(bert_tokenizer, 200).encode(data)
    assert found.lost == 0
    for row in range(len(data)):
        tokens = found.ids[found.starts[row] : found.starts[row + 1]]
        types = found.types[found.starts[row] : found.starts[row + 1]]
        for number, (begin, end) in enumerate(data.spans[row]):
            first, after = found.spans[row, number]
            text = data.texts[number if len(data.texts) > 1 else 0][row]
            assert bert_tokenizer.decode(tokens[first:after]).strip() == text[begin:end]
            assert set(types[first:after]) == {number if len(data.texts) > 1 else 0}


def test_texts_that_are_too_long_are_cut_and_counted(toy, bert_tokenizer):
    _, splits = toy("superglue/boolq")
    whole = TaskEncoder(bert_tokenizer, 200).encode(splits["validation"])
    found = TaskEncoder(bert_tokenizer, 40).encode(splits["validation"])
    assert whole.truncated == 0 and found.truncated == (whole.row_lengths > 40).sum() > 0
    assert np.array_equal(found.row_lengths, whole.row_lengths.clip(max=40))
    row = int(whole.row_lengths.argmax())
    question = splits["validation"].texts[0][row]
    assert texts_of(TaskEncoder(bert_tokenizer, 40), found, row).startswith(f"[CLS]{question}[SEP]")
    wic = TaskEncoder(bert_tokenizer, 12).encode(toy("superglue/wic")[1]["validation"])
    assert wic.lost > 0 and (wic.spans[..., 1] <= wic.row_lengths[:, None]).all()


def test_texts_are_tokenised_once_for_all_and_kept_on_the_disk(toy, bert_tokenizer, monkeypatch):
    _, splits = toy("superglue/wic")
    encoder = TaskEncoder(bert_tokenizer, 57)
    first = encoder.encode(splits["train"])
    assert encoder.encode(splits["train"]) is first
    calls = []
    monkeypatch.setattr(TaskEncoder, "_encode", lambda self, data: calls.append(data) or first)
    again = TaskEncoder(bert_tokenizer, 57).encode(splits["train"])  # another process would do the same
    assert not calls
    for name in ("ids", "starts", "types", "items", "spans"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert (again.truncated, again.lost) == (first.truncated, first.lost)
    for other in (TaskEncoder(bert_tokenizer, 58), TaskEncoder(bert_tokenizer, 57, with_types=False)):
        other.encode(splits["train"])
    assert len(calls) == 2


def test_a_damaged_cache_file_is_made_anew(toy, bert_tokenizer, caplog):
    _, splits = toy("glue/cola")
    before = set((cache_folder() / "encoded").glob("*.npz"))
    first = TaskEncoder(bert_tokenizer, 43).encode(splits["validation"])
    (made,) = set((cache_folder() / "encoded").glob("*.npz")) - before
    made.write_bytes(made.read_bytes()[:100])
    again = TaskEncoder(bert_tokenizer, 43).encode(splits["validation"])
    assert np.array_equal(first.ids, again.ids) and "damaged" in caplog.text


def test_a_tokenizer_with_fixed_truncation_and_padding_is_asked_for_neither(toy, bert_tokenizer):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(bert_tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(16)
    backend.enable_padding(length=16)
    fixed = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    _, splits = toy("glue/rte")
    wanted = TaskEncoder(bert_tokenizer, 60, with_types=False)
    found = TaskEncoder(fixed, 60, with_types=False)
    assert np.array_equal(found.encode(splits["validation"]).ids, wanted._encode(splits["validation"]).ids)


def test_a_left_to_right_pair_has_an_end_token_between(gpt_folder, toy):
    source = open_source(str(gpt_folder))
    assert source.separator == "<|endoftext|>" and source.tokenizer.pad_token == "<|endoftext|>"
    data = toy("glue/rte")[1]["validation"]
    encoder = TaskEncoder(source.tokenizer, 60, source.takes_types)
    found = encoder.encode(data)
    assert found.types is None
    assert texts_of(encoder, found, 0) == f"{data.texts[0][0]}<|endoftext|>{data.texts[1][0]}"
    assert texts_of(encoder, encoder.encode(toy("glue/cola")[1]["validation"]), 0) == toy("glue/cola")[1][
        "validation"
    ].texts[0][0]  # fmt: skip


def test_every_task_can_be_encoded(toy, bert_tokenizer):
    encoder = TaskEncoder(bert_tokenizer, 64)
    for key, task in TASKS.items():
        if task.suite != "other":
            _, splits = toy(key)
            data = next(iter(splits.values()))
            found = encoder.encode(data)
            assert len(found) == len(data) and found.row_lengths.max() <= 64


FEW = 12  # positions of a model


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt"])
def test_a_model_of_few_positions_is_never_given_more(kind, bert_tokenizer, gpt_folder, tmp_path, monkeypatch):
    """Single texts, pairs and candidates, in training and in prediction, also where widths are multiples of 8."""
    tokenizer = open_source(str(gpt_folder)).tokenizer if kind == "gpt" else bert_tokenizer
    places = FEW + tokenizer.pad_token_id + 1 if kind == "roberta" else FEW  # RoBERTa counts from its padding on
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
            "max_position_embeddings": places, "vocab_size": len(tokenizer)}  # fmt: skip
    model = {
        "bert": lambda: BertModel(BertConfig(**size)),
        "roberta": lambda: RobertaModel(RobertaConfig(pad_token_id=tokenizer.pad_token_id, **size)),
        "gpt": lambda: GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_positions=FEW, n_embd=8, n_layer=1, n_head=1)),
    }[kind]()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    widths, highest, look_up = set(), set(), torch.nn.Embedding.forward

    def recorded(table, ids):
        if table.num_embeddings == places:
            widths.add(ids.shape[-1])
            highest.add(int(ids.max()))
        return look_up(table, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", recorded)
    for suite, task in (("glue", "cola"), ("glue", "rte"), ("superglue", "copa")):
        args = SuiteArguments(str(tmp_path / "model"), str(tmp_path / task), task, "builtin:toyglue")
        result = run_suite(suite, args, LoopArguments(max_steps=1, recipe="scratch", pad_to_multiple_of=8))
        assert any("rows of train were truncated" in flag for flag in result.tasks[task].flags)
        assert (widths, highest) == ({FEW}, {places - 1}), task
        widths.clear()
        highest.clear()
