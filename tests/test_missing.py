"Clips that lack modalities: masks, loaders, encoders, alignment, labels, objective, training, prediction."

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dmsil
from dmsil.alignment import ModalAlignment
from dmsil.cli import main
from dmsil.clips import Clips, DataError, Split, Steps, Texts, Tokens, Vectors, synthetic_clips, video_of
from dmsil.labels import LabelGenerator
from dmsil.missing import thinned, with_missing
from dmsil.model import ModelConfig, MultimodalModel, Spec, input_features
from dmsil.objective import multitask_loss
from dmsil.pairs import pair_information
from dmsil.prediction import Source, by_subset, open_source, predict, predict_clips
from dmsil.presets import preset
from dmsil.synthetic import Simulation, bayes_prediction
from dmsil.tables import clips_from_table
from dmsil.trainer import Trainer, forward_backward, train_epoch

QUICK = dict(device="cpu", epochs=2, hidden=8, encoded=8, labels="copy", progress=False)
SMALL = synthetic_clips(n=(160, 40, 60), seed=4)
TORN = with_missing(SMALL, 0.4, seed=1)


def with_nan(split: Split) -> Split:
    "The same clips with NaN in place of what is missing."
    gone = {s: ~split.present[s][:, None] for s in split.present}
    return replace(
        split, inputs={s: Vectors(x.values.masked_fill(gone[s], torch.nan)) for s, x in split.inputs.items()}
    )


# ---- masks


def test_a_draw_leaves_one_of_those_that_are_there():
    there = torch.rand(500, 3) < 0.6
    kept = thinned(there, 0.7, torch.Generator().manual_seed(0))
    assert not (kept & ~there).any() and (kept.any(1) == there.any(1)).all()
    assert 0.2 < (kept.sum() / there.sum()) < 0.7 and torch.equal(
        kept, thinned(there, 0.7, torch.Generator().manual_seed(0))
    )
    assert torch.equal(thinned(there, 0.0, torch.Generator()), there)


@pytest.mark.parametrize(
    "mask, words",
    [
        ({"nose": torch.ones(160).bool()}, "clips: present.nose: found no such modality; expected text, audio, vision"),
        ({"text": torch.ones(160)}, "present.text: found torch.float32 (160,) on cpu; expected torch.bool (160,)"),
        ({"text": torch.ones(159).bool()}, "present.text: found torch.bool (159,)"),
        ({"text": torch.ones(160, 1).bool()}, "present.text: found torch.bool (160, 1)"),
        ({"text": [True] * 160}, "present.text: found a list"),
        ({"text": torch.ones(160, device="meta").bool()}, "on meta; expected"),
    ],
)
def test_a_mask_that_cannot_be_meant(mask, words):
    with pytest.raises(DataError) as told:
        replace(SMALL.train, present=mask)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_masks_go_with_their_clips():
    rows = torch.tensor([3, 0, 7])
    part = TORN.train.take(rows)
    assert all(torch.equal(part.present[s], mask[rows]) for s, mask in TORN.train.present.items())
    assert torch.equal(
        TORN.train.complete().labels, TORN.train.labels[torch.stack(list(TORN.train.present.values())).all(0)]
    )
    assert (
        TORN.only("text", "vision").train.present.keys() == {"text", "vision"} and SMALL.train.complete() is SMALL.train
    )
    assert TORN.to("cpu").train.present.keys() == TORN.train.present.keys() and "bayes_mae" not in TORN.truth


# ---- files


