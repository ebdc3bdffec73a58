"""CBOW: the loss and both gradients beside slow references in float64, words made of subwords, and what is saved."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer, PreTrainedTokenizerFast

from hfssl.models import CBOWConfig, CBOWForPreTraining, CBOWModel
from hfssl.models.subwords import ngram_rows
from hfssl.tokenization import word_tokenizer
from tests.without_hfssl import REFUSE_HFSSL

WORDS = ["the", "cat", "sat", "on", "a", "mat", "кошка", "mats"]
SETTINGS = {
    "plain": {},
    "positions": {"position_weights": True},
    "ngrams": {"subwords": "ngrams"},
    "ngrams-lecture": {"subwords": "ngrams", "subword_average": "words"},
    "ngrams-positions": {"subwords": "ngrams", "position_weights": True},
    "bpe": {"subwords": "bpe", "subword_average": "words"},
    "bpe-rows": {"subwords": "bpe", "position_weights": True},
    "skipgram": {"architecture": "skipgram"},
    "skipgram-ngrams": {"architecture": "skipgram", "subwords": "ngrams"},
    "softmax": {"objective": "softmax", "subwords": "ngrams"},
}


@pytest.fixture(scope="module")
def pieces():
    """The words' letters, at, mat and th."""
    letters = [*sorted(set("".join(WORDS))), "at", "mat", "th"]
    merges = [("a", "t"), ("m", "at"), ("t", "h")]
    bpe = Tokenizer(models.BPE({piece: number for number, piece in enumerate(letters)}, merges))
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def make(pieces=None, **settings):
    """A small model in float64 whose parameters are all random."""
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 3,
        "window": 2,
        "buckets": 11,
        "min_n": 2,
        "max_n": 3,
    } | settings
    if settings.get("subwords") == "bpe":
        settings["subword_vocab_size"] = len(pieces)
    torch.manual_seed(0)
    model = CBOWForPreTraining(CBOWConfig(**settings)).double()
    model.set_vocabulary(WORDS, pieces if settings.get("subwords") == "bpe" else None)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def batch(model):
    """Missing context words on any side, one that comes twice, negatives that are left out, one that comes twice."""
    contexts = [[0, 1, 3, 6], [-1, 0, 2, 2], [5, -1, -1, -1], [-1, -1, 7, 4]]
    if model.config.architecture == "skipgram":
        contexts = [[0], [2], [6], [7]]
    given = {"context_ids": torch.tensor(contexts), "target_ids": torch.tensor([2, 1, 4, 0])}
    if model.config.objective == "negative_sampling":
        given["negative_ids"] = torch.tensor([[0, 5, 5], [-1, 7, 3], [-1, -1, -1], [1, 6, -1]])
    return given


def rows_of(model, pieces):
    """By the definition: the rows of each word."""
    config, rows = model.config, []
    for number, word in enumerate(WORDS):
        own = [number]
        if config.subwords == "ngrams":
            own += [len(WORDS) + row for row in ngram_rows(word, config.min_n, config.max_n, config.buckets)]
        elif config.subwords == "bpe":
            own = [len(WORDS) + piece for piece in pieces(word)["input_ids"]]
        rows.append(own)
    return rows


def slow_loss(model, rows, context_ids, target_ids, negative_ids=None):
    """The lecture's sum, word by word."""
    e_in = model.cbow.input_embeddings.weight.detach().numpy()
    e_out = model.output_embeddings.weight.detach().numpy()
    weights = model.cbow.position_weights
    total = 0.0
    for b, context in enumerate(context_ids.tolist()):
        there = [(p, word) for p, word in enumerate(context) if word >= 0]
        count = sum(len(rows[word]) for _, word in there)
        vector = np.zeros(model.config.hidden_size)
        for p, word in there:
            d = np.ones(len(vector)) if weights is None else weights.detach().numpy()[p]
            for row in rows[word]:
                share = count if model.config.subword_average == "rows" else len(there) * len(rows[word])
                vector += d * e_in[row] / share
        target = target_ids[b].item()
        if negative_ids is None:
            scores = e_out @ vector
            total += math.log(sum(math.exp(score) for score in scores)) - scores[target]
            continue
        total += math.log(1 + math.exp(-(e_out[target] @ vector)))
        total += sum(math.log(1 + math.exp(e_out[n] @ vector)) for n in negative_ids[b].tolist() if n >= 0)
    return total


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("gradient", ["exact", "word2vec"])
def test_the_loss_is_the_lecture_s(name, gradient, pieces):
    model = make(pieces, gradient=gradient, **SETTINGS[name])
    given, rows = batch(model), rows_of(model, pieces)
    output = model(**given)
    assert output.loss.item() * 4 == pytest.approx(slow_loss(model, rows, **given), rel=1e-12)
    weight = model.cbow.input_embeddings.weight.detach()
    torch.testing.assert_close(model.word_vectors(), torch.stack([weight[own].mean(0) for own in rows]))
    assert model(**given, return_dict=False)[0] == output.loss
    assert model(given["context_ids"], given["target_ids"], return_loss=False).loss is None


