"The verdict: estimates against closed forms, invariances, the discrete split against a generic solver, reports and refusals."

import json
import math
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import dmsil
from dmsil import interactions, pairs
from dmsil.clips import video_of
from dmsil.interactions import discrete_split, joint_bounds, least_informative
from dmsil.pairs import neighbour_information, pair_information, verdict
from dmsil.report import information_report
from dmsil.synthetic import Simulation, SyntheticConfig, label_information

WORLD = Simulation(SyntheticConfig(nonlinear=False))


@pytest.fixture(scope="module")
def sample():
    return WORLD.sample(800, seed=11)


@pytest.fixture(scope="module")
def report(sample):
    return information_report(sample.x, sample.y_m, permutations=50, resamples=200)


# Dealing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=150), st.integers(0, 10**6))
def test_groups_are_dealt_whole_and_evenly(groups, seed):
    deal = pairs._Deal(len(groups), groups, 3, seed)
    largest = max(map(groups.count, set(groups)))
    sizes = torch.bincount(deal.fold, minlength=3)
    assert sizes.max() - sizes.min() <= largest
    for fit, read in deal.parts():
        assert sorted([*fit.tolist(), *read.tolist()]) == list(range(len(groups)))
        assert not {groups[i] for i in fit} & {groups[i] for i in read}


def test_a_resample_weighs_whole_groups():
    deal = pairs.Resampled(6, list("aabbcc"), 3, 500, 0)
    x = torch.tensor([1.0, 1, 2, 2, 3, 3], dtype=torch.double)
    assert set(deal.means(x).mul(3).round().tolist()) <= set(range(3, 10)) and torch.equal(
        deal.times.sum(1), torch.full((500,), 3.0).double()
    )
    assert deal.means(x[:, None])[:, 0].tolist() == pytest.approx(deal.means(x).tolist())


def test_shuffles_are_permutations_and_rotations_keep_neighbours():
    groups = [k % 5 for k in range(50)]
    for deal in (pairs._Deal(50, None, 5, 0), pairs._Deal(50, groups, 5, 0)):
        rows = pairs._shuffles(deal, 20, 3)
        assert all(sorted(row.tolist()) == list(range(50)) for row in rows)
    order = deal.group.argsort(stable=True)
    place = order.argsort()
    assert ((place[rows[:, order]].diff(dim=1) % 50) == 1).all() and (rows != torch.arange(50)).all()


def test_no_more_than_five_percent_of_independent_pairs_exceed_their_null():
    above = []
    for seed in range(120):
        a, b = torch.randn(2, 200, 6, generator=torch.Generator().manual_seed(seed))
        pair = pair_information(a, b, permutations=39, resamples=20, seed=seed)
        above.append(
            (pair.shared > pair.null95, pair.kappa > pair.kappa_null95, pair.canonical[0] > pair.canonical_null95[0])
        )
    assert (np.mean(above, 0) < 0.11).all()  # 5 % and three standard errors


# One pair ---------------------------------------------------------------------------------------------------------


def test_white_features_are_white_on_the_fit_and_dead_columns_go():
    X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    X = torch.cat([1e6 * X[:, :3] + 1e8, 1e-6 * X[:, 3:], X[:, :1] - X[:, 1:2], torch.ones(200, 2)], 1)
    W, cut = pairs._white(X, torch.arange(150))
    assert W.shape == (200, 6) and not cut
    assert torch.allclose(W[:150].T @ W[:150] / 149, torch.eye(6, dtype=torch.double), atol=1e-6)
    W, cut = pairs._white(torch.randn(60, 40), torch.arange(48))
    assert W.shape == (60, 3) and cut


