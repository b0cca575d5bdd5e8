"The parts of an estimate and of its tests, each against SciPy or the same thing done in the plainest way."

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import digamma, polygamma

from dmsil import bends, estimates
from dmsil.estimates import Estimate, Groups, rewhitened, shuffles, standard, white, white_columns


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# What is measured -------------------------------------------------------------------------------------------------


def test_pointwise_information_is_a_log_ratio_of_densities():
    u, v, rho = normal(1, 50, 2), normal(2, 50, 2), torch.tensor([0.8, -0.3], dtype=torch.double)
    ratio = 0
    for j, r in enumerate(rho.tolist()):
        both = stats.multivariate_normal(cov=[[1, r], [r, 1]]).logpdf(torch.stack([u[:, j], v[:, j]], 1))
        ratio = ratio + both - stats.norm.logpdf(u[:, j]) - stats.norm.logpdf(v[:, j])
    assert np.allclose(estimates.pointwise(u, v, rho), ratio)
    several = estimates.pointwise(torch.stack([u, 2 * u]), torch.stack([v, v]), torch.stack([rho, rho]))
    assert torch.equal(several, torch.stack([estimates.pointwise(x, v, rho) for x in (u, 2 * u)]))


def test_forty_clips_and_five_groups_are_enough():
    by = Groups(40, [k % 5 for k in range(40)])
    assert estimates.enough(by, 3) is by and len(by.sizes) == 5 and by.seed == 0
    assert estimates.enough(Groups(40, None, 7), 40).seed == 7
    for n, groups, folds in ((39, None, 2), (40, [k % 4 for k in range(40)], 3), (40, [k % 6 for k in range(40)], 7)):
        with pytest.raises(ValueError, match="a verdict needs at least"):
            estimates.enough(Groups(n, groups), folds)


def test_numbers_that_the_pages_name():
    settings = estimates.BOUND, estimates.CLIPS_A_DIRECTION, estimates.ALIKE, estimates.MARGIN
    assert settings == (5, 12, 6, 0.1)


def test_clips_of_one_group_count_less():
    of = [0] * 10 + [1] * 20 + [2] * 30 + [3] * 40
    by = Groups(100, of)
    assert by.count == pytest.approx(100 / 30)
    W = rewhitened(normal(31, 100, 3))
    sums = torch.stack([W[torch.tensor(of) == g].sum(0) for g in range(4)])
    r = ((sums.square().sum(0) * 4 / 3 / 100).mean() - 1) / (30 - 1)
    assert estimates.alike(W, by) == pytest.approx(r.item())
    assert estimates.alike(W, Groups(100)) == 0 == estimates.alike(W[:, :0], by)
    constant = normal(32, 4, 2)[torch.tensor(of)]
    assert estimates.alike(rewhitened(constant), by) == 1
    assert estimates.counted(rewhitened(constant), rewhitened(constant), by) == pytest.approx(by.count)
    rare = rewhitened(
        normal(33, 100, 3) - torch.stack([normal(33, 100, 3)[torch.tensor(of) == g].mean(0) for g in range(4)])[of]
    )
    assert estimates.alike(rare, by) < 0 and estimates.counted(rare, rewhitened(constant), by) == 100
    assert estimates.counted(W, rewhitened(constant), by) == pytest.approx(100 / (1 + 29 * max(0, r.item())))


def test_columns_are_cut_at_five_deviations_again_and_again():
    X = normal(3, 200, 2)
    X[0, 0] = 300
    cut = standard(X)
    assert cut.std(0, correction=0) == pytest.approx([1, 1]) and cut.mean(0).abs().max() < 1e-9
    assert 4.9 < cut[0, 0] <= 5.005 and torch.allclose(
        cut[:, 1], (X[:, 1] - X[:, 1].mean()) / X[:, 1].std(correction=0)
    )
    assert standard(X, math.inf)[0, 0] > 14 and 2.9 < standard(X, 3)[0, 0] <= 3.003


