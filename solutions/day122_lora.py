"""Day 122: a linear layer with a low-rank update, putting it into a model by name,
merging it away, and the intrinsic dimension of a task by random subspaces."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llm180 import known_mistakes


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable update of low rank.

    Computes ``base(x) + scale * (dropout(x) @ A.T @ B.T)``. ``A`` has shape
    ``(r, d_in)`` and starts uniform in ±1/√d_in; ``B`` has shape ``(d_out, r)`` and
    starts at zero, so that the layer begins as its base. Both are parameters, with
    dtype and device of the base's weight. ``scale`` is ``alpha / r``, or
    ``alpha / √r`` if ``rslora``.

    Source: Hu et al. 2022, sec. 4.1; for √r, Kalajdzievski 2023.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        alpha: float = 16.0,
        *,
        dropout: float = 0.0,
        rslora: bool = False,
    ) -> None:
        """Keep ``base`` itself, frozen, as ``self.base``; make ``A``, ``B``, ``scale``.

        Raises ValueError if ``r`` is not in 1..min(d_in, d_out), or if ``dropout`` is
        not in [0, 1).
        """
        super().__init__()
        limit = min(base.in_features, base.out_features)
        if not 1 <= r <= limit:
            raise ValueError(f"the rank must be 1 to {limit}, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.base = base.requires_grad_(False)
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        bound = 1 / math.sqrt(base.in_features)
        A = torch.empty(r, base.in_features, **like).uniform_(-bound, bound)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(torch.zeros(base.out_features, r, **like))
        self.scale = alpha / math.sqrt(r) if rslora else alpha / r
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of shape ``(..., d_in)`` to ``(..., d_out)``.

        Never forms a matrix of shape ``(d_out, d_in)``. Dropout acts on what ``A``
        reads, in training mode only.
        """
        return self.base(x) + self.scale * (self.dropout(x) @ self.A.T @ self.B.T)

    def delta(self) -> Tensor:
        """The update ``scale * B @ A``, ``(d_out, d_in)``, in float32 or wider."""
        wide = torch.promote_types(self.A.dtype, torch.float32)
        return self.scale * (self.B.to(wide) @ self.A.to(wide))


known_mistakes(
    LoRALinear,
    (
        "if rslora else alpha / r",
        "if rslora else alpha",
        "the update is multiplied by alpha; the scale is alpha / r",
    ),
    (
        "alpha / math.sqrt(r) if rslora",
        "alpha / r if rslora",
        "with rslora the scale divides by the square root of r, not by r",
    ),
    (
        "torch.zeros(base.out_features, r, **like)",
        "torch.randn(base.out_features, r, **like)",
        "B starts at random, so the layer does not begin as its base; it starts at 0",
    ),
    (
        ".uniform_(-bound, bound)",
        ".zero_()",
        "A and B both start at zero: each one's gradient is a product with the other, "
        "so neither ever moves",
    ),
    (
        "base.requires_grad_(False)",
        "base",
        "the base is not frozen: all of its parameters would train as well",
    ),
    (
        "self.dropout(x) @ self.A.T",
        "x @ self.A.T",
        "dropout is made and never used",
    ),
    (
        "self.base(x) + self.scale",
        "self.base(self.dropout(x)) + self.scale",
        "dropout falls on the frozen path as well; it acts only on what A reads",
    ),
    (
        'like = {"dtype": base.weight.dtype, "device": base.weight.device}',
        "like = {}",
        "A and B are float32 whatever the base is; they take its dtype",
    ),
    (
        "if not 1 <= r <= limit:",
        "if r < 1:",
        "a rank above min(d_in, d_out) is not refused: it stores more than it can use",
    ),
    (
        "bound = 1 / math.sqrt(base.in_features)",
        "bound = 1 / math.sqrt(r)",
        "the range of A follows from its fan-in, which is d_in and not r",
    ),
    (
        "self.A = nn.Parameter(A)",
        "self.A = A",
        "A is a plain tensor: no optimizer finds it and no state dict saves it",
    ),
)


