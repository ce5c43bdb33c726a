"""The text of Day 38, and the training of its small character models.

    python -m llm180.data.pretrain.day038

trains, for each of five seeds, three models of nearly the same number of parameters, with 6, 2
and 1 heads of keys and values, and stores them for ``data.weights("day038")``, with what
turning the first kind into the others gave. It takes about ten minutes of one processor core
and is deterministic: one thread, fixed seeds. The page takes its text from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from llm180 import data
from llm180.data.pretrain import save
from solutions.day033_multi_head import split_heads
from solutions.day036_rope import apply_rope
from solutions.day038_kv_cache import GroupedQueryAttention, KVCache

SIZES = {"d_model": 48, "heads": 6, "layers": 2}
WIDTHS = {6: 112, 2: 144, 1: 152}  # kv_heads: d_ff, which gets what the keys and values save
SEEDS = 5
CONTEXT = 64
STEPS = 600
UPTRAIN = (30, 150)  # steps: 5% and 25%


def novels() -> tuple[str, torch.Tensor, torch.Tensor]:
    """The alphabet, five novels to train on, and the sixth, held out, as ids.

    Runs of spaces and ends of lines are one space each.
    """
    texts = [" ".join(text.split()) for text in data.load("austen").values()]
    alphabet = "".join(sorted(set("".join(texts))))
    return alphabet, encode(" ".join(texts[:-1]), alphabet), encode(texts[-1], alphabet)


def encode(text: str, alphabet: str) -> torch.Tensor:
    """Ids of a text, shape (characters,); every character is in the alphabet."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    place = np.zeros(max(map(ord, alphabet)) + 1, dtype=np.int64)
    place[[ord(character) for character in alphabet]] = range(len(alphabet))
    return torch.tensor(place[codes])


