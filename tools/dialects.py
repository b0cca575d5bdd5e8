"""Files as people bring them, for fuzz.py: what is right about each is written into the clips' names, so that a wrong reading shows.

A clip is called clip3_L-1.5 if its label is −1.5, clip3_Csad if its class is sad, and clip3_L1_M where it has no audio.
"""

import csv
import importlib.util
import io
import json
import pickle
import random
import re
from pathlib import Path

import numpy as np
from safetensors.torch import save

from dmsil.audio import read_audio
from dmsil.checkpoints import load_model
from dmsil.clips import Clips
from dmsil.model import ModelConfig, MultimodalModel, Spec
from dmsil.pickles import load_clips
from dmsil.tables import clips_from_table
from dmsil.transcripts import read_transcript

soundfile = importlib.import_module("soundfile") if importlib.util.find_spec("soundfile") else None
CLASSES = (
    ("negative", "neutral", "positive"),
    ("sad", "glad", "angry"),
    ("0", "1"),
    ("-1", "0", "1"),
    ("坏", "好"),
    ("A b", "c,d"),
)


def wrong(clips: Clips) -> str:
    "A clip whose label, class or missing modality isn't the one in its name."
    for split in clips.splits.values():
        for row, name in enumerate(split.ids):
            y, there = split.labels[row].item(), split.present.get("audio")
            if (found := re.search(r"_L(-?[\d.]+)", name)) and abs(y - float(found[1])) > 1e-5:
                return f"{name} has the label {y:g}"
            if (found := re.search(r"_C([^_]+)", name)) and (
                not clips.classes or clips.classes[int(y)].lower() != found[1].lower()
            ):
                return f"{name} has the label {y:g} of {clips.classes}"
            if "_M" in name and (there is None or there[row]) or "_H" in name and there is not None and not there[row]:
                return f"{name}: audio there or not"
    return ""


# ---------------------------------------------------------------- CSV dialects


def rows(rng: random.Random, kind: str) -> list[dict]:
    "Clips with a label that their name tells."
    n, names = rng.choice((12, 20)), rng.choice(CLASSES)
    out = []
    for k in range(n):
        label = names[k % len(names)] if kind == "classes" else f"{rng.randrange(-30, 31) / 10:g}"
        out.append(
            {
                "id": f"clip{k}_{'C' if kind == 'classes' else 'L'}{label}",
                "text": f"it was, well, number {k}",
                "label": label,
                "group": f"speaker{k % 4}",
            }
        )
    return out


def dialect(rng: random.Random, kind: str) -> bytes:
    "A table as some spreadsheet or tool would write it."
    table, sign = rows(rng, kind), rng.choice((",", ",", ";", "\t"))
    names = list(table[0])
    rng.shuffle(names)
    if rng.random() < 0.3:
        names.append("remark")
    if rng.random() < 0.2:
        called = rng.choice(("sentiment", "Label_", "score", "emotion"))
        names[names.index("label")] = called
        table = [{**row, called: row["label"]} for row in table]
    if kind != "classes" and sign != "," and rng.random() < 0.7:
        table = [{k: v.replace(".", ",") if k not in ("id", "text") else v for k, v in row.items()} for row in table]
    out = io.StringIO()
    ends, quoting = rng.choice(("\n", "\r\n")), rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    write = csv.DictWriter(
        out, names, delimiter=sign, lineterminator=ends, quoting=quoting, extrasaction="ignore", restval="so"
    )
    write.writeheader()
    write.writerows(table)
    text = out.getvalue()
    if rng.random() < 0.3:
        text = ends.join(line + sign if line else line for line in text.split(ends))  # a cell too many, and empty
    if rng.random() < 0.3:
        text = text.replace(ends, ends + ends, rng.randrange(1, 4))
    if rng.random() < 0.3:
        text = text.replace("L-", "L−").replace("L−", "L-") if rng.random() < 0.5 else text.rstrip()
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))


def table_of(path: Path, folder: Path):
    "The table, with honest arrays; whole numbers as numbers, or as classes where its names say so."
    raw = path.read_bytes()
    n = max(raw.count(b"clip"), 1)
    return clips_from_table(path, {"voice": np.ones((n, 3), np.float32)}, task="classes" if b"_C" in raw else None)


def true(read):
    "A reader of whole files: what it reads is what the names say."

    def checked(path: Path, folder: Path):
        clips = read(path, folder)
        if said := wrong(clips):
            raise AssertionError(said)
        return clips

    return checked


# ---------------------------------------------------------------- pickles: classes and presence


