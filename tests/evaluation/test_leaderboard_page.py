"""The leaderboard's page as a file: every row there, nothing loaded, nothing that a result says taken for markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from huggingface_hub import RepoCard

from hfssl.errors import InputError
from hfssl.evaluation.encoders import pixel_encoder
from hfssl.evaluation.leaderboard import FOOTNOTES, boards
from hfssl.evaluation.leaderboard_page import find_tables, write_site
from hfssl.evaluation.probe_report import write_results
from hfssl.evaluation.probes import probe
from hfssl.evaluation.results import read_result, write_result
from hfssl.evaluation.score_tables import model_link
from hfssl.programs import program
from hfssl.studies.objectives_report import rows_of, write_report
from tests.evaluation.test_leaderboard import a_result
from tests.evaluation.test_probes import squares

VOID = {"meta", "link", "input", "path", "br"}
HOSTILE = '"><script>alert(1)</script>'


class Parsed(HTMLParser):
    """The elements with their texts; fails on what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "in": [*self.open], **dict(attributes)})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "in": [*self.open], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]

    def rows(self, key):
        (section,) = self.all("section", id=key)
        return [e for e in self.all("tr") if section in e["in"] and "data-kind" in e]

    def cells(self, row):
        return [e for e in self.elements if row in e["in"] and e["tag"] in ("th", "td")]


def page_of(places, folder):
    write_site(places, folder)
    return Parsed((folder / "index.html").read_text())


def a_probe(model="me/simclr", accuracy=0.5, source="builtin:digits", **more):
    def row(encoder, protocol, labels, value, layer="pooled"):
        return {
            "encoder": encoder, "test": "plain", "protocol": protocol, "labels": labels, "accuracy": value,
            "spread": 0.01, "low": value - 0.02, "high": value + 0.03, "n": 500, "seeds": 3, "layer": layer,
        }  # fmt: skip

    rows = [row("simclr", "kNN", "all", accuracy), row("simclr", "linear", "all", accuracy + 0.1)]
    rows += [row("simclr", "linear", "5 a class", accuracy - 0.1), row("simclr", "linear", "all", 0.9, "layer 0")]
    rows += [row("raw pixels", "kNN", "all", 0.2), row("raw pixels", "linear", "all", 0.3)]
    data = {"train": {"source": source, "fingerprint": "a"}, "plain": {"source": source, "fingerprint": source}}
    return {"model": model, "weights_sha256": "0", "data": data, "anchors": ["raw pixels"], "rows": rows} | more


def a_study(**more):
    rows = [
        {"arm": "simclr", "seeds": 2, "kNN, all": [50.0, 48.0, 52.0, 1.0], "linear, all": [60.0, 58.0, 62.0, 1.0],
         "train seconds": 1234.5, "memory MB": 800, "images": 9},
        {"arm": "inpainting", "seeds": 2, "kNN, all": [45.0, 43.0, 47.0, 1.0], "linear, all": [61.0, 58.0, 62.0, 1.0],
         "train seconds": 900, "memory MB": 900, "images": 9, "painting": {"psnr": [15.234, 0.5]}},
        {"arm": "raw pixels", "seeds": 1, "kNN, all": [30.0, 29.0, 31.0, 0.0], "linear, all": [31.0, 30.0, 32.0, 0.0]},
    ]  # fmt: skip
    return {"settings": {"dataset": "builtin:photos", "images_seen": 256000, "arms": ["simclr"]}, "rows": rows} | more


