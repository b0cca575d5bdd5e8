"""Presets, baselines and labels on real clips, and what a preset without pairs costs, into results/real.json.

    python tools/real.py [--data FOLDER] [--workers 2] [--sets mosi interview mmmo simulation]

FOLDER holds mosi/upstream, encoders/mosi_text.npz, mit_interview and mmmo. Presets are as shipped but for the cap on epochs: patience on
the validation clips ends a run. Runs that are already in the file are not run again; all of them take about an hour on two idle cores.
"""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, ROOT, machine, parser, runs, store, stored
from sklearn.linear_model import RidgeCV

import dmsil
from dmsil.checkpoints import rounded
from dmsil.clips import Clips, Split, Vectors, video_of
from dmsil.corpora import load_interview, load_mmmo
from dmsil.model import input_features, prepare
from dmsil.presets import PRESETS

RESULT = RESULTS / "real.json"
CACHE = ROOT / ".cache" / "real"
LONG = {"epochs": 200}  # patience ends a run, not this
ARMS = {
    "self_mm": ("self_mm", {}),
    "dmsil": ("dmsil", {}),
    "dmsil_kappa": ("dmsil_kappa", {}),
    "all": ("dmsil_kappa", {"pairs": "all"}),
    "absolute error": ("dmsil_kappa", {"huber": 0.0}),
    "GELU alone": ("dmsil_kappa", {"activation": "gelu"}),
    "copy": ("dmsil_kappa", {"labels": "copy"}),
    "no labels": ("dmsil_kappa", {"labels": "none"}),
}
SETS = {
    "mosi": ("self_mm", "dmsil", "dmsil_kappa", "all", "absolute error", "GELU alone"),
    "interview": ("self_mm", "dmsil", "dmsil_kappa", "all", "absolute error", "GELU alone"),
    "mmmo": ("self_mm", "dmsil", "dmsil_kappa", "all", "absolute error"),
    "simulation": ("self_mm", "dmsil_kappa", "all", "absolute error", "GELU alone", "copy", "no labels"),
    "mosi, fine-tuned": ("self_mm", "dmsil", "dmsil_kappa"),
}
SHARES = (1.0, 0.25, 0.1)  # of MOSI's training labels
SEEDS = tuple(range(1111, 1116))
FOLDS, REPEATS = 10, 3
SIMULATED = tuple(range(60, 63))
RATINGS = {
    "text": ("StructuredAnswers", "NoFillers"),
    "audio": ("EngagingTone", "SpeakingRate", "Paused"),
    "vision": ("Smiled", "EyeContact"),
}


# ---------------------------------------------------------------- the clips


def mosi(folder: Path) -> Clips:
    "CMU-MOSI with frozen text: MiniLM, MPNet and VADER beside one another, every column with mean 0 and deviation 1 over train, cut at ±5."
    kept = CACHE / "mosi.pt"
    if not kept.exists():
        clips = prepare(dmsil.load_mosi(mirror=str(folder / "mosi" / "upstream")), dmsil.ModelConfig(frozen=True))
        stored = np.load(folder / "encoders" / "mosi_text.npz")
        at = {name: row for row, name in enumerate(stored["ids"].tolist())}
        more = torch.from_numpy(np.hstack([stored["mpnet"], stored["vader"]]).astype(np.float32))
        text = {
            n: torch.cat([p.inputs["text"].values, more[[at[i] for i in p.ids]]], 1) for n, p in clips.splits.items()
        }
        mean, std = text["train"].mean(0), text["train"].std(0).clamp(min=1e-6)
        ready = {n: Vectors(((x - mean) / std).clamp(-5, 5)) for n, x in text.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            replace(clips, **{n: replace(p, inputs=p.inputs | {"text": ready[n]}) for n, p in clips.splits.items()}),
            kept,
        )
    return torch.load(kept, weights_only=False)  # written just above


def fewer(clips: Clips, share: float, seed: int) -> Clips:
    "The same clips with a random part of the training ones."
    n = len(clips.train)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: round(share * n)].sort().values
    part = clips.train
    inputs = {s: x.take(rows) for s, x in part.inputs.items()}
    return (
        replace(clips, train=Split(tuple(part.ids[i] for i in rows), inputs, part.labels[rows])) if share < 1 else clips
    )


