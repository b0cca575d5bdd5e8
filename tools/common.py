"What the experiments share: a line about the machine, a file that is added to, a pool of runs, the options of a shell."

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
DATA = ROOT.parent / "shared" / "data"


def machine(threads: str = "1 thread a run") -> str:
    "What a figure was measured on, in one line."
    torch = version("torch").split("+")[0]
    return f"{os.cpu_count()} {platform.machine()} cores, no GPU, {threads}, torch {torch}"


def parser(
    doc: str,  # the tool's docstring
    out: Path | None = None,  # where its figures go
    workers: int | None = None,  # processes
    data: bool = False,  # does it read corpora?
) -> argparse.ArgumentParser:
    "The options that several tools have."
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if out:
        made.add_argument("--out", type=Path, default=out)
    if workers:
        made.add_argument("--workers", type=int, default=workers)
    if data:
        made.add_argument("--data", type=Path, default=DATA)
    return made


def stored(path: Path, **empty) -> dict:
    "What a file of figures holds; `empty` where there is none."
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def store(path: Path, found: dict) -> None:
    "Figures, rounded, in a file that is whole or not there."
    from dmsil.checkpoints import rounded, write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rounded(found))


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def runs(
    call: Callable,  # makes a result of a job
    jobs: list[tuple],  # its arguments
    workers: int,
    fresh: bool = False,  # a process for each job
) -> Iterator[tuple[str, tuple, object]]:  # "3/10", the job, its result
    "Results as they come, each from a process with one thread."
    with ProcessPoolExecutor(workers, initializer=_alone, max_tasks_per_child=1 if fresh else None) as pool:
        pending = {pool.submit(call, *job): job for job in jobs}
        for i, job in enumerate(as_completed(pending), 1):
            yield f"{i}/{len(jobs)}", pending[job], job.result()
