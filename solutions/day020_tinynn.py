"""Day 20: tinynn, a neural-network library in one file, made of the answers of Days 13 to 19."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm180 import known_mistakes
from solutions.day013_backprop import Linear as PlainLinear
from solutions.day013_backprop import Tensor
from solutions.day014_activations import gelu, leaky_relu, sigmoid
from solutions.day015_losses import cross_entropy, huber
from solutions.day016_sgd import SGD, RMSprop
from solutions.day017_adam import Adam, AdamW
from solutions.day018_regularization import Dropout as PlainDropout
from solutions.day018_regularization import EarlyStopping, mixup
from solutions.day019_normalization import BatchNorm1d as PlainBatchNorm1d
from solutions.day019_normalization import LayerNorm as PlainLayerNorm
from solutions.day019_normalization import RMSNorm as PlainRMSNorm

__all__ = [
    "GELU", "SGD", "Adam", "AdamW", "BatchNorm1d", "CrossEntropyLoss", "DataLoader", "Dropout", "EarlyStopping",
    "Flatten", "HuberLoss", "LayerNorm", "LeakyReLU", "Linear", "MSELoss", "Module", "Parameter", "RMSNorm", "RMSprop",
    "ReLU", "Sequential", "Sigmoid", "Tanh", "Tensor", "Trainer", "load", "load_state_dict", "mixup", "save",
    "state_dict",
]  # fmt: skip


# --- what holds the state ------------------------------------------------------------


class Parameter(Tensor):
    """A leaf that is trained; it owns a copy of the data it is made from."""

    def __init__(self, data: Any) -> None:
        super().__init__(np.array(data, dtype=np.float64), requires_grad=True)


class Module:
    """A part of a network, which finds its own state in its attributes.

    The *parts* of a module are the module itself, then, attribute by attribute in the
    order of assignment, whatever of these it holds: modules, leaf tensors (without
    edges), NumPy arrays. A module inside is followed by its own parts. Lists, tuples
    and dicts are searched as well, in their order, also inside one another.
    Everything else is no part; nor is an attribute whose name begins with ``_``.

    A part's name is the path to it, joined by dots: attributes by name, entries by
    index or key, as in ``"blocks.0.norm.weight"``. The module itself has the name
    ``""``. An object that can be reached twice is a part once, under the first name.

    A leaf that requires a gradient is a *parameter*. An array is a *buffer*; so is
    ``data`` of a leaf that requires none, which is how a parameter is frozen.

    Source: the conventions are those of torch.nn.Module, but for the search.
    """

    training = True  # until train or eval says otherwise

    def __call__(self, *inputs: Any) -> Any:
        """What ``forward`` returns."""
        return self.forward(*inputs)

    def forward(self, *inputs: Any) -> Any:
        """The module's computation; a subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def walk(self) -> list[tuple[str, Any]]:
        """Name and part for each part, as above, the module itself first."""
        found: list[tuple[str, Any]] = []
        seen: set[int] = set()

        def visit(name: str, value: Any) -> None:
            if id(value) in seen:
                return
            seen.add(id(value))
            leaf = isinstance(value, Tensor) and not value.edges
            if leaf or isinstance(value, (Module, np.ndarray)):
                found.append((name, value))
            inside: dict[Any, Any] = {}
            if isinstance(value, Module):
                attributes = vars(value).items()
                inside = {k: v for k, v in attributes if not k.startswith("_")}
            elif isinstance(value, dict):
                inside = value
            elif isinstance(value, (list, tuple)):
                inside = dict(enumerate(value))
            for key, part in inside.items():
                visit(f"{name}.{key}" if name else str(key), part)

        visit("", self)
        return found

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """Name and tensor of each parameter, in the order of ``walk``."""
        leaves = [(n, p) for n, p in self.walk() if isinstance(p, Tensor)]
        return [(n, p) for n, p in leaves if p.requires_grad]

    def named_buffers(self) -> list[tuple[str, np.ndarray]]:
        """Name and array of each buffer, not a copy, in the order of ``walk``."""
        arrays = []
        for name, part in self.walk():
            if isinstance(part, np.ndarray):
                arrays.append((name, part))
            elif isinstance(part, Tensor) and not part.requires_grad:
                arrays.append((name, part.data))
        return arrays

    def modules(self) -> list[Module]:
        """The module itself and every module inside, in the order of ``walk``."""
        return [part for _, part in self.walk() if isinstance(part, Module)]

    def parameters(self) -> list[Tensor]:
        """The parameters without their names."""
        return [p for _, p in self.named_parameters()]

    def buffers(self) -> list[np.ndarray]:
        """The buffers without their names."""
        return [b for _, b in self.named_buffers()]

    def train(self, mode: bool = True) -> Module:
        """Set ``training`` to ``mode`` here and in all modules inside; returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """``train(False)``."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradient of every parameter: ``grad`` is None afterwards."""
        for p in self.parameters():
            p.zero_grad()


