"The rewriting helper never changes a value: random expressions and Gaussian moments, against numbers."

from itertools import permutations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Identity, MatrixSymbol, OneMatrix, Trace

from dmsil.proofs import Facts, equal, expectation, normal_form, rewrite, words

n, d = sp.symbols("n d", integer=True, positive=True)
H, D, E = MatrixSymbol("H", n, n), MatrixSymbol("D", n, d), MatrixSymbol("E", n, d)
S, Q, one = MatrixSymbol("S", d, d), MatrixSymbol("Q", d, d), OneMatrix(n, 1)
FACTS = Facts((H, S), {H * H: H, H * one: 0, Q * Q.T: Identity(d), Trace(H): n - 1})
ROWS, WIDTH = 4, 3

rng = np.random.default_rng(0)
root = rng.normal(size=(WIDTH, WIDTH))
VALUES = {
    H: np.eye(ROWS) - 1 / ROWS, D: rng.normal(size=(ROWS, WIDTH)), E: rng.normal(size=(ROWS, WIDTH)),
    S: root + root.T, Q: np.linalg.qr(root)[0],
}  # fmt: skip


def number(expr):
    "The value of an expression at ROWS and WIDTH, by evaluating SymPy's own tree: no words involved."
    expr = sp.sympify(expr)
    if expr in VALUES:
        return VALUES[expr]
    if isinstance(expr, Trace):
        return np.trace(number(expr.arg))
    if isinstance(expr, Identity):
        return np.eye(int(expr.rows.subs({n: ROWS, d: WIDTH})))
    if isinstance(expr, (OneMatrix, sp.ZeroMatrix)):
        shape = [int(side.subs({n: ROWS, d: WIDTH})) for side in expr.shape]
        return np.ones(shape) if isinstance(expr, OneMatrix) else np.zeros(shape)
    if isinstance(expr, sp.Transpose):
        return number(expr.arg).T
    if isinstance(expr, sp.MatPow):
        return np.linalg.matrix_power(number(expr.base), int(expr.exp))
    if isinstance(expr, (sp.MatMul, sp.Mul)):
        product = 1.0
        for part in map(number, expr.args):
            product = product @ part if np.ndim(product) == 2 and np.ndim(part) == 2 else product * part
        return product
    if isinstance(expr, (sp.MatAdd, sp.Add)):
        return sum(map(number, expr.args))
    if isinstance(expr, sp.Pow):
        return number(expr.base) ** float(expr.exp)
    return float(expr.subs({n: ROWS, d: WIDTH}))


LETTERS = {
    ("n", "n"): [H, one * one.T, H * H],
    ("d", "d"): [S, Q, Q.T, Q * Q.T],
    ("n", "d"): [D, E],
    ("d", "n"): [D.T, E.T],
}


@st.composite
def products(draw, start="d", end="d"):
    "A random product of fitting letters from one shape to another."
    at, factors = start, []
    for _ in range(draw(st.integers(1, 5))):
        to = draw(st.sampled_from("nd"))
        factors.append(draw(st.sampled_from(LETTERS[at, to])))
        at = to
    if at != end:
        factors.append(draw(st.sampled_from(LETTERS[at, end])))
    return sp.MatMul(*factors)


