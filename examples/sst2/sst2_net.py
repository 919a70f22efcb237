"""Small transformer encoders over word numbers."""

from __future__ import annotations

import math

import torch
from sst2_data import LENGTH, VOCABULARY
from torch import Tensor, nn


class Layer(nn.Module):
    """Attention, then two linear layers, each after a layer norm and with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_linear = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        y = self.before_attention(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
        made = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)
        x = x + self.drop(self.mixed(made))
        return x + self.drop(self.narrow(torch.relu(self.wide(self.before_linear(x)))))


class Encoder(nn.Module):
    """Words and places, ``depth`` layers, the mean over the words, two classes."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.places.weight, std=0.02)
        self.drop = nn.Dropout(0.5)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)
        self.edgekd_inputs = {"tokens": ("int64", ("batch", LENGTH))}

    def forward(self, tokens: Tensor) -> Tensor:
        seen = (tokens != 0).to(torch.float32)
        bias = (seen - 1)[:, None, None, :] * 1e4
        x = self.drop(self.words(tokens) + self.places.weight)
        for layer in self.layers:
            x = layer(x, bias)
        pooled = (self.norm(x) * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
        return self.head(pooled)


def teacher() -> Encoder:
    return Encoder(width=128, heads=4, depth=3)


def student() -> Encoder:
    return Encoder(width=96, heads=4, depth=2)