known_mistakes(
    Module,
    (
        "            if id(value) in seen:\n                return\n            seen.add(id(value))\n",
        "            if name in seen:\n                return\n            seen.add(name)\n",
        "a shared part is found under each of its names: the optimizer would step it twice",
    ),
    (
        "            elif isinstance(value, (list, tuple)):\n                inside = dict(enumerate(value))\n",
        "",
        "modules in a list are not found: the optimizer never sees their weights, and nothing complains",
    ),
    (
        "            elif isinstance(value, dict):\n                inside = value\n",
        "",
        "modules in a dict are not found",
    ),
    (
        "                inside = {k: v for k, v in attributes if not k.startswith(\"_\")}\n",
        "                inside = {k: v for k, v in attributes}\n",
        "attributes that begin with an underscore are private: caches would be saved as state",
    ),
    (
        "leaf = isinstance(value, Tensor) and not value.edges",
        "leaf = isinstance(value, Tensor)",
        "a tensor with edges is the result of a computation, not state: a kept output became a parameter",
    ),
    (
        "        for module in self.modules():\n            module.training = mode\n        return self",
        "        self.training = mode\n        return self",
        "only the outermost module changes its mode: a Dropout inside goes on dropping",
    ),
    (
        "        for module in self.modules():\n            module.training = mode\n        return self",
        "        for module in self.modules():\n            module.training = mode",
        "train returns nothing: `model.eval()(x)` fails",
    ),
    (
        "visit(f\"{name}.{key}\" if name else str(key), part)",
        "visit(f\"{name}.{key}\", part)",
        "names of the outermost module begin with a dot",
    ),
    (
        "visit(f\"{name}.{key}\" if name else str(key), part)",
        "visit(str(key), part)",
        "a name is the whole path; two layers both have a `W`, and one hides the other",
    ),
    (
        "return [(n, p) for n, p in leaves if p.requires_grad]",
        "return leaves",
        "a leaf that requires no gradient is frozen: it is a buffer",
    ),
    (
        "            elif isinstance(part, Tensor) and not part.requires_grad:\n                arrays.append((name, part.data))\n",
        "",
        "frozen weights are in no list: they would be missing from every saved file",
    ),
    (
        "arrays.append((name, part))",
        "arrays.append((name, part.copy()))",
        "the buffers are copies: whoever writes into them changes nothing",
    ),
    (
        "            p.zero_grad()",
        "            p.grad = np.zeros(p.shape)",
        "grad is None after zero_grad: zeros cannot be told from a gradient that is zero",
    ),
)


# --- layers: the computation of an earlier day, the state of a Module ---------------------


class Linear(Module, PlainLinear):
    """Day 13's layer as a module: ``walk`` finds its ``W`` and ``b``."""

    forward = PlainLinear.__call__


class Dropout(Module, PlainDropout):
    """Day 18's dropout; ``train`` and ``eval`` set its mode."""

    forward = PlainDropout.__call__


class BatchNorm1d(Module, PlainBatchNorm1d):
    """Day 19's batch norm; its running statistics are buffers."""

    forward = PlainBatchNorm1d.__call__


class LayerNorm(Module, PlainLayerNorm):
    """Day 19's layer norm as a module."""

    forward = PlainLayerNorm.__call__


