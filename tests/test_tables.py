"Clips from a CSV table and arrays, splits by group, and the field's pickle layout written and read back."

import csv
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsil.clips import Clips, DataError, Split, Steps, Texts, Tokens, Vectors, group_splits
from dmsil.pickles import load_clips, save_clips
from dmsil.tables import clips_from_table, unlabelled_clips

HEAD = ("id", "text", "label", "split", "group")
LINES = [
    (f"{who}_{k}", f"words, {k}", f"{(k - 1) / 2 + n / 10:.2f}", part, who)
    for n, (who, part) in enumerate([("ann", "train"), ("bo", "train"), ("cy", "valid"), ("di", "test")])
    for k in range(3)
]
N = len(LINES)


def written(folder, lines=LINES, head=HEAD, name="clips.csv"):
    with open(folder / name, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([head, *lines])
    return folder / name


def changed(folder, row, column, value):
    lines = [list(line) for line in LINES]
    lines[row][HEAD.index(column)] = value
    return written(folder, lines)


def refused(call, *words):
    "The one line of a refusal; it has the words in it."
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 500 and ": found " in line and "; expected " in line, line
    for word in words:
        assert word in line, line
    return line


def sequences(seed=0, n=N, d=4):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(1, 7), d)).astype(np.float32) for _ in range(n)]


# What comes out


def test_rows_stay_together(tmp_path):
    walk, voice = np.arange(N * 3, dtype=float).reshape(N, 3), sequences()
    clips = clips_from_table(written(tmp_path), {"voice": voice, "walk": walk})
    assert clips.modalities == ("text", "voice", "walk") and clips.name == "clips" and clips.bound == 3
    for name, split in clips.splits.items():
        rows = [row for row, line in enumerate(LINES) if line[3] == name]
        assert split.ids == tuple(LINES[row][0] for row in rows)
        assert split.inputs["text"].strings == tuple(LINES[row][1] for row in rows)
        assert torch.equal(split.labels, torch.tensor([float(LINES[row][2]) for row in rows]))
        assert torch.equal(split.inputs["walk"].values, torch.tensor(walk[rows], dtype=torch.float32))
        for k, row in enumerate(rows):
            length = int(split.inputs["voice"].lengths[k])
            assert np.array_equal(split.inputs["voice"].values[k, :length], voice[row])
            assert not split.inputs["voice"].values[k, length:].any()


def test_every_way_to_bring_an_array(tmp_path):
    rows = sequences()
    lengths, longest = np.array([len(x) for x in rows]), max(map(len, rows))
    padded = np.stack([np.pad(x, [(0, longest - len(x)), (0, 0)]) for x in rows])
    np.savez(tmp_path / "a.npz", values=padded, lengths=lengths)
    np.savez_compressed(tmp_path / "b.npz", values=padded, lengths=lengths.astype(np.int16))
    np.save(tmp_path / "c.npy", padded)
    with h5py.File(tmp_path / "d.h5", "w") as opened:
        opened["values"], opened["lengths"] = padded, lengths
    ways = {
        "list": rows,
        "tuple": (padded, lengths),
        "tensors": (torch.tensor(padded), torch.tensor(lengths)),
        "bare": padded,
        **{s: tmp_path / s for s in ("a.npz", "b.npz", "c.npy", "d.h5")},
        "name": str(tmp_path / "a.npz"),
    }
    clips = clips_from_table(written(tmp_path), {f"m{k}": way for k, way in enumerate(ways.values())})
    first = clips.train.inputs["m0"]
    for k, way in enumerate(ways):
        x = clips.train.inputs[f"m{k}"]
        assert isinstance(x, Steps) and torch.equal(x.values, first.values) and torch.equal(x.lengths, first.lengths), (
            way
        )


@pytest.mark.parametrize(
    "array",
    [
        np.ones((N, 2), np.float16),
        np.ones((N, 2), ">f8"),
        np.ones((N, 2), np.uint8),
        torch.ones(N, 2).bfloat16(),
        torch.ones(N, 2, requires_grad=True),
        [[1, 1]] * N,
        np.asfortranarray(np.ones((N, 2))),
    ],
)
def test_every_dtype_becomes_float32(tmp_path, array):
    x = clips_from_table(written(tmp_path), {"walk": array}).train.inputs["walk"]
    assert isinstance(x, Vectors) and x.values.dtype == torch.float32 and torch.equal(x.values, torch.ones(6, 2))


