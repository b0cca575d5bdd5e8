"""Speed, memory and agreement beside MMSA's Self-MM, in one run, into results/benchmark.json.

    python tools/benchmark.py [--threads 1] [--parts labels covariances] [--help]

MMSA gets an environment of its own (.venv-mmsa); each side lives in a process, which is this file again. Fifty minutes on an idle
machine, half of them the comparison in double precision: unless the two programs agree, nothing is timed.
"""

import csv
import json
import math
import os
import pickle
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from torch import nn


def _corpus(folder: Path, n: tuple[int, int, int]) -> dict[str, list[dict]] | None:
    "Rows of CMU-MOSI's table by split; None where the corpus is not there."
    path = folder / "segments.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row | {"row": i} for i, row in enumerate(csv.DictReader(file))]
    return {
        split: [row for row in rows if row["split_standard"] == split][:k] for split, k in zip(SPLITS, n, strict=True)
    }


def _simulated(n: tuple[int, int, int], seed: int = 0) -> dict[str, list[dict]]:
    "Sentences of random words, with labels and durations spread like the corpus's."
    rng = np.random.default_rng(seed)
    words = (
        "the movie was good bad really plot actor i you think boring great funny sad ending scene he she never".split()
    )

    def row(split, i):
        text = " ".join(rng.choice(words, 2 + min(45, rng.poisson(rng.gamma(2, 5)))))
        return {
            "id": f"{split}_{i}",
            "text": text,
            "label": round(rng.uniform(-3, 3), 1),
            "start": 0,
            "end": 0.33 * len(text.split()),
        }

    return {split: [row(split, i) for i in range(k)] for split, k in zip(SPLITS, n, strict=True)}


SPLITS = ("train", "valid", "test")


def _padded(sequences: list[np.ndarray], longest: int) -> tuple[np.ndarray, list[int]]:
    "Sequences (L_i, d) as (n, longest, d) and their lengths."
    values = np.zeros((len(sequences), longest, sequences[0].shape[1]), np.float32)
    for row, steps in zip(values, sequences, strict=True):
        row[: len(steps)] = steps[:longest]
    return values, [min(len(steps), longest) for steps in sequences]


def _mosi_sequences(rows: list[dict], seed: int) -> tuple:
    "Audio 500 × 5 at 40 steps a second, vision 375 × 20 at 30; random values, as long as the clip lasts."
    rng = np.random.default_rng(seed)

    def draw(rate, longest, width):
        lengths = [int(np.clip((float(r["end"]) - float(r["start"])) * rate, 1, longest)) for r in rows]
        return _padded([rng.standard_normal((k, width)).astype(np.float32) for k in lengths], longest)

    return draw(40, 500, 5), draw(30, 375, 20)


def _short_sequences(part, rows: list[dict]) -> tuple:
    "Timing of the words (L, 8) and statistics of the voice (1, 73) of the real clips."
    at = {clip: i for i, clip in enumerate(part.ids)}
    timing, audio = part.inputs["timing"], part.inputs["audio"].values.numpy()
    pick = [at[row["id"]] for row in rows]
    steps = [timing.values[i, : timing.lengths[i]].numpy() for i in pick]
    return _padded(steps, timing.values.shape[1]), _padded([audio[i : i + 1] for i in pick], 1)


def _fields(rows: list[dict], sequences: tuple) -> dict:
    "One split in MMSA's layout."
    from dmsil.clips import Texts
    from dmsil.encoders import tokenize

    tokens = tokenize(Texts(tuple(row["text"] for row in rows)), longest=50)
    ids = np.zeros((len(rows), 50), np.float32)
    ids[:, : tokens.ids.shape[1]] = tokens.ids
    mask = (np.arange(50) < tokens.lengths[:, None].numpy()).astype(np.float32)
    fields = {"id": [row["id"] for row in rows], "raw_text": [row["text"] for row in rows],
              "text": np.zeros((len(rows), 50, 768), np.float32), "text_bert": np.stack([ids, mask, 0 * ids], 1),
              "regression_labels": np.array([float(row["label"]) for row in rows], np.float32)}  # fmt: skip
    for name, (values, lengths) in zip(("audio", "vision"), sequences, strict=True):
        fields |= {name: values, f"{name}_lengths": lengths}
    return fields


def write_clips(
    path: Path,  # the pickle to write
    kind: str = "mosi",  # "mosi": MOSI's shape; "short": real short clips, which need the corpus
    corpus: str | Path = "../shared/data/mosi",  # folder with CMU-MOSI; sentences are simulated where it is absent
    n: tuple[int, int, int] = (1284, 229, 686),  # clips in train, valid and test
) -> str:  # where text and labels come from
    "A file in MMSA's pickle layout."
    from dmsil.corpora import load_mosi

    corpus = Path(corpus)
    table = _corpus(corpus, n)
    if table is None and kind == "short":
        raise FileNotFoundError(f"{corpus}: the real short clips need CMU-MOSI there")
    real = load_mosi(mirror=corpus / "upstream").splits if kind == "short" else {}
    content = {}
    for seed, (split, rows) in enumerate((table or _simulated(n)).items()):
        content[split] = _fields(rows, _short_sequences(real[split], rows) if real else _mosi_sequences(rows, seed))
    path.write_bytes(pickle.dumps(content, protocol=4))
    return "CMU-MOSI" if table else "simulated words"


