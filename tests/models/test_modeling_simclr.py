import inspect

import pytest
import torch

from hfssl.models import SimCLRConfig, SimCLRForImageClassification, SimCLRForPreTraining, nt_xent

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "image_size": 16,
    "stem": "cifar",
    "projection_dim": 12,
    "logit_temperature": 0.5,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimCLRForPreTraining(SimCLRConfig(**SMALL))


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


def test_the_head_is_the_paper_s(model):
    kinds = [type(layer).__name__ for layer in model.projection_head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert model.projection_head[0].out_features == model.simclr.hidden_size
    wide = SimCLRForPreTraining(SimCLRConfig(**SMALL, projection_hidden_dim=40))
    assert wide.projection_head[0].out_features == 40


def test_the_trainer_can_tell_that_there_is_a_loss():
    assert inspect.signature(SimCLRForPreTraining.forward).parameters["return_loss"].default is True
    assert not [name for name in inspect.signature(SimCLRForPreTraining.forward).parameters if "label" in name]


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
