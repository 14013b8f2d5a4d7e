"""Is a bundle what its checkpoints are? PyTorch against ONNX Runtime, and TensorRT where present, on rendered crops.

Two comparisons. Outputs: each role is fed the same arrays as PyTorch's (the decoder: PyTorch's tokens), so that a row
names the graph at fault. Poses, which count in the end: each engine's own chain, from the encoder over the decoder to
RANSAC, and from the refiner to Levenberg-Marquardt. A bundle passes if

* every output of an FP32 graph is within 1e-4 of its own scale (``verify_outputs``), and
* for graphs of either precision, the poses' median difference is below 0.1 px and 0.1 % of the diameter
  (``verify_poses``), over the pairs that PyTorch finds a pose for.

Fewer than 16 such pairs are no ground for a verdict and fail, unless poses are not asked for (``allow_few_poses``): as
with networks that were hardly trained. The report then says so. Pairs are of held-out procedural objects, drawn from a
fixed seed, easy ones, so that many have a pose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.errors import CoopEdgeError, InputError
from coop_edge.runtime.bundle import ROLES, Bundle, write_manifest
from export.training.batch import PATCH, CoarseBatch, RefinerBatch
from export.training.data import make_stream
from export.verify_engines import Engine, Reference, find_engines, run_all
from export.verify_outputs import OutputRow, compare_outputs
from export.verify_poses import PoseRow, Poses, coarse_poses, compare_poses, refined_poses
from export.verify_report import complaints_of, make_report

Array = np.ndarray[Any, Any]

SAMPLES = 64
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
class Pairs:
    """What the networks are compared on."""

    coarse: CoarseBatch
    refiner: RefinerBatch

    @property
    def digest(self) -> str:
        """SHA-256 of the images: reports with the same one are of the same crops."""
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
    """The report of a bundle that passed, plain data for the manifest's ``verification``. Nothing is written.

    Parameters
    ----------
    folder: of the bundle.
    checkpoints: files or training folders, one of each network in the bundle.
    samples: pairs of each kind, coarse and refiner.
    seed, hardness: of the pairs.
    threads: of ONNX Runtime; 0 = its own choice.
    allow_few_poses: let the outputs alone decide about a kind of pose that PyTorch finds for fewer than 16 pairs.

    Raises VerificationError (with the report) if a bound fails, InputError if the checkpoints are not the bundle's,
    BundleError, EngineError.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"samples: wanted an integer of at least 1, got {samples!r}")
    bundle = Bundle.load(folder)
    reference = Reference.of(bundle, checkpoints)
    engines = find_engines(bundle, threads)
    pairs = draw_pairs(bundle, samples, seed, hardness)
    rows, poses = compare(bundle, reference, engines.present, pairs)
    drawn = {"samples": samples, "seed": seed, "hardness": hardness, "sha256": pairs.digest}
    report = make_report(bundle, engines, drawn, rows, poses, allow_few_poses)
    if complaints := complaints_of(rows, poses, allow_few_poses):
        more = f"; and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        raise VerificationError(f"bundle {bundle.name} fails: {'; '.join(complaints[:3])}{more}", report)
    return report


def write_report(folder: str | Path, report: Mapping[str, Any]) -> Path:
    """Put a report into the bundle's manifest, whole or not at all; gives the manifest's path. Raises BundleError."""
    return write_manifest(replace(Bundle.load(folder), verification=report))


def draw_pairs(bundle: Bundle, samples: int, seed: int = SEED, hardness: float = HARDNESS) -> Pairs:
    """Pairs of held-out procedural objects at the bundle's size. Raises InputError."""
    if bundle.patch_size != PATCH:
        raise InputError(
            f"bundle {bundle.name}: pairs are drawn for patches of {PATCH} pixels, not {bundle.patch_size}"
        )
    drawn = {}
    for role in ("coarse", "refiner"):
        with make_stream(
            role, bundle.input_size, batch_size=samples, workers=0, seed=seed, split="heldout", hardness=hardness
        ) as stream:
            drawn[role] = next(stream)
    return Pairs(**drawn)


def compare(
    bundle: Bundle, reference: Reference, engines: Sequence[Engine], pairs: Pairs
) -> tuple[list[OutputRow], list[PoseRow]]:
    """Rows of all engines: outputs by role, then poses."""
    roles = [role for role in ROLES if role in bundle.networks]  # the encoder before the decoder
    feeds: dict[str, dict[str, Array]] = {}
    wanted: dict[str, dict[str, Array]] = {}
    for role in roles:
        feeds[role] = _feed(role, pairs, wanted)
        wanted[role] = reference.run(role, feeds[role])
    decisions = reference.decisions(feeds["coarse_decoder"])
    poses = _poses(bundle, pairs, wanted)
    output_rows: list[OutputRow] = []
    pose_rows: list[PoseRow] = []
    for engine in engines:
        chain: dict[str, dict[str, Array]] = {}
        for role in roles:
            decided = decisions if role == "coarse_decoder" else None
            with engine.runner(role) as runner:
                given = run_all(runner, feeds[role])
                # In the chain the decoder reads this engine's own tokens; the other roles read images, as above.
                chain[role] = run_all(runner, _feed(role, pairs, chain)) if decided else given
            precision = bundle.networks[role].precision
            output_rows += compare_outputs(engine.name, role, precision, wanted[role], given, decided)
        for kind, theirs in _poses(bundle, pairs, chain).items():
            batch = pairs.coarse if kind == "coarse" else pairs.refiner
            pose_rows.append(compare_poses(engine.name, kind, batch, poses[kind], theirs))
    return output_rows, pose_rows


def _feed(role: str, pairs: Pairs, outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Inputs of a role; ``outputs`` hold the tokens that the decoder reads, queries first, then templates."""
    if role == "coarse_encoder":
        return {"image": np.concatenate([image_of(pairs.coarse.query), image_of(pairs.coarse.template)])}
    if role == "coarse_decoder":
        query, template = np.split(outputs["coarse_encoder"]["tokens"], 2)
        return {"query": query, "template": template}
    return {"query": image_of(pairs.refiner.query), "render": image_of(pairs.refiner.render)}


def image_of(rgb: Array) -> Array:
    """uint8 [N,S,S,3] -> float32 [N,3,S,S] in [0, 1]."""
    return np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _poses(bundle: Bundle, pairs: Pairs, outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Poses]:
    refiner = {"stride": bundle.stride, "radius_px": bundle.radius_px}
    return {
        "coarse": coarse_poses(pairs.coarse, outputs["coarse_decoder"]),
        "refined": refined_poses(pairs.refiner, outputs["refiner"], **refiner),
    }