@pytest.mark.parametrize("text", ["texts", "tokens", "steps"])
def test_masks_come_back_from_a_file(tmp_path, text):
    def split(name, n):
        words = {
            "texts": Texts(tuple(f"so {k}" for k in range(n))),
            "tokens": Tokens(torch.arange(101, 101 + 4 * n).view(n, 4), torch.full((n,), 4)),
            "steps": Steps(torch.randn(n, 4, 2), torch.full((n,), 4)),
        }
        inputs = {
            "text": words[text],
            "audio": Steps(torch.randn(n, 3, 2), torch.full((n,), 3)),
            "vision": Vectors(torch.randn(n, 5)),
        }
        masks = {s: torch.arange(n) % 4 != k for k, s in enumerate(inputs)}
        return Split(tuple(f"{name}_{k}" for k in range(n)), inputs, torch.linspace(-1, 1, n), present=masks)

    clips = Clips("made", split("train", 12), split("valid", 5), split("test", 6))
    path = dmsil.save_clips(clips, tmp_path / "made.pkl")
    back = dmsil.load_clips(path, "mosi", text="raw_text" if text == "texts" else None)
    for name, split in clips.splits.items():
        for s, mask in split.present.items():
            assert torch.equal(back.splits[name].present[s], mask)
    assert (
        back.train.inputs["audio"].values[1].abs().max() == 0
        and "audio: missing in 3 of 12 clips of train" in back.notes[1]
    )
    table = pickle.loads(path.read_bytes())
    table["valid"]["vision_present"][2] = 2
    path.write_bytes(pickle.dumps(table))
    with pytest.raises(
        DataError, match=r"made.pkl: valid.vision_present: found 2.0 in row 2; expected 1 or 0 for each clip"
    ):
        dmsil.load_clips(path, "mosi")


def lists(n, gone):
    return [gone if k == 1 else np.ones((2 + k % 3, 2)) for k in range(n)]


@pytest.mark.parametrize(
    "change",
    [
        lambda s, n: s | {"audio": np.where(np.arange(n)[:, None, None] == 1, np.nan, s["audio"])},
        lambda s, n: s | {"audio": lists(n, None)},
        lambda s, n: s | {"audio": lists(n, np.ones((0, 2)))},
        lambda s, n: s | {"audio": lists(n, np.full((2, 2), np.nan))},
        lambda s, n: s | {"audio_lengths": [0 if k == 1 else 2 for k in range(n)]},
        lambda s, n: s | {"audio_present": np.arange(n) != 1} | {"audio_present": (np.arange(n) != 1).astype(int)},
    ],
)
def test_a_pickle_may_lack_a_modality(tmp_path, change):
    rng = np.random.default_rng(0)

    def split(name, n):
        part = {"id": [f"{name}_{k}" for k in range(n)], "regression_labels": rng.uniform(-3, 3, n)}
        return part | {"vision": rng.normal(size=(n, 4, 3)), "audio": rng.normal(size=(n, 4, 2))}

    table = {name: split(name, n) for name, n in (("train", 8), ("valid", 4), ("test", 4))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(table | {"train": change(table["train"], 8)}))
    clips = dmsil.load_clips(tmp_path / "a.pkl")
    assert (~clips.train.present["audio"]).nonzero()[:, 0].tolist() == [1] and "vision" not in clips.train.present
    assert (
        clips.train.inputs["audio"].values.isfinite().all() and "audio: missing in 1 of 8 clips of train" in clips.notes
    )


def test_a_table_may_lack_text_or_an_array(tmp_path):
    lines = [
        f"c{k},{'' if k == 2 else 'good'},{k % 5 - 2},{'train' if k < 6 else 'valid' if k < 8 else 'test'}"
        for k in range(10)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["id,text,label,split", *lines]))
    face = np.random.default_rng(0).normal(5, 1, (10, 3))
    face[4] = face[9] = np.nan
    clips = clips_from_table(tmp_path / "t.csv", {"face": face}, standardise=True)
    assert clips.train.present["text"].tolist() == [True] * 2 + [False] + [True] * 3
    assert clips.train.present["face"].tolist() == [True] * 4 + [False, True] and clips.test.present[
        "face"
    ].tolist() == [True, False]
    seen = clips.train.inputs["face"].values[clips.train.present["face"]]
    assert torch.allclose(seen.mean(0), torch.zeros(3), atol=1e-5)
    assert "face: missing in 1 of 6 clips of train, 1 of 2 clips of test" in clips.notes


# ---- alignment, labels, objective


