"""What README.md and docs/ tell a reader to type: each command parses, and is run by a test or says what it needs."""

import re
import subprocess
import sys

import pytest
import torch
from torchvision.transforms.functional import to_pil_image
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from hfssl import cli
from hfssl.data.images import load_images
from hfssl.data.layout import Layout
from hfssl.models import METHODS, CBOWConfig, CBOWForPreTraining
from hfssl.tokenization import load_tokenizer
from tests.conftest import ROOT, TINY_RESNET
from tests.documented_commands import (
    MARKS,
    Command,
    Misprint,
    check,
    check_snippet,
    commands,
    included,
    inline,
    pages,
    snippets,
    split,
)

PAGES, INCLUDED = pages(), included()
VISION = {  # method: folder
    "simclr": "simclr", "cpc": "cpc", "cotraining": "cotraining", "colorization": "color", "context_encoder": "paint",
}  # fmt: skip
# Run below, in this order, in a folder where out/gpt, out/bert and those of VISION are small models.
RUN = [
    "hfssl --version",
    "hfssl env",
    "hfssl ls",
    "hfssl tokenizer train --text_path builtin:prose --vocab_size 4096 --output_dir out/bpe",
    "hfssl generate out/gpt --prompt 'The function returns' --tries 3",
    "hfssl generate out/gpt --prompt 'The committee said' --tries 10",
    "hfssl translate out/mt 'a man in a hat'",
    "hfssl complete out/comet 'PersonX buys a hat' xIntent",
    "hfssl colorize out/color photo.jpg",
    "hfssl inpaint out/paint photo.jpg --mask center",
    "hfssl inpaint out/paint photo.jpg --mask mask.png",
    "hfssl export out/simclr --format timm --out out/simclr-timm",
    "hfssl push out/simclr USER/simclr --dry-run",
    "hfssl leaderboard",
    "hfssl leaderboard --html out/site",
]
# Run by other tests, with the same program and these flags, on as little data. By the beginning of the command.
ELSEWHERE = {
    "hfssl pretrain gpt --config recipes/smoke/gpt.yaml --output_dir": "tests/test_recipes.py::test_smoke_text",
    "hfssl pretrain gpt --config recipes/smoke/llama.yaml --output_dir": "tests/test_recipes.py::test_smoke_text",
    "hfssl pretrain bert --config recipes/smoke/bert.yaml --output_dir": "tests/test_recipes.py::test_smoke_text",
    "hfssl pretrain simclr --config recipes/smoke/": "tests/test_recipes.py::test_smoke_simclr_and_probe",
    "hfssl pretrain cpc --config recipes/smoke/": "tests/test_recipes.py::test_smoke_cpc",
    "hfssl pretrain cotraining --config recipes/smoke/": (
        "tests/test_recipes.py::test_smoke_cotraining_and_what_its_codes_are_worth"
    ),
    "hfssl pretrain conditional --config recipes/smoke/": "tests/test_recipes.py::test_smoke_conditional",
    "hfssl pretrain cbow --config recipes/smoke/": "tests/test_recipes.py::test_smoke_cbow",
    "hfssl codes out/cotraining --dataset builtin:digits": (
        "tests/test_recipes.py::test_smoke_cotraining_and_what_its_codes_are_worth"
    ),
    "hfssl pretrain colorization --config recipes/smoke/": "tests/test_recipes.py::test_smoke_painters",
    "hfssl pretrain context_encoder --config recipes/smoke/": "tests/test_recipes.py::test_smoke_painters",
    "hfssl pretrain gpt --config recipes/smoke/gpt.yaml --corpus": (
        "tests/data/test_corpus.py::test_a_prepared_corpus_equals_the_recipe_s_own"
    ),
    "python tokenizers_train/tokenize_text.py --text_path builtin:prose --tokenizer": (
        "tests/data/test_corpus.py::test_a_prepared_corpus_equals_the_recipe_s_own"
    ),
    "hfssl perplexity out/gpt": (
        "tests/evaluation/test_run_perplexity.py::test_a_causal_model_has_the_stock_model_s_loss"
    ),
    "hfssl probe out/simclr --dataset builtin:digits": "tests/test_recipes.py::test_smoke_simclr_and_probe",
    "hfssl translate out/mt --file test.en --out test.de": (
        "tests/generation/test_translate_and_complete.py::test_the_verb_translate"
    ),
    "hfssl chat out/chat": "tests/generation/test_chat.py::test_through_a_pipe",
    "hfssl validate-submission out/toy/submission.zip": "tests/evaluation/test_submission.py::test_the_command",
    "make check": ".ci/run::make check",
    "make docs": ".ci/run::make docs",
    "make test": ".ci/run::make test",
}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def identify(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PAGES, *INCLUDED], ids=identify)
def test_every_command_parses(path):
    for command in [*commands(path), *inline(path)]:
        # READMEs of the programs are the pages' appendix: what needs the network is not marked there.
        check(command if path in PAGES else Command(command.where, command.words, "needs the network"))


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(path):
    for command in commands(path):
        is_ours = command.words[0] in ("hfssl", "python", "accelerate", "make")
        is_run = str(command) in RUN or any(str(command).startswith(beginning) for beginning in ELSEWHERE)
        assert not is_ours or command.mark or is_run or command.is_to_be_filled_in, (
            f"{command.where}: {command}: no test runs it; mark it by one of: {', '.join(MARKS)}"
        )


