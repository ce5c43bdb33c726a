"""Day 42: attention from the target to the source, the decoder's block around it, and
the shift that makes training data of a target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm180 import known_mistakes
from solutions.day032_scaled_dot_product import scaled_dot_product_attention
from solutions.day033_multi_head import MultiHeadAttention, merge_heads, split_heads
from solutions.day039_feed_forward import FeedForward
from solutions.day041_norm_placement import PostNorm, PreNorm


def teacher_forcing_shift(
    targets: Tensor, start: int, pad: int
) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it has to predict, for all positions at once.

    Parameters
    ----------
    targets:
        ``(B, m)``, int64: in each row its symbols, END among them, then ``pad`` up to
        m. No START. A row may be empty, all ``pad``. Left unchanged.
    start:
        The symbol that is read before the first. It may be ``pad`` itself, as in T5.
    pad:
        The symbol of places without a target. It must not be END as well.

    Returns
    -------
    ``(inputs, labels)``, two new tensors ``(B, m)``, int64. ``inputs`` is ``start``,
    then the row without its last place. ``labels`` is the row with -100, which
    ``F.cross_entropy`` ignores, in place of ``pad``. So ``labels[:, i]`` is what
    follows ``inputs[:, :i + 1]``, and ``labels != -100`` says which positions count.

    Raises ValueError that says ``pad`` if a symbol follows a ``pad``, and one that says
    ``start`` if a row begins with ``start`` already, where ``start`` is not ``pad``.

    Source: Vaswani et al. 2017, sec. 3.1: inputs "offset by one position".
    """
    real = targets != pad
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(f"a symbol follows pad, {pad}: pad at the end of a row only")
    if start != pad and (targets[:, :1] == start).any():
        raise ValueError(f"a row begins with start, {start}, already")
    first = targets.new_full((len(targets), 1), start)
    # The end is cut off after the joining, so that m may be 0.
    inputs = torch.cat([first, targets], dim=1)[:, : targets.shape[1]]
    return inputs, targets.masked_fill(~real, -100)


known_mistakes(
    teacher_forcing_shift,
    (
        "    return inputs, targets.masked_fill(~real, -100)\n",
        "    return targets.clone(), targets.masked_fill(~real, -100)\n",
        "nothing is shifted: each position reads the symbol that it has to predict",
    ),
    (
        "inputs = torch.cat([first, targets], dim=1)[:, : targets.shape[1]]",
        "inputs = torch.cat([targets[:, 1:], first], dim=1)",
        "the row moves the wrong way: a position reads the symbol after its label",
    ),
    (
        "inputs = torch.cat([first, targets], dim=1)[:, : targets.shape[1]]",
        "inputs = torch.cat([first, first, targets], dim=1)[:, : targets.shape[1]]",
        "the row is shifted by two: the symbol right before the label is not read",
    ),
    (
        "inputs = torch.cat([first, targets], dim=1)[:, : targets.shape[1]]",
        "inputs = targets.roll(1, dims=1)",
        "roll brings the last symbol of the row to its front, where start belongs",
    ),
    (
        "targets.masked_fill(~real, -100)",
        "targets.clone()",
        "padding keeps its labels: the loss teaches the decoder to write pad",
    ),
    (
        "    return inputs, targets.masked_fill(~real, -100)\n",
        "    return inputs, targets.masked_fill(inputs == pad, -100)\n",
        "the ignored places are read off the inputs: with start equal to pad the first label goes, and a pad after END stays",
    ),
    (
        "    return inputs, targets.masked_fill(~real, -100)\n",
        "    followed = nn.functional.pad(real[:, 1:], (0, 1))\n    return inputs, targets.masked_fill(~followed, -100)\n",
        "the last symbol of each row, END, is not asked for: the decoder never learns to stop",
    ),
    (
        "    if start != pad and (targets[:, :1] == start).any():\n",
        "    if (targets[:, :1] == start).any():\n",
        "with start equal to pad, an empty row is refused as if it began with start",
    ),
    (
        "    if start != pad and (targets[:, :1] == start).any():\n",
        "    if False:\n",
        "a row that begins with start already gets a second one, and nobody notices",
    ),
    (
        "    if (real[:, 1:] & ~real[:, :-1]).any():\n",
        "    if False:\n",
        "pad in front of a symbol is not refused: start would be followed by padding",
    ),
)


