"08_clips to 13_corpora: pickles that attack, files that are damaged, fields that are wrong, and the real corpus joined from its parts."

import codecs
import copyreg
import csv
import functools
import gc
import http.server
import io
import mmap
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dmsil import corpora, fields, unpickling
from dmsil.clips import Clips, DataError, Split, Steps, Texts, Tokens, Vectors, synthetic_clips
from dmsil.corpora import MOSI_FILES, TIMING, fetch, load_mmmo, load_mosi, open_clips
from dmsil.pickles import load_clips


def corpus(sizes=(9, 4, 5), L=4, seed=0) -> dict:
    "A small unaligned corpus in MMSA's layout."
    rng, tables = np.random.default_rng(seed), {}
    for name, n in zip(("train", "valid", "test"), sizes, strict=True):
        lengths = rng.integers(2, L + 1, n)
        mask = (np.arange(L) < lengths[:, None]).astype(np.float32)
        tables[name] = {
            "raw_text": [f"words {i}" for i in range(n)],
            "id": np.array([f"{name}$_${i}" for i in range(n)]),
            "text_bert": np.stack([rng.integers(1, 9, (n, L)) * mask, mask, 0 * mask], 1),
            "text": rng.normal(size=(n, L, 7)),
            "audio": rng.normal(size=(n, L, 2)).astype(np.float32),
            "vision": rng.normal(size=(n, 2 * L, 3)),
            "audio_lengths": lengths,
            "vision_lengths": [1 + i % L for i in range(n)],
            "annotations": ["Positive"] * n,
            "regression_labels": rng.uniform(-3, 3, n),
            "classification_labels": np.zeros(n),
        }
    return tables


def written(folder, table, protocol=4, name="own.pkl"):
    path = folder / name
    path.write_bytes(table if isinstance(table, bytes) else pickle.dumps(table, protocol))
    return path


def refused(path, *words, load=load_clips, longest=500, **options) -> str:
    "The one line that a file is refused with; it has the words in it."
    with pytest.raises(DataError) as caught:
        load(path, **options)
    line = str(caught.value)
    assert line.startswith(f"{path.name}: ") and "; expected " in line and line.isprintable() and len(line) < longest, (
        line
    )
    for word in words:
        assert word in line, line
    return line


# What a batch is

KINDS = {
    "tokens": Tokens(torch.arange(60).view(6, 10), torch.tensor([3, 10, 1, 7, 2, 2])),
    "steps": Steps(torch.randn(6, 10, 3), torch.tensor([3, 10, 1, 7, 2, 2])),
    "vectors": Vectors(torch.randn(6, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_take_asks_for_rows(kind):
    whole, rows = KINDS[kind], torch.tensor([4, 0, 4])
    part = whole.take(rows)
    assert type(part) is type(whole) and len(part) == 3 and len(whole) == 6
    if kind == "vectors":
        assert torch.equal(part.values, whole.values[rows])
        return
    field = "ids" if kind == "tokens" else "values"
    assert torch.equal(getattr(part, field), getattr(whole, field)[rows][:, :3]) and part.lengths.tolist() == [2, 3, 2]
    assert len(whole.take(torch.tensor([], dtype=torch.long))) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_take_runs_no_python_for_each_clip(kind):
    def calls(rows):
        count = 0

        def tracer(frame, event, arg):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(tracer)
        try:
            KINDS[kind].take(rows)
        finally:
            sys.setprofile(None)
        return count

    calls(torch.tensor([1]))
    assert calls(torch.tensor([1])) == calls(torch.zeros(1000, dtype=torch.long))


def test_texts_and_moves():
    texts = Texts(("a", "b", "c"))
    assert texts.take(torch.tensor([2, 2, 0])).strings == ("c", "c", "a") and texts.to("cpu") is texts
    split = Split(
        ("x",),
        {"text": texts.take(torch.tensor([0])), "audio": Vectors(torch.zeros(1, 2))},
        torch.zeros(1),
        {"text": torch.ones(1)},
    )
    clips = Clips("c", split, split, split, bound=1.0, dataset="sims", notes=("n",)).to("meta")
    assert (
        clips.train.labels.is_meta
        and clips.test.inputs["audio"].values.is_meta
        and clips.valid.unimodal["text"].is_meta
    )
    assert (clips.bound, clips.dataset, clips.notes, clips.modalities, len(clips.train)) == (
        1.0,
        "sims",
        ("n",),
        ("text", "audio"),
        1,
    )
    assert KINDS["steps"].to("meta").lengths.device.type == "cpu" and KINDS["steps"].to("meta").values.is_meta


def test_synthetic_clips():
    clips = synthetic_clips(n=(50, 20, 30), seed=3)
    assert (
        [len(split) for split in clips.splits.values()] == [50, 20, 30]
        and clips.dataset == "mosi"
        and clips.bound == 3.0
    )
    assert set(clips.truth) > {"bayes_mae", *clips.modalities} and set(clips.train.unimodal) == set(clips.modalities)
    assert clips.truth["bayes_mae"] == clips.truth["bayes_mae text+audio+vision"]
    again, other = synthetic_clips(n=(50, 20, 30), seed=3), synthetic_clips(n=(50, 20, 30), seed=4)
    assert torch.equal(clips.test.inputs["text"].values, again.test.inputs["text"].values)
    drawn = torch.stack([split.labels[:20] for source in (clips, other) for split in source.splits.values()])
    assert len(torch.unique(drawn, dim=0)) == 6
    names = [name for split in clips.splits.values() for name in split.ids]
    assert len(set(names)) == 100


# Pickles: what is honest is read


@settings(max_examples=50, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from(["<f4", ">f8", "<f2", "<i8", ">i2", "|u1", "|b1", "<U5", "|S3"]),
        hnp.array_shapes(min_dims=0, min_side=0, max_dims=4),
    ),
    protocol=st.integers(0, 5),
    order=st.sampled_from("CF"),
)
def test_arrays_come_back(array, protocol, order):
    array = np.array(array, order=order)
    found = unpickling.unpickle(pickle.dumps({"x": array}, protocol), "f")["x"].values()
    assert found.dtype == array.dtype and found.shape == array.shape
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_containers_come_back(value, protocol):
    assert unpickling.unpickle(pickle.dumps(value, protocol), "f") == value


def test_objects_that_are_plain_after_all():
    from collections import OrderedDict

    honest = {
        "o": OrderedDict(a=1),
        "s": {1, "a"},
        "f": frozenset("ab"),
        "n": np.float64(0.1),
        "i": np.int16(-3),
        "u": np.str_("ü"),
        "b": np.bool_(True),
    }
    for protocol in range(6):
        assert unpickling.unpickle(pickle.dumps(honest, protocol), "f") == {**honest, "o": {"a": 1}}
    texts = unpickling.unpickle(pickle.dumps(np.array(["ü", "long enough"], object)), "f")
    assert texts.values() == ["ü", "long enough"]


def test_both_numpys_names_are_read():
    now = pickle.dumps({"x": np.arange(3.0), "y": np.float32(2)}, 2)
    assert b"numpy._core.multiarray" in now or b"numpy.core.multiarray" in now
    for core in (b"numpy.core.", b"numpy._core."):
        found = unpickling.unpickle(re.sub(rb"numpy\._?core\.", core, now), "f")
        assert found["x"].values().tolist() == [0, 1, 2] and found["y"] == 2


def mapped(folder, raw: bytes) -> mmap.mmap:
    path = folder / "mapped.pkl"
    path.write_bytes(raw)
    with open(path, "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


@pytest.mark.parametrize("protocol", range(6))
def test_a_mapped_file_gives_what_its_bytes_give(tmp_path, protocol, monkeypatch):
    "And from protocol 3 on its arrays are views of it, not copies."
    monkeypatch.setattr(unpickling, "_LARGE", 64)
    table = {
        "x": np.arange(600.0),
        "small": np.arange(3),
        "b": b"a" * 70,
        "t": "words",
        "f": np.asfortranarray(np.eye(9)),
    }
    raw = pickle.dumps(table, protocol)
    plain, found = unpickling.unpickle(raw, "f"), unpickling.unpickle(data := mapped(tmp_path, raw), "f")
    assert bytes(found["b"]) == plain["b"] == table["b"] and found["t"] == "words"
    for key in ("x", "small", "f"):
        assert np.array_equal(found[key].values(), plain[key].values()) and np.array_equal(
            found[key].values(), table[key]
        )
    assert (isinstance(found["x"].raw, memoryview) and found["x"].raw.obj is data) == (protocol >= 3)
    before = found["x"].values().copy()
    found["x"].forget()
    assert np.array_equal(found["x"].values(), before)


def test_a_mapped_file_cut_anywhere_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickling, "_LARGE", 64)
    raw = pickle.dumps({"train": {"audio": np.arange(60.0), "id": ["a"]}}, 4)
    for k in range(1, len(raw)):
        with pytest.raises(DataError, match="^f: .*damaged"):
            unpickling.unpickle(mapped(tmp_path, raw[:k]), "f")
    with pytest.raises(DataError, match="found a damaged pickle .* is unknown"):
        unpickling.unpickle(mapped(tmp_path, b"\xff."), "f")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 7, 30, 10**6]), huge=st.booleans())
