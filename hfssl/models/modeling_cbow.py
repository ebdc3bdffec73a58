"""Word vectors: CBOW with negative sampling (Mikolov et al. 2013 and 2018; the lecture), its n-grams and pieces.

A word w has two vectors, e'(w) as context and e(w) as what is predicted. With the words c around a position,

    s(w | c) = 1/|c| sum_{w' in c} e(w) . e'(w'),
    loss = ln(1 + exp(-s(w | c))) + sum_{n in N} ln(1 + exp(s(n | c))),

N being words drawn at random. The gradient to e'(w') has a factor 1/|c|, which word2vec, gensim and fastText leave out:
their context words get the whole error (Irsoy et al. 2021, "Corrected CBOW Performs as well as Skip-gram").

e'(w) may be a mean over w and its character n-grams (Bojanowski et al. 2017) or over w's BPE pieces (the lecture).
"""

from __future__ import annotations

import difflib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
import transformers.initialization as hf_init
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, cached_file

from .subwords import ngram_rows

CHOICES = {
    "architecture": ("cbow", "skipgram"),
    "objective": ("negative_sampling", "softmax"),
    "gradient": ("word2vec", "exact"),
    "subwords": ("none", "ngrams", "bpe"),
    "subword_average": ("rows", "words"),
}


class CBOWConfig(PreTrainedConfig):
    """
    Args:
        vocab_size: V, words, by falling frequency.
        hidden_size: d, of a vector.
        architecture: "cbow" (the mean of the context predicts the word) or "skipgram" (one word of it does).
        objective: "negative_sampling", or "softmax", exact over all V words: for small vocabularies.
        gradient: "exact", or "word2vec", which leaves out the 1/|c| of the average over the context (1/rows with
            `subword_average` "rows") in the gradient to the rows of e'. That to position weights is exact.
        window: words of the context on each side.
        position_weights: e'(w') at position p of the context is weighted by d_p, element by element (Mikolov et al.
            2018, eq. 4).
        subwords: what a word's e' is the mean of: "none" (its own row), "ngrams" (its own row and its n-grams', as in
            fastText) or "bpe" (its pieces' rows alone, the lecture).
        subword_average: of a context's words, "rows" (one mean over all rows of all its words, as in fastText) or
            "words" (the mean of the words' means, the lecture's).
        min_n, max_n, buckets: characters of an n-gram, and the rows that n-grams are hashed to.
        subword_vocab_size: pieces of "bpe".
        subword_entries: the rows of all words together; `CBOWModel.set_vocabulary` counts them.

    Raises:
        ValueError: a value is out of range, or two do not go together.
    """

    model_type = "cbow"
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = 20000
    hidden_size: int = 100
    architecture: str = "cbow"
    objective: str = "negative_sampling"
    gradient: str = "word2vec"
    window: int = 5
    position_weights: bool = False
    subwords: str = "none"
    subword_average: str = "rows"
    min_n: int = 3
    max_n: int = 6
    buckets: int = 2_000_000
    subword_vocab_size: int = 0
    subword_entries: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "modeling_cbow.CBOWConfig",
            "AutoModel": "modeling_cbow.CBOWModel",
            "AutoModelForPreTraining": "modeling_cbow.CBOWForPreTraining",
        }
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; one of {', '.join(choices)}")
        least = {"vocab_size": 1, "hidden_size": 1, "window": 1, "min_n": 1, "buckets": 1}
        for name, smallest in (least | {"subword_vocab_size": 0, "subword_entries": 0}).items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, not {getattr(self, name)!r}")
        if not isinstance(self.max_n, int) or self.max_n < self.min_n:
            raise ValueError(f"max_n {self.max_n!r} is less than min_n {self.min_n}")
        if (self.subwords == "bpe") != (self.subword_vocab_size > 0):
            raise ValueError(f"subwords {self.subwords!r} with {self.subword_vocab_size} pieces in subword_vocab_size")
        if self.position_weights and self.architecture == "skipgram":
            raise ValueError("position_weights weigh a context's words; skipgram's context is one word")

    @property
    def input_rows(self) -> int:
        """Rows of e': first the words, then the n-grams' buckets or the pieces."""
        return self.vocab_size + {"none": 0, "ngrams": self.buckets, "bpe": self.subword_vocab_size}[self.subwords]


