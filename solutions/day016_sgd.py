"""Day 16: SGD with momentum, RMSprop, and the variance at which SGD stops getting closer."""

from __future__ import annotations

import numpy as np

from llm180 import known_mistakes


class SGD:
    """Stochastic gradient descent, plain, with momentum, or with Nesterov's.

    With ``g`` the gradient given for a parameter ``p``, and ``buf`` its buffer, zero
    at first, one step is

        ``buf = momentum * buf + g``
        ``d = g + momentum * buf`` if ``nesterov``, else ``buf``
        ``p = p - lr * d``

    ``lr`` is read in each step, so a schedule may change the attribute in between.

    Source: Polyak 1964; Sutskever et al. 2013, "On the importance of initialization
    and momentum in deep learning", sec. 2; the convention is torch.optim.SGD's.
    """

    def __init__(
        self,
        params: list[np.ndarray],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        """Keep the parameters, not copies of them, and make a buffer for each.

        ``params`` are float arrays of any shapes; the list may be empty.

        Raises ValueError if ``lr`` is not positive, if ``momentum`` is not at least 0
        and below 1, or if ``nesterov`` is asked for with a momentum of 0.
        """
        if not (lr > 0 and 0 <= momentum < 1):
            raise ValueError(
                f"need lr > 0 and 0 <= momentum < 1, got lr {lr}, momentum {momentum}"
            )
        # equivalent `momentum <= 0`: it is not negative here
        if nesterov and momentum == 0:
            raise ValueError("nesterov looks ahead along the momentum: give one")
        self.params = params
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.buffers = [np.zeros_like(p) for p in params]

    def step(self, grads: list[np.ndarray]) -> None:
        """Change every parameter in place, given one gradient of its shape for each.

        The gradients are left unchanged, and no later step depends on what the
        caller writes into them.

        Raises ValueError if the gradients are not as many as the parameters, or one
        has another shape; then nothing has changed.
        """
        if [np.shape(g) for g in grads] != [p.shape for p in self.params]:
            raise ValueError("need one gradient per parameter, of the same shape")
        for p, g, buf in zip(self.params, grads, self.buffers):
            buf *= self.momentum
            buf += g
            p -= self.lr * (g + self.momentum * buf if self.nesterov else buf)


known_mistakes(
    SGD,
    (
        "buf += g",
        "buf += (1 - self.momentum) * g",
        "the buffer is a mean; torch's is a sum, with g unscaled, so your steps are too short by 1 - momentum",
    ),
    (
        "            buf *= self.momentum\n            buf += g\n",
        "            i = next(i for i, q in enumerate(self.params) if q is p)\n            if buf.any():\n                buf *= self.momentum\n                buf += g\n            else:\n                buf = self.buffers[i] = g\n",
        "the first gradient itself has become the buffer, and the caller writes into it: keep a copy",
    ),
    (
        "p -= self.lr * (g + self.momentum * buf if self.nesterov else buf)",
        "p = p - self.lr * (g + self.momentum * buf if self.nesterov else buf)",
        "`p = p - ...` binds a new array to the name; the caller's parameter stays as it was",
    ),
    (
        "            buf += g\n            p -= self.lr * (g + self.momentum * buf if self.nesterov else buf)",
        "            buf += self.lr * g\n            p -= self.lr * g + self.momentum * buf if self.nesterov else buf",
        "lr went into the buffer: after a change of lr, old gradients keep the old one",
    ),
    (
        "p -= self.lr *",
        "p -= self.__dict__.setdefault('first', self.lr) *",
        "lr is kept from the first step; it is read in each step, for a schedule changes it",
    ),
    (
        "(g + self.momentum * buf if self.nesterov else buf)",
        "(buf + self.momentum * buf if self.nesterov else buf)",
        "Nesterov's step adds the momentum to the new gradient, not to the buffer",
    ),
    (
        "            buf *= self.momentum\n            buf += g\n            p -= self.lr * (g + self.momentum * buf if self.nesterov else buf)",
        "            old = buf.copy()\n            buf *= self.momentum\n            buf += g\n            p -= self.lr * (g + self.momentum * old if self.nesterov else buf)",
        "Nesterov's step uses the buffer as it was before this gradient came in",
    ),
    (
        "self.buffers = [np.zeros_like(p) for p in params]",
        "self.buffers = [np.zeros_like(params[0])] * len(params)",
        "all parameters share one buffer; each needs its own",
    ),
    (
        "            raise ValueError(\"need one gradient per parameter, of the same shape\")",
        "            pass",
        "gradients that do not fit are broadcast, or cut off by zip, and nobody notices",
    ),
    (
        "[np.shape(g) for g in grads] != [p.shape for p in self.params]",
        "len(grads) != len(self.params)",
        "a gradient of another shape is broadcast into the parameter",
    ),
)


class RMSprop:
    """Divide each coordinate's gradient by a running root mean square of its past.

    With ``s`` the running mean of squares of a parameter ``p``, zero at first, and
    ``g`` the gradient given for it, all by coordinate, one step is

        ``s = alpha * s + (1 - alpha) * g**2``
        ``p = p - lr * g / (sqrt(s) + eps)``

    ``lr`` is read in each step, so a schedule may change the attribute in between.

    Source: Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine
    Learning"; the convention is torch.optim.RMSprop's, not centered.
    """

    def __init__(
        self,
        params: list[np.ndarray],
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        """Keep the parameters, not copies of them, and make a mean square for each.

        ``params`` are float arrays of any shapes; the list may be empty.

        Raises ValueError if ``lr`` is not positive, if ``alpha`` is not at least 0
        and below 1, or if ``eps`` is negative.
        """
        if not (lr > 0 and 0 <= alpha < 1 and eps >= 0):
            raise ValueError(
                f"need lr > 0, 0 <= alpha < 1, eps >= 0; got {lr}, {alpha}, {eps}"
            )
        self.params = params
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.squares = [np.zeros_like(p) for p in params]

    def step(self, grads: list[np.ndarray]) -> None:
        """Change every parameter in place, given one gradient of its shape for each.

        The gradients are left unchanged.

        Raises ValueError if the gradients are not as many as the parameters, or one
        has another shape; then nothing has changed.
        """
        if [np.shape(g) for g in grads] != [p.shape for p in self.params]:
            raise ValueError("need one gradient per parameter, of the same shape")
        for p, g, s in zip(self.params, grads, self.squares):
            s *= self.alpha
            s += (1 - self.alpha) * g**2
            p -= self.lr * g / (np.sqrt(s) + self.eps)


known_mistakes(
    RMSprop,
    (
        "(np.sqrt(s) + self.eps)",
        "np.sqrt(s + self.eps)",
        "eps is added under the root; there it is worth √eps, 1e-4 by default",
    ),
    (
        "s += (1 - self.alpha) * g**2",
        "s += g**2",
        "after one step s is all of g²: the new square has the weight 1 - alpha, so squares are not summed, and no correction divides by it again",
    ),
    (
        "s += (1 - self.alpha) * g**2",
        "s += (1 - self.alpha) * (g**2).mean()",
        "one mean square for the whole array; every coordinate needs its own",
    ),
    (
        "            s *= self.alpha\n            s += (1 - self.alpha) * g**2\n            p -= self.lr * g / (np.sqrt(s) + self.eps)",
        "            p -= self.lr * g / (np.sqrt(s) + self.eps)\n            s *= self.alpha\n            s += (1 - self.alpha) * g**2",
        "the step divides by the old mean square, which is zero at first: update it before",
    ),
    (
        "(np.sqrt(s) + self.eps)",
        "(s + self.eps)",
        "the root is missing: a gradient over its square has the wrong unit",
    ),
    (
        "s += (1 - self.alpha) * g**2",
        "s += (1 - self.alpha) * abs(g)",
        "this averages the size of the gradient; the mean of squares is asked for",
    ),
    (
        "[np.shape(g) for g in grads] != [p.shape for p in self.params]",
        "sum(np.size(g) for g in grads) != sum(p.size for p in self.params)",
        "the sizes are added up; a gradient that is missing or turned must be found",
    ),
    (
        "            s *= self.alpha\n            s += (1 - self.alpha) * g**2",
        "            s *= 1 - self.alpha\n            s += self.alpha * g**2",
        "alpha is the share of the past that is kept, not of the new square",
    ),
)


def noise_ball(
    lam: float, lr: float, sigma2: float, batch: int, momentum: float = 0.0
) -> float:
    """The variance of ``x`` that SGD on a parabola settles at.

    The loss is ``lam / 2 * x**2``. The gradient of each step is
    ``lam * x + noise``, where the noise of a batch is independent of all before, has
    mean 0 and variance ``sigma2 / batch``; ``sigma2`` is that of one example. The
    steps are those of ``SGD(..., lr, momentum)``, not Nesterov's.

    Parameters
    ----------
    lam:
        The curvature, positive.
    lr:
        The step size, positive.
    sigma2:
        Variance of one example's gradient, not negative.
    batch:
        Examples per step, at least 1.
    momentum:
        At least 0 and below 1.

    Returns
    -------
    The limit of the variance of ``x`` after many steps, from any start.

    Raises ValueError if an argument is outside its range; also, with a message
    that says "diverges", if ``lr`` is ``2 * (1 + momentum) / lam`` or more, where no
    limit exists.

    Source: derived on the page for momentum 0.
    """
    if not (lam > 0 and lr > 0 and sigma2 >= 0 and batch >= 1 and 0 <= momentum < 1):
        raise ValueError(
            "need lam > 0, lr > 0, sigma2 >= 0, batch >= 1 and 0 <= momentum < 1"
        )
    room = 2 * (1 + momentum) - lr * lam
    if room <= 0:
        raise ValueError(f"diverges: lr must be below {2 * (1 + momentum) / lam:.4g}")
    # With X = E[x²], V = E[buf²], C = E[x·buf], all constant from step to step:
    #   x' = x - lr·buf'  gives  E[x·buf'] = lr·V/2  and  C = -lr·V/2
    #   buf' = momentum·buf + lam·x + noise  gives  lr·V/2 = momentum·C + lam·X
    #   and, squared,  V = momentum²·V + lam²·X + 2·momentum·lam·C + sigma2/batch
    return lr * sigma2 * (1 + momentum) / (batch * lam * (1 - momentum) * room)


known_mistakes(
    noise_ball,
    (
        "lr * sigma2 * (1 + momentum)",
        "lr * sigma2**2 * (1 + momentum)",
        "sigma2 is a variance already; do not square it again",
    ),
    (
        "(batch * lam * (1 - momentum) * room)",
        "(batch**0.5 * lam * (1 - momentum) * room)",
        "the variance of a mean falls with the batch; its square root belongs to the standard deviation",
    ),
    (
        "(batch * lam * (1 - momentum) * room)",
        "(2 * batch * lam * (1 - momentum))",
        "that is the limit of small steps; keep the square of lr·lam in the recursion",
    ),
    (
        "return lr * sigma2 * (1 + momentum) / (batch * lam * (1 - momentum) * room)",
        "return lr * sigma2 / (1 - momentum) / (batch * lam * (2 - lr / (1 - momentum) * lam))",
        "the effective step lr / (1 - momentum) put into the plain formula: right for small steps only",
    ),
    (
        "lr * sigma2 * (1 + momentum)",
        "lam / 2 * lr * sigma2 * (1 + momentum)",
        "that is the floor of the loss; the variance of x is asked for",
    ),
    (
        "return lr * sigma2 * (1 + momentum)",
        "return lr**2 * sigma2 * (1 + momentum)",
        "one power of lr cancels: steps add lr² each, but the pull that balances them goes with lr",
    ),
    (
        "if room <= 0:",
        "if room < 0:",
        "at the limit itself the noise adds up without end",
    ),
)