@pytest.mark.parametrize("measure", ["kappa", "rho2", "gaussian", "corr", "coral"])
def test_alignment_is_that_of_the_rows_kept(measure):
    torch.manual_seed(0)
    h = {"text": torch.randn(20, 4), "audio": torch.randn(20, 4)}
    there = {"text": torch.arange(20) >= 6, "audio": torch.arange(20) < 17}
    align = ModalAlignment({("text", "audio"): 0.3}, measure, whitening=0.2)
    planted = {s: x.masked_fill(~there[s][:, None], torch.nan).requires_grad_() for s, x in h.items()}
    terms = align(planted, present=there)
    alone = align({s: x[6:17] for s, x in h.items()})
    assert torch.allclose(terms.by_pair["text", "audio"], alone.by_pair["text", "audio"])
    white = sum(align({"text": h[s][there[s]], "audio": h[s][there[s]]}).whitening / 2 for s in h)
    assert torch.allclose(terms.whitening, white)
    terms.total.backward()
    assert all(x.grad.isfinite().all() and (x.grad[~there[s]] == 0).all() and x.grad.any() for s, x in planted.items())


@pytest.mark.parametrize("rows", [0, 3])
def test_a_pair_of_too_few_rows_is_nothing(rows):
    align = ModalAlignment({("text", "audio"): -0.3, ("text", "vision"): 0.3}, whitening=0.0)
    h = {s: torch.randn(12, 4, requires_grad=True) for s in ("text", "audio", "vision")}
    terms = align(h, present={"audio": torch.arange(12) < rows})
    assert terms.by_pair["text", "audio"] == 0 and terms.measures["text", "audio"].isnan()
    terms.total.backward()
    assert (h["audio"].grad == 0).all() and h["vision"].grad.any() and h["text"].grad.isfinite().all()


@pytest.mark.parametrize("mode", ["selfmm", "robust"])
def test_centres_skip_what_is_missing(mode):
    torch.manual_seed(0)
    n, dims = 40, {"fusion": 3, "text": 2, "audio": 2}
    y, there = torch.randn(n), {"audio": torch.arange(n) % 3 > 0}
    gen = LabelGenerator(y, dims, mode=mode, present=there)
    for epoch in (1, 2, 3):
        F = {s: torch.randn(n, d) for s, d in dims.items()}
        F["audio"][~there["audio"]] = torch.nan
        for rows in torch.randperm(n).split(16):
            gen.update({s: f[rows] for s, f in F.items()}, rows, epoch)
    positive = (gen.labels["audio"] > 0) & there["audio"]
    assert torch.allclose(gen.means()[0, -2:], F["audio"][positive].mean(0).double(), atol=1e-6)
    assert torch.equal(gen.labels["audio"][~there["audio"]], y[~there["audio"]])
    assert not torch.equal(gen.labels["audio"][there["audio"]], y[there["audio"]]) and gen.y.isfinite().all()


def test_the_loss_of_a_modality_is_that_of_its_clips():
    y_hat = {
        "fusion": torch.randn(6),
        "text": torch.tensor([1.0, torch.nan, 2.0, torch.nan, 0.0, 1.0]).requires_grad_(),
    }
    there = {"text": y_hat["text"].detach().isfinite()}
    terms = multitask_loss(y_hat, dict.fromkeys(y_hat, torch.zeros(6)), {"text": torch.ones(6)}, present=there)
    assert terms.unimodal["text"] == 1.0
    terms.total.backward()
    assert y_hat["text"].grad.tolist() == [0.25, 0, 0.25, 0, 0, 0.25]


# ---- the model and its training


KINDS = {"text": Spec("tokens", 0), "voice": Spec("steps", 4), "face": Spec("vectors", 5)}


