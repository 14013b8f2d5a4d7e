"""Holds a plan against ONNX Runtime on the CPU, before it is kept.

Both read smooth pictures, and the tokens that the bundle's own encoder makes of them, not noise. The bounds are looser
than an export's, because TensorRT sums in another order and FP16 rounds by 2^-11 over a few dozen layers. The logits
are not at hand, so every changed decision of the coarse decoder counts as a tie.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coop_edge.errors import EngineError
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.runtime.parity import AnyDecision, Outputs, Tolerance, compare

TOLERANCE = {"fp32": Tolerance(None, 1e-3, ties=1e-3), "fp16": Tolerance(None, 2e-2, ties=2e-2)}
"""By the precision of the graph."""
SAMPLES = 3


def sample_feed(bundle: Bundle, role: str, samples: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of a role's graph, N = ``samples``; the coarse decoder's come from the bundle's coarse encoder."""
    rng = np.random.default_rng(seed)
    pictures = [_pictures(rng, samples, bundle.input_size) for _ in range(2)]
    if role == "coarse_decoder":
        with OnnxRunner(bundle.network("coarse_encoder")) as encoder:
            pictures = [encoder.run({"image": picture})["tokens"].copy() for picture in pictures]
    names = [spec.name for spec in bundle.network(role).inputs]
    return dict(zip(names, pictures, strict=False))  # encoder and features take one picture, the others two


def verify(runner: Runner, bundle: Bundle, role: str) -> dict[str, Any]:
    """Compare an open GPU runner with ONNX Runtime, for N = 1 and for its largest N.

    Returns:
        The report for the plan's sidecar: per output the relative L2 difference, of ``index`` the share of ties.

    Raises:
        EngineError: an output is further off than ``TOLERANCE`` allows, or not finite.
    """
    import cupy

    network = bundle.network(role)
    feed = sample_feed(bundle, role)
    with OnnxRunner(network) as reference:
        wanted = {name: array.copy() for name, array in reference.run(feed).items()}
    outputs: dict[str, float] = {}
    complaints: list[str] = []
    for batch in sorted({1, runner.max_batch or SAMPLES}):
        rows = np.arange(batch) % SAMPLES
        found = runner.run({name: cupy.asarray(array[rows]) for name, array in feed.items()})
        got = {name: cupy.asnumpy(array) for name, array in found.items()}
        figures, wrong = judge({name: array[rows] for name, array in wanted.items()}, got, network.precision)
        complaints += [f"N = {batch}: {complaint}" for complaint in wrong]
        outputs = {name: max(figure, outputs.get(name, 0.0)) for name, figure in figures.items()}
    if complaints:
        raise EngineError(f"{runner.label}: the plan does not compute what its graph says: {'; '.join(complaints)}")
    return {"against": "onnxruntime", "precision": network.precision, "outputs": outputs}


def judge(wanted: Outputs, given: Outputs, precision: str) -> tuple[dict[str, float], list[str]]:
    """Return a figure per output, as in the report of ``verify``, and what is wrong, a line per output at fault."""
    found = compare(wanted, given, AnyDecision() if "index" in wanted else None)
    figures = {d.output: d.ties / max(d.elements, 1) if d.output == "index" else d.relative_l2 for d in found}
    wrong = [(d.output, TOLERANCE[precision].complaint(d)) for d in found]
    return figures, [f"{output}: {complaint} for {precision}" for output, complaint in wrong if complaint]


def _pictures(rng: np.random.Generator, samples: int, size: int) -> np.ndarray:
    """Return smooth colour pictures [samples, 3, size, size] in [0, 1]: a few waves of random direction and length."""
    grid = np.linspace(0.0, 1.0, size)
    waves = rng.uniform(-4.0, 4.0, (samples, 3, 4, 2))  # periods per picture
    phase = rng.uniform(0.0, 2 * np.pi, (samples, 3, 4))
    angle = (
        2 * np.pi * (waves[..., 0, None, None] * grid[:, None] + waves[..., 1, None, None] * grid)
        + phase[..., None, None]
    )
    return np.ascontiguousarray(0.5 + 0.5 * np.mean(np.sin(angle), axis=2), dtype=np.float32)
