"""The leaderboard's page in headless Chromium: sorts, filters, prints, and runs nothing that a result says.

Screenshots are kept under out/browser.
"""

import base64
import re
from pathlib import Path

import pytest

from hfssl.evaluation.leaderboard_page import write_site
from hfssl.evaluation.results import write_result
from tests.evaluation.test_leaderboard import a_result
from tests.evaluation.test_leaderboard_page import a_probe, a_study, written

pytestmark = pytest.mark.browser
SHOTS = Path(__file__).resolve().parents[2] / "out" / "browser"
HOSTILE = '<script>document.title="owned"</script>'
QUOTED = "'\"><img src=x onerror='document.title=\"owned\"'>"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("results"), probe=a_probe(), objectives=a_study())
    for number, result in enumerate([a_result(85, HOSTILE), a_result(70, QUOTED), a_result(60, "me/small", "superglue"),
                                     a_result(99, "toy", synthetic=True)]):  # fmt: skip
        write_result(result, folder / f"{number}.json")
    write_site([folder], folder / "site")
    return (folder / "site" / "index.html").as_uri()


@pytest.fixture
def page(browser, site):
    """The page, opened anew on a wide screen with light colours."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    colours(browser, "light")
    browser.get(site)
    yield browser
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def colours(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def keep(browser, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(SHOTS / f"{name}.png"))


def find(browser, selector):
    return browser.find_element("css selector", selector)


def shown(browser, section="glue-dev"):
    """The names of a table's rows that can be seen, from above."""
    rows = browser.find_elements("css selector", f"#{section} tbody tr")
    return [row.find_element("tag name", "bdi").text for row in rows if row.is_displayed()]


def heading(browser, label, section="glue-dev"):
    return find(browser, f'#{section} th[data-label="{label}"]')


def figures(browser, label, section="glue-dev"):
    column = int(heading(browser, label, section).get_attribute("data-column")) + 1
    cells = browser.find_elements("css selector", f"#{section} tbody tr > :nth-child({column})")
    return [
        None if cell.get_attribute("data-value") is None else float(cell.get_attribute("data-value")) for cell in cells
    ]


def test_it_loads_nothing_and_runs_nothing_of_a_result(page):
    keep(page, "light")
    assert page.title == "hfssl leaderboard" and {HOSTILE, QUOTED} <= set(shown(page))
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.execute_script("return document.scripts.length + document.images.length") == 1
    refused = page.execute_async_script(
        "const done = arguments[0], script = document.createElement('script');"
        "addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));"
        "script.textContent = 'document.title = 1'; document.body.append(script);"
    )
    assert refused == "script-src-elem" and page.title == "hfssl leaderboard"
    page.get_log("browser")  # the refusal that this test provoked


def test_a_click_sorts_and_another_one_turns_it_round(page):
    before = shown(page)
    assert heading(page, "average, dev-8-roberta").get_attribute("aria-sort") == "descending"
    button = heading(page, "MRPC, F1").find_element("tag name", "button")
    button.click()
    assert heading(page, "MRPC, F1").get_attribute("aria-sort") == "descending"
    assert heading(page, "average, dev-8-roberta").get_attribute("aria-sort") is None
    values = figures(page, "MRPC, F1")
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True) and set(values[len(known) :]) == {None} and shown(page) != before
    button.click()
    values = figures(page, "MRPC, F1")
    assert values[: len(known)] == sorted(known) and set(values[len(known) :]) == {None}
    assert sorted(shown(page)) == sorted(before)
    heading(page, "Model").find_element("tag name", "button").click()
    assert heading(page, "Model").get_attribute("aria-sort") == "ascending"
    assert shown(page).index("BERT-large") < shown(page).index("ELECTRA-base") < shown(page).index("XLNet-large")
    heading(page, "training, seconds", "objectives-1").find_element("tag name", "button").click()
    assert figures(page, "training, seconds", "objectives-1") == [900, 1234.5, None]


