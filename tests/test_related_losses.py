"The losses of the wing: what each computes, what a run does with one, and what they can and cannot see."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import dmsil
from dmsil.clips import synthetic_clips
from dmsil.missing import with_missing
from dmsil.related import compare
from dmsil.related.cross_prediction import AugmentedContrast, CrossPrediction, SentimentContrast, predictability
from dmsil.related.losses import PairLoss, Together, barlow_twins, both, cca, cmd, difference, infonce, vicreg
from dmsil.related.relational import Replay, relational
from dmsil.related.similarity import SimilarityAlignment, UncertaintyWeights, inter_alignment, intra_contrast
from dmsil.related.teacher import TeacherAlignment

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


def test_together_adds_up():
    parts = [PairLoss(PAIRS, infonce), PairLoss({("text", "audio"): -1.0}, difference)]
    z = {"text": A, "audio": B, "vision": normal(3, 40, 5)}
    terms = Together(*parts)(z)
    assert terms.total.item() == pytest.approx(sum(part(z).total.item() for part in parts), rel=1e-12)
    expected = 0.2 * infonce(A, B) - difference(A, B)
    assert terms.by_pair["text", "audio"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert Together(*parts).weights == PAIRS | {("text", "audio"): PAIRS["text", "audio"] - 1.0}


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


# ---------------------------------------------------------------- relational alignment and replay


def hand_relational(a, b):
    n, total = len(a), 0.0
    distances = [np.array([[math.dist(x[i], x[j]) for j in range(n)] for i in range(n)]) for x in (a, b)]
    psi = [d / (d.sum() / (n * (n - 1))) for d in distances]
    for i in range(n):
        for j in range(n):
            h = abs(psi[0][i, j] - psi[1][i, j])
            total += h * h / 2 if h < 1 else h - 0.5
    return total / (n * (n - 1))


def test_relational_is_its_formula():
    assert relational(A[:12], WIDE[:12]).item() == pytest.approx(hand_relational(A[:12].numpy(), WIDE[:12].numpy()))
    a, b = A[:7, :3].clone().requires_grad_(), WIDE[:7, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(relational, (a, b))


def test_relational_knows_no_place_rotation_or_scale():
    Q = torch.linalg.qr(normal(5, 5, 5)).Q
    assert relational(A, B).item() == pytest.approx(relational(2 * A @ Q - 3, B).item(), rel=1e-9)
    assert relational(A, B @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1], dtype=torch.float64))) > relational(A, B)


def test_relational_where_clips_are_equal():
    same = torch.zeros(6, 3, requires_grad=True)
    relational(same, normal(4, 6, 2).float()).backward()
    assert same.grad.isfinite().all()


def test_replay_keeps_rows_together():
    memory = Replay(10, seed=3)
    assert memory.draw(4) == {}
    for start in range(0, 90, 30):
        x = torch.arange(start, start + 30.0)
        memory.add(x=x[:, None], y=-x)
    drawn = memory.draw(50)
    assert torch.equal(drawn["x"][:, 0], -drawn["y"]) and memory.seen == 90
    assert len(set(memory.kept["y"].tolist())) == 10
    with pytest.raises(ValueError, match="size of at least 1"):
        Replay(0)


def test_replay_is_fair():
    held = torch.zeros(40)
    for seed in range(600):
        memory = Replay(8, seed)
        memory.add(i=torch.arange(40))
        held[memory.kept["i"]] += 1
    sd = math.sqrt(0.2 * 0.8 / 600)
    assert (held / 600 - 0.2).abs().max() < 4.5 * sd


# ---------------------------------------------------------------- the teacher


def teach(clips, seed=0):
    ids = [*clips.train.ids, *clips.valid.ids]
    return dict(zip(ids, torch.randn(len(ids), 3, generator=torch.Generator().manual_seed(seed)), strict=True))


def test_a_run_with_a_teacher_resumes(tmp_path):
    clips = small()
    make = lambda widths: TeacherAlignment({"text": 0.1, "audio": 0.2}, teach(clips), widths)
    whole = dmsil.fit(clips, alignment=make, epochs=2, **SETTINGS)
    dmsil.fit(clips, out=tmp_path, alignment=make, epochs=1, **SETTINGS)
    parts = dmsil.fit(clips, out=tmp_path, resume=True, alignment=make, epochs=2, **SETTINGS)
    assert whole.metrics == parts.metrics and set(whole.metrics["pairs"]) == {"text~teacher", "audio~teacher"}
    other = lambda widths: TeacherAlignment({"text": 0.1, "audio": 0.2}, teach(clips, 1), widths)
    with pytest.raises(dmsil.DataError, match="alignment module"):
        dmsil.fit(clips, out=tmp_path, resume=True, alignment=other, epochs=3, **SETTINGS)


