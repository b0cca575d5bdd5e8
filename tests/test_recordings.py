"Own recordings: transcripts however damaged, sound however packed, real synthetic speech, and a prediction from three commands."

import importlib.util
import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dmsil
import dmsil.recordings as rec
from dmsil import audio, camera, transcripts
from dmsil.clips import DataError, Steps
from dmsil.corpora import TIMING
from dmsil.prediction import predict_clips

CUE = "1\n00:00:00,500 --> 00:00:02,000\nIt is good.\n"


def read(folder: Path, content: str | bytes, name: str = "talk.srt"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return transcripts.read_transcript(folder / name)


# ---- transcripts


@pytest.mark.parametrize(
    "content",
    [
        CUE,
        CUE.replace("\n", "\r\n"),
        CUE.replace("\n", "\r"),
        b"\xef\xbb\xbf" + CUE.encode(),
        CUE.encode("utf-16"),
        b"\xfe\xff" + CUE.encode("utf-16-be"),
        CUE.replace("00:00:00,500", "00:00,500").replace("00:00:02,000", "00:02"),
        CUE.replace(",", "."),
        CUE.replace("1\n", ""),
        CUE.replace(" --> ", "-->"),
        CUE.replace("02,000", "02,000 X1:40 X2:600"),
        CUE.replace("It is", "<font color='red'>It</font>\n{\\an8}<b>is</b>"),
        "\n\n" + CUE + "\n   \n\n",
    ],
    ids=[
        "plain",
        "crlf",
        "cr",
        "bom",
        "utf-16",
        "utf-16-be",
        "no hours",
        "points",
        "no number",
        "tight arrow",
        "position",
        "tags",
        "blank lines",
    ],
)
def test_one_cue_many_files(tmp_path, content):
    assert read(tmp_path, content) == [transcripts.Cue(1, 0.5, 2.0, "It is good.")]


def test_cues_that_overlap_and_cues_without_words(tmp_path):
    text = (
        CUE
        + "\n2\n00:00:01,000 --> 00:00:03,000\n<i></i>\n\n3\n00:00:01,500 --> 01:00:04,000\nyes &amp; no\n\n4\n00:00:05,000 --> 00:00:06,000\n"
    )
    assert [(c.number, c.start, c.end, c.text) for c in read(tmp_path, text)] == [
        (1, 0.5, 2.0, "It is good."),
        (3, 1.5, 3604.0, "yes & no"),
    ]


def test_webvtt(tmp_path):
    text = (
        "WEBVTT - a title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE\nby hand\n\nintro\n00:01.000 --> 00:02.000 align:start\n"
        "<v Ann>I <00:01.250><c.loud>really</c> <00:01.500>do\n\n00:03.000 --> 00:04.000\n- one\n- two\n"
    )
    first, second = read(tmp_path, text, "talk.vtt")
    assert first.stamps == ((1.0, "I"), (1.25, "really"), (1.5, "do")) and first.text == "I really do"
    assert second == transcripts.Cue(2, 3.0, 4.0, "- one - two")


@pytest.mark.parametrize(
    "name, content, where",
    [
        ("talk.srt", "", "no cue with words"),
        ("talk.srt", "1\n", "line 1: found 1"),
        ("talk.srt", "1\nhello there\n", "line 2: found hello there"),
        ("talk.srt", CUE + "\nhello\nthere\n", "line 5: found hello"),
        ("talk.srt", CUE.replace("-->", "->"), "line 2"),
        ("talk.srt", CUE.replace("02,000", "00,400"), "line 2"),
        ("talk.srt", CUE.replace("02,000", "61,000"), "line 2"),
        ("talk.srt", CUE + CUE, "line 5"),
        ("talk.srt", CUE.encode() + b"\xff\xfe", "line 4: found the byte 0xff"),
        ("talk.srt", CUE + "\0", "line 4: found a null character"),
        ("talk.srt", CUE.replace("good", "<00:00:01,500>good<00:00:01,000>"), "line 1"),
        ("talk.srt", CUE.replace("good", "good " * 2000), "letters"),
        ("talk.srt", "".join(f"00:00:01,000 --> 00:00:02,000\n{k}\n\n" for k in range(20_002)), "more than 20000 cues"),
        ("talk.vtt", CUE, "line 1: found 1; expected WEBVTT"),
        ("talk.txt", CUE, "line 2"),
        ("talk.txt", "so " * 3000, "letters"),
        ("talk.doc", CUE, ".srt, .vtt or .txt"),
    ],
)
def test_what_can_not_be_read_is_one_line(tmp_path, name, content, where):
    with pytest.raises(DataError) as error:
        read(tmp_path, content, name)
    line = str(error.value)
    assert line.startswith(f"{name}: ") and where in line and "\n" not in line and len(line) < 500


def test_sizes_are_limited(tmp_path):
    (tmp_path / "talk.srt").write_bytes(b"")
    with open(tmp_path / "talk.srt", "r+b") as opened:
        opened.truncate(2**24 + 1)
    with pytest.raises(DataError, match="at most 16777216"):
        transcripts.read_transcript(tmp_path / "talk.srt")
    for gone in (tmp_path / "none.srt", tmp_path / "folder.srt"):
        (tmp_path / "folder.srt").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="no such file"):
            transcripts.read_transcript(gone)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 120), st.sampled_from(["flip", "cut", "double"]), st.integers(0, 255))),
    st.sampled_from(["talk.srt", "talk.vtt", "talk.txt"]),
)
def test_damaged_transcripts(tmp_path_factory, damage, name):
    "Bytes changed, cut and doubled: cues with rising finite times and words, or one line that names the file."
    raw = bytearray(
        (
            ("WEBVTT\n\n" if name == "talk.vtt" else "")
            + CUE
            + "\n2\n00:00:02,500 --> 00:00:04,000\n<i>It</i> <00:00:03,000>is not.\n"
        ).encode()
    )
    for at, how, value in damage:
        at = at % max(1, len(raw))
        if how == "flip":
            raw[at : at + 1] = bytes([value])
        if how == "cut":
            del raw[at : at + value % 9]
        if how == "double":
            raw[at:at] = raw[at : at + value % 40]
    folder = tmp_path_factory.mktemp("damaged")
    try:
        cues = read(folder, bytes(raw), name)
    except DataError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error)
    else:
        assert cues and all(cue.text and cue.text.isprintable() for cue in cues)
        assert name == "talk.txt" or all(0 <= cue.start < cue.end < 4e6 for cue in cues)


