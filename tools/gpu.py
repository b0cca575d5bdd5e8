"""What a GPU has to show: the pages' own GPU cells, agreement with the CPU, no waiting inside a step, speed and memory.

    python tools/gpu.py [--minutes 8] [--out FILE]     on a machine with one GPU, into results/gpu.json
    python tools/gpu.py --cpu --out FILE               every part on a CPU with small sizes: a trial, not a measurement
    python tools/gpu.py --pack                         what a machine without a network lacks, into .cache/gpu (57 MB)

Needs torch, transformers, safetensors, jaxtyping, scikit-learn, scipy and matplotlib; nothing has to be installed, and no network is used.
Text weights are the package's, else those in .cache/gpu, else random ones of the same shape. MMSA is the one of `.venv-mmsa`, else the
wheels in .cache/gpu; without either there is no ratio. The file is written after each part, so a run that is cut leaves what it had;
a part that fails leaves its message, the next one goes on, and the exit code is 1.
"""

import argparse
import ast
import dis
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import CodeType

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import benchmark as bench  # noqa: E402
import torch  # noqa: E402
from claims import pages  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from dmsil import covariance, encoders  # noqa: E402
from dmsil.checkpoints import rounded, write_json  # noqa: E402
from dmsil.clips import Clips, Split, Steps, Tokens, Vectors  # noqa: E402
from dmsil.labels import LabelGenerator  # noqa: E402
from dmsil.objective import multitask_loss  # noqa: E402
from dmsil.prediction import predict  # noqa: E402
from dmsil.presets import preset  # noqa: E402
from dmsil.trainer import Trainer, forward_backward, train_epoch  # noqa: E402

RESULT = ROOT / "results" / "gpu.json"
PACKED = ROOT / ".cache" / "gpu"
PAIRS = (("text", "audio", 0.3), ("text", "vision", -0.3), ("audio", "vision", 0.3))
UNITS = (
    "_s",
    "_ms",
    "_MB",
    "_count",
    "_relative",
    "_absolute",
    "_share",
    "_ratio",
    "_clips",
    "_columns",
    "_min",
)  # ends of keys
VOCABULARY = 30_522  # word pieces of MiniLM
CLS = 101  # the one that begins a sentence


@dataclass(frozen=True)
class Sizes:
    "How large the parts are."

    clips: int = 4096  # drawn for training
    steps: dict = field(
        default_factory=lambda: {"audio": (500, 5), "vision": (375, 20)}
    )  # longest, columns: MOSI's shape
    pieces: int = 50  # the longest sentence
    batch: int = 64  # clips in a timed step
    batches: tuple = (32, 128, 512, 2048, 4096)  # of the throughput
    repeats: int = 20  # of each timing
    bert: tuple = (384, 6, 12, 1536)  # width, layers, heads, inner width of random text weights
    pairs: tuple = ((32, 128), (512, 128), (512, 768), (4096, 128), (4096, 768), (16384, 1024))  # rows, columns
    labels: tuple = (1_000, 10_000, 100_000, 1_000_000)  # clips of a label update
    copied_MB: int = 1024  # for the bandwidth
    compiler: str = "inductor"
    mmsa: tuple = (1284, 229, 686)  # clips beside MMSA


SMALL = Sizes(
    96,
    {"audio": (12, 5), "vision": (9, 20)},
    9,
    16,
    (16, 32),
    2,
    (384, 2, 12, 96),
    ((8, 16), (64, 16)),
    (1_000, 10_000),
    4,
    "aot_eager",
    (70, 12, 12),
)


@dataclass
class Setup:
    "Where the parts run."

    device: torch.device
    sizes: Sizes
    seed: int
    brought: Path = PACKED  # what was brought along
    text: str = ""  # folder of the text encoder
    scratch: Path = Path()

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"


class OutOfTime(BaseException):
    "The run's time is spent; no `except Exception` on the way keeps it."


# ---------------------------------------------------------------- text weights where the package is not installed


