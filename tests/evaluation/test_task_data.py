"""Every layout gives the same rows as the toy data they were written from; what does not fit is refused in one line."""

import dataclasses
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfssl.data.toyglue import TOYGLUE, toy_counts, toy_table
from hfssl.errors import InputError
from hfssl.evaluation.diagnostic import CATEGORIES, load_diagnostic, scores_by_tag
from hfssl.evaluation.task_data import joined_highlights, load_split, load_task, word_span
from hfssl.evaluation.tasks import TASKS, suite_tasks

GLUE = list(suite_tasks("glue").values())
SUPERGLUE = list(suite_tasks("superglue").values())


def small(task):
    """The task with the toy's counts as its official ones."""
    return dataclasses.replace(task, counts=toy_counts(task.key))


def assert_as_toy(task, folder):
    """The folder's splits are the toy's, row for row."""
    task = small(task)
    for split, toy in load_task(task, TOYGLUE).items():
        read = load_split(task, split, str(folder))
        for name in ("texts", "labels", "idx", "groups", "spans", "words", "candidates", "answers"):
            assert getattr(read, name) == getattr(toy, name), (task.key, split, name)
        assert read.fingerprint() == toy.fingerprint()
        assert read.is_whole and read.note == "" and toy.note == "synthetic"
        if split.startswith("test") and not task.labelled_test:
            assert read.labels is None and read.answers is None


@pytest.mark.parametrize("task", [*GLUE, *SUPERGLUE], ids=lambda task: task.key)
def test_parquet_with_the_hubs_columns(task, tmp_path):
    """As datasets writes it: integers, -1 in test, class names in the schema in an order of their own."""
    turned = tuple(reversed(task.labels))
    for split in toy_counts(task.key):
        columns = dict(toy_table(task.key, split).columns)
        if "label" in columns:
            columns["label"] = [turned.index(label) if turned else label for label in columns["label"]]
        elif task.kind != "entities":
            columns["label"] = [-1] * len(columns["idx"])
        info = {"info": {"features": {"label": {"names": list(turned), "_type": "ClassLabel"}}}}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, tmp_path / f"{task.name}-{split}.parquet")
    assert_as_toy(task, tmp_path)


def test_without_class_names_the_hubs_order_holds_and_shards_are_joined(tmp_path):
    task = small(TASKS["glue/wnli"])  # not_entailment is 0, unlike in RTE: pitfall 4
    (tmp_path / "wnli").mkdir()
    for split in task.counts:
        columns = dict(toy_table(task.key, split).columns)
        numbers = [task.labels.index(label) for label in columns.get("label", [])]
        columns["label"] = numbers or [-1] * len(columns["idx"])
        table = pa.table(columns)
        for shard in range(2):
            half = len(table) // 2
            pq.write_table(table.slice(shard * half, half), tmp_path / "wnli" / f"{split}-{shard:05}-of-00002.parquet")
    assert_as_toy(task, tmp_path)
    (tmp_path / "wnli" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match="1 of 2 shards"):
        load_split(task, "train", str(tmp_path))


# The official files' headers; a name of ours stands where that column is.
TSV = {
    "cola": ("source label star sentence", "index sentence"),
    "sst2": ("sentence label", "index sentence"),
    "mrpc": ("Quality:label #1_ID #2_ID #1_String:sentence1 #2_String:sentence2",
             "index #1_ID #2_ID #1_String:sentence1 #2_String:sentence2"),
    "stsb": ("index genre filename year old_index source1 source2 sentence1 sentence2 score:label",
             "index genre filename year old_index source1 source2 sentence1 sentence2"),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate:label", "id:index question1 question2"),
    "mnli": ("index promptID pairID genre sentence1_parse sentence2_parse sentence1:premise sentence2:hypothesis "
             "label1 gold_label:label", "index promptID pairID genre sentence1:premise sentence2:hypothesis"),
    "qnli": ("index question sentence label", "index question sentence"),
    "rte": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
    "wnli": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
    "ax": ("", "index sentence1:premise sentence2:hypothesis"),
}  # fmt: skip


def write_tsv(path, header, rows):
    path.parent.mkdir(exist_ok=True)
    names, keys = zip(*(part.split(":") if ":" in part else (part, part) for part in header.split()), strict=True)
    lines = ["\t".join(name.replace("_", " ") if name.startswith("#") else name for name in names)]
    lines += ["\t".join(str(row.get(key, "x")) for key in keys) for row in rows]
    path.write_text("\n".join(lines[1:] if "star" in header else lines) + "\n", encoding="utf-8", newline="")


