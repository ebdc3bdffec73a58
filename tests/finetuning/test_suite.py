import json
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hfssl import progress
from hfssl.config import parse_config
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.leaderboard import result_row
from hfssl.evaluation.results import read_result
from hfssl.evaluation.submission_check import validate_submission
from hfssl.evaluation.task_data import load_split
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning import command, outcome
from hfssl.finetuning import suite as suite_module
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.runs import read_logits
from hfssl.finetuning.suite import Suite
from hfssl.training.ledger import Ledger

TOY = "builtin:toyglue"


@pytest.fixture
def go(bert_folder, tmp_path):
    """`go("glue", "cola,rte", max_steps=2, seeds=2)`: runs into tmp_path / "out" and returns the result."""

    def run(name, tasks, model=None, out="out", **arguments):
        ours = {key: arguments.pop(key) for key in list(arguments) if key in SuiteArguments.__dataclass_fields__}
        args = SuiteArguments(str(model or bert_folder), str(tmp_path / out), tasks, **{"data_dir": TOY} | ours)
        return run_suite(name, args, LoopArguments(**{"max_steps": 2, "recipe": "scratch"} | arguments))

    return run


@pytest.fixture
def counted(monkeypatch):
    """The names of what is fine-tuned."""
    names = []
    real = suite_module.fine_tune

    def fine_tune(source, task, splits, encoder, head, settings, args, seed, *rest, **more):
        names.append(f"{task.name} {seed}")
        return real(source, task, splits, encoder, head, settings, args, seed, *rest, **more)

    monkeypatch.setattr(suite_module, "fine_tune", fine_tune)
    return names


def ledger(folder):
    return Ledger(folder / "ledger.jsonl").results()


def test_the_whole_of_glue(go, tmp_path, counted):
    result = go("glue", "all")
    out = tmp_path / "out"
    assert result == read_result(out / "glue_dev.json") and result.synthetic
    assert set(result.tasks) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert {name: average.value is not None for name, average in result.averages().items()} == dict.fromkeys(
        ("official-9", "dev-8-official", "dev-8-roberta"), True
    )
    report = validate_submission(out / "submission.zip", TOY)
    assert report.is_valid and len(report.rows) == 11 and (out / "report.html").exists()
    # MNLI comes before what starts from it, which is said; its own model stays.
    assert {*counted[:6]} == {f"{name} 0" for name in ("cola", "sst2", "qqp", "mnli", "qnli", "wnli")}
    started = {name for name, task in result.tasks.items() if task.started_from}
    assert started == {"mrpc", "stsb", "rte"} and result.tasks["rte"].started_from.startswith("mnli (seed 0, score ")
    for name in result.tasks:
        model = AutoModelForSequenceClassification.from_pretrained(out / "models" / name)
        labels = TASKS[f"glue/{name}"].labels or ("score",)
        assert tuple(model.config.id2label.values()) == labels
    assert sorted(path.name for path in (out / "models").iterdir()) == sorted(result.tasks)
    # Once more: nothing is trained, the same comes out.
    counted.clear()
    before = {path.name: path.read_bytes() for path in out.glob("*") if path.is_file()}
    assert go("glue", "all") == result and not counted
    assert before == {path.name: path.read_bytes() for path in out.glob("*") if path.is_file()}


def test_the_whole_of_superglue(go, tmp_path, counted):
    result = go("superglue", "all", max_steps=1)
    assert set(result.tasks) == {"boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg"}
    assert set(result.tasks["axg"].scores) == {"gender_parity", "accuracy"}
    report = validate_submission(tmp_path / "out" / "submission.zip", TOY)
    assert report.is_valid and len(report.rows) == 10 and len(counted) == 8


def test_the_predictions_are_those_of_the_saved_model(go, tmp_path, toy):
    """The zip's rows, from the folder that from_pretrained loads, written and read by others than us."""
    import zipfile

    result = go("glue", "rte", seeds=2, max_steps=60, learning_rate=3e-3)
    folder = tmp_path / "out" / "models" / "rte"
    about = json.loads((folder / "hfssl_task.json").read_text())
    scores = result.tasks["rte"].scores["accuracy"]
    assert about["seed"] == scores.index(max(scores)) and 100 * about["score"] == pytest.approx(max(scores))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    from transformers import AutoTokenizer

    data = load_split(TASKS["glue/rte"], "test", TOY)
    given = AutoTokenizer.from_pretrained(folder)(
        *data.texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
    )
    names = [model.config.id2label[number] for number in model(**given).logits.argmax(1).tolist()]
    with zipfile.ZipFile(tmp_path / "out" / "submission-incomplete.zip") as archive:
        lines = archive.read("RTE.tsv").decode().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == names and len(set(names)) == 2