# ---- where words are


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=1, max_size=12),
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.12, 2)), max_size=6),
    st.floats(0, 5),
    st.floats(0.1, 8),
)
def test_words_are_in_order_and_inside(words, pauses, start, lasts):
    quiet, at = [], 0.0
    for a, d in sorted(pauses):
        if a > at:
            quiet.append((a, a + d))
        at = max(at, a + d)
    rows = audio.word_times(words, start, start + lasts, np.array(quiet).reshape(-1, 2))
    assert [word for word, _, _ in rows if word] == words
    assert all(a <= b + 1e-9 for _, a, b in rows)
    assert all(b <= a + 1e-9 for (_, _, b), (_, a, _) in zip(rows, rows[1:], strict=False))
    assert rows[0][1] >= start - 1e-9 and rows[-1][2] <= start + lasts + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda t: transcripts._plain(t)), st.floats(0, 3), st.floats(0.01, 5))
def test_timing_is_finite_whatever_is_said(text, start, lasts):
    text = transcripts._plain(text)
    steps = audio.timing(
        transcripts.Cue(1, start, start + lasts, text), np.array([[start + lasts / 3, start + lasts / 2]])
    )
    assert steps.shape[1] == len(TIMING) and steps.isfinite().all() and steps.abs().max() <= 5


def test_the_word_sp_is_no_pause():
    steps = audio.timing(transcripts.Cue(1, 0.0, 1.0, "sp sp"), np.zeros((0, 2)))
    assert steps[:, TIMING.index("pause")].tolist() == [0, 0]


def test_words_timed_in_the_file_stay_where_they_are():
    cue = transcripts.Cue(1, 1.0, 3.0, "I really do", ((1.0, "I"), (2.5, "really do")))
    assert audio._said(cue) == [(1.0, 2.5, ["I"]), (2.5, 3.0, ["really", "do"])]


def test_silence_in_a_noisy_room():
    "Two seconds of noise as loud as speech, one of noise 20 dB below it, two again."
    noise = np.random.default_rng(0).normal(size=5 * audio.RATE).astype(np.float32)
    noise[2 * audio.RATE : 3 * audio.RATE] *= 0.1
    assert np.abs(audio.silences(noise) - [[2, 3]]).max() < 0.03
    for same in (np.zeros(audio.RATE, np.float32), noise[: audio.RATE]):
        assert len(audio.silences(same)) == 0


