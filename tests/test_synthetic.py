"The simulated truth against a covariance built from the description by loadings, in NumPy, and against samples."

import math
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from dmsil.synthetic import (
    Simulation,
    SyntheticConfig,
    bayes_prediction,
    label_information,
    label_split,
    pair_correlation,
    truth,
    with_discord,
)


class Loadings:
    "Every variable as a row of weights on independent standard normal sources; nothing from the library."

    def __init__(self, config):
        self.config, self.rows, self.sources = config, {}, 0
        names = list(config.dims)
        r = math.sqrt(1 - math.exp(-2 * config.common / config.k_common))
        u = self.fresh(config.k_common)
        z = {
            s: [[{j: math.sqrt(r), i: math.sqrt(1 - r)} for j, i in zip(u, self.fresh(config.k_common), strict=True)]]
            for s in names
        }
        for (a, b), nats in config.pairs.items():
            r_ab, first = math.sqrt(1 - math.exp(-2 * nats / config.k_pair)), self.fresh(config.k_pair)
            z[a].append([{i: 1.0} for i in first])  # another construction of the same law: b = r a + √(1−r²) e
            z[b].append(
                [{i: r_ab, j: math.sqrt(1 - r_ab**2)} for i, j in zip(first, self.fresh(config.k_pair), strict=True)]
            )
        w = {}
        for s in names:
            own = self.fresh(config.k_private)
            z[s].append([{i: 1.0} for i in own])
            w[s] = own[0]
        self.z = {s: self.matrix([row for block in z[s] for row in block]) for s in names}
        y = {s: self.matrix([{u[0]: math.sqrt(1 - config.eta), w[s]: math.sqrt(config.eta)}])[0] for s in names}
        y_m = sum(config.omega[s] * y[s] for s in names)
        self.y, self.y_m = y, y_m / np.linalg.norm(y_m)

    def fresh(self, k):
        self.sources += k
        return list(range(self.sources - k, self.sources))

    def matrix(self, rows):
        A = np.zeros((len(rows), 400))
        for i, row in enumerate(rows):
            for j, weight in row.items():
                A[i, j] = weight
        return A

    def seen(self, *names):
        return np.concatenate([self.z[s] for s in names])

    def log_det(self, *names):
        return np.linalg.slogdet(self.seen(*names) @ self.seen(*names).T)[1] if names else 0.0

    def nats(self, a, b, *given):
        return (
            self.log_det(a, *given) + self.log_det(b, *given) - self.log_det(a, b, *given) - self.log_det(*given)
        ) / 2

    def variance(self, target, *names):
        "What is left of a target after projection on the seen rows."
        A = self.seen(*names)
        return float(np.sum((target - np.linalg.lstsq(A.T, target, rcond=None)[0] @ A) ** 2))