def test_a_rerun_does_only_what_is_missing(go, tmp_path, counted):
    first = go("glue", "cola", seeds=1)
    assert sorted(counted) == ["cola 0"]
    counted.clear()
    second = go("glue", "cola,wnli", seeds=2)
    assert sorted(counted) == ["cola 1", "wnli 0", "wnli 1"]
    assert (
        second.tasks["cola"].scores["matthews_correlation"][0] == first.tasks["cola"].scores["matthews_correlation"][0]
    )
    counted.clear()
    go("glue", "cola", seeds=1, learning_rate=1e-4)  # other settings are another job
    assert counted == ["cola 0"]
    assert len(ledger(tmp_path / "out")) == 5


def test_seeds_give_medians_spread_and_intervals(go, tmp_path):
    result = go("glue", "rte", seeds=3, max_steps=20, learning_rate=3e-3, save_models="all")
    rte = result.tasks["rte"]
    assert "over items and seeds." in result.protocol
    assert rte.seeds == [0, 1, 2] and len(set(rte.scores["accuracy"])) > 1
    low, high = rte.intervals["accuracy"]
    assert low < rte.median()["accuracy"] < high and high - low > 5
    assert len(list((tmp_path / "out" / "models").glob("rte-seed*"))) == 3
    first, second = (read_logits(tmp_path / "out", name)["validation"] for name in rte.settings["jobs"][:2])
    assert not np.allclose(first, second)


def test_the_grid_is_tried_on_the_first_seed_and_the_best_of_it_goes_on(go, tmp_path, counted, capsys):
    result = go("glue", "cola", seeds=2, search=True, max_steps=4)
    assert counted == ["cola 0"] * 4 + ["cola 1"]
    records = ledger(tmp_path / "out")
    first = [record for record in records.values() if record["seed"] == 0]
    best = max(first, key=lambda record: record["score"])
    assert result.tasks["cola"].settings["learning_rate"] == best["settings"]["learning_rate"]
    assert result.tasks["cola"].settings["trial"] == best["trial"] and "grid" in result.protocol
    assert len({record["settings"]["learning_rate"] for record in first}) == 4
    assert result.cost["jobs"] == 5
    assert result.tasks["cola"].settings["trials"] == [
        {"trial": record["trial"], "learning_rate": record["settings"]["learning_rate"], "score": 100 * record["score"]}
        for record in sorted(first, key=lambda record: record["trial"])
    ]
    said = f"search: 4 trials; best on dev: learning_rate {best['settings']['learning_rate']}"
    assert result.tasks["cola"].search() == said and said in capsys.readouterr().out
    assert f"{said}. Each trial" in (tmp_path / "out" / "report.html").read_text()


