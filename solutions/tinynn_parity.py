"""Does a tinynn agree with PyTorch? Checks that take a library and compare it with torch, in float64.

    from solutions import tinynn_parity as parity
    parity.run(library)                      # a row (name, passed, message) for each check
    library = parity.assemble(Module=MyModule, Adam=MyAdam)   # tinynn with parts of one's own

Nothing in here knows how a library is written: it calls the names of ``solutions.day020_tinynn.__all__``, and compares
what comes with PyTorch. A check raises AssertionError with a sentence that says what differs.
"""

from __future__ import annotations

import ast
import functools
import itertools
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llm180 import data

SOURCE = Path(__file__).with_name("day020_tinynn.py")
LIMIT = 1e-5  # what the parameters of a whole training run may differ by
ROUNDING = 1e-10  # what one operation may, relative to the largest entry


# The first optimizer of a process makes torch import its compiler, which can take longer than a check may: have it here.
torch.optim.SGD([torch.zeros(1)], 0.1)


class Result(NamedTuple):
    """What came of one check."""

    name: str
    passed: bool
    message: str


# --- a library from parts -----------------------------------------------------------------


def assemble(**parts: Any) -> types.ModuleType:
    """A copy of tinynn in which each of ``parts`` takes the place of what has its name.

    A name is one that tinynn defines (``Module``, ``Trainer``) or imports (``Tensor``, ``Adam``, ``PlainLinear``).
    What builds on a part is made anew on it: with another ``Module``, every layer is a subclass of that one.

    Raises ValueError for a name that tinynn has not.
    """
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    kept: list[ast.stmt] = []
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            continue  # a list of known mistakes
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            if node.name in parts:
                continue
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("solutions."):
            names = {alias.asname or alias.name for alias in node.names}
            found |= names
            node.names = [alias for alias in node.names if (alias.asname or alias.name) not in parts]
            if not node.names:
                continue
        kept.append(node)
    if unknown := sorted(parts.keys() - found):
        raise ValueError(f"tinynn has no {', '.join(unknown)}")
    module = types.ModuleType("tinynn", ast.get_docstring(tree))
    module.__dict__.update(parts)
    exec(compile(ast.Module(kept, []), str(SOURCE), "exec"), module.__dict__)
    return module


# --- a model of ours as one of torch's -------------------------------------------------------


def to_torch(layer: Any) -> nn.Module:
    """The torch module, float64, that computes what a tinynn layer does, with the same state.

    Layers are told by the names of their classes. The mode (train or eval) is kept.
    """
    kind = type(layer).__name__
    if kind == "Sequential":
        made: nn.Module = nn.Sequential(*map(to_torch, layer.layers))
    elif kind == "Linear":
        made = nn.Linear(*layer.W.shape, dtype=torch.float64)
        made.weight.requires_grad_(layer.W.requires_grad)
        made.bias.requires_grad_(layer.b.requires_grad)
    elif kind == "BatchNorm1d":
        made = nn.BatchNorm1d(len(layer.weight.data), layer.eps, layer.momentum, dtype=torch.float64)
    elif kind in ("LayerNorm", "RMSNorm"):
        made = getattr(nn, kind)(len(layer.weight.data), layer.eps, dtype=torch.float64)
    elif kind == "Dropout":
        made = nn.Dropout(layer.p)
    elif kind == "LeakyReLU":
        made = nn.LeakyReLU(layer.slope)
    elif kind == "GELU":
        made = nn.GELU(layer.approximate)
    elif kind in ("ReLU", "Sigmoid", "Tanh", "Flatten"):
        made = getattr(nn, kind)()
    else:
        raise ValueError(f"there is no twin for {kind}")
    if kind != "Sequential":
        own = {n: p.data for n, p in layer.named_parameters()} | dict(layer.named_buffers())
        made.load_state_dict(torch_state(own), strict=False)
    return made.train(layer.training)


def renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state of tinynn under torch's names: a Sequential has no list inside, and ``Linear.weight`` is ``W.T``."""
    result = {}
    for name, array in state.items():
        *path, last = [part for part in name.split(".") if part != "layers"]
        turned = array.T if last == "W" else array
        result[".".join([*path, {"W": "weight", "b": "bias"}.get(last, last)])] = turned
    return result


def torch_state(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """``renamed``, with copies as torch tensors."""
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in renamed(state).items()}


