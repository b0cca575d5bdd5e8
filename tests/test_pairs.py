"The parts of a pair's verdict, each against the same thing done in the plainest way."

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import digamma

from dmsil import pairs
from dmsil.covariance import kappa
from dmsil.estimates import Groups, estimate, interval, null95, rewhitened, shuffles, white_columns
from dmsil.pairs import held_out_correlations, kappa_null, one_side, percentiles, splits, verdict


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_a_large_group_is_dealt_first():
    labels = [0] * 30 + list(range(1, 31))
    assert [len(out) for _, out in splits(Groups(60, labels), 2)] == [30, 30]


def test_percentiles_are_numpys_within_their_bounds():
    x = normal(1, 400)
    assert percentiles(x) == pytest.approx(np.percentile(x.numpy(), (2.5, 97.5)))
    assert percentiles(x, -1, 1.5) == (-1, 1.5) and percentiles(2 * x, -3, 9)[0] == -3


def correlated(n=150, p=10, q=9, k=3):
    a, e = normal(2, n, p), normal(3, n, q)
    return a, torch.cat([0.9 * a[:, :k] + 0.4 * e[:, :k], e[:, k:]], 1)


def by_hand(A, B, groups, folds, leading, whiten):
    "Coordinates of clips that were held out, one fold at a time, from NumPy's SVD and inverse roots."
    u, v = np.zeros((len(A), leading)), np.zeros((len(A), leading))
    for train, out in splits(groups, folds):
        X, Y = (D.numpy() - D[train].mean(0).numpy() for D in (A, B))
        if whiten:
            X, Y = (D @ np.linalg.inv(np.linalg.cholesky(np.cov(D[train].T, bias=True))).T for D in (X, Y))
        U, _, V = np.linalg.svd(X[train].T @ Y[train] / len(train))
        u[out], v[out] = (X[out] @ U)[:, :leading].clip(-5, 5), (Y[out] @ V.T)[:, :leading].clip(-5, 5)
    return u, v


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("outlier", [0, 40])
def test_held_out_correlations_by_hand(whiten, outlier):
    A, B = correlated()
    A, B = A + 3, B - 2  # the means of the training clips are taken off
    A[7] += outlier
    groups = Groups(150, [k // 3 for k in range(150)])
    rows = shuffles(groups, 5)
    found, null, resampled = held_out_correlations(A, B, groups, rows, 5, 300, whiten=whiten)
    u, v = by_hand(A, B, groups, 5, 8, whiten)
    scale = np.sqrt((u**2).sum(0) * (v**2).sum(0))
    assert len(found) == 8 and np.allclose(found, (u * v).sum(0) / scale, atol=1e-6)
    assert np.allclose(null, [(u * v[row]).sum(0) / scale for row in rows], atol=1e-6)
    means = pairs.resampled_means(torch.tensor(np.concatenate([u * u, v * v, u * v], 1)), groups, 300).numpy()
    uu, vv, uv = np.split(means, 3, 1)
    assert np.allclose(resampled, uv / np.sqrt(uu * vv), atol=1e-6)


def test_a_side_without_spread_correlates_with_nothing():
    A, B = correlated()
    A[:, 0] = 0
    found, null, resampled = held_out_correlations(A[:, :1], B, Groups(150), shuffles(Groups(150), 3), 5, 10)
    assert found.tolist() == [0] and not null.any() and not resampled.any()


@pytest.mark.parametrize("p, q", [(4, 9), (9, 4), (70, 3)])
def test_the_null_of_kappa_is_kappa_of_shuffled_clips(p, q):
    a, b = normal(4, 60, p) + 5, normal(5, 60, q).exp()
    rows = shuffles(Groups(60), 12)
    assert torch.allclose(kappa_null(a, b, rows), torch.stack([kappa(a, b[row]) for row in rows]), atol=1e-9)
    assert kappa_null(a, torch.zeros(60, 2).double(), rows).tolist() == [0] * 12


@pytest.mark.parametrize(
    "linear, nonlinear, most, power, cut, said",
    [
        (False, False, 0.0999, 0.8, False, "private"),
        (True, False, 0.0999, 0.8, False, "private"),
        (False, True, 0.0999, 0.8, False, "shares, nonlinearly"),
        (False, False, 0.1, 0.8, False, "can't tell"),
        (False, False, 0.0999, 0.799, False, "can't tell"),
        (False, False, 0.0999, 0.8, True, "can't tell"),
        (True, False, 0.1, 0.8, False, "shares"),
        (True, True, 0.1, 0.8, False, "shares"),
        (True, False, 0.05, 1.0, True, "shares"),
    ],
)
def test_what_a_pair_is_called(linear, nonlinear, most, power, cut, said):
    assert verdict(linear, nonlinear, most, power, cut) == said


def test_a_side_has_a_twelfth_of_the_clips_in_directions_and_64_loud_ones():
    side = one_side(normal(6, 960, 100), Groups(960))
    assert side.columns.W.shape[1] == 80 and side.scores.W.shape[1] == 80 and side.loud.shape[1] == 64
    assert one_side(normal(6, 11, 3), Groups(11)).columns.W.shape[1] == 1
    quiet = one_side(torch.cat([normal(7, 500, 2), 1e-3 * normal(8, 500, 1)], 1), Groups(500)).loud.norm(dim=0) ** 2
    assert quiet[0].item() == pytest.approx(500) and (quiet[1:] <= quiet[0]).all()


def test_how_loud_a_direction_is_beside_the_loudest():
    x = normal(9, 2000, 1)
    together = torch.cat([x, x + 0.1 * normal(10, 2000, 1), x + 0.1 * normal(11, 2000, 1)], 1)
    side = one_side(together, Groups(2000))
    scores = np.linalg.svd(pairs.standard(pairs.normal_scores(together)).numpy(), compute_uv=False)
    assert np.allclose(side.loud.norm(dim=0).numpy() / 2000**0.5, scores / scores[0], atol=1e-6)


def test_a_line_holds_where_it_does_on_other_clips():
    a, b = correlated(400, 4, 4, 1)
    groups = Groups(400)
    A, B, noise = (white_columns(D, 30).W for D in (a, b, normal(12, 400, 4)))
    assert pairs.line_holds(A, B, groups, True) and pairs.line_holds(A, B, groups, False)
    assert not pairs.line_holds(A, noise, groups, True) and not pairs.line_holds(A[:, :0], B, groups, True)
    assert pairs.line_holds(A, B, Groups(400, [k % 2 for k in range(400)]), True)  # as many folds as groups


@pytest.mark.parametrize(
    "words, says",
    [
        ({"permutations": 38}, "0 or at least 39"),
        ({"permutations": 1}, "0 or at least 39"),
        ({"resamples": 1}, "resamples and folds need to be at least 2, got 1 and 5"),
        ({"folds": 1}, "resamples and folds need to be at least 2, got 2 and 1"),
        ({"margin": 0.0}, "margin needs to be a number of nats above 0, got 0.0"),
        ({"n": 39}, "at least 40 clips"),
        (
            {"groups": [k % 4 for k in range(40)]},
            "at least 5 groups: 5 to change places, and 5 for as many folds; got 4",
        ),
        ({"groups": [k % 4 for k in range(40)], "folds": 2}, "at least 5 groups: .* 2 for as many folds; got 4"),
        ({"groups": [k % 6 for k in range(40)], "folds": 7}, "at least 7 groups: .* got 6"),
        ({"groups": range(39)}, "one entry for each of 40 clips, got 39"),
    ],
)
def test_what_is_too_little_is_refused(words, says):
    words = dict(words)
    n = words.pop("n", 40)
    with pytest.raises(ValueError, match=says):
        pairs.pair_information(normal(13, n, 2), normal(14, n, 2), **({"permutations": 39, "resamples": 2} | words))


def test_what_is_just_enough_is_taken():
    a, b = normal(13, 40, 2), normal(14, 40, 2)
    for permutations, folds, groups in ((39, 5, [k % 5 for k in range(40)]), (0, 2, None)):
        found = pairs.pair_information(a, b, groups, permutations, 2, folds, 1e-9)
        assert found.null95 >= 0 or not permutations
    a[3] = math.nan
    assert pairs.checked_features({"a": a, "b": b}, 40, gaps=True)["a"].isnan().sum() == 2
    with pytest.raises(ValueError, match="a: features hold 2 values that are not finite"):
        pairs.checked_features({"a": a, "b": b}, 40)


def test_halves_that_kappa_cannot_be_had_of_are_left_out():
    a, b = normal(20, 60, 2), normal(21, 60, 2)
    groups = Groups(60, [*range(6), *[6] * 54])  # a half without the large group has three clips
    found = pairs.kappa_halves(a, b, groups, 40)
    assert 5 < len(found) < 35 and found.mean().item() == pytest.approx(kappa(a, b).item())


def test_twins_are_clips_of_other_groups_within_a_thousandth():
    W = normal(15, 100, 5)
    W[90:95], W[95:] = W[:5] + 0.97e-3, W[5:10] + 1.03e-3
    assert pairs.twins(W, Groups(100)) == 10
    assert pairs.twins(W, Groups(100, [k % 90 for k in range(100)])) == 0
    W = normal(16, 40, 3)
    W[:9] = W[0]  # nine times the same clip: each of them has one beside it
    assert pairs.twins(W, Groups(40)) == 9


@pytest.mark.parametrize("r, said", [(0.26, True), (0.24, False)])
def test_neighbours_are_alike_beyond_five_deviations(r, said):
    walk = normal(17, 400, 2).cumsum(0)
    lag = (walk[1:] * walk[:-1]).mean(0).amax()
    found = pairs.order_correlation(walk * (r / lag) ** 0.5)
    assert found == pytest.approx(r if said else 0) and pairs.order_correlation(walk[:, :0]) == 0


def test_blocks_in_a_row_are_as_long_as_clips_hang_together():
    g, n = torch.Generator().manual_seed(19), 4000
    e = torch.randn(n, 4, generator=g, dtype=torch.double)
    for k in range(1, n):
        e[k] += 0.9 * e[k - 1]
    groups = Groups(n)
    sides = {"a": one_side(e[:, :2], groups), "b": one_side(e[:, 2:], groups)}
    note = pairs.clip_notes(sides, groups)[0]
    most = max(pairs.order_correlation(side.scores.W) for side in sides.values())
    assert f"[k // {math.ceil(20 / (1 - most))} for k in range({n})]" in note


def both_sides(seed, n, p, q):
    groups = Groups(n, seed=seed)
    return one_side(normal(seed, n, p), groups), one_side(normal(seed + 50, n, q), groups), groups


@pytest.mark.parametrize("p, q", [(9, 3), (3, 9)])
def test_the_narrower_side_is_shuffled_and_a_cut_gives_a_lower_bound(p, q):
    a, b, groups = both_sides(1, 90, p, q)
    rows = shuffles(groups, 39)
    W, k = b.columns.W.clone(), 3
    W[:, :k] += 2 * a.columns.W[:, :k]
    b = replace(b, columns=replace(b.columns, W=rewhitened(W)))  # now they share something
    found = pairs.judged(a, b, groups, rows)
    wide, narrow = sorted((a, b), key=lambda side: -side.columns.W.shape[1])
    alone = estimate(wide.columns.W, narrow.columns.W, groups, rows)
    assert wide.D.shape[1] == 9 and torch.equal(found["lines"].null, alone.null)
    assert found["bound"] and found["interval"] == (interval(alone, groups, 0.9)[0], math.inf) != (0, math.inf)
    assert found["variance_read"] == (a.columns.read, b.columns.read)
    whole = pairs.judged(*both_sides(1, 90, 4, 3)[:2], groups, rows)
    assert not whole["bound"] and whole["interval"] == interval(whole["lines"], groups)


def test_power_counts_the_shuffles_that_would_have_been_found():
    a, b, groups = both_sides(2, 150, 4, 3)
    rows = shuffles(groups, 60)
    found = pairs.judged(a, b, groups, rows, 0.05)
    _, _, statistics = pairs._five_tests(a, b, groups, rows, 0.05)
    _, _, line = pairs.tested(statistics)
    bends = pairs.planted_square(a.shapes, b.shapes, rows, 0.05, groups.generator(7))
    assert found["power"] == np.mean((found["lines"].planted > line[0]).tolist())
    assert found["power_bent"] == min((statistics[4, 1:] + bends > line[4]).double().mean(1).tolist())
    assert found["nonlinear"] == pairs.tested(statistics[3:])[0] and 0 < found["power"] < 1


def test_what_is_reported_of_a_pair():
    seen = {"negative": False, "positive": False}
    for seed in range(6):
        a, b, groups = both_sides(10 + seed, 60, 5, 2)
        pair = pairs.measured_pair(a, b, groups, 39, 300, 5, 0.1)
        rows = shuffles(groups, 39)
        found = pairs.judged(a, b, groups, rows, 0.1)
        assert pair.shared == max(found["lines"].nats, 0) and pair.copula == max(found["ranked"].nats, 0)
        assert pair.null95 == found["lines"].null95 and pair.copula_null95 == found["ranked"].null95
        seen["positive" if pair.shared else "negative"] = True
        assert pair.kappa_null95 == pytest.approx(null95(kappa_null(a.D, b.D, rows)).item())
        halves = pairs.kappa_halves(a.D, b.D, groups, 30)
        assert pair.kappa == kappa(a.D, b.D).item() and pair.kappa_interval == percentiles(halves, -1, 1)
        rho, null, resampled = held_out_correlations(a.columns.W, b.columns.W, groups, rows, 5, 300)
        assert pair.canonical == tuple(rho.tolist()) and pair.canonical_null95 == tuple(null95(null).tolist())
        assert pair.canonical_interval == tuple(percentiles(r, -1, 1) for r in resampled.T)
        assert len(pairs.measured_pair(a, b, groups, 39, 100, 5, 0.1).clipwise) == 60
    assert all(seen.values())
    same = pairs.measured_pair(a, a, groups, 39, 300, 5, 0.1)
    assert same.kappa_interval[1] == 1 and all(high <= 1 for _, high in same.canonical_interval)


def test_what_is_done_where_nothing_is_said():
    given = {name: p.default for name, p in inspect.signature(pairs.pair_information).parameters.items()}
    words = {"groups": None, "permutations": 200, "resamples": 1000, "folds": 5, "margin": 0.1, "seed": 0}
    assert given == {"D_a": inspect.Parameter.empty, "D_b": inspect.Parameter.empty} | words


def notes(monkeypatch, n, alike=(0.0, 0.0), same=0, groups=None):
    "What is noted of clips whose neighbours and twins are made up."
    left = iter(alike)
    monkeypatch.setattr(pairs, "order_correlation", lambda W: next(left))
    monkeypatch.setattr(pairs, "twins", lambda W, groups: same)
    side = one_side(normal(22, n, 2), by := Groups(n, groups))
    return pairs.clip_notes({"a": side, "b": side}, by)


def test_neighbours_are_noted_where_two_sides_are_alike(monkeypatch):
    assert notes(monkeypatch, 400, (0.5, 0.0)) == ()
    both = notes(monkeypatch, 400, (0.5, 0.4))[0]
    assert "a 0.50, b 0.40" in both and both.endswith("[k // 40 for k in range(400)]")  # ten blocks
    assert notes(monkeypatch, 399, (0.5, 0.4))[0].endswith("a video for each clip")
    assert "[k // 334 for" in notes(monkeypatch, 4000, (0.94, 0.2))[0]
    longest = math.ceil(20 / (1 - 0.99))
    assert f"[k // {longest} for" in notes(monkeypatch, 10 * longest, (0.999, 0.2))[0]
    assert notes(monkeypatch, 400, (0.5, 0.4), groups=[k // 5 for k in range(400)]) == ()


@pytest.mark.parametrize("same, said", [(4, False), (5, True)])
def test_twins_are_noted_beyond_a_hundredth(monkeypatch, same, said):
    assert bool(notes(monkeypatch, 400, same=same)) == said


@pytest.mark.parametrize("few, said", [(11.9, True), (12.1, False)])
def test_clips_that_count_as_few_for_the_directions_are_noted(monkeypatch, few, said):
    monkeypatch.setattr(pairs, "counted", lambda a, b, groups: few)
    sides = {"a": one_side(normal(27, 120, 1), by := Groups(120)), "b": one_side(normal(28, 120, 1), by)}
    assert pairs.clip_notes(sides, by) == (
        (
            "a – b: clips of one group are so alike that 120 clips count as 12, few for 1 + 1 directions; intervals are wide",
        )
        if said
        else ()
    )
    sides["b"] = one_side(
        normal(28, 120, 9), by
    )  # 108 clips would be too few for nine, but half of the clips are enough
    monkeypatch.setattr(pairs, "counted", lambda a, b, groups: few + 48)
    assert bool(pairs.clip_notes(sides, by)) == said


def test_nearest_neighbours_counted_by_hand():
    a, b = 3 * normal(23, 60, 2) + 5, normal(24, 60, 1)
    b = b + a[:, :1] / 3
    A, B = (((D - D.mean(0)) / D.std(0)).numpy() for D in (a, b))
    far = lambda X: np.abs(X[:, None] - X[None]).max(2)
    nearest = np.sort(np.maximum(far(A), far(B)), 1)[:, 3]  # the clip itself comes first
    counts = [(far(X) < nearest[:, None]).sum(1) for X in (A, B)]
    by_hand = digamma(3) + digamma(60) - sum(digamma(count).mean() for count in counts)
    assert pairs.neighbour_information(a, b) == pytest.approx(by_hand)