def random_text(folder: Path, shape: tuple) -> None:
    "A BERT of a shape with random weights, and a tokenizer that spells words out."
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel

    width, layers, heads, inner = shape
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                        intermediate_size=inner)  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    special = [
        "[PAD]",
        *(f"[unused{i}]" for i in range(99)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]  # as BERT numbers them
    letters = [chr(i) for i in range(33, 127)]
    words = [*special, *letters, *(f"##{c}" for c in letters)]
    words += [f"word{i}" for i in range(len(words), VOCABULARY)]
    BertWordPieceTokenizer({word: i for i, word in enumerate(words)}).save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    about = names | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def text_folder(setup: Setup) -> tuple[str, str]:
    "A folder that `transformers` can load, and what lies in it."
    made, carried = setup.scratch / "text", setup.brought / "minilm"
    if setup.gpu:
        with suppress(Exception):
            return encoders.text_weights(), "MiniLM"
        if (carried / "model.safetensors").exists():
            return str(carried), "MiniLM, weights rounded to half precision"
    random_text(made, setup.sizes.bert)
    return str(made), "random weights of MiniLM's shape" if setup.gpu else "random weights, two layers"


def pack() -> None:
    "MiniLM in half precision, and MMSA's wheels for Python 3.12 on Linux, for a machine without a network."
    from safetensors.torch import load_file, save_file

    source, folder = Path(encoders.text_weights()), PACKED / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: w.half() if w.is_floating_point() else w for k, w in load_file(source / "model.safetensors").items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((source / "config.json").read_text()) | {
        "dtype": "float32",
        "torch_dtype": "float32",
    }  # to compute in
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    platforms = [f"--platform={name}" for name in ("manylinux_2_28_x86_64", "manylinux2014_x86_64")]
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.12",
    ]
    subprocess.run(
        [*download, *platforms, "--dest", PACKED / "wheels", "MMSA==2.2.1", "pandas==3.0.5", "easydict"], check=True
    )
    size = sum(path.stat().st_size for path in PACKED.rglob("*") if path.is_file())
    print(f"{PACKED.relative_to(ROOT)}: {size / 1e6:.1f} MB")


# ---------------------------------------------------------------- clips and runs


def drawn(sizes: Sizes, n: int, seed: int, longest: bool = False) -> Split:
    "Clips of random words and sequences; labels that the first column of audio explains in part."
    g = torch.Generator().manual_seed(seed)
    lengths = lambda most: (
        torch.full((n,), most) if longest else (torch.rand(n, generator=g) ** 2 * (most - 3)).long() + 3
    )
    L, inputs = lengths(sizes.pieces), {}
    ids = torch.randint(1000, VOCABULARY, (n, sizes.pieces), generator=g)
    ids[:, 0] = CLS
    inputs["text"] = Tokens(ids.where(torch.arange(sizes.pieces) < L[:, None], 0), L)
    for name, (most, width) in sizes.steps.items():
        L, values = lengths(most), torch.randn(n, most, width, generator=g)
        inputs[name] = Steps(values * (torch.arange(most) < L[:, None])[..., None], L)
    labels = (inputs["audio"].values[:, 0, 0] + 0.5 * torch.randn(n, generator=g)).clamp(-3, 3)
    return Split(tuple(map(str, range(n))), inputs, labels)


def drawn_clips(setup: Setup, n: int, double: bool = False) -> Clips:
    parts = [drawn(setup.sizes, size, setup.seed + i) for i, size in enumerate((n, 64, 8))]
    return Clips("drawn", *(map(bench._in_double, parts) if double else parts))


def made(
    setup: Setup, clips: Clips, device=None, frozen: bool = False, model: dict | None = None, **changes
) -> Trainer:
    "A run with kappa's signs on three pairs; a frozen text encoder is its vectors, drawn."
    if frozen:
        vectors = lambda part: replace(
            part, inputs=part.inputs | {"text": Vectors(torch.randn(len(part), setup.sizes.bert[0]))}
        )
        torch.manual_seed(setup.seed)
        clips = replace(clips, **{name: vectors(part) for name, part in clips.splits.items()})
    about = {
        "measure": "kappa",
        "pairs": PAIRS,
        "whitening": 0.1,
        "floor": 0.1,
        "seed": setup.seed,
        "batch_size": setup.sizes.batch,
    }
    run = Trainer(
        clips,
        preset("dmsil", text=setup.text, **about | {"device": str(device or setup.device)} | (model or {}) | changes),
    )
    run.model.train()
    return run


def step(run: Trainer, rows: torch.Tensor) -> None:
    "One step of the optimiser, as `train_epoch` takes it, over one batch or as many as are accumulated."
    forward_backward(run, *rows.tensor_split(run.config.accumulate))
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)


# ---------------------------------------------------------------- 1. the cells that carry the directive cuda

DIRECTIVE = re.compile(r"^#\|[ \t]*cuda\b", re.MULTILINE)


def close(a, b, eps: float = 1e-5) -> None:
    "Every entry nearer than eps."
    a, b = (torch.as_tensor(x).detach().cpu().double() for x in (a, b))
    assert a.shape == b.shape and bool(((a - b).abs() < eps).all()), (
        f"{(a - b).abs().max().item():.3g} apart, allowed {eps:g}"
    )


def equal(a, b) -> None:
    assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{a} is not {b}"


STANDINS = {"test_close": close, "test_eq": equal, "display": print}  # for fastcore.test and IPython


