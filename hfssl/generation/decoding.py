"""Tokens after a prompt: greedy, sampled or by beam search, on top of transformers' generate."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hfssl.errors import InputError, nearest
from hfssl.generation.loading import count_positions, fit_prompt
from hfssl.generation.prompt_cache import pad_rows, shared_prompts
from hfssl.generation.scoring import evaluating, sequence_scores
from hfssl.progress import Progress

TOP_P_RULES = ("gpt2", "transformers")
# What a model's generation_config.json says of its tokens holds; what it says of sampling is the caller's to say.
_KEPT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "bad_words_ids", "suppress_tokens",
         "begin_suppress_tokens")  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: fewer are written where the model's positions end.
        temperature: of the sampling; 0 takes the likeliest token.
        top_k: sample among the k likeliest tokens, and those as likely as the k-th; 0 among all, 1 is greedy.
        top_p: sample among the likeliest tokens of this probability together; 1 among all.
        top_p_rule: "gpt2" leaves out the token that crosses top_p, "transformers" keeps it.
        num_beams: beam search; 1 is none.
        length_penalty: beams are compared by log p / length ** length_penalty, the end token counted.
        seed: of the sampling.
        first_token: what an encoder-decoder's text begins with, such as mBART's language.
        end_tokens: tokens that end a text, beside the model's own.
    """

    max_new_tokens: int = 60
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_rule: str = "gpt2"
    num_beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0
    first_token: int | None = None
    end_tokens: tuple[int, ...] = ()

    def __post_init__(self):
        if self.top_p_rule not in TOP_P_RULES:
            close = nearest(self.top_p_rule, TOP_P_RULES)
            raise InputError(f"unknown top_p_rule {self.top_p_rule!r}: one of {', '.join(TOP_P_RULES)}{close}")
        for name, right, needed in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 <= self.top_p <= 1, "from 0 to 1"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("length_penalty", math.isfinite(self.length_penalty), "a number"),
            ("seed", -(2**63) <= self.seed < 2**64, "of 64 bits"),
        ):
            if not right:  # also for a number that is none
                raise InputError(f"{name} must be {needed}, not {getattr(self, name)}")

    @property
    def samples(self) -> bool:
        return self.temperature > 0 and self.top_k != 1 and self.num_beams == 1


@dataclass(frozen=True)
class Try:
    """One continuation.

    Attributes:
        ids: its tokens, with the end token if it came to an end.
        log_p: of all of them under the model as it is, without temperature, top-k or top-p; nats.
        score: by which it was ranked, if it was.
    """

    text: str
    ids: list[int]
    log_p: float
    score: float | None = None

    @property
    def mean_log_p(self) -> float:
        return self.log_p / max(1, len(self.ids))


