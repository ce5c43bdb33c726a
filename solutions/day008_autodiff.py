"""Day 8: automatic differentiation of ordinary code, in reverse and in forward mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from numbers import Real
from typing import Any

from llm180 import known_mistakes


def exp(x: Any) -> Any:
    """e to the x, of a plain number or of anything that has a method ``exp``."""
    return x.exp() if hasattr(x, "exp") else math.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm of x."""
    return x.log() if hasattr(x, "log") else math.log(x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of x."""
    return x.tanh() if hasattr(x, "tanh") else math.tanh(x)


def relu(x: Any) -> Any:
    """x where it is positive, else 0."""
    # equivalent `x >= 0`: both branches give 0 there
    return x.relu() if hasattr(x, "relu") else x if x > 0 else 0.0


def topological_order(
    ends: Iterable[Hashable], parents: Callable[[Any], Iterable[Hashable]]
) -> list[Any]:
    """Everything that some nodes depend on, in an order in which it can be built.

    Parameters
    ----------
    ends:
        The nodes that are wanted; none, one or several, also repeated.
    parents:
        Gives the nodes that a node directly depends on, in any iterable, also
        repeated. It is called once for each node.

    Returns
    -------
    A list of all nodes that can be reached from ``ends`` over ``parents``, the ends
    included: each once, and each after all of its parents. Time and memory grow with
    nodes plus edges, and a chain of 100,000 nodes is no problem.

    Raises ValueError, with the word "cycle", if a node that can be reached depends
    on itself, directly or over others.

    Source: Tarjan 1972, "Depth-First Search and Linear Graph Algorithms"; Knuth
    1968, "The Art of Computer Programming", vol. 1, sec. 2.2.3.
    """
    order: list[Any] = []
    finished: dict[Any, bool] = {}  # False as long as a node is on the path
    path = [(None, iter(ends))]  # one frame per node: what is left of its parents
    while path:
        node, left = path[-1]
        for parent in left:
            if parent not in finished:
                finished[parent] = False
                path.append((parent, iter(parents(parent))))
                break
            if not finished[parent]:
                raise ValueError(f"a cycle leads from {parent!r} back to itself")
        else:
            path.pop()
            if path:  # the first frame stands for no node
                finished[node] = True
                order.append(node)
    return order


known_mistakes(
    topological_order,
    (
        "    return order\n",
        "    return order[::-1]\n",
        "the order is turned round: each node stands before its parents",
    ),
    (
        "            if not finished[parent]:\n                raise ValueError(f\"a cycle leads from {parent!r} back to itself\")\n",
        "",
        "a cycle is not noticed: a node on the path is taken for one that is finished",
    ),
    (
        "            if not finished[parent]:\n",
        "            if finished[parent]:\n",
        "a node that is reached twice is taken for a cycle; sharing is legal, only a node on the current path closes a cycle",
    ),
    (
        """    order: list[Any] = []
    finished: dict[Any, bool] = {}  # False as long as a node is on the path
    path = [(None, iter(ends))]  # one frame per node: what is left of its parents
    while path:
        node, left = path[-1]
        for parent in left:
            if parent not in finished:
                finished[parent] = False
                path.append((parent, iter(parents(parent))))
                break
            if not finished[parent]:
                raise ValueError(f"a cycle leads from {parent!r} back to itself")
        else:
            path.pop()
            if path:  # the first frame stands for no node
                finished[node] = True
                order.append(node)
    return order
""",
        """    order, state = [], {}

    def visit(node):
        if state.get(node) == 1:
            raise ValueError("cycle")
        if state.get(node) != 2:
            state[node] = 1
            for parent in parents(node):
                visit(parent)
            state[node] = 2
            order.append(node)

    for end in ends:
        visit(end)
    return order
""",
        "the function calls itself, so a long chain overflows Python's stack: keep a stack of your own",
    ),
    (
        """    order: list[Any] = []
    finished: dict[Any, bool] = {}  # False as long as a node is on the path
    path = [(None, iter(ends))]  # one frame per node: what is left of its parents
    while path:
        node, left = path[-1]
        for parent in left:
            if parent not in finished:
                finished[parent] = False
                path.append((parent, iter(parents(parent))))
                break
            if not finished[parent]:
                raise ValueError(f"a cycle leads from {parent!r} back to itself")
        else:
            path.pop()
            if path:  # the first frame stands for no node
                finished[node] = True
                order.append(node)
    return order
""",
        """    queue = list(dict.fromkeys(ends))
    seen = set(queue)
    for node in queue:
        for parent in parents(node):
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return queue[::-1]
""",
        "nodes are ordered by their distance from the end: one that is needed early and late comes too late, and no cycle is noticed",
    ),
    (
        "    path = [(None, iter(ends))]",
        "    path = [(None, iter(list(ends)[:1]))]",
        "only the first of the ends is followed",
    ),
    (
        "            if path:  # the first frame stands for no node\n",
        "            if node:\n",
        "a node that counts as false, such as 0 or an empty string, is left out",
    ),
)


class Differentiable:
    """The operations of a number, each with its local slopes: one table, two modes.

    A subclass keeps a plain number, or anything that computes like one, in ``data``.
    Each operator computes the new data and the slope of the result in each operand,
    both from the ``data`` of the operands, and hands them to ``result`` in one call.
    What becomes of the slopes is the subclass's affair.

    A plain number on either side of an operator is taken as a constant.

    Source: the table on the page; Griewank and Walther 2008, "Evaluating
    Derivatives", chapters 2 and 3.
    """

    def __init__(self, data: Any) -> None:
        """A number that depends on nothing."""
        self.data = data

    def result(
        self,
        data: Any,
        operands: tuple[Any, ...],
        slopes: tuple[Any, ...],
    ) -> Any:
        """The outcome of an operation: slope ``i`` belongs to operand ``i``.

        Here the slopes are forgotten. A subclass does something with them.
        """
        return type(self)(data)

    @classmethod
    def lift(cls, number: Any) -> Any:
        """The argument itself if it is of this class, else a constant of this class.

        Raises TypeError if it is neither that nor a plain real number.
        """
        if isinstance(number, cls):
            return number
        if isinstance(number, Real):
            return cls(number)
        raise TypeError(f"{cls.__name__} cannot compute with {number!r}")

    def __lt__(self, other: Any) -> bool:
        """Compare the data, so that ``if x < 1:`` works."""
        return self.data < self.lift(other).data

    def __gt__(self, other: Any) -> bool:
        """Compare the data."""
        return self.data > self.lift(other).data

    def __add__(self, other: Any) -> Any:
        """self + other."""
        other = self.lift(other)
        return self.result(self.data + other.data, (self, other), (1.0, 1.0))

    def __radd__(self, other: Any) -> Any:
        """other + self, for a plain number."""
        return self.lift(other) + self

    def __sub__(self, other: Any) -> Any:
        """self - other."""
        other = self.lift(other)
        return self.result(self.data - other.data, (self, other), (1.0, -1.0))

    def __rsub__(self, other: Any) -> Any:
        """other - self, for a plain number."""
        return self.lift(other) - self

    def __neg__(self) -> Any:
        """-self."""
        return self.result(-self.data, (self,), (-1.0,))

    def __mul__(self, other: Any) -> Any:
        """self * other."""
        other = self.lift(other)
        slopes = (other.data, self.data)
        return self.result(self.data * other.data, (self, other), slopes)

    def __rmul__(self, other: Any) -> Any:
        """other * self, for a plain number."""
        return self.lift(other) * self

    def __truediv__(self, other: Any) -> Any:
        """self / other."""
        other = self.lift(other)
        ratio = self.data / other.data
        slopes = (1.0 / other.data, -ratio / other.data)
        return self.result(ratio, (self, other), slopes)

    def __rtruediv__(self, other: Any) -> Any:
        """other / self, for a plain number."""
        return self.lift(other) / self

    def __pow__(self, exponent: float) -> Any:
        """self ** exponent, for a plain number; the slope of x ** 0 is 0, also at 0.

        Raises TypeError for any other exponent; its message has the way out:
        ``exp(y * log(x))``.
        """
        if not isinstance(exponent, Real):
            raise TypeError("the exponent is no plain number: use exp(y * log(x))")
        slope = exponent * self.data ** (exponent - 1) if exponent else 0.0
        return self.result(self.data**exponent, (self,), (slope,))

    def exp(self) -> Any:
        """e to the self."""
        data = exp(self.data)
        return self.result(data, (self,), (data,))

    def log(self) -> Any:
        """The natural logarithm."""
        return self.result(log(self.data), (self,), (1.0 / self.data,))

    def tanh(self) -> Any:
        """The hyperbolic tangent."""
        data = tanh(self.data)
        return self.result(data, (self,), (1.0 - data * data,))

    def relu(self) -> Any:
        """self where it is positive, else 0; at 0 itself the slope is taken as 0."""
        slope = 1.0 if self.data > 0 else 0.0
        return self.result(relu(self.data), (self,), (slope,))


known_mistakes(
    Differentiable,
    (
        "slopes = (other.data, self.data)",
        "slopes = (self.data, other.data)",
        "the slope of x * y in x is y: each factor's slope is the other factor",
    ),
    (
        "        return self.lift(other) - self\n",
        "        return self - other\n",
        "for 5 - x Python calls x.__rsub__(5): the plain number stands on the left",
    ),
    (
        "        return self.lift(other) / self\n",
        "        return self / other\n",
        "for 5 / x Python calls x.__rtruediv__(5): the plain number stands on the left",
    ),
    (
        "-ratio / other.data)",
        "ratio / other.data)",
        "a larger denominator makes a smaller quotient: its slope has a minus sign",
    ),
    (
        "-ratio / other.data)",
        "-self.data / other.data)",
        "the slope of x / y in y is -x / y**2: the denominator is squared",
    ),
    (
        "exponent * self.data ** (exponent - 1) if exponent else 0.0",
        "exponent * self.data**exponent if exponent else 0.0",
        "the slope of x ** n is n * x ** (n - 1): the exponent falls by one",
    ),
    (
        "exponent * self.data ** (exponent - 1) if exponent else 0.0",
        "exponent * self.data ** (exponent - 1)",
        "x ** 0 is 1 everywhere, so its slope is 0; at x = 0 the formula divides by zero",
    ),
    (
        "(1.0 - data * data,)",
        "(1.0 - self.data * self.data,)",
        "the slope of tanh is 1 minus the square of the result, not of the argument",
    ),
    (
        "(1.0 - data * data,)",
        "(1.0 - data,)",
        "the slope of tanh is 1 minus the *square* of the result",
    ),
    (
        "        return self.result(log(self.data), (self,), (1.0 / self.data,))\n",
        "        data = log(self.data)\n        return self.result(data, (self,), (1.0 / data,))\n",
        "the slope of the logarithm is one over its argument, not over its result",
    ),
    (
        "(self, other), (1.0, -1.0))",
        "(self, other), (1.0, 1.0))",
        "what is subtracted has the slope -1",
    ),
    (
        "        return self.lift(other) + self\n",
        "        raise TypeError(other)\n",
        "2 + x fails, and with it sum(), which begins with 0 + x",
    ),
    (
        "        data = exp(self.data)\n",
        "        data = math.exp(self.data)\n",
        "math.exp takes plain numbers only: the data may be a number that itself carries slopes",
    ),
    (
        "slope = 1.0 if self.data > 0 else 0.0",
        "slope = 1.0",
        "where relu cuts off, its slope is 0",
    ),
)


class Value(Differentiable):
    """One number of a computation, which remembers what it was computed from.

    ``parents`` are the operands of the operation that made it, ``slopes`` the local
    slopes, one for each parent; a leaf has neither. ``grad`` is the gradient that
    ``backward`` has found so far, 0.0 at first. Nothing is kept outside the nodes:
    a graph lives as long as somebody holds its end.

    Source: Linnainmaa 1976, "Taylor Expansion of the Accumulated Rounding Error";
    Griewank and Walther 2008, sec. 3.2.
    """

    def __init__(
        self,
        data: Any,
        parents: tuple[Value, ...] = (),
        slopes: tuple[Any, ...] = (),
    ) -> None:
        """A leaf; with parents, the result of an operation."""
        super().__init__(data)
        self.parents = parents
        self.slopes = slopes
        self.grad = 0.0

    def __repr__(self) -> str:
        """Number and gradient."""
        return f"Value({self.data}, grad={self.grad})"

    def result(
        self,
        data: Any,
        operands: tuple[Any, ...],
        slopes: tuple[Any, ...],
    ) -> Value:
        """A new node with these operands as parents."""
        return Value(data, operands, slopes)

    def backward(self) -> None:
        """Add the gradient of this number to ``grad`` of all that it depends on.

        Afterward ``grad`` of each node of the graph, this one included, has grown by
        the derivative of this number in that node. It is *added*, so several calls,
        on one end or on several that share nodes, leave the sum of the gradients;
        set ``grad`` of your leaves to 0.0 between two steps of training. Graphs may
        be hundreds of thousands of operations deep.
        """
        order = topological_order([self], lambda node: node.parents)
        flow = dict.fromkeys(order, 0.0)
        flow[self] = 1.0
        for node in reversed(order):
            node.grad += flow[node]
            for parent, slope in zip(node.parents, node.slopes):
                flow[parent] += slope * flow[node]


known_mistakes(
    Value,
    (
        "flow[parent] += slope * flow[node]",
        "flow[parent] = slope * flow[node]",
        "a node that is used twice keeps the gradient of one use: contributions add up",
    ),
    (
        "for node in reversed(order):",
        "for node in order:",
        "the gradients run from the leaves to the end; they start at the end",
    ),
    (
        "flow[parent] += slope * flow[node]",
        "flow[parent] += flow[node]",
        "the gradient is passed on without the local slope",
    ),
    (
        "flow[parent] += slope * flow[node]",
        "flow[parent] += slope",
        "the local slope is passed on without the gradient that arrived: the chain rule multiplies",
    ),
    (
        "            node.grad += flow[node]\n",
        "            node.grad = flow[node]\n",
        "each call of backward replaces the gradient; it is to be added to what is there",
    ),
    (
        """        flow = dict.fromkeys(order, 0.0)
        flow[self] = 1.0
        for node in reversed(order):
            node.grad += flow[node]
            for parent, slope in zip(node.parents, node.slopes):
                flow[parent] += slope * flow[node]
""",
        """        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in zip(node.parents, node.slopes):
                parent.grad += slope * node.grad
""",
        "what an earlier call left in grad is passed on a second time: keep this call's gradients apart until they are complete",
    ),
    (
        """        flow = dict.fromkeys(order, 0.0)
        flow[self] = 1.0
        for node in reversed(order):
            node.grad += flow[node]
            for parent, slope in zip(node.parents, node.slopes):
                flow[parent] += slope * flow[node]
""",
        """        def push(node, arriving):
            node.grad += arriving
            for parent, slope in zip(node.parents, node.slopes):
                push(parent, slope * arriving)

        push(self, 1.0)
""",
        "each path is walked on its own: their number doubles with every shared node, and a deep graph overflows the stack",
    ),
    (
        "        order = topological_order([self], lambda node: node.parents)\n",
        """        order, seen = [self], {self}
        for node in order:
            fresh = dict.fromkeys(p for p in node.parents if p not in seen)
            order.extend(fresh)
            seen.update(fresh)
        order.reverse()
""",
        "nodes are ordered by their distance from the end: a shared one passes its gradient on before all of it has arrived",
    ),
    (
        """        order = topological_order([self], lambda node: node.parents)
        flow = dict.fromkeys(order, 0.0)
        flow[self] = 1.0
        for node in reversed(order):
            node.grad += flow[node]
            for parent, slope in zip(node.parents, node.slopes):
                flow[parent] += slope * flow[node]
""",
        """        flow = {self: 1.0}
        order = [self]
        for node in order:
            for parent, slope in zip(node.parents, node.slopes):
                if parent not in flow:
                    flow[parent] = 0.0
                    order.append(parent)
                flow[parent] += slope * flow[node]
        for node in order:
            node.grad += flow[node]
""",
        "nodes are taken by their distance from the end: a shared one passes its gradient on before all of it has arrived",
    ),
    (
        "        flow = dict.fromkeys(order, 0.0)\n        flow[self] = 1.0\n",
        "        flow = {node: node.grad for node in order}\n        flow[self] += 1.0\n",
        "what an earlier call left in grad is passed on again: begin each call with gradients of its own",
    ),
)


class Dual(Differentiable):
    """A number a + b ε with ε² = 0: a value, and how fast it moves.

    ``data`` is the value a and ``tangent`` the slope b along the direction in which
    the inputs move. A constant has the tangent 0.0.

    Source: Clifford 1873, "Preliminary Sketch of Biquaternions"; Wengert 1964, "A
    Simple Automatic Derivative Evaluation Program".
    """

    def __init__(self, data: Any, tangent: Any = 0.0) -> None:
        """``data + tangent * ε``."""
        super().__init__(data)
        self.tangent = tangent

    def __repr__(self) -> str:
        """Value and slope."""
        return f"Dual({self.data}, {self.tangent})"

    def result(
        self,
        data: Any,
        operands: tuple[Any, ...],
        slopes: tuple[Any, ...],
    ) -> Dual:
        """The new value, with the tangent that the chain rule gives."""
        moved = [slope * x.tangent for slope, x in zip(slopes, operands)]
        return Dual(data, sum(moved))


known_mistakes(
    Dual,
    (
        "slope * x.tangent for",
        "slope * x.data for",
        "a local slope multiplies how fast its operand moves, which is its tangent, not its value",
    ),
    (
        "slope * x.tangent for",
        "slope for",
        "the local slope alone is the tangent only if the operand moves with slope 1",
    ),
    (
        "slope * x.tangent for",
        "x.tangent for",
        "the tangents are added without the local slopes",
    ),
    (
        "return Dual(data, sum(moved))",
        "return Dual(data, moved[0])",
        "only the first operand moves: the product rule has two terms",
    ),
    (
        "return Dual(data, sum(moved))",
        "return Dual(data, math.prod(moved))",
        "the effects of two operands are added, not multiplied",
    ),
)


def jvp_dual(
    f: Callable[[list[Any]], Sequence[Any]], x: Sequence[Any], v: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """A Jacobian-vector product in forward mode: one run of ``f``, no graph.

    Parameters
    ----------
    f:
        Takes a list of n numbers, returns a sequence of m numbers. It is written
        with ``+ - * / **``, comparisons, and ``exp``, ``log``, ``tanh``, ``relu``.
        It is called once.
    x, v:
        The point and the direction: n numbers each.

    Returns
    -------
    The m values of ``f`` at ``x``, and the m slopes ``J @ v``; plain numbers, 0.0
    for an output that depends on no input.

    Raises ValueError if ``x`` and ``v`` differ in length.

    Source: Wengert 1964; Griewank and Walther 2008, "Evaluating Derivatives",
    sec. 3.1.
    """
    outputs = f([Dual(a, b) for a, b in zip(x, v, strict=True)])
    lifted = [Dual.lift(y) for y in outputs]
    return [y.data for y in lifted], [y.tangent for y in lifted]


known_mistakes(
    jvp_dual,
    (
        "[Dual(a, b) for a, b in zip(x, v, strict=True)]",
        "[Dual(a, 1.0) for a, b in zip(x, v, strict=True)]",
        "every input moves with slope 1: that is the direction (1, ..., 1), not v",
    ),
    (
        "zip(x, v, strict=True)",
        "zip(x, v)",
        "a direction of another length than the point is not refused",
    ),
    (
        "lifted = [Dual.lift(y) for y in outputs]",
        "lifted = list(outputs)",
        "an output that depends on no input is a plain number and has no tangent: lift it",
    ),
    (
        "return [y.data for y in lifted], [y.tangent for y in lifted]",
        "return [y.tangent for y in lifted], [y.data for y in lifted]",
        "values and slopes have changed places",
    ),
)


def hvp(
    f: Callable[[list[Any]], Any], x: Sequence[float], v: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Gradient and Hessian-vector product of a function of n numbers, in one pass.

    Parameters
    ----------
    f:
        Takes a list of n numbers, returns one number; written as for ``jvp_dual``.
        It is called once.
    x, v:
        The point and the direction: n numbers each.

    Returns
    -------
    The gradient of ``f`` at ``x``, and ``H @ v``, where ``H[i][j]`` is the second
    derivative in inputs i and j: n plain numbers each, 0.0 where ``f`` does not
    depend on an input. Neither ``H`` nor any difference is formed.

    Raises ValueError if ``x`` and ``v`` differ in length.

    Source: Pearlmutter 1994, "Fast Exact Multiplication by the Hessian".
    """
    leaves = [Value(Dual(a, b)) for a, b in zip(x, v, strict=True)]
    Value.lift(f(leaves)).backward()
    grads = [Dual.lift(leaf.grad) for leaf in leaves]
    return [g.data for g in grads], [g.tangent for g in grads]


known_mistakes(
    hvp,
    (
        "Value(Dual(a, b)) for a, b",
        "Value(Dual(a, 1.0)) for a, b",
        "every input moves with slope 1: that is H times (1, ..., 1), not H v",
    ),
    (
        "return [g.data for g in grads], [g.tangent for g in grads]",
        "return [g.tangent for g in grads], [g.data for g in grads]",
        "gradient and Hessian-vector product have changed places",
    ),
    (
        "grads = [Dual.lift(leaf.grad) for leaf in leaves]",
        "grads = [leaf.grad for leaf in leaves]",
        "a gradient that is constant is a plain number and has no tangent: lift it",
    ),
    (
        "Value.lift(f(leaves)).backward()",
        "f(leaves).backward()",
        "a function that depends on no input returns a plain number: lift it",
    ),
    (
        "zip(x, v, strict=True)",
        "zip(x, v)",
        "a direction of another length than the point is not refused",
    ),
    (
        "return [g.data for g in grads], [g.tangent for g in grads]",
        "return [g.data for g in grads], [g.tangent * b for g, b in zip(grads, v)]",
        "the direction is in the duals already; it is multiplied in a second time",
    ),
)