def test_blocks_are_no_matter(seed, block, huge):
    "Numbers are looked at block by block; what is found is what the whole field holds."
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, 1.5, -2.0, 3e38 if huge else 3.0], (9, 4, 3))
    x[rng.random(x.shape) < 0.1 * (seed % 2)] = rng.choice([np.nan, np.inf, -np.inf])
    x[rng.random(9) < 0.2] = np.nan
    table = fields.Fields("f", "train", {"audio": x}, True, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "_BLOCK", block)
        values = fields.read_floats(table, "audio", "(n, L, d)")
    nan = np.isnan(x).all(2)
    gone = nan.any(1) & (nan | (x == 0).all(2)).all(1)
    left = x[~gone]
    assert np.array_equal(values.numpy(), np.where(np.isfinite(x) & ~gone[:, None, None], x, 0).astype(np.float32))
    assert table.gone == {} if not gone.any() else np.array_equal(table.gone["audio"].numpy(), gone)
    wrong = {"NaN": np.isnan(left).sum(), "+inf": np.isposinf(left).sum(), "−inf": np.isneginf(left).sum()}
    first = next((k for k in range(9) if not gone[k] and not np.isfinite(x[k]).all()), None)
    said = ", ".join(f"{count} {name}" for name, count in wrong.items() if count)
    assert table.notes == (
        [f"train.audio: {said} among 108 values, first in row {first}: sets them to 0"] if said else []
    )


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_of_every_protocol(tmp_path, protocol):
    table = corpus()
    clips = load_clips(written(tmp_path, table, protocol))
    assert torch.equal(clips.train.labels, torch.from_numpy(table["train"]["regression_labels"]).float())
    assert torch.equal(clips.valid.inputs["vision"].values, torch.from_numpy(table["valid"]["vision"]).float())


# Pickles: what attacks is refused


def inside(payload: bytes) -> bytes:
    "A pickle whose train.audio is the payload."
    return b"(dp0\nVtrain\np1\n(dp2\nVaudio\np3\n" + payload + b"ss."


