"""Word vectors as a frozen baseline: the mean of the known words, and a linear layer that alone learns."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hfssl.data.toyglue import toy_texts
from hfssl.errors import InputError
from hfssl.evaluation.vector_files import WordVectors, write_vectors
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite
from hfssl.finetuning.word_vectors import are_word_vectors, make_sentence_model, sentence_tokenizer
from hfssl.models import CBOWConfig, CBOWForPreTraining, SentenceModel
from hfssl.tokenization import word_tokenizer


@pytest.fixture(scope="module")
def vectors():
    words = sorted({word for text in toy_texts() for word in text.lower().split() if word.isalpha()})
    return WordVectors(words, np.random.default_rng(0).normal(size=(len(words), 12)) * 7)


def tokens(tokenizer, *texts):
    found = tokenizer(*texts)
    return tokenizer.convert_ids_to_tokens(found["input_ids"]), found["token_type_ids"]


def test_texts_are_cut_into_words_and_marks():
    tokenizer = sentence_tokenizer(["don't", "grüße", "!", "[sep]x"])
    assert tokens(tokenizer, "Don't send Grüße!") == (["[CLS]", "don't", "[UNK]", "grüße", "!"], [0] * 5)
    assert tokens(tokenizer, "Grüße", "don't") == (["[CLS]", "grüße", "don't"], [0, 0, 1])
    assert tokens(tokenizer, "")[0] == ["[CLS]"]
    assert tokens(sentence_tokenizer(["Paris", "paris"]), "Paris paris PARIS")[0] == [
        "[CLS]",
        "Paris",
        "paris",
        "[UNK]",
    ]


def test_the_features_are_means_of_known_words(vectors, tmp_path):
    write_vectors(vectors, tmp_path / "own.vec")
    folder = make_sentence_model(str(tmp_path / "own.vec"), tmp_path)
    assert make_sentence_model(str(tmp_path / "own.vec"), tmp_path) == folder
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second = vectors.words[3:6], vectors.words[7:8]
    batch = tokenizer(" ".join(["Zyxxy", *first]).upper(), " ".join([*second, "zyxxy"]), return_tensors="pt")
    scaled = vectors.vectors.astype(float) / np.sqrt((vectors.vectors.astype(float) ** 2).mean())
    u, v = scaled[3:6].mean(axis=0), scaled[7]
    layer = model.classifier[-1]
    assert len([*model.classifier.parameters()]) == 2  # a linear layer alone
    features = torch.tensor(np.concatenate([u, v, abs(u - v), u * v]), dtype=torch.float32)
    assert torch.allclose(model(**batch).logits[0], layer(features), atol=1e-5)
    nothing = model(**tokenizer("zyxxy", return_tensors="pt")).logits[0]
    assert torch.equal(nothing, layer.bias)


def test_a_cbow_folder_in_the_suite(vectors, tmp_path):
    model = CBOWForPreTraining(CBOWConfig(vocab_size=len(vectors), hidden_size=vectors.width))
    with torch.no_grad():
        model.cbow.input_embeddings.weight.copy_(torch.from_numpy(vectors.vectors))
    model.save_pretrained(tmp_path / "cbow")
    word_tokenizer(vectors.words).save_pretrained(tmp_path / "cbow")
    args = SuiteArguments(str(tmp_path / "cbow"), str(tmp_path / "out"), "rte,cola", "builtin:toyglue", seeds=1)
    result = run_suite("glue", args, LoopArguments(max_steps=3))
    assert result.kind == "baseline" and "a sentence is the mean of its words'" in result.protocol
    assert "The model was never pretrained" not in result.protocol and set(result.tasks) == {"rte", "cola"}
    (folder,) = (tmp_path / "out").glob("word-vectors-*")
    before = SentenceModel.from_pretrained(folder).embeddings.weight.detach()
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "models" / "rte")
    assert torch.equal(trained.sentence.embeddings.weight, before)
    assert result.tasks["rte"].settings["learning_rate"] == 3e-3 and result.tasks["rte"].started_from is None
    assert torch.equal(before[:5], torch.zeros(5, vectors.width)) and before[5:].square().mean() == pytest.approx(1)
    again = run_suite("glue", args, LoopArguments(max_steps=3))  # nothing is left to do
    assert again.tasks["rte"].scores == result.tasks["rte"].scores


def test_other_vectors_want_another_folder(vectors, tmp_path):
    for name, factor in (("a", 1), ("b", 2)):
        changed = vectors.vectors.copy()
        changed[0] *= factor
        write_vectors(WordVectors(vectors.words, changed), tmp_path / f"{name}.vec")
    for name in "ab":
        args = SuiteArguments(str(tmp_path / f"{name}.vec"), str(tmp_path / "out"), "rte", "builtin:toyglue", seeds=1)
        if name == "a":
            run_suite("glue", args, LoopArguments(max_steps=1))
        else:
            with pytest.raises(InputError, match=r"holds results of .*; give .* another --out"):
                run_suite("glue", args, LoopArguments(max_steps=1))


def test_what_holds_word_vectors(tmp_path, bert_folder):
    assert not are_word_vectors(str(bert_folder)) and not are_word_vectors("builtin-cbow")
    (tmp_path / "some.json").touch()
    assert not are_word_vectors(str(tmp_path / "some.json"))
    write_vectors(WordVectors(["a"], np.zeros((1, 2))), tmp_path / "zero.vec")
    assert are_word_vectors(str(tmp_path / "zero.vec"))
    with pytest.raises(InputError, match=r"all vectors of .*zero\.vec are 0"):
        make_sentence_model(str(tmp_path / "zero.vec"), tmp_path)