def test_a_job_shows_how_far_it_is(go, caplog, monkeypatch, tmp_path):
    """Without a terminal in lines, here after every update; the number of updates is what is done in the end."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with caplog.at_level("INFO", logger="hfssl"):
        go("glue", "rte", seeds=2, max_steps=-1, epochs=1.5)
    assert {record["updates"] for record in ledger(tmp_path / "out").values()} == {15}
    said = caplog.text
    for number in (1, 2):
        assert f"RTE, seed {number - 1}: 15 updates; job {number} of 2" in said
    for part in (r"RTE, seed 1: update 14 of 15, .*s left", r"RTE, seed 1, validation: row \d+ of 100, .* left",
                 "RTE, seed 1, test: predicting 100 rows", r"RTE, seed 1, test: row 100 of 100, 0 s left"):  # fmt: skip
        assert re.search(part, said), part


def test_a_run_that_is_cut_short_says_so_everywhere(go, tmp_path, capsys):
    result = go("glue", "rte", max_steps=3, mnli_start=False)
    said = "cut short by --max_steps: 3 of 150 updates"
    assert result.tasks["rte"].cut_short() == said and "--max_steps 3" in result.protocol
    assert said in (tmp_path / "out" / "report.html").read_text() and said in capsys.readouterr().out
    assert "cut-short" in result_row(result).footnotes
    assert read_result(tmp_path / "out" / "glue_dev.json").command == result.command
    words = shlex.split(result.command)
    assert words[:2] == ["hfssl", "glue"]
    args, loop = parse_config(SuiteArguments, LoopArguments, argv=["--model", *words[2:]])
    assert (args.tasks, args.mnli_start, loop) == ("rte", False, LoopArguments(max_steps=3, recipe="scratch"))
    whole = go("glue", "rte", max_steps=-1, epochs=1).tasks["rte"]
    assert not whole.cut_short() and "max_steps" not in whole.settings
    assert not go("glue", "rte", max_steps=11, epochs=1).tasks["rte"].cut_short()


def test_texts_are_tokenised_once_for_all_seeds_and_trials(go, monkeypatch):
    calls = []
    real = TaskEncoder._encode
    monkeypatch.setattr(TaskEncoder, "_encode", lambda self, data: calls.append(data.split) or real(self, data))
    go("glue", "sst2", seeds=2, search=True, max_steps=1, max_length=31)
    assert sorted(calls) == ["test", "train", "validation"]


def test_wnli_as_the_majority_is_declared(go, counted):
    result = go("glue", "wnli,cola", wnli="majority")
    assert counted == ["cola 0"] and result.tasks["wnli"].trick == "majority"
    assert "over items." in result.protocol
    assert any("majority" in note for note in result.notes)
    data, train = (load_split(TASKS["glue/wnli"], split, TOY) for split in ("validation", "train"))
    common = max(TASKS["glue/wnli"].labels, key=train.labels.count)
    share = 100 * data.labels.count(common) / len(data)
    assert result.tasks["wnli"].scores["accuracy"] == [pytest.approx(share)]


def test_of_a_majority_alone_no_training_is_told(go, counted, tmp_path):
    result = go("glue", "wnli", wnli="majority", freeze_encoder=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        not counted and result.protocol == "Nothing is trained: the predictions are the most frequent class of train."
    )
    for part in ("Fine-tuned", "frozen", "worst errors", "learning rate", "processed / real"):
        assert part not in page, part


def test_wnli_by_ranking_takes_the_same_runs_and_is_declared(go, counted, monkeypatch):
    """Ranking is of the predictions: nothing is trained again; it is said wherever a majority's would be."""
    plain = go("glue", "wnli")
    seen = []
    monkeypatch.setattr(
        outcome, "ranked_hypotheses", lambda data, margins: seen.append(data.split) or ["entailment"] * len(data)
    )
    result = go("glue", "wnli", wnli="ranked")
    assert counted == ["wnli 0"] and sorted(seen) == ["test", "validation"]
    assert plain.tasks["wnli"].trick is None and result.tasks["wnli"].trick == "ranked"
    assert any("ranked" in note for note in result.notes) and result_row(result).footnotes[0] == "wnli-ranked"
    labels = load_split(TASKS["glue/wnli"], "validation", TOY).labels
    share = 100 * labels.count("entailment") / len(labels)
    assert result.tasks["wnli"].scores["accuracy"] == [pytest.approx(share)]
    assert any("constant" in flag for flag in result.tasks["wnli"].flags)  # of what is handed in


def test_starting_from_mnli_can_be_left_and_can_be_given(go, tmp_path, counted, bert_folder):
    go("glue", "mnli,rte", out="glue", mnli_start=False)
    assert all(not record["started_from"] for record in ledger(tmp_path / "glue").values())
    model = tmp_path / "glue" / "models" / "mnli"
    given = go("superglue", "cb,copa", out="superglue", mnli_model=str(model))
    assert given.tasks["cb"].started_from == f"mnli ({model})" and given.tasks["copa"].started_from is None
    with pytest.raises(InputError, match="is no model of MNLI"):
        go("superglue", "cb", out="other", mnli_model=str(bert_folder))
    record = next(record for record in ledger(tmp_path / "superglue").values() if record["task"] == "superglue/cb")
    assert record["head_kept"] and record["head"] == list(TASKS["glue/mnli"].labels)  # CB's classes, MNLI's order


