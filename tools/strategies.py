"""Training strategies and measures of the related systems, over seeds, into results/strategies.json.

    python tools/strategies.py [alternating] [unseen] [collection] [slices] [--data FOLDER] [--out FILE]

alternating: alternating against joint training, three simulations, five seeds. About two minutes of CPU time on one core.
unseen: a pair of modalities that was never trained on, five seeds. About two minutes.
collection: what a second modality adds on MIT Interview, planned with half of the people and measured on the others. A few seconds.
slices: CH-SIMS v2 where people's unimodal labels agree or conflict. A few seconds.
FOLDER holds mit_interview and sims. A part that is asked for is run anew.
"""

import csv
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import torch
from common import RESULTS, parser, store, stored
from scipy.stats import spearmanr

from dmsil.clips import Clips, Split, Vectors, synthetic_clips
from dmsil.corpora import load_interview
from dmsil.related.alternating import Alternating, Joint, combined, train, unimodal
from dmsil.related.slices import agreement, slices
from dmsil.related.unseen import SumSpace
from dmsil.synthetic import SyntheticConfig

RESULT = RESULTS / "strategies.json"
SEEDS = range(1, 6)


# ---------------------------------------------------------------- alternating


def noisy(clips: Clips, seed: int) -> Clips:
    "Noise of three deviations on the text of every other clip."

    def part(k: int, split: Split) -> Split:
        x = split.inputs["text"].values.clone()
        x[::2] += 3 * torch.randn(x[::2].shape, generator=torch.Generator().manual_seed(3 * seed + k))
        return replace(split, inputs={**split.inputs, "text": Vectors(x)})

    return replace(clips, **{name: part(k, split) for k, (name, split) in enumerate(clips.splits.items())})


def probed(model: Joint, clips: Clips, s: str) -> torch.Tensor:
    "A line on a modality's frozen features."
    with torch.no_grad():
        trained, tested = (model.feature(s, part) for part in (clips.train, clips.test))
    return (tested @ torch.linalg.lstsq(trained, clips.train.labels[:, None], driver="gelsd").solution)[:, 0]


def alternating_run(world: str, arm: str, seed: int) -> dict:
    "One training: test error of each modality and of all, by every way to combine them."
    clips = synthetic_clips(SyntheticConfig(eta=0.0 if world == "in common" else 0.5), n=(1000, 10, 4000), seed=seed)
    clips = noisy(clips, seed) if world == "own parts, text noisy" else clips
    torch.manual_seed(seed)
    widths = {s: x.values.shape[1] for s, x in clips.train.inputs.items()}
    model = Joint(widths) if arm == "joint" else Alternating(widths, protect="means" if "projection" in arm else "")
    train(model, clips.train, epochs=25, seed=seed)
    if arm == "joint":
        found = {s: probed(model, clips, s) for s in widths} | {"joint": model.predict(clips.test)}
    else:
        mu, v = unimodal(model, clips.test)
        found = dict(zip(widths, mu, strict=True))
        found |= {how: model.predict(clips.test, how) for how in ("entropy", "precision", "experts")}
        one = v.log().mean(1, keepdim=True).exp().expand_as(v)  # one weight a batch, as the published code has
        found["batch entropy"] = combined(mu, one, "entropy")
    mae = {name: (y - clips.test.labels).abs().mean().item() for name, y in found.items()}
    return {"world": world, "arm": arm, "seed": seed, "MAE": mae}


def alternating(folder: Path) -> list[dict]:
    "Every simulation, every way to train, every seed."
    worlds, arms = (
        ("in common", "own parts", "own parts, text noisy"),
        ("joint", "alternating", "alternating, projection"),
    )
    return [alternating_run(world, arm, seed) for world in worlds for arm in arms for seed in SEEDS]


# ---------------------------------------------------------------- an unseen pair

PAIRS = (("text", "audio"), ("text", "vision"))
UNSEEN = {  # the pairs trained on, options
    "sum of tokens": ("two", {"spread": False}),
    "sum of grids": ("two", {}),
    "sum of grids, hidden layer": ("two", {"head": "hidden"}),
    "sum of grids, prototypes": ("two", {"prototypes": 0.1}),
    "sum of grids, pseudo-labels": ("two", {"pseudo": 1.0}),
    "all of it": ("two", {"head": "hidden", "prototypes": 0.1, "pseudo": 1.0}),
    "sum of grids, seen": ("three", {}),
}


def pairwise(clips: Clips, pairs: tuple[tuple[str, str], ...]) -> Split:
    "Training clips in equal parts, each with one of the pairs."
    part = torch.arange(len(clips.train)) % len(pairs)
    has = lambda s: torch.tensor([s in pair for pair in pairs])[part]
    return replace(clips.train, present={s: has(s) for s in clips.modalities})


