"""Unimodal labels that a generator makes, beside those that people gave, on CH-SIMS v2, into results/sims.json.

    python tools/sims.py --data FOLDER --encoders FOLDER [--out FILE]

--data holds clips.csv: human labels for text, audio, vision and the whole clip, English text and three encoders' predictions;
--encoders holds sims_text.npz: two frozen text encoders' vectors of the same clips. About two minutes of CPU time on one core.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, machine, parser, store

from dmsil.labels import LabelGenerator, axis_coordinate, centre_distances, relative_distance, selfmm_label
from dmsil.posterior import Prior, posterior_labels

RESULT = RESULTS / "sims.json"
NAMES = ("text", "audio", "vision")
COLUMNS = {"text, prediction": ("prediction", 0), "text, MiniLM": ("MiniLM", 0), "text, MiniLM ridge": ("MiniLM ridge", 0),
           "audio, prediction": ("prediction", 1), "vision, prediction": ("prediction", 2)}  # fmt: skip
EPOCHS, BATCH, SEEDS, RESAMPLES, DRAWS = 20, 32, 5, 2000, 50
CLIPS = (10, 20, 50, 100, 200, 500)
RHOS = np.linspace(0.7, 0.95, 11).round(3).tolist()
TEXT = "MPNet + e5"
NEEDED = ("id", "video_id", "text_en", "mode", "label", "label_T", "label_A", "label_V", "pred_t", "pred_a", "pred_v")


# ---------------------------------------------------------------- the clips


def read(folder) -> dict:
    "Valid and test clips for which all three predictions exist."
    path = Path(folder) / "clips.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no clips.csv in this folder")
    with path.open(encoding="utf-8", newline="") as file:
        every = list(csv.DictReader(file))
    if missing := [name for name in NEEDED if not every or name not in every[0]]:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    held_out = [row for row in every if row["mode"] in ("valid", "test")]
    at = [i for i, row in enumerate(every) if row["mode"] in ("valid", "test") and all(row[name] for name in NEEDED)]
    rows = [every[i] for i in at]
    if not rows:
        raise ValueError(f"{path}: no valid or test clip has all of {', '.join(NEEDED)}")
    train = [row for row in every if row["mode"] == "train"]
    trained = {row["video_id"] for row in train}
    numbers = lambda names, rows=rows: np.array([[float(row[name]) for name in names] for row in rows])
    _, video = np.unique([row["video_id"] for row in rows], return_inverse=True)
    return {
        "y_m": numbers(["label"])[:, 0], "people": numbers(["label_T", "label_A", "label_V"]).T,
        "pred": numbers(["pred_t", "pred_a", "pred_v"]), "text": [row["text_en"] for row in rows],
        "video": video, "test": np.array([row["mode"] == "test" for row in rows]), "incomplete": len(held_out) - len(rows),
        "videos in train": len({row["video_id"] for row in rows} & trained), "at": at,
        "train": numbers(["label", "label_T", "label_A", "label_V"], train).T if train else np.empty((4, 0)),
        "every": {"ids": [row["id"] for row in every], "y_m": numbers(["label"], every)[:, 0], "video": [row["video_id"] for row in every]},
    }  # fmt: skip


def encoded(folder, ids) -> np.ndarray:
    "Frozen text vectors of all clips: MPNet on the English translation (768) and multilingual e5 on the Chinese text (384)."
    path = Path(folder) / "sims_text.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no sims_text.npz in this folder")
    with np.load(path, allow_pickle=False) as stored:
        if stored["ids"].tolist() != ids:
            raise ValueError(f"{path}: other clips, or another order, than clips.csv")
        return np.hstack([stored["mpnet_en"], stored["e5_zh"]]).astype(float)


def folds(video, k=10, seed=0) -> list:
    "k masks of clips; no video lies in two of them, and their sizes are as even as whole videos allow."
    order = np.random.default_rng(seed).permutation(video.max() + 1)
    order = order[np.argsort(-np.bincount(video)[order], kind="stable")]
    fold_of, size = np.zeros(len(order), int), np.zeros(k)
    for v in order:
        fold_of[v] = size.argmin()
        size[size.argmin()] += (video == v).sum()
    return [fold_of[video] == i for i in range(k)]


# ---------------------------------------------------------------- features and labels made from them


def block(x):
    "Centred features of total variance 1, so that no modality outweighs another in the fused features."
    x = x - x.mean(0)
    return x / np.sqrt((x**2).sum(1).mean())


def minilm(texts):
    "One frozen MiniLM vector (384) a sentence."
    from dmsil.clips import Texts
    from dmsil.encoders import TextEncoder, embed, tokenize

    return embed(TextEncoder("minilm").eval(), tokenize(Texts(texts))).values.double().numpy()


def ridge_of_other_videos(x, y, video):
    "For each clip the prediction of y by a ridge fitted on other videos; its strength too is chosen there, by video."
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold

    out = np.empty(len(y))
    for held in folds(video):
        search = GridSearchCV(
            Ridge(), {"alpha": np.logspace(-2, 3, 11)}, cv=GroupKFold(5), scoring="neg_mean_squared_error"
        )
        out[held] = search.fit(x[~held], y[~held], groups=video[~held]).predict(x[held])
    return out


def features(pred, text=None) -> dict:
    "What the generator looks at: three encoders' predictions, or two and other features of the text; fused, they stand side by side."
    parts = {
        "text": block(pred[:, :1] if text is None else text),
        "audio": block(pred[:, 1:2]),
        "vision": block(pred[:, 2:]),
    }
    return {"fusion": np.hstack(list(parts.values())), **parts}


def feature_sets(clips, words) -> dict:
    "The text as an encoder's prediction, as MiniLM's vector, and as that vector's read-out of y_m."
    pred = clips["pred"]
    read_out = ridge_of_other_videos(words, clips["y_m"], clips["video"])[:, None]
    return {"prediction": features(pred), "MiniLM": features(pred, words), "MiniLM ridge": features(pred, read_out)}


def _distances(gen, F):
    return centre_distances(F, gen.means(), gen.widths)


def _difference(gen, F, rows, once):
    "The difference form, P27 (b), on the coordinate t."
    t, y = axis_coordinate(*_distances(gen, F)), gen.y[0]
    t_all = axis_coordinate(*_distances(gen, gen.stored))[0]
    return y[rows] + y.std() / t_all.std() * (t[1:] - t[0])


def _own_line(gen, F, rows, once):
    "P27 (c) with each modality's line fitted to its own t, not to the fused one."
    t, t_all = axis_coordinate(*_distances(gen, F)), axis_coordinate(*_distances(gen, gen.stored))
    y, centred = gen.y[0] - gen.y[0].mean(), t_all - t_all.mean(1, keepdim=True)
    b = (centred @ y / centred.square().sum(1))[:, None]
    return (gen.y[0].mean() + b * (t - t_all.mean(1, keepdim=True)))[1:]


def _fixed(gen, F, rows, once):
    "P27 (c) with all centres made by the sign of y_m, not by the labels that are read off them."
    y = gen.y[0]
    t = axis_coordinate(
        *centre_distances(F, torch.stack([gen.stored[y > 0].mean(0), gen.stored[y < 0].mean(0)]), gen.widths)
    )
    gen.line.replace(rows, once, t[0], y[rows].double())
    return gen.line(t[1:])


READINGS = {
    "selfmm": ("selfmm", None), "robust": ("robust", None), "difference": ("robust", _difference), "own line": ("robust", _own_line),
    "fixed centres": ("robust", _fixed),
}  # fmt: skip


def generate(y_m, F, reading, epochs=EPOCHS, seed=0):
    "Labels after each epoch (epochs, 3, n), and the generator, in the manner of a training whose features stand still."
    F = {name: torch.as_tensor(x) for name, x in F.items()}
    mode, read_out = READINGS[reading]
    gen = LabelGenerator(torch.as_tensor(y_m), {name: x.shape[1] for name, x in F.items()}, bound=1.0, mode=mode)
    gen.read = read_out or gen.read
    g, path = torch.Generator().manual_seed(seed), []
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y_m), generator=g).split(BATCH):
            gen.update({name: x[rows] for name, x in F.items()}, rows, epoch)
        path.append(torch.stack(list(gen.labels.values())).numpy().copy())
    return np.array(path), gen


# ---------------------------------------------------------------- scores, with videos drawn again


class Videos:
    "Scores on all clips (first entry) and on resamples of whole videos (the others)."

    def __init__(self, video, resamples=RESAMPLES, seed=0):
        n = video.max() + 1
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        self.video, self.counts = video, np.vstack([np.ones(n, int), drawn])

    def sums(self, *values, where=None):
        "For each resample the sum of each value over its clips."
        weight = np.ones(len(self.video)) if where is None else where.astype(float)
        return [self.counts @ np.bincount(self.video, v * weight, self.counts.shape[1]) for v in values]

    def mean(self, x, where=None):
        "Mean of x over the clips of `where`."
        total, n = self.sums(x, np.ones(len(x)), where=where)
        return total / n

    def r(self, x, y, where=None):
        "Pearson's r over the clips of `where`."
        x, y = x - x.mean(), y - y.mean()
        n, X, Y, XX, YY, XY = self.sums(np.ones(len(x)), x, y, x * x, y * y, x * y, where=where)
        return (n * XY - X * Y) / np.sqrt((n * XX - X * X) * (n * YY - Y * Y))

    def partial(self, x, y, given):
        "r of x and y, given a third variable."
        xy, xz, yz = self.r(x, y), self.r(x, given), self.r(y, given)
        if abs(xz[0]) > 0.9999:
            return np.zeros_like(xy)  # x is the third variable itself, up to the fold it was fitted in
        return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))

    def auc(self, score, positive, negative):
        "Chance that a positive clip has the higher score than a negative one (ties count half)."
        order = np.argsort(score, kind="stable")
        start = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
        at = lambda side: np.add.reduceat(self.counts[:, self.video[order]] * side[order], start, axis=1).astype(float)
        P, N = at(positive), at(negative)
        return (P * (N.cumsum(1) - N / 2)).sum(1) / (P.sum(1) * N.sum(1))


def interval(values, level=0.95) -> list:
    "[value on all clips, lower end, upper end]"
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return [float(values[0]), float(low), float(high)]


def simultaneous(differences: dict, level=0.95) -> dict:
    "Intervals that hold all together: one multiple of the standard error, the quantile of the largest |t| of the family."
    names, d = list(differences), np.array(list(differences.values()))
    se = d[:, 1:].std(1)
    moves = se > 1e-12  # a reading that is the copy itself has no difference to test
    wide = np.quantile(np.abs((d[moves, 1:] - d[moves, :1]) / se[moves, None]).max(0), level)
    return {
        name: [float(d[i, 0]), float(d[i, 0] - wide * se[i]), float(d[i, 0] + wide * se[i])]
        for i, name in enumerate(names)
    }


# ---------------------------------------------------------------- what people's labels can tune


def least_squares(columns, y):
    "Coefficients of y on 1 and the columns."
    return np.linalg.lstsq(np.column_stack([np.ones(len(y)), *columns]), y, rcond=None)[0]


def tuned(kind, y_m, x, y, fit, on):
    "Labels on some clips, from a regression of people's labels of others on y_m and x, one label or all three."
    columns = [y_m, *(x if kind == "on all three" else [x])]
    b = least_squares([c[fit] for c in columns], y[fit])
    return (b[0] + sum(k * c[on] for k, c in zip(b[1:], columns, strict=True))).clip(-1, 1)


def on_other_videos(kind, y_m, x, y, video):
    "`tuned` for every clip, each fitted on the other folds."
    out = np.empty(len(y))
    for held in folds(video):
        out[held] = tuned(kind, y_m, x, y, ~held, held)
    return out


def readings(y_m, F, people, video) -> list[dict]:
    "For each modality, labels by their reading: as generated, mixed with y_m, and tuned on people's labels of other videos."
    made = {reading: generate(y_m, F, reading)[0][-1] for reading in READINGS}
    out = []
    for k, y in enumerate(people):
        x = made["robust"][k]
        out.append({
            "copy": y_m, **{reading: labels[k] for reading, labels in made.items()}, "half": (y_m + x) / 2,
            "regression": on_other_videos("regression", y_m, x, y, video),
            "on all three": on_other_videos("on all three", y_m, made["robust"], y, video),
        })  # fmt: skip
    return out


# ---------------------------------------------------------------- why: P22 to P27, counted


def shares(x, edges) -> list:
    "Share of values in each bin; what lies outside goes into the first and the last."
    return (np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / len(x)).tolist()


def anatomy(y_m, F, people) -> dict:
    "What Self-MM's formula meets on these clips, and how often labels change sides."
    labels, gen = generate(y_m, F, "selfmm")
    D_p, D_n, _ = centre_distances(gen.stored, gen.means(), gen.widths)
    delta, y = relative_distance(D_p, D_n), torch.as_tensor(y_m)
    d, new = delta[0].numpy(), selfmm_label(delta[1:], delta[0], y).numpy()
    gain = (y_m + d) / (2 * d)
    edges = np.linspace(-2, 4, 25)
    per = lambda rows: dict(zip(NAMES, [float(v) for v in rows], strict=True))
    each = lambda rows: dict(zip(F, rows.tolist(), strict=True))
    return {
        "P23 |delta_m| < 0.1": float((np.abs(d) < 0.1).mean()), "P25 reversed: gain < 0": float((gain < 0).mean()),
        "P22 frozen: |gain| < 0.1": float((np.abs(gain) < 0.1).mean()), "amplified: |gain| > 2": float((np.abs(gain) > 2).mean()),
        "gain edges": edges.tolist(), "gain shares": shares(gain, edges),
        "P24 delta mean": each(delta.mean(1)), "P24 delta median": each(delta.median(1)[0]),
        "P24 delta > 1": each((delta > 1).double().mean(1)), "delta middle half": each(delta.quantile(0.75, 1) - delta.quantile(0.25, 1)),
        "clipped": per((np.abs(new) > 1).mean(1)), "shift": per((labels[-1] - y_m).mean(1)), "shift of people": per((people - y_m).mean(1)),
    }  # fmt: skip


# ---------------------------------------------------------------- the file


def scores(videos, y_m, x, y, test, copy) -> tuple[dict, dict]:
    "One row of the table, and its scores on every resample; `copy` holds those of copying."
    opposite, miss = y_m * y < 0, np.abs(x - y)
    s = {"r": videos.r(x, y), "MAE": videos.mean(miss), "test r": videos.r(x, y, test), "opposite MAE": videos.mean(miss, opposite),
         "opposite r": videos.r(x, y, opposite), "AUC": videos.auc(-np.sign(y_m) * x, opposite, y_m * y > 0)}  # fmt: skip
    crossed = x * y_m < 0
    return {
        "r": interval(s["r"]), "MAE": interval(s["MAE"]), "partial r": interval(videos.partial(x, y, y_m)),
        **{key: float(s[key][0]) for key in ("opposite r", "opposite MAE", "AUC")}, "rest MAE": float(miss[~opposite].mean()),
        **({f"{key} less copy": interval(s[key] - copy[key]) for key in s if key != "opposite r"} if copy else {}),
        "crossed": int(crossed.sum()), "crossed rightly": int((crossed & opposite).sum()),
    }, s  # fmt: skip


def table(clips, sets) -> list[dict]:
    "One row for each column and reading."
    y_m, video = clips["y_m"], clips["video"]
    videos, made = Videos(video), {name: readings(y_m, F, clips["people"], video) for name, F in sets.items()}
    rows = []
    for column, (name, k) in COLUMNS.items():
        copy = None
        for reading, x in made[name][k].items():
            row, s = scores(videos, y_m, x, clips["people"][k], clips["test"], copy)
            copy = copy or s
            rows.append({"column": column, "reading": reading, **row})
    return rows


def about(clips) -> dict:
    "The rows that are used and what people's labels and the predictions are to one another."
    y_m, videos, facts = clips["y_m"], Videos(clips["video"]), {}
    for k, name in enumerate(NAMES):
        y, x = clips["people"][k], clips["pred"][:, k]
        opposite = y * y_m < 0
        facts[name] = {
            "copy r": interval(videos.r(y_m, y)), "copy MAE": interval(videos.mean(np.abs(y_m - y))),
            "equal to y_m": float((y == y_m).mean()), "opposite MAE of 0": float(np.abs(y[opposite]).mean()),
            "opposite": int(opposite.sum()), "same sign": int((y * y_m > 0).sum()), "a zero": int((y * y_m == 0).sum()),
            "prediction r to people": float(np.corrcoef(x, y)[0, 1]), "prediction r to y_m": float(np.corrcoef(x, y_m)[0, 1]),
        }  # fmt: skip
    size = np.bincount(clips["video"])
    return {
        "clips": len(y_m), "of them test": int(clips["test"].sum()), "left out, a prediction is missing": clips["incomplete"],
        "videos": len(size), "of them with train clips": clips["videos in train"],
        "clips per video": [int(size.min()), float(np.median(size)), int(size.max())], "modalities": facts,
    }  # fmt: skip


def axes(y_m, F, people) -> dict:
    "r of the coordinate t to people's labels, with the centres that the robust generator ends in and with those of y_m's signs."
    _, gen = generate(y_m, F, "robust")
    ends, y = gen.means(), gen.y[0]
    begins = torch.stack([gen.stored[y > 0].mean(0), gen.stored[y < 0].mean(0)])
    t = lambda C: axis_coordinate(*centre_distances(gen.stored, C, gen.widths))[1:].numpy()
    return {"signs of y_m": correlations(t(begins), people), "own labels": correlations(t(ends), people)}


# ---------------------------------------------------------------- posterior labels


def prior_of(train) -> Prior:
    "Correlations of the labels that people gave to train clips; rows of `train`: y_m, text, audio, vision."
    return Prior.from_labels(dict(zip(NAMES, torch.as_tensor(train[1:]), strict=True)), torch.as_tensor(train[0]))


def posterior(clips, text, words) -> dict:
    "Posterior labels beside the copy, Self-MM's and the robust label; how well the read-outs hear; what the prior changes."
    y_m, people, video, pred, at = (clips[key] for key in ("y_m", "people", "video", "pred", "at"))
    prior, groups, videos = prior_of(clips["train"]), video.tolist(), Videos(video)
    with_text = lambda x: {"text": x, "audio": pred[:, 1:2], "vision": pred[:, 2:]}
    sets = {TEXT: with_text(text[at]), "MiniLM": with_text(words), "prediction": with_text(pred[:, :1])}
    found = {name: posterior_labels(F, y_m, groups, prior) for name, F in sets.items()}
    u = found[TEXT].readouts
    with_prior = lambda p: np.array(list(posterior_labels(sets[TEXT], y_m, groups, p, readouts=u).labels.values()))
    everywhere = posterior_labels(*on_all_clips(clips, text), prior)
    last = lambda F, mode: generate(y_m, F, mode)[0][-1]
    columns = features(u.numpy())
    robust = last(columns, "robust")
    labels = {
        (TEXT, "copy"): [y_m] * 3, (TEXT, "copy, shrunk"): [y_m.mean() + rho * (y_m - y_m.mean()) for rho in prior.rho.values()],
        **{(TEXT, mode): last(features(pred, text[at]), mode) for mode in ("selfmm", "robust")},
        ("read-outs", "selfmm"): last(columns, "selfmm"), ("read-outs", "robust"): robust, ("read-outs", "half"): (y_m + robust) / 2,
        **{(name, "posterior"): list(f.labels.values()) for name, f in found.items()},
        (TEXT, "posterior, default prior"): with_prior(Prior()),
        (TEXT + ", all clips", "posterior"): [y[at] for y in everywhere.labels.values()],
    }  # fmt: skip
    gains = lambda made: [videos.r(x, y) - videos.r(y_m, y) for x, y in zip(made, people, strict=True)]
    sweep = {s: [] for s in NAMES}
    for rho in RHOS:
        for s, gain in zip(NAMES, gains(with_prior(Prior(rho))), strict=True):
            sweep[s].append(interval(gain))
    over = [posterior_labels(sets[TEXT], y_m, groups, prior, seed).labels.values() for seed in range(SEEDS)]
    between = {" ".join(pair): r for pair, r in prior.between.items()}
    return {
        "prior": {"rho": prior.rho, "between": between, "train clips": clips["train"].shape[1]},
        "rows": against_people(clips, videos, labels), "reliability": {name: heard(f, people) for name, f in found.items()},
        "sweep": {"rho": RHOS, **sweep}, "labelled clips": few(clips["train"], lambda p: [g[0] for g in gains(with_prior(p))]),
        "over seeds": [correlations(made, people) for made in over],
    }  # fmt: skip


def on_all_clips(clips, text) -> tuple[dict, np.ndarray, list]:
    "Features, y_m and video of all clips; audio and vision of those that are not scored are missing."
    every, missing = clips["every"], np.full((2, len(text), 1), np.nan)
    missing[:, clips["at"], 0] = clips["pred"].T[1:]
    return {"text": text, "audio": missing[0], "vision": missing[1]}, every["y_m"], every["video"]


def against_people(clips, videos, labels) -> list[dict]:
    "A row for each label and modality: `scores`, the squared error, and the clips that people gave exactly y_m apart."
    y_m, rows, differences = clips["y_m"], {}, {}
    for k, s in enumerate(NAMES):
        y, copy = clips["people"][k], None
        for (name, reading), made in labels.items():
            x = np.asarray(made[k])
            row, resampled = scores(videos, y_m, x, y, clips["test"], copy)
            tied, miss = y == y_m, np.abs(x - y)
            resampled |= {"RMSE": np.sqrt(videos.mean(miss**2)), "other MAE": videos.mean(miss, ~tied)}
            row |= {
                "RMSE": float(resampled["RMSE"][0]),
                "tied MAE": float(miss[tied].mean()),
                "other MAE": float(miss[~tied].mean()),
            }
            if copy:
                row |= {f"{key} less copy": interval(resampled[key] - copy[key]) for key in ("RMSE", "other MAE")}
                differences |= {(name, reading, s, key): resampled[key] - copy[key] for key in ("r", "MAE")}
            if reading == "half":
                half = resampled
            if (name, reading) == (TEXT, "posterior"):
                row["r less half"] = interval(resampled["r"] - half["r"])
            copy, rows[name, reading, s] = (
                copy or resampled,
                {"features": name, "reading": reading, "modality": s, **row},
            )
    for (*at, key), ends in simultaneous(differences).items():
        rows[tuple(at)][f"{key} less copy, together"] = ends[1:]
    return list(rows.values())


def heard(found, people) -> dict:
    "κ of each modality as estimated from y_m alone, and as people's unimodal labels have it."
    out = {}
    for k, (s, kappa) in enumerate(found.reliability.items()):
        r = float(np.corrcoef(found.readouts[:, k].numpy(), people[k])[0, 1])
        out[s] = {"kappa": [kappa.kappa, kappa.low, kappa.high], "heard": kappa.heard, "r to people": r}
    return out


def few(train, gains, seed=0) -> dict:
    "Gain in r of a prior from n labelled train clips: mean, 5 % and 95 % of the draws; draws that are no prior are counted."
    rng, out = np.random.default_rng(seed), {"clips": list(CLIPS), "refused": [], **{s: [] for s in NAMES}}
    for n in CLIPS:
        drawn = []
        for _ in range(DRAWS):
            try:
                drawn.append(gains(prior_of(train[:, rng.choice(train.shape[1], n, replace=False)])))
            except ValueError:
                pass
        out["refused"].append(DRAWS - len(drawn))
        for s, g in zip(NAMES, np.array(drawn).T, strict=True):
            out[s].append([float(g.mean()), *np.quantile(g, [0.05, 0.95]).tolist()])
    return out


# ---------------------------------------------------------------- the whole file


def correlations(labels, people) -> dict:
    "r of each modality's labels to people's."
    return dict(zip(NAMES, [float(np.corrcoef(x, y)[0, 1]) for x, y in zip(labels, people, strict=True)], strict=True))


def measure(clips, text) -> dict:
    "Everything that the page shows."
    y_m, people, words = clips["y_m"], clips["people"], minilm(clips["text"])
    sets, by_epoch = feature_sets(clips, words), {}
    for column, (name, k) in COLUMNS.items():
        paths = {reading: generate(y_m, sets[name], reading)[0][:, k] for reading in ("selfmm", "robust")}
        by_epoch[column] = {
            reading: [float(np.corrcoef(x, people[k])[0, 1]) for x in path] for reading, path in paths.items()
        }
    fitted = {**sets["prediction"], "fusion": block(y_m[:, None])}
    last = lambda F, reading, seed=0: correlations(generate(y_m, F, reading, seed=seed)[0][-1], people)
    return {
        "settings": {"epochs": EPOCHS, "batch": BATCH, "resamples": RESAMPLES, "draws": DRAWS},
        "about": about(clips), "posterior": posterior(clips, text, words), "rows": table(clips, sets), "by epoch": by_epoch,
        "over seeds": {reading: [last(sets["prediction"], reading, seed) for seed in range(SEEDS)] for reading in ("selfmm", "robust")},
        "fused features are y_m": {reading: last(fitted, reading) for reading in ("selfmm", "robust")},
        "centres by": {name: axes(y_m, F, people) for name, F in sets.items()},
        "anatomy": {name: anatomy(y_m, F, people) for name, F in sets.items()},
    }  # fmt: skip


def main() -> None:
    words = parser(__doc__, RESULT)
    words.add_argument("--data", required=True, help="the folder that holds clips.csv")
    words.add_argument("--encoders", required=True, help="the folder that holds sims_text.npz")
    args = words.parse_args()
    torch.set_num_threads(1)
    try:
        clips = read(args.data)
        text = encoded(args.encoders, clips["every"]["ids"])
    except (OSError, ValueError) as error:
        print(f"sims: {error}", file=sys.stderr)
        sys.exit(2)
    store(args.out, {"machine": machine("1 thread"), **measure(clips, text)})


if __name__ == "__main__":
    main()
