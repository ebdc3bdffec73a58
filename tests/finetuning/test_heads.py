import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertConfig,
    GPT2Config,
    GPT2Model,
    ViTConfig,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from hfssl.errors import InputError
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.builtin_models import make_builtin
from hfssl.finetuning.heads import choose_head, load_model, save_task_model
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.strategies import parse_strategy
from hfssl.finetuning.strategies.hire import Hire
from hfssl.finetuning.strategies.pooled import Pooled
from hfssl.models import SpanForSequenceClassification
from tests.without_hfssl import REFUSE_HFSSL

FAIRSEQ = ("contradiction", "neutral", "entailment")  # the order of RoBERTa's and BART's ported MNLI heads


@pytest.fixture(scope="module")
def mnli_checkpoint(tmp_path_factory, bert_folder):
    """A three-way head whose classes stand in another order than the data's."""
    folder = tmp_path_factory.mktemp("models") / "mnli"
    names = {"id2label": dict(enumerate(FAIRSEQ)), "label2id": {name: i for i, name in enumerate(FAIRSEQ)}}
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=3, **names)
    torch.nn.init.normal_(model.classifier.weight)
    save_task_model(model, open_source(str(bert_folder)).tokenizer, folder)
    return folder


def test_a_checkpoints_own_order_is_honoured_in_train_dev_and_test(tune, mnli_checkpoint, toy):
    """Without any learning the predictions are the checkpoint's, by its own names; the loss is that of those names."""
    task, splits = toy("glue/mnli")
    source = open_source(str(mnli_checkpoint))
    head = choose_head(source, task)
    assert head.kept and head.order == FAIRSEQ
    ax = toy("glue/ax")[1]["test"]
    found = tune(mnli_checkpoint, "glue/mnli", max_steps=19, learning_rate=1e-30, diagnostics={"ax": ax})
    model = AutoModelForSequenceClassification.from_pretrained(mnli_checkpoint).eval()

    def said(data):
        given = source.tokenizer(*data.texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            logits = model(**given).logits
        return logits, [model.config.id2label[number] for number in logits.argmax(1).tolist()]

    for split in ("validation_matched", "test_mismatched"):
        logits, names = said(splits[split])
        assert np.allclose(found.logits[split], logits.numpy(), atol=1e-4)
        assert [found.record["head"][number] for number in found.logits[split].argmax(1)] == names
    assert found.logits["ax.test"].shape == (len(ax), 3)
    logits, names = said(splits["validation_matched"])
    right = np.mean([a == b for a, b in zip(names, splits["validation_matched"].labels, strict=True)])
    assert found.record["scores"]["accuracy_m"] == pytest.approx(right)
    saved = found.model.config
    assert tuple(saved.id2label[i] for i in range(3)) == FAIRSEQ and saved.label2id["entailment"] == 2


def test_training_with_a_permuted_head_is_training_with_the_plain_one(tune, bert_folder, toy, tmp_path):
    """The same head with its rows in another order learns the same function: the labels are translated in training."""
    task, _ = toy("glue/mnli")
    source, model = open_source(str(bert_folder)), None
    found = {}
    for order in (task.labels, FAIRSEQ):
        names = {"id2label": dict(enumerate(order)), "label2id": {name: i for i, name in enumerate(order)}}
        model = load_model(source, task, choose_head(source, task), seed=1)
        with torch.no_grad():
            rows = [task.labels.index(name) for name in order]
            model.classifier.weight.copy_(model.classifier.weight[rows].clone())
        for key, value in names.items():
            setattr(model.config, key, value)
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
        folder = tmp_path / order[0]
        save_task_model(model, source.tokenizer, folder)
        record = tune(folder, "glue/mnli", max_steps=12, learning_rate=1e-3).record
        assert record["head_kept"] and record["head"] == list(order)
        found[order] = [record["epochs"][0]["loss"], record["scores"]["accuracy_m"]]
    assert found[task.labels] == pytest.approx(found[FAIRSEQ], rel=1e-4)


def test_a_head_that_does_not_fit_is_refused_or_replaced(mnli_checkpoint, bert_folder, tmp_path):
    source, rte = open_source(str(mnli_checkpoint)), TASKS["glue/rte"]
    with pytest.raises(InputError, match=r"the head has 3 classes, RTE has 2.*--new_head"):
        choose_head(source, rte)
    with pytest.raises(InputError, match="the head has 3 classes, STS-B has one score"):
        choose_head(source, TASKS["glue/stsb"])
    with pytest.raises(InputError, match="another kind than WiC's"):
        choose_head(source, TASKS["superglue/wic"])
    head = choose_head(source, rte, new_head=True)
    assert head.order == rte.labels and not head.kept
    assert load_model(source, rte, head, 0).classifier.weight.shape == (2, 32)
    # CB's classes are MNLI's: the head goes on, each class under its own name.
    assert choose_head(source, TASKS["superglue/cb"], new_head=True).order == FAIRSEQ
    unnamed = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=2)
    save_task_model(unnamed, source.tokenizer, tmp_path / "unnamed")
    with pytest.raises(InputError, match=r"classes are named LABEL_0, LABEL_1.*--new_head"):
        choose_head(open_source(str(tmp_path / "unnamed")), rte)


