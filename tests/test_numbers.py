"Numbers in prose are those of results/: each sentence below, with its numbers computed anew, has to stand on its page."

import json
from collections import Counter
from itertools import product
from pathlib import Path
from statistics import mean

import nbformat
import pytest

from dmsil.related.compare import Comparison

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("text", "audio", "vision")


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def prose(page: str) -> str:
    cells = nbformat.read(ROOT / page, 4).cells
    return "\n".join(" ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown")


def short(x: float, digits: int = 2) -> str:
    "As .83, and 1.13 from 1 on."
    return f"{x:.{digits}f}".removeprefix("0")


# ---------------------------------------------------------------- what the pages say, page by page


def benchmark():
    sets = result("benchmark")["sets"]
    ratios = {kind: sets[kind]["tuned"]["ratios"] for kind in ("mosi", "short")}
    mosi, brief = (f"{ratios[kind]['epoch_cpu']:.1f}" for kind in ratios)
    low, lower = (f"{ratios[kind]['memory']:.2f}" for kind in ratios)
    yield "an epoch of training is {}× faster in CPU time and takes {} of the memory", mosi, low
    yield "on short clips it is {}× faster and takes {}.", brief, lower


def people(reading: str, what: str = "r") -> list:
    rows = {(row["features"], row["reading"], row["modality"]): row for row in result("sims")["posterior"]["rows"]}
    return [rows["MPNet + e5", reading, s][what] for s in NAMES]


def shared_by_cca() -> tuple[list[str], dict]:
    "Nats of text and audio without alignment and with CCA, and what CCA does to the error, on the nonlinear simulation."
    simulated = Comparison(**result("arena_nonlinear"))
    pair = lambda row: row["pairs"]["text~audio"][0]
    nats = [float(simulated.values(m, simulated.chosen()[m], pair).mean()) for m in ("none", "CCA")]
    return [f"{x:.2f}" for x in nats], simulated.against_none()["CCA"]


def front():
    yield "Trained and measured in {} seconds on two cores", f"{result('speed')['front page']['seconds']:.0f}"
    yield from benchmark()
    yield "better than the copy does, r {} against {}", *(short(people(who)[0][0]) for who in ("posterior", "copy"))
    nats, change = shared_by_cca()
    words = "CCA raises what text and audio share from {} to {} of 2 nats and changes the error by {} ± {}"
    yield words, *nats, f"{change['mean']:.3f}".replace("-", "−"), f"{(change['high'] - change['low']) / 2:.3f}"


def labels_against_people():
    for reading, name in {
        "copy": "`copy` of the clip's label",
        "selfmm": "`selfmm`, Self-MM's label",
        "robust": "`robust`",
    }.items():
        yield "| " + name + " | {} | {} | {} |", *(short(r[0], 3) for r in people(reading))
    yield "| **`posterior`** | **{}** | **{}** | **{}** |", *(short(r[0], 3) for r in people("posterior"))
    gains = [
        f"{x:+.3f}".replace("0.", ".", 1).replace("-", "−") for row in people("posterior", "r less copy") for x in row
    ]
    yield "| {} [{}, {}] | {} [{}, {}] | {} [{}, {}] |", *gains


def over_bayes(arm: str, subset: str) -> list[float]:
    return [
        run["MAE"][subset] / run["bayes"][subset]
        for run in result("missing")["runs"]
        if (run["set"], run["arm"]) == ("simulation", arm)
    ]


def missing():
    subsets = ("text", "audio", "vision", "text+audio", "text+vision", "audio+vision", "text+audio+vision")
    means = {(s, arm): mean(over_bayes(arm, s)) for s, arm in product(subsets, ("none", "dropout"))}
    for s in subsets:
        yield "| " + s + " | {} | {} |", *(f"{means[s, arm]:.2f}" for arm in ("none", "dropout"))
    dropped = [100 * means[s, "dropout"] - 100 for s in subsets]
    single = [100 * x - 100 for s in subsets for x in over_bayes("dropout", s)]
    yield "the error lies {} to {} % above the best predictor's", f"{min(dropped):.0f}", f"{max(dropped):.0f}"
    yield (
        "of the {} errors (seven subsets, five seeds) none is more than {} % above it",
        len(single),
        f"{max(single):.1f}",
    )
    yield "the error from text alone is {} % too large", f"{100 * means['text', 'none'] - 100:.0f}"
    folds = [run for run in result("missing")["runs"] if run["set"] == "interview"]
    total = lambda arm, of: (
        sum(run["clips"] * of(run) for run in folds if run["arm"] == arm)
        / sum(run["clips"] for run in folds if run["arm"] == arm)
    )
    every = lambda run: run["MAE"]["text+audio+vision"]
    yield "the mean of the training labels has {}:", short(total("none", lambda run: run["mean"]), 3)
    yield "costs {} on complete clips", short(total("dropout", every) - total("none", every), 3)


def runs(name: str, arm: str) -> list[dict]:
    return [run for run in result("real")["runs"] if (run["set"], run["arm"], run["share"]) == (name, arm, 1.0)]


def error(run: dict) -> float:
    return run["metrics"]["MAE"]


