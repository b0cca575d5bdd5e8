"""Is the verdict right? Pairs whose truth is known, drawn again and again, at the default settings.

    python tools/calibration.py [--workers 2] [--draws 400] [--only WORDS] [--anew]

writes results/calibration.json: for every case how often it was called what, how often the interval covered the truth (or the lower bound
lay below it), bias and power. The file is where a run goes on: a case's draws are those of seeds 0, 1, …, and what it has is added to.
After a change of the estimate, `--anew` forgets what it has; all of it takes about three hours on two idle cores. `--only` runs the cases
whose name or kind holds the words.
"""

import math
import time
import zlib

import torch
from common import RESULTS, machine, parser, runs, store, stored
from torch import nn

from dmsil.bends import ALPHA
from dmsil.estimates import (
    CLIPS_A_DIRECTION,
    MARGIN,
    Groups,
    null95,
    pointwise,
    shuffles,
)
from dmsil.interactions import PARTS, label_interactions
from dmsil.pairs import POWER, clip_notes, judged, neighbour_information, one_side, splits
from dmsil.synthetic import Simulation, SyntheticConfig, truth

RESULT = RESULTS / "calibration.json"
PERMUTATIONS, DRAWS, BATCH = 200, {"nothing": 400, "shared": 200, "label": 400}, 25
FEW = 100  # draws of all other kinds
STEPS = 100  # of a critic
LEVEL = 0.05  # at which tests are compared
PARTS_OF_FILE = ("cases", "labels", "power", "components")
CASES: dict[str, dict] = {}


def case(name, truth=None, kind="nothing"):
    "A way to draw a pair: features of either side, and groups or None."

    def add(make):
        if name in CASES:
            raise ValueError(f"two cases are named {name}")
        CASES[name] = {"make": make, "truth": 0.0 if kind == "nothing" else truth, "kind": kind}
        return make

    return add


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.double)


# ---------------------------------------------------------------- nothing is shared


def apart(p, q, n, name=None, of=lambda x: x, kind="nothing"):
    case(name or f"{p} + {q}, n = {n}", kind=kind)(lambda g: (of(normal(g, n, p)), of(normal(g, n, q)), None))


def cauchy(x):
    return torch.tan(math.pi * (torch.special.ndtr(x) - 0.5))


def active(share):
    "ReLU of which a share is not 0."
    line = torch.special.ndtri(torch.tensor(1 - share, dtype=torch.double))
    return lambda x: (x - line).clamp(min=0)


for n in (60, 100, 300, 1000, 3000):
    apart(8, 8, n)
for p, q, n in (
    (16, 16, 100),
    (16, 16, 200),
    (16, 16, 250),
    (32, 32, 300),
    (32, 32, 500),
    (40, 40, 300),
    (5, 768, 300),
    (768, 5, 300),
    (300, 300, 100),
    (1, 1, 60),
    (1, 1, 3000),
    (2, 30, 120),
    (64, 64, 1000),
    (64, 64, 3000),
    (1000, 1000, 60),
    (1, 1000, 200),
    (300, 300, 1000),
):
    apart(p, q, n)
apart(16, 16, 300, "ReLU, 7 % active, 16 + 16, n = 300", active(0.07))
apart(16, 16, 1000, "ReLU, 7 % active, 16 + 16, n = 1000", active(0.07))
apart(40, 40, 300, "ReLU, 2 % active, 40 + 40, n = 300", active(0.02))
apart(8, 8, 100, "Cauchy, 8 + 8, n = 100", cauchy)
apart(8, 8, 300, "Cauchy, 8 + 8, n = 300", cauchy)
apart(32, 32, 500, "Cauchy, 32 + 32, n = 500", cauchy)
apart(8, 8, 300, "log-normal, 8 + 8, n = 300", torch.exp)
apart(8, 8, 300, "two values, 8 + 8, n = 300", lambda x: (x > 0).double())
apart(16, 16, 300, "two values, one in 2 %, 16 + 16, n = 300", lambda x: (x > 2.05).double())
apart(4, 4, 60, "whole numbers, 4 + 4, n = 60", torch.round)


def sides(name, side):
    "Both sides drawn alike, each by itself."
    case(name)(lambda g: (side(g), side(g), None))


