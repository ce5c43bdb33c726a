"""Day 13: backpropagation through whole arrays, and the first layer built on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm180 import known_mistakes
from solutions.day008_autodiff import topological_order
from solutions.day012_mlp import kaiming_normal


def unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pull a gradient back through the stretching of an array.

    Parameters
    ----------
    grad:
        The gradient in the stretched array, float64; left unchanged.
    shape:
        The shape that the array had before NumPy stretched it.

    Returns
    -------
    An array of that shape: each entry is the sum of ``grad`` over all places to
    which the entry was copied, 0.0 if there are none.

    Raises ValueError if an array of this shape does not stretch to ``grad.shape``.

    Source: derived on the page; the transpose of ``np.broadcast_to``.
    """
    new = grad.ndim - len(shape)  # axes that stretching put in front
    if new < 0 or any(n not in (1, m) for n, m in zip(shape, grad.shape[new:])):
        raise ValueError(f"shape {shape} does not stretch to {grad.shape}")
    axes = [*range(new), *(new + i for i, n in enumerate(shape) if n == 1)]
    return np.asarray(grad.sum(axis=tuple(axes))).reshape(shape)


known_mistakes(
    unbroadcast,
    (
        "[*range(new), *(new + i for i, n in enumerate(shape) if n == 1)]",
        "[new + i for i, n in enumerate(shape) if n == 1]",
        "the axes that stretching put in front are not summed",
    ),
    (
        "[*range(new), *(new + i for i, n in enumerate(shape) if n == 1)]",
        "[*range(new)]",
        "axes of length 1 were stretched as well: sum over them",
    ),
    (
        "*(new + i for i, n",
        "*(i for i, n",
        "axes are matched from the right: behind new axes in front, the old ones have moved",
    ),
    (
        "grad.sum(axis=tuple(axes))",
        "grad.mean(axis=tuple(axes))",
        "copies move the result together: their gradients are added, not averaged",
    ),
    (
        "np.asarray(grad.sum(axis=tuple(axes))).reshape(shape)",
        "np.asarray(grad.sum(axis=tuple(axes)))",
        "the sum drops axes of length 1: the gradient no longer has the array's shape",
    ),
    (
        """    if new < 0 or any(n not in (1, m) for n, m in zip(shape, grad.shape[new:])):
        raise ValueError(f"shape {shape} does not stretch to {grad.shape}")
""",
        "",
        "a shape that does not fit is not refused",
    ),
)


