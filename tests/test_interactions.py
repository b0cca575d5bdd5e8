"The parts of what is known about a label, and of a discrete split, each against the same thing done plainly."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import entropy

from dmsil import interactions
from dmsil.estimates import Groups, estimate, interval, mean_variance, shuffles, standard, student, white
from dmsil.interactions import (
    discrete_split,
    joint_bounds,
    label_interactions,
    least_informative,
    mutual_information,
    without,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def tables(seed, *shape):
    p = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double) ** 3
    return p / p.sum((-3, -2, -1), keepdim=True)


# Gaussian parts ---------------------------------------------------------------------------------------------------


def test_what_no_line_explains():
    given = white(standard(normal(1, 300, 4)), 4).W
    W = white(standard(torch.cat([normal(2, 300, 2), given[:, :2] + 1e-2 * normal(3, 300, 2), given[:, 3:]], 1)), 9).W
    left = without(W, given)
    assert left.shape[1] == 4 and (given.T @ left / 300).abs().max() < 1e-9
    assert torch.allclose(left.T @ left / 300, torch.eye(4).double(), atol=1e-8)
    direction = without(W[:, :1], given)[:, 0]
    nearly = lambda v: without(math.sqrt(1 - v) * given[:, :1] + math.sqrt(v) * direction[:, None], given).shape[1]
    assert nearly(1.2e-6) == 1 and nearly(0.8e-6) == 0


@pytest.mark.parametrize(
    "I_s, I_o, I, parts",
    [
        (0.3, 0.2, 0.6, (0.3, 0.2, 0.1, 0.3, 0.4)),
        (0.2, 0.5, 0.6, (0.2, 0.2, 0.0, 0.1, 0.1)),
        (-0.1, -0.2, -0.3, (0.0, 0.0, 0.0, 0.0, 0.0)),
        (0.4, 0.1, 0.3, (0.4, 0.1, 0.3, 0.0, 0.3)),  # together no less than the better one
    ],
)
def test_parts_of_three_informations(I_s, I_o, I, parts):
    found = interactions._parts(I_s, I_o, I)
    assert tuple(found) == interactions.PARTS and tuple(found.values()) == pytest.approx(parts)


def known(n=400):
    x = {s: normal(k, n, 3) for k, s in enumerate(("a", "b", "c"))}
    return x, x["a"][:, 0] + 0.5 * x["b"][:, 0] + x["a"][:, 1] * 0.3 + normal(9, n)


def by_hand(x, y, groups, s, times=60):
    "The estimates of one modality, of the others, of both given the other, of all; and what is said of them."
    Y, rows = white(standard(y[:, None]), 1).W, shuffles(groups, times)
    side = lambda *names: white(standard(torch.cat([x[t] for t in names], 1)), 99).W
    own, others, everyone = side(s), side(*(t for t in x if t != s)), side(*x)
    I_s, I_o, I = (estimate(W, Y, groups, rows) for W in (own, others, everyone))
    s_o, o_s = (
        estimate(without(W, V), without(Y, V), groups, rows, given=V) for W, V in ((own, others), (others, own))
    )
    return I_s, I_o, I, s_o, o_s


