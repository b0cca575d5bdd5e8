"The verdict: estimates against closed forms, invariances, the discrete split against a generic solver, reports and refusals."

import json
import math
import subprocess
import sys
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import dmsil
from dmsil import bends, estimates, interactions, pairs
from dmsil.clips import video_of
from dmsil.covariance import kappa
from dmsil.estimates import Groups
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


# Groups -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=150), st.integers(0, 10**6))
def test_groups_are_split_whole_and_evenly(labels, seed):
    parts = pairs.splits(estimates.Groups(len(labels), labels, seed), 3)
    sizes = [len(out) for _, out in parts]
    assert sum(sizes) == len(labels) and max(sizes) - min(sizes) <= max(map(labels.count, set(labels)))
    for train, out in parts:
        assert sorted([*train.tolist(), *out.tolist()]) == list(range(len(labels)))
        assert not {labels[i] for i in train} & {labels[i] for i in out}


def test_a_resample_weighs_whole_groups():
    x = torch.tensor([1.0, 1, 2, 2, 2, 3], dtype=torch.double)
    means = pairs.resampled_means(torch.stack([x, torch.ones_like(x)], 1), estimates.Groups(6, list("aabbbc")), 500)
    drawn = [[(2, 2.0), (3, 6.0), (1, 3.0)][g] for g in range(3)]
    possible = {
        round(sum(drawn[g][1] for g in three) / sum(drawn[g][0] for g in three), 6)
        for three in product(range(3), repeat=3)
    }
    assert {round(m, 6) for m in means[:, 0].tolist()} <= possible and torch.allclose(
        means[:, 1], torch.ones(500, dtype=torch.double)
    )


@pytest.mark.parametrize("labels", [None, [k % 5 for k in range(50)]], ids=["clips", "groups"])
def test_shuffles_are_permutations_of_whole_groups(labels):
    groups = estimates.Groups(50, labels)
    for row in estimates.shuffles(groups, 20):
        assert sorted(row.tolist()) == list(range(50))
        to = {}
        for clip, other in enumerate(row.tolist()):
            to.setdefault(int(groups.of[clip]), []).append(other)
        for others in to.values():
            assert others == (groups.of == groups.of[others[0]]).nonzero()[:, 0].tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=4, max_size=8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_what_a_group_moves_is_what_a_fit_without_it_says(sizes, p, q, seed):
    g = torch.Generator().manual_seed(seed)
    by = estimates.Groups(n := sum(sizes) + 40, np.repeat(np.arange(len(sizes) + 1), [*sizes, 40]).tolist(), seed)
    A = torch.randn(n, p, generator=g, dtype=torch.double) + torch.randn(len(by.sizes), p, generator=g)[by.of]
    B = A[:, :1] + torch.randn(n, q, generator=g, dtype=torch.double)
    fit = lambda X, Y: estimates.gaussian_information(estimates.rewhitened(X).T @ estimates.rewhitened(Y) / len(X))
    left = torch.stack([fit(A[by.of != k], B[by.of != k]) for k in range(len(by.sizes))])
    s = estimates.moved_by_groups(estimates.rewhitened(A), estimates.rewhitened(B), by)
    assert torch.allclose(s, (1 - by.sizes / n) * (fit(A, B) - left), atol=1e-3, rtol=1e-3)


def speakers(seed, count, size, nats, habit, d=6, k=3):
    "Clips that share nats in k directions, under habits of their speakers that are shared by nobody."
    g, who = torch.Generator().manual_seed(seed), torch.arange(count).repeat_interleave(size)
    a, e = torch.randn(2, len(who), d, generator=g, dtype=torch.double)
    rho = math.sqrt(-math.expm1(-2 * nats / k)) * (1 + habit**2)
    b = torch.cat([rho * a[:, :k] + math.sqrt(1 - rho**2) * e[:, :k], e[:, k:]], 1)
    return *(D + habit * torch.randn(count, d, generator=g)[who] for D in (a, b)), estimates.Groups(
        len(who), who.tolist(), seed
    )


@pytest.mark.parametrize("count, size, nats, habit", [(15, 20, 0.3, 0.6), (25, 10, 0.8, 0.4), (20, 12, 0, 0.6)])
def test_few_speakers_neither_bend_the_estimate_nor_narrow_its_interval(count, size, nats, habit):
    "A hundred draws of clips whose speakers have habits; what the null alone takes off leaves a tenth too much."
    found = []
    for seed in range(100):
        a, b, by = speakers(seed, count, size, nats, habit)
        A, B = (estimates.white_columns(D, 20).W for D in (a, b))
        e = estimates.estimate(A, B, by, estimates.shuffles(by, 50))
        low, high = estimates.interval(e, by)
        found.append((e.nats, e.drawn, low <= nats <= high, e.V_0 + e.V_1))
    mean, drawn, covers, variance = np.mean(found, 0)
    scatter = np.std([row[0] for row in found])
    assert abs(mean - nats) < 3 * scatter / 10 and covers >= 0.88 and 0.8 < variance**0.5 / scatter < 1.4
    assert drawn - nats > 0.02 if nats else abs(drawn) < 0.02


