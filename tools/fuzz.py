"""Damaged, lying and hostile files through every reader of files: what happens? Into results/faults.json.

    python tools/fuzz.py [--seed 0] [--share 1.0] [--out FILE]

Each file is read in a process that may take 256 MB more than it has, and ten seconds of processor time. Under two minutes on an
idle core; counts last.
"""

import contextlib
import copyreg
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import dialects
import h5py
import numpy as np
import torch
from common import parser
from soak import RESULT, merge

from dmsil.camera import read_vision
from dmsil.clips import Clips, DataError, Steps, Tokens
from dmsil.corpora import load_mmmo
from dmsil.model import MultimodalModel
from dmsil.pickles import load_clips
from dmsil.tables import clips_from_table
from dmsil.transcripts import read_transcript

MEMORY, SECONDS, LONGEST, BATCH = 2**28, 10, 700, 40
SPLITS, FIELDS = (
    ("train", "valid", "test"),
    ("id", "raw_text", "text_bert", "audio", "vision", "audio_lengths", "vision_lengths", "regression_labels"),
)
WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.putenv",
    "subprocess.Popen",
    "shutil.rmtree",
    "pickle.find_class",
    "exec",
    "socket.connect",
    "ctypes.dlopen",
    "code.__new__",
)


# ---------------------------------------------------------------- honest files


def corpus(rng: np.random.Generator, sizes=(6, 4, 4), L=4) -> dict:
    table = {}
    for name, n in zip(SPLITS, sizes, strict=True):
        lengths = rng.integers(1, L + 1, n)
        mask = (np.arange(L) < lengths[:, None]).astype(np.float32)
        table[name] = {
            "id": [f"{name}$_${k}" for k in range(n)],
            "raw_text": [f"words {k}" for k in range(n)],
            "text_bert": np.stack([rng.integers(1, 30_000, (n, L)) * mask, mask, 0 * mask], 1).astype(np.float32),
            "audio": rng.normal(size=(n, L, 3)).astype(np.float32),
            "vision": rng.normal(size=(n, L, 2)).astype(np.float32),
            "audio_lengths": lengths,
            "vision_lengths": lengths.tolist(),
            "regression_labels": rng.uniform(-3, 3, n).round(1),
        }
    return table


def reviews(rng: np.random.Generator, sizes=(6, 4, 4), L=4) -> dict:
    table = {
        f"{s}_{name}": rng.normal(size=(n, L, d))
        for name, n in zip(SPLITS, sizes, strict=True)
        for s, d in (("audio", 3), ("vision", 2))
    }
    return table | {f"label_{name}": rng.integers(2, 11, n) / 2 for name, n in zip(SPLITS, sizes, strict=True)}