def attacks(trace: str) -> dict[str, bytes]:
    "Payloads; each of the live ones makes the folder `trace` in a bare pickle.loads."
    text, system = trace.encode(), os.name.encode()
    made = b"(V" + text + b"\ntR"
    short = lambda s: b"\x8c" + bytes([len(s)]) + s
    return {
        "reduce": b"c" + system + b"\nmkdir\n" + made,
        "os.system": b"cos\nsystem\n(Vmkdir " + text + b"\ntR",
        "eval": b"cbuiltins\neval\n(V__import__('os').mkdir('" + text + b"')\ntR",
        "exec, protocol 2 name": b"c__builtin__\nexec\n(V__import__('os').mkdir('" + text + b"')\ntR",
        "stack global": short(b"os") + short(b"mkdir") + b"\x93" + made,
        "inst": b"(V" + text + b"\nios\nmkdir\n",
        "obj": b"(cos\nmkdir\nV" + text + b"\no",
        "extension 1": b"\x82\xf0" + made,
        "extension 2": b"\x83\xf0\x00" + made,
        "extension 4": b"\x84\xf0\x00\x00\x00" + made,
        "through a list": b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nmkdir\n(lV" + text + b"\natRtR",
        "partial": b"cfunctools\npartial\n(cos\nmkdir\nV" + text + b"\ntR)R",
    }


GADGETS = {
    "numpy.load": b"cnumpy\nload\n(Vx.npy\ntR",
    "numpy.memmap": b"cnumpy\nmemmap\n(Vx.npy\ntR",
    "numpy.fromfile": b"cnumpy\nfromfile\n(Vx\ntR",
    "numpy.testing._private.utils.runstring": b"cnumpy.testing._private.utils\nrunstring\n(Vx=1\n(dtR",
    "ndarray called": b"cnumpy\nndarray\n((I1000000000000\nttR",
    "ndarray made": b"cnumpy\nndarray\n((I1000000000000\ntt\x81",
    "ndarray's attribute": b"cnumpy\nndarray.tofile\n(Vx\ntR",
    "dotted": b"\x8c\x0bcollections\x8c\x13OrderedDict.fromkeys\x93)R",
    "another codec": b"c_codecs\nencode\n(Vx\nVrot13\ntR",
    "decode": b"c_codecs\ndecode\n(Vx\nVrot13\ntR",
    "a subclass of array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n(I0\ntVb\ntR",
    "reconstruct of a name": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR",
    "getattr": b"cbuiltins\ngetattr\n(cos\nVsystem\ntR",
    "persistent id": b"Pevil\n",
    "binary persistent id": b"Vevil\nQ",
    "newobj": b"cbuiltins\nobject\n)\x81",
    "newobj with keywords": b"cbuiltins\nobject\n)}\x92",
    "next buffer": b"\x97",
    "read-only buffer": b"Vx\n\x98",
    "call of a string": b"Vos.mkdir\n(Vx\ntR",
    "call of a dict": b"(d(Vx\ntR",
    "arguments no tuple": b"cnumpy\ndtype\nVf8\nR",
    "state for a dict": b"(d(dV__class__\nVx\nsb",
    "state for a name": b"cnumpy\ndtype\n(dV__call__\nVx\nsb",
    "structured dtype": b"cnumpy\ndtype\n(VV8\nI0\nI1\ntR(I3\nV|\nN(Va\nt(dI8\nI1\nI0\ntb",
    "a table": b"cpandas.core.frame\nDataFrame\n)R",
    "a tensor": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "copyreg": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR",
}


@pytest.fixture
def extension(tmp_path):
    "os.mkdir under an extension code, as an installed package could have registered it."
    name = (os.name, "mkdir")
    copyreg.add_extension(*name, 0xF0)
    yield
    copyreg.remove_extension(*name, 0xF0)


@pytest.mark.parametrize("name", attacks("x"))
def test_attack_runs_nothing(tmp_path, extension, name):
    trace = tmp_path / "it-ran"
    payload = inside(attacks(str(trace))[name])
    pickle.loads(payload)
    assert trace.exists(), "the attack must be live, or refusing it shows nothing"
    trace.rmdir()
    refused(written(tmp_path, payload), "train.audio", "numpy arrays and plain containers")
    assert not trace.exists()


@pytest.mark.parametrize("name", GADGETS)
def test_gadget_is_refused(tmp_path, name):
    codecs.lookup("raw_unicode_escape")  # loaded by the first pickle of protocol 0
    modules = set(sys.modules)
    refused(written(tmp_path, inside(GADGETS[name])), "train.audio")
    assert set(sys.modules) == modules


def test_the_global_is_named(tmp_path):
    line = refused(written(tmp_path, inside(b"cevil.module\nname\n)R")), "found the global evil.module.name")
    assert line == "own.pkl: train.audio: found the global evil.module.name; expected numpy arrays and plain containers"


def test_a_name_cannot_break_the_line(tmp_path):
    name = b"\x1b[31mred\nline two"
    refused(written(tmp_path, inside(b"\x8c\x02os\x8c" + bytes([len(name)]) + name + b"\x93")), "os. [31mred line two")


def array_with(shape: str, dtype: str, raw: bytes) -> bytes:
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n("
        + shape.encode()
        + b"tcnumpy\ndtype\n(V"
        + dtype.encode()
        + b"\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntbI00\n"
        + raw
        + b"tb"
    )


BOMBS = {
    "shape": array_with("I1099511627776\n", "f8", b"C\x0812345678"),
    "many dimensions": array_with("I1099511627776\n" * 64, "f8", b"C\x0812345678"),
    "negative shape": array_with("I-1\nI-8\n", "u1", b"C\x0812345678"),
    "shape of strings": array_with("V9\n", "u1", b"C\x0812345678"),
    "no width": array_with("I1099511627776\n", "U0", b"C\x00"),
    "width": array_with("I1\n", "U999999999", b"C\x0812345678"),
    "objects without a list": array_with("I5\n", "O8", b"C\x0812345678"),
    "objects of a short list": array_with("I1000000000\n", "O8", b"(l"),
    "bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "bytes, 4 GB": b"B" + struct.pack("<I", 2**32 - 1) + b"x",
    "text": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
    "byte array": b"\x96" + struct.pack("<Q", 2**62) + b"x",
    "frame": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "memo": b"Nr" + struct.pack("<I", 2**31 - 1),
    "a long number": b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x",
    "digits": b"I" + b"9" * 100_000 + b"\n",
    "deep lists": b"(l" * 20_000 + b"a" * 19_999,
    "deep tuples": b")" + b"\x85" * 60_000,
    "deep tuples as a key": b"(d)" + b"\x85" * 60_000 + b"Nss",
    "a list in itself": b"(lp9\ng9\na",
    "deep shape": array_with(")" + "\x85" * 50_000, "f8", b"C\x00"),
    "a doubling list": b"(l" + b"2" * 1000 + b"0" * 1000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_and_takes_no_memory(tmp_path, name):
    path = written(tmp_path, inside(BOMBS[name]))
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_field_that_lies_about_itself_is_named(tmp_path):
    table = corpus()
    for name, words in (
        ("shape", "which needs 8796093022208 bytes, over 8"),
        ("no width", "dtype 'U0'"),
        ("a list in itself", "found 1 rows; expected"),
    ):
        for field in ("audio", "text_bert"):
            pieces = [b"(d"]
            for split in ("train", "valid", "test"):
                pieces += [b"V" + split.encode() + b"\n(d"]
                for key, value in table[split].items():
                    body = BOMBS[name] if (split, key) == ("valid", field) else pickle.dumps(value, 2)[2:-1]
                    pieces += [b"V" + key.encode() + b"\n", body, b"s"]
                pieces += [b"s"]
            refused(written(tmp_path, b"".join(pieces) + b"."), f"valid.{field}", words)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_anywhere(tmp_path, protocol):
    whole = pickle.dumps(corpus(), protocol)
    ends = sorted({0, 1, 2, len(whole) - 1} | set(np.random.default_rng(0).integers(0, len(whole), 80).tolist()))
    for end in ends:
        refused(written(tmp_path, whole[:end]), "an empty file" if end == 0 else "damaged")


@pytest.mark.parametrize("protocol", [2, 4])
def test_flipped_bits(tmp_path, protocol):
    whole, rng, read = pickle.dumps(corpus((3, 2, 2), 2), protocol), np.random.default_rng(1), 0
    for at, bit in zip(rng.integers(0, len(whole), 200), rng.integers(0, 8, 200), strict=True):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        try:
            clips = load_clips(written(tmp_path, bytes(damaged)))
        except DataError as error:
            assert str(error).startswith("own.pkl: ") and str(error).isprintable()
        else:
            read += 1
            assert all(
                split.labels.isfinite().all() and split.labels.abs().max() <= 3 for split in clips.splits.values()
            )
            assert all(x.values.isfinite().all() for x in (clips.train.inputs["audio"], clips.train.inputs["vision"]))
    assert 0 < read < 200


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"PK\x03\x04", b"not a pickle\n", b"\x80\x04K\x05.", b"\x80\x04}.", b"\x80\x04]."]
)
def test_not_a_corpus_at_all(tmp_path, content):
    refused(written(tmp_path, content))


def test_no_file(tmp_path):
    refused(tmp_path / "none.pkl", "No such file")
    with pytest.raises(DataError, match="readable file"):
        load_clips(tmp_path)


# Fields


def at(split, key, index, value):
    return lambda table: table[split][key].__setitem__(index, value)


def to(split, key, change):
    return lambda table: table[split].update({key: change(table[split].get(key))})


def gone(split, key=None):
    return lambda table: table[split].pop(key) if key else table.pop(split)


