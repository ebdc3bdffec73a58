"""The small shared parts of benchmarks."""

import json
import subprocess
import sys

import pytest

from hfssl.benchmarking import environment, interleave, median, peak_rss, write_json


def test_arms_take_turns_and_every_other_round_runs_backwards():
    calls = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(time >= 0 for times in seconds.values() for time in times)
    with pytest.raises(ValueError):
        interleave({}, repeats=0)


def test_median_of_an_even_number_is_the_middle():
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_peak_memory_is_in_bytes_and_grows():
    """In a process of its own: the peak of this one depends on the tests before."""
    code = (
        "from hfssl.benchmarking import peak_rss; before = peak_rss(); block = bytearray(b'x') * 2**26;"
        "print(peak_rss() - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.8 * 2**26 < grown < 1.5 * 2**26
    assert peak_rss(children=True) > 2**20


def test_json_says_where_it_was_measured_and_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json(path, [{"arm": "a", "ratio": 1.0}], text="t")
    result = json.loads(path.read_text())
    assert result["rows"] == [{"arm": "a", "ratio": 1.0}] and result["text"] == "t"
    assert set(result["environment"]) == {"commit", "cpus", "machine", "versions"}
    assert environment()["versions"]["tokenizers"]
    before = path.read_text()
    with pytest.raises(TypeError):
        write_json(path, [{"arm": object()}])
    assert path.read_text() == before and [file.name for file in path.parent.iterdir()] == ["result.json"]