@pytest.mark.parametrize("aligned", [0, 6])
@pytest.mark.parametrize("sequence", ["last", "stats"])
def test_what_stands_in_a_missing_row_has_no_say(aligned, sequence):
    torch.manual_seed(0)
    kinds = {"voice": Spec("steps", 4), "face": Spec("vectors", 5)}
    model = MultimodalModel(ModelConfig(aligned=aligned, sequence=sequence, missing=True), kinds).eval()
    inputs = {
        "voice": Steps(torch.randn(6, 3, 4), torch.tensor([1, 2, 3, 3, 2, 1])),
        "face": Vectors(torch.randn(6, 5)),
    }
    there = {"voice": torch.tensor([1, 0, 1, 1, 0, 1]).bool(), "face": torch.tensor([1, 1, 0, 1, 1, 1]).bool()}
    put = lambda value: {
        s: replace(x, values=x.values.clone().index_fill_(0, (~there[s]).nonzero()[:, 0], value))
        for s, x in inputs.items()
    }
    found = []
    for value in (0.0, torch.nan):
        model.zero_grad()
        y = model(put(value), there).predictions["fusion"]
        y.sum().backward()
        found.append((y.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (y, grads), (other, others) = found
    assert (
        torch.equal(y, other) and y.isfinite().all() and all(torch.equal(g, others[name]) for name, g in grads.items())
    )
    nobody = {s: torch.zeros(6).bool() for s in there}
    y = model(put(torch.nan), nobody).predictions["fusion"]
    assert y.isfinite().all() and torch.allclose(y, y[:1].expand(6))


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.state_dict().items()}


@pytest.mark.parametrize("name", ["dmsil", "self_mm", "dmsil_kappa"])
def test_full_masks_change_no_bit(name):
    there = torch.ones(160, dtype=torch.bool)
    masked = replace(SMALL, train=replace(SMALL.train, present={"audio": there, "text": there}))
    runs = [dmsil.fit(clips, name, **QUICK) for clips in (SMALL, masked)]
    a, b = map(weights, runs)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and "subsets" not in runs[0].metrics


@pytest.mark.parametrize("name", ["dmsil", "self_mm", "dmsil_kappa"])
def test_nan_in_missing_rows_trains_the_same(name):
    pairs = (
        {} if name == "self_mm" else {"pairs": {("text", "audio"): 0.3, ("text", "vision"): -0.3}, "measure": "kappa"}
    )
    planted = replace(TORN, **{part: with_nan(split) for part, split in TORN.splits.items()})
    zeros = {s: Vectors(x.values.nan_to_num(0.0)) for s, x in planted.train.inputs.items()}
    emptied = replace(planted, train=replace(planted.train, inputs=zeros))
    runs = [dmsil.fit(clips, name, modality_dropout=0.3, **QUICK | pairs) for clips in (planted, emptied)]
    a, b = map(weights, runs)
    assert all(torch.equal(a[k], b[k]) for k in a) and all(v.isfinite().all() for v in a.values())
    assert set(runs[0].metrics["subsets"]) == {
        "text",
        "audio",
        "vision",
        "text+audio",
        "text+vision",
        "audio+vision",
        "text+audio+vision",
    }
    whole = runs[0].metrics["subsets"]["text+audio+vision"]
    assert whole["clips"] == len(TORN.test.complete())


def test_a_missing_clip_gives_no_gradient():
    run = Trainer(
        TORN, preset("dmsil_kappa", device="cpu", hidden=8, encoded=8, labels="copy", pairs={("text", "audio"): 0.3})
    )
    rows = (~TORN.train.present["vision"]).nonzero()[:8, 0]
    run.epoch = 1
    forward_backward(run, rows)
    for name, p in run.model.named_parameters():
        if name.startswith(("encoders.vision", "align.vision", "heads.vision")):
            assert p.grad is None or (p.grad == 0).all(), name


def test_dropout_is_drawn_anew_and_alike():
    make = lambda: Trainer(
        SMALL, preset("dmsil_kappa", device="cpu", hidden=8, encoded=8, labels="copy", modality_dropout=0.5)
    )
    one, two = make(), make()
    drawn = []
    for run in (one, two):
        for epoch in (1, 2):
            run.epoch = epoch
            train_epoch(run)
            drawn.append(torch.stack(list(run.shown.values())))
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3]) and not torch.equal(drawn[0], drawn[1])
    assert drawn[0].any(0).all() and 0.3 < drawn[0].double().mean() < 0.7
    with pytest.raises(ValueError, match="modality_dropout must be at least 0 and below 1, got 1.0"):
        preset(modality_dropout=1.0)


def test_a_resumed_run_ends_where_the_whole_one_does(tmp_path):
    options = QUICK | {"modality_dropout": 0.4, "average": 1.0}
    whole = dmsil.fit(TORN, **options | {"epochs": 3})
    dmsil.fit(TORN, out=tmp_path / "o", **options | {"epochs": 1})
    again = dmsil.fit(TORN, out=tmp_path / "o", resume=True, **options | {"epochs": 3})
    a, b = weights(whole), weights(again)
    assert all(torch.equal(a[k], b[k]) for k in a) and whole.metrics["subsets"] == again.metrics["subsets"]
    saved = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert saved["subsets"]["text"]["clips"] == int(TORN.test.present["text"].sum())
    other = with_missing(SMALL, 0.4, seed=2)
    with pytest.raises(DataError, match="train text present"):
        dmsil.fit(other, out=tmp_path / "o", resume=True, **options | {"epochs": 4})


