"""The CPU engine of word vectors: its updates beside autograd, its draws beside their laws, stops and resumes."""

import copy
import dataclasses
import itertools
import json
import os
import signal

import numba
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare
from tokenizers import Tokenizer
from transformers import AutoModel, TrainerCallback, set_seed

from hfssl.data.sampling import hash_key
from hfssl.data.word_contexts import ContextCollator, WordContexts, keep_probabilities, noise_probabilities
from hfssl.data.word_corpus import WordCorpus, build_word_corpus, train_pieces
from hfssl.errors import InputError
from hfssl.evaluation.vector_files import read_vectors
from hfssl.models import CBOWConfig, CBOWForPreTraining
from hfssl.training import PretrainingArguments, run
from hfssl.training import word_kernels as kernels
from hfssl.training.checkpoint import newest
from hfssl.training.word_arrays import (
    alias_table,
    scratch_for,
    settings_of,
    tables_of,
    weights_of,
    write_weights,
)
from hfssl.training.word_kernels import SKIPPED
from hfssl.training.words import EngineTrainer, VectorTrainer, WordArguments, WordEngine, train_words

TEXT = "the cat sat on the mat and the dog sat on the cat while a bird sang of the mat to a dog and a cat"
RATE = 0.3


def corpus_of(text=TEXT, copies=1):
    return build_word_corpus([text.split()] * copies, 1)


def model_for(corpus, seed=0, **settings):
    settings = {"hidden_size": 6, "window": 3, "buckets": 50} | settings
    pieces = train_pieces(corpus, 262) if settings.get("subwords") == "bpe" else None
    if pieces is not None:
        settings["subword_vocab_size"] = len(pieces)
    set_seed(seed)
    model = CBOWForPreTraining(CBOWConfig(vocab_size=len(corpus.words), **settings))
    model.set_vocabulary(corpus.words, pieces)
    return model


OPTIONS = {
    "word2vec": {},
    "exact": {"gradient": "exact"},
    "positions": {"position_weights": True},
    "positions exact": {"position_weights": True, "gradient": "exact"},
    "n-grams": {"subwords": "ngrams"},
    "n-grams exact, positions": {"subwords": "ngrams", "gradient": "exact", "position_weights": True},
    "n-grams of words": {"subwords": "ngrams", "subword_average": "words", "position_weights": True},
    "pieces": {"subwords": "bpe", "subword_average": "words", "gradient": "exact"},
    "skip-gram": {"architecture": "skipgram"},
    "skip-gram n-grams": {"architecture": "skipgram", "subwords": "ngrams", "subword_average": "words"},
    "softmax": {"objective": "softmax", "gradient": "exact"},
    "rows of two lines": {"hidden_size": 20, "position_weights": True},
    "rows of whole lines": {"hidden_size": 32, "subwords": "ngrams"},
    "softmax skip-gram": {"objective": "softmax", "architecture": "skipgram"},
}


def as_batch(number, scratch, config):
    """One drawn sample as the Trainer's batch has it."""
    centre, low, high = (int(part[number]) for part in (scratch.centres, scratch.lows, scratch.highs))
    words, window = scratch.words.astype(np.int64), config.window
    target, negatives = int(scratch.ids[number, 0]), scratch.ids[number, 1:].astype(np.int64)
    if config.architecture == "skipgram":
        context = [words[centre]]
    else:
        places = [p for p in range(centre - window, centre + window + 1) if p != centre]
        context = [words[p] if low <= p < high else -1 for p in places]
    negatives[negatives == int(SKIPPED)] = -1
    batch = {"context_ids": torch.tensor([context]), "target_ids": torch.tensor([target])}
    return batch | ({} if config.objective == "softmax" else {"negative_ids": torch.from_numpy(negatives[None])})


