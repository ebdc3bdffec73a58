"""What accompanies a model to the Hub: its card, with nothing in it that was not measured or recorded."""

from __future__ import annotations

import json
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfssl import __version__
from hfssl.data.layout import LAYOUT, Layout

# By a config's model_type. Vision methods carry their own code.
TEXT_MODELS = {  # of ours, those with a tokenizer, and the Hub's task
    "hfssl_tagger": "token-classification",
    "hfssl_hashing": "feature-extraction",
    "cbow": "feature-extraction",
}
STOCK = ("gpt2", "llama", "bert")  # of the language models that are trained here
LANGUAGE_MODELS = {"AutoModelForCausalLM": "text-generation", "AutoModelForMaskedLM": "fill-mask"}
_HEADS = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForPreTraining": "AutoModelForPreTraining",
}
PAINTERS = {
    "hfssl_colorization": ("model.colorize(images)", "hfssl colorize {name} photo.jpg"),
    "hfssl_context_encoder": ("model.inpaint(images, mask)", "hfssl inpaint {name} photo.jpg --mask mask.png"),
}
PAPERS = {
    "gpt2": "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    "llama": "Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models, https://huggingface.co/papers/2302.13971",
    "bert": "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, https://huggingface.co/papers/1810.04805",
    "cbow": "Mikolov et al. 2013, Efficient Estimation of Word Representations in Vector Space, "
    "https://huggingface.co/papers/1301.3781",
    "hfssl_colorization": "Larsson et al. 2016, Learning Representations for Automatic Colorization, "
    "https://huggingface.co/papers/1603.06668",
    "hfssl_context_encoder": "Pathak et al. 2016, Context Encoders: Feature Learning by Inpainting, "
    "https://huggingface.co/papers/1604.07379",
    "hfssl_cotraining": "McAllester 2018, Information Theoretic Co-Training, https://huggingface.co/papers/1802.07572",
    "hfssl_cpc": "van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding, "
    "https://huggingface.co/papers/1807.03748",
    "hfssl_tagger": "Stratos 2019, Mutual Information Maximization for Simple and Accurate Part-Of-Speech Induction, "
    "https://huggingface.co/papers/1804.07849",
    "hfssl_hashing": "Stratos and Wiseman 2020, Learning Discrete Structured Representations by Adversarially "
    "Maximizing Mutual Information",
    "hfssl_simclr": "Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, "
    "https://huggingface.co/papers/2002.05709",
}

CONDITIONAL = {  # by a layout's task: what it is, and its paper
    "translation": (
        "translation",
        "Wang et al. 2021, Language Models are Good Translators, https://huggingface.co/papers/2106.13627",
    ),
    "commonsense": (
        "completion of commonsense",
        "Bosselut et al. 2019, COMET: Commonsense Transformers for Automatic Knowledge Graph Construction, "
        "https://huggingface.co/papers/1906.05317",
    ),
    "dialogue": (
        "dialogue",
        "Adiwardana et al. 2020, Towards a Human-like Open-Domain Chatbot, https://huggingface.co/papers/2001.09977",
    ),
    "pairs": ("pairs of texts", ""),
}

SHOWN = {  # of the metrics: what they are, and their anchor
    "eval_loss": "loss on held-out data, nats a token, one seed",
    "eval_unigram_loss": "anchor: the same of token frequencies alone",
    "eval_perplexity": "perplexity on held-out data",
    "eval_bits_per_byte": "bits a byte on held-out data",
    "eval_accuracy": "accuracy on held-out data",
}


def loading_code(folder: str | Path, repository: str | None = None) -> str:
    """Three lines of Python that load a saved directory, or the Hub repository it is in; hfssl need not be installed.

    A folder is named as seen from the one it lies in: "./gpt", since "gpt" alone would be sought on the Hub.
    """
    folder = Path(folder)
    name = repository or f"./{folder.resolve().name}"
    if not (folder / "config.json").exists():
        return (
            "from transformers import AutoTokenizer\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
            'ids = tokenizer("some text")["input_ids"]'
        )
    config = json.loads((folder / "config.json").read_text())
    model_type, remote = str(config.get("model_type", "")), "auto_map" in config
    if model_type == "cbow":
        return (
            "from transformers import AutoModel\n"
            f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True)  # with model.encode(["word"])\n'
            f'# the mean of a text\'s words: sentence_transformers.SentenceTransformer("{name}").encode(["a text"])'
        )
    if model_type in (*TEXT_MODELS, *STOCK) or (not remote and "architectures" in config):
        helper = _helper(folder)
        auto_class = _auto_class(config)
        lines = [f"from transformers import {', '.join(sorted(filter(None, (auto_class, helper))))}"]
        own_code = ", trust_remote_code=True" if remote else ""
        lines += [f'model = {auto_class}.from_pretrained("{name}"{own_code})']
        if helper:
            variable = "tokenizer" if helper == "AutoTokenizer" else "processor"
            lines += [f'{variable} = {helper}.from_pretrained("{name}")']
        return "\n".join(lines)
    if not remote:
        return f'from transformers import AutoModel\nmodel = AutoModel.from_pretrained("{name}")'
    if model_type in PAINTERS:
        verb, command = PAINTERS[model_type]
        return (
            "from transformers import AutoModelForPreTraining\n"
            f'model = AutoModelForPreTraining.from_pretrained("{name}", trust_remote_code=True)  # with {verb}\n'
            f"# in the shell: {command.format(name=name)}; AutoModel is the encoder alone"
        )
    return (
        "from transformers import AutoModel\n"
        f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True)  # the encoder\n'
        "# to fine-tune: AutoModelForImageClassification.from_pretrained(..., num_labels=10, trust_remote_code=True)"
    )


