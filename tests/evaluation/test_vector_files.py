"""Word vectors' files: what gensim writes is read and what is written gensim reads, to the bit; damage has its line."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors, Word2Vec

from hfssl.errors import InputError
from hfssl.evaluation.vector_files import FORMATS, WordVectors, read_vectors, write_vectors
from hfssl.models import CBOWConfig, CBOWForPreTraining, SentenceConfig, SentenceModel
from hfssl.tokenization import word_tokenizer

WORDS = ["the", "naïve", "Grüße", "слово", "言葉", "don't", "new_york", '"', "#", "1.5"]


@pytest.fixture
def vectors():
    """Numbers of all sizes, so that a text must have all of their digits."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(len(WORDS), 7)) * 10.0 ** rng.integers(-20, 20, size=(len(WORDS), 7))
    numbers[3] = [0, -0.0, 1, -1, 1e-45, 3.4028235e38, 1 / 3]
    return WordVectors(WORDS, numbers.astype(np.float32), np.arange(len(WORDS), 0, -1))


def same(found, vectors):
    return found.words == vectors.words and found.vectors.tobytes() == vectors.vectors.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_written_and_read_by_gensim_and_by_us(vectors, tmp_path, format):
    path = tmp_path / "new" / f"vectors.{'bin' if format == 'word2vec-bin' else 'vec'}"
    assert write_vectors(vectors, path, format) == path
    assert same(read_vectors(path), vectors)
    theirs = KeyedVectors.load_word2vec_format(str(path), binary=path.suffix == ".bin")
    assert same(WordVectors.from_keyed_vectors(theirs), vectors)
    lines = path.read_bytes().split(b"\n")
    assert lines[0] == b"10 7" and lines[-1] == b""
    if format != "word2vec-bin":  # fastText's lines end on a space
        assert {line.endswith(b" ") for line in lines[1:-1]} == {format == "fasttext"}


@pytest.mark.parametrize("binary", [False, True])
def test_what_gensim_wrote_is_read(vectors, tmp_path, binary):
    path = tmp_path / f"theirs.{'bin' if binary else 'txt'}"
    vectors.to_keyed_vectors().save_word2vec_format(str(path), binary=binary)
    assert same(read_vectors(str(path)), vectors)


def test_many_lines_are_read_in_their_order(tmp_path):
    many = WordVectors([f"w{i}" for i in range(9001)], np.arange(18002, dtype=np.float32).reshape(-1, 2) / 7)
    write_vectors(many, tmp_path / "many.vec")
    assert same(read_vectors(tmp_path / "many.vec"), many)


def test_spaces_and_line_ends_that_other_tools_write(tmp_path):
    path = tmp_path / "loose.vec"
    path.write_bytes(b"2 3 \r\nking  1.5 2e1 \t-3 \r\n\xc2\xa0 0 0 1\r\n\r\n")
    found = read_vectors(path)
    assert found.words == ["king", "\xa0"] and found.vectors.tolist() == [[1.5, 20, -3], [0, 0, 1]]


def test_keyed_vectors_there_and_back(vectors):
    keyed = vectors.to_keyed_vectors()
    again = WordVectors.from_keyed_vectors(keyed)
    assert keyed.get_vecattr("слово", "count") == 7 and np.array_equal(again.counts, vectors.counts)
    assert same(again, vectors)
    assert WordVectors.from_keyed_vectors(WordVectors(WORDS, vectors.vectors).to_keyed_vectors()).counts is None


