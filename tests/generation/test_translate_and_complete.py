"""Translation and commonsense: what is asked of the decoder, the order, the scores, and what is refused."""

import json
import sys

import pytest
import torch

from hfssl import cli
from hfssl.data.layout import Layout
from hfssl.errors import InputError, shown
from hfssl.generation import complete, complete_many, translate
from tests.generation.tiny import POSITIONS, logits_of, make_model, make_tokenizer, slow_greedy, slow_log_p

TRANSLATION = Layout("translation")
SEVERAL = Layout("translation", source="{language}{source}", tags={"language": ["<de>", "<fr>"]})
COMET = Layout(
    "commonsense", source=" {head}{relation}", target=" {tail}", separator="", replaced={" ___": "<turn>"},
    tags={"relation": ["<xIntent>", "<xNeed>"]},
)  # fmt: skip
SOURCES = ["a man in a red hat", "the cat", "", "the dog sat on the mat and", "the cat", "dog"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize(("kind", "layout"), [("gpt2", TRANSLATION), ("bart", None)])
def test_greedy_translations_in_any_batch_and_order(kind, layout, tokenizer):
    model, expected = make_model(kind), []
    for text in SOURCES:
        ids = tokenizer(text)["input_ids"] if layout is None else layout.prompt_ids(tokenizer, {"source": text})
        ids = slow_greedy(model, ids, 8) if text else []
        expected.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    for size in (1, 2, 32):
        assert translate(model, tokenizer, layout, SOURCES, batch_size=size, max_new_tokens=8) == expected
    assert translate(model, tokenizer, layout, SOURCES[::-1], max_new_tokens=8) == expected[::-1]


def test_beams_reach_what_greedy_may_miss(tokenizer):
    model = make_model()
    rows = [{"head": text, "relation": "xNeed"} for text in SOURCES if text]
    prompts = [COMET.prompt_ids(tokenizer, row) for row in rows]
    beams = complete_many(model, tokenizer, COMET, rows, 4, length_penalty=0, max_new_tokens=5)
    greedy = complete_many(model, tokenizer, COMET, rows, 1, length_penalty=0, max_new_tokens=5)
    for prompt, many, (one,) in zip(prompts, beams, greedy, strict=True):
        assert one.score == pytest.approx(slow_log_p(model, prompt, slow_greedy(model, prompt, 5)), abs=1e-3)
        assert many[0].score >= one.score - 1e-4
    assert any(many[0].score > one.score + 1e-3 for many, (one,) in zip(beams, greedy, strict=True))


def test_completions_are_the_beams_with_their_scores_anew(tokenizer):
    model = make_model()
    prompt = COMET.prompt_ids(tokenizer, {"head": "the cat", "relation": "<xIntent>"})
    found = complete(model, tokenizer, COMET, "the cat", "xIntent", num_beams=3, length_penalty=0.5, max_new_tokens=6)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True) and len(found) == 3
    stock = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=3,
        num_return_sequences=3, length_penalty=0.5, max_new_tokens=6, do_sample=False, pad_token_id=5,
    )[:, len(prompt) :]  # fmt: skip
    for one, row in zip(found, stock.tolist(), strict=True):
        ids = row[: row.index(0) + 1] if 0 in row else [token for token in row if token != 5]
        assert one.text == COMET.decode(tokenizer, ids)
        assert one.score == pytest.approx(slow_log_p(model, prompt, ids) / len(ids) ** 0.5, abs=1e-3)


def test_a_blank_in_a_target_is_written_as_it_was_read(tokenizer):
    model = make_model()
    blank = tokenizer.convert_tokens_to_ids("<turn>")
    model.lm_head.weight.data[blank] *= 50
    texts = [one.text for one in complete(model, tokenizer, COMET, "the cat", "xNeed", max_new_tokens=3)]
    assert any("___" in text for text in texts), texts


