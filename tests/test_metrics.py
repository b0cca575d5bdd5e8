"The metrics against scikit-learn, SciPy, a restatement in plain Python, and hand-worked clips."

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from dmsil.metrics import metrics_table, sentiment_metrics

MOSI = ["Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score", "Mult_acc_5", "Mult_acc_7", "MAE", "Corr"]
SIMS = ["Mult_acc_2", "Mult_acc_3", "Mult_acc_5", "F1_score", "MAE", "Corr"]


def plain(pred, truth, dataset):
    "The definitions in words, clip by clip, with no NumPy in the classes."

    def share(f, rows):
        return sum(f(p) == f(t) for p, t in rows) / len(rows) if rows else math.nan

    def clip(x, b):
        return max(-b, min(b, x))

    def f1(f, rows):
        if not rows:
            return math.nan
        total = 0.0
        for k in {f(t) for _, t in rows}:
            tp = sum(f(p) == k == f(t) for p, t in rows)
            off = sum((f(p) == k) != (f(t) == k) for p, t in rows)
            total += sum(f(t) == k for _, t in rows) / len(rows) * 2 * tp / (2 * tp + off)
        return total

    rows = list(zip(map(float, pred), map(float, truth), strict=True))
    if dataset in ("sims", "simsv2"):
        rows = [(clip(p, 1.0), clip(t, 1.0)) for p, t in rows]
    n = len(rows)
    mp, mt = sum(p for p, _ in rows) / n, sum(t for _, t in rows) / n
    var_p, var_t = sum((p - mp) ** 2 for p, _ in rows), sum((t - mt) ** 2 for _, t in rows)
    constant = len({p for p, _ in rows}) == 1 or len({t for _, t in rows}) == 1
    corr = math.nan if constant else sum((p - mp) * (t - mt) for p, t in rows) / math.sqrt(var_p * var_t)
    end = [sum(abs(p - t) for p, t in rows) / n, corr]
    if dataset in ("sims", "simsv2"):
        bins = [(-1.01, 0, 1.01), (-1.01, -0.1, 0.1, 1.01), (-1.01, -0.7, -0.1, 0.1, 0.7, 1.01)]
        fs = [lambda x, e=e: next(i for i in range(len(e) - 1) if e[i] < x <= e[i + 1]) for e in bins]
        return dict(zip(SIMS, [*(share(f, rows) for f in fs), f1(fs[0], rows), *end], strict=True))
    has0, non0 = (lambda x: x >= 0), (lambda x: x > 0)
    kept = [(p, t) for p, t in rows if t != 0]
    five, seven = (lambda x: round(clip(x, 2.0))), (lambda x: round(clip(x, 3.0)))  # Python rounds half to even too
    two = [share(has0, rows), f1(has0, rows), share(non0, kept), f1(non0, kept)]
    return dict(zip(MOSI, [*two, share(five, rows), share(seven, rows), *end], strict=True))


grid = st.sampled_from(
    [-3.5, -3, -2.5, -2, -1.5, -1, -0.7, -0.5, -0.1, -1e-6, 0.0, 1e-6, 0.1, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 3.5]
)
values = st.one_of(grid, st.floats(-4, 4, allow_nan=False, width=32).map(lambda x: round(x, 3)))


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims", "simsv2"])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(values, values), min_size=1, max_size=30))
def test_equals_the_definitions_in_words(dataset, rows):
    pred, truth = zip(*rows, strict=True)
    ours, theirs = sentiment_metrics(pred, truth, dataset), plain(pred, truth, dataset)
    assert list(ours) == (SIMS if "sims" in dataset else MOSI)
    assert all(type(v) is float for v in ours.values())
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6 if name == "Corr" else 1e-12, nan_ok=True), name


