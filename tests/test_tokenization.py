"""Byte-level BPE: the lecture's algorithm word for word as the reference, and round trips on awkward text."""

import collections
import itertools
import json
import random
import runpy
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from hfssl import tokenization
from hfssl.config import parse_config
from hfssl.data.sources import TextArguments
from hfssl.errors import InputError
from hfssl.tokenization import TokenizerArguments, compare_tokenizers, load_tokenizer, save_tokenizer, train_bpe

PROSE = [f"The {word} of the {other} is {word}er than\nthe {other}." for word, other in itertools.permutations(
    ["low", "new", "wide", "old", "small"], 2)] * 3  # fmt: skip


def lecture_bpe(texts, merges, min_frequency=2):
    """Start from characters (here: bytes) and merge the most common pair, again and again, counting afresh every time.

    Of equally common pairs the one with the smaller ids is merged, left id first: the tie rule of `tokenizers`.
    """
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = collections.Counter(word for text in texts for word, _ in pattern.pre_tokenize_str(text))
    number = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    split = {word: list(word) for word in words}
    merged = []
    while len(merged) < merges:
        pairs = collections.Counter()
        for word, symbols in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], number[pair[0]], number[pair[1]]))
        if pairs[left, right] < min_frequency:
            break
        merged.append((left, right))
        number.setdefault(left + right, len(number))
        for word, symbols in split.items():
            split[word] = merge(symbols, left, right)
    return merged


def merge(symbols, left, right):
    """ "aaa" with the pair (a, a) becomes "aa a": from the left, without overlap."""
    result, i = [], 0
    while i < len(symbols):
        if symbols[i : i + 2] == [left, right]:
            result.append(left + right)
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def merges_of(tokenizer):
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


def random_corpus(seed):
    """Few different letters, so that overlaps ("aaa") and ties are everywhere; some corpora have spaces, some not."""
    chance = random.Random(seed)
    letters = chance.choice(["a", "ab", "abc", "ab ", "abcdefgh  \n", "aä🙂 ", "01 .,", "aab\n"])
    count = chance.randint(1, 6)
    return ["".join(chance.choices(letters, k=chance.randint(1, 60))) for _ in range(count)]


@pytest.mark.parametrize("block", range(10))
def test_merges_are_those_of_the_lecture_on_200_random_corpora(block):
    for seed in range(20 * block, 20 * block + 20):
        texts = random_corpus(seed)
        wanted = random.Random(seed).randint(1, 40)
        expected = lecture_bpe(texts, wanted)
        tokenizer = train_bpe(texts, 257 + wanted, show_progress=False)
        assert merges_of(tokenizer) == expected, (seed, texts)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["aaa"], [("a", "a")]),  # the two overlapping pairs count as two
        (["aa"], []),  # once is not often enough
        (["abab", "cdcd"], [("a", "b"), ("c", "d"), ]),  # a tie: the smaller ids first
        (["cdcd", "abab"], [("a", "b"), ("c", "d"), ]),  # whatever the order of the texts
    ],
)  # fmt: skip
def test_overlaps_and_ties(texts, expected):
    assert merges_of(train_bpe(texts, 300, show_progress=False))[: len(expected) or None] == expected


def test_long_documents_cut_in_pieces_give_the_same_tokenizer(monkeypatch):
    document = "\n".join(PROSE) + "\n\n\n  indented\n x\r\n y \n" + "\n".join(PROSE)
    direct = Tokenizer(models.BPE())
    direct.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    direct.train_from_iterator(
        [document],
        trainers.BpeTrainer(vocab_size=400, min_frequency=2, special_tokens=["<|endoftext|>"],
                            initial_alphabet=alphabet, show_progress=False),
    )  # fmt: skip
    for size in (1, 5, 100):
        monkeypatch.setattr(tokenization, "_PIECE", size)
        pieces = list(tokenization._pieces([document]))
        assert "".join(pieces) == document and len(pieces) > 10
        assert train_bpe([document], 400, show_progress=False).get_vocab() == direct.get_vocab()


# Round trips