def write_mosei(path: str | Path, n: tuple[int, int, int], seed: int = 0) -> float:  # MB
    "A file of CMU-MOSEI's shape: word vectors 50 × 768, audio 500 × 74, vision 500 × 35, of random values."
    rng, content = np.random.default_rng(seed), {}
    for split, k in zip(SPLITS, n, strict=True):
        fields = {
            "id": [f"{split}_{i}" for i in range(k)],
            "regression_labels": rng.uniform(-3, 3, k).astype(np.float32),
        }
        for name, (longest, width) in {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}.items():
            fields[name], lengths = (
                rng.standard_normal((k, longest, width), np.float32),
                rng.integers(1, longest + 1, k),
            )
            fields[name] *= (np.arange(longest) < lengths[:, None])[:, :, None]
            fields |= {} if name == "text" else {f"{name}_lengths": lengths}
        content[split] = fields
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)
    return Path(path).stat().st_size / 2**20


def load(path: str, by: str) -> dict:
    "Seconds and memory of one reading, by `pickle.load` or by `load_clips`, in a process that has read nothing before."
    from dmsil.pickles import load_clips

    before, wall, cpu = held_memory() or peak_memory(), perf_counter(), process_time()
    if by == "load_clips":
        clips = load_clips(path, dataset="mosei")
    else:
        with open(path, "rb") as file:
            clips = pickle.load(file)
    taken = {"wall": perf_counter() - wall, "cpu": process_time() - cpu}
    del clips
    return taken | {"memory": peak_memory() - before}


WIDTHS = {"audio": (16, 16), "vision": (32, 32)}  # LSTM units, width of the encoding
FEATURES = {"fusion": 128, "text": 32, "audio": 16, "vision": 32}
DROPOUT = {"fusion": 0.0, "text": 0.1, "audio": 0.1, "vision": 0.0}
BATCH, ACCUMULATE = 16, 4
LEARNING, DECAY = {"text": 5e-5, "audio": 5e-3, "vision": 5e-3, "heads": 1e-3}, 1e-3


def network(specs, text: nn.Module | None = None) -> nn.Module:
    "Self-MM as MMSA configures it for MOSI, made of this library's parts."
    from dmsil.encoders import SequenceEncoder, TextEncoder
    from dmsil.model import Head, ModelConfig, MultimodalModel, Spec

    shape = {name: Spec("vectors", 1) for name in ("text", "audio", "vision")}
    model = MultimodalModel(ModelConfig(pooling="cls"), shape)
    encoders = {"text": text or TextEncoder(pooling="cls")}
    for name, (hidden, out) in WIDTHS.items():
        encoders[name] = SequenceEncoder(specs[name].width, out, hidden, dropout=0.0)
    widths = {name: encoder.width for name, encoder in encoders.items()}
    widths["fusion"] = sum(widths.values())
    model.encoders = nn.ModuleDict(encoders)
    model.heads = nn.ModuleDict({name: Head(widths[name], d, DROPOUT[name]) for name, d in FEATURES.items()})
    return model


class Table(nn.Module):
    "A frozen text encoder: its vectors were computed before."

    width = 384

    def forward(self, vectors):
        return vectors.values


def adam(model: nn.Module) -> torch.optim.Optimizer:
    "Adam with MMSA's groups: no decay for biases and layer norms of the text encoder."
    named = dict(model.named_parameters())
    groups = {}
    for name, p in named.items():
        _, part, *_ = name.split(".")
        part = part if name.startswith("encoders") else "heads"
        free = part == "text" and name.endswith(("bias", "LayerNorm.weight"))
        groups.setdefault((LEARNING[part], 0.0 if free else DECAY), []).append(p)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(
        [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()], fused=fused
    )


_NAMES = (("encoders.text.bert", "Model.text_model.model"), ("encoders.", "Model."), ("audio.lstm", "audio_model.rnn"),
          ("vision.lstm", "video_model.rnn"), ("audio.project.1", "audio_model.linear_1"), ("vision.project.1", "video_model.linear_1"),
          ("heads.", "Model.post_"), ("post_vision", "post_video"), (".feature.1", "_layer_1"), (".predict.0", "_layer_2"),
          (".predict.2", "_layer_3"))  # fmt: skip


def mmsa_name(name: str) -> str:
    "What MMSA calls a parameter of `network`."
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return name


class OurRun:
    "This library's side: what `forward_backward` asks of a run, with MMSA's optimiser and labels."

    def __init__(self, clips, model: nn.Module, precision: str = "float32"):
        from dmsil.labels import LabelGenerator
        from dmsil.presets import TrainConfig
        from dmsil.processes import Ranks

        self.clips, self.model, self.forward, self.optimiser, self.epoch = clips, model, model, adam(model), 0
        self.device, self.ranks, self.alignment, self.shown = next(model.parameters()).device, Ranks(), None, None
        self.delta = 0.0
        self.config = TrainConfig(precision=precision)
        self.generator = LabelGenerator(clips.train.labels, FEATURES, bound=3.0, mode="selfmm", neutral="exclude").to(
            self.device
        )

    def step(self, *batches: torch.Tensor) -> None:
        "Some batches together; a full group moves the weights."
        from dmsil.trainer import forward_backward

        if len(batches) < ACCUMULATE:
            return self.move_labels(batches)
        forward_backward(
            self, *batches, share=ACCUMULATE
        )  # MMSA adds the gradients of its batches up, and takes no mean
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def move_labels(self, batches) -> None:
        "The labels alone."
        for rows in batches:
            out = self.model({name: x.take(rows) for name, x in self.clips.train.inputs.items()})
            self.generator.update(out.features, rows.to(self.device), self.epoch)

    def train_epoch(self, order: torch.Tensor) -> None:
        "Every clip once, in the order given."
        self.epoch += 1
        self.model.train()
        batches = order.split(BATCH)
        for i in range(0, len(batches), ACCUMULATE):
            self.step(*batches[i : i + ACCUMULATE])


