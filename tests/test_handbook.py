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
    assert named == set(range(1, 11))
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
