"Grids: every pattern equal to its own fit, resumed after a kill, corrected as it should be, and what is refused."

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused

import dmsil
from dmsil.cells import Grid, load_grid
from dmsil.clips import Clips, DataError, Split, Steps, Texts, Vectors, synthetic_clips
from dmsil.combinations import GridConfig, grid, grid_model
from dmsil.significance import paired_t
from dmsil.stack import Stack, gradients, sign_patterns

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = grid_model()
SMALL = GridConfig(seeds=(5,), epochs=6, patience=2, verdict_seeds=0, device="cpu")


def two_modalities(n=(60, 30, 40), seed=0, wide=5) -> Clips:
    "Steps of different lengths and vectors, with a label that both know; shifted so that patience ends early."
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=generator)

    def part(name, k):
        y = randn(k)
        steps = Steps(randn(k, 7, wide) + y[:, None, None], torch.randint(1, 8, (k,), generator=generator))
        return Split(
            tuple(f"{name}{i}" for i in range(k)), {"audio": steps, "pose": Vectors(randn(k, 4) + y[:, None])}, y
        )

    return Clips("made", *(part(name, k) for name, k in zip(("train", "valid", "test"), n, strict=True)))


@pytest.mark.parametrize("modalities", [("a", "b"), ("text", "audio", "vision"), ("a", "b", "c", "d")])
def test_patterns_are_all_and_each_once(modalities):
    patterns = sign_patterns(modalities)
    pairs = [(a, b) for i, a in enumerate(modalities) for b in modalities[i + 1 :]]
    assert {tuple(signs[pair] for pair in pairs) for signs in patterns.values()} == set(
        product((-1, 0, 1), repeat=len(pairs))
    )
    assert all("".join("-0+"[signs[pair] + 1] for pair in pairs) == name for name, signs in patterns.items())


@pytest.mark.parametrize(
    "clips, config, cells",
    [
        (synthetic_clips(n=(220, 80, 90), seed=1), replace(SMALL, epochs=9), ("none", "000", "-0+", "+++")),
        (two_modalities(), replace(SMALL, epochs=12), ("none", "-", "0", "+")),
        (two_modalities(), replace(SMALL, labels="robust", measures=("rho2",)), ("none", "-", "+")),
        (two_modalities(), replace(SMALL, labels="posterior"), ("none", "-", "+")),
        (two_modalities(), replace(SMALL, labels="none", measures=("gaussian",)), ("none", "-", "+")),
        (
            synthetic_clips(n=(100, 50, 60), seed=2),
            replace(SMALL, epochs=3, measures=("corr",)),
            ("none", "--0", "++-"),
        ),
    ],
    ids=[
        "three modalities",
        "two",
        "rho2, robust labels",
        "posterior labels",
        "gaussian, no labels",
        "corr, with projections",
    ],
)
def test_a_cell_is_its_own_fit(clips, config, cells):
    "Best epoch equal; MAE, Corr and κ within 2e-4 of `fit` with the cell's own configuration."
    found, patterns = grid(clips, config, progress=False), sign_patterns(clips.modalities)
    for cell in cells:
        run = dmsil.fit(clips, config.train_config(config.measures[0], 5, patterns.get(cell), MODEL), progress=False)
        mine = {
            name: found.values(name)[found.cells.index(cell), 0].item()
            for name in ("MAE", "Corr", "valid_MAE", "best_epoch")
        }
        assert mine["best_epoch"] == run.metrics["best_epoch"]
        assert mine["MAE"] == pytest.approx(run.metrics["MAE"], abs=2e-4) and mine["Corr"] == pytest.approx(
            run.metrics["Corr"], abs=2e-4
        )
        assert mine["valid_MAE"] == pytest.approx(run.metrics["valid"]["MAE"], abs=2e-4)
        h, _ = run.features()
        for pair in found.pairs:
            measured = dmsil.kappa(*(h[s] for s in pair.split("~"))).item()
            assert found.values("kappa", pair=pair)[found.cells.index(cell), 0].item() == pytest.approx(
                measured, abs=2e-3
            )


def stack_of(clips, config, cells):
    patterns = sign_patterns(clips.modalities)
    zeros = "0" * len(next(iter(patterns)))
    weights = config.strength * torch.tensor([list(patterns.get(cell, patterns[zeros]).values()) for cell in cells])
    whitening = torch.tensor([0.0 if cell == "none" else config.whitening for cell in cells])
    return Stack(clips, config.train_config(config.measures[0], 5, patterns[zeros], MODEL), weights, whitening)