def test_an_mnli_model_of_an_earlier_command_is_started_from(go, tmp_path, counted, gpt_folder):
    assert go("glue", "rte").tasks["rte"].started_from is None
    go("glue", "mnli")
    result = go("glue", "rte,cola")
    assert result.tasks["rte"].started_from.startswith("mnli (seed 0, score ")
    later = Suite("glue", SuiteArguments(result.model, str(tmp_path / "out"), "rte", TOY), LoopArguments())
    assert later.left_out() == ["cola", "mnli"]
    assert result.tasks["cola"].started_from is None and counted == ["rte 0", "mnli 0", "rte 0", "cola 0"]
    with pytest.raises(InputError, match=r"out holds results of .*, or of other weights; give .* another --out"):
        go("glue", "rte", model=gpt_folder)


def test_what_mnli_would_not_change_does_not_start_from_it(go, tmp_path):
    frozen = go("glue", "mnli,rte", out="frozen", freeze_encoder=True, max_steps=1)
    assert frozen.tasks["rte"].started_from is None and "frozen" in frozen.protocol
    assert frozen.tasks["rte"].settings["frozen_encoder"] is True
    assert frozen.tasks["rte"].settings["learning_rate"] == 1e-3
    told = go("glue", "rte", out="told", freeze_encoder=True, learning_rate=0.02, max_steps=1)
    assert told.tasks["rte"].settings["learning_rate"] == 0.02


def test_the_command_says_bad_input_on_one_line(run_command, hfssl_command):
    done = run_command(hfssl_command, "glue", "./nowhere", "--tasks", "rte", "--data_dir", TOY, "--out", "out/none")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and lines == ["error: './nowhere' is no model: no such folder"], done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoints_own_order_reaches_the_submission(go, tmp_path, bert_folder, bert_tokenizer):
    """Pitfall 2: without any learning the zip's MNLI and AX rows are the checkpoint's, by its own names."""
    names = dict(enumerate(("contradiction", "neutral", "entailment")))
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(
        bert_folder, num_labels=3, id2label=names, label2id={name: number for number, name in names.items()}
    ).eval()
    torch.nn.init.normal_(model.classifier.weight, std=5)

    def logits(data):
        given = bert_tokenizer(*data.texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            return model(**given).logits

    middle = logits(load_split(TASKS["glue/mnli"], "test_matched", TOY)).median(0).values
    model.classifier.bias.data -= middle  # so that all three classes are said
    model.save_pretrained(tmp_path / "mnli")
    bert_tokenizer.save_pretrained(tmp_path / "mnli")
    result = go("glue", "mnli", model=tmp_path / "mnli", learning_rate=1e-30)
    (record,) = ledger(tmp_path / "out").values()
    assert {name: [100 * value] for name, value in record["scores"].items()} == result.tasks["mnli"].scores
    with zipfile.ZipFile(tmp_path / "out" / "submission-incomplete.zip") as archive:
        for key, split, file in (
            ("mnli", "test_matched", "MNLI-m"),
            ("mnli", "test_mismatched", "MNLI-mm"),
            ("ax", "test", "AX"),
        ):
            data = load_split(TASKS[f"glue/{key}"], split, TOY)
            said = [names[number] for number in logits(data).argmax(1).tolist()]
            rows = archive.read(f"{file}.tsv").decode().splitlines()[1:]
            assert [row.split("\t")[1] for row in rows] == said and len(set(said)) > 1


def test_a_damaged_prediction_file_says_how_to_go_on(go, tmp_path):
    go("glue", "cola")
    (job,) = (tmp_path / "out" / "jobs").iterdir()
    whole = (job / "predictions.npz").read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-30], b"", b"text"):
        (job / "predictions.npz").write_bytes(part)
        with pytest.raises(InputError, match=r"cannot read .*delete its line in .*ledger.jsonl"):
            go("glue", "cola")


def test_other_rows_of_a_diagnostic_set_are_not_scored_by_old_predictions(go, tmp_path, monkeypatch):
    go("glue", "mnli")
    real = suite_module.load_split

    def load(task, split, *rest, **more):
        data = real(task, split, *rest, **more)
        return data.select(range(50, 100), "other rows") if task.name == "ax" and data is not None else data

    monkeypatch.setattr(suite_module, "load_split", load)
    with pytest.raises(InputError, match="has no predictions of these rows of AX test; delete its line"):
        go("glue", "mnli")


