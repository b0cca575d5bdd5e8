"tools/diagnosis.py at toy size, its variants, and what is committed."

import json

import diagnosis
import pytest
import torch

import dmsil
from dmsil.labels import LabelGenerator, axis_coordinate, centre_distances


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(diagnosis, "EPOCHS", 2)
    clips = dmsil.synthetic_clips(n=(120, 40, 60), seed=2)
    monkeypatch.setattr(diagnosis.dmsil, "synthetic_clips", lambda *_, **__: clips)


@pytest.mark.parametrize(
    "arm",
    [
        "as it is",
        "formula: difference of t",
        "heads learn the truth",
        "kappa off, whitening kept",
        "kappa and whitening off",
    ],
)
def test_an_arm_ends_in_a_row(arm, small):
    row = diagnosis.one(arm, 1)
    assert row["arm"] == arm and all(
        0 < row[part][s] < 3 for part in ("labels", "copy", "heads") for s in diagnosis.NAMES
    )
    assert row["labels"] != row["copy"]
    json.dumps(row)


def test_difference_form_by_hand():
    torch.manual_seed(0)
    y = torch.randn(30)
    features = {"fusion": torch.randn(30, 3) + y[:, None], "text": torch.randn(30, 2) - y[:, None]}
    gen = LabelGenerator(y, {"fusion": 3, "text": 2}, mode="robust")
    gen.update(features, torch.arange(30), 1)
    F = torch.cat(list(features.values()), 1).double()
    t = axis_coordinate(*centre_distances(F, gen.means(), gen.widths))
    new = diagnosis.difference(gen, F, torch.arange(30), None)
    torch.testing.assert_close(new[0].float(), (y + y.std() / t[0].std() * (t[1] - t[0])).float())


@pytest.mark.parametrize("wiring", list(diagnosis.WIRINGS))
def test_what_the_fusion_and_the_heads_of_a_wiring_read(wiring):
    clips = dmsil.synthetic_clips(n=(50, 20, 20), seed=0)
    config = dmsil.preset("dmsil_kappa").model
    torch.manual_seed(0)
    model = diagnosis.WIRINGS[wiring](config, dmsil.model.specs(clips)).eval()
    before = model(clips.test.inputs).predictions
    for align in model.align.values():
        torch.nn.init.zeros_(align.weight)
    after = model(clips.test.inputs).predictions
    moved = {s: not torch.equal(before[s], after[s]) for s in before}
    assert moved["fusion"] == (wiring != "fusion on encodings")
    assert moved["text"] == (wiring == "heads on aligned features")


def test_every_committed_run_is_there_once():
    done = json.loads(diagnosis.RESULT.read_text())
    for kind, label, names in (("runs", "arm", diagnosis.ARMS), ("wirings", "wiring", diagnosis.WIRINGS)):
        assert sorted((row[label], row["seed"]) for row in done[kind]) == sorted(
            (name, seed) for name in names for seed in (71,)
        )