class GPT2TopP(LogitsProcessor):
    """GPT-2's own top-p (`top_p_logits` in sample.py): tokens whose cumulative probability is at most top_p.

    The token that crosses top_p is left out, which transformers' rule (Holtzman et al. 2020) keeps. The likeliest token
    always stays, and so do tokens as likely as the last that stays.
    """

    def __init__(self, top_p: float):
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: (B, V); what is left out becomes -inf."""
        ordered = scores.sort(descending=True).values
        kept = (ordered.softmax(-1).cumsum(-1) <= self.top_p).sum(-1, keepdim=True)  # (B, 1)
        least = ordered.gather(-1, (kept - 1).clamp(min=0))
        return scores.masked_fill(scores < least, -torch.inf)


class _LogP(LogitsProcessor):
    """Notes log p of each chosen token before anything is done to the logits, and changes nothing.

    Holds the log-probabilities of one step alone.
    """

    def __init__(self):
        self._found: list[torch.Tensor] = []  # (B,) of each token but the last
        self._last: torch.Tensor | None = None  # (B, V)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._note(input_ids)
        self._last = scores.log_softmax(-1)
        return scores

    def _note(self, ids: torch.Tensor) -> None:
        if self._last is not None:
            self._found.append(self._last.gather(1, ids[:, -1:])[:, 0])

    def finish(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        """log p (B, count) of the generated tokens, the last columns of ids."""
        if len(self._found) < count:
            self._note(ids)
        return torch.stack(self._found[:count], 1).double()


def decode(
    model, tokenizer, prompts: Sequence[list[int]], how: Decoding, tries: int = 1, batch_size: int = 32, scored=True
) -> list[list[Try]]:
    """Continues prompts. The random numbers are the caller's again afterwards.

    Prompts of one batch are padded on the left (for an encoder on the right) and masked, so that a batch gives what
    each prompt gives alone; where the positions end early, a prompt is not batched with those that have more room.
    Several samples of a prompt are one batch, and read its keys and values, which are computed once.

    Args:
        prompts: tokens.
        tries: samples of each prompt, or its best beams, at most `num_beams`.
        batch_size: prompts at a time.
        scored: compute `log_p`; without it 0.

    Returns:
        For each prompt its tries; beams in the order of their scores.

    Raises:
        InputError: a prompt is empty or leaves no position, or there are more tries than beams.
    """
    if tries < 1 or (how.num_beams > 1 and tries > how.num_beams):
        raise InputError(f"{tries} tries cannot be had" + (f" of {how.num_beams} beams" if how.num_beams > 1 else ""))
    prompts = [fit_prompt(model, ids) for ids in prompts]
    limit, seq2seq = count_positions(model), model.config.is_encoder_decoder
    rooms = [how.max_new_tokens] * len(prompts)
    if limit is not None:
        rooms = [min(how.max_new_tokens, limit - (1 if seq2seq else len(ids))) for ids in prompts]
    names = inspect.signature(model.forward).parameters
    # Without position_ids a model cannot be told where a padded prompt begins: one length a batch then.
    padded = seq2seq or "position_ids" in names

    def kind(index):
        return rooms[index], 0 if padded else len(prompts[index])

    found: list[list[Try]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: (*kind(index), len(prompts[index])), reverse=True)
    progress = Progress("writing" if len(prompts) > batch_size else "", len(prompts), "text")
    with progress, _only(model, tokenizer, how, tries) as config, _own_random_state(model, how.seed):
        for (room, _), group in itertools.groupby(order, kind):
            same = list(group)
            config.max_new_tokens = room
            for first in range(0, len(same), batch_size):
                chosen = same[first : first + batch_size]
                rows = _one_batch(model, tokenizer, [prompts[index] for index in chosen], how, tries, config, scored)
                for index, row in zip(chosen, rows, strict=True):
                    found[index] = row
                progress.update(len(chosen))
    return found


def _one_batch(model, tokenizer, prompts, how: Decoding, tries: int, config, scored: bool) -> list[list[Try]]:
    seq2seq, count = model.config.is_encoder_decoder, tries if how.samples or how.num_beams > 1 else 1
    ids, mask = pad_rows(prompts, config.pad_token_id, model.device, left=not seq2seq)  # (B, T)
    inputs, record, processors = {}, None, []
    if scored and how.num_beams == 1:
        record = _LogP()
        processors.append(record)
    if how.samples:
        if how.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(how.temperature)))
        if how.top_k:
            processors.append(TopKLogitsWarper(how.top_k))
        if how.top_p < 1:
            processors.append(GPT2TopP(how.top_p) if how.top_p_rule == "gpt2" else TopPLogitsWarper(how.top_p))
        if not seq2seq and count > 1:
            inputs = shared_prompts(model, ids, mask, count)
            ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config,
            logits_processor=LogitsProcessorList(processors), **inputs,
        )  # fmt: skip
    new = out[:, 1 if seq2seq else ids.shape[1] :]
    texts = [_until_end(row, config.eos_token_id or []) for row in new.tolist()]
    if record is not None:
        values = record.finish(out, new.shape[1])
        log_p = [float(row[: len(text)].sum()) for row, text in zip(values, texts, strict=True)]
    elif scored:
        given = [prompt for prompt in prompts for _ in range(count)]
        whole = [prompt + text for prompt, text in zip(given, texts, strict=True)]
        log_p = sequence_scores(model, whole, [len(prompt) for prompt in given])[0].tolist()
    else:
        log_p = [0.0] * len(texts)
    said = tokenizer.batch_decode(texts, skip_special_tokens=True)
    made = [Try(*parts) for parts in zip(said, texts, log_p, strict=True)]
    return [made[first : first + count] * (tries // count) for first in range(0, len(made), count)]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids))]


@contextlib.contextmanager
def _only(model, tokenizer, how: Decoding, tries: int) -> Iterator[GenerationConfig]:
    """The model in evaluation, with these settings and no others: generate fills up what it is given with the model's
    own, which may name penalties and lengths."""
    own = model.generation_config
    ends = [own.eos_token_id] if isinstance(own.eos_token_id, int) else list(own.eos_token_id or [])
    ends += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ends = list(dict.fromkeys([*ends, *how.end_tokens]))
    size = model.get_input_embeddings().num_embeddings
    pads = [tokenizer.pad_token_id, own.pad_token_id, *ends, 0]  # masked, so that any token that there is will do
    config = GenerationConfig(
        do_sample=how.samples, num_beams=how.num_beams, eos_token_id=ends or None,
        pad_token_id=next(pad for pad in pads if pad is not None and pad < size),
        num_return_sequences=tries if how.num_beams > 1 or (how.samples and model.config.is_encoder_decoder) else 1,
        temperature=1.0, top_k=0 if how.samples else None, top_p=1.0,
        **({"length_penalty": float(how.length_penalty), "early_stopping": False} if how.num_beams > 1 else {}),
        **{name: getattr(own, name) for name in _KEPT},
    )  # fmt: skip
    if how.first_token is not None:
        config.forced_bos_token_id = how.first_token
    model.generation_config = config
    try:
        with evaluating(model):
            yield config
    finally:
        model.generation_config = own


@contextlib.contextmanager
def _own_random_state(model, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