@pytest.mark.parametrize("name", OPTIONS)
def test_an_update_is_autograd_s(name):
    """A block of samples: e' and position weights step on the sum of the losses, e sample by sample; the loss too."""
    corpus = corpus_of()
    model = model_for(corpus, **OPTIONS[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    expected, arguments = copy.deepcopy(model).double(), WordArguments(negatives=4, target_block=5)
    weights, tables = weights_of(model), tables_of(corpus, model, arguments)
    settings = settings_of(model.config, arguments)
    scratch = scratch_for(settings, weights)
    scratch.words[: len(corpus)] = corpus.ids
    first, last, count = np.uint64(4), np.uint64(9), np.uint64(len(corpus))
    samples, _ = kernels.draw_samples(count, first, last, tables, settings, scratch, np.uint64(5))
    assert samples >= 5
    for row in scratch.ids[:samples, 1:]:  # of a word drawn twice autograd's sum is another: `_predict_sampled`
        twice = [word in row[:place] for place, word in enumerate(row)]
        row[twice] = SKIPPED

    inner = [expected.cbow.input_embeddings.weight, expected.cbow.position_weights]
    inner = [weight for weight in inner if weight is not None]
    steps, outer, losses = [torch.zeros_like(weight) for weight in inner], expected.output_embeddings.weight, []
    for number in range(samples):
        loss = expected(**as_batch(number, scratch, model.config)).loss
        *found, direct = torch.autograd.grad(loss, [*inner, outer])
        for step, gradient in zip(steps, found, strict=True):
            step -= RATE * gradient
        outer.data -= RATE * direct
        losses.append(loss.item())
    for weight, step in zip(inner, steps, strict=True):
        assert step.abs().max() > 1e-3
        weight.data += step

    low, high = np.uint64(first - settings.window), np.uint64(last + settings.window)
    arrays = (weights, tables, settings, scratch)
    loss = kernels.update_samples(np.uint64(samples), low, high, np.float32(RATE), *arrays, True)
    assert loss == pytest.approx(sum(losses), rel=1e-5)
    for array in weights:
        assert not array[:, model.config.hidden_size :].any(), "what fills a row up is 0"
    write_weights(weights, model)
    for (part, found), right in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, right.float(), msg=lambda text, part=part: f"{part}: {text}")


def test_no_two_arrays_share_a_line_of_the_caches():
    corpus = corpus_of()
    engine = WordEngine(corpus, model_for(corpus, position_weights=True), WordArguments(threads=2))
    arrays = [array for group in (engine.weights, *engine._scratch) for array in group]
    assert len(arrays) == 3 + 2 * 11
    ends = sorted((array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays)
    assert all(begin % 64 == 0 for begin, _ in ends)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))


@pytest.mark.parametrize("block", [1, 4, 10**15])
def test_a_text_is_trained_sentence_by_sentence_in_blocks(block):
    """Every target that has a context, once; the contexts of a block as they were before it."""
    corpus = build_word_corpus([TEXT.split(), TEXT.split()[:9], ["cat"], TEXT.split()[3:]], 1)
    model = model_for(corpus, position_weights=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    engine = WordEngine(corpus, model, WordArguments(negatives=1, subsample=0.2, target_block=block, threads=1), 3)
    expected, state, scratch = copy.deepcopy(model).double(), np.uint64(hash_key(3, 0, 0)), engine._scratch[0]
    inner, outer = [expected.cbow.input_embeddings.weight, expected.cbow.position_weights], expected.output_embeddings
    trained = kept = 0
    for first, last in zip(corpus.ends[:-1], corpus.ends[1:], strict=True):
        ends = np.uint64(first), np.uint64(last)
        count, state = kernels.keep_words(engine._ids, *ends, engine.tables.keep, scratch.words, state)
        kept += count * (count > 1)
        for begin in range(0, count, block):
            stop = min(count, begin + block)
            drawn = np.uint64(count), np.uint64(begin), np.uint64(stop), engine.tables, engine.settings, scratch
            samples, state = kernels.draw_samples(*drawn, np.uint64(state))
            steps = [torch.zeros_like(weight) for weight in inner]
            for number in range(samples):
                loss = expected(**as_batch(number, scratch, model.config)).loss
                *found, direct = torch.autograd.grad(loss, [*inner, outer.weight])
                outer.weight.data -= RATE * direct
                steps = [step - RATE * gradient for step, gradient in zip(steps, found, strict=True)]
            for weight, step in zip(inner, steps, strict=True):
                weight.data += step
            trained += samples
        state = np.uint64(state)
    assert trained == kept and 30 < kept < len(corpus)
    engine.train(0, engine.chunks, lambda chunk: RATE)
    engine.write_model()
    for found, right in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, right.float())