class CBOWPreTrainedModel(PreTrainedModel):
    config_class = CBOWConfig
    base_model_prefix = "cbow"
    model_tags: ClassVar[list[str]] = ["hfssl", "word-vectors", "self-supervised"]


class CBOWModel(CBOWPreTrainedModel):
    """The vectors e' of words; those of a sentence's words, and their mean.

    `input_embeddings.weight` is (rows, d), see `CBOWConfig.input_rows`; `position_weights` (2 window, d) or None, for
    the positions -window to -1 and 1 to window. Buffers: `counts` (V,), how often each word was seen, 0 if unknown;
    with subwords word w's rows are `subword_rows[subword_offsets[w] : subword_offsets[w + 1]]`.
    """

    main_input_name = "input_ids"
    _auto_class = "AutoModel"
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^output_embeddings\."]

    def __init__(self, config: CBOWConfig):
        super().__init__(config)
        self.input_embeddings = nn.Embedding(config.input_rows, config.hidden_size)
        weights = nn.Parameter(torch.ones(2 * config.window, config.hidden_size)) if config.position_weights else None
        self.register_parameter("position_weights", weights)
        self.register_buffer("counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        if config.subwords != "none":
            self.register_buffer("subword_rows", torch.zeros(config.subword_entries, dtype=torch.int64))
            self.register_buffer("subword_offsets", torch.zeros(config.vocab_size + 1, dtype=torch.int64))
        self._numbers: dict[str, int] | None = None
        self._pieces: PreTrainedTokenizerFast | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Within 1/d of 0, gensim 4's and fastText's width."""
        if module is self.input_embeddings:
            hf_init.uniform_(module.weight, -1 / self.config.hidden_size, 1 / self.config.hidden_size)
        elif module is self:
            if self.position_weights is not None:
                hf_init.ones_(self.position_weights)
            for buffer in self.buffers():
                hf_init.zeros_(buffer)

    def get_input_embeddings(self) -> nn.Module:
        return self.input_embeddings

    def set_vocabulary(self, words: Sequence[str], pieces: PreTrainedTokenizerFast | None = None) -> None:
        """Names the words, and with subwords finds the rows of each.

        Args:
            words: V of them.
            pieces: with "bpe", the tokenizer that cuts a word, which stands alone, without a space before it.

        Raises:
            ValueError: their numbers are not the config's, a word comes twice or has no pieces.
        """
        config = self.config
        numbers = {word: number for number, word in enumerate(words)}
        if not len(numbers) == len(words) == config.vocab_size:
            raise ValueError(f"{len(words)} words, {len(numbers)} different, for a vocab_size of {config.vocab_size}")
        size = 0 if pieces is None else len(pieces)
        if size != config.subword_vocab_size:
            raise ValueError(f"{size} pieces for a subword_vocab_size of {config.subword_vocab_size}")
        self._numbers, self._pieces = numbers, pieces
        if config.subwords == "none":
            return
        rows, offsets, ngrams = array("q"), array("q", [0]), config.subwords == "ngrams"
        for number, (word, own) in enumerate(zip(words, self._subwords(words), strict=True)):
            if ngrams:
                rows.append(number)
            elif not own:
                raise ValueError(f"the tokenizer cuts {word!r} into no pieces")
            rows.extend(own)
            offsets.append(len(rows))
        self.subword_rows = torch.frombuffer(rows, dtype=torch.int64).to(self.device, copy=True)
        self.subword_offsets = torch.frombuffer(offsets, dtype=torch.int64).to(self.device, copy=True)
        config.subword_entries = len(rows)

    def _subwords(self, words: Sequence[str]) -> Iterator[list[int]]:
        """The rows of each word's n-grams or pieces."""
        config, first = self.config, self.config.vocab_size  # a config's attributes are slow to read
        if config.subwords == "ngrams":
            setting = (config.min_n, config.max_n, config.buckets)
            found = (ngram_rows(word, *setting) for word in words)
        elif config.subwords == "bpe" and words:
            found = self._pieces(list(words), add_special_tokens=False)["input_ids"]
        else:
            found = [[]] * len(words)
        return ([first + row for row in rows] for rows in found)

    def word_sums(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of the rows of words, and how many they are.

        Args:
            ids: (N,) words.

        Returns:
            (N, d) and (N,).

        Raises:
            ValueError: the words' rows are not known: `set_vocabulary` comes first.
        """
        if self.config.subwords == "none":
            return self.input_embeddings(ids), torch.ones_like(ids)
        if not self.config.subword_entries:
            raise ValueError("which subwords the words have is not known yet: call set_vocabulary(words) first")
        starts = self.subword_offsets[ids]
        sizes = self.subword_offsets[ids + 1] - starts
        offsets = sizes.cumsum(0) - sizes
        places = torch.arange(int(sizes.sum()), device=ids.device) + (starts - offsets).repeat_interleave(sizes)
        return F.embedding_bag(self.subword_rows[places], self.input_embeddings.weight, offsets, mode="sum"), sizes

    @torch.no_grad()
    def word_vectors(self) -> torch.Tensor:
        """e' of every word, (V, d)."""
        sums, sizes = self.word_sums(torch.arange(self.config.vocab_size, device=self.device))
        return sums / sizes[:, None]

    @torch.no_grad()
    def encode(self, words: Sequence[str]) -> torch.Tensor:
        """e' of words, (N, d); of one that training did not see, the mean of its n-grams or pieces.

        Words and pieces are those of `set_vocabulary`, or of the tokenizer.json and pieces.json beside the weights.

        Raises:
            KeyError: there is no such word, and nothing to make it from. Names words that are spelt alike.
            OSError, ValueError: no such file beside the weights, or one of another vocabulary.
        """
        if isinstance(words, str):
            raise TypeError(f"encode takes a list of words, such as [{words!r}]")
        self._read_vocabulary()
        unseen = [word for word in dict.fromkeys(words) if word not in self._numbers]
        rows = dict(zip(unseen, self._subwords(unseen), strict=True))
        for word, own in rows.items():
            if not own:
                close = difflib.get_close_matches(word, self._numbers, n=3, cutoff=0.5)
                hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
                raise KeyError(f"{word!r} is none of the {self.config.vocab_size:,} words{hint}")
        seen = torch.tensor([word not in rows for word in words], dtype=torch.bool, device=self.device)
        ids = torch.tensor([self._numbers.get(word, 0) for word in words], dtype=torch.int64, device=self.device)
        sums, sizes = self.word_sums(ids[seen])
        vectors = sums.new_empty(len(words), self.config.hidden_size)
        vectors[seen] = sums / sizes[:, None]
        for place in (~seen).nonzero()[:, 0].tolist():
            vectors[place] = self.input_embeddings.weight[rows[words[place]]].mean(0)
        return vectors

    def _read_vocabulary(self) -> None:
        """The words and pieces that lie beside the weights, in a folder or on the Hub, unless they are known."""
        if self._numbers is not None:
            return
        with open(self._beside("tokenizer.json"), encoding="utf-8") as file:
            numbers = json.load(file)["model"]["vocab"]
        words = {word: number for word, number in numbers.items() if number < self.config.vocab_size}  # no [UNK]
        if len(words) != self.config.vocab_size:
            raise ValueError(f"tokenizer.json has {len(words)} words, the model {self.config.vocab_size}")
        if self.config.subwords == "bpe":
            self._pieces = PreTrainedTokenizerFast(tokenizer_file=self._beside("pieces.json"))
        self._numbers = words

    def _beside(self, name: str) -> str:
        source = self.config._name_or_path
        if not source:
            raise OSError(f"the model was not loaded from a folder with a {name}; name its words with set_vocabulary")
        return cached_file(source, name, revision=getattr(self.config, "_commit_hash", None))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling | tuple:
        """
        Args:
            input_ids: (B, T) words; V and what lies beyond (the tokenizer's [UNK]) are none.
            attention_mask: (B, T), 1 for a word.

        Returns:
            `last_hidden_state` (B, T, d), 0 where there is no word, and `pooler_output` (B, d), the mean of a
            sentence's words: 0 if it has none.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        there = (input_ids >= 0) & (input_ids < self.config.vocab_size)
        if attention_mask is not None:
            there = there & (attention_mask > 0)
        sums, sizes = self.word_sums(input_ids[there])
        states = sums.new_zeros(*input_ids.shape, self.config.hidden_size)
        states[there] = sums / sizes[:, None]
        mean = states.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        output = BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=mean)
        return output if return_dict else output.to_tuple()


@dataclass
class CBOWOutput(ModelOutput):
    """
    loss: a scalar in nats: of a batch of B targets, 1/B of the lecture's sum.
    context_vectors: (B, d), what e(w) is multiplied with to give s(w | c).
    """

    loss: torch.Tensor | None = None
    context_vectors: torch.Tensor | None = None


class CBOWForPreTraining(CBOWPreTrainedModel):
    """Both vectors of each word and the loss. `output_embeddings.weight` (V, d) is e."""

    main_input_name = "context_ids"
    _auto_class = "AutoModelForPreTraining"
    accepts_loss_kwargs = False

    def __init__(self, config: CBOWConfig):
        super().__init__(config)
        self.cbow = CBOWModel(config)
        self.output_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """e from 0, as word2vec's."""
        if module is self.output_embeddings:
            hf_init.zeros_(module.weight)

    def set_vocabulary(self, words: Sequence[str], pieces: PreTrainedTokenizerFast | None = None) -> None:
        """See `CBOWModel.set_vocabulary`."""
        self.cbow.set_vocabulary(words, pieces)

    def word_vectors(self) -> torch.Tensor:
        """See `CBOWModel.word_vectors`."""
        return self.cbow.word_vectors()

    def encode(self, words: Sequence[str]) -> torch.Tensor:
        """See `CBOWModel.encode`."""
        return self.cbow.encode(words)

    def forward(
        self,
        context_ids: torch.Tensor,
        target_ids: torch.Tensor,
        negative_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> CBOWOutput | tuple:
        """
        Args:
            context_ids: (B, 2 window) words in the order of the positions, -1 where there is none; skip-gram: (B, 1).
                A target whose context is empty teaches nothing, and its scores are 0.
            target_ids: (B,).
            negative_ids: (B, K), -1 for one that is left out, such as a draw that hit the target. Not for "softmax".
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: the contexts are of another width, or there are no negatives where some are needed.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        vectors = self.context_vectors(context_ids)  # (B, d)
        loss = None
        if return_loss and self.config.objective == "softmax":
            loss = F.cross_entropy(vectors @ self.output_embeddings.weight.T, target_ids)
        elif return_loss:
            if negative_ids is None:
                raise ValueError("negative sampling needs negative_ids (B, K)")
            ids = torch.cat([target_ids[:, None], negative_ids], 1)  # (B, 1 + K)
            scores = (self.output_embeddings(ids.clamp(min=0)) @ vectors[:, :, None])[:, :, 0]
            losses = torch.cat(
                [F.softplus(-scores[:, :1]), F.softplus(scores[:, 1:])], 1
            )  # softplus(-s) = -ln sigma(s)
            loss = losses.masked_fill(ids < 0, 0).sum() / len(ids)
        output = CBOWOutput(loss, vectors)
        return output if return_dict else output.to_tuple()

    def context_vectors(self, context_ids: torch.Tensor) -> torch.Tensor:
        """The mean of the contexts' e', (B, d); its gradient to the rows of e' is `CBOWConfig.gradient`'s."""
        config = self.config
        width = 1 if config.architecture == "skipgram" else 2 * config.window
        if context_ids.ndim != 2 or context_ids.shape[1] != width:
            raise ValueError(f"context_ids must be (B, {width}), not {tuple(context_ids.shape)}")
        there = context_ids >= 0
        sums, sizes = self.cbow.word_sums(context_ids[there])
        if config.subword_average == "words":
            sums, sizes = sums / sizes[:, None], torch.ones_like(sizes)
        rows = sums.new_zeros(*context_ids.shape, config.hidden_size)
        rows[there] = sums
        count = torch.zeros_like(context_ids).masked_scatter(there, sizes).sum(1).clamp(min=1)[:, None]
        weights = rows.new_ones(width, 1) if self.cbow.position_weights is None else self.cbow.position_weights
        if config.gradient == "exact":
            return (rows * weights).sum(1) / count
        # The value is the mean. To the rows it has the sum's gradient, to the weights the mean's: the second term is 0.
        total = (rows * weights.detach()).sum(1)
        return (rows.detach() * weights).sum(1) / count + (total - total.detach())
