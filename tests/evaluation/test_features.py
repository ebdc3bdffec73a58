import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from hfssl.data.augmentation import Augmentation, eval_view
from hfssl.data.collators import TwoViewCollator
from hfssl.errors import InputError
from hfssl.evaluation.encoders import Encoder, as_encoder
from hfssl.evaluation.features import extract_features, extract_layers, extract_view, weights_hash
from hfssl.models import SimCLRConfig, SimCLRForPreTraining
from tests.evaluation.feature_processes import IMAGES as SHARED
from tests.evaluation.feature_processes import encoder as shared_encoder
from tests.evaluation.feature_processes import extract
from tests.evaluation.test_encoders import SMALL

IMAGES = torch.randint(0, 256, (11, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model():
    return SimCLRForPreTraining(SimCLRConfig(**SMALL))


def items(images):
    return [{"image": image, "index": i} for i, image in enumerate(images)]


def test_features_are_the_encoder_s_and_each_image_comes_once(model):
    model.train()
    model.projection_head.eval()
    features = extract_features(model, items(IMAGES), batch_size=4)
    assert features.shape == (11, 16) and features.dtype == torch.float32
    assert model.training and not model.projection_head.training and not features.requires_grad
    model.eval()
    pixels = eval_view(IMAGES, 16, model.config.image_mean, model.config.image_std, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(features, model.simclr(pixels).pooler_output)
    for batch_size in (1, 100):
        torch.testing.assert_close(extract_features(model, IMAGES, batch_size=batch_size), features)


def test_extraction_leaves_the_weights_alone(model):
    before = weights_hash(model)
    extract_features(model, IMAGES)
    assert weights_hash(model) == before
    with torch.no_grad():
        next(model.buffers()).add_(1e-3)
    assert weights_hash(model) != before


def test_images_of_various_sizes(model):
    images = [torch.randint(0, 256, (3, 15 + i, 30 - i), dtype=torch.uint8) for i in range(5)]
    assert extract_features(model, items(images), batch_size=2).shape == (5, 16)


def test_the_layers_come_in_order_with_the_pooled_features_last(model):
    layers = extract_layers(model, IMAGES, batch_size=4)
    assert list(layers) == [*(f"layer {number}" for number in range(5)), "pooled"]
    assert torch.equal(layers["pooled"], extract_features(model, IMAGES, batch_size=4))
    pixels = eval_view(IMAGES, 16, model.config.image_mean, model.config.image_std, 1.0)
    with torch.no_grad():
        states = model.eval().simclr(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(layers["layer 2"], states[2].mean((2, 3)))
    with pytest.raises(InputError, match="leave --layers out"):
        extract_layers(Encoder("function", lambda pixels: pixels.flatten(1), None, 8), IMAGES)


def test_a_view_is_that_of_training_whatever_the_batch(model):
    encoder, augmentation = as_encoder(model), Augmentation(16)
    views = extract_view(encoder, IMAGES, augmentation, seed=3, batch_size=4)
    pixels = TwoViewCollator(augmentation, 3, views=1)(items(IMAGES))["pixel_values"][:, 0]
    with torch.no_grad():
        torch.testing.assert_close(views, model.eval().simclr(pixels).pooler_output)
    assert not torch.allclose(views, extract_view(encoder, IMAGES, augmentation, seed=4))


@pytest.mark.distributed
def test_two_processes_extract_what_one_does_and_meet_problems_together(tmp_path):
    mp.spawn(extract, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for size in (2, 3, 11):  # six batches, four with a short last one, and one, which leaves a process without
            assert torch.equal(found[f"batches of {size}"], extract_features(shared_encoder(), SHARED, batch_size=size))
        assert found["problem"] == "divides gives features that are not finite for 3 of 3 images of a batch"


class Broken(nn.Module):
    """Its second layer divides by a weight that is zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Flatten(), nn.Sequential(nn.BatchNorm1d(192)), nn.Linear(192, 4)
        self.second[0].running_var.fill_(-1)

    def forward(self, pixels):
        return self.third(self.second(self.first(pixels)))


def test_features_that_are_not_finite_name_the_layer_where_they_first_are_not():
    module = Broken()
    with pytest.raises(InputError, match=r"not finite for 4 of 4 images of a batch; the first layer .* is 'second.0'"):
        extract_features(Encoder("broken", module, module, 8), IMAGES, batch_size=4)
    nan = Encoder("broken", lambda pixels: pixels.flatten(1) * np.nan, None, 8)
    with pytest.raises(InputError, match=r"not finite for 11 of 11 images of a batch$"):
        extract_features(nan, IMAGES)


def test_no_images(model):
    with pytest.raises(InputError, match="no images"):
        extract_features(model, [])