def test_a_new_head_is_drawn_by_the_seed_also_over_one_of_the_same_shape(mnli_checkpoint, bert_folder, tmp_path):
    rte = TASKS["glue/rte"]
    unnamed = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=2)
    save_task_model(unnamed, open_source(str(bert_folder)).tokenizer, tmp_path / "unnamed")
    source = open_source(str(tmp_path / "unnamed"))
    head = choose_head(source, rte, new_head=True)
    first, again, other = (load_model(source, rte, head, seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, unnamed.classifier.weight)
    plain = open_source(str(bert_folder))
    assert torch.equal(load_model(plain, rte, choose_head(plain, rte), 1).classifier.weight, first)


def test_a_pooled_head_goes_on_with_its_encoder(bert_folder, tmp_path):
    plain, rte, mnli, mean = open_source(str(bert_folder)), TASKS["glue/rte"], TASKS["glue/mnli"], Pooled()
    make = mean.head(plain, mnli)
    model = load_model(plain, mnli, choose_head(plain, mnli, make=make), 0, make=make)
    assert (model.config.num_spans, model.config.sentence_state) == (0, "mean")
    stock = load_model(plain, rte, choose_head(plain, rte), 0)
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, stock.bert.embeddings.word_embeddings.weight)
    save_task_model(model, plain.tokenizer, tmp_path)
    source = open_source(str(tmp_path))
    assert mean.head(source, mnli) is None and choose_head(source, mnli).kept
    again = load_model(source, mnli, choose_head(source, mnli), 1)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    other = load_model(source, rte, choose_head(source, rte, new_head=True), 0)  # as after a start from MNLI
    assert other.config.sentence_state == "mean" and other.classifier.weight.shape == (2, 32)
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, other.encoder.state_dict()[name]), name
    with pytest.raises(InputError, match=r"the head of .* does not read its last state"):
        Pooled("last").head(source, rte)
    with pytest.raises(InputError, match="another kind than WiC's"):
        choose_head(source, TASKS["superglue/wic"])
    with pytest.raises(InputError, match="WiC has a head on spans"):
        mean.head(plain, TASKS["superglue/wic"])
    with pytest.raises(InputError, match="pooled and hire both change the head"):
        parse_strategy("pooled+hire")
    with pytest.raises(InputError, match=r"pooled.state .men. is not one of first, last, mean; did you mean 'mean'"):
        parse_strategy("pooled", ["state=men"])


ALONE = (
    REFUSE_HFSSL
    + """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

out = sys.argv[1]
results = {}
for name, given in torch.load(out + "/given.pt").items():
    model = AutoModelForSequenceClassification.from_pretrained(out + "/" + name, trust_remote_code=True).eval()
    with torch.no_grad():
        results[name] = model(**given).logits
classify = pipeline("text-classification", model=out + "/rte", tokenizer=AutoTokenizer.from_pretrained(out + "/rte"),
                    device="cpu")
results["label"] = classify({"text": "The dog saw a cat.", "text_pair": "A dog saw a cat."})["label"]
torch.save(results, out + "/results.pt")
"""
)


def test_saved_task_directories_load_without_hfssl(bert_folder, gpt_folder, tmp_path, toy):
    """A stock classifier, span heads on BERT, GPT and a BiLSTM, CBoW, and HIRE, in a process that has no hfssl."""
    texts = ["the dog saw the cat ."] * 20
    sources = {"bert": open_source(str(bert_folder)), "gpt": open_source(str(gpt_folder))}
    for name in ("cbow", "bilstm"):
        made = make_builtin(f"builtin-{name}", texts, tmp_path / f"builtin-{name}")
        sources[name] = open_source(f"builtin-{name}", made=made)
    saved = {"rte": ("bert", "glue/rte"), "wic": ("bert", "superglue/wic"), "gpt-wic": ("gpt", "superglue/wic"),
             "bilstm-wsc": ("bilstm", "superglue/wsc"), "cbow": ("cbow", "glue/mnli"),
             "gpt-stsb": ("gpt", "glue/stsb"), "hire": ("bert", "glue/mnli"), "mean": ("bert", "glue/cola"),
             "last": ("gpt", "glue/rte")}  # fmt: skip
    given, wanted = {}, {}
    for name, (model_name, key) in saved.items():
        source, task = sources[model_name], TASKS[key]
        make = Hire().head(source, task) if name == "hire" else None
        if name in ("mean", "last"):
            make = Pooled(name).head(source, task)
        model = load_model(source, task, choose_head(source, task, make=make), 0, make=make).eval()
        save_task_model(model, source.tokenizer, tmp_path / name)
        ids = torch.randint(5, min(len(source.tokenizer), 12), (2, 9))
        given[name] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if isinstance(model, SpanForSequenceClassification) and model.config.num_spans:
            given[name]["spans"] = torch.tensor([[[1, 3], [4, 5]], [[0, 1], [2, 9]]])
        with torch.no_grad():
            wanted[name] = model(**given[name]).logits
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = torch.load(tmp_path / "results.pt")
    assert results.pop("label") in TASKS["glue/rte"].labels
    for name, logits in wanted.items():
        assert torch.equal(logits, results[name]), name