def test_what_is_said_to_be_run_is_documented_and_its_test_is_there():
    documented = [str(command) for path in PAGES for command in [*commands(path), *inline(path)]]
    assert set(RUN) <= set(documented)
    for beginning, place in ELSEWHERE.items():
        assert any(line.startswith(beginning) for line in documented), beginning
        file, _, name = place.partition("::")
        assert re.search(rf"^(def )?{re.escape(name)}\b", (ROOT / file).read_text(), re.M), place


@pytest.fixture
def first_hour(tmp_path, monkeypatch):
    """A folder in which small models stand where those of the first hour would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    for name, folder in VISION.items():
        METHODS[name].for_pretraining(METHODS[name].config(**TINY_RESNET)).save_pretrained(tmp_path / "out" / folder)
    CBOWForPreTraining(CBOWConfig(vocab_size=5, hidden_size=4)).save_pretrained(tmp_path / "out" / "cbow")
    photo = load_images("builtin:photos")[0]["image"]
    to_pil_image(photo).save("photo.jpg")
    mask = torch.zeros(1, *photo.shape[1:])
    mask[:, 5:9, 5:9] = 1
    to_pil_image(mask).save("mask.png")
    return tmp_path / "out"


CONDITIONAL = {
    "mt": Layout("translation"),
    "comet": Layout("commonsense", " {head}{relation}", " {tail}", "", {"relation": ["<xIntent>"]}),
}


def save_text_models(folder):
    """out/gpt, out/bert and those of CONDITIONAL, with the tokenizer in out/bpe."""
    tokenizer = load_tokenizer(str(folder / "bpe"))
    vocabulary = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    small = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 16, "intermediate_size": 16}
    for name, model in (
        ("gpt", GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=16, n_positions=128, **vocabulary))),
        ("bert", BertForMaskedLM(BertConfig(**small, **vocabulary))),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    gpt = GPT2LMHeadModel.from_pretrained(folder / "gpt")
    for name, layout in CONDITIONAL.items():
        layout.add_tokens(tokenizer)
        gpt.resize_token_embeddings(len(tokenizer))
        gpt.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        layout.save(folder / name)


def test_cheap_commands_and_loading_snippets_run(first_hour, monkeypatch, capsys):
    said = {}
    for line in RUN:
        words = next(iter(split(line, "RUN"))).words
        monkeypatch.setattr(sys, "argv", list(words))
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, f"{line}: {capsys.readouterr().err}"
        said[line] = capsys.readouterr().out
        if "tokenizer train" in line:
            save_text_models(first_hour)
    tries = said["hfssl generate out/gpt --prompt 'The function returns' --tries 3"]
    assert tries.count("The function returns") == 4  # the three, and the chosen one again
    assert "nothing was sent" in said["hfssl push out/simclr USER/simclr --dry-run"]
    assert (first_hour / "simclr-timm" / "model.safetensors").exists()
    assert (first_hour / "site" / "index.html").exists()
    loading = [(where, text) for path in PAGES for where, text in snippets(path) if '("out/' in text]
    assert len(loading) >= 8
    for where, text in loading:
        loaded = {}
        exec(compile(text, where, "exec"), loaded)
        assert any(isinstance(value, torch.nn.Module) for value in loaded.values()) or "tokenizer" in loaded, where
    assert (first_hour / "colorized" / "photo.png").exists() and (first_hour / "inpainted" / "photo.png").exists()


@pytest.mark.parametrize("path", [*PAGES, *INCLUDED], ids=identify)
def test_snippets_compile_and_import_what_is_there(path):
    for where, text in snippets(path):
        check_snippet(where, text)


def test_shell_scripts_in_the_docs_are_scripts():
    for path in (ROOT / "recipes").rglob("*.sbatch"):
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("--tries 3", "--trys 3", "No such option"),
        ("hfssl perplexity", "hfssl perplexty", "No such command"),
        ("--config recipes/smoke/gpt.yaml", "--config recipes/smoke/gtp.yaml", "recipes/smoke/gtp.yaml"),
        ("--config recipes/smoke/cpc.yaml", "--konfig recipes/smoke/cpc.yaml", "'--konfig'"),
        ("--vocab_size 4096", "--vocab_sise 4096", "did you mean 'vocab_size'"),
        ("--dataset builtin:digits", "--datasets builtin:digits", "did you mean 'dataset'"),
        ("hfssl pretrain simclr", "hfssl pretrain --num_proceses 2 simclr", "--num_proceses"),
        ("hfssl pretrain simclr", "hfssl pretrain simlcr", "did you mean 'simclr'"),
        ("make demo", "make demos", "the Makefile has"),
        ("hfssl ls", "hfsl ls", "no program of ours"),
        ("--learning_rate 3e-4`", "--learning_rate 3e-4` and `hfssl push a b/c --dryrun`", "No such option"),
    ],
)
def test_a_misprint_is_found(right, wrong, says, tmp_path):
    text = (ROOT / "README.md").read_text()
    assert right in text
    copy = tmp_path / "README.md"
    copy.write_text(text.replace(right, wrong, 1))
    with pytest.raises(Misprint, match=re.escape(says)):
        for command in [*commands(copy), *inline(copy)]:
            check(command)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hfssl pretrain gpt --config recipes/smoke/gpt.yaml --model.n_layers 2", "did you mean 'n_layer'"),
        ("accelerate launch recipes/pretrain_gtp.py --config recipes/smoke/gpt.yaml", "there is no program"),
        ("accelerate launch --config_file recipes/accelerate_configs/dp.yaml recipes/pretrain_gpt.py", "no file"),
        ("for k in 1 2; do X=1 python eval/run_probe.py --model $k --knnk 5; done", "did you mean 'knn_k'"),
        (
            "sbatch --nodes 2 recipes/slurm/pretrain.sbatch gpt --config recipes/smoke/gpt.yaml --max_step 1",
            "'max_steps'",
        ),
        ("srun --kill bash -c 'exec hfssl pretrain --machine_rang 1 \"$@\"' x", "--machine_rang"),
        ("pip install deepspeed", "needs the network"),
        ("hf download a/b --local_directory c  # needs the network", "No such option"),
    ],
)
def test_other_misprints_are_found(line, says):
    with pytest.raises(Misprint, match=re.escape(says)):
        for command in split(line, "here"):
            check(command)


def test_a_snippet_that_does_not_compile_or_import():
    for text in ("from transformers import AutoModal", "encoder = (", "import hfsll"):
        with pytest.raises(Misprint, match="here"):
            check_snippet("here", text)
