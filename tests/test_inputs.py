"Features, labels, groups and settings as people bring them: the same numbers as in float64, or one line that says what is wrong."

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import dmsil
from dmsil.clips import DataError, Vectors
from dmsil.posterior import Prior
from dmsil.readouts import as_double, feature_matrix, named_groups

FEW = {"permutations": 39, "resamples": 20}


@pytest.fixture(scope="module")
def drawn():
    g = torch.Generator().manual_seed(5)
    x, a = torch.randn(60, 3, generator=g), torch.randn(60, 3, generator=g)
    return x, a, x[:, 0] + a[:, 0] + 0.5 * torch.randn(60, generator=g)


def numbers(report):
    return [p.shared for p in report.pairs.values()] + [m.added for m in report.modalities.values()] + [report.together]


# The verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int64 beside float16", "numpy", "table", "series with its own index", "rows"])
def test_a_verdict_is_the_same_of_every_kind_of_array(drawn, kind):
    x, a, y = drawn
    x, a, y = (100 * x).round(), (100 * a).round() / 64, (10 * y).round()
    brought = {
        "int64 beside float16": (1e9 * x.double()).long(),
        "numpy": x.numpy()[::-1][::-1],
        "table": pd.DataFrame(x.numpy(), columns=list("abc")),
        "series with its own index": x,
        "rows": list(x),
    }[kind]
    labels = pd.Series(y.numpy(), index=range(5, 65)) if kind == "series with its own index" else y
    there = dmsil.information_report({"time": brought, "audio": a.half() if "half" in kind else a}, labels, **FEW)
    here = dmsil.information_report({"time": x.double(), "audio": a.double()}, y.double(), **FEW)
    assert numbers(there) == pytest.approx(numbers(here), abs=1e-6)


def test_groups_are_told_apart_whatever_they_are(drawn):
    x, a, y = drawn
    far = torch.arange(60).double() // 2 * 2500 + 1e8  # which print alike
    for groups in (far, far.tolist(), far.numpy(), pd.Series(far.numpy()), [str(g) for g in far.tolist()]):
        assert dmsil.information_report({"a": x, "b": a}, y, groups=groups, **FEW).groups == 30
    assert (
        named_groups(torch.tensor([3, 4])) == named_groups([torch.tensor(3), torch.tensor(4)]) == [3, 4]
        and len(set(named_groups([1, "1"]))) == 2
    )
    for wrong in (None, math.nan, pd.NaT, pd.NA, [1.0], torch.zeros(2)):
        with pytest.raises(ValueError, match="in row 1, expected one name or number"):
            named_groups(["a", wrong])


def test_gaps_that_leave_a_pair_too_few_groups_are_refused():
    of = [k for k, m in enumerate([20, 20, 20, 20, 30, 40]) for _ in range(m)]
    g = torch.Generator().manual_seed(6)
    x, a = torch.randn(150, 3, generator=g), torch.randn(150, 3, generator=g)
    a[torch.tensor(of) < 4] = math.nan
    with pytest.raises(ValueError, match="at least 5 groups with text, audio: .* got 2"):
        dmsil.information_report({"text": x, "audio": a}, None, groups=of, **FEW)


def test_notes_are_of_the_clips_that_a_pair_was_measured_on():
    g = torch.Generator().manual_seed(7)
    f = {s: torch.randn(600, 20, generator=g) for s in ("text", "audio")} | {"video": torch.randn(600, 2, generator=g)}
    f["video"][48:] = math.nan
    report = dmsil.information_report(f, None, **FEW)
    cut = [note for note in report.notes if "48 clips are too few for 20 columns" in note]
    assert len(cut) == 2 and all("video" in note for note in cut) and not report.pairs["text", "audio"].bound


def test_no_clip_needs_to_have_everything_where_pairs_alone_are_asked_for():
    g, third = torch.Generator().manual_seed(7), torch.arange(300) % 3
    f = {s: torch.randn(300, 2, generator=g) for s in ("text", "audio", "video")}
    for k, D in enumerate(f.values()):
        D[third == k] = math.nan
    assert len(dmsil.information_report(f, None, **FEW).pairs) == 3
    with pytest.raises(ValueError, match="at least 40 clips with text, audio, video, got 0"):
        dmsil.information_report(f, torch.randn(300, generator=g), **FEW)