@pytest.mark.parametrize("a, b", list(combinations(WORLD.names, 2)))
def test_the_truth_lies_in_the_interval(report, a, b):
    pair = report.pairs[a, b]
    assert pair.interval[0] < WORLD.information(a, b) < pair.interval[1]
    assert pair.verdict == "shares" and pair.null95 < 0.05 < pair.shared
    assert pair.kappa_interval[0] < pair.kappa < pair.kappa_interval[1] and pair.kappa_null95 < pair.kappa_interval[0]
    rho = WORLD.r
    kept = WORLD.config.k_common + (WORLD.config.k_pair if (a, b) == ("text", "audio") else 0)
    assert all(low < rho < high for low, high in pair.canonical_interval[:kept]) or np.allclose(
        pair.canonical[:kept], rho, atol=0.06
    )


def test_linear_maps_and_order_change_nothing(sample):
    "Up to the cut at four deviations, which is made along other axes."
    a, b = sample.x["text"].double(), sample.x["audio"].double()
    g = torch.Generator().manual_seed(2)
    maps = [torch.randn(d, d, generator=g, dtype=torch.double) + 3 * torch.eye(d, dtype=torch.double) for d in (32, 16)]
    plain = pair_information(a, b, permutations=20, resamples=50)
    turned = pair_information(a @ maps[0] + 7, 1e3 * (b @ maps[1]), permutations=20, resamples=50)
    swapped = pair_information(b, a, permutations=0, resamples=50)
    assert turned.shared == pytest.approx(plain.shared, abs=2e-3) and turned.canonical == pytest.approx(
        plain.canonical, abs=5e-3
    )
    assert swapped.shared == pytest.approx(pair_information(a, b, permutations=0, resamples=50).shared, abs=1e-9)


@pytest.mark.parametrize("d_a, d_b", [(1, 1), (3, 9), (12, 2)])
def test_the_formula_of_the_bias_is_the_mean_of_the_null(d_a, d_b):
    g = torch.Generator().manual_seed(3)
    D_a, D_b = torch.randn(400, d_a, generator=g), torch.randn(400, d_b, generator=g).exp()
    deal = pairs.Resampled(400, None, 5, 50, 0)
    white, _ = pairs.whitened({"a": D_a, "b": D_b}, deal)
    read = pairs.cross_fitted(white["a"], white["b"], deal, 400)
    assert read.null[0].mean().item() == pytest.approx(read.bias, rel=0.15, abs=0.002) and read.bias < 0
    i, null, strength = read.best()
    assert (
        strength in pairs.SHRINKAGE
        and null.shape == (400,)
        and i.mean() == max((read.i - read.null.mean(1, keepdim=True)).mean(1))
    )
    alone = pair_information(D_a, D_b, permutations=0, resamples=50)
    assert (
        math.isnan(alone.null95)
        and alone.strength == 1
        and alone.clipwise.mean() == pytest.approx((read.i[0].mean() - read.bias).item(), abs=1e-9)
    )


def test_every_seed_is_a_run_of_its_own_and_the_same_twice(sample):
    a, b = sample.x["text"], sample.x["vision"]
    once, again, other = (pair_information(a, b, permutations=20, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert once == again and once.shared != other.shared
    assert other.shared == pytest.approx(once.shared, abs=0.05)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 3), st.floats(0, 3), st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1))
def test_no_verdict_contradicts_its_interval(shared, null95, below, above, margin):
    interval = (max(0.0, shared - below), shared + above)
    word = verdict(shared, null95, interval, margin)
    if word == "shares":
        assert interval[0] > 0 and shared > null95 and interval[1] >= margin
    if word == "private":
        assert interval[1] < margin
    if shared <= null95 and interval[1] >= margin:
        assert word == "can't tell"


def test_a_speaker_that_both_carry_is_not_shared_when_groups_are_given():
    g = torch.Generator().manual_seed(5)
    speakers = torch.arange(40).repeat_interleave(8)
    a, b = (torch.randn(320, 6, generator=g) + 2 * torch.randn(40, 6, generator=g)[speakers] for _ in range(2))
    assert pair_information(a, b, permutations=99).verdict == "shares"
    assert pair_information(a, b, groups=speakers.tolist(), permutations=99).verdict != "shares"