class _Over(Exception):
    "Leaves MMSA's training loop."


class _Port:
    "Questions on stdin, answers on stdout, a JSON line each; everything else that is printed goes to stderr."

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ask(self) -> dict:
        line = sys.stdin.readline()
        return json.loads(line) if line else {"do": "quit"}

    def answer(self, **values) -> None:
        print(json.dumps(values), file=self.out, flush=True)


def _in_status(field: str) -> float | None:
    "A size in MB from what Linux says of this process."
    status = Path("/proc/self/status")
    return int(status.read_text().split(f"{field}:")[1].split()[0]) / 1024 if status.exists() else None


def peak_memory() -> float:
    "The most memory that this process has held, in MB."
    if (known := _in_status("VmHWM")) is not None:
        return known
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def held_memory() -> float | None:
    "The memory that this process holds now, in MB, where the system says."
    return _in_status("VmRSS")


def clock(call, repeats: int = 5, warm: int = 1) -> dict:
    "Median seconds of a call, on the wall and of the processor; where a GPU is in use, until it has finished."
    taken, finish = [], torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    for _ in range(warm + repeats):
        finish()
        wall, cpu = perf_counter(), process_time()
        call()
        finish()
        taken.append((perf_counter() - wall, process_time() - cpu))
    wall, cpu = zip(*taken[warm:], strict=True)
    return {"wall": median(wall), "cpu": median(cpu)}


def without_dropout(model: nn.Module) -> None:
    "Every dropout passes everything."
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _mmsa_config(device: str = "cpu", **changes):
    "MMSA's configuration of Self-MM for MOSI, with changes."
    import types

    sys.modules.setdefault("pynvml", types.ModuleType("pynvml"))
    from MMSA.config import get_config_regression

    args = get_config_regression("self_mm", "mosi")
    args.update(device=torch.device(device), train_mode="regression", **changes)
    return args


def _mmsa(task: dict):
    "MMSA's configuration, loaders and model for a task."
    args = _mmsa_config(task.get("device", "cpu"), featurePath=task["clips"], custom_feature=None,
                        feature_T=None, feature_A=None, feature_V=None,
                        pretrained=task["text"], text_out=384, model_save_path=task["folder"] + "/mmsa.pth",
                        cur_seed=1, early_stop=10**6, train_samples=task["n"], use_finetune=not task["frozen"])  # fmt: skip
    from MMSA.data_loader import MMDataLoader
    from MMSA.models import AMIO

    torch.set_default_dtype(task["dtype"])
    loaders, model = MMDataLoader(args, 0), AMIO(args).to(args.device, task["dtype"])
    weights = {mmsa_name(name): torch.from_numpy(w) for name, w in np.load(task["weights"]).items()}
    left = model.load_state_dict(weights, strict=False)
    if left.unexpected_keys or any("pooler" not in name for name in left.missing_keys):
        raise ValueError(f"weights that do not fit: {left}")
    return args, loaders, model


class _Orders:
    "Batches of given orders of the clips, an epoch each; the first is for MMSA's pass over the labels."

    def __init__(self, orders: np.ndarray):
        self.orders, self.epoch = orders, -1

    def __len__(self):
        return math.ceil(self.orders.shape[1] / BATCH)

    def __iter__(self):
        order = self.orders[max(self.epoch, 0)].tolist()
        self.epoch += 1
        return (order[i : i + BATCH] for i in range(0, len(order), BATCH))


def _hook(model, trainer, task: dict, port: _Port, parts) -> None:
    "Put a clock, and the questions, around MMSA's epochs."
    plain_test, plain_train, started = trainer.do_test, model.train, {}
    seconds = lambda since: {"wall": perf_counter() - since["wall"], "cpu": process_time() - since["cpu"]}
    now = lambda: {"wall": perf_counter(), "cpu": process_time()}

    def train(mode=True):
        if mode:
            started.setdefault("memory", held_memory())
            started.update(now())
        return plain_train(mode)

    def do_test(model, loader, mode="VAL"):
        epoch, before = seconds(started), now()
        result = plain_test(model, loader, mode)
        valid = seconds(before)
        if task["record"]:
            np.savez(task["folder"] + f"/mmsa-{task['tag']}.npz", **_mmsa_record(model, loader.dataset, trainer))
        port.answer(epoch=epoch, valid=valid, memory=peak_memory(), before=started["memory"])
        while (question := port.ask())["do"] == "parts":
            port.answer(**parts())
        if question["do"] == "quit":
            raise _Over
        task["tag"] = question["tag"]
        return result

    model.train, trainer.do_test = train, do_test