def _codes(code: CodeType):
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def names(node: ast.stmt) -> tuple[set, set, set]:
    """Global names that a statement reads, those it binds, and those that its functions read when they are called.
    A method called on a name, or an attribute set, both reads and binds it."""
    outer, *inner = _codes(compile(ast.Module([node], []), "cell", "exec"))
    at = lambda codes, kinds: {i.argval for c in codes for i in dis.get_instructions(c) if i.opname in kinds}
    late = at(inner, ("LOAD_NAME", "LOAD_GLOBAL"))
    reads, binds = late | at([outer], ("LOAD_NAME", "LOAD_GLOBAL")), at([outer], ("STORE_NAME", "STORE_GLOBAL"))
    target = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    target = node.targets[0] if isinstance(node, ast.Assign) else target
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
        if isinstance(target, ast.Name):
            binds, reads = binds | {target.id}, reads | {target.id}
    return reads, binds, late


def needed(before: list[str], cell: str, known: set[str]) -> str:
    "The statements of earlier cells that a cell's names come from, in their order."
    nodes = [(node, *names(node)) for source in before for node in ast.parse(source).body]
    first = set().union(*(names(node)[0] for node in ast.parse(cell).body)) - known
    while True:
        wanted, kept, later = set(first), [], set()
        for node, reads, binds, late in reversed(nodes):
            if binds & wanted:
                kept.append(ast.unparse(node))
                plain = (
                    isinstance(node, (ast.Assign, ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))
                    and not binds & reads
                )
                wanted = (wanted - binds if plain else wanted) | (reads - known)
                later |= late - known
        if later <= first:  # what a function reads may be bound after it
            return "\n".join(reversed(kept))
        first |= later


def on_cpu(source: str) -> str:
    "The same cell for a trial without a GPU."
    source = re.sub(r"torch\.cuda\.set_sync_debug_mode\(.*?\)", "None", source)
    return source.replace("torch.cuda.is_available()", "True").replace(".cuda()", ".cpu()").replace('"cuda"', '"cpu"')


def gpu_cells() -> list[tuple[str, str, list[str]]]:
    "Page, source and the plain cells before it, of every cell with the directive cuda."
    found = []
    for page in pages():
        before, skip = [], re.compile(r"^#\|[ \t]*(export|slow|cuda|eval: false)|^[ \t]*[%!]", re.MULTILINE)
        for cell in json.loads((ROOT / page).read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and DIRECTIVE.search(source):
                found.append((page, source, list(before)))
            elif cell["cell_type"] == "code" and not skip.search(source):
                before.append(source)
    return found


def run_cell(page: str, source: str, before: list[str], gpu: bool) -> None:
    "One cell in the names of its page's module, after the statements that it builds on."
    module = import_module(f"dmsil.{re.sub(r'^[0-9]+_', '', Path(page).stem)}")
    space = {"__name__": "cell"} | {k: v for k, v in vars(module).items() if not k.startswith("__")} | STANDINS
    setting = needed(before, source, set(STANDINS))
    exec(compile(setting, f"{page}, before the cell", "exec"), space)
    exec(compile(source if gpu else on_cpu(source), page, "exec"), space)


def cells(setup: Setup, out: dict) -> None:
    out["rows"] = []
    for page, source, before in gpu_cells():
        start, here, row = perf_counter(), os.getcwd(), {"page": page, "ok": True}
        os.chdir((ROOT / page).parent)
        try:
            run_cell(page, source, before, setup.gpu)
        except Exception as error:
            row |= {"ok": False, "error": short(error)}
        finally:
            os.chdir(here)
            torch.set_default_dtype(torch.float32)
            if setup.gpu:
                torch.cuda.set_sync_debug_mode("default")
        out["rows"].append(row | {"time_s": perf_counter() - start})
    out["cells_count"] = len(out["rows"])
    out["ok"] = all(row["ok"] for row in out["rows"])


# ---------------------------------------------------------------- 2. agreement with the CPU

KINDS = ("features", "losses", "gradients", "labels", "epoch")
TOLERANCES = {
    "float32": dict(zip(KINDS, (1e-5, 1e-5, 1e-4, 1e-4, 1e-4), strict=True)),
    "tf32": dict(zip(KINDS, (5e-3, 2e-3, 3e-2, 1e-2, 5e-3), strict=True)),
    "bfloat16": dict(zip(KINDS, (3e-2, 1e-2, 0.15, 3e-2, 2e-2), strict=True)),
}


@contextmanager
def multiplied(mode: str):
    "Matrix products and LSTMs of single precision with or without TF32."
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if mode == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = mode == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def record(run: Trainer, damage: float = 0.0) -> dict[str, torch.Tensor]:
    "Features, losses, gradients and moved labels of one batch, and predictions after an epoch; no dropout."
    n = run.config.batch_size
    bench.without_dropout(run.model)
    with torch.no_grad():
        for w in run.model.parameters():
            w += damage * w.abs().mean()
    features = predict(run.model, run.clips.valid, precision=run.config.precision)[1]
    run.epoch = 1
    losses = forward_backward(run, torch.arange(n))
    gradients = torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])
    run.epoch = 2
    forward_backward(run, torch.arange(n))
    labels = torch.stack(list(run.generator.labels.values()))[:, :n].clone()
    run.optimiser.zero_grad(set_to_none=True)
    train_epoch(run)
    run.model.eval()
    epoch = (
        predict(run.model, run.clips.valid, precision=run.config.precision)[0]["fusion"]
        / run.clips.valid.labels.std().cpu()
    )
    found = {"features": torch.cat(list(features.values()), 1), "losses": torch.stack(list(losses.values())), "gradients": gradients,
             "labels": labels, "epoch": epoch}  # fmt: skip
    return {name: x.detach().double().cpu() for name, x in found.items()}


