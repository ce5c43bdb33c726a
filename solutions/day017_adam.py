"""Day 17: Adam, AdamW, and a comparison of optimizers that is fair to each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from llm180 import interval, known_mistakes
from llm180.stats import Interval


class Adam:
    """Adam: a running mean of gradients over the root of a running mean of squares.

    For each parameter ``p`` with the gradient ``g``, let ``m`` and ``s`` be zero at
    first, and ``k`` the number of this step, 1 for the first. By coordinate,

        ``g = g + weight_decay * p``
        ``m = beta1 * m + (1 - beta1) * g``
        ``s = beta2 * s + (1 - beta2) * g**2``
        ``p = p - lr * m_hat / (sqrt(s_hat) + eps)``

    where ``m_hat = m / (1 - beta1**k)`` and ``s_hat = s / (1 - beta2**k)``.
    ``lr`` is read in each step, so a schedule may change the attribute in between.

    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization",
    algorithm 1; the convention is torch.optim.Adam's, without amsgrad.
    """

    def __init__(
        self,
        params: list[np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Keep the parameters, not copies of them, and make two buffers for each.

        ``params`` are float arrays of any shapes; the list may be empty. The list
        ``self.means`` holds each ``m`` and ``self.squares`` each ``s``, of the shape
        and the dtype of its parameter. ``lr`` is an attribute, and ``weight_decay``
        is kept as the attribute ``l2``, the weight of the L2 penalty.

        Raises ValueError if ``lr`` is not positive, if one of the ``betas`` is not at
        least 0 and below 1, or if ``eps`` or ``weight_decay`` is negative; the
        message names the argument.
        """
        beta1, beta2 = betas
        if not (lr > 0 and eps >= 0 and weight_decay >= 0):
            raise ValueError(
                "need lr > 0, eps >= 0 and weight_decay >= 0, "
                f"got {lr}, {eps} and {weight_decay}"
            )
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"need betas of at least 0 and below 1, got {betas}")
        self.params = params
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.l2 = weight_decay
        self.steps = 0
        self.means = [np.zeros_like(p) for p in params]
        self.squares = [np.zeros_like(p) for p in params]

    def check(self, grads: list[np.ndarray]) -> None:
        """Raise ValueError unless there is one gradient of its shape per parameter."""
        if [np.shape(g) for g in grads] != [p.shape for p in self.params]:
            raise ValueError("need one gradient per parameter, of the same shape")

    def step(self, grads: list[np.ndarray]) -> None:
        """Change every parameter in place, given one gradient of its shape for each.

        The gradients are left unchanged.

        Raises ValueError if the gradients are not as many as the parameters, or one
        has another shape; then nothing has changed.
        """
        self.check(grads)
        self.steps += 1
        beta1, beta2 = self.betas
        for p, g, m, s in zip(self.params, grads, self.means, self.squares):
            g = g + self.l2 * p
            m *= beta1
            m += (1 - beta1) * g
            s *= beta2
            s += (1 - beta2) * g**2
            m_hat = m / (1 - beta1**self.steps)
            s_hat = s / (1 - beta2**self.steps)
            p -= self.lr * m_hat / (np.sqrt(s_hat) + self.eps)


