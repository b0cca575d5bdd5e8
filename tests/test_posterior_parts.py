"The parts of posterior labels, each by hand or against NumPy."

import inspect
import math

import numpy as np
import pytest
import torch

from dmsil import posterior
from dmsil.labels import disagreement
from dmsil.posterior import FixedLabels, PosteriorLabels, Prior, Reliability, posterior_gain, posterior_labels
from dmsil.readouts import folds


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_numbers_that_the_page_names():
    assert (posterior.CEILING, posterior.BETWEEN, posterior.SPREAD, posterior.HEARS) == (0.98, 0.65, 0.15, 0.25)
    assert Prior() == Prior(0.83, None)
    defaults = {k: p.default for k, p in inspect.signature(posterior_labels).parameters.items()}
    assert (defaults["seed"], defaults["floor"], defaults["prior"]) == (0, 0.1, None)


def test_a_prior_from_labels_is_their_correlations():
    y, a, b, c = normal(1, 4, 50)
    prior = Prior.from_labels({"a": a + y, "b": b + y, "c": c - y}, y)
    C = np.corrcoef(np.stack([a + y, b + y, c - y, y]))
    assert prior.rho == pytest.approx({"a": C[0, 3], "b": C[1, 3], "c": C[2, 3]})
    assert prior.between == pytest.approx({("a", "b"): C[0, 1], ("a", "c"): C[0, 2], ("b", "c"): C[1, 2]})


def test_correlations_of_resampled_groups():
    u, y = normal(2, 30, 2) + 4, normal(3, 30) - 2
    there = torch.ones(30, 2, dtype=torch.bool)
    there[:9, 0] = False
    group = torch.arange(30) // 3
    draws = torch.stack(
        [torch.arange(10), torch.tensor([9, 9, 8, 7, 7, 7, 6, 5, 4, 3]), torch.tensor([0, 1, 2] * 3 + [0])]
    )
    found = posterior._correlations(u, y, there, group, draws)
    for C, drawn in zip(found[:2], draws, strict=False):
        rows = np.concatenate([np.arange(30)[group.numpy() == g] for g in drawn])
        V = np.column_stack([u.numpy(), y.numpy()])[rows]
        on = np.column_stack([there.numpy(), np.ones(30, bool)])[rows]
        for i in range(3):
            for j in range(3):
                both = on[:, i] & on[:, j]
                a, b = V[both, i], V[both, j]
                cov = (a * b).mean() - a.mean() * b.mean()
                sd = [V[on[:, i] & on[:, j], k].std() for k in (i, j)]
                assert C[i, j].item() == pytest.approx(cov / math.prod(sd), abs=1e-9)
    assert not found[2, 0].nan_to_num(0.0).any()  # nobody there has the first


def test_a_gain_leaves_out_what_a_clip_lacks():
    P = torch.tensor([[1, 0.6, 0.8], [0.6, 1, 0.7], [0.8, 0.7, 1]], dtype=torch.double)
    kappa = torch.tensor([0.5, 0.0], dtype=torch.double)
    G = posterior_gain(P, kappa, torch.tensor([True, False]))
    seen = [0, 2]
    R = np.diag([1.0, 0.0])
    expected = P.numpy()[:, seen] @ np.linalg.inv(P.numpy()[np.ix_(seen, seen)] + R)
    assert np.allclose(G[:, seen], expected) and G[:, 1].tolist() == [0, 0, 0]
    whole = posterior_gain(P, kappa)  # a read-out that hears nothing moves nothing
    assert whole[:, 1].abs().max() < 1e-8 and torch.allclose(whole[:, [0, 2]], G[:, [0, 2]], atol=1e-8)


def correlations(heard, between, draws=1):
    "Correlations of read-outs and y_m, as observed and in as many resamples."
    M = len(heard)
    C = torch.eye(M + 1, dtype=torch.double)
    C[:M, M] = C[M, :M] = torch.tensor(heard, dtype=torch.double)
    C[:M, :M] = between * torch.ones(M, M, dtype=torch.double)
    C[:M, :M].fill_diagonal_(1.0)
    return C.expand(draws, M + 1, M + 1).clone()


