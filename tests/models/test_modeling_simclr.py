import inspect

import pytest
import torch

from hfssl.models import SimCLRConfig, SimCLRForImageClassification, SimCLRForPreTraining, SimCLRModel, nt_xent

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 16,
    "stem": "cifar",
    "projection_dim": 12,
    "logit_temperature": 0.5,
}


WITHOUT_BATCHNORM = SMALL["backbone_kwargs"] | {"norm_layer": "groupnorm1"}


def small(**changes):
    torch.manual_seed(0)
    return SimCLRForPreTraining(SimCLRConfig(**SMALL | changes))


@pytest.fixture
def model():
    return small()


def test_the_loss_is_nt_xent_of_the_projections(model):
    views = torch.randn(5, 2, 3, 16, 16)
    output = model(views)
    assert output.projections.shape == (5, 2, 12)
    assert output.embeddings.shape == (5, 2, 16)
    expected = nt_xent(output.projections[:, 0], output.projections[:, 1], 0.5)
    assert torch.equal(output.loss, expected)
    assert model(views, return_loss=False).loss is None
    assert model(views, return_dict=False)[0] == output.loss


def test_a_chunked_loss_is_the_same(model):
    views = torch.randn(5, 2, 3, 16, 16)
    plain = model(views).loss
    model.config.loss_chunk_size = 3
    torch.testing.assert_close(model(views).loss, plain)


def test_one_view_gives_embeddings_and_no_loss(model):
    model.eval()
    images = torch.randn(5, 3, 16, 16)
    output = model(images)
    assert output.loss is None and output.projections.shape == (5, 12)
    assert torch.equal(output.embeddings, model.simclr(images).pooler_output)


def test_both_views_go_through_batchnorm_together(model):
    """The statistics are those of 2B images: the result differs from two passes, as in the authors' code."""
    views = torch.randn(4, 2, 3, 16, 16)
    together = model(views).projections
    apart = torch.stack([model(view).projections for view in views.unbind(1)], 1)
    assert not torch.allclose(together, apart)
    model.eval()
    together = model(views).projections
    apart = torch.stack([model(view).projections for view in views.unbind(1)], 1)
    torch.testing.assert_close(together, apart)


def kinds(head):
    return [type(layer).__name__ for layer in head]


def test_the_head_is_the_paper_s(model):
    assert kinds(model.projection_head) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert model.projection_head[0].out_features == model.simclr.hidden_size
    assert small(projection_hidden_dim=40).projection_head[0].out_features == 40


def test_other_heads():
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(small(projection_layers=3).projection_head) == [*hidden, *hidden, "Linear"]  # SimCLR v2's
    assert kinds(small(projection_norm="layernorm").projection_head) == ["Linear", "LayerNorm", "ReLU", "Linear"]
    assert kinds(small(projection_norm="none").projection_head) == ["Linear", "ReLU", "Linear"]
    assert kinds(small(projection_layers=1).projection_head) == ["Linear"]
    none = small(projection_layers=0)
    output = none(torch.randn(3, 2, 3, 16, 16))
    assert torch.equal(output.projections, output.embeddings)
    authors = small(projection_last_norm=True).projection_head
    assert kinds(authors) == [*hidden, "Linear", "BatchNorm1d"]
    assert authors[3].bias is None and authors[4].bias is None and authors[4].weight is not None
    assert small(projection_norm="none").projection_head[0].bias is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"projection_layers": 3, "projection_last_norm": True, "decoupled": True},
        {"projection_norm": "layernorm", "projection_last_norm": True, "backbone_kwargs": WITHOUT_BATCHNORM},
        {"projection_layers": 0},
    ],
)
def test_every_head_is_saved_and_loaded(tmp_path, changes):
    model = small(**changes)
    views = torch.randn(5, 2, 3, 16, 16)
    model(views)
    model.save_pretrained(tmp_path)
    loaded, report = SimCLRForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(views).loss, model.eval()(views).loss)


