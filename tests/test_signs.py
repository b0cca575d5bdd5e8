"The pure parts of tools/signs.py: optimum, criteria, probes; and both experiments at toy size, so that the command can't rot."

import json
import math

import pytest
import signs
import torch

from dmsil.synthetic import Simulation, SyntheticConfig

CONFIG = signs.simulated(0)
TOP = 2.0


def shared(P_t, P_v):
    "Nats between x_t seen through the rows of P_t and x_v seen through those of P_v, from the simulation's own cross-covariance."
    sim = Simulation(CONFIG)
    r = {block: math.sqrt(1 - math.exp(-2 * nats / 2)) for block, nats in (("common", CONFIG.common), ("pair", 1.0))}
    names = {s: [block for block, k in CONFIG.blocks(s).items() for _ in range(k)] for s in sim.names}
    place = {s: [(block, names[s][:i].count(block)) for i, block in enumerate(names[s])] for s in sim.names}
    C = torch.tensor([[(r["common"] if a[0] == "common" else r["pair"]) if a == b and a[0] in ("common", ("text", "vision")) else 0.0
                       for b in place["vision"]] for a in place["text"]], dtype=torch.double)  # fmt: skip
    rho = torch.linalg.svdvals(P_t @ C @ P_v.T)
    return -0.5 * torch.log1p(-(rho**2)).sum().item()


def drop(s, block, how_many=1):
    names = [name for name, k in CONFIG.blocks(s).items() for _ in range(k)]
    lost = [i for i, name in enumerate(names) if name == block][:how_many]
    return torch.eye(9, dtype=torch.double)[[i for i in range(9) if i not in lost]]


def test_ceiling_and_floors_of_the_world():
    assert signs.ceiling(CONFIG, "text", "audio") == pytest.approx(TOP)
    assert [signs.floor(CONFIG, "text", "vision", width) for width in (9, 8, 7, 5)] == pytest.approx(
        [2.0, 1.0, 0.0, 0.0]
    )
    uneven = SyntheticConfig(common=0.4, pairs={("text", "vision"): 3.0}, k_private=3)
    assert signs.floor(uneven, "vision", "text", 6) == pytest.approx(0.4), (
        "each side lacks one of seven: both drop a direction of 1.5 nats"
    )


def test_floor_holds_for_any_directions_and_is_reached():
    g = torch.Generator().manual_seed(0)
    assert shared(torch.eye(9, dtype=torch.double), torch.eye(9, dtype=torch.double)) == pytest.approx(TOP)
    for width in (8, 7):
        bottom = signs.floor(CONFIG, "text", "vision", width)
        frame = lambda width=width: torch.linalg.qr(torch.randn(9, width, generator=g, dtype=torch.double))[0].T
        assert all(shared(frame(), frame()) >= bottom - 1e-9 for _ in range(300))
    assert shared(drop("text", ("text", "vision")), drop("vision", "common")) == pytest.approx(1.0)
    assert shared(drop("text", ("text", "vision"), 2), drop("vision", "common", 2)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("target", ["true", "copy"])
def test_label_floor_against_samples(target):
    sample = Simulation(CONFIG).sample(200_000, seed=1, dtype=torch.double)
    z = {s: torch.cat(list(sample.blocks[s].values()), 1) for s in ("text", "vision")}
    y = sample.y["vision"] if target == "true" else sample.y_m
    feature = z["vision"] @ torch.linalg.lstsq(z["vision"], y[:, None]).solution
    fit = z["text"] @ torch.linalg.lstsq(z["text"], feature).solution
    nats = -0.5 * math.log(1 - (fit.var() / feature.var()).item())
    assert signs.label_floor(CONFIG, "vision", target) == pytest.approx(nats, abs=0.01)


@pytest.mark.parametrize(
    "nats, mae, expected",
    [((1.9, 0.1), 0.2, (True, True, True)), ((1.7, 0.1), 0.2, (False, True, True)),
     ((1.9, 0.3), 0.2, (True, False, True)), ((1.9, 0.1), 0.23, (True, True, False))],
)  # fmt: skip
def test_criteria(nats, mae, expected):
    run = {"MAE": mae, "pairs": {"text~audio": {"shared": nats[0]}, "text~vision": {"shared": nats[1]}}}
    assert tuple(signs.criteria(run, 0.2, TOP, 0.0).values()) == expected


def test_probes_see_what_a_straight_line_misses():
    g = torch.Generator().manual_seed(2)
    a = torch.randn(3000, 3, generator=g)
    folded = torch.cat([a[:, :1] ** 2 + 0.3 * torch.randn(3000, 1, generator=g), torch.randn(3000, 2, generator=g)], 1)
    read = signs.measured({"a": a, "b": folded}, "a", "b")
    assert read["shared"] < 0.02 and read["squares"] > 0.5 and read["squares_low"] > read["squares_null95"]
    alone = signs.measured({"a": a, "b": torch.randn(3000, 3, generator=g)}, "a", "b")
    assert alone["verdict"] == "private" and alone["squares"] <= alone["squares_null95"]


def test_white_leaves_dead_directions_out_and_leading_finds_the_pair():
    g = torch.Generator().manual_seed(3)
    z = torch.randn(4000, 4, generator=g)
    D = torch.cat([z, z[:, :1], torch.zeros(4000, 1)], 1)
    W = signs.white(D)
    assert W.shape == (4000, 4)
    torch.testing.assert_close(W.T @ W / 3999, torch.eye(4, dtype=torch.double))
    b = 0.8 * z[:, 2:3] + 0.6 * torch.randn(4000, 1, generator=g)
    u, v = signs.leading(D, torch.cat([torch.randn(4000, 2, generator=g), b], 1))
    assert abs(torch.corrcoef(torch.cat([u, v], 1).T)[0, 1]) == pytest.approx(0.8, abs=0.03)


ARMS = [("linear", "coral"), ("linear", "untrained"), ("preset", "none"), ("preset", "signed"), ("patterns", "+-+")]


@pytest.mark.parametrize("experiment, arm", ARMS)
def test_an_arm_ends_in_a_row(experiment, arm):
    if experiment == "linear":
        run = signs.linear(arm, 1, steps=3, n=300)
    else:
        run = signs.shipped(experiment, arm, 1, signs.trained(arm, 1, n=(100, 40, 300), epochs=1))
    assert (run["experiment"], run["arm"], run["seed"]) == (experiment, arm, 1) and (run["MAE"] is None) == (
        arm == "untrained"
    )
    assert set(run["pairs"]) == {"text~audio", "text~vision", "audio~vision"}
    json.dumps(run)


def test_every_committed_run_is_there_once():
    done = json.loads(signs.RESULT.read_text())
    keys = [(run["experiment"], run["arm"], run["seed"]) for run in done["runs"]]
    shipped = [("preset", arm, seed) for arm in signs.SHIPPED for seed in signs.SHIPPED_SEEDS]
    shipped += [("patterns", arm, signs.PATTERN_SEED) for arm in signs.PATTERNS]
    assert sorted(keys) == sorted([("linear", arm, seed) for arm in signs.LINEAR for seed in signs.SEEDS] + shipped)
    assert done["optimum"] == signs.rounded(signs.optimum())


def test_the_preset_as_shipped_does_what_its_signs_say():
    done = json.loads(signs.RESULT.read_text())
    run = {(r["arm"], r["seed"]): r for r in done["runs"] if r["experiment"] == "preset"}
    met = [signs.criteria(run["signed", s], run["none", s]["MAE"], TOP, 0.0) for s in signs.SHIPPED_SEEDS]
    assert sum(all(m.values()) for m in met) >= 9
