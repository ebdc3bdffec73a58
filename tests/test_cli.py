import json
import os
import subprocess
import sys

import pytest

import hfssl
from hfssl import programs
from hfssl.cli import app
from hfssl.errors import InputError

COMMANDS = app.registered_commands

RECIPES = "bert, cbow, colorization, conditional, context_encoder, cotraining, cpc, gpt, hashing, simclr, tagger"


def test_help_imports_nothing_heavy(run_command):
    """What costs seconds is imported inside the verb: no torch, transformers or datasets for `hfssl --help`."""
    code = (
        "import sys; sys.argv = ['hfssl', '--help']\n"
        "from hfssl.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'timm', 'sklearn', 'numpy', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = run_command(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    for verb in (
        "demo",
        "pretrain",
        "tokenizer",
        "export",
        "generate",
        "translate",
        "complete",
        "chat",
        "probe",
        "information",
        "verify-claim",
        "validate-submission",
        "leaderboard",
        "ls",
        "env",
    ):
        assert verb in done.stdout


def test_version_and_env_and_ls(run_command, hfssl_command):
    assert run_command(hfssl_command, "--version").stdout == f"hfssl {hfssl.__version__}\n"
    env = run_command(hfssl_command, "env", env={"HF_TOKEN": "hf_secret_token"})
    assert env.returncode == 0 and "torch" in env.stdout and "hf_secret" not in env.stdout
    listed = run_command(hfssl_command, "ls").stdout
    for word in (
        "simclr",
        "gpt",
        "bert",
        "builtin:prose",
        "builtin:digits",
        "builtin:photos",
        "builtin:toyglue",
        "builtin:toypairs/dialogue",
        "recipes/smoke/gpt.yaml",
        "GPT: left-to-right language modelling",
        "probe",
        "compare_objectives.py",
    ):
        assert word in listed
    data = listed.partition("builtin data\n")[2].splitlines()
    column = data[-1].index("questions about a scene")
    assert all(line[column - 1] == " " != line[column] for line in data), "one column of names, one of texts"
    tasks = listed.partition("tasks (hfssl NAME MODEL, or python eval/FILE --model MODEL)\n")[2].partition("studies")[0]
    names = {line.split()[0] for line in tasks.splitlines()}
    verbs = {name for name in names if not name.endswith(".py")}
    assert {"probe", "words"} <= verbs <= {command.name or command.callback.__name__ for command in COMMANDS}
    assert "run_translation.py" in names and all(programs.program(f"eval/{name}").is_file() for name in names - verbs)


