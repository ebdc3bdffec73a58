"""A layout says which ids a row becomes: worked out by hand here, with a tokenizer of bytes."""

import dataclasses
import json

import numpy as np
import pytest

from hfssl.data.conditional import LAYOUTS, PairArguments, layout_of
from hfssl.data.layout import LAYOUT, Layout, PairEncoder, special_id
from hfssl.errors import InputError
from hfssl.tokenization import train_bpe

RELATIONS = ["<xIntent>", "<xNeed>"]
COMET = Layout("commonsense", " {head}{relation}", " {tail}", "", {"relation": RELATIONS}, replaced={" ___": "<blank>"})
DIALOGUE = Layout("dialogue", "{context}", "{response}", turns=3)


def byte_tokenizer(layout):
    """One token a byte: what an id stands for can be read off."""
    tokenizer = train_bpe(["ab"], 257, show_progress=False)
    layout.add_tokens(tokenizer)
    return tokenizer


def spelled(tokenizer, ids):
    """Each id as its byte or as its special token."""
    return [tokenizer.decode([number]) for number in ids]


def test_the_layout_of_comet():
    """[event] [relation, one token] [object] [end]; the blank is a token; no separator, since the relation is one."""
    tokenizer = byte_tokenizer(COMET)
    row = {"head": "X sees ___ ", "relation": "xNeed", "tail": "go"}
    assert spelled(tokenizer, COMET.prompt_ids(tokenizer, row)) == [*" X sees", "<blank>", "<xNeed>"]
    assert spelled(tokenizer, COMET.target_ids(tokenizer, row)) == [*" go", "<|endoftext|>"]
    assert COMET.prompt(row) == " X sees<blank><xNeed>"
    assert dataclasses.replace(LAYOUTS["commonsense"], tags={"relation": RELATIONS}) == COMET


def test_the_layout_of_a_dialogue_is_its_last_turns():
    tokenizer = byte_tokenizer(DIALOGUE)
    row = {"context": ["a", "b", " c", "d"], "response": "e"}
    assert DIALOGUE.prompt(row) == "b<turn>c<turn>d<sep>"
    assert spelled(tokenizer, DIALOGUE.prompt_ids(tokenizer, row)) == ["b", "<turn>", "c", "<turn>", "d", "<sep>"]
    assert spelled(tokenizer, DIALOGUE.prompt_ids(tokenizer, row, room=5)) == ["c", "<turn>", "d", "<sep>"]
    assert spelled(tokenizer, DIALOGUE.prompt_ids(tokenizer, {"context": ["a"]}, room=2)) == ["a", "<sep>"]
    assert spelled(tokenizer, DIALOGUE.prompt_ids(tokenizer, {"context": []})) == ["<sep>"]
    with pytest.raises(InputError, match="the source has 2 tokens, and there is room for 1"):
        DIALOGUE.prompt_ids(tokenizer, row, room=1)


def test_a_direction_is_a_tag_before_the_source():
    args = PairArguments(directions=["en-de", "en-fr"])
    layout = layout_of(args, [{"source": "a", "target": "b", "language": name} for name in ("de", "fr")])
    tokenizer = byte_tokenizer(layout)
    row = {"source": "a", "target": "b", "language": "fr"}
    assert spelled(tokenizer, layout.prompt_ids(tokenizer, row)) == ["<fr>", "a", "<sep>"]
    assert layout.special_tokens == ["<sep>", "<de>", "<fr>"]


@pytest.mark.parametrize("layout", [COMET, DIALOGUE, Layout(), Layout(source="{a}: <sep>{b}", target="{c}")])
def test_the_separator_is_always_there_and_a_text_cannot_forge_it(layout):
    """What spells a special token in a text is text, however many of them stand there; an empty source has one, too."""
    tokenizer = byte_tokenizer(layout)
    last = {special_id(tokenizer, token) for token in (RELATIONS if layout is COMET else ["<sep>"])}
    for text in ("plain", "a<sep>b<xNeed><turn>", ""):
        row = dict.fromkeys("abc", text) | {"source": text, "target": text, "head": text, "tail": text}
        row |= {"relation": "<xNeed>", "context": [text, text], "response": text}
        prompt = layout.prompt_ids(tokenizer, row)
        assert prompt[-1] in last
        own = 2 if layout.source.count("<sep>") else 1
        assert sum(token in last for token in prompt) == own
        assert not last & set(layout.target_ids(tokenizer, row)[:-1])


