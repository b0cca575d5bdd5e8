"""Time and memory of posterior labels, of a report and of the front page, into results/speed.json; two minutes on two idle cores.

    python tools/speed.py [--out FILE]

Posterior labels of 16,000 clips with the simulation's three modalities (32, 16 and 24 columns), and a report on 3,000 clips with three
modalities of 64 columns, and all code of index.ipynb, each in a process of its own with two threads. Memory is what the process's largest resident size grew by.
"""

import resource
import time
from concurrent.futures import ProcessPoolExecutor

from common import RESULTS, ROOT, machine, parser, store

RESULT = RESULTS / "speed.json"


def measured(call) -> dict:
    "Seconds and megabytes of a call."
    import torch

    torch.set_num_threads(2)
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024}


def labels() -> dict:
    from dmsil.posterior import posterior_labels
    from dmsil.synthetic import Simulation

    sample = Simulation().sample(16_000, seed=1)
    return measured(lambda: posterior_labels(sample.x, sample.y_m)) | {"clips": 16_000}


def report() -> dict:
    import torch

    from dmsil.report import information_report

    g = torch.Generator().manual_seed(1)
    shared = torch.randn(3000, 4, generator=g)
    x = {s: torch.randn(3000, 64, generator=g) for s in ("text", "audio", "vision")}
    x = {s: torch.cat([shared + part[:, :4], part[:, 4:]], 1) for s, part in x.items()}
    return measured(lambda: information_report(x, shared.sum(1))) | {"clips": 3000}


def front_page() -> dict:
    import matplotlib
    import nbformat

    import dmsil  # noqa: F401

    matplotlib.use("agg")
    cells = nbformat.read(ROOT / "index.ipynb", 4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return measured(lambda: exec(code, {}))


def main() -> None:
    out, found = parser(__doc__, RESULT).parse_args().out, {"machine": machine("2 threads a process")}
    for name, call in {"posterior labels": labels, "report": report, "front page": front_page}.items():
        with ProcessPoolExecutor(1) as pool:
            found[name] = pool.submit(call).result()
        print(name, found[name], flush=True)
    store(out, found)


if __name__ == "__main__":
    main()
