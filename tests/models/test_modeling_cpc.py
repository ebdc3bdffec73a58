"""CPC: what a context may see, what is scored, the whole loss against a slow loop, and two processes against one."""

import inspect
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForPreTraining

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import load_images
from hfssl.models import CPCConfig, CPCForPreTraining, CPCModel, cpc_loss
from hfssl.models import modeling_cpc as module
from hfssl.models.patch_prediction import DIRECTIONS, NEGATIVES

SMALL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8, "zero_init_last": False},
    "image_size": 16,
    "stem": "cifar",
    "prediction_steps": 2,
    "skip_step": 1,
    "context_layers": 2,
    "context_dim": 8,
}
STEP = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}


def build(kind=CPCForPreTraining, **settings):
    torch.manual_seed(0)
    return kind(CPCConfig(**SMALL | settings)).double()


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# What is seen


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_context_does_not_see_the_rows_that_it_predicts(direction):
    """The classical leak. `down` is predicted from above; the other directions are its mirror images."""
    model = build(CPCModel, directions=4)
    grid = torch.randn(2, 16, 7, 7, dtype=torch.float64)
    before = model.context_grids(grid)[DIRECTIONS.index(direction)]
    down, right = STEP[direction]
    for line in range(7):  # the rows (or columns) from `line` on, as the direction counts
        changed = grid.clone()
        ahead = [u * down + v * right + (6 if down + right < 0 else 0) >= line for u in range(7) for v in range(7)]
        ahead = torch.tensor(ahead).view(7, 7)
        changed[:, :, ahead] += 1
        after = model.context_grids(changed)[DIRECTIONS.index(direction)]
        assert torch.equal(after[:, :, ~ahead], before[:, :, ~ahead])
        assert not torch.equal(after[:, :, ahead], before[:, :, ahead])


def test_pixels_below_a_row_of_patches_do_not_reach_its_context():
    model = build(CPCModel).train()
    pixels = images()
    before = model.context_grids(model(pixels).last_hidden_state)[0]
    for row in range(7):
        changed = pixels.clone()
        changed[:, :, row * 2 + 4 :] += 1  # patches are 4 pixels, 2 apart
        after = model.context_grids(model(changed).last_hidden_state)[0]
        torch.testing.assert_close(after[:, :, : row + 1], before[:, :, : row + 1], rtol=0, atol=1e-12)
        assert row == 6 or not torch.allclose(after[:, :, row + 1 :], before[:, :, row + 1 :])


def test_to_the_sides_a_context_sees_a_column_a_layer():
    model = build(CPCModel)
    grid = torch.randn(1, 16, 7, 7, dtype=torch.float64)
    changed = grid.clone()
    changed[..., 6] += 1
    moved = (model.context_grids(changed)[0] != model.context_grids(grid)[0])[0].any(0)  # (7, 7)
    assert not moved[:, :4].any() and moved[:, 4:].any(0).all()  # two layers


# What is scored


def spy(monkeypatch):
    calls, real = [], module.patch_info_nce

    def watched(predictions, patches, targets, *args):
        calls.append((predictions, targets))
        return real(predictions, patches, targets, *args)

    monkeypatch.setattr(module, "patch_info_nce", watched)
    return calls


@pytest.mark.parametrize(("steps", "skip", "directions"), [(2, 1, 1), (5, 0, 2), (6, 0, 4), (1, 5, 4)])
def test_nothing_beyond_the_grid_is_scored(monkeypatch, steps, skip, directions):
    calls = spy(monkeypatch)
    build(prediction_steps=steps, skip_step=skip, directions=directions)(images(3))
    scored = sum(predictions.shape[:2].numel() for predictions, _ in calls)
    assert scored == 3 * directions * sum(7 * (7 - skip - k) for k in range(1, steps + 1))
    assert len(calls) == directions * steps
    assert all(targets.min() >= 0 and targets.max() < 49 for _, targets in calls)


def slow_loss(model, pixels, cosines):
    """Loops over directions, steps, images and places; the contexts are the model's, checked above."""
    config = model.config
    crops = [
        [pixels[:, :, 2 * u : 2 * u + 4, 2 * v : 2 * v + 4] for v in range(7)] for u in range(7)
    ]  # patches of 4 pixels, 2 apart
    net = model.cpc.timm_model
    z = torch.stack([torch.stack([net(crop) for crop in row], -1) for row in crops], -2)  # (B, D, 7, 7)
    contexts = model.cpc.context_grids(z)
    mapped = torch.einsum("pd,bduv->buvp", model.target_map.weight, z)

    def scaled(vector):
        return vector / (vector.norm() if cosines else 1) / math.sqrt(config.logit_temperature)

    means = []
    for direction, context, steps in zip(DIRECTIONS, contexts, model.predictors, strict=False):
        for k, matrix in enumerate(steps, 1):
            down, right = ((config.skip_step + k) * step for step in STEP[direction])
            losses = []
            for b in range(len(z)):
                for u in range(7):
                    for v in range(7):
                        if not (0 <= u + down < 7 and 0 <= v + right < 7):
                            continue
                        prediction = scaled(matrix.weight @ context[b, :, u, v])
                        scores = torch.stack(
                            [prediction @ scaled(patch) for patch in mapped.flatten(0, 2)]
                        )  # of all patches of all images
                        right_one = (b * 7 + u + down) * 7 + v + right
                        losses.append(scores.logsumexp(0) - scores[right_one])
            means.append(torch.stack(losses).mean())
    return torch.stack(means).mean()