def test_ids_find_their_rows(tmp_path):
    walk, order = np.arange(2.0 * N).reshape(N, 2), np.random.default_rng(1).permutation(N)
    ids = np.array([LINES[row][0] for row in order])
    np.savez(tmp_path / "w.npz", values=np.vstack([walk[order], [[9, 9]]]), ids=np.append(ids, "zed_1"))
    with h5py.File(tmp_path / "w.h5", "w") as opened:
        opened["values"], opened["ids"] = walk[order], ids.astype("S")
    plain = clips_from_table(written(tmp_path), {"walk": walk})
    for file in ("w.npz", "w.h5"):
        clips = clips_from_table(written(tmp_path), {"walk": tmp_path / file})
        for name in plain.splits:
            assert torch.equal(clips.splits[name].inputs["walk"].values, plain.splits[name].inputs["walk"].values)
        assert ("walk: 1 rows of w.npz belong to no clip of clips.csv" in clips.notes) == (file == "w.npz")
    np.savez(tmp_path / "few.npz", values=walk[1:], ids=[line[0] for line in LINES[1:]])
    refused(
        lambda: clips_from_table(written(tmp_path), {"walk": tmp_path / "few.npz"}),
        "line 2, id: found ann_0, which few.npz does not have",
    )
    np.savez(tmp_path / "two.npz", values=walk, ids=["ann_0"] * N)
    refused(
        lambda: clips_from_table(written(tmp_path), {"walk": tmp_path / "two.npz"}), "two.npz: walk: found 11 ids twice"
    )


def test_names_of_columns(tmp_path):
    path = written(tmp_path, head=("clip", "transcript", "mood", "fold", "speaker"))
    names = {"id": "clip", "text": "transcript", "label": "mood", "split": "fold", "group": "speaker"}
    assert (
        clips_from_table(path, columns=names).train.ids
        == clips_from_table(written(tmp_path, name="same.csv")).train.ids
    )
    refused(
        lambda: clips_from_table(path, columns={"id": "clip"}),
        "heading: found 0 columns label among clip, transcript, mood",
    )
    with pytest.raises(ValueError, match="'lable' is none of id, label"):
        clips_from_table(path, columns={"lable": "mood"})
    silent = clips_from_table(path, {"walk": np.ones((N, 2))}, columns=names | {"text": None})
    assert silent.modalities == ("walk",)


def test_unimodal_labels(tmp_path):
    lines = [(*line, f"{-float(line[2]):.2f}") for line in LINES]
    clips = clips_from_table(written(tmp_path, lines, (*HEAD, "label_walk")), {"walk": np.ones((N, 2))})
    assert torch.equal(clips.train.unimodal["walk"], -clips.train.labels)
    refused(
        lambda: clips_from_table(written(tmp_path, lines, (*HEAD, "label_face"))),
        "label_face: found a label of face; expected a modality: text",
    )


def test_a_spreadsheet_table(tmp_path):
    "Byte order mark, CRLF, quoted line breaks, empty lines: the line numbers are those of the file."
    path = tmp_path / "clips.csv"
    text = "\r\n".join(
        ["id , text,label,group", 'a_1,"one\r\ntwo ""said"" he",1,a', "", "b_1,ö,0,b", ",,,", "c_1,,x,c"]
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    refused(lambda: clips_from_table(path), "clips.csv: line 7, label: found 'x'; expected a number")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(",x,", ",-1,").encode())
    clips = clips_from_table(path)
    assert sorted(clips.train.ids + clips.valid.ids + clips.test.ids) == ["a_1", "b_1", "c_1"]
    assert 'one\r\ntwo "said" he' in [x for split in clips.splits.values() for x in split.inputs["text"].strings]


# Scales


