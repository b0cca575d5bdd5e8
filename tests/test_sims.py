"Generated labels against people's: the arithmetic on hand-made clips, and the cheap core of the stored table on the real ones."

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import sims
from common import ROOT
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

PAGE = ROOT / "nbs" / "tutorials" / "people.ipynb"
STORED = json.loads(sims.RESULT.read_text(encoding="utf-8"))
ROW = {(row["column"], row["reading"]): row for row in STORED["rows"]}
LABEL = {(row["features"], row["reading"], row["modality"]): row for row in STORED["posterior"]["rows"]}
OWN = [LABEL[sims.TEXT, "posterior", s] for s in sims.NAMES]


@pytest.fixture(scope="module")
def clips(sims_folder):
    return sims.read(sims_folder)


@pytest.fixture(scope="module")
def text(sims_folder, clips):
    folder = sims_folder.parent / "encoders"
    if not (folder / "sims_text.npz").is_file():
        pytest.skip(f"needs the text vectors in {folder.name}")
    return sims.encoded(folder, clips["every"]["ids"])


@pytest.fixture(scope="module")
def one_column(clips):
    return sims.features(clips["pred"])


# ---------------------------------------------------------------- real clips


def test_the_copy_is_the_stored_one(clips):
    assert len(clips["y_m"]) == STORED["about"]["clips"] and clips["incomplete"] == 6
    for column, (_, k) in sims.COLUMNS.items():
        r, mae = pearsonr(clips["y_m"], clips["people"][k])[0], np.abs(clips["y_m"] - clips["people"][k]).mean()
        assert [ROW[column, "copy"][key][0] for key in ("r", "MAE")] == pytest.approx([r, mae], abs=1e-5)


@pytest.mark.parametrize("reading", ["selfmm", "robust"])
def test_generated_labels_are_the_stored_ones(clips, one_column, reading):
    path, _ = sims.generate(clips["y_m"], one_column, reading)
    videos = sims.Videos(clips["video"])
    for column, k in ("text, prediction", 0), ("audio, prediction", 1), ("vision, prediction", 2):
        x, y, row = path[-1, k], clips["people"][k], ROW[column, reading]
        assert row["r"] == pytest.approx(sims.interval(videos.r(x, y)), abs=2e-4)
        assert row["r less copy"] == pytest.approx(sims.interval(videos.r(x, y) - videos.r(clips["y_m"], y)), abs=2e-4)
        assert row["MAE"] == pytest.approx(sims.interval(videos.mean(np.abs(x - y))), abs=2e-4)
        assert row["crossed"] == pytest.approx((x * clips["y_m"] < 0).sum(), abs=1)
        assert STORED["by epoch"][column][reading] == pytest.approx(
            [pearsonr(labels[k], y)[0] for labels in path], abs=2e-4
        )


def test_the_first_epoch_is_the_copy(clips, one_column):
    path, _ = sims.generate(clips["y_m"], one_column, "selfmm", epochs=1)
    assert np.array_equal(path[0], np.tile(clips["y_m"], (3, 1)))


def test_the_counts_are_the_stored_ones(clips, one_column):
    found, stored = sims.anatomy(clips["y_m"], one_column, clips["people"]), STORED["anatomy"]["prediction"]
    for key in (key for key in found if not isinstance(found[key], dict)):
        assert found[key] == pytest.approx(stored[key], abs=1e-3), key


def test_posterior_labels_are_the_stored_ones(clips, text):
    assert clips["train"].shape == (4, STORED["posterior"]["prior"]["train clips"]), (
        "y_m and three labels of the train clips alone"
    )
    prior, at = sims.prior_of(clips["train"]), clips["at"]
    assert list(prior.rho.values()) == pytest.approx(list(STORED["posterior"]["prior"]["rho"].values()), abs=1e-5)
    F = {"text": text[at], "audio": clips["pred"][:, 1:2], "vision": clips["pred"][:, 2:]}
    made, videos = sims.posterior_labels(F, clips["y_m"], clips["video"].tolist(), prior), sims.Videos(clips["video"])
    for row, x, y in zip(OWN, made.labels.values(), clips["people"], strict=True):
        assert row["r less copy"] == pytest.approx(sims.interval(videos.r(x, y) - videos.r(clips["y_m"], y)), abs=1e-3)
        assert row["MAE"] == pytest.approx(sims.interval(videos.mean(np.abs(x - y))), abs=1e-3)