def apart(a: dict, b: dict) -> dict[str, float]:
    """Distances over the size of b. Of labels, which have a pole (P23), the distance that nine in ten keep, over the bound; of predictions
    after an epoch, which are still small, the root mean square over the spread of the true labels."""
    found = {
        f"{name}_relative": ((a[name] - b[name]).norm() / b[name].norm()).item()
        for name in ("features", "losses", "gradients")
    }
    found["labels_relative"] = ((a["labels"] - b["labels"]).abs().quantile(0.9) / 3).item()
    return found | {"epoch_relative": (a["epoch"] - b["epoch"]).square().mean().sqrt().item()}


def within(found: dict[str, float], mode: str) -> bool:
    return all(found[f"{name}_relative"] <= most for name, most in TOLERANCES[mode].items())


def agreement(setup: Setup, out: dict) -> None:
    n = 2 * setup.sizes.batch
    shared = {"lr_text": 1e-5, "batch_size": setup.sizes.batch, "labels": "selfmm"}
    reference = made(setup, drawn_clips(setup, n, double=True), "cpu", **shared)
    for part in (reference.model, reference.alignment):
        part.double()
    exact = record(reference)
    del reference
    out |= {"reference": "the CPU in double precision", "modes": {}, "tolerances": {}}
    for mode, limits in TOLERANCES.items():
        with multiplied(mode):
            run = made(
                setup, drawn_clips(setup, n), precision="bfloat16" if mode == "bfloat16" else "float32", **shared
            )
            found = apart(record(run), exact)
        out["modes"][mode] = found | {"ok": within(found, mode)}
        out["tolerances"][mode] = {f"{name}_relative": most for name, most in limits.items()}
    with multiplied("float32"):
        damaged = apart(record(made(setup, drawn_clips(setup, n), **shared), damage=0.01), exact)
    out["damaged"] = damaged | {"seen": not within(damaged, "float32")}
    out["ok"] = all(row["ok"] for row in out["modes"].values()) and out["damaged"]["seen"]


# ---------------------------------------------------------------- 3. does a step wait for the device?

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
)
FETCHING = ("cpu", "tolist", "numpy", "item")


class Waits(TorchDispatchMode):
    """A stand-in for CUDA's own mode, for a CPU: what was moved to the device, and all that is computed from it, counts as being there.
    Noted are copies that block, values that the host fetches, sizes that depend on values, and operands on two sides."""

    def __init__(self, there):
        super().__init__()
        self.storages, self.found = {}, []
        self.hold(there)
        self.calls = _Calls(self)

    def hold(self, tensors):
        for x in tree_leaves(tensors):
            if isinstance(x, torch.Tensor) and x.numel():
                self.storages[x.untyped_storage().data_ptr()] = (
                    x.untyped_storage()
                )  # held, so that no other tensor gets its place

    def holds(self, x) -> bool:
        return isinstance(x, torch.Tensor) and x.numel() > 0 and x.untyped_storage().data_ptr() in self.storages

    def note(self, what: str) -> None:
        self.found.append(f"{what} in {place(traceback.extract_stack())}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        out, name = func(*args, **kwargs or {}), func.__name__.split(".")[0]
        if any(map(self.holds, tensors)):
            far = [x for x in tensors if x.numel() and x.dim() and not self.holds(x)]
            if name in WAITING or (name.startswith("index") and any(x.dtype == torch.bool for x in tensors[1:])):
                self.note(name)
            packs = name.startswith("_pack_padded")  # lengths and batch sizes stay on the host
            if far and not packs and "rnn" not in name and "lstm" not in name:
                self.note(f"{name} with an operand on the host")
            self.hold(out[0] if packs and isinstance(out, tuple) else out)
        return out

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)


class _Calls(TorchFunctionMode):
    "What a CPU makes nothing of: `.to(device)`, `.cpu()`, and tensors that are made on the device."

    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        there = args and isinstance(args[0], torch.Tensor) and self.waits.holds(args[0])
        if name in FETCHING and there:
            self.waits.note(name)
        out = func(*args, **kwargs)
        if (
            name == "to"
            and isinstance(out, torch.Tensor)
            and not there
            and any(_is_device(x) for x in (*args[1:], *kwargs.values()))
        ):
            if not kwargs.get("non_blocking"):
                self.waits.note("a copy that blocks")
            out = out.clone()
            self.waits.hold(out)
        elif kwargs.get("device") is not None and isinstance(out, torch.Tensor) and name != "to":
            self.waits.hold(out)
        return out