WRONG = {
    "no test split": (gone("test"), "own.pkl: test: found no such key among train, valid; expected"),
    "split no dict": (lambda table: table.update(valid=[1]), "valid: found a list"),
    **{
        f"no {key}": (gone(split, key), f"{split}.{key}: found no such key")
        for split, key in (("train", "audio"), ("valid", "vision"), ("test", "regression_labels"))
    },
    "no text": (
        lambda table: (gone("test", "text")(table), gone("test", "text_bert")(table)),
        "test.text: found texts; expected tokens, as in train",
    ),
    "audio flat": (to("train", "audio", lambda x: x[:, 0]), "train.audio: found shape (9, 2); expected (n, L, d)"),
    "audio of strings": (to("train", "audio", lambda x: x.astype(str)), "train.audio: found dtype <U"),
    "audio complex": (to("train", "audio", lambda x: x.astype(complex)), "train.audio: found dtype 'c16'"),
    "audio a number": (to("train", "audio", lambda x: 3), "train.audio: found a int; expected an array"),
    "audio a dict": (to("train", "audio", lambda x: {}), "train.audio: found a dict"),
    "audio lists of strings": (
        to("train", "audio", lambda x: [["a"]] * len(x)),
        "train.audio: found shape (1, 1) of <U1 in row 0",
    ),
    "audio None": (to("train", "audio", lambda x: None), "train.audio: found a NoneType"),
    "audio 0-d": (to("train", "audio", lambda x: np.array(1.0)), "train.audio: found a "),
    "no steps": (to("train", "audio", lambda x: x[:, :0]), "train.audio: found shape (9, 0, 2)"),
    "no features": (to("train", "vision", lambda x: x[:, :, :0]), "train.vision: found shape (9, 8, 0)"),
    "rows": (to("test", "vision", lambda x: x[1:]), "test.vision: found 4 rows; expected 5, one for each label"),
    "rows of ids": (to("test", "id", lambda x: x[1:]), "test.id: found 4 rows"),
    "rows of tokens": (to("test", "text_bert", lambda x: x[1:]), "test.text_bert: found 4 rows"),
    "rows of lengths": (to("test", "vision_lengths", lambda x: x[1:]), "test.vision_lengths: found 4 rows"),
    "empty split": (lambda table: table.update(test=corpus((9, 4, 0))["test"]), "test.regression_labels: found 0 rows"),
    "width of test": (
        to("test", "audio", lambda x: x[:, :, :1]),
        "test.audio: found 1 features; expected 2, as in train",
    ),
    "NaN": (
        at("valid", "audio", (3, 1, 0), np.nan),
        "valid.audio: found 1 NaN among 32 values, first in row 3; expected finite numbers (clean=True",
    ),
    "two infinities": (
        at("valid", "audio", (slice(1, 3), 0), np.inf),
        "valid.audio: found 4 +inf among 32 values, first in row 1",
    ),
    "all three": (
        at("test", "vision", (2, 0), [np.nan, np.inf, -np.inf]),
        "test.vision: found 1 NaN, 1 +inf, 1 −inf among 120 values, first in row 2",
    ),
    "beyond float32": (at("test", "vision", (2, 0, 0), 1e300), "test.vision: found 1 +inf"),
    "NaN label": (
        at("train", "regression_labels", 4, np.nan),
        "train.regression_labels: found 1 NaN among 9 values, first in row 4; expected a finite label",
    ),
    "label above": (
        at("test", "regression_labels", 1, 3.01),
        "test.regression_labels: found 3.01 in row 1; expected labels within ±3",
    ),
    "labels flat wrong": (
        to("train", "regression_labels", lambda y: np.stack([y, y], 1)),
        "train.regression_labels: found shape (9, 2)",
    ),
    "NaN token": (at("train", "text_bert", (2, 0, 1), np.nan), "train.text_bert: found 1 such tokens as nan in row 2"),
    "half a token": (at("train", "text_bert", (2, 0, 1), 7.5), "train.text_bert: found 1 such tokens as 7.5 in row 2"),
    "negative token": (
        at("train", "text_bert", (2, 0, 1), -1),
        "train.text_bert: found 1 such tokens as -1.0 in row 2",
    ),
    "endless token": (
        at("train", "text_bert", (2, 0, 1), np.inf),
        "train.text_bert: found 1 such tokens as inf in row 2",
    ),
    "mask with a hole": (
        at("train", "text_bert", (2, 1), [1, 0, 1, 0]),
        "train.text_bert: found the mask of row 2; expected ones, then zeros",
    ),
    "mask of halves": (at("train", "text_bert", (2, 1), 0.5), "train.text_bert: found the mask of row 2"),
    "two rows of tokens": (
        to("train", "text_bert", lambda x: x[:, :2]),
        "train.text_bert: found shape (9, 2, 4); expected (n, 3, L)",
    ),
    "length beyond": (
        at("valid", "vision_lengths", 1, 9),
        "valid.vision_lengths: found 1 outside, first 9 in row 1; expected lengths from 1 to 8",
    ),
    "length negative": (
        at("valid", "vision_lengths", 1, -9),
        "valid.vision_lengths: found -9.0 in row 1; expected whole numbers",
    ),
    "length of a half": (at("valid", "vision_lengths", 1, 1.5), "valid.vision_lengths: found 1.5 in row 1"),
    "length NaN": (at("valid", "vision_lengths", 1, np.nan), "valid.vision_lengths: found nan in row 1"),
    "length a word": (
        at("valid", "vision_lengths", 1, "3"),
        "valid.vision_lengths: found a list of other things; expected numbers",
    ),
    "lengths in a table": (
        to("valid", "audio_lengths", lambda x: x[:, None]),
        "valid.audio_lengths: found shape (4, 1)",
    ),
    "id twice": (
        at("test", "id", 3, "test$_$1"),
        "test.id: found test$_$1 in row 3 and in row 1 of test; expected each clip once",
    ),
    "id in two splits": (
        to("test", "id", lambda x: [*x[:3].tolist(), "train$_$8", "test$_$4"]),
        "test.id: found train$_$8 in row 3 and in row 8 of train; expected each clip once",
    ),
    "id no string": (to("test", "id", lambda x: [None] * 5), "test.id: found a NoneType in row 0; expected strings"),
    "unimodal NaN": (
        lambda table: table["test"].update(regression_labels_T=np.full(5, np.nan)),
        "test.regression_labels_T: found 5 NaN",
    ),
    "unimodal above": (
        lambda table: table["test"].update(regression_labels_V=np.full(5, 4.0)),
        "test.regression_labels_V: found 4 in row 0",
    ),
    "unimodal rows": (
        lambda table: table["test"].update(regression_labels_A=np.zeros(4)),
        "test.regression_labels_A: found 4 rows",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_finding(tmp_path, name):
    damage, words = WRONG[name]
    table = corpus()
    load_clips(written(tmp_path, table))
    damage(table)
    refused(written(tmp_path, table), words)


CLEANED = {
    "NaN": "valid.audio: 1 NaN",
    "all three": "test.vision: 1 NaN, 1 +inf, 1 −inf",
    "length beyond": "valid.vision_lengths: 1 outside, first 9 in row 1",
}


@pytest.mark.parametrize("name", WRONG)
def test_clean_mends_features_and_nothing_else(tmp_path, name):
    table = corpus()
    WRONG[name][0](table)
    path = written(tmp_path, table)
    if name not in CLEANED and name not in ("two infinities", "beyond float32"):
        refused(path, clean=True)
        return
    clips = load_clips(path, clean=True)
    assert len(clips.notes) == 1 and clips.notes[0].startswith(CLEANED.get(name, ""))
    for split in clips.splits.values():
        for x in split.inputs.values():
            assert x.lengths.min() >= 1 and x.lengths.max() <= (x.ids if isinstance(x, Tokens) else x.values).shape[1]
            assert isinstance(x, Tokens) or x.values.isfinite().all()


def test_cleaning_changes_only_what_was_wrong(tmp_path):
    table = corpus()
    before = table["valid"]["audio"].copy()
    at("valid", "audio", (3, 1, 0), np.nan)(table)
    before[3, 1, 0] = 0
    assert torch.equal(
        load_clips(written(tmp_path, table), clean=True).valid.inputs["audio"].values, torch.from_numpy(before)
    )


def test_aligned_file(tmp_path):
    table = corpus()
    for split in table.values():
        del split["audio_lengths"], split["vision_lengths"], split["text_bert"], split["id"]
        split["audio"][:, 3:] = 0
        split["audio"][1] = 0
    clips = load_clips(written(tmp_path, table))
    assert isinstance(clips.train.inputs["text"], Steps) and clips.train.inputs["text"].values.dtype == torch.float32
    assert clips.train.inputs["audio"].lengths.tolist() == [3, 1] + [3] * 7
    assert clips.train.inputs["vision"].lengths.unique().tolist() == [8]
    assert clips.test.ids == tuple(f"test_{i}" for i in range(5))


def test_choice_of_text(tmp_path):
    table = corpus()
    path = written(tmp_path, table)
    default, vectors, raw = (load_clips(path, text=text).test.inputs["text"] for text in (None, "text", "raw_text"))
    assert (
        torch.equal(default.ids, torch.from_numpy(table["test"]["text_bert"][:, 0]).long())
        and default.ids.dtype == torch.int64
    )
    assert torch.equal(default.lengths, torch.from_numpy(table["test"]["text_bert"][:, 1].sum(1)).long())
    assert vectors.values.shape == (5, 4, 7) and raw.strings == tuple(f"words {i}" for i in range(5))
    with pytest.raises(ValueError, match="text_bert, text or raw_text"):
        load_clips(path, text="words")
    del table["test"]["text_bert"]
    refused(written(tmp_path, table), "test.text_bert", text="text_bert")


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[:, None],
        list,
        lambda y: y.astype(">f8"),
        lambda y: y.astype(np.float16).astype(np.float32),
        lambda y: [np.float64(v) for v in y],
    ],
)
def test_labels_in_other_clothes(tmp_path, change):
    table = corpus()
    table["train"]["regression_labels"] = change(table["train"]["regression_labels"])
    found = load_clips(written(tmp_path, table)).train.labels
    expected = torch.from_numpy(corpus()["train"]["regression_labels"]).float()
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=2e-3)


