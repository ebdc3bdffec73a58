"""`hfssl words` from the command to its table, results.json, the map and the leaderboard's page."""

import io
import json
import math
import struct

import numpy as np
import pytest
from sklearn.decomposition import PCA

from hfssl.errors import InputError
from hfssl.evaluation.leaderboard_page import find_tables, write_site
from hfssl.evaluation.vector_files import write_vectors
from hfssl.evaluation.word_report import (
    RANDOM,
    WordReportArguments,
    evaluate_words,
    principal_components,
    word_map,
    words_tables,
)
from hfssl.evaluation.words import nearest_words, read_pairs, score_pairs
from tests.evaluation.test_word_scores import families, questions


@pytest.fixture
def asked(tmp_path):
    """A folder with vectors.vec, q.txt (analogies) and pairs/."""
    vectors = families()
    write_vectors(vectors, tmp_path / "vectors.vec")
    (tmp_path / "q.txt").write_text(questions(vectors))
    (tmp_path / "pairs").mkdir()
    rng = np.random.default_rng(0)
    drawn = zip(*rng.integers(45, size=(2, 80)), rng.uniform(size=80), strict=True)
    (tmp_path / "pairs" / "men.txt").write_text("".join(f"low{a} high{b} {score:.3f}\n" for a, b, score in drawn))
    (tmp_path / "pairs" / "two.csv").write_text("nowhere,low1,1\nlow2,nowhere,2\n")
    return tmp_path


def arguments(folder, **more):
    given = {"analogies": str(folder / "q.txt"), "similarity": [str(folder / "pairs")]}
    return WordReportArguments(**{"model": str(folder / "vectors.vec")} | given | more)