def test_before_and_after_are_of_the_same_clips():
    g = torch.Generator().manual_seed(8)
    z, e = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g)
    a = 0.9 * z + 0.44 * e
    gone = a.clone()
    gone[:200] = math.nan
    report = dmsil.information_report({"t": z, "a": a}, None, before={"t": z, "a": gone}, **FEW)
    assert report.change["t", "a"].shared == 0 and report.change["t", "a"].interval == (0, 0)
    assert "a in 200" in report.notes[0] and report.pairs["t", "a"].shared == report.before.pairs["t", "a"].shared
    gone[:], gone[:10] = math.nan, 0.0
    with pytest.raises(ValueError, match="at least 40 clips with t, a, got 10"):
        dmsil.information_report({"t": z, "a": a}, None, before={"t": z, "a": gone}, **FEW)


def test_a_change_lies_within_its_interval():
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        x, y, w = (torch.randn(80, d, generator=g) for d in (4, 1, 1))
        change = dmsil.information_report({"x": x, "y": y}, None, before={"x": x, "y": w}, **FEW).change["x", "y"]
        assert change.interval[0] <= change.shared <= change.interval[1]


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"folds": 1}, "resamples and folds need to be at least 2"),
        ({"resamples": 0}, "resamples and folds need to be at least 2"),
        ({"margin": -1.0}, "margin needs to be a number of nats above 0"),
        ({"permutations": -3}, "permutations need to be 0 or at least 39"),
        ({"features": {0: 3, "b": 3}}, "a modality needs a name, got 0"),
        ({"features": {"a": 0, "b": 3}}, r"a: features need shape \(60, d\), a row a clip, got \(60, 0\)"),
    ],
)
def test_what_a_verdict_cannot_be_made_of_is_said(wrong, says):
    wrong = dict(wrong)
    features = {s: torch.randn(60, d) for s, d in wrong.pop("features", {"a": 2, "b": 2}).items()}
    with pytest.raises(ValueError, match=says):
        dmsil.information_report(features, None, **(FEW | wrong))


def test_what_does_not_vary_is_noted_and_drawn(drawn):
    import matplotlib

    matplotlib.use("agg")
    x, _, y = drawn
    report = dmsil.information_report({"text": x, "audio": torch.ones(60, 2)}, torch.ones(60), **FEW)
    assert any("all labels are equal" in note for note in report.notes) and len(report.plot().axes) == 2
    with pytest.raises(ValueError, match="text: features: not an array of numbers"):
        dmsil.information_report({"text": [["a"]] * 60, "audio": x}, y, **FEW)


# Posterior labels -------------------------------------------------------------------------------------------------


def test_labels_that_are_whole_numbers_have_labels_between_them(drawn):
    x, a, y = drawn
    whole = (2 * y).round()
    there = dmsil.posterior_labels({"text": x, "audio": a}, whole.long())
    here = dmsil.posterior_labels({"text": x, "audio": a}, whole)
    assert there.labels["text"].dtype == torch.float32 and torch.equal(there.labels["text"], here.labels["text"])
    assert torch.equal(there.weights["audio"], here.weights["audio"]) and there.weights["audio"].unique().numel() > 9


def test_the_scale_of_features_is_no_matter(drawn):
    x, a, y = (D.double() for D in drawn)
    of = lambda scale: dmsil.posterior_labels({"text": scale * x, "audio": scale * a}, y).labels["text"]
    assert torch.allclose(of(1e-12), of(1.0), atol=1e-5) and torch.allclose(of(1e12), of(1.0), atol=1e-5)


def test_equal_labels_are_refused_however_they_are_rounded():
    for n, value in ((57, 0.1), (100, 1 / 3), (1283, -1.2)):
        with pytest.raises(ValueError, match="all labels are equal"):
            dmsil.posterior_labels({"t": torch.randn(n, 3)}, [value] * n)