# The label --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", WORLD.names)
def test_what_a_modality_knows_and_adds(report, s):
    m, others = report.modalities[s], tuple(t for t in WORLD.names if t != s)
    alone, added = (
        label_information(WORLD, s),
        label_information(WORLD, *WORLD.names) - label_information(WORLD, *others),
    )
    slack = 0.03
    assert m.interval["alone"][0] - slack < alone < m.interval["alone"][1] + slack
    assert m.interval["added"][0] - slack < added < m.interval["added"][1] + slack
    assert m.redundant + m.unique == pytest.approx(m.alone) and m.unique + m.synergistic == pytest.approx(
        m.added, abs=1e-9
    )
    assert (
        m.discrete["low"] <= m.discrete["synergistic"] + 1e-6 and m.discrete["synergistic"] <= m.discrete["high"] + 1e-6
    )


def table(i, j, k, seed):
    p = torch.rand(i, j, k, generator=torch.Generator().manual_seed(seed), dtype=torch.double) + 0.02
    return p / p.sum()


def tables():
    return st.builds(table, st.integers(2, 4), st.integers(2, 4), st.integers(2, 3), st.integers(0, 10**6))


def duality_gap(q):
    "By which no table with the margins of q can know less than q: convexity, and one linear programme for each y."
    gradient = (q / q.sum(-1, keepdim=True)).clamp(min=1e-300).log()
    gap, (i, j) = (gradient * q).sum().item(), q.shape[:2]
    margins = np.concatenate([np.eye(i).repeat(j, 1), np.tile(np.eye(j), i)])
    for y in range(q.shape[2]):
        to = torch.cat([q[..., y].sum(1), q[..., y].sum(0)]).numpy()
        gap -= linprog(gradient[..., y].flatten().numpy(), A_eq=margins[1:], b_eq=to[1:]).fun
    return gap


def check_least_informative(p, q):
    assert (
        q.min() >= 0
        and torch.allclose(q.sum(1), p.sum(1), rtol=0, atol=1e-8)
        and torch.allclose(q.sum(0), p.sum(0), rtol=0, atol=1e-8)
    )
    assert -1e-7 < duality_gap(q) < 1.1e-6


def test_the_least_informative_table_where_scaling_in_turns_stalls():
    p = table(4, 3, 2, 29972)
    q = least_informative(p)
    check_least_informative(p, q)
    finer = interactions._mutual(least_informative(p, gap=1e-7).flatten(0, 1))
    assert -1e-7 <= interactions._mutual(q.flatten(0, 1)) - finer <= 1e-6


@pytest.mark.parametrize("i, j, k", [(2, 2, 2), (2, 4, 3), (3, 3, 3), (4, 3, 2), (4, 4, 3)])
def test_the_least_informative_table_is_feasible_and_optimal(i, j, k):
    "Sixty tables of each size: any, with empty cells, with cells of very different size."
    g = torch.Generator().manual_seed(i + 10 * j + 100 * k)
    drawn = torch.stack([table(i, j, k, seed) for seed in range(20)])
    sparse = torch.poisson(drawn.mul(2 * i * j * k), generator=g)
    sparse[:, 0, 0, 0] += 1
    heavy = torch.randn(drawn.shape, generator=g, dtype=torch.double).mul(4).exp()
    p = torch.cat([drawn, *(t / t.sum((1, 2, 3), keepdim=True) for t in (sparse, heavy))])
    for one, q in zip(p, least_informative(p), strict=True):
        check_least_informative(one, q)


def test_a_gap_that_rounding_hides_is_refused():
    with pytest.raises(ValueError, match="gap ≥ 1e-7, got 1e-09"):
        least_informative(table(2, 2, 2, 0), gap=1e-9)


@settings(max_examples=30, deadline=None)
@given(tables())
def test_any_least_informative_table_is_optimal(p):
    check_least_informative(p, least_informative(p))