def test_teacher_takes_each_clips_own_vector():
    table = {f"c{i}": v for i, v in enumerate(normal(6, 40, 3).float())}
    module = TeacherAlignment({"text": 1.0}, table, {"text": 5})
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    ids = list(table)
    straight = module({"text": A.float()}, ids=ids).total.item()
    assert module({"text": A.float()[order]}, ids=[ids[i] for i in order]).total.item() == pytest.approx(straight)
    assert module({"text": A.float()[order]}, ids=ids).total.item() != pytest.approx(straight)
    expected = hand_infonce((A.float() @ module.maps["text"].weight.T).detach().numpy(), module.table.numpy(), 0.1)
    assert straight == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- prediction and contrasts


def test_predictability_is_the_best_linear_predictors():
    from sklearn.linear_model import LinearRegression

    for a, b in ((A, WIDE), (WIDE, A), (A, B)):
        left = b - torch.from_numpy(LinearRegression().fit(a.numpy(), b.numpy()).predict(a.numpy()))
        expected = 1 - (left**2).sum() / ((b - b.mean(0)) ** 2).sum()
        assert predictability(a, b).item() == pytest.approx(expected.item(), rel=1e-9)
    assert predictability(A, WIDE) != pytest.approx(predictability(WIDE, A).item(), rel=0.01)


@pytest.mark.parametrize("hidden", [0, 6])
def test_prediction_moves_the_side_that_predicts(hidden):
    module = CrossPrediction({("text", "audio"): 1.0}, {"text": 5, "audio": 7}, hidden).double()
    a, b = A.clone().requires_grad_(), WIDE.clone().requires_grad_()
    terms = module({"text": a, "audio": b})
    terms.total.backward()
    assert a.grad.abs().max() > 0 and b.grad is None
    private = module.residual(("text", "audio"), A, WIDE)
    assert terms.total.item() == pytest.approx(
        (private.square().sum() / (WIDE - WIDE.mean(0)).square().sum()).item(), rel=1e-9
    )


def test_sentiment_contrast_is_its_formula():
    y, Z = A[:, 0].numpy(), (B / B.norm(dim=1, keepdim=True)).numpy()
    losses = []
    for i in range(40):
        below = sum(math.exp(Z[i] @ Z[k] / 0.2) for k in range(40) if k != i)
        alike = [j for j in range(40) if j != i and abs(y[i] - y[j]) < 0.1]
        if alike:
            losses.append(np.mean([math.log(below) - Z[i] @ Z[j] / 0.2 for j in alike]))
    assert 0 < len(losses) < 40
    module = SentimentContrast({("audio", "audio"): 2.0}, delta=0.1, temperature=0.2)
    assert module({"audio": B}, A[:, 0]).total.item() == pytest.approx(2 * np.mean(losses), rel=1e-9)
    none = SentimentContrast({("audio", "audio"): 2.0}, delta=0.0)({"audio": B.clone().requires_grad_()}, A[:, 0])
    none.total.backward()
    assert none.total.item() == 0


def test_augmentation_only_in_training():
    module = AugmentedContrast({"text": 1.0}, drop=0.5)
    torch.manual_seed(0)
    assert module({"text": A}).total != module({"text": A}).total
    assert module.eval()({"text": A}).total.item() == pytest.approx(infonce(A, A).item())


# ---------------------------------------------------------------- similarities and learned weights


def test_icl_and_ial_are_their_formulas():
    a, b = ((x / x.norm(dim=1, keepdim=True)).numpy() for x in (A, B))
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(40):
            below = np.exp(y @ x[i] / 0.3).sum() + sum(np.exp(x[j] @ x[i] / 0.3) for j in range(40) if j != i)
            total += (np.log(below) - x[i] @ y[i] / 0.3) / 80
    assert intra_contrast(A, B, 0.3).item() == pytest.approx(total, rel=1e-9)
    kl = 0.0
    for i in range(40):
        p, q = (np.delete(np.exp(x @ x[i] / 0.5), i) for x in (b, a))
        p, q = p / p.sum(), q / q.sum()
        kl += (p * np.log(p / q)).sum() / 40
    assert inter_alignment(A, B, 0.5).item() == pytest.approx(kl, rel=1e-9)
    joint = B.clone().requires_grad_()
    inter_alignment(A.clone().requires_grad_(), joint).backward()
    assert joint.grad is None