def test_sequences_may_be_none_and_readouts_any_array(drawn):
    _, _, y = drawn
    g = torch.Generator().manual_seed(9)
    steps = [torch.randn(3 + k % 4, 2, generator=g).numpy() for k in range(60)]
    gone = [None if k == 7 else v for k, v in enumerate(steps)]
    X = feature_matrix("audio", gone, 60)
    boxed = np.empty(60, dtype=object)
    boxed[:] = gone
    assert X[7].isnan().all() and X[8].isfinite().all()
    assert torch.equal(X.nan_to_num(), feature_matrix("audio", boxed, 60).nan_to_num())
    found = dmsil.posterior_labels({"audio": steps}, y)
    again = dmsil.posterior_labels({"audio": steps}, y, readouts=found.readouts.numpy())
    assert torch.equal(again.labels["audio"], found.labels["audio"])
    with pytest.raises(ValueError, match=r"readouts: shape \(60, 2\), expected \(60, 1\)"):
        dmsil.posterior_labels({"audio": steps}, y, readouts=torch.zeros(60, 2))
    with pytest.raises(ValueError, match="prior: rho lacks audio"):
        dmsil.posterior_labels({"audio": steps}, y, prior=Prior({"text": 0.8}))
    assert as_double(torch.ones(2, requires_grad=True), "x").requires_grad is False


# Metrics ----------------------------------------------------------------------------------------------------------


def test_probabilities_may_be_rounded():
    P = torch.tensor([[0.98, 0.015, 0.005], [0.01, 0.02, 0.97], [0.001, 0.998, 0.001]])
    nll = lambda p: dmsil.sentiment_metrics(p, [0, 2, 1], classes=("negative", "neutral", "positive"))["NLL"]
    exact = nll(P.double())
    for rounded in (P, P.half(), P.bfloat16(), (100 * P).round() / 100, P * 0.99):
        assert nll(rounded) == pytest.approx(exact, abs=0.005)
    assert math.isfinite(nll(torch.eye(3))) and nll(3 * P) > 0.1  # these are logits


def test_half_precision_keeps_to_its_own_cuts():
    y = torch.tensor([-0.7, -0.1, 0.0, 0.1, 0.7, 1.0])
    for same in (y.half(), y.half().numpy(), y, y.double().float()):
        found = dmsil.sentiment_metrics(same, same, dataset="sims")
        assert found["Mult_acc_5"] == found["Mult_acc_3"] == found["F1_score"] == 1
        classes = dmsil.sentiment_metrics(y, same, dataset="sims")
        assert classes["Mult_acc_5"] == classes["Mult_acc_3"] == 1


# Alignment and labels of a modality -------------------------------------------------------------------------------


def test_masks_are_of_the_batch(drawn):
    align = dmsil.ModalAlignment({("text", "audio"): 1.0})
    F = {"text": torch.randn(32, 8), "audio": torch.randn(32, 8)}
    here = [k % 3 > 0 for k in range(32)]
    assert align(F, present={"text": here}).total == align(F, present={"text": torch.tensor(here)}).total
    for mask in (torch.ones(8, dtype=torch.bool), torch.arange(64) < 20, torch.ones(32)):
        with pytest.raises(ValueError, match=r"present: text: .*, expected torch.bool \(32,\)"):
            align(F, present={"text": mask})
    with pytest.raises(ValueError, match="same rows in both, got 32 and 16 rows"):
        align(F | {"audio": torch.randn(16, 8)}, present={"text": torch.tensor(here)})
    y = pd.Series(np.linspace(-1, 1, 40), index=range(7, 47))
    assert dmsil.LabelGenerator(y, {"fusion": 2, "text": 2}).labels["text"].shape == (40,)
    with pytest.raises(ValueError, match=r"present: text: torch.bool \(39,\), expected torch.bool \(40,\)"):
        dmsil.LabelGenerator(y, {"fusion": 2, "text": 2}, present={"text": torch.ones(39, dtype=torch.bool)})


# Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"measure": "kapa"}, "measure must be one of none, coral, corr, kappa, rho2, gaussian, got 'kapa'"),
        ({"keep": "objectiv"}, "keep must be one of MAE, objective"),
        ({"precision": "fp16"}, "precision must be one of float32, bfloat16"),
        ({"pairs": "al"}, "share must be one of none, all, measured, got 'al'"),
        ({"lr_heads": -1.0}, "lr_heads must be a number of at least 0, got -1.0"),
        ({"average": math.nan}, "average must be a number of at least 0"),
        ({"whitening": -0.5}, "whitening must be a number of at least 0"),
        ({"pairs": [("text", "audio", 0.1), ("audio", "text", 0.5)]}, "audio and text are there twice"),
        ({"pairs": {"text~audio": 1.0}}, "pairs: 'text~audio', expected two modalities and a finite weight"),
        ({"pairs": {("text", "audio"): math.inf}}, "expected two modalities and a finite weight"),
        ({"pairs": [("text", "audio")]}, "expected two modalities and a finite weight"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        dmsil.preset(**wrong)


@pytest.fixture(scope="module")
def clips():
    return dmsil.synthetic_clips(n=(120, 50, 60))


def test_rows_that_do_not_belong_together_are_refused(clips):
    with pytest.raises(DataError, match="ids: found 120 rows; expected 119, one for each label"):
        replace(clips.train, labels=clips.train.labels[1:])
    with pytest.raises(DataError, match="audio: found 119 rows; expected 120"):
        replace(clips.train, inputs=clips.train.inputs | {"audio": Vectors(clips.train.inputs["audio"].values[1:])})


def with_values(clips, part, change):
    split = clips.splits[part]
    return replace(
        clips, **{part: replace(split, inputs=split.inputs | {"audio": Vectors(change(split.inputs["audio"].values))})}
    )


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x: x.double(), "valid.audio: found torch.float64; expected a tensor of torch.float32"),
        (lambda x: x.numpy(), "valid.audio: found float32; expected a tensor of torch.float32"),
        (lambda x: x[:, 1:], "valid.audio: found 15 features; expected 16, as in train"),
        (
            lambda x: x.index_fill(0, torch.tensor([3]), math.inf),
            "valid.audio: found 1 clips that are not finite, first",
        ),
    ],
)
def test_inputs_that_no_network_can_read_are_refused(clips, change, says):
    with pytest.raises(DataError, match=says):
        dmsil.fit(with_values(clips, "valid", change), epochs=1, progress=False)


def test_labels_of_another_type_are_refused(clips):
    for labels in (clips.train.labels.double(), clips.train.labels.long(), clips.train.labels.numpy()):
        with pytest.raises(DataError, match=r"train.labels: found .*; expected a tensor of torch.float32"):
            dmsil.fit(replace(clips, train=replace(clips.train, labels=labels)), epochs=1, progress=False)


def test_batches_too_small_for_a_covariance_are_named(clips):
    few = replace(clips, train=clips.train.take(torch.arange(25)))
    with pytest.raises(
        DataError, match="train: found 25 clips, in batches of at most 4 as few as 3; expected at least 4"
    ):
        dmsil.fit(few, "dmsil", batch_size=4, epochs=1, progress=False)
    three = replace(clips, valid=clips.valid.take(torch.arange(3)))
    with pytest.raises(DataError, match="valid: found 3 clips; expected at least 4, or keep='MAE'"):
        dmsil.fit(three, pairs="all", epochs=1, progress=False)
    assert dmsil.fit(three, pairs="all", keep="MAE", epochs=1, progress=False).metrics["epochs"] == 1


def test_numbers_that_are_large_and_padding_that_is_nothing_pass(clips):
    from dmsil.clips import Steps
    from dmsil.trainer import check_numbers

    huge = with_values(clips, "valid", lambda x: torch.full_like(x, 3e38))
    check_numbers(huge)  # their sum is infinite, they aren't
    padded = torch.zeros(120, 4, 2)
    padded[:, 3] = math.nan

    def steps(split, n, length):
        lengths = torch.full((n,), length)
        return replace(split, inputs={"voice": Steps(padded[:n], lengths)}, present={})

    parts = lambda length: {name: steps(split, len(split), length) for name, split in clips.splits.items()}
    check_numbers(replace(clips, **parts(3)))
    with pytest.raises(DataError, match="train.voice: found 120 clips that are not finite, first train_0"):
        check_numbers(replace(clips, **parts(4)))


def test_a_weight_may_be_any_number():
    pairs = {("text", "audio"): np.float32(0.5), ("text", "vision"): torch.tensor(-1), ("audio", "vision"): 1}
    assert dmsil.preset(pairs=pairs).train.pairs == (
        ("text", "audio", 0.5),
        ("text", "vision", -1.0),
        ("audio", "vision", 1.0),
    )