def test_equals_scikit_learn_on_random_clips():
    rng = np.random.default_rng(0)
    truth = np.round(rng.uniform(-3, 3, 686), 1)
    pred = truth + rng.normal(0, 0.9, 686)
    m, kept = sentiment_metrics(pred, truth), truth != 0
    assert kept.sum() < len(kept)
    for prefix, (p, t) in {"Has0": (pred >= 0, truth >= 0), "Non0": (pred[kept] > 0, truth[kept] > 0)}.items():
        assert m[f"{prefix}_acc_2"] == accuracy_score(t, p)
        assert m[f"{prefix}_F1_score"] == pytest.approx(f1_score(t, p, average="weighted"), abs=1e-15)
    for k in (5, 7):
        b = k // 2
        assert m[f"Mult_acc_{k}"] == accuracy_score(
            np.round(truth.clip(-b, b)).astype(int), np.round(pred.clip(-b, b)).astype(int)
        )
    assert m["MAE"] == pytest.approx(mean_absolute_error(truth, pred), abs=1e-15)
    assert m["Corr"] == pytest.approx(pearsonr(truth, pred)[0], abs=1e-14)


def test_sims_equals_scikit_learn_after_the_clip():
    rng = np.random.default_rng(1)
    truth = rng.integers(-5, 6, 457) / 5
    pred = truth + rng.normal(0, 0.5, 457)
    m, p = sentiment_metrics(pred, truth, "sims"), pred.clip(-1, 1)
    assert (np.abs(pred) > 1).sum() > 20
    assert m["Mult_acc_2"] == accuracy_score(truth > 0, p > 0)
    assert m["F1_score"] == pytest.approx(f1_score(truth > 0, p > 0, average="weighted"), abs=1e-15)
    for k, cuts in ((3, [-0.1, 0.1]), (5, [-0.7, -0.1, 0.1, 0.7])):
        assert m[f"Mult_acc_{k}"] == accuracy_score(
            np.digitize(truth, cuts, right=True), np.digitize(p, cuts, right=True)
        )
    assert m["MAE"] == pytest.approx(mean_absolute_error(truth, p), abs=1e-15)
    assert m["MAE"] != pytest.approx(mean_absolute_error(truth, pred), abs=1e-3)
    assert m["Corr"] == pytest.approx(pearsonr(truth, p)[0], abs=1e-14)


def test_each_convention_is_one_for_two_names():
    pred, truth = np.linspace(-2, 2, 9), np.linspace(-1, 3, 9)
    assert sentiment_metrics(pred, truth, "mosi") == sentiment_metrics(pred, truth, "mosei")
    assert sentiment_metrics(pred, truth, "sims") == sentiment_metrics(pred, truth, "simsv2")
    assert sentiment_metrics(pred, truth) == sentiment_metrics(pred, truth, "mosi")


@pytest.mark.parametrize(
    "value, seven, five",
    [
        (0.5, 0, 0),
        (1.5, 2, 2),
        (2.5, 2, 2),
        (-0.5, 0, 0),
        (-1.5, -2, -2),
        (-2.5, -2, -2),
        (2.51, 3, 2),
        (7, 3, 2),
    ],
)
def test_halves_are_rounded_to_even_on_both_sides(value, seven, five):
    for k in range(-3, 4):
        both = sentiment_metrics([value], [k]), sentiment_metrics([k], [value])
        for m in both:
            assert m["Mult_acc_7"] == (seven == k)
            assert m["Mult_acc_5"] == (five == max(-2, min(2, k)))


def test_zero_by_hand():
    m = sentiment_metrics([-1e-6, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0])
    assert m["Has0_acc_2"] == 0.5  # −1e-6 on 0 is wrong, 0.0 on −1 is wrong
    assert m["Non0_acc_2"] == 0.5  # 0.0 is negative here: wrong on 1, right on −1
    assert sentiment_metrics([-0.0], [0.0])["Has0_acc_2"] == 1.0


