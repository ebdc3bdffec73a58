"""Words in their windows, and tagged text."""

import pytest
import torch

from hfssl.data.word_windows import (
    WordWindows,
    base_tag,
    collate_words,
    frequent_word_tokenizer,
    read_tagged,
    sentences_of,
)
from hfssl.errors import InputError

TEXT = ["the cat sat\n\nthe dog\n", "é cat"]


@pytest.fixture
def sentences():
    return sentences_of(TEXT)


def test_windows_end_with_their_sentence(sentences):
    assert sentences == [["the", "cat", "sat"], ["the", "dog"], ["é", "cat"]]
    tokenizer = frequent_word_tokenizer(sentences, min_count=2)
    assert tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "cat": 2, "the": 3}
    windows = WordWindows(sentences, tokenizer, 2)
    assert len(windows) == 7
    assert [windows[i]["windows"].tolist() for i in (0, 2, 3, 5)] == [
        [0, 0, 3, 2, 1],
        [3, 2, 1, 0, 0],
        [0, 0, 3, 1, 0],
        [0, 0, 1, 2, 0],
    ]
    assert windows[1]["characters"].tolist() == [100, 98, 117]  # c, a, t, plus 1
    assert windows[5]["characters"].tolist() == [0xC3 + 1, 0xA9 + 1, 0]
    batch = collate_words([windows[5], windows[5]])
    assert batch["characters"].shape == (2, 2) and batch["windows"].shape == (2, 5)


def test_each_kind_of_word_once(sentences):
    windows = WordWindows(sentences, frequent_word_tokenizer(sentences), 1)
    first, back = windows.kinds()
    words = [word for sentence in sentences for word in sentence]
    assert [words[i] for i in first[back]] == words and len(first) == 5


def test_the_tokenizer_reads_its_own_words(sentences, tmp_path):
    tokenizer = frequent_word_tokenizer(sentences)
    assert tokenizer("the cat flew")["input_ids"] == [3, 2, 1]
    tokenizer.save_pretrained(tmp_path)
    assert type(tokenizer).from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_a_long_word_is_cut_and_no_words_are_refused(sentences):
    windows = WordWindows([["a" * 90]], frequent_word_tokenizer(sentences), 1)
    assert torch.equal(windows[0]["characters"], torch.full((32,), 98))
    with pytest.raises(InputError, match="nothing has no words"):
        WordWindows([], frequent_word_tokenizer(sentences), 1, "nothing")


@pytest.mark.parametrize(
    ("tag", "base"),
    [("NN-TL", "nn"), ("fw-at-tl-hl", "at"), ("ppss+ber", "ppss"), ("do*", "do"), ("*", "*"), ("--", "--")],
)
def test_tags_are_cut_to_their_first_part(tag, base):
    assert base_tag(tag) == base


def test_tagged_text(tmp_path):
    folder = tmp_path / "brown"
    folder.mkdir()
    (folder / "a01").write_text("\tThe/at Fulton/np-tl 1/2/cd\n\n")
    (folder / "a02").write_text("It/pps\n")
    assert read_tagged(folder) == [[("The", "at"), ("Fulton", "np"), ("1/2", "cd")], [("It", "pps")]]
    rows = [
        "# text",
        "1-2\tdon't\t_\t_",
        "1\tdo\tdo\tAUX",
        "2\tn't\tnot\tPART",
        "2.1\tgo\tgo\tVERB",
        "",
        "1\tGo\tgo\tVERB",
    ]
    (tmp_path / "x.conllu").write_text("\n".join(rows) + "\n")
    assert read_tagged(tmp_path / "x.conllu") == [[("do", "AUX"), ("n't", "PART")], [("Go", "VERB")]]
    (folder / "a02").write_text("fine/jj\nIt is/bez\n")
    with pytest.raises(InputError, match="a02:2: 'It' is no word with its tag: words are written word/tag"):
        read_tagged(folder)
    with pytest.raises(InputError, match="no such file or folder"):
        read_tagged(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="has no tagged words"):
        read_tagged(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.conllu", "1\tGo\n", r"a.conllu:1: 2 columns; CoNLL-U has the word in the second"),
        ("a.txt", "the/at dog/\n", r"a.txt:1: 'dog/' is no word with its tag"),
        ("a.txt", "the/at\n/nn\n", r"a.txt:2: '/nn' is no word with its tag"),
    ],
)
def test_damaged_tags_are_named_by_their_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_tagged(tmp_path / name)
