"Posterior labels: on simulations of other seeds and widths, against NumPy, out of sample, with whatever input people bring."

import csv

import numpy as np
import pytest
import torch

from dmsil.cli import main
from dmsil.posterior import FixedLabels, Prior, posterior_gain, posterior_labels
from dmsil.readouts import additive_readouts
from dmsil.synthetic import Simulation, SyntheticConfig


def draw(seed, n=2000, **changes):
    simulation = Simulation(SyntheticConfig(seed=seed, **changes))
    return simulation, simulation.sample(n, seed=seed, dtype=torch.float64)


def off(labels, sample):
    return {s: (labels[s] - sample.y[s]).abs().mean().item() for s in sample.y}


@pytest.mark.parametrize(
    "seed, changes",
    [(71, {}), (72, {"nonlinear": False}), (73, {"dims": {"text": 96, "audio": 16, "vision": 40}})],
)
def test_closer_than_the_copy_and_near_the_true_prior(seed, changes):
    simulation, sample = draw(seed, **changes)
    made = posterior_labels(sample.x, sample.y_m)
    truth = {s: simulation.label_correlation(s) for s in simulation.names}
    posterior = posterior_labels(
        sample.x, sample.y_m, prior=Prior(truth, 1 - simulation.config.eta), readouts=made.readouts
    )
    mine, best, copy = (
        off(made.labels, sample),
        off(posterior.labels, sample),
        off(dict.fromkeys(sample.y, sample.y_m), sample),
    )
    assert all(mine[s] < 0.8 * copy[s] and mine[s] < 1.15 * best[s] for s in mine)


def test_closer_than_the_copy_where_the_prior_is_off():
    "Labels that agree more (ρ from .84 to .94) than the default prior believes."
    _, sample = draw(74, eta=0.3)
    mine, copy = (
        off(posterior_labels(sample.x, sample.y_m).labels, sample),
        off(dict.fromkeys(sample.y, sample.y_m), sample),
    )
    assert all(mine[s] < copy[s] for s in mine)


def test_the_gain_is_the_conditional_mean():
    rng = np.random.default_rng(0)
    for M in (1, 2, 3, 5):
        L = rng.normal(size=(M + 1, 2 * M + 2))
        P = np.corrcoef(L)
        kappa = rng.uniform(0.1, 0.9, M)
        joint = np.block([[P, P], [P, P + np.diag([*((1 - kappa) / kappa), 0.0])]])
        by_hand = joint[: M + 1, M + 1 :] @ np.linalg.inv(joint[M + 1 :, M + 1 :])
        np.testing.assert_allclose(posterior_gain(torch.tensor(P), torch.tensor(kappa)).numpy(), by_hand, atol=1e-9)


