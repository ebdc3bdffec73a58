"""A task as T5 sees it: one text in, a word out (Raffel et al. 2020, section 2.4 and appendix D).

    cola sentence: The book was written by John.            -> acceptable
    mnli hypothesis: It rains. premise: The sun is out.      -> contradiction
    stsb sentence1: A man runs. sentence2: A man is running. -> 4.6

The texts are those of T5's own preprocessors (t5/data/glue_utils.py): the task's name, then each column's name with its
text, in the order of the names but for MultiRC, WiC. MultiRC's texts lose their markup. A score is rounded to the next
0.2 and written out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from hfssl.errors import InputError
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import Task
from hfssl.finetuning.encoding import TaskEncoder

STEP, HIGHEST = 0.2, 5.0  # of STS-B's scores
UNREADABLE = -1.0  # the score that T5's string_to_float gives to what is no number: below all others
# The order of the columns where it is not that of their names.
_ORDERS = {"multirc": ("question", "answer", "paragraph"), "wic": ("sentence1", "sentence2", "word")}
_AS_PAIR = {"sentence1": "premise", "sentence2": "hypothesis"}  # AX-b, which RTE's model of SuperGLUE reads
_UNFIT = {
    "wsc": "T5 generates the name that the pronoun stands for",
    "record": "its answers are names, not label words",
}


def check_task(task: Task) -> None:
    """Raises InputError for a task without label words."""
    if task.suite == "superglue" and task.name in _UNFIT:
        raise InputError(f"{task.title} has no label words ({_UNFIT[task.name]}): leave it out of --tasks for t5")


def label_words(task: Task) -> tuple[str, ...]:
    """What the model writes: the labels, of STS-B the 26 scores from 0.0 to 5.0."""
    if task.kind == "regression":
        return tuple(f"{STEP * number:.1f}" for number in range(round(HIGHEST / STEP) + 1))
    return task.labels


def word_of_score(scores: torch.Tensor) -> torch.Tensor:
    """Which of STS-B's words is nearest to each score: (B,) float to (B,) int64, in float32 as T5 rounds."""
    return (scores.float() * round(1 / STEP)).round().long().clamp(0, round(HIGHEST / STEP))


def input_texts(data: SplitData) -> list[str]:
    """The text of each row of a split."""
    task = data.task
    columns = dict(zip(task.columns, data.texts, strict=True))
    if task.name == "copa":
        columns |= {name: [pair[place] for pair in data.candidates] for place, name in enumerate(task.labels)}
    if task.name == "wic":
        columns["word"] = data.words
    if task.name == "axb":
        columns = {_AS_PAIR[name]: texts for name, texts in columns.items()}
    names = _ORDERS.get(task.name, sorted(columns))
    prefix = task.model_of or task.name
    texts = [
        " ".join([prefix, *(f"{name}: {columns[name][row]}" for name in names)]) for row in range(len(data))
    ]  # fmt: skip
    return [_without_markup(text) for text in texts] if task.name == "multirc" else texts


def _without_markup(text: str) -> str:
    return re.sub("</?b>", "", text.replace("<br>", " "))


class TextToTextEncoder(TaskEncoder):
    """Encodes `input_texts`, one row an item, also of COPA."""

    def _describe(self) -> str:
        return f"text to text {super()._describe()}"

    def _rows(self, data: SplitData) -> tuple[list[str], None, list[int]]:
        return input_texts(data), None, [1] * len(data)

    def _spans(self, data: SplitData) -> None:
        return None


