"""Fine-tuning the encoder: the classes and weights it starts from, that it learns, and that the encoder stays."""

import pytest
import timm
import torch
from transformers import ViTConfig, ViTModel

from hfssl.errors import InputError
from hfssl.evaluation.encoders import Encoder, as_encoder, load_encoder
from hfssl.evaluation.features import extract_features, weights_hash
from hfssl.finetuning.probe_finetuning import (
    FinetuningArguments,
    classification_model,
    fine_tuned_rows,
    supervised_encoder,
)
from hfssl.models import SimCLRConfig, SimCLRForImageClassification, SimCLRForPreTraining
from tests.evaluation.test_encoders import VIT
from tests.evaluation.test_probes import SMALL, squares

ARGUMENTS = {"finetune_augmentations": ["translation"], "finetune_batch_size": 16}


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    return as_encoder(SimCLRForPreTraining(SimCLRConfig(**SMALL)), name="ours")


def test_the_class_of_each_kind_of_model_with_its_weights(encoder):
    model = classification_model(encoder, 3)
    assert type(model) is SimCLRForImageClassification and model.classifier.out_features == 3
    assert weights_hash(model.simclr) == weights_hash(encoder.module.simclr)
    stock = as_encoder(ViTModel(ViTConfig(**VIT)), name="stock")
    model = classification_model(stock, 3)  # its classifier sees the first token, not the pooler's output
    assert weights_hash(model.vit.layernorm) == weights_hash(stock.module.layernorm)
    for net in (load_encoder("random:resnet10t"), as_encoder(timm.create_model("resnet10t", num_classes=0))):
        model = classification_model(net, 3).eval()
        assert type(model).__name__ == "TimmWrapperForImageClassification"
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            features = net.module.eval()(pixels)
            torch.testing.assert_close(model.timm_model.get_classifier()(features), model(pixel_values=pixels).logits)
    with pytest.raises(InputError, match="no weights to train"):
        classification_model(Encoder("pixels", lambda pixels: pixels), 3)


def test_a_new_classifier_follows_the_seed_and_fresh_weights_are_others(encoder):
    same = [weights_hash(classification_model(encoder, 3, seed)) for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]
    assert weights_hash(classification_model(encoder, 3, fresh=True).simclr) != weights_hash(encoder.module.simclr)


def test_fine_tuning_learns_from_a_share_of_the_labels_and_leaves_the_encoder_alone(encoder):
    before = weights_hash(encoder.module)
    args = FinetuningArguments(finetune_fractions=[0.5], finetune_epochs=12, finetune_learning_rate=0.5, **ARGUMENTS)
    rows = fine_tuned_rows(encoder, squares(120, 0), {"plain": squares(60, 1), "other": squares(30, 2)}, 2, args)
    assert [(row.encoder, row.test, row.protocol, row.labels, row.seeds) for row in rows] == [
        ("ours", "plain", "fine-tuned", "50 %", 2),
        ("ours", "other", "fine-tuned", "50 %", 2),
    ]
    assert all(row.accuracy > 0.8 for row in rows)
    assert weights_hash(encoder.module) == before


def test_the_supervised_anchor_is_the_architecture_trained_from_nothing(encoder):
    args = FinetuningArguments(supervised_steps=4, **ARGUMENTS)
    made = supervised_encoder(encoder, squares(60, 0), args)
    assert made.name == "supervised, 4 steps" and made.image_size == encoder.image_size
    features = extract_features(made, squares(5, 1))
    assert features.shape == (5, 16)
    again = supervised_encoder(encoder, squares(60, 0), args)
    assert torch.equal(features, extract_features(again, squares(5, 1)))
    untrained = classification_model(encoder, 3, fresh=True)
    assert weights_hash(made.module.simclr) != weights_hash(untrained.simclr)


def test_an_image_a_process_is_too_few_to_train_on(encoder, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    images = squares(2, 0, classes=2)
    with pytest.raises(InputError, match="2 labelled images are too few to train on with 2 process"):
        fine_tuned_rows(encoder, images, {"plain": images}, 1, FinetuningArguments(**ARGUMENTS))


def test_a_timm_model_whose_settings_are_not_known():
    net = as_encoder(timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, num_classes=0))
    with pytest.raises(InputError, match="its weights do not fit TimmWrapperForImageClassification"):
        classification_model(net, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"finetune_batch_size": 1}, "at least 2"),
        ({"finetune_fractions": [2.0]}, "between 0 and 1"),
        ({"finetune_augmentations": ["flop"]}, "did you mean 'flip'"),
        ({"supervised_steps": -1}, "at least 0"),
    ],
)
def test_flags(flags, message):
    with pytest.raises(InputError, match=message):
        FinetuningArguments(**flags)