def test_standardised_on_train_alone(tmp_path):
    rng = np.random.default_rng(2)
    walk, voice = 1e4 + 1e3 * rng.normal(size=(N, 3)), [1e-3 * x for x in sequences(3)]
    walk[:, 2] = 7.0
    walk[0, 0] = 1e7
    whole = clips_from_table(written(tmp_path), {"walk": walk, "voice": voice}, standardise=True)
    x, y = whole.train.inputs["walk"].values, whole.train.inputs["voice"]
    assert abs(x[:, 1].mean()) < 1e-5 and abs(x[:, 1].std(correction=0) - 1) < 1e-4
    assert not x[:, 2].any() and x.abs().max() <= 5
    inside = torch.arange(y.values.shape[1]) < y.lengths[:, None]
    assert torch.allclose(y.values[inside].mean(0), torch.zeros(4), atol=1e-5) and not y.values[~inside].any()
    walk[-3:] *= 50  # test clips: train must not notice
    again = clips_from_table(written(tmp_path), {"walk": walk, "voice": voice}, standardise=True)
    assert torch.equal(again.train.inputs["walk"].values, x)
    assert not torch.equal(again.test.inputs["walk"].values, whole.test.inputs["walk"].values)


def test_a_scale_fits_every_array(tmp_path):
    walk, path = np.random.default_rng(2).normal(size=(N, 3)), written(tmp_path)
    scale = clips_from_table(path, {"walk": walk}, standardise=True).scale
    for read in (
        lambda arrays: clips_from_table(path, arrays, standardise=scale),
        lambda arrays: unlabelled_clips(path, arrays, scale=scale),
    ):
        read({"walk": walk})
        refused(lambda: read({"walk": walk[:, :2]}), "walk", "width 2", "width 3")  # noqa: B023
        refused(lambda: read({"walk": walk, "gait": walk}), "gait", "no scale", "walk")  # noqa: B023


# Splits by group


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3), st.integers(0, 5))
def test_groups_stay_whole(groups, seed):
    split = group_splits(groups, seed=seed)
    assert set(split) == {"train", "valid", "test"} and split == group_splits(groups, seed=seed)
    assert len({(g, s) for g, s in zip(groups, split, strict=True)}) == len(set(groups))


def test_shares_are_met_where_groups_allow():
    groups = [k // 5 for k in range(1000)]
    split = group_splits(groups, (0.6, 0.2, 0.2))
    assert [split.count(s) for s in ("train", "valid", "test")] == [600, 200, 200]
    assert split != group_splits(groups, (0.6, 0.2, 0.2), seed=1)
    with pytest.raises(ValueError, match="at least 3 groups, got 2"):
        group_splits(["a", "b", "a"])


def test_groups_dealt_by_the_table(tmp_path):
    path = written(tmp_path, [line[:3] + line[4:] for line in LINES], ("id", "text", "label", "group"))
    clips = clips_from_table(path, seed=4)
    who = [{clip.split("_")[0] for clip in split.ids} for split in clips.splits.values()]
    assert (
        not who[0] & who[1]
        and not who[0] & who[2]
        and not who[1] & who[2]
        and "splits: groups dealt out with seed 4" in clips.notes
    )
    refused(lambda: clips_from_table(path, columns={"group": None}), "found neither split nor group")
    two = written(tmp_path, [(f"{k}", "", "0", "ab"[k % 2]) for k in range(6)], ("id", "text", "label", "group"))
    refused(lambda: clips_from_table(two), "group: found 2 groups; expected at least 3")


# What is refused


@pytest.mark.parametrize(
    "row, column, value, words",
    [
        (4, "id", "ann_1", "line 6, id: found ann_1, as on line 3; expected each clip once"),
        (4, "id", " ", "line 6, id: found nothing"),
        (0, "label", "", "line 2, label: found ''"),
        (0, "label", "nan", "found 'nan'"),
        (0, "label", "1,5", "found '1,5'; expected a number"),
        (0, "label", "-3.01", "found -3.01; expected a label within ±3"),
        (2, "split", "dev", "found 'dev'; expected train, valid or test"),
        (2, "group", "", "line 4, group: found nothing"),
        (11, "split", "train", "line 13, group: found di in train, and in test on line 11"),
        (0, "label", "1\x00", "found"),
    ],
)
def test_a_cell_that_is_wrong(tmp_path, row, column, value, words):
    refused(lambda: clips_from_table(changed(tmp_path, row, column, value)), "clips.csv: ", words)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "found 0 lines"),
        (b"id,label\n", "found 1 lines"),
        (b"id|label|split\na|1|train\n", "found 0 columns id among id|label|split"),
        (b"id,label,split\na,1\n", "line 2: found 2 cells; expected 3"),
        (b"id,label,label,split\na,1,1,train\n", "found 2 columns label"),
        ("id,label,split\nä,1,train\n".encode("latin1"), "bytes that are not UTF-8"),
        (b'id,label,split\na,"1,train\n', "line 2: found"),
        (b"id,label,split\na,1,train\nb,1,test\n", "split: found no clip in valid"),
        (b"id,label,split\na,1,train\nb,1,test\nc,1,valid\n", "found no text, and no arrays"),
        (b"id,label,split\n" + b"a" * 200_000 + b",1,train\n", "field larger than field limit"),
    ],
)
def test_a_table_that_is_wrong(tmp_path, content, words):
    (tmp_path / "clips.csv").write_bytes(content)
    refused(lambda: clips_from_table(tmp_path / "clips.csv"), "clips.csv: ", words)
    refused(lambda: clips_from_table(tmp_path / "none.csv"), "none.csv: found No such file or directory")
    refused(lambda: clips_from_table(tmp_path), "found Is a directory")


