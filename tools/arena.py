"""Every loss of nbs/related on one simulation whose shared information is known, into results/arena.json; goes on where it stopped.

    python tools/arena.py

The network of the preset dmsil_kappa, its unimodal labels copied. A cell is a mechanism at a weight on a kind of simulation: the models
of all seeds are trained together, as one stack, each with clips, weights and dropout of its own.
"""

from itertools import combinations
from time import process_time

import torch
from common import RESULTS, machine, parser, store, stored
from torch.func import functional_call, stack_module_state, vmap

import dmsil
from dmsil.checkpoints import rounded
from dmsil.clips import Vectors
from dmsil.covariance import coral, kappa
from dmsil.estimates import Groups, estimate, interval, standard, white
from dmsil.missing import thinned
from dmsil.model import MultimodalModel, specs
from dmsil.related.cross_prediction import AugmentedContrast, CrossPrediction, SentimentContrast
from dmsil.related.losses import PairLoss, Together, barlow_twins, cca, cmd, difference, infonce, vicreg
from dmsil.related.relational import relational
from dmsil.related.similarity import SimilarityAlignment
from dmsil.related.teacher import TeacherAlignment
from dmsil.synthetic import Simulation, SyntheticConfig

RESULT = RESULTS / "arena.json"
NAMES = ("text", "audio", "vision")
PAIRS = tuple(combinations(NAMES, 2))
CLIPS, EPOCHS, BATCH, RATE, DECAY, HIDDEN = (1250, 500, 1250), 6, 125, 3e-3, 0.1, 0.2
REPORTED, CHOOSING = tuple(range(10)), (100, 101)  # seeds
GRID = (0.03, 0.3, 3.0)  # what the alignment amounts to on the features of the models trained without it
FLOOR = 0.1  # weight of a unimodal task, as in the preset

# ---------------------------------------------------------------- the mechanisms


def kappa_distance(D_a, D_b):
    return 1 - kappa(D_a, D_b)


class Teacher(TeacherAlignment):
    "The teacher's vectors come with the features."

    def forward(self, features, labels=None, present=None):
        return PairLoss.forward(self, features, labels, present)


def predicting(pairs, widths):
    both_ways = {pair: w for (a, b), w in pairs.items() for pair in ((a, b), (b, a))}
    alone = dict.fromkeys(NAMES, 1.0)
    return Together(
        AugmentedContrast(alone), CrossPrediction(both_ways, widths), SentimentContrast({(s, s): 1.0 for s in NAMES})
    )


PLAIN = {
    "CORAL": coral, "CMD": cmd, "kappa": kappa_distance, "CCA": cca, "Barlow Twins": barlow_twins, "VICReg": vicreg,
    "InfoNCE": infonce, "relational": relational, "MISA's difference": difference,
}  # fmt: skip
MECHANISMS = {name: lambda pairs, widths, loss=loss: PairLoss(pairs, loss) for name, loss in PLAIN.items()} | {
    "teacher": lambda pairs, widths: Teacher(dict.fromkeys(NAMES, 1.0), {"": torch.zeros(2)}, widths),
    "prediction and contrasts": predicting,
    "ICL and IAL": lambda pairs, widths: SimilarityAlignment(pairs),
}


# ---------------------------------------------------------------- a stack of models