def test_whose_metrics(tmp_path):
    table = corpus()
    assert load_clips(written(tmp_path, table)).dataset == "mosi"
    assert load_clips(written(tmp_path, table), dataset="mosei").dataset == "mosei"
    for split in table.values():
        split["regression_labels"] /= 3
        for key in "TAV":
            split[f"regression_labels_{key}"] = split["regression_labels"] * 0.5
    path = written(tmp_path, table)
    assert (load_clips(path).dataset, load_clips(path).bound) == ("sims", 1.0)
    assert (load_clips(path, dataset="mosi").dataset, load_clips(path, dataset="mosi").bound) == ("mosi", 3.0)
    assert set(load_clips(path).train.unimodal) == {"text", "audio", "vision"}
    table["valid"]["regression_labels"][0] = 1.2
    refused(
        written(tmp_path, table),
        "valid.regression_labels: found 1.2 in row 0; expected labels within ±1",
        dataset="simsv2",
    )
    assert load_clips(written(tmp_path, table)).dataset == "mosi"
    with pytest.raises(ValueError, match="mosi, mosei, sims, simsv2"):
        load_clips(path, dataset="iemocap")


def test_what_is_read_can_be_written(tmp_path):
    "The tensors own their memory: training may write into them, and the file may go."
    path = written(tmp_path, corpus())
    clips = load_clips(path)
    path.unlink()
    for x in (clips.train.labels, clips.train.inputs["audio"].values, clips.train.inputs["text"].ids):
        x.add_(0)


# CMU-MOSI


@pytest.fixture(scope="module")
def mosi(mosi_folder, tmp_path_factory):
    return load_mosi(cache=tmp_path_factory.mktemp("cache"), mirror=mosi_folder / "upstream")


