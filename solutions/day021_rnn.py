"""Day 21: a recurrent network, its gradient through time, and the clipping that tames it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llm180 import known_mistakes


def rnn_forward(
    x: np.ndarray,
    W: np.ndarray,
    U: np.ndarray,
    b: np.ndarray,
    h0: np.ndarray | None = None,
) -> np.ndarray:
    """All hidden states of a recurrent layer, ``h_t = tanh(x_t W + h_{t-1} U + b)``.

    Parameters
    ----------
    x:
        A batch of sequences, shape (B, n, d); B and n may be 0.
    W:
        Weights from input to hidden state, shape (d, h).
    U:
        Weights from one hidden state to the next, shape (h, h).
    b:
        Bias, shape (h,).
    h0:
        State before the first step, shape (B, h); zeros if None.

    Returns
    -------
    The states after each step, float64, shape (B, n, h). The arguments are left
    unchanged.

    Raises ValueError that says ``shape`` if the shapes do not fit together; nothing is
    broadcast.

    Source: Elman 1990, "Finding structure in time"; equal to torch.nn.RNN with
    ``batch_first``, whose weights are the transposes and whose two biases add to b.
    """
    if x.ndim != 3 or W.ndim != 2 or x.shape[2] != W.shape[0]:
        raise ValueError(f"shapes of x {x.shape} and W {W.shape} do not fit")
    B, n, _ = x.shape
    h = W.shape[1]
    state = np.zeros((B, h)) if h0 is None else h0
    if U.shape != (h, h) or b.shape != (h,) or state.shape != (B, h):
        raise ValueError(f"shapes {U.shape}, {b.shape}, {state.shape} do not fit")
    states = np.empty((B, n, h))
    fed = x @ W + b  # all inputs at once; only the recurrence has to wait
    for t in range(n):
        state = states[:, t] = np.tanh(fed[:, t] + state @ U)
    return states


known_mistakes(
    rnn_forward,
    (
        "np.tanh(fed[:, t] + state @ U)",
        "np.tanh(fed[:, t] + state @ U.T)",
        "states are rows here, so the old state stands left of U, not of its transpose",
    ),
    (
        "state = states[:, t] = np.tanh",
        "states[:, t] = np.tanh",
        "every step starts from the first state: nothing is remembered",
    ),
    (
        "np.zeros((B, h)) if h0 is None else h0",
        "np.zeros((B, h))",
        "the state that was passed in is ignored; a long text is read in pieces by it",
    ),
    (
        "np.tanh(fed[:, t] + state @ U)",
        "np.tanh(fed[:, t]) + state @ U",
        "the tanh must hold the whole sum; a state outside of it grows without bound",
    ),
    (
        "state = states[:, t] = np.tanh(fed[:, t] + state @ U)",
        "state = np.tanh(fed[:, t] + state @ U)\n        states[:, -1 - t] = state",
        "the states come out in reverse order",
    ),
    (
        "U.shape != (h, h) or b.shape != (h,) or state.shape != (B, h)",
        "U.shape != (h, h)",
        "a bias or a first state of another shape is broadcast in silence",
    ),
    (
        "fed = x @ W + b",
        "fed = x @ W",
        "the bias is missing",
    ),
)


class Gradients(NamedTuple):
    """A gradient for each argument of ``rnn_forward``, of the same shape."""

    x: np.ndarray
    W: np.ndarray
    U: np.ndarray
    b: np.ndarray
    h0: np.ndarray


def rnn_bptt(
    dh: np.ndarray,
    x: np.ndarray,
    states: np.ndarray,
    W: np.ndarray,
    U: np.ndarray,
    h0: np.ndarray | None = None,
    truncate: int | None = None,
) -> Gradients:
    """Backpropagation through time for ``states = rnn_forward(x, W, U, b, h0)``.

    Parameters
    ----------
    dh:
        Gradient of the loss in each state as far as the loss reads that state
        itself, not through later ones, shape (B, n, h).
    x, states, W, U, h0:
        As in ``rnn_forward``; shapes (B, n, d), (B, n, h), (d, h), (h, h), (B, h).
    truncate:
        If given, at least 1: the sequence is cut into chunks of so many steps, from
        the first step on; the last one may be shorter. States pass from chunk to
        chunk, and gradients do not.

    Returns
    -------
    The gradients in x, W, U, b and h0, float64; that in h0 also where h0 is None, so
    zeros. The arguments are left unchanged.

    Raises ValueError that says ``shape`` if ``dh`` and ``states`` differ in it, and one
    that names ``truncate`` if that is below 1.

    Source: Werbos 1990, "Backpropagation through time: what it does and how to do
    it"; derived on the page.
    """
    B, n, h = states.shape
    if dh.shape != states.shape:
        raise ValueError(f"dh has the shape {dh.shape}, the states {states.shape}")
    if truncate is not None and truncate < 1:
        raise ValueError(f"truncate is at least 1, got {truncate}")
    first = np.zeros((B, h)) if h0 is None else h0
    before = np.concatenate([first[:, None], states], axis=1)[:, :n]
    dz = np.empty((B, n, h))  # gradient in what stands inside the tanh
    later = np.zeros((B, h))  # what comes back from the steps after t
    for t in reversed(range(n)):
        dz[:, t] = (dh[:, t] + later) * (1 - states[:, t] ** 2)
        later = dz[:, t] @ U.T
        # equivalent `t != 0` `t % truncate <= 0`: neither is ever negative
        if truncate is not None and t > 0 and t % truncate == 0:
            later = np.zeros((B, h))
    return Gradients(
        x=dz @ W.T,
        W=np.tensordot(x, dz, ((0, 1), (0, 1))),
        U=np.tensordot(before, dz, ((0, 1), (0, 1))),
        b=dz.sum(axis=(0, 1)),
        h0=later,
    )


known_mistakes(
    rnn_bptt,
    (
        "later = dz[:, t] @ U.T",
        "later = dz[:, t] @ U",
        "going back through U needs its transpose",
    ),
    (
        "(dh[:, t] + later) * (1 - states[:, t] ** 2)",
        "dh[:, t] * (1 - states[:, t] ** 2) + later",
        "what comes back from later steps passes through this step's tanh as well",
    ),
    (
        "(1 - states[:, t] ** 2)",
        "(1 - np.tanh(states[:, t]) ** 2)",
        "the states are after the tanh already: its slope is 1 - h², with no second tanh",
    ),
    (
        'U=np.tensordot(before, dz, ((0, 1), (0, 1)))',
        'U=np.tensordot(states, dz, ((0, 1), (0, 1)))',
        "the gradient in U pairs each dz with the state before the step, not after it",
    ),
    (
        "np.zeros((B, h)) if h0 is None else h0",
        "np.zeros((B, h))",
        "the first step's share of the gradient in U needs h0",
    ),
    (
        "(dh[:, t] + later)",
        "later if t < n - 1 else dh[:, t]",
        "every state may be read by the loss, not the last one alone",
    ),
    (
        "if truncate is not None and t > 0 and t % truncate == 0:",
        "if truncate is not None and t > 0 and (n - t) % truncate == 0:",
        "chunks are counted from the first step; the last one may be shorter",
    ),
    (
        "if truncate is not None and t > 0 and t % truncate == 0:",
        "if truncate is not None and t % truncate == 0:",
        "h0 belongs to the first chunk: its gradient is not cut",
    ),
    (
        "if truncate is not None and t > 0 and t % truncate == 0:",
        "if truncate is not None and n - t >= truncate:",
        "this cuts every step that is far from the end; only the borders of chunks are cut",
    ),
    (
        "U=np.tensordot(before, dz, ((0, 1), (0, 1)))",
        "U=np.tensordot(before[:, [t for t in range(n) if not truncate or t == 0 or t % truncate]], dz[:, [t for t in range(n) if not truncate or t == 0 or t % truncate]], ((0, 1), (0, 1)))",
        "at a border the state is a constant, not zero: the first step of a chunk still has its share in U",
    ),
    (
        "h0=later,",
        "h0=dz[:, 0] if n else later,",
        "the way back to h0 leads through U, as that from each step to the one before",
    ),
    (
        "b=dz.sum(axis=(0, 1))",
        "b=dz.mean(axis=(0, 1))",
        "the bias is used at each step of each sequence: its gradients are added",
    ),
)


def clip_grad_norm(grads: list[np.ndarray], max_norm: float) -> float:
    """Shorten a gradient that is too long, in place, and tell how long it was.

    The norm is that of all arrays as one long vector. If it is above ``max_norm``,
    every entry is multiplied by ``max_norm / (norm + 1e-6)``; else nothing changes.

    Parameters
    ----------
    grads:
        Float arrays of any shapes; the list may be empty, and its norm is then 0.
    max_norm:
        Positive; infinity never clips.

    Returns
    -------
    The norm before clipping, a Python float.

    Raises ValueError that names ``max_norm`` if it is not positive, and one that says
    ``finite`` if the norm is infinite or not a number; then nothing has changed.

    Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent
    neural networks"; equal to torch.nn.utils.clip_grad_norm_, which has the 1e-6 too
    and refuses such a norm only if asked.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is positive, got {max_norm}")
    norm = float(np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in grads)))
    if not np.isfinite(norm):
        raise ValueError(f"the norm of the gradients is not finite: {norm}")
    scale = max_norm / (norm + 1e-6)
    # equivalent `scale <= 1`: to multiply by 1 changes nothing
    if scale < 1:
        for g in grads:
            g *= scale
    return norm


