import json
from dataclasses import dataclass, field

import pytest
import yaml
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig

from hfssl.config import build_model, parse_config, read_yaml
from hfssl.errors import InputError
from hfssl.finetuning.arguments import SuiteArguments
from hfssl.models import SimCLRConfig
from hfssl.training import PretrainingArguments


@dataclass
class Size:
    block_size: int = field(default=8, metadata={"help": "Tokens in a block."})
    shares: list[float] = field(default_factory=lambda: [1.0, 2.0])
    name: str | None = None


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def parse(*argv, model=GPT2Config, **kwargs):
    return parse_config(Size, PretrainingArguments, model=model, argv=["--output_dir", "out", *argv], **kwargs)


def test_yaml_sets_and_the_command_line_wins(write):
    path = write("block_size: 16\nshares: [0.5, 0.25, 0.25]\nlearning_rate: 3e-4\nmodel:\n  n_layer: 3\n  n_head: 2\n")
    config, size, args = parse("--config", path, "--learning_rate", "1e-3", "--model.n_head", "4")
    assert (config.n_layer, config.n_head) == (3, 4)
    assert (size.block_size, size.shares, args.learning_rate) == (16, [0.5, 0.25, 0.25], 1e-3)


def test_dashes_and_underscores_are_the_same():
    assert parse("--learning-rate", "0.5")[2].learning_rate == parse("--learning_rate=0.5")[2].learning_rate == 0.5


def test_yaml_1_1_reads_3e_4_as_a_string_and_it_is_a_number_all_the_same(write):
    config, _, args = parse("--config", write("learning_rate: 3e-4\nmodel: {layer_norm_epsilon: 1e-6}\n"))
    assert args.learning_rate == 3e-4
    assert config.layer_norm_epsilon == 1e-6


def test_null_and_booleans_and_mappings(write):
    path = write("name: null\nbf16: false\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n")
    _, size, args = parse("--config", path)
    assert size.name is None and args.bf16 is False
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


