"""A text as words: the vocabulary, the memory-mapped word numbers and the ends of the sentences; phrases.

Made once and kept in hfssl's cache, a folder that appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from hfssl.data.blocks import cache_folder, first_process_first
from hfssl.data.corpus import Corpus, tokenizer_hash
from hfssl.data.sources import TextArguments, Texts, load_texts
from hfssl.errors import InputError
from hfssl.sentence_module import WORD_PATTERN
from hfssl.tokenization import load_tokenizer

VERSION = 1
LONGEST_SENTENCE = 1000  # words; a longer one is cut (word2vec.c)
_WORD = re.compile(WORD_PATTERN)
_JOINT = "_"  # between the words of a phrase
_AT_ONCE = 4096  # times that a word is handed to the trainer of pieces


@dataclass
class WordCorpusArguments:
    """What is a word, and which words are kept."""

    tokenized: bool = field(
        default=False,
        metadata={
            "help": "White space parts the words and a line is a sentence; else words are runs of letters and digits "
            "(and apostrophes inside), in lower case, and a document is a sentence."
        },
    )
    min_count: int = field(default=5, metadata={"help": "Words that come less often are left out of the text."})
    phrase_passes: int = field(
        default=0, metadata={"help": "Passes that join words to phrases (word2phrase): 2 make up to four words one."}
    )
    phrase_threshold: float = field(
        default=200.0, metadata={"help": "Score from which a pair is joined in the first pass; each next halves it."}
    )
    corpus: str | None = field(
        default=None,
        metadata={"help": "A folder made by tokenizers_train/tokenize_text.py: its train text, for --text_path."},
    )
    cache: str | None = field(
        default=None, metadata={"help": "Where the words are kept; by default hfssl's cache (HFSSL_CACHE)."}
    )

    def __post_init__(self):
        if self.min_count < 1:
            raise InputError(f"min_count must be at least 1, not {self.min_count}")
        if self.phrase_passes < 0:
            raise InputError(f"phrase_passes must be at least 0, not {self.phrase_passes}")
        if not self.phrase_threshold > 0:
            raise InputError(f"phrase_threshold must be over 0, not {self.phrase_threshold}")


class WordCorpus:
    """Words by falling frequency (those as frequent by their code points), and the text in their numbers.

    Attributes:
        words: V strings; counts: (V,) int64, how often each stands in `ids`.
        ids: (N,) int32, the text without what is no word of the vocabulary; memory-mapped if it comes from the cache.
        ends: (S + 1,) int64; sentence s is `ids[ends[s] : ends[s + 1]]`.
        source, fingerprint: where the text comes from, and what the numbers were made from.
    """

    def __init__(self, words: list[str], counts: np.ndarray, ids: np.ndarray, ends: np.ndarray, source, fingerprint):
        self.words, self.counts, self.ids, self.ends = words, counts, ids, ends
        self.name, self.fingerprint = source, fingerprint

    def __len__(self) -> int:
        """The number of words of the text."""
        return len(self.ids)

    @property
    def source(self) -> str:
        """One line that says where the text comes from and how much it is."""
        return f"{self.name}: {len(self):,} words, {len(self.words):,} different, {len(self.ends) - 1:,} sentences"

    def check_window(self, window: int) -> None:
        """Raises InputError: the text has no more words than a window."""
        if len(self) <= window:
            raise InputError(
                f"{self.name} has {len(self)} words that come often enough, no more than the window, {window}"
            )

    def sentences(self) -> Iterator[list[str]]:
        """The text again, sentence by sentence."""
        words = np.array(self.words, dtype=object)
        for first, last in zip(self.ends[:-1], self.ends[1:], strict=True):
            yield words[self.ids[first:last]].tolist()

    def save(self, folder: Path) -> None:
        """Writes a folder for `open`; the vocabulary comes last."""
        np.save(folder / "ids.npy", self.ids)
        np.save(folder / "ends.npy", self.ends)
        np.save(folder / "counts.npy", self.counts)
        record = {"version": VERSION, "source": self.name, "fingerprint": self.fingerprint, "words": self.words}
        (folder / "words.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def open(cls, folder: str | Path) -> WordCorpus:
        """Raises InputError: the folder holds no such corpus, or a damaged one."""
        folder = Path(folder)
        try:
            record = json.loads((folder / "words.json").read_text(encoding="utf-8"))
            # Copy on write: a compiled loop takes arrays that can be written to, and read-only ones are another kind.
            ids, ends = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("ids", "ends"))
            counts = np.load(folder / "counts.npy")
            if record["version"] != VERSION or len(counts) != len(record["words"]) or ends[-1] != len(ids):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise InputError(
                f"{folder} holds no words of this version, or damaged ones; delete it and run again"
            ) from None
        return cls(record["words"], counts, ids, ends, record["source"], record["fingerprint"])


def words_of(text: str, tokenized: bool = False) -> list[list[str]]:
    """The sentences of a document, as `WordCorpusArguments.tokenized` says."""
    if tokenized:
        return [words for line in text.split("\n") if (words := line.split())]
    return [words] if (words := _WORD.findall(text.lower())) else []


def build_word_corpus(
    sentences: Iterable[Sequence[str]],
    min_count: int = 5,
    phrase_passes: int = 0,
    phrase_threshold: float = 200.0,
    source: str = "memory",
    fingerprint: str | None = None,
) -> WordCorpus:
    """Numbers the words of sentences. Its arrays take up to 15 bytes a word of the text, with phrases up to 85.

    Args:
        fingerprint: of the text; by default a hash of the numbers and the vocabulary.

    Raises:
        InputError: no word comes `min_count` times, or only one does.
    """
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    parts = [np.fromiter(map(numbers.__getitem__, words), np.int32, len(words)) for words in sentences]
    ends = np.cumsum([0, *map(len, parts)])
    ids = np.concatenate([np.empty(0, np.int32), *parts])
    del parts
    words = list(numbers)
    for turn in range(phrase_passes):
        ids, ends, words = join_phrases(ids, ends, words, min_count, phrase_threshold / 2**turn)
    ids, ends, words, counts = _keep_frequent(ids, ends, words, min_count)
    if len(words) < 2:
        found = f"only {words[0]!r} comes" if words else "no word comes"
        raise InputError(f"{source}: {found} {min_count} times (--min_count); there must be two different words")
    if fingerprint is None:
        digest = hashlib.blake2b(digest_size=16)
        for part in (ids, ends, "\n".join(words).encode()):
            digest.update(part)
        fingerprint = digest.hexdigest()
    return WordCorpus(words, counts, ids, ends, source, fingerprint)


def _keep_frequent(ids, ends, words, min_count):
    """The text and the vocabulary with the frequent words alone, numbered by frequency; long sentences are cut."""
    parts = np.array_split(ids, len(ids) // 2**20 + 1)  # bincount makes eight bytes of each number
    counts = sum(np.bincount(part, minlength=len(words)) for part in parts)
    kept = sorted(np.flatnonzero(counts >= min_count).tolist(), key=lambda number: (-counts[number], words[number]))
    new = np.full(len(words), -1, np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    ids = new[ids]
    there = ids >= 0
    ends = np.unique(ends - np.searchsorted(np.flatnonzero(~there), ends))  # less the rare words before each
    lengths = np.diff(ends)
    pieces = -(-lengths // LONGEST_SENTENCE)
    starts = np.repeat(ends[:-1], pieces)
    starts += LONGEST_SENTENCE * (np.arange(len(starts)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    ends = np.concatenate([starts, ends[-1:]]).astype(np.int64)
    return ids[there], ends, [words[number] for number in kept], counts[kept].astype(np.int64)


def join_phrases(
    ids: np.ndarray, ends: np.ndarray, words: list[str], min_count: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One pass of word2phrase (Mikolov et al. 2013b, section 4): pairs that come together far more than by chance.

    A pair a b of words of `min_count` is joined to one word "a_b" if (count(ab) - min_count) / (count(a) count(b)) N
    is over the threshold, N the words of the text; from left to right, each word into one phrase.

    Args:
        ids: (N,); ends: (S + 1,) of the sentences; words: by number.

    Returns:
        The same three with phrases; a word that is now in phrases only keeps its number.
    """
    counts = np.bincount(ids, minlength=len(words))
    same = np.ones(max(len(ids) - 1, 0), bool)  # whether a word and the next are of one sentence
    same[ends[1:-1][(ends[1:-1] > 0) & (ends[1:-1] < len(ids))] - 1] = False
    first, second = ids[:-1].astype(np.int64), ids[1:]
    near = np.flatnonzero(same & (counts[first] >= min_count) & (counts[second] >= min_count))
    codes, place, together = np.unique(first[near] * len(words) + second[near], return_inverse=True, return_counts=True)
    left, right = codes // len(words), codes % len(words)
    is_phrase = (together - min_count) / counts[left] / counts[right] * len(ids) > threshold
    numbers = {word: number for number, word in enumerate(words)}
    names = [words[a] + _JOINT + words[b] for a, b in zip(left[is_phrase], right[is_phrase], strict=True)]
    new = np.full(len(codes), -1, np.int32)
    new[is_phrase] = [numbers.setdefault(name, len(numbers)) for name in names]
    phrase = np.full(len(ids), -1, np.int32)  # that begins at each word
    phrase[near] = new[place]
    begins = phrase >= 0
    run = np.arange(len(ids)) - np.maximum.accumulate(np.where(begins, -1, np.arange(len(ids))))  # 1, 2, ... in a run
    joined = begins & (run % 2 == 1)
    gone = np.concatenate([[False], joined[:-1]])
    ids = np.where(joined, phrase, ids)[~gone]
    before = np.concatenate([[0], np.cumsum(~gone)])
    return ids, before[ends], list(numbers)