known_mistakes(
    Adam,
    (
        "m_hat = m / (1 - beta1**self.steps)",
        "m_hat = m",
        "the mean starts at zero and is not corrected: the first steps are too short",
    ),
    (
        "s_hat = s / (1 - beta2**self.steps)",
        "s_hat = s",
        "the mean square starts at zero and is not corrected: the first steps are too long",
    ),
    (
        "        self.steps += 1\n        beta1, beta2 = self.betas\n        for p, g, m, s in zip(self.params, grads, self.means, self.squares):\n",
        "        beta1, beta2 = self.betas\n        for p, g, m, s in zip(self.params, grads, self.means, self.squares):\n            self.steps += 1\n",
        "the step is counted once per parameter; it is one step for all of them",
    ),
    (
        "self.steps = 0",
        "self.steps = 1",
        "the first step has k = 2: its averages are corrected for one step too many",
    ),
    (
        "(np.sqrt(s_hat) + self.eps)",
        "np.sqrt(s_hat + self.eps)",
        "eps is added under the root; there it is worth √eps, 1e-4 by default",
    ),
    (
        "m_hat / (np.sqrt(s_hat) + self.eps)",
        "m_hat / (np.sqrt(s) + self.eps) * (1 - beta2**self.steps) ** 0.5",
        "eps is added to the root before it is corrected; so it weighs more in the first steps",
    ),
    (
        "s += (1 - beta2) * g**2",
        "s += (1 - beta2) * (g - m) ** 2",
        "that is a variance; Adam averages the squares themselves",
    ),
    (
        "s += (1 - beta2) * g**2",
        "s += (1 - beta2) * (g - self.l2 * p) ** 2",
        "the gradient of the penalty is missing from the mean square; it goes into both averages",
    ),
    (
        "        self.check(grads)\n        self.steps += 1\n",
        "        self.steps += 1\n        self.check(grads)\n",
        "the step is counted before the gradients are looked at: a call that is refused counts as well",
    ),
    (
        "            g = g + self.l2 * p\n",
        "            g += self.l2 * p\n",
        "`g += ...` writes into the caller's gradient",
    ),
    (
        "            g = g + self.l2 * p\n",
        "            p *= 1 - self.lr * self.l2\n",
        "that is AdamW's decay; here the penalty's gradient goes into both averages",
    ),
    (
        "            g = g + self.l2 * p\n",
        "            g = g + 2 * self.l2 * p\n",
        "the penalty is l2 / 2 times the squared length, so that its gradient has no 2",
    ),
    (
        "p -= self.lr * m_hat / (np.sqrt(s_hat) + self.eps)",
        "p = p - self.lr * m_hat / (np.sqrt(s_hat) + self.eps)",
        "`p = p - ...` binds a new array to the name; the caller's parameter stays as it was",
    ),
    (
        "            m += (1 - beta1) * g\n",
        "            m += g\n",
        "that is the sum of Day 16's momentum; Adam's m is a mean, the new gradient has the weight 1 - beta1",
    ),
    (
        "beta1, beta2 = self.betas\n        for",
        "beta2, beta1 = self.betas\n        for",
        "the betas have changed places: the first belongs to the mean",
    ),
    (
        "self.squares = [np.zeros_like(p) for p in params]",
        "self.squares = self.means",
        "both averages are kept in one array",
    ),
    (
        "[np.shape(g) for g in grads] != [p.shape for p in self.params]",
        "len(grads) != len(self.params)",
        "a gradient of another shape is broadcast into the parameter",
    ),
    (
        "self.means = [np.zeros_like(p) for p in params]",
        "self.means = [np.zeros(p.shape) for p in params]",
        "the buffers are float64 whatever the parameter is: twice the memory for float32 weights",
    ),
)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink, the averages do not know.

    With ``g``, ``m_hat`` and ``s_hat`` as in Adam without a penalty, one step is

        ``p = (1 - lr * weight_decay) * p``
        ``p = p - lr * m_hat / (sqrt(s_hat) + eps)``

    ``lr`` and ``weight_decay`` are read in each step.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization",
    algorithm 2; as in torch.optim.AdamW, the decay is multiplied by ``lr``.
    """

    def __init__(
        self,
        params: list[np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """As Adam, but for the meaning of ``weight_decay``, and its default.

        ``l2`` is 0; the attribute ``weight_decay`` has the decay.

        Raises ValueError as Adam does.
        """
        super().__init__(params, lr, betas, eps, weight_decay)
        self.weight_decay, self.l2 = weight_decay, 0.0  # none through the gradient

    def step(self, grads: list[np.ndarray]) -> None:
        """Change every parameter in place, given one gradient of its shape for each.

        The gradients are left unchanged.

        Raises ValueError as Adam does; then nothing has changed.
        """
        self.check(grads)
        for p in self.params:
            p *= 1 - self.lr * self.weight_decay
        super().step(grads)


known_mistakes(
    AdamW,
    (
        "p *= 1 - self.lr * self.weight_decay",
        "p = p * (1 - self.lr * self.weight_decay)",
        "`p = p * ...` binds a new array to the name; the caller's weight has not shrunk",
    ),
    (
        "p *= 1 - self.lr * self.weight_decay",
        "p *= 1 - self.__dict__.setdefault('first', self.lr) * self.weight_decay",
        "the decay keeps the lr of the first step; a schedule changes it in between",
    ),
    (
        "p *= 1 - self.lr * self.weight_decay",
        "p *= 1 - self.weight_decay",
        "the decay is not multiplied by lr: weights vanish within a few hundred steps",
    ),
    (
        "            p *= 1 - self.lr * self.weight_decay\n        super().step(grads)",
        "            pass\n        super().step(grads)\n        for p in self.params:\n            p *= 1 - self.lr * self.weight_decay",
        "the decay comes after the step, so the new step is shrunk as well",
    ),
    (
        "self.weight_decay, self.l2 = weight_decay, 0.0",
        "self.weight_decay = weight_decay",
        "the decay acts twice: on the weights, and through the gradient",
    ),
    (
        "        for p in self.params:\n            p *= 1 - self.lr * self.weight_decay\n        super().step(grads)",
        "        grads = [g + self.weight_decay * p for g, p in zip(grads, self.params)]\n        super().step(grads)",
        "that is Adam with an L2 penalty: the decay went through the averages",
    ),
    (
        "p *= 1 - self.lr * self.weight_decay",
        "p -= self.lr * self.weight_decay * np.sign(p)",
        "a constant pull is an L1 penalty; weight decay is proportional to the weight",
    ),
    (
        "        self.check(grads)\n        for p in self.params:",
        "        for p in self.params:",
        "the weights have shrunk by the time the gradients are refused",
    ),
    (
        "weight_decay: float = 0.01,",
        "weight_decay: float = 0.0,",
        "AdamW decays by default: 0.01",
    ),
)


class Comparison(NamedTuple):
    """What a fair comparison says about one optimizer."""

    rate: float  # the learning rate that was chosen on the tuning seeds
    at_edge: bool  # whether it is the smallest or the largest of its grid
    curve: dict[float, float]  # mean loss on the tuning seeds by rate, rates rising
    losses: np.ndarray  # (R,): at that rate, by reported seed; inf where it diverged
    diverged: int  # how many of these are inf
    difference: Interval  # losses minus those of the baseline, seed by seed


def compare_optimizers(
    train: Callable[[str, float, list[int]], Sequence[float]],
    grids: dict[str, Sequence[float]],
    tune_seeds: Sequence[int],
    report_seeds: Sequence[int],
    baseline: str,
) -> dict[str, Comparison]:
    """Tune each optimizer's learning rate on some seeds; compare on fresh ones.

    Each rate of an optimizer's grid is run on all ``tune_seeds``. The rate with the
    least mean loss is chosen; of equal ones, the smallest. It alone is run on
    ``report_seeds``. So every optimizer costs the same number of runs.

    A run that ends with a loss of nan, inf or -inf has diverged. It counts as inf:
    a rate at which one tuning run diverged has the mean inf, and is never chosen.

    Parameters
    ----------
    train:
        ``train(name, rate, seeds)`` trains once for each seed of a list, and
        returns the final losses in the order of the seeds; lower is better.
    grids:
        For each optimizer the learning rates to try, in any order: positive,
        finite, all different, at least three. All grids have the same length.
    tune_seeds, report_seeds:
        At least two and at least five; no seed stands twice, in one or in both.
    baseline:
        The optimizer that the others are compared with.

    Returns
    -------
    A ``Comparison`` for each optimizer, in the order of ``grids``. ``difference`` is
    the ``interval`` of the paired differences. If a reported run of one of the two has
    diverged, its half is inf, and its mean the difference of their mean losses: inf
    if only this optimizer has diverged, -inf if only the baseline has, nan if both.

    Raises ValueError, before any run, with a message that has the word "rates" if a
    grid is not as above, "budget" if the grids differ in length, "seeds" if the seeds
    are not as above, "baseline" if it has no grid. Raises ValueError that says
    "losses" if ``train`` returns anything but a flat list of one number per seed, and
    "diverged" if an optimizer has no rate at which all tuning runs end well.

    Source: Choi et al. 2019; Schmidt et al. 2021; the rules are derived on the page.
    """
    for name, grid in grids.items():
        # equivalent `0 < rate != np.inf`: nothing is above inf, and nan is not above 0
        good = all(0 < rate < np.inf for rate in grid)
        # equivalent `len(set(grid)) != len(grid)`: a set has no more entries
        if not good or len(grid) < 3 or len(set(grid)) < len(grid):
            raise ValueError(f"{name}: need three or more different, positive rates")
    if len({len(grid) for grid in grids.values()}) > 1:
        raise ValueError("need one budget: grids of one length")
    seeds = [*tune_seeds, *report_seeds]
    # equivalent `len(set(seeds)) != len(seeds)`: a set has no more entries
    if len(tune_seeds) < 2 or len(report_seeds) < 5 or len(set(seeds)) < len(seeds):
        raise ValueError("need 2 seeds to tune on, and 5 others to report; none twice")
    if baseline not in grids:
        raise ValueError(f"the baseline {baseline} is none of {list(grids)}")

    def run(name: str, rate: float, seeds: Sequence[int]) -> np.ndarray:
        losses = np.asarray(train(name, rate, list(seeds)), dtype=float)
        if losses.shape != (len(seeds),):
            raise ValueError(f"{name}: {len(seeds)} seeds, losses {losses.shape}")
        return np.where(np.isfinite(losses), losses, np.inf)

    chosen, curves, reported = {}, {}, {}
    for name, grid in grids.items():
        curve = {rate: run(name, rate, tune_seeds).mean() for rate in sorted(grid)}
        rate = min(curve, key=curve.__getitem__)
        if np.isinf(curve[rate]):
            raise ValueError(f"{name} diverged at every rate: lower its grid")
        chosen[name], curves[name] = rate, curve
        reported[name] = run(name, rate, report_seeds)

    found = {}
    for name, losses in reported.items():
        diverged = int(np.isinf(losses).sum())
        if diverged or np.isinf(reported[baseline]).any():
            difference = Interval(fmean(losses) - fmean(reported[baseline]), np.inf)
        else:
            difference = interval(losses - reported[baseline])
        rate, grid = chosen[name], grids[name]
        edge = rate in (min(grid), max(grid))
        found[name] = Comparison(rate, edge, curves[name], losses, diverged, difference)
    return found


known_mistakes(
    compare_optimizers,
    (
        "run(name, rate, tune_seeds).mean()",
        "run(name, rate, report_seeds).mean()",
        "the rate is chosen on the seeds that are reported: what luck favored is chosen, and then shown",
    ),
    (
        "reported[name] = run(name, rate, report_seeds)",
        "reported[name] = run(name, rate, [*tune_seeds, *report_seeds][: len(report_seeds)])",
        "the tuning seeds are reported: at the chosen rate, their losses are lucky",
    ),
    (
        "reported[name] = run(name, rate, report_seeds)",
        "reported[name] = np.full(len(report_seeds), run(name, rate, report_seeds).min())",
        "the best seed is reported for all of them",
    ),
    (
        "run(name, rate, tune_seeds).mean()",
        "run(name, rate, tune_seeds).min()",
        "the single best run chooses the rate; take the mean over the seeds",
    ),
    (
        "run(name, rate, tune_seeds).mean()",
        "float(np.median(run(name, rate, tune_seeds)))",
        "a median overlooks a diverged run; the mean over the tuning seeds is asked for",
    ),
    (
        "return np.where(np.isfinite(losses), losses, np.inf)",
        "return losses",
        "min() with a nan depends on the order: a diverged run can win",
    ),
    (
        "return np.where(np.isfinite(losses), losses, np.inf)",
        "return np.where(np.isnan(losses), np.inf, losses)",
        "a loss of -inf is a run that has diverged, not the best one",
    ),
    (
        "run(name, rate, tune_seeds).mean()",
        "float(np.mean([x for x in run(name, rate, tune_seeds) if x < np.inf] or np.inf))",
        "the diverged runs are left out of the mean: a rate that sometimes explodes looks good",
    ),
    (
        "difference = interval(losses - reported[baseline])",
        "difference = interval(losses - reported[baseline].mean())",
        "the runs are not paired: take the difference for each seed, then the interval",
    ),
    (
        "difference = interval(losses - reported[baseline])",
        "difference = interval(np.sort(losses) - np.sort(reported[baseline]))",
        "sorting pairs the best run with the best; a pair is one seed",
    ),
    (
        "difference = interval(losses - reported[baseline])",
        "difference = interval(reported[baseline] - losses)",
        "the difference has the wrong sign: own losses minus those of the baseline",
    ),
    (
        "min(curve, key=curve.__getitem__)",
        "min(reversed(curve), key=curve.__getitem__)",
        "of rates with equal means the largest is taken; the smallest is asked for",
    ),
    (
        "edge = rate in (min(grid), max(grid))",
        "edge = rate in (grid[0], grid[-1])",
        "a grid may come in any order: its edges are the least and the largest rate",
    ),
    (
        "edge = rate in (min(grid), max(grid))",
        "edge = rate == max(grid)",
        "a grid has two edges; the best rate may be below the smallest as well",
    ),
    (
        "    if len({len(grid) for grid in grids.values()}) > 1:\n        raise ValueError(\"need one budget: grids of one length\")\n",
        "",
        "one optimizer may try more rates than another: the longer search wins by luck",
    ),
    (
        "len(set(seeds)) < len(seeds)",
        "len(set(report_seeds)) < len(report_seeds)",
        "tuning and reported seeds may overlap",
    ),
    (
        "        if np.isinf(curve[rate]):\n            raise ValueError(f\"{name} diverged at every rate: lower its grid\")\n",
        "",
        "where every rate diverged, one is chosen all the same",
    ),
    (
        "if diverged or np.isinf(reported[baseline]).any():",
        "if diverged:",
        "the baseline may diverge too; no interval exists then",
    ),
    (
        "        if losses.shape != (len(seeds),):\n            raise ValueError(f\"{name}: {len(seeds)} seeds, losses {losses.shape}\")\n",
        "",
        "one loss for all seeds goes unnoticed: it is broadcast, or its mean is taken",
    ),
)