class Tensor:
    """An array of a computation, which remembers how its gradient flows on.

    ``data`` is a float64 array. ``edges`` holds a pair ``(parent, vjp)`` for each
    operand that needs a gradient: ``vjp`` takes the gradient in this tensor and
    returns the one in the parent, of the parent's shape. A tensor without edges is
    a leaf. ``grad`` is None until ``backward`` fills it, in leaves only.

    Plain numbers and NumPy arrays on either side of an operator are constants.

    Source: the table on the page; Griewank and Walther 2008, sec. 3.2.
    """

    __array_ufunc__ = None  # array + tensor is ours: NumPy must decline

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        edges: tuple[tuple[Tensor, Callable], ...] = (),
    ) -> None:
        """A leaf; a float64 array is shared, anything else is copied into one."""
        self.data = np.asarray(data, dtype=np.float64)
        self.requires_grad = requires_grad
        self.edges = edges
        self.grad: np.ndarray | None = None

    @staticmethod
    def lift(value: Any) -> Tensor:
        """The argument itself if it is a tensor, else a constant."""
        return value if isinstance(value, Tensor) else Tensor(value)

    @staticmethod
    def result(data: Any, *edges: tuple[Tensor, Callable]) -> Tensor:
        """The outcome of an operation; only edges that need a gradient are kept."""
        kept = tuple((parent, vjp) for parent, vjp in edges if parent.requires_grad)
        return Tensor(data, bool(kept), kept)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return self.data.shape

    def __repr__(self) -> str:
        """Shape, and whether a gradient is wanted."""
        return f"Tensor(shape={self.shape}, requires_grad={self.requires_grad})"

    def detach(self) -> Tensor:
        """The same data as a constant: no gradient flows through it."""
        return Tensor(self.data)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(self, grad: Any = None) -> None:
        """Add the gradient of this tensor to ``grad`` of the leaves that want one.

        ``grad`` is the gradient with which to begin, of this tensor's shape; without
        it, the tensor must hold one number, and 1.0 is taken. Each leaf gets an array
        of its own, of the shape of its data; a second call *adds*. Nothing that is
        passed in is changed. Graphs may be many thousands of operations deep.

        Raises ValueError if this tensor requires no gradient, if it holds more than
        one number and no gradient is given, or if that has another shape.
        """
        if not self.requires_grad:
            raise ValueError("nothing that this tensor depends on requires a gradient")
        if grad is None and self.data.size != 1:
            raise ValueError(f"shape {self.shape} is no single number: give a gradient")
        seed = np.ones(self.shape) if grad is None else np.array(grad, dtype=np.float64)
        if seed.shape != self.shape:
            raise ValueError(f"a gradient of shape {seed.shape} for {self.shape}")
        order = topological_order([self], lambda node: [p for p, _ in node.edges])
        flow = {self: seed}
        for node in reversed(order):
            arrived = flow.pop(node)  # complete: all that use the node have passed
            if not node.edges:
                before = 0.0 if node.grad is None else node.grad
                node.grad = np.asarray(arrived + before)  # a sum is a new array
            for parent, vjp in node.edges:
                part = vjp(arrived)
                flow[parent] = flow[parent] + part if parent in flow else part

    def __add__(self, other: Any) -> Tensor:
        """self + other; shapes stretch as in NumPy."""
        a, b = self, Tensor.lift(other)
        return Tensor.result(
            a.data + b.data,
            (a, lambda g: unbroadcast(g, a.shape)),
            (b, lambda g: unbroadcast(g, b.shape)),
        )

    def __mul__(self, other: Any) -> Tensor:
        """self * other, entry by entry; shapes stretch as in NumPy."""
        a, b = self, Tensor.lift(other)
        return Tensor.result(
            a.data * b.data,
            (a, lambda g: unbroadcast(g * b.data, a.shape)),
            (b, lambda g: unbroadcast(g * a.data, b.shape)),
        )

    def __matmul__(self, other: Any) -> Tensor:
        """``(..., n, k) @ (..., k, m)``; the axes in front stretch as in NumPy.

        Raises ValueError if an operand has fewer than two axes.
        """
        a, b = self, Tensor.lift(other)
        if min(a.data.ndim, b.data.ndim) < 2:
            raise ValueError(f"{a.shape} @ {b.shape}: both need at least two axes")
        # equivalent `swapaxes(-2, -1)`: the two change places either way
        flip = lambda x: x.swapaxes(-1, -2)
        return Tensor.result(
            a.data @ b.data,
            (a, lambda g: unbroadcast(g @ flip(b.data), a.shape)),
            (b, lambda g: unbroadcast(flip(a.data) @ g, b.shape)),
        )

    def __pow__(self, exponent: float) -> Tensor:
        """self ** exponent, for a plain number; the slope of x ** 0 is 0."""
        slope = exponent * self.data ** (exponent - 1) if exponent else 0.0
        return Tensor.result(self.data**exponent, (self, lambda g: g * slope))

    def exp(self) -> Tensor:
        """e to the self, entry by entry."""
        data = np.exp(self.data)
        return Tensor.result(data, (self, lambda g: g * data))

    def log(self) -> Tensor:
        """The natural logarithm, entry by entry."""
        return Tensor.result(np.log(self.data), (self, lambda g: g / self.data))

    def relu(self) -> Tensor:
        """self where it is positive, else 0; at 0 itself the slope is taken as 0."""
        on = self.data > 0
        return Tensor.result(np.maximum(self.data, 0.0), (self, lambda g: g * on))

    def sum(
        self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
    ) -> Tensor:
        """The sum over one axis, several, or all; ``keepdims`` leaves them at 1."""
        data = self.data.sum(axis=axis, keepdims=True)
        one = data.shape  # that of the data, with 1 where a sum was taken
        return Tensor.result(
            data if keepdims else data.squeeze(axis),
            (self, lambda g: np.broadcast_to(g.reshape(one), self.shape)),
        )

    def mean(
        self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
    ) -> Tensor:
        """The mean, with the arguments of ``sum``."""
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def reshape(self, *shape: int) -> Tensor:
        """The same entries in another shape, as in ``x.reshape(3, -1)``."""
        back = lambda g: g.reshape(self.shape)
        return Tensor.result(self.data.reshape(shape), (self, back))

    @property
    def T(self) -> Tensor:
        """The last two axes exchanged."""
        # equivalent `swapaxes(-2, -1)`: the two change places either way
        back = lambda g: g.swapaxes(-1, -2)
        # equivalent `swapaxes(-2, -1)`: the two change places either way
        return Tensor.result(self.data.swapaxes(-1, -2), (self, back))

    def __getitem__(self, index: Any) -> Tensor:
        """The entries that NumPy's indexing picks, also with arrays of integers."""

        def scatter(g: np.ndarray) -> np.ndarray:
            out = np.zeros(self.shape)
            np.add.at(out, index, g)  # an entry picked twice gets both gradients
            return out

        return Tensor.result(self.data[index], (self, scatter))

    def __radd__(self, other: Any) -> Tensor:
        """other + self, for a plain number or array."""
        return self + other

    def __rmul__(self, other: Any) -> Tensor:
        """other * self, for a plain number or array."""
        return self * other

    def __rmatmul__(self, other: Any) -> Tensor:
        """other @ self, for a plain array."""
        return Tensor.lift(other) @ self

    def __neg__(self) -> Tensor:
        """-self."""
        return self * -1.0  # equivalent `self / -1.0`: the same number

    def __sub__(self, other: Any) -> Tensor:
        """self - other."""
        return self + -Tensor.lift(other)

    def __rsub__(self, other: Any) -> Tensor:
        """other - self, for a plain number or array."""
        return -self + other

    def __truediv__(self, other: Any) -> Tensor:
        """self / other."""
        return self * Tensor.lift(other) ** -1.0

    def __rtruediv__(self, other: Any) -> Tensor:
        """other / self, for a plain number or array."""
        return self**-1.0 * other