def _is_device(x) -> bool:
    name = isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda")
    return name or isinstance(x, torch.device) or (isinstance(x, torch.Tensor) and x.dim() > 0)


def place(stack) -> str:
    "The innermost line of the package; the backward pass has none."
    lines = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in stack if Path(f.filename).parent == ROOT / "dmsil"]
    return lines[-1] if lines else "the optimiser or the backward pass"


def on_device(run: Trainer) -> list:
    "Every tensor of a run that lives on its device."
    held = [*run.model.parameters(), *run.model.buffers(), *run.generator.buffers(), run.clips.train.labels]
    held += [] if run.alignment is None else [*run.alignment.parameters(), *run.alignment.buffers()]
    held += [x.ids if isinstance(x, Tokens) else x.values for x in run.clips.train.inputs.values()]
    return held + tree_leaves(run.optimiser.state_dict()["state"])


def waits_of(run: Trainer, call) -> list[str]:
    "Every point of a call at which the host waits for the device."
    if run.device.type != "cuda":
        with Waits(on_device(run)) as waits:
            call()
        return waits.found
    found, show = [], warnings.showwarning
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: found.append(
            f"{short(message)} in {place(traceback.extract_stack())}"
        )
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = show
    return [line for line in found if "called a synchronizing" in line]  # not the warning that the mode is a prototype


VARIANTS = {
    "fine-tuned text": {},
    "fine-tuned text, bfloat16": {"precision": "bfloat16"},
    "fine-tuned text, two batches together": {"accumulate": 2},
    "frozen text": {"frozen": True},
    "statistics of the sequences": {"frozen": True, "model": {"sequence": "stats"}},
    "LSTM in both directions": {"frozen": True, "model": {"bidirectional": True}},
    "robust labels": {"frozen": True, "labels": "robust"},
    "correlation of the features": {"frozen": True, "measure": "corr"},
}


def waits(setup: Setup, out: dict) -> None:
    out["mode"] = "torch.cuda.set_sync_debug_mode" if setup.gpu else "a stand-in that follows tensors through a step"
    out["steps"] = {}
    for name, changes in VARIANTS.items():
        run = made(setup, drawn_clips(setup, 4 * setup.sizes.batch), **changes)
        rows = torch.randperm(len(run.clips.train))[: setup.sizes.batch * run.config.accumulate]
        call = partial(step, run, rows)
        run.epoch = 2
        call()  # what is made at the first step only: the optimiser's moments, cuDNN's plans
        found = waits_of(run, call)
        out["steps"][name] = row = {"waits_count": len(found), "where": sorted(set(found))}
        if setup.gpu:
            guarded(row, "passed", partial(strictly, call))
    out["ok"] = not errors(out) and all(row["waits_count"] == 0 for row in out["steps"].values())


def strictly(call) -> bool:
    "A call during which any waiting is an error."
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


# ---------------------------------------------------------------- 4. speed and memory


def ms(setup: Setup, call, repeats: int | None = None) -> float:
    "Median milliseconds of a call, until the device has finished."
    return 1000 * bench.clock(call, repeats or setup.sizes.repeats, 3)["wall"]


def guarded(row: dict, key: str, call) -> None:
    "One figure, or why there is none."
    try:
        row[key] = call()
    except Exception as error:
        row[f"{key}_error"] = short(error)


def parts_of(setup: Setup, run: Trainer, rows: torch.Tensor) -> dict[str, float]:
    "Milliseconds of the parts of a step, forward and backward, each by itself, and of the whole."
    inputs, row = {name: x.take(rows) for name, x in run.clips.train.inputs.items()}, {}

    def encoded(name):
        run.model.zero_grad(set_to_none=True)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"):
            e = run.model.encoders[name](inputs[name])
        e.sum().backward()

    features = {name: torch.rand(len(rows), d, device=run.device) for name, d in run.generator.dims.items()}
    there, leaves = rows.to(run.device), lambda: {s: h.clone().requires_grad_() for s, h in features.items()}
    for name in inputs:
        guarded(row, f"{name}_ms", lambda name=name: ms(setup, lambda: encoded(name)))
    guarded(row, "alignment_ms", lambda: ms(setup, lambda: run.alignment(leaves()).total.backward()))
    guarded(row, "labels_ms", lambda: ms(setup, lambda: run.generator.update(features, there, 2)))
    forward_backward(run, rows)
    guarded(row, "optimiser_ms", lambda: ms(setup, run.optimiser.step))
    guarded(row, "step_ms", lambda: ms(setup, lambda: step(run, rows)))
    return row


