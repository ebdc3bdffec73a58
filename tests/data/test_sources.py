"""Text from every kind of source, in bounded memory and one order; and one clear line for what cannot be read."""

import gzip
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfssl.data import readers, sources
from hfssl.data.builtin import hash_fraction
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError

DOCUMENTS = [f"Document {i}: ünïcode and\nlines.\n" for i in range(200)]


def all_of(path, **options):
    """Every document of a source, train and held-out part together."""
    return list(load_texts(TextArguments(text_path=str(path), eval_fraction=0, **options), "train"))


def parts(path, **options):
    args = TextArguments(text_path=str(path), **options)
    return list(load_texts(args, "train")), list(load_texts(args, "eval"))


def write_jsonl(path, documents=DOCUMENTS, column="text"):
    text = "".join(json.dumps({"id": i, column: document}) + "\n" for i, document in enumerate(documents))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_parquet(path, documents=DOCUMENTS, kind=None, column="text"):
    pq.write_table(pa.table({"id": range(len(documents)), column: pa.array(documents, kind)}), path, row_group_size=64)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.jsonl.gz", "d.parquet", "d.parquet.gz"])
def test_rows_are_documents_in_their_order(tmp_path, name):
    path = tmp_path / name
    if "parquet" in name:
        write_parquet(tmp_path / "plain")
        data = (tmp_path / "plain").read_bytes()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    else:
        write_jsonl(path)
    texts = load_texts(TextArguments(text_path=str(path), eval_fraction=0), "train")
    assert list(texts) == DOCUMENTS
    assert list(texts) == DOCUMENTS, "a second pass gives the same"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_string_column_is_text(tmp_path, kind):
    write_parquet(tmp_path / "d.parquet", kind=kind)
    assert all_of(tmp_path / "d.parquet") == DOCUMENTS


def test_a_folder_is_read_recursively_sorted_and_without_hidden_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/2.txt", "a.txt", "c.TXT", ".hidden.txt", ".git/x.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    assert all_of(tmp_path) == ["a.txt", "b/2.txt", "c.TXT"]


def test_an_empty_file_in_a_folder_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    assert all_of(tmp_path) == ["text"]
    assert "b.txt is empty" in caplog.text