def masks(rng: random.Random, draw: np.random.Generator, sizes=(8, 4, 4)) -> bytes:
    "Audio that some clips lack, in one of the ways to say so."
    table, way = {}, rng.choice(("nan", "none", "empty", "length", "mask"))
    for name, n in zip(("train", "valid", "test"), sizes, strict=True):
        gone = draw.random(n) < 0.4
        gone[0] = False
        labels = draw.uniform(-3, 3, n).round(1)
        audio = draw.normal(size=(n, 4, 3)).astype(np.float32)
        fields = {
            "id": [f"{name}{k}_L{labels[k]:g}_{'M' if gone[k] else 'H'}" for k in range(n)],
            "vision": draw.normal(size=(n, 4, 2)),
            "regression_labels": labels,
        }
        if way == "nan":
            audio[gone] = np.nan
        if way == "length":
            fields["audio_lengths"] = np.where(gone, 0, 4)
        if way == "mask":
            fields["audio_present"] = rng.choice((list, np.array))((~gone).astype(int).tolist())
        if way in ("none", "empty"):
            audio = [
                (None if way == "none" else audio[k][:0].tolist()) if gone[k] else audio[k].tolist() for k in range(n)
            ]
        table[name] = fields | {"audio": audio}
    return pickle.dumps(table, rng.randrange(2, 6))


def classed(rng: random.Random, draw: np.random.Generator, sizes=(12, 6, 6)) -> bytes:
    "Classes, in one of the ways that pickles have them."
    names = rng.choice([names for names in CLASSES if "," not in names[1]])
    table, way = {}, rng.choice(("words", "array", "numbers", "annotations", "one-hot", "column"))
    names = ("negative", "neutral", "positive") if way == "numbers" else names
    for name, n in zip(("train", "valid", "test"), sizes, strict=True):
        k = np.arange(n) % len(names)
        words = [names[j] for j in k]
        fields = {"id": [f"{name}{j}_C{word}" for j, word in enumerate(words)], "vision": draw.normal(size=(n, 4, 2))}
        fields |= {
            "words": lambda words=words: {"labels": words},
            "array": lambda words=words: {"labels": np.array(words)},
            "numbers": lambda k=k: {"classification_labels": k.astype(rng.choice((int, float, np.float32)))},
            "annotations": lambda k=k, words=words: {"classification_labels": k, "annotations": words},
            "one-hot": lambda k=k: {"labels": np.eye(len(names))[k], "label_names": list(names)},
            "column": lambda words=words: {"annotations": words},
        }[way]()
        table[name] = fields
    return pickle.dumps(table, rng.randrange(2, 6))


def pickle_of(path: Path, folder: Path):
    return load_clips(path)


# ---------------------------------------------------------------- transcripts


def stamp(t: float, sign=",") -> str:
    return f"{int(t // 3600):02}:{int(t // 60) % 60:02}:{int(t) % 60:02}{sign}{round(t % 1 * 1000):03}"


def spoken(rng: random.Random) -> tuple[str, bytes]:
    "Eight cues, cue k says k, as some tool would write them: its ending and its bytes."
    first, k = rng.choice((0, 1, 2, 7)), rng.choice((3, 8))
    cues = [(j + first, j * 2 + 0.5, j * 2 + 1.75, f"it was cue {j + first}") for j in range(k)]
    end = rng.choice(("\n", "\r\n"))
    way = rng.choice(("srt", "vtt", "json", "tsv", "list", "cpp", "words"))
    if way == "srt":
        said = (end * rng.choice((2, 2, 3))).join(
            f"{n}{end}{stamp(a)} --> {stamp(b)}{end}{rng.choice(('', '<i>'))}{text}" for n, a, b, text in cues
        )
        return "srt", rng.choice((b"", b"\xef\xbb\xbf")) + said.encode()
    if way == "vtt":
        head = rng.choice(
            ("WEBVTT", "WEBVTT - made by hand", "WEBVTT\nKind: captions", "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000")
        ).replace("\n", end)
        said = (end * 2).join(
            f"{stamp(a, '.')} --> {stamp(b, '.')}{rng.choice(('', ' align:start'))}{end}it was cue {j + 1}"
            for j, (_, a, b, _) in enumerate(cues)
        )
        return "vtt", f"{head}{end * rng.choice((1, 2))}{said}{end}".encode()
    segments = [{"id": j, "start": a, "end": b, "text": f" it was cue {j}"} for j, (_, a, b, _) in enumerate(cues)]
    if way == "words":
        for each in segments:
            each["words"] = [{"word": " it", "start": each["start"], "end": each["start"] + 0.2}, {"word": " was"}]
    if way == "tsv":
        lines = [f"{round(1000 * a)}\t{round(1000 * b)}\tit was cue {j + 1}" for j, (_, a, b, _) in enumerate(cues)]
        return "tsv", end.join(["start\tend\ttext", *lines, ""]).encode()
    if way == "cpp":
        spans = [
            {"offsets": {"from": round(1000 * a), "to": round(1000 * b)}, "text": f" it was cue {j + 1}"}
            for j, (_, a, b, _) in enumerate(cues)
        ]
        return "json", json.dumps({"transcription": spans}).encode()
    return "json", json.dumps(
        segments if way == "list" else {"text": "it", "segments": segments, "language": "en"},
        indent=rng.choice((None, 2)),
    ).encode()