def test_the_keyboard_reaches_the_tables_and_sorts(page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page).send_keys(*keys).perform()
        return page.switch_to.active_element

    skip = press(Keys.TAB)
    assert skip.text == "Skip to the tables" and skip.rect["y"] >= 0
    press(Keys.ENTER)
    scroller = press(Keys.TAB)
    assert scroller.get_attribute("class") == "scroll" and scroller.value_of_css_property("outline-style") == "solid"
    press(Keys.TAB)
    button = press(Keys.TAB)
    assert button.accessible_name == "average, dev-8-roberta"
    assert button.value_of_css_property("outline-style") == "solid"
    button = press(Keys.ENTER)
    assert heading(page, "average, dev-8-roberta").get_attribute("aria-sort") == "ascending"
    press(Keys.SPACE)
    values = figures(page, "average, dev-8-roberta")
    assert values == sorted(values, reverse=True) and page.switch_to.active_element == button


def test_words_and_boxes_filter_the_rows(page):
    every = shown(page)
    query = find(page, "#query")
    query.send_keys("roberta LARGE")
    assert shown(page) == ["RoBERTa-large"] and shown(page, "superglue-dev") == ["RoBERTa-large"]
    assert re.fullmatch(r"[24] of \d+ rows", find(page, "#count").text)
    assert shown(page, "probe-1") == [] and find(page, "#probe-1 .none").is_displayed()
    query.send_keys("\ue00c")  # Escape
    assert shown(page) == every and not find(page, "#probe-1 .none").is_displayed()
    find(page, "#published").click()
    assert shown(page) == [HOSTILE, QUOTED] and shown(page, "probe-1") == ["me/simclr", "raw pixels"]
    find(page, "#published").click()
    find(page, "#ours").click()
    assert shown(page) == [name for name in every if name not in (HOSTILE, QUOTED)]


def test_a_phone_scrolls_the_table_and_not_the_page(page):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    keep(page, "phone")
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(width) == [390, 390]
    table = find(page, "#glue-dev .scroll")
    page.execute_script("arguments[0].scrollIntoView()", table)
    assert page.execute_script("const t = arguments[0]; t.scrollLeft = 300; return t.scrollLeft", table) == 300
    name = find(page, "#glue-dev tbody th")
    assert name.rect["width"] < 190 and page.execute_script("return arguments[0].getBoundingClientRect().x", name) == 0
    keep(page, "phone-table")
    for details in page.find_elements("css selector", "summary"):
        page.execute_script("arguments[0].click()", details)
    assert page.execute_script(width) == [390, 390]


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_light_and_dark_have_enough_contrast(page):
    """WCAG 2.2, level AA: 4.5 to 1 for text of this size."""
    papers = []
    for scheme in ("light", "dark"):
        colours(page, scheme)
        keep(page, scheme)
        papers.append(find(page, "body").value_of_css_property("background-color"))
        for selector, behind in (("body", "body"), (".lead", "body"), ("nav a", "body"), (".remarks", "body"),
                                 ("thead th", "body"), ("th[aria-sort]", "body"), ("tr.own th", "tr.own th"),
                                 ("tr.own small", "tr.own th"), ("tr.own sup a, nav a", "tr.own th")):  # fmt: skip
            inks = find(page, selector).value_of_css_property("color")
            paper = find(page, behind).value_of_css_property("background-color")
            light, dark = sorted((luminance(inks), luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector)
    assert luminance(papers[0]) > 0.9 and luminance(papers[1]) < 0.1


def test_it_prints_every_table(page):
    colours(page, "dark")
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    (SHOTS / "leaderboard.pdf").write_bytes(printed)
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 4 and len(printed) > 50_000
    source = find(page, "#glue-test .sources dd")
    assert not page.execute_script("return arguments[0].checkVisibility()", source)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert luminance(find(page, "body").value_of_css_property("background-color")) == 1
    assert not find(page, "#filter").is_displayed() and not find(page, "nav").is_displayed()
    assert page.execute_script("return arguments[0].checkVisibility()", source)


def test_without_javascript_the_tables_are_there(page, site):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(site)
        assert HOSTILE in find(page, "#glue-dev tbody").text and find(page, "#superglue-test td.ranked").text == "91.3"
        assert not find(page, "#filter").is_displayed() and not page.find_elements("css selector", "th button")
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
