"""Day 38: the cache of keys and values, generation with it, heads that share keys and
values, and the bytes that all of this takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm180 import known_mistakes
from solutions.day032_scaled_dot_product import (
    causal_mask,
    scaled_dot_product_attention,
)
from solutions.day033_multi_head import split_heads
from solutions.day036_rope import apply_rope


class KVCache:
    """The keys and values of one attention layer, for all positions so far.

    The memory for ``capacity`` positions is taken once, at the first ``append``, which
    also decides batch, heads, widths, dtype and device. ``length``, 0 at first, is
    the number of positions held. No gradient flows through a cache.

    Source: derived on the page; the incremental form of attention is that of Shazeer
    2019, "Fast Transformer Decoding: One Write-Head is All You Need", sec. 2.4.
    """

    def __init__(self, capacity: int) -> None:
        """An empty cache for at most ``capacity`` positions.

        Raises ValueError if ``capacity`` is negative.
        """
        if capacity < 0:
            raise ValueError(f"a capacity is not negative, got {capacity}")
        self.capacity = capacity
        self.length = 0
        self.buffers: tuple[Tensor, Tensor] | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add n positions, and give all that are held.

        Parameters
        ----------
        key, value:
            ``(B, kv_heads, n, d_k)`` and ``(B, kv_heads, n, d_v)``, n at least 0.

        Returns
        -------
        All keys, ``(B, kv_heads, length, d_k)``, and all values, likewise, oldest
        first. Both are views of the memory of the cache: nothing but the n new
        positions is copied.

        Raises ValueError that says ``full`` if there is no room for n more, and one
        that says ``fit`` if key and value differ in anything but their width, or
        differ from what is held in batch, heads, width or dtype. Nothing has changed
        then.
        """
        if key.shape[:3] != value.shape[:3] or key.dtype != value.dtype:
            raise ValueError(f"key {key.shape} and value {value.shape} do not fit")
        end = self.length + key.shape[2]
        if end > self.capacity:
            raise ValueError(f"full: {end} positions, room for {self.capacity}")
        new = (key.detach(), value.detach())
        if self.buffers is None:
            batch, heads = key.shape[:2]
            shape = (batch, heads, self.capacity)
            self.buffers = (
                key.new_empty(*shape, key.shape[3]),
                value.new_empty(*shape, value.shape[3]),
            )
        # equivalent `zip(new, self.buffers)`: the two are compared
        for buffer, part in zip(self.buffers, new):
            held, given = ((t.shape[:2], t.shape[3], t.dtype) for t in (buffer, part))
            if held != given:
                raise ValueError(f"{given} does not fit what is held, {held}")
        for buffer, part in zip(self.buffers, new):
            buffer[:, :, self.length : end] = part
        self.length = end
        keys, values = (buffer[:, :, :end] for buffer in self.buffers)
        return keys, values

    def truncate(self, length: int) -> None:
        """Keep the oldest ``length`` positions and forget the others.

        Raises ValueError if ``length`` is negative or more than are held.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot keep {length} of {self.length} positions")
        self.length = length

    def select(self, rows: Tensor) -> None:
        """Replace the batch by the sequences of these indices, ``(B_new,)`` of int.

        A sequence may be taken more than once, each time as a copy of its own, or not
        at all. A cache that has held nothing yet stays as it is.
        """
        if self.buffers is not None:
            keys, values = self.buffers
            self.buffers = (keys[rows], values[rows])

    def nbytes(self) -> int:
        """Bytes of memory taken, used or not; 0 before the first ``append``."""
        return sum(buffer.nbytes for buffer in self.buffers or ())


known_mistakes(
    KVCache,
    (
        "buffer[:, :, self.length : end] = part",
        "buffer[:, :, : end - self.length] = part",
        "the new positions are written over the oldest ones; they belong behind what is held",
    ),
    (
        "        self.length = end\n",
        "",
        "the length does not grow, so the next append writes over this one",
    ),
    (
        "keys, values = (buffer[:, :, :end] for buffer in self.buffers)",
        "keys, values = self.buffers",
        "all of the memory is returned, with places that nothing was ever written to",
    ),
    (
        "(buffer[:, :, :end] for buffer in self.buffers)",
        "(buffer[:, :, :end].clone() for buffer in self.buffers)",
        "everything held is copied at each append; views are asked for",
    ),
    (
        "if end > self.capacity:",
        "if end >= self.capacity:",
        "a cache of capacity c holds c positions: the last place stays unused",
    ),
    (
        "new = (key.detach(), value.detach())",
        "new = (key, value)",
        "the gradient flows into the cache: the graph of every step is kept alive",
    ),
    (
        "value.new_empty(*shape, value.shape[3])",
        "value.new_empty(*shape, key.shape[3])",
        "the memory for the values has the width of the keys; the two may differ",
    ),
    (
        "            if held != given:\n",
        "            if False:\n",
        "what does not fit is broadcast over the batch or cast to another dtype, and nobody notices",
    ),
    (
        "        if key.shape[:3] != value.shape[:3] or key.dtype != value.dtype:\n",
        "        if False:\n",
        "a key and a value of different batch, heads, positions or dtype are not refused with a ValueError",
    ),
    (
        "        self.length = length\n",
        "        self.length -= length\n",
        "the argument is how many positions to keep, not how many to drop",
    ),
    (
        "(keys[rows], values[rows])",
        "(keys[: len(rows)], values[: len(rows)])",
        "the first sequences are kept, whatever the indices say",
    ),
    (
        "(keys[rows], values[rows])",
        "(keys[rows][:, :, : self.length], values[rows][:, :, : self.length])",
        "after select there is no room left for the next position",
    ),
)


class GroupedQueryAttention(nn.Module):
    """Causal self-attention in which several query heads share one key and value head.

    Query head i, of width ``d_head = d_model / heads``, uses the keys and values of
    head ``i // (heads / kv_heads)``. With ``kv_heads = heads`` this is multi-head
    attention, with ``kv_heads = 1`` multi-query attention.

    Linear layers, made in this order: ``query``, d_model to d_model; ``key`` and
    ``value``, d_model to ``kv_heads * d_head``; ``output``, d_model to d_model. Each
    head owns ``d_head`` neighboring rows of the first three weights and, for query
    heads, the same columns of ``output.weight``. ``bias`` holds for all four. With
    ``rope``, queries and keys are rotated by their positions.

    Source: Ainslie et al. 2023, "GQA", sec. 2; Shazeer 2019, sec. 3.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        kv_heads: int,
        *,
        bias: bool = False,
        rope: bool = True,
    ) -> None:
        """Make the layers; keep ``heads``, ``kv_heads`` and ``rope`` as attributes.

        Raises ValueError that says ``heads`` if ``heads`` or ``kv_heads`` is below 1,
        ``heads`` does not divide ``d_model``, or ``kv_heads`` does not divide
        ``heads``.
        """
        super().__init__()
        # equivalent `d_model % heads > 0` `heads % kv_heads > 0`: never negative here
        if heads < 1 or kv_heads < 1 or d_model % heads != 0 or heads % kv_heads != 0:
            raise ValueError(f"{d_model} columns, {heads} heads, {kv_heads} kv_heads")
        self.heads = heads
        self.kv_heads = kv_heads
        self.rope = rope
        shared = kv_heads * (d_model // heads)
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, shared, bias=bias)
        self.value = nn.Linear(d_model, shared, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self, x: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend from n new positions to themselves and to all before them.

        Keys and values are not repeated for the query heads that share them.

        Parameters
        ----------
        x:
            ``(B, n, d_model)``: the positions that follow those in the cache.
        cache:
            Keys, rotated, and values of the positions before; those of ``x`` are
            appended. Without one, ``x`` is the whole sequence and starts at position 0.
        mask:
            ``(B, m)`` of bool, for all m positions, those in the cache first: False
            where nobody may look, as at padding. Without one, all are real.

        Returns
        -------
        The output, ``(B, n, d_model)``, and the weights, ``(B, heads, n, m)``.
        """
        batch, n, d_model = x.shape
        start = 0 if cache is None else cache.length
        queries = split_heads(self.query(x), self.heads)
        keys = split_heads(self.key(x), self.kv_heads)
        values = split_heads(self.value(x), self.kv_heads)
        if self.rope:
            positions = torch.arange(start, start + n, device=x.device)
            queries, keys = apply_rope(queries, positions), apply_rope(keys, positions)
        if cache is not None:
            keys, values = cache.append(keys, values)
        m = start + n
        may = causal_mask(n, m, device=x.device)
        if mask is not None:
            may = may & mask[:, None, None, :]  # (B, 1, n, m)
        # The queries of a group stand one below the other and ask the same keys.
        group = self.heads // self.kv_heads
        folded = queries.reshape(batch, self.kv_heads, group * n, -1)
        may = torch.cat([may] * group, dim=-2)  # (..., group * n, m)
        mixtures, weights = scaled_dot_product_attention(folded, keys, values, may)
        mixtures = mixtures.reshape(batch, self.heads, n, -1)
        # equivalent `transpose(2, 1)`: an exchange of two axes
        merged = mixtures.transpose(1, 2).reshape(batch, n, d_model)
        return self.output(merged), weights.reshape(batch, self.heads, n, m)

    def pooled(self, kv_heads: int) -> GroupedQueryAttention:
        """A new module with fewer key and value heads, each the mean of a group.

        New head j is the mean of the old heads ``j * r`` to ``(j + 1) * r``, with
        ``r = self.kv_heads / kv_heads``, for keys and for values, weights and biases.
        ``query`` and ``output`` are copied. Dtype, bias and rope are kept.

        Raises ValueError that says ``heads`` if ``kv_heads`` is below 1 or does not
        divide ``self.kv_heads``.

        Source: Ainslie et al. 2023, sec. 2.1.
        """
        # equivalent `self.kv_heads % kv_heads > 0`: never negative here
        if kv_heads < 1 or self.kv_heads % kv_heads != 0:
            raise ValueError(f"cannot pool {self.kv_heads} heads into {kv_heads}")
        weight = self.query.weight
        bias = self.query.bias is not None
        new = GroupedQueryAttention(
            # equivalent `weight.shape[0]`: the weight is square
            weight.shape[1], self.heads, kv_heads, bias=bias, rope=self.rope
        ).to(weight)
        new.query.load_state_dict(self.query.state_dict())
        new.output.load_state_dict(self.output.state_dict())
        with torch.no_grad():
            for old, fresh in ((self.key, new.key), (self.value, new.value)):
                for name, target in fresh.named_parameters():
                    source = getattr(old, name)  # (old heads * d_head, ...)
                    d_head = source.shape[0] // self.kv_heads
                    heads = source.unflatten(0, (kv_heads, -1, d_head))
                    target.copy_(heads.mean(dim=1).flatten(0, 1))
        return new


known_mistakes(
    GroupedQueryAttention,
    (
        "folded = queries.reshape(batch, self.kv_heads, group * n, -1)",
        "folded = queries.unflatten(1, (group, self.kv_heads)).transpose(1, 2).reshape(batch, self.kv_heads, group * n, -1)",
        "query head i uses the keys of head i % kv_heads; neighbors share: i // (heads / kv_heads)",
    ),
    (
        "may = causal_mask(n, m, device=x.device)",
        "may = torch.ones(n, m, dtype=torch.bool).tril()",
        "the causal mask is aligned with the first key: with a cache, the last query belongs to the last key",
    ),
    (
        "torch.arange(start, start + n, device=x.device)",
        "torch.arange(n, device=x.device)",
        "with a cache the positions go on from its length; yours begin at 0 again",
    ),
    (
        "apply_rope(queries, positions), apply_rope(keys, positions)",
        "queries, apply_rope(keys, positions)",
        "only the keys are rotated: the scores then depend on absolute positions",
    ),
    (
        "            queries, keys = apply_rope(queries, positions), apply_rope(keys, positions)\n",
        "            queries, keys = apply_rope(queries, positions), apply_rope(keys, positions)\n            values = apply_rope(values, positions)\n",
        "the values are rotated too; only queries and keys are",
    ),
    (
        "        if self.rope:\n",
        "        if True:\n",
        "positions are put in although rope=False was asked for",
    ),
    (
        "        folded = queries.reshape(batch, self.kv_heads, group * n, -1)\n        may = torch.cat([may] * group, dim=-2)  # (..., group * n, m)\n",
        "        folded, keys, values = queries, keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)\n",
        "keys and values are repeated for each query head: right, but all the traffic that sharing saves is back; fold the queries",
    ),
    (
        "torch.cat([may] * group, dim=-2)",
        "may.repeat_interleave(group, dim=-2)",
        "the queries of a group stand head by head, so the mask is repeated as a whole, not row by row",
    ),
    (
        "mask[:, None, None, :]",
        "mask[:, None, -n:, None]",
        "the mask is laid over the queries; it says which keys may be looked at",
    ),
    (
        "            may = may & mask[:, None, None, :]  # (B, 1, n, m)\n",
        "            may = mask[:, None, None, :].expand(batch, 1, n, m)\n",
        "with a mask the future is no longer hidden: a query sees what both allow",
    ),
    (
        "mixtures.transpose(1, 2).reshape(batch, n, d_model)",
        "mixtures.reshape(batch, n, d_model)",
        "the heads are put back without exchanging the axes of heads and positions first",
    ),
    (
        "        return self.output(merged), weights",
        "        return merged, weights",
        "the output layer is made and never used",
    ),
    (
        "shared = kv_heads * (d_model // heads)",
        "shared = d_model",
        "keys and values are as wide as the model: nothing is saved",
    ),
    (
        "heads.mean(dim=1)",
        "heads[:, 0]",
        "the first head of each group is taken; the mean of the group is asked for",
    ),
    (
        "heads.mean(dim=1)",
        "heads.sum(dim=1)",
        "the heads of a group are added up; their mean is asked for",
    ),
    (
        "source.unflatten(0, (kv_heads, -1, d_head))\n                    target.copy_(heads.mean(dim=1)",
        "source.unflatten(0, (-1, kv_heads, d_head))\n                    target.copy_(heads.mean(dim=0)",
        "heads far apart are pooled; a group is made of neighbors",
    ),
    (
        " or heads % kv_heads != 0:",
        ":",
        "a number of kv_heads that does not divide heads must be a ValueError that says heads",
    ),
)


@torch.no_grad()
def generate_cached(
    model: nn.Module,
    prompt: Tensor,
    new_tokens: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: int | None = None,
) -> Tensor:
    """Continue a batch of prompts, and show the model each token once only.

    Parameters
    ----------
    model:
        ``model(ids, caches)`` gives logits ``(B, n, V)`` and appends to the caches,
        one ``KVCache`` a layer; ``model.new_caches(capacity)`` makes empty ones. Ask
        for no more capacity than is used.
    prompt:
        ``(B, n)`` of int64, both at least 1, no padding. It is left unchanged.
    new_tokens:
        How many tokens to add, at least 0.
    temperature:
        0 takes the token of the largest logit. Otherwise one draw per step for the
        whole batch, by ``torch.multinomial(p, 1, generator=generator)`` with p the
        softmax of ``logits / temperature``, ``(B, V)``.
    generator:
        The source of randomness.
    stop:
        A sequence that has produced this token gets nothing but this token from then
        on, and when all have produced it, generation ends. In the prompt it means
        nothing.

    Returns
    -------
    ``(B, n + t)``, the prompts and t new tokens, t at most ``new_tokens``: the same
    as if the model had read the whole sequence again for each token.

    The model is in evaluation mode while it runs, and afterwards in the mode that it
    had, also after an error. No gradient is recorded.

    Raises ValueError for an empty prompt, negative ``new_tokens`` or negative
    ``temperature``.

    Source: derived on the page.
    """
    # equivalent `prompt.shape[1] <= 0`: a length is not negative
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty: there is nothing to continue")
    if new_tokens < 0 or temperature < 0:
        raise ValueError(f"negative: {new_tokens} tokens, temperature {temperature}")
    training = model.training
    model.train(False)
    try:
        caches = model.new_caches(prompt.shape[1] + new_tokens - 1)
        ids = fresh = prompt
        done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        for _ in range(new_tokens):
            logits = model(fresh, caches)[:, -1]  # (B, V)
            # equivalent `temperature <= 0`: it is not negative here
            if temperature == 0:
                # equivalent `dim=1`: the last of two axes
                fresh = logits.argmax(dim=-1, keepdim=True)
            else:
                # equivalent `dim=1`: the last of two axes
                p = (logits / temperature).softmax(dim=-1)
                fresh = torch.multinomial(p, 1, generator=generator)
            if stop is not None:
                fresh = fresh.masked_fill(done[:, None], stop)
                # equivalent `fresh[:, -1]`: it has one column
                done = fresh[:, 0] == stop
            ids = torch.cat([ids, fresh], dim=1)
            if done.all():
                break
    finally:
        model.train(training)
    return ids


known_mistakes(
    generate_cached,
    (
        "model(fresh, caches)",
        "model(ids, caches)",
        "the whole sequence is shown again with the caches full: every position is in them twice",
    ),
    (
        "model(fresh, caches)[:, -1]",
        "model(fresh, caches)[:, 0]",
        "after the prompt there are n rows of logits; the last one predicts the next token",
    ),
    (
        "prompt.shape[1] + new_tokens - 1",
        "prompt.shape[1] + new_tokens",
        "the last token is never shown to the model and needs no place in the cache",
    ),
    (
        "(logits / temperature).softmax(dim=-1)",
        "(logits * temperature).softmax(dim=-1)",
        "the logits are divided by the temperature: a higher one makes the choice more even",
    ),
    (
        "(logits / temperature).softmax(dim=-1)",
        "(logits / temperature).softmax(dim=0)",
        "the softmax runs over the batch; over the vocabulary each row must sum to 1",
    ),
    (
        "fresh = torch.multinomial(p, 1, generator=generator)",
        "fresh = torch.multinomial(p, 1)",
        "the generator is not used: the same seed gives another text each time",
    ),
    (
        "                fresh = fresh.masked_fill(done[:, None], stop)\n",
        "",
        "a sequence that has stopped goes on when others have not",
    ),
    (
        "torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)",
        "(prompt == stop).any(dim=1) if stop is not None else torch.zeros(len(prompt)).bool()",
        "the token stop means nothing in the prompt; only a produced one ends a sequence",
    ),
    (
        "if done.all():",
        "if done.any():",
        "generation ends with the first sequence that stops; it goes on until all have",
    ),
    (
        "    model.train(False)\n",
        "",
        "dropout is on while the model generates: the same position would give other keys each time",
    ),
    (
        "        model.train(training)\n",
        "        pass\n",
        "the mode of the model is not put back",
    ),
    (
        "model.train(training)",
        "model.train(True)",
        "the model is left in training mode, also if it came in evaluation mode",
    ),
    (
        "    if prompt.shape[1] == 0:\n",
        "    if False:\n",
        "an empty prompt must be a ValueError: there is no position to predict from",
    ),
)


def kv_bytes(
    config: Mapping[str, Any],
    n: int,
    batch: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Bytes of the cache of a published model for ``batch`` sequences of n tokens.

    Parameters
    ----------
    config:
        Entries of a model's published ``config.json``, others ignored:
        ``num_hidden_layers``, ``num_attention_heads``, ``hidden_size``, or their
        names in GPT-2, ``n_layer``, ``n_head``, ``n_embd``. ``num_key_value_heads``
        may be missing or None: then every head has keys and values of its own.
        ``head_dim`` may be missing or None, and so may ``hidden_size`` if it is
        given: the width of a head is ``head_dim``, and only without one
        ``hidden_size / num_attention_heads``. ``sliding_window``, if not missing or
        None, is the most tokens that the cache of a sequence holds.
    n:
        Tokens per sequence, at least 0.
    batch:
        Sequences, at least 0.
    dtype:
        The type of the numbers held.

    Raises ValueError that names the entry if one is missing that is needed, and one
    that says ``num_key_value_heads`` if it does not divide the number of heads.

    Source: derived on the page; the window, Jiang et al. 2023, "Mistral 7B", sec. 2.
    """

    def entry(*names: str) -> int:
        for name in names:
            if config.get(name) is not None:
                return config[name]
        raise ValueError(f"the config has no {' and no '.join(names)}")

    # A config has one of the two names.
    # equivalent `entry("n_layer", "num_hidden_layers")`: see above
    layers = entry("num_hidden_layers", "n_layer")
    # equivalent `entry("n_head", "num_attention_heads")`: see above
    heads = entry("num_attention_heads", "n_head")
    kv_heads = config.get("num_key_value_heads")
    kv_heads = heads if kv_heads is None else kv_heads
    # equivalent `heads % kv_heads > 0`: never negative here
    if heads % kv_heads != 0:
        raise ValueError(f"num_key_value_heads {kv_heads} does not divide {heads}")
    d_head = config.get("head_dim")
    if d_head is None:
        # equivalent `entry("n_embd", "hidden_size")`: see above
        d_head = entry("hidden_size", "n_embd") // heads
    window = config.get("sliding_window")
    held = n if window is None else min(n, window)
    return 2 * layers * kv_heads * d_head * held * batch * dtype.itemsize


known_mistakes(
    kv_bytes,
    (
        "return 2 * layers",
        "return layers",
        "keys and values: two tensors a layer",
    ),
    (
        "layers * kv_heads * d_head",
        "layers * heads * d_head",
        "only the heads of keys and values are held, not those of the queries",
    ),
    (
        'entry("hidden_size", "n_embd") // heads',
        'entry("hidden_size", "n_embd") // kv_heads',
        "a head is as wide as a query head, hidden_size / num_attention_heads",
    ),
    (
        "    if d_head is None:\n",
        "    if True:\n",
        "head_dim, where it is given, is the width of a head; hidden_size / heads may differ from it",
    ),
    (
        "kv_heads = heads if kv_heads is None else kv_heads",
        "kv_heads = 1 if kv_heads is None else kv_heads",
        "a config without num_key_value_heads is older than the idea: every head has its own",
    ),
    (
        "held * batch * dtype.itemsize",
        "held * batch * 2",
        "two bytes are assumed; the dtype says how many a number takes",
    ),
    (
        "n if window is None else min(n, window)",
        "n",
        "with a sliding window no more than its tokens are held",
    ),
    (
        "n if window is None else min(n, window)",
        "n if window is None else window",
        "a sequence shorter than the window takes no more than its length",
    ),
    (
        "held * batch * dtype.itemsize",
        "held * dtype.itemsize",
        "every sequence of the batch has a cache of its own",
    ),
    (
        "    if heads % kv_heads != 0:\n",
        "    if False:\n",
        "heads that cannot be grouped evenly are not refused with a ValueError",
    ),
)
