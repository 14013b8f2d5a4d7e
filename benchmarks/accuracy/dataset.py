"""Data sets in BOP's layout (Hodan et al., ECCV 2018, and the format of the BOP challenge), read lazily.

    ROOT/models[_eval]/models_info.json, obj_000001.ply ...     millimetres
    ROOT/SPLIT_targets_bop19.json                               what is to be found: image, object, number of instances
    ROOT/SPLIT/000002/{scene_gt,scene_camera,scene_gt_info}.json, rgb/000003.png, depth/000003.png (optional)

Inside, lengths are metres and poses ``T_camera_object`` (BOP: model to camera), as everywhere in coop_edge.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.accuracy.files import find_picture, nearest_rotation, numbers, read_json
from benchmarks.accuracy.models import Model, read_models
from benchmarks.accuracy.records import ImageKey, Target, Truth
from coop_edge import Camera
from coop_edge.cli.inputs import read_image
from coop_edge.errors import InputError, quoted
from coop_edge.geometry import se3

TRUE_DEPTH, SENSOR_DEPTH = "depth", "depth_sensor"
"""Folders of depth images: what VSD is measured by, and a simulated sensor's, in the same steps."""
DEPTH_HELP = (
    f"give the method depth too: of the scenes' folder {SENSOR_DEPTH} (a simulated sensor's), or of another one, such "
    f"as {TRUE_DEPTH}, which is the true depth in synthetic sets"
)
MM = 1e-3
"""Metres per millimetre, BOP's unit."""