def awkward_texts():
    chance = random.Random(0)
    planes = [(0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x2000, 0x206F), (0x4E00, 0x4FFF),
              (0xE000, 0xE0FF), (0x1F300, 0x1FAFF), (0x10FF00, 0x10FFFF)]  # fmt: skip
    for _ in range(200):
        low, high = chance.choice(planes)
        yield "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 30)))
    yield from [
        " ", "  ", "\n", "\r\n", "\t", " leading", "trailing ", "a  b", "a \n b", "\0", "\x00\x1b[0m\x7f", "\ufeffbom",
        "e\u0301 \u00e9", "👩‍👩‍👧‍👦 👍🏽", "שלום עולם", "مرحبا \u202bעברית\u202c", "don't can't I'll ?!",
        "Hello , world .",
        "\u2028\u2029\u0085", "".join(map(chr, range(0x500))), "z̸̢͙a̷l̶g̸o̵",
    ]  # fmt: skip
    yield "".join(chr(c) for c in range(0x20000) if unicodedata.category(chr(c)) != "Cs")


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def trained(request):
    return train_bpe(PROSE, 400, request.param, show_progress=False)


def test_every_text_comes_back(trained):
    for text in awkward_texts():
        assert trained.decode(trained(text)["input_ids"], skip_special_tokens=True) == text
        ids = trained(text, add_special_tokens=False)["input_ids"]
        assert trained.decode(ids) == text
        assert trained.unk_token_id not in ids or trained.unk_token_id == trained.eos_token_id


def test_special_tokens_in_a_text_are_tokens_unless_they_are_split(trained):
    special = trained.all_special_tokens[-1]
    text = f"say {special} ."
    assert trained.convert_tokens_to_ids(special) in trained(text, add_special_tokens=False)["input_ids"]
    assert trained.decode(trained(text, add_special_tokens=False)["input_ids"]) == text
    ids = trained(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not set(ids) & set(trained.all_special_ids) and trained.decode(ids) == text
    again = train_bpe([special * 3] * 5, 300, show_progress=False)  # while training it is text
    assert any(len(left + right) > 2 for left, right in merges_of(again))


def test_gpt2_style():
    tokenizer = train_bpe(PROSE, 280, show_progress=False)
    assert tokenizer.pad_token is None and tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer("low")["input_ids"] == tokenizer("low", add_special_tokens=False)["input_ids"]
    assert len(tokenizer) == 280 and set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())


def test_bert_style():
    tokenizer = train_bpe(PROSE, 300, "bert", special_tokens=["[X]"], model_max_length=12, show_progress=False)
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(6)] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[X]",
    ]
    single, pair = tokenizer("low"), tokenizer("low", "new")
    assert single["input_ids"][0] == 2 and single["input_ids"][-1] == 3
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("low", "new"))
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert len(tokenizer("wide " * 50, truncation=True)["input_ids"]) == 12
    batch = tokenizer(["low", "low wide old"], padding=True)
    assert batch["input_ids"][0][-1] == tokenizer.pad_token_id == 0 and batch["attention_mask"][0][-1] == 0


def test_the_same_text_gives_the_same_tokenizer_in_any_order(tmp_path):
    shuffled = random.Random(0).sample(PROSE, len(PROSE))
    first, second = (train_bpe(iter(texts), 350, show_progress=False) for texts in (PROSE, shuffled))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_saved_it_loads_with_transformers_alone_and_gives_equal_ids(trained, tmp_path):
    save_tokenizer(trained, str(tmp_path / "tokenizer"))
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in awkward_texts():
        assert loaded(text)["input_ids"] == trained(text)["input_ids"]
    assert loaded("a", "b") == trained("a", "b")
    assert loaded.all_special_tokens == trained.all_special_tokens
    assert loaded.decode(loaded("Hello , it 's .")["input_ids"], skip_special_tokens=True) == "Hello , it 's ."
    code = (
        "import sys; sys.modules['hfssl'] = None\nfrom transformers import AutoTokenizer\n"
        "print(AutoTokenizer.from_pretrained(sys.argv[1])('The low 🙂')['input_ids'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tokenizer")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == trained("The low 🙂")["input_ids"]


# Loading, saving, comparing


def test_a_folder_with_gpt2s_files_loads(tmp_path, trained):
    if trained.unk_token != "<|endoftext|>":
        pytest.skip("GPT-2's files have no [CLS]")
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    loaded = load_tokenizer(str(tmp_path))
    for text in awkward_texts():
        assert loaded(text)["input_ids"] == trained(text)["input_ids"]