# ---- sound

soundfile = importlib.import_module("soundfile") if importlib.util.find_spec("soundfile") else None
needs_soundfile = pytest.mark.skipif(soundfile is None, reason="needs soundfile, of dmsil[recordings]")
needs_opensmile = pytest.mark.skipif(
    not importlib.util.find_spec("opensmile"), reason="needs opensmile, of dmsil[recordings]"
)
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")


def tone(seconds: float, rate: int, f: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * f * np.arange(round(seconds * rate)) / rate)


@needs_soundfile
@pytest.mark.parametrize(
    "rate, kind, channels, suffix",
    [
        (16_000, "PCM_16", 1, "wav"),
        (8_000, "PCM_U8", 1, "wav"),
        (44_100, "PCM_24", 2, "wav"),
        (48_000, "FLOAT", 6, "wav"),
        (22_050, "PCM_16", 1, "flac"),
        (44_100, "VORBIS", 2, "ogg"),
        (16_000, "ULAW", 1, "wav"),
    ],
)
def test_sound_of_any_rate(tmp_path, rate, kind, channels, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.repeat(tone(1.5, rate)[:, None], channels, 1), rate, subtype=kind)
    x, wanted = audio.read_audio(path), tone(1.5, audio.RATE)
    assert x.dtype == np.float32 and abs(len(x) - len(wanted)) <= 2
    inner = slice(2000, 20_000)
    assert np.abs(x[inner] - wanted[inner]).max() < 0.05


@needs_soundfile
def test_sound_that_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio.shutil, "which", lambda name: None)
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(100), 16_000)
    bad = {"x.wav: found 0.006 s": path}
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "slow.wav", np.zeros(8000), 100)
    bad |= {
        "samples that are not finite": tmp_path / "nan.wav",
        "no ffmpeg on the PATH": tmp_path / "text.wav",
        "no sound file": tmp_path / "empty.wav",
        "no such file": tmp_path,
        "100 samples a second": tmp_path / "slow.wav",
    }
    for found, file in bad.items():
        with pytest.raises(DataError, match=found):
            audio.read_audio(file)
    soundfile.write(path, np.zeros(40_000), 16_000)
    with pytest.raises(DataError, match="more than 2 s of sound"):
        audio.read_audio(path, longest=2)


@needs_soundfile
def test_a_header_that_promises_too_much(tmp_path):
    "A WAV of 0.5 s that declares 4 GB is read as what it holds."
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(0.5, 16_000), 16_000, subtype="PCM_16")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[4:8] = raw[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(raw)
    assert len(audio.read_audio(path)) == 8000


@needs_soundfile
@needs_ffmpeg
def test_video(tmp_path):
    "The first sound track of a container; a picture without sound, and a file that is none, are refused in one line."
    soundfile.write(tmp_path / "tone.wav", tone(1.5, 16_000), 16_000)
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1.5"]
    make = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
    subprocess.run(
        [
            *make,
            *picture,
            "-i",
            tmp_path / "tone.wav",
            "-c:v",
            "mpeg4",
            "-c:a",
            "aac",
            "-shortest",
            tmp_path / "-talk; echo 'a'.mp4",
        ],
        check=True,
    )
    subprocess.run([*make, *picture, "-c:v", "mpeg4", tmp_path / "mute.mp4"], check=True)
    x = audio.read_audio(tmp_path / "-talk; echo 'a'.mp4")
    assert abs(len(x) / audio.RATE - 1.5) < 0.1
    peak = np.abs(np.fft.rfft(x)).argmax() / len(x) * audio.RATE
    assert abs(peak - 440) < 2
    (tmp_path / "none.mp4").write_bytes(b"nothing" * 100)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    for name in ("mute.mp4", "none.mp4", "list.m3u8"):
        with pytest.raises(DataError, match=f"{name}: found ffmpeg") as error:
            audio.read_audio(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="more than 1 s of sound"):
        audio.read_audio(tmp_path / "-talk; echo 'a'.mp4", longest=1)


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"soundfile is not installed.*dmsil\[recordings\]"):
        audio.read_audio(tmp_path / "x.wav")


# ---- vision