def test_a_direction_that_one_group_alone_has():
    a, b, by = speakers(3, 20, 15, 0.3, 0.5)
    a = torch.cat([a, torch.where(by.of == 4, a[:, 0], 0)[:, None]], 1)
    e = estimates.estimate(*(estimates.white_columns(D, 25).W for D in (a, b)), by, estimates.shuffles(by, 50))
    assert abs(e.nats - 0.3) < 0.3 and 0 < e.V_0 + e.V_1 < 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=5, max_size=30), st.integers(0, 10**6))
def test_groups_of_unequal_size_change_places_with_groups_of_similar_size(sizes, seed):
    labels = [g for g, size in enumerate(sizes) for _ in range(size)]
    groups = estimates.Groups(len(labels), labels, seed)
    for row in estimates.shuffles(groups, 5):
        took = []
        for g in range(len(sizes)):
            others = row[groups.of == g]
            whose = groups.of[others].unique()
            own = (groups.of == whose[0]).nonzero()[:, 0]
            assert len(whose) == 1 and others.tolist() == [own[k % len(own)].item() for k in range(sizes[g])]
            took.append(int(whose))
        assert sorted(took) == list(range(len(sizes)))
        place = {g: k for k, g in enumerate(sorted(range(len(sizes)), key=lambda g: sizes[g]))}
        assert len(set(sizes)) == 1 or all(
            abs(place[g] - place[took[g]]) < 2 * estimates.ALIKE for g in range(len(sizes))
        )


# One side ---------------------------------------------------------------------------------------------------------


def kernels(side):
    "What the five tests see, up to a turn."
    shapes = (side.shapes.line, side.shapes.curve, side.shapes.product)
    return [W @ W.T for W in (side.columns.W, side.scores.W, side.loud, *(F.double() for F in shapes))]


@pytest.mark.parametrize("d", [1, 6, 90])
def test_what_looks_at_one_side_does_not_care_about_the_order_of_clips(d):
    g = torch.Generator().manual_seed(d)
    D, P = torch.randn(120, d, generator=g).exp().round(decimals=2), torch.randperm(120, generator=g)
    groups = estimates.Groups(120)
    as_is, moved = kernels(pairs.one_side(D, groups)), kernels(pairs.one_side(D[P], groups))
    for K, K_moved in zip(as_is, moved, strict=True):
        torch.testing.assert_close(K_moved, K[P][:, P], rtol=0, atol=2e-3 * K.abs().max().item())


def test_white_features_are_white_and_dead_columns_go():
    X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    X = torch.cat([1e6 * X[:, :3] + 1e8, 1e-6 * X[:, 3:], X[:, :1] - X[:, 1:2], torch.ones(200, 2)], 1)
    found = estimates.white(estimates.standard(X), 12)
    assert found.W.shape == (200, 6) and not found.cut and found.read == pytest.approx(1)
    assert torch.allclose(found.W.T @ found.W / 200, torch.eye(6, dtype=torch.double), atol=1e-6)
    few = estimates.white(estimates.standard(torch.randn(60, 40)), 3)
    assert few.W.shape == (60, 3) and few.cut and 3 / 40 < few.read < 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_standard_columns_are_bounded_whatever_the_tails(seed, power):
    D = torch.randn(80, 3, generator=torch.Generator().manual_seed(seed)).mul(power).exp()
    X = estimates.standard(D)
    assert X.abs().amax() <= 1.001 * estimates.BOUND
    assert torch.allclose(X.mean(0), torch.zeros(3).double(), atol=1e-6) and torch.allclose(
        X.std(0, correction=0), torch.ones(3).double()
    )