def test_sims_edges_belong_to_the_bin_on_their_left():
    below = {-0.7: -1.0, -0.1: -0.4, 0.1: 0.0, 0.7: 0.4}
    for dtype in (np.float32, np.float64):
        for cut, inside in below.items():
            pair = np.array([cut], dtype), np.array([inside], dtype)
            assert sentiment_metrics(*pair, "sims")["Mult_acc_5"] == 1.0, (cut, dtype)
            assert sentiment_metrics(np.nextafter(pair[0], dtype(2)), pair[1], "sims")["Mult_acc_5"] == 0.0, (
                cut,
                dtype,
            )
    assert sentiment_metrics([0.0], [-1.0], "sims")["Mult_acc_2"] == 1.0
    assert sentiment_metrics([1e-12], [-1.0], "sims")["Mult_acc_2"] == 0.0


def test_undefined_is_nan_and_nothing_warns():
    constant = (
        ([0.1] * 3, [1, 0, -1]),
        ([1, 0, -1], [0.1] * 3),
        ([0.0], [0.0]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([-1.0, -1.0], [1.0, 1.0]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dataset in ("mosi", "sims"):
            for pred, truth in constant:
                assert math.isnan(sentiment_metrics(pred, truth, dataset)["Corr"])
        neutral = sentiment_metrics([0.5, -0.5, 0.2], [0.0, 0.0, 0.0])
    assert math.isnan(neutral["Non0_acc_2"]) and math.isnan(neutral["Non0_F1_score"])
    assert neutral["Has0_acc_2"] == pytest.approx(2 / 3) and neutral["Has0_F1_score"] == pytest.approx(0.8)


def test_constant_that_no_float_sums_to_exactly_is_still_constant():
    assert math.isnan(sentiment_metrics(np.full(7, 0.1, np.float32), np.arange(7.0))["Corr"])
    assert math.isnan(sentiment_metrics([5.0, 2.0, 1.0], [1.0, 0.2, -0.3], "sims")["Corr"])  # constant after the clip


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, 20, elements=st.floats(-3, 3)), st.floats(1e-12, 1e12))
def test_correlation_ignores_scale_and_stays_in_range(truth, scale):
    pred = np.sin(np.arange(20.0)) * scale
    corr = sentiment_metrics(pred, truth)["Corr"]
    if math.isnan(corr):
        assert np.ptp(truth) == 0
    else:
        assert -1 <= corr <= 1
        assert corr == pytest.approx(sentiment_metrics(pred / scale, truth)["Corr"], abs=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.asarray,
        torch.tensor,
        lambda x: np.asarray(x, np.float16),
        lambda x: np.asarray(x)[:, None],
        lambda x: torch.tensor(x)[:, None],
        lambda x: torch.tensor(x, requires_grad=True),
        lambda x: torch.tensor(x, dtype=torch.bfloat16),
        lambda x: torch.tensor(x, dtype=torch.float16),
    ],
)
def test_containers_and_precisions_agree(make):
    pred, truth = [-1.5, 0.25, 0.5, 2.0], [-1.0, 0.0, 0.5, 3.0]  # exact in every precision
    assert sentiment_metrics(make(pred), make(truth)) == sentiment_metrics(pred, truth)
    assert sentiment_metrics(make(pred), truth, "sims") == sentiment_metrics(pred, truth, "sims")


def test_a_column_against_a_row_is_not_broadcast():
    x = np.arange(5.0)
    assert sentiment_metrics(x[:, None], x)["MAE"] == 0.0