@pytest.mark.parametrize(
    "content, found",
    [
        ("time,a\n0,1\n0.1\n", "line 3: found 1 cells"),
        ("time,a\n0,b\n", "line 2"),
        ("a,b\n0,1\n", "0 columns time"),
        ("time,a\n", "shape"),
        ("", "0 columns"),
        ("time,a\n0,nan\n", "not finite in row 0"),
        ("time\n0\n", "shape"),
        ("time,timestamp,a\n0,0,1\n", "2 columns"),
        ("time,a\n0,1e300\n", "not finite"),
    ],
)
def test_vision_tables_that_are_refused(tmp_path, content, found):
    (tmp_path / "v.csv").write_text(content)
    with pytest.raises(DataError, match=found):
        camera.read_vision(tmp_path / "v.csv")


def test_vision_arrays(tmp_path):
    values = np.array([[0.2, 1.0, 2.0], [0.1, 3.0, 4.0]], np.float32)
    np.save(tmp_path / "v.npy", values)
    assert np.array_equal(camera.read_vision(tmp_path / "v.npy"), values[::-1])
    rows = camera._between(camera.read_vision(tmp_path / "v.npy"), [(0.0, 0.15), (0.5, 1.0)])
    assert [row.tolist() for row in rows] == [[[3.0, 4.0]], [[0.0, 0.0]]]
    for bad in (np.array([{}, {}], object), np.zeros(3), np.array([["a", "b"]])):
        np.save(tmp_path / "bad.npy", bad, allow_pickle=True)
        with pytest.raises(DataError, match="bad.npy: vision"):
            camera.read_vision(tmp_path / "bad.npy")
    raw = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "huge.npy").write_bytes(raw.replace(b"(2, 3), }" + b" " * 14, b"(2000000000, 3), }     ", 1))
    with pytest.raises(DataError, match="huge.npy"):
        camera.read_vision(tmp_path / "huge.npy")


# ---- saved recordings


def recording(
    name: str = "day", n: int = 6, seed: int = 0, labelled: bool = True, width: int = 88, parts: tuple = ()
) -> rec.Recording:
    g = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=g) * 4 - 2 if labelled else torch.full((n,), math.nan)
    steps = Steps(torch.randn(n, 5, 8, generator=g), torch.arange(n) % 5 + 1)
    inputs = {
        "text": rec.Texts(tuple(f"clip {k}" for k in range(n))),
        "audio": rec.Vectors(100 + 7 * torch.randn(n, width, generator=g)),
        "timing": steps,
    }
    start = torch.arange(n).float()
    return rec.Recording(
        name, start, start + 1, rec.Split(tuple(f"{name}_{k}" for k in range(1, n + 1)), inputs, labels), parts
    )


def test_saved_and_read(tmp_path):
    one = recording(parts=("train",) * 6)
    again = rec.load_recording(rec.save_recording(one, tmp_path / "new" / "day.safetensors"))
    assert (
        again.parts == one.parts
        and again.clips.ids == one.clips.ids
        and torch.equal(again.clips.labels, one.clips.labels)
    )
    assert torch.equal(again.clips.inputs["timing"].lengths, one.clips.inputs["timing"].lengths)
    with pytest.raises(DataError, match="ending in"):
        rec.save_recording(one, tmp_path / "day.pkl")


def test_damaged_files(tmp_path):
    "Every byte position of the head and a tenth of the others, cut or changed: the same recording in shape, or one line."
    raw = rec.save_recording(recording(), tmp_path / "day.safetensors").read_bytes()
    rng, path, kept = np.random.default_rng(0), tmp_path / "bad.safetensors", 0
    for at in [*range(0, 1200, 3), *rng.integers(1200, len(raw), 200)]:
        for new in (raw[:at], raw[:at] + bytes([raw[at] ^ (1 << int(rng.integers(8)))]) + raw[at + 1 :]):
            path.write_bytes(new)
            try:
                found = rec.load_recording(path)
            except DataError as error:
                assert str(error).startswith("bad.safetensors: ") and "\n" not in str(error)
            else:
                kept += 1
                assert len(found) == 6 and all(len(x) == 6 for x in found.clips.inputs.values())
    assert kept > 50


# ---- training on recordings


def folder_of(tmp_path: Path, *recordings: rec.Recording) -> Path:
    for one in recordings:
        rec.save_recording(one, tmp_path / "days" / f"{one.name}.safetensors")
    return tmp_path / "days"


