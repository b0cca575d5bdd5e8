"The signed module: terms, bounds, projections, checkpoints, and what it refuses."

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dmsil.alignment import AlignmentTerms, ModalAlignment
from dmsil.covariance import coral, corr_coral, gaussian, kappa, rho2, whiteness

TA, TV, AV = ("text", "audio"), ("text", "vision"), ("audio", "vision")
SIGNED, ALL = ["kappa", "rho2", "gaussian", "corr"], ["kappa", "rho2", "gaussian", "corr", "coral"]


def batch(n=16, seed=0, dtype=torch.float32, **widths):
    g, made = torch.Generator().manual_seed(seed), {}
    cause = torch.randn(n, 4, generator=g)
    for name, d in (widths or {"text": 8, "audio": 8, "vision": 8}).items():
        D = torch.randn(n, d, generator=g)
        D[:, : min(4, d)] += cause[:, :d]
        made[name] = D.to(dtype)
    return made


@pytest.mark.parametrize("measure", ALL)
def test_terms_are_the_formula(measure):
    h, weights = batch(), {TA: 0.4, TV: 0.2, AV: 0.0}
    if measure != "coral":
        weights[TV] = -0.2
    terms = ModalAlignment(weights, measure=measure, whitening=0.05, epsilon=0.2)(h)
    most = 8 / 2 * math.log(1 / 0.2)
    expected = {
        "kappa": lambda a, b: (kappa(a, b), 1 - kappa(a, b)),
        "rho2": lambda a, b: (rho2(a, b, 0.2), 1 - rho2(a, b, 0.2)),
        "gaussian": lambda a, b: (gaussian(a, b, 0.2), 1 - gaussian(a, b, 0.2) / most),
        "corr": lambda a, b: (corr_coral(a, b),) * 2,
        "coral": lambda a, b: (coral(a, b),) * 2,
    }[measure]
    assert isinstance(terms, AlignmentTerms) and list(terms.by_pair) == list(terms.measures) == list(weights)
    for pair, weight in weights.items():
        value, pulled = expected(*(h[name] for name in pair))
        torch.testing.assert_close(terms.measures[pair], value)
        torch.testing.assert_close(terms.by_pair[pair], weight * pulled)
    white = 0.05 * sum(whiteness(D) for D in h.values())
    torch.testing.assert_close(terms.whitening, white)
    torch.testing.assert_close(terms.total, sum(terms.by_pair.values()) + white)


@st.composite
def cases(draw):
    "Signed weights over three modalities of any width, rank and scale, and a measure."
    g, n = torch.Generator().manual_seed(draw(st.integers(0, 2**31))), draw(st.integers(4, 12))
    equal, measure = draw(st.integers(1, 9)), draw(st.sampled_from(SIGNED))
    h = {}
    for name in ("text", "audio", "vision"):
        d = equal if measure == "corr" else draw(st.integers(1, 9))
        rank = draw(st.integers(0, min(n, d)))
        h[name] = (
            torch.randn(n, rank, generator=g) @ torch.randn(rank, d, generator=g) * 10.0 ** draw(st.integers(-6, 6))
        )
    if draw(st.booleans()):
        h["audio"] = -2 * h["text"]
    sign = st.floats(-2, 2, allow_nan=False)
    return h, {pair: draw(sign) for pair in (TA, TV, AV) if draw(st.booleans())}, measure


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_signed_module_is_bounded(case):
    "P32: over signs, scales and ranks the pair terms stay in the stated interval, and everything is finite."
    h, weights, measure = case
    h = {name: D.requires_grad_() for name, D in h.items()}
    align = ModalAlignment(weights, measure=measure, whitening=1e-3)
    terms, (low, high) = align(h), align.interval()
    reach = {"kappa": 2, "rho2": 1, "gaussian": 1, "corr": 0.5}[measure]
    assert low == pytest.approx(sum(min(0, reach * weight) for weight in weights.values()))
    assert high == pytest.approx(sum(max(0, reach * weight) for weight in weights.values()))
    assert low - 1e-5 <= sum(term.item() for term in terms.by_pair.values()) <= high + 1e-5
    assert terms.whitening >= 0 and terms.total.isfinite()
    if weights:
        terms.total.backward()
        named = {name for pair in weights for name in pair}
        for name, D in h.items():
            assert (D.grad is None) == (name not in named) and (D.grad is None or D.grad.isfinite().all())


