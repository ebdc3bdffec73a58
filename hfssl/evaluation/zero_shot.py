"""Language modelling without training on the corpus, as GPT-2 was measured (Radford et al. 2019, section 3.1).

The corpora are tokenised into words; a model of plain text would mostly be tested on the blanks around commas. So the
text is made plain by fixed rules, and its log-probability is divided by the number of the corpus' own words, each line
end being one, which no tokenizer and no rule changes. The rules are ours: GPT-2's were not published.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from hfssl.data.masking import IGNORED
from hfssl.data.readers import read_documents, suffix, text_lines
from hfssl.errors import InputError
from hfssl.evaluation.language import score_language, unigram_loss

# One after the other, on a line. WikiText marks the signs inside a word: 1 @,@ 000, high @-@ school.
_WIKITEXT = (
    (r" @([-,.])@ ", r"\1"),
    (r'" ([^"]*?) "', r'"\1"'),
    (r" (['’](?:s|re|ve|ll|d|m)\b)", r"\1"),
    (r" (n['’]t\b)", r"\1"),
    (r"(\w*s) '(?= )", r"\1'"),
    (r" ([,.;:!?%)\]])", r"\1"),
    (r"([(\[$£]) ", r"\1"),
)
# The Penn treebank of Mikolov et al. 2010: lower case, no punctuation, numbers are N.
_PTB = (
    (r" ('(?:s|re|ve|ll|d|m)\b)", r"\1"),
    (r" (n't\b)", r"\1"),
    (r"(\w*s) '(?= )", r"\1'"),
    (r"([$#]) ", r"\1"),
    (r" (%|\.)", r"\1"),
)
RULES = {"WikiText-2": _WIKITEXT, "PTB": _PTB}


def detokenize(line: str, corpus: str) -> str:
    """A line of a corpus as plain text; "<unk>" stays as it stands."""
    for pattern, plain in RULES[corpus]:
        line = re.sub(pattern, plain, line)
    return line.strip()


class Windows(Dataset):
    """Tokens in windows that overlap, each token predicted once, with the tokens before it in its window in sight.

    Args:
        ids: (N,), the first of which is not predicted.
        context: tokens of a window.
        stride: predicted tokens of each window but the first, which has no others before it.
    """

    def __init__(self, ids: Sequence[int], context: int, stride: int):
        if not 1 <= stride < context:
            raise InputError(f"the stride must lie between 1 and {context - 1}, below the context of {context} tokens")
        self.ids, self.context = torch.as_tensor(ids), min(context, len(ids))
        self.ends = [*range(self.context, len(ids), stride), len(ids)]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        end, before = self.ends[index], self.ends[index - 1] if index else 0
        window = self.ids[end - self.context : end]
        labels = window.clone()
        labels[: before - (end - self.context) if index else 1] = IGNORED
        return {"input_ids": window, "labels": labels}


@dataclass(frozen=True)
class ZeroShot:
    """A model on a corpus.

    Attributes:
        words, tokens: the corpus' own words with line ends, and the model's tokens of the plain text.
        word_perplexity, token_perplexity, bits_per_byte: of the same log-probability; the bytes are the corpus' own.
        unigram: the perplexity of a word for a model that knows how frequent each token of this text is.
    """

    words: int
    tokens: int
    word_perplexity: float
    token_perplexity: float
    bits_per_byte: float
    unigram: float


def score_corpus(
    model, tokenizer, path: str | Path, corpus: str, context: int, stride: int, batch_size: int = 8,
    plain: bool = True, limit: int | None = None,
) -> ZeroShot:  # fmt: skip
    """A causal model on a word-tokenised corpus, all of it as one stream after an end-of-text token.

    Args:
        corpus: a key of RULES.
        plain: detokenise.
        limit: the first so many lines alone.

    Raises:
        InputError: the file is empty or cannot be read, or the stride does not fit.
    """
    lines = list(itertools.islice(_lines(path), limit))
    words = sum(len(line.split()) + 1 for line in lines)
    size = sum(len(line.encode()) + 1 for line in lines)
    text = "\n".join(detokenize(line, corpus) if plain else line for line in lines) + "\n"
    if not text.strip():
        raise InputError(f"{path} holds no text")
    begin = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = [*begin, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    score = score_language(model, Windows(ids, context, stride), default_collate, batch_size)
    counts = np.bincount(ids[1:], minlength=model.config.vocab_size)
    total = score.loss * score.tokens
    return ZeroShot(
        words, score.tokens, _exp(total / words), score.perplexity, total / math.log(2) / size,
        _exp(unigram_loss(counts, counts) * score.tokens / words),
    )  # fmt: skip


def _lines(path: str | Path) -> Iterator[str]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no such file: {str(path)!r}")
    return text_lines(path)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


@dataclass(frozen=True)
class LastWords:
    """A model on passages whose last word is to be told (LAMBADA, Paperno et al. 2016).

    Attributes:
        passages: how many.
        accuracy: the share whose last word, all its tokens, is the likeliest at every step; no stop words filtered.
        perplexity: of the last word, exp of its mean negative log-likelihood.
    """

    passages: int
    accuracy: float
    perplexity: float


@torch.no_grad()
def score_last_words(model, tokenizer, passages: Iterable[str], context: int, batch_size: int = 8) -> LastWords:
    """A causal model on LAMBADA. Of a passage that is longer than the context its end is read.

    Raises:
        InputError: a passage of one word, or none at all.
    """
    rows = []
    for passage in passages:
        before, _, word = passage.strip().replace("``", '"').replace("''", '"').rpartition(" ")
        if not before:
            raise InputError(f"a passage needs at least two words: {passage!r}")
        target = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        rows.append(((tokenizer(before, add_special_tokens=False)["input_ids"] + target)[-context:], len(target)))
    if not rows:
        raise InputError("there is no passage")
    rows.sort(key=lambda row: len(row[0]))
    log_p, right = 0.0, 0
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        ids = torch.zeros(len(part), max(len(row) for row, _ in part), dtype=torch.long)
        wanted = torch.zeros_like(ids, dtype=torch.bool)
        for number, (row, size) in enumerate(part):
            ids[number, : len(row)] = torch.tensor(row)  # padded on the right, which no token before sees
            wanted[number, len(row) - size : len(row)] = True
        ids, wanted = ids.to(model.device), wanted[:, 1:].to(model.device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].float()  # (B, T - 1, V)
        told = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        log_p += float((told.double() * wanted).sum())
        right += int(((logits.argmax(-1) == ids[:, 1:]) | ~wanted).all(1).sum())
    return LastWords(len(rows), right / len(rows), _exp(-log_p / len(rows)))


def read_passages(path: str | Path, column: str = "text") -> list[str]:
    """The passages of a file: rows of .jsonl or .parquet, or the lines of a .txt file."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise InputError(f"no such file: {str(path)!r}")
    found = text_lines(place) if suffix(place) == ".txt" else read_documents(place, column, "utf-8")
    return [text for text in found if text.strip()]
