"""A corpus equals the obvious loop, whoever makes it, in however many parts, and however often it is interrupted."""

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from hfssl.data import corpus as module
from hfssl.data import encoding
from hfssl.data.blocks import (
    Blocks,
    CausalCollator,
    CorpusArguments,
    fit_vocabulary,
    load_text_data,
    open_corpora,
)
from hfssl.data.builtin import builtin_texts
from hfssl.data.corpus import Corpus, build_corpus, tokenizer_hash
from hfssl.data.sources import TextArguments
from hfssl.errors import InputError
from hfssl.tokenization import load_tokenizer, train_bpe

SMALL = 20_000  # characters in a shard, so that a few documents make several


class Documents(list):
    """Texts with a fingerprint, as `load_texts` gives them."""

    def fingerprint(self):
        return str(hash(tuple(self)))


class Named(Documents):
    """The same in every process: `hash` is not."""

    def fingerprint(self):
        return "these"


@pytest.fixture(scope="module")
def texts():
    long = "\n".join(builtin_texts("prose")[:40])  # one document of several pieces
    return Documents([*builtin_texts("prose")[:30], "", long, "é ∑ 😀 mixed\n\ntext", "It says <|endoftext|> here."])


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_bpe(texts, 600, show_progress=False)


def by_hand(texts, tokenizer):
    """One document after another, whole."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    tokens, ends = [], []
    for text in texts:
        tokens += [*backend.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id]
        ends.append(len(tokens))
    return np.array(tokens), np.array(ends)


def everything(corpus):
    return corpus.read(0, len(corpus)), corpus.document_ids(0, len(corpus))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_characters", [1, SMALL, 10**9])
def test_tokens_and_documents_equal_a_loop(tmp_path, texts, tokenizer, shard_characters):
    assert max(map(len, texts)) > 2 * encoding._PIECE, "a document that is cut into pieces"
    tokens, ends = by_hand(texts, tokenizer)
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", tokenizer.eos_token_id, shard_characters=shard_characters)
    found, documents = everything(corpus)
    assert np.array_equal(found, tokens)
    assert np.array_equal(documents, np.searchsorted(ends, np.arange(len(tokens)), side="right"))
    assert corpus.manifest["documents"] == len(texts)
    assert corpus.manifest["bytes"] == sum(len(text.encode()) for text in texts)
    assert corpus.manifest["largest"] == tokens.max()
    assert np.array_equal(corpus.frequencies(600), np.bincount(tokens, minlength=600))
    assert (len(corpus.manifest["shards"]) > 1) == (shard_characters < 10**9)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, len(tokens), (50, 2))):
        assert np.array_equal(corpus.read(start, stop), tokens[start:stop])
        assert np.array_equal(corpus.document_ids(start, stop), documents[start:stop])


def test_the_name_of_a_special_token_in_a_text_is_text(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", tokenizer.eos_token_id)
    assert (corpus.read(0, len(corpus)) == tokenizer.eos_token_id).sum() == len(texts)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_are_joined_to_the_same_files(tmp_path, texts, tokenizer, parts):
    end = tokenizer.eos_token_id
    build_corpus(texts, tokenizer, tmp_path / "whole", end, shard_characters=SMALL)
    for part in reversed(range(parts)):
        joined = build_corpus(texts, tokenizer, tmp_path / "parts", end, part, parts, SMALL)
        assert (joined is None) == (part != 0)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_it_is_made_once_and_made_again_from_other_text(tmp_path, texts, tokenizer, monkeypatch, caplog):
    end = tokenizer.eos_token_id
    build_corpus(texts, tokenizer, tmp_path / "c", end)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_make_shards", lambda *arguments: pytest.fail("tokenised again"))
        build_corpus(texts, tokenizer, tmp_path / "c", end)
    other = build_corpus(Documents(texts[:3]), tokenizer, tmp_path / "c", end)
    assert "is not of this text, tokenizer and version" in caplog.text and other.manifest["documents"] == 3


def _build_slowly(texts, folder, target):
    write, tokenizer = module._write_shard, load_tokenizer(str(folder))

    def slow(*arguments):
        write(*arguments)
        time.sleep(0.1)

    module._write_shard = slow
    build_corpus(texts, tokenizer, target, tokenizer.eos_token_id, shard_characters=SMALL)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_killed_build_leaves_no_corpus_and_goes_on(tmp_path, texts, tokenizer, shards, monkeypatch):
    target, end = tmp_path / "killed", tokenizer.eos_token_id
    tokenizer.save_pretrained(tmp_path / "bpe")
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_build_slowly, args=(Named(texts), tmp_path / "bpe", target))
    process.start()
    while len(list(tmp_path.glob(".killed.*.building/shard-*.json"))) < shards and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(InputError, match="holds no corpus"):
        Corpus(target)
    made = []
    write = module._write_shard
    monkeypatch.setattr(module, "_write_shard", lambda *arguments: (made.append(arguments[3]), write(*arguments)))
    staging = next(tmp_path.glob(".killed.*.building"))
    (staging / ".shard-00000.1.bin").write_bytes(b"half")
    build_corpus(Named(texts), tokenizer, target, end, shard_characters=SMALL)
    assert min(made) >= shards, "finished shards were made again"
    build_corpus(Named(texts), tokenizer, tmp_path / "whole", end, shard_characters=SMALL)
    assert files(target) == files(tmp_path / "whole")


def test_bad_text_leaves_nothing(tmp_path, tokenizer):
    class Bad(Documents):
        def __iter__(self):
            yield "good " * 10_000
            raise InputError("line 2 is no JSON")

    with pytest.raises(InputError, match="line 2"):
        build_corpus(Bad(["x"]), tokenizer, tmp_path / "c", 0, shard_characters=100)
    with pytest.raises(InputError, match="the text holds no document"):
        build_corpus(Documents([]), tokenizer, tmp_path / "c", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, texts, tokenizer, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write the corpus .*: No space left on device"):
        build_corpus(texts, tokenizer, tmp_path / "c", 0)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", ["missing", "half", "other"])
def test_damaged_document_ends(tmp_path, texts, tokenizer, damage):
    build_corpus(texts, tokenizer, tmp_path / "c", 0)
    path = tmp_path / "c" / "shard-00000.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[:70])
    else:
        np.save(path, np.array([3]))
    with pytest.raises(InputError, match=r"shard-00000.npy is damaged or missing; delete the folder and run again"):
        Corpus(tmp_path / "c")


def test_a_damaged_token_is_found_when_it_is_read(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", 0)
    tokens = np.memmap(tmp_path / "c" / "shard-00000.bin", np.uint16, "r+")
    tokens[5] = 65_535
    tokens.flush()
    with pytest.raises(InputError, match=r"is damaged: it holds the token id 65,535, over the largest"):
        Blocks(corpus, 16)[0]
    with pytest.raises(InputError, match=r"holds the token id 65,535, but the vocabulary has"):
        Corpus(tmp_path / "c").frequencies(len(tokenizer))


def test_a_worker_gets_the_folder_and_not_the_tokens(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", 0)
    sent = pickle.dumps(Blocks(corpus, 16))
    assert len(sent) < 2000 < 2 * len(corpus)
    assert np.array_equal(pickle.loads(sent)[3]["input_ids"], Blocks(corpus, 16)[3]["input_ids"])


def test_a_shard_shorter_than_its_manifest(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", 0)
    path = corpus.folder / "shard-00000.bin"
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(InputError, match=r"shard-00000.bin has [\d,]+ bytes where its manifest says [\d,]+; delete"):
        Corpus(corpus.folder)
    path.unlink()
    with pytest.raises(InputError, match=r"shard-00000.bin has 0 bytes where its manifest says"):
        Corpus(corpus.folder)


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path):
    tokenizer = train_bpe(["some words " * 100], 300, show_progress=False)
    tokenizer.add_tokens([f"<extra{number}>" for number in range(2**16)])
    corpus = build_corpus(Documents([f"some <extra{2**16 - 1}> words"]), tokenizer, tmp_path / "c", 0)
    assert corpus.manifest["dtype"] == "uint32" and corpus.read(0, len(corpus)).max() == len(tokenizer) - 1


@pytest.fixture
def prepared(tmp_path, run_command, texts):
    """A corpus folder as tokenize_text.py makes it, in two parts."""
    import sys

    tokenizer = train_bpe(builtin_texts("prose")[:50], 500, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "bpe")
    for part in (1, 0):
        done = run_command(
            sys.executable, "tokenizers_train/tokenize_text.py", "--text_path", "builtin:prose", "--tokenizer",
            tmp_path / "bpe", "--output_dir", tmp_path / "corpus", "--part", part, "--parts", "2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "train: " in done.stdout and "eval: " in done.stdout
    return tmp_path


def test_a_prepared_corpus_equals_the_recipe_s_own(prepared):
    given = load_text_data(TextArguments(), CorpusArguments(corpus=str(prepared / "corpus"), block_size=64), "gpt2")
    arguments = CorpusArguments(tokenizer=str(prepared / "bpe"), block_size=64, corpus_dir=str(prepared / "cache"))
    own = load_text_data(TextArguments(), arguments, "gpt2")
    for one, other in ((given.train, own.train), (given.eval, own.eval)):
        assert len(one) == len(other) and one.fingerprint == other.fingerprint
        assert np.array_equal(one[5]["input_ids"], other[5]["input_ids"])


def test_a_prepared_corpus_of_another_tokenizer(prepared, tmp_path):
    other = train_bpe(builtin_texts("prose")[:50], 400, show_progress=False)
    other.save_pretrained(tmp_path / "other")
    arguments = CorpusArguments(corpus=str(prepared / "corpus"), tokenizer=str(tmp_path / "other"))
    made = json.loads((prepared / "corpus" / "train" / "manifest.json").read_text())["tokenizer"]
    with pytest.raises(InputError, match=f"made with the tokenizer {made}, not with {tokenizer_hash(other)}"):
        open_corpora(arguments)
    with pytest.raises(InputError, match="no such corpus folder"):
        open_corpora(CorpusArguments(corpus=str(tmp_path / "nothing")))


def test_a_token_over_the_vocabulary(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", 0)
    with pytest.raises(InputError, match=r"holds the token id 5.., but the vocabulary has 300 entries"):
        corpus.check_vocabulary(300)
    shutil.rmtree(tmp_path / "c")


def test_blocks_cover_the_corpus_in_order(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", tokenizer.eos_token_id, shard_characters=SMALL)
    tokens, _ = by_hand(texts, tokenizer)
    blocks = Blocks(corpus, 32, prefix=[7], suffix=[8], documents=True)
    assert len(blocks) == len(tokens) // 30
    for index in (0, 1, len(blocks) - 1):
        item = blocks[index]
        assert item["input_ids"][0] == 7 and item["input_ids"][-1] == 8 and item["index"] == index
        assert np.array_equal(item["input_ids"][1:-1], tokens[index * 30 : (index + 1) * 30])
        inside = corpus.document_ids(index * 30, (index + 1) * 30)
        assert item["document_ids"].tolist() == [inside[0], *inside, inside[-1]]
    for size, message in ((10**6, "less than one block of 1000000"), (2, "leaves no room")):
        with pytest.raises(InputError, match=message):
            Blocks(corpus, size, prefix=[7], suffix=[8])
    with pytest.raises(InputError, match="block_size must be at least 2, not 0"):
        CorpusArguments(block_size=0)


def test_the_first_token_of_a_document_is_no_label(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "c", tokenizer.eos_token_id)
    blocks = Blocks(corpus, 64, documents=True)
    item = next(blocks[i] for i in range(len(blocks)) if len(set(blocks[i]["document_ids"].tolist())) > 1)
    batch = CausalCollator()([item])
    starts = 1 + np.flatnonzero(np.diff(item["document_ids"]))
    assert np.flatnonzero(batch["labels"][0].numpy() == -100).tolist() == starts.tolist()
    assert np.array_equal(batch["input_ids"][0].numpy(), item["input_ids"])


def _build_at_once(texts, tokenizer, target, part, parts, start, results):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a forked process has none of the parent's threads
    for number in range(8):
        start.wait()
        try:
            build_corpus(texts, tokenizer, target / str(number), 0, part, parts, shard_characters=SMALL)
            results.put(None)
        except BaseException as error:
            results.put(repr(error))


@pytest.mark.parametrize("parts", [[None] * 3, [0, 1, 2], [0, 1, 0, 1]])
def test_builds_at_once(tmp_path, texts, tokenizer, parts):
    """The same build several times, the parts of one build, and both: each ends well, and the corpus is whole."""
    whole = build_corpus(Named(texts), tokenizer, tmp_path / "whole", 0, shard_characters=SMALL)
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(len(parts)), fork.Queue()
    count = len({part for part in parts if part is not None}) or 1
    processes = [
        fork.Process(
            target=_build_at_once, args=(Named(texts), tokenizer, tmp_path / "made", part, count, start, results)
        )
        for part in parts
    ]
    for process in processes:
        process.start()
    said = [results.get(timeout=60) for _ in range(8 * len(parts))]
    for process in processes:
        process.join()
    assert said == [None] * len(said), said
    for number in range(8):
        made = Corpus(tmp_path / "made" / str(number))
        assert made.manifest == whole.manifest and np.array_equal(made.read(0, len(made)), whole.read(0, len(whole)))
    assert not list((tmp_path / "made").glob(".*")), "nothing is left beside the corpora"


def test_a_folder_that_is_no_corpus_stays(tmp_path, texts, tokenizer):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is there and is no corpus; give another folder"):
        build_corpus(texts, tokenizer, tmp_path / "train", 0)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "mine"


def test_a_corpus_of_another_version_is_refused(tmp_path, texts, tokenizer):
    corpus = build_corpus(texts, tokenizer, tmp_path / "corpus", 0)
    without = {key: value for key, value in corpus.manifest.items() if key != "largest"}
    for manifest in (corpus.manifest | {"version": 1}, without, corpus.manifest | {"shards": [{"documents": 1}]}):
        (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="no corpus of this version"):
            Corpus(tmp_path / "corpus")


def test_llama_learns_its_end_of_text_token(tokenizer):
    """Also where it is the padding token: an embedding has no gradient at its padding index."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    fit_vocabulary(config, tokenizer, 8)
    model, end = LlamaForCausalLM(config), tokenizer.eos_token_id
    ids = torch.tensor([[end, 5, 6, 7]])
    model(ids, labels=ids).loss.backward()
    assert model.model.embed_tokens.weight.grad[end].abs().sum() > 0


def test_duplicate_documents_are_counted(tmp_path, tokenizer):
    corpus = build_corpus(Documents(["a b", "c", "a b", "a b", "d"]), tokenizer, tmp_path / "corpus", 0)
    assert corpus.duplicate_share() == pytest.approx(2 / 5)
    assert corpus.duplicate_share(limit=2) == 0
