"""Renders the templates of an object, once, and keeps them in a file: ``TemplateSet``."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.version import __version__
from coop_edge.errors import BundleError, InputError
from coop_edge.geometry import se3
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.render.base import Renderer, Shading, on_host
from coop_edge.templates import storage, viewpoints
from coop_edge.templates.viewpoints import (
    DEFAULT_FIELD_OF_VIEW,
    DEFAULT_MARGIN,
    DEFAULT_SIZE,
    VIEWPOINTS,
    template_camera,
)

MAX_BYTES = 1 << 30
"""Bound on the arrays of a file: templates of up to 1300 pixels a side."""
MakeRenderer = Callable[..., Renderer]
"""Called as ``make(mesh, shading=..., supersample=...)``: a Renderer class, or what makes one."""


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """The 42 templates of one object. Make it with ``Estimator.onboard``, ``render`` or ``load``.

    ``onboard`` also describes the object's views for retrieval (``view_descriptors``; ``settings["view_descriptors"]``
    says by which network and how); without them ``add_object`` does so, which takes seconds.

    Raises:
        InputError: the fields do not fit together.
    """

    rgb: NDArray[np.uint8]  # [42,S,S,3]; black off the object
    object_points: NDArray[np.float32]  # [42,S,S,3] metres, object's own frame; NaN off the object
    T_camera_object: NDArray[np.float64]  # [42,4,4]
    K: NDArray[np.float64]  # [3,3] pixels, one for all
    mesh_hash: str  # Mesh.hash of what was rendered
    diameter: float  # metres
    settings: Mapping[str, Any]  # how it was rendered; plain data
    symmetries: Symmetries = field(default_factory=Symmetries)
    name: str = ""
    view_descriptors: NDArray[np.float32] | None = None  # [W,h,w,C] of the 42 views in all their turns

    def __post_init__(self) -> None:
        self._check_arrays()
        se3.check_transform(self.T_camera_object)
        self._check_types()
        if not (np.isfinite(self.K).all() and math.isfinite(self.diameter) and self.diameter > 0):
            raise InputError("TemplateSet: K and diameter: wanted finite numbers and a positive diameter")
        if not isinstance(self.symmetries, Symmetries):
            raise InputError(f"TemplateSet.symmetries: wanted Symmetries, got {type(self.symmetries).__name__}")
        try:
            plain = json.loads(json.dumps(dict(self.settings)))
        except (TypeError, ValueError) as error:
            raise InputError(f"TemplateSet.settings: wanted plain data ({error})") from None
        object.__setattr__(self, "settings", MappingProxyType(plain))

    @classmethod
    def render(
        cls,
        mesh: Mesh,
        size: int = DEFAULT_SIZE,
        *,
        renderer: MakeRenderer | None = None,
        symmetries: Symmetries | None = None,
        supersample: int = 3,
        shading: Shading | None = None,
        margin: float = DEFAULT_MARGIN,
        field_of_view: float = DEFAULT_FIELD_OF_VIEW,
    ) -> TemplateSet:
        """Render the templates of ``mesh``.

        Args:
            mesh: a ``Mesh``.
            size: side S of a template, pixels.
            renderer: a Renderer class, or what makes one when called as ``renderer(mesh, shading=...,
                supersample=...)``; the CPU renderer if None.
            symmetries: of the object; they are kept with the templates. None: none.
            supersample: samples per pixel side for RGB: 1, 3 or 5.
            shading: the renderer's two lights; the default ones if None.
            margin: side of a template over the diameter of the bounding sphere's image; see ``template_camera``.
            field_of_view: of a template, degrees.

        Raises:
            InputError: ``mesh`` is no Mesh, or another argument is out of its range.
            BackendUnavailable: the renderer cannot run here.

        Example:
            >>> templates = TemplateSet.render(Mesh.load("cup.ply", unit="mm"), 128)
            >>> templates.save("cup.npz")
        """
        if not isinstance(mesh, Mesh):
            raise InputError(f"mesh: wanted a coop_edge Mesh (Mesh.load makes one), got {type(mesh).__name__}")
        if renderer is None:
            from coop_edge.render import CpuRenderer

            renderer = CpuRenderer
        if not callable(renderer):
            raise InputError(
                f"renderer: wanted a Renderer class or what makes one (Backend.pick('cpu').renderer), got {renderer!r}"
            )
        if symmetries is not None and not isinstance(symmetries, Symmetries):
            raise InputError(f"symmetries: wanted Symmetries or None, got {type(symmetries).__name__}")
        poses, K = template_camera(mesh, size, margin=margin, field_of_view=field_of_view)
        shading = shading or Shading()
        drawer = renderer(mesh, shading=shading, supersample=supersample)
        result = drawer.render(poses, K, size)
        settings = {
            "coop_edge": __version__,
            "renderer": type(drawer).__name__,
            "viewpoints": viewpoints.VERSION,
            "size": int(size),
            "margin": float(margin),
            "field_of_view": float(field_of_view),
            "distance": float(poses[0, 2, 3] + poses[0, 2, :3] @ mesh.centre),
            "ambient": float(shading.ambient),
            "diffuse": float(shading.diffuse),
            "supersample": int(supersample),
        }
        return cls(
            rgb=on_host(result.rgb),
            object_points=on_host(result.object_points()),
            T_camera_object=poses,
            K=K,
            mesh_hash=mesh.hash,
            diameter=mesh.diameter,
            settings=settings,
            symmetries=symmetries or Symmetries(),
            name=mesh.name,
        )

    def _check_arrays(self) -> None:
        """Raise InputError unless the arrays are of their shapes and types; from then on they are read-only."""
        n = len(VIEWPOINTS)
        size = self.rgb.shape[1] if isinstance(self.rgb, np.ndarray) and self.rgb.ndim == 4 else 0
        wanted: list[tuple[str, tuple[int, ...], Any]] = [
            ("rgb", (n, size, size, 3), np.uint8),
            ("object_points", (n, size, size, 3), np.float32),
            ("T_camera_object", (n, 4, 4), np.float64),
            ("K", (3, 3), np.float64),
        ]
        if self.view_descriptors is not None:
            given = np.shape(self.view_descriptors)
            whole = len(given) == 4 and given[0] and not given[0] % n
            wanted.append(("view_descriptors", given if whole else (n, 0, 0, 0), np.float32))
        for name, shape, dtype in wanted:
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype or not array.size:
                got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                text = f"{np.dtype(dtype).name} {list(shape)}".replace("0, 0, 3", "S, S, 3")
                text = text.replace("42, 0, 0, 0", "a multiple of 42, h, w, C")
                raise InputError(f"TemplateSet.{name}: wanted {text}, got {got}")
            object.__setattr__(self, name, np.ascontiguousarray(array))
            getattr(self, name).setflags(write=False)

    def _check_types(self) -> None:
        """Raise InputError unless the plain fields are of their types."""
        for key, kind, wanted in (
            ("mesh_hash", str, "text"),
            ("diameter", (int, float, np.floating), "a number"),
            ("settings", Mapping, "a mapping"),
            ("name", str, "text"),
        ):
            value = getattr(self, key)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"TemplateSet.{key}: wanted {wanted}, got {type(value).__name__}")

    @property
    def size(self) -> int:
        """Return the side S of a template, pixels."""
        return int(self.rgb.shape[1])

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Return the silhouettes, bool [42,S,S]."""
        return np.asarray(np.isfinite(self.object_points[..., 0]))

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of all in the set: images, points, poses, K, mesh hash, settings, symmetries, name."""
        digest = hashlib.sha256(b"coop_edge.TemplateSet/1")
        digest.update(json.dumps(self._plain(), sort_keys=True).encode())
        for array in self._arrays().values():
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check_mesh(self, mesh: Mesh) -> None:
        """Raise BundleError if these are not the templates of ``mesh`` (geometry, centre, colours and textures)."""
        if mesh.hash != self.mesh_hash:
            raise BundleError(
                f"templates {self.name!r} were rendered from another mesh (mesh hash {self.mesh_hash[:12]}, "
                f"diameter {self.diameter:.4g} m) than {mesh.name!r} (mesh hash {mesh.hash[:12]}, diameter "
                f"{mesh.diameter:.4g} m); render them again: coop-edge onboard MESH --unit UNIT -o TEMPLATES.npz"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a compressed .npz file, whole or not at all."""
        storage.write(path, {"hash": self.hash, **self._plain()}, self._arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> TemplateSet:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            max_bytes: bound on the arrays, unpacked; a small file can unpack to gigabytes.

        Raises:
            BundleError: the file is missing, damaged (the hash does not fit), larger than ``max_bytes``, not a template
                file, or written by a newer version.
        """
        path = Path(path)
        manifest, arrays = storage.read(path, max_bytes)
        try:
            discrete, continuous = arrays.pop("symmetries_discrete"), arrays.pop("symmetries_continuous")
            templates = cls(
                **arrays,
                symmetries=Symmetries(tuple(discrete), tuple((axis, offset) for axis, offset in continuous)),
                mesh_hash=manifest["mesh_hash"],
                diameter=manifest["diameter"],
                settings=manifest["settings"],
                name=manifest["name"],
            )
            fits = templates.hash == manifest["hash"]
            order = templates.settings.get("viewpoints", viewpoints.VERSION)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError, InputError) as error:
            raise BundleError(f"{path}: damaged ({type(error).__name__}: {error}); {storage.AGAIN}") from error
        if not fits:
            digest = str(manifest["hash"])[:12]
            raise BundleError(f"{path}: damaged, its content does not fit its hash {digest}; {storage.AGAIN}")
        if order != viewpoints.VERSION:  # "template 17" would mean another view
            raise BundleError(
                f"{path}: its viewpoints are of version {order!r}, wanted {viewpoints.VERSION}; {storage.AGAIN}"
            )
        return templates

    def _plain(self) -> dict[str, Any]:
        return {
            "mesh_hash": self.mesh_hash,
            "diameter": self.diameter,
            "settings": dict(self.settings),
            "name": self.name,
        }

    def _arrays(self) -> dict[str, NDArray[Any]]:
        discrete, continuous = self.symmetries.discrete, self.symmetries.continuous
        arrays: dict[str, NDArray[Any]] = {
            "rgb": self.rgb,
            "object_points": self.object_points,
            "T_camera_object": self.T_camera_object,
            "K": self.K,
            "symmetries_discrete": np.array(discrete, np.float64).reshape(-1, 4, 4),
            "symmetries_continuous": np.array(continuous, np.float64).reshape(-1, 2, 3),
        }
        if self.view_descriptors is not None:
            arrays["view_descriptors"] = self.view_descriptors
        return arrays
