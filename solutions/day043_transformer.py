"""Day 43: the complete Transformer, its parameters by formula, and one table in place of
three."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm180 import known_mistakes
from solutions.day034_absolute_positions import sinusoidal
from solutions.day039_feed_forward import EncoderBlock
from solutions.day042_decoder import DecoderBlock


class Transformer(nn.Module):
    """An encoder, a decoder, and what leads in and out: the model of 2017.

    Submodules, made in this order:

    ``source_embedding``, ``target_embedding``
        ``nn.Embedding`` tables, drawn from a normal distribution of mean 0 and standard
        deviation ``d_model ** -0.5``.
    ``dropout``
        ``nn.Dropout``, on the sum of embedding and position.
    ``encoder``, ``decoder``
        ``nn.ModuleList`` of ``EncoderBlock`` and of ``DecoderBlock``.
    ``encoder_norm``, ``decoder_norm``
        ``nn.LayerNorm`` after the last block of each side, or ``nn.Identity``.
    ``output``
        ``nn.Linear`` from ``d_model`` to the logits of ``target_vocabulary``.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3; with ``norm_first``
    as in Day 41.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        d_model: int,
        heads: int,
        d_ff: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float = 0.0,
        norm_first: bool = True,
        kind: str = "relu",
        final_norm: bool | None = None,
    ) -> None:
        """Make the submodules.

        ``heads``, ``d_ff``, ``dropout``, ``norm_first`` and ``kind`` are those of every
        block. ``final_norm`` says whether there are final norms; if it is None, there
        are some exactly if ``norm_first``.
        """
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary, d_model)
        self.target_embedding = nn.Embedding(target_vocabulary, d_model)
        for table in (self.source_embedding, self.target_embedding):
            nn.init.normal_(table.weight, std=d_model**-0.5)
        self.dropout = nn.Dropout(dropout)
        sizes = d_model, heads, d_ff
        common = {"kind": kind, "dropout": dropout, "norm_first": norm_first}
        self.encoder = nn.ModuleList(
            EncoderBlock(*sizes, **common) for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(*sizes, **common) for _ in range(decoder_layers)
        )
        final_norm = norm_first if final_norm is None else final_norm
        self.encoder_norm = nn.LayerNorm(d_model) if final_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(d_model) if final_norm else nn.Identity()
        self.output = nn.Linear(d_model, target_vocabulary)

    def embed(self, ids: Tensor, table: nn.Embedding) -> Tensor:
        """Ids ``(B, n)``, int64, to ``(B, n, d_model)``: rows of the table times
        ``sqrt(d_model)``, plus the sinusoidal positions 0 to n - 1, then dropout.

        The result has the dtype and the device of the table.
        """
        x = table(ids) * math.sqrt(table.embedding_dim)
        positions = sinusoidal(ids.shape[1], table.embedding_dim)
        return self.dropout(x + positions.to(x))

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Read the source, once.

        Parameters
        ----------
        source:
            ``(B, n)``, int64, with n at least 1.
        source_mask:
            ``(B, n)`` of bool, True where there is a token: nobody looks at the others.
            Without it, all are tokens.

        Returns
        -------
        The memory, ``(B, n, d_model)``. What stands at a place without a token has no
        meaning.

        Raises ValueError that says ``source_mask`` if that is not bool, or not of the
        shape of ``source``.
        """
        mask = None
        if source_mask is not None:
            if source_mask.dtype != torch.bool or source_mask.shape != source.shape:
                raise ValueError(
                    f"source_mask is bool, {tuple(source.shape)}; this one is "
                    f"{source_mask.dtype}, {tuple(source_mask.shape)}"
                )
            mask = source_mask[:, None]  # (B, 1, n): the same for all queries
        x = self.embed(source, self.source_embedding)
        for block in self.encoder:
            x = block(x, mask=mask)
        return self.encoder_norm(x)

    def decode(
        self, target_in: Tensor, memory: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Score what follows each prefix of the target.

        Parameters
        ----------
        target_in:
            ``(B, m)``, int64: START and the symbols so far. Padding, if any, stands at
            the end of a row.
        memory:
            ``(B, n, d_model)``, what ``encode`` gave.
        source_mask:
            As ``encode`` takes it.

        Returns
        -------
        Logits, ``(B, m, target_vocabulary)``. Those at place i depend on the memory and
        on ``target_in[:, : i + 1]``.
        """
        x = self.embed(target_in, self.target_embedding)
        for block in self.decoder:
            x, _ = block(x, memory, memory_mask=source_mask)
        return self.output(self.decoder_norm(x))

    def forward(
        self, source: Tensor, target_in: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Encode, then decode: logits, ``(B, m, target_vocabulary)``."""
        return self.decode(target_in, self.encode(source, source_mask), source_mask)

    def load_torch(self, body: nn.Transformer) -> None:
        """Take over the weights of PyTorch's module, which has neither embeddings nor
        an output layer: those stay as they are.

        Both must have the same sizes, heads and activation. PyTorch's has final norms
        whether its ``norm_first`` is True or not.

        Raises ValueError that says ``layers`` if the numbers of blocks differ, and one
        that says ``norm`` if ``norm_first`` or the final norms do. Nothing is changed
        then.
        """
        blocks = [*body.encoder.layers, *body.decoder.layers]
        ours = len(self.encoder), len(self.decoder)
        if ours != (len(body.encoder.layers), len(body.decoder.layers)):
            raise ValueError(f"{ours} layers here, another number there")
        first = any(block.norm_first for block in blocks)
        norms = {"encoder_norm": body.encoder.norm, "decoder_norm": body.decoder.norm}
        for name, norm in norms.items():
            if (norm is None) != isinstance(getattr(self, name), nn.Identity):
                raise ValueError(f"a final norm, {name}, on one side only")
        if any(block.norm_first != first for block in self.encoder):
            raise ValueError(f"norm_first is {first} there, and not here")
        for block, layer in zip(self.encoder, body.encoder.layers):
            block.attention.load_packed(layer.self_attn.state_dict())
            block.feed_forward.up.load_state_dict(layer.linear1.state_dict())
            block.feed_forward.down.load_state_dict(layer.linear2.state_dict())
            block.norm1.load_state_dict(layer.norm1.state_dict())
            block.norm2.load_state_dict(layer.norm2.state_dict())
        for block, layer in zip(self.decoder, body.decoder.layers):
            block.load_torch(layer)
        for name, norm in norms.items():
            if norm is not None:
                getattr(self, name).load_state_dict(norm.state_dict())


def parameter_count(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    d_model: int,
    heads: int,
    d_ff: int,
    encoder_layers: int,
    decoder_layers: int,
    dropout: float = 0.0,
    norm_first: bool = True,
    kind: str = "relu",
    final_norm: bool | None = None,
    tied: str = "none",
) -> dict[str, int]:
    """The number of parameters of a ``Transformer``, part by part, without making one.

    Parameters
    ----------
    source_vocabulary, target_vocabulary, ..., final_norm:
        What ``Transformer`` takes. No number depends on ``heads`` and ``dropout``.
    tied:
        Which tables are one: "none"; "output", the target embedding and the weight of
        ``output``; or "all", these and the source embedding. A table that several parts
        share counts in the first of them, in the order below. ``output`` keeps its bias.

    Returns
    -------
    Ints by name, in this order: ``source_embedding``, ``target_embedding``,
    ``encoder_attention``, ``encoder_feed_forward``, ``encoder_norms``,
    ``decoder_self_attention``, ``decoder_cross_attention``, ``decoder_feed_forward``,
    ``decoder_norms``, ``output``. The final norms count in ``encoder_norms`` and
    ``decoder_norms``. Their sum is the number of parameters of the model.

    Raises ValueError that says ``kind`` if that is not "relu", "gelu" or "swiglu", one
    that says ``tied`` for another word there, and one that says ``vocabular`` if all
    three are tied and the vocabularies have different sizes.
    """
    if kind not in ("relu", "gelu", "swiglu"):
        raise ValueError(f"kind is relu, gelu or swiglu, got {kind!r}")
    if tied not in ("none", "output", "all"):
        raise ValueError(f"tied is none, output or all, got {tied!r}")
    if tied == "all" and source_vocabulary != target_vocabulary:
        raise ValueError(f"vocabularies: {source_vocabulary}, {target_vocabulary}")
    attention = 4 * (d_model * d_model + d_model)
    into = 2 if kind == "swiglu" else 1  # up, and gate beside it
    feed_forward = into * (d_model * d_ff + d_ff) + d_ff * d_model + d_model
    norm = 2 * d_model
    final = norm_first if final_norm is None else final_norm
    target_table = target_vocabulary * d_model
    return {
        "source_embedding": source_vocabulary * d_model,
        "target_embedding": 0 if tied == "all" else target_table,
        "encoder_attention": encoder_layers * attention,
        "encoder_feed_forward": encoder_layers * feed_forward,
        "encoder_norms": (2 * encoder_layers + final) * norm,
        "decoder_self_attention": decoder_layers * attention,
        "decoder_cross_attention": decoder_layers * attention,
        "decoder_feed_forward": decoder_layers * feed_forward,
        "decoder_norms": (3 * decoder_layers + final) * norm,
        "output": (target_table if tied == "none" else 0) + target_vocabulary,
    }


def tie_embeddings(model: Transformer, *, all_three: bool = False) -> int:
    """Let the target embedding and the output layer share one table of weights.

    Parameters
    ----------
    model:
        Changed in place: ``output.weight`` becomes ``target_embedding.weight``, the same
        parameter and not a copy. What the output's table held is lost. Its bias stays.
        An optimizer must be made afterwards.
    all_three:
        If True, ``source_embedding.weight`` becomes that parameter, too. That has a
        meaning only if both languages have one vocabulary.

    Returns
    -------
    How many parameters the model has lost by it; 0 if it was tied that way before.

    Raises ValueError that says ``vocabular`` if all three are asked for and the source
    and the target table have different sizes. Nothing is changed then.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models".
    """
    table = model.target_embedding.weight
    if all_three and model.source_embedding.weight.shape != table.shape:
        sizes = model.source_embedding.num_embeddings, len(table)
        raise ValueError(f"vocabularies of {sizes} tokens cannot share a table")
    before = sum(weight.numel() for weight in model.parameters())
    model.output.weight = table
    if all_three:
        model.source_embedding.weight = table
    return before - sum(weight.numel() for weight in model.parameters())
