"""The programs for conditional models, on small ones with random weights, against the stock model's own numbers."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from eval import run_commonsense, run_dialogue, run_translation
from hfssl import progress
from hfssl.data.conditional import PairArguments, load_pair_data
from hfssl.data.layout import Layout
from hfssl.data.pair_files import read_pairs
from hfssl.errors import InputError
from hfssl.evaluation import dialogue_report
from hfssl.evaluation.commonsense import best_threshold, comet_bleu2
from hfssl.evaluation.conditional import perplexity, target_scores
from hfssl.evaluation.dialogue_report import DialogueArguments, prompts_of
from hfssl.generation import Try
from hfssl.models.modeling_lm import language_model
from hfssl.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of each task, and of ConceptNet's kind of data."""
    root = tmp_path_factory.mktemp("conditional")
    (root / "triples").mkdir()
    rows = [("AtLocation", f"{a} dog", f"{b} house") for a in ("old", "red", "big") for b in ("old", "red", "big")]
    for split, part in (("train", rows), ("valid", rows[:6]), ("test", rows[3:])):
        true = [
            {"head": head, "relation": relation, "tail": tail, "weight": 0.0 if split != "train" and at % 2 else 1.0}
            for at, (relation, head, tail) in enumerate(part)
        ]
        (root / "triples" / f"net-{split}.jsonl").write_text("\n".join(map(json.dumps, true)) + "\n")
        (root / "triples" / f"events-{split}.jsonl").write_text(
            "\n".join(json.dumps({"head": "x runs", "relation": "xWant", "tail": f"to rest {at}"}) for at in range(3))
        )
    sources = {
        "translation": "builtin:toypairs/translation",
        "commonsense": "builtin:toypairs/commonsense",
        "dialogue": "builtin:toypairs/dialogue",
        "triples": str(root / "triples" / "net-train.jsonl"),
    }
    for name, path in sources.items():
        task = "commonsense" if name == "triples" else name
        held_out = [path.replace("train", "valid")] if name == "triples" else None
        data = load_pair_data(PairArguments(task, [path], eval_pair_path=held_out, vocab_size=400))
        torch.manual_seed(0)
        end = data.tokenizer.eos_token_id
        config = GPT2Config(
            vocab_size=len(data.tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=96, bos_token_id=end,
            eos_token_id=end, initializer_range=0.3,
        )  # fmt: skip
        language_model(config).save_pretrained(root / name)
        data.tokenizer.save_pretrained(root / name)
        data.layout.save(root / name)
    return root


@torch.no_grad()
def by_hand(folder, rows):
    """The loss of each row's target, by the stock model, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(str(folder))
    layout, losses, counts = Layout.load(folder), [], []
    for row in rows:
        source, target = layout.prompt_ids(tokenizer, row), layout.target_ids(tokenizer, row)
        log_p = model(torch.tensor([source + target])).logits[0].double().log_softmax(-1)
        losses.append(-sum(float(log_p[len(source) - 1 + at, token]) for at, token in enumerate(target)))
        counts.append(len(target))
    return np.array(losses), np.array(counts)


def test_commonsense_perplexity_and_bleu(folder, tmp_path, capsys):
    flags = ["--limit", "6", "--num_beams", "2", "--batch_size", "16", "--out", str(tmp_path / "out.json")]
    found = run_commonsense.main(["--model", str(folder / "commonsense"), *flags])
    rows = read_pairs("builtin:toypairs/commonsense", "test")
    losses, counts = by_hand(folder / "commonsense", rows)
    assert found["perplexity"]["perplexity"] == pytest.approx(math.exp(losses.sum() / counts.sum()), rel=1e-4)
    assert found["perplexity"]["low"] < found["perplexity"]["perplexity"] < found["perplexity"]["high"]
    written = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert len(written) == 6 and all(len(row["beams"]) == 2 for row in written)
    references = {(row["head"], row["relation"]): row["references"] for row in written}
    for row in written:
        truths = [one["tail"] for one in rows if (one["head"], one["relation"]) == (row["head"], row["relation"])]
        assert row["references"] == truths
    assert found["BLEU-2"]["score"] == comet_bleu2(found["completions"], references).score
    assert found["nearest neighbour BLEU-2"]["score"] > found["BLEU-2"]["score"], "a random model knows nothing"
    assert "classification" not in found and "N/T sro" in capsys.readouterr().out


def test_commonsense_takes_the_data_set_whose_relations_it_knows(folder, capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    found = run_commonsense.main(["--model", str(folder / "triples"), "--data", str(folder / "triples")])
    assert found["perplexity"]["rows"] == 3, "the true statements of net-test alone"
    said = capsys.readouterr().err
    assert f"{folder / 'triples'}, of it net; relations that the model knows: AtLocation" in said
    for label in ("perplexity of the test part", "true or false, validation part", "nearest neighbours"):
        assert f"{label}: " in said and " left" in said
    told = found["classification"]
    rows = {split: read_pairs(str(folder / "triples"), split, tables_only="net") for split in ("validation", "test")}
    scores = {}
    for split in rows:
        losses, counts = by_hand(folder / "triples", rows[split])
        scores[split] = -losses / counts
    labels = {split: np.array([row["weight"] > 0 for row in rows[split]]) for split in rows}
    assert told["threshold"] == pytest.approx(best_threshold(scores["validation"], labels["validation"]), abs=1e-4)
    right = {split: ((scores[split] > told["threshold"]) == labels[split]).mean() for split in rows}
    assert told["accuracy"] == right["test"] and told["validation accuracy"] == right["validation"]
    assert told["validation accuracy"] >= 0.5 == told["always true"] and told["statements"] == 6
    place = folder / "triples" / "net-valid.jsonl"  # without weights there is no threshold
    place.write_text("\n".join(json.dumps(row | {"weight": None}) for row in map(json.loads, place.open())))
    flags = ["--data", str(folder / "triples"), "--num_beams", "1"]
    assert "classification" not in run_commonsense.main(["--model", str(folder / "triples"), *flags])
    with pytest.raises(SystemExit):
        run_commonsense.main(["--model", str(folder / "triples")])
    assert (
        "the model knows the relations AtLocation; builtin:toypairs/commonsense has oReact" in capsys.readouterr().err
    )


def test_rows_that_do_not_fit_are_left_out_and_counted(folder, caplog):
    name = folder / "translation"
    model, tokenizer, layout = AutoModelForCausalLM.from_pretrained(name), load_tokenizer(str(name)), Layout.load(name)
    rows = [{"source": "a dog", "target": target} for target in ("ein Hund", " ", "Hund " * 200, "der Hund")]
    log_p, counts = target_scores(model, tokenizer, layout, rows)
    losses, expected = by_hand(name, [rows[0], rows[3]])
    assert np.isnan(log_p[[1, 2]]).all() and counts[[1, 2]].tolist() == [0, 0]
    np.testing.assert_allclose(log_p[[0, 3]], -losses, rtol=1e-4)
    assert counts[[0, 3]].tolist() == expected.tolist() and "2 of 4 rows left out, 1 for an empty" in caplog.text
    assert "target and 1 for more than the model's 96 positions" in caplog.text
    found = perplexity(log_p, counts, ["a", "a", "a", "a"], draws=10)
    assert found["rows"] == 2 and found["low"] == pytest.approx(found["high"]), "one group is always drawn whole"


def test_dialogue_and_its_sheets(folder, tmp_path, capsys):
    flags = ["--limit", "30", "--replies", "4", "--max_new_tokens", "6", "--out", str(tmp_path / "out.json")]
    found = run_dialogue.main(["--model", str(folder / "dialogue"), *flags, "--ssa_out", str(tmp_path / "ssa")])
    ways = ["greedy", "sample", "rank, N = 1", "rank, N = 5", "rank, N = 20", "people"]
    assert list(found["replies"]) == ways
    log_p = [found["replies"][f"rank, N = {n}"]["log p"] for n in (1, 5, 20)]
    assert log_p[0] < log_p[1] < log_p[2], "the best of more is likelier"
    assert 0 <= found["hits@1/20"]["low"] <= found["hits@1/20"]["score"] <= found["hits@1/20"]["high"] <= 1
    assert found["replies"]["people"]["distinct-2"] > 0.3
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 4
    sheet = (tmp_path / "ssa" / "sheet.csv").read_text()
    rated = sheet.replace(",,\n", ",1,0\n")
    assert rated.count(",1,0\n") == 24
    (tmp_path / "ssa" / "ann.csv").write_text(rated)
    shutil.copy(tmp_path / "ssa" / "ann.csv", tmp_path / "ssa" / "bob.csv")
    capsys.readouterr()
    said = run_dialogue.main(["--ssa_in", str(tmp_path / "ssa" / "ann.csv"), str(tmp_path / "ssa" / "bob.csv")])
    assert said["systems"]["rank, N = 20"] == {"sensibleness": 100, "specificity": 0, "SSA": 50, "replies": 4}
    assert "pairs of raters agree in 100.0 %" in capsys.readouterr().out
    (tmp_path / "ssa" / "key.json").write_text("[1]")
    for flags, message in (
        (["--ssa_in", str(tmp_path / "ssa" / "ann.csv")], "it is no list of systems by item"),
        (["--model", str(folder / "dialogue"), "--ssa_out", str(tmp_path / "ssa")], "sheet.csv is there already"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_dialogue.main(flags)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_dialogue_of_one_reply_has_no_interval_and_fits_80_columns(folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(dialogue_report, "replies_of", lambda *args: {"rank, N = 20": [Try("Yes", [], 0.0)]})
    run_dialogue.main(["--model", str(folder / "dialogue"), "--limit", "1"])
    said = capsys.readouterr().out
    assert "perplexity of 1 reply, ends counted: " in said and said.count(", no interval of one conversation\n") == 3
    assert f"{folder / 'dialogue'} on builtin:toypairs/dialogue: %, words a reply" in said
    assert "│ rank, N = 20 │          - │          - │" in said


def test_contexts_that_leave_no_room_are_not_replied_to(folder):
    layout, tokenizer = Layout.load(folder / "dialogue"), load_tokenizer(str(folder / "dialogue"))
    model = AutoModelForCausalLM.from_pretrained(folder / "dialogue")
    rows = [{"context": [text], "response": "yes"} for text in ("one", "two " * 90, "three", "four")]
    args = DialogueArguments(model="", replies=2, max_new_tokens=6)
    prompts = prompts_of(model, tokenizer, layout, rows, args)
    assert prompts == {at: layout.prompt_ids(tokenizer, rows[at]) for at in (0, 2)}
    with pytest.raises(InputError, match="no context leaves room for --max_new_tokens 6"):
        prompts_of(model, tokenizer, layout, rows[1:2], args)


def test_translation(folder, tmp_path, capsys):
    flags = ["--limit", "8", "--num_beams", "2", "--out", str(tmp_path / "out.json")]
    found = run_translation.main(["--model", str(folder / "translation"), *flags])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    test = read_pairs("builtin:toypairs/translation", "test")[:8]
    assert [(row["source"], row["reference"]) for row in rows] == [(row["source"], row["target"]) for row in test]
    said = " ".join(capsys.readouterr().out.split())
    assert found["sentences"] == 8 and "tok:13a" in said
    assert "toypairs/translation, test: the first 8 of 200 rows (--limit)" in said and "BLEU (95 % interval)" in said


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        (run_translation, ["--model", "dialogue"], "is a model of dialogue, not of translation"),
        (run_commonsense, ["--model", "translation"], "is a model of translation, not of commonsense"),
        (run_dialogue, [], "give either --model, or --ssa_in"),
        (
            run_dialogue,
            ["--model", "dialogue", "--data", "few.jsonl"],
            "no 19 different responses of other conversations",
        ),
        (
            run_translation,
            ["--model", "translation", "--data", "few.jsonl"],
            "needs the fields source, target, and few",
        ),
        (
            run_dialogue,
            ["--model", "dialogue", "--data", "builtin:toypairs/translation"],
            "the fields context, response",
        ),
        (
            run_commonsense,
            ["--model", "commonsense", "--data", "builtin:toypairs/dialogue"],
            "the fields head, relation",
        ),
        (run_commonsense, ["--model", "commonsense", "--num_beams", "0"], "must be at least 1"),
        (run_translation, ["--model", "translation", "--out", "few.jsonl/x.json"], "few.jsonl"),
    ],
)
def test_bad_input(folder, monkeypatch, capsys, program, flags, message):
    monkeypatch.chdir(folder)
    (folder / "few.jsonl").write_text(json.dumps({"context": ["Hi"], "response": "Hello"}))
    with pytest.raises(SystemExit) as stopped:
        program.main([f"./{flag}" if flag in ("dialogue", "translation", "commonsense") else flag for flag in flags])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said.splitlines()[-1]
