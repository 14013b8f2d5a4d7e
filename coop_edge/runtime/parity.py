"""Does a plan compute what its graph says? Held against ONNX Runtime on the CPU, on the spot, before it is kept.

Fed are smooth pictures and the tokens that the bundle's own encoder makes of them, not noise. Compared is, per output,
the RMS of the difference over the RMS of ONNX Runtime's values: at most 1e-3 where the graph is FP32 (TensorRT sums in
another order), 2e-2 where it is FP16 (2^-11 per rounding, over a few dozen layers). The coarse decoder also decides
(which match, or none): decisions between near equals may fall otherwise for 0.1 % and 2 % of the tokens, and its other
outputs are compared where the decisions agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from coop_edge.errors import EngineError

if TYPE_CHECKING:
    from coop_edge.runtime.base import Runner
    from coop_edge.runtime.bundle import Bundle

BOUNDS = {"fp32": 1e-3, "fp16": 2e-2}
DECISION_BOUNDS = {"fp32": 1e-3, "fp16": 2e-2}
SAMPLES = 3


def sample_feed(bundle: Bundle, role: str, samples: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a role's graph for N = ``samples``; the coarse decoder's come from the bundle's coarse encoder."""
    from coop_edge.runtime.onnx import OnnxRunner

    rng = np.random.default_rng(seed)
    pictures = [_pictures(rng, samples, bundle.input_size) for _ in range(2)]
    if role == "coarse_decoder":
        with OnnxRunner(bundle.network("coarse_encoder")) as encoder:
            pictures = [encoder.run({"image": picture})["tokens"].copy() for picture in pictures]
    names = [spec.name for spec in bundle.network(role).inputs]
    return dict(zip(names, pictures, strict=False))  # the coarse encoder takes one picture, all others two


def verify(runner: Runner, bundle: Bundle, role: str) -> dict[str, Any]:
    """Compare an open GPU runner with ONNX Runtime, for N = 1 and for its largest N. The report goes into the sidecar.

    Raises EngineError if an output is further off than the bounds allow, or not finite.
    """
    import cupy

    from coop_edge.runtime.onnx import OnnxRunner

    network = bundle.network(role)
    feed = sample_feed(bundle, role)
    with OnnxRunner(network) as reference:
        wanted = {name: array.copy() for name, array in reference.run(feed).items()}
    report: dict[str, Any] = {"against": "onnxruntime", "precision": network.precision, "outputs": {}}
    for batch in sorted({1, runner.max_batch or SAMPLES}):
        rows = np.arange(batch) % SAMPLES
        found = runner.run({name: cupy.asarray(array[rows]) for name, array in feed.items()})
        got = {name: cupy.asnumpy(array) for name, array in found.items()}
        for name, error in compare(got, {name: array[rows] for name, array in wanted.items()}).items():
            report["outputs"][name] = max(error, report["outputs"].get(name, 0.0))
    if too_far := failures(report["outputs"], network.precision):
        raise EngineError(f"{runner.label}: the plan does not compute what its graph says: {'; '.join(too_far)}")
    return report


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Per output the relative RMS error, and for "index" the share of decisions that differ. Not finite: inf."""
    agree: Any = ...
    errors = {}
    if "index" in wanted:
        agree = _decisions(found) == _decisions(wanted)
        errors["index"] = float(np.mean(~agree))
    for name, reference in wanted.items():
        if name == "index":
            continue
        a, b = found[name][agree].astype(np.float64), reference[agree].astype(np.float64)
        finite = np.isfinite(found[name]).all() and b.size > 0
        scale = max(float(np.sqrt(np.mean(b**2))), 1e-12) if finite else 1.0
        errors[name] = float(np.sqrt(np.mean((a - b) ** 2))) / scale if finite else float("inf")
    return errors


def _decisions(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The match of each token, -1 for none."""
    return np.where(outputs["probability"] > 0, outputs["index"], -1)


def failures(errors: Mapping[str, float], precision: str) -> list[str]:
    """What is out of bounds, as readable parts of a sentence."""
    found = []
    for name, error in errors.items():
        bound = (DECISION_BOUNDS if name == "index" else BOUNDS)[precision]
        if not error <= bound:
            kind = "of the decisions differ" if name == "index" else "relative RMS error"
            found.append(f"{name} {error:.2g} {kind}, at most {bound:g} allowed for {precision}")
    return found


def _pictures(rng: np.random.Generator, samples: int, size: int) -> np.ndarray:
    """Smooth colour pictures [samples, 3, size, size] in [0, 1]: a few waves of random direction and length."""
    grid = np.linspace(0.0, 1.0, size)
    waves = rng.uniform(-4.0, 4.0, (samples, 3, 4, 2))  # periods per picture
    phase = rng.uniform(0.0, 2 * np.pi, (samples, 3, 4))
    angle = (
        2 * np.pi * (waves[..., 0, None, None] * grid[:, None] + waves[..., 1, None, None] * grid)
        + phase[..., None, None]
    )
    return np.ascontiguousarray(0.5 + 0.5 * np.mean(np.sin(angle), axis=2), dtype=np.float32)
