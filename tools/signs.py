"""Does the module do what its signs say? In a simulation whose nats are known text and audio are to share, text and vision to keep apart.

    python tools/signs.py [--workers 2] [--out FILE] [--arms none signed]

Three experiments into results/signs.json: linear encoders in a loop of a few lines (five seeds); the preset `dmsil_kappa` as shipped,
with no signs, with two and with those two swapped (ten seeds, none of which was used to choose a setting); and all 27 sign patterns of
the same preset, once. Runs that are already in the file are not run again; all of them take about an hour on two idle cores. What a run
learned stays in .cache/signs, so that `--out` with another name measures it anew without training.
"""

import math
import os

import torch
from common import RESULTS, ROOT, machine, parser, runs, store, stored
from torch import nn

import dmsil
from dmsil import trainer
from dmsil.checkpoints import rounded
from dmsil.pairs import neighbour_information, pair_information
from dmsil.stack import sign_patterns
from dmsil.synthetic import Simulation, SyntheticConfig

RESULT = RESULTS / "signs.json"
NAMES = ("text", "audio", "vision")
PAIRS = (("text", "audio"), ("text", "vision"), ("audio", "vision"))
SIGNS = {("text", "audio"): 0.3, ("text", "vision"): -0.3}
SEEDS = (1111, 1112, 1113, 1114, 1115)  # of the linear encoders
SHIPPED_SEEDS = tuple(range(2001, 2011))  # of the preset
PATTERN_SEED = 2011  # of all patterns
PATTERN_CLIPS = (8000, 1000, 4000)
CACHE = ROOT / ".cache" / "signs"


# ---------------------------------------------------------------- the simulation, and what can be reached in it


def simulated(seed: int) -> SyntheticConfig:
    "Nine latent directions a modality, seen through 24 orthonormal columns: 2 common, 2 of each of its two pairs, 3 private."
    return SyntheticConfig(
        dims=dict.fromkeys(NAMES, 24), pairs=dict.fromkeys(PAIRS, 1.0), k_private=3, nonlinear=False, seed=seed
    )


def ceiling(config: SyntheticConfig, a: str, b: str) -> float:
    "The most that any features of a and b can share (data processing)."
    return Simulation(config).information(a, b)


