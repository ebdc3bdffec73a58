"""What a language model learned: bits a byte, masked accuracy, and the anchors that need no model.

Memory is bounded by one batch: nothing is kept but sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils.logging import disable_progress_bar

from hfssl.data.blocks import Blocks
from hfssl.data.corpus import build_corpus
from hfssl.data.masking import IGNORED
from hfssl.errors import InputError, one_line
from hfssl.models.modeling_lm import TRAINING_CLASSES
from hfssl.tokenization import load_tokenizer


@dataclass
class LanguageScore:
    """Of the predicted tokens: their number, the mean negative log-likelihood (nats), the share guessed right."""

    tokens: int
    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return _exp(self.loss)

    def bits_per_byte(self, tokens_per_byte: float) -> float:
        """The loss in bits a byte of text: comparable between tokenizers."""
        return self.loss / math.log(2) * tokens_per_byte


def load_language_model(name: str):
    """A language model and its tokenizer, from a folder or a Hub id, and whether it is a masked one.

    One that hfssl trains comes as its training class, which never holds all logits (`hfssl.models.modeling_lm`).

    Raises:
        InputError: there is none, or it is neither causal nor masked.
    """
    disable_progress_bar()  # of loading: errors are one line
    tokenizer = load_tokenizer(name)
    name = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        architecture = (config.architectures or [""])[0]
        masked = architecture.endswith("ForMaskedLM")
        if not masked and not architecture.endswith("LMHeadModel") and not architecture.endswith("ForCausalLM"):
            raise InputError(f"{name} is no language model but a {architecture or config.model_type}")
        ours = [one for one in TRAINING_CLASSES if one.stock.__name__ == architecture]
        loader = ours[0] if ours else AutoModelForMaskedLM if masked else AutoModelForCausalLM
        model = loader.from_pretrained(name, use_safetensors=True)
    except InputError:
        raise
    except Exception as error:  # safetensors and torch have errors of their own for damaged files and other shapes
        reason = one_line(error) or type(error).__name__
        raise InputError(f"cannot load a language model from {name}: {reason}") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer, masked


def model_blocks(texts, model, tokenizer, masked: bool, block_size: int | None, folder: str) -> Blocks:
    """A text in blocks as a model was trained on: a masked one between [CLS] and [SEP].

    Args:
        block_size: by default 256, or the model's positions if they are fewer.
        folder: for the tokens.

    Raises:
        InputError: a block is longer than the model's positions, or the tokenizer is not the model's.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or math.inf
    size = block_size or int(min(256, positions))
    if size > positions:
        raise InputError(f"--block_size {size} is over the {positions} positions of the model")
    around = ([tokenizer.cls_token_id], [tokenizer.sep_token_id]) if masked else ([], [])
    end = tokenizer.sep_token_id if masked else tokenizer.eos_token_id
    if end is None:
        raise InputError("the model's tokenizer has no token that ends a document")
    corpus = build_corpus(texts, tokenizer, Path(folder) / "corpus", end)
    corpus.check_vocabulary(model.config.vocab_size)
    return Blocks(corpus, size, *around)


@torch.no_grad()
def score_language(
    model,
    dataset: Dataset,
    collator,
    batch_size: int = 16,
    limit: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    between: Callable[[], None] | None = None,
) -> LanguageScore:
    """Scores a causal or masked language model on blocks.

    Args:
        model: one of `hfssl.models.modeling_lm`, or any that returns `logits` (B, T, V) for `input_ids` (B, T).
        collator: gives "labels" (B, T); for a causal model those of the input itself, shifted here.
        limit: how many blocks, from the first; all by default.
        rank, world_size: take every `world_size`-th block from the `rank`-th on; add up the results with `together`.
        between: called before each batch that every process has; what it raises ends the evaluation.
    """
    size = min(len(dataset), limit or len(dataset))
    subset = torch.utils.data.Subset(dataset, range(rank, size, world_size))
    training, sums = model.training, np.zeros(3)
    model.eval()
    loader = DataLoader(subset, batch_size=batch_size, collate_fn=collator)
    for number, batch in enumerate(loader):
        if between is not None and number < size // world_size // batch_size:
            between()
        batch = {key: value.to(model.device) for key, value in batch.items()}
        sums += model.score(**batch) if hasattr(model, "score") else _score_logits(model, **batch)
    # Where the weights are in parts all processes gather them together, so each must ask as often as the first.
    most = math.ceil(math.ceil(size / world_size) / batch_size)
    for _ in range(most - len(loader) if isinstance(model, FSDPModule) else 0):
        idle = {key: value.to(model.device) for key, value in collator([dataset[0]]).items()}
        model.score(**idle | {"labels": torch.full_like(idle["labels"], IGNORED)})
    model.train(training)
    return together([sums])