def test_no_read_out_has_seen_the_clip_or_its_group():
    "Two clips of a group exchange their labels: neither's read-out moves."
    _, sample = draw(5, n=300)
    group = [k // 3 for k in range(300)]
    swapped = sample.y_m.clone()
    swapped[[30, 31]] = sample.y_m[[31, 30]]
    a, b = (additive_readouts(sample.x, y, group) for y in (sample.y_m, swapped))
    assert not torch.equal(a, b)
    torch.testing.assert_close(a[30:33], b[30:33], atol=1e-10, rtol=0)


@pytest.mark.parametrize("n, d", [(60, 5), (150, 64), (150, 768), (400, 30)])
def test_features_that_tell_nothing(n, d):
    g = torch.Generator().manual_seed(n + d)
    y = torch.randn(n, generator=g)
    made = posterior_labels({"a": torch.randn(n, d, generator=g), "b": torch.randn(n, 3, generator=g)}, y)
    assert made.reliability["a"].kappa < 0.15 and made.to_share() == ()
    assert torch.corrcoef(torch.stack([made.labels["a"], y]))[0, 1] > 0.9


def test_scale_place_order_and_threads_do_not_matter():
    _, sample = draw(6, n=400)
    made = posterior_labels(sample.x, sample.y_m)
    moved = posterior_labels({s: 3 * x - 7 for s, x in sample.x.items()}, 0.5 * sample.y_m + 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = posterior_labels(sample.x, sample.y_m)
    torch.set_num_threads(threads)
    for s in sample.x:
        torch.testing.assert_close(moved.labels[s], 0.5 * made.labels[s] + 2, atol=1e-6, rtol=0)
        torch.testing.assert_close(again.labels[s], made.labels[s], atol=1e-9, rtol=0)


def test_one_broken_value_moves_no_other_label_far():
    _, sample = draw(7, n=400)
    broken = sample.x | {"audio": sample.x["audio"].clone()}
    broken["audio"][3, 2] = 1e12
    made, other = posterior_labels(sample.x, sample.y_m), posterior_labels(broken, sample.y_m)
    assert (made.labels["text"] - other.labels["text"]).abs().max() < 0.5 and other.reliability["audio"].kappa > 0.2


def test_arrays_sequences_and_one_modality():
    rng = np.random.default_rng(1)
    y = rng.normal(size=120)
    steps = [rng.normal(size=(rng.integers(2, 9), 3)) + v for v in y]
    padded = np.full((120, 9, 3), np.nan)
    for row, x in zip(padded, steps, strict=True):
        row[: len(x)] = x
    made, same = posterior_labels({"audio": steps}, y), posterior_labels({"audio": padded}, y)
    assert isinstance(made.labels["audio"], np.ndarray) and made.reliability["audio"].kappa > 0.5
    np.testing.assert_allclose(made.labels["audio"], same.labels["audio"], atol=1e-9)
    fixed = FixedLabels(made.labels, torch.tensor(y))
    np.testing.assert_allclose(fixed.weights("audio", torch.arange(7)).numpy(), made.weights["audio"][:7], atol=1e-12)
    assert isinstance(made.table(), str) and len(made.rows()) == 1 and made.pairs() == []


def test_one_modality_tells_nearly_all():
    g = torch.Generator().manual_seed(3)
    y = torch.randn(60, generator=g)
    x = {
        "text": torch.randn(60, 8, generator=g),
        "audio": y[:, None] + 0.05 * torch.randn(60, 2, generator=g),
        "timing": torch.randn(60, 3, generator=g),
    }
    made = posterior_labels(x, y)
    assert made.reliability["audio"].kappa > 0.9 and all(label.isfinite().all() for label in made.labels.values())
    assert torch.linalg.eigvalsh(made.prior)[0] > 0


def test_a_modality_that_nobody_has():
    _, sample = draw(8, n=200)
    made = posterior_labels(sample.x | {"vision": torch.full((200, 4), torch.nan)}, sample.y_m)
    assert made.reliability["vision"].kappa == 0 and made.labels["vision"].isfinite().all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": {}}, "at least one modality"),
        ({"features": {"text": np.zeros((9, 2))}}, r"text: features of shape \(9, 2\)"),
        ({"features": {"text": np.full((40, 2), np.inf)}}, "text: infinite value in row 0, column 0"),
        ({"y": np.zeros(40)}, "all labels are equal"),
        ({"y": np.r_[np.nan, np.arange(39.0)]}, "nan in row 0"),
        ({"groups": [1, 2] * 20}, "at least 3 groups"),
        ({"prior": Prior(1.5)}, "rho needs values above 0"),
        ({"prior": Prior(0.95, 0.1)}, "not correlations of any labels"),
        ({"prior": Prior(0.8, {("text", "smell"): 0.5})}, "lacks the pair"),
    ],
)
def test_bad_input_is_one_line(change, message):
    rng = np.random.default_rng(2)
    call = {"features": {"text": rng.normal(size=(40, 2)), "audio": rng.normal(size=(40, 3))}, "y": rng.normal(size=40)}
    with pytest.raises(ValueError, match=message):
        posterior_labels(**call | change)


def test_labels_from_a_shell(tmp_path, capsys):
    main(["labels", "synthetic", "--out", str(tmp_path / "labels.csv"), "--split", "valid"])
    assert "saved in" in capsys.readouterr().out
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000 and set(rows[0]) == {
        "id",
        "label",
        *(f"{w}{s}" for w in ("", "weight_") for s in ("text", "audio", "vision")),
    }
