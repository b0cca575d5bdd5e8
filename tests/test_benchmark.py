"The benchmark's own parts: its file, its step, its refusals. No time is asserted anywhere."

import ast
import json
import sys
from pathlib import Path

import benchmark as bench
import pytest
import torch

from dmsil.clips import Split, Steps, Vectors
from dmsil.model import Spec
from dmsil.pickles import load_clips

ROOT = Path(__file__).resolve().parents[1]


def test_its_module_needs_torch_and_numpy_alone():
    "MMSA's interpreter imports it, and has nothing else of ours."
    for node in ast.parse((ROOT / "tools" / "benchmark.py").read_text(encoding="utf-8")).body:
        names = (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "sys")]
        )
        assert all(name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "torch"} for name in names)


def test_file_without_the_corpus(tmp_path):
    source = bench.write_clips(tmp_path / "x.pkl", corpus=tmp_path / "absent", n=(20, 6, 5))
    clips = load_clips(tmp_path / "x.pkl", dataset="mosi")
    assert source == "simulated words"
    assert [len(part) for part in (clips.train, clips.valid, clips.test)] == [20, 6, 5]
    audio, vision = clips.train.inputs["audio"], clips.train.inputs["vision"]
    assert audio.values.shape == (20, 500, 5) and vision.values.shape == (20, 375, 20)
    assert all((x.values[i, x.lengths[i] :] == 0).all() for x in (audio, vision) for i in range(20))
    assert clips.train.inputs["text"].ids.shape[1] <= 50
    with pytest.raises(FileNotFoundError, match="short clips"):
        bench.write_clips(tmp_path / "y.pkl", "short", tmp_path / "absent")


def test_file_of_real_clips(tmp_path, mosi_folder):
    for kind, widths in {"mosi": (5, 20), "short": (8, 73)}.items():
        assert bench.write_clips(tmp_path / kind, kind, mosi_folder, (12, 4, 4)) == "CMU-MOSI"
        part = load_clips(tmp_path / kind, dataset="mosi").train
        assert tuple(part.inputs[s].values.shape[2] for s in ("audio", "vision")) == widths
        assert part.labels.abs().max() <= 3 and part.labels.unique().numel() > 3


class Plain:
    "Self-MM as its authors write it: batch by batch, centres averaged over all clips after every batch."

    def __init__(self, clips, model):
        n = len(clips.train)
        self.clips, self.model, self.optimiser, self.epoch = clips, model, bench.adam(model), 0
        self.y = {s: clips.train.labels.clone() for s in bench.FEATURES}
        self.F = {s: torch.zeros(n, d) for s, d in bench.FEATURES.items()}

    def centres(self):
        return {s: (self.F[s][self.y[s] > 0].mean(0), self.F[s][self.y[s] < 0].mean(0)) for s in self.F}

    def relabel(self, features, rows):
        def delta(s):
            positive, negative = ((features[s] - c).norm(dim=1) for c in self.C[s])
            return (negative - positive) / (positive + 1e-8)

        fused, y, e = delta("fusion"), self.y["fusion"][rows], self.epoch
        for s in list(self.y)[1:]:
            new = 0.5 * delta(s) / (fused + 1e-8) * y + 0.5 * (y + delta(s) - fused)
            self.y[s][rows] = (e - 1) / (e + 1) * self.y[s][rows] + 2 / (e + 1) * new.clamp(-3, 3)

    def train_epoch(self, order):
        self.epoch += 1
        self.model.train()
        for k, rows in enumerate(order.split(bench.BATCH)):
            if k % bench.ACCUMULATE == 0:
                self.optimiser.zero_grad()
            out = self.model({name: x.take(rows) for name, x in self.clips.train.inputs.items()})
            W = {s: (self.y[s][rows] - self.y["fusion"][rows]).abs().tanh() if s != "fusion" else 1 for s in self.y}
            sum((W[s] * (out.predictions[s] - self.y[s][rows]).abs()).mean() for s in self.y).backward()
            features = {s: h.detach() for s, h in out.features.items()}
            if self.epoch > 1:
                self.relabel(features, rows)
            for s in self.F:
                self.F[s][rows] = features[s]
            self.C = self.centres()
            if k % bench.ACCUMULATE == bench.ACCUMULATE - 1:
                self.optimiser.step()


def small_clips(n: int = 150):
    g = torch.Generator().manual_seed(0)
    x = lambda *shape: torch.randn(*shape, generator=g)
    lengths = torch.randint(1, 12, (n,), generator=g)
    inputs = {"text": Vectors(x(n, 384)), "audio": Steps(x(n, 11, 5), lengths), "vision": Steps(x(n, 11, 20), lengths)}
    labels = (inputs["text"].values[:, 0] + 0.3 * x(n)).clamp(-3, 3)
    split = Split(tuple(map(str, range(n))), inputs, labels)
    return type("Clips", (), {"train": split, "valid": split})


