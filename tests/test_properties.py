"Any finite features, labels and seeds: what the measures and the label generator promise, and that a run repeats itself."

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dmsil import LabelGenerator, ModalAlignment
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
from dmsil.labels import axis_coordinate, bounded_distance, disagreement, momentum

EQUAL, ANY = (coral, coral_unbiased, corr_coral), (cka, kappa, rho2, gaussian)
SCALE_FREE, BILINEAR = (corr_coral, *ANY), {coral: 4, coral_unbiased: 4}
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def bounds(function, d_a, d_b, epsilon=0.1):
    most = {
        corr_coral: 0.5,
        gaussian: min(d_a, d_b) / 2 * math.log(1 / epsilon),
        coral: math.inf,
        coral_unbiased: math.inf,
    }
    return {kappa: -1.0, coral_unbiased: -math.inf}.get(function, 0.0), most.get(function, 1.0)


@st.composite
def matrices(draw, equal=False, least=2, dtypes=DTYPES, scales=(-6, 6)):
    "Two feature matrices of any rank, scale, place and format, with constant columns and repeated rows; n may be below d."
    n, d_a, seed = draw(st.integers(least, 12)), draw(st.integers(1, 14)), draw(st.integers(0, 2**31))
    d_b, g, dtype = (
        d_a if equal else draw(st.integers(1, 14)),
        torch.Generator().manual_seed(seed),
        draw(st.sampled_from(dtypes)),
    )
    made = []
    for d in (d_a, d_b):
        rank = draw(st.integers(0, min(n, d)))
        D = torch.randn(n, rank, generator=g, dtype=torch.float64) @ torch.randn(
            rank, d, generator=g, dtype=torch.float64
        )
        if draw(st.booleans()):
            D[:, draw(st.integers(0, d - 1))] = draw(st.sampled_from([0.0, 0.1, -1e3]))
        if draw(st.booleans()):
            D[draw(st.integers(0, n - 1))] = D[0]
        low, high = (
            (max(scales[0], -4), min(scales[1], 3)) if dtype == torch.float16 else scales
        )  # 65,504 is float16's largest
        D = D * 10.0 ** draw(st.integers(low, high)) + draw(st.sampled_from([0.0, 0.0, 3.0]))
        made.append(D.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else D.to(dtype))
    return made


def gradients(value, *D):
    return torch.autograd.grad(value, D, allow_unused=True)


@few
@given(matrices(equal=True, least=4))
def test_every_measure_is_finite_symmetric_and_within_its_bounds(D):
    "Values, and gradients in the format of the features (a gradient beyond float16's 65,504 is infinite there, but never not a number)."
    D_a, D_b = (X.requires_grad_() for X in D)
    for function in (*EQUAL, *ANY):
        value, (low, high) = function(D_a, D_b), bounds(function, D_a.shape[1], D_b.shape[1])
        assert value.isfinite() and low - 1e-5 <= value <= high + 1e-5, function
        scale = max(1.0, *(X.detach().double().abs().max().item() for X in D)) ** BILINEAR.get(function, 0)
        assert function(D_b, D_a).item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5 * scale), function
        for slope in gradients(value, D_a, D_b):
            assert slope.dtype == D_a.dtype and (
                not slope.isnan().any() if slope.dtype == torch.float16 else slope.isfinite().all()
            ), function
    for D_s in D:
        assert whiteness(D_s).isfinite() and whiteness(D_s) > -1e-4


@few
@given(matrices(least=4))
def test_measures_of_unequal_widths(D):
    for function in ANY:
        value, (low, high) = function(*D), bounds(function, D[0].shape[1], D[1].shape[1])
        assert value.isfinite() and low - 1e-5 <= value <= high + 1e-5, function