def test_json_lines_end_at_line_feeds_only_and_line_ends_of_text_become_line_feeds(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two"}\r\n\n{"text": "x"}', encoding="utf-8", newline="")
    assert all_of(tmp_path / "a.jsonl") == ["one\u2028two", "x"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert all_of(tmp_path / "a.txt") == ["one\ntwo\nthree\n"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_long_files_come_in_pieces_that_end_at_a_line_end_and_lose_nothing(tmp_path, monkeypatch, block):
    monkeypatch.setattr(readers, "PIECE", 40)
    monkeypatch.setattr(readers, "_BLOCK", block)  # characters and \r\n are split between blocks
    text = "".join(f"zeile {i} mit üñî 🙂\n" for i in range(20)) + "no line end at the end"
    (tmp_path / "a.txt").write_bytes(text.replace("\n", "\r\n").encode())
    pieces = all_of(tmp_path / "a.txt")
    assert "".join(pieces) == text
    assert len(pieces) > 5 and all(piece.endswith("\n") for piece in pieces[:-1])


def test_reading_a_large_file_takes_little_memory(tmp_path):
    import tracemalloc

    write_parquet(tmp_path / "a.parquet", ["x" * 10_000 + str(i) for i in range(3000)])
    with open(tmp_path / "a.jsonl", "w") as file:
        for i in range(3000):
            file.write(json.dumps({"text": "y" * 10_000 + str(i)}) + "\n")
    for name in ("a.parquet", "a.jsonl"):
        texts = load_texts(TextArguments(text_path=str(tmp_path / name), eval_fraction=0))
        tracemalloc.start()
        assert sum(1 for _ in texts) == 3000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6, f"{name} of 30 MB took {peak / 1e6:.0f} MB"


# Held-out documents


def test_the_held_out_part_depends_on_the_documents_and_not_on_their_order(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "b.jsonl", DOCUMENTS[::-1])
    train, held_out = parts(tmp_path / "a.jsonl", eval_fraction=0.1)
    assert sorted(train + held_out) == sorted(DOCUMENTS) and not set(train) & set(held_out)
    assert 5 <= len(held_out) <= 40
    assert set(parts(tmp_path / "b.jsonl", eval_fraction=0.1)[1]) == set(held_out)
    assert hash_fraction("The same on every machine.") == 0.8754841221529591
    more = parts(tmp_path / "a.jsonl", eval_fraction=0.3)[1]
    assert set(held_out) < set(more), "a larger part holds the smaller one"


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [1e-9, 0.02, 0.999999999])
def test_a_corpus_of_few_documents_has_both_parts(tmp_path, count, fraction):
    write_jsonl(tmp_path / "a.jsonl", DOCUMENTS[:count])
    train, held_out = parts(tmp_path / "a.jsonl", eval_fraction=fraction)
    assert train and held_out and sorted(train + held_out) == sorted(DOCUMENTS[:count])


def test_of_one_document_the_end_is_held_out_from_a_line_end_on(tmp_path):
    text = "".join(f"line {i}\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(text)
    write_jsonl(tmp_path / "a.jsonl", [text])
    for name in ("a.txt", "a.jsonl"):
        [train], [held_out] = parts(tmp_path / name, eval_fraction=0.05)
        assert train + held_out == text and train.endswith("\n")
        assert 0.04 < len(held_out) / len(text) < 0.06


@pytest.mark.parametrize("text", ["ab", "one two three", "a\nb", "x\nabc", "x" * 100, "word " * 50, "a\n" * 50])
@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.99])
@pytest.mark.parametrize("piece", [1, 8, 10**6])
def test_one_document_always_has_both_parts_and_loses_nothing(tmp_path, monkeypatch, text, fraction, piece):
    monkeypatch.setattr(readers, "PIECE", piece)
    monkeypatch.setattr(readers, "_BLOCK", 4)
    (tmp_path / "a.txt").write_text(text)
    train, held_out = parts(tmp_path / "a.txt", eval_fraction=fraction)
    assert train and held_out and "".join(train + held_out) == text


def test_held_out_text_of_its_own_leaves_the_training_text_whole(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_text("held out")
    assert parts(tmp_path / "a.jsonl", eval_text_path=str(tmp_path / "b.txt")) == (DOCUMENTS, ["held out"])


def test_builtin_prose_has_its_own_held_out_documents():
    args = TextArguments()
    train, held_out = load_texts(args, "train"), load_texts(args, "eval")
    assert not set(train) & set(held_out) and len(list(held_out)) > 5
    assert train.fingerprint() != held_out.fingerprint() == load_texts(args, "eval").fingerprint()


def test_the_fingerprint_follows_content_names_and_options_but_not_the_place(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for folder in ("x", "y"):
        write_jsonl(tmp_path / folder / "a.jsonl")

    def fingerprint(folder="x", split="train", **options):
        return load_texts(TextArguments(text_path=str(tmp_path / folder), **options), split).fingerprint()

    first = fingerprint()
    assert first == fingerprint() == fingerprint("y")
    assert len({first, fingerprint(split="eval"), fingerprint(text_column="id"), fingerprint(eval_fraction=0.3)}) == 4
    write_jsonl(tmp_path / "x" / "a.jsonl", ["Other" + DOCUMENTS[0][5:], *DOCUMENTS[1:]])
    assert fingerprint() != first
    (tmp_path / "y" / "a.jsonl").rename(tmp_path / "y" / "b.jsonl")
    assert fingerprint("y") != first


# Bad input: each is one line that says what, where and what to do


def assert_refused(path, *words, split="train", **options):
    with pytest.raises(InputError) as caught:
        list(load_texts(TextArguments(text_path=str(path), **options), split))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_missing_and_empty(tmp_path):
    assert_refused(tmp_path / "missing.txt", "no such file", "missing.txt")
    assert_refused("data/books.parquet", "no such file")
    assert_refused("./books", "no such file")
    assert_refused("builtin:pros", "did you mean 'prose'")
    assert_refused("builtin:digits", "it holds images")
    (tmp_path / "empty.txt").touch()
    assert_refused(tmp_path / "empty.txt", "empty.txt", "is empty")
    (tmp_path / "blank.txt").write_text(" \n\n")
    assert_refused(tmp_path / "blank.txt", "holds no text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.pdf").write_text("x")
    assert_refused(tmp_path / "folder", "no usable text file", ".txt, .jsonl, .json, .parquet and .gz")
    assert_refused(tmp_path / "folder" / "a.pdf", "a.pdf", "usable are .txt")


@pytest.mark.parametrize("block", [5, 2**20])
def test_text_that_is_not_of_its_encoding_is_named_with_its_byte(tmp_path, monkeypatch, block):
    monkeypatch.setattr(readers, "_BLOCK", block)
    (tmp_path / "a.txt").write_bytes("grün ".encode() + "grün".encode("latin-1"))
    assert_refused(tmp_path / "a.txt", "a.txt", "not utf-8", "byte 8 ", "--encoding latin-1")
    assert all_of(tmp_path / "a.txt", encoding="latin-1") == ["grÃ¼n grün"]
    (tmp_path / "cut.txt").write_bytes("grü".encode()[:-1])
    assert_refused(tmp_path / "cut.txt", "byte 2 ")


def test_unknown_encoding():
    assert_refused("builtin:prose", "unknown encoding 'utf9'", "did you mean", encoding="utf9")
    assert_refused("builtin:prose", "unknown encoding 'base64'", encoding="base64")  # a codec, but not of text


def test_bad_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, words in {
        "{broken": ("a.jsonl:3", "no JSON"),
        '{"body": 1, "title": 2}': ("a.jsonl:3", "no column 'text'", "body, title"),
        '{"text": 3}': ("a.jsonl:3", "int, not text"),
        "[1]": ("a.jsonl:3", "list"),
        '{"text": "a \\ud83d"}': ("a.jsonl:3", "\\ud83d in column 'text' is half of a character"),
    }.items():
        path.write_text('{"text": "a"}\n\n' + line + "\n")
        assert_refused(path, *words)


def test_bad_parquet(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    assert_refused(tmp_path / "a.parquet", "no column 'body'", "id, text", text_column="body")
    assert_refused(tmp_path / "a.parquet", "'id'", "int64, not text", text_column="id")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    assert_refused(tmp_path / "b.parquet", "b.parquet", "no parquet file")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[100:1500] = b"\xff" * 1400  # the footer stays whole, the pages do not
    (tmp_path / "c.parquet").write_bytes(bytes(data))
    assert_refused(tmp_path / "c.parquet", "c.parquet", "damaged")


def test_damaged_gz(tmp_path):
    whole = gzip.compress(os.urandom(100_000).hex().encode())
    for data in (b"no gzip", whole[:1000], whole[:500] + b"\0" * 100 + whole[600:]):
        (tmp_path / "a.txt.gz").write_bytes(data)
        assert_refused(tmp_path / "a.txt.gz", "a.txt.gz", "no whole .gz file")
    (tmp_path / "a.parquet.gz").write_bytes(whole[:1000])
    assert_refused(tmp_path / "a.parquet.gz", "no whole .gz file")


def test_options_that_make_no_sense(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    assert_refused(tmp_path / "a.jsonl", "eval_fraction must be", eval_fraction=1.0)
    assert_refused(tmp_path / "a.jsonl", "nothing is held out", split="eval", eval_fraction=0)
    assert_refused(tmp_path / "a.jsonl", "are for Hub datasets", text_split="test")
    write_jsonl(tmp_path / "same.jsonl", ["same"] * 5)
    assert_refused(tmp_path / "same.jsonl", "are the same", split="eval")


def test_a_hub_id_while_offline_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_refused("nobody/nothing-of-this-name", "cannot reach the Hub", "nobody/nothing-of-this-name", "builtin:NAME")


def test_without_a_way_to_the_hub_one_request_is_made(monkeypatch, caplog):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a retry"))
    with pytest.raises(InputError, match=r"cannot reach the Hub.*: name another"):
        sources.load_hub_dataset("nobody/nothing-of-this-name", None, "train", instead="name another")
    assert not caplog.records and not huggingface_hub.constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_stream_that_breaks_off_is_one_line(monkeypatch):
    import datasets

    def rows():
        yield {"text": "one"}
        raise ConnectionError("the server\nis gone")

    stream = datasets.IterableDataset.from_generator(
        rows, features=datasets.Features({"text": datasets.Value("string")})
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: stream)
    with pytest.raises(
        InputError, match="reading the Hub dataset 'someone/texts' broke off: the server is gone; run again"
    ):
        all_of("someone/texts", streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_dataset_is_read_by_column(monkeypatch, streaming):
    """The Hub itself is out of a test's reach: `datasets` makes the same objects from memory."""
    import datasets

    def load(name, config, split, streaming):
        assert (name, config, split) == ("user/name", "en", "validation")
        dataset = datasets.Dataset.from_dict({"text": [*DOCUMENTS, None, ""], "id": range(202)})
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"text_config": "en", "text_split": "validation", "streaming": streaming}
    assert all_of("user/name", **options) == DOCUMENTS
    train, held_out = parts("user/name", eval_fraction=0.1, **options)
    assert sorted(train + held_out) == sorted(DOCUMENTS) and held_out
    assert_refused("user/name", "no column 'body'", "text, id", text_column="body", **options)
    assert_refused("user/name", "int in row 0", text_column="id", **options)
    args = TextArguments(text_path="user/name", **options)
    assert load_texts(args).fingerprint() == load_texts(args).fingerprint()


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Unknown split\n'x'"), OSError("broken")])
def test_every_error_of_the_hub_is_one_line(monkeypatch, error):
    import datasets

    def load(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError) as caught:
        sources.load_hub_dataset("user/name", None, "x")
    assert "\n" not in str(caught.value) and "user/name" in str(caught.value)
    assert ("offline?" in str(caught.value)) == isinstance(error, ConnectionError)