def from_torch(state: Mapping[str, torch.Tensor], names: list[str]) -> dict[str, np.ndarray]:
    """The way back: the entries that tinynn calls ``names``, in its layout."""
    theirs = dict(zip(names, renamed(dict.fromkeys(names, np.empty((0, 0))))))
    arrays = {n: state[theirs[n]].detach().cpu().numpy().astype(np.float64) for n in names}
    return {n: a.T.copy() if n.split(".")[-1] == "W" else a for n, a in arrays.items()}


# --- comparing -------------------------------------------------------------------------------


def close(got: Any, want: Any, what: str, limit: float = ROUNDING) -> None:
    """AssertionError unless both have one shape and differ by at most ``limit`` times the largest entry (or 1)."""
    got = np.asarray(getattr(got, "data", got) if not isinstance(got, np.ndarray) else got, dtype=np.float64)
    want = want.detach().numpy() if isinstance(want, torch.Tensor) else np.asarray(want, dtype=np.float64)
    if got.shape != want.shape:
        raise AssertionError(f"{what} has shape {got.shape}; torch's has {want.shape}")
    if not got.size:
        return
    gap = np.where(np.isnan(got) & np.isnan(want), 0, np.abs(got - want))
    if not gap.max() <= limit * max(1.0, np.abs(want).max()):
        at = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape)
        raise AssertionError(f"{what} is {got[at]:.12g} at {tuple(map(int, at))}; torch has {want[at]:.12g}")


def same_layer(layer: Any, x: np.ndarray, library: Any, what: str) -> None:
    """Output and all gradients of a layer are those of its twin, and so are its buffers afterwards."""
    twin = to_torch(layer)
    entrance = library.Tensor(x, requires_grad=True)
    theirs = torch.tensor(x, requires_grad=True)
    out, want = layer(entrance), twin(theirs)
    close(out, want, f"the output of {what}")
    weights = np.random.default_rng(7).normal(size=out.shape)
    for p in layer.parameters():
        p.zero_grad()
    out.backward(weights)
    want.backward(torch.tensor(weights))
    close(entrance.grad, theirs.grad, f"the gradient in the input of {what}")
    grads = torch_state({n: p.grad for n, p in layer.named_parameters()})
    for name, p in twin.named_parameters():
        close(grads[name].numpy(), p.grad, f"the gradient in {name} of {what}")
    buffers = dict(twin.named_buffers())
    for name, array in layer.named_buffers():
        close(array, buffers[name], f"{name} of {what}")


# --- the checks -------------------------------------------------------------------------------


def check_linear(library: Any) -> None:
    """Output and gradients, for inputs with two and three axes."""
    rng = np.random.default_rng(0)
    layer = library.Linear(5, 3, rng)
    layer.b.data[...] = rng.normal(size=3)
    for shape in ((4, 5), (1, 5), (2, 4, 5)):
        same_layer(layer, rng.normal(size=shape), library, f"Linear on an input of shape {shape}")


