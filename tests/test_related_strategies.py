"Strategies, bounds, relatedness and ratings of the related systems, against independent restatements."

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmsil.clips import DataError, Split, Steps, synthetic_clips
from dmsil.missing import with_missing
from dmsil.related.alternating import Alternating, Joint, Projection, combined, train, unimodal
from dmsil.related.bounds import attained, forecast, synergy_range, together
from dmsil.related.relating import RelatedPairs, auc, contrast, partners, relatedness
from dmsil.related.slices import (
    agreement,
    bradley_terry,
    duels,
    elo,
    gaussian_pointwise,
    knowledge,
    rating_intervals,
    slices,
)
from dmsil.related.unseen import SumSpace, pseudo_labels


def made(n=60, seed=0):
    clips = synthetic_clips(n=(n, 10, 20), seed=seed)
    return clips, {s: x.values.shape[1] for s, x in clips.train.inputs.items()}


# ---------------------------------------------------------------- alternating


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_projection_is_the_inverse_of_a_ridge(rows):
    rng = np.random.default_rng(rows)
    R, P = rng.normal(size=(21, 5)), Projection(5, alpha=0.3).double()
    for part in np.split(R, range(rows, 21, rows)):
        P.meet(torch.tensor(part))
    by_hand = np.linalg.inv(np.eye(5) + R.T @ R / 0.3)
    assert np.allclose(P.P.numpy(), by_hand, atol=1e-10)
    G = rng.normal(size=(2, 5))
    assert np.allclose(P(torch.tensor(G)).numpy(), G @ by_hand)


def test_projection_refuses_alpha_0():
    with pytest.raises(ValueError, match="alpha needs to be above 0"):
        Projection(3, alpha=0)


def test_step_on_one_modality_leaves_the_others_encoders():
    clips, widths = made()
    torch.manual_seed(0)
    model = Alternating(widths, protect="means")
    before = {name: p.clone() for name, p in model.named_parameters()}
    only = replace(clips.train, present={s: torch.zeros(60, dtype=torch.bool) for s in ("audio", "vision")})
    losses = model.step(only)
    assert set(losses) == {"text"}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == ("audio" in name or "vision" in name), name


def test_head_moves_by_the_projected_gradient():
    clips, widths = made()
    torch.manual_seed(0)
    model = Alternating({"text": widths["text"]}, protect="clips", lr=(0.0, 0.1))
    clips = clips.only("text")
    h = model.feature("text", clips.train).detach().numpy()
    model.projection.meet(torch.tensor(h[:5]))
    W, P, y = model.head.weight.detach().numpy().copy(), model.projection.P.numpy().copy(), clips.train.labels.numpy()
    mu, log_v = h @ W.T[:, 0], h @ W.T[:, 1]
    delta = np.stack([(mu - y) * np.exp(-log_v), (1 - (y - mu) ** 2 * np.exp(-log_v)) / 2], 1) / len(y)
    G = delta.T @ h @ P
    G *= min(1, 5 / np.linalg.norm(G))
    model.step(clips.train)
    assert np.allclose(model.head.weight.detach().numpy(), W - 0.1 * G, atol=1e-5)


def test_combined_is_bayes_rule_of_independent_experts():
    rng = np.random.default_rng(0)
    t, x = rng.uniform(0.2, 3, 3), rng.normal(size=(3, 6))  # x_s = y + noise of variance t_s, y ~ N(0.5, 2)
    v = 1 / (1 / 2 + 1 / t)
    mu = v[:, None] * (0.5 / 2 + x / t[:, None])
    exact = (0.5 / 2 + (x / t[:, None]).sum(0)) / (1 / 2 + (1 / t).sum())
    v = np.repeat(v[:, None], 6, 1)
    found = combined(torch.tensor(mu), torch.tensor(v), "experts", (0.5, 2.0)).numpy()
    assert np.allclose(found, exact)
    for how, power in (("entropy", -0.5), ("precision", -1)):
        weight = v**power
        found = combined(torch.tensor(mu), torch.tensor(v), how).numpy()
        assert np.allclose(found, (weight * mu).sum(0) / weight.sum(0))