@pytest.mark.parametrize("name", SETTINGS)
def test_the_exact_gradient_is_the_loss_s(name, pieces):
    model = make(pieces, gradient="exact", **SETTINGS[name])
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), kwargs=batch(model)).loss

    assert torch.autograd.gradcheck(loss, values)


@pytest.mark.parametrize("name", SETTINGS)
def test_word2vec_s_gradient_lacks_the_average_s_factor_and_nothing_else(name, pieces):
    given = batch(make(pieces, **SETTINGS[name]))
    for b in range(4):
        one = {key: value[b : b + 1] for key, value in given.items()}
        gradients = []
        for gradient in ("exact", "word2vec"):
            model = make(pieces, gradient=gradient, **SETTINGS[name])
            model(**one).loss.backward()
            gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
        words = [word for word in one["context_ids"][0].tolist() if word >= 0]
        rows = rows_of(model, pieces)
        count = len(words) if model.config.subword_average == "words" else sum(len(rows[word]) for word in words)
        exact, published = gradients
        exact["cbow.input_embeddings.weight"] *= count
        torch.testing.assert_close(published, exact)


def word2vec_update(syn0, syn1neg, context, target, negatives, alpha):
    """word2vec.c, TrainModelThread, cbow with negative sampling; fastText's with a context of all rows is the same."""
    neu1 = sum(syn0[row] for row in context) / len(context)
    neu1e = np.zeros_like(neu1)
    for word, label in [(target, 1), *((negative, 0) for negative in negatives)]:
        g = (label - 1 / (1 + np.exp(-(neu1 @ syn1neg[word])))) * alpha
        neu1e += g * syn1neg[word]
        syn1neg[word] += g * neu1
    for row in context:
        syn0[row] += neu1e


@pytest.mark.parametrize("subwords", ["none", "ngrams"])
def test_a_sentence_is_learned_as_by_the_published_update(subwords, pieces):
    """One thread, one sentence: a step of plain gradient descent at each word, whose next sees what it changed."""
    model = make(subwords=subwords, gradient="word2vec")
    rows = rows_of(model, pieces)
    syn0 = model.cbow.input_embeddings.weight.detach().numpy().copy()
    syn1neg = model.output_embeddings.weight.detach().numpy().copy()
    sentence, widths, alpha = [0, 1, 2, 3, 0, 5, 7], [1, 2, 2, 1, 2, 2, 1], 0.3
    draw = np.random.default_rng(0)
    optimizer = torch.optim.SGD(model.parameters(), alpha)
    for place, (target, width) in enumerate(zip(sentence, widths, strict=True)):
        negatives = [n for n in draw.permutation(len(WORDS))[:4].tolist() if n != target]
        beside = [p if abs(p) <= width and 0 <= place + p < len(sentence) else None for p in (-2, -1, 1, 2)]
        context = [-1 if p is None else sentence[place + p] for p in beside]
        optimizer.zero_grad()
        model(torch.tensor([context]), torch.tensor([target]), torch.tensor([negatives])).loss.backward()
        optimizer.step()
        word2vec_update(
            syn0, syn1neg, [row for word in context if word >= 0 for row in rows[word]], target, negatives, alpha
        )
    np.testing.assert_allclose(model.cbow.input_embeddings.weight.detach().numpy(), syn0, rtol=1e-12)
    np.testing.assert_allclose(model.output_embeddings.weight.detach().numpy(), syn1neg, rtol=1e-12)