def test_a_given_prior_is_taken_as_it_is():
    C = correlations([0.5, 0.4], 0.1)
    P = posterior._prior_matrix(Prior({"a": 0.9, "b": 0.7}, 0.6), ["a", "b"], C)
    assert P.tolist() == [[1, 0.6, 0.9], [0.6, 1, 0.7], [0.9, 0.7, 1]]
    reverse = posterior._prior_matrix(Prior(0.8, {("b", "a"): 0.5}), ["a", "b"], C)
    assert reverse[0, 1] == reverse[1, 0] == 0.5

    assert posterior._prior_matrix(Prior(1.0, 1.0), ["a"], C[:, [0, 2]][:, :, [0, 2]]).tolist() == [[1, 1], [1, 1]]
    for rho in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match="rho needs values above 0 and at most 1"):
            posterior._prior_matrix(Prior(rho), ["a", "b"], C)
    with pytest.raises(ValueError, match="not correlations of any labels"):
        posterior._prior_matrix(Prior(0.95, 0.1), ["a", "b"], C)
    with pytest.raises(ValueError, match="between lacks the pair"):
        posterior._prior_matrix(Prior(0.8, {("a", "c"): 0.5}), ["a", "b"], C)


@pytest.mark.parametrize("heard", [[0.5, 0.4], [0.9, 0.4], [0.3, 0.3], [0.97, 0.97], [0.999, 0.5]])
def test_what_the_data_tell_is_held_near_the_usual_value(heard):
    g = torch.Generator().manual_seed(4)
    C = correlations(heard, 0.12, 60)
    C[1:] += 0.02 * torch.randn(59, 3, 3, generator=g, dtype=torch.double)
    C = (C + C.mT) / 2
    P = posterior._prior_matrix(Prior(), ["a", "b"], C)
    rho = np.maximum(0.83, np.array(heard) / math.sqrt(0.98)).clip(max=0.995)
    assert np.allclose(P[:2, 2], rho)
    observed = rho.prod() * C[:, 0, 1] / (C[:, 0, 2] * C[:, 1, 2])
    usual = max(0.65, (rho**2).sum() / 0.97 - 1)
    v = observed.clamp(-2, 2).var().item()
    told = usual + 0.15**2 / (0.15**2 + v) * (min(max(observed[0].item(), 0), 0.95) - usual)
    matrix = lambda S: np.array([[1, S, rho[0]], [S, 1, rho[1]], [*rho, 1]])
    ends = usual, rho.prod()  # labels that are nothing to one another beside y_m can always be
    steps = (told + k / 20 * (end - told) for end in ends for k in range(21))  # until they are correlations
    assert P[0, 1].item() == pytest.approx(next(S for S in steps if np.linalg.eigvalsh(matrix(S))[0] > 1e-3))
    assert posterior._between(Prior(), "a", "b", torch.tensor([math.nan, 1.0]), 0.7) == 0.7


def test_where_nothing_is_heard_labels_are_as_alike_as_usual():
    C = correlations([0.0] * 3, math.nan)
    P = posterior._prior_matrix(Prior(0.95), ["a", "b", "c"], C)
    least = (3 * 0.95**2 / 0.97 - 1) / 2  # below it, y_m would be known from the three to more than 97 %
    assert torch.allclose(P[:3, :3], torch.tensor(least).double() + (1 - least) * torch.eye(3).double())
    known = P[3, :3] @ torch.linalg.inv(P[:3, :3]) @ P[:3, 3]
    assert known.item() == pytest.approx(0.97) and P[3, :3].tolist() == [0.95] * 3
    usual = posterior._prior_matrix(Prior(), ["a", "b", "c"], C)
    assert usual[0, 1] == 0.65 and posterior._prior_matrix(Prior(), ["a"], C[:, [0, 3]][:, :, [0, 3]])[0, 1] == 0.83


def test_values_beyond_a_correlation_are_held_in():
    at = lambda *observed: posterior._between(Prior(), "a", "b", torch.tensor(observed, dtype=torch.double), 0.65)
    share = lambda v: 0.15**2 / (0.15**2 + v)
    v = np.var([1.5, 2, -2], ddof=1)
    assert at(1.5, 9.0, -9.0).item() == pytest.approx(0.65 + share(v) * (0.95 - 0.65))
    v = np.var([-0.3, -0.2, -0.4], ddof=1)
    assert at(-0.3, -0.2, -0.4).item() == pytest.approx(0.65 + share(v) * (0 - 0.65))


