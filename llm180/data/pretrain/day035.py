"""The models that Day 35 evaluates: one small causal model of characters per scheme of positions and seed.

    python -m llm180.data.pretrain.day035

It takes five minutes of one core, gives the same weights again on the same processor, and goes on where it was
stopped: the models that are done lie in the folder for temporary files. The page takes the model from here, and gives it
the reader's three functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llm180.data import pretrain
from solutions.day024_ngram import ALPHABET, austen_split, encode
from solutions.day032_scaled_dot_product import scaled_dot_product_attention

LENGTH, SEEDS, STEPS = 32, 4, 800
SCHEMES = ("none", "learned", "shaw", "t5", "t5 far", "alibi")


class Positions(nn.Module):
    """What a scheme adds to the scores of one layer, ``(h, n, n)`` or ``(B, h, n, n)``.

    ``functions`` are the three of the day: ``relative_shift``, ``t5_bucket`` and ``alibi_slopes``.
    """

    def __init__(
        self, scheme: str, heads: int, d_head: int, length: int, functions: Sequence[Callable[..., Tensor]]
    ) -> None:
        super().__init__()
        self.scheme = scheme
        self.shift, self.bucket, self.slopes = functions
        self.reach = length // 2  # distances beyond are clipped, or share buckets
        if scheme == "shaw":
            self.vectors = nn.Parameter(torch.randn(self.reach + 1, d_head) / d_head)
        elif scheme == "t5":
            self.sizes = {"buckets": self.reach, "max_distance": length}
        elif scheme == "t5 far":
            self.sizes = {"buckets": self.reach, "max_distance": 4 * length}
        if scheme.startswith("t5"):
            self.biases = nn.Parameter(torch.zeros(self.reach, heads))
        self.heads = heads

    def forward(self, query: Tensor) -> Tensor | None:
        """Of queries ``(B, h, n, d_head)`` that carry the scale already."""
        n = query.shape[-2]
        if self.scheme in ("none", "learned"):
            return None
        steps = torch.arange(1 - n, n)  # a distance for each of 2n - 1 columns
        if self.scheme == "shaw":
            rows = self.vectors[steps.neg().clamp(0, self.reach)]  # (2n - 1, d_head)
            return self.shift(query @ rows.T)
        if self.scheme == "alibi":
            bias = self.slopes(self.heads)[:, None] * -steps.abs()  # (h, 2n - 1)
        else:
            bias = self.biases[self.bucket(steps, bidirectional=False, **self.sizes)].T
        return self.shift(bias[:, None].expand(-1, n, -1))


class Block(nn.Module):
    """Causal attention and two linear layers, each added to its input."""

    def __init__(self, d_model: int, heads: int, positions: Positions) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(2)])
        self.into = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.feed = nn.Sequential(
            nn.Linear(d_model, 2 * d_model), nn.ReLU(), nn.Linear(2 * d_model, d_model)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, n, d_model)`` to the same."""
        B, n, d = x.shape
        parts = self.into(self.norms[0](x)).view(B, n, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (B, h, n, d_head)
        q = q * q.shape[-1] ** -0.5
        bias = self.positions(q)
        y, _ = scaled_dot_product_attention(q, k, v, bias, causal=True, scale=1.0)
        x = x + self.out(y.transpose(1, 2).reshape(B, n, d))
        return x + self.feed(self.norms[1](x))


class CharacterModel(nn.Module):
    """A causal language model of characters, with any of the ``SCHEMES``.

    Two layers of width 32 with four heads. ``length`` is the length that it is trained
    on. The table of "learned" has rows for twice that; those that no training window
    reaches keep the values that they begin with.
    """

    def __init__(
        self,
        scheme: str,
        symbols: int,
        functions: Sequence[Callable[..., Tensor]],
        length: int = LENGTH,
        d_model: int = 32,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"the schemes are {', '.join(SCHEMES)}; got {scheme!r}")
        self.token = nn.Embedding(symbols, d_model)
        nn.init.normal_(self.token.weight, std=0.5)
        if scheme == "learned":
            self.place = nn.Parameter(0.5 * torch.randn(2 * length, d_model))
        each = scheme, heads, d_model // heads, length, functions
        self.blocks = nn.Sequential(
            *(Block(d_model, heads, Positions(*each)) for _ in range(2))
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, symbols)
        self.scheme = scheme

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``(B, n)`` to logits ``(B, n, symbols)`` of the next character."""
        x = self.token(ids)
        if self.scheme == "learned":
            x = x + self.place[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def train(
    scheme: str,
    text: Tensor,
    seed: int,
    steps: int,
    *,
    symbols: int,
    functions: Sequence[Callable[..., Tensor]],
    batch: int = 32,
    rate: float = 8e-3,
) -> CharacterModel:
    """A model, trained on windows of ``LENGTH`` characters that are the same for every scheme."""
    torch.manual_seed(seed)
    feed = torch.Generator().manual_seed(seed)
    model = CharacterModel(scheme, symbols, functions)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    offsets = torch.arange(LENGTH + 1)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (batch, 1), generator=feed)
        windows = text[starts + offsets]
        logits = model(windows[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def trained(scheme: str, seed: int, text: torch.Tensor) -> CharacterModel:
    """A model, trained now or before."""
    from solutions.day035_relative_positions import alibi_slopes, relative_shift, t5_bucket

    functions = relative_shift, t5_bucket, alibi_slopes
    saved = Path(tempfile.gettempdir()) / f"llm180-day035-{scheme.replace(' ', '-')}-{seed}.pt"
    if saved.exists():
        model = CharacterModel(scheme, len(ALPHABET), functions)
        model.load_state_dict(torch.load(saved))
        return model
    model = train(scheme, text, seed, STEPS, symbols=len(ALPHABET), functions=functions)
    torch.save(model.state_dict(), saved)
    return model


@torch.no_grad()
def loss_in_and_beyond(models: Sequence[CharacterModel], chapters: list[str]) -> tuple[float, float]:
    """Mean nats per character at places 1 to LENGTH and at as many places after, in windows of twice the length."""
    text = torch.tensor(np.concatenate([encode(chapter) for chapter in chapters]))
    windows = text[: 256 * (2 * LENGTH + 1)].view(256, -1)
    losses = [
        torch.nn.functional.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:], reduction="none") for model in models
    ]
    halves = torch.stack(losses).mean(dim=(0, 1)).view(2, LENGTH).mean(dim=1)
    return halves[0].item(), halves[1].item()


def main(schemes: Sequence[str] = SCHEMES) -> None:
    """Train, and store the weights if these are all schemes."""
    torch.set_num_threads(1)
    split = austen_split()
    text, state, said = torch.tensor(encode(split.train)), {}, []
    for scheme in schemes:
        models = [trained(scheme, seed, text) for seed in range(SEEDS)]
        inside, beyond = loss_in_and_beyond(models, split.valid)
        said.append(f"{scheme} {inside:.2f} and {beyond:.2f}")
        print(said[-1], flush=True)
        state |= {f"{scheme}/{seed}/{name}": value for seed, model in enumerate(models) for name, value in model.state_dict().items()}
    if len(schemes) == len(SCHEMES):
        pretrain.save(
            "day035",
            state,
            title="Twenty-four causal models of characters, two layers of width 32: six schemes of positions, four seeds",
            trained_on=["austen"],
            note=f"{STEPS} steps each on windows of {LENGTH} characters, five minutes of one core in all. "
            f"Nats per character in the trained length and beyond, up to twice that, on chapters held out: {'; '.join(said)}.",
        )


if __name__ == "__main__":
    main()
