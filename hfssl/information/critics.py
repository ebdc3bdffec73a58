"""What is trained to estimate mutual information: critics that score pairs, and models of y for two entropies."""

from __future__ import annotations

import torch
from torch import nn


def perceptron(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """One hidden layer with tanh, as in McAllester and Stratos' experiments."""
    return nn.Sequential(nn.Linear(in_features, hidden), nn.Tanh(), nn.Linear(hidden, out_features))


class SeparableCritic(nn.Module):
    """f(x, y) = g(x) . h(y) + a(x) + b(y): the lecture's inner product of two embeddings, and what each alone says.

    N^2 scores cost N passes of each net.

    Args:
        x_features, y_features: D and E.
        hidden: width of the hidden layers and of the embeddings.
    """

    def __init__(self, x_features: int, y_features: int, hidden: int):
        super().__init__()
        self.embed_x, self.embed_y = (perceptron(width, hidden, hidden + 1) for width in (x_features, y_features))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(N, M), the scores of each x (N, D) with each y (M, E)."""
        embedded_x, embedded_y = self.embed_x(x), self.embed_y(y)
        return embedded_x[:, 1:] @ embedded_y[:, 1:].T + embedded_x[:, :1] + embedded_y[:, :1].T


class JointCritic(nn.Module):
    """f(x, y) is one net of x and y side by side (MINE; McAllester and Stratos).

    The first layer is linear, so it is computed once for each x and y; what follows is computed N^2 times.
    """

    def __init__(self, x_features: int, y_features: int, hidden: int):
        super().__init__()
        self.from_x, self.from_y = nn.Linear(x_features, hidden), nn.Linear(y_features, hidden, bias=False)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(N, M), the scores of each x (N, D) with each y (M, E)."""
        return self.last(torch.tanh(self.from_x(x)[:, None] + self.from_y(y)[None]))[..., 0]


CRITICS = {"separable": SeparableCritic, "joint": JointCritic}


class Entropies(nn.Module):
    """A density of y with a mean and a scale for each column, and one whose mean and scale a net tells from x."""

    def __init__(self, x_features: int, y_features: int, hidden: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(y_features))
        self.log_scale = nn.Parameter(torch.zeros(y_features))
        self.from_x = perceptron(x_features, hidden, 2 * y_features)

    def forward(self, x: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Mean and log_scale of y, (E,) each, and of y given x (N, D), (N, E) each."""
        return (self.mean, self.log_scale), self.from_x(x).chunk(2, dim=1)
