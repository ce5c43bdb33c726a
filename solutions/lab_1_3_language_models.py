"""Lab 1.3: streams of a text, a step in mixed precision, and batches of a token budget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm180 import known_mistakes


def streams(text: Tensor, rows: int, window: int) -> tuple[Tensor, Tensor]:
    """Cut a text into parallel streams for truncated backpropagation through time.

    With ``W = (N - 1) // (rows * window)``, row ``b`` is the text from place
    ``b * W * window`` on, ``W * window`` tokens long; what is left at the end of the
    text is not used. Window ``w`` holds the next ``window`` tokens of every row.

    Parameters
    ----------
    text:
        ``(N,)``, of any type, device and stride; ``N`` is at least
        ``rows * window + 1``.
    rows, window:
        At least 1.

    Returns
    -------
    inputs, targets, both ``(W, rows, window)`` and views of the text, without a copy:
    ``inputs[w, b, j]`` is token ``(b * W + w) * window + j`` of the text, and
    ``targets[w, b, j]`` is the token after it.

    Raises ValueError if ``rows`` or ``window`` is below 1, if the text does not
    have exactly one axis, or if it is too short.
    """
    if rows < 1 or window < 1 or text.ndim != 1:
        raise ValueError("need rows >= 1, window >= 1 and a text of one axis")
    windows = (len(text) - 1) // (rows * window)
    if windows < 1:
        raise ValueError(f"{len(text)} tokens are too short for {rows} x {window} + 1")
    used = rows * windows * window
    shape = rows, windows, window
    inputs, targets = text[:used].view(shape), text[1 : used + 1].view(shape)
    # equivalent `inputs.transpose(1, 0)` `targets.transpose(1, 0)`: the same swap
    return inputs.transpose(0, 1), targets.transpose(0, 1)


known_mistakes(
    streams,
    (
        "    shape = rows, windows, window\n    inputs, targets = text[:used].view(shape), text[1 : used + 1].view(shape)\n    return inputs.transpose(0, 1), targets.transpose(0, 1)",
        "    shape = windows, rows, window\n    return text[:used].view(shape), text[1 : used + 1].view(shape)",
        "row 0 of the next window does not go on where row 0 of this one ended: the state is carried into a foreign text",
    ),
    (
        "windows = (len(text) - 1) // (rows * window)",
        "windows = len(text) // (rows * window)",
        "the last input needs a token after it: N tokens give N - 1 pairs",
    ),
    (
        "text[1 : used + 1].view(shape)",
        "text.roll(-1)[:used].view(shape)",
        "roll makes a copy of the whole text; a slice is a view",
    ),
    (
        "text[1 : used + 1].view(shape)",
        "text[:used].view(shape)",
        "the targets are the inputs: the model learns to copy",
    ),
    (
        "return inputs.transpose(0, 1), targets.transpose(0, 1)",
        "return inputs.transpose(0, 1).contiguous(), targets.transpose(0, 1).contiguous()",
        "contiguous() copies the text; a transposed view is enough",
    ),
    (
        "    inputs, targets = text[:used].view(shape), text[1 : used + 1].view(shape)\n    return inputs.transpose(0, 1), targets.transpose(0, 1)",
        "    inputs, targets = text[:used].view(shape), text[1 : used + 1].view(shape)\n    return inputs.reshape(windows, rows, window), targets.reshape(windows, rows, window)",
        "a reshape does not swap axes: it cuts the same run of tokens at other places",
    ),
    (
        "text[:used].view(shape), text[1 : used + 1].view(shape)",
        "text.contiguous()[:used].view(shape), text.contiguous()[1 : used + 1].view(shape)",
        "a text with a stride is copied; a view of it can be cut as well",
    ),
)


def amp_step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip: float,
) -> Tensor:
    """One step of an optimizer with loss scaling and gradient clipping.

    The gradients are those of ``loss`` alone; what was in ``.grad`` before does not
    count. If, as one vector over all parameters of the optimizer, they are longer than
    ``clip``, they are scaled down to that length. The result of a step does not depend
    on the scaler's factor, as long as nothing overflows. If something does, parameters
    and optimizer stay as they are. In both cases the scaler adapts its factor, once.

    Parameters
    ----------
    loss:
        A scalar with a graph, not scaled.
    optimizer:
        With one parameter group or more; some parameters may not be part of the graph.
    scaler:
        Switched on or off. When it is off, this is an ordinary clipped step.
    clip:
        Above 0.

    Returns
    -------
    The norm of the gradient of ``loss`` before clipping, a tensor on its device, so
    that nobody waits for the GPU; not finite if something overflowed.

    Raises ValueError if ``clip`` is not above 0; nothing has moved then.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", sec. 3.2.
    """
    if not clip > 0:
        raise ValueError(f"clip is above 0, got {clip}")
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    scaler.step(optimizer)
    scaler.update()
    return norm


known_mistakes(
    amp_step,
    (
        '    scaler.unscale_(optimizer)\n    parameters = [p for group in optimizer.param_groups for p in group["params"]]\n    norm = nn.utils.clip_grad_norm_(parameters, clip)\n',
        '    parameters = [p for group in optimizer.param_groups for p in group["params"]]\n    norm = nn.utils.clip_grad_norm_(parameters, clip)\n    scaler.unscale_(optimizer)\n',
        "the scaled gradient is clipped, so after unscaling it is shorter than clip by the whole factor",
    ),
    (
        "    scaler.unscale_(optimizer)\n",
        "",
        "step() unscales after the clipping: the limit was applied to the scaled gradient",
    ),
    (
        "    scaler.scale(loss).backward()\n",
        "    loss.backward()\n",
        "the loss is not scaled, and the gradient is divided by the factor all the same",
    ),
    (
        "    optimizer.zero_grad()\n",
        "",
        "gradients from before are added to these",
    ),
    (
        "    scaler.step(optimizer)\n",
        "    optimizer.step()\n",
        "an overflowed gradient reaches the optimizer; scaler.step would skip it",
    ),
    (
        "    scaler.update()\n",
        "",
        "the factor never changes: after an overflow, each step overflows again",
    ),
    (
        "nn.utils.clip_grad_norm_(parameters, clip)",
        "nn.utils.clip_grad_value_(parameters, clip) or nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])",
        "each entry is clipped by itself, which turns the gradient",
    ),
    (
        '[p for group in optimizer.param_groups for p in group["params"]]',
        'optimizer.param_groups[0]["params"]',
        "only the first group is clipped; the norm is over all parameters",
    ),
    (
        "    return norm\n",
        "    return norm.item()\n",
        "item() waits for the GPU in every step; return the tensor",
    ),
)


def pack_lines(
    lengths: Tensor, budget: int, generator: torch.Generator
) -> list[Tensor]:
    """Batches of lines of similar length, none above a budget of tokens with padding.

    The lines are ordered by length, those of equal length at random. From the shortest
    on, each batch takes as many lines as fit: their number times the length of the
    longest is at most ``budget``. Then the batches are put in random order.

    Parameters
    ----------
    lengths:
        ``(N,)``, int64, on the CPU: tokens of each line, at least 1. N may be 0.
    budget:
        Tokens of a batch, padding included; at least the longest line.
    generator:
        The only source of chance.

    Returns
    -------
    For each batch the places of its lines in ``lengths``, int64; each line is in
    exactly one batch. An empty list if there are no lines.

    Raises ValueError if a length is below 1 or above ``budget``.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= budget:
        raise ValueError(f"a length is below 1 or above the budget of {budget} tokens")
    order = torch.randperm(len(lengths), generator=generator)
    order = order[lengths[order].argsort()]
    sizes, start = [], 0
    for i, longest in enumerate(lengths[order].tolist()):
        if (i + 1 - start) * longest > budget:
            sizes.append(i - start)
            start = i
    batches = order.split([*sizes, len(order) - start]) if len(order) else ()
    shuffled = torch.randperm(len(batches), generator=generator)
    return [batches[i] for i in shuffled]


