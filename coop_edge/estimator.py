"""Goes from images to poses: ``Estimator``. Orchestration only; the mathematics is in ``stages`` and below."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.backend import Backend, probe_networks
from coop_edge.base.compile_time import working_time
from coop_edge.base.hardware import available_cores
from coop_edge.config import EstimatorConfig
from coop_edge.errors import BundleError, EngineError, InputError
from coop_edge.finding import Finder, Progress
from coop_edge.following import Follower
from coop_edge.inputs import as_sequence, read_depth, read_image, read_options
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.pipeline import Pipeline
from coop_edge.registry import ObjectRegistry, TemplateSource, load_mesh
from coop_edge.runtime.bundle import Bundle
from coop_edge.stages.bounds import Wanted
from coop_edge.stages.features import FeatureExtractor
from coop_edge.stages.frame import Frame
from coop_edge.templates import VIEWPOINTS, MakeRenderer, TemplateSet
from coop_edge.types import Camera, Detection, PoseEstimate
from coop_edge.visual.overlay import drawable

log = logging.getLogger("coop_edge")

FEATURE_BATCH = 16
"""Images that ``features`` sees in one run: its first maps are large, and more at once are not faster on a CPU."""


class Estimator:
    """Estimates 6-DoF poses of objects of which only the meshes are known. Make it with ``from_engines``.

        with Estimator.from_engines("coop-xs") as estimator:
            estimator.add_object("cup", "cup.ply", unit="mm")
            results = estimator.estimate(image, camera, [Detection("cup", bbox=(x, y, w, h))])
            results = estimator.track(next_image, camera, results)

    An Estimator serves one thread at a time: a call from another thread while one is running raises EngineError. For
    several threads make one Estimator in each. It cannot be used in a forked child process, which has to make its own.

    Args:
        bundle: the engines.
        config: the options.
        backend: what runs it, and why that was picked.
        threads: of the CPU; 0 = all cores.

    Raises:
        BundleError: the networks want another number of templates than this coop_edge makes.
    """

    def __init__(self, bundle: Bundle, backend: Backend, config: EstimatorConfig, threads: int) -> None:
        if bundle.template.views != len(VIEWPOINTS):
            raise BundleError(
                f"{bundle.manifest}: its networks want {bundle.template.views} templates per object, this coop_edge "
                f"makes {len(VIEWPOINTS)}; take the version of coop_edge that the bundle was exported with"
            )
        self.bundle, self.backend, self.config = bundle, backend, config
        self._turn, self._open, self._threads, self._on_device = threading.Lock(), True, threads, backend.here()
        self._process = os.getpid()
        with contextlib.ExitStack() as stack:
            self._ops, solver = backend.operations(), backend.pnp_solver(threads=threads)
            stack.callback(getattr(solver, "close", lambda: None))  # the CPU's has threads of its own
            runners = {
                role: stack.enter_context(backend.runner(bundle, role, threads=threads)) for role in bundle.networks
            }
            batch = min(config.advanced.refine.micro_batch, FEATURE_BATCH)
            runner = runners.get("features")
            features = None if runner is None else FeatureExtractor(self._ops, runner, batch)
            self._pipeline = Pipeline(bundle, config, self._ops, solver, runners, features)
            self._registry = ObjectRegistry(
                bundle,
                backend,
                self._ops,
                runners["coarse_encoder"],
                micro_batch=config.advanced.coarse.micro_batch,
                threads=threads,
                features=features,
            )
            stack.callback(self._registry.clear)
            self._parts = stack.pop_all()

    @classmethod
    def from_engines(
        cls,
        engines: str | os.PathLike[str],
        device: str = "auto",
        config: EstimatorConfig | Mapping[str, Any] | None = None,
        threads: int = 0,
    ) -> Estimator:
        """Load a bundle of networks; nothing is compiled or built (``warmup`` compiles).

        Args:
            engines: name of an installed bundle, or a bundle's folder.
            device: "cpu", "cuda" or "auto". "cuda" is the GPU that is current in CuPy; it needs CuPy, and TensorRT
                plans of the networks or ONNX Runtime's CUDA provider. "auto" takes it where all that works, else the
                CPU, and says why in the log and in ``backend``.
            config: an EstimatorConfig, or a mapping of its options; the defaults if None.
            threads: of the CPU, for networks, renderer and solver alike, at most as many as cores; 0 leaves it to each
                of them (all cores).

        Raises:
            InputError: ``device`` or ``threads`` is not one of the values above.
            ConfigError: an option has an unknown name, or a value out of its range.
            BundleError: there is no such bundle (the message lists those that are installed), or its files are missing,
                damaged or replaced.
            EngineError: TensorRT or ONNX Runtime cannot load a network.
            BackendUnavailable: the device or a package that it needs is missing; the message names it and how to get
                it.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
            raise InputError(f"threads: wanted a number of threads, or 0 for all cores, got {threads!r}")
        if threads > (cores := available_cores()):
            raise InputError(
                f"threads: {threads} are more than the {cores} cores that this process may use; 0 takes all"
            )
        if not isinstance(engines, (str, os.PathLike)):
            raise InputError(f"engines: wanted the name or the folder of a bundle, got {type(engines).__name__}")
        options = read_options(config)
        # A runner compares its graph with the manifest's hash before it loads it: no need to read all of them twice.
        bundle = Bundle.load(engines if isinstance(engines, str) else Path(engines), check_hashes=False)
        backend = Backend.pick(device, probe=functools.partial(probe_networks, bundle))
        return cls(bundle, backend, options, threads)

    def __repr__(self) -> str:
        """Return one line: engines, device, objects."""
        state = "" if self._open else ", closed"
        named = ", ".join(self._registry.meshes) or "none"
        return f"Estimator({self.bundle.name} {self.bundle.version} on {self.backend.name}, objects: {named}{state})"

    @property
    def objects(self) -> Mapping[str, Mesh]:
        """Return the objects registered now: name -> mesh (metres), in the order in which they were added."""
        return self._registry.meshes

    def add_object(
        self,
        name: str,
        mesh: Any,
        *,
        unit: str | None = None,
        symmetries: Symmetries | None = None,
        templates: TemplateSource | None = None,
    ) -> None:
        """Register an object: render its templates, unless they are given, and encode them once.

        After an error nothing has been registered.

        Args:
            name: what detections call it.
            mesh: a mesh file or a trimesh object, with its ``unit`` ("m", "cm", "mm", "in"; no default), or a ``Mesh``
                without. ``Mesh.load`` has further options.
            symmetries: of the object, in its own frame; none if None. ``load_symmetries`` reads those of BOP's files.
            templates: a file of ``coop-edge onboard``, or a TemplateSet, of this mesh and for these engines. It carries
                the object's symmetries, and saves the time of rendering. The mesh is needed all the same.

        Raises:
            InputError: the name is taken, the unit is missing, or arguments exclude each other.
            MeshError: the mesh is missing or damaged, holds what is not read, or has a diameter outside 5 mm to 5 m.
            BundleError: the templates are of another mesh, or were made for other engines.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("add_object"):
            self._registry.add(name, mesh, unit=unit, symmetries=symmetries, templates=templates)

    def onboard(
        self,
        mesh: Any,
        *,
        unit: str | None = None,
        symmetries: Symmetries | None = None,
        renderer: MakeRenderer | None = None,
        supersample: int = 3,
    ) -> TemplateSet:
        """Make the templates and views of an object that ``add_object`` takes, to be kept in a file; register nothing.

        With ``add_object(..., templates=...)`` an object is then added in a tenth of the time, on any machine with the
        same engines. Poses are the same.

        Args:
            mesh, unit, symmetries: as for ``add_object``.
            renderer: makes what renders the templates (see ``TemplateSet.render``); the Estimator's own if None.
            supersample: samples per pixel side of the templates: 1, 3 or 5.

        Raises:
            InputError: the unit is missing, or ``supersample`` is not 1, 3 or 5.
            MeshError: as for ``add_object``.
            EngineError: the Estimator is closed, or another thread is using it.

        Example:
            >>> estimator.onboard("cup.ply", unit="mm").save("cup.npz")
        """
        with self._call("onboard"):
            name = Path(mesh).stem if isinstance(mesh, (str, os.PathLike)) else "mesh"
            loaded = load_mesh(name, mesh, unit)
            return self._registry.onboard(loaded, symmetries, renderer=renderer, supersample=supersample)

    def remove_object(self, name: str) -> None:
        """Forget an object.

        Raises:
            InputError: no object of this name is registered.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("remove_object"):
            self._registry.remove(name)

    def estimate(
        self,
        image: Any,
        camera: Camera,
        detections: Sequence[Detection],
        depth: Any = None,
        depth_unit: str | float | None = None,
        *,
        recover: bool = False,
    ) -> list[PoseEstimate]:
        """Estimate the poses of N detected objects, in the order of the detections; N = 0 is legal.

        All detections run as one batch, and do not influence each other (networks may round differently in batches of
        other sizes). An object that is not found comes back with ``success=False`` and a reason.

        Args:
            image: RGB uint8 [height,width,3], any strides (what OpenCV reads is BGR: pass ``image[..., ::-1]``); for an
                Estimator on a GPU also an array on that GPU (CuPy, PyTorch, PyCUDA), which is read where it is, after
                what CuPy's current stream has before it.
            camera: of the image.
            detections: of registered objects, several of one object allowed.
            recover: search around a box, farther and farther, for an object that is not found in it;
                ``PoseEstimate.recovered`` is True where that helped.
            depth: [height,width] along the optical axis, registered to the image, or None: float32 metres, or uint16
                with ``depth_unit`` ("mm", "cm", "m", or metres per step); 0 and NaN are unknown. Where depth is known
                for too little of an object, its pose comes from the image alone, and ``used_depth`` is False.

        Raises:
            InputError: the image is not RGB uint8 of the camera's size, a box lies outside it, an object is not
                registered, or the depth does not fit the image.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("estimate"):
            picture, measured = self._read(image, camera, depth, depth_unit)
            found = as_sequence(detections, Detection, "detections")
            for detection in found:
                detection.doubt(camera)
            index = self._registry.indices([detection.object for detection in found])
            if not found:
                return []
            finder = Finder(self._pipeline) if recover else None
            frame = self._frame(picture, camera, measured)
            results = self._pipeline.estimate(frame, found, index)
            if finder is not None:
                results = [finder.recover(frame, *each) for each in zip(results, found, index.tolist(), strict=True)]
            return self._drawable(results, image, camera, found)

    def find(
        self,
        image: Any,
        camera: Camera,
        objects: Sequence[str] | None = None,
        *,
        max_instances: int = 1,
        region: Sequence[float] | None = None,
        depth: Any = None,
        depth_unit: str | float | None = None,
        progress: Progress | None = None,
    ) -> list[PoseEstimate]:
        """Find objects in an image without boxes: their poses, object by object, best first.

        Every object has at least one result: one that is not found comes back with ``success=False`` and a reason.
        Results of one object overlap by less than half, and two objects are never found in one place. Options:
        ``EstimatorConfig.find``.

        Args:
            image, camera: as for ``estimate``.
            objects: names; all that are registered if None.
            max_instances: most results per object.
            region: (x, y, width, height) pixels, in which the middle of an object's box is to lie; the whole image if
                None.
            depth, depth_unit: as for ``estimate``; they rule out places where an object would be larger or smaller.
            progress: called with the number of objects done and that of all.

        Raises:
            InputError: no object is registered, the region lies outside the image, an object is larger than the image
                at every distance searched, or image or depth are not as for ``estimate``.
            BundleError: the engines have no ``features``.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("find"):
            return self._found("find", image, camera, objects, max_instances, region, (depth, depth_unit), progress)[0]

    def find_with_boxes(
        self,
        image: Any,
        camera: Camera,
        objects: Sequence[str] | None = None,
        *,
        max_instances: int = 1,
        region: Sequence[float] | None = None,
        depth: Any = None,
        depth_unit: str | float | None = None,
        progress: Progress | None = None,
    ) -> tuple[list[PoseEstimate], list[Detection]]:
        """Do what ``find`` does, and return the boxes of all places that were tried as well, as ``detect`` has them.

        Arguments and errors are those of ``find``.
        """
        with self._call("find_with_boxes"):
            given = (depth, depth_unit)
            return self._found("find_with_boxes", image, camera, objects, max_instances, region, given, progress)

    def detect(
        self,
        image: Any,
        camera: Camera,
        objects: Sequence[str] | None = None,
        *,
        max_instances: int = 1,
        region: Sequence[float] | None = None,
        depth: Any = None,
        depth_unit: str | float | None = None,
        progress: Progress | None = None,
    ) -> list[Detection]:
        """Find boxes of objects in an image, object by object, best first.

        Does what ``find`` does without the last stages: poses are refined once and none is refused. A box is that of
        the object at such a pose, hidden parts included, as far as it lies in the image; its score, in [0, 1], is the
        agreement of the image and a render there. Objects that are not in the image have boxes too, with low scores.
        Arguments and errors are those of ``find``.
        """
        with self._call("detect"):
            finder, frame, wanted = self._search(
                "detect", image, camera, objects, max_instances, region, (depth, depth_unit)
            )
            return finder.detect(frame, wanted, progress)

    def track(
        self,
        image: Any,
        camera: Camera,
        results: Sequence[PoseEstimate],
        depth: Any = None,
        depth_unit: str | float | None = None,
        *,
        relocate: bool = False,
        budget_s: float = 1.0,
    ) -> list[PoseEstimate]:
        """Follow the poses of ``results`` into the next image, in their order; N = 0 is legal.

        Each pose is refined for ``RefineConfig.track_iterations``, two by default, from where the object would be if it
        moved on as before (``advanced.track.predict``). If the pose found there is refused, places around it are tried
        (``advanced.track.search``). An object that is not found again, or was not found before, comes back as
        ``success=False`` with a reason that begins with "lost".

        Args:
            image, camera, depth, depth_unit: as for ``estimate``.
            results: of ``estimate``, ``find`` or ``track``.
            relocate: search for lost objects, near where they were last, and then farther away, in the image in which
                they are lost and in every fifth after it (``advanced.track.relocate_every``);
                ``PoseEstimate.recovered`` is True where that helped.
            budget_s: seconds after the first search of a call, later than which no other begins.

        Raises:
            InputError: ``results`` are not PoseEstimates of registered objects, ``budget_s`` is negative, or image or
                depth are not as for ``estimate``.
            BundleError: ``relocate`` is asked for and the engines have no ``features``.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("track"):
            picture, measured = self._read(image, camera, depth, depth_unit)
            if isinstance(budget_s, bool) or not isinstance(budget_s, (int, float)) or not budget_s >= 0:
                raise InputError(f"budget_s: wanted seconds >= 0, got {budget_s!r}")
            previous = as_sequence(results, PoseEstimate, "results")
            index = self._registry.indices([result.object for result in previous])
            if not previous:
                return []
            follower, frame = Follower(self._pipeline), self._frame(picture, camera, measured)
            out = follower.follow(frame, previous, index)
            if relocate:
                out = follower.relocate(frame, out, index, budget_s)
            return self._drawable(out, image, camera, [None] * len(out))

    def similar_views(
        self, image: Any, camera: Camera, detection: Detection, count: int = 8
    ) -> list[tuple[float, NDArray[np.float64]]] | None:
        """Return the views of a detected object that look most like it, best first; for inspection.

        They are what ``estimate`` begins with. Engines without ``features`` have none.

        Args:
            image, camera: as for ``estimate``.
            detection: whose box or mask is looked at.
            count: how many views, at most.

        Returns:
            Similarity, in [-1, 1], and T_camera_object float64 [4,4], metres, of each.

        Raises:
            InputError: the image, the detection or ``count`` is not as described.
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("similar_views"):
            picture, _ = self._read(image, camera, None, None)
            (index,) = self._registry.indices([detection.object])
            found = self._pipeline.retrieved(self._frame(picture, camera, None), detection, int(index), count)
            return (
                None if found is None else list(zip(found.template_score.tolist(), found.T_camera_object, strict=True))
            )

    def warmup(self) -> dict[str, float]:
        """Compile all kernels and run each stage once, so that the first frame takes no longer than the others.

        Call it after the last ``add_object``.

        Returns:
            Seconds that each part took, without compilation: "objects" (the renderer of the registered ones), "crop",
            "coarse", "refine", "outline", "select".

        Raises:
            EngineError: the Estimator is closed, or another thread is using it.
        """
        with self._call("warmup"):
            start = working_time()
            if self._registry.meshes:
                self._registry.renderer()
            seconds = {"objects": working_time() - start}
            renderer = functools.partial(self.backend.renderer, threads=self._threads)
            times = self._pipeline.warmup(renderer)
            return seconds | {f.name.removesuffix("_ms"): getattr(times, f.name) / 1e3 for f in fields(times)}

    def close(self) -> None:
        """Release networks, threads and objects; may be called more than once. A closed Estimator stays closed.

        Raises:
            EngineError: another thread is using it.
        """
        with self._call("close", needs_open=False):
            self._open = False
            self._parts.close()

    def __enter__(self) -> Estimator:
        with self._call("with"):
            return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _call(self, what: str, *, needs_open: bool = True) -> Iterator[None]:
        """One call at a time, and none after ``close`` or in a forked child."""
        if self._process != os.getpid():  # threads of networks and solvers did not come along: they would be waited for
            raise EngineError(
                f"{what}: this Estimator belongs to process {self._process}, of which this one was forked; make one in "
                "each process, after the fork, or start processes by multiprocessing's 'spawn'"
            )
        if not self._turn.acquire(blocking=False):
            raise EngineError(
                f"{what}: called by thread {threading.current_thread().name!r} while another call of this Estimator is "
                "running; one Estimator serves one thread at a time: make one per thread, or share it under a lock"
            )
        try:
            if needs_open and not self._open:
                raise EngineError(f"{what}: this Estimator is closed; make a new one with Estimator.from_engines")
            with self._on_device():
                yield
        finally:
            self._turn.release()

    def _drawable(
        self, results: Sequence[PoseEstimate], image: Any, camera: Camera, found: Sequence[Detection | None]
    ) -> list[PoseEstimate]:
        renderer = functools.partial(self.backend.renderer, threads=self._threads)
        shown = image if isinstance(image, np.ndarray) else None
        return drawable(results, camera, found, self._registry.meshes, renderer=renderer, image=shown)

    def _found(
        self,
        what: str,
        image: Any,
        camera: Camera,
        objects: Any,
        max_instances: Any,
        region: Any,
        depth: Any,
        progress: Any,
    ) -> tuple[list[PoseEstimate], list[Detection]]:
        finder, frame, wanted = self._search(what, image, camera, objects, max_instances, region, depth)
        results, boxes = finder.find(frame, wanted, progress)
        return self._drawable(results, image, camera, [None] * len(results)), boxes

    def _search(
        self, what: str, image: Any, camera: Camera, objects: Any, max_instances: Any, region: Any, depth: Any
    ) -> tuple[Finder, Frame, Wanted]:
        """What searches an image, the image, and what is looked for in it. Raises InputError, BundleError."""
        (picture, measured), finder = self._read(image, camera, *depth), Finder(self._pipeline)
        if not self._registry.meshes:
            raise InputError(f"{what}: there are no objects; add_object adds one")
        names = list(self._registry.meshes) if objects is None else as_sequence(objects, str, "objects")
        index = self._registry.indices(dict.fromkeys(names))
        return finder, self._frame(picture, camera, measured), Wanted.checked(index, max_instances, region, camera)

    def _read(self, image: Any, camera: Camera, depth: Any, unit: str | float | None) -> tuple[Any, Any]:
        picture = read_image(image, camera, self.backend, self._ops)
        return picture, read_depth(depth, camera, unit, self.backend, self._ops)

    def _frame(self, image: Any, camera: Camera, depth: Any) -> Frame:
        return Frame(image, camera, self._registry.models, self._registry.renderer(), depth)
