"""Does the module do what its signs say? In a world known in nats text and audio are to share, text and vision to keep apart.

    python tools/signs.py [--workers 2] [--seeds 1111 1112 1113 1114 1115] [--out FILE]

Two experiments, linear encoders in a loop of a few lines and `dmsil.fit`, into results/signs.json. Runs that are already in the file
are not run again; all of them take about ten minutes on two idle cores.
"""
import argparse
import json
import math
import os
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from unittest import mock

import torch
from torch import nn

import dmsil
import dmsil.training
from dmsil.information import neighbour_information, pair_information
from dmsil.synthetic import Simulation, SyntheticConfig
from dmsil.training import Trainer, rounded, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "signs.json"
NAMES = ("text", "audio", "vision")
PAIRS = (("text", "audio"), ("text", "vision"), ("audio", "vision"))
SIGNS = {("text", "audio"): 0.3, ("text", "vision"): -0.3}
SEEDS = (1111, 1112, 1113, 1114, 1115)


# ---------------------------------------------------------------- the world, and what can be reached in it

def world(seed: int) -> SyntheticConfig:
    "Nine latent directions a modality, seen through 24 orthonormal columns: 2 common, 2 of each of its two pairs, 3 private."
    return SyntheticConfig(dims=dict.fromkeys(NAMES, 24), pairs=dict.fromkeys(PAIRS, 1.0), k_private=3, nonlinear=False, seed=seed)


def ceiling(config: SyntheticConfig, a: str, b: str) -> float:
    "The most that any features of a and b can share (data processing)."
    return Simulation(config).information(a, b)


def floor(config: SyntheticConfig, a: str, b: str, width: int) -> float:
    "The least that `width` linear features of full rank can share: a shared direction goes for each direction left out, the dearest first."
    pairs = config.pairs
    own = pairs.get((a, b), pairs.get((b, a), 0.0))
    shared = sorted([config.common / config.k_common] * config.k_common + ([own / config.k_pair] * config.k_pair if own else []))
    dropped = sum(max(0, sum(config.blocks(s).values()) - width) for s in (a, b))
    return float(sum(shared[: max(0, len(shared) - dropped)]))


def label_floor(config: SyntheticConfig, s: str, target: str) -> float:
    "What the prediction of a label from x_s alone shares with any other modality; `true`: of y_s, `copy`: of y_m."
    of_v, of_w = (sum(config.omega.values()), config.omega[s]) if target == "copy" else (1.0, 1.0)
    r, shared, private = Simulation(config).r, (1 - config.eta) * of_v**2, config.eta * of_w**2
    rho2 = shared * r * r**2 / (shared * r + private)
    return -0.5 * math.log1p(-rho2)


def criteria(run: dict, baseline: float, top: float, bottom: float) -> dict[str, bool]:
    "Within 10 % of the optimum: of the ceiling, of the way down to the floor, and of the MAE without alignment."
    share, private = (run["pairs"]["~".join(pair)]["shared"] for pair in SIGNS)
    return {"share": share >= 0.9 * top, "private": private <= bottom + 0.1 * (top - bottom), "MAE": run["MAE"] <= 1.1 * baseline}


# ---------------------------------------------------------------- what is measured

def white(D: torch.Tensor, most: int | None = None) -> torch.Tensor:
    "Uncorrelated coordinates of variance 1, the widest first; directions of no variance are left out."
    D = D.double() - D.double().mean(0)
    U, S, _ = torch.linalg.svd(D, full_matrices=False)
    return U[:, S > 1e-4 * S[0].clamp(min=1e-12)][:, :most] * (len(D) - 1) ** 0.5


def lifted(D: torch.Tensor, most: int = 8) -> torch.Tensor:
    "White features, and all squares and products of the leading ones: a straight line through these is a parabola through the features."
    U = white(D)
    i, j = torch.triu_indices(min(most, U.shape[1]), min(most, U.shape[1]))
    return torch.cat([U, U[:, i] * U[:, j]], 1)