class LabelWords:
    """The label words of a task as tokens of an encoder-decoder, with what it writes and how likely it finds them.

    Args:
        tokenizer: the model's.

    Raises:
        InputError: the tokenizer cannot write a word, or writes two of them alike.

    Attributes:
        words: of `label_words`.
        ids: (C, L) int64, each word's tokens with the end token, filled up with -100.
    """

    def __init__(self, task: Task, tokenizer):
        self.task, self.tokenizer = task, tokenizer
        self.words = label_words(task)
        rows = [self._tokens(word) for word in self.words]
        self.ids = torch.full((len(rows), max(map(len, rows))), -100)
        for row, tokens in enumerate(rows):
            self.ids[row, : len(tokens)] = torch.tensor(tokens)
        self._number = {self._read(tokens): number for number, tokens in enumerate(rows)}
        unknown = [word for word, tokens in zip(self.words, rows, strict=True) if tokenizer.unk_token_id in tokens]
        if unknown or len(self._number) < len(self.words):
            word = unknown[0] if unknown else self.words[0]
            raise InputError(f"the tokenizer cannot write {task.title}'s label words apart, such as {word!r}")

    def _tokens(self, word: str) -> list[int]:
        end = self.tokenizer.eos_token_id
        tokens = self.tokenizer(text_target=word)["input_ids"]
        return tokens if tokens[-1] == end else [*tokens, end]

    def _read(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def losses(self, model, inputs, labels: torch.Tensor):
        """Minus the logarithm of the probability of each item's word, nats, and the model's outputs.

        Args:
            inputs: of the encoder.
            labels: (B,) classes, or scores.

        Returns:
            (B,), and outputs with ``logits`` (B, L, V).
        """
        numbers = word_of_score(labels) if labels.is_floating_point() else labels
        targets = self.ids.to(labels.device)[numbers]  # (B, L)
        targets = targets[:, : int((targets != -100).sum(1).max())].contiguous()
        outputs = model(**inputs, labels=targets)
        return _token_losses(outputs.logits, targets), outputs

    def log_likelihoods(self, model, inputs, states) -> torch.Tensor:
        """The logarithm of each word's probability (R, C).

        Args:
            states: of the encoder, for the same `inputs`.
        """
        found = []
        for row in self.ids.to(inputs["input_ids"].device):
            targets = row[row != -100].repeat(len(inputs["input_ids"]), 1)  # (R, L)
            logits = model(encoder_outputs=states, attention_mask=inputs["attention_mask"], labels=targets).logits
            found.append(-_token_losses(logits, targets))
        return torch.stack(found, dim=1)

    def written(self, model, inputs, states) -> list[str]:
        """What the model writes by greedy decoding, as long as the longest word and one token more."""
        config, mask = model.config, inputs["attention_mask"]
        end = self.tokenizer.eos_token_id
        ids = torch.full((len(mask), 1), config.decoder_start_token_id, device=mask.device)
        done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        for _ in range(self.ids.shape[1] + 1):
            logits = model(encoder_outputs=states, attention_mask=mask, decoder_input_ids=ids).logits[:, -1]
            chosen = logits.argmax(1).masked_fill(done, end)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            done |= chosen == end
            if bool(done.all()):
                break
        rows = ids[:, 1:].tolist()
        return [self._read(row[: row.index(end)] if end in row else row) for row in rows]

    def number_of(self, text: str) -> int | None:
        """Which word a text is, or None."""
        return self._number.get(text)

    @torch.no_grad()
    def predict(self, model, inputs, greedy: bool) -> torch.Tensor:
        """What the rest of the pipeline takes for logits, on a batch (R, T).

        Of classes the words' log-likelihoods (R, C). With `greedy` the highest is that of the word that the model
        writes, and a row is -inf throughout where it writes none. Of scores (R, 1) the number: the one written or,
        without `greedy`, the most likely one; `UNREADABLE` for what is no number from 0 to 5.
        """
        states = model.get_encoder()(**inputs)
        texts = self.written(model, inputs, states) if greedy else []
        if greedy and self.task.kind == "regression":
            return torch.tensor([[_score(text)] for text in texts])
        logits = self.log_likelihoods(model, inputs, states).float()
        if self.task.kind == "regression":
            return STEP * logits.argmax(1, keepdim=True).float()
        for row, text in enumerate(texts):
            number = self.number_of(text)
            if number is None:
                logits[row] = -torch.inf
            else:
                places = [number, int(logits[row].argmax())]
                logits[row, places] = logits[row, places[::-1]]
        return logits


def _token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropies (B,) of targets (B, L), summed over the tokens, of logits (B, L, V)."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none").sum(1)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        return UNREADABLE
    return score if 0 <= score <= HIGHEST else UNREADABLE


def unknown_rows(logits: np.ndarray, task: Task) -> np.ndarray:
    """Which rows of `LabelWords.predict`'s have no answer (R,)."""
    return logits[:, 0] == UNREADABLE if task.kind == "regression" else np.isneginf(logits).all(axis=1)