@settings(max_examples=40, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_symmetric_and_invariant(case, random):
    "The order within a pair, the order of the clips, and where the origin lies make no difference."
    h, weights, measure = case
    P = list(range(len(h["text"])))
    random.shuffle(P)
    total = ModalAlignment(weights, measure=measure, whitening=0)({name: D.double() for name, D in h.items()}).total
    swapped = ModalAlignment({pair[::-1]: weight for pair, weight in weights.items()}, measure=measure, whitening=0)
    moved = {name: D.double()[P] + D.double().abs().amax() for name, D in h.items()}
    assert swapped(moved).total.item() == pytest.approx(total.item(), abs=1e-5)


@pytest.mark.parametrize("measure", SIGNED)
def test_an_optimised_sign_does_what_it_says(measure):
    "Encoders, new batches at every step: more in common with +, less with −, read on clips never seen."

    def clips(n):
        cause = torch.randn(n, 3)
        return [torch.cat([cause + 0.4 * torch.randn(n, 3), torch.randn(n, 3)], 1) for _ in range(2)]

    torch.manual_seed(0)
    unseen, read = clips(2000), {}
    for weight in (-1.0, 1.0):
        torch.manual_seed(1)
        encoders = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        align = ModalAlignment({TA: weight}, measure=measure)
        optimiser = torch.optim.Adam(encoders.parameters(), lr=0.02)
        for _ in range(150):
            optimiser.zero_grad()
            align({name: encoder(x) for name, encoder, x in zip(TA, encoders, clips(64), strict=True)}).total.backward()
            optimiser.step()
        with torch.no_grad():
            features = [encoder(x) for encoder, x in zip(encoders, unseen, strict=True)]
        read[weight] = gaussian(*features, epsilon=1e-3).item() if measure != "corr" else -corr_coral(*features).item()
    assert read[1.0] > read[-1.0] + (0.5 if measure != "corr" else 0.01)
    if measure != "corr":
        assert read[-1.0] < 0.05


def test_an_absent_pair_is_free():
    h = {name: D.requires_grad_() for name, D in batch().items()}
    align = ModalAlignment({TA: 0.3, TV: -0.3})
    both = torch.autograd.grad(align(h).total, h["audio"])[0]
    other = torch.autograd.grad(align(h | {"vision": torch.randn(16, 8)}).total, h["audio"])[0]
    assert torch.equal(both, other) and both.abs().sum() > 0


def test_features_nobody_named_are_ignored():
    h = batch()
    plain = ModalAlignment({TA: 0.3})(h).total
    assert (
        ModalAlignment({TA: 0.3})(h | {"fusion": "not even a tensor", "vision": torch.full((16, 8), math.nan)}).total
        == plain
    )


def test_no_pairs_no_terms():
    terms = ModalAlignment({})(batch())
    assert terms.total == 0 and terms.by_pair == {} and terms.measures == {} and terms.whitening == 0
    loss = torch.ones((), requires_grad=True) + terms.total
    loss.backward()


def test_no_whitening():
    terms = ModalAlignment({TA: 0.3}, whitening=0)(batch())
    assert terms.whitening == 0 and terms.total == terms.by_pair[TA]


# --- projections ---


@pytest.mark.parametrize("measure", ["coral", "corr"])
def test_the_wider_side_is_projected(measure):
    h = batch(text=12, audio=5, vision=12)
    align = ModalAlignment(
        {TA: 0.3, AV: 0.3, TV: 0.3}, measure=measure, dims={"text": 12, "audio": 5, "vision": 12, "fusion": 99}
    )
    W = {name.split(".")[1]: p for name, p in align.named_parameters()}
    assert {name: tuple(p.shape) for name, p in W.items()} == {"text~audio": (5, 12), "audio~vision": (5, 12)}
    torch.testing.assert_close(W["text~audio"] @ W["text~audio"].T, torch.eye(5))
    function, terms = {"coral": coral, "corr": corr_coral}[measure], align(h)
    torch.testing.assert_close(terms.measures[TA], function(h["text"] @ W["text~audio"].T, h["audio"]))
    torch.testing.assert_close(terms.measures[AV], function(h["audio"], h["vision"] @ W["audio~vision"].T))
    torch.testing.assert_close(terms.measures[TV], function(h["text"], h["vision"]))
    terms.total.backward()
    assert all(p.grad.abs().sum() > 0 for p in W.values())


def test_the_projection_is_made_once():
    align = ModalAlignment({TA: 0.3}, measure="coral")
    assert not list(align.parameters())
    h = batch(text=12, audio=5)
    first = align(h).total
    assert align(h).total == first and len(list(align.parameters())) == 1
    with pytest.raises(ValueError, match="widths 12 and 5, got 5 and 9"):
        align(batch(text=5, audio=9))


@pytest.mark.parametrize("measure", ["kappa", "rho2", "gaussian"])
def test_similarities_need_no_projection(measure):
    align = ModalAlignment({TA: -0.3}, measure=measure, dims={"text": 12, "audio": 5})
    assert align(batch(text=12, audio=5)).total.isfinite() and not list(align.parameters())


def test_checkpoint_round_trip(tmp_path):
    h, pairs = batch(text=12, audio=5, vision=7), {("text", "audio"): 0.3, ("text", "vision"): 0.1}

    class Model(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.align = ModalAlignment(pairs, measure="coral", **options)

    trained = Model()
    trained.align(h)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(state) == {"align.projections.text~audio.weight", "align.projections.text~vision.weight"}
    for model in (Model(), Model(dims={"text": 12, "audio": 5, "vision": 7})):
        assert model.load_state_dict(state).missing_keys == []
        assert model.align(h).total == trained.align(h).total
    for twin in (copy.deepcopy(trained.align), pickle.loads(pickle.dumps(trained.align))):
        assert twin(h).total == trained.align(h).total
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ModalAlignment({("text", "audio"): 0.3}, measure="coral").load_state_dict(trained.align.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        ModalAlignment(pairs, measure="coral", dims={"text": 9, "audio": 5}).load_state_dict(trained.align.state_dict())


def test_names_with_dots():
    align = ModalAlignment({("open.face", "bert-2.0"): 0.3}, measure="coral")
    h = batch(**{"open.face": 9, "bert-2.0": 4})
    again = ModalAlignment({("open.face", "bert-2.0"): 0.3}, measure="coral")
    total = align(h).total
    again.load_state_dict(align.state_dict())
    assert again(h).total == total


def test_projection_in_mixed_formats():
    "Half-precision features and autocast: the projection is done in float32, float64 features stay float64."
    align, h = ModalAlignment({TA: 0.3}, measure="coral", dims={"text": 12, "audio": 5}), batch(text=12, audio=5)
    half = {name: D.bfloat16().requires_grad_() for name, D in h.items()}
    plain = align({name: D.float() for name, D in half.items()}).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = align(half).total
    assert inside.dtype == torch.float32 and inside == plain
    inside.backward()
    assert (
        half["text"].grad.dtype == torch.bfloat16 and align.projections["text~audio"].weight.grad.dtype == torch.float32
    )
    assert align({name: D.double() for name, D in h.items()}).total.dtype == torch.float64


@pytest.mark.parametrize("measure", ALL)
def test_half_precision(measure):
    align = ModalAlignment({TA: 0.3}, measure=measure)
    for dtype in (torch.float16, torch.bfloat16):
        h = {name: D.requires_grad_() for name, D in batch(dtype=dtype).items()}
        terms = align(h)
        assert terms.total.dtype == torch.float32 and terms.total.isfinite()
        terms.total.backward()
        assert h["text"].grad.isfinite().all() and h["text"].grad.abs().sum() > 0


def test_gradcheck():
    for measure in ALL:
        align = ModalAlignment({TA: 0.3, AV: 0.2}, measure=measure, dims={"text": 4, "audio": 3, "vision": 5}).double()
        h = batch(n=7, dtype=torch.float64, text=4, audio=3, vision=5)
        total = lambda t, a, v, align=align: align({"text": t, "audio": a, "vision": v}).total
        assert torch.autograd.gradcheck(total, tuple(D.requires_grad_() for D in h.values()))


# --- what is refused ---


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"text~audio": 0.3}, "two different names"),
        ({("text", "text"): 0.3}, "two different names"),
        ({("text", "audio", "vision"): 0.3}, "two different names"),
        ({("text", 1): 0.3}, "two different names"),
        ({("te~xt", "audio"): 0.3}, "without ~"),
        ({TA: 0.3, TA[::-1]: 0.1}, "twice"),
        ({TA: math.nan}, "finite"),
        ({TA: -math.inf}, "finite"),
    ],
)
def test_weights_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        ModalAlignment(weights)


