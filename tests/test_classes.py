"Labels that are classes, and one of several columns of labels: read, trained on, measured, predicted, resumed, or refused in one line."

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from sklearn.metrics import classification_report, f1_score, log_loss
from test_field_cases import dumped, one_line

import dmsil
from dmsil import DataError, load_clips
from dmsil.cli import main
from dmsil.clips import synthetic_clips
from dmsil.combinations import grid
from dmsil.metrics import sentiment_metrics
from dmsil.model import ModelConfig
from dmsil.objective import multitask_loss
from dmsil.prediction import class_shares
from dmsil.tables import clips_from_table
from dmsil.trainer import as_allowed

THREE = ("negative", "neutral", "positive")
FAST = {"epochs": 2, "progress": False, "device": "cpu"}
N = 90


def table(folder: Path, labels, name="t.csv", head="label", groups=True) -> Path:
    rows = [f"c{k},{label},p{k // 3}" for k, label in enumerate(labels)]
    (folder / name).write_text("\n".join([f"id,{head},group", *rows]), encoding="utf-8")
    return folder / name


def faces(classes=3, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + rng.normal(size=(N, 4)) + 2 * (np.arange(N) % classes)[:, None]


def words(names=THREE) -> list[str]:
    return [names[k % len(names)] for k in range(N)]


# ---- what is read


@pytest.mark.parametrize("labels, task, names", [
    (words(), None, THREE), (words(("Positive", "Neutral", "Negative")), None, ("Negative", "Neutral", "Positive")),
    (words(("joy", "anger", "fear", "sad")), None, ("anger", "fear", "joy", "sad")), ([k % 3 - 1 for k in range(N)], "classes", ("-1", "0", "1")),
    ([f"{k % 11}.0" for k in range(N)], "classes", tuple(map(str, range(11)))), (words(("好", "坏")), None, ("坏", "好"))])  # fmt: skip
def test_classes_of_a_table(tmp_path, labels, task, names):
    clips = clips_from_table(table(tmp_path, labels), {"face": faces()}, task=task)
    assert set(clips.classes) == set(names) and (clips.classes == names or names[0] == "坏")
    assert clips.bound == len(names) - 1
    for split in clips.splits.values():
        for clip, y in zip(split.ids, split.labels.tolist(), strict=True):
            want = str(labels[int(clip[1:])]).removesuffix(".0")
            assert clips.classes[int(y)] == want
    assert any(f"{len(names)} classes" in note for note in clips.notes)


@pytest.mark.parametrize("labels, task, said", [
    ([*words()[:-1], "0.5"], None, "line 2, label: found 'negative'; expected a number"), ([*words()[:-1], ""], None, "line 91, label: found ''; expected a class"),
    ([*words()[:-1], "Positive"], None, "found positive and Positive; expected one spelling"), ([f"word{k}" for k in range(N)], None, "found 90 different labels of 90 clips"),
    (["same"] * N, None, "found 'same'; expected a number such as -1.5, or classes"), ([k / 10 for k in range(N)], "classes", "line 3, label: found '0.1'; expected a class"),
    ([1] * N, "classes", "found 1 different labels of 90 clips, such as 1; expected numbers, or the names of 2 or more classes"), (words(), "regression", "found 'negative'; expected a number")])  # fmt: skip
def test_classes_of_a_table_that_are_none(tmp_path, labels, task, said):
    one_line(lambda: clips_from_table(table(tmp_path, labels), {"face": faces()}, task=task), "t.csv: ", said)


def test_one_hot_columns(tmp_path):
    hot = [f"{int(k % 3 == 0)},{int(k % 3 == 1)},{int(k % 3 == 2)}" for k in range(N)]
    path = table(tmp_path, hot, head="sad,calm,glad")
    clips = clips_from_table(path, {"face": faces()}, target=("sad", "calm", "glad"))
    assert clips.classes == ("calm", "glad", "sad") and clips.train.labels.unique().tolist() == [0, 1, 2]
    assert clips_from_table(path, {"face": faces()}, target="glad", task="classes").classes == ("0", "1")
    one_line(
        lambda: clips_from_table(path, {"face": faces()}),
        "0 columns label among id, sad, calm, glad, group",
        "target=…",
    )
    one_line(lambda: clips_from_table(path, {"face": faces()}, target=("sad", "merry")), "0 columns merry")
    path = table(tmp_path, [*hot[:-1], "1,1,0"], head="sad,calm,glad")
    one_line(
        lambda: clips_from_table(path, {"face": faces()}, target=("sad", "calm", "glad")),
        "line 91, sad, calm, glad: found 1, 1, 0",
    )


@pytest.mark.parametrize("head, found", [("Sentiment", "Sentiment"), ("emotion", "emotion")])
def test_a_label_under_another_name(tmp_path, head, found):
    clips = clips_from_table(table(tmp_path, [k % 5 - 2 for k in range(N)], head=head), {"face": faces()})
    assert f"label: the column {found}" in clips.notes and clips.train.labels.min() == -2


def test_several_targets(tmp_path):
    path = table(tmp_path, [f"{k % 5 - 2},{k % 7 - 3}" for k in range(N)], head="Calm,Excited")
    for target, m in (("Calm", 5), ("Excited", 7)):
        clips = clips_from_table(path, {"face": faces()}, target=target)
        assert [clips.train.labels[k] for k in range(5)] == [int(c[1:]) % m - m // 2 for c in clips.train.ids[:5]]
    one_line(
        lambda: clips_from_table(path, {"face": faces()}, target="Angry"),
        "0 columns Angry among id, Calm, Excited, group",
    )


def change(make):
    "A split with other labels, made of the old ones."
    return lambda s: {k: v for k, v in s.items() if k != "regression_labels"} | make(s["regression_labels"])


SIGNS = lambda y: np.sign(y).astype(int) + 1  # noqa: E731
PICKLES = {
    "numbers 0, 1, 2": (lambda y: {"classification_labels": SIGNS(y)}, THREE),
    "annotations": (lambda y: {"annotations": [THREE[k].title() for k in SIGNS(y)]}, tuple(map(str.title, THREE))),
    "named": (lambda y: {"classification_labels": SIGNS(y), "annotations": [("bad", "so so", "good")[k] for k in SIGNS(y)]}, ("bad", "good", "so so")),
    "two": (lambda y: {"classification_labels": (y > 0).astype(int)}, ("0", "1")),
    "one-hot": (lambda y: {"labels": np.eye(3)[SIGNS(y)]}, ("0", "1", "2")),
    "words": (lambda y: {"labels": np.array([("sad", "glad")[int(v > 0)] for v in y])}, ("glad", "sad")),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_classes_of_a_pickle(tmp_path, name):
    make, names = PICKLES[name]
    clips, plain = load_clips(dumped(tmp_path, change=change(make))), load_clips(dumped(tmp_path, "b.pkl"))
    assert clips.classes == names
    for part in ("train", "valid", "test"):
        ours, y = getattr(clips, part).labels.long().numpy(), getattr(plain, part).labels.numpy()
        number = {"named": lambda v: (0, 2, 1)[v], "words": lambda v: v}.get(name, lambda v: v)
        want = [number(int(v)) for v in ((y <= 0) if name == "words" else (y > 0) if name == "two" else SIGNS(y))]
        assert ours.tolist() == want


def test_both_kinds_of_labels_in_a_pickle(tmp_path):
    path = dumped(tmp_path, change=lambda s: s | {"classification_labels": SIGNS(s["regression_labels"])})
    assert load_clips(path).classes == () and load_clips(path, task="classes").classes == THREE
    assert load_clips(path, target="classification_labels").classes == THREE
    one_line(
        lambda: load_clips(dumped(tmp_path), task="classes"),
        "train.regression_labels: found",
        "expected classes: words or whole numbers",
    )


def test_columns_of_a_pickle(tmp_path):
    seven = lambda s: (
        s
        | {
            "regression_labels": np.column_stack(
                [s["regression_labels"], np.abs(s["audio"][:, 0, :1]).repeat(6, 1).clip(0, 3)]
            )
        }
    )  # noqa: E731
    path = dumped(tmp_path, change=seven)
    assert load_clips(path).train.labels.min() < 0 and load_clips(path, target="fear").train.labels.min() >= 0
    one_line(
        lambda: load_clips(path, target="envy"),
        "no column envy; expected",
        "sentiment, happy, sad, anger, surprise, disgust, fear",
    )
    four = lambda s: s | {"regression_labels": np.eye(2, dtype=int)[np.arange(4 * len(s["id"])).reshape(-1, 4) % 3 % 2]}  # noqa: E731
    one_line(lambda: load_clips(dumped(tmp_path, change=four)), "name the target, one of 0, 1, 2, 3")
    assert set(load_clips(dumped(tmp_path, change=four), target="2", task="classes").train.labels.tolist()) == {0, 1}


def test_classes_survive_being_saved(tmp_path):
    clips = load_clips(dumped(tmp_path, change=change(PICKLES["named"][0])))
    again = load_clips(dmsil.save_clips(clips, tmp_path / "again.pkl"))
    assert again.classes == clips.classes and torch.equal(again.test.labels, clips.test.labels)


def test_cuts():
    clips = synthetic_clips(n=(30, 5, 5))
    three = clips.in_classes(-0.5, 0.5)
    y, at = clips.train.labels, three.train.labels
    assert three.classes == THREE and torch.equal(at, (y > -0.5).float() + (y > 0.5).float())
    assert clips.in_classes(0.0, names=("no", "yes")).classes == ("no", "yes") and three.truth == {}
    for wrong in (
        lambda: clips.in_classes(),
        lambda: three.in_classes(0.0),
        lambda: clips.in_classes(1.0, 1.0),
        lambda: clips.in_classes(0.0, names=("a",)),
    ):
        with pytest.raises(DataError):
            wrong()


# ---- metrics


@pytest.mark.parametrize("names", [THREE, ("a", "b"), ("a", "b", "c", "d", "e")])
@pytest.mark.parametrize("scores", [True, False])
def test_perfect_predictions_are_perfect_everywhere(names, scores):
    truth = np.arange(20) % len(names)
    found = sentiment_metrics(np.eye(len(names))[truth] if scores else truth, truth, classes=names)
    flat = [v for k, v in found.items() if isinstance(v, float) and k != "NLL"] + [
        v for row in found["classes"].values() for v in list(row.values())[:3]
    ]
    assert set(flat) == {1.0} and found["NLL"] == pytest.approx(0)
    assert ("Non0_acc_2" in found) == (names == THREE)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    found, pred = sentiment_metrics(torch.tensor(logits), truth, classes=THREE), logits.argmax(1)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["NLL"] == pytest.approx(log_loss(truth, p), rel=1e-6)
    assert found["Macro_F1"] == pytest.approx(f1_score(truth, pred, average="macro"))
    assert found["Weighted_F1"] == pytest.approx(f1_score(truth, pred, average="weighted"))
    report = classification_report(truth, pred, output_dict=True)
    for k, name in enumerate(THREE):
        assert [found["classes"][name][x] for x in ("precision", "recall", "F1")] == pytest.approx(
            [report[str(k)][x] for x in ("precision", "recall", "f1-score")]
        )
    assert np.sum(found["confusion"]) == 200 and np.trace(found["confusion"]) == pytest.approx(200 * found["Accuracy"])
    kept = truth != 1
    assert found["Has0_acc_2"] == np.mean((pred >= 1) == (truth >= 1))
    assert found["Non0_acc_2"] == np.mean((logits[kept, 2] > logits[kept, 0]) == (truth[kept] == 2))


def test_a_class_that_is_nowhere_is_nan_and_not_counted():
    found = sentiment_metrics(np.array([0, 1, 1]), np.array([0, 1, 0]), classes=THREE)
    assert np.isnan(found["classes"]["positive"]["F1"]) and found["Macro_F1"] == pytest.approx(np.mean([2 / 3, 2 / 3]))
    for wrong in (np.array([0, 3]), np.array([0.5, 1])):
        with pytest.raises(ValueError, match="classes from 0 to 2"):
            sentiment_metrics(np.eye(3)[[0, 1]], wrong, classes=THREE)


def test_the_loss_is_cross_entropy():
    g = torch.Generator().manual_seed(0)
    logits, y, W = torch.randn(6, 4, generator=g), torch.tensor([0.0, 3, 1, 2, 2, 0]), torch.rand(6, generator=g)
    terms = multitask_loss({"fusion": logits, "face": -logits}, {"fusion": y, "face": y}, {"face": W})
    nats = lambda x: -x.log_softmax(1)[torch.arange(6), y.long()]  # noqa: E731
    assert terms.multimodal == pytest.approx(nats(logits).mean().item()) and terms.unimodal["face"] == pytest.approx(
        (W * nats(-logits)).mean().item()
    )
    present = {"face": torch.tensor([True, False, True, False, False, True])}
    masked = multitask_loss({"fusion": logits, "face": -logits}, {"fusion": y, "face": y}, {"face": W}, present=present)
    assert masked.unimodal["face"] == pytest.approx((W * nats(-logits))[present["face"]].mean().item())


# ---- training


@pytest.fixture(scope="module")
def clips():
    return synthetic_clips(n=(200, 60, 60)).in_classes(-0.5, 0.5)


@pytest.mark.parametrize("preset", ["dmsil_kappa", "dmsil", "self_mm"])
def test_every_preset_trains_on_classes(clips, preset):
    run = dmsil.fit(clips, preset, **FAST | {"epochs": 4})
    m = run.metrics
    assert m["Accuracy"] > m["reference"]["majority_accuracy"] and m["NLL"] < m["reference"]["shares_NLL"]
    assert set(m["unimodal"]) == {"text", "audio", "vision"} and "MAE" not in m
    assert run.config.labels == "copy" and run.config.floor > 0 and run.history[-1]["train_text"] > 0
    assert [row["valid_NLL"] for row in run.history][m["best_epoch"] - 1] == pytest.approx(
        m["valid"]["NLL"], rel=1e-5
    ) or preset == "dmsil_kappa"
    assert any("these are classes" in note for note in run.clips.notes)


def test_training_begins_at_the_shares(clips):
    from dmsil.trainer import Trainer

    run = Trainer(clips, as_allowed(clips, dmsil.preset("dmsil_kappa", device="cpu"))[1])
    bias = run.model.heads["fusion"].predict[-1].bias.detach()
    assert bias.shape == (3,) and class_shares(clips).sum() == pytest.approx(1)
    plain = Trainer(clips, dmsil.preset("self_mm", device="cpu", aligned=0)).model.heads["fusion"].predict[-1].bias
    assert plain.shape == (3,)


def test_what_needs_numbers_is_refused_or_replaced(clips):
    with pytest.raises(DataError, match="share='measured'"):
        dmsil.fit(clips, "dmsil_kappa", share="measured", **FAST)
    with pytest.raises(DataError, match="classes=0"):
        dmsil.fit(clips, "dmsil_kappa", classes=5, **FAST)
    with pytest.raises(DataError, match="a grid compares errors of numbers"):
        grid(clips, progress=False)
    few = synthetic_clips(n=(12, 4, 4))
    run = dmsil.fit(few, **FAST)
    assert run.config.labels == "copy" and any("20 clips, and train has 12" in note for note in run.clips.notes)
    assert dmsil.fit(clips, labels="none", **FAST).generator is None


def test_missing_modalities_and_subsets(clips):
    from dmsil.missing import with_missing

    run = dmsil.fit(with_missing(clips, 0.3), modality_dropout=0.3, **FAST)
    assert len(run.metrics["subsets"]) == 7 and all(
        {"Accuracy", "NLL", "clips"} <= set(m) for m in run.metrics["subsets"].values()
    )


def test_a_report_has_pairs_alone(clips):
    report = dmsil.fit(clips, **FAST).report(permutations=39)
    assert (
        len(report.pairs) == 3
        and report.modalities == {}
        and any("about the label: nothing" in note for note in report.notes)
    )
    assert "about the label (nats)" not in repr(report) and "shared (nats)" in report._repr_html_()
    assert json.loads(json.dumps(report.to_dict()))["together"] is None and report.plot()


def test_resumed_runs_are_bit_identical(clips, tmp_path):
    whole = dmsil.fit(clips, out=tmp_path / "a", **FAST | {"epochs": 3})
    dmsil.fit(clips, out=tmp_path / "b", **FAST | {"epochs": 1})
    dmsil.fit(clips, out=tmp_path / "b", resume=True, **FAST | {"epochs": 3})
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    other = replace(clips, train=replace(clips.train, labels=2 - clips.train.labels))
    one_line(
        lambda: dmsil.fit(other, out=tmp_path / "b", resume=True, **FAST | {"epochs": 4}), "data labels was", "--resume"
    )
    assert whole.metrics["Accuracy"] == json.loads((tmp_path / "b/metrics.json").read_text())["Accuracy"]


def test_a_state_of_an_earlier_version_goes_on(tmp_path):
    from dmsil.checkpoints import read_tree, write_tree

    clips = synthetic_clips(n=(40, 8, 8))
    dmsil.fit(clips, out=tmp_path, **FAST | {"epochs": 1})
    state = read_tree(tmp_path / "state.safetensors")
    del state["identity"]["model"]["classes"], state["identity"]["model"]["missing"]
    write_tree(tmp_path / "state.safetensors", state)
    assert dmsil.fit(clips, out=tmp_path, resume=True, **FAST).metrics["epochs"] == 2


PROCESS = """
import sys, torch, dmsil
from dmsil.clips import synthetic_clips
from dmsil.combinations import grid
torch.set_num_threads(1)
run = dmsil.fit(synthetic_clips(n=(60, 10, 10)).in_classes(-0.5, 0.5), "dmsil_kappa", sys.argv[1], epochs=2, progress=False, device="cpu", dropout=0.0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_train_as_one_does(tmp_path):
    (tmp_path / "go.py").write_text(PROCESS)
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29777", "OMP_NUM_THREADS": "1"}
    spawn = lambda out, **more: subprocess.Popen([sys.executable, tmp_path / "go.py", tmp_path / out], env=env | more)  # noqa: E731
    two = [spawn("two", RANK=str(k), LOCAL_RANK=str(k), WORLD_SIZE="2") for k in (0, 1)]
    assert [p.wait(120) for p in two] == [0, 0] and spawn("one").wait(120) == 0
    one, both = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert both["NLL"] == pytest.approx(one["NLL"], abs=1e-4) and both["confusion"] == one["confusion"]


# ---- from a shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    "A table of words, arrays, and a run of theirs."
    folder = tmp_path_factory.mktemp("shell")
    np.save(folder / "face.npy", faces())
    np.savez(folder / "voice.npz", values=np.random.default_rng(1).normal(size=(N, 3)), ids=[f"c{k}" for k in range(N)])
    table(folder, [f"{w},{k % 5 - 2}" for k, w in enumerate(words())], head="mood,Excited")
    arrays = ("--arrays", f"face={folder / 'face.npy'}", f"voice={folder / 'voice.npz'}")
    train = ("train", "--data", str(folder / "t.csv"), *arrays, "--epochs", "3", "--device", "cpu")
    main([*train, "--target", "mood", "--out", str(folder / "r")])
    main([*train, "--target", "Excited", "--out", str(folder / "e")])
    return folder, arrays


def test_a_run_opens_its_clips_again(shell, capsys):
    folder, arrays = shell
    for name, measure in (("r", "Accuracy"), ("e", "MAE")):
        main(["evaluate", str(folder / name)])
        again = json.loads(capsys.readouterr().out)
        main(["evaluate", str(folder / name), "--data", str(folder / "t.csv"), *arrays])
        found, saved = json.loads(capsys.readouterr().out), json.loads((folder / name / "metrics.json").read_text())
        assert (
            found[measure] == again[measure] == pytest.approx(saved[measure]) and found["unimodal"] == again["unimodal"]
        )


def test_other_clips_are_scaled_as_the_run_was(shell, capsys):
    folder, _ = shell
    some = [k for k in range(N) if k % 3]  # no negative clip: another mean, other classes, another order of them
    rows = [f"c{k},{words()[k]},p{k // 3}" for k in some[::-1]]
    (folder / "other.csv").write_text("\n".join(["id,mood,group", *rows]))
    np.save(folder / "some.npy", faces()[some[::-1]])
    main(
        [
            "predict",
            str(folder / "r"),
            str(folder / "t.csv"),
            "--arrays",
            f"face={folder / 'face.npy'}",
            f"voice={folder / 'voice.npz'}",
            "--out",
            str(folder / "p.csv"),
        ]
    )
    main(
        [
            "predict",
            str(folder / "r"),
            str(folder / "other.csv"),
            "--arrays",
            f"face={folder / 'some.npy'}",
            f"voice={folder / 'voice.npz'}",
            "--out",
            str(folder / "q.json"),
        ]
    )
    whole = {line.split(",")[0]: line.split(",")[1:5] for line in (folder / "p.csv").read_text().split()[1:]}
    part = json.loads((folder / "q.json").read_text())["cues"]
    assert [row["clip"] for row in part] == [f"c{k}" for k in some[::-1]]
    for row in part:
        name, *shares = whole[row["clip"]]
        assert row["prediction"] == name and [row[f"p_{c}"] for c in THREE] == pytest.approx(
            list(map(float, shares)), abs=2e-3
        )
    capsys.readouterr()
    main(
        [
            "evaluate",
            str(folder / "r"),
            "--data",
            str(folder / "other.csv"),
            "--arrays",
            f"face={folder / 'some.npy'}",
            f"voice={folder / 'voice.npz'}",
        ]
    )
    counted = json.loads(capsys.readouterr().out)["confusion"]
    assert sum(counted[0]) == 0 and sum(map(sum, counted)) > 5


def test_wrong_clips_for_a_run_with_classes(shell):
    folder, arrays = shell
    table(folder, words(("glad", "sad")), "glad.csv", head="mood")
    table(folder, [k % 3 - 1 for k in range(N)], "numbers.csv", head="mood")
    for data, said in (
        ("glad.csv", "found the class glad; expected negative, neutral, positive, as r was trained on"),
        ("numbers.csv", "found numbers; expected the classes negative, neutral, positive"),
    ):
        end = refused("evaluate", folder / "r", "--data", folder / data, *arrays)
        assert end.returncode == 2 and said in end.stderr and end.stderr.count("\n") == 1
    end = refused("evaluate", folder / "e", "--target", "mood")
    assert (
        end.returncode == 2
        and "found the classes negative, neutral, positive; expected numbers, as e was trained on" in end.stderr
    )


@pytest.mark.parametrize("line, said", [
    (["train", "--data", "T"], "0 columns label among id, mood, Excited, group; expected one, or the name of the column to train on, --target …"),
    (["train", "--data", "T", "--target", "moods"], "0 columns moods"), (["train", "--data", "T", "--target", "Excited", "--task", "classes", "--cuts", "0", "0"], "different cuts"),
    (["labels", "T", "--target", "mood"], "expected numbers"), (["grid", "--data", "T", "--target", "mood"], "a grid compares errors"),
    (["report", "T", "--target", "mood", "--data", "synthetic"], "--data: found synthetic"), (["train", "--data", "synthetic", "--target", "x"], "--target x"),
    (["train", "--data", "synthetic", "--task", "classes"], "--cuts -0.5 0.5"), (["train", "--data", "synthetic", "--dataset", "sims"], "--dataset sims"),
    (["train", "--data", "synthetic", "--centre", "3"], "--centre 3"), (["train", "--data", "T", "--target", "mood", "--columns", "text"], "--columns: found text")])  # fmt: skip
def test_wrong_options(shell, line, said):
    folder, arrays = shell
    words = [str(folder / "t.csv") if w == "T" else w for w in line]
    end = refused(
        *words, *(arrays if "T" in line else ()), *(("--out", folder / "never") if line[0] != "report" else ())
    )
    assert end.returncode == 2 and said in end.stderr and end.stderr.count("\n") == 1, end.stderr


def test_classes_are_named_to_evaluate(clips):
    run = dmsil.fit(clips, **FAST)
    with pytest.raises(ValueError, match="classes needs the names .* logits of 3 classes; got none"):
        dmsil.evaluate(run.model, run.clips.test)
    with pytest.raises(ValueError, match="logits of 3 classes; got a, b"):
        dmsil.evaluate(run.model, run.clips.test, classes=("a", "b"))
    assert "Accuracy" in dmsil.evaluate(run.model, run.clips.test, classes=run.clips.classes)


@pytest.mark.parametrize(
    "words, said",
    [
        (("nowhere.csv",), "nowhere.csv: found No such file"),
        (("nowhere.safetensors",), "nowhere.safetensors: found no such file; expected a file that dmsil features made"),
        (("talk.safetensors", "--clean"), "talk.safetensors: found --clean; expected no clean"),
        (("talk.safetensors", "--target", "a", "b"), "talk.safetensors: found --target a, b; expected no target"),
    ],
)
def test_what_is_predicted_goes_by_its_name(shell, capsys, monkeypatch, words, said):
    line = ["predict", str(shell[0] / "r"), *words]
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 2 and said in (told := capsys.readouterr().err) and told.count("\n") == 1
    monkeypatch.setenv("DMSIL_TRACEBACK", "1")
    with pytest.raises(DataError, match=re.escape(said.split(":")[0])):
        main(line)


@pytest.mark.parametrize(
    "word, said",
    [("train", "; the same command with --resume goes on"), ("grid", "; the same command goes on"), ("report", "")],
)
def test_what_goes_on_after_ctrl_c(monkeypatch, capsys, word, said):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmsil.cli.parsed", stopped)
    with pytest.raises(SystemExit) as end:
        main([word])
    assert end.value.code == 130 and capsys.readouterr().err == f"dmsil: stopped{said}\n"


def test_report_on_a_table_and_on_a_run(shell, capsys):
    folder, arrays = shell
    main(["report", str(folder / "t.csv"), *arrays, "--target", "mood", "--permutations", "39", "--margin", "0.2"])
    said = json.loads(capsys.readouterr().out)
    assert said["modalities"] == {} and said["margin"] == 0.2
    main(["report", str(folder / "e"), "--split", "train", "--permutations", "39"])
    assert set(json.loads(capsys.readouterr().out)["modalities"]) == {"face", "voice"}


def test_output_under_a_windows_code_page(shell, tmp_path):
    folder, arrays = shell
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    table(tmp_path, words(("好", "坏")))
    words_ = [
        "train",
        "--data",
        tmp_path / "t.csv",
        *arrays,
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "r",
    ]
    end = subprocess.run([sys.executable, "-m", "dmsil", *words_], env=env, capture_output=True)
    assert end.returncode == 0 and b"saved in" in end.stdout and b"2 classes, \\u574f, \\u597d" in end.stdout, (
        end.stderr
    )


@pytest.mark.parametrize("change, said", [
    (lambda c: "{", "no readable JSON"), (lambda c: "[]", "no such part"), (lambda c: json.dumps(c | {"model": c["model"] | {"attention": 3}}), "options attention; expected a run of this version"),
    (lambda c: json.dumps(c | {"clips": c["clips"] | {"classes": ["a"]}}), "expected 3 names"), (lambda c: json.dumps(c | {"specs": {"face": ["vectors", 9]}}), "make no model"),
    (lambda c: json.dumps({k: v for k, v in c.items() if k != "train"}), "train: found no such part"), (lambda c: json.dumps(c | {"model": c["model"] | {"hidden": "wide"}}), "make no model")])  # fmt: skip
def test_saved_runs_that_are_damaged_or_of_later_versions(shell, tmp_path, change, said):
    folder, _ = shell
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / "r" / name).read_bytes())
    (tmp_path / "config.json").write_text(change(json.loads((tmp_path / "config.json").read_text())))
    for line in (["evaluate", tmp_path], ["predict", tmp_path, folder / "t.csv"], ["report", tmp_path]):
        end = refused(*line)
        assert end.returncode == 2 and said in end.stderr and end.stderr.count("\n") == 1, end.stderr


def test_a_run_of_an_earlier_version_is_read(shell, tmp_path, capsys):
    folder, _ = shell
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / "e" / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    old = {k: v for k, v in config["clips"].items() if k in ("name", "dataset", "bound", "scale", "notes")}
    del config["model"]["classes"], config["model"]["missing"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"clips": old}))
    main(["predict", str(tmp_path), str(folder / "t.csv"), *shell[1]])
    assert "labels from -3 to 3" in capsys.readouterr().out


def test_pickled_classes_from_a_shell(tmp_path, capsys):
    path = dumped(tmp_path, change=change(PICKLES["numbers 0, 1, 2"][0]))
    main(["train", "--data", str(path), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "r")])
    assert "negative, neutral, positive, as in MMSA's files" in capsys.readouterr().out
    main(["evaluate", str(tmp_path / "r")])
    assert "Non0_acc_2" in json.loads(capsys.readouterr().out)
    assert ModelConfig().classes == 0