def test_unknown_tags_and_languages(tokenizer):
    model = make_model()
    with pytest.raises(InputError, match="unknown relation 'xIntend': one of xIntent, xNeed; did you mean 'xIntent'"):
        complete(model, tokenizer, COMET, "the cat", "xIntend")
    with pytest.raises(InputError, match="the head is empty"):
        complete(model, tokenizer, COMET, " ", "xIntent")
    with pytest.raises(InputError, match="unknown language 'dee': one of de, fr"):
        translate(model, tokenizer, SEVERAL, ["the cat"], language="dee")
    with pytest.raises(InputError, match="this model needs a language: one of de, fr"):
        translate(model, tokenizer, SEVERAL, ["the cat"])
    with pytest.raises(InputError, match="this model takes no language"):
        translate(model, tokenizer, TRANSLATION, ["the cat"], language="de")
    with pytest.raises(InputError, match=r"unknown language '<dee>': one of .*<de>.*; did you mean '<de>'"):
        translate(make_model("bart"), tokenizer, None, ["the cat"], language="<dee>")
    with pytest.raises(InputError, match=r"a causal model translates only what its layout says"):
        translate(model, tokenizer, None, ["the cat"])
    two = [translate(model, tokenizer, SEVERAL, ["the cat sat"], language=one) for one in ("de", "<fr>")]
    assert two[0] != two[1]


def test_an_encoder_decoder_begins_with_the_language(tokenizer):
    model = make_model("bart")
    first = tokenizer.convert_tokens_to_ids("<de>")
    ids, prompt = [first], tokenizer("the cat")["input_ids"]
    while len(ids) < 6 and ids[-1] != 0:
        ids.append(int(logits_of(model, prompt, ids).argmax()))
    found = translate(model, tokenizer, None, ["the cat"], max_new_tokens=6, language="<de>")
    assert found == [tokenizer.decode(ids, skip_special_tokens=True).strip()]