@pytest.mark.parametrize("n", [2, 3])
def test_as_few_rows_as_each_allows(n):
    D_a, D_b = torch.randn(2, n, 5, generator=torch.Generator().manual_seed(n)).unbind()
    for function in (coral, corr_coral, cka, rho2, gaussian):
        D = [X.clone().requires_grad_() for X in (D_a, D_b)]
        low, high = bounds(function, 5, 5)
        assert low <= function(*D) <= high + 1e-5 and all(
            slope.isfinite().all() for slope in gradients(function(*D), *D)
        )
    for function in (kappa, coral_unbiased):
        with pytest.raises(ValueError, match="4 rows"):
            function(D_a, D_b)


@few
@given(matrices(equal=True, least=4, dtypes=(torch.float64,), scales=(-2, 2)), st.randoms(use_true_random=False))
def test_order_place_and_turn(D, random):
    "The same order of clips, another origin, other orthonormal axes (where a measure promises it): nothing changes."
    (D_a, D_b), order = D, list(range(len(D[0])))
    random.shuffle(order)
    g = torch.Generator().manual_seed(random.randrange(2**31))
    Q_a, Q_b = (torch.linalg.qr(torch.randn(X.shape[1], X.shape[1], generator=g, dtype=torch.float64)).Q for X in D)
    varied = all(
        (X - X[0]).abs().max() > 1e-6 * X.abs().max() for X in D
    )  # else only the rounding of what is constant would be compared
    moved = [X + torch.linspace(-1, 1, X.shape[1], dtype=torch.float64) * X.abs().max() for X in D]
    for function in (*EQUAL, *ANY):
        value, scale = (
            function(D_a, D_b).item(),
            max(1.0, *(X.abs().max().item() for X in D)) ** BILINEAR.get(function, 0),
        )
        close = pytest.approx(value, rel=1e-6, abs=1e-6 * scale)
        assert function(D_a[order], D_b[order]).item() == close, function
        if varied:
            assert function(*moved).item() == close, function
        if function in (coral, coral_unbiased):
            assert function(D_a @ Q_a, D_b @ Q_a).item() == close, function  # the same turn of both
        if varied and function in (cka, kappa):
            assert function(D_a @ Q_a, D_b @ Q_b).item() == pytest.approx(value, abs=1e-5), function  # each its own
    assert whiteness(D_a @ Q_a).item() == pytest.approx(whiteness(D_a).item(), rel=1e-6, abs=1e-9)


@few
@given(matrices(equal=True, least=4, dtypes=(torch.float32,)), st.integers(-20, 20), st.integers(-20, 20))
def test_units_do_not_matter_where_that_is_promised(D, i, j):
    "Powers of two, which are exact: the same bits."
    for function in (cka, kappa, rho2, gaussian, corr_coral):
        assert torch.equal(function(D[0] * 2.0**i, D[1] * 2.0**j), function(*D)), function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 1)], ids=str)
def test_nothing_finite_becomes_not_a_number(dtype, shape):
    "Up to the largest number of the format, alone or beside small ones: infinite where the truth is beyond it, but never not a number."
    g, most = torch.Generator().manual_seed(0), torch.finfo(dtype).max
    unit = [torch.rand(shape, generator=g, dtype=dtype) * 2 - 1 for _ in range(2)]
    for high in (1e9, 1e12, 1e19, 1e30, most, most**0.5):
        for D_a, D_b in (
            (unit[0] * high, unit[1] * high),
            (unit[0] * high, unit[1]),
            (unit[0], unit[0] * high),
            (unit[0] * high, unit[0] * high),
        ):
            for function in (*EQUAL, *ANY):
                assert not function(D_a, D_b).isnan(), (function, high)
            for value in (whiteness(D_a), covariance(D_a), gram(D_a), centred(D_a), cross_covariance(D_a, D_b)):
                assert not value.isnan().any(), high
            for function in SCALE_FREE:
                assert function(D_a, D_b).isfinite()
    assert (
        coral(unit[0] * 1e19, unit[1] * 1e19).isinf()
        or dtype == torch.float64
        and coral(unit[0] * 1e19, unit[1] * 1e19) > 1e70
    )