def test_a_reader_that_leaves_is_no_error(hfssl_command):
    """As `hfssl ls | true`: what is still in the buffer is not written at the interpreter's end either."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([hfssl_command, "ls"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrane"], "No such command 'pretrane'"),
        (
            ["pretrain"],
            f"which recipe? one of {RECIPES}",
        ),
        (["pretrain", "gtp"], f"unknown recipe 'gtp': one of {RECIPES}; did you mean 'gpt'?"),
        (["pretrain", "--cpu", "--num_processes", "2", "gpt"], "--multi_gpu --num_processes N"),
        (["pretrain", "--num_processes", "2", "gpt", "--use_cpu"], "--multi_gpu --num_processes N"),
        (["generate", "./nowhere", "--prompt", "x"], "no such folder"),
        (["generate", "recipes/nowhere", "--prompt", "x"], "no such folder: recipes/nowhere"),
        (["colorize", "recipes/nowhere", "README.md"], "README.md' is no image"),
        (["pretrain", "gpt"], "where is the run to be written? Give --output_dir"),
        (["demo", "--out", "README.md"], "README.md is a file; give another --out"),
        (["demo", "--out", "hfssl"], "hfssl is not empty and holds no demo"),
        (["validate-submission", "README.md"], "README.md is not a zip file"),
        (["leaderboard", "recipes"], "no result in 'recipes'"),
        (
            ["leaderboard", "recipes", "--html", "out/none"],
            "no result in 'recipes': a JSON file of hfssl glue or superglue",
        ),
        (["leaderboard", "--html", "hfssl"], "hfssl is not empty and holds no leaderboard; give another --html"),
        (["export", "./nowhere", "--out", "out/none"], "no model directory './nowhere'"),
        (["export", "./nowhere", "--format", "onnx", "--out", "out/none"], "unknown format 'onnx': one of timm"),
        (["information", "--grid", "tiny"], "unknown grid 'tiny': one of small, full, staircase, channel, gaussian128"),
        (["codes", "./nowhere"], "give either --dataset, or --train_file and --test_file"),
        (["hashes", "./nowhere", "--labelled_path", "nowhere"], "no such file: 'nowhere'"),
        (["tags", "./nowhere", "--tagged_path", "nowhere"], "no such file or folder: 'nowhere'"),
        (["words", "./nowhere.vec", "--neighbours", "king"], "no model or file './nowhere.vec'"),
        (["export", "./nowhere", "--format", "word2vec", "--out", "out/none"], "no model or file './nowhere'"),
        (["codes", "./nowhere", "--dataset", "builtin:digits"], "no model directory './nowhere'"),
        (["probe", "./nowhere"], "give either --dataset, or --train_file and --test_file"),
        (["tokenizer", "train", "--vocab_size", "100", "--output_dir", "out/none"], "vocab"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run_command, hfssl_command, arguments, message):
    done = run_command(hfssl_command, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr


def test_information_from_the_command_to_the_figure(run_command, hfssl_command, tmp_path):
    done = run_command(
        hfssl_command, "information", "--grid", "channel", "--methods", "infonce", "doe", "--steps", "5", "--samples",
        "200", "--candidates", "4", "--out", tmp_path / "mi",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "truth" in done.stdout and "ln N" in done.stdout and "infonce" in done.stdout
    names = {"information.csv", "information.json", "information.png"}
    assert names <= {path.name for path in (tmp_path / "mi").iterdir()}


def test_programs_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    assert programs.recipe("gpt") == programs.programs_root() / "recipes" / "pretrain_gpt.py"
    carried = tmp_path / "_programs" / "recipes"
    carried.mkdir(parents=True)
    (carried / "pretrain_new.py").touch()
    monkeypatch.setattr(programs, "_PACKAGE", tmp_path)
    assert list(programs.recipes()) == ["new"]
    assert programs.recipe("new") == carried / "pretrain_new.py"
    with pytest.raises(InputError, match="unknown recipe"):
        programs.recipe("gpt")


def test_pretrain_and_accelerate_launch_are_the_same(run_command, hfssl_command, accelerate_command, tmp_path):
    """The same losses through both, with a launch flag before and a recipe flag after."""
    recipe = ["--config", "recipes/smoke/gpt.yaml", "--max_steps", "4", "--learning_rate", "3e-4", "--use_cpu"]
    recipe += ["--model.n_layer", "1", "--eval_fraction", "0.01"]
    ours = [hfssl_command, "pretrain", "--num_processes", "1", "gpt", *recipe, "--output_dir", tmp_path / "ours"]
    theirs = [accelerate_command, "launch", "--num_processes", "1", "recipes/pretrain_gpt.py", *recipe]
    for command in (ours, [*theirs, "--output_dir", tmp_path / "theirs"]):
        done = run_command(*command)
        assert done.returncode == 0, done.stderr[-2000:]

    def losses(folder):
        history = json.loads((tmp_path / folder / "log_history.json").read_text())
        return [entry["loss"] for entry in history if "loss" in entry]

    assert losses("ours") == losses("theirs") and len(losses("ours")) >= 1
    assert all(entry["learning_rate"] <= 3e-4 for entry in json.loads((tmp_path / "ours/log_history.json").read_text())
               if "learning_rate" in entry)  # fmt: skip
    said = run_command(hfssl_command, "generate", tmp_path / "ours", "--prompt", "The", "--max_new_tokens", "5")
    assert said.returncode == 0 and said.stdout.startswith("The")


def test_a_recipes_bad_input_reaches_the_shell_as_code_2(run_command, hfssl_command, tmp_path):
    done = run_command(
        hfssl_command, "pretrain", "gpt", "--config", "recipes/smoke/gpt.yaml", "--block_size", "4096", "--output_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: block_size 4096 is over the model's 128 positions" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
