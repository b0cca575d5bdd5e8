"The losses of the wing: what each computes, what a run does with one, and what they can and cannot see."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dmsil
from dmsil.clips import synthetic_clips
from dmsil.related.losses import PairLoss, barlow_twins, both, cca, cmd, difference, infonce, vicreg

PAIRS = {("text", "audio"): 0.2, ("audio", "vision"): 0.1}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B, WIDE = normal(0, 40, 5), normal(1, 40, 5) + 0.3 * normal(0, 40, 5), normal(2, 40, 7)

# ---------------------------------------------------------------- restatements


def hand_barlow(a, b, off):
    a, b = ((x - x.mean(0)) / x.std(0) for x in (a, b))
    R = np.einsum("ni,nj->ij", a, b) / len(a)
    return sum((R[i, i] - 1) ** 2 for i in range(len(R))) + off * sum(
        R[i, j] ** 2 for i in range(len(R)) for j in range(len(R)) if i != j
    )


def hand_vicreg(a, b):
    loss = 25 * np.mean((a - b) ** 2)
    for x in (a, b):
        C = np.cov(x, rowvar=False)
        loss += 25 * np.maximum(0, 1 - np.sqrt(C.diagonal() + 1e-4)).mean()
        loss += (np.sum(C**2) - np.sum(C.diagonal() ** 2)) / len(C)
    return loss


def hand_cmd(a, b, moments):
    powers = lambda x, k: np.array([np.mean([(v - x[:, i].mean()) ** k for v in x[:, i]]) for i in range(x.shape[1])])
    first = np.sqrt(np.sum((a.mean(0) - b.mean(0)) ** 2))
    return first + sum(np.sqrt(np.sum((powers(a, k) - powers(b, k)) ** 2)) for k in range(2, moments + 1))


def hand_infonce(a, b, tau):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    loss = 0.0
    for i in range(len(a)):
        row = [a[i] @ b[j] / tau for j in range(len(b))]
        column = [a[j] @ b[i] / tau for j in range(len(a))]
        loss += np.log(np.exp(row).sum()) + np.log(np.exp(column).sum()) - 2 * row[i]
    return loss / (2 * len(a))


def hand_difference(a, b):
    a, b = (x - x.mean(0) for x in (a, b))
    a, b = (np.array([row / np.linalg.norm(row) for row in x]) for x in (a, b))
    return np.mean([(a[:, i] @ b[:, j]) ** 2 for i in range(a.shape[1]) for j in range(b.shape[1])])


def hand_cca(a, b):
    (Qa, _), (Qb, _) = (np.linalg.qr(x - x.mean(0)) for x in (a, b))
    return 1 - np.mean(np.linalg.svd(Qa.T @ Qb, compute_uv=False) ** 2)


