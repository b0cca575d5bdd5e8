"""Training that is killed, has no room left or may not write: does the run end as if nothing had happened? Into results/faults.json.

    python tools/soak.py [--kills 50] [--seed 0] [--out FILE]

Every life of a run is a process of its own, forked from one that has loaded everything, which calls `dmsil train`. Two minutes on an
idle core; counts last.
"""

import contextlib
import ctypes
import io
import json
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from common import RESULTS, machine, parser, stored
from safetensors.torch import load_file
from tqdm.auto import tqdm

from dmsil import checkpoints, cli, corpora, training
from dmsil.checkpoints import read_tree, write_json
from dmsil.training import STATE

RESULT = RESULTS / "faults.json"
CLIPS, EPOCHS, MORE, STARTS = (300, 60, 60), 60, 20, 6
OPTIONS = "--preset dmsil_kappa --seed 5 --hidden 8 --batch-size 100 --patience 1000 --device cpu".split()
NOBODY, TMPFS = 65534, 1 << 23
PHASES = ("starting", "training", "validating", "writing the state", "writing the history", "finishing")


# ---------------------------------------------------------------- one life of a run


class Watch:
    "What a child is doing, one byte that parent and child share."

    byte = mmap.mmap(-1, 1)

    @classmethod
    def during(cls, phase: str, function):
        def call(*args, **kwargs):
            before, cls.byte[0] = cls.byte[0], PHASES.index(phase)
            try:
                return function(*args, **kwargs)
            finally:
                cls.byte[0] = before

        return call

    @classmethod
    def install(cls):
        for phase, name in zip(
            PHASES[1:], ("train_epoch", "_validate", "save_state", "write_csv", "_finish"), strict=True
        ):
            setattr(training, name, cls.during(phase, getattr(training, name)))


def child(action) -> int:
    "The process number of a fork that does this and ends with its exit code."
    Watch.byte[0] = 0
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        action()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def ended(number: int, most: float = 300) -> int:  # exit code, or minus the signal
    stop = time.monotonic() + most
    while True:
        gone, status = os.waitpid(number, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > stop:
            os.kill(number, signal.SIGKILL)
            raise RuntimeError(f"a process did not end within {most} s")
        time.sleep(0.002)


def train(folder: Path, epochs: int, said: Path, before=lambda: None, resume=True):
    "`dmsil train`, its words into a file."
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    before()
    cli.main(["train", *OPTIONS, "--epochs", str(epochs), "--out", str(folder)] + ["--resume"] * resume)


# ---------------------------------------------------------------- what a run leaves


def bits(value):
    "A tree of tensors as something that can be compared; seconds are no part of it."
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(x) for key, x in value.items() if key != "seconds"}
    return [bits(x) for x in value] if isinstance(value, list | tuple) else value


def history(folder: Path) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in (folder / "history.csv").read_text().splitlines()]


def differences(a: Path, b: Path) -> list[str]:
    "Which parts of two finished runs are not the same, bit for bit."
    found = {
        "state": [bits(read_tree(x / STATE)) for x in (a, b)],
        "weights": [bits(load_file(x / "model.safetensors")) for x in (a, b)],
        "history": [history(x) for x in (a, b)],
        "metrics": [(x / "metrics.json").read_text() for x in (a, b)],
    }
    return [name for name, (x, y) in found.items() if x != y]


def epoch_of(folder: Path) -> int:  # of the last good checkpoint; raises if it can't be read
    return read_tree(folder / STATE)["epoch"] if (folder / STATE).exists() else 0


def halves(folder: Path) -> int:
    return len(list(folder.glob(".*.tmp"))) if folder.is_dir() else 0


# ---------------------------------------------------------------- killed at random moments


def first_batch(number: int) -> float:
    "Seconds until a child has begun to train."
    start = time.perf_counter()
    while Watch.byte[0] == 0:
        if time.perf_counter() - start > 300:
            raise RuntimeError("a process did not begin to train within 300 s")
        if os.waitpid(number, os.WNOHANG)[0]:
            raise RuntimeError("the run ended before it began; its words are in the log")
        time.sleep(0.0005)
    return time.perf_counter() - start


def timed(folder: Path) -> tuple[float, float]:  # seconds to start, and to train
    "A run that is left alone."
    start = time.perf_counter()
    number = child(partial(train, folder, EPOCHS, folder.with_suffix(".log"), resume=False))
    begun = first_batch(number)
    if code := ended(number):
        raise RuntimeError(f"the uninterrupted run ended with {code}: {folder.with_suffix('.log').read_text()[-500:]}")
    return begun, time.perf_counter() - start - begun


