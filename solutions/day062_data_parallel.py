"""Day 62: data parallelism: buckets, a trainer that overlaps, and shards of a data set."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from llm180 import known_mistakes


def assign_buckets(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Group gradients into buckets, in the order in which backward produces them.

    Parameters
    ----------
    sizes:
        Bytes of each parameter's gradient, in the order of the model, first layer
        first.
    limit:
        Bytes that a bucket may hold, at least 1. A gradient that is larger has a
        bucket of its own.

    Returns
    -------
    Buckets of indices into ``sizes``. Read one after another, the buckets count
    down from the last parameter to the first. A bucket is closed only when the next
    gradient would take it past ``limit``.

    Raises ValueError if ``limit`` is below 1.

    Source: Li et al. 2020, "PyTorch Distributed", sec. 3.2.3.
    """
    if limit < 1:
        raise ValueError(f"a bucket must hold at least 1 byte, got {limit}")
    buckets: list[list[int]] = []
    # equivalent `pass` `filled = -1` `filled = 1`: the first bucket sets it
    filled = 0
    for i in reversed(range(len(sizes))):
        if not buckets or filled + sizes[i] > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += sizes[i]
    return buckets


known_mistakes(
    assign_buckets,
    (
        "reversed(range(len(sizes)))",
        "range(len(sizes))",
        "the buckets begin with the first layer, whose gradient comes last: nothing can start before the end of backward",
    ),
    (
        "            filled = 0\n",
        "",
        "the bytes of the bucket before are still counted: after the first full bucket each gradient travels alone",
    ),
    (
        "filled + sizes[i] > limit",
        "filled >= limit",
        "a bucket is closed after it went past the limit, not before",
    ),
    (
        "filled + sizes[i] > limit",
        "filled + sizes[i] >= limit",
        "a bucket that is filled to the last byte is closed one gradient too early",
    ),
    ("if limit < 1:", "if False:", "a limit below 1 byte is not refused"),
)