@pytest.mark.parametrize(
    "array, words",
    [
        (np.ones((5, 2)), "arrays: walk: found 5 rows; expected 12, one for each clip of clips.csv"),
        (np.ones((N, 2, 2, 2)), "found shape (12, 2, 2, 2)"),
        (np.ones((N, 0)), "found shape (12, 0)"),
        (np.array([["a"] * 2] * N), "found dtype <U1; expected numbers"),
        (3.0, "found shape ()"),
        (np.array([[None, 1]] * N), "found dtype object"),
        (np.where(np.eye(N) > 0, np.nan, 0), "12 NaN among 144 values, first in row 0"),
        (
            (np.ones((N, 3, 2)), [1] * 11 + [4]),
            "walk_lengths: found 1 outside, first 4 in row 11; expected lengths from 1 to 3",
        ),
        ((np.ones((N, 3, 2)), [1] * 5), "walk_lengths: found 5 rows"),
        ((np.ones((N, 3, 2)), [1.5] * N), "found 1.5 in row 0"),
        ((1, 2, 3), "found a tuple of 3"),
        ([np.ones((2, 3))] * 11 + [np.ones((2, 4))], "in row 11; expected (steps, 3)"),
        ([], "found shape (0,)"),
    ],
)
def test_an_array_that_is_wrong(tmp_path, array, words):
    refused(lambda: clips_from_table(written(tmp_path), {"walk": array}), words)


@pytest.mark.parametrize("name", ["fusion", "text", "a.b", "a~b", ""])
def test_a_name_that_is_taken(tmp_path, name):
    refused(lambda: clips_from_table(written(tmp_path), {name: np.ones((N, 2))}), "names: found")


def test_clean_mends_and_says_so(tmp_path):
    walk = np.ones((N, 3, 2))
    walk[0, 0, 0] = np.inf
    clips = clips_from_table(written(tmp_path), {"walk": (walk, [9] * N)}, clean=True)
    assert clips.train.inputs["walk"].values[0, 0, 0] == 0 and clips.train.inputs["walk"].lengths.max() == 3
    assert clips.notes[0].startswith("walk: 1 +inf") and clips.notes[1].startswith("walk_lengths: 12 outside")


# Files that are damaged, or declare what they don't hold


def files(folder):
    walk = np.random.default_rng(0).normal(size=(N, 3, 2)).astype(np.float32)
    np.save(folder / "w.npy", walk)
    np.savez(folder / "w.npz", values=walk, lengths=np.full(N, 3))
    with h5py.File(folder / "w.h5", "w") as opened:
        opened["values"], opened["lengths"] = walk, np.full(N, 3)
    return [folder / f"w.{kind}" for kind in ("npy", "npz", "h5")]


