"""Tile programs: one kernel source, compiled by Triton for a GPU or run in Python without one.

A kernel is a plain function in Triton's language, written against the name ``tl``::

    from llm180.tiles import launch, tl

    def double(x, y, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)

    launch(double, (cdiv(len(x), 64),), x, y, len(x), BLOCK=64)

On CUDA tensors :func:`launch` compiles that source with Triton. On CPU tensors it runs
the programs one after another, counts the bytes they move, and stops where a GPU would
not: at an entry outside the tensor, and at two programs that write the same entry.
Entries that a mask leaves out and that have no ``other`` are NaN.

Only what the labs use of Triton's language is here.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import linecache
import os
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["KernelError", "Launch", "cdiv", "launch", "tl"]


class KernelError(Exception):
    """A kernel does what a GPU would not refuse but must not do; the message says which program did what."""


@dataclass
class Launch:
    """What a launch did: counted when it ran in Python, the compiled text when it ran on a GPU."""

    programs: int
    loaded: int | None = None  # bytes read, each time that a program reads them; None on a GPU
    stored: int | None = None  # bytes written; None on a GPU
    ptx: str = ""  # the GPU's assembly; empty in Python

    @property
    def moved(self) -> int | None:
        """Bytes loaded and stored."""
        return None if self.loaded is None or self.stored is None else self.loaded + self.stored


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up: the number of tiles of length ``b`` that cover ``a``."""
    return -(-a // b)


def launch(kernel: Callable[..., None], grid: tuple[int, ...], *arguments: Any, **meta: Any) -> Launch:
    """Run ``kernel`` once for every index of ``grid`` (one to three lengths).

    Parameters
    ----------
    arguments:
        Tensors, which the kernel takes as pointers to their first entry, and numbers.
        All tensors are on one device, which decides where the kernel runs.
    meta:
        The kernel's ``tl.constexpr`` parameters; on a GPU also Triton's own, as ``num_warps``.

    On a GPU the call returns before the work is done. Raises :class:`KernelError` in Python
    for a read or write outside a tensor, two programs that write one entry, and names
    other than the arguments, ``tl`` and a few builtins.
    """
    kernel = inspect.unwrap(kernel)
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    devices = {t.device.type for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"the tensors of a launch are on one device; these are on {sorted(devices) or 'none'}")
    if devices == {"cuda"}:
        compiled = _jit(kernel)[grid](*arguments, **meta)
        asm = getattr(compiled, "asm", None) or {}
        return Launch(_count(grid), ptx=str(asm.get("ptx", "")))
    return _run(kernel, grid, arguments, meta)


def _count(grid: tuple[int, ...]) -> int:
    total = 1
    for length in grid:
        total *= length
    return total


# --- on a GPU ----------------------------------------------------------------------

_compiled: dict[types.CodeType, Any] = {}


def _jit(kernel: Callable[..., None]) -> Any:
    """The kernel as Triton's, with ``tl`` bound to the real language."""
    code = kernel.__code__
    if code not in _compiled:
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # a float32 product in float32, also where TF32 exists
        import triton
        import triton.language

        source, scope = _for_triton(kernel), {"tl": triton.language, "__name__": kernel.__module__}
        filename = f"<{kernel.__name__} for Triton, {len(_compiled)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), scope)
        _compiled[code] = triton.jit(scope[kernel.__name__])
    return _compiled[code]


def _for_triton(kernel: Callable[..., None]) -> str:
    """The kernel's source without what Triton does not know: decorators, its docstring, types of arguments."""
    node = ast.parse(textwrap.dedent(inspect.getsource(kernel))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise KernelError("a kernel is a function made by def")
    node.decorator_list, node.returns = [], None
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
        if argument.annotation is not None and not ast.unparse(argument.annotation).endswith("constexpr"):
            argument.annotation = None
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(node) + "\n"


# --- in Python ---------------------------------------------------------------------

_BUILTINS = {name: getattr(builtins, name) for name in ("range", "min", "max", "abs", "int", "float", "len")}


class _Block(np.ndarray):
    """A block of numbers. As in Triton a block is a value: ``x += y`` makes a new one, of the same shape and type."""

    def __iadd__(self, other: Any) -> Any:
        return self._same(self + other)

    def __isub__(self, other: Any) -> Any:
        return self._same(self - other)

    def __imul__(self, other: Any) -> Any:
        return self._same(self * other)

    def __itruediv__(self, other: Any) -> Any:
        return self._same(self / other)

    def __matmul__(self, other: Any) -> Any:
        raise KernelError("Triton has no `@` for blocks: use tl.dot")

    __rmatmul__ = __imatmul__ = __matmul__

    def _same(self, new: Any) -> Any:
        if new.shape != self.shape or new.dtype != self.dtype:
            raise KernelError(
                f"a variable keeps its shape and type: {self.shape} {self.dtype} would become {new.shape} {new.dtype}"
            )
        return new

    def to(self, dtype: Any) -> Any:
        """The same numbers in another type."""
        return self.astype(dtype)


def _block(values: Any) -> _Block:
    return np.asarray(values).view(_Block)


@dataclass
class _Buffer:
    """A tensor's storage, from its first entry on, and who wrote which entry in this launch."""

    flat: np.ndarray  # (entries,)
    writer: np.ndarray | None = None  # (entries,) number of the program that wrote, -1 for none


@dataclass
class _Machine:
    """The program that is running, and the traffic so far."""

    grid: tuple[int, ...]
    index: tuple[int, ...] = ()
    number: int = -1
    loaded: int = 0
    stored: int = 0
    buffers: dict[int, _Buffer] = field(default_factory=dict)

    def buffer(self, tensor: Tensor) -> _Buffer:
        """Views of one storage that begin at one entry share a buffer."""
        if tensor.dtype == torch.bfloat16:
            raise KernelError("bfloat16 blocks run on a GPU only: NumPy has no such type")
        key = tensor.data_ptr()
        if key not in self.buffers:
            entries = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
            self.buffers[key] = _Buffer(torch.as_strided(tensor.detach(), (entries,), (1,)).numpy())
        return self.buffers[key]


_machine: _Machine | None = None


def _current() -> _Machine:
    if _machine is None:
        raise KernelError("tl works inside a kernel: call it by launch(kernel, grid, ...)")
    return _machine


def _run(kernel: Callable[..., None], grid: tuple[int, ...], arguments: tuple[Any, ...], meta: dict[str, Any]) -> Launch:
    global _machine
    meta = {k: v for k, v in meta.items() if k not in ("num_warps", "num_stages")}
    scope = {"tl": tl, "__builtins__": _BUILTINS}
    program = types.FunctionType(kernel.__code__, scope, kernel.__name__, kernel.__defaults__, kernel.__closure__)
    program.__kwdefaults__ = kernel.__kwdefaults__
    machine = _Machine(grid)
    values = [_Pointer(machine.buffer(a), 0) if isinstance(a, Tensor) else a for a in arguments]
    before, _machine = _machine, machine
    try:
        with np.errstate(all="ignore"):
            for number, index in enumerate(_indices(grid)):
                machine.index, machine.number = index, number
                program(*values, **meta)
    except NameError as error:
        raise KernelError(f"{error}: a kernel sees its arguments, tl and the builtins {', '.join(_BUILTINS)}") from None
    finally:
        _machine = before
    return Launch(_count(grid), machine.loaded, machine.stored)


def _indices(grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(length) for length in grid))


class _Pointer:
    """A buffer with an offset in entries: a number, or a block of them."""

    def __init__(self, buffer: _Buffer, offset: Any) -> None:
        self.buffer, self.offset = buffer, offset

    def __add__(self, by: Any) -> _Pointer:
        if not (isinstance(by, int) or (isinstance(by, (np.ndarray, np.generic)) and by.dtype.kind in "iu")):
            raise KernelError("a pointer moves by whole numbers")
        return _Pointer(self.buffer, self.offset + by)

    __radd__ = __add__

    def __sub__(self, by: Any) -> _Pointer:
        return self + -by

    __array_ufunc__ = None  # block + pointer comes here


def _fit(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """``values`` broadcast to the shape of a block of pointers."""
    if values.shape == shape:
        return values
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise KernelError(f"{what} of shape {values.shape} for a block of shape {shape}") from None


def _chosen(pointer: Any, mask: Any, verb: str) -> tuple[np.ndarray, np.ndarray | None, _Buffer]:
    """The block's offsets, which of them count (all: None), and the buffer. Raises KernelError for one outside it."""
    if not isinstance(pointer, _Pointer):
        raise KernelError(f"tl.{verb} takes a pointer: an argument that is a tensor, plus offsets")
    at, keep = np.asarray(pointer.offset), None
    if mask is not None:
        keep = _fit(np.asarray(mask, dtype=bool), at.shape, f"tl.{verb}: a mask")
    used = at if keep is None else at[keep]
    entries = len(pointer.buffer.flat)
    if used.size and (used.min() < 0 or used.max() >= entries):
        wrong = used[(used < 0) | (used >= entries)].flat[0]
        raise KernelError(
            f"program {_current().index} {'reads' if verb == 'load' else 'writes'} entry {wrong} of a tensor that has {entries}"
        )
    return at, keep, pointer.buffer


def _wide(x: Any, name: str) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype not in (np.float32, np.float64):
        raise KernelError(f"tl.{name} takes float32 or float64 blocks, not {x.dtype}: change the type first, by .to(tl.float32)")
    return x


def _alike(x: Any, y: Any) -> tuple[Any, Any]:
    """A plain number beside a block gets the block's type."""
    if isinstance(x, np.ndarray) and isinstance(y, (int, float)):
        return x, x.dtype.type(y)
    if isinstance(y, np.ndarray) and isinstance(x, (int, float)):
        return y.dtype.type(x), y
    return x, y


def _blocks_axis(x: Any, axis: int, name: str) -> np.ndarray:
    if not 0 <= axis < np.ndim(x):
        raise KernelError(f"tl.{name} along axis {axis} of a block of shape {np.shape(x)}")
    return np.asarray(x)


class tl:
    """The part of ``triton.language`` that the labs use, in Python."""

    float16, float32, float64 = np.float16, np.float32, np.float64
    int32, int64 = np.int32, np.int64

    class constexpr:
        """Marks a parameter that is known when the kernel is compiled."""

    @staticmethod
    def program_id(axis: int) -> int:
        """This program's index along an axis of the grid."""
        return _current().index[axis]

    @staticmethod
    def num_programs(axis: int) -> int:
        """The grid's length along an axis."""
        return _current().grid[axis]

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        """``a / b`` rounded up."""
        return cdiv(a, b)

    @staticmethod
    def arange(start: int, end: int) -> _Block:
        """The whole numbers from ``start`` to before ``end``; their count is a power of two."""
        count = end - start
        if count < 1 or count & (count - 1):
            raise KernelError(f"tl.arange makes a block whose length is a power of two, not {count}")
        return _block(np.arange(start, end))

    @staticmethod
    def zeros(shape: tuple[int, ...], dtype: Any) -> _Block:
        """A block of zeros."""
        return _block(np.zeros(tuple(shape), dtype))

    @staticmethod
    def full(shape: tuple[int, ...], value: float, dtype: Any) -> _Block:
        """A block that holds one value everywhere."""
        if not isinstance(value, (int, float, np.number)):
            raise KernelError(f"tl.full takes a number, not {value!r}")
        return _block(np.full(tuple(shape), value, dtype))

    @staticmethod
    def exp(x: Any) -> _Block:
        """e to the power of each entry; float32 or float64, as on a GPU."""
        return _block(np.exp(_wide(x, "exp")))

    @staticmethod
    def log(x: Any) -> _Block:
        """The natural logarithm of each entry; float32 or float64, as on a GPU."""
        return _block(np.log(_wide(x, "log")))

    @staticmethod
    def maximum(x: Any, y: Any) -> _Block:
        """The larger of two entries, entry by entry."""
        return _block(np.fmax(x, y))

    @staticmethod
    def where(condition: Any, x: Any, y: Any) -> _Block:
        """``x`` where ``condition`` is true, else ``y``; a plain number takes the block's type."""
        return _block(np.where(condition, *_alike(x, y)))

    @staticmethod
    def max(x: Any, axis: int) -> _Block:
        """The largest entry along an axis, which goes away."""
        return _block(np.max(_blocks_axis(x, axis, "max"), axis))

    @staticmethod
    def sum(x: Any, axis: int) -> _Block:
        """The sum along an axis, which goes away; in the block's own type."""
        return _block(np.sum(_blocks_axis(x, axis, "sum"), axis, dtype=x.dtype))

    @staticmethod
    def trans(x: Any) -> _Block:
        """An (m, n) block turned into (n, m)."""
        if np.ndim(x) != 2:
            raise KernelError(f"tl.trans takes a block with two axes, not {np.shape(x)}")
        return _block(np.asarray(x).T)

    @staticmethod
    def load(pointer: Any, mask: Any = None, other: Any = None) -> _Block:
        """The entries at ``pointer``; where ``mask`` is false, ``other`` (NaN when not given)."""
        at, keep, buffer = _chosen(pointer, mask, "load")
        size = buffer.flat.itemsize
        if keep is None:
            _current().loaded += at.size * size
            return _block(buffer.flat[at])
        _current().loaded += int(np.count_nonzero(keep)) * size
        missing = other if other is not None else (np.nan if buffer.flat.dtype.kind == "f" else -(1 << 30))
        block = np.full(at.shape, missing, buffer.flat.dtype)
        block[keep] = buffer.flat[at[keep]]
        return _block(block)

    @staticmethod
    def store(pointer: Any, value: Any, mask: Any = None) -> None:
        """Write ``value`` at ``pointer`` where ``mask`` is true, in the tensor's own type."""
        at, keep, buffer = _chosen(pointer, mask, "store")
        machine = _current()
        value = _fit(np.asarray(value), at.shape, "tl.store: a value")
        where, what = (at.ravel(), value.ravel()) if keep is None else (at[keep], value[keep])
        if buffer.writer is None:
            buffer.writer = np.full(len(buffer.flat), -1)
        others = buffer.writer[where]
        clash = (others >= 0) & (others != machine.number)
        if clash.any():
            first = list(_indices(machine.grid))[others[clash][0]]
            raise KernelError(
                f"program {machine.index} writes entry {where[clash][0]}, which program {first} has written: "
                "on a GPU either may come last"
            )
        buffer.writer[where] = machine.number
        buffer.flat[where] = what
        machine.stored += where.size * buffer.flat.itemsize

    @staticmethod
    def dot(x: Any, y: Any, acc: Any = None) -> _Block:
        """The product of an (m, k) and a (k, n) block, summed in float32 (float64 for float64), plus ``acc``."""
        if np.ndim(x) != 2 or np.ndim(y) != 2 or x.shape[1] != y.shape[0]:
            raise KernelError(f"tl.dot takes blocks (m, k) and (k, n), not {np.shape(x)} and {np.shape(y)}")
        if x.dtype != y.dtype:
            raise KernelError(f"tl.dot takes blocks of one type, not {x.dtype} and {y.dtype}")
        wide = np.float64 if x.dtype == np.float64 else np.float32
        product = _block(np.asarray(x, wide) @ np.asarray(y, wide))
        return product if acc is None else acc + product