def test_negative_coral():
    with pytest.raises(
        ValueError, match=r"\('text', 'vision'\) is unbounded below \(P16\): use kappa, or allow_unbounded=True"
    ):
        ModalAlignment({TA: 0.3, TV: -0.3}, measure="coral")
    align = ModalAlignment({TA: 0.3, TV: -0.3}, measure="coral", allow_unbounded=True, whitening=0)
    assert align.interval() == (-math.inf, math.inf)
    h = batch()
    assert align(h | {"vision": 1e3 * h["vision"]}).total < -1e6
    assert ModalAlignment({TA: 0.3}, measure="coral").interval() == (0, math.inf)
    assert ModalAlignment({TA: -0.3, TV: 0.4}, measure="corr").interval() == pytest.approx((-0.15, 0.2))


def test_options_refused():
    with pytest.raises(ValueError, match="kappa, rho2, gaussian, corr, coral, got 'cka'"):
        ModalAlignment({TA: 1}, measure="cka")
    for whitening in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="whitening"):
            ModalAlignment({TA: 1}, whitening=whitening)
    for epsilon in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            ModalAlignment({TA: 1}, epsilon=epsilon)
    with pytest.raises(ValueError, match="^epsilon needs to be at least 1e-12, .* got 1e-17$"):
        ModalAlignment({TA: 1}, epsilon=1e-17)