def small_network():
    torch.manual_seed(3)
    model = bench.network({"audio": Spec("steps", 5), "vision": Spec("steps", 20)}, bench.Table())
    bench.without_dropout(model)
    return model


def test_batches_run_together_are_batches_run_apart():
    "150 clips: two full groups of four batches, and two batches that reach no step."
    clips, g = small_clips(), torch.Generator().manual_seed(1)
    apart, together = Plain(clips, small_network()), bench.OurRun(clips, small_network())
    for _ in range(3):
        order = torch.randperm(150, generator=g)
        apart.train_epoch(order)
        together.train_epoch(order)
    for a, b in zip(apart.model.parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    moved = 0
    for s, y in together.generator.labels.items():
        gap = (apart.y[s] - y).abs()
        assert gap.median() < 1e-5 and gap.quantile(0.95) < 1e-3
        moved += (y - clips.train.labels).abs().mean()
    assert moved > 0.05


def test_every_weight_has_a_name_at_mmsa():
    names = [bench.mmsa_name(name) for name in small_network().state_dict()]
    assert len(set(names)) == len(names)
    heads = {f"post_{s}_layer_{i}" for s in ("fusion", "text", "audio", "video") for i in (1, 2, 3)}
    assert {name.split(".")[1] for name in names} == {"audio_model", "video_model"} | heads
    assert (
        bench.mmsa_name("encoders.text.bert.embeddings.LayerNorm.weight")
        == "Model.text_model.model.embeddings.LayerNorm.weight"
    )


def test_adam_decays_what_mmsa_decays():
    groups = bench.adam(small_network()).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(5e-3, 1e-3), (1e-3, 1e-3)}


def test_agreement_is_checked():
    import numpy as np

    same = {name: np.linspace(0, 1, 1000) for name in ("prediction_fusion", "label_text", "centre_text")}
    assert bench.agrees(bench.agreement(same, same))
    few = same | {"label_text": same["label_text"] + np.where(np.arange(1000) < 5, 2e-7, 0)}
    assert bench.agrees(bench.agreement(few, same))
    many = same | {"label_text": same["label_text"] + np.where(np.arange(1000) < 20, 2e-7, 0)}
    assert not bench.agrees(bench.agreement(many, same))
    far = same | {"prediction_fusion": same["prediction_fusion"] + np.where(np.arange(1000) < 1, 2e-6, 0)}
    assert not bench.agrees(bench.agreement(far, same))


def test_nothing_is_timed_without_agreement(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "mmsa_python", lambda folder: sys.executable)
    monkeypatch.setattr(bench, "make_task", lambda folder, kind, config: {"source": "none", "pieces": 1.0})
    monkeypatch.setattr(bench, "timed", lambda *a: pytest.fail("was timed"))
    config = bench.BenchConfig(out=str(tmp_path / "b.json"), corpus=str(tmp_path), parts=("epochs",))
    with pytest.raises(ValueError, match="no agreement"):
        bench.benchmark(config, tell=lambda part: None)
    with pytest.raises(ValueError, match="colour"):
        bench.benchmark(bench.BenchConfig(out=str(tmp_path / "b.json"), parts=("colour",)))


def test_a_side_answers_from_its_own_process(tmp_path):
    with bench.Side("ours", {"folder": str(tmp_path)}, sys.executable, 1) as side:
        answer = side.ask(do="labels", n=100)
        assert answer["value"].keys() == {"wall", "cpu"}
        with pytest.raises(RuntimeError, match="KeyError"):
            side.ask(do="nonsense")


def test_the_committed_figures_are_whole():
    path = ROOT / "results" / "benchmark.json"
    if not path.exists():
        pytest.skip("results/benchmark.json is not there: make bench")
    found = json.loads(path.read_text(encoding="utf-8"))
    for s in found["sets"].values():
        assert all(bench.agrees(row) for row in s["agreement"])
        for run in (s["tuned"], s["frozen"]):
            assert all(len(run[who]["epoch_wall"]) >= 3 for who in ("ours", "mmsa"))
    assert [row["clips"] for row in found["labels"]] == list(bench.SIZES)


def test_a_file_of_moseis_shape_and_its_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "MOSEI", (6, 2, 3))
    size = bench.write_mosei(tmp_path / "x.pkl", (6, 2, 3))
    clips = load_clips(tmp_path / "x.pkl", dataset="mosei")
    assert {s: tuple(x.values.shape) for s, x in clips.train.inputs.items()} == {
        "text": (6, 50, 768),
        "audio": (6, 500, 74),
        "vision": (6, 500, 35),
    }
    assert 3.5 < size < 5
    found = bench.benchmark(bench.BenchConfig(out=str(tmp_path / "b.json"), parts=("loading",), repeats=2, threads=1))
    assert found["loading"]["clips"] == [6, 2, 3]
    for by in ("pickle", "load_clips"):
        assert {key: len(values) for key, values in found["loading"][by].items()} == {"wall": 2, "cpu": 2, "memory": 2}
