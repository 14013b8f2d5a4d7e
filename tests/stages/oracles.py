"""Networks that know the truth: Runners which answer from the geometry of a ``Scene`` instead of from weights.

A runner is given pixels and nothing else, so an oracle recognises them: it looks on while crops are made and renders
drawn, keeps a fingerprint of each with its camera, and looks the fingerprint up when the pixels come in. What it then
answers is worked out by ``tests.label_oracle``, which training's labels are held against: a stage that follows other
conventions than training cannot find the right pose.

    with watching(oracle := Oracle(scene, templates)):
        ... run the stages, or an Estimator, with oracle.encoder, oracle.decoder, oracle.refiner as its runners
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from unittest import mock

import numpy as np

from coop_edge.geometry import se3
from coop_edge.ops.base import Operations
from coop_edge.render.base import Renderer
from coop_edge.runtime.base import Runner, TensorSpec
from coop_edge.templates import TemplateSet
from tests import label_oracle as labels
from tests.stages.scene import Scene
from tests.stages.seen import SeenCrop, SeenObject, fingerprint, intrinsics_and_rotation, seen_templates

PATCH = labels.PATCH
DIM = 4


@dataclass
class Faults:
    """What is wrong with an oracle's answers; nothing by default."""

    match_noise: float = 0.0  # patches, standard deviation of the coarse offsets
    match_outliers: float = 0.0  # share of the matches that go to any patch
    no_match: bool = False  # the coarse network finds nothing anywhere
    flow_noise: float = 0.0  # pixels, standard deviation
    flow_outliers: float = 0.0  # share of the cells with any flow
    certainty: float = 1.0  # of visible cells
    reach: float = np.pi  # beyond this angle from the truth (radians) the refiner is at a loss: flow at random


