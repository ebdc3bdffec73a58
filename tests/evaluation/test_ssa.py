"""Sheets go out and come back; averages by hand, agreement against krippendorff's own numbers."""

import csv
import json

import numpy as np
import pytest

from hfssl.errors import InputError
from hfssl.evaluation.ssa import agreement, krippendorff_alpha, read_sheets, score_ssa, write_sheet

CONTEXTS = [["Hi!", "How are you?"], ["Where is the dog?"]]
REPLIES = {"greedy": ["Fine, I ran 5 km.", "=In the garden"], "sample": ["Yes", "Blue\nthen"]}


def fill(folder, name, judge):
    """A rater's copy of the sheet, each cell by `judge(system, context)`."""
    key = json.loads((folder / "key.json").read_text())
    with (folder / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["sensible"], row["specific"] = judge(key[row["item"]], row["context"])
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def test_a_sheet_hides_the_system_and_keeps_the_texts(tmp_path):
    path = write_sheet(tmp_path, CONTEXTS, REPLIES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    key = json.loads((tmp_path / "key.json").read_text())
    assert "greedy" not in path.read_text() and sorted(key.values()) == ["greedy", "greedy", "sample", "sample"]
    found = {(key[row["item"]], row["context"], row["reply"]) for row in rows}
    assert ("greedy", "Hi!\nHow are you?", "Fine, I ran 5 km.") in found
    assert ("greedy", "Where is the dog?", "'=In the garden") in found, "a spreadsheet would run it"
    assert ("sample", "Where is the dog?", "Blue\nthen") in found
    assert all(item.startswith("r") for item in key), "a spreadsheet keeps them as they are"
    with pytest.raises(InputError, match="may be filled in"):
        write_sheet(tmp_path, CONTEXTS, REPLIES)


@pytest.mark.parametrize(
    ("reply", "cell"),
    [
        ("+1", "'+1"),
        (" =A1", "' =A1"),
        ("\t=A1", "' =A1"),
        ("\r=A1\rb", "' =A1 b"),
        ("\uff1dA1", "'\uff1dA1"),
        ("a\x00\x1bb\u00a0c\nd", "a b\u00a0c\nd"),
    ],
)
def test_no_reply_is_a_formula_or_breaks_its_row(tmp_path, reply, cell):
    path = write_sheet(tmp_path, [["Hi"]], {"greedy": [reply]})
    with path.open(newline="") as file:
        assert [row["reply"] for row in csv.DictReader(file)] == [cell]


def test_averages_by_hand(tmp_path):
    write_sheet(tmp_path, CONTEXTS, REPLIES)
    key = json.loads((tmp_path / "key.json").read_text())
    paths = [
        fill(tmp_path, "a.csv", lambda system, context: ("1", "1" if system == "greedy" else "0")),
        fill(tmp_path, "b.csv", lambda system, context: ("1", "1") if "Hi" in context else ("0", "1")),
        fill(tmp_path, "c.csv", lambda system, context: ("1", "") if system == "greedy" else ("0", "")),
    ]
    found = score_ssa(key, read_sheets(paths))
    # greedy: both sensible (3 and 2 of 3), specific 2 of 3 and 1, since what is not sensible is not specific.
    assert found["systems"]["greedy"] == {"sensibleness": 100, "specificity": 50, "SSA": 75, "replies": 2}
    # sample: sensible 2 of 3 and 1 of 3; specific 1 of 3 and 0.
    assert found["systems"]["sample"] == {"sensibleness": 50, "specificity": 0, "SSA": 25, "replies": 2}
    assert found["sensible"]["agreement"] == pytest.approx((3 + 1 + 1 + 1) / 12)


def test_alpha_and_agreement_against_the_package():
    """krippendorff 0.9.0: alpha(reliability_data=..., level_of_measurement="nominal")."""
    nan = np.nan
    ratings = np.array([[1, 1, 0, 0, 1, nan, 0, 1], [1, 0, 0, 0, 1, 1, 0, nan], [1, 1, 0, 1, 1, 1, nan, 1]])
    assert krippendorff_alpha(ratings) == pytest.approx(0.6153846153846154, abs=1e-12)
    # Pairs: 3 and 3 agree of 3 in items 1, 3, 5; 1 of 3 in 2 and 4; one pair each, agreeing, in 6, 7 and 8.
    assert agreement(ratings) == pytest.approx((9 + 2 + 3) / 18)


def test_alpha_at_its_ends():
    assert krippendorff_alpha(np.array([[1, 0, 1], [1, 0, 1]])) == 1
    rng = np.random.default_rng(0)
    assert abs(krippendorff_alpha(rng.integers(0, 2, (5, 4000)).astype(float))) < 0.02
    assert np.isnan(krippendorff_alpha(np.array([[1.0, 1.0], [1.0, 1.0]]))), "nothing to disagree about"
    assert np.isnan(krippendorff_alpha(np.array([[1.0, np.nan]]))) and np.isnan(agreement(np.array([[1.0, np.nan]])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item,sensible\n1,1\n", "is no sheet"),
        ("item,sensible,specific\nabc,2,\n", "row 1 .item abc.: '2' is neither 1, 0 nor empty"),
        ("item,sensible,specific\nabc,1,\nabc,0,\n", "row 2: item abc stands in the sheet twice"),
        (None, "cannot read"),
    ],
)
def test_sheets_that_are_none(tmp_path, content, message):
    if content:
        (tmp_path / "sheet.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_sheets([tmp_path / "sheet.csv"])


def test_a_sheet_of_another_key_and_an_empty_one():
    with pytest.raises(InputError, match="item x is not of this"):
        score_ssa({"y": "greedy"}, [{"x": (True, True)}])
    with pytest.raises(InputError, match="nothing is rated"):
        score_ssa({"y": "greedy"}, [{"y": (None, None)}])
