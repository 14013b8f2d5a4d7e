"""Compares a bundle's graph of frozen features with PyTorch on rendered crops: their values, and what is made of them.

Features are compared by the cosine of the two vectors in a cell. So besides the outputs' relative differences (1e-4 for
an FP32 graph, 1e-2 for one whose weights are stored in FP16: each is rounded by up to 2^-11, in about 30 layers), the
cosine between a cell of the graph's map and of PyTorch's has a bound, and so has the change of the mean cosine between
a crop and its render, which is the score by which views and poses are ranked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx_session import import_onnxruntime
from export.data.stream import make_stream
from export.networks import FeaturesNet
from export.train.poses import OPS
from export.train.provenance import code_version
from export.verify.bundle import HARDNESS, SEED, VerificationError
from export.verify.engines import find_engines, run_all
from export.verify.outputs import compare_outputs, tolerance_of
from export.verify.report import plain

Array = np.ndarray[Any, Any]
ROLE = "features"
SAMPLES = 16
"""Pairs of a crop and its render."""
MIN_COSINE = 0.9999
"""Least cosine between a cell's features by the graph and by PyTorch."""
MAX_CHANGE = 1e-3
"""Largest change of the mean cosine between a crop and its render."""


def verify_features(bundle: Bundle, net: FeaturesNet, *, samples: int = SAMPLES, threads: int = 0) -> dict[str, Any]:
    """Return the report of the bundle's features, plain data for the manifest, if they pass on all engines here.

    Args:
        bundle: has the role; its graph is there, its manifest need not name it yet.
        net: the network that the graph was made of.
        samples: pairs of held-out procedural objects.
        threads: of ONNX Runtime; 0 = its own choice.

    Raises:
        VerificationError: a bound fails; it carries the report.
    """
    with make_stream(
        "refiner", bundle.input_size, batch_size=samples, workers=0, seed=SEED, hardness=HARDNESS, split="heldout"
    ) as stream:
        drawn = next(stream)
    images = OPS.as_network_image(np.concatenate([drawn.query, drawn.render]))
    with torch.inference_mode():
        maps = net.eval()(torch.from_numpy(np.ascontiguousarray(images)))
    wanted = {name: value.numpy() for name, value in maps._asdict().items()}
    precision = bundle.network(ROLE).precision
    engines = find_engines(bundle, threads)
    outputs, cosines = [], []
    for engine in engines.present:
        with engine.runner(ROLE) as runner:
            given = run_all(runner, {"image": images})
        outputs += compare_outputs(engine.name, ROLE, precision, wanted, given)
        cosines += [_cosines(engine.name, name, wanted[name], given[name]) for name in wanted]
    complaints = [row.complaint for row in outputs if not row.passed] + _complaints(cosines)
    report = {
        "verdict": "failed" if complaints else "passed",
        "reference": f"PyTorch {torch.__version__}, float32, CPU",
        "onnxruntime": import_onnxruntime().__version__,
        "code": code_version(),
        "graph": bundle.network(ROLE).sha256,
        "pairs": {"samples": samples, "seed": SEED, "sha256": hashlib.sha256(images.tobytes()).hexdigest()},
        "bounds": {
            "relative": tolerance_of(ROLE, precision).relative,
            "cosine_at_least": MIN_COSINE,
            "similarity_change": MAX_CHANGE,
        },
        "outputs": [plain(row) | {"bound": row.bound, "passed": row.passed} for row in outputs],
        "cosines": cosines,
        "engines_not_compared": dict(engines.absent),
    }
    if complaints:
        raise VerificationError(f"features of bundle {bundle.name} fail: {'; '.join(complaints[:3])}", report)
    return report


def _cosines(engine: str, name: str, wanted: Array, given: Array) -> dict[str, Any]:
    """Compare the maps [2N,C,H,W] of N crops and their N renders by angles."""
    before, after = (cosine(*np.split(maps, 2)).mean(axis=(1, 2)) for maps in (wanted, given))
    return {
        "engine": engine,
        "output": name,
        "least": float(cosine(wanted, given).min()),
        "similarity_change": float(np.abs(after - before).max()),
    }


def cosine(a: Array, b: Array) -> Array:
    """Return the cosines [N,H,W], float64, of the features in the cells of two maps [N,C,H,W]; 0 where one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(length, np.finfo(np.float64).tiny))


def _complaints(cosines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the cosines, a line each; NaN is."""
    out = []
    for row in cosines:
        where = f"{row['engine']}: {ROLE}/{row['output']}"
        if not row["least"] >= MIN_COSINE:
            out.append(f"{where}: least cosine of a cell {row['least']:.4g}, wanted at least {MIN_COSINE:g}")
        if not row["similarity_change"] <= MAX_CHANGE:
            out.append(f"{where}: similarity changed by {row['similarity_change']:.2g}, wanted at most {MAX_CHANGE:g}")
    return out