def test_projection_stays_positive_in_float32():
    g = torch.Generator().manual_seed(0)
    projection, x = Projection(17), torch.randn(4000, 3, generator=g)
    mix = torch.randn(3, 16, generator=g)
    R = torch.cat([4 * x @ mix + 0.01 * torch.randn(4000, 16, generator=g), torch.ones(4000, 1)], 1)
    for rows in R.split(100):
        projection.meet(rows)
    assert torch.linalg.eigvalsh(projection.P).min() > 0
    assert projection(R[:5]).dtype == torch.float32 and projection(R).norm() < 0.01 * R.norm()


def test_what_is_missing_has_no_say():
    mu, v = torch.tensor([[1.0, 1.0], [5.0, 5.0]]), torch.tensor([[0.5, math.inf], [math.inf, math.inf]])
    for how in ("entropy", "precision", "experts"):
        assert torch.allclose(combined(mu, v, how, (0.25, 1.0)), torch.tensor([1.0, 0.25])), how
    with pytest.raises(ValueError, match="entropy, precision or experts"):
        combined(mu, v, "mean")


def test_a_clip_does_not_depend_on_its_batch():
    clips, widths = made()
    model = Alternating(widths)
    train(model, clips.train, epochs=2)
    whole, alone = model.predict(clips.test, "entropy"), model.predict(clips.test.take(torch.tensor([3])), "entropy")
    assert torch.allclose(whole[3:4], alone, atol=1e-5)


@pytest.mark.parametrize("kind", [Alternating, Joint, SumSpace])
def test_training_lowers_the_loss_and_repeats(kind):
    clips, widths = made(200)
    paths = []
    for _ in range(2):
        torch.manual_seed(1)
        paths.append(train(kind(widths), clips.train, epochs=6, batch_size=50))
    assert paths[0] == paths[1]
    for name in paths[0][0]:
        assert paths[0][-1][name] < paths[0][0][name]


def test_strategies_take_vectors():
    clips, widths = made()
    steps = Split(clips.train.ids, {"text": Steps(torch.zeros(60, 2, 3), torch.full((60,), 2))}, clips.train.labels)
    with pytest.raises(DataError, match="expected vectors"):
        train(Alternating(widths), steps)


# ---------------------------------------------------------------- an unseen pair


@pytest.mark.parametrize("spread", [True, False])
def test_sum_space_restated(spread):
    clips, widths = made()
    torch.manual_seed(0)
    model = SumSpace(widths, grid=(4, 4, 3), spread=spread)
    gone = torch.arange(60) % 2 == 0
    split = replace(clips.train, present={"audio": ~gone})
    total = np.zeros((60, 12))
    for s, x in split.inputs.items():
        h = model.encoders[s](x.values).detach().numpy()
        for i in range(60):
            if s == "audio" and gone[i]:
                continue
            if not spread:
                total[i] += h[i]
                continue
            for token in h[i].reshape(4, 7):
                place = np.exp(token[3:]) / np.exp(token[3:]).sum()
                total[i] += np.outer(place, token[:3]).ravel()
    assert np.allclose(model(split).detach().numpy(), total, atol=1e-5)


def test_pseudo_labels_are_means_over_what_is_there():
    clips, widths = made()
    experts = {s: SumSpace({s: width}) for s, width in widths.items()}
    split = replace(clips.train, present={"text": torch.arange(60) < 30})
    said = {s: experts[s].predict(clips.only(s).train) for s in widths}
    found = pseudo_labels(experts, split)
    assert torch.allclose(found[:30], sum(said.values())[:30] / 3, atol=1e-6)
    assert torch.allclose(found[30:], (said["audio"] + said["vision"])[30:] / 2, atol=1e-6)


def test_named_losses_and_prototypes():
    clips, widths = made()
    experts, edges = {s: SumSpace({s: w}) for s, w in widths.items()}, torch.tensor([-0.5, 0.5])
    model = SumSpace(widths, prototypes=1.0, edges=edges, pseudo=1.0, experts=experts)
    losses, z, y = model.losses(clips.train), model(clips.train), clips.train.labels
    assert set(losses) == {"label", "prototypes", "pseudo"}
    bins = np.digitize(y.numpy(), edges.numpy(), right=True)
    own = model.centres.detach().numpy()[bins]
    assert np.isclose(losses["prototypes"].item(), ((z.detach().numpy() - own) ** 2).mean(), atol=1e-5)