def written(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_every_row_of_every_board_is_there_in_its_order(tmp_path):
    results = [a_result(), a_result(80, "sg", "superglue"), a_result(75, "t", part="test"),
               a_result(99, "toy", synthetic=True)]  # fmt: skip
    for number, result in enumerate(results):
        write_result(result, tmp_path / "in" / f"{number}.json")
    page = page_of([tmp_path / "in"], tmp_path / "site")
    expected = boards([read_result(path) for path in sorted((tmp_path / "in").iterdir())])
    keys = ["glue-dev", "glue-test", "glue-synthetic", "superglue-dev", "superglue-test"]
    assert [e["id"] for e in page.all("section")] == keys
    assert [e["href"] for e in page.all("a")[1 : 1 + len(keys)]] == [f"#{key}" for key in keys]
    for key, board in zip(keys, expected, strict=True):
        rows = page.rows(key)
        assert [page.cells(row)[0]["data-value"] for row in rows] == [row.name for row in board.rows]
        assert [row["data-kind"] == "ours" for row in rows] == [row.own for row in board.rows]
        figures = [
            len(row.averages.keys() & set(board.averages)) + sum(map(len, row.scores.values())) for row in board.rows
        ]
        assert [sum("data-value" in cell for cell in page.cells(row)[1:]) for row in rows] == figures
        (section,) = page.all("section", id=key)
        assert all(FOOTNOTES[note] in section["text"] for note in board.footnotes())
        assert all(row.source in section["text"] for row in board.rows)
    own = next(row for row in page.rows("glue-dev") if row["data-kind"] == "ours")
    assert "80.0–90.0" in own["text"] and any(own in e["in"] for e in page.all("svg"))


def test_headings_name_their_columns_and_say_what_is_sorted(tmp_path):
    page = page_of([], tmp_path / "site")
    (table,) = [e for e in page.all("table") if e["aria-labelledby"] == "glue-dev-title"]
    headings = [e for e in page.all("th") if table in e["in"] and "data-column" in e]
    assert [int(e["data-column"]) for e in headings] == [*range(len(headings))]
    assert len(headings) == len(page.cells(page.rows("glue-dev")[0]))
    assert [e["data-label"] for e in headings if "aria-sort" in e] == ["average, dev-8-roberta"]
    groups = [int(e["colspan"]) for e in page.all("th", scope="colgroup") if table in e["in"]]
    assert sum(groups) == len(headings) - 1 and page.all("th", **{"data-label": "MRPC, F1"})


def test_nothing_is_loaded_and_the_policy_allows_one_script(tmp_path):
    write_site([], tmp_path / "site")
    text = (tmp_path / "site" / "index.html").read_text()
    page = Parsed(text)
    (meta,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert meta["content"].startswith("default-src 'none'; ") and "unsafe" not in meta["content"]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in meta["content"] and "http" not in content
    assert all(e["tag"] == "a" or e.get("href", "data:").startswith("data:") for e in page.elements)
    assert not any(e.get("src") or e.get("style") or any(k.startswith("on") for k in e) for e in page.elements)
    assert any(e["href"].startswith("https://arxiv.org/abs/") for e in page.all("a"))
    assert all(e["href"].startswith(("#", "https://", "http://")) for e in page.all("a"))


def test_what_results_say_is_text(tmp_path):
    names = [HOSTILE, "'single' & \"double\" &lt;", "javascript:alert(1)", "a\u202eb\x00\ud800"]
    for number, name in enumerate(names):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_result(a_result(name="x"), path := tmp_path / "in" / f"{number}.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": name}))
    written(tmp_path / "in", probe=a_probe(HOSTILE, source=HOSTILE), study=a_study(
        settings={"dataset": HOSTILE, "images_seen": 1, "arms": []},
        rows=[{"arm": HOSTILE, "seeds": 1, f"{HOSTILE}, all": [1, 1, 1, 0], "painting": {HOSTILE: [1, 0]}}],
    ))  # fmt: skip
    page = page_of([tmp_path / "in"], tmp_path / "site")
    shown = [row["data-value"] for row in page.all("th", scope="row") if "data-value" in row]
    assert (
        all(name in shown for name in names[:3])
        and "a\N{REPLACEMENT CHARACTER}b" + 2 * "\N{REPLACEMENT CHARACTER}" in shown
    )
    assert len(page.all("script")) == 1 and not page.all("a", href=names[2])
    assert sum(HOSTILE in e["text"] for e in page.all("bdi")) >= 3


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("me/bert-small", "https://huggingface.co/me/bert-small"),
        ("https://example.org/model", "https://example.org/model"),
        ("http://example.org/a?b=1", "http://example.org/a?b=1"),
        ("bert", ""),
        ("out/bert", ""),
        ("/data/bert", ""),
        ("./a/b", ""),
        ("a/../b", ""),
        ("a/..", ""),
        ("hfssl/nothing", ""),  # hfssl is a folder here
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("ftp://example.org/x", ""),
        ("https://", ""),
        ("https://me:secret@example.org/x", ""),
        ("https://example.org/a b", ""),
        ('https://example.org/"x', ""),
        ("https://[", ""),
    ],
)
def test_a_model_links_to_where_its_name_says_it_is(name, link, monkeypatch):
    monkeypatch.chdir(__file__.rpartition("/tests/")[0])
    assert model_link(name) == link