def mmsa_worker(task: dict, port: _Port) -> None:
    "MMSA's side; an epoch for every question."
    args, loaders, model = _mmsa(task)
    from MMSA.trains import ATIO
    from torch.utils.data import DataLoader

    trainer, made = ATIO().getTrain(args), []
    adam = lambda groups: made.append(torch.optim.Adam(groups)) or made[0]
    sys.modules["MMSA.trains.multiTask.SELF_MM"].optim = type("optim", (), {"Adam": staticmethod(adam)})
    if task["record"]:
        without_dropout(model)
        loaders["train"] = DataLoader(loaders["train"].dataset, batch_sampler=_Orders(np.load(task["orders"])))
    _hook(model, trainer, task, port, lambda: _mmsa_parts(args, model, trainer, loaders["train"], made[0]))
    task["tag"] = port.ask().get("tag", "")
    try:
        trainer.do_train(model, loaders)
    except _Over:
        pass


def _mmsa_record(model, dataset, trainer) -> dict:
    "Predictions for the validation clips, generated labels and centres."
    from torch.utils.data import DataLoader

    model.eval()
    outs, there = [], lambda x: x.to(trainer.args.device)
    with torch.no_grad():
        for b in DataLoader(dataset, batch_size=BATCH):
            outs.append(
                model(
                    there(b["text"]), (there(b["audio"]), b["audio_lengths"]), (there(b["vision"]), b["vision_lengths"])
                )
            )
    column = lambda k: torch.cat([out[k] for out in outs])[:, 0].cpu().numpy()
    predictions = {f"prediction_{s}": column(k) for s, k in zip(FEATURES, "MTAV", strict=True)}
    labels = {f"label_{s}": y.cpu().numpy() for s, y in trainer.label_map.items() if s != "fusion"}
    centres = {f"centre_{s}": torch.stack([c["pos"], c["neg"]]).cpu().numpy() for s, c in trainer.center_map.items()}
    return predictions | labels | centres


def _mmsa_parts(args, model, trainer, loader, optimiser) -> dict:
    "Seconds of the parts of one step: four batches, forward and backward, each part by itself."
    batches = [b for _, b in zip(range(ACCUMULATE), loader, strict=False)]
    net = model.Model
    model.train()

    def part(forward):
        def call():
            model.zero_grad(set_to_none=True)
            for b in batches:
                forward(b).sum().backward()

        return clock(call)

    features = [torch.rand(BATCH, d) for d in FEATURES.values()]

    def labels():
        for b in batches:
            rows = b["index"].view(-1)
            trainer.update_labels(*features, 2, rows, None)
            trainer.update_features(*features, rows)
            trainer.update_centers()

    parts = {
        "audio": part(lambda b: net.audio_model(b["audio"], b["audio_lengths"])),
        "vision": part(lambda b: net.video_model(b["vision"], b["vision_lengths"])),
    }
    if args.use_finetune:
        parts["text"] = part(lambda b: net.text_model(b["text"])[:, 0])
    whole = [model(b["text"], (b["audio"], b["audio_lengths"]), (b["vision"], b["vision_lengths"])) for b in batches]
    sum(out[k].mean() for out in whole for k in "MTAV").backward()
    return parts | {"labels": clock(labels), "optimiser": clock(optimiser.step)}


def _in_double(part):
    "A split in double precision."
    wide = {name: type(x)(x.values.double(), x.lengths) for name, x in part.inputs.items() if name != "text"}
    return replace(part, inputs=part.inputs | wide, labels=part.labels.double())


def our_clips(task: dict):
    "The clips of a task, read by this library."
    from dmsil.encoders import TextEncoder, embed
    from dmsil.pickles import load_clips

    clips = load_clips(task["clips"], dataset="mosi")
    if task["record"]:
        clips = replace(clips, **{name: _in_double(getattr(clips, name)) for name in SPLITS})
    if not task["frozen"]:
        return clips
    encoder = TextEncoder(task["text"], "cls")
    split = lambda part: replace(part, inputs=part.inputs | {"text": embed(encoder, part.inputs["text"])})
    return replace(clips, train=split(clips.train), valid=split(clips.valid), test=split(clips.test))


def our_run(task: dict) -> OurRun:
    "Network, labels and optimiser of a task, with the weights of its file."
    from dmsil.encoders import TextEncoder
    from dmsil.model import Spec

    torch.set_default_dtype(task["dtype"])
    clips, device = our_clips(task), task.get("device", "cpu")
    specs = {name: Spec("steps", clips.train.inputs[name].values.shape[-1]) for name in WIDTHS}
    model = network(specs, Table() if task["frozen"] else TextEncoder(task["text"], "cls"))
    weights = {name: torch.from_numpy(w) for name, w in np.load(task["weights"]).items()}
    model.load_state_dict({name: w for name, w in weights.items() if name in model.state_dict()})
    return OurRun(clips.to(device), model.to(device, task["dtype"]), task.get("precision", "float32"))


