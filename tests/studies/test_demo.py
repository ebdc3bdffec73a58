"""The demo from its first word to its last, with each training cut to a few steps."""

import json
import re
import signal

import pytest

from hfssl.errors import InputError
from hfssl.studies import demo
from hfssl.training import callbacks


@pytest.fixture
def few_steps(monkeypatch):
    """Runs each recipe for a few steps."""
    real = demo._main_of

    def cut(path):
        more = ["--max_steps", "3"] if path.stem.startswith("pretrain") else []
        return lambda argv: real(path)([*argv, *more])

    monkeypatch.setattr(demo, "_main_of", cut)


def test_interrupted_resumed_and_done(tmp_path, few_steps, capsys, caplog):
    out = tmp_path / "demo"

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 1 and args.output_dir.endswith("bert"):
            signal.raise_signal(signal.SIGINT)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr(callbacks.StopOnSignal, "on_step_begin", interrupt)
        demo.run_demo(str(out))
    assert left.value.code == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert "Stopped by SIGINT after step" in said and "the same command goes on" in said
    assert (out / "gpt" / "model.safetensors").exists() and list((out / "bert").glob("checkpoint-2"))

    demo.run_demo(str(out))
    shown = capsys.readouterr().out
    assert not [record for record in caplog.records if record.name.startswith("transformers")], (
        "nothing to wonder about"
    )
    scores = json.loads((out / "scores.json").read_text())
    assert {row["model"] for row in scores["rows"]} == {"gpt", "bert", "simclr"}
    assert all(re.match(r"\d\.\d{3}", row["ours"]) and row["anchors"] for row in scores["rows"])
    assert scores["reloaded"] == dict.fromkeys(("gpt", "bert", "simclr"), "equal, bit for bit")
    for figure in ("5 a class", "shifted and rotated"):
        assert any(figure in row["figure"] for row in scores["rows"]), figure
    page = (out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page), "something would be fetched from elsewhere"
    assert page.count("data:image/png") == 2 and all(row["ours"] in page for row in scores["rows"])
    assert "bit for bit" in shown and "hfssl generate" in shown and "report.html" in shown
    for name in demo.MODELS:
        assert "raw pixels" in (out / name / "README.md").read_text() or name != "simclr"

    demo.run_demo(str(out))
    assert "done already" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds no demo"):
        demo.run_demo(str(tmp_path / "demo"))
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["thesis.tex"]
