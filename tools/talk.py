"""What a model trained on CMU-MOSI says about speech that it never heard: python tools/talk.py RUN, into results/talk.json

RUN is the folder of `dmsil train --data mosi --modalities text timing --preset dmsil --seed 1111 --epochs 8 --out RUN`. The speech is
made by espeak-ng (apt-get install espeak-ng), whose library also tells when each word begins. First a talk of six sentences, from its
WAV and SRT to a prediction; then the 686 test clips of CMU-MOSI, spoken again as one recording of about an hour, with pauses where
their speakers made them.
"""

import ctypes
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, machine, store

from dmsil.audio import RATE, place_lines, read_audio, silences, word_times
from dmsil.checkpoints import load_model
from dmsil.corpora import load_mosi
from dmsil.metrics import sentiment_metrics
from dmsil.model import prepare
from dmsil.prediction import evaluate, predict_clips
from dmsil.recordings import features, load_recording, save_recording
from dmsil.transcripts import read_transcript

RESULT = RESULTS / "talk.json"
TALK = (
    "I went to see it on Friday night.",
    "The acting is wonderful, and the story moved me to tears.",
    "But the second half is far too long.",
    "The jokes are stale, and the ending is just terrible.",
    "Still, the music is beautiful.",
    "I would watch it again tomorrow.",
)
LINES = 40


class _Event(ctypes.Structure):
    "espeak_EVENT: its kind, where in the text, and when in the sound, in milliseconds."

    _fields_ = [(name, ctypes.c_int) for name in ("kind", "uid", "place", "length", "when", "sample")]
    _fields_ += [("user", ctypes.c_void_p), ("id", ctypes.c_char * 8)]


_HEAR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Voice:
    "espeak-ng's library."

    def __init__(self, voice: str = "en-us"):
        self.lib = ctypes.CDLL("libespeak-ng.so.1")
        self.rate, self.callback = self.lib.espeak_Initialize(2, 0, None, 0), _HEAR(self._hear)
        self.lib.espeak_SetSynthCallback(self.callback)
        if self.lib.espeak_SetVoiceByName(voice.encode()):
            sys.exit(f"espeak-ng has no voice {voice}")

    def _hear(self, sound, n, events):
        if sound and n:
            self.sound.append(np.ctypeslib.as_array(sound, (n,)).copy())
        while events[0].kind:
            if events[0].kind == 1:
                self.words.append((events[0].place - 1, events[0].when / 1000))
            events = ctypes.cast(ctypes.addressof(events[0]) + ctypes.sizeof(_Event), ctypes.POINTER(_Event))
        return 0

    def __call__(self, sentence: str) -> tuple[np.ndarray, list[tuple[int, float]]]:
        "Samples at `rate`; (letter of the text, seconds) of each word."
        self.sound, self.words = [], []
        raw = sentence.encode() + b"\0"
        self.lib.espeak_Synth(raw, len(raw), 0, 1, 0, 1, None, None)
        return np.concatenate(self.sound).astype(np.float32) / 2**15, self.words


def clock(t: float) -> str:
    s = round(1000 * t)
    return f"{s // 3_600_000:02}:{s // 60_000 % 60:02}:{s // 1000 % 60:02},{s % 1000:03}"


def record(voice: Voice, clips, folder: Path, name: str, gap: float = 0.4) -> list[list[tuple[int, float]]]:
    "NAME.wav and NAME.srt of clips, each a list of (phrase, silence after it); when each word begins."
    import soundfile

    sound, blocks, truth, n = [], [], [], 0
    for k, phrases in enumerate(clips, 1):
        start, place, words = n, 0, []
        for phrase, rest in phrases:
            x, said = voice(phrase)
            words += [(place + at, n / voice.rate + when) for at, when in said]
            sound += [x, np.zeros(int(rest * voice.rate), np.float32)]
            place, n = place + len(phrase) + 1, n + len(x) + len(sound[-1])
        truth.append(words)
        blocks.append(
            f"{k}\n{clock(start / voice.rate)} --> {clock(n / voice.rate)}\n{' '.join(phrase for phrase, _ in phrases)}\n"
        )
        sound.append(np.zeros(int(gap * voice.rate), np.float32))
        n += len(sound[-1])
    soundfile.write(folder / f"{name}.wav", np.concatenate(sound), voice.rate)
    (folder / f"{name}.srt").write_text("\n".join(blocks), encoding="utf-8")
    return truth