def the_clips(name: str, folder: Path, seed: int, share: float) -> Clips:
    "The clips of one run: a share of MOSI's, a fold of the interviews, ICT-MMMO's, or simulated ones."
    if name == "mosi":
        return fewer(mosi(folder), share, seed)
    if name == "mosi, fine-tuned":
        return dmsil.load_mosi(mirror=str(folder / "mosi" / "upstream"))
    if name == "mmmo":
        return load_mmmo(folder / "mmmo" / "features.npz")
    if name == "interview":
        return load_interview(folder / "mit_interview", fold=seed % FOLDS, folds=FOLDS, seed=seed // FOLDS)
    return dmsil.synthetic_clips(seed=seed)


# ---------------------------------------------------------------- what simple models reach


def ridge(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    "Ridge regression; its strength by leave-one-out on the training clips."
    return RidgeCV(alphas=np.logspace(-1, 5, 25)).fit(x, y).predict(z)


def baselines(clips: Clips) -> dict[str, np.ndarray]:
    "Predictions of the test labels by the mean, by ridge on each modality and on all of them."
    features = [{s: x.numpy() for s, x in input_features(clips, part).items()} for part in ("train", "test")]
    for part in features:
        part["all"] = np.hstack(list(part.values()))
    y = clips.train.labels.numpy()
    found = {"mean of the training labels": np.full(len(clips.test), y.mean())}
    return found | {f"ridge on {s}": ridge(features[0][s], y, features[1][s]) for s in features[0]}


def bars(name: str, folder: Path) -> list[dict]:
    "The baselines of one set, with the field's metrics; those of the interviews fold by fold."
    rows = []
    for seed, share in jobs(name):
        if name in ("mosi", "mmmo") and share == 1 and seed != SEEDS[0]:
            continue  # no draw in them
        clips = the_clips(name, folder, seed, share)
        for what, y_hat in baselines(clips).items():
            rows.append({"set": name, "arm": what, "seed": seed, "share": share} | scores(y_hat, clips))
    return rows


def scores(y_hat, clips: Clips) -> dict:
    "The field's metrics; a fold of the interviews is too small for them and keeps its predictions, to be joined with the others."
    y_hat, y = torch.as_tensor(y_hat).float(), clips.test.labels
    if clips.name == "interview":
        return {"MAE": (y_hat - y).abs().mean().item(), "ids": list(clips.test.ids), "predictions": y_hat.tolist()}
    return {"metrics": dmsil.sentiment_metrics(y_hat, y, clips.dataset)}


# ---------------------------------------------------------------- training


def jobs(name: str) -> list[tuple[int, float]]:
    "Seeds and shares of the training labels."
    if name == "mosi":
        return [(seed, share) for share in SHARES for seed in SEEDS]
    if name == "interview":
        return [(FOLDS * repeat + fold, 1.0) for repeat in range(REPEATS) for fold in range(FOLDS)]
    return [(seed, 1.0) for seed in {"mmmo": SEEDS, "simulation": SIMULATED, "mosi, fine-tuned": SEEDS}[name]]


def arms(name: str) -> list[tuple[str, tuple[int, float]]]:
    "The runs of one set: presets with every share of the labels, changes of one thing with all of them."
    return [(arm, job) for job in jobs(name) for arm in SETS[name] if arm in PRESETS or job[1] == 1]


def one(name: str, arm: str, seed: int, share: float, folder: Path) -> dict:
    "One run, in a process of its own."
    clips = the_clips(name, folder, seed, share)
    preset, changes = ARMS[arm]
    run = dmsil.fit(clips, preset, seed=seed, device="cpu", progress=False, **LONG, **changes)
    row = {"set": name, "arm": arm, "seed": seed, "share": share} | scores(
        dmsil.predict(run.model, run.clips.test)[0]["fusion"], clips
    )
    m = run.metrics
    row |= {
        "valid_MAE": m["valid"]["MAE"],
        "unimodal": m["unimodal"],
        "best_epoch": m["best_epoch"],
        "epochs": m["epochs"],
    }
    if run.posterior is not None:
        row["kappa"] = {s: k.kappa for s, k in run.posterior.reliability.items()}
        row["measured"] = ["~".join(pair) for pair in run.posterior.to_share()]
    return row | ({"bayes_MAE": clips.truth["bayes_mae"]} if "bayes_mae" in clips.truth else {})


# ---------------------------------------------------------------- the interviews: labels beside ratings that lean on one modality


def rated(folder: Path) -> dict[str, dict[str, float]]:
    "All ratings, by interview."
    with (folder / "mit_interview" / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"{row['person']}_{row['session']}": {name: float(row[name]) for names in RATINGS.values() for name in names}
        for row in rows
    }


def interview_labels(folder: Path, resamples: int = 2000) -> dict:
    "Posterior labels of all interviews, cross-fitted by person, and their r with ratings beside that of the clip's label; and the verdict."
    clips = load_interview(folder / "mit_interview")
    parts = clips.splits.values()
    ids = [name for part in parts for name in part.ids]
    X = {s: torch.cat([part.inputs[s].values for part in parts]) for s in clips.modalities}
    y, people = torch.cat([part.labels for part in parts]), video_of(tuple(ids))
    made = dmsil.posterior_labels(X, y, people)
    _, person = np.unique(people, return_inverse=True)
    draws = np.random.default_rng(0).integers(person.max() + 1, size=(resamples, person.max() + 1))
    times = np.stack([np.bincount(draw, minlength=person.max() + 1) for draw in draws])[:, person]

    def r(a, b, w):
        centred = [v - (w * v).sum(-1, keepdims=True) / w.sum(-1, keepdims=True) for v in (a, b)]
        return (w * centred[0] * centred[1]).sum(-1) / np.sqrt(
            (w * centred[0] ** 2).sum(-1) * (w * centred[1] ** 2).sum(-1)
        )

    rows, ratings = [], rated(folder)
    for s in clips.modalities:
        for name in (name for names in RATINGS.values() for name in names):
            rating = np.array([ratings[i][name] for i in ids])
            label, copy, readout = (
                np.asarray(v, float) for v in (made.labels[s], y, made.readouts[:, list(clips.modalities).index(s)])
            )
            once = np.ones(len(y))
            found = {
                "posterior": r(label, rating, once),
                "copy": r(copy, rating, once),
                "read-out": r(readout, rating, once),
            }
            gain = r(label, rating, times) - r(copy, rating, times)
            rows.append(
                {"modality": s, "rating": name}
                | {k: float(v) for k, v in found.items()}
                | {"gain": np.quantile(gain, [0.025, 0.975]).tolist()}
            )
    report = dmsil.information_report(X, y, people)
    pairs = {"~".join(names): {"shared": pair.shared, "interval": pair.interval, "null95": pair.null95, "verdict": pair.verdict}
             for names, pair in report.pairs.items()}  # fmt: skip
    kappa = {s: [k.kappa, k.low, k.high] for s, k in made.reliability.items()}
    labels = dict(zip(ids, y.tolist(), strict=True))
    return {
        "clips": len(y),
        "people": int(person.max()) + 1,
        "labels": labels,
        "kappa": kappa,
        "ratings": rows,
        "verdict": pairs,
    }


# ---------------------------------------------------------------- all of it


def main() -> None:
    words = parser(__doc__, RESULT, os.cpu_count(), data=True)
    words.add_argument("--sets", nargs="+", default=["mosi", "interview", "mmmo", "simulation"], choices=[*SETS])
    args = words.parse_args()
    done = stored(args.out, runs=[], baselines=[]) | {"machine": machine()}
    if "interview" in args.sets:
        done["interview"] = rounded(interview_labels(args.data))
    for name in args.sets:
        if not any(row["set"] == name for row in done["baselines"]):
            done["baselines"] += rounded(bars(name, args.data))
    order = [(name, arm, *job) for name in SETS for arm, job in arms(name)]
    key = lambda row: (row["set"], row["arm"], row["seed"], row["share"])
    have = set(map(key, done["runs"]))
    todo = [(*job, args.data) for job in order if job not in have and job[0] in args.sets]
    store(args.out, done)
    for at, job, run in runs(one, todo, args.workers):
        done["runs"] = sorted([*done["runs"], rounded(run)], key=lambda row: order.index(key(row)))
        store(args.out, done)
        mae = run["MAE"] if "MAE" in run else run["metrics"]["MAE"]
        print(f"{at} {', '.join(map(str, job[:-1]))}: MAE {mae:.3f}, best epoch {run['best_epoch']}", flush=True)


if __name__ == "__main__":
    main()