@pytest.mark.parametrize("labels", ["selfmm", "robust"])
def test_labels_predictions_and_weights_follow_fit(labels):
    "With patience as long as the training, generated labels agree to 1e-3, predictions and weights to 1e-4."
    clips, config = two_modalities(), replace(SMALL, epochs=5, patience=5, labels=labels)
    cells = ("none", "-", "+")
    with torch.random.fork_rng():
        stack = stack_of(clips, config, cells).fit()
    for k, cell in enumerate(cells):
        run = dmsil.fit(
            clips, config.train_config("kappa", 5, sign_patterns(clips.modalities).get(cell), MODEL), progress=False
        )
        torch.testing.assert_close(stack.buffers["generator.y"][k], run.generator.y, atol=1e-3, rtol=0)
        y_hat, alone = (
            stack.predict(clips.test).predictions["fusion"][k],
            dmsil.predict(run.model, clips.test)[0]["fusion"],
        )
        torch.testing.assert_close(y_hat, alone, atol=1e-4, rtol=0)
        for name, p in run.model.state_dict().items():
            torch.testing.assert_close(stack.params[f"model.{name}"][k], p, atol=1e-4, rtol=0)


def test_cells_stop_at_their_own_time():
    "A cell whose patience has ended keeps its weights, though the stack goes on."
    clips = two_modalities(n=(40, 12, 20), seed=3)
    config = replace(SMALL, epochs=40, patience=1, lr=0.01)
    found = grid(clips, config, progress=False)
    best = found.values("best_epoch")[:, 0]
    assert best.unique().numel() > 1, "every cell stopped at once: the test shows nothing"
    for cell, epoch in zip(found.cells, best.tolist(), strict=True):
        run = dmsil.fit(
            clips, config.train_config("kappa", 5, sign_patterns(clips.modalities).get(cell), MODEL), progress=False
        )
        assert run.metrics["best_epoch"] == epoch
        assert found.values()[found.cells.index(cell), 0].item() == pytest.approx(run.metrics["MAE"], abs=1e-3)


def test_a_weight_of_zero_changes_nothing():
    "none and 000 differ by whitening alone: without whitening they are the same run."
    values = grid(synthetic_clips(n=(80, 30, 40)), replace(SMALL, whitening=0.0, epochs=3), progress=False).values()
    cells = ["none", *sign_patterns("abc")]
    assert values[0, 0].item() == pytest.approx(values[cells.index("000"), 0].item(), abs=1e-5)


def test_cells_do_not_touch_each_other():
    "A cell alone and the same cell in company: equal gradients."
    clips, config = two_modalities(), SMALL
    rows = torch.arange(32)
    with torch.random.fork_rng():
        alone, company = stack_of(clips, config, ("+",)), stack_of(clips, config, ("none", "+", "-"))
        for stack in (alone, company):
            torch.manual_seed(0)
            stack.epoch = 2
            gradients(stack, rows)
    for name, p in alone.params.items():
        if p.grad is not None:
            torch.testing.assert_close(company.params[name].grad[1], p.grad[0], atol=1e-6, rtol=1e-4)


def test_the_random_state_is_left_alone():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    grid(two_modalities(), replace(SMALL, epochs=1), progress=False)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


# corrections ------------------------------------------------------------------------------------


def made_grid(effect: float, seeds=6) -> Grid:
    "A grid whose cell '+' is better than the others by `effect`."
    generator = torch.Generator().manual_seed(0)
    runs = []
    for seed in range(seeds):
        shared = torch.randn(1, generator=generator).item()
        mae = [
            0.9 + 0.1 * shared + 0.001 * torch.randn(1, generator=generator).item() - effect * (k == 3)
            for k in range(4)
        ]
        column = {
            "shared": [0.1] * 4,
            "null95": [0.2] * 4,
            "low": [0.0] * 4,
            "high": [0.3] * 4,
            "verdict": ["can't tell"] * 3 + ["shares"],
        }
        runs.append(
            {
                "measure": "kappa",
                "seed": seed,
                "MAE": mae,
                "Corr": mae,
                "valid_MAE": mae,
                "best_epoch": [1] * 4,
                "kappa": {"a~b": [0.0] * 4},
                "information": {"a~b": column},
            }
        )
    return Grid({"grid": {}, "data": {"name": "made", "modalities": ["a", "b"]}}, runs)