def transcript_of(path: Path, folder: Path):
    "Cues whose words are whole say their own number, which also tells their place."
    cues = read_transcript(path)
    for cue in cues:
        if (found := re.fullmatch(r"it was cue (\d+)", cue.text)) and int(found[1]) != cue.number:
            raise AssertionError(f"cue {cue.number} says {found[1]}")
    return cues


# ---------------------------------------------------------------- sound


def sound(rng: random.Random) -> bytes:
    "A second of a tone of 440 Hz in some format."
    kinds = [("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")]
    kinds += [
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("CAF", "PCM_16"),
    ]
    (form, kind), rate, channels = (
        rng.choice(kinds),
        rng.choice((8000, 16000, 22050, 44100, 48000)),
        rng.choice((1, 1, 2, 6)),
    )
    x = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * rng.choice((0.05, 0.3, 0.9))
    x = x * 32768 if kind in ("FLOAT", "DOUBLE") and rng.random() < 0.3 else x
    x = np.stack([x] * channels, 1)
    if channels > 1 and rng.random() < 0.3:
        x[:, 1:] = 0
    out = io.BytesIO()
    soundfile.write(out, x, rate, format=form, subtype=kind)
    return out.getvalue()


def tone_of(path: Path, folder: Path):
    "The tone, at 16,000 samples a second and within ±1."
    x = read_audio(path)
    peak = np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * 16_000 / len(x)
    if not abs(peak - 440) < 3 or not 0.95 < len(x) / 16_000 < 1.05 or np.abs(x).max() > 1.05:
        raise AssertionError(f"{peak:.0f} Hz, {len(x)} samples, up to {np.abs(x).max():.2f}")
    return x[:, None]


def sound_of(path: Path, folder: Path):
    return read_audio(path)[:, None]


# ---------------------------------------------------------------- saved runs


def saved() -> tuple[dict, bytes]:
    "config.json and model.safetensors of a small model."
    shape, options = (
        {"voice": Spec("vectors", 3), "face": Spec("steps", 2)},
        {"hidden": 4, "encoded": 3, "aligned": 2, "classes": 3},
    )
    model = MultimodalModel(ModelConfig(**options), shape)
    about = {
        "name": "a.pkl",
        "dataset": "mosi",
        "bound": 2.0,
        "scale": {},
        "columns": {},
        "notes": [],
        "classes": ["a", "b", "c"],
        "opened": {},
    }
    return {"model": options, "train": {"labels": "copy", "seed": 3}, "specs": shape, "clips": about}, save(
        model.state_dict()
    )


CONFIG, WEIGHTS = saved()


def version(rng: random.Random) -> bytes:
    "config.json of another version: a key gone, renamed, new, or of another kind."
    config = json.loads(json.dumps(CONFIG))
    for _ in range(rng.choice((1, 1, 2))):
        part = rng.choice(
            [config, config["model"], config["clips"], config["specs"], config["train"]]
            if isinstance(config.get("specs"), dict) and all(isinstance(config.get(k), dict) for k in CONFIG)
            else [config]
        )
        key = rng.choice(sorted(part) or ["none"])
        strange = rng.choice(
            (
                None,
                1,
                -1,
                0,
                10**30,
                1e300,
                "x",
                [],
                {},
                [1],
                True,
                {"a": 1},
                ["vectors"],
                ["vectors", "3"],
                ["steps", -2],
                ["odd", 2],
                ["a"],
                [["a"]] * 3,
                "𝕏" * 99,
                -0.5,
            )
        )
        if rng.random() < 0.3:
            part.pop(key, None)
        elif rng.random() < 0.3:
            part[f"{key}_new"] = part.get(key)
        else:
            part[key] = strange
    return json.dumps(config).encode()


def run_of(path: Path, folder: Path):
    "The saved run with this config.json, or these weights."
    place = folder / "run"
    if not place.is_dir():
        place.mkdir()
    raw = path.read_bytes()
    (place / "config.json").write_bytes(raw if path.suffix == ".json" else json.dumps(CONFIG).encode())
    (place / "model.safetensors").write_bytes(WEIGHTS if path.suffix == ".json" else raw)
    model, _ = load_model(place)
    return model