def test_learned_weights_have_their_closed_form():
    weights = UncertaintyWeights(2)
    losses = torch.tensor([0.2, 3.0])
    with torch.no_grad():
        weights.s.copy_(losses.log())
    terms = weights(losses, torch.ones(2))
    assert torch.allclose(terms, 1 + losses.log())
    terms.sum().backward()
    assert weights.s.grad.abs().max() < 1e-6


def test_weights_of_what_is_absent_stand_still():
    clips = small()
    nobody = torch.zeros(120, dtype=torch.bool)
    nobody[:2] = True  # fewer than a term needs
    lacking = replace(clips, train=replace(clips.train, present={"vision": nobody}))
    made = []

    def make(widths):
        made.append(SimilarityAlignment(PAIRS | {("text", "vision"): 0.1}))
        return made[-1]

    dmsil.fit(lacking, alignment=make, epochs=2, weight_decay=0.0, keep="MAE", **SETTINGS)
    names = [*made[0].weights, *((s, "joint") for s in made[0].names)]
    moved = {pair for pair, s in zip(names, made[0].balance.s.tolist(), strict=True) if s != 0}
    assert moved == {pair for pair in names if "vision" not in pair}


# ---------------------------------------------------------------- what they see


@pytest.mark.parametrize("name", ["barlow", "vicreg", "cmd", "infonce", "difference", "cca", "relational", "icl"])
def test_who_sees_pairing(name):
    loss = {"relational": relational, "icl": intra_contrast}.get(name) or CASES[name][0]
    partner = 0.9 * A + 0.1 * B
    order = torch.roll(torch.arange(40), 7)
    seen = abs(loss(A, partner).item() - loss(A, partner[order]).item())
    assert seen < 1e-12 if name == "cmd" else seen > 1e-3


def test_only_cca_keeps_still_under_maps():
    M = normal(9, 5, 5) + 2 * torch.eye(5, dtype=torch.float64)
    for name, (loss, _) in CASES.items():
        moved = abs(loss(A, B @ M).item() - loss(A, B).item())
        assert moved < 1e-6 if name == "cca" else moved > 1e-3, name


# ---------------------------------------------------------------- comparisons, and the arena

SIMULATED = ("text", "audio", "vision")


def arena_data(kind, seeds, clips=(250, 125, 125)):
    import arena

    return arena.simulated(kind, seeds, clips)


def test_a_stack_of_models_is_as_many_runs():
    "Without dropout, two seeds trained together end where one alone does."

    def trained(seeds):
        models = compare.Models(arena_data("linear", seeds), "InfoNCE", seeds, 0.1)
        for part in models.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        return models.fit(2, 125).read("test")

    (y, z), (y_one, z_one) = trained((0, 1)), trained((1,))
    assert torch.allclose(y["fusion"][1], y_one["fusion"][0], atol=1e-4)
    assert torch.allclose(z["audio"][1], z_one["audio"][0], atol=1e-4)
    assert not torch.allclose(y["fusion"][0], y["fusion"][1], atol=0.1)


def test_every_mechanism_has_a_gradient_in_a_stack():
    data = arena_data("linear", (0, 1), (125, 8, 8))
    for name in compare.MECHANISMS:
        models = compare.Models(data, name, (0, 1), 1.0)
        x, shown = data["train"], {s: torch.ones(125, dtype=torch.bool) for s in SIMULATED}
        _, z = models.predictions(x, shown)
        aligned = models.aligned(z, x)
        assert aligned.shape == (2,) and aligned.isfinite().all(), name
        assert torch.autograd.grad(aligned.sum(), z["audio"])[0].abs().max() > 0, name


@pytest.mark.parametrize("kind", ["nonlinear", "linear", "mosi", "mmmo", "interview"])
def test_the_results_are_the_tools(kind):
    "Its settings, ten reported seeds in each cell, every mechanism at every weight."
    import json

    import arena

    found = compare.Comparison(**json.loads((arena.RESULTS / f"arena_{kind}.json").read_text(encoding="utf-8")))
    epochs, batch = arena.LENGTH.get(kind, tuple(arena.SIMULATED.values()))
    about = {"epochs": epochs, "batch_size": batch, "seeds": list(arena.REPORTED), "choosing": list(arena.CHOOSING)}
    assert {name: found.about[name] for name in about} == about
    for cell in found.cells:
        assert {row["seed"] for row in cell["seeds"] if "MAE" in row} == set(arena.REPORTED)
        assert {row["seed"] for row in cell["seeds"]} == {*arena.REPORTED, *arena.CHOOSING}
    mechanisms = set(compare.MECHANISMS) - (set() if kind in ("nonlinear", "linear") else {"teacher"})
    assert found.tried() == {"none": [0.0]} | dict.fromkeys(mechanisms, [0.03, 0.3, 3.0])
    assert set(found.cost) == {"none", *mechanisms}


