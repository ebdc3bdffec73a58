"""What every method of METHODS must do: train all its parameters, save and load exactly, and load without hfssl."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from hfssl.models import METHODS
from tests.without_hfssl import REFUSE_HFSSL

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 32,
    "stem": "cifar",
    "num_labels": 5,
}
# Buffers outside the state dict must be made again by the code that travels, too.
SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 24, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]},
    "image_size": 224,
}

ALONE = (
    REFUSE_HFSSL
    + """
try:
    import hfssl
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("hfssl is importable")

import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, pipeline

folder, swin, out = sys.argv[1:]
given = torch.load(out + "/given.pt")
torch.set_num_threads(given["threads"])
results = {}
with torch.no_grad():
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    results["features"] = model.eval()(given["pixels"]).pooler_output
    pretraining = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
    results["loss"] = pretraining(given["views"]).loss
    classifier, report = AutoModelForImageClassification.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert all("classifier" in key for key in report["missing_keys"]), report
    results["classifier_features"] = classifier.eval().base_model(given["pixels"]).pooler_output
    results["logits"] = classifier(given["pixels"]).logits
    results["swin"] = AutoModel.from_pretrained(swin, trust_remote_code=True).eval()(given["large"]).pooler_output
image = Image.fromarray(given["image"].permute(1, 2, 0).numpy())
extract = pipeline("image-feature-extraction", model=folder, trust_remote_code=True, device="cpu")
results["pipeline"] = extract(image, pool=True, return_tensors=True)
classifier.save_pretrained(out + "/again")  # remote code saves itself again
AutoModel.from_pretrained(out + "/again", trust_remote_code=True)
torch.save(results, out + "/results.pt")
"""
)


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.fixture
def pretraining(method):
    torch.manual_seed(0)
    return method.for_pretraining(method.config(**SMALL))


def test_every_directory_loads_as_every_class(method, pretraining, tmp_path):
    pretraining.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written["auto_map"]) >= {
        "AutoConfig",
        "AutoModel",
        "AutoModelForPreTraining",
        "AutoModelForImageClassification",
    }
    assert type(AutoConfig.from_pretrained(tmp_path)) is method.config
    pretraining.eval()
    pixels = torch.randn(3, 3, 32, 32)
    encoder = getattr(pretraining, pretraining.base_model_prefix)
    for auto, kind in (
        (AutoModel, method.model),
        (AutoModelForPreTraining, method.for_pretraining),
        (AutoModelForImageClassification, method.for_classification),
    ):
        model, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(model) is kind
        assert not report["unexpected_keys"] and all("classifier" in key for key in report["missing_keys"])
        with torch.no_grad():
            features = model.eval().base_model(pixels).pooler_output
            assert torch.equal(features, encoder(pixels).pooler_output)
    state = AutoModelForPreTraining.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in pretraining.state_dict().items())


def test_an_encoder_s_directory_loads_into_the_heads(method, pretraining, tmp_path):
    pretraining.base_model.save_pretrained(tmp_path)
    for kind in (method.for_pretraining, method.for_classification):
        model = kind.from_pretrained(tmp_path)
        for key, value in pretraining.base_model.state_dict().items():
            assert torch.equal(model.base_model.state_dict()[key], value)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_gradients_reach_every_parameter(method):
    # timm starts each residual branch at zero, so that in the first step nothing comes through
    kwargs = SMALL["backbone_kwargs"] | {"zero_init_last": False}
    pretraining = method.for_pretraining(method.config(**SMALL | {"backbone_kwargs": kwargs}))
    pretraining(torch.randn(4, 2, 3, 32, 32)).loss.backward()
    dead = [name for name, parameter in pretraining.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not dead


def test_the_same_seed_gives_the_same_model(method):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(method.for_pretraining(method.config(**SMALL)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_it_loads_in_a_process_without_hfssl(method, pretraining, tmp_path):
    torch.manual_seed(1)
    folder, swin = tmp_path / "model-with-dashes", tmp_path / "swin"
    pretraining(torch.randn(8, 2, 3, 32, 32))  # running statistics that are not the initial ones
    pretraining.eval().save_pretrained(folder)
    large = method.model(method.config(**SWIN)).eval()
    large.save_pretrained(swin)
    given = {
        "pixels": torch.randn(3, 3, 32, 32),
        "views": torch.randn(3, 2, 3, 32, 32),
        "large": torch.randn(1, 3, 224, 224),
        "image": torch.randint(0, 256, (3, 48, 40), dtype=torch.uint8),
        "threads": torch.get_num_threads(),
    }
    torch.save(given, tmp_path / "given.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(swin), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = torch.load(tmp_path / "results.pt")
    with torch.no_grad():
        features = pretraining.base_model(given["pixels"]).pooler_output
        assert torch.equal(results["features"], features)
        assert torch.equal(results["classifier_features"], features)
        assert torch.equal(results["loss"], pretraining(given["views"]).loss)
        assert torch.equal(results["swin"], large(given["large"]).pooler_output)
    assert results["logits"].shape == (3, 5) and results["logits"].isfinite().all()
    assert results["pipeline"].shape == (1, features.shape[1])
