"Second-order measures: independent NumPy restatements, gradients, trouble at the edges, half precision."

import math
import types
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dmsil import covariance as cov
from dmsil.covariance import (
    centred,
    cka,
    coral,
    coral_unbiased,
    corr_coral,
    covariance,
    cross_covariance,
    gaussian,
    gram,
    kappa,
    rho2,
    whiteness,
)

PAIRED = [coral, corr_coral, coral_unbiased, cka, kappa, rho2, gaussian]
SCALE_FREE = [corr_coral, cka, kappa, rho2, gaussian]


def name(function):
    return function.__name__


def pair(n, d_a, d_b=None, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    D_a, D_b = (torch.randn(n, d, generator=g, dtype=torch.float64) for d in (d_a, d_b or d_a))
    k = min(d_a, d_b or d_a)
    D_b[:, :k] += 0.7 * D_a[:, :k]
    return D_a.to(dtype), D_b.to(dtype)


def high(function, d_a, d_b, epsilon=0.1):
    "Upper bound of a scale-free measure."
    return {"corr_coral": 0.5, "gaussian": min(d_a, d_b) / 2 * math.log(1 / epsilon)}.get(name(function), 1.0)


# --- restatements in NumPy, from the definitions and nothing else ---


def np_cov(A, B):
    n = len(A)
    return sum(np.outer(a - A.mean(0), b - B.mean(0)) for a, b in zip(A, B, strict=True)) / (n - 1)


def np_corr(A):
    C = np_cov(A, A)
    return C / np.sqrt(np.outer(np.diag(C), np.diag(C)))


def np_ustatistic(A, B):
    "Mean of ¼((a_i − a_j)·(b_k − b_l))² over all different i, j, k, l."
    four = permutations(range(len(A)), 4)
    return np.mean([((A[i] - A[j]) @ (B[h] - B[k])) ** 2 / 4 for i, j, h, k in four])


def np_offdiagonal(A, B):
    "The same by the sums over the off-diagonal cross-Gram matrix, from raw (uncentred) rows."
    n, G = len(A), A @ B.T
    G = G - np.diag(np.diag(G))
    r, c, T, S, S_t = G.sum(1), G.sum(0), G.sum(), (G**2).sum(), (G * G.T).sum()
    two, three, four = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    return (
        S / two
        - ((r**2).sum() - S + (c**2).sum() - S) / three
        + (T**2 - (r**2).sum() - (c**2).sum() - 2 * (r * c).sum() + S + S_t) / four
    )


def np_u_centred(A):
    n, K = len(A), A @ A.T
    out, every = np.zeros((n, n)), sum(K[h, k] for h, k in permutations(range(n), 2))
    for i, j in permutations(range(n), 2):
        row, column = sum(K[i, k] for k in range(n) if k != i), sum(K[k, j] for k in range(n) if k != j)
        out[i, j] = K[i, j] - row / (n - 2) - column / (n - 2) + every / ((n - 1) * (n - 2))
    return out


def np_rho(A, B, epsilon):
    "Canonical correlations of the shrunk joint correlation matrix, by eigenvalues."
    R, d = np_corr(np.hstack([A, B])), A.shape[1]
    R = (1 - epsilon) * R + epsilon * np.eye(len(R))
    M = np.linalg.solve(R[:d, :d], R[:d, d:]) @ np.linalg.solve(R[d:, d:], R[d:, :d])
    return np.sqrt(np.clip(np.linalg.eigvals(M).real, 0, None))


@pytest.mark.parametrize("n, d", [(7, 3), (6, 20)], ids=["tall", "wide"])
def test_measures_equal_their_definitions(n, d):
    D_a, D_b = pair(n, d)
    A, B = D_a.numpy(), D_b.numpy() + 0.0
    C_a, C_b = np_cov(A, A), np_cov(B, B)
    expected = {
        coral: ((C_a - C_b) ** 2).sum() / (4 * d * d),
        corr_coral: ((np_corr(A) - np_corr(B)) ** 2).sum() / (4 * d * d),
        coral_unbiased: (np_ustatistic(A, A) + np_ustatistic(B, B) - 2 * np_ustatistic(A, B)) / (4 * d * d),
        cka: (np_cov(A, B) ** 2).sum() / np.sqrt((C_a**2).sum() * (C_b**2).sum()),
        kappa: (np_u_centred(A) * np_u_centred(B)).sum()
        / np.linalg.norm(np_u_centred(A))
        / np.linalg.norm(np_u_centred(B)),
        rho2: (np_rho(A, B, 0.1) ** 2).sum() / d,
        gaussian: -np.log(1 - np_rho(A, B, 0.1) ** 2).sum() / 2,
    }
    for function, value in expected.items():
        assert function(D_a, D_b).item() == pytest.approx(value, rel=1e-9), name(function)


@pytest.mark.parametrize("d_a, d_b", [(3, 5), (9, 2), (30, 4), (4, 30), (25, 40)])
def test_unequal_widths_equal_their_definitions(d_a, d_b):
    D_a, D_b = pair(8, d_a, d_b)
    A, B = D_a.numpy(), D_b.numpy()
    K_a, K_b = np_u_centred(A), np_u_centred(B)
    assert kappa(D_a, D_b).item() == pytest.approx(
        (K_a * K_b).sum() / np.linalg.norm(K_a) / np.linalg.norm(K_b), rel=1e-9
    )
    assert rho2(D_a, D_b, 0.3).item() == pytest.approx((np_rho(A, B, 0.3) ** 2).sum() / min(d_a, d_b), rel=1e-9)
    assert gaussian(D_a, D_b, epsilon=0.3).item() == pytest.approx(
        -np.log(1 - np_rho(A, B, 0.3) ** 2).sum() / 2, rel=1e-8
    )
    cross = (np_cov(A, B) ** 2).sum() / np.linalg.norm(np_cov(A, A)) / np.linalg.norm(np_cov(B, B))
    assert cka(D_a, D_b).item() == pytest.approx(cross, rel=1e-9)
    np.testing.assert_allclose(cross_covariance(D_a, D_b).numpy(), np_cov(A, B), atol=1e-12)


def test_ustatistic_is_the_off_diagonal_formula():
    for n, d in ((9, 3), (9, 40), (4, 2)):
        D_a, D_b = (D + 3 for D in pair(n, d))
        closed = cov._ustatistic(centred(D_a), centred(D_b)).item()
        assert closed == pytest.approx(np_offdiagonal(D_a.numpy(), D_b.numpy()), rel=1e-9)


def test_single_matrices():
    (D, _), eye = pair(9, 4), torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(centred(D), D - D.mean(0))
    torch.testing.assert_close(covariance(D), torch.cov(D.T))
    torch.testing.assert_close(gram(D), (D - D.mean(0)) @ (D - D.mean(0)).T)
    torch.testing.assert_close(whiteness(D), (torch.cov(D.T) - eye).square().sum() / 4)
    wide = pair(5, 30)[0]
    torch.testing.assert_close(whiteness(wide), (torch.cov(wide.T) - torch.eye(30)).square().sum() / 30)
    assert torch.equal(centred(D[:1]), torch.zeros(1, 4, dtype=torch.float64))


# --- gradients ---


@pytest.mark.parametrize("shape", [(6, 3), (5, 12)], ids=["tall", "wide"])
@pytest.mark.parametrize("function", PAIRED, ids=name)
def test_gradcheck(function, shape):
    D_a, D_b = (D.requires_grad_() for D in pair(*shape, seed=1))
    assert torch.autograd.grad(function(D_a, D_b), D_a)[0].norm() > 1e-6
    assert torch.autograd.gradcheck(function, (D_a, D_b))
    assert torch.autograd.gradgradcheck(function, (D_a, D_b), atol=1e-4)


@pytest.mark.parametrize("widths", [(3, 5), (20, 4), (30, 20)])
@pytest.mark.parametrize("function", [cka, kappa, rho2, gaussian], ids=name)
def test_gradcheck_at_unequal_widths(function, widths):
    assert torch.autograd.gradcheck(function, tuple(D.requires_grad_() for D in pair(6, *widths, seed=2)))


@pytest.mark.parametrize("shape", [(6, 3), (4, 12)])
def test_gradcheck_of_one_matrix(shape):
    D = pair(*shape, seed=3)[0].requires_grad_()
    for function in (centred, covariance, gram, whiteness):
        assert torch.autograd.gradcheck(function, (D,))


@pytest.mark.parametrize("function", SCALE_FREE, ids=name)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_gradient_scales_inversely(function, scale):
    "f(sD) = f(D), so its gradient at sD is 1/s of the one at D, also where s is not a power of two."
    D_a, D_b = pair(12, 5)
    at_one, at_scale = D_a.clone().requires_grad_(), (scale * D_a).requires_grad_()
    function(at_one, D_b).backward()
    function(at_scale, D_b).backward()
    torch.testing.assert_close(at_scale.grad * scale, at_one.grad, rtol=1e-9, atol=1e-12)


# --- properties, over scales, ranks and shapes ---


@st.composite
def features(draw, equal=False):
    "Two float32 feature matrices: scales 1e-6 … 1e6, any rank, constant columns, repeated rows, far from the origin."
    n, d_a = draw(st.integers(4, 9)), draw(st.integers(1, 12))
    d_b = d_a if equal else draw(st.integers(1, 12))
    g, made = torch.Generator().manual_seed(draw(st.integers(0, 2**31))), []
    for d in (d_a, d_b):
        rank = draw(st.integers(0, min(n, d)))
        D = torch.randn(n, rank, generator=g) @ torch.randn(rank, d, generator=g)
        if draw(st.booleans()):
            D[:, draw(st.integers(0, d - 1))] = 0.1
        if draw(st.booleans()):
            D[draw(st.integers(1, n - 1))] = D[0]
        D = D * 10.0 ** draw(st.integers(-6, 6))
        made.append(D + D.abs().amax() * draw(st.sampled_from([0, 0, 1, 30])))
    if draw(st.booleans()) and d_a == d_b:
        made[1] = made[0] * draw(st.sampled_from([1.0, -2.0, 1e-3]))
    return made


@settings(max_examples=60, deadline=None)
@given(features(equal=True))
def test_bounded_finite_and_symmetric(D):
    D_a, D_b = (X.clone().requires_grad_() for X in D)
    for function in SCALE_FREE:
        value = function(D_a, D_b)
        low = -1.0 if function is kappa else 0.0
        assert low - 1e-6 <= value.item() <= high(function, D_a.shape[1], D_b.shape[1]) + 1e-6, name(function)
        assert function(D_b, D_a).item() == pytest.approx(value.item(), abs=1e-5), name(function)
        for slope in torch.autograd.grad(value, (D_a, D_b)):
            assert slope.isfinite().all(), name(function)
    for function in (coral, coral_unbiased, lambda a, b: whiteness(a) + whiteness(b)):
        value = function(D_a, D_b)
        assert value.isfinite()
        for slope in torch.autograd.grad(value, (D_a, D_b)):
            assert slope.isfinite().all()
    assert coral(D_a, D_b) >= 0


@settings(max_examples=40, deadline=None)
@given(features(), st.randoms(use_true_random=False))
def test_invariances(D, random):
    "The same permutation of both, a translation, a scale: nothing changes. The first two hold for CORAL as well."
    D_a, D_b = (X.double() for X in D)
    P = list(range(len(D_a)))
    random.shuffle(P)
    functions = [cka, kappa, rho2, gaussian] + [coral, coral_unbiased, corr_coral] * (D_a.shape[1] == D_b.shape[1])
    for function in functions:
        value = function(D_a, D_b).item()
        absolute = 1e-5 if function in SCALE_FREE else 1e-9 * max(X.abs().max().item() ** 4 for X in (D_a, D_b))
        close = pytest.approx(value, rel=1e-5, abs=absolute)
        assert function(D_a[P], D_b[P]).item() == close, name(function)
        if function in SCALE_FREE:
            assert function(-4 * D_a, 0.3 * D_b).item() == close, name(function)


def test_translation_and_sign():
    for shape in ((9, 4), (5, 16)):
        D_a, D_b = pair(*shape)
        shift = torch.arange(shape[1]).double()
        for function in PAIRED:
            torch.testing.assert_close(function(D_a + shift, D_b - 7), function(D_a, D_b), rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(function(-D_a, D_b), function(D_a, D_b), rtol=1e-8, atol=1e-10)


def test_pairing_is_felt_by_the_cross_measures_only():
    D_a, D_b = pair(40, 3)
    other = D_b[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    for function in (coral, corr_coral):
        torch.testing.assert_close(function(D_a, other), function(D_a, D_b))
    for function in (cka, kappa, rho2, gaussian):
        assert function(D_a, other) < 0.5 * function(D_a, D_b), name(function)


def test_identical_modalities():
    D, _ = pair(30, 4)
    assert cka(D, D).item() == pytest.approx(1) and kappa(D, -3 * D).item() == pytest.approx(1)
    assert coral(D, D) == 0 and coral(D, -D) == 0 and corr_coral(D, 5 * D).item() == pytest.approx(0, abs=1e-30)
    assert rho2(D, D, epsilon=1e-6).item() == pytest.approx(1, abs=1e-4)


def test_kappa_means_zero_over_all_pairings():
    "Exactly: over all 120 pairings of five clips. CKA's mean is far from 0."
    D_a, D_b = pair(5, 6, 3, seed=4)
    every = [list(P) for P in permutations(range(5))]
    assert sum(kappa(D_a, D_b[P]).item() for P in every) / 120 == pytest.approx(0, abs=1e-12)
    assert sum(cka(D_a, D_b[P]).item() for P in every) / 120 > 0.3


def test_unbiased_where_coral_is_not():
    "Laplace features, where a correction that assumes Gaussian ones would be off."
    g, n, d = torch.Generator().manual_seed(5), 6, 3
    laplace = torch.distributions.Laplace(0.0, 1.0).icdf
    D = [laplace(torch.rand(20_000, n, d, generator=g, dtype=torch.float64)) * scale for scale in (1.0, 1.5)]
    truth = (2 * 1.5**2 - 2) ** 2 * d / (4 * d * d)
    read = torch.func.vmap(coral_unbiased)(*D)
    assert abs(read.mean() - truth) < 4 * read.std() / 20_000**0.5
    assert torch.func.vmap(coral)(*D).mean() > 1.5 * truth


# --- the cases that have to be defined ---


def test_constant_features_count_as_nothing():
    X = torch.randn(9, 3, generator=torch.Generator().manual_seed(6))
    flat = torch.full((9, 3), 0.1, requires_grad=True)  # its float32 mean is not exactly 0.1
    for function in SCALE_FREE:
        value = function(flat, X)
        (slope,) = torch.autograd.grad(value, flat)
        assert torch.equal(slope, torch.zeros_like(slope)), name(function)
        assert function is corr_coral or value == 0, name(function)
    for function in PAIRED:
        assert function(flat, flat) == 0, name(function)
    assert whiteness(flat).item() == 1


def test_one_constant_column_changes_nothing_elsewhere():
    D_a, D_b = pair(12, 4)
    with_dead = torch.cat([D_a, torch.full((12, 1), 1e3, dtype=torch.float64)], 1)
    torch.testing.assert_close(gaussian(with_dead, D_b), gaussian(D_a, D_b))
    torch.testing.assert_close(rho2(with_dead, D_b), rho2(D_a, D_b))
    torch.testing.assert_close(kappa(with_dead, D_b), kappa(D_a, D_b))


def test_a_single_outlier_is_no_likeness():
    spike = torch.zeros(8, 3)
    spike[2] = 5
    X = torch.randn(8, 3, generator=torch.Generator().manual_seed(7), requires_grad=True)
    assert kappa(spike, X) == 0 and kappa(X, spike) == 0
    assert torch.autograd.grad(kappa(spike, X), X)[0].abs().sum() == 0


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e37])
@pytest.mark.parametrize("function", SCALE_FREE, ids=name)
def test_any_finite_scale(function, scale):
    D_a, D_b = pair(10, 4, dtype=torch.float32)
    expected = function(D_a, D_b)
    D = (scale * D_a).requires_grad_()
    value = function(D, D_b)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(value, D)[0].isfinite().all()


@pytest.mark.parametrize("epsilon", [1e-12, 1e-9, 1e-4, 0.999])
def test_extreme_shrinkage_stays_finite(epsilon):
    D_a, D_b = pair(6, 20, dtype=torch.float32)
    D_b = D_a.clone().requires_grad_()
    value = rho2(D_a, D_b, epsilon) + gaussian(D_a, D_b, epsilon)
    value.backward()
    assert value.isfinite() and D_b.grad.isfinite().all()
    assert 0 <= gaussian(D_a, D_a, epsilon) <= 10 * math.log(1 / epsilon) and 0 <= rho2(D_a, D_a, epsilon) <= 1


@pytest.mark.parametrize("shape", [(300, 8), (8, 400)], ids=str)
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 0.3])
def test_copies_down_to_the_least_shrinkage(shape, epsilon):
    "Copies: ρ = (1−ε)λ/((1−ε)λ+ε) for the eigenvalues λ of their correlation matrix, right to three digits at any ε that is accepted."
    D, _ = pair(*shape)
    lam = np.linalg.svd(((D - D.mean(0)) / (D - D.mean(0)).norm(dim=0)).numpy())[1] ** 2
    short = epsilon / ((1 - epsilon) * lam + epsilon)  # 1 − ρ
    assert gaussian(D, D, epsilon).item() == pytest.approx(-np.log(short * (2 - short)).sum() / 2, rel=1e-3)
    assert rho2(D, D, epsilon).item() == pytest.approx(((1 - short) ** 2).sum() / shape[1], rel=1e-3)