def test_normal_scores_do_not_see_monotone_maps_and_ties_share_theirs():
    D = torch.randn(100, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(bends.normal_scores(D), bends.normal_scores(D.exp() ** 3))
    binary = bends.normal_scores((D > 0).float())
    assert all(len(column.unique()) == 2 for column in binary.T) and bends.normal_scores(
        D
    ).std().item() == pytest.approx(1, abs=0.05)


# One pair ---------------------------------------------------------------------------------------------------------


def apart(seed, n=200, p=6, q=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, generator=g), torch.randn(n, q, generator=g)


@pytest.mark.parametrize("p, q", [(6, 6), (3, 300), (300, 3)])
def test_independent_pairs_are_seldom_said_to_share(p, q):
    "Of 100 draws no more than chance allows; where components were chosen on a part of the clips, 3 + 300 were shared in all."
    groups, above = estimates.Groups(200), []
    for seed in range(100):
        a, b = (pairs.one_side(D, groups) for D in apart(seed, p=p, q=q))
        found = pairs.judged(a, b, groups, estimates.shuffles(groups, 79, salt=seed))
        above.append(
            (found["verdict"].startswith("shares"), found["lines"].nats > estimates.null95(found["lines"].null).item())
        )
    shares, exceed = np.mean(above, 0)
    assert shares <= 0.08 and exceed <= 0.12


def test_the_largest_rank_is_one_test():
    g = torch.Generator().manual_seed(3)
    draws = torch.rand(3, 200, generator=g)
    found = [bends.tested(draws.roll(-k, 1)) for k in range(200)]
    said = [any(which) for _, which, _ in found]
    assert sum(said) <= bends.ALPHA * 200 and said == [p <= bends.ALPHA for p, _, _ in found]
    for k, (_, which, line) in enumerate(found):
        assert which == (draws[:, k] > torch.tensor(line)).tolist()
    assert bends.tested(torch.zeros(3, 100)) == (1.0, [False] * 3, [0.0] * 3)


@pytest.mark.parametrize("a, b", list(combinations(WORLD.names, 2)))
def test_the_truth_lies_in_the_interval(report, a, b):
    pair = report.pairs[a, b]
    assert pair.interval[0] < WORLD.information(a, b) < pair.interval[1] and not pair.bound
    assert pair.copula_interval[0] - 0.05 < WORLD.information(a, b) < pair.copula_interval[1] + 0.05
    assert pair.verdict == "shares" and pair.null95 < 0.05 < pair.shared
    assert pair.kappa_interval[0] < pair.kappa < pair.kappa_interval[1] and pair.kappa_null95 < pair.kappa_interval[0]
    rho = WORLD.r
    kept = WORLD.config.k_common + (WORLD.config.k_pair if (a, b) == ("text", "audio") else 0)
    assert all(low < rho < high for low, high in pair.canonical_interval[:kept]) or np.allclose(
        pair.canonical[:kept], rho, atol=0.06
    )


def test_linear_maps_and_order_change_nothing(sample):
    "Up to the cut at five deviations, which is made along other axes."
    a, b = sample.x["text"].double(), sample.x["audio"].double()
    g = torch.Generator().manual_seed(2)
    maps = [torch.randn(d, d, generator=g, dtype=torch.double) + 3 * torch.eye(d, dtype=torch.double) for d in (32, 16)]
    plain = pair_information(a, b, permutations=40, resamples=50)
    turned = pair_information(a @ maps[0] + 7, 1e3 * (b @ maps[1]), permutations=40, resamples=50)
    assert turned.shared == pytest.approx(plain.shared, abs=2e-3) and turned.canonical == pytest.approx(
        plain.canonical, abs=5e-3
    )
    one, other = (
        pair_information(*D, permutations=40, resamples=50) for D in ((a[:, :9], b[:, :3]), (b[:, :3], a[:, :9]))
    )
    assert one.shared == pytest.approx(other.shared, abs=1e-9) and one.null95 == pytest.approx(other.null95, abs=1e-9)


@pytest.mark.parametrize("d_a, d_b", [(1, 1), (3, 9), (12, 2)])
def test_the_formulas_are_mean_and_variance_of_the_null(d_a, d_b):
    g = torch.Generator().manual_seed(3)
    D_a, D_b = torch.randn(400, d_a, generator=g), torch.randn(400, d_b, generator=g)
    groups = estimates.Groups(400)
    A, B = (estimates.white(estimates.standard(D), 25).W for D in (D_a, D_b))
    shuffled = torch.cat(
        [
            estimates.gaussian_information(A.T @ X / 400)
            for X in estimates._shuffled(B, groups, estimates.shuffles(groups, 600))
        ]
    )
    exact, drawn = (estimates.estimate(A, B, groups, estimates.shuffles(groups, times)) for times in (0, 600))
    assert shuffled.mean().item() == pytest.approx(estimates.gaussian_bias(400, d_a, d_b), rel=0.15, abs=0.002)
    assert exact.V_0 == pytest.approx(drawn.V_0, rel=0.3) and exact.nats == pytest.approx(drawn.nats, abs=0.004)
    assert drawn.clipwise.mean() == pytest.approx(drawn.nats, abs=1e-9) and drawn.null.mean() == pytest.approx(
        0, abs=1e-9
    )
    assert pair_information(D_a, D_b, permutations=0, resamples=50).verdict == "can't tell"


def test_the_variance_is_that_of_repeated_draws():
    "Where nothing, little and much is shared; the first order alone is up to twice the variance where nothing is."
    for rho in (0.0, 0.2, 0.6):
        found, groups = [], estimates.Groups(300)
        for seed in range(150):
            a, e = apart(seed, 300, 8, 8)
            A, B = (estimates.white(estimates.standard(D), 18).W for D in (a, rho * a + (1 - rho**2) ** 0.5 * e))
            found.append(estimates.estimate(A, B, groups, estimates.shuffles(groups, 0)))
        spread, said = np.std([e.nats for e in found]), np.mean([e.V_0 + e.V_1 for e in found]) ** 0.5
        assert said == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    "sizes", [[1] * 300, [10] * 30, [5 + k for k in range(20)]], ids=["clips", "groups", "unequal"]
)
def test_the_variance_of_a_mean_counts_groups(sizes):
    labels = [g for g, size in enumerate(sizes) for _ in range(size)]
    groups, g = estimates.Groups(len(labels), labels), torch.Generator().manual_seed(4)
    x = torch.randn(2000, len(sizes), generator=g, dtype=torch.double)[:, groups.of] + torch.randn(
        2000, len(labels), generator=g, dtype=torch.double
    )
    assert estimates.mean_variance(x, groups).mean().item() == pytest.approx(x.mean(1).var().item(), rel=0.15)