known_mistakes(
    clip_grad_norm,
    (
        "float(np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in grads)))",
        "float(max([np.sqrt(np.sum(np.square(g, dtype=float))) for g in grads], default=0.0))",
        "the norm is that of all arrays as one vector, not that of the longest array",
    ),
    (
        "            g *= scale",
        "            g = g * scale",
        "`g = ...` binds a new array to the name; the caller's gradient stays as it was",
    ),
    (
        "    if scale < 1:\n        for g in grads:\n            g *= scale",
        "    for g in grads:\n        g *= scale",
        "a short gradient is stretched to max_norm; clipping only shortens",
    ),
    (
        "    if scale < 1:\n        for g in grads:\n            g *= scale",
        "    for g in grads:\n        g *= min(1.0, max_norm / (np.linalg.norm(g) + 1e-6))",
        "every array is clipped on its own: that turns the direction; one norm for all is asked for",
    ),
    (
        "    if scale < 1:\n        for g in grads:\n            g *= scale",
        "    for g in grads:\n        np.clip(g, -max_norm, max_norm, out=g)",
        "single entries are clipped; the length of the whole gradient is meant",
    ),
    (
        "return norm",
        "return min(norm, max_norm)",
        "the norm after clipping is returned; one logs the norm before, to see the spikes",
    ),
    (
        "float(np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in grads)))",
        "float(sum(np.sum(np.square(g, dtype=float)) for g in grads))",
        "the root is missing: this is the squared norm",
    ),
    (
        "float(np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in grads)))",
        "float(sum(np.sqrt(np.sum(np.square(g, dtype=float))) for g in grads))",
        "norms do not add; their squares do",
    ),
    (
        """    if not np.isfinite(norm):
        raise ValueError(f"the norm of the gradients is not finite: {norm}")
""",
        "",
        "one infinite entry, and every gradient becomes 0 or NaN: refuse such a norm",
    ),
)