def check_activations(library: Any) -> None:
    """All six and Flatten: values and gradients, far out as well."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(3, 4)), [[-30.0, 30.0, -700.0, 700.0]]])
    layers = {
        "ReLU": library.ReLU(),
        "LeakyReLU": library.LeakyReLU(0.2),
        "Sigmoid": library.Sigmoid(),
        "Tanh": library.Tanh(),
        "GELU": library.GELU(),
        "GELU with tanh": library.GELU("tanh"),
    }
    for name, layer in layers.items():
        same_layer(layer, x, library, name)
    same_layer(library.Flatten(), rng.normal(size=(3, 2, 4)), library, "Flatten")


def check_normalization(library: Any) -> None:
    """Batch norm in both modes with its running statistics; LayerNorm, RMSNorm."""
    rng = np.random.default_rng(2)
    for name, setting in (("BatchNorm1d", "eps"), ("BatchNorm1d", "momentum"), ("LayerNorm", "eps")):
        ours, theirs = (getattr(getattr(side, name)(4), setting) for side in (library, nn))
        if ours != theirs:
            raise AssertionError(f"{name} has the default {setting} {ours}; torch has {theirs}")
    norms = {
        "BatchNorm1d": library.BatchNorm1d(4, eps=1e-3, momentum=0.3),
        "LayerNorm": library.LayerNorm(4),
        "RMSNorm": library.RMSNorm(4),
    }
    for name, layer in norms.items():
        for p in layer.parameters():
            p.data[...] = rng.normal(size=p.shape)
        for _ in range(3):
            same_layer(layer, rng.normal(2.0, 3.0, size=(5, 4)), library, f"{name} in training")
        same_layer(layer.eval(), rng.normal(size=(6, 4)), library, f"{name} in evaluation")
        layer.train()


def check_dropout(library: Any) -> None:
    """Identity in evaluation; in training, a mask that scales, for the gradient too."""
    x = np.random.default_rng(3).normal(size=(40, 50)) + 10
    layer = library.Dropout(0.25, np.random.default_rng(4))
    same_layer(layer.eval(), x, library, "Dropout in evaluation")
    layer.train()
    entrance = library.Tensor(x, requires_grad=True)
    out = layer(entrance)
    out.sum().backward()
    kept = out.data != 0
    close(out, np.where(kept, x / 0.75, 0), "what Dropout lets through in training")
    close(entrance.grad, kept / 0.75, "the gradient of Dropout in training")
    if not 0.7 < kept.mean() < 0.8:
        raise AssertionError(f"Dropout(0.25) keeps the share {kept.mean():.2f} of the entries")


def check_losses(library: Any) -> None:
    """Cross-entropy (ignore_index, smoothing, sum), Huber, MSE: values and gradients."""
    rng = np.random.default_rng(5)
    logits, targets = 4 * rng.normal(size=(6, 5)), np.array([0, 4, -100, 2, 1, 2])
    sequence, words = rng.normal(size=(2, 3, 5)), rng.integers(0, 5, size=(2, 3))
    settings = ({}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"reduction": "sum", "label_smoothing": 0.3})
    for setting in settings:
        chosen = np.where(targets == -100, setting.get("ignore_index", -100), targets)
        ours, theirs = library.Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
        _same_loss(library.CrossEntropyLoss(**setting), functools.partial(F.cross_entropy, **setting),
                   ours, theirs, chosen, f"CrossEntropyLoss with {setting or 'its defaults'}")  # fmt: skip
    ours, theirs = library.Tensor(sequence, requires_grad=True), torch.tensor(sequence, requires_grad=True)
    flat = lambda z, t: F.cross_entropy(z.reshape(-1, 5), t.reshape(-1))
    _same_loss(library.CrossEntropyLoss(), flat, ours, theirs, words, "CrossEntropyLoss on sequences")
    goal = 3 * rng.normal(size=(6, 5))
    pairs = (
        ("HuberLoss", library.HuberLoss(0.7), functools.partial(F.huber_loss, delta=0.7)),
        ("MSELoss", library.MSELoss(), F.mse_loss),
    )
    for name, mine, other in pairs:
        ours, theirs = library.Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
        _same_loss(mine, other, ours, theirs, goal, name)


def _same_loss(mine: Callable, other: Callable, ours: Any, theirs: torch.Tensor, goal: np.ndarray, what: str) -> None:
    loss, want = mine(ours, goal), other(theirs, torch.tensor(goal))
    close(loss, want, what)
    (loss * 3.0).backward()  # the edge has to pass on what arrives
    (want * 3.0).backward()
    close(ours.grad, theirs.grad, f"the gradient of {what}")


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "Nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "RMSprop": ("RMSprop", {"lr": 0.001}),
    "Adam": ("Adam", {"lr": 0.002}),
    "Adam with L2": ("Adam", {"lr": 0.002, "weight_decay": 0.01}),
    "AdamW": ("AdamW", {"lr": 0.002, "weight_decay": 0.1}),
}
"""Settings of the parity runs: a name for each, the class (of both libraries) and its arguments."""


def check_optimizers(library: Any) -> None:
    """Seven settings: 50 steps along given gradients, with a change of the rate."""
    for name, (kind, setting) in OPTIMIZERS.items():
        rng = np.random.default_rng(6)
        ours = [np.asarray(rng.normal(size=shape)) for shape in ((4, 3), (5,), ())]
        theirs = [torch.tensor(p, requires_grad=True) for p in ours]
        mine = getattr(library, kind)(ours, **setting)
        other = getattr(torch.optim, kind)(theirs, **setting)
        for step in range(50):
            if step == 25:
                mine.lr = other.param_groups[0]["lr"] = setting["lr"] / 3
            grads = [rng.normal(size=p.shape) for p in ours]
            for p, g in zip(theirs, grads):
                p.grad = torch.tensor(g)
            mine.step(grads)
            other.step()
            for p, twin in zip(ours, theirs):
                close(p, twin, f"a parameter after step {step + 1} of {name}")


def check_module(library: Any) -> None:
    """Names, order, shapes, shared parts and modes of a nested model."""
    model = small_model(library)
    twin = to_torch(model)
    ours = torch_state({n: p.data for n, p in model.named_parameters()})
    shapes = {n: tuple(p.shape) for n, p in twin.named_parameters()}
    if list(shapes.items()) != [(n, tuple(p.shape)) for n, p in ours.items()]:
        raise AssertionError(f"parameters {[(n, tuple(p.shape)) for n, p in ours.items()]}; torch has {shapes}")
    tied = library.Sequential(model, library.ReLU(), model)
    if len(tied.parameters()) != len(model.parameters()):
        raise AssertionError(f"a model used twice has {len(tied.parameters())} parameters in place of {len(shapes)}")
    for mode in (False, True):
        modes = [part.training for _, part in tied.train(mode).walk() if hasattr(part, "training")]
        if set(modes) != {mode} or len(modes) < 6:
            raise AssertionError(f"after train({mode}) the modules inside have the modes {modes}")


def check_data_loader(library: Any) -> None:
    """Every row once per pass, beside its label; other orders, equal for equal seeds."""
    x, y = np.arange(14.0).reshape(7, 2), np.arange(7)
    plain = list(library.DataLoader(x, y, batch_size=3))
    if [len(b) for b, _ in plain] != [3, 3, 1] or (np.concatenate([b for b, _ in plain]) != x).any():
        raise AssertionError("without shuffling, batches of 3 from 7 rows are the rows in order, 3, 3 and 1")
    loader, again = (library.DataLoader(x, y, batch_size=3, shuffle=True, seed=5) for _ in range(2))
    passes = [np.concatenate([b for _, b in source]) for source in (loader, loader, again, again)]
    for rows in passes:
        if sorted(rows) != list(range(7)):
            raise AssertionError(f"a shuffled pass has the rows {rows.tolist()}")
    if (passes[0] == passes[1]).all() or any((passes[i] != passes[i + 2]).any() for i in (0, 1)):
        raise AssertionError("two passes need two orders, and equal seeds equal ones")
    for b, rows in loader:
        close(b, x[rows], "a shuffled batch, beside its labels")


def check_state_dict(library: Any) -> None:
    """To torch and back, transposed on the way, and to a file and back."""
    model, other, third = (small_model(library, seed) for seed in (0, 1, 2))
    x = np.random.default_rng(8).normal(size=(9, 6))
    model(x)  # running statistics that are not those of the start
    state = library.state_dict(model)
    twin = to_torch(small_model(library, seed=3)).eval()
    missing, unexpected = twin.load_state_dict(torch_state(state), strict=False)
    missing = [name for name in missing if "num_batches" not in name]  # a counter that only torch has
    if missing or unexpected:
        raise AssertionError(f"torch misses {missing} and does not know {unexpected}")
    close(model.eval()(x), twin(torch.tensor(x)), "the output, after the state went to torch,")
    library.load_state_dict(other, from_torch(twin.state_dict(), list(state)))
    close(other.eval()(x), model(x).data, "the output, after the state came back from torch,")
    with tempfile.TemporaryDirectory() as folder:
        library.save(model, Path(folder, "model.npz"))
        library.load(third, Path(folder, "model.npz"))
    close(third.eval()(x), model(x).data, "the output, after the state went through a file,")


def small_model(library: Any, seed: int = 0) -> Any:
    """Six numbers to four, with every kind of state."""
    rng = np.random.default_rng(seed)
    inner = library.Sequential(library.Linear(5, 5, rng), library.LayerNorm(5), library.GELU())
    return library.Sequential(library.Linear(6, 5, rng), library.BatchNorm1d(5), library.ReLU(),
                              library.Dropout(0.0, rng), inner, library.Linear(5, 4, rng))  # fmt: skip


# --- a whole run, step by step --------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def images(count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Training images of Fashion-MNIST, averaged to 14 by 14: ``(count, 196)`` from 0 to 1, and their labels."""
    train, _ = data.load("fashion-mnist")
    pixels = train.images[:count].reshape(count, 14, 2, 14, 2).mean(axis=(2, 4)) / train.maximum
    return pixels.reshape(count, 196), train.labels[:count]