def test_probes_of_the_same_images_are_one_table(tmp_path):
    folder = written(tmp_path / "in", a=a_probe(), b=a_probe("me/cpc", 0.4), c=a_probe("other", source="my/photos.zip"))
    digits, photos = [table for table in find_tables([folder]) if table.key.startswith("probe")]
    assert [line.name for line in digits.lines] == ["me/simclr", "me/cpc", "raw pixels"]
    assert [line.name for line in photos.lines] == ["other", "raw pixels"] and "photos.zip" in photos.title
    assert [(c.group, c.name) for c in digits.columns] == [
        ("all labels", "kNN"), ("all labels", "linear"), ("5 a class", "linear")
    ]  # fmt: skip
    assert digits.ranked == 1 and digits.lines[0].figures[1].value == pytest.approx(60)
    assert digits.lines[2].footnotes and not digits.lines[0].footnotes and digits.lines[2].figures[2] is None
    other = a_probe("me/cpc", 0.4)
    other["rows"][-1] |= {"accuracy": 0.31}
    written(folder, b=other)
    names = [line.name for line in find_tables([folder])[4].lines]
    assert names == ["me/simclr", "me/cpc", "raw pixels, beside me/cpc", "raw pixels, beside me/simclr"]
    text = page_of([folder], tmp_path / "site").all("section", id="probe-1")[0]["text"]
    assert "60.0" in text and "58.0–63.0" in text and "± 1.0" in text and "90.0" not in text and "ours" not in text


def test_a_study_of_objectives_and_what_it_paints(tmp_path):
    folder = written(tmp_path / "in", objectives=a_study())
    page = page_of([folder / "objectives.json"], tmp_path / "site")
    rows = [[cell["text"] for cell in page.cells(row)] for row in page.rows("objectives-1")]
    assert [row[0] for row in rows] == ["inpainting", "simclr", "raw pixels1"]
    assert rows[1][1:] == ["50.048.0–52.0", "60.058.0–62.0", "1,234", "800"] and rows[2][3:] == ["", ""]
    assert [[cell["text"] for cell in page.cells(row)] for row in page.rows("painting-1")] == [
        ["inpainting", "15.2± 0.5"]
    ]


def test_what_the_programs_write_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hfssl.evaluation.probe_report._write_figures", lambda *_: None)  # they take most of the time
    probed = probe(pixel_encoder(squares(9, 0)), squares(60, 0), squares(30, 1), seeds=1, anchors=[])
    settings = {"model": "pixels", "seeds": 1, "export_embeddings": False}
    write_results(tmp_path / "probe", probed, settings, squares(60, 0), {"test": squares(30, 1)})
    run = {"scores": {"linear, all": [0.5, 0.4, 0.6]}, "train seconds": 1.0, "images": 9, "painting": {"psnr": 15.0}}
    arguments = {"dataset": "builtin:photos", "images_seen": 9, "arms": ["inpainting"]}
    write_report(tmp_path, arguments, rows_of(["inpainting"], {"inpainting/seed 0": run, "inpainting/seed 1": run}))
    probes, study, painting = find_tables([tmp_path / "probe", tmp_path])[4:]
    assert [figure.value for figure in probes.lines[0].figures] == [100 * row.accuracy for row in probed.rows]
    assert study.lines[0].figures[0].value == 50 and not study.footnotes and painting.lines[0].figures[0].value == 15