@settings(max_examples=40, deadline=None)
@given(tables())
def test_splits_add_up_and_bounds_hold(p):
    split = discrete_split(p)
    mutual = lambda t: (t * (t / (t.sum(-1, keepdim=True) * t.sum(-2, keepdim=True))).log()).sum().item()
    I_1, I_2, I = mutual(p.sum(1)), mutual(p.sum(0)), mutual(p.flatten(0, 1))
    assert min(split.redundant, *split.unique, split.synergistic) > -1e-9
    assert (split.redundant + split.unique[0]).item() == pytest.approx(I_1, abs=1e-9)
    assert (split.redundant + split.unique[1]).item() == pytest.approx(I_2, abs=1e-9)
    assert (split.redundant + sum(split.unique) + split.synergistic).item() == pytest.approx(I, abs=1e-9)
    low, high = joint_bounds(p)
    assert low - 1e-6 <= I <= high + 1e-9
    # The same three two-way tables, another joint one: the bounds must not move, and must hold for it.
    twist = torch.tensor([[1.0, -1], [-1, 1]], dtype=torch.double)
    other = p.clone()
    other[:2, :2, :2] += 0.9 * p.min() * torch.stack([twist, -twist], -1)
    assert torch.allclose(torch.stack(joint_bounds(other)), torch.stack([low, high]), atol=1e-6)
    assert low - 1e-6 <= mutual(other.flatten(0, 1)) <= high + 1e-9


def test_batches_of_tables_are_tables():
    p = torch.rand(5, 3, 3, 2, generator=torch.Generator().manual_seed(8), dtype=torch.double)
    p = p / p.sum((1, 2, 3), keepdim=True)
    whole, parts = discrete_split(p), [discrete_split(table) for table in p]
    assert whole.synergistic.tolist() == pytest.approx([part.synergistic.item() for part in parts], abs=1e-9)
    assert whole.bounds[1].tolist() == pytest.approx([part.bounds[1].item() for part in parts], abs=1e-9)


def test_the_null_holds_at_most_five_percent_above():
    for times in (19, 20, 99, 200):
        x = torch.arange(float(times))
        assert (
            (1 + (x >= pairs._null95(x) + 0.5).sum()) / (times + 1)
            <= 0.05
            < (2 + (x >= pairs._null95(x)).sum()) / (times + 1)
        )
    assert math.isnan(pairs._null95(torch.empty(0))) and pairs._null95(torch.empty(0, 3)).shape == (3,)


def test_classes_keep_ties_together():
    x = torch.tensor([0.0] * 7 + [1.0, 2.0, 3.0], dtype=torch.double)
    assert len(set(interactions._classes(x)[:7].tolist())) == 1
    assert torch.bincount(interactions._classes(torch.arange(30.0))).tolist() == [10, 10, 10]


def test_neighbours_read_a_known_pair():
    g = torch.Generator().manual_seed(6)
    z, e = torch.randn(2, 4000, 1, generator=g, dtype=torch.double)
    assert neighbour_information(z, 0.8 * z + 0.6 * e) == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.06)
    assert neighbour_information(z, e) == pytest.approx(0, abs=0.05)


# The report -------------------------------------------------------------------------------------------------------


def test_names_that_stay(report):
    assert dmsil.information_report is information_report
    pair, text = report.pairs["text", "audio"], report.modalities["text"]
    for value in (pair.shared, pair.null95, *pair.interval, pair.kappa, text.unique, text.redundant, text.synergistic):
        assert isinstance(value, float)
    assert isinstance(pair.verdict, str)


def test_json_is_plain_and_complete(report):
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["pairs"]["text~audio"]["shared"] == pytest.approx(report.pairs["text", "audio"].shared, abs=1e-6)
    assert (
        set(again["modalities"]) == set(WORLD.names)
        and again["clips"] == 800
        and "clipwise" not in again["pairs"]["text~audio"]
    )


def test_what_is_unknown_is_null_in_json(sample):
    report = information_report(sample.x, sample.y_m, permutations=0, resamples=50)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["pairs"]["text~audio"]["null95"] is None