known_mistakes(
    pack_lines,
    (
        "    order = order[lengths[order].argsort()]\n",
        "",
        "the lines are not ordered by length, so most batches are mostly padding",
    ),
    (
        "    order = torch.randperm(len(lengths), generator=generator)\n    order = order[lengths[order].argsort()]\n",
        "    order = lengths.argsort()\n",
        "lines of equal length come in the same order each time: every epoch has the same batches",
    ),
    (
        "    return [batches[i] for i in shuffled]",
        "    return list(batches)",
        "each epoch goes from short lines to long ones; shuffle the batches",
    ),
    (
        "if (i + 1 - start) * longest > budget:",
        "if sum(lengths[order[start : i + 1]].tolist()) > budget:",
        "the padding is not counted: the memory of a batch is lines times the longest",
    ),
    (
        "if (i + 1 - start) * longest > budget:",
        "if (i + 1 - start) * longest >= budget:",
        "a batch that meets the budget exactly is allowed",
    ),
    (
        "if (i + 1 - start) * longest > budget:",
        "if (i - start) * longest > budget:",
        "the line that comes in is not counted: batches are too large by one line",
    ),
    (
        "order.split([*sizes, len(order) - start]) if len(order) else ()",
        "order[:start].split(sizes) if len(order) else ()",
        "the last batch is dropped, and with it always the longest lines",
    ),
    (
        "torch.randperm(len(batches), generator=generator)",
        "torch.randperm(len(batches))",
        "some of the chance comes from torch's global generator, not from the one given",
    ),
)
