"""Small data sets in BOP's layout with known truth, and a method that knows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import trimesh

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import Box
from benchmarks.accuracy.results import Row
from coop_edge import Mesh, PoseEstimate
from coop_edge.geometry import se3
from tests.estimators import TINY
from tests.stages.scene import Placed, Scene, at

HALF_TURN_Z = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
EXTENTS = {1: (100.0, 80.0, 60.0), 2: (90.0, 50.0, 50.0)}  # millimetres
DIAMETERS = {obj_id: float(np.linalg.norm(extents)) for obj_id, extents in EXTENTS.items()}


def scene_of(seed: int, count: int = 1) -> list[tuple[int, np.ndarray]]:
    """(object, T_camera_object [4,4]) in one image: object 1 ``count`` times, object 2 once, side by side."""
    rng = np.random.default_rng(seed)
    places = [(1, 0.14 * i - 0.1) for i in range(count)] + [(2, 0.14 * count - 0.1)]
    return [(obj_id, at(x, 0.02, 0.6, rng.uniform(-2, 2, 3))) for obj_id, x in places]


def write_models(folder: Path) -> dict[int, Mesh]:
    """Two coloured boxes, the second one with a half turn about z as its symmetry."""
    folder.mkdir(parents=True)
    infos = {}
    for obj_id, extents in EXTENTS.items():
        box = trimesh.creation.box(extents=extents).subdivide()
        colors = np.random.default_rng(obj_id).integers(30, 255, (len(box.vertices), 3), np.uint8)
        box.visual.vertex_colors = colors
        box.export(folder / f"obj_{obj_id:06d}.ply")
        infos[str(obj_id)] = {"diameter": DIAMETERS[obj_id]}
    infos["2"]["symmetries_discrete"] = [HALF_TURN_Z]
    write(folder / "models_info.json", infos)
    return {obj_id: Mesh.load(folder / f"obj_{obj_id:06d}.ply", unit="mm") for obj_id in EXTENTS}


def write_dataset(
    root: Path, images: dict[tuple[int, int], list[tuple[int, np.ndarray]]], *, depth: bool = False
) -> Path:
    """A data set with what ``images`` holds, all of it targets, seen by ``TINY`` (64 x 48)."""
    meshes = write_models(root / "models")
    targets = []
    for scene_id in sorted({scene for scene, _ in images}):
        folder = root / "test" / f"{scene_id:06d}"
        parts = {name: {} for name in ("scene_gt", "scene_camera", "scene_gt_info")}
        for (_, im_id), placed in sorted((key, p) for key, p in images.items() if key[0] == scene_id):
            scene = Scene(tuple(meshes.values()), tuple(Placed(o - 1, T) for o, T in placed), TINY)
            _write_pictures(folder, im_id, scene, depth)
            parts["scene_gt"][im_id] = [_truth(o, T) for o, T in placed]
            parts["scene_camera"][im_id] = {"cam_K": TINY.K.ravel().tolist(), "depth_scale": 0.1}
            parts["scene_gt_info"][im_id] = [_info(scene, i) for i in range(len(placed))]
            names = [o for o, _ in placed]
            targets += [
                {"scene_id": scene_id, "im_id": im_id, "obj_id": o, "inst_count": names.count(o)}
                for o in sorted(set(names))
            ]
        for name, content in parts.items():
            write(folder / f"{name}.json", content)
    write(root / "test_targets_bop19.json", targets)
    return root


def write(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def read(path: Path):
    return json.loads(path.read_text())


def truth_rows(dataset: BopDataset, **changes) -> list[Row]:
    """The truth as results; ``changes`` are fields of all rows."""
    rows = []
    for image in dataset.images:
        for truth in dataset.truth(*image):
            T = truth.T_camera_object
            values = {"score": 1.0, "R": T[:3, :3], "t": T[:3, 3], "time": 0.5} | changes
            rows.append(Row(*image, truth.obj_id, **values))
    return rows


class Knowing:
    """A method that answers with the truth of the image it is shown. Images are told apart by their pixels.

    seen: the images it was asked for, in order. fail_after: raise at the image after so many.
    """

    name = "knowing"

    def __init__(self, fail_after: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self.fail_after, self.closed = fail_after, False

    def add_objects(self, dataset: BopDataset) -> None:
        self.images = {dataset.image(*image).tobytes(): image for image in dataset.images}
        self.truth = {image: dataset.truth(*image) for image in dataset.images}

    def estimate(self, image, camera, boxes: Sequence[Box]) -> list[PoseEstimate]:
        key = self.images[image.tobytes()]
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise RuntimeError("struck by lightning")
        self.seen.append(key)
        assert camera.size == (image.shape[1], image.shape[0])
        return [self._answer(key, box) for box in boxes]

    def _answer(self, key: tuple[int, int], box: Box) -> PoseEstimate:
        """Of the instance whose box this is; "out of luck" for a box of nothing."""
        name = f"obj_{box.obj_id:06d}"
        for truth in self.truth[key]:
            if truth.obj_id == box.obj_id and truth.bbox_visib == box.bbox:
                return PoseEstimate(True, T_camera_object=truth.T_camera_object, score=0.75, object=name)
        return PoseEstimate(False, "out of luck", object=name)

    def close(self) -> None:
        self.closed = True


def _write_pictures(folder: Path, im_id: int, scene: Scene, depth: bool) -> None:
    for name in ("rgb", "depth") if depth else ("rgb",):
        (folder / name).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / "rgb" / f"{im_id:06d}.png"), scene.image[..., ::-1])
    if depth:
        width, height = scene.camera.size
        metres, _, _ = scene.depths(np.eye(3), scene.camera.K, (height, width))
        tenths = np.rint(metres * 1e4).astype(np.uint16)  # depth_scale 0.1: tenths of a millimetre
        assert cv2.imwrite(str(folder / "depth" / f"{im_id:06d}.png"), tenths)


def _truth(obj_id: int, T: np.ndarray) -> dict:
    return {"cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (1e3 * T[:3, 3]).tolist(), "obj_id": obj_id}


def _info(scene: Scene, i: int) -> dict:
    width, height = scene.camera.size
    _, who, _ = scene.depths(np.eye(3), scene.camera.K, (height, width))
    rows, columns = np.nonzero(who == i)
    alone = scene.renderer.render(
        scene.placed[i].T[None], scene.camera.K, (height, width), mesh_index=np.array([scene.placed[i].mesh])
    ).mask[0]
    visible = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    whole = np.nonzero(alone)
    box = [int(whole[1].min()), int(whole[0].min()), int(np.ptp(whole[1])) + 1, int(np.ptp(whole[0])) + 1]
    return {"bbox_visib": visible, "bbox_obj": box, "visib_fract": len(rows) / alone.sum()}


def moved(T: np.ndarray, by: Sequence[float]) -> np.ndarray:
    """T [4,4] shifted by metres in camera axes."""
    return se3.from_rt(T[:3, :3], T[:3, 3] + np.asarray(by))