def test_a_planted_share_is_found_as_often_as_said():
    found, groups, said = [], estimates.Groups(200), []
    for seed in range(60):
        a, e = apart(seed)
        rho = (1 - math.exp(-0.2)) ** 0.5
        b = torch.cat([rho * a[:, :1] + (1 - rho**2) ** 0.5 * e[:, :1], e[:, 1:]], 1)
        result = [
            pairs.judged(*(pairs.one_side(D, groups) for D in (a, D_b)), groups, estimates.shuffles(groups, 99))
            for D_b in (b, e)
        ]
        found.append(result[0]["p"] <= bends.ALPHA)
        said.append(result[1]["power"])
    assert np.mean(found) == pytest.approx(np.mean(said), abs=0.12)


@pytest.mark.parametrize("n", [250, 400])
def test_a_planted_square_is_found_as_often_as_said(n):
    "Either side may be the one that bends: half of the draws have it so."
    found, groups, said = [], estimates.Groups(n), []
    c = (1 - math.exp(-0.2)) ** 0.5
    rows = torch.cat([torch.arange(n)[None], estimates.shuffles(groups, 99)])
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        a, e = torch.randn(2, n, 6, generator=g, dtype=torch.double)
        u, w = torch.nn.functional.normalize(torch.randn(2, 6, generator=g, dtype=torch.double), dim=1)
        square = (a @ u).square()
        b = e + torch.outer(c * (square - 1) / 2**0.5 + ((1 - c * c) ** 0.5 - 1) * (e @ w), w)
        line = None
        for D in (e, b):
            sides = [pairs.one_side(x, groups).shapes for x in ((a, D), (D, a))[seed % 2]]
            statistic = bends.curved(*sides, rows)[1]
            line = statistic.sort().values[-3]
            if D is b:
                found.append((statistic[0] >= line).item())
            else:
                grown = bends.planted_square(*sides, rows[1:], 0.1, groups.generator(7))
                said.append((statistic[1:] + grown > line).double().mean(1).tolist())
    assert np.mean(found) == pytest.approx(np.mean(said), abs=0.15)
    assert 0.1 < np.mean(said) < 0.95 and np.mean(said, 0)[0] == pytest.approx(np.mean(said, 0)[1], abs=0.1)


@pytest.mark.parametrize(("d", "n"), [(8, 300), (16, 600), (32, 1000)])
def test_a_square_that_could_hide_keeps_a_pair_from_being_called_private(d, n):
    "Independent features: private is withheld where a square would not be seen, and said where it would."
    g = torch.Generator().manual_seed(d + 1)
    pair = pair_information(torch.randn(n, d, generator=g), torch.randn(n, d, generator=g), resamples=50)
    assert pair.power > 0.8 > pair.power_bent and pair.verdict == "can't tell" and pair.interval[1] < 0.1
    narrow = pair_information(torch.randn(1500, 8, generator=g), torch.randn(1500, 8, generator=g), resamples=50)
    assert narrow.power_bent > 0.95 and narrow.verdict == "private"


def test_two_values_have_no_square_that_could_hide():
    g = torch.Generator().manual_seed(9)
    a, b = torch.randn(2, 2000, 1, generator=g)
    sides = [pairs.one_side(D, estimates.Groups(2000)).shapes for D in ((a > 0).double(), (b > 0).double())]
    rows = estimates.shuffles(estimates.Groups(2000), 50)
    assert torch.equal(bends.planted_square(*sides, rows, 0.1, g), torch.full((2, 50), math.inf, dtype=torch.double))
    assert pair_information((a > 0).float(), (b > 0).float(), permutations=99, resamples=50).verdict == "private"