def _helper(folder: Path) -> str | None:
    """The Auto class of what prepares a model's input, if that lies beside it."""
    if (folder / "tokenizer.json").exists() or (folder / "tokenizer_config.json").exists():
        return "AutoTokenizer"
    return "AutoImageProcessor" if (folder / "preprocessor_config.json").exists() else None


def _auto_class(config: dict[str, Any]) -> str:
    """The Auto class of the head that was saved."""
    architecture = (config.get("architectures") or [""])[0]
    for ending, auto_class in _HEADS.items():
        if architecture.endswith(ending):
            return auto_class
    return "AutoModel"


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
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    model_type = config["model_type"]
    method = "gpt2" if _auto_class(config) == "AutoModelForCausalLM" and model_type == "bert" else model_type
    layout = Layout.load(folder) if (folder / LAYOUT).exists() else None
    paper = (CONDITIONAL[layout.task][1] if layout else "") or PAPERS.get(method, "")
    rows = [(name, value) for name, value in figures]
    metrics = run.get("metrics", {})
    rows += [(text, f"{metrics[name]:.4f}") for name, text in SHOWN.items() if name in metrics]
    parts = [
        f"# {folder.resolve().name}",
        f"{_made(run, layout)}, with hfssl {__version__}.",
        f"Method: {paper or model_type}.",
        "## Load it",
        f"```python\n{loading_code(folder, run.get('repository'))}\n```",
        *([_prompting(layout)] if layout else []),
        "## Data",
        _data(run),
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
    unsaid = "Not evaluated beyond the figures above." if rows else "Not evaluated."
    parts += ["## Limits", *(notes or [unsaid])]
    if paper:
        parts += ["## Citation", f"{paper}."]
    (folder / "README.md").write_text(_head(folder) + "\n\n".join(parts) + "\n", encoding="utf-8")


def _made(run: dict[str, Any], layout: Layout | None) -> str:
    """How the model came to be."""
    begun = run.get("model", {}).get("begun_from")
    start = f"begun from another model ({begun})" if begun else "from scratch"
    if layout is not None:
        return f"Trained for {CONDITIONAL[layout.task][0]}, {start}"
    return f"Pretrained {start}, {'with' if run.get('collator', {}).get('labels') else 'without'} labels"


def _prompting(layout: Layout) -> str:
    """What a conditional model is to be given, and what it answers."""
    tags = "".join(f"; {{{name}}} is one of {', '.join(tags)}" for name, tags in layout.tags.items())
    turns = f"; at most {layout.turns} turns, with `{layout.turn}` between two" if layout.turns else ""
    return (
        f"A prompt is `{layout.source}{layout.separator}`{turns}{tags}. What follows, up to the end-of-text token, is "
        f"the answer `{layout.target}` ({LAYOUT})."
    )


def minimal_card(folder: str | Path, repository: str) -> str:
    """The card of a model or tokenizer that has none: how to load it."""
    name = repository.partition("/")[2]
    return f"{_head(Path(folder))}# {name}\n\n```python\n{loading_code(folder, repository)}\n```\n"


def _head(folder: Path) -> str:
    from huggingface_hub import ModelCardData

    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    model_type = str(config.get("model_type", ""))
    head, own = _auto_class(config), ["hfssl", "self-supervised", model_type]
    if "auto_map" in config and (model_type.startswith("hfssl_") or model_type == "cbow"):
        tag, tags = TEXT_MODELS.get(model_type, "image-feature-extraction"), own
    elif model_type in STOCK and head in LANGUAGE_MODELS:
        tag, tags = LANGUAGE_MODELS[head], own
    else:  # a model that was fine-tuned, one of others, a tokenizer
        tag = "text-classification" if head == "AutoModelForSequenceClassification" else None
        tags = ["hfssl"]
    data = ModelCardData(library_name="transformers", tags=tags, pipeline_tag=tag)
    return f"---\n{data.to_yaml()}\n---\n\n"


def _data(run: dict[str, Any]) -> str:
    """Which data, and its hash; of a file of the user's the name alone."""
    shown = shown_source(run.get("dataset") or "not recorded")
    return f"{shown} (hash {run['data']})" if run.get("data") else shown


def shown_source(source: str) -> str:
    """Where data comes from, of a file of the user's the name alone."""
    return Path(source).name if source.startswith(("/", "~", "..")) else source


def _settings(run: dict[str, Any]) -> str:
    arguments = run.get("arguments", {})
    settings = arguments | run.get("collator", {})
    lines = [f"* {name}: {value}" for name, value in settings.items() if value not in (None, 0, 0.0)]
    if "seconds" in run:
        lines.append(f"* time: {run['seconds']:.0f} s on {run.get('hardware', platform.machine())}")
    if run.get("versions"):
        lines.append(f"* versions: {', '.join(f'{name} {version}' for name, version in run['versions'].items())}")
    return "\n".join(lines) or "not recorded"