def test_the_command_prints_and_writes_what_it_found(asked, run_command, hfssl_command):
    done = run_command(
        hfssl_command, "words", "vectors.vec", "--analogies", "q.txt", "--similarity", "pairs", "--restrict", "120",
        "--neighbours", "low1,high2", "--map", "maps/map.png", "--out", "out", cwd=asked,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in (
        "semantic",
        "syntactic",
        "total",
        "men",
        "random",
        "Nearest neighbours",
        "3CosAdd among the first 120",
    ):
        assert said in " ".join(done.stdout.split())
    png = (asked / "maps" / "map.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">2I", png[16:24])) > 500
    record = json.loads((asked / "out" / "results.json").read_text())
    assert record["settings"]["restrict"] == 120 and record["anchors"] == [RANDOM] and "seed 0" in record["protocol"]
    assert [*record["neighbours"]] == ["low1", "high2"] and len(record["neighbours"]["low1"]) == 10
    rows = {(row["vectors"], row["test"], row["part"]): row for row in record["rows"]}
    assert len(rows) == len(record["rows"]) == 2 * (2 + 3 + 2)
    total = rows["trained", "q", "total"]
    assert total["low"] < total["score"] < total["high"] and 0 < total["known"] < total["total"] == 400
    assert rows[RANDOM, "q", "total"]["score"] < total["low"]
    assert rows["trained", "two", "total"] | {"known": 0, "total": 2, "score": None} == rows["trained", "two", "total"]


def test_similarity_s_interval_holds_it_and_neighbours_are_the_nearest(asked):
    vectors = families()
    result = evaluate_words(arguments(asked, neighbours="low1", num_neighbours=3))
    (row,) = [row for row in result.rows if (row.vectors, row.test) == ("trained", "men")]
    found = score_pairs(vectors, read_pairs(asked / "pairs" / "men.txt"))
    assert row.score == found.spearman and row.low < row.score < row.high and row.asked == found.known
    assert result.neighbours == {"low1": nearest_words(vectors, "low1", 3)}
    (none,) = [row for row in result.rows if (row.vectors, row.test) == ("trained", "two")]
    assert math.isnan(none.score) and math.isnan(none.low)


def test_a_table_of_what_is_not_known(asked):
    from rich.console import Console

    (asked / "q.txt").write_text(": family\na b c d\n")
    console = Console(width=90, file=io.StringIO())
    console.print(words_tables(evaluate_words(arguments(asked)), "Word vectors"))
    assert "│ family │     0 │  1 │     – │      │      – │" in console.file.getvalue()


def test_principal_components_are_scikit_learn_s():
    rows = np.random.default_rng(0).normal(size=(30, 8)) * np.arange(1, 9)
    points, shares = principal_components(rows)
    theirs = PCA(2).fit(rows)
    assert np.allclose(np.abs(points), np.abs(theirs.transform(rows))) and points.shape == (30, 2)
    assert np.allclose(shares, theirs.explained_variance_ratio_)
    assert np.array_equal(principal_components(rows[:1])[0], [[0, 0]])  # one word has no axis
    assert principal_components(rows[:, :1])[0].shape == (30, 2)


def test_a_map_shows_the_neighbours_or_the_first_words():
    vectors = families()

    def shown(figure):
        return {text.get_text() for text in figure.axes[0].texts}

    assert shown(word_map(vectors, {"low1": nearest_words(vectors, "low1", 2)})) == {
        "low1", *(word for word, _ in nearest_words(vectors, "low1", 2)),
    }  # fmt: skip
    assert shown(word_map(vectors, {})) == {*vectors.words[:150]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"analogies": None, "similarity": None}, "nothing is asked"),
        ({"restrict": 0}, "--restrict must be at least 1, not 0"),
        ({"map": "map.svg"}, "--map writes a PNG: a name that ends on"),
        ({"neighbours": "low1,lwo2"}, "the word 'lwo2' has no vector; did you mean 'low"),
        ({"analogies": "vectors.vec"}, r"vectors\.vec:1: a question before the first section"),
        ({"similarity": ["q.txt"]}, r"q\.txt:2: a pair is two words and a score, not 'LOW"),
        ({"model": "nowhere.vec"}, "no model or file|no model directory|cannot load"),
        ({"out": "q.txt"}, "cannot write to"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(asked, monkeypatch, changes, message):
    monkeypatch.chdir(asked)
    before = sorted(asked.rglob("*"))
    with pytest.raises(InputError, match=message):
        evaluate_words(arguments(asked, **{"out": "out"} | changes))
    assert sorted(asked.rglob("*")) == before


def test_the_leaderboard_has_a_table_for_each_set_of_rules(asked):
    for name, more in {"a": {}, "b": {"seed": 1}, "narrow": {"restrict": 50, "match_case": True}}.items():
        evaluate_words(arguments(asked, out=str(asked / name), **more))
    tables = {table.title: table for table in find_tables([asked / name for name in ("a", "b", "narrow")])}
    wide, narrow = (tables[f"Word vectors: analogies among {count} words, similarity"] for count in ("30,000", "50"))
    names = [(column.group, column.name) for column in wide.columns]
    assert names == [
        ("q", "semantic"), ("q", "syntactic"), ("q", "total"), ("men", "Spearman"), ("two", "Spearman"),
        ("known, %", "analogies"), ("known, %", "similarity"),
    ]  # fmt: skip
    assert wide.ranked == 2 and len(narrow.lines) == 2 and narrow.lines[1].name == RANDOM
    trained = [line for line in wide.lines if not line.footnotes]
    anchors = [line for line in wide.lines if line.footnotes]
    assert len(trained) == 2 and len(anchors) == 2  # two seeds
    rows = json.loads((asked / "a" / "results.json").read_text())["rows"]
    (total,) = [row for row in rows if (row["vectors"], row["test"], row["part"]) == ("trained", "q", "total")]
    for line in trained:
        assert line.figures[2].value == 100 * total["score"] and line.figures[4] is None
        assert line.figures[5].value == 100 * total["known"] / total["total"]
    write_site([asked / "a", asked / "b"], asked / "site")
    assert 'id="words-1"' in (asked / "site" / "index.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("model"), "'model' is no name"),
        (lambda record: record.update(rows=[]), "'rows' is no list of results"),
        (lambda record: record["settings"].pop("restrict"), "'settings' lacks one of restrict, match_case"),
        (lambda record: record["rows"][0].update(score=37), r"row 1: score, low, high must be numbers from -1 to 1"),
        (lambda record: record["rows"][0].update(kind="other"), "row 1: no kind 'other'"),
        (lambda record: record["rows"][0].update(known="all"), "row 1 lacks one of asked, known, total"),
        (lambda record: record.update(data={}), "row 1: no file 'q' in 'data'"),
    ],
)
def test_a_damaged_result_is_refused(asked, change, message):
    evaluate_words(arguments(asked, out=str(asked / "out")))
    path = asked / "out" / "results.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        find_tables([path])