def test_labels_that_cannot_be_correlated_so_go_towards_those_that_can():
    C = correlations([0.97, 0.97, 0.97], 0.0, 5)  # each nearly y_m, and yet alike in nothing
    P = posterior._prior_matrix(Prior(), ["a", "b", "c"], C)
    assert torch.linalg.eigvalsh(P)[0] > 1e-3 and torch.allclose(P.diagonal(), torch.ones(4).double())
    rho, usual = P[0, 3].item(), max(0.65, (3 * P[0, 3].item() ** 2 / 0.97 - 1) / 2)
    v = (rho**2 * C[:, 0, 1] / (C[:, 0, 3] * C[:, 1, 3])).clamp(-2, 2).var().item()
    told = usual + 0.15**2 / (0.15**2 + v) * (0 - usual)
    steps = [(P[0, 1].item() - told) / (usual - told), (P[0, 1].item() - told) / (rho**2 - told)]
    assert any(step * 20 == pytest.approx(round(step * 20), abs=1e-6) and 0 < step <= 1 for step in steps)


def test_labels_from_given_read_outs_by_hand():
    n = 40
    y, u = normal(5, n), normal(6, n, 2)
    u = 0.5 * y[:, None] + u
    x = {"a": normal(7, n, 2), "b": normal(8, n, 2)}
    x["b"][5] = math.nan
    prior = Prior({"a": 0.8, "b": 0.7}, 0.6)
    made = posterior_labels(x, 3 * y + 1, prior=prior, readouts=u, seed=3)
    there = torch.ones(n, 2, dtype=torch.bool)
    there[5, 1] = False
    z_y = (3 * y + 1 - (3 * y + 1).mean()) / (3 * y + 1).std(correction=0)
    heard = [np.corrcoef(u[there[:, i], i], z_y[there[:, i]])[0, 1] for i in (0, 1)]
    kappa = [min(max(h, 0) ** 2 / r**2, 0.98) for h, r in zip(heard, (0.8, 0.7), strict=True)]
    assert [made.reliability[s].kappa for s in "ab"] == pytest.approx(kappa)
    assert [made.reliability[s].heard for s in "ab"] == pytest.approx(heard)
    z = [u[:, i] / (math.sqrt((u[there[:, i], i] ** 2).mean()) * math.sqrt(kappa[i])) for i in (0, 1)]
    G = posterior_gain(made.prior, torch.tensor(kappa, dtype=torch.double))
    labels = torch.stack([*z, z_y], 1) @ G[:2].T
    labels[5] = (
        torch.stack([z[0][5], z[1][5], z_y[5]])
        @ posterior_gain(made.prior, torch.tensor(kappa).double(), there[5])[:2].T
    )
    full = (3 * y + 1).mean() + (3 * y + 1).std(correction=0) * labels
    for i, s in enumerate("ab"):
        assert torch.allclose(made.labels[s], full[:, i])
        assert torch.allclose(made.weights[s], disagreement(full[:, i], 3 * y + 1, 0.1))
        assert made.reliability[s].low <= made.reliability[s].kappa <= made.reliability[s].high
    assert torch.equal(made.y, 3 * y + 1) and torch.equal(made.readouts, u)
    drawn = torch.randint(n, (400, n), generator=torch.Generator().manual_seed(4))  # the seed and one
    C = posterior._correlations(u, z_y, there, folds(list(range(n)), n, 3)[1], drawn)
    again_a = (C[:, 0, 2].clamp(min=0) / 0.8).square().clamp(max=0.98)
    ends = made.reliability["a"].low, made.reliability["a"].high
    assert ends == pytest.approx((np.quantile(again_a, 0.025), np.quantile(again_a, 0.975)))
    again = posterior_labels(x, 3 * y + 1, prior=prior, readouts=u)
    assert again.reliability == posterior_labels(x, 3 * y + 1, prior=prior, readouts=u, seed=0).reliability
    lighter = posterior_labels(x, 3 * y + 1, prior=prior, readouts=u, seed=3, floor=0.5)
    assert lighter.weights["a"].min() >= 0.5 and torch.equal(lighter.labels["a"], made.labels["a"])