def test_a_true_effect_is_found_and_shown():
    found = made_grid(0.02)
    rows = {row["cell"]: row for row in found.compare("MAE", "whitening")}
    assert set(rows) == {"-", "+"} and rows["+"]["holm"] < 0.05 and rows["+"]["high"] < -0.01 < rows["-"]["mean"]
    assert set(row["cell"] for row in found.compare("MAE", "none")) == {"-", "0", "+"}
    lines = found.table().splitlines()
    assert len(lines) == 6 and "**-2" in lines[-1] and lines[-1].endswith("**0.10** |") and lines[-2].endswith("? |")
    assert len(found.plot().axes) == 2


def test_effects_by_hand():
    "Nine cells with a sign minus nine with 0, written out from the values."
    generator = torch.Generator().manual_seed(1)
    runs = [{"measure": "kappa", "seed": s, "MAE": torch.rand(28, generator=generator).tolist()} for s in range(4)]
    found = Grid({"grid": {}, "data": {"name": "made", "modalities": ["a", "b", "c"]}}, runs)
    rows = {(row["pair"], row["sign"]): row for row in found.effects()}
    assert len(rows) == 6
    values = dict(zip(found.cells, found.values(), strict=True))
    words = ["".join(word) for word in product("-0+", repeat=2)]
    plus = sum(values[w[0] + "+" + w[1]] - values[w[0] + "0" + w[1]] for w in words) / 9
    assert rows["a~c", "+"]["mean"] == pytest.approx(plus.mean().item()) and rows["a~c", "+"]["p"] == pytest.approx(
        paired_t(plus).p
    )


# one command ------------------------------------------------------------------------------------

WORDS = "grid --seeds 1 2 3 --epochs 2 --verdict-seeds 1 --device cpu --permutations 39 --resamples 20".split()


def command(*words, start=False, **env):
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **env)
    line = [sys.executable, "-m", "dmsil.cli", *map(str, words)]
    if start:
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.run(line, capture_output=True, text=True, env=environment)


def columns(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in run.items() if "seconds" not in k}
        for run in json.loads((folder / "grid.json").read_text())["runs"]
    ]


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    "A small file of the field's layout, three modalities."
    import pickle

    rng, data = np.random.default_rng(0), {}
    for part, n in (("train", 60), ("valid", 20), ("test", 60)):
        y = rng.uniform(-3, 3, n).astype(np.float32)
        steps = lambda width, n=n, y=y: (rng.normal(size=(n, 6, width)) + y[:, None, None]).astype(np.float32)
        data[part] = {
            "id": [f"{part}$_${i}" for i in range(n)],
            "raw_text": ["so"] * n,
            "text": steps(8),
            "audio": steps(5),
            "vision": steps(7),
            "audio_lengths": [6] * n,
            "vision_lengths": [6] * n,
            "regression_labels": y,
        }
    path = tmp_path_factory.mktemp("data") / "clips.pkl"
    path.write_bytes(pickle.dumps(data))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_file):
    "The grid that is never stopped."
    out = tmp_path_factory.mktemp("whole") / "grid"
    end = command(*WORDS, "--data", data_file, "--out", out)
    assert end.returncode == 0, end.stderr
    assert "| `+-0` |" in end.stdout and "3 seeds" in end.stdout
    return out


def test_a_grid_writes_its_file(whole):
    found = load_grid(whole)
    assert (
        found.seeds == [1, 2, 3]
        and len(found.cells) == 28
        and found.values().shape == (28, 3)
        and found.values().isfinite().all()
    )
    assert len(found.measured("text~audio")) == 28 and set(found.about["before"]["ridge_Corr"]) == {
        "text",
        "audio",
        "vision",
    }
    assert [p.name for p in whole.iterdir()] == ["grid.json"]


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed(whole, tmp_path, data_file, workers):
    "Killed after the first run is written, gone on with by the same command: the same grid; no worker outlives the kill."
    words = [*WORDS, "--data", data_file, "--out", tmp_path / "grid", "--workers", workers]
    process, start = command(*words, start=True), time.monotonic()
    while not (tmp_path / "grid" / "grid.json").exists() and process.poll() is None and time.monotonic() - start < 180:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers_of = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(columns(tmp_path / "grid")) <= 3
    end = command(*words)
    assert end.returncode == 0, end.stderr
    assert columns(tmp_path / "grid") == columns(whole)
    assert not [
        pid
        for pid in workers_of
        if Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text()
    ]