def killed(
    folder: Path, kills: int, rng: random.Random, start: float, length: float
) -> tuple[int, dict]:  # epochs of the run; counts
    "One run that is killed at random moments, of its start and, uniformly, of its training, and resumed each time."
    moments = sorted(rng.uniform(0, length) for _ in range(kills - STARTS))
    lives = [("train", b - a) for a, b in zip([0, *moments], moments, strict=False)]
    for _ in range(STARTS):
        lives.insert(rng.randrange(1, len(lives)), ("start", rng.uniform(0, start)))
    epochs, landed, half, lost, last, k = EPOCHS, Counter(), 0, 0, 0, 0
    while k < kills:
        number = child(partial(train, folder, epochs, folder.with_suffix(".log")))
        if lives[k][0] == "train":
            first_batch(number)
        time.sleep(lives[k][1])
        if os.waitpid(number, os.WNOHANG)[0]:  # it was faster than when it was measured: the run is made longer
            epochs += MORE
            continue
        os.kill(number, signal.SIGKILL)
        if ended(number) != -signal.SIGKILL:
            continue
        k += 1
        now = epoch_of(folder)
        if now < last:
            lost += 1
        landed[PHASES[Watch.byte[0]]] += 1
        last, half = now, half + (halves(folder) > 0)
    return epochs, {
        "landed": dict(landed),
        "left a half-written file": half,
        "checkpoint lost": lost,
        "epoch at the last kill": last,
    }


# ---------------------------------------------------------------- killed between bytes


def dying(name: str, how: str, share: float, count: int):
    "In a child: the count-th writing of this file is its last act."
    write_whole, left = checkpoints.write_atomic, [count]

    def stopped(path, write):
        left[0] -= path.name == name
        if path.name != name or left[0]:
            return write_whole(path, write)
        if how == "between its bytes":  # the kernel ends the process at this byte
            write(probe := path.parent.parent / "probe")
            size = probe.stat().st_size
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), resource.RLIM_INFINITY))
        if how == "before it is moved":
            os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, write)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.write_atomic = stopped


INJECTED = [
    ("config.json", "between its bytes", 2),
    (STATE, "between its bytes", 20),
    (STATE, "before it is moved", 4),
    (STATE, "just after it", 4),
    ("history.csv", "between its bytes", 4),
    ("model.safetensors", "between its bytes", 4),
    ("model.safetensors", "just after it", 1),
    ("metrics.json", "between its bytes", 2),
    ("metrics.json", "before it is moved", 1),
]


def injected(folder: Path, epochs: int, rng: random.Random) -> tuple[dict, int]:  # kills by file; checkpoints lost
    "One run, killed while it writes each of its files."
    each = [(name, how) for name, how, k in INJECTED for _ in range(k)]
    at_the_end = [x for x in each if x[0] in ("model.safetensors", "metrics.json")]
    during = [x for x in each if x not in at_the_end]
    rng.shuffle(during)
    done, lost, last = Counter(), 0, 0
    for name, how in during + at_the_end:
        before = partial(dying, name, how, rng.random(), 1 if name != STATE else rng.randint(1, 2))
        code = ended(child(partial(train, folder, epochs, folder.with_suffix(".log"), before)))
        wanted = -signal.SIGXFSZ if how == "between its bytes" else -signal.SIGKILL
        if code != wanted:
            raise RuntimeError(f"{name}, {how}: ended with {code}: {folder.with_suffix('.log').read_text()[-500:]}")
        done[f"{name}, {how}"] += 1
        now = epoch_of(folder)
        lost, last = lost + (now < last), now
    return dict(done), lost


# ---------------------------------------------------------------- no room, no right to write

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, RDONLY, REMOUNT, PRIVATE = 0x20000, 0x10000000, 1, 32, 1 << 18 | 1 << 14


def mount(place: Path, flags: int = 0, size: int = TMPFS):
    if LIBC.mount(b"tmpfs", str(place).encode(), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), f"mount {place}")