def interview():
    for name, words in {"mmmo": "{} against {} on ICT-MMMO", "simulation": "{} against {} on the simulation"}.items():
        digits = 3 if name == "simulation" else 2
        yield words, *(short(mean(map(error, runs(name, arm))), digits) for arm in ("all", "dmsil_kappa"))
    bayes = mean(run["bayes_MAE"] for run in runs("simulation", "dmsil_kappa"))
    yield "(the Bayes predictor {} on the same clips)", short(bayes, 3)
    heads = lambda arm: [short(mean(run["unimodal"][s] for run in runs("simulation", arm))) for s in NAMES]
    yield "{}, {} and {} for text, audio and vision", *heads("dmsil_kappa")
    yield "with labels copied from the clip {}, {} and {} (Bayes", *heads("copy")
    yield "Self-MM's {}, {} and {}.", *heads("self_mm")
    yield (
        "is {} times that of the Bayes predictor",
        f"{mean(map(error, runs('simulation', 'dmsil_kappa'))) / bayes:.2f}",
    )


def mosi():
    from scipy.stats import ttest_rel

    by_seed = lambda arm: [error(run) for run in sorted(runs("mosi", arm), key=lambda run: run["seed"])]
    low, high = ttest_rel(by_seed("all"), by_seed("dmsil_kappa")).confidence_interval()
    yield "Letting all pairs share raises the error by {} to {}.", short(low, 3), short(high, 3)


def verdict():
    nats = {"+": [], "-": []}
    patterns = {run["arm"]: run for run in result("signs")["runs"] if run["experiment"] == "patterns"}
    for arm, run in patterns.items():
        for sign, pair in zip(arm, run["pairs"].values(), strict=True):
            nats.get(sign, []).append(pair["shared"])
    top = result("signs")["optimum"]["ceiling"]
    kept, shared = sum(x <= 0.1 * top for x in nats["-"]), sum(x >= 0.9 * top for x in nats["+"])
    yield "{} of {} minuses bring their pair within 10 % of the floor", kept, len(nats["-"])
    yield (
        "P21's own pattern `+-0` to {} nats;",
        f"{patterns['+-0']['pairs']['text~vision']['shared']:.2f}",
    )
    yield "{} of {} pluses reach 90 % of the ceiling", shared, len(nats["+"])
    yield "and none less than {} nats", f"{min(nats['+']):.1f}"
    worst = max(run["MAE"] for run in patterns.values()) / patterns["000"]["MAE"]
    yield "The error is at most {} % above that of no alignment", f"{100 * worst - 100:.0f}"


def grid():
    from dmsil.combinations import load_grid

    found = load_grid(ROOT / "results" / "grid_synthetic.json")
    none, *patterns = found.values("MAE").mean(1).tolist()
    worse = [mae - none for mae in patterns]
    yield "by {} to {} of a MAE of {}, and Holm", f"{min(worse):.3f}", f"{max(worse):.3f}", f"{none:.3f}"
    yield "Much of that is whitening, {} alone", f"{patterns[found.cells.index('000') - 1] - none:.3f}"


def speed():
    found = result("speed")["posterior labels"]
    yield "{} clips take {} seconds and {} MB", f"{found['clips']:,}", f"{found['seconds']:.0f}", f"{found['MB']:.0f}"


def verdict_speed():
    found = result("speed")["report"]
    yield (
        "{} clips of three modalities with 64 columns take {} seconds and {} MB",
        f"{found['clips']:,}",
        f"{found['seconds']:.0f}",
        f"{found['MB']:.0f}",
    )


def wing():
    reviews = Comparison(**result("arena_mmmo"))
    yield "takes text and audio from {} to {} of 2 nats", *shared_by_cca()[0]
    gains, none = reviews.against_none(), float(reviews.values("none", 0.0).mean())
    gain = {f"{-gains[m]['mean']:.2f}" for m in ("CORAL", "CMD", "small features")}
    yield "CORAL and CMD do, by {} of {}, and so does a control", *gain, f"{none:.2f}"


PAGES = {
    "index.ipynb": front,
    "nbs/tutorials/people.ipynb": labels_against_people,
    "nbs/tutorials/missing.ipynb": missing,
    "nbs/tutorials/interview.ipynb": interview,
    "nbs/tutorials/mosi.ipynb": mosi,
    "nbs/35_report.ipynb": lambda: (*verdict(), *verdict_speed()),
    "nbs/06_posterior.ipynb": speed,
    "nbs/39_combinations.ipynb": grid,
    "nbs/related/index.ipynb": wing,
}


@pytest.mark.parametrize("page", PAGES)
def test_prose_has_the_numbers_of_its_file(page):
    text = prose(page)
    for sentence, *values in PAGES[page]():
        assert sentence.count("{}") == len(values)
        assert sentence.format(*values) in text, f"{page} should say: {sentence.format(*values)}"


def test_another_number_is_seen():
    "A digit changed anywhere in a sentence, and the sentence is no longer found."
    text = prose("index.ipynb")
    sentence, *values = next(iter(front()))
    assert sentence.format(*values) in text
    assert sentence.format(*[f"{float(value) + 0.1:.2f}" for value in values]) not in text


def test_there_are_enough_of_them():
    count = Counter({page: sum(len(values) for _, *values in claims()) for page, claims in PAGES.items()})
    print(count, count.total())
    assert count.total() >= 60 and min(count.values()) >= 2