class BopDataset:
    """One split of a data set in BOP layout.

    Args:
        root: folder of the data set.
        split: its folder of scenes, such as "test" or "test_primesense".
        targets: the targets file; None: ROOT/test_targets_bop19.json for a split "test" or "test_...".
        limit: only the first so many images of those with targets, in the order of scenes and images; None: all.

    Raises:
        InputError: a folder or file is missing, or targets are of objects without a model or of images without
            truth.
    """

    def __init__(
        self, root: str | Path, split: str = "test", *, targets: str | Path | None = None, limit: int | None = None
    ) -> None:
        self.root, self.split, self.limit = Path(root), split, limit
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder; wanted the folder of a data set in BOP layout")
        self.folder = self.root / split
        if not self.folder.is_dir():
            found = ", ".join(sorted(p.name for p in self.root.iterdir() if p.is_dir())) or "none"
            raise InputError(f"{self.folder}: no such split; folders of {self.root}: {found}")
        self.targets_file = Path(targets) if targets else self.root / f"{split.split('_')[0]}_targets_bop19.json"
        self.models: dict[int, Model] = read_models(self.root)
        self.targets = _first_images(_read_targets(self.targets_file), limit)
        if unknown := sorted({t.obj_id for t in self.targets} - set(self.models)):
            raise InputError(
                f"{self.targets_file}: names object {unknown[0]}, of which there is no model "
                f"(models_info.json has {', '.join(map(str, self.models))})"
            )
        self._scenes: dict[tuple[int, str], dict[str, Any]] = {}
        self._sizes: dict[ImageKey, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @cached_property
    def images(self) -> list[ImageKey]:
        """Return (scene_id, im_id) of the images with targets, in order."""
        return sorted({target.image for target in self.targets})

    @property
    def object_ids(self) -> list[int]:
        """Return the objects among the targets."""
        return sorted({target.obj_id for target in self.targets})

    def targets_of(self, scene_id: int, im_id: int) -> list[Target]:
        return self._by_image.get((scene_id, im_id), [])

    def image_path(self, scene_id: int, im_id: int) -> Path:
        """Find the colour picture, or the grey one where there is no colour.

        Raises:
            InputError: there is neither.
        """
        scene = self.scene_folder(scene_id)
        found = find_picture(scene / "rgb", im_id) or find_picture(scene / "gray", im_id)
        if found is None:
            raise InputError(f"{scene / 'rgb'}: no picture {im_id:06d}.png, .jpg or .tif (nor in gray)")
        return found

    def image(self, scene_id: int, im_id: int) -> np.ndarray:
        """Read an image, RGB uint8 [height,width,3]."""
        return read_image(self.image_path(scene_id, im_id))

    def camera(self, scene_id: int, im_id: int) -> Camera:
        """Return the camera of an image.

        Raises:
            InputError: there is no picture, Pillow does not read it, or its intrinsics are missing or damaged.
        """
        entry = self._entry(scene_id, im_id, "scene_camera.json")
        where = f"{self._file(scene_id, 'scene_camera.json')}: image {im_id}"
        K = numbers(entry.get("cam_K"), 9, f"{where}: cam_K").reshape(3, 3)
        key = (scene_id, im_id)
        if key not in self._sizes:
            path = self.image_path(scene_id, im_id)
            try:
                with Image.open(path) as picture:  # the header alone
                    self._sizes[key] = picture.size
            except OSError as error:
                raise InputError(f"{path}: not an image that Pillow reads: {quoted(error)}") from None
        width, height = self._sizes[key]
        return Camera(K, width, height)

    @cached_property
    def has_depth(self) -> bool:
        """Tell whether every image with targets has depth, so that VSD can be measured; False without targets."""
        return bool(self.images) and all(find_picture(self.scene_folder(s) / "depth", i) for s, i in self.images)

    def depth_scale(self, scene_id: int, im_id: int) -> float:
        """Return the millimetres per step of the depth images."""
        return float(self._entry(scene_id, im_id, "scene_camera.json").get("depth_scale", 1.0))

    def depth(self, scene_id: int, im_id: int, folder: str = TRUE_DEPTH) -> np.ndarray | None:
        """Read depth float32 [height,width], metres, 0 = unknown; None if the data set has none for this image."""
        path = find_picture(self.scene_folder(scene_id) / folder, im_id)
        if path is None:
            return None
        scale = self.depth_scale(scene_id, im_id)
        try:
            with Image.open(path) as picture:
                values = np.asarray(picture)
        except OSError as error:
            raise InputError(f"{path}: not an image that Pillow reads: {quoted(error)}") from None
        if values.ndim != 2:
            raise InputError(f"{path}: wanted one channel of depth, got {list(values.shape)}")
        return (values.astype(np.float64) * (scale * MM)).astype(np.float32)

    def truth(self, scene_id: int, im_id: int) -> list[Truth]:
        """Return all annotated instances of an image, those that are no target included.

        Raises:
            InputError: the image has no annotations, or they are damaged.
        """
        entries = self._entry(scene_id, im_id, "scene_gt.json")
        where = f"{self._file(scene_id, 'scene_gt.json')}: image {im_id}"
        if not isinstance(entries, list):
            raise InputError(f"{where}: wanted a list of annotations, got {type(entries).__name__}")
        infos: Any = [{}] * len(entries)
        if self._file(scene_id, "scene_gt_info.json").is_file():
            infos = self._entry(scene_id, im_id, "scene_gt_info.json")
        if len(infos) != len(entries):
            raise InputError(f"{where}: {len(entries)} annotations, but {len(infos)} in scene_gt_info.json")
        return [_truth(i, gt, info, f"{where}[{i}]") for i, (gt, info) in enumerate(zip(entries, infos, strict=True))]

    def sought(self, target: Target) -> list[Truth]:
        """Return the instances that count for a target: its ``inst_count`` most visible ones, as BOP chooses them.

        Raises:
            InputError: there are fewer.
        """
        of_object = [t for t in self.truth(target.scene_id, target.im_id) if t.obj_id == target.obj_id]
        of_object.sort(key=lambda t: -(1.0 if t.visib_fract is None else t.visib_fract))  # stable: ties in file order
        if len(of_object) < target.inst_count:
            raise InputError(
                f"{self._file(target.scene_id, 'scene_gt.json')}: image {target.im_id} has {len(of_object)} instances "
                f"of object {target.obj_id}, {self.targets_file.name} wants {target.inst_count} to be found"
            )
        return of_object[: target.inst_count]

    @cached_property
    def _by_image(self) -> dict[ImageKey, list[Target]]:
        grouped: dict[ImageKey, list[Target]] = {}
        for target in self.targets:
            grouped.setdefault(target.image, []).append(target)
        return grouped

    def scene_folder(self, scene_id: int) -> Path:
        return self.folder / f"{scene_id:06d}"

    def _file(self, scene_id: int, name: str) -> Path:
        return self.scene_folder(scene_id) / name

    def _entry(self, scene_id: int, im_id: int, name: str) -> Any:
        """What a scene's file says of an image."""
        path, key = self._file(scene_id, name), (scene_id, name)
        if key not in self._scenes:
            self._scenes[key] = read_json(path, dict, f"the split {self.split!r} has no such file for scene {scene_id}")
        try:
            return self._scenes[key][str(im_id)]
        except KeyError:
            raise InputError(f"{path}: says nothing of image {im_id}, which {self.targets_file.name} names") from None


def _read_targets(path: Path) -> tuple[Target, ...]:
    entries = read_json(path, list, "what is to be found is unknown; give the targets file of the data set")
    targets = []
    for i, entry in enumerate(entries):
        try:
            given = {name: int(entry[name]) for name in ("scene_id", "im_id", "obj_id")}
            target = Target(**given, inst_count=int(entry.get("inst_count", 1)))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise InputError(
                f"{path}: target {i}: wanted scene_id, im_id, obj_id and inst_count, got {entry!r:.80}"
            ) from None
        if target.inst_count < 1:
            raise InputError(f"{path}: target {i}: wanted inst_count >= 1, got {target.inst_count}")
        targets.append(target)
    unique: dict[tuple[int, int, int], Target] = {}
    for target in sorted(targets, key=lambda t: (t.scene_id, t.im_id, t.obj_id)):
        key = (*target.image, target.obj_id)
        if key in unique:
            raise InputError(f"{path}: object {target.obj_id} of scene {key[0]}, image {key[1]} is named twice")
        unique[key] = target
    return tuple(unique.values())


def _first_images(targets: tuple[Target, ...], limit: int | None) -> tuple[Target, ...]:
    if limit is None:
        return targets
    if limit < 0:
        raise InputError(f"limit: wanted a number of images >= 0, got {limit}")
    kept = set(sorted({target.image for target in targets})[:limit])
    return tuple(target for target in targets if target.image in kept)


def _truth(index: int, gt: Any, info: Any, where: str) -> Truth:
    try:
        obj_id, R, t = int(gt["obj_id"]), gt["cam_R_m2c"], gt["cam_t_m2c"]
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{where}: wanted obj_id, cam_R_m2c and cam_t_m2c, got {gt!r:.80}") from None
    R = nearest_rotation(numbers(R, 9, f"{where}: cam_R_m2c").reshape(3, 3), f"{where}: cam_R_m2c")
    T = se3.from_rt(R, numbers(t, 3, f"{where}: cam_t_m2c") * MM)
    T.setflags(write=False)
    visible = info.get("visib_fract")
    return Truth(
        index=index,
        obj_id=obj_id,
        T_camera_object=T,
        visib_fract=None if visible is None else float(visible),
        bbox_visib=_box(info.get("bbox_visib"), f"{where}: bbox_visib"),
        bbox_obj=_box(info.get("bbox_obj"), f"{where}: bbox_obj"),
    )


def _box(values: Any, where: str) -> tuple[float, float, float, float] | None:
    """BOP writes -1 or an empty box for what is not in the picture."""
    if values is None:
        return None
    x, y, width, height = numbers(values, 4, where).tolist()
    return (x, y, width, height) if width > 0 and height > 0 else None