@pytest.mark.parametrize("per_group", [1, 4])
def test_intervals_and_nulls_of_parts(per_group):
    x, y = known()
    groups = Groups(400, None if per_group == 1 else [k // per_group for k in range(400)])
    found, together, ends = label_interactions(x, y, groups, 60)
    I_s, I_o, I, s_o, o_s = by_hand(x, y, groups, "a")
    a = found["a"]
    assert a.alone == pytest.approx(I_s.nats) and a.added == pytest.approx(I.nats - I_o.nats)
    assert together == pytest.approx(I.nats) and ends == pytest.approx(interval(I, groups))
    assert a.interval["alone"] == pytest.approx(interval(I_s, groups))
    added = interval(replace(s_o, nats=I.nats - I_o.nats), groups)
    rest = interval(replace(o_s, nats=I.nats - I_s.nats), groups)
    assert a.interval["added"] == pytest.approx(added)
    lesser = [min(p, q) for p, q in zip(added, rest, strict=True)]
    low, high = a.interval["synergistic"]
    assert (low, high) == pytest.approx((min(lesser[0], a.synergistic), max(lesser[1], a.synergistic)))
    half = student(groups) * math.sqrt(mean_variance(I_s.clipwise - I_o.clipwise, groups) + I_s.V_0 + I_o.V_0)
    apart = I_s.nats - I_o.nats
    assert a.interval["unique"] == pytest.approx((max(0, apart - half), max(0, apart + half)))
    least = interval(I_o, groups)
    redundant = tuple(min(p, q) for p, q in zip(interval(I_s, groups), least, strict=True))
    assert a.interval["redundant"] == pytest.approx(redundant)
    n95 = [e.null95 for e in (I_s, I_o, s_o, o_s)]
    assert a.null95 == pytest.approx(
        {
            "alone": n95[0],
            "redundant": max(n95[:2]),
            "unique": half / student(groups) * student(groups, 0.9),
            "synergistic": max(n95[2:]),
            "added": n95[2],
        }
    )


def test_a_label_reads_a_quarter_of_the_clips_in_directions():
    x, y = {"a": normal(1, 80, 25), "b": normal(2, 80, 5)}, normal(3, 80)
    found = label_interactions(x, y, Groups(80), 39)[0]
    assert found["a"].bound == {"alone": True, "others": False, "together": True}
    assert found["b"].bound == {"alone": False, "others": True, "together": True}
    assert found["a"].interval["alone"][1] == found["a"].interval["added"][1] == math.inf
    assert found["a"].interval["synergistic"][1] == math.inf and found["b"].interval["alone"][1] < math.inf
    assert found["b"].interval["added"][1] < math.inf
    fits = label_interactions({"a": x["a"][:, :15], "b": x["b"]}, y, Groups(80), 39)[0]["a"]
    assert not any(fits.bound.values()) and max(high for _, high in fits.interval.values()) < math.inf


def test_what_nobody_knows_is_nothing():
    x, y = {"a": normal(1, 80, 2), "b": normal(2, 80, 2)}, normal(9, 80)
    found, together, _ = label_interactions(x, y, Groups(80), 39)
    estimates = by_hand(x, y, Groups(80), "a", 39)
    assert estimates[2].nats < 0 == together and estimates[0].nats < 0 == found["a"].alone
    assert found["a"].interval["unique"][0] == 0 and all(low >= 0 for low, _ in found["a"].interval.values())


# Discrete parts ---------------------------------------------------------------------------------------------------


def test_information_of_tables_is_scipys():
    p = tables(4, 6, 1, 3, 4).squeeze(1)
    for table, found in zip(p.numpy(), mutual_information(p), strict=True):
        apart = np.outer(table.sum(1), table.sum(0))
        assert found.item() == pytest.approx(entropy(table.ravel(), apart.ravel()))
    apart = torch.outer(p[0].sum(1), p[0].sum(0))
    assert mutual_information(apart).item() == pytest.approx(0, abs=1e-12) and mutual_information(apart) >= 0
    assert mutual_information(torch.tensor([[0.5, 0.0], [0.0, 0.5]])).item() == pytest.approx(math.log(2))


def test_the_gap_is_kept_and_no_less_than_1e_7_asked_for():
    p = tables(5, 3, 3, 2)
    coarse, fine = (mutual_information(least_informative(p, gap).flatten(-3, -2)).item() for gap in (1e-3, 1e-7))
    assert fine <= coarse + 1e-9 and coarse <= fine + 1e-3
    with pytest.raises(ValueError, match="gap ≥ 1e-7, got 9e-08"):
        least_informative(p, 9e-8)


def test_the_gap_is_a_millionth_of_a_nat_unless_it_is_said():
    import inspect

    assert inspect.signature(least_informative).parameters["gap"].default == 1e-6
    p = tables(5, 3, 3, 2)
    assert torch.equal(least_informative(p), least_informative(p, 1e-6))
    least_informative(p, 1e-7)
    with pytest.raises(ValueError, match="gap ≥ 1e-7"):
        least_informative(p, 0.95e-7)


def test_tables_with_empty_places():
    "A label, a value of either side and single cells that never occur; beside the same table without them."
    p = tables(6, 3, 3, 2)
    p[0, 1] = 0
    p = p / p.sum()
    wide = torch.zeros(4, 4, 3, dtype=torch.double)
    wide[:3, :3, :2] = p
    split, whole = discrete_split(p), discrete_split(wide)
    for part in ("redundant", "synergistic"):
        assert getattr(whole, part).item() == pytest.approx(getattr(split, part).item(), abs=2e-6)
    for one, other in zip((*split.unique, *split.bounds), (*whole.unique, *whole.bounds), strict=True):
        assert other.item() == pytest.approx(one.item(), abs=2e-6)
    found = least_informative(wide)
    assert found.isfinite().all() and found[3].sum() == found[:, 3].sum() == found[..., 2].sum() == 0


def test_many_tables_at_once_are_as_each_alone():
    p = tables(7, 2, 3, 2, 3)
    together = discrete_split(p)
    for k, table in enumerate(p):
        alone = discrete_split(table)
        assert together.redundant[k].item() == pytest.approx(alone.redundant.item(), abs=2e-6)
        assert together.bounds[0][k].item() == pytest.approx(alone.bounds[0].item(), abs=2e-6)
        assert together.bounds[1][k].item() == pytest.approx(alone.bounds[1].item(), abs=2e-6)
        assert interactions._meet_gain(p.sum(-1), p.sum(-2))[k].item() == pytest.approx(
            interactions._meet_gain(table.sum(-1), table.sum(-2)).item()
        )


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_a_table_add_up(seed):
    p = tables(10 + seed, 3, 2, 3)
    split = discrete_split(p)
    I_1, I_2, I = mutual_information(p.sum(-2)), mutual_information(p.sum(-3)), mutual_information(p.flatten(-3, -2))
    assert (split.redundant + split.unique[0]).item() == pytest.approx(I_1.item(), abs=1e-9)
    assert (split.redundant + split.unique[1]).item() == pytest.approx(I_2.item(), abs=1e-9)
    assert min(split.redundant, *split.unique, split.synergistic) >= -1e-9
    whole = split.redundant + sum(split.unique) + split.synergistic
    assert whole.item() == pytest.approx(I.item(), abs=1e-9)
    low, high = joint_bounds(p)
    least = I - split.synergistic
    assert split.bounds[0].item() == pytest.approx(max(0, (low - least).item()), abs=1e-9)
    assert split.bounds[1].item() == pytest.approx((high - least).item(), abs=1e-9)
    assert low <= I + 1e-9 and I <= high + 1e-9


def fitted(p, sweeps=500):
    "The table of largest entropy with these two-way margins, by fitting each in turn."
    r = np.ones(p.shape) / p.size
    for _ in range(sweeps):
        for axis in (2, 1, 0):
            r = r * np.expand_dims(p.sum(axis) / r.sum(axis), axis)
    return r


def test_the_least_of_a_joint_table_is_that_of_largest_entropy():
    p = tables(20, 2, 3, 2)
    low, _ = joint_bounds(p)
    r = fitted(p.numpy())
    assert low.item() == pytest.approx(mutual_information(torch.tensor(r).flatten(0, 1)).item(), abs=1e-7)


def meet_gain(p, q):
    "Row by row: entropies of both conditionals less that of the most even one which both majorise."
    total = 0
    for row, other in zip(p, q, strict=True):
        weight = row.sum()
        a, b = np.sort(row / weight)[::-1], np.sort(other / other.sum())[::-1]
        size = max(len(a), len(b))
        a, b = (np.pad(x, (0, size - len(x))) for x in (a, b))
        meet = np.diff(np.minimum(a.cumsum(), b.cumsum()), prepend=0)
        total += weight * (entropy(a) + entropy(b) - entropy(np.clip(meet, 0, None)))
    return total


@pytest.mark.parametrize("seed, shape", [(0, (3, 2, 4)), (1, (3, 2, 4)), (2, (5, 6, 2)), (3, (6, 5, 2))])
def test_the_most_of_a_joint_table(seed, shape):
    p = tables(30 + seed, *shape)
    p_12, p_1y, p_2y = p.sum(-1).numpy(), p.sum(-2).numpy(), p.sum(-3).numpy()
    assert interactions._meet_gain(p.sum(-1), p.sum(-2)).item() == pytest.approx(meet_gain(p_12, p_1y))
    first = mutual_information(p.sum(-2)).item() + meet_gain(p_12, p_1y)
    second = mutual_information(p.sum(-3)).item() + meet_gain(p_12.T, p_2y)
    assert joint_bounds(p)[1].item() == pytest.approx(min(first, second))
    assert min(first, second) <= entropy(p_1y.sum(0)) + 1e-9


def test_no_table_of_a_grid_knows_less():
    "Two by two by two: the margins leave two numbers free, which are searched."
    p = tables(40, 2, 2, 2)
    least = mutual_information(least_informative(p).flatten(-3, -2)).item()
    away = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.double)
    best = math.inf
    ends = []
    for y in range(2):
        block = p[..., y].flatten()
        change = np.array([1.0, -1, -1, 1])
        ends.append(
            [linprog([sign], A_ub=-change[:, None], b_ub=block.numpy(), bounds=[(None, None)]).x[0] for sign in (1, -1)]
        )
    grid = [np.linspace(*end, 81) for end in ends]
    for s in grid[0]:
        for t in grid[1]:
            q = (p + torch.stack([s * away, t * away], -1)).clamp(min=0)
            best = min(best, mutual_information(q.flatten(-3, -2)).item())
    assert least - 1e-6 <= best <= least + 1e-3
