"Training end to end: the command line, exact resume after a kill, files of the field's layout, real clips."

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from safetensors.torch import load_file

import dmsil
from dmsil.checkpoints import load_model
from dmsil.clips import Split, Steps, Texts, Vectors, synthetic_clips
from dmsil.presets import preset
from dmsil.trainer import Trainer, batches, epoch_seed, forward_backward, train_epoch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SMALL = ["--measure", "kappa", "--device", "cpu", "--hidden", "8"]


def dmsil_cli(*words, **kwargs):
    env = dict(os.environ, **ONE_THREAD, **kwargs.pop("env", {}))
    return subprocess.run(
        [sys.executable, "-m", "dmsil.cli", *map(str, words)], capture_output=True, text=True, env=env, **kwargs
    )


def same(a: Path, b: Path) -> bool:
    x, y = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def field_file(path: Path, n=(48, 12, 16), seed=0, **changes) -> Path:
    "A file in the field's layout, with a label that the features know."
    rng = np.random.default_rng(seed)
    data = {}
    for part, size in zip(("train", "valid", "test"), n, strict=True):
        y = rng.uniform(-3, 3, size).astype(np.float32)
        ids = rng.integers(1000, 2000, (size, 12))
        ids[:, 0], ids[:, -1] = 101, 102  # [CLS] and [SEP]
        data[part] = {
            "id": [f"{part}$_${i}" for i in range(size)],
            "raw_text": ["good" if v > 0 else "bad" for v in y],
            "text_bert": np.stack([ids, np.ones_like(ids), np.zeros_like(ids)], 1).astype(np.float32),
            "text": (rng.normal(size=(size, 12, 8)) + y[:, None, None]).astype(np.float32),
            "audio": rng.normal(size=(size, 20, 5)).astype(np.float32),
            "audio_lengths": rng.integers(1, 21, size).tolist(),
            "vision": rng.normal(size=(size, 15, 20)).astype(np.float32),
            "vision_lengths": rng.integers(1, 16, size).tolist(),
            "regression_labels": y,
        }
    for (part, key), value in changes.pop("put", {}).items():
        data[part][key] = value
    for part, key in changes.pop("drop", ()):
        del data[part][key]
    path.write_bytes(pickle.dumps(data))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run that is never stopped."
    out = tmp_path_factory.mktemp("whole") / "run"
    end = dmsil_cli("train", "--preset", "dmsil_kappa", "--epochs", 6, "--seed", 3, *SMALL, "--out", out)
    assert end.returncode == 0, end.stderr
    return out