@pytest.mark.parametrize("limit", [10 * 1024**2, 1])
def test_a_saved_keyed_vectors_is_read_without_gensim(vectors, tmp_path, monkeypatch, limit):
    """With its arrays inside of the pickle, and beside it."""
    path = tmp_path / "saved.kv"
    vectors.to_keyed_vectors().save(str(path), sep_limit=limit)
    assert (tmp_path / "saved.kv.vectors.npy").exists() == (limit == 1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "gensim"]:
        monkeypatch.setitem(sys.modules, name, None)
    found = read_vectors(path)
    assert same(found, vectors) and np.array_equal(found.counts, vectors.counts)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_that_names_other_code_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.kv").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"bomb\.kv as gensim's KeyedVectors: it names posix\.mkdir"):
        read_vectors("bomb.kv")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.kv"]
    Word2Vec([["a", "b"]] * 5, vector_size=2, min_count=1).save("whole.kv")
    with pytest.raises(InputError, match=r"it names gensim\.models\.word2vec\.Word2Vec"):
        read_vectors("whole.kv")
    (tmp_path / "list.kv").write_bytes(pickle.dumps(["a"]))
    with pytest.raises(InputError, match=r"list\.kv is a pickle, but no KeyedVectors of gensim 4"):
        read_vectors("list.kv")
    (tmp_path / "cut.kv").write_bytes(pickle.dumps(["a"])[:-3])
    with pytest.raises(InputError, match=r"cannot read cut\.kv as gensim's KeyedVectors"):
        read_vectors("cut.kv")


class Huge:
    def __reduce__(self):
        return np.ndarray, ((2**44, 2),)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"vectors": Huge()}, "cannot read damaged.kv as gensim's KeyedVectors: Unable to allocate"),
        ({"vectors": None}, "cannot read damaged.kv as gensim's KeyedVectors: mmap length is greater than file size"),
        ({"vectors": np.ones((9, 7), np.float32)}, r"10 words with vectors of the shape \(9, 7\)"),
        ({"vectors": np.ones(10, np.float32)}, r"10 words with vectors of the shape \(10,\)"),
        ({"expandos": {"count": np.ones(9)}}, r"10 words with counts of the shape \(9,\)"),
    ],
)
def test_keyed_vectors_that_promise_what_they_have_not(vectors, tmp_path, monkeypatch, changed, says):
    """Of more memory than there is, too, in the pickle or in the first line of the file beside it."""
    monkeypatch.chdir(tmp_path)
    keyed = vectors.to_keyed_vectors()
    keyed.__dict__.update(changed)
    (tmp_path / "damaged.kv").write_bytes(pickle.dumps(keyed))
    with (tmp_path / "damaged.kv.vectors.npy").open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 7)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(InputError, match=says):
        read_vectors("damaged.kv")


def a_model(**settings):
    """A small CBOW whose words are `WORDS`."""
    torch.manual_seed(0)
    model = CBOWForPreTraining(CBOWConfig(vocab_size=len(WORDS), hidden_size=5, buckets=50, **settings))
    model.set_vocabulary(WORDS)
    return model


@pytest.mark.parametrize("subwords", ["none", "ngrams"])
def test_a_model_s_folder(tmp_path, subwords):
    model = a_model(subwords=subwords)
    model.cbow.counts.copy_(torch.arange(10, 0, -1))
    model.save_pretrained(tmp_path)
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    found = read_vectors(tmp_path)
    assert found.words == WORDS and found.counts.tolist() == [*range(10, 0, -1)]
    assert np.array_equal(found.vectors, model.encode(WORDS).numpy())
    rows = model.cbow.input_embeddings.weight[: len(WORDS)].detach().numpy()
    assert np.array_equal(found.vectors, rows) == (subwords == "none")  # else each is the mean with its n-grams


