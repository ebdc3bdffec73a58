"""timm's format loads where hfssl does not exist, by timm and transformers, and vectors by gensim, to the same bits."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hfssl.errors import InputError
from hfssl.evaluation.encoders import load_encoder
from hfssl.evaluation.features import extract_features
from hfssl.export import export_encoder, export_model
from hfssl.models import (
    CBOWConfig,
    CBOWForPreTraining,
    CPCConfig,
    CPCForPreTraining,
    SimCLRConfig,
    SimCLRForPreTraining,
    SimCLRModel,
)
from hfssl.tokenization import word_tokenizer
from tests.conftest import TINY_RESNET
from tests.without_hfssl import REFUSE_HFSSL

VIT = {
    "backbone": "vit_tiny_patch16_224", "backbone_kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 3},
    "image_size": 32, "image_mean": [0.4] * 3, "image_std": [0.2] * 3,
}  # fmt: skip
ALONE = (
    REFUSE_HFSSL
    + """
import timm, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, TimmWrapperModel
torch.set_grad_enabled(False)
pixels, results = load_file("pixels.safetensors")["pixels"], {}
for name in ("resnet", "vit"):
    by_timm = timm.create_model(f"local-dir:{name}", pretrained=True).eval()
    wrapped = AutoModel.from_pretrained(f"./{name}").eval()
    assert type(wrapped) is TimmWrapperModel
    results[f"{name} timm"] = by_timm(pixels)
    results[f"{name} transformers"] = wrapped(pixels).pooler_output
save_file({name: part.contiguous() for name, part in results.items()}, "results.safetensors")
settings = timm.data.resolve_model_data_config(by_timm)
assert settings["mean"] == [0.4] * 3 and settings["input_size"][-1] == 32 and settings["crop_pct"] == 1.0, settings
"""
)


def saved(folder, config, model=SimCLRForPreTraining):
    torch.manual_seed(0)
    made = model(config).eval()
    for name, buffer in made.named_buffers():  # statistics as if it had been trained
        if buffer.is_floating_point():
            buffer.uniform_(*((0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)))
    made.save_pretrained(folder)
    return made


def test_the_same_features_by_timm_and_transformers_without_hfssl(tmp_path):
    pixels, expected = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)), {}
    for name, settings in {"resnet": TINY_RESNET, "vit": VIT}.items():
        model = saved(tmp_path / f"{name}-hfssl", SimCLRConfig(**settings))
        export_encoder(str(tmp_path / f"{name}-hfssl"), tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"config.json", "model.safetensors", "README.md"}
        with torch.no_grad():
            expected[name] = model.simclr(pixels).pooler_output
        assert expected[name].std() > 0
    save_file({"pixels": pixels}, tmp_path / "pixels.safetensors")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "results.safetensors")
    assert len(found) == 4 and all(torch.equal(part, expected[name.split()[0]]) for name, part in found.items())
    images = (255 * torch.rand(4, 3, 40, 36)).byte()
    ours, theirs = (load_encoder(tmp_path / name) for name in ("vit-hfssl", "vit"))
    assert torch.equal(extract_features(ours, images), extract_features(theirs, images))


def test_what_timm_cannot_build_by_name_is_refused_and_nothing_is_left(tmp_path):
    saved(tmp_path / "cifar", SimCLRConfig(**TINY_RESNET, stem="cifar"))
    with pytest.raises(InputError, match="no name for a resnet10t with the stem 'cifar'"):
        export_encoder(str(tmp_path / "cifar"), tmp_path / "out")
    cpc = CPCConfig(**TINY_RESNET | {"image_size": 64}, patch_size=32, patch_stride=16, prediction_steps=1)
    saved(tmp_path / "cpc", cpc, CPCForPreTraining)
    with pytest.raises(InputError, match=r"cannot build|alone would give other features"):
        export_encoder(str(tmp_path / "cpc"), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"cifar", "cpc"}


def test_an_encoder_that_does_more_than_timm_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    saved(tmp_path / "model", SimCLRConfig(**TINY_RESNET))
    whole = SimCLRModel.forward

    def slightly_more(self, *args, **kwargs):
        output = whole(self, *args, **kwargs)
        output.pooler_output = 1.001 * output.pooler_output
        return output

    monkeypatch.setattr(SimCLRModel, "forward", slightly_more)
    with pytest.raises(InputError, match="does more than its timm backbone"):
        export_encoder(str(tmp_path / "model"), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_word_vectors_for_gensim(tmp_path, caplog):
    from gensim.models import KeyedVectors

    words = ["the", "straße", "don't"]
    model = CBOWForPreTraining(CBOWConfig(vocab_size=3, hidden_size=4, subwords="ngrams", buckets=30))
    model.set_vocabulary(words)
    model.save_pretrained(tmp_path / "cbow")
    word_tokenizer(words).save_pretrained(tmp_path / "cbow")
    with caplog.at_level("INFO", "hfssl"):
        for format in ("word2vec", "word2vec-bin", "fasttext"):
            export_model(str(tmp_path / "cbow"), format, tmp_path / format)
            loaded = KeyedVectors.load_word2vec_format(str(tmp_path / format), binary=format == "word2vec-bin")
            assert loaded.index_to_key == words  # with the means of the n-grams, which stand in no file
            assert np.array_equal(loaded.vectors, model.encode(words).numpy())
    assert "load_word2vec_format" in caplog.text and "n-grams' vectors too, is not written" in caplog.text
    with pytest.raises(InputError, match="word2vec is there already; give the name of a new file as --out"):
        export_model(str(tmp_path / "cbow"), "word2vec", tmp_path / "word2vec")


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"unknown format 'tim': one of timm, word2vec, .*; did you mean 'timm'"):
        export_model("model", "tim", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="is not empty"):
        export_encoder("model", tmp_path / "full")
    with pytest.raises(InputError, match="is no encoder of hfssl, ResNet instead"):
        export_encoder("random:resnet10t", tmp_path / "out")