def own_mounts(place: Path):
    "A file system of a few MB that this process and its children alone see."
    if LIBC.unshare(NEWNS if os.geteuid() == 0 else NEWNS | NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    LIBC.mount(b"none", b"/", None, PRIVATE, None)
    mount(place)


def can_mount(place: Path) -> bool:
    def tried():
        with contextlib.suppress(OSError):
            own_mounts(place)
            sys.exit(3)

    return ended(child(tried)) == 3


def one_line(said: Path, *words: str) -> str:
    "The one line of a failed command, if it is that; else an error."
    text = said.read_text()
    lines = [line for line in text.splitlines() if line.startswith("dmsil: ")]
    if len(lines) != 1 or "Traceback" in text or not all(word in lines[0] for word in words):
        raise RuntimeError(f"expected one line with {words}: {text[-800:]}")
    return lines[0]


def refused(folder: Path, epochs: int, said: Path, *words: str, before=lambda: None) -> str:
    "A command that must fail with one line, leave no half-written file, and leave the checkpoint as it was."
    was, kept = (folder / STATE).read_bytes() if (folder / STATE).exists() else None, epoch_of(folder)
    if (code := ended(child(partial(train, folder, epochs, said, before)))) != 2:
        raise RuntimeError(f"ended with {code}: {said.read_text()[-800:]}")
    if halves(folder):
        raise RuntimeError("a half-written file was left")
    if epoch_of(folder) < kept or was is not None and epoch_of(folder) == kept and (folder / STATE).read_bytes() != was:
        raise RuntimeError("the checkpoint was lost")
    return one_line(said, *words)


def goes_on(folder: Path, whole: Path, epochs: int, said: Path):
    if code := ended(child(partial(train, folder, epochs, said))):
        raise RuntimeError(f"ended with {code}: {said.read_text()[-800:]}")
    if found := differences(folder, whole):
        raise RuntimeError(f"not the same: {found}")


def full(place: Path, begun: Path, whole: Path, epochs: int, draws: list[float], log: Path):
    "In a child: a disk that is full after a share of what the next checkpoint needs; then there is room, and the run goes on."
    own_mounts(place)
    said, lines, size = place / "log", [], (begun / STATE).stat().st_size
    for share in draws:
        shutil.copytree(begun, place / "run")
        said.write_bytes(b"\n" * 16384)
        space = os.statvfs(place)
        room = space.f_bavail * space.f_frsize - int(share * size)
        (place / "filler").write_bytes(bytes(max(0, room)))
        lines.append(refused(place / "run", epochs, log.with_suffix(".log"), "No space left on device"))
        (place / "filler").unlink()
        goes_on(place / "run", whole, epochs, log.with_suffix(".log"))
        shutil.rmtree(place / "run")
    write_json(log, lines)


def limited(place: Path, begun: Path, whole: Path, epochs: int, draws: list[float], log: Path):
    "The same where no file system may be made: no file may grow beyond a share of a checkpoint."
    lines, size = [], (begun / STATE).stat().st_size
    for share in draws:
        shutil.copytree(begun, place / "run")
        few = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (max(int(share * size), 4096), resource.RLIM_INFINITY))
        lines.append(refused(place / "run", epochs, log.with_suffix(".log"), "File too large", before=few))
        goes_on(place / "run", whole, epochs, log.with_suffix(".log"))
        shutil.rmtree(place / "run")
    write_json(log, lines)


def read_only_mount(place: Path, begun: Path, epochs: int, log: Path):
    "In a child: the file system is read-only from the start; a new run and one that is to go on."
    own_mounts(place)
    shutil.copytree(begun, place / "run")
    mount(place, RDONLY | REMOUNT)
    said, word = log.with_suffix(".log"), "Read-only file system"
    write_json(log, [refused(place / "run", epochs, said, word), refused(place / "new", epochs, said, word)])


def taken_away(folder: Path, after: int):
    "In a child: another user, if it is root's (whom no permission stops); after some checkpoints the folder is made read-only."
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)
    save, left = training.save_state, [after]

    def saving(*args):
        if left[0] == 0:
            folder.chmod(0o555)
        left[0] -= 1
        save(*args)

    if after:
        training.save_state = saving
    else:
        folder.chmod(0o555)


def read_only_folder(place: Path, begun: Path, whole: Path, epochs: int) -> list[str]:
    "A folder without write permission, from the start or after one more checkpoint."
    lines = []
    for after in (0, 1):
        folder = place / f"locked{after}"
        shutil.copytree(begun, folder)
        for path in (place, folder, *folder.iterdir()):
            path.chmod(0o755) if os.geteuid() else os.chown(path, NOBODY, NOBODY)
        lines.append(
            refused(
                folder, epochs, place / "locked.log", "Permission denied", before=partial(taken_away, folder, after)
            )
        )
        folder.chmod(0o755)
        goes_on(folder, whole, epochs, place / "locked.log")
    return lines


# ---------------------------------------------------------------- all of it