@st.composite
def configs(draw):
    names = draw(
        st.lists(
            st.sampled_from(["text", "audio", "vision", "timing", "Gesichter", "x y"]),
            min_size=2,
            max_size=5,
            unique=True,
        )
    )
    nats = st.floats(0, 2.5).map(lambda x: round(x, 3))
    pairs = draw(st.lists(st.sampled_from([p for p in combinations(names, 2)]), max_size=4, unique=True))
    pairs = {tuple(draw(st.permutations(pair))): draw(nats) for pair in pairs}
    width, extra = st.integers(1, 4), st.integers(0, 9)
    k_common, k_pair, k_private = draw(width), draw(width), draw(width)
    least = {s: k_common + k_private + k_pair * sum(s in pair for pair in pairs) for s in names}
    return SyntheticConfig(
        dims={s: k + draw(extra) for s, k in least.items()},
        omega={s: draw(st.floats(0.1, 2)) for s in names},
        common=draw(nats),
        pairs=pairs,
        k_common=k_common,
        k_pair=k_pair,
        k_private=k_private,
        eta=draw(st.floats(0, 1)),
        nonlinear=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_closed_forms_of_any_world(config):
    world, truth = Simulation(config), Loadings(config)
    for a, b in combinations(world.names, 2):
        rest = [s for s in world.names if s not in (a, b)]
        assert world.information(a, b) == world.information(b, a) == pytest.approx(truth.nats(a, b), abs=1e-8)
        for given_ in (rest[:1], rest):
            assert world.conditional_information(a, b, *given_) == pytest.approx(truth.nats(a, b, *given_), abs=1e-8)
    for j in range(1, len(world.names) + 1):
        for names in combinations(world.names, j):
            assert world.label_variance(*names) == pytest.approx(truth.variance(truth.y_m, *names), abs=1e-8)
            assert world.bayes_mae(*names) == pytest.approx(
                math.sqrt(2 / math.pi * truth.variance(truth.y_m, *names)), abs=1e-4
            )
    for s in world.names:
        assert world.unimodal_bayes_mae(s) ** 2 * math.pi / 2 == pytest.approx(truth.variance(truth.y[s], s), abs=1e-8)
        rho = float(truth.y[s] @ truth.y_m)
        assert world.label_correlation(s) == pytest.approx(rho, abs=1e-10)
        assert world.sign_discord(s) == pytest.approx(math.acos(min(1, rho)) / math.pi, abs=1e-6)
        assert world.mean_disagreement(s) == pytest.approx(
            math.sqrt(2 / math.pi) * np.linalg.norm(truth.y[s] - truth.y_m), abs=1e-7
        )


@settings(max_examples=15, deadline=None)
@given(configs())
def test_any_world_draws_what_it_says(config):
    world, truth, n = Simulation(config), Loadings(config), 20_000
    sample = world.sample(n, seed=3, dtype=torch.float64)
    z = {s: torch.cat(list(sample.blocks[s].values()), 1) for s in world.names}
    drawn = torch.cat([*z.values(), *(sample.y[s][:, None] for s in world.names), sample.y_m[:, None]], 1)
    rows = np.concatenate([truth.seen(*world.names), *(truth.y[s][None] for s in world.names), truth.y_m[None]])
    assert np.abs((drawn.T @ drawn / n).numpy() - rows @ rows.T).max() < 7 / math.sqrt(n) * math.sqrt(2)
    for s in world.names:
        assert sample.x[s].shape == (n, config.dims[s])
        assert (world.latents(s, sample.x[s]) - z[s]).abs().max() < 1e-12
        assert {block: t.shape[1] for block, t in sample.blocks[s].items()} == config.blocks(s)


def test_the_default_truth():
    world = Simulation()
    t, a, v = world.names
    assert [world.information(*p) for p in ((t, a), (t, v), (a, v))] == pytest.approx([2, 1, 1], abs=1e-12)
    assert [world.conditional_information(*p) for p in ((t, a, v), (t, v, a), (a, v, t))] == pytest.approx(
        [1.218, 0.218, 0.218], abs=5e-4
    )
    assert [world.unimodal_bayes_mae(s) for s in world.names] == pytest.approx([0.2554] * 3, abs=5e-5)
    assert [world.bayes_mae(s) for s in world.names] == pytest.approx([0.393, 0.478, 0.501], abs=5e-4)
    assert world.bayes_mae() == world.bayes_mae(t, a, v) == pytest.approx(0.1911, abs=5e-5)
    assert [world.label_correlation(s) for s in world.names] == pytest.approx([0.903, 0.783, 0.722], abs=5e-4)
    assert [world.sign_discord(s) for s in world.names] == pytest.approx([0.141, 0.214, 0.243], abs=5e-4)
    assert [world.mean_disagreement(s) for s in world.names] == pytest.approx([0.352, 0.526, 0.595], abs=5e-4)
    split = label_split(world, t, a)
    assert (split.redundant, split.unique[t], split.unique[a], split.synergistic) == pytest.approx(
        (0.513, 0.195, 0, 0.388), abs=5e-4
    )


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("nats", [0.0, 1e-9, 0.3, 2.0, 10.0])
def test_pair_correlation_is_inverted_by_the_formula(nats, k):
    r = pair_correlation(nats, k)
    assert 0 <= r < 1
    assert -k / 2 * math.log1p(-r * r) == pytest.approx(nats, rel=1e-6, abs=1e-15)


def test_more_given_leaves_less_and_more_seen_errs_less():
    world = Simulation(
        SyntheticConfig(dims=dict.fromkeys("abcd", 16), omega=dict.fromkeys("abcd", 1.0), pairs={}, k_private=2)
    )
    left = [world.conditional_information("a", "b", *names) for names in ((), ("c",), ("c", "d"))]
    assert left[0] > left[1] > left[2] > 0
    assert world.bayes_mae("a") > world.bayes_mae("a", "b") > world.bayes_mae("a", "b", "c") > world.bayes_mae() > 0
    assert world.label_variance() == pytest.approx(1, abs=1e-12) and label_information(world) == pytest.approx(
        0, abs=1e-12
    )


def test_labels_known_exactly_are_infinitely_many_nats():
    world = Simulation(SyntheticConfig(eta=1.0))
    assert world.bayes_mae() == world.unimodal_bayes_mae("audio") == 0
    assert (
        label_information(world, *world.names) == math.inf
        and label_split(world, "text", "audio").synergistic < math.inf
    )


def test_the_way_back_solves_the_cubic():
    world = Simulation(
        SyntheticConfig(dims={"a": 5, "b": 5}, omega={"a": 1.0, "b": 1.0}, pairs={}, k_common=1, k_private=1)
    )
    Q_1, Q_2 = world.maps["a"]
    g = torch.tensor([[0.0, 1e-9], [-0.4, 3.7], [50.0, -2e4]], dtype=torch.float64)
    roots = [
        [brentq(lambda h, y=y: h + 0.3 * h**3 - y, -1e3, 1e3, xtol=1e-15, rtol=1e-14) for y in row]
        for row in g.tolist()
    ]
    found = world.latents("a", g @ Q_2.T) @ Q_1.T
    assert np.allclose(found.numpy(), roots, rtol=1e-12, atol=1e-14)
    assert torch.allclose(world.observe("a", found @ Q_1), g @ Q_2.T, rtol=1e-12, atol=1e-12)


def test_maps_are_orthonormal_and_belong_to_the_configuration():
    world, same, other = Simulation(), Simulation(), Simulation(SyntheticConfig(seed=1))
    for s in world.names:
        for Q, again, fresh in zip(world.maps[s], same.maps[s], other.maps[s], strict=True):
            assert (Q.T @ Q - torch.eye(Q.shape[1], dtype=torch.float64)).abs().max() < 1e-14
            assert torch.equal(Q, again) and not torch.allclose(Q, fresh)
    a, b = world.sample(50, seed=4), other.sample(50, seed=4)
    assert torch.equal(a.y_m, b.y_m) and not torch.allclose(a.x["text"], b.x["text"])


def test_draws_are_seeded_and_leave_the_global_generator_alone():
    world = Simulation()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = world.sample(100, seed=1), world.sample(100, seed=1), world.sample(100, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.x[s], same.x[s]) for s in world.names) and torch.equal(one.v, same.v)
    assert not torch.equal(one.y_m, other.y_m)
    assert (
        len(one) == 100 and one.y_m.dtype == one.x["text"].dtype == one.blocks["text"]["common"].dtype == torch.float32
    )


