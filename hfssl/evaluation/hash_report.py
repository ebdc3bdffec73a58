"""How many of a document's nearest by its bits have its label: P@100, beside TF-IDF, a random init and chance."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from hfssl.data.builtin import hash_fraction
from hfssl.data.documents import LONGEST, pad_tokens
from hfssl.errors import InputError, one_line
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.tag_report import load_with_tokenizer
from hfssl.files import write_whole

QUERIES = 0.1  # of the documents, by a hash of their text


@dataclass
class HashArguments:
    """Whose bits, and which labelled documents."""

    model: str = field(metadata={"help": "A directory or a Hub id that pretrain_hashing.py saved."})
    labelled_path: str = field(metadata={"help": "A parquet file with a text and a label a row."})
    text_column: str = field(default="text", metadata={"help": "The column of the texts."})
    label_column: str = field(default="label", metadata={"help": "The column of the labels."})
    k: int = field(default=100, metadata={"help": "Of P@k: how many of the nearest count."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that lies beside the weights."})
    out: str | None = field(default=None, metadata={"help": "Also write the numbers to this JSON file."})

    def __post_init__(self):
        if self.k < 1:
            raise InputError(f"k must be at least 1, not {self.k}")


def score_hashes(args: HashArguments) -> dict[str, float]:
    """P@k, a fraction, by name: "hashing", "random init" of the same net, "TF-IDF" (cosines, no bits), "chance".

    Raises:
        InputError: no such model or file, a column that is not there, or fewer than k documents to look among.
    """
    if args.out:
        check_file(args.out)
    texts, labels = read_labelled(args)
    is_query = np.array([hash_fraction(text) < QUERIES for text in texts])
    if is_query.all() or not is_query.any() or (~is_query).sum() < args.k:
        raise InputError(f"{len(texts)} documents are too few for P@{args.k} with a tenth of them as queries")
    model, tokenizer = load_hashing(args.model, args.trust_remote_code)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(model)(copy.deepcopy(model.config))
        fresh.token_weights.copy_(model.token_weights)
    found = {}
    for name, one in (("hashing", model), ("random init", fresh.eval())):
        bits = hash_bits(one, tokenizer, texts)
        found[name] = precision_at(bits[is_query], labels[is_query], bits[~is_query], labels[~is_query], args.k)
    found["TF-IDF"] = _tfidf(texts, labels, is_query, args.k)
    shares = np.bincount(labels[~is_query], minlength=labels.max() + 1) / (~is_query).sum()
    found["chance"] = float(shares[labels[is_query]].mean())
    if args.out:
        record = {"settings": asdict(args), "documents": len(texts), "queries": int(is_query.sum()), "scores": found}
        write_whole(args.out, json.dumps(record, indent=1) + "\n")
    return found


def read_labelled(args: HashArguments) -> tuple[list[str], np.ndarray]:
    """The texts and their labels as numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(args.labelled_path).is_file():
        raise InputError(f"no such file: {args.labelled_path!r}")
    try:
        table = pq.read_table(args.labelled_path, columns=[args.text_column, args.label_column])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"cannot read {args.labelled_path}: {one_line(error)[:200]}") from None
    if missing := {args.text_column, args.label_column} - set(table.column_names):
        raise InputError(f"{args.labelled_path} has no column {', '.join(sorted(missing))}")
    labels = np.unique([str(label) for label in table[args.label_column].to_pylist()], return_inverse=True)[1]
    return [str(text) for text in table[args.text_column].to_pylist()], labels


def load_hashing(source: str, trust_remote_code: bool = False):
    """A saved hashing model and its tokenizer; InputError if there is none."""
    model, tokenizer = load_with_tokenizer(source, trust_remote_code)
    if not hasattr(model.config, "num_bits"):
        raise InputError(f"{source!r} makes no bits: it is {type(model).__name__}")
    return model.eval(), tokenizer


@torch.inference_mode()
def hash_bits(model, tokenizer, texts: list[str], batch_size: int = 64) -> np.ndarray:
    """The likelier value of each bit of each document, uint8 (N, m)."""
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    bits = []
    for first in range(0, len(encoded), batch_size):
        rows = [np.array(ids[: 2 * LONGEST] or [0], np.int64) for ids in encoded[first : first + batch_size]]
        bits.append(model(**pad_tokens(rows), return_loss=False).codes > 0.5)
    return torch.cat(bits).numpy().astype(np.uint8)


def precision_at(
    queries: np.ndarray, query_labels: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray, k: int
) -> float:
    """The mean share of the k nearest by Hamming distance that have the query's label.

    Of documents at the same distance as the last one each counts as much as there are places left for them: the order
    of the bank decides nothing.

    Args:
        queries: 0 and 1, (M, m). bank: (N, m), N at least k.
    """
    signs = 2.0 * bank - 1
    found = []
    for query, label in zip(queries, query_labels, strict=True):
        distances = np.rint((bank.shape[1] - signs @ (2.0 * query - 1)) / 2).astype(int)
        right = (bank_labels == label).astype(float)
        last = np.partition(distances, k - 1)[k - 1]
        inside, edge = distances < last, distances == last
        places = k - inside.sum()
        found.append((right[inside].sum() + places * right[edge].mean()) / k)
    return float(np.mean(found))


def _tfidf(texts: list[str], labels: np.ndarray, is_query: np.ndarray, k: int) -> float:
    """P@k by the cosines of TF-IDF vectors, which are no bits."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    bank_texts = [text for text, query in zip(texts, is_query, strict=True) if not query]
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(bank_texts) > 1000 else 1).fit(bank_texts)
    vectors = vectorizer.transform(texts)
    similarities = (vectors[is_query] @ vectors[~is_query].T).toarray()
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return float((labels[~is_query][nearest] == labels[is_query][:, None]).mean())
