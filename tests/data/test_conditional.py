"""From arguments to what a recipe trains on."""

import json

import pytest

from hfssl.data.conditional import PairArguments, encode_pairs, load_pair_data
from hfssl.data.layout import Layout
from hfssl.data.pair_files import read_pairs
from hfssl.data.pairs import PackedPairs
from hfssl.errors import InputError
from hfssl.tokenization import train_bpe
from tests.data.test_layout import byte_tokenizer
from tests.data.test_pair_files import table

SMALL = {"vocab_size": 300, "max_length": 64}


def decoded(data, pairs, index):
    return data.tokenizer.decode(pairs[index]["input_ids"])


@pytest.mark.parametrize("task", ["translation", "commonsense", "dialogue"])
@pytest.mark.parametrize("packing", [False, True])
def test_toy_pairs_from_arguments_to_batches(task, packing):
    path = f"builtin:toypairs/{task}"
    data = load_pair_data(PairArguments(task=task, pair_path=[path], packing=packing, max_length=128, vocab_size=500))
    rows = read_pairs(path)
    pairs = data.train.pairs if packing else data.train
    assert len(pairs) == len(rows) and len(data.eval) == 200 and isinstance(data.train, PackedPairs) == packing
    for index in (0, 7, 1999):
        source, item = pairs.source_lengths[index], pairs[index]["input_ids"].tolist()
        assert item[:source] == data.layout.prompt_ids(data.tokenizer, rows[index])
        assert item[source:] == data.layout.target_ids(data.tokenizer, rows[index])
    again = load_pair_data(PairArguments(task=task, pair_path=[path], packing=packing, max_length=128, vocab_size=500))
    assert again.train.fingerprint == data.train.fingerprint
    assert path in data.train.source and "of them to predict" in data.train.source


def test_what_is_left_out_is_counted_and_said(caplog):
    layout = Layout()
    rows = [{"source": "abc", "target": target} for target in ("x", "", "  \n", "y" * 90, "z")]
    pairs = encode_pairs(rows, layout, byte_tokenizer(layout), max_length=32, source="mine")
    assert len(pairs) == 2
    assert "mine: 2 pairs left out, whose target is empty after tokenisation" in caplog.text
    assert "mine: 1 pairs left out, longer than 32 tokens (--max_length)" in caplog.text
    with pytest.raises(InputError, match="mine has no pair left: 2 targets are empty, 1 pairs over --max_length"):
        encode_pairs(rows[1:4], layout, byte_tokenizer(layout), max_length=32, source="mine")


def test_a_long_dialogue_loses_its_oldest_turns():
    layout = Layout("dialogue", "{context}", "{response}", turns=7)
    tokenizer = byte_tokenizer(layout)
    row = {"context": ["a" * 10, "b" * 10, "c" * 10], "response": "d" * 5}
    for room, turns in ((39, "abc"), (38, "bc"), (28, "bc"), (27, "c")):
        pairs = encode_pairs([row], layout, tokenizer, max_length=room)
        text = tokenizer.decode(pairs[0]["input_ids"])
        assert text == "<turn>".join(letter * 10 for letter in turns) + "<sep>ddddd<|endoftext|>"
        assert pairs.source_lengths[0] == 11 * len(turns)


def test_what_the_template_has_beside_the_turns_stays_when_old_ones_go():
    layout = Layout("dialogue", "Say: {context}", "{response}", turns=7)
    tokenizer = byte_tokenizer(layout)
    row = {"context": ["a" * 10, "b" * 10, "c" * 10], "response": "d"}
    pairs = encode_pairs([row], layout, tokenizer, max_length=30)
    assert tokenizer.decode(pairs[0]["input_ids"]) == f"Say: {'b' * 10}<turn>{'c' * 10}<sep>d<|endoftext|>"


def test_templates_over_any_columns(tmp_path):
    path = table(
        tmp_path / "t.parquet", premise=["p1"] * 50, hypothesis=[str(i) for i in range(50)], label=["yes"] * 50
    )
    args = PairArguments(
        task="pairs", pair_path=[path], source_template="{premise} | {hypothesis}", target_template="= {label}",
        eval_fraction=0.3, **SMALL,
    )  # fmt: skip
    data = load_pair_data(args)
    assert decoded(data, data.train, 0).startswith("p1 | ")
    assert decoded(data, data.train, 0).endswith("<sep>= yes<|endoftext|>")
    assert len(data.train) + len(data.eval) == 50