@pytest.mark.parametrize(("gradient", "expected"), [("exact", 1.0457711756), ("word2vec", 1.0915423512)])
def test_one_update_by_hand(gradient, expected):
    """V = 2, d = 1, "a b a": h = (1 + 1) / 2, scores 0.5 and -1, so the errors are sigma(0.5) - 1 = -0.3775406688
    and sigma(-1) = 0.2689414214; the loss ln(1 + e^-0.5) + ln(1 + e^-1); a's gradient 0.5 (-0.3775) - 1 (0.2689) =
    -0.4577117558, for word2vec twice as much, since a comes twice. The rate is 0.1."""
    model = CBOWForPreTraining(CBOWConfig(vocab_size=2, hidden_size=1, window=1, gradient=gradient)).double()
    with torch.no_grad():
        model.cbow.input_embeddings.weight.copy_(torch.tensor([[1.0], [7.0]]))
        model.output_embeddings.weight.copy_(torch.tensor([[-1.0], [0.5]]))
    loss = model(torch.tensor([[0, 0]]), torch.tensor([1]), torch.tensor([[0]])).loss
    assert loss.item() == pytest.approx(0.7873386717, abs=1e-10)
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert model.cbow.input_embeddings.weight[:, 0].tolist() == pytest.approx([expected, 7], abs=1e-10)
    assert model.output_embeddings.weight[:, 0].tolist() == pytest.approx([-1.0268941421, 0.5377540669], abs=1e-10)


def test_closed_forms():
    """Untrained, each score is 0; an empty context teaches nothing and breaks nothing."""
    torch.manual_seed(0)
    model = CBOWForPreTraining(CBOWConfig(vocab_size=8, hidden_size=20, window=1))
    ids = {"target_ids": torch.tensor([1, 2]), "negative_ids": torch.tensor([[3, 4], [5, -1]])}
    loss = model(context_ids=torch.tensor([[6, 7], [6, -1]]), **ids).loss
    assert loss.item() == pytest.approx(2.5 * math.log(2))
    weight = model.cbow.input_embeddings.weight
    assert 0.04 < weight.abs().max() <= 1 / 20 and abs(weight.mean().item()) < 0.01
    assert not model.cbow.counts.any() and not model.output_embeddings.weight.any()
    torch.nn.init.ones_(model.output_embeddings.weight)
    loss = model(context_ids=torch.full((2, 2), -1), **ids).loss
    loss.backward()
    assert loss.item() == pytest.approx(2.5 * math.log(2))
    assert not weight.grad.any() and not model.output_embeddings.weight.grad.any()
    softmax = CBOWForPreTraining(CBOWConfig(vocab_size=8, hidden_size=4, window=1, objective="softmax"))
    assert softmax(torch.tensor([[6, 7]]), torch.tensor([1])).loss.item() == pytest.approx(math.log(8))


def test_encode_falls_back_on_subwords_or_names_near_words(pieces, tmp_path):
    weight = (model := make(subwords="ngrams")).cbow.input_embeddings.weight.detach()
    vectors = model.word_vectors()
    got = model.encode(["cat", "cats", "mat", "cats"])
    own = weight[[8 + row for row in ngram_rows("cats", 2, 3, 11)]].mean(0)
    torch.testing.assert_close(got, torch.stack([vectors[1], own, vectors[5], own]))
    assert torch.equal(model.encode(WORDS), vectors) and model.encode([]).shape == (0, 3)
    with pytest.raises(KeyError, match="'x' is none of the 8 words"):
        make(subwords="ngrams", min_n=4, max_n=4).encode(["x"])  # <x> has 3 characters
    weight = (model := make(pieces, subwords="bpe")).cbow.input_embeddings.weight.detach()
    own = weight[[8 + pieces.convert_tokens_to_ids(piece) for piece in ("mat", "c", "at")]].mean(0)
    torch.testing.assert_close(model.encode(["matcat"])[0], own)
    with pytest.raises(KeyError, match="'зуб' is none of the 8 words"):
        model.encode(["cat", "зуб"])  # no piece has its letters
    with pytest.raises(KeyError, match="'cta' is none of the 8 words; did you mean 'cat', 'a'"):
        make().encode(["mat", "cta"])
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"cat": 0}}}))
    make().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer.json has 1 words, the model 8"):
        AutoModel.from_pretrained(tmp_path).encode(["cat"])
    with pytest.raises(TypeError, match=r"a list of words, such as \['cat'\]"):
        model.encode("cat")
    with pytest.raises(OSError, match="was not loaded from a folder"):
        CBOWForPreTraining(CBOWConfig(vocab_size=2)).encode(["cat"])


ALONE = (
    REFUSE_HFSSL
    + """
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
for folder in sys.argv[1:]:
    given = torch.load(folder + "/given.pt")
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert type(model).__module__.startswith("transformers_modules")
    assert torch.equal(model.word_vectors(), given["vectors"])
    assert torch.equal(model.encode(given["words"]), given["encoded"])
    assert torch.equal(model.counts, given["counts"])
    sentences = AutoTokenizer.from_pretrained(folder)(given["text"], padding=True, return_tensors="pt")
    assert torch.equal(model(**sentences).pooler_output, given["sentences"])
    pretraining = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(pretraining(**given["batch"]).loss, given["loss"])
    assert torch.equal(pretraining.encode(given["words"]), given["encoded"])
"""
)


