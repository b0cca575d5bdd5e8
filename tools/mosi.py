"""Three presets, five seeds and the simple baselines on CMU-MOSI, standard split, into results/mosi.json.

    python tools/mosi.py [--mirror FOLDER_OR_ADDRESS] [--workers 2] [--seeds 1111 1112 1113 1114 1115]

Runs that are already in the file are not run again.
"""
import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "mosi.json"
PRESETS = ("self_mm", "dmsil", "dmsil_kappa")
EPOCHS = 6


def ridge(mirror) -> dict[str, dict]:
    "Ridge on frozen, mean-pooled text embeddings and on each modality's statistics; strength by leave-one-out on the training clips."
    import numpy as np
    from sklearn.linear_model import RidgeCV

    import dmsil
    from dmsil.model import input_features, prepare

    clips = prepare(dmsil.load_mosi(mirror=mirror), dmsil.ModelConfig(frozen=True))
    parts = [input_features(clips, part) for part in ("train", "test")]
    features = {name: [part[name].numpy() for part in parts] for name in clips.modalities}
    features["all"] = [np.hstack(parts) for parts in zip(*(features[name] for name in clips.modalities), strict=True)]
    rows = {}
    for name, (x, z) in features.items():
        model = RidgeCV(alphas=np.logspace(-3, 5, 33)).fit(x, clips.train.labels.numpy())
        rows[f"ridge on {name}"] = dmsil.sentiment_metrics(model.predict(z), clips.test.labels.numpy(), "mosi")
    mean = np.full(len(clips.test), clips.train.labels.mean().item())
    return {"mean of the training labels": dmsil.sentiment_metrics(mean, clips.test.labels.numpy(), "mosi")} | rows


def one(preset: str, seed: int, mirror, threads: int) -> dict:
    "One training run."
    import torch

    torch.set_num_threads(threads)
    import dmsil

    run = dmsil.fit(dmsil.load_mosi(mirror=mirror), dmsil.preset(preset, seed=seed, epochs=EPOCHS, device="cpu"), progress=False)
    return {"preset": preset, "seed": seed, "metrics": run.metrics, "history": run.history}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", default=os.environ.get("DMSIL_MIRROR"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1111, 1112, 1113, 1114, 1115])
    args = parser.parse_args()
    import torch

    from dmsil.checkpoints import rounded, write_json

    done = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    threads = max(1, os.cpu_count() // args.workers)
    done["epochs"] = EPOCHS
    done["machine"] = f"{os.cpu_count()} {platform.machine()} cores, no GPU, {threads} thread(s) a run, torch {torch.__version__.split('+')[0]}"
    if "baselines" not in done:
        done["baselines"] = rounded(ridge(args.mirror))
    have = {(run["preset"], run["seed"]) for run in done["runs"]}
    todo = [(preset, seed) for seed in args.seeds for preset in PRESETS if (preset, seed) not in have]
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(one, preset, seed, args.mirror, threads) for preset, seed in todo]
        for i, job in enumerate(as_completed(jobs), 1):
            run = rounded(job.result())
            done["runs"].append(run)
            done["runs"].sort(key=lambda r: (PRESETS.index(r["preset"]), r["seed"]))
            RESULT.parent.mkdir(exist_ok=True)
            write_json(RESULT, done)
            print(f"{i}/{len(todo)} {run['preset']} {run['seed']}: MAE {run['metrics']['MAE']}, best epoch {run['metrics']['best_epoch']}", flush=True)


if __name__ == "__main__":
    main()
