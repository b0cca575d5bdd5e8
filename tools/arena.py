"""Every loss of nbs/related, side by side, into results/arena_*.json: two simulations whose shared information is known, three real sets.

    python tools/arena.py [--sets nonlinear linear mosi mmmo interview] [--data FOLDER]

`dmsil.related.compare` does it: the network of the preset dmsil_kappa, its unimodal labels copied, the models of all seeds trained together.
On a simulation each seed has clips of its own; of the interviews each has a fold of its own; MOSI and ICT-MMMO have one split, and seeds
differ by first weights, order and dropout. FOLDER holds mosi/upstream, encoders/mosi_text.npz, mit_interview and mmmo. Cells that a file
holds are not trained again; all of it takes half an hour on one idle core.
"""

from itertools import combinations
from pathlib import Path

import torch
from common import RESULTS, machine, parser

import dmsil
from dmsil.checkpoints import rounded
from dmsil.related.compare import Data, compare
from dmsil.synthetic import Simulation, SyntheticConfig

NAMES = ("text", "audio", "vision")
CLIPS = (1250, 500, 1250)  # of a simulation
REPORTED, CHOOSING = tuple(range(10)), (100, 101)  # seeds
# Epochs and batch of the real sets. Epochs: of 3 to 20, the least validation MAE without alignment, seeds 100 to 103.
LENGTH = {"mosi": (5, 128), "mmmo": (6, 110), "interview": (10, 62)}
SIMULATED = {"epochs": 6, "batch_size": 125}


def simulated(kind: str, seeds: tuple[int, ...], clips: tuple[int, int, int] = CLIPS) -> Data:
    "Clips of every seed, with the common latents of the text as a teacher's vectors."
    splits = {"train": [], "valid": [], "test": []}
    for seed in seeds:
        world = Simulation(SyntheticConfig(seed=seed, nonlinear=kind == "nonlinear"))
        for k, part in enumerate(splits):
            sample = world.sample(clips[k], seed=3 * seed + k)
            teacher = world.latents("text", sample.x["text"])[:, : world.config.k_common]
            splits[part].append(sample.x | {"y": sample.y_m, "teacher": teacher})
    return {part: {key: torch.stack([s[key] for s in found]) for key in found[0]} for part, found in splits.items()}


def truth() -> dict:
    "What anybody can reach who knows the simulation."
    world = Simulation(SyntheticConfig())
    return {
        "bayes_MAE": world.bayes_mae(),
        "bayes_unimodal": {s: world.bayes_mae(s) for s in NAMES},
        "bayes_without": {s: world.bayes_mae(*(o for o in NAMES if o != s)) for s in NAMES},
        "pairs": {"~".join(pair): world.information(*pair) for pair in combinations(NAMES, 2)},
        "label": dmsil.synthetic.label_information(world, *NAMES),
    }


def real(name: str, folder: Path):
    "The clips of a real set, or a function of the seed."
    from real import the_clips

    by_seed = lambda seed: the_clips(name, folder, seed, 1.0)
    return by_seed if name == "interview" else by_seed(0)


def main() -> None:
    options = parser(__doc__, data=True)
    sets = ("nonlinear", "linear", *LENGTH)
    options.add_argument("--sets", nargs="+", default=sets, choices=sets)
    args = options.parse_args()
    torch.set_num_threads(1)
    for kind in args.sets:
        given = {"seeds": REPORTED, "choosing": CHOOSING, "out": RESULTS / f"arena_{kind}.json", "name": kind}
        given["machine"] = machine("1 thread")
        if kind in LENGTH:
            epochs, batch_size = LENGTH[kind]
            found = compare(real(kind, args.data), epochs=epochs, batch_size=batch_size, **given)
        else:
            found = compare(simulated(kind, (*REPORTED, *CHOOSING)), truth=rounded(truth()), **SIMULATED, **given)
        print(f"{kind}\n{found.table()}", flush=True)


if __name__ == "__main__":
    main()