def errors(predict_from, clips: Clips, subsets: list[tuple[str, ...]]) -> dict[str, float]:
    "MAE on the test clips from each subset."
    mae = lambda names: (predict_from(clips.only(*names).test) - clips.test.labels).abs().mean().item()
    return {"+".join(names): mae(names) for names in subsets}


def unseen_runs(seed: int, epochs: int = 15) -> list[dict]:
    "Every way to learn from pairs, and late fusion."
    clips = synthetic_clips(n=(3000, 500, 4000), seed=seed)
    rows = torch.arange(3000)
    two = pairwise(replace(clips, train=clips.train.take(rows[:2000])), PAIRS)
    three = pairwise(clips, (*PAIRS, ("audio", "vision")))
    widths = {s: x.values.shape[1] for s, x in clips.train.inputs.items()}
    edges = two.labels.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    subsets = [c for k in (1, 2, 3) for c in combinations(widths, k)]
    experts, spread = {}, {}
    for s, width in widths.items():
        torch.manual_seed(seed)
        experts[s], own = SumSpace({s: width}), two.take(two.rows_with(s))
        own = Split(own.ids, {s: own.inputs[s]}, own.labels)
        train(experts[s], own, epochs, 100, seed)
        spread[s] = (experts[s].predict(clips.only(s).valid) - clips.valid.labels).square().mean()

    def late(how):
        def from_(split):
            mu = torch.stack(
                [experts[s].predict(Split(split.ids, {s: x}, split.labels)) for s, x in split.inputs.items()]
            )
            return combined(mu, torch.stack([spread[s] for s in split.inputs])[:, None].expand_as(mu), how)

        return from_

    found = [{"arm": f"late fusion, {name}", "seed": seed, "MAE": errors(late(how), clips, subsets)}
             for name, how in (("averaged", "precision"), ("experts", "experts"))]  # fmt: skip
    for arm, (pairs, options) in UNSEEN.items():
        torch.manual_seed(seed)
        model = SumSpace(widths, edges=edges, experts=experts, **options)
        train(model, {"two": two, "three": three}[pairs], epochs, 100, seed)
        found.append({"arm": arm, "seed": seed, "MAE": errors(model.predict, clips, subsets)})
    return found


def unseen(folder: Path) -> list[dict]:
    "Every seed."
    return [run for seed in SEEDS for run in unseen_runs(seed)]


# ---------------------------------------------------------------- before a modality is collected

HALVES, FOLDS, PENALTY = 20, 5, 1.0


def interviews(folder: Path) -> tuple[dict, dict, torch.Tensor]:
    "Columns by modality, ratings by name, the person of each interview as a number."
    with (folder / "mit_interview" / "clips.csv").open(encoding="utf-8", newline="") as file:
        head = next(csv.reader(file))
    ratings = [
        name
        for name in head
        if name not in ("id", "person", "session", "text", "n_turns", "Total") and not name.startswith("lex_")
    ]
    read = [load_interview(folder / "mit_interview", name) for name in ratings]
    whole = lambda clips, part: torch.cat([part(split) for split in clips.splits.values()]).double()
    x = {s: whole(read[0], lambda split, s=s: split.inputs[s].values) for s in read[0].modalities}
    people = [i.rpartition("_")[0] for split in read[0].splits.values() for i in split.ids]
    names = {person: k for k, person in enumerate(dict.fromkeys(people))}
    labels = {name: whole(clips, lambda split: split.labels) for name, clips in zip(ratings, read, strict=True)}
    return x, labels, torch.tensor([names[person] for person in people])


def held_out(X: torch.Tensor, Y: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
    "Ridge predictions of people that were not trained on; the penalty is that of a unit variance on each column."
    found = torch.zeros_like(Y)
    for k in range(FOLDS):
        train, out = fold != k, fold == k
        mean, std, y = X[train].mean(0), X[train].std(0).clamp(min=1e-9), Y[train].mean(0)
        A, B = (X[train] - mean) / std, (X[out] - mean) / std
        found[out] = y + B @ torch.linalg.solve(
            A.T @ A + PENALTY * len(A) * torch.eye(A.shape[1]), A.T @ (Y[train] - y)
        )
    return found


def corr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    "Correlations of columns."
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).mean(0) / (a.square().mean(0) * b.square().mean(0)).sqrt().clamp(min=1e-12)


