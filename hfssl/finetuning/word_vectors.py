"""Word vectors as a frozen baseline of GLUE and SuperGLUE: a sentence is the mean of its words' vectors.

The model is GLUE's CBoW (`hfssl/models/modeling_sentence.py`) with the given vectors, which do not learn, and a linear
layer on [u; v; |u - v|; u * v], which does. So its scores are of what the vectors hold, not of what a task teaches.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hfssl.errors import InputError
from hfssl.evaluation.vector_files import read_vectors
from hfssl.finetuning.builtin_models import save_whole
from hfssl.models import CBOWConfig, SentenceConfig, SentenceModel
from hfssl.sentence_module import TOKENIZERS_PATTERN
from hfssl.tokenization import BERT_TOKENS

LEARNING_RATE = 3e-3  # of the linear layer: of 1e-3 to 3e-2 the best on STS-B and MRPC, with gensim's vectors
SUFFIXES = (".vec", ".txt", ".bin", ".kv")
FOLDER = "word-vectors-"  # of a suite's output; a hash follows
SAID = (
    "The words' vectors are frozen and a sentence is the mean of its words', without those that have none; a linear "
    "layer on [u, v, |u - v|, u * v] alone learns."
)


def are_word_vectors(name: str) -> bool:
    """Whether a model's name is a file of vectors, or a folder that pretrain_cbow.py saved."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.suffix in SUFFIXES
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads it says why
    return isinstance(config, dict) and config.get("model_type") == CBOWConfig.model_type


def make_sentence_model(name: str, out: Path) -> Path:
    """The baseline as a folder inside `out`, whose name tells these vectors from others; one that is there is used.

    Raises:
        InputError: the vectors cannot be read, or all are 0.
    """
    vectors = read_vectors(name)
    digest = hashlib.blake2b("\n".join(vectors.words).encode(), digest_size=8)
    digest.update(vectors.vectors.tobytes())
    folder = out / f"{FOLDER}{digest.hexdigest()}"
    if (folder / "config.json").exists():
        return folder
    special = list(BERT_TOKENS.values())
    words = [word for word in vectors.words if word not in special]
    rows = torch.from_numpy(vectors.vectors[[vectors.rows[word] for word in words]])
    size = rows.square().mean().sqrt()
    if size == 0:
        raise InputError(f"all vectors of {name} are 0")
    config = SentenceConfig(
        vocab_size=len(special) + len(words), embedding_dim=vectors.width, hidden_size=vectors.width, classifier_dim=0,
        dropout=0.0, uncounted_tokens=len(special),
    )  # fmt: skip
    model = SentenceModel(config)
    with torch.no_grad():  # of size 1 on average, so that a learning rate means the same for all vectors
        model.embeddings.weight.zero_()[len(special) :] = rows / size
    return save_whole(model, sentence_tokenizer(words), folder)


def sentence_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Special tokens, then the words. A text is cut into words and marks, lower-cased if no word has a capital."""
    special = list(BERT_TOKENS.values())
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=BERT_TOKENS["unk_token"]))
    if all(word == word.lower() for word in words):
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{TOKENIZERS_PATTERN}|\S"), "removed", invert=True)
    first = BERT_TOKENS["cls_token"]  # no row is empty
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0", pair=f"{first}:0 $A:0 $B:1", special_tokens=[(first, vocabulary[first])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **BERT_TOKENS,
    )  # fmt: skip
