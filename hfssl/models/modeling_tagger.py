"""Deep co-training of words: a code for each word that its context predicts (Stratos 2019, "Mutual Information
Maximization for Simple and Accurate Part-Of-Speech Induction").

The objective is in `codes.py`, with the context's own posterior as conditional. x is a word: its embedding and a
character BiLSTM's last states. y is its context: the embeddings of the words beside it, concatenated. Both see the same
embeddings and each is one linear layer to the logits of m codes (section 4). What the codes turn out to be are parts of
speech, more or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .codes import Prior, check_objective, cotraining_loss

CHARACTERS = 257  # the bytes of UTF-8, and 0 for padding


class TaggerConfig(PreTrainedConfig):
    """
    Args:
        vocab_size: words, of which 0 is padding (beyond the sentence) and 1 any other word.
        num_codes: m; the paper has as many as the language has tags, 45 for the Penn treebank's.
        word_dim, char_dim: widths of the embeddings and, in each direction, of the LSTM (200 and 100, the authors' code
            karlstratos/mmi-tagger).
        window: words of the context on each side (2).
        beta, inner, prior_momentum, prior_learning_rate: see `cotraining_loss` and `Prior`.

    Raises:
        ValueError: a value is out of range.
    """

    model_type = "hfssl_tagger"
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = 20000
    num_codes: int = 45
    word_dim: int = 200
    char_dim: int = 100
    window: int = 2
    beta: float = 0.0
    inner: str = "exact"
    prior_momentum: float = 0.9
    prior_learning_rate: float = 0.05
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "modeling_tagger.TaggerConfig",
            "AutoModelForPreTraining": "modeling_tagger.TaggerForPreTraining",
        }
        for name, least in {"vocab_size": 2, "num_codes": 2, "word_dim": 1, "char_dim": 1, "window": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        check_objective(self.beta, self.inner, "posterior")


@dataclass
class TaggerOutput(ModelOutput):
    """
    loss: a scalar in nats, as what follows.
    entropy, information, entropy_correction: of the batch of all processes, see `CodeTerms`.
    codes: (B, m), each word's posterior, which does not depend on its context.
    """

    loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    information: torch.Tensor | None = None
    entropy_correction: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class TaggerForPreTraining(PreTrainedModel):
    """Words, contexts and the co-training loss between them."""

    config_class = TaggerConfig
    base_model_prefix = "tagger"
    main_input_name = "windows"
    model_tags: ClassVar[list[str]] = ["hfssl", "cotraining", "self-supervised"]
    _auto_class = "AutoModelForPreTraining"
    accepts_loss_kwargs = False
    min_batch_size = 2  # words of all processes: the marginal of one is its own posterior

    def __init__(self, config: TaggerConfig):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.word_dim, padding_idx=0)
        self.characters = nn.Embedding(CHARACTERS, config.char_dim, padding_idx=0)
        self.lstm = nn.LSTM(config.char_dim, config.char_dim, bidirectional=True, batch_first=True)
        self.context_head = nn.Linear(2 * config.window * config.word_dim, config.num_codes)
        self.word_head = nn.Linear(config.word_dim + 2 * config.char_dim, config.num_codes)
        self.prior = Prior(config.num_codes, config.inner, config.prior_momentum, config.prior_learning_rate)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own, as the paper's: embeddings from N(0, 1). Within `initialize_weights` loaded tensors stay."""
        if isinstance(module, (nn.Embedding, nn.Linear, nn.LSTM)):
            module.reset_parameters()
        elif isinstance(module, Prior):
            module.reset()

    def forward(
        self,
        windows: torch.Tensor,
        characters: torch.Tensor,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> TaggerOutput | tuple:
        """
        Args:
            windows: (B, 2 window + 1) words' numbers, the word itself in the middle.
            characters: (B, L), the bytes of the word plus 1, then 0; at least one byte each.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)

        Raises:
            ValueError: the windows are of another width.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        width = self.config.window
        if windows.shape[1] != 2 * width + 1:
            raise ValueError(f"windows must be (B, {2 * width + 1}), the word between its neighbours")
        embedded = self.words(windows)  # (B, 2 window + 1, word_dim)
        lengths = (characters > 0).sum(1).cpu()
        packed = pack_padded_sequence(self.characters(characters), lengths, batch_first=True, enforce_sorted=False)
        spelling = self.lstm(packed)[1][0].transpose(0, 1).flatten(1)  # (B, 2 char_dim), the last state each way
        logits = self.word_head(torch.cat([embedded[:, width], spelling], 1))  # (B, m)
        output = TaggerOutput()
        if return_loss:
            context = torch.cat([embedded[:, :width], embedded[:, width + 1 :]], 1).flatten(1)
            told = self.context_head(context)  # (B, m)
            terms = cotraining_loss(logits, told, self.config.beta, "posterior", self.prior)
            output.loss, output.entropy_correction = terms.loss, terms.entropy_correction
            output.entropy, output.information = terms.entropy.detach(), terms.information.detach()
        output.codes = logits.softmax(-1)
        return output if return_dict else output.to_tuple()