def test_posterior_labels_reach_what_was_asked():
    "Text at least .03 above the copy, interval above 0; audio and vision not below it beyond their intervals."
    gain = [row["r less copy"] for row in OWN]
    assert gain[0][0] >= 0.03 and all(low > 0 for low in (gain[0][1], OWN[0]["r less copy, together"][0]))
    assert all(high > 0 for _, _, high in gain)


def test_numbers_in_prose_are_the_stored_ones():
    cells = [cell["source"] for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]]
    prose = ["".join(source) for source in cells]
    signed = lambda v: f"{v:+.3f}".replace("0.", ".", 1).replace("-", "−")
    span = lambda v: f"{signed(v[0])} [{signed(v[1])}, {signed(v[2])}]"
    line = lambda name, values: f"| {name} | {' | '.join(values)} |"
    rs = lambda reading: [f"{LABEL[sims.TEXT, reading, s]['r'][0]:.3f}".lstrip("0") for s in sims.NAMES]
    gains, first, last = [span(row["r less copy"]) for row in OWN], prose[1], prose[-1]
    for name, reading in {
        "`copy` of the clip's label": "copy",
        "`selfmm`, Self-MM's label": "selfmm",
        "`robust`": "robust",
    }.items():
        assert line(name, rs(reading)) in first
    assert line("**`posterior`**", [f"**{r}**" for r in rs("posterior")]) in first
    assert (
        line("`posterior` less `copy`, 95 % by video", gains) in first
        and line("difference, 95 % by video", gains) in last
    )
    assert line("r of the copy", rs("copy")) in last and line("r of the posterior", rs("posterior")) in last
    assert line("MAE, difference", [span(row["MAE less copy"]) for row in OWN]) in last
    about = STORED["about"]
    assert f"{about['clips']:,} valid and test clips of {about['videos']} videos" in first
    assert f"the {STORED['posterior']['prior']['train clips']:,} train clips" in first
    few, at = STORED["posterior"]["labelled clips"], STORED["posterior"]["labelled clips"]["clips"].index(100)
    low = [f"{abs(few[s][at][1]):.3f}".lstrip("0") for s in sims.NAMES]
    hundred = (
        f"text gains {low[0]} or more and vision {low[2]} or more in 95 % of the draws, audio loses {low[1]} at most"
    )
    assert any(hundred in text for text in prose)
    answer = prose[0].split("> ")[1]
    assert answer in last, "the page ends with the sentence that it begins with"


# ---------------------------------------------------------------- hand-made clips


def made_up(n=400, videos=40, seed=0):
    g = np.random.default_rng(seed)
    video = np.r_[np.arange(videos), g.integers(videos, size=n - videos)]
    y_m, private = g.normal(size=(2, n)) / 2
    return y_m, private, video