def test_experts_move_along_and_are_not_trained():
    clips, widths = made()
    experts = {s: SumSpace({s: w}) for s, w in widths.items()}
    model = SumSpace(widths, pseudo=1.0, experts=experts)
    before = {name: p.clone() for name, p in model.experts.named_parameters()}
    train(model, clips.train, epochs=2)
    assert before and all(torch.equal(p, before[name]) for name, p in model.experts.named_parameters())
    assert {p.dtype for p in model.double().experts.parameters()} == {torch.float64}
    with pytest.raises(ValueError, match="pseudo=0.5 needs experts"):
        SumSpace(widths, pseudo=0.5)


def test_a_missing_row_may_be_nan():
    clips, widths = made()
    experts = {s: SumSpace({s: w}) for s, w in widths.items()}
    model = SumSpace(widths, pseudo=1.0, experts=experts)
    here = torch.arange(60) < 30
    broken = clips.train.inputs["text"].values.clone()
    broken[30:] = math.nan
    split = replace(clips.train, present={"text": here})
    worse = replace(split, inputs={**split.inputs, "text": replace(split.inputs["text"], values=broken)})
    assert torch.equal(model(worse), model(split))
    assert torch.equal(pseudo_labels(experts, worse), pseudo_labels(experts, split))


# ---------------------------------------------------------------- bounds


def table(seed, *shape):
    p = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double).pow(2)
    return p / p.sum()


def test_attained_has_the_same_marginals():
    p = table(0, 3, 3, 2)
    q = attained(p, 3)
    for axis in range(3):
        assert torch.allclose(q.sum(axis), p.sum(axis), atol=1e-7)
    assert together(q) >= together(p) - 1e-9


def test_synergy_of_exclusive_or_is_anything():
    p = torch.zeros(2, 2, 2, dtype=torch.double)
    for i in (0, 1):
        for j in (0, 1):
            p[i, j, i ^ j] = 0.25
    found = synergy_range(p, 4)
    assert abs(found.least) < 1e-4 and abs(found.reached - math.log(2)) < 1e-3 and found.most > found.reached - 1e-6


def test_forecast_is_the_gaussian_formula():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    S = A @ A.T + np.eye(5)  # two columns, two columns, label
    L = np.linalg.cholesky(S)
    draw = lambda: torch.tensor(rng.normal(size=(100_000, 5)) @ L.T)
    a, b, u = draw(), draw(), draw()
    found = forecast((a[:, :2], a[:, 4]), (b[:, 2:4], b[:, 4]), (u[:, :2], u[:, 2:4]), ridge=0)
    left = lambda k: S[4, 4] - S[4, k] @ np.linalg.solve(S[np.ix_(k, k)], S[k, 4])
    nats = lambda k: math.log(S[4, 4] / left(k)) / 2
    assert np.allclose(found[:3], [nats([0, 1]), nats([2, 3]), nats([0, 1, 2, 3])], atol=0.05)
    assert np.isclose(found.gain, found.together - found.alone)
    assert np.allclose(found.error, [math.sqrt(2 / math.pi * left(k)) for k in ([0, 1], [0, 1, 2, 3])], atol=0.05)


def test_forecast_refuses_what_does_not_fit_and_knows_when_it_fails():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randn(40, generator=g)
    with pytest.raises(ValueError, match="as many clips and columns"):
        forecast((x, y), (x, y), (x, x[:, :2]))
    with pytest.raises(ValueError, match="as many clips and columns"):
        forecast((x, y[:39]), (x, y), (x, x))
    failed = forecast((x, x[:, 0]), (x, y), (x / 4, x))
    assert math.isnan(failed.alone) and math.isnan(failed.gain) and math.isnan(failed.error[0])


def test_forecast_subtracts_the_noise_of_few_clips():
    g = torch.Generator().manual_seed(0)
    draws = [torch.randn(200, 9, generator=g) for _ in range(90)]  # nothing knows anything
    found = [forecast((a[:, :4], a[:, 8]), (b[:, 4:8], b[:, 8]), (u[:, :4], u[:, 4:8])).alone
             for a, b, u in zip(draws[::3], draws[1::3], draws[2::3], strict=True)]  # fmt: skip
    assert sum(found) / len(found) < 4 / 200 / 2  # less than half of what is not subtracted would be


