"Fixtures that several tests share."
import functools
import http.server
import threading
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def mosi_folder() -> Path:
    "The folder with the public copies of CMU-MOSI and what was joined from them."
    folder = SHARED / "mosi"
    if not (folder / "upstream").is_dir(): pytest.skip(f"needs the real data in {folder.relative_to(SHARED.parents[1])}")
    return folder


@pytest.fixture(scope="session")
def sims_folder() -> Path:
    "The folder with CH-SIMS v2: people's labels of every modality."
    folder = SHARED / "sims"
    if not (folder / "clips.csv").is_file(): pytest.skip(f"needs the real data in {folder.relative_to(SHARED.parents[1])}")
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


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
