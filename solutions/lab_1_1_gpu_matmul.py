"""Lab 1.1: a timer for an asynchronous device, a tiled product, and what it moves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from torch import Tensor

from llm180 import known_mistakes
from llm180.tiles import cdiv, tl


def measure(
    work: Callable[[], object],
    *,
    synchronize: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    warmup: int = 2,
    repeats: int = 5,
) -> float:
    """The median time of ``repeats`` calls of ``work``, in the clock's seconds.

    ``work()`` may return before the device has done it; ``synchronize()`` returns
    when the device has done everything that was asked of it. ``warmup`` calls come
    first and do not count, nor does work that was asked for earlier. ``work`` is
    called ``warmup + repeats`` times. Raises ValueError if ``warmup < 0`` or
    ``repeats < 1``, before any call.
    """
    if warmup < 0 or repeats < 1:
        raise ValueError(
            f"warmup is at least 0 and repeats at least 1, got {warmup} and {repeats}"
        )
    for _ in range(warmup):
        work()
    synchronize()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds)


known_mistakes(
    measure,
    (
        "        work()\n        synchronize()\n",
        "        work()\n",
        "the clock is read when the call has returned, not when the device has done the work",
    ),
    (
        "        work()\n    synchronize()\n",
        "        work()\n",
        "work that is still queued when the timing begins counts into the first time",
    ),
    (
        "statistics.median(seconds)",
        "statistics.fmean(seconds)",
        "a mean follows one slow call; the median does not",
    ),
    (
        "statistics.median(seconds)",
        "min(seconds)",
        "the fastest call is not the median call",
    ),
    (
        "    for _ in range(warmup):\n        work()\n",
        "",
        "without warm-up the first call, with its compilation, is timed",
    ),
)


def matmul_tiled(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    m: int,
    n: int,
    k: int,
    a_row: int,
    a_col: int,
    b_row: int,
    b_col: int,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
) -> None:
    """One program of ``c = a @ b``: the tile of ``c`` at the program's two indices.

    A kernel, in Triton's language. Program ``(i, j)`` computes rows ``i * TILE_M``
    and columns ``j * TILE_N`` onward, of shape ``(TILE_M, TILE_N)``, summed in
    float32 over blocks of ``TILE_K``. Entry ``(r, s)`` of ``a``, shape ``(m, k)``,
    lies at ``a + r * a_row + s * a_col``; ``b``, shape ``(k, n)``, likewise; ``c``,
    shape ``(m, n)``, is row-major. The tiles need not divide the sizes. Nothing
    outside the matrices is read or written, and a program reads each entry that it
    needs once.

    Source: Tillet, Kung and Cox (2019), "Triton", section 3.
    """
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)[:, None]
    cols = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)[None, :]
    total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for start in range(0, k, TILE_K):
        across = start + tl.arange(0, TILE_K)[None, :]
        down = start + tl.arange(0, TILE_K)[:, None]
        in_a = (rows < m) & (across < k)
        in_b = (down < k) & (cols < n)
        # equivalent `other=1.0` `other=-1.0`: beyond k the other block is 0
        left = tl.load(a + rows * a_row + across * a_col, mask=in_a, other=0.0)
        # equivalent `other=1.0` `other=-1.0`: beyond k the other block is 0
        right = tl.load(b + down * b_row + cols * b_col, mask=in_b, other=0.0)
        total += tl.dot(left, right)
    tl.store(c + rows * n + cols, total, mask=(rows < m) & (cols < n))


known_mistakes(
    matmul_tiled,
    (
        "in_a = (rows < m) & (across < k)",
        "in_a = rows < m",
        "the last block along k is not masked in a: it reads past the end of a row",
    ),
    (
        "in_b = (down < k) & (cols < n)",
        "in_b = down < k",
        "the last tile along n is not masked in b: it reads past the end of a row",
    ),
    (
        "mask=in_a, other=0.0)",
        "mask=in_a)",
        "without other=0.0 the entries that the mask leaves out are undefined, and they go into the sum",
    ),
    (
        "total += tl.dot",
        "total = tl.dot",
        "each block's product replaces the sum so far",
    ),
    (
        "down = start + tl.arange",
        "down = tl.arange",
        "b is read at the same rows in every step: the step's start is missing",
    ),
    (
        "rows * a_row + across * a_col",
        "rows * k + across",
        "a is taken to be row-major; a transposed view has other strides",
    ),
    (
        "range(0, k, TILE_K)",
        "range(0, k - TILE_K + 1, TILE_K)",
        "the last block along k is left out where TILE_K does not divide k",
    ),
    (
        "tl.store(c + rows * n + cols, total, mask=(rows < m) & (cols < n))",
        "tl.store(c + rows * n + cols, total, mask=rows < m)",
        "the store is not masked along n: it writes into the next row",
    ),
)


def arithmetic_intensity(
    m: int, n: int, k: int, tile_m: int, tile_n: int, itemsize: int
) -> float:
    """FLOP per byte that a tiled product of ``(m, k)`` and ``(k, n)`` loads and stores.

    A multiplication and an addition are 2 FLOP. Each program computes one
    ``(tile_m, tile_n)`` tile of the result; it loads the rows of the one matrix and
    the columns of the other that it needs, each entry once, and stores its tile.
    Tiles at the edges are cut off: nothing outside the matrices is moved. Entries
    have ``itemsize`` bytes in all three matrices.

    Raises ValueError if an argument is below 1.
    """
    if min(m, n, k, tile_m, tile_n, itemsize) < 1:
        raise ValueError(
            f"sizes are at least 1, got {(m, n, k, tile_m, tile_n, itemsize)}"
        )
    loads = m * k * cdiv(n, tile_n) + k * n * cdiv(m, tile_m)
    return 2 * m * n * k / (itemsize * (loads + m * n))


known_mistakes(
    arithmetic_intensity,
    (
        "2 * m * n * k",
        "m * n * k",
        "a multiplication and an addition count as two operations",
    ),
    ("(loads + m * n)", "loads", "the store of the result is left out"),
    (
        "m * k * cdiv(n, tile_n) + k * n * cdiv(m, tile_m)",
        "m * k * cdiv(m, tile_m) + k * n * cdiv(n, tile_n)",
        "the left matrix is read once per column of tiles, not once per row of tiles",
    ),
    (
        "m * k * cdiv(n, tile_n) + k * n * cdiv(m, tile_m)",
        "m * k * n / tile_n + k * n * m / tile_m",
        "a tile that is cut off at the edge still loads its whole rows: the number of tiles is rounded up",
    ),
    (
        "m * k * cdiv(n, tile_n) + k * n * cdiv(m, tile_m)",
        "m * k + k * n",
        "that is the traffic of one tile as large as the result",
    ),
)
