"""Training strategies and measures of the related systems, over seeds, into results/strategies.json.

    python tools/strategies.py [alternating] [unseen] [collection] [slices] [--data FOLDER]

alternating: alternating against joint training, three simulations, five seeds. About two minutes of CPU time on one core.
unseen: a pair of modalities that was never trained on, five seeds. About two minutes.
FOLDER holds mit_interview and sims. A part that is asked for is run anew.
"""

import argparse
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from dmsil.checkpoints import rounded, write_json
from dmsil.clips import Clips, Split, Vectors, synthetic_clips
from dmsil.related.alternating import Alternating, Joint, combined, train, unimodal
from dmsil.related.unseen import SumSpace
from dmsil.synthetic import SyntheticConfig

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "strategies.json"
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
    worlds, arms = ("in common", "own parts", "own parts, text noisy"), ("joint", "alternating", "alternating, projection")
    return [alternating_run(world, arm, seed) for world in worlds for arm in arms for seed in SEEDS]


# ---------------------------------------------------------------- an unseen pair

PAIRS = (("text", "audio"), ("text", "vision"))
UNSEEN = {
    "sum of tokens": {"spread": False},
    "sum of grids": {},
    "sum of grids, hidden layer": {"head": "hidden"},
    "sum of grids, prototypes": {"prototypes": 0.1},
    "sum of grids, pseudo-labels": {"pseudo": 1.0},
    "all of it": {"head": "hidden", "prototypes": 0.1, "pseudo": 1.0},
    "sum of grids, seen": {},
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
            mu = torch.stack([experts[s].predict(Split(split.ids, {s: x}, split.labels)) for s, x in split.inputs.items()])
            return combined(mu, torch.stack([spread[s] for s in split.inputs])[:, None].expand_as(mu), how)

        return from_

    found = [{"arm": f"late fusion, {name}", "seed": seed, "MAE": errors(late(how), clips, subsets)}
             for name, how in (("averaged", "precision"), ("experts", "experts"))]  # fmt: skip
    for arm, options in UNSEEN.items():
        torch.manual_seed(seed)
        model = SumSpace(widths, edges=edges, experts=experts, **options)
        train(model, three if "seen" in arm else two, epochs, 100, seed)
        found.append({"arm": arm, "seed": seed, "MAE": errors(model.predict, clips, subsets)})
    return found


def unseen(folder: Path) -> list[dict]:
    "Every seed."
    return [run for seed in SEEDS for run in unseen_runs(seed)]


PARTS = {"alternating": alternating, "unseen": unseen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path("data"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        write_json(RESULT, found | {part: rounded(PARTS[part](given.data))})


if __name__ == "__main__":
    main()