def test_reliability_lies_between_nothing_and_its_ceiling():
    y = normal(9, 40)
    x = {s: normal(k, 40, 1) for k, s in enumerate("abc")}
    x["c"] = torch.full((40, 1), math.nan)
    u = torch.stack([y, -y, torch.zeros(40)], 1)
    made = posterior_labels(x, y, prior=Prior(0.7, 0.6), readouts=u)
    assert [made.reliability[s].kappa for s in "abc"] == [0.98, 0, 0] and made.reliability["b"].heard < -0.99
    assert made.reliability["c"].heard == 0 and all(label.isfinite().all() for label in made.labels.values())


@pytest.fixture
def made():
    heard = {"a": (0.5, 0.25, 0.4), "b": (0.4, 0.3, 0.6), "c": (0.3, 0.24, 0.5), "d": (0.0, 0.0, -0.7)}
    kappa = {s: Reliability(k, low, k + 0.1, r) for s, (k, low, r) in heard.items()}
    labels = {
        s: torch.tensor(y) for s, y in zip("abcd", ([0.0, 2, -1], [1.0, 1, 1], [0.0] * 3, [0.0] * 3), strict=True)
    }
    P = torch.arange(25.0).view(5, 5)
    return PosteriorLabels(labels, labels, kappa, -P, P, torch.zeros(3, 4), torch.tensor([0.0, 1.0, 1.0]))


def test_what_a_row_says(made):
    expected = {"modality": "b", "kappa": 0.4, "low": 0.3, "high": 0.5, "heard": 0.6, "rho": 9.0, "own gain": -6.0}
    assert made.rows()[1] == pytest.approx(expected | {"gain of y_m": -9.0, "mean |d|": 1 / 3})
    lines = made.table().splitlines()
    assert len(lines) == 6 and lines[3] == "| b | 0.40 (0.30 to 0.50) | 0.60 | 9.00 | -6.00 | -9.00 | 0.33 |"
    assert made._repr_markdown_() == repr(made) == made.table() and lines[1] == "|---" * 7 + "|"


def test_pairs_share_where_both_surely_hear_the_label(made):
    pairs = {row["pair"]: row for row in made.pairs()}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert made.to_share() == (("a", "b"),) and pairs["a", "b"]["low"] == (0.25, 0.3)
    nats = {pair: row["redundant nats"] for pair, row in pairs.items()}
    told = lambda r: -0.5 * math.log(1 - r**2)
    assert [nats["a", "b"], nats["b", "c"], nats["b", "d"]] == pytest.approx([told(0.4), told(0.5), 0])
    turned = PosteriorLabels(**(vars(made) | {"labels": dict(reversed(made.labels.items()))}))
    assert {tuple(sorted(row["pair"])): row["redundant nats"] for row in turned.pairs()} == pytest.approx(nats)


def test_the_most_private_clips_come_first(made):
    assert made.most_private("a", 2).tolist() == [2, 1] and made.most_private("b").tolist() == [0, 1, 2]
    assert inspect.signature(made.most_private).parameters["k"].default == 10


def test_fixed_labels_stand_still():
    y, labels = torch.tensor([0.0, 1.0, 2.0]), {"a": torch.tensor([0.5, 1.0, -2.0])}
    fixed = FixedLabels(labels, y, floor=0.2)
    assert fixed.labels["a"].tolist() == [0.5, 1.0, -2.0] and fixed.names == ("fusion", "a")
    assert torch.allclose(fixed.weights("a", torch.tensor([2, 0])), 0.2 + 0.8 * torch.tensor([4.0, 0.5]).tanh())
    assert torch.equal(FixedLabels(labels, y).weights("a", torch.arange(3)), disagreement(labels["a"], y, 0.1))
    fixed.update({"a": torch.ones(3, 2)}, torch.arange(3), 1)
    assert fixed.labels["a"].tolist() == [0.5, 1.0, -2.0]
