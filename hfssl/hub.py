"""What accompanies a model to the Hub: its card."""

from __future__ import annotations

import json
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfssl import __version__

# How a saved model loads, and the paper it follows, by its config's model_type. Vision methods carry their own code.
LOADERS = {
    "gpt2": ("AutoModelForCausalLM", "text-generation"),
    "llama": ("AutoModelForCausalLM", "text-generation"),
    "bert": ("AutoModelForMaskedLM", "fill-mask"),
    "hfssl_tagger": ("AutoModelForPreTraining", "token-classification"),
}
PAPERS = {
    "gpt2": "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    "llama": "Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models, https://huggingface.co/papers/2302.13971",
    "bert": "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, https://huggingface.co/papers/1810.04805",
    "hfssl_colorization": "Larsson et al. 2016, Learning Representations for Automatic Colorization, "
    "https://huggingface.co/papers/1603.06668",
    "hfssl_context_encoder": "Pathak et al. 2016, Context Encoders: Feature Learning by Inpainting, "
    "https://huggingface.co/papers/1604.07379",
    "hfssl_cotraining": "McAllester 2018, Information Theoretic Co-Training, https://huggingface.co/papers/1802.07572",
    "hfssl_cpc": "van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding, "
    "https://huggingface.co/papers/1807.03748",
    "hfssl_tagger": "Stratos 2019, Mutual Information Maximization for Simple and Accurate Part-Of-Speech Induction, "
    "https://huggingface.co/papers/1804.07849",
    "hfssl_simclr": "Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, "
    "https://huggingface.co/papers/2002.05709",
}


SHOWN = ("eval_loss", "eval_unigram_loss", "eval_perplexity", "eval_bits_per_byte", "eval_accuracy")  # of the metrics


def loading_code(folder: str | Path, repository: str | None = None) -> str:
    """Three lines of Python that load a saved directory, or the Hub repository it is in; hfssl need not be installed.

    A folder is named as seen from the one it lies in: "./gpt", since "gpt" alone would be sought on the Hub.
    """
    name = repository or f"./{Path(folder).resolve().name}"
    config = json.loads((Path(folder) / "config.json").read_text())
    if config["model_type"] in LOADERS:
        auto_class, _ = LOADERS[config["model_type"]]
        own_code = ", trust_remote_code=True" if "auto_map" in config else ""
        return (
            f"from transformers import {auto_class}, AutoTokenizer\n"
            f'model = {auto_class}.from_pretrained("{name}"{own_code})\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
        )
    return (
        "from transformers import AutoModel\n"
        f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True)  # the encoder\n'
        "# to fine-tune: AutoModelForImageClassification.from_pretrained(..., num_labels=10, trust_remote_code=True)"
    )


def write_model_card(
    folder: str | Path,
    run: dict[str, Any],
    figures: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Writes README.md beside a saved model.

    Args:
        run: the run's record, as in its run.json.
        figures: name and value of each figure, with its protocol and anchors in the name; only measured ones.
        notes: limits and remarks, a paragraph each.
    """
    from huggingface_hub import ModelCard, ModelCardData

    folder = Path(folder)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    _, pipeline_tag = LOADERS.get(model_type, ("", "image-feature-extraction"))
    data = ModelCardData(
        library_name="transformers",
        tags=["hfssl", "self-supervised", model_type],
        pipeline_tag=pipeline_tag,
    )
    labels = "with" if run.get("collator", {}).get("labels") else "without"
    rows = [(name, value) for name, value in figures]
    rows += [(name, f"{value:.4f}") for name, value in run.get("metrics", {}).items() if name in SHOWN]
    parts = [
        f"# {folder.resolve().name}",
        f"Pretrained from scratch, {labels} labels, with hfssl {__version__}.",
        f"Method: {PAPERS.get(model_type, model_type)}.",
        "## Load it",
        f"```python\n{loading_code(folder, run.get('repository'))}\n```",
        "## Data",
        run.get("dataset") or "not recorded",
        "## Training",
        _settings(run),
    ]
    if rows:
        parts += ["## Figures", "| figure | value |\n|---|---|\n" + "\n".join(f"| {n} | {v} |" for n, v in rows)]
    for prompt, text in run.get("samples", {}).items():
        heading = (
            [] if "## Samples" in parts else ["## Samples", "Of the last look at fixed prompts; | ends the prompt."]
        )
        parts += [*heading, textwrap.indent(f"{prompt}|{text}", "    ", lambda line: True)]  # as it is, not as Markdown
    parts += ["## Limits", *(notes or ["Not evaluated beyond the figures above."])]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    card.save(folder / "README.md")


def _settings(run: dict[str, Any]) -> str:
    arguments = run.get("arguments", {})
    settings = arguments | run.get("collator", {})
    lines = [f"* {name}: {value}" for name, value in settings.items() if value not in (None, 0, 0.0)]
    if "seconds" in run:
        lines.append(f"* time: {run['seconds']:.0f} s on {run.get('hardware', platform.machine())}")
    return "\n".join(lines) or "not recorded"
