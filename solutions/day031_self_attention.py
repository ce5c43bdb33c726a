"""Day 31: a soft look-up, self-attention as a loop and as matrix products, and one
head as a module; with an interactive viewer of attention weights."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llm180 import known_mistakes


def soft_lookup(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Read a dictionary by similarity: a mixture of its values.

    Parameters
    ----------
    query:
        ``(d_k,)``, what is asked for.
    keys, values:
        ``(n, d_k)`` and ``(n, d_v)``: the n entries of the dictionary. All three
        are float arrays and are left unchanged.
    sharpness:
        Factor on the scores, at least 0. At 0 every entry counts the same; as it
        grows, the entry of the largest score takes all.

    Returns
    -------
    The answer, ``(d_v,)``, and the weights, ``(n,)``: positive numbers of sum 1,
    the softmax of ``sharpness * (key . query)``. Scores of any size are safe.

    Raises ValueError that says ``no entry`` for an empty dictionary, and one that
    says, for example, ``3 keys for 2 values`` where the numbers differ.

    Source: content-based addressing (Graves et al. 2014, "Neural Turing Machines",
    sec. 3.3.1), with the dot product as similarity.
    """
    # equivalent `len(keys) <= 0`: no length is negative
    if len(keys) == 0:
        raise ValueError("the dictionary has no entry")
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys for {len(values)} values")
    scores = sharpness * (keys @ query)
    weights = np.exp(scores - scores.max())
    weights = weights / weights.sum()
    return weights @ values, weights


known_mistakes(
    soft_lookup,
    (
        "np.exp(scores - scores.max())",
        "np.exp(scores)",
        "the exponential overflows: subtract the largest score first, which changes no weight",
    ),
    (
        "    weights = weights / weights.sum()\n",
        "",
        "the weights are not divided by their sum, so they do not add up to 1",
    ),
    (
        "sharpness * (keys @ query)",
        "(keys @ query) / sharpness",
        "the scores are divided by the sharpness, as by a temperature; they are to be multiplied",
    ),
    (
        "return weights @ values, weights",
        "return weights @ keys, weights",
        "the keys are mixed; a key says where to look, and its value is what is read",
    ),
    (
        "return weights @ values, weights",
        "return values[scores.argmax()], weights",
        "the best entry alone is returned, as in a hard look-up; every value counts by its weight",
    ),
    (
        "scores - scores.max()",
        "scores / np.abs(scores).max()",
        "dividing by the largest score changes the weights; subtracting it does not",
    ),
    (
        "    if len(keys) == 0:\n",
        "    if False:\n",
        "an empty dictionary is not refused with a ValueError that says so",
    ),
    (
        "    if len(keys) != len(values):\n",
        "    if False:\n",
        "keys without a value are not refused with a ValueError of its own",
    ),
)


def attention_loop(
    x: np.ndarray, w_q: np.ndarray, w_k: np.ndarray, w_v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Self-attention of one sequence: a soft look-up for each token, in a loop.

    Parameters
    ----------
    x:
        ``(n, d_model)``, one row a token, n at least 1.
    w_q, w_k, w_v:
        ``(d_model, d_k)``, ``(d_model, d_k)`` and ``(d_model, d_v)``.

    Returns
    -------
    The outputs, ``(n, d_v)``, and the weights, ``(n, n)``: row i says where token i
    looks. The sharpness of each look-up is ``1 / sqrt(d_k)``.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3.2.1.
    """
    queries, keys, values = x @ w_q, x @ w_k, x @ w_v
    sharpness = 1 / math.sqrt(w_k.shape[1])
    answers = [soft_lookup(query, keys, values, sharpness) for query in queries]
    outputs, weights = zip(*answers)
    return np.stack(outputs), np.stack(weights)


known_mistakes(
    attention_loop,
    (
        "1 / math.sqrt(w_k.shape[1])",
        "1.0",
        "the scores are not divided by the square root of d_k",
    ),
    (
        "1 / math.sqrt(w_k.shape[1])",
        "1 / math.sqrt(x.shape[1])",
        "the scale takes the width of the model; it is the width of the keys, d_k",
    ),
    (
        "1 / math.sqrt(w_k.shape[1])",
        "1 / w_k.shape[1]",
        "the scores are divided by d_k; its square root is asked for",
    ),
    (
        "for query in queries]",
        "for query in keys]",
        "the keys ask: row i must use the query of token i",
    ),
    (
        "soft_lookup(query, keys, values, sharpness)",
        "soft_lookup(query, keys, x, sharpness)",
        "the tokens themselves are mixed; what is read are their values, x @ w_v",
    ),
    (
        "np.stack(outputs), np.stack(weights)",
        "np.stack(outputs), np.stack(weights).T",
        "the weights are transposed: row i belongs to the token that asks",
    ),
)


def self_attention(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-attention of a batch, as matrix products.

    Parameters
    ----------
    x:
        ``(..., n, d_model)``, any number of batch axes, also none.
    w_q, w_k, w_v:
        ``(d_model, d_k)``, ``(d_model, d_k)`` and ``(d_model, d_v)``, shared by the
        whole batch.

    Returns
    -------
    The outputs, ``(..., n, d_v)``, and the weights, ``(..., n, n)``, whose last
    axis sums to 1; both of the dtype of ``x`` and differentiable in all inputs.

    Raises ValueError if a projection does not have ``d_model`` rows, or if ``w_q``
    and ``w_k`` differ in width.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """
    for name, w in (("w_q", w_q), ("w_k", w_k), ("w_v", w_v)):
        if w.shape[0] != x.shape[-1]:
            raise ValueError(f"{name} has {w.shape[0]} rows; x is {x.shape[-1]} wide")
    if w_q.shape[1] != w_k.shape[1]:
        raise ValueError(f"queries of width {w_q.shape[1]}, keys of {w_k.shape[1]}")
    queries, keys, values = x @ w_q, x @ w_k, x @ w_v
    # equivalent `transpose(-1, -2)`: an exchange of two axes
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])
    weights = scores.softmax(dim=-1)
    return weights @ values, weights