def test_a_source_is_held_out_with_all_its_targets(tmp_path):
    heads = [f"event {i % 60}" for i in range(240)]
    path = table(tmp_path / "kb.parquet", head=heads, relation=["IsA", "HasA"] * 120, tail=[str(i) for i in range(240)])
    data = load_pair_data(PairArguments(task="commonsense", pair_path=[path], eval_fraction=0.2, **SMALL))
    parts = [
        {decoded(data, pairs, index).partition("<")[0] for index in range(len(pairs))}
        for pairs in (data.train, data.eval)
    ]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 60
    assert len(data.eval) == 4 * len(parts[1])
    assert data.layout.tags == {"relation": ["<HasA>", "<IsA>"]}


def test_false_statements_are_not_learned(tmp_path):
    train = table(
        tmp_path / "train.parquet", head=list("abc"), relation=["r"] * 3, tail=list("xyz"), weight=[2.0, 0, 1]
    )
    held = table(tmp_path / "valid.parquet", head=list("ab"), relation=["r"] * 2, tail=list("xy"), weight=[1.0, 0])
    args = PairArguments(task="commonsense", pair_path=[train], eval_pair_path=[held], **SMALL)
    data = load_pair_data(args)
    assert [decoded(data, data.train, index) for index in range(2)] == [" a<r> x<|endoftext|>", " c<r> z<|endoftext|>"]
    assert len(data.eval) == 1


def test_a_relation_that_was_not_trained_is_refused(tmp_path):
    train = table(tmp_path / "a.parquet", head=["a"], relation=["IsA"], tail=["x"])
    held = table(tmp_path / "b.parquet", head=["a"], relation=["HasA"], tail=["x"])
    with pytest.raises(InputError, match="unknown relation 'HasA': one of IsA"):
        load_pair_data(PairArguments(task="commonsense", pair_path=[train], eval_pair_path=[held], **SMALL))


def test_a_relation_may_have_its_brackets_already(tmp_path):
    path = table(tmp_path / "a.parquet", head=["a", "b"], relation=["<IsA>", "IsA"], tail=["x", "y"])
    data = load_pair_data(PairArguments(task="commonsense", pair_path=[path], eval_pair_path=[path], **SMALL))
    assert data.layout.tags == {"relation": ["<IsA>"]}


def test_a_given_tokenizer_gets_the_special_tokens(tmp_path):
    train_bpe(["some words"], 260, show_progress=False).save_pretrained(tmp_path)
    data = load_pair_data(PairArguments(tokenizer=str(tmp_path), max_length=256))
    assert data.tokenizer.convert_ids_to_tokens([data.train[0]["input_ids"][data.train.source_lengths[0] - 1]]) == [
        "<sep>"
    ]
    assert len(data.tokenizer) == 1 + len(train_bpe(["some words"], 260, show_progress=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "translations"}, "unknown --task 'translations': one of .*did you mean 'translation'"),
        ({"turns": 0}, "--turns be at least 1"),
        ({"source_weight": -1.0}, "must not be negative"),
        ({"eval_fraction": 1.0}, "--eval_fraction must lie between 0 and 1"),
        ({"init_from": "a", "tokenizer": "b"}, "--init_from brings its own tokenizer"),
        ({"source_template": "{a}"}, "belong together"),
        ({"task": "dialogue"}, "--task dialogue needs the fields context, response, and .* has source, target"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(InputError, match=message):
        load_pair_data(PairArguments(**changes))


def test_a_file_of_one_source_has_nothing_to_hold_out(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"source": "a", "target": "b"}))
    with pytest.raises(InputError, match=r"has no pairs to (hold out; give --eval_pair_path|train on)"):
        load_pair_data(PairArguments(pair_path=[str(path)]))


def test_empty_targets_are_counted_where_nothing_is_to_hold_out(tmp_path):
    for name, text in (("a.en", "one\ntwo\nsix\n"), ("b.de", "eins\n\n  \n")):
        (tmp_path / name).write_text(text)
    args = PairArguments(task="translation", pair_path=[str(tmp_path / "a.en"), str(tmp_path / "b.de")], **SMALL)
    with pytest.raises(InputError, match="has 3 pairs, 2 with an empty target, and none to hold out; give --eval"):
        load_pair_data(args)