def test_architecture_chooses_among_config_classes(write):
    table = {"gpt2": GPT2Config, "llama": LlamaConfig}
    path = write("model: {architecture: llama, hidden_size: 64, num_attention_heads: 4}\n")
    assert isinstance(parse("--config", path, model=table)[0], LlamaConfig)
    assert isinstance(parse(model=table)[0], GPT2Config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block_sise: 3\n", r"unknown key 'block_sise'; did you mean 'block_size'"),
        ("n_layer: 3\n", r"unknown key 'n_layer'; it is of the model: --model.n_layer$"),
        ("model: {n_layr: 3}\n", r"unknown key 'model.n_layr' for GPT2Config; did you mean 'n_layer'"),
        ("model: {n_layer: many}\n", r"GPT2Config.*n_layer.*expected int"),
        ("model: {layer_norm_epsilon: small}\n", r"model.layer_norm_epsilon must be a number"),
        ("model: [1]\n", r"'model' must be a mapping"),
        ("block_size: [\n", r"config.yaml:2: not valid YAML"),
        ("- 1\n", r"must hold a mapping"),
        ("block_size: eight\n", r"invalid int value: 'eight'"),
        ("block_size: 8.5\n", r"invalid int value: '8.5'"),
        ("model: {vocab_size: 3}\n", r"model.vocab_size is set by the program; use --vocab_size"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse("--config", write(text), fixed={"vocab_size": "--vocab_size"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--block_sise", "3"], r"unknown argument '--block_sise'; did you mean 'block_size'"),
        (["--n-layer=3"], r"unknown argument '--n-layer=3'; it is of the model: --model.n_layer$"),
        (["--block", "3"], r"unknown argument '--block'"),
        (["--config", "nowhere.yaml"], r"cannot read the config nowhere.yaml: No such file"),
        (["--config"], r"--config needs a YAML file"),
        (["--model.n_layer"], r"--model.n_layer needs a value"),
        (["--model.n_layr", "3"], r"^unknown argument '--model.n_layr' for GPT2Config; did you mean 'n_layer'"),
        (["--model.architecture", "gtp2"], r"unknown model.architecture 'gtp2'.*did you mean 'gpt2'"),
    ],
)
def test_bad_flags_are_refused(argv, message):
    with pytest.raises(InputError, match=message):
        parse(*argv, model={"gpt2": GPT2Config})


@pytest.mark.parametrize(
    ("text", "flags", "begins"),
    [
        ("{n_head: 2}", ["--model.n_layer", "many"], "--model.n_layer: GPT2Config: "),
        ("{n_layer: many}", ["--model.n_head", "2"], "FILE: GPT2Config: "),
        ("{n_layer: 2}", ["--model.n_head", "2", "--model.n_layer", "many"], "--model.n_layer: GPT2Config: "),
        ("{n_head: 2}", ["--model.architecture", "gtp2"], "unknown model.architecture 'gtp2'"),
        ("{architecture: gtp2}", ["--model.n_head", "2"], "FILE: unknown model.architecture 'gtp2'"),
    ],
)
def test_a_value_is_refused_where_it_was_given(write, text, flags, begins):
    path = write(f"model: {text}\n")
    with pytest.raises(InputError) as caught:
        parse("--config", path, *flags, model={"gpt2": GPT2Config})
    assert str(caught.value).startswith(begins.replace("FILE", path))


def test_null_in_a_file_is_a_value_that_the_command_line_wins_over(write):
    @dataclass
    class Limits:
        keep: int | None = field(default=2)
        size: int = field(default=8)

    path = write("keep: null\n")
    assert parse_config(Limits, argv=["--config", path])[0].keep is None
    assert parse_config(Limits, argv=["--config", path, "--keep", "3"])[0].keep == 3
    with pytest.raises(InputError, match="size must have a value, not null"):
        parse_config(Limits, argv=["--config", write("size: null\n")])


def test_a_config_that_came_with_hfssl_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_yaml("recipes/smoke/gpt.yaml")["max_steps"] == 20
    (tmp_path / "recipes" / "smoke").mkdir(parents=True)
    (tmp_path / "recipes" / "smoke" / "gpt.yaml").write_text("max_steps: 3\n")
    assert read_yaml("recipes/smoke/gpt.yaml") == {"max_steps": 3}


def test_a_model_that_cannot_be_built_is_bad_input():
    with pytest.raises(InputError, match=r"the 'model' settings give no model: .*divisible by num_heads"):
        build_model(GPT2LMHeadModel, GPT2Config(n_embd=8, n_head=3, n_layer=1))


def test_a_program_without_a_model_refuses_the_mapping(write):
    with pytest.raises(InputError, match="takes no 'model' mapping"):
        parse_config(Size, argv=["--config", write("model: {n_layer: 1}\n")])


def test_a_program_that_takes_a_model_by_its_name_has_it_in_the_file(write):
    (args,) = parse_config(SuiteArguments, argv=["--config", write("model: out/bert\ntasks: rte\n")])
    assert (args.model, args.tasks) == ("out/bert", "rte")
    with pytest.raises(InputError, match="takes no 'model' mapping"):
        parse_config(SuiteArguments, argv=["--config", write("model: {n_layer: 1}\n")])


def test_identity_is_plain_json():
    identity = PretrainingArguments(output_dir="x").identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["seed"] == 42


def test_what_was_given_is_a_yaml_file_for_the_same_run(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-3\nlr_scheduler_kwargs: null\nmodel: {image_size: 16}\n")
    flags = ["--output-dir", "x", "--max_steps=7", "--optim=muon", "--no_average_tokens_across_devices"]
    flags = ["--config", str(tmp_path / "a.yaml"), *flags, "--model.stem=cifar"]
    first, args = parse_config(PretrainingArguments, model=SimCLRConfig, argv=flags)
    assert args.given == {
        "learning_rate": 1e-3, "lr_scheduler_kwargs": None, "output_dir": "x", "max_steps": 7, "optim": "muon",
        "average_tokens_across_devices": False, "model": {"image_size": 16, "stem": "cifar"},
    }  # fmt: skip
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(args.given))
    second, again = parse_config(PretrainingArguments, model=SimCLRConfig, argv=["--config", str(tmp_path / "b.yaml")])
    assert again.identity() == args.identity() and second.to_dict() == first.to_dict()
