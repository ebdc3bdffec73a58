"""The shared parts of benchmarks, and the programs at toy sizes. Nothing here asserts a time."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2Config

from hfssl import benchmarking
from hfssl.benchmarking import compare, environment, figure, interleave, median, peak_rss, run_arm, run_arms, write_json
from hfssl.data.corpus import build_corpus
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError
from hfssl.tokenization import train_bpe

PROGRAMS = Path(__file__).resolve().parent.parent / "benchmarks"


def main_of(name):
    return runpy.run_path(str(PROGRAMS / name))["main"].__wrapped__


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


def test_an_arm_is_a_process_whose_last_line_counts():
    assert run_arm(["-c", "print('step 1'); print('{\"a\": 1}')"]) == {"a": 1}
    arms = {name: ["-c", f'print(\'{{"name": "{name}"}}\')'] for name in "xy"}
    assert run_arms(arms, repeats=2) == {"x": [{"name": "x"}] * 2, "y": [{"name": "y"}] * 2}


def test_a_failed_arm_is_one_line():
    with pytest.raises(RuntimeError, match=r"^exit code 1: ValueError: no such thing$"):
        run_arm(["-c", "raise ValueError('no such thing')"])
    with pytest.raises(RuntimeError, match=r"^exit code 0: nothing on standard error$"):
        run_arm(["-c", "pass"])


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX")
def test_an_arm_past_its_limit_ends_with_the_processes_it_started(tmp_path):
    child = f"import pathlib, time; time.sleep(4); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(RuntimeError, match="ended after 1 s"):
        run_arm(["-c", code], limit=1)
    time.sleep(4)
    assert not (tmp_path / "late").exists()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux")
def test_the_watched_memory_is_that_of_all_processes_of_an_arm():
    child = "import time; block = bytearray(b'x') * 2**26; time.sleep(3)"
    code = f"import subprocess, sys; block = bytearray(b'x') * 2**26; subprocess.run([sys.executable, '-c', {child!r}])"
    found = run_arm(["-c", f"{code}; print('{{}}')"], watch_memory=True)
    assert 1.9 * 2**26 < found["memory MB"] * 1e6 < 3 * 2**26


def test_a_ratio_is_that_of_the_medians():
    results = {"ours": [{"s": 1.0}, {"s": 9.0}, {"s": 2.0}], "theirs": [{"s": 4.0}, {"s": 5.0}, {"s": 3.0}]}
    (row,) = compare(results, ["s"], "bert: ")
    assert row["measure"] == "bert: s" and row["ratio"] == 0.5
    assert row["arms"]["ours"] == {"median": 2.0, "min": 1.0, "max": 9.0, "values": [1.0, 9.0, 2.0]}
    assert figure(row["arms"]["ours"]) == "2 (1–9)"
    assert figure({"median": 12345.6, "min": 0.01234, "max": 1e6}) == "12,346 (0.0123–1,000,000)"


def test_repeated_text_differs_from_round_to_round():
    documents = ["one two three four five six seven eight nine ten " * 20, "red green blue " * 30]
    made = list(benchmarking.repeated(documents, 5000))
    assert sum(map(len, made)) >= 5000 > sum(map(len, made[:-1]))
    assert made == list(benchmarking.repeated(documents, 5000))
    changed = np.mean([a != b for a, b in zip(made[0].split(" "), made[2].split(" "), strict=True)])
    assert 0.05 < changed < 0.4


def test_made_up_tokens_leave_room_for_the_special_ones():
    blocks = benchmarking.token_blocks(100, 64, 512, lowest=5)
    assert blocks.shape == (100, 64) and blocks.dtype == np.int64 and blocks.min() == 5 and blocks.max() < 512
    counts = np.bincount(blocks.ravel())
    assert counts[5] > 1.5 * counts[6] > 1.5 * counts[20]
    tokenizer = benchmarking.numbered_tokenizer(512)
    assert len(tokenizer) == 512 and sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert tokenizer.convert_ids_to_tokens([4, 5, 511]) == ["[MASK]", "w5", "w511"]


def test_map_and_group_makes_the_tokens_of_a_corpus(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {n} says {n * n}"}) + "\n" for n in range(50)))
    texts = load_texts(TextArguments(text_path=str(path), eval_fraction=0))
    tokenizer = train_bpe(texts, 300, show_progress=False)
    blocks, parts, copied = benchmarking.map_and_group(path, tokenizer, tmp_path / "cache", 16, processes=None)
    tokens = np.concatenate(list(parts))
    corpus = build_corpus(texts, tokenizer, tmp_path / "corpus", tokenizer.eos_token_id)
    assert tokens.tolist() == corpus.read(0, len(corpus)).tolist()
    whole = len(tokens) // 16
    assert blocks["input_ids"] == tokens[: whole * 16].reshape(whole, 16).tolist() == blocks["labels"]
    assert 0 < copied < benchmarking.disk_bytes(tmp_path / "cache")


@pytest.mark.parametrize("model", ["toy-bert", "toy-gpt"])
def test_both_arms_of_a_step_have_one_loss(model, capsys):
    found = {}
    for arm in ("hfssl", "stock"):
        main_of("text_arm.py")(["--model", model, "--arm", arm, "--steps", "4", "--every", "2"])
        found[arm] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert len(found[arm]["tokens/s"]) == 2
    assert found["hfssl"]["loss"] == pytest.approx(found["stock"]["loss"], abs=1e-4)
    assert found["hfssl"]["flops"] == found["stock"]["flops"] > 0


def test_the_stock_trainer_is_stock():
    blocks = benchmarking.token_blocks(4, 8, 64, lowest=5)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=1)
    trainer = benchmarking.stock_trainer(config, blocks, benchmarking.numbered_tokenizer(64))
    assert type(trainer).__module__.startswith("transformers.") and type(trainer.model).__name__ == "GPT2LMHeadModel"
    assert set(trainer.train_dataset.column_names) == {"input_ids", "attention_mask", "labels"}


def test_resume_says_what_is_extrapolated(tmp_path, capsys):
    main_of("resume.py")(["--repeats", "1", "--out", str(tmp_path / "resume.json")])
    rows = json.loads((tmp_path / "resume.json").read_text())["rows"]
    assert [row["extrapolated"] for row in rows] == [False, True, True]
    assert rows[0]["sample"] == 10**9
    assert capsys.readouterr().out.count("EXTRAPOLATED") == 2


def test_without_time_the_gpu_benchmark_skips_its_arms_and_says_so(tmp_path, capsys):
    output = tmp_path / "gpu.json"
    main_of("gpu_text.py")(["--smoke", "--budget", "0", "--out", str(output)])
    assert all("skipped" in row["missing"] for row in json.loads(output.read_text())["rows"])
    assert "skipped" in capsys.readouterr().out


def test_without_a_gpu_the_gpu_benchmark_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="--smoke"):
        main_of("gpu_text.py")([])


def test_both_arms_of_nt_xent_have_one_loss(capsys):
    pytest.importorskip("lightly")
    found = {}
    for arm in ("hfssl", "lightly"):
        main_of("nt_xent.py")(["--arm", arm, "--pairs", "50", "--calls", "1"])
        found[arm] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found[arm]["extra MiB"] >= 0 and found[arm]["seconds"] > 0
    assert found["hfssl"]["loss"] == pytest.approx(found["lightly"]["loss"], rel=1e-6)


def test_all_arms_of_a_large_batch_have_one_loss(capsys):
    found = []
    for arm in ("none", "chunk", "checkpoint"):
        main_of("large_batch.py")(["--arm", arm, "--images", "4", "--chunk", "3", "--steps", "2"])
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], rel=1e-5)
    assert found[0]["losses"] == pytest.approx(found[2]["losses"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("text_prepare.py", ["--repeats", "1", "--megabytes", "1"]),
        ("text_step.py", ["--repeats", "1", "--steps", "2", "--models", "toy-bert", "toy-gpt"]),
        ("gpu_text.py", ["--repeats", "2", "--smoke"]),
        ("nt_xent.py", ["--repeats", "1", "--pairs", "64"]),
        ("large_batch.py", ["--repeats", "1", "--images", "4", "--steps", "2"]),
    ],
)
def test_a_program_runs_from_the_command_line(run_command, tmp_path, program, flags):
    done = run_command(sys.executable, PROGRAMS / program, *flags, "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["environment"]["versions"]["torch"] and found["rows"]
    assert not any("missing" in row for row in found["rows"])