def test_columns_that_do_not_vary_are_left_out():
    x = normal(4, 100, 1)
    D = torch.cat([x, torch.full((100, 1), 7.0).double(), 1e6 + 0.5e-3 * x, 1e6 + 2e-3 * x, 0 * x, 1e-100 * x], 1)
    assert standard(D).shape[1] == 3  # a billionth of the size is rounding


@pytest.mark.parametrize("n, d", [(60, 5), (30, 50)])
def test_white_components_are_those_of_numpy(n, d):
    X = standard(normal(5, n, d) @ normal(6, d, d))
    U, S, _ = np.linalg.svd(X.numpy(), full_matrices=False)
    found = white(X, 4)
    assert np.allclose(np.abs(found.W.numpy().T @ U[:, :4]) / n**0.5, np.eye(4), atol=1e-6)
    assert found.cut and found.read == pytest.approx((S[:4] ** 2).sum() / (S**2).sum())
    whole = white(X, 50)
    assert not whole.cut and whole.read == pytest.approx(1) and whole.W.shape[1] == min(n - 1, d)
    assert white(X, 5, 3).W.shape[1] == 3 and not white(X, 5, 3).cut and white(X[:, :0], 3).read == 1


def test_directions_below_a_hundred_thousandth_are_none():
    x = normal(7, 300, 3)
    thin = lambda size: torch.cat([x, x[:, :1] + size * normal(8, 300, 1)], 1)
    assert white(thin(1e-3), 9).W.shape[1] == 4
    Q = torch.linalg.qr(x - x.mean(0)).Q
    directions = lambda size: white(Q * torch.tensor([1, 1, size]), 9).W.shape[1]
    assert directions(1.05e-5) == 3 and directions(0.95e-5) == 2
    assert (
        white(Q + 7, 9).W.mean(0).abs().max() < 1e-9
        and white(Q + 7, 9).W.shape[1] == 3
        and not white(Q, 3).cut
        and white(Q, 2).cut
    )
    again = [torch.cat([normal(seed, 300, 3)] * 9, 1) for seed in range(9)]  # eigenvalues of 0 and a little less
    assert [white(X, 30).W.shape[1] for X in again] == [3] * 9
    assert [white(X, 30).read for X in again] == pytest.approx([1] * 9)
    assert estimates.rank_of(thin(1e-3)) == 4 and white_columns(thin(1e-3), 2).cut


def test_correlations_stay_below_one():
    A = white(standard(normal(9, 200, 3)), 3).W
    u, v, rho = estimates.canonical(A, A)
    assert torch.allclose(1 - rho**2, torch.full((3,), 1e-6).double(), rtol=1e-3)
    assert torch.allclose(u, v) and estimates.gaussian_information(A.T @ A / 200).item() == pytest.approx(
        -1.5 * math.log(1e-6), rel=1e-4
    )
    M = torch.tensor([[0.6, 0.0, 0.1], [0.0, 0.3, 0.0]]).double()
    exact = -torch.logdet(torch.eye(2) - M @ M.T).item() / 2
    assert estimates.gaussian_information(M).item() == pytest.approx(exact)
    assert estimates.gaussian_information(M.T).item() == pytest.approx(exact)


# Bias and chance --------------------------------------------------------------------------------------------------


def test_the_bias_is_that_of_wishart_matrices():
    n = 40
    E_logdet = lambda d: sum(digamma((n - j) / 2) for j in range(1, d + 1)) + d * math.log(2 / (n - 1))
    assert estimates.gaussian_bias(n, 3, 2) == pytest.approx((E_logdet(3) + E_logdet(2) - E_logdet(5)) / 2)
    assert estimates._wishart(n, 4, 1) == pytest.approx(sum(polygamma(1, (n - j) / 2) for j in range(1, 5)))