def inject(
    model: nn.Module,
    targets: Sequence[str],
    r: int,
    alpha: float = 16.0,
    *,
    dropout: float = 0.0,
    rslora: bool = False,
) -> list[str]:
    """Freeze a model and wrap its targeted linear layers, in place.

    Parameters
    ----------
    model:
        Any module. All of its own parameters end with ``requires_grad`` False.
    targets:
        Names. The layer ``encoder.0.query`` is meant by ``query``, ``0.query`` and
        ``encoder.0.query``: the last whole components of its dotted name. Modules
        that are no ``nn.Linear`` are passed over.
    r, alpha, dropout, rslora:
        As for :class:`LoRALinear`, the same for every layer.

    Returns
    -------
    The dotted names of the wrapped layers, in the order of ``named_modules()``.

    Raises ValueError, and leaves the model as it was, if it holds LoRA layers already
    (modules with a method ``delta``), if a target names no linear layer, or if ``r``
    or ``dropout`` does not suit a layer.
    """
    if any(hasattr(module, "delta") for module in model.modules()):
        raise ValueError("the model holds LoRA layers already: merge them first")
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for target in targets:
        if not any(_means(target, name) for name in linear):
            raise ValueError(f"no linear layer is named {target}")
    before = [(p, p.requires_grad) for p in model.parameters()]
    wrapped = {}
    try:
        for name, layer in linear.items():
            if any(_means(target, name) for target in targets):
                options = {"dropout": dropout, "rslora": rslora}
                wrapped[name] = LoRALinear(layer, r, alpha, **options)
    except ValueError:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
        raise
    model.requires_grad_(False)
    for name, layer in wrapped.items():
        model.set_submodule(name, layer)
    return list(wrapped)


def _means(target: str, name: str) -> bool:
    """Whether the last components of a dotted name are the target's."""
    return f".{name}".endswith(f".{target}")


known_mistakes(
    inject,
    (
        'return f".{name}".endswith(f".{target}")',
        "return name.endswith(target)",
        "a target matches in the middle of a component: `key` must not hit `monkey`",
    ),
    (
        'return f".{name}".endswith(f".{target}")',
        "return target in name",
        "a target matches anywhere in a name; the last whole components count",
    ),
    (
        "    model.requires_grad_(False)\n",
        "",
        "only the wrapped layers are frozen: embeddings and norms would still train",
    ),
    (
        "if isinstance(m, nn.Linear)}",
        'if hasattr(m, "weight")}',
        "everything with a weight is wrapped; only nn.Linear is",
    ),
    (
        'if any(hasattr(module, "delta") for module in model.modules()):',
        "if False:",
        "a second injection is not refused",
    ),
    (
        "        if not any(_means(target, name) for name in linear):\n",
        "        if not linear:\n",
        "a target that names no layer is not refused: a typing error trains nothing",
    ),
    (
        "LoRALinear(layer, r, alpha, **options)",
        "LoRALinear(layer, r, **options)",
        "alpha is not handed on",
    ),
    (
        "        for parameter, trained in before:\n"
        "            parameter.requires_grad_(trained)\n",
        "",
        "a refused call leaves layers frozen; it must leave the model as it was",
    ),
    (
        "return list(wrapped)",
        "return [name.split('.')[-1] for name in wrapped]",
        "the names returned are the last components, not the whole dotted names",
    ),
)


def merge(model: nn.Module) -> dict[str, nn.Module]:
    """Replace every LoRA layer of a model by one dense linear layer, in place.

    A LoRA layer is a module with a linear layer ``base`` and a method ``delta()``. The
    dense layer is new: it has the base's bias, dtype, device and mode, no parameter
    that trains, and the weight ``base.weight + delta()``, added in the dtype of
    ``delta()`` and rounded once. The base is left as it was.

    Returns
    -------
    The layers taken out, by dotted name. Set back with ``model.set_submodule(name,
    layer)``, they undo the merge to the last bit.

    Raises ValueError if ``model`` holds no LoRA layer, or is one itself.
    """
    found = {n: m for n, m in model.named_modules() if hasattr(m, "delta")}
    if not found or "" in found:
        raise ValueError("expected a model that holds LoRA layers below itself")
    for name, layer in found.items():
        dense = copy.deepcopy(layer.base).requires_grad_(False)
        update = layer.delta().detach()
        dense.weight.copy_(dense.weight.to(update.dtype) + update)
        model.set_submodule(name, dense)
    return found