def test_a_modality_that_nobody_has_is_refused():
    torn = replace(SMALL, train=replace(SMALL.train, present={"audio": torch.zeros(160, dtype=torch.bool)}))
    with pytest.raises(DataError, match="train.audio: found missing in every clip"):
        dmsil.fit(torn, **QUICK)


# ---- prediction


def test_a_run_predicts_from_what_is_there(tmp_path):
    scale = {s: ([0.0] * x.values.shape[1], [1.0] * x.values.shape[1]) for s, x in SMALL.train.inputs.items()}
    clips = replace(SMALL.only("audio", "vision"), scale=scale)
    near = lambda split: replace(split, inputs={s: Vectors(x.values.clamp(-5, 5)) for s, x in split.inputs.items()})
    clips = replace(clips, **{name: near(split) for name, split in clips.splits.items()})
    run = dmsil.fit(clips, out=tmp_path / "able", modality_dropout=0.3, **QUICK)
    mute = replace(clips.test, inputs={"vision": clips.test.inputs["vision"]})
    rows = predict_clips(tmp_path / "able", mute)
    y, z = predict(run.model, clips.test, hidden=("audio",))
    assert [row["prediction"] for row in rows] == pytest.approx(y["fusion"].tolist(), abs=1e-3)
    assert all(row["audio_alone"] is None and isinstance(row["vision_alone"], float) for row in rows)
    assert y["audio"].isnan().all() and z["audio"].isnan().all() and y["vision"].isfinite().all()
    found = by_subset(run.model, clips.test)
    assert found["vision"]["MAE"] == pytest.approx((y["fusion"] - clips.test.labels).abs().mean().item(), abs=1e-6)
    dmsil.fit(clips, out=tmp_path / "unable", **QUICK)
    for split, words in (
        (
            mute,
            "audio: found none among vision; expected audio, which unable was trained on; trained with modality_dropout",
        ),
        (
            replace(clips.test, present={"audio": torch.arange(60) > 0}),
            "audio: found missing in 1 of 60 clips; expected audio in every",
        ),
        (replace(mute, inputs={"nose": mute.inputs["vision"]}), "audio: found none among nose"),
    ):
        with pytest.raises(DataError, match=words):
            predict_clips(tmp_path / "unable", split)
    with pytest.raises(DataError, match="audio: found none among nose"):
        predict_clips(tmp_path / "able", replace(mute, inputs={"nose": mute.inputs["vision"]}))


def test_the_verdict_reads_the_clips_that_each_pair_has():
    torn = with_missing(synthetic_clips(n=(80, 20, 200), seed=4), 0.3)
    run = dmsil.fit(torn, **QUICK)
    features, labels = run.features()
    there = {s: ~x.isnan().any(1) for s, x in features.items()}
    assert all(torch.equal(mask, torn.test.present[s]) for s, mask in there.items())
    report = run.report(permutations=0, resamples=50)
    complete = len(torn.test.complete())
    assert (
        report.clips == 200
        and report.notes[0].startswith("missing: ")
        and f"on {complete} that have all" in report.notes[0]
    )
    for (a, b), found in report.pairs.items():
        both = there[a] & there[b]
        alone = pair_information(features[a][both], features[b][both], permutations=0, resamples=50)
        assert int(both.sum()) > complete
        assert torch.equal(found.clipwise.isfinite(), both)
        assert (found.shared, found.interval, found.kappa) == (alone.shared, alone.interval, alone.kappa)
    have = torch.stack(list(there.values())).all(0)
    rest = dmsil.information_report(
        {s: x[have] for s, x in features.items()}, labels[have], permutations=0, resamples=50
    )
    assert repr(rest.modalities) == repr(report.modalities) and rest.together == report.together