def together(sums: list[Sequence[float]]) -> LanguageScore:
    """One score of several processes' (summed loss, right answers, targets)."""
    loss, right, count = np.sum(sums, axis=0)
    return LanguageScore(int(count), float(loss / max(count, 1)), float(right / max(count, 1)))


def _score_logits(model, labels: torch.Tensor, **inputs) -> tuple[float, int, int]:
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))  # blocks are full; without it a warning
    logits = model(**inputs).logits
    if not type(model).__name__.endswith("ForMaskedLM"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    predicted = labels != IGNORED
    logits, labels = logits[predicted].float(), labels[predicted]  # (N, V), (N,)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    return loss, (logits.argmax(-1) == labels).sum().item(), len(labels)


@torch.no_grad()
def pseudo_perplexity(
    model, blocks: Sequence[np.ndarray], mask_token_id: int, specials=(), batch_size: int = 64
) -> float:
    """The exponential of the mean loss when each token in turn is the only one hidden (Salazar et al. 2020, eq. 3).

    Costs one forward pass a token.

    Args:
        model: a masked language model.
        blocks: token ids (T,) each.
        specials: ids that are never hidden.
    """
    total, count, training = 0.0, 0, model.training
    model.eval()
    for block in blocks:
        ids = torch.as_tensor(np.asarray(block), device=model.device)
        for positions in torch.tensor([i for i, t in enumerate(ids.tolist()) if t not in set(specials)]).split(
            batch_size
        ):
            rows = torch.arange(len(positions))
            hidden = ids.repeat(len(positions), 1)
            hidden[rows, positions] = mask_token_id
            logits = model(input_ids=hidden).logits[rows, positions].float()
            total += torch.nn.functional.cross_entropy(logits, ids[positions], reduction="sum").item()
            count += len(positions)
    model.train(training)
    return _exp(total / max(count, 1))


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # of a run that diverged


def unigram_loss(train: np.ndarray, held_out: np.ndarray) -> float:
    """Nats a token of the held-out tokens under the training tokens' frequencies (add-one smoothed).

    Args:
        train, held_out: how often each id occurs, (V,), as `Corpus.frequencies` counts.
    """
    log_probabilities = np.log((train + 1) / (train + 1).sum())
    return float(-(held_out * log_probabilities).sum() / held_out.sum())


def byte_entropy(text: bytes) -> float:
    """Bits a byte of a text under its own byte frequencies: what a model without context and tokenizer could reach."""
    counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def most_frequent_accuracy(
    dataset: Dataset, collator, train: np.ndarray, specials=(), limit: int | None = None
) -> float:
    """How many masked tokens are right if the training text's most frequent token is always the answer.

    Args:
        train: how often each id occurs in the training text, (V,).
        specials: ids that are never an answer.
    """
    counts = train.copy()
    counts[list(specials)] = 0
    answer, right, total = int(counts.argmax()), 0, 0
    for start in range(0, min(len(dataset), limit or len(dataset)), 64):
        stop = min(start + 64, len(dataset), limit or len(dataset))
        labels = collator([dataset[index] for index in range(start, stop)])["labels"]
        predicted = labels != IGNORED
        right += (labels[predicted] == answer).sum().item()
        total += predicted.sum().item()
    return right / max(total, 1)