def test_folders_without_word_vectors(tmp_path):
    with pytest.raises(InputError, match=r"no model or file '.*nowhere'"):
        read_vectors(tmp_path / "nowhere")
    SentenceModel(SentenceConfig(vocab_size=20)).save_pretrained(tmp_path)
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"cannot load a model from|holds no word vectors"):
        read_vectors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r":1: the first line must be 'WORDS WIDTH', two whole numbers, not ''"),
        (b"king 0.5 0.25\n", r":1: the first line must be 'WORDS WIDTH', two whole numbers, not 'king 0.5 0.25'"),
        (b"2 0\na\nb\n", r":1: the first line must be"),
        (b"2\na 1\nb 2\n", r":1: the first line must be"),
        (b"2 3 4\na 1\nb 2\n", r":1: the first line must be"),
        (b"-2 2\na 1 2\nb 2 3\n", r":1: the first line must be"),
        (b"99999999 300\na 1 2\n", r":1: 99,999,999 words of width 300 are more than the file has room for"),
        (b"2 2\na 1.0 2.0\nb 1.0\n", r":3: 'b' has 1 numbers, not 2"),
        (b"3 2\na 1.0\nb 1.0 2.0 3.0\nc 1 2\n", r":2: 'a' has 1 numbers, not 2"),  # as many numbers in all
        (b"2 2\na 1.0 x2\nb 1.0 2.0\n", r":2: 'a': could not convert string to float: .*x2"),
        (b"2 2\na 1.0 2.0\nb 1.0 nan\n", r":3: 'b' has a number that is not finite"),
        (b"2 2\na 1e99 2.0\nb 1.0 2.0\n", r":2: 'a' has a number that is not finite"),
        (b"3 2\na 1.0 2.0\nb 1.0 2.0\n", r":4: the file ends here, after 2 of 3 words"),
        (b"1 2\na 1.0 2.0\nb 1.0 2.0\n", r":3: a line more than the 1 words of the first line"),
        (b"2 2\na 1.0 2.0\n\xff 1.0 2.0\n", r":3: b'\\xff' is not UTF-8"),
        ((793712314).to_bytes(4, "little") + b"x" * 20, r"is fastText's own \.bin; the \.vec"),
    ],
)
def test_a_damaged_text_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "vectors.vec"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_vectors(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_damaged_line_far_down(tmp_path):
    path = tmp_path / "vectors.vec"
    write_vectors(WordVectors([f"w{i}" for i in range(9001)], np.ones((9001, 2))), path)
    path.write_bytes(path.read_bytes().replace(b"w8000 1 1", b"w8000 1 inf"))
    with pytest.raises(InputError, match=r":8002: 'w8000' has a number that is not finite"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-5], "it ends or breaks off in word 10 of 10"),
        (lambda content: content.replace(b"naive ", b"naive_"), "word [23]"),
        (lambda content: content.replace(b"naive", b"na\xefve"), r"word 2, b'na\\xefve', is not UTF-8"),
        (
            lambda content: content.replace(np.float32(0.5).tobytes(), np.float32("nan").tobytes()),
            "word 3, 'c', has a nu",
        ),
    ],
)
def test_a_damaged_binary_is_refused(tmp_path, change, message):
    path = tmp_path / "vectors.bin"
    numbers = np.ones((10, 4))
    numbers[2, 1] = 0.5
    write_vectors(WordVectors(["a", "naive", *"cdefghij"], numbers), path, "word2vec-bin")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        read_vectors(path)


def test_the_first_of_several_vectors_of_a_word_counts(tmp_path, caplog):
    (tmp_path / "twice.vec").write_text("3 1\na 1\nb 2\na 3\n")
    found = read_vectors(tmp_path / "twice.vec")
    assert found.words == ["a", "b"] and found.vectors.ravel().tolist() == [1, 2]
    assert "1 words have several vectors; the first counts" in caplog.text


def test_what_no_file_can_hold_is_not_written(tmp_path):
    ones = np.ones((2, 2))
    for word in ("", "new york", "a\nb"):
        with pytest.raises(InputError, match="has white space in it"):
            write_vectors(WordVectors(["a", word], ones), tmp_path / "vectors.vec")
    with pytest.raises(InputError, match=r"unknown format 'word2vex'.*did you mean 'word2vec'"):
        write_vectors(WordVectors(["a", "b"], ones), tmp_path / "vectors.vec", "word2vex")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to"):
        write_vectors(WordVectors(["a", "b"], ones), tmp_path / "file" / "vectors.vec")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for words, numbers in ((["a"], ones), ([], np.ones((0, 2))), (["a", "a"], ones), (["a", "b"], [[1], [np.inf]])):
        with pytest.raises(InputError):
            WordVectors(words, numbers)


def test_an_unknown_word_names_near_ones():
    with pytest.raises(InputError, match=r"the word 'quen' has no vector; did you mean 'queen'"):
        WordVectors(["king", "queen"], np.eye(2)).row("quen")