def test_nonlinear_only_bends():
    bent, straight = (Simulation(SyntheticConfig(nonlinear=n)).sample(1000, seed=5) for n in (True, False))
    assert torch.equal(bent.y_m, straight.y_m) and torch.equal(
        bent.blocks["audio"]["private"], straight.blocks["audio"]["private"]
    )
    assert bent.x["audio"].abs().max() > 1.5 * straight.x["audio"].abs().max()


@pytest.mark.parametrize("names", [("text",), ("vision", "audio"), ("text", "audio", "vision")])
def test_the_best_prediction_leaves_an_error_that_the_seen_features_do_not_explain(names):
    world, n = Simulation(), 50_000
    sample = world.sample(n, seed=6, dtype=torch.float64)
    error = sample.y_m - bayes_prediction(world, {s: sample.x[s] for s in names})
    z = torch.cat([world.latents(s, sample.x[s]) for s in names], 1)
    assert error.var().item() == pytest.approx(world.label_variance(*names), rel=0.03)
    assert (z.T @ error / n).abs().max() < 5 * error.std() / math.sqrt(n)
    assert error.abs().mean().item() == pytest.approx(world.bayes_mae(*names), rel=0.015)


def test_the_best_unimodal_prediction_uses_its_own_modality_alone():
    world = Simulation()
    sample = world.sample(50_000, seed=7)
    for s in world.names:
        alone = bayes_prediction(world, {s: sample.x[s]}, s)
        assert torch.equal(alone, bayes_prediction(world, sample.x, s))
        assert (alone - sample.y[s]).abs().mean().item() == pytest.approx(world.unimodal_bayes_mae(s), rel=0.015)


