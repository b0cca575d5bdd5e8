"What is handed out: a wheel and a source archive, installed by themselves, train."

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "Wheel and source archive of what is committed or will be, made without a network."
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(lambda name: name and (ROOT / name).is_file(), files):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source], check=True, capture_output=True
    )
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_handed_out_trains(built, kind, tmp_path):
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--target", tmp_path / "site", built[kind]], check=True, capture_output=True)
    code = "import dmsil, sys; from dmsil.cli import main; assert dmsil.__file__.startswith(sys.argv[1]), dmsil.__file__; main(sys.argv[2:])"
    words = ["train", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "run")]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    end = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site"), *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert end.returncode == 0, end.stderr
    assert "test MAE" in end.stdout and (tmp_path / "run" / "metrics.json").exists()
    assert {"py.typed", "style.mplstyle"} <= {path.name for path in (tmp_path / "site" / "dmsil").iterdir()}


def test_the_source_archive_holds_its_metadata(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"settings.ini", "README.md", "CHANGELOG.md", "LICENSE", "dmsil/training.py"} <= names
