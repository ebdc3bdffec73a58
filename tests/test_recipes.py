"""Every YAML parses with its program's dataclasses; the smoke recipes run as a user runs them."""

import json
import re
import runpy
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer, set_seed

from hfssl.config import build_model
from hfssl.data.images import load_images
from hfssl.data.layout import Layout
from hfssl.data.pair_files import read_pairs
from hfssl.errors import InputError
from hfssl.evaluation.encoders import load_encoder
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.vector_files import read_vectors
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from hfssl.pictures import colorize_files, inpaint_files
from hfssl.programs import program, recipe_configs, recipes
from tests.conftest import TINY_RESNET

ROOT = program("")
ACCELERATE = sorted((ROOT / "recipes" / "accelerate_configs").glob("*.yaml"))


# Recipes of YAML files that are named otherwise.
OF_ANOTHER_NAME = {"llama": "gpt"} | dict.fromkeys(("translation", "commonsense", "dialogue"), "conditional")


class Parsed(Exception):
    """Stops a recipe once its arguments are read."""


@pytest.mark.parametrize("path", recipe_configs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_yaml_parses_with_its_recipe_and_builds_its_model(path, monkeypatch, tmp_path):
    name = max((name for name in [*recipes(), *OF_ANOTHER_NAME] if name in path.name), key=len)
    module = runpy.run_path(str(recipes()[OF_ANOTHER_NAME.get(name, name)]))
    parse, configs = module["parse_config"], []

    def stop(*args, **kwargs):
        configs.append(parse(*args, **kwargs)[0])
        raise Parsed

    main = module["main"].__wrapped__
    main.__globals__["parse_config"] = stop
    with pytest.raises(Parsed):
        main(["--config", str(path), "--output_dir", str(tmp_path)])
    make = next(part for key, part in module.items() if key.endswith("ForPreTraining") or key == "language_model")
    assert build_model(make, configs[0]).num_parameters() > 1000


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.name)
def test_accelerate_configs_parse(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp.yaml": "MULTI_GPU", "fsdp.yaml": "FSDP", "deepspeed.yaml": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.name]
    assert config.num_processes == 8


def test_all_three_accelerate_configs_are_there():
    assert [path.stem for path in ACCELERATE] == ["ddp", "deepspeed", "fsdp"]


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [("gpt", AutoModelForCausalLM), ("llama", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)],
)
def test_smoke_text(run_command, accelerate_command, tmp_path, monkeypatch, name, auto_class):
    recipe = "gpt" if name == "llama" else name
    done = run_command(
        accelerate_command, "launch", "--num_processes", "1", f"recipes/pretrain_{recipe}.py", "--config",
        f"recipes/smoke/{name}.yaml", "--output_dir", tmp_path / "out", "--save_total_limit", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    model = auto_class.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(tokenizer) == 2048
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert any("tokens_per_second" in entry for entry in history)
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-20"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "builtin:prose (train): " in card
        and "max_steps: 20" in card
        and "| loss on held-out data, nats a token, one seed | " in card
    )
    assert ("mask_scheme" in card) == (name == "bert")
    monkeypatch.chdir(tmp_path)
    loaded = {}
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], loaded)
    assert loaded["model"].num_parameters() == model.num_parameters()