def test_another_set_of_tasks_gives_a_builtin_another_vocabulary(tmp_path, bert_folder):
    import pandas as pd

    from hfssl.data.toyglue import toy_table

    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("cola", "sst2"):
        for split in ("train", "validation"):
            table = pd.DataFrame(toy_table(f"glue/{name}", split).columns)
            table["label"] = [TASKS[f"glue/{name}"].labels.index(label) for label in table["label"]]
            table.to_parquet(folder / f"{name}-{split}_subset.parquet")

    def words(tasks):
        args = SuiteArguments("builtin-cbow", str(tmp_path / "out"), tasks, str(folder))
        return Suite("glue", args, LoopArguments()).source.tokenizer.get_vocab()

    assert "film" not in words("cola") and "film" in words("cola,sst2") and "film" not in words("cola")


def test_a_suite_that_is_stopped_says_how_it_goes_on(go, monkeypatch, capsys):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Suite, "run", stop)
    with pytest.raises(SystemExit) as left:
        exits_on_bad_input(go)("glue", "rte", max_steps=1)
    assert left.value.code == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on with the jobs that are not done\n")


def test_the_zip_that_is_written_is_checked(go, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "hfssl")
    checked = []
    real = command.validate_submission
    monkeypatch.setattr(command, "validate_submission", lambda *given: checked.append(given) or real(*given))
    go("glue", "all", max_steps=1)
    assert (
        checked == [(tmp_path / "out" / "submission.zip", TOY)]
        and "1,060 predictions of synthetic data: no server takes it" in caplog.text
    )
    broken = SimpleNamespace(errors=["CoLA.tsv:3: the index 'x' is no row number"])
    monkeypatch.setattr(command, "validate_submission", lambda *given: broken)
    with pytest.raises(InputError, match=r"is not valid: CoLA.tsv:3"):
        go("glue", "all", max_steps=1)


