"""The figures of `hfssl demo`: each with its anchors, and the check that what was saved loads elsewhere."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from hfssl.data.blocks import CausalCollator, CorpusArguments, load_text_data
from hfssl.data.builtin import builtin_texts
from hfssl.data.images import load_images
from hfssl.data.masking import MaskingCollator
from hfssl.data.sources import TextArguments
from hfssl.evaluation.encoders import load_encoder
from hfssl.evaluation.features import extract_features
from hfssl.evaluation.language import byte_entropy, most_frequent_accuracy, score_language, unigram_loss
from hfssl.evaluation.probe_data import distorted_copy
from hfssl.evaluation.probes import probe
from hfssl.generation import continue_text
from hfssl.training.checkpoint import weights_digest
from hfssl.training.run import RUN

PROMPTS = ("The function returns", "A class is", "If the file does not exist,")
BLOCK = 128
BERT_BLOCKS = 400

# Runs where hfssl cannot be imported: what a stranger with transformers alone would see.
LOADER = """
import sys
class NoHfssl:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hfssl":
            raise ModuleNotFoundError("hfssl is not installed here")
sys.meta_path.insert(0, NoHfssl())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
folder, inputs, outputs = sys.argv[1:]
inputs, results = load_file(inputs), {}
torch.set_grad_enabled(False)
results["gpt"] = AutoModelForCausalLM.from_pretrained(folder + "/gpt").eval()(inputs["ids"]).logits
results["bert"] = AutoModelForMaskedLM.from_pretrained(folder + "/bert").eval()(inputs["ids"]).logits
encoder = AutoModel.from_pretrained(folder + "/simclr", trust_remote_code=True).eval()
results["simclr"] = encoder(inputs["pixels"]).pooler_output
save_file({name: value.contiguous() for name, value in results.items()}, outputs)
"""


def score_all(folder: Path) -> dict[str, Any]:
    """Everything the report shows: "rows", "samples", "loss_anchors", "reloaded", and "map" (features, labels).

    Raises:
        RuntimeError: a loaded model is not the trained one.
    """
    rows, anchors = [], {}
    gpt = AutoModelForCausalLM.from_pretrained(folder / "gpt").eval()
    bert = AutoModelForMaskedLM.from_pretrained(folder / "bert").eval()
    simclr = AutoModelForPreTraining.from_pretrained(folder / "simclr")
    for name, model in {"gpt": gpt, "bert": bert, "simclr": simclr}.items():
        if weights_digest(model) != json.loads((folder / name / RUN).read_text())["weights"]:
            raise RuntimeError(f"the weights that {folder / name} loads with are not those that were trained")
    rows.append(_gpt_row(gpt, folder, anchors))
    rows.append(_bert_row(bert, folder, anchors))
    vision_rows, features, labels, encoder = _vision(folder)
    rows += vision_rows
    anchors["SIMCLR"] = _simclr_anchor(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "gpt")
    samples = [prompt + continue_text(gpt, tokenizer, prompt, 1, seed=1).best.text for prompt in PROMPTS]
    return {
        "rows": rows,
        "samples": samples,
        "loss_anchors": anchors,
        "reloaded": _reload_elsewhere(folder, gpt, bert, encoder),
        "map": (features, labels),
    }


def _data(folder: Path, name: str):
    style = "gpt2" if name == "gpt" else "bert"
    corpus = CorpusArguments(
        tokenizer=str(folder / f"bpe-{name}"), block_size=BLOCK, corpus_dir=str(folder / ".corpus")
    )
    return load_text_data(TextArguments(), corpus, style)


def _unigram(data) -> float:
    size = len(data.tokenizer)
    return unigram_loss(data.train.corpus.frequencies(size), data.eval.corpus.frequencies(size))


def _gpt_row(model, folder: Path, anchors: dict) -> dict[str, str]:
    data = _data(folder, "gpt")
    score = score_language(model, data.eval, CausalCollator())
    per_byte = data.eval.corpus.tokens_per_byte
    unigram = _unigram(data)
    text = "".join(builtin_texts("prose", "validation")).encode()
    anchors["GPT"] = (unigram, "unigram")
    return {
        "model": "gpt",
        "figure": "bits a byte, held-out prose",
        "ours": f"{score.bits_per_byte(per_byte):.3f}",
        "anchors": f"token unigram {unigram / math.log(2) * per_byte:.3f}, byte entropy {byte_entropy(text):.3f}",
    }


def _bert_row(model, folder: Path, anchors: dict) -> dict[str, str]:
    data = _data(folder, "bert")
    collator = MaskingCollator(data.tokenizer)
    score = score_language(model, data.eval, collator, limit=BERT_BLOCKS)
    specials = data.tokenizer.all_special_ids
    frequent = most_frequent_accuracy(
        data.eval, collator, data.train.corpus.frequencies(len(data.tokenizer)), specials, limit=BERT_BLOCKS
    )
    anchors["BERT"] = (_unigram(data), "unigram")
    return {
        "model": "bert",
        "figure": "masked tokens right, held-out prose",
        "ours": f"{score.accuracy:.3f}",
        "anchors": f"most frequent token {frequent:.3f}",
    }


def _vision(folder: Path):
    """The probe's rows, the test digits' features and labels for the map, and the encoder."""
    encoder = load_encoder(str(folder / "simclr"))
    train, test = load_images("builtin:digits", split="train"), load_images("builtin:digits", split="test")
    tests = {"plain": test, "shifted and rotated": distorted_copy(test)}
    found = {}
    for row in probe(encoder, train, tests, seeds=3).rows:
        found.setdefault((row.test, row.labels, row.protocol), []).append(row)
    rows = []
    for (images, labels, protocol), (ours, *anchors) in found.items():
        beside = ", ".join(f"{anchor.encoder} {anchor.accuracy:.3f}" for anchor in anchors)
        figure = f"{protocol}, {labels} labels, {images} digits"
        rows.append({"model": "simclr", "figure": figure, "ours": f"{ours.accuracy:.3f}", "anchors": beside})
    features = extract_features(encoder, test)
    return rows, np.asarray(features), np.asarray(test.labels), encoder.module


def _simclr_anchor(folder: Path) -> tuple[float, str]:
    batch = json.loads((folder / "simclr" / "run.json").read_text())["arguments"]["per_device_train_batch_size"]
    return math.log(2 * batch - 1), "no knowledge, ln(2B-1)"


def _reload_elsewhere(folder: Path, gpt, bert, encoder) -> dict[str, str]:
    """Loads all three where hfssl does not exist; the outputs on the same inputs must be equal."""
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(0)
    size = encoder.config.image_size
    inputs = {
        "ids": torch.randint(5, min(gpt.config.vocab_size, bert.config.vocab_size), (2, BLOCK), generator=generator),
        "pixels": torch.randn(2, 3, size, size, generator=generator),
    }
    with torch.no_grad():
        expected = {
            "gpt": gpt(inputs["ids"]).logits,
            "bert": bert(inputs["ids"]).logits,
            "simclr": encoder(inputs["pixels"]).pooler_output,
        }
    with tempfile.TemporaryDirectory() as scratch:
        save_file(inputs, f"{scratch}/inputs.safetensors")
        command = [sys.executable, "-c", LOADER, str(folder.resolve())]
        result = subprocess.run(
            [*command, f"{scratch}/inputs.safetensors", f"{scratch}/outputs.safetensors"],
            capture_output=True,
            text=True,
            cwd=scratch,
        )
        if result.returncode:
            raise RuntimeError(f"a saved model does not load without hfssl:\n{result.stderr}")
        found = load_file(f"{scratch}/outputs.safetensors")
    for name, value in expected.items():
        if not torch.equal(found[name], value):
            difference = (found[name] - value).abs().max().item()
            raise RuntimeError(f"{folder / name} gives other outputs without hfssl, by up to {difference:g}")
    return dict.fromkeys(expected, "equal, bit for bit")