def zipped(table: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in table.items():
            archive.writestr(f"{name}.npy", raw)
    return out.getvalue()


def npy(x) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def h5(parts: dict) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, x in parts.items():
            file[name] = x
    return out.getvalue()


TABLE = "id,text,label,group\n" + "".join(
    f'clip{k},"it was, well, number {k}",{(k % 7) - 3},speaker{k % 4}\n' for k in range(12)
)
SRT = "".join(f"{k}\n00:00:{k:02},000 --> 00:00:{k:02},900\n<i>words</i> of cue {k}\n\n" for k in range(1, 9))
VTT = "WEBVTT\n\nNOTE a remark\n\n" + "".join(
    f"00:{k:02}.000 --> 00:{k:02}.900 align:start\nwords <00:{k:02}.400> of cue {k}\n\n" for k in range(1, 9)
)
TXT = "".join(f"What is said in line {k}.\n" for k in range(8))
FACE = "timestamp,AU01,AU02\n" + "".join(f"{k / 10},{k % 3},{k % 5}\n" for k in range(30))


# ---------------------------------------------------------------- damages


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def flipped(raw: bytes, rng: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def spliced(raw: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
    return rng.choice(
        (
            raw[:a] + raw[b:],
            raw[:b] + raw[a:],
            raw[:a] + rng.randbytes(rng.randrange(1, 40)) + raw[b:],
            raw[b:] + raw[:a],
        )
    )


def nest(k: int, box=tuple):
    x = 1
    for _ in range(k):
        x = box((x, x))
    return x


def strange(x, rng: random.Random):
    "Something else in place of a field."
    array = np.asarray(x) if not isinstance(x, list) else np.array(x)
    n = len(array)
    choices = [
        lambda: None,
        lambda: rng.choice((0, -1, 10**400, 1e300, np.nan, True)),
        lambda: "words",
        lambda: b"bytes",
        dict,
        list,
        set,
        tuple,
        lambda: tuple(array.tolist()),
        lambda: list(array),
        lambda: {k: 1 for k in range(n)},
        lambda: set(range(n)),
        lambda: [10**400] * n,
        lambda: [[1] * (k % 3) for k in range(n)],
        lambda: nest(6),
        lambda: [nest(4)] * n,
        lambda: [{}] * n,
        lambda: [None] * n,
        lambda: np.array([None] * n),
        lambda: np.array(list(map(str, range(n)))),
        lambda: np.array([b"x"] * n),
        lambda: array[:-1],
        lambda: array[:0],
        lambda: array[None],
        lambda: array[..., None],
        lambda: array.T,
        lambda: array[0],
        lambda: np.concatenate([array, array]),
        lambda: np.zeros((n, 0)),
        lambda: np.zeros((n, 4, 0)),
        lambda: np.zeros((n, 0, 3)),
        lambda: np.zeros(n, "M8[s]"),
        lambda: np.zeros(n, "c16"),
        lambda: np.zeros(n, np.longdouble),
        lambda: np.zeros(n, "f4,i4"),
        lambda: np.zeros(n, bool),
        lambda: np.array(3.0),
        lambda: np.full(n, 2**63, np.uint64),
        lambda: np.full(n, 1e300),
        lambda: np.full(n, -1),
        lambda: np.full((n, 3, 4), np.inf),
    ]

    def touched():  # the same, with one value that may not be there
        y = array.astype(float) if array.dtype.kind in "iuf" else np.zeros(n)
        y.flat[rng.randrange(y.size)] = rng.choice((np.nan, np.inf, -np.inf, -1, 0.5, 1e9, 1e300))
        return y.astype(rng.choice(("f8", "f4", ">f4", "f2"))) if rng.random() < 0.5 else y

    with np.errstate(all="ignore"):
        return (rng.choice(choices) if rng.random() < 0.7 else touched)()


# ---------------------------------------------------------------- pickles by hand


def word(text: str | bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text := text.encode() if isinstance(text, str) else text)) + text


def put(k: int) -> bytes:
    return b"r" + struct.pack("<I", 10**6 + k)


def get(k: int) -> bytes:
    return b"j" + struct.pack("<I", 10**6 + k)


def number(k: int) -> bytes:
    return b"\x8a" + bytes([len(raw := k.to_bytes(k.bit_length() // 8 + 1, "little", signed=True))]) + raw


def named(name: str) -> bytes:
    return b"c" + name.replace(":", "\n").encode() + b"\n"


def called(name: str, *args: bytes) -> bytes:
    return named(name) + b"(" + b"".join(args) + b"tR"


def inside(payload: bytes, rng: random.Random, base: dict, field: str | None = None) -> bytes:
    "A corpus in which this stands in place of a field."
    split = rng.choice(SPLITS)
    table = {name: dict(fields) for name, fields in base.items()}
    table[split][field or rng.choice(FIELDS)] = "PAYLOAD"
    return pickle.dumps(table, 2).replace(word("PAYLOAD"), payload)


def gadgets(trace: Path) -> list[tuple[str, bytes]]:
    "What runs code in Python's own reader: a global and its arguments."
    code = f"open({str(trace)!r}, 'w').close()"
    return [
        ("os:system", word(f"touch {trace}")),
        ("posix:system", word(f"touch {trace}")),
        ("os:mkdir", word(str(trace))),
        ("builtins:exec", word(code)),
        ("builtins:eval", word(code)),
        ("__builtin__:execfile", word(str(trace))),
        ("subprocess:check_output", b"(" + word("touch") + word(str(trace)) + b"l"),
        ("os:putenv", word("TRACE") + word("1")),
        ("builtins:__import__", word("antigravity")),
        ("pathlib:Path.touch", called("pathlib:Path", word(str(trace)))),
        ("numpy:load", word(str(trace)) + b"NN\x88"),
        ("torch:load", word(str(trace))),
        ("pickle:loads", b"C\x03N.."),
        ("runpy:run_path", word(str(trace))),
        ("numpy.testing._private.utils:runstring", word(code) + b"}"),
        ("timeit:timeit", word(code)),
        ("pty:spawn", word("true")),
        ("numpy.core.multiarray:_reconstruct", named("os:system") + b"K\x00\x85" + b"C\x01b"),
        ("numpy:dtype", named("os:system") + b"\x88\x89"),
    ]


DANGEROUS = {  # instruction: a pickle of a global and its arguments that uses it
    "GLOBAL, REDUCE": lambda name, args: called(name, args),
    "STACK_GLOBAL, REDUCE": lambda name, args: b"".join(map(word, name.split(":"))) + b"\x93(" + args + b"tR",
    "INST": lambda name, args: b"(" + args + b"i" + name.replace(":", "\n").encode() + b"\n",
    "OBJ": lambda name, args: b"(" + named(name) + args + b"o",
    "NEWOBJ": lambda name, args: named(name) + b"(" + args + b"t\x81",
    "NEWOBJ_EX": lambda name, args: named(name) + b"(" + args + b"t}\x92",
    "BUILD": lambda name, args: (
        called("numpy.core.multiarray:_reconstruct", named("numpy:ndarray") + b"K\x00\x85C\x01b")
        + called(name, args)
        + b"b"
    ),
    "BUILD of a global": lambda name, args: (
        named(name) + b"}" + word("__setstate__") + named("os:system") + b"s" + args + b"b"
    ),
    "EXT1": lambda name, args: b"\x82\x01(" + args + b"tR",
    "EXT2": lambda name, args: b"\x83\x01\x00(" + args + b"tR",
    "EXT4": lambda name, args: b"\x84\x01\x00\x00\x00(" + args + b"tR",
    "PERSID": lambda name, args: b"P" + name.encode() + b"\n",
    "BINPERSID": lambda name, args: args + b"Q",
    "NEXT_BUFFER": lambda name, args: b"\x97",
    "READONLY_BUFFER": lambda name, args: b"\x97\x98",
}


def hostile(rng: random.Random, trace: Path, base: dict, kind: str) -> bytes:
    name, args = rng.choice(gadgets(trace))
    payload = DANGEROUS[kind](name, args)
    return inside(payload, rng, base) if rng.random() < 0.8 else b"\x80\x02" + payload + b"."


def array(shape: bytes, code: bytes = word("f4"), raw: bytes = b"C\x04\0\0\0\0") -> bytes:
    "An array by hand: the shape, the dtype's code and the bytes are pickles themselves."
    dtype = (
        called("numpy:dtype", code + b"\x89\x88")
        + b"(K\x03"
        + word("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    made = called("numpy.core.multiarray:_reconstruct", named("numpy:ndarray") + b"K\x00\x85C\x01b")
    return made + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


def shapes(rng: random.Random, base: dict) -> bytes:
    "An array that says it is larger than it is."
    sizes = [
        rng.choice((0, 1, 6, -1, 2**31, 2**40, 2**47, 2**62, 2**63, 10**30))
        for _ in range(rng.choice((1, 2, 3, 33, 70)))
    ]
    code = rng.choice(("f4", "f8", "u1", "U99999", "S999999", "O", "V8", "M8", "f4,f4", "x", ""))
    raw = rng.choice((b"C\x04\0\0\0\0", b"C\x00", word("abcd"), b"]", b"N", b"C\x18" + bytes(24)))
    return inside(array(b"(" + b"".join(map(number, sizes)) + b"t", word(code), raw), rng, base)


def laughs(k: int, pair: bytes = b"\x86") -> bytes:
    "Two of two of two …: 2ᵏ ones, in a few bytes for each k."
    return b"K\x01" + b"".join(put(j) + get(j) + pair for j in range(k))


def many(what: bytes, k: int) -> bytes:
    return b"(" + what * k + b"l"


def growing(rng: random.Random, base: dict, kind: int) -> bytes:
    "A small file that asks for much memory or time."
    k, big = rng.randrange(30, 60), word("é" * 60_000)
    ones = b"(" + b"K\x01" * 20_000 + b"l"
    kinds = [
        lambda: laughs(k),
        lambda: array(laughs(k)),
        lambda: called("numpy:dtype", laughs(k) + b"\x89\x88"),
        lambda: array(b"K\x01\x85", laughs(k)),
        lambda: called("numpy.core.multiarray:_reconstruct", laughs(k) + b"K\x00\x85C\x01b"),
        lambda: called("_codecs:encode", word("x"), laughs(k)),
        lambda: many(laughs(k), 4),
        lambda: b"}" + laughs(k) + b"K\x01s",
        lambda: b"(" + number(2**200) * 4 + b"t",
        lambda: big + put(0) + b"0" + many(called("_codecs:encode", get(0), word("latin1")), 6_000),
        lambda: ones + put(0) + b"0" + many(called("builtins:set", get(0)), 6_000),
        lambda: ones + put(0) + b"0" + many(called("builtins:frozenset", get(0)), 6_000),
        lambda: (
            b"("
            + b"".join(number(j) for j in range(20_000))
            + b"l"
            + put(0)
            + b"0"
            + many(called("builtins:set", get(0)), 4_000)
        ),
        lambda: array(b"(" + number(2**40) * 60_000 + b"t"),
        lambda: b"(" * 100_000 + b"t" * 99_999,
        lambda: b"]" * 50_000 + b"a" * 49_999,
        lambda: b"(" + b"".join(number(j * (2**61 - 1)) + b"N" for j in range(1, 30_000)) + b"d",
        lambda: b"(" + number(2**1000) + b"Nd",
        lambda: b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000,
        lambda: b"(\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000 + b"Nd",
        lambda: many(b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000, 6),
        lambda: b"B\xff\xff\xff\x7fxx",
        lambda: b"\x8e\xff\xff\xff\xff\xff\xff\xff\x0fxx",
        lambda: b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fxx",
        lambda: b"r\xff\xff\xff\x7f" + b"N",
        lambda: b"]" + put(0) + get(0) + b"a",
        lambda: b"}" + put(0) + word("audio") + get(0) + b"s",
        lambda: b"]" + put(0) + b"(" + get(0) * 500 + b"e",
        lambda: array(b"]" + put(0) + get(0) + b"a"),
    ]
    payload = kinds[kind % len(kinds)]()
    return inside(payload, rng, base) if rng.random() < 0.8 else b"\x80\x02}(" + word("train") + payload + b"u."


OPCODES = [op for op in __import__("pickletools").opcodes]


def soup(rng: random.Random, base: dict) -> bytes:
    "Instructions in any order, with arguments that can be read."
    out, n = [], rng.randrange(5, 120)
    for _ in range(n):
        op = rng.choice(OPCODES) if rng.random() < 0.6 else rng.choice([o for o in OPCODES if o.arg is None])
        if op.name == "STOP" and rng.random() < 0.9:
            continue
        size = op.arg.n if op.arg else 0
        arg = {
            0: b"",
            -1: rng.choice((b"os system\n", b"12\n", b"'x'\n", b"1.5\n", b"os\nsystem\n")),
            -2: b"\x02ab",
            -3: b"\x02\0\0\0ab",
            -4: b"\x02\0\0\0ab",
            -5: b"\x02" + bytes(7) + b"ab",
        }.get(size, rng.choice((b"\0" * 8, b"\x01" + b"\0" * 7, rng.randbytes(8)))[: max(size, 0)])
        out.append(op.code.encode("latin1") + arg)
    return inside(b"".join(out), rng, base) if rng.random() < 0.5 else b"\x80\x04" + b"".join(out) + b"."


# ---------------------------------------------------------------- other formats


def header(shape: str, descr: str = "<f4", more: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + more


def lying(rng: random.Random) -> bytes:
    shape = rng.choice(
        (
            "(1099511627776,)",
            "(-1,)",
            "(2,)*9",
            "(4, 4611686018427387904)",
            f"{(2,) * 80}",
            "4",
            "(4.0,)",
            "(True,)",
            "()",
            "[4]",
        )
    )
    descr = rng.choice(("<f4", "<U999999", "|O", "<f4,<i4", "|V4", "<M8[s]", "x", [("a", "<f4")], "|b1", "<c16"))
    return rng.choice(
        (
            lambda: header(shape, descr),
            lambda: header("(6, 4, 3)", more=bytes(rng.randrange(400))),
            lambda: header("__import__('os').mkdir('ran')"),
            lambda: header("(" * 150 + "4" + ")" * 150),
            lambda: header("(4,)", more=b""),
        )
    )()


def bomb(rng: random.Random, k: int) -> bytes:
    "Zeros, a thousand times smaller when packed."
    size = (2**27, 2**26, 2**28, 2**25)[k % 4]
    huge = header(f"({size // 16}, 4, 4)", "|u1", bytes(size)) if k % 2 else header(f"({size},)", "|u1", bytes(size))
    table = {name: npy(x) for name, x in reviews(np.random.default_rng(k)).items()}
    for name in rng.sample(sorted(table), (1, 3, 9)[k % 3]):
        table[name] = huge
    return zipped(table)


def odd_cells(text: str, rng: random.Random) -> bytes:
    "A table with one cell, line or mark that may not be there."
    lines = text.split("\n")
    k = rng.randrange(len(lines))
    cells = lines[k].split(",")
    cells[rng.randrange(len(cells))] = rng.choice(
        (
            "",
            "nan",
            "inf",
            "1e999",
            "-9",
            "9" * 5000,
            '"',
            '""',
            "\0",
            "=1+1",
            "train",
            "id",
            "label",
            "é" * 9,
            "<b>",
            "\ud7ff",
            "x" * 200_000,
        )
    )
    lines[k] = ",".join(cells)
    if rng.random() < 0.3:
        lines[k] = rng.choice(
            ("", ",", lines[0], lines[k] * 2, '"' + lines[k], lines[k] + ",", ";".join(cells), " " * 9)
        )
    return "\n".join(lines).encode()


def odd_cues(text: str, rng: random.Random) -> bytes:
    lines = text.split("\n")
    k = rng.randrange(len(lines))
    lines[k] = rng.choice(
        (
            "",
            "00:00:01,000 --> 00:00:00,000",
            "99:99:99,999 --> 99:99:99,999",
            "1:2:3 --> 1:2:4",
            "-->",
            "00:01.000 --> 00:02.000",
            "--> 00:01",
            "<" * 20_000,
            "<c" * 20_000 + ">" * 9,
            "<00:01.000>" * 400,
            "&amp;" * 3000,
            "&#x0;&#xD800;",
            "{\\an8}",
            "x" * 9000,
            "\0",
            "WEBVTT",
            "NOTE",
            "<script>alert(1)</script>",
            "9" * 5000,
            " " * 50_000,
            "00:00:01,000 -->" + " " * 20_000 + "x",
            "١٢:٣٤ --> ١٢:٣٥",
            "\u202e\u2028x",
        )
    )
    if rng.random() < 0.2:
        rng.shuffle(lines)
    return "\n".join(lines).encode()


# ---------------------------------------------------------------- all files


def table_read(path: Path, folder: Path, rows=12):
    "The table, with honest arrays; or an array under an honest table."
    if path.suffix == ".csv":
        return clips_from_table(path, {"voice": np.ones((rows, 3), np.float32)})
    (folder / "honest.csv").write_text(TABLE)
    return clips_from_table(folder / "honest.csv", {"voice": path})


TRANSCRIPTS = ("srt", "vtt", "json", "tsv")
READ = {
    "pickle": ("bad.pkl", lambda path, folder: load_clips(path)),
    "npz": ("bad.npz", lambda path, folder: load_mmmo(path)),
    "table": ("bad.csv", table_read),
    "array .npy": ("bad.npy", table_read),
    "array .npz": ("bad.npz", table_read),
    "array .h5": ("bad.h5", table_read),
    "subtitles .srt": ("bad.srt", lambda path, folder: read_transcript(path)),
    "subtitles .vtt": ("bad.vtt", lambda path, folder: read_transcript(path)),
    "transcript .txt": ("bad.txt", lambda path, folder: read_transcript(path)),
    "CSV dialect": ("bad.csv", dialects.table_of),
    "CSV dialect, whole": ("bad.csv", dialects.true(dialects.table_of)),
    "presence masks": ("bad.pkl", dialects.pickle_of),
    "presence masks, whole": ("bad.pkl", dialects.true(dialects.pickle_of)),
    "class labels": ("bad.pkl", dialects.pickle_of),
    "class labels, whole": ("bad.pkl", dialects.true(dialects.pickle_of)),
    **{
        f"transcript dialect .{kind}": (f"bad.{kind}", lambda path, folder: read_transcript(path))
        for kind in TRANSCRIPTS
    },
    **{f"transcript dialect, whole .{kind}": (f"bad.{kind}", dialects.transcript_of) for kind in TRANSCRIPTS},
    "sound, whole": ("bad.wav", dialects.tone_of),
    "sound": ("bad.wav", dialects.sound_of),
    "saved run config.json": ("bad.json", dialects.run_of),
    "saved run weights": ("bad.safetensors", dialects.run_of),
    "vision .csv": ("bad.csv", lambda path, folder: read_vision(path)),
    "vision .npy": ("bad.npy", lambda path, folder: read_vision(path)),
}


def cases(seed: int, trace: Path, share: float):
    "(reader, damage, bytes) of every file."
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    base, film = corpus(draw), reviews(draw)
    honest = {protocol: pickle.dumps(base, protocol) for protocol in range(6)}
    packed = zipped({name: npy(x) for name, x in film.items()})
    values = draw.normal(size=(12, 4, 3)).astype(np.float32)
    parts = {"values": values, "lengths": np.arange(12) % 4 + 1, "ids": np.array([f"clip{k}" for k in range(12)], "S9")}
    arrays = {
        "array .npy": npy(values),
        "array .npz": zipped({name: npy(x) for name, x in parts.items()}),
        "array .h5": h5(parts),
    }
    texts = {"table": TABLE, "subtitles .srt": SRT, "subtitles .vtt": VTT, "transcript .txt": TXT, "vision .csv": FACE}
    face = npy(np.c_[np.arange(20) / 10, draw.normal(size=(20, 3))])

    def field():
        table = {name: dict(fields) for name, fields in base.items()}
        where = rng.choice(SPLITS)
        if rng.random() < 0.1:
            table[where] = strange(np.zeros(4), rng)
        else:
            key = rng.choice(FIELDS)
            table[where][key] = strange(table[where][key], rng)
        return pickle.dumps(table, rng.randrange(6))

    def review():
        name = rng.choice(sorted(film))
        try:
            other = npy(strange(film[name], rng))
        except ValueError:
            other = npy(np.array([None] * 4))  # ragged lists are no array
        return zipped({key: other if key == name else npy(x) for key, x in film.items()})

    def part(write):
        name = rng.choice(sorted(parts))
        other = {**parts, name: strange(parts[name].astype(float) if name != "ids" else np.zeros(12), rng)}
        if rng.random() < 0.2:
            del other[name]
        try:
            return write(other)
        except Exception:
            return write(parts)  # what the format itself can't hold

    def times(k):
        return range(max(1, round(k * share)))

    for _ in times(300):
        yield "pickle", "cut short", cut(honest[rng.randrange(6)], rng)
    for _ in times(400):
        yield "pickle", "bits flipped", flipped(honest[rng.randrange(6)], rng)
    for _ in times(200):
        yield "pickle", "bytes lost, doubled or put in", spliced(honest[rng.randrange(6)], rng)
    for _ in times(500):
        yield "pickle", "another type, dtype or shape in a field", field()
    for _ in times(150):
        yield "pickle", "declared shape or dtype that lies", shapes(rng, base)
    for kind in DANGEROUS:
        for _ in times(24):
            yield "pickle", f"instruction {kind}", hostile(rng, trace, base, kind)
    for k in times(116):
        yield "pickle", "asks for much memory or time", growing(rng, base, k)
    for _ in times(300):
        yield "pickle", "instructions in any order", soup(rng, base)
    for damage, change, k in (
        ("cut short", cut, 100),
        ("bits flipped", flipped, 150),
        ("bytes lost, doubled or put in", spliced, 60),
    ):
        for _ in times(k):
            yield "npz", damage, change(packed, rng)
    for _ in times(150):
        yield "npz", "another type, dtype or shape in a field", review()
    for _ in times(60):
        yield (
            "npz",
            "declared shape or dtype that lies",
            zipped({name: npy(x) for name, x in film.items()} | {rng.choice(sorted(film)): lying(rng)}),
        )
    for k in range(8 if share == 1 else 1):
        yield "npz", "asks for much memory or time", bomb(rng, k)
    for reader, raw in arrays.items():
        for damage, change in (
            ("cut short", cut),
            ("bits flipped", flipped),
            ("bytes lost, doubled or put in", spliced),
        ):
            for _ in times(40):
                yield reader, damage, change(raw, rng)
        write = {
            "array .npy": lambda p: npy(p["values"]),
            "array .npz": lambda p: zipped({k: npy(x) for k, x in p.items()}),
            "array .h5": h5,
        }[reader]
        for _ in times(40):
            yield reader, "another type, dtype or shape in a field", part(write)
    for _ in times(40):
        yield "array .npy", "declared shape or dtype that lies", lying(rng)
    for _ in times(40):
        yield "vision .npy", "bits flipped", flipped(face, rng)
    for _ in times(40):
        yield "vision .npy", "declared shape or dtype that lies", lying(rng)
    for reader, text in texts.items():
        for damage, change in (
            ("cut short", cut),
            ("bits flipped", flipped),
            ("bytes lost, doubled or put in", spliced),
        ):
            for _ in times(50):
                yield reader, damage, change(text.encode(), rng)
        odd = odd_cues if reader.startswith(("sub", "tra")) else odd_cells
        for _ in times(100):
            yield reader, "a cell or line that may not be there", odd(text, rng)


def brought(seed: int, share: float):
    "(reader, damage, bytes) of files as people bring them, whole and damaged."
    rng, draw = random.Random(seed + 1), np.random.default_rng(seed + 1)
    damages = (("cut short", cut), ("bits flipped", flipped), ("bytes lost, doubled or put in", spliced))
    changes = lambda k: [(damage, change) for damage, change in damages for _ in range(max(1, round(k * share / 3)))]
    times = lambda k: range(max(1, round(k * share)))
    for kind in ("numbers", "classes"):
        for _ in times(250):
            yield "CSV dialect, whole", f"whole, {kind}", dialects.dialect(rng, kind)
        for damage, change in changes(60):
            yield "CSV dialect", damage, change(dialects.dialect(rng, kind), rng)
    for reader, make in (("presence masks", dialects.masks), ("class labels", dialects.classed)):
        for _ in times(200):
            yield f"{reader}, whole", "whole", make(rng, draw)
        for _ in times(150):
            table = pickle.loads(make(rng, draw))
            fields = table[rng.choice(SPLITS)]
            key = rng.choice([key for key in fields if key not in ("id", "vision")])
            fields[key] = strange(fields[key] if key != "audio" else np.zeros((len(fields["id"]), 4, 3)), rng)
            yield reader, "another type, dtype or shape in a field", pickle.dumps(table, 4)
    for _ in times(250):
        kind, raw = dialects.spoken(rng)
        yield f"transcript dialect, whole .{kind}", "whole", raw
    for damage, change in changes(240):
        kind, raw = dialects.spoken(rng)
        yield f"transcript dialect .{kind}", damage, change(raw, rng)
    if dialects.soundfile is not None:
        for _ in times(150):
            yield "sound, whole", "whole", dialects.sound(rng)
        for damage, change in changes(150):
            yield "sound", damage, change(dialects.sound(rng), rng)
    for _ in times(200):
        yield "saved run config.json", "of another version", dialects.version(rng)
    config = json.dumps(dialects.CONFIG).encode()
    for damage, change in changes(150):
        yield "saved run config.json", damage, change(config, rng)
        yield "saved run weights", damage, change(dialects.WEIGHTS, rng)


# ---------------------------------------------------------------- what happens


def right(found) -> str:
    "Is what was loaded what clips should be? The first thing that isn't, or nothing."
    if isinstance(found, np.ndarray):
        return "" if found.ndim == 2 and np.isfinite(found).all() else "not finite"
    if isinstance(found, list):
        return (
            ""
            if found and all(cue.text and cue.text.isprintable() and not cue.start >= cue.end for cue in found)
            else "cues"
        )
    if isinstance(found, MultimodalModel):
        return "" if not found.training else "a model in training"
    if not isinstance(found, Clips):
        return type(found).__name__
    for name, split in found.splits.items():
        if not split.labels.isfinite().all() or len(split.ids) != len(split):
            return f"{name} labels or ids"
        for s, x in split.inputs.items():
            if len(x) != len(split):
                return f"{name}.{s}: rows"
            if isinstance(x, Steps | Tokens) and not (
                1 <= x.lengths.min() and x.lengths.max() <= (x.ids if isinstance(x, Tokens) else x.values).shape[1]
            ):
                return f"{name}.{s}: lengths"
            if hasattr(x, "values") and not x.values.isfinite().all():
                return f"{name}.{s}: values"
    return ""


def outcome(reader: str, raw: bytes, folder: Path, trace: Path, seen: list) -> tuple[str, str]:
    "What a reader makes of a file: a word for it, and the details."
    file, read = READ[reader]
    (folder / file).write_bytes(raw)
    seen.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            wrong, line = right(read(folder / file, folder)), None
        except DataError as error:
            wrong, line = "", str(error)
        except BaseException as error:
            wrong, line = f"{type(error).__name__}: {error}"[:300], None
    told = [
        each for each in told if not issubclass(each.category, DeprecationWarning)
    ]  # which Python shows to developers only
    if told:
        wrong = wrong or f"a warning: {told[0].message}"[:300]
    if seen or trace.exists() or Path("ran").exists():
        return "ran code", str(seen[:3])
    if wrong:
        return (
            "took too much memory" if "MemoryError" in wrong or "alloc" in wrong else "another error, or wrong clips"
        ), wrong
    if line is None:
        return "loaded", ""
    if "MemoryError" in line or "allocate" in line:
        return "took too much memory", line
    names = (
        line.startswith((f"{file}: ", "honest.csv: ", "arrays: ", "run/config.json: ", f"{folder}/run: "))
        and line.isprintable()
        and len(line) < LONGEST
    )
    return ("one line", line) if names else ("a line without the file, or several", line)


def batch(some: list, folder: Path, trace: Path, pipe):
    "In a child, with limits: the outcome of each file into the pipe, as soon as it is known."
    os.chdir(folder)
    os.environ["PATH"] = ""  # no ffmpeg: decoders are not what is tried here
    seen = []

    def watch(event, args):
        if event in WATCHED and not (event == "exec" and Path(args[0].co_filename).is_file()):
            seen.append(event)  # a file: an import

    sys.addaudithook(watch)
    with contextlib.suppress(ValueError):
        copyreg.add_extension("os", "system", 1)
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + MEMORY, have + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for reader, _, raw in some:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found = outcome(reader, raw, folder, trace, seen)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(pipe, json.dumps(found).encode() + b"\n")


def outcomes(files: list, folder: Path, trace: Path) -> list[tuple[str, str]]:
    "Of all files, in processes that may die."
    found = []
    while len(found) < len(files):
        some = files[len(found) : len(found) + BATCH]
        read, write = os.pipe()
        if not (number := os.fork()):
            try:
                batch(some, folder, trace, write)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as lines:
            done = [tuple(json.loads(line)) for line in lines]
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        found += done
        if len(done) < len(some):
            found.append(("took too long", "") if code == -signal.SIGPROF else ("crashed", f"exit code {code}"))
        trace.unlink(missing_ok=True)
    return found


def rows_of(files: list, found: list) -> list[dict]:
    "Counts by format and damage."
    table = {}
    for (reader, damage, _), (what, _) in zip(files, found, strict=True):
        kind = (
            re.sub(r"(, whole)?( \.\w+)?$| config\.json$| weights$", "", reader)
            if reader in BROUGHT
            else reader.split(" ")[0]
        )
        kind = {"table": "CSV table", "npz": "npz (ICT-MMMO)"}.get(kind, kind)
        what_damage = "dangerous instructions" if damage.startswith("instruction ") else damage
        table.setdefault((kind, what_damage), Counter())[what] += 1
    return [
        {"what": f"{kind}: {damage}", "tried": sum(counts.values()), "happened": dict(counts)}
        for (kind, damage), counts in table.items()
    ]


GOOD = ("loaded", "one line")
BROUGHT = tuple(
    reader for reader in READ if reader.startswith(("CSV d", "presence", "class", "transcript d", "sound", "saved"))
)


def main():
    options = parser(__doc__, RESULT)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--share", type=float, default=1.0, help="of the files")
    options.add_argument("--refused", action="store_true", help="show the lines that whole files are refused with")
    given, started = options.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder, trace = Path(place), Path(place) / "it-ran"
        files = [*cases(given.seed, trace, given.share), *brought(given.seed, given.share)]
        (folder / "run").mkdir()
        for reader, raw in {
            "saved run weights": dialects.WEIGHTS,
            **({"sound, whole": dialects.sound(random.Random(0))} if dialects.soundfile else {}),
            "pickle": pickle.dumps(corpus(np.random.default_rng(0))),
            "table": TABLE.encode(),
            "subtitles .srt": SRT.encode(),
        }.items():
            if (what := outcome(reader, raw, folder, trace, []))[0] != "loaded":
                raise RuntimeError(f"an honest {reader}: {what}")
        found = outcomes(files, folder, trace)
    bad = [(file, what) for file, what in zip(files, found, strict=True) if what[0] not in GOOD]
    rows = rows_of(files, found)
    for (reader, damage, _), what in zip(files, found, strict=True):
        if given.refused and damage.startswith("whole") and what[0] == "one line":
            print("REFUSED", reader, what[1][:200], sep=" | ")
    opcodes = sorted(
        {damage.removeprefix("instruction ") for _, damage, _ in files if damage.startswith("instruction ")}
    )
    merge(
        given.out,
        "fuzz",
        {
            "settings": {
                "seed": given.seed,
                "files": len(files),
                "memory MB": MEMORY >> 20,
                "seconds": SECONDS,
                "instructions": opcodes,
            },
            "seconds": round(time.perf_counter() - started),
            "rows": rows,
        },
    )
    for each in rows:
        print(each["what"], each["tried"], each["happened"], sep=" | ")
    for (reader, damage, raw), what in bad[:40]:
        print("FAILED", reader, damage, len(raw), what[0], what[1][:200], sep=" | ")
    print(f"fuzz: {len(files)} files, {dict(Counter(what for what, _ in found))}, {len(bad)} failed")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