def test_gradients_leave_the_format_before_values_do():
    "f(sD) = f(D), so the gradient grows as 1/s: infinite where the format ends, with a value that stays right."
    D_a, D_b = pair(16, 8, dtype=torch.float32)
    for faint in ((1e-7 * D_a).half(), 1e-42 * D_a):
        for function in (cka, kappa, rho2, gaussian):
            value = function(faint.requires_grad_(), D_b)
            slope = torch.autograd.grad(value, faint)[0]
            assert value.isfinite() and slope.isinf().any() and not slope.isnan().any(), name(function)


def test_a_nan_is_not_hidden():
    D_a, D_b = pair(8, 3)
    D_a[0, 0] = math.nan
    for function in PAIRED:
        assert function(D_a, D_b).isnan() and function(D_b, D_a).isnan(), name(function)


# --- formats ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("function", PAIRED, ids=name)
def test_half_precision_features(function, dtype):
    "The value is that of the rounded features in float32; the gradient comes back in the format of the features."
    for shape in ((16, 4), (8, 40)):
        D_a, D_b = (D.to(dtype) for D in pair(*shape))
        D_a.requires_grad_()
        value = function(D_a, D_b)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), function(D_a.double(), D_b.double()), rtol=1e-4, atol=1e-5)
        value.backward()
        assert D_a.grad.dtype == dtype and D_a.grad.isfinite().all() and D_a.grad.abs().sum() > 0