def test_a_shell_says_the_same_verdict(tmp_path, capsys):
    g, n = np.random.default_rng(0), 400
    y = g.normal(size=n).clip(-3, 3)
    arrays = {s: y[:, None] + g.normal(size=(n, 3)) for s in ("voice", "face", "hand")}
    for s, X in arrays.items():
        X[g.random(n) < 0.25] = np.nan
        np.save(tmp_path / f"{s}.npy", X)
    part = ["train" if k < 150 else "valid" if k < 200 else "test" for k in range(n)]
    lines = ["id,label,split", *(f"v{k // 5}_{k % 5},{y[k]:.3f},{part[k]}" for k in range(n))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = ["--arrays", *(f"{s}={tmp_path / s}.npy" for s in arrays)]
    clips = open_source(str(tmp_path / "t.csv"), Source(arrays=tuple(words[1:])))
    clips = replace(clips, name=str(tmp_path / "t.csv"))
    run = dmsil.fit(clips, **QUICK, out=tmp_path / "run")
    main(["report", str(tmp_path / "run"), "--permutations", "39"])
    told, said = json.loads(capsys.readouterr().out), run.report(permutations=39)
    assert (told["clips"], told["groups"]) == (200, 40) and told == said.to_dict()
    complete = len(clips.test.complete())
    assert complete < 120 and f"on {complete} that have all" in told["notes"][0]
    main(["report", str(tmp_path / "t.csv"), *words, "--permutations", "39"])
    told, x = json.loads(capsys.readouterr().out), [input_features(clips, part) for part in clips.splits]
    whole = {s: torch.cat([p[s] for p in x]) for s in arrays}
    ids = sum((p.ids for p in clips.splits.values()), ())
    labels = torch.cat([p.labels for p in clips.splits.values()])
    said = dmsil.information_report(whole, labels, video_of(ids), permutations=39)
    assert told["clips"] == n and told == said.to_dict()


def test_too_few_clips_with_both_sides_are_named():
    g = torch.Generator().manual_seed(0)
    x = {s: torch.randn(100, 3, generator=g) for s in ("text", "audio", "vision")}
    x["text"][:45], x["audio"][55:] = float("nan"), float("nan")
    with pytest.raises(ValueError, match="at least 40 clips with text, audio, vision, got 10"):
        dmsil.information_report(x, torch.randn(100, generator=g), permutations=0)
    x["vision"][0, 1] = float("nan")
    with pytest.raises(ValueError, match="vision: features hold 1 values that are not finite"):
        dmsil.information_report(x, torch.randn(100, generator=g), permutations=0)


def test_bayes_errors_of_subsets():
    world = Simulation()
    found = world.bayes_by_subset()
    assert len(found) == 7 and found["text+audio+vision"] == world.bayes_mae()
    sample = world.sample(20_000, seed=1, dtype=torch.float64)
    for subset, mae in found.items():
        x = {s: sample.x[s] for s in subset.split("+")}
        assert (bayes_prediction(world, x) - sample.y_m).abs().mean().item() == pytest.approx(mae, rel=0.03)


def test_the_page_says_what_was_measured():
    root = Path(__file__).resolve().parents[1]
    runs = [
        run for run in json.loads((root / "results" / "missing.json").read_text())["runs"] if run["set"] == "simulation"
    ]
    ratios = {
        arm: [{s: run["MAE"][s] / b for s, b in run["bayes"].items()} for run in runs if run["arm"] == arm]
        for arm in ("none", "dropout")
    }
    assert len(ratios["none"]) == len(ratios["dropout"]) == 5
    cells = json.loads((root / "nbs" / "tutorials" / "missing.ipynb").read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    told = re.findall(r"^\| ([a-z+]+) \| ([\d.]+) \| ([\d.]+) \|$", prose, re.M)
    mean = {arm: {s: np.mean([row[s] for row in rows]) for s in rows[0]} for arm, rows in ratios.items()}
    assert [(s, f"{mean['none'][s]:.2f}", f"{mean['dropout'][s]:.2f}") for s in mean["none"]] == told
    assert max(mean["dropout"].values()) < 1.08 and min(mean["dropout"].values()) > 1.01
    far = [value for row in ratios["dropout"] for value in row.values()]
    assert len(far) == 35 and max(far) < 1.1
