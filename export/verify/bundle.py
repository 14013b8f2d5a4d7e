"""Is a bundle what its checkpoints are? PyTorch against ONNX Runtime, and TensorRT where present, on rendered crops.

Two comparisons. Outputs: each role is fed the same arrays as PyTorch's (the decoder: PyTorch's tokens), so that a row
names the graph at fault. Poses, which count in the end: each engine's own chain, from the encoder over the decoder to
RANSAC, and from the refiner to Levenberg-Marquardt. A bundle passes if

* every output of an FP32 graph is within 1e-4 of PyTorch's, relative to the output's norm (``outputs``), and
* for graphs of either precision, the poses' median difference is below 0.1 px and 0.1 % of the diameter
  (``poses``), over the pairs that PyTorch finds a pose for.

Pairs are of held-out procedural objects, drawn from a fixed seed, easy ones. Where PyTorch finds a pose for fewer than
16 of them, more are drawn, and those that it finds a pose for are added: a weakly trained network is compared on as
many poses as a good one, and the engines have no say in which. Should 1024 not do, there is no ground for a verdict and
the bundle fails, unless poses are not asked for (``allow_few_poses``); the report then says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.errors import CoopEdgeError, InputError
from coop_edge.runtime.bundle import REQUIRED, Bundle, write_manifest
from coop_edge.runtime.parity import Undecided
from export.data.batch import PATCH, CoarseBatch, stack, take
from export.data.rerender import centres_of
from export.data.stream import Stream, make_stream
from export.train.poses import OPS
from export.verify.engines import Engine, Reference, find_engines, run_all
from export.verify.outputs import OutputRow, compare_outputs
from export.verify.poses import MIN_POSES, CentredBatch, PoseRow, Poses, compare_poses, matched_poses, refined_poses
from export.verify.report import complaints_of, make_report

Array = np.ndarray[Any, Any]

SAMPLES = 64
MOST = 1024
"""Pairs of a kind that are drawn at most until PyTorch has found a pose for ``MIN_POSES`` of them."""
SEED = 20250611
"""Of the pairs."""
HARDNESS = 0.0
"""Of the pairs; see ``make_stream``: whole objects as their models have them, before backgrounds and in all lights. Two
computations are compared, not how well a network does, and a pose tells most where there is one."""


class VerificationError(CoopEdgeError, RuntimeError):
    """A bundle whose outputs or poses differ from its checkpoints'; ``report`` has all rows."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class DrawnPairs:
    """What the networks are compared on; how many pairs of each kind these were chosen from."""

    coarse: CoarseBatch
    refiner: CentredBatch
    coarse_drawn: int
    refiner_drawn: int

    def of(self, role: str) -> CoarseBatch | CentredBatch:
        """Return the pairs that a role of the bundle is fed."""
        return self.coarse if role.startswith("coarse") else self.refiner

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the images: reports with the same one are of the same crops."""
        digest = hashlib.sha256()
        for image in (self.coarse.query, self.coarse.template, self.refiner.query, self.refiner.render):
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()


def verify_bundle(
    folder: str | Path,
    checkpoints: Sequence[str | Path],
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    hardness: float = HARDNESS,
    threads: int = 0,
    allow_few_poses: bool = False,
) -> dict[str, Any]:
    """Return the report of a bundle that passed, plain data for the manifest's ``verification``. Nothing is written.

    Args:
        folder: of the bundle.
        checkpoints: files or training folders, one of each network in the bundle.
        samples: pairs of each kind, coarse and refiner, before those that are added for their poses.
        seed, hardness: of the pairs.
        threads: of ONNX Runtime; 0 = its own choice.
        allow_few_poses: let the outputs alone decide about a kind of pose that PyTorch finds for fewer than 16 pairs.

    Raises:
        VerificationError: a bound fails; it carries the report.
        InputError: ``samples`` is less than 1, or the checkpoints are not the bundle's.
        BundleError: the folder is not a bundle.
        EngineError: an engine cannot load or run a graph.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"samples: wanted an integer of at least 1, got {samples!r}")
    bundle = Bundle.load(folder)
    reference = Reference.of(bundle, checkpoints)
    engines = find_engines(bundle, threads)
    pairs = draw_pairs(bundle, reference, samples, seed, hardness)
    rows, poses = compare(bundle, reference, engines.present, pairs)
    drawn = {
        "samples": samples,
        "drawn": {"coarse": pairs.coarse_drawn, "refiner": pairs.refiner_drawn},
        "seed": seed,
        "hardness": hardness,
        "sha256": pairs.digest,
    }
    report = make_report(bundle, engines, drawn, rows, poses, allow_few_poses)
    if complaints := complaints_of(rows, poses, allow_few_poses):
        more = f"; and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        raise VerificationError(f"bundle {bundle.name} fails: {'; '.join(complaints[:3])}{more}", report)
    return report


def write_report(folder: str | Path, report: Mapping[str, Any]) -> Path:
    """Put a report into the bundle's manifest, whole or not at all, and return the manifest's path.

    The report of the features, which come from no checkpoint, stays (``export.verify.features``).

    Raises:
        BundleError: the folder is not a bundle.
    """
    bundle = Bundle.load(folder)
    kept = {role: value for role, value in bundle.verification.items() if role == "features"}
    return write_manifest(replace(bundle, verification={**report, **kept}))