class CrossAttention(nn.Module):
    """Every position of the target asks all positions of the source.

    ``attention``, a ``MultiHeadAttention(d_model, heads, dropout=dropout)``, holds the
    layers ``query``, ``key``, ``value`` and ``output``, and the gate of the heads.

    Source: Vaswani et al. 2017, sec. 3.2.3, "encoder-decoder attention".
    """

    def __init__(self, d_model: int, heads: int, *, dropout: float = 0.0) -> None:
        """Make ``attention``.

        ``dropout`` is the probability with which a weight of attention is dropped while
        the module trains.

        Raises ValueError that says ``heads`` if ``heads`` is below 1 or does not divide
        ``d_model``.
        """
        super().__init__()
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source, ``(B, h, n, d_head)`` each, of its memory,
        ``(B, n, d_model)``. They do not depend on the target."""
        attention = self.attention
        keys = split_heads(attention.key(memory), attention.heads)
        values = split_heads(attention.value(memory), attention.heads)
        return keys, values

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        *,
        memory_mask: Tensor | None = None,
        projected: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read the source, for each position of the target.

        Parameters
        ----------
        x:
            ``(B, m, d_model)``: the target's side. It makes the queries.
        memory:
            ``(B, n, d_model)``: what the encoder has made of the source. It makes keys
            and values. n may be 0.
        memory_mask:
            ``(B, n)`` of bool, True where there is a source token. Without it, all are.
        projected:
            What ``project(memory)`` has given, for a caller who made it once for many
            steps. ``memory`` is not read then, and may be None.

        Returns
        -------
        The output, ``(B, m, d_model)``, and the weights of all heads, ``(B, h, m, n)``,
        before dropout and gate. A row of the weights sums to 1, with exactly 0 where
        there is no token; a source without any token has weights 0, and the output is
        the bias of the output layer.

        Raises ValueError that says ``memory_mask`` if that is not bool, or not of shape
        ``(B, n)``.
        """
        attention = self.attention
        keys, values = self.project(memory) if projected is None else projected
        mask = None
        if memory_mask is not None:
            shape = (keys.shape[0], keys.shape[2])
            if memory_mask.dtype != torch.bool or memory_mask.shape != shape:
                raise ValueError(
                    f"memory_mask is bool, {shape}; this one is {memory_mask.dtype}, "
                    f"{tuple(memory_mask.shape)}"
                )
            mask = memory_mask[:, None, None]  # for all heads and all queries
        mixtures, weights = scaled_dot_product_attention(
            split_heads(attention.query(x), attention.heads),
            keys,
            values,
            mask,
            dropout=attention.dropout if self.training else 0.0,
        )
        mixtures = mixtures * attention.head_gate[..., None, None]
        return attention.output(merge_heads(mixtures)), weights


