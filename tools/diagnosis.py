"""Why labels from class centres fail in training, and three wirings beside one another, on the simulation, into results/diagnosis.json.

    python tools/diagnosis.py [--workers 2] [--seeds 71]

Labels: the base is Self-MM's network with kappa at +0.3 on every pair and whitening 0.1. Each arm changes one thing; the last ones several.
The simulation knows every unimodal label, so labels are scored against the truth of the training clips, heads against that of the test
clips. Wirings: `dmsil_kappa` with +0.3 on text and audio, −0.3 on text and vision; what the fusion and the unimodal heads read differs.
Runs that are already in the file are not run again; all of one seed take about ten minutes on two idle cores.
"""

import os
from itertools import combinations

import torch
from common import RESULTS, machine, parser, runs, store, stored
from signs import SIGNS, simulated
from torch import nn

import dmsil
from dmsil import trainer
from dmsil.checkpoints import rounded
from dmsil.labels import LabelGenerator, axis_coordinate, centre_distances
from dmsil.model import Head, MultimodalModel, Output
from dmsil.pairs import pair_information
from dmsil.posterior import FixedLabels
from dmsil.prediction import predict
from dmsil.trainer import Trainer, train_epoch

RESULT = RESULTS / "diagnosis.json"
NAMES = ("text", "audio", "vision")
EPOCHS = 8
BASE = {"measure": "kappa", "strength": 0.3, "whitening": 0.1, "floor": 0.1}
WHITE = {"pairs": {pair: 0.0 for pair in combinations(NAMES, 2)}}  # kappa's weight is 0, whitening's stays
ARMS = {
    "as it is": {},
    "formula: robust": {"labels": "robust"},
    "formula: difference of t": {"read": "difference"},
    "heads learn the truth": {"heads": "truth"},
    "heads learn y_m": {"heads": "copy"},
    "features without ReLU": {"rectified": False},
    "kappa off, whitening kept": WHITE,
    "kappa and whitening off": {"measure": "none"},
    "weights W = 1": {"floor": 1.0},
    "robust, no ReLU, both off": {"labels": "robust", "rectified": False, "measure": "none"},
    "difference of t, no ReLU, both off": {"read": "difference", "rectified": False, "measure": "none"},
}


class Apart(nn.Module):
    "A generator whose labels nobody learns from: the heads are given others, the generator reads the features that come of it."

    def __init__(self, generator: LabelGenerator, taught: FixedLabels):
        super().__init__()
        self.generator, self.taught = generator, taught

    @property
    def labels(self):
        return self.taught.labels

    def weights(self, name, rows):
        return torch.ones(len(rows))

    def update(self, features, rows, epoch):
        self.generator.update(features, rows, epoch)


def difference(gen, F, rows, once):
    "The difference form, P27 (b), on the coordinate t."
    t = axis_coordinate(*centre_distances(F, gen.means(), gen.widths))
    t_all = axis_coordinate(*centre_distances(gen.stored.double(), gen.means(), gen.widths))[0]
    return gen.y[0, rows] + gen.y[0].std() / t_all.std() * (t[1:] - t[0])


def direction(gen: LabelGenerator, truth: dict) -> dict[str, float]:
    "r of the coordinate t_s along the class axis with the true unimodal label."
    t = axis_coordinate(*centre_distances(gen.stored.double(), gen.means(), gen.widths))
    return {s: torch.corrcoef(torch.stack([t[i + 1], truth[s].double()]))[0, 1].item() for i, s in enumerate(NAMES)}


def one(arm: str, seed: int) -> dict:
    "One training, of a set number of epochs so that all labels are equally old."
    changes = {k: v for k, v in (BASE | ARMS[arm]).items() if k not in ("read", "heads")}
    clips = dmsil.synthetic_clips(seed=seed)
    run = Trainer(clips, dmsil.preset("dmsil", seed=seed, epochs=EPOCHS, device="cpu", **changes), progress=False)
    gen, truth, y = run.generator, clips.train.unimodal, clips.train.labels
    if ARMS[arm].get("read"):
        gen.read = difference
    if heads := ARMS[arm].get("heads"):
        run.generator = Apart(gen, FixedLabels(truth if heads == "truth" else dict.fromkeys(NAMES, y), y))
    for _ in range(EPOCHS):
        run.epoch += 1
        train_epoch(run)
    y_hat = predict(run.model, clips.test)[0]
    off = lambda a, b: (a - b).abs().mean().item()
    return {
        "arm": arm, "seed": seed, "labels": {s: off(gen.labels[s], truth[s]) for s in NAMES},
        "copy": {s: off(y, truth[s]) for s in NAMES}, "heads": {s: off(y_hat[s], clips.test.unimodal[s]) for s in NAMES},
        "multimodal": off(y_hat["fusion"], clips.test.labels), "r of t": direction(gen, truth),
    }  # fmt: skip


