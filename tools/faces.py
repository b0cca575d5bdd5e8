"""What became of one face in pictures and videos made from it, into results/faces.json: python tools/faces.py [MINUTES]

It takes pip install "dmsil[vision]", ffmpeg, and for the ten minutes of its longest video about as long; with 0 minutes the speed
stays as it was.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import Delaunay

from dmsil.checkpoints import write_json
from dmsil.faces import FACE_COLUMNS, SHAPES, face_table, follow, landmarker, rows_of

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "tests" / "data" / "face.jpg"  # Eileen Collins, NASA, public domain
GREY = (120, 120, 120)


def scene(*faces, size=(1280, 720), picture=None) -> np.ndarray:  # faces: left, top and side of the picture in it
    "Pictures of the face before grey."
    out, picture = Image.new("RGB", size, GREY), picture or Image.open(PICTURE)
    for left, top, side in faces:
        out.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return np.array(out)


def measured(look, picture: np.ndarray) -> np.ndarray | None:  # FACE_COLUMNS
    "The face of one picture, as in a video of two."
    seen = follow([picture] * 2, look, second=1).faces
    return None if None in seen else rows_of(seen)[1]


def mesh_of(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Points of the face in pixels, with depth, and triangles between them."
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    from dmsil.faces import weights

    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_buffer=weights()))
    with vision.FaceLandmarker.create_from_options(options) as network:
        found = network.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(picture)))
    h, w, _ = picture.shape
    points = np.array([(p.x * w, p.y * h, p.z * w) for p in found.face_landmarks[0][:468]])
    return points, Delaunay(points[:, :2]).simplices


def turned(picture: np.ndarray, mesh, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    "The face, in degrees, to the picture's right and down: its mesh turned and painted, what is far first."
    points, triangles = mesh
    (a, b), centre = np.radians((yaw, pitch)), points.mean(0) * (1, 1, 0) + (0, 0, points[:, 2].max())
    Ry = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    Rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    moved, out = (points - centre) @ (Ry @ Rx).T + centre, picture.astype(float)
    for t in triangles[np.argsort(-moved[triangles, 2].mean(1))]:
        to, source = moved[t, :2], points[t, :2]
        E, S = np.stack([to[1] - to[0], to[2] - to[0]], 1), np.stack([source[1] - source[0], source[2] - source[0]], 1)
        if np.linalg.det(E) * np.linalg.det(S) <= 0:
            continue  # seen from behind
        (x0, y0), (x1, y1) = np.floor(to.min(0)).astype(int), np.ceil(to.max(0)).astype(int) + 1
        X, Y = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
        uv = (np.stack([X, Y], -1) - to[0]) @ np.linalg.inv(E).T
        inside = (uv > -0.02).all(-1) & (uv.sum(-1) < 1.02)
        at = np.rint(source[0] + uv @ S.T).astype(int)
        out[Y[inside], X[inside]] = picture[at[..., 1][inside], at[..., 0][inside]]
    return out.astype(np.uint8)


def seen_again(look, pictures: dict) -> dict:
    "What the same face measures in other pictures, beside the first."
    found = {name: measured(look, picture) for name, picture in pictures.items()}
    first = next(iter(found.values()))
    off = [np.abs(x - first) for x in found.values() if x is not None]
    angles, shapes = [x[len(SHAPES) : len(SHAPES) + 3].max() for x in off], [x[: len(SHAPES)].max() for x in off]
    return {
        "pictures": len(pictures),
        "found": len(off),
        "angle_off_by": float(max(angles)),
        "shape_off_by": float(max(shapes)),
    }


def one_look(look) -> dict:
    "A face off the middle of what is looked at, and small in it."
    base = scene((400, 100, 560))
    face = next(face for face in follow([base] * 2, look, second=1).faces if face)
    side, off, share = round(2.5 * face.size), [], []
    for dx in np.linspace(-0.3, 0.3, 7) * side:
        found = look(base, (round(face.x - side / 2 + dx), round(face.y - side / 2), side))
        off += [np.abs(np.subtract(found[0].angles, face.angles)).max()] if found else []
    for k in range(2, 16):
        side = round(k * face.size)
        share += (
            [k]
            if look(
                np.pad(base, ((2000,) * 2,) * 2 + ((0,) * 2,)),
                (round(2000 + face.x - side / 2), round(2000 + face.y - side / 2), side),
            )
            else []
        )
    return {"turned_at_the_edge": float(max(off)), "smallest_share": float(1 / max(share))}


def trials(look) -> dict:
    base = scene((400, 100, 560))
    at, picture, rng = FACE_COLUMNS.index("yaw"), Image.open(PICTURE), np.random.default_rng(0)
    places = {f"{x} {y}": scene((x, y, 560)) for x in (400, 0, 200, 720) for y in (100, 0, 160)}
    sizes = {side: scene((640 - side // 2, 20, side)) for side in (560, 700, 400, 280, 200)}
    noisy = [np.clip(base + rng.normal(0, 8, base.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    spread = np.std([measured(look, picture) for picture in noisy], axis=0)
    rolls = {
        d: scene((400, 100, 560), picture=picture.rotate(d, Image.Resampling.BICUBIC, fillcolor=GREY))
        for d in range(-60, 61, 15)
    }
    mesh, plain = mesh_of(base), measured(look, base)
    turns = {
        "roll": {d: x[at + 2] - plain[at + 2] for d, p in rolls.items() if (x := measured(look, p)) is not None},
        "yaw": {
            d: x[at] - plain[at]
            for d in range(-50, 51, 10)
            if (x := measured(look, turned(base, mesh, yaw=d))) is not None
        },
        "pitch": {
            d: x[at + 1] - plain[at + 1]
            for d in range(-30, 31, 10)
            if (x := measured(look, turned(base, mesh, pitch=d))) is not None
        },
    }
    small = [side for side in range(200, 40, -10) if measured(look, scene((600, 300, side))) is not None]
    head = measured(look, base), next(f for f in follow([base] * 2, look, second=1).faces if f)
    return {
        "one_look": one_look(look),
        "elsewhere": seen_again(look, places),
        "other_sizes": seen_again(look, sizes),
        "noise_of_8_levels": {"angle_sd": float(spread[at : at + 3].max()), "shape_sd": float(spread[: len(SHAPES)].max())},
        "smallest_found": {"pixels": round(head[1].size * min(small) / 560), "of_width": 1280},
        "turns": {name: {str(d): round(float(v), 1) for d, v in found.items()} for name, found in turns.items()},
    }  # fmt: skip


def film(path: Path, seconds: float) -> None:
    "720 lines, 25 pictures a second, the face on the move, noise."
    words = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", f"color=gray:1280x720:r=25:d={seconds}"]
    words += ["-loop", "1", "-framerate", "25", "-i", str(PICTURE), "-filter_complex"]
    words += [
        "[1]scale=480:480[f];[0][f]overlay=x='400+200*sin(t)':y='120+60*cos(t/2)':shortest=1,noise=alls=6:allf=t[v]"
    ]
    subprocess.run(
        [*words, "-map", "[v]", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", str(path)], check=True
    )


def speed(seconds: float) -> dict:
    "A video on one core."
    with tempfile.TemporaryDirectory() as folder:
        film(path := Path(folder) / "long.mp4", seconds)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        used = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        before, began = used(), time.perf_counter()
        table = face_table(path, seconds, [], progress=True)
        wall, cpu = time.perf_counter() - began, used() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds_of_video": seconds,
        "pictures": len(table),
        "with_face": int((~np.isnan(table[:, 1])).sum()),
        "cpu_s_per_s": cpu / seconds,
        "wall_s_per_s": wall / seconds,
        "memory_MB": memory,
    }


def rounded(x):
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return float(f"{x:.3g}") if isinstance(x, float) else x


def main(minutes: float) -> None:
    path = ROOT / "results" / "faces.json"
    with landmarker() as look:
        found = trials(look)
    kept = json.loads(path.read_text(encoding="utf-8"))["speed"] if not minutes else speed(60 * minutes)
    write_json(path, rounded(found | {"speed": kept}))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