def test_a_source_over_the_positions_is_named(tokenizer):
    long = "cat " * POSITIONS
    for kind, layout in (("gpt2", TRANSLATION), ("bart", None)):
        model = make_model(kind)
        with pytest.raises(InputError, match=r"text 3: the prompt has \d+ tokens, the model has 40 positions; shorten"):
            translate(model, tokenizer, layout, ["the cat", "", long])
        assert len(translate(model, tokenizer, layout, [long], truncate_left=True, max_new_tokens=4)) == 1
    languages = ("de", "fr")  # the tag stands before what is cut off
    how = {"truncate_left": True, "max_new_tokens": 4}
    one, other = (translate(make_model(), tokenizer, SEVERAL, [long], language=name, **how) for name in languages)
    assert one != other


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: its exit code, output and errors."""

    def call(*words, stdin=None):
        monkeypatch.setattr(sys, "argv", ["hfssl", *map(str, words)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", stdin)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def folder(tmp_path, tokenizer):
    def save(layout, kind="gpt2"):
        path = tmp_path / layout.task
        make_model(kind).save_pretrained(path)
        tokenizer.save_pretrained(path)
        layout.save(path)
        return path

    return save


def test_the_verb_translate(folder, run, tmp_path, tokenizer):
    path = folder(TRANSLATION)
    expected = translate(make_model(), tokenizer, TRANSLATION, SOURCES, num_beams=5, max_new_tokens=8)
    lines = "".join(" ".join(text.split()) + "\n" for text in expected)
    assert run("translate", path, *SOURCES, "--max_new_tokens", 8)[:2] == (0, shown(lines))
    (tmp_path / "in.txt").write_text("\n".join(SOURCES))
    assert run("translate", path, "--max_new_tokens", 8, stdin=(tmp_path / "in.txt").open())[:2] == (0, shown(lines))
    code, out, _ = run("translate", path, "--file", tmp_path / "in.txt", "--out", tmp_path / "o", "--max_new_tokens", 8)
    assert (code, out) == (0, f"wrote 6 translations to {tmp_path / 'o'}\n") and (tmp_path / "o").read_text() == lines
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    for words, says in (
        (["x", "--file", "y"], "give texts or --file, not both"),
        (["--file", tmp_path / "none"], "cannot read"),
        (["--file", tmp_path / "bad.txt"], "bad.txt is no UTF-8 text"),
        (["x", "--out", tmp_path / "in.txt" / "out"], "cannot write"),
        (["cat " * 50], "text 1: the prompt has"),
        (["\udcff"], "is no UTF-8"),
    ):
        code, out, errors = run("translate", path, *words)
        assert code == 2 and errors.startswith("error: ") and says in errors and errors.count("\n") == 1, errors


def test_the_verb_complete(folder, run, tokenizer):
    path = folder(COMET)
    found = complete(make_model(), tokenizer, COMET, "the cat", "xNeed", num_beams=2)
    lines = "".join(f"  {one.score:.4f} {shown(one.text)}\n" for one in found)
    assert run("complete", path, "the cat", "xNeed", "--num_beams", 2)[:2] == (
        0,
        f"xNeed\n{lines}(log p, nats a token)\n",
    )
    out = run("complete", path, "the cat", "--num_beams", 2)[1]
    assert out.startswith("xIntent\n  -") and out.endswith(f"xNeed\n{lines}(log p, nats a token)\n")
    told = run("complete", path, "the cat", "xNeed", "--num_beams", 2, "--length_penalty", 0.5)[1]
    assert told.endswith("(log p, nats / tokens ** 0.5)\n")
    assert "unknown relation 'x': one of xIntent, xNeed" in run("complete", path, "the cat", "x")[2]
    code, out, errors = run("complete", path, "the cat", b"\xff".decode(errors="surrogateescape"))
    assert code == 2 and errors.count("\n") == 1
    for words in (("complete", path, "\udcff", "xNeed"), ("generate", path, "--prompt", "\udcff")):
        code, out, errors = run(*words)
        assert code == 2 and errors == r"error: the text '\udcff' is no UTF-8" + "\n"
    assert run("complete", path, "cat " * 50, "xNeed")[0] == 2
    assert run("complete", path, "cat " * 50, "xNeed", "--truncate_left")[1].startswith("xNeed\n  -")
    layout = json.loads((path / "conditional.json").read_text())
    (path / "conditional.json").write_text(json.dumps(layout | {"tags": {"relation": ["<xIntent>", "<\x1b[2J>"]}}))
    code, out, errors = run("complete", path, "the cat", "x")
    assert code == 2 and r"one of xIntent, \x1b[2J" in errors and "\x1b" not in errors
    assert "is a model of commonsense, not of translation or pairs" in run("translate", path, "x")[2]


def test_the_verb_generate(folder, run):
    path = folder(TRANSLATION)
    code, out, _ = run("generate", path, "--prompt", "the cat", "--max_new_tokens", 3, "--top_k", 1)
    assert code == 0 and out.startswith("the cat")
    code, out, _ = run("generate", path, "--prompt", "the\ncat", "--tries", 3, "--scorer", "sum", "--max_new_tokens", 3)
    [best] = [line for line in out.splitlines()[:3] if line.startswith("*[")]
    number, score, text = best[1:].split(" ", 2)
    assert out.count("the\\ncat") == 3 and text.startswith("the\\ncat")
    end = f"chosen of 3 tries by sum log p: {number}, {score} nats\n" + text.replace("\\n", "\n") + "\n"
    assert out.endswith(end)
    assert run("generate", path, "--prompt", "cat " * 50)[0] == 2
    assert run("generate", path, "--prompt", "cat " * 50, "--truncate_left", "--max_new_tokens", 3)[0] == 0
    assert not run("generate", folder(Layout(), "bart"), "--prompt", "the cat", "--top_k", 1)[1].startswith("the cat")
    assert "unknown scorer 'x'" in run("generate", path, "--prompt", "x", "--scorer", "x")[2]
