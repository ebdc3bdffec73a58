"""The pages are one file, escape what they are given, and show every part."""

import base64
import re

from hfssl.evaluation.report import Page, loss_curves


def test_a_page_holds_its_parts_and_nothing_from_elsewhere(tmp_path):
    page = Page("A <b> title", "lead & more")
    page.heading("Figures")
    page.table(("name", "value"), [("<script>alert(1)</script>", 0.5), ("b", None)])
    page.figure(loss_curves({"GPT": [(1, 3.0), (2, 2.0)]}, {"GPT": (2.5, "anchor")}), "Loss")
    page.code("a < b")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<title>A &lt;b&gt; title</title>" in text and "lead &amp; more" in text
    assert "<script" not in text and "&lt;script&gt;" in text and "a &lt; b" in text
    assert re.findall(r'<td class="number">(.*?)</td>', text) == ["0.5", ""]
    assert not re.search(r'(src|href)="(?!data:)', text), "something would be fetched from elsewhere"
    image = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", text)[1])
    assert image.startswith(b"\x89PNG") and len(image) > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_one_panel_a_curve():
    figure = loss_curves({"a": [(1, 1.0)], "b": [(1, 1.0), (2, 0.5)]}, {"b": (0.7, "here")})
    first, second = figure.axes
    assert list(second.lines[0].get_ydata()) == [1.0, 0.5] and len(first.lines) == 1 and len(second.lines) == 2