def soak(kills: int, seed: int, place: Path) -> dict:
    rng, started = random.Random(seed), time.perf_counter()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # what is imported late is imported here
        cli.main(["train", *OPTIONS, "--epochs", "1", "--out", str(place / "warm")])
    start, length = timed(place / "measured")
    epochs, counts = killed(place / "killed", kills, rng, start, length)
    if epochs != EPOCHS and ended(child(partial(train, place / "measured", epochs, place / "measured.log"))):
        raise RuntimeError("the long run failed")
    if ended(child(partial(train, place / "killed", epochs, place / "killed.log"))):
        raise RuntimeError((place / "killed.log").read_text()[-800:])
    apart = differences(place / "killed", place / "measured")
    rows = [
        row(
            "SIGKILL at a random moment of one run",
            kills,
            {"resumed": kills - counts["checkpoint lost"]} | ({} if apart else {"run ended bit-identical": 1}),
            landed=counts["landed"],
            halves=counts["left a half-written file"],
            lost=counts["checkpoint lost"],
            apart=apart,
        )
    ]

    files, lost = injected(place / "injected", epochs, rng)
    if ended(child(partial(train, place / "injected", epochs, place / "injected.log"))):
        raise RuntimeError((place / "injected.log").read_text()[-800:])
    apart_too = differences(place / "injected", place / "measured")
    tried = sum(files.values())
    rows.append(
        row(
            "killed while it writes a file, most between two bytes of a checkpoint",
            tried,
            {"resumed": tried - lost} | ({} if apart_too else {"run ended bit-identical": 1}),
            files=files,
            lost=lost,
            apart=apart_too,
        )
    )

    begun, whole = place / "begun", place / "whole"
    for folder, k in ((begun, 3), (whole, 5)):
        if ended(child(partial(train, folder, k, place / "short.log", resume=False))):
            raise RuntimeError((place / "short.log").read_text()[-800:])
    for name in ("metrics.json", "model.safetensors"):
        (begun / name).unlink()
    (disk := place / "disk").mkdir()
    draws, mounted = [0.0, *(rng.random() for _ in range(9))], can_mount(disk)
    log = place / "full.json"
    if ended(child(partial(full if mounted else limited, disk, begun, whole, 5, draws, log))):
        raise RuntimeError("full disk: see above")
    lines = json.loads(log.read_text())
    how = f"a tmpfs of {TMPFS >> 20} MB" if mounted else "RLIMIT_FSIZE"
    rows.append(
        row(
            f"disk full ({how}) within the next files",
            len(lines),
            {"one line, checkpoint kept, then went on bit-identical": len(lines)},
            line=shown(lines[-1]),
        )
    )
    if mounted:
        if ended(child(partial(read_only_mount, disk, begun, 5, log))):
            raise RuntimeError("read-only disk: see above")
        lines = json.loads(log.read_text())
        rows.append(
            row("read-only file system", len(lines), {"one line, checkpoint kept": len(lines)}, line=shown(lines[0]))
        )
    lines = read_only_folder(place, begun, whole, 5)
    who = "as another user than root" if os.geteuid() == 0 else "chmod"
    rows.append(
        row(
            f"folder without write permission ({who})",
            len(lines),
            {"one line, checkpoint kept, then went on bit-identical": len(lines)},
            line=shown(lines[0]),
        )
    )
    return {
        "settings": {"seed": seed, "clips": CLIPS, "epochs": epochs, "options": " ".join(OPTIONS)},
        "seconds": {
            "start of a run": round(start, 2),
            "run": round(length, 1),
            "all": round(time.perf_counter() - started),
        },
        "rows": rows,
    }


def row(what: str, tried: int, happened: dict, **more) -> dict:
    return {"what": what, "tried": tried, "happened": happened} | more


def shown(line: str) -> str:  # without the place
    return " ".join(Path(word).name if word.startswith("/") else word for word in line.split())


def merge(path: Path, part: str, found: dict):
    "This tool's part of the file; the other's stays."
    kept = {name: rows for name, rows in stored(path).items() if name in ("soak", "fuzz")}
    write_json(path, {"machine": machine("1 thread")} | kept | {part: found})


def main():
    options = parser(__doc__, RESULT)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread: a fork would take its locks along
    clips = corpora.synthetic_clips(n=CLIPS)
    corpora.synthetic_clips = lambda *args, **kwargs: clips
    Watch.install()
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        found = soak(given.kills, given.seed, Path(place))
    merge(given.out, "soak", found)
    for each in found["rows"]:
        print(each["what"], each["tried"], each["happened"], sep=" | ")
    failed = [each for each in found["rows"] if each.get("apart") or each.get("lost")]
    print(f"soak: {sum(each['tried'] for each in found['rows'])} faults, {len(failed)} kinds failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
