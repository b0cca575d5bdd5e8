"""What a run does without a modality: its error for each subset, with and without modality dropout, into results/missing.json.

    python tools/missing.py [--sets simulation mosi interview] [--arms none dropout gaps] [--data FOLDER]

The preset is `dmsil_kappa` as shipped. "none" is told of missing modalities and has never seen one; "dropout" hides each modality of a
training clip from the fusion with probability 0.3, which was chosen on seeds 101 and 102 of the simulation; "gaps" trains without
dropout on clips of which each lacks about a third of its modalities. The test clips are complete, but for the subset in question. FOLDER holds
mosi/upstream, encoders/mosi_text.npz and mit_interview. Runs that are in the file are not run again; all of them take
about forty minutes on one core.
"""

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path

import torch

import dmsil
from dmsil.checkpoints import rounded, write_json
from dmsil.clips import Clips
from dmsil.corpora import load_interview
from dmsil.missing import with_missing

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "missing.json"
DROPOUT = 0.3
ARMS = {
    "none": {"missing": True},
    "dropout": {"modality_dropout": DROPOUT},
    "gaps": {},
}
SEEDS = {
    "simulation": range(1, 6),
    "mosi": range(1111, 1116),
    "interview": range(10),
}


def the_clips(name: str, seed: int, folder: Path) -> Clips:
    "Simulated clips, MOSI with frozen text as tools/real.py has it, or a fold of the interviews."
    if name == "mosi":
        from real import mosi

        return mosi(folder)
    if name == "interview":
        return load_interview(folder / "mit_interview", fold=seed, folds=10, seed=0)
    return dmsil.synthetic_clips(seed=seed)


def with_gaps(clips: Clips, seed: int) -> Clips:
    "The same clips, a third of the modalities of train and valid missing."
    torn = with_missing(clips, 1 / 3, seed)
    return replace(clips, train=torn.train, valid=torn.valid)


def run(name: str, arm: str, seed: int, folder: Path) -> dict:
    "One run: the error for each subset, the least possible one where it is known, and that of the mean label."
    clips = the_clips(name, seed, folder)
    given = with_gaps(clips, seed) if arm == "gaps" else clips
    done = dmsil.fit(given, "dmsil_kappa", seed=seed, device="cpu", progress=False, **ARMS[arm])
    subsets = done.metrics["subsets"]
    bayes = {s: clips.truth[f"bayes_mae {s}"] for s in subsets if f"bayes_mae {s}" in clips.truth}
    mean = done.metrics["reference"]["mean_predictor_MAE"]
    found = {"set": name, "arm": arm, "seed": seed, "MAE": {s: m["MAE"] for s, m in subsets.items()}, "bayes": bayes}
    return found | {"mean": mean, "clips": len(clips.test), "epochs": done.metrics["epochs"]}


def main() -> None:
    "Run what is not in the file yet."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--arms", nargs="+", default=["none", "dropout"], choices=list(ARMS))
    options = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"runs": []}
    found |= {"dropout": DROPOUT, "machine": f"{platform.machine()}, torch {torch.__version__.split('+')[0]}"}
    done = {(row["set"], row["arm"], row["seed"]) for row in found["runs"]}
    jobs = [(name, arm, seed) for name in options.sets for seed in SEEDS[name] for arm in options.arms]
    for job in [job for job in jobs if job not in done]:
        found["runs"].append(run(*job, options.data))
        write_json(RESULT, rounded(found))
        print(*job, {s: round(v, 3) for s, v in found["runs"][-1]["MAE"].items()}, flush=True)


if __name__ == "__main__":
    main()