@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_the_official_glue_download(task, tmp_path):
    for split in toy_counts(task.key):
        columns = toy_table(task.key, split).columns
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for number, row in enumerate(rows):
            row["index"] = number
            if task.labels and "label" in row:
                row["label"] = task.written[task.labels.index(row["label"])]
        name = split.replace("validation", "dev") if task.name != "ax" else "AX"
        write_tsv(tmp_path / task.title / f"{name}.tsv", TSV[task.name][split.startswith("test")], rows)
    assert_as_toy(task, tmp_path)


def test_tsv_knows_no_quotes_and_no_other_line_ends(tmp_path):
    """A quote is a character; U+2028 and U+0085 end no line; QQP's short rows are left out and counted."""
    texts = ['He said "no', '"a" b " c', "one\u2028two\x85three", "café"]
    rows = [{"question1": text, "question2": "b", "label": i % 2} for i, text in enumerate(texts)]
    write_tsv(tmp_path / "QQP" / "train.tsv", TSV["qqp"][0], rows)
    with (tmp_path / "QQP" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("9\t1\t2\tcut off\r\n")
    task = dataclasses.replace(TASKS["glue/qqp"], counts={"train": 4, "validation": 1})
    data = load_split(task, "train", str(tmp_path))
    assert data.texts[0] == texts and data.left_out == 1
    assert data.labels == ["not_duplicate", "duplicate"] * 2


def nested(task, rows):
    """Flat rows as SuperGLUE's official lines."""
    if task.name == "axb":
        return [row | {"idx": str(row["idx"])} for row in rows]
    if task.name == "wsc":
        keys = ("span1_index", "span1_text", "span2_index", "span2_text")
        return [{k: v for k, v in row.items() if k not in keys} | {"target": {k: row[k] for k in keys}} for row in rows]
    if task.name == "record":
        lines = []
        for row in rows:
            starts = [row["passage"].index(name) for name in row["entities"]]
            spans = [{"start": at, "end": at + len(name) - 1} for at, name in zip(starts, row["entities"], strict=True)]
            answers = [{"text": text, "start": 0, "end": 0} for text in row.get("answers", [])]
            qas = [{"idx": row["idx"]["query"], "query": row["query"], **({"answers": answers} if answers else {})}]
            passage = {"text": row["passage"], "entities": spans * 2}
            lines.append({"source": "toy", "idx": row["idx"]["passage"], "passage": passage, "qas": qas})
        return lines
    if task.name != "multirc":
        return rows
    lines = {}
    for row in rows:
        at = row["idx"]
        new = {"idx": at["paragraph"], "version": 1.1, "passage": {"text": row["paragraph"], "questions": {}}}
        questions = lines.setdefault(at["paragraph"], new)["passage"]["questions"]
        new = {"idx": at["question"], "question": row["question"], "answers": []}
        label = {"label": row["label"]} if "label" in row else {}
        answer = {"text": row["answer"], "idx": at["answer"], **label}
        questions.setdefault(at["question"], new)["answers"].append(answer)
    for line in lines.values():
        line["passage"]["questions"] = list(line["passage"]["questions"].values())
    return list(lines.values())


def write_jsonl(path, task, split):
    columns = toy_table(task.key, split).columns
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        if "label" in row:
            row["label"] = {"copa": task.labels.index, "multirc": task.labels.index}.get(task.name, lambda x: x)(
                row["label"]
            )
            row["label"] = {"True": True, "False": False}.get(row["label"], row["label"])
    text = "".join(json.dumps(line) + "\n" for line in nested(task, rows))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("form", ["{title}/{split}.jsonl", "{title}-{split}.jsonl.gz"])
@pytest.mark.parametrize("task", SUPERGLUE, ids=lambda task: task.name)
def test_superglues_official_lines(task, form, tmp_path):
    for split in toy_counts(task.key):
        name = split.replace("validation", "val") if not task.is_diagnostic or ".gz" in form else task.title
        write_jsonl(tmp_path / form.format(title=task.title, split=name), task, split)
    assert_as_toy(task, tmp_path)


def test_labels_of_test_are_never_read(tmp_path):
    """Pitfall 5: test labels of MRPC, SST-2 and STS-B are public elsewhere; a file that carries them gives none."""
    for key in ("glue/mrpc", "glue/stsb", "superglue/cb"):
        task = small(TASKS[key])
        columns = dict(toy_table(key, "test").columns)
        columns["label"] = ["would be an error if it were looked at"] * len(columns["idx"])
        pq.write_table(pa.table(columns), tmp_path / f"{task.name}-test.parquet")
        assert load_split(task, "test", str(tmp_path)).labels is None
    rows = [{"index": 0, "sentence1": "a", "sentence2": "b", "label": "1"}]
    write_tsv(tmp_path / "MRPC" / "test.tsv", "Quality:label " + TSV["mrpc"][1], rows)
    (tmp_path / "mrpc-test.parquet").unlink()
    one = dataclasses.replace(TASKS["glue/mrpc"], counts={"train": 1, "validation": 1, "test": 1})
    assert load_split(one, "test", str(tmp_path)).labels is None


def test_a_part_is_marked_and_a_wrong_count_refused(tmp_path):
    task = TASKS["glue/mnli"]
    table = pa.table({"premise": ["a"], "hypothesis": ["b"], "label": [2]})
    pq.write_table(table, tmp_path / "mnli-train_subset.parquet")
    data = load_split(task, "train", str(tmp_path))
    assert not data.is_whole and data.labels == ["contradiction"] and data.idx == [0]
    assert data.note == "1 rows of 392,702: a part of the split (mnli-train_subset.parquet)"
    (tmp_path / "mnli-train_subset.parquet").rename(tmp_path / "mnli-heldout_subset.parquet")
    assert "not the official dev set" in load_split(task, "validation_matched", str(tmp_path)).note
    assert load_split(task, "validation_mismatched", str(tmp_path), required=False) is None
    (tmp_path / "mnli-heldout_subset.parquet").rename(tmp_path / "mnli-train.parquet")
    with pytest.raises(InputError, match=r"MNLI train has 1 rows, expected 392,702: .*mnli-train_subset"):
        load_split(task, "train", str(tmp_path))
    rows = load_split(small(TASKS["glue/cola"]), "train", TOYGLUE).select([3, 1], "two of them")
    assert rows.note == "synthetic; 2 rows of 400: two of them" and rows.idx == [3, 1] and len(rows.labels) == 2


def test_qnli_v1_is_named(tmp_path):
    """Pitfall 19: version 1 has other dev rows."""
    table = pa.table({"question": ["q"] * 5732, "sentence": ["s"] * 5732, "label": [0] * 5732})
    pq.write_table(table, tmp_path / "qnli-validation.parquet")
    with pytest.raises(InputError, match=r"5,732 rows, expected 5,463 \(this is QNLI v1\)"):
        load_split(TASKS["glue/qnli"], "validation", str(tmp_path))


def test_a_missing_or_swapped_file_is_said(tmp_path):
    """Pitfall 8: the download script swaps QQP and STS-B, and may leave MRPC without dev."""
    write_tsv(tmp_path / "MRPC" / "train.tsv", TSV["mrpc"][0], [{"sentence1": "a", "sentence2": "b", "label": 1}])
    with pytest.raises(InputError, match=r"no validation split of MRPC in .*; found mrpc/train.tsv; .*no MRPC dev.tsv"):
        load_split(TASKS["glue/mrpc"], "validation", str(tmp_path))
    write_tsv(tmp_path / "STS-B" / "train.tsv", TSV["qqp"][0], [{"question1": "a", "question2": "b", "label": 1}])
    with pytest.raises(InputError, match=r"STS-B/train.tsv' has no column 'sentence1' but id, .*another task's file"):
        load_split(TASKS["glue/stsb"], "train", str(tmp_path))
    with pytest.raises(InputError, match=r"no train split of CoLA in .*; found mrpc/train.tsv, sts-b/train.tsv"):
        load_split(TASKS["glue/cola"], "train", str(tmp_path))
    with pytest.raises(
        InputError, match=r"found mrpc/train.tsv, sts-b/train.tsv; this is the data of glue: hfssl glue"
    ):
        load_split(TASKS["superglue/cb"], "train", str(tmp_path))
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x")
    with pytest.raises(InputError, match=r"found 0.txt, .*, mrpc/train.tsv and 1 more$"):
        load_split(TASKS["glue/cola"], "train", str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        load_split(TASKS["glue/cola"], "train", str(tmp_path / "no"))
    with pytest.raises(InputError, match="no split 'dev'"):
        load_split(TASKS["glue/cola"], "dev", str(tmp_path))
    (tmp_path / "all" / "Glue" / "CoLA").mkdir(parents=True)
    (tmp_path / "all" / "Glue" / "CoLA" / "train.tsv").touch()
    with pytest.raises(InputError, match=rf"it lies in '{tmp_path}/all/Glue': name that folder"):
        load_split(TASKS["glue/cola"], "train", str(tmp_path))
    assert "test" not in load_task(small(TASKS["glue/sst2"]), TOYGLUE, ["train"])


@pytest.mark.parametrize(
    ("key", "row", "says"),
    [
        ("glue/rte", {"sentence1": "a", "sentence2": "b", "label": "entails"}, "train.tsv:2: 'entails' is no label"),
        ("glue/stsb", {"sentence1": "a", "sentence2": "b", "label": "5.5"}, "train.tsv:2: the similarity is '5.5'"),
        ("glue/stsb", {"sentence1": "a", "sentence2": "b", "label": "nan"}, "the similarity is 'nan'"),
    ],
)  # fmt: skip
def test_an_unknown_label_names_its_row_and_value(key, row, says, tmp_path):
    task = TASKS[key]
    write_tsv(tmp_path / task.title / "train.tsv", TSV[task.name][0], [row])
    with pytest.raises(InputError, match=says):
        load_split(task, "train", str(tmp_path))


@pytest.mark.parametrize(
    ("title", "line", "says"),
    [
        ("MultiRC", '{"idx": 0, "version": 1.0, "passage": {"text": "t", "questions": []}}', "version 1.0; .* 1.1"),
        ("MultiRC", '{"idx": 0, "passage": {"text": "t"}}', "not a line of MultiRC"),
        ("CB", '{"premise": "p", "hypothesis": "h", "idx": 0}', "train.jsonl:1: no 'label'"),
        ("CB", '{"premise": "p", "hypothesis": "h", "label": true, "idx": 0}', "train.jsonl:1: True is no label of CB"),
        ("WiC", '{"word": "w", "sentence1": "s", "sentence2": "t", "start1": 0, "end1": 9, "start2": 0, "end2": 1, '
         '"label": true, "idx": 0}', "at 0:9 lies outside"),
        ("WiC", '{"word": "w", "sentence1": "s", "sentence2": "t", "start1": "0", "end1": 1, "start2": 0, "end2": 1, '
         '"label": true, "idx": 0}', "train.jsonl:1: 'start1' is '0', no place in a text"),
        ("COPA", '{"premise": "p", "choice1": "a", "choice2": "b", "question": "why", "label": 0, "idx": 0}',
         "train.jsonl:1: 'question' is 'why', none of cause, effect"),
        ("WSC", '{"text": "  ", "target": {"span1_index": 0, "span1_text": "a", "span2_index": 0, "span2_text": "b"}, '
         '"label": true, "idx": 0}', "train.jsonl:1: 'text' is '  ', without a word"),
        ("CB", "[1]", "train.jsonl:1: a JSON list"),
        ("CB", '{"premise": ' + "9" * 5000 + "}", "train.jsonl:1: no JSON"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(title, line, says, tmp_path):
    """Pitfall 15 asks for MultiRC's version 1.1."""
    (tmp_path / title).mkdir()
    (tmp_path / title / "train.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=says):
        load_split(TASKS[f"superglue/{title.lower()}"], "train", str(tmp_path))


def test_what_belongs_together_must_be_there(tmp_path):
    """MultiRC without its numbers cannot be judged by questions; AX-g without pairs has no parity."""
    table = pa.table({"paragraph": ["p"], "question": ["q"], "answer": ["a"], "label": [1]})
    (tmp_path / "multirc").mkdir()
    pq.write_table(table, tmp_path / "multirc" / "train_subset.parquet")
    with pytest.raises(InputError, match="has no column 'idx'"):
        load_split(TASKS["superglue/multirc"], "train", str(tmp_path))
    rows = [
        {"premise": "p", "hypothesis": h, "label": "entailment", "idx": i, "pair_id": i // 2}
        for i, h in enumerate("aab")
    ]
    (tmp_path / "AX-g").mkdir()
    (tmp_path / "AX-g" / "AX-g_sample.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"jsonl:3: no pair with the row after it"):
        load_split(TASKS["superglue/axg"], "test", str(tmp_path))


def test_test_rows_that_the_server_does_not_have_are_refused(tmp_path):
    task = small(TASKS["glue/sst2"])
    count = task.counts["test"]
    table = pa.table({"sentence": ["good"] * count, "label": [-1] * count, "idx": list(range(1, count + 1))})
    (tmp_path / "sst2").mkdir()
    pq.write_table(table, tmp_path / "sst2" / "test.parquet")
    with pytest.raises(InputError, match=rf"the idx of SST-2 test are not 0 to {count - 1}: {count}; the server goes"):
        load_split(task, "test", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "index", "words", "found"),
    [
        ("The lawyer asked the witness.", 0, "the lawyer", "The lawyer"),  # another case
        ("A tape off, the tape stuck", 4, "the tape.", "the tape"),  # a full stop of the span's own
        ("the mouse hole, waiting for the mouse , but", 6, "The mouse", "the mouse"),  # the second of two
        ("a willow\nwrestles it", 1, "willow wrestles", "willow\nwrestles"),
        ("how Kamenev, once, met him", 1, "Kamenev and Zinoviev", "Kamenev, once, met"),  # nowhere in the text
        ("so use it, but", 1, "it", "it"),  # a wrong number
    ],
)
def test_wsc_spans_that_are_no_substring(text, index, words, found):
    """Pitfall 17."""
    start, end = word_span(text, index, words)
    assert text[start:end] == found
    assert (text, start) != ("the mouse hole, waiting for the mouse , but", 0)


def test_records_highlights_are_joined():
    """Pitfall 16."""
    assert joined_highlights("A draw\n@highlight\nHe won .\n@highlight\nShe left!") == "A draw. He won . She left!"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`datasets.load_dataset` reads a local copy of the repositories; what was asked for is recorded."""
    asked, load = [], datasets.load_dataset

    def local(name, config, split, streaming, **where):
        asked.append((name, config, split, dict(where)))
        where.pop("revision", None)
        return load(str(tmp_path / name), config, split=split, cache_dir=str(tmp_path / "cache"), **where)

    monkeypatch.setattr(datasets, "load_dataset", local)
    return tmp_path, asked


def test_superglue_comes_from_the_hubs_conversion(hub):
    """Pitfall 18: the data set's own form is a loading script, which datasets refuses to run."""
    folder, asked = hub
    task = small(TASKS["superglue/axb"])
    columns = dict(toy_table(task.key, "test").columns)
    columns["label"] = [task.labels.index(label) for label in columns["label"]]
    features = datasets.Features({name: datasets.Value("string") for name in ("sentence1", "sentence2", "logic")})
    features |= {"idx": datasets.Value("int32"), "label": datasets.ClassLabel(names=list(task.labels))}
    path = folder / "aps" / "super_glue" / "axb" / "test" / "0000.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_dict(columns, features).to_parquet(path)
    data = load_split(task, "test")
    assert data.labels == load_split(task, "test", TOYGLUE).labels and data.idx == list(range(100))
    assert asked == [("aps/super_glue", None, "test", {"data_dir": "axb", "revision": "refs/convert/parquet"})]


def test_the_hub_offline_is_one_line():
    with pytest.raises(InputError, match=r"reach the Hub for dataset 'nyu-mll/glue'.*--data_dir FOLDER or .*:toyglue"):
        load_split(TASKS["glue/cola"], "train")


def test_ax_by_phenomenon_from_the_tagged_file(tmp_path):
    """Pitfall 20: the Hub's AX has no labels; the tagged file, where the user has it, gives R3 by phenomenon."""
    header = ["Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge", "Domain", "Premise",
              "Hypothesis", "Label"]  # fmt: skip
    labels = ("entailment", "neutral", "contradiction")
    rows = [["Lexical entailment;Quantifiers" if i % 2 else "", "", "Negation", "", "News", f"p{i}", "h", labels[i % 3]]
            for i in range(1104)]  # fmt: skip
    path = tmp_path / "diagnostic-full.tsv"
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    data, tags = load_diagnostic(path)
    assert tags[1]["Lexical Semantics"] == ("Lexical entailment", "Quantifiers") and set(tags[0]) == set(CATEGORIES)
    predictions = [label if row % 2 else "neutral" for row, label in enumerate(data.labels)]
    table = {(row["category"], row["tag"]): row for row in scores_by_tag(data, tags, predictions)}
    assert table["Lexical Semantics", "Quantifiers"] == {
        "category": "Lexical Semantics", "tag": "Quantifiers", "rows": 552, "score": 1.0,
    }  # fmt: skip
    assert table["Logic", "any"]["rows"] == 1104 and 0 < table["Logic", "any"]["score"] < 1
    path.write_text("\n".join("\t".join(row) for row in [header, *rows[:-1]]) + "\n")
    with pytest.raises(InputError, match="1,103 rows, expected 1,104"):
        load_diagnostic(path)