@settings(max_examples=40, deadline=None)
@given(configs().filter(lambda c: 0.05 < c.eta < 0.95))
def test_the_split_adds_up(config):
    world = Simulation(config)
    for a, b in combinations(world.names, 2):
        split = label_split(world, a, b)
        parts = [split.redundant, *split.unique.values(), split.synergistic]
        assert min(parts) >= -1e-12 and min(split.unique.values()) == 0
        assert sum(parts) == pytest.approx(label_information(world, a, b), abs=1e-9)
        for s in (a, b):
            assert split.redundant + split.unique[s] == pytest.approx(label_information(world, s), abs=1e-12)


def groups(names):
    "Every two disjoint groups of at least one name."
    for j in range(1, len(names)):
        for a in combinations(names, j):
            rest = [s for s in names if s not in a]
            for k in range(1, len(rest) + 1):
                for b in combinations(rest, k):
                    yield a, b


@settings(max_examples=25, deadline=None)
@given(configs().filter(lambda c: 0.05 < c.eta < 0.95))
def test_groups_know_what_the_determinants_say(config):
    world, independent = Simulation(config), Loadings(config)

    def nats(names):
        return -math.log(independent.variance(independent.y_m, *names)) / 2

    for a, b in groups(world.names):
        split = label_split(world, a, b)
        assert split.redundant == pytest.approx(min(nats(a), nats(b)), abs=1e-7)
        assert set(split.unique) == {a, b}
        for side in (a, b):
            assert split.unique[side] == pytest.approx(nats(side) - min(nats(a), nats(b)), abs=1e-7)
        assert split.synergistic == pytest.approx(nats(a + b) - max(nats(a), nats(b)), abs=1e-7)
        assert label_split(world, b, a).synergistic == split.synergistic


@settings(max_examples=25, deadline=None)
@given(configs())
def test_the_truth_is_what_the_determinants_say(config):
    world, independent = Simulation(config), Loadings(config)
    found = truth(world)
    assert (
        list(found.pairs) == list(found.given_others) == list(combinations(world.names, 2))
        and tuple(found.labels) == world.names
    )
    for (a, b), nats in found.pairs.items():
        others = [s for s in world.names if s not in (a, b)]
        assert nats == pytest.approx(independent.nats(a, b), abs=1e-8)
        assert found.given_others[a, b] == pytest.approx(independent.nats(a, b, *others), abs=1e-8)
    for s, split in found.labels.items():
        assert split == label_split(world, s, tuple(o for o in world.names if o != s)) and s in split.unique


def test_a_side_may_be_a_group_and_never_both():
    world = Simulation()
    one, group = label_split(world, "text", "audio"), label_split(world, ("text",), ("audio",))
    assert one[::2] == group[::2] and list(one.unique.values()) == list(group.unique.values())
    assert list(group.unique) == [("text",), ("audio",)]
    nobody = label_split(world, "text", ())
    assert nobody.redundant == nobody.synergistic == nobody.unique[()] == 0
    assert nobody.unique["text"] == label_information(world, "text")
    wrong = sum(
        label_information(world, s) for s in ("audio", "vision")
    )  # members added up: the common block is counted twice
    split = label_split(world, "text", ("audio", "vision"))
    assert split.redundant + split.unique["audio", "vision"] < wrong - 0.2
    for a, b in (("text", "text"), ("text", ("audio", "text")), (("audio", "audio"), "text")):
        with pytest.raises(ValueError, match="named twice"):
            label_split(world, a, b)
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        label_split(world, "text", ("audio", "smell"))


def test_a_modality_without_weight_adds_nothing_even_where_all_is_known():
    world = Simulation(SyntheticConfig(eta=1.0, omega={"text": 1.0, "audio": 1.0, "vision": 0.0}))
    assert label_split(world, "vision", ("text", "audio")).synergistic == 0
    assert truth(world).labels["text"].synergistic == math.inf


@settings(max_examples=40, deadline=None)
@given(configs(), st.floats(0, 1), st.booleans())
def test_any_conflict_within_reach_is_reached(config, share, mean):
    name = None if mean else next(iter(config.dims))
    names = list(config.dims) if mean else [name]

    def p(eta):  # counted from the loadings
        rows = Loadings(replace(config, eta=eta))
        return float(np.mean([math.acos(max(-1, min(1, rows.y[s] @ rows.y_m))) / math.pi for s in names]))

    top = max(p(eta) for eta in np.linspace(0, 1, 41))
    found = with_discord(config, share * top, name)
    assert p(found.eta) == pytest.approx(share * top, abs=2e-7)
    assert replace(found, eta=config.eta) == config
    below = [p(eta) for eta in np.linspace(0, found.eta, 12)[:-1]]
    assert not below or max(below) <= share * top + 2e-7, "a smaller eta would do"