def our_worker(task: dict, port: _Port) -> None:
    "This library's side; an epoch for every question."
    from dmsil.prediction import evaluate

    run = our_run(task)
    orders, before = np.load(task["orders"]), held_memory()
    if task["record"]:
        without_dropout(run.model)
    while (question := port.ask())["do"] != "quit":
        if question["do"] == "parts":
            port.answer(**our_parts(run))
            continue
        order = torch.from_numpy(orders[run.epoch % len(orders)])
        epoch = clock(partial(run.train_epoch, order), 1, 0)
        valid = clock(lambda: evaluate(run.model, run.clips.valid, precision=run.config.precision), 1, 0)
        if task["record"]:
            np.savez(task["folder"] + f"/ours-{question['tag']}.npz", **our_record(run))
        port.answer(epoch=epoch, valid=valid, memory=peak_memory(), before=before)


def our_record(run: OurRun) -> dict:
    "Predictions for the validation clips, generated labels and centres."
    from dmsil.prediction import predict

    predictions = {f"prediction_{s}": y.numpy() for s, y in predict(run.model, run.clips.valid)[0].items()}
    labels = {f"label_{s}": y.cpu().numpy() for s, y in run.generator.labels.items()}
    centres = run.generator.means().cpu().split(run.generator.widths, 1)
    return predictions | labels | {f"centre_{s}": c.numpy() for s, c in zip(run.generator.dims, centres, strict=True)}


def our_parts(run: OurRun) -> dict:
    "Seconds of the parts of one step of 64 clips, forward and backward, each part by itself."
    from dmsil.alignment import ModalAlignment

    rows = torch.arange(BATCH * ACCUMULATE) % len(run.clips.train)
    inputs, batches = run.clips.train.inputs, list(rows.split(BATCH))
    run.model.train()

    def part(name):
        def call():
            run.model.zero_grad(set_to_none=True)
            run.model.encoders[name](inputs[name].take(rows)).sum().backward()

        return clock(call)

    features = {s: torch.rand(len(rows), d) for s, d in FEATURES.items()}
    align = ModalAlignment(
        {("text", "audio"): 0.3, ("text", "vision"): -0.3, ("audio", "vision"): 0.3}, measure="kappa"
    )

    def labels():
        for i, batch in enumerate(batches):
            run.generator.update({s: h[i * BATCH : (i + 1) * BATCH] for s, h in features.items()}, batch, 2)

    def alignment():
        align({s: h.clone().requires_grad_() for s, h in features.items()}).total.backward()

    parts = {name: part(name) for name in inputs if next(run.model.encoders[name].parameters(), None) is not None}
    out = run.model({name: x.take(rows) for name, x in inputs.items()})
    sum(y.mean() for y in out.predictions.values()).backward()
    return parts | {"labels": clock(labels), "alignment": clock(alignment), "optimiser": clock(run.optimiser.step)}


def text_products(pieces: float, clips: int = BATCH * ACCUMULATE, width: int = 384, layers: int = 6) -> dict:
    "Seconds of the matrix products of MiniLM, forward and backward, for some clips of so many pieces."
    T, d = round(pieces * clips), width
    layer = [(T, d, d)] * 4 + [(T, d, 4 * d), (T, 4 * d, d)]
    last = [(T, d, d)] * 2 + [(clips, d, d)] * 2 + [(clips, d, 4 * d), (clips, 4 * d, d)]
    draw = lambda r, i, o: (torch.randn(r, i), torch.randn(o, i), torch.randn(r, o))
    work = [draw(*shape) for shape in layer * (layers - 1) + last]

    def call():
        for X, W, G in work:
            X @ W.T, G @ W, G.T @ X

    return clock(call)


SIZES = (1_284, 16_326, 100_000, 1_000_000)


def _label_task(n: int, seed: int = 0):
    "Labels of n clips, and features of 16 of them."
    g = torch.Generator().manual_seed(seed)
    labels = 6 * torch.rand(n, generator=g) - 3
    rows = torch.randperm(n, generator=g)[:BATCH]
    return labels, rows, {s: torch.rand(BATCH, d, generator=g) for s, d in FEATURES.items()}


def our_label_update(n: int) -> dict:
    "Seconds of one update among n clips."
    from dmsil.labels import LabelGenerator

    labels, rows, features = _label_task(n)
    generator = LabelGenerator(labels, FEATURES)
    generator.update(features, rows, 1)
    return clock(lambda: generator.update(features, rows, 2), 300, 30)


def mmsa_label_update(n: int) -> dict:
    "Seconds of one update of MMSA's among n clips."
    args = _mmsa_config(train_samples=n)
    from MMSA.trains import ATIO

    trainer, (labels, rows, features) = ATIO().getTrain(args), _label_task(n)
    trainer.init_labels(torch.arange(n), labels)
    trainer.update_features(*features.values(), rows)
    trainer.update_centers()

    def update():
        trainer.update_labels(*features.values(), 2, rows, None)
        trainer.update_features(*features.values(), rows)
        trainer.update_centers()

    return clock(update, 5 if n > 50_000 else 50, 2)


def textbook_coral(D_a: torch.Tensor, D_b: torch.Tensor) -> torch.Tensor:
    "Deep CORAL as the paper writes it."

    def covariance(D):
        n, one = len(D), torch.ones(1, len(D))
        return (D.T @ D - (one @ D).T @ (one @ D) / n) / (n - 1)

    return (covariance(D_a) - covariance(D_b)).square().sum() / (4 * D_a.shape[1] ** 2)