def classifier(library: Any, seed: int = 0, width: int = 32, freeze: bool = True) -> Any:
    """196 pixels to 10 classes: two hidden layers, batch norm and layer norm.

    ``freeze`` leaves the bias in front of the batch norm at zero: its gradient is zero, whatever the data.
    """
    rng = np.random.default_rng(seed)
    model = library.Sequential(
        library.Linear(196, width, rng), library.BatchNorm1d(width), library.ReLU(),
        library.Linear(width, width, rng), library.LayerNorm(width), library.GELU("tanh"),
        library.Linear(width, 10, rng),
    )  # fmt: skip
    model.layers[0].b.requires_grad = not freeze
    return model


def follow(library: Any, optimizer: str, steps: int = 150, freeze: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Train the classifier in both libraries, from the same weights on the same batches.

    Returns arrays with an entry for each step: ``"ours"`` and ``"theirs"``, the losses, and under the name of each
    parameter and buffer (torch's names) the largest difference in it after the step; ``"gap"`` is the largest of all.
    """
    kind, setting = OPTIMIZERS[optimizer]
    model = classifier(library, seed, freeze=freeze)
    twin = to_torch(model)
    make = lambda arrays: getattr(library, kind)(arrays, **setting)
    trainer = library.Trainer(model, library.CrossEntropyLoss(), make)
    other = getattr(torch.optim, kind)(twin.parameters(), **setting)
    rows: list[dict[str, float]] = []
    for x, y in batches(library, steps, seed):
        ours = trainer.step(x, y)
        other.zero_grad()
        loss = F.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        other.step()
        gaps = state_gaps(model, twin)
        rows.append({"ours": ours, "theirs": loss.item(), "gap": max(gaps.values()), **gaps})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def batches(library: Any, steps: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many batches of 32 images with their labels, from as many passes as it takes."""
    loader = library.DataLoader(*images(), batch_size=32, shuffle=True, seed=seed)
    passes = itertools.chain.from_iterable(itertools.repeat(loader))
    return itertools.islice(passes, steps)


def state_gaps(model: Any, twin: nn.Module) -> dict[str, float]:
    """The largest difference in each parameter and buffer, by torch's names."""
    own = {n: p.data for n, p in model.named_parameters()} | dict(model.named_buffers())
    theirs = {n: t.detach().numpy() for n, t in twin.state_dict().items()}
    return {n: float(np.abs(a - theirs[n]).max()) for n, a in renamed(own).items()}


def check_training(library: Any) -> None:
    """On Fashion-MNIST, after each step, parameters and buffers within 1e-5."""
    for name in OPTIMIZERS:
        run = follow(library, name, steps=20)
        if not (run["gap"] <= LIMIT).all():
            at = int(np.argmax(~(run["gap"] <= LIMIT)))
            raise AssertionError(f"with {name}, a parameter differs by {run['gap'][at]:.1e} after step {at + 1}")
        close(run["ours"], run["theirs"], f"the loss with {name}", LIMIT)
        if not run["ours"][-3:].mean() < 0.8 * run["ours"][0]:
            raise AssertionError(f"with {name} the loss went from {run['ours'][0]:.2f} to {run['ours'][-1]:.2f} only")


CHECKS: dict[str, Callable[[Any], None]] = {
    "module": check_module,
    "state dict": check_state_dict,
    "linear": check_linear,
    "activations": check_activations,
    "normalization": check_normalization,
    "dropout": check_dropout,
    "losses": check_losses,
    "optimizers": check_optimizers,
    "data loader": check_data_loader,
    "training": check_training,
}


def run(library: Any, *names: str) -> list[Result]:
    """Every check, or those named; an error in the library is a failure, and its message the reason."""
    results = []
    for name in names or CHECKS:
        try:
            CHECKS[name](library)
        except AssertionError as error:
            results.append(Result(name, False, str(error)))
        except Exception as error:
            results.append(Result(name, False, f"{type(error).__name__}: {error}"))
        else:
            results.append(Result(name, True, (CHECKS[name].__doc__ or "").strip()))
    return results