def test_it_is_saved_and_loaded_also_without_hfssl(tmp_path, pieces):
    """Bit for bit, the words that training did not see included."""
    folders = []
    for name in ("plain", "ngrams-positions", "bpe"):
        folder = tmp_path / name
        model = make(pieces, **SETTINGS[name]).float()
        model.cbow.counts.copy_(torch.arange(8, 0, -1))
        model.save_pretrained(folder)
        word_tokenizer(WORDS).save_pretrained(folder)
        if name == "bpe":
            pieces.backend_tokenizer.save(str(folder / "pieces.json"))
        loaded, report = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(loaded) is CBOWModel and not report["missing_keys"] and not report["unexpected_keys"]
        again = AutoModelForPreTraining.from_pretrained(folder)
        assert type(again) is CBOWForPreTraining
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        words = ["mat", "the"] if name == "plain" else ["mat", "hat", "кошак"]
        text = ["the cat sat", "a", "dogs bark"]
        sentences = AutoTokenizer.from_pretrained(folder)(text, padding=True, return_tensors="pt")
        given = {
            "vectors": model.word_vectors(), "words": words, "encoded": model.encode(words), "text": text,
            "sentences": loaded(**sentences).pooler_output.detach(), "batch": batch(model),
            "loss": model(**batch(model)).loss.detach(), "counts": model.cbow.counts,
        }  # fmt: skip
        assert torch.equal(loaded.encode(words), given["encoded"])
        torch.save(given, folder / "given.pt")
        folders.append(str(folder))
    written = json.loads((tmp_path / "ngrams-positions" / "config.json").read_text())
    assert set(written["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForPreTraining"}
    assert type(AutoConfig.from_pretrained(folders[0])) is CBOWConfig
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", ALONE, *folders]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_vectors_alone_go_on_in_pretraining(tmp_path):
    make(subwords="ngrams", position_weights=True).cbow.save_pretrained(tmp_path)
    model = CBOWForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(model.word_vectors(), CBOWModel.from_pretrained(tmp_path).word_vectors())
    assert not model.output_embeddings.weight.any(), "new: 0"


def test_a_sentence_is_the_mean_of_its_words(pieces):
    """What is no word, padding and a sentence without words add nothing."""
    model = make(pieces, subwords="bpe").cbow
    ids = torch.tensor([[0, 8, 2], [5, 1, 1], [8, 8, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    output, vectors = model(ids, mask), model.word_vectors()
    torch.testing.assert_close(output.pooler_output[0], (vectors[0] + vectors[2]) / 2)
    torch.testing.assert_close(output.pooler_output[1], vectors[5])
    assert not output.pooler_output[2].any() and not output.last_hidden_state[0, 1].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "cbwo"}, "unknown architecture 'cbwo'; one of cbow, skipgram"),
        ({"gradient": "wrong"}, "unknown gradient 'wrong'"),
        ({"subwords": "bpe"}, "subwords 'bpe' with 0 pieces"),
        ({"subword_vocab_size": 9}, "subwords 'none' with 9 pieces"),
        ({"min_n": 4, "max_n": 3}, "max_n 3 is less than min_n 4"),
        ({"min_n": 0}, "min_n must be at least 1, not 0"),
        ({"window": 0}, "window must be at least 1, not 0"),
        ({"architecture": "skipgram", "position_weights": True}, "skipgram's context is one word"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CBOWConfig(**settings)


def test_bad_vocabularies_and_batches_are_refused(pieces):
    model = CBOWForPreTraining(CBOWConfig(vocab_size=2, hidden_size=3, window=2))
    with pytest.raises(ValueError, match="2 words, 1 different, for a vocab_size of 2"):
        model.set_vocabulary(["a", "a"])
    with pytest.raises(ValueError, match=f"{len(pieces)} pieces for a subword_vocab_size of 0"):
        model.set_vocabulary(["a", "b"], pieces)
    spelt = CBOWForPreTraining(CBOWConfig(vocab_size=2, subwords="bpe", subword_vocab_size=len(pieces), window=1))
    with pytest.raises(ValueError, match="the tokenizer cuts 'ж' into no pieces"):
        spelt.set_vocabulary(["a", "ж"], pieces)
    with pytest.raises(ValueError, match="call set_vocabulary"):
        spelt(torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"context_ids must be \(B, 4\), not \(1, 2\)"):
        model(torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="needs negative_ids"):
        model(torch.tensor([[0, 1, -1, -1]]), torch.tensor([1]))