known_mistakes(
    Tensor,
    (
        "(a, lambda g: unbroadcast(g, a.shape)),",
        "(a, lambda g: g),",
        "an operand that was stretched gets a gradient of the result's shape, not of its own",
    ),
    (
        "unbroadcast(g * b.data, a.shape)",
        "unbroadcast(g * a.data, a.shape)",
        "the slope of a * b in a is b: each factor's slope is the other factor",
    ),
    (
        "g @ flip(b.data)",
        "g @ b.data",
        "the gradient in X is dY @ W.T; without the transpose only square matrices fit, and wrongly",
    ),
    (
        "flip(a.data) @ g",
        "a.data @ g",
        "the gradient in W is X.T @ dY: transpose the left factor",
    ),
    (
        "unbroadcast(flip(a.data) @ g, b.shape)",
        "flip(a.data) @ g",
        "a matrix that was used for a whole batch gets a gradient for each member: add them up",
    ),
    (
        "x.swapaxes(-1, -2)",
        "x.T",
        ".T turns round all axes, those of the batch too: exchange the last two",
    ),
    (
        "np.broadcast_to(g.reshape(one), self.shape)",
        "np.broadcast_to(g, self.shape)",
        "after a sum over the last axis, the gradient is stretched along the wrong axis: put the summed axis back with length 1",
    ),
    (
        "flow[parent] = flow[parent] + part if parent in flow else part",
        "flow[parent] = part",
        "a tensor that is used twice keeps the gradient of one use: contributions add up",
    ),
    (
        "                flow[parent] = flow[parent] + part if parent in flow else part\n",
        """                if parent in flow:
                    flow[parent] += part
                else:
                    flow[parent] = part
""",
        "+= writes into an array that may belong to another tensor too: make a new one",
    ),
    (
        "node.grad = np.asarray(arrived + before)",
        "node.grad = np.array(arrived)",
        "each call of backward replaces the gradient; it is to be added to what is there",
    ),
    (
        "node.grad = np.asarray(arrived + before)",
        "node.grad = np.asarray(arrived if node.grad is None else arrived + before)",
        "two leaves may share one array as gradient: who scales the one in place scales the other",
    ),
    (
        "lambda g: g / self.data",
        "lambda g: g / np.log(self.data)",
        "the slope of the logarithm is one over its argument, not over its result",
    ),
    (
        "on = self.data > 0",
        "on = self.data >= 0",
        "at 0 itself the slope is taken as 0",
    ),
    (
        "lambda g: g * on",
        "lambda g: g",
        "where relu cuts off, its slope is 0",
    ),
    (
        "        data = np.exp(self.data)\n        return Tensor.result(data, (self, lambda g: g * data))\n",
        "        data = np.exp(self.data)\n        return Tensor.result(data, (self, lambda g: g * self.data))\n",
        "the slope of exp is its result, not its argument",
    ),
    (
        "exponent * self.data ** (exponent - 1) if exponent else 0.0",
        "exponent * self.data**exponent if exponent else 0.0",
        "the slope of x ** n is n * x ** (n - 1): the exponent falls by one",
    ),
    (
        """        if grad is None and self.data.size != 1:
            raise ValueError(f"shape {self.shape} is no single number: give a gradient")
""",
        "",
        "from many numbers there are many gradients: without a given one, refuse",
    ),
)


