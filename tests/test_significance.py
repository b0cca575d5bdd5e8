"A difference over seeds, and corrections for many: by hand, beside SciPy, and drawn."

import inspect
import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from dmsil.significance import detectable, flip_max_t, holm, paired_t


@pytest.mark.parametrize(
    "p, adjusted",
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.005, 0.011, 0.02, 0.04, 0.13], [0.025, 0.044, 0.06, 0.08, 0.13]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.9, 0.95, 0.99], [1.0, 1.0, 1.0]),
        ([0.02], [0.02]),
        ([math.nan, 0.02, 0.03], [math.nan, 0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(adjusted, nan_ok=True)


@pytest.mark.parametrize("seeds", [2, 7])
def test_paired_t_is_scipys(seeds):
    a, b = np.random.default_rng(0).normal(size=(2, seeds))
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert paired_t(torch.tensor(a - b)) == pytest.approx(
        ((a - b).mean(), interval.low, interval.high, expected.pvalue)
    )


def test_one_seed_and_seeds_without_spread():
    assert paired_t(torch.tensor([1.0])) == pytest.approx((1, math.nan, math.nan, math.nan), nan_ok=True)
    assert paired_t(torch.zeros(3)) == (0, 0, 0, 1) and paired_t(torch.ones(3)) == (1, 1, 1, 0)
    assert np.isnan(flip_max_t(torch.ones(4, 1))).tolist() == [True] * 4


def largest_t(d, flips):
    "Adjusted p values from every flip, written out."
    t = lambda x: abs(x.mean(1)) / x.std(1, ddof=1) * math.sqrt(x.shape[1])
    most = np.array([t(d * signs).max() for signs in flips])
    return [(most >= own - 1e-9).mean() for own in t(d)]


@pytest.mark.parametrize("seeds", [2, 3, 12])
def test_all_flips_by_hand(seeds):
    d = np.random.default_rng(1).normal(size=(2, seeds)) + 0.6
    assert flip_max_t(torch.tensor(d)) == pytest.approx(largest_t(d, np.array(list(product((1, -1), repeat=seeds)))))


def test_drawn_flips_by_hand():
    d = np.random.default_rng(2).normal(size=(3, 13)) + 0.5
    drawn = torch.randint(0, 2, (4095, 13), generator=torch.Generator().manual_seed(0)).numpy()
    flips = np.concatenate([np.ones((1, 13)), np.where(drawn == 1, 1, -1)])
    assert flip_max_t(torch.tensor(d)) == pytest.approx(largest_t(d, flips), abs=1e-9)


def test_differences_without_spread_are_found_as_often_as_flips_allow():
    assert flip_max_t(torch.full((1, 8), 0.3)) == [2**-7]


@pytest.mark.parametrize("seeds", [5, 8, 14])
def test_corrections_keep_their_promise(seeds):
    "No effect anywhere, correlated cells: a find in at most 5 % of 300 grids, up to three standard errors."
    generator = torch.Generator().manual_seed(seeds)
    draws = [
        torch.randn(26, seeds, generator=generator) + torch.randn(1, seeds, generator=generator) for _ in range(300)
    ]
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean([min(holm([paired_t(row).p for row in d])) < 0.05 for d in draws]) <= bound
    flips = np.mean([min(flip_max_t(d)) < 0.05 for d in draws])
    assert flips <= bound and (seeds > 5 or flips == 0)


@pytest.mark.parametrize("seeds, family, power", [(2, 26, 0.8), (5, 26, 0.8), (8, 1, 0.5), (50, 300, 0.99)])
def test_what_can_be_found_is_found_with_that_power(seeds, family, power):
    cut = stats.t.isf(0.05 / family / 2, seeds - 1)
    shift = detectable(seeds, family, power) * math.sqrt(seeds)
    assert stats.nct.sf(cut, seeds - 1, shift) == pytest.approx(power, abs=1e-6)


def test_power_is_what_is_said():
    assert detectable(5, 1) == pytest.approx(1.68, abs=0.01) and detectable(5) == detectable(
        5, 26, 0.8
    ) > 4 > detectable(6, 26)
    with_power = detectable(8, 26, 0.8)
    generator = torch.Generator().manual_seed(0)
    hits = [paired_t(torch.randn(8, generator=generator) + with_power).p < 0.05 / 26 for _ in range(800)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.05)


def test_a_grid_of_three_pairs_has_26_patterns_beside_its_reference():
    defaults = {name: p.default for name, p in inspect.signature(detectable).parameters.items()}
    assert defaults == {"seeds": inspect.Parameter.empty, "family": 3**3 - 1, "power": 0.8}
