"""Several processes: what one computes on a batch, two and four compute together.

The processes are this file, run as `python test_distributed.py WHAT FOLDER`; they write what each of them saw.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from dmsil import checkpoints, processes, trainer, training
from dmsil.clips import DataError, Split, Steps, Vectors, synthetic_clips
from dmsil.prediction import predict
from dmsil.presets import changed, preset
from dmsil.processes import Ranks
from dmsil.trainer import Trainer, forward_backward, train_epoch
from dmsil.training import fit

gloo = dist.is_available() and dist.is_gloo_available()
pytestmark = pytest.mark.skipif(not gloo, reason="this torch was built without gloo")
ALONE, EQUAL = Ranks(), 2e-7  # the loss rounds predictions to single precision; all else is double
BATCH = dict(device="cpu", batch_size=8, accumulate=2, dropout=0.0, hidden=8, encoded=6)
CASES = {
    "kappa, posterior": preset("dmsil_kappa", share="measured", **BATCH),
    "kappa, selfmm": preset("dmsil_kappa", labels="selfmm", share="all", **BATCH),
    "kappa, robust": preset("dmsil", measure="kappa", strength=0.3, whitening=0.1, labels="robust", floor=0.1, **BATCH),
    "coral, selfmm": preset("dmsil", **BATCH),
    "coral, robust": preset("dmsil", labels="robust", whitening=0.1, **BATCH),
    "no labels": preset("dmsil_kappa", labels="none", pairs=(("audio", "vision", -0.3),), **BATCH),
    "fewer rows than processes": preset("self_mm", **BATCH | {"batch_size": 3}),
}


def clips():
    "22 clips to train on: batches of 8, 7 and 7. Sequences for one modality; in double precision."
    g = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)

    def part(n):
        inputs = {
            "text": Vectors(draw(n, 12)),
            "audio": Steps(draw(n, 6, 5), torch.arange(n) % 6 + 1),
            "vision": Vectors(draw(n, 7)),
        }
        return Split(tuple(map(str, range(n))), inputs, draw(n).clamp(-3, 3))

    return replace(synthetic_clips(n=(4, 4, 4)), name="small", train=part(22), valid=part(9), test=part(3), truth={})


def observe(config, ranks=ALONE) -> dict:
    "An epoch; the gradient of one batch of nine; another epoch."
    run = Trainer(clips(), config, ranks=ranks)
    run.epoch = 1
    means = [train_epoch(run)]
    run.epoch = 2
    terms = forward_backward(run, torch.arange(9))
    ranks.add_gradients(run.model.parameters())
    params = [*run.model.named_parameters(), *([] if run.alignment is None else run.alignment.named_parameters())]
    seen = {f"gradient of {name}": p.grad.clone() if p.grad is not None else "none" for name, p in params}
    run.optimiser.zero_grad(set_to_none=True)
    means.append(train_epoch(run))
    seen |= {name: p.detach().clone() for name, p in params} | {f"term {name}": x.detach() for name, x in terms.items()}
    seen |= {f"mean {name} {i}": torch.tensor(x) for i, row in enumerate(means) for name, x in row.items()}
    return seen | (
        {}
        if run.generator is None
        else {f"labels: {name}": x.clone() for name, x in run.generator.state_dict().items()}
    )


def outcome(run) -> dict:
    "What a finished run is."
    seen = dict(run.model.state_dict()) | {f"labels: {name}": x for name, x in run.generator.state_dict().items()}
    seen |= {
        f"{name} {row['epoch']}": torch.tensor(x) for row in run.history for name, x in row.items() if name != "seconds"
    }
    return (
        seen
        | {name: torch.tensor(x) for name, x in run.metrics.items() if isinstance(x, float)}
        | {"best": run.metrics["best_epoch"]}
    )


def small_fit(epochs, *args, **kwargs):
    return fit(clips(), preset("dmsil", epochs=epochs, **BATCH), *args, progress=False, **kwargs)


def furthest(a: dict, b: dict) -> float:
    "The largest difference, each relative to the size of its tensor; what is no tensor must be equal."
    assert a.keys() == b.keys()
    off = 0.0
    for name, x in a.items():
        if not isinstance(x, torch.Tensor):
            assert x == b[name], name
        elif x.numel():
            assert torch.equal(x.isfinite(), b[name].isfinite()), name
            off = max(off, ((x - b[name]).abs().nan_to_num().max() / x.abs().nan_to_num().max().clamp(min=1)).item())
    return off


def works(folder: Path) -> None:
    "One of several processes that do everything."
    torch.set_default_dtype(torch.float64)
    ranks, written, write = processes.join("cpu"), [], checkpoints.write_atomic
    checkpoints.write_atomic = lambda path, call: (written.append(Path(path).name), write(path, call))
    seen = {name: observe(config, ranks) for name, config in CASES.items()}
    seen["predictions"] = predict(Trainer(clips(), CASES["no labels"]).model, clips().test, ranks=ranks)[0]
    seen["fit"] = outcome(small_fit(4))
    assert not written
    small_fit(2, folder / "short")
    seen["resumed"] = outcome(small_fit(4, folder / "from one", resume=True))
    seen["written"] = sorted(set(written))
    other = Trainer(replace(clips(), name=f"clips of {min(ranks.rank, 1)}"), CASES["no labels"], ranks=ranks)
    try:
        training._check_same(other)
    except DataError as error:
        seen["refused"] = str(error)
    torch.save(seen, folder / f"{ranks.rank}.pt")


def breaks(folder: Path, how: str) -> None:
    "Two processes, of which the second stops in the middle of an epoch."
    processes.SILENCE, step, seen = (60 if how == "fails" else 8), trainer.forward_backward, []

    def stopping(run, *parts, share=1.0):
        seen.append(1)
        if run.ranks.rank == 1 and len(seen) == 5:
            if how == "fails":
                raise MemoryError("no memory left here")
            time.sleep(300)
        return step(run, *parts, share=share)

    trainer.forward_backward = stopping
    fit(synthetic_clips(n=(100, 10, 10)), preset("dmsil", **BATCH | {"accumulate": 1}), progress=False)


def free_port() -> int:
    "Below 32768, where the system gives no port to others, and not one that another worker of this run may choose."
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for port in range(20_000 + 1000 * worker + os.getpid() % 1000, 32_768):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def start(world: int, what: str, folder: Path) -> list[subprocess.Popen]:
    "As a launcher starts them, on loopback; what they print goes to files."
    shared = dict(
        os.environ, OMP_NUM_THREADS="1", WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )
    started = []
    for r in range(world):
        with (folder / f"{r}.log").open("w") as log:
            env = shared | {"RANK": str(r), "LOCAL_RANK": str(r)}
            started.append(
                subprocess.Popen([sys.executable, __file__, what, str(folder)], env=env, stdout=log, stderr=log)
            )
    return started


def end(processes: list[subprocess.Popen], seconds: float = 240) -> list[int]:
    "Their exit codes; none is left behind."
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    "What each of several processes saw, and their folder."
    folder = tmp_path_factory.mktemp(f"of{request.param}")
    torch.set_default_dtype(torch.float64)
    try:
        small_fit(2, folder / "from one")
    finally:
        torch.set_default_dtype(torch.float32)
    codes = end(start(request.param, "works", folder))
    assert codes == [0] * request.param, "\n".join((folder / f"{r}.log").read_text() for r in range(request.param))
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(request.param)], folder


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_single_processs(several, double, case):
    "Terms, gradients, weights, labels, class sums: on every process those of one."
    alone = observe(CASES[case])
    for seen in several[0]:
        assert furthest(alone, seen[case]) < EQUAL


def test_what_is_not_trained_stays_so(several, double):
    "Without unimodal labels their heads get no gradient, hence no weight decay."
    for seen in several[0]:
        idle = [name for name, x in seen["no labels"].items() if isinstance(x, str)]
        assert len(idle) == 18 and all("heads." in name and "fusion" not in name for name in idle)


def test_the_comparison_can_fail(double):
    alone, other = observe(CASES["kappa, selfmm"]), observe(changed(CASES["kappa, selfmm"], strength=0.1001))
    assert furthest(alone, other) > 1e-5
    assert "gradient of heads.fusion.feature.1.weight" in alone


def test_a_whole_fit_is_the_single_processs(several, double):
    alone = outcome(small_fit(4))
    for seen in several[0]:
        assert furthest(alone, seen["fit"]) < EQUAL


def test_fewer_clips_than_processes_to_predict(several, double):
    alone = predict(Trainer(clips(), CASES["no labels"]).model, clips().test)[0]
    for seen in several[0]:
        assert furthest(alone, seen["predictions"]) < 1e-9


def test_resumed_with_another_number(several, double):
    "Two epochs alone and two together; two together and two alone."
    ranks, folder = several
    whole = outcome(small_fit(4))
    for seen in ranks:
        assert furthest(whole, seen["resumed"]) < EQUAL
    assert furthest(whole, outcome(small_fit(4, folder / "short", resume=True))) < EQUAL


def test_one_writes(several):
    first, *others = (seen["written"] for seen in several[0])
    assert first == ["config.json", "history.csv", "metrics.json", "model.safetensors", "state.safetensors"]
    assert others == [[]] * len(others)


def test_all_need_the_same_clips(several):
    assert "refused" not in several[0][0]
    assert all("same clips" in seen["refused"] for seen in several[0][1:])


@pytest.mark.parametrize("how, why", [("fails", "Connection"), ("sleeps", "Timed out")])
def test_nobody_waits_for_ever(tmp_path, how, why):
    first, second = start(2, how, tmp_path)
    try:
        assert first.wait(120) == 1
        last = (tmp_path / "0.log").read_text().strip().splitlines()[-1]
        assert "ConnectionError: process 0: another one failed, or was silent for" in last and why in last
    finally:
        if how == "sleeps":
            second.kill()
        end([second], 60)
    assert how == "sleeps" or "MemoryError: no memory left here" in (tmp_path / "1.log").read_text()


def test_the_same_command_under_torchrun(tmp_path):
    "In single precision, through the command line; one bar."
    words = ["--preset", "dmsil", "--dropout", "0", "--epochs", "1", "--device", "cpu", "--out", tmp_path / "two"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dmsil.cli",
        "train",
    ]
    done = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1")
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("| 0/125 ") == 1
    alone = fit(synthetic_clips(), preset("dmsil", dropout=0, epochs=1, device="cpu"), progress=False)
    assert furthest(dict(alone.model.state_dict()), load_file(tmp_path / "two" / "model.safetensors")) < 1e-3


def test_a_launcher_that_says_too_little(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK"):
        training.join("cpu")


if __name__ == "__main__":
    what, where = sys.argv[1:]
    works(Path(where)) if what == "works" else breaks(Path(where), what)