class Linear:
    """A layer ``x @ W + b``.

    ``W`` has shape ``(fan_in, fan_out)`` and ``b`` shape ``(fan_out,)``; both are
    leaves that require a gradient.

    Source: Goodfellow et al. 2016, "Deep Learning", sec. 6.1; He et al. 2015.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        rng: np.random.Generator,
        init: Callable[..., np.ndarray] = kaiming_normal,
    ) -> None:
        """``init``, called once with fans and ``rng``, draws ``W``; ``b`` is zero."""
        self.W = Tensor(init(fan_in, fan_out, rng), requires_grad=True)
        self.b = Tensor(np.zeros(fan_out), requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """The tensors to train: weights, then biases."""
        return [self.W, self.b]

    def __call__(self, x: Tensor) -> Tensor:
        """``(..., B, fan_in)`` to ``(..., B, fan_out)``; an array is a constant.

        Raises ValueError if the last axis of ``x`` has another length than fan_in.
        """
        if x.shape[-1:] != self.W.shape[:1]:
            raise ValueError(f"an input of shape {x.shape} for weights {self.W.shape}")
        return x @ self.W + self.b


known_mistakes(
    Linear,
    (
        "return x @ self.W + self.b",
        "return x @ self.W",
        "the bias is not added",
    ),
    (
        "Tensor(np.zeros(fan_out), requires_grad=True)",
        "Tensor(np.zeros(fan_out))",
        "the bias does not require a gradient, so it never learns",
    ),
    (
        "np.zeros(fan_out)",
        "np.zeros((1, fan_out))",
        "the bias has an axis too many: its shape is (fan_out,)",
    ),
    (
        "init(fan_in, fan_out, rng)",
        "init(fan_out, fan_in, rng).T",
        "the fans have changed places: the shape is right, the variance belongs to the other fan",
    ),
    (
        "return [self.W, self.b]",
        "return [self.W]",
        "the bias is not among the parameters",
    ),
    (
        "init(fan_in, fan_out, rng)",
        "kaiming_normal(fan_in, fan_out, rng)",
        "the initializer that was passed is not used",
    ),
    (
        "init(fan_in, fan_out, rng)",
        "init(fan_in, fan_out, np.random.default_rng(0))",
        "a generator of its own: all layers of one shape start alike",
    ),
)
