"""Day 33: many heads of attention in one layer, and how much each of them matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes
from solutions.day032_scaled_dot_product import scaled_dot_product_attention


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Cut the last axis into heads, without copying a number.

    Parameters
    ----------
    x:
        ``(B, n, d_model)``, any strides, any dtype.
    heads:
        How many heads, h. Each is ``d_head = d_model / h`` wide.

    Returns
    -------
    ``(B, h, n, d_head)``, a view of ``x``: head j holds the entries from
    ``j * d_head`` up to ``(j + 1) * d_head`` of each token.

    Raises ValueError that says ``heads`` if ``heads`` is below 1 or does not divide
    ``d_model``.

    Source: Vaswani et al. 2017, sec. 3.2.2; the layout is nn.MultiheadAttention's.
    """
    batch, n, d_model = x.shape
    # equivalent `d_model % heads > 0`: no remainder is negative here
    if heads < 1 or d_model % heads != 0:
        raise ValueError(f"cannot cut {d_model} columns into {heads} heads")
    # equivalent `transpose(2, 1)`: an exchange of two axes
    return x.view(batch, n, heads, d_model // heads).transpose(1, 2)


known_mistakes(
    split_heads,
    (
        "x.view(batch, n, heads, d_model // heads).transpose(1, 2)",
        "x.reshape(batch, heads, n, d_model // heads)",
        "the shape is right, but a head is filled with whole tokens: cut the last axis first, then move it",
    ),
    (
        "x.view(batch, n, heads, d_model // heads).transpose(1, 2)",
        "x.view(batch, n, d_model // heads, heads).permute(0, 3, 1, 2)",
        "the heads are interleaved: head j must hold neighboring entries, not every h-th",
    ),
    (
        ".transpose(1, 2)",
        ".transpose(1, 2).contiguous()",
        "the numbers are copied; a view of the same memory is asked for",
    ),
    (
        ".transpose(1, 2)",
        "",
        "the axes of tokens and heads have not been exchanged: (B, n, h, d_head) came",
    ),
    (
        "heads < 1 or d_model % heads != 0",
        "heads < 1",
        "a width that the heads do not divide must be a ValueError that says heads",
    ),
    (
        "heads < 1 or d_model % heads != 0",
        "d_model % heads != 0",
        "zero or fewer heads must be a ValueError, not a division by zero",
    ),
)


def merge_heads(x: Tensor) -> Tensor:
    """The inverse of ``split_heads``: ``(B, h, n, d_head)`` to ``(B, n, d_model)``.

    It copies, unless the heads of a token still lie side by side in memory.
    """
    batch, heads, n, d_head = x.shape
    # equivalent `x.transpose(2, 1)`: an exchange of two axes
    return x.transpose(1, 2).reshape(batch, n, heads * d_head)


class MultiHeadAttention(nn.Module):
    """Attention by ``heads`` heads at once, each ``d_model / heads`` wide.

    Four linear layers from ``d_model`` to ``d_model``, made in this order:
    ``query``, ``key``, ``value``, ``output``. Head j owns rows
    ``j * d_head`` to ``(j + 1) * d_head`` of the first three weights, and the same
    columns of ``output.weight``. ``bias`` holds for all four.

    ``head_gate``, a buffer of shape ``(heads,)``, all ones at first, multiplies
    each head's mixture before ``output``: 0 turns a head off. A gate of shape
    ``(B, heads)`` works as well, with a number for each sequence of the batch. It
    moves with the module and is not part of its ``state_dict``.

    Source: Vaswani et al. 2017, sec. 3.2.2; the gate, Michel et al. 2019, sec. 2.
    """

    head_gate: Tensor

    def __init__(
        self, d_model: int, heads: int, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        """Make the layers and the gate.

        ``dropout`` is the probability with which a weight of attention is dropped
        while the module trains; in evaluation nothing is dropped.

        Raises ValueError that says ``heads`` if ``heads`` is below 1 or does not
        divide ``d_model``.
        """
        super().__init__()
        # equivalent `d_model % heads > 0`: no remainder is negative here
        if heads < 1 or d_model % heads != 0:
            raise ValueError(f"cannot cut {d_model} columns into {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)
        self.register_buffer("head_gate", torch.ones(heads), persistent=False)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Every query asks all keys, once in each head.

        Parameters
        ----------
        query:
            ``(B, n, d_model)``.
        key, value:
            ``(B, m, d_model)``. Without ``key`` the queries' sequence is looked at
            (self-attention); without ``value`` the values come from ``key``.
        mask:
            What ``scaled_dot_product_attention`` takes: bool, True where a query may
            look, or float, added to the scores. Of two axes ``(n, m)`` it holds for
            all; of three, ``(B, n, m)`` or ``(B, 1, m)``, for all heads of a
            sequence; of four, ``(B, h, n, m)`` or what broadcasts to it.
        causal:
            If True, no query sees a key after its own position.

        Returns
        -------
        The output, ``(B, n, d_model)``, and the weights of all heads,
        ``(B, h, n, m)``, before dropout and gate.
        """
        key = query if key is None else key
        value = key if value is None else value
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]  # (B, 1, n, m): the same for all heads
        mixtures, weights = scaled_dot_product_attention(
            split_heads(self.query(query), self.heads),
            split_heads(self.key(key), self.heads),
            split_heads(self.value(value), self.heads),
            mask,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
        )
        mixtures = mixtures * self.head_gate[..., None, None]
        return self.output(merge_heads(mixtures)), weights

    def load_packed(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of an ``nn.MultiheadAttention``.

        Parameters
        ----------
        state:
            Its ``state_dict()``: ``in_proj_weight``, ``(3 * d_model, d_model)``, the
            weights of query, key and value one below the other; ``in_proj_bias``,
            ``(3 * d_model,)``, likewise; ``out_proj.weight`` and ``out_proj.bias``.
            The number of heads is not in it: it must be that of this module.

        Raises ValueError that says ``state`` if its names or shapes are not those of
        a module of this width, with or without biases as this one. Nothing is
        changed then. (A module made with ``kdim``, ``vdim`` or ``add_bias_kv`` has
        other names.) The parameters stay the same objects, so that an optimizer that
        holds them goes on.
        """
        d_model = self.query.in_features
        want = {"in_proj_weight": (3 * d_model, d_model)}
        want["out_proj.weight"] = (d_model, d_model)
        if self.query.bias is not None:
            want |= {"in_proj_bias": (3 * d_model,), "out_proj.bias": (d_model,)}
        came = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if came != want:
            raise ValueError(f"need a state of shapes {want}, got {came}")
        kinds = ["weight"] if self.query.bias is None else ["weight", "bias"]
        layers = (self.query, self.key, self.value)
        with torch.no_grad():
            for kind in kinds:
                for layer, part in zip(layers, state[f"in_proj_{kind}"].chunk(3)):
                    getattr(layer, kind).copy_(part)
                getattr(self.output, kind).copy_(state[f"out_proj.{kind}"])


known_mistakes(
    MultiHeadAttention,
    (
        "merge_heads(mixtures)",
        "mixtures.reshape(query.shape)",
        "the heads are put back without exchanging the axes of heads and tokens first, so tokens are mixed",
    ),
    (
        "return self.output(merge_heads(mixtures)), weights",
        "return merge_heads(mixtures), weights",
        "the output layer is made and never used: the heads are only laid side by side",
    ),
    (
        "            mask = mask[:, None]  # (B, 1, n, m): the same for all heads\n",
        "            pass\n",
        "a mask (B, n, m) lines its first axis up with the heads, not with the batch",
    ),
    (
        "        value = key if value is None else value\n",
        "        value = query if value is None else value\n",
        "without values of their own, the values come from the keys' sequence, not from the queries'",
    ),
    (
        "dropout=self.dropout if self.training else 0.0",
        "dropout=self.dropout",
        "weights are dropped in evaluation too",
    ),
    (
        "            causal=causal,\n",
        "",
        "the argument causal is not handed on: queries see keys after them",
    ),
    (
        "        mixtures = mixtures * self.head_gate[..., None, None]\n        return self.output(merge_heads(mixtures)), weights",
        "        return self.output(merge_heads(mixtures)) * self.head_gate.mean(), weights",
        "the gate must act on each head's own mixture, before the output layer adds the heads up",
    ),
    (
        "self.head_gate[..., None, None]",
        "self.head_gate",
        "the gate is broadcast along the last axis, the entries of a head, not along the heads",
    ),
    (
        "            split_heads(self.key(key), self.heads),\n            split_heads(self.value(value), self.heads),\n            mask,\n",
        "            split_heads(self.key(key), self.heads),\n            split_heads(self.value(value), self.heads),\n            mask,\n            scale=query.shape[-1] ** -0.5,\n",
        "the scores are divided by the root of d_model; a head is only d_head wide",
    ),
    (
        "getattr(layer, kind).copy_(part)",
        "setattr(layer, kind, nn.Parameter(part.clone()))",
        "new parameters take the place of the old; an optimizer made before would go on with the old ones",
    ),
    (
        "layers = (self.query, self.key, self.value)",
        "layers = (self.key, self.query, self.value)",
        "the packed weights stand in the order query, key, value",
    ),
    (
        "                getattr(self.output, kind).copy_(state[f\"out_proj.{kind}\"])\n",
        "",
        "the output projection of the other module is not taken over",
    ),
    (
        "        if came != want:\n",
        "        if False:\n",
        "a state of other names or shapes is not refused with a ValueError",
    ),
    (
        "torch.ones(heads), persistent=False",
        "torch.ones(heads)",
        "the gate is part of the state_dict: a state without it would no longer load",
    ),
)


def head_importance(
    layers: Sequence[MultiHeadAttention],
    losses: Callable[..., Tensor],
    batches: Iterable[Sequence[Tensor]],
    normalize: bool = False,
) -> Tensor:
    """How much the loss of an example moves, on average, when a head's gate moves.

    For head j of layer l, with gate g: the mean over all examples of
    ``|d loss / d g|``, at the gates as they are.

    Parameters
    ----------
    layers:
        The attention layers of a model, all with the same number h of heads.
    losses:
        ``losses(*batch)`` runs the model and gives the loss of each example, ``(B,)``.
        The loss of an example does not depend on the others of its batch. Each layer
        sees the B examples in the order of the batch, once or more often.
    batches:
        Each a tuple of tensors whose first axes have the same length B. Batches may
        differ in size: every example counts the same.
    normalize:
        If True, divide each layer's row by the root of its sum of squares; a row of
        zeros stays as it is.

    Returns
    -------
    ``(len(layers), h)``, not negative, detached. A layer that the loss does not
    depend on has zeros.

    Afterwards the gates are what they were, also after an error, and no parameter's
    ``grad`` has changed. Works inside ``torch.no_grad()`` as well.

    Raises ValueError that says ``no example`` if there is none, and one that says
    ``per example`` if ``losses`` gives anything but ``(B,)``.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", sec. 4.
    """
    kept = [layer.head_gate for layer in layers]
    found = []
    try:
        for batch in batches:
            # equivalent `len(batch[-1])` `len(batch[1])`: all have the same length
            size = len(batch[0])
            gates = []
            for layer, gate in zip(layers, kept):
                rows = gate.expand(size, layer.heads)  # (B, h): each its own
                layer.head_gate = rows.requires_grad_()
                gates.append(layer.head_gate)
            with torch.enable_grad():
                loss = losses(*batch)
                if loss.shape != (size,):
                    raise ValueError(
                        f"need a loss per example, ({size},), got {tuple(loss.shape)}"
                    )
                grads = torch.autograd.grad(loss.sum(), gates, materialize_grads=True)
            found.append(torch.stack(grads).abs())  # (layers, B, h)
    finally:
        for layer, gate in zip(layers, kept):
            layer.head_gate = gate
    if not any(part.numel() for part in found):
        raise ValueError("no example to judge the heads by")
    importance = torch.cat(found, dim=1).mean(dim=1)
    # equivalent `F.normalize(importance)`: 1 is the default
    return F.normalize(importance, dim=1) if normalize else importance


known_mistakes(
    head_importance,
    (
        "torch.stack(grads).abs()",
        "torch.stack(grads).mean(dim=1, keepdim=True).abs()",
        "the size is taken after the mean over the examples, so that contributions of opposite sign cancel",
    ),
    (
        "torch.stack(grads).abs()",
        "torch.stack(grads)",
        "the derivatives are averaged with their signs; the mean of their sizes is asked for",
    ),
    (
        "found.append(torch.stack(grads).abs())",
        "found.append(torch.stack(grads).abs().mean(dim=1, keepdim=True))",
        "a mean of the batches' means gives the examples of a small batch more weight",
    ),
    (
        "loss.sum(), gates",
        "loss.mean(), gates",
        "the mean over the batch divides each example's derivative by the size of its batch",
    ),
    (
        "rows = gate.expand(size, layer.heads)",
        "rows = torch.ones(size, layer.heads, dtype=gate.dtype)",
        "the gates are set to 1; the derivative is asked for at the gates as they are, also where a head is off",
    ),
    (
        "            layer.head_gate = gate\n",
        "            pass\n",
        "the gates of the layers are not put back afterwards",
    ),
    (
        "                if loss.shape != (size,):\n",
        "                if False:\n",
        "a loss that is not one number per example is not refused with a ValueError",
    ),
    (
        "                grads = torch.autograd.grad(loss.sum(), gates, materialize_grads=True)\n",
        "                loss.sum().backward()\n                grads = [torch.zeros_like(g) if g.grad is None else g.grad for g in gates]\n",
        "backward() adds to the grad of every parameter; the caller's next training step would use it",
    ),
    (
        "F.normalize(importance, dim=1)",
        "importance / importance.norm()",
        "normalization works layer by layer, not over the whole model",
    ),
    (
        "F.normalize(importance, dim=1)",
        "importance / importance.sum(dim=1, keepdim=True)",
        "a row is divided by the root of its sum of squares, not by its sum",
    ),
    (
        "F.normalize(importance, dim=1)",
        "importance / importance.norm(dim=1, keepdim=True)",
        "a layer without influence is divided by zero: its row must stay zero",
    ),
    (
        "            with torch.enable_grad():\n",
        "            if True:\n",
        "inside torch.no_grad() nothing is recorded: turn gradients on where you need them",
    ),
)