@settings(max_examples=60, deadline=None)
@given(products(), products(), st.integers(-3, 3))
def test_normal_form_keeps_the_value(x, y, k):
    for expr in (x + k * y.T, Trace(x * y), k * Trace(x) * Trace(y.T) / n):
        np.testing.assert_allclose(number(normal_form(expr, FACTS)), number(expr), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(products("d", "n"), products("n", "d"), products())
def test_traces_rotate_and_transpose(x, y, z):
    assert equal(Trace(x * y * z), Trace(z * x * y), FACTS)
    assert equal(Trace(x * y * z), Trace((z * x * y).T), FACTS)


@settings(max_examples=60, deadline=None)
@given(products(), products())
def test_equal_claims_nothing_false(x, y):
    if equal(Trace(x), Trace(y), FACTS):
        np.testing.assert_allclose(number(Trace(x)), number(Trace(y)), rtol=1e-9, atol=1e-9)
    if equal(x, y, FACTS):
        np.testing.assert_allclose(number(x), number(y), rtol=1e-9, atol=1e-9)


def test_trace_of_a_vanishing_word_has_the_right_size():
    v = MatrixSymbol("v", d, 1)
    unit = Facts(rules={v.T * v: 1, Q.T * Q: Identity(d)})
    assert normal_form(Trace(v * v.T), unit) == 1
    assert normal_form(Trace(Q * Q.T), unit) == d
    assert normal_form(Trace(Identity(d) + Q.T * Q), unit) == 2 * d
    assert normal_form(Trace(one * one.T)) == n


def test_commuting_letters():
    A, B = MatrixSymbol("A", d, d), MatrixSymbol("B", d, d)
    commute = Facts((A, B), {B * A: A * B})
    assert equal(B * A * B * A, A * A * B * B, commute)
    assert not equal(A * B * B, A * A * B, commute)


def test_what_is_rejected():
    with pytest.raises(TypeError, match="HadamardProduct"):
        words(sp.hadamard_product(S, Q))
    with pytest.raises(TypeError, match="Inverse"):
        words(sp.Inverse(S) * Q)
    with pytest.raises(ValueError, match="do not fit"):
        words(D * D)
    with pytest.raises(ValueError, match="do not fit"):
        normal_form(Trace(D.T * D + H))
    with pytest.raises(ValueError, match="do not fit"):
        normal_form(Trace(D))
    with pytest.raises(ValueError, match="do not fit"):
        equal(D * S, D.T)
    with pytest.raises(ValueError, match="one product"):
        rewrite(words(S), Facts(rules={2 * S: Q}))
    with pytest.raises(ValueError, match="do not fit"):
        rewrite(words(D), Facts(rules={D: 1}))
    for moment in (Identity(d), 2 * S):
        with pytest.raises(ValueError, match="expected a letter"):
            expectation(Trace(D.T * D), {(D, D): moment})
    with pytest.raises(ValueError, match="circles"):
        rewrite(words(S * Q), Facts(rules={S * Q: Q * S, Q * S: S * Q}), limit=100)


def isserlis(array, covariance):
    "E Σ array[i, j, …] x_i x_j … for x ~ N(0, covariance): the sum over pairings, written with plain indices."
    order = array.ndim
    pairings = {frozenset(frozenset(p[k : k + 2]) for k in range(0, order, 2)) for p in permutations(range(order))}
    letters, total = "abcdefgh"[:order], 0.0
    for pairing in pairings:
        pairs = ["".join(letters[i] for i in sorted(pair)) for pair in pairing]
        total += np.einsum(f"{letters},{','.join(pairs)}->", array, *[covariance] * len(pairs))
    return total


QUARTIC = [
    Trace(D.T * H * D * E.T * H * E), Trace(D.T * H * E) ** 2, Trace(D.T * H * E * D.T * H * E), Trace(D.T * H * D) * Trace(E.T * E * S),
    Trace(D * S * E.T) * Trace(D * Q * D.T), Trace(D * Q * E.T * D * E.T), Trace(D * S * D.T * E * Q * E.T), Trace(D.T * D) ** 2,
]  # fmt: skip


@pytest.mark.parametrize("expr", QUARTIC, ids=str)
def test_expectation_is_isserlis(expr, monkeypatch):
    rows, width = 2, 2
    monkeypatch.setitem(globals(), "ROWS", rows)
    monkeypatch.setitem(globals(), "WIDTH", width)
    local = np.random.default_rng(1)
    mix = local.normal(size=(2 * width, 2 * width))
    Sigma = mix @ mix.T
    S_d, S_e, S_de = MatrixSymbol("S_d", d, d), MatrixSymbol("S_e", d, d), MatrixSymbol("S_de", d, d)
    symmetric = local.normal(size=(width, width))
    fixed = {H: np.eye(rows) - 1 / rows, S: symmetric + symmetric.T, Q: local.normal(size=(width, width))}
    moments = {S_d: Sigma[:width, :width], S_e: Sigma[width:, width:], S_de: Sigma[:width, width:]}
    for letter, value in {**fixed, **moments}.items():
        monkeypatch.setitem(VALUES, letter, value)
    facts = Facts((H, S, S_d, S_e), {H * H: H})
    found = number(expectation(expr, {(D, D): S_d, (E, E): S_e, (D, E): S_de}, facts))

    size = 2 * rows * width
    covariance = np.kron(np.eye(rows), Sigma)
    basis = np.eye(size).reshape(size, rows, 2 * width)

    def at(point):
        monkeypatch.setitem(VALUES, D, point[:, :width])
        monkeypatch.setitem(VALUES, E, point[:, width:])
        return number(expr)

    # The coefficients of a quartic form, from its values at sums of basis points (polarisation).
    coefficients = np.zeros((size,) * 4)
    cache = {}
    for index in np.ndindex(*coefficients.shape):
        key = tuple(sorted(index))
        if key not in cache:
            cache[key] = sum(
                (-1) ** (4 - sum(mask)) * at(sum((basis[i] for i, on in zip(key, mask, strict=True) if on), np.zeros((rows, 2 * width))))
                for mask in np.ndindex(2, 2, 2, 2)
            ) / 24  # fmt: skip
        coefficients[index] = cache[key]
    np.testing.assert_allclose(found, isserlis(coefficients, covariance), rtol=1e-9)


def test_odd_moments_vanish_and_absent_pairs_are_independent():
    Sigma = MatrixSymbol("Sigma", d, d)
    c = MatrixSymbol("c", d, n)
    assert expectation(Trace(c * D) * Trace(D.T * D), {(D, D): Sigma}) == 0
    independent = expectation(Trace(D.T * H * D * E.T * H * E), {(D, D): Sigma, (E, E): S}, FACTS)
    assert equal(independent, (n - 1) ** 2 * Trace(Sigma * S), FACTS | Facts((Sigma,)))
