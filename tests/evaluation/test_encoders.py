"""Everything that can be probed, by its name: directories, timm's names, random weights, pixels."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification, ViTModel

from hfssl.errors import InputError
from hfssl.evaluation.encoders import Encoder, as_encoder, load_encoder, pixel_encoder, random_encoder
from hfssl.evaluation.features import extract_features, extract_layers, weights_hash
from hfssl.models import SimCLRConfig, SimCLRForPreTraining

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 16,
    "stem": "cifar",
    "image_mean": [0.4, 0.5, 0.6],
}
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
IMAGES = torch.randint(0, 256, (5, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model():
    return SimCLRForPreTraining(SimCLRConfig(**SMALL))


def test_timm_models_functions_and_pixels():
    net = timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, num_classes=7)
    assert extract_features(net, IMAGES, image_size=32).shape == (5, 16)  # before the classifier
    assert extract_features(lambda pixels: pixels.mean((2, 3)), IMAGES, image_size=8).shape == (5, 3)
    with pytest.raises(InputError, match="which image_size"):
        extract_features(lambda pixels: pixels, IMAGES)
    raw = extract_features(pixel_encoder([{"image": IMAGES[0]}]), IMAGES)
    torch.testing.assert_close(raw, (IMAGES / 255).flatten(1))
    large = torch.zeros(2, 3, 100, 80, dtype=torch.uint8)
    assert extract_features(pixel_encoder([{"image": large[0]}]), large).shape == (2, 3 * 32 * 32)


def test_a_saved_directory(model, tmp_path):
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.image_size == 16 and list(encoder.mean) == [0.4, 0.5, 0.6]
    torch.testing.assert_close(extract_features(encoder, IMAGES), extract_features(model, IMAGES))


def test_a_stock_model_of_transformers_with_its_own_preprocessing(tmp_path):
    ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path)
    assert extract_features(load_encoder(tmp_path), IMAGES).shape == (5, 16)
    settings = {
        "size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True,
        "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = load_encoder(tmp_path)
    assert (encoder.image_size, encoder.crop_ratio) == (16, 0.8)
    assert (encoder.mean, encoder.std) == ([0.5] * 3, [0.25] * 3)
    without = ViTModel(ViTConfig(**VIT), add_pooling_layer=False)
    with pytest.raises(InputError, match=r"no pooled output.*last_hidden_state"):
        extract_features(without, IMAGES)


def test_timm_by_name_and_an_architecture_alone(model, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0)
    encoder = load_encoder("random:resnet10t")
    assert weights_hash(encoder.module) == weights_hash(net)
    assert weights_hash(load_encoder("random:resnet10t", seed=1).module) != weights_hash(net)
    assert load_encoder("random:vit_tiny_patch16_224", image_size=32).module.patch_embed.img_size == (32, 32)
    model.save_pretrained(tmp_path / "ours")
    random = load_encoder(f"random:{tmp_path / 'ours'}")
    assert random.name == "random ours" and list(random.mean) == [0.4, 0.5, 0.6]
    assert weights_hash(random.module) != weights_hash(model.simclr)
    assert extract_features(random, IMAGES).shape == (5, 16)


def test_timm_s_own_format(tmp_path):
    net = timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, num_classes=0).eval()
    config = {
        "architecture": "resnet10t", "num_classes": 0, "num_features": 16,
        "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.4] * 3, "std": [0.2] * 3, "crop_pct": 1.0},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="holds no weights in safetensors"):
        load_encoder(f"local-dir:{tmp_path}")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    expected = extract_features(Encoder("timm", net, net, 32, [0.4] * 3, [0.2] * 3), IMAGES)
    for name in (f"local-dir:{tmp_path}", str(tmp_path)):  # by timm, and by transformers' TimmWrapperModel
        encoder = load_encoder(name)
        assert torch.equal(extract_features(encoder, IMAGES), expected)
        assert extract_layers(encoder, IMAGES)["pooled"].equal(expected)
        assert extract_features(random_encoder(encoder), IMAGES).shape == expected.shape


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_weights_of_timm_s_own_format_that_do_not_match_are_refused(tmp_path, prefix):
    net = timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, num_classes=0)
    config = {
        "architecture": "resnet10t", "num_classes": 0, "num_features": 16,
        "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.4] * 3, "std": [0.2] * 3},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    kept = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("layer2")}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="layer2"):
        load_encoder(f"{prefix}{tmp_path}")


def test_a_model_of_text_is_no_encoder_of_images(tmp_path):
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=20, **size)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is no encoder of images: it takes input_ids"):
        load_encoder(tmp_path)


def test_an_input_that_the_model_cannot_take_is_one_line():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1)
    with pytest.raises(InputError, match=r"VisionTransformer cannot encode images of 3x48x48: .*48.*32"):
        extract_features(as_encoder(vit, image_size=48), IMAGES)


def test_the_random_init_is_another_model_of_the_same_shape(model):
    state = torch.get_rng_state()
    encoder = as_encoder(model)
    random = random_encoder(encoder, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(random.module) == weights_hash(random_encoder(encoder, seed=1).module)
    assert weights_hash(random.module) not in (weights_hash(model), weights_hash(random_encoder(encoder, 2).module))
    assert list(random.module.state_dict()) == list(model.state_dict())
    assert list(random.mean) == [0.4, 0.5, 0.6]
    assert extract_features(random, IMAGES).shape == (5, 16)
    with pytest.raises(InputError, match="cannot build a random copy"):
        random_encoder(Encoder("function", lambda pixels: pixels))
    with pytest.raises(InputError, match="its settings are not known"):
        random_encoder(as_encoder(timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no model directory './nowhere'"),
        ("resnet18", "no Hub id, which would be ORG/NAME; timm's model is timm:resnet18"),
        ("random:resnet99", "no model of timm; did you mean 'resnet50'"),
        ("timm:resnet99", "has no model 'resnet99'; did you mean 'resnet50'"),
        ("timm:resnet18", "cannot load 'resnet18' by timm: .*random:resnet18 is the architecture"),
        ("random:./nowhere", "no model directory './nowhere'"),
    ],
)
def test_names_of_nothing(name, message):
    with pytest.raises(InputError, match=message):
        load_encoder(name)


def test_weights_that_do_not_match_are_listed_and_refused(model, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot load a model"):
        load_encoder(tmp_path / "empty")
    kept = {key: value for key, value in model.state_dict().items() if "layer1" not in key}
    model.save_pretrained(tmp_path / "missing", state_dict=kept)
    with pytest.raises(InputError, match=r"missing there: timm_model.layer1.*--allow_partial"):
        load_encoder(tmp_path / "missing")
    ViTForImageClassification(ViTConfig(**VIT)).save_pretrained(tmp_path / "head")
    with pytest.raises(InputError, match=r"missing there: pooler.*no place for: classifier.bias, classifier.weight"):
        load_encoder(tmp_path / "head")
    model.save_pretrained(tmp_path / "shape")
    weights = load_file(tmp_path / "shape" / "model.safetensors")
    name = "simclr.timm_model.layer2.0.conv1.weight"
    weights[name] = weights[name][:4]
    save_file(weights, tmp_path / "shape" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"of another shape: timm_model.layer2.0.conv1.weight"):
        load_encoder(tmp_path / "shape")
    with caplog.at_level("WARNING", "hfssl"):
        partial = load_encoder(tmp_path / "missing", allow_partial=True)
    assert "match in part" in caplog.text and "layer1" in caplog.text
    assert extract_features(partial, IMAGES).isfinite().all()