@pytest.mark.parametrize("cosines", [False, True])
def test_the_loss_equals_a_slow_loop(cosines):
    model = build(
        directions=4, prediction_steps=1, skip_step=3, projection_dim=5, logit_temperature=0.3, normalize=cosines
    )
    pixels = images()
    loss = model(pixels).loss
    assert loss.item() == pytest.approx(slow_loss(model, pixels, cosines).item(), abs=1e-12)
    model.config.loss_chunk_size = 1
    assert model(pixels).loss.item() == pytest.approx(loss.item(), abs=1e-12)
    views = model(pixels[:, None].expand(2, 1, 3, 16, 16))
    assert views.loss.item() == pytest.approx(loss.item(), abs=1e-12) and views.embeddings.shape == (2, 1, 16)


@pytest.mark.parametrize("number", [None, 5])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_uniform_critic_gives_the_logarithm_of_one_and_the_negatives(negatives, number):
    model = build(directions=2, negatives=negatives, num_negatives=number)
    with torch.no_grad():
        for parameter in model.predictors.parameters():
            parameter.zero_()
    count = number or {"all": 3 * 49 - 1, "other_images": 2 * 49, "same_image": 48}[negatives]
    assert model(images(3)).loss.item() == pytest.approx(math.log(1 + count), abs=1e-12)
    assert model.uniform_loss(3) == math.log(1 + count)


def test_drawn_negatives_are_new_in_training_and_the_same_in_evaluation():
    model = build(num_negatives=3)
    trained = [model(images()).loss.item() for _ in range(2)]
    model.eval()
    evaluated = [model(images()).loss.item() for _ in range(2)]
    assert trained[0] != trained[1] and evaluated[0] == evaluated[1]


def test_a_patch_of_one_channel():
    model = build()
    channels = torch.randint(-1, 3, (2, 1, 7, 7))
    pixels = images()
    dropped = model(pixels[:, None], patch_channels=channels)
    assert dropped.loss != model(pixels).loss
    grid = model.cpc(pixels, patch_channels=channels[:, 0]).last_hidden_state
    kept = channels[1, 0, 2, 3].item()
    crop = pixels[1:, :, 4:8, 6:10] * (
        torch.tensor(1.0) if kept < 0 else F.one_hot(torch.tensor(kept), 3)[:, None, None]
    )
    torch.testing.assert_close(grid[1, :, 2, 3], model.cpc.timm_model(crop)[0], rtol=0, atol=1e-12)


# The lecture's pairs


def test_pairs_are_scored_by_inner_products_with_the_other_y_of_the_batch():
    model = build(objective="pairs").eval()
    views = images(8).unflatten(0, (4, 2))
    output = model(views)
    x, y = output.embeddings.unbind(1)
    everyone = y.expand(4, 4, 16)
    assert output.loss.item() == pytest.approx(cpc_loss(x, everyone, torch.arange(4)).item(), abs=1e-12)
    assert torch.equal(x, model.cpc(views[:, 0]).pooler_output)
    assert model.uniform_loss(4) == math.log(4)
    model.config.normalize, model.config.logit_temperature = True, 0.25
    x, y = (2 * F.normalize(z, dim=-1) for z in (x, y))
    expected = cpc_loss(x, y.expand(4, 4, 16), torch.arange(4))
    assert model(views).loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert model(views[:, 0]).loss is None and model(views, return_loss=False).loss is None
    assert model(views, return_dict=False)[0] == model(views).loss
    with pytest.raises(ValueError, match="two views, not 1"):
        model(views[:, :1])


def test_pairs_are_saved_and_loaded(tmp_path):
    model = build(objective="pairs").float().eval()
    model.save_pretrained(tmp_path)
    views = images(4).float().unflatten(0, (2, 2))
    with torch.no_grad():
        loaded = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(views).loss, model(views).loss)
        assert not loaded.predictors and not loaded.cpc.contexts


# The representation


