"""timm inside transformers: the same initialisation bit for bit, and exact saving and loading, over many families."""

import json

import pytest
import timm
import torch
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel

from hfssl.data.augmentation import eval_view
from hfssl.models import SimCLRConfig, SimCLRForImageClassification, SimCLRForPreTraining, SimCLRModel, backbone
from hfssl.models.backbone import BackboneConfig, BackboneError, BackboneModel, create_backbone

# family: (timm name, image size, more arguments, to keep large ones small)
ARCHITECTURES = {
    "resnet": ("resnet18", 32, {}),
    "convnext": ("convnext_atto", 64, {}),
    "vit": ("vit_tiny_patch16_224", 32, {"depth": 2}),
    "swin": ("swin_tiny_patch4_window7_224", 224, {"embed_dim": 24, "num_heads": (1, 2, 4, 8)}),
    "swinv2": ("swinv2_tiny_window8_256", 64, {"embed_dim": 24, "num_heads": (1, 2, 4, 8)}),
    "beit": ("beit_base_patch16_224", 64, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "eva02": ("eva02_tiny_patch14_224", 56, {"depth": 2}),
    "dinov3": ("vit_small_patch16_dinov3", 64, {"depth": 2}),
    "mobilenet": ("mobilenetv3_small_050", 64, {}),
    "efficientnet": ("efficientnet_lite0", 64, {}),
    "regnet": ("regnetx_002", 64, {}),
    "mixer": ("mixer_s32_224", 64, {}),
    "deit": ("deit_tiny_patch16_224", 32, {"depth": 2}),
    "levit": ("levit_128s", 224, {}),
    "lambda_resnet": ("lambda_resnet26t", 64, {}),
}


def small_config(**changes):
    settings = {
        "backbone": "resnet10t",
        "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "image_size": 32,
        "stem": "cifar",
    }
    return BackboneConfig(**settings | changes)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_weights_are_timm_s_own_and_loading_is_exact(family, tmp_path):
    name, size, kwargs = ARCHITECTURES[family]
    torch.manual_seed(3)
    model = SimCLRModel(SimCLRConfig(backbone=name, backbone_kwargs=kwargs, image_size=size)).eval()
    torch.manual_seed(3)
    sized = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size and size != 224 else {}
    reference = timm.create_model(name, num_classes=0, **sized, **kwargs).eval()
    ours, theirs = model.timm_model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    model.save_pretrained(tmp_path)
    torch.manual_seed(4)
    loaded, report = SimCLRModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for (key, saved), (_, got) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(saved, got), key
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        before, after = model(pixels), loaded.eval()(pixels)
        assert torch.equal(before.pooler_output, reference(pixels))
    assert torch.equal(before.pooler_output, after.pooler_output)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert before.pooler_output.shape == (2, model.hidden_size)


def test_the_plain_transformers_initialisation_would_lose_timm_s():
    """What the base class is for: without it conv1 is drawn from N(0, 0.02)."""

    class Naive(PreTrainedModel):
        config_class = BackboneConfig

        def __init__(self, config):
            super().__init__(config)
            self.timm_model = create_backbone(config)
            self.post_init()

    config = BackboneConfig(backbone="resnet18")
    torch.manual_seed(0)
    naive = Naive(config)
    torch.manual_seed(0)
    ours = BackboneModel(config)
    assert not torch.equal(naive.timm_model.conv1.weight, ours.timm_model.conv1.weight)


def test_a_buffer_that_timm_does_not_make_again(tmp_path, monkeypatch):
    """Every hook of timm is there today; a new architecture may lack one. And loading leaves the random state alone."""

    def create(config):
        model = create_backbone(config)
        model.layer1.register_buffer("extra", torch.arange(3.0), persistent=False)
        return model

    monkeypatch.setattr(backbone, "create_backbone", create)
    BackboneModel(small_config()).save_pretrained(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    loaded = BackboneModel.from_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(loaded.timm_model.layer1.extra, torch.arange(3.0))


def test_weights_missing_from_a_checkpoint_are_drawn_by_timm(tmp_path):
    config = small_config()
    model = BackboneModel(config)
    kept = {key: value for key, value in model.state_dict().items() if "layer1" not in key}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded, report = BackboneModel.from_pretrained(tmp_path, output_loading_info=True)
    assert any("layer1" in key for key in report["missing_keys"])
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    weight = state["timm_model.layer1.0.conv1.weight"]
    fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
    assert torch.equal(state["timm_model.layer1.0.bn1.running_var"], torch.ones(weight.shape[0]))


def test_a_fixed_input_size_is_built_for_image_size():
    model = create_backbone(
        BackboneConfig(backbone="vit_tiny_patch16_224", image_size=48, backbone_kwargs={"depth": 1})
    )
    assert model.patch_embed.num_patches == 9
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 192)


@pytest.mark.parametrize(("name", "kernel"), [("resnet18", 3), ("resnet10t", None)])
def test_the_cifar_stem_keeps_the_resolution(name, kernel):
    model = create_backbone(BackboneConfig(backbone=name, stem="cifar", image_size=32)).eval()
    assert isinstance(model.maxpool, nn.Identity)
    if kernel:
        assert model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1)
    features = model.forward_features(torch.randn(1, 3, 32, 32))
    assert features.shape == (1, 512, 4, 4)
    assert model.feature_info[-1]["reduction"] == 8  # 32 / 4