def constant(g):
    D = normal(g, 100, 8)
    D[:, 2:4] = 3.0
    return D


sides(
    "20 columns of rank 4 and noise of .001, n = 300",
    lambda g: normal(g, 300, 4) @ normal(g, 4, 20) + 1e-3 * normal(g, 300, 20),
)
sides("12 columns of rank 4, n = 100", lambda g: normal(g, 100, 4) @ normal(g, 4, 12))
sides("two of 8 columns constant, n = 100", constant)
sides(
    "64 directions of scale 1 to .0001, n = 300",
    lambda g: normal(g, 300, 64) * torch.logspace(0, -4, 64, dtype=torch.double) @ torch.linalg.qr(normal(g, 64, 64)).Q,
)
sides(
    "ReLU of 64 mixtures of 8 sources, n = 300",
    lambda g: (normal(g, 300, 8) @ normal(g, 8, 64) / 8**0.5 - 1).clamp(min=0),
)
sides("loud and quiet clips, each side its own, 8 + 8, n = 300", lambda g: normal(g, 300, 8) * normal(g, 300, 1).exp())


def speakers_apart(name, sizes, habit=1.0, d=8, of=lambda x: x, loud=0.0):
    "Each side has habits of its speakers, which have nothing to do with the other side's."
    who = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def side(g):
        own, of_speaker, loudness = normal(g, len(who), d), normal(g, len(sizes), d), normal(g, len(sizes), 1)
        return of((own + habit * of_speaker[who]) * (loud * loudness).exp()[who])

    case(name)(lambda g: (side(g), side(g), who.tolist()))


UNEQUAL = [round(5 * 1.17**k) for k in range(20)]  # 5 to 99 clips
TWELVE = [round(5 * 1.3**k) for k in range(12)]  # 5 to 90 clips
speakers_apart("30 speakers of 10 clips", [10] * 30)
speakers_apart("30 speakers of 10 clips, no habits", [10] * 30, 0.0)
speakers_apart("40 speakers of 8 clips, strong habits", [8] * 40, 2.0)
speakers_apart("150 speakers of 2 clips", [2] * 150)
speakers_apart("12 speakers of 25 clips", [25] * 12)
speakers_apart("20 speakers of 5 to 99 clips", UNEQUAL)
speakers_apart("20 speakers of 5 to 99 clips, strong habits", UNEQUAL, 3.0)
speakers_apart("20 speakers of 5 to 99 clips, no habits", UNEQUAL, 0.0)
speakers_apart("20 speakers of 5 to 99 clips, cubes", UNEQUAL, of=lambda x: x**3)
speakers_apart("20 speakers of 5 to 99 clips, loud and quiet ones", UNEQUAL, 0.5, loud=0.7)
speakers_apart("12 speakers of 5 to 90 clips", TWELVE)
speakers_apart("one speaker of 150 clips and 30 of 5", [150] + [5] * 30)
speakers_apart("90 speakers of 1 to 7 clips, 16 + 16", [1 + k % 7 for k in range(90)], d=16)
speakers_apart("60 speakers of 2 to 30 clips", [2 + 7 * k % 29 for k in range(60)])


def wander(g, n, d=8, phi=0.8):
    "Each clip correlates with the one before by phi."
    steps = normal(g, n, d) * (1 - phi**2) ** 0.5
    x = [normal(g, d)]
    for step in steps[1:]:
        x.append(phi * x[-1] + step)
    return torch.stack(x)