@pytest.fixture(scope="module")
def segments(mosi_folder):
    with open(mosi_folder / "segments.csv", encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def merged(clips, get) -> dict:  # clip -> what `get(split)` says of it
    return {clip: value for split in clips.splits.values() for clip, value in zip(split.ids, get(split), strict=True)}


def test_mosi_equals_the_joined_table(mosi, segments):
    assert [len(split) for split in mosi.splits.values()] == [1284, 229, 686] and mosi.modalities == (
        "text",
        "audio",
        "timing",
    )
    labels, texts = merged(mosi, lambda s: s.labels.tolist()), merged(mosi, lambda s: s.inputs["text"].strings)
    assert len(segments) == len(labels) == 2199
    for row in segments:
        assert row["id"] in getattr(mosi, row["split_standard"]).ids
        assert texts[row["id"]] == row["text"] and labels[row["id"]] == np.float32(row["label"])


def test_mosi_audio_equals_the_joined_features(mosi, segments, mosi_folder):
    raw = np.load(mosi_folder / "utterance_features.npz")["audio"].astype(np.float64)
    train = np.array([row["split_standard"] == "train" for row in segments])
    expected = np.clip((raw - raw[train].mean(0)) / raw[train].std(0), -5, 5)
    found = merged(mosi, lambda s: s.inputs["audio"].values.numpy())
    assert np.abs(np.stack([found[row["id"]] for row in segments]) - expected).max() < 1e-4
    assert found[segments[0]["id"]].shape == (73,) and (np.abs(expected) == 5).mean() < 0.01


def test_mosi_words_equal_the_joined_words(mosi_folder):
    found = corpora._mosi_words(mosi_folder / "upstream" / "CMU_MOSI_ModifiedTimestampedWords.csd")
    with open(mosi_folder / "words.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    flat = [
        (video, start, end, word)
        for video, (words, spans) in found.items()
        for word, (start, end) in zip(words, spans.tolist(), strict=True)
    ]
    rows = [(row["video_id"], float(row["start"]), float(row["end"]), row["word"]) for row in rows]
    assert len(flat) == len(rows) == 51_056
    for found, row in zip(sorted(flat), sorted(rows), strict=True):
        assert (found[0], found[3]) == (row[0], row[3]) and np.abs(np.subtract(found[1:3], row[1:3])).max() < 6e-4


def test_mosi_timing_lies_where_the_segments_are(mosi, segments, mosi_folder):
    words = corpora._mosi_words(mosi_folder / "upstream" / "CMU_MOSI_ModifiedTimestampedWords.csd")
    timing = merged(
        mosi,
        lambda s: [x[:k].numpy() for x, k in zip(s.inputs["timing"].values, s.inputs["timing"].lengths, strict=True)],
    )
    same = near = 0
    for row in segments:
        names, spans = words[row["video_id"]]
        inside = (spans.mean(1) >= float(row["start"])) & (spans.mean(1) <= float(row["end"]))
        expected = np.log(np.maximum(spans[inside, 1] - spans[inside, 0], 0.01) / 0.2)
        found = timing[row["id"]][:, TIMING.index("duration")]
        same += len(found) == len(expected) and np.abs(found - expected).max() < 1e-4
        near += abs(len(found) - len(expected)) <= 2
    assert same / len(segments) > 0.88 and near / len(segments) > 0.97


def test_timing_columns():
    words, spans = (
        ["sp", "so", "good", "sp", "sp", "yes"],
        np.array([[0, 1], [1, 1.2], [1.2, 1.8], [1.8, 2], [2, 2.5], [2.6, 3.0]]),
    )
    x = dict(zip(TIMING, corpora.word_rhythm(words, spans + 7).T, strict=True))
    assert x["pause"].tolist() == [1, 0, 0, 1, 1, 0] and np.allclose(
        x["duration"], np.log(np.array([1, 0.2, 0.6, 0.2, 0.5, 0.4]) / 0.2)
    )
    assert np.allclose(np.expm1(x["gap"]), [0, 1, 0, 0, 0, 0.8]) and np.allclose(x["letters"], [0, 0.4, 0.8, 0, 0, 0.6])
    assert np.allclose(x["rate"], [0, 0.5, 1 / 3, 0, 0, 0.375]) and np.allclose(
        x["relative"], np.log(np.array([1, 0.2, 0.6, 0.2, 0.5, 0.4]) / 0.4)
    )
    assert np.allclose(x["onset"], np.array([0, 1, 1.2, 1.8, 2, 2.6]) / 5) and np.allclose(
        x["position"], np.arange(1, 7) / 6
    )


def test_mosi_timing_is_finite_and_of_order_one(mosi):
    for split in mosi.splits.values():
        x = split.inputs["timing"]
        real = torch.arange(x.values.shape[1]) < x.lengths[:, None]
        assert (
            x.values.isfinite().all()
            and x.values.abs().max() <= 5
            and (x.values[~real] == 0).all()
            and x.lengths.min() >= 1
        )
        assert (x.values[real].std(0) < 2).all() and (x.values[real].std(0) > 0.05).all()


def test_mosi_over_loopback_then_from_the_cache(mosi, mosi_folder, loopback, tmp_path, monkeypatch):
    monkeypatch.setenv("DMSIL_CACHE", str(tmp_path))
    files = fetch("mosi", mirror=loopback(mosi_folder / "upstream"))
    assert set(files) == set(MOSI_FILES) == {path.name for path in (tmp_path / "mosi").iterdir()}
    monkeypatch.setenv("DMSIL_MIRROR", "http://127.0.0.1:9/nobody-listens")
    again = open_clips("mosi")
    for name, split in again.splits.items():
        assert (
            torch.equal(split.inputs["audio"].values, mosi.splits[name].inputs["audio"].values)
            and split.ids == mosi.splits[name].ids
        )


def test_a_damaged_cache_is_mended(mosi_folder, tmp_path):
    mirror = mosi_folder / "upstream"
    path = fetch("mosi", cache=tmp_path, mirror=mirror)["transcripts.csv"]
    path.write_bytes(path.read_bytes()[:-100])
    fetch("mosi", cache=tmp_path, mirror=mirror)
    assert path.read_bytes() == (mirror / "transcripts.csv").read_bytes()


def test_sources_table_is_the_public_one(mosi_folder):
    with open(mosi_folder / "upstream" / "SOURCES.csv", encoding="utf-8", newline="") as opened:
        rows = {row["file"]: row for row in csv.DictReader(opened)}
    for file, (digest, url) in (MOSI_FILES | corpora.MOSI_VISION).items():
        assert (digest, url) == (rows[file]["sha256"], rows[file]["url"])


class _Answer(http.server.BaseHTTPRequestHandler):
    "A server that answers wrongly."

    status, promised, sent = 200, 20, b"not the transcripts!"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("Content-Length", str(self.promised))
        self.end_headers()
        self.wfile.write(self.sent)
        self.close_connection = True


BROKEN = {
    "other content": ({}, "SHA-256 "),
    "broken off": ({"promised": 201_361, "sent": b"x" * 1000}, "Error at"),
    "not found": ({"status": 404}, "HTTPError at"),
    "server error": ({"status": 500}, "HTTPError at"),
    "empty": ({"promised": 0, "sent": b""}, "SHA-256 e3b0c44298fc…"),
}


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # left open by requests
@pytest.mark.parametrize("name", BROKEN)
def test_broken_downloads_leave_nothing(loopback, tmp_path, name):
    attributes, words = BROKEN[name]
    mirror = loopback(type("Broken", (_Answer,), attributes))
    with pytest.raises(DataError) as caught:
        fetch("mosi", cache=tmp_path, mirror=mirror)
    line = str(caught.value)
    assert (
        line.startswith("transcripts.csv: found ")
        and words in line
        and mirror in line
        and "; expected " in line
        and "\n" not in line
    )
    assert list((tmp_path / "mosi").iterdir()) == []
    gc.collect()


def test_broken_downloads_spare_what_was_there(mosi_folder, loopback, tmp_path):
    "A file in the cache that is whole is not fetched again, whatever the mirror now serves."
    files = fetch("mosi", cache=tmp_path, mirror=mosi_folder / "upstream")
    assert fetch("mosi", cache=tmp_path, mirror=loopback(_Answer)) == files


def test_no_mirror_there(tmp_path):
    with pytest.raises(DataError, match="transcripts.csv: found FileNotFoundError at .*DMSIL_MIRROR"):
        fetch("mosi", cache=tmp_path, mirror=tmp_path / "no")
    with pytest.raises(DataError, match="iemocap: found no such corpus; expected mosi"):
        fetch("iemocap")


# ICT-MMMO


def reviews(sizes=(9, 4, 5), L=5, seed=0) -> dict:
    "A small npz in the layout of ICT-MMMO: padded in front and behind, steps without a face, one −255."
    rng, table = np.random.default_rng(seed), {}
    for name, n in zip(("train", "valid", "test"), sizes, strict=True):
        first, last = rng.integers(0, 2, (n, 1)), rng.integers(4, L + 1, (n, 1))
        inside = ((np.arange(L) >= first) & (np.arange(L) < last))[..., None]
        face = rng.random((n, L, 1)) > 0.3
        face[np.arange(n), first[:, 0]] = True
        table[f"audio_{name}"] = (rng.normal(3, 2, (n, L, 3)) * inside).astype(np.float32)
        table[f"vision_{name}"] = (rng.normal(-1, 5, (n, L, 2)) * inside * face).astype(np.float32)
        table[f"label_{name}"] = rng.integers(2, 11, n).astype(np.float32) / 2
    table["text_valid"], table["text_test"] = np.zeros((4, L, 7)), np.zeros((5, L, 7))
    table["audio_train"][2, 2, 1] = -255
    return table


def saved(folder, table, write=np.savez):
    path = folder / "own.npz"
    write(path, **table) if isinstance(table, dict) else path.write_bytes(table)
    return path


turned_away = functools.partial(refused, load=load_mmmo, longest=600)


def again(table) -> dict:
    "What the loader should find, clip by clip and value by value, in plain loops."
    clips, seen = {}, {s: [[] for _ in range(table[f"{s}_train"].shape[2])] for s in ("audio", "vision")}
    for name in ("train", "valid", "test"):
        audio, vision = table[f"audio_{name}"].astype(np.float64), table[f"vision_{name}"].astype(np.float64)
        for row in range(len(audio)):
            full = [t for t in range(audio.shape[1]) if audio[row, t].any() or vision[row, t].any()]
            steps = range(full[0], full[-1] + 1)
            for s, x in (("audio", audio), ("vision", vision)):
                clips[name, row, s] = [
                    [v if x[row, t].any() and v != -255 else None for v in x[row, t].tolist()] for t in steps
                ]
                for step in clips[name, row, s] if name == "train" else ():
                    for j, v in enumerate(step):
                        seen[s][j] += [] if v is None else [v]
    scale = {s: [(np.mean(v), np.std(v)) for v in columns] for s, columns in seen.items()}
    return {
        key: [
            [
                0.0 if v is None else min(max((v - mean) / std, -5), 5)
                for v, (mean, std) in zip(step, scale[key[2]], strict=True)
            ]
            for step in steps
        ]
        for key, steps in clips.items()
    }


def same(clips, table):
    for (name, row, s), steps in again(table).items():
        x = clips.splits[name].inputs[s]
        assert x.lengths[row] == len(steps) and (x.values[row, len(steps) :] == 0).all()
        assert np.abs(x.values[row, : len(steps)].numpy() - steps).max() < 2e-5
    for name, split in clips.splits.items():
        assert np.array_equal(split.labels.numpy(), table[f"label_{name}"] - 3)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("seed", range(4))
def test_reviews(tmp_path, write, seed):
    table = reviews(seed=seed)
    clips = load_mmmo(saved(tmp_path, table, write))
    same(clips, table)
    assert (clips.name, clips.dataset, clips.bound, clips.modalities) == ("mmmo", "mosi", 2.0, ("audio", "vision"))
    assert (
        clips.notes[0] == "audio: −255 counts as missing (1 of 270 values)"
        and "text: left out, train has none" in clips.notes
    )
    assert (
        clips.test.ids == tuple(f"test_{row}" for row in range(5))
        and clips.train.inputs["audio"].values.dtype == torch.float32
    )


def test_reviews_in_other_clothes(tmp_path):
    table = reviews()
    for change in (lambda x: x.astype(">f8"), np.asfortranarray, lambda x: x.astype(np.float64)):
        same(load_mmmo(saved(tmp_path, {key: change(x) for key, x in table.items()})), table)


def test_minus_255_does_not_become_the_scale(tmp_path):
    table = reviews(sizes=(60, 4, 5))
    clean = load_mmmo(saved(tmp_path, table)).train.inputs["audio"].values
    table["audio_train"][3:30, 2, 1] = -255
    torn = load_mmmo(saved(tmp_path, table)).train.inputs["audio"].values
    assert (torn[3:30, 2 - 1 : 3, 1] == 0).any() and 0.7 < torn[30:, :, 1].std() / clean[30:, :, 1].std() < 1.4


def test_a_clip_of_nothing_and_a_column_that_never_moves(tmp_path):
    table = reviews()
    for s in ("audio", "vision"):
        table[f"{s}_valid"][1] = 0
    for name in ("train", "valid", "test"):
        table[f"vision_{name}"][..., 1] = np.where(table[f"vision_{name}"][..., 0] != 0, 7, 0)
    table["vision_test"][..., 1] *= 2
    clips = load_mmmo(saved(tmp_path, table))
    assert clips.valid.inputs["audio"].lengths[1] == 1 and (clips.valid.inputs["vision"].values[1] == 0).all()
    assert all((split.inputs["vision"].values[..., 1] == 0).all() for split in clips.splits.values())


def without(key):
    return lambda table: table.pop(key)


def having(key, change):
    return lambda table: table.update({key: change(table[key])})


def setting(key, index, value):
    return lambda table: table[key].__setitem__(index, value)


NOT_REVIEWS = {
    **{
        f"no {s}_{name}": (without(f"{s}_{name}"), f"{name}.{s}: found no such array among ")
        for s, name in (("label", "train"), ("audio", "valid"), ("vision", "test"))
    },
    "rows": (having("vision_test", lambda x: x[1:]), "test.vision: found 4 rows; expected 5, one for each label"),
    "steps": (having("vision_valid", lambda x: x[:, 1:]), "valid.vision: found 4 steps; expected 5, as in audio"),
    "features": (having("audio_test", lambda x: x[..., 1:]), "test.audio: found 2 features; expected 3, as in train"),
    "flat": (having("audio_train", lambda x: x[:, 0]), "train.audio: found shape (9, 3); expected (n, L, d)"),
    "deep": (having("audio_train", lambda x: x[None]), "train.audio: found 1 rows"),
    "labels in a table": (
        having("label_train", lambda y: np.stack([y, y], 1)),
        "train.label: found shape (9, 2); expected (n,)",
    ),
    "no dimension": (having("label_train", lambda y: np.float32(1)), "train.label: found a "),
    "no rows": (having("label_valid", lambda y: y[:0]), "valid.label: found 0 rows; expected at least one clip"),
    "no steps": (
        having("audio_valid", lambda x: x[:, :0]),
        "valid.audio: found shape (4, 0, 3); expected at least one step",
    ),
    "NaN": (
        setting("audio_valid", (3, 1), np.nan),
        "valid.audio: found 3 NaN among 60 values, first in row 3; expected finite numbers (clean=True",
    ),
    "inf": (setting("vision_test", (0, 2, 1), -np.inf), "test.vision: found 1 −inf among 50 values, first in row 0"),
    "NaN label": (
        setting("label_test", 2, np.nan),
        "test.label: found 1 NaN among 5 values, first in row 2; expected a finite label",
    ),
    "label below": (setting("label_test", 2, 0.5), "test.label: found 0.5 in row 2; expected labels from 1 to 5"),
    "label above": (setting("label_train", 8, 5.5), "train.label: found 5.5 in row 8; expected labels from 1 to 5"),
    "words": (having("audio_train", lambda x: x.astype("U5")), "train.audio: found dtype <U5; expected numbers"),
    "truths": (having("audio_train", lambda x: x > 0), "train.audio: found dtype bool; expected numbers"),
    "complex": (having("audio_train", lambda x: x.astype(complex)), "train.audio: found dtype 'c16'"),
    "objects": (
        having("label_train", lambda y: y.astype(object)),
        "train.label: found an array of objects; expected numbers",
    ),
    "structured": (having("label_train", lambda y: y.astype([("y", "<f4")])), "train.label: found dtype 'V4'"),
}


@pytest.mark.parametrize("name", NOT_REVIEWS)
def test_finding_in_reviews(tmp_path, name):
    damage, words = NOT_REVIEWS[name]
    table = reviews()
    damage(table)
    path = saved(tmp_path, table)
    turned_away(path, words)
    if name not in ("NaN", "inf"):
        turned_away(path, words, clean=True)


def test_cleaned_reviews(tmp_path):
    table = reviews()
    for name in ("NaN", "inf"):
        NOT_REVIEWS[name][0](table)
    clips = load_mmmo(saved(tmp_path, table), clean=True)
    assert clips.notes[:2] == (
        "valid.audio: 3 NaN among 60 values, first in row 3: sets them to 0",
        "test.vision: 1 −inf among 50 values, first in row 0: sets them to 0",
    )
    table["audio_valid"][3, 1], table["vision_test"][0, 2, 1] = 0, 0
    same(clips, table)


def zipped(members: dict[str, bytes], folder, kind=zipfile.ZIP_DEFLATED):
    table = reviews()
    with zipfile.ZipFile(folder / "own.npz", "w", kind) as archive:
        for key, x in table.items():
            raw = io.BytesIO()
            np.save(raw, x)
            archive.writestr(f"{key}.npy", members.get(key, raw.getvalue()))
    return folder / "own.npz"


def npy(header: str, body=b"", version=b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + body


LIARS = {
    "huge shape": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", b"1234"),
        "shape (1099511627776,), which needs 4398046511104 bytes, over 4",
    ),
    "many dimensions": (
        npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(2,) * 90}}}", b"1234"),
        "which needs",
    ),
    "short": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", b"1234"), "needs 36 bytes, over 4"),
    "long": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"12345678"), "needs 4 bytes, over 8"),
    "negative": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"1234"), "shape (-1,)"),
    "no width": (npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,)}"), "dtype"),
    "objects": (
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (9,)}", b"cos\nsystem\n(Vtrue\ntR."),
        "an array of objects",
    ),
    "code for a header": (npy("__import__('os').mkdir('it-ran')"), "damaged npz"),
    "format 3": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"1234", b"\x03\x00"),
        "npy format (3, 0)",
    ),
    "format 2": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"1234", b"\x02\x00"),
        "label: found 1.669e-07 in row 0; expected labels from 1 to 5",
    ),
    "no npy": (b"not an array", "damaged npz"),
    "nothing": (b"", "damaged npz"),
    "a bomb": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000,)}", bytes(400_000_000)), "400000"),
}