class Stack:
    "Clips of all seeds, models and alignment modules, side by side."

    def __init__(self, kind: str, mechanism: str | None, seeds: tuple[int, ...], clips: tuple[int, int, int]):
        self.seeds, splits = seeds, {"train": [], "valid": [], "test": []}
        for seed in seeds:
            world = Simulation(SyntheticConfig(seed=seed, nonlinear=kind == "nonlinear"))
            for k, part in enumerate(splits):
                sample = world.sample(clips[k], seed=3 * seed + k)
                teacher = world.latents("text", sample.x["text"])[:, : world.config.k_common]
                splits[part].append(sample.x | {"y": sample.y_m, "teacher": teacher})
        self.data = {
            part: {key: torch.stack([s[key] for s in found]) for key in found[0]} for part, found in splits.items()
        }
        about = dmsil.synthetic_clips(SyntheticConfig(), (8, 8, 8))
        config = dmsil.preset("dmsil_kappa", missing=True).model
        models, modules = [], []
        for seed in seeds:
            torch.manual_seed(seed)
            models.append(MultimodalModel(config, specs(about)))
            if mechanism:
                modules.append(MECHANISMS[mechanism](dict.fromkeys(PAIRS, 1.0), dict.fromkeys(NAMES, config.aligned)))
        self.model, (self.params, buffers) = models[0], stack_module_state(models)
        assert not buffers
        self.module = modules[0] if mechanism else None
        self.module_params, self.module_buffers = stack_module_state(modules) if mechanism else ({}, {})
        self.scale = 0.0

    def forward(self, x, shown):
        "Predictions and aligned features of a stack of batches."

        def one(params, x):
            inputs = {s: Vectors(x[s]) for s in NAMES}
            out = functional_call(self.model, params, (inputs, None, shown))
            return out.predictions, out.own

        return vmap(one, randomness="different")(self.params, x)

    def aligned(self, z, x):
        "The alignment of each seed's batch, unscaled."

        def one(params, buffers, z, y):
            return functional_call(self.module, (params, buffers), (z,), {"labels": y}).total

        return vmap(one, randomness="different")(
            self.module_params, self.module_buffers, z | {"teacher": x["teacher"]}, x["y"]
        )

    def loss(self, x, shown):
        y_hat, z = self.forward(x, shown)
        error = lambda s: (y_hat[s] - x["y"]).abs().mean(1)
        total = error("fusion") + FLOOR * sum(error(s) for s in NAMES)
        return total.sum() + (self.scale * self.aligned(z, x).sum() if self.module is not None else 0)

    def read(self, part: str, hidden: str | None = None):
        "Predictions and features of a split, without dropout."
        self.model.eval()
        x = self.data[part]
        n = x["y"].shape[1]
        shown = {s: torch.full((n,), s != hidden) for s in NAMES}
        with torch.no_grad():
            return self.forward({s: x[s] for s in NAMES}, shown)


def batch_of(data, rows):
    "A batch of each seed's own clips."
    return {key: torch.stack([x[i, r] for i, r in enumerate(rows)]) for key, x in data.items()}


def orders(seeds, n, epoch):
    return torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(1000 * s + epoch)) for s in seeds])


def usual(stack: Stack, features: dict, x: dict) -> float:
    "The alignment, unscaled, on features of the same clips, mean over seeds."
    with torch.no_grad():
        return stack.aligned(features, x).mean().item()


def train(stack: Stack, epochs: int) -> None:
    "Train all models."
    data, seeds = stack.data["train"], stack.seeds
    n = data["y"].shape[1]
    params = [*stack.params.values(), *stack.module_params.values()]
    optimiser = torch.optim.AdamW(params, lr=RATE, weight_decay=DECAY, fused=True)
    stack.model.train()
    steps, done = n // BATCH * epochs, 0
    torch.manual_seed(7)
    for epoch in range(1, epochs + 1):
        for rows in orders(seeds, n, epoch).split(BATCH, dim=1):
            kept = thinned(torch.ones(BATCH, len(NAMES), dtype=torch.bool), HIDDEN, torch.Generator().manual_seed(done))
            shown = dict(zip(NAMES, kept.T.contiguous(), strict=True))
            rate = RATE * min(1, (done + 1) * epochs / steps)  # up over the first epoch
            rate *= min(1, 3 * (steps - done) / steps)  # down over the last third
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            stack.loss(batch_of(data, rows), shown).backward()
            optimiser.step()
            done += 1


# ---------------------------------------------------------------- what is measured


