"The pure parts of tools/real.py, one run at toy size, and what is committed."

import json

import numpy as np
import pytest
import real
import torch

import dmsil


def test_a_share_of_the_training_clips_keeps_everything_else():
    clips = dmsil.synthetic_clips(n=(200, 40, 50), seed=0)
    part = real.fewer(clips, 0.25, seed=3)
    at = {clip: row for row, clip in enumerate(clips.train.ids)}
    rows = [at[clip] for clip in part.train.ids]
    assert len(rows) == 50 and rows == sorted(set(rows))
    torch.testing.assert_close(part.train.inputs["text"].values, clips.train.inputs["text"].values[rows])
    torch.testing.assert_close(part.train.labels, clips.train.labels[rows])
    assert part.test is clips.test and real.fewer(clips, 1.0, 3) is clips
    assert real.fewer(clips, 0.25, seed=4).train.ids != part.train.ids


def test_baselines_find_the_modality_that_hears_the_label():
    clips = dmsil.synthetic_clips(n=(400, 40, 300), seed=1)
    error = {
        what: (torch.as_tensor(y_hat) - clips.test.labels).abs().mean().item()
        for what, y_hat in real.baselines(clips).items()
    }
    assert (
        error["ridge on all"] < error["ridge on text"] < error["ridge on vision"] < error["mean of the training labels"]
    )


@pytest.mark.parametrize("arm", ["self_mm", "dmsil_kappa"])
def test_a_run_ends_in_a_row(arm, monkeypatch):
    monkeypatch.setattr(real, "LONG", {"epochs": 1})
    monkeypatch.setattr(real, "the_clips", lambda *_: dmsil.synthetic_clips(n=(120, 40, 60), seed=2))
    row = real.one("simulation", arm, 60, 1.0, None)
    assert (row["set"], row["arm"], row["seed"]) == ("simulation", arm, 60) and 0 < row["metrics"]["MAE"] < 2
    assert ("measured" in row) == (arm == "dmsil_kappa")
    json.dumps(row)


def test_every_committed_run_is_there_once():
    done = json.loads(real.RESULT.read_text())
    keys = sorted((row["set"], row["arm"], row["seed"], row["share"]) for row in done["runs"])
    wanted = [(name, arm, *job) for name in ("mosi", "interview", "mmmo", "simulation") for arm, job in real.arms(name)]
    assert keys == sorted(wanted)


def test_the_folds_of_the_interviews_cover_everybody_once_in_each_repeat():
    done = json.loads(real.RESULT.read_text())
    every = [row for row in done["runs"] if (row["set"], row["arm"]) == ("interview", "dmsil_kappa")]
    for repeat in range(real.REPEATS):
        rows = [row for row in every if row["seed"] // real.FOLDS == repeat]
        ids = [clip for row in rows for clip in row["ids"]]
        assert len(ids) == len(set(ids)) == done["interview"]["clips"]
        assert np.isfinite([y for row in rows for y in row["predictions"]]).all()


@pytest.mark.parametrize("seed", real.SIMULATED)
def test_simulated_clips_are_learned_to_near_the_least_error(seed):
    "Of each draw: the multimodal error within 10 % of the Bayes predictor's on the same clips, each head within its own, and below that of copied labels."
    rows = {
        row["arm"]: row
        for row in json.loads(real.RESULT.read_text())["runs"]
        if (row["set"], row["seed"]) == ("simulation", seed)
    }
    mine, copied, bayes = rows["dmsil_kappa"], rows["copy"]["unimodal"], dmsil.synthetic_clips(seed=seed).truth
    assert mine["metrics"]["MAE"] <= 1.10 * bayes["bayes_mae"] and mine["bayes_MAE"] == pytest.approx(
        bayes["bayes_mae"], rel=1e-4
    )
    for s, most in {"text": 1.15, "audio": 1.6, "vision": 1.8}.items():
        assert mine["unimodal"][s] <= most * bayes[s] and mine["unimodal"][s] < copied[s]
