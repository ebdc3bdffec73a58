import pytest
import torch

from hfssl.models import CoTrainingConfig, CoTrainingForPreTraining, cotraining_loss
from tests.conftest import TINY_RESNET

SMALL = TINY_RESNET | {"image_size": 16, "stem": "cifar", "num_codes": 4}


def small(**changes):
    torch.manual_seed(0)
    return CoTrainingForPreTraining(CoTrainingConfig(**SMALL | changes))


@pytest.fixture
def views():
    return torch.randn(6, 2, 3, 16, 16)


@pytest.mark.parametrize("settings", [{}, {"beta": 0.3}, {"conditional": "posterior", "beta": -0.5}])
def test_the_loss_is_that_of_both_orders_of_each_pair(views, settings):
    model = small(**settings)
    output = model(views)
    assert output.codes.shape == (6, 2, 4) and output.embeddings.shape == (6, 2, 16)
    x, y = model.code_heads(output.embeddings.flatten(0, 1)).unflatten(0, (6, 2)).unbind(1)
    beta, conditional = settings.get("beta", 0.0), settings.get("conditional", "joint")
    terms = cotraining_loss(torch.cat([x, y]), torch.cat([y, x]), beta, conditional)
    torch.testing.assert_close(output.loss, terms.loss)
    torch.testing.assert_close(output.information, terms.information)
    torch.testing.assert_close(output.codes, torch.stack([x, y], 1).softmax(-1))
    assert output.entropy_correction.item() == pytest.approx(3 / (2 * 6))
    swapped = model(views.flip(1))
    torch.testing.assert_close(swapped.loss, output.loss)
    assert model(views, return_loss=False).loss is None
    assert model(views, return_dict=False)[0] == output.loss


def test_one_view_gives_codes_and_no_loss(views):
    model = small().eval()
    output = model(views[:, 0])
    assert output.loss is None and output.codes.shape == (6, 4)
    assert torch.equal(output.embeddings, model.cotraining(views[:, 0]).pooler_output)


def test_several_heads_and_finer_ones(views):
    model = small(num_heads=2, overclustering_codes=9)
    assert [head.out_features for head in model.code_heads.heads] == [4, 4, 9, 9]
    x, y = model(views).embeddings.unbind(1)
    losses = []
    for head in model.code_heads.heads:
        a, b = head(x), head(y)
        losses.append(cotraining_loss(torch.cat([a, b]), torch.cat([b, a])).loss)
    torch.testing.assert_close(model(views).loss, torch.stack(losses).mean())
    model.code_heads.running_loss.copy_(torch.tensor([-0.1, -0.2, -9.0, -9.0]))
    torch.testing.assert_close(model(views, return_loss=False).codes, model.code_heads.heads[1](
        torch.stack([x, y], 1)).softmax(-1))  # fmt: skip
    model(views).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("inner", ["exact", "ema", "adam:2"])
def test_the_prior_and_the_best_head_are_saved_and_loaded(tmp_path, views, inner):
    model = small(inner=inner, num_heads=2)
    for _ in range(3):
        model(views)
    model.eval().save_pretrained(tmp_path)
    loaded, report = CoTrainingForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert {name: value.tolist() for name, value in loaded.code_heads.named_buffers()} == {
        name: value.tolist() for name, value in model.code_heads.named_buffers()
    }
    with torch.no_grad():
        assert torch.equal(loaded.eval()(views).loss, model(views).loss)
    encoder = model.base_model
    encoder.save_pretrained(tmp_path / "encoder")
    fresh = CoTrainingForPreTraining.from_pretrained(tmp_path / "encoder")
    begun = small(inner=inner, num_heads=2)
    for name, buffer in fresh.code_heads.named_buffers():
        torch.testing.assert_close(buffer, begun.code_heads.get_buffer(name))


def test_it_learns_what_both_views_share():
    """Images of two colours, with noise of their own in each view: the code becomes the colour."""
    model = small(num_codes=2)
    color = torch.arange(64) % 2
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        views = color[:, None, None, None, None] * 2 - 1 + torch.randn(64, 2, 3, 16, 16)
        optimizer.zero_grad()
        output = model(views)
        output.loss.backward()
        optimizer.step()
    assert output.information > 0.9 * torch.tensor(2.0).log()
    codes = model(views, return_loss=False).codes.argmax(-1)
    assert (codes[:, 0] == codes[:, 1]).all() and (codes[:, 0] == color).float().mean() in (0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": float("nan")}, "beta must be a finite number, not nan"),
        ({"inner": "adam"}, "unknown inner optimum 'adam': exact, ema or adam:STEPS"),
        ({"inner": "adam:0"}, "unknown inner optimum 'adam:0'"),
        ({"conditional": "both"}, "unknown conditional 'both': one of joint, posterior"),
        ({"num_codes": 1}, "num_codes must be at least 2 and num_heads 1, not 1, 1"),
        ({"num_heads": 0}, "num_codes must be at least 2 and num_heads 1, not 4, 0"),
        ({"overclustering_codes": 1}, "overclustering_codes must be 0, or at least 2, not 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CoTrainingConfig(**SMALL | settings)


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="co-training has two views, not 3"):
        small()(torch.randn(2, 3, 3, 16, 16))