class CharModel(torch.nn.Module):
    """A small causal language model: embedding, blocks of attention and a network of
    two layers, logits. ``attention`` is the class of its attention layers, ``cache`` that
    of their caches."""

    def __init__(
        self,
        vocabulary: int,
        d_model: int,
        heads: int,
        kv_heads: int,
        layers: int,
        d_ff: int,
        attention: type[torch.nn.Module] = GroupedQueryAttention,
        cache: type[KVCache] = KVCache,
    ) -> None:
        """Make the layers; logits come from the embedding's own weights."""
        super().__init__()
        self.cache = cache
        self.embed = torch.nn.Embedding(vocabulary, d_model)
        torch.nn.init.normal_(self.embed.weight, std=d_model**-0.5)
        self.blocks = torch.nn.ModuleList()
        for _ in range(layers):
            up, down = torch.nn.Linear(d_model, d_ff), torch.nn.Linear(d_ff, d_model)
            parts = {
                "norm1": torch.nn.LayerNorm(d_model),
                "attention": attention(d_model, heads, kv_heads),
                "norm2": torch.nn.LayerNorm(d_model),
                "network": torch.nn.Sequential(up, torch.nn.GELU(), down),
            }
            self.blocks.append(torch.nn.ModuleDict(parts))
        self.norm = torch.nn.LayerNorm(d_model)

    def new_caches(self, capacity: int) -> list[KVCache]:
        """Empty caches, one a layer."""
        return [self.cache(capacity) for _ in self.blocks]

    def forward(
        self,
        ids: torch.Tensor,
        caches: Sequence[KVCache] | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """From ids ``(B, n)``, and what the caches hold before them, to logits."""
        x = self.embed(ids)
        for i, block in enumerate(self.blocks):
            cache = None if caches is None else caches[i]
            x = x + block["attention"](block["norm1"](x), cache, mask)[0]
            x = x + block["network"](block["norm2"](x))
        return F.linear(self.norm(x), self.embed.weight)


class Fused(GroupedQueryAttention):
    """The same layer by PyTorch's fused function: three times as fast, no weights, no cache."""

    def forward(
        self, x: torch.Tensor, cache: KVCache | None = None, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole sequences only; in place of the weights comes an empty tensor."""
        positions = torch.arange(x.shape[1])
        q = apply_rope(split_heads(self.query(x), self.heads), positions)
        k = apply_rope(split_heads(self.key(x), self.kv_heads), positions)
        v = split_heads(self.value(x), self.kv_heads)
        mixtures = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.output(mixtures.transpose(1, 2).flatten(2)), x.new_empty(0)


def build(kv_heads: int, vocabulary: int, attention: type[torch.nn.Module] = GroupedQueryAttention) -> CharModel:
    """A model whose number of parameters hardly depends on ``kv_heads``."""
    return CharModel(vocabulary, kv_heads=kv_heads, d_ff=WIDTHS[kv_heads], attention=attention, **SIZES)


def convert(model: CharModel, kv_heads: int, mean: bool = True) -> CharModel:
    """The model with the heads of each group pooled: their mean, or the first of them."""
    vocabulary, d_ff = model.embed.num_embeddings, model.blocks[0]["network"][0].out_features
    new = CharModel(vocabulary, kv_heads=kv_heads, d_ff=d_ff, attention=Fused, **SIZES)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith(("key.weight", "value.weight")):
            groups = weight.view(kv_heads, -1, SIZES["d_model"] // SIZES["heads"], SIZES["d_model"])
            state[name] = (groups.mean(dim=1) if mean else groups[:, 0]).flatten(0, 1)
    new.load_state_dict(state)
    return new


@torch.no_grad()
def loss_on(model: CharModel, ids: torch.Tensor, windows: int = 192, context: int = CONTEXT) -> float:
    """Mean loss in nats per character over windows spread evenly over a text."""
    starts = torch.linspace(0, len(ids) - context - 1, windows).long()
    rows = torch.stack([ids[s : s + context + 1] for s in starts])
    parts = [F.cross_entropy(model(part[:, :-1]).mT, part[:, 1:], reduction="none") for part in rows.split(24)]
    return torch.cat(parts).mean().item()


def train(model: CharModel, ids: torch.Tensor, seed: int, steps: int = STEPS, peak: float = 4e-3, size: int = 16) -> None:
    """Adam with a warm-up and a cosine down to zero, on windows drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, fused=True)
    warm = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * k / steps))
    )
    for _ in tqdm(range(steps), mininterval=20, disable=None):
        starts = torch.randint(len(ids) - CONTEXT - 1, (size,), generator=generator)
        rows = torch.stack([ids[s : s + CONTEXT + 1] for s in starts])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def study(full: torch.Tensor, vocabulary: int, text: torch.Tensor, held: torch.Tensor, seed: int) -> np.ndarray:
    """Held-out losses of a multi-head model turned into fewer heads and trained on.

    Shape (2, 2, 2): for 2 and 1 kv_heads, by the mean of each group and by its first head,
    after each number of steps of ``UPTRAIN``.
    """
    found = np.zeros((2, 2, 2))
    for i, j, k in np.ndindex(2, 2, 2):
        model = build(6, vocabulary, Fused)
        vector_to_parameters(full, model.parameters())
        model = convert(model, (2, 1)[i], mean=j == 0)
        before = loss_on(model, held)
        train(model, text, 100 + seed, UPTRAIN[k], peak=2e-3)
        found[i, j, k] = loss_on(model, held)
        print(f"  to {(2, 1)[i]}, {('mean', 'first')[j]}: {before:.4f}, after {UPTRAIN[k]} steps {found[i, j, k]:.4f}", flush=True)
    return found


def main() -> None:
    """Train all, convert, uptrain, and store."""
    torch.set_num_threads(1)
    alphabet, text, held = novels()
    found: dict[int, list[torch.Tensor]] = {kv: [] for kv in WIDTHS}
    uptrained = []
    for seed in range(SEEDS):
        for kv in WIDTHS:
            torch.manual_seed(seed)
            model = build(kv, len(alphabet), Fused)
            train(model, text, seed)
            vector = parameters_to_vector(model.parameters()).detach().half().float()
            vector_to_parameters(vector, model.parameters())
            found[kv].append(vector)
            print(f"seed {seed}, kv_heads {kv}: {len(vector)} parameters, {loss_on(model, held):.4f}", flush=True)
        uptrained.append(study(found[6][-1], len(alphabet), text, held, seed))
    state = {f"kv{kv}": torch.stack(vectors) for kv, vectors in found.items()}
    save(
        "day038",
        state | {"uptrained": np.stack(uptrained)},
        title="Fifteen character models of two layers and 48 dimensions, with 6, 2 and 1 heads of keys and values",
        trained_on=["austen"],
        note=f"{STEPS} steps of 16 windows of {CONTEXT} characters each, about six minutes of one processor core for all; "
        "Persuasion is held out. With them, the held-out losses after the first kind was turned into the others and trained on.",
    )


if __name__ == "__main__":
    main()