def test_the_top_may_lie_between():
    heavy = SyntheticConfig(
        dims=dict.fromkeys("abcdefgh", 16), omega={**dict.fromkeys("abcdefgh", 1.0), "a": 10.0}, pairs={}
    )

    def p(eta):
        return Simulation(replace(heavy, eta=eta)).sign_discord("a")

    assert p(0.7) > p(1.0) + 0.01
    found = with_discord(heavy, p(1.0), "a")
    assert found.eta < 0.7 and p(found.eta) == pytest.approx(p(1.0), abs=1e-12)


def test_conflict_is_counted_in_a_sample():
    for name, share in ((None, 0.2), ("vision", 0.35), ("text", 0.05)):
        world, n = Simulation(with_discord(SyntheticConfig(), share, name)), 100_000
        sample = world.sample(n, seed=8)
        differ = torch.stack([sample.y[s] * sample.y_m < 0 for s in ([name] if name else world.names)]).double().mean(0)
        assert abs(differ.mean().item() - share) < 4 * differ.std().item() / math.sqrt(n)


def test_conflict_out_of_reach_is_refused_with_the_range():
    config = SyntheticConfig()
    for share in (0.32, -0.1, math.nan):
        with pytest.raises(
            ValueError, match=f"differ in 0.000 to 0.311 of the clips on average over modalities, asked for {share}"
        ):
            with_discord(config, share)
    with pytest.raises(ValueError, match="0.000 to 0.395 of the clips for vision, asked for 0.4"):
        with_discord(config, 0.4, "vision")
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        with_discord(config, 0.1, "smell")
    cancelling = SyntheticConfig(omega={"text": 1.0, "audio": -0.5, "vision": -0.5})
    with pytest.raises(ValueError, match="differ in 0.196 to 0.500 of the clips for text"):
        with_discord(cancelling, 0.1, "text")
    assert Simulation(with_discord(cancelling, 0.4, "text")).sign_discord("text") == pytest.approx(0.4, abs=1e-9)


def test_very_much_shared_information_is_still_a_number():
    world = Simulation(SyntheticConfig(common=100.0))
    assert world.information("text", "audio") == 101 and world.information("text", "vision") == 100
    assert math.isfinite(world.conditional_information("text", "vision", "audio"))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dims": {"text": 32}, "omega": {"text": 1.0}, "pairs": {}}, "at least two modalities, got"),
        ({"omega": {"text": 1.0}}, "omega needs a weight for each of"),
        ({"pairs": {("text", "text"): 1.0}}, "two different names"),
        ({"pairs": {("text", "smell"): 1.0}}, "two different names"),
        ({"pairs": {("text", "audio", "vision"): 1.0}}, "two different names"),
        ({"pairs": {("text", "audio"): 1.0, ("audio", "text"): 0.5}}, "stands twice"),
        ({"pairs": {("text", "audio"): -0.1}}, "at least 0 nats, got -0.1"),
        ({"common": math.nan}, "at least 0 nats, got nan"),
        ({"common": math.inf}, "finite"),
        ({"k_private": 0}, "width of at least 1"),
        ({"eta": 1.5}, "eta needs to lie in"),
        ({"dims": {"text": 7, "audio": 16, "vision": 24}}, "text needs an observed width of at least 8"),
    ],
)
def test_impossible_worlds_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        SyntheticConfig(**change)


def test_unknown_and_repeated_names_are_refused():
    world = Simulation()
    for ask in (
        lambda: world.information("text", "smell"),
        lambda: world.bayes_mae("smell"),
        lambda: world.unimodal_bayes_mae("smell"),
        lambda: world.label_correlation("smell"),
        lambda: bayes_prediction(world, {"smell": torch.zeros(2, 3)}),
    ):
        with pytest.raises(ValueError, match="unknown modality 'smell', expected one of text, audio, vision"):
            ask()
    with pytest.raises(ValueError, match="named twice"):
        world.information("text", "text")
    vanishing = SyntheticConfig(eta=0.0, omega={"text": 1.0, "audio": -0.5, "vision": -0.5})
    with pytest.raises(ValueError, match="leaves nothing"):
        Simulation(vanishing)


def test_import_is_light():
    code = "import sys, dmsil.synthetic; assert not {'sklearn', 'matplotlib', 'scipy', 'sympy', 'fastcore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