def test_before_and_after(sample):
    g = torch.Generator().manual_seed(7)
    noisy = sample.x | {"vision": torch.randn(800, 24, generator=g), "fusion": torch.randn(800, 8, generator=g)}
    report = information_report(noisy, sample.y_m, before=sample.x, permutations=20, resamples=200)
    change = report.change["text", "vision"]
    assert change.interval[1] < 0 and change.shared == pytest.approx(
        report.pairs["text", "vision"].shared - report.before.pairs["text", "vision"].shared
    )
    assert report.change["text", "audio"].interval == (0, 0) and set(report.modalities) == set(WORLD.names)
    assert report.to_dict()["before"]["pairs"]["text~vision"]["shared"] > 0.8
    assert "change" in str(report) and report._repr_html_().count("<table>") == 2


def test_two_and_four_modalities_numpy_and_half_precision(sample):
    two = information_report(
        {s: sample.x[s].numpy() for s in ("text", "audio")}, sample.y_m.numpy(), permutations=19, resamples=20
    )
    assert list(two.pairs) == [("text", "audio")]
    four = information_report(
        sample.x | {"timing": sample.x["text"][:, :5].half()}, sample.y_m, permutations=19, resamples=20
    )
    assert len(four.pairs) == 6 and four.pairs["text", "timing"].verdict == "shares"
    import matplotlib

    matplotlib.use("agg")
    assert len(four.plot().axes) == 7


def test_names_are_escaped(sample):
    html = information_report(
        {"<script>": sample.x["text"], "b&w": sample.x["audio"]}, sample.y_m, permutations=19, resamples=20
    )._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "b&amp;w" in html


def test_dead_and_copied_features(sample):
    report = information_report(
        {"text": sample.x["text"], "dead": torch.ones(800, 3), "copy": sample.x["text"] @ torch.ones(32, 2)},
        sample.y_m,
        permutations=19,
        resamples=20,
    )
    assert report.pairs["text", "dead"].verdict == "private" and "dead: the features do not vary" in report.notes
    assert report.pairs["text", "copy"].shared > 3


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, y: ({"text": x["text"]}, y), "at least two modalities beside the fusion, got text"),
        (lambda x, y: (x, y[:-1]), r"text: features need shape \(799, d\)"),
        (
            lambda x, y: (x | {"audio": x["audio"][:, 0]}, y),
            r"audio: features need shape \(800, d\), a row a clip, got \(800,\)",
        ),
        (
            lambda x, y: (x | {"audio": x["audio"].index_fill(0, torch.tensor([3]), math.nan)}, y),
            "audio: features hold 16 values that are not finite",
        ),
        (lambda x, y: (x, y / 0), "labels need one finite number a clip"),
        (lambda x, y: ({s: D[:30] for s, D in x.items()}, y[:30]), "at least 40 clips, got 30"),
    ],
)
def test_refusals(sample, change, words):
    with pytest.raises(ValueError, match=words):
        information_report(*change(sample.x, sample.y_m))


def test_groups_before_and_permutations_are_checked(sample):
    with pytest.raises(ValueError, match="0 or at least 19"):
        information_report(sample.x, sample.y_m, permutations=10)
    with pytest.raises(ValueError, match="one entry for each of 800 clips, got 3"):
        information_report(sample.x, sample.y_m, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="5 folds need at least as many groups, got 4"):
        information_report(sample.x, sample.y_m, groups=[1, 2, 3, 4] * 200)
    with pytest.raises(ValueError, match="before needs the modalities"):
        information_report(sample.x, sample.y_m, before={"text": sample.x["text"], "x": sample.x["audio"]})


def test_videos():
    ids = tuple(f"{name}$_${k}" for name in "abcdefghijkl" for k in range(3))
    assert video_of(ids)[:4] == ["a", "a", "a", "b"]
    assert video_of(tuple(f"test_{k}" for k in range(50))) is None and video_of(tuple(map(str, range(50)))) is None


def test_import_is_light():
    code = "import sys, dmsil.report; assert not {'sklearn', 'matplotlib', 'scipy', 'sympy', 'transformers', 'fastcore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