def test_a_run_writes_its_files(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert {
        "MAE",
        "Corr",
        "Has0_acc_2",
        "Non0_F1_score",
        "Mult_acc_7",
        "valid",
        "unimodal",
        "reference",
    } <= metrics.keys()
    assert metrics["reference"]["bayes_MAE"] < metrics["MAE"] < metrics["reference"]["mean_predictor_MAE"]
    rows = (whole / "history.csv").read_text().splitlines()
    assert len(rows) == 7 and rows[0].startswith("epoch,valid_MAE,valid_Corr,train_multimodal")
    assert json.loads((whole / "config.json").read_text())["train"]["seed"] == 3
    assert not list(whole.glob("*.tmp")) and not list(whole.glob(".*"))


@pytest.mark.parametrize("draw", range(2))
def test_killed_at_a_random_moment_and_resumed(whole, tmp_path, draw):
    words = ["train", "--preset", "dmsil_kappa", "--epochs", "6", "--seed", "3", *SMALL, "--out", str(tmp_path / "run")]
    moment = random.Random(draw)
    process = subprocess.Popen(
        [sys.executable, "-m", "dmsil.cli", *words],
        env=dict(os.environ, **ONE_THREAD),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    start = time.monotonic()
    while not (tmp_path / "run" / "history.csv").exists() and process.poll() is None and time.monotonic() - start < 120:
        time.sleep(0.02)
    time.sleep(moment.uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = dmsil_cli(*words, "--resume")
    assert end.returncode == 0, end.stderr
    assert same(whole, tmp_path / "run")


def test_a_stopped_run_may_go_on_longer(whole, tmp_path):
    words = ["train", "--preset", "dmsil_kappa", "--seed", 3, *SMALL, "--out", tmp_path / "run"]
    assert dmsil_cli(*words, "--epochs", 2).returncode == 0
    assert dmsil_cli(*words, "--epochs", 6, "--resume").returncode == 0
    assert same(whole, tmp_path / "run")
    end = refused("train", "--preset", "self_mm", "--seed", 3, "--device", "cpu", "--out", tmp_path / "run", "--resume")
    assert end.returncode == 2 and end.stderr.count("\n") == 1 and "--resume" in end.stderr


def test_a_damaged_state_is_refused(whole, tmp_path):
    (tmp_path / "state.safetensors").write_bytes((whole / "state.safetensors").read_bytes()[:5000])
    end = refused("train", "--preset", "dmsil_kappa", "--seed", 3, *SMALL, "--out", tmp_path, "--resume")
    assert (
        end.returncode == 2 and "state.safetensors: not a readable state" in end.stderr and end.stderr.count("\n") == 1
    )


def test_a_file_of_the_field_trains_and_resumes(tmp_path):
    path = field_file(tmp_path / "clips.pkl")
    words = ["train", "--data", path, "--frozen", "--device", "cpu", "--out", tmp_path / "run"]
    first = dmsil_cli(*words, "--epochs", 1)
    assert first.returncode == 0, first.stderr
    again = dmsil_cli(*words, "--epochs", 2, "--resume")
    assert again.returncode == 0, again.stderr
    assert {"metrics.json", "history.csv", "config.json", "model.safetensors"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    score = dmsil_cli("evaluate", tmp_path / "run")
    assert score.returncode == 0, score.stderr
    assert json.loads(score.stdout)["MAE"] == pytest.approx(
        json.loads((tmp_path / "run" / "metrics.json").read_text())["MAE"], abs=1e-6
    )


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def nan(n=16):
    "One value; a clip of nothing else would be a clip without audio."
    values = np.zeros((n, 20, 5), np.float32)
    values[3, 0, 2] = np.nan
    return values


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: p.write_bytes(pickle.dumps(Runs())), ["bad.pkl", "system"]),
        (lambda p: p.write_bytes(field_file(p).read_bytes()[:9000]), ["bad.pkl"]),
        (lambda p: field_file(p, drop=[("valid", "audio")]), ["bad.pkl", "valid", "audio"]),
        (lambda p: field_file(p, put={("test", "audio"): nan()}), ["bad.pkl", "test", "audio", "NaN"]),
        (
            lambda p: field_file(p, put={("train", "regression_labels"): np.full(48, 9, np.float32)}),
            ["bad.pkl", "train", "regression_labels", "9"],
        ),
    ],
    ids=["runs code", "truncated", "missing key", "NaN", "label range"],
)
def test_bad_files_end_in_one_line(tmp_path, monkeypatch, make, words):
    make(tmp_path / "bad.pkl")
    monkeypatch.chdir(tmp_path)
    end = refused("train", "--data", tmp_path / "bad.pkl", "--out", tmp_path / "run")
    assert end.returncode == 2 and end.stderr.count("\n") == 1, end.stderr
    assert all(word in end.stderr for word in words), end.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "ran").exists()


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    end = refused("train", "--epochs", 1, "--device", "cpu", "--out", tmp_path / "taken")
    assert end.returncode == 2 and "taken" in end.stderr and end.stderr.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize("n, size", [(1284, 32), (33, 32), (5, 4), (7, 100), (4, 4)])
def test_batches_hold_every_clip_once(n, size):
    parts = batches(n, size, torch.Generator().manual_seed(0))
    assert torch.cat(parts).sort().values.tolist() == list(range(n))
    assert max(map(len, parts)) <= size and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epoch_seeds_do_not_meet():
    assert len({epoch_seed(seed, epoch) for seed in range(1000, 1200) for epoch in range(200)}) == 200 * 200