def core(run: Trainer, rows: torch.Tensor, forward):
    "A step with everything on the device beforehand, labels standing still: what a CUDA graph can hold."
    there = rows.to(run.device)
    inputs = {name: x.take(rows) for name, x in run.clips.train.inputs.items()}
    inputs |= {name: Steps(x.values, x.lengths.to(run.device)) for name, x in inputs.items() if isinstance(x, Steps)}
    labels = {"fusion": run.clips.train.labels[there]} | {s: y[there] for s, y in run.generator.labels.items()}
    weights = {s: run.generator.weights(s, there) for s in run.generator.labels}
    optimiser = torch.optim.AdamW(run.model.parameters(), lr=1e-4, fused=True, capturable=run.device.type == "cuda")

    def call():
        optimiser.zero_grad(set_to_none=True)
        out = forward(inputs)
        loss = multitask_loss({s: out.predictions[s] for s in labels}, labels, weights, run.alignment(out.features))
        loss.total.backward()
        optimiser.step()

    return call


def captured(call):
    "A call as a CUDA graph."
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def steps(setup: Setup, out: dict) -> None:
    "A step by part; what of it fits one, as a CUDA graph."
    rows = torch.arange(setup.sizes.batch)
    clips = drawn_clips(setup, 4 * setup.sizes.batch)
    for precision in ("float32", "bfloat16"):
        out[f"fine-tuned, {precision}"] = parts_of(setup, made(setup, clips, precision=precision), rows)
    out["frozen, float32"] = parts_of(setup, made(setup, clips, frozen=True), rows)
    out["without moving labels, frozen"] = row = {}
    run = made(setup, clips, frozen=True)
    guarded(row, "eager_ms", lambda: ms(setup, core(run, rows, run.model)))
    if setup.gpu:
        guarded(row, "graph_ms", lambda: ms(setup, captured(core(run, rows, run.model))))
    out["batch_clips"] = len(rows)
    out["ok"] = not errors(out)


def compiled(setup: Setup, out: dict) -> None:
    "A step with the network compiled; fine-tuned text is then padded in groups, each group a shape to compile for."
    rows = torch.arange(setup.sizes.batch)
    out |= {"compiler": setup.sizes.compiler, "batch_clips": len(rows)}
    for name in ("frozen", "fine-tuned") if setup.gpu else ("frozen",):
        torch._dynamo.reset()
        run, start, row = (
            made(setup, drawn_clips(setup, 4 * setup.sizes.batch), frozen=name == "frozen"),
            perf_counter(),
            {},
        )
        out[name] = row
        run.forward = torch.compile(run.model, backend=setup.sizes.compiler)
        guarded(row, "first_step_s", lambda run=run, start=start: step(run, rows) or perf_counter() - start)
        guarded(row, "step_ms", lambda run=run: ms(setup, lambda: step(run, rows)))
    out["ok"] = not errors(out)


def throughput(setup: Setup, out: dict) -> None:
    "Clips a second and the most memory, by batch, text and precision."
    clips, out["rows"] = drawn_clips(setup, setup.sizes.clips), []
    for frozen in (False, True):
        for precision in ("float32", "bfloat16"):
            run = made(setup, clips, frozen=frozen, precision=precision)
            for batch in setup.sizes.batches:
                row = {"text": "frozen" if frozen else "fine-tuned", "precision": precision, "batch_clips": batch}
                out["rows"].append(row)
                rows, repeats = (
                    torch.randperm(setup.sizes.clips)[:batch],
                    3 if batch > 1000 else setup.sizes.repeats // 2,
                )
                if setup.gpu:
                    torch.cuda.reset_peak_memory_stats()
                guarded(
                    row,
                    "step_ms",
                    lambda run=run, rows=rows, repeats=repeats: ms(setup, lambda: step(run, rows), repeats),
                )
                run.optimiser.zero_grad(set_to_none=True)
                if "step_ms" in row:
                    row["speed_clips_per_s"] = 1000 * batch / row["step_ms"]
                row["peak_MB"] = torch.cuda.max_memory_allocated() / 2**20 if setup.gpu else bench.peak_memory()
    out["ok"] = not errors(out)


def covariances(setup: Setup, out: dict) -> None:
    "Every measure of a pair, forward and backward, beside CORAL's matrix products and the time to read features and write gradients."
    x = torch.empty(setup.sizes.copied_MB * 2**18, device=setup.device).normal_()
    y = torch.empty_like(x)
    per_s = 2 * x.numel() * 4 / (ms(setup, lambda: y.copy_(x)) / 1000)
    out["bandwidth_GB_per_s"], out["rows"] = per_s / 1e9, []
    del x, y
    for n, d in setup.sizes.pairs:
        D = [torch.randn(n, d, device=setup.device) for _ in range(2)]
        row = {"batch_clips": n, "features_columns": d, "bandwidth_ms": 1000 * 4 * D[0].numel() * 4 / per_s}
        out["rows"].append(row)
        guarded(row, "products_ms", lambda D=D: ms(setup, lambda: bench.products(D)))
        for name in ("coral", "corr_coral", "coral_unbiased", "cka", "kappa", "rho2", "gaussian"):
            loss = getattr(covariance, name)
            guarded(row, f"{name}_ms", lambda D=D, loss=loss: ms(setup, lambda: bench.pairwise(loss, D)))
    out["ok"] = not errors(out)