def test_what_is_no_model_for_text_is_one_line(tmp_path, bert_folder, bert_tokenizer):
    with pytest.raises(InputError, match="no such folder"):
        open_source("./nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no model: a file"):
        open_source(str(tmp_path / "file"))
    with pytest.raises(InputError, match="is no model that from_pretrained takes"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match=r"no builtin model.*did you mean 'builtin-demo'"):
        open_source("builtin-dmeo")
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8,
                       patch_size=4)).save_pretrained(tmp_path / "vit")  # fmt: skip
    bert_tokenizer.save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="is a vit model: transformers has no text classifier of it"):
        open_source(str(tmp_path / "vit"))
    small = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    small.save_pretrained(tmp_path / "small")
    bert_tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"the tokenizer of .*small has 400 entries, its model only 50"):
        open_source(str(tmp_path / "small"))
    no_tokenizer = tmp_path / "no_tokenizer"
    AutoConfig.from_pretrained(bert_folder).save_pretrained(no_tokenizer)
    with pytest.raises(InputError, match="has no tokenizer; save one there"):
        open_source(str(no_tokenizer))


def test_a_model_without_padding_token(gpt_folder, tmp_path, toy):
    """The end token pads, as the config then says; with neither there is no way to make a batch."""
    source = open_source(str(gpt_folder))
    assert source.tokenizer.pad_token_id == source.tokenizer.eos_token_id
    model = load_model(source, TASKS["glue/rte"], choose_head(source, TASKS["glue/rte"]), 0)
    assert model.config.pad_token_id == source.tokenizer.eos_token_id
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((gpt_folder / name).read_bytes())
    settings = json.loads((gpt_folder / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if not key.endswith("_token")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(InputError, match="no padding token and no end token to pad with"):
        open_source(str(tmp_path))


def test_a_left_to_right_model_has_no_token_types(gpt_folder, bert_tokenizer, tmp_path):
    """GPT-2 takes them and looks them up among the words: a tokenizer in BERT's style must not hand it any."""
    model = GPT2Model(GPT2Config(vocab_size=400, n_positions=64, n_embd=16, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    bert_tokenizer.save_pretrained(tmp_path)
    assert "token_type_ids" in bert_tokenizer.model_input_names and not open_source(str(tmp_path)).takes_types


def test_what_reads_padding_or_has_a_decoder_is_refused(bert_tokenizer, tmp_path):
    XLNetModel(XLNetConfig(vocab_size=400, d_model=16, n_layer=1, n_head=2, d_inner=16)).save_pretrained(
        tmp_path / "xl"
    )
    bert_tokenizer.save_pretrained(tmp_path / "xl")
    with pytest.raises(InputError, match="xlnet model, whose classifier reads the last place of a row"):
        open_source(str(tmp_path / "xl"))
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
    BartModel(BartConfig(vocab_size=400, max_position_embeddings=64, **size)).save_pretrained(tmp_path / "bart")
    bert_tokenizer.save_pretrained(tmp_path / "bart")
    source = open_source(str(tmp_path / "bart"))
    assert choose_head(source, TASKS["glue/rte"]).order
    with pytest.raises(InputError, match="encoder with a decoder, of which WiC has no head"):
        choose_head(source, TASKS["superglue/wic"])
    with pytest.raises(InputError, match=r"--strategy pooled reads the states of one encoder, which .*bart is not"):
        Pooled().check(source)


def test_a_saved_tokenizer_joins_pairs_as_in_training(gpt_folder, tmp_path):
    source = open_source(str(gpt_folder))
    assert source.separator
    source.tokenizer.init_kwargs["add_bos_token"] = False  # as Qwen2's has: it would make the template anew
    model = load_model(source, TASKS["glue/rte"], choose_head(source, TASKS["glue/rte"]), 0)
    save_task_model(model, source.tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    pair = ("the dog saw the cat", "a dog saw a cat")
    assert again(*pair)["input_ids"] == source.tokenizer(*pair)["input_ids"]
    assert source.tokenizer.eos_token_id in again(*pair)["input_ids"]


def test_positions_are_those_the_model_has(tmp_path, bert_tokenizer, bert_folder):
    from transformers import RobertaConfig, RobertaModel

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = RobertaModel(RobertaConfig(vocab_size=400, max_position_embeddings=42, type_vocab_size=1, **size))
    model.save_pretrained(tmp_path / "roberta")
    bert_tokenizer.save_pretrained(tmp_path / "roberta")
    source = open_source(str(tmp_path / "roberta"))
    assert source.positions == 40 and not source.takes_types  # it counts from its padding's number, 1, on
    assert open_source(str(bert_folder)).positions == 64 and open_source(str(bert_folder)).takes_types