def draw_pairs(
    bundle: Bundle, reference: Reference, samples: int, seed: int = SEED, hardness: float = HARDNESS, most: int = MOST
) -> DrawnPairs:
    """Draw pairs of held-out procedural objects at the bundle's size, ``samples`` of each kind.

    Where ``reference`` solves fewer than ``MIN_POSES`` of them, pairs that it does solve are added, from ``most``
    drawn.

    Raises:
        InputError: the bundle's patch size is another than the pairs'.
    """
    if bundle.patch_size != PATCH:
        raise InputError(
            f"bundle {bundle.name}: pairs are drawn for patches of {PATCH} pixels, not {bundle.patch_size}"
        )
    drawn: dict[str, Any] = {}
    options: dict[str, Any] = {"batch_size": samples, "workers": 0, "seed": seed, "hardness": hardness}
    for role in ("coarse", "refiner"):
        with make_stream(role, bundle.input_size, **options, split="heldout", keep_scenes=role == "refiner") as stream:
            drawn[role], drawn[f"{role}_drawn"] = _with_poses(stream, bundle, reference, most)
    return DrawnPairs(**drawn)


def _with_poses(stream: Stream, bundle: Bundle, reference: Reference, most: int) -> tuple[Any, int]:
    """The first batch and what is added to it, and how many pairs were drawn."""
    parts = [centred(next(stream))]
    found = int(_reference_poses(bundle, reference, parts[0]).solved.sum())
    while found < MIN_POSES and stream.position < most:
        more = centred(next(stream))
        which = np.flatnonzero(_reference_poses(bundle, reference, more).solved)[: MIN_POSES - found]
        parts.append(take(more, which))
        found += len(which)
    return stack(parts), stream.position


def centred(drawn: Any) -> Any:
    """Return a stream's refiner pairs with their objects' centres; a batch without scenes as it is."""
    if not isinstance(drawn, tuple):
        return drawn
    batch, scenes = drawn
    return CentredBatch(**{f.name: getattr(batch, f.name) for f in fields(batch)}, centre=centres_of(scenes))


def _reference_poses(bundle: Bundle, reference: Reference, batch: CoarseBatch | CentredBatch) -> Poses:
    outputs: dict[str, dict[str, Array]] = {}
    for role in ("coarse_encoder", "coarse_decoder") if isinstance(batch, CoarseBatch) else ("refiner",):
        outputs[role] = reference.run(role, _feed(role, batch, outputs))
    return _poses(bundle, batch, outputs)


def compare(
    bundle: Bundle, reference: Reference, engines: Sequence[Engine], pairs: DrawnPairs
) -> tuple[list[OutputRow], list[PoseRow]]:
    """Return rows of all engines: outputs by role, then poses."""
    feeds: dict[str, dict[str, Array]] = {}
    wanted: dict[str, dict[str, Array]] = {}
    for role in REQUIRED:  # the encoder before the decoder
        feeds[role] = _feed(role, pairs.of(role), wanted)
        wanted[role] = reference.run(role, feeds[role])
    undecided: dict[str, Undecided | None] = {
        "coarse_decoder": reference.decisions(feeds["coarse_decoder"]),
        "refiner": reference.answers(feeds["refiner"]),
    }
    kinds: dict[str, tuple[CoarseBatch | CentredBatch, int]] = {
        "coarse": (pairs.coarse, pairs.coarse_drawn),
        "refined": (pairs.refiner, pairs.refiner_drawn),
    }
    poses = {kind: _poses(bundle, batch, wanted) for kind, (batch, _) in kinds.items()}
    output_rows: list[OutputRow] = []
    pose_rows: list[PoseRow] = []
    for engine in engines:
        chain: dict[str, dict[str, Array]] = {}
        for role in REQUIRED:
            with engine.runner(role) as runner:
                given = run_all(runner, feeds[role])
                # In the chain the decoder reads this engine's own tokens; the other roles read images, as above.
                chain[role] = run_all(runner, _feed(role, pairs.of(role), chain)) if role == "coarse_decoder" else given
            precision = bundle.networks[role].precision
            output_rows += compare_outputs(engine.name, role, precision, wanted[role], given, undecided.get(role))
        for kind, (batch, drawn) in kinds.items():
            theirs = _poses(bundle, batch, chain)
            pose_rows.append(compare_poses(engine.name, kind, batch, poses[kind], theirs, drawn=drawn))
    return output_rows, pose_rows


def _feed(role: str, batch: CoarseBatch | CentredBatch, outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Inputs of a role; ``outputs`` hold the tokens that the decoder reads, queries first, then templates."""
    if role == "coarse_decoder":
        query, template = np.split(outputs["coarse_encoder"]["tokens"], 2)
        return {"query": query, "template": template}
    if isinstance(batch, CoarseBatch):
        return {"image": OPS.as_network_image(np.concatenate([batch.query, batch.template]))}
    return {"query": OPS.as_network_image(batch.query), "render": OPS.as_network_image(batch.render)}


def _poses(bundle: Bundle, batch: CoarseBatch | CentredBatch, outputs: Mapping[str, Mapping[str, Array]]) -> Poses:
    if isinstance(batch, CoarseBatch):
        return matched_poses(batch, outputs["coarse_decoder"])
    return refined_poses(batch, outputs["refiner"], stride=bundle.stride, radius_px=bundle.radius_px)