class DataParallelTrainer:
    """One replica of a model per rank, kept equal by averaging gradients.

    Each rank makes the trainer with its own copy of the model, then calls
    ``step`` with its own part of each global batch. The parts may differ in
    length. After each step the parameters on all ranks are those that one process
    would have after a step on the global batch.

    All parameters have one dtype. A parameter gets at most one gradient per step.

    Source: Li et al. 2020, "PyTorch Distributed", secs. 3 and 4.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        bucket_bytes: int = 1 << 20,
    ) -> None:
        """Make the replicas equal, and ask autograd to call ``on_gradient``.

        ``loss(model(x), y)`` is the *mean* over the examples of ``x``.
        """
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        sizes = [p.numel() * p.element_size() for p in self.parameters]
        self.buckets = assign_buckets(sizes, bucket_bytes)
        self.bucket_of = {i: b for b, bucket in enumerate(self.buckets) for i in bucket}
        # equivalent `pass`: every step sets it
        self.missing: list[int] = []  # gradients that each bucket still waits for
        # equivalent `pass`: every step sets it
        self.flying: list[tuple[torch.Tensor, dist.Work]] = []  # buckets on their way
        self.broadcast_state()
        for i, parameter in enumerate(self.parameters):
            hook = functools.partial(self.on_gradient, i)
            parameter.register_post_accumulate_grad_hook(hook)

    def broadcast_state(self) -> None:
        """Give every parameter and buffer of the model rank 0's value, in place."""
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            # equivalent `dist.broadcast(tensor, src=0)`: a collective writes below
            # autograd
            dist.broadcast(tensor.detach(), src=0)

    def on_gradient(self, i: int, parameter: torch.Tensor) -> None:
        """Called by autograd when ``parameters[i].grad`` is complete.

        Launches each bucket that is complete and whose turn it is.
        """
        self.missing[self.bucket_of[i]] -= 1
        while self.missing[len(self.flying) :][:1] == [0]:  # the next bucket, if any
            self.launch()

    def launch(self) -> None:
        """Start summing the next bucket over the ranks, without waiting for it.

        A gradient that this rank does not have counts as zeros.
        """
        pieces = []
        for i in self.buckets[len(self.flying)]:
            p = self.parameters[i]
            pieces.append(
                (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            )
        flat = torch.cat(pieces)
        self.flying.append((flat, dist.all_reduce(flat, async_op=True)))

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """One optimizer step on the global batch; ``x``, ``y`` is this rank's part.

        Parameters
        ----------
        x, y:
            ``(n, ...)`` each; ``n`` may differ from rank to rank and may be 0, but
            not on all ranks.

        Returns
        -------
        The mean loss over the global batch, before the step; equal on all ranks.

        A parameter that got a gradient on no rank keeps ``grad`` None, so that the
        optimizer leaves it alone.
        """
        n, total = len(x), 0.0
        self.optimizer.zero_grad()
        self.missing = [len(bucket) for bucket in self.buckets]
        self.flying = []
        if n:
            loss = self.loss(self.model(x), y) * n
            loss.backward()
            # equivalent `total = (loss)`: torch.tensor takes the number out
            total = float(loss)
        used = [p.grad is not None for p in self.parameters]
        # equivalent `len(self.flying) != len(self.buckets)`: never more than all
        while len(self.flying) < len(self.buckets):
            self.launch()
        facts = torch.tensor([n, total, *used], dtype=torch.float64)
        dist.all_reduce(facts)
        count, total, *used = facts.tolist()
        for bucket, (flat, work) in zip(self.buckets, self.flying):
            work.wait()
            pieces = flat.split([self.parameters[i].numel() for i in bucket])
            for i, piece in zip(bucket, pieces):
                p = self.parameters[i]
                p.grad = (piece / count).view_as(p) if used[i] else None
        self.optimizer.step()
        return total / count


known_mistakes(
    DataParallelTrainer,
    (
        "(piece / count)",
        "(piece / count * dist.get_world_size())",
        "the gradients are summed over the ranks where the mean is wanted: the learning rate is in effect multiplied by their number",
    ),
    (
        "n, total = len(x), 0.0",
        "n, total = 1, 0.0",
        "every rank's mean counts the same, however few examples it is a mean of",
    ),
    (
        "        self.broadcast_state()\n",
        "",
        "nothing is broadcast: replicas that begin apart stay apart, though they take equal steps",
    ),
    (
        "[*self.model.parameters(), *self.model.buffers()]",
        "[*self.model.parameters()]",
        "the buffers are not broadcast, only the parameters",
    ),
    (
        "            work.wait()\n",
        "",
        "the result is read without waiting for the all-reduce",
    ),
    (
        "        self.optimizer.zero_grad()\n",
        "",
        "the gradients of the step before are still there, and the new ones are added to them",
    ),
    (
        "[:1] == [0]:",
        "[:1] == [-1]:",
        "no bucket is launched before backward is over: nothing overlaps",
    ),
    (
        "dist.all_reduce(flat, async_op=True)",
        "dist.all_reduce(flat) or dist.barrier(async_op=True)",
        "the all-reduce is not asynchronous: backward stands still until it is over",
    ),
    (
        "if used[i] else None",
        "if True else None",
        "a parameter that no rank used gets a gradient of zeros, so momentum and weight decay still move it",
    ),
    (
        "count, total, *used = facts.tolist()",
        "count, total, *_ = facts.tolist()",
        "each rank decides alone which parameters were used: a rank that did not use one leaves it as it is, and the replicas part",
    ),
    (
        "            loss.backward()\n",
        "            loss.backward()\n            self.optimizer.step()\n",
        "the optimizer steps before the gradients are averaged",
    ),
)


def shard_sampler(
    n: int,
    rank: int,
    ranks: int,
    *,
    epoch: int = 0,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
) -> list[int]:
    """The examples that one rank visits in one epoch, in order.

    Parameters
    ----------
    n:
        Number of examples in the data set.
    rank, ranks:
        Which part, of how many.
    epoch, seed:
        With ``shuffle``, all ranks permute the data set alike:
        ``torch.randperm(n, generator=g)`` with ``g`` seeded with ``seed + epoch``.
        Without, the order is 0, 1, 2, ...
    drop_last:
        All parts have equal length. Where ``ranks`` does not divide ``n``, the
        order is cut at its end if this is true; else it is padded with its own
        beginning, repeated as often as needed.

    Returns
    -------
    Every ``ranks``-th index of that order, beginning with number ``rank``.

    Raises ValueError if ``rank`` is not one of 0 to ``ranks - 1``.

    Source: ``torch.utils.data.DistributedSampler``.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be one of 0 to {ranks - 1}, got {rank}")
    order = list(range(n))
    if shuffle:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(n, generator=generator).tolist()
    if drop_last:
        size = n // ranks * ranks
    else:
        size = math.ceil(n / ranks) * ranks
    order = [order[i % n] for i in range(size)]
    return order[rank::ranks]


known_mistakes(
    shard_sampler,
    (
        "manual_seed(seed + epoch)",
        "manual_seed(seed)",
        "the epoch does not enter: every epoch has the same order, as with a DistributedSampler whose set_epoch is never called",
    ),
    (
        "manual_seed(seed + epoch)",
        "manual_seed(seed + epoch + rank)",
        "each rank shuffles in its own way, so the parts overlap and leave examples out",
    ),
    (
        "return order[rank::ranks]",
        "return order[::ranks]",
        "every rank gets the same part",
    ),
    (
        "return order[rank::ranks]",
        "return order[rank * (size // ranks) : (rank + 1) * (size // ranks)]",
        "the parts are contiguous pieces; take every ranks-th index",
    ),
    (
        "size = math.ceil(n / ranks) * ranks",
        "size = n",
        "the order is not padded: some ranks have one example more, and in the end they wait for the others",
    ),
    (
        "if drop_last:",
        "if False:",
        "drop_last is ignored: the order is padded where it should be cut",
    ),
    (
        "if not 0 <= rank < ranks:",
        "if False:",
        "a rank outside 0 to ranks - 1 is not refused",
    ),
)