class RMSNorm(Module, PlainRMSNorm):
    """Day 19's RMS norm as a module."""

    forward = PlainRMSNorm.__call__


class Sequential(Module):
    """Modules one behind the other; an array at the entrance becomes a constant."""

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    def forward(self, x: Any) -> Tensor:
        """The output of the last layer; ``x`` itself if there is none."""
        x = Tensor.lift(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Flatten(Module):
    """``(B, ...)`` to ``(B, n)``."""

    def forward(self, x: Any) -> Tensor:
        """The entries of each example in one row."""
        x = Tensor.lift(x)
        return x.reshape(x.shape[0], -1)


class Elementwise(Module):
    """An activation from a function of an array that gives value and slope (Day 14)."""

    def value_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both of the shape of ``x``; a subclass writes it."""
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        """The value, with an edge that multiplies by the slope."""
        x = Tensor.lift(x)
        y, slope = self.value_and_slope(x.data)
        return Tensor.result(y, (x, lambda g: g * slope))


class ReLU(Module):
    """The larger of the input and 0."""

    def forward(self, x: Any) -> Tensor:
        """Day 13's ``relu``."""
        return Tensor.lift(x).relu()


class LeakyReLU(Elementwise):
    """Day 14's ``leaky_relu``."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def value_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As on Day 14."""
        return leaky_relu(x, self.slope)


class Sigmoid(Elementwise):
    """Day 14's ``sigmoid``."""

    def value_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As on Day 14."""
        return sigmoid(x)


class Tanh(Elementwise):
    """The hyperbolic tangent, whose slope is 1 minus its square."""

    def value_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From NumPy."""
        y = np.tanh(x)
        return y, 1 - y**2


class GELU(Elementwise):
    """Day 14's ``gelu``."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def value_and_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As on Day 14."""
        return gelu(x, self.approximate)


# --- losses ---------------------------------------------------------------------------


class CrossEntropyLoss(Module):
    """Day 15's ``cross_entropy`` with its gradient as the edge."""

    def __init__(
        self,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        self.settings = (label_smoothing, ignore_index, reduction)

    def forward(self, logits: Any, targets: np.ndarray) -> Tensor:
        """``(..., k)`` logits and ``(...)`` integers to one number."""
        logits = Tensor.lift(logits)
        loss, grad = cross_entropy(logits.data, targets, *self.settings)
        return Tensor.result(loss, (logits, lambda g: g * grad))


class HuberLoss(Module):
    """Day 15's ``huber``, the mean over all entries."""

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def forward(self, prediction: Any, target: np.ndarray) -> Tensor:
        """Two of one shape to one number."""
        prediction = Tensor.lift(prediction)
        loss, grad = huber(prediction.data, target, self.delta)
        return Tensor.result(loss, (prediction, lambda g: g * grad))


class MSELoss(Module):
    """The mean squared error over all entries."""

    def forward(self, prediction: Any, target: np.ndarray) -> Tensor:
        """Two of one shape to one number; ValueError if the shapes differ."""
        prediction = Tensor.lift(prediction)
        if prediction.shape != target.shape:
            raise ValueError(f"shapes {prediction.shape} and {target.shape} differ")
        return ((prediction - target) ** 2).mean()


# --- batches ----------------------------------------------------------------------------


class DataLoader:
    """Batches of equally long arrays; the last one holds what is left.

    With ``shuffle``, each pass has another order, which ``seed`` and the number of
    passes before it decide.
    """

    def __init__(
        self,
        *arrays: np.ndarray,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        if len({len(a) for a in arrays}) != 1 or batch_size < 1:
            raise ValueError("need arrays of one length, and batch_size >= 1")
        self.arrays = arrays
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.passes = 0

    def __len__(self) -> int:
        """The number of batches of a pass."""
        return -(-len(self.arrays[0]) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """One pass: a tuple for each batch, with an array for each array."""
        order = np.arange(len(self.arrays[0]))
        if self.shuffle:
            np.random.default_rng([self.seed, self.passes]).shuffle(order)
        self.passes += 1
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield tuple(a[rows] for a in self.arrays)


# --- training -----------------------------------------------------------------------------


class Trainer:
    """Everything between a model and a trained model.

    ``model`` is a ``Module``. ``loss(output, y)`` gives a tensor of one number, the
    mean over the batch. ``optimizer`` is called once, with the list of the ``data`` of
    ``model.parameters()``, and returns an object with ``step(grads)`` (Days 16, 17),
    such as ``lambda arrays: Adam(arrays, 1e-3)``. ``metrics`` maps names to functions
    ``f(output, y)`` of two arrays, each a mean over the batch.

    Batches are an iterable of pairs ``(x, y)`` with one row per example, and at
    least one row in all; it is gone through anew in each epoch. There is no
    randomness in here: equal models, batches and optimizers give equal runs.

    ``history`` holds what ``fit`` has returned so far, over all calls.
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Tensor, np.ndarray], Tensor],
        optimizer: Callable[[list[np.ndarray]], Any],
        metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.params = model.parameters()
        self.optimizer = optimizer([p.data for p in self.params])
        self.metrics = dict(metrics or {})
        self.history: list[dict[str, float]] = []

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One update on one batch; the loss before it.

        Gradients from earlier are forgotten first. A parameter that the loss does not
        depend on gets a gradient of zeros. The mode of the model is left as it is.
        """
        for p in self.params:
            p.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        grads = [np.zeros(p.shape) if p.grad is None else p.grad for p in self.params]
        self.optimizer.step(grads)
        return float(loss.data)

    def evaluate(self, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
        """The mean over all examples of ``"loss"`` and of each metric, in eval mode.

        Nothing is trained. Afterwards every module inside the model has the mode that
        it had before, also if an error comes up on the way.

        Raises ValueError that says ``batch`` if there is none.
        """
        modules = self.model.modules()
        modes = [module.training for module in modules]
        totals, rows = {"loss": 0.0, **dict.fromkeys(self.metrics, 0.0)}, 0
        try:
            self.model.eval()
            for x, y in batches:
                output = self.model(x)
                totals["loss"] += float(self.loss(output, y).data) * len(x)
                for name, metric in self.metrics.items():
                    totals[name] += float(metric(output.data, y)) * len(x)
                rows += len(x)
        finally:
            for module, mode in zip(modules, modes):
                module.training = mode
        if not rows:
            raise ValueError("there is no batch to evaluate on")
        return {name: total / rows for name, total in totals.items()}

    def fit(
        self,
        batches: Iterable[tuple[Any, Any]],
        epochs: int,
        validation: Iterable[tuple[Any, Any]] | None = None,
        stopping: Any = None,
    ) -> list[dict[str, float]]:
        """Train for ``epochs`` passes; one row of numbers for each.

        A row holds ``"loss"``, the mean over all examples of the losses before their
        steps, in training mode. With ``validation`` it also holds what ``evaluate``
        gives there after the epoch, each name with ``"val_"`` in front.

        ``stopping`` is Day 18's ``EarlyStopping``: after each epoch it is given the
        validation loss and the arrays of all parameters and buffers. Where it says
        stop, the rest of the epochs is left out. At the end the arrays that it kept,
        if any, are restored.

        Raises ValueError that says ``validation`` if ``stopping`` is given without it,
        and one that says ``batch`` if there is none to train on.
        """
        if stopping is not None and validation is None:
            raise ValueError("early stopping needs validation batches to watch")
        news: list[dict[str, float]] = []
        for _ in range(epochs):
            self.model.train()
            total, rows = 0.0, 0
            for x, y in batches:
                total += self.step(x, y) * len(x)
                rows += len(x)
            if not rows:
                raise ValueError("there is no batch to train on")
            news.append({"loss": total / rows})
            self.history.append(news[-1])
            if validation is not None:
                measured = self.evaluate(validation)
                news[-1].update({f"val_{name}": v for name, v in measured.items()})
            if stopping is not None:
                if stopping.update(news[-1]["val_loss"], self._arrays()):
                    break
        if stopping is not None and stopping.weights is not None:
            stopping.restore(self._arrays())
        return news

    def _arrays(self) -> list[np.ndarray]:
        """All that the network has learned, parameters and buffers, not copies."""
        return [p.data for p in self.model.parameters()] + self.model.buffers()


known_mistakes(
    Trainer,
    (
        "        for p in self.params:\n            p.zero_grad()\n",
        "",
        "gradients are not forgotten: each step goes along the sum of all gradients so far",
    ),
    (
        "            for module, mode in zip(modules, modes):\n                module.training = mode\n",
        "            pass\n",
        "after evaluate the model stays in eval mode: dropout is off for the rest of training",
    ),
    (
        "            for module, mode in zip(modules, modes):\n                module.training = mode\n",
        "            self.model.train()\n",
        "evaluate leaves everything in training mode; put back what was there, a frozen BatchNorm included",
    ),
    (
        "            self.model.eval()\n",
        "            pass\n",
        "evaluation runs in training mode: dropout makes it noisy, and batch norm learns from the test set",
    ),
    (
        "totals[\"loss\"] += float(self.loss(output, y).data) * len(x)\n                for name, metric in self.metrics.items():\n                    totals[name] += float(metric(output.data, y)) * len(x)\n                rows += len(x)",
        "totals[\"loss\"] += float(self.loss(output, y).data)\n                for name, metric in self.metrics.items():\n                    totals[name] += float(metric(output.data, y))\n                rows += 1",
        "the mean of batch means: the few examples of the last, shorter batch weigh too much",
    ),
    (
        "            self.model.train()\n            total",
        "            total",
        "fit trains in whatever mode the model came: after an evaluation by hand, dropout is off",
    ),
    (
        "self.optimizer = optimizer([p.data for p in self.params])",
        "self.optimizer = optimizer([p.data.copy() for p in self.params])",
        "the optimizer got copies: it trains them, and the model stays as it was",
    ),
    (
        "[p.data for p in self.model.parameters()] + self.model.buffers()",
        "[p.data for p in self.model.parameters()]",
        "early stopping restores weights of one epoch beside running statistics of another",
    ),
    (
        "        if stopping is not None and stopping.weights is not None:\n            stopping.restore(self._arrays())\n",
        "",
        "training stops, but the weights are the last ones, not the best",
    ),
    (
        "                if stopping.update(news[-1][\"val_loss\"], self._arrays()):",
        "                if stopping.update(news[-1][\"loss\"], self._arrays()):",
        "early stopping watches the training loss, which has no reason to rise",
    ),
    (
        "                total += self.step(x, y) * len(x)\n                rows += len(x)",
        "                total += self.step(x, y)\n                rows += 1",
        "the training loss is a mean of batch means: the last, shorter batch weighs too much",
    ),
    (
        "np.zeros(p.shape) if p.grad is None else p.grad for p in self.params]",
        "p.grad for p in self.params if p.grad is not None]",
        "a parameter without gradient is left out: the optimizer has one gradient too few",
    ),
)


# --- saving ---------------------------------------------------------------------------------


def state_dict(module: Module) -> dict[str, np.ndarray]:
    """All that a module has learned, by name.

    Parameters
    ----------
    module:
        Any ``Module``; it is left unchanged.

    Returns
    -------
    A copy of the data of each parameter, in the order of ``named_parameters``, then a
    copy of each buffer, in the order of ``named_buffers``. Training on changes none of
    them.

    Source: the convention is that of ``torch.nn.Module.state_dict``.
    """
    state = {name: p.data.copy() for name, p in module.named_parameters()}
    return state | {name: b.copy() for name, b in module.named_buffers()}


known_mistakes(
    state_dict,
    (
        "p.data.copy()",
        "p.data",
        "the arrays are the model's own: training on changes what you saved",
    ),
    (
        "b.copy()",
        "b",
        "the buffers are the model's own: training on changes what you saved",
    ),
    (
        "    return state | {name: b.copy() for name, b in module.named_buffers()}",
        "    return state",
        "the buffers are missing: a restored BatchNorm would have forgotten its running statistics",
    ),
    (
        "{name: p.data.copy() for name, p in module.named_parameters()}",
        "{str(i): p.data.copy() for i, p in enumerate(module.parameters())}",
        "numbered, not named: after a layer more, the numbers mean other weights",
    ),
    (
        "{name: p.data.copy() for",
        "{name: p.grad.copy() for",
        "a state holds the weights, not their gradients",
    ),
    (
        "    return state | {name: b.copy() for name, b in module.named_buffers()}",
        "    return {name: b.copy() for name, b in module.named_buffers()} | state",
        "the parameters come first, then the buffers",
    ),
)


def load_state_dict(module: Module, state: Mapping[str, np.ndarray]) -> None:
    """Write a state into a module, into the arrays that it has.

    Parameters
    ----------
    module:
        Any ``Module``. Its arrays keep their identity, so that an optimizer that
        holds them goes on with the new values.
    state:
        As ``state_dict`` gives it; it is left unchanged, and not kept.

    Raises ValueError if names of the module are missing in the state, if the state
    has names that the module has not, or if shapes differ (nothing is broadcast). The
    message holds all of them at once, as ``missing: NAME``, ``unexpected: NAME`` and
    ``shape of NAME: (2,) in the state, (3,) here``; then nothing has changed.

    Source: the convention is that of ``torch.nn.Module.load_state_dict``, strict.
    """
    own = {name: p.data for name, p in module.named_parameters()}
    own |= dict(module.named_buffers())
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in own]
    for name in [name for name in own if name in state]:
        have, want = np.shape(state[name]), own[name].shape
        if have != want:
            problems.append(f"shape of {name}: {have} in the state, {want} here")
    if problems:
        raise ValueError("; ".join(problems))
    for name, array in own.items():
        array[...] = state[name]


known_mistakes(
    load_state_dict,
    (
        "    for name, array in own.items():\n        array[...] = state[name]",
        "    for name, p in module.named_parameters():\n        p.data = np.array(state[name])\n    for name, b in module.named_buffers():\n        b[...] = state[name]",
        "the parameters got new arrays: an optimizer that holds the old ones trains nothing any more",
    ),
    (
        "    problems += [f\"unexpected: {name}\" for name in state if name not in own]\n",
        "",
        "names that the module does not have are passed over: a misspelled layer keeps its random weights",
    ),
    (
        "    problems = [f\"missing: {name}\" for name in own if name not in state]\n",
        "    problems = []\n    state = dict(own) | dict(state)\n",
        "names that are missing are passed over: these weights stay random",
    ),
    (
        "        if have != want:\n",
        "        if False:\n",
        "a shape that differs is broadcast, and a whole layer has one row's weights",
    ),
    (
        "        if have != want:\n",
        "        if np.size(state[name]) != own[name].size:\n",
        "two shapes with equally many entries are taken for the same: a matrix is no transpose",
    ),
    (
        "        if have != want:\n            problems.append(f\"shape of {name}: {have} in the state, {want} here\")\n",
        "        if have != want:\n            raise ValueError(f\"shape of {name}: {have} in the state, {want} here\")\n",
        "the first problem ends the search: the message is to name all of them",
    ),
    (
        "    if problems:\n        raise ValueError(\"; \".join(problems))\n    for name, array in own.items():\n        array[...] = state[name]",
        "    for name, array in own.items():\n        if np.shape(state.get(name)) == array.shape:\n            array[...] = state[name]\n    if problems:\n        raise ValueError(\"; \".join(problems))",
        "half of the state is written before the error: the model is neither the old nor the new one",
    ),
    (
        "    own |= dict(module.named_buffers())\n",
        "    state = {name: state[name] for name in state if name in own}\n",
        "the buffers are not restored: a BatchNorm evaluates with the statistics of another network",
    ),
)


def save(module: Module, path: str | os.PathLike[str]) -> None:
    """Write the state to one .npz file, whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, **state_dict(module))
    os.replace(part, path)


def load(module: Module, path: str | os.PathLike[str]) -> None:
    """Read a file of ``save`` into the module; no code in the file is ever run."""
    with np.load(path, allow_pickle=False) as file:
        load_state_dict(module, dict(file))