def test_every_seed_is_a_run_of_its_own_and_the_same_twice(sample):
    a, b = sample.x["text"], sample.x["vision"]
    once, again, other = (pair_information(a, b, permutations=40, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert once == again and once.shared != other.shared
    assert other.shared == pytest.approx(once.shared, abs=0.02)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.booleans(), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.floats(1e-3, 1))
def test_no_verdict_says_more_than_was_found(linear, nonlinear, most, power, cut, margin):
    word = verdict(linear, nonlinear, most, power, cut, margin)
    if word == "private":
        assert most < margin and power >= 0.8 and not (cut or nonlinear)
    small = most < margin and power >= 0.8 and not cut
    if word == "shares":
        assert linear and not small
    if word == "shares, nonlinearly":
        assert nonlinear and (small or not linear)
    if word == "can't tell":
        assert not linear and not nonlinear


def test_a_speaker_that_both_carry_is_not_shared_when_groups_are_given():
    g = torch.Generator().manual_seed(5)
    speakers = torch.arange(40).repeat_interleave(8)
    a, b = (torch.randn(320, 6, generator=g) + 2 * torch.randn(40, 6, generator=g)[speakers] for _ in range(2))
    assert pair_information(a, b, permutations=99).verdict == "shares"
    assert pair_information(a, b, groups=speakers.tolist(), permutations=99).verdict == "can't tell"


@pytest.mark.parametrize("copy", [lambda D, g: D.clone(), lambda D, g: D @ torch.randn(8, 8, generator=g), lambda D, g: D + 0.04 * torch.randn(D.shape, generator=g)],
                         ids=["same", "linear", "near"])  # fmt: skip
def test_copies_share(copy):
    g = torch.Generator().manual_seed(6)
    D = torch.randn(300, 8, generator=g)
    pair = pair_information(D, copy(D, g), permutations=99, resamples=50)
    assert pair.verdict == "shares" and pair.shared > 15 and pair.interval[0] > 15 and math.isfinite(pair.interval[1])


@pytest.mark.parametrize("bend", [torch.square, torch.abs, lambda x: torch.sin(4 * x)], ids=["square", "abs", "sine"])
def test_the_kernel_sees_what_no_line_does(bend):
    g = torch.Generator().manual_seed(7)
    a, e = torch.randn(2, 400, 1, generator=g)
    y = bend(a)
    pair = pair_information(a, 0.8 * (y - y.mean()) / y.std() + 0.6 * e, permutations=99, resamples=50)
    assert pair.nonlinear <= 0.02 and pair.verdict == "shares, nonlinearly" and pair.shared < 0.05


def test_kernel_and_products_leave_a_weak_line_to_the_tests_of_lines():
    "The whole kernel finds .07 nats in 3,000 clips; what lines leave over doesn't, so the pair is private."
    g, rho = torch.Generator().manual_seed(12), (1 - math.exp(-2 * 0.07 / 4)) ** 0.5
    groups, whole, bent, words = estimates.Groups(3000), [], [], []
    rows = torch.cat([torch.arange(3000)[None], estimates.shuffles(groups, 99)])
    for _ in range(5):
        a, e = torch.randn(2, 3000, 4, generator=g, dtype=torch.double)
        sides = [pairs.one_side(D, groups) for D in (a, rho * a + (1 - rho**2) ** 0.5 * e)]
        components = [torch.cat([side.shapes.line, side.shapes.curve], 1) for side in sides]
        whole.append(bends.dependence(*components, rows).argmax().item() == 0)
        bent += (bends.curved(*(side.shapes for side in sides), rows).argmax(1) == 0).tolist()
        words.append(pairs.judged(*sides, groups, rows[1:])["verdict"])
    assert all(whole) and sum(bent) <= 2 and words.count("private") >= 3


def test_lines_are_taken_out_of_curves_and_products():
    W = estimates.white(torch.randn(200, 5, generator=torch.Generator().manual_seed(13), dtype=torch.double), 9).W
    found = bends.shapes(W, torch.Generator().manual_seed(14))
    for F in (found.curve, found.product):
        assert (W.T.float() @ F / 200).abs().max() < 1e-5
    whole = bends.kernel_components(W, torch.Generator().manual_seed(14))
    torch.testing.assert_close(found.line + found.curve, whole, rtol=0, atol=1e-5)
    assert found.product.shape == (200, 15)
    torch.testing.assert_close(found.product.square().mean(0), torch.ones(15), rtol=0, atol=1e-4)


@pytest.mark.parametrize("n, d", [(400, 8), (2000, 20)])
def test_products_see_one_square_among_many_directions(n, d):
    g, words = torch.Generator().manual_seed(15), []
    for _ in range(3):
        a, b = torch.randn(2, n, d, generator=g)
        b[:, 0] = 0.8 * (a[:, 0] ** 2 - 1) / 2**0.5 + 0.6 * b[:, 0]
        words.append(pair_information(a, b, permutations=99, resamples=20).verdict)
    assert words == ["shares, nonlinearly"] * 3


def test_loud_in_the_same_clips_is_shared():
    g = torch.Generator().manual_seed(8)
    loud = (0.5 * torch.randn(400, 1, generator=g)).exp()
    assert pair_information(
        *(torch.randn(400, 8, generator=g) * loud for _ in range(2)), permutations=99, resamples=50
    ).verdict.startswith("shares")


def test_normal_scores_find_what_tails_hide():
    g = torch.Generator().manual_seed(9)
    a, e = torch.randn(2, 300, 4, generator=g)
    pair = pair_information(a**9, (0.5 * a + 0.75**0.5 * e) ** 9, permutations=99, resamples=50)
    assert pair.copula > 0.4 > pair.shared and pair.verdict == "shares"


def test_what_was_cut_is_a_lower_bound_and_never_private():
    g = torch.Generator().manual_seed(10)
    a, b = torch.randn(2, 300, 40, generator=g)
    assert (pair := pair_information(a, b, permutations=99, resamples=50)).bound and pair.verdict == "can't tell"
    assert pair.interval[1] == math.inf and pair.variance_read == (pytest.approx(0.78, abs=0.1),) * 2
    b[:, :4] = 0.9 * a[:, :4] + 0.19**0.5 * b[:, :4]
    a[:, :4], b[:, :4] = 3 * a[:, :4], 3 * b[:, :4]
    turned = [D @ torch.linalg.qr(torch.randn(40, 40, generator=g)).Q for D in (a, b)]
    pair = pair_information(*turned, permutations=99, resamples=50)
    assert pair.verdict == "shares" and 0 < pair.interval[0] < -2 * math.log(0.19)


def test_clips_that_hang_together_are_noted():
    g, groups = torch.Generator().manual_seed(11), estimates.Groups(400)
    note = lambda a, b, groups=groups: pairs.clip_notes(
        {"a": pairs.one_side(a, groups), "b": pairs.one_side(b, groups)}, groups
    )
    fresh = lambda: torch.randn(400, 6, generator=g)
    smooth = lambda: torch.nn.functional.avg_pool1d(torch.randn(6, 410, generator=g), 11, 1).T
    assert note(fresh(), fresh()) == () and note(smooth(), fresh()) == ()
    near = lambda: smooth() + 0.4 * fresh()
    assert "pass groups" in note(smooth(), smooth())[0] and "k // " not in note(smooth(), smooth())[0]
    assert "blocks of clips in a row: [k // " in note(near(), near(), estimates.Groups(400))[0]
    assert note(smooth(), smooth(), estimates.Groups(400, [k // 20 for k in range(400)])) == ()
    halves = [torch.randn(200, 6, generator=g) for _ in range(2)]
    doubled = [D.repeat(2, 1) + 1e-5 * torch.randn(400, 6, generator=g) for D in halves]
    assert note(*doubled) == (
        "400 clips equal another one in all modalities: if a clip is there twice, give both one group",
    )
    assert note(*doubled, estimates.Groups(400, [*range(200)] * 2)) == () and note(doubled[0], fresh()) == ()
    assert note(torch.randn(400, 40, generator=g), torch.ones(400, 2))[0].startswith(
        "a: 400 clips are too few for 40 columns; the leading 33 directions"
    )


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
    for part in interactions.PARTS:
        assert m.interval[part][0] <= getattr(m, part) <= m.interval[part][1]
    assert m.alone > m.null95["alone"] and m.added > m.null95["added"]
    assert report.together_interval[0] < label_information(WORLD, *WORLD.names) < report.together_interval[1]


def known(features, y, groups=None, permutations=99):
    return interactions.label_interactions(features, y, estimates.Groups(len(y), groups), permutations)[0]


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_given_what_others_know_against_a_regression():
    "ln of the ratio of residual sums of squares, and the F test of linear regression on null draws."
    x, o, e = normal(300, 3, seed=1), normal(300, 5, seed=2), normal(300, seed=3)
    x = x + o[:, :3]
    y = x[:, 0] + o[:, 1] + e
    A, O, Y = (estimates.white(estimates.standard(D), 60).W for D in (x, o, y[:, None]))
    rest = lambda *X: (
        (
            y
            - torch.cat([torch.ones(300, 1), *X], 1)
            @ torch.linalg.lstsq(torch.cat([torch.ones(300, 1), *X], 1), y[:, None]).solution[:, 0]
        )
        .square()
        .sum()
    )
    by = estimates.Groups(300)
    found = interactions._given(A, Y, O, by, estimates.shuffles(by, 400))
    raw = (rest(o.double()) / rest(o.double(), x.double())).log() / 2
    bias = estimates.gaussian_bias(300 - 5, 3, 1)
    assert found.nats == pytest.approx(raw.item() - bias, abs=0.003)
    exact = estimates.estimate(
        interactions.without(A, O), interactions.without(Y, O), by, estimates.shuffles(by, 0), given=O
    )
    assert exact.nats == pytest.approx(raw.item() - bias, abs=1e-4) and found.V_0 == pytest.approx(exact.V_0, rel=0.3)


def test_the_same_features_twice_add_nothing():
    x, y = normal(400, 4, seed=4), normal(400, seed=5)
    m = known({"a": x, "b": x @ normal(4, 4, seed=6), "c": normal(400, 3, seed=7)}, x[:, 0] + y)
    assert m["a"].interval["added"][0] < 1e-9 and m["a"].added < 0.01 and m["a"].alone > 0.25
    assert m["b"].redundant == pytest.approx(m["b"].alone, abs=0.01) and m["c"].interval["added"][0] < 1e-9


def test_noise_adds_nothing_and_a_sum_is_synergy():
    "y = a + b of independent a and b: each knows less alone than it adds."
    a, b, noise = normal(500, 1, seed=8), normal(500, 1, seed=9), normal(500, 30, seed=10)
    m = known({"a": a, "b": b, "noise": noise}, (a + b)[:, 0] + 0.2 * normal(500, seed=11))
    assert m["a"].interval["synergistic"][0] > 0.5 and m["a"].added > m["a"].alone + 0.5
    assert (
        m["noise"].interval["synergistic"][0] == m["noise"].interval["added"][0] == m["noise"].interval["alone"][0] == 0
    )
    assert m["noise"].added < m["noise"].null95["added"]


def test_cut_columns_are_bounds():
    wide, y = normal(200, 120, seed=12), normal(200, seed=13)
    m = known({"wide": wide, "b": normal(200, 3, seed=14)}, wide[:, 0] + y)
    assert m["wide"].bound == {"alone": True, "others": False, "together": True}
    assert m["wide"].interval["alone"][1] == m["wide"].interval["added"][1] == math.inf
    assert m["b"].bound["others"] and m["b"].interval["alone"][1] < math.inf


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
    finer = interactions.mutual_information(least_informative(p, gap=1e-7).flatten(0, 1))
    assert -1e-7 <= interactions.mutual_information(q.flatten(0, 1)) - finer <= 1e-6


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
            (1 + (x >= estimates.null95(x) + 0.5).sum()) / (times + 1)
            <= 0.05
            < (2 + (x >= estimates.null95(x)).sum()) / (times + 1)
        )
    assert math.isnan(estimates.null95(torch.empty(0))) and estimates.null95(torch.empty(0, 3)).shape == (3,)


def test_neighbours_read_a_known_pair():
    g = torch.Generator().manual_seed(6)
    z, e = torch.randn(2, 4000, 1, generator=g, dtype=torch.double)
    assert neighbour_information(z, 0.8 * z + 0.6 * e) == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.06)
    assert neighbour_information(z, e) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("k", [3, 5])
def test_neighbours_are_those_of_scikit_learn(k):
    from sklearn.feature_selection import mutual_info_regression

    g = torch.Generator().manual_seed(9)
    z, e = torch.randn(2, 500, 1, generator=g, dtype=torch.double)
    y = 0.8 * z + 0.6 * e
    theirs = mutual_info_regression(z.numpy(), y[:, 0].numpy(), n_neighbors=k, random_state=0)[0]
    assert neighbour_information(z, y, k) == pytest.approx(theirs, abs=1e-6)


def test_intervals_of_kappa_are_of_all_clips_and_of_enough_halves(sample, monkeypatch):
    a, b = sample.x["text"].double()[:300], sample.x["audio"].double()[:300]
    halves, whole = pairs.kappa_halves(a, b, Groups(300), 40), kappa(a, b)
    assert len(halves) == 40 and halves.mean().item() == pytest.approx(whole.item(), abs=1e-9)
    asked, made = [], pairs.kappa_halves
    monkeypatch.setattr(
        pairs, "kappa_halves", lambda a, b, groups, times: asked.append(times) or made(a, b, groups, times)
    )
    for resamples in (50, 1000):
        pair_information(a, b, permutations=39, resamples=resamples)
    assert asked == [20, 100]


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
    report = information_report(noisy, sample.y_m, before=sample.x, permutations=40, resamples=200)
    change = report.change["text", "vision"]
    assert change.interval[1] < 0 and change.shared == pytest.approx(
        report.pairs["text", "vision"].shared - report.before.pairs["text", "vision"].shared
    )
    assert report.change["text", "audio"].interval == (0, 0) and set(report.modalities) == set(WORLD.names)
    assert report.to_dict()["before"]["pairs"]["text~vision"]["shared"] > 0.8
    assert "change" in str(report) and report._repr_html_().count("<table>") == 2


def test_two_and_four_modalities_numpy_and_half_precision(sample):
    two = information_report(
        {s: sample.x[s].numpy() for s in ("text", "audio")}, sample.y_m.numpy(), permutations=39, resamples=20
    )
    assert list(two.pairs) == [("text", "audio")]
    four = information_report(
        sample.x | {"timing": sample.x["text"][:, :5].half()}, sample.y_m, permutations=39, resamples=20
    )
    assert len(four.pairs) == 6 and four.pairs["text", "timing"].verdict == "shares"
    import matplotlib

    matplotlib.use("agg")
    assert len(four.plot().axes) == 7


def test_names_are_escaped(sample):
    html = information_report(
        {"<script>": sample.x["text"], "b&w": sample.x["audio"]}, sample.y_m, permutations=39, resamples=20
    )._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "b&amp;w" in html


def test_dead_and_copied_features(sample):
    report = information_report(
        {"text": sample.x["text"], "dead": torch.ones(800, 3), "copy": sample.x["text"] @ torch.ones(32, 2)},
        sample.y_m,
        permutations=39,
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
            lambda x, y: (x | {"audio": x["audio"].index_fill(0, torch.tensor([3]), math.inf)}, y),
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
    with pytest.raises(ValueError, match="0 or at least 39"):
        information_report(sample.x, sample.y_m, permutations=20)
    with pytest.raises(ValueError, match="one entry for each of 800 clips, got 3"):
        information_report(sample.x, sample.y_m, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="at least 5 groups: .* got 4"):
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


def test_what_is_loud_is_found_in_wide_features():
    "A tenth of a nat in 32 columns that are mixed from four directions and a little noise: found, where white columns see little."
    names, words, white = ("text", "audio"), [], []
    for seed in range(5):
        config = SyntheticConfig(
            dims=dict.fromkeys(names, 32), omega=dict.fromkeys(names, 0.5), common=0.1, pairs={}, k_private=2
        )
        g, x = torch.Generator().manual_seed(seed), Simulation(config).sample(400, seed=seed).x
        noisy = [v + 0.05 * v.std() * torch.randn(v.shape, generator=g) for v in x.values()]
        found = pair_information(*noisy, permutations=199, resamples=20)
        words.append(found.verdict)
        white.append(found.shared > found.null95)
    assert words.count("shares") >= 4 and sum(white) < 5


def test_loud_directions_care_for_size_and_not_for_order_or_unit():
    g = torch.Generator().manual_seed(16)
    D = (
        torch.randn(120, 5, generator=g)
        @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1]))
        @ torch.randn(5, 9, generator=g)
    )
    groups = estimates.Groups(120)
    side, other_unit = pairs.one_side(D, groups), pairs.one_side(1000 * D + 7, groups)
    torch.testing.assert_close(side.loud @ side.loud.T, other_unit.loud @ other_unit.loud.T, rtol=0, atol=1e-4)
    size = side.loud.square().mean(0)
    assert size[0] == pytest.approx(1) and (size.diff() <= 1e-9).all() and size[-1] < 0.1
    X = estimates.standard(bends.normal_scores(D))
    top = torch.linalg.eigvalsh(X.T @ X / 120).flip(0)
    torch.testing.assert_close(size, (top / top[0])[: len(size)], rtol=1e-6, atol=1e-9)