# ---------------------------------------------------------------- wirings


class HeadsOnAligned(MultimodalModel):
    "Every head reads the aligned features z."

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        dims = config.dims(self.modalities)
        for s in self.modalities:
            self.heads[s] = Head(config.aligned, dims[s], config.dropout, config.rectified)

    def read(self, e, z):
        return z | {"fusion": torch.cat([z[s] for s in self.modalities], 1)}

    def forward(self, inputs):
        e = {s: encoder(inputs[s]) for s, encoder in self.encoders.items()}
        z = {s: align(e[s]) for s, align in self.align.items()}
        read = self.read(e, z)
        made = {s: head(read[s]) for s, head in self.heads.items()}
        y_hat = {s: y for s, (_, y) in made.items()}
        y_hat["fusion"] = y_hat["fusion"] + self.additive(read["fusion"]).squeeze(-1)
        return Output(y_hat, {s: h for s, (h, _) in made.items()}, z)


class FusionOnEncodings(HeadsOnAligned):
    "The fusion and the heads read the encodings e; z is aligned beside them and read by nobody."

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        dims, widths = config.dims(self.modalities), {s: encoder.width for s, encoder in self.encoders.items()}
        for s in self.modalities:
            self.heads[s] = Head(widths[s], dims[s], config.dropout, config.rectified)
        self.heads["fusion"] = Head(sum(widths.values()), dims["fusion"], config.dropout, config.rectified)
        self.additive = nn.Linear(sum(widths.values()), 1)

    def read(self, e, z):
        return e | {"fusion": torch.cat([e[s] for s in self.modalities], 1)}


WIRINGS = {
    "as shipped": MultimodalModel,
    "heads on aligned features": HeadsOnAligned,
    "fusion on encodings": FusionOnEncodings,
}


def wired(wiring: str, seed: int, n: tuple[int, int, int] = (8000, 1000, 4000), **changes) -> dict:
    "One run: errors, and the nats that each signed pair shares where it is aligned and in what the fusion reads."
    trainer.MultimodalModel = WIRINGS[wiring]
    clips = dmsil.synthetic_clips(simulated(seed), n, seed)
    run = dmsil.fit(clips, "dmsil_kappa", pairs=SIGNS, seed=seed, device="cpu", progress=False, **changes)
    z = run.features()[0]
    with torch.no_grad():
        e = {s: encoder(run.clips.test.inputs[s]) for s, encoder in run.model.eval().encoders.items()}
    read = e if wiring == "fusion on encodings" else z
    nats = lambda x: {
        "~".join(p): pair_information(*(x[s] for s in p), permutations=39, resamples=20).shared for p in SIGNS
    }
    errors = {"MAE": run.metrics["MAE"], "unimodal": run.metrics["unimodal"], "bayes_MAE": clips.truth["bayes_mae"]}
    return {"wiring": wiring, "seed": seed} | errors | {"aligned": nats(z), "read": nats(read)}


KINDS = {"runs": (one, "arm", ARMS), "wirings": (wired, "wiring", WIRINGS)}


def of_kind(kind: str, name: str, seed: int) -> dict:
    return KINDS[kind][0](name, seed)


def main() -> None:
    words = parser(__doc__, RESULT, os.cpu_count())
    words.add_argument("--seeds", type=int, nargs="+", default=[71])
    args = words.parse_args()
    done = stored(args.out, runs=[], wirings=[]) | {"machine": machine(), "epochs": EPOCHS}
    order = [(kind, name, seed) for kind, (_, _, names) in KINDS.items() for name in names for seed in args.seeds]
    have = {(kind, run[label], run["seed"]) for kind, (_, label, _) in KINDS.items() for run in done[kind]}
    for at, (kind, name, seed), run in runs(
        of_kind, [job for job in order if job not in have], args.workers, fresh=True
    ):
        _, label, names = KINDS[kind]
        rows = [*done[kind], rounded(run)]
        done[kind] = sorted(rows, key=lambda row: (list(names).index(row[label]), row["seed"]))
        store(args.out, done)
        print(f"{at} {name}, {seed}: {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()