def leading(D_a: torch.Tensor, D_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    "The leading canonical pair, found on the first half of the clips and read on the second."
    A, B, half = white(D_a), white(D_b), len(D_a) // 2
    U, _, Vt = torch.linalg.svd(A[:half].T @ B[:half])
    return A[half:] @ U[:, :1], B[half:] @ Vt.T[:, :1]


def measured(h: dict[str, torch.Tensor], a: str, b: str) -> dict:
    "One pair on held-out clips: the verdict, and two probes that see bent relations."
    pair = pair_information(h[a], h[b], permutations=100, resamples=200, seed=0)
    bent = pair_information(lifted(h[a]), lifted(h[b]), permutations=19, resamples=100, seed=0)
    u, v = leading(h[a], h[b])
    line = -0.5 * torch.log1p(-torch.corrcoef(torch.cat([u, v], 1).T)[0, 1] ** 2).item()
    return {
        "shared": pair.shared, "low": pair.interval[0], "high": pair.interval[1], "null95": pair.null95,
        "kappa": pair.kappa, "verdict": pair.verdict,
        "squares": bent.shared, "squares_low": bent.interval[0], "squares_null95": bent.null95,
        "leading_line": line, "leading_neighbours": neighbour_information(u, v),
    }  # fmt: skip


def record(experiment: str, arm: str, seed: int, mae: float | None, h: dict[str, torch.Tensor]) -> dict:
    "A row of the file."
    scale = max(h[s].std(0).mean().item() for s in NAMES)
    pairs = {"~".join(pair): measured(h, *pair) for pair in PAIRS}
    return {"experiment": experiment, "arm": arm, "seed": seed, "MAE": mae, "scale": scale, "pairs": pairs}


# ---------------------------------------------------------------- experiment 1: linear encoders, linear read-out

WIDTH, STEPS, BATCH, RATE = 8, 2500, 32, 1e-3
LINEAR = {
    "untrained": None,
    "none": None,
    "coral": {"measure": "coral", "whitening": 0.0, "allow_unbounded": True},
    "kappa": {"measure": "kappa", "whitening": 0.0},
    "kappa, white": {"measure": "kappa", "whitening": 0.1},
    "kappa, white, 1500 steps": {"measure": "kappa", "whitening": 0.1},
}


def linear(arm: str, seed: int, steps: int = STEPS, n: int = 4000) -> dict:
    "The module inside somebody else's loop: every batch is new."
    steps = {"untrained": 0, "kappa, white, 1500 steps": 1500}.get(arm, steps)
    sim, kind = Simulation(world(seed)), LINEAR[arm]
    train, test = sim.sample(BATCH * max(steps, 1), seed=2 * seed), sim.sample(n, seed=2 * seed + 1)
    torch.manual_seed(seed)
    encoders = nn.ModuleDict({s: nn.Linear(24, WIDTH) for s in NAMES})
    head = nn.Linear(3 * WIDTH, 1)
    times = 4 * WIDTH if arm == "coral" else 1
    align = dmsil.ModalAlignment({pair: times * weight for pair, weight in SIGNS.items()}, **kind) if kind else None
    optimiser = torch.optim.Adam([*encoders.parameters(), *head.parameters()], lr=RATE)

    def forward(x):
        h = {s: encoders[s](x[s]) for s in NAMES}
        return h, head(torch.cat(list(h.values()), 1))[:, 0]

    for i in range(steps):
        rows = slice(BATCH * i, BATCH * (i + 1))
        h, y_hat = forward({s: train.x[s][rows] for s in NAMES})
        loss = (y_hat - train.y_m[rows]).abs().mean() + (align(h).total if align else 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        h, y_hat = forward(test.x)
    mae = None if arm == "untrained" else (y_hat - test.y_m).abs().mean().item()
    return record("linear", arm, seed, mae, h)


# ---------------------------------------------------------------- experiment 2: dmsil.fit

NARROW, CLIPS = 7, (16000, 1000, 4000)
SAME = {"epochs": 12, "patience": 12, "batch_size": 128, "lr_encoders": 3e-3, "lr_heads": 3e-3, "device": "cpu"}
PAIRED = tuple((a, b, weight) for (a, b), weight in SIGNS.items())
FIT = {  # arm: (preset, what is changed, straight features or with the ReLU, their width; None: 32, 16 and 16)
    "untrained": ("self_mm", {}, True, NARROW),
    "untrained, as it stands": ("self_mm", {}, False, None),
    "self_mm": ("self_mm", {}, True, NARROW),
    "none": ("self_mm", {"labels": "none"}, True, NARROW),
    "dmsil": ("dmsil", {}, True, NARROW),
    "dmsil, share only": ("dmsil", {"pairs": PAIRED[:1]}, True, NARROW),
    "dmsil, signed": ("dmsil", {"pairs": PAIRED}, True, NARROW),
    "dmsil_kappa": ("dmsil_kappa", {"labels": "none", "pairs": PAIRED, "whitening": 1.0}, True, NARROW),
    "with whitening 0.1": ("dmsil_kappa", {"labels": "none", "pairs": PAIRED}, True, NARROW),
    "with unimodal labels": ("dmsil_kappa", {"pairs": PAIRED, "whitening": 1.0}, True, NARROW),
    "with ReLU": ("dmsil_kappa", {"labels": "none", "pairs": PAIRED, "whitening": 1.0}, False, None),
    "with ReLU, twice as wide": ("dmsil_kappa", {"labels": "none", "pairs": PAIRED, "whitening": 1.0}, False, 2 * NARROW),
    "as it stands": ("dmsil_kappa", {"pairs": PAIRED}, False, None),
}


def signed_coral(config, modalities, dims) -> dmsil.ModalAlignment:
    "What the library refuses: CORAL with a negative weight, at 4d times the weight so that its gradient is as large as kappa's."
    return dmsil.ModalAlignment({(a, b): 4 * NARROW * w for a, b, w in config.pairs}, measure="coral", whitening=0.0, allow_unbounded=True)


def fitted(arm: str, seed: int, n: tuple[int, int, int] = CLIPS, **same) -> dict:
    "A preset with its changes, trained, and measured on the test clips."
    preset, changes, straight, width = FIT[arm]
    clips = dmsil.synthetic_clips(world(seed), n, seed)
    model = dmsil.ModelConfig(hidden=64, features=dict.fromkeys(NAMES, width) if width else {}, rectified=not straight)
    config = dmsil.preset(preset, seed=seed, **SAME | same | changes)
    if arm.startswith("untrained"):
        run = Trainer(model, clips, config)
        return record("fit", arm, seed, None, dmsil.predict(run.model, run.clips.test)[1])
    alignment = signed_coral if arm == "dmsil, signed" else dmsil.training.alignment_for
    with mock.patch.object(dmsil.training, "alignment_for", alignment):
        run = dmsil.fit(model, clips, config, progress=False)
    return record("fit", arm, seed, run.metrics["MAE"], run.features()[0]) | {"best_epoch": run.metrics["best_epoch"]}


# ---------------------------------------------------------------- all of it

def one(experiment: str, arm: str, seed: int) -> dict:
    "One run, in a process of its own."
    torch.set_num_threads(1)
    return {"linear": linear, "fit": fitted}[experiment](arm, seed)


def optimum() -> dict:
    "Ceiling, floors and the least error: closed forms, nothing measured."
    config = world(0)
    return {
        "ceiling": ceiling(config, *PAIRS[0]),
        "floor": {"linear": floor(config, *PAIRS[1], WIDTH), "fit": floor(config, *PAIRS[1], NARROW)},
        "label_floor": {target: label_floor(config, "vision", target) for target in ("true", "copy")},
        "bayes_MAE": Simulation(config).bayes_mae(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    done = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    done["machine"] = f"{os.cpu_count()} {platform.machine()} cores, no GPU, 1 thread a run, torch {torch.__version__.split('+')[0]}"
    done["optimum"] = rounded(optimum())
    order = [(experiment, arm) for experiment, arms in (("linear", LINEAR), ("fit", FIT)) for arm in arms]
    have = {(run["experiment"], run["arm"], run["seed"]) for run in done["runs"]}
    todo = [(*key, seed) for seed in args.seeds for key in order if (*key, seed) not in have]
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(one, *key) for key in todo]
        for i, job in enumerate(as_completed(jobs), 1):
            run = rounded(job.result())
            done["runs"].append(run)
            done["runs"].sort(key=lambda r: (order.index((r["experiment"], r["arm"])), r["seed"]))
            args.out.parent.mkdir(exist_ok=True)
            write_json(args.out, done)
            nats = ", ".join(f"{pair} {reading['shared']}" for pair, reading in run["pairs"].items())
            print(f"{i}/{len(todo)} {run['experiment']}, {run['arm']}, {run['seed']}: MAE {run['MAE']}; nats {nats}", flush=True)


if __name__ == "__main__":
    main()