@pytest.mark.parametrize("name", LIARS)
def test_arrays_that_lie(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    body, words = LIARS[name]
    path = zipped({"label_train": body}, tmp_path)
    tracemalloc.start()
    try:
        line = turned_away(path, "own.npz: train.")
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert words in line, line
    assert not (tmp_path / "it-ran").exists()


def test_a_directory_that_lies(tmp_path):
    "The zip says that an array is far larger, or smaller, than it is."
    path = zipped({}, tmp_path, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")

    def lying(size):
        return saved(tmp_path, whole[: entry + 24] + struct.pack("<I", size) + whole[entry + 28 :])

    turned_away(lying(2**31), "train.audio: found 2147483648 bytes; expected at most 268435456")
    turned_away(lying(40), "train.audio: found a damaged npz")
    same(load_mmmo(lying(2**28)), reviews())  # what counts is what is there


def test_reviews_cut_anywhere(tmp_path):
    whole = zipped({}, tmp_path).read_bytes()
    for end in sorted({0, 1, 4, len(whole) - 1} | set(np.random.default_rng(0).integers(0, len(whole), 60).tolist())):
        turned_away(saved(tmp_path, whole[:end]), "damaged npz")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.filterwarnings("error")
def test_flipped_bits_of_reviews(tmp_path, kind):
    whole, rng, read, first = (
        zipped({}, tmp_path, kind).read_bytes(),
        np.random.default_rng(1),
        0,
        load_mmmo(tmp_path / "own.npz"),
    )
    for at_, bit in zip(rng.integers(0, len(whole), 250), rng.integers(0, 8, 250), strict=True):
        damaged = bytearray(whole)
        damaged[at_] ^= 1 << bit
        try:
            clips = load_mmmo(saved(tmp_path, bytes(damaged)))
        except DataError as error:
            assert str(error).startswith("own.npz: ") and str(error).isprintable()
        else:
            read += 1
            for name, split in clips.splits.items():
                assert torch.equal(split.labels, first.splits[name].labels)
                for s, x in split.inputs.items():
                    assert torch.equal(x.values, first.splits[name].inputs[s].values)
    assert 0 < read < 200  # flips in dates, attributes and the text that isn't read


NO_ZIPS = [b"", b"\x00" * 100, b"PK\x03\x04", b"not a zip\n", pickle.dumps({"train": {}}), b"PK\x05\x06" + bytes(18)]


@pytest.mark.parametrize("content", NO_ZIPS)
def test_no_npz_at_all(tmp_path, content):
    turned_away(saved(tmp_path, content))


def test_no_npz_there(tmp_path):
    turned_away(tmp_path / "none.npz", "No such file")
    turned_away(tmp_path, "readable file")


@pytest.fixture(scope="module")
def mmmo_file():
    path = SHARED / "mmmo" / "features.npz"
    if not path.is_file():
        pytest.skip(f"needs the real data in {path.parent.relative_to(SHARED.parents[1])}")
    return path


def test_mmmo(mmmo_file):
    with np.load(mmmo_file, allow_pickle=False) as archive:
        table = dict(archive)
    clips = load_mmmo(mmmo_file)
    same(clips, table)
    assert [len(split) for split in clips.splits.values()] == [220, 40, 80]
    assert [x.values.shape[2] for x in clips.train.inputs.values()] == [74, 36]
    assert clips.notes[0] == "audio: −255 counts as missing (16 of 503200 values)"
    for split in clips.splits.values():
        audio, vision = split.inputs["audio"], split.inputs["vision"]
        assert torch.equal(audio.lengths, vision.lengths) and audio.lengths.min() >= 2 and audio.lengths.max() == 20
        assert split.labels.abs().max() == 2 and set((2 * split.labels).tolist()) <= set(range(-4, 5))
        assert max(audio.values.abs().max(), vision.values.abs().max()) <= 5
    assert len({x.numpy().tobytes() for split in clips.splits.values() for x in split.inputs["audio"].values}) == 340, (
        "a clip stands twice"
    )


def test_mmmo_voice_tells_something(mmmo_file):
    from sklearn.linear_model import Ridge

    clips = load_mmmo(mmmo_file)

    def summary(x):
        return np.array([np.r_[v[:k].mean(0), v[:k].std(0)] for v, k in zip(x.values.numpy(), x.lengths, strict=True)])

    found = {
        s: np.corrcoef(
            Ridge(1000).fit(summary(clips.train.inputs[s]), clips.train.labels).predict(summary(clips.test.inputs[s])),
            clips.test.labels,
        )[0, 1]
        for s in clips.modalities
    }
    assert 0.25 < found["audio"] < 0.5 and found["vision"] < 0.25


def test_one_door(tmp_path):
    assert (
        open_clips(str(saved(tmp_path, reviews())), clean=True).name
        == "mmmo"
        == open_clips(saved(tmp_path, reviews())).name
    )
    with pytest.raises(DataError, match="none.npz: found No such file"):
        open_clips(tmp_path / "none.npz")
    table = corpus()
    at("valid", "audio", (3, 1, 0), np.nan)(table)
    path = written(tmp_path, table)
    assert len(open_clips(str(path), clean=True, dataset="mosei").notes) == 1
    assert torch.equal(open_clips("synthetic", seed=2).valid.labels, synthetic_clips(seed=2).valid.labels)
    assert len(open_clips("synthetic").train) == 4000