# ---------------------------------------------------------------- relating


def related(n=300, seed=0, r=0.9):
    g = torch.Generator().manual_seed(seed)
    u, e, f = torch.randn(3, n, 3, generator=g, dtype=torch.double)
    return u + 0.1 * f, r * u + math.sqrt(1 - r * r) * e


def test_scores_are_log_density_ratios():
    from scipy.stats import multivariate_normal as normal

    a, b = related()
    model = RelatedPairs(a, b, shrink=0.2)
    both = torch.cat([a, b], 1).numpy()
    x = both - both.mean(0)
    C = x.T @ x / len(x)
    C = 0.8 * C + 0.2 * np.trace(C) / 6 * np.eye(6)
    joint = normal(both.mean(0), C)
    one, two = normal(both.mean(0)[:3], C[:3, :3]), normal(both.mean(0)[3:], C[3:, 3:])
    scores = model(a[:4], b[:5]).detach().numpy()
    for i in range(4):
        for j in range(5):
            pair = np.concatenate([a[i].numpy(), b[j].numpy()])
            assert np.isclose(scores[i, j], joint.logpdf(pair) - one.logpdf(pair[:3]) - two.logpdf(pair[3:]), atol=1e-6)


def test_relatedness_restated_and_bounded():
    scores = 10 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    s = scores.numpy()
    by_hand = [s[i, i] - (math.log(np.exp(s[i]).mean()) + math.log(np.exp(s[:, i]).mean())) / 2 for i in range(12)]
    found = relatedness(scores)
    assert np.allclose(found.numpy(), by_hand) and found.max() <= math.log(12) + 1e-12


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40) + 1.0, rng.integers(0, 6, 60) + 0.0
    by_library = roc_auc_score(np.r_[np.ones(40), np.zeros(60)], np.r_[x, y])
    assert np.isclose(auc(torch.tensor(x), torch.tensor(y)), by_library)


def test_partners_are_found_and_never_shared():
    a, b = related(40, r=0.9999)
    model = RelatedPairs(*related(500, seed=1, r=0.9999))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = partners(model, a, b[order])
    assert len(set(found.tolist())) == 40 and (order[found] == torch.arange(40)).double().mean() > 0.8
    with pytest.raises(ValueError, match="a partner of its own"):
        partners(model, a, b[:10])


def test_contrast_lowers_its_loss():
    a, b = related(80)
    losses = contrast(RelatedPairs(a, b), a, b, steps=20)
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------- slices and ratings


def test_agreement():
    y = {"text": [1.0, 1.0, 0.0, -1.0], "audio": [0.5, -0.5, 1.0, -1.0]}
    found = agreement({s: torch.tensor(x) for s, x in y.items()})
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "agree": [True, False, False, True],
        "partly neutral": [False, False, True, False],
        "conflict": [False, True, False, False],
    }


def test_slices_are_the_metrics_of_their_clips():
    from dmsil.metrics import sentiment_metrics

    y, pred = torch.linspace(-2, 2, 9), torch.linspace(-2, 2, 9) + 0.3
    mask = y > 0
    found = slices({"m": pred}, y, {"positive": mask, "one": torch.arange(9) == 0})
    assert set(found) == {"m, all", "m, positive"}
    assert found["m, positive"] == {"clips": 4, **sentiment_metrics(pred[mask], y[mask])}
    with pytest.raises(ValueError, match="8 tags for 9 clips"):
        slices({"m": pred}, y, {"short": mask[:8]})


def test_pointwise_is_a_log_ratio_and_terms_add_up():
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    y, mu = rng.normal(0.3, 1.2, 20), rng.normal(size=20)
    found = gaussian_pointwise(torch.tensor(y), torch.tensor(mu), 0.7, (0.3, 1.44))
    assert np.allclose(found.numpy(), norm(mu, math.sqrt(0.7)).logpdf(y) - norm(0.3, 1.2).logpdf(y))
    first, second, both = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    terms, masks = knowledge(first, second, both)
    assert torch.allclose(sum(terms.values()), both, atol=1e-6)
    assert (sum(mask.int() for mask in masks.values()) == 1).all() and torch.equal(masks["unknown"], both <= 0)


