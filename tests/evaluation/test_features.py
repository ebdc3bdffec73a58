import numpy as np
import pytest
import timm
import torch

from hfssl.data.augmentation import eval_view
from hfssl.errors import InputError
from hfssl.evaluation.encoders import Encoder, as_encoder, load_encoder, pixel_encoder, random_encoder
from hfssl.evaluation.features import extract_features, weights_hash
from hfssl.models import SimCLRConfig, SimCLRForPreTraining

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 16,
    "stem": "cifar",
    "image_mean": [0.4, 0.5, 0.6],
}
IMAGES = torch.randint(0, 256, (11, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimCLRForPreTraining(SimCLRConfig(**SMALL))


def items(images):
    return [{"image": image, "index": i} for i, image in enumerate(images)]


def test_features_are_the_encoder_s_and_each_image_comes_once(model):
    model.train()
    features = extract_features(model, items(IMAGES), batch_size=4)
    assert features.shape == (11, 16) and features.dtype == torch.float32
    assert model.training and not features.requires_grad
    model.eval()
    pixels = eval_view(IMAGES, 16, model.config.image_mean, model.config.image_std, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(features, model.simclr(pixels).pooler_output)
    torch.testing.assert_close(extract_features(model, IMAGES, batch_size=100), features)


def test_extraction_leaves_the_weights_alone(model):
    before = weights_hash(model)
    extract_features(model, IMAGES)
    assert weights_hash(model) == before
    with torch.no_grad():
        model.simclr.timm_model.fc = None
        next(model.buffers()).add_(1e-3)
    assert weights_hash(model) != before


def test_images_of_various_sizes(model):
    images = [torch.randint(0, 256, (3, 15 + i, 30 - i), dtype=torch.uint8) for i in range(5)]
    assert extract_features(model, items(images), batch_size=2).shape == (5, 16)


def test_timm_models_functions_and_pixels():
    net = timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, num_classes=7)
    assert extract_features(net, IMAGES, image_size=32).shape == (11, 16)  # before the classifier
    assert extract_features(lambda pixels: pixels.mean((2, 3)), IMAGES, image_size=8).shape == (11, 3)
    with pytest.raises(InputError, match="which image_size"):
        extract_features(lambda pixels: pixels, IMAGES)
    raw = extract_features(pixel_encoder(items(IMAGES)), IMAGES)
    torch.testing.assert_close(raw, (IMAGES / 255).flatten(1))
    large = torch.zeros(2, 3, 100, 80, dtype=torch.uint8)
    assert extract_features(pixel_encoder(items(large)), large).shape == (2, 3 * 32 * 32)


def test_a_saved_directory(model, tmp_path):
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.image_size == 16 and list(encoder.mean) == [0.4, 0.5, 0.6]
    torch.testing.assert_close(extract_features(encoder, IMAGES), extract_features(model, IMAGES))


def test_a_stock_model_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    assert extract_features(load_encoder(tmp_path), IMAGES).shape == (11, 16)
    without = ViTModel(config, add_pooling_layer=False)
    with pytest.raises(InputError, match=r"no pooled output.*last_hidden_state"):
        extract_features(without, IMAGES)


def test_the_random_init_is_another_model_of_the_same_shape(model):
    state = torch.get_rng_state()
    encoder = as_encoder(model)
    random = random_encoder(encoder, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(random.module) == weights_hash(random_encoder(encoder, seed=1).module)
    assert weights_hash(random.module) not in (weights_hash(model), weights_hash(random_encoder(encoder, 2).module))
    assert list(random.module.state_dict()) == list(model.state_dict())
    assert list(random.mean) == [0.4, 0.5, 0.6]
    assert extract_features(random, IMAGES).shape == (11, 16)


def test_bad_input(model, tmp_path):
    with pytest.raises(InputError, match="no images"):
        extract_features(model, [])
    nan = Encoder("broken", lambda pixels: pixels.flatten(1) * np.nan, None, 8)
    with pytest.raises(InputError, match="broken gives features that are not finite for 11 of 11"):
        extract_features(nan, IMAGES)
    with pytest.raises(InputError, match="no model directory"):
        load_encoder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot load a model"):
        load_encoder(tmp_path / "empty")
    kept = {key: value for key, value in model.state_dict().items() if "layer1" not in key}
    model.save_pretrained(tmp_path / "partial", state_dict=kept)
    with pytest.raises(InputError, match=r"without values: .*layer1"):
        load_encoder(tmp_path / "partial")