def products(features: list[torch.Tensor]) -> None:
    "The matrix products of CORAL and its gradient alone, for one pair after the other."
    for i, a in enumerate(features):
        for b in features[:i]:
            C_a, C_b = a.T @ a, b.T @ b
            a @ C_a, b @ C_b


def pairwise(loss, features: list[torch.Tensor]) -> None:
    "Forward and backward of a loss over all pairs."
    leaves = [D.clone().requires_grad_() for D in features]
    sum(loss(a, b) for i, a in enumerate(leaves) for b in leaves[:i]).backward()


SHAPES = tuple((n, d, m) for n, d in ((32, 32), (32, 128), (32, 768), (512, 128), (512, 768)) for m in (2, 3))


def _features(n: int, d: int, m: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, d, generator=g) for _ in range(m)]


def our_covariances() -> list[dict]:
    "Seconds of forward and backward over all pairs, by n, d and number of modalities."
    from dmsil.covariance import coral, kappa

    rows = []
    for n, d, m in SHAPES:
        D, repeats = _features(n, d, m), 5 if n * d > 100_000 else 40
        row = {"n": n, "d": d, "modalities": m, "products": clock(lambda D=D: products(D), repeats, 3)["cpu"]}
        for name, loss in {"textbook": textbook_coral, "coral": coral, "kappa": kappa}.items():
            row[name] = clock(partial(pairwise, loss, D), repeats, 3)["cpu"]
        rows.append(row)
    return rows


def their_losses() -> dict:
    "What can be imported of the losses of `lightly` and `cca_zoo`, by name."
    import types
    from importlib.util import find_spec

    found = {}
    if spec := find_spec("lightly"):
        for name, part in (("lightly", ""), ("lightly.loss", "loss")):  # their __init__ would import torchvision
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(Path(spec.submodule_search_locations[0]) / part)]
        from lightly.loss.barlow_twins_loss import BarlowTwinsLoss
        from lightly.loss.vicreg_loss import VICRegLoss

        found |= {"lightly Barlow Twins": BarlowTwinsLoss(), "lightly VICReg": VICRegLoss()}
    try:
        from cca_zoo.deep.objectives import CCALoss

        cca = CCALoss()
        found["cca_zoo CCA"] = lambda a, b: cca([a, b])
    except ImportError:
        pass
    return found


def their_covariances() -> list[dict]:
    "The same table for the losses of others."
    losses, rows = their_losses(), []
    for n, d, m in SHAPES:
        D, repeats = _features(n, d, m), 5 if n * d > 100_000 else 40
        row = {"n": n, "d": d, "modalities": m}
        for name, loss in losses.items():
            try:
                row[name] = clock(lambda D=D, loss=loss: pairwise(loss, D), repeats, 3)["cpu"]
            except Exception as error:  # a loss that refuses this shape
                row[name] = type(error).__name__
        rows.append(row)
    return rows


PARTS = ("agreement", "epochs", "bf16", "products", "frozen", "labels", "covariances", "loading")
MOSEI = (4000, 500, 1000)  # clips of the file that is loaded


@dataclass(frozen=True)
class BenchConfig:
    "What the benchmark does."

    out: str = "results/benchmark.json"  # where the figures go
    environment: str = ".venv-mmsa"  # MMSA's environment; made where it is absent
    corpus: str = (
        "../shared/data/mosi"  # folder with CMU-MOSI; without it words are simulated and the short clips left out
    )
    folder: str = ""  # for the files exchanged; empty: a temporary one
    epochs: int = 3  # compared
    repeats: int = 5  # epochs timed
    threads: int = 0  # of each side; 0: as many as there are cores
    clips: tuple[int, int, int] = (1284, 229, 686)  # train, valid, test
    seed: int = 1111  # of weights and order
    sets: tuple[str, ...] = ("mosi", "short")  # of clips
    parts: tuple[str, ...] = PARTS  # what to do; the rest of the file is kept


PINS = ("torch==2.13.0", "transformers", "numpy", "pandas", "tqdm", "scikit-learn", "easydict")


def mmsa_python(folder: str | Path) -> Path:
    "MMSA's interpreter; its environment is made at the first call."
    folder = Path(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pins = ["-c", "constraints.txt"] if Path("constraints.txt").exists() else []
        subprocess.run([*pip, *pins, *PINS], check=True)
        subprocess.run([*pip, "--no-deps", "MMSA==2.2.1"], check=True)
        subprocess.run([*pip, "--no-deps", "lightly==1.6.0", "cca-zoo==4.0.1"], check=False)
        (folder / "ready").touch()
    return python


class Side:
    "One of the two programs, in a process of its own."

    def __init__(self, who: str, task: dict, python, threads: int):
        root, threads = Path(__file__).resolve().parents[1], str(threads)
        self.who, self.log = who, Path(task["folder"]) / f"{who}.log"
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false",
        }
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        with self.log.open("a") as log:
            pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True, "env": env}
            self.process = subprocess.Popen([python, Path(__file__).resolve(), who, json.dumps(task)], **pipe)

    def ask(self, **question) -> dict:
        "Put a question and wait for the answer."
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            tail = self.log.read_text()[-1500:]
            raise RuntimeError(f"{self.who} ended without an answer:\n{tail}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=120)


def agreement(ours: dict, theirs: dict) -> dict:
    "How far two records of one epoch lie apart, for predictions, labels and centres."
    found = {}
    for kind in ("prediction", "label", "centre"):
        names = [name for name in theirs if name.startswith(kind)]
        gap = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in names])
        found[kind] = {
            "median": float(np.median(gap)),
            "largest": float(gap.max()),
            "within_1e-9": float((gap <= 1e-9).mean()),
        }
    return found


