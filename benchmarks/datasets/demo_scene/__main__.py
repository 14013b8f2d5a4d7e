"""`python -m benchmarks.datasets.demo_scene`: see the package's docstring."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.datasets.demo_scene import layout, render, sensor
from benchmarks.datasets.demo_scene.agreement import agreement, our_coverage
from benchmarks.datasets.demo_scene.files import MESHES, textures, write_meshes
from benchmarks.datasets.demo_scene.objects import OBJECTS
from coop_edge.mesh import Mesh

ROOT = Path(__file__).parents[3]


def detections(coverage: np.ndarray, seed: int = 0) -> list[dict[str, Any]]:
    """Return what a detector would say: the visible extent of each object, each side a little off, mostly outwards."""
    rng = np.random.default_rng(seed)
    found = []
    for name, seen in zip(OBJECTS, np.moveaxis(coverage, -1, 0), strict=True):
        rows, columns = np.nonzero((seen > 0.5).any(axis=1))[0], np.nonzero((seen > 0.5).any(axis=0))[0]
        low = np.array([columns[0], rows[0]], float)
        size = np.array([columns[-1] + 1, rows[-1] + 1]) - low
        before, after = (rng.uniform(-0.01, 0.04, 2) * size for _ in range(2))
        box = [*(low - before), *(size + before + after)]
        score = round(float(rng.uniform(0.88, 0.99)), 3)
        found.append({"object": name, "bbox": [round(float(v), 1) for v in box], "score": score})
    return found


def description(coverage: np.ndarray, made_by: str) -> dict[str, Any]:
    """Return the content of scene.json."""
    objects = {
        name: {"mesh": file, "unit": unit, "T_camera_object": layout.camera_object(name).tolist()}
        for name, (file, unit) in MESHES.items()
    }
    camera = {"K": layout.K.tolist(), "width": layout.WIDTH, "height": layout.HEIGHT}
    return {
        "made_by": made_by,
        "image": "image.png",
        "camera": camera,
        "detections": detections(coverage),
        "objects": objects,
    }


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write a PNG, as small as it gets."""
    done, data = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode the image")
    path.write_bytes(data.tobytes())


def report(folder: Path, coverage: np.ndarray) -> None:
    """Compare our renderer's outlines at the stated truth with Mitsuba's."""
    meshes = [Mesh.load(folder / file, unit=unit) for file, unit in MESHES.values()]
    poses = [layout.camera_object(name) for name in MESHES]
    ours = our_coverage(meshes, poses, layout.K, (layout.HEIGHT, layout.WIDTH))
    for name, mesh, a, b in zip(MESHES, meshes, ours, np.moveaxis(coverage, -1, 0), strict=True):
        print(f"{name}: diameter {mesh.diameter:.4f} m, {len(mesh.faces)} faces, {agreement(a, b)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=384, help="paths per pixel of the picture")
    parser.add_argument("--output", type=Path, default=ROOT / "coop_edge" / "demo", help="folder of the scene")
    truth = ROOT / "tests" / "data" / "demo_scene"
    parser.add_argument(
        "--coverage", type=Path, default=truth / "coverage.png", help="Mitsuba's coverage, for the tests"
    )
    variant = "Mitsuba's: llvm_ad_rgb is several times faster, and needs LLVM (DRJIT_LIBLLVM_PATH)"
    parser.add_argument("--variant", default="scalar_rgb", choices=("scalar_rgb", "llvm_ad_rgb"), help=variant)
    options = parser.parse_args()
    try:
        import mitsuba as mi
    except ImportError:
        raise SystemExit('Mitsuba is missing: pip install "mitsuba==3.9.1", into an environment of its own') from None
    mi.set_variant(options.variant)
    mi.set_log_level(mi.LogLevel.Error)
    write_meshes(options.output)
    shares = np.rint(np.clip(render.coverage(mi), 0.0, 1.0) * 255.0).astype(np.uint8)
    options.coverage.parent.mkdir(parents=True, exist_ok=True)
    write_picture(options.coverage, shares)
    coverage = shares / 255.0
    report(options.output, coverage)
    command = f"python -m benchmarks.datasets.demo_scene --samples {options.samples} --variant {options.variant}"
    made_by = f"{command} (Mitsuba {mi.__version__})"
    text = json.dumps(description(coverage, made_by), indent=1)
    (options.output / "scene.json").write_text(text + "\n")
    picture = sensor.expose(render.picture(mi, options.samples, textures()))
    write_picture(options.output / "image.png", picture)
    size = sum(p.stat().st_size for p in options.output.iterdir() if p.is_file())
    print(f"{options.output}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