FEW = {"mechanisms": ("CCA", "kappa"), "weights": (0.3, 3.0), "seeds": (0, 1, 2), "choosing": (100, 101), "epochs": 2, "progress": False}  # fmt: skip


def test_a_comparison_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    "Stopped after two cells, then finished: the same file as without a stop; other settings are refused."
    clips, out, stopped = (
        synthetic_clips(n=(200, 80, 90), seed=2),
        tmp_path / "made" / "whole.json",
        tmp_path / "part.json",
    )
    whole = compare.compare(clips, out=out, **FEW)
    written, count = compare.write_json, []

    def twice(path, made):
        written(path, made)
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(compare, "write_json", twice)
    with pytest.raises(KeyboardInterrupt):
        compare.compare(clips, out=stopped, **FEW)
    monkeypatch.undo()
    again = compare.compare(clips, out=stopped, **FEW)
    without_time = lambda found: [{k: v for k, v in cell.items() if k != "cpu_seconds"} for cell in found.cells]
    assert without_time(again) == without_time(whole) and again.before == whole.before and len(whole.cells) == 5
    with pytest.raises(compare.DataError, match="epochs was 2, now 3"):
        compare.compare(clips, out=stopped, **FEW | {"epochs": 3})
    with pytest.raises(compare.DataError, match="labels was"):
        compare.compare(synthetic_clips(n=(200, 80, 90), seed=3), out=stopped, **FEW)


def test_a_comparison_counts_by_hand():
    "Weights are chosen by the seeds that choose, differences are paired, Holm counts the mechanisms."
    rows = lambda valid, mae: [
        {"seed": s, "valid_MAE": v} | ({} if s > 99 else {"MAE": m, "pairs": {}})
        for s, v, m in zip((0, 1, 2, 100), valid, (*mae, 0), strict=True)
    ]
    cells = [
        {"mechanism": "none", "weight": 0.0, "seeds": rows((9, 9, 9, 0.5), (1.0, 2.0, 3.0))},
        {"mechanism": "a", "weight": 0.3, "seeds": rows((0, 0, 0, 0.6), (9.0, 9.0, 9.0))},
        {"mechanism": "a", "weight": 3.0, "seeds": rows((9, 9, 9, 0.4), (0.9, 1.91, 2.88))},
        {"mechanism": "b", "weight": 0.3, "seeds": rows((9, 9, 9, 0.4), (1.5, 1.5, 3.5))},
    ]
    about = {"name": "made", "modalities": ["x", "y"], "seeds": [0, 1, 2], "choosing": [100]}
    found = compare.Comparison(about, [], {}, cells)
    assert found.chosen() == {"none": 0.0, "a": 3.0, "b": 0.3} and found.pairs == ["x~y"]
    by_hand = stats.ttest_rel((0.9, 1.91, 2.88), (1.0, 2.0, 3.0)).pvalue
    against = found.against_none()
    assert against["a"]["mean"] == pytest.approx(-0.31 / 3) and against["a"]["p"] == pytest.approx(by_hand)
    assert against["a"]["holm"] == pytest.approx(2 * by_hand)
    assert "| a | 3 | 1.897" in found.table() and "-0.103 ± 0.038 *" in found.table() and "nats" not in found.table()


def test_clips_without_a_modality_are_left_out():
    clips = with_missing(synthetic_clips(n=(300, 120, 130), seed=4), 0.2, seed=1)
    data = compare.stacked(clips, (0, 1))
    whole = [int(torch.stack(list(split.present.values())).all(0).sum()) for split in clips.splits.values()]
    assert [x["y"].shape[1] for x in data.values()] == whole and whole[0] < 300
    assert all(x.isfinite().all() for part in data.values() for x in part.values())


def test_a_shell_compares(tmp_path, capsys):
    from dmsil.cli import main

    out = tmp_path / "new" / "compare.json"
    words = f"compare --mechanisms CCA --weights 0.3 --seeds 0 1 --epochs 1 --out {out}".split()
    main(words)
    said = capsys.readouterr().out
    assert "| CCA | 0.3 |" in said and "text~audio" in said and out.exists()
    with pytest.raises(SystemExit) as end:
        main([*words[:-2], "--mechanisms", "coral", "--out", str(out)])
    assert end.value.code == 2 and "coral is not one of" in capsys.readouterr().err
