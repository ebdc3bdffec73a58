"""A conversation: prompts, history, commands, a pipe and a terminal."""

import io
import json
import os
import pty
import subprocess
import sys
import time

import pytest

from hfssl import cli
from hfssl.data.layout import Layout
from hfssl.errors import InputError, shown
from hfssl.generation import Conversation, Try, chat, conversation, sample_and_rank
from tests.conftest import ROOT
from tests.generation.tiny import POSITIONS, make_model, make_tokenizer

DIALOGUE = Layout("dialogue", source="{context}", target="{response}", turns=7)
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }}<turn>{% endfor %}<sep>"


@pytest.fixture
def tokenizer():
    found = make_tokenizer()
    yield found
    found.chat_template = None


@pytest.fixture
def prompts(monkeypatch):
    """What each reply was the reply to."""
    seen, decode = [], conversation.decode
    monkeypatch.setattr(
        conversation, "decode", lambda m, t, rows, *rest: seen.append(rows[0]) or decode(m, t, rows, *rest)
    )
    return seen


def make(tokenizer, layout=DIALOGUE, kind="gpt2", **settings):
    return Conversation(make_model(kind), tokenizer, layout, **{"n": 3, "max_new_tokens": 5} | settings)


def test_a_reply_is_sample_and_rank_s_and_history_counts(tokenizer, prompts):
    talk = make(tokenizer, n=5, seed=3)
    first = talk.reply("the cat")
    ids = DIALOGUE.prompt_ids(tokenizer, {"context": ["the cat"]})
    assert first == DIALOGUE.decode(
        tokenizer, sample_and_rank(talk.model, tokenizer, ids, 5, max_new_tokens=5, seed=3).best.ids
    )
    second = talk.reply("the dog")
    assert prompts[1] == DIALOGUE.prompt_ids(tokenizer, {"context": ["the cat", first, "the dog"]})
    assert talk.turns == ["the cat", first, "the dog", second]
    talk.reset()
    assert talk.turns == [] and talk.reply("the cat") == first and prompts[2] == ids


def test_old_exchanges_go_where_the_positions_end(tokenizer, prompts):
    talk = make(tokenizer)
    for number in range(8):
        talk.reply(f"the cat {number}")
    fitting = []
    for said in range(1, 17, 2):
        ends = [DIALOGUE.prompt_ids(tokenizer, {"context": talk.turns[first:said]}) for first in range(0, said, 2)]
        fitting.append(next(ids for ids in ends if len(ids) <= 40 - 5))  # room for the reply
    assert prompts == fitting and len(talk.turns) == 16
    turns = list(talk.turns)
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens, the model has 40 positions"):
        talk.reply("cat " * 50)
    assert talk.turns == turns


def test_a_chat_template_or_a_line_for_each_turn(tokenizer, prompts):
    plain = make(tokenizer, None)
    said = plain.reply("the cat")
    assert "\n" not in said
    plain.reply("the dog")
    assert prompts[1] == tokenizer(f"the cat\n{said}\nthe dog\n")["input_ids"]
    seq2seq = make(tokenizer, None, "bart")
    seq2seq.reply("the cat")
    assert prompts[2] == tokenizer("the cat")["input_ids"]
    tokenizer.chat_template = TEMPLATE
    templated = make(tokenizer, None)
    said = templated.reply("the")
    templated.reply("on")
    expected = f"user the<turn>assistant {said}<turn>user on<turn><sep>"
    assert prompts[4] == tokenizer(expected)["input_ids"]


def test_words_do_not_steer_the_terminal(tokenizer, monkeypatch):
    assert shown("a\x1b[2J\x9b\x7f\tü\u00a0\n") == "a\\x1b[2J\\x9b\\x7f\tü\u00a0\n"
    monkeypatch.setattr(conversation, "decode", lambda *given: [[Try("no\x1b]0;title\x07", [7], -1.0)]])
    out = io.StringIO()
    chat(make_model(), tokenizer, None, io.StringIO("hello\n"), out)
    assert out.getvalue() == "no\\x1b]0;title\\x07\n"


def test_what_was_said_in_an_earlier_turn_is_not_said_again(tokenizer, monkeypatch):
    tries = [Try("I went to the market today", [7], -1.0), Try("yes", [8], -2.0)]
    monkeypatch.setattr(conversation, "decode", lambda *given: [tries])
    for filters, said in ((True, "yes"), (False, "I went to the market today")):
        talk = make(tokenizer, None, filter_repeats=filters)
        assert talk.reply("So I went to the market!") == said


