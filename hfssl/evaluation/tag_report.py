"""What a tagger's codes know of parts of speech: many-to-one, V-measure and the rest, beside codes without learning."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from hfssl.data.word_windows import WordWindows, collate_words, read_tagged
from hfssl.errors import InputError, one_line
from hfssl.evaluation.clustering import clustering_scores
from hfssl.evaluation.code_report import check_file
from hfssl.files import is_missing_folder, write_whole
from hfssl.remote_code import pinned_model


@dataclass
class TagArguments:
    """Whose codes, and which tagged text."""

    model: str = field(metadata={"help": "A directory or a Hub id that pretrain_tagger.py saved."})
    tagged_path: str = field(
        metadata={"help": "A file or a folder of them: CoNLL-U (.conllu), or word/tag as the Brown corpus is written."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    out: str | None = field(default=None, metadata={"help": "Also write the numbers to this JSON file."})


def score_tags(args: TagArguments) -> dict[str, list[dict[str, float]]]:
    """The scores of a tagger's codes on tagged text, and of three that learned nothing, see `clustering_scores`.

    The m - 1 most frequent words, each a code, and one code for all others; the same net with random weights; one code
    for all.

    Raises:
        InputError: no such model or text.
    """
    if args.out:
        check_file(args.out)
    sentences = read_tagged(args.tagged_path)
    model, tokenizer = load_tagger(args.model, args.trust_remote_code)
    words = [[word for word, _ in sentence] for sentence in sentences]
    flat = [word for sentence in words for word in sentence]
    tags = [tag for sentence in sentences for _, tag in sentence]
    labels = np.unique(tags, return_inverse=True)[1]
    windows = WordWindows(words, tokenizer, model.config.window, args.tagged_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(model)(copy.deepcopy(model.config))
    found = {
        "co-training": tag_codes(model, windows),
        "frequent words": frequent_words(flat, model.config.num_codes),
        "random init": tag_codes(fresh, windows),
        "one code": np.zeros(len(flat), dtype=np.int64),
    }
    scores = {name: [clustering_scores(codes, labels)] for name, codes in found.items()}
    if args.out:
        record = {"settings": asdict(args), "words": len(flat), "tags": len(set(tags)), "scores": scores}
        write_whole(args.out, json.dumps(record, indent=1) + "\n")
    return scores


def load_tagger(source: str, trust_remote_code: bool = False):
    """A saved tagger and its tokenizer; InputError if there is none."""
    model, tokenizer = load_with_tokenizer(source, trust_remote_code)
    if model.main_input_name != "windows":
        raise InputError(f"{source!r} is no tagger: it is {type(model).__name__}")
    return model, tokenizer


def load_with_tokenizer(source: str, trust_remote_code: bool = False):
    """A model for pretraining and its tokenizer.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoModelForPreTraining, AutoTokenizer

    import hfssl.models  # noqa: F401  registers our classes, so that they need no remote code

    if is_missing_folder(source):
        raise InputError(f"no model directory {source!r}")
    place = pinned_model(source, trust_remote_code)
    try:
        model = AutoModelForPreTraining.from_pretrained(place, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a model from {source!r}: {one_line(error)}") from None
    return model, tokenizer


@torch.inference_mode()
def tag_codes(model, windows: WordWindows, batch_size: int = 1024) -> np.ndarray:
    """The likeliest code of each word, (N,). It depends on the word alone, so each word is asked once."""
    model.eval()
    kinds, back = windows.kinds()
    codes = []
    for first in range(0, len(kinds), batch_size):
        batch = collate_words([windows[i] for i in kinds[first : first + batch_size]])
        codes.append(model(**batch, return_loss=False).codes.argmax(1))
    return torch.cat(codes).numpy()[back]


def frequent_words(words: Sequence[str], codes: int) -> np.ndarray:
    """The most frequent words have a code each and all others share the last, (N,)."""
    named = {word: code for code, (word, _) in enumerate(Counter(words).most_common(codes - 1))}
    return np.array([named.get(word, codes - 1) for word in words])
