"""Document hashing by deep co-training: m bits of a document that its two halves agree on (Stratos and Wiseman 2020,
"Learning Discrete Structured Representations by Adversarially Maximizing Mutual Information", AMMI).

The lecture's objective with z in {0, 1}^m: Phi* = argmax (1 - beta) H(z_x) - H(z_x | z_y), x and y the halves. Given a
half the bits are independent, so H(z_x | z_y) is a sum of cross-entropies to the other half's bits. H(z_x) is the
cross-entropy to P_Psi, here a Markov chain over the bits whose tables have an optimum in closed form: the batch's own
(the paper's order 3, where Adam's steps look for it). By the envelope theorem it gets no gradient.

A half is its bag of words: a small network on TF-IDF weights (section 5.2). Similar documents lie a few bits apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
import transformers.initialization as hf_init
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .contrastive import gather_batch


class HashingConfig(PreTrainedConfig):
    """
    Args:
        vocab_size: tokens.
        num_bits: m (the paper has 16 to 128).
        hidden_size: of the one hidden layer.
        markov_order: bits that a bit's table in P_Psi looks back on (3); with m - 1 or more it is any distribution.
        beta: the price of memory. The paper weighs the entropy by 1 - beta = 2 to 3.5: bits that are used alike and
            are independent.
        dropout: on the hidden layer.

    Raises:
        ValueError: a value is out of range.
    """

    model_type = "hfssl_hashing"
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = 20000
    num_bits: int = 32
    hidden_size: int = 256
    markov_order: int = 3
    beta: float = -1.0
    dropout: float = 0.1
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "modeling_hashing.HashingConfig",
            "AutoModelForPreTraining": "modeling_hashing.HashingForPreTraining",
        }
        least = {"vocab_size": 1, "num_bits": 1, "hidden_size": 1, "markov_order": 0}
        for name, smallest in least.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, not {getattr(self, name)!r}")
        if self.markov_order > 10:
            raise ValueError(f"markov_order {self.markov_order} gives 2^{self.markov_order} contexts a bit: at most 10")
        if not isinstance(self.beta, (int, float)) or not math.isfinite(self.beta):
            raise ValueError(f"beta must be a finite number, not {self.beta!r}")


@dataclass
class HashingOutput(ModelOutput):
    """
    loss: a scalar in nats, as what follows.
    entropy, information: H(z_x), and H(z_x) - H(z_x | z_y), of the batch of all processes.
    codes: (B, H, m) or (B, m), the probability of a 1 of each bit.
    """

    loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    information: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class HashingForPreTraining(PreTrainedModel):
    """The bits of documents, and the co-training loss of their halves."""

    config_class = HashingConfig
    base_model_prefix = "hashing"
    main_input_name = "input_ids"
    model_tags: ClassVar[list[str]] = ["hfssl", "cotraining", "hashing", "self-supervised"]
    _auto_class = "AutoModelForPreTraining"
    accepts_loss_kwargs = False
    min_batch_size = 2

    def __init__(self, config: HashingConfig):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.bits = nn.Linear(config.hidden_size, config.num_bits)
        self.register_buffer("token_weights", torch.ones(config.vocab_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, HashingForPreTraining):
            hf_init.zeros_(module.bias)
            hf_init.ones_(module.token_weights)
        elif isinstance(module, nn.Embedding):  # a document's weights have length 1, so its hidden layer is N(0, 1)
            hf_init.normal_(module.weight)
        else:
            super()._init_weights(module)

    def set_token_weights(self, documents: torch.Tensor, count: int) -> None:
        """The inverse document frequencies, ln((1 + N) / (1 + df)) + 1.

        Args:
            documents: (vocab_size,), in how many each token occurs. count: N.
        """
        self.token_weights.copy_(((1 + count) / (1 + documents.to(self.token_weights))).log() + 1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> HashingOutput | tuple:
        """
        Args:
            input_ids: (B, 2, T), the halves of documents; or (B, T), documents, which give no loss.
            attention_mask: of the same shape, 1 for a token.
            return_loss: compute the loss. (Its name tells the Trainer that evaluation has a loss without labels.)
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.bits(F.dropout(self.hidden(input_ids, mask), self.config.dropout, self.training))
        output = HashingOutput(codes=logits.sigmoid())
        if return_loss and input_ids.ndim == 3:
            if input_ids.shape[1] != 2:
                raise ValueError(f"a document has two halves, not {input_ids.shape[1]}: input_ids is (B, 2, T)")
            x, y = gather_batch(logits.transpose(0, 1))[0]  # (N, m) each, of all processes
            # Which half is x is a toss.
            told = hashing_conditional_entropy(torch.cat([x, y]), torch.cat([y, x]))
            entropy = markov_entropy(torch.cat([x, y]).sigmoid(), self.config.markov_order)
            output.loss = told - (1 - self.config.beta) * entropy
            output.entropy, output.information = entropy.detach(), (entropy - told).detach()
        return output if return_dict else output.to_tuple()

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(..., T) to (..., hidden_size): tanh of the words' vectors by ln(1 + tf) idf, weights of length 1."""
        flat = input_ids.flatten(0, -2)
        counts = torch.zeros(len(flat), self.config.vocab_size, device=flat.device)
        counts.scatter_add_(1, flat, mask.flatten(0, -2).to(counts.dtype))
        weights = F.normalize(counts.log1p() * self.token_weights, dim=1)
        return torch.tanh(weights @ self.words.weight + self.bias).unflatten(0, input_ids.shape[:-1])


def hashing_conditional_entropy(logits_x: torch.Tensor, logits_y: torch.Tensor) -> torch.Tensor:
    """H(z_x | z_y) of B pairs from the logits of their bits, (B, m): the mean cross-entropy, in nats."""
    return F.binary_cross_entropy_with_logits(logits_y, logits_x.sigmoid(), reduction="sum") / len(logits_x)


def markov_entropy(probabilities: torch.Tensor, order: int) -> torch.Tensor:
    """H(z): the cross-entropy of codes with independent bits, (B, m), to the best Markov chain of some order, in nats.

    Bit i's table is P(z_i | the `order` bits before it) of the mean over B, which is the optimum. Of order m - 1 the
    chain is any distribution, and H is the entropy of the mean of the B distributions.
    """
    total = probabilities.new_zeros(())
    context = torch.ones(len(probabilities), 1, dtype=probabilities.dtype, device=probabilities.device)  # (B, 2^k)
    for bit in probabilities.unbind(1):
        both = torch.stack([1 - bit, bit], 1)  # (B, 2)
        joint = (context[:, :, None] * both[:, None]).mean(0)  # (2^k, 2)
        table = (joint / joint.sum(1, keepdim=True).clamp_min(1e-30)).detach()
        total = total - (joint * table.clamp_min(1e-30).log()).sum()
        context = (context[:, :, None] * both[:, None]).flatten(1)  # the newest bit last
        if context.shape[1] > 2**order:  # forget the oldest
            context = context.unflatten(1, (2, -1)).sum(1)
    return total