def test_smoke_simclr_and_probe(run_command, accelerate_command, hfssl_command, tmp_path):
    done = run_command(
        accelerate_command, "launch", "--num_processes", "1", "recipes/pretrain_simclr.py", "--config",
        "recipes/smoke/simclr.yaml", "--output_dir", tmp_path / "out", "--report_to", "tensorboard",
        env={"TENSORBOARD_LOGGING_DIR": str(tmp_path / "runs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert any((tmp_path / "runs").rglob("events.out.tfevents*")), "tensorboard has written its log"
    probed = run_command(
        hfssl_command,
        "probe",
        tmp_path / "out",
        "--dataset",
        "builtin:digits",
        "--seeds",
        "1",
        "--out",
        tmp_path / "probe",
    )
    assert probed.returncode == 0, probed.stderr[-2000:]
    assert "raw pixels" in probed.stdout and "random init" in probed.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "builtin:digits (train)" in card and "augmentations: [" in card
    assert (tmp_path / "probe" / "results.json").exists()
    exported = run_command(hfssl_command, "export", tmp_path / "out", "--out", tmp_path / "timm")  # as the README says
    assert exported.returncode == 0 and (tmp_path / "timm" / "model.safetensors").exists(), exported.stderr[-2000:]


@pytest.mark.parametrize("engine", ["cpu", "trainer"])
@pytest.mark.parametrize("subwords", [[], ["--model.subwords", "bpe", "--model.subword_vocab_size", "300"]])
def test_smoke_cbow(tmp_path, engine, subwords):
    """Both engines leave vectors whose neighbours are told, and a model that encodes words."""
    main = runpy.run_path(str(recipes()["cbow"]))["main"]
    argv = ["--config", str(ROOT / "recipes/smoke/cbow.yaml"), "--output_dir", str(tmp_path / "out"), *subwords]
    main([*argv, "--engine", engine, "--max_steps", "3", "--save_strategy", "no", "--logging_steps", "1"])
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    vectors = read_vectors(tmp_path / "out" / "vectors.vec")
    assert vectors.words[:3] == ["the", "a", "is"] or "the" in vectors.words[:3]
    assert torch.equal(model.encode(vectors.words[:9]), torch.from_numpy(vectors.vectors[:9]))
    assert (tmp_path / "out" / "pieces.json").exists() == bool(subwords)
    if subwords:
        assert model.encode(["unheardof"]).isfinite().all()
    else:
        with pytest.raises(KeyError, match="unheardof"):
            model.encode(["unheardof"])
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    assert any("words_per_second" in entry for entry in history)
    assert "builtin:prose" in (tmp_path / "out" / "README.md").read_text()


def test_word_vectors_learn_at_word2vec_s_rate_and_the_record_has_no_setting_without_use(tmp_path):
    main = runpy.run_path(str(recipes()["cbow"]))["main"]
    main(["--engine", "cpu", "--max_steps", "1", "--model.hidden_size", "8", "--output_dir", str(tmp_path / "out")])
    arguments = json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]
    assert arguments == {"learning_rate": 0.05, "max_steps": 1, "seed": 42}
    assert "adam" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["cpc", "cpc_frames"])
def test_smoke_cpc(tmp_path, name):
    main = runpy.run_path(str(recipes()["cpc"]))["main"]
    argv = ["--config", str(ROOT / f"recipes/smoke/{name}.yaml"), "--output_dir", str(tmp_path / "out")]
    argv += ["--max_steps", "4", "--per_device_train_batch_size", "8", "--save_strategy", "no", "--logging_steps", "1"]
    main(argv)
    encoder = load_encoder(tmp_path / "out")
    features = extract_features(encoder, load_images("builtin:digits").subset(range(8)))
    assert features.shape == (8, 128) and features.std(0).max() > 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1807.03748" in card and ("min_gap: 1" in card) == (name == "cpc_frames")


@pytest.mark.parametrize(
    ("name", "paint", "paper"),
    [("colorization", colorize_files, "1603.06668"), ("context_encoder", inpaint_files, "1604.07379")],
)
def test_smoke_painters(tmp_path, name, paint, paper):
    """What a recipe leaves paints a photograph and gives features."""
    main = runpy.run_path(str(recipes()[name]))["main"]
    argv = ["--config", str(ROOT / f"recipes/smoke/{name}.yaml"), "--output_dir", str(tmp_path / "out")]
    argv += ["--max_steps", "4", "--per_device_train_batch_size", "8", "--save_strategy", "no", "--logging_steps", "1"]
    main(argv)
    photo = to_pil_image(load_images("builtin:photos")[0]["image"])
    photo.save(tmp_path / "photo.png")
    rest = ("center",) if name == "context_encoder" else ()
    paint(str(tmp_path / "out"), [str(tmp_path / "photo.png")], *rest, str(tmp_path / "painted"))
    painted = Image.open(tmp_path / "painted" / "photo.png")
    assert painted.size == photo.size and painted.tobytes() != photo.tobytes()
    features = extract_features(load_encoder(tmp_path / "out"), load_images("builtin:photos").subset(range(8)))
    assert len(features) == 8 and features.std(0).max() > 0
    assert paper in (tmp_path / "out" / "README.md").read_text()


def test_the_recipe_of_colorization_counts_the_colours(tmp_path):
    """Zhang et al. 2016: rare colours weigh more, by the training images."""
    main = runpy.run_path(str(recipes()["colorization"]))["main"]
    flags = ["--model.color_loss=ce313", "--max_steps=1", "--per_device_train_batch_size=4", "--save_strategy=no"]
    main(["--config", str(ROOT / "recipes/smoke/colorization.yaml"), *flags, "--output_dir", str(tmp_path)])
    weights = AutoModelForPreTraining.from_pretrained(tmp_path).cell_weights
    assert weights.shape == (313,) and weights.max() > 2 * weights.min() > 0


@pytest.mark.parametrize(
    ("config", "flags"), [("smoke/simclr", ["--model.supervised", "true"]), ("simclr_vit_cpu", [])]
)
def test_other_simclr_runs(tmp_path, config, flags):
    """The supervised loss with its labels, and a ViT whose patch embedding stays as it was drawn."""
    main = runpy.run_path(str(recipes()["simclr"]))["main"].__wrapped__
    small = ["--image_path", "builtin:digits", "--max_steps", "2", "--per_device_train_batch_size", "8", "--use_cpu"]
    main(["--config", f"recipes/{config}.yaml", *small, *flags, "--output_dir", str(tmp_path)])
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["finished"] and record["collator"].get("labels", False) == bool(flags)
    trained = AutoModelForPreTraining.from_pretrained(tmp_path)
    if "vit" in config:
        set_seed(42)
        fresh = type(trained)(trained.config)
        before, after = (model.simclr.timm_model.state_dict() for model in (fresh, trained))
        same = {name for name in before if before[name].equal(after[name])}
        assert same == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_smoke_cotraining_and_what_its_codes_are_worth(tmp_path, capsys):
    main = runpy.run_path(str(recipes()["cotraining"]))["main"].__wrapped__
    out, data = str(tmp_path / "out"), ["--dataset", "builtin:digits", "--seeds", "1"]
    main(["--config", "recipes/smoke/cotraining.yaml", "--output_dir", out, "--use_cpu"])
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    last = [entry for entry in history if "loss" in entry][-1]
    assert 0 < last["information"] <= last["entropy"] <= 2.3027 and last["entropy_correction"] == round(9 / 128, 4)
    assert "1802.07572" in (tmp_path / "out" / "README.md").read_text()
    probe = runpy.run_path(str(ROOT / "eval/run_probe.py"))["main"].__wrapped__
    rows = probe(["--model", out, *data, "--distorted", "false", "--label_fractions", "0.1"]).rows
    assert list(dict.fromkeys(row.encoder for row in rows)) == ["out", "codes of out", "random init", "raw pixels"]
    codes = runpy.run_path(str(ROOT / "eval/run_codes.py"))["main"].__wrapped__
    found = codes(["--model", out, *data, "--out", str(tmp_path / "codes.json")])
    assert list(found) == ["co-training", "k-means on its features", "k-means on raw pixels"]
    assert all(0 < each["hungarian"] <= each["many-to-one"] <= 1 for rows in found.values() for each in rows)
    assert json.loads((tmp_path / "codes.json").read_text())["scores"] == found
    assert "many-to-one, %" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no codes: it is"):
        SimCLRForPreTraining(SimCLRConfig(**TINY_RESNET)).save_pretrained(tmp_path / "simclr")
        codes(["--model", str(tmp_path / "simclr"), *data])


def test_more_codes_than_images_are_warned_of(tmp_path, caplog):
    main = runpy.run_path(str(recipes()["cotraining"]))["main"].__wrapped__
    small = ["--max_steps", "1", "--per_device_train_batch_size", "16", "--save_strategy", "no", "--use_cpu"]
    main(["--config", "recipes/smoke/cotraining.yaml", *small, "--output_dir", str(tmp_path)])
    assert "30 codes cannot all be used by a batch of 16 images" in caplog.text


def test_smoke_hashing_and_its_precision(tmp_path, capsys):
    main = runpy.run_path(str(recipes()["hashing"]))["main"].__wrapped__
    main(["--config", "recipes/smoke/hashing.yaml", "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    texts = [f"{word} {word} sees number {i}" for i in range(40) for word in ("dog", "tree")]
    labels = [text.split()[0] for text in texts]
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "texts.parquet")
    hashes = runpy.run_path(str(ROOT / "eval/run_hashes.py"))["main"].__wrapped__
    flags = ["--model", str(tmp_path / "out"), "--labelled_path", str(tmp_path / "texts.parquet")]
    found = hashes([*flags, "--k", "10", "--out", str(tmp_path / "hashes.json")])
    assert 0.3 < found["chance"] < 0.7 and found["TF-IDF"] > 0.9 and found["hashing"] > 0.6
    assert json.loads((tmp_path / "hashes.json").read_text())["scores"] == found
    assert "P@10" in capsys.readouterr().out
    for more, message in (
        (["--k", "1000"], "too few for P@1000"),
        (["--label_column", "x"], "cannot read .*x|no column"),
    ):
        with pytest.raises(InputError, match=message):
            hashes([*flags, *more])


def test_smoke_tagger_and_its_tags(tmp_path, caplog, capsys):
    main = runpy.run_path(str(recipes()["tagger"]))["main"].__wrapped__
    text = "the/at cat/nn sat/vbd\na/at dog/nn ran/vbd fast/rb\n"
    (tmp_path / "tagged").write_text(text)
    (tmp_path / "words.txt").write_text(re.sub(r"/\w+", "", text) * 20)
    flags = ["--text_path", str(tmp_path / "words.txt"), "--min_count", "1", "--eval_fraction", "0.1"]
    flags += ["--per_device_train_batch_size", "40", "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    main(["--config", "recipes/smoke/tagger.yaml", *flags])
    assert "45 codes cannot all be used by a batch of 40 words" in caplog.text
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    assert {"information", "entropy", "words_per_second"} <= {key for entry in history for key in entry}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1804.07849" in card and 'AutoModelForPreTraining.from_pretrained("./out", trust_remote_code=True)' in card
    score = runpy.run_path(str(ROOT / "eval/run_tags.py"))["main"].__wrapped__
    found = score(["--model", str(tmp_path / "out"), "--tagged_path", str(tmp_path / "tagged")])
    assert list(found) == ["co-training", "frequent words", "random init", "one code"]
    assert found["frequent words"][0]["many-to-one"] == 1
    assert found["one code"][0]["many-to-one"] == pytest.approx(2 / 7)
    assert "many-to-one" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no model directory '\./nowhere'"):
        score(["--model", "./nowhere", "--tagged_path", str(tmp_path / "tagged")])


@pytest.mark.parametrize(
    ("task", "paper", "prompt"),
    [
        ("translation", "2106.13627", "`{source}<sep>`. What follows"),
        ("commonsense", "1906.05317", "` {head}{relation}`; {relation} is one of <oReact>, <xIntent>"),
        ("dialogue", "2001.09977", "`{context}<sep>`; at most 7 turns, with `<turn>` between two"),
    ],
)
def test_smoke_conditional(tmp_path, task, paper, prompt):
    main = runpy.run_path(str(recipes()["conditional"]))["main"].__wrapped__
    metrics = main(["--config", f"recipes/smoke/{task}.yaml", "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    assert 0 < metrics["eval_loss"] < 6 and metrics["eval_unigram_loss"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer, layout = AutoTokenizer.from_pretrained(tmp_path / "out"), Layout.load(tmp_path / "out")
    assert layout.task == task and model.config.vocab_size == len(tokenizer)
    history = json.loads((tmp_path / "out" / "log_history.json").read_text())
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    row = read_pairs(f"builtin:toypairs/{task}", "test")[0]
    ids = torch.tensor([layout.prompt_ids(tokenizer, row)])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert written[0, : ids.shape[1]].equal(ids[0]) and layout.decode(tokenizer, written[0, ids.shape[1] :].tolist())
    card = (tmp_path / "out" / "README.md").read_text()
    assert paper in card and prompt in card and "from scratch" in card and "of them to predict" in card


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_same_global_batch(run_command, accelerate_command, tmp_path):
    """The documented form. `--cpu --num_processes 2` silently starts one process, so the world size is asserted."""
    common = [
        "--config", str(ROOT / "recipes/smoke/gpt.yaml"), "--use_cpu", "--max_steps", "6", "--logging_steps", "1",
        "--save_strategy", "no", "--model.resid_pdrop", "0.0", "--model.embd_pdrop", "0.0", "--model.attn_pdrop", "0.0",
    ]  # fmt: skip
    main = runpy.run_path(str(recipes()["gpt"]))["main"]
    main([*common, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")])
    both = ["recipes/pretrain_gpt.py", *common, "--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    flags = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    done = run_command(accelerate_command, "launch", *flags, *both, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]

    def record(name):
        history = json.loads((tmp_path / name / "log_history.json").read_text())
        run = json.loads((tmp_path / name / "run.json").read_text())
        return run["hardware"], [entry["loss"] for entry in history if "loss" in entry]

    (hardware_one, one), (hardware_two, two) = record("one"), record("two")
    assert hardware_one.startswith("1 x ") and hardware_two.startswith("2 x "), "the world sizes"
    assert len(one) == 6
    assert two == pytest.approx(one, rel=2e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["colorization", "context_encoder"])
def test_two_processes_paint_as_one(run_command, accelerate_command, tmp_path, name):
    """Points, masks, both players and running statistics are those of one process with the whole batch."""
    config = ["--config", str(ROOT / f"recipes/smoke/{name}.yaml"), "--use_cpu", "--max_steps", "4"]
    config += ["--logging_steps", "1", "--save_strategy", "no", "--learning_rate", "1e-4"]
    config += ["--model.hypercolumn_dropout", "0"] if name == "colorization" else []
    main = runpy.run_path(str(recipes()[name]))["main"]
    main([*config, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")])
    flags = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    config += ["--sync_batchnorm", "--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    done = run_command(
        accelerate_command, "launch", *flags, f"recipes/pretrain_{name}.py", *config, env={"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two"))
    assert one["hardware"].startswith("1 x ") and two["hardware"].startswith("2 x "), "the world sizes"
    history = [json.loads((tmp_path / run / "log_history.json").read_text()) for run in ("one", "two")]
    one, two = ([entry["loss"] for entry in entries if "loss" in entry] for entries in history)
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-3)
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    assert models[0].keys() == models[1].keys()
    for key in models[0]:
        if "running" in key:
            torch.testing.assert_close(models[1][key], models[0][key], rtol=2e-3, atol=2e-4, msg=f"{key} differs")


def test_readme_commands_name_files_that_exist():
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "recipes").glob("*.md")])
    for path in re.findall(r"(?:recipes|eval|tokenizers_train|benchmarks)/[\w/]+\.(?:py|yaml)", text):
        assert (ROOT / path).exists(), path
    assert yaml.safe_load((ROOT / "recipes/smoke/gpt.yaml").read_text())["max_steps"] == 20
    assert sys.version_info >= (3, 11)