@pytest.mark.parametrize("function", PAIRED, ids=name)
def test_autocast_is_off_inside(function):
    for shape in ((16, 4), (8, 40)):
        D_a, D_b = (D.requires_grad_() for D in pair(*shape, dtype=torch.float32))
        plain = function(D_a, D_b)
        slope = torch.autograd.grad(plain, D_a)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = function(D_a, D_b)
        assert torch.equal(inside, plain)
        assert torch.equal(torch.autograd.grad(inside, D_a)[0], slope)


def test_formats_may_differ():
    D_a, D_b = pair(8, 3)
    assert kappa(D_a.half(), D_b).dtype == torch.float64
    assert kappa(D_a.half(), D_b.bfloat16()).dtype == torch.float32


def test_far_from_the_origin():
    "Mean 10⁴, spread 1: the float32 covariance has float32's own precision."
    D = torch.randn(32, 16, generator=torch.Generator().manual_seed(8)) + 1e4
    exact = covariance(D.double())
    assert (covariance(D).double() - exact).norm() < 1e-6 * exact.norm()
    shortcut = (D.T @ D - 32 * torch.outer(D.mean(0), D.mean(0))) / 31
    assert (shortcut.double() - exact).norm() > exact.norm()


def test_gram_form_near_alignment():
    D_a, _ = pair(16, 256, seed=9, dtype=torch.float32)
    for delta in (1e-1, 1e-2, 1e-3):
        D_b = D_a + delta * torch.randn(16, 256, generator=torch.Generator().manual_seed(10))
        exact = ((torch.cov(D_a.double().T) - torch.cov(D_b.double().T)) ** 2).sum() / (4 * 256**2)
        assert coral(D_a, D_b).item() == pytest.approx(exact.item(), rel=1e-3 if delta == 1e-3 else 1e-4)