def test_the_site_is_a_space_and_is_written_again_as_it_was(tmp_path, capsys, monkeypatch):
    from hfssl import cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["hfssl", "leaderboard", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr()

    site, own = tmp_path / "deep" / "site", len([*program("eval/results").glob("*.json")])
    code, said = run("--html", site)
    assert code == 0 and said.out == f"wrote {site / 'index.html'}: 4 tables, {own} rows of our own\n"
    assert sorted(path.name for path in site.iterdir()) == ["README.md", "index.html"]
    assert [path.name for path in site.parent.iterdir()] == ["site"] and site.stat().st_mode & 0o777 == 0o755
    card = RepoCard.load(site / "README.md").data
    assert (card.sdk, card.pinned, card.app_file) == ("static", False, "index.html")
    before = (site / "index.html").read_bytes()
    (site / ".git").mkdir()
    run(written(tmp_path / "in", a=a_probe()), "--html", site)
    assert b"me/simclr" in (site / "index.html").read_bytes() and (site / ".git").is_dir()
    run("--html", site)
    assert (site / "index.html").read_bytes() == before


def broken(record, change):
    record = json.loads(json.dumps(record))
    change(record)
    return record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"some": "json"}, "is no result of hfssl glue or superglue, hfssl probe, eval/compare_objectives.py"),
        ([1], "is no result of"),
        (broken(a_probe(), lambda r: r["rows"][0].update(accuracy=50)), "must be fractions of 1"),
        (broken(a_probe(), lambda r: r["rows"][0].update(low=float("nan"))), "must be fractions of 1"),
        (broken(a_probe(), lambda r: r["rows"][0].pop("encoder")), "row 1 lacks one of encoder"),
        (broken(a_probe(), lambda r: r["rows"][0].update(test="x")), "row 1: no images 'x' in 'data'"),
        (broken(a_probe(), lambda r: r["rows"][0].update(n="5")), "row 1 lacks n or seeds"),
        (a_probe(rows=[]), "'rows' is no list of results"),
        (a_probe(rows={"a": 1}), "'rows' is no list of results"),
        (a_probe(model=None), "'model' is no name"),
        (a_probe(data={"plain": {}}), "'data' names no images"),
        (a_probe(data={"train": {}, "plain": {}}), "the train images have no source or fingerprint"),
        (a_probe(anchors=None), "'anchors' is no list"),
        (a_study(rows=None), "'rows' is no list of arms"),
        (a_study(rows=[{"arm": "a"}]), "an arm has no name or no seeds"),
        (a_study(rows=[{"arm": "a", "seeds": 1, "kNN, all": [1, 2]}]), "'kNN, all' is neither a number nor mean, low"),
        (a_study(rows=[{"arm": "a", "seeds": 1, "painting": [1]}]), "'painting' is no object"),
        (broken(a_study(), lambda r: r["rows"][1]["painting"].update(psnr="x")), "what is not mean and deviation"),
        (a_study(rows=[{"arm": "a", "seeds": 1}]), "a has no score"),
        (a_study(settings={"images_seen": "x", "arms": []}), "'images_seen' is no number"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_result_or_is_damaged(tmp_path, content, message):
    folder = written(tmp_path / "in", one=content)
    with pytest.raises(InputError, match=re.escape(message)):
        write_site([folder / "one.json"], tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_places_that_cannot_be_read_or_written(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    for places, site, message in (
        (["nowhere"], "site", "no such file or folder: 'nowhere'"),
        ([tmp_path / "notes"], "site", "a JSON file of hfssl glue or superglue, hfssl probe, .*; it holds mine.txt"),
        ([], "notes", "notes is not empty and holds no leaderboard; give another --html"),
        ([], "notes/mine.txt", "is a file; give another --html"),
        ([], "notes/mine.txt/site", "cannot write to .*: File exists"),
    ):
        with pytest.raises(InputError, match=message):
            write_site(places, tmp_path / site)
    (tmp_path / "cut.json").write_text('{"format": ')
    with pytest.raises(InputError, match="is no JSON file"):
        write_site([tmp_path / "cut.json"], tmp_path / "site")

    def full(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr("hfssl.evaluation.leaderboard_page.write_whole", full)
    with pytest.raises(InputError, match=r"cannot write to .*: no space"):
        write_site([], tmp_path / "site")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.json", "notes"]