known_mistakes(
    self_attention,
    (
        " / math.sqrt(keys.shape[-1])",
        "",
        "the scores are not divided by the square root of d_k, the width of the keys",
    ),
    (
        "math.sqrt(keys.shape[-1])",
        "math.sqrt(x.shape[-1])",
        "the scale takes the width of the model, not that of the keys",
    ),
    (
        "softmax(dim=-1)",
        "softmax(dim=-2)",
        "the softmax runs over the tokens that ask; each row, over the tokens looked at, must sum to 1",
    ),
    (
        "queries @ keys.transpose(-2, -1)",
        "keys @ queries.transpose(-2, -1)",
        "queries and keys have changed places: the score matrix is transposed",
    ),
    (
        "keys.transpose(-2, -1)",
        "keys.transpose(0, -1)",
        "the axes to exchange are the last two, whatever the number of batch axes",
    ),
    (
        "return weights @ values, weights",
        "return weights.transpose(-2, -1) @ values, weights",
        "the values are mixed by columns of the weights; output i takes row i",
    ),
    (
        '    for name, w in (("w_q", w_q), ("w_k", w_k), ("w_v", w_v)):\n',
        "    for name, w in ():\n",
        "a projection with the wrong number of rows is not refused with a ValueError",
    ),
    (
        "return weights @ values, weights",
        "return weights @ values, weights.detach()",
        "the weights are cut off from the graph; a loss on them must reach x and the projections too",
    ),
    (
        "    if w_q.shape[1] != w_k.shape[1]:\n",
        "    if False:\n",
        "queries and keys of different widths are not refused with a ValueError",
    ),
)