BLOCKS = [k // 100 for k in range(1000)]
case("neighbours alike (.8), no groups, n = 300", kind="order")(lambda g: (wander(g, 300), wander(g, 300), None))
case("neighbours alike (.8), blocks of 100, n = 1000", kind="order")(
    lambda g: (wander(g, 1000), wander(g, 1000), BLOCKS)
)
case("every clip twice, no groups, n = 300", kind="order")(
    lambda g: (*(normal(g, 150, 8).repeat(2, 1) for _ in range(2)), None)
)
case("every clip twice, grouped, n = 300")(
    lambda g: (*(normal(g, 150, 8).repeat(2, 1) for _ in range(2)), [*range(150)] * 2)
)


# ---------------------------------------------------------------- something is shared


def tied(g, n, p, q, nats, k, others=1.0):
    "k directions share `nats` together; the other directions have another scale; both sides are turned."
    rho = math.sqrt(1 - math.exp(-2 * nats / k))
    a, b = normal(g, n, p), normal(g, n, q)
    b[:, :k] = rho * a[:, :k] + math.sqrt(1 - rho**2) * b[:, :k]
    if others != 1:
        a[:, k:], b[:, k:] = others * a[:, k:], others * b[:, k:]
        a, b = (D @ torch.linalg.qr(normal(g, D.shape[1], D.shape[1])).Q for D in (a, b))
    return a, b


def shared(p, q, n, nats, k, name=None, **how):
    label = f"{nats:g} nats in {k} direction{'s' * (k > 1)}, {p} + {q}, n = {n}"
    case(name or label, nats, "shared")(lambda g: (*tied(g, n, p, q, nats, k, **how), None))


for n in (300, 1000):
    for nats in (0.02, 0.1, 0.3, 1.0):
        shared(8, 8, n, nats, 4)
for p, q, n, nats, k in (
    (8, 8, 300, 0.1, 1),
    (8, 8, 300, 0.3, 1),
    (1, 1, 300, 0.02, 1),
    (1, 1, 300, 0.1, 1),
    (8, 8, 100, 1.0, 4),
    (8, 8, 60, 1.0, 4),
    (16, 16, 300, 0.3, 4),
    (64, 64, 1000, 2.0, 4),
    (64, 64, 3000, 2.0, 4),
    (768, 5, 300, 1.0, 4),
    (5, 768, 300, 1.0, 4),
):
    shared(p, q, n, nats, k)
shared(40, 40, 300, 2.0, 4, "2 nats in 4 thin directions of 40, n = 300", others=3.0)
shared(40, 40, 1000, 2.0, 4, "2 nats in 4 thin directions of 40, n = 1000", others=3.0)
shared(40, 40, 300, 2.0, 4, "2 nats in 4 thick directions of 40, n = 300", others=0.5)
shared(8, 8, 2000, -4 * math.log1p(-(0.999**2)), 8, "near copies (correlation .999), 8 + 8, n = 2000")


@case("the same features twice, 8 + 8, n = 300", kind="shared")
def _(g):
    D = normal(g, 300, 8)
    return D, D.clone(), None


@case("exact linear copies, 8 + 8, n = 300", kind="shared")
def _(g):
    D = normal(g, 300, 8)
    return D, D @ normal(g, 8, 8), None


@case(".3 nats in 4 lines, t3 columns, 8 + 8, n = 1000", 0.3, "shared")
def _(g):
    a, b = (normal(g, 1000, 8) / normal(g, 3, 1000, 8).square().mean(0).sqrt() for _ in range(2))
    rho = math.sqrt(1 - math.exp(-0.15))
    b[:, :4] = rho * a[:, :4] + math.sqrt(1 - rho**2) * b[:, :4]
    return a, b, None


def speakers_share(name, sizes, nats, habit=0.5):
    "The clips share four directions; habits of the speakers lie over them."
    who, rho = (
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        math.sqrt(1 - math.exp(-nats / 2)) * (1 + habit**2),
    )

    def make(g):
        a, b = normal(g, len(who), 8), normal(g, len(who), 8)
        b[:, :4] = rho * a[:, :4] + math.sqrt(1 - rho**2) * b[:, :4]
        return *(D + habit * normal(g, len(sizes), 8)[who] for D in (a, b)), who.tolist()

    case(name, nats, "shared")(make)


speakers_share(".1 nats, 20 speakers of 5 to 99 clips", UNEQUAL, 0.1)
speakers_share(".3 nats, 20 speakers of 5 to 99 clips", UNEQUAL, 0.3)
speakers_share(".3 nats, 12 speakers of 5 to 90 clips", TWELVE, 0.3)
for count, size in ((12, 25), (20, 15), (30, 10), (50, 10)):
    speakers_share(f".3 nats, {count} speakers of {size} clips", [size] * count, 0.3)


@case("the ninth powers of .3 nats in 4 directions, 8 + 8, n = 300", kind="monotone")
def _(g):
    return *(D**9 for D in tied(g, 300, 8, 8, 0.3, 4)), None


# ---------------------------------------------------------------- something is shared, but no line sees it


def bent(name, n, d, f, k=1):
    def make(g):
        a, b = normal(g, n, d), normal(g, n, d)
        y = f(a[:, :k])
        b[:, :k] = 0.8 * (y - y.mean(0)) / y.std(0) + 0.6 * b[:, :k]
        return a, b, None

    case(name, kind="nonlinear")(make)


def loud(n, d):
    def make(g):
        loudness = (0.5 * normal(g, n, 1)).exp()
        return normal(g, n, d) * loudness, normal(g, n, d) * loudness, None

    case(f"loud in the same clips, {d} + {d}, n = {n}", kind="nonlinear")(make)


bent("b = a², 1 + 1, n = 300", 300, 1, torch.square)
bent("b = |a|, 1 + 1, n = 300", 300, 1, torch.abs)
bent("b = sin 4a, 1 + 1, n = 300", 300, 1, lambda x: torch.sin(4 * x))
bent("b = a² in 1 of 8, n = 300", 300, 8, torch.square)
bent("b = |a| in 1 of 8, n = 300", 300, 8, torch.abs)
bent("b = a² in 8 of 8, n = 300", 300, 8, torch.square, 8)
bent("b = a² in 1 of 8, n = 1000", 1000, 8, torch.square)
bent("b = |a| in 8 of 32, n = 1000", 1000, 32, torch.abs, 8)
bent("b = a² in 1 of 32, n = 1000", 1000, 32, torch.square)
loud(300, 8)
loud(1000, 32)


@case("b = a₁a₂, 8 + 8, n = 300", kind="nonlinear")
def _(g):
    a, b = normal(g, 300, 8), normal(g, 300, 8)
    b[:, 0] = 0.8 * a[:, 0] * a[:, 1] + 0.6 * b[:, 0]
    return a, b, None


def squared(d, n, nats=MARGIN):
    "A random direction of one side is bent by one of the other, as `planted_square` does: is it found as often as that says?"
    c = math.sqrt(1 - math.exp(-2 * nats))

    def make(g):
        a, b = normal(g, n, d), normal(g, n, d)
        u, w = (nn.functional.normalize(normal(g, d), dim=0) for _ in range(2))
        s = (a @ u).square()
        return a, b + torch.outer(c * (s - s.mean()) / s.std() + (math.sqrt(1 - c * c) - 1) * (b @ w), w), None

    case(f"a square of {nats:g} nats, {d} + {d}, n = {n}", kind="square")(make)


for d, n in ((8, 300), (8, 500), (8, 1000), (16, 1000), (16, 2000), (32, 2000)):
    squared(d, n)


# ---------------------------------------------------------------- what is known about the label

KNOWN: dict[str, dict] = {}  # what each modality of a simulation knows, and a modality of noise


def labelled(name, n, noise=24, per_group=1, habit=None, **config):
    "Clips of a simulation; of a group all are the same, or resemble one another as far as speakers have habits, drawn from it, too."
    world = Simulation(SyntheticConfig(nonlinear=False, **config))
    parts = {s: (split.redundant, split.unique[s], split.synergistic) for s, split in truth(world).labels.items()}
    parts |= {"noise": (0.0, 0.0, 0.0)} if noise else {}
    whole = lambda x: x if x > 1e-6 else 0.0
    KNOWN[name] = {
        s: dict(zip(PARTS, map(whole, (r + u, r, u, y, u + y)), strict=True)) for s, (r, u, y) in parts.items()
    }

    def make(g):
        drawn = lambda count: world.sample(count, seed=int(torch.randint(10**6, (), generator=g)), dtype=torch.double)
        theirs = drawn(n // per_group)
        x, y = (
            {s: D.repeat_interleave(per_group, 0) for s, D in theirs.x.items()},
            theirs.y_m.repeat_interleave(per_group),
        )
        if habit is not None:
            own, share = drawn(n), 1 / math.sqrt(1 + habit**2)
            x, y = {s: share * (own.x[s] + habit * D) for s, D in x.items()}, share * (own.y_m + habit * y)
        groups = None if per_group == 1 else [k // per_group for k in range(n)]
        return x | ({"noise": normal(g, n, noise)} if noise else {}), y, groups

    case(name, kind="label")(make)


labelled("three modalities and noise, n = 300", 300)
labelled("three modalities and noise, n = 1000", 1000)
labelled("three modalities and wide noise, n = 1000", 1000, noise=200)
labelled("three modalities and noise, every clip twice, grouped, n = 1000", 1000, per_group=2)
labelled("three modalities and noise, 30 speakers of 20 clips with habits", 600, per_group=20, habit=0.5)
labelled("three modalities and noise, 100 speakers of 6 clips with habits", 600, per_group=6, habit=0.5)
TWO = {"dims": {"text": 16, "audio": 16}, "omega": {"text": 0.5, "audio": 0.5}, "pairs": {}}
labelled("two modalities that know as much, n = 300", 300, noise=0, **TWO)
labelled("two modalities that know as much, n = 1000", 1000, noise=0, **TWO)


# ---------------------------------------------------------------- power, beside other tests


def rivals(d, n, nats):
    "Two modalities of the nonlinear simulation that share so much in two directions of four."
    names = ("text", "audio")
    world = Simulation(
        SyntheticConfig(
            dims=dict.fromkeys(names, d), omega=dict.fromkeys(names, 0.5), common=nats, pairs={}, k_private=2
        )
    )

    def make(g):
        x = world.sample(n, seed=int(torch.randint(10**6, (), generator=g))).x
        noise = 0.05 if d > 4 else 0.0  # of the columns' deviation, in directions that say nothing
        return *(x[s].double() + noise * x[s].std() * normal(g, n, d) for s in names), None

    case(f"{nats:g} nats, {d} + {d}, n = {n}", nats, "power")(make)


for d in (4, 32):
    for n in (300, 1000):
        for nats in (0.0, 0.05, 0.1, 0.3):
            rivals(d, n, nats)


def critic(a, b, orders, seed: int, steps: int = STEPS) -> float:
    "p of an InfoNCE critic, trained on one half of the clips, about the other half; both ways, one sum."
    torch.manual_seed(seed)
    total, m = 0, len(a) // 2
    halves = torch.randperm(len(a))[: 2 * m].chunk(2)
    for train, out in (halves, halves[::-1]):
        net = lambda x: nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16)
        )
        f, g = net(a), net(b)
        optimiser = torch.optim.AdamW([*f.parameters(), *g.parameters()], 1e-3, weight_decay=0.1)
        for _ in range(steps):
            rows = train[torch.randint(m, (128,))]
            S, right = f(a[rows]) @ g(b[rows]).T / 4, torch.arange(128)
            (nn.functional.cross_entropy(S, right) + nn.functional.cross_entropy(S.T, right)).backward()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            total = total + (f(a[out]) @ g(b[out]).T)[torch.arange(m), orders].mean(1)
    return (total >= total[0]).double().mean().item()


def beside(a, b, seed: int) -> dict:
    "p of the verdict's five tests together, of nearest neighbours (where directions are few) and of a critic."
    n, g, by = len(a), torch.Generator().manual_seed(seed), Groups(len(a), None, seed)
    orders = lambda n, times: torch.stack([torch.arange(n), *(torch.randperm(n, generator=g) for _ in range(times))])
    p = {"verdict": judged(one_side(a, by), one_side(b, by), by, shuffles(by, PERMUTATIONS))["p"]}
    if a.shape[1] <= 4:
        found = [neighbour_information(a, b[order]) for order in orders(n, 39)]
        p["neighbours"] = sum(x >= found[0] for x in found) / len(found)
    return p | {"critic": critic(a.float(), b.float(), orders(n // 2, PERMUTATIONS), seed)}


# ---------------------------------------------------------------- components of the training clips, and of all clips

for p, q in ((5, 768), (40, 40), (8, 8)):
    apart(p, q, 300, f"{p} + {q}, n = 300, on held-out clips", kind="components")


def components(D, rows):
    "The leading white components of some clips, for all clips; a sixteenth of the clips' number."
    X = (D - D[rows].mean(0)) / D[rows].std(0)
    _, S, VT = torch.linalg.svd(X[rows], full_matrices=False)
    k = min(len(rows) // 16, int((S > 1e-5 * S[0]).sum()))
    return X @ VT[:k].T / S[:k] * len(rows) ** 0.5


def held_out_information(A, B, train, out):
    "Pointwise information summed over clips that were held out, of white components and of shuffled ones: only these are white anew."
    B = B - B[:, train].mean(1, keepdim=True)
    L = torch.linalg.cholesky(B[:, train].mT @ B[:, train] / len(train))
    B = torch.linalg.solve_triangular(L, B.mT, upper=False).mT
    U, rho, VT = torch.linalg.svd(A[train].T @ B[:, train] / len(train), full_matrices=False)
    return pointwise(A[out] @ U, B[:, out] @ VT.mT, rho.clamp(max=1 - 1e-6)).sum(-1)


def on_held_out(a, b, by: Groups) -> dict[str, bool]:
    "Is something said to be shared, by 200 shuffles of components that were chosen on training clips, or on all?"
    every = torch.cat([torch.arange(len(a))[None], shuffles(by, PERMUTATIONS)])
    shares = {}
    for chosen in ("training clips", "all clips"):
        nats = 0
        for train, out in splits(by, 5):
            A, B = (components(D, train if chosen == "training clips" else torch.arange(len(D))) for D in (a, b))
            nats = nats + torch.cat([held_out_information(A, B[rows], train, out) for rows in every.split(50)])
        shares[chosen] = bool(nats[0] > null95(nats[1:]))
    return shares


# ---------------------------------------------------------------- drawing and counting


def draw(name: str, seed: int) -> dict:
    "One pair, or what is known about one label, measured."
    a, b, groups = CASES[name]["make"](torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode())))
    if name in KNOWN:
        known, _, _ = label_interactions(a, b, Groups(len(b), groups, seed), PERMUTATIONS)
        within = lambda ends, true: bool(ends[0] - 1e-9 <= true <= ends[1])
        return {
            "n": len(b),
            "covers": {
                s: {part: within(m.interval[part], KNOWN[name][s][part]) for part in PARTS} for s, m in known.items()
            },
            "found": {s: {part: getattr(m, part) > m.null95[part] for part in PARTS} for s, m in known.items()},
        }
    if CASES[name]["kind"] == "power":
        return {"n": len(a), "p": beside(a, b, seed)}
    by = Groups(len(a), groups, seed)
    if CASES[name]["kind"] == "components":
        return {"n": len(a), "shares": on_held_out(a, b, by)}
    both = {"a": one_side(a, by), "b": one_side(b, by)}
    found = judged(*both.values(), by, shuffles(by, PERMUTATIONS))
    found["noted"] = any("pass groups" in note or "one group" in note for note in clip_notes(both, by))
    found["nats"], found["copula"] = (
        found.pop("lines").nats,
        found.pop("ranked").nats,
    )  # may lie below 0, as `shared` doesn't
    return found | {"n": len(a)}


def some(name: str, first: int, last: int) -> list[dict]:
    torch.set_num_threads(1)
    return [draw(name, seed) for seed in range(first, last)]


def summary(name: str, draws: list[dict]) -> dict:
    "Counts of one case in some draws."
    true, N = CASES[name]["truth"], len(draws)
    share = lambda of: sum(map(of, draws)) / N
    if name in KNOWN:
        heard = [s for s in KNOWN[name] if s != "noise"]
        covers = {
            part: share(lambda d, part=part: sum(d["covers"][s][part] for s in heard) / len(heard)) for part in PARTS
        }
        nothing = {part: [s for s in KNOWN[name] if not KNOWN[name][s][part]] for part in PARTS}
        found = {
            part: share(lambda d, part=part, of=of: sum(d["found"][s][part] for s in of) / len(of))
            for part, of in nothing.items()
            if of
        }
        return {"n": draws[0]["n"], "draws": N, "covers": covers, "found": found}
    if CASES[name]["kind"] == "power":
        found = {test: share(lambda d, test=test: d["p"][test] <= LEVEL) for test in draws[0]["p"]}
        return {"n": draws[0]["n"], "draws": N, "truth": true, "found": found}
    if CASES[name]["kind"] == "components":
        return {
            "n": draws[0]["n"],
            "draws": N,
            "shares": {of: share(lambda d, of=of: d["shares"][of]) for of in draws[0]["shares"]},
        }
    called = lambda *words: sum(d["verdict"] in words for d in draws)
    nats = torch.tensor([d["nats"] for d in draws])
    out = {
        "kind": CASES[name]["kind"],
        "n": draws[0]["n"],
        "truth": true,
        "draws": N,
        "shares": (shares := called("shares", "shares, nonlinearly") / N),
        "shares_interval": ends(shares, N),
        "nonlinearly": called("shares, nonlinearly") / N,
        "private": called("private") / N,
        "mean": nats.mean().item(),
        "sd": nats.std().item(),
        "copula": share(lambda d: d["copula"]),
        "bound": share(lambda d: d["bound"]),
        "power": share(lambda d: d["power"]),
        "power_bent": share(lambda d: d["power_bent"]),
        "variance_read": draws[0]["variance_read"],
        "noted": share(lambda d: d["noted"]),
    }
    if true is not None:
        for key in ("interval", "copula_interval"):
            out[f"{key}_covers"] = share(lambda d, key=key: d[key][0] <= true <= d[key][1])
    return out


def ends(rate: float, draws: int) -> list[float]:
    "95 % interval of Clopper and Pearson for a rate."
    from scipy.stats import binomtest

    return list(binomtest(round(rate * draws), draws).proportion_ci(method="exact"))


def together(old: dict, new: dict) -> dict:
    "Counts of some draws and of further ones as if they had been counted at once."
    n, m = old["draws"], new["draws"]

    def mean(a, b):
        if isinstance(a, dict):
            return {key: mean(a[key], b[key]) for key in a}
        return (n * a + m * b) / (n + m)

    both = {key: old[key] for key in ("kind", "n", "truth", "variance_read") if key in old} | {"draws": n + m}
    both |= {key: mean(old[key], new[key]) for key in old if key not in both and key not in ("sd", "shares_interval")}
    if "sd" in old:
        apart = n * m / (n + m) * (old["mean"] - new["mean"]) ** 2
        both["sd"] = math.sqrt(((n - 1) * old["sd"] ** 2 + (m - 1) * new["sd"] ** 2 + apart) / (n + m - 1))
        both["shares_interval"] = ends(both["shares"], n + m)
    return {key: both[key] for key in old}


def wanted(name: str, most: int) -> int:
    return min(most, DRAWS.get(CASES[name]["kind"], FEW))


def main():
    words = parser(__doc__, workers=2)
    words.add_argument("--draws", type=int, default=400, help="at most, of one case")
    words.add_argument("--only", default="", help="cases whose name or kind holds these words")
    words.add_argument("--anew", action="store_true", help="forget the draws that these cases have")
    options = words.parse_args()
    names = [name for name in CASES if options.only in name or options.only == CASES[name]["kind"]]
    have = {
        name: counts for part in PARTS_OF_FILE for name, counts in stored(RESULT).get(part, {}).items() if name in CASES
    }
    have = {name: counts for name, counts in have.items() if not (options.anew and name in names)}
    drawn = {name: have[name]["draws"] if name in have else 0 for name in names}
    todo = [
        (name, first, min(first + BATCH, wanted(name, options.draws)))
        for name in names
        for first in range(drawn[name], wanted(name, options.draws), BATCH)
    ]
    todo.sort(key=lambda job: job[1])  # all cases a little, then more of each
    started, waiting = time.monotonic(), {}
    for at, (name, first, _), draws in runs(some, todo, options.workers):
        waiting[name, first] = draws
        while (name, drawn[name]) in waiting:  # in the order of seeds
            more = summary(name, waiting.pop((name, drawn[name])))
            have[name] = together(have[name], more) if name in have else more
            drawn[name] = have[name]["draws"]
        write(have)
        print(f"{time.monotonic() - started:6.0f} s  {at}  {name}: {drawn[name]} draws", flush=True)
    write(have)


def write(have: dict[str, dict]) -> None:
    settings = {
        "permutations": PERMUTATIONS,
        "margin": MARGIN,
        "alpha": ALPHA,
        "power": POWER,
        "clips_a_direction": CLIPS_A_DIRECTION,
    }
    parts = {part: {} for part in PARTS_OF_FILE}
    for name in CASES:
        if name in have:
            kind = CASES[name]["kind"]
            part = "labels" if name in KNOWN else kind if kind in parts else "cases"
            parts[part][name] = have[name]
    store(RESULT, {"machine": machine(), "settings": settings, **parts})


if __name__ == "__main__":
    main()