def test_seeds_may_be_added_and_nothing_else_may_change(whole, tmp_path, data_file):
    (tmp_path / "grid.json").write_bytes((whole / "grid.json").read_bytes())
    base = ["grid", "--data", data_file, "--out", tmp_path, *WORDS[5:]]
    assert command(*base, "--seeds", 3, 4).returncode == 0
    assert [run["seed"] for run in columns(tmp_path)] == [1, 2, 3, 4] and columns(tmp_path)[:3] == columns(whole)
    for change, word in (
        (["--strength", "0.5"], "strength was 0.3, now 0.5"),
        (["--hidden", "8"], "hidden was 64, now 8"),
    ):
        end = refused(*base, "--seeds", 3, *change)
        assert end.returncode == 2 and end.stderr.count("\n") == 1 and word in end.stderr


def test_simulated_clips_are_drawn_with_the_seed():
    draw = lambda seed: synthetic_clips(n=(60, 30, 40), seed=seed)
    found = grid(draw, replace(SMALL, seeds=(1, 2), epochs=1), progress=False)
    assert [run["MAE"] for run in grid(draw(2), replace(SMALL, seeds=(2,), epochs=1), progress=False).runs] == [
        found.runs[1]["MAE"]
    ]


def test_measures_share_their_references():
    found = grid(two_modalities(), replace(SMALL, measures=("kappa", "rho2"), epochs=3, seeds=(1, 2)), progress=False)
    first, second = (found.values("MAE", measure) for measure in ("kappa", "rho2"))
    torch.testing.assert_close(first[[0, 2]], second[[0, 2]], atol=2e-5, rtol=0)
    assert (first[1] - second[1]).abs().max() > 0 and len(found.compare()) == 4


@pytest.mark.parametrize(
    "words, says",
    [
        (["--strength", "0"], "strength"),
        (["--measures", "coral"], "coral"),
        (["--seeds", "1", "1"], "none twice"),
        (["--workers", "0"], "workers"),
        (["--epochs", "0"], "epochs"),
        (["--batch-size", "3"], "batch_size"),
        (["--data", "nowhere.pkl"], "nowhere.pkl"),
        (["--device", "nothing"], "nothing"),
    ],
)
def test_bad_words_end_with_code_2(tmp_path, words, says):
    end = refused("grid", *words, "--out", tmp_path / "grid")
    assert end.returncode == 2 and says in end.stderr and not (tmp_path / "grid").exists()


def test_bad_folders_are_one_line(tmp_path, data_file):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "grid.json").write_text('{"runs": [')
    for name, says in (("taken", "is a file"), ("broken", "not a readable grid")):
        end = refused(*WORDS, "--data", data_file, "--out", tmp_path / name)
        assert end.returncode == 2 and end.stderr.count("\n") == 1 and says in end.stderr


@pytest.mark.parametrize(
    "inputs, model, says",
    [
        ({"a": Vectors(torch.randn(8, 3))}, MODEL, "at least two modalities, got a"),
        (
            {"a": Vectors(torch.randn(8, 3)), "text": Texts(("so",) * 8)},
            replace(MODEL, frozen=False),
            "text: a grid trains on frozen text",
        ),
        (
            {"a": Vectors(torch.randn(8, 3)), "b": Steps(torch.randn(8, 4, 2), torch.full((8,), 4))},
            replace(MODEL, sequence="last"),
            "b: a grid reads steps by their statistics",
        ),
    ],
)
def test_clips_that_cannot_be_stacked(inputs, model, says):
    part = Split(tuple("abcdefgh"), inputs, torch.linspace(-1, 1, 8))
    with pytest.raises(DataError, match=says):
        grid(Clips("made", part, part, part), SMALL, model, progress=False)


def test_a_loss_that_is_not_finite_stops_the_grid():
    with pytest.raises(FloatingPointError, match="cells is not finite"):
        grid(two_modalities(), replace(SMALL, lr=1e30), progress=False)


@pytest.mark.skipif(not (DATA / "mmmo" / "features.npz").exists(), reason="ICT-MMMO is not beside the project")
def test_a_real_set_from_the_shell(tmp_path):
    end = command("grid", "--data", DATA / "mmmo" / "features.npz", *WORDS[1:], "--out", tmp_path)
    assert end.returncode == 0, end.stderr
    assert load_grid(tmp_path).values().shape == (4, 3)
