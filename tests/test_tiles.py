"""Tile programs: what the Python machine computes, counts and refuses, and the source that Triton is given."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from llm180 import tiles
from llm180.tiles import KernelError, cdiv, launch, tl


def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)


def typed(x: torch.Tensor, y: torch.Tensor, n: int, BLOCK: tl.constexpr) -> None:
    """A docstring."""
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at))


def test_computes_and_counts() -> None:
    x, y = torch.arange(10.0), torch.zeros(10)
    done = launch(double, (cdiv(10, 4),), x, y, 10, BLOCK=4)
    assert y.tolist() == (2 * x).tolist()
    assert (done.programs, done.loaded, done.stored, done.moved) == (3, 40, 40, 80)


def test_views_begin_at_their_first_entry() -> None:
    x, y = torch.arange(10.0), torch.zeros(10)
    launch(double, (1,), x[4:], y[6:], 4, BLOCK=4)
    assert y.tolist() == [0] * 6 + [8, 10, 12, 14]


def test_missing_entries_are_nan_without_other() -> None:
    def kernel(x, y):
        at = tl.arange(0, 4)
        tl.store(y + at, tl.load(x + at, mask=at < 2))

    y = torch.zeros(4)
    launch(kernel, (1,), torch.ones(4), y)
    assert y[:2].tolist() == [1, 1] and all(math.isnan(v) for v in y[2:].tolist())


def test_functions_of_blocks() -> None:
    def kernel(x, y, z):
        at = tl.arange(0, 2)[:, None] * 4 + tl.arange(0, 4)[None, :]
        block = tl.load(x + at, mask=at < 7, other=float("-inf"))
        high = tl.maximum(tl.full((2,), 3.0, tl.float32), tl.max(block, 1))
        weights = tl.exp(block - high[:, None])
        tl.store(y + tl.arange(0, 2), high + tl.log(tl.sum(weights, 1)))
        tl.store(z + tl.arange(0, 4)[:, None] * 2 + tl.arange(0, 2)[None, :], tl.trans(tl.where(at < 7, block, 9.0)))

    x, y, z = torch.arange(8.0), torch.zeros(2), torch.zeros(4, 2)
    launch(kernel, (1,), x, y, z)
    assert torch.allclose(y, torch.stack([x[:4].logsumexp(0), x[4:7].logsumexp(0)]))
    assert z.T.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 9]


def test_blocks_are_values_that_keep_their_type() -> None:
    def aliased(y):
        total = tl.zeros((2,), tl.float32)
        before = total
        total += 1.0
        tl.store(y + tl.arange(0, 2), before)

    y = torch.ones(2)
    launch(aliased, (1,), y)
    assert y.tolist() == [0, 0]

    def widened(x):
        total = tl.zeros((2,), tl.float16)
        total += tl.load(x + tl.arange(0, 2))

    with pytest.raises(KernelError, match="keeps its shape and type"):
        launch(widened, (1,), torch.ones(2))


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("tl.load(x + tl.arange(0, 8))", "reads entry 5"),
        ("tl.load(x - 1)", "reads entry -1"),
        ("tl.store(x + tl.program_id(0) * 0, 1.0)", r"program \(1,\) writes entry 0, which program \(0,\)"),
        ("tl.store(x + 9, 1.0)", "writes entry 9"),
        ("tl.arange(0, 3)", "power of two"),
        ("tl.load(3)", "takes a pointer"),
        ("x + 0.5", "whole numbers"),
        ("torch.ones(2)", "a kernel sees"),
        ("tl.load(x + tl.arange(0, 4), mask=tl.arange(0, 2) < 1)", "a mask of shape"),
        ("tl.dot(tl.zeros((2, 4), tl.float32), tl.zeros((2, 4), tl.float32))", "blocks"),
        ("tl.dot(tl.zeros((2, 2), tl.float16), tl.zeros((2, 2), tl.float32))", "one type"),
        ("tl.zeros((2, 2), tl.float32) @ tl.zeros((2, 2), tl.float32)", "use tl.dot"),
        ("tl.exp(tl.zeros((2,), tl.float16))", "tl.exp takes float32"),
        ("tl.max(tl.zeros((2,), tl.float32), 1)", "along axis 1 of a block of shape"),
        ("tl.trans(tl.zeros((2,), tl.float32))", "two axes"),
    ],
)
def test_refuses(body: str, match: str) -> None:
    scope: dict = {"tl": tl}
    exec(f"def kernel(x):\n    {body}", scope)
    with pytest.raises(KernelError, match=match):
        launch(scope["kernel"], (2,), torch.ones(5))


def test_needs_a_launch_and_one_device() -> None:
    with pytest.raises(KernelError, match="inside a kernel"):
        tl.program_id(0)
    with pytest.raises(ValueError, match="one device"):
        launch(double, (1,), 3)


def test_triton_is_given_plain_source() -> None:
    source = tiles._for_triton(typed)
    assert "torch" not in source and "docstring" not in source and "int" not in source
    assert source.startswith("def typed(x, y, n, BLOCK: tl.constexpr):")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("type_", "tensor_cores"), [("fp32", False), ("fp16", True)])
def test_compiles_for_a_gpu_that_is_not_there(type_: str, tensor_cores: bool) -> None:
    import triton
    from solutions.lab_1_1_gpu_matmul import matmul_tiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fixed = {"TILE_M": 64, "TILE_N": 64, "TILE_K": 16, "a_col": 1, "b_col": 1}
    kernel = tiles._jit(matmul_tiled)
    signature = {p.name: "constexpr" if p.name in fixed else "i32" for p in kernel.params}
    signature |= dict.fromkeys("abc", f"*{type_}")
    for capability in (75, 80):
        source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
        text = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
        assert ("mma.sync" in text) == (tensor_cores and capability >= 80)
        assert "tf32" not in text


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("causal", [False, True])
def test_attention_compiles_for_a_gpu_that_is_not_there(causal: bool) -> None:
    import triton
    from solutions.lab_2_4_flash_attention import flash_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fixed = {"CAUSAL": causal, "D": 64, "BLOCK_Q": 64, "BLOCK_K": 32}
    kernel = tiles._jit(flash_kernel)
    signature = {p.name: "constexpr" if p.name in fixed else "i32" for p in kernel.params}
    signature |= dict.fromkeys(("q", "k", "v", "out", "lse"), "*fp32") | {"scale": "fp32"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    compiled = triton.compile(source, target=GPUTarget("cuda", 75, 32))
    assert "tf32" not in compiled.asm["ptx"] and compiled.metadata.shared <= 64 * 1024  # what a T4 has