def test_what_is_pooled(tmp_path):
    model = build(directions=2).float().eval()
    model.save_pretrained(tmp_path)
    pixels = images().float()
    with torch.no_grad():
        grid = model.cpc(pixels).last_hidden_state
        assert grid.shape == (2, 16, 7, 7)
        contexts = torch.cat(model.cpc.context_grids(grid), 1)
        for name, expected in (("patches", grid), ("context", contexts), ("both", torch.cat([grid, contexts], 1))):
            loaded = AutoModel.from_pretrained(tmp_path, representation=name).eval()
            pooled = loaded(pixels).pooler_output
            assert pooled.shape == (2, loaded.hidden_size)
            assert torch.equal(pooled, expected.mean((2, 3)))
            assert torch.equal(pooled, loaded(pixels).pooler_output)  # nothing in it is drawn


def test_hidden_states_are_means_over_the_patches():
    model = build(CPCModel).eval()
    pixels = images()
    output = model(pixels, output_hidden_states=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, c, 7, 7) for c in (16, 8, 8, 16, 16)]
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state, rtol=0, atol=1e-12)


def test_the_trainer_can_tell_that_there_is_a_loss():
    assert inspect.signature(CPCForPreTraining.forward).parameters["return_loss"].default is True
    assert not [name for name in inspect.signature(CPCForPreTraining.forward).parameters if "label" in name]


# Settings


def test_the_grids_of_the_papers():
    for size, patch, stride in ((256, 64, 32), (64, 16, 8), (32, 8, 4), (16, 4, 2)):
        config = CPCConfig(image_size=size)
        assert (config.patch_size, config.patch_stride, config.grid_size) == (patch, stride, 7)
    assert CPCConfig(objective="pairs", image_size=64).backbone_size == 64


def test_a_batch_norm_that_is_kept_is_warned_of():
    with pytest.warns(UserWarning, match="resnet10t has 15 BatchNorm layers"):
        build(norm="keep")


def test_no_batch_norm_no_warning(recwarn):
    build()
    build(objective="pairs", norm="keep")
    assert [str(warning.message) for warning in recwarn] == []


def test_bad_settings_are_one_line():
    for settings, words in (
        ({"objective": "imag"}, "unknown objective 'imag': one of image, pairs; did you mean 'image'"),
        ({"norm": "batch"}, "unknown norm 'batch': one of layer, group, none, keep"),
        ({"negatives": "some"}, "unknown negatives"),
        ({"representation": "contexts"}, "did you mean 'context'"),
        ({"logit_temperature": 0.0}, "logit_temperature must be positive"),
        ({"directions": 3}, "directions 1, 2 or 4"),
        ({"num_negatives": 0}, "num_negatives must be a positive integer"),
        ({"patch_size": 20}, "patch_size 20 is larger than the image, image_size 16"),
        ({"prediction_steps": 6}, "need a grid of 8 rows, and there are 7 x 7 patches"),
        ({"patch_size": 8, "patch_stride": 8}, "need a grid of 4 rows, and there are 2 x 2 patches (image_size 16"),
    ):
        with pytest.raises(ValueError) as caught:
            CPCConfig(**SMALL | settings)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="3 x 3 patches are too few"):
        build()(images(2, 8))
    with pytest.raises(ValueError, match="no negatives"):
        build(negatives="other_images")(images(1))
    with pytest.raises(ValueError, match="no distractor"):
        build(objective="pairs")(images(2)[None])


# Learning and processes


def test_it_learns_on_digits():
    """It predicts rows that share no pixel with what the context sees, so that only the digit tells."""
    torch.manual_seed(0)
    digits = load_images("builtin:digits").subset(range(320))
    collate = TwoViewCollator(Augmentation(16, augmentations=["crop"], min_crop=0.6), views=1)
    wide = {"channels": [16, 32, 32, 32], "stem_width": 8}
    model = CPCForPreTraining(CPCConfig(**SMALL | {"backbone_kwargs": wide, "context_layers": 1, "context_dim": 32}))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for step in range(40):
        batch = collate([digits[i % 320] for i in range(16 * step, 16 * step + 16)])
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < model.uniform_loss(16) - 0.3


CASES = [
    (split, settings)
    for split in ([2, 2], [3, 1])
    for settings in ({"directions": 2}, {"negatives": "other_images"}, {"objective": "pairs"})
]


def _process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert dist.get_world_size() == 2
    results = []
    for split, settings in CASES:
        model = torch.nn.parallel.DistributedDataParallel(build(**settings))
        start = sum(split[:rank])
        loss = model(images(8).unflatten(0, (4, 2))[start : start + split[rank]]).loss
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        results.append((mean / 2, [parameter.grad for parameter in model.parameters()]))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one_for_any_split(tmp_path):
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for i, (_, settings) in enumerate(CASES):
        model = build(**settings)
        loss = model(images(8).unflatten(0, (4, 2))).loss
        loss.backward()
        for mean, gradients in (results[i] for results in both):
            assert mean.item() == pytest.approx(loss.item(), abs=1e-12)
            for got, parameter in zip(gradients, model.parameters(), strict=True):
                torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-12)
