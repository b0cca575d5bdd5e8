"The objective by hand: values, gradients, names, and what it refuses."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dmsil
from dmsil.alignment import ModalAlignment
from dmsil.labels import LabelGenerator, disagreement
from dmsil.objective import LossTerms, multitask_loss
from dmsil.trainer import Trainer

NAMES = ("text", "audio", "vision")


def batch(seed, n=12, d=5):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    features = {s: draw(n, d).requires_grad_() for s in NAMES}
    predictions = {s: draw(n).requires_grad_() for s in ("fusion", *NAMES)}
    labels = {s: draw(n) for s in predictions}
    weights = {s: disagreement(labels[s], labels["fusion"], floor=0.1) for s in NAMES}
    return features, predictions, labels, weights


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 20))
def test_values_equal_numpy(seed, n):
    _, predictions, labels, weights = batch(seed, n)
    terms = multitask_loss(predictions, labels, weights)
    error = {s: np.abs(predictions[s].detach().numpy() - labels[s].numpy()) for s in predictions}
    by_hand = {
        s: np.mean((0.1 + 0.9 * np.tanh(np.abs(labels[s].numpy() - labels["fusion"].numpy()))) * error[s])
        for s in NAMES
    }
    assert terms.multimodal.item() == pytest.approx(error["fusion"].mean(), abs=1e-12)
    assert {s: x.item() for s, x in terms.unimodal.items()} == pytest.approx(by_hand, abs=1e-12)
    assert terms.total.item() == pytest.approx(error["fusion"].mean() + sum(by_hand.values()), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_gradients_by_hand(seed):
    _, predictions, labels, weights = batch(seed)
    multitask_loss(predictions, labels, weights).total.backward()
    for s, y_hat in predictions.items():
        W = weights.get(s, torch.ones(12, dtype=torch.float64))
        torch.testing.assert_close(y_hat.grad, W * (y_hat.detach() - labels[s]).sign() / 12, atol=1e-14, rtol=0)


def test_gradcheck_of_the_total_with_alignment():
    features, predictions, labels, weights = batch(0)
    align = ModalAlignment({("text", "audio"): 0.3, ("text", "vision"): -0.3}, measure="kappa", whitening=0.1)

    def total(*tensors):
        y_hat, h = dict(zip(predictions, tensors[:4], strict=True)), dict(zip(features, tensors[4:], strict=False))
        return multitask_loss(y_hat, labels, weights, align(h)).total

    assert torch.autograd.gradcheck(total, (*predictions.values(), *features.values()))


def test_labels_and_weights_are_constants():
    _, predictions, labels, _ = batch(1)
    labels = {s: y.requires_grad_() for s, y in labels.items()}
    weights = {s: disagreement(labels[s], labels["fusion"]) for s in NAMES}
    multitask_loss(predictions, labels, weights).total.backward()
    assert all(y.grad is None for y in labels.values())


def test_agreeing_labels_send_exactly_nothing_and_the_floor_sends_something():
    y_m = torch.linspace(-2, 2, 6)
    for floor, sent in (0.0, 0.0), (0.25, 0.25 / 6):
        generator = LabelGenerator(y_m, {"fusion": 2, "text": 2}, floor=floor)
        y_hat = {s: torch.zeros(6, requires_grad=True) for s in ("fusion", "text")}
        weights = {"text": generator.weights("text", torch.arange(6))}
        multitask_loss(y_hat, {"fusion": y_m, **generator.labels}, weights).total.backward()
        torch.testing.assert_close(y_hat["text"].grad.abs(), torch.full((6,), sent), atol=1e-8, rtol=0)
        assert (y_hat["fusion"].grad.abs() == torch.tensor(1 / 6)).all()


def test_the_mean_is_over_the_batch_not_over_the_weights():
    y_hat, y = {"fusion": torch.zeros(4), "text": torch.ones(4)}, {"fusion": torch.zeros(4), "text": torch.zeros(4)}
    assert multitask_loss(y_hat, y, {"text": torch.tensor([1.0, 0.0, 0.0, 0.0])}).total == 0.25


def test_terms_are_named_and_sum_to_the_total():
    features, predictions, labels, weights = batch(2)
    align = ModalAlignment({("text", "audio"): 0.3, ("audio", "vision"): -0.2}, measure="kappa", whitening=0.1)
    terms = multitask_loss(predictions, labels, weights, align(features))
    assert list(terms.named()) == ["multimodal", *NAMES, "text~audio", "audio~vision", "whitening", "total"]
    log = terms.log()
    assert all(type(x) is float for x in log.values())
    assert log.pop("total") == pytest.approx(sum(log.values()), abs=1e-6)
    assert terms.alignment.item() == pytest.approx(log["text~audio"] + log["audio~vision"] + log["whitening"], abs=1e-6)


def test_without_alignment_and_without_unimodal_tasks():
    _, predictions, labels, _ = batch(3)
    terms = multitask_loss(predictions, labels, {})
    assert isinstance(terms, LossTerms) and terms.alignment == 0 and terms.unimodal == {}
    assert terms.total == terms.multimodal and list(terms.log()) == ["multimodal", "total"]
    assert multitask_loss({"fusion": predictions["fusion"]}, labels, {}).total == terms.total


def test_log_does_not_touch_the_graph():
    _, predictions, labels, weights = batch(4)
    terms = multitask_loss(predictions, labels, weights)
    terms.log()
    terms.total.backward()
    assert predictions["text"].grad is not None


def test_mixed_precision_predictions():
    y_hat = {s: torch.ones(4, dtype=torch.bfloat16) for s in ("fusion", "text")}
    y = {s: torch.zeros(4) for s in y_hat}
    terms = multitask_loss(y_hat, y, {"text": torch.full((4,), 0.5)})
    assert terms.total.dtype == torch.float32 and terms.log() == {"multimodal": 1.0, "text": 0.5, "total": 1.5}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p, y, w: p.pop("text"), "'text'"),
        (lambda p, y, w: y.pop("audio"), "'audio'"),
        (lambda p, y, w: y.pop("fusion"), "'fusion'"),
        (lambda p, y, w: p.update(fusion=torch.ones(12, 1)), r"fusion: predictions \(12, 1\), labels \(12,\)"),
        (lambda p, y, w: y.update(text=torch.ones(1)), r"text: predictions \(12,\), labels \(1,\)"),
        (lambda p, y, w: w.update(text=torch.ones(12, 1)), r"text: .*weights \(12, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    _, predictions, labels, weights = batch(5)
    change(predictions, labels, weights)
    with pytest.raises(ValueError, match=message):
        multitask_loss(predictions, labels, weights)


def test_hubers_distance_by_hand():
    "A parabola up to δ, a line beyond, over δ; its limit is the absolute error, and its pull never exceeds 1."
    off = torch.tensor([-3.0, -0.5, 0.0, 0.25, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = {"fusion": torch.zeros(6, dtype=torch.float64)}
    by_hand = lambda d: torch.where(off.abs() <= d, off**2 / (2 * d), off.abs() - d / 2)
    for delta in (0.3, 1.0, 2.5):
        terms = multitask_loss({"fusion": off}, y, {}, delta=delta)
        torch.testing.assert_close(terms.multimodal, by_hand(delta).mean())
        assert (6 * torch.autograd.grad(terms.total, off)[0]).abs().max() <= 1
    torch.testing.assert_close(multitask_loss({"fusion": off}, y, {}, delta=1e-9).total, off.abs().mean())
    torch.testing.assert_close(multitask_loss({"fusion": off}, y, {}).total, off.abs().mean())
    W = {"text": torch.full((6,), 0.25, dtype=torch.float64)}
    both = multitask_loss({"fusion": off, "text": off}, y | {"text": y["fusion"]}, W, delta=1.0)
    torch.testing.assert_close(both.unimodal["text"], 0.25 * both.multimodal)


def test_delta_is_in_the_unit_of_the_labels():
    "Labels ten times as large have a δ ten times as large; the preset has one, the two others none."
    clips = dmsil.synthetic_clips(n=(120, 40, 40), seed=6)
    large = replace(clips, **{k: replace(s, labels=10 * s.labels) for k, s in clips.splits.items()}, bound=30.0)
    small, tenfold = (Trainer(c, dmsil.preset("dmsil_kappa", device="cpu")).delta for c in (clips, large))
    assert small == pytest.approx(clips.train.labels.std().item()) and tenfold == pytest.approx(10 * small, rel=1e-5)
    assert [dmsil.preset(name).train.huber for name in ("dmsil_kappa", "dmsil", "self_mm")] == [1.0, 0.0, 0.0]
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="huber"):
            dmsil.preset("dmsil_kappa", huber=wrong)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_have_cross_entropy_by_hand(classes):
    g = torch.Generator().manual_seed(classes)
    logits = {s: torch.randn(6, classes, generator=g, dtype=torch.double) for s in ("fusion", "text")}
    labels = {s: torch.randint(classes, (6,), generator=g).double() for s in logits}
    W = torch.rand(6, generator=g, dtype=torch.double)
    terms = multitask_loss(logits, labels, {"text": W})
    by_hand = {
        s: np.array(
            [
                math.log(sum(math.exp(v) for v in row)) - row[int(k)]
                for row, k in zip(x.tolist(), labels[s], strict=True)
            ]
        )
        for s, x in logits.items()
    }
    assert terms.multimodal.item() == pytest.approx(by_hand["fusion"].mean())
    assert terms.unimodal["text"].item() == pytest.approx((W.numpy() * by_hand["text"]).mean())
    there = torch.arange(6) != 2
    some = multitask_loss(logits, labels, {"text": W}, present={"text": there}).unimodal["text"]
    assert some.item() == pytest.approx((W.numpy() * by_hand["text"])[there].mean())


def test_a_unimodal_task_is_about_the_clips_that_have_the_modality():
    _, predictions, labels, weights = batch(3)
    there = torch.arange(12) % 3 != 1
    terms = multitask_loss(predictions, labels, weights, present={"text": there})
    error = (weights["text"] * (predictions["text"] - labels["text"]).abs())[there]
    assert terms.unimodal["text"].item() == pytest.approx(error.mean().item())
    whole = multitask_loss(predictions, labels, weights)
    assert terms.unimodal["audio"].item() == whole.unimodal["audio"].item()
    none = multitask_loss(predictions, labels, weights, present={"text": there & False})
    assert none.unimodal["text"].item() == 0.0