def test_the_engine_and_the_trainer_make_the_same_update(tmp_path):
    """The Trainer's batch through its optimizer, and the same batch through the kernels, from the same weights."""
    corpus = build_word_corpus([[f"{word}{i}" for i in range(4)] for word in "abcdefgh"], 1)
    model = model_for(corpus, window=2)
    torch.nn.init.normal_(model.output_embeddings.weight, std=0.5)
    engine, arguments = copy.deepcopy(model), WordArguments(negatives=2, subsample=0)
    contexts = WordContexts(corpus, model.config, subsample=0, negatives=2)
    args = PretrainingArguments(
        output_dir=str(tmp_path), optim="sgd", learning_rate=RATE, learning_rate_scaling="sum", max_grad_norm=0,
        per_device_train_batch_size=4, max_steps=1, use_cpu=True, save_strategy="no", lr_scheduler_type="constant",
    )  # fmt: skip
    collator, seen = ContextCollator(contexts, {}), []

    class Seen:
        def __call__(self, items):
            seen.append(collator(items))
            return seen[-1]

    VectorTrainer(model, args, train_dataset=contexts, data_collator=Seen(), corpus=corpus).train()

    weights, tables = weights_of(engine), tables_of(corpus, engine, arguments)
    settings = settings_of(engine.config, arguments)
    scratch = scratch_for(settings, weights)
    [batch] = seen[:1]
    outputs = torch.cat([batch["target_ids"], batch["negative_ids"].flatten()])
    outputs = outputs[outputs >= 0]
    assert len(outputs.unique()) == len(outputs), "each e is updated once, so that the order cannot matter"
    # The samples lie one after another in the words, each with its place of five.
    for number in range(4):
        row = batch["context_ids"][number].tolist()
        place = 5 * number
        there = [p for p, word in zip((0, 1, 3, 4), row, strict=True) if word >= 0]
        for p, word in zip((0, 1, 3, 4), row, strict=True):
            scratch.words[place + p] = max(word, 0)
        scratch.words[place + 2] = batch["target_ids"][number]
        scratch.centres[number] = place + 2
        scratch.lows[number], scratch.highs[number] = place + min([*there, 2]), place + max([*there, 2]) + 1
        scratch.ids[number, 0] = batch["target_ids"][number]
        scratch.ids[number, 1:] = [SKIPPED if n < 0 else n for n in batch["negative_ids"][number].tolist()]
    arrays = (weights, tables, settings, scratch)
    kernels.update_samples(np.uint64(4), np.uint64(0), np.uint64(20), np.float32(RATE), *arrays, False)
    write_weights(weights, engine)
    for found, right in zip(engine.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, right)


def draws_of(corpus, arguments, config, sentences):
    """The words that stay, the samples' reaches and their negatives, of the text that often."""
    model = model_for(corpus, window=config.window)
    weights, tables = weights_of(model), tables_of(corpus, model, arguments)
    settings = settings_of(config, arguments)
    scratch, state, found = scratch_for(settings, weights), hash_key(1), ([], [], [])
    for _ in range(sentences):
        count, state = kernels.keep_words(
            corpus.ids.view(np.uint32),
            np.uint64(0),
            np.uint64(len(corpus)),
            tables.keep,
            scratch.words,
            np.uint64(state),
        )
        found[0].append(scratch.words[:count].copy())
        stop = np.uint64(min(count, int(settings.block)))
        samples, state = kernels.draw_samples(
            np.uint64(count), np.uint64(0), stop, tables, settings, scratch, np.uint64(state)
        )
        ids = scratch.ids[:samples].copy()
        found[2].append(np.where(ids == SKIPPED, ids[:, :1], ids)[:, 1:].ravel())
        centre, inside = scratch.centres[:samples].astype(int), slice(config.window, int(stop) - config.window)
        found[1].append((centre - scratch.lows[:samples])[inside])
    return [np.concatenate(part) for part in found]


