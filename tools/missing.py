"""What a run does without a modality: its error for each subset, with and without modality dropout, into results/missing.json.

    python tools/missing.py [--sets simulation mosi interview] [--arms none dropout gaps] [--data FOLDER] [--workers 1]

The preset is `dmsil_kappa`. "none" is told of missing modalities and has never seen one; "dropout" hides each modality of a
training clip from the fusion with probability 0.3, which was chosen on seeds 101 and 102 of the simulation; "gaps" trains without
dropout on clips of which each lacks about a third of its modalities. The test clips are complete, but for the subset in question. FOLDER holds
mosi/upstream, encoders/mosi_text.npz and mit_interview. Runs that are in the file are not run again; all of them take
about forty minutes on one core.
"""

from dataclasses import replace
from pathlib import Path

from common import RESULTS, machine, parser, runs, store, stored
from real import the_clips

import dmsil
from dmsil.checkpoints import rounded
from dmsil.clips import Clips
from dmsil.missing import with_missing

RESULT = RESULTS / "missing.json"
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


def with_gaps(clips: Clips, seed: int) -> Clips:
    "The same clips, a third of the modalities of train and valid missing."
    torn = with_missing(clips, 1 / 3, seed)
    return replace(clips, train=torn.train, valid=torn.valid)


def run(name: str, arm: str, seed: int, folder: Path) -> dict:
    "One run: the error for each subset, the best predictor's where it is known, and that of the mean label."
    clips = the_clips(name, folder, seed, 1.0)
    given = with_gaps(clips, seed) if arm == "gaps" else clips
    done = dmsil.fit(given, "dmsil_kappa", seed=seed, device="cpu", progress=False, **ARMS[arm])
    subsets = done.metrics["subsets"]
    bayes = {s: clips.truth[f"bayes_mae {s}"] for s in subsets if f"bayes_mae {s}" in clips.truth}
    mean = done.metrics["reference"]["mean_predictor_MAE"]
    found = {"set": name, "arm": arm, "seed": seed, "MAE": {s: m["MAE"] for s, m in subsets.items()}, "bayes": bayes}
    return found | {"mean": mean, "clips": len(clips.test), "epochs": done.metrics["epochs"]}


def main() -> None:
    "Run what is not in the file yet."
    words = parser(__doc__, RESULT, 1, data=True)
    words.add_argument("--sets", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    words.add_argument("--arms", nargs="+", default=["none", "dropout"], choices=list(ARMS))
    args = words.parse_args()
    found = stored(args.out, runs=[]) | {"dropout": DROPOUT, "machine": machine()}
    done = {(row["set"], row["arm"], row["seed"]) for row in found["runs"]}
    jobs = [(name, arm, seed) for name in args.sets for seed in SEEDS[name] for arm in args.arms]
    for at, job, row in runs(run, [(*job, args.data) for job in jobs if job not in done], args.workers):
        found["runs"].append(rounded(row))
        store(args.out, found)
        print(at, *job[:-1], {s: round(v, 3) for s, v in row["MAE"].items()}, flush=True)


if __name__ == "__main__":
    main()