def paused(text: str, steps) -> list[tuple[str, float]]:
    "A transcript cut where its speaker paused for 0.2 s or longer, by the timing of CMU-MOSI."
    words, phrases, done, count = text.split() or ["-"], [], 0, 0
    for pause, duration in steps[:, :2].tolist():
        if not pause:
            count += 1
        elif 0.2 * np.exp(duration) >= 0.2 and done < count < len(words):
            phrases.append((" ".join(words[done:count]), 0.2 * float(np.exp(duration))))
            done = count
    return [*phrases, (" ".join(words[done:]), 0.0)]


def word_errors(cues, truth, quiet) -> np.ndarray:  # seconds
    "How far each word's start is from the synthesiser's, where both name the word."
    found = []
    for cue, said in zip(cues, truth, strict=True):
        places, at = [], 0
        for word in cue.text.split():
            at = cue.text.index(word, at)
            places.append(at)
            at += len(word)
        starts = [a for word, a, _ in word_times(cue.text.split(), cue.start, cue.end, quiet) if word]
        said = dict(reversed(said))
        found += [abs(a - said[place]) for place, a in zip(places, starts, strict=True) if place in said]
    return np.array(found)


def line_errors(cues, x) -> np.ndarray:  # seconds
    "How far each line's start is, where the transcript has no times."
    found = place_lines([replace(cue, start=math.nan, end=math.nan) for cue in cues], x)
    return np.array([abs(a.start - b.start) for a, b in zip(found, cues, strict=True)])


def spread(errors: np.ndarray) -> dict:
    return {
        "found": len(errors),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "p90": float(np.percentile(errors, 90)),
    }


def talk(voice: Voice, folder: Path, run: Path) -> dict:
    "Six sentences, as the three commands do it."
    record(voice, [[(sentence, 0.0)] for sentence in TALK], folder, "talk")
    save_recording(features(folder / "talk.wav", folder / "talk.srt"), folder / "talk.safetensors")
    talk = load_recording(folder / "talk.safetensors")
    rows = talk.timed(predict_clips(run, talk.clips))
    cues, x = read_transcript(folder / "talk.srt"), read_audio(folder / "talk.wav")
    return {"rows": rows, "seconds_of_sound": len(x) / RATE, "line_starts_without_times": spread(line_errors(cues, x))}


def spoken_again(voice: Voice, folder: Path, run: Path) -> dict:
    "CMU-MOSI's test clips in another voice: how well words are placed, and what the change of voice costs."
    clips = load_mosi()
    texts, steps = clips.test.inputs["text"].strings, clips.test.inputs["timing"]
    spoken = [paused(text, x[:k]) for text, x, k in zip(texts, steps.values, steps.lengths, strict=True)]
    truth = record(voice, spoken, folder, "mosi")
    recording = features(folder / "mosi.wav", folder / "mosi.srt")
    cues, x = read_transcript(folder / "mosi.srt"), read_audio(folder / "mosi.wav")
    noisy = x + (np.random.default_rng(0).normal(size=len(x)) * np.sqrt((x**2).mean() / 100)).astype(np.float32)
    words = {"silences": silences(x), "silences, noise at 20 dB": silences(noisy), "letters alone": np.zeros((0, 2))}
    model, about = load_model(run)
    real = evaluate(model, prepare(clips, model.config).test, about["clips"]["dataset"])
    again = sentiment_metrics(
        np.array([row["prediction"] for row in predict_clips(run, recording.clips)]), clips.test.labels
    )
    keep = ("MAE", "Corr", "Has0_acc_2")
    return {
        "clips": len(spoken),
        "pauses": sum(map(len, spoken)) - len(spoken),
        "seconds_of_sound": len(x) / RATE,
        "word_starts": {name: spread(word_errors(cues, truth, quiet)) for name, quiet in words.items()},
        "line_starts_without_times": spread(line_errors(cues[:LINES], x[: round((cues[LINES].start - 0.2) * RATE)])),
        "own_timing": {k: real[k] for k in keep},
        "spoken_again": {k: again[k] for k in keep},
    }


def main(run: Path) -> None:
    voice = Voice()
    with tempfile.TemporaryDirectory() as folder:
        config = load_model(run)[1]["train"]
        found = {
            "machine": machine(),
            "voice": "espeak-ng, en-us",
            "train": {k: config[k] for k in ("preset", "seed", "epochs")},
            "talk": talk(voice, Path(folder), run),
            "mosi_test": spoken_again(voice, Path(folder), run),
        }
    store(RESULT, found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