def agrees(found: dict) -> bool:
    "99 % of predictions and labels within 1e-9, all within 1e-6."
    return all(
        found[kind]["within_1e-9"] >= 0.99 and found[kind]["largest"] <= 1e-6 for kind in ("prediction", "label")
    )


def compare(task: dict, pythons: dict, config: BenchConfig) -> list[dict]:
    "Train both in double precision with dropout off; one row an epoch."
    from tqdm.auto import tqdm

    rows, task = [], task | {"record": True}
    with ExitStack() as stack:
        sides = [stack.enter_context(Side(who, task, python, config.threads)) for who, python in pythons.items()]
        for epoch in tqdm(range(1, config.epochs + 1), desc="epochs compared", unit="epoch"):
            for side in sides:
                side.ask(do="epoch", tag=f"{epoch}")
            records = [dict(np.load(Path(task["folder"]) / f"{side.who}-{epoch}.npz")) for side in sides]
            rows.append({"epoch": epoch} | agreement(*records))
    return rows


def timed(task: dict, pythons: dict, config: BenchConfig, repeats: int, parts: bool = True) -> dict:
    "Epochs of both in turn, dropout on; then, on a CPU, the parts of a step."
    from tqdm.auto import tqdm

    with ExitStack() as stack:
        sides = {who: stack.enter_context(Side(who, task, python, config.threads)) for who, python in pythons.items()}
        answers = [
            {who: side.ask(do="epoch", tag="") for who, side in sides.items()}
            for _ in tqdm(range(repeats), desc="epochs timed", unit="epoch")
        ]
        parts = {who: side.ask(do="parts") if parts else {} for who, side in sides.items()}
    found = {}
    for who in sides:
        found[who] = {
            "parts": parts[who],
            "memory_MB": answers[-1][who]["memory"],
            "memory_before_MB": answers[-1][who]["before"],
        }
        for kind in ("epoch", "valid"):
            for unit in ("wall", "cpu"):
                found[who][f"{kind}_{unit}"] = [row[who][kind][unit] for row in answers]
    return found


def ratios(found: dict) -> dict:
    "MMSA over ours: medians and, for epochs, the range over the repeats."
    mid = lambda who, key: median(found[who][key])
    per_epoch = [b / a for a, b in zip(found["ours"]["epoch_cpu"], found["mmsa"]["epoch_cpu"], strict=True)]
    faster = {key: mid("mmsa", key) / mid("ours", key) for key in ("epoch_wall", "epoch_cpu", "valid_cpu")}
    return faster | {
        "epoch_cpu_range": [min(per_epoch), max(per_epoch)],
        "memory": found["ours"]["memory_MB"] / found["mmsa"]["memory_MB"],
    }


def machine(threads: int) -> dict:
    "What it ran on."
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "system": platform.system(),
    }


def make_task(folder: Path, kind: str, config: BenchConfig) -> dict:
    "Clips, first weights and orders of a comparison, in files."
    from dmsil.encoders import text_weights
    from dmsil.model import Spec
    from dmsil.pickles import load_clips

    path = folder / f"{kind}.pkl"
    source = write_clips(path, kind, config.corpus, config.clips)
    clips = load_clips(path, dataset="mosi")
    torch.manual_seed(config.seed)
    model = network({name: Spec("steps", clips.train.inputs[name].values.shape[-1]) for name in WIDTHS})
    np.savez(folder / f"{kind}-weights.npz", **{name: w.numpy() for name, w in model.state_dict().items()})
    n, rng = len(clips.train), np.random.default_rng(config.seed)
    np.save(folder / f"{kind}-orders.npy", np.stack([rng.permutation(n) for _ in range(20)]))
    return {"clips": str(path), "weights": str(folder / f"{kind}-weights.npz"), "orders": str(folder / f"{kind}-orders.npy"),
            "folder": str(folder), "text": text_weights(), "n": n, "frozen": False, "record": False, "source": source,
            "pieces": clips.train.inputs["text"].lengths.double().mean().item()}  # fmt: skip


class Bench:
    "A benchmark in progress: what was asked for, and what was found so far."

    def __init__(self, config: BenchConfig):
        unknown = set(config.parts) - set(PARTS)
        if unknown:
            raise ValueError(f"parts: {', '.join(sorted(unknown))} is not one of {', '.join(PARTS)}")
        self.config, out, self.tasks = replace(config, threads=config.threads or os.cpu_count()), Path(config.out), {}
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(config.folder or self.temporary.name)
        self.found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"sets": {}}
        self.found |= {"machine": machine(self.config.threads), "clips": list(config.clips)}
        real = _corpus(Path(config.corpus), (1, 1, 1)) is not None
        self.kinds = [kind for kind in config.sets if real or kind == "mosi"]

    @cached_property
    def pythons(self) -> dict:
        "Both interpreters; MMSA's is made at first need."
        return {"ours": sys.executable, "mmsa": mmsa_python(self.config.environment)}

    def task(self, kind: str) -> dict:
        "Files of a set of clips, written once."
        if kind not in self.tasks:
            self.tasks[kind] = make_task(self.folder, kind, self.config)
            self.found["sets"].setdefault(kind, {}).update({key: self.tasks[kind][key] for key in ("source", "pieces")})
        return self.tasks[kind]

    def once(self, who: str, **question):
        "One question to a fresh process."
        python = sys.executable if who == "ours" else self.pythons[who]
        with Side(who, {"folder": str(self.folder)}, python, self.config.threads) as side:
            return side.ask(**question)["value"]

    def save(self) -> None:
        from dmsil.checkpoints import rounded, write_json

        self.found = rounded(self.found, lambda x: float(f"{x:.5g}"))
        Path(self.config.out).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(self.config.out), self.found)