def test_inputs_are_left_alone():
    pred, truth = np.array([3.0, -3.0]), np.array([2.0, -2.0])
    sentiment_metrics(pred, truth, "sims")
    assert pred.tolist() == [3.0, -3.0] and truth.tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    "pred, truth, dataset, words",
    [
        ([1.0], [1.0], "MOSI", "unknown dataset 'MOSI', expected one of mosi, mosei, sims, simsv2"),
        ([1.0], [1.0], "iemocap", "mosi, mosei, sims, simsv2"),
        ([1.0, 2.0], [1.0], "mosi", "got 2 and 1 rows"),
        ([], [], "mosi", "n ≥ 1"),
        (1.0, [1.0], "mosi", r"pred needs one number a clip.*got \(\)"),
        ([[1.0, 2.0]], [1.0], "mosi", r"got \(1, 2\)"),
        ([1.0, math.nan], [1.0, 1.0], "mosi", "pred is not finite in 1 of 2 rows, first in row 1: nan"),
        ([1.0, 1.0], [math.inf, 1.0], "sims", "truth is not finite in 1 of 2 rows, first in row 0: inf"),
        (["a"], [1.0], "mosi", "pred is not an array of numbers"),
        ([None], [1.0], "mosi", "pred is not an array of numbers"),
        ([[1.0], [1.0, 2.0]], [1.0, 2.0], "mosi", "pred is not an array of numbers"),
        ([1.0], [1j], "mosi", "truth is not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_named(pred, truth, dataset, words):
    with pytest.raises(ValueError, match=words):
        sentiment_metrics(pred, truth, dataset)


def test_table_means_and_spreads():
    text = metrics_table({"a|b": [{"MAE": 1.0, "Corr": 0.5}, {"MAE": 2.0, "Corr": 0.7}], "one": {"MAE": 3.0}}, digits=2)
    lines = text.splitlines()
    assert lines[0] == "|  | runs | MAE | Corr |" and lines[1].count("---:") == 3
    assert lines[2] == "| a\\|b | 2 | 1.50 ± 0.71 | 0.60 ± 0.14 |"
    assert lines[3] == "| one | 1 | 3.00 | – |"
    assert text._repr_markdown_() == text
    assert "Corr" not in metrics_table({"a": {"MAE": 1.0, "Corr": 0.5}}, columns=("MAE",))
    for hole in (math.nan, None):  # None is what strict JSON leaves of nan
        assert metrics_table({"a": [{"Corr": hole}, {"Corr": 0.5}]}).endswith("| a | 2 | nan ± nan |")


def test_import_does_not_load_scikit_learn():
    code = "import sys, dmsil.metrics; assert 'sklearn' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_takes_no_correlation_beyond_one(sign):
    "Of multiples of one another every seventh or so would come out a rounding error above 1."
    for seed in range(60):
        truth = np.random.default_rng(seed).normal(size=7)
        assert 1 - 1e-12 < sign * sentiment_metrics(3 * sign * truth, truth)["Corr"] <= 1


def test_what_is_a_probability_and_what_a_logit():
    names, truth = ("negative", "neutral", "positive"), [0, 2]
    nll = lambda pred: sentiment_metrics(pred, truth, classes=names)["NLL"]
    softmax = lambda z: -torch.tensor(z).double().log_softmax(1)[[0, 1], truth].mean().item()
    below = [[1.5, -0.5, 0.0], [0.2, -0.2, 1.0]]  # rows that add up to 1, and are none
    assert nll(below) == pytest.approx(softmax(below))
    assert nll([[900.0, 0.0, 0.0], [0.0, 0.0, 900.0]]) == 0  # without an overflow
    near = [[0.5, 0.3, 0.219], [0.2, 0.2, 0.6]]
    far = [[0.5, 0.3, 0.221], [0.2, 0.2, 0.6]]
    assert nll(near) == pytest.approx(-(math.log(0.5 / 1.019) + math.log(0.6)) / 2) and nll(far) == pytest.approx(
        softmax(far)
    )
    with pytest.raises(ValueError, match="pred needs classes from 0 to 2, got -1 in row 0"):
        sentiment_metrics([-1, 2], truth, classes=names)


def test_a_tie_of_positive_and_negative_is_not_positive():
    found = sentiment_metrics([[1.0, 0.0, 1.0]] * 3, [0, 0, 2], classes=("negative", "neutral", "positive"))
    assert found["Non0_acc_2"] == pytest.approx(2 / 3)


def test_a_table_has_three_digits():
    table = metrics_table({"run": {"MAE": 0.12345}})
    assert "0.123 " in table and "0.1234" not in table
