"""Rows out of files of every known form, written by hand; what is wrong with a file is one line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfssl.data.pair_files import Columns, grouped_pairs, has_split, read_pairs
from hfssl.data.toy_pairs import BUILTIN_PAIRS, toy_pairs
from hfssl.errors import InputError

ATOMIC = r'''event,oEffect,oReact,oWant,xAttr,xEffect,xIntent,xNeed,xReact,xWant,prefix,split
PersonX 'd better go,[],"[""none""]",[],"[""avoidant"", ""weak, tired""]",[],[],[],[],"[""to leave""]","[""go""]",trn
PersonX abandons ___,[],[],[],[],[],"[""to say \""no\""""]",[],[],[],"[""abandon""]",dev
'''


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_atomic_s_csv(tmp_path):
    """Version 4 as it is published: cells are JSON lists, the file's last column says the split."""
    path = tmp_path / "v4_atomic_all.csv"
    path.write_text(ATOMIC)
    assert read_pairs(str(path), "train") == [
        {"head": "PersonX 'd better go", "relation": "oReact", "tail": "none"},
        {"head": "PersonX 'd better go", "relation": "xAttr", "tail": "avoidant"},
        {"head": "PersonX 'd better go", "relation": "xAttr", "tail": "weak, tired"},
        {"head": "PersonX 'd better go", "relation": "xWant", "tail": "to leave"},
    ]
    assert read_pairs(str(path), "validation") == [
        {"head": "PersonX abandons ___", "relation": "xIntent", "tail": 'to say "no"'}
    ]
    path.write_text(ATOMIC.replace('"[""none""]"', '"[""none"""'))
    with pytest.raises(InputError, match="column 'oReact' is no JSON list"):
        read_pairs(str(path))
    path.write_text(ATOMIC.replace(",trn", ""))
    with pytest.raises(InputError, match="row 1 has 11 fields, the header 12"):
        read_pairs(str(path))


def test_event2mind_has_the_names_that_atomic_gave_its_columns(tmp_path):
    columns = {"Source": ["x"], "Event": ["It rains"], "Xintent": ["[]"], "Xemotion": ['["wet", "sad"]']}
    path = table(tmp_path / "e.parquet", **columns, Otheremotion=['["none"]'])
    assert read_pairs(path) == [
        {"head": "It rains", "relation": "xReact", "tail": "wet"},
        {"head": "It rains", "relation": "xReact", "tail": "sad"},
        {"head": "It rains", "relation": "oReact", "tail": "none"},
    ]


def test_conceptnet_s_weights_stay(tmp_path):
    columns = {"relation": ["IsA", "IsA"], "head": ["dog", "dog"], "tail": ["animal", "cloud"], "weight": [1.0, 0.0]}
    rows = read_pairs(table(tmp_path / "c.parquet", **columns))
    assert [row["weight"] for row in rows] == [1, 0] and rows[1]["tail"] == "cloud"


def test_a_conversation_is_a_pair_for_each_response(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"turns": ["a", "b", "c"], "id": 1}) + "\n\n" + json.dumps({"turns": ["d"], "id": 2}))
    rows = list(grouped_pairs(str(path)))
    assert [row for _, row in rows] == [
        {"context": ["a"], "response": "b"},
        {"context": ["a", "b"], "response": "c"},
    ]
    assert {group for group, _ in rows} == {"a"}, "all of one conversation are held out together"
    replies = tmp_path / "replies.jsonl"
    replies.write_text(json.dumps({"context": "a", "response": "b"}))
    assert read_pairs(str(replies)) == [{"context": ["a"], "response": "b"}]


def test_translations_by_the_names_of_their_columns(tmp_path):
    path = table(tmp_path / "m.parquet", en=["a", "b"], de=["c", None], fr=["e", "f"])
    assert read_pairs(path, columns=Columns("en", "de"))[1] == {"source": "b", "target": ""}
    assert read_pairs(path, columns=Columns(directions=("en-de", "fr-en")))[:2] == [
        {"source": "a", "target": "c", "language": "de"},
        {"source": "e", "target": "a", "language": "en"},
    ]
    assert read_pairs(path, columns=Columns(others=("en", "fr"))) == [{"en": "a", "fr": "e"}, {"en": "b", "fr": "f"}]
    for columns, message in (
        (None, "no column 'source'; its columns are en, de, fr"),
        (Columns("en", "dee"), "no column 'dee'; did you mean 'de'"),
    ):
        with pytest.raises(InputError, match=message):
            read_pairs(path, columns=columns)
    with pytest.raises(InputError, match="named SOURCE-TARGET, as en-de; not 'ende'"):
        Columns(directions=("ende",))


@pytest.mark.parametrize("name", ["p.tsv", "p.csv", "p.jsonl", "p.jsonl.gz"])
def test_other_tables(tmp_path, name):
    rows = [("a", 'b "c"'), ("ü", "d")]
    if "jsonl" in name:
        text = "\n".join(json.dumps({"target": target, "source": source}) for source, target in rows)
    elif "tsv" in name:
        text = "target\tsource\n" + "\n".join(f"{target}\t{source}" for source, target in rows)
    else:
        text = 'target,source\n"b ""c""",a\nd,ü\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if "gz" in name else text.encode())
    assert [(row["source"], row["target"]) for row in read_pairs(str(path))] == rows


def test_two_aligned_text_files(tmp_path):
    english, german = tmp_path / "train.en", tmp_path / "train.de"
    english.write_text("a\nb \n\u2028c\n")
    german.write_text("d\r\ne\r\nf")
    assert read_pairs([str(english), str(german)]) == [
        {"source": "a", "target": "d"},
        {"source": "b ", "target": "e"},
        {"source": "\u2028c", "target": "f"},
    ]
    german.write_text("d\ne\n")
    with pytest.raises(InputError, match=r"train\.en has 3 lines and .*train\.de 2: line 3 has no counterpart"):
        read_pairs([str(english), str(german)])
    with pytest.raises(InputError, match=r"train\.de has 2 lines and .*train\.en 3"):
        read_pairs([str(german), str(english)])
    with pytest.raises(InputError, match="from two text files, source and target"):
        read_pairs(str(english))


def test_a_folder_has_parts(tmp_path):
    for name, split in (("kb-train100k", "t"), ("kb-valid", "v"), ("kb-test", "x")):
        table(tmp_path / f"{name}.parquet", head=[split], relation=["r"], tail=["y"])
    for split, head in (("train", "t"), ("validation", "v"), ("test", "x")):
        assert read_pairs(str(tmp_path), split)[0]["head"] == head
    assert has_split([str(tmp_path)], "validation")
    assert not has_split([str(tmp_path / "kb-train100k.parquet")], "validation")
    table(tmp_path / "other-test.parquet", source=["a"], target=["b"])
    with pytest.raises(InputError, match=r"several data sets \(kb-test.parquet, other-test.parquet\)"):
        read_pairs(str(tmp_path), "test")
    assert read_pairs(str(tmp_path), "test", tables_only="kb")[0]["head"] == "x"
    (tmp_path / "kb-valid.parquet").unlink()
    with pytest.raises(InputError, match="is named as its validation part"):
        read_pairs(str(tmp_path), "validation")
    with pytest.raises(InputError, match="unknown split 'tests'"):
        read_pairs(str(tmp_path), "tests")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no table in folder"):
        read_pairs(str(tmp_path / "empty"))


def test_cells_that_are_no_text(tmp_path):
    path = table(tmp_path / "n.parquet", source=[1], target=["a"])
    with pytest.raises(InputError, match=r"row 0 \(from 0\) of .*n\.parquet: column 'source' is int, not text"):
        read_pairs(path)
    path = tmp_path / "n.csv"
    path.write_text("head,relation,tail,weight\na,IsA,b,\nc,IsA,d,much\n")
    with pytest.raises(InputError, match=r"n\.csv.*: the weight 'much' is no number"):
        read_pairs(str(path))
    path.write_text("head,relation,tail,weight\na,IsA,b,\nc,IsA,d,0\n")
    assert [row.get("weight") for row in read_pairs(str(path))] == [None, 0]
    with pytest.raises(InputError, match="this needs the fields source, target, and "):
        read_pairs(str(path), needed=("source", "target"))
    path = tmp_path / "n.jsonl"
    path.write_text('{"turns": ["a", 2]}')
    with pytest.raises(InputError, match=r"n\.jsonl:1: column 'turns' holds no list of texts"):
        read_pairs(str(path))
    path.write_text("[1]")
    with pytest.raises(InputError, match="its first line is a JSON list, not an object"):
        read_pairs(str(path))
    path.write_text('{"source": "a", "target": "b"}\n{"source": "a"}')
    with pytest.raises(InputError, match=r"n\.jsonl:2: no column 'target'; this line has source"):
        read_pairs(str(path))


@pytest.mark.parametrize("name", BUILTIN_PAIRS)
def test_toy_pairs_are_the_same_each_time_and_their_splits_are_apart(name):
    parts = {split: toy_pairs(name, split) for split in ("train", "validation", "test")}
    assert [len(rows) // 100 for rows in parts.values()] == [20, 2, 2]
    key = {"translation": "source", "commonsense": "head", "dialogue": "context"}[name]
    whole = [{str(row[key]) for row in rows if name != "dialogue" or len(row[key]) > 3} for rows in parts.values()]
    assert not whole[0] & whole[1] and not whole[0] & whole[2] and not whole[1] & whole[2]
    parts["train"][0].clear()
    assert toy_pairs(name)[0], "the caller's rows are the caller's"
    assert read_pairs(f"builtin:toypairs/{name}", "test") == parts["test"]


def test_toy_german_agrees():
    translations = {row["source"]: row["target"] for row in toy_pairs("translation")}
    assert translations["The new cat carried the old coat in the garden."] == (
        "Die neue Katze trug den alten Mantel im Garten."
    )
    assert translations["At noon, the small girl cleaned the large chair at the station."] == (
        "Am Mittag putzte das kleine Mädchen den großen Stuhl am Bahnhof."
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("builtin:toypairs/translatoin", "did you mean 'translation'"),
        ("builtin:prose", "builtin:prose holds no pairs.*there is builtin:toypairs/translation"),
        ("./nowhere.parquet", "no such file or folder"),
        (["README.md", "train.de"], r"no such file: 'train\.de'"),
    ],
)
def test_no_such_source(path, message):
    with pytest.raises(InputError, match=message):
        read_pairs(path)