def test_cutting_makes_no_directions():
    "Columns mixed from few heavy-tailed sources: as many directions as sources, and nats near those of the sources themselves."
    g = torch.Generator().manual_seed(17)
    z, e = torch.randn(2, 1500, 4, generator=g, dtype=torch.double)
    heavy = lambda x: x.sign() * x.abs() ** 2.2
    sources = heavy(z), heavy(0.7 * z + 0.51**0.5 * e)
    wide = [x @ torch.randn(4, 20, generator=g, dtype=torch.double) for x in sources]
    assert [estimates.rank_of(x) for x in (*sources, *wide)] == [4] * 4
    assert estimates.white(estimates.standard(wide[0]), 99).W.shape[1] > 4
    few, many = (pair_information(*x, permutations=39, resamples=20) for x in (sources, wide))
    assert pairs.one_side(wide[0], estimates.Groups(1500)).columns.W.shape[1] == 4 and not many.bound
    assert abs(few.shared - many.shared) < 0.5 * few.shared and many.interval[1] < 1.5


@pytest.mark.parametrize(
    "D, rank",
    [(torch.zeros(50, 3), 0), (torch.randn(50, 7), 7), (torch.randn(30, 80), 29), (torch.ones(50, 2).cumsum(0), 1)],
)
def test_rank_of_columns(D, rank):
    assert estimates.rank_of(D) == rank and estimates.rank_of(1e6 * D + 3e6) == rank
