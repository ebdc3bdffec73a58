"""To the Hub and back over HTTP: models, tokenizers and data, loaded in a process in which hfssl cannot be imported."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import HfApi
from transformers import AutoModel, BertConfig, GPT2Config

from hfssl.hub.push import send
from hfssl.hub.uploads import plan_push
from hfssl.models import METHODS
from hfssl.models.modeling_lm import language_model
from hfssl.tokenization import train_bpe
from tests.conftest import TINY_GPT, TINY_RESNET
from tests.hub_server import HubServer
from tests.hub_server.in_process import using
from tests.without_hfssl import REFUSE_HFSSL

TEXT = "The dog saw a small cat. A cat slept, and the dog slept too. " * 30
SENTENCE = "A dog slept."

# The three ways in which a model is loaded here: by name, by a tag, by a commit; with all other arguments the defaults.
ALONE = (
    REFUSE_HFSSL
    + """
import torch
from datasets import load_dataset
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

given = torch.load(sys.argv[1] + "/given.pt")
results, missing = {}, {}
with torch.no_grad():
    for method in given["methods"]:
        name = f"me/tiny-{method}"
        model, report = AutoModel.from_pretrained(name, trust_remote_code=True, output_loading_info=True)
        results[method] = model.eval()(given["pixels"]).pooler_output
        results[method, "v1"] = AutoModel.from_pretrained(
            name, revision="v1", trust_remote_code=True
        ).eval()(given["pixels"]).pooler_output
        pretraining = AutoModelForPreTraining.from_pretrained(name, trust_remote_code=True).eval()
        torch.manual_seed(0)
        results[method, "loss"] = pretraining(given["views"]).loss
        missing[method] = sorted(report["missing_keys"])
    for name, auto_class in (("gpt", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)):
        tokenizer = AutoTokenizer.from_pretrained(f"me/tiny-{name}")
        model, report = auto_class.from_pretrained(f"me/tiny-{name}", output_loading_info=True)
        ids = tokenizer(given["sentence"], return_tensors="pt")
        results[name] = model.eval()(**ids).logits
        results[name, "ids"] = ids["input_ids"]
        missing[name] = sorted(report["missing_keys"])
        alone = AutoTokenizer.from_pretrained(f"me/tokenizer-{name}")
        results[name, "alone"] = alone(given["sentence"], return_tensors="pt")["input_ids"]
    results["text"] = load_dataset("me/text")
    results["text"] = {split: rows.to_list() for split, rows in results["text"].items()}
    streamed = load_dataset("me/text", split="train", streaming=True)
    results["streamed"] = list(streamed)
    results["skipped"] = next(iter(streamed.skip(99)))
    pictures = load_dataset("me/pictures", split="train")
    results["pictures"] = [torch.tensor(list(image.tobytes())) for image in pictures["image"]]
    results["v1"] = load_dataset("me/pictures", revision="v1", split="train")["label"]