def test_draws_have_their_laws():
    corpus = build_word_corpus(
        ["".join(word * n for word, n in zip("abcdefg", (90, 40, 25, 10, 6, 3, 1), strict=True))], 1
    )
    arguments = WordArguments(negatives=7, subsample=0.02, target_block=60, noise_exponent=0.5)
    words, reaches, negatives = draws_of(corpus, arguments, CBOWConfig(window=4), 500)
    keep = keep_probabilities(corpus.counts, 0.02)
    assert keep.min() < 0.5
    stay = np.bincount(words, minlength=7)
    leave = corpus.counts * 500 - stay
    expected = corpus.counts * 500 * np.stack([keep, 1 - keep])
    drawn = keep < 1
    assert (leave[~drawn] == 0).all()
    both = np.stack([stay, leave])[:, drawn]
    assert chisquare(both.ravel(), expected[:, drawn].ravel(), ddof=drawn.sum() - 1).pvalue > 0.01
    assert chisquare(np.bincount(reaches, minlength=5)[1:]).pvalue > 0.01
    law = noise_probabilities(corpus.counts, 0.5)
    assert len(negatives) > 50_000
    assert chisquare(np.bincount(negatives, minlength=7), law * len(negatives)).pvalue > 0.01


def test_the_alias_table_holds_the_probabilities():
    draw = np.random.default_rng(0)
    for size in (1, 2, 17, 1000):
        law = draw.dirichlet(np.full(size, 0.3))
        bounds, alias = alias_table(law)
        found = np.bincount(np.arange(size), bounds / (2**32 - 1) / size)
        found += np.bincount(alias, (1 - bounds / (2**32 - 1)) / size, minlength=size)
        assert np.abs(found - law).max() < 1e-8


def test_it_learns_which_words_share_contexts():
    draw = np.random.default_rng(0)
    groups = [[f"{group}{i}" for i in range(10)] for group in "abc"]
    corpus = build_word_corpus([draw.choice(groups[i % 3], 12).tolist() for i in range(600)], 1)
    for settings in ({}, {"gradient": "exact"}, {"architecture": "skipgram"}):
        model = model_for(corpus, hidden_size=12, **settings)
        train_words(corpus, model, WordArguments(threads=1, subsample=0), epochs=5, learning_rate=0.1)
        unit = torch.nn.functional.normalize(model.word_vectors(), dim=1)
        group = torch.tensor([ord(word[0]) for word in corpus.words])
        near = (unit @ unit.T).fill_diagonal_(-2).topk(3).indices
        assert (group[near] == group[:, None]).float().mean() > 0.95