def test_one_channel_and_hidden_states():
    config = small_config(num_channels=1)
    assert config.image_mean == pytest.approx([0.449], abs=1e-3)
    output = BackboneModel(config).eval()(torch.randn(2, 1, 32, 32), output_hidden_states=True)
    assert len(output.hidden_states) >= 4
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    as_tuple = BackboneModel(config)(torch.randn(2, 1, 32, 32), return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[1].shape == (2, 16)


def test_evaluation_is_deterministic():
    model = BackboneModel(small_config(backbone_kwargs={"drop_path_rate": 0.5, "drop_rate": 0.5})).eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(pixels).pooler_output, model(pixels).pooler_output)


def test_gradient_checkpointing_gives_the_same_gradients():
    model = SimCLRForPreTraining(SimCLRConfig(**small_config().to_diff_dict() | {"projection_dim": 8}))
    pixels = torch.randn(4, 2, 3, 32, 32)
    assert model.supports_gradient_checkpointing
    model(pixels).loss.backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.simclr.timm_model.grad_checkpointing and model.simclr.gradient_checkpointing
    model(pixels).loss.backward()
    for parameter, expected in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    model.gradient_checkpointing_disable()
    assert not model.simclr.timm_model.grad_checkpointing


def test_the_image_processor_prepares_pixels_as_evaluation_does(tmp_path):
    from PIL import Image

    config = SimCLRConfig(**small_config().to_diff_dict() | {"image_size": 40})
    SimCLRForImageClassification(config).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    image = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)
    ours = eval_view([image], 40, config.image_mean, config.image_std, config.eval_crop_ratio)
    theirs = processor(Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    assert theirs.shape == ours.shape == (1, 3, 40, 40)
    assert (ours - theirs).abs().max() < 1.01 / 255 / min(config.image_std)  # it rounds to 8 bits between


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet81"}, "unknown backbone 'resnet81'.*did you mean 'resnet18'"),
        ({"backbone": "hf-hub:timm/resnet18.a1_in1k"}, "unknown backbone"),
        ({"backbone": "zzzz"}, "timm.list_models"),
        ({"stem": "cifra"}, "unknown stem"),
        ({"backbone": "convnext_atto", "stem": "cifar"}, "changes a ResNet's stem"),
        ({"image_size": 0}, "positive number of pixels"),
        ({"image_mean": [0.5]}, "image_mean has 1 values for num_channels 3"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        BackboneConfig(**settings)
    assert isinstance(caught.value, BackboneError)
    assert "\n" not in str(caught.value)


def test_arguments_timm_refuses_are_reported():
    with pytest.raises(BackboneError, match=r"timm cannot build 'resnet18'.*depht"):
        create_backbone(BackboneConfig(backbone="resnet18", backbone_kwargs={"depht": 3}))