def nats(D_a, D_b):
    "Shared information of held-out features, bias taken off, with its interval."
    groups = Groups(len(D_a))
    W_a, W_b = (white(standard(D.reshape(len(D), -1)), len(D) // 12).W for D in (D_a, D_b))
    found = estimate(W_a, W_b, groups, torch.empty(0, len(D_a), dtype=torch.long))
    return [max(found.nats, 0.0), *interval(found, groups)]


def shared(z, i):
    return {"~".join(pair): nats(*(z[s][i] for s in pair)) for pair in PAIRS}


def measured(stack: Stack) -> list[dict]:
    "A row for each seed."
    y = stack.data["test"]["y"]
    mae = lambda y_hat, truth=y: (y_hat - truth).abs().mean(1).tolist()
    y_hat, z = stack.read("test")
    valid = mae(stack.read("valid")[0]["fusion"], stack.data["valid"]["y"])
    without = {s: mae(stack.read("test", s)[0]["fusion"]) for s in NAMES}
    rows = []
    for i, seed in enumerate(stack.seeds):
        row = {"seed": seed, "valid_MAE": valid[i]}
        if seed in REPORTED:
            row |= {"MAE": mae(y_hat["fusion"])[i], "unimodal": {s: mae(y_hat[s])[i] for s in NAMES}}
            row |= {"without": {s: without[s][i] for s in NAMES}, "pairs": shared(z, i)}
            row |= {"label": nats(torch.cat([z[s][i] for s in NAMES], 1), y[i])}
        rows.append(row)
    return rows


def cost(mechanism: str | None, repeats: int = 30) -> float:
    "Least CPU seconds of a step of one model."
    stack = Stack("linear", mechanism, (0,), (BATCH, 8, 8))
    stack.scale = 1.0
    stack.model.train()
    x, whole, found = stack.data["train"], {s: torch.ones(BATCH, dtype=torch.bool) for s in NAMES}, []
    for _ in range(repeats):
        start = process_time()
        stack.loss(x, whole).backward()
        found.append(process_time() - start)
    return min(found)


def truth() -> dict:
    world = Simulation(SyntheticConfig())
    return {
        "bayes_MAE": world.bayes_mae(),
        "bayes_unimodal": {s: world.bayes_mae(s) for s in NAMES},
        "bayes_without": {s: world.bayes_mae(*(o for o in NAMES if o != s)) for s in NAMES},
        "pairs": {"~".join(pair): world.information(*pair) for pair in PAIRS},
        "label": dmsil.synthetic.label_information(world, *NAMES),
    }


def cell(kind: str, mechanism: str | None, weight: float, epochs: int, reference=None) -> tuple[dict, tuple]:
    "One cell of the table, and the features of the first training clips."
    stack = Stack(kind, mechanism, (*REPORTED, *CHOOSING), CLIPS)
    x = {key: value[:, :BATCH] for key, value in stack.data["train"].items()}
    stack.model.eval()
    if reference is not None:
        stack.scale = weight / usual(stack, reference, x)
    start = process_time()
    train(stack, epochs)
    about = {"kind": kind, "mechanism": mechanism or "none", "weight": weight, "scale": stack.scale}
    about |= {"cpu_seconds": process_time() - start, "seeds": measured(stack)}
    z = stack.read("train")[1]
    return about, {s: D[:, :BATCH] for s, D in z.items()}


def before(kind: str) -> list[dict]:
    "What is shared before the first step, whatever the mechanism."
    stack = Stack(kind, None, REPORTED, CLIPS)
    z = stack.read("test")[1]
    return [{"seed": seed, "pairs": shared(z, i)} for i, seed in enumerate(REPORTED)]


def settings(epochs: int) -> dict:
    "What all cells of a file have in common."
    return {
        "clips": list(CLIPS), "epochs": epochs, "batch": BATCH, "rate": RATE, "hidden": HIDDEN, "grid": list(GRID)
    }  # fmt: skip


def begun(path, epochs: int) -> dict:
    "The file so far; it stops where other settings made it."
    made = {"settings": settings(epochs), "machine": machine("1 thread")}
    done = stored(path, before={}, cost={}, cells=[], **made)
    for name, value in made["settings"].items():
        if (old := done["settings"].get(name)) != value:
            raise SystemExit(f"{path}: cells were made with {name} {old}, not {value}; another --out starts a new file")
    return done


def main() -> None:
    options = parser(__doc__, RESULT)
    options.add_argument("--epochs", type=int, default=EPOCHS)
    args = options.parse_args()
    torch.set_num_threads(1)
    done = begun(args.out, args.epochs)
    done.setdefault("truth", truth())
    save = lambda: store(args.out, done)

    for name in [None, *MECHANISMS]:
        if (name or "none") not in done["cost"]:
            done["cost"][name or "none"] = round(cost(name), 5)
            save()
    have = {(c["kind"], c["mechanism"], c["weight"]) for c in done["cells"]}
    for kind in ("nonlinear", "linear"):
        if kind not in done["before"]:
            done["before"][kind] = rounded(before(kind))
        todo = [(name, weight) for weight in (0.3, 3.0, 0.03) for name in MECHANISMS]
        todo, reference = [key for key in todo if (kind, *key) not in have], None
        for name, weight in [(None, 0.0), *todo] if todo or (kind, "none", 0.0) not in have else []:
            found, z = cell(kind, name, weight, args.epochs, reference)
            reference = z if name is None else reference
            if (kind, found["mechanism"], weight) in have:
                continue
            found = rounded(found)
            done["cells"].append(found)
            save()
            rows = [row for row in found["seeds"] if "MAE" in row]
            mean = lambda f, rows=rows: sum(map(f, rows)) / len(rows)
            pairs = [round(mean(lambda row, p=p: row["pairs"][p][0]), 2) for p in rows[0]["pairs"]]
            about = f"MAE {mean(lambda row: row['MAE']):.3f} {pairs} {found['cpu_seconds']:.0f} s"
            print(kind, found["mechanism"], weight, about, flush=True)


if __name__ == "__main__":
    main()