known_mistakes(
    CrossAttention,
    (
        "            split_heads(attention.query(x), attention.heads),\n            keys,\n            values,\n",
        "            split_heads(attention.query(x), attention.heads),\n            *self.project(x),\n",
        "keys and values are made of the target: this is self-attention, and the source is never read",
    ),
    (
        "values = split_heads(attention.value(memory), attention.heads)",
        "values = split_heads(memory, attention.heads)",
        "the memory is mixed as it is; what is read are its values, made by the layer value",
    ),
    (
        "            mask = memory_mask[:, None, None]  # for all heads and all queries\n",
        "            mask = ~memory_mask[:, None, None]\n",
        "the mask is turned around: here True is a token, in nn.MultiheadAttention's key_padding_mask it is padding",
    ),
    (
        "            mask = memory_mask[:, None, None]  # for all heads and all queries\n",
        "            pass\n",
        "the mask is not used: padding of the source is read like a token",
    ),
    (
        "            dropout=attention.dropout if self.training else 0.0,\n",
        "            causal=True,\n            dropout=attention.dropout if self.training else 0.0,\n",
        "a causal mask between target and source: all of the source is known, at every position of the target",
    ),
    (
        "self.project(memory) if projected is None else projected",
        "self.project(memory)",
        "what the caller has projected once is made again at each call",
    ),
    (
        "keys, values = self.project(memory) if projected is None else projected",
        "values, keys = self.project(memory) if projected is None else projected",
        "keys and values have changed places",
    ),
    (
        "        keys = split_heads(attention.key(memory), attention.heads)\n",
        "        keys = attention.key(memory).unflatten(-1, (attention.heads, -1))\n",
        "the axes of heads and tokens have not been exchanged: (B, n, h, d_head) came",
    ),
    (
        "if memory_mask.dtype != torch.bool or memory_mask.shape != shape:",
        "if memory_mask.shape != shape:",
        "a mask of the numbers 0 and 1 is not refused; added to the scores, it hides nothing",
    ),
    (
        "if memory_mask.dtype != torch.bool or memory_mask.shape != shape:",
        "if memory_mask.dtype != torch.bool:",
        "a mask of another shape is not refused, though broadcasting takes some of them",
    ),
    (
        "attention.dropout if self.training else 0.0",
        "attention.dropout",
        "weights are dropped in evaluation too",
    ),
    (
        "            dropout=attention.dropout if self.training else 0.0,\n",
        "",
        "no weight is ever dropped: scaled_dot_product_attention drops only what its argument dropout says",
    ),
    (
        "        mixtures = mixtures * attention.head_gate[..., None, None]\n",
        "",
        "the gate of the heads is not used",
    ),
    (
        "        mixtures = mixtures * attention.head_gate[..., None, None]\n        return attention.output(merge_heads(mixtures)), weights",
        "        gates = attention.head_gate[..., None, None]\n        return attention.output(merge_heads(mixtures * gates)), weights * gates",
        "the weights are returned times the gates; they are asked for before dropout and gate",
    ),
    (
        "return attention.output(merge_heads(mixtures)), weights",
        "return x + attention.output(merge_heads(mixtures)), weights",
        "the input is added here; that is the wrapper's work, which would add it again",
    ),
)


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the source, feed-forward network.

    Three submodules, made in this order: ``self_attention`` around a
    ``MultiHeadAttention``, ``cross_attention`` around a ``CrossAttention``,
    ``feed_forward`` around a ``FeedForward`` of the ``kind``. Each is a ``PreNorm``, or
    a ``PostNorm`` if ``norm_first`` is False, with the module as its ``sublayer``. All
    wrappers and sublayers have the same ``dropout``.

    Source: Vaswani et al. 2017, sec. 3.1 and figure 1; with ``load_torch`` equal to
    nn.TransformerDecoderLayer.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        *,
        kind: str = "relu",
        dropout: float = 0.0,
        norm_first: bool = True,
    ) -> None:
        """Make the three submodules.

        Raises ValueError that says ``heads`` if ``heads`` is below 1 or does not divide
        ``d_model``.
        """
        super().__init__()
        wrap = PreNorm if norm_first else PostNorm
        looks = MultiHeadAttention(d_model, heads, dropout=dropout)
        reads = CrossAttention(d_model, heads, dropout=dropout)
        thinks = FeedForward(d_model, d_ff, kind=kind, dropout=dropout)
        self.self_attention = wrap(d_model, looks, dropout=dropout)
        self.cross_attention = wrap(d_model, reads, dropout=dropout)
        self.feed_forward = wrap(d_model, thinks, dropout=dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        projected: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One block. No position depends on a later one of the target.

        Parameters
        ----------
        x:
            ``(B, m, d_model)``, the target's side.
        memory, memory_mask, projected:
            As ``CrossAttention`` takes them. The memory is not normalized here.
        mask:
            ``(B, m)`` of bool, True where there is a target token: nobody looks at the
            others. Self-attention is causal with a mask and without.

        Returns
        -------
        ``(B, m, d_model)``, and the weights of the cross-attention, ``(B, h, m, n)``.

        Raises ValueError that says ``mask`` if that is not bool, or not of shape
        ``(B, m)``.
        """
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
                raise ValueError(
                    f"mask is bool, {tuple(x.shape[:2])}; this one is {mask.dtype}, "
                    f"{tuple(mask.shape)}"
                )
            mask = mask[:, None]  # (B, 1, m): the same for all queries
        x, _ = self.self_attention(x, mask=mask, causal=True)
        x, weights = self.cross_attention(
            x, memory, memory_mask=memory_mask, projected=projected
        )
        return self.feed_forward(x), weights

    def load_torch(self, layer: nn.TransformerDecoderLayer) -> None:
        """Take over the weights of PyTorch's layer, which must have the same sizes, the
        same heads, and the activation that ``kind`` says.

        Raises ValueError that says ``norm_first`` if the two differ in that.
        """
        if layer.norm_first != isinstance(self.self_attention, PreNorm):
            raise ValueError(f"the layer's norm_first is {layer.norm_first}")
        reads, feed = self.cross_attention.sublayer, self.feed_forward.sublayer
        self.self_attention.sublayer.load_packed(layer.self_attn.state_dict())
        reads.attention.load_packed(layer.multihead_attn.state_dict())
        for ours, theirs in (
            (self.self_attention.norm, layer.norm1),
            (self.cross_attention.norm, layer.norm2),
            (self.feed_forward.norm, layer.norm3),
            (feed.up, layer.linear1),
            (feed.down, layer.linear2),
        ):
            ours.load_state_dict(theirs.state_dict())


known_mistakes(
    DecoderBlock,
    (
        "self.self_attention(x, mask=mask, causal=True)",
        "self.self_attention(x, mask=mask, causal=mask is None)",
        "with a mask for padding the future is no longer hidden: both hold, always",
    ),
    (
        "self.self_attention(x, mask=mask, causal=True)",
        "self.self_attention(x, mask=mask)",
        "the future is not hidden: in training each position sees the symbol that it has to predict",
    ),
    (
        "self.self_attention(x, mask=mask, causal=True)",
        "self.self_attention(x, causal=True)",
        "the mask of the target is not used",
    ),
    (
        "            mask = mask[:, None]  # (B, 1, m): the same for all queries\n",
        "            mask = mask[:, :, None]\n",
        "the mask hides queries, not keys: hidden tokens are still read by the others",
    ),
    (
        "            x, memory, memory_mask=memory_mask, projected=projected\n",
        "            x, memory, projected=projected\n",
        "memory_mask is not handed on: padding of the source is read",
    ),
    (
        "            x, memory, memory_mask=memory_mask, projected=projected\n",
        "            x, memory, memory_mask=memory_mask\n",
        "projected is not handed on",
    ),
    (
        "            x, memory, memory_mask=memory_mask, projected=projected\n",
        "            x, self.cross_attention.norm(memory), memory_mask=memory_mask, projected=projected\n",
        "the memory is normalized by the block's norm; that norm is for the target's side only",
    ),
    (
        "        x, _ = self.self_attention(x, mask=mask, causal=True)\n        x, weights = self.cross_attention(\n            x, memory, memory_mask=memory_mask, projected=projected\n        )\n",
        "        x, weights = self.cross_attention(\n            x, memory, memory_mask=memory_mask, projected=projected\n        )\n        x, _ = self.self_attention(x, mask=mask, causal=True)\n",
        "cross-attention comes first here; self-attention does, so that the question to the source knows what is written",
    ),
    (
        "return self.feed_forward(x), weights",
        "return x, weights",
        "the feed-forward network is made and never used",
    ),
    (
        "x, _ = self.self_attention(x, mask=mask, causal=True)\n        x, weights = self.cross_attention(",
        "x, weights = self.self_attention(x, mask=mask, causal=True)\n        x, _ = self.cross_attention(",
        "the weights are those of the self-attention, (B, h, m, m); those of the cross-attention are asked for",
    ),
    (
        "wrap = PreNorm if norm_first else PostNorm",
        "wrap = PostNorm if norm_first else PreNorm",
        "the wrappers have changed places: norm_first means that the norm stands before the sublayer",
    ),
    (
        "FeedForward(d_model, d_ff, kind=kind, dropout=dropout)",
        "FeedForward(d_model, d_ff, dropout=dropout)",
        "kind is not handed on: every block has ReLU",
    ),
    (
        "looks = MultiHeadAttention(d_model, heads, dropout=dropout)",
        "looks = MultiHeadAttention(d_model, heads)",
        "dropout is not handed on to the self-attention: its weights are never dropped",
    ),
    (
        "self.feed_forward = wrap(d_model, thinks, dropout=dropout)",
        "self.feed_forward = wrap(d_model, thinks)",
        "one of the three wrappers does not drop",
    ),
    (
        "            if mask.dtype != torch.bool or mask.shape != x.shape[:2]:\n",
        "            if mask.dtype != torch.bool:\n",
        "a mask of another shape than (B, m) must be a ValueError",
    ),
)