def outcome(table, path):
    "loaded or refused, in one line; nothing else."
    try:
        clips_from_table(table, {"walk": path})
    except DataError as error:
        line = str(error)
        assert line.startswith("w.") and ": found " in line and len(line) < 500 and line.isprintable(), line
        return "refused"
    return "loaded"


def test_damaged_files(tmp_path):
    table, rng, seen = written(tmp_path), np.random.default_rng(0), {"loaded": 0, "refused": 0}
    for path in files(tmp_path):
        whole = path.read_bytes()
        for k in range(300):
            broken = bytearray(whole[: rng.integers(len(whole))] if k % 3 == 0 else whole)
            for at in rng.integers(len(broken), size=k % 3) if len(broken) else ():
                broken[at] ^= 1 << rng.integers(8)
            path.write_bytes(broken)
            seen[outcome(table, path)] += 1
    assert sum(seen.values()) == 900 and seen["refused"] > 300


def test_a_shape_that_is_not_there(tmp_path):
    "Terabytes that a small file declares are refused before anything is made."
    table, (npy, npz, h5) = written(tmp_path), files(tmp_path)
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (12, 10000000000), }".ljust(117) + b"\n"
    head = np.lib.format.magic(1, 0) + b"v\x00" + head
    npy.write_bytes(head)
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("values.npy", head)
    with h5py.File(h5, "w") as opened:
        opened.create_dataset("values", (N, 10**10), "f4", chunks=(1, 1000))
    tracemalloc.start()
    for path in (npy, npz, h5):
        assert outcome(table, path) == "refused"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_no_code_and_no_other_files(tmp_path):
    table, (npy, npz, h5) = written(tmp_path), files(tmp_path)

    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("trace").mkdir, ())

    objects = np.full((N, 2), Payload(), object)
    np.save(npy, objects, allow_pickle=True)
    np.savez(npz, values=objects)
    np.save(tmp_path / "other.npy", np.ones((N, 2)))
    with h5py.File(tmp_path / "other.h5", "w") as opened:
        opened["values"] = np.ones((N, 2))
    for path in (npy, npz):
        assert outcome(table, path) == "refused"
    assert not (tmp_path / "trace").exists()
    for link in (h5py.ExternalLink(str(tmp_path / "other.h5"), "values"), h5py.SoftLink("/elsewhere")):
        with h5py.File(h5, "w") as opened:
            opened["values"] = link
        assert outcome(table, h5) == "refused"
    layout = h5py.VirtualLayout((N, 2), float)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "values", (N, 2))
    with h5py.File(h5, "w") as opened:
        opened.create_virtual_dataset("values", layout)
    assert outcome(table, h5) == "refused"
    (tmp_path / "w.mat").write_bytes(b"")
    refused(
        lambda: clips_from_table(table, {"walk": tmp_path / "w.mat"}),
        "w.mat: walk: found a file ending in '.mat'; expected .npy, .npz, .h5",
    )
    refused(lambda: clips_from_table(table, {"walk": tmp_path / "no.npy"}), "no.npy: walk: found no such file")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda s: s.encode("utf-8", "ignore")))
def test_any_bytes_as_a_table(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"id,label,split\n" + content)
    refused(lambda: clips_from_table(path), "any.csv: ")


# The field's layout, written

KINDS = {
    "sentences": lambda n: Texts(tuple(f"ü, {k}" for k in range(n))),
    "tokens": lambda n: Tokens(*padded(n, None)),
    "vectors": lambda n: Vectors(torch.randn(n, 5)),
    "steps": lambda n: Steps(*padded(n, 5)),
}


def padded(n, d):
    L = n + 2
    lengths = torch.arange(n) % L + 1
    inside = torch.arange(L) < lengths[:, None]
    return (
        (torch.randint(1, 30_000, (n, L)) * inside) if d is None else torch.randn(n, L, d) * inside[..., None]
    ), lengths