def test_a_model_without_batch_statistics():
    model = small(projection_norm="layernorm", backbone_kwargs=WITHOUT_BATCHNORM)
    assert not [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    views = torch.randn(4, 2, 3, 16, 16)
    apart = torch.cat([model(part).projections for part in views.split(1)])
    torch.testing.assert_close(model(views).projections, apart)


def test_the_stem_for_small_images_keeps_the_resolution():
    encoder = SimCLRModel(SimCLRConfig(backbone="resnet18", stem="cifar", image_size=32)).timm_model
    assert encoder.conv1.kernel_size == (3, 3) and encoder.conv1.stride == (1, 1)
    assert not [module for module in encoder.modules() if isinstance(module, torch.nn.MaxPool2d)]
    assert encoder(torch.randn(1, 3, 32, 32)).shape == (1, 512)
    assert encoder.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_the_loss_s_kin():
    views, labels = torch.randn(6, 2, 3, 16, 16), torch.tensor([0, 1, 0, 2, 1, 0])
    output = small(decoupled=True)(views)
    z_1, z_2 = output.projections.unbind(1)
    assert torch.equal(output.loss, nt_xent(z_1, z_2, 0.5, decoupled=True))
    output = small(supervised=True)(views, labels=labels)
    assert torch.equal(output.loss, nt_xent(z_1, z_2, 0.5, labels=labels))
    assert small(supervised=True)(views, return_loss=False).loss is None
    with pytest.raises(ValueError, match="supervised: True, so labels are needed"):
        small(supervised=True)(views)
    with pytest.raises(ValueError, match="supervised: False, so labels are not used"):
        small()(views, labels=labels)


VIT = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_kwargs": {"patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3},
    "stem": "imagenet",
    "freeze_patch_embed": True,
}


def test_a_frozen_patch_embedding_gets_no_gradient_and_stays(tmp_path):
    model = small(**VIT)
    model.save_pretrained(tmp_path)
    for again in (model, SimCLRForPreTraining.from_pretrained(tmp_path)):
        frozen = {
            name: weight.detach().clone() for name, weight in again.named_parameters() if not weight.requires_grad
        }
        assert frozen.keys() == {f"simclr.timm_model.patch_embed.proj.{name}" for name in ("weight", "bias")}
        optimizer = torch.optim.AdamW(again.parameters(), 1e-2, weight_decay=0.5)
        before = again.simclr.timm_model.blocks[0].attn.qkv.weight.detach().clone()
        for _ in range(3):
            again(torch.randn(4, 2, 3, 16, 16)).loss.backward()
            assert all(again.get_parameter(name).grad is None for name in frozen)
            optimizer.step()
        assert all(torch.equal(again.get_parameter(name), value) for name, value in frozen.items())
        assert not torch.equal(again.simclr.timm_model.blocks[0].attn.qkv.weight, before)
    classifier = SimCLRForImageClassification.from_pretrained(tmp_path)
    assert all(weight.requires_grad for weight in classifier.parameters()), "fine-tuning trains all"


def test_the_trainer_can_tell_that_there_is_a_loss():
    """With labels in the signature, `PretrainingTrainer` says that evaluation needs none; see its tests."""
    assert inspect.signature(SimCLRForPreTraining.forward).parameters["return_loss"].default is True


def test_the_classifier_learns_labels():
    torch.manual_seed(0)
    model = SimCLRForImageClassification(SimCLRConfig(**SMALL, num_labels=4))
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    output = model(images, labels=labels)
    assert output.logits.shape == (8, 4)
    assert output.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(output.logits, labels).item())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_three_views_and_bad_settings_are_refused(model):
    with pytest.raises(ValueError, match="two views, not 3"):
        model(torch.randn(2, 3, 3, 16, 16))
    with pytest.raises(ValueError, match="logit_temperature must be positive"):
        SimCLRConfig(logit_temperature=0)
    with pytest.raises(ValueError, match="projection_dim must be a positive integer"):
        SimCLRConfig(projection_dim=0)
    with pytest.raises(ValueError, match="projection_layers must be 0 or more, not -1"):
        SimCLRConfig(projection_layers=-1)
    with pytest.raises(ValueError, match="unknown projection_norm 'batch'; one of batchnorm, layernorm, none"):
        SimCLRConfig(projection_norm="batch")
    with pytest.raises(ValueError, match="take one of the two"):
        SimCLRConfig(decoupled=True, supervised=True)
    with pytest.raises(ValueError, match="freeze_patch_embed: 'resnet10t' has no patch embedding"):
        small(freeze_patch_embed=True)