@pytest.mark.parametrize("mode", ["dmsil", "self_mm", "dmsil_kappa"])
def test_every_clip_has_a_say_in_the_gradient(mode):
    "With accumulation, the last and smaller group is stepped, too."
    run = Trainer(synthetic_clips(n=(70, 10, 10), seed=0), preset(mode, batch_size=16, accumulate=3, device="cpu"))
    steps = []
    run.optimiser.register_step_pre_hook(lambda *_: steps.append(1))
    run.epoch = 1
    train_epoch(run)
    assert len(steps) == 2


def test_one_checkpoint_for_all_metrics(tmp_path):
    clips = synthetic_clips(n=(200, 60, 60), seed=0)
    run = dmsil.fit(clips, preset("self_mm", epochs=4, device="cpu"), tmp_path / "run", progress=False)
    best = min(run.history, key=lambda row: row["valid_MAE"])
    assert run.metrics["best_epoch"] == best["epoch"] and run.metrics["valid"]["MAE"] == pytest.approx(
        best["valid_MAE"], abs=1e-6
    )
    model, _ = load_model(tmp_path / "run")
    assert dmsil.evaluate(model, clips.test)["MAE"] == run.metrics["MAE"]


def test_fit_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    dmsil.fit(synthetic_clips(n=(40, 10, 10), seed=0), preset("self_mm", epochs=1, device="cpu"), progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_says_why_measured_pairs_are_shared_or_not():
    clips = synthetic_clips(n=(400, 60, 60))
    g = torch.Generator().manual_seed(3)
    deaf = [
        replace(split, inputs=split.inputs | {"vision": Vectors(torch.randn(len(split), 24, generator=g))})
        for split in (clips.train, clips.valid, clips.test)
    ]
    clips = replace(clips, **dict(zip(("train", "valid", "test"), deaf, strict=True)))
    run = dmsil.fit(clips, "dmsil_kappa", pairs="measured", epochs=1, progress=False)
    heard = run.metrics["heard"]
    assert {pair: row["share"] for pair, row in heard.items()} == {
        "text~audio": True,
        "text~vision": False,
        "audio~vision": False,
    }
    assert (
        set(run.pairs) == {("text", "audio")}
        and min(heard["text~audio"]["low"]) >= 0.25 > heard["text~vision"]["low"][1]
    )
    assert "text~audio shared: κ is at least" in run.table() and "text~vision left alone: κ" in run.table()
    named = dmsil.fit(clips, "dmsil_kappa", pairs={("text", "audio"): 1.0}, epochs=1, progress=False)
    assert "heard" not in named.metrics and "κ" not in named.table()


def test_seeds_make_the_run():
    clips = synthetic_clips(n=(80, 20, 20), seed=0)
    fit = lambda seed: dmsil.fit(clips, preset("dmsil", epochs=2, seed=seed, device="cpu"), progress=False).history[-1][
        "valid_MAE"
    ]
    assert fit(1) == fit(1) != fit(2)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    clips = synthetic_clips(n=(80, 20, 20), seed=0)
    broken = preset("self_mm", lr_heads=1e30, lr_encoders=1e30, epochs=3, device="cpu")
    with pytest.raises(FloatingPointError, match="not finite.*multimodal"):
        dmsil.fit(clips, broken, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "change", [{"layers": 2}, {"bidirectional": True}, {"sequence": "stats"}, {"layers": 2, "bidirectional": True}]
)
def test_sequences_of_length_one(change):
    part = lambda n: Split(
        tuple(f"{n}-{i}" for i in range(n)),
        {"audio": Steps(torch.randn(n, 6, 3), torch.ones(n, dtype=torch.long)), "pose": Vectors(torch.randn(n, 4))},
        torch.linspace(-1, 1, n),
        {},
    )
    clips = replace(synthetic_clips(n=(8, 8, 8)), train=part(24), valid=part(5), test=part(6), truth={})
    run = dmsil.fit(clips, "dmsil_kappa", epochs=1, device="cpu", progress=False, **change)
    assert np.isfinite(run.metrics["MAE"])


def test_text_alone_has_nothing_to_align():
    part = lambda n: Split(
        tuple(f"{n}-{i}" for i in range(n)),
        {"text": Texts(tuple("so " * i + "good" for i in range(n)))},
        torch.linspace(-1, 1, n),
        {},
    )
    clips = replace(synthetic_clips(n=(8, 8, 8)), train=part(9), valid=part(5), test=part(6), truth={})
    run = dmsil.fit(clips, "dmsil", frozen=True, epochs=1, device="cpu", progress=False)
    assert list(run.metrics["unimodal"]) == ["text"]


def test_a_step_reads_only_its_rows():
    "Features of clips outside the batch may be garbage."
    clips = synthetic_clips(n=(64, 10, 10), seed=0)
    spoilt = replace(
        clips.train,
        inputs={
            s: Vectors(x.values.index_fill(0, torch.arange(32, 64), float("nan")))
            for s, x in clips.train.inputs.items()
        },
    )
    run = Trainer(clips, preset("dmsil_kappa", labels="selfmm", pairs="all", device="cpu"))
    run.clips, run.epoch = replace(run.clips, train=spoilt), 2
    assert all(value.isfinite() for value in forward_backward(run, torch.arange(32)).values())


@pytest.mark.skipif(not (DATA / "mosi" / "upstream").exists(), reason="CMU-MOSI is not beside the project")
def test_real_clips_end_to_end(tmp_path):
    "Real MOSI, frozen text: better than the best simple baseline's neighbourhood after a few epochs, and resumable."
    env = {"DMSIL_MIRROR": str(DATA / "mosi" / "upstream"), "DMSIL_CACHE": str(tmp_path / "cache")}
    words = [
        "train",
        "--data",
        "mosi",
        "--preset",
        "dmsil_kappa",
        "--frozen",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    assert (end := dmsil_cli(*words, "--epochs", 2, env=env)).returncode == 0, end.stderr
    assert (end := dmsil_cli(*words, "--epochs", 6, "--resume", env=env)).returncode == 0, end.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["MAE"] < 1.1 < metrics["reference"]["mean_predictor_MAE"] and metrics["Corr"] > 0.5


COMPILED = pytest.param({"compile": True}, marks=pytest.mark.slow)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, COMPILED], ids=["bfloat16", "compile"])
def test_other_ways_to_run_agree(change, tmp_path):
    "bfloat16 autocast and torch.compile give nearly the same run, and a model that loads back."
    clips = synthetic_clips(n=(200, 60, 60), seed=0)
    plain, other = (
        dmsil.fit(clips, "dmsil_kappa", out, progress=False, dropout=0, epochs=2, device="cpu", **c)
        for c, out in (({}, None), (change, tmp_path / "run"))
    )
    assert other.metrics["MAE"] == pytest.approx(plain.metrics["MAE"], rel=0.05)
    model, _ = load_model(tmp_path / "run")
    assert dmsil.evaluate(model, clips.test)["MAE"] == pytest.approx(other.metrics["MAE"], rel=0.02)


@pytest.mark.parametrize("words", [["--preset", "selfmm"], ["--preset=selfmm"]])
def test_an_unknown_preset_is_refused(tmp_path, words):
    "It must not train something else under that name."
    end = refused("train", *words, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run")
    assert (
        end.returncode == 2 and end.stderr.count("\n") == 1 and "selfmm" in end.stderr and "dmsil_kappa" in end.stderr
    )
    assert not (tmp_path / "run").exists()


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Touches:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"identity": Touches()}, tmp_path / "state.safetensors")
    end = refused("train", "--epochs", 1, "--device", "cpu", "--out", tmp_path, "--resume")
    assert (
        end.returncode == 2 and "state.safetensors: not a readable state" in end.stderr and end.stderr.count("\n") == 1
    )
    assert not (tmp_path / "ran").exists()