def _agreement(bench: Bench) -> None:
    for kind in bench.kinds:
        rows = compare(bench.task(kind), bench.pythons, bench.config)
        bench.found["sets"][kind]["agreement"] = rows
        bench.save()
        if not all(map(agrees, rows)):
            raise ValueError(f"{kind}: the two programs don't agree, so nothing is timed: {rows}")


def _epochs(bench: Bench, frozen: bool = False) -> None:
    for kind in bench.kinds:
        task, repeats = bench.task(kind) | {"frozen": frozen}, min(bench.config.repeats, 3 if frozen else 99)
        rows = bench.found["sets"][kind].get("agreement")
        if not rows or not all(map(agrees, rows)):
            raise ValueError(
                f"{kind}: {bench.config.out} holds no agreement of the two programs; run the part agreement first"
            )
        load = os.getloadavg()[0]
        result = timed(task, bench.pythons, bench.config, repeats)
        result |= {"ratios": ratios(result), "load": [load, os.getloadavg()[0]], "threads": bench.config.threads}
        bench.found["sets"][kind]["frozen" if frozen else "tuned"] = result
        bench.save()


def _bf16(bench: Bench) -> None:
    for kind in bench.kinds:
        task = bench.task(kind) | {"precision": "bfloat16"}
        with Side("ours", task, sys.executable, bench.config.threads) as side:
            answers = [side.ask(do="epoch", tag="")["epoch"] for _ in range(bench.config.repeats)]
        bench.found["sets"][kind]["bf16"] = {
            f"epoch_{unit}": [answer[unit] for answer in answers] for unit in ("wall", "cpu")
        }


def _products(bench: Bench) -> None:
    for kind in bench.kinds:
        pieces = bench.task(kind)["pieces"]
        bench.found["sets"][kind]["products"] = bench.once("ours", do="products", pieces=pieces)


def _labels(bench: Bench) -> None:
    bench.found["labels"] = [
        {"clips": n} | {who: bench.once(who, do="labels", n=n) for who in bench.pythons} for n in SIZES
    ]


def _covariances(bench: Bench) -> None:
    sides = (bench.once(who, do="covariances") for who in bench.pythons)
    bench.found["covariances"] = [a | b for a, b in zip(*sides, strict=True)]


def _loading(bench: Bench) -> None:
    path = bench.folder / "mosei.pkl"
    size = bench.once("ours", do="write", path=str(path), n=MOSEI)
    rows = [
        {by: bench.once("ours", do="load", path=str(path), by=by) for by in ("pickle", "load_clips")}
        for _ in range(bench.config.repeats)
    ]
    path.unlink()
    by_key = {by: {key: [row[by][key] for row in rows] for key in ("wall", "cpu", "memory")} for by in rows[0]}
    bench.found["loading"] = {"clips": list(MOSEI), "MB": size, "threads": bench.config.threads} | by_key


def benchmark(
    config: BenchConfig,  # what to do
    tell=print,  # called with each part's name
) -> dict:  # all figures; also written to config.out
    "Compare, and where the two agree, time."
    bench = Bench(config)
    calls = {"agreement": _agreement, "epochs": _epochs, "bf16": _bf16, "products": _products, "frozen": partial(_epochs, frozen=True),
             "labels": _labels, "covariances": _covariances, "loading": _loading}  # fmt: skip
    with bench.temporary:
        for part in config.parts:
            tell(part)
            calls[part](bench)
            bench.save()
    return bench.found


def worker(who: str, task: dict) -> None:
    "A side's process: from the first question to the last."
    port, task = _Port(), task | {"dtype": torch.float64 if task.get("record") else torch.float32}
    if "clips" in task:
        return {"ours": our_worker, "mmsa": mmsa_worker}[who](task, port)
    calls = {
        ("ours", "products"): text_products,
        ("ours", "write"): write_mosei,
        ("ours", "load"): load,
        ("ours", "labels"): our_label_update,
        ("mmsa", "labels"): mmsa_label_update,
        ("ours", "covariances"): our_covariances,
        ("mmsa", "covariances"): their_covariances,
    }
    while (question := port.ask())["do"] != "quit":
        port.answer(value=calls[who, question.pop("do")](**question))


def main() -> None:
    import tyro

    config = tyro.cli(BenchConfig, prog="tools/benchmark.py")
    try:
        benchmark(config)
    except (ValueError, OSError) as error:
        print(f"benchmark: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"figures saved in {config.out}")


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["mmsa"]):
        worker(sys.argv[1], json.loads(sys.argv[2]))
    else:
        main()