def test_recordings_go_whole_to_a_split(tmp_path):
    clips = rec.recorded_clips(
        folder_of(tmp_path, *(recording(f"day{k}", seed=k) for k in range(7)), recording("other", labelled=False))
    )
    videos = [{clip.rpartition("_")[0] for clip in split.ids} for split in clips.splits.values()]
    assert all(videos) and len(set.union(*videos)) == sum(map(len, videos)) == 7
    x = clips.train.inputs["audio"].values
    assert x.mean(0).abs().max() < 1e-5 and (x.std(0, correction=0) - 1).abs().max() < 1e-4
    mean, std = (torch.tensor(m) for m in clips.scale["audio"])
    raw = torch.cat([recording(f"day{k}", seed=k).clips.inputs["audio"].values for k in range(7)])
    ids = [f"day{k}_{i}" for k in range(7) for i in range(1, 7)]
    want = ((raw[ids.index(clips.test.ids[0])] - mean) / std).clamp(-5, 5)
    assert torch.allclose(clips.test.inputs["audio"].values[0], want, atol=1e-4)
    assert "6 clips without a label left out" in clips.notes
    as_run = rec.open_data(tmp_path / "days", {"audio": ([100.0] * 88, [70.0] * 88)})
    assert torch.allclose(
        as_run.test.inputs["audio"].values[0], (raw[ids.index(clips.test.ids[0])] - 100) / 70, atol=1e-5
    )