def test_without_shuffles_the_formulas_hold():
    a = normal(10, 80, 3)
    A, B = white(standard(a), 3).W, white(standard(a[:, :2] + normal(11, 80, 2)), 2).W
    groups = Groups(80, [k // 2 for k in range(80)])
    e = estimates.estimate(A, B, groups, torch.empty(0, 80, dtype=torch.long))
    I = estimates.gaussian_information(A.T @ B / 80).item()
    assert e.nats == e.drawn == pytest.approx(I - estimates.gaussian_bias(80, 3, 2))
    tau = lambda d: sum(polygamma(1, (80 - j) / 2) for j in range(1, d + 1))
    assert e.V_0 == pytest.approx((tau(5) - tau(3) - tau(2)) / 4) and not len(e.null)
    i = estimates.pointwise(*estimates.canonical(A, B))
    sums = (i - i.mean()).view(40, 2).sum(1)
    first = (sums**2).sum().item() * 40 / 39 / 80**2
    assert e.V_1 == pytest.approx(first - 6 / (80 * 79)) and e.clipwise.mean().item() == pytest.approx(e.nats)
    assert e.V_1 > 0.005 and e.wider == 1 and estimates.mean_variance(i + 9, groups).item() == pytest.approx(first)
    assert estimates.mean_variance(torch.stack([i, 2 * i]), groups).tolist() == pytest.approx([first, 4 * first])
    given = white(standard(normal(12, 80, 4)), 4).W
    less = estimates.estimate(A, B, groups, torch.empty(0, 80, dtype=torch.long), given=given)
    assert less.nats == pytest.approx(I - estimates.gaussian_bias(76, 3, 2))


def test_first_order_less_that_of_twenty_shuffles():
    a, e = normal(13, 300, 3), normal(14, 300, 3)
    A, B = (white(standard(D), 3).W for D in (a, 0.7 * a + e))
    groups, order = Groups(300), shuffles(Groups(300), 60)
    found = estimates.estimate(A, B, groups, order)
    spread = lambda X: estimates.pointwise(*estimates.canonical(A, X)).var().item() / 300
    chance = np.mean([spread(B[row]) for row in order[:20]])
    assert found.V_1 == pytest.approx(spread(B) - chance) and found.nats == pytest.approx(found.drawn)
    null = torch.stack([estimates.gaussian_information(A.T @ B[row] / 300) for row in order])
    assert found.V_0 == pytest.approx(null.var().item()) and torch.allclose(found.null, null - null.mean())
    assert found.wider == pytest.approx(1) and found.null95 == pytest.approx(estimates.null95(found.null).item())
    I = estimates.gaussian_information(A.T @ B / 300)
    assert found.nats == pytest.approx((I - null.mean()).item())
    nothing = estimates.estimate(A[:, :0], B, groups, order, 0.2)
    assert (nothing.nats, nothing.drawn, nothing.V_0, nothing.V_1, nothing.wider) == (0, 0, 0, 0, 1)
    assert nothing.planted.tolist() == [0.2] * 60 and nothing.null.tolist() == [0] * 60
    more = estimates.planted(torch.stack([A.T @ B[row] / 300 for row in order]), 0.1, groups.generator(1))
    assert torch.allclose(found.planted, found.null + more)


@pytest.mark.parametrize("lines", [False, True])
def test_what_a_group_moves_is_what_a_fit_without_it_says(lines):
    who = [0] * 5 + [1] * 25 + [2] * 40 + [3] * 50
    groups, a, given = Groups(120, who), normal(51, 120, 3), normal(52, 120, 2)
    A, B = (white(standard(D), 3).W for D in (a, a + normal(53, 120, 3)))
    C = white(standard(given), 2).W if lines else None
    rid = lambda X, C: X if C is None else X - C @ torch.linalg.lstsq(C, X).solution
    if lines:
        A, B = (white(rid(X, C), 3).W for X in (A, B))
    found = estimates.moved_by_groups(A, B, groups, C)

    def fit(rows):
        some = None if C is None else C[rows] - C[rows].mean(0)
        X, Y = (white(rid(D[rows] - D[rows].mean(0), some), 3).W for D in (A, B))
        return estimates.gaussian_information(X.T @ Y / len(X))

    whole, who = fit(torch.ones(120, dtype=torch.bool)), torch.tensor(who)
    moved = [(1 - (who == g).sum() / 120) * (whole - fit(who != g)) for g in range(4)]
    assert found.tolist() == pytest.approx([x.item() for x in moved], abs=1e-5)


def test_copies_and_a_group_that_has_a_direction_alone_stay_finite():
    A = white(standard(normal(54, 60, 2)), 2).W
    groups = Groups(60, [k // 6 for k in range(60)])
    assert estimates.moved_by_groups(A, A, groups).isfinite().all()
    alone = white(torch.eye(60, dtype=torch.double)[:, :2], 2).W  # both directions are of the first group
    assert estimates.moved_by_groups(alone, A, groups).isfinite().all()
    own = white(torch.tensor([[1.0]] * 6 + [[0.0]] * 54).double(), 1).W  # without its group no direction is left
    assert estimates.moved_by_groups(own, A, groups).isfinite().all()


@pytest.mark.parametrize("scale, wider", [(0.0, 1.0), (1.0, None)])
def test_how_much_wider_the_null_gets(scale, wider):
    groups, s = Groups(10, [k // 2 for k in range(10)]), normal(56, 5)
    s_0, null = normal(57, 20, 5), scale * normal(58, 30)
    added, V_0, V_1, found = estimates._by_groups(s, null, s_0, groups)
    moved = s_0.sum(1)
    wider = wider or max(1, ((null[:20] + moved).var() / null[:20].var()).item())
    assert found == pytest.approx(wider)
    assert added == pytest.approx((moved.mean() - min(s.sum(), moved.max())).item())
    assert V_0 == pytest.approx(null.var().item() * wider + moved.var().item() / 20)
    assert V_1 == pytest.approx(((s**2).sum() - (s_0**2).sum(1).mean()).item() * 5 / 4)


def test_a_null_that_groups_make_narrower_is_left_as_wide():
    groups, null = Groups(10, [k // 2 for k in range(10)]), normal(59, 30)
    s_0 = -0.1 * null[:20, None].expand(20, 5)
    assert estimates._by_groups(normal(60, 5), null, s_0, groups)[3] == 1


def test_groups_of_unequal_size_change_places_among_six_of_similar_size():
    who = [g for g in range(13) for _ in range(g + 1)]
    rows = shuffles(Groups(91, who), 400)
    first = [who.index(g) for g in range(13)]
    gets = [{who[row[first[g]]] for row in rows} for g in range(13)]
    assert gets == [set(range(6))] * 6 + [set(range(6, 13))] * 7
    for row in rows[:20].tolist():
        for g in range(13):
            theirs = who[row[first[g]]]
            clips = [k for k in range(91) if who[k] == theirs]
            assert [row[k] for k in range(91) if who[k] == g] == [clips[j % len(clips)] for j in range(g + 1)]


def test_what_groups_add_is_taken_off_against_shuffles():
    who = [k // 6 for k in range(120)]
    habits = normal(15, 20, 3)[who]
    a, e = normal(16, 120, 3) + habits, normal(17, 120, 3) + normal(18, 20, 3)[who]
    A, B = (white(standard(D), 3).W for D in (a, a + e))
    groups = Groups(120, who)
    order = shuffles(groups, 25)
    found = estimates.estimate(A, B, groups, order)
    s = estimates.moved_by_groups(A, B, groups)
    s_0 = torch.stack([estimates.moved_by_groups(A, B[row], groups) for row in order[:20]])
    assert found.nats == pytest.approx((found.drawn + s.sum() - s_0.sum(1).mean()).item())
    assert found.V_1 == pytest.approx(((s**2).sum() - (s_0**2).sum(1).mean()).item() * 20 / 19)
    null = found.null[:20] + s_0.sum(1)
    wider = (null.var() / found.null[:20].var()).item()
    assert found.wider == pytest.approx(wider) and wider > 1
    assert found.V_0 == pytest.approx(found.null.var().item() * wider + s_0.sum(1).var().item() / 20)
    assert found.null95 == pytest.approx(estimates.null95(found.null).item() * wider**0.5)
    assert found.clipwise.mean().item() == pytest.approx(found.nats)


def test_a_share_that_one_group_carries_is_not_taken_for_bias():
    groups, (a, b) = Groups(300, [k // 15 for k in range(300)]), (normal(40, 300, 4), normal(41, 300, 4))
    a[:15, 0] = 9 * normal(42, 15)
    b[:15, 0] = a[:15, 0]
    A, B = (white(D - D.mean(0), 4).W for D in (a, b))
    e = estimates.estimate(A, B, groups, shuffles(groups, 50))
    s = estimates.moved_by_groups(A, B, groups)
    assert s[0] > 0.5 * e.drawn > 0.2 and s.sum() > 0.2 * e.drawn and e.nats < 1.15 * e.drawn


def test_unequal_groups_count_as_fewer():
    who = [min(k // 4, 9) for k in range(120)]
    groups, (a, e) = Groups(120, who), (normal(43, 120, 2), normal(44, 120, 2))
    A, B = (white(standard(D), 2).W for D in (a, a + e))
    order = shuffles(groups, 20)
    found = estimates.estimate(A, B, groups, order)
    V = lambda s: (s**2).sum(-1).mean().item() * groups.count / (groups.count - 1)
    s_0 = torch.stack([estimates.moved_by_groups(A, estimates.rewhitened(B[row]), groups) for row in order])
    assert found.V_1 == pytest.approx(max(0, V(estimates.moved_by_groups(A, B, groups)) - V(s_0)), abs=1e-9)


def test_groups_are_counted_by_their_size():
    assert Groups(8, list("aaaabbcd")).count == pytest.approx(64 / (16 + 4 + 1 + 1))
    few = Groups(6, list("aabbcc"))
    assert few.equal and not few.single and Groups(3).single and not Groups(3, list("aab")).equal
    assert estimates.student(few) == pytest.approx(stats.t.ppf(0.975, 2))
    assert estimates.student(few, 0.9) == pytest.approx(stats.t.ppf(0.95, 2))
    assert estimates.student(Groups(3, list("aaa"))) == pytest.approx(stats.t.ppf(0.975, 1))
    draws = [torch.rand(2, generator=Groups(3, seed=seed).generator(salt)) for seed, salt in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3


def test_white_again():
    X = estimates.rewhitened(normal(19, 2, 50, 4) ** 3 + 7)
    assert torch.allclose(X.mT @ X / 50, torch.eye(4).double().expand(2, 4, 4), atol=1e-6)
    assert X.mean(1).abs().max() < 1e-9


def test_shuffles_that_keep_features_white_are_left_as_they_are():
    B, given = white(standard(normal(20, 60, 3)), 3).W, white(standard(normal(21, 60, 2)), 2).W
    rows = shuffles(Groups(60), 4)
    assert torch.equal(next(estimates._shuffled(B, Groups(60), rows)), B[rows])
    without = next(estimates._shuffled(B, Groups(60), rows, given))
    assert (given.T @ without).abs().max() < 1e-9 and torch.allclose(
        without.mT @ without / 60, torch.eye(3).double().expand(4, 3, 3), atol=1e-6
    )
    unequal = Groups(60, [min(k // 3, 9) for k in range(60)])
    X = next(estimates._shuffled(B, unequal, shuffles(unequal, 4)))
    assert torch.allclose(X.mT @ X / 60, torch.eye(3).double().expand(4, 3, 3), atol=1e-6)


# Interval, power --------------------------------------------------------------------------------------------------


def made(nats, V_0, V_1):
    return Estimate(nats, nats, torch.zeros(5), torch.zeros(0), torch.zeros(0), V_0, V_1, 1.0)


@pytest.mark.parametrize("nats, V_0, V_1", [(0.4, 1e-3, 4e-3), (0.03, 1e-3, 1e-3), (0.0, 1e-3, 5e-4)])
def test_ends_of_the_interval_solve_wilsons_equation(nats, V_0, V_1):
    groups = Groups(30)
    t, slope = stats.t.ppf(0.975, 29), V_1 / max(nats, V_0**0.5)
    low, high = estimates.interval(made(nats, V_0, V_1), groups)
    off = lambda I: (nats - I) ** 2 - t**2 * (V_0 + I * slope)
    assert off(high) == pytest.approx(0, abs=1e-12) and (low == 0 and off(0) < 0 or abs(off(low)) < 1e-12)
    assert high > nats and low <= max(nats, 0)
    narrow = estimates.interval(made(nats, V_0, V_1), groups, 0.5)
    assert (
        estimates.interval(made(-0.02, V_0, V_1), groups)[1] >= estimates.interval(made(0, V_0, V_1), groups)[1] - 0.02
    )
    assert narrow[1] < high
    assert estimates.interval(made(-9.0, V_0, V_1), groups) == (0, 0)


def test_the_null_is_exceeded_by_five_in_a_hundred():
    assert estimates.null95(torch.arange(199.0)).item() == 189 and estimates.null95(torch.arange(39.0)).item() == 37
    assert estimates.null95(torch.zeros(0, 2)).isnan().all()


@pytest.mark.parametrize("nats", [0.02, 0.1, 0.5])
def test_a_planted_line_is_one_in_the_features(nats):
    A, B = white(standard(normal(22, 400, 5)), 5).W, white(standard(normal(23, 400, 4)), 4).W
    M = A.T @ B / 400
    g = torch.Generator().manual_seed(24)
    w_a, w_b = (torch.nn.functional.normalize(torch.randn(1, k, generator=g, dtype=M.dtype), dim=1)[0] for k in (5, 4))
    grown = estimates.planted(M[None], nats, torch.Generator().manual_seed(24)).item()
    c = math.exp(-nats)
    bent = B + torch.outer(math.sqrt(1 - c * c) * A @ w_a + (c - 1) * B @ w_b, w_b)
    after = estimates.gaussian_information(A.T @ estimates.rewhitened(bent) / 400)
    assert grown == pytest.approx((after - estimates.gaussian_information(M)).item(), abs=1e-6)


# Bends ------------------------------------------------------------------------------------------------------------


def test_normal_scores_are_scipys():
    D = torch.tensor([[3.0], [1.0], [1.0], [8.0], [5.0]])
    assert np.allclose(bends.normal_scores(D)[:, 0], stats.norm.ppf((stats.rankdata(D[:, 0]) - 0.5) / 5))


def test_kernel_components_make_the_kernel():
    "Components at the fourth root of their variance: products of two sides' components lie between HSIC and kernel CCA."
    W = white(standard(normal(25, 200, 2)), 2).W
    F = bends.kernel_components(W, torch.Generator().manual_seed(26), waves=1200).double()
    square = torch.cdist(W, W).square()
    K = torch.exp(-2 * square / square.mean())
    H = torch.eye(200).double() - 1 / 200
    L, V = torch.linalg.eigh(H @ K @ H / 200)
    size = F.square().mean(0).sort(descending=True).values / 1200**0.5
    assert F.mean(0).abs().max() < 1e-3 and torch.allclose(size[:6], L.flip(0)[:6].sqrt(), rtol=0.05)
    leading = torch.linalg.svdvals(V[:, -5:].T @ torch.linalg.qr(F[:, -5:]).Q)
    assert leading.min() > 0.98
    assert bends.kernel_components(W[:, :0], torch.Generator()).shape == (200, 0)


def test_64_kernel_components_of_wide_features_are_the_leading_ones():
    W = white(standard(normal(32, 300, 8)), 8).W
    F = bends.kernel_components(W, torch.Generator().manual_seed(33)).double()
    w = torch.randn(8, 256, generator=torch.Generator().manual_seed(33)).double() / (0.5 * (2 * 8 * 300 / 299) ** 0.5)
    waves = torch.cat([(W @ w).cos(), (W @ w).sin()], 1)
    L = torch.linalg.eigvalsh(torch.cov(waves.T, correction=0)).flip(0)[:64]
    size = F.square().mean(0).flip(0)
    assert F.shape == (300, 64) and torch.allclose(size[:48], L[:48].sqrt(), rtol=0.02)
    assert (F.T @ F / 300 - F.square().mean(0).diag()).abs().max() < 1e-3 * size[0]
    flat = bends.kernel_components(W[:, :1] * 1e-3, torch.Generator().manual_seed(33)).double()
    assert flat.shape[1] < 64 and flat.square().mean(0).min() ** 2 > 1e-5 * flat.square().mean(0).max() ** 2


def test_lines_and_curves_and_products_of_a_side():
    W = white(standard(normal(27, 200, 40)), 40).W
    s = bends.shapes(W, torch.Generator().manual_seed(28))
    F = bends.kernel_components(W, torch.Generator().manual_seed(28))
    assert torch.allclose(s.line + s.curve, F, atol=1e-4) and (s.curve.T @ s.white / 200).abs().max() < 1e-4
    assert s.product.shape[1] == 32 * 33 // 2
    assert torch.allclose(s.product.square().mean(0), torch.ones(528), atol=1e-4)
    i, j = torch.triu_indices(32, 32)
    raw = (W[:, i] * W[:, j]).numpy()
    on = np.concatenate([np.ones((200, 1)), W.numpy()], 1)
    left = raw - on @ np.linalg.lstsq(on, raw, rcond=None)[0]
    assert np.allclose(s.product, left / left.std(0), atol=1e-3)
    sign = bends.shapes(torch.where(W[:, :1] > W[:, :1].median(), 1.0, -1.0).double(), torch.Generator())
    assert sign.product.shape[1] == 0  # the square of two values is a constant


@pytest.mark.parametrize("n, read", [(150, 150), (2001, 1001), (4000, 2000), (4001, 1334)])
def test_kernel_and_products_read_2000_clips_at_most(n, read):
    some = bends._evenly(n, "cpu")
    assert len(some) == read and set(some.diff().tolist()) == {math.ceil(n / 2000)} and some[0] == 0


def test_dependence_is_a_squared_covariance_of_those_clips():
    F_a, F_b = normal(29, 2500, 3) + 2, normal(30, 2500, 4) - 1
    orders = torch.stack([torch.arange(2500), *shuffles(Groups(2500), 3)])
    found = bends.dependence(F_a, F_b, orders)
    for value, row in zip(found, orders, strict=True):
        X, Y = F_a[::2], F_b[row][::2]
        by_hand = (np.cov(X.T, Y.T, bias=True)[:3, 3:] ** 2).sum()
        assert value.item() == pytest.approx(by_hand)
    a, b = (bends.shapes(white(D, 4).W, torch.Generator().manual_seed(31)) for D in (F_a - 2, F_b + 1))
    dependence = lambda f, h: bends.dependence(f, h, orders)
    kernel = dependence(a.curve, b.curve) + dependence(a.line, b.curve) + dependence(a.curve, b.line)
    products = dependence(a.product, b.white) + dependence(a.white, b.product)
    assert torch.allclose(bends.curved(a, b, orders), torch.stack([kernel, products]), rtol=1e-3)


def test_ranks_and_how_far_beyond():
    x = torch.tensor([[3.0, 1.0, 1.0, 2.0, 9.0]])
    z = (x[0] - x[0].mean()) / x[0].std(correction=0)
    beyond = (z / (1 + z)).where(z > 0, torch.tensor(0.0))
    assert torch.allclose(bends.ranks(x)[0], torch.tensor([3.0, 0, 0, 2, 4]).double() + beyond.double())
    assert bends.ranks(torch.full((1, 4), 2.0)).tolist() == [[0.0] * 4]


def test_the_largest_rank_is_compared():
    "Forty draws of two statistics: one of them may be beyond the line."
    x = torch.stack([torch.arange(40.0).roll(1), torch.arange(40.0).flip(0).roll(1)])
    x[0, 0], x[1, 0] = 100, -1
    p, found, line = bends.tested(x)
    assert found == [True, False] and p == pytest.approx(1 / 40) and line[0] == 38 and line[1] <= 39
    x[0, 0] = 37.5
    p, found, _ = bends.tested(x)
    assert found == [False, False] and p > 0.05


@pytest.mark.parametrize("n, nats", [(120, 0.1), (120, 0.4), (2400, 0.1)])
def test_a_planted_square_is_one_in_the_directions(n, nats):
    "Of 2,400 clips every second is read; of either side those that a shuffle gives to them."
    a, b = (bends.shapes(white(standard(normal(k, n, d)), 9).W, torch.Generator()) for k, d in ((34, 4), (35, 3)))
    rows = shuffles(Groups(n), 3)
    grown = bends.planted_square(a, b, rows, nats, torch.Generator().manual_seed(36))
    g, c = torch.Generator().manual_seed(36), math.exp(-nats)
    w_a, w_b = (torch.nn.functional.normalize(torch.randn(k, 3, generator=g), dim=0) for k in (4, 3))
    unit = lambda x: (x - x.mean()) / x.std(correction=0)
    some = slice(None, None, math.ceil(n / 2000))
    for r, row in enumerate(rows):
        A, B, Q_a, Q_b = a.white[some], b.white[row][some], a.product[some], b.product[row][some]
        for k, (Q, bent, by) in enumerate(((Q_a, B @ w_b[:, r], A @ w_a[:, r]), (Q_b, A @ w_a[:, r], B @ w_b[:, r]))):
            bent, square = unit(bent), unit(unit(by) ** 2)
            size = lambda x, Q=Q: (Q.T @ x / len(x)).square().sum()
            more = size(math.sqrt(1 - c * c) * square + c * bent) - size(bent)
            assert grown[k, r].item() == pytest.approx(more.item(), abs=1e-5)


def test_where_there_can_be_no_square_none_can_hide():
    side = bends.shapes(white(standard(normal(37, 60, 2)), 9).W, torch.Generator())
    none = bends.shapes(torch.zeros(60, 0).double(), torch.Generator())
    rows = shuffles(Groups(60), 4)
    assert bends.planted_square(side, none, rows, 0.1, torch.Generator()).tolist() == [[math.inf] * 4] * 2
    assert bends.planted_square(side, side, rows[:0], 0.1, torch.Generator()).shape == (2, 0)
    sign = bends.shapes(torch.where(normal(38, 60, 1) > 0, 1.0, -1.0).double(), torch.Generator())
    grown = bends.planted_square(sign, side, rows, 0.1, torch.Generator().manual_seed(1))
    assert grown[0].isinf().all() and grown[1].isfinite().all()


def test_twenty_five_of_a_thousand_draws_are_beyond_the_line():
    x = torch.arange(1000.0)[None]
    assert [bends.tested(x.roll(-k, 1))[1][0] for k in range(965, 1000)] == [False] * 10 + [True] * 25