CASES = {
    "barlow": (lambda a, b: barlow_twins(a, b, off=0.02), lambda a, b: hand_barlow(a, b, 0.02)),
    "vicreg": (vicreg, hand_vicreg),
    "cmd": (cmd, lambda a, b: hand_cmd(a, b, 5)),
    "cmd of three": (lambda a, b: cmd(a, b, moments=3), lambda a, b: hand_cmd(a, b, 3)),
    "infonce": (lambda a, b: infonce(a, b, 0.3), lambda a, b: hand_infonce(a, b, 0.3)),
    "difference": (difference, hand_difference),
    "cca": (lambda a, b: cca(a, b, 1e-9), hand_cca),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_its_formula(name):
    loss, hand = CASES[name]
    found = loss(A, B).item()
    assert found == pytest.approx(hand(A.numpy(), B.numpy()), rel=1e-6)
    assert found != pytest.approx(hand(A.numpy() ** 3, B.numpy()), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_its_gradient_is_right(name):
    a, b = (D[:9, :3].clone().requires_grad_() for D in (A, B))
    epsilon = {"cca": lambda a, b: cca(a, b, 0.1)}
    assert torch.autograd.gradcheck(epsilon.get(name, CASES[name][0]), (a, b))


@pytest.mark.parametrize("loss", [barlow_twins, vicreg, cmd, infonce])
def test_unequal_widths_are_refused(loss):
    with pytest.raises(ValueError, match="features of one shape"):
        loss(A, WIDE)


def test_infonce_cannot_witness_more_than_the_batch():
    X = torch.eye(8, dtype=torch.float64)
    assert infonce(X, X, 0.01) < 1e-9
    assert 0 < math.log(8) - infonce(X, X, 0.5) < math.log(8)


# ---------------------------------------------------------------- a module of a run


def test_rows_that_both_have():
    there = {"text": torch.arange(40) % 2 == 0, "audio": torch.arange(40) > 10}
    a, b, y = both({"text": A, "audio": WIDE}, ("text", "audio"), A[:, 0], there)
    rows = [i for i in range(40) if i % 2 == 0 and i > 10]
    assert torch.equal(a, A[rows]) and torch.equal(b, WIDE[rows]) and torch.equal(y, A[rows, 0])


def test_absent_clips_change_nothing():
    z = {"text": A.clone(), "audio": B.clone(), "vision": normal(3, 40, 5)}
    there = {"audio": torch.arange(40) < 25}
    module = PairLoss(PAIRS, infonce)
    before = module(z, present=there)
    z["audio"][25:] = math.nan
    after = module(z, present=there)
    assert torch.equal(before.total, after.total) and set(after.by_pair) == set(PAIRS)
    assert after.total.item() == pytest.approx(
        sum(w * after.measures[pair].item() for pair, w in PAIRS.items()), rel=1e-12
    )


class Shifted(PairLoss):
    "A loss with a parameter, random numbers, labels and ids, so that a run has everything to get right."

    by_clip = True

    def __init__(self, weights, width):
        super().__init__(weights)
        self.shift, self.seen = nn.Parameter(torch.zeros(width)), []

    def forward(self, features, labels=None, present=None, ids=()):
        self.seen.append((self.training, len(labels), ids[0].split("_")[0]))
        return super().forward(features, labels, present)

    def of_pair(self, pair, D_a, D_b, y):
        noise = 0.1 * torch.randn_like(D_a) if self.training else 0.0
        return (D_a + noise - D_b - self.shift - y.mean()).square().mean()


def small(seed=1):
    return synthetic_clips(n=(120, 40, 40), seed=seed)


SETTINGS = {"labels": "copy", "batch_size": 40, "device": "cpu", "progress": False}


def test_a_run_with_a_module_resumes_bit_for_bit(tmp_path):
    made = []

    def factory(widths):
        made.append(Shifted(PAIRS, widths["text"]))
        return made[-1]

    whole = dmsil.fit(small(), alignment=factory, epochs=4, **SETTINGS)
    dmsil.fit(small(), out=tmp_path, alignment=factory, epochs=2, **SETTINGS)
    parts = dmsil.fit(small(), out=tmp_path, resume=True, alignment=factory, epochs=4, **SETTINGS)
    first, last = made[0], made[-1]
    assert torch.equal(first.shift, last.shift) and first.shift.abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True))
    assert whole.metrics == parts.metrics and whole.metrics["pairs"] == {"~".join(p): w for p, w in PAIRS.items()}
    assert {(True, 40, "train"), (False, 40, "valid")} == set(first.seen)  # keep="objective" asks for it in validation


def test_the_module_is_part_of_the_runs_identity(tmp_path):
    dmsil.fit(small(), out=tmp_path, alignment=PairLoss(PAIRS, infonce), epochs=1, **SETTINGS)
    for other in (PairLoss(PAIRS, infonce, temperature=0.3), None):
        with pytest.raises(dmsil.DataError, match="alignment module was '.*infonce text~audio"):
            dmsil.fit(small(), out=tmp_path, resume=True, alignment=other, epochs=2, **SETTINGS)


def test_a_given_module_is_left_as_it_was():
    module = Shifted(PAIRS, 8)
    one, two = (dmsil.fit(small(), alignment=module, epochs=1, **SETTINGS) for _ in range(2))
    assert one.metrics == two.metrics and not module.shift.any()


def test_the_same_loss_in_both_ways_is_the_same_run():
    "Kappa as a module of the wing against ModalAlignment."
    from dmsil.alignment import ModalAlignment

    signs = {("text", "audio"): 0.3, ("text", "vision"): -0.1}
    kept = {"whitening": 0.0, "alignment": 1.0}
    by_name = dmsil.fit(small(), pairs=signs, measure="kappa", epochs=2, **SETTINGS, **kept)
    given = dmsil.fit(small(), alignment=ModalAlignment(signs, whitening=0.0), epochs=2, **SETTINGS)
    assert by_name.metrics["MAE"] == given.metrics["MAE"] and by_name.metrics["pairs"] == given.metrics["pairs"]


def test_a_number_is_still_the_field_of_the_configuration():
    run = dmsil.fit(small(), alignment=0.5, pairs={("text", "audio"): 1.0}, epochs=1, **SETTINGS)
    assert run.config.alignment == 0.5 and run.metrics["pairs"] == {"text~audio": 0.5}


def test_clips_that_lack_a_modality():
    clips = small()
    there = torch.arange(120) % 3 > 0
    lacking = replace(clips, train=replace(clips.train, present={"audio": there}))
    run = dmsil.fit(lacking, alignment=PairLoss(PAIRS, barlow_twins), epochs=1, **SETTINGS)
    assert math.isfinite(run.metrics["MAE"])


def test_what_is_not_a_module_is_refused():
    with pytest.raises(ValueError, match="torch.nn.Module"):
        dmsil.fit(small(), alignment=lambda widths: 3, epochs=1, **SETTINGS)
    with pytest.raises(ValueError, match="two names"):
        PairLoss({"text": 1.0}, infonce)