def test_a_part_of_a_split_is_marked_and_never_whole(go, tmp_path, bert_folder):
    import pandas as pd

    from hfssl.data.toyglue import toy_table

    folder = tmp_path / "data"
    folder.mkdir()
    for split, name in (("train", "train_subset"), ("validation", "validation_sample")):
        table = pd.DataFrame(toy_table("glue/cola", split).columns).head(40)
        table["label"] = [TASKS["glue/cola"].labels.index(label) for label in table["label"]]
        table.to_parquet(folder / f"cola-{name}.parquet")
    result = go("glue", "cola", data_dir=str(folder))
    assert "40 rows" in result.tasks["cola"].part and not result.synthetic
    assert result.tasks["cola"].rows == {"validation": 40}
    assert (tmp_path / "out" / "submission-incomplete.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "cola,rta"}, "no task 'rta' in glue.*did you mean 'rte'"),
        ({"tasks": "ax"}, "AX is predicted by MNLI's model: add mnli to --tasks"),
        ({"tasks": "rte", "model": "./nowhere"}, "no such folder"),
        ({"tasks": "rte", "data_dir": "./nowhere"}, "no such folder"),
        ({"tasks": "rte", "contamination": "./nowhere.txt"}, "nowhere.txt"),
        ({"tasks": "rte", "save_models": "bets"}, "--save_models 'bets' is not one of.*did you mean 'best'"),
        ({"tasks": "rte", "wnli": "guess"}, "--wnli 'guess' is not one of trained, majority, ranked"),
        ({"tasks": "rte", "seeds": 0}, "--seeds must be at least 1"),
        ({"tasks": "rte", "wnli": "ranked"}, "--wnli ranked has no use without WNLI"),
        ({"tasks": "rte", "diagnostic": "ax.tsv"}, "--diagnostic is for AX"),
        ({"tasks": "rte", "warmup": 1.0}, "--warmup is a share of the updates"),
        ({"tasks": "rte", "bucket_batches": -1}, "--bucket_batches must be at least 0"),
        ({"tasks": "rte", "mnli_model": "./nowhere", "mnli_start": False}, "--mnli_model has no use"),
        ({"tasks": "rte", "model": "builtin-demo", "mnli_model": "./nowhere"}, "no such folder"),
        ({"tasks": "rte", "model": "builtin-demo", "contamination": "./nowhere.txt"}, "nowhere.txt"),
        ({"tasks": "rte", "search": True, "batch_size": 30, "gradient_accumulation_steps": 4}, "does not divide"),
        ({"tasks": "rte", "gradient_accumulation_steps": 5}, "does not divide the batch of 32 of RTE"),
        ({"tasks": "rte", "model": "builtin-demo", "gradient_accumulation_steps": 3}, "does not divide the batch"),
        ({"tasks": "rte", "max_steps": 0}, "--max_steps must be at least 1, or -1 for none, not 0"),
        ({"tasks": "rte", "learning_rate": float("nan")}, "--learning_rate must be positive, not nan"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(go, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        go("glue", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(go, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no results of hfssl glue"):
        go("glue", "cola")
    go("glue", "cola", out="other", max_steps=1)
    with pytest.raises(InputError, match="holds results of glue; give superglue another --out"):
        go("superglue", "cb", out="other")


def test_a_kill_loses_one_job_and_a_rerun_does_the_rest(tmp_path, bert_folder, go, counted):
    """kill -9 in the middle of the second job: the first one's line stays, the rerun does the others."""
    out = tmp_path / "out"
    command = [sys.executable, "eval/run_glue.py", "--model", bert_folder, "--out", out, "--data_dir", TOY,
               "--tasks", "cola,sst2,wnli", "--recipe", "scratch", "--max_steps", "40"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(1200):
            if len(ledger(out)) == 1 or process.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()
    done = [record["task"].removeprefix("glue/") for record in ledger(out).values()]
    assert len(done) in (1, 2)
    result = go("glue", "cola,sst2,wnli", max_steps=40)
    assert sorted(counted) == sorted(f"{name} 0" for name in ("cola", "sst2", "wnli") if name not in done)
    assert set(result.tasks) == {"cola", "sst2", "wnli"} and len(ledger(out)) == 3


@pytest.mark.distributed
def test_two_commands_share_one_folder(tmp_path, bert_folder):
    """Each job is done by one of them; both wait for all, and write the same results, models and zip."""
    out = tmp_path / "out"
    command = [sys.executable, "eval/run_glue.py", "--model", bert_folder, "--out", out, "--data_dir", TOY, "--tasks",
               "cola,sst2,mnli,rte", "--recipe", "scratch", "--max_steps", "20", "--seeds", "3"]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in processes]
    for process, (printed, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0 and b"official-9" in printed, errors.decode()
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == 12 and len({line["job"] for line in lines}) == 12 and all("result" in line for line in lines)
    assert all(b"s; " in errors for _, errors in said), "each has done some"
    assert sorted(path.name for path in (out / "models").iterdir()) == ["cola", "mnli", "rte", "sst2"]
    assert set(read_result(out / "glue_dev.json").tasks) == {"cola", "sst2", "mnli", "rte"}
    assert zipfile.ZipFile(out / "submission-incomplete.zip").testzip() is None
    assert [path for path in out.rglob(".*") if path.name.startswith((".glue", ".sub", ".report"))] == []


def test_models_that_are_not_the_best_make_room(go, tmp_path):
    result = go("glue", "rte", seeds=3, max_steps=12, learning_rate=3e-3)
    scores = result.tasks["rte"].scores["accuracy"]
    assert [path.name for path in (tmp_path / "out" / "models").iterdir()] == ["rte"]
    about = json.loads((tmp_path / "out" / "models" / "rte" / "hfssl_task.json").read_text())
    assert about["seed"] == scores.index(max(scores))
    go("glue", "cola", out="none", save_models="none")
    assert not (tmp_path / "none" / "models").exists()


def test_a_builtin_baseline_is_trained_on_the_tasks_own_words(go, tmp_path):
    result = go("glue", "sst2,rte", model="builtin-cbow", max_steps=3)
    assert result.kind == "baseline" and "never pretrained" in result.protocol
    words = json.loads((tmp_path / "out" / "builtin-cbow" / "tokenizer.json").read_text())["model"]["vocab"]
    assert "film" in words


def test_the_longest_job_comes_first(bert_folder, tmp_path):
    """The longest job comes first; data of diagnostics alone makes no job."""
    args = SuiteArguments(str(bert_folder), str(tmp_path / "out"), "wnli,mnli,ax,cola", TOY)
    suite = Suite("glue", args, LoopArguments())
    jobs = [suite._job(task, 0, 0, suite.recipe.settings(task), ("", "", "")) for task in suite.trained]
    order = []
    suite.ledger.run = lambda jobs, execute: order.extend(jobs)
    suite._execute_all(jobs)
    assert [name.partition("-")[0] for name in order] == ["mnli", "cola", "wnli"]


def test_no_token_is_written_anywhere(go, tmp_path, monkeypatch, capfd):
    token = "hf_" + "aB3" * 12
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", token)
    go("glue", "rte,cola", max_steps=1)
    said = capfd.readouterr()
    assert token not in said.out + said.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if token.encode() in path.read_bytes()]
