"""What the writer writes is what the servers take, at full size too; what they do not take is found, with its line."""

import random
import re
import time
import zipfile

import pytest

from hfssl.data.toyglue import TOYGLUE
from hfssl.errors import InputError
from hfssl.evaluation.prediction_files import read_jsonl, read_multirc, read_tsv
from hfssl.evaluation.relabelling import exchanged_labels
from hfssl.evaluation.submission import COMPLETE, INCOMPLETE, files_of, render, write_submission
from hfssl.evaluation.submission_check import MULTIRC_TEST, validate_submission
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import SUITES, TASKS, suite_tasks


def stub(data, seed=0):
    """Predictions of a model that guesses."""
    rng = random.Random(seed)
    if data.task.kind == "regression":
        return [rng.uniform(-1, 6) for _ in range(len(data))]
    if data.task.kind == "entities":
        return [rng.choice(names) for names in data.candidates]
    return [rng.choice(data.task.labels) for _ in range(len(data))]


def full_size(task, split):
    """A test split with the official number of rows and no texts to speak of."""
    count = task.counts[split]
    data = SplitData(task, split, tuple([""] * count for _ in task.columns), None, list(range(count)), "stub", count)
    if task.kind == "entities":
        data.candidates = [("The Blues", "José")] * count
    elif task.kind == "answers":
        paragraphs, questions, answers = MULTIRC_TEST
        # Every paragraph a question, every question an answer, the rest anywhere.
        of_question = [min(question, paragraphs - 1) for question in range(questions)]
        of_answer = [min(answer, questions - 1) for answer in range(answers)]
        data.idx = [(of_question[of_answer[answer]], of_answer[answer], answer) for answer in range(answers)]
    return data


def toy(suite):
    return {
        task.name: {s: load_split(task, s, TOYGLUE) for s in task.test_splits} for task in suite_tasks(suite).values()
    }


def guesses(data):
    return {name: {split: stub(part) for split, part in splits.items()} for name, splits in data.items()}


@pytest.fixture(scope="module")
def toy_zip(tmp_path_factory):
    """For each suite, the bytes of the files of a valid toy submission."""
    written = {}
    for suite in SUITES:
        data = toy(suite)
        result = write_submission(suite, data, guesses(data), tmp_path_factory.mktemp(suite))
        with zipfile.ZipFile(result.path) as archive:
            written[suite] = {name: archive.read(name) for name in archive.namelist()}
    return written