def corpus(text="sentences", audio="steps", vision="vectors", unimodal=(), names=("text", "audio", "vision")):
    def split(name, n):
        inputs, y = (
            {s: KINDS[kind](n) for s, kind in zip(names, (text, audio, vision), strict=True)},
            torch.linspace(-1, 1, n),
        )
        return Split(tuple(f"{name}_{k}" for k in range(n)), inputs, y, {s: -y for s in unimodal})

    torch.manual_seed(0)
    return Clips("made", split("train", 6), split("valid", 3), split("test", 4))


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("audio", ["steps", "vectors"])
def test_the_layout_comes_back(tmp_path, text, audio):
    clips = corpus(text, audio, unimodal=("text", "vision"))
    path = save_clips(clips, tmp_path / "made.pkl")
    back = load_clips(path, "mosi", text="raw_text" if text == "sentences" else None)
    assert [p.name for p in tmp_path.iterdir()] == ["made.pkl"]
    for name, split in clips.splits.items():
        other = back.splits[name]
        assert other.ids == split.ids and torch.equal(other.labels, split.labels)
        assert all(torch.equal(other.unimodal[s], y) for s, y in split.unimodal.items()) and set(other.unimodal) == set(
            split.unimodal
        )
        for s, x in split.inputs.items():
            y, rows = other.inputs[s], torch.arange(len(x))
            if isinstance(x, Texts):
                assert y.strings == x.strings
                continue
            if isinstance(x, Vectors):
                assert torch.equal(y.values, x.values[:, None]) and (y.lengths == 1).all()
                continue
            x, y = x.take(rows), y.take(rows)
            assert torch.equal(x.lengths, y.lengths)
            field = "ids" if isinstance(x, Tokens) else "values"
            assert torch.equal(getattr(x, field), getattr(y, field))


def test_what_their_reader_expects(tmp_path):
    "Python's own pickle sees plain arrays and lists, one width in all splits, and the field's classes."
    import pickle

    words = lambda x: Tokens(torch.ones(len(x), 4, dtype=torch.long), torch.full((len(x),), 4))
    table = pickle.loads(save_clips(corpus(), tmp_path / "made.pkl", tokenize=words).read_bytes())
    assert list(table) == ["train", "valid", "test"]
    for split in table.values():
        n = len(split["id"])
        assert {type(value) for value in split.values()} == {list, np.ndarray} and split["text_bert"].shape == (n, 3, 4)
        assert split["audio"].shape == (n, 8, 5) and split["vision"].shape == (n, 1, 5) and len(split["raw_text"]) == n
        assert (split["classification_labels"] == np.sign(split["regression_labels"]) + 1).all()
        assert split["annotations"] == [
            ("Negative", "Neutral", "Positive")[int(k)] for k in split["classification_labels"]
        ]
        assert all(type(k) is int for k in split["audio_lengths"])


def test_other_names_and_refusals(tmp_path):
    clips = corpus(names=("said", "voice", "walk"), unimodal=("voice",))
    places = {"text": "said", "audio": "voice", "vision": "walk"}
    back = load_clips(save_clips(clips, tmp_path / "made.pkl", places), text="raw_text")
    assert torch.equal(back.train.unimodal["audio"], clips.train.unimodal["voice"])
    for fields, words in (
        (None, "nothing goes to text: text is none of said, voice, walk"),
        ({"text": "said"}, "fields need text, audio and vision"),
        (places | {"audio": "said"}, "audio needs numbers, said is text"),
    ):
        with pytest.raises(ValueError, match=words):
            save_clips(clips, tmp_path / "no.pkl", fields)
    assert [p.name for p in tmp_path.iterdir()] == ["made.pkl"]


def test_a_file_takes_its_name_only_when_it_reads_back(tmp_path):
    good = save_clips(corpus(), tmp_path / "made.pkl").read_bytes()
    bad = corpus()
    bad.train.labels[0] = 4.0
    refused(
        lambda: save_clips(bad, tmp_path / "made.pkl"),
        "made.pkl: train.regression_labels: found 4 in row 0; expected labels within ±3",
    )
    assert (tmp_path / "made.pkl").read_bytes() == good and [p.name for p in tmp_path.iterdir()] == ["made.pkl"]