def trainer_for(out, threads=1, callbacks=(), words=None, **arguments):
    """A text of 2,000 words in 8 chunks, two passes, 8 steps."""
    draw = np.random.default_rng(0)
    texts = [draw.choice(list("abcdefghijklmnop"), 50, p=np.arange(16, 0, -1) / 136).tolist() for _ in range(40)]
    corpus = build_word_corpus(texts, 1)
    settings = {
        "num_train_epochs": 2, "learning_rate": 0.1, "save_steps": 2, "logging_steps": 1, "use_cpu": True,
        "disable_tqdm": True,
    }  # fmt: skip
    words = words or WordArguments(threads=threads, words_per_step=500)
    model = model_for(corpus, subwords="ngrams", position_weights=True)
    contexts = WordContexts(corpus, model.config)
    args = PretrainingArguments(output_dir=str(out), **settings | arguments)
    return EngineTrainer(
        model, args, corpus=corpus, words=words, data_collator=ContextCollator(contexts, words.identity),
        callbacks=list(callbacks),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("hfssl.training.words.CHUNK", 250)


class At(TrainerCallback):
    """Does something when a step begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def test_a_model_saved_in_the_midst_of_training_has_what_was_trained(tmp_path):
    trainer = trainer_for(tmp_path / "out")
    before = trainer.model.state_dict()["output_embeddings.weight"].clone()
    trainer.add_callback(At(3, lambda: trainer.save_model(str(tmp_path / "saved"))))
    trainer.train()
    saved = load_file(tmp_path / "saved" / "model.safetensors")["output_embeddings.weight"]
    assert not torch.equal(saved, before)
    again = trainer_for(tmp_path / "again")
    again.add_callback(At(3, lambda: again.engine.write_model()))
    again.add_callback(At(3, lambda: setattr(again, "seen", again.model.output_embeddings.weight.detach().clone())))
    again.train()
    assert torch.equal(saved, again.seen)


class Died(Exception):
    pass


def die():
    raise Died


def logged(folder):
    history = json.loads((folder / "log_history.json").read_text())
    return [(entry["step"], entry["loss"], entry["learning_rate"]) for entry in history if "loss" in entry]


def test_what_a_run_leaves(tmp_path):
    trainer = trainer_for(tmp_path / "out")
    run(trainer)
    names = {"config.json", "model.safetensors", "tokenizer.json", "vectors.vec", "run.json", "README.md"}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}
    losses = [loss for _, loss, _ in logged(tmp_path / "out")]
    assert len(losses) == 8 and 5 * np.log(2) < losses[0] < 6 * np.log(2) and losses[-1] < losses[0]
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert torch.equal(model.word_vectors(), trainer.model.word_vectors())
    vectors = read_vectors(tmp_path / "out" / "vectors.vec")
    assert vectors.words == trainer.corpus.words and np.array_equal(vectors.vectors, model.word_vectors().numpy())
    assert torch.equal(model.counts, torch.from_numpy(trainer.corpus.counts))
    state = json.loads((newest(tmp_path / "out") / "trainer_state.json").read_text())
    assert state["max_steps"] == 8 and state["num_train_epochs"] == 2
    [module] = json.loads((tmp_path / "out" / "modules.json").read_text())  # sentence-transformers's
    part = tmp_path / "out" / module["path"]
    ids = Tokenizer.from_file(str(part / "tokenizer.json")).encode("C, a? zzz").ids
    assert [trainer.corpus.words[number] for number in ids] == ["c", "a"]
    assert torch.equal(load_file(part / "model.safetensors")["embedding.weight"], model.word_vectors())
    assert run(trainer_for(tmp_path / "out")) == {}, "it is finished"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, threads):
    with pytest.raises(InputError, match=r"the loss is not finite at step \d; .* a lower --learning_rate than 1e\+30"):
        run(trainer_for(tmp_path, threads=threads, learning_rate=1e30, save_steps=100))


def test_one_thread_goes_on_to_the_bit(tmp_path):
    """Stopped by SIGTERM in step 3, killed in step 7, which loses step 6: the same as in one go."""
    run(trainer_for(tmp_path / "whole"))
    with pytest.raises(SystemExit) as stopped:
        run(trainer_for(tmp_path / "parts", callbacks=[At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))]))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert newest(tmp_path / "parts").name == "checkpoint-3"
    with pytest.raises(Died):
        run(trainer_for(tmp_path / "parts", callbacks=[At(7, die)]))
    assert newest(tmp_path / "parts").name == "checkpoint-6"
    run(trainer_for(tmp_path / "parts"))
    whole, parts = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


def test_threads_go_on_at_the_position(tmp_path, monkeypatch):
    """Each chunk of each pass is trained once, whatever stops come."""
    chunks, real = [], WordEngine._train_chunk

    def noted(self, chunk, *args, **kwargs):
        chunks.append(chunk)
        return real(self, chunk, *args, **kwargs)

    monkeypatch.setattr(WordEngine, "_train_chunk", noted)
    with pytest.raises(SystemExit):
        run(trainer_for(tmp_path, threads=2, callbacks=[At(4, lambda: os.kill(os.getpid(), signal.SIGINT))]))
    assert sorted(chunks) == list(range(10))
    run(trainer_for(tmp_path, threads=2))
    assert sorted(chunks) == list(range(16))


def test_each_chunk_of_each_pass_has_draws_of_its_own(tmp_path, monkeypatch):
    engine, states = trainer_for(tmp_path).engine, []
    monkeypatch.setattr(kernels, "train_sentences", lambda *args: (states.append(int(args[-2])), (0.0, 0))[1])
    for seed in (0, 1):
        engine.seed = seed
        engine.train(0, 3 * engine.chunks, lambda chunk: 0.1)
    assert engine.chunks == 8 and len(set(states)) == len(states) == 48


def test_other_settings_are_another_run(tmp_path):
    with pytest.raises(Died):
        run(trainer_for(tmp_path, callbacks=[At(3, die)]))
    with pytest.raises(InputError, match=r"collator\.negatives: 5, now 6"):
        run(trainer_for(tmp_path, words=WordArguments(threads=1, words_per_step=500, negatives=6)))


def test_loops_compile_where_nothing_can_be_kept(monkeypatch):
    """A read-only installation and no home: numba's `cache=True` raises then, when the module is imported."""
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(die)

    @kernels.compiled
    def twice(number):
        return 2 * number

    assert twice(3) == 6 and twice.targetoptions["nogil"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"engine": "cpus"}, "--engine cpus is not known: one of auto, cpu, trainer; did you mean 'cpu'"),
        ({"negatives": 0}, "negatives must be at least 1, not 0"),
        ({"threads": -1}, "threads must be at least 0"),
        ({"subsample": float("nan")}, "subsample must be a number of at least 0"),
        ({"noise_exponent": -1.0}, "noise_exponent must be a number of at least 0"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(InputError, match=says):
        WordArguments(**settings)


def test_texts_and_models_that_do_not_fit():
    corpus = corpus_of()
    with pytest.raises(InputError, match="no more than the window, 40"):
        WordEngine(corpus, model_for(corpus, window=40), WordArguments())
    with pytest.raises(InputError, match="the model has 13 words, the text 14"):
        WordEngine(build_word_corpus([[*TEXT.split(), "new"]], 1), model_for(corpus), WordArguments())
    model, parts = model_for(corpus), (corpus.words, corpus.counts)
    with pytest.raises(InputError, match="a text is damaged: its numbers are not those of 13 words"):
        WordEngine(WordCorpus(*parts, corpus.ids + np.int32(1), corpus.ends, "a text", ""), model, WordArguments())
    with pytest.raises(InputError, match="a text has a sentence of 1040 words: more than 1000"):
        long = WordCorpus(*parts, np.tile(corpus.ids, 40), np.array([0, 1040]), "a text", "")
        WordEngine(long, model, WordArguments())


def test_the_engine_is_one_process():
    args = dataclasses.make_dataclass("Args", [("world_size", int), ("device", torch.device)])
    one, two, gpu = (args(n, torch.device(kind)) for n, kind in ((1, "cpu"), (2, "cpu"), (1, "cuda")))
    assert [WordArguments().uses_trainer(each) for each in (one, two, gpu)] == [False, True, True]
    assert WordArguments(engine="trainer").uses_trainer(one) and not WordArguments(engine="cpu").uses_trainer(gpu)
    with pytest.raises(InputError, match="--engine cpu is one process, not 2"):
        WordArguments(engine="cpu").uses_trainer(two)