def test_a_folder_without_clips_is_one_line(tmp_path):
    command = [sys.executable, sims.__file__, "--data", str(tmp_path), "--encoders", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.strip().split("\n") == [f"sims: {tmp_path}: no clips.csv in this folder"]


def test_text_vectors_of_other_clips_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sims_text.npz"):
        sims.encoded(tmp_path, ["a"])
    np.savez(
        tmp_path / "sims_text.npz",
        ids=np.array(["a", "b"]),
        mpnet_en=np.ones((2, 3), np.float16),
        e5_zh=np.zeros((2, 2), np.float16),
    )
    assert sims.encoded(tmp_path, ["a", "b"]).tolist() == [[1, 1, 1, 0, 0]] * 2
    with pytest.raises(ValueError, match="other clips, or another order"):
        sims.encoded(tmp_path, ["b", "a"])


def write(path, rows, columns=sims.NEEDED):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def test_only_held_out_and_complete_clips_are_read(tmp_path):
    numbers = [".5", "-1", "0", "1", ".1", ".2"]
    write(tmp_path / "clips.csv", [["a_1", "a", "yes", "train", *numbers, ".3"], ["b_1", "b", "no", "test", *numbers, ".3"],
                                   ["c_1", "c", "so", "valid", *numbers, ""], ["a_2", "a", "oh", "valid", *numbers, ".4"]])  # fmt: skip
    clips = sims.read(tmp_path)
    assert clips["text"] == ["no", "oh"] and clips["incomplete"] == clips["videos in train"] == 1
    assert (
        clips["test"].tolist() == [True, False]
        and clips["at"] == [1, 3]
        and clips["every"]["ids"] == ["a_1", "b_1", "c_1", "a_2"]
    )
    assert clips["train"].tolist() == [[0.5], [-1], [0], [1]]
    assert clips["people"].tolist() == [[-1, -1], [0, 0], [1, 1]] and clips["pred"].tolist() == [
        [0.1, 0.2, 0.3],
        [0.1, 0.2, 0.4],
    ]


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "clips.csv", [], [name for name in sims.NEEDED if name != "label_A"])
    with pytest.raises(ValueError, match="no column"):
        sims.read(tmp_path)
    write(tmp_path / "clips.csv", [["x"] * 10], [name for name in sims.NEEDED if name != "label_A"])
    with pytest.raises(ValueError, match="no column label_A"):
        sims.read(tmp_path)


def test_folds_part_the_videos():
    _, _, video = made_up()
    masks = np.array(sims.folds(video))
    assert (masks.sum(0) == 1).all()
    assert all(len({tuple(m) for m in masks[:, video == v].T}) == 1 for v in range(40)), "a video in two folds"
    assert np.ptp(masks.sum(1)) <= np.bincount(video).max()


def test_scores_of_all_clips_are_the_textbook_ones():
    y_m, private, video = made_up()
    x, y, where = y_m + private, y_m - private, y_m > -0.3
    videos = sims.Videos(video, resamples=20)
    assert videos.r(x, y)[0] == pytest.approx(pearsonr(x, y)[0])
    assert videos.r(x, y, where)[0] == pytest.approx(pearsonr(x[where], y[where])[0])
    assert videos.mean(x, where)[0] == pytest.approx(x[where].mean())
    rest = lambda a: a - np.polyval(np.polyfit(y_m, a, 1), y_m)
    assert videos.partial(x, y, y_m)[0] == pytest.approx(pearsonr(rest(x), rest(y))[0])
    coarse, side = x.round(1), private > 0
    assert videos.auc(coarse, side, ~side)[0] == pytest.approx(roc_auc_score(side, coarse))


def test_a_resample_repeats_whole_videos():
    y_m, private, video = made_up()
    videos = sims.Videos(video, resamples=5)
    drawn = np.concatenate([np.flatnonzero(video == v).repeat(k) for v, k in enumerate(videos.counts[3])])
    x = y_m + private
    assert videos.counts[1:].sum(1).tolist() == [40] * 5
    assert videos.r(x, y_m)[3] == pytest.approx(pearsonr(x[drawn], y_m[drawn])[0])
    assert videos.auc(x, y_m > 0, y_m <= 0)[3] == pytest.approx(roc_auc_score(y_m[drawn] > 0, x[drawn]))


def test_intervals_over_videos_are_wider_when_videos_agree_within():
    _, _, video = made_up()
    level = np.random.default_rng(1).normal(size=40)[video]
    width = lambda groups: np.ptp(sims.interval(sims.Videos(groups).mean(level))[1:])
    assert width(video) > 2 * width(np.arange(len(video)))


def test_together_is_wider_than_alone_and_leaves_what_never_moves():
    d = np.random.default_rng(0).normal(size=(30, 2001)) * 0.1 + 0.3
    d[:, 0], d[7] = 0.3, 0
    ends = sims.simultaneous({i: row for i, row in enumerate(d)})
    alone = sims.interval(d[0])
    assert ends[0][1] < alone[1] and ends[0][2] > alone[2] and ends[7] == [0, 0, 0]
    inside = [
        all(low <= row[b] <= high for row, (_, low, high) in zip(d, ends.values(), strict=True)) for b in range(1, 2001)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.002)