class OracleRunner(Runner):
    """Loads nothing; runs on the CPU."""

    device = "cpu"

    def __init__(self, oracle: Oracle, label: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        super().__init__(f"oracle/{label}", inputs, outputs)
        self.oracle = oracle
        self.batches: list[int] = []
        self.open()

    def _load(self) -> None: ...

    def _release(self) -> None: ...

    def _run(self, feed, batch, stream):
        self.batches.append(batch)
        rows = [self.one({name: array[i] for name, array in feed.items()}) for i in range(batch)]
        return {name: np.stack([row[name] for row in rows]).astype(s.dtype) for name, s in self.outputs.items()}

    def one(self, feed):
        raise NotImplementedError


class Encoder(OracleRunner):
    """Tokens hold the number under which the image is known."""

    def one(self, feed):
        known = self.oracle.number_of(feed["image"], self.oracle.crops_seen, self.oracle.templates_seen)
        return {"tokens": np.full(self.outputs["tokens"].shape[1:], known, np.float32)}


class Decoder(OracleRunner):
    def one(self, feed):
        oracle = self.oracle
        query, template = (oracle.known[int(feed[name].flat[0])] for name in ("query", "template"))
        return oracle.matches(query, template)


class Refiner(OracleRunner):
    def one(self, feed):
        oracle = self.oracle
        query = oracle.known[oracle.number_of(feed["query"], oracle.crops_seen)]
        render = oracle.known[oracle.number_of(feed["render"], oracle.renders_seen)]
        return oracle.flow(query, render)


@dataclass(eq=False)
class Oracle:
    """templates: of the scene's meshes, in their order. size: S."""

    scene: Scene
    templates: Sequence[TemplateSet]
    size: int = 128
    stride: int = 4
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.known: list[SeenCrop | SeenObject] = []
        self.templates_seen: dict[bytes, deque[int]] = {}
        self.crops_seen: dict[bytes, deque[int]] = {}
        self.renders_seen: dict[bytes, deque[int]] = {}
        s, t, cells = self.size, (self.size // PATCH) ** 2, self.size // self.stride
        image, tokens = (None, 3, s, s), (None, t, DIM)
        self.encoder = Encoder(self, "coarse_encoder", [TensorSpec("image", image)], [TensorSpec("tokens", tokens)])
        self.decoder = Decoder(
            self,
            "coarse_decoder",
            [TensorSpec("query", tokens), TensorSpec("template", tokens)],
            [
                TensorSpec("probability", (None, t)),
                TensorSpec("index", (None, t), "int32"),
                TensorSpec("offset", (None, t, 2)),
            ],
        )
        one, two = (None, 1, cells, cells), (None, 2, cells, cells)
        self.refiner = Refiner(
            self,
            "refiner",
            [TensorSpec("query", image), TensorSpec("render", image)],
            [TensorSpec("flow", two), *(TensorSpec(n, one) for n in ("scale", "certainty", "sensitivity"))],
        )
        self.patches: dict[tuple[bytes, int], tuple[np.ndarray, np.ndarray]] = {}
        for mesh, templates in enumerate(self.templates):
            for print_, seed, T, depth in seen_templates(templates):
                self._remember(self.templates_seen, print_, SeenObject(seed, mesh, T, templates.K, depth))

    def number_of(self, image: np.ndarray, *among: dict[bytes, deque[int]]) -> int:
        """Of a float32 [3,S,S] that has been seen before. Of several that look the same, each in its turn."""
        print_ = fingerprint(np.rint(image * 255.0).astype(np.uint8).transpose(1, 2, 0))
        numbers = next(seen[print_] for seen in among if print_ in seen)
        numbers.rotate(-1)
        return numbers[-1]

    def _remember(self, seen: dict[bytes, deque[int]], print_: bytes, what) -> None:
        seen.setdefault(print_, deque()).append(len(self.known))
        self.known.append(what)

    def see_crops(self, crops: np.ndarray, H: np.ndarray) -> None:
        self.crops_seen = {}
        for crop, matrix in zip(crops, H, strict=True):
            K, R = intrinsics_and_rotation(matrix @ self.scene.camera.K)
            print_ = fingerprint(np.rint(crop * 255.0).astype(np.uint8).transpose(1, 2, 0))
            self._remember(self.crops_seen, print_, SeenCrop(zlib.crc32(print_), R, K))

    def see_renders(self, result, mesh_index: np.ndarray) -> None:
        self.renders_seen = {}
        for i, mesh in enumerate(mesh_index):
            print_ = fingerprint(result.rgb[i])
            T, K, depth = result.T_camera_object[i], result.K[i], result.depth[i]
            self._remember(self.renders_seen, print_, SeenObject(zlib.crc32(print_), int(mesh), T, K, depth))

    def _truth(self, mesh: int, R: np.ndarray, near: np.ndarray | None = None) -> tuple[int, np.ndarray] | None:
        """An instance of a mesh in the scene, its number and its pose for a camera turned by R [3,3].

        The one nearest to pose ``near``, and of the poses in which it looks the same the nearest; without ``near`` the
        one nearest to the camera's axis. None if there is none.
        """
        turn = se3.from_rt(R, np.zeros(3))
        found = [(i, turn @ p.T) for i, p in enumerate(self.scene.placed) if p.mesh == mesh]
        centre = self.scene.meshes[mesh].centre

        def distance(item):
            seen = se3.transform(item[1], centre[None])[0]
            if near is None:
                return np.linalg.norm(seen[:2]) / abs(seen[2])
            return np.linalg.norm(seen - se3.transform(near, centre[None])[0])

        if not found:
            return None
        i, T = min(found, key=distance)
        return i, T if near is None else self.templates[mesh].symmetries.nearest_symmetric(T, near)

    def matches(self, query: SeenCrop, template: SeenObject) -> dict[str, np.ndarray]:
        """The coarse decoder's outputs for one pair."""
        faults, rng = self.faults, np.random.default_rng((query.seed, template.seed))
        count = (self.size // PATCH) ** 2
        uv, matched = np.zeros((count, 2)), np.zeros(count, bool)
        if not faults.no_match:
            at, points = self._patch_points(query, template.mesh)
            tolerance = labels.TOLERANCE * self.templates[template.mesh].diameter
            uv[at], matched[at] = labels.visible_in(points, template.T, template.K, template.depth, tolerance)
        index, offset = labels.match_labels(uv, matched, self.size)
        wild = matched & (rng.random(count) < faults.match_outliers)
        index = np.where(wild, rng.integers(count, size=count), index)
        offset = np.clip(offset + rng.normal(0, faults.match_noise, (count, 2)) * matched[:, None], -0.5, 0.5)
        return {
            "probability": np.where(matched, 0.9, 0.0),
            "index": np.where(matched, index, 0),
            "offset": offset,
        }

    def _patch_points(self, query: SeenCrop, mesh: int) -> tuple[np.ndarray, np.ndarray]:
        """Which patch centres of a crop show a mesh, and what points of it [P,3] (object's frame)."""
        key = query.R.tobytes() + query.K.tobytes(), mesh
        if key not in self.patches:
            centres, truth = labels.patch_centres(self.size), self._truth(mesh, query.R)
            depth, who, _ = self.scene.depths(query.R, labels.patch_camera(query.K), self.size // PATCH)
            number, T = truth or (-2, np.eye(4))
            at = np.flatnonzero((who.ravel() == number) & self._in_image(query, centres))
            ray = np.concatenate([centres[at], np.ones((len(at), 1))], axis=1) @ np.linalg.inv(query.K).T
            self.patches[key] = at, se3.transform(se3.invert(T), ray * depth.ravel()[at, None])
        return self.patches[key]

    def flow(self, query: SeenCrop, render: SeenObject) -> dict[str, np.ndarray]:
        """The refiner's outputs for one pair."""
        faults, rng = self.faults, np.random.default_rng((query.seed, render.seed))
        n = self.size // self.stride
        rows = np.arange(self.stride // 2, self.size, self.stride)
        flow, certainty = np.zeros((2, n, n)), np.zeros((1, n, n))
        truth = self._truth(render.mesh, query.R, render.T)
        np.testing.assert_allclose(render.K, query.K, atol=1e-6)  # one virtual camera for both
        on = render.depth[np.ix_(rows, rows)] > 0
        if truth is not None:
            v, u = (rows[i] for i in np.nonzero(on))
            seen = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(render.K).T * render.depth[v, u, None]
            points = se3.transform(se3.invert(render.T), seen)
            depth, who, _ = self.scene.depths(query.R, query.K, self.size)
            depth = np.where(who == truth[0], depth, 0.0)
            tolerance = labels.TOLERANCE * self.templates[render.mesh].diameter
            uv, visible = labels.visible_in(points, truth[1], query.K, depth, tolerance)
            flow[:, on] = (uv - np.stack([u, v], axis=1)).T
            certainty[0, on] = np.where(visible & self._in_image(query, uv), faults.certainty, 0.0)
        flow += rng.normal(0.0, faults.flow_noise, flow.shape)
        wild = rng.random((n, n)) < faults.flow_outliers
        if truth is None or se3.rotation_angle(render.T[:3, :3], truth[1][:3, :3]) > faults.reach:
            wild, certainty = on, np.where(on, 0.6, 0.0)[None]
        flow = np.where(wild, rng.normal(0.0, 8.0, flow.shape), np.nan_to_num(flow))
        ones = np.ones((1, n, n))
        return {"flow": flow, "scale": 0.25 * ones, "certainty": certainty, "sensitivity": ones}

    def _in_image(self, crop: SeenCrop, pixels: np.ndarray) -> np.ndarray:
        ray = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(crop.K).T @ crop.R
        uv = self.scene.camera.project(ray)
        inside = ((uv >= -0.5) & (uv < np.array(self.scene.camera.size) - 0.5)).all(axis=1)
        return np.asarray(inside)


@contextlib.contextmanager
def watching(oracle: Oracle) -> Iterator[Oracle]:
    """Let the oracle see the crops that the stages make and all that is rendered, wherever they are."""
    warp, render = Operations.warp, Renderer.render

    def watched_warp(self, image, H, size, lens=None):
        crops = warp(self, image, H, size, lens)
        oracle.see_crops(self.to_host(crops), H)
        return crops

    def watched_render(self, T, K, size, *, mesh_index=None):
        result = render(self, T, K, size, mesh_index=mesh_index)
        if self is not oracle.scene.renderer:
            index = np.zeros(len(result.rgb), int) if mesh_index is None else np.asarray(mesh_index)
            on_host = {name: _on_host(getattr(result, name)) for name in ("rgb", "depth")}
            oracle.see_renders(replace(result, **on_host), index)
        return result

    with (
        mock.patch.object(Operations, "warp", watched_warp),
        mock.patch.object(Renderer, "render", watched_render),
    ):
        yield oracle


def _on_host(array) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.get()