known_mistakes(
    merge,
    (
        "dense.weight.to(update.dtype) + update",
        "dense.weight.to(update.dtype) - update",
        "the update is subtracted; merging adds it",
    ),
    (
        "dense = copy.deepcopy(layer.base).requires_grad_(False)",
        "dense = layer.base",
        "the update is added into the base itself: the merge cannot be undone exactly, "
        "and a second user of the base gets it too",
    ),
    (
        "dense.weight.to(update.dtype) + update",
        "dense.weight + update.to(dense.weight.dtype)",
        "the update is rounded to the base's dtype before it is added: two roundings",
    ),
    (
        "        dense.weight.copy_(dense.weight.to(update.dtype) + update)\n",
        "        dense.weight = nn.Parameter(dense.weight.to(update.dtype) + update)\n",
        "the dense weight has the dtype of the sum; it keeps that of the base",
    ),
    (
        "        model.set_submodule(name, dense)\n",
        "        layer.base = dense\n",
        "the LoRA layer stays and adds its update a second time",
    ),
    (
        'if not found or "" in found:',
        "if False:",
        "a model without LoRA layers is not refused",
    ),
    (
        "dense = copy.deepcopy(layer.base)",
        "dense = nn.Linear(layer.base.in_features, layer.base.out_features)",
        "a fresh linear layer has another bias, dtype and weight than the base",
    ),
)


def intrinsic_dimension(
    theta: Tensor,
    loss: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], float],
    dims: Sequence[int],
    goal: float,
    *,
    steps: int = 100,
    lr: float = 0.1,
    seed: int = 0,
) -> tuple[int | None, list[float]]:
    """Train in random subspaces of growing dimension; find the first that suffices.

    For each ``d`` of ``dims``, on its own: ``P`` of shape ``(D, d)`` is drawn by
    ``torch.randn`` in the dtype of ``theta``, from a new generator with ``seed``, and
    its columns are divided by their lengths. ``z`` of shape ``(d,)`` starts at zero
    and takes ``steps`` steps of ``torch.optim.Adam(lr=lr)`` on ``loss(theta + P @ z)``.

    Parameters
    ----------
    theta:
        ``(D,)``, where training starts: all parameters of a model in one vector.
    loss, score:
        Functions of such a vector. ``loss`` gives a differentiable scalar, ``score`` a
        number of which more is better. ``score`` is called without gradients.
    dims:
        Dimensions in 1..D, growing.
    goal:
        The score that counts as solved.

    Returns
    -------
    The first ``d`` whose score reaches ``goal``, or None, and the scores in the order
    of ``dims``. Every ``d`` is tried.

    Raises ValueError if ``dims`` is empty, does not grow, or leaves 1..D.

    Source: Li et al. 2018, sec. 2; Aghajanyan et al. 2021, sec. 3.
    """
    dims = list(dims)
    if not dims or dims != sorted(set(dims)) or dims[0] < 1 or dims[-1] > len(theta):
        raise ValueError(f"expected growing dimensions in 1..{len(theta)}, got {dims}")
    theta = theta.detach()
    scores = []
    for d in dims:
        generator = torch.Generator().manual_seed(seed)
        P = torch.randn(len(theta), d, generator=generator, dtype=theta.dtype)
        P = P / P.norm(dim=0)
        z = torch.zeros(d, dtype=theta.dtype, requires_grad=True)
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(theta + P @ z).backward()
            optimizer.step()
        with torch.no_grad():
            scores.append(float(score(theta + P @ z)))
    solved = [d for d, reached in zip(dims, scores, strict=True) if reached >= goal]
    return (solved[0] if solved else None), scores


known_mistakes(
    intrinsic_dimension,
    (
        "        P = P / P.norm(dim=0)\n",
        "",
        "the columns of P are not of length 1: a step of z moves theta √D times as far",
    ),
    (
        "P.norm(dim=0)",
        "P.norm(dim=1, keepdim=True)",
        "the rows of P are divided by their lengths; the columns are the directions",
    ),
    (
        "            optimizer.zero_grad()\n",
        "",
        "gradients of earlier steps are added up: zero them before each backward",
    ),
    (
        "loss(theta + P @ z).backward()",
        "loss(P @ z).backward()",
        "the subspace goes through zero, not through theta",
    ),
    (
        "solved[0] if solved",
        "solved[-1] if solved",
        "the last dimension that suffices is returned; the first is asked for",
    ),
    (
        "if reached >= goal",
        "if reached > goal",
        "a score equal to the goal reaches it",
    ),
    (
        "z = torch.zeros(d,",
        "z = torch.ones(d,",
        "z starts at one: training does not begin at theta",
    ),
)