@pytest.mark.parametrize("kind", ["regression", "on all three"])
def test_nothing_is_tuned_on_the_clips_it_is_scored_on(kind):
    y_m, private, video = made_up()
    y, x = (y_m + private) / 2, np.stack([private, y_m, private]) if kind == "on all three" else y_m + private
    before = sims.on_other_videos(kind, y_m, x, y, video)
    held = sims.folds(video)[0]
    damaged = np.where(held, -5 * y, y)
    after = sims.on_other_videos(kind, y_m, x, damaged, video)
    assert np.array_equal(before[held], after[held]) and not np.allclose(before[~held], after[~held])


def test_regression_finds_what_is_there():
    y_m, private, video = made_up()
    y = (0.1 + 0.5 * y_m + 0.3 * private).clip(-1, 1)
    assert sims.on_other_videos("regression", y_m, private, y, video) == pytest.approx(y, abs=0.02)


def test_ridge_sees_other_videos_only():
    y_m, _, video = made_up()
    marks = np.eye(40)[video]  # which video a clip is of, and nothing else
    level = np.random.default_rng(1).normal(size=40)[video]
    assert abs(pearsonr(sims.ridge_of_other_videos(marks, level, video), level)[0]) < 0.5
    x = np.column_stack([y_m, np.random.default_rng(2).normal(size=400)])
    assert pearsonr(sims.ridge_of_other_videos(x, y_m, video), y_m)[0] > 0.99


def test_ties_and_other_clips_apart():
    y_m, private, video = made_up()
    y = np.where(private > 0, y_m, y_m + private)
    clips = {"y_m": y_m, "people": [y] * 3, "test": y_m > 0}
    labels = {("x", "copy"): [y_m] * 3, ("x", "moved"): [y_m + 0.1] * 3, ("x", "true"): [y] * 3}
    rows = sims.against_people(clips, sims.Videos(video, 50), labels)
    copy, moved, true = (next(row for row in rows if row["reading"] == name) for name in ("copy", "moved", "true"))
    assert copy["tied MAE"] == 0 and moved["tied MAE"] == pytest.approx(0.1) and true["RMSE"] == true["other MAE"] == 0
    assert copy["RMSE"] == pytest.approx(np.sqrt(((y - y_m) ** 2).mean())) and true["RMSE less copy"][
        0
    ] == pytest.approx(-copy["RMSE"])
    assert true["other MAE less copy"][2] < 0 and "r less copy" not in copy


def test_a_prior_from_few_clips_varies_more():
    g = np.random.default_rng(0)
    y = g.normal(size=(3, 3000))
    train = np.vstack([y.sum(0), y + 0.5 * y.sum(0)])
    found = sims.few(train, lambda prior: list(prior.rho.values()))
    width = [high - low for _, low, high in found["text"]]
    assert width[0] > 2 * width[-1] and found["text"][-1][0] == pytest.approx(
        sims.prior_of(train).rho["text"], abs=0.01
    )


def test_robust_labels_find_a_private_part_that_the_features_carry():
    y_m, private, _ = made_up()
    y_m, y = y_m.clip(-1, 1), (y_m + private).clip(-1, 1)
    F = sims.features(np.column_stack([y, y_m, y_m]))
    path, _ = sims.generate(y_m, F, "robust", epochs=10)
    assert pearsonr(path[-1, 0], y)[0] > pearsonr(y_m, y)[0] + 0.1


def test_blocks_weigh_the_same():
    x = np.random.default_rng(0).normal(3, 5, size=(100, 8))
    assert (sims.block(x) ** 2).sum(1).mean() == pytest.approx(1) and np.abs(sims.block(x).mean(0)).max() < 1e-12
    assert sims.features(x[:, :3], text=x)["fusion"].shape == (100, 10)