def labels(setup: Setup, out: dict) -> None:
    "One update of 16 clips' labels among so many clips."
    out["rows"] = []
    for n in setup.sizes.labels:
        y, rows, features = bench._label_task(n, setup.seed)
        features, rows, row = (
            {s: h.to(setup.device) for s, h in features.items()},
            rows.to(setup.device),
            {"among_clips": n},
        )
        for mode in ("selfmm", "robust"):
            generator = LabelGenerator(y, bench.FEATURES, mode=mode).to(setup.device)
            generator.update(features, rows, 1)
            guarded(row, f"{mode}_ms", lambda g=generator, f=features, r=rows: ms(setup, lambda: g.update(f, r, 2)))
        out["rows"].append(row)
    out["ok"] = not errors(out)


# ---------------------------------------------------------------- 5. MMSA's Self-MM on the same device


def mmsa_python(setup: Setup) -> tuple[str | None, str]:
    "An interpreter that can import MMSA, or why there is none; the wheels that were brought along are unpacked."
    environment = ROOT / ".venv-mmsa"
    if setup.gpu and (environment / "ready").exists():
        return str(bench.mmsa_python(environment)), ""
    wheels = sorted((setup.brought / "wheels").glob("*.whl"))
    if not wheels:
        return None, "its wheels were not brought along"
    tag = f"-cp{sys.version_info.major}{sys.version_info.minor}-"
    for wheel in wheels:
        if "-cp" in wheel.name and tag not in wheel.name:
            continue
        with zipfile.ZipFile(wheel) as file:
            file.extractall(setup.scratch / "mmsa")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(setup.scratch / "mmsa"), os.environ.get("PYTHONPATH", "")])
    known = subprocess.run([sys.executable, "-c", "from benchmark import _mmsa_config; _mmsa_config()"], cwd=ROOT / "tools",
                           capture_output=True, text=True)  # fmt: skip
    return (sys.executable, "") if not known.returncode else (None, short(known.stderr.splitlines()[-1]))


def mmsa(setup: Setup, out: dict) -> None:
    "Agreement of both programs in double precision on the device; where they agree, epochs of both in turn."
    python, why = mmsa_python(setup)
    if python is None:
        out |= {"ok": True, "skipped": f"MMSA: {why}; so there is no ratio"}
        return
    config = bench.BenchConfig(corpus=str(ROOT.parent / "shared" / "data" / "mosi"), clips=setup.sizes.mmsa, epochs=2, repeats=3,
                               threads=os.cpu_count() if setup.gpu else 1, seed=setup.seed)  # fmt: skip
    task = bench.make_task(setup.scratch, "mosi", config) | {"device": str(setup.device)}
    pythons = {"ours": sys.executable, "mmsa": python}
    out["words"] = task["source"]
    gaps = bench.compare(task, pythons, config)
    unit = lambda key: key + ("_share" if key.startswith("within") else "_absolute")
    out["agreement"] = [
        {kind: {unit(k): x for k, x in row[kind].items()} for kind in row if kind != "epoch"} for row in gaps
    ]
    out["ok"] = all(map(bench.agrees, gaps))
    if not out["ok"]:
        out["skipped"] = "the two programs don't agree, so nothing is timed"
        return
    found = bench.timed(task, pythons, config, config.repeats, parts=False)
    out |= {f"{who}_epoch_s": found[who]["epoch_wall"] for who in pythons}
    out["mmsa_over_ours_ratio"] = bench.ratios(found)["epoch_wall"]


# ---------------------------------------------------------------- 6. several processes