assert "hfssl" not in sys.modules
torch.save({"results": results, "missing": missing}, sys.argv[1] + "/results.pt")
"""
)


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory):
    """Everything is pushed by this process and loaded by one that has no hfssl; the tests compare."""
    folder = tmp_path_factory.mktemp("round-trip")
    torch.manual_seed(0)
    given = {
        "methods": list(METHODS), "sentence": SENTENCE,
        "pixels": torch.randn(2, 3, 32, 32), "views": torch.randn(4, 2, 3, 32, 32),
    }  # fmt: skip
    with HubServer(read_yaml=yaml.safe_load) as hub, using(hub, folder / "home"):
        wanted = _push_models(given, folder) | _push_text_models(folder) | _push_data()
        torch.save(given, folder / "given.pt")
        done = subprocess.run(
            [sys.executable, "-c", ALONE, str(folder)], capture_output=True, text=True, cwd=folder, timeout=300,
            env={**os.environ, **hub.environment(folder / "other", hub.read_token), "PYTHONPATH": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        files = {id: set(repository.head.tree) for (_, id), repository in hub.repositories.items()}
        requests = hub.requests()
    back = torch.load(folder / "results.pt", weights_only=False)
    return wanted, back["results"], back["missing"], files, requests


def _push_models(given, folder):
    """Two commits each: transformers' own, tagged v1, and one of `hfssl push`. One method's repository is private."""
    wanted = {}
    for method, classes in METHODS.items():
        for version in ("v1", None):
            model = classes.for_pretraining(classes.config(**TINY_RESNET)).eval()
            if version:
                model.push_to_hub(f"me/tiny-{method}", private=method == "simclr")
            else:
                model.save_pretrained(folder / method)
                send(plan_push(folder / method, f"me/tiny-{method}"))
            if version:
                HfApi().create_tag(f"me/tiny-{method}", tag=version)
            with torch.no_grad():
                wanted[(method, version) if version else method] = model.base_model(given["pixels"]).pooler_output
        torch.manual_seed(0)
        with torch.no_grad():
            wanted[method, "loss"] = model(given["views"]).loss
    return wanted


def _push_text_models(folder):
    wanted = {}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    for name, style, config in (
        ("gpt", "gpt2", GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=0, **TINY_GPT)),
        ("bert", "bert", BertConfig(vocab_size=300, max_position_embeddings=32, **bert)),
    ):
        tokenizer = train_bpe([TEXT], 290, style, show_progress=False)
        model = language_model(config).eval()
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        send(plan_push(folder / name, f"me/tiny-{name}"))
        tokenizer.push_to_hub(f"me/tokenizer-{name}")
        ids = tokenizer(SENTENCE, return_tensors="pt")
        wanted[name, "ids"] = wanted[name, "alone"] = ids["input_ids"]
        with torch.no_grad():
            wanted[name] = model(**ids).logits
    return wanted


def _push_data():
    rows = [{"text": f"sentence {number} ✓", "ids": [number, 2 * number]} for number in range(100)]
    DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:3])).push_to_hub(
        "me/text", num_shards={"train": 3, "test": 1}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    features = Features({"image": Image(), "label": Value("int64")})
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3]):
        pictures = Dataset.from_dict({"image": list(pixels), "label": labels}, features=features)
        pictures.push_to_hub("me/pictures", private=True)
        if labels[1] == 0:
            HfApi().create_tag("me/pictures", tag="v1", repo_type="dataset")
    pictures = [torch.tensor(list(image.tobytes())) for image in pixels]
    text = {"train": rows, "test": rows[:3]}
    return {"text": text, "streamed": rows, "skipped": rows[99], "pictures": pictures, "v1": [0, 0, 0, 0]}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_model_gives_the_same_bits(round_trip, method):
    wanted, results, missing, files, _ = round_trip
    for key in (method, (method, "v1"), (method, "loss")):
        assert torch.equal(results[key], wanted[key]), key
    assert not torch.equal(results[method], results[method, "v1"]), "the tag is another commit"
    assert missing[method] == []
    # the code that auto_map names, and what it imports
    assert {"config.json", "model.safetensors", f"modeling_{method}.py", "backbone.py"} <= files[f"me/tiny-{method}"]


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_a_text_model_and_its_tokenizer_give_the_same_bits(round_trip, name):
    wanted, results, missing, files, _ = round_trip
    assert torch.equal(results[name], wanted[name]) and torch.equal(results[name, "ids"], wanted[name, "ids"])
    assert torch.equal(results[name, "alone"], wanted[name, "alone"])
    assert missing[name] == []
    assert not any(path.endswith(".py") for path in files[f"me/tiny-{name}"]), "stock: no code goes with it"
    assert {"tokenizer.json", "tokenizer_config.json"} <= files[f"me/tokenizer-{name}"]
    assert not any(path.endswith(".safetensors") for path in files[f"me/tokenizer-{name}"])


def test_data_comes_back_whole_and_streamed(round_trip):
    wanted, results, _, files, requests = round_trip
    for key in ("text", "streamed", "skipped", "v1"):
        assert results[key] == wanted[key], key
    assert len([path for path in files["me/text"] if path.startswith("data/train-")]) == 3
    ranges = [each for each in requests if "range" in each.headers and "/me/text/resolve/" in each.path]
    assert any(each.status == 206 for each in ranges), "streamed by ranges"
    assert all(torch.equal(one, other) for one, other in zip(results["pictures"], wanted["pictures"], strict=True))


def test_nothing_was_pushed_but_safetensors_text_and_parquet(round_trip):
    files = round_trip[3]
    endings = {path.rsplit(".", 1)[-1] for paths in files.values() for path in paths}
    assert endings <= {"json", "safetensors", "py", "md", "parquet", "gitattributes"}


def test_a_private_model_needs_a_token(hub_here, tmp_path):
    method = METHODS["simclr"]
    method.model(method.config(**TINY_RESNET)).push_to_hub("me/tiny", private=True)
    hub_here.log.clear()
    for token in (hub_here.other_token, False):
        with pytest.raises(OSError, match="not a valid model identifier"):
            AutoModel.from_pretrained("me/tiny", token=token, cache_dir=tmp_path)
    assert not hub_here.requests("GET", "model.safetensors")
    assert AutoModel.from_pretrained("me/tiny", token=hub_here.read_token, cache_dir=tmp_path)