@pytest.mark.parametrize("power", [-900, -400, 400, 900])
def test_the_scale_of_float64_features_does_not_matter(power):
    D_a, D_b = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).unbind()
    for function in SCALE_FREE:
        assert torch.equal(function(D_a * 2.0**power, D_b), function(D_a, D_b)), function


def test_large_features_are_computed_exactly():
    "CORAL of features 2⁶⁰ times as large is 2²⁴⁰ times as large, in float64 to the bit."
    D_a, D_b = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()
    for function in (coral, coral_unbiased):
        assert function(D_a * 2.0**60, D_b * 2.0**60) == function(D_a, D_b) * 2.0**240
    torch.testing.assert_close(covariance(D_a * 2.0**200), covariance(D_a) * 2.0**400, rtol=0, atol=0)
    torch.testing.assert_close(
        cross_covariance(D_a * 1e30, D_b * 1e-30), cross_covariance(D_a, D_b), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        whiteness(D_a * 2.0**60), (covariance(D_a) * 2.0**120).square().sum() / 5, rtol=1e-12, atol=0
    )


# --- labels ---


@st.composite
def steps(draw):
    "A generator, and batches of features of any size, alike or not."
    n, widths = (
        draw(st.integers(2, 9)),
        {"fusion": draw(st.integers(1, 4)), "text": draw(st.integers(1, 4)), "audio": 1},
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    labels = torch.tensor(rng.choice([-3.0, -0.4, 0.0, 1e-30, 2.0, 3.0], n), dtype=torch.float32)
    gen = LabelGenerator(
        labels,
        widths,
        mode=draw(st.sampled_from(["selfmm", "robust"])),
        neutral=draw(st.sampled_from(["exclude", "positive"])),
    )
    sizes = [
        draw(st.sampled_from([0.0, 1e-45, 1e-30, 1e-6, 1.0, 1e6, 1e30, 3e38])) for _ in range(draw(st.integers(1, 8)))
    ]
    batches = [
        ({s: torch.tensor(rng.uniform(-1, 1, (n, d)) * size, dtype=torch.float32) for s, d in widths.items()}, size)
        for size in sizes
    ]
    for features, _ in batches:
        if rng.random() < 0.3:
            features["text"] = features["text"][:1].expand(n, -1)
    return gen, [features for features, _ in batches]


@few
@given(steps())
def test_labels_stay_finite_and_within_the_bound(case):
    "Features of any finite size, one after the other: labels, weights and sums stay numbers."
    gen, batches = case
    for epoch, features in enumerate(batches, 1):
        gen.update(features, torch.arange(len(features["text"])), epoch)
        for s, y in gen.labels.items():
            assert y.isfinite().all() and y.abs().max() <= 3 + 1e-6
            w = gen.weights(s, torch.arange(len(y)))
            assert w.isfinite().all() and 0 <= w.min() and w.max() <= 1
        for name, buffer in gen.named_buffers():
            assert buffer.isfinite().all(), name


def test_the_line_recovers_from_a_coordinate_that_was_huge():
    "Centres that nearly coincide once send t to 1e30; the line of the clips afterwards is theirs alone."
    from dmsil.labels import RunningLine

    rows, once, y = (
        torch.arange(6),
        torch.ones(6, dtype=torch.bool),
        torch.tensor([-2.0, -1, 0, 1, 2, 3], dtype=torch.float64),
    )
    line = RunningLine(6)
    for t in (y * 1e30, y * 1e200, y / 2):
        line.replace(rows, once, t, y)
    torch.testing.assert_close(
        line(torch.tensor([0.0, 1.0], dtype=torch.float64)), torch.tensor([0.0, 2.0], dtype=torch.float64)
    )


positive = st.floats(0, 1e30, allow_subnormal=False)


@few
@given(
    positive, positive, st.floats(-3, 3), st.floats(allow_nan=True, allow_infinity=True, width=32), st.integers(2, 50)
)
def test_pure_functions_of_labels(D_p, D_n, y, y_new, epoch):
    D_p, D_n, y, y_new = (torch.tensor(x, dtype=torch.float64) for x in (D_p, D_n, y, y_new))
    assert -1 <= bounded_distance(D_p, D_n) <= 1 and bounded_distance(D_p, D_n) == -bounded_distance(D_n, D_p)
    assert momentum(y, y_new, epoch, 3.0).abs() <= 3 and not momentum(y, y_new, epoch, 3.0).isnan()
    assert 0 <= disagreement(y, y.neg()) <= 1
    assert axis_coordinate(D_p, D_n, torch.tensor(1.0, dtype=torch.float64)) == D_n**2 - D_p**2


# --- half precision ---

HALVES = {torch.bfloat16: 0.02, torch.float16: 0.005}  # largest difference allowed of a measure in [0, 1]


def encoded(seed, n=64):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    cause = torch.randn(n, 6, generator=g)
    encoders = {s: nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16)) for s in ("text", "audio", "fusion")}
    return encoders, {s: torch.cat([cause, torch.randn(n, 6, generator=g)], 1) for s in encoders}