MEETING = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
rank, world, kind, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
device = "cuda:0" if kind == "nccl" else "cpu"
dist.init_process_group(kind, init_method="file://" + file, rank=rank, world_size=world, timeout=timedelta(seconds=30))
x = torch.full((1000,), rank + 1.0, device=device)
dist.all_reduce(x)
assert x.tolist() == [world * (world + 1) / 2] * 1000
dist.destroy_process_group()
"""


def meet(setup: Setup, world: int) -> str:
    "Processes that add up a tensor on one device: 'met', or the last line of what went wrong."
    kind, file = "nccl" if setup.gpu else "gloo", setup.scratch / f"meeting-{world}"
    started = [subprocess.Popen([sys.executable, "-c", MEETING, str(rank), str(world), kind, str(file)], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True) for rank in range(world)]  # fmt: skip
    said = []
    for process in started:
        try:
            said.append(process.communicate(timeout=60)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            said.append("no answer in 60 s")
            process.communicate()
    if not any(process.returncode for process in started):
        return "met"
    lines = [line for text in said for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "uplicate GPU" in line), lines[-1] if lines else "no words")[-300:]


def processes(setup: Setup, out: dict) -> None:
    "One rank must start; NCCL refuses two on one GPU, and says so."
    out |= {
        "backend": "nccl" if setup.gpu else "gloo",
        "one rank": meet(setup, 1),
        "two ranks on one device": meet(setup, 2),
    }
    out["ok"] = out["one rank"] == "met"


# ---------------------------------------------------------------- the run

PARTS = {"cells": cells, "agreement": agreement, "waits": waits, "steps": steps, "throughput": throughput, "covariances": covariances,
         "labels": labels, "processes": processes, "mmsa": mmsa, "compiled": compiled}  # fmt: skip


def short(error) -> str:
    "One line of an error or warning, without paths."
    line = " ".join(str(error).split()).replace(f"{ROOT}/", "")
    name = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return (name + re.sub(r"/\S*/", "", line))[:300]


def errors(value) -> list[str]:
    "Every recorded error below a value."
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in ([v] if k.endswith("error") else errors(v))]
    return [x for v in value for x in errors(v)] if isinstance(value, list) else []


def about(setup: Setup, text: str, minutes: float) -> dict:
    "The machine and the software."
    gpu, version = setup.gpu, lambda name: import_module(name).__version__
    found = {"device": torch.cuda.get_device_name() if gpu else "cpu", "torch": version("torch"), "python": platform.python_version(),
             "transformers": version("transformers"), "cuda": torch.version.cuda, "text": text, "seed": setup.seed,
             "budget_min": minutes}  # fmt: skip
    if gpu:
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["memory_MB"] = torch.cuda.get_device_properties(0).total_memory / 2**20
    else:
        found["trial"] = "every part on a CPU with small sizes; no figure here is a measurement"
    return found


def in_time(seconds: float, call) -> None:
    "A call that an alarm ends."
    if seconds <= 0:
        raise OutOfTime
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def measure(
    device: str, path: Path, parts=tuple(PARTS), minutes: float = 8.0, seed: int = 1111, brought=PACKED, tell=print
) -> dict:
    "Every part in turn; the file is whole after each."
    start, sizes = perf_counter(), SMALL if device == "cpu" else Sizes()
    found = {}

    def save(finished: bool) -> None:
        found.update(time_s=perf_counter() - start, finished=finished)
        write_json(path, rounded(found, lambda x: float(f"{x:.4g}") if math.isfinite(x) else x))

    def spent(*_):
        raise OutOfTime

    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(torch.device(device), sizes, seed, brought, scratch=Path(scratch))
        torch.manual_seed(seed)
        setup.text, what = text_folder(setup)
        plain, encoders.text_weights = (
            encoders.text_weights,
            lambda name="minilm": setup.text if name == "minilm" else name,
        )
        before = signal.signal(signal.SIGALRM, spent)
        found |= about(setup, what, minutes) | {"parts": {}}
        try:
            for name in parts:
                out, begun = {}, perf_counter()
                found["parts"][name] = out
                try:
                    in_time(60 * minutes - (begun - start), partial(PARTS[name], setup, out))
                except OutOfTime:
                    out |= {"ok": False, "error": "the run's time was spent"}
                except Exception as error:
                    out |= {"ok": False, "error": short(error)}
                out["time_s"] = perf_counter() - begun
                if setup.gpu:
                    torch.cuda.empty_cache()
                tell(f"{name}: {'ok' if out['ok'] else out.get('error', 'not ok')}, {out['time_s']:.1f} s")
                save(name == parts[-1])
        finally:
            signal.signal(signal.SIGALRM, before)
            encoders.text_weights = plain
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file to write; results/gpu.json")
    parser.add_argument("--cpu", action="store_true", help="a trial on a CPU, which needs --out")
    parser.add_argument("--minutes", type=float, default=8.0, help="for the whole run; what is left then is skipped")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--seed", type=int, default=1111)
    parser.add_argument("--brought", type=Path, default=PACKED, help="what --pack made; .cache/gpu")
    parser.add_argument("--pack", action="store_true", help="fill .cache/gpu, and nothing else")
    given = parser.parse_args()
    if given.pack:
        return pack() or 0
    if given.cpu and (given.out is None or given.out.resolve() == RESULT):
        parser.error("--cpu needs --out with a file that is not results/gpu.json: a trial is not a measurement")
    if not given.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --cpu --out FILE tries every part without one")
    found = measure("cpu" if given.cpu else "cuda", given.out or RESULT, given.parts, given.minutes, given.seed, given.brought.resolve(),
                    partial(print, flush=True))  # fmt: skip
    return int(not all(part["ok"] for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