def test_saving_is_whole_and_overwrites_nothing(tokenizer, tmp_path, monkeypatch):
    talk, path = make(tokenizer), tmp_path / "deep" / "chat.json"
    said = talk.reply("the cat")
    assert talk.save(path) == path
    content = json.loads(path.read_text())
    assert [turn["text"] for turn in content["turns"]] == ["the cat", said]
    assert [turn["speaker"] for turn in content["turns"]] == ["user", "model"]
    reply = content["turns"][1]
    assert len(reply["tries"]) == 3 and reply["scorer"] == "mean log p" and content["settings"]["n"] == 3
    assert reply["tries"][reply["chosen"]]["score"] == max(one["score"] for one in reply["tries"])
    talk.reply("the dog")
    talk.save(path)  # our own
    assert len(json.loads(path.read_text())["turns"]) == 4
    with pytest.raises(InputError, match=r"chat\.json is there already; give another name"):
        make(tokenizer).save(path)

    def fail(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    before = path.read_text()
    with pytest.raises(InputError, match="No space left"):
        talk.save(path)
    assert path.read_text() == before and [each.name for each in path.parent.iterdir()] == ["chat.json"]


def test_commands_and_errors_end_nothing(tokenizer, tmp_path, capsys):
    lines = [
        "",
        "the cat",
        "/save",
        "/what",
        f"/save {tmp_path / 'a.json'}",
        "cat " * 50,
        "/reset",
        "the cat",
        "/quit",
        "no",
    ]
    out = io.StringIO()
    chat(make_model(), tokenizer, DIALOGUE, io.StringIO("\n".join(lines)), out, n=2, max_new_tokens=4)
    replies = out.getvalue().splitlines()
    assert len(replies) == 2 and replies[0] == replies[1] and out.getvalue().count("\n") == 2
    said = capsys.readouterr().err
    for words in ("/save needs the name of a file: /reset forgets", "unknown command /what: /reset", "a.json",
                  f"tokens, the model has {POSITIONS} positions; say it in fewer words", "forgot 2 turns"):  # fmt: skip
        assert words in said
    assert len(json.loads((tmp_path / "a.json").read_text())["turns"]) == 2


@pytest.fixture
def folder(tmp_path, tokenizer):
    make_model().save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    DIALOGUE.save(tmp_path / "chat")
    return tmp_path / "chat"


def test_through_a_pipe(folder, monkeypatch, capsys):
    """The verb in this process: it takes seconds to import all in another, which the terminal's test does."""
    read, write = os.pipe()
    os.write(write, "hello\nhow are you?\ncaf\xe9".encode("latin-1"))  # the last line has no end and is no UTF-8
    os.close(write)
    monkeypatch.setattr(sys, "argv", ["hfssl", "chat", str(folder), "--n", "2", "--max_new_tokens", "4"])
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert stop.value.code == 0 and said.out.count("\n") == 3 and said.err == "", said.err
    talk = Conversation(make_model(), make_tokenizer(), DIALOGUE, n=2, max_new_tokens=4)
    assert said.out.splitlines() == [
        " ".join(talk.reply(each).split()) for each in ("hello", "how are you?", "caf\ufffd")
    ]


def test_a_reader_that_leaves_ends_the_talk(folder, monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "argv", ["hfssl", "chat", str(folder), "--n", "1", "--max_new_tokens", "2"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\nhow are you?\n")))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(write, "w"), write_through=True))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1 and capsys.readouterr().err == ""


def test_in_a_terminal(folder, hfssl_command):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [hfssl_command, "chat", folder, "--n", "2", "--max_new_tokens", "4"], stdin=slave, stdout=slave, stderr=slave,
        cwd=ROOT, env={**os.environ, "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(slave)

    def until(ending):
        seen, end = b"", time.monotonic() + 120
        while not seen.endswith(ending) and time.monotonic() < end:
            try:
                seen += os.read(master, 1024)
            except OSError:  # how a pseudo-terminal says that the other side is closed
                break
        assert seen.endswith(ending), seen
        return seen.decode()

    assert "/reset forgets what was said" in until(b"> ")
    os.write(master, b"hello\n")
    echo, reply, _ = until(b"\n> ").split("\r\n")
    assert echo == "hello"
    os.write(master, b"/reset\n")
    until(b"forgot 2 turns\r\n> ")
    os.write(master, b"hello\n")
    assert until(b"\n> ").split("\r\n")[1] == reply  # it begins anew
    os.write(master, b"\x04")  # Ctrl-D
    assert process.wait(60) == 0
    os.close(master)
