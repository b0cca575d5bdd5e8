"Defects that tools/soak.py and tools/fuzz.py found, and what leaves or enters this package: no pickles out, nothing run on the way in."

import errno
import json
import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import dmsil
from dmsil import DataError, fit, load_clips, training
from dmsil.checkpoints import read_tree, write_tree
from dmsil.clips import synthetic_clips
from dmsil.corpora import fetch
from dmsil.presets import preset
from dmsil.report import information_report
from dmsil.training import STATE

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import fuzz  # noqa: E402
import soak  # noqa: E402

CLIPS = synthetic_clips(n=(40, 12, 12))


def run(folder, epochs, **options):
    return fit(CLIPS, preset("dmsil_kappa", epochs=epochs, device="cpu"), folder, progress=False, **options)


# --- training ---


def test_training_writes_no_pickle(tmp_path, monkeypatch):
    "JSON, CSV and safetensors; and nothing that could write a pickle is called."

    def refused(*args, **kwargs):
        raise AssertionError("a pickle is written")

    run(tmp_path / "first", 1)  # what is imported late is imported
    for module, name in (
        (torch, "save"),
        (pickle, "dump"),
        (pickle, "dumps"),
        (pickle, "Pickler"),
        (np, "save"),
        (np, "savez"),
    ):
        monkeypatch.setattr(module, name, refused)
    run(tmp_path / "run", 2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert set(files) == {"config.json", "history.csv", "metrics.json", "model.safetensors", STATE}
    for name, raw in files.items():
        if name.endswith(".json"):
            json.loads(raw)
        elif name.endswith(".csv"):
            assert raw.startswith(b"epoch,")
        else:
            assert raw[8:9] == b"{" and json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def test_a_tree_comes_back(tmp_path):
    shared = torch.arange(6.0)
    tree = {
        "a": shared[:2],
        "b": shared,
        3: (True, None, float("inf"), -0.0, 0.1),
        "empty": {},
        "list": [torch.tensor(2, dtype=torch.int64), "é"],
        "half": torch.randn(3, dtype=torch.float64).bfloat16(),
        "turned": torch.arange(6).view(2, 3).T,
    }
    write_tree(tmp_path / "x", tree)
    assert soak.bits(read_tree(tmp_path / "x")) == soak.bits(tree)


def test_a_history_is_whole_though_the_last_row_was_not_written(tmp_path, monkeypatch):
    write = training.write_csv

    def killed(path, rows):
        if len(rows) == 3:
            raise KeyboardInterrupt
        write(path, rows)

    monkeypatch.setattr(training, "write_csv", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 3)
    monkeypatch.undo()
    assert read_tree(tmp_path / STATE)["epoch"] == 3 and len((tmp_path / "history.csv").read_text().splitlines()) == 3
    run(tmp_path, 3, resume=True)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4


def test_what_a_killed_process_was_writing_is_taken_away(tmp_path):
    run(tmp_path, 1)
    (tmp_path / f".{STATE}.4711.tmp").write_bytes(b"half")
    run(tmp_path, 2, resume=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=type,
)
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, error):
    run(tmp_path, 1)
    whole = (tmp_path / STATE).read_bytes()

    def full(tensors, path, *about):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(
        OSError, match=f"{STATE}: can't be written .*No space left on device.*; what stood there before still does"
    ) as caught:
        run(tmp_path, 2, resume=True)
    assert "\n" not in str(caught.value) and (tmp_path / STATE).read_bytes() == whole and not list(tmp_path.glob(".*"))


# --- files ---

BASE = fuzz.corpus(np.random.default_rng(0))


def read(tmp_path, *files):
    "What became of each file, in a process with limits."
    return fuzz.outcomes([("pickle", "", raw) for raw in files], tmp_path, tmp_path / "it-ran")


def test_small_files_that_ask_for_much(tmp_path):
    "Shapes, dtypes and fields that print without end, copies of copies, keys whose hashes collide: memory and time stay small."
    found = read(tmp_path, *(fuzz.growing(random.Random(k), BASE, k) for k in range(29)))
    assert [(k, what) for k, what in enumerate(found) if what[0] not in fuzz.GOOD] == []


def test_zeros_that_were_packed_a_thousandfold(tmp_path):
    found = fuzz.outcomes([("npz", "", fuzz.bomb(random.Random(k), k)) for k in (1, 3)], tmp_path, tmp_path / "it-ran")
    assert [what for what, _ in found] == ["one line"] * 2 and all(
        "values; expected at most" in line for _, line in found
    )


@pytest.mark.parametrize("kind", fuzz.DANGEROUS)
def test_every_dangerous_instruction_is_refused(tmp_path, kind):
    found = read(tmp_path, *(fuzz.hostile(random.Random(k), tmp_path / "it-ran", BASE, kind) for k in range(4)))
    assert [what for what, _ in found] == ["one line"] * 4


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("id", tuple(BASE["train"]["id"]), "train.id: found a tuple; expected an array or a list"),
        ("id", [10**5000] * 6, "train.id: found a int in row 0; expected strings"),
        ("regression_labels", [10**400] * 6, "labels: found a whole number of more than 308 digits; expected numbers"),
        ("audio", ((1, 2), (1,)), "train.audio: found a tuple; expected an array or a list"),
    ],
)
def test_fields_that_were_no_dataerror(tmp_path, field, value, words):
    table = {name: dict(fields) for name, fields in BASE.items()}
    table["train"][field] = value
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(table))
    with pytest.raises(DataError, match=words):
        load_clips(tmp_path / "bad.pkl")


def test_lengths_without_a_dimension(tmp_path):
    np.savez(
        tmp_path / "bad.npz", values=np.zeros((12, 4, 3)), lengths=np.array(3), ids=[f"clip{k}" for k in range(12)]
    )
    with pytest.raises(DataError, match="bad.npz: voice_lengths: found a ndarray; expected an array"):
        fuzz.table_read(tmp_path / "bad.npz", tmp_path)


def test_huge_whole_numbers_are_no_keys(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({2**61 - 1: 0}))
    with pytest.raises(DataError, match="a key of 2⁶⁰ or more"):
        load_clips(tmp_path / "bad.pkl")


# --- downloads, reports ---


def test_what_is_fetched_is_not_run(mosi_folder, tmp_path):
    "Files arrive without the right to be executed, and reading the corpus starts no program and runs no code from outside."
    seen = []

    def watch(event, args):
        if event in fuzz.WATCHED and not (event == "exec" and Path(args[0].co_filename).is_file()) and seen is not None:
            seen.append(event)

    files = fetch("mosi", cache=tmp_path, mirror=mosi_folder / "upstream")
    assert not any(os.access(path, os.X_OK) or path.stat().st_mode & 0o111 for path in files.values())
    dmsil.load_mosi(tmp_path, mirror=mosi_folder / "upstream")  # what is imported late is imported
    sys.addaudithook(watch)
    dmsil.load_mosi(tmp_path, mirror=mosi_folder / "upstream")
    found, seen = list(seen), None
    assert set(found) <= {"os.mkdir", "os.remove"}, found  # of pooch, in the cache


def test_a_report_escapes_what_clips_are_called():
    evil = "<script>alert('x')</script>"
    g = torch.Generator().manual_seed(0)
    D = torch.randn(60, 3, generator=g)
    report = information_report(
        {evil: D, "b<i>": D + torch.randn(60, 3, generator=g)},
        D[:, 0],
        groups=[f"{evil}{k % 20}" for k in range(60)],
        permutations=39,
    )
    page = report._repr_html_()
    assert "<script" not in page and "<i>" not in page and "&lt;script&gt;" in page