def train_pieces(corpus: WordCorpus, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that cuts the words of a text, each by itself: any other word, too, since it knows all bytes.

    Args:
        size: pieces, 256 of which are the bytes; there are fewer if the words are all whole before.

    Raises:
        InputError: fewer pieces than bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(alphabet):
        raise InputError(
            f"model.subword_vocab_size must be at least {len(alphabet)}, a piece for each byte, not {size}"
        )
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    counted = zip(corpus.words, corpus.counts.tolist(), strict=True)
    often = (f"{word} " * min(_AT_ONCE, left) for word, count in counted for left in range(count, 0, -_AT_ONCE))
    tokenizer.train_from_iterator(often, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def load_word_corpus(text: TextArguments, arguments: WordCorpusArguments) -> WordCorpus:
    """The words of a text, from the cache if they are there; the first process makes them, the others open them.

    Raises:
        InputError: as `load_texts` and `build_word_corpus`; the cache cannot be written.
    """

    def make() -> WordCorpus:
        texts = load_texts(text, "train") if arguments.corpus is None else _texts_of(Path(arguments.corpus))
        settings = {name: value for name, value in asdict(arguments).items() if name not in ("corpus", "cache")}
        identity = json.dumps({"version": VERSION, "source": texts.fingerprint(), **settings}, sort_keys=True)
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        root = Path(arguments.cache) if arguments.cache else cache_folder()
        folder = root / "words" / fingerprint
        if not folder.exists():
            try:
                _make(texts, arguments, folder, fingerprint)
            except OSError as error:
                raise InputError(f"cannot write to {root}: {error.strerror or error}; give another --cache") from error
        return WordCorpus.open(folder)

    return first_process_first(make)


def _make(texts: Texts, arguments: WordCorpusArguments, folder: Path, fingerprint: str) -> None:
    documents = tqdm(texts, desc="Reading words", unit="document", disable=None)
    sentences = (words for document in documents for words in words_of(document, arguments.tokenized))
    made = build_word_corpus(
        sentences, arguments.min_count, arguments.phrase_passes, arguments.phrase_threshold, texts.source, fingerprint
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        made.save(staging)
        if not folder.exists():  # another command may have been first
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _texts_of(folder: Path) -> Texts:
    """The documents of a tokenised text (`hfssl.data.corpus`), as text again: byte-level BPE loses nothing."""
    corpus, tokenizer = Corpus(folder / "train"), load_tokenizer(str(folder / "tokenizer"))
    if corpus.manifest["tokenizer"] != tokenizer_hash(tokenizer):
        raise InputError(f"{folder} was made with another tokenizer than the one that lies in it")

    def documents() -> Iterator[str]:
        for tokens, ends in corpus.shards():
            for first, end in zip([0, *ends[:-1]], ends, strict=True):
                yield tokenizer.decode(tokens[first : end - 1].tolist())  # without the token that ends a document

    return Texts(corpus.manifest["name"], documents, lambda: f"{corpus.manifest['source']}, decoded")