def test_duels_and_elo_by_hand():
    scores = {"a": {1: 0.1, 2: 0.5}, "b": {1: 0.2, 2: 0.5}, "c": {3: 0.0, 1: 0.3}}
    fought = duels(scores)
    assert fought == [("a", "b", 1, 1.0), ("a", "b", 2, 0.5), ("a", "c", 1, 1.0), ("b", "c", 1, 1.0)]
    R = {"a": 1000.0, "b": 1000.0}
    for won in (1.0, 1.0, 1.0):
        move = 4 * (won - 1 / (1 + 10 ** ((R["b"] - R["a"]) / 400)))
        R = {"a": R["a"] + move, "b": R["b"] - move}
    found = elo([("a", "b", k, 1.0) for k in range(3)], shuffles=5)
    assert np.allclose([found["a"], found["b"]], [R["a"], R["b"]])


def test_bradley_terry_of_two_and_of_one_that_always_wins():
    two = bradley_terry([("a", "b", k, float(k < 3)) for k in range(4)], draws=0)
    assert np.isclose(two["a"] - two["b"], 400 * math.log10(3), atol=1e-4)
    always = bradley_terry([("a", "b", k, 1.0) for k in range(4)])
    assert math.isfinite(always["a"]) and always["a"] > always["b"]


def test_intervals_keep_the_duels_of_a_ground_together():
    scores = {"a": {k: 0.0 for k in range(6)}, "b": {k: (-1.0) ** k for k in range(6)}, "c": {k: 2.0 for k in range(6)}}
    seen = []
    rating_intervals(duels(scores), lambda fought: seen.append(fought) or {"a": 0.0}, times=5)
    for fought in seen[1:]:
        assert len(fought) == 18
        counts = {where: sum(d[2] == where for d in fought) for *_, where, _ in fought}
        assert all(count % 3 == 0 for count in counts.values())


# ---------------------------------------------------------------- results/strategies.json

FOUND = json.loads((Path(__file__).resolve().parents[1] / "results" / "strategies.json").read_text(encoding="utf-8"))


def test_the_tool_makes_the_numbers():
    import strategies

    stored = next(
        r for r in FOUND["alternating"] if (r["world"], r["arm"], r["seed"]) == ("own parts", "alternating", 1)
    )
    again = strategies.alternating_run("own parts", "alternating", 1)
    for name, mae in stored["MAE"].items():
        assert abs(again["MAE"][name] - mae) < 0.03, name


def test_planned_gain_is_the_regression_on_two_columns():
    import strategies

    rng = np.random.default_rng(0)
    F = rng.normal(size=(500, 2)) @ [[1, 0.4], [0, 1]]
    y = F @ [0.5, 0.4] + rng.normal(size=500)
    left = lambda X: (y - y.mean() - X @ np.linalg.lstsq(X, y - y.mean(), rcond=None)[0]).var()
    X = F - F.mean(0)
    column = lambda x: torch.tensor(x)[:, None]
    found = strategies.planned(column(F[:, 0]), column(F[:, 1]), column(y))
    assert np.isclose(found.item(), math.log(left(X[:, :1]) / left(X)) / 2)


def test_the_page_of_slices_says_what_was_found():
    gain = FOUND["slices"]["gain of all over the best one, MAE"]
    text = (Path(__file__).resolve().parents[1] / "nbs" / "related" / "10_slices.ipynb").read_text(encoding="utf-8")
    numbers = lambda part: [-gain[part]["difference"], *(-x for x in reversed(gain[part]["interval"]))]
    shown = lambda x: f"{x:.3f}".replace("0.", ".").replace("-", "−")
    for part in ("agree", "conflict"):
        mean, low, high = map(shown, numbers(part))
        assert f"by {mean} [{low}, {high}]" in text
    assert f"{FOUND['slices']['table']['all, conflict']['clips']} clips on which they conflict" in text


def test_clips_that_lack_a_modality_have_no_certainty_from_it():
    clips = with_missing(synthetic_clips(n=(60, 10, 10), seed=3), 0.3).train
    model = Alternating({s: x.values.shape[1] for s, x in clips.inputs.items()})
    mu, v = unimodal(model, clips)
    there = torch.stack([clips.present[s] for s in clips.inputs])
    assert torch.equal(v.isinf(), ~there) and mu.isfinite().all()
    assert model.predict(clips).isfinite().all()
