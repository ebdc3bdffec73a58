"""`hfssl export`: models in formats that load without hfssl and without remote code.

An encoder in timm's format:

    timm.create_model("local-dir:DIR", pretrained=True)  # or "hf-hub:ORG/NAME" once it is pushed
    transformers.AutoModel.from_pretrained("DIR")  # a TimmWrapperModel

Word vectors in word2vec's text and binary formats and as fastText's .vec:

    gensim.models.KeyedVectors.load_word2vec_format("FILE", binary=False)
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hfssl.errors import InputError, nearest, one_line
from hfssl.evaluation.encoders import load_encoder
from hfssl.evaluation.vector_files import BINARY, FASTTEXT, read_vectors, write_vectors
from hfssl.evaluation.vector_files import FORMATS as VECTOR_FORMATS
from hfssl.files import umask, usual_permissions
from hfssl.models.backbone import BackboneConfig, backbone_arguments

logger = logging.getLogger(__name__)

FORMATS = ("timm", *VECTOR_FORMATS)


def export_model(source: str, format: str, out: str | Path) -> None:
    """Writes a model in one of `FORMATS`: see `export_encoder` and `export_vectors`.

    Raises:
        InputError: an unknown format, or what those two raise.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}: one of {', '.join(FORMATS)}{nearest(format, FORMATS)}")
    if format in VECTOR_FORMATS:
        export_vectors(source, format, out)
    else:
        export_encoder(source, out)


def export_vectors(source: str, format: str, out: str | Path) -> None:
    """Writes the word vectors of a model or of a file; of n-grams or pieces each word's mean.

    Args:
        source: what `read_vectors` takes.
        format: one of its formats, see `write_vectors`.
        out: a file that is not there.

    Raises:
        InputError: no word vectors there, a file in the way, or a word with white space in it.
    """
    if Path(out).exists():
        raise InputError(f"{out} is there already; give the name of a new file as --out")
    vectors = read_vectors(source)
    write_vectors(vectors, out, format)
    logger.info(
        "%s words of width %s are in %s: gensim.models.KeyedVectors.load_word2vec_format('%s', binary=%s)",
        f"{len(vectors):,}", vectors.width, out, out, format == BINARY,
    )  # fmt: skip
    if format == FASTTEXT:
        logger.info("This is fastText's .vec; its .bin, which has the n-grams' vectors too, is not written")


def export_encoder(source: str, out: str | Path) -> None:
    """Writes config.json, model.safetensors and README.md, after they gave the encoder's features up to rounding.

    Args:
        source: a folder or Hub id of a model with a `BackboneConfig`.
        out: a folder that is not there or is empty.

    Raises:
        InputError: no such model, one that timm cannot build by name, or a folder in use.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is not empty; give another --out")
    encoder = load_encoder(source)
    config = getattr(encoder.module, "config", None)
    if not isinstance(config, BackboneConfig):
        raise InputError(f"{source!r} is no encoder of hfssl, {type(encoder.module).__name__} instead")
    if config.stem != "imagenet":
        raise InputError(
            f"timm has no name for a {config.backbone} with the stem {config.stem!r}, so it cannot build one from a "
            f"config; {source!r} loads with AutoModel and trust_remote_code, or train with model.stem imagenet"
        )
    if config.backbone_channels != config.num_channels:
        raise InputError(
            f"the encoder of {source!r} sees {config.backbone_channels} of {config.num_channels} channels, which a "
            "timm model would not know; it loads with AutoModel and trust_remote_code"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from None
    try:
        backbone = encoder.module.base_model.timm_model
        (staging / "config.json").write_text(json.dumps(_timm_config(backbone, config), indent=2) + "\n")
        save_file(
            {name: part.contiguous() for name, part in backbone.state_dict().items()}, staging / "model.safetensors"
        )
        _check(staging, encoder, source)
        _write_card(staging, out.name, config)
        if out.is_dir():
            out.rmdir()
        usual_permissions(staging)
        staging.chmod(0o777 & ~umask())  # mkdtemp makes folders that only their owner may read
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    logger.info("%s is in timm's format in %s: timm.create_model('local-dir:%s', pretrained=True)", source, out, out)


def _timm_config(backbone: torch.nn.Module, config: BackboneConfig) -> dict[str, Any]:
    declared = backbone.pretrained_cfg
    arguments = backbone_arguments(config)
    if arguments["in_chans"] == 3:
        del arguments["in_chans"]
    return {
        "architecture": config.backbone.split(".")[0],
        "num_classes": 0,
        "num_features": backbone.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [config.num_channels, config.image_size, config.image_size],
            "fixed_input_size": bool(declared.get("fixed_input_size", False)),
            "interpolation": "bilinear",
            "crop_pct": config.eval_crop_ratio,
            "crop_mode": "center",
            "mean": config.image_mean,
            "std": config.image_std,
            "first_conv": declared.get("first_conv"),
            "classifier": declared.get("classifier"),
        },
    }


@torch.no_grad()
def _check(folder: Path, encoder, source: str) -> None:
    """Loads what was written as a user would, and compares."""
    import timm

    config = encoder.module.config
    pixels = torch.randn(
        2, config.num_channels, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0)
    )
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        wanted = encoder.module.eval().base_model(pixels).pooler_output
        # Not to the bit: matrix products may differ in the last one with the alignment of the weights in memory.
        same = torch.allclose(loaded(pixels), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"timm cannot build {source!r} from a config: {one_line(error)}") from None
    if not same:
        raise InputError(f"{source!r} does more than its timm backbone: timm alone would give other features")


def _write_card(folder: Path, name: str, config: BackboneConfig) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="timm",
        tags=["timm", "transformers", "hfssl", "self-supervised"],
        pipeline_tag="image-feature-extraction",
    )
    text = f"""# {name}

The encoder of a model that hfssl trained without labels ({config.model_type}, {config.backbone}), in timm's format.

```python
model = timm.create_model("local-dir:{name}", pretrained=True)  # or "hf-hub:ORG/{name}"; features, no classifier
model = transformers.AutoModel.from_pretrained("./{name}")  # the same as a TimmWrapperModel
```
"""
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