def test_features_refused():
    h = batch()
    align = ModalAlignment({TA: 0.3, TV: 0.3})
    with pytest.raises(ValueError, match="needs features named 'vision', got 'text', 'audio'"):
        align({name: h[name] for name in TA})
    with pytest.raises(ValueError, match="kappa needs n ≥ 4 rows, got 3"):
        align({name: D[:3] for name, D in h.items()})
    with pytest.raises(ValueError, match="same rows in both, got 16 and 15 rows"):
        align(h | {"audio": h["audio"][:15]})
    with pytest.raises(ValueError, match="coral needs floating-point features"):
        ModalAlignment({TA: 0.3}, measure="coral")({"text": h["text"][:, 0], "audio": h["audio"][:, 0]})


def test_what_print_shows():
    shown = repr(ModalAlignment({TA: 0.3, TV: -0.25}))
    assert "text~audio +0.3, text~vision -0.25; measure=kappa, whitening=0.1" in shown


@pytest.mark.parametrize("both", [3, 4, 9])
def test_a_pair_is_measured_on_the_clips_that_have_both(both):
    g = torch.Generator().manual_seed(both)
    D_a, D_b = (torch.randn(12, d, generator=g, requires_grad=True) for d in (5, 3))
    masks = {"a": torch.arange(12) < both + 1, "b": torch.arange(12) > 0}
    align = ModalAlignment({("a", "b"): 0.7})
    terms = align({"a": D_a, "b": D_b}, present=masks)
    few = both < 4
    rows = slice(1, both + 1)
    if few:
        assert terms.measures["a", "b"].isnan() and terms.by_pair["a", "b"] == 0
    else:
        assert terms.measures["a", "b"].item() == pytest.approx(kappa(D_a[rows], D_b[rows]).item(), abs=1e-6)
    white = 0.1 * sum(whiteness(D[mask]) for D, mask in zip((D_a, D_b), masks.values(), strict=True))
    assert terms.whitening.item() == pytest.approx(white.item(), rel=1e-5)
    slopes = torch.autograd.grad(terms.by_pair["a", "b"], (D_a, D_b))
    assert all(
        (slope.abs().sum(1) > 0).tolist() == [not few and k in range(*rows.indices(12)) for k in range(12)]
        for slope in slopes
    )


def test_what_is_set_where_nothing_is_said():
    align = ModalAlignment({("a", "b"): 1.0})
    assert (align.measure, align.whitening, align.epsilon) == ("kappa", 0.1, 0.1) and len(align.projections) == 0


def test_masks_do_not_hide_that_clips_are_others():
    D = {"a": torch.randn(32, 4), "b": torch.randn(16, 4)}
    with pytest.raises(ValueError, match="same rows in both, got 32 and 16 rows"):
        ModalAlignment({("a", "b"): 1.0})(D, present={"a": torch.arange(32) < 12})
