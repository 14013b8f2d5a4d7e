"""Keeps the objects that an Estimator knows by name: their meshes, and what the stages need of them."""

from __future__ import annotations

import difflib
import functools
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.backend import Backend
from coop_edge.errors import BundleError, InputError
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.ops.base import Operations
from coop_edge.render.base import Renderer
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.network import FEATURES
from coop_edge.stages.features import FeatureExtractor
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.views import MAP, MARGIN, TURNS, Views
from coop_edge.templates.template_set import MakeRenderer, TemplateSet
from coop_edge.templates.viewpoints import VIEWPOINTS
from coop_edge.types.checks import real

log = logging.getLogger("coop_edge")

TemplateSource = TemplateSet | str | os.PathLike[str]


class ObjectRegistry:
    """Holds objects in the order in which they were added; in the stages an object is its place in that order.

    Args:
        backend: of one device.
        ops: of one device.
        encoder: open runner of the bundle's ``coarse_encoder``, which describes templates in runs of ``micro_batch``.
        threads: of the renderer on the CPU.
        features: describes views; None = the bundle has none.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        ops: Operations,
        encoder: Runner,
        *,
        micro_batch: int,
        threads: int,
        features: FeatureExtractor | None = None,
    ) -> None:
        self._bundle, self._backend, self._ops, self._encoder = bundle, backend, ops, encoder
        self._micro_batch, self._threads, self._features = micro_batch, threads, features
        self._meshes: dict[str, Mesh] = {}
        self._models: dict[str, ObjectModel] = {}
        self._renderer: Renderer | None = None

    @property
    def meshes(self) -> Mapping[str, Mesh]:
        """Return name -> mesh, read-only, as they are now."""
        return MappingProxyType(dict(self._meshes))

    @property
    def models(self) -> tuple[ObjectModel, ...]:
        """Return what the stages need of each object, in the order in which they were added."""
        return tuple(self._models.values())

    def renderer(self) -> Renderer:
        """Return the renderer of all meshes, in the order of ``models``; made when first asked for after a change."""
        if self._renderer is None:
            renderer = self._backend.renderer(list(self._meshes.values()), threads=self._threads)
            self._ops.wait()  # the next image may come on another stream
            self._renderer = renderer
        return self._renderer

    def add(
        self, name: str, mesh: Any, *, unit: str | None, symmetries: Symmetries | None, templates: TemplateSource | None
    ) -> None:
        """Add an object, as ``Estimator.add_object`` says. Either all of it happens or nothing.

        Raises:
            CoopEdgeError: what ``Estimator.add_object`` raises.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"name: wanted a non-empty text, got {name!r}")
        if name in self._meshes:
            raise InputError(f"name: there is an object {name!r} already; remove_object({name!r}) first")
        if templates is not None and symmetries is not None:
            raise InputError(
                f"object {name!r}: templates carry the symmetries they were made with; give one of the two"
            )
        loaded = load_mesh(name, mesh, unit)
        made = self._render(loaded, symmetries) if templates is None else load_templates(name, templates)
        made.check_mesh(loaded)
        check_templates(name, made, self._bundle)
        model = ObjectModel.describe(
            name, loaded, made, self._encoder, self._ops, micro_batch=self._micro_batch, views=self._views(loaded, made)
        )
        self._ops.wait()  # images may come on another stream than the current one
        self._meshes[name], self._models[name], self._renderer = loaded, model, None
        log.info("object %r is %s", name, loaded.summary)

    def onboard(self, mesh: Mesh, symmetries: Symmetries | None, **rendering: Any) -> TemplateSet:
        """Make an object's templates, and describe its views if the bundle has ``features``; nothing is added."""
        made = self._render(mesh, symmetries, **rendering)
        views = self._views(mesh, made)
        if views is None:
            return made
        settings = {**made.settings, "view_descriptors": view_settings(self._bundle)}
        return replace(made, settings=settings, view_descriptors=self._ops.to_host(views.descriptors))

    def remove(self, name: str) -> None:
        """Forget an object.

        Raises:
            InputError: if there is none of this name.
        """
        self.indices([name])
        del self._meshes[name], self._models[name]
        self._renderer = None

    def clear(self) -> None:
        """Forget all objects."""
        self._meshes.clear()
        self._models.clear()
        self._renderer = None

    def indices(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return the places of the objects ``names`` [N].

        Raises:
            InputError: with the names that there are.
        """
        places = {name: place for place, name in enumerate(self._meshes)}
        for name in names:
            if name not in places:
                close = difflib.get_close_matches(name, places, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                known = f"the objects are {', '.join(map(repr, places))}" if places else "add_object adds one"
                raise InputError(f"unknown object {name!r}; {hint}{known}")
        return np.array([places[name] for name in names], np.int64)

    def _views(self, mesh: Mesh, templates: TemplateSet) -> Views | None:
        """Return what retrieval needs: as the templates hold it, or else described now."""
        stored = templates.view_descriptors
        if self._features is None:
            if stored is not None:
                log.info(
                    "templates of %r describe views for retrieval, which the engines %s do not do: left out",
                    mesh.name,
                    self._bundle.name,
                )
            return None
        if stored is not None:
            descriptors = self._ops.upload(stored)
            return Views.described(descriptors, mesh, templates.T_camera_object, self._bundle.input_size)
        renderer = functools.partial(self._backend.renderer, threads=self._threads)
        size = self._bundle.input_size
        return Views.describe(mesh, templates.T_camera_object, size, renderer=renderer, features=self._features)

    def _render(
        self,
        mesh: Mesh,
        symmetries: Symmetries | None,
        *,
        renderer: MakeRenderer | None = None,
        supersample: int = 3,
    ) -> TemplateSet:
        settings = self._bundle.template
        return TemplateSet.render(
            mesh,
            self._bundle.input_size,
            renderer=renderer or functools.partial(self._backend.renderer, threads=self._threads),
            symmetries=symmetries,
            supersample=supersample,
            margin=settings.margin,
            field_of_view=settings.field_of_view,
        )


def load_mesh(name: str, mesh: Any, unit: str | None) -> Mesh:
    """Return a ``Mesh`` as it is, or one from a file or a trimesh object in ``unit``.

    Raises:
        InputError: the mesh or its unit is missing, or a ``Mesh`` comes with a unit.
        MeshError: the file cannot be used.
    """
    if mesh is None:
        raise InputError(f"object {name!r}: wanted its mesh; templates alone cannot be rendered at a new pose")
    if isinstance(mesh, Mesh):
        if unit is not None:
            raise InputError(f"object {name!r}: a Mesh is in metres already, leave out unit={unit!r}")
        return mesh
    if unit is None:
        raise InputError(f"object {name!r}: wanted unit='m', 'cm', 'mm' or 'in', that of the mesh; there is no default")
    return Mesh.load(mesh, unit=unit, name=name)


def load_templates(name: str, templates: Any) -> TemplateSet:
    """Return a TemplateSet as it is, or one from a file.

    Raises:
        InputError: ``templates`` is neither.
        BundleError: the file is missing or damaged.
    """
    if isinstance(templates, TemplateSet):
        return templates
    if not isinstance(templates, (str, os.PathLike)):
        given = type(templates).__name__
        raise InputError(f"object {name!r}: templates: wanted a .npz file or a TemplateSet, got {given}")
    return TemplateSet.load(Path(templates).expanduser())


def check_templates(name: str, templates: TemplateSet, bundle: Bundle) -> None:
    """Raise BundleError unless templates were made the way the bundle's networks were trained with."""
    settings = bundle.template
    wanted = {
        "views": settings.views,
        "size": bundle.input_size,
        "margin": settings.margin,
        "field_of_view": settings.field_of_view,
    }
    given = {**templates.settings, "views": len(templates.rgb), "size": templates.size}
    wrong = [
        f"{key} {given.get(key)} (wanted {value:g})"
        for key, value in wanted.items()
        if not real(given.get(key)) or not math.isclose(given[key], value, rel_tol=1e-9)
    ]
    if templates.view_descriptors is not None and "features" in bundle.networks:
        wrong += _wrong_views(templates, bundle)
    if wrong:
        raise BundleError(
            f"templates of {name!r} were not made for the engines {bundle.name}: {', '.join(wrong)}; leave out "
            f"templates= to have them rendered, or make them again: coop-edge onboard MESH --unit UNIT "
            f"--engines {bundle.name} -o TEMPLATES.npz"
        )


def view_settings(bundle: Bundle) -> dict[str, Any]:
    """Return what descriptors of views are made by; those made by anything else cannot be compared with an image."""
    return {"network": bundle.network("features").sha256, "map": MAP, "turns": TURNS, "margin": MARGIN}


def _wrong_views(templates: TemplateSet, bundle: Bundle) -> list[str]:
    """Return in what the descriptors of views are not those of the bundle's ``features``."""
    wanted, given = view_settings(bundle), templates.settings.get("view_descriptors")
    given = given if isinstance(given, Mapping) else {}
    wrong = [
        f"views described with {key} {str(given.get(key))[:12]} (wanted {str(value)[:12]})"
        for key, value in wanted.items()
        if given.get(key) != value
    ]
    channels, cell = FEATURES[MAP]
    side = bundle.input_size // cell
    shape = len(VIEWPOINTS) * TURNS, side, side, channels
    assert templates.view_descriptors is not None
    if templates.view_descriptors.shape != shape:
        wrong.append(f"descriptors of views {list(templates.view_descriptors.shape)} (wanted {list(shape)})")
    elif not np.isfinite(templates.view_descriptors).all():
        wrong.append("descriptors of views that are not finite")
    return wrong