def planned(f: torch.Tensor, g: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    "Forecast gain in nats of g over f, from three correlations each."
    r_1, r_2, r_12 = corr(f, Y).clamp(min=0), corr(g, Y).clamp(min=0), corr(f, g)
    share = ((r_1**2 + r_2**2 - 2 * r_1 * r_2 * r_12) / (1 - r_12**2)).clamp(max=0.99)
    share = torch.maximum(share, torch.maximum(r_1, r_2) ** 2)
    return torch.where(r_2 > r_12 * r_1, ((1 - r_1**2) / (1 - share)).log() / 2, 0.0)


def collection(folder: Path) -> dict:
    "Planned with half of the people, measured on the other half."
    x, labels, person = interviews(folder)
    Y, pairs, found = torch.stack(list(labels.values()), 1), list(permutations(x, 2)), []
    for seed in range(HALVES):
        order = torch.randperm(int(person.max()) + 1, generator=torch.Generator().manual_seed(seed))
        half, fold = (order < len(order) // 2)[person], (order % FOLDS)[person]
        for plan in (half, ~half):
            score = {s: held_out(X[plan], Y[plan], fold[plan]) for s, X in x.items()}
            y, k = Y[~plan], fold[~plan]
            alone, both = ({names: (held_out(torch.cat([x[s][~plan] for s in names], 1), y, k) - y).square().mean(0) for names in some}
                           for some in ([(s,) for s in x], list(combinations(x, 2))))  # fmt: skip
            at = {frozenset(names): error for names, error in both.items()}
            found.append({
                "forecast": torch.stack([planned(score[a], score[b], Y[plan]) for a, b in pairs]),
                "second alone": torch.stack([corr(score[b], Y[plan]) for _, b in pairs]),
                "measured": torch.stack([(alone[a,] / at[frozenset((a, b))]).log() / 2 for a, b in pairs]),
            })  # fmt: skip
    rank = {name: [float(spearmanr(each[name].flatten(), each["measured"].flatten()).statistic) for each in found]
            for name in ("forecast", "second alone")}  # fmt: skip
    mean = {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
    rows = [{"rating": rating, "first": a, "second": b} | {name: float(m[i, j]) for name, m in mean.items() if name != "second alone"}
            for i, (a, b) in enumerate(pairs) for j, rating in enumerate(labels)]  # fmt: skip
    return {"interviews": len(person), "people": int(person.max()) + 1, "rank correlation": rank, "rows": rows}


# ---------------------------------------------------------------- slices of CH-SIMS v2

RESAMPLES = 1000


def slices_of_sims(folder: Path) -> dict:
    "Lines through three encoders' predictions, fitted on valid, tested on test, where people's unimodal labels agree or conflict."
    with (folder / "sims" / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] != "train" and all(row[f"pred_{s}"] for s in "tav")]
    numbers = lambda names, mode: torch.tensor(
        [[float(r[k]) for k in names] for r in rows if r["mode"] == mode]
    ).double()
    names, people = ("pred_t", "pred_a", "pred_v"), ("label_T", "label_A", "label_V")
    X, y = numbers(names, "valid"), numbers(["label"], "valid")
    Z, truth = numbers(names, "test"), numbers(["label"], "test")[:, 0]
    line = lambda k: (
        torch.cat([Z[:, k], torch.ones(len(Z), 1)], 1)
        @ torch.linalg.lstsq(torch.cat([X[:, k], torch.ones(len(X), 1)], 1), y).solution
    )
    models = {
        "text": line([0])[:, 0],
        "audio": line([1])[:, 0],
        "vision": line([2])[:, 0],
        "all": line([0, 1, 2])[:, 0],
    }
    masks = agreement(dict(zip(("text", "audio", "vision"), numbers(people, "test").T, strict=True)))
    of = [row["video_id"] for row in rows if row["mode"] == "test"]
    known = {name: k for k, name in enumerate(dict.fromkeys(of))}
    video = torch.tensor([known[name] for name in of])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(known), (RESAMPLES, len(known)), generator=generator)
    weights = torch.stack([torch.bincount(row, minlength=len(known)) for row in drawn]).double()[:, video]
    gain = {}
    for part, mask in masks.items():
        error = {name: (pred - truth).abs()[mask] for name, pred in models.items()}
        alone = min(("text", "audio", "vision"), key=lambda s: error[s].mean())
        d, w = error["all"] - error[alone], weights[:, mask]
        ends = ((w @ d) / w.sum(1)).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        gain[part] = {"best one": alone, "difference": d.mean().item(), "interval": ends}
    return {
        "table": slices(models, truth, masks, "sims"),
        "videos": len(known),
        "gain of all over the best one, MAE": gain,
    }


PARTS = {"alternating": alternating, "unseen": unseen, "collection": collection, "slices": slices_of_sims}


def main() -> None:
    options = parser(__doc__, RESULT, data=True)
    options.add_argument("parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    given = options.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        store(given.out, stored(given.out) | {part: PARTS[part](given.data)})


if __name__ == "__main__":
    main()