@pytest.mark.parametrize("layout", [COMET, DIALOGUE, Layout()])
def test_many_rows_at_once_have_the_ids_of_one_at_a_time(layout):
    tokenizer = byte_tokenizer(layout)
    rows = [
        {"source": f"s{i}", "target": f"t{i}", "head": f"___ {i} ___ ", "tail": f"<sep> {i}", "relation": "xIntent",
         "context": [f"t{j}" for j in range(i + 1)], "response": f"r {i}"}
        for i in range(5)
    ]  # fmt: skip
    encoder = PairEncoder(layout, tokenizer, max_length=100)
    for row, (source, target) in zip(rows, encoder(rows), strict=True):
        assert np.frombuffer(source, encoder.dtype).tolist() == layout.prompt_ids(tokenizer, row)
        assert np.frombuffer(target, encoder.dtype).tolist() == layout.target_ids(tokenizer, row)


def test_a_target_is_decoded_to_its_end():
    tokenizer = byte_tokenizer(COMET)
    row = {"head": "x", "relation": "xNeed", "tail": "to ask ___ for it"}
    ids = COMET.target_ids(tokenizer, row)
    assert COMET.decode(tokenizer, [*ids, *ids]) == "to ask ___ for it"
    assert COMET.decode(tokenizer, ids[:3]) == "to"


@pytest.mark.parametrize(("given", "found"), [("xNeed", "<xNeed>"), ("<xNeed>", "<xNeed>"), (" xIntent ", "<xIntent>")])
def test_a_tag_with_or_without_brackets(given, found):
    assert COMET.tag("relation", given) == found


def test_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown relation 'xNeeds': one of xIntent, xNeed; did you mean 'xNeed'"):
        COMET.prompt({"head": "a", "relation": "xNeeds"})
    assert COMET.known("relation") == RELATIONS
    with pytest.raises(InputError, match=r"no list of what a relation may be: its source is '\{source\}'"):
        Layout().known("relation")


def test_it_is_saved_beside_the_model(tmp_path):
    for layout in (COMET, DIALOGUE, Layout()):
        layout.save(tmp_path)
        assert Layout.load(tmp_path) == layout
    values = json.loads((tmp_path / LAYOUT).read_text())
    for broken, message in (
        ("{", "damaged or of another version"),
        (json.dumps(values | {"what": 1}), "damaged or of another version"),
        (json.dumps(values | {"task": "chess"}), "is damaged: unknown task 'chess'"),
        ("[]", "damaged or of another version"),
        (json.dumps(values | {"turns": "7"}), "another version: turns is no int"),
        (
            json.dumps(values | {"tags": {"relation": "<a>"}}),
            "another version: the tags of relation are no list of texts",
        ),
        (json.dumps(values | {"replaced": {"a": 1}}), "another version: replaced names something that is no token"),
    ):
        (tmp_path / LAYOUT).write_text(broken)
        with pytest.raises(InputError, match=message):
            Layout.load(tmp_path)
    (tmp_path / LAYOUT).unlink()
    with pytest.raises(InputError, match=r"has no conditional\.json: it is no conditional model"):
        Layout.load(tmp_path)
    with pytest.raises(InputError, match=r"no such folder: \./nowhere"):
        Layout.load("./nowhere")


def test_a_layout_that_cannot_work_is_refused():
    with pytest.raises(InputError, match="must each name a field"):
        Layout(target="fixed")
    with pytest.raises(InputError, match="give a separator, or end it with a tag"):
        Layout(separator="")
    with pytest.raises(InputError, match="needs the field 'source'; it has head"):
        Layout().prompt({"head": "a"})
    with pytest.raises(InputError, match="lacks the special token '<sep>' of the layout"):
        Layout().prompt_ids(train_bpe(["ab"], 257, show_progress=False), {"source": "a"})