def pack(path, files, comment=b""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return path


@pytest.mark.parametrize("suite", SUITES)
def test_the_whole_board_at_its_official_size(suite, tmp_path):
    """390,965 rows of QQP and all the rest, written by the real writer and found valid without any data at hand."""
    data = {task.name: {s: full_size(task, s) for s in task.test_splits} for task in suite_tasks(suite).values()}
    result = write_submission(suite, data, guesses(data), tmp_path)
    assert result.is_complete and result.path.name == COMPLETE and result.notes == ()
    report = validate_submission(result.path)
    assert report.errors == [] and report.warnings == [] and report.suite == suite
    assert report.rows == {name: task.counts[split] for name, (task, split) in files_of(suite).items()}
    assert report.rows.get("QQP.tsv", 390965) == 390965 and len(report.rows) == (11 if suite == "glue" else 10)
    assert set(report.against.values()) == {"official count"}


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    data = toy("superglue")
    first, second = (write_submission("superglue", data, guesses(data), tmp_path / name).path for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("key", "head"),
    [
        ("glue/cola", ["index\tprediction", "0\t1", "1\t0"]),
        ("glue/qqp", ["index\tprediction", "0\t1", "1\t0"]),
        ("glue/wnli", ["index\tprediction", "0\t1", "1\t0"]),
        ("glue/ax", ["index\tprediction", "0\tneutral", "1\tentailment"]),
        ("glue/qnli", ["index\tprediction", "0\tnot_entailment", "1\tentailment"]),
        ("superglue/boolq", ['{"idx": 0, "label": "true"}', '{"idx": 1, "label": "false"}']),
        ("superglue/copa", ['{"idx": 0, "label": 1}', '{"idx": 1, "label": 0}']),
        ("superglue/wic", ['{"idx": 0, "label": "true"}', '{"idx": 1, "label": "false"}']),
        ("superglue/wsc", ['{"idx": 0, "label": "True"}', '{"idx": 1, "label": "False"}']),
        ("superglue/cb", ['{"idx": 0, "label": "contradiction"}', '{"idx": 1, "label": "entailment"}']),
        ("superglue/multirc", ['{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 1}, '
                               '{"idx": 1, "label": 0}, ']),
    ],
)  # fmt: skip
def test_each_tasks_own_spelling(key, head):
    """Pitfalls 1 and 9: 0 and 1 and not class names, entailment and not 1, integers for COPA; line feeds."""
    task = TASKS[key]
    data = load_split(task, "test", TOYGLUE)
    predictions = [task.labels[1], task.labels[0]] + [task.labels[0]] * (len(data) - 2)
    text = render(data, predictions)
    assert "\r" not in text and text.endswith("\n")
    lines = text.split("\n")
    assert [line[: len(start)] for line, start in zip(lines, head, strict=False)] == head
    if task.kind != "answers":
        assert len(lines) == len(data) + 1 + (task.suite == "glue")


def test_similarities_are_clipped_and_have_three_places():
    """Pitfall 10."""
    data = load_split(TASKS["glue/stsb"], "test", TOYGLUE).select(range(5), "five")
    assert render(data, [-0.2, 5.7, 2.34567, -0.0, 4]).split("\n")[1:6] == [
        "0\t0.000", "1\t5.000", "2\t2.346", "3\t0.000", "4\t4.000",
    ]  # fmt: skip
    with pytest.raises(InputError, match="row 1: the prediction is nan"):
        render(data, [1.0, float("nan"), 1.0, 1.0, 1.0])


def test_rows_come_in_the_order_of_the_index_whatever_that_of_the_data():
    """Pitfall 1: the index is the row of the test file, not the place in the list."""
    data = load_split(TASKS["glue/rte"], "test", TOYGLUE)
    order = list(range(len(data)))
    random.Random(0).shuffle(order)
    predictions = [data.task.labels[row % 2] for row in range(len(data))]
    assert render(data.select(order, "shuffled"), [predictions[row] for row in order]) == render(data, predictions)


def test_what_is_no_label_is_not_written():
    """Pitfall 2: a prediction that was decoded by another's names does not go out."""
    data = load_split(TASKS["glue/rte"], "test", TOYGLUE)
    with pytest.raises(InputError, match="row 0: the prediction 'LABEL_0' is not one of: entailment, not_entailment"):
        render(data, ["LABEL_0"] * len(data))
    data = load_split(TASKS["superglue/record"], "test", TOYGLUE)
    with pytest.raises(InputError, match="row 0: 'Nobody' is none of the passage's entities"):
        render(data, ["Nobody"] * len(data))


def test_a_part_is_written_as_incomplete_and_says_what_is_missing(tmp_path):
    data = toy("glue")
    predictions = guesses(data)
    del data["qqp"]
    predictions["mnli"].pop("test_mismatched")
    data["rte"]["test"] = data["rte"]["test"].select(range(10), "ten")
    predictions["rte"]["test"] = predictions["rte"]["test"][:10]
    (tmp_path / COMPLETE).write_bytes(b"of an earlier run")
    result = write_submission("glue", data, predictions, tmp_path)
    assert result.path.name == INCOMPLETE and not result.is_complete and not (tmp_path / COMPLETE).exists()
    assert result.missing == (
        "QQP.tsv: not among the tasks", "MNLI-mm.tsv: no predictions", "RTE.tsv: 10 of 100 rows",
    )  # fmt: skip
    report = validate_submission(result.path, TOYGLUE)
    whys = {"QQP.tsv: missing (not among the tasks)", "MNLI-mm.tsv: missing (no predictions)"}
    assert {"incomplete: RTE.tsv: 10 of 100 rows", *whys} < set(report.errors)
    assert sum("QQP" in error for error in report.errors) == 1
    assert any(
        error.startswith("RTE.tsv: 90 of 100 rows are missing: index 10, 11, 12, ...") for error in report.errors
    )


@pytest.mark.parametrize("suite", SUITES)
def test_a_toy_submission_is_good_for_the_toy_only(suite, toy_zip, tmp_path):
    path = pack(tmp_path / "submission.zip", toy_zip[suite])
    assert validate_submission(path, TOYGLUE).errors == []
    with pytest.raises(InputError, match=r"of synthetic data, which no server takes; .*--data_dir builtin:toyglue"):
        validate_submission(path)  # by the lengths of its files: this copy has no comment
    data = toy(suite)
    assert write_submission(suite, data, guesses(data), tmp_path / "out").notes[-1].startswith("of synthetic data")
    with zipfile.ZipFile(tmp_path / "out" / COMPLETE) as archive:
        assert b"synthetic" in archive.comment


def test_a_strangers_zip_does_not_steer_the_terminal(toy_zip, tmp_path, no_witness):
    files = toy_zip["glue"] | {
        "evil\x1b[31m.txt": b"x",
        "in\x1b[2J/RTE.tsv": b"x",
        "INCOMPLETE.txt": b"a\n\x1b[2Jb\x07\n",
    }
    report = validate_submission(pack(tmp_path / "submission.zip", files), TOYGLUE)
    said = [error for error in report.errors if "x1b" in error]
    assert len(said) == 3 and all(error.isprintable() for error in report.errors)
    with pytest.raises(InputError) as refused:
        validate_submission(pack(tmp_path / "other.zip", {"a\x1b[31m": b"x"}))
    assert str(refused.value).isprintable()


def test_data_without_the_suites_test_sets_is_said(toy_zip, tmp_path, no_witness):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("x")
    files = {"RTE.tsv": "index\tprediction\n" + "".join(f"{row}\tentailment\n" for row in range(3000))}
    report = validate_submission(pack(tmp_path / "submission.zip", files), str(tmp_path / "data"))
    assert any("has no whole test data for RTE.tsv: official counts alone" in line for line in report.warnings)


def lines_of(files, name):
    return files[name].decode().split("\n")[:-1]


def doubled(lines):
    return [*lines[:4], lines[2], *lines[5:]]


def line(number, text):
    """Puts another text in place of a line, counted from 0."""
    return lambda content: content.replace(content.split(b"\n")[number], text)


def swap(old, new, count=-1):
    return lambda content: content.replace(old, new, count)


def regrouped(content):
    """An answer under a question of another number."""
    return content.replace(b', {"idx": 1, "answers"', b', {"idx": 77, "answers"', 1)


def left_out(content):
    """Without the second answer."""
    return re.sub(rb'\{"idx": 1, "label": .\}, ', b"", content, count=1)


FAULTS = {
    "a byte order mark": ("CoLA.tsv", lambda c: b"\xef\xbb\xbf" + c, ":1: a byte order mark"),
    "CRLF": ("CoLA.tsv", swap(b"\n", b"\r\n"), ":1: 101 lines end in CRLF"),
    "one CRLF": ("CoLA.tsv", swap(b"\n7\t", b"\r\n7\t"), ":8: 1 lines end in CRLF"),
    "not UTF-8": ("CoLA.tsv", swap(b"\n3\t", b"\n3\xe9\t"), ":5: not UTF-8"),
    "no header": ("SST-2.tsv", lambda c: c.split(b"\n", 1)[1], ":1: no header"),
    "another header": ("SST-2.tsv", swap(b"index", b"id"), ":1: the header is 'id\\tprediction'"),
    "commas": ("SST-2.tsv", swap(b"\n5\t", b"\n5,"), ":7: '5,"),
    "an empty line": ("SST-2.tsv", swap(b"\n4\t", b"\n\n4\t"), ":6: an empty line"),
    "an index that is none": ("RTE.tsv", swap(b"\n9\t", b"\n9.0\t"), ":11: the index '9.0'"),
    "a missing row": (
        "RTE.tsv",
        lambda c: b"\n".join(c.split(b"\n")[:9] + c.split(b"\n")[10:]),
        ": 1 of 100 rows are missing: index 8, the first after line 9",
    ),
    "a doubled row": (
        "RTE.tsv",
        lambda c: b"\n".join(doubled(c.split(b"\n"))),
        ":5: index 1 is doubled: it is in line",
    ),
    "an index too many": ("WNLI.tsv", lambda c: c + b"60\t1\n", ":62: 1 indices that the test set does not have: 60"),
    "class names": ("CoLA.tsv", swap(b"\t1\n", b"\tacceptable\n"), "prediction acceptable is not 0 or 1"),
    "signs that steer a terminal": ("CoLA.tsv", line(3, b"2\t\x1b[31m"), ":4: the prediction \\x1b[31m is not 0 or 1"),
    "numbers for names": ("MNLI-m.tsv", swap(b"neutral", b"1"), "1 is not entailment or neutral or contradiction"),
    "a similarity over 5": ("STS-B.tsv", line(3, b"2\t5.2"), ":4: the prediction 5.2 is no number from 0 to 5"),
    "T5's -1": ("STS-B.tsv", line(3, b"2\t-1.0"), ":4: the prediction -1.0 is no number"),
    "not a number": ("STS-B.tsv", line(3, b"2\tnan"), ":4: the prediction nan is no number"),
    "no number": ("STS-B.tsv", line(3, b"2\t1_0"), ":4: the prediction 1_0 is no number"),
    "true in capitals": ("BoolQ.jsonl", swap(b'"true"', b'"True"'), 'prediction "True" is not "false" or "true"'),
    "a JSON boolean": ("WiC.jsonl", swap(b'"true"', b"true"), 'prediction true is not "false" or "true"'),
    "WSC in small letters": ("WSC.jsonl", swap(b'"True"', b'"true"'), 'prediction "true" is not "False" or "True"'),
    "COPA as text": ("COPA.jsonl", swap(b'"label": 1', b'"label": "1"'), 'prediction "1" is not 0 or 1'),
    "COPA as a boolean": ("COPA.jsonl", swap(b'"label": 1', b'"label": true'), "prediction true is not 0 or 1"),
    "no JSON": ("CB.jsonl", swap(b'{"idx": 3', b"{idx: 3"), ":4: '{idx: 3"),
    "more keys": ("CB.jsonl", swap(b'{"idx": 3', b'{"p": 1, "idx": 3'), ':4: {"p": 1, "idx": 3'),
    "an index as text": ("AX-b.jsonl", swap(b'"idx": 3,', b'"idx": "3",'), ':4: {"idx": "3"'),
    "no entity": ("ReCoRD.jsonl", line(5, b'{"idx": 5, "label": "Zoe"}'), ":6: 'Zoe' is none of the entities of query"),
    "no answer": ("ReCoRD.jsonl", line(5, b'{"idx": 5, "label": ""}'), ':6: the prediction "" is no text'),
    "no tree": ("MultiRC.jsonl", swap(b'"passage"', b'"text"', 1), ":1: no tree of passage, questions, answers"),
    "an index without end": ("RTE.tsv", swap(b"\n9\t", b"\n" + b"9" * 5000 + b"\t"), ":11: the index '9999"),
    "a number without end": ("CB.jsonl", swap(b'{"idx": 3', b'{"idx": ' + b"3" * 5000), ':4: \'{"idx": 333'),
    "a list for an index": ("MultiRC.jsonl", swap(b'{"idx": 0,', b'{"idx": [0],', 1), ":1: an idx that is no number"),
    "a text for an index": ("MultiRC.jsonl", swap(b'{"idx": 0,', b'{"idx": "0",', 1), ":1: an idx that is no number"),
    "a truth for an index": (
        "MultiRC.jsonl",
        swap(b'{"idx": 0,', b'{"idx": false,', 1),
        ":1: an idx that is no number",
    ),
    "an answer elsewhere": ("MultiRC.jsonl", regrouped, "that the test set does not have: (0, 77, 4)"),
    "an answer left out": ("MultiRC.jsonl", left_out, ": 1 of 120 rows are missing: index (0, 0, 1)"),
}


@pytest.fixture
def no_witness(monkeypatch):
    """Without the bag-of-words models, which take a second."""
    monkeypatch.setattr("hfssl.evaluation.submission_check.looks_relabelled", lambda *given: "")
    monkeypatch.setattr("hfssl.evaluation.submission_check.witness", lambda train: train)


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_found_with_its_line(case, toy_zip, tmp_path, no_witness):
    name, break_it, says = FAULTS[case]
    suite = "glue" if name.endswith(".tsv") else "superglue"
    broken = break_it(toy_zip[suite][name])
    assert broken != toy_zip[suite][name], "the case changes nothing"
    report = validate_submission(pack(tmp_path / "s.zip", {**toy_zip[suite], name: broken}), TOYGLUE)
    assert any(error.startswith(name) and says in error for error in report.errors), report.errors
    assert not report.is_valid


def test_a_fault_in_every_row_is_one_message(toy_zip, tmp_path, no_witness):
    """What run_glue.py writes for CoLA: class names and the number of the row."""
    rows = "".join(f"{row}\t{'acceptable' if row % 2 else 'unacceptable'}\n" for row in range(100))
    report = validate_submission(
        pack(tmp_path / "s.zip", {**toy_zip["glue"], "CoLA.tsv": "index\tprediction\n" + rows}), TOYGLUE
    )
    assert report.errors == ["CoLA.tsv:2: the prediction unacceptable is not 0 or 1 (and 99 more lines: 3, 4, 5, ...)"]


def test_names_that_are_not_the_servers(toy_zip, tmp_path, no_witness):
    files = dict(toy_zip["glue"])
    files["predict_results_cola.txt"] = files.pop("CoLA.tsv")
    files["rte.tsv"] = files.pop("RTE.tsv")
    files["out/AX.tsv"] = files.pop("AX.tsv")
    report = validate_submission(pack(tmp_path / "s.zip", files), TOYGLUE)
    assert {"CoLA.tsv: missing", "RTE.tsv: missing", "AX.tsv: missing"} < set(report.errors)
    assert "rte.tsv: no file of glue; it must be called RTE.tsv" in report.errors
    assert "out/AX.tsv: lies in a folder; zip the files themselves" in report.errors
    with pytest.raises(InputError, match=r"s2.zip holds notes.txt: no prediction file of GLUE"):
        validate_submission(pack(tmp_path / "s2.zip", {"notes.txt": "x"}))


def test_what_is_taken_but_looks_wrong_is_a_warning(toy_zip, tmp_path, no_witness):
    """Pitfall 21 at the file: constant predictions. Another order and a missing last line feed are taken too."""
    files = dict(toy_zip["glue"])
    files["WNLI.tsv"] = "index\tprediction\n" + "".join(f"{row}\t0\n" for row in range(60))
    lines = lines_of(files, "QNLI.tsv")
    files["QNLI.tsv"] = "\n".join([lines[0], *reversed(lines[1:])])
    report = validate_submission(pack(tmp_path / "s.zip", files), TOYGLUE)
    assert report.is_valid and report.warnings == [
        "QNLI.tsv:101: no line feed at the end of the file",
        "QNLI.tsv: the rows are not in the order of the index",
        "WNLI.tsv: constant: all 60 predictions are 'not_entailment'; WNLI's majority class is a usual choice",
    ]


def test_exchanged_labels_are_found_by_the_training_data(toy_zip, tmp_path):
    """Pitfall 3: MNLI decoded in the order of another checkpoint; and two classes turned round."""
    from hfssl.evaluation.baselines import tfidf

    files = dict(toy_zip["glue"])
    mnli, sst2 = TASKS["glue/mnli"], TASKS["glue/sst2"]
    predict = tfidf(load_split(mnli, "train", TOYGLUE), seed=5)
    turned = dict(zip(("contradiction", "neutral", "entailment"), mnli.labels, strict=True))
    for split in mnli.test_splits:
        data = load_split(mnli, split, TOYGLUE)
        files[mnli.files[split]] = render(data, [turned[label] for label in predict(data)])
    data = load_split(sst2, "test", TOYGLUE)
    good = tfidf(load_split(sst2, "train", TOYGLUE), seed=5)(data)
    files["SST-2.tsv"] = render(data, [{"positive": "negative", "negative": "positive"}[label] for label in good])
    qnli = load_split(TASKS["glue/qnli"], "test", TOYGLUE)
    files["QNLI.tsv"] = render(qnli, tfidf(load_split(qnli.task, "train", TOYGLUE), seed=5)(qnli))
    report = validate_submission(pack(tmp_path / "s.zip", files), TOYGLUE)
    found = {warning.split(":")[0]: warning for warning in report.warnings if "look exchanged" in warning}
    assert set(found) == {"MNLI-m.tsv", "MNLI-mm.tsv", "SST-2.tsv"}, "and not guesses, nor what is right"
    assert "entailment for contradiction, contradiction for entailment" in found["MNLI-m.tsv"]


def test_exchanged_labels_against_gold_labels():
    labels = ("entailment", "neutral", "contradiction")
    rng = random.Random(0)
    gold = [rng.choice(labels) for _ in range(400)]
    good = [label if rng.random() < 0.9 else rng.choice(labels) for label in gold]
    turned = {"entailment": "contradiction", "neutral": "entailment", "contradiction": "neutral"}
    names, plain, agreement = exchanged_labels([turned[label] for label in good], gold, labels)
    assert {turned[label]: label for label in labels} == names and plain < 0.1 < 0.85 < agreement
    assert exchanged_labels(good, gold, labels) is None
    assert exchanged_labels([rng.choice(labels) for _ in gold], gold, labels) is None, "a guess is not an exchange"


def test_without_data_the_official_numbers_hold():
    """MultiRC without data: paragraphs, questions and answers are counted; ReCoRD's answers cannot be compared."""
    task = TASKS["superglue/multirc"]
    data = full_size(task, "test")
    text = render(data, stub(data))
    assert read_multirc(text.encode(), task, MULTIRC_TEST).errors == []
    short = "".join(line + "\n" for line in text.split("\n")[:-2])
    errors = read_multirc(short.encode(), task, MULTIRC_TEST).errors
    assert errors[0] == ": 165 paragraphs, expected 166, numbered from 0" and len(errors) == 3
    record = TASKS["superglue/record"]
    assert read_jsonl(b'{"idx": 0, "label": "anybody"}\n', record, {0}).errors == []


def test_a_part_of_the_test_data_is_no_measure(toy_zip, tmp_path):
    """With a part of a test set at hand the official count holds: a submission must have every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"sentence": ["a", "b"]}), tmp_path / "cola-test_sample.parquet")
    files = {name: content for name, content in toy_zip["glue"].items() if name != "RTE.tsv"}
    files["CoLA.tsv"] = "index\tprediction\n" + "".join(f"{row}\t{row % 2}\n" for row in range(1063))
    report = validate_submission(pack(tmp_path / "s.zip", files), str(tmp_path))
    assert report.against["CoLA.tsv"] == "official count" and report.rows["CoLA.tsv"] == 1063
    assert not any(error.startswith("CoLA.tsv") for error in report.errors)


def test_a_hostile_file_does_not_take_long():
    """Deeply nested JSON and a number that is none end in a message, not in a crash."""
    task = TASKS["superglue/boolq"]
    started = time.process_time()
    errors = read_jsonl(b"[" * 10**6 + b"\n" + b'{"idx": 1e999, "label": "true"}\n', task, {0}).errors
    assert any("is no JSON object" in error for error in errors) and time.process_time() - started < 20
    assert read_tsv("index\tprediction\n٣\t1\n".encode(), TASKS["glue/cola"], {3}).errors[0].startswith(":2: the index")


def test_the_command(toy_zip, tmp_path, capsys, monkeypatch):
    from hfssl import cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["hfssl", "validate-submission", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr()

    path = pack(tmp_path / "s.zip", toy_zip["superglue"])
    code, said = run(path, "--data_dir", TOYGLUE)
    assert (
        code == 0
        and "is a valid superglue submission, but of synthetic data: no server takes it" in said.out
        and "ReCoRD.jsonl" in said.out
    )
    code, said = run(path)
    assert code == 2 and said.err.startswith("error: s.zip is of synthetic data") and said.err.count("\n") == 1
    broken = {**toy_zip["superglue"], "CB.jsonl": b"{}\n"}
    code, said = run(pack(tmp_path / "b.zip", broken), "--data-dir", TOYGLUE)
    assert code == 2 and "error: CB.jsonl:1: {} is not" in said.out and "has 2 errors" in said.err
    constant = b"".join(b'{"idx": %d, "label": "true"}\n' % row for row in range(100))
    few = {**toy_zip["superglue"], "BoolQ.jsonl": constant, "CB.jsonl": b""}
    code, said = run(pack(tmp_path / "f.zip", few), "--data-dir", TOYGLUE)
    assert (
        said.out.index("warning: BoolQ.jsonl: constant") < said.out.index("error: CB.jsonl") and "1 error:" in said.err
    )
    code, said = run(tmp_path)
    assert said.err == f"error: {str(tmp_path)!r} is a folder: name the zip in it\n"
