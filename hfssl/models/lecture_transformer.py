"""The transformer of the lecture, in the lecture's own indices: to be read beside the slides and tested against.

    Query[k, t, U] = W^Q[k, U, J] h_in[t, J]         Key[k, t, U] = W^K[k, U, J] h_in[t, J]
    alpha[k, t1, t2] = softmax over t2 of Query[k, t1, U] Key[k, t2, U]        (0 for t2 > t1 in language modelling)
    Value[k, t, I] = W^V[k, I, J] h_in[t, J], I = J / K
    Out[k, t, I] = sum over t' of alpha[k, t, t'] Value[k, t', I]
    h_out[t, J] = Out[1, t, I]; ...; Out[K, t, I]

Repeated capitals are summed over. Against Vaswani et al. 2017 and GPT-2 there is no 1 / sqrt(U) in the softmax, no
matrix after the heads, and no residual, norm or feed-forward layer. `to_gpt2` states the mapping: with sqrt(U) in W^Q
and the identity as its output matrix, GPT-2's attention computes the same. What trains is `modeling_lm.py`; this is its
specification.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .positions import dyadic_positions, sinusoidal_positions

POSITIONS = ("dyadic", "sinusoidal", "learned", "none")


class LectureSelfAttention(nn.Module):
    """A self-attention layer of K heads on vectors of J components.

    Args:
        width: J.
        heads: K, a divisor of J.
        key_width: U; by default I = J / K.

    Raises:
        ValueError: K does not divide J.
    """

    def __init__(self, width: int, heads: int, key_width: int | None = None):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"the heads' outputs are set side by side, so K = {heads} must divide J = {width}")
        key_width = key_width or width // heads
        self.W_Q = nn.Parameter(torch.empty(heads, key_width, width))  # (K, U, J)
        self.W_K = nn.Parameter(torch.empty(heads, key_width, width))  # (K, U, J)
        self.W_V = nn.Parameter(torch.empty(heads, width // heads, width))  # (K, I, J)
        for weight in (self.W_Q, self.W_K, self.W_V):
            nn.init.normal_(weight, std=width**-0.5)

    def attention(self, h: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """alpha (..., K, T, T) of h_in (..., T, J): what position t1 gives to position t2; each row sums to 1."""
        query = torch.einsum("kuj,...tj->...ktu", self.W_Q, h)
        key = torch.einsum("kuj,...tj->...ktu", self.W_K, h)
        scores = torch.einsum("...ktu,...ksu->...kts", query, key)
        if causal:  # alpha is to be 0 there, and the rest of its row to sum to 1
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=h.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return scores.softmax(-1)

    def forward(self, h: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """h_out (..., T, J) of h_in (..., T, J)."""
        value = torch.einsum("kij,...tj->...kti", self.W_V, h)
        out = torch.einsum("...kts,...ksi->...kti", self.attention(h, causal), value)
        return out.transpose(-3, -2).flatten(-2)

    def step(self, h: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor] | None = None):
        """One more position of a causal layer: h_in (..., 1, J) to h_out (..., 1, J), and the keys and values so far.

        Args:
            past: what the step before gave, Key (..., K, t, U) and Value (..., K, t, I).
        """
        query = torch.einsum("kuj,...tj->...ktu", self.W_Q, h)
        key = torch.einsum("kuj,...tj->...ktu", self.W_K, h)
        value = torch.einsum("kij,...tj->...kti", self.W_V, h)
        if past is not None:
            key, value = torch.cat([past[0], key], -2), torch.cat([past[1], value], -2)
        alpha = torch.einsum("...ktu,...ksu->...kts", query, key).softmax(-1)
        out = torch.einsum("...kts,...ksi->...kti", alpha, value)
        return out.transpose(-3, -2).flatten(-2), (key, value)

    @torch.no_grad()
    def to_gpt2(self, attention: nn.Module) -> None:
        """Writes the weights into a `GPT2Attention`, which then computes the same.

        GPT-2 divides the scores by sqrt(U), so W^Q is multiplied by it; its output matrix is the identity, its biases
        are 0. Its heads have one width, so U must be I.
        """
        heads, key_width, width = self.W_Q.shape
        if key_width * heads != width:
            raise ValueError(f"GPT-2's queries are as wide as its values: U = {key_width} is not J / K")
        parts = (self.W_Q * math.sqrt(key_width), self.W_K, self.W_V)
        attention.c_attn.weight.copy_(torch.cat([part.flatten(0, 1).T for part in parts], 1))  # (J, 3 J)
        attention.c_proj.weight.copy_(torch.eye(width))
        attention.c_attn.bias.zero_()
        attention.c_proj.bias.zero_()


class LectureTransformer(nn.Module):
    """Self-attention layers between one table of word embeddings: P(w[t+1] | w[1..t]) = softmax_w e[w, I] h_top[t, I].

    Dyadic positions are set beside the embedding, which h[0, t, J] is then wider than; the softmax reads the first I
    components of h_top. Sinusoidal and learned ones are added, and J = I.

    Args:
        words: the size of the vocabulary.
        width: I, of an embedding.
        heads: K, a divisor of J.
        layers: of self-attention.
        length: the most positions.
        positions: one of `POSITIONS`.
    """

    def __init__(self, words: int, width: int, heads: int, layers: int, length: int, positions: str = "dyadic"):
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions are {', '.join(POSITIONS)}, not {positions!r}")
        self.e = nn.Parameter(torch.randn(words, width) * width**-0.5)  # (words, I), at the bottom and at the top
        self.positions = positions
        if positions == "learned":
            self.table = nn.Parameter(torch.randn(length, width) * width**-0.5)
        elif positions != "none":
            table = dyadic_positions(length) if positions == "dyadic" else sinusoidal_positions(length, width)
            self.register_buffer("table", table.to(self.e.dtype))
        total = width + (self.table.shape[1] if positions == "dyadic" else 0)  # J
        self.layers = nn.ModuleList(LectureSelfAttention(total, heads) for _ in range(layers))

    def bottom(self, words: torch.Tensor) -> torch.Tensor:
        """h[0, t, J] of w[t]: (..., T) ids to (..., T, J)."""
        e = self.e[words]  # (..., T, I)
        if self.positions == "none":
            return e
        table = self.table[: words.shape[-1]]
        if self.positions == "dyadic":
            return torch.cat([e, table.expand(*e.shape[:-1], -1)], -1)
        return e + table

    def forward(self, words: torch.Tensor, causal: bool = True) -> torch.Tensor:
        """The scores of the next word (..., T, words), whose softmax is P, of w (..., T)."""
        h = self.bottom(words)
        for layer in self.layers:
            h = layer(h, causal)
        return h[..., : self.e.shape[1]] @ self.e.T