def test_what_is_no_tokenizer_is_bad_input(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such tokenizer folder"):
        load_tokenizer(str(tmp_path / "missing"))
    for name in (str(tmp_path), "nobody/nothing-of-this-name"):
        with pytest.raises(InputError, match="cannot load a tokenizer") as caught:
            load_tokenizer(name)
        assert "\n" not in str(caught.value)


def test_an_output_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    tokenizer = train_bpe(PROSE, 300, show_progress=False)
    target = tmp_path / "new" / "out"
    save_tokenizer(tokenizer, str(target))
    with pytest.raises(InputError, match=r"not empty.*--overwrite"):
        save_tokenizer(tokenizer, str(target))
    (target / "old").touch()
    save_tokenizer(tokenizer, str(target), overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]

    def full(self, folder):
        (folder / "tokenizer.json").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    for name in ("out", "other"):
        with pytest.raises(InputError, match="No space left on device"):
            save_tokenizer(tokenizer, str(target.parent / name), overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == ["out"], "nothing half-written stays"
    assert load_tokenizer(str(target)).get_vocab() == tokenizer.get_vocab(), "what was there stays"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        save_tokenizer(tokenizer, str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "give at least 257"),
        ({"vocab_size": 260, "style": "bert"}, "give at least 261"),
        ({"vocab_size": 257, "special_tokens": ["[X]"]}, "give at least 258"),
        ({"vocab_size": 300, "style": "gpt3"}, "unknown tokenizer style 'gpt3'"),
    ],
)
def test_what_cannot_be_trained_is_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        train_bpe(PROSE, show_progress=False, **options)
    for empty in ([], ["", ""]):
        with pytest.raises(InputError, match="empty"):
            train_bpe(empty, 300, show_progress=False)


def test_a_short_text_yields_fewer_entries_and_says_so(caplog):
    tokenizer = train_bpe(["aaa bbb"] * 2, 5000, show_progress=False)
    assert len(tokenizer) < 300 and f"only {len(tokenizer)} entries" in caplog.text


def test_the_smallest_vocabulary_is_the_bytes():
    tokenizer = train_bpe(PROSE, 257, show_progress=False)
    assert tokenizer.decode(tokenizer("ä🙂")["input_ids"]) == "ä🙂" and len(tokenizer("ä🙂")["input_ids"]) == 6


def test_compare_counts_by_hand():
    """With the bytes alone a token is a byte; the words are split at white space."""
    small, large = train_bpe(PROSE, 257, show_progress=False), train_bpe(PROSE, 400, show_progress=False)
    texts = ["low ünew", "wide"]  # 9 + 4 bytes, 3 words
    first, second = compare_tokenizers({"small": small, "large": large}, iter(texts))
    assert (first["name"], first["vocab_size"], first["bytes_per_token"]) == ("small", 257, 1.0)
    assert first["tokens_per_word"] == round(13 / 3, 4) and first["unknown"] == 0 and first["lossless"] == 1
    assert second["bytes_per_token"] > 1 and {"seconds", "mb_per_second"} <= set(second)
    with pytest.raises(InputError, match="no text"):
        compare_tokenizers({"small": small}, [])


def test_compare_sees_unknown_tokens_and_losses():
    from tokenizers import pre_tokenizers as pre
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "low": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    [row] = compare_tokenizers({"words": words}, ["low", "low new"])
    assert row["unknown"] == round(1 / 3, 4) and row["lossless"] == 0.5


# The programs


ROOT = Path(__file__).resolve().parent.parent


def program(name):
    return runpy.run_path(str(ROOT / "tokenizers_train" / name))["main"]


def test_the_programs_train_and_compare(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(PROSE))
    text, out = ["--text_path", str(tmp_path / "a.txt"), "--eval_fraction", "0.2"], tmp_path / "bpe"
    program("train_bpe.py")([*text, "--vocab-size", "290", "--style", "bert", "--output_dir", str(out)])
    assert load_tokenizer(str(out)).mask_token == "[MASK]" and "290" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        program("train_bpe.py")([*text, "--output_dir", str(out)])
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err
    rows = program("compare.py")([*text, "--tokenizers", str(out), "--out", str(tmp_path / "rows.json")])
    assert [(row["vocab_size"], row["lossless"]) for row in rows] == [(290, 1.0)]
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows


def test_bad_input_to_the_program_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"\xff\xff text")
    arguments = ["--text_path", str(tmp_path / "a.txt"), "--output_dir", str(tmp_path / "out" / "bpe")]
    for more in ([], ["--encoding", "latin-1", "--vocab_size", "100"]):
        with pytest.raises(SystemExit) as stopped:
            program("train_bpe.py")([*arguments, *more])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stopped.value.code == 2 and error.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("path", sorted((ROOT / "tokenizers_train").glob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_is_one_of_the_programs(path):
    text, tokenizer = parse_config(TextArguments, TokenizerArguments, argv=["--config", str(path)])
    assert text.text_path == "builtin:prose" and tokenizer.vocab_size == 4096