def floor(config: SyntheticConfig, a: str, b: str, width: int) -> float:
    "The least that `width` linear features of full rank can share: a shared direction goes for each direction left out, the dearest first."
    pairs = config.pairs
    own = pairs.get((a, b), pairs.get((b, a), 0.0))
    shared = sorted(
        [config.common / config.k_common] * config.k_common + ([own / config.k_pair] * config.k_pair if own else [])
    )
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
    return {
        "share": share >= 0.9 * top,
        "private": private <= bottom + 0.1 * (top - bottom),
        "MAE": run["MAE"] <= 1.1 * baseline,
    }


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
    "One pair on held-out clips: the verdict, and two probes that see nonlinear relations."
    pair = pair_information(h[a], h[b], permutations=100, resamples=200, seed=0)
    nonlinear = pair_information(lifted(h[a]), lifted(h[b]), permutations=39, resamples=100, seed=0)
    u, v = leading(h[a], h[b])
    line = -0.5 * torch.log1p(-(torch.corrcoef(torch.cat([u, v], 1).T)[0, 1] ** 2)).item()
    return {
        "shared": pair.shared, "low": pair.interval[0], "high": pair.interval[1], "null95": pair.null95,
        "kappa": pair.kappa, "verdict": pair.verdict,
        "squares": nonlinear.shared, "squares_low": nonlinear.interval[0], "squares_null95": nonlinear.null95,
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
    sim, kind = Simulation(simulated(seed)), LINEAR[arm]
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


# ---------------------------------------------------------------- experiment 2: the preset as shipped

CLIPS = (16000, 1000, 4000)
SHIPPED = {"none": {}, "signed": SIGNS, "swapped": {pair: -weight for pair, weight in SIGNS.items()}}
PATTERNS = {
    pattern: {pair: 0.3 * sign for pair, sign in signs.items() if sign}
    for pattern, signs in sign_patterns(NAMES).items()
}


def once_per_seed(labels=trainer.posterior_labels, kept={}):  # noqa: B006
    "Posterior labels depend on clips and seed, not on signs: those of the last seed are kept."

    def made(inputs, y, groups, seed, floor):
        if (seed, len(y)) not in kept:
            kept.clear()
            kept[seed, len(y)] = labels(inputs, y, groups, seed=seed, floor=floor)
        return kept[seed, len(y)]

    return made


def trained(arm: str, seed: int, n: tuple[int, int, int] = CLIPS, **changes) -> dict:
    "`dmsil_kappa` with signs and nothing else: its error, and its features of the test clips before and after training."
    clips, trainer.posterior_labels = dmsil.synthetic_clips(simulated(seed), n, seed), once_per_seed()
    run = dmsil.fit(
        clips, "dmsil_kappa", pairs=(SHIPPED | PATTERNS)[arm], seed=seed, device="cpu", progress=False, **changes
    )
    about = {name: run.metrics[name] for name in ("best_epoch", "epochs", "unimodal", "reliability")}
    return {
        "MAE": run.metrics["MAE"],
        "about": about,
        "before": run.features(trained=False)[0],
        "after": run.features()[0],
    }


def shipped(experiment: str, arm: str, seed: int, found: dict) -> dict:
    "What a trained run shares, measured on the test clips."
    before = {
        "~".join(pair): pair_information(*(found["before"][s] for s in pair), permutations=0, resamples=20).shared
        for pair in PAIRS
    }
    return record(experiment, arm, seed, found["MAE"], found["after"]) | found["about"] | {"before": before}


# ---------------------------------------------------------------- all of it


def one(experiment: str, arm: str, seed: int) -> dict:
    "One run, in a process of its own."
    if experiment == "linear":
        return linear(arm, seed)
    kept = CACHE / f"{experiment} {arm} {seed}.pt"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(trained(arm, seed, PATTERN_CLIPS if experiment == "patterns" else CLIPS), kept)
    return shipped(experiment, arm, seed, torch.load(kept, weights_only=True))


def optimum() -> dict:
    "Ceiling, floors and the least error: closed forms, nothing measured."
    config = simulated(0)
    return {
        "ceiling": ceiling(config, *PAIRS[0]),
        "floor": {
            "linear": floor(config, *PAIRS[1], WIDTH),
            "preset": 0.0,
        },  # nonlinear features need not keep a linear direction
        "label_floor": {target: label_floor(config, "vision", target) for target in ("true", "copy")},
        "bayes_MAE": Simulation(config).bayes_mae(),
    }


def main() -> None:
    words = parser(__doc__, RESULT, os.cpu_count())
    every = [*LINEAR, *SHIPPED, "patterns"]
    words.add_argument("--arms", nargs="+", default=every, choices=every)
    args = words.parse_args()
    done = stored(args.out, runs=[]) | {"machine": machine(), "optimum": optimum()}
    order = [("linear", arm, seed) for arm in LINEAR for seed in SEEDS]
    order += [("preset", arm, seed) for seed in SHIPPED_SEEDS for arm in SHIPPED]
    order += [("patterns", arm, PATTERN_SEED) for arm in PATTERNS]
    key = lambda run: (run["experiment"], run["arm"], run["seed"])
    have = set(map(key, done["runs"]))
    todo = [job for job in order if job not in have and (job[1] in args.arms or job[0] in args.arms)]
    for at, job, made in runs(one, todo, args.workers):
        run = rounded(made)
        done["runs"] = sorted([*done["runs"], run], key=lambda row: order.index(key(row)))
        store(args.out, done)
        nats = ", ".join(f"{pair} {reading['shared']}" for pair, reading in run["pairs"].items())
        print(f"{at} {', '.join(map(str, job))}: MAE {run['MAE']}; nats {nats}", flush=True)


if __name__ == "__main__":
    main()