def test_compiled_and_mapped():
    D_a, D_b = pair(8, 3, dtype=torch.float32)
    for function in (coral, kappa, rho2):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(D_a, D_b), function(D_a, D_b))
    for function in PAIRED:
        mapped = torch.func.vmap(function)(torch.stack([D_a, 2 * D_b]), torch.stack([D_b, D_a]))
        torch.testing.assert_close(
            mapped, torch.stack([function(D_a, D_b), function(2 * D_b, D_a)]), rtol=1e-5, atol=1e-6
        )


# --- what is refused ---


@pytest.mark.parametrize(
    "function, rows",
    [(f, 4 if f in (kappa, coral_unbiased) else 2) for f in PAIRED + [cross_covariance]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_too_few_rows(function, rows):
    with pytest.raises(ValueError, match=f"^{function.__name__} needs n ≥ {rows} rows, got {rows - 1}$"):
        function(torch.randn(rows - 1, 3), torch.randn(rows - 1, 3))
    assert function(*pair(rows, 3)).isfinite().all()


def test_refused():
    X = torch.randn(8, 3)
    with pytest.raises(ValueError, match="covariance needs n ≥ 2 rows, got 1"):
        covariance(X[:1])
    with pytest.raises(ValueError, match="gram needs n ≥ 1 rows, got 0"):
        gram(X[:0])
    with pytest.raises(ValueError, match="kappa needs the same rows in both, got 8 and 7 rows"):
        kappa(X, X[:7])
    with pytest.raises(ValueError, match=r"kappa needs floating-point features of shape \(n, d\), got shape \(8,\)"):
        kappa(X[:, 0], X)
    with pytest.raises(ValueError, match="torch.int64"):
        kappa(X.long(), X)
    with pytest.raises(ValueError, match="ndarray"):
        kappa(X.numpy(), X)
    with pytest.raises(ValueError, match=r"\(8, 0\)"):
        cka(X[:, :0], X)
    with pytest.raises(TypeError):
        kappa(X)
    with pytest.raises(TypeError):
        kappa(X, X, X)
    for function in (coral, corr_coral, coral_unbiased):
        with pytest.raises(ValueError, match=f"{function.__name__} needs equal widths, got 3 and 2"):
            function(X, X[:, :2])
    for epsilon in (0, 1, -0.1, math.nan):
        for function in (rho2, gaussian):
            with pytest.raises(ValueError, match="0 < epsilon < 1"):
                function(X, X, epsilon)
    for function in (rho2, gaussian):
        with pytest.raises(
            ValueError, match="^epsilon needs to be at least 1e-12, or double precision loses it; got 1e-17$"
        ):
            function(X, X, 1e-17)
        with pytest.raises(ValueError, match="at least 1e-12"):
            function(X, X, 0.99e-12)
        assert function(X, X, 1e-12).isfinite()


def test_keywords():
    D_a, D_b = pair(8, 3)
    assert rho2(D_b=D_b, D_a=D_a, epsilon=0.2) == rho2(D_a, D_b, 0.2) != rho2(D_a, D_b)


def test_inputs_are_left_alone():
    D_a, D_b = pair(8, 3)
    before = D_a.clone(), D_b.clone()
    for function in PAIRED:
        function(D_a, D_b)
    assert torch.equal(D_a, before[0]) and torch.equal(D_b, before[1])


# --- guards and switches, each with a damage that its check has to notice ---


def nearly_one_outlier(cov):
    "One clip far from the rest: nearly nothing to compare, but not nothing, down to 1e-4 of its distance."
    g = torch.Generator().manual_seed(0)
    for delta in (1e-2, 1e-3, 1e-4):
        D, X = (
            delta * torch.randn(8, 3, generator=g, dtype=torch.float64),
            torch.randn(8, 3, generator=g, dtype=torch.float64),
        )
        D[0] += 1
        K, M = np_u_centred(D.numpy()), np_u_centred(X.numpy())
        assert cov.kappa(D, X).item() == pytest.approx((K * M).sum() / np.linalg.norm(K) / np.linalg.norm(M), abs=1e-6)
    for spike in (torch.zeros(8, 3), torch.zeros(8, 3).double()):
        spike[2] = 5
        assert cov.kappa(spike + 1e-7 * X.to(spike.dtype), X) == 0


def power_begins_where_it_is_said(cov):
    "1 for entries up to 2^(80/k), a power of two that brings larger ones below it; in float32 finite at 1e9 and infinite at 1e11."
    for k in (1, 2, 4):
        below, at = (torch.full((2, 2), x * 2.0 ** (80 // k), dtype=torch.float64) for x in (1 - 1e-6, 1.0))
        assert (
            cov._power(k, 1e-9 * at) == cov._power(k, below) == 1
            and cov._power(k, at) == 2
            and cov._power(k, below, 8 * at) == 16
        )
    D_a, D_b = pair(16, 8, dtype=torch.float32)
    for function in (cov.coral, cov.coral_unbiased):
        exact = function(D_a.double() * 1e9, D_b.double() * 1e9).item()
        assert (
            function(D_a * 1e9, D_b * 1e9).item() == pytest.approx(exact, rel=1e-4)
            and function(D_a * 1e11, D_b * 1e11).isinf()
        )
    assert cov.whiteness(D_a * 1e9).isfinite() and cov.whiteness(D_a * 1e11).isinf()


def at_most_one(cov):
    "Copies, whose cosine is 1 up to rounding: never above 1."
    for seed in range(60):
        D = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
        for function in (cov.cka, cov.kappa):
            assert 1 - 1e-6 < function(D, 3 * D) <= 1


def operations(function, *features):
    with FlopCounterMode(display=False) as counter:
        function(*features)
    return counter.get_total_flops()


def the_cheaper_side(cov):
    "n × n matrices for n < d/2, else d × d: counted in operations of the matrix products, on both sides of the switch."
    for n, d in ((16, 512), (31, 64), (32, 64), (200, 8)):
        D, product = torch.randn(n, d), 2 * (n * n * d if n < d / 2 else n * d * d)
        assert operations(cov.whiteness, D) == product
        assert operations(cov.coral, D, D) == operations(cov.corr_coral, D, D) == product * (3 if n < d / 2 else 2)
        assert operations(cov.coral_unbiased, D, D) == product * (3 if n < d / 2 else 9)
    for n, a, b in ((10, 32, 16), (11, 32, 16)):
        few = n * (a + b) < a * b
        across = 2 * n * n * (a + b) if few else 2 * n * a * b
        within = sum(2 * (n * n * 2 * d if 2 * n < d else n * d * d) for d in (a, b))
        assert operations(cov.cka, torch.randn(n, a), torch.randn(n, b)) == across + within


CODE = [
    (nearly_one_outlier, "nothing = (aa <= 1e-10", "nothing = (aa <= 1e-3"),
    (nearly_one_outlier, "nothing = (aa <= 1e-10", "nothing = (aa <= 1e-20"),
    (power_begins_where_it_is_said, "exponent - 80 // k", "exponent - 88 // k"),
    (power_begins_where_it_is_said, "- 80 // k).clamp(min=0)", "- 80 // k)"),
    (at_most_one, "(aa <= 0) | (bb <= 0)).clamp(0, 1)", "(aa <= 0) | (bb <= 0))"),
    (the_cheaper_side, "if n >= d / 2:\n        squared", "if True:\n        squared"),
    (the_cheaper_side, "if n >= d / 2:\n        return", "if n > d / 2:\n        return"),
    (the_cheaper_side, "if n * (a + b) < a * b else", "if n * (a + b) <= 0.9 * a * b else"),
]


@pytest.mark.parametrize("check", dict.fromkeys(check for check, _, _ in CODE), ids=name)
def test_guard_holds(check):
    check(cov)


@pytest.mark.parametrize("check, old, new", CODE, ids=[f"{name(line[0])}-{k}" for k, line in enumerate(CODE)])
def test_damaged_guard_is_noticed(check, old, new):
    source, damaged = Path(cov.__file__).read_text(encoding="utf-8"), types.ModuleType("damaged")
    assert source.count(old) == 1, f"covariance.py no longer says {old!r} (once): adapt the damage"
    exec(compile(source.replace(old, new), "<damaged>", "exec"), damaged.__dict__)
    with pytest.raises(AssertionError):
        check(damaged)


DEGREES = {
    centred: (1, 1),
    covariance: (2, 2),
    cross_covariance: (2, 2),
    gram: (1, 2),
    coral: (2, 4),
    coral_unbiased: (4, 4),
}


@pytest.mark.parametrize("function", DEGREES, ids=lambda f: f.__name__)
def test_powers_of_two_change_no_digit_and_rows_are_counted(function):
    least, degree = DEGREES[function]
    g = torch.Generator().manual_seed(least + degree)
    D = [
        torch.randn(9, 3, generator=g, dtype=torch.float64)
        for _ in range(1 if function in (centred, covariance, gram) else 2)
    ]
    scale = 2.0**100  # far beyond where sums of powers are taken in another unit
    assert torch.equal(function(*(scale * X for X in D)), scale**degree * function(*D))
    assert function(*(X[:least] for X in D)).isfinite().all()
    with pytest.raises(ValueError, match=f"{function.__name__} needs n ≥ {least} rows, got {least - 1}"):
        function(*(X[: least - 1] for X in D))


def test_likeness_ends_at_one():
    for seed in range(60):
        D = torch.randn(7, 1 + seed % 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for measure in (kappa, cka):
            assert 1 - 1e-9 < measure(D, 3 * D - 2) <= 1
        assert -1 <= kappa(D, D.flip(0)) <= 1


def test_columns_have_length_one_or_none():
    size = torch.tensor([1e-150, 5.0, 1e150, 0.0], dtype=torch.float64)
    D = 7 + torch.randn(20, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    Z = cov._standardised(D * size)
    assert torch.allclose(Z.norm(dim=0), (size > 0).double()) and Z.mean(0).abs().max() < 1e-15


def test_a_constant_column_has_no_pull():
    D = torch.randn(9, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    D[:, 1] = 2.0
    D.requires_grad_()
    (slope,) = torch.autograd.grad((cov._standardised(D) ** 3).sum(), D)
    assert slope.isfinite().all() and slope[:, 1].tolist() == [0] * 9 and slope[:, 0].abs().min() > 0


def test_whiteness_takes_two_rows():
    D = torch.randn(2, 3, dtype=torch.float64)
    assert whiteness(D).isfinite()
    with pytest.raises(ValueError, match="whiteness needs n ≥ 2 rows, got 1"):
        whiteness(D[:1])
