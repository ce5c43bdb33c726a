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

    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3; ``norm_first``,
    Day 41.
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
        sides = (
            (self.encoder, self.encoder_norm, body.encoder),
            (self.decoder, self.decoder_norm, body.decoder),
        )
        for blocks, norm, side in sides:
            if len(blocks) != len(side.layers):
                raise ValueError(f"{len(blocks)} layers here, {len(side.layers)} there")
            if isinstance(norm, nn.Identity) != (side.norm is None):
                raise ValueError("a final norm on one side only")
        for block, layer in zip(self.decoder, body.decoder.layers):
            block.load_torch(layer)  # refuses another norm_first
        for block, layer in zip(self.encoder, body.encoder.layers):
            block.attention.load_packed(layer.self_attn.state_dict())
            for ours, theirs in (
                (block.feed_forward.up, layer.linear1),
                (block.feed_forward.down, layer.linear2),
                (block.norm1, layer.norm1),
                (block.norm2, layer.norm2),
            ):
                ours.load_state_dict(theirs.state_dict())
        for _, norm, side in sides:
            if side.norm is not None:
                norm.load_state_dict(side.norm.state_dict())


known_mistakes(
    Transformer,
    (
        "table(ids) * math.sqrt(table.embedding_dim)",
        "table(ids)",
        "the embeddings are not multiplied by the root of d_model: the positions drown them",
    ),
    (
        "        x = table(ids) * math.sqrt(table.embedding_dim)\n        positions = sinusoidal(ids.shape[1], table.embedding_dim)\n        return self.dropout(x + positions.to(x))",
        "        x = table(ids)\n        positions = sinusoidal(ids.shape[1], table.embedding_dim)\n        return self.dropout((x + positions.to(x)) * math.sqrt(table.embedding_dim))",
        "the positions are multiplied by the root of d_model, too; only the embeddings are",
    ),
    (
        "x + positions.to(x)",
        "x + positions",
        "the positions stay float32: a model in bfloat16 is turned into one of float32",
    ),
    (
        "x + positions.to(x)",
        "x + positions.to(x.dtype)",
        "the positions stay on the CPU: with the model on another device the sum fails",
    ),
    (
        "x + positions.to(x)",
        "x",
        "no positions are added: the encoder cannot tell one order of the source from another",
    ),
    (
        "            nn.init.normal_(table.weight, std=d_model**-0.5)\n",
        "            pass\n",
        "the tables keep PyTorch's standard deviation of 1; times the root of d_model, the tokens drown the positions",
    ),
    (
        "nn.init.normal_(table.weight, std=d_model**-0.5)",
        "nn.init.uniform_(table.weight, -((3 / d_model) ** 0.5), (3 / d_model) ** 0.5)",
        "the tables are drawn from a uniform distribution; a normal one is asked for",
    ),
    (
        "self.dropout(x + positions.to(x))",
        "x + positions.to(x)",
        "there is no dropout on the sum of embedding and position",
    ),
    (
        "self.dropout(x + positions.to(x))",
        "nn.functional.dropout(x + positions.to(x), self.dropout.p)",
        "embeddings are dropped in evaluation, too",
    ),
    (
        "nn.ModuleList(\n            EncoderBlock(*sizes, **common) for _ in range(encoder_layers)\n        )",
        "nn.ModuleList([EncoderBlock(*sizes, **common)] * encoder_layers)",
        "one block stands in the list several times: all layers share their weights",
    ),
    (
        'common = {"kind": kind, "dropout": dropout, "norm_first": norm_first}',
        'common = {"kind": kind, "dropout": dropout}',
        "norm_first is not handed on: the blocks of the two sides have different defaults",
    ),
    (
        'common = {"kind": kind, "dropout": dropout, "norm_first": norm_first}',
        'common = {"kind": kind, "norm_first": norm_first}',
        "dropout is not handed on to the blocks",
    ),
    (
        "        final_norm = norm_first if final_norm is None else final_norm\n",
        "        final_norm = final_norm is not False\n",
        "a model with the norm after each addition gets final norms unasked",
    ),
    (
        "mask = source_mask[:, None]  # (B, 1, n): the same for all queries",
        "mask = source_mask",
        "a mask (B, n) is read as one of queries and keys: put an axis for the queries between the two",
    ),
    (
        "mask = source_mask[:, None]  # (B, 1, n): the same for all queries",
        "mask = ~source_mask[:, None]",
        "the mask is turned around: True is where there is a token",
    ),
    (
        "            x = block(x, mask=mask)",
        "            x = block(x)",
        "the encoder looks at the padding: source_mask is not used there",
    ),
    (
        "            x = block(x, mask=mask)",
        "            x = block(x, mask=mask, causal=True)",
        "the encoder is causal; it may look at the whole source",
    ),
    (
        "block(x, memory, memory_mask=source_mask)",
        "block(x, memory)",
        "the decoder looks at the padding of the source: cross-attention needs the mask as well",
    ),
    (
        "self.encode(source, source_mask), source_mask)",
        "self.encode(source, source_mask))",
        "forward uses the mask in the encoder only",
    ),
    (
        "        return self.encoder_norm(x)",
        "        return x",
        "the memory is not normalized: with norm_first the sum of all blocks has any size",
    ),
    (
        "self.output(self.decoder_norm(x))",
        "self.output(x)",
        "the decoder's final norm is made and not used",
    ),
    (
        "self.output(self.decoder_norm(x))",
        "self.output(self.decoder_norm(x)).log_softmax(dim=-1)",
        "probabilities or their logarithms come back; logits are asked for",
    ),
    (
        "self.embed(target_in, self.target_embedding)",
        "self.embed(target_in, self.source_embedding)",
        "the target is looked up in the source's table",
    ),
    (
        "            if source_mask.dtype != torch.bool or source_mask.shape != source.shape:\n",
        "            if False:\n",
        "a mask of another shape or dtype is not refused with a ValueError",
    ),
)