@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
@pytest.mark.parametrize("seed", range(4))
def test_autocast_agrees_with_float32(dtype, seed):
    "Encoders under autocast, bf16 or fp16: measures within 0.02 or 0.005, labels within 0.3 or 0.05, gradients (of 1024 × loss) 10 or 2 %."
    encoders, x = encoded(seed)
    exact = {s: f(x[s]) for s, f in encoders.items()}
    with torch.autocast("cpu", dtype):
        half = {s: f(x[s]) for s, f in encoders.items()}
    assert half["text"].dtype == dtype
    for function in SCALE_FREE:
        allowed = HALVES[dtype] * max(1.0, bounds(function, 16, 16)[1])
        assert abs(function(half["text"], half["audio"]) - function(exact["text"], exact["audio"])) < allowed, function
    for measure in ("kappa", "rho2", "gaussian", "corr", "coral"):
        align, W = (
            ModalAlignment({("text", "audio"): 0.3}, measure=measure, whitening=0),
            list(encoders["text"].parameters()),
        )
        a, b = (
            torch.cat([slope.flatten() for slope in torch.autograd.grad(1024 * align(h).total, W, retain_graph=True)])
            for h in (half, exact)
        )
        assert (a - b).norm() < {torch.bfloat16: 0.1, torch.float16: 0.02}[dtype] * b.norm(), (
            measure,
            (a - b).norm() / b.norm(),
        )
    labels, made = torch.randn(64, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3), []
    for h in (half, exact):
        gen = LabelGenerator(labels, {"fusion": 16, "text": 16, "audio": 16}, mode="robust")
        for epoch in (1, 2, 3):
            gen.update(h, torch.arange(64), epoch)
        made.append(gen.labels["text"])
    assert (made[0] - made[1]).abs().max() < {torch.bfloat16: 0.3, torch.float16: 0.05}[dtype]


# --- the same again ---

AGAIN = """
import hashlib, json, sys, torch
torch.set_num_threads(int(sys.argv[1]))
import dmsil
from dmsil.clips import synthetic_clips
run = dmsil.fit(synthetic_clips(n=(200, 60, 60)), dmsil.preset(sys.argv[2], epochs=2, device="cpu"), progress=False)
bits = b"".join(x.numpy().tobytes() for x in [*run.model.state_dict().values(), run.generator.y])
print(json.dumps([hashlib.sha256(bits).hexdigest(), run.metrics["MAE"]]))
"""


def again(threads, name):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    end = subprocess.run([sys.executable, "-c", AGAIN, str(threads), name], capture_output=True, text=True, env=env)
    assert end.returncode == 0, end.stderr
    return json.loads(end.stdout.splitlines()[-1])


def test_the_same_seed_is_the_same_run():
    "Two processes with one thread and two with two: bit for bit within each; between them only to rounding."
    one, two = again(1, "dmsil_kappa"), again(2, "dmsil_kappa")
    assert one == again(1, "dmsil_kappa") and two == again(2, "dmsil_kappa")
    assert one[1] == pytest.approx(two[1], abs=1e-3)