def test_scaling_skips_what_was_not_seen():
    x = Steps(
        torch.tensor([[[1.0, 5.0], [3.0, 5.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]), torch.tensor([2, 1])
    )
    mean, std = rec._moments(x)
    assert (mean, std) == ([2.0, 5.0], [1.0, 0.0])
    assert rec.scaled(x, (mean, std)).values[:, :2].tolist() == [[[-1, 0], [1, 0]], [[0, 0], [0, 0]]]


def test_folders_that_are_refused(tmp_path):
    two = [recording(f"day{k}") for k in range(2)]
    cases = {
        "found 2 recordings with labels": two,
        "dmsil features --labels": [recording(labelled=False)],
        "splits in 1 of 3": [*two, recording("c", parts=("train",) * 6)],
        "test: found no clip": [recording(parts=("train",) * 5 + ("valid",))],
        "audio: found vectors of width 88 and vectors of width 9": [*two, recording("c", width=9)],
    }
    for k, (found, days) in enumerate(cases.items()):
        with pytest.raises(DataError, match=found):
            rec.recorded_clips(folder_of(tmp_path / str(k), *days))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no .safetensors"):
        rec.open_data(tmp_path / "empty")
    assert rec.open_data("synthetic", seed=1).name == "synthetic"


@pytest.mark.parametrize(
    "content, found",
    [
        ("a,b\n1,2", "heading"),
        ("cue,label\n9,1", "line 2"),
        ("cue,label\n1,x", "line 2"),
        ("cue,label\n1,4", "within ±3"),
        ("cue,label\n1,nan", "within ±3"),
        ("cue,label,split\n1,1,dev", "train, valid or test"),
        ("", "heading"),
    ],
)
def test_label_tables_that_are_refused(tmp_path, content, found):
    (tmp_path / "y.csv").write_text(content)
    with pytest.raises(DataError, match=found):
        rec._labelled(tmp_path / "y.csv", [transcripts.Cue(1, 0, 1, "a"), transcripts.Cue(2, 1, 2, "b")], [])


def test_only_some_modalities():
    clips = dmsil.synthetic_clips(n=(20, 10, 10), seed=0)
    assert clips.only("vision", "text").modalities == ("vision", "text")
    with pytest.raises(DataError, match="found smell; expected text or audio or vision"):
        clips.only("smell")


# ---- real speech


def spoken(folder: Path, sentences, pitches=None, name: str = "talk") -> list[tuple[float, float]]:
    "espeak-ng says the sentences; a WAV, an SRT, and when each sentence is."
    sound, spans, n, blocks = [], [], 0, []
    clock = lambda t: f"00:{int(t // 60):02}:{int(t % 60):02},{int(t * 1000 % 1000):03}"
    for k, sentence in enumerate(sentences):
        path = folder / f"_{k}.wav"
        subprocess.run(
            ["espeak-ng", "-v", "en-us", "-p", str(pitches[k] if pitches else 50), "-w", path, sentence], check=True
        )
        x, rate = soundfile.read(path)
        path.unlink()
        spans.append((n / rate, (n + len(x)) / rate))
        blocks.append(f"{k + 1}\n{clock(spans[-1][0])} --> {clock(spans[-1][1])}\n{sentence}\n")
        sound += [x, np.zeros(rate // 2)]
        n += len(x) + rate // 2
    soundfile.write(folder / f"{name}.wav", np.concatenate(sound), rate)
    (folder / f"{name}.srt").write_text("\n".join(blocks))
    return spans


SENTENCES = (
    "The acting is wonderful, and the story moved me to tears.",
    "But the second half is far too long.",
    "I would watch it again tomorrow.",
)


@needs_espeak
@needs_opensmile
def test_speech_in_a_video_with_plain_text(tmp_path):
    "The same clips from WAV and SRT, from a video container, and, within 0.15 s, from the text alone."
    spans = spoken(tmp_path, SENTENCES)
    one = rec.features(tmp_path / "talk.wav", tmp_path / "talk.srt")
    assert one.clips.inputs["text"].strings == SENTENCES and one.clips.ids == ("talk_1", "talk_2", "talk_3")
    assert one.clips.inputs["audio"].values.shape == (3, 88) and one.clips.labels.isnan().all()
    pitch = one.clips.inputs["audio"].values[:, audio.voice_columns().index("F0semitoneFrom27.5Hz_sma3nz_amean")]
    assert ((pitch > 12) & (pitch < 40)).all()
    pauses = [
        int(x[:k, 0].sum())
        for x, k in zip(one.clips.inputs["timing"].values, one.clips.inputs["timing"].lengths.tolist(), strict=True)
    ]
    assert pauses[0] >= 1 and len(one.clips.inputs["timing"].values[0]) >= 12
    (tmp_path / "talk.txt").write_text("\n".join(SENTENCES))
    plain = rec.features(tmp_path / "talk.wav", tmp_path / "talk.txt")
    assert np.abs(plain.start.numpy() - [a for a, _ in spans]).max() < 0.15
    if shutil.which("ffmpeg"):
        picture = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=9"]
        subprocess.run(
            [
                "ffmpeg",
                "-nostdin",
                "-v",
                "error",
                *picture,
                "-i",
                tmp_path / "talk.wav",
                "-c:v",
                "mpeg4",
                "-c:a",
                "flac",
                tmp_path / "talk.mkv",
            ],
            check=True,
        )
        video = rec.features(tmp_path / "talk.mkv", tmp_path / "talk.srt")
        moved = (video.clips.inputs["audio"].values[:, 0] - one.clips.inputs["audio"].values[:, 0]).abs()
        assert moved.max() < 0.2, "pitch in semitones"


@needs_soundfile
def test_without_opensmile(tmp_path, monkeypatch):
    "Text and timing need no opensmile."
    monkeypatch.setitem(sys.modules, "opensmile", None)
    audio._smile.cache_clear()
    soundfile.write(tmp_path / "x.wav", tone(3, 16_000), 16_000)
    (tmp_path / "x.srt").write_text(CUE)
    assert list(rec.features(tmp_path / "x.wav", tmp_path / "x.srt", audio=False).clips.inputs) == ["text", "timing"]
    with pytest.raises(DataError, match="opensmile is not installed"):
        rec.features(tmp_path / "x.wav", tmp_path / "x.srt")


@needs_espeak
@needs_opensmile
def test_cues_beyond_the_end(tmp_path):
    spoken(tmp_path, SENTENCES[:1])
    (tmp_path / "late.srt").write_text(CUE.replace("02,000", "59,000") + "\n2\n00:01:00,000 --> 00:01:02,000\nlate\n")
    with pytest.raises(DataError, match=r"late.srt: cue 2: found a start at 60 s; expected one before talk.wav ends"):
        rec.features(tmp_path / "talk.wav", tmp_path / "late.srt")
    (tmp_path / "long.srt").write_text(CUE.replace("02,000", "59,000"))
    one = rec.features(tmp_path / "talk.wav", tmp_path / "long.srt")
    assert one.end[0] < 10


@needs_espeak
@needs_opensmile
@pytest.mark.slow
def test_voice_alone_is_learned_from_own_recordings(tmp_path, capsys):
    "The words say nothing, the pitch of real synthetic speech says all: a model trained on own recordings hears it in a new one."
    from dmsil.cli import main

    rng, command = np.random.default_rng(1), lambda *words: main([str(word) for word in words])
    for k in range(7):
        pitches = rng.integers(0, 100, 12).tolist()
        spoken(tmp_path, [SENTENCES[i] for i in rng.integers(0, 3, 12)], pitches, f"day{k}")
        truth = [(p - 50) / 20 for p in pitches]
        (tmp_path / "y.csv").write_text("cue,label\n" + "\n".join(f"{i},{v}" for i, v in enumerate(truth, 1)))
        labels = ["--labels", tmp_path / "y.csv"] if k < 6 else []
        out = tmp_path / ("days" if k < 6 else ".") / f"day{k}.safetensors"
        command("features", tmp_path / f"day{k}.wav", tmp_path / f"day{k}.srt", *labels, "--out", out)
    many = ("--epochs", 60, "--patience", 60, "--batch-size", 8, "--device", "cpu")
    command("train", "--data", tmp_path / "days", "--frozen", *many, "--out", tmp_path / "run")
    command("evaluate", tmp_path / "run")
    capsys.readouterr()
    command("predict", tmp_path / "run", tmp_path / "day6.safetensors", "--out", tmp_path / "day6.json")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 14 and said[-2].startswith("labels from -3 to 3; test MAE of this run ")
    found = [row["prediction"] for row in json.loads((tmp_path / "day6.json").read_text())["cues"]]
    assert np.corrcoef(found, truth)[0, 1] > 0.8
    command("predict", tmp_path / "run", tmp_path / "day6.safetensors", "--out", tmp_path / "day6.csv")
    assert (
        (tmp_path / "day6.csv")
        .read_text()
        .startswith("clip,start,end,prediction,text_alone,audio_alone,timing_alone,words")
    )


@needs_opensmile
def test_commands_answer_in_one_line(tmp_path, capsys):
    from dmsil.cli import main

    soundfile.write(tmp_path / "x.wav", tone(1, 16_000), 16_000)
    (tmp_path / "x.srt").write_text(CUE)
    (tmp_path / "bad.srt").write_text("hello")
    rec.save_recording(recording(), tmp_path / "day.safetensors")
    calls = (
        ("features", "x.wav", "bad.srt"),
        ("features", "none.wav", "x.srt"),
        ("features", "x.wav", "x.srt", "--out", "x.npz"),
        ("predict", ".", "day.safetensors"),
        ("predict", ".", "x.wav"),
        ("predict", ".", "day.safetensors", "--out", "day.txt"),
        ("train", "--data", "day.safetensors", "--out", "run"),
        ("train", "--modalities", "smell", "--out", "run"),
    )
    for words in calls:
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / word) if "." in word or word == "run" else word for word in words])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("dmsil: ") and said.count("\n") == 1, (words, said)
    assert not (tmp_path / "run").exists() and not (tmp_path / "x.npz").exists()
    main(["features", str(tmp_path / "x.wav"), str(tmp_path / "x.srt"), "--out", str(tmp_path / "x.safetensors")])
    assert (
        capsys.readouterr().out
        == f"1 cues, 0.5 s, 0 with a label; text, audio, timing; saved in {tmp_path}/x.safetensors\n"
    )


def test_a_run_says_what_it_needs(tmp_path):
    "Missing modalities, other widths, a run that scaled by nothing."
    days = folder_of(tmp_path, *(recording(f"day{k}", seed=k) for k in range(4)))
    clips = rec.recorded_clips(days).only("audio", "timing")
    dmsil.fit(clips, "dmsil", tmp_path / "run", progress=False, epochs=1, batch_size=6, device="cpu")
    new = recording("new", seed=9)
    rows = new.timed(predict_clips(tmp_path / "run", new.clips))
    assert [*rows[0]] == ["clip", "start", "end", "prediction", "audio_alone", "timing_alone", "words"] and len(
        rows
    ) == 6
    with pytest.raises(DataError, match="vectors of width 9; expected vectors of width 88"):
        predict_clips(tmp_path / "run", recording(width=9).clips)
    one = recording()
    del one.clips.inputs["timing"]
    with pytest.raises(
        DataError, match="timing: found none among text, audio; expected timing, which run was trained on"
    ):
        predict_clips(tmp_path / "run", one.clips)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["clips"].pop("scale")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="found no scale"):
        predict_clips(tmp_path / "run", recording().clips)