def parameter_count(
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    d_model: int,
    heads: int,
    d_ff: int,
    encoder_layers: int,
    decoder_layers: int,
    # equivalent `dropout: float = 1.0` `dropout: float = -1.0`: not used
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
        ``output``; or "all", these and the source embedding. A shared table counts in
        the first of its parts, in the order below. ``output`` keeps its bias.

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
    # equivalent `if tied <= "all" and`: it is the first of the three words
    if tied == "all" and source_vocabulary != target_vocabulary:
        raise ValueError(f"vocabularies: {source_vocabulary}, {target_vocabulary}")
    attention = 4 * (d_model * d_model + d_model)
    # equivalent `if kind >= "swiglu"`: it is the last of the three words
    into = 2 if kind == "swiglu" else 1  # up, and gate beside it
    feed_forward = into * (d_model * d_ff + d_ff) + d_ff * d_model + d_model
    norm = 2 * d_model
    final = norm_first if final_norm is None else final_norm
    target_table = target_vocabulary * d_model
    return {
        "source_embedding": source_vocabulary * d_model,
        # equivalent `0 if tied <= "all"`: as above
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


known_mistakes(
    parameter_count,
    (
        "4 * (d_model * d_model + d_model)",
        "4 * d_model * d_model",
        "the biases of the four projections are not counted",
    ),
    (
        "4 * (d_model * d_model + d_model)",
        "heads * 4 * (d_model * d_model + d_model)",
        "the heads share the width: their number changes no count",
    ),
    (
        "4 * (d_model * d_model + d_model)",
        "3 * (d_model * d_model + d_model)",
        "attention has a fourth projection, of its output",
    ),
    (
        "+ d_ff * d_model + d_model",
        "+ d_ff * d_model",
        "the second layer of the feed-forward network has a bias",
    ),
    (
        "into * (d_model * d_ff + d_ff)",
        "into * d_model * d_ff + d_ff",
        "the gate of swiglu has a bias of its own",
    ),
    (
        '2 if kind == "swiglu" else 1',
        "1",
        "swiglu has a third matrix, its gate",
    ),
    (
        "    norm = 2 * d_model\n",
        "    norm = d_model\n",
        "a norm has a weight and a bias",
    ),
    (
        "(3 * decoder_layers + final) * norm",
        "(2 * decoder_layers + final) * norm",
        "a decoder block has three norms, one for each of its parts",
    ),
    (
        "final = norm_first if final_norm is None else final_norm",
        "final = True",
        "without norm_first there are no final norms, unless they are asked for",
    ),
    (
        '(target_table if tied == "none" else 0) + target_vocabulary',
        'target_table + target_vocabulary if tied == "none" else 0',
        "the bias of the output layer stays when its weight is shared",
    ),
    (
        '(target_table if tied == "none" else 0) + target_vocabulary',
        "target_table + target_vocabulary",
        "a shared table is counted again in the output layer",
    ),
    (
        '"target_embedding": 0 if tied == "all" else target_table',
        '"target_embedding": 0 if tied != "none" else target_table',
        "with the output tied, the target table still counts once, as the target embedding",
    ),
    (
        '    if tied == "all" and source_vocabulary != target_vocabulary:\n',
        "    if False:\n",
        "two vocabularies of different sizes cannot share a table: that must be a ValueError",
    ),
    (
        '    if kind not in ("relu", "gelu", "swiglu"):\n',
        "    if False:\n",
        "an unknown kind is not refused with a ValueError",
    ),
    (
        '    if tied not in ("none", "output", "all"):\n',
        "    if False:\n",
        "an unknown word for tied is not refused with a ValueError",
    ),
)


def tie_embeddings(model: Transformer, *, all_three: bool = False) -> int:
    """Let the target embedding and the output layer share one table of weights.

    Parameters
    ----------
    model:
        Changed in place: ``output.weight`` becomes ``target_embedding.weight``, the
        same parameter, no copy. What the output's table held is lost. Its bias stays.
        An optimizer must be made afterwards.
    all_three:
        If True, ``source_embedding.weight`` becomes that parameter, too. That has a
        meaning only if both languages have one vocabulary.

    Returns
    -------
    How many parameters the model has lost by it; 0 if it was tied that way before.

    Raises ValueError that says ``vocabular`` if all three are asked for and the source
    and the target table have different sizes. Nothing is changed then.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language
    Models".
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


known_mistakes(
    tie_embeddings,
    (
        "    model.output.weight = table\n",
        "    model.output.weight.data.copy_(table.data)\n",
        "the numbers are copied: after one step of training the two tables differ",
    ),
    (
        "    model.output.weight = table\n",
        "    model.output.weight.data = table.data\n",
        "two parameters on one memory: an optimizer would step it twice, each time with half of the gradient",
    ),
    (
        "    model.output.weight = table\n",
        "    table = nn.Parameter(table.detach().clone())\n    model.output.weight = model.target_embedding.weight = table\n",
        "both modules hold a new parameter, a copy; they are to share the target embedding's own",
    ),
    (
        "    model.output.weight = table\n",
        "    model.target_embedding.weight = model.output.weight\n",
        "the output's table has survived; it was drawn for another purpose, and the target embedding's is to stay",
    ),
    (
        "    model.output.weight = table\n",
        "    model.output.weight = table\n    model.output.bias = None\n",
        "the output's bias is gone; only the weight is shared",
    ),
    (
        "    if all_three:\n        model.source_embedding.weight = table\n",
        "    if len(model.source_embedding.weight) == len(table):\n        model.source_embedding.weight = table\n",
        "equal sizes do not make one vocabulary: all three are tied only if that is asked for",
    ),
    (
        "        model.source_embedding.weight = table\n",
        "        pass\n",
        "the source embedding is not tied although all three were asked for",
    ),
    (
        "return before - sum(weight.numel() for weight in model.parameters())",
        "return table.numel()",
        "the count is wrong where all three are tied, and where the model was tied before",
    ),
    (
        "    if all_three and model.source_embedding.weight.shape != table.shape:\n",
        "    if False:\n",
        "tables of different sizes are not refused with a ValueError",
    ),
    (
        "    if all_three and model.source_embedding.weight.shape != table.shape:\n        sizes = model.source_embedding.num_embeddings, len(table)\n        raise ValueError(f\"vocabularies of {sizes} tokens cannot share a table\")\n    before = sum(weight.numel() for weight in model.parameters())\n    model.output.weight = table\n",
        "    before = sum(weight.numel() for weight in model.parameters())\n    model.output.weight = table\n    if all_three and model.source_embedding.weight.shape != table.shape:\n        raise ValueError(\"vocabularies\")\n",
        "the output was tied before the error: nothing may be changed then",
    ),
)