class SelfAttention(nn.Module):
    """One head of self-attention, with learned projections.

    Four linear layers: ``query`` and ``key`` from ``d_model`` to ``d_k``, ``value``
    from ``d_model`` to ``d_v``, and ``output`` from ``d_v`` back to ``d_model``,
    made in this order. ``d_k`` and ``d_v`` default to ``d_model``; ``bias`` holds
    for all four.

    Source: Vaswani et al. 2017, sec. 3.2; the two circuits, Elhage et al. 2021,
    "A Mathematical Framework for Transformer Circuits".
    """

    def __init__(
        self,
        d_model: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
    ) -> None:
        """Make the layers ``query``, ``key``, ``value`` and ``output``."""
        super().__init__()
        d_k = d_model if d_k is None else d_k
        d_v = d_model if d_v is None else d_v
        self.query = nn.Linear(d_model, d_k, bias=bias)
        self.key = nn.Linear(d_model, d_k, bias=bias)
        self.value = nn.Linear(d_model, d_v, bias=bias)
        self.output = nn.Linear(d_v, d_model, bias=bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From ``(..., n, d_model)`` to the outputs, of the same shape, and the
        weights, ``(..., n, n)``."""
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        # equivalent `transpose(-1, -2)`: an exchange of two axes
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])
        weights = scores.softmax(dim=-1)
        return self.output(weights @ values), weights

    def circuits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrices QK and OV, both ``(d_model, d_model)``, detached.

        Without biases, ``x @ QK @ x.T / sqrt(d_k)`` are the scores of a sequence
        ``x``, and ``weights @ x @ OV`` its outputs.
        """
        qk = self.query.weight.T @ self.key.weight
        ov = self.value.weight.T @ self.output.weight.T
        return qk.detach(), ov.detach()


known_mistakes(
    SelfAttention,
    (
        " / math.sqrt(keys.shape[-1])",
        "",
        "the scores are not divided by the square root of d_k",
    ),
    (
        "math.sqrt(keys.shape[-1])",
        "math.sqrt(x.shape[-1])",
        "the scale takes d_model; with a narrower head it must be d_k",
    ),
    (
        "return self.output(weights @ values), weights",
        "return weights @ values, weights",
        "the output layer is made and never used",
    ),
    (
        "self.query(x), self.key(x), self.value(x)",
        "self.query(x), self.query(x), self.value(x)",
        "the query layer makes the keys too: the key layer gets no gradient",
    ),
    (
        "scores.softmax(dim=-1)",
        "scores.softmax(dim=-2)",
        "the softmax runs over the tokens that ask, so the rows do not sum to 1",
    ),
    (
        "scores.softmax(dim=-1)",
        "scores.detach().softmax(dim=-1)",
        "the scores are detached: neither the query nor the key layer can learn",
    ),
    (
        "self.value = nn.Linear(d_model, d_v, bias=bias)",
        "self.value = nn.Linear(d_model, d_v)",
        "one layer has a bias although bias=False was asked for",
    ),
    (
        "self.query.weight.T @ self.key.weight",
        "self.query.weight @ self.key.weight.T",
        "a Linear layer stores its weight as (out, in), the transpose of W in x @ W",
    ),
    (
        "self.value.weight.T @ self.output.weight.T",
        "self.output.weight @ self.value.weight",
        "OV is transposed: it acts from the right, on the row x",
    ),
)


# --- a viewer for any page ------------------------------------------------------------

_serial = itertools.count(1)
_VIEWER = """<div class="llm180-head" id="%(id)s" role="group" aria-label="%(alt)s">
<style>
.llm180-head{background:#fff;color:#222;padding:.8em;border-radius:.4em;max-width:700px}
.llm180-head .tokens{display:flex;flex-wrap:wrap;gap:.35em .2em}
.llm180-head .tokens button{font:inherit;border:2px solid #ddd;border-radius:.35em;
 padding:.2em .4em;min-width:2.4em;min-height:44px;background:#fff;cursor:pointer}
.llm180-head button small{display:block;height:1.2em;line-height:1.2em;font-size:.7em}
.llm180-head button.asks{border:2px dashed #D55E00}
.llm180-head button:focus-visible{outline:3px solid #E69F00}
.llm180-head .says{min-height:3.2em;margin:.6em 0 .4em}
.llm180-head .map{display:grid;gap:1px;width:fit-content;margin:.6em 0 .2em}
.llm180-head .map i{width:14px;height:14px;box-shadow:inset 0 0 0 1px #eee}
.llm180-head .map i.on{outline:1px solid #D55E00}
.llm180-head label{display:flex;gap:.6em;align-items:center}
.llm180-head input{flex:1;max-width:20em}
</style>
<div class="tokens" role="toolbar" aria-label="tokens">%(chips)s</div>
<p class="says" aria-live="polite">%(says)s</p>%(slider)s
<div class="map" aria-hidden="true"></div>
<small>All at once: a row for each token that asks, a column for each looked at.</small>
<script>
(function () {
  var root = document.getElementById("%(id)s"), D = %(data)s;
  var chips = [].slice.call(root.querySelectorAll("button"));
  var map = root.querySelector(".map"), says = root.querySelector(".says");
  var range = root.querySelector("input"), n = D.t.length;
  var s = D.w.length - 1, at = D.first, cells = [];
  map.style.gridTemplateColumns = "repeat(" + n + ", 14px)";
  for (var k = 0; k < n * n; k++) cells.push(map.appendChild(document.createElement("i")));
  function blue(v) { return "rgba(0,114,178," + v / 100 + ")"; }
  function paint(i) {
    var row = D.w[s][i], best = row.map(function (v, j) { return [v, j]; });
    best.sort(function (a, b) { return b[0] - a[0]; });
    chips.forEach(function (c, j) {
      c.style.background = blue(row[j]);
      c.style.color = row[j] > 50 ? "#fff" : "#222";
      c.classList.toggle("asks", j === i);
      c.querySelector("small").textContent = row[j] ? row[j] + "%%" : "";
    });
    cells.forEach(function (c, k) {
      c.classList.toggle("on", Math.floor(k / n) === i);
      c.style.background = blue(D.w[s][Math.floor(k / n)][k %% n]);
    });
    best = best.slice(0, 3).filter(function (b) { return b[0] > 0; });
    says.textContent = "“" + D.t[i] + "” looks at " + best.map(
      function (b) { return "“" + D.t[b[1]] + "” " + b[0] + "%%"; }).join(", ") +
      "." + (D.n ? " " + D.n[s][i] : "");
  }
  function choose(i) {
    at = i;
    chips.forEach(function (c, j) {
      c.tabIndex = j === i ? 0 : -1;
      c.setAttribute("aria-pressed", j === i);
    });
    paint(i);
  }
  chips.forEach(function (c, j) {
    c.addEventListener("pointerenter", function () { paint(j); });
    c.addEventListener("pointerleave", function () { paint(at); });
    c.addEventListener("click", function () { choose(j); });
    c.addEventListener("focus", function () { choose(j); });
    c.addEventListener("keydown", function (e) {
      var to = { ArrowRight: j + 1, ArrowLeft: j - 1, Home: 0, End: n - 1 }[e.key];
      if (to === undefined || to < 0 || to >= n) return;
      e.preventDefault(); chips[to].focus();
    });
  });
  cells.forEach(function (c, k) {
    c.addEventListener("pointerenter", function () { paint(Math.floor(k / n)); });
  });
  map.addEventListener("pointerleave", function () { paint(at); });
  if (range) range.addEventListener("input", function () {
    s = +range.value;
    root.querySelector("output").textContent = D.l[s]; paint(at);
  });
  choose(at);
})();
</script></div>"""


def head_viewer(
    tokens: Sequence[str],
    weights: Any,
    *,
    alt: str,
    labels: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
    first: int = 0,
) -> str:
    """A self-contained HTML viewer of attention: choose a token, see where it looks.

    Works by pointer, touch and keyboard, in a notebook and on a static page, and
    loads nothing. Without scripts it shows the row of the token ``first``.

    Parameters
    ----------
    tokens:
        The n tokens, as they are to be shown.
    weights:
        ``(n, n)``, rows of sum 1, or ``(s, n, n)``: a slider then goes over s heads,
        layers or training steps, and begins at the last.
    alt:
        What the viewer shows, for a reader who does not see it.
    labels:
        s names for the slider.
    notes:
        ``(s, n)`` sentences, each said after its token's row.
    first:
        Index of the token that is chosen at the beginning.

    Raises ValueError if the lengths do not fit.
    """
    stack = np.asarray(weights, dtype=float)
    stack = stack[None] if stack.ndim == 2 else stack
    s, n = len(stack), len(tokens)
    if stack.shape != (s, n, n) or (s > 1 and len(labels) != s):
        raise ValueError(f"weights {stack.shape}, {n} tokens, {len(labels)} labels")
    percent = np.rint(100 * stack).astype(int).tolist()
    row, chips = percent[-1][first], []
    for j, token in enumerate(tokens):
        look = f"background:rgba(0,114,178,{row[j] / 100});"
        look += f"color:{'#fff' if row[j] > 50 else '#222'}"
        chips.append(
            f'<button type="button" style="{look}"><span>{html.escape(token)}'
            f"</span><small>{row[j]}%</small></button>"
        )
    best = sorted(range(n), key=lambda j: -row[j])[:3]
    says = ", ".join(f"“{tokens[j]}” {row[j]}%" for j in best if row[j] > 0)
    says = f"“{tokens[first]}” looks at {says}."
    says += f" {notes[-1][first]}" if notes else ""
    slider = ""
    if s > 1:
        slider = (
            f'<label><input type="range" min="0" max="{s - 1}" value="{s - 1}" '
            f'aria-label="which weights"><output>{html.escape(labels[-1])}</output></label>'
        )
    data = {"t": list(tokens), "w": percent, "l": list(labels), "first": first}
    data["n"] = [list(row) for row in notes] if notes else None
    return _VIEWER % {
        "id": f"llm180-head-{next(_serial)}",
        "alt": html.escape(alt, quote=True),
        "chips": "".join(chips),
        "says": html.escape(says),
        "slider": slider,
        "data": json.dumps(data, ensure_ascii=False).replace("</", "<\\/"),
    }
