"""The handbook's formulas, computed: each test holds a line of ``book/stage1/handbook.md`` to numbers."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch

from llm180 import lessons, paths

HANDBOOK = paths.BOOK / "stage1" / "handbook.md"
rng = np.random.default_rng(0)


def test_every_day_of_the_section_is_named_and_every_line_names_a_written_day() -> None:
    text = HANDBOOK.read_text(encoding="utf-8")
    named = {int(n) for n in re.findall(r"\{doc\}`(\d+) <", text)}
    assert named == set(range(1, 31))
    for number, target in re.findall(r"\{doc\}`(\d+) </(book/[^>]+)>`", text):
        assert lessons.find(int(number)).path == paths.ROOT / f"{target}.md"


# --- linear algebra ------------------------------------------------------------------------


def test_products_and_transposes() -> None:
    A, B = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    np.testing.assert_allclose(sum(np.outer(A[:, p], B[p]) for p in range(4)), A @ B)
    np.testing.assert_allclose((A @ B).T, B.T @ A.T)
    C, D = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    np.testing.assert_allclose(np.linalg.inv(C @ D), np.linalg.inv(D) @ np.linalg.inv(C))


def test_condition_numbers_and_their_square() -> None:
    A = rng.normal(size=(7, 4))
    s = np.linalg.svd(A, compute_uv=False)
    assert np.linalg.cond(A) == pytest.approx(s[0] / s[-1])
    assert np.linalg.cond(A.T @ A) == pytest.approx(np.linalg.cond(A) ** 2)
    b = rng.normal(size=7)
    x = np.linalg.lstsq(A, b, rcond=None)[0]
    np.testing.assert_allclose(A.T @ (b - A @ x), np.zeros(4), atol=1e-12)


def test_a_reflection_is_symmetric_orthogonal_and_its_own_inverse() -> None:
    v = rng.normal(size=5)
    H = np.eye(5) - 2 * np.outer(v, v) / (v @ v)
    np.testing.assert_allclose(H, H.T)
    np.testing.assert_allclose(H @ H, np.eye(5), atol=1e-14)
    assert np.linalg.cond(H) == pytest.approx(1)


def test_the_cost_of_householder_qr_is_what_its_steps_add_up_to() -> None:
    m, n = 400, 150
    steps = sum(4 * (m - k) * (n - k) for k in range(n))  # a mirror applied to the rest of the columns
    assert steps == pytest.approx(2 * m * n**2 - 2 * n**3 / 3, rel=0.02)
    assert sum(2 * (n - k) ** 2 for k in range(1, n)) == pytest.approx(2 * n**3 / 3, rel=0.02)


def test_the_spectral_theorem_trace_determinant_and_the_rayleigh_quotient() -> None:
    A = rng.normal(size=(5, 5))
    A = A + A.T
    values, Q = np.linalg.eigh(A)
    np.testing.assert_allclose(Q @ np.diag(values) @ Q.T, A, atol=1e-12)
    assert np.trace(A) == pytest.approx(values.sum()) and np.linalg.det(A) == pytest.approx(values.prod())
    X = rng.normal(size=(5, 1000))
    assert ((X * (A @ X)).sum(0) / (X * X).sum(0)).max() <= values[-1]


def test_power_iteration_shrinks_its_error_by_the_ratio_of_the_eigenvalues() -> None:
    Q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    A, x, errors = Q @ np.diag([2.0, -1.5, 0.3, 0.1]) @ Q.T, rng.normal(size=4), []
    for _ in range(40):
        x = A @ x / np.linalg.norm(A @ x)
        along = x @ Q[:, 0]
        errors.append(math.sqrt(1 - min(1, along**2)) / abs(along))
    assert errors[30] / errors[29] == pytest.approx(0.75, rel=1e-3)


def test_norms_and_the_best_fit_of_rank_r() -> None:
    A = rng.normal(size=(6, 5))
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    assert np.linalg.norm(A, 2) == pytest.approx(s[0]) and (A**2).sum() == pytest.approx((s**2).sum())
    rest = A - (U[:, :2] * s[:2]) @ Vt[:2]
    assert np.linalg.norm(rest, 2) == pytest.approx(s[2])
    assert np.linalg.norm(rest) == pytest.approx(math.sqrt((s[2:] ** 2).sum()))
    for _ in range(200):
        other = A - rng.normal(size=(6, 2)) @ np.linalg.lstsq(rng.normal(size=(6, 2)), A, rcond=None)[0]
        assert np.linalg.norm(other, 2) >= s[2]


def test_the_pseudo_inverse_gives_the_shortest_of_the_least_squares_solutions() -> None:
    A = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 4))
    b = rng.normal(size=6)
    x = np.linalg.pinv(A) @ b
    null = np.linalg.svd(A)[2][2:]
    for step in rng.normal(size=(50, 2)):
        other = x + step @ null
        np.testing.assert_allclose(A @ other, A @ x, atol=1e-12)
        assert np.linalg.norm(other) > np.linalg.norm(x)


def test_the_principal_component_is_the_top_eigenvector_of_the_covariance() -> None:
    X = rng.normal(size=(300, 3)) * [3, 1, 0.5] + 7
    Xc = X - X.mean(0)
    top = np.linalg.eigh(Xc.T @ Xc / 299)[1][:, -1]
    directions = rng.normal(size=(3, 2000))
    directions /= np.linalg.norm(directions, axis=0)
    assert (Xc @ directions).var(axis=0).max() <= (Xc @ top).var() + 1e-12


# --- probability and statistics ---------------------------------------------------------------


def test_the_table_of_distributions() -> None:
    n, p, rate, a, b = 9, 0.3, 2.5, 2.0, 3.5
    x = np.arange(n + 1)
    binomial = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in x])
    poisson = np.array([math.exp(-rate) * rate**k / math.factorial(k) for k in range(60)])
    for mass, mean, variance in ((binomial, n * p, n * p * (1 - p)), (poisson, rate, rate)):
        values = np.arange(len(mass))
        assert mass.sum() == pytest.approx(1)
        assert mass @ values == pytest.approx(mean) and mass @ values**2 - mean**2 == pytest.approx(variance)
    grid = (np.arange(400_000) + 0.5) / 20_000  # 0 to 20
    density = rate * np.exp(-rate * grid)
    assert (density * grid).sum() / 20_000 == pytest.approx(1 / rate, rel=1e-5)
    assert (density * grid**2).sum() / 20_000 - 1 / rate**2 == pytest.approx(1 / rate**2, rel=1e-5)
    unit = (np.arange(100_000) + 0.5) / 100_000
    beta = unit ** (a - 1) * (1 - unit) ** (b - 1)
    beta /= beta.sum()
    assert beta @ unit == pytest.approx(a / (a + b), rel=1e-5)
    assert beta @ unit**2 - (a / (a + b)) ** 2 == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=1e-4)
    assert ((unit - 0.5) ** 2).mean() == pytest.approx(1 / 12)


def test_bayes_rule_and_the_beta_posterior() -> None:
    grid = (np.arange(100_000) + 0.5) / 100_000
    a, b, k, n = 2, 5, 7, 10
    posterior = grid ** (a - 1) * (1 - grid) ** (b - 1) * grid**k * (1 - grid) ** (n - k)
    assert (posterior @ grid) / posterior.sum() == pytest.approx((a + k) / (a + b + n), rel=1e-6)
    joint = rng.random((2, 3))
    joint /= joint.sum()
    prior, likelihood = joint.sum(1), joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(likelihood[:, 1] * prior / (likelihood[:, 1] @ prior), joint[:, 1] / joint[:, 1].sum())


def test_the_variance_with_one_over_n_is_too_small_by_sigma_squared_over_n() -> None:
    values = [0, 1, 4]  # each equally likely; every sample of size 3 is enumerated
    truth = np.var(values)
    mean = np.mean([np.var(sample) for sample in itertools.product(values, repeat=3)])
    assert mean - truth == pytest.approx(-truth / 3)


def test_false_alarms_of_several_tests() -> None:
    assert 1 - (1 - 0.05) ** 20 == pytest.approx(0.6415, abs=1e-4)
    assert 1 - (1 - 0.05 / 20) ** 20 <= 0.05


# --- derivatives --------------------------------------------------------------------------------


def grads(loss: torch.Tensor, *inputs: torch.Tensor) -> list[np.ndarray]:
    return [g.numpy() for g in torch.autograd.grad(loss, inputs)]


def leaf(*shape: int) -> torch.Tensor:
    return torch.tensor(rng.normal(size=shape), requires_grad=True)


def test_the_table_of_backward_rules() -> None:
    X, W, b, dY = leaf(3, 4), leaf(4, 5), leaf(5), torch.tensor(rng.normal(size=(3, 5)))
    dX, dW, db = grads(((X @ W + b) * dY).sum(), X, W, b)
    np.testing.assert_allclose(dX, dY @ W.detach().T)
    np.testing.assert_allclose(dW, X.detach().T @ dY)
    np.testing.assert_allclose(db, dY.sum(0))
    a, c, u = leaf(6), leaf(6), torch.tensor(rng.normal(size=6))
    da, dc = grads(((a * c) * u).sum(), a, c)
    np.testing.assert_allclose(da, u * c.detach())
    np.testing.assert_allclose(dc, u * a.detach())


def test_softmax_cross_entropy_and_least_squares() -> None:
    z, u = leaf(5), torch.tensor(rng.normal(size=5))
    p = z.softmax(0).detach()
    np.testing.assert_allclose(grads((z.softmax(0) * u).sum(), z)[0], p * (u - p @ u))
    e = torch.nn.functional.one_hot(torch.tensor(3), 5)
    np.testing.assert_allclose(grads(-z.log_softmax(0)[3], z)[0], p - e)
    A, x, b = torch.tensor(rng.normal(size=(6, 3))), leaf(3), torch.tensor(rng.normal(size=6))
    np.testing.assert_allclose(grads(((A @ x - b) ** 2).sum() / 2, x)[0], A.T @ (A @ x.detach() - b))
    S = A.T @ A
    np.testing.assert_allclose(grads(x @ S @ x / 2, x)[0], S @ x.detach())
    np.testing.assert_allclose(torch.autograd.functional.hessian(lambda y: y @ S @ y / 2, x.detach()), S)


def test_the_best_steps_of_finite_differences() -> None:
    def error(h: float, central: bool) -> float:
        slope = (math.sin(1 + h) - math.sin(1 - h)) / (2 * h) if central else (math.sin(1 + h) - math.sin(1)) / h
        return abs(slope - math.cos(1))

    steps = 10.0 ** np.arange(-13, 0, 0.125)
    eps = np.finfo(float).eps
    for central, power in ((False, 1 / 2), (True, 1 / 3)):
        smooth = [np.mean([error(h * f, central) for f in np.linspace(0.9, 1.1, 21)]) for h in steps]
        assert 0.1 < steps[int(np.argmin(smooth))] / eps**power < 10


# --- information --------------------------------------------------------------------------------


def H(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def test_entropy_cross_entropy_divergence_and_mutual_information() -> None:
    joint = rng.random((3, 4))
    joint /= joint.sum()
    x, y = joint.sum(1), joint.sum(0)
    conditional = sum(x[i] * H(joint[i] / x[i]) for i in range(3))
    assert H(joint) == pytest.approx(H(x) + conditional)
    divergence = float((joint * np.log(joint / np.outer(x, y))).sum())
    assert H(x) + H(y) - H(joint) == pytest.approx(divergence) and divergence > 0
    p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    forward, back = (float((a * np.log(a / b)).sum()) for a, b in ((p, q), (q, p)))
    assert float(-(p * np.log(q)).sum()) == pytest.approx(H(p) + forward)
    assert min(forward, back) > 0 and abs(forward - back) > 1e-3 and 0 <= H(p) <= math.log(5)
    assert 1 / math.log(2) == pytest.approx(1.443, abs=5e-4)


# --- optimization --------------------------------------------------------------------------------


def quadratic(kappa: float):
    Q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    A = Q @ np.diag(np.geomspace(1, kappa, 6)) @ Q.T
    return A, lambda x: float(x @ A @ x) / 2


@pytest.mark.parametrize("kappa", [3.0, 50.0])
def test_the_bounds_of_gradient_descent(kappa: float) -> None:
    A, f = quadratic(kappa)
    x = start = rng.normal(size=6)
    for k in range(1, 60):
        g = A @ x
        after = x - g / kappa
        assert f(after) <= f(x) - g @ g / (2 * kappa) + 1e-12
        x = after
        assert f(x) <= kappa * (start @ start) / (2 * k) + 1e-12
        assert f(x) <= (1 - 1 / kappa) ** k * f(start) + 1e-12
    best = np.eye(6) - 2 / (kappa + 1) * A
    assert np.linalg.norm(best, 2) == pytest.approx((kappa - 1) / (kappa + 1))
    assert np.linalg.norm(np.eye(6) - 2.01 / kappa * A, 2) > 1
    np.testing.assert_allclose(start - np.linalg.solve(A, A @ start), np.zeros(6), atol=1e-10)


# --- networks ------------------------------------------------------------------------------------


def test_variances_through_a_layer_and_the_initializations() -> None:
    x = np.maximum(rng.normal(size=(2000, 60)), 0)
    for variance, fans in ((2 / 60, (60, 50)), (2 / 110, (60, 50))):
        W = rng.normal(size=fans) * math.sqrt(variance)
        assert (x @ W).var() == pytest.approx(60 * variance * (x**2).mean(), rel=0.1)
    assert (x**2).mean() == pytest.approx(0.5, rel=0.02)
    assert (2 * math.sqrt(6 / 110)) ** 2 / 12 == pytest.approx(2 / 110)


def test_the_table_of_activations() -> None:
    x = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    sigma, normal = torch.sigmoid(x), torch.distributions.Normal(0.0, 1.0)
    slopes = {
        torch.relu: (x > 0).double(),
        lambda v: torch.nn.functional.leaky_relu(v, 0.1): torch.where(x > 0, 1.0, 0.1).double(),
        torch.sigmoid: sigma * (1 - sigma),
        torch.tanh: 1 - torch.tanh(x) ** 2,
        torch.nn.functional.gelu: normal.cdf(x) + x * normal.log_prob(x).exp(),
        torch.nn.functional.logsigmoid: torch.sigmoid(-x),
    }
    for function, slope in slopes.items():
        inside = x != 0
        (found,) = torch.autograd.grad(function(x).sum(), x)
        torch.testing.assert_close(found[inside], slope[inside].detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.tanh(x), 2 * torch.sigmoid(2 * x) - 1)
    torch.testing.assert_close(torch.nn.functional.leaky_relu(x, 0.1), torch.maximum(x, 0.1 * x))
    assert torch.nn.functional.gelu(x).min().item() == pytest.approx(-0.17, abs=0.002)


def test_the_table_of_losses() -> None:
    z, y = leaf(7), torch.tensor(rng.normal(size=7))
    r = (z - y).detach().numpy()
    np.testing.assert_allclose(grads(((z - y) ** 2).sum() / 2, z)[0], r)
    np.testing.assert_allclose(grads((z - y).abs().sum(), z)[0], np.sign(r))
    huber = torch.nn.functional.huber_loss(z, y, delta=0.6, reduction="sum")
    np.testing.assert_allclose(grads(huber, z)[0], np.clip(r, -0.6, 0.6))
    want = np.where(abs(r) <= 0.6, r**2 / 2, 0.6 * (abs(r) - 0.3)).sum()
    assert huber.item() == pytest.approx(want)
    logits, e = leaf(1, 5), np.eye(5)[[2]]
    p = logits.softmax(1).detach().numpy()
    for smooth in (0.0, 0.1):
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([2]), label_smoothing=smooth)
        np.testing.assert_allclose(grads(loss, logits)[0], p - (1 - smooth) * e - smooth / 5)
    values = rng.normal(size=31)
    grid = np.linspace(-2, 2, 4001)
    best = grid[np.abs(values[:, None] - grid).mean(0).argmin()]
    assert best == pytest.approx(np.median(values), abs=2e-3)


def test_the_backward_rules_of_the_normalizations() -> None:
    x, w, dY = leaf(3, 6), leaf(6), torch.tensor(rng.normal(size=(3, 6)))
    mean = lambda v: v.mean(1, keepdim=True)
    for layer in ("layer", "rms"):
        if layer == "layer":
            s = x.detach().std(1, keepdim=True, unbiased=False)
            hat = (x.detach() - mean(x.detach())) / s
            y = torch.nn.functional.layer_norm(x, (6,), w, eps=0.0)
        else:
            s = (x.detach() ** 2).mean(1, keepdim=True).sqrt()
            hat = x.detach() / s
            y = torch.nn.functional.rms_norm(x, (6,), w, eps=0.0)
        g = dY * w.detach()
        want = (g - (mean(g) if layer == "layer" else 0) - hat * mean(g * hat)) / s
        dx, dw = grads((y * dY).sum(), x, w)
        np.testing.assert_allclose(dx, want, atol=1e-12)
        np.testing.assert_allclose(dw, (dY * hat).sum(0))


# --- training ------------------------------------------------------------------------------------


def test_the_updates_of_the_optimizers_are_pytorchs() -> None:
    t, beta, decay, grads_given = 0.05, 0.9, 0.02, rng.normal(size=12)
    makers = {
        "momentum": lambda p: torch.optim.SGD(p, t, momentum=beta),
        "nesterov": lambda p: torch.optim.SGD(p, t, momentum=beta, nesterov=True),
        "rmsprop": lambda p: torch.optim.RMSprop(p, t, alpha=0.99, eps=1e-8),
        "adam": lambda p: torch.optim.Adam(p, t),
        "adamw": lambda p: torch.optim.AdamW(p, t, weight_decay=decay),
    }
    for name, make in makers.items():
        twin = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
        theirs, x, v, s = make([twin]), 0.7, 0.0, 0.0
        for k, G in enumerate(grads_given, 1):
            twin.grad = torch.tensor([G])
            theirs.step()
            if name in ("momentum", "nesterov"):
                v = beta * v + G
                x -= t * (v if name == "momentum" else G + beta * v)
            elif name == "rmsprop":
                s = 0.99 * s + 0.01 * G**2
                x -= t * G / (math.sqrt(s) + 1e-8)
            else:
                x *= 1 - t * decay if name == "adamw" else 1
                v, s = 0.9 * v + 0.1 * G, 0.999 * s + 0.001 * G**2
                x -= t * (v / (1 - 0.9**k)) / (math.sqrt(s / (1 - 0.999**k)) + 1e-8)
            assert x == pytest.approx(twin.item(), rel=1e-12), (name, k)


def test_the_floor_of_sgd_on_a_parabola() -> None:
    lam, t, sigma2, B = 2.0, 0.3, 1.7, 4
    variance = t * sigma2 / (B * lam * (2 - t * lam))
    assert (1 - t * lam) ** 2 * variance + t**2 * sigma2 / B == pytest.approx(variance)
    assert lam / 2 * variance == pytest.approx(t * sigma2 / (2 * B * (2 - t * lam)))


def test_shrinkage_by_decay_and_by_stopping() -> None:
    lam, best, alpha, t, k = np.array([4.0, 0.1]), np.array([1.0, -2.0]), 0.5, 0.1, 20
    w = np.linalg.solve(np.diag(lam) + alpha * np.eye(2), lam * best)
    np.testing.assert_allclose(w, lam / (lam + alpha) * best)
    w = np.zeros(2)
    for _ in range(k):
        w -= t * lam * (w - best)
    np.testing.assert_allclose(w, (1 - (1 - t * lam) ** k) * best)
    assert np.abs((1 - (1 - t * lam) ** k) - lam / (lam + 1 / (k * t))).max() < 0.25


def test_the_moments_of_dropout() -> None:
    p, x = 0.3, 2.0
    outcomes = np.array([0.0, x / (1 - p)])
    mean = np.average(outcomes, weights=[p, 1 - p])
    assert mean == pytest.approx(x)
    assert np.average((outcomes - mean) ** 2, weights=[p, 1 - p]) == pytest.approx(p / (1 - p) * x**2)


def test_weights_before_a_normalization_have_no_scale_and_an_orthogonal_gradient() -> None:
    x, W = torch.tensor(rng.normal(size=(8, 5))), leaf(5, 4)
    y = lambda V: torch.nn.functional.layer_norm(x @ V, (4,), eps=0.0)
    torch.testing.assert_close(y(W * 3), y(W))
    (g,) = grads((y(W) ** 3).sum(), W)
    assert float((g * W.detach().numpy()).sum()) == pytest.approx(0, abs=1e-9)


# --- sequences -----------------------------------------------------------------------------------


def test_the_recurrent_steps_and_their_sizes_are_pytorchs() -> None:
    d, h = 3, 5
    x, state, cell = (torch.tensor(rng.normal(size=(2, n))) for n in (d, h, h))
    for kind, blocks in ((torch.nn.RNNCell, 1), (torch.nn.LSTMCell, 4), (torch.nn.GRUCell, 3)):
        layer = kind(d, h, dtype=torch.float64)
        assert sum(p.numel() for p in layer.parameters()) == blocks * h * (d + h + 2)
        ours, theirs = x @ layer.weight_ih.T + layer.bias_ih, state @ layer.weight_hh.T + layer.bias_hh
        if blocks == 1:
            want, got = torch.tanh(ours + theirs), layer(x, state)
        elif blocks == 4:
            i, f, g, o = (ours + theirs).chunk(4, 1)
            c = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            want, got = o.sigmoid() * c.tanh(), layer(x, (state, cell))[0]
        else:
            (r, z, n), (ru, zu, nu) = ours.chunk(3, 1), theirs.chunk(3, 1)
            z = (z + zu).sigmoid()
            want, got = (1 - z) * torch.tanh(n + (r + ru).sigmoid() * nu) + z * state, layer(x, state)
        torch.testing.assert_close(got, want)


def test_backpropagation_through_time_and_its_bound() -> None:
    U = leaf(4, 4)
    start = leaf(1, 4)
    states = [start]
    for _ in range(6):
        states.append(torch.tanh(states[-1] @ U))
    r = torch.tensor(rng.normal(size=(1, 4)))
    dU, dh0 = grads((states[-1] * r).sum(), U, start)
    dz, total = None, np.zeros((4, 4))
    for t in range(6, 0, -1):
        dh = r.numpy() if dz is None else dz @ U.detach().numpy().T
        dz = dh * (1 - states[t].detach().numpy() ** 2)
        total += states[t - 1].detach().numpy().T @ dz
    np.testing.assert_allclose(total, dU)
    np.testing.assert_allclose(dz @ U.detach().numpy().T, dh0)
    largest = np.linalg.norm(U.detach().numpy(), 2)
    assert np.linalg.norm(dh0) <= largest**6 * np.linalg.norm(r)


def test_the_half_life_of_a_forget_bias() -> None:
    for b in (0.0, 1.0, 5.0):
        k = math.log(2) / math.log(1 + math.exp(-b))
        assert (1 / (1 + math.exp(-b))) ** k == pytest.approx(0.5)
    assert k == pytest.approx(0.69 * math.exp(5.0), rel=0.01)


def test_the_optimum_of_negative_sampling_is_shifted_pmi() -> None:
    joint = rng.random((3, 4))
    joint /= joint.sum()
    word, noise, k = joint.sum(1), joint.sum(0), 5
    score = np.log(joint / np.outer(word, noise)) - math.log(k)
    loss = lambda s: (joint * np.log1p(np.exp(-s)) + k * np.outer(word, noise) * np.log1p(np.exp(s))).sum()
    for step in rng.normal(size=(50, 3, 4)) * 0.1:
        assert loss(score + step) > loss(score)


def test_temperature_and_the_scalar_mix() -> None:
    z = np.array([1.0, 0.5, -1.0])
    softmax = lambda v: np.exp(v - v.max()) / np.exp(v - v.max()).sum()
    np.testing.assert_allclose(softmax(z / 1e-3), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(softmax(z / 1e6), np.full(3, 1 / 3), atol=1e-5)
    assert 0.15 * (0.8 + 0.1 + 0.1) == pytest.approx(0.15) and softmax(np.zeros(3)).sum() == pytest.approx(1)
